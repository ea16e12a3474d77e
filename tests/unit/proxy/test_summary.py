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
from mitmproxy.flow import Error

INFERRED = sse(chunk(choice(content="Hi")), done=True)
FAILED = b'data: {"error": {"message": "no", "code": 429}}\n\n'


def answered(
    body: bytes, on_truncated: str = "error", rule: Rule = UNLIMITED, cut: str = ""
) -> tuple[http.HTTPFlow, Attempt]:
    flow = flow_with()
    answer_with(flow)
    flow.request.timestamp_end, flow.live = 1000.0, False
    assert flow.response is not None
    flow.response.timestamp_end = 1001.26
    attempt = Attempt(AnswerSpec("r", "chat", "m", on_truncated=on_truncated), rule)
    attempt.injected = rule.inject
    attempt.start_response(200, "text/event-stream")
    attempt.receive(body)
    if cut:
        attempt.cut(cut)
    attempt.end()
    attempt.finish()
    return flow, attempt


# What came, how the rule reads it, the cause, and the figures.
SAID: dict[str, tuple[bytes, dict[str, Any], str, str]] = {
    "an answer": (STREAM, {}, "", "200, finish stop, 5 events, 855 bytes, 3 in + 2 out tokens, 1.3 s"),
    "inferred": (
        INFERRED,
        {},
        "odd: no finish reason for choice 0",
        f"200, finish stop (inferred), 1 event, {len(INFERRED)} bytes, 1.3 s",
    ),
    "an error": (
        FAILED,
        {},
        'rate limited by the upstream (429): "no"',
        "429, upstream_error, 1 event, 49 bytes, 1.3 s; odd: event 1: an error",
    ),
    "an error with a code of the upstream's": (
        FAILED.replace(b'"code": 429', b'"code": "slow_down", "status": 429'),
        {},
        'rate limited by the upstream (429, slow_down): "no"',
        "429, slow_down, 1 event, 72 bytes, 1.3 s; odd: event 1: an error",
    ),
    "cut off": (
        sse(*EVENTS[:2], done=False),
        {},
        "cut off after event 2 (the upstream ended it)",
        "502, stream_truncated, 2 events, 348 bytes, 1.3 s; odd: no finish reason for choice 0; no [DONE]",
    ),
    "counts of thousands of digits": (
        sse(*EVENTS[:-1], chunk(usage={"prompt_tokens": 10**3000, "completion_tokens": True})),
        {},
        "",
        f"200, finish stop, 5 events, 3,841 bytes, 1{'0' * 19}… in tokens, 1.3 s",
    ),
    "in part": (
        sse(*EVENTS[:2], done=False),
        {"on_truncated": "partial"},
        "cut off after event 2 (the upstream ended it)",
        "200, finish length (inferred), truncated, 2 events, 348 bytes, 1.3 s; odd: no finish reason for choice 0; "
        "no [DONE]",
    ),
    "a fault made on purpose": (
        STREAM,
        {"rule": Rule("r", ("h",), inject={"stall": 1})},
        "",
        "200, FAULT INJECTED, finish stop, 5 events, 855 bytes, 3 in + 2 out tokens, 1.3 s",
    ),
}


@pytest.mark.parametrize(("body", "keys", "cause", "line"), SAID.values(), ids=list(SAID))
def test_one_line_says_what_came_of_a_flow_the_cause_first(
    body: bytes, keys: dict[str, Any], cause: str, line: str
) -> None:
    flow, attempt = answered(body, **keys)
    first = f"{cause}; " if cause else ""
    assert summarize(flow, attempt) == f"{first}r: chat m, {line}"
    assert bool(flow.marked) is (bool(cause) or "INJECTED" in line)
    figures = [part for part in line.split(", ") if part.endswith(("event", "events", "bytes", "tokens"))]
    assert flow.comment == f"{first}r: chat m, {', '.join(part for part in line.split(', ') if part not in figures)}"
    assert (flow.metadata["force_stream.cause"], attempt.report.cause) == (cause, cause)


