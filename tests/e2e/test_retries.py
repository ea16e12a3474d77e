"""Requests that are tried again: mitmdump with the addon between real clients and an upstream that fails at first."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import (
    H2_UPSTREAM,
    Answer,
    Certs,
    Close,
    CutChunk,
    Data,
    End,
    Gate,
    GoAway,
    Head,
    Http1Client,
    Http2Client,
    Linger,
    Proxy,
    Raw,
    Reset,
    Response,
    RstStream,
    ShortLength,
    Signal,
    Upstream,
    WaitFor,
    document,
    event_stream,
    flows_of,
    refused_port,
    sse,
)
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, DOCUMENT, EVENTS, SECRET, STREAM, choice, chunk, request
from mitmproxy import flowfilter

QUICK = SCRIPTS / "quick_retries.py"

RULE = """\
  - name: {name}
    hosts: ["127.0.0.1", "localhost"]
    models: ["{name}", "{name}/*"]
    force_upstream_stream: true
    {keys}
"""
RULES = {
    "never": "retries: 0",
    "once": "retries: 1",
    "waiting": "{retries: 1, idle_timeout: 2}",
    "thrice": "retries: 3",
    "patient": "{retries: 1, timeout: 30}",
    "hurried": "{retries: 5, timeout: 5}",
    "partial": "{retries: 1, on_truncated: partial}",
    "small": "{retries: 1, max_body: 300}",
    "beating": "{retries: 2, heartbeat: 1}",
    "calm": "{retries: 2, heartbeat: 30}",
}


def rules_text() -> str:
    """Each rule takes the model of its name."""
    rules = []
    for name, keys in RULES.items():
        lines = keys.strip("{}").split(", ")
        rules.append(RULE.format(name=name, keys="\n    ".join(lines)))
    return "rules:\n" + "".join(rules)


@pytest.fixture(scope="session")
def rules_of_retries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retries") / "rules.yaml"
    path.write_text(rules_text())
    return path


HTTP, TLS, H2, REGULAR, DEAD = range(5)


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], upstream: Upstream, rules_of_retries: Path, dead_url: str) -> Proxy:
    modes = [f"reverse:{upstream.url(listener)}" for listener in ("http", "https", "h2")]
    options = {"force_stream_rules": rules_of_retries, "connection_strategy": "lazy"}
    scripts = [ADDON, QUICK, SCRIPTS / "break_addon.py", H2_UPSTREAM]
    return shared_proxy(*modes, "regular", f"reverse:{dead_url}", scripts=scripts, options=options, remote=True)


@pytest.fixture(scope="session")
def dead_url() -> str:
    return f"http://127.0.0.1:{refused_port()}"


_keys = (f"retries-{number}" for number in itertools.count(1))


@pytest.fixture
def key() -> str:
    """Tells this test's flows from those of others."""
    return next(_keys)


@pytest.fixture
def ask(proxy: Proxy, certs: Certs, key: str) -> Callable[..., Response]:
    """One request over HTTP/1.1, with a credential and this test's key."""

    def ask(model: str, mode: int = HTTP) -> Response:
        with Http1Client(proxy.urls[mode], certs) as client:
            return client.post(CHAT, request(model), headers_of(key))

    return ask


def headers_of(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {SECRET}"), ("x-answer", key)]


def script(upstream: Upstream, *answers: Answer) -> None:
    for answer in answers:
        upstream.answer(answer)


GOOD = event_stream(STREAM, size=10)
NO = {"error": {"message": "No.", "type": "x", "param": None, "code": None}}


def status(code: int, **headers: str) -> Answer:
    return document(NO, status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})


def error_event(**error: Any) -> Answer:
    return event_stream(sse(*EVENTS[:2], {"error": {"message": "No."} | error}, done=False))


CUT = Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), CutChunk())

# What is tried again, and what is not


