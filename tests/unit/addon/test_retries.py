"""When another attempt is made for a client, and what it then gets; what comes and how long pauses are, a test says."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from force_stream.addon import retries
from force_stream.addon.retries import Retries
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.notes import save_notes
from force_stream.rules.rule import Rule
from harness.clock import Clock
from harness.master import answer_with, flow_with, lines
from harness.samples import EVENTS, STREAM
from harness.steps import sse
from mitmproxy import ctx, http
from mitmproxy.test import taddons

CUT = sse(*EVENTS[:2], done=False)
REFUSAL = b'{"error": {"message": "Stream must be set to true"}}'


class Upstream:
    """Answers attempt after attempt: a status, or the beginning of a stream that is cut off, or a whole one."""

    def __init__(self, clock: Clock, *answers: int | bytes) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.asked: list[http.HTTPFlow] = []
        self.pauses: list[float] = []
        self.during_pause: Callable[[], None] = lambda: None

    async def send(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        self.asked.append(flow)
        self.answer(flow, attempt)

    def answer(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        said = self.answers.pop(0)
        status, body = (200, said) if isinstance(said, bytes) else (said, b"{}")
        answer_with(flow, body, "text/event-stream" if isinstance(said, bytes) else "application/json", status)
        attempt.start_response(status, "")
        attempt.receive(body)
        if said == CUT:
            attempt.cut("reset")
        attempt.end()
        attempt.finish()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(round(seconds * 1000))
        self.during_pause()


@pytest.fixture
def retry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Upstream, http.HTTPFlow]]:
    """`retry(answers, ...)`: the upstream and the first flow, once its request was tried as often as it may be."""
    monkeypatch.setattr(retries, "delay", lambda number, _: float(number))

    def retry(*answers: int | bytes, prepare: Any = None, **keys: Any) -> tuple[Upstream, http.HTTPFlow]:
        clock, flow = Clock(), flow_with()
        rule = Rule("r", ("h",), **({"retries": 2} | keys))
        upstream = Upstream(clock, *answers)
        monkeypatch.setattr(retries, "asyncio", upstream)
        monkeypatch.setattr(retries, "Attempt", lambda *a, **k: Attempt(*a, clock=clock, **k))
        attempt = Attempt(AnswerSpec("r", "chat"), rule, clock=clock)
        wait = ClientWait(rule, attempt, clock)
        upstream.answer(flow, attempt)
        if prepare is not None:
            prepare(upstream, wait)

        async def inside() -> None:
            with taddons.context() as context:
                context.options.add_option("force_stream", bool, True, "")
                await Retries(upstream.send).retry(flow, attempt, wait)

        asyncio.run(inside())
        return upstream, flow

    return retry


def leave(upstream: Upstream, wait: ClientWait) -> None:
    upstream.during_pause = wait.leave


def switch_off(upstream: Upstream, wait: ClientWait) -> None:
    upstream.during_pause = lambda: setattr(ctx.options, "force_stream", False)


def commit(upstream: Upstream, wait: ClientWait) -> None:
    wait.headers_sent = True


# What the upstream answers, how often it was asked again, the pauses, and the last status.
CASES: dict[str, tuple[list[int | bytes], dict[str, Any], list[float], int]] = {
    "a success": ([STREAM], {}, [], 200),
    "a failure that passes": ([503, STREAM], {}, [1], 200),
    "twice": ([503, CUT, STREAM], {}, [1, 2], 200),
    "no more than the rule says": ([503, 503, 503, STREAM], {}, [1, 2], 503),
    "without retries": ([503, STREAM], {"retries": 0}, [], 503),
    "a failure for good": ([400, STREAM], {}, [], 400),
    "one after another": ([503, 400, STREAM], {}, [1], 400),
    "what was cut off, given in part": ([CUT, STREAM], {"on_truncated": "partial"}, [1], 200),
    "a heartbeat has committed to 200": ([503, STREAM], {"prepare": commit}, [], 503),
    "no time for the pause": ([503, STREAM], {"timeout": 1}, [], 503),
    "time for one": ([503, 503, STREAM], {"timeout": 2}, [1], 503),
    "the client leaves": ([503, STREAM], {"prepare": leave}, [1], 503),
    "it is switched off": ([503, STREAM], {"prepare": switch_off}, [1], 503),
}


@pytest.mark.parametrize(("answers", "keys", "pauses", "status"), CASES.values(), ids=list(CASES))
def test_another_attempt_is_made_while_it_may_come_to_more(
    retry: Callable, answers: list[int | bytes], keys: dict[str, Any], pauses: list[float], status: int
) -> None:
    upstream, flow = retry(*answers, **keys)
    assert upstream.pauses == pauses
    assert len(upstream.asked) == len(pauses) - (keys.get("prepare") in (leave, switch_off))
    assert flow.response.status_code == status


@pytest.mark.parametrize(
    ("keys", "why"),
    [({"prepare": leave}, "the client is gone"), ({"timeout": 1}, "there is no time for the pause before it")],
)
def test_the_log_says_why_there_is_no_other_attempt(
    retry: Callable, caplog: pytest.LogCaptureFixture, keys: dict[str, Any], why: str
) -> None:
    caplog.set_level(logging.INFO, "force_stream")
    retry(503, **keys)
    assert lines(caplog, logging.INFO) == [f"r: not tried again: {why}"]


def test_each_attempt_has_its_flow_with_the_time_that_is_left(retry: Callable) -> None:
    upstream, flow = retry(503, 503, STREAM, timeout=30)
    assert [again.metadata["force_stream.try"] for again in upstream.asked] == [2, 3]
    assert flow.metadata["force_stream.retried_as"] == [again.id for again in upstream.asked]
    assert flow.comment.endswith(", try 3")


def test_a_fault_of_the_addon_in_another_attempt_is_raised(retry: Callable) -> None:
    def break_it(upstream: Upstream, wait: ClientWait) -> None:
        def answer(_: http.HTTPFlow, attempt: Attempt) -> None:
            attempt.record_bug(ZeroDivisionError())

        upstream.answer = answer  # type: ignore[method-assign]

    with pytest.raises(ZeroDivisionError):
        retry(503, prepare=break_it)


def test_a_plain_request_that_is_refused_is_sent_as_a_stream_and_remembered(caplog: pytest.LogCaptureFixture) -> None:
    rule = Rule("r", ("h",), learn=True)
    upstream = Upstream(Clock(), STREAM, 503)
    ours = Retries(upstream.send)
    learned = []
    for _ in range(2):
        flow = flow_with()
        answer_with(flow, REFUSAL, "application/json", 400)
        save_notes(flow, {"rule": "r"})
        wait = ClientWait(rule)
        ours_before = ours.has_learned(flow, "m")
        asyncio.run(ours.learn(flow, rule, ENDPOINTS["chat"], wait))
        learned.append((ours_before, ours.has_learned(flow, "m"), ours.has_learned(flow, "other")))
        assert wait.retrying
        assert json.loads(upstream.asked[-1].request.content or b"")["stream"] is True
    assert learned == [(False, True, False), (True, True, False)]
    (line,) = lines(caplog, logging.WARNING)
    assert "127.0.0.1 answers m only as a stream" in line


@pytest.mark.parametrize(
    ("body", "status", "asked"),
    [(REFUSAL, 200, None), (b"{}", 400, None), (REFUSAL, 400, {"modalities": ["audio"], "audio": {"format": "wav"}})],
    ids=["a success", "another error", "a request that cannot stream"],
)
def test_nothing_else_is_sent_again(body: bytes, status: int, asked: dict[str, Any] | None) -> None:
    flow = flow_with(asked)
    answer_with(flow, body, "application/json", status)
    upstream, rule = Upstream(Clock()), Rule("r", ("h",), learn=True)
    asyncio.run(Retries(upstream.send).learn(flow, rule, ENDPOINTS["chat"], ClientWait(rule)))
    assert upstream.asked == []


def test_a_path_that_never_streams_is_not_sent_again() -> None:
    flow = flow_with({"model": "m", "stream": False}, path="/v1/responses/compact")
    answer_with(flow, REFUSAL, "application/json", 400)
    upstream, rule = Upstream(Clock()), Rule("r", ("h",), learn=True)
    asyncio.run(Retries(upstream.send).learn(flow, rule, ENDPOINTS["responses"], ClientWait(rule)))
    assert upstream.asked == []
