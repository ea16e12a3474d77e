"""The command `force-stream`, as a person types it: real processes, a real upstream, and what is printed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from force_stream.cli import main
from harness import Certs, Http1Client, Upstream, event_stream, refused_port, sse
from harness.paths import ROOT
from harness.record import TIMEOUT
from harness.samples import CHAT, DOCUMENT, STREAM, choice, chunk, request

COMMAND = [sys.executable, "-m", "force_stream.cli"]
START_TIMEOUT = 120.0
# Asks for plain answers as any application does, and prints them. Arguments: URLs, each with a file of certificates to
# trust, or "" for those of the environment.
APPLICATION = """\
import json, os, ssl, sys, urllib.request
print(os.environ["SSL_CERT_FILE"], os.environ["HTTPS_PROXY"])
for url, trusted in zip(sys.argv[1::2], sys.argv[2::2]):
    ask = urllib.request.Request(url, json.dumps({"model": "m", "messages": []}).encode())
    ask.add_header("Content-Type", "application/json")
    context = ssl.create_default_context(cafile=trusted) if trusted else None
    print(json.dumps(urllib.request.urlopen(ask, context=context).read().decode()))
sys.exit(7)
"""

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def environment(home: Path, **changes: str) -> dict[str, str]:
    """An empty home, and nothing that the tester has set about proxies and certificates."""
    plain = {key: value for key, value in os.environ.items() if not re.search("(?i)proxy|cert|bundle|_ca", key)}
    return plain | {"HOME": str(home), "PYTHONPATH": str(ROOT / "lib")} | changes


def ran(*words: str | Path, home: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        env=environment(home, **changes),
        cwd=home,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=START_TIMEOUT,
        check=False,
    )


def config(home: Path, **options: object) -> None:
    """What the person has in config.yaml, all of which `proxy` and `run` override."""
    rules = home / "other.yaml"
    rules.write_text("rules:\n- {name: other, hosts: ['*']}\n", encoding="utf-8")
    ours = {"force_stream_rules": str(rules), "force_stream_hosts": ["bar.example"], "force_stream_page": "elsewhere"}
    (home / ".mitmproxy").mkdir()
    # JSON is YAML.
    text = json.dumps(ours | {"connection_strategy": "eager"} | options)
    (home / ".mitmproxy" / "config.yaml").write_text(text, encoding="utf-8")


# proxy


@contextmanager
def started(home: Path, *words: str | Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command in the background, and the lines that it has printed, once it listens."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        env=environment(home, PYTHONUNBUFFERED="1"),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        lines: list[str] = []
        while not re.search(r"The page of force-stream is at", lines[-1] if lines else ""):
            line = process.stdout.readline()
            assert line, "\n".join(lines)
            lines.append(line)
        yield process, lines
    finally:
        process.terminate()
        try:
            process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def test_proxy_forces_everything_to_its_upstream_whatever_the_persons_config_says(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    config(tmp_path)
    port = refused_port()
    with started(tmp_path, "proxy", upstream.url(), "--port", str(port)) as (process, lines):
        assert lines[0] == f"Base URL for your application: http://127.0.0.1:{port}/v1\n"
        page = re.fullmatch(r"What is happening: (http://127\.0\.0\.1:\d+)/\n", lines[1])
        assert page
        assert not [line for line in lines if "other" in line or "eager" in line]
        with Http1Client(f"http://127.0.0.1:{port}") as client:
            assert client.post(CHAT, request()).json() == DOCUMENT
        with Http1Client(page[1]) as client:
            assert client.get("/rules").json()[0]["flows"] == 1
        process.terminate()
        assert process.wait(TIMEOUT) == 0


def test_proxy_takes_rules_of_its_own_and_mitmproxys_options_which_win(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules = tmp_path / "mine.yaml"
    rules.write_text("rules:\n- {name: r, hosts: ['*'], models: [forced], force_upstream_stream: true}\n")
    port = refused_port()
    theirs = ["--set", "connection_strategy=eager", "-w", str(tmp_path / "flows")]
    words = ("proxy", upstream.url(), "--port", str(port), "--rules", rules, "--", *theirs)
    with started(tmp_path, *words) as (_, lines), Http1Client(f"http://127.0.0.1:{port}") as client:
        assert any("connection_strategy=eager" in line for line in lines)
        assert client.post(CHAT, request("forced")).json() == DOCUMENT
        assert client.post(CHAT, request("other")).body == STREAM
    assert (tmp_path / "flows").stat().st_size > 0


# run


@pytest.fixture
def application(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APPLICATION)
    return path


def test_run_forces_the_named_host_whatever_the_persons_config_says_and_leaves_nothing_behind(
    upstream: Upstream, certs: Certs, application: Path, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    config(tmp_path, proxyauth="a:b", mode=["socks5"])
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    url = upstream.url("https", "localhost")
    trust = f"ssl_verify_upstream_trusted_ca={certs.ca}"
    done = ran(
        *("run", "--host", "localhost", "--set", trust, "--", sys.executable, application, f"{url}{CHAT}", ""),
        home=tmp_path,
        NO_PROXY="localhost,other.example",
        TMPDIR=str(temporary),
    )
    assert done.returncode == 7, done.stderr
    first, answer = done.stdout.splitlines()
    assert json.loads(json.loads(answer)) == DOCUMENT
    assert "force-stream: forcing localhost; the page: http://127.0.0.1:" in done.stderr
    assert re.search(r"force_stream_hosts: chat m, 200, finish stop, ", done.stderr)
    bundle, proxy = first.split()
    assert not Path(bundle).exists()
    assert list(temporary.iterdir()) == []
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(proxy.rpartition(":")[2]))):
        pass


def test_run_takes_the_hosts_of_a_rules_file_and_tunnels_all_others(
    upstream: Upstream, certs: Certs, application: Path, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules = tmp_path / "mine.yaml"
    rules.write_text("rules:\n- {name: mine, hosts: [local*], force_upstream_stream: true}\n")
    trust = f"ssl_verify_upstream_trusted_ca={certs.ca}"
    # Only who sees the upstream's own certificate can trust it.
    asked = (f"{upstream.url('https', 'localhost')}{CHAT}", "", f"{upstream.url('https')}{CHAT}", certs.ca)
    done = ran(
        *("run", "--rules", rules, "--set", trust, "--", sys.executable, application, *asked),
        home=tmp_path,
    )
    assert done.returncode == 7, done.stderr
    forced, tunneled = map(json.loads, done.stdout.splitlines()[1:])
    assert (json.loads(forced), tunneled) == (DOCUMENT, STREAM.decode())
    assert "mine: chat m, 200, finish stop" in done.stderr


def test_run_says_that_the_proxy_did_not_start(tmp_path: Path) -> None:
    done = ran("run", "--host", "a", "--set", "listen_port=x", "--", sys.executable, home=tmp_path)
    assert (done.returncode, done.stdout) == (125, "")
    assert "force-stream run: the proxy did not start; see its output above" in done.stderr
    assert "Traceback" not in done.stderr


@POSIX
def test_the_command_decides_what_a_signal_means(tmp_path: Path) -> None:
    # A terminal sends Ctrl-C to the whole process group; SIGTERM goes to one process.
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [*COMMAND, "run", "--host", "a.example", "--", sys.executable, "-c", script],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        os.kill(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 5, said
    assert "no request that matches a rule came through the proxy" in said
    assert "Traceback" not in said


@POSIX
def test_the_proxy_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "parent = os.getppid()\n"
        "print(os.environ['HTTPS_PROXY'], flush=True)\n"
        "while os.getppid() == parent: time.sleep(0.05)\n"
    )
    process = subprocess.Popen(
        [*COMMAND, "run", "--host", "a.example", "--", sys.executable, "-c", script],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    port = int(process.stdout.readline().rpartition(":")[2])
    process.kill()
    process.communicate()
    end = time.monotonic() + TIMEOUT
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        assert time.monotonic() < end, "the proxy still listens"
        time.sleep(0.05)


# install


def test_a_mitmdump_after_install_has_the_addon_without_being_told(tmp_path: Path) -> None:
    config = tmp_path / ".mitmproxy"
    assert main(["install", "--confdir", str(config)]) == 0
    mitmdump = [Path(sys.executable).parent / "mitmdump", "--options"]
    options = subprocess.run(mitmdump, env=environment(tmp_path), capture_output=True, text=True, check=True).stdout
    assert "force_stream_hosts" in options
    assert main(["install", "--remove", "--confdir", str(config)]) == 0
    assert (config / "config.yaml").read_text() == ""


# aggregate


@pytest.mark.parametrize("module", [["force_stream"], ["force_stream.cli", "aggregate"]], ids=["module", "command"])
def test_a_reader_that_has_read_enough_makes_no_traceback(module: list[str], tmp_path: Path) -> None:
    """As with `| head -c 1`: more than a pipe holds is still to be written."""
    (tmp_path / "stream.sse").write_bytes(sse(chunk(choice(content="x" * 2**20, finish_reason="stop"))))
    words = [sys.executable, "-m", *module, *["stream.sse"] * 3]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"{"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT) == 141


def test_aggregate_reads_a_pipe_and_files(tmp_path: Path) -> None:
    (tmp_path / "stream.sse").write_bytes(STREAM)
    done = subprocess.run(
        [sys.executable, "-m", "force_stream", "-v", "--pretty", "-", "stream.sse"],
        input=STREAM,
        capture_output=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        timeout=START_TIMEOUT,
        check=True,
    )
    first, _, second = done.stdout.decode().partition("}\n{")
    assert json.loads(first + "}") == json.loads("{" + second) == DOCUMENT
    assert len(re.findall(r"(?m)^finish reason +stop$", done.stderr.decode())) == 2
