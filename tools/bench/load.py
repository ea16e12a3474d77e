"""What the benchmarks of the proxy share: an upstream that streams, clients that ask, and processes that are measured.

    python tools/bench/load.py upstream           an upstream on two free ports of 127.0.0.1, for HTTP/1.1 and for
                                                  HTTP/2 over TLS; its first line says which
    python tools/bench/load.py clients JSON       a load as `Load` describes it; a line of JSON with what came of it

Upstream and clients are bare asyncio protocols, each in a process of its own, so that what is measured is the proxy
between them. The clients speak HTTP/1.1. Times are of the monotonic clock, which all processes of a machine share.
"""

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Self

import h2.config
import h2.connection
import h2.events
import h2.settings
from mitmproxy.certs import CertStore

ROOT: Final = Path(__file__).resolve().parents[2]
HOST: Final = "127.0.0.1"
PATH: Final = "/v1/chat/completions"
# Seconds. A first start compiles all of mitmproxy, which takes long on a small machine.
START_TIMEOUT: Final = 120.0
STOP_TIMEOUT: Final = 10.0

_WORDS: Final = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".\\n", " não", "?")
_ORDER: Final = re.compile(rb"chunks=(\d+) width=(\d+) pace=([0-9.]+) id=(\d+)")
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# Bytes. A large body has this in one line of the request's one message, as a base64 picture would have.
_FILLER: Final = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY"


@dataclass(frozen=True, slots=True)
class Load:
    """`clients` connections, each with `requests` requests one after another. Every answer has `chunks` events of text
    of `width` characters (0: a word), `pace` seconds apart, or all at once; every request `body` bytes on top. The
    clients begin together, or one after another within `spread` seconds."""

    port: int
    clients: int
    requests: int
    chunks: int
    pace: float = 0.0
    width: int = 0
    body: int = 0
    stream: bool = False
    model: str = "bench"
    timeout: float = 600.0
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Requests a second; seconds from the upstream's last byte to the client's, per request; seconds per request."""

    rate: float
    latencies: list[float]
    durations: list[float]


class LoadError(Exception):
    """Why there is no figure, in words."""


# The upstream


@cache
def events(chunks: int, width: int) -> list[bytes]:
    """A stream of chat completion chunks."""
    envelope = (
        '{"id":"chatcmpl-CHR5U1vZVQVnXTbEZqcKQVgVLWM2s","object":"chat.completion.chunk","created":1758294820,'
        '"model":"bench","service_tier":"default","system_fingerprint":"fp_f33640a400",'
        '"choices":[%s],"usage":%s}'
    )
    choice = '{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}'
    usage = f'{{"prompt_tokens":9,"completion_tokens":{chunks},"total_tokens":{chunks + 9}}}'
    said = ["x" * width] * chunks if width else [_WORDS[number % len(_WORDS)] for number in range(chunks)]
    data = [
        envelope % (choice % ('{"role":"assistant","content":""}', "null"), "null"),
        *(envelope % (choice % (f'{{"content":"{text}"}}', "null"), "null") for text in said),
        envelope % (choice % ("{}", '"stop"'), "null"),
        envelope % ("", usage),
        "[DONE]",
    ]
    return [f"data: {one}\n\n".encode() for one in data]


@cache
def framed(chunks: int, width: int) -> list[bytes]:
    """The same as chunks of HTTP/1.1: each event is one, as upstreams send them."""
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in events(chunks, width)] + [b"0\r\n\r\n"]


@cache
def whole(chunks: int, width: int) -> bytes:
    return b"".join(framed(chunks, width))


def document(chunks: int, width: int) -> bytes:
    """The plain answer, for a proxy that cannot ask for a stream in the application's place."""
    text = "x" * width * chunks if width else "".join(_WORDS[number % len(_WORDS)] for number in range(chunks))
    return (
        '{"id":"c1","object":"chat.completion","created":1758294820,"model":"bench","choices":[{"index":0,"message":'
        f'{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],'
        f'"usage":{{"prompt_tokens":9,"completion_tokens":{chunks},"total_tokens":{chunks + 9}}}}}'
    ).encode()


