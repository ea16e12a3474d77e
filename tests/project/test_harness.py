"""The harness itself: each fault really happens on the wire, and a mitmdump without any addon sees it."""

import asyncio
import concurrent.futures
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable

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
    Interim,
    Linger,
    Pause,
    Proxy,
    ProxyExitedError,
    Raw,
    Reset,
    RstStream,
    ShortLength,
    Signal,
    Upstream,
    WaitFor,
    async_openai_client,
    document,
    event_stream,
    flows_of,
    httpx_client,
    needs_tool,
    openai_client,
    pieces,
    raw_request,
    refused_port,
    sse,
)
from harness.framing import BodyReader, FramingError

CHAT = "/v1/chat/completions"
COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
}
GET = b"GET /x HTTP/1.1\r\nHost: llm.test\r\n\r\n"


def client_of(listener: str) -> type[Http1Client] | type[Http2Client]:
    return Http2Client if listener == "h2" else Http1Client


# What the wire shows: answer, status, body, end over HTTP/1.1, end over HTTP/2 (None: no such step there)
WIRE = {
    "whole, chunked": ((Head(), Data(b"ab"), Data(b"c"), End()), 200, b"abc", "complete", "complete"),
    "whole, by length": ((Head(framing="length"), Data(b"abc"), End()), 200, b"abc", "complete", "complete"),
    "whole, by close": ((Head(framing="close"), Data(b"abc"), End()), 200, b"abc", "complete", "complete"),
    "no body at all": ((Head(204, framing=None, content_type=None), End()), 204, b"", "complete", "complete"),
    "error status": ((Head(429, {"Retry-After": "1"}), Data(b"no"), End()), 429, b"no", "complete", "complete"),
    "closed before any byte": ((Close(),), None, b"", "closed", "closed"),
    "reset before any byte": ((Reset(),), None, b"", "reset", "reset"),
    "reset between chunks": ((Head(), Data(b"abc"), Reset()), 200, b"abc", "reset", "reset"),
    "closed without the last chunk": ((Head(), Data(b"abc"), Close()), 200, b"abc", "closed", "closed"),
    "cut inside a chunk": ((Head(), Data(b"abc"), CutChunk(b"de", 7)), 200, b"abcde", "closed", None),
    # h2 gives a DATA frame only whole.
    "cut inside a frame": ((Head(), Data(b"abc"), CutChunk(b"de", 7)), 200, b"abc", None, "closed"),
    "shorter than announced": (
        (Head(framing=ShortLength(7)), Data(b"abc"), Close()),
        200,
        b"abc",
        "closed",
        "closed",
    ),
    "ended shorter than announced": (
        (Head(framing=ShortLength(7)), Data(b"abc"), End(), Close()),
        200,
        b"abc",
        "closed",
        "malformed: InvalidBodyLengthError: Expected 10 bytes, received 3",
    ),
    "closed inside the headers": ((Raw(b"HTTP/1.1 200 OK\r\nContent-"), Close()), None, b"", "closed", None),
    "no status line": (
        (Raw(b"hello\r\n\r\n"), Close()),
        None,
        b"",
        "malformed: not a status line: 'hello'",
        None,
    ),
    "garbage for a chunk": (
        (Head(), Data(b"abc"), Raw(b"zz\r\n"), Close()),
        200,
        b"abc",
        "malformed: not a chunk size: b'zz'",
        None,
    ),
    "stream reset with INTERNAL_ERROR": ((Head(), Data(b"abc"), RstStream(2)), 200, b"abc", None, "rst_stream 2"),
    "stream refused": ((RstStream(7),), None, b"", None, "rst_stream 7"),
    "GOAWAY, then closed": ((Head(), Data(b"abc"), GoAway(11), Close()), 200, b"abc", None, "goaway 11"),
}


def wire_cases(listener: str) -> list:
    column = 4 if listener == "h2" else 3
    return [
        pytest.param(listener, row[0], row[1], row[2], row[column], id=f"{listener}-{name}")
        for name, row in WIRE.items()
        if row[column] is not None
    ]


