"""YAML nodes to values, with a mistake that says what was expected and what was found.

A parser takes a node and returns the value, or raises MistakeError. Must not know which keys there are.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol


class Node(Protocol):
    """What PyYAML's and ruamel.yaml's nodes have in common. `id` is scalar, sequence or mapping."""

    id: Any
    tag: Any
    value: Any
    start_mark: Any


type Parser = Callable[[Node], Any]


class MistakeError(Exception):
    """What is wrong, and in which line; callers prepend the key and the rule."""

    def __init__(self, what: str, node: Node | None = None, line: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line if node is None or node.start_mark is None else line_of(node)


def line_of(node: Node) -> int:
    return int(node.start_mark.line) + 1


def quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def unknown(noun: str, wrong: str, known: Iterable[str], node: Node | None = None) -> MistakeError:
    # difflib compares every character with every other one, so it never sees more than a name's length.
    close = difflib.get_close_matches(wrong[:60], list(known), n=1)
    hint = f", did you mean {close[0]!r}?" if close else f"; known are {', '.join(known) or 'none yet'}"
    return MistakeError(f"unknown {noun} {quoted(wrong)}{hint}", node)


_CORE: Final = "tag:yaml.org,2002:"
# A date, a lone `=` and a `<<` are special in YAML and plain text here.
_TEXTS: Final = dict.fromkeys(("str", "timestamp", "value", "merge"), "text")
_SCALARS: Final = {"null": "null", "bool": "bool", "int": "number", "float": "number", **_TEXTS}
_KINDS: Final = {"scalar": _SCALARS, "sequence": {"seq": "list"}, "mapping": {"map": "mapping"}}
_FLAGS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# YAML 1.1 wants a point and a sign in such a number; ruamel.yaml takes it without, PyYAML makes it text.
_EXPONENT: Final = re.compile(r"[-+]?[0-9][0-9_.]*[eE][-+]?[0-9]+")
# At most fifteen digits: exact as a float, and no work for int().
_NUMBER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,14})(\.[0-9]{0,15})?")
_SIZE: Final = re.compile(r"(?P<number>[0-9]{1,12}(\.[0-9]{1,6})?) ?(?P<unit>[KMG]i?B|B|)", re.IGNORECASE)
_YEAR: Final = 365 * 24 * 60 * 60
_UNITS: Final = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def kind_of(node: Node) -> str:
    """null, bool, number, text, list, mapping, or tagged for a value with a tag that means nothing here."""
    kind = _KINDS[node.id].get(str(node.tag).removeprefix(_CORE), "tagged")
    if kind == "text" and not getattr(node, "style", None) and _EXPONENT.fullmatch(node.value):
        return "number"
    return kind


def expected(what: str, node: Node, hint: str = "") -> MistakeError:
    kind = kind_of(node)
    if kind == "tagged":
        found = f"a value with the tag {quoted(str(node.tag).replace(_CORE, '!!'))}"
        hint = "; put a value that starts with ! in quotes"
    elif kind in ("number", "text"):
        found = f"the {kind} {node.value[:30] if kind == 'number' else quoted(node.value)}"
    elif kind in ("list", "mapping"):
        found = f"a {kind}"
    elif kind == "null":
        found = "null" if node.value else "nothing"
    else:
        found = node.value
    return MistakeError(f"expected {what}, found {found}{hint}", node)


def flag(node: Node) -> bool:
    value = _FLAGS.get(str(node.value).lower()) if kind_of(node) == "bool" else None
    if value is None:
        raise expected("true or false", node)
    return value


def text(node: Node) -> str:
    kind = kind_of(node)
    if kind != "text":
        raise expected("text", node, "; put it in quotes" if kind in ("number", "bool") else "")
    line = str(node.value)
    if not line.strip() or not line.isprintable():
        raise expected("a line of text", node)
    return line


def checked(fits: Callable[[str], object], what: str) -> Parser:
    """Text for which the function neither returns false nor raises ValueError."""

    def parse(node: Node) -> str:
        line = text(node)
        with suppress(ValueError):
            if fits(line):
                return line
        raise expected(what, node)

    return parse


def one_of(noun: str, known: Iterable[str]) -> Parser:
    def parse(node: Node) -> str:
        name = text(node)
        if name not in known:
            raise unknown(noun, name, known, node)
        return name

    return parse


def number(node: Node) -> float | None:
    """The number, int if written as one; None for any other value and for 010, 1:30 and .inf."""
    digits = str(node.value).replace("_", "") if kind_of(node) == "number" else ""
    if not _NUMBER.fullmatch(digits):
        return None
    return float(digits) if "." in digits else int(digits)


def whole(least: int, most: int) -> Parser:
    def parse(node: Node) -> int:
        value = number(node)
        if not isinstance(value, int) or not least <= value <= most:
            raise expected(f"a whole number from {least} to {most}", node)
        return value

    return parse


def seconds(node: Node) -> float:
    value = number(node)
    if value is None or not 0 < value <= _YEAR:
        raise expected(f"seconds, {'such as 30 or 2.5' if value is None or value <= 0 else 'at most a year'}", node)
    return value


def size(node: Node) -> int:
    spelled = _SIZE.fullmatch(str(node.value)) if kind_of(node) in ("number", "text") else None
    count = int(float(spelled["number"]) * _UNITS[spelled["unit"].lower()]) if spelled else 0
    if count <= 0:
        raise expected("a size above 0 such as 64MiB, 10MB or a number of bytes", node)
    return count


def plain(node: Node) -> bool | float | str:
    """A JSON value for the request. No API has an option that is a list or a mapping."""
    parsers: Mapping[str, Parser] = {"bool": flag, "text": text}
    value: bool | float | str | None = parsers.get(kind_of(node), number)(node)
    if value is None:
        raise expected("true, false, a number, text or null", node)
    return value


# Limits, because aliases can expand a short text into a huge value.
_MOST_VALUES: Final = 1000
_DEEPEST: Final = 20


def json_value(node: Node) -> Any:
    """Any JSON value: only the rule's upstream knows what it means."""
    count = 0

    def value(node: Node, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise MistakeError("too many values, or nested too deeply", node)
        kind = kind_of(node)
        if kind == "mapping":
            return {_member(key, key_node): value(inner, depth + 1) for key, key_node, inner in pairs(node)}
        if kind == "list":
            return [value(inner, depth + 1) for inner in items(node)]
        found = {"bool": flag, "text": _json_text}.get(kind, number)(node)
        if found is None and kind != "null":
            raise expected("a JSON value", node)
        return found

    return value(node, 0)


def _member(name: str, node: Node) -> str:
    if not name.isprintable():
        raise expected("the name of a member", node)
    return name


def _json_text(node: Node) -> str:
    text = str(node.value)
    if not re.sub(r"[\t\n\r]", "", text).isprintable():
        raise expected("printable text", node)
    return text


def or_null(parse: Parser, null: Callable[[], Any] = lambda: None) -> Parser:
    return lambda node: null() if kind_of(node) == "null" else parse(node)


def items(node: Node) -> Sequence[Node]:
    if kind_of(node) != "list":
        raise expected("a list", node, _as_list(node))
    return tuple(node.value)


def list_of(parse: Parser, *, empty: bool = False) -> Parser:
    def parse_list(node: Node) -> tuple[Any, ...]:
        if not items(node) and not empty:
            raise MistakeError("an empty list would match nothing", node)
        return tuple(map(parse, items(node)))

    return parse_list


def flag_or_list_of(parse: Parser, what: str) -> Parser:
    """True, false, or a list."""

    def parse_either(node: Node) -> bool | tuple[Any, ...]:
        kind = kind_of(node)
        if kind == "list":
            return tuple(list_of(parse)(node))
        if kind == "bool":
            return flag(node)
        hint = ""
        with suppress(MistakeError):
            parse(node)  # one in a list would be right
            hint = _as_list(node)
        if kind == "text" and node.value.lower() in _FLAGS:
            hint = "; remove the quotes"
        raise expected(f"true, false or a list of {what}", node, hint)

    return parse_either


def _as_list(node: Node) -> str:
    """How to write a text that was meant as a list."""
    return f"; write [{quoted(node.value)}]" if kind_of(node) == "text" else ""


def pairs(node: Node) -> Iterator[tuple[str, Node, Node]]:
    """Each key of a mapping as it is spelled, with the nodes of key and value; a key given twice is a mistake."""
    if kind_of(node) != "mapping":
        raise expected("a mapping of keys to values", node)
    seen: dict[str, Node] = {}
    for key, value in node.value:
        if key.id != "scalar":
            raise expected("a key", key)
        first = seen.setdefault(key.value, key)
        if first is not key:
            raise MistakeError(f"the key {quoted(key.value)} appears twice, first on line {line_of(first)}", key)
        yield key.value, key, value


def read(key: str, parse: Parser, node: Node, key_node: Node | None = None) -> Any:
    try:
        return parse(node)
    except MistakeError as mistake:
        mistake.what = f"{key}: {mistake.what}"
        if key_node is not None and node.value == "":
            # ruamel.yaml puts a value that is not there where the next key begins.
            mistake.line = line_of(key_node)
        raise


def mapping_of(fits: Callable[[str], object], what: str, parse: Parser) -> Parser:
    """A mapping with free keys, for which the function must not return false."""

    def parse_mapping(node: Node) -> dict[str, Any]:
        values = {}
        for key, key_node, value in pairs(node):
            if not fits(key):
                raise expected(what, key_node)
            values[key] = read(quoted(key), parse, value, key_node)
        return values

    return parse_mapping


def read_mapping(
    node: Node, parsers: Mapping[str, Parser], mistakes: list[MistakeError] | None = None
) -> dict[str, Any]:
    """The value of each key. A mistake is raised, or put into the list, if there is one, and its key left out."""
    values = {}
    for key, key_node, value in pairs(node):
        try:
            if key not in parsers:
                raise unknown("key", key, parsers, key_node)
            values[key] = read(key, parsers[key], value, key_node)
        except MistakeError as mistake:
            if mistakes is None:
                raise
            mistakes.append(mistake)
    return values
