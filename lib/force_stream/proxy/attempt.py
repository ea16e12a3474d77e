"""One try to get an answer from an upstream: its pieces, their times, its limits, and how far it has come.

Knows clocks and how an answer is read; must not know mitmproxy, whose events its callers pass on, or the client that
waits.
"""

import asyncio
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import cached_property
from io import BytesIO
from typing import Any, Final

from ..answer.cause import advice_for, plainly
from ..answer.reader import AnswerReader, AnswerSpec
from ..answer.report import EVENT_STREAM_TYPE, Reply, Report
from ..answer.unfold import Asked, unfold
from ..errors import EmptyStream, InternalError, OversizedStream, StreamError, StreamTimeout, UpstreamUnreachable
from ..rules.rule import IDLE_TIMEOUT, Rule
from ..wire.sse import has_blank_line
from ..wire.text import printable
from .aside import run as run_aside
from .inject import Injection
from .retry_policy import wait_asked

# Seconds. The longest answer that is read for a client that gave up, where the rule has no timeout.
LONGEST_UNWAITED: Final = 3600.0
# Characters. mitmproxy's message about a broken response may quote all of it.
LONGEST_REASON: Final = 200

type Fields = tuple[tuple[bytes, bytes], ...]


class State(Enum):
    """How far an attempt has come."""

    WAITING = "there is no response yet"
    RECEIVING = "the response has begun"
    FINISHING = "every choice has its finish reason, and only usage may follow"
    ENDING = "[DONE] or a terminal event came, and only the end of the body may follow"
    COMPLETE = "the upstream ended its answer properly"
    SETTLED = "the answer is there, and its end was not waited for"
    CUT = "the transport broke the answer off"
    FAILED = "nothing that comes can be the answer any more"


class Signal(Enum):
    """What can change that."""

    RESPONSE = "the head of the response"
    FINISHED = "the last finish reason"
    RESUMED = "more content after it"
    ENDED = "the last event"
    END_OF_BODY = "the end of the body"
    BROKEN = "the end of the connection"
    TIMEOUT = "a limit that has passed"
    FAILURE = "an error that decides"


_OPEN: Final = {Signal.END_OF_BODY: State.COMPLETE, Signal.BROKEN: State.CUT, Signal.FAILURE: State.FAILED}
_TRANSITIONS: Final[Mapping[State, Mapping[Signal, State]]] = {
    State.WAITING: {
        Signal.RESPONSE: State.RECEIVING,
        Signal.BROKEN: State.FAILED,
        Signal.TIMEOUT: State.FAILED,
        Signal.FAILURE: State.FAILED,
    },
    State.RECEIVING: _OPEN
    | {Signal.FINISHED: State.FINISHING, Signal.ENDED: State.ENDING, Signal.TIMEOUT: State.FAILED},
    State.FINISHING: _OPEN
    | {Signal.ENDED: State.ENDING, Signal.RESUMED: State.RECEIVING, Signal.TIMEOUT: State.SETTLED},
    State.ENDING: _OPEN | {Signal.TIMEOUT: State.SETTLED},
    # The others are final.
    State.COMPLETE: {},
    State.SETTLED: {},
    State.CUT: {},
    State.FAILED: {},
}
# Seconds to wait in a state before the answer is given without the rest: in silence, for usage or for more content
# after all; and for the end of the body, from the last event on. An upstream that ends in time keeps its connection for
# the next request; one that lingers loses it.
PATIENCE: Final = {State.FINISHING: 5.0, State.ENDING: 0.1}
# Seconds of silence in which the blank line of an event that is whole, or the end of a document, may come.
BLANK_LINE_PATIENCE: Final = 1.0
# Bytes. Whether a larger document is complete is checked in a thread.
_MOST_LOOKED_AT: Final = 16 * 1024
# Seconds after a finish reason that nothing but keep-alives follows.
LONGEST_PATIENCE: Final = 30.0
# Seconds between two checks whether a thread has read what it was given.
_LOOK_AGAIN: Final = 0.01
# RFC 9110, sections 15.3.5 and 15.3.6.
_WITHOUT_BODY: Final = (204, 205)
# Bytes of a plain answer whose events are made on the event loop.
_MOST_UNFOLDED: Final = 8 * 1024
# Bytes that a thread reads in one go; the event loop begins with four times as many: nearly all of them are read fast.
_PORTION: Final = 4096
# Seconds a byte. mitmproxy alone needs longer than this: what is read in less stays on the event loop, which reads ever
# more of it in one go, up to so many bytes. But where its lines are shorter than this it reads less: if the next ones
# have to be parsed, each takes the same time, however short it is.
_FAST: Final = 1e-8
_MOST_AT_ONCE: Final = 64 * 1024
_SHORT_LINE: Final = 64
# Seconds of work on all else after the first portion in each of these spans. The rest of it is read in a thread.
_MOST_ON_LOOP: Final = 0.002
_SPAN: Final = 0.02
# Seconds. A thread that reads for longer pauses, or each step of the event loop would wait its turn for 5 ms.
_MOST_ASIDE: Final = 0.002
_PAUSE: Final = 0.001

