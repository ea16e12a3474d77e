"""The rules file, `rules.yaml`: its text read and checked.

Knows YAML. Must not know which request a rule is for, or where the file lies: it gets text and gives rules, or one
sentence that says what is wrong with the text and in which line.

The YAML is composed to nodes and the values are built here, never by the YAML library: only nodes carry the line of
each key, and so PyYAML and ruamel.yaml (which mitmproxy's standalone binaries bring instead) mean the same.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Final, Protocol

from ..answer.quirks import QUIRKS
from ..endpoints import ENDPOINTS
from .rule import Rule, compile_filter, compile_host

YEAR: Final = 365 * 24 * 60 * 60
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
    mistakes: list[_MistakeError] = []
    try:
        rules = _rules(_compose(text), mistakes)
    except _MistakeError as mistake:
        rules = ()
        mistakes.append(mistake)
    position = [filename if mistake.line is None else f"{filename}:{mistake.line}" for mistake in mistakes]
    return rules, [f"{where}: {mistake.what}" for where, mistake in zip(position, mistakes, strict=True)]


def with_value(rule: Rule, key: str, text: str) -> Rule:
    """The rule with one key changed to what `text` means as YAML. RulesError as for the file, without a position."""
    try:
        if key == "name":
            raise _MistakeError("the name cannot be changed, other rules and logs go by it")
        if key not in KEYS:
            raise _MistakeError(f"unknown key {_quoted(key)}{_suggestion(key, KEYS)}")
        return replace(rule, **{key: _value(key, KEYS[key], _compose(text) or _Nothing())})
    except _MistakeError as mistake:
        raise RulesError(f"rule {rule.name}: {mistake.what}") from None


# --- YAML to nodes --------------------------------------------------------------------------------------------------


class _Node(Protocol):
    """What PyYAML's and ruamel.yaml's nodes have in common. `id` is scalar, sequence or mapping."""

    id: Any
    tag: Any
    value: Any
    start_mark: Any


class _Nothing:
    """The node of an empty text, for which the libraries have none."""

    id = "scalar"
    tag = "tag:yaml.org,2002:null"
    value = ""
    start_mark = None


class _MistakeError(Exception):
    """What is wrong, and in which line; the callers put before it the key and the rule in which it is."""

    def __init__(self, what: str, node: _Node | None = None, line: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line if node is None or node.start_mark is None else node.start_mark.line + 1


def _compose(text: str) -> _Node | None:
    """The text's one document as nodes, None if it is empty."""
    if len(text) > LONGEST_FILE:
        raise _MistakeError("the text is longer than 256 KiB; is this a rules file?", line=1)
    try:
        try:
            return _compose_with_pyyaml(text)
        except ModuleNotFoundError:
            return _compose_with_ruamel(text)
    except ModuleNotFoundError:
        raise _MistakeError("neither PyYAML nor ruamel.yaml is installed; `pip install pyyaml`") from None
    except RecursionError:
        raise _MistakeError("nested too deep for a rules file", line=1) from None
    except Exception as error:
        # Both libraries let ValueError and more through for odd escapes and directives, hence the wide net.
        raise _MistakeError(f"this is not YAML: {_problem(error)}", line=_problem_line(error, text)) from None


def _compose_with_pyyaml(text: str) -> _Node | None:
    yaml = import_module("yaml")
    node: _Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    return node


def _compose_with_ruamel(text: str) -> _Node | None:
    reader = import_module("ruamel.yaml").YAML(typ="safe", pure=True)
    reader.version = (1, 1)  # PyYAML's version: `on` and `yes` are booleans.
    with warnings.catch_warnings():
        # An anchor defined twice is an error to PyYAML and a warning to ruamel.yaml.
        warnings.simplefilter("error")
        node: _Node | None = reader.compose(text)
    return node


# What people run into, by the libraries' words for it.
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


