"""The Responses API: from `response.*` events to the `response` a plain request gets.

Knows the event types, which place of which output item each addresses, and the terminal events; must not know bytes,
HTTP or server-sent events. https://platform.openai.com/docs/api-reference/responses-streaming

The terminal event carries the whole response, and is the answer. Where its `output` is empty (the ChatGPT backend,
RayBytes/ChatMock#121; gateways, QuantumNous/new-api#4362) or lacks items, they are put together from the events before
it: from `response.output_item.done`, failing that from the deltas. An item that is there is the terminal event's, but
nothing that is empty, there or in any `done` event (agentgateway/agentgateway#2281), replaces what was streamed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from typing import Any, Final

from ..errors import CorruptedStream, IncompleteStream
from ..merge.fields import ANY_PADDING, CHANGED, PADDING, SAME, Concat, JsonText, Slots, is_informative, spelled
from ..wire import jsontext
from .endpoint import Aggregated, Aggregator, Asked, Endpoint, Memo, Request, not_json
from .pieces import by_tokens, may_be_said_again, pieces

# The terminal events, and the status that each gives a response.
TERMINAL: Final[Mapping[str, str]] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.cancelled": "cancelled",
    "response.done": "completed",
}
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
# The items whose arguments are JSON.
_CALLS: Final = ("function_call", "mcp_call")
# The items that are of use by their texts alone.
_ALL_TEXT: Final = ("message", "reasoning", "code_interpreter_call")
# The members that every item has, whatever it says.
_NAMES: Final = frozenset(("id", "type", "status", "role"))
_TEXT_MEMBERS: Final = frozenset(place.path[-1] for place in _TEXTS.values())
_INDEXES: Final = frozenset(step for place in _TEXTS.values() for step in place.path if step.endswith("_index"))

type _Path = tuple[str | int, ...]
type _Address = tuple[str, str, int, int | None, int | None]
_NO_OR_INDEX: Final = frozenset((int, type(None)))


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
        return self.streamed() | {"status": status} if self.done is None else self.fill(self.done)

    def streamed(self) -> dict[str, Any]:
        """The item as the events before its end have it."""
        item = dict(self.added) or {"type": self.type} | ({} if self.id is None else {"id": self.id})
        if item.get("type") == "message":
            item.setdefault("role", "assistant")
        places = _Places()
        for path, part_type in sorted(self.part_types.items(), key=_by_place):
            said = self.parts.get(path, {})
            part = {"type": part_type} | ({"annotations": []} if part_type == "output_text" else {}) | said
            _put(item, path, part, places)
        for path, part in sorted(self.parts.items(), key=_by_place):
            if path not in self.part_types:
                _put(item, path, part, places)
        for path, text in sorted(self.texts.items(), key=_by_place):
            _put(item, path, text.result() or "", places)
        for path, values in sorted(self.lists.items(), key=_by_place):
            _put(item, path, values, places)
        return item

    @property
    def has_texts(self) -> bool:
        return any(text.result() for text in self.texts.values())

    @property
    def is_nameless(self) -> bool:
        """Whether nothing announced or closed the item, and texts alone are not all of it: a call has a name."""
        return not (self.added or self.done or self.type in _ALL_TEXT)

    def is_another(self, known: Any, what: str) -> bool:
        """Whether what is announced ("added") or closed ("done") at the item's index is another item: this one is
        closed (BerriAI/litellm#36375), or was announced under another type or id."""
        said = known if isinstance(known, dict) else {}
        keys = ("type", "id") if what == "added" else ("type",)
        pairs = ((self.added.get(key), said.get(key)) for key in keys)
        return (self.done is not None and self.done != known) or any(one and two and one != two for one, two in pairs)

    @property
    def said(self) -> dict[str, Any]:
        """The item as it was announced or closed."""
        return self.done or self.added or {"type": self.type, "id": self.id}

    def _adds_nothing_to(self, item: dict[str, Any]) -> bool:
        """Whether an item already contains what was streamed, as it nearly always does."""
        texts = ((path, text.result()) for path, text in self.texts.items())
        said = chain(self.parts.items(), ((path, text) for path, text in texts if text))
        return not self.lists and all(_at(item, path) == value for path, value in said)

    def fill(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item that the upstream says is whole, with what was streamed wherever it is empty."""
        if self._adds_nothing_to(item):
            return item
        streamed = self.streamed()
        members = dict.fromkeys(path[0] for path in (*self.texts, *self.parts) if isinstance(path[0], str))
        filled = {key: _filled(item.get(key), streamed.get(key)) for key in members}
        if "arguments" in filled:
            filled["arguments"] = _more_readable(item.get("arguments"), streamed.get("arguments"))
        if _content(item) is not None and item.get("content") is None and item.get("type") == "reasoning":
            filled.pop("content", None)  # which a reasoning need not have beside its summary
        return item | {key: value for key, value in filled.items() if key in item or _says_something(value)}


def _filled(whole: Any, streamed: Any) -> Any:
    """A value that is said to be whole, or what was streamed, if it is empty."""
    if not _says_something(streamed):
        return whole
    if not _says_something(whole):
        return streamed
    if isinstance(whole, dict) and isinstance(streamed, dict) and whole.get("type") == streamed.get("type"):
        # Log probabilities are said again whole (and rounded), if at all.
        kept = {"logprobs"} if _says_something(whole.get("logprobs")) else ()
        members = {key: streamed[key] for key in streamed if (key in whole or key in _TEXT_MEMBERS) and key not in kept}
        return whole | {key: _filled(whole.get(key), value) for key, value in members.items()}
    if isinstance(whole, list) and isinstance(streamed, list) and len(whole) == len(streamed):
        return [_filled(one, other) for one, other in zip(whole, streamed, strict=True)]
    return whole


def _more_readable(arguments: Any, streamed: Any) -> Any:
    """The arguments that are said to be whole, or those that were streamed, if only they are JSON: whoever joins
    fragments that are said again gets none."""
    if arguments == streamed or not isinstance(streamed, str) or not jsontext.is_json(streamed):
        return arguments or streamed
    return arguments if isinstance(arguments, str) and jsontext.is_json(arguments) else streamed


def _says_something(value: Any) -> bool:
    """Whether a value, or a part of an item, has more than its type."""
    if isinstance(value, dict):
        return any(_says_something(member) for key, member in value.items() if key != "type")
    if isinstance(value, list):
        return any(map(_says_something, value))
    return is_informative(value)


def _by_place(entry: tuple[_Path, Any]) -> list[str]:
    return [f"{step:09}" if isinstance(step, int) else step for step in entry[0]]


def _at(value: Any, path: _Path) -> Any:
    """What stands deep in an item; None if nothing does."""
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


@dataclass(slots=True)
class _Places:
    """Where in their lists the indexes of an item's paths are, and the item's own lists and objects at these paths."""

    indexes: dict[_Path, int] = field(default_factory=dict)
    holders: dict[_Path, Any] = field(default_factory=dict)


def _put(item: dict[str, Any], path: _Path, value: Any, places: _Places) -> None:
    """Set a value deep in an item, making the lists and objects on the way; one that is in the way is replaced."""
    holder: Any = item
    for depth, (step, following) in enumerate(zip(path, (*path[1:], None), strict=True), 1):
        if isinstance(step, int):
            # An index beyond the end counts what was not streamed.
            step = places.indexes.setdefault(path[:depth], min(step, len(holder)))
            if step == len(holder):
                holder.append(None)
        if following is None:
            holder[step] = value
            return
        wanted: type[Any] = list if isinstance(following, int) else dict
        held = holder.get(step) if isinstance(holder, dict) else holder[step]
        own = places.holders.get(path[:depth])
        if own is None or own is not held:
            # A copy: the upstream's own value may be needed again.
            own = places.holders[path[:depth]] = wanted(held) if isinstance(held, wanted) else wanted()
            holder[step] = own
        holder = own


class _Ids(Concat):
    """The ids by which events address an item, where each event has its own."""

    keeps_pieces = True

    def __init__(self, item: _Item, by_id: dict[str, _Item]) -> None:
        super().__init__()
        self._item, self._by_id = item, by_id

    def extend(self, pieces: list[str]) -> None:
        self._by_id.update(dict.fromkeys(filter(None, pieces), self._item))

    def takes(self, raw: list[bytes]) -> bool:
        known = (self._by_id.get(item_id.decode(errors="replace"), self._item) for item_id in raw)
        return all(item is self._item for item in known) and b"\\" not in b"".join(raw)


# The member in which an item of this type says what it has to say.
_SAYING: Final = {"message": "content", "function_call": "arguments", "custom_tool_call": "input"}


class ResponsesAggregator(Aggregator):
    families = ("response.", "responsesapi.", "codex.", "ping", "keepalive")
    objects = ("response",)

    def __init__(self, expected_choices: int = 1) -> None:
        self._snapshot: dict[str, Any] = {}
        self._terminal: dict[str, Any] = {}
        self._status = ""  # as the name of the terminal event has it
        self._items: list[_Item] = []
        self._by_index: dict[int, _Item] = {}
        self._by_id: dict[str, _Item] = {}
        self._ids_change = self._has_hole = False
        # What addresses the text that the latest event added to, and that text; nothing if it did anything else.
        self._latest: tuple[_Address, Concat] | None = None

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        return super().knows(chunk, event) or isinstance(chunk.get("response"), dict)

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        kind = chunk.get("type") or event
        self._latest = None
        if not kind and chunk.get("object") == "response" and chunk.get("output"):
            self._end(chunk)  # a plain answer as an event
        if self.ended or not isinstance(kind, str):
            return SAME
        response = chunk.get("response")
        if kind in TERMINAL:
            # GitHub Copilot has copilot_usage beside the response; its plain answers have it in it.
            beside = {key: value for key, value in chunk.items() if key not in _ENVELOPE}
            self._end(beside | (response if isinstance(response, dict) else {}), TERMINAL[kind])
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

    def goes_on(self, chunk: dict[str, Any], memo: Memo) -> bool:
        delta, latest = chunk.get("delta"), self._latest
        if latest is None or chunk.get("logprobs") or type(delta) is not str or _address(chunk) != latest[0]:
            return False
        latest[1].add(delta)
        return True

    def _end(self, response: dict[str, Any], status: str = "") -> None:
        self._terminal, self._status = response, status
        self.ended = self.finished = True
        output = response.get("output")
        # Items of these types are empty only where an upstream leaves them so.
        items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        says = (item.get(_SAYING.get(str(item.get("type")), "type")) for item in items)
        self.says_all_again = bool(items) and all(says) and len(items) >= len(self._items)

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        if not (self.ended or partial):
            raise IncompleteStream("the upstream's event stream stopped before its terminal event")
        document = {"object": "response", **self._snapshot, **self._terminal}
        if not self.ended:
            # What the API answers when a response had to stop at its length.
            document |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        elif self._status and not self._terminal.get("status") and self._snapshot.get("status"):
            document["status"] = self._status  # the other is that of the beginning
        output = document.get("output")
        if not output or isinstance(output, list):
            status = "completed" if document.get("status", self._status) == "completed" else "incomplete"
            document["output"] = self._output(output or [], status)
        if self._has_hole and not partial:
            raise CorruptedStream("the events that announce and close a call are missing, and with them its name")
        if document.get("status") == "completed" and isinstance(document["output"], list):
            document["output"] = [_closed(item) for item in document["output"]]
        output = document["output"]
        calls = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        odd = not_json(call.get("arguments") for call in calls if call.get("type") in _CALLS)
        odd += ("a call has no name",) if self._has_hole else ()
        return Aggregated(document, (str(document.get("status")),), odd=odd)

    def _output(self, output: list[Any], status: str) -> list[Any]:
        """The terminal output, with what it lacks: items that were streamed, and texts of those that it has."""
        items = _said_once(sorted(self._items, key=lambda item: item.index))
        if not output:
            return [self._streamed(item, status) for item in items]
        places = self._places(items, output)
        output = list(output)
        # What is put in after each place; before all of them: -1.
        following: dict[int, list[dict[str, Any]]] = {}
        before, count = -1, 0
        for number, item in enumerate(items):
            if number in places:
                before = places[number]
                output[before] = item.fill(output[before])
            elif item.done is not None or item.has_texts:
                before = max(before, min(item.index - count, len(output)) - 1)
                following.setdefault(before, []).append(self._streamed(item, status))
                count += 1
        parts = ([one, *following.get(place, ())] for place, one in enumerate(output))
        return [*following.get(-1, ()), *chain.from_iterable(parts)]

    def _streamed(self, item: _Item, status: str) -> dict[str, Any]:
        self._has_hole = self._has_hole or item.is_nameless
        return item.result(status)

    def _places(self, items: list[_Item], output: list[Any]) -> dict[int, int]:
        """Which of the items is where in the terminal output."""
        mine = {number: item.said for number, item in enumerate(items)}
        others = {place: item for place, item in enumerate(output) if isinstance(item, dict)}
        # GitHub Copilot's ids change with every event: then the order and the types tell.
        by_order = self._ids_change or list(map(_type, mine.values())) == list(map(_type, others.values()))
        found = _paired(mine, others, lambda item: item.get("id"))
        found |= _paired(mine, others, lambda item: item.get("call_id"))
        if not mine or not others:
            return found
        mine = {number: items[number].result("") for number in mine}
        found |= _paired(mine, others, _content)
        if by_order:
            return found | _paired(mine, others, _type)
        found |= _paired(mine, {place: item for place, item in others.items() if _is_vague(item)}, _type)
        left = {place: item for place, item in others.items() if place not in found.values()}
        return found | _paired({number: item for number, item in mine.items() if _is_vague(item)}, left, _type)

    def _output_item(self, what: str, chunk: dict[str, Any]) -> None:
        known = chunk.get("item")
        if what == "added":
            item = self._item(chunk, known, what=what)
            item.added = known if isinstance(known, dict) and known else item.added
        elif isinstance(known, dict):
            self._item(chunk, known, what=what).done = known

    def _whole_text(self, place: Place, chunk: dict[str, Any]) -> None:
        text = spelled(chunk.get(place.path[-1].removesuffix("_index")))
        if text is not None:
            item, path = self._place(place, chunk)
            known = item.texts[path].result() if path in item.texts else ""
            if path == ("arguments",):
                text = _more_readable(text, known)
            if text or not known:
                item.texts[path] = Concat()
                item.texts[path].add(text)

    def _delta(self, name: str, chunk: dict[str, Any]) -> Slots | None:
        said, place = chunk.get("delta"), _TEXTS.get(name)
        delta = said if isinstance(said, str) else spelled(said)
        if place is None or delta is None:
            return SAME
        item, path = self._place(place, chunk)
        text = item.texts.get(path)
        if text is None:
            text = item.texts[path] = JsonText() if path == ("arguments",) else Concat()
        if (address := _address(chunk)) is not None:
            self._latest = address, text
        text.add(delta)
        logprobs = chunk.get("logprobs")
        if logprobs and isinstance(logprobs, list):
            item.lists.setdefault((*path[:-1], "logprobs"), []).extend(logprobs)
            return CHANGED
        if delta is not said:
            return CHANGED
        slots: Slots = (("delta", text),)
        if self._ids_change and isinstance(chunk.get("item_id"), str):
            index = chunk.get("output_index")
            if type(index) is int and self._by_index.get(index) is item:  # by which any other id would find it
                slots += (("item_id", _Ids(item, self._by_id)),)
        for key in PADDING:
            if key in chunk:
                slots += ((key, ANY_PADDING),)
        return slots

    def _place(self, place: Place, chunk: dict[str, Any]) -> tuple[_Item, _Path]:
        item = self._item(chunk, None, place.item)
        path = tuple([_index(chunk, step) if step in _INDEXES else step for step in place.path])
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

    def _item(self, chunk: dict[str, Any], known: Any, item_type: str = "", what: str = "") -> _Item:
        """The item that an event addresses: by `output_index` (GitHub Copilot's ids change with every event,
        vercel/ai#18548), else by id, else the latest; a new one where there is none."""
        item_id = known.get("id") if isinstance(known, dict) else chunk.get("item_id")
        index = chunk.get("output_index")
        by_id = self._by_id.get(str(item_id))
        if isinstance(index, int):
            item = self._by_index.get(index)
            # Some gateways give two items one index, or one item two (theopenco/llmgateway#2908); but each is announced
            # once, so one that is announced at another index is another, whatever its id.
            if by_id is not None and what != "added" and (item is None or item.id != item_id):
                item = by_id
        else:
            item = by_id or (self._items[-1] if self._items and not what else None)
            index = item.index if item else len(self._items)
        if item is None or (what and item.is_another(known, what)):
            item = _Item(index, item_type, item_id)
            self._items.append(item)
            self._by_index[index] = item
        elif item_id and item.id and item_id != item.id:
            self._ids_change = True
        if item_id:
            self._by_id[str(item_id)] = item
        return item


def _address(chunk: dict[str, Any]) -> _Address | None:
    """What a usual delta says of its text's place; None of another."""
    kind, item_id, index = chunk.get("type") or None, chunk.get("item_id"), chunk.get("output_index")
    part, summary = chunk.get("content_index"), chunk.get("summary_index")
    if type(kind) is not str or type(item_id) is not str or type(index) is not int or "command_index" in chunk:
        return None
    return (kind, item_id, index, part, summary) if {type(part), type(summary)} <= _NO_OR_INDEX else None


def _index(chunk: dict[str, Any], name: str) -> int:
    index = chunk.get(name)
    return index if isinstance(index, int) and index >= 0 else 0


def _said_once(items: list[_Item]) -> list[_Item]:
    """Without the items that are said again whole, under the same id (transformers serve, the text before a call)."""
    kept: list[_Item] = []
    done: dict[str, dict[str, Any]] = {}
    for item in items:
        said = item.done or {}
        key = said.get("id")
        first = done.setdefault(key, said) if isinstance(key, str) and key else said
        if first is said or first != said:
            kept.append(item)
    return kept


def _paired(
    mine: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]], key: Callable[[dict[str, Any]], Any]
) -> dict[int, int]:
    """The first of the others with the same key, for each of mine that has one; both are taken out."""
    places: dict[str, deque[int]] = {}
    for place, other in others.items():
        if name := key(other):
            places.setdefault(str(name), deque()).append(place)
    pairs: dict[int, int] = {}
    for number, item in mine.items():
        if waiting := places.get(str(key(item) or "")):
            pairs[number] = waiting.popleft()
    for number, place in pairs.items():
        del mine[number], others[place]
    return pairs


def _type(item: dict[str, Any]) -> Any:
    """The type of an item, where calls do not tell items of it apart."""
    return None if item.get("call_id") else item.get("type")


def _content(item: dict[str, Any]) -> Any:
    """What an item says, whatever it is called."""
    said = {key: value for key, value in item.items() if key not in _NAMES}
    return jsontext.dumps([item.get("type"), said]) if _says_something(said) else None


def _is_vague(item: dict[str, Any]) -> bool:
    """Whether an item has no name, or nothing in it."""
    return not item.get("id") or _content(item) is None


def _closed(item: Any) -> Any:
    # The terminal event can hold a generated image whose status was left behind (Wei-Shaw/sub2api#4218).
    if isinstance(item, dict) and item.get("type") == "image_generation_call" and item.get("result"):
        return item | {"status": "completed"}
    return item


def _cannot_stream(request: Request) -> str | None:
    # A background response is answered before the model starts; the application polls for it.
    return "the client does not wait for a background response" if request.get("background") is True else None


# The other direction

# The last event, by the response's status.
_LAST: Final = {"incomplete": "response.incomplete", "failed": "response.failed"}
# What is not known of a response that has only begun.
_NOT_YET: Final[Mapping[str, Any]] = {
    "status": "in_progress",
    "output": [],
    "usage": None,
    "completed_at": None,
    "incomplete_details": None,
}
# The text of each kind of part, and how its events begin; those of an item itself.
_OF_A_PART: Final = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "reasoning_text": ("text", "response.reasoning_text"),
    "summary_text": ("text", "response.reasoning_summary_text"),
}
_OF_AN_ITEM: Final = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
    "code_interpreter_call": ("code", "response.code_interpreter_call_code"),
}
# What is known of an item when it is announced: its names alone, or all but these members.
_ONLY_NAMED: Final = ("web_search_call", "image_generation_call")
_NOT_ANNOUNCED: Final[Mapping[str, Any]] = {
    "file_search_call": {"queries": [], "results": None},
    "code_interpreter_call": {"outputs": []},
    "mcp_list_tools": {"tools": []},
    "mcp_call": {"output": None, "error": None},
    "shell_call": {"action": {"commands": [], "max_output_length": None, "timeout_ms": None}},
    "shell_call_output": {"output": []},
    "tool_search_call": {"arguments": {}},
}
# What the items that tell their progress say of it: before their text, and after it.
_PROGRESS: Final = {
    "mcp_call": (("in_progress",), ("completed",)),
    "mcp_list_tools": (("in_progress",), ("completed",)),
    "code_interpreter_call": (("in_progress",), ("interpreting", "completed")),
    "web_search_call": (("in_progress", "searching"), ("completed",)),
    "file_search_call": (("in_progress", "searching"), ("completed",)),
    "image_generation_call": (("in_progress", "generating"), ()),
}
# Where the annotations end that do not follow the whole text.
_ENDS: Final = {"url_citation": "end_index", "file_citation": "index"}
# The lists of parts, and the events that announce one of each.
_LISTS: Final = {"summary": "response.reasoning_summary_part", "content": "response.content_part"}


