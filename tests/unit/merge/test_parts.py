"""Typed parts: a table of what deltas said, and the parts that they make."""

from typing import Any

import pytest
from force_stream.merge.fields import Rule
from force_stream.merge.parts import parts, reasoning
from harness.merging import JSON, merged
from hypothesis import given
from hypothesis import strategies as st


def think(text: Any = None, signature: str | None = None, **more: Any) -> dict[str, Any]:
    said = {"thinking": text, "signature": signature}
    return {"type": "thinking", **{key: value for key, value in said.items() if value is not None}, **more}


def detail(index: Any, text: Any = None, signature: str | None = None, **more: Any) -> dict[str, Any]:
    said = {"index": index, "text": text, "signature": signature}
    return {"type": "reasoning.text", **{key: value for key, value in said.items() if value is not None}, **more}


def databricks(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


def redacted(data: str) -> dict[str, Any]:
    return {"type": "redacted_thinking", "data": data}


def encrypted(index: Any, data: str, **more: Any) -> dict[str, Any]:
    return {"type": "reasoning.encrypted", **({} if index is None else {"index": index}), "data": data, **more}


TABLE: dict[str, tuple[Rule, list[Any], Any]] = {
    "text": (parts, ["Hel", None, "lo"], "Hello"),
    "text with a number": (parts, ["Page ", 6], "Page 6"),
    "parts, then text and a number": (
        parts,
        [[{"type": "text", "text": "a"}], "b", 6],
        [{"type": "text", "text": "ab6"}],
    ),
    "a number, then parts": (parts, [6, [{"type": "text", "text": "a"}]], [{"type": "text", "text": "6a"}]),
    "a number within a part": (parts, [[think("a")], [think(6)]], [think("a6")]),
    "parts of other types are kept": (
        parts,
        [["x", {"type": "image", "n": None}, 1]],
        ["x", {"type": "image", "n": None}, 1],
    ),
    "reasoning in summaries": (
        parts,
        [[databricks("The")], [databricks(" user")], "Hello", "!"],
        [databricks("The user"), {"type": "text", "text": "Hello!"}],
    ),
    "a signature without a text": (parts, [[think("a")], [think("b")], [think("", "S")]], [think("ab", "S")]),
    "a signature closes": (
        parts,
        [[think("One")], [think("", "S1")], [think("Two", index=0)], [think("", "S2")]],
        [think("One", "S1"), think("Two", "S2", index=0)],
    ),
    "a signed snapshot": (parts, [[think("a", "")], [think("b", "")], [think("ab", "S")]], [think("ab", "S")]),
    "a signed last fragment": (parts, [[think("a")], [think("b", "S")]], [think("ab", "S")]),
    "a snapshot of all parts": (
        parts,
        [[think("a")], [think("b")], [think("", "S1")], [think("c")], [think("ab", "S1"), think("c", "S2")]],
        [think("ab", "S1"), think("c", "S2")],
    ),
    "one signature on every fragment": (parts, [[think("a", "S")], [think("b", "S")]], [think("ab", "S")]),
    "a signature said again": (parts, [[think("a", "S")], [think("", "S")], [think("a", "S")]], [think("a", "S")]),
    "what says nothing begins nothing": (parts, [[think("a", "S")], [think("", "")]], [think("a", "S")]),
    "signatures alone": (parts, [[think("", "S1")], [think("", "S2")]], [think("", "S1"), think("", "S2")]),
    "redacted parts": (
        parts,
        [[think("a")], [redacted("D1")], [redacted("D2")], [think("b")]],
        [think("a"), redacted("D1"), redacted("D2"), think("b")],
    ),
    "a redacted part said again": (
        parts,
        [[redacted("D")], [think("a")], [redacted("D")]],
        [redacted("D"), think("a")],
    ),
    "a list as the signed snapshot": (
        parts,
        [[think([{"type": "text", "text": "a"}])], [think([{"type": "text", "text": "a"}], "S")]],
        [think([{"type": "text", "text": "a"}], "S")],
    ),
    "details by index": (
        reasoning,
        [[detail(1, "b")], [detail(0, "a")], [detail(1, "B")]],
        [detail(0, "a"), detail(1, "bB")],
    ),
    "details: two signed texts at one index": (
        reasoning,
        [[detail(0, "One")], [detail(0, None, "S1")], [detail(0, "Two")], [detail(0, None, "S2")]],
        [detail(0, "One", "S1"), detail(0, "Two", "S2")],
    ),
    "details: a closed part, then another index": (
        reasoning,
        [[detail(0, "One")], [detail(0, None, "S1")], [detail(1, "Two")]],
        [detail(0, "One", "S1"), detail(1, "Two")],
    ),
    "details: another type closes": (
        reasoning,
        [[detail(0, "a")], [encrypted(0, "D")], [detail(0, "b")], [detail(0, "c")]],
        [detail(0, "a"), encrypted(0, "D"), detail(0, "bc")],
    ),
    "details: a signed snapshot": (
        reasoning,
        [[detail(0, "a")], [detail(0, "b")], [detail(0, "ab", "S")]],
        [detail(0, "ab", "S")],
    ),
    "details: a signed snapshot without an index": (
        reasoning,
        [[detail(0, "a")], [detail(0, "b")], [detail(None, "ab", "S")]],
        [detail(0, "ab", "S")],
    ),
    "details: a signature without a type": (
        reasoning,
        [[detail(0, "a")], [{"index": 0, "signature": "S"}]],
        [detail(0, "a", "S")],
    ),
    "details: without an index each is its own": (
        reasoning,
        [[detail(None, "a")], [detail(None, "b")]],
        [detail(None, "a"), detail(None, "b")],
    ),
    "details: without an index, signed": (
        reasoning,
        [[detail(None, "a")], [detail(None, "b")], [detail(None, None, "S")], [detail(None, "c")]],
        [detail(None, "ab", "S"), detail(None, "c")],
    ),
    "details: without an index, a signed snapshot": (
        reasoning,
        [[detail(None, "a")], [detail(None, "b")], [detail(None, "ab", "S")]],
        [detail(None, "ab", "S")],
    ),
    "details: without an index, each signed": (
        reasoning,
        [[detail(None, "a", "S1"), detail(None, "b", "S2")]],
        [detail(None, "a", "S1"), detail(None, "b", "S2")],
    ),
    "details: encrypted data at one index": (
        reasoning,
        [[encrypted(0, "D1")], [encrypted(0, "D2")], [encrypted(0, "D1")]],
        [encrypted(0, "D1"), encrypted(0, "D2")],
    ),
    "details: one data for two ids": (
        reasoning,
        [[encrypted(0, "D", id="a")], [encrypted(0, "D", id="b")]],
        [encrypted(0, "D", id="a"), encrypted(0, "D", id="b")],
    ),
    "details: another id at one index": (
        reasoning,
        [[detail(0, "a", id="1")], [detail(0, "b", id="2")], [detail(0, "c")]],
        [detail(0, "a", id="1"), detail(0, "bc", id="2")],
    ),
    "details: summaries": (
        reasoning,
        [
            [{"type": "reasoning.summary", "summary": "a", "index": 0}],
            [{"type": "reasoning.summary", "summary": 6, "index": 0}],
        ],
        [{"type": "reasoning.summary", "summary": "a6", "index": 0}],
    ),
    "details: a bare entry, null and what is no object": (
        reasoning,
        [detail(0, "a"), None, ["x"]],
        [detail(0, "a"), "x"],
    ),
    "details: nothing": (reasoning, [None, []], []),
}


@pytest.mark.parametrize(("rule", "said", "result"), TABLE.values(), ids=list(TABLE))
def test_deltas_make_parts(rule: Rule, said: list[Any], result: Any) -> None:
    assert merged(rule, said) == result


PART = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["thinking", "text", "reasoning.text", "redacted_thinking", ""]),
        "index": st.integers(0, 1) | st.none(),
        "signature": st.sampled_from(["", "S", "T"]) | JSON,
        "thinking": st.sampled_from(["", "a", "ab"]) | JSON,
        "text": st.sampled_from(["", "a", "ab"]) | JSON,
        "data": st.sampled_from(["", "D"]) | JSON,
        "id": JSON,
    },
)


@pytest.mark.parametrize("rule", [parts, reasoning])
@given(said=st.lists(JSON | st.lists(PART | JSON, max_size=3), max_size=6))
def test_no_value_raises(rule: Rule, said: list[Any]) -> None:
    merged(rule, said)


@given(st.lists(st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=4), min_size=1, max_size=4))
def test_signed_parts_are_the_same_with_and_without_their_snapshots(texts: list[list[str]]) -> None:
    fragments: list[list[Any]] = [[], []]
    for place, pieces in enumerate(texts):
        for said in fragments:
            said += [[detail(0, piece)] for piece in pieces]
        fragments[0].append([detail(0, None, f"S{place}")])
        fragments[1].append([detail(0, "".join(pieces), f"S{place}")])
    whole = [detail(0, "".join(pieces), f"S{place}") for place, pieces in enumerate(texts)]
    assert merged(reasoning, fragments[0]) == whole
    assert merged(reasoning, fragments[1]) == whole
