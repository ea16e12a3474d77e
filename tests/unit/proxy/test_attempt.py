"""How far an attempt has come, and when it has to be decided: transitions and deadlines, under a clock of their own."""

import asyncio
import gc
import gzip
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from force_stream.answer.reader import AnswerReader, AnswerSpec
from force_stream.answer.report import Reply
from force_stream.answer.unfold import Asked, Unfolded
from force_stream.endpoints import ENDPOINTS
from force_stream.errors import OversizedStream
from force_stream.proxy import attempt as attempts
from force_stream.proxy.attempt import _TRANSITIONS, PATIENCE, Attempt, KeptBody, Signal, State
from force_stream.rules.rule import IDLE_TIMEOUT, Rule
from harness import sse
from harness.clock import Clock
from harness.samples import DOCUMENT, EVENTS, STREAM, choice, chunk

DONE = b"data: [DONE]\n\n"
TEXT = sse(*EVENTS[:2], done=False)
FINISH = sse(chunk(choice(finish_reason="stop")), done=False)
# A word of an upstream that says "stop" with each.
STOPPED = sse(chunk(choice(content="word", finish_reason="stop")), done=False)
LIMITS = {"timeout": 30, "idle_timeout": 10}

type Step = Callable[[Attempt], Any]


def attempt(clock: Clock, **keys: Any) -> Attempt:
    return Attempt(AnswerSpec("r", "chat"), Rule("r", ("h",), **(LIMITS | keys)), clock=clock)


def respond(one: Attempt) -> None:
    one.start_response(200, "text/event-stream")


def piece(data: bytes) -> Step:
    return lambda one: one.receive(data)


def cut(one: Attempt) -> None:
    one.cut("connection reset")


def end(one: Attempt) -> None:
    one.end()


def fail(one: Attempt) -> None:
    one.fail(OversizedStream("too large"))


def bug(one: Attempt) -> None:
    one.record_bug(ZeroDivisionError())


# What happened, the state that it led to, and the status and code that the client gets.
STATES: dict[str, tuple[list[Step], State, int, str]] = {
    "nothing yet": ([], State.WAITING, 502, "stream_empty"),
    "the head": ([respond], State.RECEIVING, 502, "stream_empty"),
    "text": ([respond, piece(TEXT)], State.RECEIVING, 502, "stream_truncated"),
    "a finish reason": ([respond, piece(TEXT), piece(FINISH)], State.FINISHING, 200, ""),
    "text after it": ([respond, piece(TEXT + FINISH), piece(TEXT)], State.RECEIVING, 200, ""),
    "a cut after text after it": (
        [respond, piece(TEXT + FINISH), piece(TEXT), cut],
        State.CUT,
        502,
        "stream_truncated",
    ),
    "an end after text after it": ([respond, piece(TEXT + FINISH), piece(TEXT), end], State.COMPLETE, 200, ""),
    "one with each word": ([respond, piece(STOPPED), piece(STOPPED)], State.FINISHING, 200, ""),
    "a cut after one with each word": (
        [respond, piece(STOPPED), piece(STOPPED), cut],
        State.CUT,
        502,
        "stream_truncated",
    ),
    "an end after one with each word": ([respond, piece(STOPPED), piece(STOPPED), end], State.COMPLETE, 200, ""),
    "[DONE] after it": ([respond, piece(TEXT), piece(FINISH), piece(DONE)], State.ENDING, 200, ""),
    "[DONE] alone": ([respond, piece(TEXT), piece(DONE)], State.ENDING, 200, ""),
    "all at once": ([respond, piece(STREAM)], State.ENDING, 200, ""),
    "its end": ([respond, piece(STREAM), end], State.COMPLETE, 200, ""),
    "an end without [DONE]": ([respond, piece(TEXT), piece(FINISH), end], State.COMPLETE, 200, ""),
    "a cut before the head": ([cut], State.FAILED, 502, "upstream_unreachable"),
    "a cut in the text": ([respond, piece(TEXT), cut], State.CUT, 502, "stream_truncated"),
    "a cut after the finish reason": ([respond, piece(TEXT), piece(FINISH), cut], State.CUT, 200, ""),
    "more after its end": ([respond, piece(STREAM), end, cut], State.COMPLETE, 200, ""),
    "a failure": ([respond, fail], State.FAILED, 502, "stream_too_large"),
    "two failures": ([cut, fail], State.FAILED, 502, "upstream_unreachable"),
    "a failure after its end": ([respond, piece(STREAM), end, fail], State.COMPLETE, 502, "stream_too_large"),
    "a bug": ([respond, piece(TEXT), bug], State.FAILED, 502, "force_stream_error"),
    "a bug after a failure": ([respond, fail, bug], State.FAILED, 502, "force_stream_error"),
}


