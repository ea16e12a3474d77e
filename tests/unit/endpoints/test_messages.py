"""Messages: what golden streams cannot show."""

from typing import Any

import pytest
from force_stream.endpoints.messages import MessagesAggregator
from force_stream.errors import IncompleteStream
from force_stream.merge.fields import CHANGED, SAME


def delta(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **more}}


def test_it_is_finished_with_its_stop_reason_and_ended_with_its_last_event() -> None:
    aggregator = MessagesAggregator()
    aggregator.add({"type": "message_start", "message": {"id": "m"}})
    aggregator.add(delta("text_delta", text="a"))
    assert not aggregator.finished
    aggregator.add({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    assert aggregator.finished
    assert not aggregator.ended
    aggregator.add({"type": "message_stop"})
    assert aggregator.ended
    assert aggregator.add(delta("text_delta", text="b")) == SAME, "nothing can follow"
    assert aggregator.result().document["content"] == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    ("chunk", "keys"),
    [
        (delta("text_delta", text="a"), ["text"]),
        (delta("input_json_delta", partial_json="{"), ["partial_json"]),
        (delta("signature_delta", signature="s"), []),
        (delta("citations_delta", citation={"url": "u"}), None),
        (delta("new_delta", new="a"), None),
        ({"type": "content_block_delta", "delta": "a"}, []),
        ({"type": "content_block_stop", "index": 0}, None),
    ],
)
def test_what_a_repeated_event_would_change(chunk: dict[str, Any], keys: list[str] | None) -> None:
    effect = MessagesAggregator().add(chunk)
    assert effect is CHANGED if keys is None else [key for key, _ in effect or SAME] == keys


def test_nothing_but_pings_is_incomplete_even_where_what_came_is_wanted() -> None:
    aggregator = MessagesAggregator()
    aggregator.add({"type": "ping"})
    with pytest.raises(IncompleteStream):
        aggregator.result(partial=True)


@pytest.mark.parametrize(("how", "reason"), [({"done": True}, "end_turn"), ({"partial": True}, "max_tokens")])
def test_a_missing_stop_reason_is_inferred(how: dict[str, bool], reason: str) -> None:
    aggregator = MessagesAggregator()
    aggregator.add(delta("text_delta", text="a"))
    aggregated = aggregator.result(**how)
    assert (aggregated.finish_reasons, aggregated.inferred) == ((reason,), True)
