"""What an upstream's events report as an error, its status, and the body that the client gets."""

from typing import Any

import pytest
from force_stream import errors
from force_stream.errors import StreamError, UpstreamError, error_in
from force_stream.wire import jsontext

CHUNK = {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
NO_REASON = "the upstream reported an error without a reason"


@pytest.mark.parametrize(
    "chunk",
    [
        CHUNK,
        CHUNK | {"error": None},
        {"choices": [], "usage": {"total_tokens": 3}},
        {"type": "response.output_text.delta", "delta": "error"},
        {"type": "response.completed", "response": {"status": "completed", "error": None}},
        {"type": "response.done", "response": {"status": "completed"}},
        {"base_resp": {"status_code": 0, "status_msg": "success"}},
        {"success": True, "message": "ok"},
        {},
    ],
)
def test_an_event_without_an_error_reports_none(chunk: dict[str, Any]) -> None:
    assert error_in(chunk) is None


REPORTED = {
    "an error beside the chunk's envelope": (
        CHUNK | {"error": {"message": "busy", "code": 429}, "request_id": "r"},
        {"error": {"message": "busy", "code": 429}, "id": "c1", "request_id": "r"},
    ),
    "an error event of the Responses API": (
        {"type": "error", "message": "busy", "code": "rate_limit_exceeded", "sequence_number": 3},
        {"error": {"message": "busy", "code": "rate_limit_exceeded"}},
    ),
    "vLLM before 2025": (
        {"object": "error", "message": "busy", "code": 400},
        {"error": {"message": "busy", "code": 400}},
    ),
    "MiniMax": (
        {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
        {
            "error": {"message": "rate limit", "code": 1002},
            "base_resp": {"status_code": 1002, "status_msg": "rate limit"},
        },
    ),
    "DashScope": (
        {"code": "InvalidParameter", "message": "bad", "request_id": "r"},
        {"error": {"code": "InvalidParameter", "message": "bad", "request_id": "r"}},
    ),
    "a gateway's success: false": ({"success": False}, {"error": {"success": False, "message": NO_REASON}}),
    "an error without a message": ({"error": {"code": 500}}, {"error": {"code": 500, "message": NO_REASON}}),
}


@pytest.mark.parametrize("case", REPORTED)
def test_an_error_is_reported_with_all_that_the_event_said(case: str) -> None:
    chunk, body = REPORTED[case]
    assert error_in(chunk) == body


def test_an_events_name_makes_it_an_error() -> None:
    assert error_in({"message": "busy"}, "error") == {"error": {"message": "busy"}}


@pytest.mark.parametrize("kind", ["response.failed", "response.error", "response.done"])
def test_a_failed_response_keeps_its_response(kind: str) -> None:
    response = {"status": "failed", "error": {"message": "busy"}}
    assert error_in({"type": kind, "response": response}) == {"error": {"message": "busy"}, "response": response}
    said = error_in({"type": kind, "response": {"status": "failed"}})
    assert said is not None
    assert said["error"]["message"] == "the upstream reported that the response failed, without a reason"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"busy"', "busy"),
        ("true", "the upstream's error: true"),
        ("5.0", "the upstream's error: 5.0"),
        ("1E400", "the upstream's error: 1E400"),
        ('[{"a":null,"b":false}]', 'the upstream\'s error: [{"a":null,"b":false}]'),
    ],
)
def test_an_error_that_is_not_an_object_is_shown_as_json(text: str, message: str) -> None:
    said = error_in({"error": jsontext.loads(text)})
    assert said == {"error": {"message": message, "type": "upstream_error", "param": None, "code": None}}


@pytest.mark.parametrize("code", [0, "0", 200, "Success", None, ""])
def test_a_code_that_says_all_is_well_is_no_error(code: object) -> None:
    assert error_in({"code": code, "message": "Success", "usage": {}}) is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429}, 429),
        ({"code": "429"}, 429),
        ({"status": 503, "code": 429}, 503),
        ({"type": "rate_limit_error"}, 429),
        ({"code": "Context_Length_Exceeded"}, 400),
        ({"code": "new_code", "type": "overloaded_error"}, 529),
        ({"code": True}, 502),
        ({"code": 200}, 502),
        ({}, 502),
    ],
)
def test_the_status_is_the_first_that_an_error_names(error: dict[str, Any], status: int) -> None:
    assert UpstreamError({"error": error}).status_hint == status


def test_an_upstreams_error_has_the_status_that_it_or_its_event_names() -> None:
    assert UpstreamError({"error": {"code": 401}, "status_code": 500}).status_hint == 401
    assert UpstreamError({"error": {"message": "slow down"}, "status_code": 429}).status_hint == 429
    assert UpstreamError({"error": "busy"}).status_hint == 502


def test_no_number_is_too_long_for_a_status() -> None:
    assert UpstreamError({"error": {"code": "9" * 5_000}}).status_hint == 502


@pytest.mark.parametrize("kind", [kind for kind in StreamError.__subclasses__() if kind is not UpstreamError])
def test_an_error_of_the_addons_own_says_what_happened_where_and_what_to_try(kind: type[StreamError]) -> None:
    body = kind("it stopped").body("Rule r.")
    assert body["error"].pop("message") == f"it stopped. Rule r. {kind.advice}"
    assert body == {"error": {"type": errors.ERROR_TYPE, "param": None, "code": kind.code}}
    assert kind.advice.endswith(".")
