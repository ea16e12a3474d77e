"""The rules file, `rules.yaml`: its text read and checked.

Knows YAML. Must not know which request a rule is for, or where the file lies: it gets text and gives rules, or one
sentence that says what is wrong with the text and in which line.

The YAML is composed to nodes, and the values are built from them in `values`, never by the YAML library: only nodes
have the line of each key, and this way PyYAML and ruamel.yaml (which mitmproxy's standalone binaries have instead)
mean the same.
"""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

from .keys import KEYS, NAME, REQUIRED
from .rule import Rule
from .values import (
    MistakeError,
    Node,
    expected,
    in_line,
    items,
    kind_of,
    pairs,
    quoted,
    read,
    read_mapping,
    suggestion,
)

# A file of rules is a page or two, and the YAML readers need seconds for a mebibyte.
LONGEST_FILE: Final = 256 * 1024


class RulesError(ValueError):
    """A mistake in the rules, in one plain line for a person: file and line, rule, key, what was found, what to try."""


def parse_rules(text: str, filename: str) -> tuple[Rule, ...]:
    """The rules of a file's text, in its order. RulesError, beginning with `filename:LINE:`, for the first mistake."""
    rules, mistakes = check_rules(text, filename)
    if mistakes:
        raise RulesError(mistakes[0])
    return rules


def check_rules(text: str, filename: str) -> tuple[tuple[Rule, ...], list[str]]:
    """The rules that are right, and a line for each mistake, as `RulesError` has it, rule by rule."""
    mistakes: list[MistakeError] = []
    try:
        rules = _rules(_compose(text), mistakes)
    except MistakeError as mistake:
        rules = ()
        mistakes.append(mistake)
    position = [filename if mistake.line is None else f"{filename}:{mistake.line}" for mistake in mistakes]
    return rules, [f"{where}: {mistake.what}" for where, mistake in zip(position, mistakes, strict=True)]


def with_value(rule: Rule, key: str, text: str) -> Rule:
    """The rule with one key changed to what `text` means as YAML. RulesError as for the file, without a position."""
    try:
        if key == "name":
            raise MistakeError("the name cannot be changed, because logs and commands use it")
        if key not in KEYS:
            raise MistakeError(f"unknown key {quoted(key)}{suggestion(key, KEYS)}")
        return replace(rule, **{key: read(key, KEYS[key].parse, _compose(text) or _Nothing())})
    except MistakeError as mistake:
        raise RulesError(f"rule {rule.name}: {mistake.what}") from None


# --- YAML to nodes --------------------------------------------------------------------------------------------------


class _Nothing:
    """The node of an empty text, for which the libraries have none."""

    id = "scalar"
    tag = "tag:yaml.org,2002:null"
    value = ""
    start_mark = None


def _compose(text: str) -> Node | None:
    """The text's one document as nodes, None if it is empty."""
    if len(text) > LONGEST_FILE:
        raise MistakeError("the text is longer than 256 KiB; is this a rules file?", line=1)
    try:
        try:
            return _compose_with_pyyaml(text)
        except ModuleNotFoundError:
            return _compose_with_ruamel(text)
    except ModuleNotFoundError:
        raise MistakeError("neither PyYAML nor ruamel.yaml is installed; `pip install pyyaml`") from None
    except RecursionError:
        raise MistakeError("nested too deeply for a rules file", line=1) from None
    except Exception as error:
        # Both libraries let ValueError and more through for odd escapes and directives, so everything is caught.
        raise MistakeError(f"this is not YAML: {_problem(error)}", line=_problem_line(error, text)) from None


def _compose_with_pyyaml(text: str) -> Node | None:
    yaml = import_module("yaml")
    node: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    return node


def _compose_with_ruamel(text: str) -> Node | None:
    reader = import_module("ruamel.yaml").YAML(typ="safe", pure=True)
    reader.version = (1, 1)  # PyYAML's version: `on` and `yes` are booleans.
    with warnings.catch_warnings():
        # An anchor defined twice is an error to PyYAML and a warning to ruamel.yaml.
        warnings.simplefilter("error")
        node: Node | None = reader.compose(text)
    return node


# Hints for common mistakes, by words in the libraries' messages.
_HINTS: Final = {
    "alias": "put a value that starts with * in quotes",
    "'\\t'": "indent with spaces, not with tabs",
    "mapping values": "is the line above indented as it should be, and is text with a colon in quotes?",
    "'%'": "put a value that starts with % in quotes",
    "another document": "leave the --- out",
}


def _problem(error: Exception) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).strip().split("\n")[0]
    context = getattr(error, "context", None) or ""
    if problem == "second occurrence":
        problem = context.partition(";")[0]
    told = " ".join(f"{context} {problem}".split())
    hint = next((hint for words, hint in _HINTS.items() if words in told), None)
    plain = " ".join((told if problem.startswith("but ") else problem).split())[:200]
    return f"{plain} ({hint})" if hint else plain


def _problem_line(error: Exception, text: str) -> int | None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    position = getattr(error, "position", None)
    return None if position is None else text.count("\n", 0, position) + 1


# --- Nodes to rules -------------------------------------------------------------------------------------------------


def _rules(root: Node | None, mistakes: list[MistakeError]) -> tuple[Rule, ...]:
    """The rules without a mistake; the mistakes of the others go into the list."""
    if root is None or kind_of(root) == "null":
        return ()
    if kind_of(root) != "mapping":
        raise expected("a mapping with the key 'rules'", root, "; put 'rules:' above it" * (kind_of(root) == "list"))
    listed: Node | None = None
    for key, key_node, value in pairs(root):
        if key != "rules":
            raise MistakeError(f"unknown key {quoted(key)}{suggestion(key, ['rules'])}", key_node)
        listed = value
    if listed is None:
        raise MistakeError("the key 'rules' is missing", root)
    if kind_of(listed) == "null":
        return ()
    nodes = read("rules", items, listed)
    found = [rule for number, node in enumerate(nodes, 1) for rule in _rule(node, number, mistakes)]
    return _distinct(found, mistakes)


def _rule(node: Node, number: int, mistakes: list[MistakeError]) -> list[tuple[Rule, Node]]:
    """The rule and its node; nothing if it has mistakes, which go into the list."""
    found: list[MistakeError] = []
    values: dict[str, Any] = {}
    try:
        values = read_mapping(node, {name: key.parse for name, key in KEYS.items()}, found)
        given = {key for key, _, _ in pairs(node)}
        found += [MistakeError(f"the key {key!r} is missing", node) for key in REQUIRED if key not in given]
    except MistakeError as mistake:
        found.append(mistake)
    for each in found:
        each.what = f"{_label(node, number)}: {each.what}"
    mistakes += found
    return [] if found else [(Rule(**values), node)]


def _label(node: Node, number: int) -> str:
    """What to call a rule that has a mistake: its name, if at least that is valid."""
    for key, value in node.value if node.id == "mapping" else ():
        if key.value == "name" and kind_of(value) == "text" and NAME.fullmatch(value.value[:81]):
            return f"rule {value.value[:80]}"
    return f"rule number {number}"


def _distinct(rules: Iterable[tuple[Rule, Node]], mistakes: list[MistakeError]) -> tuple[Rule, ...]:
    by_name: dict[str, tuple[Rule, Node]] = {}
    for rule, node in rules:
        first = by_name.setdefault(rule.name, (rule, node))
        if first[1] is not node:
            where = in_line(first[1])
            mistakes.append(MistakeError(f"rule {rule.name}: the rule{where} already has this name", node))
    return tuple(rule for rule, _ in by_name.values())
