"""Decode a body's content encoding, up to a limit.

Knows the codings of RFC 9110, section 8.4.1, and of RFC 8878 (zstd); must not know what a body says. Bodies are not
trusted: a few bytes can expand to gigabytes. So each coding is a generator of small pieces, and what is not asked for
is never made.
"""

import codecs
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from io import BytesIO
from itertools import chain, pairwise
from types import ModuleType
from typing import Any, Final

try:
    import brotli
except ImportError:  # mitmproxy brings it; the library and the command do without
    brotli = None

type Pieces = Iterator[bytes]

# Bytes that are decoded at a time, and the size of the largest decoded piece (brotli's: about that size).
_STEP: Final = 16 * 1024
_PIECE: Final = 64 * 1024
# brotli before 1.2 cannot limit its output. Then the input is limited: 16 MiB, the most that a block of brotli stands
# for, takes some bytes of it.
_LIMITS_OUTPUT: Final = brotli is not None and hasattr(brotli.Decompressor, "can_accept_more_data")
_STEP_WITHOUT_LIMIT: Final = 16
# Codings of one body. Nobody uses more than two; each costs as much time as the limit allows.
_MOST_CODINGS: Final = 4
# zlib finds out whether a body has its own header or gzip's.
_ANY_HEADER: Final = zlib.MAX_WBITS | 32
_GZIP_HEADER: Final = zlib.MAX_WBITS | 16
# Bytes at the beginning of a body that show whether it is text: so many of a compressed one are never all printable. A
# single one may be: brotli's of an empty body is a semicolon.
_HEAD: Final = 64
_NOT_TEXT: Final = re.compile(rb"[^\t\n\r\x20-\x7e\x80-\xff]")
# Where zstd may be found: the standard library from Python 3.14 on, its backport (which mitmproxy 12.3 brings to older
# Pythons), and the package that mitmproxy up to 12.2 brings.
ZSTD_LIBRARIES: Final = ("compression.zstd", "backports.zstd", "zstandard")


class TooLarge(ValueError):
    """The decoded body is larger than the limit."""


class Broken(ValueError):
    """A byte that cannot be decoded."""


class MissingDecoder(ValueError):
    """No library here can read the coding; says which one to install."""


def decode(body: bytes, label: str, limit: int) -> bytes:
    """The same as `decode_noting`, for those who do not ask whether all of it could be decoded."""
    return decode_noting(body, label, limit)[0]


def decode_noting(body: bytes, label: str, limit: int) -> tuple[bytes, bool]:
    """The body without the codings that the header lists: as much as can be read of one that is cut off or broken, and
    itself if a coding is unknown or if it is plain text whatever the label says. And whether it is broken.

    Raises `TooLarge` for more than `limit` bytes, `MissingDecoder` if this machine cannot read the coding. May take
    long: do not call it on the event loop.
    """
    made = BytesIO()  # a list of pieces and their concatenation would be in memory at once
    try:
        made.writelines(_decoded(body, label, limit))
    except Broken:
        return made.getvalue(), True
    return made.getvalue(), False


def beginning(body: bytes, label: str, length: int) -> bytes:
    """So many bytes of the decoded body, or as many as can be read. Never raises."""
    made = BytesIO()
    with suppress(Broken, TooLarge, MissingDecoder):
        made.writelines(_decoded(body[: length + _STEP], label, length))
    return made.getvalue()[:length]


def decoded_sizes(body: bytes, label: str, limit: int, sizes: Sequence[int]) -> list[int]:
    """How many bytes of the decoded body were known when so many of the encoded one had come. May take long, and never
    raises."""
    found: list[int] = []
    made = 0

    def pieces() -> Pieces:
        for start, end in pairwise((0, *sizes)):
            yield from _steps(body, start, end)
            found.append(made)  # when the next is asked for, all that this one makes is decoded

    with suppress(Broken, TooLarge, MissingDecoder):
        for piece in _undo_all(pieces(), label, limit):
            made += len(piece)
    return [*found, *[made] * (len(sizes) - len(found))]


def is_encoded(label: str) -> bool:
    """Whether a header names a coding that is known here."""
    return bool(_decoders_of(label))


def _decoders_of(label: str) -> list[Callable[[Pieces], Pieces]]:
    """The decoders for the codings that the header lists, in the order of decoding; none if one of them is unknown."""
    names = [name for each in label.lower().split(",") if (name := each.strip()) not in ("", "identity", "none")]
    known = [_DECODERS[name] for name in reversed(names) if name in _DECODERS]
    return known if len(known) == len(names) <= _MOST_CODINGS else []


def _decoded(body: bytes, label: str, limit: int) -> Pieces:
    return _undo_all(_steps(body, 0, len(body)), label, limit)


def _steps(body: bytes, start: int, end: int) -> Pieces:
    """A part of the body, in pieces that are not too large: decoders copy what is left of one each time."""
    return (body[at : min(at + _STEP, end)] for at in range(start, end, _STEP))


def _undo_all(pieces: Pieces, label: str, limit: int) -> Pieces:
    """The decoded body in pieces. The limit is each coding's: what lies between two of them may be a bomb too."""
    for decoder in _decoders_of(label):
        pieces = _undone(decoder, pieces, limit)
    return pieces


