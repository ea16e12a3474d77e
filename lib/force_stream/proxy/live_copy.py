"""A copy of an event stream that the client itself asked for and gets live.

Must not know rules, events or what is made of the copy.
"""

import time

from mitmproxy import http

from ..answer.reader import AnswerSpec
from .notes import save_notes


class LiveCopy:
    """A `response.stream` callable: passes every byte on as it comes, and keeps a copy of the first `limit`.
    `spec`: how the copy can be read."""

    def __init__(self, limit: int, spec: AnswerSpec) -> None:
        self.limit = limit
        self.spec = spec
        self.pieces: list[bytes] = []
        self._times: list[float] = []
        self._size = 0
        self._is_whole = True
        self._started = time.monotonic()  # this object is made when the request goes out

    def __call__(self, data: bytes) -> bytes:
        if data and self._is_whole and self._size + len(data) <= self.limit:
            self._size += len(data)
            self.pieces.append(data)
            self._times += (round(time.monotonic() - self._started, 6), self._size)
        elif data:
            self._is_whole = False
        return data

    def store(self, flow: http.HTTPFlow) -> None:
        """Store the copy as the body of the flow's response."""
        if flow.response is not None and flow.response.raw_content is None and self.pieces:
            flow.response.raw_content = body = b"".join(self.pieces)
            self.pieces = [body]  # the flow keeps this object too, and should not keep the body twice
            save_notes(flow, {"times": self._times} | ({} if self._is_whole else {"cut_at": self._size}))
