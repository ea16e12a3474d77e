"""The errors that events report, those that they only seem to report, and the body that the client gets."""

from typing import Any

import pytest
from force_stream.errors import UpstreamError
from force_stream.errors.events import error_from_words, error_in, is_never_error
from force_stream.wire import jsontext

CHUNK = {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
NO_REASON = "the upstream reported an error without a reason"
NULLS = {"type": None, "param": None, "code": None}
EMPTY = {"message": "", "type": "", "param": "", "code": None}

NONE: list[dict[str, Any]] = [
    CHUNK,
    {"choices": [], "usage": {"total_tokens": 3}},
    {"type": "response.output_text.delta", "delta": "error"},
    {"type": "response.completed", "response": {"status": "completed", "error": None}},
    {"type": "response.done", "response": {"status": "completed"}},
    {"type": "response.code_interpreter_call_code.done", "code": "raise ValueError('error 500')"},
    {"type": "response.output_item.done", "item": {"type": "mcp_call", "error": "denied", "status": "failed"}},
    {"type": "response.mcp_call.failed", "error": "the tool's server is down", "item_id": "m1"},
    {"type": "image_generation.partial_failed", "image_index": 1, "error": {"code": "X", "message": "no"}},
    {"type": "message_start", "message": {"id": "m", "content": []}},
    {"type": "content_block_start", "content_block": {"type": "web_search_tool_result_error", "error_code": "x"}},
    {"type": "ping", "status": "ok"},
    {"base_resp": {"status_code": 0, "status_msg": "success"}},
    {"success": True, "message": "ok"},
    {"ok": True},
    {"status": "ok", "message": "warming up"},
    {"status": "in_progress"},
    {"error_code": 0, "error_msg": ""},
    {"error_code": 0, "error_msg": "success"},
    {"errcode": "0", "errmsg": "ok"},
    {"error_message": None, "error_type": "none"},
    {"errors": []},
    {"errors": [None, {}]},
    {"fault": None},
    {"message": "Internal server error"},
    {"detail": "Model is overloaded"},
    {"name": "get_weather", "reason": "tool"},
    {"id": "m", "status": "completed", "name": "x"},
    {"data": {"error": None, "choices": []}},
    {"x_groq": {"id": "r"}},
    {"code": 100, "message": "continue"},
    {"code": 1, "msg": "success"},
    {"code": 10000, "message": "ok", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"code": 200, "data": {"text": "a"}},
    {"copilot_errors": [{"type": "reference", "code": "1"}]},
    {"event_type": "text-generation", "text": "error: no"},
    {},
    CHUNK | {"status": 500, "message": "a field of the provider's own"},
    CHUNK | {"code": 1002, "message": "a field of the provider's own"},
    CHUNK | {"detail": "x", "name": "y", "reason": "z"},
    CHUNK | {"usage": {"prompt_tokens_details": {"error": "x"}}},
    {"choices": [{"index": 0, "delta": {"content": '{"error": {"message": "x"}}'}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": '{"error": 1}'}}]}}]},
    {"choices": [{"index": 0, "delta": {"annotations": [{"error": "x"}], "error": None}, "error": {}}]},
    {"choices": [{"index": 0, "content_filter_result": {"error": {"code": "content_filter_error"}}}]},
    {"choices": [{"index": 0, "delta": {"role": "tool", "tool_call_id": "c", "error": "no such file"}}]},
    {"choices": [None, 1, "x"]},
    {"choices": "x"},
    {"choices": {"error": "x"}},
]


@pytest.mark.parametrize("chunk", NONE)
def test_an_event_without_an_error_reports_none(chunk: dict[str, Any]) -> None:
    assert error_in(chunk) is None


@pytest.mark.parametrize(
    "error",
    [None, {}, "", " ", "null", "None", False, [], 0, "0", "ok", EMPTY, [EMPTY], {"code": 0, "message": "success"}],
)
def test_an_error_that_says_nothing_is_none_wherever_it_stands(error: object) -> None:
    assert error_in({"error": error}) is None
    assert error_in(CHUNK | {"error": error}) is None
    assert error_in(CHUNK | {"errors": error, "x_groq": {"error": error}}) is None
    assert error_in({"choices": [{"index": 0, "delta": {"content": "a", "error": error}, "error": error}]}) is None
    assert error_in({"type": "response.output_text.delta", "error": error}) is None


@pytest.mark.parametrize("code", [0, "0", "0000", 200, "200", 20000, "Success", "SUCCESS", "ok", None, ""])
def test_a_code_that_says_all_is_well_is_no_error(code: object) -> None:
    assert error_in({"code": code, "message": "Success", "usage": {}}) is None
    assert error_in({"error_code": code, "message": "Success"}) is None
    assert error_in({"base_resp": {"status_code": code, "status_msg": "fine"}}) is None


REPORTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an error beside the chunk's envelope": (
        CHUNK | {"error": {"message": "busy", "code": 429}, "request_id": "r"},
        {"error": NULLS | {"message": "busy", "code": 429}, "id": "c1", "request_id": "r"},
    ),
    "an error event of the Responses API": (
        {"type": "error", "message": "busy", "code": "rate_limit_exceeded", "sequence_number": 3},
        {"error": NULLS | {"message": "busy", "code": "rate_limit_exceeded"}},
    ),
    "vLLM before 2025": (
        {"object": "error", "message": "busy", "code": 400},
        {"error": NULLS | {"message": "busy", "code": 400}},
    ),
    "MiniMax": (
        {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
        {
            "error": NULLS | {"message": "rate limit", "code": 1002},
            "base_resp": {"status_code": 1002, "status_msg": "rate limit"},
        },
    ),
    "DashScope": (
        {"code": "InvalidParameter", "message": "bad", "request_id": "r"},
        {"error": NULLS | {"code": "InvalidParameter", "message": "bad", "request_id": "r"}},
    ),
    "a gateway's success: false": ({"success": False}, {"error": NULLS | {"success": False, "message": NO_REASON}}),
    "an error without a message": ({"error": {"code": 500}}, {"error": NULLS | {"code": 500, "message": NO_REASON}}),
    "words beside the error": (
        {"error": {"code": 500}, "message": "busy"},
        {"error": NULLS | {"code": 500, "message": "busy"}, "message": "busy"},
    ),
    "words of another name": (
        {"error": {"msg": "busy", "param": "n"}},
        {"error": {"msg": "busy", "message": "busy", "type": None, "param": "n", "code": None}},
    ),
    "a message that is an object (Mistral)": (
        {"object": "error", "message": {"detail": [{"msg": "too long"}]}, "type": "invalid_request_error"},
        {"error": NULLS | {"message": '{"detail":[{"msg":"too long"}]}', "type": "invalid_request_error"}},
    ),
    "an error that is true": (
        {"error": True, "message": "busy"},
        {"error": NULLS | {"message": "busy", "type": "upstream_error"}, "message": "busy"},
    ),
    "an error that is a code": (
        {"error": "invalid_client", "error_description": "no such client"},
        {
            "error": NULLS | {"message": "no such client", "type": "upstream_error", "code": "invalid_client"},
            "error_description": "no such client",
        },
    ),
    "one error in a list": (
        {"errors": [{"message": "busy", "code": 3040}], "success": False},
        {
            "error": NULLS | {"message": "busy", "code": 3040},
            "errors": [{"message": "busy", "code": 3040}],
            "success": False,
        },
    ),
    "inside a choice": (
        {
            "id": "c",
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": {"code": 502}}],
        },
        {"error": NULLS | {"code": 502, "message": NO_REASON}, "id": "c"},
    ),
    "inside the second choice's delta": (
        {"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "a", "error": "busy"}}]},
        {"error": NULLS | {"message": "busy", "type": "upstream_error"}},
    ),
    "inside a choice's message": (
        {"choices": [{"index": 0, "message": {"content": "a", "error": {"message": "busy"}}}]},
        {"error": NULLS | {"message": "busy"}},
    ),
    "Groq": (
        {"choices": [], "x_groq": {"id": "r", "error": "model over capacity"}},
        {
            "error": NULLS | {"message": "model over capacity", "type": "upstream_error"},
            "x_groq": {"id": "r", "error": "model over capacity"},
        },
    ),
}


@pytest.mark.parametrize("case", REPORTED)
def test_an_error_is_reported_with_all_that_the_event_said(case: str) -> None:
    chunk, body = REPORTED[case]
    assert error_in(chunk) == body


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        ({"error_message": "busy"}, "busy"),
        ({"errorMessage": "busy", "errorCode": 7}, "busy"),
        ({"error_code": "E7"}, NO_REASON),
        ({"error_type": "BadRequestError", "detail": "busy"}, "busy"),
        (CHUNK | {"error_message": "busy"}, "busy"),
        (CHUNK | {"error_code": 336501, "error_msg": "busy"}, "busy"),
        ({"statusCode": 500, "message": "busy"}, "busy"),
        ({"status": 503}, NO_REASON),
        ({"status": "503", "detail": "busy"}, "busy"),
        ({"status": "error", "message": "busy"}, "busy"),
        ({"status": "failed", "reason": "busy"}, "busy"),
        ({"success": "false", "msg": "busy"}, "busy"),
        ({"ok": False, "description": "busy"}, "busy"),
        ({"code": 1, "msg": "busy"}, "busy"),
        ({"code": 500}, NO_REASON),
        ({"code": "Throttling"}, NO_REASON),
        ({"code": -1, "detail": "busy"}, "busy"),
        (
            {"code": 1, "message": "busy", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            "busy",
        ),
        ({"code": 1, "message": "busy", "choices": None}, "busy"),
        ({"fault": {"faultstring": "busy"}}, "busy"),
        ({"detail": [{"loc": ["body"], "msg": "busy"}]}, "busy"),
        ({"detail": {"error": {"message": "busy"}}}, "busy"),
        ({"data": {"error": {"message": "busy"}}}, "busy"),
        ({"Response": {"Error": {"Code": "AuthFailure", "Message": "busy"}}}, "busy"),
        ({"throttlingException": {"message": "busy"}}, "busy"),
        ({"name": "RateLimitError", "message": "busy"}, "busy"),
        ({"__type": "ThrottlingException", "message": "busy"}, "busy"),
        ({"type": "rate_limit_error", "message": "busy"}, "busy"),
        ({"type": "about:blank", "title": "busy", "status": 429}, "busy"),
        ({"type": "stream_error", "message": "busy"}, "busy"),
        ({"type": "response.failed"}, NO_REASON),
        ({"object": "error", "detail": "busy"}, "busy"),
    ],
)
def test_an_object_that_says_so_is_an_error(chunk: dict[str, Any], message: str) -> None:
    body = error_in(chunk)
    assert body is not None
    assert body["error"]["message"] == message
    assert body["error"].keys() >= {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "chunk",
    [
        {"errors": [{"message": "busy", "code": 7}]},
        {"base_resp": {"status_msg": "busy", "status_code": 7}},
        {"data": {"error": {"message": "busy", "code": 7}}},
        {"throttlingException": {"message": "busy", "code": 7}},
        {"choices": [{"index": 0, "delta": {}, "error": {"message": "busy", "code": 7}}]},
    ],
)
@pytest.mark.parametrize("event", ["", "error", "exception"])
def test_an_error_inside_an_event_is_found_whatever_the_event_is_called(chunk: dict[str, Any], event: str) -> None:
    body = error_in(chunk, event)
    assert body is not None
    assert (body["error"]["message"], body["error"]["code"]) == ("busy", 7)


@pytest.mark.parametrize("event", ["error", "Error", "stream_error", "modelStreamErrorException"])
def test_an_events_name_makes_it_an_error(event: str) -> None:
    assert error_in({"message": "busy"}, event) == {"error": NULLS | {"message": "busy"}}


@pytest.mark.parametrize("kind", ["response.failed", "response.error", "response.done"])
def test_a_failed_response_keeps_its_response(kind: str) -> None:
    response = {"status": "failed", "error": {"message": "busy"}}
    assert error_in({"type": kind, "response": response}) == {
        "error": NULLS | {"message": "busy"},
        "response": response,
    }
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
        ('["a","b"]', 'the upstream\'s error: ["a","b"]'),
    ],
)
def test_an_error_that_is_not_an_object_is_shown_as_json(text: str, message: str) -> None:
    said = error_in({"error": jsontext.loads(text)})
    assert said == {"error": NULLS | {"message": message, "type": "upstream_error"}}


def test_an_error_is_found_at_any_depth_and_size() -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = {"a": deep}
    assert error_in({"error": deep}) is not None
    assert error_in({"detail": deep}) is None
    assert error_in({f"n{number}": number for number in range(10_000)}) is None


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        ({"detail": "busy"}, 502, {"detail": "busy", "message": "busy", "code": "stream_malformed"}),
        ({"message": "Internal server error"}, 500, {"message": "Internal server error", "code": None}),
        (
            {"msg": "busy", "code": "E7", "type": "t"},
            502,
            {"msg": "busy", "message": "busy", "code": "E7", "type": "t"},
        ),
        ("upstream error: 503 backend busy", 503, {"message": "upstream error: 503 backend busy", "code": None}),
        ("gone fishing", 502, {"message": "gone fishing", "code": "stream_malformed"}),
        (["a", {"message": "b"}], 502, {"message": "a; b", "code": "stream_malformed"}),
        ({"n": 1}, 502, {"n": 1, "message": '{"n":1}', "code": "stream_malformed"}),
    ],
)
def test_words_become_an_error_with_all_that_they_said(said: Any, status: int, error: dict[str, Any]) -> None:
    body = error_from_words(said)
    assert body == {"error": {"type": "upstream_error", "param": None} | error}
    assert UpstreamError(body).status_hint == status


