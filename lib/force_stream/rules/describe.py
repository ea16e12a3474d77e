"""Rules in words, one line each, with values as the file spells them. For logs and for `force_stream.rules`."""

from collections.abc import Iterator, Sequence

from .keys import DEFAULTS, KEYS
from .rule import Rule


def changes(old: Sequence[Rule], new: Sequence[Rule]) -> list[str]:
    """What changed when the rules were read again: one line per rule."""
    before = {rule.name: rule for rule in old}
    after = {rule.name: rule for rule in new}
    lines = [f"rule {name} removed" for name in before if name not in after]
    for name, rule in after.items():
        if name not in before:
            lines.append(f"rule {name} added")
        elif rule != before[name]:
            differing = (f"{key} {was} -> {now}" for key, was, now in _differing(before[name], rule))
            lines.append(f"rule {name}: {'; '.join(differing)}")
    # The first match decides, so the order matters, but only among rules that are in both.
    kept = [name for name in after if name in before]
    if kept != [name for name in before if name in after]:
        lines.append(f"order of the rules changed: {', '.join(after)}")
    return lines


def describe(rule: Rule) -> str:
    """The rule in one line: its name, whether it forces, its hosts, and every key that is not at its default."""
    shown = ("name", "hosts", "force_upstream_stream", "force_upstream_plain")
    rest = [f"{key} {value}" for key, _, value in _differing(DEFAULTS, rule) if key not in shown]
    force = f"force {'on' if rule.force_upstream_stream else 'plain' if rule.force_upstream_plain else 'off'}"
    return "; ".join([f"{rule.name}: {force}", f"hosts {', '.join(rule.hosts)}", *rest])


def in_words(rule: Rule) -> Iterator[str]:
    """What the keys do whose values do not speak for themselves, one line each."""
    if rule.keep_answers is not None and (rule.forces or rule.learn):
        limit = "an hour at most" if rule.timeout is None else f"within {rule.timeout:g} s"
        yield (
            f"when an application gives up, its answer is read to its end ({limit}) and kept for "
            f"{rule.keep_answers:g} s, for the very same request"
        )
    elif rule.keep_answers is not None:
        yield "keep_answers does nothing here: the rule does not force anything"
    if rule.guard_streams:
        beats = "" if rule.heartbeat is None else f", and heartbeats after {rule.heartbeat:g} s of silence"
        yield f"a stream that an application asks for itself gets an error event where it has no end{beats}"
    if rule.cors:
        pages = ", ".join(rule.cors) if isinstance(rule.cors, tuple) else "applications and browser extensions"
        yield f"web pages may read what comes from these hosts, at every path: {pages}"


def _differing(old: Rule, new: Rule) -> Iterator[tuple[str, str, str]]:
    for name, key in KEYS.items():
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield name, key.spell(was), key.spell(now)
