"""The endpoints beside chat over real sockets: transcriptions and images, whose requests are forms, and messages."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import Certs, Http1Client, Proxy, Upstream, document, event_stream, openai_client, sse
from harness.forms import fields_of
from harness.paths import ADDON, GOLDEN

RULES = 'rules: [{name: forms, hosts: ["127.0.0.1"], force_upstream_stream: true}]\n'
WAV = b"RIFF$\x00\x00\x00WAVEfmt \r\n--\r\n\r\n\xff\xfe" * 300
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR--\r\n" * 20
USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59} | {
    "input_token_details": {"text_tokens": 0, "audio_tokens": 14}
}
TRANSCRIPT = sse(
    {"type": "transcript.text.delta", "delta": "I see"},
    {"type": "transcript.text.delta", "delta": " skies"},
    {"type": "transcript.text.done", "text": "I see skies", "usage": USAGE},
)
SEGMENT = {"type": "transcript.text.segment", "id": "seg_0", "start": 0.0, "end": 1.3, "text": " Hi.", "speaker": "A"}
DIARIZED = sse(SEGMENT, {"type": "transcript.text.done", "text": "Hi.", "usage": USAGE})
IMAGE_USAGE = {"total_tokens": 100, "input_tokens": 50, "output_tokens": 50} | {
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}
}


def image(kind: str, data: bytes, **members: Any) -> dict[str, Any]:
    return {"type": kind, "b64_json": base64.b64encode(data).decode(), "created_at": 1760000000} | members


def images(kind: str) -> bytes:
    return sse(
        image(f"{kind}.partial_image", b"preview", partial_image_index=0),
        image(f"{kind}.completed", b"one", size="1024x1024", usage=IMAGE_USAGE),
        image(f"{kind}.completed", b"two", size="1024x1024", usage=IMAGE_USAGE),
    )


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], upstream: Upstream, shared_rules: Callable[[str], Path]) -> Proxy:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    return shared_proxy(f"reverse:{upstream.url()}", scripts=[ADDON], options=options)


def sent_form(upstream: Upstream) -> dict[str | None, tuple[str | None, bytes]]:
    """The parts of the one form that the upstream got, by name; each name is there once."""
    request = upstream.wait_request()
    assert request.header("content-length") == str(len(request.body))
    parts = fields_of(request.body, request.header("content-type") or "")
    assert len({name for name, _, _ in parts}) == len(parts)
    return {name: (filename, value) for name, filename, value in parts}


def test_openais_client_gets_a_transcription(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(TRANSCRIPT, size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", WAV), language="en")
    assert result.to_dict() == {"text": "I see skies", "usage": USAGE}
    assert sent_form(upstream) == {
        "model": (None, b"gpt-4o-transcribe"),
        "language": (None, b"en"),
        "file": ("a.wav", WAV),
        "stream": (None, b"true"),
    }
    assert upstream.wait_request().header("accept") == "text/event-stream"


def test_openais_client_gets_a_diarized_transcription(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(DIARIZED, size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(
            model="gpt-4o-transcribe-diarize",
            file=("a.wav", WAV),
            response_format="diarized_json",
            chunking_strategy="auto",
        )
    assert result.text == "Hi."
    assert [segment.to_dict() for segment in result.segments] == [SEGMENT]


def test_a_transcription_that_cannot_be_streamed_goes_out_as_it_came(
    proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    upstream.answer(document({"text": "I see", "words": [{"word": "I", "start": 0.0, "end": 0.1}]}))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", WAV), response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert result.text == "I see"
    assert "stream" not in sent_form(upstream)


def test_an_upstream_that_ignores_the_field_is_passed_on(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document({"text": "I see"}))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV))
    assert result.to_dict() == {"text": "I see"}
    assert sent_form(upstream)["stream"] == (None, b"true")


def test_a_client_that_streams_a_transcription_gets_its_events(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(TRANSCRIPT, size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        events = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", WAV), stream=True)
        assert [event.type for event in events] == [
            "transcript.text.delta",
            "transcript.text.delta",
            "transcript.text.done",
        ]
    assert sent_form(upstream)["stream"] == (None, b"true")


def test_openais_client_gets_images(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(images("image_generation"), size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.images.generate(model="gpt-image-1", prompt="A cat", n=2)
    assert [base64.b64decode(each.b64_json or "") for each in result.data or []] == [b"one", b"two"]
    assert result.created == 1760000000
    assert result.usage is not None
    assert result.usage.to_dict() == IMAGE_USAGE
    asked = upstream.wait_request().json()
    assert asked == {"stream": True, "model": "gpt-image-1", "prompt": "A cat", "n": 2}, "previews are never asked for"


def test_openais_client_gets_edited_images(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(images("image_edit"), size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.images.edit(model="gpt-image-1", image=("a.png", PNG), prompt="A hat", n=2)
    assert [base64.b64decode(each.b64_json or "") for each in result.data or []] == [b"one", b"two"]
    assert sent_form(upstream) == {
        "model": (None, b"gpt-image-1"),
        "prompt": (None, b"A hat"),
        "n": (None, b"2"),
        "image": ("a.png", PNG),
        "stream": (None, b"true"),
    }


def test_one_of_two_images_is_no_answer(proxy: Proxy, upstream: Upstream) -> None:
    stream = images("image_generation")
    first = b"".join(re.split(rb"(?<=\n\n)", stream)[:2])
    upstream.answer(event_stream(first))
    with Http1Client(proxy.url) as client:
        response = client.post("/v1/images/generations", {"model": "m", "prompt": "A cat", "n": 2})
    assert (response.status, response.json()["error"]["code"]) == (502, "stream_truncated")


MESSAGES = {
    name: (GOLDEN / "messages" / f"{name}.sse", GOLDEN / "messages" / f"{name}.json")
    for name in (
        "thinking_and_its_signature_are_kept",
        "tool_input_is_joined",
        "server_tools_and_their_results_are_kept",
        "events_after_message_stop_are_ignored",
        "stop_reason_without_message_stop_is_an_end",
    )
}


def ask_message(proxy: Proxy, **members: Any) -> tuple[int | None, Mapping[str, Any]]:
    headers = [("Content-Type", "application/json"), ("x-api-key", "sk-test"), ("anthropic-version", "2023-06-01")]
    body = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]} | members
    with Http1Client(proxy.url) as client:
        response = client.request("POST", "/v1/messages", headers, json.dumps(body).encode())
        assert response.header("content-type") == "application/json"
        return response.status, response.json()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_comes_as_one_document(proxy: Proxy, upstream: Upstream, name: str) -> None:
    stream, expected = MESSAGES[name]
    upstream.answer(event_stream(stream.read_bytes(), size=10))
    assert ask_message(proxy) == (200, json.loads(expected.read_text(encoding="utf-8")))
    seen = upstream.wait_request()
    asked = {"stream": True, "model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
    assert seen.json() == asked, "this API has no stream_options"
    assert seen.header("x-api-key") == "sk-test"


def test_an_overloaded_error_inside_a_message_is_its_status(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream((GOLDEN / "broken" / "messages_overloaded_error_is_529.sse").read_bytes()))
    status, said = ask_message(proxy)
    assert status == 529
    assert said["error"] == {"type": "overloaded_error", "message": "Overloaded", "param": None, "code": None}


def test_counting_a_messages_tokens_is_left_alone(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document({"input_tokens": 9}))
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with Http1Client(proxy.url) as client:
        response = client.post("/v1/messages/count_tokens", body)
    assert response.json() == {"input_tokens": 9}
    assert upstream.wait_request().json() == body
