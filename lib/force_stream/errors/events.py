"""The error that one event of a stream reports, and the body that the client gets for it.

Knows the places where upstreams put errors, and the members that say so. Must not know which status an error has, and
never looks into content: an answer may talk about errors. `error_in` runs on every chunk that is parsed.
"""

from collections.abc import Mapping
from typing import Any, Final

from ..wire import jsontext
from . import ERROR_TYPE, MALFORMED
from .codes import status_named, status_of_name
from .words import means_success, normal, words_in

_NO_REASON: Final = "the upstream reported an error without a reason"
_NO_REASON_OF_RESPONSE: Final = "the upstream reported that the response failed, without a reason"

# The members of a chunk that are not part of the error that it reports.
_ENVELOPE: Final = frozenset(("error", "choices", "object", "sequence_number", "obfuscation"))
# Members that may report an error, wherever they are said: Go's structs, Java's and JavaScript's spellings.
_MESSAGES: Final = (
    *("error_message", "errorMessage", "error_msg", "errorMsg"),
    *("err_msg", "errMsg", "errmsg", "errMessage"),
)
_CODES: Final = ("error_code", "errorCode", "err_code", "errCode", "errcode", "error_type", "errorType")
_STATUSES: Final = ("statusCode", "status_code", "status", "http_status", "httpStatus", "http_code", "httpCode", "code")
_TEXTS: Final = ("message", "msg", "detail", "description", "title", "error_description", "Message")
_WRAPPERS: Final = ("x_groq", "data", "Response", "result", "output")
# What may make a chunk an error at all, beside its type. Nearly no chunk has one of these.
MAY_REPORT: Final = frozenset(
    (
        *("error", "errors", "Error", "ErrorMsg", "base_resp", "response", "fault", "success", "ok", "name", "reason"),
        "__type",
        *(*_MESSAGES, *_CODES, *_STATUSES, *_TEXTS, *_WRAPPERS),
    )
)
# The members of an event with a type that are looked into, though they do not tell that it is an error.
_LOOKED_INTO: Final = frozenset(("object", "choices"))
# The same in a choice or its delta.
_OF_A_CHOICE: Final = frozenset(("error", "message"))
_FAILED: Final = frozenset(("error", "failed", "failure", "fail", "exception"))
# How the name of an event, a type or an object ends if it denotes an error.
_ENDINGS: Final = ("error", "Error", "ERROR", "exception", "Exception", "response.failed")
# The Responses API's; `response.error` is an alias (ogx-ai/ogx#5224).
_RESPONSE_FAILED: Final = frozenset(("response.failed", "response.error"))
# Their error is that of one image of several (Volcengine Ark, image generation), or of one tool's server.
_OF_A_PART: Final = ("partial_failed", "mcp_call.failed", "mcp_list_tools.failed")
_DEPTH: Final = 4
_BREADTH: Final = 32


def error_in(chunk: dict[str, Any], event: str = "") -> dict[str, Any] | None:
    """The error that one event of a stream reports, as the body `{"error": {...}, ...}`; None if it reports none.

    `event` is the event's name. The body has everything that the event said, without a chunk's envelope; its `error`
    has a `message`, which is a string, and a `type`, `param` and `code`, which are null where the upstream has none.
    """
    # Nearly every chunk leaves after a few look-ups.
    kind = chunk.get("type")
    named = event != kind and event.endswith(_ENDINGS)  # if they are the same, it is asked below
    if MAY_REPORT.isdisjoint(chunk) and not named:
        if kind is None and (choices := chunk.get("choices")):
            return _of_choices(choices, chunk)
        if not (isinstance(kind, str) and kind.endswith(_ENDINGS)):
            return _of_unlike(chunk, kind) if not kind or "object" in chunk else None
    return _reported(chunk, event, kind if isinstance(kind, str) else "", chunk.get("choices"))


def is_never_error(chunk: dict[str, Any], event: str = "") -> bool:
    """Whether no event like this one reports an error: of the same name and type, with at most one choice, and members
    of the same names down to its delta."""
    kind, choices = chunk.get("type"), chunk.get("choices")
    if not MAY_REPORT.isdisjoint(chunk) or event.endswith(_ENDINGS):
        return False
    if choices is None:
        return isinstance(kind, str) and bool(kind) and not kind.endswith(_ENDINGS) and _LOOKED_INTO.isdisjoint(chunk)
    # Where there is no delta, the message is looked into.
    return "type" not in chunk and not any(
        "error" in choice or not _OF_A_CHOICE.isdisjoint(choice.get("delta") or choice) for choice in choices
    )


