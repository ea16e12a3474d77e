"""How the values of many deltas become one: the rules, one a field, and how they nest.

Knows deltas; must not know endpoints, HTTP or server-sent events. A rule makes an accumulator: `add` takes what one
chunk said of the field, `result` gives what all of them said. Fragments are gathered in lists and joined once, in
`result`, so that a stream costs time in proportion to its length.

    first      id, created, model: the first that says something
    latest     finish time, usage: the last that says something
    overlay    objects said in part by several chunks: member by member, the last wins
    concat     text said in fragments
    name       text said whole, perhaps again and again, perhaps in fragments
    extend     lists said in pieces
    fragment   what nobody knows, within a delta: strings are joined, lists extended, objects merged likewise
    fields     an object, with a rule for each field and one for those it does not list
    by_index   a list of objects, addressed by their `index`
    nothing    padding, which no direct answer has

What holds for all: null never overwrites a value, a field once seen is in the result, and no input raises.

`again` tells what of a value just added would change anything if it were added again: nothing ([]), texts that would
be joined to what is there (these), or more than that (None). `repeat` lives from it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol


class Repeatable(NamedTuple):
    """A member that may differ when its chunk comes again: a text or a list and where it goes; None for what says
    nothing."""

    key: str
    goes_to: "Concat | Extend | None"


class Accumulator(Protocol):
    def add(self, value: Any) -> None: ...
    def result(self) -> Any: ...
    def again(self, value: Any) -> "list[Repeatable] | None": ...


type Rule = Callable[[], Accumulator]


# Padding and counters, which differ from chunk to chunk where they mean nothing to an answer that has begun.
VARYING: Final = frozenset(("obfuscation", "p", "sequence_number", "created"))


def says_something(value: Any) -> bool:
    """Whether a value is more than a placeholder: null, "", {} and [] are what upstreams send in place of one."""
    return value is not None and value != "" and value != {} and value != []


class First:
    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> None:
        # Azure's first chunk has id "", model "" and created 0 (microsoft/semantic-kernel#3650): falsy says nothing.
        if not self._value and value is not None:
            self._value = value

    def again(self, value: Any) -> list[Repeatable] | None:
        return [] if self._value or value is None else None

    def result(self) -> Any:
        return self._value


class Latest:
    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> None:
        if says_something(value) or (self._value is None and value is not None):
            self._value = value

    def again(self, value: Any) -> list[Repeatable] | None:
        return [] if value == self._value or not says_something(value) else None

    def result(self) -> Any:
        return self._value


class Overlay:
    __slots__ = ("_latest", "_members")

    def __init__(self) -> None:
        self._latest = Latest()
        self._members: Fields | None = None

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            if self._members is None:
                self._members = Fields({}, overlay)
            self._members.add(value)
        else:
            self._latest.add(value)

    def again(self, value: Any) -> list[Repeatable] | None:
        members = self._members if isinstance(value, dict) else None
        return self._latest.again(value) if members is None else members.again(value)

    def result(self) -> Any:
        return self._latest.result() if self._members is None else self._members.result()


class Concat:
    __slots__ = ("_other", "_parts", "_said")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._said = False
        self._other: Accumulator | None = None

    def add(self, value: Any) -> None:
        if isinstance(value, str):
            self._said = True
            if value:
                self._parts.append(value)
        elif value is not None:
            if self._other is None:
                self._other = fragment()
            self._other.add(value)

    def again(self, value: Any) -> list[Repeatable] | None:
        if isinstance(value, str):
            return [Repeatable("", self)] if value else []
        return [] if value is None else None

    def result(self) -> Any:
        if self._parts or self._other is None:
            if len(self._parts) > 1:
                self._parts = ["".join(self._parts)]  # a long text is not to be in memory twice
            return "".join(self._parts) if self._said else None
        return self._other.result()


class Name:
    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text: Any = None

    def add(self, value: Any) -> None:
        # Neither joining nor keeping is right alone: MiniMax repeats the whole name with every fragment of the
        # arguments (NousResearch/hermes-agent#8259), others split it (continuedev/continue#5849).
        if value is None or value == self._text:
            return
        if isinstance(value, str) and isinstance(self._text, str):
            self._text += value
        elif not self._text:
            self._text = value

    def again(self, value: Any) -> list[Repeatable] | None:
        return [] if value in (None, "", self._text) else None

    def result(self) -> Any:
        return self._text


class Extend:
    __slots__ = ("_items", "_said")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._said = False

    def add(self, value: Any) -> None:
        if isinstance(value, list):
            self._said = True
            self._items.extend(value)
        elif value is not None:
            self._items.append(value)

    def again(self, value: Any) -> list[Repeatable] | None:
        if isinstance(value, list):
            return [Repeatable("", self)] if value else []
        return [] if value is None else None

    def result(self) -> Any:
        return self._items if self._items or self._said else None


class Fragment:
    """A field that no table lists, within a delta: its first telling value shows how it is to be merged."""

    __slots__ = ("_kind", "_value")

    def __init__(self) -> None:
        self._value: Accumulator = Latest()
        self._kind: type = type(None)

    def add(self, value: Any) -> None:
        kind = type(value)
        if kind is not self._kind and says_something(value):
            self._kind = kind
            self._value = _FRAGMENT_RULES.get(kind, Latest)()
        if kind is self._kind or self._kind is type(None):
            self._value.add(value)

    def again(self, value: Any) -> list[Repeatable] | None:
        return None if says_something(value) else []

    def result(self) -> Any:
        return self._value.result()


class TextOrLabel:
    """An unknown string: a text in fragments, or one label that every chunk repeats."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[str] = []

    def add(self, value: Any) -> None:
        if value:
            self._parts.append(value)

    def again(self, value: Any) -> list[Repeatable] | None:
        return None if value else []

    def result(self) -> Any:
        return self._parts[0] if len(set(self._parts)) == 1 else "".join(self._parts)


