"""The reader of events: what each is, its number, and what was odd, whole and in pieces."""

import tracemalloc
from typing import Any

import pytest
from force_stream.answer.events import REPLACED, Event, EventReader, Kind
from force_stream.endpoints import ENDPOINTS
from force_stream.endpoints.endpoint import Aggregator, Memo
from force_stream.errors.events import error_from_words
from force_stream.wire import jsontext

CHUNK = b'data: {"a":1}\n\n'
ERROR = {"error": {"message": "no"}}
REPORTED = {"error": {"message": "no", "type": None, "param": None, "code": None}}


def read(*pieces: bytes) -> tuple[list[Event], EventReader]:
    reader = EventReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    return [*events, *reader.close()], reader


STREAMS: dict[str, tuple[bytes, list[Event], list[str]]] = {
    "a chunk": (CHUNK, [Event(1, Kind.CHUNK, "", '{"a":1}', {"a": 1})], []),
    "a named chunk": (b"event: x\n" + CHUNK, [Event(1, Kind.CHUNK, "x", '{"a":1}', {"a": 1})], []),
    "no data": (b"data: \n\ndata:\n\nevent: x\n\n", [], []),
    "two spaces": (
        b"data:  1 \n\n",
        [Event(1, Kind.VALUE, "", " 1 ", 1)],
        ["event 1: its data is a number, not an object"],
    ),
    "a CR in a line": (
        b'data: {"a"\rdata: :1}\n\n',
        [Event(1, Kind.CHUNK, "", '{"a"\n:1}', {"a": 1})],
        [],
    ),
    "done twice": (
        b"data: [DONE]\n\ndata: [DONE]\n\n",
        [Event(0, Kind.DONE, "", "[DONE]"), Event(0, Kind.DONE, "", "[DONE]")],
        ["more than one [DONE]"],
    ),
    "a chunk after done": (
        b"data: [DONE]\n\n" + CHUNK,
        [Event(0, Kind.DONE, "", "[DONE]"), Event(1, Kind.CHUNK, "", '{"a":1}', {"a": 1})],
        ["event 1: events after [DONE]"],
    ),
    "text": (b"data: Hi\n\n", [Event(1, Kind.TEXT, "", "Hi")], ["event 1: its data is not JSON"]),
    "an error in brackets": (
        b"data: [ERROR] out of memory\n\n",
        [
            Event(
                1,
                Kind.TEXT,
                "",
                "[ERROR] out of memory",
                error=error_from_words("[ERROR] out of memory"),
            )
        ],
        ["event 1: an error"],
    ),
    "a notice in brackets": (
        b"data: [1/3] loading\n\n" + CHUNK,
        [Event(1, Kind.TEXT, "", "[1/3] loading"), Event(2, Kind.CHUNK, "", '{"a":1}', {"a": 1})],
        ["event 1: its data is not JSON"],
    ),
    "a part of a list": (
        b'data: [{"a":\n\ndata: [ "a"\n\n',
        [Event(1, Kind.UNREADABLE, "", '[{"a":'), Event(2, Kind.UNREADABLE, "", '[ "a"')],
        ["events 1, 2: its data cannot be read"],
    ),
    "lines without blank lines": (
        b"data: 1\ndata: 2\n\n",
        [Event(1, Kind.VALUE, "", "1", 1), Event(2, Kind.VALUE, "", "2", 2)],
        ["events 1, 2: its data is a number, not an object"],
    ),
    "an error": (
        b'data: {"error":{"message":"no"}}\n\n',
        [Event(1, Kind.CHUNK, "", '{"error":{"message":"no"}}', ERROR, REPORTED)],
        ["event 1: an error"],
    ),
    "an error in words": (
        b"event: error\ndata: no\n\n",
        [
            Event(
                1,
                Kind.TEXT,
                "error",
                "no",
                error={"error": {"message": "no", "type": "upstream_error", "param": None, "code": "stream_malformed"}},
            )
        ],
        ["event 1: an error"],
    ),
    "cut off": (b'data: {"a":', [Event(1, Kind.CUT, "", '{"a":')], ["event 1: cut off"]),
    "bytes that are not UTF-8": (
        b'data: {"a":"\xff"}\n\n',
        [Event(1, Kind.CHUNK, "", f'{{"a":"{REPLACED}"}}', {"a": REPLACED})],
        ["event 1: not all of it is UTF-8, or the upstream put replacement characters in it"],
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_events_are_read_whole_and_in_pieces(name: str) -> None:
    stream, events, odd = STREAMS[name]
    for pieces in ([stream], [stream[:9], stream[9:]], [bytes([byte]) for byte in stream]):
        found, reader = read(*pieces)
        assert found == events
        assert reader.odd.lines() == odd


@pytest.mark.parametrize("stream", [CHUNK, b"event: x\n" + CHUNK, b"data: \xff\n\n", b"event: \xff\ndata: \xff\n\n"])
def test_an_event_that_comes_alone_is_read_as_by_the_decoder(stream: bytes) -> None:
    (alone, first), (together, second) = read(b": note\n\n", stream), read(b": note\n\n" + stream)
    assert alone == together
    assert first.decoder.lines == second.decoder.lines


def test_patches_are_applied_to_chunks_but_not_to_errors() -> None:
    reader = EventReader([lambda chunk: chunk.update(patched=True)])
    values = [event.value for event in reader.feed(CHUNK + b'data: {"error":{"message":"no"}}\n\n')]
    assert values == [{"a": 1, "patched": True}, ERROR]


def test_events_that_are_read_elsewhere_are_counted_and_looked_at() -> None:
    reader = EventReader()
    reader.feed(CHUNK)
    reader.look_for_replaced(CHUNK + b'data: {"a":"\xff"}\n\n')
    reader.count += 2
    assert [event.number for event in reader.feed(CHUNK)] == [4]
    assert [line.partition(":")[0] for line in reader.odd.lines()] == ["event 3"]


def test_a_stream_that_ended_is_concluded() -> None:
    _, reader = read(b"Not a stream\n")
    reader.conclude()
    assert reader.odd.lines() == ["lines that are not part of an event stream", "the stream has no events"]


def test_many_lines_that_cannot_be_read_are_not_an_event_each() -> None:
    events, reader = read(b'data: {"a":\n' * 10_000 + b"\n" + CHUNK)
    assert [event.kind for event in events[:-1]] == [Kind.UNREADABLE] * (len(events) - 1)
    assert events[-1].value == {"a": 1}
    assert reader.count == len(events) < 50


def test_many_lines_of_text_are_an_event_each() -> None:
    events, _ = read(b"data: x\n" * 100 + b"\n")
    assert [(event.kind, event.data) for event in events] == [(Kind.TEXT, "x")] * 100


@pytest.mark.parametrize("event", [b'data: {"a":1}\n' * 9000 + b"\n", b"data: " + b'{"a":1}' * 20_000 + b"\n\n"])
def test_the_parts_of_a_long_event_are_read_as_they_are_taken(event: bytes) -> None:
    reader = EventReader()
    numbers = []
    for each in reader.feed(event):
        numbers.append(each.number)
        assert reader.count == each.number, "not all of them at once"
        assert each.value == {"a": 1}
    assert numbers == list(range(1, event.count(b"{") + 1))


@pytest.mark.parametrize(
    "event", [b"data:\n" * 20_000 + b"\n", b"data: " * 20_000 + b"\n\n"], ids=["lines", "one line"]
)
def test_what_stands_before_the_data_of_an_event_takes_little_memory(event: bytes) -> None:
    tracemalloc.start()
    try:
        read(*(event[at : at + 4096] for at in range(0, len(event), 4096)))
        assert tracemalloc.get_traced_memory()[1] < 5 * len(event)
    finally:
        tracemalloc.stop()


class Gathering(Aggregator):
    """Notes the chunks that come; each goes on."""

    def __init__(self) -> None:
        self.chunks: list[dict[str, Any]] = []

    def goes_on(self, chunk: dict[str, Any], memo: Memo) -> bool:
        self.chunks.append(chunk)
        return True


def merge_run(
    first: bytes, rest: bytes, most: int = 100, reader: EventReader | None = None
) -> tuple[list[Any], EventReader]:
    """The chunks that are merged by the form of the first event."""
    reader, gathering = reader or EventReader(), Gathering()
    for event in reader.feed(first):
        reader.know(event, gathering)
    end, count = reader.merge_run(rest, 0, most)
    assert count == len(gathering.chunks) == reader.count - 1
    assert reader.decoder.lines == rest.count(b"\n", 0, end) - count + first.count(b"\n") - 1
    return gathering.chunks, reader


CHOSEN = '{"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"a"},"logprobs":null}],"usage":null}'
TYPED = '{"type":"x.delta","index":0,"delta":"a"}'


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        (CHOSEN, CHOSEN.replace('"a"', '"b"'), True),
        (CHOSEN, CHOSEN.replace("null", "[1]"), True),
        (CHOSEN, CHOSEN.replace(":", ": "), True),
        (CHOSEN, CHOSEN.replace('"a"', '"-0"'), True),
        (CHOSEN, CHOSEN.replace('"a"', "-0"), False),
        (CHOSEN, CHOSEN.replace('"a"', f'"{REPLACED}"'), False),
        (CHOSEN, CHOSEN.replace('"a"', '"' + 1000 * "a" + '"'), True),
        (CHOSEN, CHOSEN.replace('"a"', '"' + 10_000 * "a" + '"'), False),
        (CHOSEN, CHOSEN.replace('"x"', '"y"'), False),
        (CHOSEN, CHOSEN.replace('"m"', '"n"'), False),
        (CHOSEN, CHOSEN.replace('"m"', "[]"), False),
        (CHOSEN, CHOSEN.replace("usage", "novel"), False),
        (CHOSEN, CHOSEN.replace("index", "novel"), False),
        (CHOSEN, CHOSEN.replace("content", "novel"), False),
        (CHOSEN, CHOSEN.replace('{"content":"a"}', "null"), False),
        (CHOSEN, CHOSEN.replace('{"content":"a"}', '"content"'), False),
        (CHOSEN, CHOSEN.replace("]", ",{}]"), False),
        (CHOSEN, CHOSEN.replace("[{", "{").replace("}]", "}"), False),
        (CHOSEN, f"[{CHOSEN}]", False),
        (CHOSEN, CHOSEN + CHOSEN, False),
        (CHOSEN, CHOSEN[:-1], False),
        (CHOSEN, CHOSEN.replace(",", "\ndata: ,"), False),
        (CHOSEN, CHOSEN + "\nid: 1", False),
        (CHOSEN, "[DONE]", False),
        (CHOSEN.replace("content", "error"), CHOSEN.replace("content", "error"), False),
        (CHOSEN.replace("logprobs", "message"), CHOSEN.replace("logprobs", "message"), True),
        (CHOSEN.replace("logprobs", "error"), CHOSEN.replace("logprobs", "error"), False),
        (CHOSEN.replace("delta", "message"), CHOSEN.replace("delta", "message"), False),
        (CHOSEN.replace("usage", "error"), CHOSEN.replace("usage", "error"), False),
        (CHOSEN.replace("usage", "type"), CHOSEN.replace("usage", "type"), False),
        (CHOSEN.replace('"m"', "[]"), CHOSEN.replace('"m"', "[]"), False),
        (TYPED, TYPED.replace('"a"', "[1]"), True),
        (TYPED, TYPED.replace("x.", "y."), False),
        (TYPED, TYPED.replace('"x.delta"', "{}"), False),
        (TYPED.replace("x.delta", "x.error"), TYPED.replace("x.delta", "x.error"), False),
        (TYPED.replace("index", "object"), TYPED.replace("index", "object"), False),
        (TYPED.replace("type", "kind"), TYPED.replace("type", "kind"), False),
    ],
)
def test_a_chunk_is_merged_by_its_form_if_its_members_have_the_same_names(
    first: str, second: str, *, is_one: bool
) -> None:
    chunks, _ = merge_run(b"data: %s\n\n" % first.encode(), b"data: %s\n\n" % second.encode())
    assert chunks == ([jsontext.loads(second)] if is_one else [])


