"""mitmproxy's console with the addon, in a terminal: keys are pressed, the screen is read. Needs tmux.

    with Console(certs, tmp_path, {"force_stream_rules": rules}, "-n", "-r", "flows.mitm") as console:
        console.press("Enter")
        console.wait_for("Response")

Each has a tmux server of its own, which ends with it.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.certs import Certs
from harness.paths import ADDON, picture_file
from harness.terminal import svg
from harness.tools import needs_tool

MITMPROXY = Path(sys.executable).with_name("mitmproxy")
TIMEOUT = 120.0
_ENVIRONMENT = ["env", "-u", "PYTHONIOENCODING", "LC_ALL=C.UTF-8", "TERM=screen-256color"]


class Console:
    """150 columns and 50 lines."""

    def __init__(self, certs: Certs, folder: Path, options: Mapping[str, Any], *arguments: str) -> None:
        """`folder`: where it keeps its configuration."""
        self._tmux = [needs_tool("tmux")]
        confdir = folder / "confdir"
        confdir.mkdir()
        options = {"confdir": certs.confdir(confdir), **options}
        sets = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
        self._command = [*_ENVIRONMENT, str(MITMPROXY), "-s", str(ADDON), *sets, *arguments]

    def __enter__(self) -> "Console":
        self._folder = tempfile.TemporaryDirectory(prefix="tmux-")  # the path of a socket has to be short
        self._tmux += ["-u", "-S", f"{self._folder.name}/socket", "-f", os.devnull]
        self._run("new-session", "-d", "-x", "150", "-y", "50", shlex.join(self._command))
        return self

    def __exit__(self, *_: object) -> None:
        """End tmux, and mitmproxy with it, unless that has ended by itself."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)
        self._folder.cleanup()

    def press(self, *keys: str) -> None:
        """Keys by tmux's names for them: Enter, Tab, a."""
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    @property
    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def wait_for(self, pattern: str) -> str:
        """The screen, once the pattern is found on it."""
        end = time.monotonic() + TIMEOUT
        screen = self.screen
        while not re.search(pattern, screen, re.MULTILINE):
            assert time.monotonic() < end, f"{pattern!r} did not appear on the screen:\n{screen}"
            time.sleep(0.05)
            screen = self.screen
        return screen

    def picture(self, name: str, title: str, columns: int, lines: int, *, of: str) -> None:
        """A picture of the screen in that size once it shows `of`, if somebody wants one."""
        if path := picture_file(name):
            self._run("resize-window", "-x", f"{columns}", "-y", f"{lines}")
            self.wait_for(of)
            path.write_text(svg(self._run("capture-pane", "-e", "-N", "-p"), title))

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, f"tmux {arguments[0]}: {done.stderr}"
        return done.stdout
