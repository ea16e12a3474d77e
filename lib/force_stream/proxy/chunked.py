"""The head and the body of an HTTP/1.1 answer, read for the stream that observes it.

Interim responses are read past (RFC 9110, section 15.2); mitmproxy would take one for the answer.

Upstreams put every event into its own chunk, and h11, with which mitmproxy reads bodies, parses the chunks one by one:
half of what an event costs a proxy. Here all complete chunks in the buffer become one piece; the rest, malformed input
included, is left to h11.

Knows h11's reader and its state between two calls, and mitmproxy's HTTP/1 client around it; must not know events or
flows. `unknown_h11` checks that h11 is what this module expects.
"""

import re
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import _base, _events, _http1

from .attempt import Attempt

# RFC 9112, section 7.1, without extensions.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_NEXT_SIZE: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,8})\r\n")
# Bytes. h11's own limit, which mitmproxy does not apply to what it reads of a body: a chunk's size, and all trailers.
_LONGEST_LINE: Final = 16 * 1024
# All but 101, which ends the exchange of HTTP.
_INTERIM: Final = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9]{2}[ \r\n]")
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
# Bytes. mitmproxy would wait for the end of a head for ever.
LONGEST_HEAD: Final = 256 * 1024
_STATE: Final = {"_bytes_in_chunk": 0, "_bytes_to_discard": b"", "_reading_trailer": False}


def read_chunks(reader: Any, buffer: ReceiveBuffer) -> bytes:
    """Remove the complete, well-formed chunks from the buffer and return their data; b"" if there are none, or the body
    is not chunked. h11's reader continues after them as if it had read them itself."""
    if type(reader) is not ChunkedReader or reader._reading_trailer:
        return b""
    data, at = bytes(buffer), 0
    left, line_end = reader._bytes_in_chunk, reader._bytes_to_discard
    pieces = []
    while True:
        if left:
            piece = data[at : at + left]
            pieces.append(piece)
            at += len(piece)
            left -= len(piece)
            if left:
                break
            line_end = b"\r\n"
            # Nearly all that comes together are whole chunks.
            while (size := _NEXT_SIZE.match(data, at)) and (length := int(size[1], 16)):
                start = size.end()
                if start + length > len(data):
                    break
                at = start + length
                pieces.append(data[start:at])
        if data[at : at + len(line_end)] != line_end:
            break
        at, line_end = at + len(line_end), b""
        size = _SIZE.match(data, at)
        if size is None or not (left := int(size[1], 16)):
            break
        at = size.end()
    buffer.maybe_extract_at_most(at)
    reader._bytes_in_chunk, reader._bytes_to_discard = left, line_end
    return b"".join(pieces)


def read_whole_chunks(reader: Any, data: bytes) -> bytes:
    """The data of chunks that are whole and well-formed, without anything around them, where the reader awaits the next
    chunk; b"" if these bytes are anything else. The reader goes on as if they had not been."""
    if type(reader) is not ChunkedReader or reader._reading_trailer:
        return b""
    if reader._bytes_in_chunk or reader._bytes_to_discard:
        return b""
    pieces, at = [], 0
    while at < len(data):
        size = _SIZE.match(data, at)
        if size is None or not (length := int(size[1], 16)):
            return b""
        start, at = size.end(), size.end() + length + 2
        if not data.startswith(b"\r\n", at - 2):
            return b""
        pieces.append(data[start : at - 2])
    return b"".join(pieces)


def is_overlong(reader: Any, buffer: ReceiveBuffer) -> bool:
    """Whether what h11 has left in the buffer is the beginning of a line, or of trailers, that no server would send."""
    return len(buffer) > _LONGEST_LINE and type(reader) is ChunkedReader and not reader._bytes_in_chunk


def unknown_h11() -> str:
    """What about h11 is not as this module expects, in words; "" if everything is."""
    reader = ChunkedReader()
    for name, value in _STATE.items():
        if getattr(reader, name, None) != value:
            return f"h11's ChunkedReader has no {name} of {value!r}"
    return ""


