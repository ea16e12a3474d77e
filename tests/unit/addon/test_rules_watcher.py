"""The rules in force, and how an edit of their file gets there."""

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from force_stream.addon import hooks as addon
from force_stream.addon import rules_watcher
from harness.samples import RULES
from mitmproxy.test import taddons


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


@pytest.mark.parametrize("serves", [True, False])
def test_that_nothing_is_forced_is_said_where_requests_go_out(
    run: Callable, rules_file: Path, caplog: pytest.LogCaptureFixture, serves: bool
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.options.add_option("server", bool, serves, "")
        rules_file.write_bytes(b"rules: []")
        ours.configure({"force_stream_rules"})
        assert ("no rule forces anything" in caplog.text) is serves

    run(test)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/tty")])
def test_what_takes_the_place_of_the_file_is_one_line_and_the_rules_stay(
    run: Callable,
    rules_file: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
) -> None:
    text = rules_file.read_text(encoding="utf-8")
    looks = iter(range(8))

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        before = ours.rules

        async def edit(_: float) -> None:
            look = next(looks)
            if look == 0:
                rules_file.unlink()
                make(rules_file)
            elif look == 4:
                (said,) = caplog.messages
                assert f"{rules_file}: the rules cannot be read: it is " in said
                assert said.endswith(", not a file. Set force_stream_rules to a file with rules.")
                assert ours.rules is before
                rules_file.rmdir() if rules_file.is_dir() else rules_file.unlink()
                rules_file.write_text(text.replace("private-vllm", "another-name"), encoding="utf-8")

        monkeypatch.setattr(asyncio, "sleep", edit)
        with pytest.raises(RuntimeError):  # StopIteration: all looks are made
            await ours.rules_watcher._run()
        assert "another-name" in {rule.name for rule in ours.rules}

    run(test)


def test_a_file_system_that_does_not_answer_holds_nobody_but_the_watcher(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()
    answered = []

    def wait(_: Path) -> None:
        asked.set()
        answered.append(answer.wait(10))
        raise EOFError

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        monkeypatch.setattr(rules_watcher, "INTERVAL", 0)
        monkeypatch.setattr(rules_watcher, "_signature", wait)
        watching = asyncio.create_task(ours.rules_watcher._run())
        await asyncio.to_thread(asked.wait, 10)
        answer.set()
        with pytest.raises(EOFError):
            await watching
        assert answered == [True], "the loop went on meanwhile"

    run(test)


def test_options_of_others_do_not_make_the_file_be_read_again(run: Callable, rules_file: Path) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        rules_file.unlink()
        before = ours.rules
        context.configure(ours, showhost=True, force_stream=False)
        assert ours.rules is before

    run(test)


def test_a_change_of_the_file_is_seen_within_two_seconds() -> None:
    # It is read at the second look that finds it the same, which takes no time to speak of.
    assert 2 * rules_watcher.INTERVAL <= 1.5


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
            await ours.rules_watcher._run()
        assert in_force[:-1] == [before] * (len(in_force) - 1)
        assert [rule.name for rule in in_force[-1]] == [
            rule.name.replace("private-vllm", "another-name") for rule in before
        ]

    run(test)
