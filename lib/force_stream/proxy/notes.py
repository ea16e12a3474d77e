"""What the addon notes on a flow: in `flow.metadata`, so that it travels in flow files and outlives a reload.

A flow file may come from anybody, and from any version of the addon. So nothing else looks into `flow.metadata`, and a
note is known only where its value is one that this version writes: any other is None, as one that is missing. What must
not be guessed raises `UnreadableFlow` instead. Must not know how a request or a response is changed. The keys:

    force_stream.rule, .endpoint, .model    which rule took the flow, and as what
    force_stream.forced                     true where the request was made to stream
    force_stream.made_plain                 true where it was made plain, though its client asked for a stream
    force_stream.given                      how many events the client got that were made of a plain answer, which is
                                            then what .sse has; 0 where that failed. With it .with_usage: whether the
                                            client wants usage in them
    force_stream.choices, .on_truncated, .quirks, .fill    what else the answer needs to be made, also after a reload
    force_stream.undo, .forced_size, .headers_undo    how to get the request back as it came
    force_stream.retry_of, .try, .retried_as    how the tries of one request are linked, by flow ids
    force_stream.answered_by                the try whose answer the client got, where it is not this flow's own
    force_stream.origin                     the web page that sent the request, where the rule's cors covers it
    force_stream.left_alone                 why a matched request went out as it came
    force_stream.sse                        the upstream's body, decoded; .sse_status, .sse_type and .head go with it
    force_stream.times                      for each piece of the body: seconds since the request, bytes so far; flat
    force_stream.ended                      when the answer was over: seconds since the request
    force_stream.cut_by, .limit             how the transport, or a limit of the rule's, ended it too early, in words
    force_stream.cut_at                     how many bytes were kept of a client's own stream, where that is not all
    force_stream.injected                   the rule's inject, as JSON, where it made the flow fail on purpose
    force_stream.cause                      why the answer is not simply whole, in a line
    force_stream.status, .events, .bytes, .finish_reason, .inferred, .truncated, .error, .usage, .odd    what came
                                            in this flow's own try, whoever it is answered by
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final

from mitmproxy import http
from mitmproxy.flow import Flow

from ..answer.quirks import QUIRKS
from ..answer.reader import AnswerSpec
from ..endpoints import ENDPOINTS
from ..wire import jsontext
from ..wire.text import LONGEST_PRINTED

_PREFIX: Final = "force_stream."
_LARGEST: Final = 10**15


class UnreadableFlow(Exception):
    """Why a flow is left as it is: what would have to be known of it is not, in words that quote nothing of it."""


@dataclass(frozen=True, slots=True)
class Note[T]:
    """One note: its name, and how its value is read; None for a value that this version does not write."""

    name: str
    read: Callable[[Any], T | None]

    def of(self, flow: Flow | None) -> T | None:
        value = _kept(flow).get(f"{_PREFIX}{self.name}")
        return None if value is None else self.read(value)


def _kept(flow: Flow | None) -> dict[Any, Any]:
    """A flow's metadata, which may not be a dictionary if somebody edited the file."""
    kept: object = None if flow is None else flow.metadata
    return kept if isinstance(kept, dict) else {}


# How values are read


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _name(value: object) -> str | None:
    """A name of ours, or one of others that was made fit to print."""
    return value if isinstance(value, str) and len(value) <= LONGEST_PRINTED + 1 and value.isprintable() else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST else None


def _positive(value: object) -> int | None:
    return _count(value) or None


def _status(value: object) -> int | None:
    return status if (status := _count(value)) is not None and status < 1000 else None


def _seconds(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and type(value) is not bool and 0 <= value < _LARGEST else None


def _texts(value: object) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(each, str) for each in value) else None


def _one_of(*known: str) -> Callable[[object], str | None]:
    return lambda value: value if isinstance(value, str) and value in known else None


def _quirks(value: object) -> tuple[str, ...] | None:
    names = _texts(value)
    return tuple(names) if names is not None and QUIRKS.keys() >= set(names) else None


def _constants(value: object) -> str | None:
    """A rule's `fill`, as JSON."""
    try:
        return value if isinstance(value, str) and (not value or isinstance(jsontext.loads(value), dict)) else None
    except (ValueError, RecursionError):
        return None


def _times(value: object) -> list[float] | None:
    """For each piece its time and the size so far, neither of which can go back."""
    if not isinstance(value, list) or len(value) % 2 or not {*map(type, value)} <= {int, float}:
        return None
    goes_back = any(one > other for half in (value[::2], value[1::2]) for one, other in pairwise(half))
    # What is not a number is neither more nor less.
    return None if goes_back or not all(0 <= each < _LARGEST for each in value) else value


def _splices(value: object) -> list[tuple[int, int, bytes]] | None:
    """Places in the request's body, one after the other, each with the bytes that stood there."""
    found: list[tuple[int, int, bytes]] = []
    at = 0
    for each in value if isinstance(value, list) else [None]:
        match each:
            case [start, end, bytes(old)] if type(start) is type(end) is int and at <= start <= end < _LARGEST:
                found.append((start, end, old))
                at = end
            case _:
                return None
    return found


def _fields(value: object) -> list[tuple[str, str | bytes]] | None:
    """Names and values of headers; older versions wrote text."""
    found: list[tuple[str, str | bytes]] = []
    for each in value if isinstance(value, list) else [None]:
        match each:
            case [str(name), (str() | bytes()) as content]:
                found.append((name, content))
            case _:
                return None
    return found


# The notes

