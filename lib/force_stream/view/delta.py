"""What one chunk adds to those before it, in a line of text: `content +"Hel"`.

Leaves out what every chunk of an answer repeats, and `choices[0].delta.` until there is a second choice. Knows JSON
values and what a person can read at a glance; must not know events, times or endpoints.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from ..answer.oddities import index_or_place
from ..merge.fields import PADDING
from ..wire.jsontext import Number

# Characters of one value, of one member's name, and of all that one chunk adds. The name of a tool is never cut off:
# no API allows a longer one than here.
LONGEST_VALUE: Final = 80
LONGEST_KEY: Final = 40
LONGEST_LINE: Final = 240
LONGEST_NAME: Final = 128
# How far one chunk is looked into: values, and levels of nesting. What is nested deeper is shown in short.
MOST_VALUES: Final = 100
DEEPEST: Final = 8
MOST_SHOWN: Final = 12
MOST_MEMBERS: Final = 6

# Members of a delta that name something: repeated, they add nothing, whereas a text that is repeated is more text.
_LABELS: Final = frozenset(("role", "id", "type", "name", "object", "format", "status", "channel", "phase"))
_ENDS: Final = frozenset(("finish_reason", "stop_reason", "stop_sequence"))
# What chunks repeat, and where. Where it changes, that is odd, and listed there.
_ENVELOPE: Final = frozenset(("id", "object", "created", "created_at", "model", "system_fingerprint"))
_ENVELOPED: Final = ("", "response.", "message.")
# What changes with every text without a meaning of its own: counters, and (GitHub Copilot) a new id each time.
_BESIDE_TEXT: Final = frozenset(("usage", "token_id", "item_id"))
_FIRST_CHOICE: Final = "choices[0]."
# Where an event that repeats the request has the tools that it offers.
_OFFERED: Final = "tools["


def quote(text: str, longest: int = LONGEST_VALUE) -> str:
    """A string in double quotes, cut short; not yet printable."""
    inside = text[:longest].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inside}"' + (f"… ({len(text):,} characters)" if len(text) > longest else "")


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


class Added(NamedTuple):
    """What one chunk adds: a short line, not yet printable, "" for nothing; and the texts alone, each with where it
    stands and the name of its member. `only_texts`: there is nothing else."""

    line: str
    texts: tuple[tuple[str, str, str], ...]
    only_texts: bool


class DeltaDescriber:
    """Reads the chunks of one answer in order."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._has_choices = False  # more than one

    def describe(self, chunk: dict[str, Any], kind: str = "") -> Added:
        """What the chunk adds or changes: names of tools first, then texts. `kind`: a top-level `type` that the reader
        knows already."""
        leaves = [leaf for leaf in islice(_leaves(chunk), MOST_VALUES) if leaf.path != "type" or leaf.value != kind]
        self._has_choices = self._has_choices or any(
            leaf.path.startswith("choices[") and not leaf.path.startswith(_FIRST_CHOICE) for leaf in leaves
        )
        texts = tuple((leaf.value, self._place(leaf), leaf.key) for leaf in leaves if leaf.is_text)
        others = [leaf for leaf in leaves if not leaf.is_text and not (texts and leaf.key in _BESIDE_TEXT)]
        news = [leaf for leaf in others if self._is_news(leaf)]
        names = [f"{self._place(leaf)} {quote(leaf.value, LONGEST_NAME)}" for leaf in news if _is_tool(leaf)]
        shown = [
            *names,
            *(f"{place} +{quote(text)}" for text, place, _ in texts),
            *(f"{self._place(leaf)} {brief(leaf.value)}" for leaf in news if not _is_tool(leaf)),
        ]
        line, longest = ", ".join(shown[:MOST_SHOWN]), max(LONGEST_LINE, len(", ".join(names[:MOST_SHOWN])))
        if len(shown) > MOST_SHOWN or len(line) > longest:
            line = line[:longest] + "…"
        return Added(line, texts, not news)

    def _place(self, leaf: "_Leaf") -> str:
        return leaf.path if self._has_choices else leaf.path.removeprefix(_FIRST_CHOICE).removeprefix("delta.")

    def _is_news(self, leaf: "_Leaf") -> bool:
        # Containers are compared by what is shown of them: as a whole they may be nested too deeply.
        value = brief(leaf.value) if isinstance(leaf.value, (dict, list)) else leaf.value
        if leaf.path in self._last and self._last[leaf.path] == value:
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


def _is_tool(leaf: _Leaf) -> bool:
    return leaf.key == "name" and isinstance(leaf.value, str) and _OFFERED not in leaf.path


def _leaves(value: dict[str, Any], before: str = "", depth: int = 0, in_delta: bool = False) -> Iterator[_Leaf]:
    """The values of an object that mean something, in its order; a usage, log probabilities and a list of plain values
    count as one each."""
    for key, member in value.items():
        if (not member and (member is None or member in ("", [], {}))) or key in PADDING:
            continue
        if key == "index" and before.endswith("]."):
            continue  # the path has it
        if key in _ENVELOPE and before in _ENVELOPED:
            continue
        path = before + key[:LONGEST_KEY]
        inside = in_delta or key == "delta"
        if isinstance(member, str):
            adds = inside or key == "b64_json" or (key == "text" and path.startswith("choices["))
            yield _Leaf(path, key, member, adds and key not in _LABELS and key not in _ENDS)
        elif isinstance(member, dict) and depth < DEEPEST and key not in ("usage", "logprobs"):
            yield from _leaves(member, f"{path}.", depth + 1, inside)
        elif isinstance(member, list) and depth < DEEPEST and isinstance(member[0], dict) and key != "logprobs":
            for place, item in enumerate(member[:MOST_VALUES]):
                if isinstance(item, dict):
                    yield from _leaves(item, f"{path}[{index_or_place(item, place)}].", depth + 1, inside)
        else:
            yield _Leaf(path, key, member, False)
