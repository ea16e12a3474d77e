"""Long JSON texts, read and written in short steps.

Python's `json` lets no other thread run until a whole value is read or written: 30 ms and more a megabyte. Here it gets
short parts of one, between which the interpreter can switch to the thread of the event loop. A part that fits into a
window is read by `json` itself; a container that does not is opened, and its members are read as many at a time as a
window holds. Nothing here recurses.

Knows RFC 8259 and where a JSON text may be cut; must not know how numbers are kept.
"""

import gc
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import batched
from threading import Lock
from typing import Any, Final, NoReturn

# Characters. A shorter text is read in one go, which takes a few milliseconds at most.
LONG: Final = 64 * 1024
# Characters that are read together, whatever they are: half a millisecond.
_WINDOW: Final = 16 * 1024
# Characters of a string that are read or written together.
_SLICE: Final = 64 * 1024
# How many containers may be in one another: as many as `json` reads.
_MOST_OPEN: Final = 9_900
# How many containers may be in one another in members that are read or written together.
_DEPTH: Final = 8
# Characters that are written together; how many a value counts for, beside its text; members of one container that are
# looked at together.
_TOGETHER: Final = 32 * 1024
_OF_A_VALUE: Final = 8
_BATCH: Final = 64

# How many collections of middle-aged garbage come before one of all there is.
_NEVER: Final = 1_000_000_000
# Seconds for which a thread goes on while another one waits.
_TURN: Final = 0.0005

# A JSON text is cut at the commas that are neither in a string nor in brackets. What is given to `json` in this way
# needs no other check: it raises for all that is not JSON. Nothing here goes back, so the time is linear.
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _balanced(excluded: str, depth: int) -> str:
    """A pattern for a text with all its strings and brackets whole, which may nest so deep."""
    inside = rf"|[\[{{]{_balanced('', depth - 1)}[\]}}]" if depth else ""
    return rf'(?:[^"\[\]{{}}{excluded}]++|{_STRING}{inside})*+'


_MEMBER: Final = _balanced(",", _DEPTH)
# Members with their commas, and the last one with the bracket that closes its container.
_MEMBERS: Final = re.compile(rf"(?:{_MEMBER},)*+(?:{_MEMBER}[\]}}])?+", re.DOTALL)
_CHARACTERS: Final = re.compile(r'[^"\\]*+(?:\\(?:[^u]|u....)[^"\\]*+)*+', re.DOTALL)
_BLANKS: Final = re.compile(r"[ \t\n\r]*+")
_NUMBER: Final = re.compile(r"[-+.0-9eE]*+")
# The longest of the names that are values is `-Infinity`.
_LONGEST_NAME: Final = 9

type Decode = Callable[[str, int], tuple[Any, int]]
"""The value at a place of a text, and where it ends; raises `JSONDecodeError`."""
type Encode = Callable[[Any], bytes]
"""The compact JSON text of a value."""


def read(text: str, start: int, decode: Decode, window: int = _WINDOW, *, most: int = sys.maxsize) -> tuple[Any, int]:
    """What `decode` would return. `most`: how many items of a list, or characters of a text, matter, about. `window` is
    for tests (at least 16)."""
    with gently():
        return _read(text, start, decode, window, most)


# What is set back when the last one ends: the same for each that is under way, in any thread.
_found: list[tuple[tuple[int, int, int], float]] = []
_lock: Final = Lock()


@contextmanager
def gently() -> Iterator[None]:
    """Have what takes long hold up other threads as little as can be.

    They get their turn after half a millisecond, in place of Python's five. And only young garbage is looked for while
    a large value is made. `json` makes one in one step, in which no garbage is collected. In many steps, Python would
    look through all that was made so far again and again: that takes ten times as long as to read it, and no other
    thread runs meanwhile. What is young is little.
    """
    with _lock:
        _found.append(_found[0] if _found else (gc.get_threshold(), sys.getswitchinterval()))
        (youngest, younger, _), turn = _found[0]
        gc.set_threshold(youngest, younger, _NEVER)
        sys.setswitchinterval(min(turn, _TURN))
    try:
        yield
    finally:
        with _lock:
            thresholds, turn = _found.pop()
            if not _found:
                gc.set_threshold(*thresholds)
                sys.setswitchinterval(turn)


