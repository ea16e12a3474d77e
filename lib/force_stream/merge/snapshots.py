"""Whole objects that come in several chunks: each has all so far, or only what is new.

Knows values; must not know choices or endpoints. A text is cumulative if each begins with all before it (Perplexity,
Writer), otherwise its pieces are joined. Said once, a value is that value.
"""

from typing import Any, Final

from .fields import CHANGED, SAME, Effect, Fields, Fragment, Latest, Rule, first, spelled
from .tool_calls import ToolCalls


class _Text:
    """Texts of which each is all so far, or the next piece."""

    def __init__(self) -> None:
        self._latest = ""
        self._lengths: list[int] = []  # of those before, each of which begins the latest
        self._pieces: list[str] | None = None

    def add(self, value: Any) -> Effect:
        if not value or not isinstance(value, str):
            return SAME
        if self._pieces is not None:
            self._pieces.append(value)
        elif value.startswith(self._latest):
            self._lengths.append(len(value))
            self._latest = value
        else:
            self._pieces = [self._latest[:length] for length in self._lengths] + [value]
        return CHANGED

    def result(self) -> str:
        return self._latest if self._pieces is None else "".join(self._pieces)


class _List:
    """Lists of which each is all so far, or adds entries."""

    def __init__(self) -> None:
        self._value: list[Any] = []

    def add(self, value: Any) -> Effect:
        if not value or not isinstance(value, list):
            return SAME
        if value[: len(self._value)] == self._value:
            self._value = [*value]
        else:
            self._value += value
        return CHANGED

    def result(self) -> list[Any]:
        return self._value


class _Calls:
    """The tool calls of messages: a list that is said once stays as it is; of several, the calls go by their place."""

    def __init__(self) -> None:
        self._latest = Latest()
        self._calls = ToolCalls()
        self._count = 0

    def add(self, value: Any) -> Effect:
        if not value or not isinstance(value, list):
            return self._latest.add(value)
        if value != self._latest.result():
            self._count += 1
            self._latest.add(value)
            for place, entry in enumerate(value):
                if isinstance(entry, dict):
                    self._calls.add([{"index": place, **entry}])
        return CHANGED

    def result(self) -> Any:
        return self._calls.result() if self._count > 1 else self._latest.result()


class Snapshot(Fragment):
    """A member of such an object: its first informative value shows how it is to be merged."""


class _Words(Snapshot):
    """A text that the model says, where a scalar is its own spelling, or a list of parts."""

    def add(self, value: Any) -> Effect:
        text = spelled(value)
        return super().add(value if text is None else text)


_WORDS: Final = ("content", "refusal", "reasoning_content", "reasoning", "reasoning_text")
_MEMBERS: Final = {"role": first, "tool_calls": _Calls, **dict.fromkeys(_WORDS, _Words)}


def _object() -> Fields:
    return Fields(_MEMBERS, Snapshot)


Snapshot.rules = {str: _Text, list: _List, dict: _object}
snapshots: Rule = _object
