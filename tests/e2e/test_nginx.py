"""A real nginx between the proxy and the upstream, speaking HTTP/2, which goes away in the middle of answers."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from harness import Gate, Proxy, Upstream, needs_tool
from harness.certs import Certs
from harness.paths import ADDON
from harness.samples import CHAT, DOCUMENT, STREAM, request
from harness.steps import Data, End, Head, Pause, Signal, WaitFor
from harness.upstream import refused_port

CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests {requests};
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_buffering off;
        }}
    }}
}}
"""
MANY = 12


class Nginx:
    def __init__(self, program: str, folder: Path, certs: Certs, upstream: Upstream, requests: int) -> None:
        self._folder = folder
        self.url = f"https://127.0.0.1:{(port := refused_port())}"
        file = folder / "nginx.conf"
        values = {"folder": folder, "port": port, "certificate": certs.server, "upstream": upstream.url("http")}
        file.write_text(CONFIGURATION.format(requests=requests, **values))
        self._process = subprocess.Popen(
            [program, "-p", folder, "-e", folder / "error.log", "-c", file], stderr=subprocess.DEVNULL
        )
        self._wait_for_log("start worker process ")

    def reload(self) -> None:
        """Returns when the old worker has been told to go."""
        os.kill(self._process.pid, signal.SIGHUP)
        self._wait_for_log("gracefully shutting down")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _wait_for_log(self, words: str) -> None:
        log = self._folder / "error.log"
        for _ in range(500):
            if log.is_file() and words in log.read_text():
                return
            assert self._process.poll() is None, log.read_text()
            time.sleep(0.02)
        raise AssertionError(log.read_text())


@pytest.fixture
def start(certs: Certs, upstream: Upstream, tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    program, started = needs_tool("nginx"), []

    def start(requests: int = 1000) -> Nginx:
        started.append(Nginx(program, tmp_path, certs, upstream, requests))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def proxy(shared_proxy: Callable[..., Proxy]) -> Proxy:
    return shared_proxy("regular", scripts=[ADDON], options={"force_stream_hosts": "127.0.0.1"})


async def ask(url: str, proxy: Proxy, certs: Certs, times: int, then: Callable[[], None] | None = None) -> Counter:
    """What comes of so many requests at once, over one HTTP/2 connection, after one alone. `then` is called in a thread
    meanwhile."""
    async with httpx.AsyncClient(
        verify=certs.new_client_context(), proxy=proxy.url, http2=True, trust_env=False, timeout=60
    ) as client:

        async def one() -> object:
            response = await client.post(url + CHAT, json=request())
            document = response.json()
            return "whole" if document == DOCUMENT else document["error"]

        assert await one() == "whole"  # httpx knows then that one connection is enough
        asked = [asyncio.create_task(one()) for _ in range(times)]
        if then is not None:
            await asyncio.to_thread(then)
        return Counter(map(str, await asyncio.gather(*asked)))


def test_a_reload_of_nginx_costs_no_answer(
    start: Callable[..., Nginx], proxy: Proxy, upstream: Upstream, certs: Certs
) -> None:
    nginx, reloaded = start(), Gate()
    upstream.answer([Head(), Data(STREAM), End()])
    begun = [Gate() for _ in range(MANY)]
    for gate in begun:
        upstream.answer([Head(), Data(STREAM[:40]), Signal(gate), WaitFor(reloaded), Data(STREAM[40:]), End()])

    def reload() -> None:
        for gate in begun:
            gate.wait()
        nginx.reload()
        reloaded.open()

    assert asyncio.run(ask(nginx.url, proxy, certs, MANY, reload)) == {"whole": MANY}
    upstream.answer_always([Head(), Data(STREAM), End()])
    assert asyncio.run(ask(nginx.url, proxy, certs, MANY)) == {"whole": MANY}


@pytest.mark.parametrize("requests", [2, 5])
def test_requests_beyond_what_nginx_takes_on_a_connection_go_over_another_one(
    start: Callable[..., Nginx], proxy: Proxy, upstream: Upstream, certs: Certs, requests: int
) -> None:
    upstream.answer_always([Head(), Data(STREAM[:40]), Pause(0.3), Data(STREAM[40:]), End()])
    nginx = start(requests)
    assert asyncio.run(ask(nginx.url, proxy, certs, MANY)) == {"whole": MANY}
    assert len(re.findall("server connect", proxy.log)) >= MANY // requests
