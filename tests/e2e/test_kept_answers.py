"""Answers whose clients gave up: mitmdump with the addon between real clients that leave, and come back."""

import itertools
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from force_stream import aggregate
from harness import (
    H2_UPSTREAM,
    Answer,
    Certs,
    Close,
    Data,
    End,
    Gate,
    Head,
    Http1Client,
    Http2Client,
    Linger,
    Proxy,
    Response,
    Signal,
    Upstream,
    WaitFor,
    document,
    event_stream,
    openai_client,
    refused_port,
    sse,
)
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, DOCUMENT, EVENTS, SECRET, STREAM, request

RULE = """\
  - name: {name}
    hosts: ["127.0.0.1", "localhost"]
    models: ["{name}"]
    force_upstream_stream: true
    {keys}
"""
RULES = "rules:\n" + "".join(
    RULE.format(name=name, keys="\n    ".join(keys))
    for name, keys in {
        "kept": ["keep_answers: 300"],
        "beating": ["keep_answers: 300", "heartbeat: 0.2"],
        "hurried": ["keep_answers: 300", "idle_timeout: 2"],
        "stalled": ["keep_answers: 300", "inject: {stall: 2}"],
        "retried": ["keep_answers: 300", "retries: 1"],
        "partial": ["keep_answers: 300", "on_truncated: partial"],
        "rejecting": ["keep_answers: 300"],
        "brief": ["keep_answers: 0.5"],
        "changed": ["keep_answers: 300"],
        "not-kept": ["keep_answers: null"],
    }.items()
)
RULES += """\
  - {name: plain, hosts: ["127.0.0.1"], models: [plain], keep_answers: 300, heartbeat: 0.1, force_upstream_plain: true}
"""
HTTP, TLS, H2, REGULAR = range(4)
GAVE_UP = "the client gave up; its answer is read to its end"
_keys = (f"kept-{number}" for number in itertools.count(1))


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], shared_rules: Callable[..., Any], upstream: Upstream) -> Iterator[Proxy]:
    modes = [f"reverse:{upstream.url(listener)}" for listener in ("http", "https", "h2")]
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    scripts = [ADDON, SCRIPTS / "quick_retries.py", H2_UPSTREAM, SCRIPTS / "neighbours.py"]
    proxy = shared_proxy(*modes, "regular", scripts=scripts, options=options, remote=True)
    since = proxy.mark()
    yield proxy
    # mitmproxy's own addons fail at a response that a script has taken away.
    ours = ("lib/force_stream/", "crashed", "a bug in")
    assert [line for line in proxy.log_lines[since:] if any(word in line for word in ours)] == []


@pytest.fixture
def headers() -> list[tuple[str, str]]:
    """Those of this test's requests alone."""
    return [
        ("content-type", "application/json"),
        ("authorization", f"Bearer {SECRET}"),
        ("x-answer", next(_keys)),
    ]


class Scripted:
    """An answer that waits after its third event."""

    def __init__(self, upstream: Upstream) -> None:
        self.begun, self.gate = Gate(), Gate()
        begin, rest = sse(*EVENTS[:3], done=False), sse(*EVENTS[3:])
        upstream.answer(Head(), Data(begin), Signal(self.begun), WaitFor(self.gate), Data(rest), End())


def leave_at(client: Http1Client | Http2Client, how: str, stream: int = 1) -> None:
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "rst_stream":
        assert isinstance(client, Http2Client)
        client.rst_stream(stream)
    else:
        client.close()


def wait_for_heartbeat(client: Http1Client | Http2Client, beat: bytes = b" ") -> Callable[[], Response]:
    """Returns what reads the rest of the answer."""
    if isinstance(client, Http2Client):
        while not client.receive_some(1).chunks:
            pass
        assert client.open_response[1].body == beat
        return lambda: client.receive(1)
    incoming = client.begin("POST")
    assert incoming.read_piece() == beat

    def receive() -> Response:
        while incoming.read_piece() is not None:
            pass
        return incoming.response

    return receive


