"""Programs that a test needs and a developer may not have."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def needs_tool(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI is set: there nothing may be missing."""
    path = shutil.which(name)
    if not path:
        lacks(f"{name} is not installed")
    return path


def needs_packages(folder: Path) -> Path:
    """The npm packages of a folder's package-lock.json; without them as above."""
    packages = folder / "node_modules"
    if not packages.is_dir():
        lacks(f"{folder} has no node_modules: npm ci there")
    return packages


def lacks(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI must have it")
    pytest.skip(what)
