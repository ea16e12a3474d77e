"""The updates of the page, as server-sent events of its own
(https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each event is an object: names of parts of the page, with their HTML. Its id says up to where the reader knows all, so
that one who comes back gets what was missed; there is nothing else to remember of a reader.
"""

from collections.abc import Iterator
from typing import Final
from zlib import crc32

from ..wire import jsontext
from . import markup
from .choice import Choice
from .shown import Addon

TYPE: Final = "text/event-stream"
# Milliseconds after which a browser reconnects when its answer has ended.
_COME_BACK: Final = 2000


class Feed:
    """The updates for one reader. `place`: how far it is up to date, as in the ids of the events."""

    def __init__(self, addon: Addon, choice: Choice, place: str) -> None:
        self._addon = addon
        self._choice = choice
        self._place = place

    def first(self) -> bytes:
        """The beginning of the answer."""
        return f"retry: {_COME_BACK}\n\n".encode() + self.news()

    def news(self) -> bytes:
        """What is new since the last call; b"" if nothing is."""
        stats = self._addon.stats
        started, count, seen = _parse(self._place)
        if started != stats.started:
            return b"event: reload\ndata: another start\n\n"
        parts = markup.parts(self._addon, self._choice)
        sums = {name: f"{crc32(html.encode(errors='replace')):x}" for name, html in parts.items()}
        changed: dict[str, str] = {name: html for name, html in parts.items() if seen.get(name) != sums[name]}
        changed |= dict(self._rows(count))
        place = f"{started}.{stats.count}.{'.'.join(f'{name}-{value}' for name, value in sums.items())}"
        if place == self._place:
            return b""
        self._place = place
        return f"id: {place}\ndata: ".encode() + jsontext.dumps(changed) + b"\n\n"

    def _rows(self, count: int) -> Iterator[tuple[str, str]]:
        """The rows of new flows; all of the first portion, where that is not more than the news."""
        stats = self._addon.stats
        newer = stats.latest(count)
        if len(newer) >= markup.PORTION:
            yield "flows", markup.portion(stats, self._choice)
        elif newer:
            # Where one is another try, the row of the first one says so too.
            tries = [first for each in newer if each.retry_of and (first := stats.find(each.retry_of)) is not None]
            for name, flows in (("news", newer), ("again", dict.fromkeys(tries))):
                if chosen := [each for each in flows if self._choice.takes(each)]:
                    yield name, markup.rows(stats, chosen)


def place_of(addon: Addon) -> str:
    """The place of a reader whose page is written now."""
    return f"{addon.stats.started}.{addon.stats.count}."


def _parse(place: str) -> tuple[str, int, dict[str, str]]:
    started, _, rest = place.partition(".")
    count, _, sums = rest.partition(".")
    pairs = (each.partition("-") for each in sums.split("."))
    known = {name: value for name, _, value in pairs}
    return started, int(count) if count.isascii() and count.isdigit() and len(count) < 16 else 0, known
