"""The upstream's side of one HTTP/2 connection: each stream's answer is played in a task of its own."""

import asyncio
import contextlib

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import DataFrame, GoAwayFrame, RstStreamFrame

from harness.framing import Pairs
from harness.record import Request
from harness.steps import Answer, Head, ShortLength
from harness.wire import PeerGoneError, Wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Http2Connection:
    def __init__(self, wire: Wire, server, listener: str, number: int, received: bytes = b"") -> None:
        self.wire = wire
        self.server = server
        self.listener = listener
        self.number = number
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                # An answer may be wrong on purpose, and a wrong request is to be seen as it came.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1000,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20,
            },
        )
        self._received = received
        self._streams: dict[int, _Stream] = {}
        self._playing: set[asyncio.Task[None]] = set()
        self._window_moved = asyncio.Event()
        self._pings: list[asyncio.Event] = []
        """One for each PING that is not answered yet; the answers come in order."""

    @property
    def busy(self) -> bool:
        return bool(self._playing)

    async def serve(self) -> None:
        how = "closed"
        try:
            self.h2.initiate_connection()
            await self.flush()
            data = self._received or await self.wire.read()
            while data:
                await self._receive(data)
                data = await self.wire.read()
        except (h2.exceptions.ProtocolError, PeerGoneError):
            await self._say_why()
        except OSError:
            how = "reset"
        else:
            await self.wire.close()
        finally:
            for stream in self._streams.values():
                stream.note_ended(None if self.wire.ended else how)
            self._window_moved.set()
            # A Linger ends by itself now; nobody receives whatever else is still being played.
            await asyncio.sleep(0)
            playing = list(self._playing)
            for task in playing:
                task.cancel()
            await asyncio.gather(*playing, return_exceptions=True)

    async def _say_why(self) -> None:
        with contextlib.suppress(OSError):
            await self.flush()

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.wire.write(data)

    async def _receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self._streams[event.stream_id] = _Stream(event.headers)
                case h2.events.DataReceived():
                    self._streams[event.stream_id].body += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self._start(event.stream_id)
                case h2.events.PingAckReceived():
                    self._pings.pop(0).set()
                case h2.events.StreamReset():
                    if stream := self._streams.get(event.stream_id):
                        stream.note_ended(f"rst_stream {int(event.error_code)}")
        self._window_moved.set()
        await self.flush()

    async def settle(self) -> None:
        answered = asyncio.Event()
        self._pings.append(answered)
        self.h2.ping(bytes(8))
        await self.flush()
        await answered.wait()

    def _start(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        stream.request = Request(
            stream.pseudo(":method"),
            stream.pseudo(":path"),
            stream.headers,
            bytes(stream.body),
            "HTTP/2",
            self.listener,
            self.number,
            self.server.changed,
            stream_id,
        )
        exchange = Http2Exchange(self, stream_id, stream, self.server.answer_for(stream.request))
        task = asyncio.create_task(self.server.play(exchange))
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)

    async def send_data(self, stream_id: int, stream: "_Stream", data: bytes) -> None:
        view = memoryview(data)
        while view:
            if stream.ended.is_set():
                raise PeerGoneError(f"the peer has ended stream {stream_id}")
            self._window_moved.clear()
            size = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size, len(view))
            if size > 0:
                self.h2.send_data(stream_id, bytes(view[:size]))
                view = view[size:]
                await self.flush()
            else:
                await self._window_moved.wait()


class _Stream:
    def __init__(self, headers) -> None:
        self.headers: Pairs = [(bytes(k).decode("latin-1"), bytes(v).decode("latin-1")) for k, v in headers]
        self.body = bytearray()
        self.request: Request | None = None
        self.ended = asyncio.Event()

    def pseudo(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    def note_ended(self, how: str | None) -> None:
        """`how` None: it was this side that ended the connection."""
        self.ended.set()
        if self.request and how:
            self.request.note_closed(how)


class Http2Exchange:
    def __init__(self, connection: Http2Connection, stream_id: int, stream: _Stream, answer: Answer) -> None:
        assert stream.request
        self.request = stream.request
        self.answer = answer
        self.wire = connection.wire
        self._connection = connection
        self._stream = stream
        self._id = stream_id

    async def _do(self, action, *args, **kwargs) -> None:
        """One call into h2 and its bytes onto the wire; PeerGoneError if the peer has reset the stream."""
        if self._stream.ended.is_set():
            raise PeerGoneError(f"the peer has ended stream {self._id}")
        action(*args, **kwargs)
        await self._connection.flush()

    async def interim(self, status: int, headers: Pairs) -> None:
        await self._do(self._connection.h2.send_headers, self._id, _fields(status, headers))

    async def head(self, head: Head) -> None:
        fields = _fields(head.status, head.fields())
        match head.framing:
            case "length":
                fields.append((b"content-length", b"%d" % self.answer.body_length))
            case ShortLength(missing):
                fields.append((b"content-length", b"%d" % (self.answer.body_length + missing)))
        await self._do(self._connection.h2.send_headers, self._id, fields)

    async def data(self, data: bytes) -> None:
        await self._connection.send_data(self._id, self._stream, data)
        # The reader gets its turn between two writes, else the kernel hands it many small frames as one.
        await asyncio.sleep(0)

    async def end(self, trailers: Pairs) -> None:
        if trailers:
            fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in trailers]
            await self._do(self._connection.h2.send_headers, self._id, fields, end_stream=True)
        else:
            await self._do(self._connection.h2.end_stream, self._id)

    async def cut(self, data: bytes, missing: int) -> None:
        # A frame's header is its length (24 bits), type (DATA is 0), flags and stream (RFC 9113, section 4.1).
        header = (len(data) + missing).to_bytes(3) + b"\x00\x00" + self._id.to_bytes(4)
        await self.raw(header + data)
        await self.close(notify=True)

    async def raw(self, data: bytes) -> None:
        await self.wire.write(data)

    async def close(self, notify: bool) -> None:
        await self.wire.close(notify)

    async def reset(self) -> None:
        await self.wire.reset()

    async def rst_stream(self, error_code: int) -> None:
        try:
            self._connection.h2.reset_stream(self._id, error_code)
            await self._connection.flush()
        except h2.exceptions.StreamClosedError:
            # Allowed after END_STREAM (RFC 9113, section 8.1), where h2 has already forgotten the stream.
            await self.raw(RstStreamFrame(self._id, error_code=error_code).serialize())

    async def goaway(self, error_code: int, last_stream_id: int | None, data: bytes) -> None:
        # Not h2's own close_connection: after it h2 sends nothing more, while a server may finish what it began.
        last = self._id if last_stream_id is None else last_stream_id
        before = DataFrame(self._id, data=data).serialize() if data else b""
        await self.raw(before + GoAwayFrame(0, last_stream_id=last, error_code=error_code).serialize())

    async def settle(self) -> None:
        await self._connection.settle()

    async def linger(self) -> None:
        await self._stream.ended.wait()


def _fields(status: int, headers: Pairs) -> list[tuple[bytes, bytes]]:
    pairs = [(":status", str(status)), *headers]
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
