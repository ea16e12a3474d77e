"""What upstreams did, added up: per upstream and model, and the latest flows one by one.

Knows figures and time; must not know mitmproxy, JSON or events.
"""

import secrets
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import sub
from typing import Any, Final

from ..wire.text import counted
from .histogram import Histogram

# How many flows are remembered one by one, and how many arrivals of each.
MOST_FLOWS: Final = 2000
# How many upstreams and models have a row of their own: a client may make up any number of names.
MOST_ROWS: Final = 1000
# Of these, how many `first_rows` has one by one.
MOST_FIRST_ROWS: Final = 100
OTHERS: Final = ("(others)", "(others)")
MOST_ARRIVALS: Final = 1000
# Bytes of the flows that are kept for somebody to look at: mitmdump itself keeps none.
MOST_HELD: Final = 32 * 1024 * 1024
_NOT_PLAIN: Final = ("arrivals", "flow", "weight")
# Seconds. A longer silence stands out.
LONG_GAP: Final = 1.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """One flow. Times are in seconds: `at` since 1970, all others since the request went out; None where there was
    nothing to time. `status` is 0 where there was no answer. `arrivals`: when each piece of the body came; `ended`:
    when it was over. `cause`: why it is not simply whole, in a line; `head`: what matters of the upstream's own head.
    `direction`: how a plain answer came to a client that asked for events, in words; `events` is how many were made of
    it then. `retry_of`: the first try's id, for another try of its request, and `number` which one it is. `flow`:
    returns the flow while somebody still has it; `weight`: about how many bytes of memory that takes.

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
    arrivals: Sequence[float]
    odd: tuple[str, ...] = ()
    injected: bool = False
    retry_of: str = ""
    number: int = 1
    cause: str = ""
    ended: float | None = None
    direction: str = ""
    head: tuple[tuple[str, str], ...] = ()
    flow: Callable[[], Any] = lambda: None
    weight: int = 0

    @property
    def ok(self) -> bool:
        return 0 < self.status < 400 and not self.truncated and not self.code

    @property
    def is_odd(self) -> bool:
        """Whether there is more to say of it than whether it is whole."""
        return bool(self.odd) or self.inferred or self.injected

    @cached_property
    def longest_gap(self) -> float | None:
        """The longest silence between two pieces, or between the last and the end; None where nothing came."""
        last = self.arrivals[-1:]
        # One clock says when the last piece came, and another one when it was over.
        times = self.arrivals if self.ended is None else (*self.arrivals, max(0.0, self.ended, *last))
        return max(map(sub, times[1:], times), default=None)

    @property
    def first_byte(self) -> float | None:
        """When the first piece came; None where nothing did."""
        return self.arrivals[0] if self.arrivals else None

    @property
    def came(self) -> str:
        """What came, in words: events, or how a plain answer was given as them; and bytes."""
        return f"{self.direction or counted(self.events, 'event')}, {counted(self.bytes, 'byte')}"

    @property
    def event_rate(self) -> float | None:
        """Events a second, from the first piece to the last; None where they cannot be told apart."""
        span = self.arrivals[-1] - self.arrivals[0] if self.arrivals else 0.0
        return self.events / span if span > 0 and self.events > 1 and not self.direction else None

    @cached_property
    def figures(self) -> Mapping[str, Any]:
        """Plain values, for JSON, without the arrivals, which are nearly all of it."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _NOT_PLAIN}
        return values | {"ok": self.ok, "longest_gap": self.longest_gap, "event_rate": self.event_rate}

    @cached_property
    def words(self) -> str:
        """All that can be searched for, in lower case."""
        said = self.cause, self.upstream, self.model, self.rule, self.endpoint, f"{self.status}", self.code
        return "\n".join((*said, self.finish_reason, self.id, *self.odd)).lower()


