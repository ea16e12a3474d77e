"""Which call a fragment belongs to: a table of what deltas said, and the calls that they make."""

import re
from typing import Any

import pytest
from force_stream.merge.said_again import said_once
from force_stream.merge.tool_calls import ToolCalls, tool_calls, with_ids
from harness.merging import JSON, interleave, merged
from hypothesis import given
from hypothesis import strategies as st


def said(index: Any = None, id: Any = None, name: Any = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """An entry with only what is given."""
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not None}
    entry = {key: value for key, value in {"index": index, "id": id}.items() if value is not None}
    return entry | ({"function": function} if function else {}) | more


def call(id: Any, name: str, arguments: str, **more: Any) -> dict[str, Any]:
    given_id = {} if id is None else {"id": id}
    return {**given_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


A, B = call("a", "add", '{"x":1}'), call("b", "mul", '{"y":2}')

TABLE: dict[str, tuple[list[Any], Any]] = {
    "nothing": ([], None),
    "null": ([None], None),
    "an empty list": ([[], None, []], []),
    "an empty list before a call": ([[], [said(0, "a", "add", '{"x":1}')]], [A]),
    "one whole call": ([[said(0, "a", "add", '{"x":1}')]], [A]),
    "arguments in fragments": (
        [[said(0, "a", "add", "")], [said(0, arguments='{"x"')], [said(0, arguments=":1}")]],
        [A],
    ),
    "two calls, interleaved": (
        [
            [said(0, "a", "add", "")],
            [said(1, "b", "mul", "")],
            [said(0, arguments='{"x":')],
            [said(1, arguments='{"y":')],
            [said(1, arguments="2}"), said(0, arguments="1}")],
        ],
        [A, B],
    ),
    "1 before 0": ([[said(1, "b", "mul", '{"y":2}')], [said(0, "a", "add", '{"x":1}')]], [A, B]),
    "indexes with gaps": ([[said(9, "b", "mul", '{"y":2}')], [said(4, "a", "add", '{"x":1}')]], [A, B]),
    "index 0 for all, whole": ([[said(0, "a", "add", '{"x":1}')], [said(0, "b", "mul", '{"y":2}')]], [A, B]),
    "index 0 for all, in fragments": (
        [
            [said(0, "a", "add", "")],
            [said(0, arguments='{"x":1}')],
            [said(0, "b", "mul", "")],
            [said(0, arguments='{"y":2}')],
        ],
        [A, B],
    ),
    "index 0 for all, one function": (
        [[said(0, "a", "add", "1")], [said(0, "b", "add", "2")]],
        [call("a", "add", "1"), call("b", "add", "2")],
    ),
    "no index, ids": ([[said(None, "a", "add", '{"x":1}')], [said(None, "b", "mul", '{"y":2}')]], [A, B]),
    "no index, ids again": (
        [[said(None, "a", "add", '{"x"')], [said(None, "b", "mul", '{"y":2}')], [said(None, "a", arguments=":1}")]],
        [A, B],
    ),
    "no index, the latest goes on": (
        [
            [said(None, "a", "add", '{"x"')],
            [said(arguments=":1}")],
            [said(None, "b", "mul", '{"y"')],
            [said(arguments=":2}")],
        ],
        [A, B],
    ),
    "no index, no ids, other names": (
        [[said(name="add", arguments='{"x":1}')], [said(name="mul", arguments='{"y":2}')]],
        [call(None, "add", '{"x":1}'), call(None, "mul", '{"y":2}')],
    ),
    "no index, no ids, one name, whole arguments": (
        [[said(name="add", arguments="{}")], [said(name="add", arguments="{}")]],
        [call(None, "add", "{}"), call(None, "add", "{}")],
    ),
    "one name again with fragments is one call": (
        [[said(0, name="add", arguments='{"x"')], [said(0, name="add", arguments=":1}")]],
        [call(None, "add", '{"x":1}')],
    ),
    "an id again": ([[said(0, "a", "add", '{"x"')], [said(0, "a", arguments=":1}")]], [A]),
    "id and name again": ([[said(0, "a", "add", '{"x"')], [said(0, "a", "add", ":1}")]], [A]),
    "a name in fragments": ([[said(0, "a", "ad", "")], [said(0, name="d")], [said(0, arguments='{"x":1}')]], [A]),
    "new ids without names start nothing": (
        [[said(0, "a", "add", "")], [said(0, "b", "", '{"x"')], [said(0, "c", "", ":1}")]],
        [A],
    ),
    "empty id and name": ([[said(0, "a", "add", "")], [said(0, "", "", '{"x":1}')]], [A]),
    "the id comes late": ([[said(0, None, "add", '{"x"')], [said(0, "a", arguments=":1}")]], [A]),
    "the name comes late": ([[said(0, "a", None, '{"x"')], [said(0, None, "add", ":1}")]], [A]),
    "a stub of nulls is no call": ([[{"index": 0, "id": None, "function": {"name": None, "arguments": None}}]], None),
    "a stub of nulls before a call": ([[{"id": None}], [said(0, "a", "add", '{"x":1}')]], [A]),
    "an index of its own without id or name goes on with the latest": (
        [[said(0, "a", "add", "")], [said(1, arguments='{"x"')], [said(2, arguments=":1}")]],
        [A],
    ),
    "two names in one list are two calls": (
        [[said(name="time", arguments=""), said(name="date", arguments="")]],
        [call(None, "time", ""), call(None, "date", "")],
    ),
    "two typed names at one index in one list are two calls": (
        [[said(0, name="time", type="function"), said(0, name="date", type="function")]],
        [call(None, "time", ""), call(None, "date", "")],
    ),
    "one name and id twice in one list are one call": (
        [[said(None, "a", "add"), said(None, "a", "add", '{"x":1}')]],
        [A],
    ),
    "two names with one id, whole": (
        [[said(0, "a", "add", '{"x":1}')], [said(0, "a", "mul", '{"y":2}')]],
        [A, B | {"id": "a"}],
    ),
    "two names with one id, in fragments": (
        [
            [said(0, "a", "add", '{"x"')],
            [said(0, arguments=":1}")],
            [said(0, "a", "mul", '{"y"')],
            [said(0, "a", arguments=":2}")],
        ],
        [A, B | {"id": "a"}],
    ),
    "two names with one id and no index, in fragments": (
        [
            [said(None, "a", "add", '{"x"')],
            [said(None, "a", arguments=":1}")],
            [said(None, "a", "mul", '{"y"')],
            [said(None, "a", arguments=":2}")],
        ],
        [A, B | {"id": "a"}],
    ),
    "two names of which one has an id": (
        [[said(0, "a", "add", '{"x":1}')], [said(0, None, "mul", '{"y":2}')]],
        [A, call(None, "mul", '{"y":2}')],
    ),
    "one name with one id and other whole arguments": (
        [[said(0, "a", "add", '{"x":1}')], [said(0, "a", "add", '{"x":2}')]],
        [A, call("a", "add", '{"x":2}')],
    ),
    "a whole call said again": ([[said(0, "a", "add", '{"x":1}')]] * 3, [A]),
    "a whole call said again without an id": (
        [[said(0, name="add", arguments='{"x":1}')]] * 2,
        [call(None, "add", '{"x":1}')],
    ),
    "a whole call said again after its fragments": (
        [
            [said(0, "a", "add", "")],
            [said(0, arguments='{"x"')],
            [said(0, arguments=":1}")],
            [said(0, "a", "add", '{"x":1}')],
        ],
        [A],
    ),
    "cumulative arguments": ([[said(0, "a", "add", '{"x"')], [said(0, arguments='{"x":1}')]], [A]),
    "a placeholder before the arguments": ([[said(0, "a", "add", "{}")], [said(0, "a", "add", '{"x":1}')]], [A]),
    "arguments that are numbers and truth values in pieces": (
        [
            [said(0, "a", "add", '{"x":')],
            [said(0, arguments=1)],
            [said(0, arguments=',"y":')],
            [said(0, arguments=True)],
            [said(0, arguments="}")],
        ],
        [call("a", "add", '{"x":1,"y":true}')],
    ),
    "a search of the upstream's own": (
        [
            [{"type": "web_search", "web_search": {"input": "wea"}}],
            [{"type": "web_search", "web_search": {"input": "ther"}}],
        ],
        [{"type": "web_search", "web_search": {"input": "weather"}}],
    ),
    "a search before and after a function": (
        [
            [{"type": "web_search", "web_search": {"q": 1}}],
            [said(None, "a", "add", '{"x":1}')],
            [{"type": "web_search", "web_search": {"q": 2}}],
        ],
        [{"type": "web_search", "web_search": {"q": 1}}, A, {"type": "web_search", "web_search": {"q": 2}}],
    ),
    "two searches with ids": (
        [[{"id": "a", "type": "web_search"}], [{"id": "b", "type": "web_search"}]],
        [{"id": "a", "type": "web_search"}, {"id": "b", "type": "web_search"}],
    ),
    "arguments as an object": ([[said(0, "a", "add", {"x": 1})]], [A]),
    "a number as id": ([[said(0, 7, "add", "1")], [said(0, 7, arguments="2")]], [call(7, "add", "12")]),
    "a string as index": ([[said("1", "b", "mul", '{"y":2}')], [said("0", "a", "add", '{"x":1}')]], [A, B]),
    "a type": ([[said(0, "a", "add", '{"x":1}', type="function")], [said(0, type="function")]], [A]),
    "an empty type": ([[said(0, "a", "add", '{"x":1}', type="")]], [A]),
    "a custom call": (
        [[said(0, "a", custom={"name": "sql", "input": "a"}, type="custom")], [said(0, custom={"input": "b"})]],
        [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "ab"}}],
    ),
    "a custom call without its type": (
        [[said(0, "a", custom={"name": "sql", "input": "a"})]],
        [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "a"}}],
    ),
    "extra fields": ([[said(0, "a", "add", '{"x":1}', extra_content={"k": [1]})]], [A | {"extra_content": {"k": [1]}}]),
    "padding": ([[said(0, "a", "add", '{"x":1}', obfuscation="zz")]], [A]),
    "an object in place of the list": ([said(0, "a", "add", '{"x":1}')], [A]),
    "entries that are no objects": ([["x", None, 1, said(0, "a", "add", '{"x":1}')]], [A]),
}


