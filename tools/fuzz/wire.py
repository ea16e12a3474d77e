"""The wire below the hooks: an upstream's bytes, HTTP/1.1 or HTTP/2, in mitmproxy's layers with ours in them.

A case is what a client and its upstream do, one step after the other: mostly legal, and then the answers have to be
those of the same documents sent simply; or with something wrong, and then nothing may be taken for whole that is not.
mitmproxy alone plays each case as well, and a request that it would have answered may not fail with us.
"""

import importlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import pytest
from choices import Choices
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.chunked import LONGEST_HEAD
from force_stream.rules.rule import Rule
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from hpack import Decoder

framing: Any = importlib.import_module("harness.framing")
player: Any = importlib.import_module("harness.player")
samples: Any = importlib.import_module("harness.samples")

PATH: Final = samples.CHAT
STREAM: Final[bytes] = samples.STREAM
EVENT_STREAM: Final = "text/event-stream"
JSON: Final = "application/json"


class Answer(NamedTuple):
    """A whole response."""

    status: int
    content_type: str
    body: bytes


ANSWERS: Final = (
    *(Answer(200, EVENT_STREAM, body) for body in (STREAM, samples.TOOL_STREAM, STREAM[:200], b"")),
    Answer(200, EVENT_STREAM, b'data: {"error": {"message": "slow down", "code": 429}}\n\n'),
    Answer(200, "", STREAM.replace(b"\n", b"\r\n")),
    Answer(200, JSON, json.dumps(samples.DOCUMENT).encode()),
    Answer(200, "text/html", b"<!DOCTYPE html>\n"),
    Answer(400, JSON, b'{"error": {"message": "no", "code": "invalid_prompt"}}'),
    Answer(503, "text/plain", b"busy"),
    Answer(204, "", b""),
)
KEYS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"on_truncated": "partial"},
    {"heartbeat": 0.3},
    {"heartbeat": 0.3, "on_truncated": "partial"},
    {"max_body": 400},
    {"timeout": 0.5, "heartbeat": 0.2},
)
FORCED: Final[dict[str, Any]] = {"name": "r", "hosts": (".",), "force_upstream_stream": True, "idle_timeout": 3}
# Seconds. Within this long, silence decides nothing.
SHORT: Final = 0.9
PAUSES: Final = (0.05, 0.2, 0.2, 1.2, 3.5)
PIECES: Final = (1, 2, 3, 7, 20, 100, 1 << 20)
MOST_SENDINGS: Final = 10


# A case


@dataclass
class Case:
    """`steps`: what happens, as a name and what it is done with. `legal`: nothing is wrong with the upstream's bytes;
    `resends`: something in them may permit that a request is sent again; `floods`: they go beyond a limit of ours."""

    http2: bool
    client_http2: bool
    kind: str
    keys: dict[str, Any]
    answers: list[Answer]
    legal: bool = True
    resends: bool = False
    floods: bool = False
    leaves: bool = False
    steps: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def paused(self) -> float:
        return sum((what for name, what in self.steps if name == "wait"), 0.0)


def case_of(data: bytes) -> Case:
    choices = Choices(data)
    how, more = choices.below(256), choices.below(256)
    kind = ("forced", "forced", "forced", "forced", "forced", "forced", "live", "other")[how >> 2 & 7]
    answers = [choices.pick(ANSWERS) for _ in range(1 + choices.below(3))]
    case = Case(bool(how & 1), bool(how & 2), kind, choices.pick(KEYS), answers, legal=not how & 32)
    lanes = http2_lanes(case, choices) if case.http2 else http1_lanes(case, choices)
    case.steps = list(merged(case, lanes, choices))
    if how & 64:
        for _ in range(1 + choices.below(4)):
            case.steps.insert(choices.below(len(case.steps) + 1), ("wait", choices.pick(PAUSES)))
    if how & 128:
        case.leaves = True
        place = choices.below(len(case.steps) + 1)
        case.steps.insert(place, ("reset" if more & 1 and case.client_http2 else "leave", choices.below(len(answers))))
    return case


type Lane = list[tuple[str, Any]]


def merged(case: Case, lanes: list[Lane], choices: Choices) -> Iterator[tuple[str, Any]]:
    """All lanes' steps, each lane's in their order."""
    if case.client_http2:
        yield from (("ask", number) for number in range(len(case.answers)))
    while lanes := [lane for lane in lanes if lane]:
        yield choices.pick(lanes).pop(0)


