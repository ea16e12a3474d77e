"""What is said of two JSON documents side by side."""

import json
from typing import Any

import pytest
from force_stream.answer.fill import fill, spelled
from force_stream.view.compare import SET_ASIDE, Side, constants, differences, verdict
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


OK, REFUSED = Side(200, ok=True), Side(400, words="Only streams", refuses=True)
VERDICTS: dict[str, tuple[Side, Side, int, str]] = {
    "the same": (OK, OK, 0, "plain and forced give the same answer, apart from ids and times"),
    "one difference": (OK, OK, 1, "plain: 200; forced: 200: 1 difference; the log has them"),
    "only streams": (REFUSED, OK, 0, 'plain: 400 "Only streams"; forced: 200: this upstream only streams'),
    "plain fails": (Side(504, words="slow"), OK, 0, 'plain: 504 "slow"; forced: 200: only streaming works here'),
    "never streams": (
        OK,
        REFUSED,
        0,
        'plain: 200; forced: 400 "Only streams": this upstream cannot stream this request',
    ),
    "a stream unasked": (Side(200, refuses=True), OK, 0, "plain: 200; forced: 200: this upstream only streams"),
    "a part of the answer": (
        OK,
        Side.of(200, "{}", "cut off after event 2"),
        3,
        "plain: 200; forced: 200 (cut off after event 2): 3 differences; the log has them",
    ),
    "a cut": (
        OK,
        Side(502, words="…", cause="cut off after event 2"),
        0,
        "plain: 200; forced: 502 (cut off after event 2): streaming is what fails here",
    ),
    "a rate limit": (Side(429), OK, 0, "plain: 429; forced: 200: that may be temporary, so compare again later"),
    "a refusal with a status that passes": (
        Side(503, refuses=True),
        OK,
        0,
        "plain: 503; forced: 200: this upstream only streams",
    ),
    "the same failure": (
        Side(401, words="Who?"),
        Side(401, words="Who?", cause="authentication"),
        0,
        'plain and forced fail the same way: 401 "Who?"',
    ),
    "two failures": (Side(401), Side(502), 0, "plain: 401; forced: 502: both fail"),
    "nobody there": (Side(None, words="refused"), Side(502), 0, 'plain: no answer "refused"; forced: 502: both fail'),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_says_what_two_answers_mean(case: str) -> None:
    plain, forced, differing, said = VERDICTS[case]
    assert verdict(plain, forced, differing) == said
    assert verdict(plain, forced, differing, streamed="live") == said.replace("forced", "live")


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (200, json.dumps(DOCUMENT), "200"),
        (400, '{"error": {"message": "No \\"stream\\"", "code": 1}}', "400 \"No 'stream'\""),
        (500, "{}", "500"),
        (200, "<style>a{}</style><p>Please\n log in", '200 (not JSON: "Please log in")'),
        (502, "", '502 (not JSON: "")'),
        (400, '{"message": "a\\u202eb\\u001b[31m"}', r'400 "a\u202eb\x1b[31m"'),
        (400, json.dumps({"message": "x" * 500}), f'400 "{"x" * 100}…"'),
    ],
)
def test_an_answer_is_told_by_its_status_and_its_words(status: int, text: str, told: str) -> None:
    assert Side.of(status, text).told() == told


def test_a_cause_is_told_in_place_of_the_words() -> None:
    assert Side.of(502, '{"message": "long"}', "cut off after event 2").told() == "502 (cut off after event 2)"


@given(st.text(max_size=300), st.text(max_size=300), st.sampled_from([200, 400]))
def test_what_is_told_is_printable_and_short(text: str, cause: str, status: int) -> None:
    for body in (text, json.dumps({"message": text})):
        for told in (Side.of(status, body).told(), Side.of(status, body, cause).told()):
            assert told.isprintable()
            assert len(told) < 300
