import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from force_stream.addon import listeners
from mitmproxy import exceptions, hooks
from mitmproxy import flow as mitmflow
from mitmproxy.addonmanager import AddonManager
from mitmproxy.options import Options
from mitmproxy.proxy.layers.http import HttpRequestHook, HttpResponseHook
from mitmproxy.test import tflow
from mitmproxy.tools.dump import DumpMaster

type Test = Callable[[DumpMaster], Coroutine[Any, Any, None]]


@pytest.fixture(params=[True, False], ids=["ours", "mitmproxy's own"])
def in_master(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a test with a master, and with both managers: whatever holds of one holds of the other."""

    async def inside(test: Test) -> None:
        master = DumpMaster(Options(), with_termlog=False)
        if request.param:
            listeners.install()
        try:
            await test(master)
        finally:
            listeners.uninstall()
            assert type(master.addons) is AddonManager

    return lambda test: asyncio.run(inside(test))


def addon(name: str, told: list[str], *events: str, **more: Any) -> SimpleNamespace:
    """An addon that notes of which of its events it was told."""
    having = {event: lambda _, said=f"{name} {event}": told.append(said) for event in events}
    return SimpleNamespace(name=name, **having, **more)


def test_every_addon_is_told_of_its_events_in_the_order_of_the_chain(in_master: Callable[[Test], None]) -> None:
    async def test(master: DumpMaster) -> None:
        told: list[str] = []
        inner = addon("inner", told, "request", "update")
        master.addons.add(addon("first", told, "request"), addon("outer", told, "response", addons=[inner]))
        master.addons.add(addon("last", told, "request", "response"))
        flow = tflow.tflow()
        await master.addons.handle_lifecycle(HttpRequestHook(flow))
        await master.addons.handle_lifecycle(HttpResponseHook(flow))
        requests = ["first request", "inner request", "last request", "inner update"]
        assert told == [*requests, "outer response", "last response", "inner update"]

    in_master(test)


def test_an_addon_that_comes_or_goes_later_is_told_or_not(in_master: Callable[[Test], None]) -> None:
    async def test(master: DumpMaster) -> None:
        told: list[str] = []
        outer = addon("outer", told, addons=[])
        master.addons.add(outer)
        flow = tflow.tflow()
        await master.addons.trigger_event(HttpRequestHook(flow))
        late, inner = addon("late", told, "request"), addon("inner", told, "request")
        master.addons.add(late)
        outer.addons.append(master.addons.register(inner))  # as a script that is loaded again
        await master.addons.trigger_event(HttpRequestHook(flow))
        assert told == ["inner request", "late request"]
        master.addons.remove(late)
        outer.addons.clear()
        await master.addons.trigger_event(HttpRequestHook(flow))
        assert told == ["inner request", "late request"]

    in_master(test)


def test_an_addon_that_comes_while_others_are_told_is_told_too(in_master: Callable[[Test], None]) -> None:
    async def test(master: DumpMaster) -> None:
        told: list[str] = []
        late = addon("late", told, "request")
        master.addons.add(SimpleNamespace(name="early", request=lambda _: master.addons.add(late)))
        await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
        assert told == ["late request"]

    in_master(test)


def test_an_addon_that_gets_an_event_later_is_told_of_it(in_master: Callable[[Test], None]) -> None:
    async def test(master: DumpMaster) -> None:
        told: list[object] = []
        late = addon("late", [])
        master.addons.add(late)
        for _ in range(2):
            await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
            late.request = told.append
        assert len(told) == 1

    in_master(test)


def test_an_addon_of_mitmproxys_own_that_gets_an_event_later_is_told_of_it_within_a_second(
    in_master: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(master: DumpMaster) -> None:
        told: list[object] = []
        await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
        monkeypatch.setattr(master.addons.get("core"), "request", told.append, raising=False)
        monkeypatch.setattr(time, "monotonic", partial(float, time.monotonic() + 1))
        await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
        assert len(told) == 1

    in_master(test)


def test_an_addon_may_keep_an_event_from_the_others_and_one_that_fails_does_not(
    in_master: Callable[[Test], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(master: DumpMaster) -> None:
        told: list[str] = []

        def fail(_: mitmflow.Flow) -> None:
            raise RuntimeError("a bug")

        async def halt(_: mitmflow.Flow) -> None:
            raise exceptions.AddonHalt

        class Unwilling:
            is_added = False

            def __getattr__(self, name: str) -> Any:
                raise RuntimeError("a bug") if self.is_added else AttributeError(name)

        unwilling = Unwilling()
        master.addons.add(SimpleNamespace(name="failing", request=fail), unwilling, addon("heard", told, "request"))
        unwilling.is_added = True
        master.addons.add(SimpleNamespace(name="halting", request=halt), addon("unheard", told, "request", "update"))
        await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))
        assert told == ["heard request", "unheard update"]

    in_master(test)
    assert "Addon error: a bug" in caplog.text


def test_only_addons_with_the_event_are_asked() -> None:
    async def test() -> None:
        master = DumpMaster(Options(), with_termlog=False)
        listeners.install()
        with patch.object(AddonManager, "invoke_addon", autospec=True, side_effect=AddonManager.invoke_addon) as asked:
            await master.addons.trigger_event(hooks.UpdateHook([]))
        names = {type(call.args[1]).__name__ for call in asked.call_args_list}
        assert names == {"ScriptLoader"}
        listeners.uninstall()

    asyncio.run(test())


def test_a_manager_that_is_not_mitmproxys_own_is_left_alone() -> None:
    class Other(AddonManager):
        pass

    async def test() -> None:
        master = DumpMaster(Options(), with_termlog=False)
        master.addons.__class__ = Other
        listeners.install()
        assert type(master.addons) is Other
        listeners.uninstall()
        assert type(master.addons) is Other

    asyncio.run(test())


def test_a_manager_without_a_chain_is_left_alone_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        master = DumpMaster(Options(), with_termlog=False)
        with patch.object(AddonManager, "trigger_event", test_a_manager_that_is_not_mitmproxys_own_is_left_alone):
            listeners.install()
        assert type(master.addons) is AddonManager
        listeners.uninstall()

    asyncio.run(test())
    assert "mitmproxy's AddonManager has no chain" in caplog.text


@pytest.mark.parametrize("hears", [True, False])
def test_mitmproxys_event_for_lines_of_the_log_goes_to_addons_that_have_it_alone(hears: bool) -> None:
    async def test() -> None:
        master = DumpMaster(Options(), with_termlog=False)
        listeners.install()
        heard: list[str] = []
        events = {"add_log": lambda entry: heard.append(entry.msg)} if hears else {}
        master.addons.add(SimpleNamespace(name="outer", addons=[SimpleNamespace(name="a_script", **events)]))
        with patch.object(master.addons, "trigger", wraps=master.addons.trigger) as trigger:
            logging.getLogger("force_stream").warning("a line")
            await asyncio.sleep(0.01)
        assert trigger.called is hears
        assert sum(line.endswith("a line") for line in heard) == hears
        listeners.uninstall()

    asyncio.run(test())


def test_an_addon_whose_attributes_fail_does_not_fail_a_line_of_the_log() -> None:
    class Unwilling:
        is_added = False

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("a bug") if self.is_added else AttributeError(name)

    async def test() -> None:
        master = DumpMaster(Options(), with_termlog=False)
        listeners.install()
        unwilling = Unwilling()
        master.addons.add(unwilling)
        unwilling.is_added = True
        logging.getLogger("force_stream").warning("a line")
        unwilling.is_added = False
        await asyncio.sleep(0.01)
        listeners.uninstall()

    asyncio.run(test())