def pieces(tokens: Sequence[bytes], choices: Choices, upstream: int) -> Lane:
    data, sizes = b"".join(tokens), [choices.pick(PIECES) for _ in range(1 + choices.below(3))]
    lane: Lane = []
    while data:
        # No more than some hundred pieces.
        size = max(sizes[len(lane) % len(sizes)], (len(data) >> 8) + 1 if len(lane) > 200 else 1)
        lane.append(("send", (upstream, data[:size])))
        data = data[size:]
    return lane


def mutated(case: Case, tokens: list[bytes], odd: Sequence[bytes], choices: Choices) -> list[bytes]:
    """The tokens with something wrong."""
    for _ in range(1 + choices.below(3)):
        what, at = choices.below(9), choices.below(len(tokens) + 1)
        if what == 0:
            del tokens[at:]
        elif what == 1:
            del tokens[at : at + 1]
        elif what == 2:
            tokens[at:at] = tokens[at : at + 2]
        elif what == 3:
            tokens[at:at] = [choices.pick(odd)] * (1 + choices.below(3))
        elif what == 4:
            tokens[at : at + 1] = [choices.pick(odd)]
        elif what == 5 and tokens:
            token = tokens[at % len(tokens)]
            place = choices.below(len(token) + 1)
            tokens[at % len(tokens)] = token[:place] + bytes((choices.below(256),)) + token[place + choices.below(2) :]
        elif what == 6 and tokens:
            token = tokens[at % len(tokens)]
            tokens[at % len(tokens)] = token[: choices.below(len(token) + 1)]
        elif what == 7:
            unit = choices.pick((b"x" * 997, b"X: y\r\n" * 99, b"1;" + b"e" * 90, b"\r\n" * 90, b"0" * 500))
            tokens.insert(at, unit * (1 << choices.below(10)))
            case.floods = True
        else:
            tokens.insert(at, b"\r\n")
    return tokens


# HTTP/1.1


INTERIM: Final = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    b"HTTP/1.1 102 \r\n\r\n",
)
ODD_LINES: Final = (
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 5, 5\r\n", b"Content-Length: 1e1\r\n"),
    *(b"Content-Length: 99999999999999999999\r\n", b"Content-Length : 5\r\n", b"content-length:\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n"),
    *(
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"transfer-encoding: \x0bchunked\r\n",
    ),
    *(b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Content-Encoding: gzip\r\n"),
    *(
        b"X\r\n",
        b": x\r\n",
        b"X Y: z\r\n",
        b" folded\r\n",
        b"X: a\x00b\r\n",
        b"X: \xff\xfe\r\n",
        b"X: y\n",
        b"\r\n",
        b"\n",
    ),
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
    ),
    *(b"HTTP/1.1 304 Not Modified\r\n\r\n", b"HTTP/1.1 999 \r\n\r\n", b"HTTP/1.1 20\r\n\r\n", b"ICY 200 OK\r\n\r\n"),
    *(
        b"0\r\n\r\n",
        b"0\r\n",
        b"ffffffffffffffffff\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"5 \r\n",
        b'5;a="\n"\r\n',
        b"5",
        b"x\r\n",
    ),
    *(b"data: [DONE]\n\n", b"data: {", b"\x00", b"GET / HTTP/1.1\r\n\r\n", INTERIM[0], INTERIM[1]),
)


def http1_lanes(case: Case, choices: Choices) -> list[Lane]:
    lanes: list[Lane] = []
    for number, answer in enumerate(case.answers):
        tokens, closes = http1_tokens(answer, choices)
        if not case.legal:
            tokens = mutated(case, tokens, ODD_LINES, choices)
            closes = closes or choices.below(3) == 0
        # mitmproxy opens a connection for each request of an HTTP/2 client.
        lane = pieces(tokens, choices, number if case.client_http2 else -1)
        if closes:
            lane.append(("close", number if case.client_http2 else -1))
        lanes.append(lane if case.client_http2 else [("ask", number), *lane])
    return lanes if case.client_http2 else [[step for lane in lanes for step in lane]]


