"""Faults that are injected on purpose, to test an application.

Knows a rule's `inject` and counts events as their reader does; must not know mitmproxy. Its output takes the path of a
real upstream's bytes, so that the application sees what a real fault would show it.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..answer.events import EventReader, Kind
from ..answer.report import JSON_TYPE
from ..errors import error_body
from ..rules.rule import Rule
from ..wire import jsontext
from ..wire.sse import end_of_event

_ERROR: Final = jsontext.dumps(error_body("an error injected by the rule", "injected"))
# A line of bytes, some of which are not UTF-8, that is not a field of an event.
_GARBAGE: Final = b"\xff\xfe\x00 garbage that the rule injects \x80\n\n"


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


@dataclass(frozen=True, slots=True)
class Respond:
    """This whole response comes in place of the upstream's, which is not asked."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


type Step = Deliver | Stall | Cut | Respond


class Injection:
    """What a rule's `inject` does to one answer; `rules/keys.py` says what each key means. `injected`: the faults that
    were actually injected so far."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.injected: dict[str, Any] = {}
        self._wanted = dict(wanted)
        self._reader = EventReader()
        self._rest = b""
        self._over = False

    @property
    def events(self) -> int:
        """How many events have come, as their reader counts them."""
        return self._reader.count

    @property
    def replaces_upstream(self) -> bool:
        """Whether the response is entirely made up, so that the upstream need not be asked."""
        return bool(self._wanted.get("status") or self._wanted.get("empty"))

    def content_type(self, own: str) -> str:
        """The content type that the answer is to have."""
        return str(self._use("content_type")) if "content_type" in self._wanted else own

    def begin(self) -> Iterator[Step]:
        """What happens before the first byte."""
        if self._wanted.get("delay"):
            yield Stall(self._use("delay"))
        if self._wanted.get("status"):
            wait = {"retry-after": str(self._use("retry_after"))} if "retry_after" in self._wanted else {}
            yield Respond(self._use("status"), {"content-type": JSON_TYPE, **wait}, _ERROR)
        elif self._wanted.get("empty"):
            self._use("empty")
            yield Respond(200, {"content-type": "text/event-stream"})
        else:
            yield from self._after_event()

    def feed(self, data: bytes) -> Iterator[Step]:
        """What to deliver in place of the upstream's next bytes."""
        if self._over:
            return
        self._rest += data
        at = 0
        while not self._over and (end := end_of_event(self._rest, at)) >= 0:
            yield from self._piece(self._rest[at:end])
            at = end
        self._rest = self._rest[at:]

    def close(self) -> Iterator[Step]:
        """What to deliver in place of an event that has no end."""
        if not self._over and self._rest:
            yield from self._piece(self._rest, at_end=True)

    def _piece(self, piece: bytes, *, at_end: bool = False) -> Iterator[Step]:
        """Bytes up to the end of an event."""
        before = self.events
        events = [*self._reader.feed(piece), *(self._reader.close() if at_end else ())]
        if self._wanted.get("drop_done") and events and all(event.kind is Kind.DONE for event in events):
            self._use("drop_done")
            return
        # `split_utf8`: a byte at a time wherever a character has more than one.
        is_split = self._wanted.get("split_utf8") and not piece.isascii() and self._use("split_utf8")
        size = 1 if is_split else len(piece)
        yield from (Deliver(piece[at : at + size]) for at in range(0, len(piece), size))
        if before == self.events:
            return
        if not before and self._wanted.get("stall"):
            yield Stall(float(self._use("stall")))
        yield from self._after_event()

    def _after_event(self) -> Iterator[Step]:
        """What happens once so many events have come; none, before the first byte."""
        if self._is_garbage_due():
            self._use("garbage")
            yield Deliver(_GARBAGE)
        error_after, cut_after = self._wanted.get("error_after"), self._wanted.get("cut_after")
        if error_after is not None and self.events >= error_after:
            self._over = True
            self._use("error_after")
            yield Deliver(b"data: " + _ERROR + b"\n\n")
        elif cut_after is not None and self.events >= cut_after:
            self._over = True
            self._use("cut_after")
            yield Cut()

    def _is_garbage_due(self) -> bool:
        after = self._wanted.get("garbage")
        return after and self.events > 0 if isinstance(after, bool) else after == self.events

    def _use(self, key: str) -> Any:
        """The value of a key that takes effect now."""
        return self.injected.setdefault(key, self._wanted[key])


class Injections:
    """Which tries fail on purpose. `chance` returns a random number from 0 to 1."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        # For each rule by its name: the `inject` that counts, and how many tries have failed by it.
        self._failed: dict[str, tuple[Mapping[str, Any], int]] = {}

    def next(self, rule: Rule) -> Injection | None:
        """The faults for a rule's next try; None if it is to be left alone."""
        wanted = rule.inject
        if not wanted or self._chance() >= wanted.get("probability", 1):
            return None
        # The same object, not an equal one: saving the file, or setting the key again, restarts the count.
        known, failed = self._failed.get(rule.name, (None, 0))
        failed = failed if known is wanted else 0
        if failed >= wanted.get("times", failed + 1):
            return None
        self._failed[rule.name] = wanted, failed + 1
        return Injection(wanted)
