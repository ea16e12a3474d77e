"""What `force-stream run` intercepts, and what keeps it from running a command."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from force_stream.cli import main
from force_stream.cli.run import _foreground, _warn_of_another_proxy, allow_pattern

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.mark.parametrize(
    ("host", "seen", "intercepted"),
    [
        ("llm.example.com", "llm.example.com:443", True),
        ("llm.example.com", "llm.example.com:8443", True),
        ("llm.example.com", "llm.example.com.evil.example:443", False),
        ("llm.example.com", "my-llm.example.com:443", False),
        ("llm.example.com", "llmXexample.com:443", False),
        ("*.example.ai", "a.example.ai:443", True),
        ("*.example.ai", "example.ai:443", False),
        ("10.0.0.5:8000", "10.0.0.5:8000", True),
        ("10.0.0.5:8000", "10.0.0.5:8001", False),
        ("*:8000", "any.example:8000", True),
        ("a.example:*", "a.example:1", True),
        ("[::1]:8000", "::1:8000", True),
        ("::1", "::1:443", True),
    ],
)
def test_a_host_of_a_rule_is_intercepted_and_no_other(host: str, seen: str, intercepted: bool) -> None:
    assert (re.search(allow_pattern(host), seen, re.IGNORECASE) is not None) is intercepted


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["run"], 2, "no command: put it after --"),
        (["run", "--", sys.executable], 2, "name the upstream's host (--host llm.example.com), or a rules file"),
        (["run", "--host", "a.example", "--", "no-such-command"], 127, "no-such-command: command not found"),
        (["run", "--host", "a.example", "--", "./app.py"], 126, "./app.py cannot be executed"),
        (["run", "--host", "https://a.example/", "--", sys.executable], 2, "not a host: 'https://a.example/'"),
        (
            ["run", "--rules", "none.yaml", "--", sys.executable],
            125,
            "none.yaml: the rules cannot be read: No such",
        ),
        (["run", "--rules", "bad.yaml", "--", sys.executable], 125, "bad.yaml:1: unknown key 'rule'"),
        (["run", "--host", "h", "--rules", "bad.yaml", "--", sys.executable], 125, "bad.yaml:1: unknown key 'rule'"),
        (["run", "--rules", "empty.yaml", "--", sys.executable], 125, "empty.yaml has no rule"),
    ],
)
def test_what_keeps_a_command_from_running_is_said_with_an_exit_code_of_its_own(
    words: list[str],
    code: int,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").touch()
    (tmp_path / "bad.yaml").write_text("rule: []\n")
    (tmp_path / "empty.yaml").write_text("rules: []\n")
    assert main(words) == code
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith(f"force-stream run: {problem}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "settings", "hint"),
    [
        (
            "http://me:pw@proxy.example:3128",
            [],
            "; to go through it, add --set mode=upstream:http://proxy.example:3128",
        ),
        ("socks5://proxy.example", [], ""),
        ("http://proxy.example", ["mode=upstream:http://proxy.example"], None),
        ("", [], None),
    ],
)
def test_a_proxy_that_is_not_used_is_named_without_its_credentials(
    value: str,
    settings: list[str],
    hint: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", value)
    _warn_of_another_proxy(settings)
    said = "" if hint is None else f"force-stream: the proxy in https_proxy is not used{hint}\n"
    assert capsys.readouterr().err == said


@pytest.fixture
def handlers_are_restored() -> Iterator[None]:
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    before = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None))}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@POSIX
@pytest.mark.usefixtures("handlers_are_restored")
def test_a_command_that_a_signal_ends_gives_its_number() -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert _foreground([sys.executable, "-c", kill], os.environ, None) == 128 + signal.SIGTERM


@pytest.mark.usefixtures("handlers_are_restored")
def test_a_command_without_the_terminal_writes_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with path.open("wb") as output:
        say = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(len(sys.stdin.read()))"
        assert _foreground([sys.executable, "-c", say], os.environ, output) == 0
    assert path.read_text().split() == ["out", "err"]