class UpstreamConnection(asyncio.Protocol):
    """Answers what the last message of a request asks for. `ended`: when the last byte of each answer had gone out."""

    ended: dict[int, float] = {}  # noqa: RUF012 - all connections share it, on purpose

    def __init__(self) -> None:
        self._received = bytearray()
        self._awaited = 0
        self._number = -1
        self._left: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Told at once when there is nothing left to write: only then has the last byte gone.
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._awaited or len(self._received) >= self._awaited:
            if not self._awaited:
                head = self._received.find(_HEAD_END)
                if head < 0:
                    return
                length = _LENGTH.search(self._received, 0, head)
                self._awaited = head + len(_HEAD_END) + (int(length[1]) if length else 0)
                continue
            request, self._received = bytes(self._received[: self._awaited]), self._received[self._awaited :]
            self._awaited = 0
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET"):
            body = json.dumps(UpstreamConnection.ended).encode()
            UpstreamConnection.ended.clear()
            self._plain(body)
            return
        # What is ordered stands at the end, behind whatever fills the body.
        orders = list(_ORDER.finditer(request, max(0, len(request) - 4096)))
        chunks, width, pace, number = orders[-1].groups()
        self._number = int(number)
        if re.search(rb'"stream": ?true', request[:4096] + request[-4096:]) is None:
            self._plain(document(int(chunks), int(width)))
            self._note()
        elif float(pace):
            head = self._head(int(chunks), int(width))
            self._left = deque(self._framed(int(chunks), int(width)))
            self._transport.write(head)
            self._pace = float(pace)
            # Not all of them at the same moment: models do not keep step.
            self._next = asyncio.get_running_loop().time() + self._pace * (self._number * 0.618 % 1)
            asyncio.get_running_loop().call_at(self._next, self._say)
        else:
            self._transport.write(self._whole(int(chunks), int(width)))
            self._note()

    def _head(self, _chunks: int, _width: int) -> bytes:
        return _STREAM_HEAD

    def _framed(self, chunks: int, width: int) -> list[bytes]:
        return framed(chunks, width)

    def _whole(self, chunks: int, width: int) -> bytes:
        return _STREAM_HEAD + whole(chunks, width)

    def _plain(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)

    def _say(self) -> None:
        piece = self._left.popleft()
        if len(self._left) == 1:
            piece += self._left.popleft()
        self._transport.write(piece)
        if self._left:
            self._next += self._pace
            asyncio.get_running_loop().call_at(self._next, self._say)
        else:
            self._note()

    def _note(self) -> None:
        if not self._transport.get_write_buffer_size():
            UpstreamConnection.ended[self._number] = time.monotonic()
            self._number = -1

    def resume_writing(self) -> None:
        if self._number >= 0 and not self._left:
            UpstreamConnection.ended[self._number] = time.monotonic()
            self._number = -1


