"""What the upstream has received of each request; a test's thread can read it and wait for it."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.framing import Pairs, values

TIMEOUT = 60.0
"""Seconds a test waits for what must happen; far beyond what it takes, so that only a real failure meets it, on a busy
machine too."""


def wait_until(changed: threading.Condition, predicate: Callable[[], Any], timeout: float, what: str) -> Any:
    """Wait until `predicate` is true and return what it gave; TimeoutError that names `what`."""
    with changed:
        result = changed.wait_for(predicate, timeout)
    if not result:
        raise TimeoutError(f"after {timeout} s still waiting for {what}")
    return result


@dataclass(eq=False)
class Request:
    """A request as it came over the wire; HTTP/2's pseudo-headers are in `headers` too."""

    method: str
    path: str
    headers: Pairs
    body: bytes
    http_version: str
    """ "HTTP/1.1" or "HTTP/2" """
    listener: str
    """Which of the upstream's listeners took it: "http", "https", "h2", "untrusted"."""
    connection: int
    """Number of the connection, from 1, never used twice."""
    changed: threading.Condition = field(repr=False)
    stream_id: int = 0
    answered: str | None = None
    """None while the answer is being played, then "sent", "peer gone: …", "cancelled" or "script error: …"."""
    closed: str | None = None
    """How the peer ended the connection or the stream: "closed", "reset", "rst_stream N"; None while it has not."""
    abandoned: bool = False
    """The peer ended it before the answer was over."""

    def header(self, name: str) -> str | None:
        """The value of a header, several joined as RFC 9110, section 5.2 has it; None if there is none."""
        found = values(self.headers, name)
        return ", ".join(found) if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    def wait_answered(self, timeout: float = TIMEOUT) -> str:
        return wait_until(self.changed, lambda: self.answered, timeout, f"the end of the answer to {self.path}")

    def wait_closed(self, timeout: float = TIMEOUT) -> str:
        return wait_until(self.changed, lambda: self.closed, timeout, f"the peer to end {self.path}")

    def note_answered(self, outcome: str) -> None:
        with self.changed:
            self.answered = outcome
            self.changed.notify_all()

    def note_closed(self, how: str) -> None:
        with self.changed:
            if self.closed is None:
                self.closed = how
                # A write may meet the peer's close before a read does.
                self.abandoned = self.answered is None or self.answered.startswith("peer gone")
                self.changed.notify_all()
