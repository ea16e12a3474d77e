"""What people get who have no checkout: the wheel in an empty environment, and the addon as one file."""

import ast
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Http1Client, Proxy, ProxyExitedError, Upstream, document, event_stream
from harness.paths import ROOT
from harness.samples import CHAT, DOCUMENT, STREAM, request
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

TIMEOUT = 300.0
BIN = "Scripts" if os.name == "nt" else "bin"


def run(*words: str | Path, cwd: Path, **changes: str) -> str:
    """What a program prints; its errors too where it fails."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=plain | changes,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel, sdist and the one file."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=ROOT)
    run(sys.executable, ROOT / "tools" / "one_file.py", folder / "force_stream.py", cwd=ROOT)
    return folder


@pytest.fixture
def one_file(built: Path, tmp_path: Path) -> Path:
    """force_stream.py in a folder with nothing beside it."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return Path(shutil.copy(built / "force_stream.py", folder))


# The wheel


def test_the_wheel_works_in_an_empty_environment_with_the_locked_versions(
    built: Path, tmp_path: Path, upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    home, environment, empty = tmp_path / "home", tmp_path / "environment", tmp_path / "empty"
    home.mkdir()
    empty.mkdir()
    venv.create(environment)
    python = environment / BIN / "python"
    # By the pip of whoever runs the tests; a pip of its own, and compiling what nobody imports, takes most of the time.
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    install = (*pip, "install", "--quiet", "--no-compile")
    run(*install, "--require-hashes", "--requirement", ROOT / "requirements" / "run.txt", cwd=empty)
    run(*install, "--no-deps", next(built.glob("*.whl")), cwd=empty)
    run(*pip, "check", cwd=empty)

    def command(*words: str) -> str:
        return run(environment / BIN / "force-stream", *words, cwd=empty, HOME=str(home))

    assert command("--version").startswith("force-stream ")
    script = Path(command("path").strip())
    assert script.is_relative_to(environment)
    assert script.is_file()
    assert command("check", f"{script.with_name('rules.yaml')}") == ""
    flows = home / "flows"
    with open(flows, "wb") as file:
        FlowWriter(file).add(tflow.tflow(resp=True))
    assert "--fault: #" in command("report", f"{flows}", "-o", "-")
    ask = (
        "import sys, urllib.request; "
        f"ask = urllib.request.Request('{upstream.url()}{CHAT}', b'{{}}', {{'Content-Type': 'application/json'}}); "
        "sys.stdout.write(urllib.request.urlopen(ask).read().decode())"
    )
    answer = command("run", "--host", "127.0.0.1", "--", str(python), "-c", ask)
    assert '"object":"chat.completion"' in answer
    assert command("install")
    options = run(environment / BIN / "mitmdump", "--options", cwd=empty, HOME=str(home))
    assert "\nforce_stream_hosts:" in options
    assert list(empty.iterdir()) == []


def test_a_mitmproxy_of_another_environment_loads_the_packaged_script(
    built: Path, tmp_path: Path, upstream: Upstream, proxy_factory: Callable[..., Proxy]
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    site = tmp_path / "elsewhere"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        site,
        next(built.glob("*.whl")),
        cwd=tmp_path,
    )
    script = site / "force_stream" / "script" / "addon.py"
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[script], options={"force_stream_hosts": "127.0.0.1"})
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).json() == DOCUMENT


# The one file


def test_the_one_file_is_the_addon_with_page_and_commands(
    one_file: Path, upstream: Upstream, proxy_factory: Callable[..., Proxy]
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    # From its own folder, which has its name on the path then.
    modes = (f"reverse:{upstream.url()}", "regular")
    options = {"force_stream_hosts": "127.0.0.1"}
    proxy = proxy_factory(*modes, scripts=[one_file.name], cwd=one_file.parent, options=options, remote=True)
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).json() == DOCUMENT
    assert proxy.command("force_stream.rules") == ["force_stream_hosts: force on; hosts 127.0.0.1; 1 flow"]
    with Http1Client(proxy.urls[1]) as client:
        for path, part in (("/", "<!doctype html>"), ("/page.css", "color-scheme"), ("/page.js", "fetch")):
            answer = client.get(f"http://force.stream{path}", headers=[("Host", "force.stream")])
            assert part in answer.body.decode()


