"""Another attempt for a client that waits: the first one failed, or its upstream said that it must stream.

Knows flows, attempts and the policy; must not know how a flow is sent, or observed below the hooks.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mitmproxy import ctx, http

from ..answer.forcing import Refusal
from ..endpoints.endpoint import Endpoint
from ..proxy import must_stream, request, response
from ..proxy.attempt import Attempt
from ..proxy.client_wait import ClientWait
from ..proxy.retry_policy import delay
from ..rules.rule import Rule

logger = logging.getLogger("force_stream")


class Retries:
    def __init__(self, send: Callable[[http.HTTPFlow, Attempt], Awaitable[None]]) -> None:
        """`send` sends a flow's request upstream for an attempt, and returns when that has its answer."""
        self._send = send
        # Hosts and models whose upstreams answer only as a stream.
        self._learned: set[tuple[str, str | None]] = set()

    async def retry(self, flow: http.HTTPFlow, attempt: Attempt, wait: ClientWait) -> None:
        """Send the request again, as often as the rule says, while another attempt may do better. The client gets the
        last outcome."""
        spec, rule, deadline, latest = attempt.spec, attempt.rule, attempt.deadline, flow
        for number in range(1, rule.retries + 1):
            if wait.headers_sent or not attempt.is_final or not response.may_retry(attempt):
                return
            pause = delay(number, response.retry_after(latest))
            if pause is None or (deadline is not None and attempt.clock() + pause >= deadline):
                logger.info(f"{rule.name}: not tried again: there is no time for the pause before it")
                return
            wait.retrying = True
            await asyncio.sleep(pause)
            if wait.client_gone:
                logger.info(f"{rule.name}: not tried again: the client is gone")
            if wait.client_gone or not ctx.options.force_stream:
                return
            latest = request.another_attempt(flow, number + 1)
            attempt = Attempt(spec, rule, deadline=deadline)
            await self._send_for(flow, wait, latest, attempt, number + 1)

    def has_learned(self, flow: http.HTTPFlow, model: str | None) -> bool:
        """Whether this upstream said that it answers this model only as a stream."""
        return (flow.request.host, model) in self._learned

    async def learn(self, flow: http.HTTPFlow, rule: Rule, endpoint: Endpoint, wait: ClientWait) -> None:
        """If the upstream said that it must stream, ask it for a stream, and give the client that answer."""
        said = flow.response
        if said is None or not must_stream.says_it_must_stream(said.status_code, response.decoded(said)):
            return
        retried = request.another_attempt(flow, 2)
        body = request.body_of(retried)
        try:
            spec = None if body is None else request.force(retried, body, rule, endpoint)
        except Refusal as reason:
            logger.info(
                f"{rule.name}: the upstream says that it must stream, but the request cannot be forced: {reason}"
            )
            return
        if spec is None:
            return
        await self._send_for(flow, wait, retried, Attempt(spec, rule), 2)
        if retried.response is not None and retried.response.status_code < 400:
            self._learned.add((flow.request.host, request.model_of(body)))
            logger.warning(
                f"{rule.name}: {flow.request.host} answers {spec.model or 'this request'} only as a stream; until "
                "mitmproxy stops it is forced. The rule for it, to be put before this one: "
                + must_stream.rule_to_paste(flow.request.host, spec.model)
            )

    async def _send_for(
        self, flow: http.HTTPFlow, wait: ClientWait, retried: http.HTTPFlow, attempt: Attempt, number: int
    ) -> None:
        """Send another attempt at a flow's request, whose client waits for it, and make its outcome the flow's."""
        wait.retry(attempt)
        await self._send(retried, attempt)
        if retried.response is None and attempt.fault is not None:
            raise attempt.fault
        response.copy_outcome(flow, retried, number)