def error_from_words(said: dict[str, Any] | list[Any] | str) -> dict[str, Any]:
    """The body of the error that an upstream's words are, where they turned out to be the answer."""
    error = {key: value for key, value in said.items() if key not in _ENVELOPE} if isinstance(said, dict) else {}
    if isinstance(said, dict) and said.get("error"):
        error["error"] = said["error"]
    message = said.strip() if isinstance(said, str) else words_in(said) or jsontext.dumps(said).decode()
    error = {**error, "message": message or _NO_REASON, "type": error.get("type") or ERROR_TYPE}
    code = error.get("code")
    if code is None and status_named({"error": error}) is None:
        code = MALFORMED
    return {"error": error | {"param": error.get("param"), "code": code}}


def _of_unlike(chunk: dict[str, Any], kind: Any) -> dict[str, Any] | None:
    """The error of an event without members that may report one, which is not a chunk of choices."""
    if _is_error_name(chunk.get("object")):
        return _flat(chunk)
    return None if kind or "choices" in chunk else _exception(chunk)


def _is_error_name(name: Any) -> bool:
    """Whether the name of an event, a type or an object says that it is an error: `error`, `stream_error`."""
    return isinstance(name, str) and name.endswith(_ENDINGS)


def _of_choices(choices: Any, chunk: dict[str, Any]) -> dict[str, Any] | None:
    """The error inside a choice (genkit-ai/genkit#6259), or inside its delta or message."""
    if not isinstance(choices, list):
        return None
    for choice in choices:
        if isinstance(choice, dict):
            error, part = choice.get("error"), choice.get("delta") or choice.get("message")
            # A tool's result may say that it failed.
            if (
                isinstance(part, dict)
                and "error" in part
                and not (error and _says(error))
                and part.get("role") != "tool"
            ):
                error = part["error"]
            if error and _says(error):
                return _body(error, chunk)
    return None


def _reported(chunk: dict[str, Any], event: str, kind: str, choices: Any) -> dict[str, Any] | None:
    """The error of a chunk with a member or a name that may report one."""
    if (kind or event).endswith(_OF_A_PART):
        return None
    error = chunk.get("error")
    if error and _says(error):
        return _body(error, chunk)
    response = chunk.get("response")
    if (
        kind in _RESPONSE_FAILED
        or event in _RESPONSE_FAILED
        or (kind.startswith("response.") and _of(response, "status") == "failed")
    ):
        return _of_response(response, chunk)
    # A name such as `tool_error` over a chunk with content is that of another thing's error.
    if event != "error" and _has_content(choices):
        event = ""
    if _is_error_name(event) or _is_error_name(kind) or _is_error_name(chunk.get("object")):
        has_words = any(chunk.get(key) for key in _TEXTS)
        inside = None if has_words else _of_choices(choices, chunk) or _inside(chunk) or _exception(chunk)
        return inside or _flat(chunk, without_type=kind == "error")
    if kind:
        return _flat(chunk) if _typed(chunk, kind) else None
    is_bare = not (chunk.get("usage") or _has_content(choices))
    return (_of_choices(choices, chunk) if choices else None) or _in_members(chunk, is_bare=is_bare)


