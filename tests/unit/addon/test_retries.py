"""When another attempt is made for a client, and what it then gets; what comes and how long pauses are, a test says."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from force_stream.addon import retries
from force_stream.addon.retries import Retries
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.notes import save_notes, was_made_to_stream
from force_stream.proxy.request import body_of, force
from force_stream.proxy.response import observe_whole, set_reply
from force_stream.rules.rule import UNLIMITED, Rule
from harness.clock import Clock
from harness.master import answer_with, flow_with, lines
from harness.samples import EVENTS, SECRET, STREAM, choice, chunk, request
from harness.steps import sse
from mitmproxy import ctx, http
from mitmproxy.test import taddons

CUT = sse(*EVENTS[:2], done=False)
REFUSAL = b'{"error": {"message": "Stream must be set to true"}}'


type Said = int | bytes | tuple[int, Any]


class Upstream:
    """Answers attempt after attempt: a status, with its document, or the beginning of a stream that is cut off, or a
    whole one."""

    def __init__(self, clock: Clock, *answers: Said) -> None:
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
        if isinstance(said, tuple):
            status, body = said[0], json.dumps(said[1]).encode()
        else:
            status, body = (200, said) if isinstance(said, bytes) else (said, b"{}")
        answer_with(flow, body, "text/event-stream" if isinstance(said, bytes) else "application/json", status)
        attempt.start_response(status, "" if isinstance(said, bytes) else "application/json")
        attempt.receive(body)
        if said == CUT:
            attempt.cut("reset")
        attempt.end()
        reply = attempt.finish()
        if reply is not None:
            set_reply(flow, reply)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(round(seconds * 1000))
        self.during_pause()


def run_with_switch(inside: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine where mitmproxy has the addon's switch."""

    async def run() -> None:
        with taddons.context() as context:
            context.options.add_option("force_stream", bool, True, "")
            await inside

    asyncio.run(run())


@pytest.fixture
def retry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Upstream, http.HTTPFlow]]:
    """`retry(answers, ...)`: the upstream and the first flow, once its request was tried as often as it may be."""
    monkeypatch.setattr(retries, "delay", lambda number, _: float(number))

    def retry(*answers: Said, prepare: Any = None, **keys: Any) -> tuple[Upstream, http.HTTPFlow]:
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

        run_with_switch(Retries(upstream.send).retry(flow, wait))
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
    [({"prepare": leave}, "the client has disconnected"), ({"timeout": 1}, "the pause before it would be too long")],
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


def watched(flow: http.HTTPFlow, rule: Rule, endpoint: str = "chat") -> ClientWait:
    """The client of a plain request whose answer has come, as the addon has it for a rule that learns."""
    attempt = Attempt(AnswerSpec("r", endpoint, "m"), UNLIMITED, plain=True)
    assert observe_whole(flow, attempt)
    return ClientWait(rule, attempt)


def test_a_plain_request_that_is_refused_is_sent_as_a_stream_and_remembered(caplog: pytest.LogCaptureFixture) -> None:
    rule = Rule("r", ("h",), learn=True)
    upstream = Upstream(Clock(), STREAM, 503)
    ours = Retries(upstream.send)
    chat = ENDPOINTS["chat"]
    learned = []
    for _ in range(2):
        flow = flow_with()
        answer_with(flow, REFUSAL, "application/json", 400)
        save_notes(flow, {"rule": "r"})
        wait = watched(flow, rule)
        ours_before = ours.must_stream(flow, "m", chat)
        run_with_switch(ours.retry(flow, wait))
        learned.append((ours_before, ours.must_stream(flow, "m", chat), ours.must_stream(flow, "other", chat)))
        assert wait.retrying
        assert json.loads(upstream.asked[-1].request.content or b"")["stream"] is True
    assert learned == [(False, True, False), (True, True, False)]
    (line,) = lines(caplog, logging.WARNING)
    assert "127.0.0.1 answers m only as a stream" in line


