"""A timeline in lines of text: a header, what was odd, a line an entry.

Knows words, columns and what a terminal can print; must not know bytes, JSON or how a timeline is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .additions import brief, printable
from .timeline import LONGEST_TYPE, MOST_NUMBERS, Entry, Timeline

WIDEST_TYPE: Final = 32
# mitmweb gives a line with nothing in it no height.
_BLANK: Final = " "


@dataclass(frozen=True, slots=True)
class About:
    """What is known of an answer beside its events; "" and empty for what is not."""

    rule: str = ""
    endpoint: str = ""
    model: str = ""
    status: str = ""
    finish_reason: str = ""
    inferred: bool = False
    tries: str = ""
    odd: Sequence[str] = ()


def text(timeline: Timeline, about: About) -> str:
    """The timeline for a person: a header, what was odd, a line an entry. Every character of it can be printed."""
    for line in about.odd:
        timeline.odd.add_line(line)
    if about.inferred:
        timeline.odd.add("the finish reason is inferred: the upstream gave none")
    odd = timeline.odd.lines()
    entries = [*timeline.first, *timeline.last]
    width = min(max((len(entry.type) for entry in entries), default=0), WIDEST_TYPE)
    rows = [_entry_line(entry, width) for entry in entries]
    if timeline.left_out:
        rows.insert(len(timeline.first), f"  … {timeline.left_out:,} lines left out …")
    lines = [f"{name:<14} {value}" for name, value in _header(timeline, about) if value]
    lines += [_BLANK, "Odd:" if odd else "Nothing odd."]
    lines += [f"  - {line}" for line in odd]
    lines += [_BLANK, _row("#", "at s", "gap s", f"{'type':<{width}}", "what it added"), *rows]
    return "\n".join(map(printable, lines)) + "\n"


def _header(timeline: Timeline, about: About) -> Iterator[tuple[str, str]]:
    yield "rule", about.rule or "none"
    yield "endpoint", about.endpoint
    said = ", ".join(model[:LONGEST_TYPE] for model in timeline.models)
    asked = about.model and about.model != said
    yield "model", f"{about.model}, in the events {said or 'none'}" if asked else said
    yield "status", about.status
    yield "try", about.tries
    if timeline.ended is None:
        yield "times", "none were kept"
    else:
        yield "first event", _seconds(timeline.first_event)
        yield "first content", _seconds(timeline.first_content)
        yield "end", _seconds(timeline.ended)
    if timeline.longest_gap is not None:
        begin, end = timeline.longest_gap
        yield "longest gap", f"{end - begin:.3f} s, from {begin:.3f} to {end:.3f} s"
    yield "events", f"{timeline.events:,}" + (", then [DONE]" if timeline.dones else "")
    yield "bytes", f"{timeline.bytes:,}"
    yield "finish reason", _finish(timeline, about)
    yield "usage", "none" if timeline.usage is None else brief(timeline.usage)
    speed = timeline.tokens_per_second
    yield "speed", "" if speed is None else f"{speed:.1f} tokens/s from the first content on"


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f} s"


def _finish(timeline: Timeline, about: About) -> str:
    said = [reason for _, reason in sorted(timeline.finish_reasons.items())]
    reasons = about.finish_reason or ", ".join(list(dict.fromkeys(said))[:MOST_NUMBERS])
    return (reasons[:LONGEST_TYPE] + " (inferred)" * about.inferred) if reasons else "none"


def _entry_line(entry: Entry, width: int) -> str:
    gap = "" if entry.gap is None else f"+{entry.gap:.3f}"
    at = "" if entry.at is None else f"{entry.at:.3f}"
    added = f"[after {entry.gap:.1f} s of silence] {entry.added}" if entry.after_long_gap else entry.added
    mark = "!" if entry.after_long_gap else " "
    return _row("" if entry.number is None else f"{entry.number}", at, gap, f"{entry.type:<{width}}", added, mark)


def _row(number: str, at: str, gap: str, kind: str, added: str, mark: str = " ") -> str:
    return f"{mark}{number:>6} {at:>9} {gap:>9}  {kind}  {added}".rstrip()
