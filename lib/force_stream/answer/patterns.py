"""Chunks that differ from the one before in a text alone, read without parsing them.

Most of a stream repeats itself: the envelope of one chunk is that of the next, to the byte, and only a fragment of text
is new. Once a chunk was merged, and all of it but some texts would change nothing if it came again (the effect, in
`merge.fields`), its bytes are a template: an event that fits it is read by comparing bytes. Pieces that fit may wait,
since many are read much cheaper in one go.

Knows JSON strings and the bytes of an event; must not know what any member means. The law: the result is always what
parsing and merging every chunk would have given.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import lru_cache
from itertools import pairwise, takewhile
from typing import Any, Final, NamedTuple

from ..merge.fields import CHANGED, Concat, Extend, Padding, Slots, Target
from ..wire import jsontext
from ..wire.sse import end_of_event
from .events import REPLACED, Event, EventReader, is_whole

_BACKSLASH: Final = ord("\\")
_NUMBER: Final = re.compile(rb"(?:0|[1-9][0-9]*)(?=[,}])")
# The start of an event of which nothing has ended, but for its name. (A line that reports an error is an event itself.)
_UNFINISHED: Final = re.compile(rb"(?:event:[^\r\n]*\r?\n)?[^\r\n]+")
# Events that are matched before it is known whether their texts are valid.
_FIRST_RUN: Final = 32
# Events. How many pass without an attempt after failed attempts: twice as many each time, up to this.
_LONGEST_PAUSE: Final = 64
# Bytes. Most events are shorter.
_SHORT_EVENT: Final = 1024
# Bytes. An incomplete event that is longer goes to the decoder: it must not be copied for every piece.
_LONGEST_REST: Final = 8 * 1024
# Bytes. Pieces that start and end as events that fit wait until they are this many, or until somebody flushes them.
# What is between may not fit, and is read in one go.
_MOST_WAITING: Final = 8 * 1024


class Slot(NamedTuple):
    """A place where the bytes may differ: the inside of a string or a list, or a number. `named`: where the member's
    name starts; `target`: what its values are appended to."""

    start: int
    end: int
    named: int
    opening: bytes
    target: Target


class _Values:
    """What the events of a run have in one slot: the bytes, and (once they were checked) the values."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.raw: list[bytes] = []
        self.replaced = False
        self._values: list[Any] = []

    def check(self) -> int:
        """How many of them, from the first on, are valid JSON for such a slot."""
        if not self.slot.opening:
            return _leading(map(_is_number, self.raw))
        joined, opening = b"".join(self.raw), self.slot.opening
        has_line_end = b"\n" in joined or b"\r" in joined
        if opening == b'"' and joined.isascii() and not has_line_end and b"\\" not in joined:
            # A quote is in none of them.
            keeps_pieces = isinstance(self.slot.target, Concat) and self.slot.target.keeps_pieces
            self._values = b'"'.join(self.raw).decode("ascii").split('"') if keeps_pieces else [joined.decode("ascii")]
            return len(self.raw)
        # A quote between them, as `_parse` has it: the halves of a split character must not make a whole one.
        self.replaced = not joined.isascii() and REPLACED in b'"'.join(self.raw).decode(errors="replace")
        # A line end inside a value ends the event there, by the grammar of event streams.
        values = None if has_line_end else _parse(opening, self.raw)
        if values is None:
            valid = (b"\n" not in one and b"\r" not in one and _parse(opening, [one]) is not None for one in self.raw)
            return _leading(valid)
        self._values = values
        return len(self.raw)

    def append(self) -> None:
        """Append all of them to their target at once."""
        if isinstance(self.slot.target, Concat):
            self.slot.target.extend(self._values)
        elif isinstance(self.slot.target, Extend):
            self.slot.target.add([item for items in self._values for item in items])


