"""Answers whose clients gave up: mitmdump with the addon between real clients that leave, and come back."""

import itertools
import socket
import struct
from collections.abc import Callable
from typing import Any

import openai
import pytest
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
    event_stream,
    openai_client,
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
        "brief": ["keep_answers: 0.5"],
        "changed": ["keep_answers: 300"],
        "not-kept": ["keep_answers: null"],
    }.items()
)
HTTP, TLS, H2, REGULAR = range(4)
GAVE_UP = "the client gave up; its answer is read to its end"
_keys = (f"kept-{number}" for number in itertools.count(1))


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], shared_rules: Callable[..., Any], upstream: Upstream) -> Proxy:
    modes = [f"reverse:{upstream.url(listener)}" for listener in ("http", "https", "h2")]
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    scripts = [ADDON, SCRIPTS / "quick_retries.py", H2_UPSTREAM]
    return shared_proxy(*modes, "regular", scripts=scripts, options=options, remote=True)


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


def body_of(model: str, **members: Any) -> bytes:
    import json

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
@pytest.mark.parametrize("version, how", [("h1", "close"), ("h1", "reset"), ("h2", "rst_stream"), ("h2", "close")])
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
        proxy.wait_for_log("kept: kept for 300 s, for the same request", since=since)
    upstream.answer(*event_stream(STREAM).steps)
    with connect(version, mode) as client:
        for number in (1, 2):
            response = client.request("POST", CHAT, headers, body_of("kept"))
            assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
            assert len(upstream.requests) == number
    assert not upstream.requests[0].abandoned
