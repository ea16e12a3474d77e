"""Web pages of another origin that ask through the proxy, in a real browser and as one asks.

Needs chromium, node and `npm ci` in tests/browser.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Answer,
    Certs,
    Close,
    CutChunk,
    Data,
    End,
    Gate,
    Head,
    Http1Client,
    Http2Client,
    Proxy,
    Request,
    WaitFor,
    document,
    event_stream,
    sse,
)
from harness.browser import browse as browse_with
from harness.paths import ROOT
from harness.samples import CHAT, DOCUMENT, EVENTS, STREAM, request
from harness.upstream import Upstream, refused_port

PAGE = "/page"
# The rest of a rule for the upstream, by the name of what it is about.
RULES = {
    "covered": "cors: [PAGE]",
    "applications": "cors: true",
    "no cors": "cors: false",
}
ASK = """
    (path, body) => fetch(path, body && {
        method: "POST",
        headers: {"Content-Type": "application/json", "Authorization": "Bearer sk-1"},
        body: JSON.stringify(body),
    }).then(
        answer => (window.answer = answer, [answer.status, answer.headers.get("x-request-id")]),
        () => "refused",
    )
"""


@pytest.fixture
def proxy_with(
    shared_proxy: Callable[..., Proxy], shared_rules: Callable[[str], Path], upstream: Upstream
) -> Callable[..., Proxy]:
    """`proxy_with(key)`: a proxy whose rule has that `cors`, in front of the upstream or of a port where none is."""

    def proxy_with(key: str, *, dead: bool = False) -> Proxy:
        rules = f"""
            rules:
              - {{name: quick, hosts: ["*"], models: [quick], heartbeat: 0.1, force_upstream_stream: true}}
              - {{name: again, hosts: ["*"], models: [again], retries: 1, force_upstream_stream: true}}
              - {{name: r, hosts: ["*"], force_upstream_stream: true, {RULES[key].replace("PAGE", upstream.url())}}}
        """
        to = f"http://127.0.0.1:{refused_port()}" if dead else upstream.url()
        return shared_proxy(
            f"reverse:{to}",
            scripts=[ROOT / "addon.py"],
            options={"force_stream_rules": shared_rules(rules), "connection_strategy": "lazy"},
        )

    return proxy_with


def page_of(upstream: Upstream) -> str:
    upstream.answer(Head(content_type="text/html"), Data(b"<title>another</title>"), End(), path=PAGE)
    return upstream.url() + PAGE


def refuses_pages(answer: Answer) -> Callable[[Request], Answer | None]:
    """An upstream that knows no CORS, and refuses whoever tells of an origin."""

    def handle(request: Request) -> Answer | None:
        if request.path == PAGE:
            return None
        if request.method == "OPTIONS" or request.header("origin"):
            return document({"error": {"message": "not from there"}}, status=403)
        return answer

    return handle


def ask(browser: Any, proxy: Proxy, path: str, body: Any = None) -> Any:
    """What the page can read of the answer's head: status and request id, or "refused"."""
    return browser("evaluate", f"({ASK})({json.dumps(proxy.url + path)}, {json.dumps(body)})")


def text_of(browser: Any) -> str:
    """What the page can read of that answer's body."""
    text: str = browser("evaluate", "window.answer.text()")
    return text


IDENTIFIED = {"x-request-id": "1"}
BEGIN = sse(*EVENTS[:2], done=False)


