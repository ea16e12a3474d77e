"""Small streams, requests and rules that several test files share."""

import json
from typing import Any

from harness import Data, Head, Pause, sse

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"

# No request with this credential may leave a trace of it at the proxy.
SECRET = "sk-live-0123456789"

RULES = """\
rules:
  - name: not-forced
    hosts: ["*"]
    models: ["unforced"]
  - name: blue-team
    hosts: ["127.0.0.1"]
    models: ["filtered"]
    filter: "~hq x-team:.*blue"
    force_upstream_stream: true
  - name: elsewhere
    hosts: ["llm.elsewhere.test"]
    models: ["elsewhere"]
    force_upstream_stream: true
  - name: only-chat
    hosts: ["127.0.0.1"]
    endpoints: [chat]
    models: ["chatty"]
    paths: {"/custom/generate": chat}
    force_upstream_stream: true
  - name: without-options
    hosts: ["127.0.0.1"]
    models: ["bare"]
    stream_options: null
    force_upstream_stream: true
  - name: private-vllm
    hosts: ["127.0.0.1"]
    models: ["m"]
    force_upstream_stream: true
"""


def request(model: str = "m", **members: Any) -> dict[str, Any]:
    """A plain chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], **members}


def choice(index: int = 0, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish_reason}


def chunk(*choices: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A chat chunk."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m-1"}
    return head | {"choices": list(choices)} | members


WORDS = ["Graz", "is", "the", "second", "largest", "city", "of", "Austria", "and", "lies", "on", "the", "river", "Mur"]


def spoken(model: str, *between: Any) -> list[Any]:
    """The steps of an answer up to its last word: a chunk a word, as a model writes them. `between`: in its middle."""

    def event(**delta: Any) -> Data:
        return Data(sse(chunk(choice(**delta), model=model), done=False))

    steps = [Head(), Pause(0.3), event(role="assistant", content="")]
    for number, word in enumerate(WORDS):
        steps += [*(between if number == 8 else ()), Pause(0.04), event(content=f"{word} ")]
    return steps


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
EVENTS = (
    chunk(choice(role="assistant", content="")),
    chunk(choice(content="Hel")),
    chunk(choice(content="lo")),
    chunk(choice(finish_reason="stop")),
    chunk(usage=USAGE),
)
STREAM = sse(*EVENTS)
DOCUMENT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


def function_call(index: int, **members: Any) -> dict[str, Any]:
    """A piece of a chat tool call; `name` and `arguments` belong to its function."""
    function = {key: members.pop(key) for key in ("name", "arguments") if key in members}
    return {"index": index, **members, "function": function}


TOOL_STREAM = sse(
    chunk(choice(role="assistant", content=None)),
    chunk(choice(tool_calls=[function_call(0, id="call_1", type="function", name="weather", arguments="")])),
    chunk(choice(tool_calls=[function_call(0, arguments='{"city":')])),
    chunk(choice(tool_calls=[function_call(1, id="call_2", type="function", name="time", arguments="{}")])),
    chunk(choice(tool_calls=[function_call(0, arguments='"Graz"}')])),
    chunk(choice(finish_reason="tool_calls")),
    chunk(usage=USAGE),
)
TWO_CHOICES_STREAM = sse(
    chunk(choice(1, role="assistant", content="two")),
    chunk(choice(0, role="assistant", content="one")),
    chunk(choice(0, content=" and")),
    chunk(choice(1, finish_reason="stop")),
    chunk(choice(0, finish_reason="length")),
    chunk(usage=USAGE),
)


def text_chunk(text: str, finish_reason: str | None = None, **members: Any) -> dict[str, Any]:
    """A chunk of legacy completions."""
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "m-1"}
    return head | {"choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}]} | members


TEXT_STREAM = sse(
    text_chunk("Once"), text_chunk(" upon"), text_chunk("", "stop"), text_chunk("") | {"choices": [], "usage": USAGE}
)


def response_event(kind: str, number: int, **members: Any) -> bytes:
    """An event of the Responses API, with its name."""
    data = {"type": kind, "sequence_number": number, **members}
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


ITEM = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1700000000,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "m-1",
    "output": [ITEM],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    },
}
_BEGUN = RESPONSE | {"status": "in_progress", "output": [], "usage": None}
_PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
RESPONSE_STREAM = b"".join(
    (
        response_event("response.created", 0, response=_BEGUN),
        response_event(
            "response.output_item.added", 1, output_index=0, item=ITEM | {"content": [], "status": "in_progress"}
        ),
        response_event("response.output_text.delta", 2, **_PLACE, delta="Hel"),
        response_event("response.output_text.delta", 3, **_PLACE, delta="lo"),
        response_event("response.output_text.done", 4, **_PLACE, text="Hello"),
        response_event("response.output_item.done", 5, output_index=0, item=ITEM),
        response_event("response.completed", 6, response=RESPONSE),
    )
)


def failed_response(code: str) -> bytes:
    """A Responses stream that ends with `response.failed`."""
    failed = _BEGUN | {"status": "failed", "error": {"code": code, "message": "No."}}
    return response_event("response.created", 0, response=_BEGUN) + response_event(
        "response.failed", 1, response=failed
    )
