"""What the page shows and changes, out of the running addon.

Knows rules and figures, and in which thread what may happen: the addon lives in its event loop, the page in threads of
its own. Must not know HTTP or mitmproxy.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, Protocol

from ..rules.rule import Rule
from ..view.stats import Outcome, Stats
from ..wire import jsontext

# Seconds that a change may take, which is to say that the event loop may be held by others.
_PATIENCE: Final = 10.0
# Seconds after which an instance whose event loop does not turn is not well: it answers nobody.
_HELD: Final = 5.0


class Addon(Protocol):
    """What the board needs of the addon."""

    rules: tuple[Rule, ...]
    flow_counts: Counter[str]
    stats: Stats

    @property
    def healthy(self) -> bool:
        """Whether rules are in force."""

    def change_rule(self, name: str, changes: Mapping[str, str]) -> list[str]:
        """Change keys of one rule, values as YAML; returns the lines that were logged. KeyError, RulesError."""


class LiveBoard:
    """The `Board` of a running addon."""

    def __init__(self, addon: Addon, loop: asyncio.AbstractEventLoop, enabled: Callable[[], bool]) -> None:
        self._addon = addon
        self._loop = loop
        self._enabled = enabled

    # Reading takes a copy of what is there, in one step of the interpreter, so it needs no lock.

    def rules(self) -> list[dict[str, Any]]:
        return [_as_dict(rule) | {"flows": self._addon.flow_counts[rule.name]} for rule in self._addon.rules]

    def stats(self) -> list[dict[str, Any]]:
        return self._addon.stats.rows()

    def flows(self) -> list[Outcome]:
        return self._addon.stats.latest()

    def healthy(self) -> bool:
        async def healthy() -> bool:
            return self._addon.healthy

        try:
            return asyncio.run_coroutine_threadsafe(healthy(), self._loop).result(_HELD)
        except TimeoutError:
            return False

    def enabled(self) -> bool:
        return self._enabled()

    def change(self, name: str, changes: Mapping[str, object]) -> list[str]:
        try:
            texts = {key: jsontext.dumps(value).decode() for key, value in changes.items()}
        except RecursionError:
            raise ValueError("nested too deep for a rule") from None

        async def change() -> list[str]:
            return self._addon.change_rule(name, texts)

        return asyncio.run_coroutine_threadsafe(change(), self._loop).result(_PATIENCE)


def _as_dict(rule: Rule) -> dict[str, Any]:
    """The rule's keys, as plain values."""
    values = {key.name: getattr(rule, key.name) for key in fields(rule) if key.init}
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
