"""Answers that are read to their ends although their clients gave up, for the very same requests sent again.

Knows requests and outcomes; must not know how an answer comes in, or any credential or body: those are here as salted
hashes.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import itemgetter
from secrets import token_bytes
from typing import Final
from weakref import WeakSet

from mitmproxy import http

from ..rules.rule import Rule
from ..wire.text import counted
from . import cors
from .attempt import Attempt
from .client_wait import ClientWait
from .notes import proxy_user
from .request import KEYS

logger = logging.getLogger("force_stream")

# Bytes of all finished answers with their headers; the oldest goes first.
MOST_BYTES: Final = 256 * 1024**2
_SALT: Final = token_bytes(16)
# Headers by which a request that is sent again may differ: those of the connection, and of tracing.
_NOT_COMPARED: Final = frozenset(
    b"""
    connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length
    traceparent tracestate baggage sentry-trace b3 uber-trace-id x-amzn-trace-id x-cloud-trace-context
    request-id x-request-id x-correlation-id x-client-request-id x-stainless-retry-count
    """.split()
)
_NOT_COMPARED_PREFIXES: Final = (b"x-b3-", b"x-datadog-")


def key_of(flow: http.HTTPFlow, rule: Rule, *, has_own_keys: bool = True) -> bytes:
    """A hash of all that makes a request the very same as another one, under a rule that is the same too. Where nothing
    in its headers says for whose account it is, the client's address is part of that. `has_own_keys`: what says so is
    the client's word, and not this proxy's."""
    request, client = flow.request, flow.client_conn
    fields = [(name.lower(), value) for name, value in request.headers.fields]
    compared = [
        (name, value)
        for name, value in sorted(fields, key=itemgetter(0))
        if name not in _NOT_COMPARED and not name.startswith(_NOT_COMPARED_PREFIXES)
    ]
    has_key = has_own_keys and any(request.headers.get(name) for name in KEYS)
    address = client.peername[0] if client.peername else flow.id
    asked = (
        *(rule, request.scheme, request.host, request.port, request.host_header, request.method, request.path),
        *(client.sni, [each.fingerprint() for each in client.certificate_list]),
        *(client.proxy_mode.full_spec, proxy_user(flow), cors.page_of(flow), compared),
        None if has_key else address,
    )
    digest = blake2b(repr(asked).encode(errors="replace"), digest_size=32, key=_SALT)
    digest.update(request.raw_content or b"")
    return digest.digest()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request. `failed`: the attempt, if it did not become a whole answer."""

    flow_id: str
    comment: str
    marked: str
    response: http.Response | None
    failed: Attempt | None


NOTHING: Final = Outcome("", "", "", None, None)


@dataclass(eq=False)
class KeptAnswer:
    """An answer under way, or one that waits for its request to come again. `rule`: as it is in force; `wait`: the
    client that it is for."""

    key: bytes
    rule: Rule
    wait: ClientWait
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    size: int = 0
    timer: asyncio.TimerHandle | None = None


class KeptAnswers:
    def __init__(self, rules: Callable[[], Sequence[Rule]], most: int = MOST_BYTES) -> None:
        """`rules`: those in force; what was kept under others is forgotten."""
        self._rules = rules
        self._most = most
        self._answers: list[KeptAnswer] = []
        # Their flows hold these: a flow may end without a word when its client leaves while it gets its connection.
        self._under_way: WeakSet[KeptAnswer] = WeakSet()

    def clear(self) -> None:
        """Forget all of them; who waits for one gets nothing."""
        for kept in list(self._answers):
            self._forget(kept)
        while self._under_way:
            self._under_way.pop().outcome.set_result(NOTHING)

    def drop_unmatched(self) -> None:
        """Forget those whose rules are in force no more: no request can match them."""
        for kept in list(self._answers):
            if kept.rule not in self._rules():
                self._drop(kept, "its rule has changed")

    def begin(self, key: bytes, rule: Rule, wait: ClientWait) -> KeptAnswer:
        """An answer that will be kept if its client gives up."""
        kept = KeptAnswer(key, rule, wait)
        wait.kept = kept.outcome
        self._under_way.add(kept)
        return kept

    def join(self, key: bytes, wait: ClientWait) -> KeptAnswer | None:
        """The answer to the same request that nobody waits for; from now on it is this client's."""
        for kept in (*self._answers, *self._under_way):
            if kept.key == key and kept.wait.client_gone:
                wait.joined = kept.wait.joined or kept.wait
                kept.wait = wait
                if kept.outcome.done():
                    self._forget(kept)
                return kept
        return None

    def finish(self, kept: KeptAnswer, outcome: Outcome) -> bool:
        """Whether it is kept now."""
        if kept.outcome.done():
            return False
        kept.outcome.set_result(outcome)
        self._under_way.discard(kept)
        if outcome.failed or outcome.response is None or not kept.wait.client_gone or kept.rule not in self._rules():
            return False
        response = outcome.response
        kept.size = len(response.raw_content or b"") + sum(map(len, itertools.chain(*response.headers.fields)))
        (kept.wait.joined or kept.wait).attempt = None  # it has the event stream, which is many times as large
        self._answers.append(kept)
        seconds = kept.rule.keep_answers
        assert seconds is not None
        why = f"nobody asked for it for {seconds:g} s"
        kept.timer = asyncio.get_running_loop().call_later(seconds, self._drop, kept, why)
        while sum(each.size for each in self._answers) > self._most:
            self._drop(self._answers[0], f"newer answers needed its place in the {self._most:,} bytes")
        return kept in self._answers

    def _drop(self, kept: KeptAnswer, why: str) -> None:
        self._forget(kept)
        logger.info(f"{kept.rule.name}: a kept answer was dropped: {why}")

    def _forget(self, kept: KeptAnswer) -> None:
        assert kept.timer is not None
        kept.timer.cancel()
        self._answers.remove(kept)

    def lines(self) -> list[str]:
        """All of it, in words."""
        finished = [kept.size for kept in self._answers]
        count = counted(len(finished), "answer")
        return [f"kept: {count} of clients that gave up, {counted(sum(finished), 'byte')}"] if finished else []
