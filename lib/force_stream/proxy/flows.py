"""A flow as the addon sees it: what is read from it, sent with it and kept on it.

Knows mitmproxy's flow, headers and metadata; must not know events, chunks or rules files, or how a flow is told of.

Keys of `flow.metadata` (they travel in flow files):

    force_stream.rule, .endpoint, .model    which rule took the flow, and as what
    force_stream.forced                     true where the request was made to stream
    force_stream.choices, .on_truncated, .quirks    what else the answer needs to be made, also after a reload
    force_stream.undo, .forced_size, .headers_undo    how to get the request back as it came
    force_stream.retry_of, .try, .retried_as    how the tries of one request are linked, by flow ids
    force_stream.left_alone                 why a matched request went out as it came
    force_stream.sse                        the upstream's body, decoded; .sse_status and .sse_type go with it
    force_stream.times                      for each piece of the body: seconds since the request, bytes so far; flat
    force_stream.injected                   the rule's inject, as JSON, where it made the flow fail on purpose
    force_stream.status, .events, .bytes, .finish_reason, .inferred, .truncated, .error, .usage, .odd    what came
"""

import time
from http import HTTPStatus
from typing import Any, Final

from mitmproxy import http

from ..answer.forcing import Refusal, at_path, force_request
from ..answer.reader import AnswerSpec
from ..answer.report import JSON_TYPE, Reply
from ..endpoints import expected_choices
from ..endpoints.endpoint import Endpoint
from ..errors import InternalError, OversizedStream
from ..rules.rule import Rule
from ..wire import jsontext
from ..wire.form_body import Form, read_form
from ..wire.json_body import Body, Edited, read_body, undo
from ..wire.text import printable
from .must_stream import says_it_must_stream as says_so
from .retry_policy import is_retried
from .watch import Watch

PREFIX: Final = "force_stream."
MARK: Final = ":warning:"
_KNOWN_STATUSES: Final = frozenset(HTTPStatus)
EVENT_STREAM_TYPE: Final = "text/event-stream"

# What a request asks for when it asks for a stream. Identity, because a compressed stream that is cut off cannot be
# decoded: mitmproxy's brotli and deflate raise, its zstd gives nothing.
_REQUEST_HEADERS: Final = {
    "Accept": EVENT_STREAM_TYPE,
    "Cache-Control": "no-cache",
    "Accept-Encoding": "identity",
}
# Headers that vouch for a body's bytes. A request that has one would be refused once its body is edited.
_SIGNATURES: Final = (
    b"x-amz-content-sha256",
    b"content-md5",
    b"digest",
    b"content-digest",
    b"repr-digest",
    b"signature",
)
# What described the event stream, or the connection that it came over, and would be untrue of the document.
_STREAM_HEADERS: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"content-encoding",
        b"trailer",
        b"content-range",
        b"accept-ranges",
        b"etag",
        b"content-md5",
        b"digest",
        b"content-digest",
        b"repr-digest",
        b"content-disposition",
        b"x-accel-buffering",
    )
)


# The metadata that goes with the request, and so to another try of it.
_OF_THE_REQUEST: Final = frozenset(
    (
        "rule",
        "endpoint",
        "model",
        "choices",
        "on_truncated",
        "quirks",
        "forced",
        "undo",
        "forced_size",
        "headers_undo",
    )
)


# What a request says


def hosts_of(flow: http.HTTPFlow) -> tuple[tuple[str, int | None], ...]:
    """The names a request goes by: its target, its Host or :authority, its TLS server name."""
    request = flow.request
    hosts: list[tuple[str, int | None]] = [(request.host, request.port)]
    named = request.host_header
    if named:
        name, port = _split_authority(named)
        hosts.append((name, port or request.port))
    if flow.client_conn.sni:
        hosts.append((flow.client_conn.sni, request.port))
    return tuple(hosts)


def _split_authority(authority: str) -> tuple[str, int | None]:
    name, colon, port = authority.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in name or name.startswith("[")):
        return name, int(port)
    return authority, None


def readable_body(flow: http.HTTPFlow) -> bytes | None:
    """The request's body, decoded; None where mitmproxy does not hold it or it cannot be decoded."""
    try:
        return flow.request.content
    except ValueError:
        return None


def body_of(flow: http.HTTPFlow) -> Body | Form | None:
    """A request's body, parsed, as a form or as JSON; a large one takes a while. None if it is neither."""
    raw = readable_body(flow)
    if raw is None:
        return None
    return read_form(raw, flow.request.headers.get("content-type", "")) or read_body(raw)


def model_of(body: Body | Form | None) -> str | None:
    """The model that a request names."""
    model = None if body is None else body.members.get("model")
    return model if isinstance(model, str) else None