class PollRequested(_events.HttpEvent):
    """What a connection sends to its stream when a piece has to be followed by a poll."""


class Observer(Protocol):
    """The stream whose answer a connection reads. `receiver`: who gets the pieces; None while they go the usual way."""

    stream_id: int
    receiver: Attempt | None

    def heard(self) -> None:
        """Bytes of the answer's head have come."""


def hand_over(receiver: Attempt, piece: bytes) -> bool:
    """Give a piece of the body to who reads it. True if a poll has to follow."""
    try:
        return receiver.receive(piece)
    except Exception as fault:
        receiver.record_bug(fault)
        return True


def may_wait(receiver: Attempt, piece: bytes) -> bool:
    """Give a piece of the body to who reads it, if it may wait there for more like it."""
    try:
        return receiver.wait(piece)
    except Exception as fault:
        receiver.record_bug(fault)
        return False


class ChunkedClient(_http1.Http1Client):
    """mitmproxy's connection to an HTTP/1 upstream. While it serves an observed stream, the body goes straight to the
    stream's receiver: for one event, the way through mitmproxy's layers costs more than all of our own work."""

    # The stream that it serves, or served last. Weak: a connection may outlive its streams by hours.
    stream: Callable[[], Observer | None]

    def _served(self) -> Observer | None:
        stream = self.stream()
        return stream if stream is not None and stream.stream_id == self.stream_id else None

    def accept(self, data: bytes) -> bool:
        """Take bytes that are nothing but chunks whose data may wait."""
        stream = self._served()
        receiver = None if stream is None or self.buf._data else stream.receiver
        piece = b"" if receiver is None else read_whole_chunks(self.body_reader, data)
        return receiver is not None and bool(piece) and may_wait(receiver, piece)

    def read_headers(self, event: events.ConnectionEvent) -> Generator[commands.Command, Any, None]:
        stream = self._served()
        if stream is not None and isinstance(event, events.DataReceived):
            stream.heard()
            while _INTERIM.match(self.buf._data) and self.buf.maybe_extract_lines():
                pass
            if len(self.buf) > LONGEST_HEAD and not _END_OF_HEAD.search(self.buf._data):
                message = f"the head of its response is larger than {LONGEST_HEAD:,} bytes"
                error = _events.ResponseProtocolError(stream.stream_id, message, self.ReceiveProtocolError.code)
                yield commands.CloseConnection(self.conn)
                yield _base.ReceiveHttp(error)
                return
        yield from super().read_headers(event)

    def read_body(self, event: events.Event) -> Generator[commands.Command, Any, None]:
        stream = self._served()
        if stream is None:
            yield from super().read_body(event)
            return
        piece = read_chunks(self.body_reader, self.buf) if isinstance(event, events.DataReceived) else b""
        needs_poll, receiver = False, stream.receiver
        if piece and receiver is not None:
            needs_poll = hand_over(receiver, piece)
        elif piece:
            yield _base.ReceiveHttp(_events.ResponseData(stream.stream_id, piece))
        if self.buf or not piece:
            yield from self._read_rest(stream.stream_id, event)
            if is_overlong(self.body_reader, self.buf):
                yield commands.CloseConnection(self.conn)
                broken = f"HTTP/1 protocol error: a chunk header or trailers of more than {_LONGEST_LINE:,} bytes"
                yield _base.ReceiveHttp(
                    _events.ResponseProtocolError(stream.stream_id, broken, _events.ErrorCode.GENERIC_SERVER_ERROR)
                )
                return
        if needs_poll:
            # Only after the rest, which may end the body: then there is nothing to poll for.
            yield _base.ReceiveHttp(PollRequested(stream.stream_id))

    def _read_rest(self, stream_id: int, event: events.Event) -> Generator[commands.Command, Any, None]:
        try:
            yield from super().read_body(event)
        except NotImplementedError:
            # mitmproxy raises this for trailers. The body is complete then, but nothing more can be read from this
            # connection.
            yield commands.CloseConnection(self.conn)
            yield _base.ReceiveHttp(_events.ResponseEndOfMessage(stream_id))
