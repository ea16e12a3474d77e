"""Texts in typed parts: the content of a message, and what a model thought.

Knows parts, their types and signatures; must not know choices or endpoints.

    parts        text in fragments, or lists of typed parts, of which neighbours of one type are one
    reasoning    the same, addressed by `index` (OpenRouter's `reasoning_details`)

What tells parts of one type apart: a signature or encrypted data ends one, and so does a part of another
type; the next fragment begins another, whatever its index (OpenRouterTeam/ai-sdk-provider#519: index 0 for all). A
signed part is sent as a fragment without a text (BerriAI/litellm), or whole once more, after its fragments
(BerriAI/litellm#35118): such a snapshot says nothing new but its signature. Signatures come whole, never in pieces
(pydantic/pydantic-ai#7777).
"""

from collections.abc import Mapping
from typing import Any, Final

from .fields import (
    CHANGED,
    SAME,
    Accumulator,
    Concat,
    Effect,
    Fields,
    Rule,
    concat,
    first,
    fragment,
    index_of,
    is_informative,
    latest,
)

_TEXTS: Final = ("thinking", "text", "summary")
# What a part has beside what it says.
_LABELS: Final = frozenset(("type", "index", "id", "format"))
# Types whose neighbours are fragments of one part. "summary_text": within Databricks' `reasoning`.
_JOINED: Final = frozenset(("text", "thinking", "output_text", "reasoning", "summary_text"))
# How often the lists and objects of a part that goes on are compared with one that may say them again: each time, they
# are made anew.
_MOST_COMPARED: Final = 8


class _Part:
    """One part, as far as it has arrived."""

    def __init__(self, kind: str, rules: Mapping[str, Rule]) -> None:
        self.kind = kind
        self.id: Any = None
        self.signature = ""
        self.data = ""
        self.closed = False
        self.members = Fields(rules, fragment)
        self._compared = 0
        self._results: dict[str, Any] = {}  # of a part that has ended

    def add(self, entry: Any) -> Effect:
        if isinstance(entry, dict):
            self.id = self.id or entry.get("id")
            self.signature = self.signature or _text(entry, "signature")
            self.data = self.data or _text(entry, "data")
            self.closed = bool(self.closed or self.signature or self.data)
        effect = self.go_on(entry)
        return CHANGED if self.closed else effect

    def go_on(self, entry: Any) -> Effect:
        """Add an entry that says neither who it is nor that the part ends."""
        self._results.clear()
        return self.members.add(entry)

    def said(self, entry: dict[str, Any]) -> bool:
        """Whether all of the entry's texts are the whole of this part's."""
        return all(self._is_text(key, entry[key]) for key in _TEXTS if entry.get(key))

    def _is_text(self, key: str, text: Any) -> bool:
        member = self.members.member(key)
        if isinstance(text, str):
            return isinstance(member, Concat) and member.is_text(text)
        if member is not None and key not in self._results and self._compared < _MOST_COMPARED:
            self._compared += 1
            if not self.closed:
                return bool(member.result() == text)
            self._results[key] = member.result()
        return key in self._results and bool(self._results[key] == text)

    @property
    def text(self) -> str:
        """Its first text."""
        texts = (self.members.get(key) for key in _TEXTS)
        return next((text for text in texts if text and isinstance(text, str)), "")

    def takes(self, entry: dict[str, Any]) -> bool:
        """Whether an entry of the same type goes on with this part."""
        if not self.closed or not _says_anything(entry):
            return True
        # A signature belongs to one part, so another fragment with the same one does too.
        return bool(self.signature) and self.signature == _text(entry, "signature")

    def goes_on(self, entry: dict[str, Any]) -> bool:
        """Whether an entry with a plain index is the next fragment of a part that has not ended, and does not end it:
        nothing else about it needs to be asked if the part is the latest."""
        return (
            not (self.closed or entry.get("signature") or entry.get("data"))
            and entry.get("type") == self.kind
            and entry.get("id") == self.id
            and type(entry.get("index")) is int
        )

    def merge(self, entry: dict[str, Any]) -> Effect:
        """Add an entry that goes on with this part, without the texts that it says again."""
        if _text(entry, "signature") and self.said(entry):
            entry = {key: value for key, value in entry.items() if key not in _TEXTS or not value}
            self.add(entry)
            return CHANGED
        return self.add(entry)


class _Known:
    """The finished parts, by what identifies them: their signature, or their encrypted data."""

    def __init__(self) -> None:
        self._by_mark: dict[tuple[str, str], _Part] = {}

    def note(self, part: _Part) -> None:
        for mark in (("signature", part.signature), ("data", part.data)):
            if mark[1]:
                self._by_mark.setdefault(mark, part)

    def has(self, entry: dict[str, Any]) -> bool:
        """Whether an entry is one of them, said again."""
        for key in ("signature", "data"):
            mark = _text(entry, key)
            part = self._by_mark.get((key, mark)) if mark else None
            if part is not None and part.said(entry) and entry.get("id") in (None, part.id):
                return True
        return False


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _says_anything(entry: dict[str, Any]) -> bool:
    return any(is_informative(value) for key, value in entry.items() if key not in _LABELS)


