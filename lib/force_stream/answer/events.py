"""The one reader of events: the bytes of an event stream in; numbered events, their values, and what was odd, out.

Joins the wire grammar and JSON; knows `[DONE]`, errors, and how servers deviate with an event's data. Must not know how
chunks are merged or shown. Whoever needs events, or their number, gets them here, so that all count alike.

Where several events are in one, or their framing is in their data, each is read: `{…}{…}`, `{…}data: {…}`,
`data: data: {…}`, one after a byte order mark or NULs, lines with no blank one between them. What is left and plainly
is a part of one cannot be read; whether an answer is whole without it is for the reader of the answer to say.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from ..endpoints.endpoint import Aggregator, Memo
from ..errors.events import error_from_words, error_in, is_never_error
from ..errors.words import is_keepalive, says_error
from ..wire import jsontext
from ..wire.sse import EventStreamDecoder, ServerSentEvent, end_of_event
from .oddities import Oddities, kind_of

# What stands for bytes that are not UTF-8.
REPLACED: Final = "\ufffd"
_IS_REPLACED: Final = "not all of it is UTF-8, or the upstream put replacement characters in it"
_DONE: Final = "[DONE]"
# How nearly all events start, before their data in one line: maybe with a line that has the event's name.
_START: Final = re.compile(rb"(?:event: (.*)\n)?data: ")
# Bytes. Longer events are read like those of an unknown form.
_SHORT: Final = 8 * 1024
# Forms that are known at a time: a stream has few.
_MOST_FORMS: Final = 64
# What broken framing leaves before an event's data.
_BEFORE_DATA: Final = re.compile(r"(?:[\ufeff\0\s,]++|data:)*+")
# The next event, where one is cut off in the middle of it.
_NEXT_EVENT: Final = re.compile(r"data:\s*(?=\{|\[DONE\])")
# A member of an object.
_MEMBER: Final = re.compile(r'"\s*:')
_BEGINS_WITH_MEMBER: Final = re.compile(r'"[^"\\]*"\s*:')
# How many parts or lines of one event's data may be unreadable before the rest of it counts as one: to look for the
# next part takes time in proportion to the rest.
_MOST_UNREADABLE: Final = 16
# Characters. The parts or lines of longer data are read one by one as they are taken: all of them at once would
# take thirty times the memory.
_LONG: Final = 64 * 1024
# The beginning of a list of events, or of `[DONE]`; not "[ERROR] out of memory", or "[1/3] loading".
_LIST: Final = re.compile(r'\[\s*(?:[\["{]|$)|\[DO?N?E?$')


class Kind(Enum):
    """What an event's data is."""

    CHUNK = "an object"
    VALUE = "another JSON value"
    TEXT = "not JSON"
    UNREADABLE = "a part of some JSON"
    CUT = "the beginning of an object, where the stream ends"
    DONE = "[DONE]"


@dataclass(slots=True)
class Event:
    """One event. `number` counts from 1, and is 0 for `[DONE]` and for lines of text that are not an event; `value` is
    what its data says, if that is JSON; `error` is the body of the error that it reports, if it does."""

    number: int
    kind: Kind
    name: str
    data: str
    value: Any = None
    error: dict[str, Any] | None = None


class Form(NamedTuple):
    """What merges chunks of one form: the names of their members are the same, down to those of their delta, and so are
    their event's name and their type, and their id and model as long as a new one is odd."""

    add: Callable[[dict[str, Any], str], object]
    goes_on: Callable[[dict[str, Any], Memo], bool]
    memo: Memo


type _Names = tuple[Any, ...]


def _names(event: str, chunk: dict[str, Any], watched: Sequence[str]) -> _Names:
    """What makes the form of an event's chunk. `watched`: the members of which a new value is odd. Raises one of
    `_WITHOUT_FORM` if there is none: the chunk or its delta is not an object, or its choices are not one object."""
    choices = chunk.get("choices")
    if choices is None:
        return (event, *map(chunk.get, watched), chunk.get("type"), *chunk)
    (choice,) = choices
    delta = choice.get("delta")
    if delta is None:
        return (event, *map(chunk.get, watched), *chunk, None, *choice)
    return (event, *map(chunk.get, watched), *chunk, None, *choice, None, *delta.keys())


