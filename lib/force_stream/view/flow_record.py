"""What is known of a flow: its outcome, for the statistics and the page, and the timeline of what its upstream sent.

Knows flows and their notes. Must not know how an event is read, rules or the page.
"""

import re
import time
from collections.abc import Sequence
from typing import Final
from weakref import ref

from mitmproxy import http
from mitmproxy.flow import Flow

from ..answer.forcing import at_path
from ..answer.reader import AnswerSpec
from ..answer.report import Report
from ..proxy.attempt import Attempt
from ..proxy.bodies import beginning, broken_encoding
from ..proxy.notes import CUT_AT, ENDED, ENDPOINT, GIVEN, HEAD, RETRY_OF, SSE, TIMES, TRY
from ..proxy.request import upstream_of, without_credentials
from ..proxy.response import plain_body
from ..proxy.summary import direction_of
from ..wire.text import printable
from . import timeline
from .stats import Outcome, thinned

# What a person wants to see of an upstream's head, and how much of each.
_SHOWN: Final = re.compile(
    r"content-type|content-encoding|retry-after(?:-ms)?|(?:.*[-_])?(?:request|trace|correlation)[-_]?id|cf-ray"
)
_MOST_SHOWN: Final = 12
# Bytes of memory, about: of a flow without its bodies, and of each number that is noted of a piece.
_WITHOUT_BODIES: Final = 20_000
_OF_A_TIME: Final = 32


def of_attempt(flow: http.HTTPFlow, attempt: Attempt, answered: float | None = None) -> Outcome:
    """The outcome of a forced flow that is over and logged. It ended now, or when `answered` says (seconds since 1970);
    without an answer, its status is 0."""
    body = b"" if attempt.encoded else attempt.body()
    return _outcome(
        flow, attempt.spec, attempt.report, body, attempt.times, attempt.ended, bool(attempt.injected), answered
    )


def of_own_stream(flow: http.HTTPFlow, spec: AnswerSpec, limit: int, cut: str = "") -> Outcome:
    """The outcome of a stored stream that the client itself asked for. Reads all of it, up to the limit. `cut`: how the
    transport ended it too early, if it did."""
    response = flow.response
    assert response is not None
    body = beginning(response, limit)
    cut = cut or (broken_encoding(response) if not body else "")
    answer = spec.read(response.status_code, response.headers.get("content-type", ""))
    answer.feed(body)
    answer.finish(cut)
    # Where not all of it was kept, its end is not known.
    is_whole = CUT_AT.of(flow) is None and len(body) < limit
    answer.report.status = response.status_code  # the client has it already, whatever came after it
    answer.report.cause = without_credentials(flow, answer.report.cause) if is_whole else ""
    answer.report.own_code = without_credentials(flow, answer.report.own_code)
    if "content-encoding" in response.headers:
        body = b""  # the times are those of other bytes
    return _outcome(flow, spec, answer.report, body, TIMES.of(flow) or (), ENDED.of(flow))


def _outcome(
    flow: http.HTTPFlow,
    spec: AnswerSpec,
    report: Report,
    body: bytes,
    times: Sequence[float],
    ended: float | None,
    injected: bool = False,
    answered: float | None = None,
) -> Outcome:
    request, given = flow.request, GIVEN.of(flow)
    start = request.timestamp_end or request.timestamp_start
    return Outcome(
        id=flow.id,
        at=start,
        upstream=upstream_of(flow),
        rule=spec.rule,
        endpoint=spec.endpoint,
        model=spec.model,
        status=report.status,
        events=report.events if given is None else given,
        bytes=report.bytes,
        finish_reason=report.finish_reason,
        inferred=report.inferred,
        truncated=report.truncated,
        code=report.error,
        seconds=max(0.0, (time.time() if answered is None else answered) - start),
        first_event=times[0] if times and given is None else None,
        first_content=timeline.first_content(body, times) if given is None else None,
        arrivals=thinned(times[::2]),
        odd=tuple(report.odd),
        injected=injected,
        retry_of=RETRY_OF.of(flow) or "",
        number=TRY.of(flow) or 1,
        cause=report.cause,
        ended=ended,
        direction=direction_of(flow),
        head=head_of(flow),
        flow=ref(flow),
        weight=_weight(flow) + _OF_A_TIME * len(times),
    )


def timeline_of(flow: Flow | None, body: bytes, times: Sequence[float] | None) -> timeline.Timeline:
    """The timeline of a flow's answer as its upstream sent it, with the times of its pieces."""
    endpoint = ENDPOINT.of(flow)
    if endpoint is None and isinstance(flow, http.HTTPFlow) and (known := at_path(flow.request.path)):
        endpoint = known.endpoint
    plain = plain_body(flow) is not None
    return timeline.read(body, times, ended=ENDED.of(flow), endpoint=endpoint or "", plain=plain)


def head_of(flow: http.HTTPFlow) -> tuple[tuple[str, str], ...]:
    """What matters of the upstream's own head: names in lower case, and values."""
    noted = HEAD.of(flow)
    fields: Sequence[tuple[str | bytes, str | bytes]] = noted or ()
    if noted is None and flow.response is not None:
        fields = flow.response.headers.fields
    texts = ((_decoded(name).lower(), _decoded(value)) for name, value in fields)
    found = [(name, printable(value)) for name, value in texts if _SHOWN.fullmatch(name)]
    return tuple(found[:_MOST_SHOWN])


def _decoded(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode(errors="replace")


def _weight(flow: http.HTTPFlow) -> int:
    """About how many bytes of memory a flow takes, but for the times of its pieces."""
    bodies = flow.request.raw_content, flow.response and flow.response.raw_content, SSE.of(flow)
    return _WITHOUT_BODIES + sum(len(body or b"") for body in bodies)
