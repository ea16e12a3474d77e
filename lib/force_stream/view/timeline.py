"""An event stream as a person looks at it: when each event came, and what it added.

Knows what `events` reads, and the figures of an answer; must not know mitmproxy, or how it is set in lines of text.
Nothing here raises, and the work is bounded whatever the bytes: of a long stream only a part is looked at, and `unread`
estimates the rest.
"""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, Final, NamedTuple

from ..answer.events import Event, EventReader, Kind
from ..answer.oddities import MOST_NUMBERS
from ..wire.sse import end_of_event
from .delta import DeltaDescriber, brief, has_text, quote

# Lines of the timeline, from the stream's beginning and from its end.
SHOWN_FIRST: Final = 4_000
SHOWN_LAST: Final = 200
# What is looked at from the beginning on: blocks of lines between blank ones, and what takes time in them (lines, and
# values of JSON). A stream with 17,000 events has 250,000 of these.
MOST_BLOCKS: Final = 20_000
MOST_WORK: Final = 400_000
MOST_WORK_IN_BLOCK: Final = 50_000
# Bytes in which the last events are looked for, and work on them.
TAIL: Final = 512 * 1024
MOST_WORK_IN_TAIL: Final = 50_000
LONGEST_TYPE: Final = 48
LONGEST_COMMENT: Final = 120
# How far the first content is looked for, in bytes and events, where nothing else is.
MOST_BYTES_TO_CONTENT: Final = 64 * 1024
MOST_EVENTS_TO_CONTENT: Final = 100

_NO_LINE_END: Final = re.compile(rb"[^\r\n]")
_COMMENT: Final = re.compile(rb"(?<![^\r\n]):([^\r\n]*)")
_EMPTY_USAGES: Final[tuple[Any, ...]] = (None, 0, {}, [], "")
# Members of an event, besides itself and its choices, that have a model or a usage.
_PARTS: Final = ("response", "message", "x_groq")
# Types of the Responses API's events that say how the answer ended.
_LAST_TYPES: Final = (".completed", ".incomplete", ".done")


class Entry(NamedTuple):
    """A line of the timeline. `number` is None for what is not an event: a comment, `[DONE]`. `at`: seconds since the
    request went out, `gap`: since the entry before; None where that is not known."""

    type: str
    number: int | None = None
    at: float | None = None
    gap: float | None = None
    added: str = ""


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
    # What the body is where it is not an event stream.
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
    """The timeline of a body. `times`: for each piece of it, seconds and bytes so far, in one flat list; anything
    else counts as no times."""
    return _Reader(body, times).read()


def first_content(body: bytes, times: object) -> float | None:
    """When the event came that began the text, as in `read`; None where there is none near the beginning."""
    arrivals, reader = Arrivals(times, len(body)), EventReader()
    for start, end, whole in _blocks(body[:MOST_BYTES_TO_CONTENT]) if arrivals.fit else ():
        events = [*reader.feed(body[start:end])]
        if not whole and end == len(body):
            events += reader.close()
        if any(event.kind is Kind.CHUNK and has_text(event.value) for event in events):
            return arrivals.of(end)
        if reader.count >= MOST_EVENTS_TO_CONTENT:
            break
    return None


