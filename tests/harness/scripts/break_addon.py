"""A mitmproxy script, loaded after the addon: makes one part of it raise, for requests whose model names that part.

plain/break-feed            the part called `feed`
plain/break-try-feed        the same, in another try of the request alone
"""

import functools
from collections.abc import Callable
from typing import Any

from force_stream.answer import reader
from force_stream.proxy import attempt, response, stream_layer, summary


def break_for(holder: Any, name: str, model_of: Callable[[Any], str]) -> None:
    whole = getattr(holder, name)

    @functools.wraps(whole)
    def broken(first: Any, *rest: Any, **named: Any) -> Any:
        if model_of(first).endswith(f"/break-{name}"):
            raise ZeroDivisionError("a fault put in on purpose")
        return whole(first, *rest, **named)

    setattr(holder, name, broken)


def model_of_flow(flow: Any) -> str:
    return flow.metadata.get("force_stream.model", "")


def model_of_stream(stream: Any) -> str:
    model = model_of_flow(stream.flow)
    return model.replace("/break-try-", "/break-") if "force_stream.try" in stream.flow.metadata else model


for name in ("feed", "finish"):
    break_for(reader.AnswerReader, name, lambda answer: answer._spec.model)
for name in ("start_response", "receive", "poll", "next_deadline", "end", "cut"):
    break_for(attempt.Attempt, name, lambda one: one.spec.model)
break_for(response, "store_answer", model_of_flow)
for name in ("summarize", "describe_error"):
    break_for(summary, name, model_of_flow)
for name in (
    "state_wait_for_response_headers",
    "state_consume_response_body",
    "_answer",
    "send_response",
    "_heartbeat",
):
    break_for(stream_layer.ObservedStream, name, model_of_stream)