# The times of a body in pieces of a byte would take more memory than the body. So after this many times, a piece that
# comes less than this many seconds after the last time that was kept shares it; after as many more, less than twice the
# seconds, and so on.
_EXACT: Final = 64 * 1024
_APART: Final = 0.001


class KeptBody:
    """A body that is kept as it comes, with the times at which it came. `size`: the bytes so far."""

    def __init__(self) -> None:
        self.size = 0
        # Not a list: joining its pieces would copy them, and a BytesIO hands out its bytes without a copy.
        self._body = BytesIO()
        self._times = array("d")

    def add(self, piece: bytes, seconds: float) -> None:
        """The next piece, and when it came, in seconds since the request went out."""
        self._body.write(piece)
        self.size += len(piece)
        times = self._times
        doubled = len(times) // (2 * _EXACT)
        if doubled and seconds - times[-2] < _APART * 2 ** (doubled - 1):
            times[-1] = self.size
        else:
            times.append(int(seconds * 1e6 + 0.5) / 1e6)  # `round` takes four times as long
            times.append(self.size)

    @property
    def times(self) -> list[float]:
        """For each piece: when it came, and the bytes so far; flat."""
        return self._times.tolist()

    @property
    def first(self) -> float | None:
        """When the first piece came; None where none has."""
        return self._times[0] if self._times else None

    def decode_sizes(self, decode: Callable[[list[int]], list[int]]) -> None:
        """Have the sizes of the times be those of the decoded body."""
        self._times[1::2] = array("d", decode([int(size) for size in self._times[1::2]]))

    def whole(self) -> bytes:
        """All of it. Every call returns the same object, so the body is in memory once."""
        return self._body.getvalue()


