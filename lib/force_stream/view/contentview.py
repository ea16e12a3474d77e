"""The content view "Upstream SSE": the events behind an answer, in mitmproxy's console, mitmweb and mitmdump.

Knows mitmproxy's content views and the metadata that `proxy/notes` lists; must not know events, which are `timeline`'s.
"""

from typing import Final

from mitmproxy import contentviews, http
from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.flow import Flow

from ..answer.report import EVENT_STREAM_TYPE
from ..proxy import notes
from . import timeline, timeline_text
from .timeline_text import About

# mitmproxy's own views return 1 for what they are made for, and the raw one 0.1 for everything. For a rewritten answer,
# JSON comes first and this view next.
BEST: Final = 2.0
NEXT_TO_JSON: Final = 0.5
NOT_OURS: Final = -1.0


class UpstreamSSE(Contentview):
    """Shows the event stream that the flow keeps, or else the one that the response is."""

    name = "Upstream SSE"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        response = _response(metadata)
        if response is None:
            return "No event stream here: this view is for responses.\n"
        kept = notes.SSE.of(metadata.flow)
        read = timeline.read(data if kept is None else kept, notes.TIMES.of(metadata.flow))
        return timeline_text.text(read, _about(metadata.flow, response))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        if _response(metadata) is None:
            return NOT_OURS
        content_type = (metadata.content_type or "").lower()
        if content_type == EVENT_STREAM_TYPE:
            return BEST
        is_json = content_type.endswith("json")
        return NEXT_TO_JSON if is_json and notes.SSE.of(metadata.flow) is not None else NOT_OURS


def _response(metadata: Metadata) -> http.Response | None:
    """The response that is looked at; None for a request, a WebSocket message and the like."""
    message = metadata.http_message
    return message if isinstance(message, http.Response) else None


def _about(flow: Flow | None, response: http.Response) -> About:
    number, retries = notes.TRY.of(flow), notes.RETRIED_AS.of(flow)
    status, upstream = response.status_code, notes.SSE_STATUS.of(flow)
    differs = upstream is not None and upstream != status
    # Of the later tries, the last one's answer is the client's.
    whose = "to the client" if number is None else "made of it"
    finish = _text(notes.FINISH_REASON.of(flow))
    return About(
        rule=_text(notes.RULE.of(flow)),
        endpoint=_text(notes.ENDPOINT.of(flow)),
        model=_text(notes.MODEL.of(flow)),
        status=f"{upstream} from the upstream, {status} {whose}" if differs else f"{status}",
        finish_reason=f"{finish} (inferred)" if finish and notes.INFERRED.of(flow) else finish,
        tries=f"1 of {len(retries) + 1}; the others are separate flows" if retries else f"{number or ''}",
        truncated=notes.TRUNCATED.of(flow) is True,
        error=_text(notes.ERROR.of(flow)),
        encoding=_text(response.headers.get("content-encoding")),
        kept=notes.CUT_AT.of(flow),
        odd=notes.ODD.of(flow),
    )


def _text(value: str | None) -> str:
    return (value or "")[:200]


view = UpstreamSSE()


def register() -> None:
    """Offer the view; one of the same name, from before a reload, is replaced."""
    contentviews.add(view)


def unregister() -> None:
    """Take the view back. mitmproxy's registry of views has no way for that in its API."""
    views = getattr(contentviews.registry, "_by_name", {})
    name = view.name.lower()
    if views.get(name) is view:
        del views[name]
        contentviews.registry.on_change.send(view)