def test_a_covered_page_reads_every_answer_of_an_upstream_that_refuses_pages(
    browse: Callable, proxy_with: Callable[..., Proxy], upstream: Upstream
) -> None:
    proxy, url = proxy_with("covered"), page_of(upstream)
    own = request("m", stream=True)
    answers: list[tuple[Any, str, Any, int, str | None, str]] = [
        (event_stream(STREAM, headers=IDENTIFIED), CHAT, request(), 200, "1", '"object":"chat.completion"'),
        (document({"error": {"message": "slow down"}}, status=429), CHAT, request(), 429, None, "slow down"),
        (document({"error": {"message": "busy"}}, status=503), CHAT, request("again"), 503, None, "busy"),
        (Answer.of(Head(), CutChunk(BEGIN)), CHAT, request(), 502, None, "stream_truncated"),
        (event_stream(STREAM, headers=IDENTIFIED), CHAT, own, 200, "1", "data: "),
        (document({"data": [], "object": "list"}), "/v1/models", None, 200, None, '"object"'),
        (document({"detail": "Not Found"}, status=404), "/v1/embeddings", {}, 404, None, "Not Found"),
    ]
    with browse() as browser:
        browser("goto", url)
        for answer, path, body, status, request_id, text in answers:
            upstream.handle(refuses_pages(answer))
            assert ask(browser, proxy, path, body) == [status, request_id], (path, body)
            assert text in text_of(browser)
    assert not [asked for asked in upstream.requests if asked.method == "OPTIONS" or asked.header("origin")]


def test_a_covered_page_reads_an_answer_behind_heartbeats(
    browse: Callable, proxy_with: Callable[..., Proxy], upstream: Upstream
) -> None:
    proxy, url = proxy_with("covered"), page_of(upstream)
    gate = Gate()
    upstream.handle(refuses_pages(Answer.of(WaitFor(gate), Head(), Data(STREAM), End())))
    with browse() as browser:
        browser("goto", url)
        assert ask(browser, proxy, CHAT, request("quick")) == [200, None]
        gate.open()
        text = text_of(browser)
        assert (text[0], json.loads(text)) == (" ", DOCUMENT)


@pytest.mark.parametrize("body", [request(), request(stream=True), None], ids=["forced", "own stream", "models"])
def test_a_covered_page_reads_that_the_upstream_is_dead(
    browse: Callable, proxy_with: Callable[..., Proxy], upstream: Upstream, body: Any
) -> None:
    proxy = proxy_with("covered", dead=True)
    with browse() as browser:
        browser("goto", page_of(upstream))
        assert ask(browser, proxy, CHAT if body else "/v1/models", body) == [502, None]
        assert json.loads(text_of(browser))["error"]["code"] == "upstream_unreachable"


def allows_pages(*answers: Answer) -> Callable[[Request], Answer | None]:
    """An upstream that lets pages read what it answers to one request after the other."""
    rest = list(answers)

    def handle(request: Request) -> Answer | None:
        if request.path != CHAT:
            return None
        allowed = {"access-control-allow-origin": request.header("origin") or "*", "vary": "Origin"}
        if request.method == "OPTIONS":
            return Answer.of(
                Head(204, {**allowed, "access-control-allow-headers": "*, authorization"}, None, None), End()
            )
        head, *steps = rest.pop(0).steps
        assert isinstance(head, Head)
        head = replace(head, headers={**dict(head.headers), **allowed, "access-control-expose-headers": "x-request-id"})
        return Answer.of(head, *steps)

    return handle


