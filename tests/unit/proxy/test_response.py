"""A flow's response: what it holds, and what it becomes."""

from typing import Any

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.answer.report import Reply
from force_stream.proxy.attempt import Attempt, Fields
from force_stream.proxy.notes import UnreadableFlow, save_notes
from force_stream.proxy.response import (
    copy_outcome,
    early_head,
    is_as_received,
    kept_answer,
    make_sendable,
    may_retry,
    observe_whole,
    pass_through,
    retry_after,
    set_reply,
    store_answer,
    streams,
    text_of,
    upstreams_body,
)
from force_stream.rules.rule import UNLIMITED
from harness.master import answer_with, flow_with
from harness.samples import CHAT, STREAM
from mitmproxy import http

SPEC = AnswerSpec("r", "chat", "m")


def answered(**headers: str) -> http.HTTPFlow:
    flow = flow_with()
    answer_with(flow)
    assert flow.response is not None
    for name, value in headers.items():
        flow.response.headers[name.replace("_", "-")] = value
    return flow


def test_a_reply_takes_the_place_of_the_stream_and_its_headers_are_true() -> None:
    flow = answered(transfer_encoding="chunked", etag="x", x_request_id="1", connection="close", digest="y")
    response = flow.response
    assert response is not None
    response.http_version = "HTTP/1.0"
    response.trailers = http.Headers(x="1")
    set_reply(flow, Reply(502, b"{}", {"x-should-retry": "false"}))
    assert (response.status_code, response.reason, response.http_version) == (502, "Bad Gateway", "HTTP/1.1")
    assert response.trailers is None
    assert response.raw_content == b"{}"
    assert {name.lower(): value for name, value in response.headers.items()} == {
        "content-type": "application/json",
        "x-request-id": "1",
        "content-length": "2",
        "x-should-retry": "false",
    }


def test_a_reply_keeps_the_headers_that_say_which_page_may_read_it() -> None:
    kept = {"access-control-allow-origin": "app://x", "access-control-expose-headers": "x-request-id", "vary": "Origin"}
    flow = answered(**kept)
    set_reply(flow, Reply(502, b"{}"))
    assert flow.response is not None
    assert kept.items() <= {name.lower(): value for name, value in flow.response.headers.items()}.items()


HEAD = ((b"X-Request-Id", b"1"), (b"vary", b"Origin"), (b"Access-Control-Allow-Origin", b"app://x"))


@pytest.mark.parametrize(
    ("status", "is_over", "origin", "fields"),
    [
        pytest.param(0, False, "", (), id="no head yet"),
        pytest.param(0, False, "app://x", None, id="no head yet for a page"),
        pytest.param(0, True, "app://x", None, id="none at all for a page"),
        pytest.param(200, False, "app://x", HEAD, id="its head"),
        pytest.param(503, False, "", None, id="an error"),
        pytest.param(200, True, "", HEAD[1:], id="an answer that another one replaces"),
        pytest.param(503, True, "app://x", HEAD[1:], id="an error that another answer replaces"),
    ],
)
def test_an_early_head_says_what_is_known_of_the_answer(
    status: int, is_over: bool, origin: str, fields: Fields | None
) -> None:
    flow, attempt = flow_with(), Attempt(SPEC, UNLIMITED)
    if origin:
        flow.request.headers["origin"] = origin
    if status:
        attempt.start_response(status, "text/event-stream", fields=(*HEAD, (b"content-length", b"9")))
    if is_over:
        attempt.cut("reset")
    head = early_head(flow, attempt)
    if fields is None:
        assert head is None
        return
    assert head is not None
    assert head.status_code == 200
    json_head = ((b"Content-Type", b"application/json"), (b"Transfer-Encoding", b"chunked"))
    assert head.headers.fields == (*fields, *json_head)


def test_a_status_without_a_name_has_no_reason() -> None:
    flow = answered()
    set_reply(flow, Reply(529, b"{}"))
    assert flow.response is not None
    assert flow.response.reason == ""


def test_text_is_utf_8_whatever_its_label_says() -> None:
    response = http.Response.make(200, "\ufeffö".encode(), {"content-type": "application/json; charset=latin-1"})
    assert text_of(response) == "ö"


def test_the_event_stream_is_the_kept_one_or_the_response_itself() -> None:
    flow = answered()
    assert upstreams_body(flow) == STREAM
    save_notes(flow, {"sse": b"data: kept\n\n"})
    assert upstreams_body(flow) == b"data: kept\n\n"
    answer_with(flow, b"{}", "application/json")
    flow.metadata = {}
    assert upstreams_body(flow) is None


