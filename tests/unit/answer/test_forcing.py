"""The forced form of a request, and which requests have none."""

import json
from typing import Any

import pytest
from force_stream.answer.forcing import Refusal, at_path, force_request
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from force_stream.wire.form_body import Form, read_form
from force_stream.wire.json_body import Body, read_body

FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'


def body(**members: Any) -> Body:
    made = read_body(json.dumps(members).encode())
    assert isinstance(made, Body)
    return made


def force(made: Body | Form, endpoint: str = "chat", path: str = "/v1/chat/completions", **extra: Any) -> Any:
    settings: dict[str, Any] = {"stream_options": {"include_usage": True}, "on_truncated": "partial"}
    settings |= {"quirks": ["think_tags"], "extra_body": extra, "fill": {"a.*.b": None}}
    return force_request(made, ENDPOINTS[endpoint], path, rule="r", **settings)


def test_a_plain_request_becomes_a_stream_and_its_answer_is_read_by_the_spec() -> None:
    spec, edited = force(body(model="m\n", n=2))
    assert spec == AnswerSpec("r", "chat", r"m\n", 2, "partial", ("think_tags",), '{"a.*.b":null}')
    assert {"stream": True, "stream_options": {"include_usage": True}}.items() <= json.loads(edited.body).items()


def test_a_path_that_never_streams_loses_stream_or_is_left_alone() -> None:
    spec, edited = force(body(stream=False, input="a"), "responses", "/v1/responses/compact")
    assert spec is None
    assert json.loads(edited.body) == {"input": "a"}
    with pytest.raises(Refusal, match="never streams"):
        force(body(input="a"), "responses", "/v1/responses/compact")


def test_what_cannot_be_streamed_is_refused() -> None:
    with pytest.raises(Refusal, match="best_of"):
        force(body(best_of=2), "completions", "/v1/completions")


def test_the_extra_members_override_the_requests_own_and_count_as_asked_for() -> None:
    spec, edited = force(body(model="m", store=True, n=2), store=False, n=3, model="x", thinking={"type": "enabled"})
    assert (spec.model, spec.choices) == ("x", 3)
    assert {"store": False, "n": 3, "thinking": {"type": "enabled"}}.items() <= json.loads(edited.body).items()
    with pytest.raises(Refusal, match="background"):
        force(body(), "responses", "/v1/responses", background=True)


def test_a_path_that_never_streams_gets_no_extra_members() -> None:
    _, edited = force(body(stream=False), "responses", "/v1/responses/compact", store=False)
    assert json.loads(edited.body) == {}


@pytest.mark.parametrize("value", [None, {}, ["a"]])
def test_a_form_that_cannot_have_the_extra_members_is_refused(value: object) -> None:
    form = read_form(FORM, "multipart/form-data; boundary=b")
    assert form is not None
    with pytest.raises(Refusal, match="its body is a form, which cannot have the rule's extra_body x"):
        force(form, "transcriptions", "/v1/audio/transcriptions", x=value)


def test_a_quirk_lifts_the_limit_of_audio_formats() -> None:
    asked = {"modalities": ["text", "audio"], "audio": {"voice": "Cherry", "format": "wav"}}
    with pytest.raises(Refusal, match="wav"):
        force(body(**asked))
    settings: dict[str, Any] = {"stream_options": None, "extra_body": {}, "fill": {}, "on_truncated": "error"}
    quirks = ["streams_any_audio_format"]
    _, edited = force_request(body(**asked), ENDPOINTS["chat"], "/", rule="r", quirks=quirks, **settings)
    assert json.loads(edited.body) == asked | {"stream": True}


def test_a_form_is_forced_only_where_forms_are_asked() -> None:
    form = read_form(FORM, "multipart/form-data; boundary=b")
    assert form is not None
    with pytest.raises(Refusal, match="form"):
        force(form)
    spec, _ = force(form, "transcriptions", "/v1/audio/transcriptions")
    assert spec is not None


def test_a_stream_that_nobody_forced_is_known_by_its_path() -> None:
    assert at_path("/v1/messages") == AnswerSpec("(none)", "messages")
    assert at_path("/v1/models") is None
