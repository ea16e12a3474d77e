"""Anthropic's Messages API, which gateways serve beside OpenAI's: from its events to the `message` of a plain request.

Knows the event types and the content blocks; must not know bytes, HTTP or server-sent events.
https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from typing import Any, Final

from ..errors import IncompleteStream
from ..merge.fields import CHANGED, SAME, Fields, Slots, concat, extend, fragment, index_of, latest, overlay
from ..wire import jsontext
from .endpoint import Aggregated, Aggregator, Endpoint

# The member of each kind of delta, how it is merged, and what the block calls it, where that is not the same.
_MEMBERS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
    "citations_delta": "citation",
    "compaction_delta": "content",
}
_RULES: Final = {"signature": latest, "citation": extend}  # the others are texts
_IN_BLOCK: Final = {"partial_json": "input", "citation": "citations"}
_BESIDE: Final = frozenset(("type", "delta", "usage", "obfuscation"))
_INPUT_TYPES: Final = frozenset(("tool_use", "server_tool_use", "mcp_tool_use"))


class _Block:
    """One content block: what it started with, and what its deltas added."""

    def __init__(self, started: dict[str, Any]) -> None:
        self.started = started
        self.stopped = False
        self._members = Fields(_RULES, concat)
        self._others = Fields({}, fragment)

    def add(self, delta: dict[str, Any]) -> Slots | None:
        member = _MEMBERS.get(str(delta.get("type")))
        if member is None:
            return self._others.add({key: value for key, value in delta.items() if key != "type"})
        return self._members.add({member: delta.get(member)})

    def result(self) -> dict[str, Any]:
        block = dict(self.started)
        if str(block.get("type")) in _INPUT_TYPES:
            block.setdefault("input", {})
        for name, added in (self._members.result() or {}).items():
            member = _IN_BLOCK.get(name, name)
            block[member] = _joined(block.get(member), _input(added) if member == "input" else added)
        return block | (self._others.result() or {})


def _input(text: Any) -> Any:
    """A tool's input, of which the pieces are JSON. A call without arguments has no piece; a direct answer has {}."""
    if not isinstance(text, str):
        return {} if text is None else text
    try:
        return jsontext.loads(text)
    except ValueError:
        return {}  # also for input that was cut off: llama.cpp's own direct answer to it


def _joined(started: Any, added: Any) -> Any:
    """What a block starts with is empty, the first piece, or (MiniMax, cline/cline#9215) repeated by the deltas."""
    if isinstance(started, str) and isinstance(added, str):
        return added if added.startswith(started) else started + added
    if isinstance(started, list) and isinstance(added, list):
        return started + added
    return started if added is None or (added == {} and started) else added


class MessagesAggregator(Aggregator):
    def __init__(self, expected_choices: int = 1) -> None:
        self._message: dict[str, Any] = {}
        self._delta = Fields({}, overlay)
        self._usage = Fields({}, overlay)
        self._blocks: list[tuple[int, _Block]] = []
        self._by_index: dict[int, _Block] = {}
        self._whole: dict[str, Any] | None = None

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        if self.ended:
            return SAME
        kind, delta = chunk.get("type") or event, chunk.get("delta")
        if kind == "content_block_delta":
            return self._block(chunk).add(delta) if isinstance(delta, dict) else SAME
        if kind == "message_start":
            message = chunk.get("message")
            if isinstance(message, dict):
                self._count(message.get("usage"))
                self._message = self._message or message  # some gateways send it twice
        elif kind == "content_block_start":
            self._start_block(chunk)
        elif kind == "content_block_stop":
            self._block(chunk).stopped = True
        elif kind == "message_delta":
            # context_management and the like stand beside the delta, and usage should too.
            for place in (chunk, delta):
                if isinstance(place, dict):
                    self._count(place.get("usage"))
                    self._delta.add({key: value for key, value in place.items() if key not in _BESIDE})
            self.finished = bool(self._delta.get("stop_reason"))
        elif kind == "message":
            self._whole = chunk  # MiniMax repeats the whole message at the end (songquanpeng/one-api#2406)
        self.ended = kind == "message_stop"
        return CHANGED

    def _count(self, usage: Any) -> None:
        """The counts are cumulative, so one that falls to 0 is a gateway's placeholder."""
        if isinstance(usage, dict):
            self._usage.add({key: value for key, value in usage.items() if value != 0 or not self._usage.get(key)})

    def _start_block(self, chunk: dict[str, Any]) -> _Block:
        started = chunk.get("content_block")
        index = index_of(chunk)
        index = len(self._blocks) if index is None else index
        block = self._by_index.get(index)
        # The same index again, after its block has stopped, is another block (spliced answers).
        if block is None or block.stopped:
            block = self._by_index[index] = _Block(started if isinstance(started, dict) else {})
            self._blocks.append((index, block))
        return block

    def _block(self, chunk: dict[str, Any]) -> _Block:
        index = index_of(chunk)
        block = self._by_index.get(index) if index is not None else self._blocks[-1][1] if self._blocks else None
        if block is not None:
            return block
        delta = chunk.get("delta")
        begun = str(delta.get("type")) if isinstance(delta, dict) else ""
        kind = {"thinking_delta": "thinking", "input_json_delta": "tool_use"}.get(begun, "text")
        return self._start_block({**chunk, "content_block": {"type": kind}})

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        delta = self._delta.result() or {}
        if not self._message and self._whole is None and not self._blocks:
            raise IncompleteStream("the upstream's event stream stopped before its message began")
        stop_reason = delta.get("stop_reason") or (self._whole or {}).get("stop_reason")
        if not (stop_reason or self.ended or done or partial):
            raise IncompleteStream("the upstream's event stream stopped before its end")
        blocks = [block.result() for _, block in sorted(self._blocks, key=lambda entry: entry[0])]
        document = {"type": "message", "role": "assistant", **(self._whole or {}), **self._message}
        document["content"] = blocks or document.get("content") or []
        document |= {key: value for key, value in delta.items() if value is not None or key not in document}
        usage = self._usage.result()
        if usage:
            document["usage"] = usage
        inferred = not stop_reason
        if inferred:
            calls = any(block.get("type") == "tool_use" for block in blocks)
            document["stop_reason"] = ("tool_use" if calls else "end_turn") if done or self.ended else "max_tokens"
        return Aggregated(document, (str(document["stop_reason"]),), inferred)


MESSAGES: Final = Endpoint(
    "messages",
    ("/messages",),
    MessagesAggregator,
    not_under=("/threads/",),  # the Assistants API's
    stream_options=frozenset(),
)
