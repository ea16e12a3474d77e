"""Chunks that differ from ones before only where a pattern lets them, read without parsing them.

Most of a stream repeats itself: the envelope of one chunk is that of the next, to the byte, and only a fragment of text
is new. Once a chunk was merged, and all of it but some slots would change nothing if it came again (the effect, in
`merge.fields`), its bytes are a template: an event that fits it is read by comparing bytes. Pieces that fit may wait,
since many are read much cheaper in one go.

Several templates are in force at once if they differ in an `index` alone: what an index addresses is merged by itself,
and what they say beside it is the same. Between them, and where a slot's last value counts, it matters which event is
the last. So that one is parsed as any other; those before it have added their texts, and nothing else.

Knows JSON strings and the bytes of an event; must not know what any member means. The law: the result is always what
parsing and merging every chunk would have given.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final, NamedTuple

from ..merge.fields import CHANGED, Concat, Extend, Last, Listing, Padding, Slots, Target, Totals
from ..wire import jsontext
from ..wire.sse import end_of_event
from . import shapes
from .events import REPLACED, Event, EventReader, is_whole

_BACKSLASH: Final = ord("\\")
# An odd number of them.
_ENDS_IN_BACKSLASH: Final = re.compile(rb"(?<!\\)\\(?:\\\\)*+\n")
_REPLACED: Final = REPLACED.encode()
_A_NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_NUMBER: Final = re.compile(_A_NUMBER + rb"(?=[,}])")
_NUMBERS: Final = re.compile(rb"(?:%s,)*+" % _A_NUMBER)
# A number that is not 0, in an object, with its name.
_A_COUNT: Final = rb"(?=[-0.]*[1-9])" + _A_NUMBER
_COUNT: Final = re.compile(rb'"[^"\\]*": ?(%s)(?=[,}])' % _A_COUNT)
_COUNTS: Final = re.compile(rb"(?:%s,)*+" % _A_COUNT)
# By spaces of this kind, Anthropic's API hides how long a chunk's text is.
_BLANKS: Final = re.compile(rb'(?<=["\]}])( *+)}\Z')  # not behind a number, which may be in a slot itself
# Where templates that are in force together may differ.
_INDEX: Final = re.compile(rb'("index": ?)[0-9]+')
# The start of an event of which nothing has ended, but for its name. (A line that reports an error is an event itself.)
_UNFINISHED: Final = re.compile(rb"(?:event:[^\r\n]*\r?\n)?[^\r\n]+")
# Bytes beyond those that are matched in one go, in which a slot's end is looked for.
_LONGEST_SLOT: Final = 16 * 1024
# Bytes that are matched before it is known whether the texts in them are valid; twice as many each time that they are.
_FIRST_RUN: Final = 16 * 1024
# Events. How many pass without an attempt after failed attempts: four times as many each time, up to this.
_LONGEST_PAUSE: Final = 128
# Events. To merge fewer by their form takes less time than to learn what they have in common.
_FEWEST_MATCHED: Final = 4
# Events in a row. After more that cannot be templates, whether they could is not asked for a while.
_MOST_IN_VAIN: Final = 8
# Templates in force at once: each is tried at every event that the one before does not foretell.
_MOST_TEMPLATES: Final = 8
# Bytes. Most events are shorter.
_SHORT_EVENT: Final = 1024
# Bytes. An incomplete event that is longer goes to the decoder: it must not be copied for every piece.
_LONGEST_REST: Final = 8 * 1024
# Bytes. Pieces that start and end as events that fit wait until they are this many, or until somebody flushes them.
# What is between may not fit, and is read in one go.
_MOST_WAITING: Final = 8 * 1024


class Slot(NamedTuple):
    """A place where the bytes may differ: the inside of a string or a list, a number, or blanks; or all of a comment.
    `named`: where the member's name starts; `target`: what its values are appended to, if anything."""

    start: int
    end: int
    named: int
    opening: bytes
    target: Target | None


