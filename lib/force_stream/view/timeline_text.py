"""A timeline in lines of text: a header, what was odd, a line an entry.

The list of what was odd is that of the log, the page and the command line. What the view alone knows (times, what was
not looked at, what became of the answer) stands in the header.

Knows words, columns and what a terminal can print; must not know bytes, JSON or how a timeline is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..answer.oddities import MOST_NUMBERS
from .additions import brief, printable
from .timeline import LONGEST_TYPE, Entry, Timeline

WIDEST_TYPE: Final = 32
# mitmweb gives a line with nothing in it no height.
_BLANK: Final = " "


@dataclass(frozen=True, slots=True)
class About:
    """What is known of an answer beside its events; "" and empty for what is not. `odd`: what was odd, as the one who
    read the whole stream found it; None where nobody has."""

    rule: str = ""
    endpoint: str = ""
    model: str = ""
    status: str = ""
    finish_reason: str = ""
    inferred: bool = False
    tries: str = ""
    truncated: bool = False
    error: str = ""
    kept: int | None = None
    odd: Sequence[str] | None = None


def text(timeline: Timeline, about: About) -> str:
    """The timeline for a person: a header, what was odd, a line an entry. Every character of it can be printed."""
    odd = timeline.odd if about.odd is None else about.odd
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
    if timeline.json:
        yield "body", f"JSON, not an event stream: {timeline.json}"
    if about.truncated:
        yield "truncated", f"cut off after event {timeline.events:,}" if timeline.events else "before the first event"
    if about.error:
        yield "client got", f"an error: {about.error}"
    if about.kept is not None:
        yield "kept", f"only the first {about.kept:,} bytes of what the client got"
    if timeline.ended is None:
        yield "times", "none were kept"
    else:
        if not timeline.timed:
            yield "times", "no time per event: the upstream compressed its stream"
        yield "first event", _seconds(timeline.first_event)
        yield "first content", _seconds(timeline.first_content)
        yield "end", _seconds(timeline.ended)
    if timeline.longest_gap is not None:
        begin, end = timeline.longest_gap
        yield "longest gap", f"{end - begin:.3f} s, from {begin:.3f} to {end:.3f} s"
    yield "events", f"{timeline.events:,}" + (", then [DONE]" if timeline.dones else "")
    yield "not looked at", f"about {timeline.unread:,} events in the middle" if timeline.unread else ""
    yield "keep-alives", _keep_alives(timeline)
    yield "bytes", f"{timeline.bytes:,}"
    yield "finish reason", _finish(timeline, about)
    several = f" (in {timeline.usages:,} events; the last counts)" if timeline.usages > 1 else ""
    yield "usage", "none" if timeline.usage is None else f"{brief(timeline.usage)}{several}"
    speed = timeline.tokens_per_second
    yield "speed", "" if speed is None else f"{speed:.1f} tokens/s from the first content on"


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f} s"


def _keep_alives(timeline: Timeline) -> str:
    """What has no data: a comment line, or an event without any."""
    counts = (
        (timeline.comments, "comment line", "comment lines"),
        (timeline.without_data, "event without data", "events without data"),
    )
    return ", ".join(f"{count:,} {one if count == 1 else several}" for count, one, several in counts if count)


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