# Or a label of it, or its type, is a list or an object.
_WITHOUT_FORM: Final = (AttributeError, TypeError, ValueError)


class EventReader:
    """A pull parser: feed it bytes, take the events they complete. `patches`: applied to each chunk first.

    `count` is the number of the last event; whoever reads some of them elsewhere adds these. `latest` is that of the
    last one that was merged without being given out. `dones` counts `[DONE]`; `decoder` knows the lines.
    """

    def __init__(self, patches: Sequence[Callable[[dict[str, Any]], None]] = ()) -> None:
        self.count = self.latest = 0
        self.dones = 0
        self.odd = Oddities()
        self.patches = patches
        self.decoder = EventStreamDecoder()
        # How the latest plain event starts, the name that it has there, its lines, and where its data is.
        self._start, self._name, self._lines, self._at = b"data: ", "", 1, 6
        self._forms: dict[_Names, Form] = {}
        self._watched: Sequence[str] = ()
        # The data of an event that was parsed before it was read, and its value.
        self._ahead: tuple[str | None, Any] = (None, None)

    def feed(self, data: bytes) -> list[Event] | Iterator[Event]:
        """The events that these bytes complete; an iterator, to be used up before the next bytes, where they may be
        very many. Never raises."""
        if self.decoder.between_events and data.endswith(b"\n\n") and b"\r" not in data:
            events = self.read_plain(data)
            if events is not None:
                return events
        raws = self.decoder.feed(data)
        return self._read_raw(raws[0]) if len(raws) == 1 else [event for raw in raws for event in self._read_raw(raw)]

    def read_plain(self, event: bytes) -> list[Event] | Iterator[Event] | None:
        """The same for bytes that start where an event does, end with a blank line, and have no CR: if they are one
        event as nearly all are, for which the decoder takes longer. None if they are not."""
        if not (event.startswith(self._start) or self._finds_start(event, 0)):
            return None
        data = event[self._at : -2]
        if not data or b"\n" in data:
            return None
        self.decoder.lines += self._lines
        return self._read(self._name, data.decode("utf-8", "replace"))

    def _finds_start(self, data: bytes, at: int) -> bool:
        """Note how an event starts that starts otherwise than the one before. Whether it is a plain one."""
        start = _START.match(data, at)
        if start is None or b"data:" in (start[1] or b""):  # a name with more data, whose line end is lost
            return False
        self._start, self._at, self._lines = start[0], len(start[0]), start[0].count(b"\n") + 1
        self._name = (start[1] or b"").decode(errors="replace")
        return True

    def know(self, event: Event, aggregator: Aggregator) -> None:
        """Let `merge_run` merge events like this one, all of which are as sure to be a part of the answer."""
        if len(self._watched) != len(self.odd.watched):
            self._watched = [*self.odd.watched]
            self._forms.clear()
        if self.dones or self.patches or len(self._forms) >= _MOST_FORMS:
            return
        with suppress(*_WITHOUT_FORM):
            names = _names(event.name, event.value, self._watched)
            if is_never_error(event.value, event.name):
                self._forms.setdefault(names, Form(aggregator.add, aggregator.goes_on, {}))

    def forget(self) -> None:
        """Let go of whatever merges the chunks."""
        self._forms.clear()

    def merge_run(self, data: bytes, at: int, most: int) -> tuple[int, int]:
        """Merge events from `at` on, in bytes without a CR, as long as they are plain ones of a known form, and at most
        so many: what could be wrong or odd with them was looked for when their form became known, but for what
        differs from chunk to chunk. Returns where they end, and how many they are."""
        forms, watched, start, width, name = self._forms, self._watched, self._start, self._at, self._name
        before, lines = self.count, self._lines
        most += before
        # This loop runs once for each event.
        while self.count < most:
            if not data.startswith(start, at):
                if not self._finds_start(data, at):
                    break
                start, width, name, lines = self._start, self._at, self._name, self._lines
            end = data.find(b"\n", at + width, at + _SHORT)
            if not data.startswith(b"\n\n", end):
                break
            text = data[at + width : end].decode("utf-8", "replace")
            chunk, stop = jsontext.scan(text, 0)
            if stop != len(text) or REPLACED in text:
                break
            try:
                add, goes_on, memo = forms[_names(name, chunk, watched)]
            except (KeyError, *_WITHOUT_FORM):
                self._ahead = text, chunk
                break
            self.count += 1
            self.decoder.lines += lines
            if not goes_on(chunk, memo):
                self.odd.check(chunk, self.count)
                add(chunk, name)
            at = end + 2
        if self.count > before:
            self.latest = self.count
        return at, self.count - before

    def close(self) -> list[Event]:
        """The event that the end of the stream leaves without its blank line, if there is one."""
        return [event for raw in self.decoder.close() for event in self._read_raw(raw, at_end=True)]

    def look_for_replaced(self, data: bytes) -> None:
        """Note what is odd about the next events, all in `data`, which are read elsewhere: they differ from ones before
        in their texts alone, and those can be odd in one way only. There may be comments between them."""
        at, number = 0, self.count
        while 0 <= at < len(data):
            end = end_of_event(data, at)
            if not data.startswith(b":", at):
                number += 1
                if REPLACED in data[at:end].decode(errors="replace"):
                    self.odd.add(_IS_REPLACED, number)
            at = end

    def conclude(self, *, inferred: bool = False) -> None:
        """Note what is odd about the stream as a whole, which has ended."""
        if self.decoder.unknown_lines:
            self.odd.add("lines that are not part of an event stream")
        self.odd.conclude(events=self.count, done=self.dones > 0, inferred=inferred)

    def _read_raw(self, raw: ServerSentEvent, *, at_end: bool = False) -> list[Event] | Iterator[Event]:
        if raw.bare and not raw.data.lstrip("\ufeff\0 \t").startswith(("{", "[")):
            if _is_end_of_json(raw.data):  # of an event whose field and beginning are lost
                return [self._text(raw.event, raw.data, at_end=False)]
            error = _error_of(raw.data) if self.count else None  # without any event, it may be a page
            return [Event(0, Kind.TEXT, raw.event, raw.data, error=error)]
        return self._read(raw.event, raw.data, at_end=at_end)

    def _read(self, name: str, data: str, *, at_end: bool = False) -> list[Event] | Iterator[Event]:
        if data.strip() == _DONE:
            return self._done(name)
        (text, value), self._ahead = self._ahead, (None, None)
        try:
            value = value if text == data else jsontext.loads(data)
        except ValueError:
            # Events with no blank line between them (ggml-org/llama.cpp#14268): each line is one.
            read = self._read_lines if "\n" in data.strip() else self._recover
            events = read(name, data, at_end=at_end)
            return events if len(data) > _LONG else [*events]
        return self._read_value(name, data, value)

    def _read_lines(self, name: str, data: str, *, at_end: bool) -> Iterator[Event]:
        # Not all at once: lines may be very many, and not all of them are looked at.
        at, last = 0, len(data.rstrip())
        in_vain, has_hole = 0, False
        while at < last:
            end = data.find("\n", at, last)
            if has_hole and in_vain > _MOST_UNREADABLE and end >= 0:
                yield self._text(name, data[at:], at_end=at_end)
                return
            line, at = (data[at:], last) if end < 0 else (data[at:end], end + 1)
            of_line = [*self._read(name, line, at_end=at_end and end < 0)] if line.strip() else []
            in_vain += any(event.kind in (Kind.UNREADABLE, Kind.TEXT) for event in of_line)
            has_hole = has_hole or any(event.kind is Kind.UNREADABLE for event in of_line)
            yield from of_line

    def _done(self, name: str) -> list[Event]:
        self.dones += 1
        self.forget()
        if self.dones == 2:
            self.odd.add("more than one [DONE]")
        return [Event(0, Kind.DONE, name, _DONE)]

    def _recover(self, name: str, data: str, *, at_end: bool) -> Iterator[Event]:
        """The events in data that is not JSON."""
        start = _BEFORE_DATA.match(data).end()  # type: ignore[union-attr]  # it matches anything
        text, at, unreadable = data[start:].rstrip("\ufeff\0 \t\r"), 0, 0
        if not text.startswith(("{", "[")):
            yield self._text(name, data, at_end=at_end)
            return
        while at < len(text):
            begun = at
            # Asked first: an error of the parser counts the lines before it.
            if text.startswith(_DONE, begun):
                at = begun + len(_DONE)
                yield from self._done(name)
            else:
                try:
                    value, at = jsontext.value_at(text, begun)
                    if begun or at < len(text) or start:
                        self.odd.add("its framing is broken", self.count + 1)
                    yield from self._read_value(name, text[begun:at], value)
                except ValueError:
                    unreadable += 1
                    found = _NEXT_EVENT.search(text, begun) if unreadable < _MOST_UNREADABLE else None
                    at = found.start() if found else len(text)
                    yield self._text(name, text[begun:at], at_end=at_end and not found)
            at = _BEFORE_DATA.match(text, at).end()  # type: ignore[union-attr]

    def _read_value(self, name: str, data: str, value: Any) -> list[Event]:
        if isinstance(value, dict):
            return [self._chunk(name, data, value)]
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            return [event for each in value for event in self._read_value(name, data, each)]
        number = self._number(data)
        self.odd.add(f"its data is {kind_of(value)}, not an object", number)
        error = _error_of(value) if isinstance(value, str) else None
        return [Event(number, Kind.VALUE, name, data, value, error)]

    def _chunk(self, name: str, data: str, chunk: dict[str, Any]) -> Event:
        number = self._number(data)
        error = error_in(chunk, name)
        if error is not None:
            self.odd.add("an error", number)
        elif self.patches:
            for patch in self.patches:
                patch(chunk)
        self.odd.check(chunk, number)
        return Event(number, Kind.CHUNK, name, data, chunk, error)

    def _number(self, data: str) -> int:
        self.count = number = self.count + 1
        if self.dones:
            self.odd.add("events after [DONE]", number)
        if REPLACED in data:
            self.odd.add(_IS_REPLACED, number)
        return number

    def _text(self, name: str, data: str, *, at_end: bool) -> Event:
        number = self._number(data)
        # Python's spelling of an object is most often an error's.
        is_spelled = data.lstrip().startswith("{'")
        is_part = _is_part_of_json(data)
        error = _error_of(data, named=name == "error") if name == "error" or is_spelled or not is_part else None
        if error is not None:
            self.odd.add("an error", number)
            return Event(number, Kind.TEXT, name, data, error=error)
        kind = Kind.TEXT
        if is_part:
            kind = Kind.CUT if at_end or _DONE.startswith(data.strip()) else Kind.UNREADABLE
        self.odd.add(_ODD_TEXTS[kind], number)
        return Event(number, kind, name, data)


