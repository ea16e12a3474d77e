"""Audio transcriptions: from the events of one to the transcription a plain request gets.

Knows the dialects of those events; must not know bytes, HTTP or server-sent events.

    OpenAI              transcript.text.delta, .segment and .done
                        https://platform.openai.com/docs/api-reference/audio/transcript-text-done-event
    Mistral             transcription.language, .text.delta, .segment and .done, whose texts are called `text`
                        https://docs.mistral.ai/api/endpoint/audio/transcriptions
    vLLM, SGLang        chunks with choices, as in chat: `transcription.chunk`; vLLM says a finish reason after each 30
                        seconds of audio, and goes on
    transformers serve  the text itself, in place of JSON, and nothing that ends it
"""

from collections.abc import Iterator
from typing import Any, Final, TypeGuard

from ..errors import EmptyStream, IncompleteStream, MalformedStream
from ..merge.fields import (
    ANY_PADDING,
    CHANGED,
    SAME,
    Concat,
    Fields,
    Slots,
    is_informative,
    latest,
    nothing,
    overlay,
    spelled,
)
from ..wire.text import printable
from .endpoint import Aggregated, Aggregator, Asked, Endpoint, Request
from .pieces import by_tokens, pieces

_DELTAS: Final = ("transcript.text.delta", "transcription.text.delta")
_SEGMENTS: Final = ("transcript.text.segment", "transcription.segment")
_LAST: Final = ("transcript.text.done", "transcription.done")
_PADDING: Final = ("obfuscation",)
# The members of a chunk with choices that a transcription does not have; all others belong to it.
_CHUNK: Final = {
    **dict.fromkeys(("id", "object", "created", "model", "choices", *_PADDING), nothing),
    "usage": latest,
}


class TranscriptionsAggregator(Aggregator):
    """Merges the events of one transcription. Where one is the last, its text counts; chunks and plain texts are
    joined."""

    families = ("transcript.", "transcription.", "translation.", "ping", "keepalive")

    def __init__(self, expected_choices: int = 1) -> None:
        self._text = Concat()
        self._wholes: list[dict[str, Any]] = []
        self._logprobs: list[Any] = []
        self._segments: list[dict[str, Any]] = []
        self._is_diarized = False
        self._language: Any = None
        self._done: dict[str, Any] = {}
        self._chunks: Fields | None = None
        self._finish_reason: Any = None
        self._unread = self._has_notice = False

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        if super().knows(chunk, event) or chunk.get("usage"):
            return True
        choices = chunk.get("choices")
        if isinstance(choices, list):
            # A text completion's have a text, and are another API's.
            return not any(isinstance(choice, dict) and choice.get("text") for choice in choices)
        return _is_whole(chunk)

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        kind = chunk.get("type") or event
        if self.ended:
            return SAME
        if self.ends_with_body and self.knows(chunk, event):
            # The texts before were a notice: those of transformers serve never stand beside events.
            self.ends_with_body, self._has_notice = False, True
            self._text = Concat()
        if kind in _DELTAS:
            return self._add_delta(chunk)
        if kind in _SEGMENTS:
            self._segments.append({key: value for key, value in chunk.items() if key not in _PADDING})
            self._is_diarized = kind == "transcript.text.segment"
        elif kind == "transcription.language":
            self._language = chunk.get("audio_language") or chunk.get("language")
        elif kind in _LAST:
            self._done = {key: value for key, value in chunk.items() if key != "type" and key not in _PADDING}
            self.ended = self.finished = True
            is_whole = bool(self._done.get("text")) and self._done.get("segments") != []
            self.says_all_again = is_whole and not (self._logprobs or self._segments)
        elif not kind and _is_whole(chunk):
            self._wholes.append(chunk)
            self.finished = len(self._wholes) == 1
        elif isinstance(chunk.get("choices"), list):
            self._add_chunk(chunk, chunk["choices"])
        return CHANGED  # these events are few

    def _add_delta(self, chunk: dict[str, Any]) -> Slots | None:
        name = "delta" if "delta" in chunk else "text"
        effect = self._text.add(spelled(chunk.get(name)))
        if isinstance(logprobs := chunk.get("logprobs"), list):
            self._logprobs += logprobs
        if effect is not self._text or logprobs or not isinstance(chunk[name], str):
            return CHANGED
        return ((name, self._text), *((key, ANY_PADDING) for key in _PADDING if key in chunk))

    def _add_chunk(self, chunk: dict[str, Any], choices: list[Any]) -> None:
        if self._chunks is None:
            self._chunks = Fields(_CHUNK, overlay)
        self._chunks.add(chunk)
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            members = delta if isinstance(delta, dict) else {"content": delta}
            text = spelled(members.get("content"))
            self._text.add(text)
            rest = (value for key, value in members.items() if key not in ("content", "role"))
            self._unread = self._unread or any(map(is_informative, rest))
            reason = choice.get("finish_reason")
            if reason and reason != "null":
                # Each part of a long recording has one, so it does not end the stream as in chat.
                self._finish_reason = reason

    def add_text(self, text: str) -> bool:
        if self._chunks is not None or self._segments or self._done or self._wholes:
            return False
        if self._text.result() is not None and not self.ends_with_body:
            return False
        self.ends_with_body = True
        self._text.add(text)
        return True

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        if len(self._wholes) > 1 and not partial:
            raise MalformedStream("the upstream's events have texts, but nothing says how these fit together")
        said = (self._wholes[0] if self._wholes else {}) | self._done
        if self._chunks is not None:
            said = (self._chunks.result() or {}) | said
        of_segments = "".join(str(part.get("text") or "") for part in self._segments)
        text = said.get("text") or self._text.result() or of_segments
        # [DONE] alone does not end OpenAI's events; it ends chunks, as it does in chat, and plain texts.
        ended_by_done = done and (self._chunks is not None or self.ends_with_body)
        if not (self.ended or self._wholes or self._finish_reason or ended_by_done or (partial and text)):
            raise IncompleteStream("the upstream's event stream stopped before its last event")
        if not text and not self._says_silence(said):
            raise EmptyStream("the upstream's event stream had no text")
        document = said | {"text": text} if "text" in said else {"text": text} | said
        if self._language and not document.get("language"):
            document["language"] = self._language
        if self._logprobs:
            document.setdefault("logprobs", self._logprobs)
        if self._segments and not document.get("segments"):
            constant = {"task": "transcribe"} if self._is_diarized else {}  # OpenAI's diarized answers have it
            document = {**constant, **document, "segments": self._segments}
        reasons = () if self._finish_reason is None else (str(self._finish_reason),)
        return Aggregated(document, reasons, odd=("text before the first event",) if self._has_notice else ())

    def _says_silence(self, said: dict[str, Any]) -> bool:
        """Whether the upstream plainly said that there is no text: in its last event, or by the finish reason of chunks
        that say nothing else."""
        return said.get("text") == "" or (self._finish_reason is not None and not self._unread)


