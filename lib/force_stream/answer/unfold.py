"""The other direction: a plain answer as the event stream that a real server would have sent.

Knows how events are written, and what tells an API's error and its silence; what an answer's events are, its endpoint
knows. Must not know mitmproxy, rules or requests. `aggregate` makes the same document of them again.
"""

from codecs import BOM_UTF8
from typing import Any, Final, NamedTuple

from ..endpoints.endpoint import Asked as Asked
from ..endpoints.endpoint import Endpoint
from ..errors import EmptyStream, MalformedStream, UpstreamError, error_body
from ..errors.events import error_from_words, error_in
from ..errors.words import is_readable, words_in
from ..wire import jsontext
from ..wire.long_json import LONG, drop
from ..wire.text import decoded, printable
from .cause import words_of_page
from .report import usage_in

_NAME: Final = b"event: "
_DONE: Final = b"data: [DONE]\n\n"
# Characters of a body that is no error in JSON.
_LONGEST_WORDS: Final = 1000
# Where the answers of each API say why they ended.
_REASONS: Final = ("finish_reason", "stop_reason", "stop_type", "status")


class Unfolded(NamedTuple):
    """The event stream of a plain answer, what the answer says of itself, and how many events there are."""

    stream: bytes
    finish_reason: str
    usage: Any
    events: int


def unfold(document: bytes, asked: Asked) -> Unfolded:
    """The event stream of a document. Raises `UpstreamError` where that is an error, `EmptyStream` where it has no
    answer in it, and `MalformedStream` where it is none of this API."""
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
        events = endpoint.events_of(value, asked)
        if events is not None:
            written = [event_of(event, endpoint) for event in events]
            end = b"" if written[-1].startswith(_NAME) else _DONE
            return Unfolded(b"".join([*written, end]), _finish_reason(value), usage_in(value), len(written))
        error = error_in(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        value = error = None  # deeper than Python's parser goes
    if error is not None:
        raise UpstreamError(error)
    if isinstance(value, dict) and value.get(endpoint.holds, 0) in (None, "", []):
        nothing = jsontext.dumps(value[endpoint.holds]).decode()
        empty = EmptyStream(f"the upstream's answer has nothing in it: its {endpoint.holds} is {nothing}")
        empty.advice = "Try again."
        raise empty
    raise MalformedStream(f"the upstream's plain answer is not one of the {endpoint.name} API")


def _finish_reason(value: Any) -> str:
    places = (value.get("choices") if isinstance(value, dict) else value) or [value]
    found = (place.get(name) for place in places if isinstance(place, dict) for name in _REASONS)
    return printable(", ".join(dict.fromkeys(reason for reason in found if isinstance(reason, str))))


def event_of(data: dict[str, Any], endpoint: Endpoint) -> bytes:
    """One event."""
    kind = data.get("type")
    name = b"%b%b\n" % (_NAME, kind.encode()) if isinstance(kind, str) and kind.startswith(endpoint.named) else b""
    return b"%bdata: %b\n\n" % (name, jsontext.dumps(data))


def silence(endpoint: Endpoint) -> bytes:
    """What keeps a client from giving up, and says nothing: the API's own event, or a comment."""
    return (
        b'event: ping\ndata: {"type": "ping"}\n\n' if endpoint.name == "messages" else b": waiting for the answer\n\n"
    )


def failure(body: bytes, endpoint: Endpoint, *, status: int = 0, sequence: int = 0) -> bytes:
    """The API's own error event, for a client that has its status 200 already. `body`, `status`: what it would have got
    otherwise; `sequence`: the event's number, where the API numbers them."""
    said = _said(body.decode("utf-8-sig", errors="replace"), status)
    error = said["error"]
    beside = {key: value for key, value in said.items() if key not in ("error", "type")}
    if endpoint.name == "messages":
        return event_of({"type": "error", "error": {"type": "api_error", "message": ""} | error} | beside, endpoint)
    if endpoint.name == "responses":
        told = {key: error.get(key) for key in ("code", "message", "param")}
        # As documented; and `error` as OpenAI's servers have it, without which openai-python raises nothing.
        return event_of({**beside, "type": "error", **told, "error": error, "sequence_number": sequence}, endpoint)
    return event_of({"error": error} | beside, endpoint)


def _said(text: str, status: int) -> dict[str, Any]:
    """The error that a body says, or else which status it came with, and as much of it as a person can read."""
    try:
        said = jsontext.loads(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        if (error := said.get("error")) and isinstance(error, dict):
            return said  # clients take an empty one for none
        if (found := error_in(said)) is not None:
            return found
        if status >= 400 and words_in(said):
            return error_from_words(said)
    if not text:
        words = " without a body"
    elif is_readable(text):
        words = f": {printable(words_of_page(text), _LONGEST_WORDS)}"
    else:
        words = " with a body that cannot be read"
    return error_body(f"the upstream answered {status}{words}")
