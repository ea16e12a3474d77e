"""Install sets of packages into the environment that runs this. It needs nothing but pip, and no make:

    python tools/install.py run                       what the addon needs, as locked in requirements/run.txt
    python tools/install.py test lint                 what the tests and the linters need
    python tools/install.py --newest test             the newest versions that pyproject.toml allows
    python tools/install.py test mitmproxy==12.0.1    the same, but with this version

A set is `run` or a dependency group of pyproject.toml. The addon itself is not installed: it runs from where it is.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# The groups that do without the project's dependencies.
STANDALONE: Final = frozenset({"build", "litellm"})
# pip knows `--group` only since 25.1, and an environment that Python 3.12 or 3.13 makes has an older one.
PIP: Final = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def lock(name: str) -> Path:
    return ROOT / "requirements" / f"{name}.txt"


def sets() -> dict[str, list[str]]:
    """What pyproject.toml asks for, for each set."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    run = project["project"]["dependencies"]
    groups = project["dependency-groups"].items()
    return {"run": run} | {name: group if name in STANDALONE else run + group for name, group in groups}


def main(arguments: list[str] | None = None) -> int:
    known = sets()
    parser = argparse.ArgumentParser(description="Install sets of packages, exactly as locked in requirements/.")
    parser.add_argument("sets", nargs="+", metavar="SET", help=f"{', '.join(known)}; or PACKAGE==VERSION")
    parser.add_argument("--newest", action="store_true", help="the newest versions that pyproject.toml allows")
    parser.add_argument("--again", action="store_true", help="install what is there already once more")
    options = parser.parse_args(arguments)
    versions = [name for name in options.sets if "==" in name]
    names = [name for name in options.sets if name not in versions]
    if unknown := sorted(set(names) - known.keys()):
        parser.error(f"unknown set {unknown[0]!r}; known: {', '.join(known)}")
    if options.newest or versions:
        packages = [package for name in names for package in known[name]]
        what = ["--upgrade", "--upgrade-strategy", "eager", *packages, *versions]
    else:
        what = ["--require-hashes", *(part for name in names for part in ("--requirement", str(lock(name))))]
    if options.again:
        what.append("--force-reinstall")
    return subprocess.run([*PIP, *what], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
