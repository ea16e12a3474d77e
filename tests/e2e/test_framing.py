"""However an upstream frames and splits a body, the answer is the same, also behind others on the same connection."""

import json
from collections.abc import Callable
from random import Random

import pytest
from harness import End, Head, Http1Client, Pause, Proxy, Raw, Upstream
from harness.paths import ADDON
from harness.samples import CHAT, DOCUMENT, STREAM, request
from harness.steps import Step

RULES = """\
rules:
  - {name: all, hosts: ["*"], endpoints: [chat], force_upstream_stream: true}
"""
LARGE = b": " + b"x" * 200_000 + b"\n\n"


@pytest.fixture
def proxy(
    shared_proxy: Callable[..., Proxy], session_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Proxy:
    rules = tmp_path_factory.getbasetemp() / "framing.yaml"
    rules.write_text(RULES)
    modes = [f"reverse:{session_upstream.url(listener, 'localhost')}" for listener in ("http", "https")]
    options = {"force_stream_rules": rules, "connection_strategy": "lazy"}
    return shared_proxy(*modes, scripts=[ADDON], options=options)


def framed(body: bytes, random: Random) -> bytes:
    """The body in chunks of many sizes, some with an extension (RFC 9112, section 7.1.1)."""
    out, at = b"", 0
    while at < len(body):
        size = random.choice((1, 2, 7, 40, 300, 70_000))
        piece = body[at : at + size]
        head = b"%0*x" % (random.choice((1, 1, 4)), len(piece))
        out += head + random.choice((b"", b"", b"", b";a=b")) + b"\r\n" + piece + b"\r\n"
        at += size
    return out


def split(wire: bytes, random: Random) -> list[Step]:
    """The bytes in writes of many sizes; after some of them the proxy has time to read."""
    steps: list[Step] = []
    at = 0
    while at < len(wire):
        size = random.choice((1, 3, 50, 400, 5_000, 100_000))
        steps.append(Raw(wire[at : at + size]))
        at += size
        if len(steps) < 200 and random.random() < 0.3:
            steps.append(Pause(0.001))
    return steps


@pytest.mark.parametrize("seed", range(12))
def test_a_body_of_any_chunks_is_the_same_answer(proxy: Proxy, upstream: Upstream, seed: int) -> None:
    random = Random(seed)
    with Http1Client(proxy.urls[seed % 2]) as client:
        for turn in range(9):
            kind = random.choice(("forced", "own", "elsewhere"))
            body = random.choice((STREAM, LARGE + STREAM)) if kind != "elsewhere" else json.dumps(DOCUMENT).encode()
            key = f"{seed}-{turn}"
            content_type = "application/json" if kind == "elsewhere" else "text/event-stream"
            upstream.answer(Head(content_type=content_type), *split(framed(body, random), random), End(), key=key)
            path = "/v1/embeddings" if kind == "elsewhere" else CHAT
            asked = request(stream=True) if kind == "own" else request()
            headers = [("Content-Type", "application/json"), ("x-answer", key)]
            response = client.request("POST", path, headers, json.dumps(asked).encode())
            assert response.status == 200
            if kind == "forced":
                assert response.json() == DOCUMENT
            else:
                assert response.body == body
    assert upstream.requests[-1].connection == upstream.requests[0].connection