class Arrivals:
    """When each piece of a body of this size came. `fit`: they are the times of this body, and not of another."""

    def __init__(self, times: object, size: int) -> None:
        flat = times if isinstance(times, (list, tuple)) and len(times) % 2 == 0 else []
        if not all(isinstance(value, (int, float)) and -1e9 < value < 1e15 for value in flat):
            flat = []
        self.seconds, self._sizes = [list(map(float, flat[place::2])) for place in (0, 1)]
        self.fit = self._sizes[-1:] == [size]

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
        self._describer = DeltaDescriber()
        # Entries that may be among the last wait with their chunks: most are never described.
        self._waiting: deque[tuple[Entry, Any]] = deque(maxlen=SHOWN_LAST)
        self._entries = 0
        self._previous: float | None = None

    def read(self) -> Timeline:
        timeline, reader, seconds = self._timeline, self._reader, self._arrivals.seconds
        if seconds:
            timeline.timed, timeline.ended = self._arrivals.fit, seconds[-1]
            timeline.longest_gap = max(pairwise(seconds), key=lambda pair: pair[1] - pair[0], default=None)
        if self._body[:64].removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
            timeline.json = quote(self._beginning(0, len(self._body)))
            return timeline
        work = 0
        for count, (start, end, whole) in enumerate(_blocks(self._body)):
            if count >= MOST_BLOCKS or work > MOST_WORK:
                self._read_tail(start)
                break
            work += self._block(start, end, whole)
        reader.conclude()
        timeline.last = [self._described(entry, chunk) for entry, chunk in self._waiting]
        timeline.left_out = self._entries - len(timeline.first) - len(timeline.last) + timeline.unread
        timeline.events, timeline.dones, timeline.odd = reader.count, reader.dones, reader.odd.lines()
        timeline.finish_reasons |= {f"{index}": reason for index, reason in reader.odd.finish_reasons.items()}
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
        start = tail[0][0] if tail else len(body)
        timeline.unread = body.count(b"\ndata:", unread_from, start) + body.count(b"\rdata:", unread_from, start)
        timeline.unread += body.startswith(b"data:", unread_from)
        self._reader.count += timeline.unread
        self._waiting.clear()
        self._previous = None
        work = 0
        for start, end, whole in tail:
            work += self._block(start, end, whole, skip=work >= MOST_WORK_IN_TAIL)

    def _block(self, start: int, end: int, whole: bool, *, skip: bool = False) -> int:
        """Read the lines up to a blank one; returns the work that it took."""
        timeline, reader, at = self._timeline, self._reader, self._arrivals.of(end)
        timeline.looked_at += 1
        # What costs time in a block: its lines, and the marks that JSON puts before a value.
        work = sum(self._body.count(mark, start, end) for mark in (b"\n", b"\r", b",", b"[", b"{"))
        if skip or work > MOST_WORK_IN_BLOCK:
            reader.count += 1
            added = f"{end - start:,} bytes: {quote(self._beginning(start, end))}"
            self._push("not looked into", at, added, reader.count)
            return 1
        piece = self._body[start:end]
        has_comments = piece.startswith(b":") or b"\n:" in piece or b"\r:" in piece
        comments = list(_COMMENT.finditer(piece)) if has_comments else []
        for comment in comments:
            text = comment[1][:LONGEST_COMMENT].decode(errors="replace").strip()
            self._push("comment", self._arrivals.of(min(start + comment.end() + 1, end)), text)
        timeline.comments += len(comments)
        lines = reader.decoder.lines
        events = [*reader.feed(piece)]
        if not whole:
            events += reader.close()
        for event in events:
            self._event(event, at)
        if not events and reader.decoder.lines - lines > len(comments):
            timeline.without_data += 1
            self._push("no data", at)
        return work

    def _event(self, event: Event, at: float | None) -> None:
        if event.kind is Kind.DONE:
            self._push("[DONE]", at)
            return
        if self._timeline.first_event is None:
            self._timeline.first_event = at
        if event.kind is Kind.CHUNK:
            self._read_chunk(event.value)
            self._push(_type(event), at, "", event.number, event.value)
        elif event.kind is Kind.VALUE:
            self._push(event.name or "no object", at, brief(event.value), event.number)
        else:
            kind = "cut off" if event.kind is Kind.CUT else "not JSON"
            self._push(event.name or kind, at, quote(event.data.strip()), event.number or None)

    def _push(self, kind: str, at: float | None, added: str = "", number: int | None = None, chunk: Any = None) -> None:
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
        added = self._describer.describe(chunk, entry.type)
        if self._describer.has_text and self._timeline.first_content is None:
            self._timeline.first_content = entry.at
        return entry._replace(added=added)

    def _beginning(self, start: int, end: int) -> str:
        return self._body[start : min(end, start + 200)].decode(errors="replace")

    def _read_chunk(self, chunk: dict[str, Any]) -> None:
        timeline, choices, delta = self._timeline, chunk.get("choices"), chunk.get("delta")
        parts = [chunk, *[part for key in _PARTS if isinstance(part := chunk.get(key), dict)]]
        for part in parts:
            model = part.get("model")
            if model not in timeline.models and isinstance(model, str) and model:
                timeline.models += [model] if len(timeline.models) < MOST_NUMBERS else []
        kind, status = chunk.get("type"), parts[1].get("status") if len(parts) > 1 else None
        if isinstance(status, str) and isinstance(kind, str) and kind.endswith(_LAST_TYPES):
            timeline.finish_reasons["response"] = status
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            timeline.finish_reasons["message"] = delta["stop_reason"]
        if isinstance(choices, list):
            parts[1:1] = [each for each in choices[:100] if isinstance(each, dict)]
        for part in parts:
            usage = part.get("usage")
            if isinstance(usage, dict) and any(count not in _EMPTY_USAGES for count in islice(usage.values(), 100)):
                timeline.usages += choices is not None
                # Anthropic's first event has the tokens that came in, a later one those that go out.
                timeline.usage = usage if choices is not None else (timeline.usage or {}) | usage
                break


def _blocks(body: bytes, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Where each run of lines between blank ones begins, where its first blank line ends, and whether it has one."""
    while found := _NO_LINE_END.search(body, start):
        end = end_of_event(body, found.start())
        start = end if end >= 0 else len(body)
        yield found.start(), start, end >= 0


def _type(event: Event) -> str:
    chunk = event.value
    kind = event.name or chunk.get("type")
    if isinstance(kind, str) and kind:
        return kind
    return "error" if chunk.get("error") else "chunk" if "choices" in chunk else "object"
