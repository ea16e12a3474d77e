"""What upstreams say about streaming when they refuse a request, and the rule that is made of what was learned."""

import json
import time
from typing import Any

import pytest
from force_stream.proxy import refusals
from force_stream.proxy.refusals import LONGEST_ERROR, Demand, demand_of, rule_to_paste, scope_of
from force_stream.rules.file import parse_rules
from harness.hostile import HOSTILE, LONG
from harness.master import flow_with
from harness.paths import ROOT
from hypothesis import given
from hypothesis import strategies as st


def error(saying: str, **members: Any) -> bytes:
    return json.dumps({"error": {"message": saying, **members}}, ensure_ascii=False).encode()


def demands(body: bytes, status: int = 400) -> tuple[Demand | None, Demand | None]:
    """What it demands of a plain request, and of one that streams with options."""
    return (
        demand_of(status, body, streamed=False),
        demand_of(status, body, streamed=True, options=True),
    )


# The words, each with who says so

MUST_STREAM = {
    # DashScope (infiniflow/ragflow#5912), and its gateways
    "This model only support stream mode, please enable the stream parameter to access the model.",
    "<400> InternalError.Algo.InvalidParameter: This model only support stream mode, please enable the stream "
    "parameter to access the model. ",
    "400 This model only support stream mode, please enable the stream parameter to access the model.  (aiproxy: )",
    "this model only supports streaming mode",
    # DashScope, Qwen3 (infiniflow/ragflow#8972)
    "parameter.enable_thinking must be set to false for non-streaming calls",
    # ModelScope (musistudio/claude-code-router#948)
    "enable thinking can not be support when `stream=False`.",
    # the ChatGPT backend (leookun/cursor-byok#14)
    "Stream must be set to true",
    # Fireworks
    "Requests with max_tokens > 4096 must have stream=true",
    "model gpt-5 only support with stream=true",
    "only supports with stream=true",
    # iFlytek's and other gateways
    "Non-stream chat request is currently not supported.",
    # Anthropic's SDKs and gateways, for long answers
    "Streaming is required for operations that may take longer than 10 minutes. See "
    "https://github.com/anthropics/anthropic-sdk-python#long-requests for more details",
    "Streaming is strongly recommended for operations that may take longer than 10 minutes.",
    # canarybyte/veridrop#14
    "该模型当前仅支持流式调用，请设置 stream: true 后重试。",
    "non_streaming_not_allowed",
    # docs.auriko.ai, errors
    "non_streaming_not_supported",
    "Model requires streaming.",
    "The selected model only supports streaming responses.",
    # gateways in Chinese
    "gpt-4o 仅支持流式调用，请设置 stream=true",
    "不支持非流式",
    "该模型不支持非流式调用",
    "非流式请求暂不支持",
    "仅支持流式输出",
    "该模型只支持流式输出",
    "请使用流式输出",
    "必须使用流式模式",
    # other gateways
    "stream must be true",
    "Stream must be True",
    "`stream` must be true",
    "stream=true is required",
    "does not support non-streaming",
    "Non-streaming is not supported",
    "Non-Streaming is not supported yet",
    "Anthropic non-streaming is not supported in v1. Please set stream=true.",
    "NonStreamingNotSupported",
    "streaming_required",
    "Unsupported value: 'stream' does not support false with this model. Only the default (true) value is supported.",
    "This endpoint only supports streaming requests",
    "Only streaming is supported",
    "Streaming must be enabled",
    "stream=false is not supported",
    "stream: false is not supported for this model",
    "Please set stream to true",
    "You must set stream to true to use this model",
    "This model is only available in streaming mode",
    "non-streaming mode is disabled for this model",
    "Non-streaming requests are not allowed",
    "The request is too large for non-streaming; set stream=true",
    "max_tokens must be less than 8192 for non-streaming requests",
    "This is a stream-only model",
    "The thinking budget is too large; please use streaming",
    "This endpoint only answers with SSE",
}
CANNOT_STREAM = {
    # llama.cpp (ggml-org/llama.cpp#28478; simonw/llm-llama-server#3)
    "logprobs is not supported with tools + stream",
    "Cannot use tools with stream",
    # vLLM, entrypoints/openai
    "`prompt_logprobs` are not available when `stream=True`.",
    "Streaming is not yet supported with beam search",
    "Streaming is not currently supported with beam search",
    # OpenAI (danny-avila/LibreChat#6926, github/gh-models#31, animalnots/BetterChatGPT-PLUS#62)
    "Your organization must be verified to stream this model. Please go to: "
    "https://platform.openai.com/settings/organization/general and click on Verify Organization. If you just "
    "verified, it can take up to 15 minutes for access to propagate.",
    "Unsupported value: 'stream' does not support true with this model. Only the default (false) value is supported.",
    "Unsupported value: 'stream' does not support true with this model. Supported values are: false.",
    # Bedrock (earendil-works/pi#3739)
    "This model doesn't support tool use in streaming mode.",
    # Groq (langchain-ai/langchain#23629)
    "response_format` does not support streaming",
    # docs.auriko.ai, errors
    "streaming_not_supported",
    # gateways
    "streaming is not supported",
    "stream must be set to false",
    "Stream mode is not supported by this model",
    "This model does not support streaming",
    "selected model does not support streaming",
    "parallel_tool_calls:true is not supported with stream:true; use a buffered request",
    "imageGeneration is not supported with streaming; use query/generateText instead.",
    "Streaming not supported for compact responses",
    "StreamingNotSupported",
    "best_of must be 1 when stream is true: streaming is not supported with best_of > 1",
    "该模型不支持流式输出",
    "仅支持非流式调用",
    "Only non-streaming requests are supported",
    "Please use non-streaming mode",
    "stream=true is not supported",
    "Streaming is disabled for this deployment",
    "n > 1 is not supported when streaming",
    "Streaming tool calls are not supported",
    "Set `stream=false` to use this model.",
    "property 'stream' is unsupported",
    "Unrecognized request argument supplied: stream",
    "Model cannot be streamed",
    "JSON mode is not supported in streaming mode.",
    "You must be verified to use streaming",
    "Set stream: false or choose a model that supports streaming.",
}
REJECTS_OPTIONS = {
    # Azure (langchain-ai/langchain#23552, BerriAI/litellm#28553), one-api (QuantumNous/new-api#418)
    "Unrecognized request argument supplied: stream_options",
    "Unknown parameter: 'stream_options.include_usage'.",
    "Unknown parameter: 'stream_options'. (request id: 20240806214436917505976hvsFC5y2)",
    # Groq (vercel/ai#1578)
    "property 'stream_options' is unsupported, did you mean 'stream'?",
    # Azure, on your data (microsoft/semantic-kernel#10510)
    "Validation error at #/stream_options: Extra inputs are not permitted",
    # Bedrock behind LiteLLM (BerriAI/litellm#9916)
    "extraneous key [include_usage] is not permitted",
    "Unsupported parameter: 'stream_options' is not supported with this model.",
    # where a gateway removes `stream` and nothing else (BerriAI/litellm#5803); vLLM
    "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
    "Stream options can only be defined when `stream=True`.",
}
OTHERS = {
    "",
    "No.",
    "stream",
    "model not found",
    "stream must be true or false",
    "stream must be true/false.",
    "stream must be a boolean",
    "Error while streaming response",
    "stream disconnected before completion: Transport error",
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    "The upstream model is not supported",
    "No healthy upstream",
    "Failed to read stream: timeout",
    "Stream ended unexpectedly",
    "unexpected stream end",
    "Stream ended: model not available",
    "The stream was reset by the server",
    "stream error: stream ID 5; INTERNAL_ERROR; received from peer",
    "Stream closed because the model is not available",
    "Please retry the stream",
    "Please try again later; the stream was interrupted",
    "context deadline exceeded while reading stream",
    "context length exceeded while streaming",
    "Rate limit exceeded for streaming requests",
    "You exceeded your streaming quota",
    "Only 5 concurrent streams are allowed per key",
    "Only one stream is allowed at a time",
    "Too many concurrent streams",
    "An API key is required to stream",
    "Streaming API key is required",
    "stream_id is required",
    "bitstream not supported",
    "Audio stream is not supported by this model",
    "The video stream format is not supported",
    "file_stream is not supported",
    "Invalid livestream id",
    "Model qwen-streaming-v2 is not supported",
    "Mainstream models only",
    "Non-streaming request failed: could not connect to upstream",
    "Failed to generate non-streaming response",
    "Non-stream request timed out",
    "current user api does not support synchronous calls.",  # DashScope: its jobs, which poll
    "The content stream was filtered",
    "流量超出限制",
    "请求过于频繁，请稍后再试",
    "该模型不支持图片",
}


