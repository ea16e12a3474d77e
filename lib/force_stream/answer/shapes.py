"""Lists that are copied from an event without making values of them.

The entries of a list mostly have one shape: the same members, with other texts and numbers. A text of that shape is
already what would be written of its value, if it has no blanks, and no escapes but those that JSON is written with. So
a regular expression, made of one list, says of many at once that they can be copied.

Knows JSON; must not know what any member means.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from ..wire import jsontext

type Shape = re.Pattern[bytes]
"""Any number of lists' insides, a line each."""

_STRING: Final = rb'"[^"\\\x00-\x1f]*+(?:\\["\\bfnrt][^"\\\x00-\x1f]*+)*+"'
_WHOLE: Final = rb"-?(?:0|[1-9][0-9]*+)"
_NUMBER: Final = _WHOLE + rb"(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
# Bytes of a regular expression, and lists that must have come before it is made: it takes a millisecond or two.
_LONGEST: Final = 2_500
_MANY: Final = 8
# Regular expressions that are kept, for whatever stream comes next.
_MOST_KEPT: Final = 64

_kept: dict[bytes, Shape] = {}


def shape_of(insides: Sequence[bytes]) -> Shape | None:
    """The shape of lists like the first one, of which these have come; None if none is known."""
    try:
        values = _values(insides[0])
        items = _one_of(values)
        if not values:
            return None  # it would match what is no list: nothing, and commas
        source = rb"(?:%s(?:,%s)*+\n)*+" % (items, items)
        shape = _kept.get(source)
        is_common = len(insides) >= _MANY and len(source) <= _LONGEST
        # Names that change are values: completions' top_logprobs are named after their tokens.
        if shape is None and is_common and _names(values) == _names(_values(insides[-1])):
            if len(_kept) >= _MOST_KEPT:
                _kept.clear()
            shape = _kept[source] = re.compile(source)
    except (ValueError, RecursionError):
        return None
    return shape if shape is not None and shape.fullmatch(insides[0] + b"\n") else None


def _values(inside: bytes) -> list[Any]:
    values: list[Any] = jsontext.loads(f"[{inside.decode()}]")
    return values


def _names(value: Any) -> set[str]:
    """Those of all members."""
    if isinstance(value, dict):
        return value.keys() | _names(list(value.values()))
    return set[str]().union(*map(_names, value)) if isinstance(value, list) else set()


def _one_of(values: list[Any]) -> bytes:
    return b"(?:%s)" % b"|".join(dict.fromkeys(map(_source, values)))


def _source(value: Any) -> bytes:
    """The regular expression of a value; null may take the place of any but an object."""
    if isinstance(value, dict):
        members = (_name(key) + b":" + _source(item) for key, item in value.items())
        return rb"\{%s\}" % b",".join(members)
    if isinstance(value, list):
        item = _one_of(value) if any(isinstance(each, dict | list | str) for each in value) else _WHOLE
        if len(item) > _LONGEST:
            raise ValueError  # each list in a list doubles it
        return rb"(?:\[(?:%s(?:,%s)*+)?+\]|null)" % (item, item)
    if value is None or isinstance(value, str):
        return b"(?:%s|null)" % _STRING
    return b"(?:true|false|null)" if isinstance(value, bool) else b"(?:%s|null)" % _NUMBER


def _name(key: str) -> bytes:
    """The regular expression of a member's name."""
    is_word = key.isascii() and key.isidentifier()
    return b'"%s"' % key.encode() if is_word else re.escape(jsontext.dumps(key))


def written(insides: Sequence[bytes], shape: Shape) -> bytes:
    """What would be written of the lists with these insides, joined; b"" if one of them is not a list, or empty. There
    is no line end in any."""
    text = b"%s\n" % b"\n".join(insides)
    try:
        text.isascii() or text.decode()
        parts: list[bytes] = []
        at = 0
        while at < len(text):
            end = shape.match(text, at).end()  # type: ignore[union-attr]  # it matches anything
            parts.append(text[at:end])
            if end < len(text):
                # A list of another shape, or with other escapes.
                at, end = end, text.index(b"\n", end) + 1
                items = jsontext.loads(f"[{text[at:end].decode()}]")
                if not items:
                    return b""
                parts.append(jsontext.dumps(items)[1:-1] + b"\n")
            at = end
    except ValueError:
        return b""
    return b"".join(parts)[:-1].replace(b"\n", b",")
