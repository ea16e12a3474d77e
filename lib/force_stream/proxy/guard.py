"""A client's own event stream under a rule with `guard_streams`: the client gets whole events, and an error event where
the stream ends without its end.

Knows how an answer is read; must not know mitmproxy or flows.
"""

import re
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Final

from ..answer.report import Reply
from ..answer.unfold import Asked, failure
from ..errors import EmptyStream, IncompleteStream, StreamTimeout
from ..wire.sse import end_of_last_event
from . import aside
from .attempt import Attempt, State

# An end that is none, by the codes of its errors.
_NO_END: Final = frozenset((EmptyStream.code, IncompleteStream.code, StreamTimeout.code))
_NAME: Final = b'"sequence_number"'
_SEQUENCE: Final = re.compile(_NAME + rb"\s*:\s*(\d{1,15})")
_SEQUENCE_LENGTH: Final = 64
# Bytes in which it is looked for together. The event loop does so in a shorter stream.
_WINDOW: Final = 64 * 1024


class Guard:
    """`attempt`: reads what the client gets. `is_on`: until the stream has ended, or is too large. `error`: the error
    event that the client gets at the end; b"" where the stream came to its own."""

    def __init__(self, attempt: Attempt, asked: Asked, limit: int, said: Callable[[], None]) -> None:
        """`limit`: the bytes of a stream that is read; `said`: told whenever the client gets something."""
        attempt.is_live, attempt.plain = True, False
        self.attempt = attempt
        self.is_on = True
        self.error = b""
        self._endpoint = asked.endpoint
        self._limit, self._said = limit, said
        self._held = BytesIO()  # the event that is not whole yet: one that hands out its bytes without a copy

    def pass_on(self, data: bytes) -> bytes:
        """The whole events that the next bytes of the stream complete."""
        if not self.is_on:
            return data
        self.attempt.receive(data)
        before = bytes(self._held.getbuffer()[-3:])  # the end of an event may be split
        end = max(0, end_of_last_event(before + data) - len(before))
        self.is_on = self.attempt.size <= self._limit
        if not self.is_on:
            end = len(data)
        elif not end:
            self._held.write(data)
            return b""
        self._said()
        whole, self._held = self._held, BytesIO()
        whole.write(data[:end])
        self._held.write(data[end:])
        return whole.getvalue()

    @property
    def is_broken(self) -> bool:
        """Whether nothing that comes can be the end of the stream any more."""
        return self.attempt.state in (State.CUT, State.FAILED)

    async def conclude(self) -> None:
        """Decide how the stream ends for the client, once it has ended."""
        if self.is_on:
            self.attempt.end()  # unless it was cut off
            decide = partial(self._decide, await self.attempt.finish_aside())
            await aside.run(decide) if self.attempt.size > _WINDOW else decide()

    def _decide(self, reply: Reply | None) -> None:
        self.is_on = False
        if reply is not None and self.attempt.report.code in _NO_END:
            self.error = failure(reply.body, self._endpoint, sequence=self._next_number())

    def last_words(self) -> bytes:
        """What the client gets before the end. Another addon may have kept ours from concluding it."""
        if self.is_on:
            self.attempt.end()
            self._decide(self.attempt.finish())
        return self.error or self._held.getvalue()

    def _next_number(self) -> int:
        """Of the event after the last one that the client got."""
        body, at = self.attempt.body(), -1
        end = len(body) - len(self._held.getbuffer())
        while at < 0 < end:
            at = body.rfind(_NAME, max(0, end - _WINDOW), end)
            end -= _WINDOW - len(_NAME)
        found = _SEQUENCE.match(body, at, at + _SEQUENCE_LENGTH) if at >= 0 else None
        return 0 if found is None else int(found[1]) + 1
