"""Transparent mode, where a request's target is an address: what is said of it goes by the upstream's name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from force_stream.rules.file import parse_rules
from harness import Answer, Certs, Http1Client, Proxy, Request, Upstream, document, event_stream, refused_port
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, DOCUMENT, STREAM, request
from harness.steps import Reset

RULES = """\
rules:
  - name: tries
    hosts: ["llm.test"]
    models: ["tries"]
    force_upstream_stream: true
    retries: 1
  - name: hears
    hosts: ["*.test"]
    models: ["m"]
    learn: true
"""
REFUSAL = {"error": {"message": "This model only support stream mode, please enable the stream parameter."}}


@pytest.fixture
def start(proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_file: Path) -> Callable[..., Proxy]:
    """`start(listener)`: a transparent mitmdump, before that listener of the upstream."""

    def start(listener: str, **options: Any) -> Proxy:
        given = {"force_stream_rules": rules_file, "connection_strategy": "lazy"} | options
        given["original_address"] = f"127.0.0.1:{upstream.ports[listener]}"
        return proxy_factory(
            "transparent", scripts=[ADDON, SCRIPTS / "original_address.py"], options=given, remote=True
        )

    return start


def ask(proxy: Proxy, certs: Certs, scheme: str, model: str = "m", host: str = "llm.test") -> httpx.Response:
    """A client that has looked up llm.test, and whose connection is redirected to the proxy."""
    with httpx.Client(verify=certs.client_context, trust_env=False, timeout=60) as client:
        url, names = f"{scheme}://127.0.0.1:{proxy.ports[0]}{CHAT}", {"sni_hostname": "llm.test"}
        return client.post(url, json=request(model), headers={"Host": host}, extensions=names)


def only_streams(request: Request) -> Answer:
    return event_stream(STREAM) if request.json().get("stream") else document(REFUSAL, status=400)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_learning_and_figures_go_by_the_name(
    scheme: str, start: Callable[..., Proxy], upstream: Upstream, certs: Certs
) -> None:
    upstream.handle(only_streams)
    port = refused_port()
    proxy = start(scheme, force_stream_page_port=port)
    for _ in range(2):
        assert ask(proxy, certs, scheme).json() == DOCUMENT
    assert len(upstream.requests) == 3, "the second one is forced at once"
    line = proxy.wait_for_log(r"hears: llm\.test answers m only as a stream; .*?: (- \{.*\})$")
    (rule,) = parse_rules(f"rules:\n  {line[1]}\n", "pasted")
    assert (rule.name, rule.hosts) == ("llm.test m", ("llm.test",))
    assert proxy.command("force_stream.rules")[-1] == "learned: llm.test m (chat) must stream"
    with Http1Client(f"http://127.0.0.1:{port}") as client:
        assert {row["upstream"] for row in client.get("/stats").json()} == {f"llm.test:{upstream.ports[scheme]}"}


def test_explanations_go_by_the_name(start: Callable[..., Proxy], upstream: Upstream, certs: Certs) -> None:
    upstream.answer_always(document(REFUSAL, status=400))
    proxy = start("https", force_stream_rules="")
    assert ask(proxy, certs, "https").status_code == 400
    proxy.wait_for_log(
        re.escape(f"POST llm.test{CHAT}: answered with 400, and not forced: there are no rules; ")
        + re.escape("--set force_stream_hosts=llm.test forces that host")
    )


def test_a_host_header_does_not_say_where_a_retry_goes_or_whom_it_trusts(
    start: Callable[..., Proxy], upstream: Upstream, certs: Certs
) -> None:
    upstream.at_accept(Reset())
    upstream.answer_always(event_stream(STREAM))
    proxy = start("https")
    # The upstream's certificate is for llm.test, and not for that name.
    answer = ask(proxy, certs, "https", "tries", host="elsewhere.example")
    assert (answer.status_code, answer.json()) == (200, DOCUMENT)
    (seen,) = upstream.requests
    assert seen.header("host") == "elsewhere.example"
