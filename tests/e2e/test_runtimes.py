"""Each runtime through `force-stream run`: what its environment has must be what the runtime reads.

The programs are in tests/runtimes; each prints the bodies that it gets, a line each. Node.js, Deno and Bun are npm's,
all others Debian's. The upstream and the proxy have different authorities, so no program trusts both by chance.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Answer, Certs, Data, End, Head, Reset, Upstream, document, event_stream, sse
from harness.browser import Browser
from harness.paths import ROOT, TESTS
from harness.samples import CHAT, DOCUMENT, EVENTS, STREAM
from harness.tools import lacks, needs_npm_tool, needs_tool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere some runtimes trust only the system's store")

FOLDER = TESTS / "runtimes"
HOSTS = ("llm.test", "localhost")
START_TIMEOUT = 120.0
CUT = Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), Reset())
# Hands its environment and its arguments to the test, and ends with its input.
COMMAND = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]), flush=True); sys.stdin.read()"


@dataclass(frozen=True)
class Runtime:
    name: str
    start: Callable[[Path], list[str]]
    """What runs its program, which is built in that folder where that is needed."""
    reads: str
    """The variables that make it use and trust the proxy, as docs/modes.md has them."""
    libraries: int = 1
    """How many lines it prints for each request."""
    uses_proxy_for_this_machine: bool = True


def npm(package: str, program: str, *words: str) -> Callable[[Path], list[str]]:
    return lambda _: [needs_npm_tool(FOLDER, package, program), *words, str(FOLDER / "node.mjs")]


def ruby(_: Path) -> list[str]:
    return [needs_tool("ruby"), str(FOLDER / "ruby.rb")]


def shell(program: str) -> Callable[[Path], list[str]]:
    return lambda _: [needs_tool("sh"), str(FOLDER / f"{Path(needs_tool(program)).stem}.sh")]


def php(_: Path) -> list[str]:
    program = needs_tool("php")
    if b"curl" not in subprocess.run([program, "-m"], capture_output=True, check=True).stdout.split():
        lacks("php has no curl")
    return [program, str(FOLDER / "php.php")]


def java(_: Path) -> list[str]:
    needs_tool("javac")  # without a compiler, java starts no source
    return [needs_tool("java"), str(FOLDER / "Main.java")]


def go(folder: Path) -> list[str]:
    words = [needs_tool("go"), "build", "-o", str(folder / "main"), str(FOLDER / "main.go")]
    subprocess.run(words, env=os.environ | {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off"}, check=True)
    return [str(folder / "main")]


RUNTIMES = [
    Runtime("curl", shell("curl"), "HTTPS_PROXY CURL_CA_BUNDLE"),
    Runtime("wget", shell("wget"), "https_proxy WGETRC"),
    Runtime(
        "Python",
        lambda _: [sys.executable, str(FOLDER / "python.py")],
        "HTTPS_PROXY SSL_CERT_FILE REQUESTS_CA_BUNDLE",
        libraries=4,
    ),
    Runtime("Ruby", ruby, "http_proxy SSL_CERT_FILE", uses_proxy_for_this_machine=False),
    Runtime("PHP", php, "HTTPS_PROXY PHP_INI_SCAN_DIR"),
    Runtime("Node.js 20", npm("node20", "bin/node"), "HTTPS_PROXY NODE_OPTIONS NODE_EXTRA_CA_CERTS", libraries=3),
    Runtime("Node.js 24", npm("node24", "bin/node"), "HTTPS_PROXY NODE_OPTIONS NODE_EXTRA_CA_CERTS", libraries=3),
    Runtime("Deno", npm("@deno/linux-x64-glibc", "deno", "run", "--allow-net"), "HTTPS_PROXY DENO_CERT"),
    Runtime(
        "Bun",
        npm("@oven/bun-linux-x64-baseline", "bin/bun"),
        "HTTPS_PROXY NODE_USE_ENV_PROXY NODE_EXTRA_CA_CERTS",
        libraries=2,
    ),
    Runtime("Go", go, "HTTPS_PROXY SSL_CERT_FILE", uses_proxy_for_this_machine=False),
    Runtime("Java", java, "JAVA_TOOL_OPTIONS", libraries=2),
]
each_runtime = pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)


@pytest.fixture(scope="module")
def given(certs: Certs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The environment and the arguments that `force-stream run --chromium` gives its command; the person has none set.

    The command lives as long as the tests.
    """
    home = tmp_path_factory.mktemp("home")
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join(map(str, (ROOT / "lib", FOLDER / "hosts")))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "force_stream.cli", "run", "--chromium", *(f"--host={name}" for name in HOSTS)),
            *("--set", f"ssl_verify_upstream_trusted_ca={certs.ca}", "--", sys.executable, "-c", COMMAND),
        ],
        env=kept | {"HOME": str(home), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        line = process.stdout.readline()
        assert line, "force-stream run has ended; what it said is on stderr"
        env, arguments = json.loads(line)
        yield {name: value for name, value in env.items() if name != "PYTHONPATH"}, arguments
        process.communicate(timeout=START_TIMEOUT)
    assert process.returncode == 0


@pytest.fixture
def environment(given: tuple[dict[str, str], list[str]]) -> dict[str, str]:
    return given[0]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[str]]:
    """`ask(runtime, environment, url, *models)`: the lines that its program prints."""

    def ask(runtime: Runtime, environment: dict[str, str], url: str, *models: str) -> list[str]:
        done = subprocess.run(
            [*runtime.start(tmp_path), f"{url}{CHAT}", *models],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if line]

    return ask


