"""A JSON request body as bytes: read its top-level members, and change a few of them without touching another byte.

Knows JSON text (RFC 8259) and nothing else: no rules, endpoints, HTTP or mitmproxy.

A body of 20 MB is mostly one base64 string. It is parsed as a skeleton in which long runs without a quote or a
backslash have shrunk to a single mark: crossing such a run takes a tenth of the time in which json copies it.
"""

import json
from bisect import bisect
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from typing import Any, Final, NamedTuple, NoReturn

from . import long_json
from .long_json import LONG, after_blanks
from .text import decoded

# Bytes. A larger body may be of the slow kind (many small strings: up to 25 ms per megabyte), so read it in a thread.
BLOCKS_LOOP: Final = 256 * 1024
# Bytes. A shorter run is read by json in less time than it takes to cut it out.
BLOCK: Final = 8 * 1024

# An escape's backslash may be the last byte before a run, and then needs "u" and four digits. Without them the skeleton
# would not parse, and the whole body would have to be parsed instead.
_ESCAPE_TAIL: Final = 5
# Replaces a run that was cut out. JSON has "?" only inside strings: if the skeleton parses, all runs were in strings.
_MARK: Final = "?"

# Bytes that are copied together, without another thread having its turn.
_TOGETHER: Final = 1024 * 1024
# What no request of any API has more of: each member takes memory of its own, for as long as the body is edited.
_MOST_MEMBERS: Final = 10_000
# Of a longer array it does not matter how many items it has.
_MOST_ITEMS: Final = 100_000

type Splice = tuple[int, int, bytes]
"""Replace start:end by these bytes. In a list, splices are in order and do not overlap."""


class Edited(NamedTuple):
    """The new body, and the splices with which `undo` restores the old one."""

    body: bytes
    undo: list[Splice]


class Span(NamedTuple):
    """Where one member is, as offsets into the bytes: its key, its value, the end of its value."""

    key: str
    start: int
    value: int
    end: int


# What clients send for false as text: forms have nothing else, and some clients put the same into JSON.
_FALSE: Final = ("", "false", "0", "null", "none")
# Bytes, with quotes and blanks.
_LONGEST_FALSE: Final = 32


def means_false(value: object) -> bool:
    """Whether a flag of a request is off."""
    if isinstance(value, str):
        return value.strip().lower() in _FALSE
    return value is None or (isinstance(value, (bool, int, float)) and not value)


@dataclass(frozen=True, eq=False)
class Body:
    """A request body that is a JSON object.

    `members` has the top-level members; of a key that appears twice, the last value. A string or object of more than
    `BLOCK` bytes is an empty one there; an array has as many items as it has, up to 100,000, all of them empty and like
    the first.
    """

    members: Mapping[str, object] = field(repr=False)
    _raw: bytes = field(repr=False)
    _known_spans: list[Span] | None = field(default=None, repr=False)

    @cached_property
    def _spans(self) -> list[Span]:
        """Where all members are; of a short body, only looked for where one of them has to change."""
        return _read(self._raw, [], BLOCK)._spans if self._known_spans is None else self._known_spans

    @property
    def asks_plain(self) -> bool:
        """Whether the request wants one JSON document: `stream` is absent, null, or what clients send for false."""
        if "stream" not in self.members:
            return True
        found = (self._raw[span.value : span.end] for span in reversed(self._spans) if span.key == "stream")
        value = next(found, b"null")
        # Read from the bytes: among the members, a long text is an empty one.
        return len(value) <= _LONGEST_FALSE and means_false(_DECODER.decode(value.decode()))

    def forced(
        self, stream_options: Mapping[str, object] | None, extra_body: Mapping[str, object] | None = None
    ) -> Edited:
        """Ask for a stream. The options (JSON values) override the request's own; None removes all of them. The extra
        members override the request's own whole."""
        extra = dict(extra_body or {})
        edits: list[Splice] = []
        changed = {"stream", "stream_options", *extra}
        for span in () if changed.isdisjoint(self.members) else self._spans:
            if span.key == "stream":
                edits.append((span.value, span.end, b"true"))
            elif span.key == "stream_options" and stream_options:
                edits += _merged(self._raw, span, stream_options)
            elif span.key in extra:
                edits.append((span.value, span.end, _dump(extra[span.key])))
        removed = {"stream_options"} if stream_options is None else set()
        if not removed.isdisjoint(self.members):
            edits += _removals(self._spans, removed)
        wanted = {"stream": True} | ({"stream_options": stream_options} if stream_options else {}) | extra
        edits += _insertion(self._raw.index(b"{") + 1, wanted, self.members.keys() - removed)
        return edited(self._raw, edits)

    def plain(self, extra_body: Mapping[str, object] | None = None, options: Collection[str] = ()) -> Edited:
        """Ask for one JSON document, without these options of a stream. The extra members override the request's own
        whole."""
        extra, removed = dict(extra_body or {}), {"stream", *options}
        edits = [(span.value, span.end, _dump(extra[span.key])) for span in self._spans if span.key in extra]
        edits += _removals(self._spans, removed)
        edits += _insertion(self._raw.index(b"{") + 1, extra, self.members.keys() - removed)
        return edited(self._raw, edits)

    def without(self, *keys: str) -> Edited:
        """Remove every top-level member with one of these names."""
        return edited(self._raw, _removals(self._spans, set(keys)))


