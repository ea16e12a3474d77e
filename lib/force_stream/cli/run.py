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
from typing import IO, Any, Final

from ..rules.file import RulesError, parse_rules
from ..rules.rule import HOSTS_OPTION, Rule
from ..wire import jsontext
from .environment import proxied
from .mitmproxy_tools import LOOPBACK, arguments, command, free_ports, web_options

# The exit code where the command was not run because of us, as env(1) and timeout(1) have it.
PROXY_FAILED: Final = 125
# Seconds. A first start compiles all of mitmproxy.
_START_TIMEOUT: Final = 120.0
_STOP_TIMEOUT: Final = 10.0
_ANSWER_TIMEOUT: Final = 10.0
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
            raise _CannotRunError("no command: put it after --, as in force-stream run -- python app.py", 2)
        program = _program(words[0])
        forced = list(hosts) or _hosts_of(rules)
        _warn_of_another_proxy(settings)
        console = ui == "console"
        output = _output_file() if console else None
        with (
            tempfile.TemporaryDirectory(prefix="force-stream-", ignore_cleanup_errors=True) as folder,
            _Proxy(forced, hosts, ui, rules, settings) as proxy,
        ):
            env = proxied(os.environ, proxy.url, proxy.authority, forced, Path(folder))
            if not console:  # which has the terminal
                print(f"force-stream: forcing {', '.join(forced)}; the page: {proxy.page}", file=sys.stderr, flush=True)
            code = _foreground([program, *words[1:]], env, output)
            idle = proxy.took_nothing()
        if output is not None:
            print(f"force-stream: the output of {words[0]} is in {output.name}", file=sys.stderr)
        if idle:
            print(
                f"force-stream: no request that a rule takes came through the proxy. Does {words[0]} use the proxy of "
                "its environment? Node.js does from version 22.21 or 24 on; see docs/modes.md.",
                file=sys.stderr,
            )
        return code
    except _CannotRunError as problem:
        print(f"force-stream run: {problem}", file=sys.stderr)
        return problem.code


def _warn_of_another_proxy(settings: Sequence[str]) -> None:
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
    named = next((name for name in names if os.environ.get(name)), "")
    if not named or any(setting.startswith("mode=") for setting in settings):
        return
    # Without its credentials.
    scheme, _, rest = os.environ[named].rpartition("://")
    way = ""
    if scheme in ("http", "https"):
        way = f"; to go through it, add --set mode=upstream:{scheme}://{rest.rpartition('@')[2]}"
    print(f"force-stream: the proxy of {named} is not used{way}", file=sys.stderr)


def _output_file() -> IO[bytes]:
    return tempfile.NamedTemporaryFile(prefix="force-stream-run-", suffix=".log", delete=False)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is not None:
        return found
    if os.path.exists(name):
        raise _CannotRunError(f"{name} cannot be executed", 126)
    raise _CannotRunError(f"{name}: command not found", 127)


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
        self._port, self._page_port = free_ports(2)
        self._console = ui == "console"
        confdir = next((each.partition("=")[2] for each in settings if each.startswith("confdir=")), "~/.mitmproxy")
        self.authority = Path(confdir).expanduser() / "mitmproxy-ca-cert.pem"
        options: Mapping[str, Any] = web_options(ui) | {
            "proxyauth": None,
            "force_stream_page": _PAGE,
            "allow_hosts": [allow_pattern(host) for host in intercepted],
            "connection_strategy": "lazy",
            "flow_detail": 0,
            HOSTS_OPTION: list(hosts),
            "force_stream_rules": rules or "",
            "force_stream_page_port": self._page_port,
        }
        more = ["--listen-host", LOOPBACK, "--listen-port", str(self._port)]
        if not any(setting.startswith("mode=") for setting in settings):
            more += ["--mode", "regular"]
        for setting in settings:
            more += ["--set", setting]
        line, self._variables = arguments(options, more)
        self._command = command(ui, line)

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
        self._process = subprocess.Popen(self._command, env=os.environ | self._variables, **apart)
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
        return self._ask("/health") is not None

    def took_nothing(self) -> bool:
        """Whether no rule has taken a request."""
        rules = self._ask("/rules")
        return rules is not None and not any(rule["flows"] for rule in jsontext.loads(rules.decode()))

    def _ask(self, path: str) -> bytes | None:
        """What the page answers, through the proxy; None where it does not."""
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=_ANSWER_TIMEOUT)
        try:
            connection.request("GET", f"http://{_PAGE}{path}", headers={"Host": _PAGE})
            answer = connection.getresponse()
            return answer.read() if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
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


def _foreground(words: Sequence[str], env: Mapping[str, str], output: IO[bytes] | None) -> int:
    """Run a command as a shell does: the terminal is its own, and so are the signals that are meant to stop it.

    `output`: where the terminal is taken, the command gets this file in its place, and a session of its own.
    """
    apart: dict[str, Any] = {}
    if output is not None:
        apart = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "start_new_session": True}
    try:
        process = subprocess.Popen(list(words), env=dict(env), **apart)
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
    if output is not None:
        output.close()
    return code if code >= 0 else 128 - code
