"""The commands, in a test master. Those that look at flows: e2e/test_commands.py."""

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from force_stream.addon import hooks as addon
from force_stream.proxy import bodies
from harness.master import answer_with, flow_with, lines, logged
from harness.samples import DOCUMENT, STREAM, request
from mitmproxy import exceptions, http
from mitmproxy.log import ALERT
from mitmproxy.test import taddons


def test_the_commands_list_and_change_rules(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        call = context.master.commands.call_strings
        await ours.request(flow_with())
        listed = call("force_stream.rules", [])
        assert [line.partition(":")[0] for line in listed] == [rule.name for rule in ours.rules]
        assert listed[-1] == 'private-vllm: force on; hosts 127.0.0.1; models ["m"]; 1 flow'
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
        with pytest.raises(exceptions.CommandError, match="the previous rules stay in force"):
            context.master.commands.call_strings("force_stream.reload", [])
        assert ours.rules is before

    run(test)


@pytest.fixture
def decoded_on_loop(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each compressed body that was decoded: whether on the event loop."""
    found: list[bool] = []
    decode = bodies.encodings.decode

    def noted(data: bytes, coding: str, limit: int) -> bytes:
        if coding:
            found.append(threading.current_thread() is threading.main_thread())
        return decode(data, coding, limit)

    monkeypatch.setattr(bodies.encodings, "decode", noted)
    return found


def compressed() -> http.HTTPFlow:
    """A flow of a file, whose request and event stream are compressed."""
    flow = flow_with(gzip.compress(json.dumps(request()).encode()))
    answer_with(flow, gzip.compress(STREAM))
    flow.live = False
    assert flow.response is not None
    flow.request.headers["content-encoding"] = flow.response.headers["content-encoding"] = "gzip"
    return flow


# A command with its arguments after the flows, and what the log says in the end.
OFF_LOOP: dict[str, tuple[list[str], str]] = {
    "aggregate": ([], "finish stop"),
    "explain": ([], "its request would be forced now"),
    "sse": (["out.sse"], "bytes written to out.sse"),
}


@pytest.mark.parametrize("name", OFF_LOOP)
def test_what_a_command_has_to_decode_is_decoded_off_the_loop_and_the_log_says_what_came_of_it(
    run: Callable,
    caplog: pytest.LogCaptureFixture,
    decoded_on_loop: list[bool],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, words = OFF_LOOP[name]

    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        flow = compressed()
        context.master.commands.call(f"force_stream.{name}", [flow], *arguments)
        assert not lines(caplog, ALERT), "it has just begun"
        await logged(caplog, words)
        assert decoded_on_loop
        assert not any(decoded_on_loop)
        if name == "sse":
            assert Path("out.sse").read_bytes() == STREAM
        if name == "aggregate":
            assert flow.response is not None
            assert json.loads(flow.response.raw_content or b"") == DOCUMENT

    run(test)


def test_a_command_that_fails_later_says_so_in_the_log(
    run: Callable, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        target = tmp_path / "missing" / "out.sse"
        context.master.commands.call("force_stream.sse", [compressed()], str(target))
        await logged(caplog, f"{target}: ")

    run(test)


def test_a_command_for_small_flows_is_done_at_once(run: Callable) -> None:
    async def test(_: addon.ForceStream, context: taddons.context) -> None:
        flow: Any = flow_with()
        answer_with(flow)
        flow.live = False
        context.master.commands.call("force_stream.aggregate", [flow])
        assert flow.response.json() == DOCUMENT

    run(test)
