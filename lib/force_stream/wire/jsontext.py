"""JSON text, read and written so that numbers are copied digit for digit.

Knows RFC 8259 and Python's `json`; must not know what any document means.
"""

import json
import re
import secrets
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from typing import Any, Final

from . import long_json
from .long_json import LONG


@dataclass(frozen=True, slots=True)
class Number:
    """A number that Python would write differently (`1E400`, `0.10`, `-0`, 5,000 digits), kept as its text."""

    text: str

    def __bool__(self) -> bool:
        return any(digit in "123456789" for digit in re.split("[eE]", self.text)[0])


@dataclass(frozen=True, slots=True)
class Written:
    """Items of a list as `dumps` would write them, with commas between them."""

    text: bytes


def with_items_read(values: list[Any]) -> list[Any]:
    """A list in which written items are values again."""
    if not any(isinstance(value, Written) for value in values):
        return values
    lists = (loads(f"[{one.text.decode()}]") if isinstance(one, Written) else [one] for one in values)
    return [item for items in lists for item in items]


# Characters. Python writes none that is longer.
_LONGEST_FLOAT: Final = 32


def _parse_float(text: str) -> float | Number:
    if len(text) > _LONGEST_FLOAT:
        return Number(text)
    value = float(text)
    return value if f"{value!r}" == text else Number(text)


def _parse_int(text: str) -> int | Number:
    # int() does not read more than 4,300 digits, and would make 0 of -0.
    return Number(text) if len(text) > 4000 or text == "-0" else int(text)


# NaN and Infinity are not JSON (RFC 8259, section 6), but Python servers send them; JavaScript would write null. Not
# strict: an unescaped control character in a string (forbidden by section 7) is not a reason to lose text.
_decoder: Final = partial(json.JSONDecoder, parse_float=_parse_float, parse_constant=lambda _: None, strict=False)
_DECODER: Final = _decoder()
_scan: Final = _DECODER.scan_once  # type: ignore[attr-defined]  # what its `raw_decode` calls
_CAREFUL_DECODER: Final = _decoder(parse_int=_parse_int)
# A number, or what looks like one in a text: in the names of models, digits follow.
_NEGATIVE_ZERO: Final = re.compile(r"-0(?=[\s,\]}]|\Z)")
_WHITE_SPACE: Final = " \t\n\r"


def _decode_short(text: str, start: int) -> tuple[Any, int]:
    decoder = _CAREFUL_DECODER if "-0" in text and _NEGATIVE_ZERO.search(text) else _DECODER
    try:
        return decoder.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer beyond Python's limit of digits
        return _CAREFUL_DECODER.raw_decode(text, start)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, start) from None


_skim: Final = long_json.skimming(_decode_short)


def _decode(text: str, decode: long_json.Decode = _decode_short) -> tuple[Any, int]:
    start = len(text) - len(text.lstrip(_WHITE_SPACE))
    return long_json.read(text, start, decode) if len(text) > LONG else decode(text, start)


def loads(text: str) -> Any:
    """The value of a JSON text. Raises `json.JSONDecodeError`, and nothing else."""
    value, end = scan(text, 0)
    return value if end == len(text) else _whole(text, *_decode(text))


def scan(text: str, start: int) -> tuple[Any, int]:
    """The value of the JSON text at `start`, and where that ends: -1 where it must be read with more care, or is not
    JSON. Nearly every text is read here."""
    if len(text) > LONG or ((at := text.find("-0", start)) >= 0 and _NEGATIVE_ZERO.search(text, at)):
        return None, -1
    try:
        found: tuple[Any, int] = _scan(text, start)
    except (StopIteration, ValueError, RecursionError):
        return None, -1
    return found


def is_json(text: str) -> bool:
    """Whether a text is JSON. What it says is not kept."""
    try:
        _whole(text, *_decode(text, _skim))
    except json.JSONDecodeError:
        return False
    return True


def _whole(text: str, value: Any, end: int) -> Any:
    if text[end:].strip(_WHITE_SPACE):
        raise json.JSONDecodeError("Extra data", "", 0)
    return value


