"""Legacy completions: from streamed `text_completion`s to the `text_completion` a plain request gets.

Knows their choices' fields; what they share with chat comes from `chat`. Must not know bytes, HTTP or server-sent
events. https://platform.openai.com/docs/api-reference/completions
"""

from collections.abc import Mapping
from typing import Any, Final

from .chat import CompletionAggregator, FinishReason, Usage
from .merge import Fields, Rule, concat, extend, fields, nothing

_CHOICE: Final[Mapping[str, Rule]] = {
    "index": nothing,
    "text": concat,
    "logprobs": fields(
        {
            "tokens": extend,
            "token_logprobs": extend,
            "top_logprobs": extend,
            "text_offset": extend,
            "content": extend,  # llama.cpp answers in the chat API's shape
        }
    ),
    "finish_reason": FinishReason,
    "usage": Usage,
    "delta": nothing,  # Together says the text a second time
    "token_ids": extend,
    "obfuscation": nothing,
}


class CompletionsAggregator(CompletionAggregator):
    """Merges streamed `text_completion`s."""

    object_name = "text_completion"
    choice_rules = _CHOICE

    def add(self, chunk: dict[str, Any], event: str = "") -> None:
        value = chunk.get("value")
        if isinstance(value, str) and "choices" not in chunk:
            # Writer streams {"value": "…"} and nothing else.
            chunk = {key: item for key, item in chunk.items() if key != "value"} | {"choices": [{"text": value}]}
        super().add(chunk, event)

    def _choice(self, index: int, said: Fields, *, done: bool) -> dict[str, Any]:
        choice = said.result()
        choice.pop("usage", None)
        finish_reason = choice.pop("finish_reason", None) or ("stop" if done else "length")
        return {"text": choice.pop("text", None) or "", "index": index, **choice, "finish_reason": finish_reason}