def test_events_are_merged_by_their_form_up_to_the_first_of_another() -> None:
    event = b"data: %s\n\n" % CHOSEN.encode()
    assert len(merge_run(event, 3 * event + b": hi\n\n" + event)[0]) == 3
    assert len(merge_run(event, 5 * event, most=2)[0]) == 2
    assert len(merge_run(event, 2 * event + event[:-1])[0]) == 2


def test_a_form_belongs_to_one_name_of_an_event() -> None:
    event, other = b"event: a\ndata: %s\n\n" % TYPED.encode(), b"event: b\ndata: %s\n\n" % TYPED.encode()
    assert len(merge_run(event, 2 * event + other + event)[0]) == 2
    failed = b"event: error\n" + b"data: %s\n\n" % TYPED.encode()
    assert not merge_run(failed, failed)[0]


def test_no_form_is_known_of_chunks_that_are_changed_first() -> None:
    event = b"data: %s\n\n" % CHOSEN.encode()
    assert not merge_run(event, event, reader=EventReader([lambda chunk: chunk.update(id="y")]))[0]


def test_no_form_is_known_after_done() -> None:
    reader, event = EventReader(), b"data: %s\n\n" % CHOSEN.encode()
    (read_first,) = reader.feed(event)
    reader.know(read_first, Gathering())
    reader.feed(b"data: [DONE]\n\n")
    assert reader.merge_run(event, 0, 1) == (0, 0)
    reader.know(read_first, Gathering())
    assert reader.merge_run(event, 0, 1) == (0, 0)


