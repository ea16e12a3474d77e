"""Chunks that differ from the one before in a text alone, taken without parsing them again.

Most of a stream says the same thing again and again: the envelope of one chunk is that of the next, to the byte, and
only a fragment of text is new. Once a chunk has been parsed and merged, and the aggregator knows that all of it but
some texts would change nothing if it came again, its bytes are a pattern: what fits it is taken by comparing bytes.

Knows JSON strings and the bytes of an event; must not know what any member means. The law: the result is always what
parsing and merging every chunk would have given.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise, takewhile
from typing import Any, Final, NamedTuple

from ..merge.fields import Concat, Extend, Repeatable
from ..wire import jsontext

_BACKSLASH: Final = ord("\\")
_NUMBER: Final = re.compile(rb"(?:0|[1-9][0-9]*)(?=[,}])")
# Events. How many pass without an attempt after attempts that came to nothing: twice as many each time, up to this.
LONGEST_REST: Final = 64
# What stands for bytes that are not UTF-8.
REPLACED: Final = "\ufffd"


class _Gap(NamedTuple):
    """A place where the bytes may differ: the inside of a string or a list, or a number. `named`: where the member's
    name begins; `goes_to` None if it says nothing."""

    start: int
    end: int
    named: int
    opening: bytes
    goes_to: Concat | Extend | None


class _Filling:
    """What stood in one gap: the bytes of each event, and (once `right`) what they say."""

    __slots__ = ("_said", "gap", "raw", "replaced")

    def __init__(self, gap: _Gap) -> None:
        self.gap = gap
        self.raw: list[bytes] = []
        self.replaced = False
        self._said: list[Any] = []

    def right(self) -> int:
        """How many of the bytes, from the first on, are what stands in such a gap by JSON's grammar."""
        if not self.gap.opening:
            return _leading(map(_is_number, self.raw))
        joined = b"".join(self.raw)
        is_string = self.gap.opening == b'"'
        if is_string and joined.isascii() and not any(byte in joined for byte in (b"\\", b"\n", b"\r")):
            self._said = [joined.decode("ascii")]
            return len(self.raw)
        # A quote between them, as `_strings` has it: halves of a character do not make a whole one.
        self.replaced = not joined.isascii() and REPLACED in b'"'.join(self.raw).decode(errors="replace")
        values = _strings if is_string else _lists
        # A line's end inside a value ends the event there, by the grammar of event streams.
        said = None if b"\n" in joined or b"\r" in joined else values(self.raw)
        if said is None:
            return _leading(b"\n" not in one and b"\r" not in one and values([one]) is not None for one in self.raw)
        self._said = said
        return len(self.raw)

    def give(self) -> None:
        """Hand on what was said, as one addition."""
        if isinstance(self.gap.goes_to, Concat):
            self.gap.goes_to.add("".join(self._said))
        elif isinstance(self.gap.goes_to, Extend):
            self.gap.goes_to.add([item for said in self._said for item in said])


def _around(event: bytes, gaps: Sequence[_Gap]) -> list[bytes]:
    """The bytes before, between and behind the gaps."""
    cuts = [0, *(cut for gap in gaps for cut in (gap.start, gap.end)), len(event)]
    return [event[start:end] for start, end in list(pairwise(cuts))[::2]]