def thinned(arrivals: Sequence[float]) -> Sequence[float]:
    """At most `MOST_ARRIVALS` of these times, the first and the last among them; one that is left out is less than the
    whole time divided by that number away from one that is kept. In little memory, for there are many flows."""
    if len(arrivals) <= MOST_ARRIVALS:
        return array("d", arrivals)
    step = (arrivals[-1] - arrivals[0]) / (MOST_ARRIVALS - 2)
    kept = [arrivals[0]]
    for arrival in arrivals[1:-1]:
        if arrival - kept[-1] > step:
            kept.append(arrival)
    return array("d", [*kept, arrivals[-1]])


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
    """One upstream and model. `first_event`, `gap`, `duration`: over its flows, in seconds; of each the longest gap. A
    plain answer has no first event."""

    upstream: str
    model: str
    flows: int = 0
    ok: int = 0
    inferred: int = 0
    truncated: int = 0
    errors: int = 0
    first_event: Histogram = field(default_factory=Histogram)
    gap: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)
    events_per_second: _Mean = field(default_factory=_Mean)

    def add(self, outcome: Outcome) -> None:
        self.flows += 1
        self.ok += outcome.ok
        self.inferred += outcome.inferred
        self.truncated += outcome.truncated
        self.errors += not outcome.ok and not outcome.truncated
        self.first_event.add(outcome.first_event)
        self.gap.add(outcome.longest_gap)
        self.duration.add(outcome.seconds)
        self.events_per_second.add(outcome.event_rate)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with percentiles, the means and the longest gap; None where nothing was timed."""
        return {
            **{name: value for name, value in vars(self).items() if isinstance(value, (int, str))},
            "time_to_first_event": self.first_event.mean,
            "events_per_second": self.events_per_second.value,
            "longest_gap": self.gap.most,
            **{name: getattr(self, name).percentiles for name in ("first_event", "gap", "duration")},
        }


class Stats:
    """All flows since the start. `started` tells one start from another, and `count` is the number of flows since."""

    def __init__(self) -> None:
        self.started = secrets.token_hex(4)
        self.count = 0
        self._rows: dict[tuple[str, str], Row] = {}
        self._first: dict[tuple[str, str], Row] = {}
        self._rest = Row(*OTHERS)
        self._latest: deque[Outcome] = deque(maxlen=MOST_FLOWS)
        self._held: deque[tuple[Any, int]] = deque()
        self._weight = 0

    def add(self, outcome: Outcome) -> None:
        key = outcome.upstream, outcome.model
        if key not in self._rows and len(self._rows) >= MOST_ROWS:
            key = OTHERS
        row = self._rows.setdefault(key, Row(*key))
        row.add(outcome)
        # The others are added up as they come: when somebody asks, that would hold the event loop.
        if len(self._first) < MOST_FIRST_ROWS and key != OTHERS:
            self._first.setdefault(key, row)
        if key not in self._first:
            self._rest.add(outcome)
        self._latest.append(outcome)
        self.count += 1
        self._held.append((outcome.flow(), outcome.weight))
        self._weight += outcome.weight
        while self._weight > MOST_HELD or len(self._held) > MOST_FLOWS:
            self._weight -= self._held.popleft()[1]

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def rows(self, most: int | None = None) -> list[dict[str, Any]]:
        """One for each upstream and model, in alphabetical order; at most so many, those with the most flows."""
        chosen = self._rows.values() if most is None else sorted(self._rows.values(), key=lambda row: -row.flows)[:most]
        return [row.as_dict() for row in sorted(chosen, key=lambda row: (row.upstream, row.model))]

    def first_rows(self) -> Sequence[Row]:
        """The rows in the order in which they began, all after `MOST_FIRST_ROWS` in one: a row's counts never go
        down."""
        return [*self._first.values(), *([self._rest] if self._rest.flows else [])]

    def latest(self, after: int = 0) -> list[Outcome]:
        """The latest flows, the newest first; of those that came after so many."""
        newer = max(0, min(self.count - after, len(self._latest)))
        return [self._latest[-number] for number in range(1, newer + 1)]

    def find(self, id: str) -> Outcome | None:
        """One of the latest flows, by its id."""
        return next((outcome for outcome in reversed(self._latest) if outcome.id == id), None)


count: Final = "{:,}".format


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:,.2f} s"


def rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


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
