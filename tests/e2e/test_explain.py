"""Nothing forced? The one line that says why, through a real mitmdump, for each mistake that a new user makes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Http1Client, Proxy, ProxyExitedError, Upstream, document, event_stream
from harness.paths import ADDON
from harness.samples import CHAT, DOCUMENT, SECRET, STREAM, request

REFUSED = document({"error": {"message": "This model only support stream mode"}}, status=400)
JSON_TYPE = [("Content-Type", "application/json")]


@pytest.fixture
def start(proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path) -> Callable[..., Proxy]:
    """`start(*rules, **options)`: a mitmdump before the upstream, with these rules in flow style."""

    def start(*rules: str, **options: Any) -> Proxy:
        file = tmp_path / "rules.yaml"
        file.write_text("\n- ".join(["rules:", *rules]) + "\n")
        options = {"force_stream_rules": file, "connection_strategy": "lazy"} | options
        return proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options)

    return start


def ask(proxy: Proxy, body: Any = None, path: str = CHAT, method: str = "POST") -> Any:
    sent = body if isinstance(body, bytes) else json.dumps(request() if body is None else body).encode()
    with Http1Client(proxy.url) as client:
        return client.request(method, path, [*JSON_TYPE, ("Authorization", f"Bearer {SECRET}")], sent)


def forcing(keys: str) -> str:
    """A rule in YAML's flow style that forces."""
    return f"{{{keys}, force_upstream_stream: true}}"


def test_a_request_that_went_out_as_it_came_and_failed_has_the_line_in_the_log(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    upstream.answer_always(REFUSED)
    proxy = start(forcing("name: r, hosts: [llm.example.com]"))
    assert ask(proxy).status == 400
    proxy.wait_for_log(
        r"answered with 400, and not forced: rule r: host 127\.0\.0\.1:\d+ is not among llm\.example\.com$"
    )
    assert proxy.log.count("not forced") == 1
    assert SECRET not in proxy.log


def test_an_event_stream_that_nobody_asked_for_has_the_line_too(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = start(forcing("name: r, hosts: [a.example]"))
    assert ask(proxy).body == STREAM
    proxy.wait_for_log("answered with an event stream, and not forced: rule r: host ")


def test_an_application_that_has_a_regular_proxy_as_its_base_url_is_told_of_reverse_mode(
    proxy_factory: Callable[..., Proxy],
) -> None:
    proxy = proxy_factory("regular", scripts=[ADDON], options={"connection_strategy": "lazy"})
    assert ask(proxy).status == 502
    proxy.wait_for_log(r"this is the proxy itself, not an upstream\. .* --mode reverse:https://llm\.example\.com")


def test_all_other_traffic_has_no_such_line(start: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = start(forcing("name: r, hosts: [a.example]"))
    for answer, path, body, method in (
        (document({"id": "x"}), CHAT, None, "POST"),
        (event_stream(STREAM), CHAT, request(stream=True), "POST"),
        (REFUSED, "/v1/models", None, "POST"),
        (document({"error": {}}, status=404), "/", b"", "GET"),
    ):
        upstream.reset()
        upstream.answer_always(answer)
        ask(proxy, body, path, method)
    assert "not forced" not in proxy.log
    upstream.reset()
    upstream.answer_always(REFUSED)
    ask(proxy)
    proxy.wait_for_log("not forced")
    assert proxy.log.count("not forced") == 1


def test_a_request_that_cannot_be_forced_is_reported_once(start: Callable[..., Proxy], upstream: Upstream) -> None:
    upstream.answer_always(REFUSED)
    proxy = start(forcing("name: r, hosts: ['*']"))
    since = proxy.mark()
    with Http1Client(proxy.url) as client:
        client.request("POST", CHAT, [*JSON_TYPE, ("Content-MD5", "x")], json.dumps(request()).encode())
        client.request("POST", CHAT, JSON_TYPE, b"[]")
    proxy.wait_for_log("not forced", since=since)
    assert len([line for line in proxy.log_lines[since:] if "signed" in line]) == 1


# What nothing was forced by


def test_a_mistyped_option_is_a_warning_at_the_start(start: Callable[..., Proxy]) -> None:
    mistyped = {"force_stream_host": "a", "force-stream-rules": "b", "force_streams": "c"}
    proxy = start(forcing("name: r, hosts: ['*']"), **mistyped, some_other_option="1")
    for option, near in zip(mistyped, ("force_stream_hosts", "force_stream_rules", "force_stream"), strict=True):
        proxy.wait_for_log(f"there is no option '{option}'; did you mean {near}\\?")
    assert "some_other_option" not in proxy.log


@pytest.mark.parametrize("rules", [[], ["{name: r, hosts: ['*']}"]], ids=["empty", "forces nothing"])
def test_rules_that_force_nothing_are_reported_at_startup(start: Callable[..., Proxy], rules: list[str]) -> None:
    proxy = start(*rules)
    proxy.wait_for_log(
        r"no rule forces anything, so every request goes out as it came\. To change that, set force_upstream_stream: "
        r"true in a rule of \S+rules\.yaml, or name the upstream: --set force_stream_hosts=llm\.example\.com"
    )


def test_rules_that_learn_or_hosts_that_are_forced_are_enough(start: Callable[..., Proxy]) -> None:
    assert "no rule forces" not in start("{name: r, hosts: ['*'], learn: true}").log
    assert "no rule forces" not in start(force_stream_hosts="a.example").log


# The option force_stream_hosts


def test_hosts_of_the_option_are_forced_after_the_rules_of_the_file(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = start("{name: r, hosts: ['*'], models: [plain]}", force_stream_hosts=["127.0.0.1", "b.example"])
    assert ask(proxy).json() == DOCUMENT
    assert ask(proxy, request("plain")).body == STREAM


def test_without_a_rules_file_the_hosts_alone_are_in_force(start: Callable[..., Proxy], upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = start(force_stream_rules="", force_stream_hosts="127.0.0.1")
    assert ask(proxy).json() == DOCUMENT
    assert "rules from" not in proxy.log


def test_hosts_can_be_changed_while_mitmproxy_runs(proxy_factory: Callable[..., Proxy], upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options={"force_stream_rules": ""}, remote=True)
    assert ask(proxy).body == STREAM
    proxy.set_options(force_stream_hosts=["127.0.0.1"])
    proxy.wait_for_log("rule force_stream_hosts added")
    assert ask(proxy).json() == DOCUMENT
    with pytest.raises(RuntimeError, match="not a host: 'https://a/'"):
        proxy.set_options(force_stream_hosts=["https://a/"])
    proxy.set_options(force_stream_hosts=[])
    proxy.wait_for_log("rule force_stream_hosts removed")
    assert ask(proxy).body == STREAM


def test_a_mistake_in_the_hosts_ends_the_start_in_one_line(start: Callable[..., Proxy]) -> None:
    with pytest.raises(ProxyExitedError) as failure:
        start(force_stream_hosts="https://llm.example.com/")
    assert "force_stream_hosts: not a host: 'https://llm.example.com/'; write a host as in" in failure.value.log
    assert "Traceback" not in failure.value.log
