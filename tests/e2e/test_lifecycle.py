"""mitmdump with the addon over time: its start, its log and flow file, edits of rules and code, commands, replay."""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import (
    Answer,
    CutChunk,
    Data,
    Gate,
    Head,
    Http1Client,
    Proxy,
    ProxyExitedError,
    Reset,
    Response,
    Signal,
    Upstream,
    WaitFor,
    document,
    event_stream,
    flows_of,
    pieces,
    sse,
)
from harness.paths import ADDON, ROOT, SCRIPTS
from harness.record import wait_until
from harness.samples import CHAT, DOCUMENT, EVENTS, RULES, SECRET, STREAM, request
from harness.steps import Step
from mitmproxy import flowfilter

PRIVATE = "words that are nobody's business"
RULE = """\
rules:
  - name: one
    hosts: ["127.0.0.1"]
    models: [{models}]
    force_upstream_stream: {force}
"""
TRUNCATED = event_stream(sse(*EVENTS[:3], done=False), size=10)


def ask(proxy: Proxy, model: str = "m", **headers: str) -> Response:
    with Http1Client(proxy.url) as client:
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return client.post(CHAT, {"model": model, "messages": [{"role": "user", "content": PRIVATE}]}, pairs)


@pytest.fixture
def start(proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_file: Path) -> Callable[..., Proxy]:
    """A mitmdump of its own in reverse mode, with the addon and `rules_file`."""

    def start(
        *, addon: Path = ADDON, scripts: tuple[Path, ...] = (), first: tuple[Path, ...] = (), **arguments
    ) -> Proxy:
        options = {"force_stream_rules": rules_file} | arguments.pop("options", {})
        return proxy_factory(
            f"reverse:{upstream.url()}", scripts=[*first, addon, *scripts], options=options, **arguments
        )

    return start


# What is seen of a flow


