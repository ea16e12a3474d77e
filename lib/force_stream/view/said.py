"""What a model said, out of the document that its answer is: text, reasoning, tool calls, each joined.

Knows the plain answers of every API here; must not know events or flows. Nothing here raises: whatever a document holds
where a text belongs, only text counts.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ..answer.reader import AnswerSpec
from ..wire import jsontext

# Members of a chat message that are text, in the order in which a model says them.
_TEXTS: Final = {
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "content": "text",
    "refusal": "refusal",
}
# Types of parts, as lists of content have them, and of items; each with the members that hold its text.
_PARTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "text": ("text", ("text",)),
    "output_text": ("text", ("text",)),
    "refusal": ("refusal", ("refusal",)),
    "thinking": ("reasoning", ("thinking",)),
    "reasoning": ("reasoning", ("text",)),
    "reasoning_text": ("reasoning", ("text",)),
    "summary_text": ("reasoning", ("text",)),
    "tool_use": ("tool call", ("input",)),
    "server_tool_use": ("tool call", ("input",)),
    "function_call": ("tool call", ("arguments",)),
    "custom_tool_call": ("tool call", ("input",)),
}


class Said(NamedTuple):
    """One thing that was said: `kind` is text, reasoning, refusal, tool call or error; `name`: that of the function, or
    which of several choices it is."""

    kind: str
    name: str
    text: str


def in_stream(spec: AnswerSpec, stream: bytes) -> list[Said]:
    """What an event stream says, whole or not. A long one takes a while."""
    answer = spec.read(200, "text/event-stream")
    answer.feed(stream)
    reply = answer.finish()
    document = answer.so_far() if reply is None or reply.status >= 400 else jsontext.loads(reply.body.decode())
    failed = [] if reply is None or reply.status < 400 else in_document(jsontext.loads(reply.body.decode()))
    return [*in_document(document), *failed]


def in_document(document: Any) -> list[Said]:
    """What a plain answer, or an error, says."""
    try:
        return [said for said in _said(document) if said.text]
    except RecursionError:  # nothing that is said nests so deeply
        return []


def _said(document: Any) -> Iterator[Said]:
    if not isinstance(document, dict):
        for each in _objects(document):
            yield from _said(each)
        return
    error = document.get("error")
    if error:
        yield Said("error", "", _text(error.get("message", error) if isinstance(error, dict) else error))
    choices = _objects(document.get("choices"))
    for place, choice in enumerate(choices):
        name = f"choice {place + 1}" if len(choices) > 1 else ""
        yield Said("text", name, _text(choice.get("text", "")))
        yield from _message(choice.get("message"), name)
    for item in _objects(document.get("output")):
        yield from _part(item)
    yield from _content(document.get("content"), "text", "")
    if not choices and isinstance(document.get("text"), str):
        yield Said("text", "", document["text"])


def _message(message: Any, name: str) -> Iterator[Said]:
    if not isinstance(message, dict):
        return
    for member, kind in _TEXTS.items():
        yield from _content(message.get(member), kind, name)
    calls = [*_objects(message.get("tool_calls")), {"function": message.get("function_call")}]
    for call in calls:
        called = call.get("function") or call.get("custom")
        if isinstance(called, dict):
            yield Said("tool call", _text(called.get("name", "")), _text(called.get("arguments", called.get("input"))))
    audio = message.get("audio")
    if isinstance(audio, dict):
        yield Said("text", name, _text(audio.get("transcript", "")))


def _content(content: Any, kind: str, name: str) -> Iterator[Said]:
    if isinstance(content, str):
        yield Said(kind, name, content)
    for part in _objects(content):
        yield from _part(part, name)


def _part(part: dict[str, Any], name: str = "") -> Iterator[Said]:
    """A part of a content, or an item of an output, which may have parts of its own."""
    kind, members = _PARTS.get(f"{part.get('type')}", ("", ()))
    if kind:
        text = next((part[member] for member in members if part.get(member)), "")
        yield Said(kind, _text(part.get("name", "")) or name, _text(text))
    for member in ("summary", "content"):
        for inner in _objects(part.get(member)):
            yield from _part(inner, name)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else jsontext.dumps(value).decode()
