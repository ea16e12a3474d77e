"""The flows that are under way: their figures, and those that have been silent for so long that a person should know.

Knows flows and what observes them; must not know where the figures are shown, or how a flow is forced.
"""

import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from mitmproxy import http

from ..proxy.attempt import Attempt
from ..proxy.live_copy import LiveCopy
from ..proxy.request import upstream_of
from ..wire.text import counted

# Seconds of silence after which the log has a line, and between two looks.
SILENT: Final = 30.0
LOOK_EVERY: Final = 5.0

type Observer = Attempt | LiveCopy


class InFlight(NamedTuple):
    """One flow under way. `events` is None where they are not counted, `first_event` where nothing has come;
    `silent_for`: seconds since the last byte, or since the request went out."""

    id: str
    at: float
    upstream: str
    rule: str
    endpoint: str
    model: str
    events: int | None
    bytes: int
    seconds: float
    first_event: float | None
    silent_for: float
    in_flight: bool = True


def figures(flows: Iterator[tuple[http.HTTPFlow, Observer]]) -> list[dict[str, Any]]:
    """Plain values of each, the newest first."""
    found = [_figures(flow, observer) for flow, observer in flows]
    return [each._asdict() for each in sorted(found, key=lambda each: -each.at)]


def _figures(flow: http.HTTPFlow, observer: Observer) -> InFlight:
    request, spec = flow.request, observer.spec
    started = request.timestamp_end or request.timestamp_start
    report = observer.report if isinstance(observer, Attempt) and not observer.plain else None
    return InFlight(
        id=flow.id,
        at=started,
        upstream=upstream_of(flow),
        rule=spec.rule,
        endpoint=spec.endpoint,
        model=spec.model,
        events=None if report is None else report.events,
        bytes=observer.size,
        seconds=max(0.0, time.time() - started),
        first_event=observer.first_byte,
        silent_for=observer.silence,
    )


class SilenceWatch:
    """Reports each silence once, when it has lasted for `SILENT` seconds."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def lines(self, flows: Iterator[tuple[http.HTTPFlow, Observer]]) -> list[str]:
        """What there is to report now, one line for each flow. An answer that does not stream is silent until it is
        complete."""
        told, self._told = self._told, {}
        found = []
        for flow, observer in flows:
            silence = observer.silence
            if silence < SILENT or (isinstance(observer, Attempt) and (observer.plain or observer.is_final)):
                continue
            # A silence that was reported already is still the same one as long as it has not become shorter.
            if not (flow.id in told and told[flow.id] <= silence):
                found.append(_line(flow, observer, silence))
            self._told[flow.id] = silence
        return found


def _line(flow: http.HTTPFlow, observer: Observer, silence: float) -> str:
    one = _figures(flow, observer)
    if one.first_event is None:
        where = "no byte of an answer yet"
    else:
        where = f"after {counted(one.bytes, 'byte') if one.events is None else counted(one.events, 'event')}"
    about = f"{one.rule}: {one.endpoint} {one.model}".rstrip()
    return f"silent for {silence:.0f} s, {where}; {about}, still in flight"