# --- Words -----------------------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _suggestion(wrong: str, known: Iterable[str]) -> str:
    # difflib compares every character with every other one, so it never sees more than a name's length.
    close = difflib.get_close_matches(wrong[:60], list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else f"; known are {', '.join(known) or 'none yet'}"


# --- Nodes to values ------------------------------------------------------------------------------------------------
# A parser takes a node and gives the value, or raises _MistakeError.

type _Parser = Callable[[_Node], Any]

_CORE: Final = "tag:yaml.org,2002:"
_KINDS: Final = {
    "scalar": {
        "null": "null",
        "bool": "bool",
        "int": "number",
        "float": "number",
        "str": "text",
        # A date, a lone `=` and a `<<` are special to YAML and mere text here.
        "timestamp": "text",
        "value": "text",
        "merge": "text",
    },
    "sequence": {"seq": "list"},
    "mapping": {"map": "mapping"},
}
_FLAGS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# YAML 1.1 wants a point and a sign in such a number; ruamel.yaml takes it without, PyYAML makes it text.
_EXPONENT: Final = re.compile(r"[-+]?[0-9][0-9_.]*[eE][-+]?[0-9]+")
# At most fifteen digits: exact as a float, and no work for int().
_NUMBER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,14})(\.[0-9]{0,15})?")
_SIZE: Final = re.compile(r"(?P<number>[0-9]{1,12}(\.[0-9]{1,6})?) ?(?P<unit>[KMG]i?B|B|)", re.IGNORECASE)
_UNITS: Final = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PATH: Final = re.compile(r"/[^\s?#]*[^\s?#/]/?")
_NAME: Final = re.compile(r"\w([\w .+-]*\w)?")


def _kind(node: _Node) -> str:
    """null, bool, number, text, list, mapping, or tagged for a value with a tag that means nothing here."""
    kind = _KINDS[node.id].get(str(node.tag).removeprefix(_CORE), "tagged")
    if kind == "text" and not getattr(node, "style", None) and _EXPONENT.fullmatch(node.value):
        return "number"
    return kind


def _found(node: _Node) -> str:
    return _FOUND[_kind(node)](node)


_FOUND: Final[Mapping[str, Callable[[_Node], str]]] = {
    "null": lambda node: "found nothing" if node.value == "" else "found null",
    "bool": lambda node: f"found {node.value}",
    "number": lambda node: f"found the number {node.value[:30]}",
    "text": lambda node: f"found the text {_quoted(node.value)}",
    "list": lambda node: "found a list",
    "mapping": lambda node: "found a mapping",
    "tagged": lambda node: (
        f"found a value with the tag {_quoted(str(node.tag).replace(_CORE, '!!'))}"
        "; put a value that starts with ! in quotes"
    ),
}


def _expected(what: str, node: _Node, hint: str = "") -> _MistakeError:
    return _MistakeError(f"expected {what}, {_found(node)}{hint}", node)


def _flag(node: _Node) -> bool:
    flag = _FLAGS.get(str(node.value).lower()) if _kind(node) == "bool" else None
    if flag is None:
        raise _expected("true or false", node)
    return flag


def _text(node: _Node) -> str:
    kind = _kind(node)
    if kind != "text":
        raise _expected("text", node, "; put it in quotes" if kind in {"number", "bool"} else "")
    text = str(node.value)
    if not text.strip() or not text.isprintable():
        raise _expected("a line of text", node)
    return text


def _number(node: _Node) -> float | None:
    """The number that stands there, int if spelled as one; None for any other value and for 010, 1:30, .inf."""
    digits = str(node.value).replace("_", "") if _kind(node) == "number" else ""
    if not _NUMBER.fullmatch(digits):
        return None
    return float(digits) if "." in digits else int(digits)


def _whole(least: int, most: int) -> _Parser:
    def parse(node: _Node) -> int:
        number = _number(node)
        if not isinstance(number, int) or not least <= number <= most:
            raise _expected(f"a whole number from {least} to {most}", node)
        return number

    return parse


def _seconds(node: _Node) -> float:
    number = _number(node)
    if number is None or number <= 0:
        raise _expected("seconds, a number above 0", node)
    if number > YEAR:
        raise _expected("seconds, at most a year", node)
    return number


def _size(node: _Node) -> int:
    size = _SIZE.fullmatch(str(node.value)) if _kind(node) in {"number", "text"} else None
    count = int(float(size["number"]) * _UNITS[size["unit"].lower()]) if size else 0
    if count <= 0:
        raise _expected("a size above 0 such as 64MiB, 10MB or a number of bytes", node)
    return count


