"""The figures in Prometheus's text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).

Pure: rows in, text out, with every label escaped.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from ..view.stats import Row

TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: 5 ms to about a quarter of an hour.
BUCKETS: Final = (0.005, *(float(f"{step}e{power}") for power in range(-2, 3) for step in (1, 2.5, 5)), 1000.0)
_DURATIONS: Final = {
    "first_event": "Time from the request to the first piece of the answer.",
    "duration": "Time from the request to the end of the answer.",
    "longest_gap": "The longest silence within an answer.",
}
_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def render(rows: Sequence[Row], in_flight: int) -> str:
    return "\n".join(_lines(rows, in_flight)) + "\n"


def _lines(rows: Sequence[Row], in_flight: int) -> Iterator[str]:
    labels = [_labels(upstream=row.upstream, model=row.model) for row in rows]
    yield from _head("force_stream_in_flight", "gauge", "Requests whose answers are in progress.")
    yield f"force_stream_in_flight {in_flight}"
    yield from _head("force_stream_requests_total", "counter", "Requests that have ended, by outcome.")
    for row, label in zip(rows, labels, strict=True):
        for outcome, count in (("ok", row.ok), ("truncated", row.truncated), ("error", row.errors)):
            yield f'force_stream_requests_total{{{label},outcome="{outcome}"}} {count}'
    yield from _head("force_stream_inferred_total", "counter", "Answers whose finish reason was inferred.")
    yield from (
        f"force_stream_inferred_total{{{label}}} {row.inferred}" for row, label in zip(rows, labels, strict=True)
    )
    for what, text in _DURATIONS.items():
        name = f"force_stream_{what}_seconds"
        yield from _head(name, "histogram", text)
        for row, label in zip(rows, labels, strict=True):
            histogram = {"first_event": row.first_event, "duration": row.duration, "longest_gap": row.gap}[what]
            for bound in BUCKETS:
                yield f'{name}_bucket{{{label},le="{bound:g}"}} {histogram.up_to(bound)}'
            yield f'{name}_bucket{{{label},le="+Inf"}} {histogram.count}'
            yield f"{name}_sum{{{label}}} {histogram.total:.6f}"
            yield f"{name}_count{{{label}}} {histogram.count}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in values.items())
