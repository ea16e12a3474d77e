"""Further attempts for a client that waits, because the first one failed, or because the upstream demands another form.

Knows flows, attempts and the policy; must not know how a flow is sent, or observed below the hooks.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Final

from mitmproxy import ctx, http

from ..answer.forcing import Refusal
from ..answer.reader import AnswerSpec
from ..answer.report import EVENT_STREAM_TYPE
from ..endpoints import ENDPOINTS
from ..endpoints.endpoint import Endpoint
from ..errors import EmptyStream, MixedChoices, UpstreamError
from ..proxy import bodies, refusals, request, response
from ..proxy.attempt import Attempt
from ..proxy.client_wait import ClientWait
from ..proxy.learned import Learned, what
from ..proxy.notes import LEFT_ALONE, save_notes, was_made_plain, was_made_to_stream
from ..proxy.refusals import Demand
from ..proxy.retry_policy import TEMPORARY, delay
from ..rules.rule import Rule
from ..wire.form_body import Form
from ..wire.json_body import Body
from ..wire.text import printable

logger = logging.getLogger("force_stream")

# Streams that may be replaced by a plain answer.
_USELESS: Final = {
    EmptyStream.code: "the upstream's event stream was empty",
    MixedChoices.code: "the upstream's event stream mixes its choices",
}
# Events. A refusal inside an event stream comes first, or after events that only announce the answer.
_MOST_BEFORE_REFUSAL: Final = 3
# Bytes of a stream that holds nothing else. It is read on the event loop.
_LONGEST_REFUSAL: Final = 16 * 1024


@dataclass
class _Tries:
    """The tries for one client. `flow`: the one that it waits for; `latest`, `attempt`: the try whose outcome it has
    now; `heeded`: the demands of the upstream that were met, each once."""

    flow: http.HTTPFlow
    wait: ClientWait
    latest: http.HTTPFlow
    attempt: Attempt
    heeded: set[Demand] = field(default_factory=set)

    @property
    def rule(self) -> Rule:
        return self.wait.rule

    def take(self, retried: http.HTTPFlow, attempt: Attempt, why: str = "") -> None:
        """Make a try's outcome the client's."""
        response.copy_outcome(self.flow, retried, attempt, why)
        self.latest, self.attempt = retried, attempt


class Retries:
    def __init__(
        self,
        send: Callable[[http.HTTPFlow, Attempt], Awaitable[None]],
        rules: Callable[[], Sequence[Rule]] = lambda: (),
    ) -> None:
        """`send` sends a flow's request upstream for an attempt, and returns when that has its answer. `rules`: those
        in force; what was learned under others is forgotten."""
        self._send = send
        self._rules = rules
        self.all_learned = Learned()

    @property
    def learned(self) -> Learned:
        return self.all_learned.for_rules(self._rules())

    # What was learned

    def must_stream(self, flow: http.HTTPFlow, model: str | None, endpoint: Endpoint) -> bool:
        """Whether this upstream answers this model only as a stream."""
        return self.learned.must_stream(request.asked_of(flow, model, endpoint))

    def why_plain(self, flow: http.HTTPFlow, body: Body | Form, endpoint: Endpoint) -> str:
        """Why a request is to be sent as it came; "" if it is not."""
        asked = request.asked_of(flow, request.model_of(body), endpoint)
        return self.learned.why_plain(asked, request.credentials_of(flow), body.members)

    def adapted(self, rule: Rule, flow: http.HTTPFlow, model: str | None, endpoint: Endpoint) -> Rule:
        """The rule, without the stream options that this upstream rejects."""
        rejects = self.learned.rejects_options(request.asked_of(flow, model, endpoint))
        return replace(rule, stream_options=None) if rejects else rule

    async def learn_stream(self, flow: http.HTTPFlow, rule: Rule, endpoint: str) -> None:
        """The upstream has shown that it answers this flow's plain request only as a stream."""
        read = await request.read_request(flow, rule.max_body)
        if read is None:
            return
        _, model = read
        asked = request.asked_of(flow, model, ENDPOINTS[endpoint])
        self.learned.drop_plain(asked, request.credentials_of(flow))
        if rule.force_upstream_stream or self.learned.must_stream(asked):
            return
        self.learned.add_streams(asked)
        logger.warning(
            f"{rule.name}: {printable(asked.name)} answers {printable(model or '') or 'this request'} only as a "
            "stream; until the rules change or mitmproxy stops it is forced. The rule for it, to be put before this "
            "one: " + refusals.rule_to_paste(asked.name, model or "")
        )

    # Other attempts

    async def retry(self, flow: http.HTTPFlow, wait: ClientWait) -> None:
        """Send the request again in the way that the upstream demands, and as often as the rule says while another
        attempt may do better. The client gets the last outcome."""
        assert wait.attempt is not None
        tries, rule = _Tries(flow, wait, flow, wait.attempt), wait.rule
        await self._heed(tries)
        for number in count(1):
            attempt = tries.attempt
            # A request that is only watched has no retries.
            if number > attempt.rule.retries or wait.headers_sent or not attempt.is_final:
                return
            if not response.may_retry(attempt):
                return
            pause = delay(number, response.retry_after(tries.latest))
            if pause is None or (attempt.deadline is not None and attempt.clock() + pause >= attempt.deadline):
                logger.info(f"{rule.name}: not tried again: the pause before it would be too long")
                return
            wait.retrying = True
            await asyncio.sleep(pause)
            if wait.client_gone:
                logger.info(f"{rule.name}: not tried again: the client has disconnected")
            if wait.client_gone or not ctx.options.force_stream:
                return
            again = request.another_attempt(flow, tries.latest)
            tries.take(again, await self._send_for(tries, again))
            await self._heed(tries)

    async def _heed(self, tries: _Tries) -> None:
        """Meet the upstream's demands about streaming, each once."""
        while (demand := _demand_of(tries)) is not None and demand not in tries.heeded:
            tries.heeded.add(demand)
            if demand is Demand.NO_OPTIONS:
                await self._send_without_options(tries)
            elif demand is Demand.PLAIN:
                await self._send_plain(tries)
            else:
                await self._send_as_stream(tries)

    async def _send_plain(self, tries: _Tries) -> None:
        """Send the request plain, because the upstream cannot stream it, or has sent a useless stream."""
        refusal, rule = tries.latest.response, tries.rule
        assert refusal is not None
        useless = _useless(tries.attempt)
        why = useless or "the upstream cannot stream this request"
        plain = await self._plain_again(tries)
        if plain is None:
            return
        logger.info(f"{rule.name}: {why}: sent again plain")
        attempt = await self._send_for(tries, plain)
        answer = plain.response
        # An answer that did not come from the upstream is no better than that stream.
        missing = answer is None or (useless and (attempt.report.code or not answer.raw_content))
        if missing or answer is None or _demand_in(answer, rule, streamed=False):
            logger.info(f"{rule.name}: the plain request fared no better, so the first answer stands")
            return
        tries.take(plain, attempt, f"sent plain: {why}")
        if not useless and answer.status_code < 400:
            body = bodies.decoded(refusal, refusals.LONGEST_ERROR) or b""
            read = await request.read_request(tries.latest)
            given = tries.attempt.asked is not None
            self._learn_plain(tries.flow, read, rule, tries.attempt.spec, refusal.status_code, body, to_events=given)

    async def _plain_again(self, tries: _Tries) -> http.HTTPFlow | None:
        """A new flow for the client, whose request asks for no stream; None where it cannot be made plain."""
        if not tries.attempt.is_own_stream:
            return request.plain_attempt(tries.flow, tries.attempt.spec)
        again = request.restored(tries.flow)
        read = await request.read_request(again, tries.rule.max_body)
        if read is None:
            return None
        endpoint = ENDPOINTS[tries.attempt.spec.endpoint]
        try:
            await bodies.read(again.request, partial(request.make_plain, again, read[0], tries.rule, endpoint))
        except Refusal as reason:
            logger.info(
                f"{tries.rule.name}: the upstream cannot stream this request, and it cannot be sent plain: {reason}"
            )
            return None
        return request.link(tries.flow, again)

    async def learn_refusal(self, flow: http.HTTPFlow, spec: AnswerSpec) -> None:
        """Learn from a stream that its client got as it came: it may hold nothing but a refusal to stream. Whether the
        plain request fares better, the next one shows."""
        rule = next((rule for rule in self._rules() if rule.name == spec.rule), None)
        answer = flow.response
        if rule is None or not rule.learn or answer is None or was_made_plain(flow):
            return
        raw = answer.raw_content or b""
        body = bodies.decoded(answer, _LONGEST_REFUSAL) if len(raw) <= _LONGEST_REFUSAL else None
        if body is None:
            return
        read = spec.read(answer.status_code, EVENT_STREAM_TYPE)
        read.feed(body)
        said, report = read.finish(), read.report
        if said is None or report.code != UpstreamError.code or report.events > _MOST_BEFORE_REFUSAL:
            return
        demand = refusals.demand_of(said.status, said.body, streamed=True, phrases=_phrases(rule))
        if demand is Demand.PLAIN:
            asked = await request.read_request(flow)
            self._learn_plain(flow, asked, rule, spec, said.status, said.body, to_events=True)

    def _learn_plain(
        self,
        flow: http.HTTPFlow,
        read: tuple[Body | Form, str | None] | None,
        rule: Rule,
        spec: AnswerSpec,
        status: int,
        refusal: bytes,
        *,
        to_events: bool,
    ) -> None:
        """Remember a refusal. A temporary one, such as 503 "streaming is temporarily unavailable", says nothing about
        the next request. `read`: the request without what a rule adds; `to_events`: its client asks for a stream."""
        if read is None or status in TEMPORARY:
            return
        body, model = read
        members = refusals.scope_of(status, refusal, body.members)
        if members is None:
            return
        asked = request.asked_of(flow, model, ENDPOINTS[spec.endpoint])
        self.learned.add_plain(asked, request.credentials_of(flow), members)
        to_paste = ""
        if to_events and not members:
            pasted = refusals.rule_to_paste(asked.name, model or "", forced="plain")
            to_paste = f" The rule for it, to be put before this one: {pasted}"
        logger.warning(
            f"{rule.name}: {asked} cannot stream {what(members)}. Until the rules change or mitmproxy stops, "
            f"such requests are sent plain.{to_paste}"
        )

    async def _send_without_options(self, tries: _Tries) -> None:
        """Send the request as a stream once more, without the options that the upstream rejects."""
        endpoint = ENDPOINTS[tries.attempt.spec.endpoint]
        forced = await self._forced_again(tries, replace(tries.rule, stream_options=None))
        if forced is None:
            return
        again, body = forced
        logger.info(f"{tries.rule.name}: sent again without stream_options, which the upstream rejects")
        tries.take(again, await self._send_for(tries, again), "sent without stream_options: the upstream rejects them")
        if again.response is None or again.response.status_code >= 400:
            return
        if body.members.get("stream_options"):
            return  # it may be the client's own that are wrong, which says nothing about other clients
        model = request.model_of(body)
        asked = request.asked_of(tries.flow, model, endpoint)
        self.learned.add_without_options(asked)
        rule = refusals.rule_to_paste(asked.name, model or "", stream_options=False)
        logger.warning(
            f"{tries.rule.name}: {asked} rejects stream_options. Until the rules change or mitmproxy stops, none are "
            f"sent. Set stream_options: null in the rule, or put one for this model alone before it: {rule}"
        )

    async def _send_as_stream(self, tries: _Tries) -> None:
        """Send a plain request as a stream, because the upstream says that it must."""
        forced = await self._forced_again(tries, tries.rule)
        if forced is None:
            return
        again, _ = forced
        said = tries.flow.response
        # It has refused the plain request already.
        streamed = _Tries(tries.flow, tries.wait, again, tries.attempt, {Demand.PLAIN})
        streamed.take(again, await self._send_for(streamed, again))
        await self._heed(streamed)
        if _demand_of(streamed) is Demand.PLAIN:
            tries.flow.response = said
            save_notes(tries.flow, {"answered_by": ""})
            return
        tries.latest, tries.attempt = streamed.latest, streamed.attempt
        if tries.latest.response is not None and tries.latest.response.status_code < 400:
            await self.learn_stream(tries.flow, tries.rule, tries.attempt.spec.endpoint)

    async def _forced_again(self, tries: _Tries, rule: Rule) -> tuple[http.HTTPFlow, Body | Form] | None:
        """A new flow for the client, whose request is made to stream, and the body as it came; None where it cannot
        stream."""
        flow, endpoint = tries.flow, ENDPOINTS[tries.attempt.spec.endpoint]
        again = request.restored(flow)
        read = await request.read_request(again, rule.max_body)
        if read is None:
            return None
        body, model = read
        if tries.attempt.asked is not None:
            return request.link(flow, again), body  # as it came, for the client itself asks for a stream
        try:
            adapted = self.adapted(rule, flow, model, endpoint)
            spec = await bodies.read(again.request, partial(request.force, again, body, adapted, endpoint))
        except Refusal as reason:
            if LEFT_ALONE.of(flow) != str(reason):  # that is in the log already
                logger.info(
                    f"{rule.name}: the upstream says that it must stream, but the request cannot be forced: {reason}"
                )
            return None
        return None if spec is None else (request.link(flow, again), body)

    async def _send_for(self, tries: _Tries, retried: http.HTTPFlow) -> Attempt:
        """Send another attempt for the client."""
        spec, asked = tries.attempt.spec, tries.attempt.asked
        is_plain = not was_made_to_stream(retried) if asked is None else was_made_plain(retried)
        attempt = Attempt(spec, tries.rule, deadline=tries.attempt.deadline, plain=is_plain, asked=asked)
        tries.wait.retry(attempt)
        await self._send(retried, attempt)
        if retried.response is None and attempt.fault is not None:
            raise attempt.fault
        return attempt


