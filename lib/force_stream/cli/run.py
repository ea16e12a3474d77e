"""`force-stream run -- COMMAND`: a program whose requests go through a proxy of its own.

Knows processes and signals. Must not know which variables a runtime reads.
"""

import argparse
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from types import FrameType
from typing import IO, Any, Final

from ..rules.hosts import compile_host
from ..rules.rule import HOSTS_OPTION
from ..wire import jsontext
from .check import rules_in
from .environment import PROXY, chromium_arguments, proxied
from .exits import Failed
from .mitmproxy_tools import LOOPBACK, arguments, command, folder_of, free_ports, web_options

# The exit code if the command was not run because of us, as with env(1) and timeout(1).
PROXY_FAILED: Final = 125
# Seconds. The first start compiles all of mitmproxy.
_START_TIMEOUT: Final = 120.0
_STOP_TIMEOUT: Final = 10.0
_ANSWER_TIMEOUT: Final = 10.0
# The page by its name: asked through the proxy, it shows that this proxy is running and has rules.
_PAGE: Final = "force.stream"


def run(options: argparse.Namespace) -> int:
    """Start the proxy and the command, and return the command's exit code when it has ended."""
    if not options.more:
        raise Failed("no command: put it after --, as in force-stream run -- python app.py", 2)
    name, *words = options.more
    program = _program(name)
    hosts = _forced(options.host, options.rules)
    authority = folder_of(options.set, PROXY_FAILED) / "mitmproxy-ca.pem"
    _warn_of_another_proxy(options.set)
    port, page_port = free_ports(2)
    output = _output_file() if options.ui == "console" else None
    with (
        TemporaryDirectory(prefix="force-stream-", ignore_cleanup_errors=True) as bundles,
        _proxy(options, hosts, port, page_port),
    ):
        url = f"http://{LOOPBACK}:{port}"
        env = proxied(os.environ, url, authority, hosts, Path(bundles))
        if options.chromium:
            words += chromium_arguments(url, authority, hosts)
        if output is None:
            page = f"http://{LOOPBACK}:{page_port}/"
            print(f"force-stream: forcing {', '.join(hosts)}; the page: {page}", file=sys.stderr, flush=True)
        code = _foreground([program, *words], env, output)
        rules = _ask(port, "/rules")
    if output is not None:
        print(f"force-stream: the output of {name} is in {output.name}", file=sys.stderr)
    if rules is not None and not any(rule["flows"] for rule in jsontext.loads(rules.decode())):
        print(
            f"force-stream: no request that matches a rule came through the proxy. Does {name} use the proxy in its "
            "environment? Python's aiohttp needs trust_env=True, Chromium and Electron need --chromium, and Go and "
            "Ruby use no proxy for localhost; see docs/modes.md.",
            file=sys.stderr,
        )
    return code


def _output_file() -> IO[bytes]:
    """For a command that cannot have the terminal, because mitmproxy's console has it."""
    return NamedTemporaryFile(prefix="force-stream-run-", suffix=".log", delete=False)


def _program(name: str) -> str:
    if found := shutil.which(name):
        return found
    if os.path.exists(name):
        raise Failed(f"{name} cannot be executed", 126)
    raise Failed(f"{name}: command not found", 127)


def _forced(hosts: list[str], rules: str | None) -> list[str]:
    """The hosts to intercept: those that were named, or else those of the rules file."""
    found = () if rules is None else rules_in(rules, PROXY_FAILED)
    try:
        for host in hosts:
            compile_host(host)
    except ValueError as error:
        raise Failed(f"{error}; write it as in --host llm.example.com", 2) from error
    if hosts:
        return hosts
    if rules is None:
        raise Failed("name the upstream's host (--host llm.example.com), or a rules file (--rules FILE)", 2)
    if not found:
        raise Failed(f"{rules} has no rule, so there is no host to intercept", PROXY_FAILED)
    return list(dict.fromkeys(host for rule in found for host in rule.hosts))


def _warn_of_another_proxy(settings: Sequence[str]) -> None:
    name = next((name for name in PROXY if os.environ.get(name)), None)
    if name is None or any(setting.startswith("mode=") for setting in settings):
        return
    # Without its credentials.
    scheme, _, rest = os.environ[name].rpartition("://")
    upstream = f"upstream:{scheme}://{rest.rpartition('@')[2]}"
    hint = f"; to go through it, add --set mode={upstream}" if scheme in ("http", "https") else ""
    print(f"force-stream: the proxy in {name} is not used{hint}", file=sys.stderr)


@contextmanager
def _proxy(options: argparse.Namespace, hosts: Sequence[str], port: int, page_port: int) -> Iterator[None]:
    """One of mitmproxy's programs in a process of its own, which takes requests within the `with` block."""
    ours: Mapping[str, Any] = web_options(options.ui) | {
        "proxyauth": None,
        "force_stream_page": _PAGE,
        "allow_hosts": [allow_pattern(host) for host in hosts],
        "connection_strategy": "lazy",
        "flow_detail": 0,
        HOSTS_OPTION: options.host,
        "force_stream_rules": options.rules or "",
        "force_stream_page_port": page_port,
    }
    mode = [] if any(setting.startswith("mode=") for setting in options.set) else ["--mode", "regular"]
    listen = ["--listen-host", LOOPBACK, "--listen-port", str(port), *mode]
    line, variables = arguments(ours, [*listen, *(f"--set={setting}" for setting in options.set)])
    # A session of its own: Ctrl-C is for the command. Its log goes to stderr, not into the command's output.
    apart: Mapping[str, Any] = {"stdin": subprocess.PIPE, "stdout": sys.stderr.fileno(), "start_new_session": True}
    kept = {} if options.ui == "console" else apart
    with subprocess.Popen(command(options.ui, line), env=os.environ | variables, **kept) as process:
        try:
            _wait(process, port)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _START_TIMEOUT
    while _ask(port, "/health") is None:
        if process.poll() is not None:
            raise Failed("the proxy did not start; see its output above", PROXY_FAILED)
        if time.monotonic() > end:
            raise Failed(f"the proxy did not start within {_START_TIMEOUT:.0f} s", PROXY_FAILED)
        time.sleep(0.05)


def _ask(port: int, path: str) -> bytes | None:
    """What the page answers, through the proxy; None if it does not."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=_ANSWER_TIMEOUT)) as connection:
        try:
            connection.request("GET", f"http://{_PAGE}{path}", headers={"Host": _PAGE})
            answer = connection.getresponse()
            return answer.read() if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None


def allow_pattern(host: str) -> str:
    """A host of a rule as a regular expression for mitmproxy's option allow_hosts, which sees HOST:PORT."""
    name, port = compile_host(host)
    # Without the anchor at its end, which Python 3.14 writes differently.
    return rf"^\[?{name.pattern[:-2]}\]?:{port or r'\d+'}$"


def _foreground(words: Sequence[str], env: Mapping[str, str], output: IO[bytes] | None) -> int:
    """Run a command as a shell does: it has the terminal, and the signals that are meant to stop it.

    `output`: a file to write to, if the terminal is taken; the command then has a session of its own.
    """
    apart: Mapping[str, Any] = {}
    if output is not None:
        apart = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "start_new_session": True}
    try:
        process = subprocess.Popen(words, env=env, **apart)
    except OSError as error:
        raise Failed(f"{words[0]} cannot be run: {error.strerror}", 126) from error

    def forward(number: int, _: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the command as well as to us; whether it ends is up to the command.
        if number != signal.SIGINT:
            process.send_signal(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    code = process.wait()
    if output is not None:
        output.close()
    return code if code >= 0 else 128 - code
