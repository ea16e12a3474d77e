"""mitmproxy's own programs, started with the addon. Knows their names and arguments, and which ports are free."""

import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

from .script import script

LOOPBACK = "127.0.0.1"
_PROGRAMS = {"dump": "mitmdump", "web": "mitmweb", "console": "mitmproxy"}
_OVERRIDES = Path(__file__).resolve().parent / "mitmproxy_script" / "overrides.py"
# Where mitmweb's own page is.
_WEB_PORT = 8081


def arguments(options: Mapping[str, object], more: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of any of the programs, and the variables that go with them: the addon, options that win over the
    person's config.yaml, and what the person added on the command line, which wins over ours."""
    theirs = {setting.partition("=")[0] for setting in _settings(more)}
    ours = {name: value for name, value in options.items() if name not in theirs}
    return ["-s", str(_OVERRIDES), "-s", str(script()), *more], {"FORCE_STREAM_OPTIONS": json.dumps(ours)}


def _settings(line: Sequence[str]) -> list[str]:
    """What follows `--set`, in both of its spellings."""
    spaced = [setting for flag, setting in pairwise(line) if flag == "--set"]
    return spaced + [word.removeprefix("--set=") for word in line if word.startswith("--set=")]


def start(ui: str, line: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run one of the programs in this process, until it ends."""
    from mitmproxy.tools import main as tools

    program = _PROGRAMS[ui]
    os.environ.update(variables)
    sys.argv[0] = program  # which it calls itself in its messages
    return getattr(tools, program)(list(line)) or 0


def command(ui: str, line: Sequence[str]) -> list[str]:
    """What starts one of the programs in a process of its own, which ends when its standard input does."""
    program = _PROGRAMS[ui]
    wait = "" if ui == "console" else _END_WITH_INPUT
    run = f"import sys\nsys.argv[0] = {program!r}\nfrom mitmproxy.tools.main import {program}\n{program}()"
    return [sys.executable, "-c", f"{wait}{run}", *line]


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


def free_port(wanted: Iterable[int] = ()) -> int:
    """The first of these ports that is free, else any that is."""
    for port in wanted:
        if port < 65536 and is_free(port):
            return port
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """So many ports that are free, each another one."""
    with ExitStack() as servers:
        opened = [servers.enter_context(closing(socket.create_server((LOOPBACK, 0)))) for _ in range(count)]
        return [int(server.getsockname()[1]) for server in opened]


def web_options(ui: str) -> dict[str, int]:
    """Where mitmweb's own page is: not where that of another mitmweb is."""
    return {"web_port": free_port(range(_WEB_PORT, _WEB_PORT + 20))} if ui == "web" else {}
