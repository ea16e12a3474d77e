"""A terminal's screen as an SVG, in its colours, from what `tmux capture-pane -e -N -p` prints."""

import re
from html import escape

_SEQUENCE = re.compile(r"\x1b\[([\d;]*)m|\x1b[()].|[\x0e\x0f]")
_PALETTE = (
    "000000 c23621 25bc24 adad27 5b83e8 d338d3 33bbc8 cbcccd 818383 fc391f 31e722 eaec23 7ba3ff f935f8 14f0f0 ffffff"
)
_COLOURS = [f"#{colour}" for colour in _PALETTE.split()]
_INK, _PAPER = "#d5d5d5", "#1c1f24"
_WIDTH, _HEIGHT, _SIZE, _MARGIN = 8, 17, 13, 10  # pixels: of a character, of its font, around all of them


class _Pen:
    """What the sequences so far have set."""

    def __init__(self) -> None:
        self.ink: str | None = None
        self.paper: str | None = None
        self.on: set[int] = set()

    def obey(self, codes: list[int]) -> None:
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.ink, self.paper, self.on = None, None, set()
            elif code in (1, 4, 7):
                self.on.add(code)
            elif code in (22, 24, 27):
                self.on.discard(1 if code == 22 else code - 20)
            elif code in (38, 48):
                colour = _colour(codes[1])
                self.ink, self.paper = (colour, self.paper) if code == 38 else (self.ink, colour)
                del codes[:2]
            elif code in range(30, 40) or code in range(90, 98):
                self.ink = None if code == 39 else _COLOURS[code - 30 if code < 90 else code - 82]
            elif code in range(40, 50) or code in range(100, 108):
                self.paper = None if code == 49 else _COLOURS[code - 40 if code < 100 else code - 92]

    @property
    def colours(self) -> tuple[str, str]:
        ink, paper = self.ink or _INK, self.paper or _PAPER
        return (paper, ink) if 7 in self.on else (ink, paper)


def _colour(number: int) -> str:
    """xterm's 256 colours: sixteen, a cube of six by six by six, and greys."""
    if number < 16:
        return _COLOURS[number]
    if number >= 232:
        return "#" + 3 * f"{8 + (number - 232) * 10:02x}"
    number -= 16
    parts = number // 36, number // 6 % 6, number % 6
    return "#" + "".join(f"{55 + 40 * part if part else 0:02x}" for part in parts)


def svg(screen: str, title: str) -> str:
    """Each run of characters has its place and its length, so that any font keeps the columns."""
    lines = screen.rstrip("\n").split("\n")
    columns = max(len(_SEQUENCE.sub("", line)) for line in lines)
    width, height = columns * _WIDTH + 2 * _MARGIN, len(lines) * _HEIGHT + 2 * _MARGIN
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="{_SIZE}"'
        ' font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">',
        f'<title>{escape(title)}</title><rect width="100%" height="100%" rx="6" fill="{_PAPER}"/>',
    ]
    pen = _Pen()
    for row, line in enumerate(lines):
        column, y = 0, _MARGIN + row * _HEIGHT
        for number, part in enumerate(re.split(r"((?:\x1b\[[\d;]*m)+)", line)):
            if number % 2:
                for codes in re.findall(r"\x1b\[([\d;]*)m", part):
                    pen.obey([int(code or 0) for code in codes.split(";")])
                continue
            text = _SEQUENCE.sub("", part)
            x, (ink, paper) = _MARGIN + column * _WIDTH, pen.colours
            column += len(text)
            if paper != _PAPER:
                drawn.append(f'<rect x="{x}" y="{y}" width="{len(text) * _WIDTH}" height="{_HEIGHT}" fill="{paper}"/>')
            words = text.lstrip()
            if not words:
                continue
            x += (len(text) - len(words)) * _WIDTH
            words = words.rstrip()
            style = ' font-weight="bold"' * (1 in pen.on) + ' text-decoration="underline"' * (4 in pen.on)
            drawn.append(
                f'<text x="{x}" y="{y + _SIZE}" textLength="{len(words) * _WIDTH}" fill="{ink}"{style}'
                f' xml:space="preserve">{escape(words)}</text>'
            )
    return "\n".join([*drawn, "</svg>", ""])
