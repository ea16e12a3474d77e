"""HTTP/3 with aioquic, which mitmproxy brings: one more listener of the scripted upstream, and a client.

    with http3_listener(upstream, certs) as port:
        response = post(f"https://127.0.0.1:{port}", certs, "/v1/chat/completions", {"model": "m"})

An answer's steps mean what they mean in HTTP/2: `RstStream` resets the stream, `Close` and `Reset` end the connection.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer, serve
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from harness.certs import Certs
from harness.clients import Response
from harness.framing import Pairs
from harness.record import TIMEOUT, Request
from harness.samples import CHAT, request
from harness.steps import Answer, Head, ShortLength
from harness.upstream import Upstream
from harness.wire import PeerGoneError


class _Protocol(QuicConnectionProtocol):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.h3 = H3Connection(self._quic)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            self.stream_ended(event.stream_id, f"rst_stream {event.error_code}")
        elif isinstance(event, ConnectionTerminated):
            self.stream_ended(None, f"closed {event.error_code}")
        for each in self.h3.handle_event(event):
            self.received(each)

    def received(self, event: H3Event) -> None:
        raise NotImplementedError

    def stream_ended(self, stream_id: int | None, how: str) -> None:
        """`stream_id` None: all of them."""
        raise NotImplementedError

    def send_headers(self, stream_id: int, headers: Pairs, *, end: bool = False) -> None:
        fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self.h3.send_headers(stream_id, fields, end)
        self.transmit()

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.h3.send_data(stream_id, data, end)
        self.transmit()

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._quic.reset_stream(stream_id, error_code)
        self.transmit()


def _pairs(event: HeadersReceived) -> Pairs:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]


# The upstream's side


@contextlib.contextmanager
def http3_listener(upstream: Upstream, certs: Certs, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Have an upstream that runs take HTTP/3 too; the port."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    pem = certs.server.read_bytes()
    configuration.certificate = load_pem_x509_certificate(pem)
    configuration.private_key = load_pem_private_key(pem, None)
    playing: set[asyncio.Task[None]] = set()

    async def listen() -> tuple[QuicServer, int]:
        server = await serve(
            host,
            port,
            configuration=configuration,
            create_protocol=lambda *args, **more: _ServerProtocol(upstream, playing, *args, **more),
        )
        assert server._transport
        return server, server._transport.get_extra_info("sockname")[1]

    async def close() -> None:
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
        server.close()

    server, port = upstream.run(listen())
    try:
        yield port
    finally:
        upstream.run(close())


class _ServerProtocol(_Protocol):
    def __init__(self, upstream: Upstream, playing: set[asyncio.Task[None]], *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._upstream = upstream
        self._playing = playing
        self._headers: dict[int, Pairs] = {}
        self._bodies: dict[int, bytes] = {}
        self._requests: dict[int, Request] = {}
        self.ended: dict[int, asyncio.Event] = {}

    def received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self._headers[event.stream_id], self._bodies[event.stream_id] = _pairs(event), b""
            self.ended[event.stream_id] = asyncio.Event()
        elif isinstance(event, DataReceived):
            self._bodies[event.stream_id] += event.data
        if isinstance(event, (HeadersReceived, DataReceived)) and event.stream_ended:
            self._start(event.stream_id)

    def stream_ended(self, stream_id: int | None, how: str) -> None:
        for number in self.ended if stream_id is None else {stream_id} & self.ended.keys():
            self.ended[number].set()
            if request := self._requests.get(number):
                request.note_closed(how)

    def _start(self, stream_id: int) -> None:
        headers = self._headers[stream_id]
        method, path = dict(headers)[":method"], dict(headers)[":path"]
        request = self._requests[stream_id] = Request(
            method, path, headers, self._bodies[stream_id], "HTTP/3", "h3", 0, self._upstream.changed, stream_id
        )
        exchange = _Exchange(self, request, self._upstream.answer_for(request))
        task = asyncio.get_running_loop().create_task(self._upstream.play(exchange))
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)


class _Exchange:
    def __init__(self, connection: _ServerProtocol, request: Request, answer: Answer) -> None:
        self.request = request
        self.answer = answer
        self.wire = self
        self._connection = connection
        self._id = request.stream_id

    def _check(self) -> None:
        if self._connection.ended[self._id].is_set():
            raise PeerGoneError(f"the peer has ended stream {self._id}")

    async def interim(self, status: int, headers: Pairs) -> None:
        raise TypeError("aioquic knows no interim responses")

    async def head(self, head: Head) -> None:
        self._check()
        headers = [(":status", str(head.status)), *head.fields()]
        if head.framing == "length" or isinstance(head.framing, ShortLength):
            missing = head.framing.missing if isinstance(head.framing, ShortLength) else 0
            headers.append(("content-length", str(self.answer.body_length + missing)))
        self._connection.send_headers(self._id, headers)

    async def data(self, data: bytes) -> None:
        self._check()
        self._connection.send_data(self._id, data)
        await asyncio.sleep(0)

    async def end(self, trailers: Pairs) -> None:
        self._check()
        if trailers:
            self._connection.send_headers(self._id, trailers, end=True)
        else:
            self._connection.send_data(self._id, b"", end=True)

    async def cut(self, data: bytes, missing: int) -> None:
        raise TypeError("CutChunk exists only in HTTP/1.1 and HTTP/2")

    async def raw(self, data: bytes) -> None:
        raise TypeError("Raw exists only in HTTP/1.1 and HTTP/2")

    async def close(self, notify: bool) -> None:
        self._connection.close(ErrorCode.H3_NO_ERROR)

    async def reset(self) -> None:
        self._connection.close(ErrorCode.H3_INTERNAL_ERROR)

    async def rst_stream(self, error_code: int) -> None:
        self._connection.reset_stream(self._id, error_code)

    async def goaway(self, error_code: int, last_stream_id: int | None, data: bytes) -> None:
        raise TypeError("aioquic sends no GOAWAY")

    async def settle(self) -> None:
        await self._connection.ping()

    async def linger(self) -> None:
        await self._connection.ended[self._id].wait()


# The client


def post(
    url: str,
    certs: Certs,
    path: str,
    value: Any,
    headers: Iterable[tuple[str, str]] = (),
    *,
    after: int = 0,
    then: Callable[[], object] = lambda: None,
) -> Response:
    """One request over a connection of its own; `then` is called when so many pieces of the body have come."""

    async def run() -> Response:
        target = urlsplit(url)
        assert target.hostname
        assert target.port
        # A name with a dot: service-identity 24.2, which mitmproxy 12.0.1 asks for, raises a ValueError for others.
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="llm.test")
        configuration.load_verify_locations(str(certs.ca))
        async with connect(
            target.hostname, target.port, configuration=configuration, create_protocol=_ClientProtocol
        ) as client:
            assert isinstance(client, _ClientProtocol)
            stream_id = client._quic.get_next_available_stream_id()
            pseudo = {":method": "POST", ":scheme": "https", ":authority": target.netloc, ":path": path}
            client.send_headers(stream_id, [*pseudo.items(), ("content-type", "application/json"), *headers])
            client.send_data(stream_id, json.dumps(value).encode(), end=True)
            await client.until(lambda response: len(response.chunks) >= after or response.ended)
            then()
            await client.until(lambda response: response.ended)
            return client.response

    return asyncio.run(asyncio.wait_for(run(), TIMEOUT))


class http3_post:  # noqa: N801
    """A `Post` of harness.scenarios over HTTP/3."""

    def __init__(self, url: str, certs: Certs) -> None:
        self._url = url
        self._certs = certs

    def __call__(self, model: str, /, *, after: int = 0, then: Callable[[], object] = lambda: None) -> Response:
        return post(self._url, self._certs, CHAT, request(model), after=after, then=then)


class _ClientProtocol(_Protocol):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.response = Response("HTTP/3")
        self._moved = asyncio.Event()

    async def until(self, predicate: Callable[[Response], object]) -> None:
        while not predicate(self.response):
            self._moved.clear()
            await self._moved.wait()

    def received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived) and self.response.status is None:
            pairs = _pairs(event)
            self.response.status = int(dict(pairs)[":status"])
            self.response.headers = [pair for pair in pairs if not pair[0].startswith(":")]
        elif isinstance(event, HeadersReceived):
            self.response.trailers = _pairs(event)
        elif isinstance(event, DataReceived) and event.data:
            self.response.chunks.append(event.data)
        if isinstance(event, (HeadersReceived, DataReceived)) and event.stream_ended:
            self.response.ended = "complete"
        self._moved.set()

    def stream_ended(self, stream_id: int | None, how: str) -> None:
        self.response.ended = self.response.ended or how
        self._moved.set()
