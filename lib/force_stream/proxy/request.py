"""A flow's request: what it contains, what it becomes when it is forced, and how it is restored.

Knows mitmproxy's requests, rules and bodies; must not know what happens to an answer.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from mitmproxy import http
from mitmproxy.net.check import is_valid_host

from ..answer.fill import spelled
from ..answer.forcing import Refusal, check_form, force_request
from ..answer.reader import AnswerSpec
from ..answer.unfold import Asked as AskedStream
from ..endpoints import expected_choices, never_streams
from ..endpoints.endpoint import Endpoint
from ..rules.hosts import canonical_host, is_address, with_port
from ..rules.rule import Rule
from ..wire import credentials
from ..wire.form_body import Form, read_form
from ..wire.json_body import Body, Edited, means_false, read_body, undo
from . import bodies
from .learned import Asked, hash_of
from .notes import (
    FORCED_SIZE,
    HEADERS_UNDO,
    RETRIED_AS,
    UNDO,
    UnreadableFlow,
    copy_request_notes,
    known,
    remove_all_metadata,
    remove_notes,
    save_notes,
    was_made_plain,
    was_made_to_stream,
)

# What a request asks for when it asks for a stream. Identity, because a compressed stream cannot be read until its end.
_STREAM_HEADERS: Final = {"Accept": "text/event-stream", "Cache-Control": "no-cache", "Accept-Encoding": "identity"}
_BY_KEY: Final = {name.lower().encode(): name for name in _STREAM_HEADERS}
# And when it asks for a plain answer: all else stays as it came.
_PLAIN_HEADERS: Final = {"Accept": "application/json"}
# Headers that sign or hash the body. An upstream would reject a request that has one after its body was edited.
_SIGNATURES: Final = frozenset(b"x-amz-content-sha256 content-md5 digest content-digest repr-digest signature".split())
# Headers that tell for whose account a request is.
KEYS: Final = ("authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie")
_CREDENTIALS: Final = (*KEYS, "openai-organization", "openai-project")

# Characters. RFC 1035, section 2.3.4, has no longer names; and the longest name of a model that is remembered.
_LONGEST_HOST: Final = 255
_LONGEST_MODEL: Final = 200
# Names of query parameters that hold a key, and how much of one tells it apart.
_NAMES_A_SECRET: Final = re.compile(r"key|token|secret|password|sig|code", re.IGNORECASE)
_SHORTEST_SECRET: Final = 8


# Reading it


def hosts_of(flow: http.HTTPFlow) -> tuple[tuple[str, int | None], ...]:
    """The names a request goes by: its target, its Host or :authority, its TLS server name."""
    request = flow.request
    hosts: list[tuple[str, int | None]] = [(request.host, request.port)]
    if named := request.host_header if request.is_http2 or request.is_http3 else bodies.header(request, b"host"):
        name, port = _split_authority(named)
        hosts.append((name, port or request.port))
    if flow.client_conn.sni:
        hosts.append((flow.client_conn.sni, request.port))
    return tuple((name, port) for name, port in hosts if len(name) <= _LONGEST_HOST)


def name_of(flow: http.HTTPFlow) -> str:
    """What people call the request's upstream: its target. Where that is only an address that the client looked up (in
    transparent mode and its like), the TLS server name or else the Host header, which are the client's word: for people
    to read, and never to tell by where a request goes or whose it is."""
    request, client = flow.request, flow.client_conn
    if is_address(request.host) and client.proxy_mode.type_name != "reverse":
        for name in (client.sni, _split_authority(request.host_header or "")[0]):
            if name and name.isascii() and is_valid_host(name) and not is_address(name):
                return canonical_host(name)
    host: str = request.host
    return host


def upstream_of(flow: http.HTTPFlow) -> str:
    """The same with its port."""
    return with_port(name_of(flow), flow.request.port)


def _split_authority(authority: str) -> tuple[str, int | None]:
    name, colon, port = authority.rpartition(":")
    if colon and port.isascii() and port.isdigit() and len(port) < 6 and (":" not in name or name.startswith("[")):
        return name, int(port)
    return authority, None


def body_of(flow: http.HTTPFlow, limit: int = bodies.MOST_DECODED) -> Body | Form | None:
    """The body, parsed, as a form or as JSON; a large one takes a while. None if it is neither, or if decoding it would
    make more bytes than the limit."""
    raw, content_type = bodies.decoded(flow.request, limit), bodies.header(flow.request, b"content-type")
    if raw is None:
        return None
    form = read_form(raw, content_type) if content_type[:9].lower() == "multipart" else None
    return form or read_body(raw)


async def read_request(flow: http.HTTPFlow, limit: int = bodies.MOST_DECODED) -> tuple[Body | Form, str | None] | None:
    """The body, as `body_of` reads it, and the model, without holding the event loop."""
    body = await bodies.read(flow.request, lambda: body_of(flow, limit))
    return None if body is None else (body, model_of(body))


def model_of(body: Body | Form | None) -> str | None:
    """The model that a request names."""
    model = None if body is None else body.members.get("model")
    return model if isinstance(model, str) else None


def credentials_of(flow: http.HTTPFlow) -> bytes:
    """A hash of what tells the account that a request is made for; some APIs take the key in the query."""
    request = flow.request
    named = [value for name in _CREDENTIALS for value in (name, *request.headers.get_all(name))]
    return hash_of([*named, request.path.partition("?")[2]])


def without_credentials(flow: http.HTTPFlow, text: str) -> str:
    """A text of the upstream's without credentials: an error may quote those of the request, and may be cut short
    within one, or others that can be told by their looks."""
    if not text:
        return text
    request = flow.request
    given = [part for name in _CREDENTIALS for value in request.headers.get_all(name) for part in value.split()]
    given += [value for name, value in request.query.items(multi=True) if _NAMES_A_SECRET.search(name)]
    for secret in given:
        while len(secret) >= _SHORTEST_SECRET and secret[:_SHORTEST_SECRET] in text:
            size = next(size for size in range(min(len(secret), len(text)), 0, -1) if secret[:size] in text)
            text = text.replace(secret[:size], "***")
    return credentials.hidden(text)


def asked_of(flow: http.HTTPFlow, model: str | None, endpoint: Endpoint) -> Asked:
    """Which upstream the request asks for which model. A model's name of unlimited length, which a client may make up,
    is hashed."""
    if model is not None and len(model) > _LONGEST_MODEL:
        model = hash_of([model]).hex()
    return Asked(flow.request.host, flow.request.port, name_of(flow), model, endpoint.name)


def spec_for(body: Body | Form, rule: Rule, endpoint: Endpoint) -> AnswerSpec:
    """How to read the answer to a request that goes out as it came."""
    return AnswerSpec(
        rule.name,
        endpoint.name,
        model_of(body) or "",
        expected_choices(body.members),
        rule.on_truncated,
        rule.quirks,
        spelled(rule.fill),
    )


def stream_spec_for(body: Body | Form, rule: Rule, endpoint: Endpoint) -> AnswerSpec:
    """The same where the client asks for a stream: half of one is no answer."""
    return replace(spec_for(body, rule, endpoint), on_truncated="error")


# Forcing it


def forced_form(
    flow: http.HTTPFlow, body: Body | Form, rule: Rule, endpoint: Endpoint
) -> tuple[AnswerSpec | None, Edited]:
    """The edit that makes a request stream, and how to read the answer; None if that will be plain. Raises `Refusal`
    where the request has to go out as it came."""
    _check_unsigned(flow.request)
    return force_request(
        body,
        endpoint,
        flow.request.path,
        rule=rule.name,
        stream_options=rule.stream_options,
        extra_body=rule.extra_body,
        on_truncated=rule.on_truncated,
        quirks=rule.quirks,
        fill=rule.fill,
    )


def force(flow: http.HTTPFlow, body: Body | Form, rule: Rule, endpoint: Endpoint) -> AnswerSpec | None:
    """Make a flow's request stream, as `forced_form` says."""
    spec, edited = forced_form(flow, body, rule, endpoint)
    _edit(flow, edited, {} if spec is None else _STREAM_HEADERS, {} if spec is None else {"forced": True}, spec)
    return spec


