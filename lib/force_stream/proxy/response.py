"""A flow's response: what it contains, and what it becomes.

Knows mitmproxy's responses and the outcome of an attempt; must not know events, chunks or rules.
"""

import re
from http import HTTPStatus
from typing import Any, Final

from mitmproxy import http
from mitmproxy.flow import Flow

from ..answer.forcing import at_path
from ..answer.reader import AnswerSpec
from ..answer.report import EVENT_STREAM_TYPE, JSON_TYPE, Reply
from ..answer.unfold import Asked
from ..endpoints import ENDPOINTS
from ..errors import InternalError, OversizedStream, UpstreamUnreachable, error_body
from ..wire import encodings, jsontext
from ..wire.text import printable
from . import bodies, cors
from .attempt import LONGEST_REASON, Attempt, Fields
from .notes import (
    ANSWERED_BY,
    CHOICES,
    ENDPOINT,
    GIVEN,
    INJECTED,
    RULE,
    SSE,
    SSE_STATUS,
    SSE_TYPE,
    STATUS,
    TRY,
    WITH_USAGE,
    UnreadableFlow,
    check_notes,
    known,
    noted,
    save_notes,
    spec_of,
    was_made_plain,
    was_made_to_stream,
)
from .request import body_of, model_of, spelling_for, with_headers
from .retry_policy import is_retried, wait_asked