@each_runtime
def test_a_runtime_gets_a_plain_answer_and_the_error_of_a_cut_one(
    runtime: Runtime, ask: Callable[..., list[str]], environment: dict[str, str], upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM))
    upstream.handle(lambda request: CUT if request.json()["model"] == "cut" else None)
    lines = ask(runtime, environment, upstream.url("https", "llm.test"), "whole", "cut")
    answers = [json.loads(line) for line in lines]
    assert answers[: runtime.libraries] == [DOCUMENT] * runtime.libraries
    errors = [answer["error"]["code"] for answer in answers[runtime.libraries :]]
    assert errors == ["stream_truncated"] * runtime.libraries
    assert all(request.json()["stream"] for request in upstream.requests)


@each_runtime
def test_a_runtime_needs_no_other_variables_than_those_of_the_docs(
    runtime: Runtime, ask: Callable[..., list[str]], environment: dict[str, str], upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM))
    reads = {name: environment[name] for name in ("PATH", "HOME", *runtime.reads.split())}
    lines = ask(runtime, reads, upstream.url("https", "llm.test"), "m")
    assert [json.loads(line) for line in lines] == [DOCUMENT] * runtime.libraries


@each_runtime
def test_an_upstream_on_this_machine_is_forced_unless_the_runtime_never_uses_a_proxy_for_it(
    runtime: Runtime, ask: Callable[..., list[str]], environment: dict[str, str], upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM))
    lines = ask(runtime, environment, upstream.url("http", "localhost"), "m")
    if runtime.uses_proxy_for_this_machine:
        assert [json.loads(line) for line in lines] == [DOCUMENT] * runtime.libraries
    else:
        assert lines == [line for line in STREAM.decode().splitlines() if line]


@each_runtime
def test_what_no_proxy_names_is_reached_directly(
    runtime: Runtime, ask: Callable[..., list[str]], environment: dict[str, str], upstream: Upstream
) -> None:
    upstream.answer_always(document("direct"))
    java = environment["JAVA_TOOL_OPTIONS"].replace("nonProxyHosts=", "nonProxyHosts=localhost|*.localhost")
    direct = {"NO_PROXY": "localhost", "no_proxy": "localhost", "JAVA_TOOL_OPTIONS": java}
    lines = ask(runtime, environment | direct, upstream.url("http", "localhost"), "m")
    assert lines == ['"direct"'] * runtime.libraries
    assert not any("stream" in request.json() for request in upstream.requests)


def test_git_trusts_the_proxy(environment: dict[str, str], upstream: Upstream) -> None:
    upstream.answer(Head(content_type="text/plain"), Data(b"0" * 40 + b"\trefs/heads/main\n"), End())
    words = [needs_tool("git"), "ls-remote", f"{upstream.url('https', 'llm.test')}/x.git"]
    listed = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=START_TIMEOUT, check=True)
    assert listed.stdout == "0" * 40 + "\trefs/heads/main\n"


def test_chromium_has_arguments_of_its_own(
    given: tuple[dict[str, str], list[str]], browse: Callable[..., AbstractContextManager[Browser]], upstream: Upstream
) -> None:
    upstream.answer(document("<title>page</title>", content_type="text/html"), path="/")
    upstream.answer_always(event_stream(STREAM))
    upstream.handle(lambda request: CUT if b'"cut"' in request.body else None)
    ask = (
        f"model => fetch('{CHAT}', {{method: 'POST', headers: {{'Content-Type': 'application/json'}}, "
        "body: JSON.stringify({model, messages: []})}).then(answer => answer.json())"
    )
    with browse(arguments=given[1]) as browser:
        for page in (upstream.url("https", "llm.test"), upstream.url("http", "localhost")):
            assert browser("goto", f"{page}/") == 200
            assert browser("evaluate", f"({ask})('whole')") == DOCUMENT
            assert browser("evaluate", f"({ask})('cut')")["error"]["code"] == "stream_truncated"
