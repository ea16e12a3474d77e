"""What is odd about a stream: found once, and the same in the log, the comment, the metadata, the page, the command
line and the content view."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from force_stream.__main__ import main
from force_stream.addon import hooks as addon
from force_stream.answer import reader
from force_stream.answer.oddities import MOST_IN_BRIEF, in_brief
from force_stream.answer.reader import AnswerReader, AnswerSpec
from force_stream.view import contentview
from harness import sse
from harness.master import answer_with, counted, flow_with
from harness.merging import Never
from harness.page import Shelf, client_of
from harness.paths import ADDON
from harness.samples import EVENTS, RULES, STREAM, choice, chunk, function_call, request
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.contentviews import Metadata
from mitmproxy.test import taddons, tflow

DONE = b"data: [DONE]\n\n"
STRANGE = "not all of it is UTF-8, or the upstream put replacement characters in it"
CALLS = [chunk(choice(tool_calls=[function_call(0, id=name, name="f", arguments="{}")])) for name in ("a", "b")]
STREAMS: dict[str, tuple[bytes, list[str]]] = {
    "nothing": (STREAM, []),
    "keep-alives": (b": alive\n\ndata:\n\nevent: ping\n\n" + STREAM, []),
    "null": (b"data: null\n\n" + STREAM, ["event 1: its data is null, not an object"]),
    "a number": (b"data: 1\n\ndata: 1.50\n\n" + STREAM, ["events 1, 2: its data is a number, not an object"]),
    "text": (b'data: "x"\n\n' + STREAM, ["event 1: its data is text, not an object"]),
    "a list": (b"data: []\n\n" + STREAM, ["event 1: its data is a list, not an object"]),
    "true": (b"data: true\n\n" + STREAM, ["event 1: its data is true or false, not an object"]),
    "no JSON": (b"data: oops\n\n" + STREAM, ["event 1: its data is not JSON"]),
    "half a chunk": (b"data: {oops\n\n" + STREAM, ["event 1: its data cannot be read"]),
    "no blank lines": (b'data: {"a":1}\ndata: x\n' + STREAM, ["event 2: its data is not JSON"]),
    "no UTF-8": (STREAM.replace(b"Hel", b"H\xff"), [f"event 2: {STRANGE}"]),
    "[DONE] twice": (STREAM + DONE, ["more than one [DONE]"]),
    "an event after [DONE]": (STREAM + b'data: {"a":1}\n\n', ["event 6: events after [DONE]"]),
    "no [DONE]": (STREAM.removesuffix(DONE), ["no [DONE]"]),
    "no finish reason": (sse(*EVENTS[:3]), ["no finish reason for choice 0"]),
    "a page behind it": (STREAM + b"<html>\n\n", ["lines that are not part of an event stream"]),
    "another id": (
        sse(*EVENTS[:4], chunk(id="x"), EVENTS[4]),
        ["event 5: its id differs from that of the events before"],
    ),
    "two calls at one index": (
        sse(*CALLS, chunk(choice(finish_reason="tool_calls"))),
        ["event 2: a new id for a tool call at the same index"],
    ),
    "two finish reasons": (
        sse(*EVENTS[:3], chunk(choice(finish_reason="length")), *EVENTS[3:]),
        ['event 5: finish reason "stop" for choice 0, after "length"'],
    ),
    "an error": (sse(*EVENTS, {"error": {"message": "Overloaded"}}), ["event 6: an error"]),
    "an error in words": (b"event: error\ndata: Overloaded\n\n" + STREAM, ["event 1: an error"]),
    "cut inside an event": (STREAM.removesuffix(DONE)[:-30], ["event 5: cut off", "no [DONE]"]),
    "cut": (sse(*EVENTS[:3], done=False), ["no finish reason for choice 0", "no [DONE]"]),
    "nothing at all": (b"", ["the stream has no events"]),
    "several": (
        b"data: null\n\ndata: oops\n\n" + STREAM + DONE,
        ["event 1: its data is null, not an object", "event 2: its data is not JSON", "more than one [DONE]"],
    ),
}

# What only a reader that knows the endpoint finds.
FORCED = STREAMS | {
    "words in an object": (b'data: {"notice": "Busy."}\n\n' + STREAM, ["event 1: text where a chunk should be"]),
    "arguments that are not JSON": (
        sse(chunk(choice(tool_calls=[function_call(0, id="a", name="f", arguments='{"a":')])), *EVENTS[3:]),
        ["the arguments of a call are not JSON"],
    ),
    "another API": (
        b'data: {"type": "response.created", "response": {}}\n\n' + STREAM,
        ["event 1: an event of the responses API"],
    ),
}


def seen_in_view(flow: http.HTTPFlow) -> list[str]:
    assert flow.response is not None
    shown = Metadata(flow=flow, content_type="text/event-stream", http_message=flow.response)
    lines = contentview.view.prettify(flow.response.raw_content or b"", shown).splitlines()
    return [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]


def play(body: bytes, rules: Path, **asked: Any) -> tuple[http.HTTPFlow, list[str]]:
    """The flow with this answer, and what the page's JSON says of it."""

    async def inside() -> tuple[http.HTTPFlow, list[str]]:
        ours = addon.ForceStream(ADDON.with_name("rules.yaml"))
        with taddons.context(ours) as context:
            context.configure(ours, force_stream_rules=str(rules))
            flow = flow_with(request(**asked))
            await ours.request(flow)
            answer_with(flow, body)
            assert flow.response is not None
            ours.responseheaders(flow)
            if callable(flow.response.stream):
                flow.response.raw_content = None
                flow.response.stream(body)
            await ours.response(flow)
            await counted(ours)
            (outcome,) = client_of(Shelf(*ours.stats.latest())).get("/flows").json
            return flow, outcome["odd"]

    rules.write_text(RULES)
    return asyncio.run(inside())


