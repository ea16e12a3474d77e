"""A transparent proxy: a client, a router with mitmdump and an upstream, each in a network namespace of its own.

The client does not know of the proxy. It is behind the router, or a program on the router itself.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import Certs, Http1Client, Http2Client, Proxy, Reset, Upstream, document, event_stream
from harness.certs import DEFAULT_NAMES
from harness.http3 import http3_listener, http3_post
from harness.netns import Namespace, cable, wireguard
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, DOCUMENT, STREAM, request
from harness.scenarios import (
    SCENARIOS,
    a_retry_goes_to_the_same_upstream,
    http1_post,
    rules_for,
    what_an_upstream_demands_is_heard_and_learned,
)
from harness.tools import needs_tool

IPV4, IPV6, OTHER = "10.77.1.2", "fd77:1::2", "10.77.1.3"
# What resolves to these addresses at the client, and nowhere else.
NAMES = {"ipv4.llm.test": IPV4, "ipv6.llm.test": IPV6, "untouched.test": OTHER, "force.stream": IPV4}
PORTS = {"http": 80, "https": 443, "h2": 8443, "untrusted": 9443}
PROXY_PORT = 8080
# mitmdump's own connections are told by its group.
GROUP = 4242
CAPTURE = f"""
table inet capture {{
    chain from_others {{
        type nat hook prerouting priority dstnat;
        iifname "CLIENTS" tcp dport {{ 80, 443, 8443 }} redirect to :{PROXY_PORT}
    }}
    chain from_this_machine {{
        type nat hook output priority -100;
        oifname != "lo" meta skgid != {GROUP} tcp dport {{ 80, 443, 8443 }} redirect to :{PROXY_PORT}
    }}
    chain no_quic_from_others {{
        type filter hook forward priority filter;
        iifname "CLIENTS" udp dport 443 reject
    }}
    chain no_quic_from_this_machine {{
        type filter hook output priority filter;
        oifname != "lo" meta skgid != {GROUP} udp dport 443 reject
    }}
}}
"""


class Network:
    """The three, with the client's way to the upstream through a router that takes its connections."""

    def __init__(self, stack: ExitStack) -> None:
        self.client, self.router, self.upstream = (stack.enter_context(Namespace()) for _ in range(3))
        _, inside = cable(self.client, ["10.77.0.2/24", "fd77::2/64"], self.router, ["10.77.0.1/24", "fd77::1/64"])
        cable(self.router, ["10.77.1.1/24", "fd77:1::1/64"], self.upstream, [f"{IPV4}/24", f"{OTHER}/24", f"{IPV6}/64"])
        for namespace, ipv4, ipv6 in (
            (self.client, "10.77.0.1", "fd77::1"),
            (self.upstream, "10.77.1.1", "fd77:1::1"),
        ):
            namespace.ip(f"route add default via {ipv4}")
            namespace.ip(f"-6 route add default via {ipv6}")
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.router.run("sh", "-c", f"echo 1 >/proc/sys/net/{switch}")
        self.router.nft(CAPTURE.replace("CLIENTS", inside))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    return Certs(tmp_path_factory.mktemp("certs"), (*DEFAULT_NAMES, IPV4, IPV6, "untouched.test"))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack)


@pytest.fixture(scope="module")
def far(network: Network, known: Certs) -> Iterator[Upstream]:
    with network.upstream.entered(), Upstream(known, hosts=(IPV4, IPV6, OTHER), ports=PORTS) as upstream:
        yield upstream


@pytest.fixture
def upstream(far: Upstream) -> Iterator[Upstream]:
    far.reset()
    yield far
    assert not far.errors, "\n".join(far.errors)


