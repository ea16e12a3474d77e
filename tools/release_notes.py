"""Print what CHANGELOG.md says of a version, for its release.

    python tools/release_notes.py v0.1.0

It fails if that is not the version in lib/force_stream/__init__.py, or the changelog has no dated section for it.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "lib" / "force_stream" / "__init__.py"
CHANGELOG: Final = ROOT / "CHANGELOG.md"


class ReleaseError(Exception):
    """Why this version cannot be released."""


def package_version(source: str) -> str:
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if not found:
        raise ReleaseError(f"{PACKAGE.name} has no __version__")
    return found[1]


def notes(changelog: str, version: str) -> str:
    """The section of this version, without its heading."""
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n"
    # It ends at the next heading, or at the link definitions.
    found = re.search(rf"{heading}(.*?)(?=^## |^\[[^\]]+\]: |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if not found:
        raise ReleaseError(f"{CHANGELOG.name} has no section [{version}] with a date")
    if not found[1].strip():
        raise ReleaseError(f"{CHANGELOG.name} says nothing about {version}")
    return found[1].strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print what CHANGELOG.md says of a version.")
    parser.add_argument("version", help="the version, or its tag, such as v0.1.0")
    version = parser.parse_args(arguments).version.removeprefix("v")
    try:
        if (ours := package_version(PACKAGE.read_text(encoding="utf-8"))) != version:
            raise ReleaseError(f"the tag says {version}, but force_stream.__version__ is {ours}")
        print(notes(CHANGELOG.read_text(encoding="utf-8"), version))
    except ReleaseError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
