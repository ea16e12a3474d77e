"""The page in a real browser with flows that a test makes up: many, long, hostile; at any width, in both schemes, by
keyboard alone. Needs chromium, node and `npm ci` in tests/browser."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import pytest
from force_stream.page.markup import PORTION
from force_stream.page.server import Serving
from force_stream.view.opened import LONGEST_SAID
from force_stream.view.stats import MOST_FLOWS, Outcome
from harness import refused_port, sse
from harness.browser import Browser
from harness.master import answer_with, flow_with
from harness.page import OUTCOME, Shelf
from harness.record import TIMEOUT
from harness.samples import choice, chunk
from mitmproxy import http
from mitmproxy.test import taddons

FAILED = dataclasses.replace(
    OUTCOME, id="failed", status=429, code="rate_limit_exceeded", cause="rate limited by the upstream (429)"
)
ODD = dataclasses.replace(OUTCOME, id="odd", model="qwen3-32b", inferred=True, odd=("no [DONE]",))
# Right-to-left, marks that reorder, controls, and markup.
HOSTILE = "\u202egnp.exe مرحبا\u2066\x1b[31m<img src=x onerror=alert(1)></pre>\x00"


class Served:
    """The page of an addon that a test fills, on a port of its own, in a loop of its own."""

    def __init__(self, addon: Shelf, port: int) -> None:
        self.addon = addon
        self.port = port
        self.url = f"http://127.0.0.1:{port}/"
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        ours = Serving(self.addon)
        with taddons.context(ours) as context:
            context.configure(ours, force_stream_page_port=self.port)
            ours.running()
            self._ready.set()
            await self._over.wait()
            ours.done()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(TIMEOUT)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(TIMEOUT)

    def add(self, *outcomes: Outcome) -> None:
        """Have flows end, in the loop of the page."""
        for outcome in outcomes:
            self._loop.call_soon_threadsafe(self.addon.stats.add, outcome)


@contextmanager
def served(*outcomes: Outcome, port: int = 0) -> Iterator[Served]:
    page = Served(Shelf(*outcomes), port or refused_port())
    page.start()
    try:
        yield page
    finally:
        page.stop()


def opened(flow: http.HTTPFlow, **changes: Any) -> Outcome:
    return dataclasses.replace(OUTCOME, flow=lambda: flow, **changes)


def answered(*texts: str) -> http.HTTPFlow:
    return with_chunks(chunk(choice(content=text)) for text in texts)


def with_chunks(chunks: Iterable[dict[str, Any]]) -> http.HTTPFlow:
    flow = flow_with()
    answer_with(flow, sse(*chunks))
    return flow


def rows(browser: Browser) -> list[str]:
    """The ids of the flows that are shown."""
    keys = browser("evaluate", "[...document.querySelectorAll('#flows > li')].map(row => row.dataset.key)")
    return [key for key in keys if key]


def wait_for(browser: Browser, condition: str) -> None:
    browser("evaluate", f"new Promise(done => setInterval(() => {condition} && done(), 20))")


def size(browser: Browser) -> int:
    return int(browser("evaluate", "document.querySelectorAll('*').length"))


def test_filters_choose_flows_and_new_ones_are_chosen_too(browse: Callable) -> None:
    with served(OUTCOME, ODD, FAILED) as page, browse() as browser:
        browser("goto", page.url)
        assert rows(browser) == ["failed", "odd", "f-1"]
        browser("click", "[name=failed]")
        wait_for(browser, "document.querySelectorAll('#flows > li').length === 1")
        assert rows(browser) == ["failed"]
        assert browser("evaluate", "location.search") == "?failed=1"
        page.add(dataclasses.replace(OUTCOME, id="whole"), dataclasses.replace(FAILED, id="failed-2"))
        browser("wait", "[data-key=failed-2]")
        assert rows(browser) == ["failed-2", "failed"]
        browser("click", "[name=odd]")
        wait_for(browser, "document.querySelector('[data-key=odd]')")
        assert rows(browser) == ["failed-2", "failed", "odd"]
        browser("fill", "[name=model]", "32B")
        wait_for(browser, "document.querySelectorAll('#flows > li').length === 1")
        assert rows(browser) == ["odd"]
        # An address has the filters, also without a script.
        browser("goto", f"{page.url}?text=rate+limited&upstream=llm")
        assert rows(browser) == ["failed-2", "failed"]
        assert browser("evaluate", "document.querySelector('[name=text]').value") == "rate limited"
        browser("fill", "[name=text]", "nowhere")
        wait_for(browser, "document.querySelector('#flows').innerText.includes('None of the latest')")
        assert browser("complaints") == []


def test_why_the_latest_flow_failed_is_in_the_window_however_many_models_there_are(browse: Callable) -> None:
    many = [dataclasses.replace(OUTCOME, id=f"f{number}", model=f"model-{number}") for number in range(60)]
    with served(*many, FAILED) as page, browse() as browser:
        browser("goto", page.url)
        seen = browser.seen()
        assert "rate limited by the upstream (429)" in seen
        assert "Flows OK Inferred Cut off Errors" in seen  # and not "O K"
        assert browser("complaints") == []


def test_a_flow_is_opened_and_closed_by_keyboard_alone(browse: Callable) -> None:
    with served(opened(answered("Hello"), id="a"), opened(answered("Hi"), id="b")) as page, browse() as browser:
        browser("goto", page.url)
        active = "document.activeElement.parentElement.dataset.key"
        browser("press", "[name=text]", "Tab")
        assert browser("evaluate", active) == "b"
        outline = browser("evaluate", "getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "who has the focus is seen"
        browser("key", "ArrowDown")
        assert browser("evaluate", active) == "a"
        browser("key", "ArrowDown")
        assert browser("evaluate", active) == "a"
        browser("key", "Enter")
        browser("wait", "[data-key=a] .opened")
        assert "Hello" in browser("text", ".opened pre")
        assert browser("evaluate", "document.activeElement.getAttribute('aria-expanded')") == "true"
        # Within what is open, Tab reaches all that scrolls or leads on.
        browser("key", "Tab")
        assert browser("evaluate", "document.activeElement.matches('.opened pre')") is True
        browser("key", "Escape")
        assert browser("evaluate", "document.querySelector('.opened')") is None
        assert browser("evaluate", active) == "a"
        browser("key", "ArrowUp")
        browser("key", "Enter")
        browser("wait", "[data-key=b] .opened")
        # News take the focus from nobody, and close nothing.
        page.add(dataclasses.replace(OUTCOME, id="c"))
        browser("wait", "[data-key=c]")
        assert browser("evaluate", active) == "b"
        assert "Hi" in browser("text", ".opened pre")
        browser("key", "Tab")
        browser("key", "Shift+Tab")
        assert browser("evaluate", active) == "b", "one of the rows is in the order of Tab"
        assert browser("complaints") == []


def test_nothing_is_wider_than_a_phone(browse: Callable) -> None:
    long = dataclasses.replace(OUTCOME, id="long", model="m" * 100, upstream="u" * 90, cause="c" * 300)
    flow = answered("x" * 5000, HOSTILE)
    with served(FAILED, ODD, long, opened(flow, id="open", odd=("o" * 200,))) as page, browse() as browser:
        page.addon.flying = [
            {key: OUTCOME.figures[key] for key in ("at", "upstream", "rule", "endpoint", "model")}
            | {"id": "fly", "events": 3, "bytes": 5, "seconds": 2.0, "first_event": 0.1, "silent_for": 1.0}
        ]
        for width in (390, 1120):
            browser("resize", width, 800)
            browser("goto", page.url)
            browser("click", "[data-key=open] button")
            browser("wait", ".opened")
            browser("click", ".opened summary")
            beyond = """
                [...document.querySelectorAll('body *')]
                    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('svg'))
                    .map(e => e.outerHTML.slice(0, 99))
            """
            assert browser("evaluate", "document.documentElement.scrollWidth") <= width
            assert browser("evaluate", beyond.strip()) == []


# For every text on the page, how much lighter or darker it is than what is behind it (WCAG 2.2, contrast ratio).
CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(color).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    throw new Error("nothing is behind " + element.outerHTML);
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    const isSeen = element.getClientRects().length && !element.closest("script, noscript, option, title");
    if (!text.data.trim() || !isSeen) continue;
    const style = getComputedStyle(element);
    const color = element.closest("svg") ? style.fill : style.color;
    const [one, other] = [light(color), light(behind(element))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (other + 0.05), text.data.trim().slice(0, 50), color, behind(element)]);
  }
  return found;
})()
""".strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(scheme: str, browse: Callable) -> None:
    silent = dataclasses.replace(FAILED, arrivals=(0.25, 0.5, 9.5), injected=True, seconds=10.0)
    with served(silent, ODD, opened(answered("Hello"), id="open")) as page, browse() as browser:
        page.addon.enabled = False
        browser("scheme", scheme)
        for key in ("failed", "odd", "open"):
            browser("goto", page.url)
            browser("click", f"[data-key={key}] button")
            browser("wait", ".opened")
            found = browser("evaluate", CONTRAST)
            assert len(found) > 50
            assert [each for each in found if each[0] < 4.5] == []


