"""In which pieces a body comes changes nothing, though pieces that are alike wait for one another."""

import json
from itertools import pairwise
from typing import Any

import pytest
from force_stream.answer.reader import AnswerSpec
from hypothesis import given
from hypothesis import strategies as st


def event(text: str | None, finish: str | None = None, index: int = 0) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def answer() -> Any:
    return AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")


DONE = b"data: [DONE]\n\n"


@given(st.lists(st.text(max_size=8), max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_event_by_event_the_answer_is_that_of_the_whole(texts: list[str], odd: list[int]) -> None:
    pieces = [event(text.encode(errors="replace").decode()) for text in texts]
    for at in odd:
        pieces.insert(at, b": keep-alive\n\n")
    pieces += [event(None, "stop"), DONE]
    whole, one_by_one = answer(), answer()
    whole.feed(b"".join(pieces))
    for piece in pieces:
        one_by_one.feed(piece)
    assert one_by_one.finish() == whole.finish()
    assert one_by_one.report == whole.report


def test_pieces_that_say_more_of_the_same_wait() -> None:
    made = answer()
    read_at_once = [made.feed(event(word)) for word in ("", "Once", " upon", " a", " time")]
    assert read_at_once[-2:] == [False, False]
    assert made.report.events == 5


def test_pieces_that_take_turns_wait_too() -> None:
    made = answer()
    pieces = [event(f"w{number}", index=number % 2) for number in range(12)]
    assert [made.feed(piece) for piece in pieces][4:] == [False] * 8
    assert made.report.events == 12


def test_a_comment_may_come_byte_by_byte() -> None:
    made = answer()
    for piece in (
        event("Once"),
        event(" upon"),
        event(" a"),
        b":",
        b"\n",
        b"\n",
        event(" time"),
        event("", "stop"),
        DONE,
    ):
        made.feed(piece)
        made.read_waiting()
    assert json.loads(made.finish().body)["choices"][0]["message"]["content"] == "Once upon a time"


@pytest.mark.parametrize("size", [100, 1000, 8000])
def test_of_events_that_take_turns_the_last_waits_with_what_has_begun_behind_it(size: int) -> None:
    body = b"".join(event(f"w{number}", index=number % 2) for number in range(400)) + event("x" * 40_000) + DONE
    whole, in_pieces = answer(), answer()
    whole.feed(body)
    for at in range(0, len(body), size):
        in_pieces.feed(body[at : at + size])
    assert in_pieces.finish() == whole.finish()
    assert in_pieces.report == whole.report


def test_pieces_that_wait_are_read_before_they_are_many() -> None:
    made = answer()
    size = len(event("word"))
    waited = [made.feed(event("word")) for _ in range(40 * 1024 // size)]
    assert True in waited[5:]


@pytest.mark.parametrize("last", [event(None, "stop"), DONE, event("!", "stop")])
def test_what_may_end_a_stream_never_waits(last: bytes) -> None:
    made = answer()
    for word in ("", "Once", " upon", " a", " time"):
        made.feed(event(word))
    assert not made.finished
    assert not made.ended
    assert made.feed(last)
    assert made.finished or made.ended


def test_what_comes_behind_an_end_in_one_piece_with_it_is_no_part_of_the_answer() -> None:
    made = answer()
    for word in ("", "Once", " upon", " a", " time"):
        made.feed(event(word))
    made.feed(event("!", "stop") + DONE + event("more"))
    assert json.loads(made.finish().body)["choices"][0]["message"]["content"] == "Once upon a time!"


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
JSON_BODIES = {
    "an answer": {"id": "c", "choices": [CHOICE]},
    "a chunk": {"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
    "an error": {"error": {"message": "No", "code": "rate_limit_exceeded"}},
    "words": {"message": "Please wait"},
    "nothing": {},
}
FOLLOWED_BY = [
    *("\ndata: [DONE]", "\n\ndata: [DONE]\n\n", "\n[DONE]", "\n: x\n\n", "\nevent: x", "\n{}", "\nNo", "No", "\n\n7"),
]


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", "text/plain"])
@pytest.mark.parametrize("rest", FOLLOWED_BY)
@pytest.mark.parametrize("case", JSON_BODIES)
def test_json_that_something_follows_is_the_same_in_any_pieces(case: str, rest: str, label: str) -> None:
    head = json.dumps(JSON_BODIES[case]).encode()
    body, end = head + rest.encode(), len(head)
    found = []
    for cuts in ([], [end], [end + 1], [end - 1, end, end + 1], range(1, len(body))):
        made = AnswerSpec(rule="r", endpoint="chat").read(200, label)
        for start, stop in pairwise([0, *cuts, len(body)]):
            made.feed(body[start:stop])
        found.append((made.finish(), made.report))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("size", [1, 9, 700])
def test_what_an_error_status_says_is_the_same_in_any_pieces(size: int) -> None:
    # The API sends its answers as texts too.
    body = b"Loading\n\nplease\n\n" + b"wait " * 300
    spec = AnswerSpec(rule="r", endpoint="transcriptions")
    whole, in_pieces = (spec.read(503, "text/event-stream") for _ in range(2))
    whole.feed(body)
    for at in range(0, len(body), size):
        in_pieces.feed(body[at : at + size])
    assert in_pieces.finish() == whole.finish()
    assert in_pieces.report == whole.report
