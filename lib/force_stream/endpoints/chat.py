"""Chat completions: from `chat.completion.chunk`s to the `chat.completion` a plain request gets.

Knows the chunk's fields and their rules, when a stream is complete, and the final shape; must not know bytes, HTTP
or server-sent events. https://platform.openai.com/docs/api-reference/chat-streaming
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

from ..errors import EmptyStream, IncompleteStream
from ..merge.fields import (
    CHANGED,
    SAME,
    Fields,
    Pieces,
    Rule,
    Slots,
    by_index,
    concat,
    created,
    extend,
    fields,
    first,
    index_of,
    latest,
    nothing,
    overlay,
    padding,
    parts,
)
from ..merge.tool_calls import called_function, tool_calls
from .endpoint import Aggregated, Aggregator, Endpoint, Request


class Base64(Pieces):
    """Base64 in pieces. OpenAI's audio pieces join as text; a piece with padding of its own does not."""

    def result(self) -> str:
        if any(piece.endswith("=") for piece in self._pieces[:-1]):
            try:
                return base64.b64encode(b"".join(map(base64.b64decode, self._pieces))).decode()
            except ValueError:
                pass
        return "".join(self._pieces)


# A finish reason replaces one of lower precedence. OpenRouter sends `stop` after `tool_calls` with Gemini; `length` and
# `content_filter` are facts that nothing takes back.
_PRECEDENCE: Final = {"stop": 0, "length": 2, "content_filter": 2, "error": 2}


def _finish_reason(before: Any, value: Any) -> Any:
    """The finish reason of a choice that had the one `before`, and now this value."""
    # "" (Ollama, SGLang) and "null" (KoboldCpp) on the chunks before the last are not finish reasons.
    if not value or value == "null":
        return before
    is_higher = before is None or _PRECEDENCE.get(str(value), 1) > _PRECEDENCE.get(str(before), 1)
    return value if is_higher else before