@pytest.mark.parametrize(
    ("body", "status", "asked"),
    [
        (b'{"choices": [], "say": "Stream must be set to true"}', 200, None),
        (b"{}", 400, None),
        (REFUSAL, 400, {"modalities": ["audio"], "audio": {"format": "wav"}}),
    ],
    ids=["a success", "another error", "a request that cannot stream"],
)
def test_nothing_else_is_sent_again(body: bytes, status: int, asked: dict[str, Any] | None) -> None:
    flow = flow_with(asked)
    answer_with(flow, body, "application/json", status)
    upstream, rule = Upstream(Clock()), Rule("r", ("h",), learn=True)
    run_with_switch(Retries(upstream.send).retry(flow, watched(flow, rule)))
    assert upstream.asked == []


def test_a_path_that_never_streams_is_not_sent_again() -> None:
    flow = flow_with({"model": "m", "stream": False}, path="/v1/responses/compact")
    answer_with(flow, REFUSAL, "application/json", 400)
    upstream, rule = Upstream(Clock()), Rule("r", ("h",), learn=True)
    run_with_switch(Retries(upstream.send).retry(flow, watched(flow, rule, "responses")))
    assert upstream.asked == []


# What an upstream demands of a forced request.


def said(saying: str, **members: Any) -> dict[str, Any]:
    return {"error": {"message": saying, **members}}


CANNOT = (400, said("logprobs is not supported with tools + stream"))
NEVER = (400, said("Your organization must be verified to stream this model.", param="stream"))
REJECTS = (400, said("Unknown parameter: 'stream_options'."))
REJECTS_BOTH = (400, said("stream and stream_options are not supported"))
IN_BAND = b'data: {"error": {"message": "Streaming is not supported", "code": 400}}\n\n'
LATE = sse(*EVENTS[:3], {"error": {"message": "Streaming is not supported", "code": 400}}, done=False)
MIXED = sse(
    chunk(choice(content="A"), choice(content="B")), chunk(choice(finish_reason="stop"), choice(finish_reason="stop"))
)
HOLE = b'data: {"choices": [{"delta": {"content": "x\n\n' + STREAM
ANSWER = (200, {"choices": [{"message": {"content": "Hi"}}]})
TOO_LONG = (400, said("The prompt is too long"))


class Client:
    """Sends a request after another, which a rule forces, to one upstream."""

    def __init__(self, *answers: Said, **keys: Any) -> None:
        self.rule = Rule("r", ("h",), force_upstream_stream=True, **keys)
        self.upstream = Upstream(Clock(), *answers)
        self.rules: tuple[Rule, ...] = (self.rule,)
        self.retries = Retries(self.upstream.send, lambda: self.rules)

    def ask(self, prepare: Any = None, **members: Any) -> http.HTTPFlow:
        flow = flow_with(request(**members))
        body = body_of(flow)
        assert body is not None
        rule = self.retries.adapted(self.rule, flow, "m", ENDPOINTS["chat"])
        spec = force(flow, body, rule, ENDPOINTS["chat"])
        assert spec is not None
        attempt = Attempt(spec, rule, clock=self.upstream.clock)
        wait = ClientWait(rule, attempt, self.upstream.clock)
        self.upstream.asked.append(flow)
        self.upstream.answer(flow, attempt)
        if prepare is not None:
            prepare(self.upstream, wait)
        run_with_switch(self.retries.retry(flow, wait))
        return flow

    def why_plain(self, **members: Any) -> str:
        flow = flow_with(request(**members))
        body = body_of(flow)
        assert body is not None
        return self.retries.why_plain(flow, body, ENDPOINTS["chat"])

    @property
    def sent(self) -> str:
        """For each request: plain, stream, or with options."""
        documents = [json.loads(flow.request.content or b"") for flow in self.upstream.asked]
        return " ".join(
            "options" if "stream_options" in one else "stream" if one.get("stream") else "plain" for one in documents
        )


