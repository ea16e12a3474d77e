"""The addon's main object: options, the rules in force, and the hooks that traffic runs through.

Knows mitmproxy: options, hooks, flows. Must not know JSON, server-sent events or any endpoint. Nothing raises out of a
hook, and nothing that is logged or kept on a flow holds a credential.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakSet

import mitmproxy.types
from mitmproxy import command, ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.command_lexer import quote
from mitmproxy.log import ALERT
from mitmproxy.options import Options

from ..answer.forcing import Refusal
from ..answer.reader import AnswerSpec
from ..errors import OversizedStream, UnreadableEncoding
from ..proxy import flows, summary
from ..proxy.explain import why_not_forced
from ..proxy.must_stream import rule_to_paste
from ..proxy.retry_policy import delay
from ..proxy.watch import Watch
from ..rules.describe import changes, describe
from ..rules.file import RulesError, parse_rules, with_value
from ..rules.keys import KEYS
from ..rules.rule import HOSTS_OPTION, UNLIMITED, RequestFacts, Rule, first_match
from ..view import contentview, flow_record
from ..view.stats import Stats
from ..wire import json_body
from ..wire.encodings import MissingDecoder, TooLarge, decode
from .commands import aggregate_again

if TYPE_CHECKING:
    from ..endpoints.endpoint import Endpoint
    from ..proxy.stream_layer import StreamLayerAddon
    from ..wire.form_body import Form
    from ..wire.json_body import Body

logger = logging.getLogger("force_stream")

# Seconds between two looks at the rules file; a change is to take effect within two.
WATCH_INTERVAL: Final = 0.5


class ForceStream:
    """The addon. `rules` are those in force; `taken` counts the flows of each by name, over all reloads."""

    def __init__(self, default_rules: Path) -> None:
        """`default_rules`: the rules file where the option names no other; it may be missing."""
        self.rules: tuple[Rule, ...] = ()
        self.flow_counts: Counter[str] = Counter()
        self.stats = Stats()
        self._default_rules = default_rules
        self._file_rules: tuple[Rule, ...] | None = None
        self._watches: WeakKeyDictionary[http.HTTPFlow, Watch] = WeakKeyDictionary()
        self._learned: set[tuple[str, str | None]] = set()
        self._learning: WeakKeyDictionary[http.HTTPFlow, tuple[Rule, Watch]] = WeakKeyDictionary()
        self._sent: WeakSet[http.HTTPFlow] = WeakSet()
        self._live_copies: WeakKeyDictionary[http.HTTPFlow, flows.LiveCopy] = WeakKeyDictionary()
        self._host_rules: tuple[Rule, ...] = ()
        self._seen: tuple[int, ...] | None = None
        self._missing = True
        self._watcher: asyncio.Task[None] | None = None
        self._counting: set[asyncio.Task[None]] = set()
        self._stream_layer: StreamLayerAddon | None = None

    # Life

    def load(self, loader: Loader) -> None:
        contentview.register()
        loader.add_option("force_stream", bool, True, "Force upstream streaming by the rules; off: no flow is touched.")
        loader.add_option(
            "force_stream_rules",
            str,
            str(self._default_rules),
            "The file with the rules for forced upstream streaming; empty: none.",
        )
        loader.add_option(
            HOSTS_OPTION,
            Sequence[str],
            [],
            "Hosts whose requests are forced without a rules file, as in a rule's hosts; tried after the file's rules.",
        )
        loader.add_option(
            "force_stream_aggregate",
            bool,
            False,
            "Aggregate the kept event streams of flows that are read from a file again, by the rules as they are now.",
        )

    def configure(self, updated: set[str]) -> None:
        if "force_stream_hosts" in updated:
            self._read_hosts(ctx.options.force_stream_hosts)
        if "force_stream_rules" in updated:
            self._read_rules()
        elif "force_stream_hosts" in updated:
            self._put_in_force()
        if updated & {"mode", "connection_strategy"}:
            reverse = any(mode.startswith("reverse:") for mode in ctx.options.mode)
            if reverse and ctx.options.connection_strategy == "eager":
                logger.warning(
                    "In reverse mode with connection_strategy=eager, mitmproxy closes the client's connection without "
                    "an answer when the upstream cannot be reached. --set connection_strategy=lazy gives a clear 502."
                )

    def running(self) -> None:
        for line in unknown_options(ctx.options):
            logger.warning(line)
        self._watcher = asyncio.get_running_loop().create_task(self._watch_file())
        self._stream_layer = _stream_layer(self._watches.get, self._waiting)
        if self._stream_layer is not None:
            ctx.master.addons.add(self._stream_layer)
            proxyserver = ctx.master.addons.get("proxyserver")
            self._watches.update(self._stream_layer.take_over(getattr(proxyserver, "connections", {}).values()))

    def done(self) -> None:
        contentview.unregister()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._stream_layer is not None and self._stream_layer in ctx.master.addons.chain:
            ctx.master.addons.remove(self._stream_layer)

    # The rules file

    @property
    def _path(self) -> Path | None:
        """The rules file; None where the option names none."""
        named = ctx.options.force_stream_rules
        if not named:
            return None
        try:
            return Path(named).expanduser()
        except RuntimeError:  # a ~user that nobody is
            return Path(named)

    def _read_rules(self) -> bool:
        """Put the file's rules in force. Where it has a mistake, one line says so and the rules in force stay; at the
        start mitmproxy exits with that line."""
        path = self._path
        self._seen = None if path is None else _signature(path)
        self._missing = self._seen is None and path is not None and path != self._default_rules
        if path is None or not (self._seen or self._missing):
            self._put_in_force(())
            return True
        try:
            rules = parse_rules(path.read_text(encoding="utf-8-sig"), path.name)
        except RulesError as error:
            logger.error(f"{error}")
            return False
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            logger.error(f"{path}: the rules cannot be read: {reason}. Set force_stream_rules to a file with rules.")
            return False
        if self._file_rules is None and rules:
            noun = "rule" if len(rules) == 1 else "rules"
            logger.info(f"{len(rules)} {noun} from {path}: {', '.join(rule.name for rule in rules)}")
        self._put_in_force(rules)
        return True

    def _read_hosts(self, hosts: Sequence[str]) -> None:
        """Make the option's hosts a rule. OptionsError for one that is not a host."""
        try:
            self._host_rules = (Rule(HOSTS_OPTION, tuple(hosts), force_upstream_stream=True),) if hosts else ()
        except ValueError as error:
            problem = (
                f"{HOSTS_OPTION}: {error}; write a host as in llm.example.com, *.example.ai or 10.0.0.5:8000, without "
                "scheme and path"
            )
            if self._file_rules is not None:
                raise exceptions.OptionsError(problem) from error
            logger.error(problem)  # while it starts, an exception would be a traceback; mitmproxy exits with this line

    def _put_in_force(self, file_rules: tuple[Rule, ...] | None = None) -> None:
        """The file's rules (None: as they are), and behind them the option's hosts."""
        first = self._file_rules is None
        if file_rules is not None:
            self._file_rules = file_rules
        rules = (*(self._file_rules or ()), *self._host_rules)
        if not first:
            for line in changes(self.rules, rules):
                logger.info(line)
        self.rules = rules
        if not any(rule.force_upstream_stream or rule.learn for rule in rules):
            # The default file came with the addon, and an update would take an edit of it away.
            own = self._path if self._path != self._default_rules else None
            where = f"set force_upstream_stream: true in a rule of {own}, or " if own else ""
            logger.warning(
                f"force-stream: no rule forces anything, so every request goes out as it came. To change that, {where}"
                f"name the upstream: --set {HOSTS_OPTION}=llm.example.com"
            )

    def change_rule(self, name: str, values: Mapping[str, str]) -> list[str]:
        """Change keys of one rule, all or none, until the rules file changes. `values`: as the file would have them.
        Returns the lines that were logged; raises KeyError for an unknown rule, RulesError for a mistake."""
        found = next((known for known in self.rules if known.name == name), None)
        if found is None:
            raise KeyError(name)
        changed = found
        for key, value in values.items():
            changed = with_value(changed, key, value)
        rules = tuple(changed if known is found else known for known in self.rules)
        lines = changes(self.rules, rules)
        for line in lines:
            logger.log(ALERT, line)  # as all that came of a command
        self.rules = rules
        return lines

    @property
    def healthy(self) -> bool:
        """Whether rules are in force, and their file is watched."""
        return not self._missing and self._watcher is not None and not self._watcher.done()

    @property
    def enabled(self) -> bool:
        """Whether the master switch is on."""
        return bool(ctx.options.force_stream)

    async def _watch_file(self) -> None:
        before = self._seen
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            # An editor leaves a moment without the file, with an empty one or half of one: it is read when it is there
            # and no longer changes.
            path = self._path
            signature = None if path is None else _signature(path)
            if signature is not None and signature == before != self._seen:
                self._read_rules()
            before = signature

    # Hooks

    async def request(self, flow: http.HTTPFlow) -> None:
        if flow.response or flow.error or not flow.live or not ctx.options.force_stream:
            return
        try:
            await self._force(flow)
        except Exception as error:
            _log_fault("the request went out as it came", error)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        tee = self._live_copies.get(flow)
        if tee is not None and flow.response and not flow.response.stream and 200 <= flow.response.status_code < 300:
            # mitmproxy would hold the client's own event stream back until its end.
            flow.response.stream = tee

    async def response(self, flow: http.HTTPFlow) -> None:
        tee = self._live_copies.pop(flow, None)
        watch = self._watches.pop(flow, None)
        if flow.error or not flow.response:
            return
        try:
            if not flow.live:  # read from a file
                stream = flows.event_stream(flow) if ctx.options.force_stream_aggregate else None
                if stream is not None:
                    aggregate_again(flow, stream, self.rules)
                return
            if tee is not None:
                flows.store_live_copy(flow, tee)
                self._count(flow, tee)
            if watch is None:
                spec = flows.spec_of(flow)
                watch = Watch(spec, UNLIMITED) if spec is not None else None
            learning = self._learning.pop(flow, None)
            if learning is not None:
                await self._learn(flow, *learning)
            if watch is not None:
                await self._answer(flow, watch)
                if watch.rule.retries:
                    await self._try_again(flow, watch)
            elif not flows.was_left_alone(flow) and flow not in self._sent:
                await self._say_why_not(flow)
        except Exception as error:
            _log_fault("the client gets an error", error)
            flows.set_reply(flow, flows.fault())

    async def _say_why_not(self, flow: http.HTTPFlow) -> None:
        explain = partial(why_not_forced, flow, self.rules, enabled=ctx.options.force_stream)
        heavy = len(flow.request.raw_content or b"") > json_body.BLOCKS_LOOP
        if why := await asyncio.to_thread(explain) if heavy else explain():
            logger.warning(why)

    def error(self, flow: http.HTTPFlow) -> None:
        tee = self._live_copies.pop(flow, None)
        watch = self._watches.pop(flow, None)
        try:
            if tee is not None and flow.error:
                flows.store_live_copy(flow, tee)
                self._count(flow, tee, flow.error.msg)
            if watch is not None and flow.error:
                logger.warning(summary.describe_error(flow, watch, flow.error.msg))
                self.stats.add(flow_record.of_no_answer(flow, watch))
        except Exception as error:
            _log_fault("the flow has no comment", error)

    async def _force(self, flow: http.HTTPFlow) -> None:
        if flow in self._sent:
            return  # our own: it is as it shall be
        replayed = flows.was_forced(flow)
        if replayed:
            flows.restore(flow)  # the rules may say something else now
        hosts = flows.hosts_of(flow)
        path = flow.request.path
        # Only what may fall under a rule is parsed; all other traffic costs a look at its host.
        rules = [rule for rule in self.rules if rule.is_for_host(hosts) and rule.endpoint(path)]
        raw = flows.readable_body(flow) if rules and flow.request.method == "POST" else None
        if raw is None:
            return
        heavy = len(raw) > json_body.BLOCKS_LOOP
        body = await asyncio.to_thread(flows.body_of, flow) if heavy else flows.body_of(flow)
        if body is None:
            return
        rule = first_match(rules, RequestFacts(hosts, path, flows.model_of(body), flow))
        if rule is None:
            return
        self.flow_counts[rule.name] += 1
        endpoint = rule.endpoint(path)
        if endpoint is None or not self._forces(flow, rule, endpoint, body):
            return
        if not body.asks_plain and not replayed:
            self._live_copies[flow] = flows.LiveCopy(rule.max_body, flows.spec_for(body, rule, endpoint))
            flows.note_rule(flow, rule.name, endpoint.name)
            return
        try:
            spec = flows.force(flow, body, rule)
        except Refusal as reason:
            flows.note_rule(flow, rule.name, endpoint.name, left_alone=str(reason))
            logger.info(f"{rule.name} {endpoint.name}: left as it came: {reason}")
            return
        if spec is not None:
            self._watches[flow] = Watch(spec, rule)

    def _forces(self, flow: http.HTTPFlow, rule: Rule, endpoint: "Endpoint", body: "Body | Form") -> bool:
        """Whether a rule forces a flow: because it says so, or because its upstream did."""
        if rule.force_upstream_stream:
            return True
        if not rule.learn or not body.asks_plain:
            return False
        if (flow.request.host, flows.model_of(body)) in self._learned:
            return True
        # Nothing looks on while that answer comes in; its client may have to wait for another.
        waiting = Watch(flows.spec_for(body, rule, endpoint), replace(UNLIMITED, heartbeat=rule.heartbeat, retries=1))
        waiting.settled = True
        self._learning[flow] = rule, waiting
        return False

    def _waiting(self, flow: http.HTTPFlow) -> Watch | None:
        learning = self._learning.get(flow)
        return learning[1] if learning is not None else None

    async def _learn(self, flow: http.HTTPFlow, rule: Rule, waiting: Watch) -> None:
        """Where the upstream said that it must stream, ask it so, and give the client that answer."""
        if not flows.says_it_must_stream(flow) or not self.can_send:
            return
        again = flows.another_try(flow, 2)
        body = flows.body_of(again)
        try:
            spec = None if body is None else flows.force(again, body, rule)
        except Refusal as reason:
            logger.info(
                f"{rule.name}: the upstream says that it must stream, but the request cannot be forced: {reason}"
            )
            return
        if spec is None:
            return
        watch = Watch(spec, replace(rule, retries=0, heartbeat=None))
        waiting.retrying = True
        await self._send_for(flow, waiting, again, watch, 2)
        if again.response is not None and again.response.status_code < 400:
            self._learned.add((flow.request.host, flows.model_of(body)))
            logger.warning(
                f"{rule.name}: {flow.request.host} answers {spec.model or 'this request'} only as a stream; until "
                "mitmproxy ends it is forced. The rule for it, to be put before this one: "
                + rule_to_paste(flow.request.host, spec.model)
            )

    async def _answer(self, flow: http.HTTPFlow, watch: Watch) -> None:
        if watch.attached and not watch.settled:
            return  # another addon answered in the upstream's place
        if not watch.attached and not flows.observe_whole(flow, watch):
            logger.warning(
                f"{watch.spec.rule} {watch.spec.endpoint}: the answer went through as it came, because "
                "mitmproxy streamed it (stream_large_bodies). Unset that option, or raise it."
            )
            return
        decoded = await self._decoded(flow, watch) if watch.encoded else None
        # One event loop serves everybody.
        reply = await asyncio.to_thread(watch.finish, decoded) if watch.heavy else watch.finish(decoded)
        if watch.fault is not None:
            _log_fault("the client gets an error", watch.fault)
        flows.store_answer(flow, watch, decoded)
        if reply is not None:
            flows.set_reply(flow, reply)
        else:
            flows.pass_through(flow, watch)
        try:
            logger.info(summary.summarize(flow, watch))
        except Exception as error:
            _log_fault("the flow has no comment", error)  # the answer is as it should be
        else:
            # Once the client has its answer: nobody waits for figures.
            asyncio.get_running_loop().call_soon(self._count_answer, flow, watch)

    def _count_answer(self, flow: http.HTTPFlow, watch: Watch) -> None:
        try:
            self.stats.add(flow_record.of_answer(flow, watch))
        except Exception as error:
            _log_fault("a flow is missing in the figures", error)

    async def _decoded(self, flow: http.HTTPFlow, watch: Watch) -> bytes:
        """The body of an encoded answer, unless it is larger than the rule's max_body."""
        assert flow.response is not None
        coding, limit = flow.response.headers.get("content-encoding", ""), watch.rule.max_body
        try:
            return await asyncio.to_thread(decode, watch.body(), coding, limit)
        except TooLarge:
            watch.fail(OversizedStream(f"the upstream's answer is larger than {limit:,} bytes"))
        except MissingDecoder as error:
            watch.fail(UnreadableEncoding(f"the upstream compressed its answer with {coding}, but {error}"))
        return b""

    def _count(self, flow: http.HTTPFlow, tee: flows.LiveCopy, cut: str = "") -> None:
        """Note what came of a stream that the client itself asked for, once the client has it."""
        if tee.pieces and tee.spec is not None:
            task = asyncio.get_running_loop().create_task(self._read_own_stream(flow, tee.spec, cut))
            self._counting.add(task)
            task.add_done_callback(self._counting.discard)

    async def _read_own_stream(self, flow: http.HTTPFlow, spec: AnswerSpec, cut: str) -> None:
        try:
            self.stats.add(await asyncio.to_thread(flow_record.of_own_stream, flow, spec, cut))
        except Exception as error:
            _log_fault("a client's own stream is missing in the figures", error)

    async def _try_again(self, flow: http.HTTPFlow, first: Watch) -> None:
        """As often as the rule says, while the outcome is one that another try may cure. The client gets the last."""
        watch, latest = first, flow
        for tries in range(1, first.rule.retries + 1):
            if not self.can_send or first.committed or not watch.settled or not flows.may_retry(latest, watch):
                return
            pause = delay(tries, flows.retry_after(latest))
            remaining = first.remaining()
            if pause is None or (remaining is not None and pause >= remaining):
                logger.info(f"{first.spec.rule}: not tried again: there is no time for the pause before it")
                return
            first.retrying = True
            await asyncio.sleep(pause)
            if first.left:
                logger.info(f"{first.spec.rule}: not tried again: the client is gone")
            if first.left or not ctx.options.force_stream:
                return
            latest = flows.another_try(flow, tries + 1)
            rule = replace(first.rule, retries=0, heartbeat=None, timeout=first.remaining())
            watch = Watch(first.spec, rule)
            await self._send_for(flow, first, latest, watch, tries + 1)

    async def _send_for(
        self, flow: http.HTTPFlow, first: Watch, again: http.HTTPFlow, watch: Watch, tries: int
    ) -> None:
        """Send another try of a flow's request, whose client waits for it, and make its outcome the flow's."""
        first.heir = watch
        await self.send(again, watch)
        if again.response is None and watch.fault is not None:
            raise watch.fault
        flows.copy_outcome(flow, again, tries)

    @property
    def can_send(self) -> bool:
        """Whether requests of our own can be sent."""
        return self._stream_layer is not None

    async def send(self, flow: http.HTTPFlow, watch: Watch | None) -> None:
        """Send a flow's request upstream; returns when it has its answer. Without a watch it stays as it is."""
        assert self._stream_layer is not None
        self._sent.add(flow)
        if watch is not None:
            self._watches[flow] = watch
        try:
            await self._stream_layer.send(flow, ctx.options)
        finally:
            self._sent.discard(flow)  # a person may replay it

    # Commands

    @command.command("force_stream.rules")
    def list_rules(self) -> Sequence[str]:
        """The rules in force, a line each, with how many flows each has taken."""
        return [f"{describe(rule)}; flows {self.flow_counts[rule.name]}" for rule in self.rules]

    @command.command("force_stream.rule.options")
    def rule_options(self) -> Sequence[str]:
        """The names of the rules in force, for completion."""
        return _Options(quote(rule.name) for rule in self.rules)

    @command.command("force_stream.key.options")
    def key_options(self) -> Sequence[str]:
        """The keys of a rule that can be changed, for completion."""
        return _Options(sorted(KEYS.keys() - {"name"}))

    @command.command("force_stream.set")
    @command.argument("rule", type=mitmproxy.types.Choice("force_stream.rule.options"))
    @command.argument("key", type=mitmproxy.types.Choice("force_stream.key.options"))
    def set_value(self, rule: str, key: str, value: str) -> None:
        """Change one key of one rule now. It lasts until the rules file changes."""
        try:
            self.change_rule(rule, {key: value})
        except KeyError:
            names = ", ".join(known.name for known in self.rules) or "none"
            raise exceptions.CommandError(f"there is no rule {rule!r}; the rules are: {names}") from None
        except RulesError as error:
            raise exceptions.CommandError(f"{error}") from error

    @command.command("force_stream.reload")
    def reload(self) -> None:
        """Read the rules file again."""
        if not self._read_rules():
            raise exceptions.CommandError("the rules file has a mistake; the rules in force stay. See the log.")
        logger.log(ALERT, f"the rules file was read again: {len(self.rules)} rules are in force")


