"""A body in chunks of HTTP/1.1, read many chunks at a time.

An upstream puts every event into a chunk of its own, and h11, which mitmproxy reads bodies with, takes them one by one:
that is half of what an event costs a proxy. Here the whole chunks that are there become one piece; all else, and every
mistake, is left to h11.

Knows h11's reader and its state between two calls; must not know mitmproxy or events. `check` says whether h11 is as
this module needs it.
"""

import re
from typing import Any, Final

from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer

# RFC 9112, section 7.1, without extensions.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_LINE_END: Final = b"\r\n"
_STATE: Final = {"_bytes_in_chunk": 0, "_bytes_to_discard": b"", "_reading_trailer": False}


def read_chunks(reader: Any, buffer: ReceiveBuffer) -> bytes:
    """The data of the chunks in the buffer, taken from it as far as they are well formed; b"" where there is none, or
    the body is in no chunks. h11's reader goes on behind them as if it had read them itself."""
    if type(reader) is not ChunkedReader or reader._reading_trailer:
        return b""
    data, at = bytes(buffer), 0
    left, line_end = reader._bytes_in_chunk, reader._bytes_to_discard
    pieces = []
    while True:
        if left:
            piece = data[at : at + left]
            pieces.append(piece)
            at += len(piece)
            left -= len(piece)
            if left:
                break
            line_end = _LINE_END
        if data[at : at + len(line_end)] != line_end:
            break
        at, line_end = at + len(line_end), b""
        size = _SIZE.match(data, at)
        if size is None or not (left := int(size[1], 16)):
            break
        at = size.end()
    buffer.maybe_extract_at_most(at)
    reader._bytes_in_chunk, reader._bytes_to_discard = left, line_end
    return b"".join(pieces)


def check() -> str:
    """What of h11 is not as this module needs it, in words; "" if all is."""
    reader = ChunkedReader()
    for name, value in _STATE.items():
        if getattr(reader, name, None) != value:
            return f"h11's ChunkedReader has no {name} of {value!r}"
    return ""
