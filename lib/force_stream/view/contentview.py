"""The content view "Upstream SSE": the events behind an answer, in mitmproxy's console, mitmweb and mitmdump.

Knows mitmproxy's content views and the metadata that `proxy/notes` lists; must not know events, which are `timeline`'s.
"""

from typing import Any, Final

from mitmproxy import contentviews, http
from mitmproxy.contentviews import Contentview, Metadata

from ..proxy.notes import all_notes
from ..proxy.response import EVENT_STREAM_TYPE
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
        note = all_notes(metadata.flow)
        kept = note.get("sse")
        body = kept if isinstance(kept, bytes) else data
        read = timeline.read(body, note.get("times"))
        return timeline_text.text(read, _about(note, response))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        if _response(metadata) is None:
            return NOT_OURS
        content_type = (metadata.content_type or "").lower()
        if content_type == EVENT_STREAM_TYPE:
            return BEST
        is_json = content_type.endswith("json")
        return NEXT_TO_JSON if is_json and isinstance(all_notes(metadata.flow).get("sse"), bytes) else NOT_OURS


def _response(metadata: Metadata) -> http.Response | None:
    """The response that is looked at; None for a request, a WebSocket message and the like."""
    message = metadata.http_message
    return message if isinstance(message, http.Response) else None


def _about(note: dict[str, Any], response: http.Response) -> About:
    odd, cut_at, number = note.get("odd"), note.get("cut_at"), note.get("try")
    status, upstream = response.status_code, note.get("sse_status")
    differs = isinstance(upstream, int) and upstream != status
    retries = note.get("retried_as")
    tries = len(retries) + 1 if isinstance(retries, (list, tuple)) and retries else 0
    # Of the later tries, the last one's answer is the client's.
    whose = "made of it" if isinstance(number, int) else "to the client"
    finish = _text(note.get("finish_reason"))
    return About(
        rule=_text(note.get("rule")),
        endpoint=_text(note.get("endpoint")),
        model=_text(note.get("model")),
        status=f"{upstream} from the upstream, {status} {whose}" if differs else f"{status}",
        finish_reason=f"{finish} (inferred)" if finish and note.get("inferred") is True else finish,
        tries=f"1 of {tries}; the others are separate flows" if tries else f"{number}" * isinstance(number, int),
        truncated=note.get("truncated") is True,
        error=_text(note.get("error")),
        encoding=_text(response.headers.get("content-encoding")),
        kept=cut_at if isinstance(cut_at, int) else None,
        odd=[line for line in odd if isinstance(line, str)] if isinstance(odd, (list, tuple)) else None,
    )


def _text(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""


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
