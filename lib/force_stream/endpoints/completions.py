"""Completions: from what streams at their path to what a plain request there gets.

Knows the three formats that upstreams answer in: OpenAI's legacy `text_completion`, chat's chunks (Mistral's
fill-in-the-middle), and llama.cpp's own. Must not know bytes, HTTP or server-sent events.
https://platform.openai.com/docs/api-reference/completions
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..errors import IncompleteStream
from ..merge.fields import (
    CHANGED,
    Fields,
    Rule,
    Slots,
    concat,
    extend,
    fields,
    index_of,
    listing,
    nothing,
    padding,
    spelled,
)
from ..wire.text import printable
from .chat import (
    ASIDE,
    CHAT,
    OBJECTS,
    ChatAggregator,
    CompletionAggregator,
    chunks_of,
    has_choices,
    is_blank,
)
from .endpoint import Aggregated, Aggregator, Asked, Endpoint, Memo, Request, fewer_than
from .pieces import pieces

_CHOICE: Final[Mapping[str, Rule]] = {
    "delta": nothing,
    **dict.fromkeys(("text", "reasoning", "reasoning_content"), concat),
    # llama.cpp answers in the chat API's shape, which has `content`.
    "logprobs": fields(dict.fromkeys(("tokens", "token_logprobs", "top_logprobs", "text_offset", "content"), listing)),
    "token_ids": listing,
    "obfuscation": padding,
    **ASIDE,
}


class LegacyAggregator(CompletionAggregator):
    object_name = "text_completion"
    choice_rules = _CHOICE

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        if "choices" not in chunk and (value := spelled(chunk.get("value"))) is not None:
            # Writer streams {"value": "…"} and nothing else.
            super().add({key: item for key, item in chunk.items() if key != "value"} | {"choices": [{"text": value}]})
            return CHANGED
        return super().add(chunk, event)

    def _choice(self, index: int, choice: dict[str, Any], finish_reason: Any, *, done: bool) -> dict[str, Any]:
        finish_reason = finish_reason or ("stop" if done else "length")
        return {"text": choice.pop("text", None) or "", "index": index, **choice, "finish_reason": finish_reason}


class LlamaCppAggregator(Aggregator):
    """Merges llama.cpp's own completions: one object in fragments, or several for a list of prompts, of which none ends
    the stream."""

    _RULES: Final[Mapping[str, Rule]] = {"content": concat, "completion_probabilities": extend}

    def __init__(self, expected_choices: int = 1) -> None:
        self._expected = expected_choices
        self._merged: dict[int, Fields] = {}
        self._last: dict[int, dict[str, Any]] = {}
        self._stopped: set[int] = set()
        self._going_on: set[int] = set()

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        index = index_of(chunk) or 0
        self._merged.setdefault(index, Fields(self._RULES, nothing)).add(chunk)
        stops, has_stopped = chunk.get("stop") is True, index in self._stopped
        if has_stopped and index not in self._going_on and not is_blank(chunk.get("content")):
            self.early += 1
        if stops:
            self._stopped.add(index)
            self._going_on.discard(index)
        elif not has_stopped or not is_blank(chunk.get("content")):
            self._going_on.add(index)
        if stops or not has_stopped:
            self._last[index] = chunk
        self.finished = len(self._last) >= self._expected and not self._going_on
        return CHANGED  # the chunks count tokens, and the last one is the answer's frame

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        is_whole = len(self._last) >= self._expected and len(self._stopped) == len(self._last)
        if not (is_whole or done or partial):
            raise IncompleteStream("the upstream's event stream stopped before its end")
        # The last chunk is the direct answer, except for what comes in pieces.
        documents = [_as_asked(self._last[index]) | self._merged[index].result() for index in sorted(self._merged)]
        reasons = tuple(str(document.get("stop_type")) for document in documents)
        odd = fewer_than(self._expected, len(documents))
        return Aggregated(documents[0] if len(documents) == 1 else documents, reasons, odd=odd)


def _as_asked(last: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp repeats the request's settings in its answer, and the client's request was not for a stream."""
    settings = last.get("generation_settings")
    if isinstance(settings, dict) and settings.get("stream") is True:
        return last | {"generation_settings": settings | {"stream": False}}
    return last


