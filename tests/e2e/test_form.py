"""Requests that are forms with files: the edit of their bytes, and the endpoints that take them, end to end."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from email import message_from_bytes, policy
from email.message import Message
from pathlib import Path
from typing import Any, cast

import pytest
from force_stream.wire.form_body import LONGEST_VALUE, Form, read_form
from force_stream.wire.json_body import undo
from harness import Certs, Http1Client, Proxy, Upstream, document, event_stream, openai_client, sse
from harness.paths import ADDON, GOLDEN
from hypothesis import given
from hypothesis import strategies as st

OPTIONS = {"include_usage": True}

# name, what stands behind it in the Content-Disposition line, value
type Field = tuple[str, bytes, bytes]


def field(name: str, value: bytes | str, extra: bytes = b"") -> Field:
    return name, extra, value.encode() if isinstance(value, str) else value


def file(name: str, value: bytes, filename: str = "a.wav") -> Field:
    return name, b'; filename="%s"\r\nContent-Type: audio/wav' % filename.encode(), value


def form(*fields: Field, boundary: str = "b", end: bytes = b"\r\n") -> bytes:
    mark = b"--" + boundary.encode()
    parts = [
        mark + b'\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + extra + b"\r\n\r\n" + value
        for name, extra, value in fields
    ]
    return b"\r\n".join([*parts, mark + b"--"]) + end


def content_type(boundary: str = "b", quoted: bool = False) -> str:
    return f'multipart/form-data; boundary="{boundary}"' if quoted else f"multipart/form-data; boundary={boundary}"


def read(raw: bytes, boundary: str = "b") -> Form:
    found = read_form(raw, content_type(boundary))
    assert found is not None
    return found


def fields_of(raw: bytes, kind: str) -> list[tuple[str | None, str | None, bytes]]:
    """Name, file name and value of every part, as Python's own reader of MIME has them."""
    message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw, policy=policy.HTTP)
    parts = cast("list[Message]", message.get_payload())
    return [
        (
            cast("str | None", part.get_param("name", header="content-disposition")),
            part.get_filename(),
            cast("bytes", part.get_payload(decode=True)),
        )
        for part in parts
    ]


# ---- tables

MODEL, AUDIO = field("model", "gpt-4o-transcribe"), file("file", b"RIFF\r\n--\r\n\x00\xff--b-\r\n")
FORCED = {
    "stream is added behind the last field": (form(MODEL, AUDIO), form(MODEL, AUDIO, field("stream", "true"))),
    "false becomes true where it stands": (
        form(MODEL, field("stream", "false"), AUDIO),
        form(MODEL, field("stream", "true"), AUDIO),
    ),
    "an empty stream becomes true": (form(MODEL, field("stream", "")), form(MODEL, field("stream", "true"))),
    "true stays": (form(MODEL, field("stream", "true")), form(MODEL, field("stream", "true"))),
    "each of several streams": (
        form(field("stream", "0"), MODEL, field("stream", "False")),
        form(field("stream", "true"), MODEL, field("stream", "true")),
    ),
    "a file named stream is a file": (
        form(MODEL, file("stream", b"data")),
        form(MODEL, file("stream", b"data"), field("stream", "true")),
    ),
    "headers of a field stay": (
        form(field("stream", "false", b"\r\nContent-Type: text/plain; charset=utf-8")),
        form(field("stream", "true", b"\r\nContent-Type: text/plain; charset=utf-8")),
    ),
    "names that only look alike stay": (
        form(field("stream_options", "false"), field("xstream", "false")),
        form(field("stream_options", "false"), field("xstream", "false"), field("stream", "true")),
    ),
    "what looks like a field inside a file stays": (
        form(file("file", form(field("stream", "false"), boundary="c"))),
        form(file("file", form(field("stream", "false"), boundary="c")), field("stream", "true")),
    ),
    "no line end at the end": (form(MODEL, end=b""), form(MODEL, field("stream", "true"), end=b"")),
    "an epilogue stays": (form(MODEL, end=b"\r\nbye"), form(MODEL, field("stream", "true"), end=b"\r\nbye")),
}


@pytest.mark.parametrize("case", FORCED)
def test_a_form_is_made_to_stream(case: str) -> None:
    before, after = FORCED[case]
    edited = read(before).forced(OPTIONS)
    assert edited.body == after
    assert undo(edited.body, edited.undo) == before


ASKS_PLAIN = {"": True, "false": True, "False": True, " FALSE ": True, "0": True, "null": True, "None": True} | {
    "true": False,
    "True": False,
    "1": False,
    "yes": False,
}


@pytest.mark.parametrize("value", ASKS_PLAIN)
def test_a_forms_stream_says_yes_or_no_in_words(value: str) -> None:
    assert read(form(MODEL, field("stream", value))).asks_plain is ASKS_PLAIN[value]


