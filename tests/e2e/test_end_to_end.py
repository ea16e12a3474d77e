"""A real mitmdump with the addon between real clients and a real upstream that writes ten bytes at a time."""

import asyncio
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import openai
import pytest
from harness import (
    H2_UPSTREAM,
    Answer,
    Certs,
    Data,
    End,
    Gate,
    Head,
    Http1Client,
    Http2Client,
    Proxy,
    Response,
    Upstream,
    WaitFor,
    async_openai_client,
    document,
    event_stream,
    httpx_client,
    openai_client,
    pieces,
    sse,
)
from harness.paths import ADDON
from harness.samples import (
    CHAT,
    COMPLETIONS,
    DOCUMENT,
    EVENTS,
    RESPONSE,
    RESPONSE_STREAM,
    RESPONSES,
    RULES,
    SECRET,
    STREAM,
    TEXT_STREAM,
    TOOL_STREAM,
    TWO_CHOICES_STREAM,
    USAGE,
    choice,
    chunk,
    failed_response,
    request,
    response_event,
)
from mitmproxy.net import encoding

PLAIN = [("Content-Type", "application/json")]
# Which of `modes` below goes where.
REVERSE, REVERSE_TLS, REVERSE_H2, REGULAR, UPSTREAM = range(5)


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], upstream: Upstream, shared_rules: Callable[[str], Path]) -> Proxy:
    """One mitmdump with the addon, in every mode; the upstream is offered HTTP/2."""
    second = shared_proxy("regular")
    modes = [f"reverse:{upstream.url(listener)}" for listener in ("http", "https", "h2")]
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    return shared_proxy(
        *modes, "regular", f"upstream:{second.url}", scripts=[ADDON, H2_UPSTREAM], options=options, remote=True
    )


@pytest.fixture
def eager(shared_proxy: Callable[..., Proxy], shared_rules: Callable[[str], Path]) -> Proxy:
    """A regular proxy as it comes: it asks the upstream for its protocol before it speaks with the client."""
    return shared_proxy("regular", scripts=[ADDON, H2_UPSTREAM], options={"force_stream_rules": shared_rules(RULES)})


def ask(proxy: Proxy, body: Any, headers: list[tuple[str, str]] | None = None, *, path: str = CHAT) -> Response:
    """One request over HTTP/1.1 to the plain upstream."""
    with Http1Client(proxy.url) as client:
        return client.post(path, body, headers or [])


def without(headers: list[tuple[str, str]], *names: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in names]


# Every way through


CLIENTS = [pytest.param(Http1Client, id="h1-client"), pytest.param(Http2Client, id="h2-client")]
# Mode, the upstream's listener, and whether the client speaks to the upstream through the proxy or to the proxy.
WAYS = {
    "reverse to plain HTTP/1.1": (REVERSE, "http", False),
    "reverse to TLS": (REVERSE_TLS, "https", False),
    "reverse to HTTP/2": (REVERSE_H2, "h2", False),
    "regular, TLS on both sides": (REGULAR, "https", True),
    "regular, HTTP/2 upstream": (REGULAR, "h2", True),
    "upstream mode": (UPSTREAM, "https", True),
    "upstream mode, HTTP/2 upstream": (UPSTREAM, "h2", True),
}
KEPT_HEADERS = {"x-request-id": "req-1", "x-ratelimit-remaining-requests": "99", "openai-processing-ms": "12"}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_through_gives_one_document(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable, way: str
) -> None:
    mode, listener, tunnel = WAYS[way]
    upstream.answer(event_stream(STREAM, size=10, headers=KEPT_HEADERS))
    upstream.answer(event_stream(STREAM, size=10))
    url, via = (upstream.url(listener), proxy.urls[mode]) if tunnel else (proxy.urls[mode], None)
    if client_class is Http2Client:
        url = url.replace("http:", "https:")
    with client_class(url, certs, via=via) as client:
        response = client.post(CHAT, request())
        again = client.post(CHAT, request())
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert response.ended == "complete"
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") == str(len(response.body))
    assert response.header("transfer-encoding") is None
    assert response.header("content-encoding") is None
    assert {name: response.header(name) for name in KEPT_HEADERS} == KEPT_HEADERS
    assert (again.status, again.json()) == (200, DOCUMENT), "the connection is good for another request"
    seen = upstream.wait_request()
    if mode != UPSTREAM:  # there the second proxy decides
        assert seen.http_version == ("HTTP/2" if listener == "h2" else "HTTP/1.1")
    assert seen.json() == request() | {"stream": True, "stream_options": {"include_usage": True}}


