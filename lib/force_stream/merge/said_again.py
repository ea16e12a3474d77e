"""Arguments that an upstream says more than once: which of its pieces are the JSON text that it means.

Knows JSON texts in pieces; must not know what field they are in. Only pieces that do not join to JSON are judged, so
that nothing which can be read as it came is changed.

    cumulative      every piece begins with all before it (Qianfan, NousResearch/hermes-agent#35718)
    consolidated    after the fragments, one piece with all of them (elizaOS/eliza#16973, mudler/cogito#66)
    placeholder     `{}` before or after the arguments (Bedrock, openai/openai-agents-js#712): it says nothing
"""

import json
import re
from collections.abc import Sequence
from itertools import dropwhile
from typing import Final

from ..wire import jsontext

# What is between two objects that follow one another. Inside one there is a comma, except in a string.
_SEAM: Final = re.compile(r"\}\s*\{")
# Objects in a row that are compared; each costs a copy of what follows it.
_MOST_OBJECTS: Final = 8


def said_once(pieces: Sequence[str]) -> str:
    """The text that the pieces make, without what is said again in it."""
    text = "".join(pieces)
    first = next(filter(None, pieces), "")
    begins_again = text.find(first, 1) >= 0
    # Most arguments end here: to parse each of them would cost more than to join them.
    if not begins_again and not _SEAM.search(text):
        return text
    if first.strip() == "{}":
        rest = said_once([*dropwhile(lambda piece: piece.strip() in ("", "{}"), pieces)])
        if is_object(rest):
            return rest
    last = _last_snapshot(pieces) if begins_again and not jsontext.is_json(text) else text
    return _one_of_equals(last) or text


def is_object(text: str) -> bool:
    """Whether a text is one whole JSON object."""
    return text.lstrip(" \t\r\n").startswith("{") and jsontext.is_json(text)


def _last_snapshot(pieces: Sequence[str]) -> str:
    """The pieces joined, where a piece that begins with everything before it replaces that."""
    parts: list[str] = []
    size = 0
    for piece in pieces:
        # No longer than the piece is what it is compared with, so all of this takes time in proportion to the text.
        if 0 < size <= len(piece) and piece.startswith("".join(parts)):
            parts, size = [], 0
        parts.append(piece)
        size += len(piece)
    return "".join(parts)


def _one_of_equals(text: str) -> str:
    """The object that a text repeats, perhaps with other white space; "" if it does not consist of equal objects."""
    whole, found, known = text, "", ""
    for place in range(_MOST_OBJECTS):
        try:
            value, said, text = jsontext.split(text)
            spelling = json.dumps(value, sort_keys=True, default=repr)
        except (ValueError, RecursionError):
            return ""
        if not isinstance(value, dict):
            return ""
        if value and known and spelling != known:
            return ""
        if value and not known:
            found, known = said, spelling
        found = found or said
        if not text.strip():
            return found if place else whole
    return ""
