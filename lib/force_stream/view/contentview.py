"""The content view "Upstream SSE": the events behind an answer, in mitmproxy's console, mitmweb and mitmdump.

Knows mitmproxy's content views and the metadata that `proxy/notes` lists; must not know events, which are `timeline`'s.
"""

from collections.abc import Sequence
from typing import Any, Final

from mitmproxy import contentviews, ctx, http
from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.flow import Flow

from ..answer.report import EVENT_STREAM_TYPE
from ..errors import ClientGone
from ..proxy import notes
from ..proxy.response import streams
from ..proxy.summary import direction_of
from ..wire import encodings
from . import flow_record, timeline, timeline_text
from .timeline_text import About

# mitmproxy's own views return 1 for what they are made for, and the raw one 0.1 for everything. For a rewritten answer,
# JSON comes first and this view next.
BEST: Final = 2.0
NEXT_TO_JSON: Final = 0.5
NOT_OURS: Final = -1.0
_LONGEST_CAUSE: Final = 500


class UpstreamSSE(Contentview):
    """Shows what the flow keeps of its upstream, an event stream or the plain answer that became one, or else the
    event stream that the response is."""

    name = "Upstream SSE"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        response, flow = _response(metadata), metadata.flow
        if response is None or not (self.render_priority(data, metadata) > 0 or _holds_events(flow, response)):
            return _as_usual(data, metadata)
        kept, times = notes.SSE.of(flow), notes.TIMES.of(flow)
        if kept is None:
            kept, times = _decoded(data, response, times)
        return timeline_text.text(flow_record.timeline_of(flow, kept, times), _about(flow, response))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        if _response(metadata) is None:
            return NOT_OURS
        content_type = (metadata.content_type or "").lower()
        if content_type == EVENT_STREAM_TYPE:
            return BEST
        if notes.SSE.of(metadata.flow) is None:
            return NOT_OURS
        # There are no options if mitmproxy does not run, as in `force-stream report`.
        first = getattr(getattr(ctx, "options", None), "force_stream_view_first", False)
        if first and getattr(metadata.flow, "marked", ""):
            return BEST
        return NEXT_TO_JSON if content_type.endswith("json") else NOT_OURS


def _response(metadata: Metadata) -> http.Response | None:
    """The response that is looked at; None for a request, a WebSocket message and the like."""
    message = metadata.http_message
    return message if isinstance(message, http.Response) else None


def _holds_events(flow: Flow | None, response: http.Response) -> bool:
    """Whether there is an event stream, whatever the response's label says."""
    return notes.SSE.of(flow) is not None or streams(response)


def _as_usual(data: bytes, metadata: Metadata) -> str:
    """What mitmproxy's own views make of a body that is not an event stream: an option of mitmproxy's may have this
    view show every body."""
    try:
        return contentviews.registry.get_view(data, metadata).prettify(data, metadata)
    except Exception:  # what they raise for a body that is not as its label says
        return contentviews.registry["raw"].prettify(data, metadata)


def _decoded(data: bytes, response: http.Response, times: Sequence[float] | None) -> tuple[bytes, Any]:
    """A response's body without its content encoding, and the times of its pieces. mitmproxy does not decode every one
    that is cut off."""
    raw, label = response.raw_content, response.headers.get("content-encoding", "")
    if not raw or not encodings.is_encoded(label):
        return data, times
    decoded = encodings.beginning(raw, label, timeline.MOST_BYTES) if data == raw else data
    if not times:
        return decoded, times
    sizes = encodings.decoded_sizes(raw, label, timeline.MOST_BYTES, [int(size) for size in times[1::2]])
    return decoded, [value for pair in zip(times[::2], sizes, strict=True) for value in pair]


def _about(flow: Flow | None, response: http.Response) -> About:
    number, retries = notes.TRY.of(flow), notes.RETRIED_AS.of(flow)
    status, upstream = response.status_code, notes.SSE_STATUS.of(flow)
    given = f"{status}"
    if notes.got_no_answer(flow):
        given = f"{status} from the upstream, nothing to the client"
    elif upstream is not None and upstream != status:
        # Of the later tries, the last one's answer is the client's.
        given = f"{upstream} from the upstream, {status} {'to the client' if number is None else 'made of it'}"
    finish = _text(notes.FINISH_REASON.of(flow))
    return About(
        cause=_text(notes.CAUSE.of(flow), _LONGEST_CAUSE),
        rule=_text(notes.RULE.of(flow)),
        endpoint=_text(notes.ENDPOINT.of(flow)),
        model=_text(notes.MODEL.of(flow)),
        status=given,
        finish_reason=f"{finish} (inferred)" if finish and notes.INFERRED.of(flow) else finish,
        tries=f"1 of {len(retries) + 1}; the others are separate flows" if retries else f"{number or ''}",
        truncated=notes.TRUNCATED.of(flow) is True,
        error="" if notes.got_no_answer(flow) else _text(notes.ERROR.of(flow)),
        encoding=_text(response.headers.get("content-encoding")),
        kept=notes.CUT_AT.of(flow),
        odd=notes.ODD.of(flow),
        head=_head(flow),
        end=_end(flow),
        direction=direction_of(flow),
        usage=_text(notes.USAGE.of(flow)),
    )


def _head(flow: Flow | None) -> Sequence[tuple[str, str]]:
    """What is shown of the upstream's head. The flow's own response may be the aggregated one."""
    if notes.HEAD.of(flow) is None and notes.SSE.of(flow) is not None:
        return (("content-type", _text(notes.SSE_TYPE.of(flow))),)
    return flow_record.head_of(flow) if isinstance(flow, http.HTTPFlow) else ()


def _end(flow: Flow | None) -> str:
    """What ended a silence at the end."""
    if notes.ERROR.of(flow) == ClientGone.code:
        return "the client gave up"
    if cut_by := notes.CUT_BY.of(flow):
        return f"cut off: {_text(cut_by)}"
    return "timed out" if notes.LIMIT.of(flow) else "the end"


def _text(value: str | None, longest: int = 200) -> str:
    return (value or "")[:longest]


view = UpstreamSSE()


def register() -> None:
    """Offer the view; one of the same name, from before a reload, is replaced."""
    contentviews.add(view)


def unregister() -> None:
    """Unregister the view. mitmproxy's registry of views has no API for that."""
    views = getattr(contentviews.registry, "_by_name", {})
    name = view.name.lower()
    if views.get(name) is view:
        del views[name]
        contentviews.registry.on_change.send(view)
