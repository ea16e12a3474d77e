"""mitmproxy's commands for looking at rules and flows, and their keys in the console.

The outcome of a command is logged as an alert, which the console shows at its foot, unlike the rest of the log.

Knows mitmproxy's commands and keys. Must not know how a flow is observed below the hooks, or how an event stream is
read.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import mitmproxy.types
from mitmproxy import command, ctx, exceptions, flow, http
from mitmproxy.command_lexer import quote
from mitmproxy.hooks import UpdateHook
from mitmproxy.log import ALERT

from ..answer.forcing import Refusal
from ..errors import UpstreamError
from ..proxy import aside, bodies, explain, refusals, request, response
from ..proxy.attempt import Attempt
from ..proxy.notes import UnreadableFlow
from ..proxy.saved import aggregate_again
from ..rules.describe import describe
from ..rules.file import RulesError
from ..rules.keys import KEYS
from ..rules.rule import Rule, candidates, first_match
from ..view import compare, stats
from ..wire import jsontext
from ..wire.text import counted, printable
from .hooks import ForceStream
from .mitmweb import route_commands

logger = logging.getLogger("force_stream")

# In the console's flow list and flow view. mitmproxy itself uses none of them there.
_KEYS: Final = (
    ("y", "force_stream.explain @focus", "Which rule took this flow, or why none did"),
    ("Y", "force_stream.compare @focus", "Send this request both ways and log what differs"),
    ("t", "force_stream.aggregate @focus", "Make the answer again from what the upstream sent"),
    ("T", "force_stream.stats", "What upstreams did, per upstream and model"),
    ("s", "console.command force_stream.sse @focus ", "Write what the upstream sent to a file"),
)


class Commands:
    """An addon object with commands and keys; no traffic runs through it."""

    def __init__(self, addon: ForceStream) -> None:
        self._addon = addon
        self._tasks: set[asyncio.Task[None]] = set()

    def running(self) -> None:
        route_commands(getattr(ctx.master, "app", None))
        keymap = getattr(ctx.master, "keymap", None)
        if keymap is None:
            return  # only the console has keys
        for key, bound, text in _KEYS:
            if contexts := [context for context in ("flowlist", "flowview") if keymap.get(context, key) is None]:
                keymap.add(key, bound, contexts, text)

    @command.command("force_stream.rules")
    def list_rules(self) -> Sequence[str]:
        """The rules in force, one line each, with how many flows each has taken; then what upstreams have said about
        streaming."""
        rules = [
            f"{describe(rule)}; {counted(self._addon.flow_counts[rule.name], 'flow')}" for rule in self._addon.rules
        ]
        return rules + self._addon.learned

    @command.command("force_stream.rule.options")
    def rule_options(self) -> Sequence[str]:
        """The names of the rules in force, for completion."""
        return _Options(quote(rule.name) for rule in self._addon.rules)

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
            self._addon.rules_watcher.change(rule, {key: value})
        except KeyError:
            names = ", ".join(known.name for known in self._addon.rules) or "none"
            raise exceptions.CommandError(f"there is no rule {rule!r}; the rules are: {names}") from None
        except RulesError as error:
            raise exceptions.CommandError(f"{error}") from error

    @command.command("force_stream.reload")
    def reload(self) -> None:
        """Read the rules file again."""
        if not self._addon.rules_watcher.read():
            raise exceptions.CommandError(
                "the rules file has a mistake, so the previous rules stay in force; see the log"
            )
        logger.log(ALERT, f"the rules file was read again: {counted(len(self._addon.rules), 'rule')} in force")

    @command.command("force_stream.stats")
    def show_stats(self) -> Sequence[str]:
        """What upstreams did, per upstream and model, as a table."""
        return stats.table(self._addon.stats.rows())

    @command.command("force_stream.stats.json")
    def stats_as_json(self) -> str:
        """The same as JSON: a list of objects, times in seconds."""
        return jsontext.dumps(self._addon.stats.rows()).decode()

    @command.command("force_stream.explain")
    def explain(self, flows: Sequence[flow.Flow]) -> Sequence[str]:
        """For each flow: which rule took it, or for each rule the first thing that did not match. If a request takes
        long to read, because it is large, its lines are logged."""
        lines: list[str] = []
        self._start(self._explain(_http(flows), lines))
        return lines

    async def _explain(self, flows: Sequence[http.HTTPFlow], lines: list[str]) -> None:
        """Add the lines to the list; log those that are not known by the time this first waits."""
        enabled, rules, is_late = ctx.options.force_stream, self._addon.rules, False
        for each in flows:
            if bodies.blocks_loop(each.request) and not is_late:
                is_late = True
                lines.append("a request is large or compressed; the rest will be in the log once it has been read")
            try:
                found = await bodies.read(each.request, partial(explain.explain, each, rules, enabled=enabled))
            except Exception as error:
                found = [f"one flow could not be read, because {_why(error)}"]
            for line in found:
                if is_late:
                    logger.log(ALERT, line)
                else:
                    lines.append(line)

    @command.command("force_stream.sse")
    def write_stream(self, flows: Sequence[flow.Flow], path: mitmproxy.types.Path) -> None:
        """Write the event stream exactly as the upstream sent it, or the plain answer that became events. With several
        flows, each gets a numbered file."""
        self._start(self._write(_http(flows), Path(path).expanduser()))

    async def _write(self, flows: Sequence[http.HTTPFlow], path: Path) -> None:
        chosen, unread = await _with_stream(flows)
        for number, (_, stream) in enumerate(chosen, 1):
            target = path.with_stem(f"{path.stem}-{number}") if len(chosen) > 1 else path
            try:
                if len(stream) > bodies.MOST_ON_LOOP:
                    await asyncio.to_thread(target.write_bytes, stream)
                else:
                    target.write_bytes(stream)
            except OSError as error:
                raise exceptions.CommandError(f"{target}: {error.strerror}") from error
            logger.log(ALERT, f"{counted(len(stream), 'byte')} written to {target}")
        _tell("written", len(chosen), unread)

    @command.command("force_stream.aggregate")
    def aggregate(self, flows: Sequence[flow.Flow]) -> None:
        """Aggregate the stored event stream again with the current rules, or make the events of a stored plain answer
        again; this also works for flows read from a file."""
        self._start(self._aggregate(_http(flows)))

    async def _aggregate(self, flows: Sequence[http.HTTPFlow]) -> None:
        chosen, unread = await _with_stream(flows)
        done: list[flow.Flow] = []
        for each, stream in chosen:
            try:
                if each.live:
                    raise UnreadableFlow("it is still in flight")
                await aggregate_again(each, stream, self._addon.rules, ALERT, backup=True)
                done.append(each)
            except Exception as error:
                unread.append(_why(error))
        ctx.master.addons.trigger(UpdateHook(done))
        _tell("aggregated", len(done), unread)

    @command.command("force_stream.compare")
    def compare(self, flows: Sequence[flow.Flow]) -> None:
        """Send the same request upstream both ways, as it came and as its rule has it; say what it means, and log what
        differs."""
        if not self._addon.can_send:
            raise exceptions.CommandError("not possible with this version of mitmproxy; see the warning at startup")
        for each in _http(flows):
            self._start(self._compare(each))

    async def _compare(self, each: http.HTTPFlow) -> None:
        name = f"force_stream.compare {printable(each.request.path.partition('?')[0])}"
        try:
            came = await bodies.read(each.request, partial(request.restored, each))
            changed = await bodies.read(each.request, partial(request.restored, each))
            body = await bodies.read(changed.request, partial(request.body_of, changed))
            found = candidates(self._addon.rules, request.hosts_of(changed), changed.request.path)
            match = first_match(found, body.members if body else {}, changed)
            if match is None or body is None:
                logger.warning(f"{name}: no rule takes this request; force_stream.explain says why")
                return
            rule = replace(match[0], inject={})
            if body.asks_plain == rule.force_upstream_plain:
                logger.warning(
                    f"{name}: this request itself asks for {'a plain answer' if body.asks_plain else 'a stream'}"
                )
                return
            if rule.force_upstream_plain:
                spec, asked = await bodies.read(changed.request, partial(request.make_plain, changed, body, *match))
                streamed, plain = Attempt(spec, rule), Attempt(spec, rule, plain=True, asked=asked)
                await asyncio.gather(self._addon.send_attempt(came, streamed), self._addon.send_attempt(changed, plain))
                compared = partial(_compared, changed, came, streamed)
            else:
                forced = await bodies.read(changed.request, partial(request.force, changed, body, *match))
                if forced is None:
                    logger.warning(f"{name}: this path never streams")
                    return
                attempt = Attempt(forced, rule)
                await asyncio.gather(self._addon.send_attempt(came, None), self._addon.send_attempt(changed, attempt))
                compared = partial(_compared, came, changed, attempt)
            verdict, *details = await aside.run(compared)
            logger.log(ALERT, f"{name}: {verdict}")
            for line in details:
                logger.info(f"{name}: {line}")
        except Refusal as reason:
            logger.warning(f"{name}: this request has to go out as it came: {reason}")
        except UnreadableFlow as why:
            logger.warning(f"{name}: the original request is not known: {why}")
        except Exception as error:
            # Its message may quote a body.
            logger.error(f"{name}: a bug in the addon: {type(error).__name__}")
            logger.debug(name, exc_info=error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a command's work: to its end, unless a body is so large that other clients would have to wait for it. In
        that case the work goes on afterwards, and the log has the result."""
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
        if task.done():
            task.result()
        else:
            self._tasks.add(task)
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, exceptions.CommandError):
            logger.error(f"{error}")
        elif error is not None:
            logger.error(f"force-stream: a bug in the addon, in a command: {type(error).__name__}")
            logger.debug("force-stream: the bug's traceback", exc_info=error)