def test_two_thousand_flows_are_a_page_of_bounded_size(browse: Callable) -> None:
    many = [dataclasses.replace(OUTCOME, id=f"f-{number}") for number in range(MOST_FLOWS)]
    with served(*many) as page, browse() as browser:
        browser("goto", page.url)
        assert len(rows(browser)) == PORTION
        per_row = browser("evaluate", "document.querySelector('#flows > li').querySelectorAll('*').length") + 1
        assert size(browser) < (PORTION + 10) * per_row + 200
        kept = "[data-key=f-1999] button"
        browser("evaluate", f"document.querySelector('{kept}').mark = 'the same'")
        for shown in range(2 * PORTION, MOST_FLOWS + 1, PORTION):
            browser("evaluate", "document.querySelector('.more button').click()")
            wait_for(browser, f"document.querySelectorAll('#flows > li:not(.more)').length === {shown}")
        assert rows(browser) == [flow.id for flow in reversed(many)]
        assert browser("evaluate", "document.querySelector('.more')") is None
        # News change what is new, and nothing else.
        page.add(*(dataclasses.replace(OUTCOME, id=f"new-{number}") for number in range(3)))
        browser("wait", "[data-key=new-2]")
        assert browser("evaluate", f"document.querySelector('{kept}').mark") == "the same"
        assert size(browser) < (MOST_FLOWS + 10) * per_row + 200
        browser("press", kept, "ArrowUp")
        assert browser("evaluate", "document.activeElement.parentElement.dataset.key") == "new-0"
        assert browser("complaints") == []


