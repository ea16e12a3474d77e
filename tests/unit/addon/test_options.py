"""The options: their defaults, and what is said of those that clash."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from force_stream.addon import hooks as addon
from harness.paths import ADDON
from mitmproxy.test import taddons


def test_the_options_are_there_with_their_defaults() -> None:
    async def test() -> None:
        with taddons.context(addon.ForceStream(ADDON.with_name("rules.yaml"))) as context:
            assert context.options.force_stream is True
            assert context.options.force_stream_rules == str(ADDON.with_name("rules.yaml"))

    asyncio.run(test())


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