def is_whole(data: str) -> bool:
    """Whether an event's data is an object, or `[DONE]`, from its beginning to its end."""
    if data.strip() == _DONE:
        return True
    try:
        return data.rstrip().endswith("}") and isinstance(jsontext.loads(data), dict)
    except (ValueError, RecursionError):
        return False


_ODD_TEXTS: Final = {
    Kind.TEXT: "its data is not JSON",
    Kind.UNREADABLE: "its data cannot be read",
    Kind.CUT: "cut off",
}


def _error_of(text: str, *, named: bool = False) -> dict[str, Any] | None:
    """The body of the error that a text reports. `named`: its event says that it is one."""
    return error_from_words(text) if named or says_error(text) else None


def _is_part_of_json(text: str) -> bool:
    """Whether a text that is not JSON is plainly the beginning, the end or the middle of some."""
    text = text.strip()
    if _is_end_of_json(text):
        return True
    if is_keepalive(text):
        return False
    begins = text.startswith("{") or _LIST.match(text) is not None
    if _BEGINS_WITH_MEMBER.match(text) and not says_error(text):
        return True  # a line of JSON over several of them
    return begins or text.count("}") > text.count("{") or text.count("]") > text.count("[")


def _is_end_of_json(text: str) -> bool:
    """Whether a text is plainly the end of some JSON, whatever it begins with: `: "b"}}]}`."""
    text = text.strip()
    if text.endswith("}]}") and text.count("}") > text.count("{"):
        return True
    if '"' not in text or not text.endswith(("}", "]")) or text.startswith(("{", "[")):
        return False
    if text.count("}") > text.count("{"):
        return True
    # A brace in a text may stand for one that is lost; words are not followed by a part of an object.
    begin = text.find("{")
    if begin < 0 or not _MEMBER.search(text, 0, begin) or says_error(text):
        return False
    try:
        return jsontext.value_at(text, begin)[1] < len(text)
    except ValueError:
        return True
