"""Transcriptions: the last event ends them."""

import pytest
from force_stream.endpoints.transcriptions import TranscriptionsAggregator
from force_stream.errors import IncompleteStream
from force_stream.merge.fields import CHANGED, SAME

DELTA = {"type": "transcript.text.delta", "delta": "a"}


def test_it_ends_with_its_last_event_whose_text_counts() -> None:
    aggregator = TranscriptionsAggregator()
    assert aggregator.add(DELTA) is CHANGED
    assert not aggregator.finished
    aggregator.add({"type": "transcript.text.done", "text": "whole", "obfuscation": "zz"})
    assert aggregator.ended
    assert aggregator.finished
    assert aggregator.add(DELTA) == SAME, "nothing can follow"
    assert aggregator.result().document == {"text": "whole"}


def test_without_its_last_event_it_is_incomplete_or_partial() -> None:
    aggregator = TranscriptionsAggregator()
    aggregator.add(DELTA)
    aggregator.add(DELTA)
    with pytest.raises(IncompleteStream):
        aggregator.result(done=True)
    assert aggregator.result(partial=True).document == {"text": "aa"}
