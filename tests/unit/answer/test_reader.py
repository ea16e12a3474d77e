"""What a body is, and which reply it becomes: the cases beside the golden ones."""

import json
from typing import Any

import pytest
from force_stream import aggregate
from force_stream.answer.forcing import Refusal, force_request
from force_stream.answer.quirks import QUIRKS
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from force_stream.wire.form_body import read_form


def finish(*pieces: bytes, status: int = 200, content_type: str = "text/event-stream") -> Any:
    answer = AnswerSpec(rule="r", endpoint="chat").read(status, content_type)
    for piece in pieces:
        answer.feed(piece)
    return answer.finish()


def chunk(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


@pytest.mark.parametrize("body", [b"null", b'"ok"', b"true", b"12.50"])
def test_json_that_is_no_object_is_passed_on(body: bytes) -> None:
    assert finish(body, content_type="application/json") is None


@pytest.mark.parametrize("split", [1, 2, 3, 4])
def test_a_byte_order_mark_may_come_in_pieces(split: int) -> None:
    body = b'\xef\xbb\xbf{"a":1}'
    assert finish(body[:split], body[split:], content_type="application/json") is None


def test_an_error_page_with_a_line_like_a_field_is_passed_on() -> None:
    assert finish(b"Overloaded, come later.\nid: 77\n", status=503, content_type="text/plain") is None


@pytest.mark.parametrize("content", [1, [], {}, True, None, "x"])
@pytest.mark.parametrize("quirk", sorted(QUIRKS))
def test_no_quirk_raises_over_a_value_of_another_type(quirk: str, content: object) -> None:
    answer = AnswerSpec(rule="r", endpoint="chat", quirks=(quirk,)).read(200, "text/event-stream")
    for delta in ({"content": "<think>a</think>b", "reasoning_content": content}, {"content": content}, content):
        answer.feed(chunk(delta=delta))
        answer.feed(chunk(delta=delta, finish_reason="stop"))
    assert answer.finish().status == 200


def test_a_delta_that_is_a_text_is_the_content() -> None:
    reply = aggregate(chunk(delta="Hel") + chunk(delta="lo", finish_reason="stop"))
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == "Hello"


def test_indexes_spelled_as_floats_are_indexes() -> None:
    stream = b"".join(chunk(index=float(n), delta={"content": "AB"[n]}, finish_reason="stop") for n in (1, 0))
    choices = json.loads(aggregate(stream).body)["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "A"), (1, "B")]


@pytest.mark.parametrize("later", ["error", "tool_calls", "stop"])
@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_length_and_content_filter_are_never_overruled(reason: str, later: str) -> None:
    stream = chunk(delta={"content": "a"}, finish_reason=reason) + chunk(delta={}, finish_reason=later)
    assert json.loads(aggregate(stream).body)["choices"][0]["finish_reason"] == reason


def test_a_status_beside_the_error_counts() -> None:
    stream = b'data: {"error":{"message":"slow down"},"status_code":429}\n\n'
    assert aggregate(stream).status == 429


def test_a_form_is_forced_only_where_forms_are_asked() -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    form = read_form(body, "multipart/form-data; boundary=b")
    assert form is not None
    settings: dict[str, Any] = {"rule": "r", "stream_options": None, "on_truncated": "error", "quirks": ()}
    with pytest.raises(Refusal, match="form"):
        force_request(form, ENDPOINTS["chat"], "/v1/chat/completions", **settings)
    spec, _ = force_request(form, ENDPOINTS["transcriptions"], "/v1/audio/transcriptions", **settings)
    assert spec is not None


def test_asking_whether_all_is_finished_costs_the_same_with_any_number_of_choices() -> None:
    answer = AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")
    for number in range(3_000):
        answer.feed(chunk(index=number, delta={"content": "x"}))
        assert not answer.finished