class _Values:
    """What the events of a run have in one slot: the bytes, and (once they were checked) the values."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.raw: list[bytes] = []
        self.replaced = False
        self._values: list[Any] = []
        self._items = b""  # in place of values
        self._shape: shapes.Shape | None = None

    def are_valid(self) -> bool:
        """Whether all of them are valid for such a slot."""
        if not self.slot.opening:
            numbers = _COUNTS if isinstance(self.slot.target, Totals) else _NUMBERS
            joined = b",%s," % b",".join(self.raw)
            if joined.count(b",") != len(self.raw) + 1:
                return False
            are_plain = joined.replace(b",", b"").isdigit() and b",0" not in joined and b",," not in joined
            return are_plain or numbers.fullmatch(joined, 1) is not None
        joined, opening = b"".join(self.raw), self.slot.opening
        if opening == b" ":
            return not joined.strip(b" ")
        # A line end inside a value ends the event there, by the grammar of event streams.
        if b"\n" in joined or b"\r" in joined:
            return False
        if isinstance(self.slot.target, Last) and b"" in self.raw:
            return False
        if isinstance(self.slot.target, Concat) and not self.slot.target.takes(self.raw):
            return False
        if b"\\" in joined and opening == b'"' and _ENDS_IN_BACKSLASH.search(b"\n".join((*self.raw, b""))):
            return False  # the quote behind it is a part of the string
        if opening == b":":
            return b"}" not in joined  # the decoder looks for an event whose line end is lost
        keeps_pieces = isinstance(self.slot.target, Concat) and self.slot.target.keeps_pieces
        if opening == b'"' and joined.isascii() and b"\\" not in joined:
            if b'"' in joined:
                return False
            self._values = b'"'.join(self.raw).decode("ascii").split('"') if keeps_pieces else [joined.decode("ascii")]
            return True
        # A quote between them, as `_parse` has it: the halves of a split character must not make a whole one.
        self.replaced = not joined.isascii() and REPLACED in b'"'.join(self.raw).decode(errors="replace")
        if isinstance(self.slot.target, Listing):
            self._shape = self._shape or shapes.shape_of(self.raw)
            self._items = b"" if self._shape is None else shapes.written(self.raw, self._shape)
            if self._items:
                return True
        if opening == b'"' and not keeps_pieces and not self.replaced and b"\\u" not in joined:
            # No character, and no escape, begins in one of them and ends in the next.
            text = f'"{joined.decode()}"'
            value, end = jsontext.scan(text, 0)
            if end == len(text):
                self._values = [value]
                return True
        values = _parse(opening, self.raw)
        self._values = values or []
        return values is not None

    def drop_last(self) -> bool:
        """Forget the last of them. Whether that one was valid."""
        rest, self.raw[:] = self.raw[:-1], self.raw[-1:]
        is_valid = self.are_valid()
        self.raw[:] = rest
        return is_valid

    def append(self) -> None:
        """Append all of them to their target at once."""
        if isinstance(self.slot.target, Concat):
            self.slot.target.extend(self._values)
        elif self._items and isinstance(self.slot.target, Listing):
            self.slot.target.extend(self._items)
        elif isinstance(self.slot.target, Extend):
            self.slot.target.add([item for items in self._values for item in items])


class Template:
    """One event's bytes, with slots. `fixed`: what is around these; `values`: what the events that fitted have in each;
    `lines`: how many are not blank."""

    def __init__(self, fixed: Sequence[bytes], slots: Sequence[Slot]) -> None:
        self.fixed = fixed
        self.values = [_Values(slot) for slot in slots]
        self.lines = sum(part.count(b"\n") for part in fixed) - 1
        self.alone = Round([self])
        self.next = self  # the one that was last seen after it

    @cached_property
    def shape(self) -> list[bytes]:
        """What those in force together have in common."""
        return [_INDEX.sub(rb"\1", part) for part in self.fixed]

    @property
    def count(self) -> int:
        """How many events fitted."""
        return len(self.values[0].raw)

    @property
    def last_size(self) -> int:
        """The bytes of the last of them."""
        return sum(map(len, self.fixed)) + sum(len(values.raw[-1]) for values in self.values)

    @property
    def targets(self) -> list[Target | None]:
        return [values.slot.target for values in self.values]

    def append(self) -> None:
        """Append what is in the slots to where it belongs."""
        for values in self.values:
            values.append()

    def cut(self, count: int) -> None:
        """Forget what fitted, but for the first `count` events."""
        for values in self.values:
            del values.raw[count:]


class Round:
    """Templates that take turns in this order."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self.templates = templates
        self._first = templates[0].fixed[0]
        self._steps: list[tuple[bytes, bytes, int, Callable[[bytes], None]]] = []
        for template, after in zip(templates, [*templates[1:], None], strict=True):
            parts = [*template.fixed[1:-1], template.fixed[-1] + (b"" if after is None else after.fixed[0])]
            # For each slot: where it stops, what follows it, and what takes it. A list ends where all that follows it
            # starts; a string or a number where the first byte of that is.
            self._steps += (
                (part if values.slot.opening == b"[" else part[:1], part, len(part), values.raw.append)
                for values, part in zip(template.values, parts, strict=True)
            )

    def fit(self, data: bytes, at: int, until: int) -> int:
        """Where the events end whose bytes fit, from `at` on; the last round of them starts before `until`."""
        first, width, steps = self._first, len(self._first), self._steps
        find, startswith = data.find, data.startswith
        limit = until + _LONGEST_SLOT
        counts = [template.count for template in self.templates]
        # This loop runs once for each round, and is where the time goes: every call in it is to C code.
        while at < until and startswith(first, at):
            here = at + width
            for stop, part, length, append in steps:
                end = find(stop, here, limit)
                if end > 0 and data[end - 1] == _BACKSLASH:
                    # What follows the slot, in this line: whether it is in a string shows later.
                    end = find(part, here, find(b"\n", here, limit) + length)
                if end < 0 or not startswith(part, end):
                    break
                append(data[here:end])
                here = end + length
            else:
                at = here
                continue
            rounds = len(self.templates[-1].values[-1].raw) - counts[-1]
            for template, count in zip(self.templates, counts, strict=True):
                template.cut(count + rounds)
            break
        return at


