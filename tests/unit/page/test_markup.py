"""The page as HTML: what a person reads there without JavaScript, and that every value is text."""

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from force_stream.page.choice import Choice
from force_stream.page.markup import MOST_IN_FLIGHT, MOST_STATS, PORTION, render
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
    assert ("data-place", "f-1") in page.attributes
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
        assert not {"img", "style", "iframe"} & {*page.tags}
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in page.words
        assert client_of(Shelf(each)).get("/flows/f-1.svg").data.count(b"<script") == 0
    answer = client_of(Shelf(outcome)).get("/flows")
    assert answer.type == "application/json"
    assert answer.json[0]["model"] == HOSTILE


def test_what_was_odd_is_there_to_be_opened_and_what_is_unknown_is_left_out() -> None:
    lines = "event 3: its data is not JSON", "no [DONE]"
    for odd, words in (((), ""), (lines[:1], "1 oddity"), (lines, "2 oddities")):
        client = client_of(Shelf(dataclasses.replace(OUTCOME, odd=odd, first_content=None)))
        row, opened = Seen(client.get("/").text).words, Seen(client.get("/flows/f-1.html").text).words
        assert words in row
        assert all(word in opened for word in (*odd, words))
        assert "oddit" not in (row + opened if not odd else "")
        assert "first content" not in row + opened


def keys(page: Seen) -> list[str | None]:
    """Of the flows that a page shows, in their order."""
    return [value for name, value in page.attributes if name == "data-place" and value and value.startswith("f-")]


def test_of_many_flows_the_latest_are_shown_and_the_next_when_they_are_wanted() -> None:
    flows = [dataclasses.replace(OUTCOME, id=f"f-{number}") for number in range(2 * PORTION + 5)]
    client = client_of(Shelf(*flows))
    page = Seen(client.get("/").text)
    names = [f"f-{number}" for number in reversed(range(2 * PORTION + 5))]
    assert keys(page) == names[:PORTION]
    seen: list[str | None] = []
    after = next(value for name, value in page.attributes if name == "data-more")
    while after:
        page = Seen(client.get(f"/flows.html?after={after}").text)
        seen += keys(page)
        after = next((value for name, value in page.attributes if name == "data-more"), None)
    assert seen == names[PORTION:]


def test_where_there_is_nothing_the_page_says_so() -> None:
    words = Seen(render(Shelf(rule=None), Choice(), "")).words
    for sentence in ("There are no rules.", "Nothing yet.", "None yet. Each forced request appears here"):
        assert sentence in words
    words = Seen(client_of(Shelf(OUTCOME)).get("/?failed=1").text).words
    assert "None of the latest 1 flows is like that." in words


def test_the_filters_of_an_address_are_those_of_the_page() -> None:
    failed = dataclasses.replace(OUTCOME, id="f-2", status=429)
    page = Seen(client_of(Shelf(OUTCOME, failed)).get("/?failed=1&model=QWEN3&text=%22%3E").text)
    assert ("value", "qwen3") in page.attributes
    assert ("value", '">') in page.attributes
    assert page.attributes.count(("checked", None)) == 1
    assert keys(Seen(client_of(Shelf(OUTCOME, failed)).get("/?failed=1").text)) == ["f-2"]


FLYING: dict[str, Any] = {
    "id": "f-9",
    "at": OUTCOME.at,
    "upstream": OUTCOME.upstream,
    "rule": OUTCOME.rule,
    "endpoint": "chat",
    "model": OUTCOME.model,
    "events": 37,
    "bytes": 6000,
    "seconds": 8.0,
    "first_event": 0.005,
    "silent_for": 5.1,
    "in_flight": True,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "in flight 37 events, last byte 5.10 s ago"),
        ({"events": None}, "in flight 6,000 bytes, last byte 5.10 s ago"),
        ({"events": 0, "first_event": None}, "in flight 0 events, silent for 5.10 s"),
        ({"model": HOSTILE}, "<script>alert(1)</script>"),
    ],
)
def test_a_flow_in_flight_says_what_came_and_how_long_it_is_silent(changes: dict[str, Any], words: str) -> None:
    addon = Shelf()
    addon.flying = [FLYING | changes]
    page = Seen(client_of(addon).get("/").text)
    assert words in page.words
    assert page.tags.count("script") == 1


def test_only_so_many_flows_in_flight_are_shown() -> None:
    addon = Shelf()
    addon.flying = [FLYING | {"id": f"f-{number}"} for number in range(MOST_IN_FLIGHT + 7)]
    page = Seen(client_of(addon).get("/").text)
    assert page.words.count("running for") == MOST_IN_FLIGHT
    assert "7 more are in flight." in page.words


def test_only_so_many_upstreams_are_shown_those_with_the_most_flows() -> None:
    outcomes = [dataclasses.replace(OUTCOME, model=f"m-{number:03}") for number in range(MOST_STATS + 3)]
    page = Seen(client_of(Shelf(*outcomes, outcomes[-1])).get("/").text)
    assert len([name for name, _ in page.attributes if name == "data-model"]) == MOST_STATS
    assert ("data-model", outcomes[-1].model) in page.attributes
    assert "3 more are in" in page.words


def test_a_flow_that_is_opened_shows_its_cause_first_and_then_all_that_is_known() -> None:
    head = ("retry-after", "20"), ("x-request-id", HOSTILE)
    cause = "rate limited by the upstream (429, retry after 20 s)"
    limited = dataclasses.replace(OUTCOME, status=429, code="rate_limit_exceeded", cause=cause, head=head)
    page = Seen(client_of(Shelf(limited)).get("/flows/f-1.html").text)
    assert page.words.strip().startswith(cause)
    for words in ("Upstream's retry-after", "20", "rate_limit_exceeded", "no longer in memory", "<script>alert(1)"):
        assert words in page.words
    assert page.tags.count("svg") == 1
    assert "script" not in page.tags