def test_a_form_without_stream_asks_for_a_plain_answer() -> None:
    assert read(form(MODEL, AUDIO)).asks_plain
    assert read(form(MODEL, file("stream", b"true"))).asks_plain


def test_members_are_the_short_fields_and_of_equal_names_the_last() -> None:
    long = field("prompt", "x" * (LONGEST_VALUE + 1))
    found = read(form(MODEL, AUDIO, long, field("n", "1"), field("n", "2"), field("Grüße", "wörld\r\n!")))
    assert found.members == {"model": "gpt-4o-transcribe", "n": "2", "Grüße": "wörld\r\n!"}


SPELLED_OTHERWISE = {
    "names in capitals": b'--b\r\nCONTENT-DISPOSITION: form-data; NAME="model"\r\n\r\nm\r\n--b--\r\n',
    "the name behind another parameter": b'--b\r\nContent-Disposition: form-data; x=1; name="model"\r\n\r\nm\r\n--b--',
    "the disposition behind another header": (
        b'--b\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--'
    ),
    "no blank before the name": b'--b\r\nContent-Disposition:form-data;name="model"\r\n\r\nm\r\n--b--',
    "blanks behind the boundary": b'--b  \r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--',
    "a part without a name": form(MODEL)[:-7] + b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
}


@pytest.mark.parametrize("case", SPELLED_OTHERWISE)
def test_a_form_may_be_spelled_otherwise(case: str) -> None:
    raw = SPELLED_OTHERWISE[case]
    found = read(raw)
    assert found.members.keys() == {"model"}
    edited = found.forced(None)
    assert ("stream", None, b"true") in fields_of(edited.body, content_type())
    assert undo(edited.body, edited.undo) == raw


