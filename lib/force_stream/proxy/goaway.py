"""An HTTP/2 connection to an upstream, read for the streams that observe it, and used until all of them have ended.

A server that reloads, or has answered enough requests on a connection, sends GOAWAY and finishes what it has begun (RFC
9113, section 6.8). h2 reads nothing after a GOAWAY, and mitmproxy ends every stream with it: each answer in flight is
lost. Here h2 does not get to see the frame.

What such an upstream, or one with enough streams, says that it has done nothing for may be sent again (section 8.7).

Upstreams put every event into its own DATA frame. What has arrived of them becomes one frame before h2 parses it, and
goes straight to the attempt.

Knows h2's table of frames, its buffer, and mitmproxy's HTTP/2 client around it; must not know flows. `unknown_h2` and
`unknown_buffer` check that h2 is what this module expects.
"""

from collections.abc import Generator
from typing import Any, Final
from weakref import WeakValueDictionary

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, StreamReset
from h2.frame_buffer import FrameBuffer
from hyperframe.frame import GoAwayFrame
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import _base, _events, _http2

from .chunked import Observer, PollRequested, hand_over, may_wait

type Commands[Result] = Generator[commands.Command, Any, Result]

_GOING: Final = "the upstream was going away, and did not take the request (HTTP/2 GOAWAY)"
_REFUSED: Final = "the upstream did not take the request (HTTP/2 REFUSED_STREAM)"
# How a frame begins (RFC 9113, section 4.1): its length in three bytes, then what it is, its flags and its stream.
_HEADER: Final = 9
# DATA that is neither padded nor the last of its stream.
_PLAIN_DATA: Final = b"\0\0"
# Bytes. More would not become one frame with what follows.
_MOST_HELD: Final = 8 * 1024
# Where h2 keeps what it has not parsed yet: the first name since h2 4.3.
_UNPARSED: Final = next((name for name in ("_data", "data") if hasattr(FrameBuffer(), name)), "_data")


def merge_data(frames: bytes) -> bytes:
    """The same frames, but with one DATA frame for all that a stream has between two frames of any other kind. What is
    not whole stays as it is, at the end."""
    merged, at, size = bytearray(), 0, len(frames)
    payloads: dict[bytes, list[bytes]] = {}
    while at + _HEADER <= size and (end := at + _HEADER + int.from_bytes(frames[at : at + 3])) <= size:
        what = frames[at + 3 : at + _HEADER]
        # The first bit of a stream's number has no meaning: with it, one stream would be two here.
        if what.startswith(_PLAIN_DATA) and what[2] < 0x80:
            payloads.setdefault(what, []).append(frames[at + _HEADER : end])
        else:
            merged += _as_frames(payloads) + frames[at:end]
            payloads.clear()
        at = end
    return bytes(merged + _as_frames(payloads) + frames[at:])


def _as_frames(payloads: dict[bytes, list[bytes]]) -> bytes:
    joined = {what: b"".join(pieces) for what, pieces in payloads.items()}
    return b"".join(len(data).to_bytes(3) + what + data for what, data in joined.items())


class MergingBuffer(FrameBuffer):
    """h2's buffer of what it has received. A frame costs h2 and mitmproxy more than all of our own work. `held`: the
    bytes of the frames that wait in it until others follow."""

    held = 0

    def add_data(self, data: Any) -> None:
        self.held = 0
        super().add_data(data)
        held = getattr(self, _UNPARSED)
        # More than one frame, and together no larger than one may be.
        if _HEADER + int.from_bytes(held[:3]) < len(held) <= self.max_frame_size:
            setattr(self, _UNPARSED, type(held)(merge_data(bytes(held))))

    def has_room(self, frames: bytes) -> bool:
        """Whether whole frames may wait in it until others follow."""
        return len(getattr(self, _UNPARSED)) == self.held <= _MOST_HELD - len(frames)

    def hold(self, frames: bytes) -> None:
        """Have them wait."""
        setattr(self, _UNPARSED, getattr(self, _UNPARSED) + frames)
        self.held += len(frames)


def payload_of(frames: bytes) -> tuple[int, bytes]:
    """The stream of plain DATA frames, and what they hold; b"" if these bytes are anything else."""
    head, payload, at, size = frames[3:_HEADER], [], 0, len(frames)
    while at < size:
        start = at + _HEADER
        at = start + int.from_bytes(frames[at : at + 3])
        if at > size or frames[start - 6 : start] != head:
            return 0, b""
        payload.append(frames[start:at])
    is_plain = head.startswith(_PLAIN_DATA)
    return int.from_bytes(head[2:]), b"".join(payload) if is_plain else b""


def unknown_h2() -> str:
    """What about h2, and mitmproxy's use of it, is not as this module expects, in words; "" if everything is."""
    for name in ("our_stream_id", "their_stream_id", "stream_queue"):
        if name not in _http2.Http2Client.__annotations__:
            return f"mitmproxy's Http2Client has no {name}"
    connection = H2Connection(H2Configuration())
    table = getattr(connection, "_frame_dispatch_table", {})
    known = table.get(GoAwayFrame) == getattr(connection, "_receive_goaway_frame", connection)
    return "" if known else "h2's H2Connection has no _frame_dispatch_table with its GOAWAY frame"


