"""Install what pyproject.toml lists into the environment that runs this: the dependencies, and the groups named.

An argument such as mitmproxy==12.0.1 is installed as it is, and narrows what pyproject.toml allows.

The addon itself is not installed: it runs from where it lies. (pip knows `--group` only since 25.1; a venv made by
Python 3.12 or 3.13 has an older one.)
"""

import subprocess
import sys
import tomllib
from pathlib import Path


def main(arguments: list[str]) -> int:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    packages = list(project["project"]["dependencies"])
    for argument in arguments:
        packages += [argument] if "==" in argument else groups[argument]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
