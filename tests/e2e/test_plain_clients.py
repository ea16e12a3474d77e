"""The clients that people use read the events of a plain answer whole: what each has in the end is the answer.

The SDKs' own accumulators must give the document again, to the last member; frameworks, which keep less of it, must
have what they are known to keep. The JavaScript clients are those of tests/sdks.
"""

import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Certs, Proxy, Upstream, document, openai_client
from harness.paths import ADDON, TESTS
from harness.samples import RESPONSE, USAGE
from harness.tools import lacks, needs_packages, needs_tool

RULES = 'rules: [{name: plain, hosts: ["127.0.0.1"], force_upstream_plain: true}]\n'
FOLDER = TESTS / "sdks"
SECONDS = 240  # for a client and all answers; the packages alone take seconds to load on a busy machine
TEXT = "Grüße aus Graz, der Stadt an der Mur 👩‍👩‍👧"
ARGUMENTS = {"city": "Graz", "days": 3}
CALLS = [
    {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": json.dumps(ARGUMENTS)}}
    for name in ("weather", "news")
]
TOKENS = [
    {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []} for text in ("Grüße", " aus")
]


def chat(*messages: dict[str, Any], finish: str = "stop", logprobs: Any = None) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": None, "refusal": None, **message},
            "logprobs": logprobs,
            "finish_reason": finish,
        }
        for index, message in enumerate(messages)
    ]
    head = {"id": "c1", "object": "chat.completion", "created": 7, "model": "m", "system_fingerprint": "fp_1"}
    return head | {"choices": choices, "usage": USAGE}


CHATS = {
    "text": chat({"content": TEXT}),
    "one call": chat({"tool_calls": CALLS[:1]}, finish="tool_calls"),
    "parallel calls": chat({"content": TEXT, "tool_calls": CALLS}, finish="tool_calls"),
    "reasoning": chat({"reasoning_content": "Hm. " * 20, "content": TEXT}),
    "refusal": chat({"refusal": "I cannot help with that, sorry."}),
    "logprobs": chat({"content": "Grüße aus"}, logprobs={"content": TOKENS, "refusal": None}),
    "two choices": chat({"content": TEXT}, {"content": TEXT[::-1]}),
}


def item(kind: str, **members: Any) -> dict[str, Any]:
    return {"id": f"{kind}_{len(members)}", "type": kind, "status": "completed", **members}


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return item("message", role="assistant", content=list(parts))


CITATION = {"type": "url_citation", "start_index": 0, "end_index": 9, "url": "https://graz.test/", "title": "Graz"}
OUTPUT = {"type": "output_text", "text": TEXT, "annotations": [CITATION], "logprobs": []}
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Hm. " * 20}, {"type": "summary_text", "text": "Yes."}],
    "encrypted_content": "c2ln",
}
FUNCTION_CALLS = [
    {
        "id": f"fc_{name}",
        "type": "function_call",
        "status": "completed",
        "name": name,
        "call_id": f"call_{name}",
        "arguments": json.dumps(ARGUMENTS),
    }
    for name in ("weather", "news")
]
SEARCH = item("web_search_call", action={"type": "search", "query": "Graz"})
RESPONSE_ANSWERS = {
    "text": RESPONSE | {"output": [message(OUTPUT | {"annotations": []})]},
    "parallel calls": RESPONSE | {"output": [REASONING, *FUNCTION_CALLS]},
    "search": RESPONSE | {"output": [REASONING, SEARCH, message(OUTPUT)]},
    "refusal": RESPONSE | {"output": [message({"type": "refusal", "refusal": "I cannot help with that, sorry."})]},
    "logprobs": RESPONSE | {"output": [message(OUTPUT | {"text": "Grüße aus", "annotations": [], "logprobs": TOKENS})]},
}
FOUND = {"type": "web_search_result", "url": "https://graz.test/", "title": "Graz", "encrypted_content": "x"}
CITED = {
    "type": "web_search_result_location",
    "cited_text": "Graz",
    "url": "https://graz.test/",
    "title": "Graz",
    "encrypted_index": "x",
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 1,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 2,
        "service_tier": "standard",
    },
}
THOUGHT = {"type": "thinking", "thinking": "Hm. " * 20, "signature": "c2ln"}
MESSAGES = {
    "text": MESSAGE | {"content": [{"type": "text", "text": TEXT}]},
    "parallel calls": MESSAGE
    | {
        "content": [THOUGHT]
        + [
            {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": ARGUMENTS}
            for name in ("weather", "news")
        ],
        "stop_reason": "tool_use",
    },
    "no input": MESSAGE | {"content": [{"type": "tool_use", "id": "toolu_1", "name": "news", "input": {}}]},
    "hidden thought": MESSAGE
    | {
        "content": [
            THOUGHT | {"thinking": ""},
            {"type": "redacted_thinking", "data": "eA=="},
            {"type": "text", "text": "Hi"},
        ]
    },
    "search": MESSAGE
    | {
        "content": [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Graz"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [FOUND]},
            {"type": "text", "text": TEXT, "citations": [CITED]},
        ]
    },
    "stop sequence": MESSAGE
    | {"content": [{"type": "text", "text": TEXT}], "stop_reason": "stop_sequence", "stop_sequence": "END"},
}
ANSWERS = {"chat": CHATS, "responses": RESPONSE_ANSWERS, "messages": MESSAGES, "compatible": CHATS}


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], upstream: Upstream, shared_rules: Callable[[str], Path]) -> Proxy:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    return shared_proxy(f"reverse:{upstream.url()}", scripts=[ADDON], options=options)


