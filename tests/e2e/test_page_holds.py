"""An open page, and a flow that is opened there, hold the event loop no longer than other clients can bear."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from harness import Data, End, Head, Http1Client, Proxy, Upstream, refused_port, sse
from harness.paths import ADDON, SCRIPTS
from harness.samples import CHAT, RULES, choice, chunk, request

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux's /proc"
)
# Seconds, and how often a hold that is too long is measured again, as in test_holds.py.
NOTICED: Final = 0.05
TRIES: Final = 4
# 60,000 events, 9 MB: each differs from the one before.
LONG: Final = b"".join(sse(chunk(choice(content=f"word {number} ")), done=False) for number in range(60_000))


def test_a_flow_of_megabytes_is_opened_and_saved_beside_the_event_loop(
    proxy_factory: Callable[..., Proxy], shared_rules: Callable[[str], object], upstream: Upstream
) -> None:
    port = refused_port()
    options = {
        "force_stream_rules": shared_rules(RULES),
        "connection_strategy": "lazy",
        "force_stream_page_port": port,
    }
    script = SCRIPTS / "probe.py"
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON, script], options=options, remote=True)
    upstream.answer(Head(), Data(LONG + sse(chunk(choice(finish_reason="stop")))), End())
    with Http1Client(proxy.url, timeout=120) as client:
        assert client.post(CHAT, request()).status == 200
    with Http1Client(f"http://127.0.0.1:{port}", timeout=120) as client:
        (flow,) = json.loads(client.get("/flows").body)
    for kind in ("", ".html", ".sse", ".json", ".curl"):
        holds: list[float] = []
        while not holds or (min(holds) > NOTICED and len(holds) < TRIES):
            with Http1Client(f"http://127.0.0.1:{port}", timeout=120) as client:
                proxy.command("probe.start")
                assert client.get(f"/flows/{flow['id']}{kind}").status == 200
                holds.append(float(proxy.command("probe.stop")[0]))
        print(f"\n{kind}: held for {holds}")
        assert min(holds) <= NOTICED, kind
