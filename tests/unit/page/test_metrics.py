"""The figures as Prometheus reads them."""

import re
from dataclasses import replace

import pytest
from force_stream.page.metrics import BUCKETS, render
from force_stream.view.histogram import BOUNDS
from force_stream.view.stats import MOST_FIRST_ROWS, Outcome, Stats
from harness.page import OUTCOME

# A line of a sample, by the grammar of the text format.
SAMPLE = re.compile(r'[a-z_]+(\{([a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+\})? -?[0-9.e+]+')


def text_of(*outcomes: Outcome, in_flight: int = 0) -> str:
    stats = Stats()
    for outcome in outcomes:
        stats.add(outcome)
    return render(stats.first_rows(), in_flight)


def test_requests_are_counted_by_what_came_of_them() -> None:
    cut = replace(OUTCOME, status=502, truncated=True)
    lines = text_of(OUTCOME, replace(OUTCOME, inferred=True), cut, replace(OUTCOME, status=429), in_flight=3).split(
        "\n"
    )
    label = 'upstream="llm.example.com:443",model="qwen3-8b"'
    for line in (
        "force_stream_in_flight 3",
        f'force_stream_requests_total{{{label},outcome="ok"}} 2',
        f'force_stream_requests_total{{{label},outcome="truncated"}} 1',
        f'force_stream_requests_total{{{label},outcome="error"}} 1',
        f"force_stream_inferred_total{{{label}}} 1",
        f'force_stream_first_event_seconds_bucket{{{label},le="0.1"}} 0',
        f'force_stream_first_event_seconds_bucket{{{label},le="0.25"}} 4',
        f'force_stream_first_event_seconds_bucket{{{label},le="+Inf"}} 4',
        f"force_stream_first_event_seconds_sum{{{label}}} 1.000000",
        f"force_stream_first_event_seconds_count{{{label}}} 4",
        f'force_stream_longest_gap_seconds_bucket{{{label},le="1"}} 4',
        f'force_stream_duration_seconds_bucket{{{label},le="1"}} 0',
        f'force_stream_duration_seconds_bucket{{{label},le="2.5"}} 4',
    ):
        assert line in lines


def test_every_line_is_one_of_the_format_whatever_names_there_are() -> None:
    hostile = replace(OUTCOME, upstream='a"b\\c\nd} 1', model="# HELP é\u202e\x00")
    text = text_of(OUTCOME, hostile, replace(OUTCOME, first_event=None, arrivals=()))
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith(("# HELP force_stream_", "# TYPE force_stream_")) or SAMPLE.fullmatch(line), line
    assert 'upstream="a\\"b\\\\c\\nd} 1"' in text
    kinds = re.findall("# TYPE (.*) (?:counter|gauge|histogram)\n", text)
    assert len(kinds) == len(set(kinds)) == 6


def test_a_histogram_only_grows_from_bucket_to_bucket() -> None:
    text = text_of(*[replace(OUTCOME, seconds=float(seconds)) for seconds in (0, 1, 9, 5000)])
    counts = [int(count) for count in re.findall("duration_seconds_bucket{.*} (.*)", text)]
    assert counts == sorted(counts)
    assert len(counts) == len(BUCKETS) + 1
    assert counts[-2:] == [3, 4]


def test_its_bounds_are_those_of_the_figures() -> None:
    assert set(BUCKETS) <= set(BOUNDS)


@pytest.mark.parametrize("names", [MOST_FIRST_ROWS - 1, MOST_FIRST_ROWS + 50])
def test_made_up_names_make_no_more_than_so_many_rows(names: int) -> None:
    text = text_of(*[replace(OUTCOME, model=f"m-{number}") for number in range(names)])
    assert text.count('outcome="ok"') == min(names, MOST_FIRST_ROWS + 1)
    assert sum(map(int, re.findall('outcome="ok"} (.*)', text))) == names