class Pattern:
    """One event's bytes, with gaps. `take` is what makes it worth having. `replaced`: what it took last has characters
    in it that stand for something else, which is odd."""

    __slots__ = ("_first", "_last", "_steps", "replaced")

    def __init__(self, event: bytes, gaps: Sequence[_Gap]) -> None:
        fixed = _around(event, gaps)
        self._first = fixed[0]
        self._last = fixed[-1]
        self.replaced = False
        self._steps = list(zip(gaps, fixed[1:], strict=True))

    def is_like(self, data: bytes) -> bool:
        return data.endswith(self._last) and data.startswith(self._first)

    def take(self, data: bytes, start: int) -> tuple[int, int]:
        """How far the events that fit reach from `start`, and how many they are. Their texts go where they belong."""
        self.replaced = False
        if not data.startswith(self._first, start):
            return start, 0
        fillings = [_Filling(gap) for gap, _ in self._steps]
        at, count = self._fit(data, start, fillings)
        right = min(filling.right() for filling in fillings)
        if right < count:
            # Bytes that are no JSON after all: what is right before them is taken again, and nothing else.
            return self.take(data[: self._reach(start, fillings, right)], start) if right else (start, 0)
        if count:
            self.replaced = any(filling.replaced for filling in fillings)
            for filling in fillings:
                filling.give()
        return at, count

    def _fit(self, data: bytes, start: int, fillings: list[_Filling]) -> tuple[int, int]:
        """Where the events that fit end, and how many they are; what stands in the gaps goes to the fillings."""
        first, width = self._first, len(self._first)
        find, startswith = data.find, data.startswith
        steps = [
            # A list ends where all that follows it does; a string or a number where the first byte of that stands.
            (part if gap.opening == b"[" else part[:1], part, len(part), filling.raw.append)
            for (gap, part), filling in zip(self._steps, fillings, strict=True)
        ]
        at, count = start, 0
        # This loop runs once an event, and is where the time goes: no call in it that is not C's.
        while startswith(first, at):
            here = at + width
            for stop, part, length, append in steps:
                end = find(stop, here)
                if data[end - 1] == _BACKSLASH:
                    end = _end_of_string(data, here)
                if not startswith(part, end):
                    break
                append(data[here:end])
                here = end + length
            else:
                at = here
                count += 1
                continue
            break
        for filling in fillings:
            del filling.raw[count:]
        return at, count

    def _reach(self, start: int, fillings: list[_Filling], count: int) -> int:
        fixed = len(self._first) + sum(len(part) for _, part in self._steps)
        return start + count * fixed + sum(len(raw) for filling in fillings for raw in filling.raw[:count])