class _Options(list[str]):
    """The words that mitmproxy offers as completions. Every other word passes as valid too: mitmproxy would only say
    "Invalid choice.", while the command says what there is."""

    def __contains__(self, word: object) -> bool:
        return True


def _http(chosen: Sequence[flow.Flow]) -> list[http.HTTPFlow]:
    return [each for each in chosen if isinstance(each, http.HTTPFlow)]


async def _with_stream(chosen: Sequence[http.HTTPFlow]) -> tuple[list[tuple[http.HTTPFlow, bytes]], list[str]]:
    """The flows whose upstream sent an event stream, or what became one, with that; and for each one that cannot be
    read, why."""
    found: list[tuple[http.HTTPFlow, bytes]] = []
    unread: list[str] = []
    for each in chosen:
        try:
            stream = await bodies.read(each.response, partial(response.upstreams_body, each))
            if stream is not None:
                found.append((each, stream))
        except Exception as error:
            unread.append(_why(error))
    if not found and not unread:
        raise exceptions.CommandError("none of these flows has an event stream")
    return found, unread


def _tell(what: str, done: int, unread: list[str]) -> None:
    """The last line of a command that skipped flows it could not read."""
    if not unread:
        return
    line = f"{counted(done, 'flow')} {what}; {len(unread):,} could not be read, the first because {unread[0]}"
    if not done:
        raise exceptions.CommandError(line)
    logger.log(ALERT, line)


