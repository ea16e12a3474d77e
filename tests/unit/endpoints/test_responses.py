"""Responses: what golden streams cannot show."""

from itertools import combinations
from typing import Any

import pytest
from force_stream.endpoints.responses import TERMINAL, ResponsesAggregator
from force_stream.errors import CorruptedStream, IncompleteStream
from force_stream.merge.fields import CHANGED, SAME


def delta(kind: str = "response.output_text", **more: Any) -> dict[str, Any]:
    return {"type": f"{kind}.delta", "output_index": 0, "content_index": 0, "delta": "x", **more}


@pytest.mark.parametrize("kind", sorted(TERMINAL))
def test_a_terminal_event_ends_it(kind: str) -> None:
    aggregator = ResponsesAggregator()
    aggregator.add(delta())
    assert not aggregator.ended
    aggregator.add({"type": kind, "response": {"status": "completed", "output": []}})
    assert aggregator.ended
    assert aggregator.finished
    assert aggregator.add(delta()) == SAME, "nothing can follow"
    assert aggregator.result().document["output"][0]["content"][0]["text"] == "x"


@pytest.mark.parametrize(
    ("chunk", "keys"),
    [
        (delta(), {"delta"}),
        (delta(sequence_number=3, obfuscation="ab"), {"delta", "sequence_number", "obfuscation"}),
        (delta(logprobs=[]), {"delta"}),
        (delta(logprobs=[{"token": "x"}]), None),
        (delta("response.unknown"), set()),
        (delta(delta=1), None),
        (delta(delta=None), set()),
        ({"type": "response.output_item.added", "item": {}}, None),
        ({"type": "response.in_progress", "response": {}}, None),
    ],
)
def test_what_a_repeated_event_would_change(chunk: dict[str, Any], keys: set[str] | None) -> None:
    effect = ResponsesAggregator().add(chunk)
    assert effect is CHANGED if keys is None else {key for key, _ in effect or SAME} == keys


def test_an_event_may_have_its_type_in_its_name_alone() -> None:
    aggregator = ResponsesAggregator()
    aggregator.add({"response": {"status": "completed", "output": [1]}}, "response.completed")
    assert aggregator.ended


def test_a_text_does_not_go_on_under_another_name_where_the_type_is_empty() -> None:
    aggregator = ResponsesAggregator()
    for event, text in (("response.output_text.delta", "a"), ("response.refusal.delta", "b")):
        aggregator.add(delta() | {"type": "", "item_id": "i", "delta": text}, event)
    item = aggregator.result(partial=True).document["output"][0]
    assert "ab" not in str(item)


def test_without_its_end_it_is_incomplete_or_partial() -> None:
    aggregator = ResponsesAggregator()
    aggregator.add(delta())
    with pytest.raises(IncompleteStream):
        aggregator.result(done=True)
    assert aggregator.result(partial=True).finish_reasons == ("incomplete",)


def test_a_part_whose_index_is_beyond_those_that_were_streamed_is_one_part() -> None:
    aggregator = ResponsesAggregator()
    for index in (3, 1, 3):
        aggregator.add(delta(content_index=index))
    content = aggregator.result(partial=True).document["output"][0]["content"]
    assert content == [{"type": "output_text", "annotations": [], "text": text} for text in ("x", "xx")]


def test_arguments_that_are_not_json_are_odd() -> None:
    aggregator = ResponsesAggregator()
    item = {"type": "function_call", "name": "f"}
    aggregator.add({"type": "response.output_item.added", "output_index": 0, "item": item})
    aggregator.add(delta("response.function_call_arguments", delta='{"a":', output_index=0))
    aggregator.add({"type": "response.completed", "response": {"status": "completed"}})
    assert aggregator.result().odd == ("the arguments of a call are not JSON",)


