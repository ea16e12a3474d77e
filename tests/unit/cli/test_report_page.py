"""A flow on the page of `force-stream report`: what is said first, what is shown, and that nothing in it does harm."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from force_stream.cli import report_page
from force_stream.proxy.notes import save_notes
from harness.foreign import DAMAGES, saved_flow
from harness.hostile import ENCODABLE, LONG, at_every_place
from harness.samples import DOCUMENT, STREAM
from mitmproxy import http
from mitmproxy.test import tflow

CUT = STREAM[: STREAM.index(b'"finish_reason":"')]
CUT = CUT[: CUT.rindex(b"data: {")]
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}


def flow(
    body: bytes = STREAM, headers: dict[str, str] = EVENTS, status: int = 200, path: str = "/v1/chat/completions"
) -> http.HTTPFlow:
    made = tflow.tflow()
    asked = json.dumps({"model": "qwen3-8b", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    made.request = http.Request.make("POST", f"https://llm.example.com{path}", asked, JSON)
    made.response = http.Response.make(status, body, headers)
    return made


def forced(notes: dict[str, Any], stream: bytes = STREAM, status: int = 200) -> http.HTTPFlow:
    made = flow(json.dumps(DOCUMENT).encode(), JSON, status)
    save_notes(
        made,
        {
            "rule": "private-vllm",
            "endpoint": "chat",
            "model": "qwen3-8b",
            "forced": True,
            "choices": 1,
            "on_truncated": "error",
            "quirks": [],
            "sse": stream,
            "sse_status": 200,
            "sse_type": "text/event-stream",
            "status": status,
            "times": [0.25, 10, 1.5, len(stream)],
            "ended": 1.5,
            "cause": "",
            "odd": [],
            **notes,
        },
    )
    return made


class Page(HTMLParser):
    """What a browser makes of a section: its elements, its words, and the words of its summary's first strong one."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def first_words(made: http.HTTPFlow) -> str:
    shown = report_page.section(made).html
    return Page(re.findall("<strong>.*?</strong>", shown)[0]).text


def with_error(made: http.HTTPFlow) -> http.HTTPFlow:
    made.response, made.error = None, tflow.terr("[Errno 111] Connection refused")
    return made


ERROR = json.dumps({"error": {"message": "Slow down", "code": "rate_limit_exceeded"}}).encode()


@pytest.mark.parametrize(
    ("made", "kind", "first"),
    [
        (
            forced({"cause": "cut off after event 3 (connection reset)"}, CUT, 502),
            "fault",
            "cut off after event 3 (con",
        ),
        (forced({"cause": "", "finish_reason": "stop"}), "good", "finish stop"),
        (forced({"cause": "odd: no [DONE]", "odd": ["no [DONE]"]}), "odd", "odd: no [DONE]"),
        # flows of stock mitmproxy, and of versions that did not note a cause
        (flow(), "good", "finish stop"),
        (flow(CUT), "fault", "cut off after event"),
        (flow(ERROR, {**JSON, "retry-after": "20"}, 429), "fault", "rate limited by the upstream (429, rate_limit_exc"),
        (flow(json.dumps(DOCUMENT).encode(), JSON), "good", "answered"),
        (flow(b"<html>", {"content-type": "text/html"}, path="/"), "good", "answered"),
        (with_error(flow()), "fault", "no answer: connection refused"),
    ],
)
def test_the_cause_comes_first(made: http.HTTPFlow, kind: str, first: str) -> None:
    assert report_page.section(made).kind == kind
    assert first_words(made).startswith(first)


def test_a_section_shows_what_is_known() -> None:
    made = forced({"cause": "odd: no [DONE]", "odd": ["no [DONE]"], "head": [["x-request-id", b"req-7"]]})
    shown = Page(report_page.section(made).html).text
    said = DOCUMENT["choices"][0]["message"]["content"]
    for part in (
        "qwen3-8b",
        "private-vllm",
        "x-request-id: req-7",
        said,
        "longest gap 1.25 s",
        "data: {",
        '"content": "Hi"',
    ):
        assert part in shown, part


def test_what_came_of_a_cut_answer_is_shown_joined() -> None:
    shown = report_page.section(forced({"cause": "cut off", "truncated": True}, CUT, 502)).html
    name, text = re.findall(r"<h3>(.*?)</h3>\n<pre.*?>(.*?)</pre>", shown)[0]
    assert name == "Text"
    assert text
    assert DOCUMENT["choices"][0]["message"]["content"].startswith(text)


