"""The table of endpoints: which path is whose, which request cannot be streamed, and what all APIs have alike."""

import json
from typing import Any

import pytest
from force_stream import aggregate
from force_stream.endpoints import ENDPOINTS, endpoint_for, expected_choices, never_streams

PATHS = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/chat/completions/": "chat",
    "/api/paas/v4/chat/completions": "chat",
    "/v1beta/openai/chat/completions": "chat",
    "/openai/deployments/x/chat/completions?api-version=1": "chat",
    "/openai/deployments/x/chat/completions/?api-version=1": "chat",
    "/v1/chat/completions?next=/v1/responses": "chat",
    "/v1/completions": "completions",
    "/v1/fim/completions": "completions",
    "/openai/deployments/x/completions?api-version=1": "completions",
    "/v1/responses": "responses",
    "/backend-api/codex/responses": "responses",
    "/openai/v1/responses?api-version=preview": "responses",
    "/v1/responses/compact": "responses",
    "/v1/messages": "messages",
    "/anthropic/v1/messages/": "messages",
    "/v1/messages?beta=true": "messages",
    "/v1/audio/transcriptions": "transcriptions",
    "/openai/deployments/x/audio/transcriptions?api-version=1": "transcriptions",
    "/v1/images/generations": "images",
    "/v1/images/edits": "images",
    "/openai/deployments/x/images/edits?api-version=1": "images",
    "/": None,
    "": None,
    "/v1/models": None,
    "/v1/embeddings": None,
    "/v1/chat/completions/chatcmpl-1": None,
    "/v1/chat": None,
    "/V1/CHAT/COMPLETIONS": None,
    "/v1/xcompletions": None,
    "/v1/responses/resp_1": None,
    "/v1/responses/resp_1/input_items": None,
    "/v1/responses/resp_1/cancel": None,
    "/v1/responses/input_tokens": None,
    "/v1/messages/count_tokens": None,
    "/v1/messages/batches": None,
    "/v1/threads/thread_1/messages": None,
    "/v1/threads/thread_1/messages?limit=1": None,
    "/v1/threads/runs": None,
    "/v1/audio/translations": None,
    "/v1/audio/speech": None,
    "/v1/images/variations": None,
}


@pytest.mark.parametrize("path", PATHS)
def test_an_endpoint_is_known_by_the_end_of_its_path(path: str) -> None:
    found = endpoint_for(path, {})
    assert (found.name if found else None) == PATHS[path]


EXTRA = {"/custom/generate": "chat", "/generate": "completions", "/v1/responses": "chat", "/x/": "messages"}
RULES_PATHS = {
    "/custom/generate": "chat",
    "/a/custom/generate?b=1": "chat",
    "/other/generate": "completions",
    "/v1/responses": "chat",
    "/v2/responses": "responses",
    "/v1/x": "messages",
    "/v1/completions": "completions",
    "/v1/none": None,
}


@pytest.mark.parametrize("path", RULES_PATHS)
def test_a_rules_own_paths_come_first_and_the_longest_end_decides(path: str) -> None:
    found = endpoint_for(path, EXTRA)
    assert (found.name if found else None) == RULES_PATHS[path]


def test_only_compact_never_streams() -> None:
    refusing = [path for path, name in PATHS.items() if name is not None and never_streams(ENDPOINTS[name], path)]
    assert refusing == ["/v1/responses/compact"]
    assert never_streams(ENDPOINTS["responses"], "/v1/responses/compact/?a=1")


