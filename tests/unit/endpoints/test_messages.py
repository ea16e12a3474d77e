"""Messages: what golden streams cannot show."""

from typing import Any

import pytest
from force_stream.endpoints.messages import MessagesAggregator
from force_stream.errors import CorruptedStream, IncompleteStream
from force_stream.merge.fields import CHANGED, SAME


def delta(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **more}}


def start(**block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 1, "content_block": block}


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


@pytest.mark.parametrize(
    ("after", "finished"),
    [
        pytest.param(delta("text_delta", text="b"), False, id="text"),
        pytest.param(delta("text_delta", text=" \n"), True, id="blank text"),
        pytest.param(
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use"}}, False, id="call"
        ),
        pytest.param(start(type="text", text=""), True, id="start of a text"),
        pytest.param({"type": "message_delta", "usage": {"output_tokens": 3}}, True, id="usage"),
        pytest.param({"type": "ping"}, True, id="ping"),
        pytest.param({"type": "content_block_stop", "index": 0}, True, id="stop"),
    ],
)
def test_a_stop_reason_is_believed_while_no_content_follows_it(after: dict[str, Any], finished: bool) -> None:
    aggregator = MessagesAggregator()
    aggregator.add({"type": "message_start", "message": {"id": "m"}})
    aggregator.add(delta("text_delta", text="a"))
    aggregator.add({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    aggregator.add(after)
    assert aggregator.finished is finished
    assert aggregator.early == (not finished)
    aggregator.add({"type": "message_delta", "usage": {"output_tokens": 4}})
    assert aggregator.finished is finished, "usage is no stop reason"
    aggregator.add({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    assert aggregator.finished


@pytest.mark.parametrize(
    ("reason", "how", "is_whole"),
    [
        ("tool_use", {}, False),
        ("end_turn", {"done": True}, False),
        (None, {"done": True}, False),
        ("max_tokens", {}, True),
        ("model_context_window_exceeded", {}, True),
        ("tool_use", {"partial": True}, True),
        (None, {"partial": True}, True),
    ],
)
def test_an_input_may_be_cut_only_by_a_limit_or_where_what_came_is_wanted(
    reason: str | None, how: dict[str, bool], is_whole: bool
) -> None:
    aggregator = MessagesAggregator()
    aggregator.add(delta("input_json_delta", partial_json='{"a": 1'))
    aggregator.add({"type": "message_delta", "delta": {"stop_reason": reason}})
    if is_whole:
        assert aggregator.result(**how).document["content"][0]["input"] == {}
    else:
        with pytest.raises(CorruptedStream):
            aggregator.result(**how)


@pytest.mark.parametrize(
    ("known", "said", "event"),
    [
        (True, {"type": "message_start"}, ""),
        (True, delta("text_delta", text="a"), ""),
        (True, {"delta": {}}, "content_block_delta"),
        (True, {"type": "ping"}, ""),
        (True, {"type": "message"}, ""),
        (False, {"message": "Internal server error"}, ""),
        (False, {"type": "internal_error", "message": "no"}, ""),
        (False, {"type": 1}, ""),
    ],
)
def test_it_knows_its_own_events(known: bool, said: dict[str, Any], event: str) -> None:
    assert MessagesAggregator().knows(said, event) is known


PIECE = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}}


@pytest.mark.parametrize(
    ("chunk", "goes_on"),
    [
        (PIECE, True),
        (PIECE | {"index": 1}, False),
        (PIECE | {"index": True}, False),
        (PIECE | {"type": "content_block_stop"}, False),
        (PIECE | {"delta": "b"}, False),
        (PIECE | {"delta": {"type": "text_delta", "text": None}}, False),
        (PIECE | {"delta": {"type": "text_delta", "text": "b", "signature": "x"}}, False),
        (PIECE | {"delta": {"type": "thinking_delta", "thinking": "b"}}, False),
        (PIECE | {"delta": {"type": ["text_delta"], "text": "b"}}, False),
    ],
)
@pytest.mark.parametrize("end", ["", "message_delta", "message_stop"])
def test_a_block_goes_on_with_a_piece_of_its_text_alone(chunk: dict[str, Any], end: str, *, goes_on: bool) -> None:
    aggregator = MessagesAggregator()
    for each in (PIECE, {"type": end, "delta": {"stop_reason": "end_turn"}}):
        aggregator.add(each)
    assert aggregator.goes_on(chunk, {}) is (goes_on and not end)
    (block,) = aggregator.result(partial=True).document["content"]
    assert block["text"] == ("bb" if goes_on and not end else "b")