@pytest.mark.parametrize(("steps", "state", "status", "code"), STATES.values(), ids=list(STATES))
def test_what_happens_decides_the_state_and_the_reply(steps: list[Step], state: State, status: int, code: str) -> None:
    one = attempt(Clock())
    for step in steps:
        step(one)
    assert one.state is state
    assert one.complete is (state is State.COMPLETE)
    assert one.is_final is (not _TRANSITIONS[state])
    reply = one.finish()
    assert reply is not None
    assert (reply.status, json.loads(reply.body).get("error", {}).get("code", "")) == (status, code)


# What happened, with the milliseconds before it; then those to the next deadline, and the state that it leads to.
DEADLINES: dict[str, tuple[dict[str, Any], list[int | Step], int | None, State]] = {
    "no response within idle_timeout": ({}, [], 10_000, State.FAILED),
    "no response within timeout": ({"idle_timeout": None}, [], 30_000, State.FAILED),
    "no limit": ({"idle_timeout": None, "timeout": None}, [respond, piece(TEXT)], None, State.RECEIVING),
    "silence after the head": ({}, [4000, respond], 10_000, State.FAILED),
    "silence after a piece": ({}, [4000, respond, 9000, piece(TEXT)], 10_000, State.FAILED),
    "no end within timeout": ({}, [respond, *[9000, piece(TEXT)] * 3], 3_000, State.FAILED),
    "usage after the finish reason": ({}, [respond, 1000, piece(TEXT), 1, piece(FINISH)], 5_000, State.SETTLED),
    "keep-alives prolong that": (
        {},
        [respond, piece(TEXT + FINISH), 4000, piece(b": ping\n\n")],
        5_000,
        State.SETTLED,
    ),
    "more content begins that anew": ({}, [respond, *[4000, piece(STOPPED)] * 4], 5_000, State.SETTLED),
    "more content without an end": ({}, [respond, piece(STOPPED), 4000, piece(TEXT)], 10_000, State.FAILED),
    "but not for ever": (
        {},
        [respond, piece(TEXT + FINISH), *[4000, piece(b": ping\n\n")] * 7],
        2_000,
        State.SETTLED,
    ),
    "idle_timeout is sooner": ({"idle_timeout": 2}, [respond, piece(TEXT + FINISH)], 2_000, State.SETTLED),
    "timeout is sooner": ({"timeout": 2}, [1500, respond, piece(TEXT + FINISH)], 500, State.SETTLED),
    "the end after [DONE]": ({}, [respond, piece(STREAM)], 100, State.SETTLED),
    "[DONE] long after the finish reason": ({}, [respond, piece(TEXT + FINISH), 4950, piece(DONE)], 100, State.SETTLED),
    "nothing after the end": ({}, [respond, piece(STREAM), end], None, State.COMPLETE),
    "nothing after a cut": ({}, [cut], None, State.FAILED),
}


@pytest.mark.parametrize(("keys", "steps", "left", "state"), DEADLINES.values(), ids=list(DEADLINES))
def test_a_deadline_that_passes_decides(
    keys: dict[str, Any], steps: list[int | Step], left: int | None, state: State
) -> None:
    clock = Clock()
    one = attempt(clock, **keys)
    for step in steps:
        if isinstance(step, int):
            clock.advance(step)
            assert not one.poll()
        else:
            step(one)
    deadline = one.next_deadline()
    assert (None if deadline is None else clock.until(deadline)) == left
    if left is not None:
        clock.advance(left - 1)
        assert not one.poll()
        clock.advance(2)  # not 1: sums of floats differ in their last bits
        assert one.poll()
    assert one.state is state


type Event = Callable[[str, str | None, int], dict[str, Any]]

# Members that go on changing after the finish reason: an event with one starts and ends as all others do.
CHANGING_ENDS: dict[str, Event] = {
    "padding": lambda text, reason, size: chunk(choice(finish_reason=reason, content=text), obfuscation="x" * size),
    "token ids": lambda text, reason, size: chunk(choice(finish_reason=reason, content=text) | {"token_ids": [size]}),
}


