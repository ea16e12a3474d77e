"""tools/install.py: what it asks pip for."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tools import install


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`asked(*arguments)`: what pip would be asked for, after `pip install` and its options of every time."""

    def run(*arguments: str) -> list[str]:
        commands: list[list[str]] = []
        monkeypatch.setattr(
            subprocess, "run", lambda command, **_: commands.append(command) or SimpleNamespace(returncode=7)
        )
        assert install.main(list(arguments)) == 7, "pip's exit code is passed on"
        ((python, *command),) = commands
        assert python == sys.executable
        assert command[: len(install.PIP) - 1] == list(install.PIP[1:])
        return command[len(install.PIP) - 1 :]

    return run


def test_a_set_comes_from_its_lock_with_hashes(asked: Callable[..., list[str]]) -> None:
    lock = str(install.ROOT / "requirements" / "run.txt")
    assert asked("run") == ["--require-hashes", "--requirement", lock]


def test_several_sets_are_installed_at_once(asked: Callable[..., list[str]]) -> None:
    assert asked("test", "lint").count("--requirement") == 2


@pytest.mark.parametrize("arguments", [("--newest", "test"), ("test", "mitmproxy==12.0.1")])
def test_other_versions_than_the_locked_ones_come_from_what_the_project_allows(
    arguments: tuple[str, ...], asked: Callable[..., list[str]]
) -> None:
    command = asked(*arguments)
    assert "--requirement" not in command
    assert command[:3] == ["--upgrade", "--upgrade-strategy", "eager"]
    assert set(install.sets()["test"]) <= set(command)
    assert ("mitmproxy==12.0.1" in command) == ("mitmproxy==12.0.1" in arguments)


def test_a_set_that_does_not_exist_is_named_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as failure:
        install.main(["tests"])
    assert failure.value.code == 2
    assert "unknown set 'tests'; known: run, test, " in capsys.readouterr().err
