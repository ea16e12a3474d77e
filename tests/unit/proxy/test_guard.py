"""What watches over a client's own stream: the client gets whole events, and an error event where there is no end."""

import asyncio
import json

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.answer.unfold import Asked
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.guard import Guard
from force_stream.rules.rule import UNLIMITED, Rule
from harness import sse
from harness.samples import EVENTS, RESPONSE_STREAM, STREAM

BEGIN, HALF = sse(*EVENTS[:2], done=False), b'data: {"id":"c'


def guard_of(endpoint: str = "chat", limit: int = 10_000) -> Guard:
    asked = Asked(ENDPOINTS[endpoint])
    attempt = Attempt(AnswerSpec("r", endpoint), UNLIMITED, asked=asked)
    guard = Guard(attempt, asked, limit, lambda: None)
    attempt.start_response(200, "text/event-stream")
    return guard


def concluded(guard: Guard) -> bytes:
    asyncio.run(guard.conclude())
    return guard.last_words()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_client_gets_whole_events(newline: bytes, size: int) -> None:
    body, guard = STREAM.replace(b"\n", newline), guard_of()
    came = b""
    for at in range(0, len(body), size):
        given = guard.pass_on(body[at : at + size])
        came += given
        assert not given or came.endswith((newline * 2, newline * 2 + b"\r")) or len(came) == at + size
    assert came + concluded(guard) == body
    assert not guard.error


@pytest.mark.parametrize("size", [1, 1000])
def test_half_an_event_is_held_back_until_the_rest_comes(size: int) -> None:
    guard = guard_of()
    body = BEGIN + HALF
    assert b"".join(guard.pass_on(body[at : at + size]) for at in range(0, len(body), size)) == BEGIN
    assert guard.pass_on(b'"}\n\nda') == HALF + b'"}\n\n'


# What came, how it was cut off, and the code of the error; "" where that is an end.
ENDS: dict[str, tuple[bytes, str, str]] = {
    "whole": (STREAM, "", ""),
    "whole, and then reset": (STREAM, "connection reset", ""),
    "no blank line at the end": (STREAM.rstrip(b"\n"), "", ""),
    "a finish reason, and no [DONE]": (sse(*EVENTS, done=False), "", ""),
    "half an event": (BEGIN + HALF, "", "stream_truncated"),
    "whole events, and no end": (BEGIN, "", "stream_truncated"),
    "cut off": (BEGIN, "connection reset", "stream_truncated"),
    "nothing": (b"", "", "stream_empty"),
    "comments alone": (b": hi\n\n", "", "stream_empty"),
    "an error": (BEGIN + sse({"error": {"message": "Out."}}, done=False), "", ""),
    "a page": (b"<html><p>No</p></html>", "", ""),
}


@pytest.mark.parametrize("is_concluded", [True, False])
@pytest.mark.parametrize("case", ENDS)
def test_a_stream_without_its_end_gets_an_error_event(case: str, is_concluded: bool) -> None:
    body, cut, code = ENDS[case]
    guard = guard_of()
    came = guard.pass_on(body)
    if cut:
        guard.attempt.cut(cut)
    words = concluded(guard) if is_concluded else guard.last_words()
    if code:
        assert came == body.removesuffix(HALF)
        assert json.loads(words.removeprefix(b"data: "))["error"]["code"] == code
        assert guard.error == words
        assert b"on_truncated" not in words
    else:
        assert came + words == body


@pytest.mark.parametrize("half", [b"", HALF, b"data: {", b"data: [DO"])
def test_the_error_counts_whole_events(half: bytes) -> None:
    guard = guard_of()
    guard.pass_on(BEGIN + half)
    assert f"2 events, {len(BEGIN + half)} bytes received".encode() in concluded(guard)


@pytest.mark.parametrize("behind", [0, 1, 65_480, 65_536, 200_000])
def test_the_error_of_responses_has_the_number_after_the_last_one_that_the_client_got(behind: int) -> None:
    guard = guard_of("responses", 10**6)
    *whole, half = RESPONSE_STREAM.split(b"\n\n")[:4]
    guard.pass_on(b"\n\n".join([*whole, b":" + b"-" * behind, half]))
    words = concluded(guard)
    assert words.startswith(b"event: error\n")
    assert json.loads(words.partition(b"data: ")[2])["sequence_number"] == 3


def test_a_stream_that_is_too_large_goes_on_without_a_guard() -> None:
    guard = guard_of(limit=len(BEGIN) + 10)
    assert guard.pass_on(BEGIN + HALF[:5]) == BEGIN
    assert guard.pass_on(HALF[5:]) == HALF
    assert guard.pass_on(b"x") == b"x"
    assert concluded(guard) == b""


def test_a_piece_of_an_event_puts_no_heartbeat_off() -> None:
    now = 0.0
    attempt = Attempt(AnswerSpec("r", "chat"), Rule("r", (".",), heartbeat=5), asked=Asked(ENDPOINTS["chat"]))
    wait = ClientWait(Rule("r", (".",), heartbeat=5, guard_streams=True), attempt, lambda: now)
    guard = Guard(attempt, Asked(ENDPOINTS["chat"]), 10_000, wait.said)
    attempt.start_response(200, "text/event-stream")
    now = 2.0
    guard.pass_on(BEGIN)
    assert wait.next_deadline() == 5
    now = 4.0
    guard.pass_on(HALF)
    assert wait.next_deadline() == 3
