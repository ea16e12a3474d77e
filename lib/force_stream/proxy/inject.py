"""Faults that are injected on purpose, to test an application.

Knows a rule's `inject` and counts events as their reader does; must not know mitmproxy. Its output takes the path of a
real upstream's bytes, so that the application sees what a real fault would show it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..answer.events import EventReader, Kind
from ..errors import error_body
from ..wire import jsontext
from ..wire.sse import end_of_event

_ERROR: Final = b"data: " + jsontext.dumps(error_body("an error that the rule injects", "injected")) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Deliver:
    """Bytes that come from the upstream now."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Stall:
    """Silence for this many seconds; what follows comes after it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks here."""


type Step = Deliver | Stall | Cut


class Injection:
    """What a rule's `inject` makes of one answer.

    Keys: `cut_after`, `error_after` (events), `drop_done`, `split_utf8` (bool), `stall` (seconds, after the first
    event), `content_type`.
    """

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._wanted = dict(wanted)
        self._reader = EventReader()
        self._rest = b""
        self._over = False

    @property
    def events(self) -> int:
        """How many events have come, as their reader counts them."""
        return self._reader.count

    @property
    def content_type(self) -> str | None:
        """The content type that the answer is to have in place of its own."""
        value = self._wanted.get("content_type")
        return str(value) if value is not None else None

    def feed(self, data: bytes) -> Iterator[Step]:
        """What becomes of the upstream's next bytes."""
        if self._over:
            return
        self._rest += data
        at = 0
        while not self._over and (end := end_of_event(self._rest, at)) >= 0:
            yield from self._piece(self._rest[at:end])
            at = end
        self._rest = self._rest[at:]

    def close(self) -> Iterator[Step]:
        """What becomes of an event that has no end."""
        if not self._over and self._rest:
            yield from self._piece(self._rest, at_end=True)

    def _piece(self, piece: bytes, *, at_end: bool = False) -> Iterator[Step]:
        """Bytes up to the end of an event."""
        before = self.events
        events = [*self._reader.feed(piece), *(self._reader.close() if at_end else ())]
        if self._wanted.get("drop_done") and events and all(event.kind is Kind.DONE for event in events):
            return
        # `split_utf8`: a byte at a time wherever a character has more than one.
        size = 1 if self._wanted.get("split_utf8") and not piece.isascii() else len(piece)
        yield from (Deliver(piece[at : at + size]) for at in range(0, len(piece), size))
        if before == self.events:
            return
        if not before and self._wanted.get("stall"):
            yield Stall(float(self._wanted["stall"]))
        yield from self.check_limit()

    def check_limit(self) -> Iterator[Step]:
        """What happens if enough events have come; for a limit of none, before the first byte."""
        error_after, cut_after = self._wanted.get("error_after"), self._wanted.get("cut_after")
        if error_after is not None and self.events >= error_after:
            self._over = True
            yield Deliver(_ERROR)
        elif cut_after is not None and self.events >= cut_after:
            self._over = True
            yield Cut()
