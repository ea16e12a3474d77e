"""An event stream as a person looks at it: when each event came, what it added, and what was odd.

Knows events, `[DONE]` and the figures of an answer; must not know mitmproxy, or how it is set in lines of text. Nothing
here raises, and the work is bounded whatever the bytes: of a long stream a part is looked at, and what is odd says so.
"""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Final

from ..errors import error_in
from ..wire import jsontext
from ..wire.sse import EventStreamDecoder, ServerSentEvent
from .additions import Additions, brief, index_of, quote

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
MOST_ODD: Final = 50
MOST_NUMBERS: Final = 5
LONGEST_TYPE: Final = 48
LONGEST_COMMENT: Final = 120

_BLANK_LINES: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(\r\n|\n|\r)[\r\n]*")
_COMMENT: Final = re.compile(rb"(?<![^\r\n]):([^\r\n]*)")
_NUMBERED: Final = re.compile(r"event (\d{1,9}): (.*)", re.DOTALL)
# Entries that are no events, and values that are no objects, in a sentence.
_NO_EVENTS: Final = {"comment": "a comment", "no data": "an event without data"}
_KINDS: Final[dict[type, str]] = {str: "a string", list: "a list", bool: "true or false", type(None): "null"}
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


class Odd:
    """What was odd, each with the numbers of the events where it was."""

    def __init__(self) -> None:
        self._found: dict[str, list[int]] = {}

    def add(self, what: str, number: int | None = None) -> None:
        if what not in self._found and len(self._found) >= MOST_ODD:
            return
        numbers = self._found.setdefault(what, [])
        if number is not None and number not in numbers[-1:]:
            numbers.append(number)

    def add_line(self, line: str) -> None:
        """The same for a line that names its event."""
        numbered = _NUMBERED.fullmatch(line)
        if numbered is None:
            self.add(line)
        elif int(numbered[1]) not in self._found.get(numbered[2], ()):
            self.add(numbered[2], int(numbered[1]))

    def lines(self) -> list[str]:
        return [_numbers(numbers) + what for what, numbers in self._found.items()]


def _numbers(numbers: list[int]) -> str:
    if not numbers:
        return ""
    shown = ", ".join(f"{number}" for number in numbers[:MOST_NUMBERS])
    more = f" and {len(numbers) - MOST_NUMBERS:,} more" if len(numbers) > MOST_NUMBERS else ""
    return f"event{'s' * (len(numbers) > 1)} {shown}{more}: "


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
    dones: int = 0
    timed: bool = False
    first_event: float | None = None
    first_content: float | None = None
    ended: float | None = None
    longest_gap: tuple[float, float] | None = None
    models: list[str] = field(default_factory=list)
    finish_reasons: dict[str, str] = field(default_factory=dict)
    usage: Any = None
    odd: Odd = field(default_factory=Odd)

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


