"""Clients that do not trust mitmproxy's certificate, through a real mitmdump: the one line that says so."""

import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from harness import Certs, Http1Client, Proxy, Upstream, event_stream, needs_tool
from harness.page import NAME
from harness.paths import ADDON
from harness.samples import CHAT, DOCUMENT, STREAM, request

RULES = """\
rules:
  - name: r
    hosts: ["llm.test", "127.0.0.1", "force.stream"]
    force_upstream_stream: true
"""
# As Electron's main process does it: it verifies the certificate itself.
NODE = """
const connect = {port: process.argv[1], method: "CONNECT", path: "llm.test:443"};
require("http").request(connect).on("connect", (response, socket) =>
    require("tls").connect({socket, servername: "llm.test"}).on("error", () => {})).end();
"""
LAZY = {"connection_strategy": "lazy"}


@pytest.fixture
def start(proxy_factory: Callable[..., Proxy], rules_file: Path) -> Callable[[str], Proxy]:
    return lambda mode: proxy_factory(mode, scripts=[ADDON], options=LAZY | {"force_stream_rules": rules_file})


def tunnel(proxy: Proxy, host: str) -> socket.socket:
    """A connection to a host through the proxy, on which TLS may begin."""
    target = urlsplit(proxy.url)
    sock = socket.create_connection((target.hostname, target.port), timeout=60)
    sock.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    assert b" 200 " in sock.recv(65536)
    return sock


def begin(sock: socket.socket, host: str, context: ssl.SSLContext) -> None:
    """A handshake up to the server's certificate, and no further."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=host).do_handshake()
    sock.sendall(outgoing.read())
    assert sock.recv(65536)


def test_a_client_with_roots_of_its_own_is_told_of_once(start: Callable[[str], Proxy]) -> None:
    # The SDK brings its list of authorities, and tries three times.
    proxy = start("regular")
    with (
        httpx.Client(proxy=proxy.url, verify=ssl.create_default_context()) as http,
        openai.OpenAI(base_url="https://llm.test/v1", api_key="k", http_client=http) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    proxy.wait_for_log(
        r"127\.0\.0\.1 does not trust mitmproxy's certificate for llm\.test, so .*--mode reverse:https://llm\.test "
    )
    assert proxy.log.count("does not trust mitmproxy's certificate") == 1


@pytest.mark.parametrize("wordless", ["before the handshake's end", "after it"])
def test_clients_that_leave_without_a_word_are_told_of_at_the_second_time(
    start: Callable[[str], Proxy], certs: Certs, wordless: str
) -> None:
    # So do Node.js, Java and aiohttp, and after the handshake programs with GnuTLS.
    proxy = start("regular")
    for _ in range(2):
        with tunnel(proxy, "llm.test") as sock:
            if wordless == "after it":
                with certs.client_context.wrap_socket(sock, server_hostname="llm.test"):
                    pass
            else:
                begin(sock, "llm.test", certs.client_context)
    proxy.wait_for_log(r"127\.0\.0\.1 closes its connections to llm\.test at once: it may not trust")


def test_a_program_that_verifies_the_certificate_itself_is_told_of(start: Callable[[str], Proxy]) -> None:
    proxy = start("regular")
    for _ in range(2):
        subprocess.run([needs_tool("node"), "--eval", NODE, f"{proxy.ports[0]}"], timeout=60, check=True)
    proxy.wait_for_log(r"127\.0\.0\.1 .*llm\.test.* for one that has its own list of authorities")


def test_hosts_of_no_rule_and_clients_that_trust_the_certificate_have_no_line(
    start: Callable[[str], Proxy], upstream: Upstream, certs: Certs
) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = start("regular")
    with tunnel(proxy, "elsewhere.test") as sock, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(sock, server_hostname="elsewhere.test")
    for _ in range(3):
        with Http1Client(upstream.url("https"), certs, via=proxy.url) as client:
            assert client.post(CHAT, request()).json() == DOCUMENT
        with Http1Client(f"https://{NAME}", certs, via=proxy.url) as client:
            assert client.get("/").status == 200
    proxy.wait_for_log("does not trust the proxy's certificate for elsewhere.test")
    assert "trust mitmproxy's certificate" not in proxy.log


def test_in_reverse_mode_the_cure_is_http(start: Callable[[str], Proxy], upstream: Upstream) -> None:
    proxy = start(f"reverse:{upstream.url()}")
    target = urlsplit(proxy.url)
    with (
        socket.create_connection((target.hostname, target.port), timeout=60) as sock,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
    proxy.wait_for_log(re.escape(f"needs no certificate if its base URL begins with {proxy.url} instead of https://"))
