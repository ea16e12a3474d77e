"""Images: how many have to be complete."""

import pytest
from force_stream.endpoints.images import ImagesAggregator
from force_stream.errors import IncompleteStream
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
