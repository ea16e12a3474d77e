"""The words in which upstreams say that they must stream, and the rule that is made of what was learned."""

import json

import pytest
from force_stream.proxy.must_stream import LONGEST_ERROR, rule_to_paste, says_it_must_stream
from force_stream.rules.file import parse_rules
from harness.master import flow_with
from hypothesis import given
from hypothesis import strategies as st

# The words

SAYINGS = [
    "This model only support stream mode, please enable the stream parameter to access the model.",
    "<400> InternalError.Algo.InvalidParameter: This model only support stream mode, please enable the stream "
    "parameter to access the model. ",
    "this model only supports streaming mode",
    "parameter.enable_thinking must be set to false for non-streaming calls",
    "Stream must be set to true",
    "Requests with max_tokens > 4096 must have stream=true",
    "model gpt-5 only support with stream=true",
    "only supports with stream=true",
    "Non-stream chat request is currently not supported.",
    "Streaming is required for operations that may take longer than 10 minutes.",
    "Streaming is strongly recommended for operations that may take longer than 10 minutes.",
]
OTHER_SAYINGS = [
    "",
    "No.",
    "stream must be set to false",
    "Stream mode is not supported by this model",
    "This model does not support streaming",
    "model not found",
    "stream",
]


@pytest.mark.parametrize("saying", SAYINGS)
def test_what_upstreams_say_when_they_must_stream_is_understood(saying: str) -> None:
    assert says_it_must_stream(400, json.dumps({"error": {"message": saying}}).encode())
    assert says_it_must_stream(500, saying.upper().encode())


@pytest.mark.parametrize("saying", OTHER_SAYINGS)
def test_what_they_say_else_is_not(saying: str) -> None:
    assert not says_it_must_stream(400, json.dumps({"error": {"message": saying}}).encode())


@pytest.mark.parametrize("status", [0, 100, 200, 204, 302, 399, 600])
def test_only_an_error_refuses(status: int) -> None:
    assert not says_it_must_stream(status, SAYINGS[0].encode())


def test_a_page_that_speaks_of_streams_refuses_nothing() -> None:
    assert not says_it_must_stream(400, SAYINGS[0].encode() + b" " * LONGEST_ERROR)


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_makes_it_fail(status: int, body: bytes) -> None:
    assert says_it_must_stream(status, body) in (True, False)


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


def test_a_request_without_a_model_makes_a_rule_for_the_host() -> None:
    assert rule_to_paste("llm.test", "") == '- {name: "llm.test", hosts: ["llm.test"], force_upstream_stream: true}'


def test_rules_for_several_models_stand_in_one_file() -> None:
    lines = "\n".join(f"  {rule_to_paste('llm.test', model)}" for model in ("qwq-32b", "Qwen/Qwen3-8B", "*"))
    assert [rule.name for rule in parse_rules(f"rules:\n{lines}\n", "pasted")] == [
        "llm.test qwq-32b",
        "llm.test Qwen Qwen3-8B",
        "llm.test",
    ]
