"""Programs that a test needs and a developer may not have."""

import os
import shutil

import pytest


def needs_tool(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI is set: there nothing may be missing."""
    path = shutil.which(name)
    if path:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and CI must have it")
    pytest.skip(f"{name} is not installed")
