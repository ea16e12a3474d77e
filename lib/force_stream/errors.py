"""What can be wrong with an upstream's answer, and what the client gets then.

Knows the shape of OpenAI's error object and the status that goes with each failure. Must not know where a failure was
noticed: it is raised deep inside, and becomes a reply in one place, `answer/reader`.
"""

from typing import Any, ClassVar, Final

from .wire import jsontext

ERROR_TYPE: Final = "upstream_error"


def error_body(message: str, code: str) -> dict[str, Any]:
    """The addon's own error in OpenAI's shape (API reference, "Error object")."""
    return {"error": {"message": message, "type": ERROR_TYPE, "param": None, "code": code}}


class StreamError(Exception):
    """An answer that cannot be given to the client as a success.

    `status_hint` is the HTTP status for it; `retryable` says whether the same request may succeed another time.
    """

    code: ClassVar[str] = "stream_error"
    status_hint: int = 502
    retryable: ClassVar[bool] = True
    advice: ClassVar[str] = ""

    def body(self, context: str = "") -> dict[str, Any]:
        """The JSON for the client; `context` says which rule it was and how much arrived."""
        return error_body(" ".join(part for part in (f"{self}.", context, self.advice) if part), self.code)


class IncompleteStream(StreamError):
    """The stream stopped before its end."""

    code = "stream_truncated"
    advice = "Try again, or set on_truncated: partial in the rule to get what arrived."


class EmptyStream(StreamError):
    """An event stream without events."""

    code = "stream_empty"
    advice = "Try again; if it happens again, check that the upstream can stream this model."


class MalformedStream(StreamError):
    """Neither an event stream nor JSON."""

    code = "stream_malformed"
    retryable = False
    advice = "Check the upstream's address and path."


class UnreadableEncoding(MalformedStream):
    """A content encoding that no library on this machine can decode."""

    advice = "Install it where mitmproxy runs, or have the upstream send its answers uncompressed."


class CorruptedStream(StreamError):
    """A part of the answer arrived in a form that cannot be read, so the rest would be an answer with a hole."""

    code = "stream_corrupted"
    advice = "Try again, or set on_truncated: partial in the rule to get what could be read."


class OversizedStream(StreamError):
    """More bytes than the rule's max_body allows."""

    code = "stream_too_large"
    retryable = False
    advice = "Raise max_body in the rule if such answers are expected."


class StreamTimeout(StreamError):
    """No end within the rule's timeout, or no byte within its idle_timeout."""

    code = "stream_timeout"
    status_hint = 504
    advice = "Try again, or raise timeout or idle_timeout in the rule."


class UpstreamUnreachable(StreamError):
    """No connection, or a connection without a response."""

    code = "upstream_unreachable"
    advice = "Check that the upstream is up and that its address is right."


class InternalError(StreamError):
    """A bug in the addon itself."""

    code = "force_stream_error"
    advice = "This is a bug in the proxy's force-stream addon; the proxy's log has the details."


class UpstreamError(StreamError):
    """An error event in the upstream's stream. `said` is the whole event; the client gets all of it."""

    code = "upstream_error"

    def __init__(self, said: dict[str, Any]) -> None:
        error = said.get("error")
        super().__init__("the upstream reported an error inside its event stream")
        self.said = said
        # The status that the error names, or else the rest of the event.
        named = _status_named(error) if isinstance(error, dict) else None
        self.status_hint = named or _status_named(said) or 502

    def body(self, context: str = "") -> dict[str, Any]:
        return self.said


