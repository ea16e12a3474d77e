"""An event stream as a person looks at it: when each event came, and what it added.

Knows what `events` reads, and the figures of an answer; must not know mitmproxy, or how it is set in lines of text.
Nothing here raises, and the work is bounded whatever the bytes: of a long stream a part is looked at, and `unread` says
of how much that is not true.
"""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Final

from ..answer.events import Event, EventReader, Kind
from ..answer.oddities import MOST_NUMBERS
from ..wire.sse import end_of_event
from .additions import Additions, brief, quote, speaks

# Lines of the timeline, from the stream's begin and from its end.
SHOWN_FIRST: Final = 4_000
SHOWN_LAST: Final = 200
# What is looked at from the begin on: blocks of lines between blank ones, and what takes time in them (lines, and
# values of JSON). A stream with 17,000 events has 250,000 of these.
MOST_BLOCKS: Final = 20_000
MOST_WORK: Final = 400_000
MOST_WORK_IN_BLOCK: Final = 50_000
# Bytes in which the last events are looked for, and work on them.
TAIL: Final = 512 * 1024
MOST_WORK_IN_TAIL: Final = 50_000
# Seconds. A longer silence stands out.
LONG_GAP: Final = 1.0
LONGEST_TYPE: Final = 48
LONGEST_COMMENT: Final = 120
# How far the first content is looked for, in bytes and events, where nothing else is.
MOST_BYTES_TO_CONTENT: Final = 64 * 1024
MOST_EVENTS_TO_CONTENT: Final = 100

