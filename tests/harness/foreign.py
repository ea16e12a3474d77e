"""Flows as other people's files hold them, and those of other versions: a good one, values of all kinds for its notes,
and a table of what can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from force_stream.endpoints import ENDPOINTS
from force_stream.proxy import request, response, summary
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.notes import NOTES
from force_stream.rules.rule import Rule
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.flow import Flow
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

from harness.master import answer_with, flow_with
from harness.samples import DOCUMENT, STREAM
from harness.samples import request as asked

NAMES = [each.name for each in NOTES]
# Values that a note never has.
JUNK: list[Any] = [{}, {"a": [1]}, [[[]]], [None], -7, 10**40, float("nan"), float("-inf"), 2.5, b"\xff", [b""]]


def foreign_values() -> st.SearchStrategy[Any]:
    """Whatever a flow file can hold."""
    texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    plain = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=8)
    return st.recursive(
        plain | st.sampled_from([*JUNK, STREAM, *ENDPOINTS]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=2),
        max_leaves=8,
    )


def saved_flow(stream: bytes = STREAM, *, name: str = "saved") -> http.HTTPFlow:
    """A flow that was forced and answered, as it is read from a file."""
    flow = flow_with(asked(name))
    rule = Rule("all", (), force_upstream_stream=True)
    body = request.body_of(flow)
    assert body is not None
    spec = request.force(flow, body, rule, ENDPOINTS["chat"])
    assert spec is not None
    answer_with(flow, stream)
    return _answered(flow, Attempt(spec, rule))


def saved_plain_flow(*, with_usage: bool = True) -> http.HTTPFlow:
    """A flow whose client asked for a stream, and got the events of a plain answer."""
    flow = flow_with(asked("saved", stream=True, stream_options={"include_usage": with_usage}))
    rule = Rule("all", (), force_upstream_plain=True)
    body = request.body_of(flow)
    assert body is not None
    spec, wanted = request.make_plain(flow, body, rule, ENDPOINTS["chat"])
    answer_with(flow, json.dumps(DOCUMENT).encode(), "application/json")
    return _answered(flow, Attempt(spec, rule, plain=True, asked=wanted))


def _answered(flow: http.HTTPFlow, attempt: Attempt) -> http.HTTPFlow:
    assert response.observe_whole(flow, attempt)
    reply = attempt.finish()
    assert reply is not None
    response.store_answer(flow, attempt, None)
    response.set_reply(flow, reply)
    summary.summarize(flow, attempt)
    flow.live = False
    return flow


def write_flows(path: Path, flows: list[Flow]) -> Path:
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for flow in flows:
            writer.add(flow)
    return path


def spelled(value: Any) -> str:
    """A flow's state, or a part of it, as text: the same for equal ones, also with what is not a number in them, and
    whatever the order of their keys, which a file turns round."""
    if isinstance(value, Flow):
        return spelled(value.get_state())
    if isinstance(value, dict):
        return "".join(sorted(f"{key!r}: {spelled(each)}\n" for key, each in value.items()))
    return f"{[spelled(each) for each in value]}" if isinstance(value, (list, tuple)) else repr(value)


def _without(*names: str) -> Callable[[http.HTTPFlow], None]:
    def remove(flow: http.HTTPFlow) -> None:
        for name in names:
            flow.metadata.pop(f"force_stream.{name}", None)

    return remove


def _with(name: str, value: Any) -> Callable[[http.HTTPFlow], None]:
    return lambda flow: flow.metadata.update({f"force_stream.{name}": value})


def _with_all(value: Any) -> Callable[[http.HTTPFlow], None]:
    return lambda flow: flow.metadata.update({f"force_stream.{name}": value for name in NAMES})


def _with_metadata(value: Any) -> Callable[[http.HTTPFlow], None]:
    return lambda flow: setattr(flow, "metadata", value)


# What is wrong with a saved flow whose answer has to stay as it is.
DAMAGES: dict[str, Callable[[http.HTTPFlow], None]] = {
    **{
        f"no {name}": _without(name)
        for name in ("rule", "endpoint", "model", "choices", "on_truncated", "quirks", "sse", "sse_status", "sse_type")
    },
    "no rule and no endpoint": _without("rule", "endpoint"),
    "not forced, no endpoint": _without("forced", "endpoint"),
    "nothing but the stream": lambda flow: _with_metadata({"force_stream.sse": flow.metadata["force_stream.sse"]})(
        flow
    ),
    **{f"{name} is {value!r:.20}": _with(name, value) for name in NAMES for value in ({"a": [1]}, -7, [[[]]])},
    "every note is a list": _with_all([1]),
    "every note is a huge number": _with_all(10**300),
    "every note is text": _with_all("\x1b[2J\n"),
    "an endpoint of tomorrow": _with("endpoint", "sonnets"),
    "a quirk of tomorrow": _with("quirks", ["think_tags", "of_tomorrow"]),
    "constants that are not JSON": _with("fill", "{"),
    "constants that nest": _with("fill", '{"a":' * 5000),
    "a status that is none": _with("sse_status", 10**9),
    "times that go back": _with("times", [2.0, 10, 1.0, 20]),
    "times that are not numbers": _with("times", [float("nan"), float("nan")]),
    "half of the times": _with("times", [1.0]),
    "the answer of another try": _with("status", 502),
    "undo before the body": _with("undo", [[-5, -1, b""]]),
    "undo backwards": _with("undo", [[9, 3, b""]]),
    "metadata is a list": _with_metadata(["force_stream.sse"]),
    "metadata is text": _with_metadata("force_stream.sse"),
    "metadata is nothing": _with_metadata(None),
}


def other_kinds() -> list[Flow]:
    """Flows that are not HTTP, or that lack something."""
    no_answer, no_body, failed = flow_with(), flow_with(), flow_with()
    no_body.request.raw_content = None
    answer_with(no_body, b"")
    no_body.response.raw_content = None  # type: ignore[union-attr]
    for flow in (no_answer, no_body, failed):
        flow.live = False
    failed.error = tflow.terr()
    others: list[Flow] = [tflow.ttcpflow(), tflow.tudpflow(), tflow.tdnsflow(), tflow.twebsocketflow()]
    return [no_answer, no_body, failed, *others, tflow.tflow(), tflow.tflow(err=True), tflow.tflow(resp=True)]