def http1_tokens(answer: Answer, choices: Choices) -> tuple[list[bytes], bool]:
    """A response, and whether it ends with its connection."""
    how = choices.below(256)
    tokens = [choices.pick(INTERIM) for _ in range((0, 0, 1, 2)[how & 3])]
    tokens.append(b"HTTP/1.1 %d %b\r\n" % (answer.status, (b"OK", b"", b"Fine Thanks")[(how >> 2) % 3]))
    if answer.content_type:
        tokens.append((b"Content-Type: %b\r\n", b"content-type:%b \r\n")[how >> 4 & 1] % answer.content_type.encode())
    way = "chunked" if how & 32 else "length" if how & 64 else "close"
    if answer.status == 204:
        return [*tokens, b"\r\n"], False
    if way == "length":
        return [*tokens, b"Content-Length: %d\r\n" % len(answer.body), b"\r\n", answer.body], False
    if way == "close":
        return [*tokens, b"\r\n", answer.body], True
    tokens += [b"Transfer-Encoding: chunked\r\n", b"\r\n"]
    rest = answer.body
    while rest:
        size = (1, 5, 60, 300)[choices.below(4)] if len(tokens) < 60 else len(rest)
        data, rest = rest[:size], rest[size:]
        form = (b"%x\r\n", b"%X\r\n", b"0%x\r\n", b"%x;a=b\r\n", b"%x;x\r\n", b'%x;q="v"\r\n')[choices.below(8) % 6]
        tokens += [form % len(data), data, b"\r\n"]
    return [*tokens, b"0\r\n", *([b"X-Sum: 1\r\n"] if how & 128 else []), b"\r\n"], False


# HTTP/2


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def fields(*pairs: tuple[str, str]) -> bytes:
    """A block of header fields, literal and without the table."""
    return b"".join(b"\0" + b"".join(bytes((len(one),)) + one.encode() for one in pair) for pair in pairs)


DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8


def goaway(last: int, code: int = 0, more: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4) + code.to_bytes(4) + more)


def odd_frames(stream: int) -> tuple[bytes, ...]:
    head = fields((":status", "200"))
    return (
        *(frame(RST, 0, stream, code.to_bytes(4)) for code in (0, 1, 2, 7, 7, 8, 11, 13, 99)),
        *(goaway(last, code) for last in (0, 1, 3, 2**31 - 1) for code in (0, 11)),
        *(frame(DATA, flags, number, b"data: x\n\n") for number in (0, 2, 99, stream) for flags in (0, 1)),
        *(frame(HEADERS, flags, number, head) for number in (2, 99, stream) for flags in (0, 4, 5)),
        frame(HEADERS, 4, stream, fields(("content-type", EVENT_STREAM))),
        frame(HEADERS, 4, stream, fields((":status", "x"))),
        frame(HEADERS, 4, stream, fields((":status", "101"))),
        frame(HEADERS, 4, stream, fields((":status", "200"), ("Bad Name", "x"))),
        frame(HEADERS, 4, stream, fields((":status", "200"), ("content-length", "7"))),
        frame(HEADERS, 5, stream, fields(("x", "y"))),
        frame(HEADERS, 4, stream, b"\xff\xff\xff\xff\xff"),
        frame(CONTINUATION, 4, stream, head),
        frame(PUSH, 4, stream, (2).to_bytes(4) + fields((":method", "GET"), (":path", "/"))),
        frame(SETTINGS, 0, 0, b"\0\3\0\0\0\0"),
        frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
        frame(SETTINGS, 0, 0, b"\0"),
        frame(SETTINGS, 1, 0),
        frame(PING, 0, 0, b"1"),
        frame(WINDOW, 0, 0, b"\0\0\0\0"),
        frame(WINDOW, 0, stream, b"\0\0\0\0"),
        frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
        frame(DATA, PADDED, stream, b"\x20x"),
        b"\xff\xff\xff" + frame(DATA, 0, stream, b"x")[3:],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    )


def noise(stream: int, choices: Choices) -> bytes:
    """A frame that changes nothing."""
    return choices.pick(
        (
            frame(PING, 0, 0, b"12345678"),
            frame(SETTINGS, 0, 0),
            frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1"),
            frame(WINDOW, 0, 0, b"\0\0\0\5"),
            frame(0xFA, 0xFF, stream, b"what?"),
            frame(0x0A, 0, 0, b"\0\0h2=a"),
            frame(PRIORITY, 0, stream, b"\0\0\0\0\x10"),
            frame(DATA, 0, stream),
            frame(WINDOW, 0, stream, b"\0\0\0\7"),
            frame(DATA, PADDED, stream, b"\4\0\0\0\0"),
        )
    )


