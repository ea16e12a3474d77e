"""Faults made on purpose, between a client and an upstream: what the client and the person see of them."""

import json
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from harness import (
    H2_UPSTREAM,
    Answer,
    Certs,
    CutChunk,
    Data,
    Head,
    Http1Client,
    Http2Client,
    Proxy,
    Response,
    Upstream,
    document,
    event_stream,
    sse,
)
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, DOCUMENT, EVENTS, STREAM, choice, chunk, request

RULE = """\
- name: "{name}"
  hosts: ["127.0.0.1"]
  models: ["{name}"]
  force_upstream_stream: true
  idle_timeout: {idle}
  retries: {retries}
  inject: {{{inject}}}
"""
INJECT = {
    "cut": "cut_after: 2",
    "cut-at-once": "cut_after: 0",
    "error": "error_after: 2",
    "undone": "drop_done: true",
    "stall": "stall: 0.6",
    "long-stall": "stall: 60",
    "split": "split_utf8: true",
    "labelled": "content_type: text/html",
    "refused": "status: 429, retry_after: 20",
    "garbage": "garbage: 2",
    "delay": "delay: 0.6",
    "empty": "empty: true",
    "several": "stall: 0.1, cut_after: 2, content_type: text/plain",
    "twice": "status: 503, retry_after: 0, times: 2",
    "once": "cut_after: 1, times: 1",
    "never": "cut_after: 9",
    "none": "",
}
SPLIT_STREAM = sse(chunk(choice(content="Grüße, 世界 🙂")), chunk(choice(finish_reason="stop")))


@pytest.fixture(scope="session")
def rules_of_inject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inject") / "rules.yaml"
    rules = (
        RULE.format(name=name, inject=inject, idle=1 if name == "long-stall" else 30, retries=int(name == "once"))
        for name, inject in INJECT.items()
    )
    path.write_text("rules:\n" + "".join(rules))
    return path


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy], upstream: Upstream, rules_of_inject: Path) -> Proxy:
    modes = [f"reverse:{upstream.url(listener)}" for listener in ("http", "h2")]
    options = {"force_stream_rules": rules_of_inject, "connection_strategy": "lazy"}
    return shared_proxy(*modes, scripts=[ADDON, H2_UPSTREAM], options=options, remote=True)


@pytest.fixture
def counting_proxy(proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_of_inject: Path) -> Proxy:
    """One that has not failed yet: for rules with `times`."""
    options = {"force_stream_rules": rules_of_inject, "connection_strategy": "lazy"}
    return proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options, remote=True)


@pytest.fixture(params=["h1", "h2"])
def ask(proxy: Proxy, certs: Certs, request: pytest.FixtureRequest) -> Callable[..., Response]:
    """Asks over HTTP/1.1, or HTTP/2 on both sides, and sees that the connection is good for another request."""

    def ask(name: str, key: str = "") -> Response:
        connect = Http1Client if request.param == "h1" else Http2Client
        url = proxy.urls[0] if request.param == "h1" else proxy.urls[1].replace("http:", "https:")
        with connect(url, certs) as client:
            response = client.post(CHAT, {"model": name, "messages": []}, [("x-answer", key or name)])
            assert client.post(CHAT, {"model": "none", "messages": []}).json() == DOCUMENT
        return response

    return ask


# Those that have tests of their own.
APART = ("none", "never", "split", "empty", "twice", "once")
OUTCOMES: dict[str, tuple[int, str]] = {
    "cut": (502, "stream_truncated"),
    "cut-at-once": (502, "stream_truncated"),
    "error": (502, "injected"),
    "long-stall": (504, "stream_timeout"),
    "refused": (429, "injected"),
    "several": (502, "stream_truncated"),
}


@pytest.mark.parametrize("name", [name for name in INJECT if name not in APART])
def test_an_injected_fault_is_what_a_real_one_is_and_says_so(
    proxy: Proxy, upstream: Upstream, ask: Callable[..., Response], name: str
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    since = proxy.mark()
    response = ask(name)
    status, code = OUTCOMES.get(name, (200, ""))
    assert (response.status, response.ended) == (status, "complete")
    assert response.header("content-type") == "application/json"
    if code:
        assert response.json()["error"]["code"] == code
    else:
        assert response.json() == DOCUMENT
    proxy.wait_for_log(rf"{name}: chat {name}, {status}, FAULT INJECTED, ", since=since)
    flow = proxy.flows(name)[-1]
    assert f"{name}: chat {name}, {status}, FAULT INJECTED, " in flow["comment"]
    assert flow["marked"] == ":warning:"
    key, _, value = INJECT[name].partition(": ")
    injected = json.loads(flow["metadata"]["force_stream.injected"])
    assert key in injected
    if "," not in value:
        assert json.dumps(injected[key]).strip('"') == value


def test_a_rule_that_injects_nothing_says_nothing_of_it(
    proxy: Proxy, upstream: Upstream, ask: Callable[..., Response]
) -> None:
    upstream.answer_always(event_stream(STREAM))
    assert ask("none").json() == DOCUMENT
    flow = proxy.flows("none")[-1]
    assert "FAULT" not in flow["comment"]
    assert flow["marked"] == ""
    assert "force_stream.injected" not in flow["metadata"]


def test_a_fault_that_did_not_come_to_pass_is_not_said(
    proxy: Proxy, upstream: Upstream, ask: Callable[..., Response]
) -> None:
    upstream.answer_always(event_stream(STREAM))
    assert ask("never").json() == DOCUMENT
    flow = proxy.flows("never")[-1]
    assert "FAULT" not in flow["comment"]
    assert "force_stream.injected" not in flow["metadata"]


def test_an_application_that_tries_again_is_tested_without_asking_the_upstream(
    counting_proxy: Proxy, upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM))
    with Http1Client(counting_proxy.url) as client:
        responses = [client.post(CHAT, request("twice")) for _ in range(4)]
    assert [response.status for response in responses] == [503, 503, 200, 200]
    assert responses[0].header("retry-after") == "0"
    assert len(upstream.requests) == 2
    assert ["FAULT" in flow["comment"] for flow in counting_proxy.flows()] == [True, True, False, False]


