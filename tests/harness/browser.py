"""A page of Chromium, driven by tests/browser/drive.mjs. Needs chromium, node and `npm ci` in tests/browser."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.paths import ROOT, picture_file
from harness.record import TIMEOUT
from harness.tools import needs_packages, needs_tool

DRIVER = ROOT / "tests" / "browser"


class Browser:
    """Each action returns what drive.mjs returns for it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def __call__(self, action: str, *args: str | int) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps([action, *args]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def picture(self, name: str) -> None:
        """Save a picture of the whole page, if a folder for pictures is set."""
        if path := picture_file(name):
            self("screenshot", str(path))

    def seen(self) -> str:
        """What a person can read in the window as it is, without text that is cut off, covered or scrolled out of view.
        White space is one blank."""
        return self("seen")

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the browser has ended; its complaint is on stderr"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]


@contextmanager
def browse(
    profile: Path, proxy: str | None = None, extension: Path | None = None, arguments: Sequence[str] = ()
) -> Iterator[Browser]:
    """A browser with a profile in that folder, that goes through a proxy if one is given, and has the extension in
    another folder, and these arguments."""
    node, executable = needs_tool("node"), needs_tool("chromium")
    needs_packages(DRIVER)
    settings = {
        "executable": executable,
        "profile": str(profile),
        "proxy": proxy,
        "extension": extension and str(extension),
        "args": list(arguments),
    }
    process = subprocess.Popen(
        [node, str(DRIVER / "drive.mjs"), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield Browser(process)
    finally:
        # At the end of its input it closes the browser.
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