# What the upstream answers, how it is asked, and the last status.
DEMANDS: dict[str, tuple[list[Said], str, int]] = {
    "it cannot stream": ([CANNOT, ANSWER], "options plain", 200),
    "the true error": ([CANNOT, TOO_LONG], "options plain", 400),
    "plain it fails": ([CANNOT, 503], "options plain", 503),
    "it must not stream, and must": ([CANNOT, (422, said("stream must be true"))], "options plain", 400),
    "as a 500": ([(500, said("Cannot use tools with stream")), ANSWER], "options plain", 200),
    "as a success": ([(200, said("Streaming is not supported")), ANSWER], "options plain", 200),
    "in the stream": ([IN_BAND, ANSWER], "options plain", 200),
    "late in the stream": ([LATE, ANSWER], "options", 400),
    "not acceptable": ([406, ANSWER], "options plain", 200),
    "an empty stream": ([b"", TOO_LONG], "options plain", 400),
    "an empty stream of comments": ([b": ping\n\n: ping\n\n", ANSWER], "options plain", 200),
    "an empty stream with [DONE]": ([b"data: [DONE]\n\n", ANSWER], "options plain", 200),
    "two empty streams": ([b"", b""], "options plain", 502),
    "an empty stream, and a stream": ([b"", STREAM], "options plain", 200),
    "choices that are mixed": ([MIXED, ANSWER], "options plain", 200),
    "choices that are mixed, over and over": ([MIXED, MIXED], "options plain", 502),
    "a hole": ([HOLE, ANSWER], "options", 502),
    "it rejects the options": ([REJECTS, STREAM], "options stream", 200),
    "the options, and then the stream": ([REJECTS, CANNOT, ANSWER], "options stream plain", 200),
    "both at once": ([REJECTS_BOTH, REJECTS_BOTH, ANSWER], "options stream plain", 200),
    "the options, over and over": ([REJECTS, REJECTS, ANSWER], "options stream", 400),
    "the options, then nothing": ([REJECTS, b"", ANSWER], "options stream plain", 200),
    "another error": ([TOO_LONG, ANSWER], "options", 400),
    "a success": ([STREAM, ANSWER], "options", 200),
    "a plain success": ([ANSWER, ANSWER], "options", 200),
    "a cut": ([CUT, ANSWER], "options", 502),
}


@pytest.mark.parametrize(("answers", "sent", "status"), DEMANDS.values(), ids=list(DEMANDS))
def test_the_request_is_sent_as_the_upstream_demands(answers: list[Said], sent: str, status: int) -> None:
    client = Client(*answers)
    flow = client.ask()
    assert (client.sent, flow.response and flow.response.status_code) == (sent, status)


def test_what_is_sent_again_goes_out_as_it_came_and_is_linked() -> None:
    client = Client(CANNOT, ANSWER)
    flow = client.ask(tools=[1])
    first, plain = client.upstream.asked
    assert first is flow
    assert plain.request.content == flow_with(request(tools=[1])).request.content
    assert plain.request.headers.get("accept") is None
    assert not was_made_to_stream(plain)
    assert flow.metadata["force_stream.retried_as"] == [plain.id]
    assert plain.metadata["force_stream.retry_of"] == flow.id
    assert flow.comment.endswith(", try 2; sent plain: the upstream cannot stream this request")
    assert flow.marked


def test_tries_that_an_upstream_demands_use_up_no_retries() -> None:
    client = Client(REJECTS, CANNOT, 503, 503, ANSWER, retries=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "delay", lambda number, _: 0.0)
        flow = client.ask()
    assert (client.sent, flow.response and flow.response.status_code) == ("options stream plain plain plain", 200)
    assert [each.metadata["force_stream.try"] for each in client.upstream.asked[1:]] == [2, 3, 4, 5]


@pytest.mark.parametrize("prepare", [leave_now := lambda _, wait: wait.leave(), lambda *_: None], ids=["gone", "waits"])
def test_a_client_that_has_left_gets_no_other_try(prepare: Any) -> None:
    client = Client(CANNOT, ANSWER)
    client.ask(prepare)
    assert client.sent == ("options" if prepare is leave_now else "options plain")


