"""HTTP/3 on either side of a real mitmdump, with aioquic."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Certs, Gate, Proxy, Request, Upstream, document, event_stream
from harness.http3 import http3_listener, post
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, DOCUMENT, STREAM, request
from harness.steps import Answer, Close, Data, End, Head, Reset, RstStream, WaitFor
from harness.upstream import refused_port

RULES = """\
rules:
  - name: slow
    hosts: ["127.0.0.1"]
    models: ["slow"]
    force_upstream_stream: true
    heartbeat: 0.2
  - name: tries
    hosts: ["127.0.0.1"]
    models: ["again"]
    force_upstream_stream: true
    retries: 1
  - name: learns
    hosts: ["127.0.0.1"]
    models: ["learn-*"]
    learn: true
  - name: forced
    hosts: ["127.0.0.1"]
    force_upstream_stream: true
"""
# Both take HTTP/3. What comes by it goes to the upstream by it.
SCHEMES = ("http3", "https")


@pytest.fixture(scope="module")
def http3_port(session_upstream: Upstream, certs: Certs) -> Iterator[int]:
    with http3_listener(session_upstream, certs) as port:
        yield port


@pytest.fixture(scope="module", params=["eager", "lazy"])
def proxy(
    http3_port: int,
    shared_proxy: Callable[..., Proxy],
    shared_rules: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> Proxy:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": request.param}
    modes = [f"reverse:{scheme}://127.0.0.1:{http3_port}" for scheme in SCHEMES]
    return shared_proxy(*modes, scripts=[ADDON, SCRIPTS / "quick_retries.py"], options=options)


@pytest.fixture(params=SCHEMES)
def url(proxy: Proxy, upstream: Upstream, request: pytest.FixtureRequest) -> str:
    """Where the client sends its request."""
    return proxy.urls[SCHEMES.index(request.param)].replace("http:", "https:")


def test_a_plain_request_is_forced(url: str, proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    since = proxy.mark()
    upstream.answer(event_stream(STREAM, size=10, headers={"x-request-id": "req-1"}))
    response = post(url, certs, CHAT, request())
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") == str(len(response.body))
    assert response.header("x-request-id") == "req-1"
    seen = upstream.wait_request()
    assert seen.http_version == "HTTP/3"
    assert seen.json()["stream"] is True
    proxy.wait_for_log("forced: chat m", since=since)
    assert "Lowercased" not in "\n".join(proxy.log_lines[since:])


@pytest.mark.parametrize("cut", [Close(), Reset(), RstStream(), End()], ids=lambda step: type(step).__name__)
def test_a_cut_stream_gives_a_502_in_json(url: str, upstream: Upstream, certs: Certs, cut: object) -> None:
    upstream.answer([Head(), Data(STREAM[:200]), cut])
    response = post(url, certs, CHAT, request())
    assert (response.status, response.json()["error"]["code"]) == (502, "stream_truncated")


def test_heartbeats_come_while_the_upstream_is_silent(url: str, proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate, since = Gate(), proxy.mark()
    upstream.answer([WaitFor(gate), Head(), Data(STREAM), End()])
    response = post(url, certs, CHAT, request("slow"), after=2, then=gate.open)
    assert response.chunks[:2] == [b" ", b" "]
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert "Lowercased" not in "\n".join(proxy.log_lines[since:])


def test_a_failure_after_a_heartbeat_cuts_the_answer_short(url: str, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer([Head(), WaitFor(gate), Data(STREAM[:200]), Close()])
    response = post(url, certs, CHAT, request("slow"), after=1, then=gate.open)
    assert response.status == 200
    assert response.ended != "complete"


def test_a_retry_reaches_the_upstream(url: str, upstream: Upstream, certs: Certs) -> None:
    upstream.answer([Head(), Data(STREAM[:200]), Close()])
    upstream.answer(event_stream(STREAM))
    response = post(url, certs, CHAT, request("again"))
    assert (response.status, response.json()) == (200, DOCUMENT)
    first, second = upstream.requests
    assert first.listener == second.listener


def test_what_an_upstream_demands_is_heard_and_learned(
    url: str, proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    def answer(asked: Request) -> Answer:
        refusal = {"error": {"message": "This model only support stream mode", "code": None}}
        return event_stream(STREAM) if asked.json().get("stream") else document(refusal, status=400)

    upstream.handle(answer)
    for _ in range(2):
        response = post(url, certs, CHAT, request("learn-" + url))
        assert (response.status, response.json()) == (200, DOCUMENT)
    assert len({asked.listener for asked in upstream.requests}) == 1
    assert upstream.requests[-1].json()["stream"] is True


def test_a_client_that_asks_for_a_stream_gets_its_events(url: str, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    response = post(url, certs, CHAT, request(stream=True))
    assert (response.status, response.body) == (200, STREAM)


def test_an_upstream_that_is_down_gives_a_502_in_json(
    shared_proxy: Callable[..., Proxy], shared_rules: Callable[[str], Path], certs: Certs
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    down = shared_proxy(f"reverse:http3://127.0.0.1:{refused_port()}", scripts=[ADDON], options=options)
    response = post(down.tls_url, certs, CHAT, request())
    assert (response.status, response.json()["error"]["code"]) == (502, "upstream_unreachable")
