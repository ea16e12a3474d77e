"""Every way in which an upstream can fail, and what the client gets: the table `FAULTS`, and the `Bench` that plays it.

Each fault is played over real sockets. `make faults` plays it to a client of HTTP/1.1 and one of HTTP/2, to one that
waits and to one that gets heartbeats; the tests play it to one of these four. The order of things is kept by
gates, never by sleeping: with heartbeats, the upstream goes on when the client has seen the first one.
"""

import gzip
import itertools
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from hyperframe.frame import DataFrame, WindowUpdateFrame

from harness import (
    H2_UPSTREAM,
    Answer,
    Certs,
    Close,
    CutChunk,
    Data,
    End,
    Gate,
    GoAway,
    Head,
    Http1Client,
    Http2Client,
    Interim,
    Linger,
    Pause,
    Proxy,
    Raw,
    Request,
    Reset,
    Response,
    RstStream,
    Settle,
    ShortLength,
    Upstream,
    WaitFor,
    document,
    event_stream,
    pieces,
    refused_port,
    sse,
)
from harness.paths import ADDON, SCRIPTS
from harness.steps import Step

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ENDPOINTS: Final = {CHAT: "chat", COMPLETIONS: "completions", RESPONSES: "responses"}
# Rows played at the same time; more would only wait for the processor.
WORKERS: Final = 16

# The limits of the rules, by name; each rule takes the models of its name, once with heartbeats and once without.
RULES: Final[dict[str, dict[str, Any]]] = {
    "plain": {"timeout": 60, "idle_timeout": 30},
    "patient": {"timeout": 60},
    "partial": {"on_truncated": "partial"},
    "idle": {"idle_timeout": 3},
    "timeout": {"timeout": 3},
    "small": {"max_body": "2KiB"},
    "sent-plain": {"force_upstream_plain": True, "timeout": 60},
    "sent-plain-patient": {"force_upstream_plain": True, "timeout": 60},
    "sent-plain-timeout": {"force_upstream_plain": True, "timeout": 3},
    "sent-plain-small": {"force_upstream_plain": True, "max_body": "2KiB"},
}
OF_LIMITS: Final = ("idle", "timeout", "small", "sent-plain-timeout", "sent-plain-small")
# Seconds between heartbeats; for what fails at once, so long that the failure comes first.
HEARTBEATS: Final = {"patient": 30.0, "sent-plain-patient": 30.0}
HEARTBEAT: Final = 0.1


def rules_text() -> str:
    """A rules file with every rule; JSON is YAML."""
    rules = [
        {"name": name + suffix, "hosts": ["127.0.0.1", "localhost"], "models": [f"{name}{suffix}/*"]}
        | ({} if "force_upstream_plain" in limits else {"force_upstream_stream": True})
        | limits
        | ({"heartbeat": HEARTBEATS.get(name, HEARTBEAT)} if suffix else {})
        for name, limits in RULES.items()
        for suffix in ("", "-heartbeat")
    ]
    return json.dumps({"rules": rules}, indent=1)


# What upstreams say


def chunk(content: str | None = None, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def text_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "c1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


def events(*values: Any) -> Data:
    """Events without [DONE]."""
    return Data(sse(*values, done=False))


def _response(status: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "m1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    output = [] if text is None else [message]
    return {"id": "r1", "object": "response", "created_at": 1, "model": "m", "status": status, "output": output} | more


def _named(event: dict[str, Any]) -> bytes:
    return b"event: " + event["type"].encode() + b"\n" + sse(event, done=False)


USAGE: Final = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
HEL, LO, STOP = events(chunk("Hel")), events(chunk("lo")), events(chunk(None, "stop"))
USED: Final = events({"id": "c1", "choices": [], "usage": USAGE})
DONE: Final = Data(b"data: [DONE]\n\n")
WHOLE: Final = (HEL, LO, STOP, USED, DONE)
WHOLE_BYTES: Final = b"".join(step.data for step in WHOLE)
CREATED: Final = Data(_named({"type": "response.created", "response": _response("in_progress")}))
DELTA: Final = Data(
    _named(
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "m1", "delta": "Hel"}
    )
)
COMPLETED: Final = Data(_named({"type": "response.completed", "response": _response("completed", "Hello")}))
FAILED: Final = Data(
    _named(
        {
            "type": "response.failed",
            "response": _response("failed", error={"code": "rate_limit_exceeded", "message": "slow down"}),
        }
    )
)
LIMITED: Final = {
    "error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
}
PLAIN: Final = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
}
PLAIN_BYTES: Final = json.dumps(PLAIN).encode()
OVERLOADED: Final = {"error": {"message": "no capacity", "type": "overload", "param": None, "code": None}}
PAGE: Final = b"<!DOCTYPE html><html><body><h1>Welcome to the captive portal</h1></body></html>"


# What the client gets


@dataclass(frozen=True)
class Outcome:
    """`code` is that of the addon's own error; without one, `body` is the JSON or the bytes that are expected. `live`:
    the client's own stream, passed on as it came.

    `error` is what the flow's metadata names as the error; `truncated` and `inferred` what they say.
    """

    status: int
    code: str = ""
    body: Any = None
    text: str | None = None
    finish: str | None = None
    error: str = ""
    truncated: bool = False
    inferred: bool = False
    passed: bool = False
    live: bool = False

    @property
    def words(self) -> str:
        """What `verdict` says of it."""
        return in_words(self.status, self.body if isinstance(self.body, bytes) else json.dumps(self.body), self.code)

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 300 or self.body == b""


def in_words(status: int, body: str | bytes, code: str = "") -> str:
    """A status and, of an error, its code."""
    with suppress(ValueError, TypeError, KeyError):
        code = code or json.loads(body)["error"]["code"]
    return f"{status} {code}" if code and status >= 400 else f"{status}"


STATUSES: Final = {"stream_timeout": 504}
FINAL: Final = {"stream_malformed", "stream_too_large"}


def answered(text: str = "Hello", finish: str | None = "stop", **flags: Any) -> Outcome:
    return Outcome(200, text=text, finish=finish, **flags)


def failed(code: str) -> Outcome:
    return Outcome(STATUSES.get(code, 502), code, error=code, truncated=code == "stream_truncated")


def said(status: int, body: Any) -> Outcome:
    """The upstream's own error."""
    return Outcome(status, body=body, error="upstream_error")


def passed(status: int, body: bytes = b"") -> Outcome:
    """The upstream's response as it came."""
    return Outcome(status, body=body, passed=True)


UNREACHABLE: Final = failed("upstream_unreachable")
TRUNCATED: Final = failed("stream_truncated")
TIMED_OUT: Final = failed("stream_timeout")
EMPTY: Final = failed("stream_empty")
MALFORMED: Final = failed("stream_malformed")
CORRUPTED: Final = failed("stream_corrupted")
NO_CODE: Final = {"param": None, "code": None}
# The error that an upstream's words become.
WORDS: Final = {"type": "upstream_error", "param": None}
PAGE_OF_MITMPROXY: Final = "502, mitmproxy's own page"