class Template:
    """One event's bytes, with slots."""

    def __init__(self, event: bytes, slots: Sequence[Slot]) -> None:
        fixed = _around(event, slots)
        self._first, self._last = fixed[0], fixed[-1]
        self._slots = slots
        # How many are read at a time, twice as many after each time that all were valid: what comes after an event that
        # is not is read again.
        self._most = _FIRST_RUN
        # For each slot: where it stops, and what follows it. A list ends where all that follows it starts; a string or
        # a number where the first byte of that is.
        self._steps = [
            (part if slot.opening == b"[" else part[:1], part, len(part))
            for slot, part in zip(slots, fixed[1:], strict=True)
        ]

    def is_like(self, data: bytes) -> bool:
        """Whether these bytes start and end as one or more events do that fit."""
        return data.endswith(self._last) and data.startswith(self._first)

    def match_run(self, data: bytes, start: int) -> tuple[int, int, bool]:
        """Where the run of events that fit ends, from `start` on, how many they are, and whether they have replacement
        characters. Their texts are appended to where they belong."""
        at, total, has_replaced = start, 0, False
        while data.startswith(self._first, at):
            most = self._most
            slots = [_Values(slot) for slot in self._slots]
            end, count = self._fit(data, at, slots, most)
            valid = min([values.check() for values in slots]) if count else 0
            if valid < count:
                # Not JSON after all: what is valid before it is matched again, and nothing else.
                most = valid
                slots = [_Values(slot) for slot in self._slots]
                end, count = self._fit(data, at, slots, most)
                for values in slots:
                    values.check()
            if not count:
                break
            for values in slots:
                values.append()
                has_replaced = has_replaced or values.replaced
            at, total = end, total + count
            if count < self._most:
                break
            self._most *= 2
        return at, total, has_replaced

    def _fit(self, data: bytes, start: int, slots: list[_Values], most: int) -> tuple[int, int]:
        """Where the events whose bytes fit end, and how many they are; the bytes in the slots are noted."""
        first, width = self._first, len(self._first)
        find, startswith = data.find, data.startswith
        steps = [(*step, values.raw.append) for step, values in zip(self._steps, slots, strict=True)]
        at = start
        # This loop runs once for each event, and is where the time goes: every call in it is to C code.
        for _ in range(most):
            if not startswith(first, at):
                break
            here = at + width
            for stop, part, length, append in steps:
                end = find(stop, here)
                if data[end - 1] == _BACKSLASH:
                    end = _end_of_string(data, here)
                if not startswith(part, end):
                    break
                append(data[here:end])
                here = end + length
            else:
                at = here
                continue
            break
        count = len(slots[-1].raw)
        for values in slots:
            del values.raw[count:]
        return at, count


def _around(event: bytes, slots: Sequence[Slot]) -> list[bytes]:
    """The bytes before, between and after the slots."""
    cuts = [0, *(cut for slot in slots for cut in (slot.start, slot.end)), len(event)]
    return [event[start:end] for start, end in list(pairwise(cuts))[::2]]


