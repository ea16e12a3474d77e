"""deploy/Dockerfile, replayed step by step in folders: there is nothing here to build an image with."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from harness import Http1Client, Upstream, event_stream, needs_tool
from harness.paths import ROOT
from harness.samples import CHAT, DOCUMENT, RULES, STREAM, request
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

STEPS = [
    (word, rest)
    for word, rest in re.findall(r"^([A-Z]+) (.*)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
# mitmdump is a script of the environment's Python, as pip writes it.
MITMDUMP = "#!{python}\nfrom mitmproxy.tools.main import mitmdump\nmitmdump()\n"


def step(name: str) -> str:
    (found,) = [rest for word, rest in STEPS if word == name]
    return found


def brought_by(name: str) -> dict[str, importlib.metadata.Distribution]:
    """A package and all that it requires."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            wanted = map(Requirement, found[name].requires or [])
            waiting += [each.name for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An environment with mitmproxy and what it requires, and nothing else, as in mitmproxy's image."""
    folder = tmp_path / "base"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for distribution in brought_by("mitmproxy").values():
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(distribution.locate_file(name))))
    script = folder / "bin" / "mitmdump"
    script.write_text(MITMDUMP.format(python=folder / "bin" / "python3"))
    script.chmod(0o755)
    return folder / "bin"


@pytest.fixture
def image(base: Path, tmp_path: Path) -> Path:
    """The root of the file system after the COPY and RUN steps; users are left out."""
    root = tmp_path / "root"
    folder = root / step("WORKDIR").lstrip("/")
    folder.mkdir(parents=True)
    for word, rest in STEPS:
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy(ROOT / source, folder / target / Path(source).name if target.endswith("/") else folder / target)
        elif word == "RUN" and not rest.startswith("useradd "):
            path = f"{base}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(shlex.split(rest), cwd=folder, env=os.environ | {"PATH": path}, check=True)
    return root


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@contextmanager
def running(image: Path, base: Path, home: Path, *arguments: str) -> Iterator[str]:
    """The URL of the image's ENTRYPOINT, run with these arguments."""
    program, *given = json.loads(step("ENTRYPOINT"))
    given = [part.replace(step("WORKDIR"), f"{image}{step('WORKDIR')}") for part in given]
    command = [str(base / program), *given, "--listen-host", "127.0.0.1", "--listen-port", "0", *arguments]
    env = {"HOME": str(home), "PATH": str(base), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            log = ""
            assert process.stdout
            for line in process.stdout:
                log += line
                if found := re.search(r"listening at .*:(\d+)\.", line):
                    yield f"http://127.0.0.1:{found[1]}"
                    return
            raise AssertionError(log)
        finally:
            process.terminate()
            process.communicate(timeout=30)


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_the_image_is_built_on_the_locked_mitmproxy() -> None:
    lock = (ROOT / "requirements" / "run.txt").read_text()
    locked = re.search(r"^mitmproxy==(\S+)", lock, re.MULTILINE)
    assert locked
    assert step("FROM") == f"mitmproxy/mitmproxy:{locked[1]}"


def test_mitmproxys_image_has_no_pyyaml_so_this_environment_has_none(base: Path) -> None:
    probe = subprocess.run([base / "python3", "-c", "import yaml"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: No module named 'yaml'" in probe.stderr


def test_the_image_answers_with_what_mitmproxy_brings_and_writes_only_its_authority(
    image: Path, base: Path, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    home = tmp_path / "home"
    home.mkdir()
    before = contents(image)
    upstream.answer_always(event_stream(STREAM))
    rules = ["--set", f"force_stream_rules={tmp_path / 'rules.yaml'}"]
    with (
        running(image, base, home, "--mode", f"reverse:{upstream.url()}", *rules) as url,
        Http1Client(url) as client,
    ):
        assert client.post(CHAT, request()).json() == DOCUMENT
    assert contents(image) == before
    assert {path.relative_to(home).parts[0] for path in contents(home)} == {".mitmproxy"}


def test_the_image_can_drain(image: Path, base: Path) -> None:
    python, script, *_ = COMPOSE["services"]["drain"]["entrypoint"]
    done = subprocess.run(
        [base / python, f"{image}{script}", "--help"], capture_output=True, text=True, env={}, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_user_can_be_made_and_owns_the_home_that_compose_leaves_writable(tmp_path: Path) -> None:
    (command,) = [shlex.split(rest) for word, rest in STEPS if word == "RUN" and rest.startswith("useradd ")]
    user = step("USER")
    uid = command[command.index("--uid") + 1]
    assert command[-1] == user
    assert [mount for mount in COMPOSE["x-proxy"]["tmpfs"] if mount != "/tmp"] == [
        f"/home/{user}/.mitmproxy:mode=0700,uid={uid}"
    ]
    if os.geteuid() != 0:
        pytest.skip("only root can make users")
    # On a Debian, as in the image; names such as proxy are taken there.
    (tmp_path / "etc").mkdir()
    (tmp_path / "home").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", tmp_path / "etc")
    subprocess.run([needs_tool("useradd"), "--prefix", str(tmp_path), *command[1:]], check=True)
    assert (tmp_path / "home" / user).stat().st_uid == int(uid)
