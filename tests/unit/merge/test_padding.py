"""Padding: it is in no result, and whatever differs in it means nothing."""

import pytest
from force_stream.merge.fields import SAME, Padding, fields
from force_stream.merge.padding import PADDING, PADDING_RULES, created, padding_in
from harness.merging import merged


@pytest.mark.parametrize("name", sorted(PADDING))
def test_padding_is_in_no_result_and_may_differ(name: str) -> None:
    rule = fields(PADDING_RULES)
    assert merged(rule, [{name: "xx", "text": "a"}, {name: "y"}]) == {"text": "a"}
    slots = rule().add({name: "xx"})
    assert isinstance(slots, tuple)
    assert [(key, type(target)) for key, target in slots] == [(name, Padding)]


def test_the_first_time_counts_and_later_ones_may_differ() -> None:
    assert merged(created, [0, None, 7, 8]) == 7
    assert merged(created, [0, None]) == 0
    accumulator = created()
    assert [accumulator.add(value) for value in (0, 7)] == [SAME, SAME]
    assert isinstance(accumulator.add(8), Padding)


def test_padding_is_found_in_a_chunk_that_is_not_merged() -> None:
    assert {key for key, _ in padding_in({"p": "x", "delta": "y", "sequence_number": 3})} == {"p", "sequence_number"}