@dataclass(frozen=True)
class Fault:
    """One way to fail. `over`: the upstreams that can; `rule`: the limits; `kept`: how much of the steps' data the flow
    must show ("all", "some" or "none"); `left`: the proxy must end the connection or stream; `dead`: the address
    answers nobody, so the next request fails alike; `slow`: only `make faults` has the time; `without_layer`: the words
    for the outcome without the stream layer, where it is another, "" if it is not tried; `then`: what the upstream does
    when it is asked once more, `plain` if that is not for a stream; `sendings`: how often one attempt is sent to the
    upstream.
    """

    name: str
    steps: tuple[Step, ...]
    outcome: Outcome
    over: tuple[str, ...] = ("HTTP/1", "HTTP/2")
    rule: str = "plain"
    path: str = CHAT
    asks: dict[str, Any] = field(default_factory=dict)
    kept: str = "all"
    left: bool = False
    dead: bool = False
    slow: bool = False
    without_layer: str | None = None
    then: tuple[Step, ...] = ()
    plain: bool = False
    sendings: int = 1

    @property
    def fallback(self) -> str:
        if self.without_layer is not None:
            return self.without_layer
        # There are no limits then, and what an upstream leaves open stays so.
        return "" if self.left or self.rule in OF_LIMITS else self.outcome.words

    @property
    def to_events(self) -> bool:
        """Whether the client asks for a stream, and its upstream is asked for none."""
        return self.rule.startswith("sent-plain")

    @property
    def asked(self) -> list[bool]:
        """Whether each request that reaches the upstream asks for a stream: after an empty one, it is asked plain."""
        if self.to_events:
            return [False]
        if self.then:
            return [True, not self.plain]
        return [True, False] if self.outcome.code == EMPTY.code else [True]

    @property
    def sent(self) -> bytes:
        steps = self.then or self.steps
        return b"".join(step.data for step in steps if isinstance(step, (Data, CutChunk, GoAway)))


def fault(name: str, steps: Answer | Iterable[Any], outcome: Outcome, **more: Any) -> Fault:
    steps = steps.steps if isinstance(steps, Answer) else Answer.of(*steps).steps
    return Fault(name, steps, outcome, **more)


H1: Final = ("HTTP/1",)
H2: Final = ("HTTP/2",)
TLS: Final = ("HTTP/1 over TLS",)
# RFC 9113, section 7.
CODES: Final = {
    "NO_ERROR": 0,
    "INTERNAL_ERROR": 2,
    "REFUSED_STREAM": 7,
    "CANCEL": 8,
    "ENHANCE_YOUR_CALM": 11,
    "HTTP_1_1_REQUIRED": 13,
}


def _raw_head(*lines: str) -> Raw:
    return Raw("\r\n".join(["HTTP/1.1 200 OK", "Content-Type: text/event-stream", *lines, "", ""]).encode())


# Violations of HTTP/2.
BAD_FRAMES: Final = {
    # hyperframe makes none that adds nothing: length 4, type 8, stream 1 (RFC 9113, section 6.9).
    "WINDOW_UPDATE of zero": b"\x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x00",
    "WINDOW_UPDATE beyond the largest window": WindowUpdateFrame(0, window_increment=2**31 - 1).serialize(),
    "DATA on a stream that was never opened": DataFrame(99, data=b"x").serialize(),
}
# Longer than any limit of a test.
PADDING: Final = Data(b": " + b"x" * 100_000 + b"\n\n")


def _no_response() -> Iterator[Fault]:
    """Faults before there is a response."""
    none: dict[str, Any] = {"kept": "none", "without_layer": PAGE_OF_MITMPROXY}
    yield fault("connection closed before any byte", [Close()], UNREACHABLE, **none)
    yield fault("TCP reset before any byte", [Reset()], UNREACHABLE, **none)
    yield fault("connection closed inside the status line", [Raw(b"HTTP/1.1 2"), Close()], UNREACHABLE, over=H1, **none)
    yield fault("TCP reset inside the status line", [Raw(b"HTTP/1.1 2"), Reset()], UNREACHABLE, over=H1, **none)
    cut = Raw(b"HTTP/1.1 200 OK\r\nContent-Ty")
    yield fault("connection closed inside the headers", [cut, Close()], UNREACHABLE, over=H1, **none)
    yield fault("TCP reset inside the headers", [cut, Reset()], UNREACHABLE, over=H1, **none)
    cut = Raw(b"\x00\x00\x40\x01\x04\x00\x00\x00\x01\x88")
    yield fault("connection closed inside the HEADERS frame", [cut, Close()], UNREACHABLE, over=H2, **none)
    yield fault("bytes that are not HTTP", [Raw(b"\x00\x01\x02 hello\r\n\r\n"), Close()], UNREACHABLE, over=H1, **none)
    text = Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    yield fault("an HTTP/1.1 answer to an HTTP/2 request", [text, Close()], UNREACHABLE, over=H2, **none)
    for name, frame in BAD_FRAMES.items():
        yield fault(f"{name} before the headers", [Raw(frame), Linger()], UNREACHABLE, over=H2, **none)
    bad = Raw(b"HTTP/1.1 2OO Fine\r\nContent-Type: text/event-stream\r\n\r\n")
    yield fault("an invalid status line", [bad, Linger()], UNREACHABLE, over=H1, left=True, **none)
    for name, lines in {
        "an invalid header name": ("Bad Name: x", "Transfer-Encoding: chunked"),
        "a space before a header's colon": ("X-Thing : x", "Transfer-Encoding: chunked"),
        "Content-Length and Transfer-Encoding at once": ("Content-Length: 5", "Transfer-Encoding: chunked"),
        "two Content-Lengths that differ": ("Content-Length: 5", "Content-Length: 6"),
    }.items():
        yield fault(name, [_raw_head(*lines), Linger()], UNREACHABLE, over=H1, left=True, **none)
    invalid = Head(headers={"bad name": "x"})
    yield fault("an invalid header name", [invalid, HEL, Linger()], UNREACHABLE, over=H2, **none)
    for name, code in CODES.items():
        # mitmproxy has no page for these two, and resets the client's stream as well.
        without = "no answer" if name in {"CANCEL", "HTTP_1_1_REQUIRED"} else PAGE_OF_MITMPROXY
        more = {"kept": "none", "without_layer": without, "sendings": 10 if name == "REFUSED_STREAM" else 1}
        yield fault(f"RST_STREAM {name} before the headers", [RstStream(code)], UNREACHABLE, over=H2, **more)
    yield fault(
        "GOAWAY before the headers, then a close",
        [GoAway(), Close()],
        UNREACHABLE,
        over=H2,
        **none,
    )
    not_covered = [GoAway(last_stream_id=0), Linger()]
    yield fault("GOAWAY that does not cover the request", not_covered, UNREACHABLE, over=H2, sendings=10, **none)
    gone: dict[str, Any] = {"kept": "none", "dead": True}
    at_once: dict[str, Any] = gone | {"rule": "patient", "without_layer": PAGE_OF_MITMPROXY}
    nothing = [Close()]  # never played: these addresses do not get as far as a request
    yield fault("connection refused", nothing, UNREACHABLE, over=("refused",), **at_once)
    yield fault("connection closed at once", nothing, UNREACHABLE, over=("closing",), **at_once)
    yield fault("connection reset at once", nothing, UNREACHABLE, over=("resetting",), **at_once)
    yield fault("a greeting that is not HTTP", nothing, UNREACHABLE, over=("chatter",), **at_once)
    yield fault("TLS: a greeting in plain text", nothing, UNREACHABLE, over=("TLS chatter",), **at_once)
    yield fault("TLS: closed in the handshake", nothing, UNREACHABLE, over=("TLS closing",), **at_once)
    untrusted = "TLS: an untrusted certificate"
    yield fault(untrusted, nothing, UNREACHABLE, over=("untrusted",), **at_once)
    yield fault("accepted, then silence", nothing, TIMED_OUT, over=("silent",), rule="idle", **gone)
    yield fault("a connection that is never accepted", nothing, TIMED_OUT, over=("full",), rule="timeout", **gone)
    yield fault("TLS: a handshake that never ends", nothing, TIMED_OUT, over=("TLS silent",), rule="timeout", **gone)


