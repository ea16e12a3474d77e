"""The rules file, `rules.yaml`: its text read and checked.

Knows YAML. Must not know which request a rule is for, or where the file is: it is given a path or a text, and returns
rules, or one sentence that says what is wrong and in which line.

The YAML is composed to nodes, and `parse` makes the values of them, not the YAML library: only nodes have the line
of each key, and this way PyYAML and ruamel.yaml (which mitmproxy's standalone binaries have instead) mean the same.
"""

import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

from ..wire.text import printable, reason
from .keys import KEYS, NAME, REQUIRED, conflict
from .parse import MistakeError, Node, expected, items, kind_of, line_of, or_null, read, read_mapping, unknown
from .rule import Rule

# Characters. A rules file has a page or two, and the YAML readers need seconds for a mebibyte.
LONGEST_FILE: Final = 256 * 1024
_TOO_LONG: Final = "it is longer than 256 KiB; is this a rules file?"
# Characters and values of a text with its aliases expanded. A text without aliases cannot reach it.
_MOST_WITH_ALIASES: Final = 2 * LONGEST_FILE
_NO_FILES: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class RulesError(ValueError):
    """A mistake in the rules, in one plain line for a person: file and line, rule, key, what was found, what to try."""


def read_file(path: Path) -> str:
    """The text of a rules file. RulesError if it cannot be read; never waits, whatever else is at that path."""
    try:
        _check_kind(path.stat())  # before it is opened, which may set off a device
        # What has become a pipe since would keep us waiting until somebody writes into it.
        with open(path, "rb", opener=_open_at_once) as file:
            _check_kind(os.fstat(file.fileno()))
            data = file.read(4 * LONGEST_FILE + 1)  # it may grow while it is read
        if len(data) > 4 * LONGEST_FILE:
            raise RulesError(_TOO_LONG)
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise RulesError(f"{path}: the rules cannot be read: {reason(error)}") from error


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RulesError(f"it is {_NO_FILES.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # which Windows lacks, as it lacks such pipes


def parse_rules(text: str, filename: str) -> tuple[Rule, ...]:
    """The rules of a file's text, in its order. RulesError, beginning with `filename:LINE:`, for the first mistake."""
    rules, mistakes = check_rules(text, filename)
    if mistakes:
        raise RulesError(mistakes[0])
    return rules


def check_rules(text: str, filename: str) -> tuple[tuple[Rule, ...], list[str]]:
    """The valid rules, and a line for each mistake, worded as in `RulesError`, rule by rule."""
    rules: list[Rule] = []
    mistakes: list[MistakeError] = []
    filename = printable(filename)
    try:
        _read_rules(_compose(text), rules, mistakes)
    except MistakeError as mistake:
        mistakes.append(mistake)
    return tuple(rules), [
        f"{filename}{'' if mistake.line is None else f':{mistake.line}'}: {mistake.what}" for mistake in mistakes
    ]


def with_value(rule: Rule, key: str, text: str) -> Rule:
    """The rule with one key changed to what `text` means as YAML. RulesError as for the file, without a position."""
    try:
        if key == "name":
            raise MistakeError("the name cannot be changed, because logs and commands use it")
        if key not in KEYS:
            raise unknown("key", key, KEYS)
        changed = replace(rule, **{key: read(key, KEYS[key].parse, _compose(text))})
        if problem := conflict({name: getattr(changed, name) for name in KEYS}):
            raise MistakeError(problem)
        return changed
    except MistakeError as mistake:
        raise RulesError(f"rule {rule.name}: {mistake.what}") from None


# The node of an empty text, for which the libraries have none.
_NOTHING: Final[Any] = SimpleNamespace(id="scalar", tag="tag:yaml.org,2002:null", value="", start_mark=None)


def _compose(text: str) -> Node:
    """The text's one document as nodes."""
    if len(text) > LONGEST_FILE:
        raise MistakeError(_TOO_LONG, line=1)
    try:
        with warnings.catch_warnings():
            # An anchor defined twice is an error to PyYAML and a warning to ruamel.yaml.
            warnings.simplefilter("error")
            root = _composer()(text) or _NOTHING
        _check_size(root, {})
        return root
    except MistakeError:
        raise
    except ModuleNotFoundError:
        raise MistakeError("neither PyYAML nor ruamel.yaml is installed; `pip install pyyaml`") from None
    except RecursionError:
        raise MistakeError("nested too deeply for a rules file", line=1) from None
    except Exception as error:
        # Both libraries let ValueError and more through for odd escapes and directives, so everything is caught.
        raise MistakeError(f"this is not YAML: {_problem(error)}", line=_problem_line(error, text)) from None


def _composer() -> Callable[[str], Node | None]:
    try:
        yaml = import_module("yaml")
    except ModuleNotFoundError:
        reader = import_module("ruamel.yaml").YAML(typ="safe", pure=True)
        reader.version = (1, 1)  # PyYAML's version: `on` and `yes` are booleans.
        return cast("Callable[[str], Node | None]", reader.compose)
    return partial(yaml.compose, Loader=yaml.SafeLoader)


def _check_size(node: Node, sizes: dict[int, int]) -> int:
    """How large a node is once expanded. `sizes`: of the nodes seen so far, so that aliases take no time here."""
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_WITH_ALIASES  # until it is known: a node that contains itself is infinitely large
        if node.id == "scalar":
            size = len(node.value)
        elif node.id == "sequence":
            size = sum(_check_size(item, sizes) for item in node.value)
        else:
            size = sum(_check_size(key, sizes) + _check_size(value, sizes) for key, value in node.value)
        if size >= _MOST_WITH_ALIASES:
            raise MistakeError("too large for a rules file once its aliases are expanded", node)
        sizes[id(node)] = size + 1
    return sizes[id(node)]


# Hints for common mistakes, by words in the libraries' messages.
_HINTS: Final = {
    "alias": "put a value that starts with * in quotes",
    "'\\t'": "indent with spaces, not with tabs",
    "mapping values": "is the line above indented correctly, and is text with a colon in quotes?",
    "'%'": "put a value that starts with % in quotes",
    "another document": "leave the --- out",
}


def _problem(error: Exception) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).strip().split("\n")[0]
    context = getattr(error, "context", None) or ""
    if problem == "second occurrence":
        problem = context.partition(";")[0]
    full = " ".join(f"{context} {problem}".split())
    hint = next((hint for words, hint in _HINTS.items() if words in full), None)
    plain = printable(" ".join((full if problem.startswith("but ") else problem).split()), 200)
    return f"{plain} ({hint})" if hint else plain


