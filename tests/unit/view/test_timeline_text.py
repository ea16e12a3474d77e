"""A timeline in lines of text: the header with the cause first, what was odd, a line an entry."""

from typing import Any

import pytest
from force_stream.view import timeline, timeline_text
from force_stream.view.joined import Said
from force_stream.view.timeline_text import MOST_SAID, SAID_FIRST, SAID_LAST, WIDTH, About
from harness import sse
from harness.samples import EVENTS, STREAM, choice, chunk

DONE = b"data: [DONE]\n\n"


def show(body: bytes, times: object = None, **about: Any) -> str:
    return timeline_text.text(timeline.read(body, times), About(**about))


def test_a_long_silence_stands_out() -> None:
    first = STREAM.index(b"\n\n") + 2
    text = show(STREAM, [0.1, first, 3.35, len(STREAM)])
    (line,) = [line for line in text.splitlines() if line.startswith("!")]
    assert line.split()[:5] == ["!", "2", "3.350", "+3.250", "chunk"]
    assert '[after 3.2 s of silence] content +"Hel"' in line
    assert "longest gap    3.250 s, from 0.100 to 3.350 s" in text
    assert "Nothing odd." in text, "a silence is no one's words, and the log has none"


@pytest.mark.parametrize("piece", [b": alive\n\n", b"event: ping\n\n", DONE], ids=["comment", "no data", "[DONE]"])
def test_a_silence_before_what_is_no_event_stands_out_too(piece: bytes) -> None:
    body = b'data: {"a":1}\n\n' + piece
    assert show(body, [0.1, 15, 2.0, len(body)]).splitlines()[-1].startswith("! ")


@pytest.mark.parametrize(
    "times",
    [None, [], [1.0], "times", [0.1, "x"], [float("nan"), 5], [float("inf"), 5], [10**400, 5], [[1], [2]], {1: 2}],
    ids=repr,
)
def test_without_times_the_columns_are_blank(times: object) -> None:
    assert [entry.at for entry in timeline.read(STREAM, times).entries] == [None] * 6
    text = show(STREAM, times)
    assert "times          not recorded" in text
    assert "chunk   content +" in " ".join(text.splitlines()[-5].split(maxsplit=1)[1:])


def test_the_header_has_the_figures() -> None:
    times: list[float] = []
    size = 0
    for number, event in enumerate(STREAM.split(b"\n\n")[:-1]):
        size += len(event) + 2
        times += [0.5 + 0.25 * number, size]
    head = (("content-type", "text/event-stream"), ("x-request-id", "req_1"))
    text = show(STREAM, times, rule="private-vllm", endpoint="chat", model="m", status="200", head=head)
    assert text.split("\n \n")[0].splitlines() == [
        'text           "Hello"',
        "rule           private-vllm",
        "endpoint       chat",
        "model          m (events say m-1)",
        "status         200",
        "content-type   text/event-stream",
        "x-request-id   req_1",
        "first event    0.500 s",
        "first content  0.750 s",
        "end            1.750 s",
        "longest gap    0.250 s, from 0.500 to 0.750 s",
        "events         5, then [DONE]",
        f"bytes          {len(STREAM)}",
        "finish reason  stop",
        "usage          {prompt_tokens 3, completion_tokens 2, total_tokens 5}",
        "speed          2.0 tokens/s after the first content",
    ]
    assert "Nothing odd." in text


def test_a_long_document_is_shown_as_far_as_a_person_reads() -> None:
    body = b'{"text":"' + b"x" * timeline.MOST_SHOWN + b'"}'
    text = show(body, direction="sent plain, given as 3 events")
    assert "sent plain, given as 3 events" in text
    assert text.endswith("\n… 11 bytes more\n")
    assert len(text) < 4_000
    many = timeline_text.text(timeline.read(b"[" + b"1," * 6_000 + b"1]", plain=True), About())
    assert many.splitlines()[-1] == f"… {6_003 - timeline_text.SHOWN_FIRST:,} lines more"


