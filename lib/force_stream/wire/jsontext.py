"""JSON text, read and written so that numbers are copied digit for digit.

Knows RFC 8259 and Python's `json`; must not know what any document means.
"""

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Number:
    """A number that Python would write differently (`1E400`, `0.10`, `-0`, 5,000 digits), kept as its text."""

    text: str

    def __bool__(self) -> bool:
        return any(digit in "123456789" for digit in re.split("[eE]", self.text)[0])


def _parse_float(text: str) -> float | Number:
    value = float(text)
    return value if repr(value) == text else Number(text)


def _parse_int(text: str) -> int | Number:
    # int() does not read more than 4,300 digits, and would make 0 of -0.
    return Number(text) if len(text) > 4000 or text == "-0" else int(text)


# NaN and Infinity are not JSON (RFC 8259, section 6), but Python servers send them; JavaScript would write null. Not
# strict: an unescaped control character in a string (forbidden by section 7) is not a reason to lose text.
_decoder: Final = partial(json.JSONDecoder, parse_float=_parse_float, parse_constant=lambda _: None, strict=False)
_DECODER: Final = _decoder()
_CAREFUL_DECODER: Final = _decoder(parse_int=_parse_int)
_NEGATIVE_ZERO: Final = re.compile(r"-0(?![0-9.eE])")
_WHITE_SPACE: Final = " \t\n\r"


def _decode(text: str) -> tuple[Any, int]:
    start = len(text) - len(text.lstrip(_WHITE_SPACE))
    decoder = _CAREFUL_DECODER if "-0" in text and _NEGATIVE_ZERO.search(text) else _DECODER
    try:
        return decoder.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer beyond Python's limit of digits
        return _CAREFUL_DECODER.raw_decode(text, start)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, start) from None


def loads(text: str) -> Any:
    """The value of a JSON text. Raises `json.JSONDecodeError`, and nothing else."""
    value, end = _decode(text)
    if text[end:].strip(_WHITE_SPACE):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def value_at(text: str, start: int) -> tuple[Any, int]:
    """The value of the JSON text at `start`, and where that ends. Raises `json.JSONDecodeError`."""
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


def _default(value: object) -> str:
    if isinstance(value, Number):
        return _TOKEN + value.text
    raise TypeError(f"{type(value).__name__} is not a JSON value")


# Characters. The C encoder lets no other thread run while it writes a string, so a longer one is written in slices.
_LONG: Final = 64 * 1024
# How deep, and in lists of at most what length, long strings are looked for.
_DEPTH: Final = 8
_BREADTH: Final = 64
_QUOTED_TEXT: Final = re.compile(f'"{_TOKEN}text([0-9]+)"')


def dumps(value: Any) -> bytes:
    """The JSON text of a value, compact, in UTF-8."""
    long: list[str] = []
    value = _without_long(value, long, _DEPTH)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_default)
    if _TOKEN not in text:
        return _encode(text)
    text = _QUOTED_NUMBER.sub(r"\1", text)
    around = _QUOTED_TEXT.split(text)
    written = BytesIO()
    written.write(_encode(around[0]))
    for number, after in zip(around[1::2], around[2::2], strict=True):
        written.write(b'"')
        written.writelines(_slices(long[int(number)]))
        written.write(b'"' + _encode(after))
    return written.getvalue()


def _without_long(value: Any, long: list[str], depth: int) -> Any:
    """The value with tokens in place of the long strings, which are added to the list."""
    if isinstance(value, str) and len(value) > _LONG:
        long.append(value)
        return f"{_TOKEN}text{len(long) - 1}"
    if not depth:
        return value
    if isinstance(value, dict):
        return {key: _without_long(each, long, depth - 1) for key, each in value.items()}
    if isinstance(value, list) and len(value) <= _BREADTH:
        return [_without_long(each, long, depth - 1) for each in value]
    return value


def _slices(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), _LONG):
        yield _encode(json.dumps(text[start : start + _LONG], ensure_ascii=False)[1:-1])


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


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8. As an escape it is legal, and two of them that arrived in two chunks become one
        # character again for whoever reads them.
        return re.sub("[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", text).encode()
