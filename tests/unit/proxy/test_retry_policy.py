"""Whether and when to try again: statuses, `Retry-After`, and how long the pauses are."""

import time
from email.utils import formatdate

import pytest
from force_stream.proxy.retry_policy import (
    FIRST_DELAY,
    LONGEST_DELAY,
    LONGEST_RETRY_AFTER,
    delay,
    is_retried,
    wait_asked,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert is_retried(status)


@pytest.mark.parametrize("status", [0, 200, 204, 301, 304, 400, 401, 402, 403, 404, 413, 422, 499, 600])
def test_what_will_not_pass_is_not(status: int) -> None:
    assert not is_retried(status)


# Without a word from the upstream


@given(st.integers(1, 101))
def test_pauses_grow_and_keep_within_their_bounds(tries: int) -> None:
    longest = min(FIRST_DELAY * 2 ** (tries - 1), LONGEST_DELAY)
    pause = delay(tries, None)
    assert pause is not None
    assert longest / 2 <= pause <= longest


def test_clients_that_failed_together_do_not_come_back_together() -> None:
    assert len({delay(3, None) for _ in range(20)}) > 1


# With one


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, ""),
        ({"retry-after": "20"}, "20"),
        ({"retry-after-ms": "1500"}, "1.5"),
        ({"retry-after": "2", "retry-after-ms": "1500"}, "1.5"),
        ({"retry-after": "2", "retry-after-ms": "soon"}, "2"),
        ({"retry-after-ms": "-5"}, ""),
        ({"retry-after-ms": "9" * 400}, ""),
        ({"retry-after-ms": "."}, ""),
    ],
)
def test_a_wait_in_milliseconds_is_the_more_exact_one(headers: dict[str, str], wait: str) -> None:
    assert wait_asked(headers.get) == wait
    assert not wait or delay(1, wait) == float(wait)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1", 1),
        (" 12 ", 12),
        ("0.5", 0.5),
        ("60", 60),
        ("61", None),
        ("86400", None),
        ("9" * 400, None),
        # In the past: at once. The three forms of RFC 9110, section 5.6.7, and two that lack their zone or weekday.
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        ("Sun, 06 Nov 1994 08:49:37", 0),
        ("06 Nov 1994 08:49:37 -0000", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
    ],
)
def test_what_the_upstream_asks_for_is_heeded(text: str, seconds: float | None) -> None:
    assert delay(1, text) == seconds


@pytest.mark.parametrize("zone", ["GMT", ""])
def test_a_date_is_as_far_away_as_it_says(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # fourteen hours ahead, so that a local time would show
    time.tzset()
    try:
        pause = delay(1, formatdate(time.time() + 30, usegmt=True).replace("GMT", zone))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert pause is not None
    assert 0 < pause <= 30


RUBBISH = [
    None,
    "",
    " ",
    "soon",
    "-1",
    "+1",
    "1e3",
    "1.2.3",
    "nan",
    "inf",
    "0x10",
    "1, 2",
    "²",
    "Sun, 99 Foo 1994",
    "Sun, 32 Nov 1994 08:49:37 GMT",
]


@pytest.mark.parametrize("text", RUBBISH)
def test_rubbish_is_as_if_nothing_had_been_said(text: str | None) -> None:
    pause = delay(1, text)
    assert pause is not None
    assert FIRST_DELAY / 2 <= pause <= FIRST_DELAY


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d( GMT| [+-]\d{4})?"))
def test_whatever_a_header_says_the_pause_is_one_that_is_waited_for(text: str) -> None:
    pause = delay(1, text)
    assert pause is None or 0 <= pause <= LONGEST_RETRY_AFTER