@pytest.mark.parametrize(
    ("body", "heading"),
    [(b"", "Nothing came."), (b"{}", "The document:"), (b"<html>", "What came:"), (b"data: {}\n\n", "What came:")],
)
def test_what_came_in_place_of_an_answer_is_shown_as_it_is(body: bytes, heading: str) -> None:
    text = timeline_text.text(timeline.read(body, plain=True), About(direction="sent plain"))
    assert heading in text.splitlines()
    assert "0 events" not in text
    assert not [line for line in text.splitlines() if line.startswith("events")]


def test_what_is_odd_is_said_by_the_one_who_read_the_whole_stream_and_by_nobody_else() -> None:
    text = show(b"data: {oops\n\n" + STREAM, odd=["event 9: its data is not JSON", "slow"])
    assert text[text.index("Odd:") :].splitlines()[1:4] == ["  - event 9: its data is not JSON", "  - slow", " "]


@pytest.mark.parametrize(
    ("body", "about", "line"),
    [
        pytest.param(b": a\n\n" + STREAM, {}, "comments       1 comment line (usually a keep-alive)", id="a comment"),
        pytest.param(
            b": a\n: b\n\n" + STREAM, {}, "comments       2 comment lines (usually keep-alives)", id="comments"
        ),
        pytest.param(b"data:\n\n" + STREAM, {}, "without data   1 event", id="no data"),
        pytest.param(b"data:\n\n" * 2 + STREAM, {}, "without data   2 events", id="no data twice"),
        pytest.param(STREAM, {"model": "m-1"}, "model          m-1", id="the model that was asked for"),
        pytest.param(b"data: {}\n\n", {"model": "m"}, "model          m", id="no event names a model"),
        pytest.param(
            sse(*EVENTS, EVENTS[-1]),
            {},
            "usage          {prompt_tokens 3, completion_tokens 2, total_tokens 5} (in 2 events; the last counts)",
            id="usage twice",
        ),
        pytest.param(b' {"a": []}', {}, "body           JSON, not an event stream", id="JSON"),
        pytest.param(STREAM, {"truncated": True}, "truncated      cut off after event 5", id="truncated"),
        pytest.param(b"", {"truncated": True}, "truncated      cut off before the first event", id="truncated at once"),
        pytest.param(STREAM, {"error": "x"}, "client got     an error: x", id="an error"),
        pytest.param(
            STREAM, {"kept": 1000}, "kept           only the first 1,000 bytes of what the client got", id="kept"
        ),
    ],
)
def test_what_the_view_alone_knows_is_in_the_header(body: bytes, about: dict[str, Any], line: str) -> None:
    assert line in show(body, **about).split("\n \n")[0].splitlines()


def test_the_cause_of_a_failure_comes_first_and_then_what_was_said() -> None:
    about = {"rule": "r", "truncated": True, "error": "stream_truncated", "status": "502"}
    assert show(STREAM, **about).splitlines()[:4] == [
        "truncated      cut off after event 5",
        "client got     an error: stream_truncated",
        'text           "Hello"',
        "rule           r",
    ]
    assert show(STREAM, cause="cut off after event 5 (connection reset)", **about).splitlines()[:3] == [
        "cause          cut off after event 5 (connection reset)",
        "client got     an error: stream_truncated",
        'text           "Hello"',
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param(
            [Said("reasoning", "Hm."), Said("text", 'She said "no".\n\n  - a\n\tb'), Said("refusal", "No.")],
            [
                'reasoning      "Hm."',
                'text           "She said "no".',
                "                ",
                "                 - a",
                '                   b"',
                'refusal        "No."',
            ],
            id="line by line",
        ),
        pytest.param(
            [Said("call", '{"city":"Graz"}', "weather"), Said("call", "", "now")],
            ['call           weather({"city":"Graz"})', "call           now()"],
            id="calls",
        ),
        pytest.param(
            [Said("text", "a", choice=0), Said("text", "b", choice=1)],
            ['text [0]       "a"', 'text [1]       "b"'],
            id="choices",
        ),
        pytest.param(
            [Said("text", "word " * 20)],
            [f'text           "{"word " * 15}word', '               word word word word " (100 characters)'],
            id="a text that is longer than a line",
        ),
        pytest.param(
            [Said("text", "\u05d0\u05d1\u202e\x1b[2J\r\nb\u2028c\u200b")],
            ['text           "\u05d0\u05d1\\u202e\\x1b[2J', '               b\\u2028c\\u200b"'],
            id="what a terminal would obey",
        ),
        pytest.param(
            [Said("call", "{}", "f")] * (MOST_SAID + 2),
            ["call           f({})"] * MOST_SAID + ["and            2 more"],
            id="very many",
        ),
    ],
)
def test_what_was_said_is_at_the_head(said: list[Said], expected: list[str]) -> None:
    read = timeline.read(STREAM)
    read.said = said
    lines = timeline_text.text(read, About(rule="r")).splitlines()
    assert [line.rstrip() for line in lines[: lines.index("rule           r")]] == [line.rstrip() for line in expected]
    assert all(lines[: lines.index("rule           r")]), "mitmweb gives an empty line no height"


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "one word " * 100_000, "\n" * 500_000, "\x1b" * 100_000, "\t" * 90_000]
)
def test_of_a_long_text_there_are_the_beginning_and_the_end_and_its_length(text: str) -> None:
    read = timeline.read(STREAM)
    read.said = [Said("text", text)]
    lines = timeline_text.text(read, About(rule="r")).splitlines()
    said = lines[: lines.index("rule           r")]
    assert len(said) <= SAID_FIRST + SAID_LAST + 1
    assert said[-1].endswith(f'" ({len(text):,} characters)')
    assert "               …" in said
    assert max(map(len, said)) < WIDTH + 50


