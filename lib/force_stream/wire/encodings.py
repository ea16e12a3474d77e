"""Decode a body's content encoding, up to a limit.

Knows the codings of RFC 9110, section 8.4.1, and of RFC 8878 (zstd); must not know what a body says. Bodies are not
trusted: a few bytes can expand to gigabytes.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
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


def _deflate(body: bytes, limit: int) -> bytes:
    # The standard wants zlib's header; many servers leave it out.
    return _inflate(body, limit, zlib.MAX_WBITS) or _inflate(body, limit, -zlib.MAX_WBITS)


def _inflate(body: bytes, limit: int, window: int = zlib.MAX_WBITS | 32) -> bytes:
    try:
        return zlib.decompressobj(window).decompress(body, limit + 1)
    except zlib.error:
        return _joined(map(zlib.decompressobj(window).decompress, _steps(body)), limit, zlib.error)


def _brotli(body: bytes, limit: int) -> bytes:
    return _joined(map(brotli.Decompressor().process, _steps(body)), limit, brotli.error)


def _zstd(body: bytes, limit: int) -> bytes:
    library = _zstd_library()
    read = _zstd_reader if library.__name__ == "zstandard" else _zstd_frames
    return _joined(read(library, body, limit), limit, library.ZstdError)


def _zstd_frames(library: ModuleType, body: bytes, limit: int) -> Iterator[bytes]:
    decoder = library.ZstdDecompressor()
    for data in _steps(body):
        while data or not (decoder.needs_input or decoder.eof):
            if decoder.eof:
                decoder = library.ZstdDecompressor()  # frames may follow one another (RFC 8878, section 3.1)
            yield decoder.decompress(data, limit + 1)
            data = decoder.unused_data if decoder.eof else b""


def _zstd_reader(library: ModuleType, body: bytes, _: int) -> Iterator[bytes]:
    reader = library.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True)
    return iter(partial(reader.read, _STEP), b"")


def _zstd_library() -> ModuleType:
    for name in ZSTD_LIBRARIES:
        with suppress(ImportError):
            return import_module(name)
    raise MissingDecoder("no zstd library is installed; `pip install backports.zstd`")


def _steps(body: bytes) -> Iterator[bytes]:
    return (body[start : start + _STEP] for start in range(0, len(body), _STEP))


def _joined(decoded: Iterator[bytes], limit: int, broken: type[Exception]) -> bytes:
    """Everything before the first byte that cannot be decoded, or before the limit."""
    pieces: list[bytes] = []
    size = 0
    with suppress(broken):
        for piece in decoded:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
    return b"".join(pieces)


_DECODERS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {
    "gzip": _inflate,
    "x-gzip": _inflate,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
