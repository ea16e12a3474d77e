"""Answers that are kept: for which request, how many bytes of them, how long, and that each is given once."""

import asyncio
import gc
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock
from weakref import ref

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.kept_answers import NOTHING, KeptAnswer, KeptAnswers, Outcome, key_of
from force_stream.rules.rule import Rule
from harness.master import flow_with
from harness.samples import SECRET, request
from mitmproxy import http

RULE = Rule("r", ("h",), keep_answers=300)


def outcome(size: int = 2, **values: Any) -> Outcome:
    response = http.Response.make(200, b"x" * size)
    response.headers.clear()
    given = {"flow_id": "1", "comment": "", "marked": "", "response": response}
    return Outcome(**given | {"failed": None} | values)


def keeping(**limits: int) -> KeptAnswers:
    """Of one rule that stays as it is."""
    return KeptAnswers(lambda: (RULE,), **limits)


def begun(answers: KeptAnswers, key: bytes = b"k") -> KeptAnswer:
    return answers.begin(key, RULE, ClientWait(RULE))


def kept(answers: KeptAnswers, key: bytes = b"k", size: int = 2) -> KeptAnswer:
    """One that is finished, and whose client has gone."""
    made = begun(answers, key)
    made.wait.leave()
    assert answers.finish(made, outcome(size)) is (made in answers._answers)
    return made


def in_loop(test: Callable[[], None]) -> Callable[[], None]:
    async def inside() -> None:
        test()

    return lambda: asyncio.run(inside())


@in_loop
def test_it_is_given_once_and_to_the_same_request_alone() -> None:
    answers = keeping()
    made = kept(answers)
    assert answers.join(b"other", ClientWait(RULE)) is None
    assert answers.join(b"k", ClientWait(RULE)) is made
    assert answers.join(b"k", ClientWait(RULE)) is None
    assert answers.lines() == []


@in_loop
def test_one_that_is_under_way_has_one_client_at_a_time() -> None:
    answers = keeping()
    made, second = begun(answers), ClientWait(RULE)
    assert answers.join(b"k", second) is None, "the first client is there"
    made.wait.leave()
    assert answers.join(b"k", second) is made
    assert answers.join(b"k", ClientWait(RULE)) is None, "the second client is there"
    second.leave()
    third = ClientWait(RULE)
    assert answers.join(b"k", third) is made
    assert not answers.finish(made, outcome()), "the third client gets it"
    assert made.outcome.result().response is not None
    third.leave()
    assert answers.join(b"k", ClientWait(RULE)) is None


@pytest.mark.parametrize(
    ("gone", "values", "is_kept"),
    [(True, {}, True), (False, {}, False), (True, {"failed": object()}, False), (True, {"response": None}, False)],
)
def test_a_whole_answer_whose_client_is_gone_is_kept(gone: bool, values: dict[str, Any], is_kept: bool) -> None:
    @in_loop
    def test() -> None:
        answers = keeping()
        made = begun(answers)
        if gone:
            made.wait.leave()
        assert answers.finish(made, outcome(**values)) == is_kept
        assert not answers.finish(made, outcome()), "a flow ends once"
        made.wait.leave()
        assert (answers.join(b"k", ClientWait(RULE)) is made) == is_kept

    test()


@in_loop
def test_the_oldest_go_when_there_are_too_many_bytes() -> None:
    answers = keeping(most=10)
    under_way = begun(answers, b"0")
    kept(answers, b"1", 4)
    second = kept(answers, b"2", 4)
    third = kept(answers, b"3", 4)
    assert answers.lines() == ["kept: 2 answers of clients that gave up, 8 bytes"]
    assert kept(answers, b"4", 11) not in answers._answers
    assert answers.lines() == []
    under_way.wait.leave()
    assert answers.finish(under_way, outcome(10))
    assert [answers.join(each.key, ClientWait(RULE)) for each in (second, third, under_way)] == [None, None, under_way]


@in_loop
def test_headers_take_space_too() -> None:
    answers = keeping(most=10)
    made = begun(answers)
    made.wait.leave()
    large = http.Response.make(200, b"xx")
    large.headers = http.Headers(a="x" * 10)
    assert not answers.finish(made, outcome(response=large))


@in_loop
def test_one_whose_flow_ends_without_a_word_is_forgotten() -> None:
    answers = keeping()
    made = ref(begun(answers))
    gc.collect()
    assert made() is None
    assert answers.join(b"k", ClientWait(RULE)) is None


@in_loop
def test_nothing_is_kept_of_the_event_stream() -> None:
    answers = keeping()
    made = answers.begin(b"k", RULE, ClientWait(RULE, Attempt(AnswerSpec("r", "chat"), RULE)))
    made.wait.leave()
    assert answers.finish(made, outcome())
    assert made.wait.attempt is None


@in_loop
def test_a_client_that_joins_awaits_the_attempt_under_way_until_it_has_ended() -> None:
    answers, attempt = keeping(), Attempt(AnswerSpec("r", "chat"), RULE)
    first, second, third = ClientWait(RULE, attempt), ClientWait(RULE), ClientWait(RULE)
    made = answers.begin(b"k", RULE, first)
    for leaves, joins in ((first, second), (second, third)):
        leaves.leave()
        assert answers.join(b"k", joins) is made
        assert joins.awaited is attempt
    third.leave()
    assert answers.finish(made, outcome())
    assert [each.awaited for each in (first, second, third)] == [None, None, None], "it has the event stream"


