"""Answers made again from the event streams that flows keep, such as those of a flow file.

Knows flows and their notes; must not know who asks for it, or read events.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mitmproxy import http

from ..answer.fill import spelled
from ..rules.rule import UNLIMITED, Rule
from ..wire.text import printable
from . import bodies, response, summary
from .attempt import Attempt
from .notes import UnreadableFlow, save_notes

logger = logging.getLogger("force_stream")


async def aggregate_again(
    flow: http.HTTPFlow, stream: bytes, rules: Sequence[Rule], level: int = logging.INFO, *, backup: bool = False
) -> None:
    """Put the answer that the event stream makes now into the flow, and log the line of a flow that was answered.
    `backup`: so that it can be reverted. Raises `UnreadableFlow`, and changes nothing, where none is known."""
    spec, status, content_type = await bodies.read(flow.request, partial(response.kept_answer, flow))
    rule = next((rule for rule in rules if rule.name == spec.rule), None)
    if rule is not None:
        spec = replace(spec, quirks=rule.quirks, on_truncated=rule.on_truncated, fill=spelled(rule.fill))
    attempt = Attempt(spec, UNLIMITED)
    attempt.start_response(status, content_type)
    attempt.receive(stream)
    attempt.end()
    reply = await attempt.finish_aside()
    if attempt.fault is not None:
        logger.debug("force-stream: the fault's traceback", exc_info=attempt.fault)
        raise UnreadableFlow(f"a fault of the addon: {type(attempt.fault).__name__}")
    if backup:
        flow.backup()
    save_notes(flow, {"sse": stream, "sse_status": status, "sse_type": printable(content_type)})
    if reply is not None:
        response.set_reply(flow, reply)
    logger.log(level, summary.summarize(flow, attempt, from_kept=True))
