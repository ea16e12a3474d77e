"""Percentiles of durations that are not kept."""

from itertools import pairwise

import pytest
from force_stream.view.histogram import BOUNDS, Histogram
from hypothesis import given
from hypothesis import strategies as st

SECONDS = st.floats(0, 1e6)


def histogram_of(*durations: float | None) -> Histogram:
    found = Histogram()
    for seconds in durations:
        found.add(seconds)
    return found


def test_nothing_has_no_percentiles() -> None:
    empty = histogram_of(None, None)
    assert (empty.count, empty.mean, empty.most) == (0, None, None)
    assert empty.percentiles == {"p50": None, "p90": None, "p99": None}


@given(SECONDS, st.integers(1, 5))
def test_of_one_duration_every_percentile_is_that(seconds: float, times: int) -> None:
    found = histogram_of(*[seconds] * times)
    assert set(found.percentiles.values()) == {seconds}
    assert (found.count, found.most) == (times, seconds)


def test_percentiles_of_many_are_near_the_true_ones() -> None:
    found = histogram_of(*[number / 1000 for number in range(1, 10_001)])
    assert found.percentiles == {
        "p50": pytest.approx(5.0, rel=0.02),
        "p90": pytest.approx(9.0, rel=0.02),
        "p99": pytest.approx(9.9, rel=0.02),
    }
    assert found.mean == pytest.approx(5.0005)


@given(st.lists(SECONDS, min_size=1))
def test_percentiles_are_in_order_and_within_what_came(durations: list[float]) -> None:
    found = histogram_of(*durations).percentiles
    p50, p90, p99 = found["p50"], found["p90"], found["p99"]
    assert p50 is not None
    assert p90 is not None
    assert p99 is not None
    assert min(durations) <= p50 <= p90 <= p99 <= max(durations)


@given(st.lists(SECONDS))
def test_what_took_no_longer_than_a_bound_is_counted_exactly(durations: list[float]) -> None:
    found = histogram_of(*durations)
    for bound in (0.005, 0.1, 2.5, 100.0):
        assert found.up_to(bound) == sum(seconds <= bound for seconds in durations)


@pytest.mark.parametrize("durations", [(), (0.25,)])
def test_percentiles_can_be_asked_for_while_a_duration_is_added(durations: tuple[float, ...]) -> None:
    found = histogram_of(*durations)
    asked: list[object] = []

    class Counts(list[int]):
        def __setitem__(self, *new: object) -> None:
            asked.append(found.percentiles)

    found._counts = Counts(found._counts)
    found.add(100.0)
    assert asked == [dict.fromkeys(("p50", "p90", "p99"), *durations)]


def test_no_bucket_is_wider_than_a_third_of_its_start() -> None:
    assert all(1 < later / earlier <= 4 / 3 + 1e-9 for earlier, later in pairwise(BOUNDS))