def _events_of(document: Any, asked: Asked) -> Iterator[dict[str, Any]] | None:
    """The usage is always there."""
    if not isinstance(document, dict) or "output" not in document:
        return None
    output = document["output"] if isinstance(document["output"], list) else []
    return ({**event, "sequence_number": number} for number, event in enumerate(_unfolded(document, output)))


def _unfolded(document: dict[str, Any], output: list[Any]) -> Iterator[dict[str, Any]]:
    begun = document | {key: value for key, value in _NOT_YET.items() if key in document}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(output):
        yield from _events_of_item(index, item) if isinstance(item, dict) else ()
    kind = _LAST.get(str(document.get("status")), "response.completed")
    yield {"type": kind, "response": document}


def _events_of_item(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = str(item.get("type"))
    item_id = item.get("id") or ""
    place = {"item_id": item_id if may_be_said_again(item_id) else "", "output_index": index}
    member, name = _OF_AN_ITEM.get(kind, ("", ""))
    text = item.get(member)
    lists = {key: parts for key in _LISTS if isinstance(parts := item.get(key), list)}
    yield {"type": "response.output_item.added", "output_index": index, "item": _announced(item)}
    before, after = _PROGRESS.get(kind, ((), ()))
    if item.get("error") is not None or item.get("status") == "failed":
        after = ("failed",) if kind.startswith("mcp_") else ()
    for state in before:
        yield {"type": f"response.{kind}.{state}", **place}
    for key, parts in lists.items():
        for number, part in enumerate(parts):
            yield from _events_of_part(key, part, place | {f"{key}_index": number})
    yield from _events_of_operation(item, place)
    if isinstance(text, str):
        yield from ({"type": f"{name}.delta", **place, "delta": piece} for piece in pieces(text))
        named = {"name": item["name"]} if kind == "function_call" and "name" in item else {}
        yield {"type": f"{name}.done", **place, member: text, **named}
    for state in after:
        yield {"type": f"response.{kind}.{state}", **place}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _announced(item: dict[str, Any]) -> dict[str, Any]:
    kind = str(item.get("type"))
    if kind in _ONLY_NAMED:
        item = {key: value for key, value in item.items() if key in _NAMES}
    text, _ = _OF_AN_ITEM.get(kind, ("", ""))
    operation = item.get("operation")
    return (
        item
        | {key: [] for key in _LISTS if isinstance(item.get(key), list)}
        | {key: value for key, value in _NOT_ANNOUNCED.get(kind, {}).items() if item.get(key) is not None}
        | ({text: ""} if isinstance(item.get(text), str) else {})
        | ({"operation": operation | {"diff": ""}} if isinstance(operation, dict) and "diff" in operation else {})
        | ({"status": "in_progress"} if "status" in item else {})
    )


def _events_of_operation(item: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The texts that stand deeper in a call."""
    action, operation = item.get("action"), item.get("operation")
    commands = action.get("commands") if isinstance(action, dict) and item.get("type") == "shell_call" else None
    for number, command in enumerate(commands if isinstance(commands, list) else ()):
        if isinstance(command, str):
            where = {"output_index": place["output_index"], "command_index": number}
            name = "response.shell_call_command"
            yield {"type": f"{name}.added", **where, "command": ""}
            yield from ({"type": f"{name}.delta", **where, "delta": piece} for piece in pieces(command))
            yield {"type": f"{name}.done", **where, "command": command}
    output = item.get("output") if item.get("type") == "shell_call_output" else None
    for number, of_command in enumerate(output if isinstance(output, list) else ()):
        where = {**place, "command_index": number}
        name = "response.shell_call_output_content"
        for key in ("stdout", "stderr"):
            text = of_command.get(key) if isinstance(of_command, dict) else None
            for piece in pieces(text) if isinstance(text, str) else ():
                yield {"type": f"{name}.delta", **where, "delta": {key: piece}}
        yield {"type": f"{name}.done", **where, "output": [of_command]}
    if isinstance(operation, dict) and isinstance(diff := operation.get("diff"), str):
        name = "response.apply_patch_call_operation_diff"
        yield from ({"type": f"{name}.delta", **place, "delta": piece} for piece in pieces(diff))
        yield {"type": f"{name}.done", **place, "diff": diff}


def _events_of_part(key: str, part: Any, place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    member, name = _OF_A_PART.get(str(part.get("type")), ("", "")) if isinstance(part, dict) else ("", "")
    text = part.get(member) if member else None
    begun = part
    tokens: Any = None
    if isinstance(text, str):
        tokens = part.get("logprobs")
        emptied: dict[str, Any] = {each: [] for each in ("annotations", "logprobs") if isinstance(part.get(each), list)}
        begun = part | {member: ""} | emptied
    yield {"type": f"{_LISTS[key]}.added", **place, "part": begun}
    if isinstance(text, str):
        has_logprobs = name == "response.output_text"
        cut = by_tokens(text, tokens) if isinstance(tokens, list) and tokens else None
        annotations = part.get("annotations")
        waiting = deque(enumerate(annotations if isinstance(annotations, list) else ()))
        so_far = 0
        for piece, said in [(piece, []) for piece in pieces(text)] if cut is None else cut:
            yield {"type": f"{name}.delta", **place, "delta": piece} | ({"logprobs": said} if has_logprobs else {})
            so_far += len(piece)
            while waiting and (_end_of(waiting[0][1]) <= so_far or so_far >= len(text)):
                number, annotation = waiting.popleft()
                which = {"annotation_index": number, "annotation": annotation}
                yield {"type": "response.output_text.annotation.added", **place, **which}
        whole = {"logprobs": tokens if isinstance(tokens, list) else []} if has_logprobs else {}
        yield {"type": f"{name}.done", **place, member: text, **whole}
    yield {"type": f"{_LISTS[key]}.done", **place, "part": part}


def _end_of(annotation: Any) -> float:
    """Where in the text an annotation ends; it follows the piece that reaches there."""
    end = annotation.get(_ENDS.get(str(annotation.get("type")), "")) if isinstance(annotation, dict) else None
    return end if isinstance(end, int) else inf


RESPONSES: Final = Endpoint(
    "responses",
    ("/responses",),
    ResponsesAggregator,
    _events_of,
    _cannot_stream,
    never_streams=("/responses/compact",),
    # The API rejects include_usage here; its terminal event has the usage anyway.
    stream_options=frozenset(("include_obfuscation",)),
    holds="output",
    named=("",),
)
