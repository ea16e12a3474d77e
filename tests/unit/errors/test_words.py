"""Words where a chunk should be: which they are, and whether they plainly say that something failed."""

from typing import Any

import pytest
from force_stream.errors.words import is_keepalive, means_success, says_error, status_in, words_in

FINE = [0, "0", "0000", "00000", 0.0, 200, "200", 20000, "20000", "success", "OK", "SUCCESS", "成功", True]
NOTHING: list[object] = [None, "", "null", False, [], {}]


@pytest.mark.parametrize("code", FINE + NOTHING)
def test_a_code_means_success(code: object) -> None:
    assert means_success(code)


@pytest.mark.parametrize("code", [1, -1, 400, "400", 1002, "E0", "InvalidParameter", "10000", "failed", 5.0])
def test_a_code_does_not_mean_success(code: object) -> None:
    assert not means_success(code)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"message": "Internal server error"}, "Internal server error"),
        ({"detail": "Model is overloaded"}, "Model is overloaded"),
        ({"id": "1", "object": "notice", "msg": "queue is full"}, "queue is full"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"notice": "switched to another model"}, "switched to another model"),
        ({"error": {"text": "hello"}}, "hello"),
        ({"citations": ["https://a.example"], "search_results": [{"title": "A"}], "timings": {"unit": "ms"}}, ""),
        ({"message": "success", "detail": "no capacity"}, "no capacity"),
        (["a", {"message": "b"}], "a; b"),
        (" text ", "text"),
        ({"id": "c", "object": "chunk", "model": "m", "created": 1, "type": "t", "system_fingerprint": "f"}, ""),
        ({"request_id": "r", "trace_id": "t", "provider": "p", "service_tier": "default"}, ""),
        ({"ping": 1790000000}, ""),
        ({"type": "ping"}, ""),
        ({"status": "processing"}, ""),
        ({"message": "keepalive"}, ""),
        ({"code": "0000", "message": "success"}, ""),
        ({"error": {"message": "", "type": "", "code": None}}, ""),
        (None, ""),
        (7, ""),
        (True, ""),
        ([], ""),
        ([None, 1], ""),
        ({}, ""),
        ("null", ""),
        ("ping", ""),
    ],
)
def test_words_are_what_is_said_and_not_the_envelope(value: Any, words: str) -> None:
    assert words_in(value) == words


def test_words_are_looked_for_in_a_value_of_any_depth_and_size() -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = {"a": deep}
    assert words_in(deep) == ""
    assert words_in({f"n{number}": number for number in range(100_000)}) == ""


ERRORS = [
    "error: out of memory",
    "Error: connect ECONNREFUSED 127.0.0.1:8000",
    "[ERROR] CUDA out of memory",
    "upstream error: 503 backend busy",
    "Internal error: slot failed",
    "Error code: 429 - {'error': {'message': 'slow'}}",
    "litellm.RateLimitError: OpenAIException",
    "openai.BadRequestError",
    "ValueError: max_tokens must be positive",
    "java.lang.NullPointerException: null",
    "Internal Server Error",
    "503 Service Unavailable",
    "HTTP 429",
    "429: Too Many Requests",
    "<html><head><title>502 Bad Gateway</title></head></html>",
    "Bad Gateway",
    'Traceback (most recent call last):\n  File "x.py"',
    "rate limit exceeded",
    "Rate limit reached for requests",
    "Request timed out.",
    "upstream timeout: request timed out",
    "model is overloaded, please try again",
    "Failed to generate a response",
    "An error occurred while processing your request",
    "connection reset by peer",
    "quota exceeded",
    "context length exceeded",
    "Unauthorized",
    "invalid api key",
    "insufficient balance",
    "Something went wrong",
    "{'error': {'message': 'x'}}",
    '{"error": {"message": "cut',
    "错误：模型不可用",
    "请求失败",
    "模型服务异常，请稍后重试",
    "余额不足",
    "系统繁忙，请稍后再试",
]
NO_ERRORS = [
    "",
    "ping",
    "heartbeat",
    ": OPENROUTER PROCESSING",
    "keep-alive",
    "connected",
    "Hello, how are you?",
    "The answer is 42.",
    "no errors",
    "0 errors: all is well",
    "An error is a mistake that somebody makes.",
    "Learning from failure is a success",
    "queue position 3",
    "switched to model m-2",
    "it costs 500 tokens",
    "你好",
    "data",
    "[DONE]",
    "The trial and error method works. " * 20,
]


@pytest.mark.parametrize("text", ERRORS)
def test_a_text_plainly_says_that_something_failed(text: str) -> None:
    assert says_error(text)
    assert not is_keepalive(text)


@pytest.mark.parametrize("text", NO_ERRORS)
def test_ordinary_words_do_not_say_that_something_failed(text: str) -> None:
    assert not says_error(text)


KEEPALIVES = [
    *("", ":", ": ", "ping", "PONG", "keepalive", "keep-alive", "heartbeat", "[heartbeat]", "processing..."),
    *(": OPENROUTER PROCESSING", "OPENROUTER PROCESSING", "ping - 2026-01-01 00:00:00+00:00"),
]


@pytest.mark.parametrize("text", KEEPALIVES)
def test_a_keepalive_is_one(text: str) -> None:
    assert is_keepalive(text)


@pytest.mark.parametrize("text", ["pinged", "the heartbeat of the city", ": upstream error: 503", "x", "waiting for x"])
def test_what_is_not_a_keepalive(text: str) -> None:
    assert not is_keepalive(text)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Error code: 429 - {'error': 1}", 429),
        ("upstream error: 503 backend busy", 503),
        ("HTTP/1.1 502 Bad Gateway", 502),
        ("request failed with status code 500", 500),
        ("Received a 504 Gateway Timeout from upstream", 504),
        ("429", 429),
        ("[503] busy", 503),
        ("Too Many Requests", 429),
        ("Internal server error", 500),
        ("{'message': 'x', 'code': 401}", 401),
        ("状态码：429", 429),
        ("error: 500 tokens too many", None),
        ("error 5000", None),
        ("error: 450", None),
        ("500 apples", None),
        ("rate limited", None),
        ("", None),
    ],
)
def test_words_name_a_status_only_where_they_plainly_do(text: str, status: int | None) -> None:
    assert status_in(text) == status


def test_a_long_text_takes_no_longer_than_a_short_one() -> None:
    for text in ("error " * 200_000, "a " * 500_000, "<" * 1_000_000, "5" * 1_000_000, "x." * 500_000, "_" * 1_000_000):
        says_error(text)
        status_in(text)
        is_keepalive(text)


def test_many_lines_of_underscores_are_read_at_once() -> None:
    # A third of a second each would be ten minutes.
    assert not any(says_error("_" * 2_000) for _ in range(2_000))
