"""`guard_streams`: a client's own stream gets heartbeats, and the API's own error event where it has no end."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from harness import (
    H2_UPSTREAM,
    Answer,
    Certs,
    Close,
    CutChunk,
    Data,
    End,
    Gate,
    GoAway,
    Head,
    Http1Client,
    Http2Client,
    Linger,
    Proxy,
    Reset,
    Response,
    RstStream,
    Upstream,
    WaitFor,
    document,
    event_stream,
    openai_client,
    sse,
)
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, DOCUMENT, EVENTS, RESPONSE_STREAM, RESPONSES, STREAM, request

MESSAGES = "/v1/messages"
RULES = """\
rules:
  - {name: bare, hosts: ["*"], models: [bare], heartbeat: 0.1, force_upstream_stream: true}
  - {name: slow, hosts: ["*"], models: [slow], heartbeat: 0.1, force_upstream_stream: true, guard_streams: true}
  - {name: slow-learns, hosts: ["*"], models: [learns], heartbeat: 0.1, learn: true, guard_streams: true}
  - {name: late, hosts: ["*"], models: [late], timeout: 0.5, guard_streams: true}
  - {name: idle, hosts: ["*"], models: [idle], idle_timeout: 0.5, force_upstream_plain: true, guard_streams: true}
  - {name: small, hosts: ["*"], models: [small], max_body: 300, guard_streams: true}
  - {name: small-slow, hosts: ["*"], models: [small-slow], max_body: 300, heartbeat: 0.1, guard_streams: true}
  - {name: guarded, hosts: ["*"], force_upstream_stream: true, guard_streams: true}
