"""How `make` finds a Python for its environment. The Pythons here are fakes on a PATH of their own."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import needs_tool
from harness.paths import ROOT

# A Python that says it has another version, and that may lack modules. It makes no environment, but says that it would.
FAKE = """\
#!/bin/sh
if [ "$1" = -m ]; then
    echo "{name} made $3"
    mkdir -p "$3"
else
    exec {python} -c {pretend} "$@"
fi
"""
PRETEND = "import sys; sys.version_info = {version}; sys.modules.update(dict.fromkeys({missing})); exec(sys.argv[2])"
BROKEN = "#!/bin/sh\necho 'pyenv: version `3.14` is not installed' >&2\nexit 127\n"
UV = "#!/bin/sh\necho {python}\n"

Make = Callable[..., subprocess.CompletedProcess[str]]


def fake(path: Path, version: tuple[int, int, int], missing: tuple[str, ...] = ()) -> Path:
    pretend = shlex.quote(PRETEND.format(version=version, missing=missing))
    return script(path, FAKE.format(name=path.name, python=sys.executable, pretend=pretend))


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_(tmp_path: Path) -> Path:
    """A folder that is all of PATH, with what the Makefile needs but no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "mkdir", "touch"):
        (folder / tool).symlink_to(needs_tool(tool))
    return folder


@pytest.fixture
def make(bin_: Path, tmp_path: Path) -> Make:
    """`make(*variables)`: make an environment in a folder of the test's own."""
    command = [needs_tool("make"), "--no-print-directory", f"VENV={tmp_path / 'venv'}", str(tmp_path / "venv" / "made")]
    env = {"PATH": str(bin_), "HOME": str(tmp_path)}

    def run(*variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *variables], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    return run


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert done.stdout == ""
    said, stopped = done.stderr.splitlines()
    assert stopped.startswith("make: ***")
    return said


def test_the_first_python_that_works_and_is_new_enough_makes_the_environment(bin_: Path, make: Make) -> None:
    script(bin_ / "python3.14", BROKEN)
    fake(bin_ / "python3.13", (3, 11, 9))
    fake(bin_ / "python3.12", (3, 12, 1))
    fake(bin_ / "python3", (3, 13, 0))
    done = make()
    assert (done.returncode, done.stderr) == (0, "")
    assert "python3.12 made " in done.stdout


def test_the_python_that_is_named_comes_first(bin_: Path, make: Make, tmp_path: Path) -> None:
    fake(bin_ / "python3.14", (3, 14, 0))
    mine = fake(tmp_path / "my own" / "python-mine", (3, 12, 0))
    assert "python-mine made " in make(f"PYTHON={mine}").stdout


def test_a_named_python_that_is_too_old_gives_way_to_one_that_is_not(bin_: Path, make: Make) -> None:
    fake(bin_ / "python3", (3, 13, 0))
    fake(bin_ / "python3.9", (3, 9, 18))
    assert "python3 made " in make("PYTHON=python3.9").stdout


def test_pythons_that_only_pyenv_knows_are_found(bin_: Path, make: Make, tmp_path: Path) -> None:
    script(bin_ / "python3", BROKEN)
    fake(tmp_path / ".pyenv" / "versions" / "3.9.18" / "bin" / "python", (3, 9, 18))
    newer = fake(tmp_path / ".pyenv" / "versions" / "3.13.0" / "bin" / "python", (3, 13, 0))
    assert f" with {newer} …\npython made " in make().stdout


def test_pythons_that_only_uv_knows_are_found(bin_: Path, make: Make, tmp_path: Path) -> None:
    python = fake(tmp_path / "uv" / "python-of-uv", (3, 13, 0))
    script(bin_ / "uv", UV.format(python=python))
    assert "python-of-uv made " in make().stdout


def test_an_environment_that_exists_costs_no_search(bin_: Path, make: Make, tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "made").touch()
    done = make()
    assert done.returncode == 0
    assert "up to date" in done.stdout


def test_pythons_that_are_too_old_are_named_in_one_line(bin_: Path, make: Make) -> None:
    script(bin_ / "python3.14", BROKEN)
    fake(bin_ / "python3", (3, 9, 18))
    fake(bin_ / "python", (3, 11, 2))
    assert complaint(make()) == (
        "force-stream needs Python 3.12 or newer; found: python3 is 3.9.18, python is 3.11.2. "
        "Try: make PYTHON=/path/to/python3.13 … or: uv python install 3.13"
    )


def test_a_machine_without_python_is_told_so(make: Make) -> None:
    assert "needs Python 3.12 or newer; found: none." in complaint(make())


def test_a_python_without_venv_gives_way_to_one_with_it(bin_: Path, make: Make) -> None:
    fake(bin_ / "python3.13", (3, 13, 5), missing=("ensurepip",))
    fake(bin_ / "python3", (3, 12, 1))
    assert "python3 made " in make().stdout


def test_the_package_that_debian_puts_venv_into_is_named(bin_: Path, make: Make) -> None:
    fake(bin_ / "python3", (3, 13, 5), missing=("ensurepip",))
    fake(bin_ / "python", (2, 7, 18))
    assert complaint(make()) == (
        "force-stream needs Python's venv module; python3 (3.13.5) has none; "
        "on Debian and Ubuntu: apt install python3.13-venv"
    )


# make run


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            (),
            ".venv/bin/mitmdump -s addon.py --listen-host 127.0.0.1 --set connection_strategy=lazy --listen-port 8080",
        ),
        (("PORT=9000", "ARGS=-w flows"), "… --listen-port 9000 -w flows"),
        (("UPSTREAM=https://a.example/v2",), "… -m force_stream.cli proxy 'https://a.example/v2' --port 8080 --"),
        (("UPSTREAM=a.example", "PORT=9", "ARGS=-q"), "… proxy 'a.example' --port 9 -- -q"),
        (("UPSTREAM=a&b", "RULES=my rules.yaml"), "… proxy 'a&b' --port 8080 --rules 'my rules.yaml' --"),
    ],
)
def test_make_run_starts_the_addon_or_a_proxy_for_an_upstream(variables: tuple[str, ...], line: str) -> None:
    # Not as a part of the make that runs the tests. -n: print what would be run; -o: what it needs is there.
    env = {"PATH": os.environ["PATH"]}
    words = ["make", "-n", "-o", ".venv/run", "run", *variables]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()).endswith(line.removeprefix("… "))
