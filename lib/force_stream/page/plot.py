"""One flow over time as a picture: when each piece came, the silences, the first content, the end or the cut.

Knows an outcome and SVG. Pure: an outcome in, text out, which is valid XML whatever the upstream sent.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

from ..answer.cause import cut_off
from ..view.stats import LONG_GAP, Outcome, duration
from ..wire.text import printable

# Units of the picture; whoever shows it decides how large they are.
WIDTH: Final = 720
HEIGHT: Final = 74
_LEFT: Final = 8
_RIGHT: Final = WIDTH - 14
_TOP: Final = 18
_BOTTOM: Final = 48
LONGEST_WORD: Final = 60

# Each is visible on white and on black.
_ARRIVAL: Final = "#3b82f6"
_GAP: Final = "#d99a00"
_CONTENT: Final = "#2ea043"
_FAULT: Final = "#e5484d"
_GREY: Final = "#808793"


@lru_cache(64)
def plot(outcome: Outcome) -> str:
    """The picture of one flow, as an SVG document with its content in words as its title."""
    title = escape(f"{ending(outcome)}: {describe(outcome)}")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="11">\n<title>{title}</title>'
    )
    return "\n".join([head, *_parts(outcome), "</svg>\n"])


def describe(outcome: Outcome) -> str:
    """The figures of the flow, in one line."""
    times = {"first byte": outcome.first_byte, "first content": outcome.first_content}
    times["longest gap"] = outcome.longest_gap
    known = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times.items() if seconds is not None)
    came = f"{outcome.came}, {duration(outcome.seconds)}"
    return f"{came}; {known}" if known else came


def ending(outcome: Outcome) -> str:
    """How the flow ended, in a word or two. An upstream's own words are stripped of what XML cannot represent
    (Extensible Markup Language 1.0, section 2.2)."""
    if outcome.truncated:
        return cut_off(outcome.events, plain_bytes=outcome.bytes if outcome.direction else None)
    if outcome.code or not outcome.ok:
        return f"error {printable(outcome.code, LONGEST_WORD) or outcome.status}"
    if not outcome.finish_reason:
        return "answered"
    return f"finish {printable(outcome.finish_reason, LONGEST_WORD)}" + (" (inferred)" if outcome.inferred else "")


def _parts(outcome: Outcome) -> Iterator[str]:
    span = max(outcome.seconds, *outcome.arrivals[-1:], 0.001)
    middle = (_TOP + _BOTTOM) // 2

    def x(seconds: float) -> float:
        return round(_LEFT + min(max(seconds, 0.0), span) / span * (_RIGHT - _LEFT), 1)

    times = list(_round_times(span))
    ticks = "".join(f"M{x(seconds)} {_BOTTOM}v4" for seconds, _ in times)
    yield _line("axis", f"M{_LEFT} {_BOTTOM}H{_RIGHT}{ticks}", _GREY)
    yield from (_label(x(seconds), HEIGHT - 10, f"{label} s", _GREY) for seconds, label in times)

    # The silence before the first byte is all of it where none came.
    yield _area("wait", _LEFT, x(span if outcome.first_byte is None else outcome.first_byte), _BOTTOM - 6, _GREY)
    for earlier, later in pairwise(outcome.arrivals):
        if later - earlier >= LONG_GAP:
            yield _area("gap", x(earlier), x(later), _TOP, _GAP)
            if later - earlier == outcome.longest_gap and x(later) - x(earlier) > 40:
                yield _label((x(earlier) + x(later)) / 2, middle + 4, f"{later - earlier:.1f} s", _GAP)

    # Ticks that would overlap are drawn as one.
    ticks = "".join(f"M{place} {_BOTTOM}V{_TOP + 6}" for place in dict.fromkeys(map(x, outcome.arrivals)))
    if ticks:
        yield _line("arrivals", ticks, _ARRIVAL)
    end = ending(outcome)
    if outcome.first_content is not None:
        yield _line("content", f"M{x(outcome.first_content)} {_BOTTOM}V{_TOP}", _CONTENT, 2)
        place = min(x(outcome.first_content), _RIGHT - 7 * len(end) - 60)  # clear of the words at the end
        yield _label(place, _TOP - 6, f"first content {duration(outcome.first_content)}", _CONTENT)

    failed = not outcome.ok or bool(outcome.code)
    if failed:
        yield _line("cut", f"M{x(span) - 5} {middle - 5}l10 10m0 -10l-10 10", _FAULT, 2.5)
    else:
        yield _line("end", f"M{x(span)} {_BOTTOM}V{_TOP}", _GREY, 2)
    yield _label(_RIGHT, _TOP - 6, end, _FAULT if failed else _GREY)


def _round_times(span: float) -> Iterator[tuple[float, str]]:
    """At most nine round times from zero to the end, each with its spelling."""
    steps = ((factor * 10.0**exponent, exponent) for exponent in range(-3, 16) for factor in (1, 2, 5))
    step, exponent = next((step, exponent) for step, exponent in steps if step * 8 >= span)
    for number in range(int(span / step) + 1):
        yield number * step, f"{number * step:.{max(-exponent, 0)}f}"


def _line(kind: str, path: str, color: str, width: float = 1) -> str:
    return f'<path class="{kind}" d="{path}" stroke="{color}" stroke-width="{width}" fill="none"/>'


def _area(kind: str, start: float, end: float, top: int, color: str) -> str:
    size = f'width="{round(end - start, 1)}" height="{_BOTTOM - top}"'
    return f'<rect class="{kind}" x="{start}" y="{top}" {size} fill="{color}" fill-opacity="0.3"/>'


def _label(x: float, y: float, text: str, color: str) -> str:
    """A text centred on a place, as far as the picture's edges let it be."""
    anchor = "start" if x < 60 else "end" if x > WIDTH - 60 else "middle"
    return f'<text x="{round(x, 1)}" y="{y:g}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
