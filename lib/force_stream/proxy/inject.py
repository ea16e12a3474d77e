"""Faults made on purpose, for those who test an application.

Knows a rule's `inject` and the grammar of an event stream; must not know mitmproxy. What comes out goes the way that a
real upstream's bytes go, so that the application sees what it would see.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import error_body
from ..wire import jsontext

_ENDS: Final = (b"\n\n", b"\r\n\r\n")
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
        self._events = 0
        self._rest = b""
        self._over = False

    @property
    def content_type(self) -> str | None:
        """The content type that the answer is to have in place of its own."""
        value = self._wanted.get("content_type")
        return str(value) if value is not None else None

    def begin(self) -> Iterator[Step]:
        """What happens before the first byte."""
        yield from self._at_limit()

    def feed(self, data: bytes) -> Iterator[Step]:
        """What becomes of the upstream's next bytes."""
        if self._over:
            return
        self._rest += data
        while not self._over and (event := self._next_event()):
            yield from self._event(event)

    def close(self) -> Iterator[Step]:
        """What becomes of an event that has no end."""
        if not self._over and self._rest:
            event, self._rest = self._rest, b""
            yield from self._event(event)

    def _next_event(self) -> bytes:
        ends = [end + len(mark) for mark in _ENDS if (end := self._rest.find(mark)) >= 0]
        if not ends:
            return b""
        event, self._rest = self._rest[: min(ends)], self._rest[min(ends) :]
        return event

    def _event(self, event: bytes) -> Iterator[Step]:
        if self._wanted.get("drop_done") and b"[DONE]" in event and event.lstrip().startswith(b"data"):
            return
        if self._wanted.get("split_utf8"):
            # A byte at a time wherever a character has more than one.
            yield from (
                (Deliver(event[at : at + 1]) for at in range(len(event))) if not event.isascii() else [Deliver(event)]
            )
        else:
            yield Deliver(event)
        self._events += 1
        if self._events == 1 and self._wanted.get("stall"):
            yield Stall(float(self._wanted["stall"]))
        yield from self._at_limit()

    def _at_limit(self) -> Iterator[Step]:
        if self._events == self._wanted.get("error_after"):
            self._over = True
            yield Deliver(_ERROR)
        elif self._events == self._wanted.get("cut_after"):
            self._over = True
            yield Cut()