def test_a_credential_that_an_upstream_quotes_is_not_said_even_in_part() -> None:
    secret = "sk-" + "Xy7" * 40
    said = f'"bad key {secret}", "type": "{secret}"'
    flow, attempt = answered(FAILED.replace(b'"no"', said.encode()))
    flow.request.headers["authorization"] = f"Bearer {secret}"
    line = summarize(flow, attempt)
    assert line.startswith('rate limited by the upstream (429, ***…): "bad key ***…"; ')
    assert flow.metadata["force_stream.error"] == "***…"
    assert "Xy7" not in f"{line}{flow.comment}{flow.metadata['force_stream.cause']}"


def test_a_credential_in_a_broken_head_is_not_said() -> None:
    secret = "sk-" + "Xy7" * 10
    broken = f"http/1 protocol error: Invalid header: b'x-key {secret}'"
    flow, attempt = answered(STREAM)
    flow.request.headers["authorization"] = f"Bearer {secret}"
    line = describe_error(flow, attempt, broken, gone=False)
    assert line.startswith("no answer: Invalid header: b'x-key ***'; ")
    assert secret not in f"{line}{flow.comment}{flow.metadata['force_stream.cause']}"
    flow, attempt = answered(STREAM[:100], cut=broken)
    flow.request.headers["authorization"] = f"Bearer {secret}"
    assert "cut off" in summarize(flow, attempt)
    assert flow.metadata["force_stream.cut_by"] == "Invalid header: b'x-key ***'"


def test_a_credential_that_is_not_the_requests_own_is_masked_too() -> None:
    said = b'{"error": {"message": "Incorrect API key provided: sk-secret-abc", "code": "invalid_api_key"}}'
    flow, attempt = answered(b"data: " + said + b"\n\n")
    line = summarize(flow, attempt)
    assert '(401, invalid_api_key): "Incorrect API key provided: ***"; ' in line
    assert "sk-secret" not in line + flow.comment + str(flow.metadata)


def test_the_line_of_another_try_says_which_one_it_is() -> None:
    flow, attempt = answered(STREAM)
    flow.metadata["force_stream.try"] = 2
    assert summarize(flow, attempt).endswith(", 1.3 s, try 2")
    assert not flow.comment.endswith("try 2"), "a filter for it finds those whose clients got the answer of another try"
    assert describe_as_it_is(flow, attempt, "sent plain").endswith(", 200, sent plain, 1.3 s, try 2")
    assert describe_error(flow, attempt, "reset", gone=False).endswith(", 1.3 s, try 2")


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


def test_a_saved_flow_whose_client_gave_up_lasted_until_then() -> None:
    flow, attempt = answered(STREAM)
    assert flow.response is not None
    flow.response.timestamp_end, flow.error = None, Error("Client disconnected.", 1002.5)
    assert summarize(flow, attempt, from_kept=True).endswith(", 2.5 s")


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("started", [True, False])
def test_a_flow_without_an_answer_says_why_and_keeps_what_came(started: bool, gone: bool) -> None:
    flow, attempt = answered(STREAM) if started else (flow_with(), Attempt(AnswerSpec("r", "chat", "m"), UNLIMITED))
    if started:
        assert flow.response is not None
        flow.response.raw_content = None
    line = describe_error(flow, attempt, "server closed connection", gone=gone)
    where = "0.0 s after event 5" if started else "before the upstream's response"
    cause = f"the client gave up after 0.0 s, {where}" if gone else "no answer: connection closed"
    assert line.startswith(f"{cause}; r: chat m, ")
    assert flow.comment == f"{cause}; r: chat m"
    assert flow.marked
    notes = {key.removeprefix("force_stream."): value for key, value in flow.metadata.items()}
    assert (notes["error"], notes["cause"]) == ("client_gone" if gone else "no_answer", cause)
    assert notes.get("sse") == (STREAM if started else None)
    if started:
        assert flow.response is not None
        assert flow.response.raw_content == STREAM


def test_a_plain_answer_that_is_an_error_has_its_cause_first() -> None:
    flow, attempt = answered(STREAM)
    assert flow.response is not None
    flow.response.status_code = 429
    flow.response.headers["retry-after"] = "20"
    flow.response.raw_content = b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'
    line = describe_as_it_is(flow, attempt, "sent plain")
    cause = 'rate limited by the upstream (429, rate_limit_exceeded, retry after 20 s): "slow down"'
    assert line == f"{cause}; r: chat m, 429, sent plain, 1.3 s"