def unknown_buffer() -> str:
    """The same of what it takes to read many frames at once."""
    buffer = getattr(H2Connection(H2Configuration()), "incoming_buffer", None)
    known = type(buffer) is FrameBuffer and hasattr(buffer, _UNPARSED) and hasattr(buffer, "max_frame_size")
    return "" if known else "h2's H2Connection has no incoming_buffer with its _data and max_frame_size"


class NotTaken(_events.ResponseProtocolError):
    """The end of a stream that the upstream has not done anything for: its request may be sent again as if it never had
    been."""

    def __init__(self, stream_id: int, why: str) -> None:
        super().__init__(stream_id, why, _events.ErrorCode.GENERIC_SERVER_ERROR)


class DrainingClient(_http2.Http2Client):
    """mitmproxy's connection to an HTTP/2 upstream. `observers`: its observed streams, by the numbers that they have on
    the client's side; `to_poll`: those that need it after what is read now; `ahead`: how many bytes of the upstream's
    streams have been handed over before h2 has read them. `going`: there has been a GOAWAY, and some
    of its streams have not ended yet; `reading`: what has ended already may still have to be told."""

    observers: WeakValueDictionary[int, Observer]
    to_poll: list[int]
    ahead: dict[int, int]
    going = reading = False

    @classmethod
    def take(cls, client: _http2.Http2Client) -> "DrainingClient":
        """Make a connection of mitmproxy's one of these."""
        client.__class__ = cls
        assert isinstance(client, cls)
        client.observers, client.to_poll, client.ahead = WeakValueDictionary(), [], {}
        table: Any = client.h2_conn._frame_dispatch_table
        table[GoAwayFrame] = _withhold
        if not unknown_buffer():
            client.h2_conn.incoming_buffer.__class__ = MergingBuffer
        return client

    def accept(self, data: bytes) -> bool:
        """Take bytes that are nothing but DATA of a stream, which may wait. h2 reads them when others follow."""
        stream_id, piece = payload_of(data)
        stream = self.observers.get(self.their_stream_id.get(stream_id, 0)) if piece else None
        receiver = None if stream is None else stream.receiver
        buffer = self.h2_conn.incoming_buffer
        if receiver is None or type(buffer) is not MergingBuffer or not buffer.has_room(data):
            return False
        if not may_wait(receiver, piece):
            return False
        buffer.hold(data)
        self.ahead[stream_id] = self.ahead.get(stream_id, 0) + len(piece)
        return True

    def _handle_event(self, event: events.Event) -> Commands[None]:
        reads = isinstance(event, events.DataReceived)
        self.reading = self.reading or reads
        yield from super()._handle_event(event)
        self.reading = self.reading and not reads
        # Only after the rest, which may end the stream: then there is nothing to poll for.
        while reads and self.to_poll:
            yield _base.ReceiveHttp(PollRequested(self.to_poll.pop()))
        if self.going and not self.reading and all(map(self.is_closed, self.streams)):
            self.streams.clear()  # those that we have ended ourselves
            yield from self.close_connection("the upstream has gone away (HTTP/2 GOAWAY)")

    def close_connection(self, msg: str) -> Commands[None]:
        self.going = False
        yield from super().close_connection(msg)

    def handle_h2_event(self, event: Any) -> Commands[bool]:
        if isinstance(event, DataReceived):
            stream = self.observers.get(self.their_stream_id.get(event.stream_id, 0))
            known = self.ahead.pop(event.stream_id, 0)
            if known > len(event.data):
                self.ahead[event.stream_id] = known - len(event.data)
            if stream is None or stream.receiver is None:
                return (yield from super().handle_h2_event(event))
            if hand_over(stream.receiver, event.data[known:]):
                self.to_poll.append(stream.stream_id)
            self.h2_conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return False
        if isinstance(event, StreamReset) and event.error_code == ErrorCodes.REFUSED_STREAM:
            if self.streams.pop(event.stream_id, None) is not None:
                # It may be sent again over this connection, as another stream.
                del self.our_stream_id[self.their_stream_id[event.stream_id]]
                yield _base.ReceiveHttp(NotTaken(event.stream_id, _REFUSED))
            return False
        if not isinstance(event, ConnectionTerminated):
            return (yield from super().handle_h2_event(event))
        self.going = True
        # As if it were closed already on this side: mitmproxy opens another one for the next request.
        self.conn.state &= ~ConnectionState.CAN_WRITE
        untouched = [stream_id for stream_id in self.streams if stream_id > (event.last_stream_id or 0)]
        for stream_id in untouched:
            del self.streams[stream_id]
            yield _base.ReceiveHttp(NotTaken(stream_id, _GOING))
        # Those that wait for their turn have no number on this connection yet.
        while self.stream_queue:
            stream_id, _ = self.stream_queue.popitem()
            self.their_stream_id[-stream_id] = stream_id
            yield _base.ReceiveHttp(NotTaken(-stream_id, _GOING))
        return False


def _withhold(frame: GoAwayFrame) -> tuple[list[Any], list[Any]]:
    """What h2 makes of a GOAWAY frame, but for the end of the connection's state."""
    event = ConnectionTerminated()
    event.last_stream_id = frame.last_stream_id
    return [], [event]
