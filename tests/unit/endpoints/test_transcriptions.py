"""Transcriptions: what ends them, in each dialect."""

from typing import Any

import pytest
from force_stream.endpoints.transcriptions import TranscriptionsAggregator
from force_stream.errors import IncompleteStream, StreamError
from force_stream.merge.fields import SAME

DELTA = {"type": "transcript.text.delta", "delta": "a"}


def test_it_ends_with_its_last_event_whose_text_counts() -> None:
    aggregator = TranscriptionsAggregator()
    assert [name for name, _ in aggregator.add(DELTA) or ()] == ["delta"], "another delta need not be parsed"
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


def chunk(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"object": "transcription.chunk", "choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}


def test_a_finish_reason_is_that_of_a_part_and_does_not_end_the_stream() -> None:
    aggregator = TranscriptionsAggregator()
    for text, reason in [("a", None), ("", "stop"), ("b", None), ("c", "stop")]:
        aggregator.add(chunk(text, reason))
        assert not aggregator.finished
    aggregator.add({"choices": [], "usage": {"total_tokens": 1}})
    assert not aggregator.ended
    assert aggregator.result().document == {"text": "abc", "usage": {"total_tokens": 1}}
    assert aggregator.result().finish_reasons == ("stop",)


def test_plain_texts_are_a_transcription_that_ends_with_its_body() -> None:
    aggregator = TranscriptionsAggregator()
    assert aggregator.add_text(" Hello")
    assert aggregator.add_text(" there")
    assert aggregator.ends_with_body
    assert not aggregator.finished
    with pytest.raises(IncompleteStream):
        aggregator.result()
    assert aggregator.result(done=True).document == {"text": " Hello there"}
    assert aggregator.result(partial=True).document == {"text": " Hello there"}


@pytest.mark.parametrize("before", [DELTA, chunk("a"), {"type": "transcript.text.segment", "text": "a"}, {"text": "a"}])
def test_plain_text_among_events_is_not_its_text(before: dict[str, Any]) -> None:
    aggregator = TranscriptionsAggregator()
    aggregator.add(before)
    assert not aggregator.add_text("b")
    assert not aggregator.ends_with_body


def test_plain_text_before_the_first_event_is_a_notice() -> None:
    aggregator = TranscriptionsAggregator()
    aggregator.add_text("please wait")
    aggregator.add(chunk("a", "stop"))
    assert not aggregator.ends_with_body
    assert aggregator.result().document == {"text": "a"}
    assert aggregator.result().odd == ("text before the first event",)


@pytest.mark.parametrize("how", [{"done": True}, {"partial": True}, {}])
def test_nothing_is_never_an_empty_text(how: dict[str, bool]) -> None:
    with pytest.raises(StreamError):
        TranscriptionsAggregator().result(**how)


@pytest.mark.parametrize(
    ("known", "said", "event"),
    [
        (True, DELTA, ""),
        (True, {"type": "transcription.language", "audio_language": "en"}, ""),
        (True, {"delta": "a"}, "transcript.text.delta"),
        (True, chunk("a"), ""),
        (True, {"usage": {"total_tokens": 1}}, ""),
        (True, {"text": "a"}, ""),
        (True, {"type": "ping"}, ""),
        (False, {"message": "Internal server error"}, ""),
        (False, {"detail": "no"}, ""),
        (False, {"type": "internal_error", "message": "no"}, ""),
    ],
)
def test_it_knows_its_own_events(known: bool, said: dict[str, Any], event: str) -> None:
    assert TranscriptionsAggregator().knows(said, event) is known
