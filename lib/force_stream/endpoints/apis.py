"""Which API an event belongs to, by its own words: an upstream may answer a known path in the events of another.

Knows how the events of each API look, those of endpoints here and of APIs that have none. Must not know aggregators.
"""

from collections.abc import Mapping
from typing import Any, Final

# How the types of events begin, or their names where they have none.
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "responses": ("response.",),
    "messages": ("message_start", "message_delta", "message_stop", "content_block_"),
    "transcriptions": ("transcript.", "transcription."),
    "images": ("image_generation.", "image_edit."),
    "speech": ("speech.audio.",),
    "Assistants": ("thread.",),
    "Realtime": ("session.", "conversation.item.", "input_audio_buffer."),
    "Cohere": ("message-", "content-", "tool-call-", "tool-plan-", "citation-"),  # its second version
}
_OBJECTS: Final = {
    "transcription.chunk": "transcriptions",
    "translation.chunk": "transcriptions",
    "response": "responses",
}
# These count only where the choices do not tell: gateways mix them up.
_OBJECTS_OF_CHOICES: Final = {
    "chat.completion.chunk": "chat",
    "chat.completion": "chat",
    "text_completion": "completions",
}
# Cohere's first version names its events otherwise.
_COHERE: Final = ("stream-start", "text-generation", "tool-calls-chunk", "tool-calls-generation", "stream-end")
_CONVERSE: Final = ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop")


def api_of(chunk: dict[str, Any], event: str = "") -> str | None:
    """The API that an event plainly belongs to: the name of an endpoint, or of an API that is none here."""
    kind = chunk.get("type") or event
    for api, beginnings in _TYPES.items() if isinstance(kind, str) else ():
        if kind.startswith(beginnings):
            return api
    name = str(chunk.get("object"))
    if name.startswith("thread."):
        return "Assistants"
    return _OBJECTS.get(name) or _api_of_members(chunk) or _OBJECTS_OF_CHOICES.get(name)


def _api_of_members(chunk: dict[str, Any]) -> str | None:
    """The same for events that have neither a type nor a name."""
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and ("delta" in first or "text" in first):
        return "chat" if "delta" in first else "completions"
    response = chunk.get("response")
    if isinstance(chunk.get("candidates"), list) or (isinstance(response, dict) and "candidates" in response):
        return "Gemini"
    if isinstance(chunk.get("done"), bool) and (isinstance(chunk.get("message"), dict) or isinstance(response, str)):
        return "Ollama"
    if chunk.get("event_type") in _COHERE:
        return "Cohere"
    if any(isinstance(chunk.get(member), dict) for member in _CONVERSE):
        return "Bedrock Converse"
    if isinstance(chunk.get("token"), dict) and "generated_text" in chunk:
        return "Text Generation Inference"
    if isinstance(chunk.get("output"), dict) and "request_id" in chunk:
        return "DashScope"
    return None
