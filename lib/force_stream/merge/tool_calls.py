"""Which tool call a fragment of one belongs to.

Knows the entries of a delta's `tool_calls`; must not know chunks or choices.

The API addresses a call by `index`. Upstreams deviate: no index at all (Mistral, Gemini, Ollama), index 0 for every
call (Gemini, vLLM), a new id on every fragment (LM Studio), an id or a name repeated (DashScope, MiniMax), an empty
one (DeepSeek, GLM), arguments before the name, several fragments of a call in one chunk. What still tells calls apart:
a call begins with a name, and nothing begins without a name or an id.
"""

from typing import Any

from ..wire import jsontext
from .fields import CHANGED, SAME, Concat, Effect, Rule, concat, fields, first, index_of, name, nothing, padding


class Arguments:
    """A JSON text in fragments, or (Gemini gateways, vercel/ai#14760) the object itself, which a direct answer has
    as its text."""

    def __init__(self) -> None:
        self._text = Concat()
        self._whole: Any = None

    def add(self, value: Any) -> Effect:
        if isinstance(value, str):
            return self._text.add(value)
        if value is not None:
            self._whole = value
        return SAME

    def result(self) -> str:
        text: str = self._text.result() or ""
        return jsontext.dumps(self._whole).decode() if not text and self._whole is not None else text


called_function: Rule = fields({"name": name, "arguments": Arguments})
_CALL: Rule = fields(
    {
        "index": nothing,  # addresses the fragments; the answer has a list in its order
        "id": first,
        "type": first,
        "function": called_function,
        "custom": fields({"name": name, "input": concat}),
        "obfuscation": padding,
    }
)


class _Call:
    """One call, as far as it has come; `before` is the call that came before it."""

    def __init__(self, index: float, before: "_Call | None") -> None:
        self.index = index
        self.before = before
        self.members = _CALL()
        self.id: Any = None
        self.name = ""
        self.arguments_begun = False
        self.whole = False
        self.owner: _Call | None = None
        self.stray: list[_Call] = []

    def add(self, entry: dict[str, Any]) -> Effect:
        effect = self.members.add(entry)
        self.id = self.id or entry.get("id")
        self.name = self.name or _name(entry)
        arguments = _arguments(entry)
        if arguments:
            self.whole = not self.arguments_begun and _is_whole(arguments)
            self.arguments_begun = True
        # That the first fragment is whole by itself matters to the entry after it, unless another one comes between.
        return CHANGED if self.whole else effect

    @property
    def nameless(self) -> bool:
        return not self.id and not self.name

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

    def add(self, value: Any) -> Effect:
        entries = value if isinstance(value, list) else [value]
        effect: Effect = SAME
        for entry in entries:
            if isinstance(entry, dict):
                effect = self._add_entry(entry)
        return effect if len(entries) < 2 else CHANGED

    def _add_entry(self, entry: dict[str, Any]) -> Effect:
        call = self._find(entry)
        if call is None:
            return SAME
        effect = call.add(entry)
        self._latest = call
        return CHANGED if _name(entry) else effect  # with a name it may begin another call

    def _find(self, entry: dict[str, Any]) -> _Call | None:
        index = index_of(entry)
        call = self._by_index.get(index) if index is not None else self._by_id.get(str(entry.get("id"))) or self._latest
        if call is None or _begins_another(entry, call):
            if index is None and not _name(entry) and not entry.get("id") and not _arguments(entry):
                return None  # a stub of nulls
            place: float = index if index is not None else self._latest.index if self._latest else 0
            call = _Call(place, self._latest)
            self._calls.append(call)
            if index is not None:
                self._by_index[index] = call
        if entry.get("id"):
            self._by_id.setdefault(str(entry["id"]), call)
        return call

    def result(self) -> list[dict[str, Any]] | None:
        """The calls in the order of their index, then of arrival; None if there was none."""
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
        return [call.result() for call in sorted(calls, key=lambda call: call.index)] or None


def _begins_another(entry: dict[str, Any], call: _Call) -> bool:
    """Whether an entry that is addressed to `call` is the first of another call.

    It must have a name: LM Studio sends a new id with every nameless fragment (NousResearch/hermes-agent#106943). If
    both have ids, another id means another call (Gemini: index 0 for all). If neither has one, and arguments have
    begun, it is another call if its name differs, or if its arguments are whole as those of the first were.
    """
    name, entry_id = _name(entry), entry.get("id")
    if not name or not call.name:
        return False
    if entry_id and call.id:
        return bool(entry_id != call.id)
    if entry_id or call.id or not call.arguments_begun:
        return False
    return name != call.name or (call.whole and _is_whole(_arguments(entry)))


def _is_whole(arguments: str) -> bool:
    try:
        jsontext.loads(arguments)
    except ValueError:
        return False
    return True


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
