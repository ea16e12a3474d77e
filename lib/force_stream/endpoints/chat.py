"""Chat completions: from `chat.completion.chunk`s to the `chat.completion` a plain request gets.

Knows the chunk's fields and their rules, when a stream is complete, and the final shape; must not know bytes, HTTP
or server-sent events. https://platform.openai.com/docs/api-reference/chat-streaming
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from ..errors import EmptyStream, IncompleteStream
from ..merge.fields import (
    Concat,
    Fields,
    Repeatable,
    Rule,
    by_index,
    concat,
    extend,
    fields,
    first,
    fragment,
    index_of,
    latest,
    name,
    nothing,
    overlay,
)
from ..merge.tool_calls import Arguments, tool_calls
from .aggregator import Aggregated
from .endpoint import Endpoint, Request


class Content:
    """Text in fragments, or (Mistral, magistral) lists of parts whose neighbours of one type are one part."""

    __slots__ = ("_parts", "_text")

    def __init__(self) -> None:
        self._text = Concat()
        self._parts: list[tuple[str, Any]] | None = None

    def add(self, value: Any) -> None:
        if isinstance(value, list):
            if self._parts is None:
                self._parts = []
                self._add_text(self._text.result())
            for part in value:
                self._add_part(part)
        elif self._parts is None:
            self._text.add(value)
        else:
            self._add_text(value)

    def again(self, value: Any) -> list[Repeatable] | None:
        return None if self._parts is not None else self._text.again(value)

    def _add_text(self, text: Any) -> None:
        if text:
            self._add_part({"type": "text", "text": text})

    def _add_part(self, part: Any) -> None:
        assert self._parts is not None
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in _JOINED_PARTS:
            self._parts.append(("", part))
            return
        if not self._parts or self._parts[-1][0] != kind:
            self._parts.append((kind, Fields(_PART, fragment)))
        self._parts[-1][1].add(part)

    def result(self) -> Any:
        if self._parts is None:
            return self._text.result()
        return [part.result() if kind else part for kind, part in self._parts]


_JOINED_PARTS: Final = frozenset(("text", "thinking", "output_text", "reasoning"))
_PART: Final[Mapping[str, Rule]] = {
    "type": first,
    "text": concat,
    "thinking": Content,
    "signature": latest,
    "closed": latest,
    "index": latest,
}


class Base64:
    """Base64 in pieces. OpenAI's audio pieces join as text; a piece with padding of its own does not."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, value: Any) -> None:
        if isinstance(value, str):
            self._pieces.append(value)

    def again(self, value: Any) -> list[Repeatable] | None:
        return None if value else []

    def result(self) -> str:
        if any(piece.endswith("=") for piece in self._pieces[:-1]):
            try:
                return base64.b64encode(b"".join(map(base64.b64decode, self._pieces))).decode()
            except binascii.Error:
                pass
        return "".join(self._pieces)


# A finish reason that says more replaces one that says less; one that says as much does not. `stop` after
# `tool_calls` is OpenRouter's habit with Gemini; `length` and `content_filter` are facts that nothing takes back.
_PRECEDENCE: Final = {"stop": 0, "length": 2, "content_filter": 2, "error": 2}


class FinishReason:
    __slots__ = ("_reason",)

    def __init__(self) -> None:
        self._reason: Any = None

    def add(self, value: Any) -> None:
        # "" (Ollama, SGLang) and "null" (KoboldCpp) on chunks under way are no finish reasons.
        if not value or value == "null":
            return
        if self._reason is None or _PRECEDENCE.get(str(value), 1) > _PRECEDENCE.get(str(self._reason), 1):
            self._reason = value

    def again(self, value: Any) -> list[Repeatable] | None:
        return [] if not value or value in ("null", self._reason) else None

    def result(self) -> Any:
        return self._reason


class Usage:
    """The last that says something: zeros, {} and null are placeholders (MiniMax, GCWing/OpenBitFun#792).

    Many upstreams send it in every chunk, cumulative, so it is never summed.
    """

    __slots__ = ("_placeholder", "_said")

    def __init__(self) -> None:
        self._said: Any = None
        self._placeholder: Any = None

    def add(self, value: Any) -> None:
        if _counts(value):
            self._said = value
        elif value:
            self._placeholder = value

    def again(self, value: Any) -> list[Repeatable] | None:
        return None if _counts(value) else []

    def result(self) -> Any:
        return self._said or self._placeholder


def _counts(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_counts, value.values()))
    if isinstance(value, list):
        return any(map(_counts, value))
    return bool(value)


