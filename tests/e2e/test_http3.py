"""HTTP/3 on either side of a real mitmdump, with aioquic."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Certs, Gate, Proxy, Upstream, event_stream
from harness.http3 import http3_listener, http3_post, post
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, STREAM, request
from harness.scenarios import SCENARIOS, rules_for
from harness.steps import Close, Data, End, Head, Reset, RstStream, WaitFor
from harness.upstream import refused_port

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
    options = {"force_stream_rules": shared_rules(rules_for("127.0.0.1")), "connection_strategy": request.param}
    modes = [f"reverse:{scheme}://127.0.0.1:{http3_port}" for scheme in SCHEMES]
    return shared_proxy(*modes, scripts=[ADDON, SCRIPTS / "quick_retries.py"], options=options)


@pytest.fixture(params=SCHEMES)
def url(proxy: Proxy, upstream: Upstream, request: pytest.FixtureRequest) -> str:
    """Where the client sends its request."""
    return proxy.urls[SCHEMES.index(request.param)].replace("http:", "https:")


def test_the_answers_headers_are_true_of_it(url: str, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(STREAM, size=10, headers={"x-request-id": "req-1"}))
    response = post(url, certs, CHAT, request())
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") == str(len(response.body))
    assert response.header("x-request-id") == "req-1"


@pytest.mark.parametrize("cut", [Reset(), RstStream(), End()], ids=lambda step: type(step).__name__)
def test_a_cut_stream_gives_a_502_in_json(url: str, upstream: Upstream, certs: Certs, cut: object) -> None:
    upstream.answer([Head(), Data(STREAM[:200]), cut])
    response = post(url, certs, CHAT, request())
    assert (response.status, response.json()["error"]["code"]) == (502, "stream_truncated")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_http3_gives_what_a_client_expects(
    url: str, proxy: Proxy, upstream: Upstream, certs: Certs, scenario: Callable
) -> None:
    since = proxy.mark()
    scenario(upstream, http3_post(url, certs))
    assert {asked.http_version for asked in upstream.requests} == {"HTTP/3"}
    assert "Lowercased" not in "\n".join(proxy.log_lines[since:])


def test_a_failure_after_a_heartbeat_cuts_the_answer_short(url: str, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer([Head(), WaitFor(gate), Data(STREAM[:200]), Close()])
    response = post(url, certs, CHAT, request("slow"), after=1, then=gate.open)
    assert response.status == 200
    assert response.ended != "complete"


def test_a_client_that_asks_for_a_stream_gets_its_events(url: str, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    response = post(url, certs, CHAT, request(stream=True))
    assert (response.status, response.body) == (200, STREAM)


def test_an_upstream_that_is_down_gives_a_502_in_json(
    shared_proxy: Callable[..., Proxy], shared_rules: Callable[[str], Path], certs: Certs
) -> None:
    options = {"force_stream_rules": shared_rules(rules_for("127.0.0.1")), "connection_strategy": "lazy"}
    down = shared_proxy(f"reverse:http3://127.0.0.1:{refused_port()}", scripts=[ADDON], options=options)
    response = post(down.tls_url, certs, CHAT, request())
    assert (response.status, response.json()["error"]["code"]) == (502, "upstream_unreachable")