class Http2Upstream(UpstreamConnection):
    """The same over HTTP/2: each event is a DATA frame, as upstreams send them. One stream after another, since each
    client of the proxy has its own connection to the upstream."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._http2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}
        )
        self._http2.initiate_connection()
        self._http2.increment_flow_control_window(2**30)
        self._transport.write(self._http2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._http2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self._received += event.data
                self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                request, self._received = bytes(self._received), bytearray()
                self._stream_id = event.stream_id
                self._answer(request)
        self._transport.write(self._http2.data_to_send())

    def _head(self, chunks: int, width: int) -> bytes:
        # Real ones do not say their length; but without it mitmproxy would end a client's HTTP/1.1 connection to show
        # the end of the stream.
        length = str(sum(map(len, events(chunks, width))))
        fields = {":status": "200", "content-type": "text/event-stream", "content-length": length}
        self._http2.send_headers(self._stream_id, fields.items())
        return self._http2.data_to_send()

    def _framed(self, chunks: int, width: int) -> list[bytes]:
        # Past h2, which takes far longer: mitmproxy's windows hold 2 GB. DATA is type 0 (RFC 9113, section 6.1).
        kind = b"\0\0" + self._stream_id.to_bytes(4)
        frames = [len(event).to_bytes(3) + kind + event for event in events(chunks, width)]
        self._http2.end_stream(self._stream_id)
        return [*frames, self._http2.data_to_send()]

    def _whole(self, chunks: int, width: int) -> bytes:
        return self._head(chunks, width) + b"".join(self._framed(chunks, width))


async def serve() -> None:
    raise_file_limit()
    loop = asyncio.get_running_loop()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        CertStore.create_store(Path(name), "bench", 2048)
        tls.load_cert_chain(Path(name) / "bench-ca.pem")
    tls.set_alpn_protocols(["h2"])
    plain = await loop.create_server(UpstreamConnection, HOST, 0, backlog=1024)
    http2 = await loop.create_server(Http2Upstream, HOST, 0, backlog=1024, ssl=tls)
    print(*(server.sockets[0].getsockname()[1] for server in (plain, http2)), flush=True)
    await asyncio.gather(plain.serve_forever(), http2.serve_forever())


# The clients


class ClientConnection(asyncio.Protocol):
    """One client: its requests one after another over one connection."""

    def __init__(self, load: Load, first: int, done: asyncio.Future[None]) -> None:
        self._load = load
        self._numbers = deque(range(first, first + load.requests))
        self._done = done
        self.ended: dict[int, float] = {}
        self.durations: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        load = self._load
        self._number = self._numbers.popleft()
        self._pieces = b""
        self._size = 0
        self._length: int | None = None
        self._tail = b""
        filler = (_FILLER * (load.body // len(_FILLER) + 1))[: load.body]
        order = f"{filler} chunks={load.chunks} width={load.width} pace={load.pace} id={self._number}"
        stream = '"stream":true,' if load.stream else ""
        body = f'{{"model":"{load.model}",{stream}"messages":[{{"role":"user","content":"{order}"}}]}}'.encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {HOST}:{load.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer sk-bench\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        self._begun = time.monotonic()
        self._transport.write(head + body)

    def data_received(self, data: bytes) -> None:
        if self._length is None:
            self._pieces += data
            head = self._pieces.find(_HEAD_END)
            if head < 0:
                return
            if not self._pieces.startswith(b"HTTP/1.1 200"):
                self._fail(self._pieces[:300].decode(errors="replace"))
                return
            length = _LENGTH.search(self._pieces, 0, head)
            # -1: in chunks, of which the last shows the end.
            self._length = int(length[1]) if length else -1
            data, self._pieces = self._pieces[head + len(_HEAD_END) :], b""
        self._size += len(data)
        self._tail = (self._tail + data)[-len(_LAST_CHUNK) :] if len(data) < len(_LAST_CHUNK) else data
        if self._size >= self._length if self._length >= 0 else self._tail.endswith(_LAST_CHUNK):
            now = time.monotonic()
            self.ended[self._number] = now
            self.durations.append(now - self._begun)
            if self._numbers:
                self._ask()
            else:
                self._transport.close()
                self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._fail("the connection was closed")

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(LoadError(f"request {self._number}: {why}"))
        self._transport.close()


async def ask(load: Load) -> dict[str, Any]:
    raise_file_limit()
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = [loop.create_future() for _ in range(load.clients)]
    clients = [ClientConnection(load, number * load.requests, done) for number, done in enumerate(waiting)]
    begun = time.monotonic()
    for number, client in enumerate(clients):
        await asyncio.sleep(begun + load.spread * number / load.clients - time.monotonic() if load.spread else 0)
        await loop.create_connection(partial(_the, client), HOST, load.port)
    try:
        async with asyncio.timeout(load.timeout):
            await asyncio.gather(*waiting)
    except TimeoutError:
        return {"error": f"no end within {load.timeout:g} s"}
    except LoadError as error:
        return {"error": str(error)}
    ended = {number: moment for client in clients for number, moment in client.ended.items()}
    return {
        "seconds": max(ended.values()) - begun,
        "ended": ended,
        "durations": [seconds for client in clients for seconds in client.durations],
    }


def _the(client: ClientConnection) -> ClientConnection:
    return client


def raise_file_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# Processes


class Process:
    """A process that ends with its `with` block. `cores`: where it may run; the whole machine if None."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: set[int] | None = None,
        output: Any = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self.cores = cores
        self.output = output
        self.environment = dict(environment or {})

    def __enter__(self) -> Self:
        self.child = subprocess.Popen(
            self.command,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | self.environment,
            text=True,
        )
        if self.cores:
            os.sched_setaffinity(self.child.pid, self.cores)
        return self

    def __exit__(self, *_: object) -> None:
        self.child.terminate()
        try:
            self.child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far, of all threads."""
        # The clock that clock_getcpuclockid(3) names on Linux; /proc counts in hundredths of a second.
        return time.clock_gettime(~self.pid << 3 | 2)

    def memory(self, name: str) -> int:
        """VmRSS or VmHWM, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise LoadError(f"/proc/{self.pid}/status has no {name}")

    def forget_peak(self) -> None:
        """VmHWM begins anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def wait_for(self, port: int, path: str = "") -> None:
        """Until the port takes connections, and answers 200 at the path where one is given."""
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            if self.child.poll() is not None:
                raise LoadError(f"{' '.join(self.command[:2])} … exited with {self.child.returncode}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(HOST, port, timeout=5)
                connection.connect()
                try:
                    if not path:
                        return
                    connection.request("GET", path)
                    if connection.getresponse().status == 200:
                        return
                finally:
                    connection.close()
            time.sleep(0.05)
        raise LoadError(f"{' '.join(self.command[:2])} … does not listen on port {port}")


class Upstream(Process):
    """The upstream in a process of its own, at `port`, and at `http2_port` over TLS."""

    def __init__(self, cores: set[int] | None = None) -> None:
        super().__init__([sys.executable, __file__, "upstream"], cores=cores, output=subprocess.PIPE)

    def __enter__(self) -> Self:
        super().__enter__()
        assert self.child.stdout is not None
        self.port, self.http2_port = map(int, self.child.stdout.readline().split())
        return self

    def ended(self) -> dict[int, float]:
        """When each answer since the last question had gone out."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=STOP_TIMEOUT)
        try:
            connection.request("GET", "/ended")
            return {int(number): moment for number, moment in json.load(connection.getresponse()).items()}
        finally:
            connection.close()


