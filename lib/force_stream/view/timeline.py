"""An event stream for a person to read: when each event came, what it added, and what all of them say.

Events that do nothing but add to the same text become one entry, and most of them are not parsed (answer/patterns.py).
Knows what `events` reads, and the figures of an answer; must not know mitmproxy, or how it is set in lines of text.
Nothing here raises, and the work is bounded whatever the bytes: of a long stream only a part is looked at, and `unread`
estimates the rest.
"""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, Final, NamedTuple

from ..answer.events import Event, EventReader, Kind
from ..answer.oddities import MOST_NUMBERS
from ..answer.patterns import Templates, template_of
from ..endpoints import api_of
from ..merge.fields import ANY_PADDING, PADDING, Concat
from ..wire import jsontext
from ..wire.sse import end_of_event
from ..wire.text import counted
from .delta import LONGEST_VALUE, Added, DeltaDescriber, brief, has_text, quote
from .joined import Said, joined, said_in
from .stats import LONG_GAP, rate

# Of similar events in a row, how many at the beginning and at the end are entries of their own, and how many between
# them become one.
FEW: Final = 3
MOST_ALONE: Final = 4
# Entries from the end of the stream that are shown if not all of it is read.
SHOWN_LAST: Final = 200
# What is looked at from the beginning on: bytes, blocks of lines between blank ones that are parsed, and what takes
# time in them (lines, and values of JSON). 8,000 events of chat have as many.
MOST_BYTES: Final = 12 * 1024 * 1024
MOST_BLOCKS: Final = 8_000
MOST_WORK: Final = 120_000
MOST_WORK_IN_BLOCK: Final = 50_000
# How often an event may be made a template in vain.
_MOST_IN_VAIN: Final = 100
# Bytes in which the last events are looked for, and work on them.
TAIL: Final = 512 * 1024
MOST_WORK_IN_TAIL: Final = 50_000
LONGEST_TYPE: Final = 48
LONGEST_COMMENT: Final = 120
# Bytes of a body that is not an event stream: a larger one is not parsed, and this much of any is shown.
MOST_PARSED: Final = 1024 * 1024
MOST_SHOWN: Final = 64 * 1024
# How far to look for the first content, in bytes and events, if nothing else is wanted.
MOST_BYTES_TO_CONTENT: Final = 64 * 1024
MOST_EVENTS_TO_CONTENT: Final = 100
MOST_BLOCKS_TO_CONTENT: Final = 500  # events and comments

_PLAIN: Final = re.compile(rb"data: (\{[^\r\n]*\})\n\n")
_NO_LINE_END: Final = re.compile(rb"[^\r\n]")
_COMMENT: Final = re.compile(rb"(?<![^\r\n]):([^\r\n]*)")
_EMPTY_USAGES: Final[tuple[Any, ...]] = (None, 0, {}, [], "")
# Members of an event, besides itself and its choices, that have a model or a usage.
_PARTS: Final = ("response", "message", "x_groq")
# Types of the Responses API's events that say how the answer ended.
_LAST_TYPES: Final = (".completed", ".incomplete", ".done")


class Entry(NamedTuple):
    """A line of the timeline. `number` is None for what is not an event: a comment, `[DONE]`. `at`: seconds since the
    request went out, `gap`: since the entry before; None where that is not known. `times`: how many events or comments
    it stands for, of which `number` and `at` are the first one's."""

    type: str
    number: int | None = None
    at: float | None = None
    gap: float | None = None
    added: str = ""
    times: int = 1