"""
PLAIN = [("Content-Type", "application/json")]
REVERSE, REVERSE_H2 = range(2)
BEGIN = sse(*EVENTS[:2], done=False)
HALF = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"l'
COMMENT = b": waiting for the answer\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
CLIENTS = [pytest.param(Http1Client, id="h1-client"), pytest.param(Http2Client, id="h2-client")]


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], session_upstream: Upstream, shared_rules: Callable[[str], Any]) -> Proxy:
    modes = [f"reverse:{session_upstream.url(listener)}" for listener in ("http", "h2")]
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    return shared_proxy(*modes, scripts=[ADDON, H2_UPSTREAM], options=options)


def ask(
    proxy: Proxy,
    certs: Certs,
    model: str = "m",
    *,
    mode: int = REVERSE,
    path: str = CHAT,
    client_class: Callable[..., Any] = Http1Client,
) -> Response:
    url = proxy.urls[mode].replace("http:", "https:") if client_class is Http2Client else proxy.urls[mode]
    with client_class(url, certs) as client:
        return client.request("POST", path, PLAIN, json.dumps(request(model, stream=True)).encode())


def after(
    gate: Gate,
    first: bytes,
    proxy: Proxy,
    certs: Certs,
    model: str = "slow",
    *,
    mode: int = REVERSE,
    path: str = CHAT,
    client_class: Callable[..., Any] = Http1Client,
) -> Response:
    """The answer of an upstream that goes on once the client has got `first`."""
    raw = json.dumps(request(model, stream=True)).encode()
    if client_class is Http2Client:
        with Http2Client(proxy.urls[mode].replace("http:", "https:"), certs) as client:
            stream = client.start("POST", path, PLAIN, raw)
            while first not in client.receive_some(stream).body:
                pass
            gate.open()
            return client.receive(stream)
    with Http1Client(proxy.urls[mode]) as client:
        client.start("POST", path, PLAIN, raw)
        incoming = client.begin("POST")
        while first not in incoming.response.body:
            assert incoming.read_piece() is not None
        gate.open()
        while incoming.read_piece() is not None:
            pass
        return incoming.response


def last_event(body: bytes) -> tuple[bytes, Any]:
    """All before the last event, and its data."""
    *_, last, empty = body.split(b"\n\n")
    assert empty == b""
    before = body.removesuffix(last + b"\n\n")
    return before, json.loads(last.rpartition(b"data: ")[2])


# A stream that ends without its end

# How an answer ends after two events and a half, the upstream's protocol, and the code of the error.
ENDS: dict[str, tuple[list[Any], int, str]] = {
    "a clean end": ([End()], REVERSE, "stream_truncated"),
    "a clean end over HTTP/2": ([End()], REVERSE_H2, "stream_truncated"),
    "a close": ([Close()], REVERSE, "stream_truncated"),
    "a cut chunk": ([CutChunk()], REVERSE, "stream_truncated"),
    "a TCP reset": ([Reset()], REVERSE, "stream_truncated"),
    "a reset stream": ([RstStream()], REVERSE_H2, "stream_truncated"),
    "a GOAWAY that does not cover it": ([GoAway(last_stream_id=0)], REVERSE_H2, "stream_truncated"),
}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("case", ENDS)
def test_a_stream_without_its_end_gets_the_error_event(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any], case: str
) -> None:
    end, mode, code = ENDS[case]
    since = proxy.mark()
    gate = Gate()
    upstream.answer(Head(framing=None if mode else "chunked"), Data(BEGIN), Data(HALF), WaitFor(gate), *end)
    response = after(gate, BEGIN, proxy, certs, "m", mode=mode, client_class=client_class)
    assert (response.status, response.ended) == (200, "complete")
    before, error = last_event(response.body)
    assert before == BEGIN, "whole events only"
    assert error["error"]["code"] == code
    assert "on_truncated" not in error["error"]["message"]
    proxy.wait_for_log("guarded: the stream came to no end, and its client gets an error event", since=since)
    line = proxy.wait_for_log("guarded: chat m, the client's own stream", since=since)
    assert "cut off" in line.string


@pytest.mark.parametrize("client_class", CLIENTS)
def test_a_stream_that_ends_with_its_connection_gets_the_error_event_too(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any]
) -> None:
    upstream.answer(Head(framing="close"), Data(BEGIN + HALF), End())
    before, error = last_event(ask(proxy, certs, client_class=client_class).body)
    assert (before, error["error"]["code"]) == (BEGIN, "stream_truncated")
    upstream.answer(Head(framing="close"), Data(STREAM), End())
    assert ask(proxy, certs, client_class=client_class).body == STREAM


@pytest.mark.parametrize("size", [1, 7, None])
def test_a_stream_with_its_end_is_passed_on_byte_for_byte(
    proxy: Proxy, upstream: Upstream, certs: Certs, size: int | None
) -> None:
    odd = STREAM.replace(b"\n\n", b"\r\n\r\n", 1).replace(b"\n\n", b"\r\r", 1) + b": more"
    upstream.answer(*event_stream(odd, size=size).steps)
    response = ask(proxy, certs)
    assert (response.status, response.body, response.ended) == (200, odd, "complete")


@pytest.mark.parametrize("end", [[End()], [Close()], [Reset()]], ids=["clean", "close", "reset"])
def test_a_last_event_without_its_blank_line_is_an_end(
    proxy: Proxy, upstream: Upstream, certs: Certs, end: list[Any]
) -> None:
    body, gate = STREAM.removesuffix(b"\n\n"), Gate()
    upstream.answer(Head(), Data(body), WaitFor(gate), *end)
    response = after(gate, BEGIN, proxy, certs, "m")
    assert (response.body, response.ended) == (body, "complete")


def test_an_error_of_the_upstream_is_an_end(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    body = BEGIN + sse({"error": {"message": "Out.", "code": "overloaded"}}, done=False)
    upstream.answer(*event_stream(body).steps)
    assert ask(proxy, certs).body == body


def test_events_reach_the_client_as_soon_as_they_are_whole(proxy: Proxy, upstream: Upstream) -> None:
    gate = Gate()
    upstream.answer(Head(), Data(BEGIN), Data(HALF), WaitFor(gate), Data(b"o"), CutChunk())
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, PLAIN, json.dumps(request(stream=True)).encode())
        incoming = client.begin("POST")
        try:
            assert incoming.read_piece() == BEGIN
        finally:
            gate.open()
        while incoming.read_piece() is not None:
            pass
        upstream.answer(document("next"))
        assert client.post("/next", {}).json() == "next", "the connection goes on"


def test_the_error_of_messages_is_its_own_event(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    begin = b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],"usage":{}}}\n\n'
    upstream.answer(Head(), Data(begin + b"event: content_block_st"), CutChunk())
    response = ask(proxy, certs, path=MESSAGES)
    before, error = last_event(response.body)
    assert before == begin
    assert response.body[len(begin) :].startswith(b"event: error\n")
    assert (error["type"], error["error"]["code"]) == ("error", "stream_truncated")


def test_the_error_of_responses_continues_the_sequence(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    *whole, broken, _ = RESPONSE_STREAM.split(b"\n\n")[:5]
    begin = b"\n\n".join(whole) + b"\n\n"
    upstream.answer(Head(), Data(begin + broken), CutChunk())
    response = ask(proxy, certs, path=RESPONSES)
    before, error = last_event(response.body)
    assert before == begin
    assert response.body[len(begin) :].startswith(b"event: error\n")
    assert (error["type"], error["code"], error["sequence_number"]) == ("error", "stream_truncated", len(whole))


def test_an_empty_stream_gets_the_error_event(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(Head(), End())
    before, error = last_event(ask(proxy, certs).body)
    assert (before, error["error"]["code"]) == (b"", "stream_empty")


@pytest.mark.parametrize("model", ["late", "idle"])
def test_a_stream_that_exceeds_a_limit_of_the_rule_gets_the_error_event(
    proxy: Proxy, upstream: Upstream, certs: Certs, model: str
) -> None:
    upstream.answer(Head(), Data(BEGIN + HALF), Linger())
    response = ask(proxy, certs, model)
    before, error = last_event(response.body)
    assert (before, error["error"]["code"], response.ended) == (BEGIN, "stream_timeout", "complete")
    assert upstream.wait_request().wait_closed()


# What cannot be guarded, and what is not

UNGUARDED: dict[str, Answer] = {
    "a Content-Length": Answer.of(Head(framing="length"), Data(BEGIN), End()),
    "gzip": Answer.of(Head(headers={"Content-Encoding": "gzip"}), Data(gzip.compress(BEGIN)), End()),
    "larger than max_body": Answer.of(Head(), Data(BEGIN + HALF), Data(b"x" * 300), End()),
}


@pytest.mark.parametrize("case", UNGUARDED)
def test_nothing_is_added_to_a_stream_with(proxy: Proxy, upstream: Upstream, certs: Certs, case: str) -> None:
    answer = UNGUARDED[case]
    upstream.answer(*answer.steps)
    response = ask(proxy, certs, "small" if case == "larger than max_body" else "m")
    sent = b"".join(step.data for step in answer.steps if isinstance(step, Data))
    assert (response.body, response.ended) == (sent, "complete")


def test_without_guard_streams_a_cut_stays_a_cut(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(Head(), Data(BEGIN + HALF), CutChunk())
    response = ask(proxy, certs, "bare")
    assert response.body == BEGIN + HALF
    assert response.ended != "complete"


def test_without_guard_streams_there_are_no_heartbeats(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer(Head(), Data(BEGIN), WaitFor(gate), Data(STREAM.removeprefix(BEGIN)), End())
    upstream.answer(WaitFor(gate), *event_stream(STREAM).steps)
    with Http1Client(proxy.url) as silent:
        silent.start("POST", CHAT, PLAIN, json.dumps(request("bare", stream=True)).encode())
        incoming = silent.begin("POST")
        assert incoming.read_piece() == BEGIN
        # Two heartbeats later for another client, this one has got nothing.
        after(gate, COMMENT * 2, proxy, certs)
        while incoming.read_piece() is not None:
            pass
        assert incoming.response.body == STREAM


# Heartbeats


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize(("path", "beat"), [(CHAT, COMMENT), (MESSAGES, PING), (RESPONSES, COMMENT)])
def test_heartbeats_come_before_the_first_byte(
    proxy: Proxy, upstream: Upstream, certs: Certs, path: str, beat: bytes, client_class: Callable[..., Any]
) -> None:
    gate = Gate()
    body = STREAM if path == CHAT else RESPONSE_STREAM
    upstream.answer(WaitFor(gate), *event_stream(body).steps)
    response = after(gate, beat * 2, proxy, certs, path=path, client_class=client_class)
    assert (response.status, response.ended) == (200, "complete")
    assert response.header("content-type") == "text/event-stream"
    assert response.body.startswith(beat * 2)
    assert response.body.replace(beat, b"") == body


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("begun", [b"", HALF], ids=["between events", "within an event"])
def test_heartbeats_are_between_the_events_while_the_upstream_is_silent(
    proxy: Proxy, upstream: Upstream, certs: Certs, client_class: Callable[..., Any], begun: bytes
) -> None:
    gate = Gate()
    rest = (b'lo"},"finish_reason":"stop"}]}\n\n' if begun else b"") + sse(*EVENTS[2:])
    upstream.answer(Head(), Data(BEGIN + begun), WaitFor(gate), Data(rest), End())
    response = after(gate, COMMENT, proxy, certs, client_class=client_class)
    assert (response.status, response.ended) == (200, "complete")
    assert response.body.startswith(BEGIN + COMMENT)
    assert response.body.replace(COMMENT, b"") == BEGIN + begun + rest


def test_no_heartbeat_comes_into_an_encoded_stream(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    packed = gzip.compress(STREAM)
    upstream.answer(
        Head(headers={"Content-Encoding": "gzip"}), Data(packed[:20]), WaitFor(gate), Data(packed[20:]), End()
    )
    upstream.answer(WaitFor(gate), *event_stream(STREAM).steps)
    with Http1Client(proxy.url) as silent:
        silent.start("POST", CHAT, PLAIN, json.dumps(request("slow", stream=True)).encode())
        incoming = silent.begin("POST")
        assert incoming.read_piece() == packed[:20]
        after(gate, COMMENT * 2, proxy, certs)
        while incoming.read_piece() is not None:
            pass
        assert incoming.response.body == packed


def test_a_failure_behind_heartbeats_is_the_error_event(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    error = {"error": {"message": "Too many", "code": "rate_limit_exceeded"}}
    upstream.answer(WaitFor(gate), *document(error, status=429).steps)
    response = after(gate, COMMENT, proxy, certs)
    assert (response.status, response.ended) == (200, "complete")
    assert last_event(response.body)[1]["error"]["message"] == "Too many"


def test_a_document_behind_heartbeats_becomes_its_events(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer(WaitFor(gate), *document(DOCUMENT).steps)
    response = after(gate, COMMENT, proxy, certs)
    assert response.body.startswith(COMMENT)
    assert response.body.endswith(b"data: [DONE]\n\n")


# What comes behind a heartbeat, in place of a labelled stream, and the code of the error event that it makes.
BEHIND: dict[str, tuple[Answer, str | None]] = {
    "another document": (document({"hello": "world"}), None),
    "a page": (Answer.of(Head(content_type="text/html"), Data(b"<html><p>Sign in</p>"), End()), None),
    "half a document": (
        Answer.of(Head(content_type="application/json"), Data(b'{"a":'), CutChunk()),
        "stream_truncated",
    ),
    "half a stream without a label": (Answer.of(Head(content_type=None), Data(BEGIN), CutChunk()), "stream_truncated"),
    "a document that is too large": (document(DOCUMENT | {"padding": "x" * 300}), "stream_too_large"),
}


@pytest.mark.parametrize("case", BEHIND)
def test_another_answer_behind_heartbeats_is_the_error_event(
    proxy: Proxy, upstream: Upstream, certs: Certs, case: str
) -> None:
    answer, code = BEHIND[case]
    gate = Gate()
    upstream.answer(WaitFor(gate), *answer.steps)
    response = after(gate, COMMENT, proxy, certs, "small-slow" if code == "stream_too_large" else "slow")
    before, error = last_event(response.body)
    assert before.replace(COMMENT, b"") == b""
    assert error["error"]["type"] == "upstream_error"
    assert code in (None, error["error"]["code"])


STREAMS_BEHIND = {
    "without a label": Answer.of(Head(content_type=None), Data(STREAM[:50]), Data(STREAM[50:]), End()),
    "encoded": Answer.of(Head(headers={"Content-Encoding": "gzip"}), Data(gzip.compress(STREAM)), End()),
}


@pytest.mark.parametrize("case", STREAMS_BEHIND)
def test_a_stream_behind_heartbeats_is_read_and_given(
    proxy: Proxy, upstream: Upstream, certs: Certs, case: str
) -> None:
    gate = Gate()
    upstream.answer(WaitFor(gate), *STREAMS_BEHIND[case].steps)
    response = after(gate, COMMENT, proxy, certs)
    assert (response.status, response.ended) == (200, "complete")
    assert response.body.replace(COMMENT, b"") == STREAM


def test_a_refusal_to_stream_behind_heartbeats_is_met_all_the_same(
    proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    gate = Gate()
    refusal = {"error": {"message": "Streaming is not supported for this model."}}
    upstream.answer(WaitFor(gate), *document(refusal, status=400).steps)
    upstream.answer(*document(DOCUMENT).steps)
    response = after(gate, COMMENT, proxy, certs, "learns")
    assert (response.status, response.ended) == (200, "complete")
    assert response.body.endswith(b"data: [DONE]\n\n")
    assert [seen.json().get("stream") for seen in upstream.requests] == [True, None]


# Beside another script

NEIGHBOURS = SCRIPTS / "neighbours.py"
# By what the script does: whether the guard still works.
ACTS = {
    "streams": False,
    "streams through a function": False,
    "takes its time at responseheaders": True,
    "takes its time at response": True,
    "halts at response": True,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("scripts", [[NEIGHBOURS, ADDON], [ADDON, NEIGHBOURS]], ids=["before ours", "after ours"])
def test_another_script_may_have_the_stream(
    shared_proxy: Callable[..., Proxy],
    upstream: Upstream,
    shared_rules: Callable[[str], Any],
    scripts: list[Any],
    act: str,
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    proxy = shared_proxy(f"reverse:{upstream.url()}", scripts=scripts, options=options)
    upstream.answer(Head(), Data(BEGIN + HALF), End())
    upstream.answer(*document(DOCUMENT).steps)
    headers = [*PLAIN, ("x-request-id", act)]
    body = json.dumps(request(stream=True)).encode()
    with Http1Client(proxy.url) as client:
        response = client.request("POST", CHAT, headers, body)
    with Http1Client(proxy.url) as client:
        instead = client.request("POST", CHAT, headers, body)
    assert (response.status, response.ended) == (200, "complete")
    if ACTS[act]:
        before, error = last_event(response.body)
        assert (before, error["error"]["code"]) == (BEGIN, "stream_truncated")
        assert instead.body.endswith(b"data: [DONE]\n\n") or instead.json()["error"]["code"] == "force_stream_error"
    else:
        assert response.body == BEGIN + HALF
        assert instead.json() == DOCUMENT


# openai-python

BROKEN = [[End()], [CutChunk()], [Reset()]]


@pytest.mark.parametrize("end", BROKEN, ids=["a clean end", "a cut chunk", "a reset"])
@pytest.mark.parametrize("http2", [False, True], ids=["h1-client", "h2-client"])
def test_openai_python_raises_an_error_of_the_api(
    proxy: Proxy, upstream: Upstream, certs: Certs, end: list[Any], http2: bool
) -> None:
    gate = Gate()
    upstream.answer(Head(), Data(BEGIN + HALF), WaitFor(gate), *end)
    url = proxy.url.replace("http:", "https:") if http2 else proxy.url
    with openai_client(f"{url}/v1", certs, http2=http2) as client:
        stream = client.chat.completions.create(**request(stream=True))
        said = [next(stream), next(stream)]
        gate.open()
        with pytest.raises(openai.APIError, match="stopped before its end") as raised:
            next(stream)
    assert said[1].choices[0].delta.content == "Hel"
    assert raised.value.code == "stream_truncated"


def test_openai_python_raises_an_error_of_a_response_too(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    begin = b"\n\n".join(RESPONSE_STREAM.split(b"\n\n")[:2]) + b"\n\n"
    upstream.answer(Head(), Data(begin), End())
    with (
        openai_client(f"{proxy.url}/v1", certs) as client,
        client.responses.stream(model="m", input="Hi") as stream,
        pytest.raises(openai.APIError, match="stopped before its terminal event"),
    ):
        list(stream)


def test_openai_python_skips_the_heartbeats(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer(WaitFor(gate), *event_stream(STREAM).steps)
    with openai_client(f"{proxy.url}/v1", certs) as client:
        stream = client.chat.completions.create(**request("slow", stream=True))
        gate.open()  # the head is there, so a heartbeat is too
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "Hello"