OBSTACLES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "plain chat": ("chat", {"model": "m"}, None),
    "several choices": ("chat", {"n": 3}, None),
    "audio in pcm16": ("chat", {"modalities": ["text", "audio"], "audio": {"format": "pcm16"}}, None),
    "audio in wav": ("chat", {"modalities": ["text", "audio"], "audio": {"format": "wav"}}, "wav"),
    "audio without its modality": ("chat", {"modalities": ["text"], "audio": {"format": "wav"}}, None),
    "audio that is no object": ("chat", {"modalities": ["audio"], "audio": "wav"}, None),
    "modalities that are no list": ("chat", {"modalities": "audio", "audio": {"format": "wav"}}, None),
    "best of one": ("completions", {"best_of": 1}, None),
    "best of two": ("completions", {"best_of": 2, "n": 1}, "best_of 2"),
    "best of a text": ("completions", {"best_of": "2"}, None),
    "a response in the foreground": ("responses", {"background": False}, None),
    "a response in the background": ("responses", {"background": True}, "background"),
    "a message": ("messages", {"best_of": 2, "background": True}, None),
    "a transcription": ("transcriptions", {}, None),
    "a transcription as JSON": ("transcriptions", {"response_format": "json"}, None),
    "a diarized transcription": ("transcriptions", {"response_format": "diarized_json"}, None),
    "a transcription as text": ("transcriptions", {"response_format": "text"}, "text"),
    "a transcription as subtitles": ("transcriptions", {"response_format": "srt"}, "srt"),
    "a transcription with words": ("transcriptions", {"response_format": "verbose_json"}, "verbose_json"),
    "an image": ("images", {"n": 2, "response_format": "url"}, None),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_what_cannot_be_streamed_says_why(case: str) -> None:
    name, request, why = OBSTACLES[case]
    said = ENDPOINTS[name].cannot_stream(request)
    assert (said is None) if why is None else (why in (said or ""))


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("chat", {"include_usage": True, "x": 1}),
        ("completions", {"include_usage": True, "x": 1}),
        ("responses", {}),
        ("messages", {}),
        ("transcriptions", {}),
        ("images", {}),
    ],
)
def test_stream_options_go_only_where_they_are_taken(name: str, taken: dict[str, Any]) -> None:
    assert ENDPOINTS[name].options_for({"include_usage": True, "x": 1}) == taken
    assert ENDPOINTS[name].options_for(None) is None


def test_responses_take_the_one_option_of_theirs() -> None:
    wanted = {"include_obfuscation": False, "include_usage": True}
    assert ENDPOINTS["responses"].options_for(wanted) == {"include_obfuscation": False}


CHOICES: dict[str, tuple[dict[str, Any], int]] = {
    "nothing said": ({}, 1),
    "n": ({"n": 3}, 3),
    "n in a form": ({"n": "3"}, 3),
    "n of zero": ({"n": 0}, 1),
    "n that is no number": ({"n": "many"}, 1),
    "n that is true": ({"n": True}, 1),
    "n that is null": ({"n": None}, 1),
    "one prompt": ({"prompt": "a"}, 1),
    "several prompts": ({"prompt": ["a", "b"]}, 2),
    "several prompts, several times": ({"prompt": ["a", "b"], "n": 2}, 4),
    "one prompt in tokens": ({"prompt": [1, 2, 3]}, 1),
    "several prompts in tokens": ({"prompt": [[1, 2], [3]]}, 2),
    "no prompt in a list": ({"prompt": []}, 1),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_number_of_choices_is_read_from_the_request(case: str) -> None:
    request, count = CHOICES[case]
    assert expected_choices(request) == count


# Each API drops the padding that it is known to send, and keeps a member of that name that only another API has.
PADDING = {"obfuscation": "x", "p": "y", "sequence_number": 3}
STREAMS: dict[str, tuple[list[dict[str, Any]], set[str]]] = {
    "chat": ([{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}], {"sequence_number"}),
    "completions": ([{"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}], {"sequence_number"}),
    "images": ([{"type": "image_generation.completed", "b64_json": "aa"}], {"p"}),
    "transcriptions": ([{"type": "transcript.text.done", "text": "a"}], {"p", "sequence_number"}),
    "messages": (
        [
            {"type": "message_start", "message": {"id": "m"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        ],
        {"p", "sequence_number"},
    ),
    "responses": ([{"type": "response.completed", "response": {"id": "r", "output": ["a"]}}], {"p"}),
}


@pytest.mark.parametrize("endpoint", STREAMS)
def test_only_the_padding_of_its_own_api_is_dropped(endpoint: str) -> None:
    chunks, kept = STREAMS[endpoint]
    body = b"".join(b"data: " + json.dumps(chunk | PADDING).encode() + b"\n\n" for chunk in chunks)
    assert PADDING.keys() & json.loads(aggregate(body + b"data: [DONE]\n\n", endpoint).body) == kept


def test_a_segment_of_a_transcription_loses_only_its_padding() -> None:
    segment, done = {"type": "transcript.text.segment", "text": "a"}, {"type": "transcript.text.done", "text": "a"}
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (segment | PADDING, done))
    assert json.loads(aggregate(body, "transcriptions").body)["segments"] == [
        segment | {"p": "y", "sequence_number": 3}
    ]
