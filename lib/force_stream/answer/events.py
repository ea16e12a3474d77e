"""The one reader of events: the bytes of an event stream in; numbered events, their values, and what was odd, out.

Joins the wire grammar and JSON; knows `[DONE]`, errors, and how servers deviate with an event's data. Must not know how
chunks are merged or shown. Whoever needs events, or their number, gets them here, so that all count alike.
"""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from ..errors.events import error_in
from ..wire import jsontext
from ..wire.sse import EventStreamDecoder, end_of_event
from .oddities import Oddities, kind_of

# What stands for bytes that are not UTF-8.
REPLACED: Final = "\ufffd"
_IS_REPLACED: Final = "not all of it is UTF-8, or the upstream put replacement characters in it"
_DONE: Final = "[DONE]"
# One event as nearly all are, for which the decoder takes longer; without a CR in it, this is all that it can be.
_PLAIN_EVENT: Final = re.compile(rb"(?:event: (.*)\n)?data: (.+)\n\n")


class Kind(Enum):
    """What an event's data is."""

    CHUNK = "an object"
    VALUE = "another JSON value"
    TEXT = "not JSON"
    CUT = "the beginning of an object, where the stream ends"
    DONE = "[DONE]"


class Event(NamedTuple):
    """One event. `number` counts from 1, and is 0 for `[DONE]`; `value` is what its data says, if that is JSON; `error`
    is the body of the error that it reports, if it does."""

    number: int
    kind: Kind
    name: str
    data: str
    value: Any = None
    error: dict[str, Any] | None = None


class EventReader:
    """A pull parser: feed it bytes, take the events they complete. `patches`: applied to each chunk first.

    `count` is the number of the last event; whoever reads some of them elsewhere adds these. `dones` counts `[DONE]`;
    `decoder` knows the lines.
    """

    def __init__(self, patches: Sequence[Callable[[dict[str, Any]], None]] = ()) -> None:
        self.count = 0
        self.dones = 0
        self.odd = Oddities()
        self.patches = patches
        self.decoder = EventStreamDecoder()

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Never raises."""
        plain = _PLAIN_EVENT.fullmatch(data) if self.decoder.between_events and b"\r" not in data else None
        if plain is None:
            return [event for raw in self.decoder.feed(data) for event in self._read(raw.event, raw.data)]
        name, value = plain.groups()
        self.decoder.lines += 1 if name is None else 2
        return self._read((name or b"").decode(errors="replace"), value.decode(errors="replace"))

    def close(self) -> list[Event]:
        """The event that the end of the stream leaves without its blank line, if there is one."""
        return [event for raw in self.decoder.close() for event in self._read(raw.event, raw.data, at_end=True)]

    def look_for_replaced(self, data: bytes) -> None:
        """Note what is odd about the next events, all in `data`, which are read elsewhere: they differ from the one
        before in their texts alone, and those can be odd in one way only."""
        at, number = 0, self.count
        while 0 <= at < len(data):
            end, number = end_of_event(data, at), number + 1
            if REPLACED in data[at:end].decode(errors="replace"):
                self.odd.add(_IS_REPLACED, number)
            at = end

    def conclude(self, *, inferred: bool = False) -> None:
        """Note what is odd about the stream as a whole, which has ended."""
        if self.decoder.unknown_lines:
            self.odd.add("lines that are not part of an event stream")
        self.odd.conclude(events=self.count, done=self.dones > 0, inferred=inferred)

    def _read(self, name: str, data: str, *, at_end: bool = False) -> list[Event]:
        if data.strip() == _DONE:
            self.dones += 1
            if self.dones == 2:
                self.odd.add("more than one [DONE]")
            return [Event(0, Kind.DONE, name, data)]
        try:
            value = jsontext.loads(data)
        except ValueError:
            # Events with no blank line between them (ggml-org/llama.cpp#14268): each line is one.
            lines = [line for line in data.split("\n") if line.strip()] if "\n" in data else []
            if len(lines) > 1:
                return [event for line in lines for event in self._read(name, line, at_end=at_end)]
            return [self._text(self._number(data), name, data, at_end)]
        number = self._number(data)
        if not isinstance(value, dict):
            self.odd.add(f"its data is {kind_of(value)}, not an object", number)
            return [Event(number, Kind.VALUE, name, data, value)]
        error = error_in(value, name)
        if error is not None:
            self.odd.add("an error", number)
        else:
            for patch in self.patches:
                patch(value)
        self.odd.check(value, number)
        return [Event(number, Kind.CHUNK, name, data, value, error)]

    def _number(self, data: str) -> int:
        self.count += 1
        if self.dones:
            self.odd.add("events after [DONE]", self.count)
        if REPLACED in data:
            self.odd.add(_IS_REPLACED, self.count)
        return self.count

    def _text(self, number: int, name: str, data: str, at_end: bool) -> Event:
        if name == "error":
            self.odd.add("an error", number)
            error = {"error": {"message": data, "type": "error", "param": None, "code": None}}
            return Event(number, Kind.TEXT, name, data, error=error)
        is_cut = at_end and data.lstrip().startswith("{")
        self.odd.add("cut off" if is_cut else "its data is not JSON", number)
        return Event(number, Kind.CUT if is_cut else Kind.TEXT, name, data)
