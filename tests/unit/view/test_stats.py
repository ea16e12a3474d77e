"""The sums over what upstreams did, and the table of them."""

from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
from force_stream.view.stats import (
    MOST_ARRIVALS,
    MOST_FIRST_ROWS,
    MOST_FLOWS,
    MOST_HELD,
    MOST_ROWS,
    OTHERS,
    Outcome,
    Row,
    Stats,
    duration,
    rate,
    table,
    thinned,
)
from force_stream.wire import jsontext
from harness.page import OUTCOME
from hypothesis import given
from hypothesis import strategies as st

FINE = replace(
    OUTCOME,
    id="1",
    upstream="llm.test:443",
    rule="r",
    model="m",
    events=10,
    bytes=1000,
    seconds=2.0,
    first_event=0.5,
    first_content=0.6,
    arrivals=(0.5, 1.0, 2.5),
)
CUT = replace(FINE, status=502, truncated=True, code="stream_truncated", finish_reason="")
PARTIAL = replace(FINE, truncated=True, finish_reason="length")
REFUSED = replace(FINE, status=429, events=0, first_event=None, arrivals=())
SILENT = replace(FINE, status=0, code="no_answer", events=0, first_event=None, arrivals=())
INFERRED = replace(FINE, inferred=True)


def outcomes() -> st.SearchStrategy[Outcome]:
    arrivals = st.lists(st.floats(0, 100), max_size=5).map(lambda times: tuple(sorted(times)))
    return st.builds(
        replace,
        st.just(FINE),
        status=st.sampled_from([0, 200, 400, 502]),
        truncated=st.booleans(),
        inferred=st.booleans(),
        events=st.integers(0, 9),
        first_event=st.none() | st.floats(0, 9),
        arrivals=arrivals,
    )


# One flow


@pytest.mark.parametrize(
    ("outcome", "ok"),
    [(FINE, True), (INFERRED, True), (CUT, False), (PARTIAL, False), (REFUSED, False), (SILENT, False)],
)
def test_a_flow_is_ok_when_the_client_got_all_of_an_answer(outcome: Outcome, ok: bool) -> None:
    assert outcome.ok is ok


@pytest.mark.parametrize(
    ("arrivals", "gap", "rate"),
    [
        ((), None, None),
        ((0.5,), None, None),
        ((0.5, 0.5), 0.0, None),
        ((0.5, 1.0, 2.5), 1.5, 5.0),
        ((0.0, 3.0, 4.0), 3.0, 2.5),
    ],
)
def test_gap_and_rate_are_those_of_the_arrivals(
    arrivals: tuple[float, ...], gap: float | None, rate: float | None
) -> None:
    outcome = replace(FINE, arrivals=arrivals)
    assert (outcome.longest_gap, outcome.event_rate) == (gap, rate)


def test_silence_at_the_end_counts_as_a_gap() -> None:
    stalled = replace(FINE, arrivals=(0.5, 1.0), ended=6.0)
    assert (stalled.longest_gap, stalled.event_rate) == (5.0, 20.0)


