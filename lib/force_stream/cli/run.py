"""`force-stream run -- COMMAND`: a program whose requests go through a proxy of its own.

Knows processes and signals. Must not know which variables a runtime reads.
"""

import fnmatch
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from ..rules.file import RulesError, parse_rules
from ..rules.rule import HOSTS_OPTION, Rule
from .environment import proxied
from .mitmproxy_tools import LOOPBACK, arguments, command, free_port

# The exit code where the command was not run because of us, as env(1) and timeout(1) have it.
PROXY_FAILED: Final = 125
# Seconds. A first start compiles all of mitmproxy.
_START_TIMEOUT: Final = 120.0
_STOP_TIMEOUT: Final = 10.0
_POLL: Final = 0.05
# The page under its name: asked through the proxy, it says that this proxy runs and has rules.
_PAGE: Final = "force.stream"


class _CannotRunError(Exception):
    """Why the command was not run, and the exit code that says so."""

    def __init__(self, problem: str, code: int) -> None:
        super().__init__(problem)
        self.code = code


def run(words: Sequence[str], hosts: Sequence[str], ui: str, rules: str | None, settings: Sequence[str]) -> int:
    """Start the proxy and the command, and return the command's exit code when it has ended."""
    try:
        if not words:
            raise _CannotRunError("no command: put it behind --, as in force-stream run -- python app.py", 2)
        program = _program(words[0])
        forced = list(hosts) or _hosts_of(rules)
        if other := os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
            via = f"--set mode=upstream:{other.rpartition('@')[2]}"
            print(f"force-stream: the proxy of HTTPS_PROXY is not used; to go through it, add {via}", file=sys.stderr)
        with (
            tempfile.TemporaryDirectory(prefix="force-stream-", ignore_cleanup_errors=True) as folder,
            _Proxy(forced, hosts, ui, rules, settings) as proxy,
        ):
            env = proxied(os.environ, proxy.url, proxy.authority, forced, Path(folder))
            print(f"force-stream: forcing {', '.join(forced)}; the page: {proxy.page}", file=sys.stderr, flush=True)
            return _foreground([program, *words[1:]], env, detached=ui == "console")
    except _CannotRunError as problem:
        print(f"force-stream run: {problem}", file=sys.stderr)
        return problem.code


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is not None:
        return found
    if os.path.exists(name):
        raise _CannotRunError(f"{name} cannot be executed", 126)
    raise _CannotRunError(f"there is no command {name}", 127)


def _hosts_of(rules: str | None) -> list[str]:
    """The hosts of a rules file's rules."""
    if rules is None:
        raise _CannotRunError("name the upstream's host (--host llm.example.com), or a rules file (--rules FILE)", 2)
    try:
        found = parse_rules(Path(rules).expanduser().read_text(encoding="utf-8-sig"), Path(rules).name)
    except RulesError as error:
        raise _CannotRunError(f"{error}", PROXY_FAILED) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _CannotRunError(f"{rules}: the rules cannot be read: {reason}", PROXY_FAILED) from error
    hosts = list(dict.fromkeys(host for rule in found for host in rule.hosts))
    if not hosts:
        raise _CannotRunError(f"{rules} has no rule, so there is no host to intercept", PROXY_FAILED)
    return hosts


class _Proxy:
    """One of mitmproxy's programs in a process of its own, that takes requests within the `with` block."""

    def __init__(
        self, intercepted: Sequence[str], hosts: Sequence[str], ui: str, rules: str | None, settings: Sequence[str]
    ) -> None:
        try:
            Rule(HOSTS_OPTION, tuple(hosts))
        except ValueError as error:
            raise _CannotRunError(f"{error}; write it as in --host llm.example.com", 2) from error
        self._port = free_port(ui)
        self._page_port = free_port(ui)
        self._console = ui == "console"
        confdir = next((each.partition("=")[2] for each in settings if each.startswith("confdir=")), "~/.mitmproxy")
        self.authority = Path(confdir).expanduser() / "mitmproxy-ca-cert.pem"
        options: Mapping[str, Any] = {
            "allow_hosts": [allow_pattern(host) for host in intercepted],
            "connection_strategy": "lazy",
            "flow_detail": 0,
            HOSTS_OPTION: list(hosts),
            "force_stream_rules": rules or "",
            "force_stream_page_port": self._page_port,
        }
        listen = ["--listen-host", LOOPBACK, "--listen-port", str(self._port)]
        self._command = command(
            ui, arguments(options, [*listen, *(word for each in settings for word in ("--set", each))])
        )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def page(self) -> str:
        return f"http://{LOOPBACK}:{self._page_port}/"

    def __enter__(self) -> "_Proxy":
        # A session of its own: Ctrl-C is the command's. Its log is beside the command's output, not in it.
        apart: dict[str, Any] = {} if self._console else {"stdin": subprocess.PIPE, "stdout": sys.stderr.fileno()}
        if not self._console and os.name == "posix":
            apart["start_new_session"] = True
        self._process = subprocess.Popen(self._command, **apart)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _wait(self) -> None:
        end = time.monotonic() + _START_TIMEOUT
        while not self._is_healthy():
            if self._process.poll() is not None:
                raise _CannotRunError("the proxy did not start; what it said is above", PROXY_FAILED)
            if time.monotonic() > end:
                raise _CannotRunError(f"the proxy did not start within {_START_TIMEOUT:.0f} s", PROXY_FAILED)
            time.sleep(_POLL)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=_STOP_TIMEOUT)
        try:
            connection.request("GET", f"http://{_PAGE}/health", headers={"Host": _PAGE})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def allow_pattern(host: str) -> str:
    """A host of a rule as a regular expression for mitmproxy's option allow_hosts, which sees HOST:PORT."""
    name, port = host, r"\d+"
    if host.startswith("["):
        inner, _, rest = host[1:].partition("]")
        name, port = inner, rest.removeprefix(":") or port
    elif host.count(":") == 1:
        name, _, port = host.partition(":")
    # Without the mark of its end, which Python 3.14 spells anew.
    pattern = fnmatch.translate(name)[:-2]
    return rf"^\[?{pattern}\]?:{port.replace('*', r'\d+')}$"


def _foreground(words: Sequence[str], env: Mapping[str, str], *, detached: bool) -> int:
    """Run a command as a shell does: the terminal is its own, and so are the signals that are meant to stop it.

    `detached`: the terminal is taken, so its output goes to a file, whose name is printed at the end.
    """
    output: dict[str, Any] = {}
    if detached:
        log = tempfile.NamedTemporaryFile("w", prefix="force-stream-run-", suffix=".log", delete=False)  # noqa: SIM115
        output = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    try:
        process = subprocess.Popen(list(words), env=dict(env), **output)
    except OSError as error:
        raise _CannotRunError(f"{words[0]} cannot be run: {error.strerror}", 126) from error

    def pass_on(number: int, _: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the command as well as to us; whether it ends is up to the command.
        if number != signal.SIGINT:
            process.send_signal(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    code = process.wait()
    if detached:
        log.close()
        print(f"The output of {words[0]} is in {log.name}", file=sys.stderr)
    return code if code >= 0 else 128 - code