def check_forcible(flow: http.HTTPFlow, body: Body | Form, rule: Rule) -> tuple[AnswerSpec | None, Edited]:
    """The forced form of a flow's request by a rule. Raises `Refusal` where it has to go out as it came."""
    endpoint = rule.endpoint(flow.request.path)
    if endpoint is None:
        raise Refusal("its path is no endpoint")
    check_unsigned(flow.request)
    return force_request(
        body,
        endpoint,
        flow.request.path,
        rule=rule.name,
        stream_options=rule.stream_options,
        on_truncated=rule.on_truncated,
        quirks=rule.quirks,
    )


def force(flow: http.HTTPFlow, body: Body | Form, rule: Rule) -> AnswerSpec | None:
    """Make a flow's request stream, by a rule; returns what to make of its answer, None if that will be plain. Raises
    `Refusal`."""
    spec, edited = check_forcible(flow, body, rule)
    apply_edit(flow, edited, spec)
    return spec


def check_unsigned(request: http.Request) -> None:
    """Raises `Refusal` for a request whose headers vouch for its body's bytes."""
    names = {name.lower() for name, _ in request.headers.fields}
    signed = [name.decode() for name in _SIGNATURES if name in names]
    if request.headers.get("authorization", "").startswith("AWS4-"):
        signed.append("authorization")
    if signed:
        raise Refusal(f"the request is signed ({signed[0]}), and a changed body would not fit the signature")


def was_made_to_stream(flow: http.HTTPFlow) -> bool:
    """Whether this flow's request streams because a rule said so."""
    return flow.metadata.get(f"{PREFIX}forced") is True


def was_left_alone(flow: http.HTTPFlow) -> bool:
    """Whether the log has said why this flow's request went out as it came, though a forcing rule takes it."""
    return f"{PREFIX}left_alone" in flow.metadata


def rule_of(flow: http.HTTPFlow) -> str:
    """The name of the rule that took this flow; "" if none noted that."""
    return str(flow.metadata.get(f"{PREFIX}rule", ""))


def was_forced(flow: http.HTTPFlow) -> bool:
    """Whether this flow is the replay of a forced one: its request streams because we said so."""
    return flow.is_replay == "request" and was_made_to_stream(flow)


def as_it_came(flow: http.HTTPFlow, body: bytes) -> bytes:
    """The body of a forced request before it was edited; a body that a person edited since stays as it is."""
    note = flow.metadata
    if len(body) != note.get(f"{PREFIX}forced_size"):
        return body
    return undo(body, [(start, end, old) for start, end, old in note[f"{PREFIX}undo"]])


def is_event_stream(response: http.Response) -> bool:
    """Whether a response goes by the label of an event stream."""
    content_type: str = response.headers.get("content-type", "")
    return 200 <= response.status_code < 300 and content_type.lower().startswith(EVENT_STREAM_TYPE)


def decoded(flow: http.HTTPFlow) -> bytes:
    """A response's body without its content encoding; as it came where that is broken."""
    assert flow.response is not None
    try:
        return flow.response.content or b""
    except ValueError:
        return flow.response.raw_content or b""


def observe_whole(flow: http.HTTPFlow, watch: Watch) -> bool:
    """Show a whole response to a watch that saw nothing of it; False where mitmproxy does not hold the body."""
    response = flow.response
    assert response is not None
    if response.raw_content is None:
        return False
    watch.head(response.status_code, response.headers.get("content-type", ""))
    watch.data(decoded(flow))
    watch.end()
    return True


# What a request becomes


def apply_edit(flow: http.HTTPFlow, edited: Edited, spec: AnswerSpec | None) -> None:
    """Put the edited body into the request; with a spec, ask for an event stream too."""
    request = flow.request
    note: dict[str, Any] = {"undo": [list(splice) for splice in edited.undo], "forced_size": len(edited.body)}
    if spec is not None:
        note |= {
            "rule": spec.rule,
            "endpoint": spec.endpoint,
            "model": spec.model,
            "choices": spec.choices,
            "on_truncated": spec.on_truncated,
            "quirks": list(spec.quirks),
            "forced": True,
            "headers_undo": _ask_for_stream(request),
        }
    if "content-encoding" in request.headers:
        del request.headers["content-encoding"]  # the edited body is sent plain
    request.raw_content = edited.body
    if "transfer-encoding" not in request.headers:
        request.headers["content-length"] = str(len(edited.body))
    save_notes(flow, note)


def _ask_for_stream(request: http.Request) -> list[list[str]]:
    """Sets the headers; returns the values they had."""
    before: list[list[str]] = []
    for name, value in _REQUEST_HEADERS.items():
        before.extend([name, old] for old in request.headers.get_all(name))
        request.headers[name.lower() if request.is_http2 else name] = value
    return before


