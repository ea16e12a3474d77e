"""Twelve failures, as a person meets them: how many clicks or keys it is to the cause, and whether its words can then
be read. In mitmweb, on the proxy's own page and in mitmproxy's console; beside them mitmweb without the addon.

The table in docs/twelve-failures.md is what is tested: its words are looked for among what is seen of the window or the
screen, after as many clicks as it says, and not before. Needs chromium, node, `npm ci` in tests/browser, and tmux.
FORCE_STREAM_SCREENSHOTS=docs writes docs/failures.png, docs/failures-page.png and
docs/failures-stock.png.
"""

import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import Answer, Certs, Data, End, Head, Http1Client, Linger, Proxy, Reset, document, refused_port, sse
from harness.browser import Browser, browse
from harness.console import Console
from harness.paths import ADDON, ROOT
from harness.record import TIMEOUT
from harness.samples import CHAT, USAGE, WORDS, choice, chunk, function_call, request
from harness.upstream import Upstream

RULES = """\
rules:
  - name: impatient
    hosts: ["127.0.0.1"]
    models: ["qwen3-stalls"]
    force_upstream_stream: true
    idle_timeout: 1
  - name: private-vllm
    hosts: ["127.0.0.1"]
    force_upstream_stream: true
"""
PASSWORD = "not-a-secret"
# Seconds after which the application gives up on an upstream that says nothing.
PATIENCE = 0.5
TEXT = sse(*(chunk(choice(content=f"{word} ")) for word in 3 * WORDS), done=False)
STOP = sse(chunk(choice(finish_reason="stop")))
WITH_USAGE = sse(chunk(choice(finish_reason="stop")), chunk(usage=USAGE))
TWICE = sse(*(chunk(choice(finish_reason=reason)) for reason in ("stop", "length")))
SIGN_IN = b"<!doctype html><html><head><title>Acme SSO</title></head><body><h1>Please log in</h1></body></html>"
BROKEN = {"error": {"message": "CUDA out of memory", "type": "server_error", "code": "engine_dead"}}
LIMITED = {"error": {"message": "Rate limit reached", "type": "tokens", "code": "rate_limit_exceeded"}}
CALLS = sse(
    chunk(choice(role="assistant", content=None)),
    chunk(choice(tool_calls=[function_call(0, id="call_1", type="function", name="weather", arguments="")])),
    chunk(choice(tool_calls=[function_call(0, arguments='{"city":"Graz"}')])),
)
_packer = zlib.compressobj(wbits=31)
BEGUN = _packer.compress(TEXT[: len(TEXT) // 2]) + _packer.flush(zlib.Z_SYNC_FLUSH)
# What the upstream does, by the name that the failure has in the table. No two become the same document: mitmproxy's
# console shows one view for both then, that of the first one.
FAILURES = {
    "cut off": Answer.of(Head(), Data(TEXT), Reset()),
    "silent in the middle": Answer.of(Head(), Data(TEXT), Linger()),
    "an error inside a 200": Answer.of(Head(), Data(TEXT + sse(BROKEN, done=False)), End()),
    "a wrong content type": Answer.of(Head(content_type="text/plain"), Data(TEXT + WITH_USAGE), End()),
    "a tool call without a finish reason": Answer.of(Head(), Data(CALLS), End()),
    "an HTML page": Answer.of(Head(content_type="text/html"), Data(SIGN_IN), End()),
    "gzip, and cut off": Answer.of(Head(headers={"Content-Encoding": "gzip"}), Data(BEGUN), Reset()),
    "no first token": Answer.of(Linger()),
    "an empty stream": Answer.of(Head(), End()),
    "a rate limit": document(LIMITED, status=429, headers={"Retry-After": "20"}),
    "garbage between events": Answer.of(Head(), Data(TEXT + b"<!-- cached -->\n\ndata: [1, 2\n\n" + STOP), End()),
    "two finish reasons": Answer.of(Head(), Data(TEXT + TWICE), End()),
}
# The flows of each list in their order: a stream without events is asked for again, plain.
FORCED = [name for name in FAILURES for _ in range(2 if name == "an empty stream" else 1)]
WITHOUT_STREAM = ("no first token", "a rate limit")
SCROLL = ", then scroll"
# What mitmweb says in the tab Error.
ERRORS = ("peer closed connection without sending complete message body", "Client disconnected.")


class Row(NamedTuple):
    """A row of the table. The counts are those of clicks or keys; `stock` is mitmweb without the addon."""

    failure: str
    says: str
    mitmweb: int
    page: int
    console: int
    stock_says: str
    stock: int
    scroll: bool


def table() -> list[Row]:
    text = (ROOT / "docs" / "twelve-failures.md").read_text(encoding="utf-8")
    rows = []
    for line in text.partition("\n|---")[2].partition("\n\n")[0].splitlines()[1:]:
        failure, says, mitmweb, page, console, stock_says, stock = line.strip("| ").split(" | ")
        words = [re.search("`([^`]+)`", cell) for cell in (says, stock_says)]
        ours, theirs = (found[1] for found in words if found)
        clicks, scroll, _ = stock.partition(SCROLL)
        rows.append(Row(failure, ours, int(mitmweb), int(page), int(console), theirs, int(clicks), bool(scroll)))
    return rows


ROWS = table()
# What the docs have mitmweb show in its list.
COLUMNS = re.findall(r"web_columns=(\w+)", (ROOT / "docs" / "looking.md").read_text(encoding="utf-8"))


def reach(words: str, clicks: int, steps: list[Callable[[], object]], seen: Callable[[], str]) -> None:
    """Take the steps until the words are seen: exactly that many. Any time is as good as the one in them."""
    pattern = re.sub(r"\d+\\\.\d\\ s", r"\\d+\\.\\d\\ s", re.escape(words))

    def wait(*, seeing: bool, problem: str) -> None:
        end = time.monotonic() + TIMEOUT
        while bool(re.search(pattern, text := seen())) is not seeing:
            assert time.monotonic() < end, f"{words!r} {problem}:\n{text}"
            time.sleep(0.05)

    for step in steps[:clicks]:
        wait(seeing=False, problem="can be read earlier, in")  # a part of what was seen before may still be there
        step()
    wait(seeing=True, problem="cannot be read in")


@pytest.fixture
def mode(upstream: Upstream) -> str:
    """Reverse, to an upstream that fails in all of these ways."""
    for name, answer in FAILURES.items():
        upstream.answer(answer, key=name)
    return f"reverse:{upstream.url()}"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


@contextmanager
def mitmweb(mode: str, certs: Certs, folder: Path, **options: object) -> Iterator[tuple[Proxy, Browser]]:
    """mitmweb, shown by a browser, once an application has asked it for each answer."""
    options |= {"connection_strategy": "lazy", "web_open_browser": False, "web_password": PASSWORD}
    scripts = [ADDON] if "force_stream_rules" in options else []
    with (
        browse(folder / "profile") as browser,
        Proxy(
            mode, certs=certs, scripts=scripts, options={"web_port": refused_port(), **options}, program="mitmweb"
        ) as proxy,
    ):
        ask_all(proxy.url, stream=not scripts)
        browser("goto", f"http://127.0.0.1:{proxy.options['web_port']}/?token={PASSWORD}")
        yield proxy, browser


def ask_all(url: str, *, stream: bool = False) -> None:
    """What an application does. Only the rule ends a silence in the middle; without one, the application has to."""
    for name in FAILURES:
        stalls = name == "silent in the middle"
        gives_up = name == "no first token" or (stalls and stream)
        asked = request("qwen3-stalls" if stalls else "qwen3-8b", stream=stream)
        with Http1Client(url, timeout=PATIENCE if gives_up else TIMEOUT) as client, suppress(TimeoutError):
            client.post(CHAT, asked, [("x-answer", name)])


def clicks(browser: Browser, *selectors: str) -> list[Callable[[], object]]:
    return [partial(browser, "click", selector) for selector in selectors]


def test_the_table_has_the_twelve() -> None:
    assert [row.failure for row in ROWS] == list(FAILURES)
    assert len({row.says for row in ROWS}) == len(FAILURES) == 12
    assert max(max(row.mitmweb, row.page, row.console) for row in ROWS) <= 2


def test_in_mitmweb_and_on_the_page(mode: str, rules: Path, certs: Certs, tmp_path: Path) -> None:
    page = refused_port()
    options = {"force_stream_rules": rules, "force_stream_page_port": page, "web_columns": COLUMNS}
    with mitmweb(mode, certs, tmp_path, **options) as (_, browser):
        for row in ROWS:
            place = f".flow-table td.col-comment >> nth={FORCED.index(row.failure)}"
            reach(row.says, row.mitmweb, clicks(browser, place, ".flow-detail nav >> text=Comment"), browser.seen)
        browser("resize", 1120, 600)
        browser.picture("failures.png")
        browser("resize", 1120, 900)
        browser("goto", f"http://127.0.0.1:{page}/")
        for row in ROWS:
            place = f"#flows > li >> nth={len(FORCED) - 1 - FORCED.index(row.failure)}"
            browser("scroll", place)
            reach(row.says, row.page, clicks(browser, f"{place} >> button"), browser.seen)
        browser.picture("failures-page.png")


def test_in_the_console(mode: str, rules: Path, certs: Certs, tmp_path: Path) -> None:
    port = refused_port()
    options = {
        "force_stream_rules": rules,
        "force_stream_view_first": "true",
        "connection_strategy": "lazy",
        "ssl_verify_upstream_trusted_ca": certs.ca,
    }
    arguments = ["--mode", mode, "--listen-host", "127.0.0.1", "--listen-port", f"{port}"]
    with Console(certs, tmp_path, options, *arguments) as console:
        console.wait_for(rf"\[.*127\.0\.0\.1:{port}\]")
        ask_all(f"http://127.0.0.1:{port}")
        for row in ROWS:
            console.press("g", *["Down"] * FORCED.index(row.failure))
            # The tab Detail with the comment, and the tab Response with the view of the events, where there are any.
            for key, back in (("Left", "Right"), ("Tab", "Left"))[: 1 if row.failure in WITHOUT_STREAM else 2]:
                steps = [partial(console.press, each) for each in ("Enter", key)]
                reach(row.says, row.console, steps, lambda: " ".join(console.screen.split()))
                console.press(back, "q")
                console.wait_for("^Flows")


def test_beside_mitmweb_without_the_addon(mode: str, certs: Certs, tmp_path: Path) -> None:
    with mitmweb(mode, certs, tmp_path) as (_, browser):
        browser("wait", f".flow-table tbody > :nth-child({len(FAILURES) + 1})")
        browser("resize", 1120, 600)
        browser.picture("failures-stock.png")
        browser("resize", 1120, 900)
        for row in ROWS:
            place = f".flow-table td.col-path >> nth={list(FAILURES).index(row.failure)}"
            tab = "Error" if row.stock_says in ERRORS else "Response"
            opened = clicks(browser, place, f".flow-detail nav >> text={tab}")
            if row.scroll:
                reach(row.stock_says, row.stock, opened, lambda: browser("text", ".flow-detail .contentview"))
                assert row.stock_says not in browser.seen()
            else:
                reach(row.stock_says, row.stock, opened, browser.seen)
            assert row.says not in browser.seen()
            if tab == "Error" and row.failure != "no first token":
                reach("Content is missing.", 1, clicks(browser, ".flow-detail nav >> text=Response"), browser.seen)
            if row.stock:
                browser("click", ".flow-detail nav >> text=Request")