def test_what_happened_is_in_the_log_on_the_flow_and_in_the_flow_file_and_no_credential_is(
    start: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> None:
    proxy = start(flow_file=tmp_path / "flows", options={"termlog_verbosity": "debug"})
    upstream.answer(event_stream(STREAM, size=10), key="ok")
    upstream.answer(TRUNCATED, key="truncated")
    upstream.answer(event_stream(sse({"error": {"message": "Slow.", "code": 429}}), size=10), key="error")
    upstream.answer(document({"plain": 1}), key="left")
    credentials = {"authorization": f"Bearer {SECRET}", "api_key": SECRET, "cookie": f"s={SECRET}"}
    bodies = [ask(proxy, x_answer=key, **credentials).body for key in ("ok", "truncated", "error")]
    bodies.append(ask(proxy, "other", x_answer="left", **credentials).body)

    line = r"private-vllm: chat m, 200, finish stop, 5 events, [\d,]+ bytes, 3 in \+ 2 out tokens, \d+\.\d s$"
    proxy.wait_for_log(line)
    odd = r"; odd: no finish reason for choice 0; no \[DONE\]$"
    cut, limited = (
        r"cut off after event 3 \(the upstream ended it\); ",
        r'rate limited by the upstream \(429\): "Slow."; ',
    )
    proxy.wait_for_log(cut + r"private-vllm: chat m, 502, stream_truncated, 3 events, [\d,]+ bytes, \d+\.\d s" + odd)
    proxy.wait_for_log(limited + r"private-vllm: chat m, 429, upstream_error, 1 event, \d+ bytes, \d+\.\d s; odd: .*$")
    assert proxy.stop() == 0
    told = [line for line in proxy.log_lines if "private-vllm: chat" in line]
    assert len(told) == 3, "one line a forced flow"
    assert "Traceback" not in proxy.log

    flows = {flow.request.headers["x-answer"]: flow for flow in proxy.saved_flows()}
    assert {key: flow.response.status_code for key, flow in flows.items()} == {
        "ok": 200,
        "truncated": 502,
        "error": 429,
        "left": 200,
    }
    assert flows["left"].metadata == {}
    assert (flows["left"].comment, flows["left"].marked) == ("", "")
    assert {key: flow.marked for key, flow in flows.items() if key != "left"} == {
        "ok": "",
        "truncated": ":warning:",
        "error": ":warning:",
    }
    assert re.fullmatch(r"private-vllm: chat m, 200, finish stop, \d+\.\d s", flows["ok"].comment)
    said = cut + r"private-vllm: chat m, 502, stream_truncated, \d+\.\d s; odd: .*"
    assert re.fullmatch(said, flows["truncated"].comment)

    note = flows["ok"].metadata
    assert all(key.startswith("force_stream.") for key in note)
    assert note["force_stream.sse"] == STREAM, "the upstream's bytes, exactly"
    assert (note["force_stream.sse_status"], note["force_stream.sse_type"]) == (200, "text/event-stream")
    told = {key: note[f"force_stream.{key}"] for key in ("rule", "endpoint", "model", "forced", "events", "bytes")}
    assert told == {
        "rule": "private-vllm",
        "endpoint": "chat",
        "model": "m",
        "forced": True,
        "events": 5,
        "bytes": len(STREAM),
    }
    assert json.loads(note["force_stream.usage"]) == DOCUMENT["usage"]
    times, sizes = note["force_stream.times"][::2], note["force_stream.times"][1::2]
    assert times == sorted(times)
    assert (sizes, sizes[-1]) == (sorted(sizes), len(STREAM))
    assert json.loads(flows["ok"].response.content) == DOCUMENT

    found = flowfilter.parse("~meta force_stream")
    assert {key for key, flow in flows.items() if found(flow)} == {"ok", "truncated", "error"}

    for flow in flows.values():
        assert flow.request.headers["authorization"] == f"Bearer {SECRET}"
        everything = f"{flow.comment}{flow.metadata}"
        assert SECRET not in everything
    assert SECRET not in proxy.log
    assert PRIVATE not in proxy.log
    assert SECRET.encode() not in b"".join(bodies)


# Rules


def test_an_edit_of_the_rules_changes_the_next_requests(
    start: Callable[..., Proxy], upstream: Upstream, rules_file: Path, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules_file.write_text(RULE.format(models="m", force="false"))
    proxy = start(remote=True)

    def forces() -> bool:
        return ask(proxy).header("content-type") == "application/json"

    def replace(text: str) -> None:
        new = tmp_path / "rules.yaml.new"
        new.write_text(text)
        new.replace(rules_file)

    assert not forces()
    since = proxy.mark()
    rules_file.write_text(RULE.format(models="m", force="true"))
    proxy.wait_for_log(r"rule one: force_upstream_stream false -> true$", since=since)
    assert forces()

    since = proxy.mark()
    replace(RULE.format(models='"other", "n*"', force="true"))
    proxy.wait_for_log(r'rule one: models \["m"\] -> \["other", "n\*"\]$', since=since)
    assert not forces()

    # A broken edit is told of in one line, and the rules stay.
    since = proxy.mark()
    replace(RULE.format(models="m", force="perhaps"))
    proxy.wait_for_log(r"rules\.yaml:5: rule one: force_upstream_stream: expected true or false", since=since)
    assert not forces()

    # A pipe in its place holds nobody up.
    since = proxy.mark()
    rules_file.unlink()
    os.mkfifo(rules_file)
    proxy.wait_for_log(r"rules\.yaml: the rules cannot be read: it is a pipe, not a file", since=since)
    assert not forces()
    rules_file.unlink()

    since = proxy.mark()
    replace(RULE.format(models="m", force="true").replace("one", "two") + '  - {name: three, hosts: ["x.test"]}\n')
    for line in ("rule one removed", "rule two added", "rule three added"):
        proxy.wait_for_log(f"{line}$", since=since)
    assert forces()
    assert "Traceback" not in proxy.log
    assert [line.partition(";")[0] for line in proxy.command("force_stream.rules")] == [
        "two: force on",
        "three: force off",
    ]


def test_a_new_path_of_the_rules_takes_effect(start: Callable[..., Proxy], upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    other = tmp_path / "other.yaml"
    other.write_text(RULE.format(models="new", force="true"))
    proxy = start(remote=True)
    assert ask(proxy, "new").body == STREAM
    proxy.set_options(force_stream_rules=str(other))
    assert ask(proxy, "new").json() == DOCUMENT


BROKEN_STARTS = {
    "unknown key": (
        'rules:\n  - name: private-vllm\n    hosts: ["x.test"]\n    forse_upstream_stream: true\n',
        r"rules\.yaml:4: rule private-vllm: unknown key 'forse_upstream_stream', did you mean 'force_",
    ),
    "no YAML": ("rules: [\n", r"rules\.yaml:\d: this is not YAML: "),
    "bad filter": (
        'rules:\n  - name: a\n    hosts: ["x.test"]\n    filter: "~nonsense ("\n',
        r"rules\.yaml:4: rule a: filter: ",
    ),
    "no file": (None, r"rules\.yaml: the rules cannot be read: No such file or directory\. "),
    "no text": (b"\xff\xfe\x00", r"rules\.yaml: the rules cannot be read: it is not UTF-8\. "),
    "a pipe": (os.mkfifo, r"rules\.yaml: the rules cannot be read: it is a pipe, not a file\. "),
}


@pytest.mark.parametrize("case", BROKEN_STARTS)
def test_rules_with_a_mistake_end_the_start_with_one_line(
    start: Callable[..., Proxy], rules_file: Path, case: str
) -> None:
    content, pattern = BROKEN_STARTS[case]
    if content is None or callable(content):
        rules_file.unlink()
        if content is not None:
            content(rules_file)
    else:
        rules_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ProxyExitedError) as failure:
        start()
    assert failure.value.code != 0
    lines = [line for line in failure.value.log.splitlines() if "rules.yaml" in line]
    assert len(lines) == 1
    assert re.search(pattern, lines[0])
    assert "Traceback" not in failure.value.log


def test_an_option_that_cannot_be_set_ends_the_start_with_one_line(start: Callable[..., Proxy]) -> None:
    with pytest.raises(ProxyExitedError, match=r"(?i)option force_stream.*: not an integer: 80x") as failure:
        start(options={"force_stream_page_port": "80x"})
    assert "Traceback" not in failure.value.log


def test_an_encoding_that_no_library_here_reads_is_an_error_that_says_so_and_all_else_works(
    proxy_factory: Callable[..., Proxy], upstream: Upstream
) -> None:
    script = ROOT / "tests" / "harness" / "scripts" / "without_zstd.py"
    upstream.answer(event_stream(b"\x28\xb5\x2f\xfd", headers={"Content-Encoding": "zstd"}))
    proxy = proxy_factory(
        f"reverse:{upstream.url()}", scripts=[ADDON, script], options={"force_stream_hosts": "127.0.0.1"}
    )
    answer = ask(proxy)
    error = answer.json()["error"]
    assert (answer.status, error["code"], answer.header("x-should-retry")) == (502, "stream_malformed", "false")
    assert error["message"].startswith(
        "the upstream compressed its answer with zstd, but no zstd library is installed; `pip install backports.zstd`."
    )
    upstream.answer(event_stream(gzip.compress(STREAM), headers={"Content-Encoding": "gzip"}))
    assert ask(proxy).json() == DOCUMENT


# Code


@pytest.fixture
def copied_addon(tmp_path: Path) -> Path:
    """The addon and its package in a folder where they may be edited."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.copy(ADDON, folder))


def test_without_a_path_the_rules_beside_the_addon_are_in_force(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, copied_addon: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules = copied_addon.with_name("rules.yaml")
    rules.write_text(RULES)
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[copied_addon])
    proxy.wait_for_log(rf"6 rules from {re.escape(str(rules))}: .*, private-vllm$")
    assert ask(proxy, "m").json() == DOCUMENT


def test_no_rules_beside_the_addon_are_no_mistake_and_the_log_says_that_nothing_is_forced(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, copied_addon: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[copied_addon])
    proxy.wait_for_log("force-stream: no rule forces anything")
    assert ask(proxy, "m").body == STREAM
    copied_addon.with_name("rules.yaml").write_text(RULES)
    proxy.wait_for_log("rule private-vllm added")
    assert ask(proxy, "m").json() == DOCUMENT


def _reload_in_flight(proxy: Proxy, addon: Path, answering: Gate, gate: Gate) -> Response:
    """The answer to a request during which the addon is loaded again: once `answering`, and before the gate opens."""
    with Http1Client(proxy.url) as client:
        body = json.dumps(request()).encode()
        client.start("POST", CHAT, [("Content-Type", "application/json"), ("x-answer", "slow")], body)
        try:
            answering.wait()
            since = proxy.mark()
            _touch(addon)
            proxy.wait_for_log(r"\d rules? from ", since=since)
        finally:
            gate.open()
        return client.receive("POST")


def _touch(path: Path) -> None:
    """Give a file a later time of change, however coarse the clock."""
    later = path.stat().st_mtime_ns + 2_000_000_000
    os.utime(path, ns=(later, later))


def test_an_edit_of_the_addon_reloads_its_package_and_a_flow_in_flight_still_gets_its_document(
    start: Callable[..., Proxy], upstream: Upstream, copied_addon: Path
) -> None:
    half, gate = Gate(), Gate()
    steps = (Head(), pieces(STREAM[:300], 10), Signal(half), WaitFor(gate), pieces(STREAM[300:], 10))
    upstream.answer(*steps, event_stream(b"").steps[-1], key="slow")
    upstream.answer(TRUNCATED, key="truncated")
    proxy = start(addon=copied_addon)
    assert "set on_truncated" in ask(proxy, x_answer="truncated").json()["error"]["message"]
    errors = copied_addon.parent / "lib" / "force_stream" / "errors" / "__init__.py"
    errors.write_bytes(errors.read_bytes().replace(b"Try again, or set on_truncated", b"As edited, set on_truncated"))

    response = _reload_in_flight(proxy, copied_addon, half, gate)
    assert (response.status, response.json()) == (200, DOCUMENT)
    assert response.header("content-length") == str(len(response.body))
    message = ask(proxy, x_answer="truncated").json()["error"]["message"]
    assert "As edited, set on_truncated" in message
    # The part that looks on below the hooks was put in place again too: without it a cut is mitmproxy's own page.
    upstream.answer(Answer.of(Head(), Data(STREAM[:300]), CutChunk()), key="cut")
    assert ask(proxy, x_answer="cut").json()["error"]["code"] == "stream_truncated"
    assert "Traceback" not in proxy.log


@pytest.mark.parametrize(
    ("begun", "code"),
    [((), "upstream_unreachable"), ((Head(), Data(STREAM[:300])), "stream_truncated")],
    ids=["before the head", "in the body"],
)
def test_a_flow_in_flight_that_fails_after_a_reload_gets_its_error(
    start: Callable[..., Proxy], upstream: Upstream, copied_addon: Path, begun: tuple[Step, ...], code: str
) -> None:
    here, gate = Gate(), Gate()
    upstream.answer(*begun, Signal(here), WaitFor(gate), Reset(), key="slow")
    proxy = start(addon=copied_addon)
    response = _reload_in_flight(proxy, copied_addon, here, gate)
    assert (response.status, response.json()["error"]["code"]) == (502, code)
    assert "Traceback" not in proxy.log


@pytest.mark.parametrize("begun", [(), (Head(), Data(STREAM[:300]))], ids=["before the head", "in the body"])
def test_who_waits_for_an_answer_under_way_to_the_same_request_is_told_of_a_reload(
    start: Callable[..., Proxy], upstream: Upstream, copied_addon: Path, rules_file: Path, begun: tuple[Step, ...]
) -> None:
    rules_file.write_text(
        RULES.replace("    force_upstream_stream: true", "    force_upstream_stream: true\n    keep_answers: 9")
    )
    here, gate = Gate(), Gate()
    upstream.answer(*begun, Signal(here), WaitFor(gate), Reset(), key="slow")
    proxy = start(addon=copied_addon, remote=True)
    asked = ("POST", CHAT, [("Content-Type", "application/json"), ("x-answer", "slow")], json.dumps(request()).encode())
    with Http1Client(proxy.url) as client:
        client.start(*asked)
        here.wait()
    proxy.wait_for_log("the client gave up")
    with Http1Client(proxy.url) as client:
        client.start(*asked)
        wait_until(proxy.changed, lambda: len(proxy.flows("slow")) == 2, 10, "the second request")
        _touch(copied_addon)
        response = client.receive("POST")
    gate.open()
    assert (response.status, response.ended) == (502, "complete")
    assert response.json()["error"]["message"].endswith("because the addon was reloaded. Send the request again.")
    assert "Traceback" not in proxy.log


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
def test_an_addon_with_a_package_named_lib_works_beside_ours(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_file: Path, tmp_path: Path, ours_first: bool
) -> None:
    other = tmp_path / "other"
    (other / "lib").mkdir(parents=True)
    (other / "lib" / "__init__.py").write_text("")
    (other / "lib" / "errors.py").write_text("NAME = 'the other lib'\n")
    (other / "addon.py").write_text(
        "import os, sys\n"
        "sys.path.insert(0, os.path.dirname(__file__))\n"
        "from lib.errors import NAME\n"
        "def response(flow):\n"
        "    from lib import errors\n"
        "    flow.response.headers['x-other'] = errors.NAME\n"
    )
    upstream.answer(event_stream(STREAM, size=10))
    scripts = [ADDON, other / "addon.py"]
    proxy = proxy_factory(
        f"reverse:{upstream.url()}",
        scripts=scripts if ours_first else scripts[::-1],
        options={"force_stream_rules": rules_file},
    )
    response = ask(proxy)
    assert (response.status, response.json(), response.header("x-other")) == (200, DOCUMENT, "the other lib")
    assert "Traceback" not in proxy.log


def test_on_a_mitmproxy_unknown_below_its_hooks_answers_are_still_aggregated(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    upstream.answer(event_stream(STREAM, size=10))
    upstream.answer(TRUNCATED)
    proxy = start(first=(SCRIPTS / "without_stream_layer.py",))
    proxy.wait_for_log(r"differs below its hooks \(mitmproxy\.proxy\.layers\.http\._hooks has no HttpResponseHook\)")
    assert ask(proxy).json() == DOCUMENT
    assert ask(proxy).json()["error"]["code"] == "stream_truncated"
    assert "Traceback" not in proxy.log


def test_a_request_before_mitmproxy_is_running_is_answered_like_any_other(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    # mitmproxy listens before it calls its scripts' `running`, each of which may take its time.
    upstream.answer([Head(), Data(sse(EVENTS[0], done=False)), Reset()])
    proxy = start(first=(SCRIPTS / "asks_at_start.py",))
    proxy.wait_for_log(r"asked at the start: 502 stream_truncated")


# Commands and replay


def test_the_commands_list_change_and_restore_the_rules(
    start: Callable[..., Proxy], upstream: Upstream, rules_file: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules_file.write_text(RULE.format(models="m", force="true"))
    proxy = start(remote=True)
    assert proxy.command("force_stream.rules") == ['one: force on; hosts 127.0.0.1; models ["m"]; 0 flows']
    assert ask(proxy).json() == DOCUMENT
    assert proxy.command("force_stream.rules")[0].endswith("; 1 flow")

    since = proxy.mark()
    proxy.command("force_stream.set", "one", "force_upstream_stream", "false")
    proxy.wait_for_log("rule one: force_upstream_stream true -> false$", since=since)
    assert ask(proxy).body == STREAM
    with pytest.raises(RuntimeError, match="there is no rule 'two'; the rules are: one"):
        proxy.command("force_stream.set", "two", "force_upstream_stream", "false")
    with pytest.raises(RuntimeError, match="did you mean 'timeout'"):
        proxy.command("force_stream.set", "one", "timeuot", "3")
    with pytest.raises(RuntimeError, match="expected"):
        proxy.command("force_stream.set", "one", "timeout", "soon")

    since = proxy.mark()
    proxy.command("force_stream.reload")
    proxy.wait_for_log("rule one: force_upstream_stream false -> true$", since=since)
    assert ask(proxy).json() == DOCUMENT
    rules_file.write_text("rules: 1\n")
    with pytest.raises(RuntimeError, match="the rules file has a mistake, so the previous rules stay in force"):
        proxy.command("force_stream.reload")
    assert ask(proxy).json() == DOCUMENT


def test_a_replayed_flow_is_forced_again_and_aggregated(start: Callable[..., Proxy], upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    proxy = start(remote=True)
    assert ask(proxy, x_answer="again").json() == DOCUMENT
    (before,) = proxy.flows("again")
    since = proxy.mark()
    proxy.command("replay.client", flows_of("again"))
    second = upstream.wait_request(2)
    proxy.wait_for_log(r"private-vllm: chat m, 200, finish stop, 5 events", since=since)
    after = proxy.flows("again")[-1]
    assert after["is_replay"] == "request"
    assert json.loads(after["response"]["body"]) == DOCUMENT
    assert second.body == upstream.requests[0].body, "forced once, not twice"
    undone = ("force_stream.undo", "force_stream.headers_undo")
    assert [after["metadata"][key] for key in undone] == [before["metadata"][key] for key in undone]


def test_the_replay_of_a_stream_that_the_client_asked_for_stays_a_stream(
    start: Callable[..., Proxy], upstream: Upstream
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    proxy = start(remote=True)
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request(stream=True), [("x-answer", "live")]).body == STREAM
    proxy.command("replay.client", flows_of("live"))
    second = upstream.wait_request(2)
    assert second.body == upstream.requests[0].body
    second.wait_answered()


def test_a_warning_says_what_eager_connections_do(start: Callable[..., Proxy]) -> None:
    proxy = start()
    proxy.wait_for_log("--set connection_strategy=lazy gives a clear 502")
    lazy = start(options={"connection_strategy": "lazy"})
    assert "connection_strategy" not in lazy.log


def test_a_file_without_rules_is_no_mistake(proxy_factory: Callable[..., Proxy], tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("rules: []\n")
    proxy = proxy_factory("regular", scripts=[ADDON], options={"force_stream_rules": empty})
    proxy.wait_for_log(r"no rule forces anything.* set force_upstream_stream: true in a rule of .*empty\.yaml, or name")


def test_a_replayed_flow_that_no_rule_forces_any_more_goes_out_as_the_client_sent_it(
    start: Callable[..., Proxy], upstream: Upstream, rules_file: Path
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    rules_file.write_text(RULE.format(models="m", force="true"))
    proxy = start(remote=True)
    with Http1Client(proxy.url) as client:
        client.post(CHAT, request(), [("Accept", "application/json"), ("x-answer", "again")])
    proxy.command("force_stream.set", "one", "force_upstream_stream", "false")
    upstream.answer(document({"plain": True}), key="again")
    proxy.command("replay.client", flows_of("again"))
    seen = upstream.wait_request(2)
    assert seen.json() == request()
    assert seen.header("content-length") == str(len(seen.body))
    assert (seen.header("accept"), seen.header("cache-control")) == ("application/json", None)
