"""Which tool call a fragment of one belongs to.

Knows the entries of a delta's `tool_calls`; must not know chunks or choices.

The API addresses a call by `index`. Upstreams deviate: no index at all (Mistral, Gemini, Ollama), index 0 for every
call (Gemini, vLLM), a new id on every fragment (LM Studio), an id or a name said again (DashScope, MiniMax), an empty
one (DeepSeek, GLM), arguments before the name, several fragments of a call in one chunk. What tells calls apart all
the same: a call begins with a name, and nothing begins without a name or an id.
"""

from typing import Any

from ..wire import jsontext
from .fields import Concat, Fields, Repeatable, Rule, concat, first, fragment, index_of, name, nothing


class Arguments:
    """A JSON text in fragments, or (Gemini gateways, vercel/ai#14760) the object itself, which a direct answer has
    as its text."""

    __slots__ = ("_text", "_whole")

    def __init__(self) -> None:
        self._text = Concat()
        self._whole: Any = None

    def add(self, value: Any) -> None:
        if isinstance(value, str):
            self._text.add(value)
        elif value is not None:
            self._whole = value

    def again(self, value: Any) -> list[Repeatable] | None:
        return self._text.again(value)

    def result(self) -> str:
        text: str = self._text.result() or ""
        return jsontext.dumps(self._whole).decode() if not text and self._whole is not None else text


_FUNCTION: dict[str, Rule] = {"name": name, "arguments": Arguments}
_CALL: dict[str, Rule] = {
    "index": nothing,  # addresses the fragments; an answer's list has its order
    "id": first,
    "type": first,
    "function": lambda: Fields(_FUNCTION, fragment),
    "custom": lambda: Fields({"name": name, "input": concat}, fragment),
    "obfuscation": nothing,
}


class _Call:
    """One call as far as it was said; `before` is the call that was the latest when this one turned up."""

    def __init__(self, index: float, before: "_Call | None") -> None:
        self.index = index
        self.before = before
        self.said = Fields(_CALL, fragment)
        self.id: Any = None
        self.name = ""
        self.arguments_begun = False
        self.whole = False
        self.owner: _Call | None = None
        self.stray: list[_Call] = []

    def add(self, entry: dict[str, Any]) -> None:
        self.said.add(entry)
        self.id = self.id or entry.get("id")
        self.name = self.name or _name(entry)
        arguments = _arguments(entry)
        if arguments:
            self.whole = not self.arguments_begun and _is_whole(arguments)
            self.arguments_begun = True

    def again(self, entry: dict[str, Any]) -> list[Repeatable] | None:
        # A first fragment that is whole by itself matters to the entry after it; any later one does not.
        return None if self.whole or not self.arguments_begun else self.said.again(entry)

    @property
    def nameless(self) -> bool:
        return not self.id and not self.name

    def result(self) -> dict[str, Any]:
        call: dict[str, Any] = self.said.result()
        function = call.get("function")
        if isinstance(function, dict):
            strays = [_arguments(stray.said.result()) for stray in self.stray]
            function["arguments"] = "".join([function.get("arguments") or "", *strays])
        # `type` is required and has one value for functions; Mistral and some gateways leave it out or empty.
        if not call.get("type"):
            call["type"] = "custom" if "custom" in call else "function"
        return {key: call[key] for key in ("id", "type", *call) if key in call}


class ToolCalls:
    """The accumulator for `tool_calls`."""

    __slots__ = ("_by_id", "_by_index", "_calls", "_latest")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._latest: _Call | None = None

    def add(self, value: Any) -> None:
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict):
                call = self._find(entry)
                if call is not None:
                    call.add(entry)
                    self._latest = call

    def again(self, value: Any) -> list[Repeatable] | None:
        if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
            return None if value else []
        entry = value[0]
        if _name(entry) or self._latest is None or self._find(entry) is not self._latest:
            return None
        return self._latest.again(entry)

    def _find(self, entry: dict[str, Any]) -> _Call | None:
        index = index_of(entry)
        call = self._by_index.get(index) if index is not None else self._by_id.get(str(entry.get("id"))) or self._latest
        if call is None or _begins_another(entry, call):
            if index is None and not _name(entry) and not entry.get("id") and not _arguments(entry):
                return None  # a stub of nulls
            call = self._start(index)
        if entry.get("id"):
            self._by_id.setdefault(str(entry["id"]), call)
        return call

    def _start(self, index: int | None) -> _Call:
        place: float = index if index is not None else self._latest.index if self._latest else 0
        call = _Call(place, self._latest)
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def result(self) -> list[dict[str, Any]] | None:
        """The calls in the order of their index, then of their beginning; None if there was none."""
        calls: list[_Call] = []
        for call in self._calls:
            if not call.nameless:
                calls.append(call)
                continue
            # Neither id nor name ever came for this index: it was never a call of its own. Its arguments, if any,
            # continue the call that was being said (indexes that count chunks, microsoft/foundry-local#144).
            # What was before it has found its own owner already, so one step back is enough.
            before = call.before
            call.owner = before.owner if before is not None and before.nameless else before
            if call.owner is not None:
                call.owner.stray.append(call)
        return [call.result() for call in sorted(calls, key=lambda call: call.index)] or None

    def __bool__(self) -> bool:
        return any(not call.nameless for call in self._calls)


def _begins_another(entry: dict[str, Any], call: _Call) -> bool:
    """Whether an entry that is addressed to `call` is the first of another call.

    Only one with a name can be (LM Studio sends a new id with every nameless fragment,
    NousResearch/hermes-agent#106943). A new id then says so (Gemini: index 0 for all); without ids, a name that comes
    when the arguments have begun, and is another one or stands beside whole arguments as the first did.
    """
    said_name, said_id = _name(entry), entry.get("id")
    if not said_name or not call.name:
        return False
    if said_id and call.id:
        return bool(said_id != call.id)
    if said_id or call.id or not call.arguments_begun:
        return False
    return said_name != call.name or (call.whole and _is_whole(_arguments(entry)))


def _is_whole(arguments: str) -> bool:
    try:
        jsontext.loads(arguments)
    except ValueError:
        return False
    return True


def _name(entry: dict[str, Any]) -> str:
    for part in (entry.get("function"), entry.get("custom")):
        said = part.get("name") if isinstance(part, dict) else None
        if said and isinstance(said, str):
            return said
    return ""


def _arguments(entry: dict[str, Any]) -> str:
    function = entry.get("function")
    said = function.get("arguments") if isinstance(function, dict) else None
    if said is None or isinstance(said, str):
        return said or ""
    return jsontext.dumps(said).decode()


tool_calls: Rule = ToolCalls
