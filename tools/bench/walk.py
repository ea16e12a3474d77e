"""How a forced request walks through our code: calls of functions, and how many go from one module to another.

    python tools/bench/walk.py [--root CHECKOUT] [--edges 15] [--tree]

A real mitmdump loads CHECKOUT's addon.py and, beside it, this file as a script. The script plays client and upstream of
a chat request whose answer has ten events of text and, as upstreams send them, a role, a finish reason, usage and
`[DONE]` around them, each in its own chunk and write. It asks several times, each time over a new connection, and
counts under `sys.setprofile`; the shortest walk after the first request is the figure, since the addon's timers may run
during any of them. Also works on checkouts whose package has no folders yet.

- A call counts where the function's file is addon.py or lies in the package. Generator expressions and lambdas are not
  functions in this sense; a generator or coroutine counts once, when it starts, though `sys.setprofile` reports each
  resumption as a call. The row "with resumptions" counts all that it reports.
- The caller is the nearest frame of ours below. A call crosses if that is in another module, or if there is none, which
  means that mitmproxy calls.
- "headers to response" runs from the `requestheaders` hook of the script to its `response` hook, which follow the
  addon's own; the whole request includes the connection, sending the answer, and what is counted afterwards.

Counted so, the flat package at 73fb435 makes 584 calls and 284 crossings from headers to response.
"""

import argparse
import asyncio
import inspect
import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader

HOST: Final = "127.0.0.1"
REQUESTS: Final = 6
# Seconds. The first apart, each event comes in a read of its own.
PAUSE: Final = 0.01
TIMEOUT: Final = 60.0
MITMPROXY: Final = "(mitmproxy)"
RULES: Final = """\
rules:
  - name: walk
    hosts: ["127.0.0.1"]
    force_upstream_stream: true
"""
BODY: Final = b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}'
RESUMABLE: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Call(NamedTuple):
    """One call: of what, from which module, out of which hook of the addon; `depth` frames of ours are below it."""

    module: str
    name: str
    caller: str
    hook: str
    depth: int
    resumed: bool
    between_hooks: bool

    @property
    def is_function(self) -> bool:
        return not self.resumed and not self.name.rpartition(".")[2].startswith("<")

    @property
    def crosses(self) -> bool:
        return self.module != self.caller


# In mitmdump


def events() -> Iterator[bytes]:
    def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
        return b"data: %b\n\n" % json.dumps(head | more).encode()

    def choice(finish: str | None = None, **delta: str) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": finish}

    yield chunk(choice(role="assistant", content=""))
    for number in range(10):
        yield chunk(choice(content=f" word{number}"))
    yield chunk(choice("stop"))
    yield chunk(usage={"prompt_tokens": 1, "completion_tokens": 10, "total_tokens": 11})
    yield b"data: [DONE]\n\n"


