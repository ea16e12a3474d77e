"""The copy of a stream that passes live: every byte goes on, and what is kept has a limit."""

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.answer.unfold import Asked
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.guard import Guard
from force_stream.proxy.live_copy import LiveCopy
from force_stream.rules.rule import UNLIMITED
from harness.master import answer_with, flow_with

PIECES = [b"12345678", b"9abcdef", b"", b"x"]


@pytest.mark.parametrize(
    ("limit", "kept", "cut_at"),
    [(100, b"".join(PIECES), None), (8, b"12345678", 8), (9, b"12345678", 8), (7, None, None)],
)
def test_every_byte_goes_on_and_the_copy_ends_at_the_limit(limit: int, kept: bytes | None, cut_at: int | None) -> None:
    copy = LiveCopy(limit, AnswerSpec("r", "chat"))
    assert [copy(piece) for piece in PIECES] == PIECES
    flow = flow_with()
    answer_with(flow)
    assert flow.response is not None
    flow.response.raw_content = None
    copy.store(flow)
    assert flow.response.raw_content == kept
    assert flow.metadata.get("force_stream.cut_at") == cut_at
    if kept is not None:
        assert flow.metadata["force_stream.times"][-1] == len(kept)


def test_a_flow_does_not_keep_its_body_twice() -> None:
    copy = LiveCopy(100, AnswerSpec("r", "chat"))
    flow = flow_with()
    answer_with(flow)
    assert flow.response is not None
    flow.response.raw_content, flow.response.stream = None, copy
    for piece in PIECES:
        copy(piece)
    copy.store(flow)
    assert copy._body.whole() is flow.response.raw_content


def test_a_body_that_mitmproxy_holds_stays() -> None:
    copy = LiveCopy(100, AnswerSpec("r", "chat"))
    copy(b"data")
    flow = flow_with()
    answer_with(flow, b"held")
    copy.store(flow)
    assert flow.response is not None
    assert (flow.response.raw_content, flow.metadata) == (b"held", {})


def test_the_copy_of_a_guarded_stream_has_what_its_client_does_not_get_yet() -> None:
    asked = Asked(ENDPOINTS["chat"])
    attempt = Attempt(AnswerSpec("r", "chat"), UNLIMITED, asked=asked)
    wait = ClientWait(UNLIMITED, attempt)
    wait.guard = Guard(attempt, asked, 100, wait.said)
    attempt.start_response(200, "text/event-stream")
    copy = LiveCopy(100, AnswerSpec("r", "chat"), wait)
    # mitmproxy would write a piece of no bytes as the end of the body.
    assert [copy(piece) for piece in (b"data: {}\n\nda", b"ta:", b"")] == [b"data: {}\n\n", (), ()]
    assert copy.size == len(b"data: {}\n\ndata:")