@pytest.mark.parametrize(("deltas", "calls"), TABLE.values(), ids=list(TABLE))
def test_deltas_make_calls(deltas: list[Any], calls: Any) -> None:
    assert merged(tool_calls, deltas) == calls


@pytest.mark.parametrize(("deltas", "calls"), TABLE.values(), ids=list(TABLE))
def test_one_chunk_or_many_is_the_same(deltas: list[Any], calls: Any) -> None:
    entries = [entry for delta in deltas for entry in (delta if isinstance(delta, list) else [delta])]
    if calls:
        assert merged(tool_calls, [entries]) == calls


def test_functions_and_custom_calls_get_ids_and_others_do_not() -> None:
    search = {"type": "web_search", "web_search": {}}
    calls = [
        A,
        A,
        call(None, "mul", "2"),
        call("", "mul", "2"),
        call(7, "mul", "2"),
        search,
        {"type": "custom", "custom": {}},
        "x",
    ]
    made = list(with_ids(calls, "c", 0))
    ids = [one.get("id") for one in made if isinstance(one, dict)]
    assert (ids[0], ids[4], ids[5]) == ("a", 7, None)
    assert len({str(one) for one in ids}) == len(ids)
    assert all(re.fullmatch("call_[0-9a-f]{24}", ids[place]) for place in (1, 2, 3, 6))
    assert next(iter(made[2])) == "id"
    assert made == list(with_ids(calls, "c", 0))


