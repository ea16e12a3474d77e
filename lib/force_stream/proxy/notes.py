"""What the addon notes on a flow: in `flow.metadata`, so that it travels in flow files and outlives a reload.

Must not know how a request or a response is changed. Its keys:

    force_stream.rule, .endpoint, .model    which rule took the flow, and as what
    force_stream.forced                     true where the request was made to stream
    force_stream.choices, .on_truncated, .quirks, .fill    what else the answer needs to be made, also after a reload
    force_stream.undo, .forced_size, .headers_undo    how to get the request back as it came
    force_stream.retry_of, .try, .retried_as    how the tries of one request are linked, by flow ids
    force_stream.answered_by                the try whose answer the client got, where it is not this flow's own
    force_stream.left_alone                 why a matched request went out as it came
    force_stream.sse                        the upstream's body, decoded; .sse_status and .sse_type go with it
    force_stream.times                      for each piece of the body: seconds since the request, bytes so far; flat
    force_stream.injected                   the rule's inject, as JSON, where it made the flow fail on purpose
    force_stream.status, .events, .bytes, .finish_reason, .inferred, .truncated, .error, .usage, .odd    what came
                                            in this flow's own try, whoever it is answered by
"""

from dataclasses import fields
from typing import Any, Final

from mitmproxy import http
from mitmproxy.flow import Flow

from ..answer.reader import AnswerSpec

_PREFIX: Final = "force_stream."
_SPEC: Final = tuple(field.name for field in fields(AnswerSpec))
# What belongs to the request, and is copied to another attempt at it.
_OF_THE_REQUEST: Final = (*_SPEC, "forced", "undo", "forced_size", "headers_undo")


def save_notes(flow: http.HTTPFlow, values: dict[str, Any], spec: AnswerSpec | None = None) -> None:
    """Save values, and the fields of the spec, on the flow. A flow file takes lists, not tuples."""
    if spec is not None:
        values |= {key: getattr(spec, key) for key in _SPEC} | {"quirks": list(spec.quirks)}
    flow.metadata.update({f"{_PREFIX}{key}": value for key, value in values.items()})


def note(flow: http.HTTPFlow, key: str, default: Any = None) -> Any:
    """One of the notes; `default` where it is not there."""
    return flow.metadata.get(f"{_PREFIX}{key}", default)


def all_notes(flow: Flow | None) -> dict[str, Any]:
    """The notes by their keys, whatever else an edited flow file contains; empty without a flow."""
    kept = {} if flow is None else flow.metadata
    ours = ((key, value) for key, value in kept.items() if isinstance(key, str) and key.startswith(_PREFIX))
    return {key.removeprefix(_PREFIX): value for key, value in ours}


def remove_notes(flow: http.HTTPFlow) -> None:
    flow.metadata = {key: value for key, value in flow.metadata.items() if not key.startswith(_PREFIX)}


def copy_request_notes(flow: http.HTTPFlow, other: http.HTTPFlow) -> None:
    """Copy the notes about the request, and no others, to another flow with the same request."""
    found = {key: value for key in _OF_THE_REQUEST if (value := note(flow, key)) is not None}
    other.metadata = {}
    save_notes(other, found)


def was_made_to_stream(flow: http.HTTPFlow) -> bool:
    """Whether this flow's request streams because a rule said so."""
    return note(flow, "forced") is True


def spec_of(flow: http.HTTPFlow) -> AnswerSpec:
    """The spec for a forced flow's answer, from its notes; an older version may have noted fewer."""
    found = {key: value for key in _SPEC if (value := note(flow, key)) is not None}
    return AnswerSpec(**found | {"quirks": tuple(note(flow, "quirks", ()))})
