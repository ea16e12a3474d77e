"""What is said of a flow, in the log, in its comment and on it."""

from typing import Any

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.summary import describe_as_it_is, describe_error, summarize
from force_stream.rules.rule import UNLIMITED, Rule
from harness.master import answer_with, flow_with
from harness.samples import EVENTS, STREAM, choice, chunk
from harness.steps import sse
from mitmproxy import http

INFERRED = sse(chunk(choice(content="Hi")), done=True)
FAILED = b'data: {"error": {"message": "no", "code": 429}}\n\n'


def answered(body: bytes, on_truncated: str = "error", rule: Rule = UNLIMITED) -> tuple[http.HTTPFlow, Attempt]:
    flow = flow_with()
    answer_with(flow)
    flow.request.timestamp_end, flow.live = 1000.0, False
    assert flow.response is not None
    flow.response.timestamp_end = 1001.26
    attempt = Attempt(AnswerSpec("r", "chat", "m", on_truncated=on_truncated), rule)
    attempt.injected = rule.inject
    attempt.start_response(200, "text/event-stream")
    attempt.receive(body)
    attempt.end()
    attempt.finish()
    return flow, attempt


SAID: dict[str, tuple[bytes, dict[str, Any], str, bool]] = {
    "an answer": (STREAM, {}, "200, finish stop, 5 events, 855 bytes, 3 in + 2 out tokens, 1.3 s", False),
    "inferred": (
        INFERRED,
        {},
        f"200, finish stop (inferred), 1 event, {len(INFERRED)} bytes, 1.3 s; odd: no finish reason for choice 0",
        True,
    ),
    "an error": (FAILED, {}, "429, upstream_error, 1 event, 49 bytes, 1.3 s; odd: event 1: an error", True),
    "cut off": (
        sse(*EVENTS[:2], done=False),
        {},
        "502, stream_truncated, 2 events, 348 bytes, 1.3 s; odd: no finish reason for choice 0; no [DONE]",
        True,
    ),
    "counts of thousands of digits": (
        sse(*EVENTS[:-1], chunk(usage={"prompt_tokens": 10**3000, "completion_tokens": True})),
        {},
        f"200, finish stop, 5 events, 3,841 bytes, 1{'0' * 19}… in tokens, 1.3 s",
        False,
    ),
    "in part": (
        sse(*EVENTS[:2], done=False),
        {"on_truncated": "partial"},
        "200, finish length (inferred), truncated, 2 events, 348 bytes, 1.3 s; odd: no finish reason for choice 0; "
        "no [DONE]",
        True,
    ),
    "a fault made on purpose": (
        STREAM,
        {"rule": Rule("r", ("h",), inject={"stall": 1})},
        "200, FAULT INJECTED, finish stop, 5 events, 855 bytes, 3 in + 2 out tokens, 1.3 s",
        True,
    ),
}


@pytest.mark.parametrize(("body", "keys", "line", "marked"), SAID.values(), ids=list(SAID))
def test_one_line_says_what_came_of_a_flow(body: bytes, keys: dict[str, Any], line: str, marked: bool) -> None:
    flow, attempt = answered(body, **keys)
    assert summarize(flow, attempt) == f"r: chat m, {line}"
    assert bool(flow.marked) is marked
    figures = [part for part in line.split(", ") if part.endswith(("event", "events", "bytes", "tokens"))]
    assert flow.comment == f"r: chat m, {', '.join(part for part in line.split(', ') if part not in figures)}"


def test_the_line_of_another_try_says_which_one_it_is() -> None:
    flow, attempt = answered(STREAM)
    flow.metadata["force_stream.try"] = 2
    assert summarize(flow, attempt).endswith(", 1.3 s, try 2")
    assert not flow.comment.endswith("try 2"), "a filter for it finds those whose clients got the answer of another try"
    assert describe_as_it_is(flow, attempt, "sent plain").endswith(", 200, sent plain, 1.3 s, try 2")
    assert describe_error(flow, attempt, "reset").endswith(", 1.3 s, try 2")


def test_the_figures_are_noted_on_the_flow() -> None:
    flow, attempt = answered(STREAM)
    summarize(flow, attempt)
    notes = {key.removeprefix("force_stream."): value for key, value in flow.metadata.items()}
    assert {key: notes[key] for key in ("status", "events", "bytes", "finish_reason", "inferred", "error", "odd")} == {
        "status": 200,
        "events": 5,
        "bytes": len(STREAM),
        "finish_reason": "stop",
        "inferred": False,
        "error": "",
        "odd": [],
    }
    assert notes["times"] == attempt.times
    assert '"total_tokens":5' in notes["usage"].replace(" ", "")


def test_aggregating_again_keeps_the_times_and_a_persons_mark() -> None:
    flow, attempt = answered(FAILED)
    flow.metadata["force_stream.times"] = [1.5, 49]
    flow.marked = ":grapes:"
    summarize(flow, attempt, from_kept=True)
    assert (flow.metadata["force_stream.times"], flow.marked) == ([1.5, 49], ":grapes:")


@pytest.mark.parametrize("started", [True, False])
def test_a_flow_without_an_answer_says_so_and_keeps_what_came(started: bool) -> None:
    flow, attempt = answered(STREAM) if started else (flow_with(), Attempt(AnswerSpec("r", "chat", "m"), UNLIMITED))
    assert describe_error(flow, attempt, "the client left").startswith("r: chat m, no answer: the client left, ")
    assert flow.comment == "r: chat m, no answer"
    assert flow.marked
    notes = {key.removeprefix("force_stream."): value for key, value in flow.metadata.items()}
    assert notes["error"] == "no_answer"
    assert notes.get("sse") == (STREAM if started else None)