MARK: Final = ":warning:"
# RFC 9110, section 6.4.1.
WITHOUT_BODY: Final = (204, 304)
_KNOWN_STATUSES: Final = frozenset(HTTPStatus)
# How an event stream begins that is an API's: perhaps with comments, and with an event whose data is JSON.
_EVENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s|:[^\n]*\n|(?:event|id|retry):[^\n]*\n)*data:\s*[{\[]")
_LONGEST_HEAD: Final = 4096
_BLANK: Final = b"\xef\xbb\xbf \t\r\n"
# Headers that described the event stream or its connection, and would be wrong for the document.
_STREAM_HEADERS: Final = frozenset(
    b"""
    connection keep-alive transfer-encoding content-encoding trailer content-range accept-ranges etag content-md5 digest
    content-digest repr-digest content-disposition x-accel-buffering
    """.split()
)
# What says which web pages may read a response.
_CORS: Final = re.compile(rb"access-control-|vary$", re.IGNORECASE)


# What it says


def is_event_stream(response: http.Response) -> bool:
    """Whether a response is labelled as an event stream."""
    is_success = 200 <= response.status_code < 300
    return is_success and bodies.header(response, b"content-type").lower().startswith(EVENT_STREAM_TYPE)


def streams(response: http.Response) -> bool:
    """Whether a response is an event stream, by its label or, where that is wrong, by how it begins."""
    if is_event_stream(response):
        return True
    return 200 <= response.status_code < 300 and _begins_events(bodies.beginning(response, _LONGEST_HEAD))


def _begins_events(body: bytes) -> bool:
    return _EVENTS.match(body[:_LONGEST_HEAD]) is not None


def may_be_document(response: http.Response, attempt: Attempt) -> bool:
    """Whether what an attempt has received so far may be a JSON document, whatever its label says."""
    if not attempt.encoded:
        return attempt.may_be_document
    # If it did not show at the beginning that it is none, it may be.
    return attempt.size > _LONGEST_HEAD or _head_of(response, attempt).lstrip(_BLANK)[:1] in b"{["


def begins_events(response: http.Response, attempt: Attempt) -> bool | None:
    """Whether what an attempt has received begins as an event stream does, whatever its label says; None where that is
    not known yet."""
    head = _head_of(response, attempt)
    if _begins_events(head):
        return True
    return False if head.lstrip(_BLANK)[:1] in (b"{", b"[", b"<") or attempt.size > _LONGEST_HEAD else None


def _head_of(response: http.Response, attempt: Attempt) -> bytes:
    coding = response.headers.get("content-encoding", "") if attempt.encoded else ""
    return encodings.beginning(attempt.body(), coding, _LONGEST_HEAD)


def text_of(response: http.Response) -> str:
    """A response's body as text, whatever its label says; JSON is UTF-8 (RFC 8259, section 8.1)."""
    return (bodies.decoded(response) or b"").decode("utf-8-sig", errors="replace")


def upstreams_body(flow: http.HTTPFlow) -> bytes | None:
    """What the upstream sent, where it is an event stream or became one: what is kept behind a rewritten response, or
    else the response that is an event stream itself. None where there is none that can be decoded. Raises
    `UnreadableFlow`."""
    if noted(SSE, flow):
        return known(SSE, flow)
    return clients_events(flow)


def clients_events(flow: http.HTTPFlow) -> bytes | None:
    """The event stream that the client got; None where it got none that can be decoded."""
    return bodies.decoded(flow.response) if flow.response is not None and is_event_stream(flow.response) else None


def plain_body(flow: Flow | None) -> bytes | None:
    """What is kept of an upstream whose plain answer its client gets as events: the document that became them, or what
    came in place of one; None for any other flow."""
    kept = SSE.of(flow)
    return None if kept is None or GIVEN.of(flow) is None or _begins_events(kept) else kept


def asked_of(flow: http.HTTPFlow, spec: AnswerSpec) -> Asked | None:
    """The events that a flow's client asked for, where what is kept is a plain answer."""
    if GIVEN.of(flow) is None or not noted(SSE, flow):
        return None
    return Asked(ENDPOINTS[spec.endpoint], WITH_USAGE.of(flow) is True, flow.request.path)


def kept_answer(flow: http.HTTPFlow) -> tuple[AnswerSpec, int, str]:
    """How an answer was, or would be, made from a flow's event stream: the spec, the upstream's status and content
    type. Raises `UnreadableFlow` where that is not known: then the answer that the flow has is the better one."""
    check_notes(flow)
    if was_made_to_stream(flow) or was_made_plain(flow) or noted(CHOICES, flow):
        spec: AnswerSpec | None = spec_of(flow)
    elif noted(RULE, flow) or noted(ENDPOINT, flow):
        spec = AnswerSpec(known(RULE, flow), known(ENDPOINT, flow), model_of(body_of(flow)) or "")
    else:
        spec = at_path(flow.request.path)
    if spec is None:
        raise UnreadableFlow(f"{printable(flow.request.path.partition('?')[0])} is not a known endpoint")
    if flow.response is None:
        return spec, SSE_STATUS.of(flow) or 200, SSE_TYPE.of(flow) or ""
    if ANSWERED_BY.of(flow) or STATUS.of(flow) not in (None, flow.response.status_code):
        raise UnreadableFlow("its answer is not that of its own try")
    if noted(SSE, flow):
        # The response says what the client got.
        return spec, known(SSE_STATUS, flow), known(SSE_TYPE, flow)
    return spec, flow.response.status_code, flow.response.headers.get("content-type", "")


def is_whole(response: http.Response, attempt: Attempt) -> bool:
    """Whether the response that an attempt has come to is a success, and none of it is missing."""
    report = attempt.report
    return 200 <= response.status_code < 300 and not (report.code or report.truncated) and bool(response.raw_content)


def is_as_received(response: http.Response, attempt: Attempt) -> bool:
    """Whether a response has the body that its attempt has received, and not one that another addon gave it."""
    body = response.raw_content
    # That of a status that has none is empty, whatever came.
    is_dropped = body == b"" and response.status_code == attempt.status and attempt.status in WITHOUT_BODY
    return attempt.fault is not None or body == attempt.body() or is_dropped


async def read_instead(response: http.Response, attempt: Attempt) -> None:
    """Give an attempt the response that another addon has made of what it received, or has put in its place."""
    content_type, body = response.headers.get("content-type", ""), response.raw_content or b""
    await attempt.read_instead(response.status_code, content_type, body, encoded=bodies.is_encoded(response))


# What it becomes


def observe_whole(flow: http.HTTPFlow, attempt: Attempt) -> bool:
    """Give a whole response to an attempt that has not observed it; False where mitmproxy does not hold the body."""
    response = flow.response
    assert response is not None
    if response.raw_content is None:
        return False
    content_type = response.headers.get("content-type", "")
    fields = response.headers.fields
    attempt.start_response(response.status_code, content_type, encoded=bodies.is_encoded(response), fields=fields)
    attempt.receive(response.raw_content)
    attempt.end()
    return True


def store_answer(flow: http.HTTPFlow, attempt: Attempt, body: bytes | None) -> None:
    """Keep the upstream's body on the flow, before the response is rewritten. `body`: that of an encoded answer."""
    if flow.response is not None and attempt.response_started:
        raw, fields = attempt.body() if body is None else body, flow.response.headers.fields
        head = [[name.decode(errors="replace"), value] for name, value in fields if name.lower() != b"set-cookie"]
        content_type = printable(bodies.header(flow.response, b"content-type"))
        save_notes(flow, {"sse": raw, "sse_status": flow.response.status_code, "sse_type": content_type, "head": head})


def set_reply(flow: http.HTTPFlow, reply: Reply) -> None:
    """Make the response the reply: its status, its document, and headers that are true of it."""
    response = flow.response
    if response is None:
        return
    if response.status_code != reply.status:
        response.status_code = reply.status
        response.reason = HTTPStatus(reply.status).phrase if reply.status in _KNOWN_STATUSES else ""
    response.trailers = None
    if response.http_version == "HTTP/1.0":
        response.http_version = "HTTP/1.1"  # the client's own connection may be kept open
    headers = {"Content-Type": JSON_TYPE, "Content-Length": str(len(reply.body)), **reply.headers}
    fields = _of_document(response.headers.fields)
    response.headers.fields = with_headers(fields, headers, spelling_for(flow.request))
    response.raw_content = reply.body


def _of_document(fields: Fields) -> Fields:
    """The headers that are true of the document too."""
    return tuple(field for field in fields if field[0].lower() not in _STREAM_HEADERS)


def early_head(flow: http.HTTPFlow, attempt: Attempt | None, content_type: str = JSON_TYPE) -> http.Response | None:
    """The head for a client that cannot wait for the document any longer: with status 200, and the upstream's headers
    where they have come. None where it has to wait all the same: the upstream's status is another one, or a web page
    asks, which can read nothing without the upstream's CORS headers."""
    fields: Fields = ()
    if attempt is not None and attempt.response_started:
        if attempt.is_final:
            # It failed, and the answer will be another one's, from the same upstream.
            fields = tuple(field for field in attempt.fields if _CORS.match(field[0]))
        elif 200 <= attempt.status < 300:
            fields = tuple(field for field in _of_document(attempt.fields) if field[0].lower() != b"content-length")
        else:
            return None
    elif "origin" in flow.request.headers:
        return None
    head = http.Response.make(200)
    head.headers.fields = fields
    head.headers["Content-Type"] = content_type
    if not flow.request.is_http2 and not flow.request.is_http3:
        head.headers["Transfer-Encoding"] = "chunked"
    cors.share(flow, head)
    return head


def pass_through(flow: http.HTTPFlow, attempt: Attempt) -> None:
    """Leave the response as it came, but say how long a body without its end is: a client could not tell otherwise, or
    would wait for more."""
    response = flow.response
    if response is None or attempt.complete or not (response.raw_content or "content-length" in response.headers):
        return
    response.headers.pop("transfer-encoding", None)
    response.headers["content-length"] = str(len(response.raw_content or b""))


def make_sendable(response: http.Response, *, with_trailers: bool) -> None:
    """Have a response that other addons have edited end where its head says: mitmproxy sends what it is given, and a
    client would wait for more, or take the rest for its next answer."""
    if response.raw_content is None or response.status_code in WITHOUT_BODY:
        response.raw_content = b""
    length = str(len(response.raw_content or b""))
    announced = [value for name, value in response.headers.fields if name.lower() == b"content-length"]
    if announced not in ([], [length.encode()]) and response.status_code not in WITHOUT_BODY:
        response.headers["content-length"] = length
    if not with_trailers:
        response.trailers = None


def fault() -> Reply:
    """The reply if the addon itself failed: a client that asked for JSON must not get raw events."""
    error = InternalError("the answer could not be aggregated")
    return Reply(error.status_hint, jsontext.dumps(error.body()))


def unreachable(reason: str) -> http.Response:
    """The response for a page that could not read mitmproxy's own error page."""
    return _no_response(UpstreamUnreachable(f"the upstream gave no response: {reason[:LONGEST_REASON]}").body())


def ended(why: str = "") -> http.Response:
    """The response for a client that was waiting for another flow's answer, which was stopped."""
    message = f"the answer that this request was waiting for was stopped{why}. Send the request again."
    return _no_response(error_body(message, UpstreamUnreachable.code))


def _no_response(error: dict[str, Any]) -> http.Response:
    return http.Response.make(UpstreamUnreachable.status_hint, jsontext.dumps(error), {"Content-Type": JSON_TYPE})


# Another attempt


def may_retry(attempt: Attempt) -> bool:
    """Whether another attempt may do better."""
    report = attempt.report
    hopeless = report.code in (OversizedStream.code, InternalError.code)
    return report.truncated or (not hopeless and is_retried(report.status))


def retry_after(flow: http.HTTPFlow) -> str | None:
    """When the upstream says to try again."""
    return wait_asked(flow.response.headers.get) if flow.response is not None else None


def copy_outcome(flow: http.HTTPFlow, retried: http.HTTPFlow, attempt: Attempt, why: str = "") -> None:
    """Make the outcome of another attempt the outcome of the first flow, for its client. The first attempt's own
    outcome stays in its metadata, along with the id of the flow that answered. `why`: how the attempt differed."""
    if retried.response is None:
        return
    before, flow.response = flow.response, retried.response.copy()
    if before is not None and not attempt.response_started:
        # The upstream has said in an earlier response which web pages may read this one.
        flow.response.headers.fields += tuple(field for field in before.headers.fields if _CORS.match(field[0]))
    injected = "; FAULT INJECTED in the first try" if noted(INJECTED, flow) else ""
    flow.comment = f"{retried.comment}, try {TRY.of(retried)}" + (why and f"; {why}") + injected
    flow.marked = flow.marked or MARK
    save_notes(flow, {"answered_by": retried.id})