def test_an_id_depends_on_the_answer_and_the_place() -> None:
    def first_id(answer: Any, choice: int) -> str:
        (one,) = with_ids([call(None, "add", "")], answer, choice)
        return str(one["id"])

    assert len({first_id(answer, choice) for answer in ("c", "d", None, "\ud800") for choice in (0, 1)}) == 8
    assert first_id(None, 0) == first_id("", 0)


# ---- laws

CALLS = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=3), st.lists(st.text('{}":x1', max_size=4), max_size=4)),
    min_size=1,
    max_size=4,
)


def written(calls: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    """Every call as the API streams it: its beginning, then the fragments of its arguments."""
    return [
        entry
        for index, (name, fragments) in enumerate(calls)
        for entry in (said(index, f"call_{index}", name, ""), *(said(index, arguments=text) for text in fragments))
    ]


@given(CALLS, st.randoms(use_true_random=False))
def test_order_of_interleaved_indexes_does_not_matter(calls: list[tuple[str, list[str]]], random: Any) -> None:
    # `{}{}` is said twice, in whatever order the calls come.
    expected = [call(f"call_{index}", name, said_once(fragments)) for index, (name, fragments) in enumerate(calls)]
    entries = interleave(written(calls), random, lambda entry: entry["index"])
    assert merged(tool_calls, [[entry] for entry in entries]) == expected
    assert merged(tool_calls, [entries]) == expected


@given(CALLS)
def test_index_0_for_all_changes_nothing(calls: list[tuple[str, list[str]]]) -> None:
    entries = written(calls)
    assert merged(tool_calls, [[entry | {"index": 0}] for entry in entries]) == merged(tool_calls, [entries])


@given(CALLS)
def test_no_index_changes_nothing(calls: list[tuple[str, list[str]]]) -> None:
    entries = written(calls)
    bare = [[{key: value for key, value in entry.items() if key != "index"}] for entry in entries]
    assert merged(tool_calls, bare) == merged(tool_calls, [entries])


@given(CALLS)
def test_ids_and_names_said_again_change_nothing(calls: list[tuple[str, list[str]]]) -> None:
    entries = written(calls)
    names = dict(enumerate(name for name, _ in calls))
    again = [
        entry | {"id": f"call_{entry['index']}", "function": entry["function"] | {"name": names[entry["index"]]}}
        for entry in entries
    ]
    assert merged(tool_calls, [again]) == merged(tool_calls, [entries])


FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("index", "id", "type", "function", "custom", "name", "arguments"), JSON)
)