def http2_lanes(case: Case, choices: Choices) -> list[Lane]:
    last = 2 * len(case.answers) - 1
    if case.client_http2:
        streams = [http2_tokens(case, 2 * at + 1, answer, choices) for at, answer in enumerate(case.answers)]
        tokens = [frame(SETTINGS, 0, 0)]
        while streams := [stream for stream in streams if stream]:
            tokens.append(choices.pick(streams).pop(0))
        if choices.below(3) == 0:
            case.resends = True
            for _ in range(1 + choices.below(2)):
                tokens.insert(1 + choices.below(len(tokens)), goaway(last, more=b"bye"))
        if not case.legal:
            tokens = mutated(case, tokens, odd_frames(choices.pick((1, 3))), choices)
        return [pieces(tokens, choices, 0 if case.legal else -1)]
    lane: Lane = []
    stream = 0
    for number, answer in enumerate(case.answers):
        stream += 2 if stream else 1
        tokens = http2_tokens(case, stream, answer, choices)
        if stream == 1:
            tokens.insert(0, frame(SETTINGS, 0, 0))
        goes = choices.below(4) == 0
        if goes:
            case.resends = True
            tokens.insert(1 + choices.below(len(tokens)), goaway(stream))
        if not case.legal:
            tokens = mutated(case, tokens, odd_frames(stream), choices)
        lane += [("ask", number), *pieces(tokens, choices, -1)]
        if goes:
            stream = 0
    return [lane]


def http2_tokens(case: Case, stream: int, answer: Answer, choices: Choices) -> list[bytes]:
    how = choices.below(256)
    tokens = []
    if how & 1:
        tokens.append(frame(HEADERS, END_HEADERS, stream, fields((":status", "103"), ("link", "</a>"))))
    pairs = [(":status", f"{answer.status}")]
    if answer.content_type:
        pairs.append(("content-type", answer.content_type))
    if how & 2 and answer.status != 204:
        pairs.append(("content-length", f"{len(answer.body)}"))
    block = fields(*pairs)
    ends = not answer.body and how & 4
    flags = END_STREAM if ends else 0
    if how & 8:
        # Nothing may come between these two.
        parts = frame(HEADERS, flags, stream, block[:7]) + frame(CONTINUATION, END_HEADERS, stream, block[7:])
        tokens.append(parts)
    else:
        tokens.append(frame(HEADERS, flags | END_HEADERS, stream, block))
    if ends:
        return tokens
    rest = answer.body
    while rest:
        size = (1, 5, 60, 300)[choices.below(4)] if len(tokens) < 40 else len(rest)
        data, rest = rest[:size], rest[size:]
        padding = choices.below(5) * 3
        payload = bytes((padding,)) + data + bytes(padding) if padding else data
        tokens.append(frame(DATA, PADDED if padding else 0, stream, payload))
        if choices.below(4) == 0:
            tokens.append(noise(stream, choices))
    if how & 16:
        tokens.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, fields(("x-sum", "1"))))
    elif how & 32 and len(tokens) and tokens[-1][3] == DATA and not tokens[-1][4]:
        tokens[-1] = tokens[-1][:4] + bytes((END_STREAM,)) + tokens[-1][5:]
    else:
        tokens.append(frame(DATA, END_STREAM, stream))
    if how & 64:
        tokens.append(frame(RST, 0, stream, bytes(4)))
    return tokens


# Playing it