def _undone(decoder: Callable[[Pieces], Pieces], pieces: Pieces, limit: int) -> Pieces:
    """What the decoder makes of the pieces, or the pieces themselves if they are text already."""
    head = b""
    while len(head) < _HEAD and (piece := next(pieces, b"")):
        head += piece
    pieces = chain([head], pieces)
    if _is_text(head[:_HEAD]):
        yield from pieces
        return
    for piece in filter(None, decoder(pieces)):
        yield piece[:limit]
        limit -= len(piece)
        if limit < 0:
            raise TooLarge("more bytes than the limit")


def _is_text(head: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        codecs.utf_8_decode(head, "strict", False)  # the last character may be cut in two
        return len(head) != 1 and not _NOT_TEXT.search(head)
    return False


# Each coding: pieces in, pieces out, until the end. Raises `Broken` at the first byte that cannot be decoded, but for
# what follows the end.


@contextmanager
def _broken_by(error: type[Exception], has_ended: Callable[[], bool] = lambda: False) -> Iterator[None]:
    try:
        yield
    except error as reason:
        if not has_ended():
            raise Broken(f"{reason}") from reason


def _gzip(pieces: Pieces) -> Pieces:
    yield from _inflated(pieces, _ANY_HEADER)


def _deflate(pieces: Pieces) -> Pieces:
    # The standard wants zlib's header; many servers leave it out.
    first = next(pieces, b"")
    has_header = first[:1] == b"\x1f" or (int.from_bytes(first[:2]) % 31 == 0 and first[0] & 15 == zlib.DEFLATED)
    yield from _inflated(chain([first], pieces), _ANY_HEADER if has_header else -zlib.MAX_WBITS)


def _inflated(pieces: Pieces, window: int) -> Pieces:
    decoder, members = zlib.decompressobj(window), 1
    with _broken_by(zlib.error, lambda: members > 1):
        for data in pieces:
            made = b""
            while data or len(made) == _PIECE:
                if decoder.eof:
                    members += 1
                    decoder = zlib.decompressobj(_GZIP_HEADER)  # members may follow one another (RFC 1952, section 2.2)
                made = decoder.decompress(data, _PIECE)
                yield made
                data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail


def _brotli(pieces: Pieces) -> Pieces:
    if brotli is None:
        raise MissingDecoder("no brotli library is installed; `pip install brotli`")
    decoder, read, made = brotli.Decompressor(), [], 0
    try:
        for data in pieces:
            read.append(data)
            for piece in _brotli_step(decoder, data):
                made += len(piece)
                yield piece
    except brotli.error:
        yield from _brotli_again(read, made)


def _brotli_again(read: list[bytes], made: int) -> Pieces:
    """What is still to come of pieces in the last of which is an error: the library raises it and keeps what the bytes
    before it stand for."""
    decoder = brotli.Decompressor()
    steps = chain(read[:-1], (bytes((byte,)) for byte in read[-1]))
    with _broken_by(brotli.error):
        for data in steps:
            if decoder.is_finished():
                return
            for piece in _brotli_step(decoder, data):
                yield piece[made:]
                made -= min(made, len(piece))


def _brotli_step(decoder: Any, data: bytes) -> Pieces:
    if not _LIMITS_OUTPUT:
        for start in range(0, len(data), _STEP_WITHOUT_LIMIT):
            yield decoder.process(data[start : start + _STEP_WITHOUT_LIMIT])
        return
    yield (made := decoder.process(data, output_buffer_limit=_PIECE))
    while len(made) >= _PIECE or not decoder.can_accept_more_data():
        yield (made := decoder.process(b"", output_buffer_limit=_PIECE))


def _zstd(pieces: Pieces) -> Pieces:
    library = _zstd_library()
    yield from (_zstd_read if library.__name__ == "zstandard" else _zstd_frames)(library, pieces)


def _zstd_frames(library: ModuleType, pieces: Pieces) -> Pieces:
    decoder, frames = library.ZstdDecompressor(), 1
    with _broken_by(library.ZstdError, lambda: frames > 1):
        for data in pieces:
            while data or not (decoder.needs_input or decoder.eof):
                if decoder.eof:
                    frames += 1
                    decoder = library.ZstdDecompressor()  # frames may follow one another (RFC 8878, section 3.1)
                yield decoder.decompress(data, _PIECE)
                data = decoder.unused_data if decoder.eof else b""


def _zstd_read(library: ModuleType, pieces: Pieces) -> Pieces:
    made = 0  # it does not tell where a frame ends
    with _broken_by(library.ZstdError, lambda: made > 0):
        reader = library.ZstdDecompressor().stream_reader(_Source(pieces), read_across_frames=True)
        while data := reader.read(_PIECE):
            made += len(data)
            yield data


class _Source:
    """Pieces as a file."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    def read(self, _: Any) -> bytes:
        return next(filter(None, self._pieces), b"")


def _zstd_library() -> ModuleType:
    for name in ZSTD_LIBRARIES:
        with suppress(ImportError):
            return import_module(name)
    raise MissingDecoder("no zstd library is installed; `pip install backports.zstd`")


_DECODERS: Final[Mapping[str, Callable[[Pieces], Pieces]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