@pytest.mark.parametrize(("what", "value"), [("id", '"x"'), ("model", '"m"')])
def test_an_id_or_a_model_that_changes_makes_no_other_form(what: str, value: str) -> None:
    reader, gathering = EventReader(), Gathering()
    events = [b"data: %s\n\n" % CHOSEN.replace(value, f'"{name}"').encode() for name in "abcd"]
    for event in events[:2]:
        for each in reader.feed(event):
            reader.know(each, gathering)
    assert reader.merge_run(b"".join(events), 0, 9)[1] == 4
    assert reader.odd.lines() == [f"event 2: its {what} differs from that of the events before"]


def test_what_is_odd_is_noted_if_a_chunk_does_not_only_go_on() -> None:
    reader = EventReader()
    choice = CHOSEN.replace('"content":"a"', '"tool_calls":[{"index":0,"id":"a"}]').encode()
    for event in reader.feed(b"data: %s\n\n" % choice):
        reader.know(event, ENDPOINTS["chat"].aggregator(1))
    assert reader.merge_run(b"data: %s\n\n" % choice.replace(b'"a"', b'"b"'), 0, 9)[1] == 1
    assert reader.odd.lines() == ["event 2: a new id for a tool call at the same index"]


@pytest.mark.parametrize("data", [TYPED, "[1]"])
def test_an_event_whose_form_is_unknown_is_read_as_any_other(data: str) -> None:
    chunks, reader = merge_run(b"data: %s\n\n" % CHOSEN.encode(), b"data: %s\n\n" % TYPED.encode())
    assert not chunks
    assert [event.value for event in reader.feed(b"data: %s\n\n" % data.encode())] == [jsontext.loads(data)]


@pytest.mark.parametrize("name", ["", "x", "xdat", "xdata: ", 'xdata: {"a": 1', 'xdata: {"a": 1}'])
def test_data_in_the_line_of_a_name_is_read_in_whatever_pieces_it_comes(name: str) -> None:
    event = f'event: {name}\ndata: {{"b": 2}}\n\n'.encode()
    readers = EventReader(), EventReader()
    for reader in readers:
        assert list(reader.feed(b": begins\n\n")) == []
    at_once = list(readers[0].feed(event))
    in_pieces = [found for piece in (event[:9], event[9:]) for found in readers[1].feed(piece)]
    assert [(each.name, each.data, each.kind) for each in at_once] == [
        (each.name, each.data, each.kind) for each in in_pieces
    ]
