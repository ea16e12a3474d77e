"""The other direction: a plain answer as the event stream that a real server would have sent.

Knows how events are written, and what tells an API's error and its silence; what an answer's events are, its endpoint
knows. Must not know mitmproxy, rules or requests. `aggregate` makes the same document of them again.
"""

from collections.abc import Iterator
from typing import Any

from ..endpoints.endpoint import Endpoint
from ..errors import ERROR_TYPE, MalformedStream
from ..wire import jsontext

_DONE = b"data: [DONE]\n\n"


def unfold(document: bytes, endpoint: Endpoint, *, with_usage: bool) -> bytes:
    """The event stream of a document. Raises `MalformedStream` where it is none of this API."""
    events = None
    try:
        if endpoint.events_of is not None:
            events = endpoint.events_of(jsontext.loads(document.decode("utf-8-sig", errors="replace")), with_usage)
        if events is not None:
            return b"".join(_written(events, endpoint))
    except (ValueError, RecursionError):
        pass  # deeper than Python's parser goes
    raise MalformedStream(f"the upstream's plain answer is not one of the {endpoint.name} API")


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