def test_a_tool_call_is_shown_by_its_name() -> None:
    called = {"type": "function", "id": "c", "function": {"name": "find", "arguments": '{"q":1}'}}
    choices = [{"index": i, "message": {"tool_calls": [called] * i, "content": "Hi"}} for i in range(2)]
    shown = report_page.section(flow(json.dumps({"choices": choices}).encode(), JSON)).html
    said = re.findall(r"<h3>(.*?)</h3>\n<pre.*?>(.*?)</pre>", shown)
    assert said == [
        ("Text (choice 1)", "Hi"),
        ("Text (choice 2)", "Hi"),
        ("Call find (choice 2)", "{&quot;q&quot;:1}"),
    ]


def test_a_flow_without_an_answer_shows_its_events() -> None:
    made = with_error(forced({"cause": "the client gave up after 3.0 s"}))
    assert "the client gave up" in first_words(made)
    assert "data: {" in Page(report_page.section(made).html).text


def test_what_came_for_a_client_that_gave_up_is_no_answer() -> None:
    made = forced({"cause": "the client gave up after 3.0 s", "error": "client_gone"})
    shown = report_page.section(made).html
    assert "no answer" in Page(shown).text
    assert "What the client got" not in Page(shown).text
    assert "What the upstream sent" in Page(shown).text
    assert re.search(r'class="[^"]*fault', shown)


def test_a_long_body_is_shown_in_part() -> None:
    made = flow(b"x" * 1_000_000, {"content-type": "text/plain"}, path="/")
    shown = report_page.section(made).html
    assert len(shown) < 50_000
    assert "980,000 bytes left out" in shown


def test_a_long_timeline_is_shown_in_part() -> None:
    made = flow(STREAM.replace(b"data: [DONE]", b"") + b": x\n\ndata: {}\n\n" * 5_000)
    shown = report_page.section(made).html
    assert len(shown) < 200_000
    assert "lines left out" in shown


def test_what_is_not_text_is_only_named() -> None:
    assert "4 bytes, not text: image/png" in report_page.section(flow(b"\x89PNG", {"content-type": "image/png"})).html


def test_a_long_stand_in_is_short_on_the_page() -> None:
    made = flow()
    made.request.headers["authorization"] = "Bearer ***1" + 1000 * "*"
    assert "Bearer ***1</pre>" in report_page.section(made).html


TAGS = {"details", "summary", "span", "strong", "div", "dl", "dt", "dd", "h3", "ul", "li", "p", "pre"}
DRAWN = {"svg", "title", "path", "rect", "text"}


@pytest.mark.parametrize("text", [ENCODABLE, LONG.replace("\ud800", ""), "</pre></details><script>alert(1)</script>"])
def test_what_others_sent_is_only_text(text: str) -> None:
    stream = b"".join(
        b"data: %b\n\n" % json.dumps(at_every_place({"choices": [{"index": 0, "delta": {}}]}, text)).encode()
        for _ in range(3)
    )
    stream += b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()
    made = forced({"cause": text, "odd": [text] * 3, "model": "m", "head": [["x-request-id", text.encode()]]}, stream)
    made.comment = text
    made.request.path = f"/{text}"
    made.request.headers["x"] = text
    made.response = http.Response.make(200, text.encode(), JSON)
    shown = report_page.section(made).html
    page = Page(shown)
    assert {tag for tag, _ in page.elements} <= TAGS | DRAWN
    assert not any(
        name.startswith("on") or name in ("style", "href", "src") for _, attrs in page.elements for name in attrs
    )
    assert all(line.isprintable() for line in shown.split("\n"))


def test_the_page_can_load_and_run_nothing() -> None:
    head = report_page.head("<flows>", "1 flow", "masked")
    assert "default-src 'none'; style-src 'sha256-" in head
    assert "<script" not in head
    assert "&lt;flows&gt;" in head
    assert not re.search(r"(?:src|href)=|url\(|@import", head)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_flow_that_somebody_edited_is_shown_as_far_as_it_is_known(name: str) -> None:
    made = saved_flow(name=name)
    DAMAGES[name](made)
    assert "POST" in report_page.section(made).html


def luminance(color: str) -> float:
    parts = [
        int(part, 16) / 255 for part in re.findall("..", color if len(color) == 6 else "".join(c * 2 for c in color))
    ]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_words_have_the_contrast_of_wcag_aa(scheme: str) -> None:
    light, dark = (
        dict(re.findall(r"--(\w+): #(\w+)", rule))
        for rule in re.findall(r":root \{(.*?)\}", report_page._STYLE, re.DOTALL)
    )
    colors = light if scheme == "light" else light | dark
    pairs = [(text, page) for text in ("text", "quiet") for page in ("page", "soft")]
    values = [(colors[text], colors[page]) for text, page in pairs] + [
        ("fff", colors[kind]) for kind in ("good", "odd", "fault")
    ]
    for pair in values:
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair
