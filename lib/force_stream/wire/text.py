"""Text: bytes of any length decoded; and for our own lines, foreign text made printable, reasons, and counts."""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import Final

LONGEST_PRINTED: Final = 100
# Bytes that are decoded together. What is beyond ASCII takes a millisecond a megabyte, what is not UTF-8 takes five.
_TOGETHER: Final = 64 * 1024
_DECODER: Final = getincrementaldecoder("utf-8")


def decoded(data: bytes | bytearray, errors: str = "replace") -> Iterator[str]:
    """The text that these bytes are as UTF-8, in parts, between which other threads have their turn."""
    if len(data) <= _TOGETHER or data.isascii():
        yield data.decode(errors=errors)
        return
    decoder = _DECODER(errors)
    for start in range(0, len(data), _TOGETHER):
        yield decoder.decode(data[start : start + _TOGETHER])
    yield decoder.decode(b"", final=True)


def printable(text: str, longest: int = LONGEST_PRINTED) -> str:
    """At most so many printable characters; "…" stands for the rest. Whatever text somebody else chose, this is how it
    gets into a log line, a note, a view.

    What a terminal may obey, what reorders the text around it and what cannot be seen is spelled as in Python (`\\x1b`,
    `\\u202e`): controls, marks of direction, line separators, spaces but " ", characters without width, surrogates,
    those for private use and those not assigned. A zero-width joiner too, so that names that look alike are the same;
    the parts of an emoji that has one stay legible.
    """
    if len(text) <= longest and text.isprintable():
        return text
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:longest])
    return clean if len(text) <= longest and len(clean) <= longest else f"{clean[:longest]}…"


def reason(error: Exception) -> str:
    """Why a file cannot be read or written."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return (isinstance(error, OSError) and error.strerror) or f"{error}"


def counted(count: int, what: str) -> str:
    """A count of things whose plural ends in "s": "1 event", "2,000 events"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
