"""The other direction: a client that asks for a stream gets events, and its upstream is asked for a plain answer."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from force_stream import aggregate
from force_stream.rules.file import parse_rules
from harness import (
    H2_UPSTREAM,
    Answer,
    Certs,
    Close,
    CutChunk,
    Data,
    End,
    Gate,
    Head,
    Http1Client,
    Http2Client,
    Proxy,
    Request,
    Reset,
    Response,
    Settle,
    ShortLength,
    Upstream,
    WaitFor,
    document,
    event_stream,
    openai_client,
    pieces,
    refused_port,
    sse,
)
from harness.forms import content_type, field, file, form
from harness.golden import parse
from harness.paths import ADDON
from harness.samples import CHAT, COMPLETIONS, EVENTS, RESPONSE, RESPONSE_STREAM, RESPONSES, STREAM, USAGE, request
from harness.steps import Step

RULES = """\
rules:
  - {name: slow, hosts: ["*"], models: [slow], heartbeat: 0.1, force_upstream_plain: true}
  - {name: late, hosts: ["*"], models: [late], timeout: 0.5, force_upstream_plain: true}
  - {name: small, hosts: ["*"], models: [small], max_body: 100, force_upstream_plain: true}
  - {name: twice, hosts: ["*"], models: [twice], retries: 1, force_upstream_plain: true}
  - {name: set, hosts: ["*"], models: [set], extra_body: {temperature: 0.10}, force_upstream_plain: true}
  - {name: fails, hosts: ["*"], models: [fails], inject: {status: 429, retry_after: 7}, force_upstream_plain: true}
  - {name: cuts, hosts: ["*"], models: [cuts], inject: {cut_after: 0}, force_upstream_plain: true}
  - {name: delays, hosts: ["*"], models: [delays], inject: {delay: 0.01}, force_upstream_plain: true}
  - {name: learns-guarded, hosts: ["*"], models: ["learns-guarded*"], learn: true, guard_streams: true}
  - {name: learns, hosts: ["*"], models: ["learns*"], learn: true}
  - {name: learns-too, hosts: ["*"], models: ["forced-learns*"], learn: true, force_upstream_stream: true}
  - {name: learns-back, hosts: ["*"], models: ["plain-learns*"], learn: true, force_upstream_plain: true}
  - {name: forced, hosts: ["*"], models: ["forced*"], max_body: 2KiB, force_upstream_stream: true}
  - {name: watched, hosts: ["*"], models: [watched]}
  - {name: plain, hosts: ["*"], force_upstream_plain: true}