@pytest.mark.parametrize("key", ["no cors", "applications"])
def test_a_page_that_no_rule_covers_reads_what_the_upstream_lets_it(
    browse: Callable, proxy_with: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    proxy, url = proxy_with(key), page_of(upstream)
    with browse() as browser:
        browser("goto", url)
        upstream.handle(refuses_pages(event_stream(STREAM)))
        assert ask(browser, proxy, CHAT, request()) == "refused"
        gate = Gate()
        slow = Answer.of(Head(headers=IDENTIFIED), WaitFor(gate), Data(STREAM), End())
        upstream.handle(allows_pages(slow, Answer.of(Head(headers=IDENTIFIED), CutChunk(BEGIN))))
        assert ask(browser, proxy, CHAT, request("quick")) == [200, "1"]
        gate.open()
        text = text_of(browser)
        assert (text[0], json.loads(text)) == (" ", DOCUMENT)
        assert ask(browser, proxy, CHAT, request()) == [502, "1"]
        assert json.loads(text_of(browser))["error"]["code"] == "stream_truncated"
        assert upstream.requests[-1].header("origin") == upstream.url()


def test_a_page_reads_that_the_last_try_of_its_request_got_no_response(
    proxy_with: Callable[..., Proxy], upstream: Upstream
) -> None:
    allowed = {"Access-Control-Allow-Origin": upstream.url(), "Vary": "Origin"}
    upstream.answer(document({"error": {"message": "busy"}}, status=503, headers=allowed | IDENTIFIED))
    upstream.answer(Close())
    with Http1Client(proxy_with("no cors").url) as client:
        answer = client.post(CHAT, request("again"), [("Origin", upstream.url())])
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert {name: answer.header(name) for name in allowed} == allowed
    assert answer.header("x-request-id") is None, "that was another response's"


def test_an_extension_reads_answers_where_cors_is_true(
    tmp_path: Path, proxy_with: Callable[..., Proxy], upstream: Upstream
) -> None:
    folder = tmp_path / "extension"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"manifest_version": 3, "name": "asks", "version": "1"}))
    (folder / "page.html").write_text("<!doctype html><title>asks</title>")
    # Chromium names an extension that has no key after its folder.
    digits = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    name = "".join(chr(ord("a") + int(digit, 16)) for digit in digits)
    upstream.handle(refuses_pages(event_stream(STREAM)))
    with browse_with(tmp_path / "profile", extension=folder) as browser:
        browser("goto", f"chrome-extension://{name}/page.html")
        assert ask(browser, proxy_with("no cors"), CHAT, request()) == "refused"
        assert ask(browser, proxy_with("applications"), CHAT, request()) == [200, None]
        assert json.loads(text_of(browser)) == DOCUMENT


def test_an_application_gets_nothing_from_the_proxys_own_page(
    shared_proxy: Callable[..., Proxy], shared_rules: Callable[[str], Path]
) -> None:
    rules, port = shared_rules('rules: [{name: r, hosts: ["*"], cors: true}]'), refused_port()
    proxy = shared_proxy(
        "regular",
        scripts=[ROOT / "addon.py"],
        options={"force_stream_rules": rules, "force_stream_page_port": port},
    )
    page = [("Origin", "app://obsidian.md"), ("Content-Type", "application/json")]
    preflight = [*page, ("Access-Control-Request-Method", "PATCH")]
    change = b'{"force_upstream_stream": true}'
    for url in ("http://force.stream", f"http://127.0.0.1:{port}"):
        for method, headers, body in (("OPTIONS", preflight, b""), ("GET", page, b""), ("PATCH", page, change)):
            with Http1Client(url, via=proxy.url) as client:
                answer = client.request(method, "/rules/r", headers, body)
            assert answer.header("access-control-allow-origin") is None
        assert answer.status == 403
    assert "force_upstream_stream false" not in "".join(proxy.log_lines)


PREFLIGHT = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]


@pytest.mark.parametrize("over", [Http1Client, Http2Client])
def test_a_preflight_is_answered_without_an_upstream(
    proxy_with: Callable[..., Proxy], upstream: Upstream, certs: Certs, over: type[Http1Client | Http2Client]
) -> None:
    proxy = proxy_with("covered", dead=True)
    with over(proxy.tls_url, certs) as client:
        for origin, status in ((upstream.url(), 204), ("https://chat.example.com", 502)):
            answer = client.request("OPTIONS", CHAT, [("Origin", origin), *PREFLIGHT])
            assert answer.status == status
            granted = [answer.header(f"access-control-allow-{what}") for what in ("origin", "methods", "headers")]
            assert granted == ([origin, "POST", "authorization"] if status == 204 else [None] * 3)
    assert not [line for line in proxy.log_lines if "uppercase" in line.lower()]


def test_a_covered_pages_failure_is_explained_once(proxy_with: Callable[..., Proxy], upstream: Upstream) -> None:
    proxy = proxy_with("applications")
    since = proxy.mark()
    upstream.handle(lambda _: document({"detail": "Method Not Allowed"}, status=405))
    with Http1Client(proxy.url) as client:
        for path in (CHAT, "/v1/responses"):
            assert client.request("GET", path, [("Origin", "app://obsidian.md")], b"").status == 405
    proxy.wait_for_log("/responses: answered with 405, and not forced", since=since)
    assert sum(f"{CHAT}: answered with 405" in line for line in proxy.log_lines[since:]) == 1