def run(load: Load, upstream: Upstream, cores: set[int] | None = None) -> Outcome:
    """Put a load on a proxy. Raises LoadError where a request failed."""
    upstream.ended()
    command = [sys.executable, __file__, "clients", json.dumps(asdict(load))]
    with Process(command, cores=cores, output=subprocess.PIPE) as process:
        said = process.child.communicate(timeout=load.timeout + START_TIMEOUT)[0]
    try:
        result = json.loads(said)
    except ValueError:
        raise LoadError(f"the clients failed: {said[-300:]}") from None
    if "error" in result:
        raise LoadError(result["error"])
    sent = upstream.ended()
    came = {int(number): moment for number, moment in result["ended"].items()}
    # At full speed a client may see the end before the upstream's process gets to note it: that is no time at all.
    latencies = [max(0.0, came[number] - sent[number]) for number in came if number in sent]
    return Outcome(len(came) / result["seconds"], latencies, result["durations"])


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def mitmdump() -> str:
    """The one beside the running interpreter."""
    return str(Path(sys.executable).with_name("mitmdump"))


def split_cores() -> tuple[set[int] | None, set[int] | None]:
    """A core for the proxy, and the rest for who loads it; None where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return ({cores[0]}, set(cores[1:])) if len(cores) > 1 else (None, None)


def machine() -> str:
    """What this runs on, in words."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {os.uname().sysname} {os.uname().release}, "
        f"Python {sys.version.split()[0]}"
    )


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if arguments == ["upstream"]:
        asyncio.run(serve())
        return 0
    if arguments[:1] == ["clients"]:
        print(json.dumps(asyncio.run(ask(Load(**json.loads(arguments[1]))))))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
