"""Which tool call a fragment of one belongs to.

Knows the entries of a delta's `tool_calls`; must not know chunks or choices.

The API addresses a call by `index`. Upstreams deviate: no index at all (Mistral, Gemini, Ollama), index 0 for every
call (Gemini, vLLM), a new id on every fragment (LM Studio), an id or a name repeated (DashScope, MiniMax), an empty
one (DeepSeek, GLM), one id for two calls (HKUDS/nanobot#3943), arguments before the name, several fragments of a call
in one chunk. What still tells calls apart: a call begins with a name, and nothing begins without a name or an id, but a
call of another type than functions have (GLM's web search).
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..wire import jsontext
from .fields import (
    CHANGED,
    SAME,
    Accumulator,
    Effect,
    Fields,
    JsonText,
    Latest,
    Rule,
    concat,
    fields,
    first,
    fragment,
    index_of,
    name,
    nothing,
    padding,
)
from .said_again import is_object


class Arguments(JsonText):
    """A JSON text in fragments, or (Gemini gateways, vercel/ai#14760) the object itself, which a direct answer has
    as its text."""

    def _add_other(self, value: Any) -> None:
        self._other = Latest()
        self._other.add(value)

    def _with_other(self, text: str | None, other: Accumulator) -> str:
        return text or jsontext.dumps(other.result()).decode()

    def result(self) -> str:
        return super().result() or ""


called_function: Rule = fields({"name": name, "arguments": Arguments})
_CALL: Final[Mapping[str, Rule]] = {
    "index": nothing,  # addresses the fragments; the answer has a list in its order
    "id": first,
    "type": first,
    "function": called_function,
    "custom": fields({"name": name, "input": concat}),
    "obfuscation": padding,
}


class _Call:
    """One call, as far as it has arrived; `before` is the call before it."""

    def __init__(self, index: float, before: "_Call | None") -> None:
        self.index = index
        self.before = before
        self.members = Fields(_CALL, fragment)
        self.id: Any = None
        self.kind = ""
        self.name = ""
        self.arguments: Accumulator | None = None
        self.whole = ""  # all arguments so far, if they came whole in one piece
        self.owner: _Call | None = None
        self.stray: list[_Call] = []

    def add(self, entry: dict[str, Any], name: str) -> Effect:
        effect = self.members.add(entry)
        self.id = self.id or entry.get("id")
        self.kind = self.kind or _kind(entry) or _kind_by_members(entry)
        if name and name != self.name:
            self.name += name
        arguments = _arguments(entry)
        if arguments:
            if self.arguments is None:
                self.whole = arguments if is_object(arguments) else ""
                function = self.members.member("function")
                self.arguments = function.member("arguments") if isinstance(function, Fields) else None
            elif arguments != self.whole:
                self.whole = ""
        # That the first fragment is whole by itself matters to the entry after it, unless another one comes between.
        return CHANGED if self.whole else effect

    @property
    def nameless(self) -> bool:
        return not self.id and not self.name and self.kind in ("", "function")

    def result(self) -> dict[str, Any]:
        call: dict[str, Any] = self.members.result()
        function = call.get("function")
        if isinstance(function, dict):
            strays = [_arguments(stray.members.result()) for stray in self.stray]
            function["arguments"] = "".join([function.get("arguments") or "", *strays])
        # `type` is required and has one value for functions; Mistral and some gateways leave it out or empty.
        if not call.get("type"):
            call["type"] = "custom" if "custom" in call else "function"
        return {key: call[key] for key in ("id", "type", *call) if key in call}


class ToolCalls:
    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._latest: _Call | None = None
        self._is_list = False

    def add(self, value: Any) -> Effect:
        entries = value if isinstance(value, list) else [value]
        # vLLM 0.22 has an empty list in every delta of an answer without calls (microsoft/vscode#330038).
        self._is_list = self._is_list or value == []
        effect: Effect = SAME
        named: set[_Call] = set()
        for entry in entries:
            if isinstance(entry, dict):
                effect = self._add_entry(entry, named)
        return effect if len(entries) < 2 else CHANGED

    def goes_on(self, value: Any) -> bool:
        """Add the next piece of a call's arguments, if that or nothing is all there is."""
        if not value:
            self.add(value)
            return True
        try:
            (entry,) = value
            index, function = entry["index"], entry["function"]
            piece = function["arguments"]
        except (KeyError, TypeError, ValueError):
            return False
        if type(index) is not int or type(piece) is not str or len(entry) != 2 or len(function) != 1:
            return False
        call = self._by_index.get(index)
        if call is None or call.arguments is None or call.whole:
            return False
        call.arguments.add(piece)
        self._latest = call
        return True

    def _add_entry(self, entry: dict[str, Any], named: set[_Call]) -> Effect:
        name = _name(entry)
        call = self._find(entry, name, named)
        if call is None:
            return SAME
        effect = call.add(entry, name)
        self._latest = call
        if not name:
            return effect
        named.add(call)
        return CHANGED  # with a name it may begin another call

    def _find(self, entry: dict[str, Any], name: str, named: set[_Call]) -> _Call | None:
        index, entry_id = index_of(entry), entry.get("id")
        call = self._by_index.get(index) if index is not None else self._by_id.get(str(entry_id)) or self._latest
        if (
            call is None
            or _begins_another(entry, name, call)
            or (call in named and _is_another_whole(entry, name, call))
        ):
            if index is None and not name and not entry_id and not _arguments(entry) and not _is_other(entry):
                return None  # a stub of nulls
            place: float = index if index is not None else self._latest.index if self._latest else 0
            call = _Call(place, self._latest)
            self._calls.append(call)
            if index is not None:
                self._by_index[index] = call
            if entry_id:
                self._by_id[str(entry_id)] = call
        elif entry_id:
            self._by_id.setdefault(str(entry_id), call)
        return call

    def result(self) -> list[dict[str, Any]] | None:
        """The calls in the order of their index, then of arrival; if there was none, what the upstream said: an empty
        list, or None."""
        calls: list[_Call] = []
        for call in self._calls:
            if not call.nameless:
                calls.append(call)
                continue
            # Neither id nor name ever came for this index: it was never a call of its own. Its arguments, if any,
            # continue the call before it (indexes that count chunks, microsoft/foundry-local#144). That one has found
            # its own owner already, so one step back is enough.
            before = call.before
            call.owner = before.owner if before is not None and before.nameless else before
            if call.owner is not None:
                call.owner.stray.append(call)
        results = [call.result() for call in sorted(calls, key=lambda call: call.index)]
        return results if results or self._is_list else None


def _begins_another(entry: dict[str, Any], name: str, call: _Call) -> bool:
    """Whether an entry that is addressed to `call` is the first of another call.

    It must have a name: LM Studio sends a new id with every nameless fragment (NousResearch/hermes-agent#106943). If
    both have ids, another id means another call (Gemini: index 0 for all). Otherwise it is another call if its name
    differs after arguments have begun, or if its arguments are whole as those of the first were, but not the same said
    again.
    """
    entry_id = entry.get("id")
    if not name:
        other_id = bool(entry_id and call.id and entry_id != call.id)
        return _is_other(entry) and bool(call.kind) and (_kind(entry) != call.kind or other_id)
    if not call.name:
        return call.kind not in ("", _kind(entry) or _kind_by_members(entry))
    if entry_id and call.id and entry_id != call.id:
        return True
    if name != call.name:
        return call.arguments is not None or bool(index_of(entry) is None and not entry_id and _kind(entry))
    arguments = _arguments(entry)
    if not call.whole or not is_object(arguments):
        return False
    if entry_id and entry_id == call.id and call.whole.strip() == "{}":
        return False  # a placeholder, and then the arguments (merge/said_again.py)
    if arguments != call.whole:
        return True
    return index_of(entry) is None and not entry_id and not call.id


def _is_another_whole(entry: dict[str, Any], name: str, call: _Call) -> bool:
    """Whether an entry with a name is a call of its own beside `call`, which got its name in the same list. It is
    unless the two share an index, or an id; those may be fragments, and of them one with a type is a whole call."""
    entry_id = entry.get("id")
    if not name:
        return False
    if name == call.name:
        return index_of(entry) is None and not (entry_id and entry_id == call.id)
    return index_of(entry) is None or bool(_kind(entry) or entry_id)


def _kind(entry: dict[str, Any]) -> str:
    kind = entry.get("type")
    return kind if isinstance(kind, str) else ""


def _kind_by_members(entry: dict[str, Any]) -> str:
    return "custom" if entry.get("custom") else "function" if _name(entry) else ""


def _is_other(entry: dict[str, Any]) -> bool:
    """Whether an entry is of a type that needs no name to begin a call: any but a function."""
    return _kind(entry) not in ("", "function")


def _name(entry: dict[str, Any]) -> str:
    for part in (entry.get("function"), entry.get("custom")):
        name = part.get("name") if isinstance(part, dict) else None
        if name and isinstance(name, str):
            return name
    return ""


def _arguments(entry: dict[str, Any]) -> str:
    function = entry.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return jsontext.dumps(arguments).decode()


tool_calls: Rule = ToolCalls


def with_ids(calls: list[Any], answer: Any, choice: int) -> Iterator[Any]:
    """The calls, each with an id that no other has: a tool's result could not name its call otherwise.

    Where the upstream gave none, or one that an earlier call has, it is made of the id of the answer and the call's
    place, so that the same stream has the same ids. Calls of other types, such as a search of the upstream's own, need
    none, since the application does not answer them.
    """
    seen: set[str] = set()
    for place, call in enumerate(calls):
        if isinstance(call, dict) and (_kind(call) or _kind_by_members(call)) in ("function", "custom"):
            given = call.get("id")
            if given is None or given == "" or str(given) in seen:
                text = f"{'' if answer is None else answer}\n{choice}\n{place}"
                made = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]
                call = {"id": "", **call} | {"id": f"call_{made}"}
            seen.add(str(call["id"]))
        yield call