_LINE_ENDS: Final = re.compile(rb"[\r\n]*")
_COMMENT: Final = re.compile(rb"(?<![^\r\n]):([^\r\n]*)")
_EMPTY_USAGES: Final[tuple[Any, ...]] = (None, 0, {}, [], "")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the timeline. `number` is None for what is no event: a comment, `[DONE]`. `at`: seconds since the
    request went out, `gap`: since the entry before; None where that is not known."""

    type: str
    number: int | None = None
    at: float | None = None
    gap: float | None = None
    added: str = ""

    @property
    def after_long_gap(self) -> bool:
        return self.gap is not None and self.gap >= LONG_GAP


@dataclass(slots=True)
class Timeline:
    """One event stream. `first` and `last` are the entries to show, `left_out` counts those between them, of which
    `unread` were not even looked at (an estimate). Times are in seconds since the request went out."""

    bytes: int
    first: list[Entry] = field(default_factory=list)
    last: list[Entry] = field(default_factory=list)
    left_out: int = 0
    unread: int = 0
    looked_at: int = 0
    events: int = 0
    comments: int = 0
    without_data: int = 0
    dones: int = 0
    timed: bool = False
    first_event: float | None = None
    first_content: float | None = None
    ended: float | None = None
    longest_gap: tuple[float, float] | None = None
    models: list[str] = field(default_factory=list)
    finish_reasons: dict[str, str] = field(default_factory=dict)
    usage: Any = None
    usages: int = 0
    # What the body is where it is no event stream.
    json: str = ""
    odd: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float | None:
        """The tokens that came out, over the time from the first content to the end."""
        usage = self.usage if isinstance(self.usage, dict) else {}
        tokens = usage.get("completion_tokens", usage.get("output_tokens"))
        if not isinstance(tokens, int) or not 0 < tokens < 10**9 or self.first_content is None or self.ended is None:
            return None
        seconds = self.ended - self.first_content
        return tokens / seconds if seconds > 0.001 else None


def read(body: bytes, times: object = None) -> Timeline:
    """The timeline of a body. `times`: for each piece of it, seconds and bytes so far, in one flat list; whatever else
    it may be counts as none."""
    return _Reader(body, times).read()


def first_content(body: bytes, times: object) -> float | None:
    """When the event came that began the text, as in `read`; None where there is none near the begin."""
    arrivals, reader = Arrivals(times, len(body)), EventReader()
    for start, end, whole in _blocks(body[:MOST_BYTES_TO_CONTENT]) if arrivals.fit else ():
        events = reader.feed(body[start:end])
        if not whole and end == len(body):
            events += reader.close()
        for event in events:
            if event.kind is Kind.CHUNK and speaks(event.value):
                return arrivals.of(end)
        if reader.count >= MOST_EVENTS_TO_CONTENT:
            break
    return None


class Arrivals:
    """When each piece of a body of this size came. `fit`: they are the times of this body, and not of another."""

    def __init__(self, times: object, size: int) -> None:
        self.seconds, self._sizes = _arrivals(times)
        self.fit = bool(self.seconds) and self._sizes[-1] == size

    def of(self, end: int) -> float | None:
        """When the piece came that has the byte before `end` in it."""
        if not self.fit:
            return None
        return self.seconds[min(bisect_left(self._sizes, end), len(self.seconds) - 1)]


class _Reader:
    def __init__(self, body: bytes, times: object) -> None:
        self._body = body
        self._timeline = Timeline(len(body))
        self._arrivals = Arrivals(times, len(body))
        self._reader = EventReader()
        self._additions = Additions()
        # Of what may be among the last, the chunk itself is kept: most of it is never described.
        self._waiting: deque[tuple[Entry, Any]] = deque(maxlen=SHOWN_LAST)
        self._entries = 0
        self._previous: float | None = None

    def read(self) -> Timeline:
        timeline = self._timeline
        self._check_times()
        begun = self._body[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
        if begun[:1] in (b"{", b"["):
            timeline.json = quote(self._beginning(0, len(self._body)))
            return timeline
        work, stopped_at = 0, None
        for count, (start, end, whole) in enumerate(_blocks(self._body)):
            cost = _work(self._body, start, end)
            if count >= MOST_BLOCKS or work > MOST_WORK:
                stopped_at = start
                break
            work += self._block(start, end, whole, cost)
        if stopped_at is not None:
            self._read_tail(stopped_at)
        timeline.last = [self._described(entry, said) for entry, said in self._waiting]
        timeline.left_out = self._entries - len(timeline.first) - len(timeline.last) + timeline.unread
        self._conclude()
        return timeline

    def _read_tail(self, unread_from: int) -> None:
        """Look at the last events of a stream that is too long to look at all of it."""
        timeline, body = self._timeline, self._body
        window = max(unread_from, len(body) - TAIL)
        if window > unread_from:
            end = end_of_event(body, window)
            window = end if end >= 0 else len(body)
        # There may be a great many of them even here.
        tail = deque(_blocks(body, window), maxlen=SHOWN_LAST)
        begin = tail[0][0] if tail else len(body)
        timeline.unread = body.count(b"\ndata:", unread_from, begin) + body.count(b"\rdata:", unread_from, begin)
        timeline.unread += body.startswith(b"data:", unread_from)
        self._reader.count += timeline.unread
        self._waiting.clear()
        self._previous = None
        work = 0
        for start, end, whole in tail:
            cost = _work(body, start, end)
            work += self._block(start, end, whole, cost if work < MOST_WORK_IN_TAIL else MOST_WORK)

    # Times

    def _check_times(self) -> None:
        timeline, seconds = self._timeline, self._arrivals.seconds
        if not seconds:
            return
        timeline.timed = self._arrivals.fit
        pairs = list(pairwise(seconds))
        if pairs:
            timeline.longest_gap = max(pairs, key=lambda pair: pair[1] - pair[0])
        timeline.ended = seconds[-1]

    # Blocks of lines, and the events in them

    def _block(self, start: int, end: int, whole: bool, cost: int) -> int:
        """Read the lines up to a blank one; returns the work that it took."""
        timeline = self._timeline
        timeline.looked_at += 1
        piece = self._body[start:end] if cost <= MOST_WORK_IN_BLOCK else b""
        if not piece:
            self._reader.count += 1
            added = f"{end - start:,} bytes: {quote(self._beginning(start, end))}"
            self._push("not looked into", self._arrivals.of(end), added=added, number=self._reader.count)
            return 1
        comments = 0
        has_comments = piece.startswith(b":") or b"\n:" in piece or b"\r:" in piece
        for comment in _COMMENT.finditer(piece) if has_comments else ():
            comments += 1
            said = comment[1][:LONGEST_COMMENT].decode(errors="replace").strip()
            self._push("comment", self._arrivals.of(min(start + comment.end() + 1, end)), added=said)
        timeline.comments += comments
        lines = self._reader.decoder.lines
        events = self._reader.feed(piece)
        if not whole:
            events += self._reader.close()
        at = self._arrivals.of(end)
        for event in events:
            self._event(event, at)
        if not events and self._reader.decoder.lines - lines > comments:
            timeline.without_data += 1
            self._push("no data", at)
        return cost

    def _event(self, event: Event, at: float | None) -> None:
        if event.kind is Kind.DONE:
            self._push("[DONE]", at)
            return
        if self._timeline.first_event is None:
            self._timeline.first_event = at
        if event.kind is Kind.CHUNK:
            self._look(event.value)
            self._push(_type(event), at, chunk=event.value, number=event.number)
        elif event.kind is Kind.VALUE:
            self._push(event.name or "no object", at, added=brief(event.value), number=event.number)
        else:
            kind = "cut off" if event.kind is Kind.CUT else "not JSON"
            self._push(event.name or kind, at, added=quote(event.data.strip()), number=event.number)

    def _push(
        self,
        kind: str,
        at: float | None,
        *,
        added: str = "",
        chunk: dict[str, Any] | None = None,
        number: int | None = None,
    ) -> None:
        gap = at - self._previous if at is not None and self._previous is not None else None
        self._previous = at
        entry = Entry(kind[:LONGEST_TYPE], number, at, gap, added)
        self._entries += 1
        if len(self._timeline.first) < SHOWN_FIRST:
            self._timeline.first.append(self._described(entry, chunk))
        else:
            self._waiting.append((entry, chunk))

    def _described(self, entry: Entry, chunk: dict[str, Any] | None) -> Entry:
        if chunk is None:
            return entry
        added = self._additions.describe(chunk, entry.type)
        if self._additions.spoken and self._timeline.first_content is None:
            self._timeline.first_content = entry.at
        return replace(entry, added=added)

    def _beginning(self, start: int, end: int) -> str:
        return self._body[start : min(end, start + 200)].decode(errors="replace")

    # What an event says of the answer

    def _look(self, chunk: dict[str, Any]) -> None:
        self._note_model(chunk.get("model"))
        choices = chunk.get("choices")
        usage = chunk.get("usage")
        for choice in choices[:100] if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                usage = usage or choice.get("usage")
        response = chunk.get("response")
        if isinstance(response, dict):
            self._note_model(response.get("model"))
            usage = usage or response.get("usage")
            kind, status = chunk.get("type"), response.get("status")
            if (
                isinstance(kind, str)
                and isinstance(status, str)
                and kind.endswith((".completed", ".incomplete", ".done"))
            ):
                self._timeline.finish_reasons["response"] = status
        message = chunk.get("message")
        if isinstance(message, dict):
            self._note_model(message.get("model"))
            usage = usage or message.get("usage")
        delta = chunk.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            self._timeline.finish_reasons["message"] = delta["stop_reason"]
        groq = chunk.get("x_groq")
        if isinstance(groq, dict):
            usage = usage or groq.get("usage")
        if isinstance(usage, dict) and any(count not in _EMPTY_USAGES for count in islice(usage.values(), 100)):
            if choices is not None:
                self._timeline.usages += 1
                self._timeline.usage = usage
            else:
                # Anthropic's first event has the tokens that came in, a later one those that go out.
                self._timeline.usage = (self._timeline.usage or {}) | usage

    def _note_model(self, model: Any) -> None:
        models = self._timeline.models
        if isinstance(model, str) and model and len(models) < MOST_NUMBERS and model not in models:
            models.append(model)

    def _conclude(self) -> None:
        timeline, reader = self._timeline, self._reader
        reader.conclude()
        timeline.events, timeline.dones, timeline.odd = reader.count, reader.dones, reader.odd.lines()
        timeline.finish_reasons |= {f"{index}": reason for index, reason in reader.odd.finish_reasons.items()}


def _arrivals(times: object) -> tuple[list[float], list[float]]:
    """The seconds and the sizes of a flat list; two empty lists where it is not one."""
    if not isinstance(times, (list, tuple)) or not times or len(times) % 2:
        return [], []
    if not all(isinstance(value, (int, float)) and -1e9 < value < 1e15 for value in times):
        return [], []
    return [float(value) for value in times[::2]], [float(value) for value in times[1::2]]


def _blocks(body: bytes, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Where each run of lines between blank ones begins, where its first blank line ends, and whether it has one."""
    while (start := _after_line_ends(body, start)) < len(body):
        end = end_of_event(body, start)
        yield start, end if end >= 0 else len(body), end >= 0
        start = end if end >= 0 else len(body)


def _after_line_ends(body: bytes, start: int) -> int:
    found = _LINE_ENDS.match(body, start)
    return found.end() if found else start


def _work(body: bytes, start: int, end: int) -> int:
    """What takes time in a block: its lines, and what JSON puts before a value."""
    return sum(body.count(mark, start, end) for mark in (b"\n", b"\r", b",", b"[", b"{"))


def _type(event: Event) -> str:
    chunk = event.value
    kind = event.name or chunk.get("type")
    if isinstance(kind, str) and kind:
        return kind
    return "error" if chunk.get("error") else "chunk" if "choices" in chunk else "object"