def _counts(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value
    return any(map(_counts, values)) if isinstance(value, (dict, list)) else bool(value)


_DELTA: Final[Mapping[str, Rule]] = {
    "role": first,
    "content": parts,
    "refusal": concat,
    "reasoning_content": concat,  # DeepSeek, Z.ai, xAI, llama.cpp
    "reasoning": concat,  # OpenRouter, Groq, Ollama, vLLM
    "reasoning_text": concat,  # GitHub Copilot
    "reasoning_details": by_index(
        fields({"type": first, "id": first, "format": first, "index": first, "text": concat, "summary": concat}),
        also=("type",),
    ),
    "thinking_blocks": parts,  # LiteLLM
    "tool_calls": tool_calls,
    "function_call": called_function,
    "audio": fields({"id": first, "data": Base64, "transcript": concat, "expires_at": latest}),
    "images": by_index(fields({}, latest)),
    "executed_tools": by_index(fields({}, latest)),  # Groq compound: each first without, then with its output
    "annotations": extend,
    "name": first,
    "channel": latest,  # Groq, gpt-oss
    "phase": latest,  # Cline, codex models
    "obfuscation": padding,
}
# What a choice has that is merged for itself, as the chunk's usage is.
ASIDE: Final = {"index": nothing, "finish_reason": nothing, "usage": nothing}
_CHOICE: Final[Mapping[str, Rule]] = {
    "delta": fields(_DELTA),
    "message": latest,
    "text": concat,
    "logprobs": fields({"content": extend, "refusal": extend}),
    "token_ids": extend,
    "obfuscation": padding,  # Bedrock
    **ASIDE,
}
_CHUNK: Final[Mapping[str, Rule]] = {
    "id": first,
    "object": nothing,  # "chat.completion.chunk", "", "text_completion", …: the answer has its own
    "created": created,
    "model": first,
    "choices": nothing,  # and usage: they have accumulators of their own
    "usage": nothing,
    "service_tier": latest,
    "system_fingerprint": latest,
    "prompt_progress": nothing,  # llama.cpp's progress through the prompt, which a plain answer does not have
    "x_groq": fields({"usage": nothing}, overlay),  # Groq's plain answers have the usage at the top alone
    "obfuscation": padding,
    "p": padding,  # Mistral's
}


class CompletionAggregator(Aggregator):
    """What chat and legacy completions share: chunks with choices, each with its finish reason.

    `finished` once each choice that was asked for has its own; usage may follow, so only [DONE] ends the stream.
    """

    object_name: str
    choice_rules: Mapping[str, Rule]

    def __init__(self, expected_choices: int = 1) -> None:
        self._top = Fields(_CHUNK, overlay)
        self._choices: dict[int, Fields] = {}
        self._reasons: dict[int, Any] = {}
        self._unfinished: set[int] = set()
        self._usage: Any = None
        self._placeholder: Any = None
        self._expected_choices = expected_choices

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        choices = chunk.get("choices")
        if not choices and chunk.get("type") in ("ping", "keepalive"):
            return SAME  # by such events gateways to Anthropic keep the connection alive
        if not isinstance(choices, list):
            choices = []
        top, chosen = self._top.add(chunk), self._add_choices(choices)
        slots = None if top is None or chosen is None else top + chosen
        # Usage may also stand in a choice (Moonshot, llama.cpp) or in Groq's x_groq; the one at the top level wins.
        for place in (*choices, chunk.get("x_groq"), chunk):
            usage = place.get("usage") if isinstance(place, dict) else None
            # Many upstreams send it in every chunk, cumulative, so it is never summed: the last that counts something
            # is the answer's. Zeros, {} and null are placeholders (MiniMax, GCWing/OpenBitFun#792).
            if usage and _counts(usage):
                self._usage, slots = usage, CHANGED
            elif usage:
                self._placeholder = usage
        return slots

    def _add_choices(self, choices: list[Any]) -> Slots | None:
        """Merge choices by their `index`, in whatever order they come."""
        effect: Slots | None = SAME
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                index = choice.get("index")
                if type(index) is not int:
                    index = index_of(choice)
                index = position if index is None else index
                known = self._choices.get(index)
                if known is None:
                    known = self._choices[index] = Fields(self.choice_rules, overlay)
                delta = choice.get("delta")
                if isinstance(delta, str) or (isinstance(delta, dict) and delta.get("role") == "tool"):
                    known.add(_with_delta(choice, delta))
                    effect = CHANGED
                else:
                    effect = known.add(choice)
                reason = self._reasons[index] = _finish_reason(self._reasons.get(index), choice.get("finish_reason"))
                # `finished` is asked after every event, so it must not cost more the more choices there are.
                (self._unfinished.discard if reason else self._unfinished.add)(index)
        self.finished = len(self._choices) >= self._expected_choices and not self._unfinished
        return effect if len(choices) < 2 else CHANGED

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        if not self._choices:
            if done:
                raise EmptyStream("the upstream's event stream had no choices")
            raise IncompleteStream("the upstream's event stream stopped before its first choice")
        if self._unfinished and not done and not partial:
            raise IncompleteStream("the upstream's event stream stopped before its end")
        choices = [
            self._choice(index, choice.result(), self._reasons[index], done=done)
            for index, choice in sorted(self._choices.items())
        ]
        document = self._top.result()
        document["object"] = self.object_name
        document["choices"] = choices
        if usage := self._usage or self._placeholder:
            document["usage"] = usage
        keys = ("id", "object", "created", "model", "choices", *document)
        return Aggregated(
            {key: document[key] for key in keys if key in document},
            finish_reasons=tuple(str(choice["finish_reason"]) for choice in choices),
            inferred=bool(self._unfinished),
        )

    def _choice(self, index: int, choice: dict[str, Any], finish_reason: Any, *, done: bool) -> dict[str, Any]:
        """The document's choice, given what was merged of it."""
        raise NotImplementedError


def _with_delta(choice: dict[str, Any], delta: Any) -> dict[str, Any]:
    """A choice whose delta is text alone, or not the answer's."""
    rest = {key: value for key, value in choice.items() if key != "delta"}
    # MiniMax's built-in search streams its results as a message of the role "tool"; they are not the answer.
    return rest | {"delta": {"content": delta}} if isinstance(delta, str) else rest


class ChatAggregator(CompletionAggregator):
    object_name = "chat.completion"
    choice_rules = _CHOICE

    def _choice(self, index: int, choice: dict[str, Any], finish_reason: Any, *, done: bool) -> dict[str, Any]:
        message = _message(choice.pop("delta", None), choice.pop("message", None))
        if choice.get("text") in (None, "", message["content"]):
            choice.pop("text", None)  # Together sends its content twice
        if not finish_reason:
            # Two of the reasons have the names of the members that they are about.
            calls = (key for key in ("tool_calls", "function_call") if message.get(key))
            finish_reason = next(calls, "stop") if done else "length"
        return {"index": index, "message": message, **choice, "finish_reason": finish_reason}


def _message(delta: Any, whole: Any) -> dict[str, Any]:
    """The answer's message. `whole` is a full message that some upstreams send beside the deltas (Perplexity, Writer)
    or in place of them (MiniMax): it fills in what the deltas left out."""
    message: dict[str, Any] = delta if isinstance(delta, dict) else {}
    if isinstance(whole, dict):
        message |= {key: value for key, value in whole.items() if not message.get(key)}
    stub = message.get("function_call")
    if isinstance(stub, dict) and not any(stub.values()):
        del message["function_call"]
    # Required in every direct answer, whether or not a delta has them.
    message["role"] = message.get("role") or "assistant"
    message.setdefault("content", None)
    return {key: message[key] for key in ("role", "content", *message)}


def _cannot_stream(request: Request) -> str | None:
    audio = request.get("audio")
    modalities = request.get("modalities")
    # With "stream: true" the only audio format is pcm16 (API reference, chat, `audio.format`).
    if isinstance(modalities, list) and "audio" in modalities and isinstance(audio, dict):
        audio_format = audio.get("format")
        if audio_format != "pcm16":
            return f"audio output in the format {audio_format} cannot be streamed, only pcm16"
    return None


CHAT: Final = Endpoint("chat", ("/chat/completions",), ChatAggregator, _cannot_stream)