def read_body(raw: bytes, block: int = BLOCK) -> Body | None:
    """Read a body; None unless it is UTF-8 (with or without a byte order mark) and one JSON object. Never raises.

    More lenient than RFC 8259 in one point: a control character inside a string is accepted, for the upstream to judge.
    Stricter in two: a body that is nested too deeply for Python's parser is None, and so is one with more than 10,000
    members at the top. `block` is for tests (at least 6).
    """
    if len(raw) <= block:
        return _read_short(raw)
    runs = _quiet_runs(raw, block)
    # A run may be a long array of numbers, or white space; then the skeleton does not parse, but the whole body may.
    for cuts in (runs, []) if runs else ([],):
        try:
            return _read(raw, cuts, block)
        except (ValueError, RecursionError):
            continue
    return None


def undo(body: bytes, splices: Iterable[Splice]) -> bytes:
    """The body before an edit, given the edited one and its `Edited.undo`."""
    view = memoryview(body)
    pieces: list[bytes | memoryview] = []
    done = 0
    for start, end, new in splices:
        pieces += (view[done:start], new)
        done = end
    pieces.append(view[done:])
    if len(body) <= _TOGETHER:
        return b"".join(pieces)
    # Nobody else has these bytes, so they are written in their place, and memory is taken as it is filled.
    made = BytesIO(bytes(sum(map(len, pieces))))
    for piece in pieces:
        for at in range(0, len(piece), _TOGETHER):
            made.write(piece[at : at + _TOGETHER])
    return made.getvalue()


def edited(raw: bytes, edits: list[Splice]) -> Edited:
    """The body with these edits; those that change nothing are left out."""
    edits = sorted(edit for edit in edits if raw[edit[0] : edit[1]] != edit[2])
    if not edits:
        return Edited(raw, [])
    backwards: list[Splice] = []
    growth = 0
    for start, end, new in edits:
        backwards.append((start + growth, start + growth + len(new), raw[start:end]))
        growth += len(new) - (end - start)
    return Edited(undo(raw, edits), backwards)


def _merged(raw: bytes, own: Span, options: Mapping[str, object]) -> list[Splice]:
    text = raw[own.value : own.end].decode("latin-1")
    if not text.startswith("{"):
        return [(own.value, own.end, _dump(options))]
    members = [span for span, _ in _walk(text, 0, len(text))]
    edits = [(own.value + at.value, own.value + at.end, _dump(options[at.key])) for at in members if at.key in options]
    return edits + _insertion(own.value + 1, options, {span.key for span in members})


def _insertion(at: int, members: Mapping[str, object], present: Set[str]) -> list[Splice]:
    """Put those of the members that are not present before those that are."""
    missing = {key: value for key, value in members.items() if key not in present}
    return [(at, at, _dump(missing)[1:-1] + (b"," if present else b""))] if missing else []


def _removals(spans: list[Span], keys: set[str]) -> list[Splice]:
    """One splice for each run of neighbours to remove, with the comma after them, or for the last ones before them."""
    splices: list[Splice] = []
    kept_end = first = None
    for span in spans:
        if span.key in keys:
            first = span.start if first is None else first
            continue
        if first is not None:
            splices.append((first, span.start, b""))
        kept_end, first = span.end, None
    if first is not None:
        splices.append((first if kept_end is None else kept_end, spans[-1].end, b""))
    return splices


def _dump(value: object) -> bytes:
    return _ENCODER.encode(dict(value) if isinstance(value, Mapping) else value).encode("ascii")


