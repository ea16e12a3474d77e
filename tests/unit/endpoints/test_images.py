"""Images: how many have to be complete, and groups of them."""

from typing import Any

import pytest
from force_stream.endpoints.images import ImagesAggregator
from force_stream.errors import EmptyStream, IncompleteStream, UpstreamError
from force_stream.merge.fields import CHANGED

COMPLETED = {"type": "image_generation.completed", "b64_json": "aa", "created_at": 7, "size": "auto"}


def test_it_is_finished_and_ended_with_the_last_image() -> None:
    aggregator = ImagesAggregator(2)
    for _ in range(2):
        assert not aggregator.finished
        assert aggregator.add(COMPLETED) is CHANGED
    assert aggregator.finished
    assert aggregator.ended
    assert aggregator.result().document == {"created": 7, "data": [{"b64_json": "aa"}] * 2, "size": "auto"}


def test_fewer_images_are_an_answer_only_where_the_upstream_said_done() -> None:
    aggregator = ImagesAggregator(2)
    with pytest.raises(IncompleteStream):
        aggregator.result(done=True)
    aggregator.add(COMPLETED)
    with pytest.raises(IncompleteStream):
        aggregator.result()
    assert len(aggregator.result(done=True).document["data"]) == 1


def of_group(what: str, index: int, **more: Any) -> dict[str, Any]:
    return {"type": f"image_generation.{what}", "image_index": index, **more}


def test_a_group_ends_with_its_last_event_however_many_images_were_asked_for() -> None:
    aggregator = ImagesAggregator(1)
    for index in (0, 1):
        aggregator.add(of_group("partial_succeeded", index, url=f"{index}"))
        assert not aggregator.finished
    aggregator.add({"type": "image_generation.completed", "usage": {"generated_images": 2}})
    assert aggregator.ended
    assert aggregator.result().document["data"] == [{"url": "0"}, {"url": "1"}]


def test_a_group_without_an_image_is_the_error_of_the_first_that_failed() -> None:
    aggregator = ImagesAggregator()
    aggregator.add(of_group("partial_failed", 0, error={"code": "rate_limit_exceeded", "message": "Too many."}))
    aggregator.add(of_group("partial_failed", 1, message="No."))
    aggregator.add({"type": "image_generation.completed", "usage": {"generated_images": 0}})
    with pytest.raises(UpstreamError) as raised:
        aggregator.result()
    assert raised.value.status_hint == 429
    assert raised.value.said["error"]["message"] == "Too many."
    assert raised.value.said["data"][1] == {"error": {"message": "No."}}


def test_a_group_that_failed_without_a_reason_is_an_error_with_a_message() -> None:
    aggregator = ImagesAggregator()
    aggregator.add(of_group("partial_failed", 0, error=None))
    with pytest.raises(UpstreamError) as raised:
        aggregator.result(done=True)
    assert raised.value.said["error"]["message"] == "the upstream made no image, and gave no reason"
    assert raised.value.said["data"] == [{"error": {"error": None}}]


def test_a_last_event_without_an_image_is_no_answer() -> None:
    aggregator = ImagesAggregator()
    aggregator.add({"type": "image_generation.completed", "created_at": 7})
    with pytest.raises(EmptyStream):
        aggregator.result()


@pytest.mark.parametrize(
    ("known", "said", "event"),
    [
        (True, COMPLETED, ""),
        (True, {"b64_json": "aa"}, "image_edit.completed"),
        (True, {"type": "image_generation.queued"}, ""),
        (True, {"data": [{"url": "u"}]}, ""),
        (False, {"message": "Internal server error"}, ""),
        (False, {"type": "internal_error", "message": "no"}, ""),
    ],
)
def test_it_knows_its_own_events(known: bool, said: dict[str, Any], event: str) -> None:
    assert ImagesAggregator().knows(said, event) is known
