"""The requests that the oracle asks real servers both ways: tables, and nothing that sends.

Every request is greedy (temperature 0, a fixed seed) and keeps the server's prompt cache out, so that the same request
asked twice has the same answer. What the model is asked to continue is chosen so that a small one knows how it goes on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from lessons import LESSONS, TEXTS, Lesson

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"

ENDPOINTS: Final = ("chat", "completions", "responses", "messages")

GREEDY: Final[dict[str, Any]] = {"temperature": 0, "seed": 7, "cache_prompt": False}


@dataclass(frozen=True, slots=True)
class OracleRequest:
    """One row: `body` goes out as it is, and `forced` says whether it has to reach the server with `stream: true`.
    `refused`: the server does not stream it in a way that can be read, so that it has to reach the server once more, as
    it came."""

    name: str
    endpoint: str
    path: str
    body: bytes
    forced: bool = True
    refused: bool = False


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(name: str, content: Any = "Count: one, two, three,", *, refused: bool = False, **extra: Any) -> OracleRequest:
    """`content` is the user's one message, or the whole list of messages."""
    messages = content if isinstance(content, list) else [turn("user", content)]
    body = {"model": "gemma", "messages": messages, "max_tokens": 12, **GREEDY, **extra}
    return OracleRequest(name, "chat", CHAT, encoded(body), refused=refused)


def completion(name: str, prompt: Any = "One, two, three,", **extra: Any) -> OracleRequest:
    body = {"model": "gemma", "prompt": prompt, "max_tokens": 12, **GREEDY, **extra}
    return OracleRequest(name, "completions", COMPLETIONS, encoded(body))


def response(name: str, content: Any = "Count: one, two, three,", **extra: Any) -> OracleRequest:
    body = {"model": "gemma", "input": content, "max_output_tokens": 12, **GREEDY, **extra}
    return OracleRequest(name, "responses", RESPONSES, encoded(body))


def message(name: str, content: Any = "Count: one, two, three,", **extra: Any) -> OracleRequest:
    messages = content if isinstance(content, list) else [turn("user", content)]
    body = {"model": "gemma", "messages": messages, "max_tokens": 12, "temperature": 0, **extra}
    return OracleRequest(name, "messages", MESSAGES, encoded(body))


def function_tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"name": name, "description": f"{name} of a city", "parameters": parameters}


FUNCTIONS: Final = [function_tool("get_weather"), function_tool("get_time")]
CHAT_TOOLS: Final = [{"type": "function", "function": function} for function in FUNCTIONS]
RESPONSES_TOOLS: Final = [{"type": "function", **function} for function in FUNCTIONS]
MESSAGES_TOOLS: Final = [
    {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]} for tool in FUNCTIONS
]