"""
CALLS = [
    {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": '{"city": "Graz", "days": 3}'}}
    for name in ("weather", "news")
]
MESSAGE = {"role": "assistant", "content": "Grüße aus Graz, der Stadt an der Mur", "refusal": None}
ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"},
        {
            "index": 1,
            "message": {"role": "assistant", "content": None, "reasoning_content": "Hm", "tool_calls": CALLS},
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
    ],
    "usage": USAGE,
}
ERROR = {"error": {"message": "Too many", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
PLAIN = [("Content-Type", "application/json")]
LABELS = ["application/json", "application/json; charset=utf-8", "text/event-stream2", "text/plain", None]
REVERSE, REVERSE_H2, NOWHERE = range(3)
CLIENTS = [pytest.param(Http1Client, id="h1-client"), pytest.param(Http2Client, id="h2-client")]
UPSTREAMS = [pytest.param(REVERSE, id="h1-upstream"), pytest.param(REVERSE_H2, id="h2-upstream")]


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], session_upstream: Upstream, shared_rules: Callable[[str], Any]) -> Proxy:
    modes = [f"reverse:{session_upstream.url(listener)}" for listener in ("http", "h2")]
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    nowhere = f"reverse:http://127.0.0.1:{refused_port()}"
    return shared_proxy(*modes, nowhere, scripts=[ADDON, H2_UPSTREAM], options=options, remote=True)


def ask(
    proxy: Proxy,
    body: Any,
    *,
    certs: Certs | None = None,
    mode: int = REVERSE,
    path: str = CHAT,
    client_class: Callable[..., Any] = Http1Client,
) -> Response:
    url = proxy.urls[mode].replace("http:", "https:") if client_class is Http2Client else proxy.urls[mode]
    with client_class(url, certs) as client:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return client.request("POST", path, [*PLAIN, ("Content-Length", str(len(raw)))], raw)


def streaming(model: str = "m", **members: Any) -> dict[str, Any]:
    return request(model, stream=True, **members)


def error_in(response: Response) -> Any:
    return response.json()["error"]["code"]


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("mode", UPSTREAMS)
def test_the_client_gets_the_events_of_the_plain_answer(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any], mode: int
) -> None:
    upstream.answer_always(document(ANSWER, headers={"x-request-id": "9", "ETag": '"x"'}))
    asked = streaming(n=2, stream_options={"include_usage": True})
    response = ask(proxy, asked, certs=certs, mode=mode, client_class=client_class)
    assert (response.status, response.ended) == (200, "complete")
    assert response.header("content-type") == "text/event-stream"
    assert response.header("content-length") == str(len(response.body))
    assert (response.header("x-request-id"), response.header("etag")) == ("9", None)
    assert response.body.endswith(b"data: [DONE]\n\n")
    assert json.loads(aggregate(response.body).body) == ANSWER
    assert upstream.wait_request().json() == request(n=2)


def test_the_request_loses_its_stream_and_not_a_byte_more(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(ANSWER))
    body = b'{ "model":"m" ,"stream" : true, "x":0.10,"x":1E400,\n"stream_options":{"include_usage":false} }'
    assert ask(proxy, body).status == 200
    seen = upstream.wait_request()
    assert seen.body == b'{ "model":"m" ,"x":0.10,"x":1E400 }'
    assert (seen.header("accept"), seen.header("accept-encoding")) == ("application/json", None)


def test_the_members_of_the_rule_are_in_the_request(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(ANSWER))
    ask(proxy, b'{"stream":true,"model":"set"}')
    assert upstream.wait_request().body == b'{"temperature":0.1,"model":"set"}'


def test_usage_comes_only_if_asked_for(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(ANSWER))
    assert b"usage" not in ask(proxy, streaming()).body


def test_a_client_that_asks_for_a_plain_answer_gets_it_as_it_came(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(ANSWER))
    body = json.dumps(request()).encode()
    assert ask(proxy, body).json() == ANSWER
    assert upstream.wait_request().body == body


def test_legacy_completions_have_their_own_events(proxy: Proxy, upstream: Upstream) -> None:
    choice = {"text": "Hi there", "index": 0, "logprobs": None, "finish_reason": "length"}
    answer = {"id": "c1", "object": "text_completion", "created": 7, "model": "m", "choices": [choice]}
    upstream.answer(document(answer))
    response = ask(proxy, {"model": "m", "prompt": "Say", "stream": True}, path=COMPLETIONS)
    assert json.loads(aggregate(response.body, "completions").body) == answer


MESSAGE_ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"city": "Graz"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
TYPED = {"messages": ("/v1/messages", MESSAGE_ANSWER), "responses": (RESPONSES, RESPONSE)}


@pytest.mark.parametrize("endpoint", TYPED)
def test_the_other_apis_have_their_own_events(proxy: Proxy, upstream: Upstream, endpoint: str) -> None:
    path, answer = TYPED[endpoint]
    upstream.answer(document(answer))
    response = ask(proxy, {"model": "m", "stream": True}, path=path)
    assert response.header("content-type") == "text/event-stream"
    assert response.body.startswith(
        b"event: message_start\n" if endpoint == "messages" else b"event: response.created\n"
    )
    assert json.loads(aggregate(response.body, endpoint).body) == answer
    assert upstream.wait_request().body == b'{"model": "m"}'


@pytest.mark.parametrize(("endpoint", "beat"), [("messages", b"event: ping\n"), ("responses", b": waiting")])
def test_the_other_apis_have_their_own_heartbeats_and_errors(
    proxy: Proxy, upstream: Upstream, certs: Certs, endpoint: str, beat: bytes
) -> None:
    gate = Gate()
    upstream.answer(WaitFor(gate), document(ERROR, status=429))
    asked = {"model": "slow", "stream": True}
    response = beaten(proxy, certs, Http1Client, gate, asked, path=TYPED[endpoint][0])
    assert (response.status, response.ended) == (200, "complete")
    assert response.chunks[0].startswith(beat)
    assert b"event: error\n" in response.body
    assert b"Too many" in response.body
    assert aggregate(response.body, endpoint).status >= 400


def test_a_background_response_is_left_as_it_came(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(event_stream(RESPONSE_STREAM))
    body = b'{"model":"m","background":true,"stream":true}'
    assert ask(proxy, body, path=RESPONSES).body == RESPONSE_STREAM
    assert upstream.wait_request().body == body


WAV = file("file", b"RIFF\r\n--\r\n\x00\xff--b-\r\n")
MODEL, TRUE = field("model", "whisper"), field("stream", "true")
TRANSCRIPT = {"text": "Grüße aus Graz, der Stadt an der Mur", "usage": {"type": "duration", "seconds": 4}}
SEGMENT = {"type": "transcript.text.segment", "id": "s", "start": 0.0, "end": 1.30, "text": "Hi", "speaker": "A"}
DIARIZED = {"task": "transcribe", "text": "Hi", "segments": [SEGMENT]}
IMAGE = {"created": 7, "data": [{"b64_json": "aW1h"}, {"b64_json": "Z2U="}], "size": "1024x1024", "usage": USAGE}
# The path, the answer, the form that the client sends and that the upstream gets, and the types of the events.
FORMS = {
    "a transcription": (
        *("/v1/audio/transcriptions", TRANSCRIPT, form(TRUE, MODEL, WAV), form(MODEL, WAV)),
        ["transcript.text.delta", "transcript.text.delta", "transcript.text.done"],
    ),
    "one with speakers": (
        *("/v1/audio/transcriptions", DIARIZED, form(WAV, TRUE, MODEL), form(WAV, MODEL)),
        ["transcript.text.segment", "transcript.text.done"],
    ),
    "one of vLLM": (
        *("/v1/audio/transcriptions", TRANSCRIPT),
        *(form(MODEL, WAV, TRUE, field("stream_include_usage", "true")), form(MODEL, WAV)),
        [None] * 4,
    ),
    "an edit of an image": (
        *("/v1/images/edits", IMAGE, form(MODEL, field("partial_images", "2"), TRUE, WAV), form(MODEL, WAV)),
        ["image_edit.completed"] * 2,
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_form_loses_its_stream_and_not_a_byte_more(proxy: Proxy, upstream: Upstream, case: str) -> None:
    path, answer, sent, got, kinds = FORMS[case]
    upstream.answer(document(answer))
    with Http1Client(proxy.url) as client:
        length = ("Content-Length", str(len(sent)))
        response = client.request("POST", path, [("Content-Type", content_type()), length], sent)
    assert upstream.wait_request().body == got
    assert response.header("content-type") == "text/event-stream"
    assert [event.get("type") for event in events_in(response.body)] == kinds
    reply = aggregate(response.body, "images" if "images" in path else "transcriptions")
    assert parse(reply.body) == parse(json.dumps(answer))


def events_in(stream: bytes) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def test_images_that_are_made_have_other_events_than_edits(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(IMAGE))
    body = b'{"model":"m","stream":true,"partial_images":2,"prompt":"A cat"}'
    response = ask(proxy, body, path="/v1/images/generations")
    assert upstream.wait_request().body == b'{"model":"m","prompt":"A cat"}'
    assert response.body.startswith(b"event: image_generation.completed\n")
    assert json.loads(aggregate(response.body, "images").body) == IMAGE


def test_openai_python_reads_a_transcription_and_images(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    with openai_client(f"{proxy.url}/v1", certs) as client:
        upstream.answer(document(TRANSCRIPT))
        *deltas, done = client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="whisper", stream=True)
        assert "".join(event.delta for event in deltas) == done.text == TRANSCRIPT["text"]
        upstream.answer(document(IMAGE))
        images = client.images.generate(model="gpt-image-1", prompt="A cat", n=2, stream=True)
        assert [event.b64_json for event in images] == ["aW1h", "Z2U="]


def test_a_compressed_answer_is_read(proxy: Proxy, upstream: Upstream) -> None:
    packed = gzip.compress(json.dumps(ANSWER).encode())
    upstream.answer(Head(content_type="application/json", headers={"Content-Encoding": "gzip"}), Data(packed), End())
    response = ask(proxy, streaming(stream_options={"include_usage": True}))
    assert response.header("content-encoding") is None
    assert json.loads(aggregate(response.body).body) == ANSWER


# openai-python


def test_openai_python_reads_every_part_of_the_answer(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document(ANSWER))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        stream = client.chat.completions.create(**streaming(n=2, stream_options={"include_usage": True}))
        chunks = list(stream)
    said = [choice for chunk in chunks for choice in chunk.choices if choice.index == 0]
    assert "".join(choice.delta.content or "" for choice in said) == MESSAGE["content"]
    assert said[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in said if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage.total_tokens == 5
    calls: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        for call in choice.delta.tool_calls or ():
            calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "")
    assert list(calls.values()) == [call["function"]["arguments"] for call in CALLS]


def test_the_accumulator_of_openai_python_makes_the_answer_again(
    proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    upstream.answer(document(ANSWER))
    asked = request(n=2, stream_options={"include_usage": True})
    with openai_client(f"{proxy.url}/v1", certs) as client, client.chat.completions.stream(**asked) as stream:
        made = stream.get_final_completion()
    first, second = made.choices
    assert (first.message.content, first.finish_reason) == (MESSAGE["content"], "stop")
    assert [call.function.name for call in second.message.tool_calls] == ["weather", "news"]
    assert [call.function.arguments for call in second.message.tool_calls] == [
        call["function"]["arguments"] for call in CALLS
    ]
    assert made.usage.total_tokens == 5


def test_openai_python_reads_a_response(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document(RESPONSE))
    with openai_client(f"{proxy.url}/v1", certs) as client, client.responses.stream(model="m", input="Hi") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        made = stream.get_final_response()
    assert "".join(texts) == made.output_text
    assert made.id == RESPONSE["id"]


def test_openai_python_raises_the_error_of_the_upstream(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document(ERROR, status=429))
    with openai_client(f"{proxy.url}/v1", certs) as client, pytest.raises(openai.RateLimitError, match="Too many"):
        client.chat.completions.create(**streaming())


def test_openai_python_raises_an_error_behind_heartbeats(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer(WaitFor(gate), document(ERROR, status=429))
    with openai_client(f"{proxy.url}/v1", certs) as client:
        stream = client.chat.completions.create(**streaming("slow"))
        gate.open()  # the head is there
        with pytest.raises(openai.APIError, match="Too many"):
            list(stream)


# An upstream that streams all the same


def read_live(client: Http1Client, model: str, first: bytes, begin: Gate, gate: Gate) -> tuple[Response, list[bytes]]:
    """A whole response, and its pieces up to those that `first` comes in, which it does before the gate is open. The
    upstream begins after a heartbeat if the model is slow."""
    client.start("POST", CHAT, PLAIN, json.dumps(streaming(model)).encode())
    came: list[bytes] = []
    try:
        if model != "slow":
            begin.open()
        incoming = client.begin("POST")
        while first not in b"".join(came):
            piece = incoming.read_piece()
            assert piece is not None
            came.append(piece)
            begin.open()
    finally:
        begin.open()
        gate.open()
    while incoming.read_piece() is not None:
        pass
    return incoming.response, came


@pytest.mark.parametrize("model", ["m", "slow"])
def test_an_upstream_that_streams_all_the_same_is_passed_on_live(proxy: Proxy, upstream: Upstream, model: str) -> None:
    begin, gate = Gate(), Gate()
    first, rest = b'data: {"x" :1}\r\n', b"\r\n: odd\n\ndata:  [DONE] "
    upstream.answer(WaitFor(begin), Head(), Data(first), WaitFor(gate), Data(rest), End())
    with Http1Client(proxy.url) as client:
        response, (*beats, _) = read_live(client, model, first, begin, gate)
        upstream.answer(document("next"))
        assert client.post("/next", {}).json() == "next"
    assert (response.status, response.ended) == (200, "complete")
    assert response.header("content-type") == "text/event-stream"
    assert response.body == b"".join(beats) + first + rest
    assert set(beats) == ({b": waiting for the answer\n\n"} if model == "slow" else set())


@pytest.mark.parametrize("label", [*LABELS, "text/event-stream"])
@pytest.mark.parametrize("model", ["m", "slow"])
def test_events_under_another_label_are_passed_on_live_too(
    proxy: Proxy, upstream: Upstream, model: str, label: str | None
) -> None:
    begin, gate = Gate(), Gate()
    first, rest = b": hi\n\n" + STREAM[:50], STREAM[50:]
    # Under its own label, it is known at once unless it has a length.
    head = Head(content_type=label, framing="length" if label == "text/event-stream" else "chunked")
    upstream.answer(WaitFor(begin), head, *pieces(first, 3), WaitFor(gate), Data(rest), End())
    beat = b": waiting for the answer\n\n" if model == "slow" else b""
    with Http1Client(proxy.url) as client:
        response, _ = read_live(client, model, first, begin, gate)
    assert (response.status, response.ended) == (200, "complete")
    assert response.header("content-type").startswith("text/event-stream")
    assert response.body.removeprefix(beat * response.body.count(beat) if beat else b"") == first + rest


@pytest.mark.parametrize("label", ["application/json", "text/plain"])
def test_compressed_events_under_another_label_are_passed_on_as_they_came(
    proxy: Proxy, upstream: Upstream, label: str
) -> None:
    packed = gzip.compress(STREAM)
    upstream.answer(Head(content_type=label, headers={"Content-Encoding": "gzip"}), *pieces(packed, 9), End())
    response = ask(proxy, streaming())
    assert (response.header("content-encoding"), response.header("content-type")) == ("gzip", "text/event-stream")
    assert response.body == packed


def test_an_encoded_stream_behind_heartbeats_is_decoded(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    head = Head(headers={"Content-Encoding": "gzip"})
    upstream.answer(WaitFor(gate), head, Data(gzip.compress(STREAM)), End())
    response = beaten(proxy, certs, Http1Client, gate, streaming("slow"))
    assert json.loads(aggregate(response.body).body)["choices"] == json.loads(aggregate(STREAM).body)["choices"]


# Heartbeats


@pytest.mark.parametrize("client_class", CLIENTS)
def test_heartbeats_are_comments_and_the_events_follow(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any]
) -> None:
    gate = Gate()
    upstream.answer(WaitFor(gate), document(ANSWER))
    response = beaten(proxy, certs, client_class, gate, streaming("slow", stream_options={"include_usage": True}))
    assert (response.status, response.ended) == (200, "complete")
    assert response.header("content-type") == "text/event-stream"
    assert response.chunks[0] == b": waiting for the answer\n\n"
    assert json.loads(aggregate(response.body).body) == ANSWER


@pytest.mark.parametrize("client_class", CLIENTS)
def test_a_failure_behind_heartbeats_is_an_error_event(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any]
) -> None:
    gate = Gate()
    upstream.answer(WaitFor(gate), document(ERROR, status=429))
    response = beaten(proxy, certs, client_class, gate, streaming("slow"))
    assert (response.status, response.ended) == (200, "complete")
    assert response.body.endswith(b"\n\ndata: " + json.dumps(ERROR, separators=(",", ":")).encode() + b"\n\n")
    assert aggregate(response.body).status == 429


def beaten(
    proxy: Proxy, certs: Certs, client_class: Callable[..., Any], gate: Gate, body: Any, path: str = CHAT
) -> Response:
    """An answer whose upstream waits until there has been a heartbeat."""
    raw = json.dumps(body).encode()
    if client_class is Http2Client:
        with Http2Client(proxy.urls[REVERSE].replace("http:", "https:"), certs) as client:
            stream = client.start("POST", path, PLAIN, raw)
            client.receive_some(stream)
            gate.open()
            return client.receive(stream)
    with Http1Client(proxy.url) as client:
        client.start("POST", path, PLAIN, raw)
        incoming = client.begin("POST")
        incoming.read_piece()
        gate.open()
        while incoming.read_piece() is not None:
            pass
        return incoming.response


# Failures

HALF = json.dumps(ANSWER).encode()[:100]
JSON = "application/json"
FAILURES: dict[str, tuple[list[Step | Answer], int, Any]] = {
    "an error": ([document(ERROR, status=429)], 429, "rate_limit_exceeded"),
    "an error with status 200": ([document(ERROR)], 429, "rate_limit_exceeded"),
    "cut within the answer": ([Head(content_type=JSON), Data(HALF), CutChunk()], 502, "stream_truncated"),
    "shorter than its length": (
        [Head(content_type=JSON, framing=ShortLength(10)), Data(HALF), Close()],
        502,
        "stream_truncated",
    ),
    "closed within the answer": (
        [Head(content_type=JSON, framing="close"), Data(HALF), Close()],
        502,
        "stream_truncated",
    ),
    "reset within the answer": ([Head(content_type=JSON), Data(HALF), Settle(), Reset()], 502, "stream_truncated"),
    "reset before the answer": ([Reset()], 502, "upstream_unreachable"),
    "a page": ([Head(content_type="text/html"), Data(b"<html><p>Sign in</p>"), End()], 502, "stream_malformed"),
    "a page labelled as JSON": ([Head(content_type=JSON), Data(b"<html><p>No</p>"), End()], 502, "stream_malformed"),
    "another document": ([document({"hello": "world"})], 502, "stream_malformed"),
    "nothing": ([Head(content_type=JSON), End()], 502, "stream_empty"),
    "what is not gzip": (
        [Head(content_type=JSON, headers={"Content-Encoding": "gzip"}), Data(b"\x80\xff\xfe\x81" * 30), End()],
        502,
        "stream_truncated",
    ),
    "no choices": ([document(ANSWER | {"choices": []})], 502, "stream_empty"),
}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_has_its_status_and_is_json(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any], case: str
) -> None:
    steps, status, code = FAILURES[case]
    upstream.answer(*steps)
    response = ask(proxy, streaming(), certs=certs, client_class=client_class)
    assert (response.status, response.ended) == (status, "complete")
    assert response.header("content-type") == JSON
    assert error_in(response) == code
    assert "on_truncated" not in response.body.decode()
    assert "event stream was empty" not in response.body.decode()


@pytest.mark.parametrize("case", FAILURES)
def test_the_same_failure_behind_heartbeats_is_an_error_event(
    proxy: Proxy, upstream: Upstream, certs: Certs, case: str
) -> None:
    steps, _, code = FAILURES[case]
    gate = Gate()
    upstream.answer(WaitFor(gate), *steps)
    response = beaten(proxy, certs, Http1Client, gate, streaming("slow"))
    assert (response.status, response.ended) == (200, "complete")
    *_, last, empty = response.body.split(b"\n\n")
    assert empty == b""
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code


# How an upstream answers behind heartbeats without an error in JSON, and the message that the client gets.
SILENT: dict[str, tuple[list[Step], str]] = {
    "no content": ([Head(204, content_type=None, framing="length"), End()], "the upstream answered 204 without a body"),
    "reset content": ([Head(205, content_type=None), End()], "the upstream answered 205 without a body"),
    "not modified": ([Head(304, content_type=None, framing="length"), End()], "answered 304 without a body"),
    "an error": ([Head(500, content_type=None), End()], "the upstream answered 500 without a body"),
    "a page": ([Head(502, content_type="text/html"), Data(b"<p>Bad gateway</p>"), End()], "answered 502: Bad gateway"),
}


@pytest.mark.parametrize("case", SILENT)
def test_an_answer_without_an_error_behind_heartbeats_says_its_status(
    proxy: Proxy, upstream: Upstream, certs: Certs, case: str
) -> None:
    steps, message = SILENT[case]
    gate = Gate()
    upstream.answer(WaitFor(gate), *steps)
    response = beaten(proxy, certs, Http1Client, gate, streaming("slow"))
    assert (response.status, response.ended) == (200, "complete")
    assert message in json.loads(aggregate(response.body).body)["error"]["message"]


def test_an_upstream_that_refuses_connections_is_unreachable(proxy: Proxy) -> None:
    response = ask(proxy, streaming(), mode=NOWHERE)
    assert (response.status, error_in(response)) == (502, "upstream_unreachable")


def test_an_answer_that_comes_too_late_is_a_timeout(proxy: Proxy, upstream: Upstream) -> None:
    gate = Gate()
    upstream.answer(Head(content_type=JSON), Data(HALF), WaitFor(gate), End())
    try:
        response = ask(proxy, streaming("late"))
    finally:
        gate.open()
    assert (response.status, error_in(response)) == (504, "stream_timeout")


def test_an_answer_that_is_too_large_is_refused(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(ANSWER))
    response = ask(proxy, streaming("small"))
    assert (response.status, error_in(response)) == (502, "stream_too_large")


def test_an_answer_that_failed_is_tried_again(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document({"error": {"message": "Busy", "code": "busy"}}, status=503, headers={"Retry-After": "0"}))
    upstream.answer(document(ANSWER))
    response = ask(proxy, streaming("twice", stream_options={"include_usage": True}))
    assert json.loads(aggregate(response.body).body) == ANSWER
    assert upstream.wait_request(2).body == upstream.wait_request().body


# An upstream that answers JSON to a client that asks for a stream, under a rule that forces the other direction

USED = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("mode", UPSTREAMS)
def test_json_in_place_of_a_stream_becomes_its_events(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any], mode: int
) -> None:
    upstream.answer(document(ANSWER))
    since = len(proxy.log_lines)
    asked = streaming("forced", **USED)
    response = ask(proxy, asked, certs=certs, mode=mode, client_class=client_class)
    assert (response.status, response.ended) == (200, "complete")
    assert response.header("content-type") == "text/event-stream"
    assert json.loads(aggregate(response.body).body) == ANSWER
    assert upstream.wait_request().json() == asked, "its request went out as it came"
    proxy.wait_for_log(r"forced: chat forced, 200, JSON given as events, finish stop, tool_calls, ", since=since)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("size", [1, 100_000])
def test_json_is_known_by_how_it_begins(proxy: Proxy, upstream: Upstream, label: str | None, size: int) -> None:
    body = b"\xef\xbb\xbf\n " + json.dumps(ANSWER, ensure_ascii=False, indent=1).encode()
    upstream.answer(Head(content_type=label), *pieces(body, size), End())
    response = ask(proxy, streaming("forced", **USED))
    assert json.loads(aggregate(response.body).body) == ANSWER


@pytest.mark.parametrize("model", ["forced", "learns", "slow", "any"])
def test_json_that_is_labelled_as_an_event_stream_is_known_by_its_length(
    proxy: Proxy, upstream: Upstream, model: str
) -> None:
    upstream.answer(document(ANSWER, content_type="text/event-stream"))
    response = ask(proxy, streaming(model, **USED))
    assert json.loads(aggregate(response.body).body) == ANSWER


def test_compressed_json_becomes_its_events(proxy: Proxy, upstream: Upstream) -> None:
    packed = gzip.compress(json.dumps(ANSWER).encode())
    upstream.answer(Head(content_type=JSON, headers={"Content-Encoding": "gzip"}), *pieces(packed, 50), End())
    response = ask(proxy, streaming("forced", **USED))
    assert response.header("content-encoding") is None
    assert json.loads(aggregate(response.body).body) == ANSWER


NOT_GZIP = Answer.of(Head(headers={"Content-Encoding": "gzip"}), Data(b"\x80\xff\xfe\x81" * 30), End())


@pytest.mark.parametrize("body", [request("forced"), streaming("forced")], ids=["forced", "own stream"])
def test_a_stream_that_cannot_be_decoded_is_not_said_to_be_empty(proxy: Proxy, upstream: Upstream, body: Any) -> None:
    since = proxy.mark()
    upstream.answer_always(NOT_GZIP)
    response = ask(proxy, body)
    if response.status != 200:
        assert error_in(response) == "stream_truncated"
        assert "its gzip encoding is broken" in response.json()["error"]["message"]
    line = proxy.wait_for_log("^.*: chat ", since=since)
    assert "cut off before the first event (its gzip encoding is broken)" in line.string


def test_a_stream_that_cannot_be_decoded_is_replaced_by_a_plain_answer(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(NOT_GZIP)
    upstream.answer(document(ANSWER))
    assert ask(proxy, request("forced")).json() == ANSWER
    assert [one.json()["stream"] for one in upstream.requests[:1]] == [True]
    assert "stream" not in upstream.requests[1].json()


AS_IT_CAME: dict[str, Answer] = {
    "an error": document(ERROR, status=429),
    "an error with status 200": document(ERROR),
    "an error as an event": event_stream(sse(ERROR), status=500),
    "a page": Answer.of(Head(502, content_type="text/html"), Data(b"<html><p>Bad gateway</p>"), End()),
    "a page with status 200": Answer.of(Head(content_type="text/html"), Data(b"<html><p>Sign in</p>"), End()),
    "another document": document({"hello": "world"}),
    "one without choices": document(ANSWER | {"choices": []}),
    "half a document": Answer.of(Head(content_type=JSON), Data(HALF), End()),
    "nothing": Answer.of(Head(content_type=JSON), End()),
    "a document larger than max_body": document(ANSWER | {"padding": "x" * 2048}),
    "one in pieces": Answer.of(
        Head(content_type=JSON), pieces(json.dumps(ANSWER | {"padding": "x" * 4000}).encode(), 700), End()
    ),
    "lines of JSON": event_stream(b'{"object":"chat.completion.chunk","choices":[]}\n' * 2, content_type="a/ndjson"),
    "a redirect": Answer.of(Head(307, content_type=None, headers={"Location": "/other"}), End()),
}


@pytest.mark.parametrize("case", AS_IT_CAME)
def test_every_other_answer_to_a_stream_is_given_as_it_came(proxy: Proxy, upstream: Upstream, case: str) -> None:
    answer = AS_IT_CAME[case]
    upstream.answer(answer)
    response = ask(proxy, streaming("forced"))
    head = answer.steps[0]
    assert (response.status, response.ended) == (head.status, "complete")
    assert response.header("content-type") == head.content_type
    assert response.body == b"".join(step.data for step in answer.steps if isinstance(step, Data))


@pytest.mark.parametrize("label", [*LABELS, "text/event-stream"])
def test_a_true_stream_goes_on_live_whatever_its_label_says(
    proxy: Proxy, upstream: Upstream, label: str | None
) -> None:
    gate = Gate()
    first, rest = b": hi\n\n", STREAM
    upstream.answer(Head(content_type=label), Data(first), WaitFor(gate), Data(rest), End())
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, PLAIN, json.dumps(streaming("forced")).encode())
        try:
            incoming = client.begin("POST")
            assert incoming.read_piece() == first
        finally:
            gate.open()
        while incoming.read_piece() is not None:
            pass
    response = incoming.response
    assert (response.status, response.body, response.ended) == (200, first + rest, "complete")
    assert response.header("content-type") == label


def test_a_document_that_is_cut_off_is_an_error(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(Head(content_type=JSON), Data(HALF), CutChunk())
    response = ask(proxy, streaming("forced"))
    assert (response.status, error_in(response)) == (502, "stream_truncated")


def test_a_rule_that_changes_nothing_leaves_json_alone(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(ANSWER))
    assert ask(proxy, streaming("watched")).json() == ANSWER


# What an upstream says about streams

CANNOT = {"error": {"message": "Your organization must be verified to stream this model.", "param": "stream"}}
MUST = {"error": {"message": "This model only supports streaming."}}


def no_streams(seen: Request) -> Answer:
    return document(CANNOT, status=400) if seen.json().get("stream") else document(ANSWER)


def only_streams(seen: Request) -> Answer:
    return event_stream(STREAM) if seen.json().get("stream") else document(MUST, status=400)


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("mode", UPSTREAMS)
@pytest.mark.parametrize("rule", ["learns", "forced-learns"])
def test_a_stream_that_is_refused_is_asked_for_plainly_and_remembered(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any], mode: int, rule: str
) -> None:
    upstream.handle(no_streams)
    model = f"{rule}-{mode}-{client_class.__name__}"
    since = len(proxy.log_lines)
    for _ in range(2):
        response = ask(proxy, streaming(model, n=2, **USED), certs=certs, mode=mode, client_class=client_class)
        assert (response.status, response.ended) == (200, "complete")
        assert response.header("content-type") == "text/event-stream"
        assert json.loads(aggregate(response.body).body) == ANSWER
    assert [seen.json().get("stream") for seen in upstream.requests] == [True, None, None]
    assert upstream.requests[1].json() == request(model, n=2)
    line = proxy.wait_for_log(r"cannot stream any request.*such requests are sent plain.*: (- \{.*\})$", since=since)
    (pasted,) = parse_rules(f"rules:\n  {line[1]}\n", "pasted")
    assert (pasted.models, pasted.force_upstream_plain) == ((model,), True)
    assert f"learned: 127.0.0.1 {model} (chat) cannot stream any request; sent plain" in proxy.command(
        "force_stream.rules"
    )


@pytest.mark.parametrize("before", [[], [{"id": "c1", "choices": []}]])
@pytest.mark.parametrize("guard", [False, True])
def test_a_refusal_inside_a_live_stream_is_remembered_for_the_next(
    proxy: Proxy, upstream: Upstream, before: list[Any], guard: bool
) -> None:
    refused = sse(*before, CANNOT, done=False)
    upstream.handle(lambda seen: event_stream(refused) if seen.json().get("stream") else document(ANSWER))
    model = f"learns-{'guarded-' * guard}live-{len(before)}"
    since = proxy.mark()
    response = ask(proxy, streaming(model))
    assert (response.status, response.body) == (200, refused)
    proxy.wait_for_log(rf"{model} \(chat\) cannot stream any request\. .*force_upstream_plain: true", since=since)
    assert json.loads(aggregate(ask(proxy, streaming(model)).body).body)["choices"] == ANSWER["choices"]
    assert [seen.json().get("stream") for seen in upstream.requests] == [True, None]


@pytest.mark.parametrize(
    "said",
    [
        *(sse(*EVENTS[:4], CANNOT, done=False), sse({"error": {"message": "Out of memory", "code": 500}}, done=False)),
        *(sse(*EVENTS), sse({"error": CANNOT["error"] | {"code": "rate_limit_exceeded"}}, done=False)),
    ],
    ids=["after the beginning of an answer", "another error", "an answer", "a temporary one"],
)
def test_nothing_else_in_a_live_stream_is_remembered(proxy: Proxy, upstream: Upstream, said: bytes) -> None:
    upstream.answer_always(event_stream(said))
    for _ in range(2):
        assert ask(proxy, streaming(f"learns-not-{len(said)}")).body == said
    assert [seen.json().get("stream") for seen in upstream.requests] == [True, True]


def test_what_the_words_name_is_what_is_remembered(proxy: Proxy, upstream: Upstream) -> None:
    refusal = {"error": {"message": "logprobs is not supported with tools + stream"}}
    upstream.answer(document(refusal, status=400))
    upstream.answer_always(document(ANSWER))
    members = {"tools": [{}], "logprobs": True}
    ask(proxy, streaming("learns-members", **members))
    ask(proxy, streaming("learns-members", **members))
    ask(proxy, streaming("learns-members", tools=[{}]))
    assert [seen.json().get("stream") for seen in upstream.requests] == [True, None, None, True]


@pytest.mark.parametrize("model", ["learns-500", "forced-500", "plain-500"])
def test_without_learn_or_the_words_a_refusal_is_given_as_it_came(proxy: Proxy, upstream: Upstream, model: str) -> None:
    said = {"error": {"message": "No."}} if model == "learns-500" else CANNOT
    upstream.answer(document(said, status=400))
    response = ask(proxy, streaming(model))
    assert (response.status, response.json()) == (400, said)


def test_a_refusal_is_given_as_it_came_where_the_plain_request_fares_no_better(
    proxy: Proxy, upstream: Upstream
) -> None:
    upstream.answer(document(CANNOT, status=400))
    upstream.answer(document(MUST, status=400))
    response = ask(proxy, streaming("learns-neither"))
    assert (response.status, response.json()) == (400, CANNOT)


def test_openai_python_gets_its_stream_from_an_upstream_that_refuses_one(
    proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    upstream.handle(no_streams)
    with openai_client(f"{proxy.url}/v1", certs) as client:
        chunks = list(client.chat.completions.create(**streaming("learns-sdk")))
    said = [choice for chunk in chunks for choice in chunk.choices if choice.index == 0]
    assert "".join(choice.delta.content or "" for choice in said) == MESSAGE["content"]


@pytest.mark.parametrize("client_class", CLIENTS)
def test_an_upstream_that_must_stream_is_asked_for_a_stream_again(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any]
) -> None:
    upstream.handle(only_streams)
    model = f"plain-learns-{client_class.__name__}"
    asked = streaming(model, **USED)
    response = ask(proxy, asked, certs=certs, client_class=client_class)
    assert (response.status, response.body, response.ended) == (200, STREAM, "complete")
    assert response.header("content-type") == "text/event-stream"
    assert [seen.json() for seen in upstream.requests] == [request(model), asked]
    # From now on, the stream is live.
    gate = Gate()
    upstream.handle(None)
    upstream.answer(Head(), Data(STREAM[:50]), WaitFor(gate), Data(STREAM[50:]), End())
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, PLAIN, json.dumps(asked).encode())
        try:
            incoming = client.begin("POST")
            assert incoming.read_piece() == STREAM[:50]
        finally:
            gate.open()
        while incoming.read_piece() is not None:
            pass
    assert incoming.response.body == STREAM
    assert upstream.requests[-1].json() == asked


# Injected faults


def test_faults_are_put_into_a_plain_answer(proxy: Proxy, upstream: Upstream) -> None:
    since = len(proxy.log_lines)
    response = ask(proxy, streaming("fails"))
    assert (response.status, error_in(response), response.header("retry-after")) == (429, "injected", "7")
    assert not upstream.requests
    proxy.wait_for_log("fails: chat fails, 429, sent plain, FAULT INJECTED", since=since)
    upstream.answer_always(document(ANSWER))
    response = ask(proxy, streaming("cuts"))
    assert (response.status, error_in(response)) == (502, "stream_truncated")
    response = ask(proxy, streaming("delays", **USED))
    assert json.loads(aggregate(response.body).body) == ANSWER


# What a person sees


def test_the_log_and_the_comment_know_the_direction(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(ANSWER))
    since = len(proxy.log_lines)
    ask(proxy, streaming())
    proxy.wait_for_log(r"plain: chat m, 200, sent plain, given as events, finish stop, tool_calls, ", since=since)
    upstream.answer(document(ERROR, status=429))
    since = len(proxy.log_lines)
    ask(proxy, streaming())
    proxy.wait_for_log(r"rate limited by the upstream.*; plain: chat m, 429, sent plain, ", since=since)
