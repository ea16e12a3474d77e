"""What holds for every event that may be an error: nothing raises, nothing is lost, the error has its shape."""

from copy import deepcopy
from typing import Any

from force_stream.errors import UpstreamError
from force_stream.errors.events import error_from_words, error_in
from force_stream.errors.words import is_keepalive, says_error, status_in, words_in
from harness.merging import JSON
from hypothesis import given
from hypothesis import strategies as st

# The names that matter somewhere, so that random objects have them.
NAMES = st.sampled_from(
    [
        *(
            "error",
            "errors",
            "message",
            "msg",
            "detail",
            "code",
            "type",
            "status",
            "error_code",
            "error_msg",
            "success",
        ),
        *(
            "base_resp",
            "status_code",
            "status_msg",
            "x_groq",
            "data",
            "fault",
            "choices",
            "delta",
            "response",
            "object",
        ),
        *("error_type", "details", "metadata", "name", "id", "throttlingException", "Response", "Error"),
    ]
)
TEXTS = st.sampled_from(["", "null", "ok", "error", "failed", "429", "1302", "RateLimitError", "HTTP 503", "busy"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 600) | TEXTS | JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
EVENTS = st.dictionaries(NAMES, VALUES, max_size=5)
ENVELOPE = ("choices", "object", "sequence_number", "obfuscation", "error", "type", "message")


def has_shape(body: dict[str, Any]) -> bool:
    error = body["error"]
    is_message = isinstance(error["message"], str) and error["message"]
    return bool(is_message) and error.keys() >= {"type", "param", "code"}


@given(EVENTS, st.sampled_from(["", "error", "response.failed", "message"]))
def test_an_error_has_its_shape_and_loses_nothing(event: dict[str, Any], name: str) -> None:
    before = deepcopy(event)
    body = error_in(event, name)
    assert event == before
    if body is not None:
        assert has_shape(body)
        assert 400 <= UpstreamError(body).status_hint <= 599
        said = {key: value for key, value in event.items() if key not in ENVELOPE and key != body["error"]["type"]}
        assert "response" in body or all(
            value in (body.get(key), body["error"].get(key)) for key, value in said.items()
        )


@given(VALUES)
def test_words_of_any_kind_become_an_error(said: Any) -> None:
    assert isinstance(words_in(said), str)
    if isinstance(said, dict | list | str):
        body = error_from_words(said)
        assert has_shape(body)
        assert words_in(said) in body["error"]["message"]
        assert 400 <= UpstreamError(body).status_hint <= 599


@given(st.text() | TEXTS)
def test_a_text_is_a_failure_or_a_keepalive_and_never_both(text: str) -> None:
    assert not (says_error(text) and is_keepalive(text))
    assert status_in(text) is None or status_in(text) in range(400, 600)


@given(EVENTS, st.text(min_size=1))
def test_what_an_answer_says_is_never_an_error(event: dict[str, Any], text: str) -> None:
    for delta in ({"content": text}, {"content": event}, {"tool_calls": [{"function": {"arguments": text}}]}):
        assert error_in({"id": "c", "choices": [{"index": 0, "delta": delta}]}) is None
