"""The reader of events: what each is, its number, and what was odd, whole and in pieces."""

import tracemalloc

import pytest
from force_stream.answer.events import REPLACED, Event, EventReader, Kind
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


ENVELOPED = '{"id":"x","choices":[{"delta":{"content":"a"}}],"usage":null}'


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        (ENVELOPED, ENVELOPED.replace('"a"', '"b"'), True),
        (ENVELOPED, ENVELOPED.replace('[{"delta":{"content":"a"}}]', "[]"), True),
        (ENVELOPED.replace(":", ": "), ENVELOPED.replace(":", ": ").replace('"a"', "1.50"), True),
        (ENVELOPED, ENVELOPED.replace('"a"', "-0"), False),
        (ENVELOPED, ENVELOPED.replace("x", "y"), False),
        (ENVELOPED, ENVELOPED.replace("null", "{}"), False),
        (ENVELOPED, ENVELOPED.replace('"a"', '"a"}}],"choices":[{"delta":{"content":"b"'), False),
        (ENVELOPED, ENVELOPED.replace("}}]", '}}],"more":[{"a":{}}]'), False),
        (ENVELOPED.replace("null", '"choices"'), ENVELOPED.replace("null", '"choices"'), False),
        (ENVELOPED.replace('"x"', '{"choices":[]}'), ENVELOPED.replace('"x"', '{"choices":[1]}'), False),
        (ENVELOPED.replace("usage", "c\\u0068oices"), ENVELOPED.replace("usage", "c\\u0068oices"), False),
        ('{"x":{"choices":[1]}}', '{"x":{"choices":[2]}}', False),
        ('{"choices" :[1]}', '{"choices" :[2]}', False),
        ('{"a":[1]}', '{"a":[2]}', False),
    ],
)
def test_chunks_share_an_envelope_if_they_differ_in_their_choices_alone(first: str, second: str, is_one: bool) -> None:
    reader = EventReader()
    events = [*reader.feed(b"data: %s\n\n" % first.encode()), *reader.feed(b"data: %s\n\n" % second.encode())]
    assert (events[0].envelope is not None and events[0].envelope is events[1].envelope) is is_one
    assert [event.value for event in events] == [jsontext.loads(first), jsontext.loads(second)]


DELTA = '{"id":"x","choices":[{"index":0,"delta":{"content":"a"},"logprobs":null}],"usage":null}'


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        (DELTA, DELTA.replace('"content":"a"', ""), True),
        (DELTA, DELTA.replace('{"content":"a"}', "null"), True),
        (DELTA, DELTA.replace('{"content":"a"}', '"b"'), True),
        (DELTA, DELTA.replace('"a"', '{"error":[{}],"tool_calls":[[]]}'), True),
        (DELTA, DELTA.replace('"index":0', '"index":1'), False),
        (DELTA, DELTA.replace('"logprobs":null', '"logprobs":{}'), False),
        (DELTA, DELTA.replace('"a"', '"a"},"delta":{"content":"b"'), False),
    ],
)
def test_chunks_share_an_envelope_if_they_differ_in_their_delta_alone(first: str, second: str, is_one: bool) -> None:
    reader = EventReader()
    events = [*reader.feed(b"data: %s\n\n" % first.encode()), *reader.feed(b"data: %s\n\n" % second.encode())]
    assert events[0].envelope is not None
    assert events[0].envelope.of_delta
    assert (events[0].envelope is events[1].envelope) is is_one
    assert [event.value for event in events] == [jsontext.loads(first), jsontext.loads(second)]


@pytest.mark.parametrize(
    "data",
    [
        DELTA.replace('"logprobs":null', '"finish_reason":"stop"'),
        DELTA.replace('"index":0', '"index":"0"'),
        DELTA.replace('"index":0', '"text":""'),
        DELTA.replace('"usage":null', '"usage":{"total_tokens":1}'),
        DELTA.replace('"usage"', '"novel"'),
        DELTA.replace("]", ',{"index":1}]'),
        DELTA.replace('{"content":"a"}', "null"),
        DELTA.replace('"x"', '"delta"'),
    ],
)
def test_a_delta_is_not_alone_beside_what_says_more_than_a_label(data: str) -> None:
    (event,) = EventReader().feed(b"data: %s\n\n" % data.encode())
    assert event.envelope is None or not event.envelope.of_delta


@pytest.mark.parametrize("around", ["", '"service_tier":"x",'])
def test_what_is_odd_or_an_error_in_a_delta_alone_is_noted(around: str) -> None:
    calls = [b'{"tool_calls":[{"index":0,"id":"%s"}]}' % name for name in (b"a", b"a", b"b")]
    deltas = [b"{}", *calls, b'{"content":"\xef\xbf\xbd"}', b'{"error":{"message":"no"}}']
    data = [DELTA.replace('"usage"', around + '"usage"').encode().replace(b'{"content":"a"}', each) for each in deltas]
    events, reader = read(*(b"data: %s\n\n" % each for each in data))
    assert reader.odd.lines() == [
        "event 4: a new id for a tool call at the same index",
        "event 5: not all of it is UTF-8, or the upstream put replacement characters in it",
        "event 6: an error",
    ]
    assert [event.error is not None for event in events] == [False] * 5 + [True]
    assert len({event.envelope for event in events}) == 1


def test_an_envelope_belongs_to_one_name_of_an_event() -> None:
    data = b"data: %s\n\n" % ENVELOPED.encode()
    events, _ = read(data, b"event: error\n" + data, data)
    assert [event.error is None for event in events] == [True, False, True]
    assert events[1].envelope is not events[0].envelope


def test_chunks_that_are_changed_first_have_no_envelope() -> None:
    reader = EventReader([lambda chunk: chunk.update(id="y")])
    events = [event for _ in range(3) for event in reader.feed(b"data: %s\n\n" % ENVELOPED.encode())]
    assert [(event.value["id"], event.envelope) for event in events] == [("y", None)] * 3