@dataclass
class Seen:
    """What a client got for a request. `whole`: its end came; `until_close`: and that was the connection's."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    until_close: bool = False


class Play:
    """A case, played. `answers`: what each request got; `raised`: what mitmproxy's layers raised; `heads` and `bodies`:
    the response of each flow as it came from mitmproxy, where its end came."""

    def __init__(self, case: Case, *, bare: bool) -> None:
        self.case = case
        self.asked: list[int] = []
        self.gone: set[int] = set()
        self.raised: Exception | None = None
        rule = Rule(**FORCED | case.keys) if case.kind == "forced" else None
        with pytest.MonkeyPatch.context() as patch:
            self.player = player.Player(
                patch,
                None if bare else rule,
                http2=case.http2,
                client_http2=case.client_http2,
                live=case.kind == "live",
                bare=bare,
            )
            self.client = Http2(self.player) if case.client_http2 else Http1(self.player)
            try:
                self._run(rule, bare=bare)
            except Exception as error:
                if not bare:
                    error.add_note(f"{case}")
                    if rule is not None:
                        raise
                self.raised = error

    @cached_property
    def answers(self) -> dict[int, Seen]:
        return self.client.answers()

    def _run(self, rule: Rule | None, *, bare: bool) -> None:
        played = self.player
        for name, what in self.case.steps:
            if name == "ask":
                if what not in self.asked and not self.client.closed:
                    self.asked.append(what)
                    self.client.ask(what)
            elif name == "wait":
                played.wait(what)
            elif name == "leave":
                self.gone.update(self.asked)
                played.client_leaves()
            elif name == "reset":
                if what in self.asked and not self.client.has_answered(what):
                    self.gone.add(what)
                self.client.reset(what)
            elif what[0] < len(played.servers) if name == "send" else what < len(played.servers):
                if not played.servers:
                    continue
                if name == "send":
                    played.upstream_sends(what[1], upstream=what[0])
                    if rule is not None and not bare:
                        check_buffers(played, len(what[1]))
                else:
                    played.upstream_closes(what)
            self.client.listen()
        if rule is not None and not bare:
            # Nothing comes any more: all limits pass, one request after the other.
            played.wait(40 * len(self.asked))
            self.client.listen()


def check_buffers(played: Any, size: int) -> None:
    for connection, made in played.layer.connections.items():
        buffer = getattr(made.context.layers[-1], "buf", b"")
        if connection is not played.client and connection.connected:
            assert len(buffer) <= LONGEST_HEAD + size, f"{len(buffer)} bytes are kept of a response"


class Http1:
    """A client of HTTP/1.1, which asks one thing after the other."""

    def __init__(self, played: Any) -> None:
        self._player = played
        self._asked: list[int] = []

    @property
    def closed(self) -> bool:
        return "client" in self._player.closed

    def ask(self, number: int) -> None:
        self._asked.append(number)
        head = f"POST {PATH} HTTP/1.1\r\nHost: llm.test\r\nX-N: {number}\r\nContent-Length: 2\r\n\r\n"
        self._player.ask(head.encode() + b"{}")

    def listen(self) -> None:
        pass

    def reset(self, number: int) -> None:
        raise AssertionError("HTTP/1.1 has no reset")

    def has_answered(self, number: int) -> bool:
        seen = self.answers().get(number)
        return seen is not None and seen.whole

    def answers(self) -> dict[int, Seen]:
        raw, seen = self._player.to_client, {}
        for number in self._asked:
            if not raw:
                break
            one = seen[number] = Seen()
            head, found, raw = raw.partition(b"\r\n\r\n")
            assert found, f"half a head: {head!r}"
            start, one.headers = framing.parse_head(head)
            assert re.fullmatch(r"HTTP/1\.[01] \d{3} [^\r\n]*", start), f"not a status line: {start!r}"
            one.status = int(start.split()[1])
            how = "none" if one.status in (204, 304) else framing.body_framing(one.headers, "close")
            reader = framing.BodyReader(how)
            if how == "close":
                one.body, raw, one.whole, one.until_close = raw, b"", self.closed, True
                continue
            raw = reader.feed(raw) or b""
            one.body, one.whole = reader.body, reader.done
            assert reader.done or not raw
        assert not raw, f"bytes behind the answers: {raw[:100]!r}"
        return seen


class Http2:
    """A client of HTTP/2, which asks everything at once."""

    def __init__(self, played: Any) -> None:
        self._player = played
        self._read = 0
        self._seen: dict[int, Seen] = {}
        self._asked: dict[int, int] = {}
        self._ended = False
        self.h2 = H2Connection(H2Configuration(header_encoding=False))
        self.h2.decoder.max_header_list_size = 1 << 24
        self.h2.initiate_connection()

    @property
    def closed(self) -> bool:
        return self._ended or "client" in self._player.closed

    def ask(self, number: int) -> None:
        stream = self.h2.get_next_available_stream_id()
        self._asked[stream] = number
        head = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "llm.test")]
        self.h2.send_headers(stream, [*head, ("x-n", f"{number}")])
        self.h2.send_data(stream, b"{}", end_stream=True)
        self._player.ask(self.h2.data_to_send())

    def listen(self) -> None:
        while self._read < len(self._player.to_client):
            data, self._read = self._player.to_client[self._read :], len(self._player.to_client)
            for event in self.h2.receive_data(data):
                self._take(event)
            if sent := self.h2.data_to_send():
                self._player.ask(sent)

    def _take(self, event: Any) -> None:
        if isinstance(event, ConnectionTerminated):
            self._ended = True
            return
        number = self._asked.get(getattr(event, "stream_id", 0))
        if number is None:
            return
        seen = self._seen.setdefault(number, Seen())
        if isinstance(event, ResponseReceived):
            seen.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
            seen.status = int(dict(seen.headers)[":status"])
        elif isinstance(event, DataReceived):
            seen.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            seen.whole = True
        elif isinstance(event, StreamReset):
            seen.headers.append(("reset", f"{event.error_code}"))

    def reset(self, number: int) -> None:
        stream = next((stream for stream, asked in self._asked.items() if asked == number), 0)
        if stream in self.h2.streams and not self.closed and not self.h2.streams[stream].closed:
            self.h2.reset_stream(stream, 8)
            self._player.ask(self.h2.data_to_send())

    def has_answered(self, number: int) -> bool:
        return number in self._seen and self._seen[number].whole

    def answers(self) -> dict[int, Seen]:
        return self._seen


def sendings(played: Any, *, http2: bool) -> list[int]:
    """The number of every request that an upstream got."""
    found: list[int] = []
    for sent in played.sent:
        if not http2:
            found += [int(number) for number in re.findall(rb"(?i)\r\nx-n: (\d)\r\n", sent)]
            continue
        decoder, at = Decoder(), sent.find(b"SM\r\n\r\n") + 6
        while at + 9 <= len(sent):
            size = int.from_bytes(sent[at : at + 3])
            if sent[at + 3] == HEADERS:
                payload = sent[at + 9 + (5 if sent[at + 4] & 32 else 0) : at + 9 + size]
                found += [int(value) for name, value in decoder.decode(payload, raw=True) if name == b"x-n"]
            at += 9 + size
    return found


# The laws


def check(data: bytes) -> None:
    case = case_of(data)
    ours, bare = Play(case, bare=False), Play(case, bare=True)
    try:
        check_play(case, ours, bare)
    except AssertionError as error:
        error.add_note(
            f"{case}\nours: {ours.player.to_client!r}\nbare: {bare.player.to_client!r}, raised {bare.raised!r}"
        )
        raise


def check_play(case: Case, ours: Play, bare: Play) -> None:
    if case.kind == "other":
        assert f"{ours.raised!r}" == f"{bare.raised!r}", "a request that is not ours fails otherwise"
        assert ours.player.to_client == bare.player.to_client, "a request that is not ours gets other bytes"
        assert ours.player.to_upstream == bare.player.to_upstream, "a request that is not ours is sent otherwise"
        return
    counted = sendings(ours.player, http2=case.http2)
    for number in ours.asked:
        most = MOST_SENDINGS if case.http2 and (case.resends or not case.legal) else 1
        assert counted.count(number) <= most, "a request is sent too often"
    if case.kind == "live":
        check_live(case, ours, bare)
        return
    assert not [line for line in ours.player.log if "fault of the addon" in line], "a fault of the addon"
    for ends in ours.player.ends.values():
        assert len(ends) == 1, f"a flow ended with {ends}"
    for number in ours.asked:
        if number not in ours.gone:
            check_answer(case, ours, number)
    for flow in ours.player.flows:
        number = int(flow.request.headers["x-n"])
        check_whole(case, ours.player.wait_of(flow).attempt, ours.answers.get(number), bare, number)
    if not case.leaves and case.legal:
        check_equal(case, ours)
    if not (case.leaves or case.floods or case.paused or bare.raised):
        check_bare(case, ours, bare)


def check_live(case: Case, ours: Play, bare: Play) -> None:
    """A client's own stream is what mitmproxy alone would give it, where that is whole."""
    if bare.raised or case.leaves or case.floods:
        return
    for number, seen in whole_answers(bare).items():
        # Where only the end of a connection is an answer's end, it may as well have been cut off.
        if not seen.until_close or not case.http2:
            if number in ours.answers and (one := ours.answers[number]).status == seen.status:
                assert one.body == seen.body or not case.legal, "a client's own stream is another one"
                assert one.whole, "a client's own stream is cut off"
            else:
                assert not case.legal, "a client's own stream is lost"


