"""Tools that a test needs and a developer may not have: without them the test skips, or fails if CI is set."""

import os
import shutil
import socket
from pathlib import Path
from typing import NoReturn

import pytest


def needs_tool(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if not path:
        lacks(f"{name} is not installed")
    return path


def needs_packages(folder: Path) -> Path:
    """The npm packages of a folder's package-lock.json."""
    packages = folder / "node_modules"
    if not packages.is_dir():
        lacks(f"{folder} has no node_modules: npm ci there")
    return packages


def own_address() -> str:
    """An address of this machine by which others may reach it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        lacks("there is no network")


def needs_npm_tool(folder: Path, package: str, program: str) -> str:
    """The path of a program in an npm package of a folder, which some systems have none of."""
    path = needs_packages(folder) / package / program
    if not path.is_file():
        lacks(f"{folder} has no {package}")
    return str(path)


def lacks(what: str) -> NoReturn:
    """Skip the test, or fail it if CI is set, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI must have it")
    pytest.skip(what)