@pytest.mark.parametrize(("body", "expected"), FORCED.values(), ids=list(FORCED))
def test_all_who_tell_what_is_odd_say_the_same_in_the_same_words(
    body: bytes,
    expected: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, "force_stream")
    flow, on_page = play(body, tmp_path / "rules.yaml")
    assert flow.metadata["force_stream.odd"] == expected
    assert on_page == expected
    assert seen_in_view(flow) == expected
    told, cause = "; ".join(expected), flow.metadata["force_stream.cause"]
    log = [line.getMessage() for line in caplog.records if "private-vllm: chat m, " in line.getMessage()]
    for line in (*log, flow.comment):
        assert line.startswith(f"{cause}; private-vllm: chat m, " if cause else "private-vllm: chat m, ")
        assert cause == f"odd: {told}" or line.endswith(f" s; odd: {told}" if told else " s")
    assert len(log) == 1
    assert flow.marked == (":warning:" if expected else "")

    (tmp_path / "stream.sse").write_bytes(body)
    main([str(tmp_path / "stream.sse")])
    on_stderr = capsys.readouterr().err.splitlines()
    first = [cause] if cause and not cause.startswith("odd: ") else []
    assert [
        line for line in on_stderr if not line.startswith("an error: the client would get status")
    ] == first + expected


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, (body, _) in STREAMS.items() if body])
def test_of_a_clients_own_stream_page_and_view_say_the_same(body: bytes, tmp_path: Path) -> None:
    flow, on_page = play(body, tmp_path / "rules.yaml", stream=True)
    assert "force_stream.odd" not in flow.metadata
    assert on_page == seen_in_view(flow)


def test_what_an_older_version_kept_is_shown_as_it_is() -> None:
    flow = tflow.tflow()
    flow.response = http.Response.make(200, b"{}", {"Content-Type": "application/json"})
    old = ["event 3: its data is not JSON", "event 4: its data is not JSON"]
    flow.metadata = {"force_stream.sse": STREAM, "force_stream.odd": old}
    assert seen_in_view(flow) == old


def test_one_line_has_an_end() -> None:
    assert in_brief([]) == ""
    many = [f"{number}" for number in range(MOST_IN_BRIEF + 2)]
    assert in_brief(many) == "0; 1; 2; 3; 4; 2 more"


# The short cut for events that are alike


def read(stream: bytes, sizes: list[int]) -> tuple[list[str], int]:
    answer: AnswerReader = AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")
    at = 0
    while at < len(stream):
        size = sizes[at % len(sizes)]
        answer.feed(stream[at : at + size])
        at += size
    answer.finish()
    return answer.report.odd, answer.report.events


TEXTS = st.sampled_from(
    [b"a", b"\xc3\xa9", b"\xff", b"\xef\xbf\xbd", rb"\ufffd", b"\xc3", b"\xa9", b'x"', b"\n", b"", rb"\u00e9"]
)
ENVELOPES = [
    json.dumps(chunk(choice(content="@"), **more), separators=(",", ":")).encode()
    for more in ({}, {"id": "other"}, {"obfuscation": "@"}, {"system_fingerprint": "\ufffd"})
]


@given(
    st.lists(st.tuples(st.sampled_from(ENVELOPES), st.lists(TEXTS, min_size=1, max_size=6)), max_size=8),
    st.lists(st.integers(1, 900), min_size=1, max_size=3),
)
def test_the_short_cut_finds_what_is_odd(said: list[tuple[bytes, list[bytes]]], sizes: list[int]) -> None:
    stream = b"".join(b"data: " + envelope.replace(b"@", text) + b"\n\n" for envelope, texts in said for text in texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "Repeats", Never)
        plain = read(stream, [1 << 30])
    assert read(stream, sizes) == plain
    assert read(stream, [1 << 30]) == plain
