"""A forced answer while it comes in: its pieces, their times, its limits, and when it is settled.

Knows clocks and the spec; must not know mitmproxy, which tells it what happens and asks it what is due.
"""

import time
from array import array
from collections.abc import Callable, Mapping
from enum import Enum
from io import BytesIO
from typing import Any, Final

from ..answer.reader import AnswerSpec
from ..answer.report import Reply, Report
from ..errors import InternalError, OversizedStream, StreamError, StreamTimeout, UpstreamUnreachable
from ..rules.rule import Rule
from .inject import Injection

# Seconds that an upstream has, after `[DONE]` or a terminal event, to end its answer in form. One that does keeps its
# connection for the next request; one that lingers loses it.
LINGER: Final = 0.1
# Seconds to wait for usage once every choice has its finish reason.
USAGE_WAIT: Final = 5.0
# Characters. mitmproxy's words for a broken response may quote all of it.
LONGEST_REASON: Final = 200


class Due(Enum):
    """What a look at the clock can call for."""

    NOTHING = "nothing"
    HEARTBEAT = "heartbeat"
    ANSWER = "answer"


class Watch:
    """One forced answer, within its rule's limits. `attached`: somebody looks on while it comes in; `settled`: it is to
    be given now, whatever else may come; `whole`: the upstream ended it in form; `committed`: the client has seen a
    heartbeat; `left`: the client is gone. While `retrying`, the client waits for another try, whose watch is `heir`."""

    def __init__(self, spec: AnswerSpec, rule: Rule, clock: Callable[[], float] = time.monotonic) -> None:
        self.spec = spec
        self.rule = rule
        self.injection = Injection(rule.inject) if rule.inject else None
        self.attached = False
        self.settled = False
        self.whole = False
        self.committed = False
        self.left = False
        self.retrying = False
        self.heir: Watch | None = None
        self._clock = clock
        self._answer = spec.read()
        self._headed = False
        self._encoded = False
        # Not a list: its pieces would be in memory once more when they are joined. A BytesIO gives its bytes away.
        self._body = BytesIO()
        self._size = 0
        self._times = array("d")
        self._failure: StreamError | None = None
        self._cut = ""
        self._fault: Exception | None = None
        self._begun = self._last_byte = self._last_sign = clock()
        self._finished_at: float | None = None
        self._ended_at: float | None = None

    # What happens

    def head(self, status: int, content_type: str, *, encoded: bool = False) -> None:
        """The response has begun. `encoded`: its pieces need decoding, so they are only kept until the end."""
        self._headed = True
        self._encoded = encoded
        self._last_byte = self._clock()
        self._answer = self.spec.read(status, content_type)

    def data(self, piece: bytes) -> bool:
        """The next piece of the body. True if something is due sooner for it. Never raises: a fault of ours becomes
        the answer."""
        now = self._last_byte = self._clock()
        self._size += len(piece)
        if self._size > self.rule.max_body:
            self.fail(OversizedStream(f"the upstream's answer is larger than {self.rule.max_body:,} bytes"))
            return False
        self._body.write(piece)
        self._times.extend((round(now - self._begun, 6), self._size))
        if self._encoded or self._fault is not None:
            return False
        try:
            return self._answer.feed(piece) and self._heed_end(now)
        except Exception as fault:
            self.record_bug(fault)
            return False

    def _heed_end(self, now: float) -> bool:
        if self._ended_at is None and self._answer.ended:
            self._ended_at = now
            return True
        if self._finished_at is None and self._answer.finished:
            self._finished_at = now
            return True
        return False

    def end(self) -> None:
        """The body ended as its framing says it should."""
        self.whole = True
        self.settled = True

    def cut(self, reason: str) -> None:
        """The transport ended the answer too early, before or within the response."""
        reason = reason[:LONGEST_REASON]
        if not self._headed:
            self.fail(UpstreamUnreachable(f"the upstream gave no response: {reason}"))
        else:
            self._cut = self._cut or reason
            self.settled = True

    def fail(self, error: StreamError) -> None:
        """Nothing that comes can be the answer any more."""
        self._failure = self._failure or error
        self.settled = True

    def record_bug(self, fault: Exception) -> None:
        """The addon itself failed; that becomes the answer."""
        self._fault = self._fault or fault
        self.settled = True

    def leave(self) -> None:
        """The client is gone; another try that is under way is given up, so that its upstream stops billing."""
        self.left = True
        if self.heir is not None:
            self.heir.cut("the client is gone")

    # What is due

    def next_look(self) -> float | None:
        """Seconds until something may be due; None if nothing ever will be."""
        moments = [moment for moment, _ in self._dues()]
        return max(0.0, min(moments) - self._clock()) if moments else None

    def look(self) -> Due:
        """What is due now; a limit that has passed becomes the answer."""
        now = self._clock()
        for moment, act in sorted(self._dues(), key=lambda due: due[0]):
            if moment <= now:
                due = act()
                if due is not Due.NOTHING:
                    return due
        return Due.ANSWER if self.settled else Due.NOTHING

    def _dues(self) -> list[tuple[float, Callable[[], Due]]]:
        rule = self.rule
        dues: list[tuple[float, Callable[[], Due]]] = []
        if rule.heartbeat is not None and (self.retrying or not self.settled):
            dues.append((self._last_sign + rule.heartbeat, self._heartbeat))
        if self.settled:
            return dues
        if self._ended_at is not None:
            dues.append((self._ended_at + LINGER, self._settle))
        if self._finished_at is not None:
            dues.append((self._finished_at + USAGE_WAIT, self._settle))
        if rule.timeout is not None:
            dues.append((self._begun + rule.timeout, self._time_out))
        if rule.idle_timeout is not None:
            dues.append((self._last_byte + rule.idle_timeout, self._idle_out))
        return dues

    def _settle(self) -> Due:
        self.settled = True
        return Due.ANSWER

    def _time_out(self) -> Due:
        if self._finished_at is not None:
            return self._settle()
        self.fail(StreamTimeout(f"the upstream's answer had no end within {self.rule.timeout:g} s"))
        return Due.ANSWER

    def _idle_out(self) -> Due:
        if self._finished_at is not None:
            return self._settle()
        self.fail(StreamTimeout(f"the upstream sent no byte for {self.rule.idle_timeout:g} s"))
        return Due.ANSWER

    def _heartbeat(self) -> Due:
        self._last_sign = self._clock()
        return Due.HEARTBEAT

    # What comes of it

    def remaining(self) -> float | None:
        """Seconds until the rule's timeout; None where there is none."""
        return None if self.rule.timeout is None else self._begun + self.rule.timeout - self._clock()

    @property
    def injected(self) -> Mapping[str, Any]:
        """The faults that were made on purpose, which is done below the hooks alone."""
        return self.rule.inject if self.attached else {}

    @property
    def headed(self) -> bool:
        """Whether the upstream has begun to respond."""
        return self._headed

    @property
    def encoded(self) -> bool:
        return self._encoded

    @property
    def heavy(self) -> bool:
        """Whether `finish` may take more than some milliseconds."""
        return self._encoded or self._answer.blocks_loop

    @property
    def report(self) -> Report:
        return self._answer.report

    @property
    def fault(self) -> Exception | None:
        """A fault of the addon itself, if there was one."""
        return self._fault

    @property
    def times(self) -> list[float]:
        """For each piece: seconds since the request went out, and bytes so far; flat."""
        return self._times.tolist()

    def body(self) -> bytes:
        """The body as it came. Whoever asks gets the same bytes, so that they are in memory once."""
        return self._body.getvalue()

    def finish(self, decoded: bytes | None = None) -> Reply | None:
        """The reply; None where the answer is to go to the client as it came. `decoded`: the body of an encoded
        answer. Never raises."""
        try:
            if self._fault is None and self._failure is None:
                if decoded is not None:
                    self._answer.feed(decoded)
                self.report.bytes = self._size
                return self._answer.finish(self._cut)
        except Exception as fault:
            self._fault = fault
        self.report.bytes = self._size
        if self._fault is not None:
            return self._answer.failure(InternalError("the answer could not be aggregated"))
        assert self._failure is not None
        return self._answer.failure(self._failure)
