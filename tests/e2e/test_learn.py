"""What the addon does when it hears from an upstream that it must stream. The words: unit/proxy/test_refusals.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
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
    Linger,
    Pause,
    Proxy,
    Request,
    Response,
    Signal,
    Upstream,
    WaitFor,
    document,
    event_stream,
    sse,
)
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, COMPLETIONS, DOCUMENT, EVENTS, SECRET, STREAM, request

BREAK = SCRIPTS / "break_addon.py"
QUICK = SCRIPTS / "quick_retries.py"

# Between a client and an upstream

RULES = """\
rules:
  - name: deaf
    hosts: ["127.0.0.1"]
    models: ["deaf"]
  - name: forced
    hosts: ["127.0.0.1"]
    models: ["forced"]
    force_upstream_stream: true
    learn: true
  - name: beating
    hosts: ["127.0.0.1"]
    models: ["beating-*"]
    learn: true
    heartbeat: 0.2
  - name: beating-plain
    hosts: ["127.0.0.1"]
    models: ["plain-beating"]
    force_upstream_stream: true
    heartbeat: 0.2
  - name: limited-plain
    hosts: ["127.0.0.1"]
    models: ["plain-*"]
    force_upstream_stream: true
    idle_timeout: 0.1
    timeout: 6
    retries: 1
    max_body: 1KiB
  - name: hears
    hosts: ["127.0.0.1"]
    learn: true
