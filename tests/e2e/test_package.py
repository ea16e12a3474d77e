"""The package without a proxy: a library, a command, and what it must not need."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import force_stream
import pytest
from force_stream.__main__ import main
from harness import Http1Client, Proxy, ProxyExitedError, Upstream, event_stream, sse
from harness.paths import ROOT
from harness.samples import (
    CHAT,
    DOCUMENT,
    EVENTS,
    RESPONSE,
    RESPONSE_STREAM,
    RULES,
    STREAM,
    TEXT_STREAM,
    USAGE,
    request,
)

LIB = ROOT / "lib"
TRUNCATED = sse(*EVENTS[:3], done=False)
ERROR = {"error": {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}

# A sitecustomize module: Python imports it first of all, from PYTHONPATH.
BLOCKER = """\
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""
OPTIONAL = ("yaml", "_yaml", "orjson", "ujson", "simplejson", "msgspec", "brotlicffi")


@pytest.fixture
def blocked(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """`blocked(*names)`: environment variables with which Python finds none of these packages."""

    def environment(*names: str) -> dict[str, str]:
        folder = tmp_path / "blocker"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BLOCKER.format(names=set(names)))
        return {"PYTHONPATH": os.pathsep.join([str(folder), str(LIB)])}

    return environment


def command(
    *arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "force_stream", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(LIB)} | (env or {}),
        check=False,
    )


# The command


def test_an_event_stream_on_stdin_becomes_its_document() -> None:
    ran = command(stdin=STREAM)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert json.loads(ran.stdout) == DOCUMENT
    assert ran.stdout.count(b"\n") == 1
    assert ran.stdout.endswith(b"\n")


@pytest.mark.parametrize(
    ("endpoint", "stream", "kind"),
    [
        ("chat", STREAM, "chat.completion"),
        ("completions", TEXT_STREAM, "text_completion"),
        ("responses", RESPONSE_STREAM, "response"),
    ],
)
def test_a_file_and_an_endpoint_can_be_named(tmp_path: Path, endpoint: str, stream: bytes, kind: str) -> None:
    (tmp_path / "saved.sse").write_bytes(stream)
    ran = command("--endpoint", endpoint, tmp_path / "saved.sse")
    assert (ran.returncode, ran.stderr, json.loads(ran.stdout)["object"]) == (0, b"", kind)


def test_anything_odd_goes_to_stderr_and_the_document_is_printed() -> None:
    ran = command(stdin=sse("no JSON", *EVENTS, done=False))
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["choices"] == DOCUMENT["choices"]
    assert ran.stderr.decode().splitlines() == ["event 1: its data is not JSON", "no [DONE]"]


@pytest.mark.parametrize(
    ("stream", "code", "status"),
    [(TRUNCATED, "stream_truncated", 502), (sse(ERROR), "rate_limit_exceeded", 429), (b"", "stream_empty", 502)],
)
def test_a_failed_stream_prints_the_error_and_exits_with_one(stream: bytes, code: str, status: int) -> None:
    ran = command(stdin=stream)
    assert (ran.returncode, json.loads(ran.stdout)["error"]["code"]) == (1, code)
    assert ran.stderr.decode().splitlines()[-1] == f"an error: the client would get status {status}"


def test_a_json_answer_is_printed_as_it_is() -> None:
    ran = command(stdin=b'{"id":  1.50}\n')
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b'{"id":  1.50}\n', b"")


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("mitmproxy", ["proxy", "http://h"]),
        ("mitmproxy", ["run", "--host", "h", "--", "true"]),
        ("mitmproxy", ["check"]),
        ("mitmproxy", ["report", "flows"]),
        ("certifi", ["run", "--host", "h", "--", "true"]),
    ],
)
def test_a_subcommand_names_the_module_that_it_lacks(
    missing: str, arguments: list[str], blocked: Callable[..., dict[str, str]]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "force_stream.cli", *arguments],
        capture_output=True,
        env=os.environ | blocked(missing),
        check=False,
    )
    advice = "; pip install mitmproxy" if missing == "mitmproxy" else ""
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.decode() == f"force-stream {arguments[0]}: {missing} is not installed{advice}\n"