@pytest.mark.parametrize(
    ("listener", "steps", "status", "body", "ended"), [*wire_cases("http"), *wire_cases("https"), *wire_cases("h2")]
)
def test_each_answer_looks_on_the_wire_as_its_steps_say(
    upstream: Upstream, certs: Certs, listener: str, steps: tuple, status: int | None, body: bytes, ended: str
) -> None:
    upstream.answer(*steps)
    with client_of(listener)(upstream.url(listener), certs) as client:
        response = client.get("/x")
        assert (response.status, response.body, response.ended) == (status, body, ended)
    request = upstream.wait_request()
    assert request.listener == listener
    assert request.wait_answered() == "sent"


@pytest.mark.parametrize("client_class", [Http1Client, Http2Client])
def test_a_close_without_close_notify_is_told_from_one_with_it(
    upstream: Upstream, certs: Certs, client_class: Callable
) -> None:
    upstream.answer(Head(), Data(b"abc"), Close(notify=False))
    with client_class(upstream.url("https" if client_class is Http1Client else "h2"), certs) as client:
        response = client.get("/x")
    assert (response.body, response.ended) == (b"abc", "torn")


@pytest.mark.parametrize("listener", ["http", "h2"])
def test_interim_heads_and_trailers_arrive_beside_the_answer(upstream: Upstream, certs: Certs, listener: str) -> None:
    upstream.answer(Interim(103, {"Link": "</a>"}), Head(), Data(b"abc"), End({"X-Sum": "1"}))
    with client_of(listener)(upstream.url(listener), certs) as client:
        response = client.get("/x")
    assert (response.interim, response.status, response.body) == ([103], 200, b"abc")
    assert [(name.lower(), value) for name, value in response.trailers] == [("x-sum", "1")]


@pytest.mark.parametrize("listener", ["http", "https", "h2"])
def test_a_body_in_pieces_arrives_as_those_chunks(upstream: Upstream, certs: Certs, listener: str) -> None:
    body = sse({"n": 1}, {"n": 2})
    upstream.answer(Head(), pieces(body, 10), End())
    with client_of(listener)(upstream.url(listener), certs) as client:
        response = client.get("/x")
    assert response.chunks == [body[i : i + 10] for i in range(0, len(body), 10)]
    assert response.body == b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("listener", ["http", "https", "h2"])
def test_megabytes_pass_in_both_directions(upstream: Upstream, certs: Certs, listener: str) -> None:
    there, back = os.urandom(3_000_000), os.urandom(3_000_000)
    upstream.answer(Head(framing="length"), Data(back), End())
    with client_of(listener)(upstream.url(listener), certs) as client:
        assert client.post("/x", there).body == back
    assert upstream.wait_request().body == there


@pytest.mark.parametrize("listener", ["http", "h2"])
def test_a_gate_orders_what_client_and_upstream_do(upstream: Upstream, certs: Certs, listener: str) -> None:
    first_sent, go_on = Gate(), Gate()
    upstream.answer(Head(), Data(b"one"), Signal(first_sent), WaitFor(go_on), Data(b"two"), End())
    with client_of(listener)(upstream.url(listener), certs) as client:
        if isinstance(client, Http1Client):
            client.start("GET", "/x")
            incoming = client.begin()
            assert incoming.read_piece() == b"one"
            first_sent.wait()
            assert incoming.response.ended is None
            go_on.open()
            assert incoming.read_piece() == b"two"
            assert incoming.read_piece() is None
            assert incoming.response.complete
        else:
            stream_id = client.start("GET", "/x")
            while not client.receive_some(stream_id).body:
                pass
            assert not go_on.is_open
            assert client.open_response[stream_id].body == b"one"
            go_on.open()
            assert client.receive(stream_id).body == b"onetwo"


