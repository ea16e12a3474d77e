"""Rules in words: one line each, with values as the file spells them. For logs and for `force_stream.rules`."""

from collections.abc import Iterator, Sequence
from typing import Any

from .keys import KEYS
from .rule import Rule


def changes(old: Sequence[Rule], new: Sequence[Rule]) -> list[str]:
    """What changed when the rules were read again: one line per rule, values as the file spells them."""
    before = {rule.name: rule for rule in old}
    after = {rule.name: rule for rule in new}
    lines = [f"rule {name} removed" for name in before if name not in after]
    for name, rule in after.items():
        if name not in before:
            lines.append(f"rule {name} added")
        elif rule != before[name]:
            lines.append(f"rule {name}: {_difference(before[name], rule)}")
    # The first match decides, so the order matters, but only among rules that are in both.
    kept = [name for name in after if name in before]
    if kept != [name for name in before if name in after]:
        lines.append(f"order of the rules changed: {', '.join(after)}")
    return lines


def describe(rule: Rule) -> str:
    """The rule in one line: its name, whether it forces, its hosts, and every key that is not at its default."""
    shown = ("name", "hosts", "force_upstream_stream")
    rest = [f"{key} {_spelled(key, value)}" for key, value in _changed(Rule("", ()), rule) if key not in shown]
    force = "on" if rule.force_upstream_stream else "off"
    return "; ".join([f"{rule.name}: force {force}", f"hosts {', '.join(rule.hosts)}", *rest])


def _difference(old: Rule, new: Rule) -> str:
    return "; ".join(
        f"{key} {_spelled(key, getattr(old, key))} -> {_spelled(key, value)}" for key, value in _changed(old, new)
    )


def _changed(old: Rule, new: Rule) -> Iterator[tuple[str, Any]]:
    for key in KEYS:
        if getattr(old, key) != getattr(new, key):
            yield key, getattr(new, key)


def _spelled(key: str, value: object) -> str:
    return KEYS[key].spell(value)
