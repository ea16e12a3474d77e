"""What deploy/ has: each file by the program that reads it, and two instances behind a real HAProxy."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from force_stream.addon import create
from harness import (
    Answer,
    Certs,
    Data,
    End,
    Gate,
    Head,
    Http1Client,
    Pause,
    Proxy,
    Response,
    WaitFor,
    event_stream,
    needs_tool,
    refused_port,
    sse,
)
from harness.paths import ADDON, ROOT, SCRIPTS
from harness.record import TIMEOUT, Request
from harness.samples import CHAT, DOCUMENT, EVENTS, RULES, STREAM, request
from harness.steps import Step
from harness.upstream import Upstream
from mitmproxy.test import taddons

from deploy import drain

DEPLOY = ROOT / "deploy"
HOLD_LOOP = SCRIPTS / "hold_loop.py"
CONFIGURATION = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
UNIT = DEPLOY / "force-stream@.service"
COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
JSON_TYPE = ("Content-Type", "application/json")
SERVER = re.compile(r"server (\w+) 127\.0\.0\.1:(\d+) check port (\d+)")
NAMES = tuple(name for name, _, _ in SERVER.findall(CONFIGURATION))
BEATING = """\
  - name: beating
    hosts: ["127.0.0.1"]
    models: ["beat"]
    force_upstream_stream: true
    heartbeat: 0.1
"""


def configuration(
    port: int, ports: dict[str, tuple[int, int]], *, patience: float = TIMEOUT, inter: str = "100ms", **timeouts: float
) -> str:
    """deploy/haproxy.cfg with other ports, for whoever runs the tests, and with more frequent health checks.

    `ports`: for each server that of its instance and that of its page. `timeouts`: seconds for timeouts by their names.
    `patience`: the seconds that a check waits for its answer. HAProxy itself takes the time between two checks for it,
    which is too short here on a busy machine."""
    text = re.sub(r"^ +(user|group) haproxy\n", "", CONFIGURATION, flags=re.MULTILINE)
    text = text.replace("bind 127.0.0.1:8080", f"bind 127.0.0.1:{port}").replace("inter 2s", f"inter {inter}")
    for name, seconds in timeouts.items():
        text = re.sub(rf"timeout {name} \w+", f"timeout {name} {seconds:g}s", text)
    text = text.replace("timeout connect 5s", f"timeout connect 5s\n    timeout check {patience:.0f}s")
    for found in SERVER.finditer(CONFIGURATION):
        instance, page = ports[found[1]]
        text = text.replace(found[0], f"server {found[1]} 127.0.0.1:{instance} check port {page}")
    return text


# The files


def test_haproxy_accepts_its_configuration(haproxy: str, tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(configuration(8080, dict.fromkeys(NAMES, (8081, 18081))))
    done = subprocess.run([haproxy, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr.upper()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = needs_tool("systemd-analyze")
    # It looks whether what the unit starts is there.
    text = re.sub(r"/opt/force-stream/\.venv/bin/\w+", sys.executable, UNIT.read_text(encoding="utf-8"))
    (tmp_path / UNIT.name).write_text(text)
    unit = tmp_path / UNIT.name.replace("@", "@8081")
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "force-stream" not in done.stderr, done.stderr


def test_the_unit_gives_a_service_little_more_than_it_needs() -> None:
    analyze = needs_tool("systemd-analyze")
    # The threshold is in tenths.
    command = [analyze, "security", "--offline=true", "--threshold=20", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_what_the_unit_starts_answers_with_the_system_calls_that_the_unit_allows(
    upstream: Upstream, tmp_path: Path
) -> None:
    calls = allowed_calls()
    unit = UNIT.read_text(encoding="utf-8").replace("\\\n", "")
    (line,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
    port, page = refused_port(), refused_port()
    (tmp_path / "rules.yaml").write_text(RULES)
    values = {
        "/opt/force-stream/.venv": sys.prefix,
        "/opt/force-stream/": f"{ROOT}/",
        "/var/lib/force-stream/%i": str(tmp_path),
        "/etc/force-stream/": f"{tmp_path}/",
        "${UPSTREAM}": upstream.url(),
        "=1%i": f"={page}",
        "%i": str(port),
    }
    for name, value in values.items():
        line = line.replace(name, value)
    command = [sys.executable, SCRIPTS / "only_calls.py", ",".join(calls), *line.split()]
    upstream.answer_always(event_stream(STREAM))
    log = tmp_path / "log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until_listening(port, process, log)
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
            assert ask(f"http://127.0.0.1:{port}") == DOCUMENT
        finally:
            process.kill()


def wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.05)


def allowed_calls() -> list[str]:
    """What the unit's SystemCallFilter lets through, by systemd's own lists."""
    shown = subprocess.run(
        [needs_tool("systemd-analyze"), "syscall-filter"], capture_output=True, text=True, check=True
    )
    groups: dict[str, list[str]] = {}
    for line in shown.stdout.splitlines():
        if line.startswith("@"):
            groups[line] = members = []
        elif (name := line.strip()) and not name.startswith("#"):
            members.append(name)

    def calls(name: str) -> set[str]:
        return {call for member in groups[name] for call in calls(member)} if name in groups else {name}

    allowed: set[str] = set()
    for line in re.findall("^SystemCallFilter=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE):
        named = {call for name in line.removeprefix("~").split() for call in calls(name)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    assert {"read", "connect"} <= allowed
    assert not allowed & {"mount", "chroot", "setpriority"}
    return sorted(allowed)


def test_haproxy_compose_and_unit_mean_the_same_instances_by_the_same_names() -> None:
    servers = {name: (port, page) for name, port, page in SERVER.findall(CONFIGURATION)}
    assert len(servers) > 1
    assert servers == {name: (name, f"1{name}") for name in servers}
    services = yaml.safe_load(COMPOSE)["services"]
    composed = {name: service["command"] for name, service in services.items() if name.isdigit()}
    assert {name: ports_of(command) for name, command in composed.items()} == servers
    assert ports_of(UNIT.read_text(encoding="utf-8")) == ("%i", "1%i")


def ports_of(command: str) -> tuple[str, ...]:
    found = [re.search(rf"{option}[ =](\S+)", command) for option in ("--listen-port", "force_stream_page_port")]
    return tuple(match[1] for match in found if match)


def test_what_compose_mounts_and_builds_is_there() -> None:
    composed = yaml.safe_load(COMPOSE)
    for service in composed["services"].values():
        for volume in service["volumes"]:
            source = re.sub(r"\$\{\w+:-(.*)\}", r"\1", volume).split(":")[0]
            assert source in composed["volumes"] or (DEPLOY / source).exists(), source
    build = composed["x-proxy"]["build"]
    context = DEPLOY / build["context"]
    copied = re.findall(r"^COPY (.*) \S+$", (context / build["dockerfile"]).read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    assert [name for line in copied for name in line.split() if not (context / name).exists()] == []


def test_an_image_is_built_of_nothing_but_what_it_copies() -> None:
    """.dockerignore by Docker's rules: the last line that fits a path, or a folder above it, decides."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()

    def is_sent(path: str) -> bool:
        sent = True
        for line in lines:
            pattern = line.removeprefix("!")
            above = [path, *map(str, PurePosixPath(path).parents)]
            if any(fnmatch(each, pattern) for each in above):
                sent = line.startswith("!")
        return sent

    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE):
        assert all(map(is_sent, line.split())), line
    assert is_sent("lib/force_stream/addon/hooks.py")
    for name in (".git/config", ".venv/bin/python", "tests/conftest.py", "dist/a.whl", "flows", "recordings/a.sse"):
        assert not is_sent(name), name
    assert not is_sent("lib/force_stream/__pycache__/a.pyc")


