"""Which HTTP status an upstream's error names: by number, by the name of its code or type, or in its words.

Knows the codes of providers and gateways. A wrong 5xx makes clients retry what cannot succeed, and a wrong 4xx keeps
them from retrying, so only what is unambiguous counts. Must not know where an error stood in a stream.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..wire import jsontext
from .words import normal, status_in


def _by_name(statuses: Mapping[int, str]) -> dict[str, int]:
    """Names, with the status of each. What differs between their spellings is left out."""
    return {normal(name): status for status, names in statuses.items() for name in names.split()}


# Names of codes, types and exceptions, by provider. They are compared without case and punctuation, and with or without
# a final "error" or "exception"; of a name with dots, its first part counts too (`Throttling.RateQuota`), and its last
# (`litellm.RateLimitError`). A name stands once, with the provider that is best known for it.
_PROVIDERS: Final[tuple[dict[int, str], ...]] = (
    # OpenAI: API reference, "Error codes", and the Responses API's `ResponseError.code`
    {
        400: (
            "invalid_request_error invalid_request invalid_prompt invalid_image invalid_image_format "
            "invalid_base64_image invalid_image_url invalid_image_mode image_too_large image_too_small "
            "image_parse_error image_content_policy_violation image_file_too_large unsupported_image_media_type "
            "empty_image_file failed_to_download_image image_file_not_found image_generation_user_error "
            "moderation_blocked bad_request context_length_exceeded content_filter content_policy_violation "
            "unsupported_value unsupported_parameter missing_required_parameter unknown_parameter invalid_value "
            "invalid_type string_above_max_length string_below_min_length array_above_max_length "
            "array_below_min_length integer_above_max_value integer_below_min_value decimal_above_max_value "
            "decimal_below_min_value invalid_function_parameters previous_response_not_found cyber_policy_violation "
            "billing_hard_limit_reached"
        ),
        401: (
            "authentication_error invalid_api_key unauthorized incorrect_api_key invalid_organization "
            "mismatched_organization account_deactivated token_expired invalid_token"
        ),
        403: "permission_error permission_denied forbidden unsupported_country_region_territory",
        404: "not_found_error not_found model_not_found",
        413: "request_too_large",
        429: (
            "rate_limit_exceeded rate_limit_error rate_limit rate_limited insufficient_quota too_many_requests "
            "usage_limit_reached tokens_usage_based requests_rate_limit_exceeded"
        ),
        500: "server_error internal_server_error internal_error",
        503: "server_is_overloaded slow_down service_unavailable engine_overloaded overloaded",
        504: "vector_store_timeout",
    },
    # Anthropic: "Errors". Gateways pass these on.
    {402: "billing_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error"},
    # OpenRouter: `error.metadata.error_type` (openrouter.ai/docs, "ApiErrorType")
    {
        400: (
            "max_tokens_exceeded token_limit_exceeded string_too_long refusal unsupported_image_format image_not_found "
            "image_download_failed"
        ),
        402: "payment_required insufficient_credits",
        408: "request_timeout",
        412: "precondition_failed",
        413: "payload_too_large",
        422: "unprocessable",
        503: "provider_overloaded provider_unavailable",
    },
    # Google: google.rpc.Code, and the reasons of google.rpc.ErrorInfo
    {
        400: "INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE API_KEY_INVALID",
        401: "UNAUTHENTICATED",
        403: "API_KEY_SERVICE_BLOCKED CONSUMER_SUSPENDED SERVICE_DISABLED",
        409: "ABORTED ALREADY_EXISTS",
        429: "RESOURCE_EXHAUSTED",
        499: "CANCELLED",
        500: "INTERNAL DATA_LOSS",
        501: "UNIMPLEMENTED",
        503: "UNAVAILABLE MODEL_CAPACITY_EXHAUSTED",
        504: "DEADLINE_EXCEEDED",
    },
    # Azure OpenAI and GitHub Models
    {
        400: "ResponsibleAIPolicyViolation OperationNotSupported content_filter_error unavailable_model unknown_model",
        404: "DeploymentNotFound ResourceNotFound InvalidDeployment",
        413: "tokens_limit_reached",
        429: "RateLimitReached NoCapacity",
        503: "no_healthy_upstream",
    },
    # Moonshot: "Error codes"; an overloaded engine is 429 there (MoonshotAI/kimi-cli#2209, MoonshotAI/kimi-code#1857)
    {
        401: "invalid_authentication_error",
        403: "access_terminated_error",
        429: "exceeded_current_quota_error engine_overloaded_error rate_limit_reached_error",
    },
    # Alibaba DashScope (Model Studio): "Error messages"
    {
        400: (
            "InvalidParameter invalid_parameter_error DataInspectionFailed Arrearage InvalidURL "
            "UnsupportedOperation FlowNotPublished InvalidSchema InvalidSchemaFormat InvalidFile"
        ),
        403: "AccessDenied Model.AccessDenied App.AccessDenied Workspace.AccessDenied",
        404: "WorkSpaceNotFound",
        429: "Throttling limit_requests limit_burst_rate PrepaidBillOverdue PostpaidBillOverdue CommodityNotPurchased",
        500: "SystemError ModelServiceFailed RequestFailure",
        503: "ModelUnavailable ModelServingError",
    },
    # Volcengine Ark and BytePlus ModelArk: "Error codes"
    {
        400: "MissingParameter InvalidEndpoint SensitiveContentDetected UnsupportedModel OutofContextError",
        403: "AccountOverdueError OperationDenied InvalidSubscription",
        404: "InvalidEndpointOrModel ModelNotOpen",
        429: "AccountRateLimitExceeded ServerOverloaded QuotaExceeded SetLimitExceeded InflightBatchsizeExceeded",
        500: "InternalServiceError",
    },
    # Databricks: "Errors"
    {
        400: "INVALID_PARAMETER_VALUE INVALID_STATE MALFORMED_REQUEST MAX_LIST_SIZE_EXCEEDED",
        401: "CUSTOMER_UNAUTHORIZED",
        404: "RESOURCE_DOES_NOT_EXIST ENDPOINT_NOT_FOUND FEATURE_DISABLED",
        409: "RESOURCE_ALREADY_EXISTS RESOURCE_CONFLICT",
        429: "REQUEST_LIMIT_EXCEEDED RESOURCE_LIMIT_EXCEEDED",
        503: "TEMPORARILY_UNAVAILABLE WORKSPACE_TEMPORARILY_UNAVAILABLE",
    },
    # AWS Bedrock: InvokeModelWithResponseStream, "Errors"; and AWS's common errors
    {
        400: "ValidationException ServiceQuotaExceededException",
        403: (
            "AccessDeniedException UnrecognizedClientException ExpiredTokenException InvalidSignatureException "
            "MissingAuthenticationToken InvalidClientTokenId"
        ),
        404: "ResourceNotFoundException",
        408: "ModelTimeoutException",
        409: "ConflictException",
        424: "ModelErrorException ModelStreamErrorException",
        429: "ThrottlingException ModelNotReadyException TooManyRequestsException",
        500: "InternalServerException InternalFailure InternalStreamFailure",
        503: "ServiceUnavailableException",
    },
    # Baidu Qianfan: "Error codes" (V2)
    {
        400: (
            "malformed_json invalid_model invalid_messages characters_too_long tokens_too_long "
            "invalid_plugin_argument image_url_unsafe"
        ),
        401: "invalid_iam_token invalid_appid no_parameter_permission",
        403: "system_unsafe user_setting_unsafe functions_unsafe",
        405: "method_not_supported",
        429: "Offline_batch_reasoning_refused",
        500: "dispatch_internal_error image_genration_interal_error",
    },
    # MiniMax's types, DeepSeek's and Tencent's words for the same
    {
        401: "AuthFailure authorized_error",
        402: "insufficient_balance_error insufficient_balance not_enough_balance",
    },
    # Apigee: the last part of `policies.ratelimit.QuotaViolation`
    {429: "QuotaViolation SpikeArrestViolation"},
    # Mistral
    {400: "invalid_request_message_order", 429: "service_tier_capacity_exceeded capacity_exceeded"},
    # StepFun
    {400: "request_params_invalid", 451: "censorship_block"},
    # Groq: "Error codes", and `x_groq.error`
    {400: "tool_use_failed json_validate_failed model_decommissioned", 503: "over_capacity"},
    # llama.cpp: server, `format_error_response`
    {400: "exceed_context_size_error", 501: "not_supported_error", 503: "unavailable_error"},
    # new-api and one-api: types/error.go
    {
        400: "sensitive_words_detected prompt_blocked invalid_api_type bad_request_body convert_request_failed",
        403: "insufficient_user_quota pre_consume_token_quota_failed",
        503: "get_channel_failed no_available_key no_available_channel",
    },
    # Exceptions of Python's SDKs, LiteLLM and vLLM, by name
    {
        400: "ContextWindowExceededError ContentPolicyViolationError UnsupportedParamsError ValidationError",
        422: "UnprocessableEntityError RequestValidationError",
        429: "BudgetExceededError budget_exceeded",
        502: "APIConnectionError",
        504: "APITimeoutError ReadTimeout request_timed_out",
    },
    # HTTP's reason phrases (RFC 9110)
    {
        402: "insufficient_funds",
        405: "method_not_allowed",
        409: "conflict",
        410: "gone",
        413: "request_entity_too_large content_too_large",
        415: "unsupported_media_type",
        502: "bad_gateway",
        504: "gateway_timeout",
    },
)
# Whatever stands before it, a name that ends so means this. Every provider has its own: `rpm_rate_limit_exceeded`,
# `InputImageSensitiveContentDetected`, `EndpointNotFound`.
_ENDINGS: Final = _by_name(
    {
        429: (
            "ratelimitexceeded ratelimitreached ratelimited ratelimit quotaexceeded quotaexhausted quotareached "
            "toomanyrequests throttled dailylimitexceeded requestlimitexceeded usagelimitexceeded usagelimitreached "
            "concurrencylimitexceeded throttling"
        ),
        402: "creditsexhausted insufficientcredits insufficientcredit insufficientbalance",
        401: "apikey unauthorized",
        400: (
            "toolong notsupported lengthexceeded windowexceeded contextexceeded sensitivecontentdetected "
            "policyviolation moderation"
        ),
        404: "notfound",
        503: "overloaded unavailable",
        504: "timeout",
    }
)
_BEGINNINGS: Final = _by_name(
    {
        401: "invalidapikey invalidauth invalidcredential",
        400: "invalidparam invalidargument invalidimage missingparameter contentfilter contentpolicy moderation",
        429: "ratelimitexceeded",
    }
)
# xAI sends the descriptions of gRPC's codes as `code`.
_DESCRIPTIONS: Final = {
    "Client specified an invalid argument": 400,
    "The request does not have valid authentication credentials for the operation": 401,
    "The caller does not have permission to execute the specified operation": 403,
    "Some requested entity was not found": 404,
    "Some resource has been exhausted": 429,
    "The service is currently unavailable": 503,
    "The operation was cancelled": 499,
    "Deadline expired before operation could complete": 504,
}
# Names that say only whose fault it was; a plainer one beside them, or inside the error, decides.
_VAGUE: Final = frozenset(
    (
        *("apierror", "servererror", "internalservererror", "internalerror", "internal"),
        *("invalidrequesterror", "invalidrequest", "badrequest", "badrequesterror"),
    )
)
_SUFFIXES: Final = ("error", "exception")
# Characters. A longer one is not a name.
_LONGEST_NAME: Final = 100


def _stem(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix) + 3:
            return name.removesuffix(suffix)
    return name


def _table() -> dict[str, int]:
    names = {name: status for each in _PROVIDERS for name, status in _by_name(each).items()}
    names |= {normal(description): status for description, status in _DESCRIPTIONS.items()}
    # A name of its own goes before the stem of another: `overloaded` is 503, `overloaded_error` is Anthropic's 529.
    return {_stem(name): status for name, status in names.items()} | names


_NAMES: Final = _table()


def status_of_name(name: str) -> int | None:
    """The status that the name of a code, a type or an exception stands for."""
    if len(name) > _LONGEST_NAME:
        return None
    parts = re.split(r"[.#:/]", name)
    for part in dict.fromkeys((name, parts[0], parts[-1])):
        key = normal(part)
        known = _NAMES.get(key) or _NAMES.get(_stem(key))
        if known:
            return known
    if " " in name.strip():
        return None  # a sentence may end in anything
    for part in dict.fromkeys((name, parts[0], parts[-1])):
        stem = _stem(normal(part))
        found = [status for ending, status in _ENDINGS.items() if stem.endswith(ending)]
        found += [status for beginning, status in _BEGINNINGS.items() if stem.startswith(beginning)]
        if found:
            return found[0]
    return None


# Numbers that providers have in place of names. They count where the shape of the error tells whose they are.

# Zhipu, z.ai: docs.bigmodel.cn, "API codes": `error.code`, a string of four digits
_ZHIPU: Final = {
    **dict.fromkeys((1210, 1211, 1212, 1213, 1214, 1215, 1231, 1261, 1300, 1301), 400),
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004), 401),
    **dict.fromkeys((1220, 1311), 403),
    **dict.fromkeys((1221, 1222), 404),
    **dict.fromkeys((1110, 1111, 1112, 1113, 1120, 1121), 429),
    **dict.fromkeys((1302, 1303, 1304, 1305, 1308, 1309, 1310, 1312, 1313), 429),
    **dict.fromkeys((1200, 1230, 1234), 500),
}
# MiniMax has the lower ones too, with other meanings; a string is Zhipu's.
_ZHIPU_ALONE: Final = range(1110, 1400)
# MiniMax: platform.minimax.io, "Error codes": `base_resp.status_code` beside `status_msg`
_MINIMAX: Final = {
    **dict.fromkeys((1026, 1027, 1042, 1043, 1044, 2013, 20132, 2037, 2039, 2048), 400),
    **dict.fromkeys((1004, 2049), 401),
    1008: 402,
    2042: 403,
    1001: 504,
    **dict.fromkeys((1002, 1039, 1041, 2045, 2056), 429),
    **dict.fromkeys((1000, 1024, 1033), 500),
}
# Baidu: cloud.baidu.com, "Error codes" (V1): `error_code`, a number, beside `error_msg`
_BAIDU: Final = {
    **dict.fromkeys((336002, 336003, 336006, 336007, 336008, 336104, 336106, 336117), 400),
    **dict.fromkeys((13, 14, 100, 110, 111), 401),
    6: 403,
    3: 404,
    1: 500,
    336000: 500,
    2: 503,
    336100: 503,
    **dict.fromkeys((4, 17, 18, 19, 336501, 336502, 336503, 336504, 336505), 429),
}
# Cloudflare Workers AI: developers.cloudflare.com, "Errors": in a list `errors` beside `success: false`
_CLOUDFLARE: Final = {
    **dict.fromkeys((3003, 3039, 5004, 5007), 400),
    10000: 401,
    3042: 404,
    3006: 413,
    **dict.fromkeys((3023, 3041, 5016, 5018), 403),
    **dict.fromkeys((5005, 5019), 405),
    **dict.fromkeys((3007, 3008), 408),
    **dict.fromkeys((3036, 3040), 429),
}
# SiliconFlow: `code`, a number, beside `message` and `data`
_SILICONFLOW: Final = {20012: 400, 20015: 400, 30001: 403, 50505: 503, 50603: 503}
# gRPC: `code`, a small number, beside a list `details` (google.rpc.Status as JSON)
_GRPC: Final = dict(enumerate((499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401), 1))
# Text Generation Inference: router, `ErrorResponse`: `error_type`. The same words mean something else elsewhere.
_TGI: Final = _by_name(
    {
        422: "validation templateerror toolerror emptyinput",
        424: "generation requestfailedduringgeneration",
        429: "overloaded",
        500: "incompletegeneration",
        503: "healthcheck",
    }
)

# Where a status stands as a number, the plainest first; where a name stands; and where words do.
_NUMBER_KEYS: Final = (
    *("status", "statuscode", "httpstatus", "httpstatuscode", "httpcode", "rawstatuscode", "responsecode"),
    *("code", "errorcode", "errcode", "errorstatus", "statuscodevalue"),
)
_NAME_KEYS: Final = (
    *("code", "errorcode", "errcode", "status", "reason", "type", "errortype", "errtype", "errorname", "name"),
    *("providererrorcode", "exception", "exceptiontype", "title", "statustext", "error"),
)
_WORD_KEYS: Final = ("message", "errormessage", "errormsg", "errmsg", "msg", "detail", "error", "faultstring", "title")
# What an error, or the event around it, wraps another one in.
_INNER: Final = (
    *("error", "innererror", "metadata", "cause", "baseresp", "errors", "fault", "detail", "details", "data", "body"),
    *("raw", "xgroq", "upstreamerror", "originalerror", "message"),
)
_DEPTH: Final = 4
_MOST: Final = 16
_BREADTH: Final = 32
# Characters. An error that is a text in another one.
_LONGEST_TEXT: Final = 10_000
_NUMBER: Final = re.compile(r"(?:HTTP[ _/-]?)?([45][0-9]{2})(?:[ :].*)?", re.IGNORECASE | re.DOTALL)
_CLASS_NAME: Final = re.compile(r"\W*((?:[A-Za-z_]\w*\.){0,6}[A-Z]\w*(?:Error|Exception))\b")


def status_named(said: Mapping[str, Any]) -> int | None:
    """The 4xx or 5xx that an error's body names; None if it names none.

    Numbers decide before names, names before the words; the error's own before what stands around it.
    """
    layers = _layers(said)
    return (
        _first(_number(layer) for layer in layers)
        or _first(_of_text_generation_inference(layer) for layer in layers)
        or _first(_named(layer, vague=False) for layer in layers)
        or _first(_of_provider(layer, said) for layer in layers)
        or _first(_named(layer, vague=True) for layer in layers)
        or _first(_worded(layer) for layer in layers)
    )


def _first(found: Iterator[int | None]) -> int | None:
    return next(filter(None, found), None)


def _layers(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects that may name the status, the error's own first, with their members' names normalized."""
    error = said.get("error")
    around = {key: value for key, value in said.items() if not (key == "error" and isinstance(error, dict | list))}
    found: list[dict[str, Any]] = []
    for value in (error, around):
        if not isinstance(value, str):  # which is one of the members around
            _collect(value, _DEPTH, found)
    return found[:_MOST]