def value_at(text: str, start: int) -> tuple[Any, int]:
    """The value of the JSON text at `start`, and where that ends. Raises `json.JSONDecodeError`."""
    return (
        long_json.read(text, start, _decode_carefully) if len(text) - start > LONG else _decode_carefully(text, start)
    )


def _decode_carefully(text: str, start: int) -> tuple[Any, int]:
    try:
        return _CAREFUL_DECODER.raw_decode(text, start)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, start) from None


def split(text: str) -> tuple[Any, str, str]:
    """The value of the JSON text that `text` starts with, that text itself, and what follows it.

    Raises `json.JSONDecodeError`.
    """
    value, end = _decode(text)
    return value, text[:end], text[end:]


# A number kept as text goes through the C encoder as a string, which loses its quotes afterwards. Nobody else can write
# such a string, because the token is random in each process.
_TOKEN: Final = f"number:{secrets.token_hex(16)}:"
_QUOTED_NUMBER: Final = re.compile(f'"{_TOKEN}([-+.eE0-9]+)"')


_WRITTEN: Final = f'"{_TOKEN}"'.encode()


def _default(value: object, written: list[bytes] | None = None) -> str:
    if isinstance(value, Number):
        return _TOKEN + value.text
    if isinstance(value, Written) and written is not None:
        written.append(value.text)
        return _TOKEN
    raise TypeError(f"{type(value).__name__} is not a JSON value")


# No value that was read contains itself.
_encoder: Final = partial(
    json.JSONEncoder, ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
)
_ENCODER: Final = _encoder(default=_default)


def dumps(value: Any) -> bytes:
    """The JSON text of a value, compact, in UTF-8."""
    if not long_json.is_long(value):
        return dumps_short(value)
    written = BytesIO()
    written.writelines(long_json.write(value, dumps_short))
    return written.getvalue()


def dumps_short(value: Any) -> bytes:
    """The same of a value that is known not to be long."""
    written: list[bytes] = []
    try:
        text = _ENCODER.encode(value)  # to make an encoder takes longer than to write a short answer
    except TypeError:
        text = _encoder(default=partial(_default, written=written)).encode(value)
    made = _encode(_QUOTED_NUMBER.sub(r"\1", text) if _TOKEN in text else text)
    if not written:
        return made
    return b"".join(chain.from_iterable(zip(made.split(_WRITTEN), [*written, b""], strict=True)))


_NOT_ASCII: Final = re.compile(r"[^ -~\n\t]+")


def printable(document: bytes) -> bytes:
    """The same document, with an escape in place of each character that `text.printable` would not leave as it is."""
    return _NOT_ASCII.sub(_escaped, document.decode(errors="replace")).encode()


def _escaped(found: re.Match[str]) -> str:
    # A carriage return stands between two tokens.
    text = found[0].replace("\r", " ")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", r"\u007f") for c in text)


# A string, an empty list or object, a mark, anything else.
_DOCUMENT_TOKEN: Final = re.compile(rb'(?s)"(?:[^"\\]++|\\.)*+"|[\[{]\s*[\]}]|[\[\]{},:]|[^\s\[\]{},:"]++')
# Deeper values are indented like those of this depth.
_DEEPEST_INDENT: Final = 50


def indented(document: bytes) -> bytes:
    """The same document with a line for each value; all of them are copied digit for digit."""
    made, depth = BytesIO(), 0
    for token in _DOCUMENT_TOKEN.findall(document):
        if token in (b"[", b"{"):
            depth += 1
            made.write(token + _line_of(depth))
        elif token in (b"]", b"}"):
            depth -= 1
            made.write(_line_of(depth) + token)
        elif token == b",":
            made.write(token + _line_of(depth))
        elif token == b":":
            made.write(b": ")
        else:
            made.write(token if token.startswith(b'"') else b"".join(token.split()))
    return made.getvalue()


def _line_of(depth: int) -> bytes:
    return b"\n" + b"  " * max(0, min(depth, _DEEPEST_INDENT))


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8. As an escape it is legal, and two of them that arrived in two chunks become one
        # character again for whoever reads them.
        return re.sub("[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", text).encode()