def test_what_stands_beside_an_exception_is_kept() -> None:
    body = error_in({"throttlingException": {"message": "busy"}, "request_id": "r1"})
    assert body is not None
    assert body["request_id"] == "r1"


ALONE = {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}


@pytest.mark.parametrize(
    ("chunk", "event", "never"),
    [
        (ALONE, "", True),
        ({"choices": [{"text": "Hi"}]}, "", True),
        ({"choices": [{"delta": None}]}, "", True),
        (ALONE, "stream_error", False),
        (ALONE | {"code": None}, "", False),
        (ALONE | {"type": None}, "", False),
        ({"choices": [{"delta": {"error": None}}]}, "", False),
        ({"choices": [{"delta": {}, "error": None}]}, "", False),
        ({"choices": [{"delta": {}, "message": None}]}, "", False),
        ({"type": "a.delta"}, "a.delta", True),
        ({"type": "a.delta", "object": "b"}, "", False),
        ({"type": "a.delta", "choices": None}, "", False),
        ({"type": "error"}, "error", False),
        ({"type": ""}, "", False),
        ({"object": "a"}, "", False),
    ],
)
def test_whether_an_event_like_this_one_is_never_an_error(chunk: dict[str, Any], event: str, *, never: bool) -> None:
    assert is_never_error(chunk, event) is never
