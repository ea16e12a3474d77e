"""The addon inside a test master: options, guards, commands, faults; and the facts of mitmproxy that it builds on."""

import asyncio
import inspect
import io
import logging
import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from force_stream.addon import hooks as addon
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy import flows, stream_layer
from force_stream.proxy.watch import Watch
from harness import Http1Client, Proxy, document, refused_port, sse
from harness.master import answer_with, flow_with, lines
from harness.paths import ADDON
from harness.samples import DOCUMENT, EVENTS, RULES, SECRET, STREAM, choice, chunk, request
from harness.upstream import Upstream
from mitmproxy import addons as default_addons
from mitmproxy import exceptions, http, options
from mitmproxy.addons import dumper, next_layer, save, script
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.log import ALERT
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.test import taddons, tflow
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.utils import emoji

type Scenario = Callable[[addon.ForceStream, taddons.context], Coroutine[Any, Any, None]]


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture
def run(rules_file: Path, caplog: pytest.LogCaptureFixture) -> Callable[[Scenario], None]:
    """Calls a coroutine function with the addon, its rules read, and its context."""
    caplog.set_level(logging.DEBUG, "force_stream")

    def run(test: Scenario) -> None:
        async def inside() -> None:
            ours = addon.ForceStream(ADDON.with_name("rules.yaml"))
            with taddons.context(ours) as context:
                context.configure(ours, force_stream_rules=str(rules_file))
                caplog.clear()
                await test(ours, context)

        asyncio.run(inside())

    return run


# Options