def test_the_options_that_deploy_sets_are_the_addons() -> None:
    async def known() -> set[str]:
        with taddons.context(*create(ROOT)) as context:
            return set(context.options.keys())

    texts = [path.read_text(encoding="utf-8") for path in DEPLOY.iterdir() if path.is_file()]
    named = {name for text in texts for name in re.findall(r"--set (force_stream\w*)=", text)}
    assert named == {"force_stream_rules", "force_stream_page_port"}
    assert named <= asyncio.run(known())


# Two instances


class Balancer:
    """HAProxy before some instances, with the configuration in deploy/ on other ports."""

    def __init__(
        self,
        haproxy: str,
        folder: Path,
        instances: dict[str, Proxy],
        pages: dict[str, int],
        *,
        socket_options: str = "",
        **settings: Any,
    ) -> None:
        self.instances = instances
        self.master = str(folder / "master.sock")
        self.port = refused_port()
        ports = {name: (instance.ports[0], pages[name]) for name, instance in instances.items()}
        self.file = folder / "haproxy.cfg"
        self.file.write_text(configuration(self.port, ports, **settings))
        self._log = folder / "haproxy.log"
        command = [haproxy, "-W", "-db", "-S", self.master + socket_options, "-f", self.file]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def figures(self, name: str) -> dict[str, str]:
        """A figure of each server (management guide, section 9.1), from the worker that takes connections."""
        servers = drain.figures(self.master, self.workers()[0]).values()
        return {server["svname"]: server[name] for server in servers}

    def workers(self) -> list[str]:
        return drain.workers(self.master)

    def answered(self) -> dict[str, int]:
        """How many requests each instance has had."""
        return {name: int(figure) for name, figure in self.figures("stot").items()}

    def busy(self) -> str:
        """The instance that has the one open request, once there is one."""
        deadline = time.monotonic() + TIMEOUT
        while "1" not in (figures := self.figures("scur")).values():
            assert time.monotonic() < deadline, figures
            time.sleep(0.02)
        (name,) = [name for name, figure in figures.items() if figure != "0"]
        return name

    def set_state(self, state: str, *names: str) -> None:
        for name in names:
            drain.set_server(self.master, self.workers()[0], f"proxies/{name}", f"state {state}")

    def reload(self) -> None:
        """Returns when a new worker takes the connections."""
        before = self.workers()
        self._process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + TIMEOUT
        while self.workers()[0] in before:
            assert time.monotonic() < deadline, self._log.read_text(encoding="utf-8")
            time.sleep(0.02)

    def fail_to_reload(self) -> None:
        self._process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + TIMEOUT
        while "[failed: 1]" not in drain.ask(self.master, "show proc"):
            assert time.monotonic() < deadline, self._log.read_text(encoding="utf-8")
            time.sleep(0.02)

    def wait_until(self, states: dict[str, str]) -> None:
        """Wait until HAProxy says so of these instances; UP counts only after a check."""
        deadline = time.monotonic() + TIMEOUT
        now: dict[str, str] = {}
        while not states.items() <= now.items():
            assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, now
            time.sleep(0.02)
            with suppress(drain.Refused):
                checks = self.figures("check_status")
                now = {name: state for name, state in self.figures("status").items() if checks[name] != "INI"}

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()