class Run(NamedTuple):
    """Events that fitted: where they end, how many they are and how many lines they have, whether there are replacement
    characters in them, and whether the event behind them fits too, but is to be parsed since it is the last."""

    end: int
    events: int = 0
    lines: int = 0
    has_replaced: bool = False
    is_last: bool = False


class Templates:
    """Those that are in force together; and, where they may be between the events, comments."""

    def __init__(self, first: Template, *, comments: bool = True) -> None:
        self._templates = [first]
        self._takes_comments = comments
        self._comment: Template | None = None
        self._starts: tuple[bytes, ...] = (first.fixed[0], b":")
        self._ends: tuple[bytes, ...] = (first.fixed[-1],)
        self._last = first
        # The last chunk's template, where that chunk ends, and how many comments come before it.
        self._chunk: Template | None = None
        self._chunk_end = self._comments = 0
        # How many events fitted just the template that was foretold.
        self._foretold = 0
        self._rounds: dict[Template, Round] = {}
        # Whether it matters which event is the last.
        self._in_order = any(isinstance(target, Last | Totals) for target in first.targets)

    def are_near(self, event: bytes) -> bool:
        """Whether an event may be one that can join these, as far as its beginning and its end tell."""
        shape, masked = self._templates[0].shape, _INDEX.sub(rb"\1", event)
        return masked.startswith(shape[0]) and masked.endswith(shape[-1])

    def join(self, made: Template) -> bool:
        """Whether a template may be in force beside these, which it is from now on."""
        known = {id(target) for template in self._templates for target in template.targets}
        own = {id(target) for target in made.targets if isinstance(target, Concat | Extend)}
        # Of a label in each choice, the last of every choice counts, and not that of the last chunk.
        labels = {id(target) for target in made.targets if isinstance(target, Last)}
        if made.shape != self._templates[0].shape or own & known or not labels <= known:
            return False
        if len(self._templates) > _MOST_TEMPLATES:
            return False
        self._templates.insert(0, made)
        # It was the last to come, and most likely they take turns in the order in which they came first.
        made.next, self._last.next, self._last = self._last.next, made, made
        self._foretold = len(self._templates)
        self._starts, self._ends = (made.fixed[0], *self._starts), (made.fixed[-1], *self._ends)
        self._in_order = True
        return True

    def is_like(self, data: bytes) -> bool:
        """Whether these bytes start and end as one or more events do that fit."""
        return data.startswith(self._starts) and data.endswith(self._ends)

    def match_run(self, data: bytes, at: int) -> Run:
        """The run of events that fit, from `at` on. Their texts are appended to where they belong."""
        run, most, in_rounds = Run(at), _FIRST_RUN, True
        while True:
            at = run.end
            end, is_last, is_valid = self._fit(data, at, at + most, in_rounds=in_rounds), False, True
            if end == at:
                return run
            last = self._last if self._chunk is None else self._chunk
            last_start = (end if self._chunk is None else self._chunk_end) - last.last_size
            if self._in_order and self._chunk is not None:
                # The last of these is the last that counts, if nothing behind it fits.
                are_valid = [values.drop_last() for values in last.values]
                is_valid = all(are_valid)
                is_last, end = last_start == at or end - at < most, last_start
                if self._comment is not None:
                    self._comment.cut(self._comments)
            fitted = [template for template in self._templates if template.count]
            if not is_valid or not all(values.are_valid() for template in fitted for values in template.values):
                # What comes before the first that is not valid is matched again: fewer events each time.
                most, is_last, in_rounds = (last_start - at + 1) // 2, False, False
            else:
                for template in fitted:
                    template.append()
                run = Run(
                    end,
                    run.events + sum(template.count for template in fitted if template is not self._comment),
                    run.lines + sum(template.count * template.lines for template in fitted),
                    run.has_replaced or any(values.replaced for template in fitted for values in template.values),
                )
                most = 2 * most if (self._in_order and not is_last) or end - at >= most else 0
            for template in fitted:
                template.cut(0)
            if not most:
                return run._replace(is_last=is_last)

    def _fit(self, data: bytes, at: int, until: int, *, in_rounds: bool) -> int:
        """Where the events end whose bytes fit a template each, or are a comment; the last of them starts before
        `until`, or the round that it is in."""
        last, self._chunk = self._last, None
        until = min(until, len(data))
        while at < until:
            # Events that take turns mostly do so in one order.
            turn = last.next.alone
            if in_rounds and self._foretold >= len(self._templates) > 1:
                turn = self._round_of(last.next)
            end = turn.fit(data, at, until)
            if end == at:
                self._foretold = -1
                for template in self._templates:
                    if template.alone is not turn and (end := template.alone.fit(data, at, until)) > at:
                        turn, last.next = template.alone, template
                        break
                else:
                    if self._takes_comments and self._comment is None and data.startswith(b":", at):
                        self._comment = Template((b":", b"\n\n"), [Slot(1, 1, 0, b":", None)])
                        self._templates.append(self._comment)
                        continue
                    break
            self._foretold += 1
            last, at = turn.templates[-1], end
            comments = 0 if self._comment is None else self._comment.count
            if last is not self._comment:
                self._chunk, self._chunk_end, self._comments = last, end, comments
            elif len(turn.templates) > 1:
                self._chunk, self._chunk_end, self._comments = turn.templates[-2], end - last.last_size, comments - 1
        self._last = last
        return at

    def _round_of(self, first: Template) -> Round:
        """The round that begins with this template, as far as is known."""
        templates = [first]
        while (after := templates[-1].next) not in templates:
            templates.append(after)
        if after is not first or len(templates) == 1:
            return first.alone
        known = self._rounds.get(first)
        if known is None or known.templates != templates:
            known = self._rounds[first] = Round(templates)
        return known


