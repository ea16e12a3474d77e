"""Chat completions: what golden streams cannot show."""

import json
from typing import Any

import pytest
from force_stream import aggregate
from force_stream.endpoints.chat import ChatAggregator
from force_stream.errors import EmptyStream, IncompleteStream
from force_stream.merge.fields import CHANGED, SAME


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, **choice} for index, choice in enumerate(choices)], **more}


def stream(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks)


TEXT, STOP = {"delta": {"content": "a"}}, {"delta": {}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("expected", "chunks", "finished"),
    [
        (1, [], False),
        (1, [chunk(TEXT)], False),
        (1, [chunk(TEXT), chunk(STOP)], True),
        (1, [chunk({"delta": {}, "finish_reason": "null"})], False),
        (2, [chunk(STOP)], False),
        (2, [chunk(STOP, TEXT)], False),
        (2, [chunk(STOP, STOP)], True),
        (1, [chunk(STOP, TEXT)], False),
    ],
)
def test_it_is_finished_when_each_choice_has_its_reason(expected: int, chunks: list[Any], finished: bool) -> None:
    aggregator = ChatAggregator(expected)
    for each in chunks:
        aggregator.add(each)
    assert aggregator.finished is finished
    assert not aggregator.ended, "usage may follow the last finish reason"


@pytest.mark.parametrize(
    ("first", "again", "keys"),
    [
        (TEXT, {"delta": {"content": "b"}}, ["content"]),
        (TEXT, {"delta": {"content": ""}}, []),
        (TEXT, {"delta": {"role": "tool", "content": "b"}}, []),
        (TEXT, {"delta": "b"}, None),
        (TEXT, {"delta": {"content": [{"type": "text", "text": "b"}]}}, None),
        (
            {"delta": {"refusal": "a"}},
            {"delta": {"refusal": "b"}, "logprobs": {"content": [1]}},
            ["refusal", "content"],
        ),
    ],
)
def test_what_a_repeated_chunk_would_change(first: Any, again: Any, keys: list[str] | None) -> None:
    aggregator = ChatAggregator()
    aggregator.add(chunk(first, created=7))
    effect = aggregator.add(chunk(again))
    assert effect is CHANGED if keys is None else [key for key, _ in effect or SAME] == keys


def test_cumulative_usage_and_several_choices_are_a_change() -> None:
    aggregator = ChatAggregator()
    assert aggregator.add(chunk(TEXT, usage={"total_tokens": 3})) is CHANGED
    assert aggregator.add(chunk(TEXT, TEXT)) is CHANGED
    assert aggregator.add(chunk(TEXT, usage=None)) is not CHANGED


def test_a_stream_without_choices_is_empty_only_if_it_said_done() -> None:
    aggregator = ChatAggregator()
    aggregator.add({"type": "ping"})
    with pytest.raises(EmptyStream):
        aggregator.result(done=True)
    with pytest.raises(IncompleteStream):
        aggregator.result()


@pytest.mark.parametrize(("how", "reason"), [({"done": True}, "stop"), ({"partial": True}, "length")])
def test_a_missing_finish_reason_is_inferred(how: dict[str, bool], reason: str) -> None:
    aggregator = ChatAggregator()
    aggregator.add(chunk(TEXT))
    aggregated = aggregator.result(**how)
    assert (aggregated.finish_reasons, aggregated.inferred) == ((reason,), True)


@pytest.mark.parametrize("pieces", [["aa=", "é"], ["a=", "b"], ["a=", "bb=="]])
def test_audio_that_is_not_base64_is_joined_as_text(pieces: list[str]) -> None:
    chunks = [chunk({"delta": {"audio": {"data": piece}}, "finish_reason": "stop"}) for piece in pieces]
    message = json.loads(aggregate(stream(*chunks)).body)["choices"][0]["message"]
    assert message["audio"]["data"] == "".join(pieces)


def test_a_delta_that_is_a_text_is_the_content() -> None:
    reply = aggregate(stream(chunk({"delta": "Hel"}), chunk({"delta": "lo", "finish_reason": "stop"})))
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == "Hello"


def test_indexes_spelled_as_floats_are_indexes() -> None:
    body = stream(*(chunk({**STOP, "index": float(n), "delta": {"content": "AB"[n]}}) for n in (1, 0)))
    choices = json.loads(aggregate(body).body)["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "A"), (1, "B")]


@pytest.mark.parametrize("later", ["error", "tool_calls", "stop"])
@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_length_and_content_filter_are_never_overruled(reason: str, later: str) -> None:
    body = stream(chunk({**TEXT, "finish_reason": reason}), chunk({"delta": {}, "finish_reason": later}))
    assert json.loads(aggregate(body).body)["choices"][0]["finish_reason"] == reason
