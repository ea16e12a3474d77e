"""What a model said, out of the document of every API."""

from functools import reduce
from typing import Any

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.view.said import Said, in_document, in_stream
from harness import sse
from harness.samples import (
    DOCUMENT,
    EVENTS,
    RESPONSE_STREAM,
    STREAM,
    TEXT_STREAM,
    TOOL_STREAM,
    TWO_CHOICES_STREAM,
    choice,
    chunk,
)
from hypothesis import given
from hypothesis import strategies as st

HELLO = Said("text", "", "Hello")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (DOCUMENT, [HELLO]),
        (
            {"choices": [{"message": {"reasoning_content": "Hm.", "content": "Hello", "refusal": "No."}}]},
            [Said("reasoning", "", "Hm."), HELLO, Said("refusal", "", "No.")],
        ),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "Hello"}, 3]}}]}, [HELLO]),
        (
            {"choices": [{"message": {"function_call": {"name": "f", "arguments": "{}"}}}]},
            [Said("tool call", "f", "{}")],
        ),
        (
            {"choices": [{"message": {"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}}]},
            [Said("tool call", "f", "x")],
        ),
        ({"choices": [{"message": {"audio": {"transcript": "Hello"}}}]}, [HELLO]),
        ({"choices": [{"text": "Hello"}]}, [HELLO]),
        (
            {"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]},
            [HELLO],
        ),
        (
            {"output": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}]},
            [Said("reasoning", "", "Hm.")],
        ),
        (
            {"output": [{"type": "function_call", "name": "f", "arguments": '{"a":1}'}]},
            [Said("tool call", "f", '{"a":1}')],
        ),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": "Hm."},
                    {"type": "text", "text": "Hello"},
                    {"type": "tool_use", "name": "f", "input": {"a": 1}},
                ]
            },
            [Said("reasoning", "", "Hm."), HELLO, Said("tool call", "f", '{"a":1}')],
        ),
        ({"text": "Hello", "usage": {}}, [HELLO]),
        ({"error": {"message": "No.", "code": "x"}}, [Said("error", "", "No.")]),
        ({"error": "No."}, [Said("error", "", "No.")]),
        ({"data": [{"b64_json": "AAAA"}]}, []),
        (None, []),
        ("Hello", []),
        ([DOCUMENT, DOCUMENT], [HELLO, HELLO]),
        (reduce(lambda inner, _: {"type": "message", "content": [inner]}, range(5000), {}), []),
    ],
)
def test_what_is_said_is_found_in_a_document(document: Any, said: list[Said]) -> None:
    assert in_document(document) == said


NAMES = [
    "choices",
    "message",
    "content",
    "output",
    "error",
    "text",
    "type",
    "tool_calls",
    "function",
    "summary",
    "name",
]
KINDS = st.sampled_from(["text", "message", "function_call"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner | KINDS, max_size=4),
    )
)
def test_whatever_a_document_holds_nothing_raises_and_only_text_is_said(document: Any) -> None:
    assert all(isinstance(each.text, str) and each.text for each in in_document(document))


def spec(endpoint: str = "chat", choices: int = 1) -> AnswerSpec:
    return AnswerSpec("r", endpoint, "m", choices, "partial")


@pytest.mark.parametrize(
    ("read", "stream", "said"),
    [
        (spec(), STREAM, [HELLO]),
        (spec(), sse(*EVENTS[:2], done=False), [Said("text", "", "Hel")]),
        (spec("completions"), TEXT_STREAM, [Said("text", "", "Once upon")]),
        (spec("responses"), RESPONSE_STREAM, [HELLO]),
        (spec(), TOOL_STREAM, [Said("tool call", "weather", '{"city":"Graz"}'), Said("tool call", "time", "{}")]),
        (
            spec(choices=2),
            TWO_CHOICES_STREAM,
            [Said("text", "choice 1", "one and"), Said("text", "choice 2", "two")],
        ),
        (
            spec(),
            sse(chunk(choice(content="Hel")), {"error": {"message": "Overloaded.", "code": 529}}, done=False),
            [Said("text", "", "Hel"), Said("error", "", "Overloaded.")],
        ),
        (spec(), b"<html>No.</html>", None),
        (spec(), b"", None),
    ],
)
def test_what_is_said_is_joined_from_events_whole_or_not(
    read: AnswerSpec, stream: bytes, said: list[Said] | None
) -> None:
    found = in_stream(read, stream)
    if said is None:
        assert [each.kind for each in found] == ["error"]
    else:
        assert found == said
