"""What is reported about a forced flow: the line for the log, the comment and the mark in the flow list, its outcome.

Knows the figures of an answer and how people read them; must not know how a flow is forced, or read events.
"""

import time
from typing import Any, Final

from mitmproxy import http
from mitmproxy.flow import Flow

from ..answer.cause import gave_up, of_response, plainly
from ..answer.oddities import in_brief
from ..answer.report import Report
from ..wire import jsontext
from ..wire.text import counted, printable
from .attempt import LONGEST_REASON, Attempt
from .notes import GIVEN, TRY, save_notes, was_made_plain
from .request import without_credentials
from .response import MARK, retry_after, store_answer

_LONGEST_COUNT: Final = 20
# What is noted of a report, by the same names.
_NOTED: Final = ("status", "events", "bytes", "finish_reason", "inferred", "truncated", "error", "cause", "odd")


def summarize(flow: http.HTTPFlow, attempt: Attempt, *, from_kept: bool = False) -> str:
    """Comment, mark and metadata for a flow that was answered; returns the line for the log. `from_kept`: from the
    kept stream, whose times are already noted."""
    spec, report, injected = attempt.spec, attempt.report, attempt.injected
    finish = report.finish_reason
    report.cause, report.own_code = (without_credentials(flow, text) for text in (report.cause, report.own_code))
    cut_by = without_credentials(flow, attempt.cut_by)
    notes = {key: getattr(report, key) for key in _NOTED} | {"cut_by": cut_by, "limit": attempt.limit}
    if not from_kept:
        notes |= {"times": attempt.times, "ended": attempt.ended}
    if report.usage is not None:
        notes["usage"] = jsontext.dumps_short(report.usage).decode()
    notes |= _given(attempt)
    if injected:
        notes["injected"] = jsontext.dumps(dict(injected)).decode()
    save_notes(flow, notes)
    short = [
        f"{spec.rule}: {spec.endpoint} {spec.model}".rstrip(),
        f"{report.status}",
        "" if attempt.asked is None else _direction("events" if report.given else "", plain=attempt.plain),
        "FAULT INJECTED" if injected else "",
        finish and f"finish {finish}" + (" (inferred)" if report.inferred else ""),
        report.error or ("truncated" if report.truncated else ""),
    ]
    events = report.given or report.events
    came = counted(events, "event") if events or not _became_events(attempt) else ""
    figures = [came, counted(report.bytes, "byte"), _tokens(report.usage)]
    end = f"{_seconds(flow):.1f} s{_odd(report)}"
    flow.comment = _caused(report.cause, ", ".join(filter(None, [*short, end])))
    if report.cause or report.odd or report.truncated or report.code or report.status >= 400 or injected:
        flow.marked = flow.marked or MARK
    return _caused(report.cause, ", ".join(filter(None, [*short, *figures, end])) + _try(flow))


def describe_as_it_is(flow: http.HTTPFlow, attempt: Attempt, how: str) -> str:
    """Comment and mark for a flow whose answer stays as it is; returns the line for the log. `how` it was had."""
    response = flow.response
    assert response is not None
    spec, report, status, body = attempt.spec, attempt.report, response.status_code, response.raw_content or b""
    report.status, report.bytes = status, len(body)
    if status >= 400:
        cause = of_response(status, response.headers.get("content-type", ""), body, retry_after(flow) or "")
        report.cause = without_credentials(flow, cause)
        flow.marked = flow.marked or MARK
    said = f"{spec.rule}: {spec.endpoint} {spec.model}".rstrip() + f", {status}, {how}, {_seconds(flow):.1f} s"
    flow.comment = _caused(report.cause, said)
    return f"{flow.comment}{_try(flow)}"


def describe_error(flow: http.HTTPFlow, attempt: Attempt, message: str, *, gone: bool) -> str:
    """Comment, mark and metadata for a flow that got no answer; returns the line for the log. `gone`: because its
    client did not wait. What has come is the flow's body from now on."""
    spec, report = attempt.spec, attempt.report
    began, silence = attempt.response_started, attempt.silence
    if gone:
        plain_bytes = attempt.size if _became_events(attempt) else None
        cause = gave_up(attempt.ended, report.events, silence, began=began, plain_bytes=plain_bytes)
    else:
        cause = without_credentials(flow, f"no answer: {printable(plainly(message), LONGEST_REASON)}")
    report.cause, report.code = cause, "client_gone" if gone else "no_answer"
    notes: dict[str, Any] = {"error": report.code, "cause": cause, "odd": report.odd, "ended": attempt.ended}
    notes |= _given(attempt)
    if began:
        notes |= {"events": report.events, "times": attempt.times, "cut_by": "the client gave up" if gone else cause}
        response = flow.response
        if response is not None and not response.raw_content:
            response.raw_content = attempt.body()
        if not attempt.encoded:
            store_answer(flow, attempt, None)
    save_notes(flow, notes)
    said = f"{spec.rule}: {spec.endpoint} {spec.model}".rstrip()
    odd = _odd(report)
    flow.comment = _caused(cause, said + odd)
    flow.marked = flow.marked or MARK
    return _caused(cause, f"{said}, {_seconds(flow):.1f} s{odd}{_try(flow)}")


def describe_own_stream(flow: http.HTTPFlow, about: str, cause: str, *, marked: bool) -> str:
    """Comment and mark for an event stream that its client asked for, and that has a cause to be looked at; returns the
    line for the log. `about`: its rule, endpoint and model."""
    save_notes(flow, {"cause": cause})
    flow.comment = flow.comment or _caused(cause, f"{about}, the client's own stream")
    if marked:
        flow.marked = flow.marked or MARK
    return f"{_caused(cause, about)}, the client's own stream, {_seconds(flow):.1f} s"


def _caused(cause: str, said: str) -> str:
    """A line whose cause comes first."""
    return f"{cause}; {said}" if cause else said


def _given(attempt: Attempt) -> dict[str, Any]:
    """The notes of an attempt whose client asked for events, and its upstream was asked for none."""
    if attempt.asked is None or not _became_events(attempt):
        return {}
    return {"given": attempt.report.given, "with_usage": attempt.asked.with_usage}


def _became_events(attempt: Attempt) -> bool:
    """Whether a client asked for events that are made of a document, if that comes."""
    return attempt.asked is not None and (attempt.plain or attempt.report.given > 0)


def direction_of(flow: Flow | None) -> str:
    """How a plain answer came to a client that asked for events; "" for any other flow."""
    if (given := GIVEN.of(flow)) is None:
        return ""
    return _direction(counted(given, "event") if given else "", plain=was_made_plain(flow))


def _direction(events: str, *, plain: bool) -> str:
    """How a client came to what it asked for, which was events. `plain`: its upstream was asked for none."""
    if plain:
        return f"sent plain, given as {events}" if events else "sent plain"
    return f"JSON given as {events}" if events else "the client's own stream"


def _odd(report: Report) -> str:
    """What was odd, unless it is the cause."""
    return f"; odd: {in_brief(report.odd)}" if report.odd and not report.cause.startswith("odd: ") else ""


def _try(flow: http.HTTPFlow) -> str:
    """For the log alone: in a comment it says whose client got that try's answer."""
    number = TRY.of(flow)
    return f", try {number}" if number else ""


def _seconds(flow: http.HTTPFlow) -> float:
    start = flow.request.timestamp_end or flow.request.timestamp_start
    response, error = flow.response, flow.error
    end = None if flow.live else (response and response.timestamp_end) or (error and error.timestamp)
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
