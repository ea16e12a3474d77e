"""A real mitmdump process, the one beside the running interpreter.

    with Proxy(f"reverse:{upstream.url()}", "regular", certs=certs, scripts=["addon.py"]) as proxy:
        ...  # requests to proxy.url, or through proxy.urls[1]
        proxy.wait_for_log("rule private-vllm")

Every mode listens on a port of its own on 127.0.0.1. The process is ended, by its own id, whatever happens.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mitmproxy import flow
from mitmproxy.io import FlowReader
from mitmproxy.proxy.mode_specs import ProxyMode

from harness.certs import Certs
from harness.forked import CAN_FORK, Forked
from harness.paths import SCRIPTS
from harness.ports import held_port
from harness.record import TIMEOUT, wait_until

MITMDUMP = Path(sys.executable).parent / "mitmdump"
H2_UPSTREAM = SCRIPTS / "h2_upstream.py"
REMOTE = SCRIPTS / "remote.py"
READY = SCRIPTS / "ready.py"

START_TIMEOUT = 120.0
"""Seconds; a first start compiles all of mitmproxy, which takes long on a busy machine."""
_PORT_TAKEN = "failed to listen on"


class ProxyExitedError(RuntimeError):
    """mitmdump ended during its start; `code` is its exit code, `log` its output."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"mitmdump exited with {code} during its start:\n{log}")
        self.code = code
        self.log = log


