"""What an upstream can be told to do, as data. Knows nothing of sockets: each step names one method of an exchange.

An `Answer` is a tuple of steps, immutable, so one may be given to any number of requests. The same answer is played
over HTTP/1.1 and over HTTP/2; a step that has no meaning in the protocol at hand is an error of the test, and the
`upstream` fixture reports it.
"""

import asyncio
import concurrent.futures
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.record import TIMEOUT

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Exchange(Protocol):
    """One request being answered; http1.py and http2.py have one each."""

    async def interim(self, status: int, headers: list[tuple[str, str]]) -> None: ...
    async def head(self, head: "Head") -> None: ...
    async def data(self, data: bytes) -> None: ...
    async def end(self, trailers: list[tuple[str, str]]) -> None: ...
    async def cut(self, data: bytes, missing: int) -> None: ...
    async def raw(self, data: bytes) -> None: ...
    async def close(self, notify: bool) -> None: ...
    async def reset(self) -> None: ...
    async def rst_stream(self, error_code: int) -> None: ...
    async def goaway(self, error_code: int, last_stream_id: int | None, data: bytes) -> None: ...
    async def settle(self) -> None: ...
    async def linger(self) -> None: ...


class Gate:
    """An event that a test thread and the upstream's event loop can both open and both wait for."""

    def __init__(self) -> None:
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()

    def open(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    @property
    def is_open(self) -> bool:
        return self._opened.done()

    def wait(self, timeout: float = TIMEOUT) -> None:
        """Block the calling thread until the gate is open; TimeoutError if it stays shut."""
        self._opened.result(timeout)

    async def passed(self) -> None:
        # Shielded: a cancelled answer must not take the gate away from the others that wait for it.
        await asyncio.shield(asyncio.wrap_future(self._opened))


@dataclass(frozen=True)
class ShortLength:
    """A framing: a Content-Length of `missing` bytes more than the answer's Data steps have."""

    missing: int = 10


@dataclass(frozen=True)
class Interim:
    """A 1xx head before the real one."""

    status: int = 103
    headers: Headers = ()

    async def play(self, exchange: Exchange) -> None:
        await exchange.interim(self.status, _pairs(self.headers))


@dataclass(frozen=True)
class Head:
    """Status line and headers.

    `framing`: "chunked", "length" (counted from the answer's Data steps), "close" (the body ends with the
    connection), `ShortLength(n)`, or None for no framing header at all. HTTP/2 has only the lengths.
    `content_type` None sends none.
    """

    status: int = 200
    headers: Headers = ()
    content_type: str | None = "text/event-stream"
    framing: str | ShortLength | None = "chunked"
    reason: str | None = None

    def __post_init__(self) -> None:
        if not (self.framing in {"chunked", "length", "close", None} or isinstance(self.framing, ShortLength)):
            raise ValueError(f"no such framing: {self.framing!r}")

    async def play(self, exchange: Exchange) -> None:
        await exchange.head(self)

    def fields(self) -> list[tuple[str, str]]:
        """The headers with Content-Type first, without those of the framing."""
        content_type = [("Content-Type", self.content_type)] if self.content_type else []
        return content_type + _pairs(self.headers)


@dataclass(frozen=True)
class Data:
    """Body bytes: one chunk, one DATA frame (more where flow control says so), one write."""

    data: bytes

    async def play(self, exchange: Exchange) -> None:
        await exchange.data(self.data)


@dataclass(frozen=True)
class Raw:
    """Bytes past all framing: a broken head, garbage between chunks, a frame that no library would make."""

    data: bytes

    async def play(self, exchange: Exchange) -> None:
        await exchange.raw(self.data)


@dataclass(frozen=True)
class Pause:
    """Silence. Only for what depends on time itself; to order things, use WaitFor."""

    seconds: float

    async def play(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class WaitFor:
    """Silence until the test opens the gate."""

    gate: Gate

    async def play(self, exchange: Exchange) -> None:
        await self.gate.passed()


@dataclass(frozen=True)
class Signal:
    """Open a gate: all that stands before this step has been handed to the kernel."""

    gate: Gate

    async def play(self, exchange: Exchange) -> None:
        self.gate.open()


@dataclass(frozen=True)
class Settle:
    """Wait until the peer has read all that stands before: in HTTP/2 it answers a PING. In HTTP/1.1 nothing can tell.

    A reset destroys what the peer has not read, as soon as it writes; and an HTTP/2 peer writes when it likes.
    """

    async def play(self, exchange: Exchange) -> None:
        await exchange.settle()


@dataclass(frozen=True)
class End:
    """The proper end of the body: last chunk, END_STREAM, or the close that the framing announced."""

    trailers: Headers = ()

    async def play(self, exchange: Exchange) -> None:
        await exchange.end(_pairs(self.trailers))


@dataclass(frozen=True)
class CutChunk:
    """Announce a chunk (HTTP/2: a DATA frame) of `missing` bytes more than `data`, send `data`, close."""

    data: bytes = b""
    missing: int = 10

    async def play(self, exchange: Exchange) -> None:
        await exchange.cut(self.data, self.missing)


@dataclass(frozen=True)
class Close:
    """Close the connection (FIN) wherever the answer stands; `notify` False: without TLS's close_notify."""

    notify: bool = True

    async def play(self, exchange: Exchange) -> None:
        await exchange.close(self.notify)


@dataclass(frozen=True)
class Reset:
    """Reset the TCP connection (RST)."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.reset()


@dataclass(frozen=True)
class RstStream:
    """HTTP/2 only: RST_STREAM for this stream. The codes are in RFC 9113, section 7."""

    error_code: int = 2

    async def play(self, exchange: Exchange) -> None:
        await exchange.rst_stream(self.error_code)


@dataclass(frozen=True)
class GoAway:
    """HTTP/2 only: a GOAWAY frame, in one write with the data before it, if any; `last_stream_id` None names this
    stream."""

    error_code: int = 0
    last_stream_id: int | None = None
    data: bytes = b""

    async def play(self, exchange: Exchange) -> None:
        await exchange.goaway(self.error_code, self.last_stream_id, self.data)


@dataclass(frozen=True)
class Linger:
    """Send nothing more and wait until the peer ends the connection, or in HTTP/2 the stream."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.linger()


Step = (
    Interim
    | Head
    | Data
    | Raw
    | Pause
    | WaitFor
    | Signal
    | Settle
    | End
    | CutChunk
    | Close
    | Reset
    | RstStream
    | GoAway
    | Linger
)
LAST_STEPS = (End, CutChunk, Close, Reset, RstStream, GoAway, Linger)


@dataclass(frozen=True)
class Answer:
    """Steps in order. The last one must say how the answer ends, so that no test leaves that to chance."""

    steps: tuple[Step, ...]
    body_length: int = field(init=False)

    def __post_init__(self) -> None:
        if not self.steps or not isinstance(self.steps[-1], LAST_STEPS):
            names = ", ".join(step.__name__ for step in LAST_STEPS)
            raise ValueError(f"an answer must end with one of {names}")
        object.__setattr__(self, "body_length", sum(len(s.data) for s in self.steps if isinstance(s, Data)))

    @classmethod
    def of(cls, *parts: "Answer | Step | Iterable[Step]") -> "Answer":
        """Steps, and sequences of steps such as `pieces` gives, in one answer."""
        flat: list[Step] = []
        for part in parts:
            if isinstance(part, Answer):
                flat.extend(part.steps)
            elif isinstance(part, Step):
                flat.append(part)
            else:
                flat.extend(part)
        return cls(tuple(flat))


def sse(*events: Any, done: bool = True, newline: str = "\n") -> bytes:
    """A server-sent event stream: a dict or list becomes JSON, a str goes as it is, bytes are a ready-made event."""
    parts = [event if isinstance(event, bytes) else _event(event, newline) for event in events]
    if done:
        parts.append(_event("[DONE]", newline))
    return b"".join(parts)


def pieces(body: bytes, size: int) -> tuple[Data, ...]:
    """The body as Data steps of `size` bytes each."""
    return tuple(Data(body[start : start + size]) for start in range(0, len(body), size))


def event_stream(body: bytes, *, size: int | None = None, **head: Any) -> Answer:
    """A whole, well-ended event stream; `head` goes to Head."""
    return Answer.of(Head(**head), pieces(body, size or max(len(body), 1)), End())


def document(value: Any, *, status: int = 200, **head: Any) -> Answer:
    """A JSON document with a Content-Length."""
    head = {"content_type": "application/json", "framing": "length"} | head
    return Answer.of(Head(status, **head), Data(json.dumps(value).encode()), End())


def _event(value: Any, newline: str) -> bytes:
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {data}{newline}{newline}".encode()


def _pairs(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)
