"""Deviations of single upstreams that cannot be told from a well-formed stream, so that a rule must name them.

Most are a function that makes a patch for one stream: another function, which changes every chunk in place before it is
merged. Where changing the finished message is enough, it is a function that does so: chunks that have to be patched all
have to be parsed. Must not know how chunks are merged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..merge.fields import index_of, spelled

type Chunk = dict[str, Any]
type PatchChunk = Callable[[Chunk], None]
type PatchMessage = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Quirk:
    """A row. `reports` says where it was seen; `help` is Markdown, for the table in docs/rules.md and for rules.yaml.

    `patch` makes the function for one stream's chunks; `patch_message` changes each message of the finished document.
    `lifts`: a member of the request that does not keep this upstream from streaming.
    """

    name: str
    reports: str
    help: str
    patch: Callable[[], PatchChunk] | None = None
    patch_message: PatchMessage | None = None
    lifts: str = ""


# The texts of a delta that come in fragments, and which upstreams repeat.
_TEXTS: Final = ("content", "reasoning_content", "reasoning")


def _choices(chunk: Chunk) -> Iterator[tuple[int, dict[str, Any]]]:
    """The choices of a chunk, each with its index."""
    choices = chunk.get("choices")
    for place, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict):
            index = index_of(choice)
            yield (place if index is None else index), choice


def _texts(chunk: Chunk) -> Iterator[tuple[tuple[int, str], dict[str, Any], str]]:
    """Each text of a chunk: its choice and name, the delta that holds it, and its name."""
    for index, choice in _choices(chunk):
        delta = choice.get("delta")
        if isinstance(delta, dict):
            for name in _TEXTS:
                text = spelled(delta.get(name))
                if text is not None:
                    delta[name] = text
                    yield (index, name), delta, name


def _cumulative_content() -> PatchChunk:
    so_far: dict[tuple[int, str], str] = {}

    def patch(chunk: Chunk) -> None:
        for key, delta, name in _texts(chunk):
            before, text = so_far.get(key, ""), delta[name]
            if text.startswith(before):
                so_far[key] = text
                delta[name] = text[len(before) :]
            else:
                so_far[key] = before + text

    return patch


@dataclass(slots=True)
class _Fragments:
    texts: list[str]
    length: int = 0

    def are(self, text: str) -> bool:
        # A single fragment may well come twice: "ha", "ha".
        return len(self.texts) > 1 and len(text) == self.length and "".join(self.texts) == text


def _final_chunk_repeats_content() -> PatchChunk:
    so_far: dict[tuple[int, str], _Fragments] = {}

    def patch(chunk: Chunk) -> None:
        for key, delta, name in _texts(chunk):
            before = so_far.setdefault(key, _Fragments([]))
            if before.are(delta[name]):
                delta[name] = ""
            elif delta[name]:
                before.texts.append(delta[name])
                before.length += len(delta[name])

    return patch


def _choice_index_counts_chunks() -> PatchChunk:
    def patch(chunk: Chunk) -> None:
        for _, choice in _choices(chunk):
            choice.pop("index", None)  # then its place in the list counts, which is right

    return patch


_OPENING: Final = "<think>"
_CLOSING: Final = "</think>"


def _start_of(tag: str, text: str) -> int:
    """How many of the last characters of `text` may be the start of `tag`."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)


@dataclass(slots=True)
class _Thinking:
    """The content of one choice: what of it is between the tags, which can only be at its start."""

    _blanks: list[str] = field(default_factory=list)
    _held: str = ""
    _tag: str = _OPENING  # the tag to look for; "" once there can be no more

    def split(self, text: str, *, last: bool) -> tuple[str, str]:
        """The thinking and the answer in the next fragment. What may be the start of a tag is held back until the next
        one, unless this is the last."""
        if not last and self._tag == _OPENING and (not text or (text.isspace() and not self._held)):
            self._blanks.append(text)
            return "", ""
        text, self._held = self._held + text, ""
        thinking = ""
        if self._tag == _OPENING:
            text, self._blanks = "".join((*self._blanks, text)), []
            start = text.lstrip()
            if start.startswith(_OPENING):
                text, self._tag = start.removeprefix(_OPENING), _CLOSING
            elif not last and _OPENING.startswith(start):
                self._held = text
                return "", ""
            else:
                self._tag = ""
        if self._tag == _CLOSING:
            thinking, closed, rest = text.partition(_CLOSING)
            if closed:
                self._tag, text = "", rest
            else:
                held = 0 if last else _start_of(_CLOSING, thinking)
                self._held = thinking[len(thinking) - held :]
                thinking, text = thinking[: len(thinking) - held], ""
        return thinking, text