def test_events_that_became_one_are_a_line() -> None:
    body = sse(*(chunk(choice(content=f"w{number}")) for number in range(1000, 3000)))
    sizes = [(number + 1) * (body.index(b"\n\n") + 2) for number in range(2000)]
    times = [value for number, size in enumerate(sizes) for value in (number / 40, size)]
    rows = show(body, [*times, 50.0, len(body)]).splitlines()[-8:]
    expected = ", ".join(f"w{number}" for number in range(1003, 1019)).replace(", ", "")[:80]
    assert rows == [
        '      1     0.000            chunk   content +"w1000"',
        '      2     0.025    +0.025  chunk   content +"w1001"',
        '      3     0.050    +0.025  chunk   content +"w1002"',
        "            0.075    +0.025  chunk   events 4 to 1,997: content +9,970 characters, 40 events/s: "
        f'"{expected}"…',
        '   1998    49.925    +0.025  chunk   content +"w2997"',
        '   1999    49.950    +0.025  chunk   content +"w2998"',
        '   2000    49.975    +0.025  chunk   content +"w2999"',
        "           50.000    +0.025  [DONE]",
    ]


def test_a_silence_at_the_end_has_a_line_of_its_own() -> None:
    times = [0.1, len(STREAM)]
    read = timeline.read(STREAM, times, ended=5.2)
    text = timeline_text.text(read, About(end="cut off: connection reset"))
    assert (
        text.splitlines()[-1]
        == f"!{'5.200':>16}{'+5.100':>10}          [5.1 s of silence, then cut off: connection reset]"
    )
    assert "end            5.200 s\nlongest gap    5.100 s, from 0.100 to 5.200 s\n" in text
    assert "silence" not in timeline_text.text(timeline.read(STREAM, times, ended=0.9), About())


@pytest.mark.parametrize(("encoding", "why"), [("", ""), ("gzip", " (gzip)")])
def test_a_stream_that_was_compressed_has_no_time_per_event(encoding: str, why: str) -> None:
    text = show(STREAM, [0.5, 100, 2.0, 200], encoding=encoding)
    assert f"times          no time per event: the upstream compressed its stream{why}\n" in text
    assert "first event    unknown\n" in text
    assert "end            2.000 s\n" in text


def test_escape_sequences_are_shown_as_text() -> None:
    data = '{"note":"a\u202eb\u2028c\u200b","choices":[{"delta":{"content":"\x1b[2J\\u009b2J"}}]}'
    text = show(f"event: \x1b[31m\ndata: {data}\n\n: \x1b[2J\n\n".encode(), model="\x1b[1m")
    assert all(line.isprintable() for line in text.split("\n"))
    for shown in (r"\x1b[31m", r"\x1b[2J\x9b2J", r"a\u202eb\u2028c\u200b", r"comment  ", r"\x1b[1m"):
        assert shown in text