@dataclass(slots=True)
class Timeline:
    """One event stream. `said`: its texts and calls, as far as it was looked at from the beginning on. `unread`: events
    between two entries that were not looked at (an estimate). Times are in seconds since the request went out; `ended`:
    when the answer was over, with the silence at its end."""

    bytes: int
    entries: list[Entry] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    unread: int = 0
    looked_at: int = 0
    events: int = 0
    comments: int = 0
    without_data: int = 0
    dones: int = 0
    timed: bool = False
    first_byte: float | None = None
    first_event: float | None = None
    first_content: float | None = None
    last_byte: float | None = None
    ended: float | None = None
    longest_gap: tuple[float, float] | None = None
    models: list[str] = field(default_factory=list)
    finish_reasons: dict[str, str] = field(default_factory=dict)
    usage: Any = None
    usages: int = 0
    # What the body is if it is not an event stream, as far as it is shown, and whether that is JSON.
    document: str | None = None
    is_json: bool = False
    odd: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens per second, from the first content to the end."""
        usage = self.usage if isinstance(self.usage, dict) else {}
        tokens = usage.get("completion_tokens", usage.get("output_tokens"))
        if (
            not isinstance(tokens, int)
            or not 0 < tokens < 10**9
            or self.first_content is None
            or self.last_byte is None
        ):
            return None
        seconds = self.last_byte - self.first_content
        return tokens / seconds if seconds > 0.001 else None


def read(
    body: bytes, times: object = None, *, ended: float | None = None, endpoint: str = "", plain: bool = False
) -> Timeline:
    """The timeline of a body. `times`: for each piece of it, seconds and bytes so far, in one flat list; anything
    else counts as no times. `ended`: when the answer was over. `endpoint`: whose answer it is where its events do not
    show that. `plain`: it is not an event stream, whatever it looks like."""
    reader = _Reader(body, times, ended)
    timeline = reader.timeline
    timeline.is_json = body[:64].removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"["))
    if timeline.is_json or plain:
        timeline.document = _document(body, timeline)
        return timeline
    api, size = reader.read()
    timeline.said = joined(body[:size], api or endpoint)
    return timeline


def _document(body: bytes, timeline: Timeline) -> str:
    """The beginning of a body that is not an event stream, with a line for each value if it is JSON; what is said in it
    is added to the timeline."""
    if timeline.is_json and len(body) <= MOST_PARSED:
        with suppress(ValueError):
            timeline.said = said_in(jsontext.loads(body.decode("utf-8-sig", errors="replace")))
    head = body[:MOST_SHOWN].removeprefix(b"\xef\xbb\xbf")
    shown = (jsontext.indented(head) if timeline.is_json else head).decode(errors="replace")
    rest = len(body) - MOST_SHOWN
    return shown + (f"\n… {counted(rest, 'byte')} more" if rest > 0 else "")


def first_content(body: bytes, times: Sequence[float]) -> float | None:
    """When the event came that began the text, as in `read`; None where there is none near the beginning. `times`: as
    an attempt has them; there may be a great many."""
    if not times or times[-1] != len(body):
        return None
    reader = EventReader()
    for start, end, whole in islice(_blocks(body[:MOST_BYTES_TO_CONTENT]), MOST_BLOCKS_TO_CONTENT):
        if any(map(has_text, _chunks(reader, body[start:end], at_end=not whole and end == len(body)))):
            return times[2 * bisect_left(range(len(times) // 2), end, key=lambda place: int(times[2 * place + 1]))]
        if reader.count >= MOST_EVENTS_TO_CONTENT:
            break
    return None


def _chunks(reader: EventReader, piece: bytes, *, at_end: bool) -> list[dict[str, Any]]:
    """The chunks in the lines up to a blank one. Those of nearly all events are read without looking what is odd."""
    if plain := _PLAIN.fullmatch(piece):
        with suppress(ValueError):
            chunk: dict[str, Any] = jsontext.loads(plain[1].decode(errors="replace"))
            reader.count += 1
            return [chunk]
    events = [*reader.feed(piece), *(reader.close() if at_end else ())]
    return [event.value for event in events if event.kind is Kind.CHUNK]


class Arrivals:
    """When each piece of a body of this size came. `fit`: they are the times of this body, and not of another."""

    def __init__(self, times: object, size: int) -> None:
        flat = times if isinstance(times, (list, tuple)) and len(times) % 2 == 0 else []
        if not all(isinstance(value, (int, float)) and -1e9 < value < 1e15 for value in flat):
            flat = []
        self.seconds, self._sizes = [list(map(float, flat[place::2])) for place in (0, 1)]
        self.fit = self._sizes[-1:] == [size]
        # How many bytes had come before each long silence between two pieces.
        pairs = zip(pairwise(self.seconds), self._sizes, strict=False)
        self.silences = [int(size) for (one, other), size in pairs if other - one >= LONG_GAP] if self.fit else []

    def of(self, end: int) -> float | None:
        """When the piece came that contains the byte before `end`."""
        if not self.fit:
            return None
        return self.seconds[min(bisect_left(self._sizes, end), len(self.seconds) - 1)]


def _timed(timeline: Timeline, arrivals: Arrivals, ended: float | None) -> Timeline:
    """The timeline with all times but those of its events."""
    if seconds := arrivals.seconds:
        timeline.timed, timeline.first_byte, timeline.last_byte = arrivals.fit, seconds[0], seconds[-1]
        timeline.ended = max(seconds[-1], ended or 0.0)
        moments = [*seconds, timeline.ended] if ended is not None else seconds
        timeline.longest_gap = max(pairwise(moments), key=lambda pair: pair[1] - pair[0], default=None)
    return timeline


class _Count(Concat):
    """Counts what is added to a text, and keeps its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.size, self.beginning = 0, ""

    def extend(self, pieces: list[str]) -> None:
        for piece in pieces:
            self.size += len(piece)
            self.beginning += piece[: LONGEST_VALUE - len(self.beginning)]


