"""Why a flow was not forced, in one line: each reason by itself. Through a real mitmdump: e2e/test_explain.py."""

import re
from typing import Any

import pytest
from force_stream.proxy.explain import explain, why_not_forced, why_nowhere
from force_stream.proxy.request import body_of, make_plain
from force_stream.rules.file import parse_rules
from harness.master import flow_with
from harness.samples import CHAT, request
from mitmproxy import http
from mitmproxy.flow import Error


def forcing(keys: str) -> str:
    """A rule in YAML's flow style that forces."""
    return f"{{{keys}, force_upstream_stream: true}}"


def failed(body: Any = None) -> http.HTTPFlow:
    """A flow that went out as it came and was refused."""
    flow = flow_with(body)
    flow.response = http.Response.make(400, b"{}")
    return flow


@pytest.mark.parametrize(
    ("rules", "options", "body", "why"),
    [
        ([forcing("name: r, hosts: [llm.example.com]")], {}, None,
         r"rule r: host 127\.0\.0\.1:\d+ is not among llm\.example\.com"),
        ([forcing("name: r, hosts: ['127.0.0.1:1']")], {}, None,
         r"rule r: host 127\.0\.0\.1:\d+ is not among 127\.0\.0\.1:1"),
        (["{name: first, hosts: ['*']}", forcing("name: second, hosts: ['*']")], {}, None,
         "rule first takes it; it changes nothing, since force_upstream_stream is false"),
        ([forcing("name: r, hosts: ['*'], models: [M*]")], {}, None,
         r"rule r: model m is not among M\* \(they are case-sensitive\)"),
        ([forcing("name: r, hosts: ['*'], endpoints: [responses]")], {}, None,
         "rule r: endpoint chat is not among responses"),
        ([forcing("name: r, hosts: ['*'], filter: '~hq x-team'")], {}, None,
         "rule r: filter ~hq x-team does not match"),
        ([forcing("name: r, hosts: ['*']")], {"enabled": False}, None, "the option force_stream is off"),
        ([forcing("name: r, hosts: ['*']")], {}, b"{'model': 'm'}",
         "rule r takes it; left as it came: only a POST with a JSON object or a form is forced"),
        ([forcing("name: r, hosts: ['*']")], {}, request(stream=True),
         "rule r takes it; the client itself asks for a stream, which is passed on live"),
        (["{name: r, hosts: ['*'], guard_streams: true}"], {}, request(stream=True),
         "rule r takes it; the client itself asks for a stream, which is passed on live, and guarded"),
        (["{name: r, hosts: ['*'], guard_streams: true}"], {}, None,
         "rule r takes it; it changes nothing, since force_upstream_stream is false"),
        ([], {}, None, r"there are no rules; --set force_stream_hosts=127\.0\.0\.1 forces that host"),
        ([forcing(f"name: {name}, hosts: [a.example]") for name in "abcde"], {}, None,
         r"rule a: host \S+ is not among a\.example; rule b: .*; rule c: .*; and 2 more \(force_stream\.explain .*\)"),
        ([forcing("name: a, hosts: [a.example]"), forcing("name: b, hosts: ['*'], models: [x]")], {}, None,
         "rule b: model m is not among x"),
    ],
    ids=["wrong host", "wrong port", "order of the rules", "upper case", "endpoint", "filter", "switched off",
         "not JSON", "client's own stream", "a guarded stream", "a rule that guards",
         "no rules", "many rules", "the rule for its host"],
)  # fmt: skip
def test_the_line_says_why_a_failed_request_was_not_forced(
    rules: list[str], options: dict[str, bool], body: Any, why: str
) -> None:
    parsed = parse_rules("\n- ".join(["rules:", *rules]) + "\n", "rules.yaml")
    line = why_not_forced(failed(body), parsed, **({"enabled": True} | options))
    assert re.fullmatch(rf"POST 127\.0\.0\.1/v1/chat/completions: answered with 400, and not forced: {why}", line)


PLAIN = "force_upstream_plain: true"


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        (CHAT, request(stream=True), "its request would be sent plain now, and its client get events"),
        (CHAT, request(), "the client itself asks for a plain answer"),
        (CHAT, b"[]", "left as it came: only a POST with a JSON object or a form is sent plain"),
        (
            "/v1/responses",
            request(stream=True, background=True),
            "left as it came: the client does not wait for a background response",
        ),
    ],
    ids=["a stream", "a plain answer", "not JSON", "a request that the API does not stream"],
)
def test_the_other_direction_is_explained(path: str, body: Any, why: str) -> None:
    (rule,) = parse_rules(f"rules: [{{name: r, hosts: ['*'], {PLAIN}}}]", "rules.yaml")
    flow = flow_with(body)
    flow.request.path = path
    assert explain(flow, [rule], enabled=True) == [f"POST 127.0.0.1{path}: rule r takes it; {why}"]


