"""What no rule forces goes out as it came: any method, path, headers and body."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from force_stream.addon import hooks as addon
from force_stream.proxy import bodies
from force_stream.proxy.request import as_it_came
from harness import Http1Client, Proxy, Response, Upstream, document, event_stream
from harness.paths import ADDON
from harness.samples import CHAT, COMPLETIONS, RESPONSES, STREAM
from hypothesis import event, given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.test import taddons, tflow, tutils

# Matches no request below: by host, by model, by path, by filter.
NO_MATCH = """\
rules:
  - {name: host, hosts: ["llm.example.test", "127.0.0.1:1"], force_upstream_stream: true}
  - {name: model, hosts: ["*"], models: ["no-such-model"], force_upstream_stream: true}
  - {name: filter, hosts: ["*"], filter: "~hq x-no-such-header", force_upstream_stream: true}
"""
NO_FORCE = """\
rules:
  - {name: all, hosts: ["*"], paths: {"/x": chat, "/y": responses}}
"""
FORCE = NO_FORCE.replace("}}", "}, force_upstream_stream: true}")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["model", "stream", "stream_options", "messages", "best_of", "background", "n", "prompt"]),
    JSON | st.sampled_from(["m", "gpt-4", True, False]),
)
BODIES = st.one_of(
    st.binary(max_size=64),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(lambda value, indent: json.dumps(value, indent=indent).encode(), MEMBERS, st.sampled_from([None, 1])),
    st.builds(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), MEMBERS),
)
_TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABC-_0123", min_size=1, max_size=12).map(str.encode)
_NAMED = st.sampled_from(
    [b"Accept", b"accept-encoding", b"Content-Encoding", b"Content-Type", b"Digest", b"Authorization", b"X-Team"]
)
_VALUE = st.binary(max_size=16).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))
HEADERS = st.lists(
    st.tuples(_TOKEN | _NAMED, _VALUE | st.sampled_from([b"gzip", b"br", b"application/json"])), max_size=6
)
KNOWN_PATHS = st.sampled_from(
    [CHAT, COMPLETIONS, RESPONSES, f"{RESPONSES}/compact", "/x", "/y", f"{CHAT}?a=b", f"/prefix{CHAT}/"]
)


def requests(methods: st.SearchStrategy, paths: st.SearchStrategy, bodies: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(
        lambda method, path, headers, body, version: tutils.treq(
            host="127.0.0.1",
            method=method.encode(),
            path=path.encode("utf-8", "surrogatepass"),
            headers=http.Headers(headers),
            content=body,
            http_version=version,
        ),
        methods,
        paths,
        HEADERS,
        bodies,
        st.sampled_from([b"HTTP/1.1", b"HTTP/2.0"]),
    )


OF_ANY_KIND = requests(
    st.sampled_from(["POST", "POST", "GET", "PUT", "DELETE", "post", "PATCH"]),
    KNOWN_PATHS | st.text(max_size=12).map(lambda text: f"/{text}"),
    BODIES,
)
# Most of these are forced.
ASKING = requests(
    st.just("POST"),
    KNOWN_PATHS,
    MEMBERS.map(lambda members: json.dumps(members | {"stream": members.get("stream") is True or None}).encode()),
)
RESPONSES_OF_ANY_KIND = st.builds(
    lambda status, headers, body: tutils.tresp(status_code=status, headers=http.Headers(headers), content=body),
    st.integers(200, 599),
    HEADERS,
    st.binary(max_size=64) | st.just(STREAM),
)


class Addon:
    """The addon with some rules, on an event loop that outlives an example."""

    def __init__(self, folder: Path, rules: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.addon = addon.ForceStream(ADDON.with_name("rules.yaml"))
        path = folder / "rules.yaml"
        path.write_text(rules)

        async def begin() -> None:
            taddons.context(self.addon).configure(self.addon, force_stream_rules=str(path))

        self.loop.run_until_complete(begin())

    def request(self, flow: http.HTTPFlow) -> None:
        self.loop.run_until_complete(self.addon.request(flow))

    def response(self, flow: http.HTTPFlow) -> None:
        self.addon.responseheaders(flow)
        self.loop.run_until_complete(self.addon.response(flow))


@pytest.fixture(scope="module")
def with_rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Addon]]:
    made: dict[str, Addon] = {}

    def get(rules: str) -> Addon:
        if rules not in made:
            made[rules] = Addon(tmp_path_factory.mktemp("rules"), rules)
        return made[rules]

    yield get
    for each in made.values():
        each.loop.close()


def live(request: http.Request) -> http.HTTPFlow:
    flow = tflow.tflow(req=request)
    flow.live = True
    return flow


@pytest.mark.parametrize("rules", [NO_MATCH, NO_FORCE], ids=["no rule matches", "no rule forces"])
@given(request=OF_ANY_KIND | ASKING, response=RESPONSES_OF_ANY_KIND)
def test_a_flow_that_no_rule_forces_is_left_in_every_byte(
    with_rules: Callable[[str], Addon], rules: str, request: http.Request, response: http.Response
) -> None:
    ours, flow = with_rules(rules), live(request)
    before = flow.get_state()
    ours.request(flow)
    assert flow.get_state() == before
    flow.response = response
    answered = flow.get_state()
    ours.response(flow)
    assert flow.get_state() == answered
    assert not flow.response.stream


@given(request=OF_ANY_KIND | ASKING)
def test_a_request_is_forced_or_left_in_every_byte_and_forced_ones_can_be_undone(
    with_rules: Callable[[str], Addon], request: http.Request
) -> None:
    ours, flow = with_rules(FORCE), live(request)
    before, headers, body = flow.request.get_state(), flow.request.headers.copy(), bodies.decoded(flow.request)
    ours.request(flow)
    event("forced" if "force_stream.undo" in flow.metadata else "left")
    if "force_stream.undo" not in flow.metadata:
        assert flow.request.get_state() == before
        return
    now: Any = flow.request
    assert as_it_came(flow, now.raw_content) == body
    changed = {"accept", "cache-control", "accept-encoding", "content-encoding", "content-length"}
    rest = [pair for pair in now.headers.fields if pair[0].decode().lower() not in changed]
    assert rest == [pair for pair in headers.fields if pair[0].decode().lower() not in changed]
    assert now.headers["content-length"] == str(len(now.raw_content))


# On the wire: what a bare mitmdump does is the measure


def _posted(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: llm.test", f"content-LENGTH: {len(body)}", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


WIRE = {
    "a plain request": _posted(CHAT, b'{ "model":"m" , "stream":false}', "X-B: 1", "x-a: 2", "X-B:  3 "),
    "a request that streams": _posted(CHAT, b'{"model":"m","stream":true}', "Accept: text/event-stream"),
    "bytes": _posted(RESPONSES, bytes(range(256)), "Content-Type: application/octet-stream"),
    "no body": b"GET /v1/models?a=%20b HTTP/1.1\r\nHost: llm.test\r\nACCEPT: */*\r\n\r\n",
    "chunks": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "HEAD": b"HEAD /v1/models HTTP/1.1\r\nHost: llm.test\r\n\r\n",
}
ANSWERS = {
    "a stream": event_stream(STREAM, size=10, headers={"X-Request-ID": "1", "Cache-Control": "no-cache"}),
    "a document": document({"a": 1.50}, headers={"x-Two": "b"}),
    "an error": document({"error": {}}, status=429, reason="Slow Down"),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("sent", WIRE)
def test_traffic_of_other_hosts_is_what_a_bare_mitmdump_makes_of_it(
    shared_proxy: Callable[..., Proxy], upstream: Upstream, answer: str, sent: str
) -> None:
    mode = f"reverse:{upstream.url()}"
    proxies = [shared_proxy(mode), shared_proxy(mode, scripts=[ADDON])]  # the rules as shipped: none
    upstream.answer_always(ANSWERS[answer])
    answers: list[Response] = []
    for proxy in proxies:
        with Http1Client(proxy.url) as client:
            client.send(WIRE[sent])
            answers.append(client.receive(sent if sent == "HEAD" else "GET"))
    bare, ours = upstream.requests
    assert (ours.method, ours.path, ours.headers, ours.body) == (bare.method, bare.path, bare.headers, bare.body)
    assert answers[1] == answers[0]
    assert answers[0].complete
