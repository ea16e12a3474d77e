"""The command `force-stream`, as a person types it: real processes, a real upstream, and what is printed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import force_stream
import pytest
from force_stream.cli import main
from force_stream.cli.environment import covers, proxied
from force_stream.cli.mitmproxy_tools import arguments
from force_stream.cli.proxy import upstream as parse_upstream
from force_stream.cli.run import allow_pattern
from harness import Certs, Http1Client, Upstream, event_stream, refused_port
from harness.paths import ROOT
from harness.record import TIMEOUT
from harness.samples import CHAT, DOCUMENT, STREAM, request
from ruamel.yaml import YAML

COMMAND = [sys.executable, "-m", "force_stream.cli"]
START_TIMEOUT = 120.0
# Asks for a plain answer as any application does, and says how it went.
APPLICATION = """\
import json, ssl, sys, urllib.request
ask = urllib.request.Request(sys.argv[1], json.dumps({"model": "m", "messages": []}).encode())
ask.add_header("Content-Type", "application/json")
print(urllib.request.urlopen(ask).read().decode())
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


# Help


def test_the_version_is_that_of_the_package_and_names_what_it_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(
        rf"force-stream {re.escape(force_stream.__version__)} \(mitmproxy [\d.]+, Python [\d.]+\)\n",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize("name", ["proxy", "run", "aggregate", "check", "path", "install"])
def test_each_subcommand_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert re.search(rf"example:\n  .*force-stream {name}", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["prxy"], "invalid choice: 'prxy'"),
        (["path", "--", "x"], "path takes nothing after --"),
        (["run", "python", "app.py"], "put -- before the command, as in force-stream run -- python app.py"),
        (["proxy", "https://a.example", "--port", "0"], "not a port: '0'"),
        (["proxy", "https://a.example", "--ui", "gui"], "invalid choice: 'gui'"),
    ],
)
def test_wrong_arguments_are_told_and_end_with_two(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


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


def test_proxy_forces_everything_to_its_upstream_and_prints_base_url_and_page(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    port = refused_port()
    with started(tmp_path, "proxy", upstream.url(), "--port", str(port)) as (process, lines):
        assert lines[0] == f"Base URL for your application: http://127.0.0.1:{port}/v1\n"
        page = re.fullmatch(r"What is happening: (http://127\.0\.0\.1:\d+)/\n", lines[1])
        assert page
        with Http1Client(f"http://127.0.0.1:{port}") as client:
            assert client.post(CHAT, request()).json() == DOCUMENT
        with Http1Client(page[1]) as client:
            assert client.get("/rules").json()[0]["flows"] == 1
        process.terminate()
        assert process.wait(TIMEOUT) == 0


def test_proxy_takes_mitmproxys_options_and_they_win(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    port = refused_port()
    theirs = ["--set", "connection_strategy=eager", "-w", str(tmp_path / "flows")]
    with started(tmp_path, "proxy", upstream.url(), "--port", str(port), "--", *theirs) as (_, lines):
        assert any("connection_strategy=eager" in line for line in lines)
        with Http1Client(f"http://127.0.0.1:{port}") as client:
            assert client.post(CHAT, request()).json() == DOCUMENT
    assert (tmp_path / "flows").stat().st_size > 0


def test_proxy_reads_no_rules_but_those_it_is_given(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules = tmp_path / "mine.yaml"
    rules.write_text("rules:\n- {name: r, hosts: ['*'], models: [forced], force_upstream_stream: true}\n")
    port = refused_port()
    words = ("proxy", upstream.url(), "--port", str(port), "--rules", rules)
    with started(tmp_path, *words), Http1Client(f"http://127.0.0.1:{port}") as client:
        assert client.post(CHAT, request("forced")).json() == DOCUMENT
        assert client.post(CHAT, request("other")).body == STREAM


def test_proxy_says_that_its_port_is_taken(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = ran("proxy", "https://llm.example.com", "--port", f"{port}", home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"force-stream proxy: port {port} is already in use; choose another one with --port\n"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://llm.example.com", ("https://llm.example.com", "llm.example.com", "/v1")),
        ("llm.example.com", ("https://llm.example.com", "llm.example.com", "/v1")),
        ("http://127.0.0.1:8000/", ("http://127.0.0.1:8000", "127.0.0.1:8000", "/v1")),
        ("http://[::1]:8000/api/paas/v4/", ("http://[::1]:8000", "[::1]:8000", "/api/paas/v4")),
        ("HTTPS://LLM.Example.com/V1", ("https://llm.example.com", "llm.example.com", "/V1")),
        ("https://a.example/v2/chat/completions", ("https://a.example", "a.example", "/v2")),
    ],
)
def test_an_upstream_is_its_origin_its_host_and_its_path(url: str, found: tuple[str, str, str]) -> None:
    assert parse_upstream(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example",
        "https://",
        "https://a:b",
        "https://a:99999",
        "https://a?b=c",
        "https://me:pw@a",
        "https://a:0",
        "http//a",
        "http:/a",
        "https://a b.c",
        "https://*.x",
        "https://h,i",
    ],
)
def test_what_is_no_url_of_an_upstream_is_refused_with_an_example(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="URL"):
        parse_upstream(url)


def test_what_the_person_sets_on_the_command_line_is_not_overridden() -> None:
    line, variables = arguments({"a": 1, "b": ["x", "y"], "c": 2, "d": 3}, ["--set", "c=3", "--set=d=4", "-q"])
    assert line[4:] == ["--set", "c=3", "--set=d=4", "-q"]
    assert json.loads(variables["FORCE_STREAM_OPTIONS"]) == {"a": 1, "b": ["x", "y"]}


def test_what_proxy_and_run_set_wins_over_the_persons_config_yaml(
    upstream: Upstream, application: Path, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    other = tmp_path / "other.yaml"
    other.write_text("rules:\n- {name: other, hosts: ['*']}\n", encoding="utf-8")
    config = tmp_path / ".mitmproxy" / "config.yaml"
    config.parent.mkdir()
    config.write_text(
        f"force_stream_rules: {other}\nforce_stream_hosts: [bar.example]\nconnection_strategy: eager\n"
        "force_stream_page: elsewhere\n",
        encoding="utf-8",
    )
    port = refused_port()
    with started(tmp_path, "proxy", upstream.url(), "--port", str(port)) as (_, lines):
        assert not [line for line in lines if "other" in line or "eager" in line]
        with Http1Client(f"http://127.0.0.1:{port}") as client:
            assert client.post(CHAT, request()).json() == DOCUMENT
    config.write_text(config.read_text(encoding="utf-8") + "proxyauth: a:b\nmode: [socks5]\n", encoding="utf-8")
    url = upstream.url()
    done = ran("run", "--host", "127.0.0.1", "--", sys.executable, application, f"{url}{CHAT}", home=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (7, DOCUMENT), done.stderr


# run


@pytest.fixture
def application(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APPLICATION)
    return path


def test_run_forces_the_named_host_and_ends_with_the_commands_exit_code(
    upstream: Upstream, certs: Certs, application: Path, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    url = upstream.url("https", "localhost")
    trust = f"ssl_verify_upstream_trusted_ca={certs.ca}"
    done = ran(
        *("run", "--host", "localhost", "--set", trust, "--", sys.executable, application, f"{url}{CHAT}"),
        home=tmp_path,
        NO_PROXY="localhost,other.example",
    )
    assert (done.returncode, json.loads(done.stdout)) == (7, DOCUMENT), done.stderr
    assert "force-stream: forcing localhost; the page: http://127.0.0.1:" in done.stderr
    assert re.search(r"force_stream_hosts: chat m, 200, finish stop, ", done.stderr)


def test_run_tunnels_what_is_not_named(upstream: Upstream, certs: Certs, application: Path, tmp_path: Path) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    url = upstream.url("https", "localhost")
    # Only who sees the upstream's own certificate can trust it.
    done = ran(
        *("run", "--host", "llm.example.com", "--", sys.executable, application, f"{url}{CHAT}"),
        home=tmp_path,
        SSL_CERT_FILE=str(certs.ca),
    )
    assert (done.returncode, done.stdout) == (7, f"{STREAM.decode()}\n"), done.stderr


def test_run_takes_the_hosts_of_a_rules_file(
    upstream: Upstream, certs: Certs, application: Path, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules = tmp_path / "mine.yaml"
    rules.write_text("rules:\n- {name: mine, hosts: [local*], force_upstream_stream: true}\n")
    trust = f"ssl_verify_upstream_trusted_ca={certs.ca}"
    url = upstream.url("https", "localhost")
    done = ran(
        *("run", "--rules", rules, "--set", trust, "--", sys.executable, application, f"{url}{CHAT}"), home=tmp_path
    )
    assert (done.returncode, json.loads(done.stdout)) == (7, DOCUMENT), done.stderr
    assert "mine: chat m, 200, finish stop" in done.stderr


def test_run_leaves_nothing_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    show = "import os; print(os.environ['SSL_CERT_FILE'], os.environ['HTTPS_PROXY'])"
    words = ("run", "--host", "a.example", "--", sys.executable, "-c", show)
    done = ran(*words, home=tmp_path, TMPDIR=str(temporary))
    bundle, proxy = done.stdout.split()
    assert not Path(bundle).exists()
    assert list(temporary.iterdir()) == []
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(proxy.rpartition(":")[2]))):
        pass


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["run"], 2, "no command: put it after --"),
        (["run", "--", sys.executable], 2, "name the upstream's host (--host llm.example.com), or a rules file"),
        (["run", "--host", "a.example", "--", "no-such-command"], 127, "no-such-command: command not found"),
        (["run", "--host", "a.example", "--", "./app.py"], 126, "./app.py cannot be executed"),
        (["run", "--host", "https://a.example/", "--", sys.executable], 2, "not a host: 'https://a.example/'"),
        (["run", "--rules", "none.yaml", "--", sys.executable], 125, "the rules cannot be read: No such file"),
        (["run", "--rules", "bad.yaml", "--", sys.executable], 125, "bad.yaml:1: unknown key 'rule'"),
        (["run", "--host", "a", "--set", "listen_port=x", "--", sys.executable], 125, "the proxy did not start"),
    ],
)
def test_what_keeps_a_command_from_running_is_told_with_an_exit_code_of_its_own(
    words: list[str], code: int, problem: str, application: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("rule: []\n")
    done = ran(*words, home=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@POSIX
def test_a_command_that_a_signal_ends_gives_its_number(tmp_path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    done = ran("run", "--host", "a.example", "--", sys.executable, "-c", kill, home=tmp_path)
    assert done.returncode == 128 + signal.SIGTERM


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_decides_what_a_signal_means(number: signal.Signals, tmp_path: Path) -> None:
    # A terminal sends Ctrl-C to the whole process group; SIGTERM goes to one process.
    script = (
        "import os, signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
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
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 5, said
    assert "Traceback" not in said


@POSIX
def test_the_proxy_ends_where_its_parent_is_killed(tmp_path: Path) -> None:
    show = "import os, time; print(os.environ['HTTPS_PROXY'], flush=True); time.sleep(2)"
    process = subprocess.Popen(
        [*COMMAND, "run", "--host", "a.example", "--", sys.executable, "-c", show],
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
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        assert time.monotonic() < end, "the proxy still listens"
        time.sleep(0.05)


# The environment


CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """`changed(**environ)`: the variables that a command gets, for the host llm.example.com."""
    authority = tmp_path / "authority.pem"
    authority.write_bytes(CERTIFICATE)

    def change(**environ: str) -> dict[str, str]:
        return proxied(environ, "http://127.0.0.1:4", authority, ["llm.example.com"], tmp_path)

    return change


def test_both_spellings_of_the_proxys_variables_are_set(changed: Callable[..., dict[str, str]]) -> None:
    env = changed(HTTP_PROXY="http://other:1", PATH="/bin")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        assert env[name] == "http://127.0.0.1:4"
    assert (env["PATH"], env["NODE_USE_ENV_PROXY"]) == ("/bin", "1")


def test_a_variable_that_replaces_a_trust_store_names_the_systems_and_ours(
    changed: Callable[..., dict[str, str]],
) -> None:
    env = changed()
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"):
        bundle = Path(env[name]).read_bytes()
        assert bundle.endswith(b"\n" + CERTIFICATE)
        assert bundle.count(b"BEGIN CERTIFICATE") > 20
    assert Path(env["NODE_EXTRA_CA_CERTS"]).read_bytes() == CERTIFICATE


def test_certificates_that_the_person_named_stay_trusted(
    changed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    own = tmp_path / "own.pem"
    own.write_bytes(b"own")
    env = changed(SSL_CERT_FILE=str(own), NODE_EXTRA_CA_CERTS=str(own), PIP_CERT=str(tmp_path / "none"))
    assert Path(env["SSL_CERT_FILE"]).read_bytes() == b"own\n" + CERTIFICATE
    assert env["NODE_EXTRA_CA_CERTS"] == env["SSL_CERT_FILE"]
    assert env["PIP_CERT"] == env["REQUESTS_CA_BUNDLE"] != env["SSL_CERT_FILE"]


def test_what_keeps_the_forced_host_from_the_proxy_is_removed_and_all_else_stays(
    changed: Callable[..., dict[str, str]],
) -> None:
    env = changed(NO_PROXY="localhost,.example.com, 10.0.0.0/8 llm.example.com", no_proxy="*")
    assert (env["NO_PROXY"], env["no_proxy"]) == ("localhost,10.0.0.0/8", "")
    assert "NO_PROXY" not in changed()


@pytest.mark.parametrize(
    ("entry", "host", "covered"),
    [
        ("*", "a.example", True),
        ("a.example", "a.example", True),
        ("A.Example", "a.example:8000", True),
        ("a.example:443", "a.example", True),
        (".example", "a.example", True),
        ("*.example", "a.example", True),
        ("example", "a.example", True),
        ("ample", "a.example", False),
        ("b.example", "a.example", False),
        ("b.example", "*.example", True),
        ("example.org", "*.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3:80", False),
        ("10.0.0.0/8", "a.example", False),
        ("::1", "[::1]:8000", True),
        ("", "a.example", False),
        ("nonsense/99", "10.1.2.3", False),
    ],
)
def test_an_entry_of_no_proxy_covers_a_host_as_any_client_reads_it(entry: str, host: str, covered: bool) -> None:
    assert covers(entry, host) is covered


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


# aggregate, check, path


def test_aggregate_prints_the_document_of_each_file(tmp_path: Path) -> None:
    (tmp_path / "whole.sse").write_bytes(STREAM)
    (tmp_path / "cut.sse").write_bytes(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n')
    done = ran("aggregate", "whole.sse", "cut.sse", home=tmp_path)
    whole, cut = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, whole, cut["error"]["code"]) == (1, DOCUMENT, "stream_truncated")
    assert done.stderr.splitlines()[-1] == "cut.sse: an error: the client would get status 502"
    assert all(line.startswith("cut.sse: ") for line in done.stderr.splitlines())
    assert ran("aggregate", "whole.sse", "none.sse", home=tmp_path).returncode == 2


def test_check_lists_every_mistake(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules:\n- {name: a, hosts: [x], timeout: -1}\n- {nmae: b, hosts: [x]}\n")
    done = ran("check", home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.partition(":")[2][:1] for line in done.stderr.splitlines()] == ["2", "3", "3"]


def test_check_says_what_each_rule_does(tmp_path: Path) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(
        "rules:\n- {name: a, hosts: [x], force_upstream_stream: true, retries: 2}\n- {name: b, hosts: [y]}\n"
    )
    done = ran("check", rules, home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "a: force on; hosts x; retries 2\nb: force off; hosts y\n",
        "",
    )


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (b"rules: []\n", 0, "rules.yaml: no rule forces anything"),
        (None, 1, "rules.yaml: cannot be read: No such file or directory"),
        (b"\xff", 1, "rules.yaml: cannot be read: it is not UTF-8"),
    ],
)
def test_check_tells_of_a_file_without_rules_in_a_line(
    text: bytes | None, code: int, said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "rules.yaml").write_bytes(text)
    done = ran("check", home=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said)


def test_path_is_that_of_the_script(tmp_path: Path) -> None:
    done = ran("path", home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ROOT / 'addon.py'}\n", "")


# install


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# My own settings, for later.\n# scripts:\n",
        '# Mine.\nscripts:\n  - "/opt/other.py"   # stays\n  # so does this\n\nshowhost: true  # and this\n',
        "scripts: &mine\n- /opt/other.py",
        "showhost: true\r\nscripts:\r\n- /opt/other.py\r\n",
    ],
    ids=["nothing", "comments alone", "comments between", "an anchor, no line end", "CRLF"],
)
def test_install_adds_the_script_once_and_remove_leaves_the_file_as_it_was(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(text.encode())
    arguments = ["install", "--confdir", str(tmp_path)]
    for _ in range(2):
        assert main(arguments) == 0
        found = YAML().load(config.read_bytes())["scripts"]
        assert list(found) == [*(["/opt/other.py"] if "/opt" in text else []), str(ROOT / "addon.py")]
    assert main([*arguments, "--remove"]) == 0
    assert config.read_bytes().decode().rstrip("\r\n") == text.rstrip("\r\n")


def test_remove_says_that_there_is_nothing_to_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--remove", "--confdir", str(tmp_path)]) == 0
    assert "the addon is not in there" in capsys.readouterr().out


@pytest.mark.parametrize("empty", ["scripts:\n", "scripts: []\n", "scripts: null  # none\n"])
def test_an_empty_list_of_scripts_takes_the_script(empty: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(empty, encoding="utf-8")
    assert main(["install", "--confdir", str(tmp_path)]) == 0
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert list(YAML().load(text)["scripts"]) == [str(ROOT / "addon.py")]
    assert ("# none" in text) == ("# none" in empty)


def test_a_mitmdump_after_install_has_the_addon_without_being_told(tmp_path: Path) -> None:
    assert ran("install", home=tmp_path).returncode == 0
    mitmdump = [Path(sys.executable).parent / "mitmdump", "--options"]
    options = subprocess.run(mitmdump, env=environment(tmp_path), capture_output=True, text=True, check=True).stdout
    assert "force_stream_hosts" in options
    assert ran("install", "--remove", home=tmp_path).returncode == 0
    assert (tmp_path / ".mitmproxy" / "config.yaml").read_text() == ""


@POSIX
def test_a_configuration_that_is_a_link_stays_one_and_keeps_its_mode(tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles" / "mitmproxy.yaml"
    kept.parent.mkdir()
    kept.write_text("scripts:\n", encoding="utf-8")
    kept.chmod(0o600)
    (tmp_path / "config.yaml").symlink_to(kept)
    assert main(["install", "--confdir", str(tmp_path)]) == 0
    assert (tmp_path / "config.yaml").is_symlink()
    assert str(ROOT / "addon.py") in kept.read_text(encoding="utf-8")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_script_of_another_environment_is_replaced(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("scripts:\n- /old/site-packages/force_stream/script/addon.py\n", encoding="utf-8")
    assert main(["install", "--confdir", str(tmp_path)]) == 0
    assert "/old/" not in config.read_text()
    assert str(ROOT / "addon.py") in config.read_text()


@pytest.mark.parametrize("text", ["scripts: [", "- a\n", "scripts: addon.py\n", "scripts: [/opt/other.py]\n", b"\xff"])
def test_a_configuration_that_cannot_be_changed_safely_stays_as_it_is(
    text: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    content = text if isinstance(text, bytes) else text.encode()
    config.write_bytes(content)
    assert main(["install", "--confdir", str(tmp_path)]) == 1
    assert config.read_bytes() == content
    assert "nothing was changed" in capsys.readouterr().err