def body_of(model: str, **members: Any) -> bytes:
    return json.dumps(request(model, **members)).encode()


@pytest.fixture
def connect(proxy: Proxy, upstream: Upstream, certs: Certs) -> Callable[..., Any]:
    def connect(version: str, mode: int = HTTP) -> Http1Client | Http2Client:
        if mode == REGULAR:
            kind = Http1Client if version == "h1" else Http2Client
            return kind(upstream.url("https", "localhost"), certs, via=proxy.urls[REGULAR])
        if version == "h1":
            return Http1Client(proxy.urls[mode], certs)
        return Http2Client(proxy.urls[mode].replace("http:", "https:"), certs)

    return connect


@pytest.mark.parametrize("mode", [HTTP, TLS, H2, REGULAR], ids=["http", "https", "h2", "tunnel"])
@pytest.mark.parametrize(("version", "how"), [("h1", "close"), ("h1", "reset"), ("h2", "rst_stream"), ("h2", "close")])
def test_an_answer_whose_client_gave_up_is_given_once_to_the_same_request(
    proxy: Proxy,
    upstream: Upstream,
    connect: Callable[..., Any],
    headers: list[tuple[str, str]],
    version: str,
    how: str,
    mode: int,
) -> None:
    since, scripted = proxy.mark(), Scripted(upstream)
    with connect(version, mode) as client:
        client.start("POST", CHAT, headers, body_of("kept"))
        scripted.begun.wait()
        leave_at(client, how)
        proxy.wait_for_log(GAVE_UP, since=since)
        scripted.gate.open()
        proxy.wait_for_log("kept: the client gave up; kept for 300 s, for the same request", since=since)
    upstream.answer(*event_stream(STREAM).steps)
    with connect(version, mode) as client:
        for number in (1, 2):
            response = client.request("POST", CHAT, headers, body_of("kept"))
            assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
            assert len(upstream.requests) == number
    assert not upstream.requests[0].abandoned


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_events_that_are_made_of_a_plain_answer_are_kept_too(
    proxy: Proxy, upstream: Upstream, connect: Callable[..., Any], headers: list[tuple[str, str]], version: str
) -> None:
    since, begun, gate = proxy.mark(), Gate(), Gate()
    upstream.answer(Signal(begun), WaitFor(gate), *document(DOCUMENT).steps)
    body = body_of("plain", stream=True)
    with connect(version) as client:
        client.start("POST", CHAT, headers, body)
        begun.wait()
        client.close()
        proxy.wait_for_log(GAVE_UP, since=since)
    with connect(version) as client:
        client.start("POST", CHAT, headers, body)
        receive = wait_for_heartbeat(client, b": waiting for the answer\n\n")
        gate.open()
        response = receive()
    assert (response.header("content-type"), response.ended) == ("text/event-stream", "complete")
    answer = json.loads(aggregate(response.body).body)
    assert answer["choices"][0]["message"]["content"] == DOCUMENT["choices"][0]["message"]["content"]
    assert len(upstream.requests) == 1


def test_a_stream_in_place_of_a_plain_answer_is_not_kept(
    proxy: Proxy, upstream: Upstream, connect: Callable[..., Any], headers: list[tuple[str, str]]
) -> None:
    body = body_of("plain", stream=True)
    upstream.answer(Head(), Data(STREAM[:50]), Linger())
    with connect("h1") as client:
        client.start("POST", CHAT, headers, body)
        assert client.begin("POST").read_piece() == STREAM[:50]
    assert upstream.wait_request().wait_closed()
    upstream.answer(*event_stream(STREAM).steps)
    with connect("h1") as client:
        assert client.request("POST", CHAT, headers, body).body == STREAM
    assert len(upstream.requests) == 2