def _leading(flags: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    return sum(1 for _ in takewhile(bool, flags))


def _end_of_string(data: bytes, start: int) -> int:
    """Where the string's closing quote is, -1 if nowhere."""
    end = data.find(b'"', start)
    while end > start and data[end - 1] == _BACKSLASH:
        backslashes = end - 1
        while backslashes > start and data[backslashes - 1] == _BACKSLASH:
            backslashes -= 1
        if (end - backslashes) % 2 == 0:
            break
        end = data.find(b'"', end + 1)
    return end


def _end_of_list(event: bytes, start: int) -> int:
    """Where the list's closing bracket is, given where its inside starts; -1 if nowhere."""
    try:
        _, _, rest = jsontext.split(event[start - 1 :].decode())
    except ValueError:
        return -1
    return len(event) - len(rest.encode()) - 1


def _end_of_number(event: bytes, start: int) -> int:
    """Where the whole number ends, -1 if there is none."""
    number = _NUMBER.match(event, start)
    return -1 if number is None else number.end()


def _is_number(inside: bytes) -> bool:
    """Whether these bytes are a whole number by JSON's grammar."""
    return inside.isdigit() and (inside[:1] != b"0" or len(inside) == 1)


def _parse(opening: bytes, insides: Sequence[bytes]) -> list[Any] | None:
    """The values of JSON strings or lists, given their insides; None if one of them is not valid, or an empty list.
    Invalid UTF-8 is replaced in each by itself, as it would have been in its event, since a quote ends any sequence."""
    closing = b'"' if opening == b'"' else b"]"
    text = b"[" + opening + (closing + b"," + opening).join(insides) + closing + b"]"
    try:
        values: list[Any] = jsontext.loads(text.decode(errors="replace"))
    except ValueError:
        return None
    if opening == b'"':
        return values
    # An inside that ends its list and starts another would make one more of them than there are insides.
    return values if len(values) == len(insides) and all(isinstance(one, list) and one for one in values) else None


def template_of(event: bytes, data: bytes, slots: Slots, before: bytes = b"") -> Template | None:
    """The template of an event with this `data`, a JSON text, of which the `slots` may differ; None if the bytes do not
    plainly show where they are. Padding that was the same in the event `before` is assumed to stay the same: a slot
    costs time in every event, and a wrong guess one more event parsed."""
    head, _, end = event.partition(data)
    if REPLACED.encode() in data or not _is_head(head) or end not in (b"\n\n", b"\r\n\r\n"):
        return None
    found = [_slot(event, key, target) for key, target in slots]
    known = sorted((slot for slot in found if slot is not None), key=lambda slot: slot.start)
    texts = [slot for slot in known if not isinstance(slot.target, Padding)]
    if len(known) < len(found) or not texts:
        return None
    if any(b"\\" in part for part in _around(event, known)):
        return None  # a name may be spelled with escapes there, and the bytes in a slot be another member's
    varying = [slot for slot in known if slot in texts or (before and event[slot.named : slot.end + 1] not in before)]
    return Template(event, varying)


def _is_head(head: bytes) -> bool:
    """Whether nothing but the field's name, and the event's name, comes before an event's data."""
    *named, last = head.replace(b"\r\n", b"\n").split(b"\n")
    return last in (b"data: ", b"data:") and len(named) < 2 and all(line.startswith(b"event:") for line in named)


def _slot(event: bytes, key: str, target: Target) -> Slot | None:
    # Inside a JSON string a quote has a backslash before it, so these bytes are a member's name wherever they are.
    # Where they are twice before a value of one kind, it is not clear which is meant.
    found = list(_member(key, _TEXT if isinstance(target, Concat) else _VALUE[type(target)]).finditer(event))
    if len(found) != 1:
        return None
    start, opening = found[0].end(), found[0]["opening"]
    end = _ENDS[opening](event, start)
    return None if end < 0 else Slot(start, end, found[0].start(), opening, target)


@lru_cache(maxsize=256)
def _member(key: str, value: bytes) -> re.Pattern[bytes]:
    # A name with half of a surrogate pair is spelled with an escape, so its bytes are never found.
    return re.compile(b'"%s": ?%s' % (re.escape(key.encode(errors="surrogatepass")), value))


# What opens a member's value, by its target; padding is a string or a number.
_TEXT: Final = rb'(?P<opening>")'
_VALUE: Final = {Extend: rb"(?P<opening>\[)", Padding: rb'(?P<opening>"|(?=[0-9]))'}
_ENDS: Final = {b'"': _end_of_string, b"[": _end_of_list, b"": _end_of_number}


class Repeats:
    """Reads events, except those that fit the template in force: these it merges itself.

    `parsed` counts the bytes of the others. `effect`: what would change if the event that was taken last came again;
    whoever takes events sets it before the next.
    """

    def __init__(self, reader: EventReader) -> None:
        self.parsed = 0
        self.effect: Slots | None = None
        self._reader = reader
        self._decoder = reader.decoder
        self._template: Template | None = None
        self._has_matched = False
        self._event = b""
        self._before = b""
        self._rest = b""
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._until_attempt = 0
        self._pause = 1

    def feed(self, data: bytes) -> Iterator[Event] | None:
        """The events that these bytes complete, after what waited, but for those that fit the template. None if they
        wait for more like them."""
        if self._template is None or not self._template.is_like(data):
            return self.flush(data)
        at_event = self._waiting or (not self._rest and self._decoder.between_events)
        if not at_event or self._waiting_size + len(data) >= _MOST_WAITING:
            return self.flush(data)
        self._waiting.append(data)
        self._waiting_size += len(data)
        return None

    def flush(self, data: bytes = b"") -> Iterator[Event]:
        """The same, whatever they are."""
        if self._rest or self._waiting:
            data = b"".join((self._rest, *self._waiting, data))
            self._rest, self._waiting, self._waiting_size = b"", [], 0
        at = 0
        while at < len(data):
            starts = self._decoder.between_events
            if starts and self._template is not None:
                at = self._match_run(self._template, data, at)
                if at == len(data):
                    return
            # What `end_of_event` does first, without the call: this runs once for each event that is parsed.
            end = data.find(b"\n\n", at, at + _SHORT_EVENT) + 2
            if end < 2 or data.find(b"\r", at, end) >= 0:
                end = end_of_event(data, at)
            if end < 0:
                end = len(data)
                # Once it is whole, it is read faster, and may fit.
                if starts and end - at <= _LONGEST_REST and _UNFINISHED.fullmatch(data, at):
                    self._rest = data[at:]
                    return
            for event in self._parse(data[at:end], starts=starts):
                self.effect = CHANGED
                yield event
                self._learn(event)
            at = end

    @property
    def begun(self) -> int:
        """The bytes of the event that has no blank line yet."""
        rest = 0 if self._rest.startswith(b":") else len(self._rest)
        return rest + self._decoder.begun

    def flush_late(self) -> Iterator[Event]:
        """The same, with the event that has no blank line yet, if its data is whole: nothing can be added to it."""
        yield from self.flush()
        if self.begun:
            ahead = deepcopy(self._decoder)
            found = [*ahead.feed(self._rest), *ahead.close()]
            if found and all(is_whole(event.data) for event in found):
                yield from self.flush(b"\n\n")

    def close(self) -> Iterator[Event]:
        """What the end of the stream leaves."""
        yield from self.flush()
        if self._rest:
            yield from self._parse(self._rest, starts=False)
        yield from self._reader.close()

    def _learn(self, event: Event) -> None:
        """Make the last event the template, if it can be one."""
        if self._reader.patches or not self._event:
            return
        self._until_attempt -= 1
        if self._until_attempt >= 0:
            return
        if self.effect:
            data = event.data.encode(errors="surrogatepass")
            self._template = template_of(self._event, data, self.effect, self._before)
        self._before = self._event
        if self._template is None:
            self._attempted(success=False)

    def _match_run(self, template: Template, data: bytes, start: int) -> int:
        end, count, has_replaced = template.match_run(data, start)
        if count:
            self._has_matched = True
            if has_replaced:
                self._reader.look_for_replaced(data[start:end])
            self._reader.count += count
        return end

    def _parse(self, piece: bytes, *, starts: bool) -> list[Event] | Iterator[Event]:
        """The events of a piece that is one event, or part of one. `starts`: it starts where an event does."""
        self.parsed += len(piece)
        events = self._reader.feed(piece)
        self._event = piece if starts and isinstance(events, list) and len(events) == 1 else b""
        if events and self._template is not None:
            # What would have been no change may be one after this event.
            self._template = None
            self._attempted(self._has_matched)
            self._has_matched = False
        return events

    def _attempted(self, success: bool) -> None:
        self._pause = 1 if success else min(2 * self._pause, _LONGEST_PAUSE)
        self._until_attempt = self._pause - 1
