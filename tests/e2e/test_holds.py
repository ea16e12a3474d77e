"""No body holds the event loop much longer than mitmproxy alone would, or takes more than a few times its size.

The same body passes twice, each time through a mitmdump of its own: at a path that no rule matches, which is mitmproxy
alone, and at one that is forced. A probe in the process (harness/scripts/probe.py) measures both.
"""

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from harness import Answer, Data, End, Head, Http1Client, Proxy, Upstream, flows_of, sse
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, RESPONSES, STREAM, choice, chunk, request

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux's /proc"
)

MEGABYTE: Final = 1_000_000
MAX_BODY: Final = 32 * 1024 * 1024
RULES: Final = f"""\
rules:
  - {{name: plain, hosts: ["127.0.0.1"], models: [plain], force_upstream_plain: true, max_body: {MAX_BODY}}}
  - {{name: all, hosts: ["127.0.0.1"], force_upstream_stream: true, max_body: {MAX_BODY}}}
"""
IMAGES: Final = "/v1/images/generations"
PROBE: Final = SCRIPTS / "probe.py"
# Seconds. A shorter hold is none, whatever mitmproxy alone does with the body: 10 ms were measured, and a busy machine
# shows more.
NOTICED: Final = 0.05
# How often a hold that is too long is measured again: what the code does shows each time, what else runs does not.
TRIES: Final = 4


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(size // MEGABYTE)) + packer.flush()


def small_values(size: int) -> list[dict[str, object]]:
    """A list whose JSON has about this size."""
    one = {"role": "user", "content": "Hi", "n": 1, "x": None}
    return [one] * (size // len(json.dumps(one)))


def small_events(size: int) -> bytes:
    """Events that no template fits: each differs from the one before."""
    numbers = random.Random(1)
    events = [sse(chunk(choice(content="a", **{f"x{numbers.randrange(1000)}": 1})), done=False) for _ in range(1000)]
    return b"".join(events * (size // sum(map(len, events)))) + sse(chunk(choice(finish_reason="stop")))


def terminal(size: int) -> bytes:
    response = {"id": "r", "object": "response", "status": "completed", "output": [], "metadata": small_values(size)}
    return sse({"type": "response.completed", "response": response}, done=False)


def document(size: int) -> bytes:
    return json.dumps({"object": "chat.completion", "choices": small_values(size)}).encode()


def streaming() -> bytes:
    return json.dumps(request("plain", stream=True)).encode()


def plain(**message: object) -> bytes:
    """A plain answer, for a client that asked for a stream."""
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def logprobs(size: int) -> bytes:
    token = {"token": "word ", "logprob": -0.5, "bytes": list(b"word "), "top_logprobs": []}
    count = size // len(json.dumps(token))
    said = {"message": {"content": "word " * count}, "logprobs": {"content": [token] * count}, "finish_reason": "stop"}
    return json.dumps({"choices": [said]}).encode()


def asked(size: int) -> bytes:
    return json.dumps(request(messages=small_values(size))).encode()


def empty_values(size: int) -> bytes:
    """What takes the most memory for its length."""
    response = {"id": "r", "object": "response", "status": "completed", "output": []}
    event = sse({"type": "response.completed", "response": response | {"metadata": [0]}}, done=False)
    return event.replace(b"[0]", b"[" + b"{}," * (size // 3) + b"{}]")


def names(size: int) -> dict[str, int]:
    return {f"name{number}": number for number in range(size // 20)}


def choices(size: int) -> bytes:
    many = [{"index": index, "delta": {"content": "a"}, "finish_reason": "stop"} for index in range(size // 64)]
    return sse({"object": "chat.completion.chunk", "choices": many})


def image(size: int) -> bytes:
    return sse({"type": "image_generation.completed", "b64_json": "A" * size}, done=False)


@dataclass(frozen=True)
class Case:
    """A body, and how much of it is kept. `memory`: how many times that the process may grow, beyond what mitmproxy
    alone takes."""

    memory: float
    kept: int
    answer: Callable[[], bytes] = lambda: STREAM
    request: Callable[[], bytes] = lambda: json.dumps(request()).encode()
    path: str = CHAT
    status: int = 200
    content_type: str = "text/event-stream"
    coding: str = ""
    request_coding: str = ""


CASES: Final = {
    "a bomb as an answer": Case(2, MAX_BODY, lambda: bomb(1000 * MEGABYTE), coding="gzip", status=502),
    "a bomb as a request": Case(2, MAX_BODY, request=lambda: bomb(1000 * MEGABYTE), request_coding="gzip"),
    "a terminal event": Case(15, 5 * MEGABYTE, lambda: terminal(5 * MEGABYTE), path=RESPONSES),
    "an event of empty values": Case(40, 5 * MEGABYTE, lambda: empty_values(5 * MEGABYTE), path=RESPONSES),
    "an image": Case(6, 20 * MEGABYTE, lambda: image(20 * MEGABYTE), path=IMAGES),
    "small events": Case(2, 5 * MEGABYTE, lambda: small_events(5 * MEGABYTE)),
    "tiny events": Case(4, MEGABYTE, lambda: b"data:{}\n\n" * (MEGABYTE // 9) + STREAM),
    "lines in one event": Case(8, MEGABYTE, lambda: b"data:{}\n" * (MEGABYTE // 8) + b"\n" + STREAM),
    "an answer in JSON": Case(2, 20 * MEGABYTE, lambda: document(20 * MEGABYTE), content_type="application/json"),
    "text as events": Case(
        10, 20 * MEGABYTE, lambda: plain(content="word " * (4 * MEGABYTE)), streaming, content_type="application/json"
    ),
    "small values as events": Case(
        15, 5 * MEGABYTE, lambda: plain(x=small_values(5 * MEGABYTE)), streaming, content_type="application/json"
    ),
    "tokens as events": Case(
        15, 5 * MEGABYTE, lambda: logprobs(5 * MEGABYTE), streaming, content_type="application/json"
    ),
    "names in an event": Case(
        30, 5 * MEGABYTE, lambda: sse(chunk(choice(content="a", finish_reason="stop"), **names(5 * MEGABYTE)))
    ),
    "choices in an event": Case(45, 5 * MEGABYTE, lambda: choices(5 * MEGABYTE)),
    "a usage": Case(
        15, 5 * MEGABYTE, lambda: sse(chunk(choice(content="a", finish_reason="stop"), usage=names(5 * MEGABYTE)))
    ),
    "names in a request": Case(6, 20 * MEGABYTE, request=lambda: json.dumps(request(**names(20 * MEGABYTE))).encode()),
    "text in a request": Case(
        8, 20 * MEGABYTE, request=lambda: json.dumps(request(user="ä\n" * (7 * MEGABYTE)), ensure_ascii=False).encode()
    ),
    "a request": Case(6, 20 * MEGABYTE, request=lambda: asked(20 * MEGABYTE)),
}


class Measured(NamedTuple):
    hold: float
    memory: int


class Meter:
    """Sends a case through a mitmdump of its own."""

    def __init__(self, start: Callable[[], Proxy], upstream: Upstream, case: Case) -> None:
        self._start, self._upstream, self._case = start, upstream, case
        self._request, self._answer = case.request(), case.answer()

    def measure(self, path: str, status: int) -> Measured:
        case, proxy = self._case, self._start()
        coded = [("Content-Encoding", case.request_coding)] if case.request_coding else []
        try:
            with Http1Client(proxy.url, timeout=120) as client:
                # What a first request loads and compiles is not its body's.
                self._upstream.answer(Head(), Data(STREAM), End())
                client.post(path, request())
                headers = {"Content-Encoding": case.coding} if case.coding else {}
                head = Head(content_type=case.content_type, headers=headers)
                self._upstream.answer(Answer((head, Data(self._answer), End())))
                proxy.command("probe.start")
                response = client.post(path, self._request, coded)
                hold, memory = proxy.command("probe.stop")
                assert response.status == status, response.body[:1000]
        finally:
            proxy.stop()
        return Measured(float(hold), int(memory))


@pytest.mark.parametrize("name", CASES)
def test_a_body_holds_the_loop_and_takes_memory_hardly_more_than_in_mitmproxy_alone(
    name: str,
    proxy_factory: Callable[..., Proxy],
    shared_rules: Callable[[str], object],
    upstream: Upstream,
) -> None:
    case = CASES[name]

    def start() -> Proxy:
        options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
        return proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON, PROBE], options=options, remote=True)

    meter = Meter(start, upstream, case)
    for _ in range(TRIES):
        alone, forced = meter.measure("/alone", 200), meter.measure(case.path, case.status)
        times = (forced.memory - alone.memory) / case.kept
        held = f"{1000 * forced.hold:.1f} ms, {1000 * alone.hold:.1f} alone"
        print(f"\n{name}: {held}; memory {times:.1f} times what is kept")
        assert times <= case.memory
        if forced.hold <= max(3 * alone.hold, NOTICED):
            return
    pytest.fail(f"held for {held}")


def test_neither_does_a_command_that_reads_a_saved_body_again(
    proxy_factory: Callable[..., Proxy], shared_rules: Callable[[str], object], upstream: Upstream
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON, PROBE], options=options, remote=True)
    with Http1Client(proxy.url, timeout=120) as client:
        upstream.answer(Head(), Data(b"data:{}\n\n" * (MEGABYTE // 9) + STREAM), End())
        assert client.post(CHAT, request()).status == 200
    holds = []
    while len(holds) < TRIES:
        since = proxy.mark()
        proxy.command("probe.start")
        proxy.command("force_stream.aggregate", flows_of(None))
        proxy.wait_for_log("finish stop", since=since)
        hold, _ = proxy.command("probe.stop")
        if float(hold) < NOTICED:
            return
        holds.append(hold)
    pytest.fail(f"held for {holds} seconds")