def _around(event: bytes, slots: Sequence[Slot]) -> list[bytes]:
    """The bytes before, between and after the slots."""
    cuts = [0, *(cut for slot in slots for cut in (slot.start, slot.end)), len(event)]
    return [event[start:end] for start, end in list(pairwise(cuts))[::2]]


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


def _end_of_value(event: bytes, start: int) -> int:
    """Where the closing bracket of a list or an object is, given where its inside starts; -1 if nowhere."""
    try:
        _, _, rest = jsontext.split(event[start - 1 :].decode())
    except ValueError:
        return -1
    return len(event) - len(rest.encode()) - 1


def _end_of_number(event: bytes, start: int) -> int:
    """Where the whole number ends, -1 if there is none."""
    number = _NUMBER.match(event, start)
    return -1 if number is None else number.end()


def _parse(opening: bytes, insides: Sequence[bytes]) -> list[Any] | None:
    """The values of JSON strings or lists, given their insides; None if one of them is not valid, or an empty list.
    Invalid UTF-8 is replaced in each by itself, as it would have been in its event, since a quote ends any sequence."""
    closing = b'"' if opening == b'"' else b"]"
    text = b"[" + opening + (closing + b"," + opening).join(insides) + closing + b"]"
    try:
        values: list[Any] = jsontext.loads(text.decode(errors="replace"))
    except ValueError:
        return None
    if opening == b'"':
        # Each has two quotes around it: with one inside, there would be more strings.
        return values if len(values) == len(insides) and all(type(one) is str for one in values) else None
    # An inside that ends its list and starts another would make one more of them than there are insides.
    return values if len(values) == len(insides) and all(isinstance(one, list) and one for one in values) else None