def _useless(attempt: Attempt) -> str:
    """Why a stream may be replaced by a plain answer; "" if it may not."""
    undecodable = "the upstream's event stream cannot be decoded" if attempt.undecodable else ""
    return undecodable or _USELESS.get(attempt.report.code, "")


def _demand_of(tries: _Tries) -> Demand | None:
    """What the upstream demands of the next attempt, if there may be one."""
    attempt, wait, answer = tries.attempt, tries.wait, tries.latest.response
    is_late = attempt.deadline is not None and attempt.clock() >= attempt.deadline
    if answer is None or not attempt.is_final or wait.client_gone or is_late or not ctx.options.force_stream:
        return None
    if attempt.asked is not None and not tries.rule.learn:
        return None  # the rule says how this upstream has to be asked
    report = attempt.report
    # Among corrupted streams, only those that would be corrupted again.
    if _useless(attempt) and (report.code != MixedChoices.code or "x-should-retry" in answer.headers):
        return None if attempt.plain else Demand.PLAIN
    if report.code not in ("", UpstreamError.code):
        return None
    if attempt.plain:
        return _demand_in(answer, tries.rule, streamed=False)
    if report.events > _MOST_BEFORE_REFUSAL or (answer.status_code < 400 and report.events):
        return None
    # Those of the client itself, which asks for a stream, are its own affair.
    options = attempt.asked is None and b"stream_options" in (tries.latest.request.raw_content or b"")
    return _demand_in(answer, tries.rule, streamed=True, options=options)


def _demand_in(answer: http.Response, rule: Rule, *, streamed: bool, options: bool = False) -> Demand | None:
    if len(answer.raw_content or b"") > refusals.LONGEST_ERROR:
        return None
    body = bodies.decoded(answer, refusals.LONGEST_ERROR)
    if body is None:
        return None
    return refusals.demand_of(answer.status_code, body, streamed=streamed, options=options, phrases=_phrases(rule))


def _phrases(rule: Rule) -> tuple[str, ...]:
    return rule.learn if isinstance(rule.learn, tuple) else ()
