"""The merge rules: a table of what chunks said of one field, and what the answer then has."""

from typing import Any

import pytest
from force_stream.merge.fields import (
    NOTHING,
    SAME,
    Fields,
    Last,
    Padding,
    Rule,
    by_index,
    concat,
    extend,
    fields,
    first,
    fragment,
    index_of,
    label,
    latest,
    name,
    nothing,
    of_first,
    overlay,
    padding,
)
from force_stream.wire.jsontext import Number
from harness.merging import JSON, interleave, merged
from hypothesis import given
from hypothesis import strategies as st

ENTRY = by_index(fields({"id": first, "text": concat}))

TABLE: dict[str, tuple[Rule, list[Any], Any]] = {
    "first: nothing said": (first, [], None),
    "first: the first that says something": (first, [None, "", 0, "a", "b", None], "a"),
    "first: a placeholder where nothing else came": (first, [None, ""], ""),
    "first: zero where nothing else came": (first, [0, None], 0),
    "first: null alone": (first, [None, None], None),
    "latest: nothing said": (latest, [], None),
    "latest: the last that says something": (latest, ["a", "b", None, "", {}, []], "b"),
    "latest: zero and false say something": (latest, [1, 0, None], 0),
    "latest: false": (latest, [True, False, None], False),
    "latest: a placeholder where nothing else came": (latest, [None, {}, None], {}),
    "overlay: members one by one": (overlay, [{"a": 1, "b": 1}, {"b": 2, "c": None}], {"a": 1, "b": 2, "c": None}),
    "overlay: objects within": (overlay, [{"a": {"x": 1}}, {"a": {"y": 2}}], {"a": {"x": 1, "y": 2}}),
    "overlay: null takes nothing back": (overlay, [{"a": 1}, {"a": None}, None], {"a": 1}),
    "overlay: a text after an object": (overlay, ["a", {"b": 1}, "c", ""], "c"),
    "overlay: an empty object after a text": (overlay, ["a", {}], "a"),
    "overlay: an object after a text": (overlay, [{"a": 1}, "b", {"c": 1}, ""], {"c": 1}),
    "overlay: the last list": (overlay, [[1], [2], []], [2]),
    "overlay: an empty object": (overlay, [{}, {}], {}),
    "label: the same text before and after an object": (label, ["a", {"b": 1}, "a"], "a"),
    "label: an empty object after a text": (label, ["a", {}], "a"),
    "concat: fragments": (concat, ["Hel", "", None, "lo"], "Hello"),
    "concat: only empty": (concat, [None, "", None], ""),
    "concat: only null": (concat, [None], None),
    "concat: nothing said": (concat, [], None),
    "concat: text wins over what is none": (concat, ["a", {"b": 1}, [1]], "a"),
    "concat: scalars are their spelling": (concat, [6, "] $", 0.005, True, None, False], "6] $0.005truefalse"),
    "concat: a number alone": (concat, [None, 6], "6"),
    "concat: numbers as they were spelled": (concat, ["a", Number("1E400"), Number("0.10")], "a1E4000.10"),
    "concat: what is no text, where no text came": (concat, [None, {"b": "1"}], {"b": "1"}),
    "name: said again whole": (name, ["add", "add", None, "add"], "add"),
    "name: in fragments": (name, ["ad", "d_", None, "two"], "add_two"),
    "name: empty fragments": (name, ["", "add", ""], "add"),
    "extend: lists": (extend, [[1], None, [], [2, 3]], [1, 2, 3]),
    "extend: only empty": (extend, [None, []], []),
    "extend: only null": (extend, [None], None),
    "extend: a bare entry": (extend, [{"a": 1}, [{"a": 2}]], [{"a": 1}, {"a": 2}]),
    "extend: equal entries are two": (extend, [[1], [1]], [1, 1]),
    "fragment: strings are joined": (fragment, ["a", None, "b", ""], "ab"),
    "fragment: a label said again is one": (fragment, ["final", "final", "final"], "final"),
    "fragment: lists": (fragment, [[1], [2]], [1, 2]),
    "fragment: objects": (fragment, [{"a": "x", "b": [1]}, {"a": "y", "b": [2]}], {"a": "xy", "b": [1, 2]}),
    "fragment: a number among strings": (fragment, ["a", 6, None, "b"], "a6b"),
    "fragment: numbers": (fragment, [1, 2, None], 2),
    "fragment: booleans": (fragment, [True, False], False),
    "fragment: null alone": (fragment, [None, None], None),
    "fragment: an empty string alone": (fragment, ["", None], ""),
    "fragment: null, then text": (fragment, [None, "a", "b"], "ab"),
    "fields: each by its rule": (
        fields({"id": first, "text": concat}),
        [{"id": "1", "text": "a"}, {"id": "2", "text": "b", "x": "c"}],
        {"id": "1", "text": "ab", "x": "c"},
    ),
    "fields: a field once seen is in the result": (fields({}), [{"a": None}, {}], {"a": None}),
    "fields: padding is in no result": (fields({"p": nothing}), [{"p": "x", "a": 1}], {"a": 1}),
    "fields: null where an object should be": (fields({}), [None, None], None),
    "fields: text where an object should be": (fields({}), ["x", None], "x"),
    "fields: an object wins": (fields({}), ["x", {"a": 1}, "y"], {"a": 1}),
    "fields: an empty object": (fields({}), [{}, None], {}),
    "by index: joined and sorted": (
        ENTRY,
        [[{"index": 1, "text": "b"}], [{"index": 0, "text": "a"}], [{"index": 1, "text": "B"}]],
        [{"index": 0, "text": "a"}, {"index": 1, "text": "bB"}],
    ),
    "by index: another id at one index": (
        ENTRY,
        [[{"index": 0, "id": "1", "text": "a"}], [{"index": 0, "id": "2", "text": "b"}], [{"index": 0, "text": "c"}]],
        [{"index": 0, "id": "1", "text": "a"}, {"index": 0, "id": "2", "text": "bc"}],
    ),
    "by index: without an index each is its own": (
        ENTRY,
        [[{"text": "a"}], [{"text": "b"}]],
        [{"text": "a"}, {"text": "b"}],
    ),
    "by index: a string of digits is an index": (
        ENTRY,
        [[{"index": "1", "text": "b"}, {"index": 0, "text": "a"}]],
        [{"index": 0, "text": "a"}, {"index": "1", "text": "b"}],
    ),
    "by index: a bare entry": (ENTRY, [{"index": 0, "text": "a"}], [{"index": 0, "text": "a"}]),
    "by index: null and nothing": (ENTRY, [None, []], []),
    "by index: entries that are no objects": (ENTRY, [["x", None, 1]], ["x", None, 1]),
    "nothing": (nothing, ["x", 1], NOTHING),
    "padding": (padding, ["x", 1], NOTHING),
    "of first: the first that says something": (of_first, [0, None, 7, 8], 7),
    "of first: zero where nothing else came": (of_first, [0, None], 0),
}


