"""Renew requirements/*.txt, the exact versions and hashes of everything, with uv. `make update` runs it.

All sets but litellm may go into one environment, so they are resolved together first, and each lock is then compiled
with those versions. The container image gets the mitmproxy that was locked.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from install import ROOT, STANDALONE, lock, sets

APART: Final = "litellm"
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
# One file for every operating system and every Python that is supported: the differences are markers.
UV: Final = (sys.executable, "-m", "uv", "--quiet", "pip", "compile", "--universal", "--python-version", "3.12")
# The names of packages in pyproject.toml are all that goes in; nothing of this machine or its index comes out.
PLAIN: Final = ("--upgrade", "--no-annotate", "--custom-compile-command", "make update")


def resolve(output: Path, *arguments: str) -> None:
    subprocess.run([*UV, *PLAIN, *arguments, "--output-file", str(output)], cwd=ROOT, check=True)


def groups(*names: str) -> list[str]:
    """Arguments that stand for these sets."""
    project = [] if STANDALONE.issuperset(names) else ["pyproject.toml"]
    return project + [part for name in names if name != "run" for part in ("--group", name)]


def main() -> int:
    names = list(sets())
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder) / "together.txt"
        resolve(together, *groups(*(name for name in names if name != APART)))
        for name in names:
            print(f"{lock(name).relative_to(ROOT)} …", flush=True)
            constraints = [] if name == APART else ["--constraints", str(together)]
            resolve(lock(name), *groups(name), *constraints, "--generate-hashes")
    version = re.search(r"^mitmproxy==(\S+)", lock("run").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    dockerfile = DOCKERFILE.read_text(encoding="utf-8")
    DOCKERFILE.write_text(
        re.sub(r"^(FROM mitmproxy/mitmproxy:)\S+", rf"\g<1>{version[1]}", dockerfile, flags=re.MULTILINE),
        encoding="utf-8",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
