"""An HTTP/2 connection whose upstream is going away, used until the streams that its GOAWAY covers have ended.

A server that reloads, or has answered enough requests on a connection, sends GOAWAY and finishes what it has begun (RFC
9113, section 6.8). h2 reads nothing after a GOAWAY, and mitmproxy ends every stream with it: each answer in flight is
lost. Here h2 does not get to see the frame.

What such an upstream, or one with enough streams, says that it has done nothing for may be sent again (section 8.7).

Knows h2's table of frames and mitmproxy's HTTP/2 client around it; must not know flows. `unknown_h2` checks that h2 is
what this module expects.
"""

from collections.abc import Generator
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, StreamReset
from hyperframe.frame import GoAwayFrame
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import _base, _events, _http2

type Commands[Result] = Generator[commands.Command, Any, Result]

_GOING: Final = "the upstream was going away, and did not take the request (HTTP/2 GOAWAY)"
_REFUSED: Final = "the upstream did not take the request (HTTP/2 REFUSED_STREAM)"


def unknown_h2() -> str:
    """What about h2 is not as this module expects, in words; "" if everything is."""
    connection = H2Connection(H2Configuration())
    table = getattr(connection, "_frame_dispatch_table", {})
    known = table.get(GoAwayFrame) == getattr(connection, "_receive_goaway_frame", connection)
    return "" if known else "h2's H2Connection has no _frame_dispatch_table with its GOAWAY frame"


class NotTaken(_events.ResponseProtocolError):
    """The end of a stream that the upstream has not done anything for: its request may be sent again as if it never had
    been."""

    def __init__(self, stream_id: int, why: str) -> None:
        super().__init__(stream_id, why, _events.ErrorCode.GENERIC_SERVER_ERROR)


class DrainingClient(_http2.Http2Client):
    """mitmproxy's connection to an HTTP/2 upstream. `going`: there has been a GOAWAY, and some of its streams have not
    ended yet; `reading`: what has ended already may still have to be told."""

    going = reading = False

    @classmethod
    def take(cls, client: _http2.Http2Client) -> None:
        """Make a connection of mitmproxy's one of these."""
        client.__class__ = cls
        table: Any = client.h2_conn._frame_dispatch_table
        table[GoAwayFrame] = _withhold

    def _handle_event(self, event: events.Event) -> Commands[None]:
        reads = isinstance(event, events.DataReceived)
        self.reading = self.reading or reads
        yield from super()._handle_event(event)
        self.reading = self.reading and not reads
        if self.going and not self.reading and all(map(self.is_closed, self.streams)):
            self.streams.clear()  # those that we have ended ourselves
            yield from self.close_connection("the upstream has gone away (HTTP/2 GOAWAY)")

    def close_connection(self, msg: str) -> Commands[None]:
        self.going = False
        yield from super().close_connection(msg)

    def handle_h2_event(self, event: Any) -> Commands[bool]:
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