@pytest.mark.parametrize("saying", sorted(MUST_STREAM))
def test_an_upstream_that_must_stream_is_understood(saying: str) -> None:
    assert demands(error(saying)) == (Demand.STREAM, None)
    assert demands(error("Bad request", code=saying), 500)[0] is Demand.STREAM
    assert demands(json.dumps({"detail": saying}).encode(), 501)[0] is Demand.STREAM
    assert demands(saying.encode(), 404)[0] is Demand.STREAM


@pytest.mark.parametrize("saying", sorted(CANNOT_STREAM))
def test_an_upstream_that_cannot_stream_is_understood(saying: str) -> None:
    assert demands(error(saying)) == (None, Demand.PLAIN)
    assert demands(error(saying, code=500, type="server_error"), 500)[1] is Demand.PLAIN
    assert demands(json.dumps([{"msg": saying}]).encode(), 422)[1] is Demand.PLAIN


@pytest.mark.parametrize("saying", sorted(REJECTS_OPTIONS))
def test_an_upstream_that_rejects_stream_options_is_understood(saying: str) -> None:
    assert demands(error(saying)) == (None, Demand.NO_OPTIONS)
    assert demand_of(400, error(saying), streamed=True) is not Demand.NO_OPTIONS, "none were sent"


@pytest.mark.parametrize("saying", sorted(OTHERS))
@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_that_just_speaks_of_streams_is_none(saying: str, status: int) -> None:
    assert demands(error(saying), status) == (None, None)


