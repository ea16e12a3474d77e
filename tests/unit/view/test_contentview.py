"""The content view in mitmproxy's own hands: its registry, its priorities, flows live and out of a file."""

import asyncio
import json
import zlib
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
from force_stream import addon
from force_stream.view import contentview
from harness.paths import ADDON
from harness.samples import DOCUMENT, RESPONSE_STREAM, STREAM
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import contentviews, ctx, http
from mitmproxy.contentviews import Metadata
from mitmproxy.test import taddons, tflow

NAME = "upstream sse"
KEPT = {
    "force_stream.rule": "private-vllm",
    "force_stream.endpoint": "chat",
    "force_stream.model": "m",
    "force_stream.sse": STREAM,
    "force_stream.sse_status": 200,
    "force_stream.times": [0.25, len(STREAM) - 14, 0.5, len(STREAM)],
    "force_stream.finish_reason": "stop",
    "force_stream.inferred": False,
    "force_stream.odd": [],
}
OWN = {"force_stream.rule": "private-vllm", "force_stream.times": KEPT["force_stream.times"]}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    contentview.register()
    yield
    contentview.unregister()
    assert NAME not in contentviews.registry


def flow_with(
    body: bytes = STREAM, content_type: str | None = "text/event-stream", metadata: dict[str, Any] | None = None
) -> http.HTTPFlow:
    flow = tflow.tflow()
    flow.response = http.Response.make(200, body, {"Content-Type": content_type} if content_type else {})
    flow.metadata = dict(metadata or {})
    return flow


REWRITTEN = json.dumps(DOCUMENT).encode(), "application/json", KEPT