@pytest.mark.parametrize("event", CHANGING_ENDS.values(), ids=list(CHANGING_ENDS))
def test_a_finish_reason_between_parts_that_change_is_noticed_in_the_silence_after_it(event: Event) -> None:
    clock = Clock()
    one = attempt(clock)
    respond(one)
    for number in range(1, 10):
        one.receive(sse(event("word", None, number), done=False))
    one.receive(sse(event("", "stop", 11), done=False))
    clock.advance(1000)
    assert not one.poll()
    assert clock.until(one.next_deadline()) == 4_000
    clock.advance(4_001)
    assert one.poll()
    assert one.state is State.SETTLED


@pytest.mark.parametrize(
    ("keys", "words"),
    [({}, "sent no byte for 10 s"), ({"idle_timeout": None}, "did not end within 30 s")],
)
def test_a_limit_that_passed_is_named(keys: dict[str, Any], words: str) -> None:
    clock = Clock()
    one = attempt(clock, **keys)
    clock.advance(30_000)
    one.poll()
    reply = one.finish()
    assert reply is not None
    assert reply.status == 504
    assert words in json.loads(reply.body)["error"]["message"]


def test_a_plain_request_may_wait_in_silence_for_as_long_as_without_a_rule_that_says_otherwise() -> None:
    clock = Clock()
    rule = Rule("r", (), idle_timeout=10)
    one = Attempt(AnswerSpec("r", "chat"), rule, plain=True, clock=clock)
    assert clock.until(one.next_deadline()) == IDLE_TIMEOUT * 1000


@pytest.mark.parametrize(
    ("limits", "silence", "words"),
    [
        ({}, 540, "sent no byte for 540 s"),
        ({}, 60, "did not end within 3600 s after its client gave up"),
        ({"idle_timeout": 700}, 700, "sent no byte for 700 s"),
        ({"timeout": 7200}, 60, "did not end within 7200 s"),
    ],
)
def test_what_a_rule_leaves_without_a_limit_has_one_once_the_client_is_gone(
    limits: dict[str, float], silence: int, words: str
) -> None:
    clock = Clock()
    one = attempt(clock, **{"idle_timeout": None, "timeout": None} | limits)
    one.start_response(200, "text/event-stream")
    one.outlive_client()
    one.outlive_client()
    for _ in range(200):
        clock.advance(silence * 1000)
        if one.poll():
            break
        one.receive(b": keep-alive\n\n")
    reply = one.finish()
    assert reply is not None
    assert (reply.status, words in reply.body.decode()) == (504, True)


def test_another_attempt_keeps_the_deadline_of_the_first() -> None:
    clock = Clock()
    first = attempt(clock, idle_timeout=None)
    clock.advance(20_000)
    second = Attempt(first.spec, first.rule, deadline=first.deadline, clock=clock)
    assert clock.until(second.next_deadline()) == 10_000


def test_the_limits_of_a_request_that_was_held_back_begin_when_it_goes_out() -> None:
    clock = Clock()
    one = attempt(clock)
    clock.advance(600_000)
    one.begin()
    assert (one.poll(), clock.until(one.next_deadline())) == (False, 10_000)
    respond(one)
    clock.advance(5_000)
    one.receive(TEXT)
    assert (one.times[0], clock.until(one.deadline)) == (5, 25_000)


@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "encoded"])
@pytest.mark.parametrize("ended", [end, cut])
def test_another_body_is_read_in_the_place_of_the_one_that_came(ended: Step, encoded: bool) -> None:
    one = attempt(Clock())
    respond(one)
    one.receive(TEXT)
    ended(one)
    body = gzip.compress(STREAM) if encoded else STREAM
    asyncio.run(one.read_instead(200, "text/event-stream", body, encoded=encoded))
    reply = one.finish(STREAM if encoded else None)
    assert reply is not None
    assert (reply.status, json.loads(reply.body)) == (200, DOCUMENT)
    assert (one.body(), one.report.bytes) == (body, len(body))


def test_another_body_does_not_change_what_ended_the_attempt() -> None:
    one = attempt(Clock())
    respond(one)
    fail(one)
    asyncio.run(one.read_instead(200, "text/event-stream", STREAM, encoded=False))
    reply = one.finish()
    assert reply is not None
    assert json.loads(reply.body)["error"]["code"] == "stream_too_large"


def test_every_state_has_its_row_and_is_left_by_a_timeout_unless_it_is_final() -> None:
    assert set(_TRANSITIONS) == set(State)
    assert all(not row or Signal.TIMEOUT in row for row in _TRANSITIONS.values())
    assert PATIENCE.keys() == {state for state, row in _TRANSITIONS.items() if row.get(Signal.TIMEOUT) is State.SETTLED}