def test_a_plain_answer_reaches_a_client_that_a_heartbeat_has_promised_one() -> None:
    client = Client(CANNOT, ANSWER)
    assert client.ask(commit).response.status_code == 200  # type: ignore[union-attr]


def test_a_deadline_that_has_passed_allows_no_other_try() -> None:
    client = Client(CANNOT, ANSWER, timeout=1)
    client.ask(lambda upstream, _: upstream.clock.advance(1000))
    assert client.sent == "options"


def test_what_cannot_stream_is_remembered_by_what_the_words_name(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(CANNOT, ANSWER)
    client.ask(tools=[1], logprobs=True)
    assert "a request with tools and logprobs" in client.why_plain(tools=[2], logprobs=True, user="x")
    assert client.why_plain(tools=[1]) == client.why_plain(tools=[1], logprobs=False) == ""
    assert client.why_plain(model="other", tools=[1], logprobs=True) == ""
    (line,) = lines(caplog, logging.WARNING)
    assert "127.0.0.1 m (chat) cannot stream a request with tools and logprobs" in line
    assert SECRET not in caplog.text
    client.rules = ()
    assert client.why_plain(tools=[1], logprobs=True) == ""


def test_a_model_that_never_streams_is_remembered_whole() -> None:
    client = Client(NEVER, ANSWER)
    client.ask(tools=[1])
    assert client.why_plain() == "the upstream said that it cannot stream any request"


@pytest.mark.parametrize(
    "answers",
    [
        [b"", ANSWER],
        [CANNOT, TOO_LONG],
        [(503, said("Streaming is temporarily unavailable")), ANSWER],
        [(429, said("Streaming is not available now: too many requests")), ANSWER],
        [(400, said("Streaming is not supported above 9 tokens when on")), ANSWER],
    ],
)
def test_what_was_not_shown_is_not_remembered(answers: list[Said]) -> None:
    client = Client(*answers)
    client.ask()
    assert client.retries.learned.lines() == []


def test_rejected_options_are_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(REJECTS, STREAM, STREAM)
    flow = client.ask()
    assert flow.comment.endswith(", try 2; sent without stream_options: the upstream rejects them")
    client.ask()
    assert client.sent == "options stream stream"
    (line,) = lines(caplog, logging.WARNING)
    assert line.endswith('hosts: ["127.0.0.1"], models: ["m"], force_upstream_stream: true, stream_options: null}')


def test_options_of_the_clients_own_that_are_rejected_say_nothing_about_other_clients() -> None:
    client = Client(REJECTS, STREAM, STREAM)
    flow = client.ask(stream_options={"bogus": True})
    assert flow.comment.endswith(", try 2; sent without stream_options: the upstream rejects them")
    client.ask()
    assert client.sent == "options stream options"
    assert client.retries.learned.lines() == []


# What it demands of a plain one.


@pytest.mark.parametrize(
    ("answers", "sent", "status"),
    [
        ([REJECTS, STREAM], "options stream", 200),
        ([CANNOT], "options", 400),
        ([b""], "options", 400),
        ([503], "options", 503),
    ],
)
def test_a_plain_request_that_has_to_stream_meets_further_demands(answers: list[Said], sent: str, status: int) -> None:
    client = Client(*answers)
    flow = flow_with()
    answer_with(flow, REFUSAL, "application/json", 400)
    rule = Rule("r", ("h",), learn=True)
    run_with_switch(client.retries.retry(flow, watched(flow, rule)))
    assert (client.sent, flow.response and flow.response.status_code) == (sent, status)
    assert ("must stream" in "".join(client.retries.learned.lines())) is (status == 200)


def test_a_rule_may_learn_from_phrases_of_its_own() -> None:
    client = Client(STREAM)
    flow = flow_with()
    answer_with(flow, json.dumps(said("Nur im Strom")).encode(), "application/json", 400)
    rule = Rule("r", ("h",), learn=("im strom",))
    run_with_switch(client.retries.retry(flow, watched(flow, rule)))
    assert client.sent == "options"