def _think_tags() -> PatchChunk:
    choices: dict[int, _Thinking] = {}

    def patch(chunk: Chunk) -> None:
        for index, choice in _choices(chunk):
            delta = choice.get("delta")
            if isinstance(delta, str):
                delta = choice["delta"] = {"content": delta}
            last = bool(choice.get("finish_reason"))
            content = delta.get("content") if isinstance(delta, dict) else None
            if spelled(content) is None and not (last and content is None):
                continue
            thinking, text = choices.setdefault(index, _Thinking()).split(spelled(content) or "", last=last)
            if not isinstance(delta, dict):
                delta = choice["delta"] = {}
            if thinking:
                delta["reasoning_content"] = (spelled(delta.get("reasoning_content")) or "") + thinking
            delta["content"] = text or None

    return patch


def _usage_per_choice() -> PatchChunk:
    finished = [0]

    def patch(chunk: Chunk) -> None:
        finished.extend(index for index, choice in _choices(chunk) if choice.get("finish_reason"))
        # A direct answer has the first choice's counts. Here they come with its last chunk, or right after it.
        if finished[-1] != 0:
            chunk.pop("usage", None)
            chunk.pop("timings", None)

    return patch


def _content_never_null(message: dict[str, Any]) -> None:
    if message.get("content") is None:
        message["content"] = ""


def _empty_content_is_null(message: dict[str, Any]) -> None:
    if message.get("content") == "" and (message.get("tool_calls") or message.get("function_call")):
        message["content"] = None


def _tool_calls_keep_index(message: dict[str, Any]) -> None:
    calls = message.get("tool_calls")
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            call.setdefault("index", place)


_ALL: Final = (
    Quirk(
        "cumulative_content",
        "QwenLM/qwen-code#3896, QwenLM/qwen-code#3279, QwenLM/qwen-code#1184",
        "Each delta repeats all of the text so far (DashScope's coding plan, proxies to Gemini).",
        _cumulative_content,
    ),
    Quirk(
        "final_chunk_repeats_content",
        "openclaw/openclaw#142888, tashfeenahmed/freellmapi#1007",
        "One delta, usually the last, repeats the whole text.",
        _final_chunk_repeats_content,
    ),
    Quirk(
        "choice_index_counts_chunks",
        "microsoft/foundry-local#144",
        "The index of the only choice increases with every chunk (foundry-local).",
        _choice_index_counts_chunks,
    ),
    Quirk(
        "think_tags",
        "BerriAI/litellm#15233, decolua/9router#2231",
        "The text begins with reasoning in `<think>` tags; a plain answer has it as `reasoning_content` (MiniMax).",
        _think_tags,
    ),
    Quirk(
        "content_never_null",
        "llama.cpp",
        'Where there is no text, a plain answer has `""`, but the stream has null or nothing (llama.cpp).',
        patch_message=_content_never_null,
    ),
    Quirk(
        "empty_content_is_null",
        "vLLM, LiteLLM",
        'With tool calls, the content of a plain answer is null, but the stream has `""` (vLLM, LiteLLM).',
        patch_message=_empty_content_is_null,
    ),
    Quirk(
        "tool_calls_keep_index",
        "OpenRouter, DeepSeek, Mistral, Z.ai, Ollama, DashScope",
        "The tool calls of a plain answer have an `index` too, their place in the list (OpenRouter, DeepSeek, Mistral, "
        "Z.ai, Ollama, DashScope).",
        patch_message=_tool_calls_keep_index,
    ),
    Quirk(
        "usage_per_choice",
        "llama.cpp",
        "Each of several choices has its own usage; a plain answer has only the first choice's (llama.cpp).",
        _usage_per_choice,
    ),
    Quirk(
        "streams_any_audio_format",
        "Qwen-Omni",
        "Audio can be streamed in any format, not only pcm16 (Qwen-Omni, which streams `wav`).",
        lifts="audio",
    ),
)
QUIRKS: Final[Mapping[str, Quirk]] = {quirk.name: quirk for quirk in _ALL}


def chosen(names: Iterable[str]) -> list[Quirk]:
    """The quirks with these names; a flow of another version may name one that does not exist here."""
    return [QUIRKS[name] for name in names if name in QUIRKS]


def patch_document(document: Any, quirks: Iterable[Quirk]) -> None:
    """Change the messages of a finished document as these quirks say."""
    patches = [quirk.patch_message for quirk in quirks if quirk.patch_message is not None]
    for _, choice in _choices(document) if isinstance(document, dict) else ():
        message = choice.get("message")
        if isinstance(message, dict):
            for patch in patches:
                patch(message)