@pytest.mark.parametrize(("rule", "said", "result"), TABLE.values(), ids=list(TABLE))
def test_rule_makes_of_what_was_said(rule: Rule, said: list[Any], result: Any) -> None:
    assert merged(rule, said) == result


@pytest.mark.parametrize(
    ("index", "read"),
    [
        (0, 0),
        (7, 7),
        ("3", 3),
        (-1, -1),
        (True, None),
        (1.0, 1),
        (1.5, None),
        (None, None),
        ("", None),
        ("x", None),
        ("٣", None),
    ],
)
def test_index_is_a_whole_number(index: Any, read: int | None) -> None:
    assert index_of({"index": index}) == read


@pytest.mark.parametrize("entry", [None, [], "x", 1, {}])
def test_what_has_no_index_has_none(entry: Any) -> None:
    assert index_of(entry) is None


@pytest.mark.parametrize("value", [None, True, ["x"], {"p": "x"}])
def test_padding_of_another_kind_has_no_slot(value: Any) -> None:
    assert padding().add(value) is SAME


def test_a_label_may_differ_once_it_has_come_and_has_another_value() -> None:
    accumulator = fields({}, label)()
    values = ("a", "a", "b", "b", "", ["b"], 1.5)
    effects = [accumulator.add({"l": value, "of": {"m": value}}) or SAME for value in values]
    assert [len(effect) for effect in effects] == [0, 0, 2, 0, 0, 0, 2]
    assert all(isinstance(target, Last) for effect in effects for _, target in effect)


