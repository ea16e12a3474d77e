"""What is said about a forced flow: the line for the log, the comment and the mark in the flow list, what came of it.

Knows the figures of an answer and how people read them; must not know how a flow is forced, or read events.
"""

import time
from typing import Any

from mitmproxy import http

from ..answer.oddities import in_brief
from ..answer.report import Report
from ..wire import jsontext
from . import flows
from .watch import Watch


def summarize(flow: http.HTTPFlow, watch: Watch, *, again: bool = False) -> str:
    """Comment, mark and metadata for a flow that was answered; returns the line for the log. `again`: from the kept
    stream, whose times are already there."""
    spec, report = watch.spec, watch.report
    seconds = _seconds(flow)
    finish = report.finish_reason
    note: dict[str, Any] = {
        "status": report.status,
        "events": report.events,
        "bytes": report.bytes,
        "finish_reason": finish,
        "inferred": report.inferred,
        "truncated": report.truncated,
        "error": report.code,
        "odd": list(report.odd),
    }
    if not again:
        note["times"] = watch.times
    if report.usage is not None:
        note["usage"] = jsontext.dumps(report.usage).decode()
    if watch.injected:
        note["injected"] = jsontext.dumps(dict(watch.injected)).decode()
    flows.save_notes(flow, note)
    outcome = ["FAULT INJECTED" if watch.injected else ""]
    outcome += [finish and f"finish {finish}" + (" (inferred)" if report.inferred else "")]
    outcome += [report.code, "truncated" if report.truncated and not report.code else ""]
    short = [
        f"{spec.rule}: {spec.endpoint} {spec.model}".rstrip(),
        f"{report.status}",
        *filter(None, outcome),
    ]
    figures = [f"{report.events:,} events", f"{report.bytes:,} bytes", *_tokens(report.usage)]
    odd = _odd(report)
    flow.comment = ", ".join([*short, f"{seconds:.1f} s{odd}"])
    if odd or report.truncated or report.code or report.status >= 400 or watch.injected:
        flow.marked = flow.marked or flows.MARK
    return ", ".join([*short, *figures, f"{seconds:.1f} s{odd}"])


def describe_error(flow: http.HTTPFlow, watch: Watch, message: str) -> str:
    """Comment, mark and metadata for a flow that got no answer; returns the line for the log."""
    spec, report = watch.spec, watch.report
    if watch.headed:
        flows.save_notes(flow, {"sse": watch.body(), "times": watch.times})
    said, odd = f"{spec.rule}: {spec.endpoint} {spec.model}, no answer", _odd(report)
    flow.comment = said + odd
    flow.marked = flow.marked or flows.MARK
    flows.save_notes(flow, {"error": "no_answer", "odd": report.odd})
    return f"{said}: {message}, {_seconds(flow):.1f} s{odd}"


def _odd(report: Report) -> str:
    return f"; odd: {in_brief(report.odd)}" if report.odd else ""


def _seconds(flow: http.HTTPFlow) -> float:
    begin = flow.request.timestamp_end or flow.request.timestamp_start
    end = None if flow.live or flow.response is None else flow.response.timestamp_end
    return max(0.0, (end or time.time()) - begin)


def _tokens(usage: Any) -> list[str]:
    """A usage in short: tokens in and out, by chat's names or those of Responses."""
    if not isinstance(usage, dict):
        return []
    pairs = (
        (usage.get("prompt_tokens", usage.get("input_tokens")), "in"),
        (
            usage.get("completion_tokens", usage.get("output_tokens")),
            "out",
        ),
    )
    counts = " + ".join(f"{count} {way}" for count, way in pairs if isinstance(count, int))
    return [f"{counts} tokens"] if counts else []
