"""A mitmdump or mitmweb that is forked from a process which has imported mitmproxy already: most of a start is imports.

What runs then is the same main function, with the arguments, environment, folder and streams that it was given. Where
there is no such fork (`CAN_FORK`), and for whatever the environment tells Python itself, start the program instead.

    python forked.py DESCRIPTOR       the process to fork from; it takes requests from that socket until it is closed
"""

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO

CAN_FORK = sys.platform == "linux"
_LONGEST_REQUEST = 1 << 17


@cache
def _forker() -> socket.socket:
    """The socket of the process to fork from, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


class Forked:
    """As much of a `subprocess.Popen` as Proxy needs, with stdout and stderr in one pipe."""

    def __init__(self, command: list[str], *, stdin: bool, env: Mapping[str, str], cwd: Path | None) -> None:
        request = json.dumps([command, dict(env), str(cwd or Path.cwd())]).encode()
        assert len(request) <= _LONGEST_REQUEST
        read_in, write_in = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), None)
        read_out, write_out = os.pipe()
        self._status, status = os.pipe()
        try:
            socket.send_fds(_forker(), [request], [read_in, write_out, status])
        finally:
            for descriptor in (read_in, write_out, status):
                os.close(descriptor)
        self.stdin: IO[str] | None = None if write_in is None else os.fdopen(write_in, "w", encoding="utf-8")
        self.stdout: IO[str] | None = os.fdopen(read_out, encoding="utf-8", errors="replace")
        self.returncode: int | None = None
        self.pid = int(os.read(self._status, 20))

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("mitmdump", timeout or 0)
            self.returncode = int(os.read(self._status, 20))
            os.close(self._status)
        return self.returncode

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


# The process to fork from


def serve(requests: socket.socket) -> None:
    """Returns in each mitmdump; the process itself ends when there can be no more requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 3)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            if _watch(descriptors):
                return become(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(descriptors: list[int]) -> bool:
    """True in a child; the process itself reports the child's id, and in the end how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        return True
    *streams, status = descriptors
    for descriptor in streams:
        os.close(descriptor)
    os.write(status, b"%d" % pid)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(status, b"%d" % ended)
    os._exit(0)


def become(request: bytes, descriptors: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command, env, cwd = json.loads(request)
    for number, descriptor in enumerate((*descriptors[:2], descriptors[1])):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )


if __name__ == "__main__":
    from mitmproxy.tools import dump, main

    assert dump
    serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(getattr(main, Path(sys.argv[0]).name)())
