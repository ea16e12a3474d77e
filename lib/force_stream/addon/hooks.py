"""The addon's main object: the hooks that traffic runs through, and the role of each flow in them.

Knows mitmproxy: hooks, flows, options. Must not know JSON, server-sent events or any endpoint. Nothing raises out of a
hook, and nothing that is logged or kept on a flow holds a credential.
"""

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader
from mitmproxy.hooks import UpdateHook

from ..answer.cause import plainly
from ..answer.forcing import Refusal
from ..endpoints.endpoint import Endpoint
from ..errors import OversizedStream, UnreadableEncoding
from ..proxy import aside, bodies, cors, explain, kept_answers, request, response, summary
from ..proxy.attempt import LONGEST_REASON, Attempt
from ..proxy.client_wait import ClientWait
from ..proxy.guard import Guard
from ..proxy.kept_answers import KeptAnswer, KeptAnswers
from ..proxy.live_copy import LiveCopy
from ..proxy.notes import (
    ANSWERED_BY,
    CAUSE,
    CUT_BY,
    LEFT_ALONE,
    SSE,
    UnreadableFlow,
    noted,
    save_notes,
    spec_of,
    was_made_plain,
    was_made_to_stream,
)
from ..proxy.saved import aggregate_again
from ..rules.rule import UNLIMITED, Match, Rule, candidates, first_match
from ..view import contentview, flow_record
from ..view.stats import Outcome, Stats
from ..wire.encodings import MissingDecoder, TooLarge, decode_noting, decoded_sizes
from ..wire.form_body import Form
from ..wire.json_body import Body
from ..wire.text import printable
from . import listeners
from .in_flight import LOOK_EVERY, Observer, SilenceWatch, figures
from .options import add_options, eager_warning, unknown_options
from .retries import Retries
from .rules_watcher import RulesWatcher

if TYPE_CHECKING:
    from ..proxy.stream_layer import StreamLayerAddon

logger = logging.getLogger("force_stream")


# How many answers, of how many bytes each, and for how many seconds, wait to be counted together: that takes half of
# what it takes one by one.
_MOST_UNCOUNTED: Final = 32
_LARGEST_UNCOUNTED: Final = 256 * 1024
_COUNT_AFTER: Final = 1.0
# How a stream ended whose client did not read it to the end.
_CLIENT_LEFT: Final = "the client gave up"

# What a flow is to the addon, until it has its response or an error.


class Waiting(NamedTuple):
    """Its client waits for the document, within the rule's limits: the request was made to stream, or is known not to
    be streamable. `kept`: where its answer is kept if its client gives up."""

    wait: ClientWait
    kept: KeptAnswer | None = None


class Joined(NamedTuple):
    """Its client waits for the answer to the very same request, whose own client gave up. `stand_in`: its response
    until then; `attempt` reads one that another addon puts in its place."""

    wait: ClientWait
    kept: KeptAnswer
    stand_in: http.Response
    attempt: Attempt | None


class Watched(NamedTuple):
    """It went out as it came, and nothing limits its answer, unless that is a guarded stream. But an answer that breaks
    off, that has another form than was asked for, or that says that the request must have another one does not go to
    the client as it is."""

    wait: ClientWait


class Own(NamedTuple):
    """The addon sent it: another attempt, or one side of a comparison. Without `wait` it stays as it is."""

    wait: ClientWait | None


# A LiveCopy: its client asked for the event stream itself, and gets it as it comes, now that it comes.
type Role = Waiting | Joined | Watched | LiveCopy | Own


