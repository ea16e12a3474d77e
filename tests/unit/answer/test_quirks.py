"""The named quirks: what each makes of chunks. Whole streams are in golden/quirks."""

import copy
import re
from typing import Any

import pytest
from force_stream.answer.quirks import QUIRKS, chosen, patch_document


def mended(quirk: str, chunks: list[Any]) -> list[Any]:
    make = QUIRKS[quirk].patch
    assert make is not None
    patch = make()
    chunks = copy.deepcopy(chunks)
    for chunk in chunks:
        patch(chunk)
    return chunks


def chunk(*deltas: Any, finish: str | None = None) -> dict[str, Any]:
    return {
        "choices": [{"index": index, "delta": delta, "finish_reason": finish} for index, delta in enumerate(deltas)]
    }


def said(chunks: list[Any], name: str = "content", choice: int = 0) -> list[Any]:
    deltas = [one["choices"][choice].get("delta") or {} for one in chunks if len(one["choices"]) > choice]
    return [delta[name] for delta in deltas if delta.get(name) is not None]


FRAGMENTS: dict[str, tuple[str, list[str], list[str]]] = {
    "cumulative text": ("cumulative_content", ["a", "ab", "abc"], ["a", "b", "c"]),
    "cumulative text, nothing new": ("cumulative_content", ["ab", "ab"], ["ab", ""]),
    "cumulative text, then a fragment": ("cumulative_content", ["ab", "c", "abcd"], ["ab", "c", "d"]),
    "cumulative text, empty at first": ("cumulative_content", ["", "a", "ab"], ["", "a", "b"]),
    "whole text again": ("final_chunk_repeats_content", ["a", "b", "ab"], ["a", "b", ""]),
    "whole text again and again": ("final_chunk_repeats_content", ["a", "b", "ab", "ab"], ["a", "b", "", ""]),
    "one fragment twice is a text": ("final_chunk_repeats_content", ["ha", "ha"], ["ha", "ha"]),
    "as long as the text but another": ("final_chunk_repeats_content", ["a", "b", "ba"], ["a", "b", "ba"]),
    "no tags": ("think_tags", ["a", "<b>", "</think>"], ["a", "<b>", "</think>"]),
    "a tag further on is text": ("think_tags", ["a <think>", "b"], ["a <think>", "b"]),
    "the beginning of a tag that is none": ("think_tags", ["<th", "e>"], ["<the>"]),
    "white space before the tag": ("think_tags", [" \n", "<think>x</think>", "y"], ["y"]),
    "tags in one fragment": ("think_tags", ["<think>x</think>y"], ["y"]),
}


@pytest.mark.parametrize(("quirk", "sent", "expected"), FRAGMENTS.values(), ids=list(FRAGMENTS))
def test_fragments_are_mended(quirk: str, sent: list[str], expected: list[str]) -> None:
    assert said(mended(quirk, [chunk({"content": text}) for text in sent])) == expected


@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning"])
def test_cumulative_texts_are_told_apart_by_choice_and_name(name: str) -> None:
    chunks = mended("cumulative_content", [chunk({name: "a"}, {name: "b"}), chunk({name: "ax"}, {name: "by"})])
    assert (said(chunks, name), said(chunks, name, 1)) == (["a", "x"], ["b", "y"])


def test_index_that_counts_chunks_is_taken_away() -> None:
    chunks = mended("choice_index_counts_chunks", [{"choices": [{"index": 197, "delta": {}}]}, {"choices": []}])
    assert chunks == [{"choices": [{"delta": {}}]}, {"choices": []}]


def test_thinking_goes_on_where_the_upstream_splits_some_of_it_off() -> None:
    chunks = mended("think_tags", [chunk({"reasoning_content": "a", "content": "<think>b</think>c"})])
    assert (said(chunks, "reasoning_content"), said(chunks)) == (["ab"], ["c"])