def whole_answers(bare: Play) -> dict[int, Seen]:
    """What mitmproxy alone has read as whole and handed on, up to the first that it has not, or not as it should be."""
    found = {}
    try:
        for number, seen in bare.answers.items():
            if not seen.whole or seen.status < 200 or is_page(seen):
                break
            found[number] = seen
    except (AssertionError, ValueError):
        pass  # no client could read it
    return found


def is_page(seen: Seen) -> bool:
    return b"<html>" in seen.body


def check_answer(case: Case, ours: Play, number: int) -> None:
    """A request has one whole answer in JSON, or the upstream's own, or its connection or stream has ended."""
    seen = ours.answers.get(number)
    if seen is None or not seen.whole:
        reset = seen is not None and ("reset" in dict(seen.headers) or case.leaves)
        assert reset or ours.client.closed, f"a client waits for ever: {seen}"
        return
    assert seen.status >= 200, f"{seen.status} is not an answer"
    assert not is_page(seen) or b"<!DOCTYPE" in seen.body, "a page of mitmproxy's"
    types = {name.lower(): value for name, value in seen.headers}
    assert seen.status != 200 or b"data: {" not in seen.body, "raw events"
    if types.get("content-type", "").startswith(JSON) and case.legal:
        json.loads(seen.body)


