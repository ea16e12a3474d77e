"""The event stream's grammar, after the HTML standard, section 9.2 "Server-sent events"."""

import re

import pytest
from force_stream.wire.sse import EventStreamDecoder, ServerSentEvent
from hypothesis import given
from hypothesis import strategies as st


def decode(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = EventStreamDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()


def event(data: str, event: str = "") -> ServerSentEvent:
    return ServerSentEvent(event, data)


def bare(data: str, event: str = "") -> ServerSentEvent:
    return ServerSentEvent(event, data, bare=True)


# ---- the standard's own examples, in their order

STANDARD = {
    "9.2.6 stock ticker": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [event("YHOO\n+2\n10")]),
    "9.2.6 comment, two ids": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [event("first event"), event("second event"), event(" third event")],
    ),
    # A browser gives out the first as well, with empty data, which nobody has a use for.
    "9.2.6 empty data": (b"data\n\ndata\ndata\n\ndata:", [event("\n")]),
    "9.2.6 space after the colon": (b"data:test\n\ndata: test\n\n", [event("test"), event("test")]),
    "9.2.1 messages in three": (
        b"data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\n"
        b"data: This is the third message.\n\n",
        [
            event("This is the first message."),
            event("This is the second message, it\nhas two lines."),
            event("This is the third message."),
        ],
    ),
    "9.2.1 event names": (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        [event("73857293", "add"), event("2153", "remove"), event("113411", "add")],
    ),
}

GRAMMAR = {
    "nothing": (b"", []),
    "blank lines alone": (b"\n\n\r\n\r\r\n", []),
    "a comment": (b": data: x\n\n", []),
    "a bare colon": (b":\n\n", []),
    "a byte order mark": (b"\xef\xbb\xbfdata: x\n\n", [event("x")]),
    "a byte order mark alone": (b"\xef\xbb\xbf", []),
    "LF, CR and CRLF in one event": (b"data: 1\rdata: 2\r\ndata: 3\ndata: 4\n\r\n", [event("1\n2\n3\n4")]),
    "LF and CR are two line ends": (b"data: x\n\rdata: y\n\n", [event("x"), event("y")]),
    "only one space is taken off": (b"data:   x\n\n", [event("  x")]),
    "white space at the end stays": (b"data: x \t\n\n", [event("x \t")]),
    "a tab is not a space": (b"data:\tx\n\n", [event("\tx")]),
    "the first colon parts name and value": (b"data: a:b: c\n\n", [event("a:b: c")]),
    "lines that other grammars know are not ends": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei\n\n".encode(),
        [event("a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei")],
    ),
    "invalid UTF-8 is replaced": (b"data: a\xff\xc3(\xe2\x82b\n\n", [event("a\ufffd\ufffd(\ufffdb")]),
    "invalid UTF-8 in a name": (b"event: \xff\ndata: x\n\n", [event("x", "\ufffd")]),
    "NUL in the data": (b"data: a\0b\n\n", [event("a\0b")]),
    "an id says nothing": (b"id: 1\ndata: x\n\nid\nid: 2\x003\ndata: y\n\n", [event("x"), event("y")]),
    "a retry says nothing": (b"retry: 3000\nretry: " + b"9" * 5000 + b"\nretry: -5\ndata: x\n\n", [event("x")]),
    "the last event name holds": (b"event: a\nevent: b\ndata: x\n\n", [event("x", "b")]),
    "a name without data is forgotten": (b"event: ping\n\ndata: x\n\n", [event("x")]),
    "a field name alone": (b"data\ndata: x\n\n", [event("\nx")]),
    "an event without data is dropped": (b"event: x\nid: 1\nretry: 5\n\n", []),
    "an event with empty data is dropped": (b"data:\n\ndata: \n\n", []),
    "names of fields have small letters": (b"DATA: x\nData: x\n\n", []),
    "unknown fields say nothing": (b"foo: bar\ndata: x\nfoo-2: bar\n\n", [event("x")]),
    "[DONE] is data like any other": (b"data: [DONE]\n\n", [event("[DONE]")]),
}