def _collect(value: Any, depth: int, found: list[dict[str, Any]]) -> None:
    if isinstance(value, str) and value[:2].lstrip()[:1] == "{" and len(value) <= _LONGEST_TEXT:
        try:
            value = jsontext.loads(value)
        except ValueError:
            return
    if len(found) >= _MOST or not depth:
        return
    if isinstance(value, list):
        for item in value[:4]:
            if isinstance(item, dict):
                _collect(item, depth - 1, found)
    if isinstance(value, dict):
        # Nulls first: `type` goes before a `__type` that is spelled alike here only if it says something.
        items = sorted(list(value.items())[:_BREADTH], key=lambda item: item[1] is not None)
        members = {normal(key): member for key, member in items}
        found.append(members)
        for key in _INNER:
            if key in members:
                _collect(members[key], depth - 1, found)


def _number(layer: Mapping[str, Any]) -> int | None:
    for key in _NUMBER_KEYS:
        value = layer.get(key)
        if isinstance(value, str):
            digits = _NUMBER.fullmatch(value.strip()) if len(value) <= _LONGEST_NAME else None
            value = int(digits[1]) if digits else None
        if isinstance(value, int | float) and 400 <= value <= 599:
            return int(value)
    return None


def _named(layer: Mapping[str, Any], *, vague: bool) -> int | None:
    names = (name for key in _NAME_KEYS if isinstance(name := layer.get(key), str))
    return _first(status_of_name(name) for name in names if (normal(name[:_LONGEST_NAME]) in _VAGUE) is vague)