def _quiet_runs(raw: bytes, block: int) -> list[tuple[int, int]]:
    """The runs of at least a block that are pure ASCII without a quote or a backslash.

    Cutting one out of a string leaves a valid string: the digits of an escape before the run are not cut.
    """
    runs: list[tuple[int, int]] = []
    all_ascii = raw.isascii()
    for start in range(block, len(raw) - block + 1, block):
        end = start + block
        if raw.find(b'"', start, end) >= 0 or raw.find(b"\\", start, end) >= 0:
            continue
        if not all_ascii and not raw[start:end].isascii():
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start + _ESCAPE_TAIL, end))
    return runs


def _read(raw: bytes, cuts: list[tuple[int, int]], block: int) -> Body:
    """Raises ValueError or RecursionError if the bytes, without the cuts, are not a JSON object."""
    skeleton = undo(raw, [(start, end, _MARK.encode()) for start, end in cuts]) if cuts else raw
    all_ascii = skeleton.isascii()
    if not all_ascii:
        for _ in decoded(skeleton, "strict"):
            pass
    # JSON's own characters are ASCII. Read as Latin-1, an offset into the text is an offset into the bytes.
    text = skeleton.decode("latin-1")

    marks: list[int] = []
    shifts = [0]
    for start, end in cuts:
        marks.append(start - shifts[-1])
        shifts.append(shifts[-1] + end - start - len(_MARK))

    members: dict[str, object] = {}
    spans: list[Span] = []
    for span, value in _walk(text, len(BOM_UTF8) if raw.startswith(BOM_UTF8) else 0, block):
        if cuts:
            start, at, end = (offset + shifts[bisect(marks, offset)] for offset in span[1:])
            key = _DECODER.raw_decode(raw[start:at].decode("utf-8"))[0] if _MARK in span.key else span.key
            span = Span(key, start, at, end)
        if isinstance(value, (str, list, dict)):
            if span.end - span.value > block:
                value = _emptied(value)
            elif not all_ascii:
                value = _DECODER.decode(raw[span.value : span.end].decode("utf-8"))
        members[span.key] = value
        spans.append(span)
    return Body(members, raw, spans)


def _read_short(raw: bytes) -> Body | None:
    """Read a body in which no value is long."""
    try:
        members = _DECODER.decode(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return Body(members, raw) if isinstance(members, dict) else None


def _emptied(value: str | list[Any] | dict[str, Any]) -> object:
    """What is kept of a long value: its type, and how many items an array has."""
    if isinstance(value, list) and value:
        return [type(value[0])()] * min(len(value), _MOST_ITEMS)
    return type(value)()


def _walk(text: str, start: int, block: int) -> Iterator[tuple[Span, object]]:
    """The members of the object at `start`. Raises ValueError if it is not an object, or if more text follows."""
    at = _after(text, "{", start)
    more = not text.startswith("}", at)
    if not more:
        at = after_blanks(text, at + 1)
    count = 0
    while more:
        count += 1
        if count > _MOST_MEMBERS or not text.startswith('"', at):
            _refuse()
        key, end = _value(text, at, block)
        if not key.isascii():
            key = _DECODER.decode(text[at:end].encode("latin-1").decode("utf-8"))
        begin = _after(text, ":", end)
        value, value_end = _value(text, begin, block)
        yield Span(key, at, begin, value_end), value
        end = after_blanks(text, value_end)
        more = not text.startswith("}", end)
        at = _after(text, "," if more else "}", end)
    if at != len(text):
        _refuse()


def _after(text: str, mark: str, at: int) -> int:
    """Where the next token is, after a mark that must come first."""
    at = after_blanks(text, at)
    if not text.startswith(mark, at):
        _refuse()
    return after_blanks(text, at + 1)


def _value(text: str, start: int, block: int) -> tuple[Any, int]:
    """A value and its end. In a long text, of what is longer than a block only so much as is kept."""
    if len(text) <= LONG:
        return _DECODER.raw_decode(text, start)
    value, end = long_json.read(text, start, _SKIM, most=_MOST_ITEMS)
    if isinstance(value, (list, dict)) and end - start <= block:
        value, end = _DECODER.raw_decode(text, start)
    return value, end


def _refuse() -> NoReturn:
    raise json.JSONDecodeError("not a JSON object", "", 0)


def _integer(digits: str) -> int | float:
    # Python does not read integers of very many digits (sys.set_int_max_str_digits, at least 640); JSON allows them.
    return int(digits) if len(digits) <= 640 else float(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_constant=_no_constant, strict=False)
_SKIM: Final = long_json.skimming(_DECODER.raw_decode)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
