"""JSON in fragments, as the arguments of a call are streamed.

Knows the two ways in which upstreams say such a text more often than once; must not know calls or endpoints. Only a
text that is not JSON as it stands is judged, because free text may well say the same thing twice.
"""

from typing import Any

from ..wire import jsontext
from .fields import CHANGED, Concat, Effect


class JsonText:
    """A JSON text in fragments. Cumulative ones (each begins with all before it, NousResearch/hermes-agent#35718) are
    not joined, and a text that is said again whole (lidge-jun/opencodex#361) is said once."""

    def __init__(self) -> None:
        self._joined = Concat()
        self._count = 0
        # All that came, while each fragment has begun with all before it.
        self._whole: str | None = ""

    def add(self, value: Any) -> Effect:
        effect = self._joined.add(value)
        if self._whole is None or not value or not isinstance(value, str):
            return effect
        self._count += 1
        self._whole = value if value.startswith(self._whole) else None
        # Runs of fragments that are not parsed arrive joined, and must not begin while it matters where each ends.
        return effect if self._whole is None else CHANGED

    def result(self) -> Any:
        text = self._joined.result()
        if not isinstance(text, str) or is_json(text):
            return text
        return self._whole if self._whole is not None and self._count > 1 else said_once(text)


def is_json(text: str) -> bool:
    try:
        jsontext.loads(text)
    except ValueError:
        return False
    return True


def said_once(text: str) -> str:
    """The one object that `text` says several times, or after an empty one, which some upstreams send in advance;
    `text` itself where it is anything else."""
    try:
        value, spelled, rest = jsontext.split(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    spelled = spelled.strip()
    if not rest.replace(spelled, "").strip():
        return spelled
    try:
        again = jsontext.loads(rest)
    except ValueError:
        return text
    if not value and isinstance(again, dict):
        return rest.strip()
    return spelled if jsontext.dumps(again) == jsontext.dumps(value) else text