# Where the standard would lose what an upstream said.
LENIENT = {
    "no blank line at the end": (b"data: x\n\nevent: e\ndata: y\n", [event("x"), event("y", "e")]),
    "no line end at the end": (b"data: x\n\ndata: y", [event("x"), event("y")]),
    "a CR at the end": (b"data: x\r", [event("x")]),
    "white space before a field": (b" data: x\n\n\tdata: y\n\n", [event("x"), event("y")]),
    "llama.cpp's error field": (b'data: x\n\nerror: {"code":500}\n\n', [event("x"), event('{"code":500}', "error")]),
    "the error field ends the event before it": (b"data: x\nerror: {}\n", [event("x"), event("{}", "error")]),
    "an error field that is text is a line of text": (b"error: oh\ndata: x\n\n", [bare("error: oh"), event("x")]),
    "a byte order mark later on": (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [event("x"), event("y")]),
    "two byte order marks": (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", [event("x")]),
    "NULs before an event": (b"\0\0data: x\n\n\0\ndata: y\n\n", [event("x"), event("y")]),
    "a line of JSON": (b'data: x\n\n{"a":1}\n\ndata: y\n\n', [event("x"), bare('{"a":1}'), event("y")]),
    "lines of JSON": (b'{"a":1}\n{"b":2}\n', [bare('{"a":1}'), bare('{"b":2}')]),
    "a line of JSON after one of data": (b'data: x\n{"a":1}\n\n', [event("x"), bare('{"a":1}')]),
    "a line of JSON with a name": (b'event: error\n{"a":1}\n\n', [bare('{"a":1}', "error")]),
    "JSON over several lines": (b'{\n  "a": [\n  1]\n}\n\ndata: x\n\n', [bare('{\n  "a": [\n  1]\n}'), event("x")]),
    "[DONE] alone": (b"data: x\n\n[DONE]\n\n", [event("x"), bare("[DONE]")]),
    "a line of text": (b"data: x\n\nBad Gateway\n\n", [event("x"), bare("Bad Gateway")]),
    "text within an event comes after it": (b"data: x\noh no\n\n", [event("x"), bare("oh no")]),
    "lines of text together": (b"Oh\nNo\n\n", [bare("Oh\nNo")]),
    "named events with no blank line between them": (
        b"event: a\ndata: x\nevent: b\ndata: y\n\n",
        [event("x", "a"), event("y", "b")],
    ),
    "a name after the data": (b"data: x\nevent: a\n\n", [event("x", "a")]),
    "a comment whose line end is lost": (b': pingdata: {"a":1}\n\n', [event('{"a":1}')]),
    "a comment about an event": (b': data: {"a":1}\n\n: is data: {"a":1}\n\n', []),
}

CASES = STANDARD | GRAMMAR | LENIENT
CASE = pytest.mark.parametrize(("stream", "events"), CASES.values(), ids=list(CASES))


@CASE
def test_stream_gives_events(stream: bytes, events: list[ServerSentEvent]) -> None:
    assert decode(stream) == events


@CASE
def test_every_split_point_gives_the_same_events(stream: bytes, events: list[ServerSentEvent]) -> None:
    for place in range(min(len(stream), 200) + 1):
        assert decode(stream[:place], stream[place:]) == events, place


@CASE
def test_byte_by_byte_gives_the_same_events(stream: bytes, events: list[ServerSentEvent]) -> None:
    assert decode(*(stream[place : place + 1] for place in range(len(stream)))) == events


@CASE
def test_empty_reads_change_nothing(stream: bytes, events: list[ServerSentEvent]) -> None:
    pieces = [piece for byte in stream for piece in (b"", bytes([byte]), b"")]
    assert decode(*pieces) == events


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_every_split_point_of_any_line_end_gives_the_same_events(end: bytes) -> None:
    stream = end.join([b": hi", b"event: e", b"data: 1", b"data: 2", b"", b"", b"data: \xe2\x82\xac", b"", b""])
    expected = [event("1\n2", "e"), event("€")]
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            assert decode(stream[:first], stream[first:second], stream[second:]) == expected, (first, second)


def test_an_event_is_given_out_with_its_blank_line() -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(b"data: x\n") == []
    assert decoder.feed(b"\n") == [event("x")]
    assert decoder.feed(b"data: y\r\n\r") == [event("y")]
    assert decoder.feed(b"\ndata: z\n\n") == [event("z")]
    assert decoder.close() == []


def test_lines_and_unknown_lines_are_counted() -> None:
    decoder = EventStreamDecoder()
    decoder.feed(b": hi\nid: 1\n retry: 5\ndata: x\n\n<html>\nHTTP/1.1 200\n")
    assert (decoder.lines, decoder.unknown_lines) == (4, 2)


# ---- laws

# Bytes that mean something in the grammar, more often than chance would bring them.
STREAMS = st.lists(
    st.sampled_from(
        [
            b"data",
            b"event",
            b"id",
            b"retry",
            b"error",
            b":",
            b" ",
            b"\r",
            b"\n",
            b"\r\n",
            b"{}",
            b"1",
            b"\0",
            b"\xef\xbb\xbf",
        ]
    )
    | st.binary(max_size=4),
    max_size=40,
).map(b"".join)


@given(STREAMS, st.data())
def test_any_chunking_gives_the_events_of_one_chunk(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    ends = zip([0, *cuts], [*cuts, len(stream)], strict=True)
    assert decode(*(stream[start:end] for start, end in ends)) == decode(stream)


@given(st.binary() | STREAMS)
def test_no_bytes_raise(stream: bytes) -> None:
    for given_event in decode(stream):
        assert given_event.data


DATA = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(st.tuples(DATA, st.lists(DATA, min_size=1, max_size=3)), max_size=5), st.sampled_from(["\n", "\r", "\r\n"])
)
def test_what_is_written_as_the_standard_says_is_read_back(said: list[tuple[str, list[str]]], end: str) -> None:
    stream = end.join(
        line for name, lines in said for line in (f"event: {name}", *(f"data: {text}" for text in lines), "")
    )
    expected = [event("\n".join(lines), name) for name, lines in said if "".join(lines) or len(lines) > 1]
    assert decode((stream + end).encode()) == expected


@given(STREAMS)
def test_comments_and_unknown_fields_change_nothing(stream: bytes) -> None:
    lines = re.split(b"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    # A comment before the first line would take a byte order mark's place.
    noisy = b"\n".join(part for line in lines for part in (line, b": hi", b"foo: bar"))
    assert decode(b"\n".join(lines).removeprefix(b"\xef\xbb\xbf")) == decode(noisy.removeprefix(b"\xef\xbb\xbf"))
