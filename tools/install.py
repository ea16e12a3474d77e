"""Install what pyproject.toml lists into the environment that runs this: the dependencies, and the groups named.

The addon itself is not installed: it runs from where it lies. (pip knows `--group` only since 25.1; a venv made by
Python 3.12 or 3.13 has an older one.)
"""

import subprocess
import sys
import tomllib
from pathlib import Path


def main(groups: list[str]) -> int:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    packages = list(project["project"]["dependencies"])
    for group in groups:
        packages += project["dependency-groups"][group]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