def template_of(
    event: bytes,
    data: bytes,
    slots: Slots,
    before: bytes = b"",
    watched: Collection[str] = (),
    *,
    is_padded: bool = False,
) -> Template | None:
    """The template of an event with this `data`, a JSON text, of which the `slots` may differ, but those of `watched`
    members; None if the bytes do not plainly show where they are. What is not a text and was the same in the event
    `before` is assumed to stay the same: a slot costs time in every event, and a wrong guess one more event parsed."""
    head, _, end = event.partition(data)
    if _REPLACED in data or not _is_head(head) or end not in (b"\n\n", b"\r\n\r\n"):
        return None
    texts: list[Slot] = []
    others: list[Slot] = []
    for key, target in slots:
        if isinstance(target, Padding | Last | Totals):
            others += _slots(event, key, target) if key not in watched else ()
            continue
        found = _slots(event, key, target)
        if not found:
            return None
        texts += found
    if is_padded and (blanks := _BLANKS.search(data)):
        texts.append(Slot(len(head) + blanks.start(1), len(head) + blanks.end(1), 0, b" ", None))
    known = sorted((*texts, *others), key=itemgetter(0)) if others or len(texts) > 1 else texts
    fixed = _around(event, known)
    if b"\\" in b"".join(fixed):
        return None  # a name may be spelled with escapes there, and the bytes in a slot be another member's
    varying = [slot for slot in known if slot in texts or (before and event[slot.named : slot.end + 1] not in before)]
    return Template(fixed if varying == known else _around(event, varying), varying)


def _are_learnable(slots: Slots, before: bytes) -> bool:
    """Whether there is a text among these; but of totals that the event before does not have, some stay as they are,
    which the next event shows."""
    for key, target in slots:
        if isinstance(target, Totals) and not re.search(b'"%s": ?{' % re.escape(key).encode(), before):
            return False
    return any(isinstance(target, Concat | Extend) for _, target in slots)


def _is_head(head: bytes) -> bool:
    """Whether nothing but the field's name, and the event's name, comes before an event's data."""
    if head == b"data: ":
        return True
    *named, last = head.replace(b"\r\n", b"\n").split(b"\n")
    return last in (b"data: ", b"data:") and len(named) < 2 and all(line.startswith(b"event:") for line in named)


