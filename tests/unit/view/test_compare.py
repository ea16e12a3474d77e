"""What is said of two JSON documents side by side."""

import json
from typing import Any

import pytest
from force_stream.answer.fill import fill, spelled
from force_stream.view.compare import SET_ASIDE, constants, differences
from harness.samples import DOCUMENT
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
CASES: dict[str, tuple[Any, Any, list[str]]] = {
    "a value": ({"a": 1}, {"a": 2}, ["$.a: 1 vs 2"]),
    "a value deep inside": (
        {"choices": [{"message": {"content": "Hello!"}}]},
        {"choices": [{"message": {"content": "Hello"}}]},
        ['$.choices[0].message.content: "Hello!" vs "Hello"'],
    ),
    "a member that is not there": ({"usage": {"x": 1}}, {}, ['$.usage: {"x":1} vs nothing']),
    "a member that is new": ({}, {"model": None}, ["$.model: nothing vs null"]),
    "another type of the same value": ({"a": 1}, {"a": 1.0}, ["$.a: 1 vs 1.0"]),
    "true and one": ({"a": True}, {"a": 1}, ["$.a: true vs 1"]),
    "an object and a list": ({"a": {}}, {"a": []}, ["$.a: {} vs []"]),
    "entries that are missing": ({"a": [1, 2, 3]}, {"a": [1, 5]}, ["$.a: 3 entries vs 2", "$.a[1]: 2 vs 5"]),
    "the order of members": ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
    "whole documents": ([1], None, ["$: [1] vs null"]),
    "ids, times and cache counters": (
        {"id": 1, "created": 2, "usage": {"cached_tokens": 3}},
        {"id": 4, "usage": {"cached_tokens": 5}, "system_fingerprint": "x"},
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_named_with_both_values(case: str) -> None:
    left, right, lines = CASES[case]
    assert list(differences(left, right)) == lines


def test_a_long_value_is_shown_in_short() -> None:
    (line,) = differences({"a": "x" * 1000}, {"a": 1})
    assert line == f'$.a: "{"x" * 119}… (1002 characters) vs 1'


@given(JSON)
def test_a_document_does_not_differ_from_itself(value: Any) -> None:
    assert list(differences(value, json.loads(json.dumps(value)))) == []


@given(JSON, JSON)
def test_both_ways_differ_in_the_same_places(left: Any, right: Any) -> None:
    assert len(list(differences(left, right))) == len(list(differences(right, left)))


@pytest.mark.parametrize("key", sorted(SET_ASIDE))
def test_what_is_set_aside_may_differ_or_be_missing(key: str) -> None:
    assert list(differences(DOCUMENT | {key: 1}, DOCUMENT | {key: 2})) == []
    assert list(differences(DOCUMENT | {key: 1}, {name: DOCUMENT[name] for name in DOCUMENT if name != key})) == []


MESSAGE = {"content": "a"}
FILLS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "nothing lacks": ({"a": None}, {"a": 1}, {}),
    "values that say nothing": (
        {"a": None, "b": [], "c": {}, "d": "", "e": False},
        {},
        {"a": None, "b": [], "c": {}, "d": "", "e": False},
    ),
    "values that say something": ({"a": 0, "b": "x", "c": True, "d": [None], "usage": {"n": 1}}, {}, {}),
    "in every choice": (
        {"choices": [{"message": MESSAGE | {"refusal": None}}, {"message": MESSAGE | {"refusal": None}}]},
        {"choices": [{"message": MESSAGE}, {"message": MESSAGE}]},
        {"choices.*.message.refusal": None},
    ),
    "where one choice has it": (
        {"choices": [{"refusal": None}, {"refusal": "no"}]},
        {"choices": [{}, {"refusal": "no"}]},
        {"choices.*.refusal": None},
    ),
    "not the same in every choice": ({"choices": [{"x": None}, {"x": []}]}, {"choices": [{}, {}]}, {}),
    "not in every choice": ({"choices": [{"x": None}, {}]}, {"choices": [{}, {}]}, {}),
    "another number of choices": ({"choices": [{"x": None}, {"x": None}]}, {"choices": [{}]}, {}),
    "a name that no path has": ({"a.b": None, "*": [], "0": "", "a b": None}, {}, {}),
    "an id that is null": ({"system_fingerprint": None}, {}, {"system_fingerprint": None}),
    "no documents": (None, [], {}),
}


@pytest.mark.parametrize("case", FILLS)
def test_constants_that_the_forced_answer_lacks_are_found(case: str) -> None:
    left, right, expected = FILLS[case]
    assert constants(left, right) == expected


@given(JSON, JSON)
def test_filling_in_the_constants_leaves_only_fewer_differences(left: Any, right: Any) -> None:
    before, found = list(differences(left, right)), constants(left, right)
    filled = json.loads(json.dumps(right))
    fill(filled, spelled(found))
    assert set(differences(left, filled)) <= set(before)
    assert constants(left, filled) == {}