@pytest.mark.parametrize(
    ("notes", "path", "spec"),
    [
        pytest.param({"forced": True}, "/", SPEC, id="forced"),
        pytest.param({"rule": "r", "endpoint": "responses"}, "/", AnswerSpec("r", "responses", "m"), id="live"),
        pytest.param({}, "/v1/completions", AnswerSpec("(none)", "completions"), id="by its path"),
    ],
)
def test_what_an_answer_is_read_by_is_noted_or_follows_from_the_path(
    notes: dict[str, Any], path: str, spec: AnswerSpec
) -> None:
    flow = answered()
    flow.request.path = path
    save_notes(flow, notes, spec if "forced" in notes else None)
    assert kept_answer(flow) == (spec, 200, "text/event-stream")
    save_notes(flow, {"sse": b"", "sse_status": 400, "sse_type": "text/plain"})
    assert kept_answer(flow) == (spec, 400, "text/plain")


@pytest.mark.parametrize(
    ("changes", "path", "why"),
    [
        ({}, "/v1/models", "/v1/models is not a known endpoint"),
        ({"rule": "r"}, CHAT, "its force_stream.endpoint is missing"),
        ({"endpoint": "chat"}, CHAT, "its force_stream.rule is missing"),
        ({"sse": STREAM}, CHAT, "its force_stream.sse_status is missing"),
        ({"sse": STREAM, "sse_status": 200}, CHAT, "its force_stream.sse_type is missing"),
        ({"forced": True, "rule": "r", "endpoint": "chat"}, CHAT, "its force_stream.model is missing"),
        ({"sse": STREAM, "status": 502}, CHAT, "its answer is not that of its own try"),
        ({"odd": "x"}, CHAT, "its force_stream.odd has a value that this version does not write"),
        ({"rule": "r", "endpoint": "sonnets"}, CHAT, "its force_stream.endpoint has a value that this version does .*"),
    ],
)
def test_where_it_is_not_known_how_an_answer_was_made_the_reason_is_said(
    changes: dict[str, Any], path: str, why: str
) -> None:
    flow = answered()
    flow.request.path = path
    save_notes(flow, changes)
    with pytest.raises(UnreadableFlow, match=f"^{why}$"):
        kept_answer(flow)


def test_an_attempt_can_be_given_the_whole_body_unless_mitmproxy_streamed_it() -> None:
    flow, attempt = answered(), Attempt(SPEC, UNLIMITED)
    assert observe_whole(flow, attempt)
    assert attempt.complete
    store_answer(flow, attempt, None)
    assert [flow.metadata.get(f"force_stream.{key}") for key in ("sse", "sse_status", "sse_type")] == [
        STREAM,
        200,
        "text/event-stream",
    ]
    assert flow.response is not None
    flow.response.raw_content = None
    assert not observe_whole(flow, Attempt(SPEC, UNLIMITED))


@pytest.mark.parametrize(
    ("status", "came", "now", "status_now", "as_received"),
    [
        (200, STREAM, STREAM, 200, True),
        (200, STREAM, STREAM, 403, True),
        (200, STREAM, STREAM[1:], 200, False),
        (200, STREAM, b"", 200, False),
        (200, STREAM, None, 200, False),
        (200, STREAM, b"", 204, False),
        (204, b"none may come", b"", 204, True),
        (0, b"", b"", 502, True),
    ],
)
def test_a_body_that_another_addon_gave_a_response_is_not_the_one_that_was_received(
    status: int, came: bytes, now: bytes | None, status_now: int, as_received: bool
) -> None:
    attempt = Attempt(SPEC, UNLIMITED)
    if status:
        attempt.start_response(status, "text/event-stream")
        attempt.receive(came)
    response = http.Response.make(status_now)
    response.raw_content = now
    assert is_as_received(response, attempt) is as_received
    attempt.record_bug(ZeroDivisionError())
    assert is_as_received(response, attempt)


def test_nothing_is_kept_of_an_answer_that_never_began() -> None:
    flow, attempt = answered(), Attempt(SPEC, UNLIMITED)
    attempt.cut("refused")
    store_answer(flow, attempt, None)
    assert flow.metadata == {}


@pytest.mark.parametrize("framing", [{"content_length": "1000"}, {"transfer_encoding": "chunked"}, {}])
def test_the_length_of_a_body_without_its_end_is_that_of_what_came(framing: dict[str, str]) -> None:
    flow, attempt = answered(**framing), Attempt(SPEC, UNLIMITED)
    pass_through(flow, attempt)
    assert flow.response is not None
    assert flow.response.headers["content-length"] == str(len(STREAM))
    assert "transfer-encoding" not in flow.response.headers