@pytest.mark.parametrize("lost", [set(lost) for n in range(4) for lost in combinations(["added", "done", "output"], n)])
@pytest.mark.parametrize("kind", ["function_call", "mcp_call", "custom_tool_call"])
def test_a_call_has_its_name_or_the_answer_has_a_hole(kind: str, lost: set[str]) -> None:
    member = "input" if kind == "custom_tool_call" else "arguments"
    item = {"type": kind, "id": "c", "name": "f", member: ""}
    whole = item | {member: "{}"}
    aggregator = ResponsesAggregator()
    if "added" not in lost:
        aggregator.add({"type": "response.output_item.added", "output_index": 0, "item": item})
    aggregator.add({"type": f"response.{kind}_{member}.delta", "output_index": 0, "item_id": "c", "delta": "{}"})
    if "done" not in lost:
        aggregator.add({"type": "response.output_item.done", "output_index": 0, "item": whole})
    output = [] if "output" in lost else [whole]
    aggregator.add({"type": "response.completed", "response": {"status": "completed", "output": output}})
    if len(lost) == 3:
        with pytest.raises(CorruptedStream):
            aggregator.result()
    else:
        (got,) = aggregator.result().document["output"]
        assert (got["name"], got[member]) == ("f", "{}")


def test_many_items_under_other_ids_are_paired_in_time() -> None:
    aggregator = ResponsesAggregator()
    items = [{"type": "message", "id": f"{number}", "content": []} for number in range(20_000)]
    for number, item in enumerate(items):
        aggregator.add({"type": "response.output_item.done", "output_index": number, "item": item})
    output = [item | {"id": f"other {item['id']}"} for item in items]
    aggregator.add({"type": "response.completed", "response": {"status": "completed", "output": output}})
    assert aggregator.result().document["output"] == output


@pytest.mark.parametrize(
    ("known", "said", "event"),
    [
        (True, delta(), ""),
        (True, {"delta": "x"}, "response.output_text.delta"),
        (True, {"type": "codex.rate_limits"}, ""),
        (True, {"type": "keepalive"}, ""),
        (True, {"response": {}}, ""),
        (False, {"message": "Internal server error"}, ""),
        (False, {"detail": "no"}, ""),
        (False, {"type": "internal_error", "message": "no"}, ""),
    ],
)
def test_it_knows_its_own_events(known: bool, said: dict[str, Any], event: str) -> None:
    assert ResponsesAggregator().knows(said, event) is known


DELTA = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0, "delta": "b"}
WHOLE = {"type": "response.output_text.done", "item_id": "i", "output_index": 0, "content_index": 0, "text": "c"}


@pytest.mark.parametrize(
    ("before", "chunk", "goes_on"),
    [
        (DELTA, DELTA, True),
        (DELTA, DELTA | {"logprobs": [], "obfuscation": "x"}, True),
        (DELTA, DELTA | {"logprobs": [1]}, False),
        (DELTA, DELTA | {"delta": 1}, False),
        (DELTA, DELTA | {"type": "response.refusal.delta"}, False),
        (DELTA, DELTA | {"item_id": "j"}, False),
        (DELTA, DELTA | {"item_id": ["i"]}, False),
        (DELTA, DELTA | {"output_index": 1}, False),
        (DELTA, DELTA | {"output_index": False}, False),
        (DELTA, DELTA | {"content_index": 1}, False),
        (DELTA, DELTA | {"content_index": 0.0}, False),
        (DELTA, DELTA | {"summary_index": 0}, False),
        (DELTA, DELTA | {"command_index": 0}, False),
        (WHOLE, DELTA, False),
        ({"type": "response.completed", "response": {}}, DELTA, False),
        ({key: value for key, value in DELTA.items() if key != "type"}, DELTA, False),
    ],
)
def test_a_text_goes_on_with_deltas_of_the_same_place(
    before: dict[str, Any], chunk: dict[str, Any], *, goes_on: bool
) -> None:
    plain, quick = ResponsesAggregator(), ResponsesAggregator()
    for each in (plain, quick):
        each.add(DELTA)
        each.add(before, "response.output_text.delta")
    assert quick.goes_on(chunk, {}) is goes_on
    if goes_on:
        plain.add(chunk)
    assert quick.result(partial=True) == plain.result(partial=True)


def test_items_that_share_an_id_are_told_apart_by_their_indexes() -> None:
    aggregator = ResponsesAggregator()
    for at in (0, 1):
        item = {"type": "message", "id": "m", "content": []}
        aggregator.add({"type": "response.output_item.added", "output_index": at, "item": item})
    for at in (0, 1):
        aggregator.add(delta(output_index=at, item_id="m", delta=str(at)))
    output = aggregator.result(partial=True).document["output"]
    assert [item["content"][0]["text"] for item in output] == ["0", "1"]
