"""In which pieces a body comes changes nothing: neither how many chunks of HTTP are read at once, nor what waits."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import h11
import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy import chunked
from h11._readers import ChunkedReader, ContentLengthReader, Http10Reader
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given
from hypothesis import strategies as st


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


def test_this_h11_is_known() -> None:
    assert chunked.check() == ""


def test_an_unknown_h11_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_STATE", {"_of_another_version": 0})
    assert "_of_another_version" in chunked.check()


# What waits


def event(text: str | None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def answer() -> Any:
    return AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")


DONE = b"data: [DONE]\n\n"


@given(st.lists(st.text(max_size=8), max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_event_by_event_the_answer_is_that_of_the_whole(texts: list[str], odd: list[int]) -> None:
    pieces = [event(text.encode(errors="replace").decode()) for text in texts]
    for at in odd:
        pieces.insert(at, b": keep-alive\n\n")
    pieces += [event(None, "stop"), DONE]
    whole, one_by_one = answer(), answer()
    whole.feed(b"".join(pieces))
    for piece in pieces:
        one_by_one.feed(piece)
    assert one_by_one.finish() == whole.finish()
    assert one_by_one.report == whole.report


def test_pieces_that_say_more_of_the_same_wait() -> None:
    made = answer()
    read_at_once = [made.feed(event(word)) for word in ("", "Once", " upon", " a", " time")]
    assert read_at_once[-2:] == [False, False]
    assert made.report.events == 5


def test_pieces_that_wait_are_read_before_they_are_many() -> None:
    made = answer()
    size = len(event("word"))
    waited = [made.feed(event("word")) for _ in range(40 * 1024 // size)]
    assert True in waited[5:]


@pytest.mark.parametrize("last", [event(None, "stop"), DONE, event("!", "stop")])
def test_what_may_end_a_stream_never_waits(last: bytes) -> None:
    made = answer()
    for word in ("", "Once", " upon", " a", " time"):
        made.feed(event(word))
    assert not made.finished
    assert not made.ended
    assert made.feed(last)
    assert made.finished or made.ended


def test_what_comes_behind_an_end_in_one_piece_with_it_is_no_part_of_the_answer() -> None:
    made = answer()
    for word in ("", "Once", " upon", " a", " time"):
        made.feed(event(word))
    made.feed(event("!", "stop") + DONE + event("more"))
    assert json.loads(made.finish().body)["choices"][0]["message"]["content"] == "Once upon a time!"