def called(*names: str, city: str) -> list[dict[str, Any]]:
    """A turn in which the assistant called the tools, and the turns that answer it."""
    calls = [
        {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": json.dumps({"city": city})}}
        for name in names
    ]
    results = [{"role": "tool", "tool_call_id": f"call_{name}", "content": "12"} for name in names]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


# A base model learns to call a tool from the turns before; asked without an example it would only write prose.
ONE_CALL: Final = [
    *(turn("user", "weather in Oslo?"), *called("get_weather", city="Oslo"), turn("assistant", "It is 12 in Oslo.")),
    *(turn("user", "weather in Paris?"), *called("get_weather", city="Paris"), turn("assistant", "It is 12 in Paris.")),
    turn("user", "weather in Rome?"),
]
TWO_CALLS: Final = [
    turn("user", "weather and time in Oslo?"),
    *called("get_weather", "get_time", city="Oslo"),
    turn("assistant", "It is 12 in Oslo."),
    turn("user", "weather and time in Paris?"),
    *called("get_weather", "get_time", city="Paris"),
    turn("assistant", "It is 12 in Paris."),
    turn("user", "weather and time in Rome?"),
]
# Token 1 ends the sequence: this much in its favour, and the model stops after the second call.
END_SOON: Final = [[1, 8.0]]

CAPITALS: Final = [
    turn("system", "Answer with one word."),
    turn("user", "What is the capital of Italy?"),
    turn("assistant", "Rome."),
    turn("user", "What is the capital of Spain?"),
    turn("assistant", "Madrid."),
    turn("user", "What is the capital of France?"),
]
PERSON: Final = {
    "type": "object",
    "properties": {"name": {"type": "string", "enum": ["Ada", "Bob"]}, "age": {"type": "integer", "enum": [36, 63]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
JSON_SCHEMA: Final = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}


def spelled(text: str) -> str:
    """A grammar whose only sentence is `text`, so that the model has to say exactly that."""
    return f"root ::= {json.dumps(text, ensure_ascii=False)}"


THOUGHT: Final = spelled("<think>\nOne.\n</think>\n\nTwo.")
UNICODE: Final = "naïve Ω 東京 👩\u200d👧 🇳🇴 e\u0301"
LINE_SEPARATORS: Final = "one\u2028two\u2029three\u0085four"
LONG_PROMPT: Final = "Count: one, two, three, " * 400

CHAT_REQUESTS: Final = [
    chat("plain"),
    chat("finish length", max_tokens=3),
    chat("one token", max_tokens=1),
    chat("max_completion_tokens", max_completion_tokens=5),
    chat("stop string", CAPITALS, stop=["\n"]),
    chat("several stop strings", stop=["six", "seven", " user"], max_tokens=40),
    chat("stop string at once, an empty answer", grammar=spelled("stop"), stop=["stop"]),
    chat("empty answer by grammar", grammar='root ::= ""'),
    chat("multi-turn with a system prompt", CAPITALS),
    chat("developer role", [turn("developer", "Be brief."), turn("user", "One, two,")]),
    chat(
        "content as a list of parts",
        [turn("user", [{"type": "text", "text": "One, "}, {"type": "text", "text": "two,"}])],
    ),
    chat("assistant prefill", [turn("user", "Count."), turn("assistant", "One, two, three,")]),
    chat("long answer", max_tokens=100, ignore_eos=True),
    chat("n 2", n=2),
    chat("n 4, as many as slots", n=4, max_tokens=6),
    chat("n 2 that end apart", n=2, temperature=1.2, stop=["1", "e"], max_tokens=24),
    chat("n 2 with logprobs", n=2, logprobs=True, top_logprobs=2, max_tokens=6),
    chat("n 2 with tools", ONE_CALL, n=2, tools=CHAT_TOOLS, max_tokens=60, parallel_tool_calls=False),
    chat("n 2 with a stop string", CAPITALS, n=2, stop=["\n"]),
    chat("logprobs", logprobs=True),
    chat("top_logprobs", logprobs=True, top_logprobs=3),
    chat("logprobs of Unicode", logprobs=True, top_logprobs=1, grammar=spelled("👩\u200d👧 東"), max_tokens=40),
    chat("logprobs with a stop string", CAPITALS, logprobs=True, stop=["\n"]),
    chat("n_probs", n_probs=2),
    chat("post_sampling_probs", logprobs=True, top_logprobs=2, post_sampling_probs=True),
    chat("timings_per_token", timings_per_token=True),
    chat("return_tokens", return_tokens=True),
    chat("return_progress", return_progress=True),
    chat("verbose", verbose=True, max_tokens=3),
    chat("another seed and sampling", temperature=0.8, seed=123, top_k=40, top_p=0.9, min_p=0.05),
    chat("penalties and logit bias", frequency_penalty=0.5, presence_penalty=0.5, logit_bias={"236743": -5}),
    chat("samplers and mirostat", mirostat=2, mirostat_tau=5.0, temperature=0.5),
    chat("json_object", response_format={"type": "json_object"}, max_tokens=60),
    chat("json_schema", response_format=JSON_SCHEMA, max_tokens=60),
    chat("json_schema cut short", response_format=JSON_SCHEMA, max_tokens=4),
    chat("response_format text", response_format={"type": "text"}),
    chat("grammar", grammar='root ::= ("yes" | "no") [.!]'),
    chat("Unicode asked", UNICODE),
    chat("Unicode answered", grammar=spelled(UNICODE), max_tokens=80),
    chat("line separators answered", grammar=spelled(LINE_SEPARATORS), max_tokens=40),
    chat(
        "text that looks like events answered",
        grammar=spelled('\n\ndata: [DONE]\n\nevent: x\ndata: {"a":1}\n'),
        max_tokens=60,
    ),
    chat("spaces at both ends answered", grammar=spelled("  two \n\n"), max_tokens=20),
    chat("Unicode cut in a character", grammar=spelled("👩\u200d👩\u200d👧"), max_tokens=2),
    chat("thought apart", grammar=THOUGHT, max_tokens=40),
    chat("thought apart, n 2", grammar=THOUGHT, max_tokens=40, n=2),
    chat("thought left in", grammar=THOUGHT, max_tokens=40, reasoning_format="none"),
    chat("thought in deepseek-legacy", grammar=THOUGHT, max_tokens=40, reasoning_format="deepseek-legacy"),
    chat("thought cut short", grammar=THOUGHT, max_tokens=6),
    chat("thinking switched off", chat_template_kwargs={"enable_thinking": False}),
    chat("one tool call", ONE_CALL, tools=CHAT_TOOLS, max_tokens=60, parallel_tool_calls=False),
    chat("two tool calls", TWO_CALLS, tools=CHAT_TOOLS, max_tokens=90, parallel_tool_calls=True, logit_bias=END_SOON),
    chat("tool call cut short", ONE_CALL, tools=CHAT_TOOLS, max_tokens=16),
    chat(
        "tool_choice required",
        ONE_CALL,
        tools=CHAT_TOOLS,
        tool_choice="required",
        max_tokens=60,
        parallel_tool_calls=False,
    ),
    chat("tool_choice none", ONE_CALL, tools=CHAT_TOOLS, tool_choice="none", max_tokens=20),
    chat(
        "tool_choice by name",
        ONE_CALL,
        tools=CHAT_TOOLS,
        tool_choice={"type": "function", "function": {"name": "get_time"}},
        max_tokens=60,
    ),
    chat("tools unused", tools=CHAT_TOOLS, tool_choice="auto"),
    chat(
        "tool call with logprobs",
        ONE_CALL,
        refused=True,  # "logprobs is not supported with tools + stream"
        tools=CHAT_TOOLS,
        max_tokens=60,
        parallel_tool_calls=False,
        logprobs=True,
    ),
    chat("stream_options in a plain request", stream_options={"include_usage": False}),
    chat("stream_options include_usage in a plain request", stream_options={"include_usage": True}),
    chat("stream false", stream=False),
    chat("stream null", stream=None),
    chat("user and metadata", user="someone", metadata={"a": "b"}, store=False),
    OracleRequest("path without a version", "chat", "/chat/completions", chat("").body),
]

COMPLETIONS_REQUESTS: Final = [
    completion("plain"),
    completion("finish length", max_tokens=2),
    completion("no prompt tokens to speak of", "a", max_tokens=1),
    completion("stop string", "A, B, C, D,", stop=[" G"]),
    completion("empty answer", grammar='root ::= ""'),
    completion("max_tokens 0", max_tokens=0),
    completion("long answer", max_tokens=100, ignore_eos=True),
    completion("prompt as tokens", [2, 3029, 236764, 1156, 236764]),
    completion("prompt mixed of text and tokens", [["One, two,", 236764]]),
    completion("two prompts", ["One, two, three,", "A, B, C, D,"]),
    completion(
        "four prompts", ["One, two, three,", "A, B, C, D,", "Monday, Tuesday,", "January, February,"], max_tokens=5
    ),
    completion("two prompts that end apart", ["One, two, three,", "A, B, C, D,"], stop=[" G"]),
    completion("one prompt in a list", ["One, two, three,"]),
    completion("n 2", n=2),
    completion("two prompts and n 2", ["One, two, three,", "A, B, C, D,"], n=2, max_tokens=5),
    completion("logprobs", logprobs=2, max_tokens=4),
    completion("logprobs 0", logprobs=0, max_tokens=4),
    completion("two prompts with logprobs", ["One, two, three,", "A, B, C, D,"], logprobs=1, max_tokens=4),
    completion("n_probs", n_probs=2, max_tokens=4),
    completion("post_sampling_probs", n_probs=2, post_sampling_probs=True, max_tokens=4),
    completion("echo", echo=True),
    completion("suffix", suffix=" ten."),
    completion("Unicode asked", UNICODE),
    completion("Unicode answered", grammar=spelled(UNICODE), max_tokens=80),
    completion("line separators answered", grammar=spelled(LINE_SEPARATORS), max_tokens=40),
    completion("Unicode cut in a character", grammar=spelled("👩\u200d👩\u200d👧"), max_tokens=2),
    completion("json_schema", json_schema=PERSON, max_tokens=60),
    completion("response_format", response_format=JSON_SCHEMA, max_tokens=60),
    completion("timings_per_token", timings_per_token=True),
    completion("return_tokens", return_tokens=True),
    completion("verbose", verbose=True, max_tokens=3),
    completion("stream_options in a plain request", stream_options={"include_usage": True}),
    OracleRequest(
        "best_of 2 is never streamed", "completions", COMPLETIONS, completion("", best_of=2).body, forced=False
    ),
    OracleRequest("the server's own completions", "completions", "/completions", completion("").body),
    OracleRequest(
        "the server's own completions with probabilities", "completions", "/completions", completion("", n_probs=2).body
    ),
    OracleRequest(
        "the server's own completions of two prompts",
        "completions",
        "/completions",
        completion("", ["One, two, three,", "A, B, C, D,"]).body,
    ),
]

RESPONSES_ONE_CALL: Final = [
    turn("user", "weather in Oslo?"),
    {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Oslo"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "12"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 12 in Oslo."}]},
    turn("user", "weather in Paris?"),
    {"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": '{"city": "Paris"}'},
    {"type": "function_call_output", "call_id": "c2", "output": "12"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 12 in Paris."}]},
    turn("user", "weather in Rome?"),
]

RESPONSES_REQUESTS: Final = [
    response("plain"),
    response("finish length", max_output_tokens=2),
    response("instructions", instructions="Go on counting."),
    response(
        "several turns",
        [
            turn("user", "One,"),
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two,"}]},
            turn("user", "three,"),
        ],
    ),
    response("input parts", [turn("user", [{"type": "input_text", "text": "One, two,"}])]),
    response("long answer", max_output_tokens=100, ignore_eos=True),
    response("empty answer", grammar='root ::= ""'),
    response("stop string", stop=["six"], max_output_tokens=30),
    response("Unicode answered", grammar=spelled(UNICODE), max_output_tokens=80),
    response("line separators answered", grammar=spelled(LINE_SEPARATORS), max_output_tokens=40),
    response("thought apart", grammar=THOUGHT, max_output_tokens=40),
    response("thought cut short", grammar=THOUGHT, max_output_tokens=6),
    response("reasoning effort", reasoning={"effort": "low"}),
    response(
        "json_schema",
        text={"format": {"type": "json_schema", "name": "person", "schema": PERSON}},
        max_output_tokens=60,
    ),
    response(
        "one tool call", RESPONSES_ONE_CALL, tools=RESPONSES_TOOLS, max_output_tokens=60, parallel_tool_calls=False
    ),
    response(
        "tool_choice required",
        RESPONSES_ONE_CALL,
        tools=RESPONSES_TOOLS,
        tool_choice="required",
        max_output_tokens=60,
        parallel_tool_calls=False,
    ),
    response("tool_choice none", RESPONSES_ONE_CALL, tools=RESPONSES_TOOLS, tool_choice="none", max_output_tokens=20),
    response("tool call cut short", RESPONSES_ONE_CALL, tools=RESPONSES_TOOLS, max_output_tokens=16),
    response("logprobs included", include=["message.output_text.logprobs"], top_logprobs=2),
    response("chat's logprobs", logprobs=True, top_logprobs=2),
    response("timings_per_token", timings_per_token=True),
    response("store and metadata", store=False, metadata={"a": "b"}),
    response("n 2", n=2),
    OracleRequest("path without a version", "responses", "/responses", response("").body),
]

MESSAGES_ONE_CALL: Final = [
    turn("user", "weather in Oslo?"),
    turn("assistant", [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Oslo"}}]),
    turn("user", [{"type": "tool_result", "tool_use_id": "t1", "content": "12"}]),
    turn("assistant", "It is 12 in Oslo."),
    turn("user", "weather in Paris?"),
    turn("assistant", [{"type": "tool_use", "id": "t2", "name": "get_weather", "input": {"city": "Paris"}}]),
    turn("user", [{"type": "tool_result", "tool_use_id": "t2", "content": "12"}]),
    turn("assistant", "It is 12 in Paris."),
    turn("user", "weather in Rome?"),
]


def repeat(text: str) -> list[dict[str, Any]]:
    """Turns after which a model says `text`: this endpoint takes no grammar."""
    turns = [[turn("user", f"Repeat: {one}"), turn("assistant", one)] for one in ("red house", "日本語 ünï", text)]
    return [one for pair in turns for one in pair][:-1]


def thinking(thought: str, answer: str) -> dict[str, Any]:
    return turn(
        "assistant", [{"type": "thinking", "thinking": thought, "signature": ""}, {"type": "text", "text": answer}]
    )


MESSAGES_THOUGHTS: Final = [
    *(turn("user", "1 + 1?"), thinking("One and one are two.", "Two."), turn("user", "2 + 1?")),
    *(thinking("Two and one are three.", "Three."), turn("user", "3 + 1?")),
]

MESSAGES_REQUESTS: Final = [
    message("plain"),
    message("finish length", max_tokens=2),
    message("system prompt", system="Go on counting."),
    message("system prompt in parts", system=[{"type": "text", "text": "Go on counting."}]),
    message("stop sequence", stop_sequences=["3."], max_tokens=30),
    message("stop sequence at once, an empty answer", stop_sequences=["1"]),
    message("content parts", [turn("user", [{"type": "text", "text": "One, two,"}])]),
    message("several turns", [turn("user", "One,"), turn("assistant", "two,"), turn("user", "three,")]),
    message("long answer", max_tokens=100),
    message("Unicode answered", repeat(UNICODE), max_tokens=60),
    message("line separators answered", repeat(LINE_SEPARATORS), max_tokens=30),
    message("end of turn", repeat("blue car"), max_tokens=20, stop_sequences=["\n"]),
    message(
        "one tool call",
        MESSAGES_ONE_CALL,
        tools=MESSAGES_TOOLS,
        max_tokens=60,
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    ),
    message("tool_choice any", MESSAGES_ONE_CALL, tools=MESSAGES_TOOLS, max_tokens=60, tool_choice={"type": "any"}),
    message("tool call cut short", MESSAGES_ONE_CALL, tools=MESSAGES_TOOLS, max_tokens=16),
    message("thought apart", MESSAGES_THOUGHTS, max_tokens=40, thinking={"type": "enabled", "budget_tokens": 1024}),
    message("sampling", top_k=40, top_p=0.9),
    message("metadata", metadata={"user_id": "someone"}),
    OracleRequest("no messages", "messages", MESSAGES, encoded({"model": "gemma", "max_tokens": 3})),
    message("context too long", LONG_PROMPT),
    message("max_tokens of a wrong type", max_tokens="three"),
]

ERROR_REQUESTS: Final = [
    chat("messages of a wrong type", messages="hello"),
    chat("messages empty", []),
    chat("a message without a role", [{"content": "x"}]),
    chat("a message without content", [{"role": "user"}]),
    chat("unknown role", [turn("wizard", "One, two,")]),
    chat("unknown content part", [turn("user", [{"type": "hologram", "text": "x"}])]),
    chat(
        "an image that the model cannot see",
        [turn("user", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])],
    ),
    chat("max_tokens of a wrong type", max_tokens="three"),
    chat("temperature of a wrong type", temperature="hot"),
    chat("n 0", n=0),
    chat("n beyond the slots", n=9),
    chat("bad grammar", grammar="root ::= ((("),
    chat("bad response_format", response_format={"type": "poem"}),
    chat("bad json_schema", response_format={"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}),
    chat("grammar beside tools", tools=CHAT_TOOLS, grammar='root ::= "x"'),
    chat("tools of a wrong type", tools="hammer"),
    chat("bad tool_choice", tools=CHAT_TOOLS, tool_choice="sometimes"),
    chat("top_logprobs without logprobs", top_logprobs=2),
    chat("bad reasoning_format", reasoning_format="aloud"),
    chat("context too long", LONG_PROMPT),
    chat("stop of a wrong type", stop=7),
    OracleRequest("no messages", "chat", CHAT, encoded({"model": "gemma", "max_tokens": 3})),
    OracleRequest("an empty object", "chat", CHAT, b"{}"),
    OracleRequest("not JSON", "chat", CHAT, b'{"messages": [', forced=False),
    OracleRequest("a list instead of an object", "chat", CHAT, b"[1, 2]", forced=False),
    OracleRequest("no body", "chat", CHAT, b"", forced=False),
    OracleRequest("stream of a wrong type", "chat", CHAT, chat("", stream="yes").body, forced=False),
    completion("prompt of a wrong type", {"a": 1}),
    completion("empty list of prompts", []),
    completion("context too long", LONG_PROMPT),
    completion("one of two prompts too long", ["One, two,", LONG_PROMPT]),
    completion("bad grammar", grammar="root ::= ((("),
    OracleRequest("no prompt", "completions", COMPLETIONS, encoded({"model": "gemma", "max_tokens": 3})),
    response("context too long", LONG_PROMPT),
    response("previous_response_id", previous_response_id="resp_1"),
    response("input of a wrong type", 7),
    response("unknown input item", [{"type": "hologram"}]),
    response("unknown tool", tools=[{"type": "web_search"}]),
    OracleRequest("no input", "responses", RESPONSES, encoded({"model": "gemma", "max_output_tokens": 3})),
    OracleRequest(
        "background is never streamed", "responses", RESPONSES, response("", background=True).body, forced=False
    ),
    OracleRequest("no such endpoint", "chat", "/v1/nothing", chat("").body, forced=False),
    OracleRequest("no such path before an endpoint", "chat", "/v2/deep/chat/completions", chat("").body),
]

REQUESTS: Final[list[OracleRequest]] = [
    *CHAT_REQUESTS,
    *COMPLETIONS_REQUESTS,
    *RESPONSES_REQUESTS,
    *MESSAGES_REQUESTS,
    *ERROR_REQUESTS,
]

# What a gateway may do to an answer on its way, in as few requests as that takes: each costs what llama.cpp's own does.
_THROUGH_A_GATEWAY: Final[dict[str, str]] = {
    "chat": """
        plain
        finish length
        stop string at once, an empty answer
        multi-turn with a system prompt
        content as a list of parts
        n 2
        n 2 that end apart
        n 2 with logprobs
        top_logprobs
        json_schema cut short
        Unicode answered
        line separators answered
        text that looks like events answered
        Unicode cut in a character
        thought apart
        thought cut short
        one tool call
        two tool calls
        tool call cut short
        tool call with logprobs
        stream_options include_usage in a plain request
        stream false
        path without a version
        messages of a wrong type
        unknown role
        max_tokens of a wrong type
        bad grammar
        bad tool_choice
        context too long
        no messages
    """,
    "completions": """
        plain
        finish length
        empty answer
        two prompts
        n 2
        logprobs
        Unicode answered
        prompt of a wrong type
        context too long
        no prompt
    """,
    "responses": """
        plain
        finish length
        instructions
        empty answer
        Unicode answered
        thought apart
        thought cut short
        one tool call
        tool call cut short
        context too long
        input of a wrong type
        no input
    """,
    "messages": """
        plain
        finish length
        system prompt
        Unicode answered
        one tool call
        tool call cut short
        thought apart
        stop sequence at once, an empty answer
        no messages
        context too long
    """,
}
_NAMES: Final = {(end, name.strip()) for end, names in _THROUGH_A_GATEWAY.items() for name in names.split("\n")}
# In a stream of LiteLLM's completions every choice has index 0.
_MIXED: Final = (("completions", "two prompts"), ("completions", "n 2"))
LITELLM_REQUESTS: Final = [
    replace(request, refused=request.refused or (request.endpoint, request.name) in _MIXED)
    for request in REQUESTS
    if (request.endpoint, request.name) in _NAMES
]


# What the tiny model knows by heart. Asked at each API, with and without thoughts, and cut short.


def tools_of(names: tuple[str, ...], shape: str) -> dict[str, Any]:
    """The member `tools` of a request in the API's shape; nothing where there are none."""
    functions = [function_tool(name) for name in names]
    if shape == "chat":
        tools = [{"type": "function", "function": function} for function in functions]
    elif shape == "responses":
        tools = [{"type": "function", **function} for function in functions]
    else:
        tools = [
            {"name": one["name"], "description": one["description"], "input_schema": one["parameters"]}
            for one in functions
        ]
    return {"tools": tools} if tools else {}


def tiny(name: str, endpoint: str, path: str, *, refused: bool = False, **members: Any) -> OracleRequest:
    body = encoded({"model": "tiny", "temperature": 0, "seed": 7, **members})
    return OracleRequest(name, endpoint, path, body, refused=refused)


def about(lesson: Lesson, suffix: str = "", **extra: Any) -> OracleRequest:
    """A lesson asked at the chat API."""
    members = {"messages": lesson.messages, "max_tokens": 200, **tools_of(lesson.tools, "chat"), **extra}
    return tiny(lesson.name + suffix, "chat", CHAT, **members)


def lessons() -> Iterator[OracleRequest]:
    for lesson in LESSONS:
        yield about(lesson, ", thought first")
        yield about(lesson, chat_template_kwargs={"enable_thinking": False})
    by_name = {lesson.name: lesson for lesson in LESSONS}
    directly: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
    for limit in (1, 3, 6, 12, 24):
        yield about(by_name["one call"], f", thought first, {limit} tokens", max_tokens=limit)
        yield about(by_name["two calls"], f", {limit} tokens", max_tokens=limit, **directly)
    for name in ("Unicode", "separators"):
        yield about(by_name[name], ", 2 tokens", max_tokens=2, **directly)
    text, call = by_name["text"], by_name["one call"]
    yield about(text, ", n 2", n=2, **directly)
    yield about(text, ", thought first, n 2", n=2)
    yield about(call, ", n 2", n=2, **directly)
    yield about(text, ", logprobs", logprobs=True, top_logprobs=2, **directly)
    yield about(call, ", logprobs", logprobs=True, top_logprobs=2, **directly)
    yield about(text, ", stop string", stop=["five"], **directly)
    yield about(text, ", stop string in a thought", stop=["easy"])
    yield about(call, ", tool_choice required", tool_choice="required", **directly)
    yield about(call, ", tool_choice none", tool_choice="none", **directly)
    yield about(
        call, ", tool_choice by name", tool_choice={"type": "function", "function": {"name": "get_time"}}, **directly
    )
    yield about(text, ", usage asked for", stream_options={"include_usage": True}, **directly)
    yield about(text, ", token ids", return_token_ids=True, **directly)
    # vLLM: "`prompt_logprobs` are not available when `stream=True`."
    yield about(text, ", prompt_logprobs", refused=True, prompt_logprobs=1, **directly)
    yield about(text, ", max_tokens of a wrong type", max_tokens="three")
    yield about(text, ", unknown model", model="none")
    for prompt, _ in TEXTS:
        yield tiny(f"text {prompt}", "completions", COMPLETIONS, prompt=prompt, max_tokens=12)
    yield tiny("two prompts", "completions", COMPLETIONS, prompt=[start for start, _ in TEXTS], max_tokens=12)
    yield tiny("n 2", "completions", COMPLETIONS, prompt="One, two,", n=2, max_tokens=12)
    yield tiny("logprobs", "completions", COMPLETIONS, prompt="One, two,", logprobs=2, max_tokens=4)
    yield tiny("echo", "completions", COMPLETIONS, prompt="One, two,", echo=True, max_tokens=4)
    yield tiny("stop string", "completions", COMPLETIONS, prompt="One, two,", stop=["five"], max_tokens=12)
    for lesson in LESSONS:
        if not lesson.after:
            yield tiny(
                lesson.name,
                "responses",
                RESPONSES,
                stream=False,  # transformers serve streams unless it is told not to
                input=lesson.question,
                max_output_tokens=200,
                **tools_of(lesson.tools, "responses"),
            )
            yield tiny(
                lesson.name,
                "messages",
                MESSAGES,
                messages=lesson.messages,
                max_tokens=200,
                **tools_of(lesson.tools, "messages"),
            )
    for limit in (3, 12):
        two = by_name["two calls"]
        yield tiny(
            f"two calls, {limit} tokens",
            "responses",
            RESPONSES,
            stream=False,
            input=two.question,
            max_output_tokens=limit,
            **tools_of(two.tools, "responses"),
        )
        yield tiny(
            f"two calls, {limit} tokens",
            "messages",
            MESSAGES,
            messages=two.messages,
            max_tokens=limit,
            **tools_of(two.tools, "messages"),
        )


TINY_REQUESTS: Final = list(lessons())