def test_a_request_that_was_sent_plain_is_explained_and_its_client_asked_for_events() -> None:
    (rule,) = parse_rules(f"rules: [{{name: r, hosts: ['*'], {PLAIN}}}]", "rules.yaml")
    flow = flow_with(request(stream=True))
    body, endpoint = body_of(flow), rule.endpoint(flow.request.path)
    assert body is not None
    assert endpoint is not None
    make_plain(flow, body, rule, endpoint)
    assert explain(flow, [rule], enabled=True)[0].endswith("its request was sent plain, and its client gets events")
    # The upstream streams all the same.
    flow.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    assert not why_not_forced(flow, [rule], enabled=True)


def test_nothing_is_said_of_a_request_that_another_addon_answered() -> None:
    flow = failed(request())
    assert why_not_forced(flow, (), enabled=True)
    flow.server_conn.timestamp_start = None
    assert not why_not_forced(flow, (), enabled=True)


def test_names_that_others_chose_are_printable_in_the_line() -> None:
    rules = parse_rules("rules:\n- {name: r, hosts: ['*'], models: [x]}\n", "rules.yaml")
    line = why_not_forced(failed(request("a\n[00:00:00.000] forged \x1b[31m\u202e")), rules, enabled=True)
    assert line.isprintable()
    assert line.endswith("is not among x")


@pytest.mark.parametrize(
    ("origin", "status", "allowed", "value"),
    [
        ("app://obsidian.md", 405, None, "true"),
        ("app://obsidian.md", 204, None, "true"),
        ("https://chat.example.com", 200, "https://other.example.com", r'\["https://chat\.example\.com"\]'),
        ("https://chat.example.com", 403, "*", r'\["https://chat\.example\.com"\]'),
        ("https://chat.example.com", 200, "*", None),
        ("https://chat.example.com", 204, "https://chat.example.com", None),
    ],
)
def test_the_line_says_how_to_let_a_page_in_that_the_upstream_refused(
    origin: str, status: int, allowed: str | None, value: str | None
) -> None:
    flow = flow_with(method="OPTIONS", path="/v1/models")
    flow.request.headers.update({"origin": origin, "access-control-request-method": "GET"})
    flow.response = http.Response.make(status, b"", {"access-control-allow-origin": allowed} if allowed else {})
    rules = parse_rules("rules:\n- {name: r, hosts: ['127.0.0.1']}\n", "rules.yaml")
    line = why_not_forced(flow, rules, enabled=True)
    said = (
        rf".* 127\.0\.0\.1/v1/models: the upstream does not accept requests from the page {origin}; cors: {value} in .*"
    )
    assert re.fullmatch(said if value else "", line)
    assert why_not_forced(flow, (), enabled=True) == ""


def test_a_request_to_the_proxy_itself_is_told_of_reverse_mode() -> None:
    flow = flow_with()
    flow.error = Error("Connection killed: Request destination unknown. Unable to figure out where")
    line = why_nowhere(flow)
    assert "this is the proxy itself" in line
    assert "--mode reverse:https://" in line
    flow.request.path = "/index.html"
    assert not why_nowhere(flow)
    other = flow_with()
    other.error = Error("Client disconnected.")
    assert not why_nowhere(other)


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        ("Authorization, content-type, X-Stainless-OS, x-stainless-arch", None),
        ("*", None),
        ("Authorization,Content-Type,X-Stainless-OS", "x-stainless-arch"),
        ("", "authorization"),
    ],
)
def test_the_line_names_a_header_that_the_upstream_does_not_let_a_page_send(granted: str, missing: str | None) -> None:
    flow = flow_with(method="OPTIONS", path="/v1/models")
    asks = {"origin": "app://obsidian.md", "access-control-request-method": "GET"}
    flow.request.headers.update(asks)
    flow.request.headers["access-control-request-headers"] = "authorization,x-stainless-arch,x-stainless-os"
    headers = {"access-control-allow-origin": "app://obsidian.md", "access-control-allow-headers": granted}
    flow.response = http.Response.make(204, b"", headers)
    rules = parse_rules("rules:\n- {name: r, hosts: ['127.0.0.1']}\n", "rules.yaml")
    line = why_not_forced(flow, rules, enabled=True)
    assert (f" with headers such as {missing}; cors: true in a rule " in line) is bool(missing)
    assert bool(line) is bool(missing)
