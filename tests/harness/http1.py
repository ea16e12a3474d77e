"""The upstream's side of one HTTP/1.1 connection: read requests, play each one's answer onto the wire."""

import asyncio
from http import HTTPStatus

from harness.framing import BodyReader, Pairs, body_framing, parse_head, values
from harness.record import Request
from harness.steps import Answer, Head, ShortLength
from harness.wire import PeerGoneError, Wire


class Http1Connection:
    def __init__(self, wire: Wire, server, listener: str, number: int, received: bytes = b"") -> None:
        self.wire = wire
        self.server = server
        self.listener = listener
        self.number = number
        self.busy = False
        self.peer_ended = asyncio.Event()
        self._buffer = received
        self._arrived = asyncio.Event()
        self._requests: list[Request] = []
        self._how = "closed"

    async def serve(self) -> None:
        # Reading goes on while an answer is played, so that the peer's close is noticed when it happens.
        receiving = asyncio.create_task(self._receive())
        try:
            while request := await self._next_request():
                exchange = Http1Exchange(self, request, self.server.answer_for(request))
                self.busy = True
                await self.server.play(exchange)
                self.busy = False
                if not exchange.reusable:
                    break
            await self.wire.close()
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self) -> None:
        try:
            while data := await self.wire.read():
                self._buffer += data
                self._arrived.set()
        except OSError:
            self._how = "reset"
        if not self.wire.ended:
            for request in self._requests:
                request.note_closed(self._how)
        self.peer_ended.set()
        self._arrived.set()

    async def _more(self) -> bool:
        if self.peer_ended.is_set():
            return False
        self._arrived.clear()
        await self._arrived.wait()
        return True

    async def _next_request(self) -> Request | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._more():
                return None
        start, headers = parse_head(self._buffer[:end])
        method, path, version = start.split(" ")
        body = BodyReader(body_framing(headers, "none"))
        self._buffer = body.feed(self._buffer[end + 4 :])
        while not body.done:
            if not await self._more():
                return None
            self._buffer = body.feed(self._buffer)
        request = Request(method, path, headers, body.body, version, self.listener, self.number, self.server.changed)
        self._requests.append(request)
        if self.peer_ended.is_set():
            request.note_closed(self._how)
        return request


class Http1Exchange:
    def __init__(self, connection: Http1Connection, request: Request, answer: Answer) -> None:
        self.request = request
        self.answer = answer
        self.wire = connection.wire
        self._connection = connection
        self._framing: str | ShortLength | None = None
        client_closes = "close" in (request.header("connection") or "").lower()
        self.reusable = not client_closes

    async def interim(self, status: int, headers: Pairs) -> None:
        await self.wire.write(_head(status, None, headers))

    async def head(self, head: Head) -> None:
        self._framing = head.framing
        if "close" in ", ".join(values(head.fields(), "connection")).lower():
            self.reusable = False
        await self.wire.write(_head(head.status, head.reason, head.fields() + self._framing_fields(head.framing)))

    def _framing_fields(self, framing: str | ShortLength | None) -> Pairs:
        match framing:
            case "chunked":
                return [("Transfer-Encoding", "chunked")]
            case "length":
                return [("Content-Length", str(self.answer.body_length))]
            case ShortLength(missing):
                return [("Content-Length", str(self.answer.body_length + missing))]
            case "close":
                return [("Connection", "close")]
        return []

    async def data(self, data: bytes) -> None:
        if self._framing == "chunked":
            if not data:
                return  # A chunk of length zero would be the last one.
            data = b"%x\r\n%b\r\n" % (len(data), data)
        await self.wire.write(data)
        # The reader gets its turn between two writes, else the kernel hands it many small ones as one.
        await asyncio.sleep(0)

    async def end(self, trailers: Pairs) -> None:
        if self._framing == "chunked":
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            await self.wire.write(f"0\r\n{lines}\r\n".encode("latin-1"))
        elif trailers:
            raise TypeError("HTTP/1.1 has trailers only in a chunked body")
        elif self._framing == "close":
            await self.wire.close()
        self.reusable = self.reusable and self._framing != "close"

    async def cut(self, data: bytes, missing: int) -> None:
        if self._framing != "chunked":
            raise TypeError("CutChunk needs a chunked body; for a short length there is ShortLength")
        await self.wire.write(b"%x\r\n%b" % (len(data) + missing, data))
        await self.close(notify=True)

    async def raw(self, data: bytes) -> None:
        await self.wire.write(data)

    async def close(self, notify: bool) -> None:
        self.reusable = False
        await self.wire.close(notify)

    async def reset(self) -> None:
        self.reusable = False
        await self.wire.reset()

    async def rst_stream(self, error_code: int) -> None:
        raise TypeError("RstStream exists only in HTTP/2")

    async def goaway(self, error_code: int, last_stream_id: int | None, data: bytes) -> None:
        raise TypeError("GoAway exists only in HTTP/2")

    async def settle(self) -> None:
        pass

    async def linger(self) -> None:
        self.reusable = False
        await self._connection.peer_ended.wait()
        if self.wire.ended:
            raise PeerGoneError("this side had already ended the connection")


def _head(status: int, reason: str | None, headers: Pairs) -> bytes:
    if reason is None:
        reason = HTTPStatus(status).phrase if status in HTTPStatus else ""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