def packed(body: bytes) -> list[bytes]:
    """A stream that an upstream compresses event by event."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    events = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]
    pieces = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events]
    return [*pieces[:-1], pieces[-1] + packer.flush()]


def seen(
    flow: http.HTTPFlow, view: str = "auto", message: http.Message | None = None, **options: bool
) -> tuple[str | None, str]:
    """The name of the view that mitmproxy takes, and what it shows."""

    async def inside() -> contentviews.ContentviewResult:
        with taddons.context(addon.ForceStream(ADDON.with_name("rules.yaml"))) as context:
            context.options.update(**options)
            return contentviews.prettify_message(message or flow.response, flow, view)

    result = asyncio.run(inside())
    return result.view_name, result.text


@pytest.mark.parametrize(
    ("body", "content_type", "metadata", "expected"),
    [
        pytest.param(*REWRITTEN, "JSON", id="a rewritten answer"),
        pytest.param(STREAM, "text/event-stream", OWN, "Upstream SSE", id="a client's own stream"),
        pytest.param(STREAM, "Text/Event-Stream; charset=utf-8", {}, "Upstream SSE", id="a stream of no rule's"),
        pytest.param(b"{}", "application/json", {}, "JSON", id="an answer of no rule's"),
        pytest.param(b"<html>", "text/html", KEPT, "XML/HTML", id="a page passed on"),
        pytest.param(b"text", "text/plain", {}, "Raw", id="text"),
        pytest.param(b"text", None, KEPT, "Raw", id="no type"),
    ],
)
def test_json_stays_the_first_view_of_an_answer(
    body: bytes, content_type: str, metadata: dict[str, Any], expected: str
) -> None:
    assert seen(flow_with(body, content_type, metadata))[0] == expected


def test_this_view_is_the_next_after_json_for_a_rewritten_answer() -> None:
    flow = flow_with(*REWRITTEN)
    metadata = Metadata(flow=flow, content_type="application/json", http_message=flow.response)
    priorities = {
        name: view.render_priority(flow.response.raw_content, metadata) for name, view in contentviews.registry.items()
    }
    assert sorted(priorities, key=lambda name: -priorities[name])[:2] == ["json", NAME]


@pytest.mark.parametrize(
    ("first", "marked", "metadata", "expected"),
    [
        (True, ":warning:", KEPT, "Upstream SSE"),
        (True, "", KEPT, "JSON"),
        (False, ":warning:", KEPT, "JSON"),
        (True, ":warning:", {}, "JSON"),
    ],
    ids=["asked for", "not marked", "not asked for", "no stream"],
)
def test_an_option_makes_this_view_the_first_of_marked_flows(
    first: bool, marked: str, metadata: dict[str, Any], expected: str
) -> None:
    flow = flow_with(*REWRITTEN[:2], metadata)
    flow.marked = marked
    assert seen(flow, force_stream_view_first=first)[0] == expected


def test_a_marked_flow_is_shown_where_no_mitmproxy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_with(*REWRITTEN)
    flow.marked = ":warning:"
    assert flow.response
    metadata = Metadata(flow=flow, http_message=flow.response, content_type="application/json")
    monkeypatch.delattr(ctx, "options", raising=False)
    assert "rule           private-vllm" in contentview.view.prettify(flow.response.content or b"", metadata)


def test_a_rewritten_answer_shows_the_stream_behind_it() -> None:
    name, text = seen(flow_with(*REWRITTEN), "Upstream SSE")
    assert name == "Upstream SSE"
    assert "rule           private-vllm" in text
    assert "first event    0.250 s" in text
    assert 'content +"Hel"' in text
    assert "Nothing odd." in text


def test_a_clients_own_stream_is_its_response_with_the_times_that_were_kept() -> None:
    _, text = seen(flow_with(metadata=OWN | {"force_stream.cut_at": 1000}))
    assert "first event    0.250 s" in text
    assert "kept           only the first 1,000 bytes" in text


def test_a_stream_that_no_addon_saw_is_shown_without_times() -> None:
    _, text = seen(flow_with())
    assert "rule           none" in text
    assert "times          not recorded" in text
    assert 'content +"Hel"' in text


def test_a_compressed_stream_is_shown_decoded() -> None:
    pieces = packed(STREAM)
    times = [value for number, size in enumerate(accumulate(map(len, pieces)), 1) for value in (number / 10, size)]
    flow = flow_with(b"".join(pieces), metadata={"force_stream.times": times})
    flow.response.headers["content-encoding"] = "gzip"
    _, text = seen(flow)
    assert "content-encoding gzip\n" in text
    assert '      2     0.200    +0.100  chunk   content +"Hel"' in text.splitlines()
    assert "first content  0.200 s\n" in text
    del flow.metadata["force_stream.times"]
    assert "times          not recorded\n" in seen(flow)[1]


@pytest.mark.parametrize("missing", [1, 12, 60])
def test_of_a_compressed_stream_that_is_cut_off_what_came_is_shown(missing: int) -> None:
    body = b"".join(packed(STREAM))[:-missing]
    flow = flow_with(body, metadata={"force_stream.times": [0.1, len(body)]})
    flow.response.headers["content-encoding"] = "gzip"
    _, text = seen(flow)
    assert 'text           "Hello"\n' in text
    assert any(line.split()[:3] == ["2", "0.100", "+0.000"] for line in text.splitlines())


def test_an_older_flow_of_a_compressed_stream_has_no_times_per_event() -> None:
    _, text = seen(flow_with(*REWRITTEN[:2], KEPT | {"force_stream.times": [0.1, 20, 0.5, 70]}), NAME)
    assert "no time per event: the upstream compressed its stream\n" in text


def test_the_cause_the_head_and_a_silence_at_the_end_are_shown() -> None:
    metadata = KEPT | {
        "force_stream.cause": "cut off after event 5 (connection reset), 5.1 s after the last byte",
        "force_stream.truncated": True,
        "force_stream.error": "stream_truncated",
        "force_stream.cut_by": "connection reset",
        "force_stream.ended": 5.6,
        "force_stream.head": [["Content-Type", b"text/event-stream"], ["X-Request-Id", b"req-\x1b1"], ["Server", b"a"]],
    }
    lines = seen(flow_with(b"{}", "application/json", metadata), NAME)[1].splitlines()
    assert lines[0] == "cause          cut off after event 5 (connection reset), 5.1 s after the last byte"
    assert "content-type   text/event-stream" in lines
    assert "x-request-id   req-\\x1b1" in lines
    assert "longest gap    5.100 s, from 0.500 to 5.600 s" in lines
    assert lines[-1].split(maxsplit=3) == ["!", "5.600", "+5.100", "[5.1 s of silence, then cut off: connection reset]"]


@pytest.mark.parametrize(
    ("metadata", "end"),
    [
        ({"force_stream.error": "client_gone", "force_stream.cut_by": "the client gave up"}, "the client gave up"),
        ({"force_stream.error": "stream_timeout", "force_stream.limit": "no byte for 5 s"}, "timed out"),
        ({}, "the end"),
    ],
)
def test_what_a_silence_ended_with_is_said(metadata: dict[str, Any], end: str) -> None:
    _, text = seen(flow_with(*REWRITTEN[:2], KEPT | metadata | {"force_stream.ended": 5.6}), NAME)
    assert text.endswith(f"[5.1 s of silence, then {end}]\n")


@pytest.mark.parametrize("error", ["client_gone", "no_answer"])
def test_a_client_that_got_no_answer_is_not_said_to_have_got_an_error(error: str) -> None:
    lines = seen(flow_with(STREAM, "text/event-stream", KEPT | {"force_stream.error": error}), NAME)[1].splitlines()
    assert not [line for line in lines if line.startswith("client got")]
    assert "status         200 from the upstream, nothing to the client" in lines


def test_the_head_of_an_older_flow_is_what_is_known_of_the_upstreams() -> None:
    _, text = seen(flow_with(*REWRITTEN[:2], KEPT | {"force_stream.sse_type": "text/plain"}), NAME)
    assert "content-type   text/plain\n" in text
    assert "application/json" not in text


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/chat/completions", STREAM, '"Hello"'),
        ("/any/path", STREAM, '"Hello"'),
        ("/any/path", RESPONSE_STREAM, '"Hello"'),
        ("/v1/audio/transcriptions", b"data: Hel\n\ndata: lo\n\n", '"Hello"'),
    ],
)
def test_a_stream_that_no_addon_saw_has_its_text_joined(path: str, body: bytes, said: str) -> None:
    flow = flow_with(body)
    flow.request.path = path
    assert seen(flow)[1].splitlines()[0] == f"text           {said}"


def test_what_became_of_the_answer_is_told() -> None:
    metadata = KEPT | {
        "force_stream.truncated": True,
        "force_stream.error": "stream_truncated",
        "force_stream.retried_as": ["a", "b"],
        "force_stream.odd": ["event 3: its data is not JSON"],
    }
    flow = flow_with(b"{}", "application/json", metadata)
    flow.response.status_code = 502
    _, text = seen(flow, NAME)
    for line in (
        "status         200 from the upstream, 502 to the client",
        "try            1 of 3; the others are separate flows",
        "  - event 3: its data is not JSON",
        "truncated      cut off after event 5",
        "this try       an error: stream_truncated",
    ):
        assert line in text.splitlines()


def test_what_another_try_came_to_is_not_said_of_the_client() -> None:
    flow = flow_with(
        b"{}", "application/json", KEPT | {"force_stream.try": 2, "force_stream.error": "stream_truncated"}
    )
    flow.response.status_code = 502
    lines = seen(flow, NAME)[1].splitlines()
    assert "status         200 from the upstream, 502 made of it" in lines
    assert "try            2" in lines
    assert "this try       an error: stream_truncated" in lines
    assert "to the client" not in "".join(lines)


def test_an_inferred_finish_reason_is_told() -> None:
    _, text = seen(flow_with(b"{}", "application/json", KEPT | {"force_stream.inferred": True}), NAME)
    assert "finish reason  stop (inferred)" in text


def test_a_request_has_no_event_stream() -> None:
    flow = flow_with()
    flow.request.headers["content-type"] = "text/event-stream"
    flow.request.content = STREAM
    assert seen(flow, message=flow.request)[0] != "Upstream SSE"
    assert seen(flow, NAME, flow.request)[1] == STREAM.decode()


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        (b'{"a":[1]}', "application/json", '{\n    "a": [\n        1\n    ]\n}'),
        (b"oops", "application/json", "oops"),
        (b"<b>a</b>", "text/html", "<b>a</b>\n"),
        (b"plain", None, "plain"),
        (b"if (a)\n{\n}\n[1]\n", "text/plain", "if (a)\n{\n}\n[1]\n"),
        (b"", None, ""),
    ],
)
def test_a_body_that_is_no_event_stream_is_shown_as_usual(body: bytes, content_type: str | None, shown: str) -> None:
    assert seen(flow_with(body, content_type), NAME) == ("Upstream SSE", shown)


def test_an_event_stream_with_another_label_is_shown_when_this_view_is_chosen() -> None:
    flow = flow_with(content_type="text/plain")
    assert seen(flow)[0] == "Raw"
    assert seen(flow, NAME)[1].startswith('text           "Hello"\n')


@pytest.mark.parametrize(
    "metadata",
    [
        Metadata(),
        Metadata(content_type="text/event-stream"),
        Metadata(flow=tflow.ttcpflow()),
        Metadata(http_message=http.Response.make(200, b"")),
        Metadata(http_message=http.Response.make(204, STREAM), content_type="text/event-stream"),
    ],
    ids=["nothing", "a type alone", "no HTTP", "a response alone", "a response and a type"],
)
def test_the_view_manages_without_what_mitmproxy_may_leave_out(metadata: Metadata) -> None:
    assert isinstance(contentview.view.render_priority(STREAM, metadata), float)
    assert "Hel" in contentview.view.prettify(STREAM, metadata)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*KEPT, "force_stream.try", "force_stream.retried_as", "other"]), VALUES))
def test_no_metadata_of_a_foreign_file_harms_the_view(metadata: dict[str, Any]) -> None:
    flow = flow_with(metadata=metadata)
    shown = Metadata(flow=flow, content_type="text/event-stream", http_message=flow.response)
    assert all(line.isprintable() for line in contentview.view.prettify(STREAM, shown).split("\n"))
    contentview.view.render_priority(STREAM, shown)


# The registry


def test_the_view_is_offered_once_however_often_it_is_registered() -> None:
    contentview.register()
    assert contentviews.registry.available_views().count(NAME) == 1
    assert contentviews.registry[NAME] is contentview.view


def test_another_view_of_the_same_name_is_not_taken_away() -> None:
    other = contentview.UpstreamSSE()
    contentviews.add(other)
    contentview.unregister()
    assert contentviews.registry[NAME] is other
    contentview.register()
