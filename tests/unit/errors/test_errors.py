"""The errors of the addon's own, and an upstream's: their bodies."""

import pytest
from force_stream import errors
from force_stream.errors import StreamError, UpstreamError


def test_an_upstreams_error_is_the_body_and_has_the_status_that_it_names() -> None:
    said = {"error": {"code": 429}, "id": "c"}
    error = UpstreamError(said)
    assert (error.body("Rule r."), error.status_hint) == (said, 429)
    assert UpstreamError({"error": "busy"}).status_hint == 502


@pytest.mark.parametrize("kind", [kind for kind in StreamError.__subclasses__() if kind is not UpstreamError])
def test_an_error_of_the_addons_own_says_what_happened_where_and_what_to_try(kind: type[StreamError]) -> None:
    body = kind("it stopped").body("Rule r.")
    assert body["error"].pop("message") == f"it stopped. Rule r. {kind.advice}"
    assert body == {"error": {"type": errors.ERROR_TYPE, "param": None, "code": kind.code}}
    assert kind.advice.endswith(".")