ALL_UP = dict.fromkeys(NAMES, "UP")


class Held:
    """A request whose answer the upstream holds back, within `before` and `after`."""

    def __init__(
        self,
        client: Http1Client,
        upstream: Upstream,
        *before: Step,
        after: tuple[Step, ...] = (Data(STREAM), End()),
        **members: Any,
    ) -> None:
        self.client = client
        self.gate = Gate()
        number = len(upstream.requests) + 1
        upstream.answer(Answer.of(*(before or (Head(),)), WaitFor(self.gate), *after))
        client.start("POST", CHAT, [JSON_TYPE], json.dumps(request(**members)).encode())
        self.request: Request = upstream.wait_request(number)

    def answer(self) -> Response:
        self.gate.open()
        return self.client.receive("POST")

    def is_answered(self) -> bool:
        answer = self.answer()
        return (answer.status, answer.json()) == (200, DOCUMENT)


def start_instances(
    start: Callable[..., Proxy],
    folder: Path,
    upstream: Upstream,
    *,
    scripts: Sequence[Path] = (ADDON,),
    **arguments: Any,
) -> tuple[dict[str, Proxy], dict[str, int]]:
    """Two of mitmdump, which share one rules file in `folder`, and the ports of their pages."""
    rules = folder / "rules.yaml"
    rules.write_text(RULES + BEATING)
    pages = {name: refused_port() for name in NAMES}
    options = {"connection_strategy": "lazy", "force_stream_rules": rules}
    instances = {
        name: start(
            f"reverse:{upstream.url()}",
            scripts=scripts,
            options=options | {"force_stream_page_port": page},
            **arguments,
        )
        for name, page in pages.items()
    }
    return instances, pages


@pytest.fixture(scope="module")
def haproxy() -> str:
    return needs_tool("haproxy")


@pytest.fixture(scope="module")
def lasting(
    haproxy: str, certs: Certs, session_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Proxy], dict[str, int]]]:
    with ExitStack() as stack:
        yield start_instances(
            lambda *modes, **arguments: stack.enter_context(Proxy(*modes, certs=certs, **arguments)),
            tmp_path_factory.mktemp("instances"),
            session_upstream,
        )


@pytest.fixture
def balancer(
    haproxy: str, lasting: tuple[dict[str, Proxy], dict[str, int]], upstream: Upstream, tmp_path: Path
) -> Iterator[Balancer]:
    """Before instances that other tests use too."""
    yield from _balance(haproxy, tmp_path, *lasting)