def _read(text: str, start: int, decode: Decode, window: int, most: int) -> tuple[Any, int]:
    containers: list[Any] = []
    names: list[str] = []
    value: Any = None
    is_closed: bool | None
    at = next_try = start
    width = window // 8
    while True:
        opening, is_closed = text[at : at + 1], None
        if opening not in ("[", "{"):
            value, at = _read_scalar(text, at, decode, window, most)
        elif at >= next_try and (found := _read_short(text, at, at + width, decode)) is not None:
            value, at = found
        else:
            if at >= next_try:
                next_try = at + width  # so that what is tried in vain is not tried again at every level
            if len(containers) >= _MOST_OPEN:
                _refuse("nested too deeply")
            containers.append([] if opening == "[" else {})
            names.append("")
            at, is_closed = _read_members(text, at + 1, containers[-1], decode, window, most)
        # A container that is not closed wants the next value. A value that is whole goes into its container.
        while is_closed is not False:
            if is_closed:
                value = containers.pop()
                names.pop()
            if not containers:
                return value, at
            holder = containers[-1]
            if isinstance(holder, list):
                holder.append(value)
            else:
                holder[names[-1]] = value
            at = after_blanks(text, at, window)
            mark = text[at : at + 1]
            at += 1
            if mark == ("]" if isinstance(holder, list) else "}"):
                is_closed = True
            elif mark == ",":
                at, is_closed = _read_members(text, at, holder, decode, window, most)
            else:
                _refuse("Expecting ',' delimiter")
        at = after_blanks(text, at, window)
        if isinstance(containers[-1], dict):
            names[-1], at = _read_name(text, at, decode, window)


def skimming(decode: Decode) -> Decode:
    """The same for a text of whose lists and objects only this is asked: whether they are empty, how many items a list
    has, and of which type its first one is."""

    def skim(text: str, start: int) -> tuple[Any, int]:
        value, end = decode(text, start)
        if value and isinstance(value, list):
            first = value[0]  # which may have a hundred lists in one another
            value = [type(first)() if isinstance(first, (list, dict)) else first] * len(value)
        elif value and isinstance(value, dict):
            value = {"": None}
        return value, end

    return skim


def _read_members(text: str, at: int, holder: Any, decode: Decode, window: int, most: int) -> tuple[int, bool]:
    """Read members into their container until it is closed, or one does not fit into the window. Returns where that
    is, and whether it is closed."""
    opening, closing = "[]" if isinstance(holder, list) else "{}"
    while (end := _MEMBERS.match(text, at, at + window).end()) > at:  # type: ignore[union-attr]  # it matches anything
        is_closed = text[end - 1] != ","
        members, _ = decode(opening + (text[at:end] if is_closed else text[at : end - 1] + closing), 0)
        if not members and (not is_closed or text[at - 1] == ","):
            _refuse("Expecting value")
        if isinstance(holder, list):
            holder += members if len(holder) < most else ()
        else:
            holder.update(members)
        at = end
        if is_closed:
            return at, True
    end = after_blanks(text, at, window)
    if text.startswith(closing, end) and text[at - 1] != ",":
        return end + 1, True
    return at, False


def _read_name(text: str, at: int, decode: Decode, window: int) -> tuple[str, int]:
    """The name of a member, and where its value is."""
    if not text.startswith('"', at):
        _refuse("Expecting property name enclosed in double quotes")
    name, at = _read_string(text, at, decode, window)
    at = after_blanks(text, at, window)
    if not text.startswith(":", at):
        _refuse("Expecting ':' delimiter")
    return name, after_blanks(text, at + 1, window)


def _read_short(text: str, at: int, end: int, decode: Decode) -> tuple[Any, int] | None:
    """A container that does not go beyond the end, however deep it nests; None if it does, or is broken."""
    try:
        value, length = decode(text[at:end], 0)
    except json.JSONDecodeError:
        return None
    return value, at + length


def _read_scalar(text: str, at: int, decode: Decode, window: int, most: int) -> tuple[Any, int]:
    if text.startswith('"', at):
        return _read_string(text, at, decode, window, most)
    end = _NUMBER.match(text, at).end()  # type: ignore[union-attr]  # it matches anything
    value, length = decode(text[at : max(end, at + _LONGEST_NAME)], 0)
    return value, at + length


