"""HTTP/1.1 heads and bodies (RFC 9112), read strictly and without I/O; for the upstream and the clients."""

import re

Pairs = list[tuple[str, str]]

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?")


class FramingError(ValueError):
    """The bytes are not what RFC 9112 allows."""


def parse_head(head: bytes) -> tuple[str, Pairs]:
    """Start line and header fields, in order and in their own case, of a head without its closing blank line."""
    start, *lines = head.decode("latin-1").split("\r\n")
    pairs = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise FramingError(f"not a header field: {line!r}")
        pairs.append((name, value.strip(" \t")))
    return start, pairs


def values(headers: Pairs, name: str) -> list[str]:
    return [value for key, value in headers if key.lower() == name.lower()]


def body_framing(headers: Pairs, default: str) -> str | int:
    """ "chunked", the announced length, or `default` where the headers announce neither."""
    if any("chunked" in value.lower() for value in values(headers, "transfer-encoding")):
        return "chunked"
    lengths = set(values(headers, "content-length"))
    if not lengths:
        return default
    if len(lengths) > 1 or not (length := lengths.pop()).isdigit():
        raise FramingError(f"Content-Length: {values(headers, 'content-length')}")
    return int(length)


class BodyReader:
    """Takes a body apart as its bytes come: framing "chunked", "close", "none" or a length.

    `pieces` are the chunks (for the other framings, what each `feed` brought); `done` says that the body is whole.
    """

    def __init__(self, framing: str | int) -> None:
        self.framing = framing
        self.pieces: list[bytes] = []
        self.trailers: Pairs = []
        self.done = framing in {"none", 0}
        self._left = framing if isinstance(framing, int) else 0
        self._buffer = bytearray()
        self._chunk: int | None = None
        self._in_trailers = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def feed(self, data: bytes) -> bytes:
        """Take bytes; returns those that belong to the next message. FramingError for invalid chunks."""
        if self.done:
            return data
        if self.framing == "chunked":
            return self._feed_chunked(data)
        if self.framing == "close":
            if data:
                self.pieces.append(data)
            return b""
        taken, rest = data[: self._left], data[self._left :]
        if taken:
            self.pieces.append(taken)
        self._left -= len(taken)
        self.done = self._left == 0
        return rest

    def finish(self) -> None:
        """The connection was closed: the end of a body that runs to the close; for others it changes nothing."""
        if self.framing == "close":
            self.done = True
        elif self._chunk and self._buffer:
            self.pieces.append(bytes(self._buffer))
            self._buffer.clear()

    def _feed_chunked(self, data: bytes) -> bytes:
        self._buffer += data
        while not self.done:
            if self._chunk is not None:
                if len(self._buffer) < self._chunk + 2:
                    return b""
                self._take_chunk(self._chunk)
            elif (end := self._buffer.find(b"\r\n")) < 0:
                return b""
            else:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 2]
                self._take_line(line)
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _take_line(self, line: bytes) -> None:
        if self._in_trailers:
            if line:
                self.trailers += parse_head(b"\r\n" + line)[1]
            self.done = not line
        elif match := _CHUNK_SIZE.fullmatch(line):
            size = int(match[1], 16)
            self._in_trailers = size == 0
            self._chunk = size or None
        else:
            raise FramingError(f"not a chunk size: {line[:40]!r}")

    def _take_chunk(self, size: int) -> None:
        if self._buffer[size : size + 2] != b"\r\n":
            raise FramingError(f"a chunk of {size} bytes goes on with {bytes(self._buffer[size : size + 2])!r}")
        self.pieces.append(bytes(self._buffer[:size]))
        del self._buffer[: size + 2]
        self._chunk = None