@given(st.lists(JSON | st.lists(FIELDS | JSON, max_size=4), max_size=5))
def test_no_value_raises(deltas: list[Any]) -> None:
    merged(tool_calls, deltas)


@pytest.mark.parametrize(
    ("value", "goes_on"),
    [
        (None, True),
        ([], True),
        ([{"index": 0, "function": {"arguments": "1}"}}], True),
        ([{"index": 0, "function": {"arguments": ""}}], True),
        ([{"index": 0, "function": {"arguments": None}}], False),
        ([{"index": 0, "function": {"arguments": "1}", "name": ""}}], False),
        ([{"index": 0, "id": "a", "function": {"arguments": "1}"}}], False),
        ([{"id": "a", "function": {"arguments": "1}"}}], False),
        ([{"index": 0.0, "function": {"arguments": "1}"}}], False),
        ([{"index": 1, "function": {"arguments": "1}"}}], False),
        ([{"index": 2, "function": {"arguments": "1}"}}], False),
        ([{"index": 3, "function": {"arguments": "1}"}}], False),
        ([{"index": 0, "function": {"arguments": "1"}}, {"index": 0, "function": {"arguments": "}"}}], False),
        ({"index": 0, "function": {"arguments": "1}"}}, False),
    ],
)
def test_a_call_goes_on_with_a_piece_of_its_arguments_alone(value: Any, *, goes_on: bool) -> None:
    first = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"a":'}},
        {"index": 1, "id": "b", "function": {"name": "g"}},
        {"index": 2, "id": "c", "function": {"name": "h", "arguments": "{}"}},
    ]
    plain, quick = ToolCalls(), ToolCalls()
    plain.add(first)
    quick.add(first)
    assert quick.goes_on(value) is goes_on
    if goes_on:
        plain.add(value)
    assert quick.result() == plain.result()
