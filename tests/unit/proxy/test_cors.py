"""Which pages are let in, what they are told, and what their requests lose."""

import pytest
from force_stream.proxy.cors import admit, share
from force_stream.proxy.notes import ORIGIN
from force_stream.rules.rule import Rule
from harness.master import flow_with
from mitmproxy import http

HOST = "llm.example.com"
APPS = (Rule("apps", (HOST,), cors=True),)
LISTED = (Rule("none", (HOST,)), Rule("listed", ("*.example.com",), cors=("null", "https://Chat.example.com")))
ELSEWHERE = (Rule("elsewhere", ("other.example",), cors=True),)


def asked(origin: str = "app://obsidian.md", method: str = "POST", **headers: str) -> http.HTTPFlow:
    flow = flow_with(host=HOST, method=method, path="/v1/embeddings")
    for name, value in {"origin": origin, **headers}.items():
        flow.request.headers[name.replace("_", "-")] = value
    return flow


def preflight(**headers: str) -> http.HTTPFlow:
    return asked(method="OPTIONS", access_control_request_method="POST", **headers)


def shared(**headers: str) -> dict[str, str]:
    """The headers that an answer with these has for a page that is let in."""
    flow = asked()
    admit(flow, APPS)
    response = http.Response.make(200, b"", {name.replace("_", "-"): value for name, value in headers.items()})
    share(flow, response)
    share(flow, response)
    return {name: value for name, value in response.headers.items() if name.lower() != "content-length"}


COVERED = [
    *("app://obsidian.md", "tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"),
    *("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "moz-extension://7d6e1f6a-6b6e-4c65-9d53-1e2f3a4b5c6d"),
    "safari-web-extension://E7A0C6C6-0F2B-4F35-8D8A-6F9E8A2B1C3D",
]
# What any web site, file or sandboxed frame can have.
OTHERS = [
    *(
        "null",
        "file://",
        "https://chat.example.com",
        "http://localhost",
        "http://tauri.localhost.evil.example",
        "",
        "app://",
    ),
    *("https://app.example", "http://evil.example/app://obsidian.md", "app://obsidian.md, https://evil.example"),
]


@pytest.mark.parametrize("origin", COVERED)
def test_true_stands_for_applications_and_extensions(origin: str) -> None:
    flow = asked(origin)
    admit(flow, APPS)
    assert ORIGIN.of(flow) == origin


@pytest.mark.parametrize("origin", OTHERS)
def test_true_stands_for_nothing_that_a_web_site_can_be(origin: str) -> None:
    flow = asked(origin)
    before = flow.get_state()
    admit(flow, APPS)
    assert flow.get_state() == before


@pytest.mark.parametrize("headers", [{}, {"upgrade": "websocket"}])
def test_what_a_page_asks_with_its_users_cookies_is_left_to_the_upstream(headers: dict[str, str]) -> None:
    flow = asked(cookie="session=1", **headers)
    before = flow.get_state()
    admit(flow, APPS)
    assert flow.get_state() == before


@pytest.mark.parametrize("rules", [(), ELSEWHERE, LISTED], ids=["no rules", "for another host", "of a list"])
def test_a_page_is_covered_by_a_rule_for_that_host_alone(rules: tuple[Rule, ...]) -> None:
    flow = preflight()
    before = flow.get_state()
    admit(flow, rules)
    assert flow.get_state() == before


@pytest.mark.parametrize("origin", ["null", "https://chat.example.com"])
def test_any_rule_for_the_host_may_list_it(origin: str) -> None:
    flow = asked(origin)
    admit(flow, LISTED)
    assert ORIGIN.of(flow) == origin


def test_a_preflight_is_granted_what_it_asks_for() -> None:
    flow = preflight(
        access_control_request_headers="authorization,x-stainless-os", access_control_request_private_network="true"
    )
    admit(flow, APPS)
    assert flow.response is not None
    assert flow.response.status_code == 204
    assert dict(flow.response.headers.items()) == {
        "access-control-allow-origin": "app://obsidian.md",
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "authorization,x-stainless-os",
        "access-control-allow-private-network": "true",
        "access-control-max-age": "600",
        "access-control-expose-headers": "*",
        "vary": "Origin",
    }


def test_a_preflight_is_granted_no_more() -> None:
    flow = preflight()
    admit(flow, APPS)
    assert flow.response is not None
    assert not {"access-control-allow-headers", "access-control-allow-private-network"} & set(flow.response.headers)


def test_a_preflight_may_have_bytes_that_are_no_text() -> None:
    flow = preflight()
    flow.request.headers.set_all("access-control-request-headers", [b"x-\xff".decode("utf-8", "surrogateescape")])
    admit(flow, APPS)
    assert flow.response is not None
    assert (b"access-control-allow-headers", b"x-\xff") in flow.response.headers.fields


def test_an_options_request_that_is_no_preflight_goes_to_the_upstream() -> None:
    flow = asked(method="OPTIONS")
    admit(flow, APPS)
    assert flow.response is None


def test_the_upstream_does_not_hear_of_the_page() -> None:
    flow = asked(sec_fetch_site="cross-site", sec_fetch_mode="cors", referer="http://tauri.localhost/")
    admit(flow, APPS)
    assert "origin" not in flow.request.headers
    assert "sec-fetch-site" not in flow.request.headers
    assert flow.request.headers["referer"] == "http://tauri.localhost/"


def test_an_answer_that_no_covered_page_asked_for_stays_as_it_is() -> None:
    response = http.Response.make(200)
    before = response.get_state()
    share(flow_with(), response)
    assert response.get_state() == before


BASE = {"access-control-allow-origin": "app://obsidian.md", "access-control-expose-headers": "*"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, {"vary": "Origin"}, id="none"),
        pytest.param({"vary": "Accept-Encoding"}, {"vary": "Accept-Encoding, Origin"}, id="varies already"),
        pytest.param({"vary": "accept, ORIGIN"}, {"vary": "accept, ORIGIN"}, id="varies by origin already"),
        pytest.param({"vary": "*"}, {"vary": "*"}, id="varies by all"),
        pytest.param(
            {"access_control_allow_origin": "*", "access_control_allow_credentials": "true", "x_request_id": "1"},
            {"x-request-id": "1", "vary": "Origin"},
            id="the upstream's own",
        ),
    ],
)
def test_the_page_can_read_an_answer_and_no_cookie_counts(headers: dict[str, str], expected: dict[str, str]) -> None:
    assert {name.lower(): value for name, value in shared(**headers).items()} == BASE | expected