class _Options(list[str]):
    """What mitmproxy completes a word from. It is told that every word is among them: of one that is none it would say
    "Invalid choice." alone, where the command itself says what there is."""

    def __contains__(self, word: object) -> bool:
        return True


def unknown_options(options: Options) -> list[str]:
    """A line for each option that somebody set, whose name begins like ours and is none; with the nearest that is."""
    ours = [name for name, _ in options.items() if name.startswith("force_stream")]
    # mitmproxy keeps what it does not know for scripts that come later, and never says so.
    unknown = [name for name in getattr(options, "deferred", {}) if name.replace("-", "_").startswith("force_stream")]
    return [
        f"there is no option {name!r}" + "".join(f"; did you mean {near}?" for near in get_close_matches(name, ours, 1))
        for name in unknown
    ]


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _stream_layer(
    watch_of: Callable[[http.HTTPFlow], Watch | None], waiting_of: Callable[[http.HTTPFlow], Watch | None]
) -> "StreamLayerAddon | None":
    """The addon that looks on below the hooks; None, and a warning, where this mitmproxy has no place for it."""
    try:
        from ..proxy import stream_layer

        problem = stream_layer.check()
        if not problem:
            return stream_layer.StreamLayerAddon(watch_of, waiting_of)
    except (ImportError, AttributeError, TypeError) as error:
        problem = f"{error}"
    logger.warning(
        f"force-stream: this mitmproxy is unknown below its hooks ({problem}). Answers are aggregated, but one that is "
        "cut off gives mitmproxy's own error page, and timeout, idle_timeout, heartbeat, max_body, retries, learn and "
        "inject do nothing."
    )
    return None


def _log_fault(outcome: str, error: Exception) -> None:
    # The message of an exception may quote a body, so the log has its kind alone; the traceback is for who asks for it.
    logger.error(f"force-stream: a fault of the addon, {outcome}: {type(error).__name__}. Details at debug level.")
    logger.debug("force-stream: the fault's traceback", exc_info=error)
