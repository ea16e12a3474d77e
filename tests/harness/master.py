"""Flows for hooks that a test calls itself, in a test master, and what was logged of them."""

import json
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from harness.samples import CHAT, SECRET, STREAM, request


def flow_with(body: Any = None, *, path: str = CHAT, method: str = "POST") -> http.HTTPFlow:
    """A live flow to 127.0.0.1 whose request has arrived."""
    content = body if isinstance(body, bytes) else json.dumps(request() if body is None else body).encode()
    headers = http.Headers(host="127.0.0.1", content_type="application/json", authorization=f"Bearer {SECRET}")
    headers["content-length"] = str(len(content))
    made = tutils.treq(host="127.0.0.1", method=method.encode(), path=path.encode(), headers=headers, content=content)
    flow = tflow.tflow(req=made)
    flow.live = True
    return flow


def answer_with(flow: http.HTTPFlow, body: bytes = STREAM, content_type: str = "text/event-stream") -> None:
    flow.response = http.Response.make(200, body, {"Content-Type": content_type})


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]
