"""Takes an instance out of HAProxy without breaking an answer, and puts it back.

    python3 deploy/drain.py 8081            no new requests go to it; returns when those it has are answered
    python3 deploy/drain.py --ready 8081    returns when HAProxy sends it requests again

mitmproxy closes its connections at once when it is told to stop, so drain first: force-stream@.service does so for
`systemctl stop` and `restart`. When HAProxy reloads, its old worker process keeps the requests that it has. So this
asks all workers, through the socket of HAProxy's master process (management guide, sections 9.3 and 9.4).
"""

import argparse
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

# Seconds that HAProxy may take for a command, and may refuse connections for: it does while it reloads.
TIMEOUT: Final = 10.0
# Seconds between two looks at what is still open, and between two lines that say so.
POLL: Final = 0.2
NEWS: Final = 10.0
# What HAProxy says of a worker that is no longer the one that takes connections.
REPLACED: Final = ("Proxy is disabled.", "Can't find the target PID")

# The figures of each server, which goes by BACKEND/NAME.
Figures = dict[str, dict[str, str]]


class Refused(Exception):
    """It is not done; the text tells a person why."""


def ask(master: str, command: str) -> str:
    """One command and its answer."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT)
                connection.connect(master)
                connection.sendall(f"{command}\n".encode())
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
            if answer.endswith("\n"):
                return answer.strip()
        except ConnectionError:
            pass
        except TimeoutError:
            raise Refused(f"HAProxy did not answer within {TIMEOUT:g} s; it hangs or is overloaded") from None
        except FileNotFoundError:
            hint = f"start HAProxy as `haproxy -W -S {master}`, or name its socket with --master"
            raise Refused(f"there is no socket {master}; {hint}") from None
        except PermissionError:
            raise Refused(f"no permission to use {master}; try it as root (sudo)") from None
        if time.monotonic() > end:
            raise Refused(f"nothing listens at {master}; is HAProxy running?")
        time.sleep(POLL)


def workers(master: str) -> list[str]:
    """The process ids of HAProxy's workers: first the one that takes connections, then those that reloads have left."""
    rows = map(str.split, ask(master, "show proc").splitlines())
    if found := [row[0] for row in rows if row[1:2] == ["worker"]]:
        return found
    raise Refused(f"{master} is not the socket of HAProxy's master process, as in `haproxy -W -S {master}`")


def figures(master: str, worker: str) -> Figures:
    """What a worker knows of its servers (section 9.1): nothing, if it has ended meanwhile."""
    head, *lines = ask(master, f"@!{worker} show stat").removeprefix("# ").splitlines()
    rows = [dict(zip(head.split(","), line.split(","), strict=False)) for line in lines]
    return {f"{row['pxname']}/{row['svname']}": row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")}


def set_server(master: str, worker: str, server: str, what: str) -> None:
    # HAProxy says nothing when it has done it.
    problem = ask(master, f"@!{worker} set server {server} {what}")
    if problem and not problem.startswith(REPLACED):
        raise Refused(f"HAProxy says: {problem}")


def unknown(server: str, known: Figures) -> Refused:
    return Refused(f"HAProxy has no server {server}; it has {', '.join(known) or 'none'}")


def is_up(row: dict[str, str]) -> bool:
    return row["status"].startswith(("UP", "no check"))


def open_requests(master: str, server: str) -> str:
    """Drain it, and tell how many requests it has, or wait for it, in any worker.

    Each time anew, since a reload forgets what was drained."""
    left = 0
    asked: set[str] = set()
    while fresh := [worker for worker in workers(master) if worker not in asked]:
        if server in figures(master, fresh[0]):
            set_server(master, fresh[0], server, "state drain")
        for worker in fresh:
            if row := figures(master, worker).get(server):
                left += int(row["scur"]) + int(row["qcur"])
        asked.update(fresh)
    return f"{left} open request{'s' * (left > 1)}" if left else ""


def check(master: str, server: str) -> str:
    """Put it back, and tell what HAProxy waits for before it sends it requests."""
    known = figures(master, worker := workers(master)[0])
    if server not in known:
        raise unknown(server, known)
    if is_up(known[server]):
        return ""
    if known[server]["status"].startswith("DRAIN"):
        # What the checks said before the instance was stopped says nothing of the one that was started since.
        set_server(master, worker, server, "health down")
    set_server(master, worker, server, "state ready")
    return f"HAProxy's health checks ({known[server]['status']})"


def wait(server: str, waits_for: Callable[[], str], patience: float) -> bool:
    """Whether there is nothing more to wait for in time."""
    end = time.monotonic() + patience
    news = 0.0
    while what := waits_for():
        now = time.monotonic()
        if now >= end:
            print(f"{server}: gave up after {patience:g} s of waiting for {what}", flush=True)
            return False
        if now >= news:
            print(f"{server}: waiting for {what}", flush=True)
            news = now + NEWS
        time.sleep(POLL)
    return True


def drain(master: str, server: str, patience: float, *, last: bool) -> bool:
    """Whether every request was answered in time."""
    current, *old = [figures(master, worker) for worker in workers(master)]
    if not any(server in known for known in (current, *old)):
        raise unknown(server, current)
    backend = server.split("/")[0]
    if [name for name, row in current.items() if name.split("/")[0] == backend and is_up(row)] == [server]:
        if not last:
            hint = "put another one back first (--ready), or add --last"
            raise Refused(f"it is the last instance that is up, and without it every request gets a 503; {hint}")
        print(f"{server}: the last instance that is up; requests get a 503 until one is back", flush=True)
    return wait(server, lambda: open_requests(master, server), patience)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Take an instance out of HAProxy without breaking an answer.")
    parser.add_argument("server", help="its name in haproxy.cfg, such as 8081, or BACKEND/NAME")
    parser.add_argument("--ready", action="store_true", help="put it back")
    parser.add_argument("--last", action="store_true", help="drain it even if no other instance is up")
    parser.add_argument(
        "--master", default="/run/haproxy-master.sock", metavar="SOCKET", help="HAProxy's master socket (%(default)s)"
    )
    parser.add_argument("--patience", type=float, default=3600.0, metavar="SECONDS", help="how long to wait (3600)")
    options = parser.parse_args(arguments)
    master, patience = options.master, options.patience
    server = options.server if "/" in options.server else f"proxies/{options.server}"
    state = "ready" if options.ready else "drained"
    try:
        if options.ready:
            done = wait(server, lambda: check(master, server), patience)
        else:
            done = drain(master, server, patience, last=options.last)
    except (OSError, Refused) as problem:
        print(f"{server}: not {state}: {problem}", file=sys.stderr)
        return 1
    if done:
        print(f"{server}: {state}", flush=True)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
