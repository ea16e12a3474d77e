"""The addon in a test master: hooks that a test calls itself, flows for them, and what was logged of them."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from force_stream.addon.commands import Commands
from force_stream.addon.hooks import ForceStream
from force_stream.proxy.response import observe_whole
from mitmproxy import http
from mitmproxy.test import taddons, tflow, tutils

from harness.paths import ADDON
from harness.record import TIMEOUT
from harness.samples import CHAT, SECRET, STREAM, request

type Scenario = Callable[[ForceStream, taddons.context], Coroutine[Any, Any, None]]


def run_with(rules_file: Path, test: Scenario) -> None:
    """Call a coroutine function with the addon, its rules read, and a context that has its commands too."""

    async def inside() -> None:
        ours = ForceStream(ADDON.with_name("rules.yaml"))
        with taddons.context(ours, Commands(ours)) as context:
            context.configure(ours, force_stream_rules=str(rules_file))
            await test(ours, context)

    asyncio.run(inside())


def flow_with(
    body: Any = None,
    *,
    path: str = CHAT,
    method: str = "POST",
    host: str = "127.0.0.1",
    content_type: str = "application/json",
) -> http.HTTPFlow:
    """A live flow whose request has arrived."""
    content = body if isinstance(body, bytes) else json.dumps(request() if body is None else body).encode()
    headers = http.Headers(host=host, content_type=content_type, authorization=f"Bearer {SECRET}")
    headers["content-length"] = str(len(content))
    made = tutils.treq(host=host, method=method.encode(), path=path.encode(), headers=headers, content=content)
    flow = tflow.tflow(req=made)
    flow.client_conn.sni = None
    flow.live = True
    return flow


def answer_with(
    flow: http.HTTPFlow, body: bytes = STREAM, content_type: str = "text/event-stream", status: int = 200
) -> None:
    flow.response = http.Response.make(status, body, {"Content-Type": content_type})
    if content_type == "text/event-stream":
        del flow.response.headers["content-length"]  # no upstream knows it before the stream has ended


def upstream_answers(
    ours: ForceStream,
    flow: http.HTTPFlow,
    body: bytes = STREAM,
    content_type: str = "text/event-stream",
    status: int = 200,
) -> None:
    """The same, where it matters that it is the upstream that has answered, observed below the hooks."""
    answer_with(flow, body, content_type, status)
    wait = ours._wait_of(flow)
    assert wait is not None
    assert wait.attempt is not None
    observe_whole(flow, wait.attempt)
    wait.attempt.observed = True


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def counted(ours: ForceStream) -> None:
    """Wait until the figures of a flow that has its answer are there."""
    await asyncio.sleep(0)  # it is counted once its client has the answer
    while ours._counting:
        await asyncio.wait(ours._counting)
        await asyncio.sleep(0)


async def logged(caplog: pytest.LogCaptureFixture, words: str) -> str:
    """The latest line of the log with these words, once there is one."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            if found := [line for line in caplog.messages if words in line]:
                return found[-1]
            await asyncio.sleep(0.01)