def _why(error: Exception) -> str:
    """Why a flow could not be read. The message of any other exception may quote a body."""
    if isinstance(error, UnreadableFlow):
        return f"{error}"
    logger.debug("force-stream: the bug's traceback", exc_info=error)
    return f"of a bug in the addon: {type(error).__name__}"


def _compared(plain: http.HTTPFlow, streamed: http.HTTPFlow, attempt: Attempt) -> list[str]:
    """What the two answers mean, then what differs (the plain one's value first), then, where the rule forces, the line
    that makes it add the constants of direct answers to forced ones. Where its clients ask for streams, they are
    compared with the events that are made of the plain answer, both aggregated. `attempt`: the stream's."""
    rule, report, is_live = attempt.rule, attempt.report, attempt.rule.force_upstream_plain
    if is_live and plain.response is not None and response.is_event_stream(plain.response):
        made = attempt.spec.read(content_type=None)
        made.feed(plain.response.raw_content or b"")
        if (reply := made.finish()) is not None:
            response.set_reply(plain, reply)
    # An upstream's own error is quoted, as on the plain side.
    is_upstreams = report.status >= 400 and report.code in ("", UpstreamError.code)
    one = _side(plain, rule, streamed=False)
    other = _side(streamed, rule, "" if is_upstreams else report.cause, streamed=True)
    both = one.ok and other.ok
    differing = list(compare.differences(one.document, other.document)) if both else []
    verdict = compare.verdict(one, other, len(differing), streamed="live" if is_live else "forced")
    lines = [request.without_credentials(plain, verdict), *differing]
    if both and not is_live and (fill := compare.constants(one.document, other.document)):
        line = f"fill: {jsontext.dumps({**rule.fill, **fill}).decode()}"
        lines.append(f"rule {rule.name}: what its direct answers have and its streams lack: {line}")
    return lines


def _side(sent: http.HTTPFlow, rule: Rule, cause: str = "", *, streamed: bool) -> compare.Side:
    """One of the two answers that are compared. `streamed`: a stream was asked for."""
    answer = sent.response
    if answer is None:
        return compare.Side(None, words=sent.error.msg if sent.error else "")
    if not streamed and response.streams(answer):
        return compare.Side(answer.status_code, cause="an event stream that nobody asked for", refuses=True)
    phrases = rule.learn if isinstance(rule.learn, tuple) else ()
    body = bodies.decoded(answer, refusals.LONGEST_ERROR) or b""
    demand = refusals.demand_of(answer.status_code, body, streamed=streamed, phrases=phrases)
    return compare.Side.of(answer.status_code, response.text_of(answer), cause, refuses=demand is not None)
