"""A timeline in lines of text: a header with the cause and what was said, what was odd, a line an entry.

The list of what was odd is that of the log, the page and the command line; what the view alone knows is in the header.
Knows words, columns and what a terminal can print; must not know bytes, JSON or how a timeline is read.
"""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ..answer.cause import cut_off
from ..answer.oddities import MOST_NUMBERS, MOST_ODD
from ..wire.text import counted, printable
from .delta import LONGEST_VALUE, brief
from .joined import Said
from .stats import LONG_GAP
from .timeline import LONGEST_TYPE, Entry, Timeline

WIDEST_TYPE: Final = 32
LONGEST_REASON: Final = 60
_LONGEST_LINE: Final = 2500
_NAMES: Final = 14  # columns
# Entries from the beginning and from the end of a timeline.
SHOWN_FIRST: Final = 4_000
SHOWN_LAST: Final = 200
# How much of what was said is shown: texts and calls, lines from the beginning and the end of each, characters of a
# line.
MOST_SAID: Final = 20
SAID_FIRST: Final = 8
SAID_LAST: Final = 4
WIDTH: Final = 84
# mitmweb gives an empty line no height.
_BLANK: Final = " "


class About(NamedTuple):
    """What is known of an answer besides its events; "" and None for what is not. `odd`: what was odd, according to the
    one who read the whole stream; `kept`: how many bytes of it there are where that is not all; `head`: of the
    upstream's response; `end`: what a silence at the end ended with; `direction`: how a plain
    answer came to a client that asked for events, `usage` what that says of its tokens."""

    cause: str = ""
    rule: str = ""
    endpoint: str = ""
    model: str = ""
    status: str = ""
    finish_reason: str = ""
    tries: str = ""
    truncated: bool = False
    error: str = ""
    encoding: str = ""
    kept: int | None = None
    odd: Sequence[str] | None = None
    head: Sequence[tuple[str, str]] = ()
    end: str = "the end"
    direction: str = ""
    usage: str = ""


def text(timeline: Timeline, about: About) -> str:
    """The timeline for a person: a header, what was odd, a line an entry, or the document that came. Every character of
    it can be printed."""
    odd = timeline.odd if about.odd is None else about.odd
    lines = [f"{name:<{_NAMES}} {value}" for name, value in _header(timeline, about) if value]
    lines += [_BLANK, "Odd:" if odd else "Nothing odd."]
    lines += [f"  - {line}" for line in odd[:MOST_ODD]]
    lines += [
        _BLANK,
        *(_entries(timeline, about) if timeline.document is None else _shown(timeline, timeline.document)),
    ]
    return "\n".join(printable(line, _LONGEST_LINE) for line in lines) + "\n"


def _shown(timeline: Timeline, document: str) -> Iterator[str]:
    """A body that is not an event stream."""
    yield "The document:" if timeline.is_json else "What came:" if document else "Nothing came."
    lines = document.replace("\r\n", "\n").expandtabs(4).split("\n")
    yield from (line or _BLANK for line in lines[:SHOWN_FIRST] if document)
    if len(lines) > SHOWN_FIRST:
        yield f"… {counted(len(lines) - SHOWN_FIRST, 'line')} more"


def _entries(timeline: Timeline, about: About) -> Iterator[str]:
    entries, left_out = timeline.entries, len(timeline.entries) - SHOWN_FIRST - SHOWN_LAST
    if left_out > 0:
        entries = [*entries[:SHOWN_FIRST], *entries[-SHOWN_LAST:]]
    width = min(max((len(entry.type) for entry in entries), default=0), WIDEST_TYPE)
    rows = [_entry_line(entry, width) for entry in entries]
    if left_out > 0:
        rows.insert(SHOWN_FIRST, f"  … {left_out:,} lines left out …")
    yield _row("#", "at s", "gap s", f"{'type':<{width}}", "what it added")
    yield from rows
    if timeline.last_byte is not None and timeline.ended is not None:
        silence = timeline.ended - timeline.last_byte
        if silence >= LONG_GAP:
            end = f"[{silence:.1f} s of silence, then {about.end}]"
            yield _row("", f"{timeline.ended:.3f}", f"+{silence:.3f}", " " * width, end, "!")