def test_every_wording_that_the_default_rules_quote_is_understood() -> None:
    quoted = [
        "This model only support stream mode, please enable the stream parameter to access the model.",
        "enable thinking can not be support when `stream=False`",
        "Stream must be set to true",
        "Requests with max_tokens > 4096 must have stream=true",
    ]
    rules = (ROOT / "rules.yaml").read_text(encoding="utf-8").replace("\n# ", " ")
    for saying in quoted:
        assert saying in rules
        assert demands(error(saying))[0] is Demand.STREAM


# By name

BY_NAME: dict[str, tuple[Any, int, tuple[Demand | None, Demand | None]]] = {
    "param, of OpenAI": ({"error": {"message": "Unsupported value.", "param": "stream"}}, 400, (None, Demand.PLAIN)),
    "param, and it is missing": (
        {"error": {"message": "stream: field required", "param": "stream"}},
        400,
        (Demand.STREAM, Demand.PLAIN),
    ),
    "param, but the credentials are wrong": ({"error": {"message": "No.", "param": "stream"}}, 401, (None, None)),
    "another param": ({"error": {"message": "Unsupported value.", "param": "streams"}}, 400, (None, None)),
    "pydantic": (
        {"detail": [{"type": "missing", "loc": ["body", "stream"], "msg": "Field required", "input": {}}]},
        422,
        (Demand.STREAM, Demand.PLAIN),
    ),
    "Mistral's options": (
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "stream_options"],
                        "msg": "Extra inputs are not permitted",
                        "input": {"include_usage": True},
                    }
                ]
            },
        },
        422,
        (None, Demand.NO_OPTIONS),
    ),
    "Venice's options": (
        {"error": [{"code": "unrecognized_keys", "keys": ["stream_options"], "path": [], "message": "Unrecognized"}]},
        400,
        (None, Demand.NO_OPTIONS),
    ),
    "the request is quoted": (
        {"detail": [{"loc": ["body", "x"], "msg": "Field required", "input": {"stream_options": {}, "stream": True}}]},
        422,
        (None, None),
    ),
    "the prompt is quoted": (
        {"detail": [{"loc": ["body", "x"], "msg": "No.", "input": "Stream must be set to true"}]},
        422,
        (None, None),
    ),
    "a gateway quotes its upstream": (
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": '{\n "error": {"message": "Your organization must be verified to stream this"}}'},
            }
        },
        400,
        (None, Demand.PLAIN),
    ),
    "not acceptable": ({"error": {"message": "Not Acceptable"}}, 406, (None, Demand.PLAIN)),
    "both, options first": (
        {"error": {"message": "stream and stream_options are not supported"}},
        400,
        (None, Demand.NO_OPTIONS),
    ),
}