@pytest.fixture
def answer_all(upstream: Upstream) -> Callable[[dict[str, Any]], None]:
    """Answers each request with what its model is called."""
    return lambda answers: upstream.handle(lambda request: document(answers[request.json()["model"]]))


def holds(part: Any, whole: Any) -> bool:
    """Whether all that `part` says is in `whole`, which may have members that a client adds."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(holds(value, whole.get(key)) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(holds, part, whole))
    return bool(part == whole)


def assert_same(made: dict[str, Any], answers: dict[str, Any]) -> None:
    assert made.keys() == answers.keys()
    different = {name: (said, made[name]) for name, said in answers.items() if not holds(said, made[name])}
    assert not different


# JavaScript


def streamed(client: str, proxy: Proxy, models: list[str]) -> dict[str, Any]:
    """What a client of tests/sdks has made of each model's stream."""
    needs_packages(FOLDER)
    command = [needs_tool("node"), str(FOLDER / "clients.mjs"), client, f"{proxy.url}/v1", *models]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(models, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("client", ["openai chat", "openai responses", "anthropic messages"])
def test_the_accumulators_of_the_javascript_sdks_make_the_answer_again(
    proxy: Proxy, upstream: Upstream, answer_all: Callable[..., None], client: str
) -> None:
    # openai-node keeps only the last piece of a member that it does not know.
    answers = {name: answer for name, answer in ANSWERS[client.split()[1]].items() if name != "reasoning"}
    answer_all(answers)
    assert_same(streamed(client, proxy, list(answers)), answers)
    assert not any("stream" in request.json() for request in upstream.requests)


def finish(refusal: object, calls: list[Any]) -> str:
    return "content-filter" if refusal else "tool-calls" if calls else "stop"


def kept(answer: dict[str, Any], api: str) -> dict[str, Any]:
    """What a framework keeps of an answer; a refusal is a text to it."""
    if api == "responses":
        items = answer["output"]
        parts = [part for each in items if each["type"] == "message" for part in each["content"]]
        summary = [part["text"] for each in items if each["type"] == "reasoning" for part in each["summary"]]
        calls = [each for each in items if each["type"] == "function_call"]
        return {
            "text": "".join(part.get("text", part.get("refusal")) for part in parts),
            "reasoning": "".join(summary),
            "calls": [[call["call_id"], call["name"], json.loads(call["arguments"])] for call in calls],
            "finish": finish("refusal" in str(parts), calls),
            "usage": [3, 2],
        }
    said = answer["choices"][0]["message"]
    calls = said.get("tool_calls", [])
    return {
        "text": said["content"] or said["refusal"] or "",
        "reasoning": said.get("reasoning_content", "") if api == "compatible" else "",
        "calls": [[call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])] for call in calls],
        "finish": finish(said["refusal"], calls),
        "usage": [USAGE["prompt_tokens"], USAGE["completion_tokens"]],
    }


VERCEL = ("text", "reasoning", "calls", "finish", "usage")
LANGCHAIN = ("text", "calls", "usage")
FRAMEWORKS = {
    "ai chat": (VERCEL, ()),
    "ai responses": (VERCEL, ("search",)),  # whose tools it would have to offer
    "ai compatible": (VERCEL, ()),
    "langchain chat": (LANGCHAIN, ("refusal",)),
    "langchain responses": (LANGCHAIN, ("refusal", "search")),
}


@pytest.mark.parametrize("client", FRAMEWORKS)
def test_a_framework_has_all_that_it_keeps_of_an_answer(
    proxy: Proxy, answer_all: Callable[..., None], client: str
) -> None:
    (members, without), api = FRAMEWORKS[client], client.split()[1]
    answers = {name: answer for name, answer in ANSWERS[api].items() if name not in ("two choices", *without)}
    answer_all(answers)
    expected = {name: kept(answer, api) for name, answer in answers.items()}
    assert streamed(client, proxy, list(answers)) == {
        name: {key: value[key] for key in members} for name, value in expected.items()
    }


# Python


def test_openai_pythons_chat_stream_makes_the_answer_again(
    proxy: Proxy, answer_all: Callable[..., None], certs: Certs
) -> None:
    answer_all(CHATS)
    made = {}
    with openai_client(f"{proxy.url}/v1", certs) as client:
        for name in CHATS:
            asked = {"model": name, "messages": [], "n": 2, "stream_options": {"include_usage": True}}
            with client.chat.completions.stream(**asked) as stream:
                made[name] = stream.get_final_completion().to_dict()
    assert_same(made, CHATS)


def test_openai_pythons_response_stream_makes_the_answer_again(
    proxy: Proxy, answer_all: Callable[..., None], certs: Certs
) -> None:
    answer_all(RESPONSE_ANSWERS)
    made = {}
    with openai_client(f"{proxy.url}/v1", certs) as client:
        for name in RESPONSE_ANSWERS:
            with client.responses.stream(model=name, input="Hi") as stream:
                made[name] = stream.get_final_response().to_dict()
    assert_same(made, RESPONSE_ANSWERS)


def test_anthropics_python_stream_makes_the_answer_again(proxy: Proxy, answer_all: Callable[..., None]) -> None:
    try:
        anthropic: Any = importlib.import_module("anthropic")
    except ModuleNotFoundError:
        lacks("anthropic is not installed")
    answer_all(MESSAGES)
    made = {}
    with anthropic.Anthropic(base_url=proxy.url, api_key="sk-test-key", max_retries=0) as client:
        for name in MESSAGES:
            asked = {"model": name, "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
            with client.messages.stream(**asked) as stream:
                made[name] = stream.get_final_message().to_dict()
    assert_same(made, MESSAGES)
