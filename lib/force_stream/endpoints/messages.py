"""Anthropic's Messages API, which gateways serve beside OpenAI's: from its events to the `message` of a plain request.

Knows the event types and the content blocks; must not know bytes, HTTP or server-sent events.
https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Iterator
from typing import Any, Final

from ..errors import CorruptedStream, IncompleteStream
from ..merge.fields import (
    CHANGED,
    SAME,
    Fields,
    JsonText,
    Slots,
    concat,
    extend,
    fragment,
    index_of,
    is_informative,
    latest,
    overlay,
    spelled,
)
from ..wire import jsontext
from .endpoint import NO_REASONS, Aggregated, Aggregator, Asked, Endpoint, Memo
from .pieces import pieces

# The member of each kind of delta, how it is merged, and what the block calls it, where that is not the same.
_MEMBERS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
    "citations_delta": "citation",
    "compaction_delta": "content",
}
_RULES: Final = {"signature": latest, "citation": extend, "partial_json": JsonText}  # the others are texts
_IN_BLOCK: Final = {"partial_json": "input", "citation": "citations"}
_PADDING: Final = "obfuscation"
_BESIDE: Final = frozenset(("type", "delta", "usage", _PADDING))
_INPUT_TYPES: Final = frozenset(("tool_use", "server_tool_use", "mcp_tool_use"))
# The blocks that each of these kinds of delta can belong to, among those that are known.
_HOLDERS: Final = {"text_delta": {"text"}, "thinking_delta": {"thinking"}, "input_json_delta": _INPUT_TYPES}
_KNOWN: Final = frozenset(("text", "thinking", *_INPUT_TYPES))
# The stop reasons with which a tool's input may end anywhere.
_LIMITS: Final = ("max_tokens", "model_context_window_exceeded")


class _StopReason:
    """The stop reason: as in chat, a later `end_turn` does not replace a more telling one."""

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> Slots | None:
        is_reason = bool(value) and str(value).lower() not in NO_REASONS
        if is_reason and (value != "end_turn" or self._value in (None, "pause_turn")):
            self._value = value
        return CHANGED

    def result(self) -> Any:
        return self._value


class _Block:
    """One content block: what it started with, what its deltas added, and what its end said."""

    def __init__(self, started: dict[str, Any]) -> None:
        self.started = started
        self.stopped = False
        self._members = Fields(_RULES, concat)
        self._others = Fields({}, fragment)
        self._ends: list[dict[str, Any]] = []

    def add(self, delta: dict[str, Any]) -> Slots | None:
        member = _MEMBERS.get(str(delta.get("type")))
        if member is None:
            return self._others.add({key: value for key, value in delta.items() if key != "type"})
        value = delta.get(member)
        if len(delta) == 2 and isinstance(value, str):
            return self._members.add({member: value})
        # A member of another kind of delta beside it, as a signature beside its thinking.
        for key, other in delta.items():
            if key not in ("type", member, _PADDING):
                (self._members if key in _MEMBERS.values() else self._others).add({key: other})
        is_snapshot = member == "thinking" and delta.get("signature") and value == self._members.get("thinking")
        if not is_snapshot:
            text = value if isinstance(value, dict) else spelled(value)
            self._members.add({member: value if text is None else text})
        return SAME if value is None and len(delta) == 2 else CHANGED

    def goes_on(self, delta: dict[str, Any]) -> bool:
        """Add the next piece of a text, if a delta is one."""
        member = _MEMBERS.get(str(delta.get("type")), "")
        known, piece = self._members.member(member), delta.get(member)
        if known is None or len(delta) != 2 or type(piece) is not str:
            return False
        known.add(piece)
        return True

    def takes(self, delta: str) -> bool:
        """Whether this kind of delta can be this block's."""
        kind = str(self.started.get("type"))
        has_member = self._members.member(_MEMBERS.get(delta, "")) is not None
        return has_member or kind not in _KNOWN or kind in _HOLDERS.get(delta, _KNOWN)

    def stop(self, chunk: dict[str, Any]) -> None:
        self.stopped = True
        self.say_again(chunk.get("content_block"))

    def say_again(self, block: Any) -> None:
        """The whole block, as it stands when it is stopped or started once more: it may add what was not said."""
        if isinstance(block, dict):
            self._ends.append(block)

    def result(self, *, is_cut: bool, shows_cut: bool = False) -> dict[str, Any]:
        """The block. An input that is not JSON raises `CorruptedStream`, but where it was cut off; then it is empty, as
        in llama.cpp's own direct answer, or the text that came."""
        block = dict(self.started)
        for name, added in (self._members.result() or {}).items():
            member = _IN_BLOCK.get(name, name)
            block[member] = _joined(block.get(member), _input(added, is_cut, shows_cut) if member == "input" else added)
        block |= self._others.result() or {}
        for end in self._ends:
            block |= {key: value for key, value in end.items() if not is_informative(block.get(key))}
        if str(block.get("type")) in _INPUT_TYPES:
            block["input"] = _input(block.get("input"), is_cut, shows_cut)  # what is whole from the start may be a text
        return block