def _problem_line(error: Exception, text: str) -> int | None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    position = getattr(error, "position", None)
    return None if position is None else text.count("\n", 0, position) + 1


def _read_rules(root: Node, rules: list[Rule], mistakes: list[MistakeError]) -> None:
    """Put the valid rules into one list, and what is wrong with the others into another."""
    kind = kind_of(root)
    if kind == "null":
        return
    if kind != "mapping":
        raise expected("a mapping with the key 'rules'", root, "; put 'rules:' above it" * (kind == "list"))
    listed = read_mapping(root, {"rules": or_null(items, tuple)}).get("rules")
    if listed is None:
        raise MistakeError("the key 'rules' is missing", root)
    nodes: dict[str, Node] = {}
    for number, node in enumerate(listed, 1):
        found: list[MistakeError] = []
        values = _values(node, found)
        if not found and nodes.setdefault(values["name"], node) is not node:
            found.append(MistakeError(f"the rule on line {line_of(nodes[values['name']])} already has this name", node))
        for mistake in found:
            mistake.what = f"{_label(node, number)}: {mistake.what}"
        mistakes += found
        rules += [] if found else [Rule(**values)]


def _values(node: Node, mistakes: list[MistakeError]) -> dict[str, Any]:
    try:
        values = read_mapping(node, {name: key.parse for name, key in KEYS.items()}, mistakes)
    except MistakeError as mistake:
        mistakes.append(mistake)
        return {}
    given = {key.value for key, _ in node.value}
    mistakes += [MistakeError(f"the key {key!r} is missing", node) for key in REQUIRED if key not in given]
    mistakes += [MistakeError(problem, node)] if (problem := conflict(values)) else []
    return values


def _label(node: Node, number: int) -> str:
    """What to call a rule that has a mistake: its name, if at least that is valid."""
    for key, value in node.value if node.id == "mapping" else ():
        if key.value == "name" and kind_of(value) == "text" and NAME.fullmatch(value.value):
            return f"rule {value.value}"
    return f"rule number {number}"