FAILURES: dict[str, Answer] = {
    "closed before the head": Answer.of(Close()),
    "reset before the head": Answer.of(Reset()),
    "no HTTP": Answer.of(Raw(b"nothing of the kind\r\n\r\n"), Close()),
    "no end in time": Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), Linger()),
    "cut within a chunk": CUT,
    "cut within a length": Answer.of(Head(framing=ShortLength()), Data(sse(*EVENTS[:2], done=False)), Close()),
    "reset within the body": Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), Reset()),
    "a clean end too early": event_stream(sse(*EVENTS[:2], done=False)),
    "malformed": event_stream(b"<html>Oops</html>"),
    "half a document": Answer.of(Head(content_type="application/json"), Data(b'{"id": '), End()),
    "an error event": error_event(),
    "an error event that names a limit": error_event(code="rate_limit_exceeded"),
    "an error event that names 503": error_event(code=503),
    "an error status with an event stream": event_stream(sse({"error": {"message": "No."}}), status=500),
    "a page": Answer.of(Head(502, content_type="text/html", framing="length"), Data(b"<h1>Bad Gateway</h1>"), End()),
    **{f"{code}": status(code) for code in (408, 409, 429, 500, 502, 503, 504, 529)},
}
FINAL: dict[str, tuple[Answer, int]] = {
    "a whole answer": (GOOD, 200),
    "a document": (document(DOCUMENT), 200),
    **{f"{code}": (status(code), code) for code in (400, 401, 403, 404, 413, 422)},
    "an error event that names 400": (error_event(code="invalid_prompt"), 400),
    "an error event that names a bad key": (error_event(code="invalid_api_key"), 401),
    "a redirect": (Answer.of(Head(307, {"Location": "/v2"}, framing="length"), End()), 307),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_that_may_pass_is_tried_again_and_the_client_never_knows(
    upstream: Upstream, ask: Callable[..., Response], failure: str
) -> None:
    script(upstream, FAILURES[failure], GOOD)
    model = "waiting" if "in time" in failure else "once"
    response = ask(model)
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") == str(len(response.body))
    first, second = upstream.requests
    assert first.body == second.body
    assert second.json() == request(model) | {"stream": True, "stream_options": {"include_usage": True}}
    for name in ("authorization", "accept", "host", "x-answer", "content-length", "content-type"):
        assert first.header(name) == second.header(name), name


@pytest.mark.parametrize("outcome", FINAL)
def test_what_another_try_cannot_better_is_the_clients_at_once(
    upstream: Upstream, ask: Callable[..., Response], outcome: str
) -> None:
    answer, code = FINAL[outcome]
    script(upstream, answer, GOOD)
    assert ask("once").status == code
    assert len(upstream.requests) == 1


def test_too_large_an_answer_is_not_asked_for_again(upstream: Upstream, ask: Callable[..., Response]) -> None:
    script(upstream, GOOD, GOOD)
    response = ask("small")
    assert (response.status, response.json()["error"]["code"]) == (502, "stream_too_large")
    assert len(upstream.requests) == 1


def test_without_retries_nothing_is_tried_again(upstream: Upstream, ask: Callable[..., Response], proxy: Proxy) -> None:
    script(upstream, status(503), GOOD)
    assert ask("never").status == 503
    assert len(upstream.requests) == 1


def test_an_upstream_that_is_not_there_is_tried_as_often_as_the_rule_says(
    ask: Callable[..., Response], proxy: Proxy, key: str
) -> None:
    response = ask("thrice", DEAD)
    assert (response.status, response.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert [flow["metadata"].get("force_stream.try") for flow in proxy.flows(key)] == [None, 2, 3, 4]


def test_a_connection_that_is_reset_at_once_is_tried_again(upstream: Upstream, ask: Callable[..., Response]) -> None:
    upstream.close_connections()
    upstream.at_accept(Reset())
    script(upstream, GOOD)
    assert ask("once").json() == DOCUMENT


# The last outcome


def test_the_client_gets_the_last_outcome(upstream: Upstream, ask: Callable[..., Response]) -> None:
    script(upstream, status(503), CUT, error_event(), status(429, x_request_id="req-4"))
    response = ask("thrice")
    assert (response.status, response.json()) == (429, NO)
    assert response.header("x-request-id") == "req-4"
    assert len(upstream.requests) == 4


def test_a_final_outcome_ends_the_tries(upstream: Upstream, ask: Callable[..., Response]) -> None:
    script(upstream, status(503), status(400), GOOD)
    assert ask("thrice").status == 400
    assert len(upstream.requests) == 2


def test_what_is_left_of_a_stream_is_given_when_no_try_came_to_more(
    upstream: Upstream, ask: Callable[..., Response]
) -> None:
    other = sse(chunk(choice(content="Better")), done=False)
    script(upstream, CUT, Answer.of(Head(), Data(other), CutChunk()))
    response = ask("partial")
    assert response.status == 200
    (only,) = response.json()["choices"]
    assert (only["message"]["content"], only["finish_reason"]) == ("Better", "length")
    assert len(upstream.requests) == 2


def test_a_whole_answer_is_better_than_what_was_left(upstream: Upstream, ask: Callable[..., Response]) -> None:
    script(upstream, CUT, GOOD)
    assert ask("partial").json() == DOCUMENT


# Patience


def test_the_pause_that_the_upstream_asks_for_is_kept(upstream: Upstream, ask: Callable[..., Response]) -> None:
    script(upstream, status(429, retry_after="1"), GOOD)
    begin = time.monotonic()
    assert ask("patient").json() == DOCUMENT
    assert time.monotonic() - begin >= 1


def test_no_pause_is_made_where_the_upstream_wants_none(upstream: Upstream, ask: Callable[..., Response]) -> None:
    script(upstream, status(503, retry_after="0"), GOOD)
    assert ask("patient").json() == DOCUMENT


@pytest.mark.parametrize(("model", "seconds"), [("patient", "61"), ("patient", "3600"), ("hurried", "5")])
def test_a_pause_for_which_there_is_no_time_leaves_the_failure_to_the_client(
    upstream: Upstream, ask: Callable[..., Response], proxy: Proxy, model: str, seconds: str
) -> None:
    script(upstream, status(429, retry_after=seconds), GOOD)
    since = proxy.mark()
    response = ask(model)
    assert (response.status, response.header("retry-after")) == (429, seconds)
    assert len(upstream.requests) == 1
    proxy.wait_for_log(f"{model}: not tried again: the pause before it would be too long", since=since)


# Every way through


CLIENTS = [pytest.param(Http1Client, id="h1-client"), pytest.param(Http2Client, id="h2-client")]
WAYS = {
    "reverse": (HTTP, "http", False),
    "reverse to TLS": (TLS, "https", False),
    "reverse to HTTP/2": (H2, "h2", False),
    "regular, TLS on both sides": (REGULAR, "https", True),
    "regular, HTTP/2 upstream": (REGULAR, "h2", True),
}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("way", WAYS)
def test_a_request_is_tried_again_the_way_it_came(
    proxy: Proxy, upstream: Upstream, certs: Certs, key: str, client_class: Callable, way: str
) -> None:
    mode, listener, tunnel = WAYS[way]
    script(upstream, CUT, status(503, retry_after="0"), GOOD, GOOD)
    url, via = (upstream.url(listener), proxy.urls[mode]) if tunnel else (proxy.urls[mode], None)
    if client_class is Http2Client:
        url = url.replace("http:", "https:")
    with client_class(url, certs, via=via) as client:
        response = client.post(CHAT, request("thrice"), headers_of(key))
        again = client.post(CHAT, request("thrice"), headers_of(key))
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
    assert (again.status, again.json()) == (200, DOCUMENT), "the connection is good for another request"
    assert {(seen.listener, seen.http_version) for seen in upstream.requests} == {
        (listener, "HTTP/2" if listener == "h2" else "HTTP/1.1")
    }
    assert len(upstream.requests) == 4


@pytest.mark.parametrize(
    "failure",
    [
        Answer.of(Head(framing=None), Data(sse(*EVENTS[:2], done=False)), RstStream()),
        Answer.of(RstStream(7)),
        Answer.of(Head(framing=None), Data(sse(*EVENTS[:2], done=False)), GoAway(2, 0)),
        Answer.of(Head(framing=None), Close()),
    ],
    ids=["RST_STREAM within", "REFUSED_STREAM", "GOAWAY", "close"],
)
def test_failures_that_only_http2_knows_are_tried_again(
    proxy: Proxy, upstream: Upstream, certs: Certs, key: str, failure: Answer
) -> None:
    script(upstream, failure, GOOD)
    with Http2Client(proxy.urls[H2].replace("http:", "https:"), certs) as client:
        assert client.post(CHAT, request("once"), headers_of(key)).json() == DOCUMENT
    assert len(upstream.requests) == 2


def test_streams_of_one_connection_are_tried_again_each_for_itself(
    proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    tries: dict[str, int] = {}

    def handler(seen: Any) -> Answer:
        name = seen.header("x-marker")
        tries[name] = tries.get(name, 0) + 1
        if tries[name] < 3:
            return CUT if tries[name] == 1 else status(503, retry_after="0")
        return event_stream(sse(chunk(choice(content=name)), chunk(choice(finish_reason="stop"))))

    upstream.handle(handler)
    with Http2Client(proxy.urls[H2].replace("http:", "https:"), certs) as client:
        streams = {}
        for number in range(8):
            marker = [("x-marker", f"marker-{number}"), ("content-type", "application/json")]
            streams[f"marker-{number}"] = client.start("POST", CHAT, marker, b'{"model": "thrice", "messages": []}')
        for marker, stream in streams.items():
            response = client.receive(stream)
            assert response.json()["choices"][0]["message"]["content"] == marker
    assert set(tries.values()) == {3}


def test_the_name_by_which_a_tls_upstream_was_asked_stays_its_name(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_of_retries: Path, certs: Certs
) -> None:
    script(upstream, status(503), GOOD)
    options = {"force_stream_rules": rules_of_retries, "connection_strategy": "lazy", "keep_host_header": True}
    proxy = proxy_factory(f"reverse:{upstream.url('https')}", scripts=[ADDON, QUICK], options=options)
    with Http1Client(proxy.url, certs) as client:
        response = client.post(CHAT, request("once"), [("Host", "somebody.else.test")])
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert {seen.header("host") for seen in upstream.requests} == {"somebody.else.test"}


def test_with_several_modes_a_try_goes_by_that_of_its_request(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_of_retries: Path, dead_url: str
) -> None:
    script(upstream, status(503), GOOD)
    options = {"force_stream_rules": rules_of_retries, "connection_strategy": "lazy"}
    modes = [f"upstream:{dead_url}", f"reverse:{upstream.url()}"]
    proxy = proxy_factory(*modes, scripts=[ADDON, QUICK], options=options)
    with Http1Client(proxy.urls[1]) as client:
        assert client.post(CHAT, request("once")).json() == DOCUMENT


def test_through_another_proxy_a_try_goes_the_same_way(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_of_retries: Path, certs: Certs
) -> None:
    script(upstream, status(503), GOOD)
    options = {"force_stream_rules": rules_of_retries, "connection_strategy": "lazy"}
    other = proxy_factory("regular")
    proxy = proxy_factory(f"upstream:{other.url}", scripts=[ADDON, QUICK], options=options)
    with Http1Client(upstream.url("https"), certs, via=proxy.url) as client:
        assert client.post(CHAT, request("once")).json() == DOCUMENT
    other.stop()  # then its log is whole
    assert len([line for line in other.log_lines if "server connect" in line]) == 2


# What an upstream demands of a request

EMPTY = {
    "empty": event_stream(b""),
    "comments alone": event_stream(b": nothing\n\n"),
    "only [DONE]": event_stream(b"data: [DONE]\n\n"),
}
TOO_LONG = document({"error": {"message": "Requested tokens (9) exceed context window of 8"}}, status=400)
WITH_OPTIONS = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("failure", EMPTY)
@pytest.mark.parametrize(("plain", "code"), [(TOO_LONG, 400), (document(DOCUMENT), 200), (GOOD, 200)])
def test_an_empty_stream_gets_one_plain_try_each_time(
    upstream: Upstream, ask: Callable[..., Response], failure: str, plain: Answer, code: int
) -> None:
    script(upstream, EMPTY[failure], plain, EMPTY[failure], plain)
    for _ in range(2):
        response = ask("never")
        assert response.status == code
        assert response.json() == (DOCUMENT if code == 200 else {"error": response.json()["error"]})
    bodies = [seen.json() for seen in upstream.requests]
    assert bodies == [request("never") | WITH_OPTIONS, request("never")] * 2


def test_an_empty_stream_that_is_no_better_plain_is_an_error(upstream: Upstream, ask: Callable[..., Response]) -> None:
    script(upstream, EMPTY["empty"], Answer.of(Close()))
    response = ask("never")
    assert (response.status, response.json()["error"]["code"]) == (502, "stream_empty")


@pytest.mark.parametrize("mode", [HTTP, TLS, H2])
def test_a_request_that_cannot_be_streamed_is_sent_as_it_came_and_its_like_are_at_once(
    proxy: Proxy, upstream: Upstream, certs: Certs, key: str, mode: int
) -> None:
    refusal = {"error": {"code": 400, "message": "logprobs is not supported with tools + stream", "type": "x"}}
    upstream.handle(lambda seen: document(refusal, status=400) if seen.json().get("stream") else document(DOCUMENT))
    model = f"never/{mode}"
    body = request(model) | {"logprobs": True, "tools": [{"type": "function"}], "stream": False}
    since = proxy.mark()
    with Http1Client(proxy.urls[mode], certs) as client:
        for _ in range(2):
            response = client.post(CHAT, body, headers_of(key))
            assert (response.status, response.json()) == (200, DOCUMENT)
    streamed, *plain = (seen.json() for seen in upstream.requests)
    assert streamed == body | WITH_OPTIONS
    assert plain == [body, body]
    assert {seen.header("authorization") for seen in upstream.requests} == {f"Bearer {SECRET}"}
    proxy.wait_for_log(rf"127\.0\.0\.1 {model} \(chat\) cannot stream a request with logprobs and tools", since=since)
    proxy.wait_for_log(r"never chat: left as it came: the upstream said that it cannot stream", since=since)
    assert [line for line in proxy.log_lines[since:] if SECRET in line] == []
    first, second = proxy.flows(key)[:2]
    assert first["metadata"]["force_stream.retried_as"] == [second["id"]]
    assert first["comment"].endswith(", try 2; sent plain: the upstream cannot stream this request")


def test_options_that_an_upstream_rejects_are_left_out_from_then_on(
    proxy: Proxy, upstream: Upstream, ask: Callable[..., Response]
) -> None:
    detail = {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]}
    upstream.handle(lambda seen: document(detail, status=422) if "stream_options" in seen.json() else GOOD)
    since = proxy.mark()
    assert [ask("never/optionless").json() for _ in range(2)] == [DOCUMENT, DOCUMENT]
    plain = request("never/optionless")
    assert [seen.json() for seen in upstream.requests] == [plain | WITH_OPTIONS, *[plain | {"stream": True}] * 2]
    proxy.wait_for_log(r"never: .* rejects stream_options\. .*stream_options: null\}", since=since)


def test_a_client_with_heartbeats_gets_them_until_the_plain_answer(proxy: Proxy, upstream: Upstream, key: str) -> None:
    gate = Gate()
    script(upstream, EMPTY["empty"])
    upstream.answer(WaitFor(gate), *document(DOCUMENT).steps)
    with Http1Client(proxy.urls[HTTP]) as client:
        body = b'{"model": "beating/plain", "messages": []}'
        client.start("POST", CHAT, [*headers_of(key), ("content-type", "application/json")], body)
        response = client.receive_after(2, "POST", then=gate.open)
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")


def test_a_client_that_leaves_ends_the_plain_request(proxy: Proxy, upstream: Upstream, key: str) -> None:
    script(upstream, EMPTY["empty"])
    upstream.answer(Linger())
    with Http1Client(proxy.urls[HTTP]) as client:
        body = b'{"model": "never", "messages": []}'
        client.start("POST", CHAT, [*headers_of(key), ("content-type", "application/json")], body)
        plain = upstream.wait_request(2)
        client.close()
        assert plain.wait_closed()
    assert plain.abandoned


# The client meanwhile

# Where the protocol makes no difference.
one_client = pytest.mark.parametrize("connect", ["h2"], indirect=True)


@pytest.fixture(params=["h1", "h2"])
def connect(proxy: Proxy, certs: Certs, key: str, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Sends a request that is not waited for; gives the client and a way to leave."""

    def connect(model: str) -> tuple[Any, Callable[[], Any], Callable[[], Response]]:
        body = b'{"model": "%s", "messages": []}' % model.encode()
        headers = [*headers_of(key), ("content-type", "application/json")]
        if request.param == "h1":
            client = Http1Client(proxy.urls[HTTP], certs)
            client.start("POST", CHAT, headers, body)
            return client, client.close, lambda: client.receive("POST")
        http2 = Http2Client(proxy.urls[HTTP].replace("http:", "https:"), certs)
        stream = http2.start("POST", CHAT, headers, body)
        return http2, lambda: http2.rst_stream(stream), lambda: http2.receive(stream)

    return connect


@one_client
def test_a_client_that_left_during_the_pause_is_not_tried_for(
    upstream: Upstream, connect: Callable[..., Any], proxy: Proxy
) -> None:
    script(upstream, status(429, retry_after="1.5"), GOOD)
    since = proxy.mark()
    client, leave, _ = connect("patient")
    with client:
        upstream.wait_request().wait_answered()
        proxy.wait_for_log("patient: chat patient, 429", since=since)
        leave()
        proxy.wait_for_log("patient: not tried again: the client has disconnected", since=since)
    assert len(upstream.requests) == 1


def test_a_client_that_leaves_ends_the_try_that_is_under_way(
    proxy: Proxy, upstream: Upstream, connect: Callable[..., Any]
) -> None:
    begun = Gate()
    held = Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), Signal(begun), Linger())
    script(upstream, status(503), held, GOOD)
    client, leave, _ = connect("thrice")
    with client:
        second = upstream.wait_request(2)
        begun.wait()
        proxy.settle()
        leave()
        assert second.wait_closed()
    assert second.abandoned


def test_heartbeats_go_on_while_a_request_is_tried_again(upstream: Upstream, connect: Callable[..., Any]) -> None:
    script(upstream, status(503, retry_after="2"), event_stream(STREAM, size=10))
    client, _, receive = connect("beating")
    with client:
        response = receive()
    assert (response.status, response.ended) == (200, "complete")
    assert response.header("content-type") == "application/json"
    assert response.body.startswith(b" "), "the pause was longer than the time between two heartbeats"
    assert response.json() == DOCUMENT


def test_heartbeats_go_on_during_a_try(upstream: Upstream, connect: Callable[..., Any]) -> None:
    gate = Gate()
    second = Answer.of(Head(), Data(sse(EVENTS[0], done=False)), WaitFor(gate), Data(sse(*EVENTS[1:])), End())
    script(upstream, status(503, retry_after="0"), second)
    client, _, receive = connect("beating")
    with client:
        upstream.wait_request(2)
        if isinstance(client, Http1Client):
            incoming = client.begin("POST")
            spaces = [incoming.read_piece(), incoming.read_piece()]
            gate.open()
            while incoming.read_piece() is not None:
                pass
            response = incoming.response
        else:
            (stream,) = client.open_response
            client.receive_some(stream)
            client.receive_some(stream)
            spaces = client.receive_some(stream).chunks[:2]
            gate.open()
            response = receive()
    assert spaces == [b" ", b" "]
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")


def test_without_a_heartbeat_in_between_a_failure_keeps_its_status(
    upstream: Upstream, connect: Callable[..., Any]
) -> None:
    script(upstream, status(503, retry_after="0"), status(503, retry_after="0"), status(429))
    client, _, receive = connect("calm")
    with client:
        response = receive()
    assert (response.status, response.json()) == (429, NO)


@one_client
def test_a_failure_behind_a_heartbeat_is_no_answer_and_is_not_tried_again(
    upstream: Upstream, connect: Callable[..., Any]
) -> None:
    script(upstream, status(503, retry_after="2"), status(503, retry_after="0"), GOOD)
    client, _, receive = connect("beating")
    with client:
        response = receive()
    assert response.status == 200
    assert response.body.strip() == b""
    assert response.ended != "complete"
    assert len(upstream.requests) == 2


@one_client
def test_an_answer_that_fails_behind_a_heartbeat_is_not_tried_again(
    upstream: Upstream, connect: Callable[..., Any]
) -> None:
    gate = Gate()
    script(upstream, Answer.of(Head(), WaitFor(gate), Data(b"data: {"), CutChunk()), GOOD)
    client, _, receive = connect("beating")
    with client:
        (stream,) = client.open_response
        client.receive_some(stream)
        gate.open()
        response = receive()
    assert response.status == 200
    assert response.ended != "complete"
    assert len(upstream.requests) == 1


# The addon's own faults


@pytest.mark.parametrize("part", ["state_consume_response_body", "_answer", "send_response"])
def test_a_fault_of_the_addon_in_another_try_leaves_no_client_waiting(
    upstream: Upstream, connect: Callable[..., Any], ask: Callable[..., Response], part: str
) -> None:
    script(upstream, status(503, retry_after="0"), GOOD, GOOD)
    client, _, receive = connect(f"once/break-try-{part}")
    with client:
        response = receive()
    assert (response.status, response.ended) == (502, "complete")
    assert response.json()["error"]["type"] == "upstream_error"
    assert response.json()["error"]["code"] == "force_stream_error"
    assert ask("once").json() == DOCUMENT


@one_client
def test_a_fault_in_a_heartbeat_between_tries_does_not_touch_the_answer(
    upstream: Upstream, connect: Callable[..., Any], proxy: Proxy
) -> None:
    script(upstream, status(503, retry_after="2"), GOOD)
    since = proxy.mark()
    client, _, receive = connect("beating/break-_heartbeat")
    with client:
        response = receive()
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert not response.body.startswith(b" ")
    proxy.wait_for_log("a bug in the addon, no heartbeats any more: ZeroDivisionError", since=since)


# What is seen of it


@pytest.fixture
def saving(proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_of_retries: Path, tmp_path: Path) -> Proxy:
    options = {"force_stream_rules": rules_of_retries, "connection_strategy": "lazy", "termlog_verbosity": "debug"}
    return proxy_factory(
        f"reverse:{upstream.url()}", scripts=[ADDON, QUICK], options=options, flow_file=tmp_path / "flows", remote=True
    )


def test_every_try_is_a_flow_that_is_seen_and_saved_and_no_credential_is(
    saving: Proxy, upstream: Upstream, key: str
) -> None:
    script(upstream, CUT, status(429, retry_after="0"), GOOD)
    with Http1Client(saving.url) as client:
        response = client.post(CHAT, request("thrice"), headers_of(key))
    assert response.json() == DOCUMENT
    told = "thrice: chat thrice, "
    for line in ("502, stream_truncated, 2 events", "429, 0 events", "200, finish stop, 5 events"):
        saving.wait_for_log(told + line)
    assert saving.stop() == 0
    assert SECRET not in saving.log

    flows = {flow.id: flow for flow in saving.saved_flows()}
    (first,) = [flow for flow in flows.values() if "force_stream.retried_as" in flow.metadata]
    second, third = (flows[each] for each in first.metadata["force_stream.retried_as"])
    assert len(flows) == 3
    for number, again in enumerate((second, third), 2):
        assert again.metadata["force_stream.retry_of"] == first.id
        assert again.metadata["force_stream.try"] == number
        assert again.is_replay == "request"
    assert first.is_replay is None

    assert first.response.json() == third.response.json() == DOCUMENT, "the first flow has what the client got"
    assert second.response.status_code == 429
    assert first.metadata["force_stream.sse"] == sse(*EVENTS[:2], done=False), "and what its own try came to"
    assert third.metadata["force_stream.sse"] == STREAM
    assert [first.metadata[f"force_stream.{name}"] for name in ("status", "error")] == [502, "stream_truncated"]
    assert first.comment.startswith("thrice: chat thrice, 200, finish stop, ")
    assert first.comment.endswith(", try 3")
    assert [flow.marked for flow in (first, second, third)] == [":warning:", ":warning:", ""]

    found = {
        "~meta force_stream": [first, second, third],
        "~meta force_stream & ~marked": [first, second],
        '~comment "try [0-9]"': [first],
        "~meta force_stream.retry_of": [second, third],
        '~meta "force_stream.model: thr"': [first, second, third],
    }
    for expression, flows_found in found.items():
        match = flowfilter.parse(expression)
        assert [flow for flow in (first, second, third) if match(flow)] == flows_found, expression
    for flow in flows.values():
        assert flow.request.headers["authorization"] == f"Bearer {SECRET}"
        assert SECRET not in f"{flow.comment}{flow.metadata}"
        assert SECRET.encode() not in flow.response.raw_content


def test_a_try_that_a_person_replays_is_treated_as_any_flow(saving: Proxy, upstream: Upstream, key: str) -> None:
    script(upstream, status(503), GOOD, GOOD, GOOD)
    with Http1Client(saving.url) as client:
        assert client.post(CHAT, request("once"), headers_of(key)).json() == DOCUMENT
    since = saving.mark()
    saving.command("replay.client", flows_of(key))
    upstream.wait_request(4).wait_answered()
    for _ in range(2):
        line = saving.wait_for_log(r"once: chat once, 200, finish stop", since=since).string
        since = saving.log_lines.index(line, since) + 1
    flows = {flow["id"]: flow for flow in saving.flows(key)}
    assert [flow["response"]["status"] for flow in flows.values()] == [200, 200]
    assert all(flow["response"]["body"].startswith('{"id":"chatcmpl-1"') for flow in flows.values())


# The switch


def test_with_the_switch_off_nothing_is_tried_again(
    upstream: Upstream, ask: Callable[..., Response], proxy: Proxy
) -> None:
    script(upstream, status(503))
    proxy.set_options(force_stream=False)
    try:
        assert ask("thrice").status == 503
    finally:
        proxy.set_options(force_stream=True)
    assert [seen.json() for seen in upstream.requests] == [request("thrice")]


def test_without_the_stream_layer_there_is_one_try(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_of_retries: Path
) -> None:
    script(upstream, status(503), GOOD)
    without = QUICK.with_name("without_stream_layer.py")
    options = {"force_stream_rules": rules_of_retries, "connection_strategy": "lazy"}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[without, ADDON], options=options)
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request("thrice")).status == 503
    assert len(upstream.requests) == 1
