"""What is odd about an event stream, in words: found once while it is read, and shown the same wherever it is shown.

Knows chunks as far as they can be odd; must not know how they are merged, or times. The lines of the list are also fit
for the log: they are printable, and the only text of the upstream's in them is names.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..endpoints.endpoint import NO_REASONS
from ..merge.fields import index_of
from ..wire.text import printable

# How many are listed, and how many numbers of events for each.
MOST_ODD: Final = 50
MOST_NUMBERS: Final = 5
# How many are in one line.
MOST_IN_BRIEF: Final = 5
# How far a chunk is looked into, and how many choices and tool calls are told apart.
_MOST_LOOKED_AT: Final = 100
_MOST_KNOWN: Final = 10_000

_KINDS: Final = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}


def kind_of(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    return _KINDS.get(type(value), "a number")


def index_or_place(item: dict[str, Any], place: int) -> int:
    """An item's own index, by which its pieces belong together, or its place in the list where it has none."""
    index = index_of(item)
    return index if index is not None and 0 <= index < 1_000_000 else place


def in_brief(lines: Sequence[str]) -> str:
    """The list in one line; "" where nothing is odd."""
    more = [f"{len(lines) - MOST_IN_BRIEF} more"] if len(lines) > MOST_IN_BRIEF else []
    return "; ".join([*lines[:MOST_IN_BRIEF], *more])


@dataclass(slots=True)
class Oddity:
    """One thing that was odd, and the first of the `count` events where it was; `last` is the last of them."""

    words: str
    numbers: list[int] = field(default_factory=list)
    count: int = 0
    last: int = 0

    def __str__(self) -> str:
        if not self.count:
            return self.words
        more = f" and {self.count - MOST_NUMBERS:,} more" if self.count > MOST_NUMBERS else ""
        return f"event{'s' * (self.count > 1)} {', '.join(map(str, self.numbers))}{more}: {self.words}"


def _place(oddity: Oddity) -> float:
    return oddity.numbers[0] if oddity.numbers else float("inf")


class Oddities:
    """What was odd so far about one stream. `finish_reasons`: the last one of each choice. `noted` counts all that was
    noted, whether or not it is listed."""

    def __init__(self) -> None:
        self.noted = 0
        self.finish_reasons: dict[int, str] = {}
        self._found: dict[str, Oddity] = {}
        self._names = {"id": "", "model": ""}
        self._calls: dict[tuple[int, int], str] = {}
        self._choices: set[int] = set()

    @property
    def watched(self) -> Collection[str]:
        """The members of which a new value is odd."""
        return self._names.keys()

    def lines(self) -> list[str]:
        """One line each, in the order of the events (the order in which they were found depends on the pieces in which
        the stream came). Whatever is odd about the stream as a whole comes last."""
        return list(map(str, sorted(self._found.values(), key=_place)))

    def add(self, words: str, number: int | None = None) -> None:
        """Something odd, about an event or the stream as a whole."""
        self.noted += 1
        if words not in self._found and len(self._found) >= MOST_ODD:
            return
        oddity = self._found.setdefault(words, Oddity(words))
        if number is not None and number != oddity.last:
            oddity.last = number
            oddity.count += 1
            if oddity.count <= MOST_NUMBERS:
                oddity.numbers.append(number)

    def check(self, chunk: dict[str, Any], number: int) -> None:
        """Note what in a chunk does not fit those before it. A chunk that differs from the last only in its texts need
        not be checked."""
        for key, known in self._names.items():
            name = chunk.get(key)
            if name and name != known and isinstance(name, str):
                self._check_name(key, name, number)
        choices = chunk.get("choices")
        if not choices or not isinstance(choices, list):
            return
        for place, choice in enumerate(choices[:_MOST_LOOKED_AT]):
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            if type(index) is not int or index not in self._choices:
                index = self._known_index(choice, place)
            reason = choice.get("finish_reason") or choice.get("finishReason")
            if reason and isinstance(reason, str):
                self._check_reason(reason, index, number)
            delta = choice.get("delta")
            calls = delta.get("tool_calls") if isinstance(delta, dict) else None
            if calls and isinstance(calls, list):
                self._check_calls(calls, index, number)

    def _check_name(self, key: str, name: str, number: int) -> None:
        if not self._names[key]:
            self._names[key] = name
            return
        # Some upstreams make up a name for every chunk: it is noted once.
        self.add(f"its {key} differs from that of the events before", number)
        self._names = {other: known for other, known in self._names.items() if other != key}

    def _known_index(self, choice: dict[str, Any], place: int) -> int:
        index = index_or_place(choice, place)
        if len(self._choices) < _MOST_KNOWN:
            self._choices.add(index)
        return index

    def _check_reason(self, reason: str, index: int, number: int) -> None:
        if reason.lower() in NO_REASONS or index not in self._choices:
            return
        before = self.finish_reasons.get(index, reason)
        if before != reason:
            words = f'finish reason "{printable(reason)}" for choice {index}, after "{printable(before)}"'
            self.add(words, number)
        self.finish_reasons[index] = reason

    def _check_calls(self, calls: list[Any], index: int, number: int) -> None:
        for call in calls[:_MOST_LOOKED_AT]:
            if isinstance(call, dict) and isinstance(call.get("index"), int) and isinstance(call.get("id"), str):
                self._check_call((index, call["index"]), call["id"], number)

    def _check_call(self, place: tuple[int, int], name: str, number: int) -> None:
        if name and (place in self._calls or len(self._calls) < _MOST_KNOWN):
            if self._calls.setdefault(place, name) != name:
                self.add("a new id for a tool call at the same index", number)
            self._calls[place] = name

    def conclude(self, *, events: int, done: bool, inferred: bool) -> None:
        """Note what is missing from a stream that has ended. `inferred`: its aggregator had to infer a finish
        reason."""
        if not events:
            self.add("the stream has no events")
        missing = sorted(self._choices - self.finish_reasons.keys())
        if missing:
            self.add(f"no finish reason for choice {', '.join(map(str, missing[:MOST_NUMBERS]))}")
        elif inferred:
            self.add("no finish reason")
        if self._choices and not done:
            self.add("no [DONE]")