"""
SAYING = "This model only support stream mode, please enable the stream parameter to access the model."
REFUSAL = {"error": {"message": SAYING, "type": "invalid_request_error", "param": None, "code": None}}


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], upstream: Upstream, shared_rules: Callable[[str], Path]) -> Proxy:
    """What it has learned it keeps, so each test has a model of its own."""
    modes = [f"reverse:{upstream.url(listener)}" for listener in ("http", "h2")]
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    return shared_proxy(*modes, scripts=[ADDON, QUICK, BREAK, H2_UPSTREAM], options=options, remote=True)


def only_streams(request: Request) -> Answer:
    return event_stream(STREAM, size=10) if request.json().get("stream") else document(REFUSAL, status=400)


def ask(proxy: Proxy, model: str, path: str = CHAT, **members: object) -> Response:
    with Http1Client(proxy.url) as client:
        headers = [("Authorization", f"Bearer {SECRET}"), ("x-answer", model)]
        return client.post(path, {"model": model, **members}, headers)


def test_a_plain_request_that_is_refused_is_forced_and_remembered(proxy: Proxy, upstream: Upstream) -> None:
    upstream.handle(only_streams)
    since = proxy.mark()
    response = ask(proxy, "new")
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert response.header("content-type") == "application/json"
    plain, forced = upstream.requests
    assert plain.json() == {"model": "new"}, "the first one went out as it came"
    assert forced.json() == {"model": "new", "stream": True, "stream_options": {"include_usage": True}}
    assert forced.header("authorization") == f"Bearer {SECRET}"

    line = proxy.wait_for_log(r"hears: 127\.0\.0\.1 answers new only as a stream; .*?: (- \{.*\})$", since=since)
    (rule,) = parse_rules(f"rules:\n  {line[1]}\n", "pasted")
    assert (rule.hosts, rule.models, rule.force_upstream_stream) == (("127.0.0.1",), ("new",), True)

    assert ask(proxy, "new").json() == DOCUMENT
    assert len(upstream.requests) == 3, "the second one is forced at once"
    assert ask(proxy, "newer").json() == DOCUMENT
    assert len(upstream.requests) == 5, "another model is asked first"

    assert SECRET not in proxy.log
    first, second = proxy.flows("new")[:2]
    assert first["metadata"]["force_stream.retried_as"] == [second["id"]]
    assert second["metadata"]["force_stream.retry_of"] == first["id"]
    assert first["marked"] == ":warning:"
    assert first["comment"].endswith(", try 2")
    assert second["metadata"]["force_stream.rule"] == "hears"
    assert all(SECRET not in f"{flow['metadata']}{flow['comment']}" for flow in proxy.flows("new"))


def test_it_learns_over_http2(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    upstream.handle(only_streams)
    with Http2Client(proxy.urls[1].replace("http:", "https:"), certs) as client:
        assert client.post(CHAT, request("over-h2")).json() == DOCUMENT
        assert client.post(CHAT, request("over-h2")).json() == DOCUMENT
    assert [seen.json().get("stream") for seen in upstream.requests] == [None, True, True]
    assert {seen.http_version for seen in upstream.requests} == {"HTTP/2"}


def test_a_request_that_names_no_model_is_learned_too(proxy: Proxy, upstream: Upstream) -> None:
    upstream.handle(only_streams)
    since = proxy.mark()
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, {"messages": []}).json() == DOCUMENT
        assert client.post(CHAT, {"messages": []}).json() == DOCUMENT
    proxy.wait_for_log(r"hears: 127\.0\.0\.1 answers this request only as a stream", since=since)
    assert len(upstream.requests) == 3


def test_nothing_is_learned_from_a_forced_request_that_fails_too(proxy: Proxy, upstream: Upstream) -> None:
    upstream.handle(
        lambda seen: document({"error": {"message": "Out."}}, status=503) if "stream" in seen.json() else None
    )
    upstream.answer_always(document(REFUSAL, status=400))
    response = ask(proxy, "failing")
    assert (response.status, response.json()) == (503, {"error": {"message": "Out."}}), (
        "the last outcome is the client's"
    )
    ask(proxy, "failing")
    assert [seen.json().get("stream") for seen in upstream.requests] == [None, True, None, True]
    assert "answers failing only as a stream" not in proxy.log


def refused_then(upstream: Upstream, *steps: object) -> None:
    upstream.answer(document(REFUSAL, status=400))
    upstream.answer(*steps)


def test_heartbeats_go_to_a_client_that_waits_for_the_forced_request(proxy: Proxy, upstream: Upstream) -> None:
    gate = Gate()
    refused_then(upstream, Head(), Data(sse(EVENTS[0], done=False)), WaitFor(gate), Data(sse(*EVENTS[1:])), End())
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, [("content-type", "application/json")], b'{"model": "beating-1"}')
        response = client.receive_after(2, "POST", then=gate.open)
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")


def test_heartbeats_go_over_http2_too(proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
    gate = Gate()
    refused_then(upstream, Head(), Data(sse(EVENTS[0], done=False)), WaitFor(gate), Data(sse(*EVENTS[1:])), End())
    with Http2Client(proxy.url.replace("http:", "https:"), certs) as client:
        headers = [("content-type", "application/json")]
        stream = client.start("POST", CHAT, headers, b'{"model": "beating-2"}')
        client.receive_some(stream)
        client.receive_some(stream)
        assert set(client.receive_some(stream).chunks) == {b" "}
        gate.open()
        response = client.receive(stream)
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")


def test_an_answer_to_a_plain_request_gets_no_heartbeats(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(Pause(0.7), *document(DOCUMENT).steps)
    response = ask(proxy, "beating-3")
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert response.body.startswith(b"{")


@pytest.mark.parametrize("model", ["gone", "beating-4"])
def test_a_client_that_leaves_ends_the_forced_request(proxy: Proxy, upstream: Upstream, model: str) -> None:
    begun = Gate()
    refused_then(upstream, Head(), Data(sse(EVENTS[0], done=False)), Signal(begun), Linger())
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, [("content-type", "application/json")], b'{"model": "%s"}' % model.encode())
        forced = upstream.wait_request(2)
        begun.wait()
        proxy.settle()
        client.close()
        assert forced.wait_closed()
    assert forced.abandoned


@pytest.mark.parametrize("part", ["_answer", "send_response"])
def test_a_fault_of_the_addon_in_the_forced_request_is_an_error(proxy: Proxy, upstream: Upstream, part: str) -> None:
    upstream.handle(only_streams)
    response = ask(proxy, f"hears/break-try-{part}")
    assert response.status == 502
    assert response.json()["error"]["code"] == "force_stream_error"
    assert ask(proxy, f"hears-after-{part}").json() == DOCUMENT


def test_a_request_that_cannot_be_forced_keeps_its_refusal(proxy: Proxy, upstream: Upstream) -> None:
    upstream.handle(only_streams)
    since = proxy.mark()
    response = ask(proxy, "best", COMPLETIONS, prompt="Once", best_of=2)
    assert (response.status, response.json()) == (400, REFUSAL)
    proxy.wait_for_log(
        r"hears: the upstream says that it must stream, but the request cannot be forced: .*best_of", since=since
    )
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("model", "members", "answer"),
    [
        pytest.param("deaf", {}, document(REFUSAL, status=400), id="the rule does not learn"),
        pytest.param("other", {}, document({"error": {"message": "No."}}, status=400), id="another refusal"),
        pytest.param("streaming", {"stream": True}, document(REFUSAL, status=400), id="it asked for a stream"),
        pytest.param("fine", {}, document(DOCUMENT), id="it was answered"),
        pytest.param("chatty", {}, document({"said": SAYING}), id="an answer that holds the words"),
    ],
)
def test_everything_else_goes_through_as_it_came(
    proxy: Proxy, upstream: Upstream, model: str, members: dict, answer: Answer
) -> None:
    upstream.answer_always(answer)
    response = ask(proxy, model, **members)
    (head, data) = answer.steps[:2]
    assert (response.status, response.body) == (head.status, data.data)
    assert [seen.json() for seen in upstream.requests] == [{"model": model, **members}]


def test_a_rule_that_forces_has_nothing_to_learn(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer_always(document(REFUSAL, status=400))
    response = ask(proxy, "forced")
    assert (response.status, response.json()) == (400, REFUSAL)
    assert [seen.json()["stream"] for seen in upstream.requests] == [True]


def test_a_stream_that_nobody_asked_for_becomes_the_document_and_is_remembered(
    proxy: Proxy, upstream: Upstream
) -> None:
    upstream.handle(lambda _: event_stream(STREAM, size=10))
    since = proxy.mark()
    for _ in range(2):
        response = ask(proxy, "unasked")
        assert (response.status, response.json()) == (200, DOCUMENT)
        assert response.header("content-type") == "application/json"
    assert [seen.json().get("stream") for seen in upstream.requests] == [None, True]
    proxy.wait_for_log(r"hears: 127\.0\.0\.1 answers unasked only as a stream", since=since)
    assert "learned: 127.0.0.1 unasked (chat) must stream" in proxy.command("force_stream.rules")


def test_a_plain_request_that_has_to_stream_without_options_gets_there(proxy: Proxy, upstream: Upstream) -> None:
    rejection = {"error": {"message": "Unknown parameter: 'stream_options'.", "param": "stream_options"}}

    def handler(seen: Request) -> Answer:
        return document(rejection, status=400) if "stream_options" in seen.json() else only_streams(seen)

    upstream.handle(handler)
    assert [ask(proxy, "bare").json() for _ in range(2)] == [DOCUMENT, DOCUMENT]
    assert [sorted(seen.json().keys() - {"model"}) for seen in upstream.requests] == [
        [],
        ["stream", "stream_options"],
        ["stream"],
        ["stream"],
    ]


def test_with_the_switch_off_it_neither_learns_nor_remembers(proxy: Proxy, upstream: Upstream) -> None:
    upstream.handle(only_streams)
    assert ask(proxy, "switched").json() == DOCUMENT
    proxy.set_options(force_stream=False)
    try:
        assert ask(proxy, "switched").status == 400
    finally:
        proxy.set_options(force_stream=True)
    assert [seen.json().get("stream") for seen in upstream.requests] == [None, True, None]


# A request that is known to have to be plain

CANNOT = {"error": {"message": "Streaming is not supported for this model."}}


def know_plain(proxy: Proxy, upstream: Upstream, model: str) -> None:
    """Have it learn that this model cannot stream."""
    upstream.answer(document(CANNOT, status=400))
    upstream.answer(document(DOCUMENT))
    assert ask(proxy, model).json() == DOCUMENT


def test_heartbeats_go_to_a_client_whose_request_is_known_to_have_to_be_plain(proxy: Proxy, upstream: Upstream) -> None:
    know_plain(proxy, upstream, "plain-beating")
    gate = Gate()
    upstream.answer(WaitFor(gate), *document(DOCUMENT).steps)
    with Http1Client(proxy.url) as client:
        headers = [("content-type", "application/json"), ("authorization", f"Bearer {SECRET}")]
        client.start("POST", CHAT, headers, b'{"model": "plain-beating"}')
        response = client.receive_after(2, "POST", then=gate.open)
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
    assert [seen.json().get("stream") for seen in upstream.requests] == [True, None, None]


LARGE = DOCUMENT | {"padding": "x" * 2000}
CUT_SHORT = Answer.of(Head(content_type="application/json"), Data(b'{"choices": ['), CutChunk())
SILENT = Answer.of(Linger())

# What the upstream answers to such a request, the status that the client gets, and the code of its error.
KNOWN_PLAIN: dict[str, tuple[list[Answer], int, str]] = {
    "a failure that passes": ([document({}, status=503), document(DOCUMENT)], 200, ""),
    "a failure that stays": ([document({}, status=503)] * 2, 503, ""),
    "a failure for good": ([document({"error": {"message": "No."}}, status=404)], 404, ""),
    "cut off, then whole": ([CUT_SHORT, document(DOCUMENT)], 200, ""),
    "cut off": ([CUT_SHORT] * 2, 502, "stream_truncated"),
    "silent for longer than idle_timeout": ([Answer.of(Pause(0.5), document(DOCUMENT).steps)], 200, ""),
    "silent": ([SILENT], 504, "stream_timeout"),
    "larger than max_body": ([document(LARGE)], 200, ""),
    "a stream larger than max_body": ([event_stream(sse(*EVENTS * 20))], 502, "stream_too_large"),
}


@pytest.mark.parametrize("case", KNOWN_PLAIN)
def test_a_request_that_is_known_to_have_to_be_plain_has_the_limits_and_retries_of_its_rule(
    proxy: Proxy, upstream: Upstream, case: str
) -> None:
    answers, status, code = KNOWN_PLAIN[case]
    model = f"plain-{case}"
    know_plain(proxy, upstream, model)
    for answer in answers:
        upstream.answer(answer)
    since = proxy.mark()
    response = ask(proxy, model)
    assert (response.status, response.header("content-type")) == (status, "application/json")
    assert (response.json().get("error") or {}).get("code", "") in (code or None, code)
    assert [seen.json().get("stream") for seen in upstream.requests[2:]] == [None] * len(answers)
    proxy.wait_for_log(rf"limited-plain: chat {model}, {status}", since=since)


def test_the_plain_try_after_a_refusal_has_them_too(proxy: Proxy, upstream: Upstream) -> None:
    for answer in (document(CANNOT, status=400), document({}, status=503), document(DOCUMENT)):
        upstream.answer(answer)
    assert ask(proxy, "plain-first").json() == DOCUMENT
    assert [seen.json().get("stream") for seen in upstream.requests] == [True, None, None]


# What is only watched


@pytest.mark.parametrize(
    ("path", "asked"), [(CHAT, {}), (COMPLETIONS, {"prompt": "", "best_of": 2})], ids=["learn", "left as it came"]
)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (CUT_SHORT, "stream_truncated"),
        (Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), CutChunk()), "stream_truncated"),
        (Answer.of(Close()), "upstream_unreachable"),
    ],
    ids=["plain", "a stream", "nothing"],
)
def test_an_answer_that_breaks_off_is_an_error_of_the_apis_shape(
    proxy: Proxy, upstream: Upstream, answer: Answer, code: str, path: str, asked: dict
) -> None:
    upstream.answer(answer)
    response = ask(proxy, "plain-left" if asked else "cut", path, **asked)
    assert (response.status, response.header("content-type")) == (502, "application/json")
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("upstream_error", None, code)
    assert len(upstream.requests) == 1


def test_a_whole_document_before_a_cut_is_the_answer(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(Head(content_type="application/json"), *document(DOCUMENT).steps[1:2], CutChunk())
    assert ask(proxy, "cut").json() == DOCUMENT
