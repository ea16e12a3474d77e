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
            assert context.options.force_stream_view_first is False

    asyncio.run(test())


CLOSES = "closes the client's connection without an answer in"


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        (["reverse:https://x.test"], f"{CLOSES} reverse mode"),
        (["Reverse:http3://x.test"], None),
        (["reverse:quic://x.test@1"], None),
        (["reverse:http3.test"], f"{CLOSES} reverse mode"),
        (["regular@8080"], "refuses the tunnel of an https client in regular mode"),
        (["upstream:http://x.test"], None),
        (["socks5"], "refuses the client's connection in socks5 mode"),
        (["transparent"], f"{CLOSES} transparent mode"),
        (["local:curl"], f"{CLOSES} local mode"),
        (["wireguard"], f"{CLOSES} wireguard mode"),
        (["tun"], f"{CLOSES} tun mode"),
        (["dns"], None),
        (["regular", "dns", "local", "regular@1"], f"an https client in regular mode and {CLOSES} local mode"),
        (["no-such-mode"], None),
    ],
)
def test_modes_in_which_eager_connections_cost_the_answer_are_warned_of(
    run: Callable, caplog: pytest.LogCaptureFixture, modes: list[str], said: str | None
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.options.add_option("connection_strategy", str, "eager", "")
        context.options.update(mode=modes)
        caplog.clear()
        ours.configure({"mode"})
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * (said is not None)
        assert said is None or f"{said}, because" in caplog.text

    run(test)


@pytest.mark.parametrize("option", [{"connection_strategy": "lazy"}, {"server": False}])
def test_lazy_connections_and_a_mitmproxy_that_does_not_listen_are_not_warned_of(
    run: Callable, caplog: pytest.LogCaptureFixture, option: dict[str, str | bool]
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        for name, value in ({"connection_strategy": "eager"} | option).items():
            context.options.add_option(name, type(value), value, "")
        caplog.clear()
        ours.configure({"mode"})
        assert not caplog.records

    run(test)