type _Texts = dict[str, tuple[int, str]]


class _Like(NamedTuple):
    """The entry for one or more events that add to texts and do nothing else, or for a comment; `ended`: when the last
    of them came; `texts`: where they add to texts, how many characters, and how these begin."""

    entry: Entry
    ended: float | None
    texts: _Texts


class _Reader:
    def __init__(self, body: bytes, times: object, ended: float | None) -> None:
        self._body = body
        self._beginning = body[:MOST_BYTES]  # the same object, if it is all
        self._arrivals = Arrivals(times, len(body))
        self.timeline = self._timeline = _timed(Timeline(len(body)), self._arrivals, ended)
        self._reader = EventReader()
        self._describer = DeltaDescriber()
        self._api = ""
        self._previous: float | None = None
        self._run: list[_Like] = []  # the latest entries, as long as they are alike
        self._template: Templates | None = None
        self._type = ""  # that of the template's events, and where they add to texts
        self._counts: dict[str, _Count] = {}
        self._in_vain = 0
        self._before = b""  # the event before
        self._fits_until = self._parsed_until = 0

    def read(self) -> tuple[str, int]:
        """Read all events. Returns the API that they belong to ("" if they do not show it), and how many bytes were
        looked at without leaving anything out."""
        timeline, reader = self._timeline, self._reader
        at, work, whole_until = 0, 0, len(self._body)
        while (block := _block_at(self._body, at)) is not None:
            if timeline.looked_at >= MOST_BLOCKS or work > MOST_WORK or block[0] >= MOST_BYTES:
                whole_until = min(whole_until, block[0])
                self._read_tail(block[0])
                break
            if (taken := self._block(*block)) == 0:
                whole_until = min(whole_until, block[0])
            work += taken
            at = self._skip(block[1])
        reader.conclude()
        self._end_run()
        timeline.events, timeline.dones, timeline.odd = reader.count, reader.dones, reader.odd.lines()
        timeline.finish_reasons |= {f"{index}": reason for index, reason in reader.odd.finish_reasons.items()}
        return self._api, whole_until

    # Events that are alike

    def _skip(self, at: int) -> int:
        """Where to continue reading: after those of the next events that only add to the text to which the ones before
        have added, but for the last few of them."""
        body, template = self._beginning, self._template
        if template is None or len(self._run) < FEW or at < self._parsed_until:
            return at
        if not self._reader.decoder.between_events or not self._is_like_run(self._type, self._counts):
            return at
        if at >= self._fits_until:
            self._fits_until, count, _, is_odd, _ = template.match_run(body, at)
            if not count:
                self._template = None
                self._in_vain += 1
            if is_odd or not count:
                self._parsed_until = self._fits_until
                return at
        blank = b"\r\n\r\n" if body.endswith(b"\r\n\r\n", at, self._fits_until) else b"\n\n"
        end = last = self._before_silence(at, self._fits_until, blank)
        for _ in range(FEW):
            last = max(body.rfind(blank, at, max(at, last - len(blank))) + len(blank), at)
        self._parsed_until = max(end, at + 1)
        for each in self._counts.values():
            each.reset()
        size, count, *_ = template.match_run(body[at:last], 0)
        if count <= MOST_ALONE or size < last - at:
            return at
        self._in_vain = 0
        number, began = self._reader.count + 1, self._arrivals.of(body.find(blank, at) + len(blank))
        self._reader.count += count
        texts = {place: (each.size, each.beginning) for place, each in self._counts.items()}
        entry = Entry(self._type, number, began, self._gap(began), times=count)
        self._previous = self._arrivals.of(last)
        self._run.append(_Like(entry, self._previous, texts))
        return last

    def _is_like_run(self, kind: str, texts: Collection[str]) -> bool:
        """Whether the latest entries add to the same texts, or more."""
        if not self._run:
            return False
        first = self._run[0]
        return first.entry.type == kind and first.texts.keys() >= set(texts)

    def _before_silence(self, start: int, end: int, blank: bytes) -> int:
        """Where the first event between these places starts that came after a long silence; the second if none did."""
        silences = self._arrivals.silences
        place = bisect_left(silences, start)
        if place == len(silences) or silences[place] >= end:
            return end
        found = self._beginning.rfind(blank, start, silences[place])
        return start if found < 0 else found + len(blank)

    def _learn(self, piece: bytes, event: Event, added: Added) -> None:
        """Make an event that is like those before it the template for those after it."""
        if len(self._run) < FEW or self._in_vain >= _MOST_IN_VAIN or not added.texts or "usage" in event.value:
            return
        self._type, self._counts = _type(event)[:LONGEST_TYPE], {place: _Count() for _, place, _ in added.texts}
        slots = [(key, self._counts[place]) for _, place, key in added.texts]
        varying = [(key, ANY_PADDING) for key in ("created", *PADDING) if isinstance(event.value.get(key), (str, int))]
        data = event.data.encode(errors="surrogatepass")
        made = template_of(piece, data, (*slots, *varying), self._before)
        self._template, self._fits_until = None if made is None else Templates(made, comments=False), 0
        self._in_vain += self._template is None

    def _end_run(self) -> None:
        """Make entries of the latest similar events."""
        run, self._run = self._run, []
        entries, middle = self._timeline.entries, run[FEW:-FEW]
        if sum(like.entry.times for like in middle) <= MOST_ALONE:
            entries += [_as_one([like]) for like in run]
            return
        entries += [
            _as_one(likes) for likes in (*([like] for like in run[:FEW]), middle, *([like] for like in run[-FEW:]))
        ]

    # Event by event

    def _read_tail(self, unread_from: int) -> None:
        """Look at the last events of a stream that is too long to look at all of it."""
        timeline, body = self._timeline, self._body
        window = max(unread_from, len(body) - TAIL)
        if window > unread_from:
            end = end_of_event(body, window)
            window = end if end >= 0 else len(body)
        # There may be a great many of them even here.
        tail = deque(_blocks(body, window), maxlen=SHOWN_LAST)
        self._end_run()
        start = tail[0][0] if tail else len(body)
        timeline.unread = body.count(b"\ndata:", unread_from, start) + body.count(b"\rdata:", unread_from, start)
        timeline.unread += body.startswith(b"data:", unread_from)
        if timeline.unread:
            timeline.entries.append(Entry("not looked at", self._reader.count + 1, times=timeline.unread))
            self._reader.count += timeline.unread
        self._previous = None
        work = 0
        for start, end, whole in tail:
            work += self._block(start, end, whole, skip=work >= MOST_WORK_IN_TAIL)

    def _block(self, start: int, end: int, whole: bool, *, skip: bool = False) -> int:
        """Read the lines up to a blank one; returns the work that it took, 0 if they were not looked into."""
        timeline, reader, at = self._timeline, self._reader, self._arrivals.of(end)
        timeline.looked_at += 1
        # What costs time in a block: its lines, and the marks that JSON puts before a value.
        work = sum(self._body.count(mark, start, end) for mark in (b"\n", b"\r", b",", b"[", b"{"))
        if skip or work > MOST_WORK_IN_BLOCK:
            reader.count += 1
            added = f"{end - start:,} bytes: {quote(self._shown(start, end))}"
            self._push("not looked into", at, added, reader.count)
            return 0
        piece = self._body[start:end]
        has_comments = piece.startswith(b":") or b"\n:" in piece or b"\r:" in piece
        comments = list(_COMMENT.finditer(piece)) if has_comments else []
        for comment in comments:
            text = comment[1][:LONGEST_COMMENT].decode(errors="replace").strip()
            self._push("comment", self._arrivals.of(min(start + comment.end() + 1, end)), text)
        timeline.comments += len(comments)
        lines, noted = reader.decoder.lines, reader.odd.noted
        events = [*reader.feed(piece)]
        if not whole:
            events += reader.close()
        for event in events:
            is_ordinary = event.kind is Kind.CHUNK and event.error is None and reader.odd.noted == noted
            like = self._event(event, at, is_ordinary=is_ordinary)
            if like is None:
                self._template = None
            elif len(events) == 1 and whole and not comments:
                if self._template is None:
                    self._learn(piece, event, like)
                self._before = piece
        if not events and reader.decoder.lines - lines > len(comments):
            timeline.without_data += 1
            self._push("no data", at)
        return work or 1

    def _event(self, event: Event, at: float | None, *, is_ordinary: bool) -> Added | None:
        """Read an event; returns what it added if it is ordinary, and added to texts alone."""
        timeline = self._timeline
        if event.kind is Kind.DONE:
            self._push("[DONE]", at)
            return None
        if timeline.first_event is None and event.number:
            timeline.first_event = at
        if event.kind is Kind.CHUNK:
            self._api = self._api or api_of(event.value, event.name) or ""
            self._read_chunk(event.value)
            kind = _type(event)
            added = self._describer.describe(event.value, kind[:LONGEST_TYPE])
            if added.texts and timeline.first_content is None:
                timeline.first_content = at
            like = added if is_ordinary and added.only_texts else None
            self._push(kind, at, added.line, event.number, like)
            return like
        if event.kind is Kind.VALUE:
            self._push(event.name or "no object", at, brief(event.value), event.number)
        else:
            kind = "cut off" if event.kind is Kind.CUT else "not JSON"
            self._push(event.name or kind, at, quote(event.data.strip()), event.number or None)
        return None

    def _push(
        self, kind: str, at: float | None, added: str = "", number: int | None = None, like: Added | None = None
    ) -> None:
        """Add an entry. `like`: what it adds to texts, where that is all it does."""
        entry = Entry(kind[:LONGEST_TYPE], number, at, self._gap(at), added)
        self._previous = at
        if (like is None and kind != "comment") or (entry.gap is not None and entry.gap >= LONG_GAP):
            self._end_run()
            self._timeline.entries.append(entry)
            return
        texts = {place: (len(text), text[:LONGEST_VALUE]) for text, place, _ in (like.texts if like else ())}
        if not self._is_like_run(entry.type, texts) or (like is None and self._run[0].entry.added != added):
            self._end_run()
        self._run.append(_Like(entry, at, texts))

    def _gap(self, at: float | None) -> float | None:
        return at - self._previous if at is not None and self._previous is not None else None

    def _shown(self, start: int, end: int) -> str:
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
                # Anthropic's first event has the input tokens, a later one the output tokens.
                timeline.usage = usage if choices is not None else (timeline.usage or {}) | usage
                break