def test_an_edit_of_the_one_file_is_taken_up(
    one_file: Path, upstream: Upstream, proxy_factory: Callable[..., Proxy]
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[one_file], options={"force_stream_hosts": "127.0.0.1"})
    text = one_file.read_text(encoding="utf-8")
    words = "JSON given as {events}"
    assert text.count(words) == 1
    one_file.write_text(text.replace(words, "JSON with a new name, {events}"), encoding="utf-8")
    later = one_file.stat().st_mtime_ns + 2_000_000_000
    os.utime(one_file, ns=(later, later))
    since = proxy.mark()
    proxy.wait_for_log("Loading script", since=since)
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).json() == DOCUMENT
        upstream.reset()
        upstream.answer_always(document(DOCUMENT))
        assert client.post(CHAT, request(stream=True)).body.endswith(b"data: [DONE]\n\n")
    proxy.wait_for_log("JSON with a new name", since=since)


def test_a_traceback_shows_the_lines_of_the_one_file(one_file: Path) -> None:
    probe = (
        "import sys, traceback\n"
        f"source = open({str(one_file)!r}, encoding='utf-8').read()\n"
        f"exec(compile(source, {str(one_file)!r}, 'exec'), {{'__file__': {str(one_file)!r}, '__name__': 'one'}})\n"
        "import force_stream\n"
        "try:\n"
        "    force_stream.aggregate(b'', 'nonsense')\n"
        "except ValueError:\n"
        "    print(traceback.format_exc())\n"
        "print(force_stream.aggregate(sys.stdin.buffer.read()).status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", probe], input=STREAM, capture_output=True, cwd=one_file.parent, check=True
    )
    said = done.stdout.decode()
    assert said.endswith("200\n")
    assert f'File "{one_file}/force_stream/__init__.py"' in said
    assert "raise ValueError(f" in said


# Guards


SHELLS = pytest.mark.parametrize("shell", ["addon.py", "force_stream.py"])


def shell_of(shell: str, built: Path) -> Path:
    return ROOT / shell if shell == "addon.py" else built / shell


@SHELLS
def test_the_script_is_read_by_every_python_that_runs_some_mitmproxy(shell: str, built: Path) -> None:
    ast.parse(shell_of(shell, built).read_text(encoding="utf-8"), feature_version=(3, 8))


@SHELLS
@pytest.mark.parametrize(
    ("pretend", "found"),
    [
        ("mitmproxy.version.VERSION = '11.1.3'", r"this is mitmproxy 11\.1\.3 on Python 3\.\d+\.\d+"),
        ("sys.version_info = (3, 11, 9, 'final', 0)", r"this is mitmproxy [\d.]+ on Python 3\.11\.9"),
    ],
    ids=["mitmproxy", "Python"],
)
def test_what_is_too_old_is_told_in_one_line_and_mitmproxy_exits(
    shell: str, pretend: str, found: str, built: Path, tmp_path: Path, proxy_factory: Callable[..., Proxy]
) -> None:
    script = tmp_path / "pretend.py"
    script.write_text(f"import sys\nimport mitmproxy.version\n{pretend}\n")
    with pytest.raises(ProxyExitedError) as failure:
        proxy_factory(scripts=[script, shell_of(shell, built)])
    (line,) = [line for line in failure.value.log.splitlines() if "force-stream:" in line]
    assert re.search(f"mitmproxy 12 and Python 3.12 or newer are needed; {found}", line)
    assert "Traceback" not in failure.value.log


def test_addon_py_alone_says_what_is_missing(tmp_path: Path, proxy_factory: Callable[..., Proxy]) -> None:
    alone = Path(shutil.copy(ROOT / "addon.py", tmp_path))
    with pytest.raises(ProxyExitedError) as failure:
        proxy_factory(scripts=[alone])
    (line,) = [line for line in failure.value.log.splitlines() if "force-stream:" in line]
    assert f"{tmp_path / 'lib' / 'force_stream'} is missing" in line
    assert "force_stream.py, which needs nothing else" in line
    assert "Traceback" not in failure.value.log