STARTS: dict[str, Callable[[Gate, Gate], list[Any]]] = {
    "before the head": lambda begun, gate: [Signal(begun), WaitFor(gate), *event_stream(STREAM).steps],
    "after the head": lambda begun, gate: [Head(), Signal(begun), WaitFor(gate), Data(STREAM), End()],
}


@pytest.mark.parametrize("version", ["h1", "h2"])
@pytest.mark.parametrize("start", STARTS)
def test_the_same_request_joins_an_answer_under_way_whenever_its_client_gave_up(
    proxy: Proxy, upstream: Upstream, connect: Callable[..., Any], headers: Any, start: str, version: str
) -> None:
    begun, gate = Gate(), Gate()
    upstream.answer(*STARTS[start](begun, gate))
    for _ in range(2):
        since = proxy.mark()
        with connect(version) as client:
            client.start("POST", CHAT, headers, body_of("beating"))
            begun.wait()
            wait_for_heartbeat(client)
        proxy.wait_for_log("client disconnect", since=since)
    with connect(version) as client:
        client.start("POST", CHAT, headers, body_of("beating"))
        receive = wait_for_heartbeat(client)
        gate.open()
        response = receive()
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
    assert len(upstream.requests) == 1
    first, *_, last = proxy.flows(dict(headers)["x-answer"])
    assert last["metadata"]["force_stream.answered_by"] == first["id"]
    assert last["comment"].endswith("; kept from an identical request whose client gave up")
    assert first["comment"].startswith("beating: chat beating, 200, finish stop")


@pytest.mark.parametrize("origin", [[], [("origin", "https://page.example")]], ids=["a program", "a web page"])
def test_heartbeats_of_a_client_that_joins_begin_with_the_upstreams_head(
    proxy: Proxy, upstream: Upstream, headers: Any, origin: list[tuple[str, str]]
) -> None:
    since, begun, gate = proxy.mark(), Gate(), Gate()
    upstream.answer(Head(headers={"x-request-id": "u1"}), Signal(begun), WaitFor(gate), Data(STREAM), End())
    for _ in range(2):
        with Http1Client(proxy.urls[HTTP]) as client:
            client.start("POST", CHAT, [*headers, *origin], body_of("beating"))
            begun.wait()
            wait_for_heartbeat(client)
        proxy.wait_for_log("client disconnect", since=since)
        since = proxy.mark()
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, [*headers, *origin], body_of("beating"))
        receive = wait_for_heartbeat(client)
        gate.open()
        response = receive()
    assert (response.header("x-request-id"), response.json()) == ("u1", DOCUMENT)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("joins", [True, False], ids=["joins", "is late"])
def test_openais_client_gets_the_answer_when_it_tries_again_after_its_timeout(
    proxy: Proxy, upstream: Upstream, certs: Certs, joins: bool
) -> None:
    since, scripted, tells_apart = proxy.mark(), Scripted(upstream), {"x-answer": next(_keys)}
    settings: Any = {"timeout": 1.0, "default_headers": tells_apart}
    url = f"{proxy.urls[HTTP]}/v1"
    if joins:
        opener = threading.Thread(
            target=lambda: (proxy.wait_for_log(GAVE_UP, since=since), scripted.gate.open()), daemon=True
        )
        opener.start()
        with openai_client(url, certs, max_retries=2, **settings) as client:
            answer = client.chat.completions.create(**request("kept"))
        opener.join()
    else:
        with openai_client(url, certs, **settings) as client:
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(**request("kept"))
            scripted.gate.open()
            proxy.wait_for_log("kept: the client gave up; kept for 300 s", since=since)
            answer = client.chat.completions.create(**request("kept"))
    assert answer.choices[0].message.content == DOCUMENT["choices"][0]["message"]["content"]
    assert len(upstream.requests) == 1


