"""What a person sees of the other direction, where events are made of a plain answer: file, view, page, commands."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from force_stream import aggregate
from force_stream.view import contentview
from harness import (
    Answer,
    Certs,
    Close,
    Data,
    End,
    Gate,
    Head,
    Http1Client,
    Proxy,
    Request,
    Response,
    ShortLength,
    Signal,
    Upstream,
    WaitFor,
    document,
    event_stream,
    read_flows,
    refused_port,
)
from harness.paths import ADDON, ROOT
from harness.proxy import MITMDUMP, START_TIMEOUT, flows_of
from harness.samples import CHAT, STREAM, USAGE, request
from mitmproxy import http
from mitmproxy.contentviews import Metadata

RULES = """\
rules:
  - {name: small, hosts: ["*"], models: [small], max_body: 200, force_upstream_plain: true}
  - {name: forced, hosts: ["*"], models: [forced], force_upstream_stream: true}
  - {name: plain, hosts: ["*"], force_upstream_plain: true}
"""
MESSAGE = {"role": "assistant", "content": "Grüße aus Graz, der Stadt an der Mur", "refusal": None}
CHOICE = {"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}
ANSWER = {"id": "c1", "object": "chat.completion", "created": 7, "model": "m", "choices": [CHOICE], "usage": USAGE}
BYTES = json.dumps(ANSWER).encode()
ERROR = {"error": {"message": "Too many", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
JSON = "application/json"
KEY = "sk-live-0123456789abcdef"


@pytest.fixture
def make(proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path) -> Callable[..., Proxy]:
    """`make(**options)`: a mitmdump that takes commands and writes a flow file."""
    (tmp_path / "rules.yaml").write_text(RULES)

    def start(**options: Any) -> Proxy:
        options = {"force_stream_rules": tmp_path / "rules.yaml", "connection_strategy": "lazy"} | options
        mode = f"reverse:{upstream.url()}"
        return proxy_factory(mode, scripts=[ADDON], options=options, remote=True, flow_file=tmp_path / "flows")

    return start


def ask(proxy: Proxy, key: str = "one", **members: Any) -> Response:
    asked = request(stream=True, stream_options={"include_usage": True}) | members
    with Http1Client(proxy.url) as client:
        return client.post(CHAT, asked, [("x-answer", key), ("authorization", f"Bearer {KEY}")])


def shown(flow: http.HTTPFlow) -> str:
    assert flow.response is not None
    return contentview.view.prettify(flow.response.content or b"", Metadata(flow=flow, http_message=flow.response))


def header_of(text: str) -> dict[str, str]:
    """The lines of the view up to what was odd."""
    head = text.partition("\n \n")[0].splitlines()
    return {line[:14].strip(): line[15:] for line in head}


def test_the_flow_file_keeps_the_plain_answer_as_it_came_and_the_view_shows_it(
    make: Callable[..., Proxy], upstream: Upstream
) -> None:
    proxy, gate = make(), Gate()
    upstream.answer(Head(content_type=JSON), Data(BYTES[:50]), Signal(gate), Data(BYTES[50:]), End())
    got = ask(proxy)
    assert json.loads(aggregate(got.body).body) == ANSWER
    proxy.stop()
    (flow,) = read_flows(proxy.flow_file)
    notes = {name.removeprefix("force_stream."): value for name, value in flow.metadata.items()}
    count = got.body.count(b"data: {")
    assert (notes["sse"], notes["sse_status"], notes["sse_type"]) == (BYTES, 200, JSON)
    assert (notes["made_plain"], notes["given"], notes["with_usage"], notes["bytes"]) == (True, count, True, len(BYTES))
    assert notes["times"][-1] == len(BYTES)
    assert 0 < notes["times"][0] <= notes["times"][-2] <= notes["ended"]
    assert flow.response.raw_content == got.body
    text = shown(flow)
    header = header_of(text)
    assert header["direction"] == f"sent plain, given as {count} events"
    assert header["text"] == f'"{MESSAGE["content"]}"'
    assert (header["bytes"], header["finish reason"]) == (f"{len(BYTES):,}", "stop")
    for name in ("first byte", "end"):
        assert re.fullmatch(r"\d+\.\d{3} s", header[name]), name
    assert not {"events", "first event", "first content", "body"} & header.keys()
    assert "0 events" not in text
    assert "what it added" not in text
    made = text.partition("The document:\n")[2]
    assert json.loads(made) == ANSWER
    assert '      "index": 0,\n' in made


# What comes, the cause in the words of all places, and what the view shows of it.
FAILURES: dict[str, tuple[list[Any], str, str]] = {
    "an error": (
        [document(ERROR, status=429)],
        'rate limited by the upstream (429, rate_limit_exceeded): "Too many"',
        '"message": "Too many"',
    ),
    "a page": (
        [Head(content_type="text/html"), Data(b"<html><p>Please sign in</p>"), End()],
        'a sign-in page (text/html) in place of an answer: "Please sign in"',
        "What came:\n<html><p>Please sign in</p>",
    ),
    "cut": (
        [Head(content_type=JSON, framing=ShortLength(10)), Data(BYTES[:50]), Close()],
        "cut off after 50 bytes (connection closed after 50 of 60 bytes)",
        '"object": "chat.completion"',
    ),
    "cut at once": (
        [Head(content_type=JSON, framing=ShortLength(10)), Close()],
        "cut off before the first byte (connection closed after 0 of 10 bytes)",
        "Nothing came.",
    ),
    "nothing": ([Head(content_type=JSON), End()], "the upstream's answer was empty", "Nothing came."),
    "another document": (
        [document({"hello": "world"})],
        'the upstream\'s plain answer is not one of the chat API: "{"hello": "world"}"',
        '"hello": "world"',
    ),
    "not JSON": (
        [Head(content_type=JSON), Data(b"the model is loading"), End()],
        'the upstream failed: "the model is loading"',
        "What came:\nthe model is loading",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_says_its_cause_in_the_words_of_this_direction(
    make: Callable[..., Proxy], upstream: Upstream, case: str
) -> None:
    steps, cause, body = FAILURES[case]
    proxy = make()
    upstream.answer(*steps)
    assert ask(proxy).status >= 400
    proxy.wait_for_log(re.escape(f"{cause}; plain: chat m, "))
    proxy.stop()
    assert "0 events" not in proxy.log
    (flow,) = read_flows(proxy.flow_file)
    assert flow.comment.startswith(f"{cause}; plain: chat m, ")
    assert "sent plain" in flow.comment
    text = shown(flow)
    header = header_of(text)
    assert (header["cause"], header["direction"]) == (cause, "sent plain")
    assert body in text
    assert "0 events" not in text


def test_a_client_that_gives_up_is_told_in_bytes(make: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy, begun, gate = make(), Gate(), Gate()
    upstream.answer(Head(content_type=JSON), Data(BYTES[:50]), Signal(begun), WaitFor(gate), End())
    try:
        with Http1Client(proxy.url) as client:
            client.start("POST", CHAT, [], json.dumps(request(stream=True)).encode())
            begun.wait()
            proxy.settle()
    finally:
        gate.open()
    proxy.wait_for_log(r"the client gave up after \d+\.\d s, \d+\.\d s after 50 bytes of the answer; plain: chat m")
    proxy.stop()
    (flow,) = read_flows(proxy.flow_file)
    assert flow.metadata["force_stream.sse"] == BYTES[:50]
    assert header_of(shown(flow))["direction"] == "sent plain"


def test_more_than_the_rule_allows_is_not_kept(make: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = make()
    big = BYTES.replace(b"Graz", b"G" * 10_000)
    upstream.answer(Head(content_type=JSON), Data(big[:150]), Data(big[150:]), End())
    assert ask(proxy, model="small").json()["error"]["code"] == "stream_too_large"
    proxy.stop()
    (flow,) = read_flows(proxy.flow_file)
    assert big.startswith(flow.metadata["force_stream.sse"])
    assert len(flow.metadata["force_stream.sse"]) <= 200


def test_a_stream_that_came_all_the_same_is_shown_as_one(make: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = make()
    upstream.answer(Head(content_type=JSON), Data(STREAM), End())
    assert ask(proxy).status == 200
    proxy.stop()
    (flow,) = read_flows(proxy.flow_file)
    header = header_of(shown(flow))
    assert header["events"] == "5, then [DONE]"
    assert "direction" not in header, "its client got it as it came"


def test_a_document_in_place_of_the_clients_own_stream_was_not_sent_plain(
    make: Callable[..., Proxy], upstream: Upstream
) -> None:
    proxy = make()
    upstream.answer(document(ANSWER))
    got = ask(proxy, model="forced")
    proxy.wait_for_log("forced: chat forced, 200, JSON given as events, finish stop, ")
    proxy.stop()
    (flow,) = read_flows(proxy.flow_file)
    header = header_of(shown(flow))
    assert header["direction"] == f"JSON given as {got.body.count(b'data: {')} events"
    assert flow.metadata["force_stream.sse"] == BYTES


# The page, the figures, the report


def at(port: int, path: str) -> Response:
    with Http1Client(f"http://127.0.0.1:{port}") as client:
        return client.request("GET", path)


def test_the_page_and_the_figures_know_the_direction(make: Callable[..., Proxy], upstream: Upstream) -> None:
    port = refused_port()
    proxy = make(force_stream_page_port=port)
    secret = {**ANSWER, "choices": [{**CHOICE, "message": {**MESSAGE, "content": f"Your key is {KEY}."}}]}
    upstream.answer(document(secret))
    got = ask(proxy)
    upstream.answer(document(ERROR, status=429))
    ask(proxy)
    proxy.wait_for_log("rate limited by the upstream")
    proxy.settle()
    failed, fine = at(port, "/flows").json()
    count = got.body.count(b"data: {")
    assert (fine["ok"], fine["events"], fine["first_event"]) == (True, count, None)
    assert (fine["direction"], failed["direction"]) == (f"sent plain, given as {count} events", "sent plain")
    assert (failed["ok"], failed["events"], failed["status"]) == (False, 0, 429)
    (row,) = at(port, "/stats").json()
    assert (row["flows"], row["ok"], row["errors"], row["time_to_first_event"]) == (2, 1, 1, None)
    assert row["duration"]["p50"] is not None
    metrics = at(port, "/metrics").body.decode()
    assert re.search(r'force_stream_requests_total\{[^}]*model="m",outcome="ok"\} 1\n', metrics)
    assert re.search(r'force_stream_requests_total\{[^}]*model="m",outcome="error"\} 1\n', metrics)
    assert re.search(r"force_stream_first_event_seconds_count\{[^}]*\} 0\n", metrics)
    listed = at(port, "/").body.decode()
    assert f"sent plain, given as {count} events, " in listed
    opened = at(port, f"/flows/{fine['id']}.html").body.decode()
    assert "What the upstream sent" in opened
    assert f"a document, given as {count} events" in opened
    assert "Your key is ***" in opened
    for text in (listed, opened, at(port, f"/flows/{failed['id']}.html").body.decode()):
        assert "0 events" not in text
        assert KEY not in text
    saved = {kind: at(port, f"/flows/{fine['id']}.{kind}").body for kind in ("json", "sse")}
    assert KEY.encode() not in b"".join(saved.values())
    assert json.loads(saved["json"])["usage"] == USAGE
    assert saved["sse"].startswith(b"data: {")
    assert at(port, f"/flows/{failed['id']}.sse").status == 404
    (line,) = [line for line in proxy.command("force_stream.stats") if " m " in line]
    assert line.split()[2:6] == ["2", "1", "0", "0"]


def test_a_report_knows_the_direction(make: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = make()
    upstream.answer(document(ANSWER))
    got = ask(proxy)
    upstream.answer(Head(content_type="text/html"), Data(b"<html><p>Please sign in</p>"), End())
    ask(proxy)
    proxy.stop()
    line = [sys.executable, "-m", "force_stream.cli", "report", str(proxy.flow_file), "-o", "-"]
    environment = {"PYTHONPATH": str(ROOT / "lib")}
    page = subprocess.run(line, capture_output=True, timeout=START_TIMEOUT, env=environment, check=True).stdout.decode()
    assert f"sent plain, given as {got.body.count(b'data: {')} events, " in page
    assert "a sign-in page (text/html) in place of an answer" in page
    assert f"What the upstream sent ({len(BYTES):,} bytes)" in page
    assert "0 events" not in page
    assert KEY not in page


# The commands


def test_the_events_are_made_again_from_a_flow_file(
    make: Callable[..., Proxy], upstream: Upstream, tmp_path: Path, certs: Certs
) -> None:
    proxy = make()
    upstream.answer(document(ANSWER))
    upstream.answer(document(ANSWER))
    upstream.answer(Head(content_type=JSON, framing=ShortLength(10)), Data(BYTES[:50]), Close())
    answers = [ask(proxy), ask(proxy, stream_options=None), ask(proxy)]
    proxy.stop()
    line = [str(MITMDUMP), "--set", f"confdir={certs.confdir(tmp_path / 'confdir')}", "--set", "flow_detail=0"]
    line += ["-n", "-r", str(proxy.flow_file), "-w", str(tmp_path / "again"), "-s", str(ADDON)]
    line += ["--set", f"force_stream_rules={tmp_path / 'rules.yaml'}", "--set", "force_stream_aggregate=true"]
    log = subprocess.run(line, capture_output=True, text=True, timeout=START_TIMEOUT, check=True).stdout
    assert log.count("plain: chat m, 200, sent plain, given as events, finish stop, ") == 2
    assert "cut off after 50 bytes (connection closed after 50 of 60 bytes); plain: chat m, 502" in log
    before, after = read_flows(proxy.flow_file), read_flows(tmp_path / "again")
    assert [flow.response.raw_content for flow in after] == [answer.body for answer in answers]
    for name in ("sse", "times", "given", "with_usage", "sse_type"):
        name = f"force_stream.{name}"
        assert [flow.metadata[name] for flow in after] == [flow.metadata[name] for flow in before], name


def test_sse_writes_what_the_upstream_sent_and_says_what_that_is(
    make: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> None:
    proxy = make()
    upstream.answer(document(ANSWER))
    ask(proxy, "one")
    proxy.command("force_stream.sse", flows_of("one"), str(tmp_path / "out.json"))
    proxy.wait_for_log(rf"{len(BYTES):,} bytes written to .*out\.json")
    assert (tmp_path / "out.json").read_bytes() == BYTES


def either(stream: Any) -> Callable[[Request], Any]:
    return lambda seen: stream if seen.json().get("stream") else document(ANSWER)


LIVE = json.loads(aggregate(STREAM).body)
CHUNK = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
SAME = [
    CHUNK | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
    for delta, finish in (({"role": "assistant", "content": MESSAGE["content"], "refusal": None}, None), ({}, "stop"))
]
REFUSED = {
    "error": {
        "message": "Your organization must be verified to stream this model.",
        "type": "invalid_request_error",
        "param": "stream",
        "code": "unsupported_value",
    }
}
COMPARED: dict[str, tuple[Any, str, str]] = {
    "the same": (
        event_stream(b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in SAME) + b"data: [DONE]\n\n"),
        "",
        r"plain and live give the same answer, apart from ids and times",
    ),
    "another text": (
        event_stream(STREAM),
        r'\$\.choices\[0\]\.message\.content: "Gr.*" vs "Hello"',
        r"plain: 200; live: 200: \d differences?; the log has them",
    ),
    "refused": (
        document(REFUSED, status=400),
        "",
        r"plain: 200; live: 400 .*must be verified to stream.*: this upstream cannot stream this request",
    ),
    "cut": (
        [Head(), Data(STREAM[:300]), End()],
        "",
        r"plain: 200; live: 502 \(cut off inside event \d .*\): streaming is what fails here",
    ),
}


@pytest.mark.parametrize("case", COMPARED)
def test_compare_sends_the_clients_own_stream_beside_the_plain_request(
    make: Callable[..., Proxy], upstream: Upstream, case: str
) -> None:
    stream, difference, verdict = COMPARED[case]
    proxy = make()
    upstream.answer(document(ANSWER))
    got = ask(proxy, stream_options=None)
    assert got.status == 200
    answer = Answer.of(*stream) if isinstance(stream, list) else stream
    upstream.handle(either(answer))
    since = proxy.mark()
    proxy.command("force_stream.compare", flows_of("one"))
    proxy.wait_for_log(rf"force_stream\.compare {CHAT}: {verdict}", since=since)
    if difference:
        proxy.wait_for_log(rf"force_stream\.compare {CHAT}: {difference}", since=since)
    assert sorted(bool(seen.json().get("stream")) for seen in upstream.requests[1:]) == [False, True]
    assert all(seen.header("authorization") == f"Bearer {KEY}" for seen in upstream.requests)


def test_compare_says_that_a_client_that_asks_plainly_has_nothing_to_compare(
    make: Callable[..., Proxy], upstream: Upstream
) -> None:
    proxy = make()
    upstream.answer(document(ANSWER))
    ask(proxy, stream=False, stream_options=None)
    proxy.command("force_stream.compare", flows_of("one"))
    proxy.wait_for_log("this request itself asks for a plain answer")


def test_explain_says_why_a_stream_was_not_asked_for_plainly(make: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = make()
    upstream.answer_always(document(ANSWER))
    ask(proxy, "taken")
    ask(proxy, "plain", stream=False)
    with Http1Client(proxy.url) as client:
        background = {"model": "m", "input": "x", "background": True, "stream": True}
        client.post("/v1/responses", background, [("x-answer", "background")])
    for key, words in {
        "taken": "rule plain takes it; its request was sent plain, and its client gets events",
        "plain": "rule plain takes it; the client itself asks for a plain answer",
        "background": "left as it came: ",
    }.items():
        (line,) = [line for line in proxy.command("force_stream.explain", flows_of(key)) if "takes it" in line]
        assert words in line, key
