"""Which status an upstream's error names: real bodies, and those that look like them and name none."""

from typing import Any

import pytest
from force_stream.errors import UpstreamError
from force_stream.errors import codes as module
from force_stream.errors.codes import status_named, status_of_name
from force_stream.errors.events import error_in
from force_stream.errors.words import normal

# What one event says, the status that it has, and where it was seen or is documented.
REAL: list[tuple[int, Any, str]] = [
    (429, {"error": {"message": "Rate limit reached", "type": "tokens", "code": "rate_limit_exceeded"}}, "OpenAI"),
    (429, {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota"}}, "OpenAI"),
    (
        503,
        {"type": "error", "error": {"type": "service_unavailable_error", "code": "server_is_overloaded"}},
        "OpenAI Codex, Soju06/codex-lb#1313",
    ),
    (503, {"error": {"message": "Slow down", "code": "slow_down"}}, "OpenAI, Error codes"),
    (400, {"error": {"type": "invalid_request_error", "code": "context_length_exceeded"}}, "OpenAI"),
    (404, {"error": {"type": "invalid_request_error", "code": "model_not_found"}}, "OpenAI"),
    (403, {"error": {"code": "unsupported_country_region_territory", "type": "request_forbidden"}}, "OpenAI"),
    (400, {"type": "error", "code": "invalid_prompt", "message": "flagged"}, "OpenAI, Responses"),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Anthropic"),
    (413, {"type": "error", "error": {"type": "request_too_large", "message": "big"}}, "Anthropic"),
    (402, {"type": "error", "error": {"type": "billing_error", "message": "pay"}}, "Anthropic"),
    (401, {"type": "error", "error": {"type": "authentication_error", "message": "key"}}, "Anthropic"),
    (402, {"error": {"code": 402, "message": "Insufficient credits"}, "user_id": "u"}, "OpenRouter"),
    (
        429,
        {"error": {"message": "Provider returned error", "metadata": {"error_type": "rate_limit_exceeded"}}},
        "OpenRouter, ApiErrorType",
    ),
    (
        503,
        {"error": {"message": "Provider returned error", "metadata": {"error_type": "provider_overloaded"}}},
        "OpenRouter, ApiErrorType",
    ),
    (
        429,
        {"error": {"type": "api_error", "message": "Provider", "metadata": {"error_type": "rate_limit_exceeded"}}},
        "OpenRouter, Messages",
    ),
    (
        429,
        {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error":{"code":429}}'}}},
        "OpenRouter, error.metadata.raw",
    ),
    (429, {"error": {"message": "Quota", "status": "RESOURCE_EXHAUSTED"}}, "Google"),
    (400, {"error": {"message": "Precondition", "status": "FAILED_PRECONDITION"}}, "Google"),
    (503, {"error": {"message": "The model is overloaded.", "status": "UNAVAILABLE"}}, "Google"),
    (504, {"error": {"message": "Deadline", "status": "DEADLINE_EXCEEDED"}}, "Google"),
    (500, {"error": {"message": "Internal", "status": "INTERNAL"}}, "Google"),
    (
        503,
        {"error": {"message": "x", "details": [{"@type": "ErrorInfo", "reason": "MODEL_CAPACITY_EXHAUSTED"}]}},
        "Google, discuss.ai.google.dev 144544",
    ),
    (429, {"code": 8, "message": "exhausted", "details": []}, "grpc-gateway"),
    (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist"}}, "Azure"),
    (
        400,
        {"error": {"message": "filtered", "type": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "Azure",
    ),
    (429, {"error": {"code": "RateLimitReached", "message": "Rate limit of 10 per 60s"}}, "GitHub Models"),
    (413, {"error": {"code": "tokens_limit_reached", "message": "Request body too large"}}, "GitHub Models"),
    (
        429,
        {"error": {"message": "suspended due to insufficient balance", "type": "exceeded_current_quota_error"}},
        "Moonshot, MoonshotAI/kimi-code#1857",
    ),
    (429, {"error": {"message": "overloaded", "type": "engine_overloaded_error"}}, "MoonshotAI/kimi-cli#2209"),
    (401, {"error": {"message": "Invalid Authentication", "type": "invalid_authentication_error"}}, "Moonshot"),
    (429, {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded", "request_id": "r"}, "DashScope"),
    (429, {"code": "Throttling.AllocationQuota", "message": "Allocated quota exceeded"}, "DashScope"),
    (400, {"code": "DataInspectionFailed", "message": "inappropriate content"}, "DashScope"),
    (400, {"error": {"code": "data_inspection_failed", "type": "data_inspection_failed"}}, "DashScope"),
    (400, {"error": {"code": "invalid_parameter_error", "message": "only support stream mode"}}, "DashScope"),
    (401, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, "DashScope"),
    (400, {"code": "Arrearage", "message": "good standing"}, "DashScope"),
    (404, {"code": "ModelNotFound", "message": "Model not exist."}, "DashScope"),
    (500, {"code": "InternalError.Algo", "message": "An internal error has occured"}, "DashScope"),
    (408, {"code": "RequestTimeOut", "message": "Request timed out"}, "DashScope"),
    (403, {"code": "AccessDenied.Unpurchased", "message": "Access to model denied."}, "DashScope"),
    (401, {"error": {"code": "1002", "message": "Authentication Token 非法"}}, "Zhipu"),
    (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}, "Zhipu"),
    (400, {"error": {"code": "1214", "message": "messages 参数非法。"}}, "Zhipu"),
    (400, {"error": {"code": "1301", "message": "不安全或敏感内容"}, "contentFilter": []}, "Zhipu"),
    (429, {"error": {"code": "1302", "message": "并发数过高"}}, "Zhipu"),
    (429, {"error": {"code": 1305, "message": "overload"}}, "z.ai"),
    (429, {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, "MiniMax"),
    (401, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "MiniMax"),
    (402, {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "MiniMax"),
    (400, {"choices": [], "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}, "MiniMax"),
    (400, {"base_resp": {"status_code": 2013, "status_msg": "invalid params"}}, "MiniMax"),
    (401, {"base_resp": {"status_code": "2049", "status_msg": "invalid api key"}}, "MiniMax"),
    (
        401,
        {"type": "error", "error": {"type": "authorized_error", "message": "x (2049)", "http_code": "401"}},
        "MiniMax, Messages",
    ),
    (429, {"error": {"code": "RateLimitExceeded.EndpointRPMExceeded", "type": "TooManyRequests"}}, "Volcengine Ark"),
    (403, {"error": {"code": "AccountOverdueError", "type": "Forbidden", "message": "overdue"}}, "Volcengine Ark"),
    (400, {"error": {"code": "InputImageSensitiveContentDetected.PolicyViolation", "message": "x"}}, "Volcengine Ark"),
    (400, {"error": {"code": "SensitiveContentDetected.Violence", "message": "x"}}, "Volcengine Ark"),
    (404, {"error": {"code": "InvalidEndpointOrModel.NotFound", "message": "x"}}, "Volcengine Ark"),
    (429, {"error": {"code": "ServerOverloaded", "type": "TooManyRequests", "message": "x"}}, "Volcengine Ark"),
    (429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Too many requests"}, "Databricks"),
    (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "max_tokens"}, "Databricks"),
    (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No endpoint"}, "Databricks"),
    (429, {"message": "Too many tokens", "__type": "ThrottlingException"}, "AWS Bedrock"),
    (424, {"modelStreamErrorException": {"message": "stream"}}, "AWS Bedrock, ResponseStream"),
    (400, {"validationException": {"message": "Input is too long"}}, "AWS Bedrock, ResponseStream"),
    (408, {"error": {"type": "ModelTimeoutException", "message": "too long"}}, "AWS Bedrock"),
    (429, {"error": {"code": "rpm_rate_limit_exceeded", "type": "rate_limit_exceeded"}}, "PaddlePaddle/ERNIE#1031"),
    (400, {"error": {"code": "malformed_json", "type": "invalid_request_error"}, "id": "as-1"}, "Baidu Qianfan"),
    (401, {"error": {"code": "invalid_iam_token", "type": "invalid_request_error"}}, "Baidu Qianfan"),
    (401, {"error_code": 110, "error_msg": "Access token invalid or no longer valid"}, "Baidu Qianfan, V1"),
    (429, {"error_code": 336501, "error_msg": "RPM limit reached"}, "Baidu Qianfan, V1"),
    (
        429,
        {"object": "error", "message": "Requests rate limit exceeded", "type": "rate_limited", "code": "1300"},
        "Mistral",
    ),
    (
        429,
        {"object": "error", "message": "Capacity", "type": "service_tier_capacity_exceeded", "code": "3505"},
        "Mistral",
    ),
    (
        400,
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***"},
        "xAI",
    ),
    (403, {"code": "The caller does not have permission to execute the specified operation", "error": "x"}, "xAI"),
    (422, {"error": "Input validation error: inputs", "error_type": "validation"}, "Text Generation Inference"),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}, "Text Generation Inference"),
    (424, {"error": "Request failed during generation", "error_type": "generation"}, "Text Generation Inference"),
    (500, {"error": "Incomplete generation", "error_type": "incomplete_generation"}, "Text Generation Inference"),
    (400, {"object": "error", "message": "max tokens", "type": "BadRequestError", "code": None}, "vLLM"),
    (400, {"id": "c-1", "choices": None, "error_type": "BadRequestError", "error_message": "too long"}, "gateways"),
    (400, {"error": {"code": 400, "message": "exceeds", "type": "exceed_context_size_error"}}, "llama.cpp"),
    (503, {"error": {"message": "Loading model", "type": "unavailable_error"}}, "llama.cpp"),
    (400, {"error": {"message": "Failed to call a function", "code": "tool_use_failed"}}, "Groq"),
    (503, {"choices": [], "x_groq": {"id": "r", "error": "over_capacity"}}, "Groq SDK, XGroq.error"),
    (429, {"errors": [{"message": "AiError: capacity", "code": 3040}], "success": False}, "Cloudflare Workers AI"),
    (400, {"errors": [{"message": "No such model", "code": 5007}], "success": False}, "Cloudflare Workers AI"),
    (400, {"code": 20012, "message": "Model does not exist.", "data": None}, "SiliconFlow"),
    (422, {"detail": [{"loc": ["body", "model"], "msg": "field required", "type": "missing"}]}, "FastAPI"),
    (500, {"statusCode": 500, "message": "Internal server error"}, "NestJS"),
    (401, {"error": "Unauthorized", "message": "Missing key"}, "gateways"),
    (
        429,
        {"fault": {"faultstring": "Rate limit", "detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}},
        "Apigee",
    ),
    (429, {"type": "about:blank", "title": "Too Many Requests", "status": 429}, "RFC 9457"),
    (403, {"error": {"type": "new_api_error", "code": "insufficient_user_quota"}}, "new-api"),
    (429, {"error": {"type": "upstream_error", "message": "bad response status code 429"}}, "new-api"),
    (429, {"error": {"message": "litellm.RateLimitError: RateLimitError: OpenAIException - slow"}}, "LiteLLM"),
    (429, {"error": {"message": "Error code: 429 - {'error': {'message': 'overloaded'}}"}}, "openai-python"),
    (503, {"error": "upstream error: 503 backend busy"}, "gateways"),
    (401, {"name": "AuthenticationError", "message": "no key"}, "JavaScript SDKs"),
    (504, {"error": {"name": "APITimeoutError", "message": "Request timed out."}}, "openai-python"),
    (429, {"error": {"message": "slow", "httpStatus": 429}}, "gateways"),
    (404, {"error": {"message": "no", "http_status_code": "404"}}, "gateways"),
    (400, {"error": {"error": {"type": "invalid_request_error", "message": "nested"}}}, "gateways"),
    (429, {"data": {"error": {"code": "too_many_requests"}}}, "gateways"),
    (404, {"error": {"code": "404 Not Found", "message": "no"}}, "gateways"),
    (429, {"error": {"code": 429.0, "message": "no"}}, "gateways in Lua"),
    (401, {"error": {"code": "missing_api_key", "message": "no"}}, "gateways"),
    (429, {"error": {"code": "quota_exhausted", "message": "no"}}, "gateways"),
    (400, {"error": {"code": "max_context_length_exceeded", "message": "no"}}, "gateways"),
    (400, {"error": {"type": "moderation_error", "message": "no"}}, "gateways"),
]
# They look as if they named a status.
LIKE: list[Any] = [
    {"error": {"message": "maximum is 400 tokens"}},
    {"error": {"message": "error: 500 tokens too many"}},
    {"error": {"message": "status: 450 of 900"}},
    {"error": {"message": "error at line 404"}},
    {"error": {"message": "http://upstream:500/v1 said no"}},
    {"error": {"message": "the model said that 429 is a number"}},
    {"error": {"message": "the model is overloaded"}},
    {"error": "not a rate limit"},
    {"error": {"message": "x", "code": 200}},
    {"error": {"message": "x", "code": 4290}},
    {"error": {"message": "x", "code": "42900"}},
    {"error": {"message": "x", "code": 399}},
    {"error": {"message": "x", "code": 600}},
    {"error": {"message": "x", "code": True}},
    {"error": {"message": "x", "code": 1008}},
    {"error": {"message": "x", "code": 5007}},
    {"error": {"message": "x", "code": 8}},
    {"error": {"message": "x", "code": "9" * 5_000}},
    {"error": {"message": "x", "code": "x" * 5_000 + "not_found"}},
    {"error": {"message": "x", "code": "odd_code", "type": "odd"}},
    {"error": {"message": "x", "type": "upstream_error", "param": "429"}},
    {"error": {"message": "x", "request_id": 429}},
    {"error": {"message": "x", "code": [429]}},
    {"error": {"message": "x", "usage": {"code": 429}}},
    {"error": []},
    {"error": None},
    {},
]


@pytest.mark.parametrize(("status", "event"), [row[:2] for row in REAL], ids=[row[2] for row in REAL])
def test_an_error_has_the_status_that_it_names_by_number_name_or_words(status: int, event: dict[str, Any]) -> None:
    body = error_in(event)
    assert body is not None
    assert UpstreamError(body).status_hint == status


@pytest.mark.parametrize("body", LIKE)
def test_what_only_looks_like_a_status_is_none(body: dict[str, Any]) -> None:
    assert status_named(body) is None
    assert UpstreamError(body).status_hint == 502


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"code": 401}, "status_code": 500}, 401),
        ({"error": {"message": "slow down"}, "status_code": 429}, 429),
        ({"error": {"status": 503, "code": 429}}, 503),
        ({"error": {"type": "rate_limit_error"}, "code": 500}, 500),
        ({"error": {"code": "new_code", "type": "overloaded_error"}}, 529),
        ({"error": {"code": "invalid_request_error", "type": "authentication_error"}}, 401),
        ({"error": {"type": "rate_limit_error", "message": "Error code: 400"}}, 429),
    ],
)
def test_a_number_decides_before_a_name_and_the_errors_own_before_what_is_around(
    body: dict[str, Any], status: int
) -> None:
    assert status_named(body) == status


@pytest.mark.parametrize(
    "name",
    ["RATE_LIMIT_EXCEEDED", "rateLimitExceeded", "rate-limit-exceeded", "RateLimitExceeded.X", "a.b#RateLimitError"],
)
def test_a_name_counts_however_it_is_spelled(name: str) -> None:
    assert status_of_name(name) == 429


def test_no_name_stands_for_two_statuses() -> None:
    names = [normal(name) for each in module._PROVIDERS for many in each.values() for name in many.split()]
    assert [name for name in sorted(set(names)) if names.count(name) > 1] == []


def test_nothing_in_an_error_is_too_deep_or_too_much() -> None:
    deep: Any = {"code": 429}
    for _ in range(5_000):
        deep = {"error": deep}
    wide = {"error": {f"m{number}": {"error": {}} for number in range(5_000)} | {"errors": [{"x": 1}] * 5_000}}
    assert status_named(deep) is None
    assert status_named(wide) is None
