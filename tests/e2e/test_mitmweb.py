"""mitmweb with the addon, in a real browser: what a person clicks there, and what they read.

Needs chromium, node and `npm ci` in tests/browser. FORCE_STREAM_SCREENSHOTS=docs writes docs/mitmweb.png.
"""

import json
import re
from collections.abc import Iterator

import pytest
from harness import Certs, Data, End, Http1Client, Pause, Proxy, Reset, document, refused_port, sse
from harness.browser import Browser, browse
from harness.paths import ROOT
from harness.samples import CHAT, DOCUMENT, USAGE, choice, chunk, request, spoken
from harness.upstream import Upstream

RULES = """\
rules:
  - name: private-vllm
    hosts: ["127.0.0.1"]
    models: ["qwen3-*"]
    force_upstream_stream: true
"""
PASSWORD = "not-a-secret"
VIEW = ".flow-detail .contentview"
GOOD, CUT = "qwen3-8b", "qwen3-32b"


@pytest.fixture(scope="module")
def web(
    certs: Certs, session_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Proxy, Browser]]:
    """mitmweb in a browser, with three flows: one that went well, one with a gap and then cut off, one of no rule."""
    folder = tmp_path_factory.mktemp("mitmweb")
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    options = {
        "force_stream_rules": rules,
        "connection_strategy": "lazy",
        "web_open_browser": False,
        "web_password": PASSWORD,
        "web_port": refused_port(),
        "web_columns": ["path", "status", "size", "time"],
    }
    session_upstream.reset()
    last = chunk(choice(finish_reason="stop"), model=GOOD), chunk(usage=USAGE, model=GOOD)
    session_upstream.answer(*spoken(GOOD), Data(sse(*last)), End())
    session_upstream.answer(*spoken(CUT, Pause(1.4)), Reset())
    session_upstream.answer(document(DOCUMENT))
    mode = f"reverse:{session_upstream.url()}"
    with (
        Proxy(mode, certs=certs, scripts=[ROOT / "addon.py"], options=options, program="mitmweb") as proxy,
        browse(folder / "profile") as browser,
    ):
        with Http1Client(proxy.url) as client:
            statuses = [client.post(CHAT, request(model)).status for model in (GOOD, CUT, "other")]
        assert statuses == [200, 502, 200]
        yield proxy, browser
        # mitmproxy 12.3.1 links to a stylesheet that it does not ship.
        assert [each for each in browser("complaints") if "/src/css/vendor.less: " not in each] == []


@pytest.fixture
def browser(web: tuple[Proxy, Browser]) -> Browser:
    """mitmweb's first view, with its three flows."""
    proxy, browser = web
    browser("goto", f"{address(proxy)}/?token={PASSWORD}")
    wait_for_rows(browser, 3)
    return browser


def address(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.options['web_port']}"


def wait_for_rows(browser: Browser, count: int) -> list[str]:
    """The flow list, once it has so many."""
    # Between two rows of no height.
    browser("wait", f".flow-table tbody:has(> :nth-child({count + 2}):last-child) > :nth-child({count + 1})")
    return browser("evaluate", "[...document.querySelectorAll('.flow-table td.col-status')].map(e => e.innerText)")


def open_flow(browser: Browser, row: int, tab: str) -> None:
    browser("click", f".flow-table td.col-path >> nth={row}")
    browser("click", f".flow-detail nav >> text={tab}")


def run(browser: Browser, command: str) -> str:
    """What the command bar says to a command."""
    browser("fill", ".command input", command)
    browser("press", ".command input", "Enter")
    browser("wait", f".command-result >> text={command}")
    return browser("text", ".command-result")


def test_a_person_chooses_the_view_of_the_events(browser: Browser) -> None:
    open_flow(browser, 1, "Response")
    browser("wait", f"{VIEW} h5:text-is('JSON')")
    assert '"code": "stream_truncated"' in browser("text", f"{VIEW} pre"), "the document is seen first"
    browser("click", f"{VIEW} >> text=View:")
    browser("click", ".dropdown-menu >> text=upstream sse")
    browser("wait", f"{VIEW} h5:text-is('Upstream SSE')")
    shown = browser("text", f"{VIEW} pre")
    for pattern in (
        r"rule +private-vllm",
        r"model +qwen3-32b",
        r"status +200 from the upstream, 502 to the client",
        r"first content +(0\.[3-9]\d\d|[1-9]\d*\.\d{3}) s",
        r"longest gap +[1-9]\d*\.\d{3} s, from \d+\.\d{3} to \d+\.\d{3} s",
        r"events +15",
        r"cause +cut off after event 15( \(.*\))?",
        r"text +\"Graz is the second largest city of Austria and lies on the river Mur \"",
        r" +- no finish reason for choice 0",
        r" +2 +\d+\.\d{3} +\+\d+\.\d{3} +chunk +content \+\"Graz \"",
        r"! +10 +\d+\.\d{3} +\+[1-9]\d*\.\d{3} +chunk +\[after [1-9]\d*\.\d s of silence\] content \+\"and \"",
        r" +15 .*\+\"Mur \"",
    ):
        assert re.search(f"^{pattern} *$", shown, re.MULTILINE), f"{pattern} in\n{shown}"
    browser("evaluate", "document.querySelector('.flow-detail').style.flex = '0 0 68%'")
    browser("resize", 1120, 1000)
    browser.picture("mitmweb.png")


def test_comment_and_mark_are_seen(browser: Browser) -> None:
    assert wait_for_rows(browser, 3) == ["200", "502", "200"]
    marks = "[...document.querySelectorAll('.flow-table .marker')].map(mark => mark.innerText)"
    assert browser("evaluate", marks) == ["", "⚠", ""]
    comments = f"private-vllm: chat {GOOD}, 200, finish stop, ", f"private-vllm: chat {CUT}, 502, stream_truncated, "
    for row, comment in enumerate(comments):
        open_flow(browser, row, "Comment")
        assert comment in browser("text", ".flow-detail")


@pytest.mark.parametrize(
    ("typed", "statuses"),
    [
        ("~marked", ["502"]),
        ("~comment private-vllm:", ["200", "502"]),
        ("~comment private-vllm: & !~marked", ["200"]),
        ("~comment stream_", ["502"]),
    ],
)
def test_a_filter_picks_flows_out(browser: Browser, typed: str, statuses: list[str]) -> None:
    browser("click", "header nav >> text=Flow List")
    browser("fill", "input[placeholder=Search]", typed)
    assert wait_for_rows(browser, len(statuses)) == statuses


def test_commands_are_typed_into_the_command_bar(browser: Browser) -> None:
    browser("click", "header nav >> text=Options")
    browser("click", "header >> text=Display Command Bar")
    heading, *rows = json.loads(run(browser, "force_stream.stats").splitlines()[-1])
    assert heading.split()[:3] == ["upstream", "model", "flows"]
    assert sorted(row.split()[1] for row in rows) == [CUT, GOOD]
    said = run(browser, "force_stream.set nobody timeout 3")
    assert "there is no rule 'nobody'; the rules are: private-vllm" in said
    said = run(browser, 'force_stream.explain "~meta force_stream & ~marked"')
    assert said.count("rule private-vllm takes it; its request was forced") == 1


def test_who_has_no_password_runs_no_command(web: tuple[Proxy, Browser]) -> None:
    with Http1Client(address(web[0])) as client:
        for name in ("force_stream.stats", "view.clear"):
            assert client.post(f"/commands/{name}", {"arguments": []}).status == 403