def expected(case: Case, answer: Answer) -> Answer:
    """What the client gets for a whole response."""
    spec = AnswerSpec("r", "chat", on_truncated=case.keys.get("on_truncated", "error"))
    reader = spec.read(answer.status, answer.content_type)
    reader.feed(answer.body)
    reply = reader.finish("")
    return answer if reply is None else Answer(reply.status, JSON, reply.body)


def check_whole(case: Case, attempt: Any, seen: Seen | None, bare: Play, number: int) -> None:
    """A response counts as ended only where mitmproxy alone has read its end, and as a success only where it ended or
    said itself that it has."""
    assert attempt.fault is None, f"a fault of the addon: {attempt.fault!r}"
    if attempt.complete:
        alike = not (case.legal or case.resends or case.floods or case.leaves or case.paused or bare.raised or number)
        # An interim response is what mitmproxy alone stops at.
        sent = b"".join(what[1] for name, what in case.steps if name == "send")
        if alike and b" 1" not in sent and b"\x031" not in sent:
            assert bare.answers.get(number, Seen()).whole, "what has not ended counts as whole"
    elif seen is not None and seen.whole and seen.status == 200 and not attempt.encoded:
        reader = attempt.spec.read(200, "")
        reader.feed(attempt.body())
        reply = reader.finish("cut off")
        assert reply is None or reply.status == 200, "what was cut off counts as a success"


def check_equal(case: Case, ours: Play) -> None:
    """However it is framed, a response is read as the same one sent simply."""
    if case.paused > SHORT or (case.paused and "timeout" in case.keys):
        return
    for number in ours.asked:
        answer = case.answers[number]
        if len(answer.body) <= case.keys.get("max_body", 1 << 20):
            assert_same(ours.answers.get(number), expected(case, answer), "framing changed the answer")


def assert_same(seen: Seen | None, wanted: Answer, what: str) -> None:
    if seen is None:
        raise AssertionError(what)
    if seen.status == 200 and seen.body.startswith(b" "):  # heartbeats
        assert seen.whole == (wanted.status < 300 and wanted.body != b""), what
        assert not seen.whole or seen.body.lstrip(b" ") == wanted.body, what
        return
    assert (seen.status, seen.body, seen.whole) == (wanted.status, wanted.body, True), what


def check_bare(case: Case, ours: Play, bare: Play) -> None:
    """What mitmproxy alone reads as a whole response has the answer that is in it."""
    for number, seen in whole_answers(bare).items():
        headers = {name.lower(): value for name, value in seen.headers}
        if "content-encoding" in headers or len(seen.body) > case.keys.get("max_body", 1 << 20):
            return
        wanted = expected(case, Answer(seen.status, headers.get("content-type", ""), seen.body))
        assert_same(ours.answers.get(number), wanted, "mitmproxy alone would have answered")


def seeds() -> list[bytes]:
    chance = random.Random(1)
    return [chance.randbytes(160) for _ in range(200)]