def _input(text: Any, is_cut: bool, shows_cut: bool) -> Any:
    """A tool's input, an object whose JSON comes in pieces. A call without arguments has no piece; a direct answer has
    {}."""
    try:
        value = jsontext.loads(text.strip() or "{}") if isinstance(text, str) else text
    except ValueError:
        value = text
    if value is None or isinstance(value, dict):
        return value or {}
    if is_cut:
        return value if shows_cut else {}
    raise CorruptedStream("the input of a tool call is not a JSON object")


def _joined(started: Any, added: Any) -> Any:
    """What a block starts with is empty, the first piece, or (MiniMax, cline/cline#9215) repeated by the deltas."""
    if isinstance(started, str) and isinstance(added, str):
        return added if added.startswith(started) else started + added
    if isinstance(started, list) and isinstance(added, list):
        return started + added
    return started if added is None or (added == {} and started) else added


def _without_snapshots(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks, without a thinking block that is followed by the same one, signed: only the signed one is kept."""
    kept: list[dict[str, Any]] = []
    for block in blocks:
        before = kept[-1] if kept else {}
        signature = block.get("signature")
        if (
            block.get("type") == before.get("type") == "thinking"
            and signature
            and before.get("signature") in (None, "", signature)
            and block.get("thinking") == before.get("thinking")
        ):
            kept[-1] = before | block
        else:
            kept.append(block)
    return kept


class MessagesAggregator(Aggregator):
    families = ("message_", "content_block_", "ping", "keepalive")

    def __init__(self, expected_choices: int = 1) -> None:
        self._message: dict[str, Any] = {}
        self._delta = Fields({"stop_reason": _StopReason}, overlay)
        self._usage = Fields({}, overlay)
        self._counted: set[str] = set()
        self._blocks: list[tuple[int, _Block]] = []
        self._by_index: dict[int, _Block] = {}
        self._whole: dict[str, Any] | None = None

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        return super().knows(chunk, event) or (chunk.get("type") or event) == "message"

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        if self.ended:
            return SAME
        kind, delta = chunk.get("type") or event, chunk.get("delta")
        if kind == "content_block_delta":
            if not isinstance(delta, dict):
                return SAME
            effect = self._block(chunk).add(delta)
            if not self.finished:
                return effect
            # The stop reason did not end the message. A blank piece is not content, but similar ones may be.
            self._go_on(delta)
            return CHANGED
        if kind == "message_start":
            message = chunk.get("message")
            if isinstance(message, dict):
                self._count(message.get("usage"))
                self._message = self._message or message  # some gateways send it twice
        elif kind == "content_block_start":
            self._start_block(chunk)
            self._go_on(chunk.get("content_block"))
        elif kind == "content_block_stop":
            # The end of a block that never began is none, unless it has all of it.
            if self._known(chunk) is not None or isinstance(chunk.get("content_block"), dict):
                self._block(chunk).stop(chunk)
        elif kind == "message_delta":
            # context_management and the like stand beside the delta, and usage should too.
            for place in (chunk, delta):
                if isinstance(place, dict):
                    self._count(place.get("usage"))
                    self._delta.add({key: value for key, value in place.items() if key not in _BESIDE})
                    if place.get("stop_reason"):
                        self.finished = bool(self._delta.get("stop_reason"))
        elif kind == "message":
            self._whole = chunk  # MiniMax repeats the whole message at the end (songquanpeng/one-api#2406)
            self._count(chunk.get("usage"))
        self.ended = kind == "message_stop"
        return CHANGED

    def goes_on(self, chunk: dict[str, Any], memo: Memo) -> bool:
        index, delta = chunk.get("index"), chunk.get("delta")
        if self.ended or self.finished or type(index) is not int or type(delta) is not dict:
            return False
        block = self._by_index.get(index)
        return block is not None and chunk["type"] == "content_block_delta" and block.goes_on(delta)

    def _go_on(self, part: Any) -> None:
        """More content."""
        if self.finished and _says_something(part):
            self.finished = False
            self.early += 1

    def _count(self, usage: Any) -> None:
        """The counts are cumulative, so one that falls to 0 is a gateway's placeholder."""
        if isinstance(usage, dict):
            self._usage.add({key: value for key, value in usage.items() if value != 0 or key not in self._counted})
            self._counted.update(key for key, value in usage.items() if value)

    def _start_block(self, chunk: dict[str, Any]) -> _Block:
        started = chunk.get("content_block")
        index = index_of(chunk)
        index = len(self._blocks) if index is None else index
        block = self._by_index.get(index)
        started = started if isinstance(started, dict) else {}
        # The same index again, after its block has stopped, is another block (spliced answers).
        if block is None or block.stopped or _is_another(started, block.started):
            block = self._by_index[index] = _Block(started)
            self._blocks.append((index, block))
        else:
            block.say_again(started)
        return block

    def _known(self, chunk: dict[str, Any]) -> _Block | None:
        index = index_of(chunk)
        return self._by_index.get(index) if index is not None else self._blocks[-1][1] if self._blocks else None

    def _block(self, chunk: dict[str, Any]) -> _Block:
        block, delta = self._known(chunk), chunk.get("delta")
        begun = str(delta.get("type")) if isinstance(delta, dict) else ""
        # Some gateways go on with the index of the block before (Oaklight/llm-rosetta#246).
        for one in () if block is None else (block, self._blocks[-1][1]):
            if one.takes(begun):
                return one
        kinds = {"thinking_delta": "thinking", "signature_delta": "thinking", "input_json_delta": "tool_use"}
        kind = kinds.get(begun, "text")
        return self._start_block({**chunk, "content_block": {"type": kind}})

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        delta = self._delta.result() or {}
        if not self._message and self._whole is None and not self._blocks:
            raise IncompleteStream("the upstream's event stream stopped before its message began")
        stop_reason = delta.get("stop_reason") or (self._whole or {}).get("stop_reason")
        if not (stop_reason or self.ended or done or partial):
            raise IncompleteStream("the upstream's event stream stopped before its end")
        is_cut = partial or stop_reason in _LIMITS
        sorted_blocks = sorted(self._blocks, key=lambda entry: entry[0])
        blocks = _without_snapshots(
            [block.result(is_cut=is_cut, shows_cut=self.shows_cut) for _, block in sorted_blocks]
        )
        whole = self._whole or {}
        # The start of a message has null, and no usage yet, where the whole message has the result.
        started = {key: value for key, value in self._message.items() if value is not None or key not in whole}
        document = {"type": "message", "role": "assistant", **whole, **started}
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


def _is_another(started: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a block that starts where another has not stopped is not the same one."""
    said = [(started.get(key), before.get(key)) for key in ("type", "id")]
    return any(one and other and one != other for one, other in said)


def _says_something(part: Any) -> bool:
    """Whether a delta or the start of a block has more than blank text."""
    if not isinstance(part, dict):
        return False
    values = [value for key, value in part.items() if key not in ("type", "id", "name")]
    is_call = str(part.get("type")).endswith("tool_use")
    return is_call or any(value.strip() if isinstance(value, str) else is_informative(value) for value in values)


# The other direction

# What an answer has at its end, beside the counts.
_AT_THE_END: Final = ("container", "stop_reason", "stop_sequence", "stop_details")
_ONLY_AT_THE_END: Final = ("container", "context_management")
# The counts that are not there at the beginning, and those that are there only.
_COUNTED_AT_THE_END: Final = ("output_tokens_details", "server_tool_use", "iterations")
_COUNTED_AT_THE_START: Final = ("cache_creation", "inference_geo", "service_tier")
# The kind of delta in which each text of a block comes.
_DELTAS: Final = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}


def _events_of(document: Any, asked: Asked) -> Iterator[dict[str, Any]] | None:
    """The usage is always there."""
    blocks = document.get("content") if isinstance(document, dict) else None
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        return None
    return _events_of_message(document, blocks)


def _events_of_message(document: dict[str, Any], blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    end: dict[str, Any] = {key: document[key] for key in _AT_THE_END if key in document}
    begun: dict[str, Any] = {key: value for key, value in document.items() if key not in _ONLY_AT_THE_END}
    begun |= {"content": [], **{key: None for key in end if key in begun}}
    counts: dict[str, Any] = {}
    if isinstance(usage := document.get("usage"), dict):
        begun["usage"] = {key: value for key, value in usage.items() if key not in _COUNTED_AT_THE_END}
        if "output_tokens" in usage:
            begun["usage"]["output_tokens"] = 0
        counts["usage"] = {key: value for key, value in usage.items() if key not in _COUNTED_AT_THE_START}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(blocks):
        started, deltas = _started(block)
        yield {"type": "content_block_start", "index": index, "content_block": started}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    beside: dict[str, Any] = {key: document[key] for key in _ONLY_AT_THE_END if key in document and key not in end}
    yield {"type": "message_delta", "delta": end, **counts, **beside}
    yield {"type": "message_stop"}


def _started(block: dict[str, Any]) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """What a block starts with, and its deltas; what nobody knows is there from the start."""
    kind, started = str(block.get("type")), dict(block)
    if kind in _INPUT_TYPES and isinstance(block.get("input"), dict):
        started["input"] = {}
        return started, _input_deltas(block["input"])
    if kind == "compaction" and isinstance(block.get("content"), str):
        started["content"] = None
        return started, iter(({"type": "compaction_delta", "content": block["content"]},))
    if kind not in ("text", "thinking"):
        return started, iter(())
    started |= {key: "" for key in _DELTAS if isinstance(block.get(key), str)}
    if isinstance(block.get("citations"), list):
        started["citations"] = []
    return started, _text_deltas(block)


def _input_deltas(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "input_json_delta", "partial_json": ""}
    for piece in pieces(jsontext.dumps(value).decode()) if value else ():
        yield {"type": "input_json_delta", "partial_json": piece}


def _text_deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    citations = block.get("citations")
    for citation in citations if isinstance(citations, list) else ():
        yield {"type": "citations_delta", "citation": citation}
    for key, kind in _DELTAS.items():
        text = block.get(key)
        if key == "thinking" and text == "":
            yield {"type": kind, key: ""}  # a thought that is not shown
        elif isinstance(text, str) and text:
            # A signature is of use only whole.
            yield from ({"type": kind, key: piece} for piece in ([text] if key == "signature" else pieces(text)))


MESSAGES: Final = Endpoint(
    "messages",
    ("/messages",),
    MessagesAggregator,
    _events_of,
    not_under=("/threads/",),  # the Assistants API's
    stream_options=frozenset(),
    holds="content",
    named=("",),
)
