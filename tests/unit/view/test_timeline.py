"""The timeline of an event stream: what each event added, when it came, what was odd; and that no bytes harm it."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from force_stream.answer.oddities import MOST_ODD
from force_stream.answer.reader import AnswerSpec
from force_stream.view import timeline, timeline_text
from force_stream.view.timeline import MOST_BLOCKS, MOST_WORK_IN_BLOCK, SHOWN_LAST, Entry, Timeline
from force_stream.view.timeline_text import SHOWN_FIRST, About
from harness import sse
from harness.golden import CASES
from harness.samples import (
    EVENTS,
    RESPONSE_STREAM,
    STREAM,
    TEXT_STREAM,
    TOOL_STREAM,
    USAGE,
    choice,
    chunk,
    failed_response,
    function_call,
)
from hypothesis import given
from hypothesis import strategies as st

DONE = b"data: [DONE]\n\n"
LONGEST = 2_600
NOT_UTF8 = "not all of it is UTF-8, or the upstream put replacement characters in it"


def event_of(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def show(body: bytes, times: object = None, **about: Any) -> str:
    return timeline_text.text(timeline.read(body, times), About(**about))


def entries(body: bytes, times: object = None) -> list[Entry]:
    return timeline.read(body, times).entries


def added(body: bytes) -> list[str]:
    return [entry.added for entry in entries(body)]


def odd(body: bytes) -> list[str]:
    return timeline.read(body).odd


def numbers_of(read: Timeline) -> list[int]:
    """The numbers of all events that the entries stand for."""
    numbered = [(entry.number, entry.times) for entry in read.entries if entry.number is not None]
    return [number for first, times in numbered for number in range(first, first + times)]


def assert_harmless(body: bytes, times: object = None) -> Timeline:
    """What holds for all bytes: the text has nothing for a terminal to obey, and an end."""
    read = timeline.read(body, times)
    lines = timeline_text.text(read, About()).split("\n")
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < LONGEST
    assert len(lines) < SHOWN_FIRST + SHOWN_LAST + 500
    assert read.looked_at <= MOST_BLOCKS + SHOWN_LAST
    return read


# What an event added


def test_an_event_goes_by_its_name_or_else_by_its_type() -> None:
    body = (
        b'event: delta\ndata: {"type":"other"}\n\ndata: {"type":"ping"}\n\n: alive\n\ndata: {"choices":[]}\n\n' + DONE
    )
    assert [(entry.type, entry.number) for entry in entries(body)] == [
        ("delta", 1),
        ("ping", 2),
        ("comment", None),
        ("chunk", 3),
        ("[DONE]", None),
    ]
    assert [entry.added for entry in entries(body)] == ['type "other"', "", "alive", "", ""]


def test_events_without_a_blank_line_between_them_are_two() -> None:
    assert [entry.number for entry in entries(b'data: {"a":1}\ndata: {"b":2}\n\n')] == [1, 2]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_all_ends_of_lines_are_read(end: bytes) -> None:
    body = STREAM.replace(b"\n", end)
    assert added(body) == added(STREAM)


def test_golden_streams_have_the_events_that_the_log_counts() -> None:
    assert CASES
    for case in CASES:
        read = assert_harmless(case.stream)
        answer = AnswerSpec("golden", case.endpoint).read(200, "")
        answer.feed(case.stream)
        answer.finish()
        assert read.events == answer.report.events, case.path.stem
        assert numbers_of(read) == list(range(1, read.events + 1)), case.path.stem


def test_recorded_streams_are_shown_without_harm(streams_dir: Path) -> None:
    files = sorted((streams_dir / "events").glob("*.sse"))
    assert files
    if os.environ.get("HYPOTHESIS_PROFILE") != "thorough":
        files = files[::3]
    for file in files:
        read = assert_harmless(file.read_bytes())
        assert numbers_of(read) == list(range(1, read.events + 1)), file.name


# Times


def test_an_event_comes_with_the_piece_that_has_its_last_byte() -> None:
    first = STREAM.index(b"\n\n") + 2
    times = [0.5, first - 1, 0.75, first, 4.0, len(STREAM)]
    read = timeline.read(STREAM, times)
    assert [(entry.at, entry.gap) for entry in read.entries[:3]] == [(0.75, None), (4.0, 3.25), (4.0, 0.0)]
    assert (read.first_event, read.first_content, read.ended) == (0.75, 4.0, 4.0)
    assert read.longest_gap == (0.75, 4.0)


@given(st.lists(st.integers(1, len(STREAM) - 1), unique=True, max_size=20).map(sorted))
def test_however_the_network_cuts_a_stream_each_event_has_its_time(cuts: list[int]) -> None:
    sizes = [*cuts, len(STREAM)]
    times = [value for number, size in enumerate(sizes, 1) for value in (number * 1.0, size)]
    ends = [place + 2 for place in range(len(STREAM)) if STREAM.startswith(b"\n\n", place)]
    expected = [1.0 + sum(size < end for size in sizes) for end in ends]
    assert [entry.at for entry in entries(STREAM, times)] == expected


def test_a_page_has_no_first_event() -> None:
    page = b"<!DOCTYPE html>\n<p>Please log in</p>\n"
    read = timeline.read(page, [0.1, len(page)])
    assert (read.events, read.first_event, read.ended) == (0, None, 0.1)


def test_a_comment_has_the_time_of_its_own_line() -> None:
    body = b": one\n" + b'data: {"a":1}\n\n'
    assert [entry.at for entry in entries(body, [1.0, 6, 2.0, len(body)])] == [1.0, 2.0]


def test_times_of_a_body_that_was_compressed_are_not_given_to_the_wrong_events() -> None:
    read = timeline.read(STREAM, [0.5, 100, 2.0, 200])
    assert {entry.at for entry in read.entries} == {None}
    assert (read.longest_gap, read.ended) == ((0.5, 2.0), 2.0)


def test_silence_at_the_end_counts() -> None:
    times = [0.5, 10, 0.75, len(STREAM)]
    assert timeline.read(STREAM, times).longest_gap == (0.5, 0.75)
    read = timeline.read(STREAM, times, ended=5.75)
    assert (read.longest_gap, read.last_byte, read.ended) == ((0.75, 5.75), 0.75, 5.75)
    assert timeline.read(STREAM, times, ended=0.6).ended == 0.75, "a note of another clock"
    assert timeline.read(b"", None, ended=5.0).ended is None


# Events that are alike


def words(count: int, **members: Any) -> list[dict[str, Any]]:
    return [chunk(choice(content=f"w{number} "), **members) for number in range(1, count + 1)]


def folded(body: bytes, times: object = None) -> list[tuple[int | None, int, str]]:
    """The entries that stand for several events: the first number, how many, and what they added."""
    return [(entry.number, entry.times, entry.added) for entry in entries(body, times) if entry.times > 1]


def per_event(body: bytes, seconds: dict[int, float]) -> list[float]:
    """Times of a body that comes event by event, 0.1 s apart; `seconds`: of silence before some of them."""
    times: list[float] = []
    at = size = 0.0
    for number, event in enumerate(body.split(b"\n\n")[:-1], 1):
        at, size = at + seconds.get(number, 0.1), size + len(event) + 2
        times += [at, size]
    return times


def test_events_that_only_add_to_the_same_text_become_one_but_for_a_few_at_both_ends() -> None:
    body = sse(chunk(choice(role="assistant")), *words(100), chunk(choice(finish_reason="stop")))
    shown = ", ".join(f"w{number}" for number in range(4, 97))
    beginning = shown.replace(", ", " ")[:80]
    assert folded(body) == [(5, 94, f'content +370 characters: "{beginning}"…')]
    assert folded(body, per_event(body, {})) == [(5, 94, f'content +370 characters, 10 events/s: "{beginning}"…')]
    assert [entry.number for entry in entries(body)] == [1, 2, 3, 4, 5, 99, 100, 101, 102, None]
    assert timeline.read(body).looked_at < 20, "nearly all of them were not even parsed"


def test_what_is_not_like_the_others_stays_by_itself() -> None:
    kinds = {
        "a text in another place": chunk(choice(reasoning_content="Hm")),
        "a usage by itself": chunk(usage=USAGE),
        "a service tier": chunk(choice(content="a"), service_tier="flex"),
        "a tool call": chunk(choice(tool_calls=[function_call(0, name="f", arguments="")])),
        "a name of its own": {"type": "ping"},
        "what is not UTF-8": chunk(choice(content="\ufffd")),
        "another id": chunk(choice(content="a"), id="chatcmpl-2"),
        "an error": {"error": {"message": "Busy"}},
        "another choice": chunk(choice(1, content="b")),
    }
    for what, one in kinds.items():
        body = sse(*words(50), one, *words(50))
        assert [(number, times) for number, times, _ in folded(body)] == [(4, 44), (55, 44)], what
        assert 51 in [entry.number for entry in entries(body)], what


def test_a_run_ends_at_a_long_silence() -> None:
    body = sse(*words(100), done=False)
    times = per_event(body, {41: 5.0})
    read = timeline.read(body, times)
    assert [(entry.number, entry.times) for entry in read.entries if entry.times > 1] == [(4, 34), (45, 53)]
    (late,) = [entry for entry in read.entries if entry.gap is not None and entry.gap > 1]
    assert (late.number, late.at, late.added) == (41, pytest.approx(9.0), 'content +"w41 "')
    assert read.longest_gap == (pytest.approx(4.0), pytest.approx(9.0))


def test_a_usage_in_every_chunk_and_a_new_id_each_time_are_no_change() -> None:
    body = sse(*(one | {"id": f"c{n}", "usage": {"total_tokens": n}} for n, one in enumerate(words(50), 1)))
    assert [number for number, times, _ in folded(body)] == [6], "the other id is noted once"
    assert timeline.read(body).usages == 50


def test_comments_that_say_the_same_become_one() -> None:
    body = b": busy\n\n" * 50 + b": ready\n\n" + b": busy\n\n" * 3
    assert folded(body) == [(None, 44, "busy")]
    assert "comment  44 times: busy\n" in show(body)
    assert timeline.read(body).comments == 54


# The header


@pytest.mark.parametrize(
    ("body", "reason", "usage"),
    [
        pytest.param(STREAM, "stop", USAGE, id="chat"),
        pytest.param(TOOL_STREAM, "tool_calls", USAGE, id="tool calls"),
        pytest.param(TEXT_STREAM, "stop", USAGE, id="completions"),
        pytest.param(RESPONSE_STREAM, "completed", None, id="responses"),
        pytest.param(
            b'data: {"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
            b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}\n\n',
            "end_turn",
            {"input_tokens": 3, "output_tokens": 2},
            id="messages",
        ),
        pytest.param(
            sse(chunk(choice(finish_reason="stop"), x_groq={"usage": USAGE})), "stop", USAGE, id="usage in x_groq"
        ),
    ],
)
def test_finish_reason_and_usage_are_found_where_they_stand(body: bytes, reason: str, usage: Any) -> None:
    read = timeline.read(body)
    assert list(read.finish_reasons.values()) == [reason]
    assert usage is None or read.usage == usage
    assert f"finish reason  {reason}\n" in timeline_text.text(read, About())


# What is odd


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(STREAM, [], id="nothing"),
        pytest.param(RESPONSE_STREAM, [], id="nothing in a Responses stream, which has no [DONE]"),
        pytest.param(b"", ["the stream has no events"], id="empty"),
        pytest.param(DONE, ["the stream has no events"], id="[DONE] only"),
        pytest.param(sse(*EVENTS[:2]), ["no finish reason for choice 0"], id="unfinished"),
        pytest.param(STREAM.removesuffix(DONE), ["no [DONE]"], id="no [DONE]"),
        pytest.param(
            STREAM.removesuffix(DONE)[:-30],
            ["event 5: cut off", "no [DONE]"],
            id="cut inside an event",
        ),
        pytest.param(b"data: {oops\n\n" + STREAM, ["event 1: its data cannot be read"], id="no JSON"),
        pytest.param(b"data: 1\n\n" + STREAM, ["event 1: its data is a number, not an object"], id="no object"),
        pytest.param(b"data: null\n\n" + STREAM, ["event 1: its data is null, not an object"], id="null"),
        pytest.param(STREAM + DONE, ["more than one [DONE]"], id="twice [DONE]"),
        pytest.param(STREAM + b'data: {"a":1}\n\n', ["event 6: events after [DONE]"], id="after [DONE]"),
        pytest.param(b'data: "a"\n\n' + STREAM, ["event 1: its data is text, not an object"], id="text"),
        pytest.param(b"data: [1]\n\n" + STREAM, ["event 1: its data is a list, not an object"], id="list"),
        pytest.param(b"data: true\n\n" + STREAM, ["event 1: its data is true or false, not an object"], id="true"),
        pytest.param(b"data: 1E400\n\n" + STREAM, ["event 1: its data is a number, not an object"], id="1E400"),
        pytest.param(b": a\n\n: b\n\ndata:\n\n" + STREAM, [], id="nothing in what keeps a connection alive"),
        pytest.param(
            STREAM + b"<html>\n\n", ["lines that are not part of an event stream"], id="a page behind the stream"
        ),
        pytest.param(
            STREAM.replace(b"Hel", b"H\xff"),
            [f"event 2: {NOT_UTF8}"],
            id="no UTF-8",
        ),
        pytest.param(
            STREAM.replace(b"chatcmpl-1", b"chatcmpl-2", 2).replace(b"chatcmpl-2", b"chatcmpl-1", 1),
            ["event 2: its id differs from that of the events before"],
            id="another id for one event",
        ),
        pytest.param(
            sse(*EVENTS[:3], chunk(choice(finish_reason="length")), *EVENTS[3:]),
            ['event 5: finish reason "stop" for choice 0, after "length"'],
            id="two finish reasons",
        ),
        pytest.param(
            sse(*EVENTS[:4], *(chunk(usage=USAGE | {"total_tokens": count}) for count in range(1, 8))),
            [],
            id="nothing in usage in every chunk",
        ),
        pytest.param(
            sse(*EVENTS[:4], chunk(usage={"total_tokens": 0}), chunk(usage={}), EVENTS[4]), [], id="empty usages"
        ),
        pytest.param(
            sse(
                chunk(choice(tool_calls=[function_call(0, id="a", name="f", arguments="{}")])),
                chunk(choice(tool_calls=[function_call(0, id="", arguments="")])),
                chunk(choice(tool_calls=[function_call(0, id="b", name="g", arguments="{}")])),
                chunk(choice(finish_reason="tool_calls")),
            ),
            ["event 3: a new id for a tool call at the same index"],
            id="a new call at the same index",
        ),
        pytest.param(
            sse(*EVENTS, {"error": {"message": "Overloaded", "code": 503}}),
            ["event 6: an error"],
            id="an error event",
        ),
        pytest.param(failed_response("server_error"), ["event 2: an error"], id="a failed response"),
        pytest.param(b' {"choices": []}', [], id="nothing in JSON"),
        pytest.param(
            sse(
                *(chunk(choice(content="\ufffd" * (number in (3, 5, 6, 7, 8, 9)))) for number in range(1, 11)), *EVENTS
            ),
            [f"events 3, 5, 6, 7, 8 and 1 more: {NOT_UTF8}"],
            id="an end to the numbers",
        ),
    ],
)
def test_odd_things_are_named_with_their_events(body: bytes, expected: list[str]) -> None:
    assert odd(body) == expected


def test_there_is_an_end_to_what_is_odd() -> None:
    body = sse(chunk(choice(finish_reason="stop")), *(chunk(choice(finish_reason=f"{n}")) for n in range(500)))
    assert len(odd(body)) == MOST_ODD


@given(st.lists(st.integers(1, len(STREAM) - 1), unique=True, max_size=9).map(sorted), st.integers(0, 3))
def test_the_first_content_is_at_the_same_time_in_the_figures(cuts: list[int], end: int) -> None:
    body = STREAM.replace(b"\n", (b"\n", b"\r\n", b"\r", b"\n")[end])
    times = [value for number, size in enumerate([*cuts, len(body)], 1) for value in (number * 1.0, size)]
    read = timeline.read(body, times)
    assert read.first_content is not None
    assert timeline.first_content(body, times) == read.first_content


def test_the_first_content_is_looked_for_near_the_begin_alone() -> None:
    late = event_of(b'{"n":1}') * 10_000 + STREAM
    assert timeline.first_content(late, [1.0, len(late)]) is None
    much = b":\n\n" * 500 + STREAM
    assert timeline.first_content(much, [1.0, len(much)]) is None
    assert timeline.first_content(STREAM, [1.0, 5]) is None, "times of another body"
    last = event_of(b'{"b64_json":"a"}').rstrip()
    assert timeline.first_content(last, [1.0, len(last)]) == 1.0, "an event without its blank line"
    assert timeline.first_content(STREAM[:-40][: STREAM.index(b"Hel") + 20], ()) is None


# What was said


@pytest.mark.parametrize(
    ("body", "endpoint", "said"),
    [
        pytest.param(STREAM, "", "Hello", id="the events say whose they are"),
        pytest.param(STREAM, "messages", "Hello", id="whatever the path says"),
        pytest.param(b"data: a\n\ndata: b\n\n", "transcriptions", "ab", id="the path does where the events do not"),
        pytest.param(STREAM[: STREAM.index(b"lo") + 2], "", "Hel", id="a stream that is cut off"),
        pytest.param(
            b"".join(event_of(b'{"choices":[{"delta":{"content":"%dx"}}]}' % n) for n in range(60_000)),
            "",
            "".join(f"{n}x" for n in range(60_000)),
            id="60,000 events",
        ),
    ],
)
def test_what_was_said_is_joined_from_the_beginning_on(body: bytes, endpoint: str, said: str) -> None:
    read = timeline.read(body, endpoint=endpoint)
    assert [each.text for each in read.said] == [said]
    assert read.looked_at < 100, "most of many events are not parsed"


def test_what_was_said_stops_where_events_are_left_out() -> None:
    heavy = event_of(b'{"a":[' + b"1," * MOST_WORK_IN_BLOCK + b"1]}")
    assert [each.text for each in timeline.read(STREAM[:-14] + heavy + STREAM).said] == ["Hello"]


# Bytes that mean harm


HOSTILE: dict[str, bytes] = {
    "one line": b"data: " + b"x" * 5_000_000,
    "one text": event_of(b'{"choices":[{"delta":{"content":"' + b"x" * 5_000_000 + b'"}}]}'),
    "line ends": b"\n" * 2_000_000,
    "line ends of another kind": b"\n\r" * 1_000_000,
    "lines without a blank one": b"a\n" * 1_000_000,
    "data lines without a blank one": b"data:1\n" * 500_000,
    "empty data lines": b"data:\n" * 500_000,
    "comments": b":\n\n" * 500_000,
    "tiny events": b"data:1\n\n" * 300_000,
    "tiny events, CR": b"data:1\r\r" * 300_000,
    "[DONE] without end": b"data:[DONE]\n\n" * 200_000,
    "nested too deeply": event_of(b"[" * 1_000_000) + event_of(b'{"a":' * 1_000_000),
    "nested deeply": event_of(b'{"error":' + b"[" * 900 + b"1" + b"]" * 900 + b"}") * 300,
    "nested deeply, objects": event_of(b'{"a":' * 900 + b"1" + b"}" * 900) * 300,
    "a huge number": event_of(b"1" * 1_000_000) + event_of(b'{"a":' + b"1" * 1_000_000 + b"}"),
    "a huge exponent": event_of(b'{"a":1e999999999,"b":-0,"c":-0.0}'),
    "numbers that need care": event_of(b'{"a":[' + b"-0," * 100_000 + b"0]}") + event_of(b'{"a":[-0,-0]}') * 50_000,
    "many members": event_of(b"{" + b",".join(b'"k%d":1' % number for number in range(300)) + b"}") * 500,
    "ever new members": b"".join(event_of(b'{"k%d":1}' % number) for number in range(50_000)),
    "many choices": event_of(b'{"choices":[' + b"{}," * 20_000 + b"{}]}") * 10,
    "long names": event_of(b'{"' + b"k" * 100_000 + b'":1}') * 20,
    "a long event name": b"event: " + b"x" * 1_000_000 + b"\ndata: {}\n\n",
    "indexes that are none": event_of(b'{"choices":[{"index":-1},{"index":true},{"index":1e9},{"index":"0"}]}'),
    "other types": event_of(b'{"choices":{"a":1},"usage":[],"response":1,"message":"","delta":[],"id":1,"model":{}}'),
    "half a surrogate pair": event_of(b'{"id":"\\ud800","choices":[{"delta":{"content":"\\udfff"}}]}'),
    "escape sequences": event_of(b'{"id":"\\u001b]0;x\\u0007","choices":[{"delta":{"content":"\x1b[2J\\u009b2J"}}]}')
    + b"event: \x1b[31m\ndata: \x1b[2J\n\n: \x1b[2J\n\n"
    + event_of('{"id":"a\u202eb\u2028c\u200b"}'.encode()),
    "binary": random.Random(1).randbytes(2_000_000),
    "null bytes": b"\0" * 1_000_000 + event_of(b'{"a":"\0"}'),
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in HOSTILE.items()])
def test_no_bytes_harm_the_view(body: bytes) -> None:
    assert_harmless(body, [0.1, len(body)])


@given(
    st.lists(
        st.sampled_from(
            [
                b"\n",
                b"\r",
                b"\n\n",
                b"data:",
                b"data: ",
                b": x",
                b"event: e",
                b"[DONE]",
                b"{",
                b"}",
                b'{"choices":[{}]}',
                b'{"usage":{"a":1}}',
                b"\xff",
                b"\x1b",
                b"\xef\xbb\xbf",
                b'{"error":[]}',
                b'{"id":"a"}',
                b'"',
                b"1",
                b"error:",
            ]
        ),
        max_size=60,
    ).map(b"".join)
    | st.binary(max_size=300),
    st.none() | st.lists(st.floats() | st.integers() | st.text() | st.none(), max_size=6),
)
def test_any_bytes_and_any_times_are_shown(body: bytes, times: Any) -> None:
    assert_harmless(body, times)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "usage", "tool_calls", "index", "id", "error", "response", "type"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(["choices", "delta", "usage", "error", "x_groq"]), JSON_VALUES)))
def test_chunks_of_any_shape_are_shown(chunks: list[dict[str, Any]]) -> None:
    assert_harmless(sse(*chunks))


# Long streams


def test_the_middle_of_a_long_stream_is_left_out_and_the_text_says_so() -> None:
    body = b"".join(event_of(b'{"n":%d}' % number) for number in range(1, SHOWN_FIRST + SHOWN_LAST + 801)) + DONE
    read = timeline.read(body)
    assert (read.events, read.unread) == (SHOWN_FIRST + SHOWN_LAST + 800, 0)
    lines = timeline_text.text(read, About()).splitlines()
    assert lines[-SHOWN_LAST - 1] == "  … 801 lines left out …"
    assert [line.split()[-1] for line in lines[-SHOWN_LAST - 2 : -SHOWN_LAST + 1]] == ["4000", "…", "4802"]
    assert [line.split() for line in lines[-2:]] == [["5000", "object", "n", "5000"], ["[DONE]"]]


def test_what_is_odd_in_the_part_that_is_left_out_is_named() -> None:
    ordinary = event_of(b'{"n":1}')
    body = ordinary * (SHOWN_FIRST + 99) + b"data: oops\n\n" + ordinary * 1_000
    assert odd(body) == ["event 4100: its data is not JSON"]


def test_of_a_very_long_stream_the_middle_is_not_looked_at_and_the_text_says_so() -> None:
    body = event_of(b'{"n":1}') * (MOST_BLOCKS + 10_000) + event_of(b'{"n":"last"}')
    read = timeline.read(body)
    assert (read.looked_at, read.unread) == (MOST_BLOCKS + SHOWN_LAST, 10_001 - SHOWN_LAST)
    assert read.events == read.entries[-1].number == MOST_BLOCKS + 10_001
    assert read.entries[-1].added == 'n "last"'
    assert read.odd == []
    text = timeline_text.text(read, About())
    assert "not looked at  about 9,801 events in the middle\n" in text
    assert f"  not looked at  events {MOST_BLOCKS + 1:,} to {MOST_BLOCKS + read.unread:,}\n" in text
    assert numbers_of(read) == list(range(1, read.events + 1))


def test_what_takes_time_is_bounded_by_more_than_the_number_of_events() -> None:
    heavy = event_of(b'{"a":[' + b"1," * 10_000 + b"1]}")
    read = timeline.read(heavy * 200)
    assert read.looked_at < 100
    assert read.events == 200
