"""The shortest way from an upstream's socket to whoever reads its answer.

Where events come one by one, most of what one costs is its way: a task is woken, the event loop takes another turn, and
seven layers hand the bytes on. Here the bytes are offered to the connection's HTTP client as soon as asyncio has read
them. Those that it takes go no further; all others go mitmproxy's way.

Knows the reader of asyncio's streams, and the TLS connection of pyOpenSSL as mitmproxy uses it; must not know HTTP.
`unknown_reader` checks that both are what this module expects.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from mitmproxy.connection import Connection
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers.tls import ServerTLSLayer, TLSLayer
from mitmproxy.proxy.tunnel import TunnelLayer
from OpenSSL import SSL

# Bytes. Where more come at once, the way is little of what an event costs.
MOST: Final = 4096

type Accept = Callable[[bytes], bool]
"""Whether bytes that are offered are taken. If not, it is as if they had not been offered."""


class ReadAhead(SSL.Connection):
    """A TLS connection that may be read before mitmproxy reads it. `ahead`, `fault`: what mitmproxy is still to find in
    it; `written`: how many of the encrypted bytes that mitmproxy will bring are in it already."""

    ahead = b""
    fault: SSL.Error | None = None
    written = 0

    def read_ahead(self, data: bytes) -> bytes:
        """What these encrypted bytes hold, if the connection goes on after them. mitmproxy will read it too, until it
        is forgotten."""
        super().bio_write(data)
        self.written = len(data)
        pieces = []
        try:
            while True:
                pieces.append(super().recv(MOST))
        except SSL.WantReadError:
            self.ahead = b"".join(pieces)
            return self.ahead
        except SSL.Error as fault:
            self.ahead, self.fault = b"".join(pieces), fault
            return b""

    def forget(self) -> None:
        self.ahead, self.written = b"", 0

    def bio_write(self, buf: Any) -> int:
        known, self.written = self.written, 0
        return known + (super().bio_write(buf[known:]) if known < len(buf) else 0)

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        ahead, self.ahead = self.ahead, b""
        if ahead:
            return ahead
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        return super().recv(bufsiz, flags)


class OfferingReader(asyncio.StreamReader):
    """asyncio's reader of a connection. It wakes mitmproxy only for what is not taken."""

    accept: Accept
    tls: ReadAhead | None
    _waiter: asyncio.Future[None] | None

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        tls, is_taken = self.tls, False
        # Only if mitmproxy waits for these bytes has it seen all that came before them.
        if self._waiter is not None and len(data) <= MOST:
            is_taken = self.accept(data if tls is None else tls.read_ahead(data))
        if not is_taken:
            super().feed_data(data)
        elif tls is not None:
            tls.forget()


def offer(reader: Any, connection: Connection, layers: Iterable[Layer], accept: Accept) -> None:
    """Have what comes over a connection offered from now on, if its reader is known, and nothing but TLS is between it
    and the innermost of its layers."""
    if type(reader) is asyncio.StreamReader:
        tls: SSL.Connection | None = None
        for layer in layers:
            if isinstance(layer, TunnelLayer) and layer.conn is connection:
                if tls is not None or type(layer) is not ServerTLSLayer or type(layer.tls) is not SSL.Connection:
                    return
                tls = layer.tls
        offering: Any = reader
        if tls is not None:
            tls.__class__ = ReadAhead
        offering.__class__, offering.tls = OfferingReader, tls
    if type(reader) is OfferingReader:
        reader.accept = accept


def unknown_reader() -> str:
    """What about these is not as this module expects, in words; "" if everything is."""
    wakeup = getattr(asyncio.StreamReader, "_wakeup_waiter", unknown_reader)
    if "_waiter" not in wakeup.__code__.co_names:
        return "asyncio's StreamReader has no _waiter"
    return "" if "tls" in TLSLayer.__annotations__ else "mitmproxy's TLSLayer has no tls"