def test_a_request_is_recorded_as_it_came(upstream: Upstream) -> None:
    upstream.answer(document({"ok": True}))
    response = raw_request(
        upstream.url(),
        b"POST /v1/x?a=b HTTP/1.1\r\nHost: llm.test\r\nX-CaSe: a\r\nx-case: b\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    assert response.json() == {"ok": True}
    assert response.header("content-type") == "application/json"
    assert response.framing == len(response.body)
    request = upstream.wait_request()
    assert (request.method, request.path, request.body) == ("POST", "/v1/x?a=b", b"abcde")
    assert request.headers[1:3] == [("X-CaSe", "a"), ("x-case", "b")]
    assert request.header("X-Case") == "a, b"
    assert request.http_version == "HTTP/1.1"


def test_an_http2_request_is_recorded_with_its_pseudo_headers(upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document({"ok": True}))
    with Http2Client(upstream.url("h2"), certs) as client:
        assert client.post("/v1/x", {"a": 1}).json() == {"ok": True}
    request = upstream.wait_request()
    assert (request.method, request.path, request.json()) == ("POST", "/v1/x", {"a": 1})
    assert request.headers[0] == (":method", "POST")
    assert (request.http_version, request.stream_id) == ("HTTP/2", 1)


@pytest.mark.parametrize("listener", ["http", "h2"])
def test_one_connection_carries_several_requests(upstream: Upstream, certs: Certs, listener: str) -> None:
    for number in range(3):
        upstream.answer(document(number))
    with client_of(listener)(upstream.url(listener), certs) as client:
        assert [client.get("/x").json() for _ in range(3)] == [0, 1, 2]
    assert len({request.connection for request in upstream.requests}) == 1
    assert upstream.connections == 1


def test_pipelined_requests_are_answered_in_order(upstream: Upstream) -> None:
    upstream.answer(document("first"))
    upstream.answer(document("second"))
    with Http1Client(upstream.url()) as client:
        client.send(GET + GET)
        assert [client.receive().json(), client.receive().json()] == ["first", "second"]


def test_streams_of_one_connection_are_answered_side_by_side(upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    upstream.answer(Head(), WaitFor(gate), Data(b"late"), End(), key="late")
    upstream.answer(Head(), Data(b"early"), End(), key="early")
    with Http2Client(upstream.url("h2"), certs) as client:
        late = client.start("GET", "/x", [("x-answer", "late")])
        early = client.start("GET", "/x", [("x-answer", "early")])
        assert client.receive(early).body == b"early"
        assert client.open_response[late].body == b""
        gate.open()
        assert client.receive(late).body == b"late"


def test_a_lingering_upstream_records_that_the_peer_closed(upstream: Upstream) -> None:
    upstream.answer(Head(), Data(b"abc"), Linger())
    with Http1Client(upstream.url()) as client:
        client.start("GET", "/x")
        assert client.begin().read_piece() == b"abc"
        request = upstream.wait_request()
        assert (request.answered, request.closed) == (None, None)
    assert request.wait_closed() == "closed"
    assert request.abandoned
    assert request.wait_answered() == "sent"


def test_a_lingering_upstream_records_that_the_peer_reset(upstream: Upstream) -> None:
    upstream.answer(Head(), Linger())
    with Http1Client(upstream.url()) as client:
        client.start("GET", "/x")
        client.begin()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert upstream.wait_request().wait_closed() == "reset"


def test_a_lingering_stream_records_that_the_peer_reset_it(upstream: Upstream, certs: Certs) -> None:
    upstream.answer(Head(), Linger(), key="lingers")
    upstream.answer(document("next"))
    with Http2Client(upstream.url("h2"), certs) as client:
        stream_id = client.start("GET", "/x", [("x-answer", "lingers")])
        client.receive_some(stream_id)
        client.rst_stream(stream_id)
        assert upstream.wait_request().wait_closed() == "rst_stream 8"
        assert client.get("/x").json() == "next"


@pytest.mark.parametrize("listener", ["http", "h2"])
def test_a_peer_that_goes_away_is_no_fault_of_the_script(upstream: Upstream, certs: Certs, listener: str) -> None:
    gone = Gate()
    upstream.answer(Head(), WaitFor(gone), pieces(b"x" * 10_000_000, 1_000_000), Linger())
    with client_of(listener)(upstream.url(listener), certs) as client:
        client.start("GET", "/x")
        request = upstream.wait_request()
    assert request.wait_closed() in {"closed", "reset"}
    gone.open()
    assert request.wait_answered().startswith(("peer gone", "cancelled"))
    upstream.wait_idle()
    assert upstream.errors == []


@pytest.mark.parametrize(("step", "seen"), [(GoAway(0), (0, 1)), (GoAway(11, last_stream_id=0), (11, 0))])
def test_a_goaway_names_its_error_and_the_last_stream(
    upstream: Upstream, certs: Certs, step: GoAway, seen: tuple[int, int]
) -> None:
    upstream.answer(Head(), step, Linger())
    with Http2Client(upstream.url("h2"), certs) as client:
        client.get("/x")
        assert client.goaway == seen


def test_broken_frames_reach_the_client(upstream: Upstream, certs: Certs) -> None:
    # A HEADERS frame (type 1) on stream 0 is a connection error (RFC 9113, section 6.2).
    upstream.answer(Raw(b"\0\0\0\x01\x04\0\0\0\0"), Linger())
    with Http2Client(upstream.url("h2"), certs) as client:
        assert client.get("/x").ended.startswith("malformed")


@pytest.mark.parametrize(("steps", "ended"), [((Close(),), "closed"), ((Reset(),), "reset")])
def test_a_connection_can_fail_before_any_request(upstream: Upstream, steps: tuple, ended: str) -> None:
    connected = Gate()
    upstream.at_accept(WaitFor(connected), *steps)
    upstream.answer(document("second connection"))
    with Http1Client(upstream.url()) as client:
        connected.open()
        assert client.receive().ended == ended
    assert raw_request(upstream.url(), GET).json() == "second connection"
    assert (upstream.connections, len(upstream.requests)) == (2, 1)


def test_a_connection_can_fail_before_tls(upstream: Upstream, certs: Certs) -> None:
    upstream.at_accept(Raw(b"no TLS here\r\n"), Close())
    with pytest.raises(OSError):
        Http1Client(upstream.url("https"), certs)


def test_the_untrusted_listener_is_refused(upstream: Upstream, certs: Certs) -> None:
    with pytest.raises(OSError, match="certificate verify failed"):
        Http1Client(upstream.url("untrusted"), certs)
    upstream.wait_idle()
    assert upstream.requests == []


def test_nothing_listens_on_a_refused_port() -> None:
    with pytest.raises(ConnectionRefusedError):
        Http1Client(f"http://127.0.0.1:{refused_port()}")


def test_an_upstream_that_stops_while_clients_connect_leaves_nothing_open(certs: Certs) -> None:
    for _ in range(20):
        with Upstream(certs) as upstream:
            clients = [socket.create_connection(("127.0.0.1", upstream.ports["http"])) for _ in range(3)]
        for client in clients:
            client.close()
    gc.collect()  # pytest makes an error of what Python says of connections that nobody has closed


def test_answers_are_chosen_by_handler_key_path_queue_and_condition(upstream: Upstream) -> None:
    upstream.answer(document("queue"))
    upstream.answer(document("path"), path="/p")
    upstream.answer(document("key"), key="k")
    upstream.answer(document("condition"), when=lambda request: request.header("x-c") == "1")
    upstream.handle(lambda request: document("handler") if request.path == "/h" else None)
    with Http1Client(upstream.url()) as client:
        assert client.get("/h", [("x-answer", "k")]).json() == "handler"
        assert client.get("/p", [("x-answer", "k")]).json() == "key"
        assert client.get("/p?q=1").json() == "path"
        assert client.get("/x", [("x-c", "1")]).json() == "queue"
        assert client.get("/x", [("x-c", "1")]).json() == "condition"
        unscripted = client.get("/x")
    assert unscripted.status == 500
    assert unscripted.json()["error"]["code"] == "not_scripted"


def test_a_reset_upstream_has_no_script_no_record_and_no_answer_in_progress(upstream: Upstream) -> None:
    upstream.answer(Pause(3600), End())
    upstream.answer_always(document("old"))
    with Http1Client(upstream.url()) as idle, Http1Client(upstream.url()) as busy:
        busy.start("GET", "/x")
        request = upstream.wait_request()
        assert idle.get("/x").json() == "old"
        upstream.reset()
        assert request.wait_answered() == "cancelled"
        assert busy.receive().ended == "reset"
        assert upstream.requests == []
        assert idle.get("/x").status == 500
        assert len(upstream.requests) == 1


def test_a_step_without_meaning_in_the_protocol_is_an_error_of_the_script(upstream: Upstream) -> None:
    upstream.answer(Head(), RstStream(2))
    assert raw_request(upstream.url(), GET).ended == "reset"
    assert upstream.wait_request().wait_answered() == "script error: RstStream exists only in HTTP/2"
    assert "RstStream exists only in HTTP/2" in upstream.errors[0]
    upstream.errors.clear()


def test_an_answer_must_say_how_it_ends() -> None:
    with pytest.raises(ValueError, match="must end with one of End"):
        Answer.of(Head(), Data(b"abc"))
    with pytest.raises(ValueError, match="no such framing"):
        Head(framing="chunky")


def test_waiting_for_what_never_comes_says_what_was_awaited(upstream: Upstream) -> None:
    with pytest.raises(TimeoutError, match="request 1"):
        upstream.wait_request(timeout=0.01)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_chunk_reader_gives_the_same_however_the_bytes_are_cut(size: int) -> None:
    message = b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\nrest"
    reader, rest = BodyReader("chunked"), b""
    for start in range(0, len(message), size):
        rest += reader.feed(message[start : start + size])
    assert (reader.pieces, reader.trailers, rest, reader.done) == (
        [b"abc", b"0123456789"],
        [("X-T", "1")],
        b"rest",
        True,
    )


@pytest.mark.parametrize("message", [b"\r\n", b"-1\r\n", b"g\r\n", b"1\r\nab\r\n"])
def test_the_chunk_reader_refuses_what_is_no_chunk(message: bytes) -> None:
    with pytest.raises(FramingError):
        BodyReader("chunked").feed(message)


# Through mitmdump


@pytest.fixture
def bare(shared_proxy: Callable[..., Proxy], upstream: Upstream) -> Proxy:
    """Reverse to "http" and "h2", and regular: `urls` in this order; the upstream is offered HTTP/2."""
    modes = (f"reverse:{upstream.url('http')}", f"reverse:{upstream.url('h2')}", "regular")
    return shared_proxy(*modes, scripts=[H2_UPSTREAM], remote=True)


CLIENTS = [pytest.param(Http1Client, "http", id="h1-client"), pytest.param(Http2Client, "https", id="h2-client")]
UPSTREAMS = [pytest.param(0, "HTTP/1.1", id="h1-upstream"), pytest.param(1, "HTTP/2", id="h2-upstream")]


@pytest.mark.parametrize(("client_class", "scheme"), CLIENTS)
@pytest.mark.parametrize(("mode", "version"), UPSTREAMS)
def test_every_pair_of_protocols_passes_a_whole_stream(
    bare: Proxy, upstream: Upstream, certs: Certs, client_class: Callable, scheme: str, mode: int, version: str
) -> None:
    body = sse({"n": 1})
    upstream.answer(event_stream(body, size=4))
    with client_class(bare.urls[mode].replace("http", scheme), certs) as client:
        response = client.post(CHAT, {"stream": True})
    assert (response.status, response.body, response.ended) == (200, body, "complete")
    assert upstream.wait_request().http_version == version


CUTS = {
    "closed before any byte": (Close(),),
    "reset before any byte": (Reset(),),
    "closed without the last chunk": (Head(framing=ShortLength(9)), Data(b"abc"), Close()),
    "reset in the body": (Head(), Data(b"abc"), Reset()),
    "cut inside a chunk": (Head(), CutChunk(b"abc")),
}
H1_CUTS = {"closed inside the headers": (Raw(b"HTTP/1.1 200 OK\r\nConte"), Close())}
H2_CUTS = {
    "stream reset": (Head(), Data(b"abc"), RstStream(2)),
    "stream refused": (RstStream(7),),
    "GOAWAY for this stream": (Head(), Data(b"abc"), GoAway(2, 0), Close()),
    "ended shorter than announced": (Head(framing=ShortLength(9)), Data(b"abc"), End()),
}


@pytest.mark.parametrize(("client_class", "scheme"), CLIENTS)
@pytest.mark.parametrize(
    ("mode", "steps"),
    [pytest.param(0, steps, id=f"h1-{name}") for name, steps in (CUTS | H1_CUTS).items()]
    + [pytest.param(1, steps, id=f"h2-{name}") for name, steps in (CUTS | H2_CUTS).items()],
)
def test_a_bare_mitmdump_makes_502_of_every_cut(
    bare: Proxy, upstream: Upstream, certs: Certs, client_class: Callable, scheme: str, mode: int, steps: tuple
) -> None:
    upstream.answer(*steps, key="cut")
    upstream.answer(document("warm"))
    with client_class(bare.urls[mode].replace("http", scheme), certs) as client:
        # A reset amid HTTP/2's opening SETTINGS may cancel mitmproxy's connection task before it has told the flow that
        # the connection is gone; that flow then never ends (12.0.1 and 12.2.3, 1 in 80 with HTTP/2 on both sides).
        assert client.get("/x").json() == "warm"
        response = client.post(CHAT, {}, [("x-answer", "cut")])
    assert response.status == 502
    assert b"<html>" in response.body
    assert response.complete
    assert bare.flows("cut")[-1]["error"]


def test_a_client_that_goes_away_is_seen_by_the_upstream(bare: Proxy, upstream: Upstream) -> None:
    begun = Gate()
    upstream.answer(Head(), Data(b"abc"), Signal(begun), Linger())
    with Http1Client(bare.url) as client:
        client.start("GET", "/x")
        begun.wait()
        bare.settle()
    request = upstream.wait_request()
    assert request.wait_closed() in {"closed", "reset"}
    assert request.abandoned


def test_a_tunnel_and_an_absolute_url_pass_a_regular_proxy(bare: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer_always(document("ok"))
    with Http1Client(upstream.url("https"), certs, via=bare.urls[2]) as client:
        assert client.get("/tunnel").json() == "ok"
    with Http2Client(upstream.url("h2"), certs, via=bare.urls[2]) as client:
        assert client.get("/tunnel2").json() == "ok"
    with Http1Client(upstream.url("http"), via=bare.urls[2]) as client:
        assert client.get("/absolute").json() == "ok"
    seen = [(request.path, request.http_version) for request in upstream.requests]
    assert seen == [("/tunnel", "HTTP/1.1"), ("/tunnel2", "HTTP/2"), ("/absolute", "HTTP/1.1")]


def test_upstream_mode_passes_through_a_second_proxy(
    bare: Proxy, proxy_factory: Callable[..., Proxy], upstream: Upstream, certs: Certs
) -> None:
    upstream.answer(document("ok"))
    first = proxy_factory(f"upstream:{bare.urls[2]}")
    with Http1Client(upstream.url("https"), certs, via=first.url) as client:
        assert client.get("/x").json() == "ok"


def test_httpx_speaks_http2_through_the_proxy(bare: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document("ok"))
    with httpx_client(certs, proxy=bare.urls[2]) as client:
        response = client.get(upstream.url("h2") + "/x")
    assert (response.json(), response.http_version) == ("ok", "HTTP/2")


def test_openai_clients_work_against_a_reverse_proxy(bare: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document(COMPLETION), path=CHAT)
    with openai_client(f"{bare.url}/v1", certs) as client:
        completion = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert completion.choices[0].message.content == "Hi"
    assert upstream.wait_request().json()["model"] == "m"


def test_the_async_openai_client_works_through_a_regular_proxy(bare: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.answer(document(COMPLETION), path=CHAT)

    async def ask() -> str | None:
        async with async_openai_client(f"{upstream.url('h2')}/v1", certs, proxy=bare.urls[2], http2=True) as client:
            completion = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
            return completion.choices[0].message.content

    assert asyncio.run(ask()) == "Hi"
    assert upstream.wait_request().http_version == "HTTP/2"


def test_many_clients_share_one_mitmdump_and_get_their_own_answers(bare: Proxy, upstream: Upstream) -> None:
    names = [f"answer-{number}" for number in range(200)]
    for name in names:
        upstream.answer(event_stream(sse(name), size=7), key=name)

    def ask(name: str) -> bytes:
        with Http1Client(bare.url) as client:
            return client.get("/x", [("x-answer", name)]).body

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, names)) == [sse(name) for name in names]
    upstream.wait_idle()


def test_the_same_arguments_give_the_same_process(shared_proxy: Callable[..., Proxy], bare: Proxy) -> None:
    assert shared_proxy(*bare.modes, scripts=[H2_UPSTREAM], remote=True) is bare
    assert bare.is_running


def test_commands_and_options_reach_the_running_process(proxy_factory: Callable[..., Proxy]) -> None:
    proxy = proxy_factory("reverse:http://127.0.0.1:9", remote=True)
    assert proxy.command("set", "anticache", "true") is None
    proxy.set_options(anticache=False)
    with pytest.raises(RuntimeError, match="no_such_command"):
        proxy.command("no_such_command")


def test_flows_can_be_looked_at_and_given_to_commands(bare: Proxy, upstream: Upstream) -> None:
    upstream.answer(document({"a": 1}), key="looked-at")
    with Http1Client(bare.url) as client:
        client.get("/x", [("x-answer", "looked-at")])
    assert bare.command("flow.comment", flows_of("looked-at"), "seen") is None
    (flow,) = bare.flows("looked-at")
    assert (flow["comment"], flow["response"]["status"], flow["response"]["body"]) == ("seen", 200, '{"a": 1}')


def test_a_flow_file_holds_the_flows_of_an_ended_process(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path
) -> None:
    upstream.answer(document("ok"))
    proxy = proxy_factory(f"reverse:{upstream.url()}", flow_file=tmp_path / "flows")
    with Http1Client(proxy.url) as client:
        client.get("/kept")
    assert proxy.stop() == 0
    assert [flow.request.path for flow in proxy.saved_flows()] == ["/kept"]


def test_the_log_of_the_process_can_be_waited_for(proxy_factory: Callable[..., Proxy], tmp_path) -> None:
    script = tmp_path / "speaks.py"
    script.write_text("import logging\ndef running(): logging.warning('it runs: %d', 7)\n")
    proxy = proxy_factory(scripts=[script])
    assert proxy.wait_for_log(r"it runs: (\d)")[1] == "7"
    with pytest.raises(TimeoutError, match="it runs: 7"):
        proxy.wait_for_log("never said", timeout=0.01)
    assert proxy.stop() == 0
    with pytest.raises(TimeoutError, match="mitmdump ended"):
        proxy.wait_for_log("never said")


def test_a_process_that_does_not_start_says_why(certs: Certs, tmp_path) -> None:
    proxy = Proxy(certs=certs, options={"no_such_option": 1, "mode": "nonsense"})
    with pytest.raises(ProxyExitedError, match="nonsense") as failure:
        proxy.start()
    assert failure.value.code != 0
    assert not proxy.is_running


def test_a_process_that_ignores_sigterm_is_ended_all_the_same(certs: Certs, tmp_path) -> None:
    script = tmp_path / "deaf.py"
    script.write_text("import signal\ndef running(): signal.signal(signal.SIGTERM, signal.SIG_IGN)\n")
    proxy = Proxy(certs=certs, scripts=[script]).start()
    assert proxy.stop(timeout=0.2) == -signal.SIGKILL
    assert not proxy.is_running


def test_an_error_that_a_script_logs_while_starting_is_a_failed_start(certs: Certs, tmp_path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import logging\ndef running(): logging.error('rules.yaml is missing')\n")
    with pytest.raises(ProxyExitedError, match=r"rules\.yaml is missing") as failure:
        Proxy(certs=certs, scripts=[script]).start()
    assert failure.value.code == 1


def test_a_missing_tool_skips_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert needs_tool(os.path.basename(sys.executable))
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        needs_tool("no-such-tool")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have it"):
        needs_tool("no-such-tool")


def test_the_recordings_are_there(streams_dir) -> None:
    assert any((streams_dir / "events").iterdir())
