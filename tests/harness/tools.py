"""What a test needs and a developer may not have."""

import os
import shutil
import socket
from pathlib import Path
from typing import NoReturn

import pytest


def needs_tool(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI is set: there nothing may be missing."""
    path = shutil.which(name)
    if not path:
        _lacks(f"{name} is not installed")
    return path


def needs_packages(folder: Path) -> Path:
    """The npm packages of a folder's package-lock.json; without them as above."""
    packages = folder / "node_modules"
    if not packages.is_dir():
        _lacks(f"{folder} has no node_modules: npm ci there")
    return packages


def own_address() -> str:
    """An address of this machine by which others may reach it; without one as above."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        _lacks("there is no network")


def _lacks(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI must have it")
    pytest.skip(what)
