"""Chat completions: what golden streams cannot show."""

import json
from typing import Any

import pytest
from force_stream import AnswerSpec, aggregate
from force_stream.endpoints.chat import ChatAggregator
from force_stream.errors import CorruptedStream, EmptyStream, IncompleteStream
from force_stream.merge.fields import CHANGED, SAME, Concat, Extend


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
        (1, [chunk({"delta": {}, "finish_reason": "None"})], False),
        (1, [chunk({"delta": {}, "finish_reason": "FINISH_REASON_UNSPECIFIED"})], False),
        (1, [chunk({"delta": {}, "finishReason": "stop"})], True),
        (1, [chunk({"delta": {}, "stop_reason": "stop"})], False),
        (1, [chunk(STOP), chunk(TEXT)], False),
        (1, [chunk(STOP), chunk(TEXT), chunk(STOP)], True),
        (1, [chunk(TEXT | {"finish_reason": "stop"})] * 3, True),
        (1, [chunk(STOP), chunk({"delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}})], False),
        (1, [chunk(STOP), chunk({"delta": {"reasoning_details": [{"type": "t", "text": "x"}]}})], False),
        (1, [chunk(STOP), chunk({"text": "x"})], False),
        (1, [chunk(STOP), chunk({"delta": "x"})], False),
        (1, [chunk(STOP), chunk({"delta": {"content": 6}})], False),
        *[
            (1, [chunk(STOP), chunk({"delta": delta})], True)
            for delta in (
                None,
                {},
                "\n",
                {"content": " \n"},
                {"content": None, "role": "assistant", "phase": "x", "obfuscation": "xx"},
                {"role": "tool", "content": "x"},
                {"tool_calls": [{"index": 0, "id": "", "function": {"name": None, "arguments": ""}}]},
                {"audio": {"id": "a", "expires_at": 7}},
                {"content": [{"type": "text", "text": ""}]},
            )
        ],
        (1, [chunk(STOP), chunk(usage={"total_tokens": 3})], True),
        (2, [chunk(STOP, STOP), chunk({"delta": {}}, TEXT)], False),
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


SAID_AGAIN = {"id": "i", "created": 7, "model": "m", "service_tier": "x", "novel": {"a": [1]}, "obfuscation": "p"}


@pytest.mark.parametrize(
    ("second", "goes_on"),
    [
        (TEXT, True),
        ({"delta": {"content": ["b"], "role": "assistant"}}, True),
        ({"delta": {"reasoning": "b"}}, False),
        ({"delta": {"content": "b", "role": "tool"}}, False),
        ({"delta": {"content": "b", "tool_calls": None}}, True),
        ({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}}, True),
        ({"delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}}, False),
        ({"delta": {"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]}}, False),
        ({"delta": {"tool_calls": [{"id": "a", "function": {"arguments": "}"}}]}}, False),
        ({"delta": None}, True),
        ({"delta": {}}, True),
        (TEXT | {"finish_reason": ""}, True),
        (STOP, False),
        (TEXT | {"finishReason": None}, False),
        (TEXT | {"usage": None}, False),
        (TEXT | {"message": None}, False),
        (TEXT | {"index": "0"}, False),
        (TEXT | {"index": True}, False),
        (TEXT | {"index": 7}, False),
    ],
)
def test_what_only_goes_on_is_merged_as_any_other(second: Any, *, goes_on: bool) -> None:
    plain, quick, memo = ChatAggregator(), ChatAggregator(), dict[int, Any]()
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}
    first = {"delta": {"content": "a", "role": "assistant", "tool_calls": [call]}, "finish_reason": None}
    others = {"id": "j", "service_tier": "y", "usage": {"total_tokens": 2}}
    went_on = []
    for said, beside in ((first, {}), (second, {}), (second, others), (second, {"usage": {"total_tokens": 0}})):
        each = chunk(said, **{"usage": None} | SAID_AGAIN | beside)
        plain.add(each)
        went_on.append(said is not first and quick.goes_on(each, memo))
        if not went_on[-1]:
            quick.add(each)
        assert (plain.finished, plain.early) == (quick.finished, quick.early)
    assert went_on[1] is goes_on
    assert quick.result(done=True) == plain.result(done=True)


def test_no_member_beside_the_choices_is_a_text() -> None:
    aggregator = ChatAggregator()
    for _ in range(2):
        effect = aggregator.add(chunk(**SAID_AGAIN, text="a", content=["b"]))
    assert not any(isinstance(target, Concat | Extend) for _, target in effect or ())


def test_content_after_a_finish_reason_is_counted_until_usage_comes_alone() -> None:
    aggregator = ChatAggregator()
    early = []
    for each in (TEXT | {"finish_reason": "stop"}, TEXT, TEXT, STOP, TEXT | {"finish_reason": "stop"}):
        aggregator.add(chunk(each))
        early.append(aggregator.early)
    assert early == [0, 1, 1, 1, 2]
    aggregator.add({"choices": [], "usage": {"total_tokens": 3}})
    assert (aggregator.finished, aggregator.early) == (True, 0)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_each_text_with_a_finish_reason_ends_finished_however_it_comes(size: int) -> None:
    answer = AnswerSpec("r", "chat").read()
    body = stream(*[chunk(TEXT | {"finish_reason": "stop"})] * 9)
    for start in range(0, len(body), size):
        answer.feed(body[start : start + size])
    answer.read_waiting()
    assert answer.finished
    answer.feed(stream(chunk(TEXT)) * 3)
    answer.read_waiting()
    assert not answer.finished
    reply = answer.finish()
    assert reply is not None
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == "a" * 12


END = {"index": 0, "delta": {}, "finish_reason": "stop"}
A, B = ({"index": 0, "delta": {"content": text}} for text in "ab")


@pytest.mark.parametrize(
    ("expected", "chunks", "mixed"),
    [
        (2, [[A], [B], [END], [END]], True),
        (2, [[A], [END], [B], [END]], True),
        (2, [[A, B], [END, END]], True),
        (2, [[A], [B], [END], [B]], True),
        (2, [[A], [B], [END]], False),
        (1, [[A, B], [END, END]], True),
        (1, [[A, B], [END], [A], [END]], True),
        (1, [[A, B], [END]], False),
        (1, [[A], [END], [B], [END]], False),
        (2, [[A | {"finish_reason": "stop"}, B | {"index": 1, "finish_reason": "stop"}]] * 2, False),
    ],
)
def test_choices_that_share_an_index_are_no_answer(expected: int, chunks: list[Any], mixed: bool) -> None:
    aggregator = ChatAggregator(expected)
    for choices in chunks:
        aggregator.add({"choices": choices})
    if mixed:
        with pytest.raises(CorruptedStream, match="the same index"):
            aggregator.result(done=True)
    odd = aggregator.result(done=True, partial=True).odd
    assert ("several choices have the same index" in odd) is mixed
    if not mixed:
        assert aggregator.result(done=True).document


def test_a_finish_reason_said_again_with_the_usage_is_the_same_choice() -> None:
    aggregator = ChatAggregator(2)
    for each in (TEXT, STOP, STOP | {"usage": 0}):
        aggregator.add(chunk(each, usage={"total_tokens": 3}))
    assert aggregator.result(done=True).odd == ("1 choice, but the request asks for 2",)


def test_fewer_choices_than_asked_for_are_odd() -> None:
    aggregator = ChatAggregator(3)
    aggregator.add(chunk(STOP, STOP))
    assert aggregator.result().odd == ("2 choices, but the request asks for 3",)
    aggregator.add(chunk(STOP, STOP, STOP))
    assert aggregator.result().odd == ()


@pytest.mark.parametrize(
    ("said", "event", "known"),
    [
        ({"choices": [{}]}, "", True),
        ({"object": "chat.completion.chunk", "x": "y"}, "", True),
        ({"usage": {"total_tokens": 3}, "x": "y"}, "", True),
        ({"id": "c", "model": "m", "created": 7}, "", True),
        ({"id": "", "choices": [], "prompt_filter_results": []}, "", True),
        ({"type": "ping"}, "", True),
        ({"x": "y"}, "ping", True),
        ({"x_groq": {"id": "r"}}, "", True),
        ({}, "", True),
        ({"code": "0000", "message": "success"}, "", False),
        ({"message": "Internal server error"}, "", False),
        ({"choices": [], "message": "x"}, "", False),
        ({"usage": {"total_tokens": 0}, "message": "x"}, "", False),
        ({"object": ["x"], "type": {}, "choices": "x"}, "", False),
        ({"type": "response.output_text.delta", "delta": "x"}, "", False),
        ({"value": "x"}, "", False),
    ],
)
def test_a_chunk_is_known_by_its_members(said: dict[str, Any], event: str, known: bool) -> None:
    aggregator = ChatAggregator()
    assert (said.get("object") in aggregator.objects or aggregator.knows(said, event)) is known


def test_several_choices_in_one_chunk_are_a_change() -> None:
    aggregator = ChatAggregator()
    assert aggregator.add(chunk(TEXT, TEXT)) is CHANGED
    assert aggregator.add(chunk(TEXT, usage=None)) is not CHANGED


@pytest.mark.parametrize(
    ("usage", "keys"),
    [
        (None, ["content"]),
        ({}, ["content"]),
        ({"total_tokens": 0}, ["content"]),
        ({"total_tokens": 3}, ["content", "usage"]),
        (3, None),
    ],
)
def test_of_cumulative_usage_the_last_counts(usage: Any, keys: list[str] | None) -> None:
    effect = ChatAggregator().add(chunk(TEXT, usage=usage))
    assert effect is CHANGED if keys is None else [key for key, _ in effect or SAME] == keys


def test_usage_of_a_choice_is_a_change() -> None:
    assert ChatAggregator().add(chunk(TEXT | {"usage": {"total_tokens": 3}})) is CHANGED


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
