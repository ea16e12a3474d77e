"""Programs that run until a block ends, each with a log. Must not know which program it is."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import httpx

START_SECONDS: Final = 300


@contextlib.contextmanager
def process(
    command: list[str], log: Path, pattern: str, *, inside: Path | None = None, **environment: str
) -> Iterator[str]:
    """Run a command until the block ends. Gives the pattern's group in the first line of its output that has it."""
    found: list[str] = []
    seen = threading.Event()
    log.unlink(missing_ok=True)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=inside,
        env=os.environ | dict(environment),
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # so that what it starts ends with it
    ) as running:
        assert running.stdout is not None
        reader = threading.Thread(target=_follow, args=(running.stdout, log, pattern, found, seen), daemon=True)
        reader.start()
        try:
            if not seen.wait(START_SECONDS) or not found:
                raise SystemExit(f"{' '.join(command)} did not start. Its last lines:\n{tail(log)}")
            yield found[0]
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            reader.join()


def _follow(output: IO[str], log: Path, pattern: str, found: list[str], seen: threading.Event) -> None:
    with log.open("a", encoding="utf-8") as copy:
        for line in output:
            copy.write(line)
            copy.flush()
            match = re.search(pattern, line)
            if match and not found:
                found.append(match.group(1))
                seen.set()
    seen.set()


def tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-20:]) if log.exists() else ""


def wait_until_ready(address: str, path: str = "/health") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(address + path).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{address}{path} did not say that the server is ready within {START_SECONDS} s.")
