"""The effect of adding a value tells the truth: where it is SAME, adding the value once more changes nothing."""

from copy import deepcopy
from typing import Any

import pytest
from force_stream.answer.events import EventReader, Kind
from force_stream.endpoints import ENDPOINTS
from force_stream.errors import StreamError
from force_stream.merge.fields import (
    CHANGED,
    SAME,
    Accumulator,
    Concat,
    Effect,
    Extend,
    JsonText,
    Last,
    Padding,
    Rule,
    by_index,
    concat,
    extend,
    fields,
    first,
    fragment,
    label,
    latest,
    name,
    nothing,
    of_first,
    overlay,
    padding,
)
from force_stream.merge.tool_calls import Arguments, tool_calls
from harness.golden import CASES, Case
from harness.merging import JSON
from hypothesis import given
from hypothesis import strategies as st

RULES: dict[str, Rule] = {
    "first": first,
    "latest": latest,
    "label": label,
    "overlay": overlay,
    "concat": concat,
    "name": name,
    "extend": extend,
    "fragment": fragment,
    "nothing": nothing,
    "padding": padding,
    "of first": of_first,
    "arguments": Arguments,
    "JSON text": JsonText,
    "tool calls": tool_calls,
    "fields": fields({"id": first, "text": concat, "list": extend, "x": name, "p": padding}),
    "by index": by_index(fields({"id": first, "text": concat})),
}
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(0, 1),
        "id": st.sampled_from(["", "a", "b"]),
        "function": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["", "f", "g"]),
                "arguments": st.sampled_from(["", "{}", '{"a":', "1}"]) | JSON,
            },
        ),
    },
)
VALUES = JSON | st.lists(ENTRY, max_size=2)


def added(rule: Rule, said: list[Any]) -> tuple[Accumulator, Effect]:
    accumulator, effect = rule(), CHANGED
    for value in said:
        effect = accumulator.add(deepcopy(value))
    return accumulator, effect


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@given(before=st.lists(VALUES, max_size=4), value=VALUES, after=st.lists(VALUES, max_size=3))
def test_an_effect_is_all_that_a_repeat_changes(rule: Rule, before: list[Any], value: Any, after: list[Any]) -> None:
    repeated, effect = added(rule, [*before, value])
    if effect == SAME:
        once, _ = added(rule, [*before, value, *after])
        twice, _ = added(rule, [*before, value, value, *after])
        assert once.result() == twice.result()
    elif isinstance(effect, Concat | Extend | Padding):
        effect.add(value)
        assert repeated.result() == added(rule, [*before, value, value])[0].result()


LABELS = st.text(min_size=1, max_size=3) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(before=st.lists(VALUES | LABELS, max_size=4), value=LABELS, between=st.lists(LABELS), last=LABELS)
def test_where_a_label_may_differ_the_last_one_counts(
    before: list[Any], value: Any, between: list[Any], last: Any
) -> None:
    _, effect = added(label, [*before, value])
    if isinstance(effect, Last):
        all_of_them, _ = added(label, [*before, value, *between, last])
        assert all_of_them.result() == added(label, [*before, value, last])[0].result()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.path.stem) for case in CASES if case.folder in ENDPOINTS])
def test_chunks_without_effect_may_come_twice_in_every_golden_stream(case: Case) -> None:
    reader = EventReader()
    events = [*reader.feed(case.stream), *reader.close()]

    def document(times: int) -> Any:
        aggregator = ENDPOINTS[case.endpoint].aggregator(1)
        for event in events:
            if event.kind is Kind.CHUNK and aggregator.add(deepcopy(event.value), event.name) == SAME:
                for _ in range(times - 1):
                    aggregator.add(deepcopy(event.value), event.name)
        try:
            return aggregator.result(done=True).document
        except StreamError as error:
            return str(error)

    assert document(2) == document(1)
