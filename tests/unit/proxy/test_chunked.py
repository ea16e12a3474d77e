"""Many chunks of HTTP/1.1 read at once are what h11 reads one by one, whatever comes."""

from collections.abc import Callable
from itertools import count
from typing import Any

import h11
import pytest
from force_stream.proxy import chunked
from force_stream.rules.rule import Rule
from h11._readers import ChunkedReader, ContentLengthReader, Http10Reader
from h11._receivebuffer import ReceiveBuffer
from harness.player import HEAD, Player
from hypothesis import given
from hypothesis import strategies as st

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def read(body: bytes, sizes: list[int], take: Callable[[Any, ReceiveBuffer], bytes]) -> tuple[bytes, str, bytes]:
    """What is read of a body that comes in reads of these sizes: its bytes, how it ended, what was left over."""
    reader, buffer, out, at, turn = ChunkedReader(), ReceiveBuffer(), b"", 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        buffer += body[at : at + size]
        at, turn = at + size, turn + 1
        out += take(reader, buffer)
        while True:
            try:
                event = reader(buffer)
            except h11.ProtocolError as error:
                return out, f"{error}", b""
            if event is None:
                break
            if isinstance(event, h11.EndOfMessage):
                return out, f"end {list(event.headers)!r}", bytes(buffer) + body[at:]
            out += bytes(event.data)
    return out, "unfinished", bytes(buffer)


def nothing(*_: Any) -> bytes:
    return b""


def sometimes(every: int) -> Callable[[Any, ReceiveBuffer], bytes]:
    turns = count()
    return lambda reader, buffer: chunked.read_chunks(reader, buffer) if next(turns) % every == 0 else b""


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)
CHUNKS = st.lists(st.binary(min_size=1, max_size=40) | st.just(b"\r\n0\r\n\r\n"), max_size=8)


def framed(chunks: list[bytes], extension: bytes = b"", end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + end


@given(
    CHUNKS, SIZES, st.sampled_from((b"", b";a=b", b" ")), st.sampled_from((b"0\r\n\r\n", b"0\r\nA: b\r\n\r\nmore", b""))
)
def test_many_chunks_at_a_time_are_the_same_body(
    chunks: list[bytes], sizes: list[int], extension: bytes, end: bytes
) -> None:
    body = framed(chunks, extension, end)
    for each in (sizes, [len(body) + 1]):
        assert read(body, each, chunked.read_chunks) == read(body, each, nothing)


@given(CHUNKS, SIZES, st.data())
def test_a_wrong_byte_has_the_same_outcome(chunks: list[bytes], sizes: list[int], data: st.DataObject) -> None:
    body = bytearray(framed(chunks))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b"0fg\r\n-+_ \x00"))
    assert read(bytes(body), sizes, chunked.read_chunks) == read(bytes(body), sizes, nothing)


@given(CHUNKS, SIZES, st.integers(2, 4))
def test_h11_and_this_may_take_turns(chunks: list[bytes], sizes: list[int], every: int) -> None:
    body = framed(chunks)
    assert read(body, sizes, sometimes(every)) == (b"".join(chunks), "end []", b"")


def test_all_that_is_there_is_taken_at_once() -> None:
    reader, buffer = ChunkedReader(), ReceiveBuffer()
    buffer += framed([b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"], end=b"9\r\ndata:")
    assert chunked.read_chunks(reader, buffer) == b"data: 1\n\ndata: 2\n\ndata: 3\n\ndata:"
    buffer += b" 4\n\n\r\n0\r\n\r\n"
    assert chunked.read_chunks(reader, buffer) == b" 4\n\n"
    assert isinstance(reader(buffer), h11.EndOfMessage)


@pytest.mark.parametrize("reader", [ContentLengthReader(9), Http10Reader()])
def test_a_body_without_chunks_is_left_to_h11(reader: Any) -> None:
    buffer = ReceiveBuffer()
    buffer += b"2\r\nab\r\n"
    assert chunked.read_chunks(reader, buffer) == b""
    assert bytes(buffer) == b"2\r\nab\r\n"


@given(CHUNKS, SIZES, st.sampled_from((b"", b"0\r\n\r\n", b"0;a=b\r\n\r\n")), st.data())
def test_whole_chunks_are_read_as_h11_reads_them_or_not_at_all(
    chunks: list[bytes], sizes: list[int], end: bytes, data: st.DataObject
) -> None:
    body = bytearray(framed(chunks, end=end))
    if body and data.draw(st.booleans()):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b"0fg\r\n-+_ \x00"))
    for each in (sizes, [len(body) + 1]):
        reader, buffer, at, out = ChunkedReader(), ReceiveBuffer(), 0, b""
        for size in each * len(body):
            read_at_once = chunked.read_whole_chunks(reader, bytes(body[at : at + size])) if not buffer else b""
            if not read_at_once:
                buffer += body[at : at + size]
                try:
                    while isinstance(event := reader(buffer), h11.Data):
                        out += bytes(event.data)
                except h11.ProtocolError:
                    event = h11.EndOfMessage()
                if event is not None:
                    break
            out, at = out + read_at_once, at + size
        assert out == read(bytes(body), each, nothing)[0]


def test_whole_chunks_need_nothing_else_around_them() -> None:
    reader = ChunkedReader()
    assert chunked.read_whole_chunks(reader, b"2\r\nab\r\n1\r\nc\r\n") == b"abc"
    for other in (b"2\r\nab\r", b"2\r\nab\r\n1\r\n", b"2\r\nab\r\n0\r\n\r\n", b"ab", b""):
        assert chunked.read_whole_chunks(reader, other) == b""
    for name, value in (("_bytes_in_chunk", 2), ("_bytes_to_discard", b"\r\n"), ("_reading_trailer", True)):
        busy = ChunkedReader()
        setattr(busy, name, value)
        assert chunked.read_whole_chunks(busy, b"2\r\nab\r\n") == b""
    assert chunked.read_whole_chunks(Http10Reader(), b"2\r\nab\r\n") == b""


def test_this_h11_is_known() -> None:
    assert chunked.unknown_h11() == ""


def test_an_unknown_h11_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_STATE", {"_of_another_version": 0})
    assert "_of_another_version" in chunked.unknown_h11()


@pytest.mark.parametrize("beginning", [b"1;", b"0\r\nA: "], ids=["chunk header", "trailers"])
def test_a_line_without_an_end_breaks_the_response(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule("r", hosts=(".",)))
    player.ask()
    player.upstream_sends(HEAD, b"%x\r\n%b\r\n" % (len(EVENT), EVENT), beginning)
    for _ in range(16):
        assert player.closed == []
        player.upstream_sends(b"x" * 1024)
    player.upstream_sends(b"x")
    assert set(player.closed) == {"upstream"}
    assert player.answer.status_code == 502
    assert b"more than 16,384 bytes" in (player.answer.content or b"")
