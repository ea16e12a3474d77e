"""How a subcommand ends."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from force_stream.cli.exits import Failed, exit_code
from harness.paths import ROOT
from harness.samples import STREAM


def ended(run: Callable[[], int]) -> int:
    return exit_code(lambda _: run(), argparse.Namespace(), "force-stream x")


def test_the_exit_code_is_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: 7) == 7
    assert capsys.readouterr() == ("", "")


def test_a_failure_is_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise Failed("it is broken", 125)

    assert ended(fail) == 125
    assert capsys.readouterr() == ("", "force-stream x: it is broken\n")


def test_ctrl_c_ends_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert ended(interrupt) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", [["force_stream.cli", "aggregate"], ["force_stream"]])
def test_output_that_nobody_reads_ends_quietly(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "stream.sse").write_bytes(STREAM)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words, str(tmp_path / "stream.sse")],
            env=os.environ | {"PYTHONPATH": str(ROOT / "lib")},
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
