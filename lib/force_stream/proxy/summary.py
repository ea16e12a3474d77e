"""What is said about a forced flow: the line for the log, the comment and the mark in the flow list, what came of it.

Knows the figures of an answer and how people read them; must not know how a flow is forced, or read events.
"""

import time
from typing import Any, Final

from mitmproxy import http

from ..answer.oddities import in_brief
from ..answer.report import Report
from ..wire import jsontext
from ..wire.text import counted, printable
from .attempt import LONGEST_REASON, Attempt
from .notes import TRY, save_notes
from .response import MARK

_LONGEST_COUNT: Final = 20
# What is noted of a report, by the same names.
_NOTED: Final = ("status", "events", "bytes", "finish_reason", "inferred", "truncated")


def summarize(flow: http.HTTPFlow, attempt: Attempt, *, from_kept: bool = False) -> str:
    """Comment, mark and metadata for a flow that was answered; returns the line for the log. `from_kept`: from the
    kept stream, whose times are already noted."""
    spec, report, injected = attempt.spec, attempt.report, attempt.injected
    finish = report.finish_reason
    notes = {key: getattr(report, key) for key in _NOTED} | {"error": report.code, "odd": report.odd}
    if not from_kept:
        notes["times"] = attempt.times
    if report.usage is not None:
        notes["usage"] = jsontext.dumps(report.usage).decode()
    if injected:
        notes["injected"] = jsontext.dumps(dict(injected)).decode()
    save_notes(flow, notes)
    short = [
        f"{spec.rule}: {spec.endpoint} {spec.model}".rstrip(),
        f"{report.status}",
        "FAULT INJECTED" if injected else "",
        finish and f"finish {finish}" + (" (inferred)" if report.inferred else ""),
        report.code or ("truncated" if report.truncated else ""),
    ]
    figures = [counted(report.events, "event"), counted(report.bytes, "byte"), _tokens(report.usage)]
    odd = _odd(report)
    end = f"{_seconds(flow):.1f} s{odd}"
    flow.comment = ", ".join(filter(None, [*short, end]))
    if odd or report.truncated or report.code or report.status >= 400 or injected:
        flow.marked = flow.marked or MARK
    return ", ".join(filter(None, [*short, *figures, end])) + _try(flow)


def describe_as_it_is(flow: http.HTTPFlow, attempt: Attempt, how: str) -> str:
    """Comment and mark for a flow whose answer stays as it is; returns the line for the log. `how` it was had."""
    assert flow.response is not None
    spec, status = attempt.spec, flow.response.status_code
    attempt.report.status, attempt.report.bytes = status, len(flow.response.raw_content or b"")
    flow.comment = f"{spec.rule}: {spec.endpoint} {spec.model}".rstrip() + f", {status}, {how}, {_seconds(flow):.1f} s"
    if status >= 400:
        flow.marked = flow.marked or MARK
    return f"{flow.comment}{_try(flow)}"


def describe_error(flow: http.HTTPFlow, attempt: Attempt, message: str) -> str:
    """Comment, mark and metadata for a flow that got no answer; returns the line for the log."""
    spec, report = attempt.spec, attempt.report
    notes: dict[str, Any] = {"error": "no_answer", "odd": report.odd}
    if attempt.response_started:
        notes |= {"sse": attempt.body(), "times": attempt.times}
    save_notes(flow, notes)
    said, odd = f"{spec.rule}: {spec.endpoint} {spec.model}, no answer", _odd(report)
    flow.comment = said + odd
    flow.marked = flow.marked or MARK
    return f"{said}: {printable(message, LONGEST_REASON)}, {_seconds(flow):.1f} s{odd}{_try(flow)}"


def _odd(report: Report) -> str:
    return f"; odd: {in_brief(report.odd)}" if report.odd else ""


def _try(flow: http.HTTPFlow) -> str:
    """For the log alone: in a comment it says whose client got that try's answer."""
    number = TRY.of(flow)
    return f", try {number}" if number else ""


def _seconds(flow: http.HTTPFlow) -> float:
    start = flow.request.timestamp_end or flow.request.timestamp_start
    end = None if flow.live or flow.response is None else flow.response.timestamp_end
    return max(0.0, (end or time.time()) - start)


def _tokens(usage: Any) -> str:
    """A usage in short: tokens in and out, by chat's names or those of Responses."""
    if not isinstance(usage, dict):
        return ""
    read = usage.get("prompt_tokens", usage.get("input_tokens"))
    written = usage.get("completion_tokens", usage.get("output_tokens"))
    ways = (read, "in"), (written, "out")
    counts = " + ".join(f"{printable(str(count), _LONGEST_COUNT)} {way}" for count, way in ways if type(count) is int)
    return counts and f"{counts} tokens"