def test_a_number_in_a_delta_is_a_label() -> None:
    accumulator = fields({})()
    first, second, third = (accumulator.add({"token_id": number}) for number in (7, 8, 9))
    assert first == SAME
    assert second == third
    assert second is not None
    [(name, target)] = second
    assert name == "token_id"
    assert isinstance(target, Last)
    assert accumulator.result() == {"token_id": 9}


def test_padding_may_differ_and_so_may_every_time_after_the_first() -> None:
    accumulator = fields({"p": padding, "created": of_first})()
    slots = [accumulator.add({"p": "x", "created": time}) or SAME for time in (0, 7, 8)]
    assert [[key for key, _ in each] for each in slots] == [["p"], ["p"], ["p", "created"]]
    assert all(isinstance(target, Padding) for each in slots for _, target in each)


# ---- laws

RULES: dict[str, Rule] = {
    "first": first,
    "latest": latest,
    "overlay": overlay,
    "concat": concat,
    "name": name,
    "extend": extend,
    "fragment": fragment,
    "fields": fields({"id": first, "text": concat, "list": extend}),
    "by_index": by_index(fields({"text": concat})),
}
ANY_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))


@ANY_RULE
@given(said=st.lists(JSON, max_size=6))
def test_no_value_raises(rule: Rule, said: list[Any]) -> None:
    merged(rule, said)


@ANY_RULE
@given(said=st.lists(JSON, max_size=5), place=st.integers(0, 5))
def test_null_changes_nothing(rule: Rule, said: list[Any], place: int) -> None:
    assert merged(rule, [*said[:place], None, *said[place:]]) == merged(rule, said)


@ANY_RULE
@given(said=st.lists(JSON, max_size=5))
def test_result_can_be_asked_for_twice(rule: Rule, said: list[Any]) -> None:
    accumulator = rule()
    for value in said:
        accumulator.add(value)
        accumulator.result()
    assert accumulator.result() == merged(rule, said)


@given(st.lists(st.text(max_size=4)))
def test_concat_is_join(said: list[str]) -> None:
    assert merged(concat, list(said)) == ("".join(said) if said else None)


@given(st.lists(st.lists(st.integers())))
def test_extend_is_chain(said: list[list[int]]) -> None:
    assert merged(extend, list(said)) == ([entry for one in said for entry in one] if said else None)


INTERLEAVED = st.lists(st.tuples(st.integers(0, 4), st.text("abc", min_size=1, max_size=3)), max_size=12)


@given(INTERLEAVED, st.randoms(use_true_random=False))
def test_order_of_interleaved_indexes_does_not_matter(said: list[tuple[int, str]], random: Any) -> None:
    def entries(pieces: list[tuple[int, str]]) -> list[Any]:
        return [[{"index": index, "text": text}] for index, text in pieces]

    assert merged(ENTRY, entries(said)) == merged(ENTRY, entries(interleave(said, random, lambda piece: piece[0])))


def test_the_rows_of_an_object_are_its_members_that_can_change() -> None:
    merged = Fields({"id": first, "text": concat, "index": nothing}, latest)
    value = {"id": "a", "text": "b", "index": 0, "other": 1}
    merged.add(value | {"id": ""})
    rows = merged.rows(value)
    assert rows is not None
    assert [key for key, _ in rows] == ["id", "text", "other"]
    for key, add in rows:
        add(value[key])
    assert merged.result() == {"id": "a", "text": "bb", "other": 1}
    assert [key for key, _ in merged.rows(value) or ()] == ["text", "other"]
    assert merged.rows(value | {"new": None}) is None
    assert merged.rows({}) == []
    assert Fields({}, latest).rows({}) is None  # it would be in the result