RULE: Final = Note("rule", _name)
ENDPOINT: Final = Note("endpoint", _one_of(*ENDPOINTS))
MODEL: Final = Note("model", _name)
FORCED: Final = Note("forced", _flag)
MADE_PLAIN: Final = Note("made_plain", _flag)
GIVEN: Final = Note("given", _count)
WITH_USAGE: Final = Note("with_usage", _flag)
CHOICES: Final = Note("choices", _positive)
ON_TRUNCATED: Final = Note("on_truncated", _one_of("error", "partial"))
QUIRKS_NOTED: Final = Note("quirks", _quirks)
FILL: Final = Note("fill", _constants)
UNDO: Final = Note("undo", _splices)
FORCED_SIZE: Final = Note("forced_size", _count)
HEADERS_UNDO: Final = Note("headers_undo", _fields)
RETRY_OF: Final = Note("retry_of", _text)
TRY: Final = Note("try", _count)
RETRIED_AS: Final = Note("retried_as", _texts)
ANSWERED_BY: Final = Note("answered_by", _text)
ORIGIN: Final = Note("origin", _name)
LEFT_ALONE: Final = Note("left_alone", _text)
SSE: Final = Note("sse", _bytes)
SSE_STATUS: Final = Note("sse_status", _status)
SSE_TYPE: Final = Note("sse_type", _text)
HEAD: Final = Note("head", _fields)
TIMES: Final = Note("times", _times)
ENDED: Final = Note("ended", _seconds)
CUT_BY: Final = Note("cut_by", _text)
LIMIT: Final = Note("limit", _text)
CUT_AT: Final = Note("cut_at", _count)
INJECTED: Final = Note("injected", _text)
CAUSE: Final = Note("cause", _text)
STATUS: Final = Note("status", _status)
EVENTS: Final = Note("events", _count)
BYTES: Final = Note("bytes", _count)
FINISH_REASON: Final = Note("finish_reason", _text)
INFERRED: Final = Note("inferred", _flag)
TRUNCATED: Final = Note("truncated", _flag)
ERROR: Final = Note("error", _text)
USAGE: Final = Note("usage", _text)
ODD: Final = Note("odd", _texts)

NOTES: Final[tuple[Note[Any], ...]] = tuple(each for each in list(globals().values()) if isinstance(each, Note))
_SPEC: Final = tuple(each for each in NOTES if each.name in {field.name for field in fields(AnswerSpec)})
# What belongs to the request, and is copied to another attempt at it.
_OF_THE_REQUEST: Final = (*_SPEC, FORCED, MADE_PLAIN, UNDO, FORCED_SIZE, HEADERS_UNDO)


# Writing them


def save_notes(flow: http.HTTPFlow, values: dict[str, Any], spec: AnswerSpec | None = None) -> None:
    """Save values, and the fields of the spec, on the flow. A flow file takes lists, not tuples."""
    if spec is not None:
        values |= {each.name: getattr(spec, each.name) for each in _SPEC} | {"quirks": list(spec.quirks)}
    flow.metadata = _kept(flow)
    flow.metadata.update({f"{_PREFIX}{key}": value for key, value in values.items()})


def remove_notes(flow: http.HTTPFlow) -> None:
    ours = [key for key in _kept(flow) if isinstance(key, str) and key.startswith(_PREFIX)]
    flow.metadata = {key: value for key, value in _kept(flow).items() if key not in ours}


def remove_all_metadata(flow: http.HTTPFlow) -> None:
    flow.metadata = {}


def copy_request_notes(flow: http.HTTPFlow, other: http.HTTPFlow) -> None:
    """Copy the notes about the request, and no others, to another flow with the same request."""
    names = {f"{_PREFIX}{each.name}" for each in _OF_THE_REQUEST}
    other.metadata = {key: value for key, value in _kept(flow).items() if key in names}


# What another addon of mitmproxy keeps there


def proxy_user(flow: http.HTTPFlow) -> object:
    """Who the client is to this proxy, where it asks for that (`proxyauth`)."""
    return _kept(flow).get("proxyauth")


# Reading several


def was_made_to_stream(flow: http.HTTPFlow) -> bool:
    """Whether this flow's request streams because a rule said so."""
    return FORCED.of(flow) is True


def got_no_answer(flow: Flow | None) -> bool:
    """Whether a forced flow ended without an answer to its client. What came is its response nevertheless."""
    return ERROR.of(flow) in ("client_gone", "no_answer")


def was_made_plain(flow: Flow | None) -> bool:
    """Whether this flow's request is plain because a rule said so, and its client gets events."""
    return MADE_PLAIN.of(flow) is True


def noted(what: Note[Any], flow: http.HTTPFlow) -> bool:
    """Whether there is such a note, whatever its value."""
    return _kept(flow).get(f"{_PREFIX}{what.name}") is not None


def check_notes(flow: http.HTTPFlow) -> None:
    """Raises `UnreadableFlow` if a note has a value that this version does not write. Other keys than those of this
    version are none of its notes."""
    if flow.metadata is not _kept(flow):
        raise UnreadableFlow("its metadata is not a dictionary")
    for each in NOTES:
        if noted(each, flow):
            known(each, flow)


def known[T](what: Note[T], flow: http.HTTPFlow) -> T:
    """A note that is required: raises `UnreadableFlow` if it is missing."""
    value = what.of(flow)
    if value is None:
        problem = "has a value that this version does not write" if noted(what, flow) else "is missing"
        raise UnreadableFlow(f"its {_PREFIX}{what.name} {problem}")
    return value


def spec_of(flow: http.HTTPFlow) -> AnswerSpec:
    """The spec for an answer, from its flow's notes. Raises `UnreadableFlow`."""
    check_notes(flow)
    found = {each.name: known(each, flow) for each in _SPEC if each is not FILL}
    return AnswerSpec(**found, fill=FILL.of(flow) or "")  # the first versions had none
