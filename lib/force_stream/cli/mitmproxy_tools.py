"""mitmproxy's own programs, started with the addon. Knows their names and arguments, and which ports are free."""

import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise

from .script import script

LOOPBACK = "127.0.0.1"
_PROGRAMS = {"dump": "mitmdump", "web": "mitmweb", "console": "mitmproxy"}
# Where mitmweb's own page is.
_WEB_PORT = 8081


def arguments(options: Mapping[str, object], more: Sequence[str]) -> list[str]:
    """The arguments of any of the programs: the addon, options, and what the person added.

    mitmproxy exits over an option that is set twice, so the person's own settings take the place of ours; a list is set
    once for each item.
    """
    theirs = {setting.partition("=")[0] for flag, setting in pairwise(more) if flag == "--set"}
    line = ["-s", str(script())]
    for name, value in options.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if name not in theirs:
                line += ["--set", f"{name}={each}"]
    return [*line, *more]


def start(ui: str, line: Sequence[str]) -> int:
    """Run one of the programs in this process, until it ends."""
    from mitmproxy.tools import main as tools

    program = _PROGRAMS[ui]
    sys.argv[0] = program  # which it calls itself in its messages
    return getattr(tools, program)(list(line)) or 0


def command(ui: str, line: Sequence[str]) -> list[str]:
    """What starts one of the programs in a process of its own, which ends when its standard input does."""
    program = _PROGRAMS[ui]
    wait = "" if ui == "console" else _END_WITH_INPUT
    return [sys.executable, "-c", f"{wait}from mitmproxy.tools.main import {program}\n{program}()", *line]


# So that nothing is left of it where its parent was killed. (A thread that waits in sys.stdin holds a lock that Python
# wants at its exit.)
_END_WITH_INPUT = """\
import os, signal, threading
def wait():
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=wait, daemon=True).start()
"""


def is_free(port: int) -> bool:
    """Whether a server can listen at this port of the loopback interface."""
    try:
        with closing(socket.create_server((LOOPBACK, port))):
            return True
    except OSError:
        return False


def free_port(ui: str, wanted: Iterable[int] = ()) -> int:
    """The first of these ports that is free, else any that is."""
    taken = _WEB_PORT if ui == "web" else None
    for port in wanted:
        if port != taken and port < 65536 and is_free(port):
            return port
    with closing(socket.create_server((LOOPBACK, 0))) as server:
        port = server.getsockname()[1]
    return int(port)