GOOD = event_stream(STREAM)
OTHERS: dict[str, dict[str, Any]] = {
    "another key": {"headers": {"authorization": "Bearer sk-other"}},
    "no key": {"headers": {"authorization": None}},
    "another cookie": {"headers": {"cookie": "session=2"}},
    "another organization": {"headers": {"openai-organization": "org-2"}},
    "another idempotency key": {"headers": {"idempotency-key": "2"}},
    "another query": {"path": f"{CHAT}?key=2"},
    "another body": {"body": body_of("kept", seed=2)},
    "another spelling of the body": {"body": body_of("kept") + b" "},
    "another rule": {"body": body_of("brief")},
}
SAME: dict[str, dict[str, Any]] = {
    "traces": {"headers": {"traceparent": "00-2-2-01", "x-request-id": "2", "x-b3-traceid": "2"}},
    "a counted try": {"headers": {"x-stainless-retry-count": "1", "Connection": "close"}},
}


def varied(headers: list[tuple[str, str]], values: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (dict(headers) | values).items() if value is not None]


@pytest.mark.parametrize(("change", "is_same"), [(name, name in SAME) for name in OTHERS | SAME])
def test_only_the_very_same_request_gets_a_kept_answer(
    proxy: Proxy, upstream: Upstream, headers: Any, change: str, is_same: bool
) -> None:
    since, scripted, changes = proxy.mark(), Scripted(upstream), (OTHERS | SAME)[change]
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, headers, body_of("kept"))
        scripted.begun.wait()
    proxy.wait_for_log(GAVE_UP, since=since)
    scripted.gate.open()
    proxy.wait_for_log("kept: the client gave up; kept for 300 s", since=since)
    upstream.answer(GOOD)
    with Http1Client(proxy.urls[HTTP]) as client:
        sent = varied(headers, changes.get("headers", {}))
        response = client.request("POST", changes.get("path", CHAT), sent, changes.get("body", body_of("kept")))
    assert response.json() == DOCUMENT
    assert len(upstream.requests) == (1 if is_same else 2)


def test_two_requests_of_clients_that_both_wait_are_two_answers(proxy: Proxy, upstream: Upstream, headers: Any) -> None:
    scripted = [Scripted(upstream), Scripted(upstream)]
    with Http1Client(proxy.urls[HTTP]) as first, Http1Client(proxy.urls[HTTP]) as second:
        for client in (first, second):
            client.start("POST", CHAT, headers, body_of("kept"))
        upstream.wait_request(2)
        for each in scripted:
            each.gate.open()
        assert [client.receive("POST").json() for client in (first, second)] == [DOCUMENT, DOCUMENT]
    assert len(upstream.requests) == 2


CUT = Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), Close())


def gone(proxy: Proxy, upstream: Upstream, headers: Any, model: str, *steps: Any) -> Gate:
    """A client that gave up, whose answer goes on with these steps once the gate is open."""
    since, begun, gate = proxy.mark(), Gate(), Gate()
    upstream.answer(Head(), Data(sse(*EVENTS[:2], done=False)), Signal(begun), WaitFor(gate), *steps)
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, headers, body_of(model))
        begun.wait()
    proxy.wait_for_log(GAVE_UP, since=since)
    return gate


def test_a_document_is_kept_where_an_upstream_does_not_stream(proxy: Proxy, upstream: Upstream, headers: Any) -> None:
    since, begun, gate = proxy.mark(), Gate(), Gate()
    upstream.answer(Signal(begun), WaitFor(gate), *document(DOCUMENT).steps)
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, headers, body_of("kept"))
        begun.wait()
    proxy.wait_for_log(GAVE_UP, since=since)
    gate.open()
    proxy.wait_for_log("kept: the client gave up; kept for 300 s", since=since)
    with Http1Client(proxy.urls[HTTP]) as client:
        assert client.request("POST", CHAT, headers, body_of("kept")).json() == DOCUMENT
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("partial", "partial: chat partial, 200, .*truncated"),
        ("kept", "kept: chat kept, 502, stream_truncated"),
    ],
)
def test_an_answer_that_is_not_whole_is_not_kept(
    proxy: Proxy, upstream: Upstream, headers: Any, model: str, line: str
) -> None:
    since, gate = proxy.mark(), gone(proxy, upstream, headers, model, Close())
    gate.open()
    proxy.wait_for_log(line, since=since)
    upstream.answer(GOOD)
    with Http1Client(proxy.urls[HTTP]) as client:
        assert client.request("POST", CHAT, headers, body_of(model)).json() == DOCUMENT
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(("model", "status", "requests"), [("kept", 502, 1), ("retried", 200, 2)])
def test_a_failure_is_the_failure_of_the_request_that_joined(
    proxy: Proxy, upstream: Upstream, headers: Any, model: str, status: int, requests: int
) -> None:
    gate = gone(proxy, upstream, headers, model, Close())
    upstream.answer(GOOD)
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, headers, body_of(model))
        wait_until_joined(proxy, headers)
        gate.open()
        response = client.receive("POST")
    assert (response.status, response.ended) == (status, "complete")
    assert status == 502 or response.json() == DOCUMENT
    assert len(upstream.requests) == requests


