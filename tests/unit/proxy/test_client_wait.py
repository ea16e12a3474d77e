"""What a waiting client is due: heartbeats, and the answer of the attempt in hand, under a clock of its own."""

from typing import Any
from unittest.mock import Mock

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.attempt import Attempt, State
from force_stream.proxy.client_wait import ClientWait, Deadline
from force_stream.rules.rule import UNLIMITED, Rule
from harness.clock import Clock
from harness.samples import STREAM


def waiting(clock: Clock, **keys: Any) -> ClientWait:
    rule = Rule("r", ("h",), **({"idle_timeout": 10} | keys))
    return ClientWait(rule, Attempt(AnswerSpec("r", "chat"), rule, clock=clock), clock)


def left(wait: ClientWait) -> int | None:
    """Milliseconds to the next deadline."""
    seconds = wait.next_deadline()
    return None if seconds is None else round(seconds * 1000)


# The rule's keys, and what is due after how many milliseconds.
DUE: dict[str, tuple[dict[str, Any], list[tuple[int, Deadline]]]] = {
    "no heartbeat": ({}, [(10_000, Deadline.ANSWER)]),
    "heartbeats": ({"heartbeat": 4}, [(4000, Deadline.HEARTBEAT), (4000, Deadline.HEARTBEAT), (2000, Deadline.ANSWER)]),
    "both at once": ({"heartbeat": 10}, [(10_000, Deadline.ANSWER)]),
    "a late look": ({"heartbeat": 4}, [(9000, Deadline.HEARTBEAT), (1000, Deadline.ANSWER)]),
}


@pytest.mark.parametrize(("keys", "due"), DUE.values(), ids=list(DUE))
def test_heartbeats_come_until_the_answer_does(keys: dict[str, Any], due: list[tuple[int, Deadline]]) -> None:
    clock = Clock()
    wait = waiting(clock, **keys)
    for milliseconds, expected in due:
        clock.advance(milliseconds - 1)
        if (left(wait) or 0) > 0:
            assert wait.poll() is Deadline.NOTHING
        clock.advance(1)
        assert wait.poll() is expected


def test_nothing_is_due_once_the_answer_is_there() -> None:
    clock = Clock()
    wait = waiting(clock, heartbeat=4)
    assert wait.attempt is not None
    wait.attempt.start_response(200, "")
    wait.attempt.receive(STREAM)
    wait.attempt.end()
    assert left(wait) is None
    clock.advance(60_000)
    assert wait.poll() is Deadline.ANSWER


def test_a_client_that_waits_for_another_attempt_gets_heartbeats_and_no_answer() -> None:
    clock = Clock()
    wait = waiting(clock, heartbeat=4)
    assert wait.attempt is not None
    wait.attempt.cut("reset")
    wait.retry(Attempt(wait.attempt.spec, wait.attempt.rule, clock=clock))
    assert left(wait) == 4000
    clock.advance(20_000)
    assert wait.poll() is Deadline.HEARTBEAT
    assert left(wait) == 4000
    assert wait.attempt.state is State.WAITING, "it has a flow of its own, which polls it"


def test_a_client_whose_plain_request_is_only_watched_gets_heartbeats_once_that_is_sent_again() -> None:
    clock = Clock()
    watched = Attempt(AnswerSpec("r", "chat"), UNLIMITED, plain=True, clock=clock)
    wait = ClientWait(Rule("r", ("h",), heartbeat=4, learn=True), watched, clock)
    clock.advance(20_000)
    assert (wait.poll(), left(wait)) == (Deadline.NOTHING, None)
    wait.retrying = True
    assert wait.poll() is Deadline.HEARTBEAT


def test_a_client_that_leaves_gives_up_the_other_attempt_and_not_its_own() -> None:
    wait = waiting(Clock())
    first = wait.attempt
    assert first is not None
    wait.leave()
    assert wait.client_gone
    assert first.state is State.WAITING
    wait.retry(Attempt(first.spec, first.rule))
    wait.leave()
    assert wait.attempt is not None
    assert wait.attempt.state is State.FAILED


@pytest.mark.parametrize(("kept_no_more", "state"), [(False, State.WAITING), (True, State.FAILED)])
def test_a_client_whose_answer_is_kept_gives_nothing_up_and_gets_no_heartbeat(kept_no_more: bool, state: State) -> None:
    clock = Clock()
    wait = waiting(clock, heartbeat=4)
    assert wait.attempt is not None
    wait.kept = Mock(**{"done.return_value": kept_no_more})
    wait.retry(Attempt(wait.attempt.spec, wait.attempt.rule, clock=clock))
    assert wait.needs_head
    wait.leave()
    clock.advance(20_000)
    assert wait.attempt is not None
    assert (wait.attempt.state, wait.poll(), wait.needs_head) == (state, Deadline.NOTHING, False)
