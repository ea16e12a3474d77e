"""Answers made again from what upstreams sent, as it is kept on flows, such as those of a flow file.

Knows flows and their notes; must not know who asks for it, or read events.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from mitmproxy import http

from ..answer.fill import spelled
from ..answer.reader import AnswerSpec
from ..errors import OversizedStream, StreamTimeout
from ..rules.rule import UNLIMITED, Rule
from ..wire.text import printable
from . import aside, bodies, response, summary
from .attempt import LONGEST_REASON, Attempt
from .notes import CUT_BY, ENDED, ERROR, HEAD, LIMIT, TIMES, UnreadableFlow, save_notes, was_made_plain

logger = logging.getLogger("force_stream")

# Bytes that are read on the event loop: of tiny events, these take about a millisecond.
_MOST_ON_LOOP: Final = 64 * 1024


async def aggregate_again(
    flow: http.HTTPFlow, body: bytes, rules: Sequence[Rule], level: int = logging.INFO, *, backup: bool = False
) -> None:
    """Put the answer that the upstream's body makes now into the flow, and log the line of a flow that was answered:
    a document of an event stream, or the events of a plain answer, for a client that asked for events. `backup`: so
    that it can be reverted. Raises `UnreadableFlow`, and changes nothing, where none is known."""
    spec, status, content_type = await bodies.read(flow.request, partial(response.kept_answer, flow))
    rule = next((rule for rule in rules if rule.name == spec.rule), None)
    if rule is not None:
        spec = replace(spec, quirks=rule.quirks, on_truncated=rule.on_truncated, fill=spelled(rule.fill))
    replayed = partial(_replayed, flow, spec, status, content_type, body)
    attempt = replayed() if len(body) <= _MOST_ON_LOOP else await aside.run(replayed)
    reply = await attempt.finish_aside()
    if attempt.fault is not None:
        logger.debug("force-stream: the bug's traceback", exc_info=attempt.fault)
        raise UnreadableFlow(f"a bug in the addon: {type(attempt.fault).__name__}")
    if backup:
        flow.backup()
    save_notes(flow, {"sse": body, "sse_status": status, "sse_type": printable(content_type)})
    if reply is not None:
        response.set_reply(flow, reply)
    logger.log(level, summary.summarize(flow, attempt, from_kept=True))


def _replayed(flow: http.HTTPFlow, spec: AnswerSpec, status: int, content_type: str, body: bytes) -> Attempt:
    """An attempt to which all of this has come, when it came, and that has ended as the flow's own has."""
    times, now = TIMES.of(flow) or [0.0], 0.0
    asked = response.asked_of(flow, spec)
    attempt = Attempt(spec, UNLIMITED, plain=was_made_plain(flow), asked=asked, clock=lambda: now)
    fields = tuple(
        (name.encode(errors="replace"), value if isinstance(value, bytes) else value.encode(errors="replace"))
        for name, value in HEAD.of(flow) or ()
    )
    attempt.start_response(status, content_type, fields=fields)
    now = times[-2] if len(times) > 1 else 0.0
    attempt.receive(body)
    now = max(now, ENDED.of(flow) or now)
    limit, cut_by = LIMIT.of(flow), CUT_BY.of(flow)
    if limit:
        kind = OversizedStream if ERROR.of(flow) == OversizedStream.code else StreamTimeout
        attempt.fail(kind(printable(limit, LONGEST_REASON)))
    elif cut_by:
        attempt.cut(cut_by)
    else:
        attempt.end()
    return attempt
