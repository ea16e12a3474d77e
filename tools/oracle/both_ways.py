"""The other direction, of the same answers: the events that we make of a server's plain answer must become that answer
again, and be of the same kinds, in the same order, as those in which the server itself streams it. Must not know any
server.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from answers import Difference, differences, parsed, shown
from force_stream import aggregate
from force_stream.answer.unfold import Asked, unfold
from force_stream.endpoints import ENDPOINTS

# The parts of an event that have a type of their own.
_TYPED: Final = ("item", "part", "content_block", "delta")
# What an event of chat says at most; a server may say several at once.
_SAID: Final = ("role", "reasoning_content", "content", "refusal", "tool_calls")


def of_events(endpoint: str, direct: bytes, stream: bytes) -> list[Difference]:
    """What is wrong with our events of a plain answer. `stream`: the server's own, as it stood in its response."""
    made = unfold(direct, Asked(ENDPOINTS[endpoint], with_usage=True)).stream
    again = parsed(aggregate(made, endpoint).body)
    found = list(differences(parsed(direct), again, "events"))
    own, ours = order(stream), order(made)
    return found if own == ours else [*found, Difference("events/order", shown(own), shown(ours))]


def events(stream: bytes) -> Iterator[Any]:
    for line in stream.splitlines():
        # The sizes of chunks are lines of their own.
        event = parsed(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else None
        if isinstance(event, dict):
            yield event


def order(stream: bytes) -> dict[str, list[str]]:
    """The kinds of events, one after the other, for each choice: choices come by turns."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in events(stream):
        for choice in event.get("choices") or [{}]:
            found[str(choice.get("index"))] += kinds(event, choice)
    return {index: [kind for kind, _ in itertools.groupby(those)] for index, those in found.items() if those}


def kinds(event: dict[str, Any], choice: dict[str, Any]) -> list[str]:
    if not choice:
        inner = [part["type"] for key in _TYPED if isinstance(part := event.get(key), dict) and part.get("type")]
        # A server may say the usage together with the end.
        return [" ".join((event["type"], *inner))] if event.get("type") else []
    said = choice.get("delta") or {}
    found = [key for key in _SAID if said.get(key)] + (["text"] if choice.get("text") else [])
    return found + (["end"] if choice.get("finish_reason") else [])
