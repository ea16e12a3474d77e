"""A timeline in lines of text: the header with the cause first, what was odd, a line an entry."""

from typing import Any

import pytest
from force_stream.view import timeline, timeline_text
from force_stream.view.timeline_text import About
from harness import sse
from harness.samples import EVENTS, STREAM

DONE = b"data: [DONE]\n\n"


def show(body: bytes, times: object = None, **about: Any) -> str:
    return timeline_text.text(timeline.read(body, times), About(**about))


def test_a_long_silence_stands_out() -> None:
    first = STREAM.index(b"\n\n") + 2
    text = show(STREAM, [0.1, first, 3.35, len(STREAM)])
    (line,) = [line for line in text.splitlines() if line.startswith("!")]
    assert line.split()[:5] == ["!", "2", "3.350", "+3.250", "chunk"]
    assert "[after 3.2 s of silence] choices[0]" in line
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
    assert [entry.at for entry in timeline.read(STREAM, times).first] == [None] * 6
    text = show(STREAM, times)
    assert "times          not recorded" in text
    assert "chunk   choices[0].delta.content" in " ".join(text.splitlines()[-5].split(maxsplit=1)[1:])


def test_the_header_has_the_figures() -> None:
    times: list[float] = []
    size = 0
    for number, event in enumerate(STREAM.split(b"\n\n")[:-1]):
        size += len(event) + 2
        times += [0.5 + 0.25 * number, size]
    text = show(STREAM, times, rule="private-vllm", endpoint="chat", model="m", status="200")
    assert text.split("\n \n")[0].splitlines() == [
        "rule           private-vllm",
        "endpoint       chat",
        "model          m (events say m-1)",
        "status         200",
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
        pytest.param(b' {"a": []}', {}, 'body           JSON, not an event stream: " {\\"a\\": []}"', id="JSON"),
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


def test_the_cause_of_a_failure_comes_first() -> None:
    lines = show(STREAM, rule="r", truncated=True, error="stream_truncated", status="502").splitlines()
    assert lines[:3] == [
        "truncated      cut off after event 5",
        "client got     an error: stream_truncated",
        "rule           r",
    ]


@pytest.mark.parametrize(("encoding", "why"), [("", ""), ("gzip", " (gzip)")])
def test_a_stream_that_was_compressed_has_no_time_per_event(encoding: str, why: str) -> None:
    text = show(STREAM, [0.5, 100, 2.0, 200], encoding=encoding)
    assert f"times          no time per event: the upstream compressed its stream{why}\n" in text
    assert "first event    unknown\n" in text
    assert "end            2.000 s\n" in text


def test_escape_sequences_are_shown_as_text() -> None:
    data = '{"id":"a\u202eb\u2028c\u200b","choices":[{"delta":{"content":"\x1b[2J\\u009b2J"}}]}'
    text = show(f"event: \x1b[31m\ndata: {data}\n\n: \x1b[2J\n\n".encode(), model="\x1b[1m")
    assert all(line.isprintable() for line in text.split("\n"))
    for shown in (r"\x1b[31m", r"\x1b[2J\x9b2J", r"a\u202eb\u2028c\u200b", r"comment  ", r"\x1b[1m"):
        assert shown in text