def note_rule(flow: http.HTTPFlow, rule: str, endpoint: str, *, left_alone: str = "") -> None:
    """Note on a flow that is not forced which rule it fell under."""
    save_notes(flow, {"rule": rule, "endpoint": endpoint} | ({"left_alone": left_alone} if left_alone else {}))


def spec_of(flow: http.HTTPFlow) -> AnswerSpec | None:
    """The spec of a forced flow out of its metadata, for one that began before the addon was loaded again."""
    note = flow.metadata
    if note.get(f"{PREFIX}forced") is not True or f"{PREFIX}sse" in note:
        return None
    return _spec(note)


def _spec(note: dict[str, Any]) -> AnswerSpec:
    return AnswerSpec(
        rule=note[f"{PREFIX}rule"],
        endpoint=note[f"{PREFIX}endpoint"],
        model=note[f"{PREFIX}model"],
        choices=note[f"{PREFIX}choices"],
        on_truncated=note[f"{PREFIX}on_truncated"],
        quirks=tuple(note[f"{PREFIX}quirks"]),
    )


# What becomes of a response


def set_reply(flow: http.HTTPFlow, reply: Reply) -> None:
    """Make the response the reply: its status, its document, and headers that are true of it."""
    response = flow.response
    if response is None:
        return
    if response.status_code != reply.status:
        response.status_code = reply.status
        response.reason = HTTPStatus(reply.status).phrase if reply.status in _KNOWN_STATUSES else ""
    kept = [field for field in response.headers.fields if field[0].lower() not in _STREAM_HEADERS]
    response.headers.fields = tuple(kept)
    response.trailers = None
    if response.http_version == "HTTP/1.0":
        response.http_version = "HTTP/1.1"  # as the client's connection is not the upstream's
    headers = {"Content-Type": JSON_TYPE, "Content-Length": str(len(reply.body)), **reply.headers}
    for name, value in headers.items():
        response.headers[name.lower() if flow.request.is_http2 else name] = value
    response.raw_content = reply.body


def pass_through(flow: http.HTTPFlow, watch: Watch) -> None:
    """Leave the response as it came; of a body that was cut off, the length that was announced is untrue."""
    response = flow.response
    if response is not None and not watch.whole and "content-length" in response.headers:
        response.headers["content-length"] = str(len(response.raw_content or b""))


def fault() -> Reply:
    """The reply where the addon itself failed: raw events are nothing for a client that asked for JSON."""
    error = InternalError("the answer could not be aggregated")
    return Reply(error.status_hint, jsontext.dumps(error.body()))


def event_stream(flow: http.HTTPFlow) -> bytes | None:
    """The event stream that a flow holds: the one kept behind a rewritten response, or the response itself."""
    kept = flow.metadata.get(f"{PREFIX}sse")
    if isinstance(kept, bytes):
        return kept
    if flow.response is not None and is_event_stream(flow.response):
        return decoded(flow)
    return None


def kept_answer(flow: http.HTTPFlow) -> tuple[AnswerSpec, int, str] | None:
    """What made, or would make, an answer of a flow's event stream: the spec, the upstream's status and content
    type. None where the flow's path is no endpoint's."""
    note = flow.metadata
    content_type = flow.response.headers.get("content-type", "") if flow.response is not None else ""
    status = flow.response.status_code if flow.response is not None else 200
    if was_made_to_stream(flow):
        spec: AnswerSpec | None = _spec(note)
    elif f"{PREFIX}endpoint" in note:
        spec = AnswerSpec(note[f"{PREFIX}rule"], note[f"{PREFIX}endpoint"], printable(model_of(body_of(flow)) or ""))
    else:
        spec = at_path(flow.request.path)
    if spec is None:
        return None
    return spec, note.get(f"{PREFIX}sse_status", status), note.get(f"{PREFIX}sse_type", content_type)


def restore(flow: http.HTTPFlow) -> None:
    """Put a forced flow's request back as it came, and forget that it was forced."""
    request, note = flow.request, flow.metadata
    if not was_made_to_stream(flow):
        return
    request.raw_content = as_it_came(flow, request.raw_content or b"")
    for name in _REQUEST_HEADERS:
        request.headers.pop(name, None)
    for name, value in note.get(f"{PREFIX}headers_undo", []):
        request.headers.add(name.lower() if request.is_http2 else name, value)
    if "transfer-encoding" not in request.headers:
        request.headers["content-length"] = str(len(request.raw_content))
    flow.metadata = {key: value for key, value in note.items() if not key.startswith(PREFIX)}