class _Reader:
    def __init__(self, body: bytes, times: object) -> None:
        self._body = body
        self._timeline = Timeline(len(body))
        self._seconds, self._sizes = _arrivals(times)
        self._decoder = EventStreamDecoder()
        self._additions = Additions()
        # Of what may be among the last, the chunk itself is kept: most of it is never described.
        self._waiting: deque[tuple[Entry, Any]] = deque(maxlen=SHOWN_LAST)
        self._entries = 0
        self._previous: float | None = None
        self._ids: dict[str, str] = {}
        self._calls: dict[tuple[int, int], str] = {}
        self._choices: set[str] = set()
        self._usages: list[int] = []

    def read(self) -> Timeline:
        timeline = self._timeline
        self._check_times()
        begun = self._body[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
        if begun[:1] in (b"{", b"["):
            timeline.odd.add(f"the body is JSON, no event stream: {quote(self._beginning(0, len(self._body)))}")
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
            blank = _BLANK_LINES.search(body, window)
            window = blank.end() if blank else len(body)
        # There may be a great many of them even here.
        tail = deque(_blocks(body, window), maxlen=SHOWN_LAST)
        begin = tail[0][0] if tail else len(body)
        timeline.unread = body.count(b"\ndata:", unread_from, begin) + body.count(b"\rdata:", unread_from, begin)
        timeline.unread += body.startswith(b"data:", unread_from)
        timeline.events += timeline.unread
        timeline.odd.add(f"about {timeline.unread:,} events in the middle of this long stream were not looked at")
        self._waiting.clear()
        self._previous = None
        work = 0
        for start, end, whole in tail:
            cost = _work(body, start, end)
            work += self._block(start, end, whole, cost if work < MOST_WORK_IN_TAIL else MOST_WORK)

    # Times

    def _check_times(self) -> None:
        timeline = self._timeline
        if not self._seconds:
            return
        if self._sizes[-1] != len(self._body):
            timeline.odd.add("the events have no times: those that were kept are of a body with another encoding")
        else:
            timeline.timed = True
        pairs = list(pairwise(self._seconds))
        if pairs:
            timeline.longest_gap = max(pairs, key=lambda pair: pair[1] - pair[0])
        timeline.ended = self._seconds[-1]

    def _arrival(self, end: int) -> float | None:
        """When the piece came that has the byte before `end` in it."""
        if not self._timeline.timed:
            return None
        return self._seconds[min(bisect_left(self._sizes, end), len(self._seconds) - 1)]

    # Blocks of lines, and the events in them

    def _block(self, start: int, end: int, whole: bool, cost: int) -> int:
        """Read the lines up to a blank one; returns the work that it took."""
        timeline = self._timeline
        timeline.looked_at += 1
        piece = self._body[start:end] if cost <= MOST_WORK_IN_BLOCK else b""
        if not piece:
            timeline.events += 1
            timeline.odd.add("too much to look into", timeline.events)
            added = f"{end - start:,} bytes: {quote(self._beginning(start, end))}"
            self._push("not looked into", self._arrival(end), added=added, number=timeline.events)
            return 1
        comments = 0
        has_comments = piece.startswith(b":") or b"\n:" in piece or b"\r:" in piece
        for comment in _COMMENT.finditer(piece) if has_comments else ():
            comments += 1
            said = comment[1][:LONGEST_COMMENT].decode(errors="replace").strip()
            self._push("comment", self._arrival(min(start + comment.end() + 1, end)), added=said)
        timeline.comments += comments
        lines, strangers = self._decoder.lines, self._decoder.strangers
        events = self._decoder.feed(piece)
        if not whole:
            events += self._decoder.close()
        at = self._arrival(end)
        for event in events:
            self._event(event, at, whole=whole)
        if self._decoder.strangers > strangers:
            number = timeline.events if events else None
            timeline.odd.add("lines that are no part of an event stream", number)
        if not events and self._decoder.lines - lines > comments:
            if b"data" in piece:
                timeline.odd.add("events without data: some servers keep a connection alive that way")
            self._push("no data", at)
        return cost

    def _event(self, event: ServerSentEvent, at: float | None, *, whole: bool) -> None:
        timeline = self._timeline
        data = event.data.strip()
        if data == "[DONE]":
            timeline.dones += 1
            if timeline.dones == 2:
                timeline.odd.add("more than one [DONE]")
            self._push("[DONE]", at)
            return
        try:
            said = jsontext.loads(event.data)
        except ValueError:
            if "\n" in data:
                # Events with no blank line between them: each line is one.
                for line in data.split("\n"):
                    self._event(ServerSentEvent(event.event, line), at, whole=whole)
                return
            said = None
            not_json = True
        else:
            not_json = False
        timeline.events += 1
        number = timeline.events
        if timeline.first_event is None:
            timeline.first_event = at
        if timeline.dones:
            timeline.odd.add("events after [DONE]", number)
        if "\ufffd" in event.data:
            timeline.odd.add("not all of it is UTF-8, or the upstream put replacement characters in it", number)
        if not_json:
            cut = not whole and data.startswith("{")
            timeline.odd.add("cut off" if cut else "its data is not JSON", number)
            self._push(event.event or ("cut off" if cut else "not JSON"), at, added=quote(data), number=number)
        elif not isinstance(said, dict):
            timeline.odd.add(f"its data is {_KINDS.get(type(said), 'a number')}, not an object", number)
            self._push(event.event or "no object", at, added=brief(said), number=number)
        else:
            self._look(said, event, number)
            self._push(_type(said, event), at, chunk=said, number=number)

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
        if entry.after_long_gap:
            what = "it" if number is not None else _NO_EVENTS.get(kind, kind)
            self._timeline.odd.add(f"a silence of {LONG_GAP:g} s or more before {what}", number)
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

    def _look(self, chunk: dict[str, Any], event: ServerSentEvent, number: int) -> None:
        odd = self._timeline.odd
        if chunk.get("error") is not None or chunk.get("choices") is None:
            error = error_in(chunk, event.event)
            if error is not None:
                message = error["error"].get("message")
                odd.add(f"an error: {message if isinstance(message, str) else brief(message)}"[:200], number)
        self._look_at_names(chunk, number)
        choices = chunk.get("choices")
        usage = chunk.get("usage")
        for place, choice in enumerate(choices[:100]) if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._look_at_choice(choice, index_of(choice, place), number)
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
                self._usages.append(number)
                self._timeline.usage = usage
            else:
                # Anthropic's first event has the tokens that came in, a later one those that go out.
                self._timeline.usage = (self._timeline.usage or {}) | usage

    def _look_at_names(self, chunk: dict[str, Any], number: int) -> None:
        self._note_model(chunk.get("model"))
        for key in ("id", "model"):
            name = chunk.get(key)
            if isinstance(name, str) and name:
                if self._ids.setdefault(key, name) != name:
                    self._timeline.odd.add(f"its {key} is not that of the events before", number)
                self._ids[key] = name

    def _note_model(self, model: Any) -> None:
        models = self._timeline.models
        if isinstance(model, str) and model and len(models) < MOST_NUMBERS and model not in models:
            models.append(model)

    def _look_at_choice(self, choice: dict[str, Any], index: int, number: int) -> None:
        odd, reasons = self._timeline.odd, self._timeline.finish_reasons
        if len(self._choices) < MOST_BLOCKS:
            self._choices.add(f"{index}")
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason not in ("", "null"):
            known = reasons.setdefault(f"{index}", reason)
            if known != reason:
                odd.add(f"another finish reason than before for choice {index}: {quote(reason)}", number)
                reasons[f"{index}"] = reason
        delta = choice.get("delta")
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        for call in calls[:100] if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("index"), int) and isinstance(call.get("id"), str):
                place = index, call["index"]
                if call["id"] and self._calls.setdefault(place, call["id"]) != call["id"]:
                    odd.add("a new id for a tool call at the same index", number)
                    self._calls[place] = call["id"]

    def _conclude(self) -> None:
        timeline, odd = self._timeline, self._timeline.odd
        if not timeline.events:
            odd.add("there is no event in the stream")
        missing = [choice for choice in sorted(self._choices, key=int) if choice not in timeline.finish_reasons]
        if missing:
            odd.add(f"no finish reason for choice {', '.join(missing[:MOST_NUMBERS])}")
        if self._choices and not timeline.dones:
            odd.add("no [DONE]")
        if len(self._usages) > 1:
            for number in self._usages:
                odd.add("usage, more than once; the last counts", number)
        if timeline.comments:
            odd.add(f"{timeline.comments:,} comment{'s' * (timeline.comments > 1)}: keep-alives, most often")


def _arrivals(times: object) -> tuple[list[float], list[float]]:
    """The seconds and the sizes of a flat list; two empty lists where it is not one."""
    if not isinstance(times, (list, tuple)) or not times or len(times) % 2:
        return [], []
    if not all(isinstance(value, (int, float)) and -1e9 < value < 1e15 for value in times):
        return [], []
    return [float(value) for value in times[::2]], [float(value) for value in times[1::2]]


def _blocks(body: bytes, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Where each run of lines between blank ones begins, where its first blank line ends, and whether it has one."""
    for blank in _BLANK_LINES.finditer(body, start):
        if blank.start() > start:
            yield start, blank.end(1), True
        start = blank.end()
    if start < len(body):
        yield start, len(body), False


def _work(body: bytes, start: int, end: int) -> int:
    """What takes time in a block: its lines, and what JSON puts before a value."""
    return sum(body.count(mark, start, end) for mark in (b"\n", b"\r", b",", b"[", b"{"))


def _type(chunk: dict[str, Any], event: ServerSentEvent) -> str:
    kind = event.event or chunk.get("type")
    if isinstance(kind, str) and kind:
        return kind
    return "error" if chunk.get("error") else "chunk" if "choices" in chunk else "object"
