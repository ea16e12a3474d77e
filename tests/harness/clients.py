"""Clients that show what is on the wire (Http1Client, Http2Client), and the ones people use (httpx, openai).

    with Http1Client(proxy.url, certs) as client:
        response = client.post("/v1/chat/completions", {"model": "m", "messages": []})
        assert (response.status, response.ended) == (200, "complete")

The first two have one interface and give one kind of `Response`, so that a test may be run with either. They take
what comes and judge nothing: a body that ends short is an `ended` other than "complete", not an exception. Only
silence raises: TimeoutError.
"""

import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httpx
import openai

from harness.certs import Certs
from harness.framing import BodyReader, FramingError, Pairs, body_framing, parse_head, values
from harness.record import TIMEOUT

READ_SIZE = 1 << 16


@dataclass
class Response:
    """The outcome of a request.

    `status` is None if the connection ended before the head was whole. `ended` is "complete", or "closed" (FIN, and
    TLS's close_notify where there is TLS), "torn" (FIN without close_notify), "reset" (RST), "rst_stream N",
    "goaway N", "malformed: …". `chunks` are the body's chunks or DATA frames as they came; `framing` is "chunked",
    "close", "none" or the announced length (HTTP/1.1 only).
    """

    http_version: str
    status: int | None = None
    reason: str | None = None
    headers: Pairs = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    trailers: Pairs = field(default_factory=list)
    framing: str | int | None = None
    interim: list[int] = field(default_factory=list)
    ended: str | None = None
    raw: bytes = b""
    """HTTP/1.1: the bytes of a head that never became whole."""

    @property
    def complete(self) -> bool:
        return self.ended == "complete"

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        found = values(self.headers, name)
        return ", ".join(found) if found else None

    def json(self) -> Any:
        return json.loads(self.body)


