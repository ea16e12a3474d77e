"""What is kept of a flow for the figures and the page."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.answer.report import Report
from force_stream.view import flow_record
from force_stream.view.stats import MOST_ARRIVALS
from harness.master import answer_with, flow_with
from harness.samples import STREAM
from mitmproxy import http

SPEC = AnswerSpec("r", "chat", "m")
LIMIT = 1024 * 1024
FIRST_TEXT = STREAM.index(b"\n\n", STREAM.index(b"Hel")) + 2
TIMES = [0.25, 5, 0.5, FIRST_TEXT, 1.5, len(STREAM)]


@dataclass
class Attempt:
    """What is asked of the one who saw the answer come."""

    report: Report = field(default_factory=Report)
    times: list[float] = field(default_factory=list)
    pieces: bytes = b""
    encoded: bool = False
    injected: dict[str, Any] = field(default_factory=dict)
    spec: AnswerSpec = SPEC
    ended: float = 2.5

    def body(self) -> bytes:
        return self.pieces


def answered(body: bytes = STREAM) -> http.HTTPFlow:
    flow = flow_with()
    answer_with(flow, body)
    flow.metadata["force_stream.times"] = TIMES
    return flow


def test_a_forced_flow_has_the_figures_of_its_answer_and_its_times() -> None:
    report = Report(events=5, bytes=len(STREAM), status=200, finish_reason="stop", odd=["no [DONE]"])
    outcome = flow_record.of_attempt(answered(), Attempt(report, TIMES, STREAM, injected={"cut_after": 3}))
    assert (outcome.upstream, outcome.rule, outcome.endpoint, outcome.model) == ("127.0.0.1:22", "r", "chat", "m")
    assert (outcome.status, outcome.events, outcome.bytes, outcome.finish_reason) == (200, 5, len(STREAM), "stop")
    assert (outcome.first_event, outcome.first_content, [*outcome.arrivals]) == (0.25, 0.5, [0.25, 0.5, 1.5])
    assert (outcome.ok, outcome.odd, outcome.injected) == (True, ("no [DONE]",), True)
    assert (outcome.ended, outcome.longest_gap, outcome.flow().response.status_code) == (2.5, 1.0, 200)
    assert outcome.weight >= len(STREAM)
    assert outcome.seconds >= 0


@pytest.mark.parametrize(
    ("notes", "came"),
    [
        ({"made_plain": True, "given": 4}, "sent plain, given as 4 events, 30 bytes"),
        ({"made_plain": True, "given": 0}, "sent plain, 30 bytes"),
        ({"given": 1}, "JSON given as 1 event, 30 bytes"),
        ({"made_plain": True}, "0 events, 30 bytes"),
    ],
)
def test_a_plain_answer_that_became_events_has_no_first_event(notes: dict[str, Any], came: str) -> None:
    flow = answered(b"data: {}\n\n")
    flow.metadata |= {f"force_stream.{name}": value for name, value in notes.items()}
    report = Report(bytes=30, status=200, finish_reason="stop")
    outcome = flow_record.of_attempt(flow, Attempt(report, [1.5, 10, 1.75, 30], b'{"choices": []}'))
    assert (outcome.first_event, outcome.first_content) == (None if "given" in notes else 1.5, None)
    assert (outcome.ok, outcome.first_byte, outcome.longest_gap, outcome.event_rate) == (True, 1.5, 0.75, None)
    assert outcome.came == came


def test_another_try_is_told_from_the_first() -> None:
    flow = answered()
    for notes, expected in (({}, ("", 1)), ({"force_stream.retry_of": "f-1", "force_stream.try": 2}, ("f-1", 2))):
        flow.metadata |= notes
        outcome = flow_record.of_attempt(flow, Attempt())
        assert (outcome.retry_of, outcome.number) == expected


def test_of_a_compressed_answer_the_first_content_is_not_known() -> None:
    outcome = flow_record.of_attempt(answered(), Attempt(Report(status=200), TIMES, STREAM, encoded=True))
    assert (outcome.first_event, outcome.first_content) == (0.25, None)


def test_many_arrivals_are_thinned() -> None:
    times = [value for number in range(3 * MOST_ARRIVALS) for value in (number / 1000, number)]
    assert len(flow_record.of_attempt(answered(), Attempt(times=times)).arrivals) <= MOST_ARRIVALS


def test_a_flow_without_an_answer_has_no_status_and_says_why() -> None:
    flow, why = flow_with(), "the client gave up after 30.0 s"
    seen = Report(events=2, bytes=10, code="client_gone", cause=why, odd=["no [DONE]"])
    outcome = flow_record.of_attempt(flow, Attempt(seen, times=[0.5, 10]))
    assert (outcome.status, outcome.code, outcome.cause, outcome.ok) == (0, "client_gone", why, False)
    assert (outcome.events, outcome.bytes, outcome.odd, outcome.first_event) == (2, 10, ("no [DONE]",), 0.5)


def test_a_clients_own_stream_is_read_from_what_was_kept_of_it() -> None:
    outcome = flow_record.of_own_stream(answered(), SPEC, LIMIT)
    assert (outcome.events, outcome.finish_reason, outcome.ok, outcome.first_content) == (5, "stop", True, 0.5)
    cut = flow_record.of_own_stream(answered(STREAM[:300]), SPEC, LIMIT, "connection reset")
    assert (cut.status, cut.truncated, cut.ok) == (200, True, False)
    boom = b'data: {"error": {"message": "boom", "code": "dead"}}\n\n'
    broken = flow_record.of_own_stream(answered(boom), SPEC, LIMIT)
    assert (broken.status, broken.code, broken.ok) == (200, "dead", False)


def test_a_credential_that_an_error_in_a_clients_own_stream_quotes_is_not_shown() -> None:
    secret = "sk-" + "Xy7" * 10
    said = '{"error": {"message": "bad key KEY", "code": "KEY"}}'.replace("KEY", secret)
    flow = answered(f"data: {said}\n\n".encode())
    flow.request.headers["authorization"] = f"Bearer {secret}"
    outcome = flow_record.of_own_stream(flow, SPEC, LIMIT)
    assert (outcome.code, "***" in outcome.cause) == ("***", True)
    assert secret not in repr(outcome)


def test_of_a_clients_own_compressed_stream_the_first_content_is_not_known() -> None:
    flow = answered()
    assert flow.response is not None
    flow.response.headers["content-encoding"] = "identity"
    assert flow_record.of_own_stream(flow, SPEC, LIMIT).first_content is None


def test_an_ipv6_upstream_is_named_in_brackets() -> None:
    flow = answered()
    flow.request.host, flow.request.headers["host"] = "::1", "[::1]:22"
    flow.client_conn.sni = None
    assert flow_record.of_attempt(flow, Attempt()).upstream == "[::1]:22"


def test_of_the_upstreams_head_only_what_explains_an_answer_is_shown() -> None:
    flow = answered()
    flow.metadata["force_stream.head"] = [
        ["Content-Type", b"text/html"],
        ["Retry-After", b"20"],
        ["Retry-After-Ms", b"19500"],
        ["X-Request-Id", b"req-\x1b1"],
        ["Set-Cookie", b"a=b"],
        ["Server", b"nginx"],
    ]
    assert flow_record.head_of(flow) == (
        ("content-type", "text/html"),
        ("retry-after", "20"),
        ("retry-after-ms", "19500"),
        ("x-request-id", "req-\\x1b1"),
    )


def test_without_a_note_the_head_is_the_responses_own() -> None:
    flow = answered()
    assert ("content-type", "text/event-stream") in flow_record.head_of(flow)
    flow.response = None
    assert flow_record.head_of(flow) == ()
