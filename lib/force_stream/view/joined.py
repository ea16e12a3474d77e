"""The content of an answer, joined: texts, reasoning, refusals, calls.

Knows the documents that `endpoints` make of events; must not know events, times, or how it is set in lines of text.
"""

from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any, Final, NamedTuple

from ..answer.reader import AnswerSpec
from ..endpoints import ENDPOINTS
from ..wire import jsontext

# How deeply a document is searched.
MOST_SAID: Final = 1_000
_DEEPEST: Final = 8

# Members that hold all of a message's reasoning; where there are several, they say the same.
_REASONING: Final = (
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "reasoning_details",
    "thinking_blocks",
)
# The other members with something to say, in the order in which models say it; "refusal" is a kind of its own.
_SAYING: Final = ("summary", "content", "text", "refusal", "audio", "transcript")
# The members with a call's arguments.
_PASSED: Final = ("arguments", "input", "code", "action", "queries")


class Said(NamedTuple):
    """One thing that was said: `kind` is text, reasoning, refusal, or call, whose `text` is its arguments. `choice`:
    the number of the choice, where there are several."""

    kind: str
    text: str
    name: str = ""
    choice: int | None = None


def joined(body: bytes, endpoint: str) -> list[Said]:
    """What an event stream says, whether or not it is whole; nothing if its API is not known here."""
    if endpoint not in ENDPOINTS:
        return []
    answer = AnswerSpec(rule="", endpoint=endpoint).read()
    answer.feed(body)
    return said_in(answer.so_far())


def said_in(document: Any) -> list[Said]:
    """What the document of an answer says, in its order."""
    return list(islice(_of_document(document), MOST_SAID))


def _of_document(document: Any) -> Iterator[Said]:
    if isinstance(document, list):  # llama.cpp's, for several prompts
        documents = [each for each in document if isinstance(each, dict)]
    elif isinstance(document, dict) and isinstance(document.get("choices"), list):
        documents = [each for each in document["choices"] if isinstance(each, dict)]
    else:
        yield from _in_a_row(_said(document.get("output", document) if isinstance(document, dict) else document))
        return
    for number, each in enumerate(documents):
        message = each.get("message")
        for said in _in_a_row(_said(message if isinstance(message, dict) else each)):
            yield said._replace(choice=number) if len(documents) > 1 else said


def _in_a_row(parts: Iterator[Said]) -> Iterator[Said]:
    """Texts of one kind that follow each other are one."""
    for kind, group in groupby(parts, lambda said: said.kind):
        if kind == "call":
            yield from group
        elif text := "".join(said.text for said in group):
            yield Said(kind, text)


def _said(value: Any, kind: str = "text", depth: int = 0) -> Iterator[Said]:
    """What a message, an output item, a content block or a part of one says, in its order."""
    if isinstance(value, str):
        yield Said(kind, value)
    elif isinstance(value, list) and depth < _DEEPEST:
        for each in value:
            yield from _said(each, kind, depth + 1)
    elif isinstance(value, dict) and depth < _DEEPEST:
        yield from _of_object(value, kind, depth + 1)


def _of_object(value: dict[str, Any], kind: str, depth: int) -> Iterator[Said]:
    its_type = str(value.get("type"))
    if its_type.endswith(("_call", "tool_use")) or ("arguments" in value and "name" in value):
        yield _call(value, its_type)
        return
    if its_type.startswith(("reasoning", "thinking", "summary")):
        kind = "reasoning"
    reasoning = next((found for key in _REASONING if (found := [*_said(value.get(key), "reasoning", depth)])), [])
    yield from reasoning
    for key in _SAYING:
        yield from _said(value.get(key), key if key == "refusal" else kind, depth)
    calls = value.get("tool_calls")
    for call in (*(calls if isinstance(calls, list) else ()), {"function": value.get("function_call")}):
        for its_type in ("function", "custom"):
            if isinstance(call, dict) and isinstance(called := call.get(its_type), dict):
                yield _call(called, its_type)


def _call(value: dict[str, Any], its_type: str) -> Said:
    passed = next((value[key] for key in _PASSED if value.get(key) not in (None, "")), "")
    text = passed if isinstance(passed, str) else jsontext.dumps(passed).decode(errors="replace")
    name = value.get("name")
    return Said("call", text, name if isinstance(name, str) and name else its_type)
