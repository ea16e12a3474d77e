"""The only reader of bodies: a message's body without its content encoding, within a limit.

mitmproxy's own `content` and `text` decode whatever anyone sends, on the event loop and without a limit. Must not know
what a body says.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from mitmproxy import http

from ..rules.rule import Rule
from ..wire import encodings
from ..wire.encodings import MissingDecoder, TooLarge
from ..wire.json_body import BLOCKS_LOOP
from ..wire.text import printable
from . import aside

# Bytes. The limit of a decoded body if no rule sets one.
MOST_DECODED: Final = Rule("", ()).max_body
# Bytes of a decoded body that may be decoded on the event loop.
MOST_ON_LOOP: Final = 2 * 1024 * 1024


def header(message: http.Message, name: bytes) -> str:
    """A header by its name in lower case, "" where there is none: as mitmproxy gives it, in a tenth of the time."""
    values = [value for key, value in message.headers.fields if key.lower() == name]
    return b", ".join(values).decode(errors="surrogateescape")


def is_encoded(message: http.Message) -> bool:
    """Whether a body has to be decoded."""
    label = header(message, b"content-encoding")
    return bool(label) and encodings.is_encoded(label)


def size_of(flow: http.HTTPFlow) -> int:
    """Bytes of both bodies."""
    return sum(len(message.raw_content or b"") for message in (flow.request, flow.response) if message is not None)


def blocks_loop(message: http.Message) -> bool:
    """Whether reading the body might block the event loop for more than a few milliseconds."""
    return len(message.raw_content or b"") > BLOCKS_LOOP or is_encoded(message)


async def read[T](message: http.Message | None, work: Callable[[], T]) -> T:
    """The result of some work on a message's body, done off the event loop if the body might block it."""
    return await aside.run(work) if message is not None and blocks_loop(message) else work()


async def decode(message: http.Message) -> None:
    """Take the content encoding off a body, unless that cannot be done, or not within the limit."""
    whole = await aside.run(lambda: decoded(message)) if is_encoded(message) else None
    if whole is not None:
        del message.headers["content-encoding"]
        message.raw_content = whole
        if "content-length" in message.headers:
            message.headers["content-length"] = str(len(whole))


def decoded(message: http.Message, limit: int = MOST_DECODED) -> bytes | None:
    """The body without its content encoding; None where mitmproxy does not hold it, or where decoding it would make
    more bytes than the limit or needs a library that is missing."""
    raw: bytes | None = message.raw_content
    if raw is None or not is_encoded(message):
        return raw
    try:
        return encodings.decode(raw, message.headers.get("content-encoding", ""), limit)
    except (TooLarge, MissingDecoder):
        return None


def broken_encoding(message: http.Message) -> str:
    """That nothing of an encoded body can be decoded, in words; "" if something can, or there is nothing."""
    coding = message.headers.get("content-encoding", "")
    with suppress(TooLarge, MissingDecoder):
        if encodings.decode_noting(message.raw_content or b"", coding, MOST_ON_LOOP) == (b"", True):
            return broken(coding)
    return ""


def broken(coding: str) -> str:
    """What ends a body that cannot be decoded."""
    return f"its {printable(coding)} encoding is broken"


def beginning(message: http.Message, length: int) -> bytes:
    """The first bytes of the decoded body."""
    return encodings.beginning(message.raw_content or b"", message.headers.get("content-encoding", ""), length)