# The codes and types by which upstreams name an HTTP status: OpenAI's (API reference, "Error codes", and the
# Responses API's `ResponseError.code`), and Anthropic's error types, which gateways pass on.
_NAMES: Final = {
    400: (
        "invalid_request_error invalid_request invalid_prompt invalid_image invalid_image_format "
        "invalid_base64_image invalid_image_url invalid_image_mode image_too_large image_too_small "
        "image_parse_error image_content_policy_violation image_file_too_large unsupported_image_media_type "
        "empty_image_file failed_to_download_image image_file_not_found image_generation_user_error "
        "moderation_blocked bad_request badrequesterror context_length_exceeded exceed_context_size_error "
        "content_filter content_policy_violation tool_use_failed json_validate_failed unsupported_value "
        "unsupported_parameter missing_required_parameter"
    ),
    401: "authentication_error invalid_api_key unauthorized",
    402: "insufficient_credits billing_error payment_required",
    403: "permission_error permission_denied forbidden",
    404: "not_found_error not_found model_not_found",
    413: "request_too_large",
    429: (
        "rate_limit_exceeded rate_limit_error rate_limit rate_limited insufficient_quota too_many_requests "
        "usage_limit_reached"
    ),
    500: "server_error internal_server_error internal_error internalservererror api_error",
    503: "server_overloaded service_unavailable unavailable_error engine_overloaded overloaded",
    504: "timeout_error vector_store_timeout",
    529: "overloaded_error",
}
_NUMBERS: Final = {f"{status}": status for status in range(400, 600)}
_STATUSES: Final = _NUMBERS | {name: status for status, names in _NAMES.items() for name in names.split()}
_STATUS_KEYS: Final = ("status", "status_code", "http_status", "code", "type")


def _status_named(error: dict[str, Any]) -> int | None:
    """The 4xx/5xx that an error object names, by number or by a known name."""
    for key in _STATUS_KEYS:
        named = error.get(key)
        if isinstance(named, str):
            named = _STATUSES.get(named.lower())
        if isinstance(named, int) and 400 <= named <= 599:
            return named
    return None


# The members of a chunk that are not part of the error that it reports.
_ENVELOPE: Final = frozenset(("error", "choices", "object", "sequence_number", "obfuscation"))
# One image of a group, whose error is a part of the answer (Volcengine Ark, MiniMax).
_FAILED_PARTS: Final = ("image_generation.partial_failed", "image_edit.partial_failed")
# What many APIs send as `code`, next to a `message`, when all is well.
_FINE: Final = ("0", "200", "ok", "success")


def error_in(chunk: dict[str, Any], event: str = "") -> dict[str, Any] | None:
    """The error that one event of a stream reports, as the body `{"error": {...}, ...}`; None if it reports none.

    `event` is the event's name. The body has everything that the event said, without a chunk's envelope.
    """
    error, kind, response = chunk.get("error"), chunk.get("type"), chunk.get("response")
    if error and (kind or event) in _FAILED_PARTS:
        return None
    is_error = "error" in (event, kind, chunk.get("object"))  # the last: vLLM before 2025
    if not (error or response or is_error) and (kind or chunk.get("choices")):
        return None  # what nearly every chunk is
    rest = {key: value for key, value in chunk.items() if key not in _ENVELOPE}
    if error:
        return {"error": _error_object(error), **rest}
    if kind == "error":
        del rest["type"]
    if is_error:
        return {"error": _error_object(rest)}
    if isinstance(response, dict):
        # The second is an alias (ogx-ai/ogx#5224).
        failed = kind in ("response.failed", "response.error") or (
            kind == "response.done" and response.get("status") == "failed"
        )
        reason = response.get("error") or "the upstream reported that the response failed, without a reason"
        return {"error": _error_object(reason), "response": response} if failed else None
    if chunk.get("choices") or kind:
        return None
    status = chunk.get("base_resp")
    if isinstance(status, dict) and status.get("status_code"):  # MiniMax (RooCodeInc/Roo-Code#9105)
        said = {"message": status.get("status_msg"), "code": status["status_code"]}
        return {"error": _error_object(said), **rest}
    code = str(chunk.get("code") or 0).lower()
    bare = "choices" not in chunk and code not in _FINE and isinstance(chunk.get("message"), str)
    if chunk.get("success") is False or bare:
        return {"error": _error_object(rest)}  # DashScope, and gateways: an error's members without an envelope
    return None


def _error_object(error: Any) -> dict[str, Any]:
    if isinstance(error, dict):
        return error if error.get("message") else error | {"message": "the upstream reported an error without a reason"}
    message = error if isinstance(error, str) else f"the upstream's error: {jsontext.dumps(error).decode()}"
    return {"message": message, "type": ERROR_TYPE, "param": None, "code": None}