def _read_string(text: str, start: int, decode: Decode, window: int, most: int = sys.maxsize) -> tuple[str, int]:
    pieces: list[str] = []
    at, width = start + 1, max(window, 16) if window < _WINDOW else _SLICE
    while True:
        end = _CHARACTERS.match(text, at, at + width).end()  # type: ignore[union-attr]  # it matches anything
        piece, is_whole = text[at:end], text.startswith('"', end)
        if end == at and not is_whole:
            _refuse("Unterminated string starting at")
        if "\\" in piece:
            piece, _ = decode(f'"{piece}"', 0)
            if not is_whole and len(piece) > 1 and "\ud800" <= piece[-1] <= "\udbff" and piece[-1] != text[end - 1]:
                # The escape of the first half of a pair; the other half may be the next one. One that is alone here is
                # the last one of a text that is cut off.
                piece, end = piece[:-1], end - len(r"\ud800")
        if at - start < most:
            pieces.append(piece)
        if is_whole:
            return "".join(pieces), end + 1
        at = end


def after_blanks(text: str, at: int, window: int = _WINDOW) -> int:
    """Where the white space at this place ends."""
    while (end := _BLANKS.match(text, at, at + window).end()) - at == window:  # type: ignore[union-attr]
        at = end
    return end


def _refuse(message: str) -> NoReturn:
    # Without the text: to tell line and column, it would count the lines of all of it in one step.
    raise json.JSONDecodeError(message, "", 0)


# Freeing

# What has no members.
_ATOMS: Final = frozenset((str, bytes, int, float, bool, type(None)))


def _references() -> int:
    alone: list[Any] = [[]].pop()
    return sys.getrefcount(alone)


# How many references there are to what only one local variable has, as Python counts them.
_ALONE: Final = _references()


def drop(garbage: list[Any]) -> None:
    """Free values in short steps; the list is empty afterwards. What somebody else has, too, stays as it is.

    Python frees all of a value in one step, 10 ms a megabyte of JSON. So what is in it is taken out first: nobody else
    can see that.
    """
    while garbage:
        each = garbage.pop()
        if sys.getrefcount(each) != _ALONE:
            continue
        kind = type(each)
        if kind is list:
            inside = each[-_BATCH:]
            del each[-_BATCH:]
        elif kind is dict:
            inside = [each.popitem()[1] for _ in range(min(len(each), _BATCH))]
        else:
            inside = gc.get_referents(each)
        if each and (kind is list or kind is dict):
            garbage.append(each)
        garbage += [value for value in inside if type(value) not in _ATOMS]
        del inside


# Writing


def is_long(value: Any, most: int = LONG, depth: int = LONG) -> bool:
    """Whether a value has more than so many characters, or many values, or too deep ones."""
    count, level = 0, [value]
    for _ in range(depth):
        count += _OF_A_VALUE * len(level)
        below: list[Any] = []
        for each in level:
            kind = type(each)
            if kind is str:
                count += len(each)
            elif kind is int:
                count += each.bit_length() // 8
            elif kind is dict or kind is list or kind is tuple:
                if count + len(each) * _OF_A_VALUE > most:
                    return True
                if kind is dict:
                    count += sum(map(len, each))
                    below += each.values()
                else:
                    below += each
        if count > most:
            return True
        if not below:
            return False
        level = below
    return True


def write(value: Any, encode: Encode, most: int = _TOGETHER) -> Iterator[bytes]:
    """What `encode` would return for a long value, in parts. `most` is for tests."""
    unfinished = [_parts(value, encode, most)]
    while unfinished:
        for part in unfinished[-1]:
            if not isinstance(part, bytes):
                unfinished.append(_parts(part, encode, most))
                break
            yield part
        else:
            unfinished.pop()


def _parts(value: Any, encode: Encode, most: int) -> Iterator[Any]:
    """The text of a long value, and in their places the long values in it."""
    if not value or not isinstance(value, (str, dict, list, tuple)):
        yield encode(value)
        return
    if isinstance(value, str):
        yield b'"'
        for start in range(0, len(value), most):
            yield encode(value[start : start + most])[1:-1]
        yield b'"'
        return
    is_list = not isinstance(value, dict)
    before = b"[" if is_list else b"{"
    for batch in batched(value.items() if isinstance(value, dict) else value, _BATCH):
        together = batch if is_list else dict(batch)
        if len(value) > _BATCH and not is_long(together, most, _DEPTH):
            yield before + encode(together)[1:-1]
            before = b","
            continue
        for member in batch:
            if not is_list:
                name, member = member
                yield before
                yield name
                before = b":"
            yield before
            yield member if is_long(member, most, _DEPTH) else encode(member)
            before = b","
    yield b"]" if is_list else b"}"
