"""Decode a body's content encoding, up to a limit.

Knows the codings of RFC 9110, section 8.4.1, and of RFC 8878 (zstd); must not know what a body says. Bodies are not
trusted: a few bytes can expand to gigabytes.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Final

import brotli

# Bytes that are decoded at a time, so that an output that is too large is noticed early.
_STEP: Final = 16 * 1024
# Where zstd may be found: the standard library from Python 3.14 on, its backport (which mitmproxy 12.3 brings to older
# Pythons), and the package that mitmproxy up to 12.2 brings.
ZSTD_LIBRARIES: Final = ("compression.zstd", "backports.zstd", "zstandard")


class TooLarge(ValueError):
    """The decoded body is larger than the limit."""


class MissingDecoder(ValueError):
    """No library here can read the coding; says which one to install."""


def decode(body: bytes, coding: str, limit: int) -> bytes:
    """The decoded body: as much as can be read of one that is cut off or broken, and itself if the coding is unknown.

    Raises `TooLarge` for more than `limit` bytes, `MissingDecoder` if this machine cannot read the coding. May take
    long: do not call it on the event loop.
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
    # The standard wants zlib's header; many servers leave it out.
    return _inflate(body, limit, zlib.MAX_WBITS) or _inflate(body, limit, -zlib.MAX_WBITS)


def _inflate(body: bytes, limit: int, window: int) -> bytes:
    decoder = zlib.decompressobj(window)
    try:
        return decoder.decompress(body, limit + 1)
    except zlib.error:
        return _piece_by_piece(body, limit, zlib.decompressobj(window).decompress)


def _brotli(body: bytes, limit: int) -> bytes:
    return _piece_by_piece(body, limit, brotli.Decompressor().process)


def _zstd(body: bytes, limit: int) -> bytes:
    library = _zstd_library()
    pieces: list[bytes] = []
    size = 0
    read = _zstd_reader if library.__name__ == "zstandard" else _zstd_frames
    try:
        for piece in read(library, body, limit):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
    except library.ZstdError:
        pass
    return b"".join(pieces)


def _zstd_frames(library: ModuleType, body: bytes, limit: int) -> Iterator[bytes]:
    decoder = library.ZstdDecompressor()
    for start in range(0, len(body), _STEP):
        data = body[start : start + _STEP]
        while data or not (decoder.needs_input or decoder.eof):
            if decoder.eof:
                decoder = library.ZstdDecompressor()  # frames may follow one another (RFC 8878, section 3.1)
            yield decoder.decompress(data, limit + 1)
            data = decoder.unused_data if decoder.eof else b""


def _zstd_reader(library: ModuleType, body: bytes, limit: int) -> Iterator[bytes]:
    reader = library.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True)
    while piece := reader.read(_STEP):
        yield piece


def _zstd_library() -> ModuleType:
    for name in ZSTD_LIBRARIES:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise MissingDecoder("no zstd library is installed; `pip install backports.zstd`")


def _piece_by_piece(body: bytes, limit: int, process: Callable[[bytes], bytes]) -> bytes:
    """Everything before the first byte that cannot be decoded."""
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
    "zstd": _zstd,
}