class ForceStream:
    """The addon. `rules` are those in force; `flow_counts` counts the flows of each by name, over all reloads."""

    def __init__(self, default_rules: Path) -> None:
        """`default_rules`: the rules file where the option names no other; it may be missing."""
        self.rules_watcher = RulesWatcher(default_rules, lambda: self._kept.drop_unmatched())
        self.change_rule = self.rules_watcher.change
        self.flow_counts: Counter[str] = Counter()
        self._stats = Stats()
        self._uncounted: list[tuple[http.HTTPFlow, Attempt, float]] = []
        self._default_rules = default_rules
        self._roles: WeakKeyDictionary[http.HTTPFlow, Role] = WeakKeyDictionary()
        self._retries = Retries(self.send_attempt, lambda: self.rules)
        self._kept = KeptAnswers(lambda: self.rules)
        self._counting: set[asyncio.Future[Outcome]] = set()
        self._silence_watch: asyncio.Task[None] | None = None
        self._stream_layer: StreamLayerAddon | None = None
        # The rules about which a warning was logged because mitmproxy streams the bodies of their requests.
        self._warned: set[str] = set()
        # Whether requests of our own can be sent: below the hooks, by a mitmproxy that runs.
        self.can_send = False

    # Life

    def load(self, loader: Loader) -> None:
        contentview.register()
        listeners.install()
        add_options(loader, self._default_rules)
        # Before there can be rules: `running` comes when clients may have sent requests already.
        self._observe()

    def configure(self, updated: set[str]) -> None:
        self.rules_watcher.configure(updated)
        if updated & {"mode", "connection_strategy"} and (warning := eager_warning(ctx.options)):
            logger.warning(warning)

    def running(self) -> None:
        for line in unknown_options(ctx.options):
            logger.warning(line)
        self.rules_watcher.start()
        self._silence_watch = asyncio.get_running_loop().create_task(self._watch_silence())
        self.can_send = self._stream_layer is not None
        # A full collection of garbage would look at all that mitmproxy consists of, for 40 to 100 ms in which nobody is
        # served. What a load before this one left is freed first.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def done(self) -> None:
        contentview.unregister()
        listeners.uninstall()
        self.rules_watcher.stop()
        self._kept.clear()
        if self._silence_watch is not None:
            self._silence_watch.cancel()
        if self._stream_layer is not None and self._stream_layer in ctx.master.addons.chain:
            ctx.master.addons.remove(self._stream_layer)

    def _observe(self) -> None:
        self._stream_layer = _stream_layer(self._wait_of, self._respond_late, self._pass_on)
        if self._stream_layer is not None:
            ctx.master.addons.add(self._stream_layer)
            self._roles.update({flow: Waiting(wait) for flow, wait in self._stream_layer.take_over().items()})

    def _wait_of(self, flow: http.HTTPFlow) -> ClientWait | None:
        role = self._roles.get(flow)
        if isinstance(role, LiveCopy) or (role is None and cors.page_of(flow)):
            # It has no limits, but its upstream's interim responses and GOAWAYs are handled as usual, and a page of
            # another origin can read why there is no response.
            return (isinstance(role, LiveCopy) and role.wait) or ClientWait(UNLIMITED)
        return None if role is None else role.wait

    # What commands and the page need

    @property
    def learned(self) -> list[str]:
        """What upstreams have said about streaming, one line each; and how much is kept for clients that gave up."""
        return self._retries.learned.lines() + self._kept.lines()

    @property
    def stats(self) -> Stats:
        """The figures of all flows that have ended. To be asked for on the event loop."""
        self._count_answers()
        return self._stats

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self.rules_watcher.rules

    @property
    def healthy(self) -> bool:
        """Whether rules are in force, and their file is watched."""
        return self.rules_watcher.healthy

    @property
    def enabled(self) -> bool:
        """Whether the master switch is on."""
        return bool(ctx.options.force_stream)

    def in_flight(self) -> list[dict[str, Any]]:
        """The figures of the flows that are under way, the newest first."""
        return figures(self._observed())

    def _observed(self) -> Iterator[tuple[http.HTTPFlow, Observer]]:
        """The flows under way, each with what observes it."""
        for flow, role in list(self._roles.items()):
            if isinstance(role, LiveCopy):
                yield flow, role
            elif role.wait is not None and role.wait.attempt is not None and not role.wait.retrying:
                yield flow, role.wait.attempt

    async def _watch_silence(self) -> None:
        watch = SilenceWatch()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                for line in watch.lines(self._observed()):
                    logger.warning(line)
            except Exception as error:
                _log_bug("silent flows are not reported", error)

    async def send_attempt(self, flow: http.HTTPFlow, attempt: Attempt | None) -> None:
        """Send a flow's request upstream; returns when it has its answer. Without an attempt, that answer is left
        unchanged."""
        assert self._stream_layer is not None
        self._roles[flow] = Own(None if attempt is None else ClientWait(UNLIMITED, attempt))
        try:
            await self._stream_layer.send_attempt(flow, ctx.options)
        finally:
            self._roles.pop(flow, None)  # a person may replay it

    # Hooks

    async def request(self, flow: http.HTTPFlow) -> None:
        if flow.response or flow.error or not flow.live or not ctx.options.force_stream:
            return
        if isinstance(self._roles.get(flow), Own):
            return  # it was prepared before it was sent
        try:
            if bodies.header(flow.request, b"origin"):
                cors.admit(flow, self.rules)
            if flow.response is None:
                await self._force(flow)
        except Exception as error:
            _log_bug("the request went out as it came", error)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        role, head = self._roles.get(flow), flow.response
        if isinstance(role, (Waiting, Watched)) and head and _goes_on_live(role.wait, head):
            self._pass_on(flow)
        _share(flow)

    def _pass_on(self, flow: http.HTTPFlow) -> None:
        """Give a client the event stream that it asked for as it comes; mitmproxy would hold it back until its end."""
        role, head = self._roles.get(flow), flow.response
        if not isinstance(role, (Waiting, Watched)) or head is None:
            return
        wait, attempt = role.wait, role.wait.attempt
        assert attempt is not None
        wait.reply_made = True  # by the upstream
        if isinstance(role, Waiting) and role.kept is not None:
            self._kept.finish(role.kept, kept_answers.NOTHING)  # only what is made of a document is kept
        if attempt.plain:
            logger.info(
                f"{wait.rule.name}: asked for a plain answer, the upstream streams all the same: passed on live"
            )
        wait.guard = _guard(wait, attempt, head)
        copy = self._roles[flow] = LiveCopy(wait.rule.max_body, attempt.spec, wait if wait.guard else None)
        head.stream = head.stream or copy

    async def response(self, flow: http.HTTPFlow) -> None:
        role = self._roles.pop(flow, None)
        wait = None if role is None or isinstance(role, LiveCopy) else role.wait
        if wait is not None:
            wait.reply_made = True
        # A killed flow is over; an error alone, which a script may set, does not stop mitmproxy.
        if flow.response and (flow.live or not flow.error):
            await self._respond(flow, role, wait)
        self._finish(flow, role)

    async def _respond_late(self, flow: http.HTTPFlow) -> None:
        """The same, if mitmproxy did not call our hook because a script failed in its own."""
        if flow in self._roles:
            await self.response(flow)

    async def _respond(self, flow: http.HTTPFlow, role: Role | None, wait: ClientWait | None) -> None:
        assert flow.response is not None
        try:
            if not flow.live:
                await self._read_from_file(flow)
            elif isinstance(role, Joined):
                await self._give_kept(flow, role)
            elif isinstance(role, (Waiting, Watched, Own)):
                await self._answer_as(flow, role)
            elif was_made_to_stream(flow) and not noted(SSE, flow):
                # It was forced before a reload of the addon, and nothing observes it now.
                await self._answer(flow, Attempt(spec_of(flow), UNLIMITED))
            else:
                if isinstance(role, LiveCopy):
                    await self._conclude(flow, role)
                await self._explain(flow)
            if wait is not None and wait.headers_sent:
                await bodies.decode(flow.response)  # nothing told the client of an encoding
        except Exception as error:
            _log_bug("the client gets an error", error)
            response.set_reply(flow, response.fault())
        _share(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        role = self._roles.pop(flow, None)
        if not flow.error:
            return
        try:
            if role is None:
                if why := explain.why_nowhere(flow):
                    logger.warning(why)
                elif not flow.live and ctx.options.force_stream_aggregate and (cause := CAUSE.of(flow)):
                    # It is from a file, and nobody got an answer that could be made again.
                    logger.warning(f"{_about(flow)}: {printable(cause, LONGEST_REASON)}")
            elif isinstance(role, LiveCopy):
                message = (
                    printable(plainly(flow.error.msg), LONGEST_REASON) if flow.client_conn.connected else _CLIENT_LEFT
                )
                self._count_own_stream(flow, role, message)
            elif not isinstance(role, Watched) and role.wait is not None and (attempt := role.wait.attempt) is not None:
                gone = role.wait.client_gone or not flow.client_conn.connected
                logger.warning(summary.describe_error(flow, attempt, flow.error.msg, gone=gone))
                self.stats.add(flow_record.of_attempt(flow, attempt))
        except Exception as error:
            _log_bug("the flow has no comment", error)
        self._finish(flow, role)

    # Requests

    async def _force(self, flow: http.HTTPFlow) -> None:
        replayed = flow.is_replay == "request" and was_made_to_stream(flow)
        if replayed or (flow.is_replay == "request" and was_made_plain(flow)):
            try:
                request.restore(flow)  # the rules may say something else now
            except UnreadableFlow as why:
                logger.warning(
                    f"{_about(flow)}: sent again as it was forced, because the original request is not known: {why}"
                )
                self._roles[flow] = Own(None)
                return
        hosts, path = request.hosts_of(flow), flow.request.path
        # Only a body that a rule may match is parsed; for all other traffic only the host and path are compared.
        found = candidates(self.rules, hosts, path)
        if not found or flow.request.method != "POST":
            return
        if flow.request.stream:
            self._note_streamed(flow, found)
            return
        limit = max(rule.max_body for rule, _ in found)
        read = await request.read_request(flow, limit)
        if read is None:
            _note_undecoded(flow, found, limit)
            return
        body, model = read
        match = first_match(found, body.members, flow)
        if match is None:
            return
        rule, endpoint = match
        self.flow_counts[rule.name] += 1
        in_force = rule
        if not self._retries.all_learned.is_empty:
            rule = self._retries.adapted(rule, flow, model, endpoint)
        must_stream = rule.learn and body.asks_plain and self._retries.must_stream(flow, model, endpoint)
        is_forced = rule.force_upstream_stream or must_stream
        if is_forced or (rule.watches_streams and not body.asks_plain):
            key = b""
            if rule.keep_answers is not None and flow.is_replay is None:
                # mitmproxy puts that in place of the client's own.
                own = getattr(ctx.options, "upstream_auth", None) is None
                key = await bodies.read(flow.request, partial(kept_answers.key_of, flow, in_force, has_own_keys=own))
            if is_forced and (body.asks_plain or replayed):
                role = await self._forced(flow, body, rule, endpoint)
            else:
                role = await self._streaming(flow, body, rule, endpoint)
            if key and isinstance(role, Waiting):
                role = self._join_or_keep(flow, role.wait, key, in_force)
            if role is not None:
                self._roles[flow] = role
        elif rule.learn and body.asks_plain:
            self._roles[flow] = self._watched(body, rule, endpoint)

    async def _forced(self, flow: http.HTTPFlow, body: Body | Form, rule: Rule, endpoint: Endpoint) -> Role | None:
        """The role of a flow whose rule forces it; None if it is left alone."""
        why = "" if self._retries.all_learned.is_empty else self._retries.why_plain(flow, body, endpoint)
        try:
            if why:
                spec, _ = await bodies.read(flow.request, partial(request.forced_form, flow, body, rule, endpoint))
            else:
                spec = await bodies.read(flow.request, partial(request.force, flow, body, rule, endpoint))
        except Refusal as reason:
            _leave(flow, rule, endpoint, str(reason))
            return self._watched(body, rule, endpoint)
        if spec is None:
            return None
        if why:
            save_notes(flow, {"left_alone": why}, spec)  # a document: what has another answer is left alone above
            logger.info(f"{rule.name} {endpoint.name}: left as it came: {why}")
        return Waiting(ClientWait(rule, Attempt(spec, rule, plain=bool(why))))

    async def _streaming(self, flow: http.HTTPFlow, body: Body | Form, rule: Rule, endpoint: Endpoint) -> Role:
        """The role of a flow whose client asks for a stream."""
        if self._is_to_be_plain(flow, body, rule, endpoint):
            try:
                made = partial(request.make_plain, flow, body, rule, endpoint)
                spec, asked = await bodies.read(flow.request, made)
                return Waiting(ClientWait(rule, Attempt(spec, rule, plain=True, asked=asked)))
            except Refusal as reason:
                _leave(flow, rule, endpoint, str(reason))
        else:
            save_notes(flow, {"rule": rule.name, "endpoint": endpoint.name})
        spec, asked = request.stream_spec_for(body, rule, endpoint), request.stream_asked_of(flow, body, endpoint)
        limits = UNLIMITED
        if rule.guard_streams:
            limits = replace(UNLIMITED, timeout=rule.timeout, idle_timeout=rule.idle_timeout, heartbeat=rule.heartbeat)
        return Watched(ClientWait(rule, Attempt(spec, limits, asked=asked)))

    def _is_to_be_plain(self, flow: http.HTTPFlow, body: Body | Form, rule: Rule, endpoint: Endpoint) -> bool:
        """Whether a request for a stream is sent as a plain one, by its rule or by what its upstream has said."""
        if rule.learn and not self._retries.all_learned.is_empty:
            if self._retries.must_stream(flow, request.model_of(body), endpoint):
                return False
            if self._retries.why_plain(flow, body, endpoint):
                return True
        return rule.force_upstream_plain

    def _watched(self, body: Body | Form, rule: Rule, endpoint: Endpoint) -> Watched:
        spec, limits = request.spec_for(body, rule, endpoint), replace(UNLIMITED, max_body=rule.max_body)
        return Watched(ClientWait(rule, Attempt(spec, limits, plain=True)))

    # Answers whose clients gave up

    def _join_or_keep(self, flow: http.HTTPFlow, wait: ClientWait, key: bytes, rule: Rule) -> Role:
        kept = self._kept.join(key, wait)
        if kept is None:
            return Waiting(wait, self._kept.begin(key, rule, wait))
        # It needs no connection, so that mitmproxy comes to its `response` hook at once.
        attempt, wait.attempt, wait.retrying = wait.attempt, None, True
        flow.response = response.ended()
        return Joined(wait, kept, flow.response, attempt)

    def _finish(self, flow: http.HTTPFlow, role: Role | None) -> None:
        if not isinstance(role, Waiting) or role.kept is None:
            return
        wait, kept = role.wait, role.kept
        answer = None if flow.error or flow.response is None else flow.response.copy()
        attempt = wait.attempt
        assert attempt is not None
        failed = None if answer is not None and response.is_whole(answer, attempt) else attempt
        if self._kept.finish(kept, kept_answers.Outcome(flow.id, flow.comment, flow.marked, answer, failed)):
            said = f"the client gave up; kept for {wait.rule.keep_answers:g} s"
            flow.comment += f"; {said}"
            flow.marked = flow.marked or response.MARK
            attempt.report.odd.append(said)  # for the page, which is notified next
            logger.info(f"{wait.rule.name}: {said}, for the same request")

    async def _give_kept(self, flow: http.HTTPFlow, role: Joined) -> None:
        given, stand_in = flow.response, role.stand_in
        if given and given is not stand_in and given.raw_content != stand_in.raw_content:
            # Another addon's. One that has only been copied, or reverted, is the same.
            role.wait.attempt = role.attempt
            await self._answer_as(flow, Waiting(role.wait))
            return
        outcome = await role.kept.outcome
        if outcome is kept_answers.NOTHING:
            flow.response = response.ended(", because the addon was reloaded")
        if role.wait.client_gone or outcome.response is None:
            return
        flow.response = outcome.response.copy()
        flow.comment = f"{outcome.comment}; kept from an identical request whose client gave up"
        flow.marked = outcome.marked
        save_notes(flow, {"answered_by": outcome.flow_id})
        logger.info(flow.comment)
        if outcome.failed is not None and self.can_send:
            role.wait.attempt = outcome.failed
            await self._retries.retry(flow, role.wait)

    # Answers

    async def _read_from_file(self, flow: http.HTTPFlow) -> None:
        if not ctx.options.force_stream_aggregate:
            return
        try:
            body = await bodies.read(flow.response, partial(response.upstreams_body, flow))
            if body is not None:
                await aggregate_again(flow, body, self.rules)
        except UnreadableFlow as why:
            logger.warning(f"{_about(flow)}: its saved answer is left unchanged: {why}")
        except Exception as error:
            _log_bug("a saved answer is left unchanged", error)

    async def _answer_as(self, flow: http.HTTPFlow, role: Waiting | Watched | Own) -> None:
        """Make the answer that of the client, or of the attempt to which the flow belongs."""
        wait, attempt = role.wait, None if role.wait is None else role.wait.attempt
        if wait is None or attempt is None or flow.response is None:
            return
        is_upstreams = self._stream_layer is None or (attempt.observed and attempt.is_final)
        is_changed = not is_upstreams or (attempt.observed and not response.is_as_received(flow.response, attempt))
        if is_changed and not (is_upstreams and attempt.plain) and not response.streams(flow.response):
            if not isinstance(role, Watched):
                line = summary.describe_as_it_is(flow, attempt, "answered by another addon")
                logger.log(_level(flow), line)
            return
        if is_changed and attempt.observed:
            await response.read_instead(flow.response, attempt)
        is_whole = attempt.complete or not attempt.observed
        goes_through = attempt.goes_through and is_whole and not response.streams(flow.response)
        if not goes_through:
            if attempt.goes_through:
                save_notes(flow, {}, attempt.spec)
            await self._answer(flow, attempt)
        elif not isinstance(role, Watched):
            self._log_and_count(flow, attempt, summary.describe_as_it_is(flow, attempt, "sent plain"))
        if isinstance(role, Own) or not is_upstreams:
            return
        if not attempt.answered and self.can_send:
            await self._retries.retry(flow, wait)
        elif attempt.answered and attempt.goes_through and not is_changed:
            await self._retries.learn_stream(flow, wait.rule, attempt.spec.endpoint)
        if goes_through and isinstance(role, Watched):
            await self._explain(flow)

    async def _explain(self, flow: http.HTTPFlow) -> None:
        """Log why a request that failed was not forced, unless that was logged when it came, or another try answered
        it."""
        if LEFT_ALONE.of(flow) is not None or ANSWERED_BY.of(flow):
            return
        explained = partial(explain.why_not_forced, flow, self.rules, enabled=ctx.options.force_stream)
        if why := await bodies.read(flow.request, explained):
            logger.warning(why)

    async def _answer(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        if not attempt.observed and not response.observe_whole(flow, attempt):
            logger.warning(
                f"{attempt.spec.rule} {attempt.spec.endpoint}: the answer was passed through unchanged, because "
                "mitmproxy streamed it. Unset or raise the option stream_large_bodies, and have your scripts leave "
                "flow.response.stream alone."
            )
            return
        decoded = await self._decoded(flow, attempt) if attempt.encoded else None
        reply = await attempt.finish_aside(decoded)
        if attempt.fault is not None:
            _log_bug("the client gets an error", attempt.fault)
        if reply is not None or not attempt.is_own_stream:
            response.store_answer(flow, attempt, decoded)
        if reply is not None:
            assert flow.response is not None
            if attempt.observed and attempt.response_started and flow.response.status_code != attempt.status:
                reply = replace(reply, status=flow.response.status_code)  # another addon's
            response.set_reply(flow, reply)
        else:
            response.pass_through(flow, attempt)
        try:
            self._log_and_count(flow, attempt, summary.summarize(flow, attempt))
        except Exception as error:
            _log_bug("the flow has no comment", error)  # the answer is as it should be

    async def _decoded(self, flow: http.HTTPFlow, attempt: Attempt) -> bytes:
        """The body of an encoded answer, unless it is larger than the rule's max_body."""
        assert flow.response is not None
        coding, limit = flow.response.headers.get("content-encoding", ""), attempt.rule.max_body
        limit = bodies.MOST_DECODED if limit == UNLIMITED.max_body else limit

        def work() -> bytes:
            decoded, is_broken = decode_noting(attempt.body(), coding, limit)
            if is_broken:
                attempt.cut(bodies.broken(coding))
                attempt.undecodable = not decoded
            attempt.decode_times(partial(decoded_sizes, attempt.body(), coding, limit))
            return decoded

        try:
            return await aside.run(work)
        except TooLarge:
            attempt.fail(OversizedStream(f"the upstream's answer is larger than {limit:,} bytes"))
        except MissingDecoder as error:
            attempt.fail(
                UnreadableEncoding(f"the upstream compressed its answer with {printable(coding)}, but {error}")
            )
        return b""

    def _note_streamed(self, flow: http.HTTPFlow, found: Sequence[Match]) -> None:
        """Log why a request was left as it came that had been sent before it could be changed, if a rule might have
        changed it; and once for each rule, what to do about it."""
        if (might := _might_change(found)) is None:
            return
        rule, endpoint = might
        _leave(flow, rule, endpoint, "mitmproxy streamed its body")
        if rule.name not in self._warned:
            self._warned.add(rule.name)
            logger.warning(
                f"{rule.name}: requests whose bodies mitmproxy streams cannot be forced. Unset or raise the option "
                "stream_large_bodies, and have your scripts leave flow.request.stream alone."
            )

    # Figures

    def _log_and_count(self, flow: http.HTTPFlow, attempt: Attempt, line: str) -> None:
        """Log a line, and have the figures kept once somebody wants to see them, or some have come together."""
        logger.log(_level(flow), line)
        if not self._uncounted:
            asyncio.get_running_loop().call_later(_COUNT_AFTER, self._count_answers)
        self._uncounted.append((flow, attempt, time.time()))
        if len(self._uncounted) > _MOST_UNCOUNTED or attempt.size > _LARGEST_UNCOUNTED:
            asyncio.get_running_loop().call_soon(self._count_answers)

    def _count_answers(self) -> None:
        answers, self._uncounted = self._uncounted, []
        for flow, attempt, answered in answers:
            self._count(flow_record.of_attempt, flow, attempt, answered)

    def _count(self, outcome_of: Callable[..., Outcome], *of_what: object) -> None:
        try:
            self._stats.add(outcome_of(*of_what))
        except Exception as error:
            _log_bug("a flow is missing from the figures", error)

    async def _conclude(self, flow: http.HTTPFlow, copy: LiveCopy) -> None:
        """Decide how a client's own stream ends for it, and keep and count it."""
        cut, guard = "", copy.guard
        if guard is not None and flow.response is not None and flow.response.stream is copy:
            await guard.conclude()
            cut = guard.attempt.cut_by or guard.attempt.limit
            if guard.error:
                logger.info(f"{copy.spec.rule}: the stream came to no end, and its client gets an error event")
        self._count_own_stream(flow, copy, cut)
        await self._retries.learn_refusal(flow, copy.spec)

    def _count_own_stream(self, flow: http.HTTPFlow, copy: LiveCopy, cut: str = "") -> None:
        """Keep a stream that the client itself asked for, and count its outcome, once the client has it."""
        copy.store(flow)
        if cut:
            save_notes(flow, {"cut_by": cut})
        if not copy.is_empty:
            task = aside.run(partial(flow_record.of_own_stream, flow, copy.spec, copy.limit, cut))
            self._counting.add(task)
            task.add_done_callback(partial(self._count_when_read, flow))

    def _count_when_read(self, flow: http.HTTPFlow, task: asyncio.Future[Outcome]) -> None:
        self._counting.discard(task)
        if task.cancelled():
            return
        self._count(task.result)
        try:
            self._tell_of_own_stream(flow, task.result())
        except Exception as error:
            _log_bug("the flow has no comment", error)

    def _tell_of_own_stream(self, flow: http.HTTPFlow, outcome: Outcome) -> None:
        if not outcome.cause:
            return
        # A client that closes its own stream has often enough.
        marked = CUT_BY.of(flow) != _CLIENT_LEFT
        about = f"{outcome.rule}: {outcome.endpoint} {outcome.model}".rstrip()
        line = summary.describe_own_stream(flow, about, outcome.cause, marked=marked)
        logger.log(logging.WARNING if marked else logging.INFO, line)
        ctx.master.addons.trigger(UpdateHook([flow]))


def _level(flow: http.HTTPFlow) -> int:
    """A flow that is marked is worth a look."""
    return logging.WARNING if flow.marked else logging.INFO


def _goes_on_live(wait: ClientWait, head: http.Response) -> bool:
    """Whether an upstream sends the events that its client asked for, as it gets them: after a heartbeat nothing can
    tell the client of an encoding. What has a length is hardly a stream: how it begins will say."""
    if wait.attempt is None or wait.asked is None or wait.client_gone:
        return False
    if head.stream:
        return wait.attempt.is_own_stream  # another addon has it streamed
    if not response.is_event_stream(head) or "content-length" in head.headers:
        return False
    return not (wait.headers_sent and bodies.is_encoded(head))


def _guard(wait: ClientWait, attempt: Attempt, head: http.Response) -> Guard | None:
    """What watches over a stream from now on, if its rule says so and events can be added to it."""
    if wait.asked is None or not wait.rule.guard_streams or head.stream or not response.is_event_stream(head):
        return None
    if bodies.is_encoded(head) or ("content-length" in head.headers and not wait.headers_sent):
        return None
    guard = Guard(attempt, wait.asked, wait.rule.max_body, wait.said)
    attempt.start_response(head.status_code, head.headers.get("content-type", ""), fields=head.headers.fields)
    return guard


def _share(flow: http.HTTPFlow) -> None:
    if flow.live and flow.response:
        cors.share(flow, flow.response)


def _about(flow: http.HTTPFlow) -> str:
    return printable(flow.request.path.partition("?")[0])


def _note_undecoded(flow: http.HTTPFlow, found: Sequence[Match], limit: int) -> None:
    """Log why an encoded request was left as it came, if a rule might have changed it."""
    might = _might_change(found)
    if might is None or not bodies.is_encoded(flow.request):
        return
    coding = printable(flow.request.headers["content-encoding"])
    why = f"its body ({coding}) is not a JSON object or a form of at most {limit:,} bytes"
    _leave(flow, *might, why)


def _might_change(found: Sequence[Match]) -> Match | None:
    """The first of the rules that match by host and path that would change a request."""
    return next((match for match in found if match[0].forces or match[0].learn), None)


def _leave(flow: http.HTTPFlow, rule: Rule, endpoint: Endpoint, why: str) -> None:
    """Log and note that a matched request goes out as it came."""
    save_notes(flow, {"rule": rule.name, "endpoint": endpoint.name, "left_alone": why})
    logger.info(f"{rule.name} {endpoint.name}: left as it came: {why}")


def _stream_layer(
    wait_of: Callable[[http.HTTPFlow], ClientWait | None],
    respond: Callable[[http.HTTPFlow], Awaitable[None]],
    pass_on: Callable[[http.HTTPFlow], None],
) -> "StreamLayerAddon | None":
    """What observes answers below the hooks; None, and a warning, if this version of mitmproxy differs there."""
    try:
        from ..proxy import stream_layer

        problem = stream_layer.check()
        if not problem:
            return stream_layer.StreamLayerAddon(wait_of, respond, pass_on)
    except (ImportError, AttributeError, TypeError) as error:
        problem = f"{error}"
    logger.warning(
        f"force-stream: this version of mitmproxy differs below its hooks ({problem}). Answers are still aggregated, "
        "but one that is cut off gives mitmproxy's own error page, and timeout, idle_timeout, heartbeat, retries, "
        "learn, keep_answers and inject do nothing."
    )
    return None


def _log_bug(outcome: str, error: Exception) -> None:
    # The message of an exception may quote a body, so the log only names its type; the traceback is at debug level.
    logger.error(f"force-stream: a bug in the addon, {outcome}: {type(error).__name__}. Details at debug level.")
    logger.debug("force-stream: the bug's traceback", exc_info=error)