def _slots(event: bytes, key: str, target: Target) -> list[Slot]:
    # Inside a JSON string a quote has a backslash before it, so these bytes are a member's name wherever they are. (One
    # with half of a surrogate pair is spelled with an escape, so its bytes are never found.)
    quoted, openings = b'"%s"' % key.encode(errors="surrogatepass"), _OPENINGS[type(target)]
    if quoted + b" " in event or quoted + b"\t" in event:
        return []  # it may be a name, and is not found below
    name = quoted + b":"
    found, named = [], event.find(name)
    while named >= 0:
        start = named + len(name) + event.startswith(b" ", named + len(name))
        if event[start] in b" \t":
            return []
        if event[start] in openings:
            found.append((named, start))
        named = event.find(name, named + 1)
    if len(found) != 1:
        return []  # where there are two before a value of one kind, it is not clear which is meant
    named, start = found[0]
    opening = event[start : start + 1].strip(b"-0123456789")
    start += len(opening)
    end = _ENDS[opening](event, start)
    if end >= 0 and isinstance(target, Totals):
        counts = _COUNT.finditer(event, start, end + 1)
        return [Slot(*count.span(1), count.start(), b"", target) for count in counts]
    return [] if end < 0 else [Slot(start, end, named, opening, target)]


_LABEL_OPENINGS: Final = b'"-0123456789'
# What opens a member's value, by its target; padding and labels are strings or numbers, and all others are texts.
_OPENINGS: Final = defaultdict(
    lambda: b'"', {Extend: b"[", Listing: b"[", Padding: _LABEL_OPENINGS, Last: _LABEL_OPENINGS, Totals: b"{"}
)
_ENDS: Final = {b'"': _end_of_string, b"[": _end_of_value, b"{": _end_of_value, b"": _end_of_number}


def _with_newlines(data: bytes) -> bytes:
    """The same lines with LF at their ends, if all have CRLF (sse-starlette, Perplexity): both end a line."""
    if b"\r" not in data or not data.count(b"\r\n") == data.count(b"\r") == data.count(b"\n"):
        return data
    return data.replace(b"\r\n", b"\n")


