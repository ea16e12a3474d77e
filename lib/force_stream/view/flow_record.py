"""A flow's outcome, for the statistics and the page.

Knows flows. Must not know events, rules or the page.
"""

import time
import weakref
from collections.abc import Sequence
from typing import Final

from mitmproxy import http

from ..answer.reader import AnswerSpec
from ..answer.report import Report
from ..proxy.attempt import Attempt
from ..proxy.bodies import beginning
from ..proxy.notes import RETRY_OF, SSE, TIMES, TRY
from ..proxy.request import name_of
from ..rules.hosts import with_port
from ..wire.text import printable
from .stats import Outcome, thinned
from .timeline import first_content

# Bytes of memory, about: of a flow without its bodies, and of each number that is noted of a piece.
_WITHOUT_BODIES: Final = 20_000
_OF_A_TIME: Final = 32


def of_answer(flow: http.HTTPFlow, attempt: Attempt) -> Outcome:
    """What came of a forced flow that was answered and logged."""
    body = b"" if attempt.encoded else attempt.body()
    return _outcome(flow, attempt.spec, attempt.report, body, attempt.times, bool(attempt.injected))


def of_no_answer(flow: http.HTTPFlow, attempt: Attempt) -> Outcome:
    """What came of a forced flow that ended without an answer: its status is 0."""
    code = "no_answer" if flow.client_conn.connected else "client_gone"
    seen = attempt.report
    report = Report(events=seen.events, bytes=seen.bytes, code=code, odd=seen.odd)
    return _outcome(flow, attempt.spec, report, attempt.body(), attempt.times, bool(attempt.injected))


def of_own_stream(flow: http.HTTPFlow, spec: AnswerSpec, limit: int, cut: str = "") -> Outcome:
    """What came of a kept stream that the client itself asked for. Reads all of it, up to the limit. `cut`: how the
    transport ended it too early, if it did."""
    response = flow.response
    assert response is not None
    body = beginning(response, limit)
    answer = spec.read(response.status_code, response.headers.get("content-type", ""))
    answer.feed(body)
    answer.finish(cut)
    if "content-encoding" in response.headers:
        body = b""  # the times are those of other bytes
    return _outcome(flow, spec, answer.report, body, TIMES.of(flow) or ())


def _outcome(
    flow: http.HTTPFlow, spec: AnswerSpec, report: Report, body: bytes, times: Sequence[float], injected: bool = False
) -> Outcome:
    request = flow.request
    start = request.timestamp_end or request.timestamp_start
    return Outcome(
        id=flow.id,
        at=start,
        upstream=with_port(printable(name_of(flow)), request.port),
        rule=spec.rule,
        endpoint=spec.endpoint,
        model=spec.model,
        status=report.status,
        events=report.events,
        bytes=report.bytes,
        finish_reason=report.finish_reason,
        inferred=report.inferred,
        truncated=report.truncated,
        code=report.code,
        seconds=max(0.0, time.time() - start),
        first_event=times[0] if times else None,
        first_content=first_content(body, times),
        arrivals=thinned(times[::2]),
        odd=tuple(report.odd),
        injected=injected,
        retry_of=RETRY_OF.of(flow) or "",
        number=TRY.of(flow) or 1,
        flow=weakref.ref(flow),
        weight=_weight(flow) + _OF_A_TIME * len(times),
    )


def _weight(flow: http.HTTPFlow) -> int:
    """About how many bytes of memory a flow takes, but for the times of its pieces."""
    bodies = flow.request.raw_content, flow.response and flow.response.raw_content, SSE.of(flow)
    return _WITHOUT_BODIES + sum(map(len, filter(None, bodies)))