def test_of_the_latest_flows_no_more_are_held_than_the_limit_allows() -> None:
    class Flow:
        pass

    stats, flows = Stats(), [Flow() for _ in range(4)]
    found = [ref(flow) for flow in flows]
    for each in found:
        stats.add(replace(FINE, flow=each, weight=MOST_HELD // 2))
    flows.clear()
    assert [each() is not None for each in found] == [False, False, True, True]


def test_one_event_has_no_rate() -> None:
    assert replace(FINE, events=1).event_rate is None


def test_a_flow_is_plain_values_for_json_worked_out_once() -> None:
    values = FINE.figures
    assert jsontext.loads(jsontext.dumps(values).decode()) == {**values, "odd": [], "head": []}
    assert (values["ok"], values["longest_gap"], values["event_rate"]) == (True, 1.5, 5.0)
    assert "arrivals" not in values
    assert FINE.figures is values


# All of one upstream and model


def row_of(*added: Outcome) -> dict[str, Any]:
    row = Row("llm.test:443", "m")
    for outcome in added:
        row.add(outcome)
    return row.as_dict()


def test_a_row_counts_each_kind_once_and_means_are_over_what_was_timed() -> None:
    slow = replace(FINE, first_event=1.5, arrivals=(1.5, 6.5))
    assert row_of(FINE, slow, INFERRED, CUT, PARTIAL, REFUSED, SILENT) == {
        "upstream": "llm.test:443",
        "model": "m",
        "flows": 7,
        "ok": 3,
        "inferred": 1,
        "truncated": 2,
        "errors": 2,
        "time_to_first_event": pytest.approx((4 * 0.5 + 1.5) / 5),
        "events_per_second": pytest.approx((4 * 5.0 + 2.0) / 5),
        "longest_gap": 5.0,
        "first_event": {"p50": 0.5, "p90": pytest.approx(1.35), "p99": pytest.approx(1.485)},
        "gap": {"p50": 1.5, "p90": pytest.approx(4.5), "p99": pytest.approx(4.95)},
        "duration": {"p50": 2.0, "p90": 2.0, "p99": 2.0},
    }


def test_a_row_where_nothing_was_timed_says_so() -> None:
    row = row_of(REFUSED)
    assert {key: row[key] for key in ("time_to_first_event", "events_per_second", "longest_gap")} == {
        "time_to_first_event": None,
        "events_per_second": None,
        "longest_gap": None,
    }


@given(st.lists(outcomes()))
def test_every_flow_is_ok_or_truncated_or_an_error(added: list[Outcome]) -> None:
    row = row_of(*added)
    assert row["flows"] == len(added) == row["ok"] + row["truncated"] + row["errors"]


@given(st.lists(outcomes(), min_size=1))
def test_the_longest_gap_of_a_row_is_that_of_one_of_its_flows(added: list[Outcome]) -> None:
    gaps = [gap for outcome in added if (gap := outcome.longest_gap) is not None]
    assert row_of(*added)["longest_gap"] == max(gaps, default=None)


# All flows


def test_upstreams_and_models_have_a_row_each_in_order() -> None:
    stats = Stats()
    for upstream, model in (("b:1", "m"), ("a:1", "n"), ("a:1", "m"), ("b:1", "m")):
        stats.add(replace(FINE, upstream=upstream, model=model))
    rows = [(row["upstream"], row["model"], row["flows"]) for row in stats.rows()]
    assert rows == [("a:1", "m", 1), ("a:1", "n", 1), ("b:1", "m", 2)]


def test_the_latest_flows_are_remembered_and_no_more() -> None:
    stats = Stats()
    for number in range(MOST_FLOWS + 5):
        stats.add(replace(FINE, id=f"{number}"))
    latest = stats.latest()
    assert [outcome.id for outcome in latest] == [f"{number}" for number in range(MOST_FLOWS + 4, 4, -1)]
    assert stats.rows()[0]["flows"] == MOST_FLOWS + 5


def test_names_without_end_share_a_row() -> None:
    stats = Stats()
    for number in range(MOST_ROWS + 5):
        stats.add(replace(FINE, model=f"{number}"))
    stats.add(replace(FINE, model="0"))
    rows = {(row["upstream"], row["model"]): row["flows"] for row in stats.rows()}
    assert len(rows) == MOST_ROWS + 1
    assert rows[OTHERS] == 5
    assert rows[FINE.upstream, "0"] == 2


@given(st.lists(st.floats(0, 1000), max_size=50), st.integers(1, 200))
def test_arrivals_are_thinned_and_keep_their_ends(times: list[float], times_each: int) -> None:
    arrivals = sorted(times * times_each)
    kept = thinned(arrivals)
    assert len(kept) <= MOST_ARRIVALS
    assert set(kept) <= set(arrivals)
    assert list(kept) == sorted(kept)
    assert [*kept[:1], *kept[-1:]] == arrivals[:1] + arrivals[-1:]


def test_thinning_moves_no_gap_by_more_than_a_step() -> None:
    times = [number / 1000 for number in range(5000)] + [60 + number / 1000 for number in range(5000)]
    whole, thin = replace(FINE, arrivals=tuple(times)), replace(FINE, arrivals=thinned(times))
    assert thin.longest_gap == pytest.approx(whole.longest_gap, abs=2 * times[-1] / MOST_ARRIVALS)


def test_flows_that_came_after_so_many_are_the_news() -> None:
    stats = Stats()
    for number in range(5):
        stats.add(replace(FINE, id=f"{number}"))
    assert [outcome.id for outcome in stats.latest(3)] == ["4", "3"]
    assert stats.latest(5) == stats.latest(9) == []
    assert len(stats.latest(-1)) == 5
    assert stats.find("2") is stats.latest()[2]
    assert stats.find("5") is None


def test_the_rows_with_the_most_flows_are_chosen_and_stay_in_order() -> None:
    stats = Stats()
    for model, flows in (("c", 3), ("b", 1), ("a", 2)):
        for _ in range(flows):
            stats.add(replace(FINE, model=model))
    assert [row["model"] for row in stats.rows(2)] == ["a", "c"]


def test_rows_after_the_first_are_one_row_whose_counts_are_theirs() -> None:
    stats = Stats()
    first = [f"{number}" for number in range(MOST_FIRST_ROWS - 1, -1, -1)]
    for model in (*first, first[0]):
        stats.add(replace(FINE, model=model))
    assert [row.model for row in stats.first_rows()] == first
    for model in ("y", "x", "x", first[-1]):
        stats.add(replace(FINE, model=model))
    *rows, rest = stats.first_rows()
    assert [row.model for row in rows] == first
    assert (rows[0].flows, rows[-1].flows) == (2, 2)
    assert (rest.upstream, rest.model, rest.flows, rest.duration.count) == (*OTHERS, 3, 3)


def test_all_that_is_said_of_a_flow_can_be_searched_for() -> None:
    outcome = replace(CUT, cause="Cut off after event 10", odd=("No [DONE]",))
    for word in ("cut off after event 10", "llm.test:443", "stream_truncated", "no [done]", "502"):
        assert word in outcome.words


# In words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0.0, "0 ms"), (0.0049, "5 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (3600.5, "3,600.50 s")],
)
def test_a_time_is_in_milliseconds_up_to_a_second(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"), [(None, "-"), (0.04, "0.0"), (9.94, "9.9"), (36.81, "37"), (1234.5, "1,234")]
)
def test_a_rate_has_two_digits_or_more(value: float | None, words: str) -> None:
    assert rate(value) == words


# The table


def test_the_table_of_nothing_is_its_headings() -> None:
    (line,) = table([])
    assert line.split("  ")[:2] == ["upstream", "model"]


def test_the_table_is_aligned_and_shows_what_was_not_timed() -> None:
    stats = Stats()
    stats.add(FINE)
    stats.add(replace(REFUSED, upstream="a-much-longer-name.test:8000", model="other-model"))
    assert table(stats.rows()) == [
        "upstream                      model        flows  ok  inferred  truncated  errors  first byte  events/s"
        "  longest gap",
        "a-much-longer-name.test:8000  other-model      1   0         0          0       1           -         -"
        "            -",
        "llm.test:443                  m                1   1         0          0       0      500 ms       5.0"
        "       1.50 s",
    ]
