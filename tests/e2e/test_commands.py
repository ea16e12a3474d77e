"""The commands for looking at flows, in a test master and in a running mitmdump, and their keys in the console."""

import itertools
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mitmproxy.types
import pytest
from force_stream.addon import commands
from force_stream.addon import hooks as addon
from force_stream.rules.rule import Rule
from harness import (
    Answer,
    Certs,
    CutChunk,
    Data,
    End,
    Head,
    Http1Client,
    Pause,
    Proxy,
    Request,
    Upstream,
    document,
    event_stream,
    flows_of,
    read_flows,
    sse,
)
from harness.foreign import DAMAGES, other_kinds, saved_flow, spelled, write_flows
from harness.master import answer_with, flow_with
from harness.paths import ADDON
from harness.proxy import MITMDUMP, START_TIMEOUT
from harness.samples import CHAT, COMPLETIONS, DOCUMENT, EVENTS, RESPONSES, SECRET, STREAM, request
from mitmproxy import exceptions, http
from mitmproxy.command import Command
from mitmproxy.test import taddons, tflow
from mitmproxy.tools.console import defaultkeys
from mitmproxy.tools.console.keymap import Keymap

RULES = """\
rules:
  - name: elsewhere
    hosts: ["llm.elsewhere.test"]
    force_upstream_stream: true
  - name: legacy
    hosts: ["127.0.0.1"]
    endpoints: [completions]
    force_upstream_stream: true
  - name: off
    hosts: ["127.0.0.1"]
    models: ["unforced"]
  - name: learning
    hosts: ["127.0.0.1"]
    models: ["learned"]
    learn: true
  - name: all
    hosts: ["127.0.0.1"]
    models: ["m", "other"]
    paths: {"/custom/generate": chat}
    force_upstream_stream: true
""".replace("name: off", 'name: "off"')

# How they are offered


def test_every_command_has_help_and_typed_arguments(run: Callable) -> None:
    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        ours = {
            name: each for name, each in context.master.commands.commands.items() if name.startswith("force_stream.")
        }
        for name, each in ours.items():
            assert isinstance(each, Command)
            assert each.help, name
        types = {name: [str(parameter.type) for parameter in each.parameters] for name, each in ours.items()}
        for name in ("explain", "compare", "aggregate"):
            assert types[f"force_stream.{name}"] == ["collections.abc.Sequence[mitmproxy.flow.Flow]"]
        assert types["force_stream.sse"][1] == str(mitmproxy.types.Path), "so that it is completed"

    run(test)