class Fields:
    __slots__ = ("_members", "_other", "_rest", "_rules")

    def __init__(self, rules: Mapping[str, Rule], rest: Rule) -> None:
        self._rules = rules
        self._rest = rest
        self._members: dict[str, Accumulator] = {}
        self._other: Any = None

    def add(self, value: Any) -> None:
        if not isinstance(value, dict):
            if value is not None:
                self._other = value
            return
        self._other = {}
        members = self._members
        for key, item in value.items():
            member = members.get(key)
            if member is None:
                member = members[key] = self._rules.get(key, self._rest)()
            member.add(item)

    def get(self, key: str) -> Any:
        """What was said of one member so far; None where it was not."""
        member = self._members.get(key)
        return None if member is None else member.result()

    def again(self, value: Any) -> list[Repeatable] | None:
        if not isinstance(value, dict):
            return [] if value is None else None
        parts: list[Repeatable] = []
        for key, item in value.items():
            member = self._members.get(key)
            more = None if member is None else member.again(item)
            if more is None:
                return None
            if key in VARYING and isinstance(member, (First, Nothing)):
                more = [Repeatable("", None)]
            parts += [part if part.key else part._replace(key=key) for part in more]
        return parts

    def result(self) -> Any:
        if not self._members:
            return self._other
        results = {key: member.result() for key, member in self._members.items()}
        return {key: value for key, value in results.items() if value is not NOTHING}

    def __bool__(self) -> bool:
        return bool(self._members)


class ByIndex:
    """A list of objects, each said in fragments; those with the same `index` and equal `also` members are one.

    One without an index is an entry of its own. The `index` stays, since direct answers have it too.
    """

    __slots__ = ("_also", "_entries", "_latest", "_rule")

    def __init__(self, rule: Rule, also: tuple[str, ...]) -> None:
        self._rule = rule
        self._also = also
        self._entries: list[tuple[float, Accumulator]] = []
        self._latest: dict[tuple[Any, ...], tuple[Any, Accumulator]] = {}

    def add(self, value: Any) -> None:
        for entry in value if isinstance(value, list) else [] if value is None else [value]:
            self._find(entry).add(entry)

    def _find(self, entry: Any) -> Accumulator:
        index = index_of(entry)
        if index is None:
            return self._new(float("inf"))
        key = (index, *(str(entry.get(name)) for name in self._also))
        entry_id = entry.get("id")
        known_id, found = self._latest.get(key, (None, None))
        if found is None or (known_id and entry_id and known_id != entry_id):
            found = self._new(index)
        self._latest[key] = (entry_id or known_id, found)
        return found

    def _new(self, index: float) -> Accumulator:
        made = self._rule()
        self._entries.append((index, made))
        return made

    def again(self, value: Any) -> list[Repeatable] | None:
        if not isinstance(value, list) or len(value) != 1 or index_of(value[0]) is None:
            return None if value else []
        # An entry just added is the latest of its index, so another like it goes there too.
        return self._find(value[0]).again(value[0])

    def result(self) -> list[Any]:
        # Sorting is stable: within an index, and where there is none, the order of arrival stays.
        return [made.result() for _, made in sorted(self._entries, key=lambda entry: entry[0])]


class Nothing:
    __slots__ = ()

    def add(self, value: Any) -> None:
        pass

    def again(self, value: Any) -> list[Repeatable] | None:
        return []

    def result(self) -> Any:
        return NOTHING


NOTHING: Any = object()


def index_of(entry: Any) -> int | None:
    """The `index` of a list's entry, if it has one; some gateways send it as a string."""
    index = entry.get("index") if isinstance(entry, dict) else None
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 10:
        return int(index)
    if isinstance(index, float) and index.is_integer():
        return int(index)
    return index if isinstance(index, int) and not isinstance(index, bool) else None


first: Rule = First
latest: Rule = Latest
overlay: Rule = Overlay
concat: Rule = Concat
name: Rule = Name
extend: Rule = Extend
fragment: Rule = Fragment
nothing: Rule = Nothing


def fields(rules: Mapping[str, Rule], rest: Rule = fragment) -> Rule:
    """An object: `rules` for the fields it lists, `rest` for all others."""
    return lambda: Fields(rules, rest)


def by_index(rule: Rule, also: Iterable[str] = ()) -> Rule:
    """A list of objects merged by `index`, and by the members named in `also`."""
    names = tuple(also)
    return lambda: ByIndex(rule, names)


_FRAGMENT_RULES: Mapping[type, Rule] = {str: TextOrLabel, list: Extend, dict: fields({})}