def _of_response(response: Any, chunk: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(response, dict):
        return _flat(chunk, without_type=True)
    reason = response.get("error") or _of(response.get("status_details"), "error") or _NO_REASON_OF_RESPONSE
    return {"error": _error_object(reason, {}), "response": response}


def _typed(chunk: dict[str, Any], kind: str) -> bool:
    """Whether an event with a type is an error because its type is an error's name, or because of its status."""
    has_words = any(isinstance(chunk.get(key), str) for key in _TEXTS)
    is_fine = any(isinstance(chunk.get(key), int) and 200 <= chunk[key] < 300 for key in _STATUSES)
    return has_words and not is_fine and (status_of_name(kind) is not None or _has_error_status(chunk))


def _inside(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """The error in a member that is named otherwise than `error`, or deeper in the chunk."""
    for key in ("errors", "fault", "Error", "ErrorMsg"):
        if _says(chunk.get(key)):
            return _body(chunk[key], chunk)
    resp = chunk.get("base_resp")
    if isinstance(resp, dict) and not means_success(resp.get("status_code")):  # MiniMax (RooCodeInc/Roo-Code#9105)
        return _body({"message": resp.get("status_msg"), "code": resp["status_code"]}, chunk)
    for key in _WRAPPERS:
        inner = chunk.get(key)
        if isinstance(inner, dict):
            for name in ("error", "Error"):
                if _says(inner.get(name)):
                    return _body(inner[name], chunk)
    return None


def _in_members(chunk: dict[str, Any], *, is_bare: bool) -> dict[str, Any] | None:
    """The error that a chunk's own members report. `is_bare`: there is no content beside them."""
    if (inside := _inside(chunk)) is not None:
        return inside
    if any(isinstance(chunk.get(key), str) and words_in(chunk[key]) for key in _MESSAGES):
        return _flat(chunk)
    if any(not means_success(chunk.get(key)) for key in _CODES):
        return _flat(chunk)
    return _flat(chunk) if is_bare and _says_so(chunk) else None


def _says_so(chunk: dict[str, Any]) -> bool:
    """Whether an object without content says that it is an error, by a code, a status or a name."""
    status = chunk.get("status")
    if isinstance(status, str) and status.lower() in _FAILED:
        return True
    if _is_false(chunk.get("success")) or _is_false(chunk.get("ok")) or _has_error_status(chunk):
        return True
    detail = chunk.get("detail")  # FastAPI: a list of what is wrong with the request, or an error of the application's
    if isinstance(detail, list) and detail and isinstance(detail[0], dict) and "loc" in detail[0]:
        return True
    if isinstance(detail, dict) and error_in(detail):
        return True
    code = chunk.get("code")
    words = [chunk[key] for key in _TEXTS if isinstance(chunk.get(key), str) and chunk[key]]
    has_words = bool(words)
    if not means_success(code):  # DashScope, and gateways: an error's members without an envelope
        is_fine = any(map(means_success, words))  # a gateway's own code for success: 1, 10000
        return (has_words and not is_fine) or (isinstance(code, str) and status_of_name(code) is not None)
    names = (chunk.get(key) for key in ("name", "reason", "__type", "status"))
    return has_words and any(
        isinstance(name, str) and (status_of_name(name) is not None or _is_error_name(name)) for name in names
    )


def _is_false(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.lower() == "false")


def _has_error_status(chunk: dict[str, Any]) -> bool:
    for key in _STATUSES:
        status = chunk.get(key)
        if isinstance(status, str) and len(status) == 3 and status.isascii() and status.isdigit():
            status = int(status)
        if isinstance(status, int | float) and 400 <= status <= 599:
            return True
    return False


def _exception(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """The error of an object whose one member is named after it: `{"throttlingException": {"message": …}}` (AWS)."""
    if len(chunk) > 3:
        return None
    for key, value in chunk.items():
        if key.endswith("Exception") and isinstance(value, dict | str):
            error = {"type": key} | value if isinstance(value, dict) else {"type": key, "message": value}
            return _body(error, {other: chunk[other] for other in chunk if other != key})
    return None


def _has_content(choices: Any) -> bool:
    """Whether a choice holds a part of an answer."""
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict) or choice.get("text") or choice.get("finish_reason"):
            return True
        part = choice.get("delta") or choice.get("message")
        if not isinstance(part, dict | None) or any(value for key, value in (part or {}).items() if key != "role"):
            return True
    return False


def _says(value: Any, depth: int = _DEPTH) -> bool:
    """Whether the value of a member like `error` says anything: not null, "", "null", {} or a struct of such."""
    if isinstance(value, dict):
        if not depth:
            return bool(value)
        members = list(value.items())[:_BREADTH]
        return any(_says(member, depth - 1) for key, member in members if not normal(key).endswith("id"))
    if isinstance(value, list):
        return any(_says(item, depth - 1) for item in value[:_BREADTH]) if depth else bool(value)
    return value is True or not means_success(value)


def _of(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


# The body for the client


def _rest(chunk: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in chunk.items() if key not in _ENVELOPE}


def _body(error: Any, chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The body for an error in a member of the chunk."""
    rest = _rest(chunk)
    return {"error": _error_object(error, rest), **rest}


def _flat(chunk: Mapping[str, Any], *, without_type: bool = False) -> dict[str, Any]:
    """The body for an error whose members are the chunk's own."""
    error = _rest(chunk)
    if without_type:
        error.pop("type", None)
    return {"error": _error_object(error, {})}


def _error_object(error: Any, beside: dict[str, Any]) -> dict[str, Any]:
    """An error with what OpenAI's clients require of one: `message`, a string, and `type`, `param`, `code`.

    Where it has no message, its words are taken, or those beside it. Nothing that it says is lost.
    """
    if isinstance(error, list):
        says = [item for item in error if _says(item)]
        error = says[0] if len(says) == 1 or "errors" in beside else error
    if isinstance(error, dict):
        message = error.get("message")
        if not isinstance(message, str) or not message:
            message = _spelled(message) or words_in(error) or _beside(beside) or _NO_REASON
        absent = {key: None for key in ("type", "param", "code") if key not in error}
        return {**error, "message": message, **absent}
    code = None
    if not isinstance(error, str):
        message = _beside(beside) or f"the upstream's error: {jsontext.dumps(error).decode()}"
    elif " " not in error and (words := _beside(beside)):
        message, code = words, error  # OAuth's and NestJS's: a code beside its description
    else:
        message = error
    return {"message": message, "type": ERROR_TYPE, "param": None, "code": code}


def _spelled(message: Any) -> str:
    """A message that is not a string, spelled out in full (Mistral's is a list of what is wrong with the request)."""
    return jsontext.dumps(message).decode() if message and _says(message) else ""


def _beside(members: dict[str, Any]) -> str:
    """The words that an event has beside its error."""
    return next((words for key in (*_TEXTS, *_MESSAGES) if (words := words_in(members.get(key)))), "")