@pytest.mark.parametrize(
    ("status", "code", "truncated", "again"),
    [
        (503, "", False, True),
        (429, "upstream_error", False, True),
        (400, "", False, False),
        (200, "", False, False),
        (200, "", True, True),
        (502, "stream_too_large", False, False),
        (502, "force_stream_error", False, False),
    ],
)
def test_only_what_may_pass_is_worth_another_attempt(status: int, code: str, truncated: bool, again: bool) -> None:
    attempt = Attempt(SPEC, UNLIMITED)
    report = attempt.report
    report.status, report.code, report.truncated = status, code, truncated
    assert may_retry(attempt) is again


def test_the_outcome_of_another_attempt_becomes_the_flows_and_is_marked() -> None:
    flow, again = answered(), answered(retry_after="3")
    again.comment = "r: chat m, 200"
    save_notes(again, {"try": 2})
    attempt = Attempt(SPEC, UNLIMITED)
    attempt.start_response(200, "")
    copy_outcome(flow, again, attempt)
    assert (flow.comment, flow.marked) == ("r: chat m, 200, try 2", ":warning:")
    assert retry_after(flow) == "3"
    copy_outcome(flow, again, attempt, "sent plain: so it is")
    assert flow.comment == "r: chat m, 200, try 2; sent plain: so it is"
    again.response = None
    copy_outcome(flow, again, attempt)
    assert flow.response is not None


@pytest.mark.parametrize("has_response", [True, False])
def test_a_try_without_a_response_leaves_what_says_which_pages_may_read_it(has_response: bool) -> None:
    flow, again, attempt = (
        answered(access_control_allow_origin="*", vary="Origin", x="1"),
        answered(),
        Attempt(SPEC, UNLIMITED),
    )
    save_notes(again, {"try": 2})
    if has_response:
        attempt.start_response(200, "")
    for _ in range(2):
        copy_outcome(flow, again, attempt)
    assert flow.response is not None
    left = {name: value for name, value in flow.response.headers.items() if not name.lower().startswith("content-")}
    assert left == ({} if has_response else {"access-control-allow-origin": "*", "vary": "Origin"})


@pytest.mark.parametrize(
    ("body", "content_type", "status", "expected"),
    [
        (STREAM, "text/event-stream", 200, True),
        (STREAM, "application/json", 200, True),
        (STREAM, "", 200, True),
        (b"\xef\xbb\xbf: OPENROUTER\n\nevent: x\ndata: {}", "text/plain", 200, True),
        (b"data:[1]", "text/plain", 200, True),
        (b"", "text/event-stream", 200, True),
        (STREAM, "text/event-stream", 400, False),
        (b"{}", "application/json", 200, False),
        (b"data: what a man said", "text/plain", 200, False),
        (b"1\n00:00:00 --> 00:00:02\ndata: {", "text/plain", 200, False),
    ],
)
def test_an_event_stream_is_known_by_its_label_or_by_how_it_begins(
    body: bytes, content_type: str, status: int, expected: bool
) -> None:
    flow = flow_with()
    answer_with(flow, body, content_type, status)
    assert flow.response is not None
    assert streams(flow.response) is expected


@pytest.mark.parametrize(
    ("status", "body", "announced", "expected"),
    [
        pytest.param(200, b"{}", "5", (b"{}", "2"), id="a wrong length"),
        pytest.param(200, b"{}", None, (b"{}", None), id="none"),
        pytest.param(200, None, "2", (b"", "0"), id="no body"),
        pytest.param(204, b"{}", None, (b"", None), id="a status without a body"),
        pytest.param(304, b"{}", "2", (b"", "2"), id="one whose length is that of another answer"),
    ],
)
def test_what_other_addons_have_edited_ends_where_its_head_says(
    status: int, body: bytes | None, announced: str | None, expected: tuple[bytes, str | None]
) -> None:
    made = http.Response.make(status)
    made.raw_content = body
    made.headers = http.Headers([] if announced is None else [(b"content-length", announced.encode())])
    made.trailers = http.Headers(x="y")
    make_sendable(made, with_trailers=True)
    assert (made.raw_content, made.headers.get("content-length"), made.trailers) == (*expected, http.Headers(x="y"))
    make_sendable(made, with_trailers=False)
    assert made.trailers is None