@pytest.fixture
def own_balancer(
    haproxy: str, proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> Iterator[Balancer]:
    """Before instances that this test alone uses, and may spoil."""
    yield from _balance(haproxy, tmp_path, *start_instances(proxy_factory, tmp_path, upstream, remote=True))


@pytest.fixture
def impatient_balancer(
    haproxy: str, proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> Iterator[Balancer]:
    """The same, but soon done with an instance that does not answer."""
    yield from _balance(haproxy, tmp_path, *start_instances(proxy_factory, tmp_path, upstream), patience=1)


def _balance(
    haproxy: str, folder: Path, instances: dict[str, Proxy], pages: dict[str, int], **settings: Any
) -> Iterator[Balancer]:
    made = Balancer(haproxy, folder, instances, pages, **settings)
    try:
        made.wait_until(ALL_UP)
        yield made
    finally:
        made.stop()


def ask(url: str) -> Any:
    with Http1Client(url) as client:
        answer = client.post(CHAT, request())
    assert answer.status == 200, answer.body
    return answer.json()


# Who gets a request


def test_the_instance_with_fewer_open_requests_gets_the_next(balancer: Balancer, upstream: Upstream) -> None:
    with ExitStack() as clients:
        held = [Held(clients.enter_context(Http1Client(balancer.url)), upstream) for _ in range(6)]
        assert set(balancer.figures("scur").values()) == {"3"}
        assert all(each.is_answered() for each in held)
    assert set(balancer.answered().values()) == {3}


def test_each_request_of_one_connection_is_balanced_by_itself(balancer: Balancer, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    with Http1Client(balancer.url) as client:
        for _ in range(4):
            assert client.post(CHAT, request()).json() == DOCUMENT
    assert set(balancer.answered().values()) == {2}


def test_without_an_instance_the_client_gets_an_error_that_its_library_can_read(
    balancer: Balancer, upstream: Upstream
) -> None:
    balancer.set_state("drain", *NAMES)
    with Http1Client(balancer.url) as client:
        answer = client.post(CHAT, request())
    assert (answer.status, answer.header("retry-after")) == (503, "5")
    assert answer.json()["error"]["code"] == "proxy_unavailable"
    assert not upstream.requests


# HAProxy's own errors


CHUNKED = [JSON_TYPE, ("Transfer-Encoding", "chunked")]


def assert_error(answer: Response, status: int, code: str) -> None:
    assert (answer.status, answer.header("content-type")) == (status, "application/json")
    error = answer.json()["error"]
    assert (list(error), error["code"]) == (["message", "type", "param", "code"], code)


def test_all_errors_of_haproxys_that_can_be_set_are_json_in_the_shape_of_openais() -> None:
    found = re.findall(r"status (\d+) content-type application/json .*string '(.*?)'", CONFIGURATION)
    assert [status for status, _ in found] == ["400", "500", "502", "503", "504", "431"]
    for _, text in found:
        assert list(json.loads(text)["error"]) == ["message", "type", "param", "code"]


@pytest.mark.parametrize("size", [70_000, 125_000])
def test_headers_that_are_too_long_get_an_error_that_a_client_can_read(
    balancer: Balancer, upstream: Upstream, size: int
) -> None:
    with Http1Client(balancer.url) as client:
        assert_error(client.post(CHAT, request(), [("Cookie", "x" * size)]), 431, "proxy_headers_too_large")
        upstream.answer_always(event_stream(STREAM))
        assert client.post(CHAT, request()).json() == DOCUMENT


def test_a_head_larger_than_haproxys_buffer_gets_haproxys_page(balancer: Balancer) -> None:
    """docs/scaling.md says so: what HAProxy cannot read as a request gets a text that is compiled in."""
    with Http1Client(balancer.url) as client:
        answer = client.request("GET", CHAT, [("Cookie", "x" * 140_000)])
    assert (answer.status, answer.header("content-type")) == (400, "text/html")


def test_a_body_that_cannot_be_read_gets_an_error_that_a_client_can(balancer: Balancer, upstream: Upstream) -> None:
    with Http1Client(balancer.url) as client:
        client.start("POST", CHAT, CHUNKED)
        client.send(b"1\r\n{\r\n")
        balancer.busy()
        client.send(b"nonsense\r\n")
        assert_error(client.receive("POST"), 400, "proxy_bad_request")
    assert not upstream.requests


def test_an_instance_that_is_silent_for_too_long_gets_its_client_an_error_that_says_so(
    haproxy: str, lasting: tuple[dict[str, Proxy], dict[str, int]], upstream: Upstream, tmp_path: Path
) -> None:
    balancing = contextmanager(_balance)(haproxy, tmp_path, *lasting, server=1)
    with balancing as balancer, Http1Client(balancer.url) as client:
        held = Held(client, upstream)
        assert_error(client.receive("POST"), 504, "proxy_timeout")
        held.gate.open()


@pytest.mark.parametrize("size", [20_000, 60_000])
def test_a_long_head_reaches_the_upstream_and_comes_back(balancer: Balancer, upstream: Upstream, size: int) -> None:
    upstream.answer_always(Answer.of(Head(headers=[("X-Long", "y" * size)]), Data(STREAM), End()))
    with Http1Client(balancer.url) as client:
        answer = client.post(CHAT, request(), [("Cookie", "x" * size)])
    assert answer.json() == DOCUMENT
    assert answer.header("x-long") == "y" * size
    assert ("cookie", "x" * size) in lower(upstream.requests[0].headers)


# What passes


def test_the_upstream_gets_what_it_gets_without_the_balancer(balancer: Balancer, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    body = request(messages=[{"role": "user", "content": "picture " * 1_000_000}])
    for url in (balancer.instances[NAMES[0]].url, balancer.url):
        with Http1Client(url) as client:
            assert client.post(CHAT, body, [("Host", "applications.test")]).json() == DOCUMENT
    straight, balanced = upstream.requests
    assert balanced.body == straight.body
    assert lower(balanced.headers) == lower(straight.headers)


def lower(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers)


def test_a_stream_of_the_clients_own_is_live(balancer: Balancer, upstream: Upstream) -> None:
    first, rest = sse(*EVENTS[:1], done=False), sse(*EVENTS[1:])
    with Http1Client(balancer.url) as client:
        held = Held(client, upstream, Head(), Data(first), after=(Data(rest), End()), stream=True)
        incoming = client.begin("POST")
        came = incoming.read_piece()
        held.gate.open()
        while (piece := incoming.read_piece()) is not None:
            came += piece
    assert came == first + rest
    assert incoming.response.chunks[0] == first


def test_heartbeats_come_while_the_answer_is_awaited(balancer: Balancer, upstream: Upstream) -> None:
    with Http1Client(balancer.url) as client:
        held = Held(client, upstream, model="beat")
        incoming = client.begin("POST")
        assert [incoming.read_piece() for _ in range(3)] == [b" "] * 3
        held.gate.open()
        while incoming.read_piece() is not None:
            pass
    assert incoming.response.ended == "complete"
    assert json.loads(b"".join(incoming.response.chunks)) == DOCUMENT


def test_a_client_that_goes_away_takes_its_request_to_the_upstream_with_it(
    balancer: Balancer, upstream: Upstream
) -> None:
    with Http1Client(balancer.url) as client:
        held = Held(client, upstream)
    held.request.wait_closed()
    assert held.request.abandoned


# Instances that go


def test_requests_go_on_when_an_instance_is_gone(own_balancer: Balancer, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    gone, left = NAMES
    own_balancer.instances[gone].stop()
    # Before its health check has noticed, and after it.
    assert [ask(own_balancer.url) for _ in range(4)] == [DOCUMENT] * 4
    own_balancer.wait_until({gone: "DOWN", left: "UP"})
    assert [ask(own_balancer.url) for _ in range(4)] == [DOCUMENT] * 4
    assert own_balancer.answered()[left] == 8


def test_a_drained_instance_that_has_begun_to_fail_its_checks_is_not_ready(
    haproxy: str, proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path, capsys: Any
) -> None:
    instances, pages = start_instances(proxy_factory, tmp_path, upstream)
    balancing = contextmanager(_balance)(haproxy, tmp_path, instances, pages, inter="2s")
    with balancing as balancer:
        name = NAMES[0]
        assert drain_now(balancer, name) == 0
        instances[name].stop()
        balancer.wait_until({name: "DRAIN 2/3"})
        assert drain_now(balancer, "--ready", "--patience", "0.5", name) == 1
        assert "health checks (DOWN" in capsys.readouterr().out


def test_what_an_instance_had_when_it_went_fails_and_is_not_sent_again(
    own_balancer: Balancer, upstream: Upstream
) -> None:
    with ExitStack() as clients:
        fresh, used, beating = [clients.enter_context(Http1Client(own_balancer.url)) for _ in range(3)]
        gone = NAMES[0]
        own_balancer.set_state("drain", *NAMES[1:])
        upstream.answer(event_stream(STREAM))
        assert used.post(CHAT, request()).json() == DOCUMENT
        held = [Held(fresh, upstream), Held(used, upstream), Held(beating, upstream, model="beat")]
        begun = beating.begin("POST")
        assert begun.read_piece() == b" "
        own_balancer.set_state("ready", *NAMES[1:])

        os.kill(own_balancer.instances[gone].pid, signal.SIGKILL)
        answer = fresh.receive("POST")
        assert (answer.status, answer.json()["error"]["code"]) == (502, "proxy_lost")
        # HAProxy leaves it to the client to send again what was not the first on a connection (RFC 9112, section 9.5).
        answer = used.receive("POST")
        assert (answer.status, answer.ended) == (None, "closed")
        while begun.read_piece() is not None:
            pass
        assert begun.response.ended == "closed", "no end of the body, so no client takes it for an answer"
        for each in held:
            each.gate.open()
    assert len(upstream.requests) == 4
    upstream.answer_always(event_stream(STREAM))
    assert ask(own_balancer.url) == DOCUMENT


def test_an_instance_that_hangs_gets_no_more_requests(impatient_balancer: Balancer, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    hung, left = NAMES
    os.kill(impatient_balancer.instances[hung].pid, signal.SIGSTOP)
    try:
        impatient_balancer.wait_until({hung: "DOWN", left: "UP"})
        assert [ask(impatient_balancer.url) for _ in range(2)] == [DOCUMENT] * 2
    finally:
        os.kill(impatient_balancer.instances[hung].pid, signal.SIGCONT)
    impatient_balancer.wait_until(ALL_UP)


def test_an_instance_whose_event_loop_is_held_gets_no_more_requests(
    haproxy: str, proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM))
    instances, pages = start_instances(proxy_factory, tmp_path, upstream, scripts=[ADDON, HOLD_LOOP])
    free = tmp_path / "free"
    balancing = contextmanager(_balance)(haproxy, tmp_path, instances, pages, patience=1)
    with balancing as balancer, Http1Client(balancer.url) as client:
        client.start("POST", CHAT, [JSON_TYPE, ("x-hold", str(free))], json.dumps(request()).encode())
        try:
            held = balancer.busy()
            balancer.wait_until({held: "DOWN"})
            assert [ask(balancer.url) for _ in range(2)] == [DOCUMENT] * 2
        finally:
            free.touch()
        assert client.receive("POST").json() == DOCUMENT
        balancer.wait_until(ALL_UP)


def test_an_unhealthy_instance_ends_what_it_has_and_gets_no_more(own_balancer: Balancer, upstream: Upstream) -> None:
    with Http1Client(own_balancer.url) as client:
        held = Held(client, upstream)
        sick = own_balancer.busy()
        own_balancer.instances[sick].set_options(force_stream_rules="/no/such/rules.yaml")
        own_balancer.wait_until({sick: "DOWN"})
        upstream.answer_always(event_stream(STREAM))
        assert [ask(own_balancer.url) for _ in range(2)] == [DOCUMENT] * 2
        assert own_balancer.answered()[sick] == 1
        assert held.is_answered()


# Draining and rules


@contextmanager
def draining(balancer: Balancer, *arguments: str) -> Iterator[Any]:
    """deploy/drain.py at work."""
    command = [sys.executable, "-u", DEPLOY / "drain.py", "--master", balancer.master, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def drain_now(balancer: Balancer, *arguments: str) -> int:
    return drain.main(["--master", balancer.master, *arguments])


def hold_on_both(stack: ExitStack, balancer: Balancer, upstream: Upstream, count: int) -> list[Held]:
    """As many requests on one instance as on the other."""
    held = [Held(stack.enter_context(Http1Client(balancer.url)), upstream) for _ in range(count)]
    assert set(balancer.figures("scur").values()) == {str(count // 2)}
    return held


def test_a_drained_instance_ends_what_it_has_and_gets_no_more(balancer: Balancer, upstream: Upstream) -> None:
    with ExitStack() as stack:
        with Http1Client(balancer.url) as client:
            held = Held(client, upstream)
            drained = balancer.busy()
            process = stack.enter_context(draining(balancer, drained))
            assert process.stdout.readline() == f"proxies/{drained}: waiting for 1 open request\n"
            upstream.answer_always(event_stream(STREAM))
            assert [ask(balancer.url) for _ in range(3)] == [DOCUMENT] * 3
            assert balancer.answered()[drained] == 1
            assert process.poll() is None, "it waits for the answer"
            assert held.is_answered()
        assert process.communicate(timeout=TIMEOUT) == (f"proxies/{drained}: drained\n", "")
    assert process.returncode == 0


def test_a_drained_instance_is_back_when_it_has_passed_the_checks(
    balancer: Balancer, upstream: Upstream, capsys: Any
) -> None:
    name = NAMES[0]
    assert drain_now(balancer, name) == 0
    assert balancer.figures("status")[name] == "DRAIN"
    capsys.readouterr()
    assert drain_now(balancer, "--ready", name) == 0
    assert balancer.figures("status")[name] == "UP"
    waiting = f"proxies/{name}: waiting for HAProxy's health checks (DRAIN)"
    assert capsys.readouterr().out.splitlines() == [waiting, f"proxies/{name}: ready"]
    # It is in use: putting it back once more takes nothing from it.
    assert drain_now(balancer, "--ready", name) == 0
    assert capsys.readouterr().out == f"proxies/{name}: ready\n"


def test_an_instance_that_fails_the_checks_is_not_ready(
    own_balancer: Balancer, upstream: Upstream, capsys: Any
) -> None:
    name = NAMES[0]
    assert drain_now(own_balancer, name) == 0
    own_balancer.instances[name].stop()
    capsys.readouterr()
    # HAProxy has not noticed: the checks before the stop were good.
    assert drain_now(own_balancer, "--ready", "--patience", "0.5", name) == 1
    assert "gave up after 0.5 s of waiting for HAProxy's health checks (DOWN" in capsys.readouterr().out


def test_after_a_reload_an_instance_is_drained_when_the_old_worker_has_no_request_of_it(
    balancer: Balancer, upstream: Upstream
) -> None:
    with ExitStack() as stack:
        held = hold_on_both(stack, balancer, upstream, 6)
        name = NAMES[0]
        balancer.reload()
        assert len(balancer.workers()) == 2
        assert balancer.figures("scur")[name] == "0", "the new worker knows nothing of them"
        process = stack.enter_context(draining(balancer, name))
        assert process.stdout.readline() == f"proxies/{name}: waiting for 3 open requests\n"
        # A second one in the middle of it, which forgets what was drained.
        balancer.reload()
        balancer.wait_until({name: "DRAIN"})
        assert process.poll() is None
        assert all(each.is_answered() for each in held)
        assert process.communicate(timeout=TIMEOUT) == (f"proxies/{name}: drained\n", "")
    assert process.returncode == 0


def test_an_instance_that_a_reload_has_removed_is_drained_too(balancer: Balancer, upstream: Upstream) -> None:
    with ExitStack() as stack:
        held = hold_on_both(stack, balancer, upstream, 2)
        name = NAMES[0]
        text = balancer.file.read_text(encoding="utf-8")
        balancer.file.write_text(re.sub(rf"^ +server {name} .*\n", "", text, flags=re.MULTILINE))
        balancer.reload()
        assert name not in balancer.figures("scur")
        process = stack.enter_context(draining(balancer, name))
        assert process.stdout.readline() == f"proxies/{name}: waiting for 1 open request\n"
        assert all(each.is_answered() for each in held)
        assert process.communicate(timeout=TIMEOUT) == (f"proxies/{name}: drained\n", "")


def test_after_a_reload_that_failed_the_worker_before_it_is_the_one_that_counts(
    balancer: Balancer, upstream: Upstream
) -> None:
    good = balancer.file.read_text(encoding="utf-8")
    with Http1Client(balancer.url) as client:
        held = Held(client, upstream)
        name = balancer.busy()
        balancer.file.write_text(good + "nonsense\n")
        balancer.fail_to_reload()
        with draining(balancer, name) as process:
            assert process.stdout.readline() == f"proxies/{name}: waiting for 1 open request\n"
            assert balancer.figures("status")[name] == "DRAIN"
            assert held.is_answered()
            assert process.communicate(timeout=TIMEOUT) == (f"proxies/{name}: drained\n", "")


def test_reloads_and_a_restart_of_each_instance_in_turn_break_no_answer(
    own_balancer: Balancer, upstream: Upstream
) -> None:
    """What docs/scaling.md says to do, while six clients ask again and again, half of them over one connection."""
    begin, rest = sse(*EVENTS[:1], done=False), sse(*EVENTS[1:])
    upstream.answer_always(Answer.of(Head(), Data(begin), Pause(0.5), Data(rest), End()))
    over = threading.Event()

    def ask_on(*, anew: bool) -> list[Any]:
        got: list[Any] = []
        with ExitStack() as clients:
            client = clients.enter_context(Http1Client(own_balancer.url))
            while not over.is_set():
                try:
                    answer = client.post(CHAT, request())
                except BrokenPipeError:
                    # The worker ended while the connection was idle: nothing of the request was taken.
                    client = clients.enter_context(Http1Client(own_balancer.url))
                    continue
                got.append(answer.json() if answer.status == 200 else (answer.status, answer.body, answer.ended))
                # HAProxy closes the connections of a worker that is to end, and says so.
                if anew or (answer.header("connection") or "").lower() == "close":
                    client = clients.enter_context(Http1Client(own_balancer.url))
        return got

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask_on, anew=number % 2 == 0) for number in range(6)]
        try:
            upstream.wait_request(6)
            for name, instance in own_balancer.instances.items():
                own_balancer.reload()
                assert drain_now(own_balancer, name) == 0
                assert instance.stop() == 0
                instance.options["listen_port"] = instance.ports[0]
                instance.start()
                assert drain_now(own_balancer, "--ready", name) == 0
            own_balancer.reload()
        finally:
            over.set()
        got = [answer for each in asking for answer in each.result()]
    assert len(got) > 12
    assert [answer for answer in got if answer != DOCUMENT] == []


def test_draining_gives_up_after_its_patience(balancer: Balancer, upstream: Upstream, capsys: Any) -> None:
    with Http1Client(balancer.url) as client:
        held = Held(client, upstream)
        name = balancer.busy()
        assert drain_now(balancer, "--patience", "0", name) == 1
        assert capsys.readouterr().out == f"proxies/{name}: gave up after 0 s of waiting for 1 open request\n"
        assert held.is_answered()


def test_the_last_instance_is_drained_only_when_told_so(balancer: Balancer, upstream: Upstream, capsys: Any) -> None:
    first, last = NAMES
    assert drain_now(balancer, first) == 0
    assert drain_now(balancer, first) == 0, "once more does no harm"
    capsys.readouterr()
    assert drain_now(balancer, last) == 1
    assert capsys.readouterr().err == (
        f"proxies/{last}: not drained: it is the last instance that is up, and without it every request gets a 503; "
        "put another one back first (--ready), or add --last\n"
    )
    upstream.answer_always(event_stream(STREAM))
    assert ask(balancer.url) == DOCUMENT
    assert drain_now(balancer, "--last", last) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"proxies/{last}: the last instance that is up; requests get a 503 until one is back",
        f"proxies/{last}: drained",
    ]
    assert set(balancer.figures("status").values()) == {"DRAIN"}


# What is wrong with HAProxy, or with what it is told


def test_a_server_that_haproxy_does_not_have_is_named_beside_those_that_it_has(balancer: Balancer, capsys: Any) -> None:
    has = ", ".join(f"proxies/{name}" for name in NAMES)
    for given, meant in (("8089", "proxies/8089"), (f"others/{NAMES[0]}", f"others/{NAMES[0]}")):
        assert drain_now(balancer, given) == 1
        assert drain_now(balancer, "--ready", given) == 1
        why = f"HAProxy has no server {meant}; it has {has}"
        assert capsys.readouterr().err == f"{meant}: not drained: {why}\n{meant}: not ready: {why}\n"


def test_a_socket_that_is_not_there_is_named_with_what_makes_it(tmp_path: Path, capsys: Any) -> None:
    master = tmp_path / "no.sock"
    assert drain.main(["--master", str(master), "8081"]) == 1
    hint = f"start HAProxy as `haproxy -W -S {master}`, or name its socket with --master"
    assert capsys.readouterr().err == f"proxies/8081: not drained: there is no socket {master}; {hint}\n"


def test_a_socket_that_one_may_not_use_asks_for_root(balancer: Balancer, capsys: Any) -> None:
    os.chmod(balancer.master, 0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        assert drain_now(balancer, NAMES[0]) == 1
    finally:
        if root:
            os.seteuid(0)
    why = f"no permission to use {balancer.master}; try it as root (sudo)"
    assert capsys.readouterr().err == f"proxies/{NAMES[0]}: not drained: {why}\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "TIMEOUT", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_haproxy_that_hangs_is_not_waited_for(balancer: Balancer, capsys: Any) -> None:
    worker = int(balancer.workers()[0])
    os.kill(worker, signal.SIGSTOP)
    try:
        assert drain_now(balancer, NAMES[0]) == 1
    finally:
        os.kill(worker, signal.SIGCONT)
    why = "HAProxy did not answer within 0.5 s; it hangs or is overloaded"
    assert capsys.readouterr().err == f"proxies/{NAMES[0]}: not drained: {why}\n"


@pytest.mark.usefixtures("impatient")
def test_a_haproxy_that_has_gone_is_said_to_have_gone(balancer: Balancer, capsys: Any) -> None:
    balancer.stop()
    assert drain_now(balancer, NAMES[0]) == 1
    why = f"nothing listens at {balancer.master}; is HAProxy running?"
    assert capsys.readouterr().err == f"proxies/{NAMES[0]}: not drained: {why}\n"


def test_another_socket_of_haproxys_is_not_taken_for_the_masters(
    balancer: Balancer, tmp_path: Path, capsys: Any
) -> None:
    stats = tmp_path / "stats.sock"
    text = balancer.file.read_text(encoding="utf-8")
    balancer.file.write_text(text.replace("global\n", f"global\n    stats socket {stats} level admin\n", 1))
    balancer.reload()
    assert drain.main(["--master", str(stats), NAMES[0]]) == 1
    assert f"{stats} is not the socket of HAProxy's master process" in capsys.readouterr().err


def test_what_haproxy_does_not_let_the_socket_do_is_told_in_its_words(
    haproxy: str, lasting: tuple[dict[str, Proxy], dict[str, int]], tmp_path: Path, capsys: Any
) -> None:
    balancing = contextmanager(_balance)(haproxy, tmp_path, *lasting, socket_options=",level,user")
    with balancing as balancer:
        assert drain_now(balancer, NAMES[0]) == 1
    assert "HAProxy says: Permission denied" in capsys.readouterr().err


def test_a_change_of_the_rules_file_is_in_force_in_all_instances(
    own_balancer: Balancer, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM))
    (tmp_path / "rules.yaml").write_text(RULES.replace('models: ["m"]', 'models: ["another"]'))
    for instance in own_balancer.instances.values():
        instance.wait_for_log(r"rule private-vllm: models")
    with Http1Client(own_balancer.url) as client:
        answers = [client.post(CHAT, request()).body for _ in range(2)]
    assert answers == [STREAM] * 2
    assert set(own_balancer.answered().values()) == {1}
    assert [json.loads(each.body).get("stream") for each in upstream.requests] == [None, None]