class CompletionsAggregator(Aggregator):
    """Passes the chunks to the aggregator of their format, with those that came before the format was known."""

    objects = OBJECTS
    has_choices = True

    def __init__(self, expected_choices: int = 1) -> None:
        self._expected = expected_choices
        self._held: list[dict[str, Any]] = []
        self._format: Aggregator | None = None
        self._as_chat = ChatAggregator()

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        if self._format is None:
            aggregator = _format_of(chunk)
            if aggregator is None:
                self._held.append(chunk)
                return CHANGED
            self._format = aggregator(self._expected)
            for held in self._held:
                self._format.add(held)
            self._held.clear()
        effect = self._format.add(chunk, event)
        self.finished, self.early = self._format.finished, self._format.early
        return effect

    def goes_on(self, chunk: dict[str, Any], memo: Memo) -> bool:
        return self._format is not None and self._format.goes_on(chunk, memo)

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        return _format_of(chunk) is not None or self._as_chat.knows(chunk, event)

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        # Where no chunk showed the format, there was no choice either.
        return (self._format or LegacyAggregator()).result(done=done, partial=partial)


def _format_of(chunk: Mapping[str, Any]) -> type[LegacyAggregator | ChatAggregator | LlamaCppAggregator] | None:
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices:
        # Together sends both `text` and `delta`, and answers with the former.
        spoken = ("delta", "message")
        legacy = any(
            "text" in choice or choice.keys().isdisjoint(spoken) for choice in choices if isinstance(choice, dict)
        )
        return LegacyAggregator if legacy else ChatAggregator
    if spelled(chunk.get("value")) is not None:
        return LegacyAggregator
    return LlamaCppAggregator if "content" in chunk and "stop" in chunk else None


def _cannot_stream(request: Request) -> str | None:
    # "Results cannot be streamed" (API reference, completions, `best_of`).
    best_of = request.get("best_of")
    if isinstance(best_of, (int, float)) and best_of > 1:
        return f"best_of {printable(str(best_of))} cannot be streamed"
    return None


# The other direction

_OF_A_CHOICE: Final = frozenset(("index", "text", "logprobs", "finish_reason"))


def _events_of(document: Any, asked: Asked) -> Iterator[dict[str, Any]] | None:
    if isinstance(document, dict) and "choices" not in document and "content" in document and "stop" in document:
        return _fragments_of([document])
    if (
        isinstance(document, list)
        and document
        and all(isinstance(each, dict) and "content" in each for each in document)
    ):
        return _fragments_of(document)
    if not has_choices(document):
        return None
    if any("message" in choice for choice in document["choices"]):
        return CHAT.events_of(document, asked)
    return chunks_of(document, "text_completion", _chunks_of_choice, with_usage=asked.with_usage)


def _chunks_of_choice(position: int, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    index = choice.get("index")
    index = index if type(index) is int else position
    text, logprobs = choice.get("text"), choice.get("logprobs")
    text = text if isinstance(text, str) else ""
    without = {"logprobs": None} if "logprobs" in choice else {}
    cut = _by_tokens(text, logprobs)
    for piece, said in [(piece, without) for piece in pieces(text)] if cut is None else cut:
        yield {"text": piece, "index": index, **said, "finish_reason": None}
    last = {key: value for key, value in choice.items() if key not in _OF_A_CHOICE}
    said = without if cut is not None else {"logprobs": logprobs} if "logprobs" in choice else {}
    yield {"text": "", "index": index, **said, **last, "finish_reason": choice.get("finish_reason")}


def _by_tokens(text: str, logprobs: Any) -> list[tuple[str, dict[str, Any]]] | None:
    """A text cut where its tokens are, each with its share of the lists; None where they are not those of the text."""
    tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens) or "".join(tokens) != text:
        return None
    lists = {key: value for key, value in logprobs.items() if isinstance(value, list) and len(value) == len(tokens)}
    rest = {key: value for key, value in logprobs.items() if key not in lists}
    cut: list[tuple[str, dict[str, Any]]] = []
    for place, token in enumerate(tokens):
        share = {key: value[place : place + 1] for key, value in lists.items()}
        cut.append((token, {"logprobs": share | (rest if not place else {})}))
    return cut


def _fragments_of(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """llama.cpp's own events."""
    for position, document in enumerate(documents):
        index = index_of(document)
        index = position if index is None else index
        for piece in pieces(content) if isinstance(content := document["content"], str) else ():
            yield {"index": index, "content": piece, "stop": False}
        yield {"index": index, **document, "content": "", "stop": True}


COMPLETIONS: Final = Endpoint("completions", ("/completions",), CompletionsAggregator, _events_of, _cannot_stream)