NO_FORMS = {
    "JSON": (b'{"model":"m"}', "application/json"),
    "a form in a URL's spelling": (b"model=m", "application/x-www-form-urlencoded"),
    "another multipart": (form(MODEL), "multipart/mixed; boundary=b"),
    "no boundary": (form(MODEL), "multipart/form-data"),
    "an empty boundary": (form(MODEL), 'multipart/form-data; boundary=""'),
    "another boundary": (form(MODEL), content_type("c")),
    "a boundary beyond ASCII": (form(MODEL, boundary="b"), content_type("bü")),
    "nothing": (b"", content_type()),
    "no part": (b"--b--\r\n", content_type()),
    "no end": (form(MODEL)[:-6], content_type()),
    "a part without a blank line": (b'--b\r\nContent-Disposition: form-data; name="a"\r\n--b--', content_type()),
    "line feeds alone": (form(MODEL).replace(b"\r\n", b"\n"), content_type()),
    "parts without names": (b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--", content_type()),
}


@pytest.mark.parametrize("case", NO_FORMS)
def test_what_is_no_form_is_left_alone(case: str) -> None:
    raw, kind = NO_FORMS[case]
    assert read_form(raw, kind) is None


# ---- laws

BOUNDARIES = st.text("abcXYZ0123456789'()+_./:=?-", min_size=1, max_size=30).filter(lambda text: text[-1] != "-")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n\\'), min_size=1, max_size=8)
# Bytes that a reader could take for structure.
BINARY = st.lists(st.sampled_from([b"\r\n", b"--", b"-", b"\r", b"\n", b"\x00", b"\xff", b'"', b"name=", b"a"])).map(
    b"".join
)
FIELDS = st.one_of(
    st.builds(field, NAMES, st.binary(max_size=20) | BINARY),
    st.builds(field, st.just("stream"), st.sampled_from(["true", "false", "", "1"])),
    st.builds(file, NAMES, BINARY),
)


def has_boundary(fields: list[Field], boundary: str) -> bool:
    return any(b"--" + boundary.encode() in b"\r\n" + value for _, _, value in fields)


@given(st.lists(FIELDS, min_size=1, max_size=6), BOUNDARIES, st.booleans())
def test_a_forced_form_is_the_same_form_and_streams(fields: list[Field], boundary: str, add_stream: bool) -> None:
    fields = [each for each in fields if not has_boundary([each], boundary)] or [field("model", "m")]
    if has_boundary(fields, boundary):
        fields = [field("model", "")]
    raw = form(*fields, boundary=boundary)
    kind = content_type(boundary, quoted=True)
    found = read_form(raw, kind)
    assert found is not None
    edited = found.forced(OPTIONS if add_stream else None)
    assert undo(edited.body, edited.undo) == raw
    said = [(name, b"true") if is_stream((name, extra, value)) else (name, value) for name, extra, value in fields]
    wanted = said if any(map(is_stream, fields)) else [*said, ("stream", b"true")]
    assert parts_of(edited.body, boundary) == wanted
    assert not read_form(edited.body, kind).asks_plain  # type: ignore[union-attr]


def is_stream(one: Field) -> bool:
    return one[0] == "stream" and b"filename" not in one[1]


def parts_of(raw: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """Names and values: RFC 7578 read with nothing but `split`; Python's reader would take other line ends for ends."""
    inner = (b"\r\n" + raw).split(b"\r\n--" + boundary.encode())
    assert inner[0] == b""
    assert inner[-1].startswith(b"--")
    heads = [part.split(b"\r\n\r\n", 1) for part in inner[1:-1]]
    return [(head.split(b'name="', 1)[1].split(b'"', 1)[0].decode(), value) for head, value in heads]


@given(
    st.lists(
        st.builds(field, st.sampled_from(["model", "prompt", "stream"]), st.text("ab -=é", max_size=9)), min_size=1
    )
)
def test_pythons_own_reader_reads_a_forced_form(fields: list[Field]) -> None:
    raw = form(*fields, boundary="5f2e")
    edited = read(raw, "5f2e").forced(None)
    before = fields_of(raw, content_type("5f2e"))
    after = fields_of(edited.body, content_type("5f2e"))
    kept = [part for part in before if part[0] != "stream"]
    assert [part for part in after if part[0] != "stream"] == kept
    assert {value for name, _, value in after if name == "stream"} == {b"true"}


@given(
    st.binary(max_size=200)
    | BINARY
    | st.lists(
        st.sampled_from([b"--b", b"\r\n", b"--", b'Content-Disposition: form-data; name="stream"', b"false", b"\xff"])
    ).map(b"".join),
    st.text(max_size=40) | st.just(content_type()),
)
def test_no_bytes_raise_and_every_edit_can_be_undone(raw: bytes, kind: str) -> None:
    for given_type in (kind, content_type(), "multipart/form-data;" + kind):
        found = read_form(raw, given_type)
        if found is not None:
            edited = found.forced(None)
            assert undo(edited.body, edited.undo) == raw
            assert found.without("stream").body == raw


# ---- end to end

RULES = 'rules: [{name: forms, hosts: ["127.0.0.1"], force_upstream_stream: true}]\n'
WAV = b"RIFF$\x00\x00\x00WAVEfmt \r\n--\r\n\r\n\xff\xfe" * 300
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR--\r\n" * 20
USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59} | {
    "input_token_details": {"text_tokens": 0, "audio_tokens": 14}
}
TRANSCRIPT = sse(
    {"type": "transcript.text.delta", "delta": "I see"},
    {"type": "transcript.text.delta", "delta": " skies"},
    {"type": "transcript.text.done", "text": "I see skies", "usage": USAGE},
)
SEGMENT = {"type": "transcript.text.segment", "id": "seg_0", "start": 0.0, "end": 1.3, "text": " Hi.", "speaker": "A"}
DIARIZED = sse(SEGMENT, {"type": "transcript.text.done", "text": "Hi.", "usage": USAGE})
IMAGE_USAGE = {"total_tokens": 100, "input_tokens": 50, "output_tokens": 50} | {
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}
}


def image(kind: str, data: bytes, **members: Any) -> dict[str, Any]:
    return {"type": kind, "b64_json": base64.b64encode(data).decode(), "created_at": 1760000000} | members


def images(kind: str) -> bytes:
    return sse(
        image(f"{kind}.partial_image", b"preview", partial_image_index=0),
        image(f"{kind}.completed", b"one", size="1024x1024", usage=IMAGE_USAGE),
        image(f"{kind}.completed", b"two", size="1024x1024", usage=IMAGE_USAGE),
    )


@pytest.fixture(scope="session")
def rules_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], upstream: Upstream, rules_file: Path) -> Proxy:
    options = {"force_stream_rules": rules_file, "connection_strategy": "lazy"}
    return shared_proxy(f"reverse:{upstream.url()}", scripts=[ADDON], options=options)


def sent_form(upstream: Upstream) -> dict[str | None, tuple[str | None, bytes]]:
    """The parts of the one form that the upstream got, by name; each name is there once."""
    request = upstream.wait_request()
    assert request.header("content-length") == str(len(request.body))
    parts = fields_of(request.body, request.header("content-type") or "")
    assert len({name for name, _, _ in parts}) == len(parts)
    return {name: (filename, value) for name, filename, value in parts}