def plain_form(flow: http.HTTPFlow, body: Body | Form, rule: Rule, endpoint: Endpoint) -> tuple[AskedStream, Edited]:
    """The edit that makes a request for a stream a plain one, and what its client gets. Raises `Refusal` where it has
    to go out as it came."""
    _check_unsigned(flow.request)
    if endpoint.never_streams and never_streams(endpoint, flow.request.path):
        raise Refusal("this path never streams")
    check_form(body, endpoint, rule.extra_body)
    if reason := endpoint.cannot_stream({**body.members, **rule.extra_body}):
        raise Refusal(reason)
    asked = stream_asked_of(flow, body, endpoint)
    return asked, body.plain(rule.extra_body, endpoint.only_streamed)


def stream_asked_of(flow: http.HTTPFlow, body: Body | Form, endpoint: Endpoint) -> AskedStream:
    """What a client gets whose request asks for a stream."""
    options = body.members.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    # vLLM's transcriptions have it as an option of its own.
    with_usage = with_usage or not means_false(body.members.get("stream_include_usage"))
    return AskedStream(endpoint, with_usage, flow.request.path)


def make_plain(
    flow: http.HTTPFlow, body: Body | Form, rule: Rule, endpoint: Endpoint
) -> tuple[AnswerSpec, AskedStream]:
    """Make a flow's request plain, as `plain_form` says; how to read the answer, and what its client gets."""
    asked, edited = plain_form(flow, body, rule, endpoint)
    spec = stream_spec_for(body, rule, endpoint)
    _edit(flow, edited, _PLAIN_HEADERS, {"made_plain": True}, spec)
    return spec, asked


