"""A mitmproxy script: a request with the header x-hold holds the event loop until there is a file of that name."""

import time
from pathlib import Path

from mitmproxy import http


def request(flow: http.HTTPFlow) -> None:
    held = flow.request.headers.get("x-hold")
    while held and not Path(held).exists():
        time.sleep(0.02)