def test_a_file_that_is_not_there_is_reported_without_a_traceback(tmp_path: Path) -> None:
    ran = command(tmp_path / "none.sse")
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.decode() == f"{tmp_path / 'none.sse'}: No such file or directory\n"
    folder = command(tmp_path)
    assert (folder.returncode, b"Traceback" in folder.stderr) == (2, False)


def test_a_wrong_endpoint_is_reported_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as failure:
        main(["--endpoint", "chats"])
    assert failure.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("chats", "chat", "completions", "responses"))


# The library


@pytest.mark.parametrize(
    ("endpoint", "stream", "document"), [("chat", STREAM, DOCUMENT), ("responses", RESPONSE_STREAM, RESPONSE)]
)
def test_aggregate_gives_the_document(endpoint: str, stream: bytes, document: dict) -> None:
    reply = force_stream.aggregate(stream, endpoint)
    assert (reply.status, json.loads(reply.body)) == (200, document)


def test_aggregate_takes_chat_for_granted() -> None:
    assert json.loads(force_stream.aggregate(STREAM).body)["usage"] == USAGE


def test_aggregate_gives_json_back_as_it_is() -> None:
    assert force_stream.aggregate(b'{"a": 1.0}').body == b'{"a": 1.0}'


@pytest.mark.parametrize(("stream", "status"), [(TRUNCATED, 502), (sse(ERROR), 429), (b"\xff" * 9, 502)])
def test_aggregate_gives_a_failed_stream_as_the_error_it_is(stream: bytes, status: int) -> None:
    reply = force_stream.aggregate(stream)
    assert reply.status == status
    assert set(json.loads(reply.body)) == {"error"}


def test_aggregate_rejects_an_unknown_endpoint() -> None:
    with pytest.raises(ValueError, match=r"unknown endpoint 'chats'; known: chat, completions, responses"):
        force_stream.aggregate(b"", "chats")


# What it must not need


def test_library_and_command_work_where_mitmproxy_and_every_other_package_is_missing(
    blocked: Callable[..., dict[str, str]],
) -> None:
    env = blocked("mitmproxy", *OPTIONAL, "brotli", "zstandard", "h2", "ruamel")
    ran = command(stdin=STREAM, env=env)
    assert (ran.returncode, ran.stderr, json.loads(ran.stdout)) == (0, b"", DOCUMENT)
    done = subprocess.run(
        [sys.executable, "-c", "import force_stream, sys; print(sorted(sys.modules))"],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'force_stream.answer.reader'" in done.stdout
    assert "'mitmproxy'" not in done.stdout


def test_the_package_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    # -S: without the packages that are installed; -P and -E: with nothing else on the path either.
    code = (
        f"import sys; sys.path.append({str(LIB)!r}); import force_stream; "
        "print(force_stream.aggregate(sys.stdin.buffer.read()).status)"
    )
    python = [sys.executable, "-S", "-P", "-E", "-c", code]
    ran = subprocess.run(python, input=STREAM, capture_output=True, cwd=tmp_path, check=False)
    assert (ran.stderr, ran.stdout.strip()) == (b"", b"200")


def test_the_addon_works_with_neither_pyyaml_nor_any_optional_package(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, blocked: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    # mitmproxy's standalone binaries bring ruamel.yaml, and nobody can add a package to them.
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    upstream.answer_always(event_stream(STREAM, size=10))
    env = blocked(*OPTIONAL)
    probe = subprocess.run(
        [sys.executable, "-c", "import yaml"], env=os.environ | env, capture_output=True, check=False
    )
    assert b"ModuleNotFoundError" in probe.stderr, "the blocker blocks"
    options = {"force_stream_rules": rules}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ROOT / "addon.py"], options=options, env=env)
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).json() == DOCUMENT
    since = proxy.mark()
    rules.write_text(RULES.replace('models: ["m"]', 'models: ["other"]'))
    proxy.wait_for_log(r'rule private-vllm: models \["m"\] -> \["other"\]', since=since)


def test_a_mistake_in_the_rules_is_reported_the_same_without_pyyaml(
    proxy_factory: Callable[..., Proxy], blocked: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - name: a\n    hosts: [x.test]\n    timeuot: 3\n")
    options = {"force_stream_rules": rules}
    with pytest.raises(ProxyExitedError, match=r"rules\.yaml:4: rule a: unknown key 'timeuot', did you mean 'timeout'"):
        proxy_factory(scripts=[ROOT / "addon.py"], options=options, env=blocked(*OPTIONAL))