def _edit(
    flow: http.HTTPFlow, edited: Edited, headers: Mapping[str, str], notes: dict[str, Any], spec: AnswerSpec | None
) -> None:
    """Set the edited body, which is sent plain, and these headers; and note how the request came."""
    request = flow.request
    fields = request.headers.fields
    if headers:
        # As bytes: a flow file takes no text that was not UTF-8.
        came = ((_BY_KEY.get(key.lower()), old) for key, old in fields)
        notes["headers_undo"] = [[name, old] for name, old in came if name is not None]
    notes |= {"undo": [list(splice) for splice in edited.undo], "forced_size": len(edited.body)}
    keys = {key.lower() for key, _ in fields}
    if b"transfer-encoding" not in keys:
        headers = {**headers, "content-length": str(len(edited.body))}
    if b"content-encoding" in keys:
        fields = tuple(field for field in fields if field[0].lower() != b"content-encoding")
    request.headers.fields = with_headers(fields, headers, spelling_for(request))
    request.raw_content = edited.body
    save_notes(flow, notes, spec)


def _check_unsigned(request: http.Request) -> None:
    """Raises `Refusal` for a request whose headers sign or hash its body."""
    for key, value in request.headers.fields:
        name = key.lower()
        if name in _SIGNATURES or (name == b"authorization" and value.startswith(b"AWS4-")):
            signed = name.decode()
            raise Refusal(f"the request is signed ({signed}), and the signature would not match a changed body")


def with_headers(
    fields: tuple[tuple[bytes, bytes], ...], wanted: Mapping[str, str], spelling: Callable[[str], str]
) -> tuple[tuple[bytes, bytes], ...]:
    """Header fields that say what is wanted: in the place of those that are there, or at the end. mitmproxy, asked to
    set one, looks at all of them."""
    left = {name.lower().encode(): (name, value.encode(errors="surrogateescape")) for name, value in wanted.items()}
    set_too = frozenset(left)
    made = []
    for field in fields:
        key = field[0].lower()
        if key not in set_too:
            made.append(field)
        elif key in left:
            made.append((field[0], left.pop(key)[1]))
    return (*made, *((spelling(name).encode(), value) for name, value in left.values()))


def spelling_for(request: http.Request) -> Callable[[str], str]:
    """How a header's name is written in the request's version of HTTP: in HTTP/2 and HTTP/3, mitmproxy logs a line for
    every capital letter."""
    return str.lower if request.is_http2 or request.is_http3 else str


def _set_body(request: http.Request, body: bytes) -> None:
    request.raw_content = body
    if "transfer-encoding" not in request.headers:
        request.headers["content-length"] = str(len(body))


# Restoring it


def as_it_came(flow: http.HTTPFlow, body: bytes) -> bytes:
    """The body of a forced request before it was edited; unchanged if a person has edited it since. Raises
    `UnreadableFlow` where the notes do not say what it was."""
    splices = known(UNDO, flow)
    if len(body) != known(FORCED_SIZE, flow):
        return body
    if splices and splices[-1][1] > len(body):
        raise UnreadableFlow("its force_stream.undo belongs to another body")
    return undo(body, splices)


def restore(flow: http.HTTPFlow) -> None:
    """Put a forced flow's request back as it came, and forget how it was forced. Raises `UnreadableFlow`, and changes
    nothing, where the notes do not say how it came."""
    if not (was_made_to_stream(flow) or was_made_plain(flow)):
        return
    request = flow.request
    body, headers = as_it_came(flow, request.raw_content or b""), known(HEADERS_UNDO, flow)
    if any(name not in _STREAM_HEADERS for name, _ in headers):
        raise UnreadableFlow("its force_stream.headers_undo names headers that forcing does not set")
    for name in _STREAM_HEADERS:
        request.headers.pop(name, None)
    for name, value in headers:
        request.headers.add(name.lower() if request.is_http2 else name, value)
    _set_body(request, body)
    remove_notes(flow)


def restored(flow: http.HTTPFlow) -> http.HTTPFlow:
    """A new flow with the request as it came, before it was forced."""
    plain = _copy_to_send(flow)
    restore(plain)
    remove_all_metadata(plain)
    return plain


def another_attempt(flow: http.HTTPFlow, like: http.HTTPFlow | None = None) -> http.HTTPFlow:
    """A new flow with the same request, forced as it is, linked to the first one. `like`: the attempt whose request is
    sent again, if it is not the first one's."""
    retried = _copy_to_send(like or flow)
    copy_request_notes(like or flow, retried)
    return link(flow, retried)


def plain_attempt(flow: http.HTTPFlow, spec: AnswerSpec) -> http.HTTPFlow:
    """A new flow with the request as it came, linked to the first one."""
    plain = restored(flow)
    save_notes(plain, {}, spec)
    return link(flow, plain)


def link(flow: http.HTTPFlow, retried: http.HTTPFlow) -> http.HTTPFlow:
    """Link another attempt to the first flow; returns it."""
    before = RETRIED_AS.of(flow) or []
    save_notes(retried, {"retry_of": flow.id, "try": len(before) + 2})
    save_notes(flow, {"retried_as": [*before, retried.id]})
    return retried


def _copy_to_send(flow: http.HTTPFlow) -> http.HTTPFlow:
    retried: http.HTTPFlow = flow.copy()
    retried.response = retried.error = None
    retried.marked = retried.comment = ""
    retried.is_replay = "request"
    return retried
