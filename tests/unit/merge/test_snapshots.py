"""Whole objects in several chunks: a table of what each said, and the object that they make."""

from typing import Any

import pytest
from force_stream.merge.snapshots import snapshots
from harness.merging import JSON, merged
from hypothesis import given
from hypothesis import strategies as st


def call(arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": "add", "arguments": arguments}, **more}


CALL = call('{"x":1}', index=0)
TABLE: dict[str, tuple[list[Any], Any]] = {
    "nothing": ([None], None),
    "said once": ([{"role": "assistant", "content": "a", "n": 1, "x": None, "tool_calls": [CALL]}],) * 2,
    "fragments": ([{"content": "Hel"}, {"content": "lo"}, {"content": ""}], {"content": "Hello"}),
    "cumulative": (
        [{"content": "H"}, {"content": "Hel"}, {"content": "Hello"}, {"content": "Hello"}],
        {"content": "Hello"},
    ),
    "fragments that begin alike": ([{"content": "ha"}, {"content": "ha"}, {"content": " x"}], {"content": "haha x"}),
    "a role said again": (
        [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
        {"role": "assistant", "content": "ab"},
    ),
    "an empty text first": ([{"content": ""}, {"content": None}, {"content": "a"}], {"content": "a"}),
    "reasoning too": ([{"reasoning_content": "H"}, {"reasoning_content": "m"}], {"reasoning_content": "Hm"}),
    "scalars among texts": (
        [{"content": 6, "flag": "a"}, {"content": " is "}, {"content": True, "flag": True}],
        {"content": "6 is true", "flag": True},
    ),
    "cumulative lists": ([{"annotations": [1]}, {"annotations": [1, 2]}], {"annotations": [1, 2]}),
    "lists in pieces": ([{"annotations": [1]}, {"annotations": [2]}], {"annotations": [1, 2]}),
    "objects": ([{"audio": {"id": "a"}}, {"audio": {"transcript": "b"}}], {"audio": {"id": "a", "transcript": "b"}}),
    "empty lists": ([{"tool_calls": []}, {"tool_calls": []}], {"tool_calls": []}),
    "calls, the same again": ([{"tool_calls": [CALL]}, {"tool_calls": [CALL]}], {"tool_calls": [CALL]}),
    "cumulative calls": (
        [
            {"tool_calls": [call('{"x"')]},
            {"tool_calls": [call('{"x":1}')]},
            {"tool_calls": [call('{"x":1}'), call("{}", id="b")]},
        ],
        {"tool_calls": [call('{"x":1}'), call("{}", id="b")]},
    ),
    "calls in fragments": (
        [{"tool_calls": [call('{"x"')]}, {"tool_calls": [{"function": {"arguments": ":1}"}}]}],
        {"tool_calls": [call('{"x":1}')]},
    ),
}


@pytest.mark.parametrize(("said", "result"), TABLE.values(), ids=list(TABLE))
def test_objects_make(said: Any, result: Any) -> None:
    assert merged(snapshots, said) == (result[0] if isinstance(result, list) else result)


@given(JSON)
def test_an_object_said_once_is_that_object(value: Any) -> None:
    assert merged(snapshots, [value]) == value


@given(st.lists(JSON | st.dictionaries(st.sampled_from(["content", "tool_calls", "x"]), JSON), max_size=5))
def test_no_value_raises(said: list[Any]) -> None:
    merged(snapshots, said)


@given(st.lists(st.text(max_size=4), min_size=1))
def test_cumulative_texts_are_the_last(texts: list[str]) -> None:
    said = [{"content": "".join(texts[: count + 1])} for count in range(len(texts))]
    assert merged(snapshots, said) == {"content": "".join(texts)}