class Delta(Fields):
    """A message in fragments."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_DELTA, fragment)

    def add(self, value: Any) -> None:
        if isinstance(value, dict) and value.get("role") == "tool":
            # MiniMax's built-in search streams its results as a message of the role "tool"; they are not the answer.
            return
        super().add({"content": value} if isinstance(value, str) else value)

    def again(self, value: Any) -> list[Repeatable] | None:
        return None if isinstance(value, dict) and value.get("role") == "tool" else super().again(value)


_LOGPROBS: Final[Mapping[str, Rule]] = {"content": extend, "refusal": extend}
_DELTA: Final[Mapping[str, Rule]] = {
    "role": first,
    "content": Content,
    "refusal": concat,
    "reasoning_content": concat,  # DeepSeek, Z.ai, xAI, llama.cpp
    "reasoning": concat,  # OpenRouter, Groq, Ollama, vLLM
    "reasoning_text": concat,  # GitHub Copilot
    "reasoning_details": by_index(
        fields({"type": first, "id": first, "format": first, "index": first, "text": concat, "summary": concat}),
        also=("type",),
    ),
    "thinking_blocks": Content,  # LiteLLM
    "tool_calls": tool_calls,
    "function_call": fields({"name": name, "arguments": Arguments}),
    "audio": fields({"id": first, "data": Base64, "transcript": concat, "expires_at": latest}),
    "images": by_index(fields({}, latest)),
    "executed_tools": by_index(fields({}, latest)),  # Groq compound: each first without, then with its output
    "annotations": extend,
    "name": first,
    "channel": latest,  # Groq, gpt-oss
    "phase": latest,  # Cline, codex models
    "obfuscation": nothing,
}
_CHOICE: Final[Mapping[str, Rule]] = {
    "index": nothing,
    "delta": Delta,
    "message": latest,
    "text": concat,
    "logprobs": fields(_LOGPROBS),
    "finish_reason": FinishReason,
    "usage": Usage,
    "token_ids": extend,
    "obfuscation": nothing,  # Bedrock
}
_CHUNK: Final[Mapping[str, Rule]] = {
    "id": first,
    "object": nothing,  # "chat.completion.chunk", "", "text_completion", …: the answer has its own
    "created": first,
    "model": first,
    "choices": nothing,  # and usage: they have accumulators of their own
    "usage": nothing,
    "service_tier": latest,
    "system_fingerprint": latest,
    "obfuscation": nothing,
    "p": nothing,  # Mistral's padding
    "prompt_progress": nothing,  # llama.cpp's progress through the prompt, of which a plain answer has none
    "x_groq": fields({"usage": nothing}, overlay),  # which Groq's plain answers have at the top alone
}


# Events of gateways to Anthropic that say nothing but that the connection lives.
_HEARTBEATS: Final = ("ping", "keepalive")


class Choices:
    """The choices of all chunks by their `index`, in whatever order they came."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._by_index: dict[int, Fields] = {}
        self._unfinished: set[int] = set()

    def add(self, value: Any) -> None:
        for position, choice in enumerate(value if isinstance(value, list) else ()):
            if isinstance(choice, dict):
                index = index_of(choice)
                index = position if index is None else index
                known = self._by_index.get(index)
                if known is None:
                    known = self._by_index[index] = Fields(self._rules, overlay)
                known.add(choice)
                # Asked after every piece, so it must not cost more the more choices there are.
                (self._unfinished.discard if known.get("finish_reason") else self._unfinished.add)(index)

    def again(self, value: Any) -> list[Repeatable] | None:
        if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
            return None
        index = index_of(value[0]) or 0
        return self._by_index[index].again(value[0]) if index in self._by_index else None

    def in_order(self) -> list[tuple[int, Fields]]:
        return sorted(self._by_index.items())

    @property
    def unfinished(self) -> bool:
        """Whether a choice has no finish reason yet."""
        return bool(self._unfinished)

    def __len__(self) -> int:
        return len(self._by_index)