def _of_text_generation_inference(layer: Mapping[str, Any]) -> int | None:
    kind = layer.get("errortype")
    return _TGI.get(normal(kind)) if isinstance(kind, str) else None


def _of_provider(layer: Mapping[str, Any], said: Mapping[str, Any]) -> int | None:
    """The status of a number that only its provider knows."""
    if "statusmsg" in layer:
        return _MINIMAX.get(_integer(layer.get("statuscode")))
    if "errormsg" in layer:
        return _BAIDU.get(_integer(layer.get("errorcode")))
    raw = layer.get("code")
    code = _integer(raw)
    detail = layer.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict) and "loc" in detail[0]:
        return 422  # FastAPI: the request does not fit its schema
    if code < 0 or layer.get("object") == "error":  # Mistral numbers its errors too
        return None
    if said.get("success") is False and isinstance(said.get("errors"), list) and code in _CLOUDFLARE:
        return _CLOUDFLARE[code]
    if "data" in layer and code in _SILICONFLOW:
        return _SILICONFLOW[code]
    if isinstance(layer.get("details"), list) and code in _GRPC:
        return _GRPC[code]
    return _ZHIPU.get(code) if isinstance(raw, str) or code in _ZHIPU_ALONE else None


def _integer(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _worded(layer: Mapping[str, Any]) -> int | None:
    for key in _WORD_KEYS:
        words = layer.get(key)
        if isinstance(words, str):
            name = _CLASS_NAME.match(words[:_LONGEST_NAME])
            status = status_in(words) or (status_of_name(name[1]) if name else None)
            if status:
                return status
    return None
