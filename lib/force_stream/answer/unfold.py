"""The other direction: a plain answer as the event stream that a real server would have sent.

Knows how events are written, and what tells an API's error and its silence; what an answer's events are, its endpoint
knows. Must not know mitmproxy, rules or requests. `aggregate` makes the same document of them again.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..endpoints.endpoint import Endpoint
from ..errors import ERROR_TYPE, MalformedStream, UpstreamError
from ..errors.events import error_in
from ..wire import jsontext
from ..wire.long_json import LONG, drop
from ..wire.text import decoded, printable
from .report import usage_in

_DONE: Final = b"data: [DONE]\n\n"
# Where the answers of each API say why they ended.
_REASONS: Final = ("finish_reason", "stop_reason", "stop_type", "status")


class Asked(NamedTuple):
    """What a client asked for whose request is sent plain: the events of an API, and whether those have the usage."""

    endpoint: Endpoint
    with_usage: bool = False


class Unfolded(NamedTuple):
    """The event stream of a plain answer, and what the answer says of itself."""

    stream: bytes
    finish_reason: str
    usage: Any


def unfold(document: bytes, asked: Asked) -> Unfolded:
    """The event stream of a document. Raises `UpstreamError` where that is an error, and `MalformedStream` where it is
    none of this API."""
    read: list[Any] = []
    try:
        return _unfold(document, asked, read)
    finally:
        drop(read)


def _unfold(document: bytes, asked: Asked, read: list[Any]) -> Unfolded:
    endpoint = asked.endpoint
    try:
        value = jsontext.loads("".join(decoded(document.removeprefix(BOM_UTF8))))
        if len(document) > LONG:
            read.append(value)
        events = None if endpoint.events_of is None else endpoint.events_of(value, asked.with_usage)
        if events is not None:
            return Unfolded(b"".join(_written(events, endpoint)), _finish_reason(value), usage_in(value))
        error = error_in(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        error = None  # deeper than Python's parser goes
    if error is not None:
        raise UpstreamError(error)
    raise MalformedStream(f"the upstream's plain answer is not one of the {endpoint.name} API")


def _finish_reason(value: Any) -> str:
    places = (value.get("choices") if isinstance(value, dict) else value) or [value]
    found = (place.get(name) for place in places if isinstance(place, dict) for name in _REASONS)
    return printable(", ".join(dict.fromkeys(reason for reason in found if isinstance(reason, str))))


def _written(events: Iterator[dict[str, Any]], endpoint: Endpoint) -> Iterator[bytes]:
    for event in events:
        yield event_of(event, endpoint)
    if not endpoint.names_events:
        yield _DONE


def event_of(data: dict[str, Any], endpoint: Endpoint) -> bytes:
    """One event."""
    name = f"event: {data['type']}\n".encode() if endpoint.names_events else b""
    return b"%bdata: %b\n\n" % (name, jsontext.dumps(data))


def silence(endpoint: Endpoint) -> bytes:
    """What keeps a client from giving up, and says nothing: the API's own event, or a comment."""
    return (
        b'event: ping\ndata: {"type": "ping"}\n\n' if endpoint.name == "messages" else b": waiting for the answer\n\n"
    )


def failure(body: bytes, endpoint: Endpoint) -> bytes:
    """The API's own error event, for a client that has its status 200 already. `body`: the error's JSON."""
    try:
        said = jsontext.loads(body.decode("utf-8-sig", errors="replace"))
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        words = error if isinstance(error, str) and error else "the upstream's answer cannot be read"
        error = {"message": words, "type": ERROR_TYPE, "param": None, "code": None}
    if endpoint.name == "messages":
        return event_of({"type": "error", "error": {"type": "api_error", "message": ""} | error}, endpoint)
    if endpoint.name == "responses":
        told = {key: error.get(key) for key in ("code", "message", "param")}
        return event_of({"type": "error", **told, "sequence_number": 0}, endpoint)
    return event_of({"error": error}, endpoint)
