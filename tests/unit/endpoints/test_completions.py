"""Completions: which format a stream has, and when it is finished."""

from typing import Any

import pytest
from force_stream.endpoints.completions import CompletionsAggregator
from force_stream.errors import EmptyStream, IncompleteStream
from force_stream.merge.fields import CHANGED

USAGE_FIRST = {"usage": None, "choices": []}
FORMATS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "legacy": (
        [USAGE_FIRST, {"id": "a", "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}],
        {"id": "a", "object": "text_completion"},
    ),
    "chat": (
        [USAGE_FIRST, {"id": "a", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}],
        {"id": "a", "object": "chat.completion"},
    ),
    "llama.cpp": ([{"content": "x", "stop": False}, {"content": "y", "stop": True}], {"content": "xy", "stop": True}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_informative_chunk_shows_the_format(name: str) -> None:
    chunks, part = FORMATS[name]
    aggregator = CompletionsAggregator()
    for chunk in chunks:
        assert not aggregator.finished
        aggregator.add(chunk)
    assert aggregator.finished
    assert not aggregator.ended
    assert part.items() <= aggregator.result().document.items()


def test_a_stream_that_never_showed_its_format_is_empty_or_cut() -> None:
    aggregator = CompletionsAggregator()
    assert aggregator.add(USAGE_FIRST) is CHANGED
    assert not aggregator.ended
    with pytest.raises(EmptyStream):
        aggregator.result(done=True)
    with pytest.raises(IncompleteStream):
        aggregator.result()


def test_a_text_is_all_that_a_repeat_adds_but_not_where_another_member_brings_it() -> None:
    legacy, writer = CompletionsAggregator(), CompletionsAggregator()
    effect = legacy.add({"choices": [{"index": 0, "text": "x"}]})
    assert [key for key, _ in effect or ()] == ["text"]
    assert writer.add({"value": "x"}) is CHANGED


def test_several_prompts_of_llama_cpp_are_finished_when_all_have_stopped() -> None:
    aggregator = CompletionsAggregator(2)
    for index in (1, 0):
        assert not aggregator.finished
        aggregator.add({"index": index, "content": f"{index}", "stop": True})
    assert aggregator.finished
    assert [document["content"] for document in aggregator.result().document] == ["0", "1"]


def llama(content: str, stop: bool, **more: Any) -> dict[str, Any]:
    return {"content": content, "stop": stop, **more}


@pytest.mark.parametrize(
    ("chunks", "finished", "early"),
    [
        ([llama("a", True), llama("b", False)], False, 1),
        ([llama("a", True), llama("b", False), llama("", True)], True, 1),
        ([llama("a", True), llama("", False)], True, 0),
        ([llama("a", True)] * 3, True, 2),
        ([{"choices": [{"text": "a", "finish_reason": "stop"}]}, {"choices": [{"text": "b"}]}], False, 1),
    ],
)
def test_a_stop_is_believed_when_nothing_follows_it(chunks: list[Any], finished: bool, early: int) -> None:
    aggregator = CompletionsAggregator()
    for chunk in chunks:
        aggregator.add(chunk)
    assert (aggregator.finished, aggregator.early) == (finished, early)
    assert aggregator.result().document


def test_the_frame_is_that_of_the_chunk_that_stopped() -> None:
    aggregator = CompletionsAggregator()
    for chunk in (llama("a", True, tokens=1), llama("b", False, tokens=2)):
        aggregator.add(chunk)
    assert aggregator.result().document == {"content": "ab", "stop": True, "tokens": 1}


def test_fewer_prompts_than_asked_for_are_odd() -> None:
    aggregator = CompletionsAggregator(2)
    aggregator.add(llama("a", True))
    with pytest.raises(IncompleteStream):
        aggregator.result()
    assert aggregator.result(done=True).odd == ("1 choice, but the request asks for 2",)


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ({"value": "x"}, True),
        (llama("", False), True),
        ({"choices": [{"text": "x"}]}, True),
        ({"content": "x"}, False),
        ({"message": "x"}, False),
    ],
)
def test_a_chunk_is_known_in_all_three_formats(said: dict[str, Any], known: bool) -> None:
    assert CompletionsAggregator().knows(said) is known
    assert "text_completion" in CompletionsAggregator.objects


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"seed": 7, "stream": True}, {"seed": 7, "stream": False}),
        ({"stream": False}, {"stream": False}),
        ({"seed": 7}, {"seed": 7}),
        ("stream", "stream"),
    ],
)
@pytest.mark.parametrize("prompts", [1, 2])
def test_the_settings_that_llama_cpp_repeats_are_those_of_a_plain_request(
    prompts: int, settings: Any, shown: Any
) -> None:
    aggregator = CompletionsAggregator(prompts)
    for index in range(prompts):
        aggregator.add({"index": index, "content": "a", "stop": False})
        aggregator.add({"index": index, "content": "", "stop": True, "generation_settings": settings})
    document = aggregator.result().document
    documents = document if prompts > 1 else [document]
    assert [one["generation_settings"] for one in documents] == [shown] * prompts
    assert [one["content"] for one in documents] == ["a"] * prompts
