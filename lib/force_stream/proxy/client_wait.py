"""A client that waits for its answer: its heartbeats, and the attempt whose answer it is to get.

Knows clocks and attempts; must not know mitmproxy, or how an answer is read.
"""

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from ..answer.report import EVENT_STREAM_TYPE, JSON_TYPE
from ..answer.unfold import failure, silence
from ..errors import ClientGone
from ..rules.rule import Rule
from .attempt import Attempt
from .guard import Guard


class Deadline(Enum):
    """What is due once a deadline has passed."""

    NOTHING = "nothing"
    HEARTBEAT = "a heartbeat"
    ANSWER = "the answer"


class ClientWait:
    """`attempt`: the current one; None for a client that only gets what comes. `asked`: the events that it waits for;
    None where it waits for a document. `headers_sent`: a heartbeat has committed to 200. `client_gone`: nobody waits
    any more. `retrying`: another attempt is under way or follows a pause. `kept`: the outcome, for a client whose
    answer is read to its end even when it is gone. `guard`: what watches over the events that it gets as they come.
    `reply_made`: the addon's `response` hook has run. `joined`: a client that gave up, whose answer this one gets.
    """

    def __init__(self, rule: Rule, attempt: Attempt | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rule: Final = rule
        self.attempt = attempt
        self.asked: Final = None if attempt is None else attempt.asked
        self.heartbeat: Final = rule.heartbeat
        self.headers_sent = self.client_gone = self.retrying = self.reply_made = False
        self.kept: asyncio.Future[Any] | None = None
        self.joined: ClientWait | None = None
        self.guard: Guard | None = None
        self.clock = clock
        self._last_sign = clock()

    @property
    def content_type(self) -> str:
        """Of the head that a heartbeat sends."""
        return JSON_TYPE if self.asked is None else EVENT_STREAM_TYPE

    @property
    def sign_of_life(self) -> bytes:
        """A heartbeat. JSON allows a space."""
        return b" " if self.asked is None else silence(self.asked.endpoint)

    def last_words(self, status: int, body: bytes) -> bytes:
        """What a client that has its status 200 is sent in place of another answer; a document just ends short."""
        return b"" if self.asked is None else failure(body, self.asked.endpoint, status=status)

    def said(self) -> None:
        """The client has got something."""
        self._last_sign = self.clock()

    def retry(self, attempt: Attempt) -> None:
        """Wait for another attempt from now on."""
        self.attempt = attempt
        self.retrying = True

    def leave(self) -> None:
        """The client is gone; another attempt that is under way is given up, so that its upstream stops billing."""
        self.client_gone = True
        if self.attempt is None:
            return
        if self.is_kept:
            self.attempt.outlive_client()
        elif self.retrying:
            self.attempt.fail(ClientGone("the client is gone"))

    @property
    def is_kept(self) -> bool:
        """Whether its outcome is kept, even when the client is gone; after a reload it is not."""
        return self.kept is not None and not self.kept.done()

    @property
    def awaited(self) -> Attempt | None:
        """The attempt whose answer it gets as things stand, which may be that of the client that it has joined."""
        return self.joined.attempt if self.attempt is None and self.joined else self.attempt

    @property
    def needs_head(self) -> bool:
        """Whether the client has still to be sent the head of its answer."""
        return not (self.headers_sent or self.client_gone)

    def next_deadline(self) -> float | None:
        """Seconds until something may be due; None if nothing ever will be."""
        moments = [self._next_heartbeat(), None if self._attempt is None else self._attempt.next_deadline()]
        known = [moment for moment in moments if moment is not None]
        return max(0.0, min(known) - self.clock()) if known else None

    def poll(self) -> Deadline:
        """What is due now."""
        if self._attempt is not None and self._attempt.poll():
            return Deadline.ANSWER
        heartbeat, now = self._next_heartbeat(), self.clock()
        if heartbeat is None or heartbeat > now:
            return Deadline.NOTHING
        self._last_sign = now
        return Deadline.HEARTBEAT

    @property
    def _attempt(self) -> Attempt | None:
        """The attempt that this client's own stream observes; a further attempt has its own flow."""
        return None if self.retrying else self.attempt

    def _next_heartbeat(self) -> float | None:
        # One that is only watched has no limits, and no heartbeats either.
        waits = self.attempt is not None and not self.attempt.is_final and self.attempt.rule.heartbeat is not None
        if self.heartbeat is None or self.client_gone or not (self.retrying or waits):
            return None
        return self._last_sign + self.heartbeat