def test_the_options_are_there_with_their_defaults() -> None:
    async def test() -> None:
        with taddons.context(addon.ForceStream(ADDON.with_name("rules.yaml"))) as context:
            assert context.options.force_stream is True
            assert context.options.force_stream_rules == str(ADDON.with_name("rules.yaml"))

    asyncio.run(test())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(b"rules: 1", r"rules\.yaml:1: rules: expected a list", id="a wrong type"),
        pytest.param(b"\xff", r"rules\.yaml: the rules cannot be read: it is not UTF-8", id="no text"),
        pytest.param(None, r"rules\.yaml: the rules cannot be read: No such file", id="no file"),
    ],
)
def test_a_mistake_in_the_file_is_one_error_line_and_the_rules_stay(
    run: Callable, rules_file: Path, caplog: pytest.LogCaptureFixture, content: bytes | None, line: str
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        before = ours.rules
        if content is None:
            rules_file.unlink()
        else:
            rules_file.write_bytes(content)
        ours.configure({"force_stream_rules"})
        (said,) = caplog.records
        assert (said.levelno, said.exc_info) == (logging.ERROR, None)
        assert re.search(line, said.getMessage())
        assert ours.rules is before
        assert len(before) == RULES.count("- name:")

    run(test)


def test_options_of_others_do_not_make_the_file_be_read_again(run: Callable, rules_file: Path) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        rules_file.unlink()
        before = ours.rules
        context.configure(ours, showhost=True, force_stream=False)
        assert ours.rules is before

    run(test)


@pytest.mark.parametrize(
    ("mode", "strategy", "warned"),
    [
        ("reverse:https://x.test", "eager", True),
        ("reverse:https://x.test", "lazy", False),
        ("regular", "eager", False),
    ],
)
def test_reverse_mode_with_eager_connections_is_warned_of(
    run: Callable, caplog: pytest.LogCaptureFixture, mode: str, strategy: str, warned: bool
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.options.add_option("connection_strategy", str, strategy, "")
        context.options.update(mode=[mode])
        caplog.clear()
        ours.configure({"mode"})
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * warned

    run(test)


def test_a_change_of_the_file_is_seen_within_two_seconds() -> None:
    # It is read at the second look that finds it the same, which takes no time to speak of.
    assert 2 * addon.WATCH_INTERVAL <= 1.5


def test_a_file_that_is_still_being_written_is_not_in_force(
    run: Callable, rules_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rules_file.read_bytes().replace(b"private-vllm", b"another-name")
    edits = iter([b"", b"rules:\n", b"rules: []\n", whole, None])

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        before, in_force = ours.rules, []

        async def edit(_: float) -> None:
            in_force.append(ours.rules)
            content = next(edits)
            if content is not None:
                rules_file.write_bytes(content)

        monkeypatch.setattr(asyncio, "sleep", edit)
        with pytest.raises(RuntimeError):  # StopIteration: all edits are made
            await ours._watch_file()
        assert in_force[:-1] == [before] * (len(in_force) - 1)
        assert [rule.name for rule in in_force[-1]] == [
            rule.name.replace("private-vllm", "another-name") for rule in before
        ]

    run(test)


# Guards


def _with_response(flow: http.HTTPFlow) -> None:
    answer_with(flow, b"{}", "application/json")


def _with_error(flow: http.HTTPFlow) -> None:
    flow.error = tflow.terr()


def _not_live(flow: http.HTTPFlow) -> None:
    flow.live = False


@pytest.mark.parametrize("prepare", [_with_response, _with_error, _not_live])
def test_a_flow_that_is_not_ours_to_decide_about_is_left(run: Callable, prepare: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        prepare(flow)
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before

    run(test)


def test_the_master_switch_leaves_a_flow(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.configure(ours, force_stream=False)
        flow = flow_with()
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before

    run(test)


UNTOUCHED = {
    "another model": {"body": request("other")},
    "a rule that does not force": {"body": request("unforced")},
    "no JSON": {"body": b"model=m"},
    "a GET": {"method": "GET"},
    "another path": {"path": "/v1/models"},
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_a_flow_that_no_rule_forces_is_equal_in_state_to_the_end(run: Callable, case: str) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(**UNTOUCHED[case])
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before
        answer_with(flow)
        answered = flow.get_state()
        ours.responseheaders(flow)
        await ours.response(flow)
        assert flow.get_state() == answered
        assert flow.response
        assert not flow.response.stream

    run(test)


def test_a_request_whose_body_mitmproxy_streams_is_left(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        flow.request.raw_content = None
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before

    run(test)


def test_a_refused_request_says_why_on_the_flow_and_in_the_log(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with({"model": "m", "prompt": "", "best_of": 3}, path="/v1/completions")
        before = flow.request.get_state()
        await ours.request(flow)
        assert flow.request.get_state() == before
        reason = "best_of 3 cannot be streamed"
        assert flow.metadata == {
            "force_stream.rule": "private-vllm",
            "force_stream.endpoint": "completions",
            "force_stream.left_alone": reason,
        }
        assert lines(caplog, logging.INFO) == [f"private-vllm completions: left as it came: {reason}"]

    run(test)


# Forced flows


def test_a_forced_flow_can_be_saved_and_loaded(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        await ours.response(flow)
        file = io.BytesIO()
        FlowWriter(file).add(flow)
        file.seek(0)
        (loaded,) = FlowReader(file).stream()
        assert isinstance(loaded, http.HTTPFlow)
        assert loaded.metadata == flow.metadata
        assert loaded.metadata["force_stream.sse"] == STREAM
        assert (loaded.comment, loaded.response and loaded.response.json()) == (flow.comment, DOCUMENT)
        assert SECRET not in f"{flow.metadata}{flow.comment}"

    run(test)


def test_what_is_kept_on_a_flow_gives_its_request_back_as_it_came(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        came = flow.request.raw_content
        await ours.request(flow)
        assert flow.request.raw_content != came
        assert flow.request.raw_content
        assert flows.as_it_came(flow, flow.request.raw_content) == came

    run(test)


def test_a_second_run_of_the_response_hook_changes_nothing(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        await ours.response(flow)
        before = flow.get_state()
        await ours.response(flow)
        assert flow.get_state() == before

    run(test)


def test_a_flow_that_was_forced_before_a_reload_is_aggregated_after_it(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(n=2))
        await ours.request(flow)
        answer_with(flow, sse(*EVENTS))
        reloaded = addon.ForceStream(ADDON.with_name("rules.yaml"))
        await reloaded.response(flow)
        assert flow.response
        assert flow.response.json()["choices"][0] == DOCUMENT["choices"][0]

    run(test)


def test_a_long_stream_is_aggregated_all_the_same(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        many = 30_000
        stream = sse(EVENTS[0], *[EVENTS[1]] * many, *EVENTS[3:])
        answer = AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")
        answer.feed(stream)
        assert answer.blocks_loop
        answer_with(flow, stream)
        await ours.response(flow)
        assert flow.response
        assert flow.response.json()["choices"][0]["message"]["content"] == "Hel" * many

    run(test)


@pytest.mark.parametrize("asked", [{}, {"stream": True}], ids=["forced", "the client's own stream"])
def test_what_is_remembered_of_a_flow_is_little_whatever_its_names_are(run: Callable, asked: dict[str, Any]) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        ours.change_rule("private-vllm", {"models": '["*"]'})
        flow = flow_with(request("m" * 1_000, **asked))
        await ours.request(flow)
        answer_with(flow, sse(*(chunk(choice(number, f"a reason {number}")) for number in range(5_000))))
        ours.responseheaders(flow)
        assert flow.response
        if callable(flow.response.stream):
            content, flow.response.raw_content = flow.response.raw_content, None
            flow.response.stream(content)
        await ours.response(flow)
        await asyncio.sleep(0)  # it is counted once its client has the answer
        await asyncio.gather(*ours._counting)
        (outcome,) = ours.stats.latest()
        assert outcome.finish_reason.startswith("a reason 0, a reason 1, ")
        assert len(repr(outcome)) < 1_000
        assert len(repr(ours.stats.rows())) < 1_000
        assert len(flow.comment) < 1_000

    run(test)


def test_an_answer_that_mitmproxy_streamed_is_told_of(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        assert flow.response
        flow.response.raw_content = None
        await ours.response(flow)
        (line,) = lines(caplog, logging.WARNING)
        assert "stream_large_bodies" in line

    run(test)


def test_a_flow_without_an_answer_is_marked_and_told_of(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        flow.error = tflow.terr()
        ours.error(flow)
        assert (flow.marked, flow.comment) == (":warning:", "private-vllm: chat m, no answer")
        assert flow.metadata["force_stream.error"] == "no_answer"
        (line,) = lines(caplog, logging.WARNING)
        assert re.fullmatch(r"private-vllm: chat m, no answer: error, \d+\.\d s", line)
        other = flow_with(request("other"))
        other.error = tflow.terr()
        before = other.get_state()
        ours.error(other)
        assert other.get_state() == before

    run(test)


def test_the_copy_of_a_live_stream_ends_at_the_rules_max_body(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.command(ours.set_value, "private-vllm", "max_body", "10")
        flow = flow_with(request(stream=True))
        before = flow.request.get_state()
        await ours.request(flow)
        assert flow.request.get_state() == before
        answer_with(flow)
        assert flow.response
        flow.response.raw_content = None
        ours.responseheaders(flow)
        assert callable(flow.response.stream)
        assert [flow.response.stream(piece) for piece in (b"12345678", b"9abcdef", b"")] == [
            b"12345678",
            b"9abcdef",
            b"",
        ]
        await ours.response(flow)
        assert flow.response.raw_content == b"12345678"
        assert flow.metadata["force_stream.cut_at"] == 8

    run(test)


def test_a_live_stream_that_breaks_off_leaves_what_came(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(stream=True))
        await ours.request(flow)
        answer_with(flow)
        assert flow.response
        flow.response.raw_content = None
        ours.responseheaders(flow)
        assert callable(flow.response.stream)
        flow.response.stream(STREAM[:40])
        flow.error = tflow.terr()
        ours.error(flow)
        assert flow.response.raw_content == STREAM[:40]

    run(test)


# Faults of the addon itself


def _fails(*args: object, **kwargs: object) -> None:
    raise RuntimeError(f"it says {SECRET}")


def test_a_fault_in_the_response_hook_is_an_error_of_openais_shape_and_one_line(
    run: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        monkeypatch.setattr(Watch, "finish", _fails)
        await ours.response(flow)
        assert flow.response
        assert (flow.response.status_code, flow.response.headers["content-type"]) == (502, "application/json")
        error = flow.response.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("upstream_error", None, "force_stream_error")
        (line,) = lines(caplog, logging.ERROR)
        assert line.startswith("force-stream: a fault of the addon, the client gets an error: RuntimeError.")
        assert SECRET not in line
        assert SECRET not in flow.response.text

    run(test)


def test_a_fault_in_the_request_hook_leaves_the_request(
    run: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        monkeypatch.setattr(flows, "force", _fails)
        flow = flow_with()
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before
        (line,) = lines(caplog, logging.ERROR)
        assert line.startswith("force-stream: a fault of the addon, the request went out as it came: RuntimeError.")
        assert SECRET not in line

    run(test)


# Without the part below the hooks


def test_a_mitmproxy_unknown_below_its_hooks_is_warned_of_and_answers_are_still_aggregated(
    run: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_layer, "check", lambda: "http has no HttpStream")

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        before = list(context.master.addons.chain)
        ours.running()
        try:
            (line,) = lines(caplog, logging.WARNING)
            assert "this mitmproxy is unknown below its hooks (http has no HttpStream)" in line
            assert context.master.addons.chain == before
            flow = flow_with()
            await ours.request(flow)
            answer_with(flow)
            await ours.response(flow)
            assert flow.response
            assert flow.response.json() == DOCUMENT
        finally:
            ours.done()

    run(test)


def test_the_part_below_the_hooks_comes_and_goes_with_the_addon(
    run: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        before = list(context.master.addons.chain)
        ours.running()
        assert [type(each) for each in context.master.addons.chain[len(before) :]] == [stream_layer.StreamLayerAddon]
        ours.done()
        assert context.master.addons.chain == before
        assert lines(caplog, logging.WARNING) == []

    run(test)


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in stream_layer._NEEDED.items() for name in names]
)
def test_what_is_missing_below_the_hooks_is_named(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    assert stream_layer.check() == ""
    monkeypatch.delattr(module, name)
    assert stream_layer.check() == f"{module.__name__} has no {name}"


# Commands


def test_the_commands_list_and_change_rules(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        call = context.master.commands.call_strings
        await ours.request(flow_with())
        listed = call("force_stream.rules", [])
        assert [line.partition(":")[0] for line in listed] == [rule.name for rule in ours.rules]
        assert listed[-1] == 'private-vllm: force on; hosts 127.0.0.1; models ["m"]; flows 1'
        caplog.clear()
        call("force_stream.set", ["private-vllm", "idle_timeout", "30"])
        assert ours.rules[-1].idle_timeout == 30
        assert lines(caplog, ALERT) == ["rule private-vllm: idle_timeout 540 -> 30"]
        call("force_stream.reload", [])
        assert ours.rules[-1].idle_timeout == 540

    run(test)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nobody", "timeout", "3"], "there is no rule 'nobody'; the rules are: not-forced, .*private-vllm"),
        (["private-vllm", "timeot", "3"], "unknown key 'timeot', did you mean 'timeout'"),
        (["private-vllm", "timeout", "soon"], "timeout: expected"),
        (["private-vllm", "filter", "~nonsense"], "filter: "),
        (["private-vllm", "name", "x"], "name"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_and_changes_nothing(
    run: Callable, arguments: list[str], match: str
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        before = ours.rules
        with pytest.raises(exceptions.CommandError, match=match):
            context.master.commands.call_strings("force_stream.set", arguments)
        assert ours.rules is before

    run(test)


def test_reload_of_a_broken_file_is_an_error_of_the_command(run: Callable, rules_file: Path) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        before = ours.rules
        rules_file.write_text("rules: 1")
        with pytest.raises(exceptions.CommandError, match="the rules in force stay"):
            context.master.commands.call_strings("force_stream.reload", [])
        assert ours.rules is before

    run(test)


# Facts of mitmproxy: when one of these fails, the code that builds on it needs another look.


@pytest.mark.parametrize("value", [b"\x00\xff", "ä", 1, 1.5, True, None, [1, [b"x"]], {"a": 1}])
def test_fact_metadata_of_plain_values_travels_in_flow_files(value: object) -> None:
    flow = tflow.tflow()
    flow.metadata["force_stream.x"] = value
    file = io.BytesIO()
    FlowWriter(file).add(flow)
    file.seek(0)
    (loaded,) = FlowReader(file).stream()
    assert loaded.metadata == {"force_stream.x": value}


def test_fact_metadata_of_other_values_makes_a_flow_unsaveable() -> None:
    flow = tflow.tflow()
    flow.metadata["force_stream.x"] = object()
    with pytest.raises((TypeError, ValueError)):
        FlowWriter(io.BytesIO()).add(flow)


def test_fact_scripts_run_before_what_shows_saves_and_layers() -> None:
    # So what is shown and saved is the rewritten answer, and a script cannot find the layers that `next_layer` makes.
    kinds = [type(each) for each in default_addons.default_addons()]
    assert kinds.index(script.ScriptLoader) < min(kinds.index(save.Save), kinds.index(next_layer.NextLayer))

    async def chain() -> list[type]:
        master = DumpMaster(options.Options(), with_termlog=False)
        return [type(each) for each in master.addons.chain]

    dump = asyncio.run(chain())
    assert dump.index(script.ScriptLoader) < dump.index(dumper.Dumper)


def test_fact_a_layer_makes_its_streams_in_one_place() -> None:
    # What `StreamLayerAddon` replaces, so that it makes its own streams.
    source = inspect.getsource(http_layers.HttpLayer.make_stream)
    assert [line.strip() for line in source.splitlines()[1:]] == [
        "ctx = self.context.fork()",
        "self.streams[stream_id] = HttpStream(ctx, stream_id)",
        "yield from self.event_to_child(self.streams[stream_id], events.Start())",
    ]


def test_fact_flows_are_told_apart_by_identity() -> None:
    # Else the weak dictionaries would mix up a flow and its copy.
    flow = tflow.tflow()
    twin = tflow.tflow()
    twin.set_state(flow.get_state())
    assert len({flow: 1, twin: 2}) == 2


def test_fact_a_script_is_known_by_the_name_of_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By which the addon knows that it is being loaded again, and not imported by a test.
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "told.py"
    path.write_text("NAME = __name__\n")
    loaded = script.load_script(str(path))
    assert loaded
    assert loaded.NAME.startswith("__mitmproxy_script__")


def test_fact_the_mark_is_one_that_the_flow_lists_can_show() -> None:
    assert flows.MARK in emoji.emoji


@pytest.mark.parametrize(("strategy", "status"), [("eager", None), ("lazy", 502)])
def test_fact_eager_connections_in_reverse_mode_leave_the_client_without_an_answer(
    proxy_factory: Callable[..., Proxy], strategy: str, status: int | None
) -> None:
    dead = f"reverse:http://127.0.0.1:{refused_port()}"
    proxy = proxy_factory(dead, options={"connection_strategy": strategy})
    with Http1Client(proxy.url) as client:
        assert client.get("/x").status == status


def test_fact_a_response_hook_decides_over_status_headers_and_body(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> None:
    replace = tmp_path / "replace.py"
    replace.write_text(
        "def response(flow):\n"
        "    flow.response.status_code = 418\n"
        "    flow.response.headers['content-type'] = 'text/x'\n"
        "    flow.response.raw_content = b'tea'\n"
        "    flow.response.headers['content-length'] = '3'\n"
    )
    upstream.answer(document("coffee"))
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[replace])
    with Http1Client(proxy.url) as client:
        response = client.get("/x")
    assert (response.status, response.header("content-type"), response.body) == (418, "text/x", b"tea")
