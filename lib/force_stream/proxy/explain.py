"""Why a flow was forced or not: rule by rule, in words for a person.

Knows rules and flows; must not know where the words are shown, or change anything.
"""

import re
from collections.abc import Sequence
from copy import copy
from typing import Final

from mitmproxy import http

from ..answer.cause import NOWHERE, TO_REVERSE
from ..answer.forcing import Refusal
from ..endpoints import endpoint_for
from ..rules.rule import Rule
from ..wire.text import printable
from .cors import is_preflight, why_refused
from .notes import LEFT_ALONE, RULE, was_made_plain, was_made_to_stream
from .request import body_of, forced_form, hosts_of, name_of, plain_form
from .response import is_event_stream

# How many rules one line of the log goes through; the command has no such limit.
_RULES_IN_A_LINE: Final = 3
# Characters of a path, and of a line.
_LONGEST_PATH: Final = 200
_LONGEST_LINE: Final = 1000
# How nearly all requests for a stream ask for it: they need not be parsed to know that. It may also stand deeper in one
# that does not, which then goes without a line.
_ASKS_FOR_EVENTS: Final = re.compile(rb'"stream"\s*:\s*true')


def explain(flow: http.HTTPFlow, rules: Sequence[Rule], *, enabled: bool) -> list[str]:
    """The rules one by one, a line each, until the one that takes the flow. `enabled`: the option force_stream."""
    lines, decided = _mismatches(flow, rules)
    if decided is not None:
        lines.append(f"rule {decided.name} takes it; {_verdict(flow, decided, enabled=enabled)}")
    elif was_made_to_stream(flow) or was_made_plain(flow):
        how = "forced" if was_made_to_stream(flow) else "sent plain"
        lines.append(f"{_named(flow)} took it, as the rules were then; its request was {how}")
    return [printable(f"{_about(flow)}: {line}", _LONGEST_LINE) for line in lines or ["there are no rules"]]


def why_not_forced(flow: http.HTTPFlow, rules: Sequence[Rule], *, enabled: bool) -> str:
    """One line for the log about a flow that went out as it came and was answered with a failure, or with an event
    stream that nobody asked for; "" for any other. A preflight is never forced; it has one where it was refused."""
    response, path = flow.response, flow.request.path
    if is_preflight(flow.request):
        why = why_refused(flow, rules)
        return why and printable(f"{_about(flow)}: {why}", _LONGEST_LINE)
    if response is None or (response.status_code < 400 and not _are_unasked_events(flow, response)):
        return ""
    if not (endpoint_for(path, {}) or any(rule.endpoint(path) for rule in rules)):
        return ""
    if flow.server_conn.timestamp_start is None:
        return ""  # another addon answered it
    what = f"{response.status_code}" if response.status_code >= 400 else "an event stream"
    why = _why(flow, rules, enabled=enabled)
    return printable(f"{_about(flow)}: answered with {what}, and not forced: {why}", _LONGEST_LINE)


def _are_unasked_events(flow: http.HTTPFlow, response: http.Response) -> bool:
    if not is_event_stream(response) or was_made_plain(flow):
        return False
    if _ASKS_FOR_EVENTS.search(flow.request.raw_content or b""):
        return False
    body = body_of(flow)
    return body is not None and body.asks_plain


def why_nowhere(flow: http.HTTPFlow) -> str:
    """One line for the log about a flow whose request names this proxy as its upstream; "" for any other."""
    if flow.error is None or NOWHERE not in flow.error.msg or endpoint_for(flow.request.path, {}) is None:
        return ""
    return printable(f"{_about(flow)}: this is the proxy itself, not an upstream. {TO_REVERSE}", _LONGEST_LINE)


def _about(flow: http.HTTPFlow) -> str:
    # The query stays out of it: some APIs take the key there.
    path = flow.request.path.partition("?")[0]
    return f"{printable(flow.request.method)} {printable(name_of(flow))}{printable(path, _LONGEST_PATH)}"


def _named(flow: http.HTTPFlow) -> str:
    """The rule that took the flow, as far as its notes say."""
    rule = RULE.of(flow)
    return "a rule" if rule is None else f"rule {rule}"


def _why(flow: http.HTTPFlow, rules: Sequence[Rule], *, enabled: bool) -> str:
    if not enabled:
        return "the option force_stream is off"
    if not rules:
        return f"there are no rules; --set force_stream_hosts={name_of(flow)} forces that host"
    lines, decided = _mismatches(flow, rules)
    if decided is not None:
        # The first match decides, so what the rules above it say does not matter.
        return f"rule {decided.name} takes it; {_verdict(flow, decided, enabled=enabled)}"
    # The reasons of rules for this host say the most.
    hosts = hosts_of(flow)
    shown = [line for rule, line in zip(rules, lines, strict=True) if rule.is_for_host(hosts)] or lines
    rest = len(shown) - _RULES_IN_A_LINE
    more = [f"and {rest} more (force_stream.explain lists them)"] if rest > 0 else []
    return "; ".join([*shown[:_RULES_IN_A_LINE], *more])


def _mismatches(flow: http.HTTPFlow, rules: Sequence[Rule]) -> tuple[list[str], Rule | None]:
    hosts, path, body = hosts_of(flow), flow.request.path, body_of(flow)
    asked, came = body.members if body else {}, _as_it_came(flow, readable=body is not None)
    lines: list[str] = []
    for rule in rules:
        mismatch = rule.mismatch(hosts, path, asked, came)
        if mismatch is None:
            return lines, rule
        lines.append(f"rule {rule.name}: {mismatch}")
    return lines, None


def _as_it_came(flow: http.HTTPFlow, *, readable: bool) -> http.HTTPFlow:
    """The flow as filters see it when its request comes: without its answer. One that looks at bodies has mitmproxy
    decode them, however large they become, so it gets none that could not be read within the limit."""
    came = copy(flow)
    came.response = None
    if not readable:
        came.request = flow.request.copy()
        came.request.raw_content = None
    return came


def _verdict(flow: http.HTTPFlow, rule: Rule, *, enabled: bool) -> str:
    if was_made_to_stream(flow):
        took = RULE.of(flow) != rule.name
        return "its request was forced" + (f" by {_named(flow)}, as the rules were then" if took else "")
    if was_made_plain(flow):
        return "its request was sent plain, and its client gets events"
    body, endpoint, why = body_of(flow), rule.endpoint(flow.request.path), LEFT_ALONE.of(flow)
    is_watched = rule.watches_streams and body is not None and not body.asks_plain
    if not rule.forces and not is_watched:
        learns = ", unless its upstream says that it must stream" if rule.learn else ""
        return f"it changes nothing, since force_upstream_stream is false{learns}"
    if not enabled:
        return "it changes nothing, since the option force_stream is off"
    plain = rule.force_upstream_plain
    if flow.request.method != "POST" or body is None or endpoint is None:
        # What was left because its body could not be decoded says so itself.
        done = "sent plain" if plain else "forced"
        return f"left as it came: {why or f'only a POST with a JSON object or a form is {done}'}"
    if body.asks_plain is plain:
        guarded = ", and guarded" if rule.guard_streams else ""
        asked = "a plain answer" if plain else f"a stream, which is passed on live{guarded}"
        return f"the client itself asks for {asked}"
    try:
        (plain_form if plain else forced_form)(flow, body, rule, endpoint)
    except Refusal as reason:
        return f"left as it came: {reason}"
    done = "sent plain now, and its client get events" if plain else "forced now"
    # What an upstream has said about streaming is not part of the rules.
    return f"its request would be {done}" + (f"; it was left as it came: {why}" if why else "")