def _header(timeline: Timeline, about: About) -> Iterator[tuple[str, str]]:
    """Names and values, the cause of a failure first; a value of "" is left out."""
    is_document = timeline.document is not None
    came = cut_off(timeline.events, plain_bytes=timeline.bytes if is_document else None)
    yield "cause", about.cause
    yield "truncated", came if about.truncated and not about.cause else ""
    yield "this try" if about.tries else "client got", about.error and f"an error: {about.error}"
    for each in timeline.said[:MOST_SAID]:
        name = each.kind if each.choice is None else f"{each.kind} [{each.choice}]"
        for line in _said(each):
            yield name, line
            name = ""
    yield "and", f"{len(timeline.said) - MOST_SAID:,} more" if len(timeline.said) > MOST_SAID else ""
    yield "rule", about.rule or "none"
    yield "direction", about.direction
    yield "endpoint", about.endpoint
    said = ", ".join(model[:LONGEST_TYPE] for model in timeline.models)
    differs = said and about.model not in ("", said)
    yield "model", f"{about.model} (events say {said})" if differs else about.model or said
    yield "status", about.status
    yield from about.head
    yield "try", about.tries
    yield "body", "" if about.direction or not is_document else "JSON, not an event stream"
    yield "kept", "" if about.kept is None else f"only the first {about.kept:,} bytes of what the client got"
    yield from _times(timeline, about)
    yield "events", "" if is_document else f"{timeline.events:,}" + (", then [DONE]" if timeline.dones else "")
    yield "not looked at", f"about {timeline.unread:,} events in the middle" if timeline.unread else ""
    keep_alives = "a keep-alive" if timeline.comments == 1 else "keep-alives"
    comments = f"{counted(timeline.comments, 'comment line')} (usually {keep_alives})"
    yield "comments", comments if timeline.comments else ""
    yield "without data", counted(timeline.without_data, "event") if timeline.without_data else ""
    yield "bytes", f"{timeline.bytes:,}"
    reasons = [reason for _, reason in sorted(timeline.finish_reasons.items())]
    finish = about.finish_reason or ", ".join(list(dict.fromkeys(reasons))[:MOST_NUMBERS])
    yield "finish reason", finish[:LONGEST_REASON] or ("" if is_document else "none")
    several = f" (in {timeline.usages:,} events; the last counts)" if timeline.usages > 1 else ""
    none = about.usage if is_document else "none"
    yield "usage", none if timeline.usage is None else f"{brief(timeline.usage)}{several}"
    speed = timeline.tokens_per_second
    yield "speed", "" if speed is None else f"{speed:.1f} tokens/s after the first content"


def _said(said: Said) -> Iterator[str]:
    """What was said, in lines, all but the first indented; a long text is shortened to its beginning and end."""
    shown = f"{said.name}({said.text})" if said.kind == "call" else f'"{said.text}"'
    if len(shown) <= WIDTH * (SAID_FIRST + SAID_LAST):
        first = last = _wrapped(shown)
    else:
        first, last = _wrapped(shown[: WIDTH * SAID_FIRST]), _wrapped(shown[-WIDTH * SAID_LAST :])
    if first is not last or len(first) > SAID_FIRST + SAID_LAST:
        first = [*first[:SAID_FIRST], "…", *last[-SAID_LAST:]]
    size = f" ({len(said.text):,} characters)" if len(said.text) > LONGEST_VALUE else ""
    yield from (*first[:-1], first[-1] + size)


def _wrapped(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").expandtabs(4).split("\n")
    clean = (printable(line, _LONGEST_LINE) for line in lines)
    return [
        part
        for line in clean
        for part in textwrap.wrap(line, WIDTH, replace_whitespace=False, break_on_hyphens=False) or [_BLANK]
    ]


def _times(timeline: Timeline, about: About) -> Iterator[tuple[str, str]]:
    if timeline.ended is None:
        yield "times", "not recorded"
        return
    if not timeline.timed and timeline.document is None:
        coding = f" ({about.encoding})" if about.encoding else ""
        yield "times", f"no time per event: the upstream compressed its stream{coding}"
    times = [("first event", timeline.first_event), ("first content", timeline.first_content)]
    if timeline.document is not None:
        times = [("first byte", timeline.first_byte)]
    for name, seconds in (*times, ("end", timeline.ended)):
        yield name, "unknown" if seconds is None else f"{seconds:.3f} s"
    if timeline.longest_gap is not None:
        start, end = timeline.longest_gap
        yield "longest gap", f"{end - start:.3f} s, from {start:.3f} to {end:.3f} s"


def _entry_line(entry: Entry, width: int) -> str:
    gap = "" if entry.gap is None else f"+{entry.gap:.3f}"
    at = "" if entry.at is None else f"{entry.at:.3f}"
    silence = entry.gap is not None and entry.gap >= LONG_GAP
    added = f"[after {entry.gap:.1f} s of silence] {entry.added}" if silence else entry.added
    mark = "!" if silence else " "
    kind, number = f"{entry.type:<{width}}", "" if entry.number is None else f"{entry.number}"
    if entry.times > 1:
        first = entry.number
        which = f"{entry.times:,} times" if first is None else f"events {first:,} to {first + entry.times - 1:,}"
        number, added = "", f"{which}: {added}" if added else which
    return _row(number, at, gap, kind, added, mark)


def _row(number: str, at: str, gap: str, kind: str, added: str, mark: str = " ") -> str:
    return f"{mark}{number:>6} {at:>9} {gap:>9}  {kind}  {added}".rstrip()
