"""Durations, counted so that their percentiles can be estimated without keeping them. Must not know what is timed."""

from bisect import bisect_left
from itertools import accumulate
from typing import Final

# Seconds: ten buckets for each power of ten, from a millisecond to hours. None is wider than a third of its start.
BOUNDS: Final = tuple(
    float(f"{step}e{power}") for power in range(-3, 5) for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
)
_SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Histogram:
    """`total`: the sum of the durations; `most`: the longest, None where there is none yet."""

    __slots__ = ("_counts", "_least", "count", "most", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = self._least = 0.0
        self.most: float | None = None
        # Of each bucket, the last of which has what is above all bounds.
        self._counts = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float | None) -> None:
        if seconds is None:
            return
        self._least = seconds if self.most is None else min(self._least, seconds)
        self.most = seconds if self.most is None else max(self.most, seconds)
        self.count += 1
        self.total += seconds
        self._counts[bisect_left(BOUNDS, seconds)] += 1

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    @property
    def percentiles(self) -> dict[str, float | None]:
        """How long at most half of them took, and 90 and 99 of a hundred: estimates, as exact as the buckets are. A
        thread may ask while another one is adding a duration, which then counts or does not."""
        sums = list(accumulate(self._counts))
        return {name: self._at(share, sums) for name, share in _SHARES.items()}

    def _at(self, share: float, sums: list[int]) -> float | None:
        if self.most is None or not sums[-1]:
            return None
        rank = share * sums[-1]
        bucket = bisect_left(sums, rank)
        if bucket == len(BOUNDS):
            return self.most
        low, before = (BOUNDS[bucket - 1], sums[bucket - 1]) if bucket else (0.0, 0)
        value = low + (BOUNDS[bucket] - low) * (rank - before) / self._counts[bucket]
        return min(max(value, self._least), self.most)

    def up_to(self, bound: float) -> int:
        """How many took no longer than one of the bounds."""
        return sum(self._counts[: BOUNDS.index(bound) + 1])