def _cut() -> Iterator[Fault]:
    """Streams that stop before their end."""
    page: dict[str, Any] = {"without_layer": PAGE_OF_MITMPROXY}
    yield fault("connection closed after the headers", [Head(), Close()], TRUNCATED, **page)
    yield fault("TCP reset after the headers", [Head(), Reset()], TRUNCATED, **page)
    yield fault("TCP reset inside an event", [Head(), HEL, Data(LO.data[:30]), Reset()], TRUNCATED, **page)
    yield fault("TCP reset between two events", [Head(), HEL, LO, Reset()], TRUNCATED, **page)
    yield fault("TCP reset after the finish reason", [Head(), HEL, LO, STOP, Reset()], answered(), **page)
    each = [events(chunk(text, "stop")) for text in ("Hel", "lo")]
    yield fault("a finish reason with each word, then a TCP reset", [Head(), *each, Reset()], TRUNCATED, **page)
    yield fault("a finish reason with each word, then a clean end", [Head(), *each, End()], answered())
    yield fault("TCP reset after the usage", [Head(), HEL, LO, STOP, USED, Reset()], answered(), **page)
    yield fault("TCP reset after [DONE]", [Head(), *WHOLE, Reset()], answered(), **page)
    yield fault("connection closed between two events", [Head(), HEL, LO, Close()], TRUNCATED, **page)
    yield fault("connection closed after the finish reason", [Head(), HEL, LO, STOP, Close()], answered(), **page)
    yield fault("connection closed after [DONE]", [Head(), *WHOLE, Close()], answered(), **page)
    yield fault("cut inside a chunk", [Head(), HEL, CutChunk(LO.data[:30])], TRUNCATED, over=H1, **page)
    yield fault(
        "cut inside a DATA frame", [Head(), HEL, CutChunk(LO.data[:30])], TRUNCATED, over=H2, kept="some", **page
    )
    short = Head(framing=ShortLength(10))
    yield fault("body shorter than its Content-Length", [short, HEL, LO, Close()], TRUNCATED, over=H1, **page)
    yield fault("body shorter than its Content-Length", [short, HEL, LO, Settle(), End()], TRUNCATED, over=H2, **page)
    yield fault("whole answer, Content-Length too large", [short, *WHOLE, Close()], answered(), over=H1, **page)
    over_long = [_raw_head(f"Content-Length: {len(HEL.data)}"), HEL, LO, Linger()]
    left: dict[str, Any] = {"left": True, "without_layer": TRUNCATED.words}
    yield fault("body longer than its Content-Length", over_long, TRUNCATED, over=H1, kept="some", **left)
    over_long = [Head(headers={"Content-Length": f"{len(HEL.data)}"}), HEL, Settle(), LO, Linger()]
    yield fault("body longer than its Content-Length", over_long, TRUNCATED, over=H2, kept="some", **page)
    bad_chunk = [Head(), HEL, Raw(b"xyz\r\nhello\r\n"), Linger()]
    yield fault("an invalid chunk size", bad_chunk, TRUNCATED, over=H1, left=True, **page)
    for framing in ("chunked", "length", "close"):
        over = ("HTTP/1", "HTTP/2") if framing == "length" else H1
        ended = [Head(framing=framing), HEL, LO, End()]
        yield fault(f"clean end ({framing}), no finish reason, no [DONE]", ended, TRUNCATED, over=over)
    ended = [Head(), HEL, LO, End()]
    yield fault("END_STREAM, no finish reason, no [DONE]", ended, TRUNCATED, over=H2)
    ended = [Head(framing="close"), HEL, LO, STOP, End()]
    yield fault("clean end, finish reason, no [DONE]", ended, answered(), over=H1)
    ended = [Head(), HEL, LO, DONE, End()]
    yield fault("clean end, [DONE], no finish reason", ended, answered(inferred=True))
    for name, code in CODES.items():
        without = "no answer" if name in {"CANCEL", "HTTP_1_1_REQUIRED"} else PAGE_OF_MITMPROXY
        steps = [Head(), HEL, LO, RstStream(code)]
        yield fault(f"RST_STREAM {name} between two events", steps, TRUNCATED, over=H2, without_layer=without)
    yield fault("RST_STREAM NO_ERROR after [DONE]", [Head(), *WHOLE, RstStream(0)], answered(), over=H2, **page)
    steps = [Head(), *WHOLE, End(), RstStream(0)]
    yield fault("RST_STREAM NO_ERROR after END_STREAM", steps, answered(), over=H2)
    steps = [Head(), HEL, GoAway(), LO, STOP, USED, DONE, End()]
    yield fault("GOAWAY that covers the stream, which goes on", steps, answered(), over=H2, **page)
    steps = [Head(), HEL, GoAway(), Close()]
    yield fault("GOAWAY that covers the stream, then a close", steps, TRUNCATED, over=H2, **page)
    steps = [Head(), HEL, GoAway(last_stream_id=0), Linger()]
    yield fault("GOAWAY that does not cover the stream", steps, TRUNCATED, over=H2, **page)
    steps = [Head(), HEL, GoAway(11), Close()]
    yield fault("GOAWAY ENHANCE_YOUR_CALM, then a close", steps, TRUNCATED, over=H2, **page)
    # In one write: on a busy machine the next request would be on its way before the GOAWAY.
    steps = [Head(), HEL, LO, STOP, USED, GoAway(data=DONE.data), Linger()]
    yield fault("GOAWAY after [DONE]", steps, answered(), over=H2, **page)
    for name, frame in BAD_FRAMES.items():
        yield fault(f"{name} in the body", [Head(), HEL, Raw(frame), Linger()], TRUNCATED, over=H2, **page)
    steps = [Head(), HEL, Raw(DataFrame(1, data=b"").serialize()), LO, STOP, USED, DONE, End()]
    yield fault("an empty DATA frame between events", steps, answered(), over=H2)
    torn = Close(notify=False)
    yield fault("TLS: closed without close_notify", [Head(), HEL, LO, torn], TRUNCATED, over=(*TLS, *H2), **page)
    steps = [Head(framing="close"), HEL, LO, torn]
    yield fault("TLS: body to the close, no close_notify", steps, TRUNCATED, over=TLS)
    steps = [Head(framing="close"), *WHOLE, torn]
    yield fault("TLS: whole answer, no close_notify", steps, answered(), over=TLS)
    two = [Head(), events(chunk("Hel"), chunk("Bye", index=1), chunk(None, "stop")), Close()]
    yield fault("cut, one of two choices finished", two, TRUNCATED, asks={"n": 2}, **page)
    zipped = gzip.compress(WHOLE_BYTES * 20)
    coded = Head(headers={"Content-Encoding": "gzip"})
    gzipped = [coded, Data(gzip.compress(HEL.data * 50)[:60]), Close()]
    yield fault("a gzip stream, cut", gzipped, TRUNCATED, kept="none", **page)
    gzipped = [coded, *pieces(zipped, 40), End()]
    yield fault("a gzip stream, whole", gzipped, answered(), kept="none")
    steps = [Head(), events(text_chunk("Hel")), Close()]
    yield fault("completions, cut", steps, TRUNCATED, path=COMPLETIONS, **page)
    yield fault("responses, cut", [Head(), CREATED, DELTA, Close()], TRUNCATED, path=RESPONSES, **page)
    cut: dict[str, Any] = {"rule": "partial"} | page
    what_came = answered("Hel", "length", truncated=True, inferred=True)
    yield fault("on_truncated: partial; chat, cut", [Head(), HEL, Close()], what_came, **cut)
    yield fault("on_truncated: partial; chat, TCP reset", [Head(), HEL, Reset()], what_came, **cut)
    yield fault("on_truncated: partial; before the first event", [Head(), Close()], TRUNCATED, **cut)
    steps = [Head(), events(text_chunk("Hel")), Close()]
    yield fault("on_truncated: partial; completions, cut", steps, what_came, path=COMPLETIONS, **cut)
    what_came = answered("Hel", "incomplete", truncated=True)
    steps = [Head(), CREATED, DELTA, Close()]
    yield fault("on_truncated: partial; responses, cut", steps, what_came, path=RESPONSES, **cut)


