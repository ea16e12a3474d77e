"""Has mitmproxy tell of an event only those addons that listen to it.

A flow has eight events: four hooks, and after each of them `update`. mitmproxy looks for each in each of its addons, of
which only a few have it; that takes half of the processor time of a short answer, and `update` is for its interfaces
alone. Knows mitmproxy's addon manager, and nothing of what the events are about.
"""

import logging
from collections.abc import Coroutine
from copy import copy
from typing import Any

from mitmproxy import ctx, log
from mitmproxy.addonmanager import AddonManager
from mitmproxy.hooks import Hook

logger = logging.getLogger("force_stream")


class ListenersOnly(AddonManager):
    """mitmproxy's own manager, which walks a chain without those addons that do not have the event just then."""

    def trigger_event(self, event: Hook) -> Coroutine[Any, Any, None]:
        manager: Any = copy(self)
        # One after the other, as mitmproxy does: an addon may be added while others are told.
        manager.chain = (each for each in self.chain if _may_have(each, event.name))
        return AddonManager.trigger_event(manager, event)


def _may_have(addon: object, event: str) -> bool:
    try:
        return hasattr(addon, event) or hasattr(addon, "addons")
    except Exception:
        return True  # mitmproxy knows what to do about it


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
    for handler in _announcers():
        handler.removeFilter(_is_announced)


def _announcers() -> list[logging.Handler]:
    """What tells scripts of each line of the log, by mitmproxy's deprecated event `add_log`; nothing if a version of
    mitmproxy has it no longer."""
    announcer: type[logging.Handler] | tuple[()] = getattr(log, "LegacyLogEvents", ())
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, announcer)]


def _is_announced(record: logging.LogRecord) -> bool:
    """Whether there may be an addon that wants to be told of a line of ours."""
    return record.name != logger.name or any(hasattr(addon, "add_log") for addon in ctx.master.addons.lookup.values())
