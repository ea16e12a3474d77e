"""The page as HTML: what a person reads there without JavaScript, and that every value is text."""

import dataclasses
import re
from html.parser import HTMLParser

from force_stream.page.markup import SHOWN_FLOWS, render
from harness.page import OUTCOME, RULE, Shelf, client_of

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800"


class Seen(HTMLParser):
    """The tags, attributes and words of a page, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_shows_rules_figures_and_flows_without_javascript() -> None:
    page = Seen(client_of(Shelf(OUTCOME)).get("/").text)
    for words in ("private-vllm", "llm.example.com", "qwen3-*", "qwen3-8b", "finish stop", "first byte 250 ms", "855"):
        assert words in page.words
    assert ("src", "/flows/f-1.svg") in page.attributes
    # A switch that does nothing would be a lie; the script enables it.
    assert ("disabled", None) in page.attributes


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = Seen(client_of(Shelf(OUTCOME)).get("/").text)
    places = [value or "" for name, value in page.attributes if name in ("src", "href", "action", "srcset")]
    assert places
    assert all(re.match("/[^/]|data:,$", place) for place in places)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_a_rule_that_injects_faults_and_a_flow_that_got_one_are_marked() -> None:
    addon = Shelf(dataclasses.replace(OUTCOME, injected=True), rule=dataclasses.replace(RULE, inject={"cut_after": 3}))
    words = Seen(client_of(addon).get("/").text).words
    assert "faults injected" in words
    assert '{"cut_after": 3}' in words
    assert "fault injected" in words.replace("faults injected", "")


def test_the_tries_of_one_request_are_told_from_one_another() -> None:
    failed = dataclasses.replace(OUTCOME, status=502, truncated=True)
    again = dataclasses.replace(OUTCOME, id="f-2", retry_of="f-1", number=2)
    other = dataclasses.replace(OUTCOME, id="f-3")
    words = Seen(client_of(Shelf(failed, again, other)).get("/").text).words
    assert re.findall(r"(502 cut off after event 5|200 finish stop)( \(try [^)]*\))?", words) == [
        ("200 finish stop", ""),
        ("200 finish stop", " (try 2)"),
        ("502 cut off after event 5", " (try 1 of 2)"),
    ]


def test_the_page_says_so_when_the_addon_is_off() -> None:
    addon = Shelf()
    assert "every flow passes through unchanged" not in client_of(addon).get("/").text
    addon.enabled = False
    assert "every flow passes through unchanged" in client_of(addon).get("/").text


def test_what_an_upstream_sends_is_text_wherever_it_stands() -> None:
    texts = {"upstream", "rule", "endpoint", "model", "finish_reason", "code"}
    outcome = dataclasses.replace(OUTCOME, status=502, odd=(HOSTILE,), **dict.fromkeys(texts, HOSTILE))
    well = dataclasses.replace(outcome, code="", status=200)
    for each in (outcome, well, dataclasses.replace(outcome, id=HOSTILE[:-1])):
        answer = client_of(Shelf(each)).get("/")
        page = Seen(answer.text)
        assert page.tags.count("script") == 1
        assert page.tags.count("img") == 1
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in page.words
        assert client_of(Shelf(each)).get("/flows/f-1.svg").data.count(b"<script") == 0
    answer = client_of(Shelf(outcome)).get("/flows")
    assert answer.type == "application/json"
    assert answer.json[0]["model"] == HOSTILE


def test_what_was_odd_is_there_to_be_opened_and_what_is_unknown_is_left_out() -> None:
    lines = "event 3: its data is not JSON", "no [DONE]"
    for odd, words in (((), None), (lines[:1], "1 oddity"), (lines, "2 oddities")):
        page = Seen(client_of(Shelf(dataclasses.replace(OUTCOME, odd=odd, first_content=None))).get("/").text)
        assert page.tags.count("details") == bool(words)
        assert all(word in page.words for word in (*odd, words or ""))
        assert "first content" not in page.words


def test_of_many_flows_the_latest_are_shown() -> None:
    flows = [dataclasses.replace(OUTCOME, id=f"f-{number}") for number in range(SHOWN_FLOWS + 5)]
    page = Seen(client_of(Shelf(*flows)).get("/").text)
    assert page.tags.count("img") == SHOWN_FLOWS
    assert ("data-key", f"f-{SHOWN_FLOWS + 4}") in page.attributes
    assert ("data-key", "f-4") not in page.attributes


def test_where_there_is_nothing_the_page_says_so() -> None:
    words = Seen(render(True, [], [], [])).words
    for sentence in ("There are no rules.", "Nothing yet.", "None yet. Each forced request appears here"):
        assert sentence in words