def wait_until_joined(proxy: Proxy, headers: Any) -> None:
    for _ in range(200):
        if len(proxy.flows(dict(headers)["x-answer"])) == 2:
            return
        time.sleep(0.02)
    raise AssertionError("the second request did not come")


@pytest.mark.parametrize(
    ("act", "status"),
    [
        ("sets an interim status", 502),
        ("sets a wrong length", 200),
        ("takes the body away", 200),
        ("adds trailers", 200),
        ("copies the response", 200),
        ("takes the response away at responseheaders", 200),
        ("takes the response away at response", 502),
    ],
)
def test_whatever_a_script_does_a_client_that_has_joined_gets_one_response(
    proxy: Proxy, upstream: Upstream, headers: Any, act: str, status: int
) -> None:
    gate = gone(proxy, upstream, headers, "kept", Data(sse(*EVENTS[2:])), End())
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, [*headers, ("x-request-id", act)], body_of("kept"))
        wait_until_joined(proxy, headers)
        gate.open()
        response = client.receive("POST")
    assert (response.status, response.ended) == (status, "complete")
    assert response.header("content-type") == "application/json"
    assert status == 502 or response.body == b"" or response.json() == DOCUMENT


@pytest.mark.parametrize(
    ("act", "answer"),
    [("answers at request", "by a script"), ("answers at request with events", "scripted")],
)
def test_a_script_may_answer_a_client_that_has_joined(
    proxy: Proxy, upstream: Upstream, headers: Any, act: str, answer: str
) -> None:
    gate = gone(proxy, upstream, headers, "kept", Close())
    with Http1Client(proxy.urls[HTTP]) as client:
        response = client.request("POST", CHAT, [*headers, ("x-request-id", act)], body_of("kept"))
    gate.open()
    assert (response.status, response.header("content-type")) == (200, "application/json")
    document = response.json()
    assert answer in (document.get("answered"), document.get("choices", [{"message": {}}])[0]["message"].get("content"))


def test_a_try_under_way_goes_on_as_well(proxy: Proxy, upstream: Upstream, headers: Any) -> None:
    since, scripted = proxy.mark(), None
    upstream.answer(CUT)
    scripted = Scripted(upstream)
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, headers, body_of("retried"))
        scripted.begun.wait()
    proxy.wait_for_log(GAVE_UP, since=since)
    scripted.gate.open()
    proxy.wait_for_log("retried: the client gave up; kept for 300 s", since=since)
    with Http1Client(proxy.urls[HTTP]) as client:
        assert client.request("POST", CHAT, headers, body_of("retried")).json() == DOCUMENT
    assert len(upstream.requests) == 2


def test_what_was_learned_meanwhile_makes_the_same_request_no_other_one(
    proxy: Proxy, upstream: Upstream, headers: Any
) -> None:
    since, scripted = proxy.mark(), None
    upstream.answer(document({"error": {"message": "Unknown parameter: 'stream_options'."}}, status=400))
    scripted = Scripted(upstream)
    with Http1Client(proxy.urls[HTTP]) as client:
        client.start("POST", CHAT, headers, body_of("rejecting"))
        scripted.begun.wait()
    proxy.wait_for_log(GAVE_UP, since=since)
    scripted.gate.open()
    proxy.wait_for_log("rejecting: .* rejects stream_options", since=since)
    proxy.wait_for_log("rejecting: the client gave up; kept for 300 s", since=since)
    with Http1Client(proxy.urls[HTTP]) as client:
        assert client.request("POST", CHAT, headers, body_of("rejecting")).json() == DOCUMENT
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("model", ["brief", "changed"])
def test_a_kept_answer_is_forgotten(proxy: Proxy, upstream: Upstream, headers: Any, model: str) -> None:
    since, gate = proxy.mark(), gone(proxy, upstream, headers, model, Data(sse(*EVENTS[2:])), End())
    gate.open()
    proxy.wait_for_log(f"{model}: the client gave up; kept for", since=since)
    if model == "brief":
        proxy.wait_for_log("brief: a kept answer was dropped: nobody asked for it for 0.5 s", since=since)
    else:
        assert any(re.match(r"kept: \d+ answers? of clients that gave up", line) for line in rules_of(proxy))
        proxy.command("force_stream.set", "changed", "timeout", "100")
        proxy.wait_for_log("changed: a kept answer was dropped: its rule has changed", since=since)
    upstream.answer(GOOD)
    with Http1Client(proxy.urls[HTTP]) as client:
        assert client.request("POST", CHAT, headers, body_of(model)).json() == DOCUMENT
    assert len(upstream.requests) == 2


def rules_of(proxy: Proxy) -> list[str]:
    lines: list[str] = proxy.command("force_stream.rules")
    return lines


@pytest.mark.parametrize(("version", "how"), [("h1", "close"), ("h2", "close"), ("h2", "rst_stream")])
@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("hurried", "hurried: chat hurried, 504, stream_timeout"),
        ("stalled", "stalled: the client gave up; kept for 300 s"),
    ],
)
def test_the_rules_clocks_go_on_without_the_client(
    proxy: Proxy,
    upstream: Upstream,
    connect: Callable[..., Any],
    headers: Any,
    model: str,
    line: str,
    version: str,
    how: str,
) -> None:
    since, begun = proxy.mark(), Gate()
    rest = [Data(sse(*EVENTS[3:])), End()] if model == "stalled" else [Linger()]
    upstream.answer(Head(), Data(sse(*EVENTS[:3], done=False)), Signal(begun), *rest)
    with connect(version) as client:
        client.start("POST", CHAT, headers, body_of(model))
        begun.wait()
        leave_at(client, how)
        proxy.wait_for_log(f"{model}: {GAVE_UP}", since=since)
        proxy.wait_for_log(line, since=since)
    if model == "hurried":
        assert upstream.requests[0].wait_closed()


def test_the_page_says_which_clients_gave_up_and_mitmproxy_stops_at_once_while_an_answer_goes_on(
    proxy_factory: Callable[..., Proxy], shared_rules: Callable[..., Any], upstream: Upstream, headers: Any
) -> None:
    port = refused_port()
    options = {"force_stream_rules": shared_rules(RULES), "force_stream_page_port": port}
    proxy = proxy_factory(f"reverse:{upstream.url('http')}", scripts=[ADDON], options=options)
    gone(proxy, upstream, headers, "kept", Data(sse(*EVENTS[2:])), End()).open()
    proxy.wait_for_log("kept: the client gave up; kept for 300 s")
    with Http1Client(f"http://127.0.0.1:{port}") as page:
        [flow] = page.get("/flows").json()
    assert (flow["status"], flow["odd"]) == (200, ["the client gave up; kept for 300 s"])
    gone(proxy, upstream, headers, "hurried", Linger())
    assert proxy.stop(10) == 0
    assert "Traceback" not in proxy.log
