"""Text cut into the pieces in which a stream has it.

Knows characters; must not know events or any API.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from ..wire import jsontext

# Characters of a piece: a word or two, as a screen gets them from a real server; and how many pieces a text has at
# most, so that a long one costs no more than its length.
_PIECE: Final = 24
_MOST_PIECES: Final = 512
# Characters of base64, a multiple of four: each piece can be decoded by itself.
_BASE64: Final = 32 * 1024
# What belongs to the character before it: marks, joiners and what they join, variants, skin tones, the second half of a
# surrogate pair, of a flag, of a line's end.
_GOES_ON: Final = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e3a"
    "\u0e47-\u0e4e\u1160-\u11ff\u1ab0-\u1aff\u1dc0-\u1dff\u200c\u200d\u20d0-\u20ff\u302a-\u302f\u3099\u309a\ufe00-\ufe0f"
    "\ufe20-\ufe2f\udc00-\udfff\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef\n]"
)
_JOINERS: Final = "\u200d\u094d"
_BLANK: Final = " \t\n"
# Bytes in UTF-8.
_LONGEST_CHARACTER: Final = 4
# Bytes of what every event says again. An answer may have a name of any length, and any number of events.
_MOST_SAID_AGAIN: Final = 256


def pieces(text: str) -> Iterator[str]:
    """The pieces of a text: cut after a blank where there is one, never within a character; none if it is empty."""
    size = max(_PIECE, len(text) // _MOST_PIECES)
    at = 0
    while at < len(text):
        end = at + size
        if end < len(text):
            blank = max(text.rfind(mark, at + size // 2, end) for mark in _BLANK)
            end = end if blank < 0 else blank + 1
            while end < len(text) and (_GOES_ON.match(text[end]) or text[end - 1] in _JOINERS):
                end += 1
        yield text[at:end]
        at = end


def may_be_said_again(value: Any) -> bool:
    """Whether each of an answer's events can have this value."""
    return len(jsontext.dumps(value)) <= _MOST_SAID_AGAIN


def base64_pieces(text: str) -> Iterator[str]:
    """The pieces of base64."""
    for at in range(0, len(text), _BASE64):
        yield text[at : at + _BASE64]


def by_tokens(text: str, tokens: list[Any]) -> list[tuple[str, list[Any]]] | None:
    """A text cut where its tokens are, each with what is said of it, as in chat's logprobs; several stand together
    where one ends within a character. None where they are not those of the text."""
    found: list[tuple[str, list[Any]]] = []
    bytes_so_far, together, at = b"", list[Any](), 0
    for token in tokens:
        spelled: Any = token.get("bytes") or token.get("token") if isinstance(token, dict) else token
        try:
            bytes_so_far += bytes(spelled) if isinstance(spelled, list) else spelled.encode()
        except (AttributeError, TypeError, ValueError):
            return None
        together.append(token)
        try:
            piece = bytes_so_far.decode()
        except UnicodeDecodeError as error:
            if len(bytes_so_far) - error.start >= _LONGEST_CHARACTER:
                return None
            continue
        if not text.startswith(piece, at):
            return None
        found.append((piece, together))
        bytes_so_far, together, at = b"", [], at + len(piece)
    return found if at == len(text) and not together else None
