"""The cause of a failure, said first in the log and on the flow, through a real mitmdump."""

import json
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from harness import (
    Close,
    Data,
    Gate,
    Head,
    Http1Client,
    Linger,
    Proxy,
    Reset,
    Signal,
    Upstream,
    document,
    event_stream,
    sse,
)
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, EVENTS, SECRET, STREAM, request

TWO = Data(sse(*EVENTS[:2], done=False))
RULE = "rules:\n- {name: r, hosts: ['*'], force_upstream_stream: true, idle_timeout: %s}\n"
LIMITED = {"error": {"message": f"{SECRET}: slow down", "code": "rate_limit_exceeded"}}
JSON_TYPE = [("content-type", "application/json")]
BODY = json.dumps(request()).encode()
PAGE = Data(b"<html><title>Acme SSO</title><body>Please log in</body></html>")


@pytest.fixture
def start(proxy_factory: Callable[..., Proxy], tmp_path: Path) -> Callable[..., Proxy]:
    """`start(url)`: a mitmdump before that upstream, which forces everything."""

    def start(url: str, idle_timeout: str = "1.5", *, scripts: tuple[Path, ...] = (), **options: object) -> Proxy:
        (tmp_path / "rules.yaml").write_text(RULE % idle_timeout)
        options |= {"force_stream_rules": tmp_path / "rules.yaml", "connection_strategy": "lazy"}
        return proxy_factory(f"reverse:{url}", scripts=[ADDON, *scripts], options=options, remote=True)

    return start


def ask(proxy: Proxy, key: str) -> int:
    with Http1Client(proxy.url) as client:
        headers = [("x-answer", key), ("authorization", f"Bearer {SECRET}")]
        return client.post(CHAT, request(), headers).status


# What the upstream does, and what is said first; the numbers of seconds are the machine's.
CAUSES: dict[str, tuple[Any, str]] = {
    "reset": ((Head(), TWO, Reset()), r"cut off after event 2 \(connection reset\)"),
    "closed": ((Head(), TWO, Close()), r"cut off after event 2 \(connection closed\)"),
    "silent": ((Head(), TWO, Linger()), r"the upstream sent no byte for 1\.5 s, after event 2"),
    "limited": (
        document(LIMITED, status=429, headers=[("Retry-After", "20")]).steps,
        r'rate limited by the upstream \(429, rate_limit_exceeded, retry after 20 s\): "\*\*\*: slow down"',
    ),
    "page": (
        (Head(content_type="text/html", framing="close"), PAGE, Close()),
        r'a sign-in page \(text/html\) in place of events: "Acme SSO Please log in"',
    ),
    "empty": ((Head(), Data(b""), Close()), r"cut off before the first event"),
    "moved": (
        document({}, status=302, headers=[("Location", f"https://sso.example.com/login?key={SECRET}")]).steps,
        r"odd: redirected by the upstream \(302\) to https://sso\.example\.com/login",
    ),
    "labelled": (
        event_stream(STREAM, content_type="application/json").steps,
        r"odd: an event stream labelled application/json",
    ),
}


def test_the_cause_comes_first_in_the_log_and_in_the_comment(start: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = start(upstream.url())
    for key, (steps, _) in CAUSES.items():
        upstream.answer(*steps, key=key)
        ask(proxy, key)
    for key, (_, words) in CAUSES.items():
        (flow,) = proxy.flows(key)
        found = re.match(words, flow["metadata"]["force_stream.cause"])
        assert found, (key, flow["comment"])
        assert flow["comment"].startswith(f"{flow['metadata']['force_stream.cause']}; r: chat m, ")
        assert flow["marked"] == ":warning:"
        assert SECRET not in f"{flow['comment']}{flow['metadata']['force_stream.cause']}"
        proxy.wait_for_log(rf"^.*{words}.*; r: chat m, ")


def test_silence_is_told_of_while_the_flow_is_in_flight(start: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = start(upstream.url(), "60", scripts=(SCRIPTS / "impatient.py",))
    upstream.answer(Head(), TWO, Linger())
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, JSON_TYPE, BODY)
        proxy.wait_for_log(r"silent for \d+ s, after 2 events; r: chat m, still in flight")


def test_the_flow_of_a_client_that_gave_up_has_the_events_that_came(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    proxy, came = start(upstream.url(), "60"), Gate()
    upstream.answer(Head(), TWO, Signal(came), Linger(), key="left")
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, [*JSON_TYPE, ("x-answer", "left")], BODY)
        came.wait()
        deadline = time.monotonic() + 30
        while not proxy.flows("left")[0]["response"] and time.monotonic() < deadline:
            time.sleep(0.05)
    proxy.wait_for_log(
        r"the client gave up after \d+\.\d s, (\d+\.\d s after event 2|before the first event); r: chat m"
    )
    (flow,) = proxy.flows("left")
    assert flow["comment"].startswith("the client gave up after ")
    assert flow["metadata"]["force_stream.error"] == "client_gone"
    assert flow["response"]["body"] == flow["metadata"]["force_stream.sse"]


def test_a_clients_own_stream_that_was_cut_is_told_of(start: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = start(upstream.url())
    upstream.answer(Head(), TWO, Reset(), key="own")
    with Http1Client(proxy.url) as client:
        client.post(CHAT, request(stream=True), [("x-answer", "own")])
    told = r"cut off after event 2 \(connection .*\); r: chat m, the client's own stream"
    proxy.wait_for_log(rf"{told}, \d+\.\d s$")
    (flow,) = proxy.flows("own")
    assert re.fullmatch(told, flow["comment"])
    assert flow["marked"] == ":warning:"


class PlainServer(socketserver.BaseRequestHandler):
    """What servers without TLS say to a TLS client."""

    def handle(self) -> None:
        self.request.recv(1000)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def plain_address() -> Iterator[str]:
    with socketserver.TCPServer(("127.0.0.1", 0), PlainServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def failure_of(proxy: Proxy) -> str:
    with Http1Client(proxy.url) as client:
        response = client.post(CHAT, request())
    assert response.status == 502
    message: str = response.json()["error"]["message"]
    return message


def test_a_certificate_that_does_not_verify_is_said_with_what_to_try(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    proxy = start(upstream.url("https"), "60", ssl_verify_upstream_trusted_ca=certifi.where())
    assert "ssl_verify_upstream_trusted_ca" in failure_of(proxy)
    proxy.wait_for_log(r"gave no response: its certificate could not be verified.*; r: chat m, 502, upstream_unreach")


def test_tls_to_a_plain_port_is_said_with_what_to_try(start: Callable[..., Proxy], plain_address: str) -> None:
    proxy = start(f"https://{plain_address}", "60")
    assert "use http:// in its address" in failure_of(proxy)
    proxy.wait_for_log(r"gave no response: it does not speak TLS on that port; r: chat m, 502, upstream_unreachable")


def test_a_name_without_an_address_is_said_with_what_to_try(start: Callable[..., Proxy]) -> None:
    proxy = start("https://no-such-name.invalid", "60")
    assert "Check the upstream's name" in failure_of(proxy)
    proxy.wait_for_log(r"gave no response: its name could not be resolved; r: chat m, 502, upstream_unreachable")
