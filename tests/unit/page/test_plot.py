"""The picture of a flow: what it shows, and that any XML reader takes it."""

from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from force_stream.page.plot import HEIGHT, WIDTH, describe, plot
from force_stream.view.stats import MOST_ARRIVALS, Outcome
from harness.page import OUTCOME
from hypothesis import given
from hypothesis import strategies as st

SVG = "{http://www.w3.org/2000/svg}"
WELL = replace(OUTCOME, bytes=1000, seconds=4.0, first_event=0.5, first_content=0.6, arrivals=(0.5, 0.6, 0.8, 3.8, 4.0))


def drawn(outcome: Outcome) -> ElementTree.Element:
    return ElementTree.fromstring(plot(outcome))


def kinds(outcome: Outcome) -> list[str]:
    return [kind for element in drawn(outcome).iter() if (kind := element.get("class", "axis")) != "axis"]


def texts(outcome: Outcome) -> list[str]:
    return [element.text or "" for element in drawn(outcome).iter(f"{SVG}text")]


def test_a_flow_that_went_well_shows_its_arrivals_gap_first_content_and_end() -> None:
    assert kinds(WELL) == ["wait", "gap", "arrivals", "content", "end"]
    title = drawn(WELL).find(f"{SVG}title")
    assert title is not None
    assert title.text == (
        "finish stop: 5 events, 1,000 bytes, 4.00 s; first byte 500 ms, first content 600 ms, longest gap 3.00 s"
    )
    assert {"3.0 s", "first content 600 ms", "finish stop", "0.0 s"} <= set(texts(WELL))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param({"truncated": True, "status": 502, "code": "stream_truncated"}, "cut off after event 5", id="cut"),
        pytest.param({"status": 429, "code": "rate_limit_exceeded"}, "error rate_limit_exceeded", id="an error event"),
        pytest.param({"status": 503}, "error 503", id="an error status"),
        pytest.param({"status": 0, "code": "no_answer"}, "error no_answer", id="no answer"),
    ],
)
def test_a_flow_that_failed_is_crossed_out_at_its_end(changes: dict, word: str) -> None:
    failed = replace(WELL, finish_reason="", **changes)
    assert "cut" in kinds(failed)
    assert "end" not in kinds(failed)
    assert word in texts(failed)


def test_a_flow_without_a_byte_is_all_wait() -> None:
    silent = replace(WELL, status=504, code="stream_timeout", first_event=None, first_content=None, arrivals=())
    assert kinds(silent) == ["wait", "cut"]
    assert describe(silent) == "5 events, 1,000 bytes, 4.00 s", "what is not known is left out"
    wait = drawn(silent).find(f"{SVG}rect")
    assert wait is not None
    assert float(wait.get("width", "0")) > WIDTH * 0.9


def test_a_first_content_near_the_end_leaves_room_for_the_words_there() -> None:
    late = drawn(replace(WELL, first_content=3.99))
    (place,) = [float(e.get("x", "0")) for e in late.iter(f"{SVG}text") if f"{e.text}".startswith("first content")]
    assert place + 60 < WIDTH - 14 - 6 * len("finish stop")


def test_short_gaps_are_not_pointed_at() -> None:
    assert "gap" not in kinds(replace(WELL, arrivals=(0.5, 1.4, 2.3, 3.2, 4.0)))


def test_an_inferred_finish_reason_says_so() -> None:
    assert "finish stop (inferred)" in texts(replace(WELL, inferred=True))


@pytest.mark.parametrize("seconds", [0.004, 0.05, 0.7, 1.0, 9.9, 61.0, 3600.0, 100_000.0])
def test_the_axis_has_a_handful_of_times_that_do_not_overlap(seconds: float) -> None:
    document = drawn(replace(WELL, seconds=seconds, arrivals=(), first_event=None, first_content=None))
    labels = [element for element in document.iter(f"{SVG}text") if float(element.get("y", "0")) > HEIGHT / 2]
    assert 3 <= len(labels) <= 12
    places = [float(label.get("x", "0")) for label in labels]
    assert all(later - earlier > 45 for earlier, later in pairwise(places))
    assert len({label.text for label in labels}) == len(labels)


any_time = st.floats(0, 1e6)


@given(
    st.builds(
        replace,
        st.just(WELL),
        finish_reason=st.text(),
        code=st.text(),
        status=st.integers(0, 599),
        truncated=st.booleans(),
        seconds=any_time,
        first_event=st.none() | any_time,
        first_content=st.none() | any_time,
        arrivals=st.lists(any_time).map(lambda times: tuple(sorted(times))),
    )
)
def test_whatever_an_upstream_sent_it_is_xml_within_its_frame(outcome: Outcome) -> None:
    document = drawn(outcome)
    assert {element.tag.removeprefix(SVG) for element in document.iter()} <= {"svg", "title", "path", "rect", "text"}
    for element in document.iter():
        assert not [name for name in element.attrib if name.startswith("on") or "href" in name]
        assert 0 <= float(element.get("x", "0")) <= WIDTH


def test_hostile_words_are_text_and_nothing_else() -> None:
    hostile = "</title><script>alert(1)</script>\x00\x1b\ud800\ufffe"
    document = plot(replace(WELL, finish_reason=hostile))
    assert "<script" not in document
    assert "<script>alert(1)</script>" in "".join(texts(replace(WELL, finish_reason=hostile)))


def test_many_arrivals_are_a_picture_of_bounded_size() -> None:
    times = tuple(number / 100 for number in range(MOST_ARRIVALS))
    assert len(plot(replace(WELL, seconds=20.0, arrivals=times))) < 64 * 1024