def test_text_held_back_comes_with_the_finish_reason() -> None:
    chunks = mended(
        "think_tags", [chunk({"content": "<think>a</thi"}), {"choices": [{"index": 0, "finish_reason": "stop"}]}]
    )
    assert (said(chunks, "reasoning_content"), said(chunks)) == (["a", "</thi"], [])


@pytest.mark.parametrize("quirk", [name for name, quirk in QUIRKS.items() if quirk.patch])
@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"choices": None},
        {"choices": "x"},
        {"choices": [None, 1, {"delta": 1}, {"index": [], "delta": {"content": []}}]},
    ],
)
def test_chunk_without_text_stays(quirk: str, odd: dict[str, Any]) -> None:
    without_index = {"choices": [None, 1, {"delta": 1}, {"delta": {"content": []}}]}
    assert mended(quirk, [odd]) in ([odd], [without_index])


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "null becomes empty": ("content_never_null", {"content": None}, {"content": ""}),
    "text that is never null": ("content_never_null", {"content": "a"}, {"content": "a"}),
    "empty beside calls becomes null": (
        "empty_content_is_null",
        {"content": "", "tool_calls": [CALL]},
        {"content": None, "tool_calls": [CALL]},
    ),
    "empty beside a function call becomes null": (
        "empty_content_is_null",
        {"content": "", "function_call": {"name": "f"}},
        {"content": None, "function_call": {"name": "f"}},
    ),
    "empty without calls": (
        "empty_content_is_null",
        {"content": "", "tool_calls": []},
        {"content": "", "tool_calls": []},
    ),
    "text beside calls": (
        "empty_content_is_null",
        {"content": "a", "tool_calls": [CALL]},
        {"content": "a", "tool_calls": [CALL]},
    ),
    "an index for each call": (
        "tool_calls_keep_index",
        {"tool_calls": [CALL, {**CALL}]},
        {"tool_calls": [CALL | {"index": 0}, CALL | {"index": 1}]},
    ),
    "an index that is there": (
        "tool_calls_keep_index",
        {"tool_calls": [CALL | {"index": 3}]},
        {"tool_calls": [CALL | {"index": 3}]},
    ),
    "calls that are none": ("tool_calls_keep_index", {"tool_calls": ["a"]}, {"tool_calls": ["a"]}),
    "no list of calls": ("tool_calls_keep_index", {"tool_calls": {}}, {"tool_calls": {}}),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_are_patched_once_they_are_whole(case: str) -> None:
    quirk, message, expected = MESSAGES[case]
    document: Any = {"choices": [{"index": 0, "message": copy.deepcopy(message)}, None, {"message": "x"}]}
    patch_document(document, chosen([quirk]))
    assert document == {"choices": [{"index": 0, "message": expected}, None, {"message": "x"}]}


@pytest.mark.parametrize("document", [{}, {"choices": {}}, [{"choices": []}], None])
def test_a_document_without_messages_stays(document: Any) -> None:
    before = copy.deepcopy(document)
    patch_document(document, chosen(QUIRKS))
    assert document == before


def test_a_quirk_that_does_not_exist_here_is_left_out() -> None:
    assert chosen(["gone", "think_tags"]) == [QUIRKS["think_tags"]]


def test_usage_of_other_choices_is_taken_away() -> None:
    def ends(index: int, total: int) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": total}}

    behind = {"choices": [], "usage": {"total_tokens": 9}}
    chunks = mended("usage_per_choice", [ends(0, 7), ends(1, 8), behind])
    assert ["usage" in one for one in chunks] == [True, False, False]
    assert ["usage" in one for one in mended("usage_per_choice", [ends(1, 8), ends(0, 7), behind])] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("quirk", QUIRKS.values(), ids=list(QUIRKS))
def test_every_quirk_was_seen_somewhere(quirk: Any) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+(, [\w.-]+/[\w.-]+#\d+)*|[A-Z]?[\w.-]+(, [A-Z][\w.-]+)*", quirk.reports)