def test_times_are_those_of_the_pieces_and_the_body_is_kept_as_it_came() -> None:
    clock = Clock()
    one = attempt(clock)
    for wait, data in ((100, b""), (150, TEXT), (50, DONE)):
        clock.advance(wait)
        if data:
            one.receive(data)
        else:
            respond(one)
    assert one.times == [0.25, len(TEXT), 0.3, len(TEXT + DONE)]
    assert one.body() == TEXT + DONE


def test_each_piece_has_its_time() -> None:
    body = KeptBody()
    for number, piece in enumerate((b"abc", b"d", b"ef")):
        body.add(piece, number / 3)
    assert body.whole() == b"abcdef"
    assert body.whole() is body.whole()
    assert body.size == 6
    assert body.times == [0.0, 3, 0.333333, 4, 0.666667, 6]


def test_times_of_an_encoded_answer_become_those_of_its_decoded_body() -> None:
    clock = Clock()
    one = attempt(clock)
    respond(one)
    for data in (TEXT, DONE):
        clock.advance(100)
        one.receive(data)
    one.decode_times(lambda sizes: [10 * size for size in sizes])
    assert one.times == [0.1, 10 * len(TEXT), 0.2, 10 * len(TEXT + DONE)]


def test_times_of_very_many_pieces_become_coarser_but_none_is_off_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("force_stream.proxy.attempt._EXACT", 100)
    body, came = KeptBody(), []
    for number in range(20_000):
        came.append(number * 0.0001 + (1.0 if number >= 10_000 else 0.0))
        body.add(b"x", came[-1])
    seconds, sizes = body.times[::2], [int(size) for size in body.times[1::2]]
    assert seconds[:100] == [round(moment, 6) for moment in came[:100]]
    assert len(seconds) < 1000
    assert sizes[-1] == body.size == 20_000
    assert seconds == sorted(seconds)
    # When a byte came, by the times that are left: never later, and not much earlier.
    told = [
        moment for moment, sizes in zip(seconds, itertools.pairwise([0, *sizes]), strict=True) for _ in range(*sizes)
    ]
    assert all(-1e-6 <= real - moment < 0.2 for real, moment in zip(came, told, strict=True))
    assert max(later - sooner for sooner, later in itertools.pairwise(seconds)) >= 1.0, "the gap is there"


def test_a_usual_stream_keeps_every_time() -> None:
    body = KeptBody()
    for number in range(60_000):
        body.add(b"x", number * 1e-5)
    assert len(body.times) == 120_000


def test_the_times_of_pieces_of_one_byte_take_no_more_than_the_body() -> None:
    body = KeptBody()
    for number in range(1_000_000):
        body.add(b"x", number * 1e-5)
    assert 8 * len(body.times) < 1_300_000


