"""A relay between the proxy and the server, which only writes down what passes: a request counts only if it truly went
upstream as a stream. Must not know any server.
"""

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field, replace
from typing import Final

from answers import Difference, parsed, shown
from questions import OracleRequest

MARK: Final = "x-oracle"


@dataclass(slots=True)
class Passage:
    """What passed through the relay on one connection: the request and the response, each with its head."""

    request: bytearray = field(default_factory=bytearray)
    response: bytearray = field(default_factory=bytearray)

    @property
    def request_body(self) -> bytes:
        return bytes(self.request.partition(b"\r\n\r\n")[2])


class Relay:
    """Hands on every byte between the proxy and the server and keeps a copy, by the request's mark."""

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self._upstream_port = upstream_port
        self._passages: list[Passage] = []
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def passages(self, mark: str) -> list[Passage]:
        line = f"\r\n{MARK}: {mark}\r\n".encode()
        return [passage for passage in self._passages if line in passage.request]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self, ready: threading.Event) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._join, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passage = Passage()
        self._passages.append(passage)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        await asyncio.gather(
            self._copy(reader, up_writer, passage.request), self._copy(up_reader, writer, passage.response)
        )

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                kept += data
                writer.write(data)
                await writer.drain()
        writer.close()


def not_asked_as_meant(request: OracleRequest, passages: list[Passage]) -> list[Difference]:
    """What is wrong with the requests that reached the server, if anything is."""
    if request.refused and passages and passages[-1].request_body == request.body:
        # It was sent as it came: right after the refusal, or at once where the refusal is remembered.
        return [] if len(passages) == 1 else not_asked_as_meant(replace(request, refused=False), passages[:-1])
    if len(passages) != 1:
        return [Difference("requests upstream", "1", str(len(passages)))]
    sent, body = passages[0], passages[0].request_body
    if sent.response.startswith(b"HTTP/1.1 404 "):
        # The server answers an unknown path before it has read the body.
        return []
    if not request.forced:
        return [] if body == request.body else [Difference("body upstream", shown(request.body), shown(body))]
    asked, meant = parsed(body), parsed(request.body)
    if not isinstance(asked, dict):
        return [Difference("body upstream", shown(meant), shown(body))]
    found = []
    if asked.get("stream") is not True:
        found.append(Difference("stream upstream", "true", shown(asked.get("stream"))))
    status, _, head = sent.response.partition(b"\r\n\r\n")[0].partition(b"\r\n")
    if b" 200 " in status and b"text/event-stream" not in head.lower():
        found.append(Difference("content-type upstream", "text/event-stream", shown(head.decode("latin-1"))))
    for body_part in (asked, meant):
        body_part.pop("stream", None)
        body_part.pop("stream_options", None)
    if asked != meant:
        found.append(Difference("body upstream", shown(meant), shown(asked)))
    return found
