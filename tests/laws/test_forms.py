"""Merging chunks by their form changes nothing: the answer is always that of reading each as if it were the first."""

import json
import re
from typing import Any

import pytest
from force_stream.answer import patterns
from force_stream.answer.reader import AnswerSpec
from harness.merging import ByForm, Never
from hypothesis import given
from hypothesis import strategies as st


def chunk(delta: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]} | more


def typed(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


def with_message(**members: Any) -> dict[str, Any]:
    """A chunk of Perplexity's: its choice has the message so far beside the delta."""
    made = chunk({"content": "a"}, usage=COUNTS)
    made["choices"][0]["message"] = {"role": "assistant", "content": "aa", **members}
    return made


COUNTS = {"total_tokens": 3}
CALL = {"index": 0, "function": {"arguments": '{"a":1}'}}
DETAIL = {"type": "reasoning.text", "text": "a", "index": 0, "format": "x"}
ADDRESS = {"item_id": "i", "output_index": 0, "content_index": 0}
# What streams begin with, and chunks that come again and again.
STREAMS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "chat": (
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"tool_calls": [{"id": "a", "index": 0, "function": {"name": "f", "arguments": ""}}]}),
        ],
        [
            chunk({"content": "a"}),
            chunk({"content": "a", "annotations": [1], "obfuscation": "x"}, usage=COUNTS, novel={"a": 1}),
            chunk({"role": "assistant", "reasoning": "a", "reasoning_details": [DETAIL]}, provider="x"),
            chunk({"tool_calls": [CALL]}, service_tier="x", system_fingerprint="y"),
            chunk({"tool_calls": [{**CALL, "id": "a", "type": "function"}]}),
            with_message(),
            with_message(refusal="b", tool_calls=[CALL]),
        ],
    ),
    "completions": ([], [{"model": "m", "choices": [{"text": "a", "index": 0, "logprobs": None}], "usage": None}]),
    "responses": (
        [typed("response.created", response={"id": "r"})],
        [
            typed("response.output_text.delta", delta="a", sequence_number=1, **ADDRESS),
            typed("response.output_text.done", text="a", **ADDRESS),
            typed("response.function_call_arguments.delta", delta="{}", item_id="i", output_index=1),
            typed("response.reasoning_summary_text.delta", delta="a", item_id="j", output_index=0, summary_index=0),
            typed("response.output_item.added", output_index=0, item={"type": "message", "id": "i", "content": []}),
        ],
    ),
    "messages": (
        [
            typed("message_start", message={"id": "m", "content": []}),
            typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ],
        [
            typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"}),
            typed("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "a"}),
            typed("content_block_stop", index=0),
            typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1}),
        ],
    ),
}  # fmt: skip
ODD: list[Any] = [None, "", "a", "b", "i", "stop", "tool", "\ufffd", "{}", 0, 1, 2, -1, 0.0, 1.0, True, False]
ODD += [[], {}, [{}], [[]], {"error": {"message": "no"}}, {"a": 1}, {"index": 0}, COUNTS, 10**20]


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values like this one: mostly itself in each of its places."""
    if isinstance(value, dict):
        same: st.SearchStrategy[Any] = st.fixed_dictionaries({key: like(item) for key, item in value.items()})
    elif isinstance(value, list):
        same = st.tuples(*map(like, value)).map(list)
    else:
        same = st.just(value)
    return st.integers(0, 19).flatmap(lambda chance: same if chance else st.sampled_from(ODD))


def answer(body: bytes, way: type[patterns.Repeats], endpoint: str, *, whole: bool) -> tuple[Any, ...]:
    made = AnswerSpec(rule="r", endpoint=endpoint, on_truncated="partial").read(200, "text/event-stream")
    made._repeats = way(made._reader)
    states = []
    for event in [body] if whole else re.findall(rb".*\n\n", body):
        made.feed(event)
        states.append((made.ended, made.finished, made.early, made.done))
    return made.finish(), made.report, states


@pytest.mark.parametrize("endpoint", STREAMS)
@given(data=st.data(), whole=st.booleans())
def test_chunks_that_are_merged_by_their_form_become_the_same_answer(
    endpoint: str, data: st.DataObject, *, whole: bool
) -> None:
    begins, again = STREAMS[endpoint]
    said = data.draw(st.lists(st.sampled_from(again).flatmap(like), max_size=12))
    chunks = [*begins, *again, *said]
    body = b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in chunks) + b"data: [DONE]\n\n"
    assert answer(body, ByForm, endpoint, whole=whole) == answer(body, Never, endpoint, whole=whole)
