"""The events of a plain answer against those that the API itself has sent, in recorded streams.

What a recorded stream says becomes a document, and that becomes events again: of the same kinds, in the same order,
each with the same members. How many pieces a text has does not count.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from force_stream import ENDPOINTS, aggregate
from force_stream.answer.unfold import Asked, unfold
from oracle import independent
from oracle.recordings import Recording, recordings_in

# Whose streams are an API's own, and by what a recording of them is known to be a real one.
OWN = {"chat": "openai", "responses": "openai", "anthropic": "anthropic", "audio": "openai"}
# Members whose members count too.
INNER = ("choices", "delta", "item", "part", "content_block", "message", "usage")
# Recordings whose events are others, and what is.
OTHERS: dict[str, str] = {
    **dict.fromkeys(
        (
            "anthropic-anthropic-anthropic-tool-search-bm25-1-1da1d4",
            "responses-openai-openai-reasoning-encrypted-content-1-482926",
            "responses-openai-openai-shell-tool-1-1b0a1f",
        ),
        "two answers in one recording",
    ),
    **dict.fromkeys(
        (
            "anthropic-anthropic-anthropic-programmatic-tool-calling-1-5f7385",
            "anthropic-anthropic-anthropic-web-fetch-tool-20260209-1-816f00",
        ),
        "a call that a program made is whole from its start; nothing in a document says who made it",
    ),
    "anthropic-anthropic-test-anthropic-advisor-tool-stream-05f039": "a signature alone, without an empty thought",
    **dict.fromkeys(
        (
            "chat-openai-completion-stream-multiple-choices-proxy-66596e",
            "chat-openai-opes-with-chunks-missing-a-choices-array-b21b38",
            "chat-openai-openai-multiple-choice-tool-2-stream-4439c5",
            "chat-openai-test-tools-streaming-variant-a-c6b464",
            "chat-openai-test-tools-streaming-variant-a-ce2d7d",
            "chat-openai-test-tools-streaming-variant-c-8ef1c8",
            "chat-openai-test-tools-streaming-variant-c-c0eac9",
        ),
        "another server's, whatever the client is called",
    ),
    "chat-openai-openai-multiple-choice-tool-stream-f5c5df": "an older model began a call after the role",
    **dict.fromkeys(
        (
            "chat-openai-chatwithaudioasync-7cf6bb",
            "chat-openai-chatwithbasicaudiooutput-e89823",
            "chat-openai-chatwithbasicaudiooutputasync-9c06b6",
        ),
        "text and sound by turns, which a document does not tell",
    ),
    **dict.fromkeys(
        (
            "responses-openai-reaming-responses-adds-genai-conventions-9c23ef",
            "responses-openai-does-not-misbehave-with-double-iteration-14f187",
            "responses-openai-openai-custom-tool-1-b60265",
        ),
        "some events are left out",
    ),
    **dict.fromkeys(
        ("responses-openai-filesearchcallstreaming-556c77", "responses-openai-filesearchcallstreamingasync-cd6aea"),
        "a full stop after the last annotation came in a piece of its own",
    ),
    **dict.fromkeys(
        (
            "responses-openai-ckground-mode-streaming-continuation-vcr-c332b3",
            "responses-openai-test-background-mode-streaming-vcr-348f6e",
        ),
        "a background response waits in a queue",
    ),
    "responses-openai-t-tools-stream-backfills-missing-results-9111f7": "two servers list their tools at the same time",
}
# Recordings whose events have no numbers, or no logprobs.
WITHOUT = (
    "responses-openai-responses-stream-without-proc-d06c0d",
    "responses-openai-commentary-builtin-tool-9b7c65",
    "responses-openai-test-openai-responses-stream-843d1a",
)
# The members that only one side has in some recording, by the kind of the event.
MEMBERS = {
    # As the API reference has it; only newer recordings do.
    "response.function_call_arguments.done": {"name"},
    "message_delta": {f"usage.{name}input_tokens" for name in ("", "cache_creation_", "cache_read_")},
    "content_block_start thinking": {"content_block.signature"},
    # It says what kind of action, and not yet which.
    "response.output_item.added web_search_call": {"item.action"},
    # It has an event of its own, in which there is nothing else.
    "chat.completion.chunk": {"moderation"},
    "chat.completion.chunk end": {"moderation"},
}


def said(stream: bytes) -> list[Any]:
    found = [event.value for event in independent.events_of(stream)]
    return [value for value in found if isinstance(value, dict) and value.get("type") not in ("ping", "keepalive")]


def kind_of(event: dict[str, Any]) -> str:
    """What an event is, and what it is about."""
    about = [event.get("type") or event.get("object")]
    about += [inner["type"] for key in INNER if isinstance(inner := event.get(key), dict) and inner.get("type")]
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        about += sorted(key for key, value in delta.items() if value not in (None, ""))
        about += ["end"] if choice.get("finish_reason") else []
    return " ".join(map(str, about))


def orders(events: list[dict[str, Any]]) -> dict[Any, list[str]]:
    """The kinds of the events one after the other, for each choice; those of several come in any order."""
    found = defaultdict(list)
    for event in events:
        choices = event.get("choices")
        found[choices[0].get("index") if choices else None].append(kind_of(event))
    return {place: [kind for kind, _ in itertools.groupby(kinds)] for place, kinds in found.items()}


def members(value: Any, before: str = "") -> Iterator[str]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        # What is null in a delta, or as the usage, is only there as some recorders spell it.
        if key != "obfuscation" and not (inner is None and (key == "usage" or before.endswith("delta."))):
            yield before + key
            if key in INNER:
                yield from members(inner[0] if isinstance(inner, list) and inner else inner, f"{before}{key}.")


def shapes(events: list[dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for event in events:
        found[kind_of(event)].update(members(event))
    return found


def both(recording: Recording) -> tuple[list[Any], list[Any]]:
    """The events as they were recorded, and ours."""
    stream, endpoint = recording.stream, recording.endpoint
    real = said(stream)
    # A stream that was not asked for its usage has none, but for OpenAI's own events.
    asked = Asked(ENDPOINTS[endpoint], with_usage=endpoint == "chat" and any(event.get("usage") for event in real))
    reply = aggregate(stream, endpoint)
    assert reply.status == 200
    return real, said(unfold(reply.body, asked).stream)


@pytest.fixture(scope="module")
def recordings(streams_dir: Path) -> list[Recording]:
    found = recordings_in(streams_dir)
    return [one for one in found if is_own(one.entry) and aggregate(one.stream, one.endpoint).status == 200]


def is_own(entry: Any) -> bool:
    """Whether an API's own stream was recorded, and not one that somebody wrote."""
    is_real = entry["pair"] is not None or entry["kind"] == "audio"
    return entry["provider"] == OWN.get(entry["kind"]) and is_real and not entry["maybe_handmade"]


def test_the_kinds_of_the_events_come_in_the_order_of_the_recorded_ones(recordings: list[Recording]) -> None:
    found = {}
    for one in recordings:
        real, ours = both(one)
        if orders(real) != orders(ours):
            found[one.id] = (orders(real), orders(ours))
    assert found.keys() == OTHERS.keys(), {name: found[name] for name in found.keys() - OTHERS.keys()}


def test_each_kind_of_event_has_the_members_of_the_recorded_ones(recordings: list[Recording]) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for one in (one for one in recordings if one.id not in OTHERS and one.id not in WITHOUT):
        real, ours = map(shapes, both(one))
        for kind in real.keys() & ours.keys():
            found[kind] |= real[kind] ^ ours[kind]
    assert {kind: differing for kind, differing in found.items() if differing} == MEMBERS
