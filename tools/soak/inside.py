"""A mitmproxy script: tell on a port of 127.0.0.1 what lives in this process, for soak.py."""

import asyncio
import ctypes
import gc
import json
import logging
import os
import sys
import threading
from collections import Counter
from typing import Any, Final

# What belongs to one request or one connection, and has to go with it.
PASSING: Final = (
    "Answer",
    "ClientConnection",
    "Client",
    "HTTPFlow",
    "HttpStream",
    "ProxyConnectionHandler",
    "ReplayHandler",
    "Server",
    "Attempt",
    "ClientWait",
    "ObservedLayer",
    "ObservedStream",
)
# How the names of pools' threads begin.
POOLS: Final = ("asyncio_", "force_stream_")


class Inside:
    def __init__(self) -> None:
        self._server: asyncio.Server | None = None

    async def running(self) -> None:
        self._server = await asyncio.start_server(self._tell, "127.0.0.1", 0)
        logging.info(f"soak: inside at {self._server.sockets[0].getsockname()[1]}")

    def done(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(report()).encode())
        writer.close()


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def report() -> dict[str, dict[str, int]]:
    """Tasks by what they run, threads by their names, open files by what they are, passing objects by their type, and
    memory in use. The task and the socket that ask are among them each time; asyncio's pool of threads and
    the addon's, which have limits of their own, are not."""
    gc.collect()
    tasks = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    threads = Counter(each.name for each in threading.enumerate() if not each.name.startswith(POOLS))
    living = Counter(type(each).__name__ for each in gc.get_objects() if is_ours(each))
    groups = {"tasks": tasks, "threads": threads, "files": files(), "objects": living, "memory": memory()}
    return {name: dict(counts) for name, counts in groups.items()}


def is_ours(each: Any) -> bool:
    kind = type(each)
    return kind.__name__ in PASSING and kind.__module__.partition(".")[0] in ("mitmproxy", "force_stream")


def memory() -> dict[str, int]:
    """What is in use of what the process has: small Python objects, and the bytes of all else. What the allocators
    have free for the next request is not in it."""
    in_use = {"blocks": sys.getallocatedblocks()}
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc has it since 2.33, musl has none
    if mallinfo is not None:
        mallinfo.restype = _Mallinfo
        found = mallinfo()
        in_use["bytes"] = found.uordblks + found.hblkhd
    return in_use


def files() -> Counter[str]:
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the folder's own, which is closed again
        found[target.partition(":[")[0]] += 1
    return found


addons = [Inside()]