async def read_message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_message(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for event in [*events(), b""]:
        await asyncio.sleep(PAUSE)
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
    await reader.read()
    writer.close()


class Walk:
    """The script: asks in `running`, writes the calls to the file that `walk_file` names, and stops mitmdump."""

    def __init__(self) -> None:
        self._modules: dict[CodeType, str] = {}
        self._calls: list[Call] = []
        self._started: set[FrameType] = set()
        self._between_hooks = False

    def load(self, loader: Loader) -> None:
        loader.add_option("walk_root", str, "", "The checkout whose code is counted.")
        loader.add_option("walk_file", str, "", "Where the calls are written to.")

    def running(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        self._between_hooks = True

    def response(self, flow: http.HTTPFlow) -> None:
        self._between_hooks = False

    async def _run(self) -> None:
        try:
            walks = await asyncio.wait_for(self._walks(), TIMEOUT)
            await asyncio.to_thread(Path(ctx.options.walk_file).write_text, json.dumps(min(walks[1:], key=len)))
        except Exception:
            logging.exception("there is no figure")
        finally:
            ctx.master.shutdown()  # type: ignore[no-untyped-call]

    async def _walks(self) -> list[list[Call]]:
        upstream = (await asyncio.start_server(answer, HOST, 0)).sockets[0].getsockname()
        proxyserver = ctx.master.addons.get("proxyserver")  # type: ignore[no-untyped-call]
        await proxyserver.setup_servers()  # waits for those that are being started
        proxy = proxyserver.listen_addrs()[0]
        return [await self._walk(proxy, upstream) for _ in range(REQUESTS)]

    async def _walk(self, proxy: tuple[str, int], upstream: tuple[str, int]) -> list[Call]:
        self._calls, self._started = [], set()
        address = b"%b:%d" % (HOST.encode(), upstream[1])
        threading.setprofile_all_threads(self._profile)
        reader, writer = await asyncio.open_connection(*proxy[:2])
        writer.write(
            b"POST http://%b/v1/chat/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (address, address, len(BODY), BODY)
        )
        received = await read_message(reader)
        await asyncio.sleep(PAUSE)  # what is counted after the answer
        threading.setprofile_all_threads(None)
        writer.close()
        await asyncio.sleep(PAUSE)
        assert b'word9"' in received, received
        return self._calls

    def _module(self, code: CodeType) -> str:
        """The module's path in the package; "" if it is not ours."""
        if code not in self._modules:
            root = Path(ctx.options.walk_root)
            path = Path(code.co_filename)
            package = root / "lib" / "force_stream"
            ours = path == root / "addon.py" or path.is_relative_to(package)
            self._modules[code] = str(path.relative_to(package if path.name != "addon.py" else root)) if ours else ""
        return self._modules[code]

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        module = self._module(frame.f_code) if event == "call" else ""
        if not module:
            return
        below = []
        back = frame.f_back
        while back is not None:
            if self._module(back.f_code):
                below.append(back.f_code)
            back = back.f_back
        resumed = frame in self._started
        if frame.f_code.co_flags & RESUMABLE:
            self._started.add(frame)
        caller = self._module(below[0]) if below else MITMPROXY
        hook = (below[-1] if below else frame.f_code).co_name
        name = frame.f_code.co_qualname
        self._calls.append(Call(module, name, caller, hook, len(below), resumed, self._between_hooks))


addons = [Walk()]


# The command


def record(root: Path) -> list[Call]:
    """The calls of one request, in their order."""
    with tempfile.TemporaryDirectory(prefix="walk-") as name:
        rules, calls = Path(name) / "rules.yaml", Path(name) / "calls.json"
        rules.write_text(RULES)
        mitmdump = str(Path(sys.executable).parent / "mitmdump")
        command = [mitmdump, "-s", str(root / "addon.py"), "-s", __file__, "--listen-host", HOST, "--listen-port", "0"]
        options = ["flow_detail=0", "termlog_verbosity=error", f"confdir={name}", f"force_stream_rules={rules}"]
        for option in (*options, f"walk_root={root}", f"walk_file={calls}"):
            command += ["--set", option]
        subprocess.run(command, check=True, timeout=2 * TIMEOUT)
        if not calls.exists():
            sys.exit(1)  # mitmdump said why
        return [Call(*call) for call in json.loads(calls.read_text())]


def ranking(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.most_common())


def report(calls: Sequence[Call], edges: int) -> Iterator[str]:
    functions = [call for call in calls if call.is_function]
    rows = {
        "headers to response": [call for call in functions if call.between_hooks],
        "the same with resumptions": [call for call in calls if call.between_hooks],
        "the whole request": functions,
        "the same with resumptions ": calls,
    }
    yield f"{'':28}{'calls':>8}{'crossings':>11}"
    for title, row in rows.items():
        yield f"{title:28}{len(row):8}{sum(call.crosses for call in row):11}"
    walk = rows["headers to response"]
    yield f"\ncalls by module: {ranking(Counter(call.module for call in walk))}"
    response = [call for call in walk if call.hook == "response"]
    entries = Counter(call.module for call in response if call.crosses)
    yield f"\nthe hook `response`: {len(response)} calls, {entries.total()} crossings: {ranking(entries)}"
    pairs = Counter((call.caller, call.module) for call in walk if call.crosses)
    yield f"\nmost crossed, headers to response, of {len(pairs)} pairs:"
    yield from (f"{count:5}  {caller} -> {module}" for (caller, module), count in pairs.most_common(edges))


def tree(calls: Sequence[Call]) -> Iterator[str]:
    for call in calls:
        if call.is_function and call.between_hooks:
            yield f"{'  ' * call.depth}{call.module}  {call.name}{'  <-' if call.crosses else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description="How a forced request walks through our code.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the checkout that is measured")
    parser.add_argument("--edges", type=int, default=15, help="how many pairs of modules are listed")
    parser.add_argument("--tree", action="store_true", help="every call of the request too, a crossing marked with <-")
    options = parser.parse_args()
    calls = record(options.root.resolve())
    print("\n".join([*(tree(calls) if options.tree else ()), *report(calls, options.edges)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