def _too_long() -> Iterator[Fault]:
    """Streams that do not end, or not soon enough, or not small enough."""
    idle: dict[str, Any] = {"rule": "idle", "left": True}
    late: dict[str, Any] = {"rule": "timeout", "left": True}
    yield fault("silence before the headers", [Linger()], TIMED_OUT, kept="none", **idle)
    yield fault("silence after the headers", [Head(), Linger()], TIMED_OUT, **idle)
    yield fault("silence between two events", [Head(), HEL, Linger()], TIMED_OUT, **idle)
    yield fault("silence after the finish reason", [Head(), HEL, LO, STOP, Linger()], answered(), **idle)
    after = [Head(), HEL, LO, STOP, Linger()]
    yield fault("silence for 5 s after the finish reason", after, answered(), left=True, slow=True)
    yield fault("no response within the timeout", [Linger()], TIMED_OUT, kept="none", **late)
    drip = [step for _ in range(100) for step in (Data(b": wait\n\n"), Pause(0.05))]
    yield fault("endless comments", [Head(), *drip, Linger()], TIMED_OUT, kept="some", **late)
    flood = [step for _ in range(100) for step in (HEL, Pause(0.05))]
    yield fault("endless events", [Head(), *flood, Linger()], TIMED_OUT, kept="some", **late)
    yield fault("a connection that lingers after [DONE]", [Head(), *WHOLE, Linger()], answered(), left=True)
    steps = [Head(), CREATED, DELTA, COMPLETED, Linger()]
    yield fault("a connection that lingers after a terminal event", steps, answered(), path=RESPONSES, left=True)
    steps = [Head(), HEL, events(OVERLOADED), Linger()]
    yield fault("a connection that lingers after an error event", steps, said(502, OVERLOADED), left=True)
    plain = b'{"id": "c1", "choices": [{"message": {"content": "Hello"}}]}'
    steps = [Head(200, (), "application/json"), Data(plain), Linger()]
    yield fault("a connection that lingers after JSON", steps, passed(200, plain), left=True)
    small: dict[str, Any] = {"rule": "small", "kept": "some"}
    large = [events(chunk("x" * 300))] * 10
    too_large = failed("stream_too_large")
    yield fault("more than max_body", [Head(), *large, Linger()], too_large, left=True, **small)
    yield fault(
        "more than max_body, with a Content-Length", [Head(framing="length"), *large, End()], too_large, **small
    )


def _other() -> Iterator[Fault]:
    """Answers that are whole but not what was asked for."""
    yield fault("nothing wrong", event_stream(WHOLE_BYTES, size=10), answered())
    trailing = [Head(), *WHOLE, End({"X-Checksum": "1"})]
    yield fault("trailers after the body", trailing, answered(), without_layer="")
    unfinished = [Head(), HEL, LO, STOP, End({"X-Checksum": "1"})]
    yield fault("trailers after the body, no [DONE]", unfinished, answered(), without_layer="")
    interim = [Interim(103), *event_stream(WHOLE_BYTES).steps]
    yield fault("an interim response first", interim, answered(), over=H2)
    yield fault("an interim response first, over HTTP/1", interim, answered(), over=H1, without_layer="")
    bare = Head(204, content_type=None, framing=None)
    yield fault("204", [bare, End()], passed(204), kept="none")
    moved = Head(302, {"Location": "/elsewhere"}, content_type=None, framing="length")
    yield fault("302", [moved, End()], passed(302), kept="none")
    unchanged = Head(304, {"ETag": '"1"'}, content_type=None, framing=None)
    yield fault("304", [unchanged, End()], passed(304), kept="none")
    yield fault(
        "JSON in spite of stream: true",
        document({"id": "c1", "choices": []}),
        passed(200, b'{"id": "c1", "choices": []}'),
    )
    zipped = gzip.compress(b'{"id": "c1"}')
    head = Head(200, {"Content-Encoding": "gzip"}, "application/json", "length")
    yield fault(
        "JSON in spite of stream: true, gzipped", [head, Data(zipped), End()], passed(200, b'{"id": "c1"}'), kept="none"
    )
    head = Head(200, (), "application/json", ShortLength(10))
    page_of_its_own: dict[str, Any] = {"without_layer": PAGE_OF_MITMPROXY}
    yield fault("JSON, cut", [head, Data(b'{"id": "c1", "cho'), Close()], TRUNCATED, over=H1, **page_of_its_own)
    yield fault(
        "429 with JSON",
        document(LIMITED, status=429),
        passed(429, json.dumps(LIMITED).encode()),
    )
    busy = Head(503, (), "text/html", "length")
    yield fault("503 with a page", [busy, Data(PAGE), End()], passed(503, PAGE))
    busy = Head(503, (), "text/html", ShortLength(10))
    yield fault("503 with a page, cut", [busy, Data(PAGE), Close()], passed(503, PAGE), over=H1, **page_of_its_own)
    yield fault("429 with its error inside a stream", [Head(429), events(LIMITED), End()], said(429, LIMITED))
    yield fault("an error event that names its status", [Head(), HEL, events(LIMITED), End()], said(429, LIMITED))
    yield fault("an error event that names no status", [Head(), events(OVERLOADED), DONE, End()], said(502, OVERLOADED))
    yield fault(
        "response.failed",
        [Head(), CREATED, FAILED, End()],
        Outcome(429, error="rate_limit_exceeded"),
        path=RESPONSES,
        without_layer="429 rate_limit_exceeded",
    )
    yield fault("an empty body", [Head(), End()], EMPTY)
    yield fault("[DONE] and nothing else", [Head(), DONE, End()], EMPTY)
    yield fault("comments and nothing else", [Head(), Data(b": one\n\n: two\n\n"), End()], EMPTY)
    page = Head(200, (), "text/html", "length")
    yield fault("200 with a page", [page, Data(PAGE), End()], MALFORMED)
    text = Data(b"data: out of memory\n\n")
    yield fault(
        "events whose data is text",
        [Head(), text, End()],
        said(502, {"error": WORDS | {"message": "out of memory", "code": "stream_malformed"}}),
    )
    yield fault("events whose data is broken JSON", [Head(), Data(b'data: {"id": \n\n'), End()], CORRUPTED)
    half = Data(LO.data[:-30] + b"\n\n")
    yield fault("an event cut in the middle, then the rest", [Head(), HEL, half, STOP, DONE, End()], CORRUPTED)
    text = Data(b"data: upstream error: 503 backend busy\n\n")
    busy_words = said(503, {"error": WORDS | {"message": "upstream error: 503 backend busy", "code": None}})
    yield fault("an error in words, then [DONE]", [Head(), HEL, text, DONE, End()], busy_words)
    text = Data(b"data: The model was unloaded.\n\n")
    words = {
        "error": {"message": "The model was unloaded.", "type": "upstream_error"}
        | NO_CODE
        | {"code": "stream_malformed"}
    }
    yield fault("words in place of the rest, then [DONE]", [Head(), HEL, text, DONE, End()], said(502, words))
    yield fault("words among the events of a whole answer", [Head(), HEL, text, LO, STOP, DONE, End()], answered())
    yield from _asked_again()


