"""What becomes of a saved flow whose answer is made again: by which rule, with what to revert to, or not at all."""

import asyncio
import json
from typing import Any

import pytest
from force_stream.proxy.notes import UnreadableFlow, save_notes
from force_stream.proxy.response import upstreams_body
from force_stream.proxy.saved import aggregate_again
from force_stream.rules.rule import Rule
from harness import sse
from harness.foreign import saved_plain_flow
from harness.master import answer_with, flow_with
from harness.samples import DOCUMENT, EVENTS, STREAM
from mitmproxy import http

CUT = sse(*EVENTS[:2], done=False)


def saved(**notes: Any) -> http.HTTPFlow:
    """A flow of a file, with the upstream's event stream as its answer."""
    flow = flow_with()
    answer_with(flow)
    flow.live = False
    save_notes(flow, {"rule": "r", "endpoint": "chat", **notes})
    return flow


def again(flow: http.HTTPFlow, stream: bytes, *rules: Rule, backup: bool = False) -> Any:
    """The document that the stream makes now."""
    asyncio.run(aggregate_again(flow, stream, rules, backup=backup))
    assert flow.response is not None
    return json.loads(flow.response.content or b"")


def test_the_flow_gets_the_document_and_keeps_the_stream() -> None:
    flow = saved()
    assert again(flow, STREAM) == DOCUMENT
    assert flow.metadata["force_stream.sse"] == STREAM
    assert again(flow, STREAM) == DOCUMENT


@pytest.mark.parametrize("with_usage", [False, True])
def test_a_plain_answer_becomes_the_same_events_again(with_usage: bool) -> None:
    flow = saved_plain_flow(with_usage=with_usage)
    assert flow.response is not None
    events = flow.response.raw_content or b""
    assert (b'"usage":{' in events) == with_usage
    flow.response.raw_content = b"data: another version's\n\n"
    asyncio.run(aggregate_again(flow, flow.metadata["force_stream.sse"], ()))
    assert flow.response.raw_content == events
    assert flow.response.headers["content-type"] == "text/event-stream"


def test_of_a_version_that_kept_the_events_alone_a_document_is_made() -> None:
    flow = saved_plain_flow()
    for name in ("sse", "sse_status", "sse_type", "given", "with_usage"):
        del flow.metadata[f"force_stream.{name}"]
    stream = upstreams_body(flow)
    assert stream is not None
    assert again(flow, stream) == DOCUMENT


@pytest.mark.parametrize(("name", "status"), [("r", 200), ("another", 502)])
def test_the_rule_that_took_it_decides_as_it_is_now(name: str, status: int) -> None:
    flow = saved()
    again(flow, CUT, Rule(name, (), on_truncated="partial"))
    assert flow.response is not None
    assert flow.response.status_code == status


# How an answer ended, as its flow says, and what is said of it when it is made again.
ENDS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "a silence": (
        {"error": "stream_timeout", "limit": "the upstream sent no byte for 9 s", "ended": 10.0},
        504,
        "stream_timeout",
        "the upstream sent no byte for 9 s, after event 2",
    ),
    "too large": (
        {"error": "stream_too_large", "limit": "the upstream's answer is larger than 9 bytes"},
        502,
        "stream_too_large",
        "the upstream's answer is larger than 9 bytes",
    ),
    "a reset": (
        {"error": "stream_truncated", "cut_by": "connection reset", "times": [1.0, len(CUT)], "ended": 6.1},
        502,
        "stream_truncated",
        "cut off after event 2 (connection reset), 5.1 s after the last byte",
    ),
    "a client that gave up": (
        {"error": "client_gone", "cut_by": "the client gave up"},
        502,
        "stream_truncated",
        "cut off after event 2 (the client gave up)",
    ),
    "nothing known of it": ({}, 502, "stream_truncated", "cut off after event 2 (the upstream ended it)"),
}


@pytest.mark.parametrize(("notes", "status", "code", "cause"), ENDS.values(), ids=list(ENDS))
def test_a_failure_made_again_stays_what_it_was(notes: dict[str, Any], status: int, code: str, cause: str) -> None:
    flow = saved(**notes)
    for _ in range(2):
        assert again(flow, CUT)["error"]["code"] == code
        assert flow.response is not None
        assert flow.response.status_code == status
        assert flow.metadata["force_stream.cause"] == cause
        assert flow.comment.startswith(f"{cause}; ")


@pytest.mark.parametrize("backup", [True, False])
def test_it_can_be_reverted_where_that_is_wanted(backup: bool) -> None:
    flow = saved()
    again(flow, STREAM, backup=backup)
    flow.revert()
    assert flow.response is not None
    assert (flow.response.content == STREAM) is backup


def test_a_flow_with_notes_that_are_not_understood_stays_as_it_is() -> None:
    flow = saved(endpoint=["chat"])
    before = flow.get_state()
    with pytest.raises(UnreadableFlow):
        again(flow, STREAM, backup=True)
    assert flow.get_state() == before
