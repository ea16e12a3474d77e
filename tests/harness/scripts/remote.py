"""A mitmproxy script: lines of JSON on stdin are commands to run; the results are lines in the log.

It keeps the last flows too, so that a test can look at a flow of a running mitmdump.
"""

import asyncio
import json
import logging
import sys
from collections import deque
from typing import Any

from mitmproxy import ctx, flow, http

KEY_HEADER = "x-answer"


class Remote:
    def __init__(self) -> None:
        self.flows: deque[http.HTTPFlow] = deque(maxlen=2000)
        self._reading: asyncio.Task[None] | None = None

    def running(self) -> None:
        self._reading = asyncio.create_task(self._read())

    def done(self) -> None:
        if self._reading:
            self._reading.cancel()

    def request(self, flow: http.HTTPFlow) -> None:
        self.flows.append(flow)

    async def _read(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 24)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            message = json.loads(line)
            try:
                answer: dict[str, Any] = {"result": self._execute(message["command"], message["args"])}
                if asyncio.iscoroutine(answer["result"]) or asyncio.isfuture(answer["result"]):
                    answer["result"] = await answer["result"]
            except Exception as e:
                answer = {"error": f"{type(e).__name__}: {e}"}
            text = json.dumps(answer, default=_plain)
            logging.log(logging.INFO, "remote %d: %s", message["number"], text)

    def _execute(self, command: str, args: list[Any]) -> Any:
        match command, args:
            case "flows", [key]:
                return [_describe(flow) for flow in self._find(key)]
            case "options", [values]:
                return ctx.options.update(**values)
            case "settle", []:
                return _turns(30)
        if any(isinstance(arg, dict) for arg in args):
            return ctx.master.commands.call(
                command, *(self._find(a["flows"]) if isinstance(a, dict) else a for a in args)
            )
        return ctx.master.commands.call_strings(command, args)

    def _find(self, key: str | None) -> list[http.HTTPFlow]:
        return [flow for flow in self.flows if key is None or flow.request.headers.get(KEY_HEADER) == key]


async def _turns(number: int) -> None:
    """In each turn of the event loop, every socket is read that has something."""
    for _ in range(number):
        await asyncio.sleep(0)


def _describe(flow: http.HTTPFlow) -> dict[str, Any]:
    response = flow.response
    return {
        "id": flow.id,
        "request": {
            "path": flow.request.path,
            "headers": flow.request.headers.fields,
            "body": flow.request.raw_content,
        },
        "response": response
        and {
            "status": response.status_code,
            "headers": response.headers.fields,
            "body": response.raw_content,
        },
        "error": flow.error and flow.error.msg,
        "comment": flow.comment,
        "marked": flow.marked,
        "is_replay": flow.is_replay,
        "metadata": flow.metadata,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, flow.Flow):
        return value.id
    return repr(value)


addons = [Remote()]