def test_rules_and_keys_are_completed_and_all_of_them_can_be_set(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        manager = context.master.commands
        ours.rules_watcher.rules = (*ours.rules, replace(ours.rules[0], name='a "b" c'))
        rule, key, _ = manager.commands["force_stream.set"].parameters
        names, keys = (
            mitmproxy.types.CommandTypes.get(each.type).completion(manager, each.type, "") for each in (rule, key)
        )
        assert list(names) == ["elsewhere", "legacy", "off", "learning", "all", "'a \"b\" c'"]
        assert set(keys) == {field.name for field in fields(Rule) if field.init} - {"name"}
        for name in names:
            manager.execute(f"force_stream.set {name} timeout 3")
        assert {rule.timeout for rule in ours.rules} == {3}

    run(test)


def default_keys() -> Keymap:
    keymap = Keymap(None)
    defaultkeys.map(keymap)
    return keymap


def bound(keymap: Keymap) -> dict[tuple[str, str], str]:
    return {(context, each.key): each.command for each in keymap.bindings for context in each.contexts}


def test_the_keys_are_new_ones_and_those_of_mitmproxy_stay(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.master.keymap = keymap = default_keys()
        before = bound(keymap)
        commands.Commands(ours).running()
        after = bound(keymap)
        assert {place: command for place, command in after.items() if place in before} == before
        new = {place: command for place, command in after.items() if place not in before}
        assert {key for _, key in new} == {key for key, _, _ in commands._KEYS}
        assert {context for context, _ in new} == {"flowlist", "flowview"}
        assert len(new) == 2 * len(commands._KEYS)
        everywhere = {key for context, key in before if context in ("global", "commonkey")}
        assert not {key for _, key in new} & everywhere

    run(test)


def test_the_keys_are_listed_with_help_and_run_commands_that_exist(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.master.keymap = keymap = default_keys()
        commands.Commands(ours).running()
        for view in ("flowlist", "flowview"):
            listed = {each.key: each for each in keymap.list(view)}
            for key, command, help in commands._KEYS:
                assert (listed[key].command, listed[key].help) == (command, help)
                name = next(word for word in command.split() if word.startswith("force_stream."))
                assert name in context.master.commands.commands

    run(test)


def test_a_key_that_a_person_has_taken_stays_theirs(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.master.keymap = keymap = default_keys()
        keymap.add("y", "view.focus.next", ["flowlist"], "mine")
        commands.Commands(ours).running()
        assert keymap.get("flowlist", "y").command == "view.focus.next"
        assert keymap.get("flowview", "y").command == "force_stream.explain @focus"

    run(test)


def test_without_a_console_there_are_no_keys_and_no_fault(run: Callable) -> None:
    async def test(ours: addon.ForceStream, _: taddons.context) -> None:
        commands.Commands(ours).running()

    run(test)


# force_stream.explain

ABOUT = "POST 127.0.0.1/v1/chat/completions: "
BEFORE_ALL = [
    r"rule elsewhere: host 127\.0\.0\.1:22 is not among llm\.elsewhere\.test",
    r"rule legacy: endpoint chat is not among completions",
    r"rule off: model (m|other) is not among unforced",
    r"rule learning: model (m|other) is not among learned",
]
EXPLAINED: dict[str, tuple[http.HTTPFlow, list[str]]] = {
    "a request that would be forced": (
        flow_with(),
        [*BEFORE_ALL, "rule all takes it; its request would be forced now"],
    ),
    "a rule that does not force": (
        flow_with(request("unforced")),
        [*BEFORE_ALL[:2], "rule off takes it; it changes nothing, since force_upstream_stream is false"],
    ),
    "a rule that learns": (
        flow_with(request("learned")),
        [
            *BEFORE_ALL[:2],
            "rule off: model learned is not among unforced",
            "rule learning takes it; it changes nothing, since force_upstream_stream is false, "
            "unless its upstream says that it must stream",
        ],
    ),
    "a client's own stream": (
        flow_with(request(stream=True)),
        [*BEFORE_ALL, "rule all takes it; the client itself asks for a stream, which is passed on live"],
    ),
    "a request that cannot stream": (
        flow_with({"model": "m", "prompt": "Once", "best_of": 2}, path=COMPLETIONS),
        [BEFORE_ALL[0], "rule legacy takes it; left as it came: .*best_of.*"],
    ),
    "a request in the background": (
        flow_with({"model": "m", "input": "Hi", "background": True}, path=RESPONSES),
        [
            BEFORE_ALL[0],
            "rule legacy: endpoint responses is not among completions",
            *BEFORE_ALL[2:],
            "rule all takes it; left as it came: .*background.*",
        ],
    ),
    "another method": (
        flow_with(method="PUT"),
        [*BEFORE_ALL, "rule all takes it; left as it came: only a POST with a JSON object or a form is forced"],
    ),
    "another model": (
        flow_with(request("gpt")),
        [
            *BEFORE_ALL[:2],
            "rule off: model gpt is not among unforced",
            "rule learning: model gpt is not among learned",
            "rule all: model gpt is not among m, other",
        ],
    ),
    "no model": (
        flow_with(b"[]"),
        [
            *BEFORE_ALL[:2],
            "rule off: the request has no model, and the rule is only for unforced",
            "rule learning: the request has no model, and the rule is only for learned",
            "rule all: the request has no model, and the rule is only for m, other",
        ],
    ),
    "another host": (
        flow_with(host="api.test"),
        [
            r"rule elsewhere: host api\.test:22 is not among llm\.elsewhere\.test",
            *(
                rf"rule {name}: host api\.test:22 is not among 127\.0\.0\.1"
                for name in ("legacy", "off", "learning", "all")
            ),
        ],
    ),
    "another path": (
        flow_with(path="/v1/embeddings?key=secret"),
        [BEFORE_ALL[0], *[r"rule \w+: path /v1/embeddings is not a known endpoint"] * 4],
    ),
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_explain_gives_the_first_reason_of_each_rule(run: Callable, case: str) -> None:
    flow, reasons = EXPLAINED[case]

    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        lines = context.master.commands.call("force_stream.explain", [flow])
        assert len(lines) == len(reasons)
        for line, reason in zip(lines, reasons, strict=True):
            assert re.fullmatch(rf"(POST|PUT) \S+: {reason}", line), line
            assert "secret" not in line

    run(test)


def test_explain_speaks_of_the_rule_that_took_a_flow_when_it_was_forced(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        def last(flow: http.HTTPFlow) -> str:
            return context.master.commands.call("force_stream.explain", [flow])[-1]

        flow = flow_with()
        await ours.request(flow)
        assert last(flow) == f"{ABOUT}rule all takes it; its request was forced"
        context.master.commands.call_strings("force_stream.set", ["off", "models", "[m]"])
        assert last(flow) == f"{ABOUT}rule off takes it; its request was forced by rule all, as the rules were then"
        ours.rules_watcher.rules = ours.rules[:1]
        assert last(flow) == f"{ABOUT}rule all took it, as the rules were then; its request was forced"
        ours.rules_watcher.rules = ()
        assert last(flow_with()) == f"{ABOUT}there are no rules"

    run(test)


def test_explain_says_when_the_switch_is_off(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.configure(ours, force_stream=False)
        line = context.master.commands.call("force_stream.explain", [flow_with()])[-1]
        assert line == f"{ABOUT}rule all takes it; it changes nothing, since the option force_stream is off"

    run(test)


def test_explain_takes_all_kinds_of_flows(run: Callable) -> None:
    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        lines = context.master.commands.call("force_stream.explain", [tflow.ttcpflow(), flow_with(), flow_with()])
        assert [line for line in lines if "would be forced" in line] == 2 * [
            f"{ABOUT}rule all takes it; its request would be forced now"
        ]

    run(test)


# force_stream.sse and .aggregate


async def answered(ours: addon.ForceStream, body: bytes = STREAM) -> http.HTTPFlow:
    """A forced flow with its answer."""
    flow = flow_with()
    await ours.request(flow)
    answer_with(flow, body)
    await ours.response(flow)
    flow.live = False
    return flow


def test_sse_writes_the_bytes_as_they_came(run: Callable, tmp_path: Path) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        body = STREAM.replace(b"\n", b"\r\n") + b": \xff"
        flow = await answered(ours, body)
        assert flow.response.json() == DOCUMENT
        context.master.commands.call("force_stream.sse", [flow], str(tmp_path / "one.sse"))
        assert (tmp_path / "one.sse").read_bytes() == body

    run(test)


def test_sse_of_several_flows_writes_numbered_files(run: Callable, tmp_path: Path) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        own = flow_with(request(stream=True))
        answer_with(own, b"data: own\n\n")
        chosen = [await answered(ours), flow_with(), own, tflow.tflow(resp=True)]
        context.master.commands.call("force_stream.sse", chosen, str(tmp_path / "some.sse"))
        assert {path.name: path.read_bytes() for path in tmp_path.glob("some*")} == {
            "some-1.sse": STREAM,
            "some-2.sse": b"data: own\n\n",
        }

    run(test)


def test_sse_to_a_path_that_cannot_be_written_says_why(run: Callable, tmp_path: Path) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = await answered(ours)
        with pytest.raises(exceptions.CommandError, match=r"there/one\.sse: No such file or directory"):
            context.master.commands.call("force_stream.sse", [flow], str(tmp_path / "there" / "one.sse"))
        with pytest.raises(exceptions.CommandError, match="Is a directory"):
            context.master.commands.call("force_stream.sse", [flow], str(tmp_path))

    run(test)


@pytest.mark.parametrize("name", ["sse", "aggregate"])
def test_flows_without_an_event_stream_are_said_to_have_none(run: Callable, tmp_path: Path, name: str) -> None:
    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        arguments = [[flow_with(), tflow.tflow(resp=True)], *([str(tmp_path / "x")] if name == "sse" else [])]
        with pytest.raises(exceptions.CommandError, match="none of these flows has an event stream"):
            context.master.commands.call(f"force_stream.{name}", *arguments)

    run(test)


def test_aggregate_goes_by_the_rules_as_they_are_now_and_can_be_reverted(
    run: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "force_stream")

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = await answered(ours, sse(*EVENTS[:3], done=False))
        assert (flow.response.status_code, flow.metadata["force_stream.error"]) == (502, "stream_truncated")
        times = flow.metadata["force_stream.times"]
        context.master.commands.call_strings("force_stream.set", ["all", "on_truncated", "partial"])
        caplog.clear()
        context.master.commands.call("force_stream.aggregate", [flow])
        assert flow.response.status_code == 200
        (only,) = flow.response.json()["choices"]
        assert (only["message"]["content"], only["finish_reason"]) == ("Hello", "length")
        assert flow.metadata["force_stream.times"] == times
        assert [record.getMessage().partition(", 3 events")[0] for record in caplog.records] == [
            "cut off after event 3 (the upstream ended it); all: chat m, 200, finish length (inferred), truncated"
        ]
        flow.revert()
        assert flow.response.status_code == 502

    run(test)


def test_aggregate_makes_the_document_of_a_stream_that_the_client_asked_for(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flows = [flow_with(request(stream=True), path=path) for path in (CHAT, "/custom/generate")]
        strange = flow_with(request(stream=True), path="/nobody/knows", host="api.test")
        for flow in [*flows, strange]:
            await ours.request(flow)
            answer_with(flow)
            flow.live = False
        context.master.commands.call("force_stream.aggregate", [*flows, strange])
        for flow in flows:
            assert flow.response.json() == DOCUMENT
            assert flow.metadata["force_stream.sse"] == STREAM
            assert flow.comment.startswith("all: chat m, 200, finish stop")
        assert strange.response.content == STREAM, "left as it is"

    run(test)


# In a running mitmdump


@pytest.fixture
def proxy(proxy_factory: Callable[..., Proxy], upstream: Upstream, rules_file: Path, tmp_path: Path) -> Proxy:
    options = {"force_stream_rules": rules_file, "connection_strategy": "lazy"}
    return proxy_factory(
        f"reverse:{upstream.url()}", scripts=[ADDON], options=options, remote=True, flow_file=tmp_path / "flows"
    )


@pytest.fixture
def shared(
    shared_proxy: Callable[..., Proxy], session_upstream: Upstream, shared_rules: Callable[[str], Path]
) -> Proxy:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    return shared_proxy(f"reverse:{session_upstream.url()}", scripts=[ADDON], options=options, remote=True)


_keys = (f"commands-{number}" for number in itertools.count(1))


@pytest.fixture
def key() -> str:
    """Tells this test's flows from those of others."""
    return next(_keys)


def ask(proxy: Proxy, key: str, body: Any = None) -> Any:
    with Http1Client(proxy.url) as client:
        return client.post(CHAT, body or request(), [("x-answer", key), ("authorization", f"Bearer {SECRET}")])


def mitmdump(certs: Certs, tmp_path: Path, *arguments: str) -> list[str]:
    """Run a mitmdump to its end and return its log without the times."""
    confdir = certs.confdir(tmp_path / "confdir")
    line = [str(MITMDUMP), "--set", f"confdir={confdir}", "--set", "flow_detail=0", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=START_TIMEOUT, check=True)
    return [re.sub(r"^\[[\d:.]+\] ", "", each) for each in done.stdout.splitlines()]


def test_a_saved_flow_file_is_aggregated_again(
    proxy: Proxy, upstream: Upstream, rules_file: Path, tmp_path: Path, certs: Certs
) -> None:
    cut = Answer.of(Head(), Data(sse(*EVENTS[:3], done=False)), CutChunk())
    upstream.answer(event_stream(STREAM, size=10), key="ok")
    upstream.answer(cut, key="cut")
    upstream.answer(event_stream(STREAM, size=10), key="own")
    upstream.answer(document(DOCUMENT), key="plain")
    statuses = [ask(proxy, key).status for key in ("ok", "cut")]
    statuses += [ask(proxy, "own", request(stream=True)).status, ask(proxy, "plain", request("gpt")).status]
    assert statuses == [200, 502, 200, 200]
    assert proxy.stop() == 0

    rules_file.write_text(RULES + "    on_truncated: partial\n")
    again = tmp_path / "again"
    arguments = ["-s", str(ADDON), "--set", f"force_stream_rules={rules_file}", "--set", "force_stream_aggregate=true"]
    log = mitmdump(certs, tmp_path, "-n", "-r", str(tmp_path / "flows"), "-w", str(again), *arguments)
    told = [line.rpartition(", ")[0] for line in log if "all: chat m, " in line]
    size, cut_size = len(STREAM), len(sse(*EVENTS[:3], done=False))
    assert told == [
        f"all: chat m, 200, finish stop, 5 events, {size:,} bytes, 3 in + 2 out tokens",
        "cut off after event 3 (connection closed); "
        f"all: chat m, 200, finish length (inferred), truncated, 3 events, {cut_size:,} bytes",
        f"all: chat m, 200, finish stop, 5 events, {size:,} bytes, 3 in + 2 out tokens",
    ]
    flows = {flow.request.headers["x-answer"]: flow for flow in read_flows(again)}
    before = {flow.request.headers["x-answer"]: flow for flow in read_flows(tmp_path / "flows")}
    assert flows["ok"].response.json() == flows["own"].response.json() == DOCUMENT
    assert flows["cut"].response.json()["choices"][0]["message"]["content"] == "Hello"
    assert flows["plain"].get_state() == before["plain"].get_state()
    for key in ("ok", "cut"):
        for name in ("sse", "times", "sse_status", "sse_type"):
            assert flows[key].metadata[f"force_stream.{name}"] == before[key].metadata[f"force_stream.{name}"]
    assert "Traceback" not in "\n".join(log)


def test_of_a_flow_file_of_others_every_answer_that_cannot_be_made_again_stays(
    rules_file: Path, tmp_path: Path, certs: Certs
) -> None:
    damaged = [saved_flow(name=name) for name in DAMAGES]
    for flow, damage in zip(damaged, DAMAGES.values(), strict=True):
        damage(flow)
    # A good one after each of the others, so that the next is seen to be gone on with.
    mixed = [each for flow in [*damaged, *other_kinds()] for each in (flow, saved_flow(name="good"))]
    path, again = write_flows(tmp_path / "flows", mixed), tmp_path / "again"
    arguments = ["-s", str(ADDON), "--set", f"force_stream_rules={rules_file}", "--set", "force_stream_aggregate=true"]
    log = mitmdump(certs, tmp_path, "-n", "-r", str(path), "-w", str(again), *arguments)
    before, after = ({flow.id: flow for flow in read_flows(file)} for file in (path, again))
    for flow in mixed[::2]:
        assert spelled(after[flow.id]) == spelled(before[flow.id])
    for flow in mixed[1::2]:
        assert after[flow.id].response.content == before[flow.id].response.content
    assert len([line for line in log if line.startswith("all: chat good, 200, finish stop")]) == len(mixed) // 2
    reasons = [line.partition("its saved answer is left unchanged: its ")[2] for line in log]
    assert len([reason for reason in reasons if reason.startswith("force_stream.")]) > 0.9 * len(DAMAGES)
    assert not [line for line in log if "Traceback" in line or "a bug in" in line]


def test_of_a_flow_file_of_others_every_request_can_be_replayed(
    upstream: Upstream, rules_file: Path, tmp_path: Path, certs: Certs
) -> None:
    upstream.answer_always(event_stream(STREAM, size=10))
    # Of these it is known how they came, so they are forced anew.
    known = ["good", "no rule", "sse is -7"]
    names = [*known, "undo backwards", "headers_undo is -7", "forced_size is -7", "metadata is a list"]
    flows = [saved_flow(name=name) for name in names]
    for name, flow in zip(names[1:], flows[1:], strict=True):
        DAMAGES[name](flow)
    for flow in flows:
        flow.request.port = upstream.ports["http"]
    rules_file.write_text("rules: [{name: all, hosts: [127.0.0.1], force_upstream_stream: true}]")
    path, again = write_flows(tmp_path / "flows", flows), tmp_path / "again"
    arguments = ["-s", str(ADDON), "--set", f"force_stream_rules={rules_file}", "-w", str(again)]
    log = mitmdump(certs, tmp_path, "-n", "-C", str(path), *arguments)
    assert [seen.body for seen in upstream.requests] == [flow.request.raw_content for flow in flows]
    answers = {flow.id: flow.response.content for flow in read_flows(again)}
    answered = [answers[flow.id] == STREAM or json.loads(answers[flow.id]) == DOCUMENT for flow in flows]
    assert all(answered)
    assert [answers[flow.id] != STREAM for flow in flows] == [name in known for name in names]
    told = [
        line
        for line in log
        if line.startswith(
            f"{CHAT}: sent again as it was forced, because the original request is not known: its force_stream."
        )
    ]
    assert len(told) == 3
    assert not [line for line in log if "Traceback" in line or "a bug in" in line]


def test_without_the_option_a_saved_flow_file_stays_as_it_is(
    proxy: Proxy, upstream: Upstream, rules_file: Path, tmp_path: Path, certs: Certs
) -> None:
    upstream.answer_always(event_stream(STREAM))
    ask(proxy, "ok")
    assert proxy.stop() == 0
    again = tmp_path / "again"
    arguments = ["-s", str(ADDON), "--set", f"force_stream_rules={rules_file}"]
    mitmdump(certs, tmp_path, "-n", "-r", str(tmp_path / "flows"), "-w", str(again), *arguments)
    assert [flow.get_state() for flow in read_flows(again)] == [
        flow.get_state() for flow in read_flows(tmp_path / "flows")
    ]


def streams_or_not(plain: Any) -> Callable[[Request], Answer]:
    return lambda seen: event_stream(STREAM, size=10) if seen.json().get("stream") else document(plain)


def test_compare_sends_the_request_both_ways_and_logs_what_differs(shared: Proxy, upstream: Upstream, key: str) -> None:
    plain = {key: value for key, value in DOCUMENT.items() if key != "usage"} | {"id": "another", "object": "x"}
    upstream.handle(streams_or_not(plain))
    ask(shared, key)
    since = shared.mark()
    shared.command("force_stream.compare", flows_of(key))
    shared.wait_for_log(
        r'force_stream\.compare /v1/chat/completions: \$\.object: "x" vs "chat\.completion"', since=since
    )
    shared.wait_for_log(r'force_stream\.compare /v1/chat/completions: \$\.usage: nothing vs \{"prompt_', since=since)
    verdict = "force_stream.compare /v1/chat/completions: plain: 200; forced: 200: 2 differences; the log has them"
    shared.wait_for_log(verdict, since=since)
    assert len([line for line in shared.log_lines[since:] if "force_stream.compare" in line]) == 3
    _, *sent = upstream.requests
    assert sorted(seen.body for seen in sent) == sorted([json.dumps(request()).encode(), upstream.requests[0].body])
    assert {seen.header("authorization") for seen in sent} == {f"Bearer {SECRET}"}
    by_kind = {"stream" in seen.json(): seen for seen in sent}
    assert by_kind[True].header("accept") == "text/event-stream"
    assert by_kind[False].header("accept") is None
    flows = shared.flows(key)
    assert [json.loads(flow["response"]["body"]) for flow in flows if flow["metadata"]] == [DOCUMENT, DOCUMENT]


def test_compare_ends_with_the_line_that_fills_in_what_streams_lack(
    shared: Proxy, upstream: Upstream, key: str
) -> None:
    message = DOCUMENT["choices"][0]["message"] | {"refusal": None}
    upstream.handle(streams_or_not(DOCUMENT | {"choices": [DOCUMENT["choices"][0] | {"message": message}], "x": []}))
    ask(shared, key)
    since = shared.mark()
    shared.command("force_stream.compare", flows_of(key))
    line = r'fill: \{"choices\.\*\.message\.refusal":null,"x":\[\]\}'
    shared.wait_for_log(rf"force_stream\.compare /v1/chat/completions: rule all: .*: {line}", since=since)


def test_compare_says_when_both_answers_are_the_same(shared: Proxy, upstream: Upstream, key: str) -> None:
    upstream.handle(streams_or_not(DOCUMENT | {"id": "another", "created": 1}))
    ask(shared, key)
    since = shared.mark()
    shared.command("force_stream.compare", flows_of(key))
    shared.wait_for_log("plain and forced give the same answer, apart from ids and times", since=since)


def test_compare_takes_a_flow_that_no_rule_forced(shared: Proxy, upstream: Upstream, key: str) -> None:
    upstream.handle(streams_or_not(DOCUMENT))
    ask(shared, key, request("unforced"))
    since = shared.mark()
    shared.command("force_stream.compare", flows_of(key))
    shared.wait_for_log("plain and forced give the same answer, apart from ids and times", since=since)
    assert ["stream" in seen.json() for seen in upstream.requests].count(True) == 1


NOT_COMPARED: dict[str, tuple[dict[str, Any], str]] = {
    "no rule": (request("gpt"), "no rule takes this request; force_stream.explain says why"),
    "its own stream": (request(stream=True), "this request itself asks for a stream"),
    "cannot stream": (
        request(modalities=["text", "audio"], audio={"format": "wav", "voice": "x"}),
        "this request has to go out as it came: ",
    ),
}


@pytest.mark.parametrize("case", NOT_COMPARED)
def test_compare_says_why_there_is_nothing_to_compare(shared: Proxy, upstream: Upstream, key: str, case: str) -> None:
    body, said = NOT_COMPARED[case]
    upstream.answer_always(document(DOCUMENT))
    ask(shared, key, body)
    since = shared.mark()
    shared.command("force_stream.compare", flows_of(key))
    shared.wait_for_log(rf"force_stream\.compare /v1/chat/completions: {said}", since=since)
    assert len(upstream.requests) == 1


def failure(status: int, message: str) -> Answer:
    return document({"error": {"message": message}}, status=status)


CUT_OFF = Answer.of(Head(), Data(sse(*EVENTS[:2], done=False)), CutChunk())
VERDICTS: dict[str, tuple[Answer, Answer, str]] = {
    "only streams": (
        failure(400, "This model only support stream mode"),
        event_stream(STREAM),
        r'plain: 400 "This model only support stream mode"; forced: 200: this upstream only streams',
    ),
    "streams unasked": (
        event_stream(STREAM),
        event_stream(STREAM),
        r"plain: 200 \(an event stream that nobody asked for\); forced: 200: this upstream only streams",
    ),
    "plain fails": (
        Answer.of(Head(504, {"Content-Type": "text/html"}), Data(b"<h1>504 Gateway Time-out</h1>"), End()),
        event_stream(STREAM),
        r'plain: 504 \(not JSON: "504 Gateway Time-out"\); forced: 200: only streaming works here',
    ),
    "cannot stream": (
        document(DOCUMENT),
        failure(400, "Streaming is not supported for this model"),
        r"plain: 200; forced: 400 .*: this upstream cannot stream this request",
    ),
    "cut off": (
        document(DOCUMENT),
        CUT_OFF,
        r"plain: 200; forced: 502 \(cut off after event 2 \(.*\)\): streaming is what fails here",
    ),
    "a rate limit": (
        document(DOCUMENT),
        failure(429, "Rate limit reached"),
        r'plain: 200; forced: 429 "Rate limit reached": that may be temporary, so compare again later',
    ),
    "a wrong key": (
        failure(401, f"Incorrect API key: {SECRET}"),
        failure(401, f"Incorrect API key: {SECRET}"),
        r'plain and forced fail the same way: 401 "Incorrect API key: \*\*\*"',
    ),
    "each in its way": (
        failure(500, "out of memory"),
        CUT_OFF,
        r'plain: 500 "out of memory"; forced: 502 .*: both fail',
    ),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_compare_says_first_what_a_failure_means(shared: Proxy, upstream: Upstream, key: str, case: str) -> None:
    plain, forced, said = VERDICTS[case]
    upstream.answer_always(document(DOCUMENT))
    ask(shared, key, request("unforced"))
    upstream.handle(lambda seen: forced if seen.json().get("stream") else plain)
    since = shared.mark()
    shared.command("force_stream.compare", flows_of(key))
    shared.wait_for_log(rf"force_stream\.compare /v1/chat/completions: {said}", since=since)
    assert len([line for line in shared.log_lines[since:] if "force_stream.compare" in line]) == 1


def test_a_mitmproxy_unknown_below_its_hooks_cannot_compare(run: Callable) -> None:
    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        with pytest.raises(exceptions.CommandError, match="not possible with this version of mitmproxy"):
            context.master.commands.call("force_stream.compare", [flow_with()])

    run(test)


def test_stats_are_a_table_and_json(proxy: Proxy, upstream: Upstream) -> None:
    # In two reads, however busy the machine is: what comes in one has neither rate nor gap.
    upstream.answer(Head(), Data(STREAM[:300]), Pause(1), Data(STREAM[300:]), End(), key="ok")
    upstream.answer(Answer.of(Head(), Data(sse(*EVENTS[:3], done=False)), CutChunk()), key="cut")
    upstream.answer(document({"error": {}}, status=429), key="limit")
    upstream.answer(event_stream(sse(*EVENTS[:3])), key="inferred")
    (heading,) = proxy.command("force_stream.stats")
    assert json.loads(proxy.command("force_stream.stats.json")) == []
    for key in ("ok", "ok", "cut", "limit", "inferred"):
        ask(proxy, key)
    ask(proxy, "ok", request("other"))
    first, *rows = proxy.command("force_stream.stats")
    assert first.split() == heading.split()
    address = upstream.url().removeprefix("http://")
    assert [line.split()[:7] for line in rows] == [
        [address, "m", "5", "3", "1", "1", "1"],
        [address, "other", "1", "1", "0", "0", "0"],
    ]
    m, other = json.loads(proxy.command("force_stream.stats.json"))
    counts = {key: m[key] for key in ("upstream", "model", "flows", "ok", "inferred", "truncated", "errors")}
    assert list(counts.values()) == [address, "m", 5, 3, 1, 1, 1]
    for row in (m, other):
        assert row["time_to_first_event"] > 0
        assert row["events_per_second"] > 0
        assert row["longest_gap"] > 0