def _leading(right: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    return sum(1 for _ in takewhile(bool, right))


def _end_of_string(data: bytes, start: int) -> int:
    """Where the string's closing quote is, -1 if nowhere."""
    end = data.find(b'"', start)
    while end > start and data[end - 1] == _BACKSLASH:
        backslashes = end - 1
        while backslashes > start and data[backslashes - 1] == _BACKSLASH:
            backslashes -= 1
        if (end - backslashes) % 2 == 0:
            break
        end = data.find(b'"', end + 1)
    return end


def _is_number(inside: bytes) -> bool:
    """Whether these bytes are a whole number by JSON's grammar."""
    return inside.isdigit() and (inside[:1] != b"0" or len(inside) == 1)


def _strings(insides: Iterable[bytes]) -> list[str] | None:
    """What JSON strings say, given their insides; None if one of them is none. Invalid UTF-8 is replaced in each by
    itself, as in its event it would have been, since a quote is the end of any sequence."""
    text = (b'["' + b'","'.join(insides) + b'"]').decode(errors="replace")
    try:
        said: list[str] = jsontext.loads(text)
    except ValueError:
        return None
    return said


def _lists(insides: Sequence[bytes]) -> list[list[Any]] | None:
    """What JSON lists hold, given their insides; None if one of them is none, or empty."""
    text = (b"[[" + b"],[".join(insides) + b"]]").decode(errors="replace")
    try:
        said: list[list[Any]] = jsontext.loads(text)
    except ValueError:
        return None
    # An inside that ends its list and begins another would make one more of them than there are insides.
    return said if len(said) == len(insides) and all(isinstance(one, list) and one for one in said) else None


def pattern_of(event: bytes, data: bytes, parts: Iterable[Repeatable], before: bytes = b"") -> Pattern | None:
    """The pattern of an event with this `data`, a JSON text, of which the `parts` may differ; None if the bytes do not
    show plainly where they are. What says nothing and was the same in the event `before` is taken to stay so: a gap
    costs time in every event, and a wrong guess one more event parsed."""
    start = event.find(data)
    if (
        REPLACED.encode() in data
        or start < 0
        or not _is_head(event[:start])
        or event[start + len(data) :] not in (b"\n\n", b"\r\n\r\n")
    ):
        return None
    gaps = [_gap(event, part) for part in parts]
    found = sorted(gap for gap in gaps if gap is not None)
    if len(found) < len(gaps) or not any(gap.goes_to is not None for gap in found):
        return None
    if any(b"\\" in part for part in _around(event, found)):
        return None  # a name may be spelled with escapes there, and what stands in a gap be another member's
    same = {gap for gap in found if not before or event[gap.named : gap.end + 1] in before}
    varying = [gap for gap in found if gap.goes_to is not None or gap not in same]
    return Pattern(event, varying)


def _is_head(head: bytes) -> bool:
    """Whether nothing stands before an event's data but the field's name, and the event's name."""
    *named, last = head.replace(b"\r\n", b"\n").split(b"\n")
    return last in (b"data: ", b"data:") and len(named) < 2 and all(line.startswith(b"event:") for line in named)


def _gap(event: bytes, part: Repeatable) -> _Gap | None:
    # Inside a JSON string a quote has a backslash before it, so these bytes are a member's name wherever they stand.
    # Where they stand twice before a value of one kind, they tell nothing.
    found = list(_member(part.key, _MEMBER[type(part.goes_to)]).finditer(event))
    if len(found) != 1:
        return None
    start, opening = found[0].end(), found[0]["opening"]
    end = _ENDS[opening](event, start)
    return None if end < 0 else _Gap(start, end, found[0].start(), opening, part.goes_to)


@lru_cache(maxsize=256)
def _member(key: str, value: bytes) -> re.Pattern[bytes]:
    return re.compile(value.replace(b"name", re.escape(key.encode())))


def _end_of_list(event: bytes, start: int) -> int:
    """Where the list's closing bracket is, given where its inside begins; -1 if nowhere."""
    try:
        _, _, rest = jsontext.split(event[start - 1 :].decode())
    except ValueError:
        return -1
    return len(event) - len(rest.encode()) - 1


def _end_of_number(event: bytes, start: int) -> int:
    """Where the whole number ends, -1 if there is none."""
    number = _NUMBER.match(event, start)
    return -1 if number is None else number.end()


# A member's name and what opens its value, by where the value goes; what says nothing is a string or a number.
_MEMBER: Final[dict[type, bytes]] = {
    Concat: rb'"name": ?(?P<opening>")',
    Extend: rb'"name": ?(?P<opening>\[)',
    type(None): rb'"name": ?(?P<opening>"|(?=[0-9]))',
}
_ENDS: Final = {b'"': _end_of_string, b"[": _end_of_list, b"": _end_of_number}


class Repeats:
    """The pattern in force, if any, and whether it pays to look for one."""

    def __init__(self) -> None:
        self._pattern: Pattern | None = None
        self._before = b""
        self._used = False
        self._rest = 0
        self._pause = 1

    @property
    def known(self) -> bool:
        return self._pattern is not None

    @property
    def replaced(self) -> bool:
        """As `Pattern.replaced`."""
        return self._pattern is not None and self._pattern.replaced

    def is_like(self, data: bytes) -> bool:
        """Whether some bytes begin and end as the pattern does, as one event does that fits it, or some."""
        return self._pattern is not None and self._pattern.is_like(data)

    def take(self, data: bytes, start: int) -> tuple[int, int]:
        """As `Pattern.take`."""
        if self._pattern is None:
            return start, 0
        at, count = self._pattern.take(data, start)
        self._used = self._used or count > 0
        return at, count

    def forget(self) -> None:
        """Something else comes: what would have been no change may be one after it."""
        if self._pattern is not None:
            self._pattern = None
            self._attempted(self._used)

    @property
    def wanted(self) -> bool:
        """Whether the next event is worth an attempt. Asking counts."""
        self._rest -= 1
        return self._rest < 0

    def learn(self, event: bytes, data: bytes, parts: Iterable[Repeatable] | None) -> None:
        """Make this event the pattern, if it can be one."""
        self._used = False
        self._pattern = None if parts is None else pattern_of(event, data, parts, self._before)
        self._before = event
        if self._pattern is None:
            self._attempted(success=False)

    def _attempted(self, success: bool) -> None:
        self._pause = 1 if success else min(2 * self._pause, LONGEST_REST)
        self._rest = self._pause - 1
