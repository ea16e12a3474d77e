"""A copy of an event stream that the client itself asked for and gets live.

Must not know rules, events or what is made of the copy.
"""

import time

from mitmproxy import http

from ..answer.reader import AnswerSpec
from .attempt import KeptBody
from .notes import save_notes


class LiveCopy:
    """A `response.stream` callable: passes every byte on as it comes, and keeps a copy of the first `limit`.
    `spec`: how the copy can be read."""

    def __init__(self, limit: int, spec: AnswerSpec) -> None:
        self.limit = limit
        self.spec = spec
        self._body = KeptBody()
        self._is_whole = True
        self._started = time.monotonic()  # this object is made when the request goes out

    @property
    def is_empty(self) -> bool:
        return not self._body.size

    def __call__(self, data: bytes) -> bytes:
        if data and self._is_whole and self._body.size + len(data) <= self.limit:
            self._body.add(data, time.monotonic() - self._started)
        elif data:
            self._is_whole = False
        return data

    def store(self, flow: http.HTTPFlow) -> None:
        """Store the copy as the body of the flow's response."""
        if flow.response is not None and flow.response.raw_content is None and not self.is_empty:
            flow.response.raw_content = self._body.whole()
            save_notes(flow, {"times": self._body.times} | ({} if self._is_whole else {"cut_at": self._body.size}))
