"""The Responses API: from `response.*` events to the `response` a plain request gets.

Knows the event types, which place of which output item each addresses, and the terminal events; must not know bytes,
HTTP or server-sent events. https://platform.openai.com/docs/api-reference/responses-streaming

The terminal event carries the whole response, and is the answer. Only where its `output` is empty (the ChatGPT
backend, RayBytes/ChatMock#121; gateways, QuantumNous/new-api#4362) are the items put together from the events before
it: from `response.output_item.done`, failing that from the deltas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import IncompleteStream
from ..merge.fields import ANY_PADDING, CHANGED, PADDING, SAME, Concat, Slots, is_informative
from .endpoint import Aggregated, Aggregator, Endpoint, Request

TERMINAL: Final = frozenset(("response.completed", "response.incomplete", "response.done"))
# The members of the terminal event that are not part of the response; `timings` is llama.cpp's.
_ENVELOPE: Final = frozenset(("type", "response", "timings", "sequence_number", "obfuscation"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an output item a text stands: member names, and names of the event's own indexes (`…_index`); the last
    is also the member that holds the whole text in the event that ends it.

    `part` is the type of the part that holds it, `item` the type of an item that nobody announced.
    """

    path: tuple[str, ...]
    item: str
    part: str = ""


_MESSAGE_TEXT: Final = Place(("content", "content_index", "text"), "message", "output_text")
_REASONING_TEXT: Final = Place(("content", "content_index", "text"), "reasoning", "reasoning_text")

# Event type without its ".delta" or ".done" -> the place.
_TEXTS: Final[Mapping[str, Place]] = {
    "response.output_text": _MESSAGE_TEXT,
    "response.text": _MESSAGE_TEXT,  # the old name
    "response.refusal": Place(("content", "content_index", "refusal"), "message", "refusal"),
    "response.reasoning_text": _REASONING_TEXT,
    "response.reasoning": _REASONING_TEXT,  # OpenRouter, gpt-oss
    "response.reasoning_summary_text": Place(("summary", "summary_index", "text"), "reasoning", "summary_text"),
    "response.function_call_arguments": Place(("arguments",), "function_call"),
    "response.mcp_call_arguments": Place(("arguments",), "mcp_call"),
    "response.custom_tool_call_input": Place(("input",), "custom_tool_call"),
    "response.code_interpreter_call_code": Place(("code",), "code_interpreter_call"),
    "response.apply_patch_call_operation_diff": Place(("operation", "diff"), "apply_patch_call"),
    "response.shell_call_command": Place(("action", "commands", "command_index"), "shell_call"),
}
# The same for parts -> the list that they are in, and the type of an item that nobody announced.
_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "response.content_part": ("content", "message"),
    "response.reasoning_part": ("content", "message"),
    "response.reasoning_summary_part": ("summary", "reasoning"),
}

type _Path = tuple[str | int, ...]


@dataclass(slots=True)
class _Item:
    """One output item: the event that announced it, the texts that followed, and the event that closed it."""

    index: int
    type: str
    id: Any
    added: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] | None = None
    parts: dict[_Path, dict[str, Any]] = field(default_factory=dict)
    texts: dict[_Path, Concat] = field(default_factory=dict)
    part_types: dict[_Path, str] = field(default_factory=dict)
    lists: dict[_Path, list[Any]] = field(default_factory=dict)

    def result(self, status: str) -> dict[str, Any]:
        """The item; it gets this `status` where nothing closed it."""
        if self.done is not None:
            return self.done
        item = dict(self.added) or {"type": self.type} | ({} if self.id is None else {"id": self.id})
        if item.get("type") == "message":
            item.setdefault("role", "assistant")
        places: dict[_Path, int] = {}
        for path, part in sorted(self.parts.items(), key=_by_place):
            _put(item, path, part, places)
        for path, part_type in sorted(self.part_types.items(), key=_by_place):
            _put(item, (*path, "type"), part_type, places)
            if part_type == "output_text":
                _put(item, (*path, "annotations"), [], places)
        for path, text in sorted(self.texts.items(), key=_by_place):
            _put(item, path, text.result() or "", places)
        for path, values in sorted(self.lists.items(), key=_by_place):
            _put(item, path, values, places)
        item["status"] = status
        return item


def _by_place(entry: tuple[_Path, Any]) -> list[str]:
    return [f"{step:09}" if isinstance(step, int) else step for step in entry[0]]


def _put(item: dict[str, Any], path: _Path, value: Any, places: dict[_Path, int]) -> None:
    """Set a value deep in an item, making the lists and objects on the way; one that is in the way is replaced.
    `places`: where in their lists the indexes are."""
    holder: Any = item
    for depth, (step, following) in enumerate(zip(path, (*path[1:], None), strict=True), 1):
        if isinstance(step, int):
            # An index beyond the end counts what was not streamed.
            step = places.setdefault(path[:depth], min(step, len(holder)))
            if step == len(holder):
                holder.append(None)
        if following is None:
            holder[step] = value
            return
        wanted: type[Any] = list if isinstance(following, int) else dict
        held = holder.get(step) if isinstance(holder, dict) else holder[step]
        # A copy: the upstream's own value may be needed again.
        holder[step] = wanted(held) if isinstance(held, wanted) else wanted()
        holder = holder[step]


