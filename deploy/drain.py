"""Takes an instance out of HAProxy without breaking an answer, and puts it back.

    python3 deploy/drain.py 8081            it gets no new request; returns when those it has are answered
    python3 deploy/drain.py --ready 8081    it gets requests again

mitmproxy ends its connections at once when it is told to stop, so this comes first: force-stream@.service does it for
`systemctl stop` and `restart`. Knows HAProxy's admin socket (management guide, section 9.3) and no more.
"""

import argparse
import socket
import sys
import time
from typing import Final

BACKEND: Final = "proxies"
# Seconds between two looks at what is still open, and between two lines that say so.
POLL: Final = 0.2
NEWS: Final = 10.0


class Refused(Exception):
    """HAProxy does not do it; the words are its own."""


def ask(admin: str, command: str) -> str:
    """One command and its answer; HAProxy closes the connection after it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(admin)
        connection.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode().strip()


def set_state(admin: str, server: str, state: str) -> None:
    # HAProxy says nothing when it has done it.
    if problem := ask(admin, f"set server {BACKEND}/{server} state {state}"):
        raise Refused(problem)


def open_requests(admin: str, server: str) -> int:
    """Requests that the server has, or that wait for it."""
    head, *rows = ask(admin, "show stat").removeprefix("# ").splitlines()
    names = head.split(",")
    for row in rows:
        figures = dict(zip(names, row.split(","), strict=False))
        if (figures["pxname"], figures["svname"]) == (BACKEND, server):
            return int(figures["scur"]) + int(figures["qcur"])
    raise Refused(f"{BACKEND}/{server} is not in HAProxy's configuration")


def drain(admin: str, server: str, patience: float) -> bool:
    """Whether every request was answered in time."""
    set_state(admin, server, "drain")
    end = time.monotonic() + patience
    news = 0.0
    while left := open_requests(admin, server):
        now = time.monotonic()
        if now >= end:
            print(f"{server}: {left} open requests after {patience:g} s", flush=True)
            return False
        if now >= news:
            print(f"{server}: waiting for {left} open requests", flush=True)
            news = now + NEWS
        time.sleep(POLL)
    print(f"{server}: drained", flush=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Take an instance out of HAProxy without breaking an answer.")
    parser.add_argument("server", help="the instance's name in haproxy.cfg, such as 8081")
    parser.add_argument("--ready", action="store_true", help="put it back")
    parser.add_argument("--admin", default="/run/haproxy/admin.sock", metavar="SOCKET", help="HAProxy's admin socket")
    parser.add_argument("--patience", type=float, default=3600.0, metavar="SECONDS", help="how long to wait (3600)")
    options = parser.parse_args(arguments)
    try:
        if not options.ready:
            return 0 if drain(options.admin, options.server, options.patience) else 1
        set_state(options.admin, options.server, "ready")
        print(f"{options.server}: ready", flush=True)
    except (OSError, Refused) as problem:
        print(f"{options.server}: HAProxy was not told: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
