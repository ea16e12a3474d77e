"""How the values of many deltas become one: a rule for each field, and how rules nest.

Knows deltas; must not know endpoints, HTTP or server-sent events. A rule makes an accumulator: `add` takes what one
chunk says about the field, `result` returns what all of them said. Fragments are gathered in lists and joined once, in
`result`, so that a stream costs time in proportion to its length.

    first      role, a call's id: the first informative value
    of_first   id, time, model: likewise, where it may differ from chunk to chunk
    latest     channel, signature: the last informative value
    overlay    the same; of objects that several chunks send in parts, member by member
    label      the same, where nobody looks into it: it may differ from chunk to chunk
    concat     text in fragments; a number or a truth value among them is its own spelling
    name       text that is sent whole, perhaps repeatedly, or in fragments
    extend     lists in pieces
    listing    the same, where nobody looks into the items
    fragment   an unknown field within a delta: strings are joined unless all are equal, lists extended, objects merged
               likewise; of numbers, the last counts
    fields     an object, with a rule for each field and one for those it does not list
    by_index   a list of objects, addressed by their `index`
    nothing    what no direct answer has
    padding    the same, where it differs from chunk to chunk

`merge.parts`, `merge.snapshots` and `merge.tool_calls` have more.

For all of them: null never overwrites a value, a field once seen is in the result, and no input raises.

`add` returns its effect: what would change if the same value were added once more. That is SAME (nothing), CHANGED
(something), the text or list to which the value would be appended, or, for an object, the slots of all such members.
Padding may have any value; of labels and totals, the last that are sent count.
Chunks that differ in nothing but their slots need not be parsed (answer/patterns.py). An effect may be CHANGED where
SAME would be true, never the other way round.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol

from ..wire import jsontext
from .said_again import said_once

type Target = Concat | Extend | Padding | Last | Totals
type Slots = tuple[tuple[str, Target], ...]
type Effect = Slots | Target | None

SAME: Final = ()
CHANGED: Final = None

# Each is looked for in every event's bytes.
_MOST_SLOTS: Final = 32
# What padding and labels may be. What is neither a text nor a number has no slot, and a slot of its name would be
# another member's.
_WITH_SLOTS: Final = (str, int, float, jsontext.Number)

# The result of a field that the answer does not have.
NOTHING: Any = object()
# What differs from chunk to chunk without a meaning, in one API or another: padding against eavesdroppers who measure
# lengths (OpenAI's, Mistral's), and OpenAI's count of the events.
PADDING: Final = frozenset(("obfuscation", "p", "sequence_number"))


class Accumulator(Protocol):
    def add(self, value: Any) -> Effect: ...
    def result(self) -> Any: ...


type Rule = Callable[[], Accumulator]


def is_informative(value: Any) -> bool:
    """Whether a value is more than a placeholder: upstreams send null, "", {} and [] in place of one."""
    return bool(value) or (value is not None and value != "" and value != {} and value != [])


class _Single:
    def __init__(self) -> None:
        self._value: Any = None

    def result(self) -> Any:
        return self._value


class First(_Single):
    def add(self, value: Any) -> Effect:
        # Azure's first chunk has id "", model "" and created 0 (microsoft/semantic-kernel#3650): falsy values are
        # placeholders.
        if not self._value and value is not None:
            self._value = value
        return SAME


class OfFirst(First):
    """An id, a time or a model: that of the first chunk counts, and later chunks may have their own. While they do not,
    it is taken to stay as it is."""

    def add(self, value: Any) -> Effect:
        if not self._value:
            return super().add(value)
        return ANY_PADDING if value != self._value and type(value) in _WITH_SLOTS else SAME


class Latest(_Single):
    def add(self, value: Any) -> Effect:
        if value or is_informative(value) or (self._value is None and value is not None):
            self._value = value
        return SAME


class Overlay(Latest):
    def __init__(self) -> None:
        super().__init__()
        self._members: Fields | None = None

    def add(self, value: Any) -> Effect:
        if isinstance(value, dict) and (value or self._value is None):
            if self._members is None:
                self._value, self._members = None, Fields({}, type(self))
            return self._members.add(value)
        if is_informative(value):
            self._members = None
        return super().add(value)

    def result(self) -> Any:
        return super().result() if self._members is None else self._members.result()


class Label(Overlay):
    def __init__(self) -> None:
        super().__init__()
        self._last = Last()

    def add(self, value: Any) -> Effect:
        known = self._value
        if type(value) is str and value == known:
            return SAME
        effect = super().add(value)
        return self._last if known is not None and type(value) in _WITH_SLOTS and value != "" else effect


def spelled(value: Any) -> str | None:
    """A text, or a scalar where text belongs: upstreams that write each token as JSON of its own send 6 for "6"
    (cloudflare/ai#651). None for what is neither."""
    if isinstance(value, str):
        return value
    return None if value is None or isinstance(value, (dict, list)) else jsontext.dumps(value).decode()


class Concat:
    # Whether each piece counts, or only all of them joined.
    keeps_pieces: ClassVar[bool] = False

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._other: Accumulator | None = None

    def add(self, value: Any) -> Effect:
        if isinstance(value, str):
            if value:
                self._parts.append(value)
                return self
            if not self._parts:
                self._parts.append(value)
            return SAME
        if value is None:
            return SAME
        text = spelled(value)
        if text is None:
            self._add_other(value)
        else:
            self._parts.append(text)
        return CHANGED

    def _add_other(self, value: Any) -> None:
        """Add an object or a list."""
        if self._other is None:
            self._other = fragment()
        self._other.add(value)

    def extend(self, pieces: list[str]) -> None:
        """The same as adding each of these texts."""
        self.add("".join(pieces))

    def takes(self, raw: list[bytes]) -> bool:
        """Whether texts, as JSON spells them, are its own whatever they say."""
        return True

    def is_text(self, text: str) -> bool:
        """Whether this is all the text so far."""
        # A different beginning shows without joining: there are many fragments, and most of them ask this.
        return bool(self._parts) and text.startswith(self._parts[0]) and text == self.result()

    def result(self) -> Any:
        if len(self._parts) > 1:
            self._parts = [self._join(self._parts)]  # so that a long text is not in memory twice
        text = self._parts[0] if self._parts else None
        return text if self._other is None else self._with_other(text, self._other)

    def _with_other(self, text: str | None, other: Accumulator) -> Any:
        """The value where objects or lists came too: the text, if there is some."""
        return text or other.result()

    def _join(self, pieces: list[str]) -> str:
        return "".join(pieces)


class JsonText(Concat):
    """A JSON text in fragments, some of which may say again what others said."""

    keeps_pieces = True

    def extend(self, pieces: list[str]) -> None:
        self._parts += pieces

    def _join(self, pieces: list[str]) -> str:
        return said_once(pieces)


class Name(_Single):
    def add(self, value: Any) -> Effect:
        # Neither joining nor keeping is right alone: MiniMax repeats the whole name with every fragment of the
        # arguments (NousResearch/hermes-agent#8259), others split it (continuedev/continue#5849).
        if value is None or value == self._value:
            return SAME
        if isinstance(value, str) and isinstance(self._value, str):
            self._value += value
        elif not self._value:
            self._value = value
        return SAME if not value or value == self._value else CHANGED


class Extend(_Single):
    def add(self, value: Any) -> Effect:
        if value is None:
            return SAME
        if self._value is None:
            self._value = []
        if isinstance(value, list):
            self._value.extend(value)
            return self if value else SAME
        self._value.append(value)
        return CHANGED


class Listing(Extend):
    """The same, of a list that nobody looks into: its items may be given as they would be written."""

    def extend(self, items: bytes) -> None:
        self._value.append(jsontext.Written(items))


class Fragment:
    """A field that no table lists, within a delta: its first informative value shows how it is to be merged."""

    rules: ClassVar[Mapping[type, Rule]]

    def __init__(self) -> None:
        self._value: Accumulator = Latest()
        self._kind: type = type(None)

    def add(self, value: Any) -> Effect:
        kind = type(value)
        if self._kind is str and kind in (int, float, jsontext.Number):
            kind, value = str, spelled(value)
        if kind is not self._kind and is_informative(value):
            self._kind = kind
            self._value = self.rules.get(kind, Latest)()
        if kind is self._kind or self._kind is type(None):
            return self._value.add(value)
        return SAME

    def result(self) -> Any:
        return self._value.result()


class Pieces:
    """Strings that show only at the end how they are to be joined."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, value: Any) -> Effect:
        if not value or not isinstance(value, str):
            return SAME
        self._pieces.append(value)
        return CHANGED


class TextOrLabel(Pieces):
    """An unknown string: a text in fragments, or one label that every chunk repeats."""

    def result(self) -> Any:
        return self._pieces[0] if len(set(self._pieces)) == 1 else "".join(self._pieces)


class Fields:
    def __init__(self, rules: Mapping[str, Rule], rest: Rule) -> None:
        self._rules = rules
        self._rest = rest
        self._members: dict[str, Accumulator] = {}
        self._other: Any = None

    def add(self, value: Any) -> Slots | None:
        if not isinstance(value, dict):
            if value is not None:
                self._other = value
            return SAME
        if not value:
            self._other = {}
        members = self._members
        slots: Slots | None = SAME
        for key, item in value.items():
            member = members.get(key)
            if member is None:
                member = members[key] = self._rules.get(key, self._rest)()
            elif item is None:
                continue  # no member is changed by null
            effect = member.add(item)
            if effect is SAME or slots is None:
                continue
            of_member = effect if isinstance(effect, tuple) or effect is None else ((key, effect),)
            if of_member is not None and len(slots) < _MOST_SLOTS:
                slots += of_member
            elif of_member is None or not all(isinstance(target, Padding | Last) for _, target in of_member):
                slots = None
        return slots

    def rows(self, value: dict[str, Any]) -> list[tuple[str, Callable[[Any], object]]] | None:
        """The members of an object that another value can still change, and what adds one. None if a member is new, or
        the object has none at all."""
        members = [(key, self._members.get(key)) for key in value]
        if not self._members or any(member is None for _, member in members):
            return None
        return [(key, member.add) for key, member in members if member is not None and not _is_settled(member)]

    def member(self, key: str) -> Accumulator | None:
        return self._members.get(key)

    def get(self, key: str) -> Any:
        """The value of one member so far; None where there was none."""
        member = self._members.get(key)
        return None if member is None else member.result()

    def result(self) -> Any:
        if not self._members:
            return self._other
        results = {key: member.result() for key, member in self._members.items()}
        return {key: value for key, value in results.items() if value is not NOTHING}


def _is_settled(member: Accumulator) -> bool:
    """Whether no value changes a member any more."""
    return isinstance(member, Nothing) or (isinstance(member, First) and bool(member.result()))


class ByIndex:
    """A list of objects, each sent in fragments; those with the same `index` are one, unless their ids differ.

    One without an index is an entry of its own. The `index` stays, since direct answers have it too.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._entries: list[tuple[float, Accumulator]] = []
        self._latest: dict[int, tuple[Any, Accumulator]] = {}

    def add(self, value: Any) -> Effect:
        entries = value if isinstance(value, list) else [] if value is None else [value]
        effect: Effect = SAME
        for entry in entries:
            effect = self._add_entry(entry)
        return effect if len(entries) < 2 else CHANGED

    def _add_entry(self, entry: Any) -> Effect:
        index = index_of(entry)
        if index is None:
            self._new(float("inf")).add(entry)
            return CHANGED
        entry_id = entry.get("id")
        known_id, found = self._latest.get(index, (None, None))
        if found is None or (known_id and entry_id and known_id != entry_id):
            found = self._new(index)
        self._latest[index] = (entry_id or known_id, found)
        return found.add(entry)

    def _new(self, index: float) -> Accumulator:
        made = self._rule()
        self._entries.append((index, made))
        return made

    def result(self) -> list[Any]:
        # Sorting is stable: entries with the same index, and those with none, keep the order of arrival.
        return [made.result() for _, made in sorted(self._entries, key=lambda entry: entry[0])]


class Nothing:
    def add(self, value: Any) -> Effect:
        return SAME

    def result(self) -> Any:
        return NOTHING


class Padding(Nothing):
    """Differs from chunk to chunk and means nothing."""

    def add(self, value: Any) -> Effect:
        return self if type(value) in _WITH_SLOTS else SAME


class Last:
    """A label, or a number: the last that is sent counts, unless it is empty."""


class Totals:
    """An object with running totals: the last that is sent counts, with whatever numbers but zeros."""


ANY_PADDING: Final = Padding()
TOTALS: Final = Totals()


def index_of(entry: Any) -> int | None:
    """The `index` of a list's entry, if it has one; some gateways send it as a string."""
    if not isinstance(entry, dict):
        return None
    index = entry.get("index")
    if type(index) is int:
        return index
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 10:
        return int(index)
    if isinstance(index, float) and index.is_integer():
        return int(index)
    return None


first: Rule = First
latest: Rule = Latest
overlay: Rule = Overlay
label: Rule = Label
concat: Rule = Concat
name: Rule = Name
extend: Rule = Extend
listing: Rule = Listing
fragment: Rule = Fragment
nothing: Rule = Nothing
padding: Rule = Padding
of_first: Rule = OfFirst


def fields(rules: Mapping[str, Rule], rest: Rule = fragment) -> Rule:
    """An object: `rules` for the fields it lists, `rest` for all others."""
    return lambda: Fields(rules, rest)


def by_index(rule: Rule) -> Rule:
    """A list of objects merged by `index`."""
    return lambda: ByIndex(rule)


_OF_NUMBERS: Final = dict.fromkeys((int, float, jsontext.Number), label)
Fragment.rules = {str: TextOrLabel, list: Extend, dict: fields({}), **_OF_NUMBERS}
