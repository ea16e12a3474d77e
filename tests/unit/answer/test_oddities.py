"""What is odd about a stream: how it is noted and worded. Whole streams: e2e/test_oddities.py."""

from typing import Any

import pytest
from force_stream.answer.oddities import (
    MOST_NUMBERS,
    MOST_ODD,
    Oddities,
    index_or_place,
    kind_of,
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (True, "true or false"), ("", "text"), ([], "a list"), ({}, "an object"), (1.5, "a number")],
)
def test_a_value_has_its_kind_in_words_of_json(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize(
    ("index", "shown"),
    [(3, 3), (0, 0), ("3", 3), (3.0, 3), (-1, 7), (10**9, 7), ("x", 7), (3.5, 7), (True, 7), (None, 7)],
)
def test_an_item_without_a_sensible_index_goes_by_its_place(index: Any, shown: int) -> None:
    assert index_or_place({"index": index}, 7) == shown


@pytest.mark.parametrize("first", [1, "1", 1.0])
def test_a_choice_is_the_same_whatever_its_index_is_written_as(first: Any) -> None:
    odd = Oddities()
    for number, index in enumerate([0, first, 1, 1], 1):
        odd.check({"choices": [{"index": index, "delta": {}}]}, number)
    odd.conclude(events=4, done=True, inferred=False)
    assert odd.lines() == ["no finish reason for choice 0, 1"]


def test_each_oddity_is_listed_once_with_its_first_events() -> None:
    odd = Oddities()
    for number in range(1, MOST_NUMBERS + 4):
        odd.add("strange", number)
        odd.add("strange", number)
    odd.add("and strange as a whole")
    assert odd.lines() == ["events 1, 2, 3, 4, 5 and 3 more: strange", "and strange as a whole"]


def test_the_list_is_in_the_order_of_the_events() -> None:
    odd = Oddities()
    odd.add("strange as a whole")
    odd.add("strange", 3)
    odd.add("stranger", 2)
    assert odd.lines() == ["event 2: stranger", "event 3: strange", "strange as a whole"]


def test_the_list_has_an_end() -> None:
    odd = Oddities()
    for number in range(MOST_ODD + 10):
        odd.add(f"strange {number}")
    odd.add("strange 0", 7)
    assert len(odd.lines()) == MOST_ODD
    assert odd.lines()[0] == "event 7: strange 0"


@pytest.mark.parametrize("key", ["id", "model"])
def test_a_name_that_changes_is_noted_at_its_first_change(key: str) -> None:
    odd = Oddities()
    for number, name in enumerate(["", None, "a", "a", "", "b", "c", "a"], 1):
        odd.check({key: name}, number)
    assert odd.lines() == [f"event 6: its {key} differs from that of the events before"]


def test_finish_reasons_and_call_ids_are_compared_by_choice_and_call() -> None:
    def chunk(index: int, reason: str, call_id: str) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": 0, "id": call_id}]}
        return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]}

    odd = Oddities()
    for number, (index, reason, call_id) in enumerate([(0, "", "a"), (1, "stop", "b"), (0, "length", "a")], 1):
        odd.check(chunk(index, reason, call_id), number)
    assert odd.lines() == []
    odd.check(chunk(1, "length\n", "c"), 4)
    assert odd.lines() == [
        r'event 4: finish reason "length\n" for choice 1, after "stop"',
        "event 4: a new id for a tool call at the same index",
    ]


@pytest.mark.parametrize(
    ("chunks", "ending", "lines"),
    [
        ([], {"events": 0, "done": True, "inferred": False}, ["the stream has no events"]),
        ([{"choices": [{}]}], {"events": 1, "done": True, "inferred": True}, ["no finish reason for choice 0"]),
        ([], {"events": 1, "done": False, "inferred": True}, ["no finish reason"]),
        ([{"choices": [{"finish_reason": "stop"}]}], {"events": 1, "done": False, "inferred": False}, ["no [DONE]"]),
    ],
)
def test_what_a_stream_lacked_is_noted_at_its_end(chunks: list[Any], ending: Any, lines: list[str]) -> None:
    odd = Oddities()
    for number, chunk in enumerate(chunks, 1):
        odd.check(chunk, number)
    odd.conclude(**ending)
    assert odd.lines() == lines