@pytest.mark.parametrize(("document", "status", "expected"), BY_NAME.values(), ids=list(BY_NAME))
def test_what_an_error_names_counts(document: Any, status: int, expected: tuple[Demand | None, ...]) -> None:
    assert demands(json.dumps(document).encode(), status) == expected


def test_streaming_counts_where_the_options_are_gone_already() -> None:
    said = error("stream and stream_options are not supported")
    assert demand_of(400, said, streamed=True) is Demand.PLAIN


def test_a_prompt_in_a_message_as_text_does_not_count() -> None:
    said = "1 validation error\nx\n  No. [type=missing, input_value='streaming is not supported', input_type=str]"
    assert demands(error(said)) == (None, None)


def test_a_rule_adds_its_own_phrases() -> None:
    said = error("Bitte nur im Strom")
    assert demand_of(400, said, streamed=False) is None
    assert demand_of(400, said, streamed=False, phrases=("NUR IM STROM",)) is Demand.STREAM
    assert demand_of(400, said, streamed=True, phrases=("nur im strom",)) is Demand.PLAIN


@pytest.mark.parametrize("status", [0, 100, 204, 302, 399, 600])
def test_only_an_error_refuses(status: int) -> None:
    assert demands(error("Stream must be set to true"), status)[0] is (Demand.STREAM if status == 204 else None)


def test_an_error_in_a_success_refuses_and_an_answer_does_not() -> None:
    assert demands(error("Stream must be set to true"), 200)[0] is Demand.STREAM
    answer = {"choices": [{"message": {"content": "Stream must be set to true"}}]}
    assert demands(json.dumps(answer).encode(), 200) == (None, None)
    assert demands(b'{"text": "Stream must be set to true"}', 200) == (None, None)
    assert demands(b"Stream must be set to true", 200) == (None, None)


def test_a_page_that_speaks_of_streams_refuses_nothing() -> None:
    assert demands(b"Stream must be set to true" + b" " * LONGEST_ERROR) == (None, None)


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_makes_it_fail(status: int, body: bytes) -> None:
    demands(body, status)
    scope_of(status, body, {"tools": [1], "n": 2})