def test_a_body_of_more_than_max_body_fails() -> None:
    one = attempt(Clock(), max_body=len(TEXT))
    respond(one)
    one.receive(TEXT)
    assert one.state is State.RECEIVING
    one.receive(b"x")
    assert one.state is State.FAILED
    assert one.body() == TEXT


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize(("body", "is_refused"), [(json.dumps(DOCUMENT).encode(), False), (STREAM, True)])
def test_a_plain_document_may_be_larger_than_max_body_and_a_stream_may_not(
    body: bytes, is_refused: bool, pieces: int
) -> None:
    rule = Rule("r", ("h",), max_body=100, inject={"cut_after": 1})
    one = Attempt(AnswerSpec("r", "chat"), rule, plain=True, clock=Clock())
    assert one.injection is None
    one.start_response(200, "application/json")
    size = -(-len(body) // pieces)
    for start in range(0, len(body), size):
        one.receive(body[start : start + size])
    one.end()
    reply = one.finish()
    assert (reply is not None and reply.status == 502) is is_refused
    assert (one.report.code == OversizedStream.code) is is_refused


def test_a_document_that_becomes_events_is_limited_as_a_stream_is() -> None:
    asked = Asked(ENDPOINTS["chat"])
    one = Attempt(AnswerSpec("r", "chat"), Rule("r", ("h",), max_body=100), plain=True, asked=asked, clock=Clock())
    one.start_response(200, "application/json")
    one.receive(json.dumps(DOCUMENT).encode())
    assert one.state is State.FAILED
    assert one.report.code == ""
    reply = one.finish()
    assert reply is not None
    assert (reply.status, one.report.code) == (502, OversizedStream.code)


def test_a_large_document_becomes_events_off_the_loop() -> None:
    asked, text = Asked(ENDPOINTS["chat"]), "word " * 10_000
    document = {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}

    async def finish() -> Reply | None:
        one = Attempt(AnswerSpec("r", "chat"), Rule("r", ("h",)), plain=True, asked=asked)
        one.start_response(200, "application/json")
        one.receive(json.dumps(document).encode())
        one.end()
        with patch.object(attempts, "unfold", lambda document, asked: made(threading.current_thread())):
            return await one.finish_aside()

    def made(thread: threading.Thread) -> Unfolded:
        assert thread is not threading.main_thread()
        return Unfolded(b"data: [DONE]\n\n", "stop", None, 0)

    reply = asyncio.run(finish())
    assert reply is not None
    assert reply.body == b"data: [DONE]\n\n"
    assert reply.headers["Content-Type"] == "text/event-stream"


def test_an_encoded_body_is_read_when_it_has_been_decoded() -> None:
    one = attempt(Clock())
    one.start_response(200, "text/event-stream", encoded=True)
    one.receive(b"\x1f\x8b")
    one.end()
    reply = asyncio.run(one.finish_aside(STREAM))
    assert reply is not None
    assert json.loads(reply.body) == DOCUMENT
    assert one.report.bytes == 2


LARGE_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 1_000_000)
END_OF_CHAT = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def in_pieces(body: bytes, size: int = 65536) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> dict[bool, list[int]]:
    """The bytes that were read in each go: on the event loop (True), and in threads."""
    found: dict[bool, list[int]] = {True: [], False: []}
    feed = AnswerReader.feed

    def noted(reader: AnswerReader, data: bytes) -> bool:
        found[threading.current_thread() is threading.main_thread()].append(len(data))
        return feed(reader, data)

    monkeypatch.setattr(AnswerReader, "feed", noted)
    return found


async def play(one: Attempt, body: list[bytes], *, ends: bool) -> dict[str, Any]:
    """The document that these pieces become."""
    one.start_response(200, "text/event-stream")
    for each in body:
        one.receive(each)
    if ends:
        one.end()
    async with asyncio.timeout(30):
        while one.next_deadline() is not None:
            await asyncio.sleep(0.01)
            one.poll()
    reply = await one.finish_aside()
    assert one.answered, one.fault
    assert reply is not None
    document: dict[str, Any] = json.loads(reply.body)
    return document