def _as_one(run: list[_Like]) -> Entry:
    """One entry for all of these."""
    if len(run) == run[0].entry.times == 1:
        return run[0].entry
    first, count, ended = run[0].entry, sum(like.entry.times for like in run), run[-1].ended
    places, none = run[0].texts, (0, "")
    added = [f"{place} +{sum(like.texts.get(place, none)[0] for like in run):,} characters" for place in places]
    if added and first.at is not None and ended is not None and ended > first.at:
        added.append(f"{rate((count - 1) / (ended - first.at))} events/s")
    beginning = "".join(like.texts.get(place, none)[1] for place in islice(places, 1) for like in run[:LONGEST_VALUE])
    shown = f"{', '.join(added)}: {quote(beginning[:LONGEST_VALUE])}…" if added else first.added
    return first._replace(added=shown, times=count)


def _block_at(body: bytes, start: int) -> tuple[int, int, bool] | None:
    """Where the next run of lines between blank ones begins, where its first blank line ends, and whether it has
    one; None if there is no such run."""
    if (found := _NO_LINE_END.search(body, start)) is None:
        return None
    end = end_of_event(body, found.start())
    return found.start(), end if end >= 0 else len(body), end >= 0


def _blocks(body: bytes, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    while (block := _block_at(body, start)) is not None:
        yield block
        start = block[1]


def _type(event: Event) -> str:
    chunk = event.value
    kind = event.name or chunk.get("type")
    if isinstance(kind, str) and kind:
        return kind
    return "error" if chunk.get("error") else "chunk" if "choices" in chunk else "object"