class Proxy:
    def __init__(
        self,
        *modes: str,
        certs: Certs,
        options: Mapping[str, Any] | None = None,
        scripts: Iterable[Path | str] = (),
        flow_file: Path | None = None,
        args: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        remote: bool = False,
        program: str = "mitmdump",
        group: int | None = None,
    ) -> None:
        """`options` become `--set` (a list: one each); `env` is added to this process's; `remote` allows `command`.

        With `group`, the process runs as that group, in the network namespace of the thread that starts it.
        """
        self.modes = modes or ("regular",)
        self.certs = certs
        self.scripts = [*scripts, *([REMOTE] if remote else []), READY]
        self.options = dict(options or {})
        self.flow_file = flow_file
        self.args = list(args)
        self.env = dict(env or {})
        self.cwd = cwd
        self.remote = remote
        self.group = group
        self.program = MITMDUMP.with_name(program)
        self.log_lines: list[str] = []
        self.changed = threading.Condition()
        self.ports: list[int] = []
        self.exit_code: int | None = None
        self.process: subprocess.Popen[str] | Forked | None = None
        self._confdir: Path | None = None
        self._numbers = itertools.count(1)
        self._output_ended = False
        self._held: list[socket.socket] = []

    # Life

    def __enter__(self) -> "Proxy":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> "Proxy":
        """Returns when every mode listens and every script's `running` is over; ProxyExitedError if it exits before."""
        for attempt in range(3):
            self._spawn()
            try:
                self._wait_until_listening()
                return self
            except ProxyExitedError as e:
                # Where no port can be held until mitmdump listens, another process may have got it.
                if _PORT_TAKEN not in e.log or attempt == 2:
                    raise
            except BaseException:
                self.stop()
                raise
            finally:
                self._release_ports()
        raise AssertionError("unreachable")

    def stop(self, timeout: float = TIMEOUT) -> int:
        """End the process, with SIGKILL if SIGTERM has not within `timeout`, and return its exit code."""
        assert self.process, "not started"
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(TIMEOUT)
        self._collector.join(TIMEOUT)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                # What could not be written to a process that was gone is tried once more at the close.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if self._confdir:
            shutil.rmtree(self._confdir, ignore_errors=True)
        self.exit_code = self.process.returncode
        return self.exit_code

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def urls(self) -> list[str]:
        """One for each mode, in their order."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def tls_url(self) -> str:
        """The first mode again, for a client that speaks TLS to a reverse proxy (the port takes both)."""
        return self.url.replace("http:", "https:", 1)

    # Log

    @property
    def log(self) -> str:
        with self.changed:
            return "\n".join(self.log_lines)

    def mark(self) -> int:
        """Now, for `since`."""
        with self.changed:
            return len(self.log_lines)

    def wait_for_log(self, pattern: str, timeout: float = TIMEOUT, *, since: int = 0) -> re.Match[str]:
        """Wait for a line in which `pattern` is found; TimeoutError, with the log, if none comes."""
        try:
            found = wait_until(
                self.changed, lambda: self._search(pattern, since) or self._output_ended, timeout, repr(pattern)
            )
        except TimeoutError as e:
            raise TimeoutError(f"{e} in mitmdump's log:\n{self.log}") from None
        if found is True:
            raise TimeoutError(f"mitmdump ended and {pattern!r} is not in its log:\n{self.log}")
        return found

    def _search(self, pattern: str, since: int = 0) -> re.Match[str] | None:
        return next(filter(None, (re.search(pattern, line) for line in self.log_lines[since:])), None)

    # Inside view

    def command(self, name: str, *args: Any) -> Any:
        """Run a mitmproxy command in the process and return its result as JSON gives it; RuntimeError if it fails.

        An argument `flows_of(key)` stands for the flows whose request had that x-answer header.
        """
        assert self.remote, "only Proxy(remote=True) takes commands"
        assert self.process
        assert self.process.stdin
        number = next(self._numbers)
        since = self.mark()
        self.process.stdin.write(json.dumps({"number": number, "command": name, "args": args}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.wait_for_log(rf"remote {number}: (.*)", since=since)[1])
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}")
        return answer["result"]

    def set_options(self, **options: Any) -> None:
        self.command("options", options)

    def flows(self, key: str | None = None) -> list[dict[str, Any]]:
        """The flows that the running process has seen; with `key`, those of one x-answer header.

        Each has id, request, response (None while there is none), error, comment, marked, is_replay, metadata; bytes
        are given as latin-1 text.
        """
        return self.command("flows", key)

    def settle(self) -> None:
        """Wait until the process has read and handled what has arrived at its sockets.

        A client that leaves before that is not always passed on: between a response's head and the data after it,
        mitmproxy (12.0.1 to 12.3.1) may cancel the task of the upstream's connection while that waits for the lock of
        `server_event`. The socket then stays open until Python's garbage collection.
        """
        self.command("settle")

    def saved_flows(self) -> list[flow.Flow]:
        """What is in the flow file, once the process has stopped."""
        assert self.flow_file
        assert not self.is_running
        return read_flows(self.flow_file)

    # Inside

    def _spawn(self) -> None:
        self._confdir = self.certs.confdir(Path(tempfile.mkdtemp(prefix="mitmproxy-")))
        with self.changed:
            self.log_lines, self.ports, self._output_ended = [], [], False
        command = self._command_line(self._confdir)
        env = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"} | self.env
        if CAN_FORK and self.program.name in ("mitmdump", "mitmweb") and not self.env and self.group is None:
            self.process = Forked(command, stdin=self.remote, env=env, cwd=self.cwd)
        else:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if self.remote else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env=env,
                cwd=self.cwd,
                group=self.group,
            )
        self._collector = threading.Thread(target=self._collect, args=(self.process,), name="mitmdump", daemon=True)
        self._collector.start()

    def _command_line(self, confdir: Path) -> list[str]:
        options = {
            "confdir": confdir,
            "listen_host": "127.0.0.1",
            "listen_port": 0,
            "ssl_verify_upstream_trusted_ca": self.certs.ca,
            "flow_detail": 0,
        } | self.options
        line = [str(self.program)]
        for name, value in options.items():
            for one in value if isinstance(value, (list, tuple)) else [value]:
                line += ["--set", f"{name}={str(one).lower() if isinstance(one, bool) else one}"]
        for mode, spec in zip(self.modes, self._listening_specs(), strict=True):
            line += ["--mode", spec if len(self.modes) > 1 else mode]
        for script in self.scripts:
            line += ["-s", str(script)]
        if self.flow_file:
            line += ["-w", str(self.flow_file)]
        return line + self.args

    def _listening_specs(self) -> list[str]:
        # mitmproxy refuses two modes on port 0 as "the same address", so several get ports that are free.
        if len(self.modes) == 1:
            return list(self.modes)
        held = [held_port() for _ in self.modes]
        self._held = [holder for _, holder in held]
        return [f"{mode}@{port}" for mode, (port, _) in zip(self.modes, held, strict=True)]

    def _release_ports(self) -> None:
        while self._held:
            self._held.pop().close()

    def _wait_until_listening(self) -> None:
        try:
            self.wait_for_log("mitmdump is ready", START_TIMEOUT)
        except TimeoutError:
            if not self._output_ended:
                raise
            raise ProxyExitedError(self.stop(), self.log) from None
        for mode in self.modes:
            listening = rf"{re.escape(ProxyMode.parse(mode).description)} listening at .*?:(\d+)\."
            self.ports.append(int(self.wait_for_log(listening)[1]))

    def _collect(self, process: subprocess.Popen[str] | Forked) -> None:
        assert process.stdout
        for line in process.stdout:
            with self.changed:
                self.log_lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self._output_ended = True
            self.changed.notify_all()


def flows_of(key: str | None) -> dict[str, str | None]:
    """For `Proxy.command`: the flows of one x-answer header; None for all."""
    return {"flows": key}


def read_flows(path: Path) -> list[flow.Flow]:
    with path.open("rb") as file:
        return list(FlowReader(file).stream())
