"""Events that come one by one take the short way in mitmdump, over HTTP/1.1 and HTTP/2, with TLS and without."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Data, End, Gate, Head, Http1Client, Proxy, Upstream, WaitFor, sse
from harness.paths import ADDON, SCRIPTS
from harness.record import TIMEOUT
from harness.samples import CHAT, choice, chunk, request

RULES = """\
rules:
  - {name: all, hosts: ["*"], force_upstream_stream: true}
"""
FIRST, LATER = 4, 8


def event(number: int) -> bytes:
    return sse(chunk(choice(content=f"word{number} ")), done=False)


@pytest.mark.parametrize("listener", ["http", "https", "h2"])
@pytest.mark.parametrize("strategy", ["lazy", "eager"])
def test_events_that_come_one_by_one_go_straight_to_the_answer(
    listener: str,
    strategy: str,
    proxy_factory: Callable[..., Proxy],
    shared_rules: Callable[[str], Path],
    upstream: Upstream,
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": strategy}
    mode = f"reverse:{upstream.url(listener, 'localhost')}"
    proxy = proxy_factory(mode, scripts=[ADDON, SCRIPTS / "short_way.py"], options=options, remote=True)

    def until(short: int, long: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        while (came := proxy.command("short_way.events")) != [f"{short}", f"{long}"]:
            assert time.monotonic() < deadline, came

    steps = [Head(), Data(b"".join(map(event, range(FIRST))))]
    gates = [Gate() for _ in range(LATER + 1)]
    for number in range(LATER):
        steps += [WaitFor(gates[number]), Data(event(FIRST + number))]
    upstream.answer(*steps, WaitFor(gates[-1]), Data(sse(chunk(choice(finish_reason="stop")))), End())
    with Http1Client(proxy.url) as client:
        body = json.dumps(request()).encode()
        client.start("POST", CHAT, [("Content-Type", "application/json")], body)
        for number, gate in enumerate(gates):
            until(number, FIRST)
            gate.open()
        response = client.receive("POST")
    content = "".join(f"word{number} " for number in range(FIRST + LATER))
    assert response.json()["choices"][0]["message"]["content"] == content