@pytest.fixture(scope="module", params=["eager", "lazy"])
def proxy(
    network: Network, known: Certs, request: pytest.FixtureRequest, shared_rules: Callable[[str], object]
) -> Iterator[Proxy]:
    options = {
        "listen_host": "",
        "listen_port": PROXY_PORT,
        "connection_strategy": request.param,
        "force_stream_rules": shared_rules(rules_for("*.llm.test", IPV4, IPV6)),
        "allow_hosts": [r"\.llm\.test:", r"^10\.77\.1\.2:", r"^\[?fd77:1::2\]?:"],
    }
    scripts = [ADDON, SCRIPTS / "quick_retries.py"]
    with network.router.entered():
        proxy = Proxy("transparent", certs=known, scripts=scripts, options=options, group=GROUP).start()
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def resolve_ours(host: str, *rest: Any, **more: Any) -> Any:
        return resolve(NAMES.get(host, host), *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_ours)


@pytest.fixture(params=["behind the router", "on the router"])
def client(network: Network, names: None, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """Where the client is; this thread is there during the test."""
    place = network.client if request.param == "behind the router" else network.router
    with place.entered():
        yield place


WAYS = {
    "plain, IPv4": f"http://{IPV4}",
    "plain, IPv6": f"http://[{IPV6}]",
    "plain by name": "http://ipv4.llm.test",
    "TLS by address, IPv4": f"https://{IPV4}",
    "TLS by address, IPv6": f"https://[{IPV6}]",
    "TLS by name, IPv4": "https://ipv4.llm.test",
    "TLS by name, IPv6": "https://ipv6.llm.test",
    "TLS by name, HTTP/2 upstream": "https://ipv4.llm.test:8443",
}
every_way = pytest.mark.parametrize("url", WAYS.values(), ids=list(WAYS))


@pytest.mark.parametrize("scenario", SCENARIOS)
@every_way
def test_every_way_gives_what_a_client_expects(
    client: Namespace, proxy: Proxy, upstream: Upstream, known: Certs, url: str, scenario: Callable
) -> None:
    scenario(upstream, http1_post(url, known))
    listener = "http" if url.startswith("http:") else "h2" if url.endswith(":8443") else "https"
    assert {asked.listener for asked in upstream.requests} == {listener}


@every_way
def test_a_host_header_does_not_decide_where_a_retry_goes(
    client: Namespace, proxy: Proxy, upstream: Upstream, known: Certs, url: str
) -> None:
    a_retry_goes_to_the_same_upstream(upstream, http1_post(url, known, headers=[("Host", "proxy.llm.test")]))
    assert [asked.header("host") for asked in upstream.requests] == ["proxy.llm.test"] * 2


def test_an_http2_client_is_served(client: Namespace, proxy: Proxy, upstream: Upstream, known: Certs) -> None:
    upstream.answer(event_stream(STREAM))
    with Http2Client("https://ipv6.llm.test:8443", known) as http:
        assert http.post(CHAT, request()).json() == DOCUMENT


def test_a_host_that_is_not_allowed_is_not_decrypted(
    client: Namespace, proxy: Proxy, upstream: Upstream, known: Certs
) -> None:
    upstream.answer(document(DOCUMENT))
    with Http1Client("https://untouched.test", known) as http:
        assert isinstance(http.socket, ssl.SSLSocket)
        shown = http.socket.getpeercert(binary_form=True)
        assert http.post(CHAT, request()).json() == DOCUMENT
    assert shown == ssl.PEM_cert_to_DER_cert(known.server.read_text().partition("-----BEGIN RSA")[0])
    assert "stream" not in upstream.wait_request().json()


@pytest.mark.parametrize("url", ["http://ipv4.llm.test", "https://ipv6.llm.test"])
def test_what_is_learned_goes_by_the_name(
    client: Namespace, proxy: Proxy, upstream: Upstream, known: Certs, url: str
) -> None:
    since, name = proxy.mark(), url.partition("://")[2]
    what_an_upstream_demands_is_heard_and_learned(upstream, http1_post(url, known))
    proxy.wait_for_log(rf"learns: {name} answers learn-\d+ only as a stream; .* - {{name: \"?{name} ", since=since)


@pytest.mark.parametrize("proxy", ["lazy"], indirect=True)
@every_way
def test_a_retry_after_a_reset_connection_goes_to_the_same_upstream(
    client: Namespace, proxy: Proxy, upstream: Upstream, known: Certs, url: str
) -> None:
    upstream.at_accept(Reset())
    upstream.answer(event_stream(STREAM))
    response = http1_post(url, known)("again")
    assert (response.status, response.json()) == (200, DOCUMENT)


@pytest.mark.parametrize("proxy", ["lazy"], indirect=True)
def test_the_page_answers_programs_of_the_router_itself(
    network: Network, client: Namespace, proxy: Proxy, known: Certs
) -> None:
    with Http1Client("http://force.stream", known) as http:
        response = http.get("/rules")
    assert response.status == (200 if client is network.router else 403)


def test_a_client_that_does_not_trust_the_certificate_is_named(
    network: Network, client: Namespace, proxy: Proxy, known: Certs, tmp_path: Path
) -> None:
    since = proxy.mark()
    with pytest.raises(ssl.SSLCertVerificationError):
        Http1Client("https://ipv4.llm.test", Certs(tmp_path))
    address = r"10\.77\.0\.2" if client is network.client else r"10\.77\.1\.1"
    proxy.wait_for_log(rf"{address}\S* does not trust mitmproxy's certificate for ipv4\.llm\.test", since=since)


@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_quic_is_refused_so_that_a_client_takes_tcp(client: Namespace, address: str) -> None:
    def ask_by_udp() -> bytes:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(10)
            udp.connect((address, 443))
            udp.send(b"quic")
            return udp.recv(1)

    with pytest.raises((ConnectionRefusedError, PermissionError)):
        ask_by_udp()


# WireGuard: no rules for packets, and what comes by QUIC is carried


@pytest.fixture(scope="module")
def tunnel(network: Network, known: Certs, shared_rules: Callable[[str], object]) -> Iterator[tuple[Namespace, Proxy]]:
    """A client of its own, and the proxy at the other end."""
    needs_tool("wireguard-go")
    options = {"listen_host": "10.78.0.1", "force_stream_rules": shared_rules(rules_for("*.llm.test", IPV4, IPV6))}
    scripts = [ADDON, SCRIPTS / "quick_retries.py"]
    with ExitStack() as stack:
        client = stack.enter_context(Namespace())
        cable(client, ["10.78.0.2/24"], network.router, ["10.78.0.1/24"])
        with network.router.entered():
            proxy = stack.enter_context(Proxy("wireguard", certs=known, scripts=scripts, options=options, group=GROUP))
        private, public = (proxy.wait_for_log(rf"{name}Key = (\S+)")[1] for name in ("Private", "Public"))
        endpoint = f"10.78.0.1:{proxy.ports[0]}"
        stack.enter_context(wireguard(client, private, public, endpoint, ["10.77.1.0/24", "fd77:1::/64"]))
        yield client, proxy


@pytest.mark.parametrize("scenario", SCENARIOS)
@every_way
def test_every_way_through_wireguard_gives_what_a_client_expects(
    tunnel: tuple[Namespace, Proxy], names: None, upstream: Upstream, known: Certs, url: str, scenario: Callable
) -> None:
    client, _ = tunnel
    with client.entered():
        scenario(upstream, http1_post(url, known))
    assert upstream.requests


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_http3_through_wireguard_gives_what_a_client_expects(
    tunnel: tuple[Namespace, Proxy], upstream: Upstream, known: Certs, scenario: Callable
) -> None:
    client, _ = tunnel
    with http3_listener(upstream, known, host=IPV4, port=443), client.entered():
        scenario(upstream, http3_post(f"https://{IPV4}:443", known))
    assert {asked.http_version for asked in upstream.requests} == {"HTTP/3"}