def test_an_absolute_url_through_a_regular_proxy_gives_one_document(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    with Http1Client(upstream.url("http"), via=proxy.urls[REGULAR]) as client:
        assert client.post(CHAT, request()).json() == DOCUMENT
    assert upstream.wait_request().json()["stream"] is True


@pytest.mark.parametrize("framing", ["length", "close"])
def test_a_stream_with_another_framing_gives_the_same(proxy: Proxy, upstream: Upstream, framing: str) -> None:
    upstream.answer(event_stream(STREAM, size=10, framing=framing))
    upstream.answer(event_stream(STREAM, size=10, framing=framing))
    with Http1Client(proxy.url) as client:
        response = client.post(CHAT, request())
        again = client.post(CHAT, request())
    assert (response.status, response.json(), response.framing) == (200, DOCUMENT, len(response.body))
    assert response.header("connection") is None
    assert again.json() == DOCUMENT


def test_httpx_over_http2_gets_one_document(eager: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    with httpx_client(certs, proxy=eager.url) as client:
        response = client.post(upstream.url("h2") + CHAT, json=request())
    assert (response.http_version, response.status_code, response.json()) == ("HTTP/2", 200, DOCUMENT)
    assert response.headers["content-type"] == "application/json"
    assert upstream.wait_request().http_version == "HTTP/2"


# OpenAI's clients


def _ask_everything(client: Any) -> list[Any]:
    """The calls whose results (or, from the async client, awaitables) are checked below."""
    messages = [{"role": "user", "content": "Hi"}]
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("weather", "time")]
    return [
        client.chat.completions.create(model="m", messages=messages),
        client.chat.completions.create(model="m", messages=messages, tools=tools, extra_headers={"x-answer": "tools"}),
        client.chat.completions.create(model="m", messages=messages, n=2, extra_headers={"x-answer": "two"}),
        client.completions.create(model="m", prompt="Once"),
        client.responses.create(model="m", input="Hi"),
    ]


def _script_everything(upstream: Upstream) -> None:
    upstream.answer(event_stream(TOOL_STREAM, size=10), key="tools")
    upstream.answer(event_stream(TWO_CHOICES_STREAM, size=10), key="two")
    upstream.answer(event_stream(STREAM, size=10), path=CHAT)
    upstream.answer(event_stream(TEXT_STREAM, size=10), path=COMPLETIONS)
    upstream.answer(event_stream(RESPONSE_STREAM, size=10), path=RESPONSES)


def _check_everything(results: list[Any], upstream: Upstream) -> None:
    plain, tools, two, text, response = results
    assert plain.to_dict() == DOCUMENT
    calls = [
        (call.id, call.type, call.function.name, call.function.arguments)
        for call in tools.choices[0].message.tool_calls
    ]
    assert calls == [("call_1", "function", "weather", '{"city":"Graz"}'), ("call_2", "function", "time", "{}")]
    assert (tools.choices[0].finish_reason, tools.choices[0].message.content) == ("tool_calls", None)
    assert [(c.index, c.message.content, c.finish_reason) for c in two.choices] == [
        (0, "one and", "length"),
        (1, "two", "stop"),
    ]
    assert (text.object, text.choices[0].text, text.choices[0].finish_reason) == (
        "text_completion",
        "Once upon",
        "stop",
    )
    assert text.usage.to_dict() == USAGE
    assert response.to_dict() == RESPONSE
    assert response.output_text == "Hello"
    bodies = [seen.json() for seen in upstream.requests]
    assert [body["stream"] for body in bodies] == [True] * 5
    assert ["stream_options" in body for body in bodies if "input" in body] == [False], (
        "Responses knows no include_usage"
    )
    assert all(body["stream_options"] == {"include_usage": True} for body in bodies if "input" not in body)
    assert {seen.header("authorization") for seen in upstream.requests} == {"Bearer sk-test-key"}


def test_openais_client_gets_everything_through_a_reverse_proxy(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    _script_everything(upstream)
    with openai_client(f"{proxy.url}/v1", certs) as client:
        _check_everything(_ask_everything(client), upstream)


def test_openais_async_client_gets_everything_through_a_regular_proxy(
    eager: Proxy, upstream: Upstream, certs: Certs
) -> None:
    _script_everything(upstream)

    async def ask_at_once() -> list[Any]:
        base_url = f"{upstream.url('h2')}/v1"
        async with async_openai_client(base_url, certs, proxy=eager.url, http2=True) as client:
            return await asyncio.gather(*_ask_everything(client))

    _check_everything(asyncio.run(ask_at_once()), upstream)
    assert {seen.http_version for seen in upstream.requests} == {"HTTP/2"}


def test_openais_client_raises_the_upstreams_own_error(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(sse({"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}), size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client, pytest.raises(openai.RateLimitError, match="Slow down"):
        client.chat.completions.create(model="m", messages=[])


# What the upstream sees


@pytest.mark.parametrize("client_class", CLIENTS)
def test_the_upstream_sees_the_clients_request_made_to_stream_and_nothing_else_changed(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable
) -> None:
    # A byte for byte comparison with the same request that no rule forces; the models are of one length.
    upstream.answer_always(event_stream(STREAM, size=10))
    body = b' {"n": 1.50, "stream" : false,\n"model":"%b", "messages":[ {"x": "\\u00e9 \xc3\xa9"}],"seed":1e5,"n":1}\n'
    headers = [
        ("Authorization", f"Bearer {SECRET}"),
        ("X-Stainless-Lang", "python"),
        ("Accept", "application/json"),
        ("User-Agent", "odd Agent"),
        ("x-two", "a"),
        ("x-two", "b"),
        ("api-key", SECRET),
    ]
    url = proxy.urls[REVERSE_H2].replace("http:", "https:" if client_class is Http2Client else "http:")
    for model in (b"u", b"m"):
        with client_class(url, certs) as client:
            assert client.post(f"{CHAT}?api-version=2024", body % model, headers).complete
    left, forced = upstream.requests
    changed = ("accept", "cache-control", "accept-encoding", "content-length")
    assert without(forced.headers, *changed) == without(left.headers, *changed)
    assert (forced.method, forced.path) == ("POST", f"{CHAT}?api-version=2024")
    assert left.body == body % b"u"
    inserted = b'{"stream_options":{"include_usage":true},'
    assert forced.body == (body % b"m").replace(b"{", inserted, 1).replace(b'"stream" : false', b'"stream" : true')
    assert [forced.header(name) for name in changed] == [
        "text/event-stream",
        "no-cache",
        "identity",
        str(len(forced.body)),
    ]


def test_stream_options_are_merged_into_the_clients_own(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    ask(proxy, b'{"model":"m","stream_options":{"include_obfuscation":false,"include_usage":false},"stream":null}')
    assert upstream.wait_request().body == (
        b'{"model":"m","stream_options":{"include_obfuscation":false,"include_usage":true},"stream":true}'
    )


def test_a_rule_without_stream_options_sends_none(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    ask(proxy, b'{"model":"bare","stream_options":{"include_usage":true},"x":1}')
    assert upstream.wait_request().body == b'{"stream":true,"model":"bare","x":1}'


def test_a_compressed_request_body_goes_out_plain_with_true_headers(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    body = json.dumps(request()).encode()
    response = ask(proxy, gzip.compress(body), [("Content-Encoding", "gzip")])
    assert response.json() == DOCUMENT
    seen = upstream.wait_request()
    assert seen.header("content-encoding") is None
    assert seen.header("content-length") == str(len(seen.body))
    assert seen.json() == request() | {"stream": True, "stream_options": {"include_usage": True}}


def test_a_chunked_request_body_is_forced_too(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    body = json.dumps(request()).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece.data), piece.data) for piece in pieces(body, 7)) + b"0\r\n\r\n"
    response = ask(proxy, chunks, [("Transfer-Encoding", "chunked")])
    assert response.json() == DOCUMENT
    seen = upstream.wait_request()
    assert (seen.header("transfer-encoding"), seen.header("content-length")) == ("chunked", None)
    assert seen.json() == request() | {"stream": True, "stream_options": {"include_usage": True}}


def test_a_request_of_many_megabytes_keeps_every_other_byte(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    image = b"data:image/png;base64," + b"QUJDRA+/" * 400_000
    body = b'{"model":"m","messages":[{"role":"user","content":[{"image_url":"%b"}]}],"stream":false}' % image
    assert ask(proxy, body).json() == DOCUMENT
    expected = body.replace(b"false", b"true").replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    assert upstream.wait_request().body == expected


# What is left as it came


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


LEFT_ALONE: dict[str, tuple[str, str, list[tuple[str, str]], bytes]] = {
    "a GET": ("GET", CHAT, [], b""),
    "a PUT": ("PUT", CHAT, PLAIN, _json(request())),
    "no JSON": ("POST", CHAT, PLAIN, b"model=m"),
    "JSON that is no object": ("POST", CHAT, PLAIN, b'["m"]'),
    "no body": ("POST", CHAT, PLAIN, b""),
    "multipart": ("POST", CHAT, [("Content-Type", "multipart/form-data; boundary=x")], b"--x\r\n\r\n--x--\r\n"),
    "stream true": ("POST", CHAT, PLAIN, _json(request(stream=True))),
    "stream that is no boolean": ("POST", CHAT, PLAIN, _json(request(stream="yes"))),
    "best_of": ("POST", COMPLETIONS, PLAIN, _json({"model": "m", "prompt": "", "best_of": 2})),
    "background": ("POST", RESPONSES, PLAIN, _json({"model": "m", "input": "", "background": True})),
    "audio as wav": (
        "POST",
        CHAT,
        PLAIN,
        _json(request(modalities=["text", "audio"], audio={"format": "wav", "voice": "alloy"})),
    ),
    "a rule that does not force": ("POST", CHAT, PLAIN, _json(request("unforced"))),
    "another host": ("POST", CHAT, PLAIN, _json(request("elsewhere"))),
    "another model": ("POST", CHAT, PLAIN, _json(request("M"))),
    "no model": ("POST", CHAT, PLAIN, b'{"messages":[]}'),
    "a filter that does not match": ("POST", CHAT, [*PLAIN, ("x-team", "red")], _json(request("filtered"))),
    "an endpoint that is not the rule's": ("POST", COMPLETIONS, PLAIN, _json({"model": "chatty", "prompt": ""})),
    "no known endpoint": ("POST", "/v1/embeddings", PLAIN, _json({"model": "m", "input": "x"})),
    "an encoding that is broken": (
        "POST",
        CHAT,
        [*PLAIN, ("Content-Encoding", "gzip")],
        gzip.compress(_json(request()))[:-20],
    ),
    "signed by content digest": ("POST", CHAT, [*PLAIN, ("Content-Digest", "sha-256=:x:")], _json(request())),
    "signed for AWS": (
        "POST",
        CHAT,
        [*PLAIN, ("Authorization", "AWS4-HMAC-SHA256 Credential=x, Signature=y")],
        _json(request()),
    ),
    "compact without stream": ("POST", f"{RESPONSES}/compact", PLAIN, _json({"model": "m", "input": "x"})),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_cannot_be_forced_goes_out_byte_for_byte(proxy: Proxy, upstream: Upstream, case: str) -> None:
    method, path, headers, body = LEFT_ALONE[case]
    headers = [*headers, ("ACCEPT", "application/json"), ("accept-encoding", "gzip, br"), ("x-odd", " ä ")]
    headers = [*headers, ("Content-Length", str(len(body)))] if body else headers
    upstream.answer(document({"plain": True}, headers={"x-request-id": "7"}))
    with Http1Client(proxy.url) as client:
        response = client.request(method, path, headers, body)
    assert (response.status, response.body) == (200, b'{"plain": true}')
    assert response.headers == [
        ("Content-Type", "application/json"),
        ("x-request-id", "7"),
        ("Content-Length", "15"),
    ]
    seen = upstream.wait_request()
    assert (seen.method, seen.path, seen.body) == (method, path, body)
    host = f"127.0.0.1:{upstream.ports['http']}"
    sent = [("Host", host), *((name, value.strip(" ")) for name, value in headers)]
    assert seen.headers == sent


@pytest.mark.parametrize(
    ("path", "model", "headers"),
    [
        pytest.param(CHAT, "filtered", [("x-team", "light blue")], id="the rule's filter"),
        pytest.param("/api/custom/generate?v=1", "chatty", [], id="the rule's own path"),
        pytest.param("/openai/deployments/x/chat/completions?api-version=1", "m", [], id="a path with a prefix"),
        pytest.param(CHAT, "elsewhere", [("Host", "llm.elsewhere.test")], id="the name in Host"),
    ],
)
def test_what_a_rule_matches_is_forced(
    proxy: Proxy, upstream: Upstream, path: str, model: str, headers: list[tuple[str, str]]
) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    if dict(headers).get("Host"):
        # A reverse proxy puts its upstream's name there.
        with Http1Client(upstream.url("http"), via=proxy.urls[REGULAR]) as client:
            assert client.post(path, request(model), headers).json() == DOCUMENT
    else:
        assert ask(proxy, request(model), headers, path=path).json() == DOCUMENT
    assert upstream.wait_request().json()["stream"] is True


def test_the_master_switch_leaves_everything_as_it_came(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer_always(document({"plain": True}))
    body = _json(request())
    proxy.set_options(force_stream=False)
    try:
        assert ask(proxy, body).json() == {"plain": True}
    finally:
        proxy.set_options(force_stream=True)
    assert upstream.wait_request().body == body
    ask(proxy, body)
    assert upstream.wait_request(2).json()["stream"] is True


def test_compact_loses_its_stream_key_and_nothing_else(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document({"object": "response.compaction"}))
    headers = [("Accept", "application/json"), ("Accept-Encoding", "gzip")]
    response = ask(proxy, b'{"model":"m", "stream": false, "input":"x"}', headers, path=f"{RESPONSES}/compact")
    assert response.json() == {"object": "response.compaction"}
    seen = upstream.wait_request()
    assert seen.body == b'{"model":"m", "input":"x"}'
    assert (seen.header("accept"), seen.header("accept-encoding")) == ("application/json", "gzip")
    assert seen.header("content-length") == str(len(seen.body))


# A client that streams itself


def test_a_streaming_client_gets_its_events_live_and_byte_for_byte(proxy: Proxy, upstream: Upstream) -> None:
    gate = Gate()
    first, rest = b'data: {"x" :1}\r\n', b"\r\n: odd\n\ndata:  [DONE] "
    headers = {"x-request-id": "9", "ETag": '"x"'}
    upstream.answer(Head(headers=headers), Data(first), WaitFor(gate), Data(rest), End(), key="live")
    body = b'{"model":"m","stream":true}'
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, [*PLAIN, ("Accept", "text/event-stream"), ("x-answer", "live")], body)
        incoming = client.begin("POST")
        try:
            assert incoming.read_piece() == first
        finally:
            gate.open()
        while incoming.read_piece() is not None:
            pass
        upstream.answer(document("next"))
        assert client.post("/next", {}).json() == "next"
    response = incoming.response
    assert (response.status, response.body, response.ended) == (200, first + rest, "complete")
    assert response.headers == [
        ("Content-Type", "text/event-stream"),
        ("x-request-id", "9"),
        ("ETag", '"x"'),
        ("Transfer-Encoding", "chunked"),
    ]
    seen = upstream.wait_request()
    assert (seen.body, seen.header("accept-encoding"), seen.header("cache-control")) == (body, None, None)
    (flow,) = proxy.flows("live")
    assert flow["response"]["body"] == (first + rest).decode()
    assert flow["metadata"]["force_stream.rule"] == "private-vllm"
    times = flow["metadata"]["force_stream.times"]
    assert times[1::2] == [len(first), len(first + rest)]
    assert 0 < times[0] <= times[2], "seconds since the request went out"


def test_a_streaming_http2_client_gets_its_events_live_too(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer(Head(framing=None), Data(STREAM[:50]), WaitFor(gate), Data(STREAM[50:]), End())
    with Http2Client(proxy.urls[REVERSE_H2].replace("http:", "https:"), certs) as client:
        stream = client.start("POST", CHAT, PLAIN, b'{"model":"m","stream":true}')
        try:
            response = client.receive_some(stream)
            while not response.body and not response.ended:
                response = client.receive_some(stream)
            assert response.body == STREAM[:50]
        finally:
            gate.open()
        assert client.receive(stream).body == STREAM


def test_a_streaming_client_gets_a_json_error_as_it_is(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document({"error": {"message": "no"}}, status=429, headers={"Retry-After": "3"}))
    response = ask(proxy, b'{"model":"m","stream":true}')
    assert (response.status, response.json(), response.header("retry-after")) == (
        429,
        {"error": {"message": "no"}},
        "3",
    )


# What the upstream answers


JSON = b'{"id": "x",  "n": 1.50}'
PAGE = b"<html>Bad gateway</html>"
AS_IT_CAME: dict[str, tuple[int, str | None, bytes]] = {
    "JSON in place of a stream": (200, "application/json", JSON),
    "JSON with a charset": (200, "application/json; charset=utf-8", JSON),
    "problem JSON": (400, "application/problem+json", JSON),
    "an error status with JSON": (429, "application/json", b'{"error": {"message": "slow down"}}'),
    "a server error with JSON": (500, "application/json", b'{"detail": "oops"}'),
    "an error status with a page": (502, "text/html", PAGE),
    "an error status with nothing": (503, None, b""),
    "a redirect": (307, "text/html", PAGE),
    "created": (201, "application/json", JSON),
}


@pytest.mark.parametrize("case", AS_IT_CAME)
def test_an_answer_that_is_no_stream_passes_as_it_came(proxy: Proxy, upstream: Upstream, case: str) -> None:
    status, content_type, body = AS_IT_CAME[case]
    kept = {"x-request-id": "1", "Retry-After": "3"}
    head = Head(status, content_type=content_type, framing="length", headers=kept)
    upstream.answer(Answer.of(head, pieces(body, 10), End()))
    response = ask(proxy, request())
    assert (response.status, response.body) == (status, body)
    labelled = [("Content-Type", content_type)] if content_type else []
    assert response.headers == [*labelled, *kept.items(), ("Content-Length", str(len(body)))]


STREAMS: dict[str, Answer] = {
    "labelled as JSON": event_stream(STREAM, size=10, content_type="application/json"),
    "labelled as text": event_stream(STREAM, size=10, content_type="text/plain; charset=utf-8"),
    "not labelled": event_stream(STREAM, size=10, content_type=None),
    "with CRLF": event_stream(sse(*EVENTS, newline="\r\n"), size=10),
    "with a byte order mark": event_stream(b"\xef\xbb\xbf" + STREAM, size=10),
    "with comments": event_stream(b": PROCESSING\n\n" + STREAM.replace(b"\n\n", b"\n\n: ping\n\n"), size=10),
    "without [DONE]": event_stream(sse(*EVENTS, done=False), size=10),
    "with a [DONE] that no blank line follows": event_stream(STREAM.rstrip(b"\n"), size=10),
    "as 201": event_stream(STREAM, size=10, status=201),
    "with trailers": Answer.of(Head(headers={"Trailer": "x-t"}), pieces(STREAM, 10), End({"x-t": "1"})),
}


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_gives_one_document(proxy: Proxy, upstream: Upstream, case: str) -> None:
    upstream.answer(STREAMS[case])
    response = ask(proxy, request())
    assert (response.status, response.json(), response.trailers) == (200, DOCUMENT, [])
    assert response.headers == [("Content-Type", "application/json"), ("Content-Length", str(len(response.body)))]


@pytest.mark.parametrize("name", ["gzip", "br", "deflate", "zstd"])
def test_a_stream_that_comes_compressed_all_the_same_is_decoded(proxy: Proxy, upstream: Upstream, name: str) -> None:
    compressed = encoding.encode(STREAM, name)
    upstream.answer(
        event_stream(compressed, size=10, headers={"Content-Encoding": name, "x-request-id": "1"}), key=name
    )
    response = ask(proxy, request(), [("x-answer", name)])
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert (response.header("content-encoding"), response.header("x-request-id")) == (None, "1")
    assert response.header("content-length") == str(len(response.body))
    (flow,) = proxy.flows(name)
    assert flow["metadata"]["force_stream.sse"] == STREAM.decode()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize("name", ["gzip", "br"])
def test_a_bomb_passes_as_a_request_and_is_refused_as_an_answer(proxy: Proxy, upstream: Upstream, name: str) -> None:
    zeros = bytes(500 * MEGABYTE)
    bomb = gzip.compress(zeros, 1) if name == "gzip" else brotli.compress(zeros, quality=5)
    before = _most_memory(proxy)
    upstream.answer(event_stream(bomb, size=len(bomb), headers={"Content-Encoding": name}), key=name)
    headers = [("content-encoding", name), ("x-answer", name)]
    passed = ask(proxy, bomb, headers)
    assert (passed.status, passed.body, upstream.wait_request().body) == (200, bomb, bomb)
    proxy.wait_for_log(rf"left as it came: its body \({name}\) is not a JSON object")
    upstream.answer(event_stream(bomb, size=len(bomb), headers={"Content-Encoding": name}), key=name)
    refused = ask(proxy, request(), headers[1:])
    assert (refused.status, refused.json()["error"]["code"]) == (502, "stream_too_large")
    assert _most_memory(proxy) - before < 300 * MEGABYTE


MEGABYTE = 1024**2


def _most_memory(proxy: Proxy) -> int:
    """The most bytes that the proxy's process has had in memory."""
    status = Path(f"/proc/{proxy.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("content_type", ["text/event-stream", "text/plain", None])
def test_json_that_is_labelled_otherwise_is_relabelled(
    proxy: Proxy, upstream: Upstream, content_type: str | None
) -> None:
    upstream.answer(event_stream(JSON, size=10, content_type=content_type))
    response = ask(proxy, request())
    assert (response.status, response.body) == (200, JSON)
    assert response.headers == [("Content-Type", "application/json"), ("Content-Length", str(len(JSON)))]


ERROR = {"error": {"message": "No.", "type": "t", "param": "p", "code": None, "extra": [1]}}


def error_with(**members: Any) -> dict[str, Any]:
    return {"error": ERROR["error"] | members}


UPSTREAM_ERRORS: dict[str, tuple[Answer, int, dict[str, Any]]] = {
    "first event": (event_stream(sse(ERROR), size=10), 502, ERROR),
    "between the others": (event_stream(sse(EVENTS[0], EVENTS[1], ERROR), size=10), 502, ERROR),
    "after the finish reason": (event_stream(sse(*EVENTS, ERROR), size=10), 502, ERROR),
    "without [DONE]": (event_stream(sse(EVENTS[0], ERROR, done=False), size=10), 502, ERROR),
    "status as a number": (event_stream(sse(error_with(code=429)), size=10), 429, error_with(code=429)),
    "status as digits": (event_stream(sse(error_with(code="503")), size=10), 503, error_with(code="503")),
    "known code": (
        event_stream(sse(error_with(code="rate_limit_exceeded")), size=10),
        429,
        error_with(code="rate_limit_exceeded"),
    ),
    "wrong key": (
        event_stream(sse(error_with(code="invalid_api_key")), size=10),
        401,
        error_with(code="invalid_api_key"),
    ),
    "known type": (
        event_stream(sse(error_with(type="invalid_request_error")), size=10),
        400,
        error_with(type="invalid_request_error"),
    ),
    "event named error": (
        event_stream(b'event: error\ndata: {"message":"No.","code":"model_not_found"}\n\n', size=10),
        404,
        {"error": {"message": "No.", "code": "model_not_found", "type": None, "param": None}},
    ),
    "an error status with a stream": (event_stream(sse(ERROR), size=10, status=418), 418, ERROR),
    "its status wins over the code": (
        event_stream(sse(error_with(code="rate_limit_exceeded")), size=10, status=500),
        500,
        error_with(code="rate_limit_exceeded"),
    ),
}


@pytest.mark.parametrize("case", UPSTREAM_ERRORS)
def test_an_error_inside_a_stream_is_the_answer(proxy: Proxy, upstream: Upstream, case: str) -> None:
    answer, status, body = UPSTREAM_ERRORS[case]
    upstream.answer(answer)
    response = ask(proxy, request())
    assert (response.status, response.json()) == (status, body)
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") == str(len(response.body))
    assert response.header("x-should-retry") is None


@pytest.mark.parametrize(
    ("code", "status"), [("server_error", 500), ("rate_limit_exceeded", 429), ("invalid_prompt", 400)]
)
def test_a_failed_response_is_an_error(proxy: Proxy, upstream: Upstream, code: str, status: int) -> None:
    upstream.answer(event_stream(failed_response(code), size=10))
    response = ask(proxy, {"model": "m", "input": "Hi"}, path=RESPONSES)
    assert response.status == status
    assert response.json()["error"] == {"code": code, "message": "No.", "type": None, "param": None}


def test_an_error_event_of_responses_is_an_error(proxy: Proxy, upstream: Upstream) -> None:
    event = response_event("error", 1, code="rate_limit_exceeded", message="Slow.", param=None)
    upstream.answer(event_stream(event, size=10))
    response = ask(proxy, {"model": "m", "input": "Hi"}, path=RESPONSES)
    assert response.status == 429
    error = {"code": "rate_limit_exceeded", "message": "Slow.", "type": None, "param": None}
    assert response.json()["error"] == error


OWN_ERRORS: dict[str, tuple[Answer, str, str | None]] = {
    "no event": (event_stream(b": ping\n\n", size=10), "stream_empty", None),
    "nothing": (event_stream(b""), "stream_empty", None),
    "[DONE] alone": (event_stream(sse(), size=10), "stream_empty", None),
    "a page": (event_stream(PAGE, size=10, content_type="text/html"), "stream_malformed", "false"),
    "bytes": (event_stream(bytes(range(128, 256)) * 4, size=10), "stream_malformed", "false"),
    "broken JSON": (event_stream(b'{"id": }', size=10, content_type="application/json"), "stream_malformed", "false"),
    "half of some JSON": (event_stream(b'{"id": ', size=10, content_type="application/json"), "stream_truncated", None),
    "a clean end with neither finish reason nor [DONE]": (
        event_stream(sse(*EVENTS[:3], done=False), size=10),
        "stream_truncated",
        None,
    ),
}


@pytest.mark.parametrize("case", OWN_ERRORS)
def test_what_is_no_answer_gives_an_error_of_openais_shape(proxy: Proxy, upstream: Upstream, case: str) -> None:
    answer, code, should_retry = OWN_ERRORS[case]
    upstream.answer_always(answer)
    response = ask(proxy, request(), [("Authorization", f"Bearer {SECRET}")])
    assert response.status == 502
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("upstream_error", None, code)
    assert "Rule private-vllm;" in error["message"]
    assert SECRET not in error["message"]
    assert response.header("x-should-retry") == should_retry
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") == str(len(response.body))


def test_a_finish_reason_that_never_came_is_inferred(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(sse(chunk(choice(role="assistant", content="Hi"))), size=10), key="inferred")
    since = proxy.mark()
    response = ask(proxy, request(), [("x-answer", "inferred")])
    assert response.json()["choices"][0]["finish_reason"] == "stop"
    proxy.wait_for_log(r"private-vllm: chat m, 200, finish stop \(inferred\), 1 event", since=since)
    (flow,) = proxy.flows("inferred")
    assert flow["marked"] == ":warning:"


def test_many_requests_at_once_each_get_their_own_answer(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    names = [f"answer-{number}" for number in range(40)]
    for name in names:
        body = sse(chunk(choice(role="assistant", content=name)), chunk(choice(finish_reason="stop")))
        upstream.answer(event_stream(body, size=10), key=name)
    with Http2Client(proxy.urls[REVERSE_H2].replace("http:", "https:"), certs) as client:
        streams = [client.start("POST", CHAT, [*PLAIN, ("x-answer", name)], _json(request())) for name in names]
        contents = [client.receive(stream).json()["choices"][0]["message"]["content"] for stream in streams]
    assert contents == names