def test_openais_client_gets_through_two_injected_failures_by_itself(counting_proxy: Proxy, upstream: Upstream) -> None:
    """As docs/failures.md says of it."""
    upstream.answer_always(event_stream(STREAM))
    direct = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{counting_proxy.url}/v1", api_key="k", http_client=direct) as client:
        answer = client.chat.completions.create(model="twice", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "Hello"
    assert len(upstream.requests) == 1
    assert len(counting_proxy.flows()) == 3


def test_the_addons_own_retry_counts_as_a_try(counting_proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    with Http1Client(counting_proxy.url) as client:
        assert client.post(CHAT, request("once"), [("x-answer", "retried")]).json() == DOCUMENT
    assert len(upstream.requests) == 2
    flow = next(flow for flow in counting_proxy.flows("retried") if "force_stream.retried_as" in flow["metadata"])
    assert flow["comment"].endswith(", try 2; FAULT INJECTED in the first try")
    assert json.loads(flow["metadata"]["force_stream.injected"]) == {"cut_after": 1}


def test_an_empty_stream_is_followed_by_the_plain_request(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer(document(DOCUMENT), key="emptied")
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request("empty"), [("x-answer", "emptied")]).json() == DOCUMENT
    flow = next(flow for flow in proxy.flows("emptied") if "force_stream.retried_as" in flow["metadata"])
    assert json.loads(flow["metadata"]["force_stream.injected"]) == {"empty": True}


def test_split_characters_come_whole(proxy: Proxy, upstream: Upstream, ask: Callable[..., Response]) -> None:
    upstream.answer(event_stream(SPLIT_STREAM), key="split")
    upstream.answer_always(event_stream(STREAM))
    assert ask("split").json()["choices"][0]["message"]["content"] == "Grüße, 世界 🙂"
    flow = proxy.flows("split")[-1]
    assert "split: chat split, 200, FAULT INJECTED, " in flow["comment"]
    pieces = flow["metadata"]["force_stream.times"][1::2]
    # Each byte of the event with those characters came by itself.
    assert pieces[:20] == list(range(1, 21))


def test_the_wrong_label_is_kept_with_the_stream(
    proxy: Proxy, upstream: Upstream, ask: Callable[..., Response]
) -> None:
    upstream.answer_always(event_stream(STREAM))
    assert ask("labelled").json() == DOCUMENT
    assert proxy.flows("labelled")[-1]["metadata"]["force_stream.sse_type"] == "text/html"


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        pytest.param(event_stream(STREAM, framing="close"), 200, id="a stream that the close ends"),
        pytest.param(event_stream(STREAM, headers={"Connection": "close"}), 200, id="a connection that is closed"),
        pytest.param(Answer.of(Head(), Data(STREAM), CutChunk()), 200, id="a cut behind the end"),
        pytest.param(Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), CutChunk()), 502, id="a cut"),
    ],
)
def test_what_the_upstream_does_during_a_stall_comes_behind_it(
    proxy: Proxy, upstream: Upstream, ending: Answer, status: int
) -> None:
    upstream.answer(ending)
    with Http1Client(proxy.url) as client:
        response = client.post(CHAT, request("stall"), [("x-answer", "during")])
    assert response.status == status
    flow = proxy.flows("during")[-1]
    events = 5 if status == 200 else 2
    assert flow["metadata"]["force_stream.events"] == events, "all that came before the end is there"


def test_a_document_can_be_cut_at_its_begin_alone(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer_always(document(DOCUMENT))
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request("cut")).json() == DOCUMENT
        assert client.post(CHAT, request("cut-at-once")).json()["error"]["code"] == "stream_truncated"


def test_without_the_stream_layer_nothing_is_injected_and_nothing_says_so(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_of_inject: Path
) -> None:
    upstream.answer_always(event_stream(STREAM))
    without = SCRIPTS / "without_stream_layer.py"
    proxy = proxy_factory(
        f"reverse:{upstream.url()}",
        scripts=[without, ADDON],
        options={"force_stream_rules": rules_of_inject},
        remote=True,
    )
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request("cut")).json() == DOCUMENT
    assert "FAULT" not in proxy.flows()[-1]["comment"]
