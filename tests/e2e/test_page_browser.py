"""The page in a real browser: it is driven as a person would, and attacked as another page would.

Needs chromium, node and `npm ci` in tests/browser. FORCE_STREAM_SCREENSHOTS=docs writes docs/page.png.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Data, End, Gate, Head, Http1Client, Pause, Proxy, Reset, WaitFor, event_stream, refused_port, sse
from harness.page import JSON_TYPE
from harness.paths import ROOT
from harness.samples import CHAT, STREAM, choice, chunk, request
from harness.upstream import Upstream

RULES = """\
rules:
  - name: private-vllm
    hosts: ["127.0.0.1"]
    models: ["m", "qwen3-*"]
  - name: elsewhere
    hosts: ["*.example.com"]
    force_upstream_stream: true
"""
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'"


@pytest.fixture
def proxy(proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path) -> Proxy:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    return proxy_factory(
        f"reverse:{upstream.url()}",
        "regular",
        scripts=[ROOT / "addon.py"],
        options={
            "force_stream_rules": rules,
            "force_stream_page_port": refused_port(),
            "connection_strategy": "lazy",
        },
    )


def page_of(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.options['force_stream_page_port']}"


def ask(proxy: Proxy, model: str = "m") -> Any:
    with Http1Client(proxy.url) as client:
        return client.post(CHAT, request(model))


def paced(count: int, *between: Any) -> list[Any]:
    """Pieces of an answer that is being written."""
    steps: list[Any] = [Data(sse(chunk(choice(role="assistant", content="")), done=False)), Pause(0.15)]
    for number in range(count):
        steps += [Data(sse(chunk(choice(content=f"word {number} ")), done=False)), Pause(0.02)]
    return [*steps, *between]


def test_a_rule_is_switched_and_a_cut_flow_is_seen(browse: Callable, proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    page = page_of(proxy)
    with browse() as browser:
        assert browser("goto", page) == 200
        assert browser("text", "#flows").startswith("None yet")
        ask(proxy)
        assert "stream" not in upstream.wait_request(1).json()

        browser("click", "[data-rule=private-vllm]")
        browser("wait", "[data-rule=private-vllm][checked]")
        proxy.wait_for_log("rule private-vllm: force_upstream_stream false -> true")
        assert ask(proxy).json()["object"] == "chat.completion"
        assert upstream.wait_request(2).json()["stream"] is True

        upstream.reset()
        end = Data(sse(chunk(choice(finish_reason="stop"))))
        upstream.answer(Head(), paced(40, Pause(1.3)), paced(30), end, Reset())
        upstream.answer(Head(), paced(60, Pause(1.2)), paced(8), Reset())
        ask(proxy, "qwen3-8b")
        assert ask(proxy, "qwen3-32b").json()["error"]["code"] == "stream_truncated"
        browser("wait", "#flows li:nth-child(3)")
        assert "qwen3-32b chat" in browser("text", "#flows li:first-child")
        assert "cut off" in browser("text", "#flows li:first-child")
        assert "qwen3-32b" in browser("text", "#stats")
        browser("click", "#flows li:first-child button")
        browser("wait", "#flows li:first-child svg")
        assert browser("evaluate", "document.querySelectorAll('svg .cut').length") == 1
        assert "word 59 word 0 word 1" in browser("text", ".opened pre")
        browser.picture("page.png")

        browser("click", "[data-rule=private-vllm]")
        browser("wait", "[data-rule=private-vllm]:not([checked])")
        assert browser("complaints") == []
        assert [url for url in browser("requests") if not url.startswith((page, "data:"))] == []


def test_the_page_is_there_through_the_proxy_too(browse: Callable, proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    with browse(proxy.urls[1]) as browser:
        assert browser("goto", "http://force.stream/") == 200
        browser("click", "[data-rule=private-vllm]")
        browser("wait", "[data-rule=private-vllm][checked]")
        proxy.wait_for_log("rule private-vllm: force_upstream_stream false -> true")
        ask(proxy)
        browser("wait", "#flows button")
        browser("click", "#flows button")
        browser("wait", ".opened")
        assert browser("text", ".opened pre") == "Hello"
        assert browser("complaints") == []


@pytest.mark.parametrize("through", [False, True], ids=["at its port", "under its name"])
def test_a_flow_in_flight_is_seen_live(through: bool, browse: Callable, proxy: Proxy, upstream: Upstream) -> None:
    begun, gates = paced(5), [Gate(), Gate()]
    end = Data(sse(chunk(choice(finish_reason="stop"))))
    upstream.answer(Head(), *begun, WaitFor(gates[0]), *paced(3), WaitFor(gates[1]), end, End())
    with browse(proxy.urls[1] if through else None) as browser, Http1Client(proxy.url) as client:
        browser("goto", "http://force.stream/" if through else page_of(proxy))
        browser("click", "[data-rule=private-vllm]")
        browser("wait", "[data-rule=private-vllm][checked]")
        client.start("POST", CHAT, JSON_TYPE.items(), json.dumps(request("qwen3-8b")).encode())
        for gate, words in zip(gates, ("6 events, last byte", "10 events, last byte"), strict=True):
            seen = f"document.querySelector('#flight').innerText.includes({json.dumps(words)})"
            browser("evaluate", f"new Promise(done => setInterval(() => {seen} && done(), 20))")
            gate.open()
        assert client.receive().status == 200
        browser("wait", "#flows button")
        assert "finish stop" in browser("text", "#flows button")
        browser("evaluate", "new Promise(done => setInterval(() => flight.children.length || done(), 20))")
        assert browser("complaints") == []


def test_what_an_upstream_sends_runs_no_script(browse: Callable, proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(sse(chunk(choice(finish_reason=HOSTILE, content=HOSTILE), model=HOSTILE))))
    upstream.answer(event_stream(sse({"error": {"message": HOSTILE, "code": HOSTILE, "type": HOSTILE}})))
    with browse() as browser:
        browser("goto", page_of(proxy))
        browser("click", "[data-rule=private-vllm]")
        browser("wait", "[data-rule=private-vllm][checked]")
        ask(proxy)
        ask(proxy, "qwen3-" + HOSTILE)
        browser("wait", "#flows li:nth-child(2)")
        browser("goto", page_of(proxy))
        assert HOSTILE in browser("text", "#flows")
        for number in (1, 2):
            browser("click", f"#flows li:nth-child({number}) button")
            browser("wait", f"#flows li:nth-child({number}) svg")
        place = browser("evaluate", "document.querySelector('#flows li:last-child button').dataset.place")
        # As documents of their own, too, where an SVG may run scripts.
        for kind in ("svg", "html"):
            assert browser("goto", f"{page_of(proxy)}/flows/{place}.{kind}") == 200
        assert [line for line in browser("complaints") if "favicon.ico" not in line] == []


def test_another_page_can_neither_change_nor_read_anything(browse: Callable, proxy: Proxy) -> None:
    page = page_of(proxy)
    attempts = """
        const done = [];
        const attempt = (...args) => fetch(...args).then(a => done.push(a.status), () => done.push("refused"));
        const change = {method: "PATCH", body: '{"force_upstream_stream": false}'};
        const type = {"Content-Type": "application/json"};
        Promise.resolve()
            .then(() => attempt(PAGE + "/rules/elsewhere", {...change, headers: type}))
            .then(() => attempt(PAGE + "/rules/elsewhere", change))
            .then(() => attempt(PAGE + "/rules/elsewhere", {...change, method: "POST", mode: "no-cors"}))
            .then(() => attempt(PAGE + "/rules"))
            .then(() => attempt(PAGE + "/rules", {mode: "no-cors"}))
            .then(() => done)
    """.replace("PAGE", json.dumps(page)).strip()
    with browse() as browser:
        browser("setContent", "http://127.0.0.1:9/evil", "<title>evil</title>")
        assert browser("evaluate", attempts) == ["refused"] * 5
        browser("goto", page)
        assert browser("evaluate", "document.querySelector('[data-rule=elsewhere]').checked") is True
        # The page itself may do what is right of it.
        assert browser("evaluate", attempts) == [200, 415, 415, 200, 200]