class _PartList:
    """Typed parts, of which neighbours of one type are one."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._known = _Known()

    def add(self, entries: list[Any]) -> Effect:
        effect: Effect = CHANGED
        for entry in entries:
            if isinstance(entry, dict):
                effect = self._add_part(entry, _text(entry, "type"))
            else:
                self._parts.append(entry)
                effect = CHANGED
        return effect if len(entries) == 1 else CHANGED

    def _add_part(self, entry: dict[str, Any], kind: str) -> Effect:
        if kind != "text" and self._known.has(entry):
            return CHANGED
        last = self._parts[-1] if self._parts else None
        goes_on = isinstance(last, _Part) and last.kind == kind and last.takes(entry)
        if not isinstance(last, _Part) or not goes_on:
            last = _Part(kind, _PART)
            self._parts.append(last if kind in _JOINED else entry)
        effect = last.merge(entry)
        if kind in _JOINED or kind == "redacted_thinking":
            self._known.note(last)
        return effect if goes_on else CHANGED

    def result(self) -> Any:
        return [part.members.result() if isinstance(part, _Part) else part for part in self._parts]


class Parts(Concat):
    """Text in fragments, or (Mistral, Databricks, LiteLLM's thinking blocks) lists of typed parts."""

    def is_text(self, text: str) -> bool:
        return not isinstance(self._other, _PartList) and super().is_text(text)

    def add(self, value: Any) -> Effect:
        if not isinstance(value, list):
            return super().add(value)
        self._other = self._other if isinstance(self._other, _PartList) else _PartList()
        return self._other.add([*self._take_text(), *value])

    def _add_other(self, value: Any) -> None:
        if not isinstance(self._other, _PartList):
            super()._add_other(value)

    def _take_text(self) -> list[Any]:
        """The text since the last list, as a part, if there is some."""
        text, self._parts = "".join(self._parts), []
        return [{"type": "text", "text": text}] if text else []

    def _with_other(self, text: str | None, other: Accumulator) -> Any:
        if isinstance(other, _PartList):
            other.add(self._take_text())
            return other.result()
        return super()._with_other(text, other)


class Reasoning:
    """Parts that are addressed by `index`. Without one each is a part of its own, until a signature says that those
    before it were the fragments of one.

    The `index` stays, since direct answers have it too.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[float, Any]] = []
        self._open: dict[int, _Part] = {}
        self._latest: _Part | None = None
        self._unsigned: list[_Part] = []  # the last of `_parts`, as long as they have no index
        self._known = _Known()
        self._indexes: set[int] = set()
        self._in_order = False

    def add(self, value: Any) -> Effect:
        entries = value if isinstance(value, list) else [] if value is None else [value]
        effect: Effect = SAME
        for entry in entries:
            if isinstance(entry, dict):
                effect = self._add_entry(entry)
            else:
                self._unsigned.clear()
                self._parts.append((float("inf"), entry))
                effect = CHANGED
        return effect if len(entries) < 2 else CHANGED

    def _add_entry(self, entry: dict[str, Any]) -> Effect:
        if self._latest is not None and self._latest.goes_on(entry) and self._latest is self._open.get(entry["index"]):
            return self._latest.go_on(entry)
        if self._known.has(entry):
            return CHANGED
        kind, index, latest = _text(entry, "type"), index_of(entry), self._latest
        if kind and latest is not None and latest.kind not in ("", kind):
            self._open.clear()
            self._unsigned.clear()
        part = self._signed_by(entry) or self._open_at(index, entry) or self._begin(index, entry)
        part.kind = part.kind or kind
        self._latest = part
        effect = part.merge(entry)
        self._known.note(part)
        return CHANGED if index is None else effect

    def _signed_by(self, entry: dict[str, Any]) -> _Part | None:
        """The part whose signature this is, if the part was sent before it."""
        part, parts = self._latest, self._unsigned
        if part is None or part.closed or not _text(entry, "signature") or _text(entry, "type") not in ("", part.kind):
            return None
        texts = [entry[key] for key in _TEXTS if entry.get(key)]
        if texts and part.said(entry):
            return part
        if not parts or index_of(entry) is not None or (texts and texts != [_joined_text(parts, texts[0])]):
            return None
        part = parts[0]
        for other in parts[1:]:
            part.members.add(other.members.result())
        del self._parts[len(self._parts) - len(parts) + 1 :]
        self._unsigned = []
        return part

    def _open_at(self, index: int | None, entry: dict[str, Any]) -> _Part | None:
        """The part that an entry goes on with."""
        if index is None:
            return None if _says_anything(entry) else self._latest
        part = self._open.get(index)
        entry_id = entry.get("id")
        if part is None or not part.takes(entry) or (entry_id and part.id and entry_id != part.id):
            return None
        return part

    def _begin(self, index: int | None, entry: dict[str, Any]) -> _Part:
        part = _Part(_text(entry, "type"), _DETAIL)
        if index is None:
            self._parts.append((float("inf"), part))
        else:
            # Where an index is used twice, it says nothing about the order.
            self._in_order = self._in_order or index in self._indexes
            self._indexes.add(index)
            self._open[index] = part
            self._parts.append((index, part))
        is_open = index is None and not _text(entry, "signature") and not _text(entry, "data")
        if is_open:
            self._unsigned.append(part)
        else:
            self._unsigned = []
        return part

    def result(self) -> list[Any]:
        # Sorting is stable: entries with no index keep the order of arrival.
        parts = self._parts if self._in_order else sorted(self._parts, key=lambda one: one[0])
        return [part.members.result() if isinstance(part, _Part) else part for _, part in parts]


def _joined_text(parts: list[_Part], text: Any) -> Any:
    """The texts of these parts, joined, if that can be this text."""
    texts = [part.text for part in parts]
    return "".join(texts) if isinstance(text, str) and text.startswith(texts[0]) else None


parts: Rule = Parts
reasoning: Rule = Reasoning

_PART: Final[Mapping[str, Rule]] = {
    "type": first,
    "text": concat,
    "thinking": parts,
    "summary": parts,
    "signature": latest,
    "closed": latest,
    "index": latest,
}
_DETAIL: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("type", "id", "format", "index"), first),
    **dict.fromkeys(("text", "summary"), concat),
    **dict.fromkeys(("signature", "data"), latest),
}
