"""The locks in requirements/: what they pin, that pyproject.toml asks for it, and that they go together."""

import itertools
import re

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import install

LOCKS = sorted(path.stem for path in (install.ROOT / "requirements").iterdir())
# All but this may be installed into one environment.
SHARED = [name for name in LOCKS if name != "litellm"]
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
# What markers ask for, on each system and for each Python that is supported.
PYTHONS = ("3.12", "3.13", "3.14")
SYSTEMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64"},
    "Linux on ARM": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "aarch64"},
    "macOS": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64"},
    "Windows": {"sys_platform": "win32", "os_name": "nt", "platform_machine": "AMD64"},
}
NAMES_OF_SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
MACHINES = [
    {
        **system,
        "platform_system": NAMES_OF_SYSTEMS[system["sys_platform"]],
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    for python, system in itertools.product(PYTHONS, SYSTEMS.values())
]


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """The packages of a lock, with the hashes of each."""
    text = re.sub(r"\s*\\\n\s*", " ", install.lock(name).read_text(encoding="utf-8"))
    found = []
    for line in text.splitlines():
        if not line.startswith("#"):
            requirement, *options = re.split(r" (?=--)", line)
            found.append((Requirement(requirement), options))
    return found


def applies(marker: Marker | None, machine: dict[str, str]) -> bool:
    return marker is None or marker.evaluate(machine)


def versions(name: str, machine: dict[str, str]) -> dict[str, str]:
    """What a lock installs on that machine."""
    found: dict[str, str] = {}
    for requirement, _ in entries(name):
        if applies(requirement.marker, machine):
            package = canonicalize_name(requirement.name)
            assert package not in found, f"{package} twice, on {machine}"
            (pin,) = requirement.specifier
            found[package] = pin.version
    return found


def test_each_set_of_the_project_has_a_lock() -> None:
    assert sorted(install.sets()) == LOCKS


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_one_exact_version_and_hashes(name: str) -> None:
    assert entries(name)
    for requirement, options in entries(name):
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert requirement.url is None, requirement
        assert options, requirement
        assert all(HASH.fullmatch(option) for option in options), requirement


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_place_to_install_from(name: str) -> None:
    text = install.lock(name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash)", text, re.MULTILINE)


@pytest.mark.parametrize("name", LOCKS)
def test_what_the_project_asks_for_is_locked_in_a_version_that_it_allows(name: str) -> None:
    for machine in MACHINES:
        locked = versions(name, machine)
        for wanted in map(Requirement, install.sets()[name]):
            if applies(wanted.marker, machine):
                version = locked.get(canonicalize_name(wanted.name))
                assert version, f"{wanted} is not locked for {machine}"
                assert wanted.specifier.contains(version, prereleases=True), f"{wanted}, but {version} is locked"


def test_locks_that_share_an_environment_agree() -> None:
    for machine in MACHINES:
        together: dict[str, str] = {}
        for name in SHARED:
            for package, version in versions(name, machine).items():
                assert together.setdefault(package, version) == version, f"{package} in {name}"