def _or_null(parse: _Parser, null: Callable[[], Any] = lambda: None) -> _Parser:
    return lambda node: null() if _kind(node) == "null" else parse(node)


def _items(node: _Node) -> Sequence[_Node]:
    kind = _kind(node)
    if kind != "list":
        raise _expected("a list", node, f"; write [{_quoted(node.value)}]" if kind == "text" else "")
    items: Sequence[_Node] = node.value
    return items


def _list(parse: _Parser) -> _Parser:
    return lambda node: tuple(map(parse, _items(node)))


def _some(parse: _Parser) -> _Parser:
    def parse_list(node: _Node) -> tuple[Any, ...]:
        if not _items(node):
            raise _MistakeError("an empty list would match nothing", node)
        return tuple(map(parse, _items(node)))

    return parse_list


def _one_of(noun: str, known: Iterable[str]) -> _Parser:
    def parse(node: _Node) -> str:
        name = _text(node)
        if name not in known:
            raise _MistakeError(f"unknown {noun} {_quoted(name)}{_suggestion(name, known)}", node)
        return name

    return parse


def _pairs(node: _Node) -> Iterator[tuple[str, _Node, _Node]]:
    """Each key of a mapping as it is spelled, with the nodes of key and value; a key given twice is a mistake."""
    if _kind(node) != "mapping":
        raise _expected("a mapping of keys to values", node)
    seen: dict[str, _Node] = {}
    for key, value in node.value:
        if key.id != "scalar":
            raise _expected("a key", key)
        if key.value in seen:
            raise _MistakeError(
                f"the key {_quoted(key.value)} stands here twice, first{_in_line(seen[key.value])}", key
            )
        seen[key.value] = key
        yield key.value, key, value


def _in_line(node: _Node) -> str:
    return f" in line {node.start_mark.line + 1}"


def _value(key: str, parse: _Parser, node: _Node, key_node: _Node | None = None) -> Any:
    try:
        return parse(node)
    except _MistakeError as mistake:
        mistake.what = f"{key}: {mistake.what}"
        if key_node is not None and node.value == "":
            # ruamel.yaml puts a value that is not there where the next key begins.
            mistake.line = key_node.start_mark.line + 1
        raise


def _values(node: _Node, parsers: Mapping[str, _Parser], mistakes: list[_MistakeError] | None = None) -> dict[str, Any]:
    """The value of each key. A mistake is raised, or put into the list, if there is one, and its key left out."""
    values = {}
    for key, key_node, value in _pairs(node):
        try:
            if key not in parsers:
                raise _MistakeError(f"unknown key {_quoted(key)}{_suggestion(key, parsers)}", key_node)
            values[key] = _value(key, parsers[key], value, key_node)
        except _MistakeError as mistake:
            if mistakes is None:
                raise
            mistakes.append(mistake)
    return values


def _name(node: _Node) -> str:
    name = _text(node)
    if len(name) > 80 or not _NAME.fullmatch(name):
        raise _expected("a name of letters, digits, spaces and . _ + -, 80 at most", node)
    return name


def _host(node: _Node) -> str:
    pattern = _text(node)
    try:
        compile_host(pattern)
    except ValueError:
        what = "a host such as llm.example.com, *.example.ai, 10.0.0.5:8000 or [::1]:8000, without scheme and path"
        raise _expected(what, node) from None
    return pattern


def _filter(node: _Node) -> str:
    expression = _text(node)
    try:
        compile_filter(expression)
    except ValueError:
        what = f"{_quoted(expression)} is no filter expression (mitmproxy's Filter expressions page lists them)"
        raise _MistakeError(what, node) from None
    return expression


def _paths(node: _Node) -> dict[str, str]:
    endpoint = _one_of("endpoint", ENDPOINTS)
    paths = {}
    for path, key_node, value in _pairs(node):
        if not _PATH.fullmatch(path):
            raise _MistakeError(
                f"expected a path such as /custom/generate, without a query, found {_quoted(path)}", key_node
            )
        paths[path] = _value(_quoted(path), endpoint, value, key_node)
    return paths


def _stream_options(node: _Node) -> dict[str, Any]:
    options = {}
    for key, key_node, value in _pairs(node):
        if not key.isprintable():
            raise _expected("the name of an option", key_node)
        options[key] = _value(_quoted(key), _plain, value)
    return options