def _is_whole(chunk: dict[str, Any]) -> bool:
    """Whether this is the plain answer, as one event."""
    return isinstance(chunk.get("text"), str) and "type" not in chunk and "choices" not in chunk


def _cannot_stream(request: Request) -> str | None:
    # The other formats are not JSON, or (verbose_json) have members that no event has.
    wanted = request.get("response_format") or "json"
    if wanted not in ("json", "diarized_json"):
        named = printable(wanted) if isinstance(wanted, str) else "something else"
        return f"a transcription as {named} cannot be streamed, only json and diarized_json can"
    return None


# The other direction

# The options by which a request shows that it wants vLLM's chunks; vLLM refuses them in a plain request.
_OF_VLLM: Final = ("stream_include_usage", "stream_continuous_usage_stats")
# The members of Mistral's answers that its SDK cannot do without.
_OF_MISTRAL: Final = frozenset(("model", "language", "segments"))


def _events_of(document: Any, asked: Asked) -> Iterator[dict[str, Any]] | None:
    if not isinstance(document, dict) or not isinstance(document.get("text"), str):
        return None
    if document.keys() >= _OF_MISTRAL:
        return _of_mistral(document)
    return _chunks_of(document) if asked.with_usage else _of_openai(document)


def _of_openai(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    segments = document.get("segments")
    kind = "transcript.text.segment"
    if _have_type(segments, kind):
        yield from segments
        told = {"segments": segments, "task": "transcribe"}  # by the segments themselves
        document = {key: value for key, value in document.items() if value != told.get(key, ...)}
    else:
        tokens = document.get("logprobs")
        cut = by_tokens(document["text"], tokens) if isinstance(tokens, list) and tokens else None
        for piece, said in [(piece, None) for piece in pieces(document["text"])] if cut is None else cut:
            yield {"type": "transcript.text.delta", "delta": piece} | ({"logprobs": said} if said else {})
    yield {"type": "transcript.text.done"} | document | {"type": "transcript.text.done"}


def _of_mistral(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if language := document["language"]:
        yield {"type": "transcription.language", "audio_language": language}
    yield from ({"type": "transcription.text.delta", "text": piece} for piece in pieces(document["text"]))
    for segment in document["segments"] if isinstance(document["segments"], list) else ():
        yield from [{**segment, "type": "transcription.segment"}] if isinstance(segment, dict) else ()
    yield {"type": "transcription.done"} | document | {"type": "transcription.done"}


def _chunks_of(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """vLLM's; they have the names of chat's."""
    each = {"object": "transcription.chunk"}
    for piece in pieces(document["text"]):
        yield {**each, "choices": [{"delta": {"content": piece}, "finish_reason": None, "stop_reason": None}]}
    once = {key: value for key, value in document.items() if key not in ("type", "text", "usage")}
    end = {"delta": {"content": ""}, "finish_reason": "stop", "stop_reason": None}
    yield {**each, **once, "choices": [end]}
    if document.get("usage") is not None:
        yield {**each, "choices": [], "usage": document["usage"]}


def _have_type(segments: Any, kind: str) -> TypeGuard[list[dict[str, Any]]]:
    """Whether these are the segments of this type of events, which have it in a plain answer too."""
    if not isinstance(segments, list) or not segments:
        return False
    return all(isinstance(segment, dict) and segment.get("type") == kind for segment in segments)


TRANSCRIPTIONS: Final = Endpoint(
    "transcriptions",
    ("/audio/transcriptions",),
    TranscriptionsAggregator,
    _events_of,
    _cannot_stream,
    stream_options=frozenset(),
    only_streamed=_OF_VLLM,
    forms=True,
    holds="text",
    named=("transcription.",),  # the SDK of Mistral reads the names, and knows no [DONE]
)