def _asked_again() -> Iterator[Fault]:
    """Upstreams that demand another form of the request."""
    too_long = {"error": {"message": "the prompt is too long", "type": "invalid_request_error"} | NO_CODE}
    refused = passed(400, json.dumps(too_long).encode())
    steps = document(too_long, status=400).steps
    empty: dict[str, Any] = {"then": steps, "plain": True, "without_layer": EMPTY.words}
    yield fault("an empty event stream, then a plain 400", [Head(), End()], refused, **empty)
    once: dict[str, Any] = {"without_layer": "400 unsupported_value"}
    options = document(_refusal("Unknown parameter: 'stream_options'.", "stream_options"), status=400)
    yield fault(
        "stream_options refused, then a stream", options, answered(), then=event_stream(WHOLE_BYTES).steps, **once
    )
    message = "Your organization must be verified to stream this model."
    whole = {"id": "c1", "choices": []}
    yield fault(
        "a 4xx that names streaming, then a plain answer",
        document(_refusal(message, "stream"), status=400),
        passed(200, json.dumps(whole).encode()),
        then=document(whole).steps,
        plain=True,
        **once,
    )


def _refusal(message: str, param: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": "unsupported_value"}}


def _last() -> Iterator[Fault]:
    broken = Data(HEL.data.replace(b"Hel", b"Hel\xff"))
    yield fault("bytes that are not UTF-8", [Head(), broken, LO, STOP, DONE, End()], answered("Hel\ufffdlo"))


def _sent_plain() -> Iterator[Fault]:
    """The other direction: the client asks for a stream, and its upstream is asked for none."""
    head, half = Head(200, (), "application/json"), Data(PLAIN_BYTES[:60])
    torn: dict[str, Any] = {"without_layer": PAGE_OF_MITMPROXY}
    none: dict[str, Any] = torn | {"kept": "none"}
    dead: dict[str, Any] = {"kept": "none", "dead": True}
    late: dict[str, Any] = {"rule": "sent-plain-timeout", "left": True}

    def row(name: str, steps: Answer | Iterable[Any], outcome: Outcome, **more: Any) -> Fault:
        return fault(f"sent plain: {name}", steps, outcome, **{"rule": "sent-plain", "asks": {"stream": True}} | more)

    yield row("nothing wrong", document(PLAIN), answered())
    zipped = Head(200, {"Content-Encoding": "gzip"}, "application/json", "length")
    yield row("a gzipped answer", [zipped, Data(gzip.compress(PLAIN_BYTES)), End()], answered(), kept="none")
    at_once = dead | torn | {"rule": "sent-plain-patient"}
    yield row("connection refused", [Close()], UNREACHABLE, over=("refused",), **at_once)
    yield row("TLS: an untrusted certificate", [Close()], UNREACHABLE, over=("untrusted",), **at_once)
    yield row("accepted, then silence", [Close()], TIMED_OUT, over=("silent",), **dead | {"rule": "sent-plain-timeout"})
    yield row("connection closed before any byte", [Close()], UNREACHABLE, **none)
    yield row("TCP reset before any byte", [Reset()], UNREACHABLE, **none)
    yield row("RST_STREAM INTERNAL_ERROR before the headers", [RstStream(2)], UNREACHABLE, over=H2, **none)
    yield row("connection closed after the headers", [head, Close()], TRUNCATED, **torn)
    yield row("connection closed inside the answer", [head, half, Close()], TRUNCATED, **torn)
    yield row("TCP reset inside the answer", [head, half, Reset()], TRUNCATED, **torn)
    yield row("cut inside a chunk", [head, CutChunk(half.data)], TRUNCATED, over=H1, **torn)
    yield row(
        "RST_STREAM CANCEL inside the answer", [head, half, RstStream(8)], TRUNCATED, over=H2, without_layer="no answer"
    )
    yield row(
        "GOAWAY that does not cover the stream",
        [head, half, GoAway(last_stream_id=0), Linger()],
        TRUNCATED,
        over=H2,
        **torn,
    )
    short = Head(200, (), "application/json", ShortLength(10))
    yield row("body shorter than its Content-Length", [short, half, Close()], TRUNCATED, over=H1, **torn)
    to_close = Head(200, (), "application/json", "close")
    yield row("body to the close, inside the answer", [to_close, half, End()], TRUNCATED, over=H1)
    yield row("clean end inside the answer", [head, half, End()], TRUNCATED)
    yield row("no response within the timeout", [Linger()], TIMED_OUT, kept="none", **late)
    yield row("silence inside the answer", [head, half, Linger()], TIMED_OUT, **late)
    yield row("a connection that lingers after the answer", [head, Data(PLAIN_BYTES), Linger()], answered(), left=True)
    large = [Data(PLAIN_BYTES.replace(b"Hello", b"x" * 1500)[:-100]), *[Data(b" " * 400)] * 4]
    small: dict[str, Any] = {"rule": "sent-plain-small", "kept": "some", "left": True}
    yield row("more than max_body", [head, *large, Linger()], failed("stream_too_large"), **small)
    yield row("429 with JSON", document(LIMITED, status=429), passed(429, json.dumps(LIMITED).encode()))
    yield row("503 with a page", [Head(503, (), "text/html", "length"), Data(PAGE), End()], passed(503, PAGE))
    yield row("200 with an error in JSON", document(LIMITED), said(429, LIMITED))
    yield row("200 with a page", [Head(200, (), "text/html", "length"), Data(PAGE), End()], MALFORMED)
    words = {"error": WORDS | {"message": "the model is loading", "code": "stream_malformed"}}
    yield row("200 with text labelled JSON", [head, Data(b"the model is loading"), End()], said(502, words))
    yield row("JSON of another kind", document({"hello": "world"}), MALFORMED)
    yield row("an empty body", [head, End()], EMPTY)
    live = Outcome(200, body=WHOLE_BYTES, live=True)
    yield row("a stream all the same", event_stream(WHOLE_BYTES, size=10), live)
    cut = replace(live, body=HEL.data + LO.data, truncated=True)
    for over, without in ((H1, "200, cut short"), (H2, "")):
        steps = [Head(), HEL, LO, Close()]
        yield row("a stream all the same, cut", steps, cut, over=over, without_layer=without)
    yield row("a stream labelled JSON", [head, *WHOLE, End()], live)


FAULTS: Final = (*_no_response(), *_cut(), *_too_long(), *_other(), *_last(), *_sent_plain())


# The bench


@dataclass(frozen=True)
class Row:
    """A fault, the upstream that has it, and the client that meets it. `key` names the row on the wire and in logs."""

    fault: Fault
    over: str
    client: str
    heartbeat: bool = False

    @property
    def key(self) -> str:
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.fault.name} {self.over} {self.client}".lower())
        return words + ("-heartbeat" if self.heartbeat else "")

    @property
    def rule(self) -> str:
        return self.fault.rule + ("-heartbeat" if self.heartbeat else "")

    @property
    def model(self) -> str:
        return f"{self.rule}/{self.key}"

    @property
    def waits(self) -> bool:
        """Whether the client sees a heartbeat before the fault."""
        return self.heartbeat and self.fault.rule not in HEARTBEATS