class Attempt:
    """One try to get an answer, within its rule's limits.

    `observed`: its pieces come one by one, not the whole body at the end; `undecodable`: nothing of its body is what
    its Content-Encoding says; `injected`: the faults that are then injected. `is_final`: the answer can be given now,
    whatever else may come. `complete`: the upstream ended it properly. `answered`: it became the document for the
    client, whole. `status`, `fields`: the head of the response, once it has begun. `cut_by`: how the transport ended
    the answer too early, in words. `deadline`: when the rule's timeout passes, by the clock; None if it has none.
    `plain`: its request asked for no stream, so a document may be of any size, and no faults are put in. `asked`: the
    events that are made of that one for a client that asked for them; it is treated as a stream is. `is_live`: the
    client gets the pieces as they come. `is_document`: what came began as JSON does, and not as an event stream.
    """

    def __init__(
        self,
        spec: AnswerSpec,
        rule: Rule,
        *,
        deadline: float | None = None,
        plain: bool = False,
        asked: Asked | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.rule = rule
        self.clock = clock
        self.plain = plain
        self.asked = asked
        self.injection: Injection | None = None
        self.state = State.WAITING
        self.observed = self.response_started = self.encoded = self.undecodable = False
        self.injected: Mapping[str, Any] = {}
        self.is_final = self.complete = self.answered = self.is_live = False
        self.is_document = True
        self.fault: Exception | None = None
        self.status = 0
        self.fields: Fields = ()
        self._body = KeptBody()
        self._size = self._read_late = 0
        # What is read off the loop: pieces from the middle of a large event on, or those that take long, and the thread
        # that reads those before.
        self._aside: list[bytes] = []
        self._reading: asyncio.Future[None] | None = None
        self._failure: StreamError | None = None
        self.cut_by = ""
        self._early = 0
        self._span_began = self._spent = 0.0
        self._span_size = 0
        self._at_once = 4 * _PORTION
        self._started = self._last_byte = self._last_change = clock()
        self._ended: float | None = None
        self.deadline = self._started + rule.timeout if deadline is None and rule.timeout is not None else deadline
        self._idle_timeout = rule.idle_timeout

    @property
    def goes_through(self) -> bool:
        """Whether the client gets the answer as it comes, unless that is not plain."""
        return self.plain and self.asked is None

    @property
    def is_own_stream(self) -> bool:
        """Whether the client itself asked for the stream, and its request went out as it came."""
        return self.asked is not None and not self.plain

    @property
    def may_be_document(self) -> bool:
        """Whether what has come may be a JSON document, and is no event stream so far."""
        return self._reader.may_be_document

    # Events

    def begin(self) -> None:
        """The request goes out now: since it came, another addon may have held it back."""
        held = self.clock() - self._started
        self._started = self._last_byte = self._last_change = self._started + held
        if self.deadline is not None:
            self.deadline += held

    def outlive_client(self) -> None:
        """The client is gone, so its patience no longer limits what the rule leaves unlimited."""
        if self.deadline is None:
            self.deadline = self.clock() + LONGEST_UNWAITED
        if self._idle_timeout is None:
            self._idle_timeout = IDLE_TIMEOUT

    def start_response(self, status: int, content_type: str, *, encoded: bool = False, fields: Fields = ()) -> None:
        """The response has begun. `encoded`: its pieces need decoding, so they are only kept until the end. `fields`:
        its headers."""
        self.response_started = True
        self.status, self.fields = status, fields
        self.encoded = encoded
        self._last_byte = self.clock()
        self._reader = self._reader_of(status, content_type)
        self._on(Signal.RESPONSE)

    def heard(self) -> None:
        """The upstream has sent something other than a piece of the body."""
        self._last_byte = self.clock()

    def wait(self, piece: bytes) -> bool:
        """Whether the next piece of the body may wait for more like it. If so, it does, and there is nothing else to
        do."""
        if self.state is not State.RECEIVING or self._reading is not None or self._aside:
            return False
        if self._size + len(piece) > self.rule.max_body or not self._reader.wait(piece):
            return False
        self._last_byte = now = self.clock()
        self._size += len(piece)
        self._body.add(piece, now - self._started)
        return True

    def receive(self, piece: bytes) -> bool:
        """The next piece of the body. True if the caller has to `poll`: the answer is ready, or a deadline has moved
        closer. Never raises: a bug of ours becomes the answer."""
        if not piece:
            return False  # an empty DATA frame is not a sign of life
        self._last_byte = now = self.clock()
        self._size += len(piece)
        if self._size > self.rule.max_body:
            self._check_size()
        if self.is_final:
            return True
        self._body.add(piece, now - self._started)
        if self.encoded:
            return False
        try:
            if self._reading is not None or self._aside:
                return self._set_aside(piece)
            return self._read(piece, now)
        except Exception as fault:
            self.record_bug(fault)
            return True

    def _check_size(self) -> None:
        if self._size > self.rule.max_body and not (self.goes_through and self._reader.may_be_document):
            self.fail(OversizedStream(f"the upstream's answer is larger than {self.rule.max_body:,} bytes"))

    def _read(self, piece: bytes, now: float) -> bool:
        """Read a piece on the event loop, or as much of it as takes only a few milliseconds."""
        if self._reader.wait(piece):
            return False
        if now - self._span_began > _SPAN:
            self._span_began, self._span_size, self._spent = now, self._size - len(piece), 0.0
        if self._size - self._span_size <= _PORTION and not self._reader.in_large_event:
            return self._reader.feed(piece) and self._notice_end()  # whatever it is
        has_short_lines = _SHORT_LINE * (piece.count(b"\n") + piece.count(b"\r")) > len(piece)
        most = _PORTION if has_short_lines else _MOST_AT_ONCE
        at, was_read = 0, False
        begun = time.thread_time()  # CPU time: without what other processes take
        while at < len(piece):
            if self._spent > _MOST_ON_LOOP or self._reader.in_large_event:
                is_noticed = was_read and self._notice_end()
                return self._set_aside(piece[at:]) or is_noticed
            portion = piece[at : at + min(self._at_once, most)]
            was_read = self._reader.feed(portion) or was_read
            at += len(portion)
            begun, before = time.thread_time(), begun
            if begun - before > _FAST * len(portion):
                self._spent, self._at_once = self._spent + begun - before, 2 * _PORTION
            else:
                self._at_once = min(2 * self._at_once, most)
        return was_read and self._notice_end()

    def _set_aside(self, piece: bytes) -> bool:
        """Keep a piece, and have what is kept read when an event may have ended in it."""
        before = self._aside[-1][-3:] if self._aside else b"\r\n"  # what was read may have ended with a line
        self._aside.append(piece)
        return self._reading is None and has_blank_line(before + piece) and self._read_aside()

    def _read_aside(self) -> bool:
        pieces, self._aside = self._aside, []
        return self._call(lambda: self._feed(pieces), aside=True)

    def _call(self, read: Callable[[], None], *, aside: bool = False) -> bool:
        """Have the reader read, `aside` in a thread if there is a loop. True if the caller has to `poll`."""
        if aside:
            with suppress(RuntimeError):
                self._reading = run_aside(read)
                return True
        read()
        return self._notice_end()

    def _feed(self, pieces: list[bytes]) -> None:
        # In portions: all lines of an event at once would take many times its size.
        begun = time.thread_time()
        for piece in pieces:
            for at in range(0, len(piece), _PORTION):
                self._reader.feed(piece[at : at + _PORTION])
                if time.thread_time() - begun > _MOST_ASIDE:
                    time.sleep(_PAUSE)
                    begun = time.thread_time()

    def _take_from_aside(self) -> None:
        """Take over what the thread has read, if it has finished, and give it what has arrived meanwhile."""
        if self._reading is None or not self._reading.done():
            return
        reading, self._reading = self._reading, None
        reading.result()
        self._notice_end()
        if self._aside:
            self._read_aside()

    def _notice_end(self) -> bool:
        reader = self._reader
        if reader.early != self._early:
            self._early = reader.early
            self._on(Signal.RESUMED)
        return (reader.ended and self._on(Signal.ENDED)) or (reader.finished and self._on(Signal.FINISHED))

    async def read_instead(self, status: int, content_type: str, body: bytes, *, encoded: bool) -> None:
        """Read another response in the place of the one that came, once that has ended."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        self.response_started, self.status, self.encoded = True, status, encoded
        self._reading, self._body = None, KeptBody()
        self._body.add(body, self._last_byte - self._started)
        self._size, self._aside = len(body), [] if encoded else [body]
        self._reader = self._reader_of(status, content_type)

    def end(self) -> None:
        """The body ended as its framing says it should."""
        self._check_size()  # what a first piece holds is only known now
        self._on(Signal.END_OF_BODY)

    def cut(self, reason: str) -> None:
        """The transport ended the answer too early, before or within the response."""
        self.cut_by = self.cut_by or printable(plainly(reason), LONGEST_REASON)
        if not self.response_started:
            error = UpstreamUnreachable(f"the upstream gave no response: {self.cut_by}")
            error.advice = advice_for(self.cut_by) or error.advice
            self._failure = self._failure or error
        self._on(Signal.BROKEN)

    def fail(self, error: StreamError) -> None:
        """Nothing that comes can be the answer any more."""
        self._failure = self._failure or error
        self._on(Signal.FAILURE)

    def record_bug(self, fault: Exception) -> None:
        """The addon itself failed; that becomes the answer."""
        self.fault = self.fault or fault
        self._on(Signal.FAILURE)

    def _on(self, signal: Signal) -> bool:
        """Whether the signal changes anything."""
        state = _TRANSITIONS[self.state].get(signal)
        if state is None:
            return False
        before, self.state = self.state, state
        self.is_final = not _TRANSITIONS[state]
        self.complete = state is State.COMPLETE
        self._last_change = self._last_byte
        if self.is_final:
            # If the connection lingers after the last event, that is not a silence of the answer.
            self._ended = self._last_byte if before is State.ENDING else self.clock()
        return True

    @property
    def ended(self) -> float:
        """When the answer was over, or now: seconds since the request went out."""
        return (self.clock() if self._ended is None else self._ended) - self._started

    @property
    def silence(self) -> float:
        """Seconds from the last byte to that."""
        return self.ended - (self._last_byte - self._started)

    @property
    def size(self) -> int:
        """The bytes so far."""
        return self._size

    @property
    def first_byte(self) -> float | None:
        """When it came: seconds since the request went out."""
        return self._body.first

    @property
    def limit(self) -> str:
        """Which limit ended it, in words; "" if none did."""
        return f"{self._failure}" if isinstance(self._failure, (StreamTimeout, OversizedStream)) else ""

    # Deadlines

    def next_deadline(self) -> float | None:
        """When the answer is to be given at the latest, by the clock; None if nothing limits it."""
        return min((moment for moment, _ in self._deadlines()), default=None)

    def poll(self) -> bool:
        """Apply a limit that has passed. Returns whether the answer can be given."""
        if self.state in (State.RECEIVING, State.FINISHING) and not self.encoded:
            is_silent = self.clock() - self._last_byte >= BLANK_LINE_PATIENCE
            try:
                self._take_from_aside()
                if self._reading is None and self._aside and is_silent:
                    self._read_aside()
                if self._reading is None:
                    if is_silent and self._size > self._read_late:
                        self._read_late = self._size
                        self._call(self._reader.read_late, aside=self._reader.begun > _MOST_LOOKED_AT)
                    else:
                        self._call(self._reader.read_waiting)  # the last finish reason may be in it, or more after one
            except Exception as fault:
                self.record_bug(fault)
        moment, missed = min(self._deadlines(), default=(float("inf"), ""))
        if moment <= self.clock():
            self._on(Signal.TIMEOUT)
            if self.state is State.FAILED:
                self._failure = self._failure or StreamTimeout(missed)
        return self.is_final

    def _deadlines(self) -> Iterator[tuple[float, str]]:
        """Each deadline, with what to say if it is missed."""
        if self.is_final:
            return
        if self._reading is not None:
            yield self.clock() + _LOOK_AGAIN, ""
        if self.state is State.FINISHING:
            yield min(self._last_byte + PATIENCE[self.state], self._last_change + LONGEST_PATIENCE), ""
        elif self.state is State.ENDING:
            yield self._last_change + PATIENCE[self.state], ""
        if self.deadline is not None:
            timeout, what = self.rule.timeout, "the upstream's answer did not end within"
            left = f"{what} {LONGEST_UNWAITED:g} s after its client gave up"
            yield self.deadline, left if timeout is None else f"{what} {timeout:g} s"
        if self._idle_timeout is not None:
            # What does not stream is silent until all of its answer is there.
            idle = max(self._idle_timeout, IDLE_TIMEOUT if self.plain else 0)
            yield self._last_byte + idle, f"the upstream sent no byte for {idle:g} s"

    # The outcome

    @cached_property
    def _reader(self) -> AnswerReader:
        """`start_response` sets another one; this one only makes the reply when there is no response."""
        return self._reader_of()

    def _reader_of(self, status: int = 200, content_type: str = "") -> AnswerReader:
        reader = self.spec.read(status, content_type, plain=self.asked is not None and self.plain)
        reader.gives_events = self.asked is not None
        return reader

    async def finish_aside(self, decoded: bytes | None = None) -> Reply | None:
        """The same as `finish`, but in a thread if it might block the event loop for more than a few milliseconds."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        unfolds_much = self.asked is not None and self._size > _MOST_UNFOLDED
        if self.encoded or self._aside or unfolds_much or self._reader.blocks_loop:
            reply = await run_aside(lambda: self.finish(decoded))
            self.forget()
            return reply
        return self.finish(decoded)

    def forget(self) -> None:
        """Free what was read, in a thread if that takes long; the report stays. Nobody waits for it."""
        if self._reading is not None and not self._reading.done():
            self._reading.add_done_callback(lambda _: self.forget())
        elif self._reader.blocks_loop:
            with suppress(RuntimeError):
                run_aside(self._reader.forget)

    @property
    def report(self) -> Report:
        is_read = self._reading is None or self._reading.done()
        return self._reader.report if is_read else Report(bytes=self._size)

    @property
    def times(self) -> list[float]:
        """For each piece: seconds since the request went out, and bytes so far; flat."""
        return self._body.times

    def decode_times(self, decode: Callable[[list[int]], list[int]]) -> None:
        """Have the times of an encoded answer be those of its decoded body. `decode`: the sizes."""
        self._body.decode_sizes(decode)

    def body(self) -> bytes:
        """The body as it came. Every call returns the same object, so the body is in memory once."""
        return self._body.whole()

    def _header(self, name: str) -> str:
        found = (value for key, value in self.fields if key.lower() == name.encode())
        return next(found, b"").decode(errors="replace")

    def finish(self, decoded: bytes | None = None) -> Reply | None:
        """The reply; None where the answer is to go to the client as it came. `decoded`: the body of an encoded
        answer. Never raises."""
        try:
            if self._reading is not None:
                self._reading.result()
            if self.fault is None and self._failure is None:
                self._feed(self._aside)
                self._aside = []
                if decoded is not None:
                    self._feed([decoded])
                    self.report.bytes = self._size
                self.is_document = self._reader.may_be_document
                reply = self._reader.finish(
                    self.cut_by,
                    silence=self.silence,
                    retry_after=wait_asked(self._header),
                    location=self._header("location"),
                )
                self.answered = self._reader.answered
                return reply if self.asked is None else self._unfolded(reply, decoded, self.asked)
        except Exception as fault:
            self.fault = fault
        self.report.bytes = self._size
        bug = InternalError("the answer could not be aggregated")
        reply = self._reader.failure(bug if self.fault is not None or self._failure is None else self._failure)
        return None if self._stays else reply

    @property
    def _stays(self) -> bool:
        """Whether an answer is given as it came: that to a client's own stream, if it ended, and is not the document
        that becomes events."""
        if not self.is_own_stream or self.is_live or self.state not in (State.COMPLETE, State.SETTLED):
            return False
        stays = not 200 <= self.status < 300 or (self.is_document and not self.answered)
        if stays:
            self.report.status = self.status
        return stays

    def _unfolded(self, reply: Reply | None, decoded: bytes | None, asked: Asked) -> Reply | None:
        """The reply for a client that asked for events; a failure stays what it is."""
        if self.is_live or (self.is_own_stream and not self.is_document):
            return None if self.answered or self._stays else reply  # they have come
        reply = self._made_of(reply, decoded, asked)
        return None if self._stays else reply

    def _made_of(self, reply: Reply | None, decoded: bytes | None, asked: Asked) -> Reply | None:
        status = self.status if reply is None else reply.status
        if status >= 400 and 200 <= self.status < 300 and not self._size and not self.cut_by:
            empty = EmptyStream("the upstream's answer was empty")
            empty.advice = "Try again."
            return self._reader.failure(empty)
        if not 200 <= status < 300 or (reply is None and status in _WITHOUT_BODY):
            return reply
        document = reply.body if reply is not None else self.body() if decoded is None else decoded
        try:
            made = unfold(document, asked)
        except StreamError as error:
            return self._reader.failure(error)
        self.answered, report = True, self.report
        report.finish_reason, report.usage, report.given = made.finish_reason, made.usage, made.events
        return Reply(status, made.stream, {"Content-Type": EVENT_STREAM_TYPE, "Cache-Control": "no-cache"})
