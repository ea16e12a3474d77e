"""Local capture on Linux: mitmdump takes the connections of one process, which knows of no proxy.

mitmproxy's redirector attaches an eBPF program to the control group at /sys/fs/cgroup. Here that is one of the test's
own, in a mount namespace of mitmdump's own, and the network is one too: no other process of the machine is touched.
Where the kernel does not allow that, these tests skip, in CI too, since no package can change it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import Certs, Close, Data, Head, Upstream, document, event_stream
from harness.certs import DEFAULT_NAMES
from harness.netns import Namespace, cable
from harness.paths import ADDON
from harness.proxy import MITMDUMP
from harness.record import TIMEOUT
from harness.samples import CHAT, DOCUMENT, STREAM, request
from harness.tools import needs_tool

IPV4, IPV6 = "10.77.9.2", "fd77:9::2"
PORTS = {"http": 80, "https": 443, "h2": 8443, "untrusted": 9443}
# A program that asks what it is told, each time over a new connection.
PROGRAM = """\
import json, ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1])
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
for line in sys.stdin:
    url, body, headers = json.loads(line)
    asked = urllib.request.Request(url, body and body.encode(), headers)
    try:
        with opener.open(asked, timeout=60) as answer:
            said = answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        said = e.code, e.read().decode()
    except OSError as e:
        said = 0, str(e)
    print(json.dumps(said), flush=True)
"""
# In a mount namespace: mitmdump in the group GROUP/proxy, and GROUP where the redirector looks.
IN_GROUP = 'echo 0 >"$1/proxy/cgroup.procs" && mount --bind "$1" /sys/fs/cgroup && shift && exec "$@"'


class Group:
    """A control group, with whose end everything in it ends."""

    def __init__(self) -> None:
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
        if root is None:
            pytest.skip("there is no cgroup2")
        self.path = root / f"force-stream-{os.getpid()}"
        try:
            self.path.mkdir()
        except OSError as e:
            pytest.skip(f"no control group can be made here ({e})")
        for name in ("proxy", "program"):
            (self.path / name).mkdir()

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        (self.path / "cgroup.kill").write_text("1")
        end = time.monotonic() + TIMEOUT
        while "populated 1" in (self.path / "cgroup.events").read_text():
            assert time.monotonic() < end, f"{self.path} does not end"
            time.sleep(0.02)
        for group in (self.path / "proxy", self.path / "program", self.path):
            group.rmdir()


class Program:
    def __init__(self, group: Group, network: Namespace, certs: Certs) -> None:
        with network.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(certs.ca)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            )
        (group.path / "program/cgroup.procs").write_text(str(self._process.pid))

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, url: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([url, body, headers]) + "\n")
        self._process.stdin.flush()
        status, text = json.loads(self._process.stdout.readline())
        return status, text

    def post(self, url: str) -> tuple[int, Any]:
        status, text = self.ask(url + CHAT, json.dumps(request()), **{"Content-Type": "application/json"})
        return status, json.loads(text)

    def page(self) -> int:
        return self.ask(f"http://{IPV4}/rules", Host="force.stream")[0]


class Machine:
    """`captured` and `other` are programs on one machine, from which mitmdump captures the first."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        for tool in ("unshare", "mount", "sudo"):
            needs_tool(tool)
        certs = Certs(folder, (*DEFAULT_NAMES, IPV4, IPV6))
        network, far = (stack.enter_context(Namespace()) for _ in range(2))
        cable(network, ["10.77.9.1/24", "fd77:9::1/64"], far, [f"{IPV4}/24", f"{IPV6}/64"])
        with far.entered():
            self.upstream = stack.enter_context(Upstream(certs, hosts=(IPV4, IPV6), ports=PORTS))
        group = stack.enter_context(Group())
        self.captured, self.other = (stack.enter_context(Program(group, network, certs)) for _ in range(2))
        options = [
            f"confdir={certs.confdir(folder / 'conf')}",
            f"ssl_verify_upstream_trusted_ca={certs.ca}",
            "connection_strategy=lazy",
            *(f"force_stream_hosts={host}" for host in (IPV4, f"[{IPV6}]")),
        ]
        command = ["unshare", "--mount", "sh", "-c", IN_GROUP, "sh", str(group.path), str(MITMDUMP)]
        command += ["-s", str(ADDON), "--mode", f"local:{self.captured.pid}"]
        command += [part for option in options for part in ("--set", option)]
        log = folder / "log"
        with network.entered(), log.open("w") as output:
            proxy = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"TMPDIR": str(folder)},
                )
            )
        stack.callback(proxy.terminate)
        # mitmproxy says that it captures before it does.
        end = time.monotonic() + TIMEOUT
        while self.captured.page() != 200:
            said, is_over = log.read_text(), time.monotonic() > end
            if (proxy.poll() is not None and "eBPF" in said) or (is_over and "client connect" not in said):
                pytest.skip(f"mitmproxy cannot capture here: {said[-2000:]}")
            assert proxy.poll() is None, said
            assert not is_over, said
            time.sleep(0.1)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(stack, tmp_path_factory.mktemp("local"))


@pytest.fixture
def upstream(machine: Machine) -> Iterator[Upstream]:
    machine.upstream.reset()
    yield machine.upstream
    assert not machine.upstream.errors


every_way = pytest.mark.parametrize(
    "url", [f"{scheme}://{host}" for scheme in ("http", "https") for host in (IPV4, f"[{IPV6}]")]
)


@every_way
def test_a_plain_request_of_the_captured_process_is_forced(machine: Machine, upstream: Upstream, url: str) -> None:
    upstream.answer(event_stream(STREAM))
    assert machine.captured.post(url) == (200, DOCUMENT)
    assert upstream.wait_request().json()["stream"] is True


@every_way
def test_a_cut_stream_gives_it_a_502_in_json(machine: Machine, upstream: Upstream, url: str) -> None:
    upstream.answer([Head(), Data(STREAM[:200]), Close()])
    status, body = machine.captured.post(url)
    assert (status, body["error"]["code"]) == (502, "stream_truncated")


@every_way
def test_another_process_is_left_alone(machine: Machine, upstream: Upstream, url: str) -> None:
    upstream.answer(document(DOCUMENT))
    assert machine.other.post(url) == (200, DOCUMENT)
    assert "stream" not in upstream.wait_request().json()


def test_the_page_answers_the_captured_process_alone(machine: Machine, upstream: Upstream) -> None:
    upstream.answer_always(document("not the page"))
    assert machine.captured.page() == 200
    assert machine.other.ask(f"http://{IPV4}/rules", Host="force.stream") == (200, '"not the page"')
