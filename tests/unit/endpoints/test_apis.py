"""Which API an event belongs to."""

from typing import Any

import pytest
from force_stream.answer.events import EventReader, Kind
from force_stream.endpoints import ENDPOINTS, api_of
from harness.golden import CASES, Case

DELTA = {"choices": [{"index": 0, "delta": {"content": "a"}}]}


@pytest.mark.parametrize(
    ("chunk", "api"),
    [
        ({"type": "response.output_text.delta", "delta": "a"}, "responses"),
        ({"type": "message_start", "message": {}}, "messages"),
        ({"type": "content_block_delta", "index": 0, "delta": {}}, "messages"),
        ({"type": "message_delta", "delta": {}}, "messages"),
        ({"object": "chat.completion.chunk", "choices": []}, "chat"),
        (DELTA, "chat"),
        ({"object": "text_completion", "choices": []}, "completions"),
        ({"choices": [{"index": 0, "text": "a"}]}, "completions"),
        ({"type": "transcript.text.delta", "delta": "a"}, "transcriptions"),
        ({"type": "transcription.text.delta", "text": "a"}, "transcriptions"),
        (DELTA | {"object": "transcription.chunk"}, "transcriptions"),
        ({"type": "image_generation.completed"}, "images"),
        ({"type": "image_edit.partial_image"}, "images"),
        ({"type": "speech.audio.delta"}, "speech"),
        ({"object": "thread.message.delta", "delta": {}}, "Assistants"),
        ({"type": "session.created"}, "Realtime"),
        # https://ai.google.dev/api/generate-content, and Gemini CLI's, which has it in a `response`
        ({"candidates": [{"content": {"parts": [{"text": "a"}]}}]}, "Gemini"),
        ({"response": {"candidates": []}}, "Gemini"),
        # https://docs.ollama.com/api/chat and /api/generate
        ({"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False}, "Ollama"),
        ({"model": "m", "response": "a", "done": False}, "Ollama"),
        # https://docs.cohere.com/docs/streaming
        ({"type": "content-delta", "index": 0, "delta": {}}, "Cohere"),
        ({"event_type": "text-generation", "text": "a"}, "Cohere"),
        # https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
        ({"contentBlockDelta": {"delta": {"text": "a"}}}, "Bedrock Converse"),
        # https://huggingface.github.io/text-generation-inference, /generate_stream
        ({"token": {"id": 1, "text": "a"}, "generated_text": None}, "Text Generation Inference"),
        ({"output": {"text": "a", "finish_reason": "null"}, "request_id": "r"}, "DashScope"),
        ({}, None),
        ({"message": "Internal server error"}, None),
        ({"type": "internal_error", "message": "no"}, None),
        ({"type": "ping"}, None),
        ({"type": ["response."], "object": ["chat.completion"], "choices": "a"}, None),
    ],
)
def test_an_event_is_of_the_api_that_it_looks_like(chunk: dict[str, Any], api: str | None) -> None:
    assert api_of(chunk) == api


def test_the_name_of_an_event_stands_for_its_type() -> None:
    assert api_of({"delta": "a"}, "response.output_text.delta") == "responses"


@pytest.mark.parametrize("endpoint", [name for name in ENDPOINTS if name != "completions"])
def test_the_events_of_an_endpoint_are_not_those_of_another(endpoint: str) -> None:
    def apis(case: Case) -> set[str | None]:
        reader = EventReader()
        events = [*reader.feed(case.stream), *reader.close()]
        return {api_of(event.value, event.name) for event in events if event.kind is Kind.CHUNK}

    found = {case.path.stem: apis(case) - {endpoint, None} for case in CASES if case.folder == endpoint}
    assert {name: others for name, others in found.items() if others} == {}
