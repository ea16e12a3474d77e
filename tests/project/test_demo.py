"""`make demo`'s script, run as a person runs it: what it shows, how it colours, how it fails and how it stops."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.paths import ROOT

DEMO = ROOT / "tools" / "demo.py"
ESCAPE = "\x1b["
TIMEOUT = 120.0


def environment(**changes: str) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "TERM"}}
    return plain | {"TERM": "xterm"} | changes


def run(python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, str(DEMO)], capture_output=True, text=True, timeout=TIMEOUT, env=environment())


def run_on_a_terminal(env: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of the demo where its output is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, str(DEMO)], stdin=theirs, stdout=theirs, stderr=theirs, env=dict(env))
    os.close(theirs)
    output = b""
    try:
        while select.select([ours], [], [], TIMEOUT)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux's way of saying that the other side is closed
                break
            if not piece:
                break
            output += piece
        return process.wait(TIMEOUT), output.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def python_beside(tmp_path: Path) -> tuple[str, Path]:
    """This interpreter in a folder of its own, in which a test can put another mitmdump; and that mitmdump's path."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    return str(python), tmp_path / "mitmdump"


def write_program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)


def test_demo_shows_the_failure_and_the_success_on_one_screen_and_without_colours_where_that_is_no_terminal() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    told = " ".join(done.stdout.split())
    for essential in (
        "400 Bad Request",
        "This model only support stream mode, please enable the stream parameter to access the model.",
        '{"stream":true,"stream_options":{"include_usage":true},"model": "force-stream-demo"',
        "200 OK, application/json",
        '"object": "chat.completion",',
        '"finish_reason": "stop"',
        "make run",
    ):
        assert essential in told
    assert re.search(r"demo: chat force-stream-demo, 200, finish stop, 13 events, [\d,]+ bytes, .* tokens, ", told)
    assert "made one document of 13 events" in told
    assert done.stdout.count("\n") <= 35
    assert ESCAPE not in done.stdout


def test_a_terminal_gets_colours() -> None:
    code, output = run_on_a_terminal(environment())
    assert code == 0
    assert ESCAPE in output


def test_no_color_is_respected_on_a_terminal() -> None:
    code, output = run_on_a_terminal(environment(NO_COLOR="1"))
    assert code == 0
    assert "200 OK" in output
    assert ESCAPE not in output


def test_missing_mitmdump_is_said_in_a_sentence(python_beside: tuple[str, Path]) -> None:
    python, _ = python_beside
    done = run(python)
    assert done.returncode == 1
    assert done.stderr.startswith("The demo failed: mitmdump is not installed beside ")
    assert "make clean demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_mitmdump_that_cannot_start_is_quoted(python_beside: tuple[str, Path]) -> None:
    python, mitmdump = python_beside
    write_program(mitmdump, "echo 'failed to listen on 127.0.0.1:0'", "exit 3")
    done = run(python)
    assert done.returncode == 1
    assert "The demo failed: mitmdump did not start: it ended with exit code 3." in done.stderr
    assert "  failed to listen on 127.0.0.1:0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_proxy_that_answers_differently_fails_the_demo(python_beside: tuple[str, Path]) -> None:
    python, mitmdump = python_beside
    # The same mitmdump, with the addon's master switch off.
    real = Path(sys.executable).parent / "mitmdump"
    write_program(mitmdump, f'exec "{real}" "$@" --set force_stream=false')
    done = run(python)
    assert done.returncode == 1
    assert "the proxy left the request as it was" in done.stderr


# A program takes from whoever starts it which signals it ignores: a shell has its background jobs ignore SIGINT, nohup
# SIGHUP. So each demo here is told, by a Python that the demo then takes the place of.
DISPOSE = "import os, signal, sys; signal.signal(int(sys.argv[1]), {}); os.execv(sys.argv[2], sys.argv[2:])"
HANDLED, IGNORED = DISPOSE.format("signal.SIG_DFL"), DISPOSE.format("signal.SIG_IGN")


@contextmanager
def waiting_demo(
    python_beside: tuple[str, Path], signum: signal.Signals, dispose: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The demo, started with that disposition of the signal, as it waits for its mitmdump; and the id of that."""
    python, mitmdump = python_beside
    started = mitmdump.with_name("started")
    os.mkfifo(started)
    write_program(mitmdump, f'echo $$ > "{started}"', "exec sleep 600")
    fifo = os.open(started, os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, "-c", dispose, f"{signum:d}", python, str(DEMO)]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    with demo:
        try:
            assert select.select([fifo], [], [], TIMEOUT)[0], "mitmdump was never started"
            pid = int(os.read(fifo, 100))
            assert demo.stdout is not None
            while "1. Straight to the upstream" not in demo.stdout.readline():
                assert demo.poll() is None
            yield demo, pid
        finally:
            os.close(fifo)
            demo.kill()


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_a_demo_that_is_stopped_stops_its_mitmdump(
    python_beside: tuple[str, Path], signum: signal.Signals, code: int
) -> None:
    with waiting_demo(python_beside, signum, HANDLED) as (demo, pid):
        demo.send_signal(signum)
        _, said = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == code
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP], ids=lambda value: str(value))
def test_a_signal_that_whoever_started_the_demo_ignores_does_not_stop_it(
    python_beside: tuple[str, Path], signum: signal.Signals
) -> None:
    with waiting_demo(python_beside, signum, IGNORED) as (demo, pid):
        demo.send_signal(signum)
        os.kill(pid, signal.SIGTERM)
        _, said = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 1
    assert "mitmdump did not start: it ended with exit code -15" in said