def restored(flow: http.HTTPFlow) -> http.HTTPFlow:
    """A new flow with the request as it came, before it was forced."""
    plain: http.HTTPFlow = flow.copy()
    plain.response = None
    plain.error = None
    plain.marked = plain.comment = ""
    plain.is_replay = "request"
    restore(plain)
    plain.metadata = {}
    return plain


def spec_for(body: Body | Form, rule: Rule, endpoint: Endpoint) -> AnswerSpec:
    """How to read the answer to a request that asks for a stream itself."""
    model = printable(model_of(body) or "")
    return AnswerSpec(rule.name, endpoint.name, model, expected_choices(body.members), quirks=rule.quirks)


class LiveCopy:
    """A `response.stream` callable: passes every byte on as it comes, and keeps a copy of the first `limit`.
    `spec`: how the copy can be read."""

    def __init__(self, limit: int, spec: AnswerSpec | None = None) -> None:
        self.spec = spec
        self.pieces: list[bytes] = []
        self.times: list[float] = []
        self.size = 0
        self.whole = True
        self._limit = limit
        self._begin = time.monotonic()  # it is made when the request goes out

    def __call__(self, data: bytes) -> bytes:
        if data and self.whole and self.size + len(data) <= self._limit:
            self.size += len(data)
            self.pieces.append(data)
            self.times += (round(time.monotonic() - self._begin, 6), self.size)
        elif data:
            self.whole = False
        return data


def store_live_copy(flow: http.HTTPFlow, tee: LiveCopy) -> None:
    """Put the copy of a stream that was passed on live where its body would be."""
    if flow.response is None or flow.response.raw_content is not None or not tee.pieces:
        return
    flow.response.raw_content = b"".join(tee.pieces)
    save_notes(flow, {"times": tee.times} | ({} if tee.whole else {"cut_at": tee.size}))


def store_answer(flow: http.HTTPFlow, watch: Watch, decoded_body: bytes | None) -> None:
    """Keep the upstream's body on the flow, before the response is rewritten."""
    if flow.response is None or not watch.headed:
        return
    body = watch.body() if decoded_body is None else decoded_body
    store_raw_stream(flow, body, flow.response.status_code, flow.response.headers.get("content-type", ""))


def store_raw_stream(flow: http.HTTPFlow, stream: bytes, status: int, content_type: str) -> None:
    """Keep an event stream behind a response that is to be rewritten."""
    save_notes(flow, {"sse": stream, "sse_status": status, "sse_type": content_type})


def text_of(response: http.Response) -> str:
    """A response's body as text, whatever its label says; JSON is UTF-8 (RFC 8259, section 8.1)."""
    return (response.get_content(strict=False) or b"").decode("utf-8-sig", errors="replace")


def another_try(flow: http.HTTPFlow, tries: int) -> http.HTTPFlow:
    """A new flow with the same request, forced as it is, linked to the first one."""
    again: http.HTTPFlow = flow.copy()
    again.response = None
    again.error = None
    again.marked = ""
    again.comment = ""
    again.is_replay = "request"
    kept = {key: value for key, value in flow.metadata.items() if key.removeprefix(PREFIX) in _OF_THE_REQUEST}
    again.metadata = kept | {f"{PREFIX}retry_of": flow.id, f"{PREFIX}try": tries}
    note = flow.metadata.setdefault(f"{PREFIX}retried_as", [])
    note.append(again.id)
    return again


def copy_outcome(flow: http.HTTPFlow, again: http.HTTPFlow, tries: int) -> None:
    """Make the outcome of another try the outcome of the first flow, for its client. What the first try itself came
    to stays in its metadata."""
    if again.response is None:
        return
    flow.response = again.response.copy()
    flow.comment = f"{again.comment}, try {tries}"
    flow.marked = flow.marked or MARK


def may_retry(flow: http.HTTPFlow, watch: Watch) -> bool:
    """Whether another try of this flow's request may come to more."""
    if watch.report.truncated:
        return True
    if watch.report.code in (OversizedStream.code, InternalError.code):
        return False
    return is_retried(watch.report.status)


def says_it_must_stream(flow: http.HTTPFlow) -> bool:
    """Whether a plain request was refused because it did not ask for a stream."""
    return flow.response is not None and says_so(flow.response.status_code, decoded(flow))


def retry_after(flow: http.HTTPFlow) -> str | None:
    """What the upstream says of when to come again."""
    return flow.response.headers.get("retry-after") if flow.response is not None else None


def save_notes(flow: http.HTTPFlow, values: dict[str, Any]) -> None:
    """Keep values in a flow's metadata, under the addon's keys."""
    flow.metadata.update({f"{PREFIX}{key}": value for key, value in values.items()})
