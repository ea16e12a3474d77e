"""The page's own events: what is in them, and what a reader that comes back gets."""

import dataclasses
import json
import re
from typing import Any

import pytest
from force_stream.page.choice import Choice
from force_stream.page.feed import Feed, place_of
from force_stream.page.markup import PORTION
from harness.page import OUTCOME, Shelf, client_of

EVENT = re.compile(r"id: (\S+)\ndata: (.*)\n\n")


def read(data: bytes) -> dict[str, Any]:
    """The parts of the only event."""
    found = EVENT.fullmatch(data.decode())
    assert found, data
    parts = json.loads(found[2])
    assert isinstance(parts, dict)
    return parts


def outcome(name: int, **changes: Any) -> Any:
    return dataclasses.replace(OUTCOME, id=f"f-{name}", **changes)


def ids(html: str) -> list[str]:
    return re.findall('<li data-key="(f-[0-9]+)">', html)


def test_a_reader_gets_what_came_after_its_page_and_then_nothing() -> None:
    addon = Shelf(outcome(1))
    feed = Feed(addon, Choice(), place_of(addon))
    assert read(feed.news()).keys() == {"state", "rules", "stats", "flight"}
    assert feed.news() == b""
    addon.stats.add(outcome(2))
    addon.stats.add(outcome(3))
    parts = read(feed.news())
    assert parts.keys() == {"stats", "news"}
    assert ids(parts["news"]) == ["f-3", "f-2"]
    addon.enabled = False
    assert read(feed.news()).keys() == {"state"}
    assert feed.news() == b""


def test_a_reader_that_comes_back_gets_what_it_missed() -> None:
    addon = Shelf()
    client = client_of(addon)
    first = client.get(f"/events?after={place_of(addon)}")
    assert first.type == "text/event-stream"
    assert first.data.startswith(b"retry: 2000\n\nid: ")
    last = re.findall("id: (.*)", first.text)[-1]
    assert client.get("/events", headers={"Last-Event-ID": last}).data == b"retry: 2000\n\n"
    addon.stats.add(outcome(2))
    again = client.get(f"/events?after={place_of(addon)}", headers={"Last-Event-ID": last})
    assert ids(read(again.data.partition(b"\n\n")[2])["news"]) == ["f-2"]


def test_only_the_flows_that_are_asked_for_are_news() -> None:
    addon = Shelf()
    feed = Feed(addon, Choice(failed=True), place_of(addon))
    feed.news()
    addon.stats.add(outcome(1))
    assert "news" not in read(feed.news())
    addon.stats.add(outcome(2, status=500))
    assert ids(read(feed.news())["news"]) == ["f-2"]


def test_another_try_says_so_at_the_first_one_too() -> None:
    addon = Shelf(outcome(1, status=502))
    feed = Feed(addon, Choice(), place_of(addon))
    addon.stats.add(outcome(2, retry_of="f-1", number=2))
    parts = read(feed.news())
    assert (ids(parts["news"]), ids(parts["again"])) == (["f-2"], ["f-1"])
    assert "(try 1 of 2)" in parts["again"]


def test_very_many_new_flows_are_a_new_list() -> None:
    addon = Shelf()
    feed = Feed(addon, Choice(), place_of(addon))
    for number in range(PORTION + 10):
        addon.stats.add(outcome(number))
    parts = read(feed.news())
    assert "news" not in parts
    assert len(ids(parts["flows"])) == PORTION


@pytest.mark.parametrize("place", ["", "x", "another.3.", "....", "\u0661.\u0661."])
def test_a_page_of_another_start_is_loaded_again(place: str) -> None:
    feed = Feed(Shelf(), Choice(), place)
    assert feed.first() == b"retry: 2000\n\nevent: reload\ndata: another start\n\n"


@pytest.mark.parametrize("rest", [".x.", ".9999999999999999999.", ".-1.", ".7", ".7.a-b-c.d"])
def test_a_place_that_nobody_wrote_does_no_harm(rest: str) -> None:
    addon = Shelf(outcome(1))
    assert read(Feed(addon, Choice(), addon.stats.started + rest).news())["rules"]


def test_what_others_sent_stays_within_its_event() -> None:
    addon = Shelf()
    feed = Feed(addon, Choice(), place_of(addon))
    addon.stats.add(outcome(1, model="a\n\ndata: {}\r\rid: x\ud800</script>"))
    data = feed.news()
    assert data.count(b"\n\n") == 1
    assert b"\r" not in data
    assert "&lt;/script&gt;" in read(data)["news"]
