"""Which flows a list has."""

import dataclasses

import pytest
from force_stream.page.choice import Choice
from force_stream.view.stats import Outcome
from harness.page import OUTCOME

FAILED = dataclasses.replace(OUTCOME, status=429, cause="rate limited by the upstream (429)", model="Other-7B")
ODD = dataclasses.replace(OUTCOME, odd=("no [DONE]",))


@pytest.mark.parametrize(
    ("query", "taken"),
    [
        ({}, {"whole", "failed", "odd"}),
        ({"failed": "1"}, {"failed"}),
        ({"odd": "on"}, {"odd"}),
        ({"failed": "1", "odd": "1"}, {"failed", "odd"}),
        ({"failed": "0", "odd": "false"}, {"whole", "failed", "odd"}),
        ({"model": "other-7b"}, {"failed"}),
        ({"model": " QWEN3 "}, {"whole", "odd"}),
        ({"upstream": "example.com:443"}, {"whole", "failed", "odd"}),
        ({"upstream": "elsewhere"}, set()),
        ({"text": "Rate Limited"}, {"failed"}),
        ({"text": "[done]"}, {"odd"}),
        ({"text": "qwen3", "odd": "1"}, {"odd"}),
        ({"unknown": "1"}, {"whole", "failed", "odd"}),
    ],
)
def test_a_choice_takes_what_it_names(query: dict[str, str], taken: set[str]) -> None:
    outcomes: dict[str, Outcome] = {"whole": OUTCOME, "failed": FAILED, "odd": ODD}
    assert {name for name, outcome in outcomes.items() if Choice.of(query).takes(outcome)} == taken


@pytest.mark.parametrize(
    ("query", "taken"),
    [
        ({}, True),
        ({"failed": "1"}, False),
        ({"odd": "1"}, False),
        ({"model": "QWEN"}, True),
        ({"model": "other"}, False),
        ({"upstream": "llm"}, True),
        ({"text": "private"}, True),
        ({"text": "nowhere"}, False),
    ],
)
def test_one_in_flight_has_not_failed_and_is_not_odd_yet(query: dict[str, str], taken: bool) -> None:
    flow = {"upstream": "llm.example.com:443", "model": "qwen3-8b", "rule": "private-vllm", "events": 3}
    assert Choice.of(query).takes_in_flight(flow) is taken