@pytest.mark.parametrize(
    "piece", ["only ", "stream ", "not support ", "a" * 100 + " ", "must be set to ", "流", "{", "'"]
)
def test_the_time_that_an_error_takes_grows_with_its_length(piece: str) -> None:
    def took(length: int) -> float:
        text = piece * (length // len(piece.encode()) - 10)
        bodies = text, json.dumps({"error": [text[:4000]] * (length // 4300)}, ensure_ascii=False)
        times = []
        for _ in range(3):
            begun = time.thread_time()
            for body in bodies:
                demands(body.encode()[:LONGEST_ERROR])
            times.append(time.thread_time() - begun)
        return min(times)

    assert took(LONGEST_ERROR) <= 12 * took(LONGEST_ERROR // 4) + 0.01


# What a refusal is about

SCOPES: list[tuple[str, dict[str, Any], tuple[str, ...] | None]] = [
    (
        "logprobs is not supported with tools + stream",
        {"model": "m", "logprobs": True, "top_logprobs": 2, "tools": [1]},
        ("logprobs", "tools"),
    ),
    ("Cannot use tools with stream", {"tools": [1], "n": 2}, ("tools",)),
    ("Cannot use tools with stream", {"functions": [1]}, None),
    ("This model doesn't support tool use in streaming mode.", {"tools": [1], "user": "x"}, ("tools",)),
    ("Your organization must be verified to stream this model.", {"model": "m", "tools": [1]}, ()),
    ("Streaming is not supported", {"tools": [1]}, ()),
    ("Streaming is not yet supported with beam search", {"use_beam_search": True, "n": 2}, ("use_beam_search",)),
    ("n > 1 is not supported when streaming", {"n": 2}, ("n",)),
    ("`prompt_logprobs` are not available when `stream=True`.", {"prompt_logprobs": 1}, ("prompt_logprobs",)),
    ("JSON mode is not supported in streaming mode", {"response_format": {}}, ("response_format",)),
    ("JSON mode is not supported in streaming mode", {"response_format": None}, None),
    ("Streaming is not supported for prompts over 100k tokens", {"tools": [1]}, None),
    ("reasoning effort is not supported with streaming", {"reasoning_effort": "high"}, ("reasoning_effort",)),
]


@pytest.mark.parametrize(("saying", "members", "expected"), SCOPES)
def test_a_refusal_is_about_what_it_names(
    saying: str, members: dict[str, Any], expected: tuple[str, ...] | None
) -> None:
    if "response_format" in members and members["response_format"] == {}:
        members = {"response_format": {"type": "json_object"}}
    assert scope_of(400, error(saying), members) == expected


@pytest.mark.parametrize(
    "members", [{f"m{number}": 1 for number in range(1000)}, {"x_" * 1000: 1}], ids=["many members", "a long name"]
)
def test_in_a_request_that_is_made_up_nothing_is_looked_for(
    members: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_is_named", lambda *_: pytest.fail("looked for"))
    assert scope_of(400, error("This model cannot stream"), members) is None


def test_the_param_is_named_too() -> None:
    assert scope_of(400, error("Not with streaming", param="logit_bias"), {"logit_bias": {"1": 2}}) == ("logit_bias",)


# The rule

HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?", fullmatch=True) | st.ip_addresses().map(str)


# What a rule's `models` can hold.
MODELS = st.text(min_size=1, max_size=100).filter(lambda text: text.isprintable() and text.strip())


@given(HOSTS, MODELS)
def test_the_rule_to_paste_is_a_rule_for_that_model_of_that_host_alone(host: str, model: str) -> None:
    (rule,) = parse_rules(f"rules:\n  {rule_to_paste(host, model)}\n", "pasted")
    assert (rule.hosts, rule.force_upstream_stream) == ((host,), True)
    for asked, expected in ((model, True), (f"{model}x", False)):
        mismatch = rule.mismatch(((host, 443),), "/v1/chat/completions", {"model": asked}, flow_with())
        assert (mismatch is None) is expected


@given(st.text(min_size=1) | st.text(alphabet=HOSTILE, min_size=1, max_size=300) | st.just(LONG))
def test_the_rule_to_paste_is_for_the_model_whatever_its_name(model: str) -> None:
    line = rule_to_paste("llm.test", model)
    assert line.isprintable()
    assert len(line) < 1000
    if model.strip():
        (rule,) = parse_rules(f"rules:\n  {line}\n", "pasted")
        assert rule.mismatch((("llm.test", 443),), "/v1/chat/completions", {"model": model}, flow_with()) is None


def test_a_request_without_a_model_makes_a_rule_for_the_host() -> None:
    assert rule_to_paste("llm.test", "") == '- {name: "llm.test", hosts: ["llm.test"], force_upstream_stream: true}'


def test_an_upstream_that_rejects_options_gets_a_rule_without_them() -> None:
    (rule,) = parse_rules(f"rules:\n  {rule_to_paste('llm.test', 'm', stream_options=False)}\n", "pasted")
    assert (rule.force_upstream_stream, rule.stream_options) == (True, None)


def test_rules_for_several_models_stand_in_one_file() -> None:
    lines = "\n".join(f"  {rule_to_paste('llm.test', model)}" for model in ("qwq-32b", "Qwen/Qwen3-8B", "*"))
    assert [rule.name for rule in parse_rules(f"rules:\n{lines}\n", "pasted")] == [
        "llm.test qwq-32b",
        "llm.test Qwen Qwen3-8B",
        "llm.test",
    ]
