"""What the page shows of the addon and may change in it. Must not know HTTP, or how anything is shown."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from ..rules.keys import KEYS
from ..rules.rule import Rule
from ..view.stats import Stats


class Addon(Protocol):
    """`in_flight`: the flows under way, as plain values. `change_rule` sets keys of a rule, all or none, to values in
    YAML, and returns what it logged; KeyError for an unknown rule, ValueError with a sentence for a bad key or
    value."""

    flow_counts: Counter[str]

    @property
    def stats(self) -> Stats: ...

    @property
    def rules(self) -> tuple[Rule, ...]: ...

    @property
    def healthy(self) -> bool: ...

    @property
    def enabled(self) -> bool: ...

    def in_flight(self) -> list[dict[str, Any]]: ...

    def change_rule(self, name: str, values: Mapping[str, str]) -> list[str]: ...


def rules_of(addon: Addon) -> list[dict[str, Any]]:
    """Every rule in force: its keys as plain JSON values, and `flows`, how many it has taken."""
    return [
        {key: dict(value) if isinstance(value := getattr(rule, key), Mapping) else value for key in KEYS}
        | {"flows": addon.flow_counts[rule.name]}
        for rule in addon.rules
    ]
