"""What one chunk adds to those before it, in a line of text: `choices[0].delta.content +"Hel"`.

Knows JSON values and what a person can read at a glance; must not know events, times or endpoints.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from ..answer.oddities import index_or_place
from ..merge.fields import PADDING
from ..wire.jsontext import Number

# Characters of one value, of one member's name, and of all that one chunk adds.
LONGEST_VALUE: Final = 80
LONGEST_KEY: Final = 40
LONGEST_LINE: Final = 240
# How far one chunk is looked into: values, and levels of nesting. What is nested deeper is shown in short.
MOST_VALUES: Final = 100
DEEPEST: Final = 8
MOST_SHOWN: Final = 12
MOST_MEMBERS: Final = 6

# Members of a delta that name something: repeated, they add nothing, whereas a text that is repeated is more text.
_LABELS: Final = frozenset(("role", "id", "type", "name", "object", "format", "status", "channel", "phase"))
_ENDS: Final = frozenset(("finish_reason", "stop_reason", "stop_sequence"))


def quote(text: str) -> str:
    """A string in double quotes, cut short; not yet printable."""
    inside = text[:LONGEST_VALUE].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inside}"' + (f"… ({len(text):,} characters)" if len(text) > LONGEST_VALUE else "")


def brief(value: Any) -> str:
    """Any JSON value in short: what is nested in an object or a list that is nested itself is left out."""
    if isinstance(value, dict):
        shown = [f"{key[:LONGEST_KEY]} {_scalar(inner)}" for key, inner in islice(value.items(), MOST_MEMBERS)]
    elif isinstance(value, list):
        shown = [_scalar(inner) for inner in value[:MOST_MEMBERS]]
    else:
        return _scalar(value)
    inside = ", ".join([*shown, "…"] if len(value) > MOST_MEMBERS else shown)
    return f"{{{inside}}}" if isinstance(value, dict) else f"[{inside}]"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, list):
        return "[…]" if value else "[]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = value.text if isinstance(value, Number) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


class DeltaDescriber:
    """Reads the chunks of one answer in order. `has_text`: one of them has added to a text."""

    def __init__(self) -> None:
        self.has_text = False
        self._last: dict[str, Any] = {}

    def describe(self, chunk: dict[str, Any], kind: str = "") -> str:
        """What the chunk adds or changes, the texts first; "" if nothing. The line is short, but not yet printable.
        `kind`: a top-level `type` that the reader knows already."""
        texts: list[str] = []
        others: list[str] = []
        for leaf in islice(_leaves(chunk), MOST_VALUES):
            if leaf.is_text:
                self.has_text = True
                texts.append(f"{leaf.path} +{quote(leaf.value)}")
            elif self._is_news(leaf) and (leaf.path != "type" or leaf.value != kind):
                others.append(f"{leaf.path} {brief(leaf.value)}")
        shown = [*texts, *others]
        line = ", ".join(shown[:MOST_SHOWN])
        return line[:LONGEST_LINE] + "…" if len(shown) > MOST_SHOWN or len(line) > LONGEST_LINE else line

    def _is_news(self, leaf: "_Leaf") -> bool:
        # Containers are compared by what is shown of them: to compare them whole may nest too deeply.
        value = brief(leaf.value) if isinstance(leaf.value, (dict, list)) else leaf.value
        if leaf.path in self._last and (leaf.key == "created" or self._last[leaf.path] == value):
            return False
        self._last[leaf.path] = value
        return True


def has_text(chunk: dict[str, Any]) -> bool:
    """Whether a chunk adds text to what the model said."""
    return any(leaf.is_text for leaf in islice(_leaves(chunk), MOST_VALUES))


class _Leaf(NamedTuple):
    path: str
    key: str
    value: Any
    is_text: bool


def _leaves(value: dict[str, Any], before: str = "", depth: int = 0, in_delta: bool = False) -> Iterator[_Leaf]:
    """The values of an object that mean something, in its order; a usage and a list of plain values count as one."""
    for key, member in value.items():
        if (not member and (member is None or member in ("", [], {}))) or key in PADDING:
            continue
        if key == "index" and before.endswith("]."):
            continue  # the path has it
        path = before + key[:LONGEST_KEY]
        inside = in_delta or key == "delta"
        if isinstance(member, str):
            adds = inside or key == "b64_json" or (key == "text" and path.startswith("choices["))
            yield _Leaf(path, key, member, adds and key not in _LABELS and key not in _ENDS)
        elif isinstance(member, dict) and depth < DEEPEST and key != "usage":
            yield from _leaves(member, f"{path}.", depth + 1, inside)
        elif isinstance(member, list) and depth < DEEPEST and isinstance(member[0], dict):
            for place, item in enumerate(member[:MOST_VALUES]):
                if isinstance(item, dict):
                    yield from _leaves(item, f"{path}[{index_or_place(item, place)}].", depth + 1, inside)
        else:
            yield _Leaf(path, key, member, False)
