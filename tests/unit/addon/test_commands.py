"""The commands, in a test master. Those that look at flows: e2e/test_commands.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from force_stream.addon import hooks as addon
from harness.master import flow_with, lines
from mitmproxy import exceptions
from mitmproxy.log import ALERT
from mitmproxy.test import taddons


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