def test_it_is_dropped_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

        def call_later(seconds: float, callback: Callable[..., None], *given: Any) -> asyncio.TimerHandle:
            timers.append((seconds, callback, given))
            return asyncio.TimerHandle(0, callback, given, loop)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", call_later)
        answers = keeping()
        kept(answers)
        [(seconds, callback, given)] = timers
        assert (seconds, len(answers.lines())) == (300, 1)
        callback(*given)
        assert answers.lines() == []

    asyncio.run(test())


@in_loop
def test_nothing_is_left_when_the_addon_ends() -> None:
    answers = keeping()
    finished, under_way = kept(answers), begun(answers)
    under_way.wait.leave()
    answers.clear()
    assert answers.join(b"k", ClientWait(RULE)) is None
    assert finished.timer is not None
    assert finished.timer.cancelled()
    assert under_way.outcome.result() is NOTHING
    assert not answers.finish(under_way, outcome())


@in_loop
def test_they_are_dropped_when_their_rule_changes() -> None:
    in_force = [RULE]
    answers = KeptAnswers(lambda: in_force)
    dropped, under_way = kept(answers), begun(answers, b"2")
    answers.drop_unmatched()
    assert len(answers.lines()) == 1
    in_force[:] = [replace(RULE, timeout=1)]
    answers.drop_unmatched()
    assert answers.lines() == []
    assert dropped.timer is not None
    assert dropped.timer.cancelled()
    under_way.wait.leave()
    assert not answers.finish(under_way, outcome())


def changed(**attributes: Any) -> http.HTTPFlow:
    flow = flow_with()
    for name, value in attributes.items():
        target, _, last = name.rpartition("__")
        setattr(getattr(flow, target) if target else flow, last, value)
    return flow


def with_headers(**headers: str) -> http.HTTPFlow:
    flow = flow_with()
    flow.request.headers.update(http.Headers(**headers))
    return flow


SAME = {
    "another address": changed(client_conn__peername=("10.0.0.2", 1)),
    "another port of the client": changed(client_conn__peername=("127.0.0.1", 2)),
    "traces": with_headers(traceparent="1", x_request_id="2", x_b3_traceid="3", x_datadog_trace_id="4"),
    "a counted try": with_headers(x_stainless_retry_count="1"),
    "the spelling of a header's name": with_headers(AUTHORIZATION=f"Bearer {SECRET}"),
    "its framing": with_headers(connection="close", content_length="1"),
}
OTHERS = {
    "scheme": changed(request__scheme="https"),
    "host": changed(request__host="other"),
    "port": changed(request__port=81),
    "method": changed(request__method="PUT"),
    "path": changed(request__path="/other/chat/completions"),
    "query": changed(request__path="/v1/chat/completions?key=2"),
    "body": changed(request__raw_content=b"{}"),
    "order of the body's members": changed(request__raw_content=json.dumps(dict([*request().items()][::-1])).encode()),
    "SNI": changed(client_conn__sni="other"),
    "page": changed(metadata={"force_stream.origin": "app://other"}),
    "proxy user": changed(metadata={"proxyauth": ("user", "password")}),
    "certificate": changed(client_conn__certificate_list=[Mock(**{"fingerprint.return_value": b"other"})]),
    "key": with_headers(authorization="Bearer other"),
    "cookie": with_headers(cookie="a=b"),
    "organization": with_headers(openai_organization="other"),
    "idempotency key": with_headers(idempotency_key="other"),
    "any header": with_headers(x_any="other"),
}


@pytest.mark.parametrize("what", [*SAME, *OTHERS])
def test_a_key_is_that_of_the_very_same_request(what: str) -> None:
    assert (key_of((SAME | OTHERS)[what], RULE) == key_of(flow_with(), RULE)) == (what in SAME)


def test_a_key_is_that_of_one_rule_as_it_is() -> None:
    assert key_of(flow_with(), RULE) != key_of(flow_with(), Rule("r", ("h",), keep_answers=300, timeout=1))


@pytest.mark.parametrize(("key", "names_a_key"), [("Bearer k", True), ("", False), (None, False)])
def test_without_a_key_in_its_headers_a_request_is_that_of_one_address(key: str | None, names_a_key: bool) -> None:
    here, there = flow_with(), changed(client_conn__peername=("10.0.0.2", 1))
    for flow in (here, there):
        del flow.request.headers["authorization"]
        if key is not None:
            flow.request.headers["authorization"] = key
    assert (key_of(here, RULE) == key_of(there, RULE)) == names_a_key


def test_a_key_that_the_proxy_itself_has_set_says_nothing_of_the_client() -> None:
    here, there = flow_with(), changed(client_conn__peername=("10.0.0.2", 1))
    assert key_of(here, RULE) == key_of(there, RULE)
    assert key_of(here, RULE, has_own_keys=False) != key_of(there, RULE, has_own_keys=False)


def test_a_client_without_a_key_or_an_address_has_no_other_requests() -> None:
    here, there = (changed(client_conn__peername=None) for _ in range(2))
    for flow in (here, there):
        del flow.request.headers["authorization"]
    assert key_of(here, RULE) == key_of(here, RULE)
    assert key_of(here, RULE) != key_of(there, RULE)


def test_a_key_holds_nothing_of_the_request() -> None:
    assert len(key_of(flow_with(b"x" * 100_000), RULE)) == 32
