"""One accepted TCP connection, plain or TLS, with full control over how it ends. Knows nothing of HTTP.

TLS runs over memory buffers instead of asyncio's own transport: that one hides whether a close_notify was sent, and
keeps bytes that a reset would then throw away.
"""

import asyncio
import contextlib
import socket
import ssl
import struct

READ_SIZE = 1 << 16
LINGER = 5.0
"""Seconds that a closed connection waits for the peer's close."""


class PeerGoneError(ConnectionError):
    """The peer ended the connection, or this HTTP/2 stream, before the answer did."""


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._release: asyncio.TimerHandle | None = None
        self.ended = False
        """True once this side has closed or reset the connection."""
        # With no buffer of its own, drain() returns only when the kernel has every byte.
        writer.transport.set_write_buffer_limits(high=0)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def start_tls(self, context: ssl.SSLContext) -> str | None:
        """Shake hands as the server; returns the protocol that ALPN chose."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush_tls()
                await self._fill_tls("the peer closed the connection during the TLS handshake")
            except ssl.SSLError as e:
                await self._flush_tls()
                raise PeerGoneError(f"TLS handshake: {e}") from e
        await self._flush_tls()
        return self._tls.selected_alpn_protocol()

    async def read(self) -> bytes:
        """The next bytes; b"" when the peer has closed. ConnectionResetError when it has reset."""
        if self._tls is None:
            return await self._reader.read(READ_SIZE)
        while True:
            try:
                return self._tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                await self._flush_tls()
                try:
                    await self._fill_tls("end of file")
                except PeerGoneError:
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has the bytes."""
        if self.ended:
            raise PeerGoneError("this side has already ended the connection")
        if self._tls is None:
            self._writer.write(data)
            await self._writer.drain()
        elif data:
            self._tls.write(data)
            await self._flush_tls()

    async def close(self, notify: bool = True) -> None:
        """FIN, after TLS's close_notify unless `notify` is False; `finish` releases the socket."""
        if self.ended:
            return
        self.ended = True
        if self._tls is not None and notify:
            # It writes our close_notify and then asks for the peer's, which may never come.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        # Suppressed: the peer was faster.
        with contextlib.suppress(OSError):
            await self._flush_tls()
            self._writer.write_eof()
        self._release = asyncio.get_running_loop().call_later(LINGER, self._writer.transport.abort)

    async def finish(self) -> None:
        """Release the socket. After a `close`, read on until the peer closes as well, for LINGER seconds at most.

        Were it released at once, the kernel would answer whatever the peer still sends with a reset, and the peer
        would see that in the place of a close (RFC 9112, section 9.6).
        """
        if self.ended:
            with contextlib.suppress(OSError):
                while await self._reader.read(READ_SIZE):
                    pass
        await self.reset()

    async def reset(self) -> None:
        """RST: a linger time of zero makes close(2) drop the connection (socket(7), SO_LINGER)."""
        self.ended = True
        if self._release:
            self._release.cancel()
        linger = struct.pack("ii", 1, 0)
        # Suppressed: the connection is closed already.
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _flush_tls(self) -> None:
        if self._outgoing.pending:
            self._writer.write(self._outgoing.read())
            await self._writer.drain()

    async def _fill_tls(self, error: str) -> None:
        data = await self._reader.read(READ_SIZE)
        if not data:
            raise PeerGoneError(error)
        self._incoming.write(data)