@dataclass
class Seen:
    """What came of a row: the response, the next one on the same connection (None where there can be none)."""

    row: Row
    response: Response
    following: Response | None


CLIENTS: Final = {"HTTP/1": Http1Client, "HTTP/2": Http2Client}


def rows(client: str, heartbeat: bool, faults: Iterable[Fault] = FAULTS) -> list[Row]:
    return [Row(fault, over, client, heartbeat) for fault in faults for over in fault.over]


def drawn_rows(faults: Iterable[Fault], heartbeats: tuple[bool, ...] = (False, True), draw: str = "") -> list[Row]:
    """Each fault at each of its upstreams once, to a kind of client that is drawn for it: with the same `draw` the same
    one each time."""
    kinds = list(itertools.product(CLIENTS, heartbeats))
    places = ((fault, over) for fault in faults for over in fault.over)
    return [Row(fault, over, *Random(f"{draw} {fault.name} {over}").choice(kinds)) for fault, over in places]


class Bench:
    """Upstreams of every kind, and one mitmdump that goes to each of them.

    `mode` "reverse"; or "regular" and "upstream" (a second mitmdump is the upstream proxy), with TLS on both sides and
    only the upstreams that speak it. `first` and `scripts` are loaded before the addon and after it; `options` and
    `settings` go to Proxy.
    """

    def __init__(
        self,
        certs: Certs,
        folder: Path,
        *,
        mode: str = "reverse",
        scripts: Iterable[Path] = (),
        first: Iterable[Path] = (),
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.certs = certs
        self.upstream = Upstream(certs)
        self.urls: dict[str, str] = {}
        self._mode = mode
        self._folder = folder
        self._scripts = [*first, ADDON, H2_UPSTREAM, *scripts]
        self._options = options or {}
        self._settings = settings
        self._answers: dict[str, list[Answer]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Bench":
        with self._stack as stack:
            stack.enter_context(self.upstream)
            targets = self._reverse_targets(stack) if self._mode == "reverse" else self._tls_targets(stack)
            self.proxy = self._start(stack, self._modes(stack, targets))
            self.urls = dict(zip(targets, self.proxy.urls, strict=True)) if self._mode == "reverse" else targets
            self._stack = stack.pop_all()
        self.upstream.answer(event_stream(WHOLE_BYTES), key="next")
        self.upstream.handle(self._answer)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _reverse_targets(self, stack: ExitStack) -> dict[str, str]:
        targets = {
            "HTTP/1": self.upstream.url("http"),
            "HTTP/2": self.upstream.url("h2"),
            "HTTP/1 over TLS": self.upstream.url("https"),
            "untrusted": self.upstream.url("untrusted"),
            "refused": f"http://127.0.0.1:{refused_port()}",
            "full": f"http://127.0.0.1:{_full_port(stack)}",
        }
        for name, steps in _DOORS.items():
            url = stack.enter_context(_door(self.certs, *steps)).url("http")
            targets |= {name: url, f"TLS {name}": url.replace("http:", "https:")}
        return targets

    def _tls_targets(self, stack: ExitStack) -> dict[str, str]:
        silent = stack.enter_context(_door(self.certs, *_DOORS["silent"])).url("http").replace("http:", "https:")
        return {"HTTP/1": self.upstream.url("https"), "HTTP/2": self.upstream.url("h2"), "TLS silent": silent}

    def _modes(self, stack: ExitStack, targets: dict[str, str]) -> list[str]:
        if self._mode == "reverse":
            return [f"reverse:{url}" for url in targets.values()]
        if self._mode == "regular":
            return ["regular"]
        # It only passes bytes on: an upstream proxy that reads them would have a page of its own for a cut.
        second = stack.enter_context(Proxy("regular", certs=self.certs, options={"ignore_hosts": ".*"}))
        return [f"upstream:{second.url}"]

    def _start(self, stack: ExitStack, modes: list[str]) -> Proxy:
        rules = self._folder / "rules.yaml"
        rules.write_text(rules_text(), encoding="utf-8")
        options = {"force_stream_rules": rules, "connection_strategy": "lazy"} | self._options
        proxy = Proxy(*modes, certs=self.certs, scripts=self._scripts, options=options, remote=True, **self._settings)
        return stack.enter_context(proxy)

    def run(self, wanted: Iterable[Row]) -> list[Seen]:
        """Play the rows, many at a time."""
        with ThreadPoolExecutor(WORKERS) as pool:
            # The slow ones first.
            ordered = sorted(wanted, key=lambda row: row.fault.rule not in ("idle", "timeout", "sent-plain-timeout"))
            return list(pool.map(self.play, ordered))

    def connect(self, client: str, over: str) -> Any:
        url = self.urls[over]
        if self._mode != "reverse":
            return CLIENTS[client](url, self.certs, via=self.proxy.url)
        return CLIENTS[client](url if client == "HTTP/1" else url.replace("http:", "https:"), self.certs)

    def prepare(self, row: Row) -> Gate:
        """Give the upstream its answer; it waits for the gate if the client is to see a heartbeat first."""
        gate = Gate()
        steps = _settled(row.fault.steps) if row.over == "HTTP/2" else row.fault.steps
        answers = [Answer.of(*([WaitFor(gate)] if row.heartbeat else []), steps)]
        answers += [Answer.of(row.fault.then)] if row.fault.then else []
        self._answers[row.key] = answers
        return gate

    def _answer(self, request: Request) -> Answer | None:
        """The answer to a row's request: its first one, then its second one."""
        answers = self._answers.get(request.header("x-answer") or "", [])
        return answers.pop(0) if len(answers) > 1 else next(iter(answers), None)

    def play(self, row: Row) -> Seen:
        gate = self.prepare(row)
        with self.connect(row.client, row.over) as client:
            response = ask(client, row.fault.path, row.key, row.model, row.fault.asks, gate)
            following = None
            if response.ended != "silence" and (row.client == "HTTP/2" or _leaves_open(response)):
                if row.fault.dead:
                    following = ask(client, CHAT, row.key, f"{row.fault.rule}/next", row.fault.asks)
                else:
                    following = ask(client, CHAT, "next", "plain/next")
        return Seen(row, response, following)

    def requests_of(self, row: Row) -> list[Request]:
        with self.upstream.changed:
            return [request for request in self.upstream.requests if request.header("x-answer") == row.key]

    # What is wrong

    def problems(self, seen: Iterable[Seen]) -> list[str]:
        """Everything that differs from the table, one line each."""
        of_clients = [flow for flow in self.proxy.flows() if "force_stream.retry_of" not in flow["metadata"]]
        flows = {flow["model"]: flow for flow in map(_with_model, of_clients)}
        log = self.log
        found = []
        for one in seen:
            problems = [
                *check_response(one),
                *check_flow(one.row, flows.get(one.row.model)),
                *self._check_log(one.row, log),
                *self._check_upstream(one.row),
            ]
            found += [f"{one.row.key}: {problem}" for problem in problems]
        crashes = [line for line in log if re.search("Traceback|crashed|Addon error|a bug in", line)]
        return found + [f"in the log: {line}" for line in crashes]

    @property
    def log(self) -> list[str]:
        """The lines of the log, without those that only the test reads."""
        return [line for line in self.proxy.log.splitlines() if not re.search(r"\] remote \d+: ", line)]

    def _check_log(self, row: Row, log: list[str]) -> Iterator[str]:
        if row.fault.outcome.live:
            return  # tests/e2e/test_plain.py
        start = f"{row.rule}: {ENDPOINTS[row.fault.path]} {row.model}, "
        lines = [line for line in log if start in line]
        if len(lines) != len(row.fault.asked):
            yield f"{len(lines)} lines in the log: {lines}"

    def _check_upstream(self, row: Row) -> Iterator[str]:
        if row.fault.dead:
            return
        requests = self.requests_of(row)
        if [bool(request.json().get("stream")) for request in requests] != row.fault.asked * row.fault.sendings:
            yield f"{len(requests)} requests reached the upstream"
        elif row.fault.left:
            ended = requests[0].wait_closed()
            # A close with bytes unread is a reset.
            if ended not in (("rst_stream 8",) if row.over == "HTTP/2" else ("closed", "reset")):
                yield f"the upstream saw the end as {ended}"


def _settled(steps: tuple[Step, ...]) -> list[Step]:
    """The steps of an HTTP/2 answer, with a wait before its connection is hurt: what comes in the same read is lost."""
    hurt = next((at for at, step in enumerate(steps) if isinstance(step, (Close, CutChunk, GoAway, Raw, Reset))), None)
    return list(steps) if hurt is None else [*steps[:hurt], Settle(), *steps[hurt:]]


_DOORS: Final[dict[str, tuple[Any, ...]]] = {
    "closing": (Close(),),
    "resetting": (Reset(),),
    "silent": (Linger(),),
    "chatter": (Raw(b"220 mail.example.com ESMTP\r\n\r\n"), Close()),
}


def _full_port(stack: ExitStack) -> int:
    """A port whose queue of connections is full: the next one is not even refused."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(8):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    port: int = listener.getsockname()[1]
    return port


def _door(certs: Certs, *steps: Any) -> Upstream:
    """An upstream that does this to every connection."""
    upstream = Upstream(certs)
    upstream.at_accept(*steps, times=2000)
    return upstream


def _with_model(flow: dict[str, Any]) -> dict[str, Any]:
    return flow | {"model": flow["metadata"].get("force_stream.model")}


def ask(
    client: Any, path: str, key: str, model: str, asks: dict[str, Any] | None = None, gate: Gate | None = None
) -> Response:
    """One request and its answer; one that does not end is `ended` "silence"."""
    try:
        return _answer_to(client, path, key, body_of(model, **asks or {}), gate or Gate())
    except TimeoutError:
        return Response("", ended="silence")


def body_of(model: str, **asks: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]} | asks).encode()


def _answer_to(client: Any, path: str, key: str, raw: bytes, gate: Gate) -> Response:
    """Opens the gate once something of the answer is here."""
    headers = [("Content-Type", "application/json"), ("x-answer", key)]
    if isinstance(client, Http1Client):
        client.start("POST", path, headers, raw)
        incoming = client.begin("POST")
        incoming.read_piece()
        gate.open()
        while incoming.read_piece() is not None:
            pass
        return incoming.response
    stream = client.start("POST", path, headers, raw)
    while not (response := client.receive_some(stream)).chunks and not response.ended:
        pass
    gate.open()
    return client.receive(stream)


def verdict(response: Response) -> str:
    """What the client got, in a few words."""
    if response.ended == "silence":
        return "silence"
    if response.status is None:
        return "no answer"
    if not response.complete:
        return f"{response.status}, cut short"
    content_type = (response.header("content-type") or "").partition(";")[0]
    if content_type == "text/event-stream" and (error := _error_event(response.body)) is not None:
        return f"{response.status}, error event {error['code'] or ''}".rstrip()
    if content_type == "text/html" and (response.header("server") or "").startswith("mitmproxy"):
        return f"{response.status}, mitmproxy's own page"
    return in_words(response.status, response.body)


def _leaves_open(response: Response) -> bool:
    """Whether another request can follow on a connection of HTTP/1."""
    return response.complete and response.framing != "close"


def _error_event(stream: bytes) -> Any:
    """What the last event says if it is an error of chat; None if it is not."""
    last = stream.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    with suppress(ValueError):
        return json.loads(last.removeprefix(b"data: ")).get("error")
    return None


def check_response(seen: Seen) -> Iterator[str]:
    row, response, outcome = seen.row, seen.response, seen.row.fault.outcome
    if row.fault.to_events and (row.waits or not outcome.failed):
        yield from _check_events(row, response)
    elif row.waits:
        yield from _check_committed(row, response)
    else:
        yield from _check_plain(row, response)
    if seen.following is None:
        if row.client == "HTTP/2" or _leaves_open(response):
            yield "the next request was not made"
    elif row.fault.dead:
        if seen.following.status != outcome.status or not seen.following.complete:
            yield f"the next request got {verdict(seen.following)}"
    elif verdict(seen.following) != "200" or seen.following.json()["choices"][0]["message"]["content"] != "Hello":
        yield f"the next request got {verdict(seen.following)} {seen.following.body[:200]!r}"


def _check_events(row: Row, response: Response) -> Iterator[str]:
    """What a client gets that asked for events, unless it has its status still to come and that is an error."""
    outcome, beat = row.fault.outcome, b": waiting for the answer\n\n"
    if (response.status, response.header("content-type")) != (200, "text/event-stream"):
        yield f"status {response.status}, type {response.header('content-type')} {response.body[:200]!r}"
        return
    # Where the end of the connection is the end of the body, a client cannot tell.
    if response.complete == (outcome.live and outcome.truncated and response.framing != "close"):
        yield f"ended {response.ended}"
    if row.waits != response.body.startswith(beat):
        yield f"begins with {response.body[:40]!r}"
    stream = response.body.replace(beat, b"")
    if outcome.live:
        if stream != outcome.body:
            yield f"{stream!r} is not as it came"
    elif outcome.failed:
        error = _error_event(stream)
        if error is None or stream.count(b"data: ") != 1:
            yield f"no error event: {stream!r}"
        elif error["code"] != _code_of(outcome):
            yield f"error event {error}"
    else:
        if not row.waits and response.header("content-length") != str(len(response.body)):
            yield f"Content-Length {response.header('content-length')}"
        chunks = [json.loads(line[6:]) for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
        deltas = [choice for each in chunks for choice in each["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in deltas)
        if (text, deltas[-1]["finish_reason"]) != (outcome.text, outcome.finish) or not stream.endswith(DONE.data):
            yield f"events {stream!r}"


def _code_of(outcome: Outcome) -> Any:
    """The code of the error event that says what another client gets as a status and JSON."""
    with suppress(ValueError, TypeError, KeyError):
        said = outcome.body if isinstance(outcome.body, dict) else json.loads(outcome.body)
        return said["error"]["code"]
    return outcome.code or None


def _check_committed(row: Row, response: Response) -> Iterator[str]:
    """After the first heartbeat."""
    outcome = row.fault.outcome
    if response.status != 200 or response.header("content-type") != "application/json":
        yield f"status {response.status}, type {response.header('content-type')}"
        return
    if row.client == "HTTP/1" and response.framing != "chunked":
        yield f"framing {response.framing}"
    if response.header("content-length") or response.header("content-encoding"):
        yield f"headers {response.headers}"
    if not response.chunks or response.chunks[0] != b" ":
        yield f"the first piece is {response.chunks[:1]}"
    if outcome.failed:
        expected = ("closed", "torn") if row.client == "HTTP/1" else ("rst_stream 2",)
        if response.ended not in expected or response.body.strip():
            yield f"ended {response.ended} with {response.body[:200]!r}"
    elif not response.complete:
        yield f"ended {response.ended}"
    else:
        yield from _check_document(row, response)


def _check_plain(row: Row, response: Response) -> Iterator[str]:
    outcome = row.fault.outcome
    if response.status != outcome.status or not response.complete:
        yield f"{verdict(response)} ({response.ended}) {response.body[:300]!r}, not {outcome.status}"
        return
    if (response.header("x-should-retry") == "false") != (outcome.code in FINAL):
        yield f"x-should-retry {response.header('x-should-retry')}"
    if outcome.passed:
        body = response.body
        if response.header("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if body != outcome.body:
            yield f"body {response.body!r}"
        return
    if response.header("content-type") != "application/json":
        yield f"type {response.header('content-type')}"
    if response.header("content-length") != str(len(response.body)):
        yield f"Content-Length {response.header('content-length')} for {len(response.body)}"
    if response.header("transfer-encoding") or response.header("content-encoding"):
        yield f"headers {response.headers}"
    yield from _check_document(row, response)


def _check_document(row: Row, response: Response) -> Iterator[str]:
    outcome = row.fault.outcome
    try:
        body = response.json()
    except ValueError:
        yield f"not JSON: {response.body[:200]!r}"
        return
    if outcome.code:
        error = body.get("error", {})
        shape = {"type": "upstream_error", "param": None, "code": outcome.code}
        if list(body) != ["error"] or {name: error.get(name) for name in shape} != shape or len(error) != 4:
            yield f"error {body}"
        came = re.search(r"Rule (\S+); ([\d,]+ events?, )?([\d,]+) bytes? received\. ", error.get("message", ""))
        if not came or came[1] != row.rule:
            yield f"message {error.get('message')}"
        elif row.fault.kept == "all" and int(came[3].replace(",", "")) != len(row.fault.sent):
            yield f"message {error.get('message')}, but {len(row.fault.sent)} bytes were sent"
    elif outcome.text is not None:
        if _said(row.fault.path, body) != (outcome.text, outcome.finish):
            yield f"document {body}"
    elif isinstance(outcome.body, bytes):
        if json.loads(outcome.body) != body:
            yield f"document {body}"
    elif outcome.body is not None and body != outcome.body:
        yield f"error {body}"


def _said(path: str, body: dict[str, Any]) -> tuple[str, str]:
    """The answer's text and how it finished; for Responses, "stop" is its "completed"."""
    if path == RESPONSES:
        finish = "stop" if body["status"] == "completed" else body["status"]
        return body["output"][0]["content"][0]["text"], finish
    choice = body["choices"][0]
    return choice["text"] if path == COMPLETIONS else choice["message"]["content"], choice["finish_reason"]


def _named(outcome: Outcome) -> str:
    """The code of an error as people know it: of one that the upstream reported, its own."""
    error = outcome.body.get("error") if outcome.error == "upstream_error" and isinstance(outcome.body, dict) else None
    names = [error.get("code"), error.get("type")] if isinstance(error, dict) else []
    own = [name for name in names if isinstance(name, str) and name not in ("", "upstream_error", "error")]
    return (own or [outcome.error])[0]


def check_flow(row: Row, flow: dict[str, Any] | None) -> Iterator[str]:
    """What the person at the proxy sees."""
    if flow is None:
        yield "no flow"
        return
    if row.fault.then or row.fault.outcome.live:
        return  # it shows the first try, and a flow of its own the second one; or the client's own stream
    outcome, note = row.fault.outcome, flow["metadata"]
    wanted: dict[str, Any] = {
        "rule": row.rule,
        "status": outcome.status,
        "error": _named(outcome),
        "truncated": outcome.truncated,
        "inferred": outcome.inferred,
    }
    got = {name: note.get(f"force_stream.{name}") for name in wanted}
    if got != wanted:
        yield f"metadata {got}, not {wanted}"
    odd = bool(outcome.status >= 400 or outcome.error or outcome.truncated or note.get("force_stream.odd"))
    cause = note.get("force_stream.cause")
    if bool(cause) != odd:
        yield f"cause {cause!r}"
    start = f"{f'{cause}; ' if cause else ''}{row.rule}: {ENDPOINTS[row.fault.path]} {row.model}, {outcome.status}"
    if not flow["comment"].startswith(start) or _named(outcome) not in flow["comment"]:
        yield f"comment {flow['comment']!r}"
    if (flow["marked"] == ":warning:") != odd:
        yield f"marked {flow['marked']!r}"
    kept = note.get("force_stream.sse")
    sent = row.fault.sent.decode("latin-1")
    as_sent = kept == sent if row.fault.kept == "all" else kept is not None and sent.startswith(kept)
    if row.fault.kept != "none" and not as_sent:
        yield f"kept {kept!r}, sent {sent!r}"
    elif row.fault.kept == "none" and not row.fault.outcome.passed and row.fault.sent == b"" and kept is not None:
        yield f"kept {kept!r} of no response"


def without_stream_layer(faults: Iterable[Fault] = FAULTS) -> list[Fault]:
    """The faults to try without the stream layer, where there are no limits and no heartbeats."""
    return [replace(fault, rule="sent-plain" if fault.to_events else "plain") for fault in faults if fault.fallback]


# The table for the docs

type Reporter = Callable[[str], None]


def matrix(certs: Certs, folder: Path, say: Reporter) -> tuple[str, list[str]]:
    """Play everything; returns the table as Markdown, and everything that was wrong."""
    seen: dict[tuple[str, str, str], str] = {}
    problems: list[str] = []
    with Bench(certs, folder) as bench:
        for heartbeat in (False, True):
            for client in CLIENTS:
                say(f"{client} client, {'heartbeat' if heartbeat else 'buffered'} …")
                results = bench.run(rows(client, heartbeat))
                problems += bench.problems(results)
                column = "heartbeat" if heartbeat else "buffered"
                _collect(seen, column, results)
    with Bench(certs, folder, first=[SCRIPTS / "without_stream_layer.py"]) as bench:
        for client in CLIENTS:
            say(f"{client} client, without the stream layer …")
            results = bench.run(rows(client, False, without_stream_layer()))
            problems += [
                f"without the stream layer: {one.row.key}: {verdict(one.response)}, not {one.row.fault.fallback}"
                for one in results
                if verdict(one.response) != one.row.fault.fallback
            ]
            _collect(seen, "fallback", results)
    lines = ["| Fault | Upstream | Answer | With heartbeat | Without the stream layer |", "|---|---|---|---|---|"]
    for one in FAULTS:
        for over in one.over:
            columns = [seen.get((one.name, over, column), "") for column in ("buffered", "heartbeat", "fallback")]
            name = f"{one.name} (rule: {json.dumps(RULES[one.rule])})" if one.rule in OF_LIMITS else one.name
            lines.append("| " + " | ".join([name, over, *columns]) + " |")
    return "\n".join(lines) + "\n", problems


def _collect(seen: dict[tuple[str, str, str], str], column: str, results: Iterable[Seen]) -> None:
    """Note what each row gave; where the two clients differ, both."""
    for one in results:
        place = (one.row.fault.name, one.row.over, column)
        words = verdict(one.response)
        if place not in seen:
            seen[place] = words
        elif seen[place] != words:
            seen[place] += f"; to {one.row.client}: {words}"
