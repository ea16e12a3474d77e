"""Networks for a single test: Linux network namespaces, connected by virtual cables.

    with Namespace() as client, Namespace() as router:
        cable(client, ["10.77.0.2/24"], router, ["10.77.0.1/24"])
        with router.entered():
            ...  # sockets, threads and processes that start here belong to the router

A namespace has no name, and is gone with the last process and socket in it: nothing is left behind, whatever happens.
"""

import base64
import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.tools import lacks, needs_tool

# What Linux keeps for each thread, and hands on to the threads and processes that it starts.
_CURRENT = "/proc/thread-self/ns/net"
_numbers = itertools.count()


class Namespace:
    def __init__(self) -> None:
        """A namespace with only a loopback interface; the test skips where that is not allowed."""
        self._ip = needs_tool("ip")
        try:
            with _back_again():
                os.unshare(os.CLONE_NEWNET)
                self._handle = os.open(_CURRENT, os.O_RDONLY)
        except (AttributeError, OSError) as e:
            lacks(f"no network namespace can be made here ({e})")
        self.ip("link set lo up")

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._handle}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with _back_again():
            os.setns(self._handle, os.CLONE_NEWNET)
            yield

    def ip(self, command: str) -> None:
        self.run(self._ip, *command.split())

    def run(self, *command: str, stdin: str | None = None) -> str:
        with self.entered():
            done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def nft(self, rules: str) -> None:
        """Load these rules for packets."""
        self.run(needs_tool("nft"), "-f", "-", stdin=rules)


def cable(one: Namespace, its: Sequence[str], other: Namespace, others: Sequence[str]) -> tuple[str, str]:
    """Connect two namespaces; the names of the interfaces, which get these addresses."""
    number = next(_numbers)
    names = f"fs{number}a", f"fs{number}b"
    one.ip(f"link add {names[0]} type veth peer name {names[1]} netns {other.path}")
    for namespace, name, addresses in ((one, names[0], its), (other, names[1], others)):
        for address in addresses:
            namespace.ip(f"address add {address} dev {name}" + (" nodad" if ":" in address else ""))
        namespace.ip(f"link set {name} up")
    return names


@contextlib.contextmanager
def wireguard(
    namespace: Namespace, private_key: str, peer_key: str, endpoint: str, networks: Sequence[str]
) -> Iterator[None]:
    """A WireGuard interface by wireguard-go, through which those networks are reached."""
    name = f"fswg{os.getpid()}"
    # https://www.wireguard.com/xplatform/ says what is said through it.
    control = Path(f"/var/run/wireguard/{name}.sock")
    with namespace.entered():
        process = subprocess.Popen(
            [needs_tool("wireguard-go"), "-f", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            _connect(asked, control, process)
            keys = [base64.b64decode(key).hex() for key in (private_key, peer_key)]
            asked.sendall(
                f"set=1\nprivate_key={keys[0]}\npublic_key={keys[1]}\nendpoint={endpoint}\n".encode()
                + b"".join(b"allowed_ip=%b\n" % network.encode() for network in networks)
                + b"\n"
            )
            assert asked.recv(100) == b"errno=0\n\n"
        for address in ("10.0.0.1/32", "fd00::1/128"):
            namespace.ip(f"address add {address} dev {name}")
        namespace.ip(f"link set {name} up")
        for network in networks:
            namespace.ip(f"route add {network} dev {name}")
        yield
    finally:
        process.terminate()
        process.wait(10)
        control.unlink(missing_ok=True)


def _connect(asked: socket.socket, control: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError):
            return asked.connect(str(control))
        assert process.poll() is None, "wireguard-go has ended: is there no /dev/net/tun?"
        time.sleep(0.02)
    raise TimeoutError("wireguard-go takes no configuration")


@contextlib.contextmanager
def _back_again() -> Iterator[None]:
    before = os.open(_CURRENT, os.O_RDONLY)
    try:
        yield
    finally:
        os.setns(before, os.CLONE_NEWNET)
        os.close(before)