def test_a_very_long_answer_is_opened_as_much_of_it_as_a_person_reads(browse: Callable) -> None:
    # No two in a row are alike, or they would be one row.
    kinds = cycle(("content", "reasoning_content"))
    texts = (f"{HOSTILE} {number:06} {'z' * 20} " for number in range(60_000))
    flow = with_chunks(chunk(choice(**{kind: text})) for kind, text in zip(kinds, texts, strict=False))
    assert len(flow.response.raw_content) > 5_000_000
    with served(opened(flow, events=60_000)) as page, browse() as browser:
        browser("goto", page.url)
        before = size(browser)
        browser("click", "[data-key=f-1] button")
        browser("wait", ".opened")
        assert size(browser) - before < 3000
        assert len(browser("evaluate", "document.querySelector('.opened pre').textContent")) < 2 * LONGEST_SAID
        text = browser("text", ".opened")
        assert "characters more: save the document to read all" in text
        assert "left out: save the events to see all" in text
        # Nothing of it reorders or runs, and each text has its own direction.
        unseen = r"/[\u202a-\u202e\u2066-\u2069\x00\x1b]/.test(document.body.textContent)"
        assert browser("evaluate", unseen) is False
        assert "\\u202egnp.exe" in text
        assert browser("evaluate", "document.querySelectorAll('.opened img, .opened script').length") == 0
        assert browser("evaluate", "document.querySelector('.opened pre').dir") == "auto"
        assert browser("complaints") == []


def test_a_page_that_is_not_looked_at_has_no_connection(browse: Callable) -> None:
    with served(OUTCOME) as page, browse() as browser:
        browser("goto", page.url)
        hide = """
            Object.defineProperty(document, 'hidden', {configurable: true, value: HIDDEN});
            document.dispatchEvent(new Event('visibilitychange'));
        """
        browser("evaluate", f"(() => {{ {hide.replace('HIDDEN', 'true')} }})()")
        assert browser("evaluate", "source.readyState") == 2
        page.add(dataclasses.replace(OUTCOME, id="f-2"))
        browser("evaluate", f"(() => {{ {hide.replace('HIDDEN', 'false')} }})()")
        browser("wait", "[data-key=f-2]")
        assert browser("complaints") == []


def test_the_page_says_when_mitmproxy_is_gone_and_shows_the_new_one_when_it_is_back(browse: Callable) -> None:
    with browse() as browser:
        with served(OUTCOME) as page:
            browser("goto", page.url)
            browser("wait", "#rules tr")
        wait_for(browser, "document.querySelector('#message').textContent.includes('not responding')")
        assert rows(browser) == ["f-1"]
        with served(FAILED, port=page.port):
            browser("wait", "[data-key=failed]")
            assert rows(browser) == ["failed"]
            assert browser("text", "#message") == ""