def _plain(node: _Node) -> Any:
    """A JSON value for the request. No API has an option that is a list or a mapping, and without those no alias can
    hold itself or grow."""
    parse = _PLAIN.get(_kind(node), _number)
    value = parse(node)
    if value is None and parse is _number:
        raise _expected("true, false, a number, text or null", node)
    return value


_PLAIN: Final[Mapping[str, _Parser]] = {"null": lambda node: None, "bool": _flag, "text": _text}


INJECT: Final[Mapping[str, _Parser]] = {
    "cut_after": _whole(0, 10**9),
    "drop_done": _flag,
    "error_after": _whole(0, 10**9),
    "stall": _seconds,
    "split_utf8": _flag,
    "content_type": _text,
}

# Every key of a rule, in the order of `Rule` and of the documentation.
KEYS: Final[Mapping[str, _Parser]] = {
    "name": _name,
    "hosts": _some(_host),
    "force_upstream_stream": _flag,
    "endpoints": _or_null(_some(_one_of("endpoint", ENDPOINTS))),
    "paths": _or_null(_paths, dict),
    "models": _or_null(_some(_text)),
    "filter": _or_null(_filter),
    "stream_options": _or_null(_stream_options),
    "on_truncated": _one_of("value", ("error", "partial")),
    "quirks": _or_null(_list(_one_of("quirk", QUIRKS)), tuple),
    "timeout": _or_null(_seconds),
    "idle_timeout": _or_null(_seconds),
    "heartbeat": _or_null(_seconds),
    "retries": _whole(0, 100),
    "max_body": _size,
    "learn": _flag,
    "inject": _or_null(lambda node: _values(node, INJECT), dict),
}
REQUIRED: Final = ("name", "hosts")


def _rules(root: _Node | None, mistakes: list[_MistakeError]) -> tuple[Rule, ...]:
    """The rules without a mistake; the mistakes of the others go into the list."""
    if root is None or _kind(root) == "null":
        return ()
    if _kind(root) != "mapping":
        raise _expected("a mapping with the key 'rules'", root, "; put 'rules:' above it" * (_kind(root) == "list"))
    listed: _Node | None = None
    for key, key_node, value in _pairs(root):
        if key != "rules":
            raise _MistakeError(f"unknown key {_quoted(key)}{_suggestion(key, ['rules'])}", key_node)
        listed = value
    if listed is None:
        raise _MistakeError("the key 'rules' is missing", root)
    if _kind(listed) == "null":
        return ()
    items = _value("rules", _items, listed)
    found = [rule for number, node in enumerate(items, 1) for rule in _rule(node, number, mistakes)]
    return _distinct(found, mistakes)


def _rule(node: _Node, number: int, mistakes: list[_MistakeError]) -> list[tuple[Rule, _Node]]:
    """The rule and its node; none, and its mistakes in the list, where it has any."""
    found: list[_MistakeError] = []
    values: dict[str, Any] = {}
    try:
        values = _values(node, KEYS, found)
        given = {key for key, _, _ in _pairs(node)}
        found += [_MistakeError(f"the key {key!r} is missing", node) for key in REQUIRED if key not in given]
    except _MistakeError as mistake:
        found.append(mistake)
    for each in found:
        each.what = f"{_label(node, number)}: {each.what}"
    mistakes += found
    return [] if found else [(Rule(**values), node)]


def _label(node: _Node, number: int) -> str:
    """How to speak of a rule that is wrong somewhere: by its name, if that at least is right."""
    for key, value in node.value if node.id == "mapping" else ():
        if key.value == "name" and _kind(value) == "text" and _NAME.fullmatch(value.value[:81]):
            return f"rule {value.value[:80]}"
    return f"rule number {number}"


def _distinct(rules: Iterable[tuple[Rule, _Node]], mistakes: list[_MistakeError]) -> tuple[Rule, ...]:
    by_name: dict[str, tuple[Rule, _Node]] = {}
    for rule, node in rules:
        first = by_name.setdefault(rule.name, (rule, node))
        if first[1] is not node:
            where = _in_line(first[1])
            mistakes.append(_MistakeError(f"rule {rule.name}: another rule has this name, the one{where}", node))
    return tuple(rule for rule, _ in by_name.values())