def test_openais_client_gets_a_transcription(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(TRANSCRIPT, size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", WAV), language="en")
    assert result.to_dict() == {"text": "I see skies", "usage": USAGE}
    assert sent_form(upstream) == {
        "model": (None, b"gpt-4o-transcribe"),
        "language": (None, b"en"),
        "file": ("a.wav", WAV),
        "stream": (None, b"true"),
    }
    assert upstream.wait_request().header("accept") == "text/event-stream"


def test_openais_client_gets_a_diarized_transcription(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(DIARIZED, size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(
            model="gpt-4o-transcribe-diarize",
            file=("a.wav", WAV),
            response_format="diarized_json",
            chunking_strategy="auto",
        )
    assert result.text == "Hi."
    assert [segment.to_dict() for segment in result.segments] == [SEGMENT]


def test_a_transcription_that_cannot_be_streamed_goes_out_as_it_came(
    proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    upstream.answer(document({"text": "I see", "words": [{"word": "I", "start": 0.0, "end": 0.1}]}))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", WAV), response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert result.text == "I see"
    assert "stream" not in sent_form(upstream)


def test_an_upstream_that_ignores_the_field_is_passed_on(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document({"text": "I see"}))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV))
    assert result.to_dict() == {"text": "I see"}
    assert sent_form(upstream)["stream"] == (None, b"true")


def test_a_client_that_streams_a_transcription_gets_its_events(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(TRANSCRIPT, size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        events = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", WAV), stream=True)
        assert [event.type for event in events] == [
            "transcript.text.delta",
            "transcript.text.delta",
            "transcript.text.done",
        ]
    assert sent_form(upstream)["stream"] == (None, b"true")


def test_openais_client_gets_images(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(images("image_generation"), size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.images.generate(model="gpt-image-1", prompt="A cat", n=2)
    assert [base64.b64decode(each.b64_json or "") for each in result.data or []] == [b"one", b"two"]
    assert result.created == 1760000000
    assert result.usage is not None
    assert result.usage.to_dict() == IMAGE_USAGE
    asked = upstream.wait_request().json()
    assert asked == {"stream": True, "model": "gpt-image-1", "prompt": "A cat", "n": 2}, "previews are never asked for"


def test_openais_client_gets_edited_images(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(event_stream(images("image_edit"), size=10))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        result = client.images.edit(model="gpt-image-1", image=("a.png", PNG), prompt="A hat", n=2)
    assert [base64.b64decode(each.b64_json or "") for each in result.data or []] == [b"one", b"two"]
    assert sent_form(upstream) == {
        "model": (None, b"gpt-image-1"),
        "prompt": (None, b"A hat"),
        "n": (None, b"2"),
        "image": ("a.png", PNG),
        "stream": (None, b"true"),
    }


def test_one_of_two_images_is_no_answer(proxy: Proxy, upstream: Upstream) -> None:
    stream = images("image_generation")
    first = b"".join(re.split(rb"(?<=\n\n)", stream)[:2])
    upstream.answer(event_stream(first))
    with Http1Client(proxy.url) as client:
        response = client.post("/v1/images/generations", {"model": "m", "prompt": "A cat", "n": 2})
    assert (response.status, response.json()["error"]["code"]) == (502, "stream_truncated")


MESSAGES = {
    name: (GOLDEN / "messages" / f"{name}.sse", GOLDEN / "messages" / f"{name}.json")
    for name in (
        "thinking_and_its_signature_are_kept",
        "tool_input_is_joined",
        "server_tools_and_their_results_are_kept",
        "events_after_message_stop_are_ignored",
        "stop_reason_without_message_stop_is_an_end",
    )
}


def ask_message(proxy: Proxy, **members: Any) -> tuple[int | None, Mapping[str, Any]]:
    headers = [("Content-Type", "application/json"), ("x-api-key", "sk-test"), ("anthropic-version", "2023-06-01")]
    body = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]} | members
    with Http1Client(proxy.url) as client:
        response = client.request("POST", "/v1/messages", headers, json.dumps(body).encode())
        assert response.header("content-type") == "application/json"
        return response.status, response.json()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_comes_as_one_document(proxy: Proxy, upstream: Upstream, name: str) -> None:
    stream, expected = MESSAGES[name]
    upstream.answer(event_stream(stream.read_bytes(), size=10))
    assert ask_message(proxy) == (200, json.loads(expected.read_text(encoding="utf-8")))
    seen = upstream.wait_request()
    asked = {"stream": True, "model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
    assert seen.json() == asked, "this API has no stream_options"
    assert seen.header("x-api-key") == "sk-test"


def test_an_overloaded_error_inside_a_message_is_its_status(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream((GOLDEN / "broken" / "messages_overloaded_error_is_529.sse").read_bytes()))
    status, said = ask_message(proxy)
    assert status == 529
    assert said["error"] == {"type": "overloaded_error", "message": "Overloaded"}


def test_counting_a_messages_tokens_is_left_alone(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document({"input_tokens": 9}))
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with Http1Client(proxy.url) as client:
        response = client.post("/v1/messages/count_tokens", body)
    assert response.json() == {"input_tokens": 9}
    assert upstream.wait_request().json() == body
