"""A module's unit tests are where its name says: lib/force_stream/ROOM/MODULE.py, tests/unit/ROOM/test_MODULE.py."""

from pathlib import Path

import pytest
from harness.paths import GOLDEN, ROOT, TESTS

PACKAGE = ROOT / "lib" / "force_stream"
UNIT = TESTS / "unit"
# Modules without a file of their own: which tests hold what they do, and why that is the place.
ELSEWHERE = {
    "__main__": ("e2e/test_package.py", "what it does is seen in a process of its own"),
    "cli/__main__": ("e2e/test_command.py", "one line, which every test of the command starts"),
    "cli/mitmproxy_script/overrides": ("e2e/test_command.py", "mitmproxy loads it, where the command starts one"),
    "addon/mitmweb": ("e2e/test_mitmweb.py", "it mends what a person sees in mitmweb"),
}
# Files that no module has given its name.
OF_NO_MODULE = {"addon/test_mitmproxy_facts": "what the addon takes for granted of mitmproxy"}


def modules() -> set[str]:
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
    return {path.with_suffix("").as_posix() for path in paths}


def name_of(test_file: Path) -> str:
    """The module that a test file is named after; a room's own name stands for its `__init__`."""
    relative = test_file.relative_to(UNIT).with_suffix("")
    return relative.with_name(relative.name.removeprefix("test_")).as_posix()


def test_every_module_has_its_test_file_or_says_who_holds_what_it_does() -> None:
    named = {name_of(path) for path in UNIT.rglob("test_*.py")}
    # An endpoint may do with its golden pairs.
    golden = {f"endpoints/{folder.name}" for folder in GOLDEN.iterdir() if folder.is_dir()}
    assert sorted(modules() - named - golden - ELSEWHERE.keys()) == [], "without a test file"
    assert sorted(ELSEWHERE.keys() - modules()) == [], "an exception for no module"
    assert sorted(ELSEWHERE.keys() & named) == [], "an exception for a module that has its file"


def test_every_test_file_is_named_after_a_module_or_a_room() -> None:
    rooms = {f"{path.name}/{path.name}" for path in PACKAGE.iterdir() if path.is_dir()}
    files = {path.relative_to(UNIT).with_suffix("").as_posix(): name_of(path) for path in UNIT.rglob("test_*.py")}
    assert {file for file, name in files.items() if name not in modules() | rooms} == OF_NO_MODULE.keys()


@pytest.mark.parametrize("module", ELSEWHERE)
def test_who_holds_the_behaviour_of_a_module_is_there(module: str) -> None:
    file, _ = ELSEWHERE[module]
    assert (TESTS / file).is_file()
