"""A flow's outcome, for the statistics and the page.

Knows flows, and what their events say as far as that tells when the content began. Must not know rules or the page.
"""

import time
from collections.abc import Sequence
from typing import Final

from mitmproxy import http

from ..answer.exchange import Exchange, Report
from ..proxy import flows
from ..proxy.watch import Watch
from ..wire import jsontext
from ..wire.sse import EventStreamDecoder
from .additions import speaks
from .stats import Outcome, thinned

# How far the content is looked for: in these bytes, and events.
_MOST_BYTES: Final = 64 * 1024
_MOST_EVENTS: Final = 100
_STEP: Final = 512


def of_answer(flow: http.HTTPFlow, watch: Watch) -> Outcome:
    """What came of a forced flow that was answered, and told."""
    body = b"" if watch.encoded else watch.body()
    times = flow.metadata[f"{flows.PREFIX}times"]
    return _outcome(flow, watch.exchange, watch.report, body, times, injected=bool(watch.injected))


def of_no_answer(flow: http.HTTPFlow, watch: Watch) -> Outcome:
    """What came of a forced flow that ended without an answer: its status is 0."""
    code = "no_answer" if flow.client_conn.connected else "client_gone"
    report = Report(events=watch.report.events, bytes=watch.report.bytes, code=code)
    return _outcome(flow, watch.exchange, report, watch.body(), watch.times, injected=bool(watch.injected))


def of_own_stream(flow: http.HTTPFlow, exchange: Exchange, cut: str = "") -> Outcome:
    """What came of a kept stream that the client itself asked for. Reads all of it. `cut`: how the transport ended it
    too early, if it did."""
    response = flow.response
    assert response is not None
    body = flows.decoded(flow)
    answer = exchange.read(response.status_code, response.headers.get("content-type", ""))
    answer.feed(body)
    answer.finish(cut)
    if "content-encoding" in response.headers:
        body = b""  # the times are those of other bytes
    return _outcome(flow, exchange, answer.report, body, flow.metadata.get(f"{flows.PREFIX}times", []))


def _outcome(
    flow: http.HTTPFlow,
    exchange: Exchange,
    report: Report,
    body: bytes,
    times: Sequence[float],
    *,
    injected: bool = False,
) -> Outcome:
    request = flow.request
    begin = request.timestamp_end or request.timestamp_start
    host = f"[{request.host}]" if ":" in request.host else request.host
    return Outcome(
        id=flow.id,
        at=begin,
        upstream=f"{host}:{request.port}",
        rule=exchange.rule,
        endpoint=exchange.endpoint,
        model=exchange.model,
        status=report.status,
        events=report.events,
        bytes=report.bytes,
        finish_reason=report.finish_reason,
        inferred=report.inferred,
        truncated=report.truncated,
        code=report.code,
        seconds=max(0.0, time.time() - begin),
        first_event=times[0] if times else None,
        first_content=_first_content(body, times),
        arrivals=thinned(times[::2]),
        odd=tuple(report.odd),
        injected=injected,
    )


def _first_content(body: bytes, times: Sequence[float]) -> float | None:
    """When the piece came with which the first text was there; None where there is none near the begin."""
    decoder = EventStreamDecoder()
    start = events = 0
    for at, size in zip(times[::2], times[1::2], strict=True):
        # A piece may be all of the stream, and the text begins soon: only so much of it is decoded at once.
        for begin in range(start, min(int(size), _MOST_BYTES), _STEP):
            for event in decoder.feed(body[begin : min(begin + _STEP, int(size), _MOST_BYTES)]):
                events += 1
                try:
                    chunk = jsontext.loads(event.data)
                except ValueError:
                    continue
                if isinstance(chunk, dict) and speaks(chunk):
                    return at
            if events >= _MOST_EVENTS:
                return None
        start = int(size)
        if start >= _MOST_BYTES:
            break
    return None