class Repeats:
    """Reads events, except those that fit the templates in force: these it merges itself.

    `parsed` counts the bytes of the others. `effect`: what would change if the event that was taken last came again;
    whoever takes events sets it before the next.
    """

    def __init__(self, reader: EventReader) -> None:
        self.parsed = 0
        self.effect: Slots | None = None
        self._reader = reader
        self._decoder = reader.decoder
        self._templates: Templates | None = None
        self._matched = 0
        self._is_padded = False
        self._event = b""
        self._before = b""
        self._rest = b""
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._until_attempt = self._in_vain = 0
        self._pause = 1

    def wait(self, data: bytes) -> bool:
        """Whether these bytes may wait for more like them. If so, they do."""
        data = _with_newlines(data)
        if self._templates is None or not self._templates.is_like(data):
            return False
        at_event = self._waiting or (not self._rest and self._decoder.between_events)
        if not at_event or self._waiting_size + len(data) >= _MOST_WAITING:
            return False
        self._waiting.append(data)
        self._waiting_size += len(data)
        return True

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete, after what waited, but for those that fit a template. The last of these
        may wait for more like it."""
        return self._read(data, may_wait=True)

    def flush(self, data: bytes = b"") -> Iterator[Event]:
        """The same, and nothing waits."""
        return self._read(data, may_wait=False)

    def _read(self, data: bytes, *, may_wait: bool) -> Iterator[Event]:
        data = _with_newlines(data)
        if self._rest or self._waiting:
            data = b"".join((self._rest, *self._waiting, data))
            self._rest, self._waiting, self._waiting_size = b"", [], 0
        at, has_returns = 0, b"\r" in data
        while at < len(data):
            starts, is_last = self._decoder.between_events, False
            if starts and self._templates is not None:
                at, is_last = self._match_run(self._templates, data, at)
            elif starts and self.pauses and not has_returns:
                at = self._merge_run(data, at)
            if at == len(data):
                return
            # What `end_of_event` does first, without the call: this runs once for each event that is parsed.
            end, is_plain = data.find(b"\n\n", at, at + _SHORT_EVENT) + 2, starts
            if end < 2 or has_returns:
                end, is_plain = end_of_event(data, at), False
            waits = is_last and may_wait and len(data) - at <= _LONGEST_REST
            if waits and (end == len(data) or _UNFINISHED.fullmatch(data, end)):
                self._waiting, self._waiting_size = [data[at:]], len(data) - at
                return
            if end < 0:
                end = len(data)
                # Once it is whole, it is read faster, and may fit.
                if starts and end - at <= _LONGEST_REST and _UNFINISHED.fullmatch(data, at):
                    self._rest = data[at:]
                    return
            known = self._templates
            for event in self._parse(data[at:end], starts=starts or not self.parsed, is_plain=is_plain):
                self.effect, self._templates = CHANGED, None
                yield event
                if is_last and self.effect is not CHANGED:
                    self._templates = known
                else:
                    self._learn(event, known)
                    known = None
            at = end

    @property
    def pauses(self) -> bool:
        """Whether no effect is asked for, for now."""
        return self._until_attempt > 0

    @property
    def begun(self) -> int:
        """The bytes of the event that has no blank line yet."""
        rest = 0 if self._rest.startswith(b":") else len(self._rest)
        return rest + self._decoder.begun

    def flush_late(self) -> Iterator[Event]:
        """The same, with the event that has no blank line yet, if its data is whole: nothing can be added to it."""
        yield from self.flush()
        if self.begun:
            ahead = deepcopy(self._decoder)
            found = [*ahead.feed(self._rest), *ahead.close()]
            if found and all(is_whole(event.data) for event in found):
                yield from self.flush(b"\n\n")

    def close(self) -> Iterator[Event]:
        """What the end of the stream leaves."""
        yield from self.flush()
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._parse(rest, starts=False)
        yield from self._reader.close()

    def _learn(self, event: Event, known: Templates | None) -> None:
        """Make the last event a template, if it can be one. `known`: those that were in force before it."""
        self._until_attempt -= 1
        is_used = known is not None and (self._matched > 0 or self._pause == 1)
        is_wanted = self._until_attempt < 0 if known is None else is_used or known.are_near(self._event)
        made = None
        if is_wanted and self._event and not self._reader.patches:
            is_tried = False
            if self.effect and (is_tried := _are_learnable(self.effect, self._before)):
                data = event.data.encode(errors="surrogatepass")
                self._is_padded = self._is_padded or data.endswith(b" }")
                watched, is_padded = self._reader.odd.watched, self._is_padded
                made = template_of(self._event, data, self.effect, self._before, watched, is_padded=is_padded)
            self._in_vain = self._in_vain + 1 if made is None else 0
            if known is None and made is None and (is_tried or self._in_vain > _MOST_IN_VAIN):
                self._attempted(success=False)
            self._before = self._event
        if known is not None:
            if made is not None and known.join(made):
                self._templates = known
                return
            made = made if is_used else None
            self._attempted(self._matched >= _FEWEST_MATCHED)
            self._until_attempt -= 1
            self._matched = 0
        self._templates = None if made is None else Templates(made)

    def _match_run(self, templates: Templates, data: bytes, start: int) -> tuple[int, bool]:
        run = templates.match_run(data, start)
        self._matched += run.events + run.is_last
        if run.has_replaced:
            self._reader.look_for_replaced(data[start : run.end])
        self._reader.count = self._reader.latest = self._reader.count + run.events
        self._decoder.lines += run.lines
        return run.end, run.is_last

    def _merge_run(self, data: bytes, start: int) -> int:
        end, events = self._reader.merge_run(data, start, self._until_attempt)
        self.parsed += end - start
        self._until_attempt -= events
        return end

    def _parse(self, piece: bytes, *, starts: bool, is_plain: bool = False) -> list[Event] | Iterator[Event]:
        """The events of a piece that is one event, or part of one. `starts`: it starts where an event does; `is_plain`:
        and is a whole one without a CR."""
        self.parsed += len(piece)
        events = self._reader.read_plain(piece) if is_plain else None
        if events is None:
            events = self._reader.feed(piece)
        self._event = piece if starts and type(events) is list and len(events) == 1 else b""
        return events

    def _attempted(self, success: bool) -> None:
        self._pause = 1 if success else min(4 * self._pause, _LONGEST_PAUSE)
        self._until_attempt = self._pause - 1
