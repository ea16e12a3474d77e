"""mitmproxy's programs, started with the addon. Knows their names, arguments and folder, and which ports are free."""

import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path

from .exits import Failed
from .path import script

LOOPBACK = "127.0.0.1"
PROGRAMS = {"dump": "mitmdump", "web": "mitmweb", "console": "mitmproxy"}
_OVERRIDES = Path(__file__).resolve().parent / "mitmproxy_script" / "overrides.py"


def arguments(options: Mapping[str, object], more: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of any of the programs, and the variables that go with them: the addon, options that override the
    person's config.yaml, and what the person added on the command line, which overrides ours."""
    theirs = {setting.partition("=")[0] for setting in settings_in(more)}
    ours = {name: value for name, value in options.items() if name not in theirs}
    return ["-s", str(_OVERRIDES), "-s", str(script()), *more], {"FORCE_STREAM_OPTIONS": json.dumps(ours)}


def settings_in(line: Sequence[str]) -> list[str]:
    """The values of `--set VALUE` and `--set=VALUE`."""
    spaced = [setting for flag, setting in pairwise(line) if flag == "--set"]
    return spaced + [word.removeprefix("--set=") for word in line if word.startswith("--set=")]


def folder_of(settings: Iterable[str], code: int = 1) -> Path:
    """mitmproxy's folder, in which it makes its certificate authority at the first start."""
    named = next((setting.partition("=")[2] for setting in settings if setting.startswith("confdir=")), "~/.mitmproxy")
    folder = Path(named).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mitmproxy-ca.pem").exists() and not os.access(folder, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        hint = "choose another folder with mitmproxy's option confdir"
        raise Failed(f"{folder} cannot be written: {error.strerror}; {hint}", code) from error
    return folder


def start(ui: str, line: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run one of the programs in this process, until it ends."""
    from mitmproxy.tools import main as tools

    program = PROGRAMS[ui]
    os.environ.update(variables)
    sys.argv[0] = program  # its name in its messages
    return getattr(tools, program)(list(line)) or 0


def command(ui: str, line: Sequence[str]) -> list[str]:
    """What starts one of the programs in a process of its own, which ends when its standard input does."""
    program = PROGRAMS[ui]
    wait = "" if ui == "console" else _END_WITH_INPUT
    run = f"import sys\nsys.argv[0] = {program!r}\nfrom mitmproxy.tools.main import {program}\n{program}()"
    return [sys.executable, "-c", f"{wait}{run}", *line]


# So that it does not outlive its parent, even if that was killed. (A thread that waits in sys.stdin would hold a lock
# that Python needs at exit.)
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
    with suppress(OSError), closing(socket.create_server((LOOPBACK, port))):
        return True
    return False


def free_port(wanted: Iterable[int]) -> int:
    """The first of these ports that is free, otherwise any that is."""
    return next((port for port in wanted if port < 65536 and is_free(port)), None) or free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ports that are free."""
    with ExitStack() as servers:
        opened = [servers.enter_context(closing(socket.create_server((LOOPBACK, 0)))) for _ in range(count)]
        return [int(server.getsockname()[1]) for server in opened]


def web_options(ui: str) -> dict[str, object]:
    """For mitmweb: a port for its own page, 8081 by default, that no other mitmweb has taken; and a list whose comments
    can be read."""
    if ui != "web":
        return {}
    return {"web_port": free_port(range(8081, 8101)), "web_columns": ["status", "comment"]}
