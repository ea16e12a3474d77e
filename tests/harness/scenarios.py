"""What has to work in every mode of mitmproxy: the same few requests, whichever way they take.

    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_every_way(scenario, upstream):
        scenario(upstream, http1_post(url, certs))

The proxy has the rules of `rules_for` and short pauses between tries (scripts/quick_retries.py).
"""

import itertools
import json
from collections.abc import Callable, Iterable
from typing import Protocol

from harness.certs import Certs
from harness.clients import Http1Client, Response
from harness.record import Request
from harness.samples import CHAT, DOCUMENT, STREAM, request
from harness.steps import Answer, Close, Data, End, Gate, Head, WaitFor, document, event_stream
from harness.upstream import Upstream

_RULES = """\
rules:
  - name: slow
    hosts: [{hosts}]
    models: ["slow"]
    force_upstream_stream: true
    heartbeat: 0.2
  - name: tries
    hosts: [{hosts}]
    models: ["again"]
    force_upstream_stream: true
    retries: 1
  - name: learns
    hosts: [{hosts}]
    models: ["learn-*"]
    learn: true
  - name: forced
    hosts: [{hosts}]
    force_upstream_stream: true
"""

_numbers = itertools.count()


def rules_for(*hosts: str) -> str:
    return _RULES.format(hosts=", ".join(f'"{host}"' for host in hosts))


class Post(Protocol):
    """One chat request over a connection of its own; `then` is called when so many heartbeats have come."""

    def __call__(self, model: str, /, *, after: int = 0, then: Callable[[], object] = lambda: None) -> Response: ...


class http1_post:  # noqa: N801
    """A `Post` over HTTP/1.1."""

    def __init__(
        self, url: str, certs: Certs, *, via: str | None = None, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._url, self._certs, self._via, self._headers = url, certs, via, list(headers)

    def __call__(self, model: str, /, *, after: int = 0, then: Callable[[], object] = lambda: None) -> Response:
        headers = [("Content-Type", "application/json"), *self._headers]
        with Http1Client(self._url, self._certs, via=self._via) as client:
            client.start("POST", CHAT, headers, json.dumps(request(model)).encode())
            return client.receive_after(after, then=then)


def a_plain_request_is_forced(upstream: Upstream, post: Post) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    response = post("m")
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
    assert upstream.wait_request().json()["stream"] is True


def a_cut_stream_gives_a_502_in_json(upstream: Upstream, post: Post) -> None:
    upstream.answer([Head(), Data(STREAM[:200]), Close()])
    response = post("m")
    assert (response.status, response.json()["error"]["code"]) == (502, "stream_truncated")


def heartbeats_come_while_the_upstream_is_silent(upstream: Upstream, post: Post) -> None:
    gate = Gate()
    upstream.answer([WaitFor(gate), Head(), Data(STREAM), End()])
    response = post("slow", after=2, then=gate.open)
    assert (response.status, response.json(), response.ended) == (200, DOCUMENT, "complete")
    assert response.body.startswith(b"  ")


def a_retry_goes_to_the_same_upstream(upstream: Upstream, post: Post) -> None:
    upstream.answer([Head(), Data(STREAM[:200]), Close()])
    upstream.answer(event_stream(STREAM))
    response = post("again")
    assert (response.status, response.json()) == (200, DOCUMENT)
    first, second = upstream.requests
    assert first.listener == second.listener
    assert [first.header(name) for name in ("host", ":authority")] == [
        second.header(name) for name in ("host", ":authority")
    ]


def what_an_upstream_demands_is_heard_and_learned(upstream: Upstream, post: Post) -> None:
    model = f"learn-{next(_numbers)}"  # what a proxy has learned, it keeps

    def answer(asked: Request) -> Answer:
        refusal = {"error": {"message": "This model only support stream mode", "code": None}}
        return event_stream(STREAM) if asked.json().get("stream") else document(refusal, status=400)

    upstream.handle(answer)
    for _ in range(2):
        response = post(model)
        assert (response.status, response.json()) == (200, DOCUMENT)
    assert [bool(asked.json().get("stream")) for asked in upstream.requests] == [False, True, True]
    assert len({asked.listener for asked in upstream.requests}) == 1


SCENARIOS = [
    a_plain_request_is_forced,
    a_cut_stream_gives_a_502_in_json,
    heartbeats_come_while_the_upstream_is_silent,
    a_retry_goes_to_the_same_upstream,
    what_an_upstream_demands_is_heard_and_learned,
]