class CompletionAggregator:
    """What chat and legacy completions share: chunks with choices, each with its finish reason."""

    object_name: str
    choice_rules: Mapping[str, Rule]

    def __init__(self, expected_choices: int = 1) -> None:
        self._top = Fields(_CHUNK, overlay)
        self._choices = Choices(self.choice_rules)
        self._usage = Usage()
        self._expected_choices = expected_choices

    def add(self, chunk: dict[str, Any], event: str = "") -> None:
        """One chunk, as the upstream sent it. Never raises."""
        if not chunk.get("choices") and chunk.get("type") in _HEARTBEATS:
            return
        self._top.add(chunk)
        choices = chunk.get("choices")
        self._choices.add(choices)
        # Usage may stand in a choice (Moonshot, llama.cpp) or in Groq's x_groq as well; the top level's word is last.
        for place in (*(choices if isinstance(choices, list) else ()), chunk.get("x_groq"), chunk):
            if isinstance(place, dict) and "usage" in place:
                self._usage.add(place["usage"])

    def again(self, chunk: dict[str, Any]) -> list[Repeatable] | None:
        """What of a chunk just added would change anything if it came again, as in `merge`."""
        top = self._top.again(chunk)
        choices = self._choices.again(chunk.get("choices"))
        if top is None or choices is None or _counts(chunk.get("usage")) or _counts(chunk.get("x_groq")):
            return None
        return [*top, *choices]

    @property
    def ended(self) -> bool:
        return False  # usage may follow the last finish reason; only [DONE] ends a stream of chunks

    @property
    def finished(self) -> bool:
        """Whether every choice asked for has its finish reason (usage may still come)."""
        return len(self._choices) >= self._expected_choices and not self._choices.unfinished

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        """The document. `done`: the stream ended with `[DONE]`; `partial`: it was cut off, and what came is wanted.

        Raises `EmptyStream` where no choice came, `IncompleteStream` where one has no finish reason and the stream
        had no `[DONE]`.
        """
        if not len(self._choices):
            if done:
                raise EmptyStream("the upstream's event stream had no choice in it")
            raise IncompleteStream("the upstream's event stream stopped before its first choice")
        unfinished = self._choices.unfinished
        if unfinished and not done and not partial:
            raise IncompleteStream("the upstream's event stream stopped before its end")
        choices = [self._choice(index, choice, done=done) for index, choice in self._choices.in_order()]
        document = self._top.result()
        document["object"] = self.object_name
        document["choices"] = choices
        usage = self._usage.result()
        if usage is not None:
            document["usage"] = usage
        head = ("id", "object", "created", "model", "choices")
        return Aggregated(
            {key: document[key] for key in (*head, *document) if key in document},
            finish_reasons=tuple(str(choice["finish_reason"]) for choice in choices),
            inferred=unfinished,
        )

    def _choice(self, index: int, said: Fields, *, done: bool) -> dict[str, Any]:
        raise NotImplementedError


class ChatAggregator(CompletionAggregator):
    """Merges `chat.completion.chunk`s."""

    object_name = "chat.completion"
    choice_rules = _CHOICE

    def _choice(self, index: int, said: Fields, *, done: bool) -> dict[str, Any]:
        choice = said.result()
        message = _message(choice.pop("delta", None), choice.pop("message", None))
        choice.pop("usage", None)
        if choice.get("text") in (None, "", message["content"]):
            choice.pop("text", None)  # Together says its content twice
        finish_reason = choice.pop("finish_reason", None)
        if not finish_reason:
            finish_reason = _inferred(message) if done else "length"
        return {"index": index, "message": message, **choice, "finish_reason": finish_reason}


def _message(delta: Any, whole: Any) -> dict[str, Any]:
    """The answer's message. `whole` is a full message that some upstreams send beside the deltas (Perplexity, Writer)
    or in place of them (MiniMax): it counts only where the deltas said nothing."""
    message: dict[str, Any] = delta if isinstance(delta, dict) else {}
    if isinstance(whole, dict):
        for key, value in whole.items():
            if not message.get(key):
                message[key] = value
    stub = message.get("function_call")
    if isinstance(stub, dict) and not any(stub.values()):
        del message["function_call"]
    # Required in every direct answer, whether or not a delta said so.
    message["role"] = message.get("role") or "assistant"
    message.setdefault("content", None)
    return {key: message[key] for key in ("role", "content", *message)}


def _inferred(message: Mapping[str, Any]) -> str:
    if message.get("tool_calls"):
        return "tool_calls"
    return "function_call" if message.get("function_call") else "stop"


def _cannot_stream(request: Request) -> str | None:
    audio = request.get("audio")
    modalities = request.get("modalities")
    # "stream: true" takes no audio format but pcm16 (API reference, chat, `audio.format`).
    if isinstance(modalities, list) and "audio" in modalities and isinstance(audio, dict):
        audio_format = audio.get("format")
        if audio_format != "pcm16":
            return f"audio output in the format {audio_format} cannot be streamed, only pcm16"
    return None


CHAT: Final = Endpoint("chat", ("/chat/completions",), ChatAggregator, _cannot_stream)
