"""What a rule's `inject` makes of the bytes of an answer: the steps, whatever the pieces."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from force_stream.answer.events import EventReader
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.inject import Cut, Deliver, Injection, Injections, Respond, Stall, Step
from force_stream.rules.rule import Rule
from harness.samples import STREAM
from hypothesis import given
from hypothesis import strategies as st


def steps(wanted: dict[str, Any], pieces: Iterable[bytes]) -> list[Step]:
    injection = Injection(wanted)
    made = list(injection.begin())
    for piece in pieces:
        made += injection.feed(piece)
    return [*made, *injection.close()]


GARBAGE = Deliver(b"\xff\xfe\x00 garbage that the rule injects \x80\n\n")
ONE, TWO, DONE = b'data: {"a":1}\n\n', b'data: {"b":"\xc3\xa9"}\r\n\r\n', b"data: [DONE]\n\n"
KINDS: dict[str, tuple[dict[str, Any], list[Step]]] = {
    "nothing": ({}, [Deliver(ONE), Deliver(TWO), Deliver(DONE)]),
    "cut at the begin": ({"cut_after": 0}, [Cut()]),
    "cut": ({"cut_after": 2}, [Deliver(ONE), Deliver(TWO), Cut()]),
    "cut behind the end": ({"cut_after": 9}, [Deliver(ONE), Deliver(TWO), Deliver(DONE)]),
    "no event in a comment": ({"cut_after": 1}, [Deliver(b": alive\n\n"), Deliver(ONE), Cut()]),
    "no [DONE]": ({"drop_done": True}, [Deliver(ONE), Deliver(TWO)]),
    "stall": ({"stall": 1.5}, [Deliver(ONE), Stall(1.5), Deliver(TWO), Deliver(DONE)]),
    "stall and cut": ({"stall": 1.5, "cut_after": 1}, [Deliver(ONE), Stall(1.5), Cut()]),
    "split": ({"split_utf8": True}, [Deliver(ONE), *(Deliver(bytes([byte])) for byte in TWO), Deliver(DONE)]),
    "content type": ({"content_type": "text/html"}, [Deliver(ONE), Deliver(TWO), Deliver(DONE)]),
    "delay": ({"delay": 2}, [Stall(2), Deliver(ONE), Deliver(TWO), Deliver(DONE)]),
    "delay and stall": ({"delay": 2, "stall": 1}, [Stall(2), Deliver(ONE), Stall(1), Deliver(TWO), Deliver(DONE)]),
    "delay and cut": ({"delay": 2, "cut_after": 0}, [Stall(2), Cut()]),
    "garbage": ({"garbage": True}, [Deliver(ONE), GARBAGE, Deliver(TWO), GARBAGE, Deliver(DONE)]),
    "garbage at the beginning": ({"garbage": 0}, [GARBAGE, Deliver(ONE), Deliver(TWO), Deliver(DONE)]),
    "garbage once": ({"garbage": 1}, [Deliver(ONE), GARBAGE, Deliver(TWO), Deliver(DONE)]),
    "garbage and cut": ({"garbage": 1, "cut_after": 1}, [Deliver(ONE), GARBAGE, Cut()]),
    "no garbage": ({"garbage": False}, [Deliver(ONE), Deliver(TWO), Deliver(DONE)]),
    "all of it off": ({"drop_done": False, "split_utf8": False}, [Deliver(ONE), Deliver(TWO), Deliver(DONE)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_key_makes_its_steps(kind: str) -> None:
    wanted, made = KINDS[kind]
    before = b": alive\n\n" if kind == "no event in a comment" else b""
    assert steps(wanted, [before + ONE + TWO + DONE]) == made


INJECTED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "all of it": (
        {"delay": 1, "stall": 1, "garbage": 2, "drop_done": True, "split_utf8": True},
        {"delay", "stall", "garbage", "drop_done", "split_utf8"},
    ),
    "a cut, and not what would have come after it": (
        {"cut_after": 1, "garbage": 2, "drop_done": True, "split_utf8": True},
        {"cut_after"},
    ),
    "an error": ({"error_after": 2, "cut_after": 2}, {"error_after"}),
    "nothing after the end": ({"cut_after": 9, "error_after": 9, "garbage": 9}, set()),
    "nothing that is off": ({"drop_done": False, "garbage": False, "split_utf8": False}, set()),
    "no modifiers": ({"delay": 1, "times": 2, "probability": 1}, {"delay"}),
}


@pytest.mark.parametrize("kind", INJECTED)
def test_what_was_done_is_listed_and_nothing_else(kind: str) -> None:
    wanted, done = INJECTED[kind]
    injection = Injection(wanted)
    assert injection.injected == {}
    list(injection.begin())
    list(injection.feed(ONE + TWO + DONE))
    assert injection.injected == {key: wanted[key] for key in done}


def test_a_content_type_replaces_the_upstreams() -> None:
    injection = Injection({"content_type": "text/html"})
    assert injection.content_type("text/event-stream") == "text/html"
    assert injection.injected == {"content_type": "text/html"}
    assert Injection({"stall": 1}).content_type("text/event-stream") == "text/event-stream"


def test_an_error_status_is_a_whole_response_that_no_upstream_is_asked_for() -> None:
    injection = Injection({"status": 429, "retry_after": 20, "delay": 3, "times": 1})
    assert injection.replaces_upstream
    stall, response = injection.begin()
    assert stall == Stall(3)
    assert isinstance(response, Respond)
    assert (response.status, response.headers["retry-after"]) == (429, "20")
    assert json.loads(response.body)["error"]["code"] == "injected"
    assert injection.injected == {"status": 429, "retry_after": 20, "delay": 3}


def test_an_empty_stream_is_one_too() -> None:
    injection = Injection({"empty": True})
    assert injection.replaces_upstream
    assert list(injection.begin()) == [Respond(200, {"content-type": "text/event-stream"}, b"")]
    assert injection.injected == {"empty": True}
    assert not Injection({"empty": False, "cut_after": 0}).replaces_upstream


def failing(injections: Injections, rule: Rule, tries: int) -> list[bool]:
    return [injections.next(rule) is not None for _ in range(tries)]


def test_so_many_tries_fail_and_then_none() -> None:
    injections = Injections()
    rule = Rule("r", ("h",), inject={"status": 429, "times": 2})
    other = Rule("other", ("h",), inject={"status": 429, "times": 1})
    assert failing(injections, rule, 4) == [True, True, False, False]
    assert failing(injections, other, 2) == [True, False], "each rule counts its own"
    assert failing(injections, replace(rule, stream_options=None), 1) == [False], "the rule as the addon adapts it"
    assert failing(injections, replace(rule, inject=dict(rule.inject)), 3) == [True, True, False], "set once more"
    assert failing(injections, Rule("r", ("h",), inject={"status": 429}), 3) == [True] * 3


def test_a_rule_without_faults_makes_none() -> None:
    assert failing(Injections(), Rule("r", ("h",)), 2) == [False, False]


def test_a_probability_decides_for_each_try_and_one_that_is_spared_does_not_count() -> None:
    chances = iter([0.1, 0.3, 0.19, 0.2, 0.0])
    injections = Injections(lambda: next(chances))
    rule = Rule("r", ("h",), inject={"status": 429, "probability": 0.2, "times": 2})
    assert failing(injections, rule, 5) == [True, False, True, False, False]


ENDS = pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])


@ENDS
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_a_cut_comes_behind_so_many_events_whatever_ends_a_line(end: bytes, size: int, mark: bytes) -> None:
    body = mark + STREAM.replace(b"\n", end)
    made = steps({"cut_after": 3}, [body[at : at + size] for at in range(0, len(body), size)])
    assert made.count(Cut()) == 1
    assert made[-1] == Cut()
    came = b"".join(step.data for step in made if isinstance(step, Deliver))
    assert came == end.join(body.split(end)[:6]) + end


@ENDS
def test_an_event_is_not_held_back_until_the_next_one(end: bytes) -> None:
    injection = Injection({"split_utf8": False})
    assert list(injection.feed(b"data: x" + end * 2)) == [Deliver(b"data: x" + end * 2)]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_error_comes_behind_so_many_events_and_nothing_behind_it(after: int) -> None:
    *before, last = steps({"error_after": after, "cut_after": 2}, [ONE + TWO + DONE])
    assert before == [Deliver(ONE), Deliver(TWO)][:after]
    assert isinstance(last, Deliver)
    error = json.loads(last.data.removeprefix(b"data: "))["error"]
    assert (error["message"], error["type"]) == ("an error injected by the rule", "upstream_error")


WANTED = st.fixed_dictionaries(
    {},
    optional={
        "cut_after": st.integers(0, 4),
        "error_after": st.integers(0, 4),
        "drop_done": st.booleans(),
        "split_utf8": st.booleans(),
        "stall": st.floats(0.1, 9),
        "delay": st.floats(0.1, 9),
        "garbage": st.one_of(st.booleans(), st.integers(0, 4)),
    },
)
EVENT = st.sampled_from(
    [
        ONE,
        TWO,
        DONE,
        b": comment\n\n",
        b"\n\n",
        b"data: x\n",
        b"\r\n",
        b"{}",
        b"data: y\r\r",
        b"\r",
        b"\n",
        b"error: {}",
    ]
)


def pieces_of(body: bytes, data: st.DataObject) -> list[bytes]:
    ends = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]


@given(st.lists(EVENT, max_size=9).map(b"".join), st.sampled_from([b"", b"\xef\xbb\xbf"]), st.data())
def test_events_are_counted_as_the_reader_of_the_answer_counts_them(
    body: bytes, mark: bytes, data: st.DataObject
) -> None:
    answer = AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")
    answer.feed(b": a stream\n" + body)
    answer.finish()
    injection = Injection({})
    for piece in pieces_of(mark + b": a stream\n" + body, data):
        list(injection.feed(piece))
    list(injection.close())
    assert injection.events == answer.report.events


@ENDS
@given(st.integers(1, 6), st.data())
def test_so_many_events_reach_the_reader(end: bytes, after: int, data: st.DataObject) -> None:
    body = b"".join(data.draw(st.lists(st.sampled_from([ONE, TWO, DONE, b": hi\n\n"]), max_size=9)))
    body = body.replace(b"\r\n", b"\n").replace(b"\n", end)
    made = steps({"cut_after": after}, pieces_of(body, data))
    whole, came = EventReader(), EventReader()
    whole.feed(body)
    for step in made:
        if isinstance(step, Deliver):
            came.feed(step.data)
    assert came.count == min(after, whole.count)
    assert (Cut() in made) == (whole.count >= after)


@given(WANTED, st.lists(EVENT, max_size=6), st.data())
def test_the_steps_do_not_depend_on_how_the_bytes_are_split(
    wanted: dict[str, Any], events: list[bytes], data: st.DataObject
) -> None:
    body = b"".join(events)
    assert steps(wanted, pieces_of(body, data)) == steps(wanted, [body])


@given(WANTED, st.lists(EVENT, max_size=6))
def test_what_is_delivered_is_the_begin_of_what_came(wanted: dict[str, Any], events: list[bytes]) -> None:
    wanted = {key: value for key, value in wanted.items() if key not in ("drop_done", "error_after", "garbage")}
    made = steps(wanted, [b"".join(events)])
    came = b"".join(step.data for step in made if isinstance(step, Deliver))
    assert b"".join(events).startswith(came)
    if Cut() not in made:
        assert came == b"".join(events)
