"""The independent reading must itself be able to fail: every mistake an aggregator can make, made once, and caught."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from oracle import independent
from oracle.independent import (
    Broken,
    Number,
    UpstreamError,
    Whole,
    example,
    judge,
    only_direct,
    outcome_of,
    parse,
    shape,
)


def sse(*events: Any, done: bool = True) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {text}\n\n" for text in [*texts, *(["[DONE]"] if done else [])]).encode()


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": more.pop("index", 0), "finish_reason": more.pop("finish_reason", None), **more.pop("choice", {})}
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": [choice | ({} if delta is None else {"delta": delta})],
        **more,
    }


def call(index: int | None, ident: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    function = ({} if name is None else {"name": name}) | {"arguments": arguments}
    piece = {"function": function} | ({} if ident is None else {"id": ident, "type": "function"})
    return {"tool_calls": [piece | ({} if index is None else {"index": index})]}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TEXT = sse(
    chunk({"role": "assistant", "content": ""}, obfuscation="x9"),
    chunk({"content": "Hel"}, system_fingerprint="fp"),
    chunk({"content": "lo"}),
    chunk({}, finish_reason="length"),
    {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [], "usage": USAGE},
)
TEXT_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "system_fingerprint": "fp",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "length"}],
    "usage": USAGE,
}
TOOLS = sse(
    chunk({"role": "assistant", "content": None}),
    chunk(call(0, "a", "one", "")),
    chunk(call(0, None, None, '{"x":')),
    chunk(call(1, "b", "two", "{}")),
    chunk(call(0, None, None, "1}")),
    chunk({}, finish_reason="tool_calls"),
    chunk({}, finish_reason="stop"),
)
TOOLS_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "one", "arguments": '{"x":1}'}},
                    {"id": "b", "type": "function", "function": {"name": "two", "arguments": "{}"}},
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
}
TWO = sse(
    chunk({"role": "assistant", "content": "B"}, index=1),
    chunk({"role": "assistant", "content": "A"}, index=0),
    chunk({}, index=1, finish_reason="stop"),
    chunk({}, index=0, finish_reason="stop"),
)
TWO_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"},
        {"index": 1, "message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"},
    ],
}
LOGPROB = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
RICH = sse(
    chunk(
        {"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "H", "index": 0}]},
        choice={"logprobs": {"content": [LOGPROB], "refusal": None}},
    ),
    chunk(
        {"reasoning": "m", "reasoning_details": [{"type": "reasoning.text", "text": "m", "index": 0}]},
        choice={"logprobs": {"content": [LOGPROB], "refusal": None}},
    ),
    chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "zz", "index": 0}]}),
    chunk({"refusal": "No"}, citations=["u"]),
    chunk({"refusal": "pe", "annotations": [{"type": "url_citation"}]}, citations=["u"]),
    chunk({"audio": {"id": "au", "data": "AAAA", "transcript": "la"}}),
    chunk({"audio": {"data": "BBBB", "transcript": "la", "expires_at": 9}}, finish_reason="stop"),
)
RICH_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "citations": ["u"],
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": "Nope",
                "reasoning": "Hmm",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "Hm", "index": 0},
                    {"type": "reasoning.encrypted", "data": "zz", "index": 0},
                ],
                "annotations": [{"type": "url_citation"}],
                "audio": {"id": "au", "data": "AAAABBBB", "transcript": "lala", "expires_at": 9},
            },
            "logprobs": {"content": [LOGPROB, LOGPROB], "refusal": None},
            "finish_reason": "stop",
        }
    ],
}
PARTS = sse(
    chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}),
    chunk(
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "b"}]}, {"type": "text", "text": "c"}]}
    ),
    chunk({"content": "d"}),
    chunk({"content": ""}, finish_reason="stop"),
)
PARTS_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "ab"}]},
                    {"type": "text", "text": "cd"},
                ],
            },
            "finish_reason": "stop",
        }
    ],
}
LEGACY = sse(
    {
        "id": "t",
        "object": "text_completion",
        "created": 7,
        "model": "m",
        "choices": [{"index": 1, "text": "x", "finish_reason": None}],
    },
    {
        "id": "t",
        "object": "text_completion",
        "created": 7,
        "model": "m",
        "choices": [
            {"index": 0, "text": "a", "finish_reason": None, "logprobs": {"tokens": ["a"], "text_offset": [0]}},
            {"index": 0, "text": "b", "finish_reason": "length", "logprobs": {"tokens": ["b"], "text_offset": [1]}},
            {"index": 1, "text": "y", "finish_reason": "stop"},
        ],
    },
)
LEGACY_ANSWER = {
    "id": "t",
    "object": "text_completion",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "text": "ab",
            "finish_reason": "length",
            "logprobs": {"tokens": ["a", "b"], "text_offset": [0, 1]},
        },
        {"index": 1, "text": "xy", "finish_reason": "stop"},
    ],
}


def item(number: int) -> dict[str, Any]:
    return {"id": f"i{number}", "type": "message", "content": [{"type": "output_text", "text": f"t{number}"}]}


RESPONSE = {"id": "r", "object": "response", "status": "completed", "output": [], "usage": {"total_tokens": 5}}
RESPONSES = sse(
    {"type": "response.created", "response": {"id": "r", "object": "response", "status": "in_progress", "output": []}},
    {"type": "response.output_item.done", "output_index": 1, "item": item(1)},
    {"type": "response.output_item.done", "output_index": 0, "item": item(0)},
    {"type": "response.completed", "response": RESPONSE, "copilot_usage": {"total_nano_aiu": 1}},
    done=False,
)
RESPONSES_ANSWER = RESPONSE | {"output": [item(0), item(1)], "copilot_usage": {"total_nano_aiu": 1}}
MESSAGES = sse(
    {
        "type": "message_start",
        "message": {"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
    done=False,
)
MESSAGES_ANSWER = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 3, "output_tokens": 9},
}

RIGHT = {
    "text": ("chat", TEXT, TEXT_ANSWER),
    "tools": ("chat", TOOLS, TOOLS_ANSWER),
    "two": ("chat", TWO, TWO_ANSWER),
    "rich": ("chat", RICH, RICH_ANSWER),
    "parts": ("chat", PARTS, PARTS_ANSWER),
    "legacy": ("completions", LEGACY, LEGACY_ANSWER),
    "responses": ("responses", RESPONSES, RESPONSES_ANSWER),
    "messages": ("anthropic", MESSAGES, MESSAGES_ANSWER),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_answer_has_no_difference(case: str) -> None:
    kind, stream, answer = RIGHT[case]
    assert judge(kind, stream, 200, answer) == []
    assert judge(kind, stream, 200, parse(json.dumps(answer))) == []


def at(tree: Any, path: str) -> tuple[Any, Any]:
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        tree = tree[step]
    return tree, last


def put(path: str, value: Any) -> Callable[[Any], None]:
    def change(answer: Any) -> None:
        holder, key = at(answer, path)
        holder[key] = value

    return change


def drop(path: str) -> Callable[[Any], None]:
    def change(answer: Any) -> None:
        holder, key = at(answer, path)
        del holder[key]

    return change


def turn(path: str) -> Callable[[Any], None]:
    def change(answer: Any) -> None:
        holder, key = at(answer, path)
        holder[key].reverse()

    return change


MESSAGE = "choices.0.message"
WRONG: dict[str, tuple[str, Callable[[Any], None]]] = {
    "a fragment lost": ("text", put(f"{MESSAGE}.content", "lo")),
    "a fragment twice": ("text", put(f"{MESSAGE}.content", "HelHello")),
    "fragments in the wrong order": ("text", put(f"{MESSAGE}.content", "loHel")),
    "content trimmed to null": ("text", put(f"{MESSAGE}.content", None)),
    "length turned into stop": ("text", put("choices.0.finish_reason", "stop")),
    "no finish reason": ("text", put("choices.0.finish_reason", None)),
    "usage lost": ("text", drop("usage")),
    "usage wrong": ("text", put("usage.total_tokens", 6)),
    "usage summed": ("text", put("usage", {key: 2 * value for key, value in USAGE.items()})),
    "the id doubled": ("text", put("id", "c1c1")),
    "the model lost": ("text", drop("model")),
    "the role doubled": ("text", put(f"{MESSAGE}.role", "assistantassistant")),
    "the chunk's object kept": ("text", put("object", "chat.completion.chunk")),
    "an unknown field lost": ("text", drop("system_fingerprint")),
    "a key invented at the top": ("text", put("warning", None)),
    "a key invented in the choice": ("text", put("choices.0.logprobs", None)),
    "a key invented in the message": ("text", put(f"{MESSAGE}.refusal", None)),
    "padding kept": ("text", put("obfuscation", "x9")),
    "the delta kept": ("text", put("choices.0.delta", {})),
    "a choice twice": ("text", lambda answer: answer["choices"].append(answer["choices"][0])),
    "no choice": ("text", put("choices", [])),
    "a number turned into another type": ("text", put("usage.total_tokens", "5")),
    "tool calls lost": ("tools", drop(f"{MESSAGE}.tool_calls")),
    "one tool call lost": ("tools", drop(f"{MESSAGE}.tool_calls.1")),
    "tool calls in the wrong order": ("tools", turn(f"{MESSAGE}.tool_calls")),
    "the index left in a tool call": ("tools", put(f"{MESSAGE}.tool_calls.0.index", 0)),
    "arguments of another call": ("tools", put(f"{MESSAGE}.tool_calls.1.function.arguments", "{}1}")),
    "arguments parsed and spelled anew": ("tools", put(f"{MESSAGE}.tool_calls.0.function.arguments", '{"x": 1}')),
    "a tool's name doubled": ("tools", put(f"{MESSAGE}.tool_calls.0.function.name", "oneone")),
    "a tool call's id lost": ("tools", drop(f"{MESSAGE}.tool_calls.0.id")),
    "a tool call's type doubled": ("tools", put(f"{MESSAGE}.tool_calls.0.type", "functionfunction")),
    "a later stop over tool_calls": ("tools", put("choices.0.finish_reason", "stop")),
    "null content turned into text": ("tools", put(f"{MESSAGE}.content", "")),
    "choices in order of arrival": ("two", turn("choices")),
    "choices merged": ("two", drop("choices.1")),
    "two choices' texts exchanged": ("two", put("choices.0.message.content", "B")),
    "logprobs of the first chunk only": ("rich", drop("choices.0.logprobs.content.1")),
    "logprobs lost": ("rich", drop("choices.0.logprobs")),
    "the refusal lost": ("rich", drop(f"{MESSAGE}.refusal")),
    "reasoning of the last delta only": ("rich", put(f"{MESSAGE}.reasoning", "m")),
    "reasoning details not merged": (
        "rich",
        lambda answer: answer["choices"][0]["message"]["reasoning_details"].append({"type": "reasoning.text"}),
    ),
    "two types of reasoning details merged": ("rich", put(f"{MESSAGE}.reasoning_details.0.data", "zz")),
    "the index taken from a reasoning detail": ("rich", drop(f"{MESSAGE}.reasoning_details.0.index")),
    "annotations lost": ("rich", put(f"{MESSAGE}.annotations", [])),
    "audio data of the last chunk only": ("rich", put(f"{MESSAGE}.audio.data", "BBBB")),
    "audio expiry lost": ("rich", drop(f"{MESSAGE}.audio.expires_at")),
    "citations repeated": ("rich", put("citations", ["u", "u", "u"])),
    "parts of one type left apart": ("parts", put(f"{MESSAGE}.content.1", {"type": "text", "text": "c"})),
    "parts flattened to text": ("parts", put(f"{MESSAGE}.content", "cd")),
    "a thought lost": ("parts", drop(f"{MESSAGE}.content.0")),
    "legacy text lost": ("legacy", put("choices.0.text", "b")),
    "legacy logprobs not joined": ("legacy", put("choices.0.logprobs.tokens", ["b"])),
    "legacy texts exchanged": ("legacy", put("choices.1.text", "ab")),
    "the chat object in a legacy answer": ("legacy", put("object", "chat.completion")),
    "an empty output left empty": ("responses", put("output", [])),
    "items in order of arrival": ("responses", turn("output")),
    "an item lost": ("responses", drop("output.0")),
    "an item twice": ("responses", lambda answer: answer["output"].append(item(1))),
    "the snapshot's status": ("responses", put("status", "in_progress")),
    "what stood beside the response lost": ("responses", drop("copilot_usage")),
    "the event wrapped": ("responses", put("response", {})),
    "a signature lost": ("messages", put("content.0.signature", "")),
    "input left as text": ("messages", put("content.1.input", '{"a": 1}')),
    "usage of the start only": ("messages", put("usage.output_tokens", 1)),
    "usage of the end only": ("messages", drop("usage.input_tokens")),
    "the stop reason lost": ("messages", drop("stop_reason")),
    "a content block lost": ("messages", drop("content.1")),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_answer_is_caught(mistake: str) -> None:
    case, spoil = WRONG[mistake]
    kind, stream, answer = RIGHT[case]
    spoiled = copy.deepcopy(answer)
    spoil(spoiled)
    assert spoiled != answer
    assert judge(kind, stream, 200, spoiled)


def own_error(code: str) -> dict[str, Any]:
    return {"error": {"message": "what happened", "type": "upstream_error", "param": None, "code": code}}


RATE = {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded", "param": None}
ERRORS = {
    "alone": ("chat", sse({"error": RATE}, done=False)),
    "in the middle": ("chat", sse(chunk({"content": "a"}), {"error": RATE})),
    "beside choices": ("chat", sse(chunk({"content": "a"}, finish_reason="stop", error=RATE))),
    "named by its event line": ("chat", b"event: error\ndata: " + json.dumps({"error": RATE}).encode() + b"\n\n"),
    "as a field of its own": ("chat", b"error: " + json.dumps({"error": RATE}).encode() + b"\n\n"),
    "response failed": ("responses", sse({"type": "response.failed", "response": {"error": RATE}}, done=False)),
    "typed": ("responses", sse({"type": "error", "sequence_number": 1} | RATE | {"type": "error"}, done=False)),
    "of a message": ("anthropic", sse({"type": "error", "error": RATE}, done=False)),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_event_must_become_an_error(case: str) -> None:
    kind, stream = ERRORS[case]
    said = RATE | ({"type": None} if case == "typed" else {})
    assert judge(kind, stream, 429, {"error": said}) == []
    assert judge(kind, stream, 429, {"error": {key: value for key, value in said.items() if key != "param"}})
    assert judge(kind, stream, 200, TEXT_ANSWER)
    assert judge(kind, stream, 502, {"error": said})
    assert judge(kind, stream, 429, {"error": {"message": "upstream error"}})
    assert judge(kind, stream, 429, {"error": said | {"message": "another"}})
    assert judge(kind, stream, 429, "slow down")


@pytest.mark.parametrize(
    ("error", "statuses"),
    [
        ({"message": "m", "code": 503}, {503}),
        ({"message": "m", "status_code": 400, "code": "tool_use_failed"}, {400}),
        ({"message": "m", "code": "invalid_api_key"}, {401}),
        ({"message": "m", "code": "invalid_prompt"}, {400}),
        ({"message": "m", "code": "what_is_this"}, {502}),
        ({"message": "m", "code": 200}, {502}),
        ("only words", {502}),
    ],
)
def test_the_status_is_the_one_the_error_names(error: Any, statuses: set[int]) -> None:
    outcome = outcome_of("chat", sse({"error": error}))
    assert isinstance(outcome, UpstreamError)
    assert outcome.statuses == statuses


BROKEN = {
    "stream_truncated": sse(chunk({"content": "a"}), done=False),
    "stream_empty": b": ping\n\n",
    "stream_malformed": b"<html>nginx</html>",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_stream_must_become_an_error(code: str) -> None:
    assert judge("chat", BROKEN[code], 502, own_error(code)) == []
    assert judge("chat", BROKEN[code], 200, TEXT_ANSWER)
    assert judge("chat", BROKEN[code], 502, own_error("upstream_unreachable"))
    assert judge("chat", BROKEN[code], 504, own_error(code))


def test_a_complete_stream_must_not_become_an_error() -> None:
    assert judge("chat", TEXT, 502, own_error("stream_truncated"))


def test_one_choice_without_its_end_is_a_truncated_stream() -> None:
    stream = sse(chunk({"content": "a"}, finish_reason="stop"), chunk({"content": "b"}, index=1), done=False)
    assert outcome_of("chat", stream) == Broken(("stream_truncated",))


def test_a_finish_reason_ends_a_stream_without_done() -> None:
    assert isinstance(outcome_of("chat", sse(chunk({"content": "a"}, finish_reason="stop"), done=False)), Whole)


@pytest.mark.parametrize("nothing", ["", "null", None])
def test_a_finish_reason_that_says_nothing_does_not_end_a_stream(nothing: Any) -> None:
    assert isinstance(outcome_of("chat", sse(chunk({"content": "a"}, finish_reason=nothing), done=False)), Broken)


def test_a_truncated_stream_may_be_asked_for_in_part() -> None:
    answer = json.loads(json.dumps(TEXT_ANSWER))
    del answer["usage"], answer["system_fingerprint"]
    answer["choices"][0]["message"]["content"] = "a"
    stream = BROKEN["stream_truncated"]
    assert judge("chat", stream, 200, answer, on_truncated="partial") == []
    answer["choices"][0]["finish_reason"] = "stop"
    assert judge("chat", stream, 200, answer, on_truncated="partial")


@pytest.mark.parametrize("spelling", ["1.0", "1e0", "10000000000000000000000001"])
def test_the_spelling_of_a_number_counts(spelling: str) -> None:
    stream = TEXT.replace(b'"total_tokens": 5', f'"total_tokens": {spelling}'.encode())
    answer = parse(json.dumps(TEXT_ANSWER))
    assert judge("chat", stream, 200, answer | {"usage": answer["usage"] | {"total_tokens": Number(spelling)}}) == []
    assert judge("chat", stream, 200, answer | {"usage": answer["usage"] | {"total_tokens": Number("1")}})


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_ends_change_nothing(ending: str) -> None:
    assert judge("chat", TEXT.replace(b"\n", ending.encode()), 200, TEXT_ANSWER) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\n\ndata", b"\ndata"),
        (b"data: {", b"data:{"),
        (b"data: {", b": ping\n\ndata: {"),
        (b"data: {", b"data: \n\ndata: {"),
        (b"data: {", b'data: {"type": "ping"}\n\ndata: {'),
        (b"data: {", b"data: : PROCESSING\n\ndata: {"),
        (b"data: [DONE]", b'data: [DONE]\n\ndata: {"choices": [{"index": 0, "delta": {"content": "late"}}]}'),
    ],
)
def test_framing_changes_nothing(before: bytes, after: bytes) -> None:
    assert before in TEXT
    assert judge("chat", TEXT.replace(before, after), 200, TEXT_ANSWER) == []


def calls(*deltas: dict[str, Any]) -> list[tuple[Any, ...]]:
    outcome = outcome_of("chat", sse(*[chunk(delta) for delta in deltas]))
    assert isinstance(outcome, Whole)
    made = example(outcome.document)["choices"][0]["message"].get("tool_calls") or []
    return [(one.get("id"), one["function"].get("name"), one["function"]["arguments"]) for one in made]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([call(0, "a", "f", "1"), call(0, "b", "f", "2")], [("a", "f", "1"), ("b", "f", "2")]),
        ([call(0, "a", "f", "1"), call(0, "a", "f", "2")], [("a", "f", "12")]),
        ([call(0, "a", "f", "1"), call(0, "b", "", "2")], [("a", "f", "12")]),
        ([call(0, "a", "ge", ""), call(0, None, "t", "1")], [("a", "get", "1")]),
        ([call(None, "a", "f", "1"), call(None, "b", "g", "2")], [("a", "f", "1"), ("b", "g", "2")]),
        ([call(None, "a", "f", "1"), call(None, None, None, "2")], [("a", "f", "12")]),
        (
            [call(None, "a", "f", "1"), call(None, "b", "g", "2"), call(None, "a", None, "3")],
            [("a", "f", "13"), ("b", "g", "2")],
        ),
        ([call(1, "b", "g", "2"), call(0, "a", "f", "1")], [("a", "f", "1"), ("b", "g", "2")]),
        ([call(3, "a", "f", "1")], [("a", "f", "1")]),
        ([call(0, None, None, "1")], []),
    ],
)
def test_fragments_find_their_tool_call(deltas: list[dict[str, Any]], expected: list[tuple[Any, ...]]) -> None:
    assert calls(*deltas) == expected


@pytest.mark.parametrize(
    ("reasons", "deltas", "expected"),
    [
        (["tool_calls", "stop"], [], "tool_calls"),
        (["stop", "tool_calls", None], [], "tool_calls"),
        (["length", "tool_calls"], [], "length"),
        (["content_filter", "stop"], [], "content_filter"),
        (["stop"], [call(0, "a", "f", "")], "stop"),
        ([None], [call(0, "a", "f", "")], "tool_calls"),
        ([""], [{"function_call": {"name": "f", "arguments": ""}}], "function_call"),
        (["null"], [{"content": "a"}], "stop"),
    ],
)
def test_the_more_telling_finish_reason_stays(reasons: list[Any], deltas: list[Any], expected: str) -> None:
    outcome = outcome_of("chat", sse(*map(chunk, deltas), *[chunk({}, finish_reason=reason) for reason in reasons]))
    assert isinstance(outcome, Whole)
    assert example(outcome.document)["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk({}, usage=USAGE), chunk({}, usage=None), chunk({}, usage={"total_tokens": 0}), chunk({}, usage={})],
        [chunk({}, usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}), chunk({}, usage=USAGE)],
        [chunk({}, choice={"usage": USAGE})],
        [chunk({}, x_groq={"usage": USAGE})],
    ],
)
def test_the_last_usage_that_says_something_is_at_the_top(chunks: list[dict[str, Any]]) -> None:
    outcome = outcome_of("chat", sse(*chunks))
    assert isinstance(outcome, Whole)
    document = independent.by_value(example(outcome.document))
    assert document["usage"] == USAGE
    assert "usage" not in document["choices"][0]
    assert "usage" not in document.get("x_groq", {})


@pytest.mark.parametrize(
    ("contents", "expected"), [([""], ""), ([None], None), ([], None), (["", "a", None], "a"), ([" a ", "\n"], " a \n")]
)
def test_content_said_as_nothing_stays_that_nothing(contents: list[Any], expected: Any) -> None:
    stream = sse(*[chunk({"content": content}) for content in contents], chunk({}, finish_reason="stop"))
    answer = json.loads(json.dumps(TEXT_ANSWER))
    del answer["usage"], answer["system_fingerprint"]
    answer["choices"][0] |= {"finish_reason": "stop", "message": {"role": "assistant", "content": expected}}
    assert judge("chat", stream, 200, answer) == []
    answer["choices"][0]["message"]["content"] = "other"
    assert judge("chat", stream, 200, answer)


def test_a_message_beside_deltas_is_not_added_to_them() -> None:
    pieces = [("He", "He"), ("llo", "Hello")]
    stream = sse(
        *[
            chunk({"content": said}, choice={"message": {"role": "assistant", "content": so_far}})
            for said, so_far in pieces
        ],
        chunk({}, finish_reason="length"),
    )
    assert (
        judge("chat", stream, 200, {k: v for k, v in TEXT_ANSWER.items() if k not in ("usage", "system_fingerprint")})
        == []
    )


def test_a_message_instead_of_deltas_is_the_answer() -> None:
    whole = chunk(choice={"message": {"role": "assistant", "content": "Hello"}}, finish_reason="length")
    answer = {k: v for k, v in TEXT_ANSWER.items() if k not in ("usage", "system_fingerprint")}
    assert judge("chat", sse(whole), 200, answer) == []


def test_an_incomplete_response_is_an_answer_and_only_the_first_end_counts() -> None:
    ends = [{"type": "response.incomplete", "response": RESPONSE | {"output": [item(n)]}} for n in (0, 1)]
    assert judge("responses", sse(*ends, done=False), 200, RESPONSE | {"output": [item(0)]}) == []
    assert judge("responses", sse(*ends, done=False), 200, RESPONSE | {"output": [item(1)]})


def test_output_is_rebuilt_from_deltas_where_no_item_came() -> None:
    deltas = [{"type": "response.output_text.delta", "delta": text} for text in ("Hel", "lo")]
    stream = sse(*deltas, {"type": "response.completed", "response": RESPONSE}, done=False)
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
    assert judge("responses", stream, 200, RESPONSE | {"output": [message]}) == []
    assert judge("responses", stream, 200, RESPONSE | {"output": []})
    assert judge("responses", stream, 200, RESPONSE | {"output": [message, message]})


def test_a_json_body_goes_through_as_it_is() -> None:
    body = json.dumps(TEXT_ANSWER).encode()
    assert judge("chat", body, 200, TEXT_ANSWER) == []
    assert judge("chat", body, 200, TEXT_ANSWER | {"id": "another"})


def test_the_shape_of_a_document_is_its_paths_and_types() -> None:
    assert shape({"a": [{"b": 1}, {"b": None}], "c": True}) == {
        "": {"object"},
        "a": {"array"},
        "a[]": {"object"},
        "a[].b": {"number", "null"},
        "c": {"boolean"},
    }


def test_a_key_that_only_the_direct_answer_has_is_reported_once_and_not_its_children() -> None:
    assert only_direct({"a": {}}, {"a": {"b": {"c": 1}}}) == {"a.b": {"object"}}
    assert independent.missing_keys("nobody", {"a": {}}, {"a": {"b": None}}) == [
        "a.b: null in the direct answer, not in ours"
    ]
    assert independent.missing_keys("groq", {}, {"usage_breakdown": None}) == []
    assert independent.missing_keys("groq", {}, {"usage_breakdown": 1}, sse({"usage_breakdown": 1}))
    assert independent.other_types({"a": 1, "b": None}, {"a": "1", "b": 2}) == ["a: {'number'} here, {'string'} there"]


def test_chat_chunks_under_a_completions_path_are_a_chat_answer() -> None:
    assert judge("completions", TEXT, 200, TEXT_ANSWER) == []
    legacy = TEXT_ANSWER | {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "", "finish_reason": "length"}],
    }
    assert judge("completions", TEXT, 200, legacy)


def test_arguments_that_were_only_null_are_an_empty_text() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": None}}
    stream = sse(chunk({"tool_calls": [call]}), chunk({}, finish_reason="tool_calls"))
    head = {k: v for k, v in TEXT_ANSWER.items() if k not in ("usage", "system_fingerprint")}

    def answer(arguments: Any) -> dict[str, Any]:
        calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        return head | {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    assert judge("chat", stream, 200, answer("")) == []
    assert judge("chat", stream, 200, answer(None))
    assert judge("chat", stream, 200, answer("{}"))


def test_an_image_that_is_there_is_completed() -> None:
    call = {"type": "image_generation_call", "id": "ig", "status": "generating", "result": "aW1n"}
    stream = sse({"type": "response.completed", "response": RESPONSE | {"output": [call]}}, done=False)
    assert judge("responses", stream, 200, RESPONSE | {"output": [call | {"status": "completed"}]}) == []
    assert judge("responses", stream, 200, RESPONSE | {"output": [call]})
    unmade = RESPONSE | {"output": [call | {"result": None}]}
    assert judge("responses", sse({"type": "response.completed", "response": unmade}, done=False), 200, unmade) == []


def message_of(*blocks: dict[str, Any]) -> bytes:
    start = {"type": "message_start", "message": {"id": "m", "content": []}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    return sse(start, *blocks, end, {"type": "message_stop"}, done=False)


def message_with(*content: dict[str, Any]) -> dict[str, Any]:
    return {"id": "m", "type": "message", "role": "assistant", "content": [*content], "stop_reason": "end_turn"}


def test_an_index_used_again_after_its_stop_is_another_block() -> None:
    text = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    stop = {"type": "content_block_stop", "index": 0}
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}} for t in "ab"]
    a, b = ({"type": "text", "text": t} for t in "ab")
    both = message_of(text, deltas[0], stop, text, deltas[1], stop)
    assert judge("anthropic", both, 200, message_with(a, b)) == []
    assert judge("anthropic", both, 200, message_with({"type": "text", "text": "ab"}))
    one = message_of(text, *deltas, stop)
    assert judge("anthropic", one, 200, message_with({"type": "text", "text": "ab"})) == []


def test_a_block_that_was_not_announced_is_of_its_deltas_type() -> None:
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}
    stream = message_of(delta)
    assert judge("anthropic", stream, 200, message_with({"type": "thinking", "thinking": "hm"})) == []
    assert judge("anthropic", stream, 200, message_with())


def test_a_call_without_input_has_an_empty_one() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f"}
    stream = message_of({"type": "content_block_start", "index": 0, "content_block": call})
    assert judge("anthropic", stream, 200, message_with(call | {"input": {}})) == []
    assert judge("anthropic", stream, 200, message_with(call))
