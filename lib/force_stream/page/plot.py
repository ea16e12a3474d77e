"""One flow over time as a picture: when each piece came, the silences, the first content, the end or the cut.

Knows an outcome and SVG. Pure: an outcome in, a text out, that any XML reader takes whatever the upstream sent.
"""

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from ..view.stats import Outcome

# Units of the picture; who shows it decides how large they are.
WIDTH: Final = 720
HEIGHT: Final = 74
_LEFT: Final = 8
_RIGHT: Final = WIDTH - 14
_TOP: Final = 18
_BOTTOM: Final = 48
# Seconds. A shorter silence is nothing to point at.
LONG_GAP: Final = 1.0
LONGEST_WORD: Final = 60

# Each is seen on a white page and on a black one.
_ARRIVAL: Final = "#3b82f6"
_WAIT: Final = "#8a8f98"
_GAP: Final = "#d99a00"
_CONTENT: Final = "#2ea043"
_FAULT: Final = "#e5484d"
_TEXT: Final = "#808793"

_STEPS: Final = (1, 2, 5)


def plot(outcome: Outcome) -> str:
    """The picture of one flow, as an SVG document with its content in words as its title."""
    scale = _Scale(outcome)
    words = escape(describe(outcome))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" font-family="system-ui, sans-serif" font-size="11">',
        f"<title>{words}</title>",
        *_axis(scale),
        *_wait(outcome, scale),
        *_gap(outcome, scale),
        *_arrivals(outcome, scale),
        *_first_content(outcome, scale),
        *_end(outcome, scale),
        "</svg>\n",
    ]
    return "\n".join(parts)


def describe(outcome: Outcome) -> str:
    """What the picture shows, in a sentence."""
    words = [f"{outcome.events:,} events in {outcome.seconds:.2f} s"]
    times = (
        ("first event", outcome.first_event),
        ("first content", outcome.first_content),
        ("longest gap", outcome.longest_gap),
    )
    words += [f"{name} {value:.2f} s" for name, value in times if value is not None]
    return ", ".join([*words, ending(outcome)]) + "."


def ending(outcome: Outcome) -> str:
    """How the flow ended, in a word or two."""
    if outcome.truncated:
        return "cut off"
    if outcome.code or not outcome.ok:
        return f"error {_word(outcome.code) or outcome.status}"
    if not outcome.finish_reason:
        return "ended"
    return f"finish {_word(outcome.finish_reason)}" + (" (inferred)" if outcome.inferred else "")


def _word(text: str) -> str:
    """An upstream's word, short, without what XML has no way to say (Extensible Markup Language 1.0, section 2.2)."""
    return "".join(c if c.isprintable() and c not in "\ufffe\uffff" else "\ufffd" for c in text[:LONGEST_WORD])


class _Scale:
    """Seconds to units across."""

    def __init__(self, outcome: Outcome) -> None:
        self.span = max(outcome.seconds, outcome.arrivals[-1] if outcome.arrivals else 0.0, 0.001)

    def x(self, seconds: float) -> float:
        return round(_LEFT + min(max(seconds, 0.0), self.span) / self.span * (_RIGHT - _LEFT), 1)

    def steps(self) -> Iterator[tuple[float, str]]:
        """A handful of round times from nought to the end, each with its spelling."""
        decimals = 3
        while 10 ** (1 - decimals) < self.span / 5:
            decimals -= 1
        step = next((s * 10**-decimals for s in _STEPS if s * 10**-decimals * 8 >= self.span), 10 ** (1 - decimals))
        for number in range(int(self.span / step) + 1):
            yield number * step, f"{number * step:.{max(decimals, 0)}f}"


def _axis(scale: _Scale) -> Iterator[str]:
    yield f'<path d="M{_LEFT} {_BOTTOM}H{_RIGHT}" stroke="{_WAIT}" fill="none"/>'
    for seconds, spelled in scale.steps():
        x = scale.x(seconds)
        yield f'<path d="M{x} {_BOTTOM}v4" stroke="{_WAIT}"/>'
        yield _label(x, HEIGHT - 10, f"{spelled} s", _TEXT)


def _wait(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    """The silence before the first event, or all of it where none came."""
    end = scale.x(scale.span if outcome.first_event is None else outcome.first_event)
    yield (
        f'<rect class="wait" x="{_LEFT}" y="{_BOTTOM - 6}" width="{round(end - _LEFT, 1)}" height="6" '
        f'fill="{_WAIT}" fill-opacity="0.35"/>'
    )


def _gap(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    """Every silence that is long, and how long the longest was."""
    longest = outcome.longest_gap or 0.0
    for earlier, later in zip(outcome.arrivals, outcome.arrivals[1:], strict=False):
        if later - earlier < LONG_GAP:
            continue
        begin, end = scale.x(earlier), scale.x(later)
        yield (
            f'<rect class="gap" x="{begin}" y="{_TOP}" width="{round(end - begin, 1)}" height="{_BOTTOM - _TOP}" '
            f'fill="{_GAP}" fill-opacity="0.25"/>'
        )
        if later - earlier == longest and end - begin > 40:
            yield _label((begin + end) / 2, (_TOP + _BOTTOM) / 2 + 4, f"{longest:.1f} s", _GAP)


def _arrivals(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    # Ticks that would cover one another are one.
    places = dict.fromkeys(scale.x(arrival) for arrival in outcome.arrivals)
    if places:
        ticks = "".join(f"M{x} {_BOTTOM}V{_TOP + 6}" for x in places)
        yield f'<path class="arrivals" d="{ticks}" stroke="{_ARRIVAL}" stroke-width="1" fill="none"/>'


def _first_content(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    if outcome.first_content is None:
        return
    x = scale.x(outcome.first_content)
    yield f'<path class="content" d="M{x} {_BOTTOM}V{_TOP}" stroke="{_CONTENT}" stroke-width="2"/>'
    yield _label(x, _TOP - 6, f"first content {outcome.first_content:.2f} s", _CONTENT)


def _end(outcome: Outcome, scale: _Scale) -> Iterator[str]:
    x = scale.x(scale.span)
    failed = outcome.truncated or bool(outcome.code) or not outcome.ok
    color = _FAULT if failed else _TEXT
    if failed:
        middle = (_TOP + _BOTTOM) // 2
        cross = f"M{x - 5} {middle - 5}l10 10m0 -10l-10 10"
        yield f'<path class="cut" d="{cross}" stroke="{_FAULT}" stroke-width="2.5" fill="none"/>'
    else:
        yield f'<path class="end" d="M{x} {_BOTTOM}V{_TOP}" stroke="{_TEXT}" stroke-width="2"/>'
    yield f'<text x="{_RIGHT}" y="{_TOP - 6}" text-anchor="end" fill="{color}">{escape(ending(outcome))}</text>'


def _label(x: float, y: float, text: str, color: str) -> str:
    """A text centred on a place, as far as the picture's edges let it be."""
    anchor = "start" if x < 60 else "end" if x > WIDTH - 60 else "middle"
    return f'<text x="{round(x, 1)}" y="{y:g}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
