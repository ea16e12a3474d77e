"""Has mitmproxy tell of an event only those addons that listen to it.

A flow has eight events: four hooks, and after each of them `update`. mitmproxy looks for each in each of its addons, of
which only a few have it; that takes half of the processor time of a short answer, and `update` is for its interfaces
alone. Knows mitmproxy's addon manager, and nothing of what the events are about.
"""

import logging
import time
from collections.abc import Coroutine, Iterator
from copy import copy
from typing import Any, ClassVar, Final

from mitmproxy import ctx, log
from mitmproxy.addonmanager import AddonManager, traverse
from mitmproxy.hooks import Hook

logger = logging.getLogger("force_stream")

# Seconds. Only a script that gives one of mitmproxy's own addons another event makes a difference to what is known.
_KNOWN_FOR: Final = 1.0


class _Listeners:
    """What mitmproxy walks in place of its chain: the addons that have an event, or may come to have it."""

    def __init__(self, chain: list[Any], event: str) -> None:
        self._chain, self._known_chain = chain, list(chain)
        self._known_until = time.monotonic() + _KNOWN_FOR
        self._listeners = [each for each in chain if _may_hear(each, event)]

    def __iter__(self) -> Iterator[Any]:
        yield from self._listeners
        # As mitmproxy does: one that is added while the others are told.
        yield from self._chain[len(self._known_chain) :]

    def are_those_of(self, chain: list[Any]) -> bool:
        return chain == self._known_chain and time.monotonic() < self._known_until


class ListenersOnly(AddonManager):
    """mitmproxy's own manager, which walks the listeners of an event only."""

    # A copy of the manager for each event, with its listeners for a chain.
    managers: ClassVar[dict[str, Any]] = {}

    def trigger_event(self, event: Hook) -> Coroutine[Any, Any, None]:
        return AddonManager.trigger_event(self.manager_for(event.name), event)

    def manager_for(self, event: str) -> Any:
        manager: Any = self.managers.get(event)
        if manager is None or not manager.chain.are_those_of(self.chain):
            manager = self.managers[event] = copy(self)
            manager.chain = _Listeners(self.chain, event)
        return manager


def _may_hear(addon: object, event: str) -> bool:
    """Whether an addon has an event, or others inside it may have it. A script may get one at any time."""
    if not type(addon).__module__.startswith("mitmproxy."):
        return True
    return hasattr(addon, event) or hasattr(addon, "addons")


def install() -> None:
    """From now on, until `uninstall`; unless something else has changed the manager."""
    if "chain" not in AddonManager.trigger_event.__code__.co_names:
        logger.warning("force-stream: mitmproxy's AddonManager has no chain; so each addon is asked for each event")
    elif type(ctx.master.addons) is AddonManager:
        ctx.master.addons.__class__ = ListenersOnly
    for handler in _announcers():
        handler.addFilter(_is_announced)


def uninstall() -> None:
    if type(ctx.master.addons) is ListenersOnly:
        ctx.master.addons.__class__ = AddonManager  # type: ignore[assignment]
        ListenersOnly.managers.clear()
    for handler in _announcers():
        handler.removeFilter(_is_announced)


def _announcers() -> list[logging.Handler]:
    """What tells scripts of each line of the log, by mitmproxy's deprecated event `add_log`; nothing if a version of
    mitmproxy has it no longer."""
    announcer: type[logging.Handler] | tuple[()] = getattr(log, "LegacyLogEvents", ())
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, announcer)]


def _is_announced(record: logging.LogRecord) -> bool:
    """Whether there may be an addon that wants to be told of a line of ours."""
    if record.name != logger.name or type(ctx.master.addons) is not ListenersOnly:
        return True
    try:
        return any(hasattr(addon, "add_log") for addon in traverse(ctx.master.addons.manager_for("add_log").chain))
    except Exception:
        return True  # a script's attributes may fail, and a line of the log must not