class _Client:
    alpn: tuple[str, ...] = ()
    _was_reset = False

    def __init__(self, url: str, certs: Certs | None = None, *, via: str | None = None, timeout: float = TIMEOUT):
        """`via`: the URL of a proxy, asked for a tunnel to an https `url` and for the absolute URL of an http one; that
        of a SOCKS proxy (socks5:) is asked for a tunnel to either."""
        target = urlsplit(url)
        assert target.hostname
        self.origin = f"{target.scheme}://{target.netloc}"
        self.authority = target.netloc
        first = urlsplit(via) if via else target
        self.absolute = first.scheme == "http" and via is not None and target.scheme == "http"
        assert first.hostname
        self.socket: socket.socket = socket.create_connection((first.hostname, _port(first)), timeout=timeout)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if first.scheme == "socks5":
                self._socks(target.hostname, _port(target))
            if target.scheme == "https":
                assert certs, "an https URL needs certs"
                if first.scheme == "http":
                    self._tunnel(f"{target.hostname}:{_port(target)}")
                context = certs.new_client_context(*self.alpn)
                self.socket = context.wrap_socket(
                    self.socket, server_hostname=target.hostname, suppress_ragged_eofs=False
                )
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except ConnectionResetError:
            # The kernel reports a reset once, here or at the next read.
            self._was_reset = True
            raise

    def get(self, path: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
        return self.request("GET", path, headers)

    def post(self, path: str, value: Any, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """POST bytes as they are, or anything else as JSON."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.request("POST", path, [("Content-Type", "application/json"), *headers], body)

    def request(self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Response:
        raise NotImplementedError

    def _tunnel(self, authority: str) -> None:
        self.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            # One byte at a time: what follows the head belongs to TLS.
            byte = self.socket.recv(1)
            if not byte:
                raise ConnectionError(f"the proxy closed the connection after {head!r}")
            head += byte
        if b" 200 " not in head.partition(b"\r\n")[0] + b" ":
            raise ConnectionError(f"the proxy refused the tunnel: {head!r}")

    def _socks(self, host: str, port: int) -> None:
        """RFC 1928: no authentication, CONNECT to a name."""
        name = host.encode()
        self.send(b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2))
        answer = b""
        while len(answer) < 12:
            data = self.socket.recv(12 - len(answer))
            if not data:
                raise ConnectionError(f"the proxy closed the connection after {answer!r}")
            answer += data
        if answer[:4] != b"\x05\x00\x05\x00":
            raise ConnectionError(f"the proxy refused the tunnel: {answer!r}")

    def _read(self) -> tuple[bytes, str]:
        """The next bytes and ""; or b"" and how the peer ended the connection."""
        try:
            data = self.socket.recv(READ_SIZE)
        except ssl.SSLEOFError:
            return b"", "reset" if self._was_reset else "torn"
        except ConnectionError:
            return b"", "reset"
        return data, "" if data else "reset" if self._was_reset else "closed"


class Http1Client(_Client):
    """One HTTP/1.1 connection, for one request after the other."""

    _buffer = b""

    def request(self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Response:
        self.start(method, path, headers, body)
        return self.receive(method)

    def start(self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> None:
        """Send a request; Host and Content-Length are added where they are missing."""
        fields = list(headers)
        if not values(fields, "host"):
            fields.insert(0, ("Host", self.authority))
        if body and not values(fields, "content-length") and not values(fields, "transfer-encoding"):
            fields.append(("Content-Length", str(len(body))))
        target = self.origin + path if self.absolute else path
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + body)

    def receive(self, method: str = "GET") -> Response:
        """Read one whole answer, however it ends."""
        return self.receive_after(0, method)

    def receive_after(
        self, heartbeats: int, method: str = "GET", then: Callable[[], object] = lambda: None
    ) -> Response:
        """The same, if this many heartbeats come first; `then` is called once they have arrived."""
        incoming = self.begin(method)
        came = [incoming.read_piece() for _ in range(heartbeats)]
        assert came == [b" "] * heartbeats, came
        then()
        while incoming.read_piece() is not None:
            pass
        return incoming.response

    def begin(self, method: str = "GET") -> "Incoming":
        """Read an answer's head only."""
        response = Response("HTTP/1.1")
        body = BodyReader("none")
        while not response.ended:
            try:
                head = self._read_head(response)
                if head is None:
                    break
                start, response.headers = parse_head(head)
                version, _, rest = start.partition(" ")
                status, _, response.reason = rest.partition(" ")
                if not version.startswith("HTTP/1.") or not status.isdigit():
                    raise FramingError(f"not a status line: {start[:60]!r}")
                if status.startswith("1"):
                    response.interim.append(int(status))
                    continue
                response.status = int(status)
                bodyless = method == "HEAD" or response.status in {204, 304}
                body = BodyReader("none" if bodyless else body_framing(response.headers, "close"))
                response.framing = body.framing
                break
            except FramingError as e:
                response.ended = f"malformed: {e}"
        return Incoming(self, response, body)

    def _read_head(self, response: Response) -> bytes | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            data, ended = self._read()
            if ended:
                response.raw, self._buffer, response.ended = self._buffer, b"", ended
                return None
            self._buffer += data
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        return head


class Incoming:
    """An answer whose head is here and whose body is still to be read."""

    def __init__(self, client: Http1Client, response: Response, body: BodyReader) -> None:
        self.response = response
        self._client = client
        self._body = body
        self._given = 0
        self._note_end()

    def read_piece(self) -> bytes | None:
        """The next chunk, or, where the body has none, what has arrived; None at the end, told by `response.ended`."""
        while self._given >= len(self._body.pieces):
            if self.response.ended:
                return None
            try:
                self._read_more()
            except FramingError as e:
                self.response.ended = f"malformed: {e}"
        self._given += 1
        return self._body.pieces[self._given - 1]

    def _read_more(self) -> None:
        # What came together with the head, or with the answer before, is in the buffer.
        data, self._client._buffer = self._client._buffer, b""
        ended = ""
        if not data:
            data, ended = self._client._read()
        if ended == "closed" or (ended and self._body.framing != "close"):
            self._body.finish()
        self._client._buffer = self._body.feed(data)
        self._note_end(ended)

    def _note_end(self, ended: str = "") -> None:
        self.response.chunks = self._body.pieces
        self.response.trailers = self._body.trailers
        if not self.response.ended:
            self.response.ended = "complete" if self._body.done else ended or None


class Http2Client(_Client):
    """One HTTP/2 connection over TLS, with any number of streams."""

    alpn = ("h2",)

    def __init__(self, url: str, certs: Certs | None = None, *, via: str | None = None, timeout: float = TIMEOUT):
        super().__init__(url, certs, via=via, timeout=timeout)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self.goaway: tuple[int, int] | None = None
        """Error code and last stream of the GOAWAY that came."""
        self.open_response: dict[int, Response] = {}
        self.h2.initiate_connection()
        self._flush()

    def request(self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Response:
        return self.receive(self.start(method, path, headers, body))

    def start(self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> int:
        """Send a request; returns its stream's number."""
        stream_id = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path)]
        fields = [(name.lower(), value) for name, value in headers]
        self.open_response[stream_id] = Response("HTTP/2")
        self.h2.send_headers(stream_id, pseudo + fields, end_stream=not body)
        self._flush()
        while body:
            size = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size, len(body))
            if size > 0:
                self.h2.send_data(stream_id, body[:size], end_stream=size == len(body))
                body = body[size:]
                self._flush()
            elif not self._pump() or self.open_response[stream_id].ended:
                break
        return stream_id

    def receive(self, stream_id: int) -> Response:
        """Read until this stream's answer has ended, one way or another."""
        while not self.open_response[stream_id].ended:
            self._pump()
        return self.open_response.pop(stream_id)

    def receive_some(self, stream_id: int) -> Response:
        """Read until this stream's answer has more than it had, or has ended; returns it as it is now."""
        response = self.open_response[stream_id]
        before = (response.status, len(response.chunks))
        while not response.ended and before == (response.status, len(response.chunks)):
            self._pump()
        return response

    def rst_stream(self, stream_id: int, error_code: int = 8) -> None:
        """Cancel a request; 8 is CANCEL."""
        self.h2.reset_stream(stream_id, error_code)
        self._flush()

    def _flush(self) -> None:
        if data := self.h2.data_to_send():
            # The next read shows how the connection ended.
            with contextlib.suppress(OSError):
                self.send(data)

    def _pump(self) -> bool:
        data, ended = self._read()
        try:
            events = self.h2.receive_data(data) if data else []
        except h2.exceptions.ProtocolError as e:
            events, ended = [], f"malformed: {e}"
        for event in events:
            self._take(event)
        self._flush()
        for response in self.open_response.values() if ended else ():
            response.ended = response.ended or ended
        return not ended

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self._take_goaway(event)
        response = self.open_response.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if response is None:
            return
        match event:
            case h2.events.InformationalResponseReceived():
                response.interim.append(int(dict(event.headers)[":status"]))
            case h2.events.ResponseReceived():
                pairs = [(str(name), str(value)) for name, value in event.headers]
                response.status = int(dict(pairs)[":status"])
                response.headers = [pair for pair in pairs if not pair[0].startswith(":")]
            case h2.events.DataReceived() if event.data:
                response.chunks.append(event.data)
            case h2.events.TrailersReceived():
                response.trailers = [(str(name), str(value)) for name, value in event.headers]
            case h2.events.StreamEnded():
                response.ended = response.ended or "complete"
            case h2.events.StreamReset():
                response.ended = response.ended or f"rst_stream {int(event.error_code)}"

    def _take_goaway(self, event: h2.events.ConnectionTerminated) -> None:
        last = event.last_stream_id or 0
        self.goaway = (int(event.error_code), last)
        # h2 takes nothing more from a connection after a GOAWAY, so every answer still open ends here.
        for response in self.open_response.values():
            response.ended = response.ended or f"goaway {int(event.error_code)}"


def raw_request(url: str, data: bytes, certs: Certs | None = None, *, method: str = "GET") -> Response:
    """Send these very bytes on a new connection and read one answer."""
    with Http1Client(url, certs) as client:
        client.send(data)
        return client.receive(method)


def httpx_client(certs: Certs, *, proxy: str | None = None, http2: bool = True, **settings: Any) -> httpx.Client:
    return httpx.Client(verify=certs.new_client_context(), proxy=proxy, http2=http2, trust_env=False, **settings)


def openai_client(base_url: str, certs: Certs, *, proxy: str | None = None, http2: bool = False, **settings: Any):
    """OpenAI's own client, without its retries; `with` closes it."""
    # Not httpx.Client: which HTTP library the SDK is built on depends on its version.
    http_client = openai.DefaultHttpxClient(
        verify=certs.new_client_context(), proxy=proxy, http2=http2, trust_env=False
    )
    return openai.OpenAI(base_url=base_url, http_client=http_client, **_openai_settings(settings))


def async_openai_client(base_url: str, certs: Certs, *, proxy: str | None = None, http2: bool = False, **settings: Any):
    """The same for asyncio; `async with` closes it."""
    http_client = openai.DefaultAsyncHttpxClient(
        verify=certs.new_client_context(), proxy=proxy, http2=http2, trust_env=False
    )
    return openai.AsyncOpenAI(base_url=base_url, http_client=http_client, **_openai_settings(settings))


def _openai_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {"api_key": "sk-test-key", "max_retries": 0, "timeout": TIMEOUT} | settings


def _port(url) -> int:
    return url.port or {"http": 80, "https": 443}[url.scheme]
