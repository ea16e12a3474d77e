"""A body's content encoding undone, up to a limit.

Knows the codings of RFC 9110, section 8.4.1, that mitmproxy brings libraries for; must not know what a body says. Made
for bodies that nobody vouches for: a few bytes can stand for gigabytes.
"""

import io
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import brotli
import zstandard

# Bytes. What goes in at a time, so that what comes out is known before it is too much.
_STEP: Final = 16 * 1024


class TooLarge(ValueError):
    """More than the limit."""


def decode(body: bytes, coding: str, limit: int) -> bytes:
    """The body without its coding; what can be read of one that is cut off or broken; itself for an unknown coding.

    Raises `TooLarge` for more than `limit` bytes. May take a while: not to be called on the event loop.
    """
    decoder = _DECODERS.get(coding.strip().lower())
    if decoder is None:
        return body
    decoded = decoder(body, limit)
    if len(decoded) > limit:
        raise TooLarge(f"more than {limit:,} bytes")
    return decoded


def _gzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, zlib.MAX_WBITS | 32)


def _deflate(body: bytes, limit: int) -> bytes:
    # With zlib's head by the standard; many servers send it without.
    return _inflate(body, limit, zlib.MAX_WBITS) or _inflate(body, limit, -zlib.MAX_WBITS)


def _inflate(body: bytes, limit: int, window: int) -> bytes:
    decoder = zlib.decompressobj(window)
    try:
        return decoder.decompress(body, limit + 1)
    except zlib.error:
        return _piece_by_piece(body, limit, zlib.decompressobj(window).decompress)


def _brotli(body: bytes, limit: int) -> bytes:
    return _piece_by_piece(body, limit, brotli.Decompressor().process)


def _zstandard(body: bytes, limit: int) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True)
    pieces: list[bytes] = []
    size = 0
    try:
        while size <= limit and (piece := reader.read(_STEP)):
            pieces.append(piece)
            size += len(piece)
    except zstandard.ZstdError:
        pass
    return b"".join(pieces)


def _piece_by_piece(body: bytes, limit: int, process: Callable[[bytes], bytes]) -> bytes:
    """What can be read before the first byte that cannot."""
    pieces: list[bytes] = []
    size = 0
    for start in range(0, len(body), _STEP):
        try:
            pieces.append(process(body[start : start + _STEP]))
        except (brotli.error, zlib.error):
            break
        size += len(pieces[-1])
        if size > limit:
            break
    return b"".join(pieces)


_DECODERS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstandard,
}
