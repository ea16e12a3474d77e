"""A copy of an event stream that the client itself asked for and gets live.

Must not know rules, events or what is made of the copy.
"""

import time
from collections.abc import Sequence

from mitmproxy import http

from ..answer.reader import AnswerSpec
from .attempt import KeptBody
from .client_wait import ClientWait
from .notes import save_notes


class LiveCopy:
    """A `response.stream` callable: passes every byte on as it comes, and keeps a copy of the first `limit`.
    `spec`: how the copy can be read; `wait`: the client, if its stream is guarded."""

    def __init__(self, limit: int, spec: AnswerSpec, wait: ClientWait | None = None) -> None:
        self.limit = limit
        self.spec = spec
        self.wait = wait
        self.guard = None if wait is None else wait.guard
        self._body = KeptBody()
        self._is_whole = True
        # This object is made when the request goes out.
        self._started = self._last_byte = time.monotonic()

    @property
    def size(self) -> int:
        """The bytes so far, as many as are kept."""
        return self._body.size

    @property
    def silence(self) -> float:
        """Seconds since the last byte."""
        return time.monotonic() - self._last_byte

    @property
    def first_byte(self) -> float | None:
        """When it came: seconds since the request went out."""
        return self._body.first

    @property
    def is_empty(self) -> bool:
        return not self._body.size

    def __call__(self, data: bytes) -> bytes | Sequence[bytes]:
        self._last_byte = time.monotonic()
        if data and self._is_whole and self._body.size + len(data) <= self.limit:
            self._body.add(data, time.monotonic() - self._started)
        elif data:
            self._is_whole = False
        if self.guard is None:
            return data
        # mitmproxy would write a piece of no bytes as the chunk that ends a body.
        return self.guard.pass_on(data) or ()

    def store(self, flow: http.HTTPFlow) -> None:
        """Store the copy as the body of the flow's response, which keeps this object but needs nothing else of it."""
        self.wait = self.guard = None
        if flow.response is not None and flow.response.raw_content is None and not self.is_empty:
            flow.response.raw_content = self._body.whole()
            save_notes(
                flow,
                {"times": self._body.times, "ended": time.monotonic() - self._started}
                | ({} if self._is_whole else {"cut_at": self._body.size}),
            )
