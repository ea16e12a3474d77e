"""What upstreams did, added up: per upstream and model, and the latest flows one by one.

Knows figures and time; must not know mitmproxy, JSON or events.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import sub
from typing import Any, Final

# How many flows are remembered one by one, and how many arrivals of each.
MOST_FLOWS: Final = 200
# How many upstreams and models have a row of their own: a client may make up any number of names.
MOST_ROWS: Final = 1000
OTHERS: Final = ("(others)", "(others)")
MOST_ARRIVALS: Final = 2000
# Bytes of the bodies of flows that are kept for somebody to look at: mitmdump itself keeps none.
MOST_HELD: Final = 32 * 1024 * 1024
_NOT_PLAIN: Final = ("arrivals", "flow", "weight")
# Seconds. A longer silence stands out.
LONG_GAP: Final = 1.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """One flow. Times are in seconds: `at` since 1970, all others since the request went out; None where there was
    nothing to time. `status` is 0 where there was no answer. `arrivals`: when each piece of the body came; `ended`:
    when it was over. `cause`: why it is not simply whole, in a line; `head`: what matters of the upstream's own head.
    `retry_of`: the first try's id, for another try of its request, and `number` which one it is. `flow`: returns the
    flow while somebody still has it; `weight`: the bytes of its bodies.

    An open page asks for the latest of them every other second, so what is derived is cached. Equal means identical.
    """

    id: str
    at: float
    upstream: str
    rule: str
    endpoint: str
    model: str
    status: int
    events: int
    bytes: int
    finish_reason: str
    inferred: bool
    truncated: bool
    code: str
    seconds: float
    first_event: float | None
    first_content: float | None
    arrivals: tuple[float, ...]
    odd: tuple[str, ...] = ()
    injected: bool = False
    retry_of: str = ""
    number: int = 1
    cause: str = ""
    ended: float | None = None
    head: tuple[tuple[str, str], ...] = ()
    flow: Callable[[], Any] = lambda: None
    weight: int = 0

    @property
    def ok(self) -> bool:
        return 0 < self.status < 400 and not self.truncated

    @cached_property
    def longest_gap(self) -> float | None:
        """The longest silence between two pieces, or between the last and the end; None where nothing came."""
        times = self.arrivals if self.ended is None else (*self.arrivals, self.ended)
        return max(map(sub, times[1:], times), default=None)

    @property
    def event_rate(self) -> float | None:
        """Events a second, from the first piece to the last; None where they cannot be told apart."""
        span = self.arrivals[-1] - self.arrivals[0] if self.arrivals else 0.0
        return self.events / span if span > 0 and self.events > 1 else None

    @cached_property
    def figures(self) -> Mapping[str, Any]:
        """Plain values, for JSON, without the arrivals, which are nearly all of it."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _NOT_PLAIN}
        return values | {"ok": self.ok, "longest_gap": self.longest_gap, "event_rate": self.event_rate}


def thinned(arrivals: Sequence[float]) -> tuple[float, ...]:
    """At most `MOST_ARRIVALS` of these times, the first and the last among them; one that is left out is less than the
    whole time divided by that number away from one that is kept."""
    if len(arrivals) <= MOST_ARRIVALS:
        return tuple(arrivals)
    step = (arrivals[-1] - arrivals[0]) / (MOST_ARRIVALS - 2)
    kept = [arrivals[0]]
    for arrival in arrivals[1:-1]:
        if arrival - kept[-1] > step:
            kept.append(arrival)
    return (*kept, arrivals[-1])


@dataclass(slots=True)
class _Mean:
    count: int = 0
    total: float = 0.0
    value: float | None = None

    def add(self, value: float | None) -> None:
        if value is not None:
            self.count += 1
            self.total += value
            self.value = self.total / self.count


@dataclass
class Row:
    """One upstream and model. Times in seconds: means over its flows, but for the longest gap."""

    upstream: str
    model: str
    flows: int = 0
    ok: int = 0
    inferred: int = 0
    truncated: int = 0
    errors: int = 0
    time_to_first_event: _Mean = field(default_factory=_Mean)
    events_per_second: _Mean = field(default_factory=_Mean)
    longest_gap: float | None = None

    def add(self, outcome: Outcome) -> None:
        self.flows += 1
        self.ok += outcome.ok
        self.inferred += outcome.inferred
        self.truncated += outcome.truncated
        self.errors += not outcome.ok and not outcome.truncated
        self.time_to_first_event.add(outcome.first_event)
        self.events_per_second.add(outcome.event_rate)
        gaps = [gap for gap in (self.longest_gap, outcome.longest_gap) if gap is not None]
        self.longest_gap = max(gaps, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None where nothing was timed."""
        return {name: value.value if isinstance(value, _Mean) else value for name, value in vars(self).items()}


class Stats:
    """All flows since the start."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._latest: deque[Outcome] = deque(maxlen=MOST_FLOWS)
        self._held: deque[tuple[Any, int]] = deque()
        self._weight = 0

    def add(self, outcome: Outcome) -> None:
        key = outcome.upstream, outcome.model
        if key not in self._rows and len(self._rows) >= MOST_ROWS:
            key = OTHERS
        self._rows.setdefault(key, Row(*key)).add(outcome)
        self._latest.append(outcome)
        self._held.append((outcome.flow(), outcome.weight))
        self._weight += outcome.weight
        while self._weight > MOST_HELD or len(self._held) > MOST_FLOWS:
            self._weight -= self._held.popleft()[1]

    def rows(self) -> list[dict[str, Any]]:
        """One for each upstream and model, in alphabetical order."""
        return [row.as_dict() for _, row in sorted(self._rows.items())]

    def latest(self) -> list[Outcome]:
        """The latest flows, the newest first."""
        return list(reversed(self._latest))


count: Final = "{:,}".format


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:,.2f} s"


def rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def cut_off(events: int) -> str:
    return f"cut off after event {events:,}" if events else "cut off before the first event"


# Keys of a row, each with its heading and how its values are spelled.
_COLUMNS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    **{key: (key, count) for key in ("flows", "ok", "inferred", "truncated", "errors")},
    "time_to_first_event": ("first byte", duration),
    "events_per_second": ("events/s", rate),
    "longest_gap": ("longest gap", duration),
}


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's figures, spelled for a person."""
    return [spell(row[key]) for key, (_, spell) in _COLUMNS.items()]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of text, aligned, with a line of headings."""
    headings = ["upstream", "model", *(heading for heading, _ in _COLUMNS.values())]
    lines = [headings, *([row["upstream"], row["model"], *cells(row)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [str.ljust, str.ljust, *[str.rjust] * len(_COLUMNS)]
    return ["  ".join(align(*cell) for align, *cell in zip(aligned, line, widths, strict=True)) for line in lines]
