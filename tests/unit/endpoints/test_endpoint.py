"""The row of an API: what is the same for all of them."""

from typing import Any

from force_stream.endpoints.chat import ChatAggregator
from force_stream.endpoints.endpoint import Asked, Endpoint

WANTED = {"include_usage": True, "x": 1}


def no_events(document: Any, asked: Asked) -> None:
    """The other direction of an API that has no documents."""


def test_a_row_without_restrictions_streams_everything() -> None:
    endpoint = Endpoint("new", ("/new",), ChatAggregator, no_events)
    assert endpoint.cannot_stream({"model": "m"}) is None
    assert endpoint.options_for(WANTED) == WANTED


def test_only_the_listed_options_are_taken_and_none_stay_none() -> None:
    endpoint = Endpoint("new", ("/new",), ChatAggregator, no_events, stream_options=frozenset(("x",)))
    assert endpoint.options_for(WANTED) == {"x": 1}
    assert endpoint.options_for(None) is None