@pytest.mark.parametrize("ends", [True, False], ids=["the body ends", "the connection lingers"])
def test_a_large_event_is_read_off_the_loop(ends: bool, fed: dict[bool, list[int]]) -> None:
    one = Attempt(AnswerSpec("r", "chat"), Rule("r", hosts=(".",)))
    document = asyncio.run(play(one, in_pieces(LARGE_EVENT * 2 + END_OF_CHAT), ends=ends))
    assert document["choices"][0]["message"]["content"] == "x" * 2_000_000
    assert sum(fed[True]) < 100_000
    assert sum(fed[False]) > 1_900_000


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every portion takes 4 milliseconds."""
    work = itertools.count(0, 0.004)
    monkeypatch.setattr(time, "thread_time", lambda: next(work))


SMALL_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n'
MANY_EVENTS = b"".join(SMALL_EVENT % (number % 10) for number in range(10_000)) + END_OF_CHAT


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("size", [4096, 65535, len(MANY_EVENTS)])
@pytest.mark.parametrize("ends", [True, False], ids=["the body ends", "the connection lingers"])
def test_events_that_take_long_are_read_off_the_loop(size: int, ends: bool, fed: dict[bool, list[int]]) -> None:
    one = Attempt(AnswerSpec("r", "chat"), Rule("r", hosts=(".",)))
    document = asyncio.run(play(one, in_pieces(MANY_EVENTS, size), ends=ends))
    assert document["choices"][0]["message"]["content"] == "0123456789" * 1000
    assert one.report.events == 10_001
    assert sum(fed[True]) < 0.1 * len(MANY_EVENTS)
    assert sum(fed[True]) + sum(fed[False]) == len(MANY_EVENTS)
    assert max(map(max, fed.values())) <= 8192, "between two portions others have their turn"


def test_usual_events_are_read_at_once_and_on_the_loop(
    fed: dict[bool, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    pieces = in_pieces(MANY_EVENTS, 3000)
    asyncio.run(play(attempt(Clock()), pieces, ends=True))
    assert fed == {True: list(map(len, pieces)), False: []}


@pytest.mark.parametrize(
    ("line_end", "most"),
    [(b" " * 80 + b"\n", 65536), (b"\n", 4096), (b"\r", 4096), (b"\r\n", 4096)],
    ids=["long", "short", "CR", "CRLF"],
)
def test_what_is_read_fast_stays_on_the_loop_in_ever_larger_portions_unless_its_lines_are_short(
    line_end: bytes, most: int, fed: dict[bool, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    body = MANY_EVENTS.replace(b"\n\n", line_end + line_end.strip(b" "))
    asyncio.run(play(attempt(Clock()), [body], ends=True))
    assert fed[False] == []
    assert max(fed[True]) == most


@pytest.mark.usefixtures("slow")
def test_after_a_while_the_loop_reads_again(fed: dict[bool, list[int]]) -> None:
    clock = Clock()

    async def with_pauses() -> None:
        one = attempt(clock)
        respond(one)
        for _ in range(3):
            assert one.receive(MANY_EVENTS[:60_000])
            assert fed[True] == [4096]
            fed[True].clear()
            async with asyncio.timeout(10):
                while not (len(fed[False]) == 14 and one.report.events):
                    await asyncio.sleep(0.001)
                    one.poll()
            fed[False].clear()
            clock.advance(30)

    asyncio.run(with_pauses())


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("left", range(1, 6))
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_an_end_that_is_cut_between_the_loop_and_a_thread_is_noticed(left: int, line_end: bytes) -> None:
    head, tail = TEXT + FINISH + b": ", line_end * 2 + b"data: [DONE]" + line_end * 2
    piece = head + b"x" * (8192 + left - len(head + tail)) + tail

    async def linger() -> None:
        one = attempt(Clock())
        respond(one)
        assert one.receive(piece)
        async with asyncio.timeout(10):
            while one.state is not State.ENDING:
                await asyncio.sleep(0.001)
                one.poll()

    asyncio.run(linger())


LATE = {
    "an error event": b'data: {"error": {"message": "%b"}}' % (b"x" * 3_000_000),
    "a document": b'{"object": "chat.completion", "choices": [{"message": {"content": "%b"}}]}' % (b"x" * 3_000_000),
}


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="it has another collector, without this threshold")
def test_not_all_garbage_is_looked_for_while_a_thread_reads_or_makes_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, seen = gc.get_threshold(), {}

    def watched(name: str) -> None:
        work = getattr(AnswerReader, name)

        def noted(*of_what: Any, **how: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                seen[name] = gc.get_threshold()[2]
            return work(*of_what, **how)

        monkeypatch.setattr(AnswerReader, name, noted)

    watched("feed")
    watched("finish")
    one = Attempt(AnswerSpec("r", "chat"), Rule("r", hosts=(".",)))
    asyncio.run(play(one, in_pieces(LARGE_EVENT * 3 + END_OF_CHAT), ends=True))
    assert seen.keys() == {"feed", "finish"}
    assert min(seen.values()) > 1_000_000
    assert gc.get_threshold() == before


@pytest.mark.parametrize("case", LATE)
def test_what_is_large_and_whole_but_for_its_end_is_read_off_the_loop_after_a_short_silence(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_late, clock = AnswerReader.read_late, Clock()
    threads = []

    def noted(reader: AnswerReader) -> None:
        threads.append(threading.current_thread())
        read_late(reader)

    monkeypatch.setattr(AnswerReader, "read_late", noted)

    async def play() -> Attempt:
        one = attempt(clock)
        respond(one)
        for piece in in_pieces(LATE[case]):
            one.receive(piece)
        clock.advance(1100)
        async with asyncio.timeout(30):
            while one.state is State.RECEIVING:
                await asyncio.sleep(0.01)
                one.poll()
        await one.finish_aside()
        return one

    one = asyncio.run(play())
    assert one.state is State.SETTLED
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_a_large_event_that_is_cut_is_read_all_the_same() -> None:
    one = Attempt(AnswerSpec("r", "chat"), Rule("r", hosts=(".",), on_truncated="partial"))
    one.start_response(200, "text/event-stream")
    for piece in in_pieces(LARGE_EVENT + LARGE_EVENT[:500_000]):
        one.receive(piece)
    one.cut("reset")
    reply = one.finish()
    assert reply is not None
    assert one.report.bytes == len(LARGE_EVENT) + 500_000
    assert one.report.truncated