class ResponsesAggregator(Aggregator):
    def __init__(self, expected_choices: int = 1) -> None:
        self._snapshot: dict[str, Any] = {}
        self._terminal: dict[str, Any] = {}
        self._items: list[_Item] = []
        self._by_index: dict[int, _Item] = {}
        self._by_id: dict[str, _Item] = {}

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        kind = chunk.get("type") or event
        if self.ended or not isinstance(kind, str):
            return SAME
        response = chunk.get("response")
        if kind in TERMINAL:
            # GitHub Copilot has copilot_usage beside the response; its plain answers have it in it.
            beside = {key: value for key, value in chunk.items() if key not in _ENVELOPE}
            self._terminal = beside | (response if isinstance(response, dict) else {})
            self.ended = self.finished = True
        elif isinstance(response, dict):
            self._snapshot.update(response)
        elif kind == "response.output_text.annotation.added":
            self._annotation(chunk)
        else:
            name, _, what = kind.rpartition(".")
            if what == "delta":
                return self._delta(name, chunk)
            if what in ("added", "done"):
                if name == "response.output_item":
                    self._output_item(what, chunk)
                elif name in _PARTS:
                    self._part(name, chunk)
                elif what == "done" and name in _TEXTS:
                    self._whole_text(_TEXTS[name], chunk)
        return CHANGED

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        if not (self.ended or partial):
            raise IncompleteStream("the upstream's event stream stopped before its terminal event")
        document = {"object": "response", **self._snapshot, **self._terminal}
        if not self.ended:
            # What the API answers when a response had to stop at its length.
            document |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        if not document.get("output"):
            status = "completed" if document.get("status") == "completed" else "incomplete"
            items = sorted(self._items, key=lambda item: item.index)
            document["output"] = [item.result(status) for item in items]
        if document.get("status") == "completed" and isinstance(document["output"], list):
            document["output"] = [_closed(item) for item in document["output"]]
        return Aggregated(document, (str(document.get("status")),))

    def _output_item(self, what: str, chunk: dict[str, Any]) -> None:
        known = chunk.get("item")
        if what == "added":
            item = self._item(chunk, known, begins=True)
            item.added = known if isinstance(known, dict) and known else item.added
        elif isinstance(known, dict):
            self._item(chunk, known, begins=True).done = known

    def _whole_text(self, place: Place, chunk: dict[str, Any]) -> None:
        text = chunk.get(place.path[-1].removesuffix("_index"))
        if isinstance(text, str):
            item, path = self._place(place, chunk)
            item.texts[path] = Concat()
            item.texts[path].add(text)

    def _delta(self, name: str, chunk: dict[str, Any]) -> Slots | None:
        delta = chunk.get("delta")
        if name not in _TEXTS or not isinstance(delta, str):
            return SAME
        item, path = self._place(_TEXTS[name], chunk)
        text = item.texts.setdefault(path, Concat())
        text.add(delta)
        logprobs = chunk.get("logprobs")
        if isinstance(logprobs, list) and logprobs:
            item.lists.setdefault((*path[:-1], "logprobs"), []).extend(logprobs)
            return CHANGED
        return (("delta", text), *((key, ANY_PADDING) for key in PADDING if key in chunk))

    def _place(self, place: Place, chunk: dict[str, Any]) -> tuple[_Item, _Path]:
        item = self._item(chunk, None, place.item)
        path = tuple(_index(chunk, step) if step.endswith("_index") else step for step in place.path)
        if place.part:
            item.part_types[path[:-1]] = place.part
        return item, path

    def _part(self, name: str, chunk: dict[str, Any]) -> None:
        part = chunk.get("part")
        if isinstance(part, dict):
            list_name, item_type = _PARTS[name]
            self._item(chunk, None, item_type).parts[list_name, _index(chunk, f"{list_name}_index")] = part

    def _annotation(self, chunk: dict[str, Any]) -> None:
        if is_informative(chunk.get("annotation")):
            item = self._item(chunk, None, "message")
            path = ("content", _index(chunk, "content_index"), "annotations")
            item.lists.setdefault(path, []).append(chunk["annotation"])

    def _item(self, chunk: dict[str, Any], known: Any, item_type: str = "", *, begins: bool = False) -> _Item:
        """The item that an event addresses: by `output_index` (GitHub Copilot's ids change with every event,
        vercel/ai#18548), else by id, else the latest; a new one where there is none."""
        item_id = known.get("id") if isinstance(known, dict) else chunk.get("item_id")
        index = chunk.get("output_index")
        if isinstance(index, int):
            item = self._by_index.get(index)
        else:
            item = self._by_id.get(str(item_id)) or (self._items[-1] if self._items and not begins else None)
            index = item.index if item else len(self._items)
        # Some gateways give two items one index (BerriAI/litellm#36375): one that is announced after the first is done
        # is the second.
        if item is None or (begins and item.done is not None and item.done != known):
            item = _Item(index, item_type, item_id)
            self._items.append(item)
            self._by_index[index] = item
        if item_id:
            self._by_id[str(item_id)] = item
        return item


def _index(chunk: dict[str, Any], name: str) -> int:
    index = chunk.get(name)
    return index if isinstance(index, int) and index >= 0 else 0


def _closed(item: Any) -> Any:
    # The terminal event can hold a generated image whose status was left behind (Wei-Shaw/sub2api#4218).
    if isinstance(item, dict) and item.get("type") == "image_generation_call" and item.get("result"):
        return item | {"status": "completed"}
    return item


def _cannot_stream(request: Request) -> str | None:
    # A background response is answered before the model starts; the application polls for it.
    return "a background response is not waited for" if request.get("background") is True else None


RESPONSES: Final = Endpoint(
    "responses",
    ("/responses",),
    ResponsesAggregator,
    _cannot_stream,
    never_streams=("/responses/compact",),
    # The API rejects include_usage here; its terminal event has the usage anyway.
    stream_options=frozenset(("include_obfuscation",)),
)
