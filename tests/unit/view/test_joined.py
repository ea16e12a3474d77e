"""What an event stream says, of each API: texts, reasoning, refusals and calls, also where it is cut off."""

from typing import Any

import pytest
from force_stream.view.joined import MOST_SAID, Said, joined, said_in
from harness import sse
from harness.samples import RESPONSE_STREAM, STREAM, TEXT_STREAM, choice, chunk, function_call


def call(name: str, passed: str) -> Said:
    return Said("call", passed, name)


def block(index: int, started: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": started},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
    ]


MESSAGE = [
    {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": []}},
    *block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm"}),
    *block(
        1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hel"}, {"type": "text_delta", "text": "lo"}
    ),
    *block(
        2,
        {"type": "tool_use", "id": "t", "name": "weather", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"city":'},
        {"type": "input_json_delta", "partial_json": '"Graz"}'},
    ),
]
ITEM = {"type": "response.output_item.added", "output_index": 0}


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        pytest.param("chat", STREAM, [Said("text", "Hello")], id="chat"),
        pytest.param("chat", STREAM[: STREAM.index(b"lo") + 3], [Said("text", "Hel")], id="chat, cut within an event"),
        pytest.param(
            "chat",
            sse(chunk(choice(content="a")), {"error": {"message": "Overloaded"}}, done=False),
            [Said("text", "a")],
            id="chat, then an error",
        ),
        pytest.param(
            "chat",
            sse(
                chunk(choice(reasoning_content="Hm", reasoning="Hm")),
                chunk(choice(content="a", refusal="No.")),
                chunk(choice(tool_calls=[function_call(0, name="f", arguments='{"a":')])),
                chunk(choice(tool_calls=[function_call(0, arguments="1")])),
                done=False,
            ),
            [Said("reasoning", "Hm"), Said("text", "a"), Said("refusal", "No."), call("f", '{"a":1')],
            id="chat with all of it, cut within the arguments",
        ),
        pytest.param(
            "chat",
            sse(
                chunk(choice(function_call={"name": "f", "arguments": "{}"})),
                chunk(choice(audio={"transcript": "said", "data": "AAAA"})),
            ),
            [Said("text", "said"), call("f", "{}")],
            id="chat's older function call, and audio",
        ),
        pytest.param(
            "chat",
            sse(chunk(choice(tool_calls=[{"index": 0, "type": "custom", "custom": {"name": "f", "input": "x"}}]))),
            [call("f", "x")],
            id="chat's custom tool",
        ),
        pytest.param(
            "chat",
            sse(chunk(choice(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]))),
            [Said("reasoning", "Hm")],
            id="Mistral's reasoning in parts",
        ),
        pytest.param(
            "chat",
            sse(chunk(choice(reasoning_details=[{"type": "reasoning.text", "text": "Hm", "index": 0}]))),
            [Said("reasoning", "Hm")],
            id="OpenRouter's details alone",
        ),
        pytest.param(
            "chat",
            sse(chunk(choice(content="a")), chunk(choice(1, content="b"))),
            [Said("text", "a", choice=0), Said("text", "b", choice=1)],
            id="two choices",
        ),
        pytest.param("completions", TEXT_STREAM, [Said("text", "Once upon")], id="completions"),
        pytest.param(
            "completions",
            sse({"content": "a", "stop": False}, {"content": "b", "stop": True}),
            [Said("text", "ab")],
            id="llama.cpp's own",
        ),
        pytest.param("responses", RESPONSE_STREAM, [Said("text", "Hello")], id="responses"),
        pytest.param(
            "responses",
            sse(
                ITEM | {"item": {"type": "reasoning", "id": "r"}},
                {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "Hm"},
                ITEM | {"output_index": 1, "item": {"type": "function_call", "id": "c", "name": "f", "arguments": ""}},
                {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"a"'},
                ITEM | {"output_index": 2, "item": {"type": "web_search_call", "id": "w", "action": {"query": "q"}}},
                ITEM | {"output_index": 3, "item": {"type": "message", "id": "m", "content": []}},
                {"type": "response.refusal.delta", "output_index": 3, "content_index": 0, "delta": "No."},
                done=False,
            ),
            [
                Said("reasoning", "Hm"),
                call("f", '{"a"'),
                call("web_search_call", '{"query":"q"}'),
                Said("refusal", "No."),
            ],
            id="responses, cut",
        ),
        pytest.param(
            "messages",
            sse(*MESSAGE, done=False),
            [Said("reasoning", "Hm"), Said("text", "Hello"), call("weather", '{"city":"Graz"}')],
            id="messages, cut",
        ),
        pytest.param(
            "messages",
            sse(*MESSAGE[:-1], done=False),
            [Said("reasoning", "Hm"), Said("text", "Hello"), call("weather", '{"city":')],
            id="messages, cut within the input",
        ),
        pytest.param(
            "transcriptions",
            sse({"type": "transcript.text.delta", "delta": "Hel"}, {"type": "transcript.text.delta", "delta": "lo"}),
            [Said("text", "Hello")],
            id="transcriptions",
        ),
        pytest.param("transcriptions", b"data: Hel\n\ndata: lo\n\n", [Said("text", "Hello")], id="plain texts"),
        pytest.param("chat", b"", [], id="nothing"),
        pytest.param("chat", b"data: oops\n\n<html>", [], id="no events"),
        pytest.param("chat", sse({"choices": [{"delta": {"content": 1}}]}), [Said("text", "1")], id="a number"),
        pytest.param("Gemini", STREAM, [], id="an API that is not known"),
        pytest.param("", STREAM, [], id="no API"),
    ],
)
def test_what_was_said_is_joined(endpoint: str, body: bytes, expected: list[Said]) -> None:
    assert joined(body, endpoint) == expected


@pytest.mark.parametrize(
    "document",
    [
        None, 1, "text", [], {}, [1], {"choices": [1, None, {"message": 1}]}, {"output": [1, {"type": 1}, [[[]]]]},
        {"content": {"type": None}}, {"choices": [{"message": {"tool_calls": [1, {"function": 2}, {"custom": {}}]}}]},
        {"choices": [{"message": {"tool_calls": {"a": 1}, "function_call": "f", "content": {"text": {"text": 1}}}}]},
    ],
    ids=repr,
)  # fmt: skip
def test_a_document_of_any_shape_harms_nothing(document: Any) -> None:
    assert all(isinstance(said, Said) for said in said_in(document))


def test_there_is_an_end_to_what_is_said() -> None:
    deep: Any = "a"
    for _ in range(500):
        deep = {"content": [deep]}
    assert said_in(deep) == []
    call_of = {"type": "tool_use", "name": "f", "input": {}}
    assert len(said_in({"content": [call_of] * (MOST_SAID + 100)})) == MOST_SAID
