"""The page as HTML. Pure: figures in, text out, every value escaped. The templates are in page.html."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from itertools import islice
from pkgutil import get_data
from typing import Any, Final
from urllib.parse import quote

from ..view.joined import Said
from ..view.opened import Opened
from ..view.stats import LONG_GAP, Outcome, Stats, cells, count, duration, rate
from ..view.timeline import Entry
from ..wire.text import counted, printable
from .choice import Choice
from .plot import describe, ending, plot
from .shown import Addon, rules_of

# How many flows the page shows at once, at first and each time that more are wanted; how many in flight; and how many
# upstreams and models.
PORTION: Final = 50
MOST_IN_FLIGHT: Final = 50
MOST_STATS: Final = 50
_LONGEST_LINE: Final = 400
_PARTS: Final = re.compile(r"^<!-- ([a-z ]+) -->\n(.*?)\n*(?=^<!--|\Z)", re.MULTILINE | re.DOTALL)
_TEMPLATES: Final = dict(_PARTS.findall((get_data(__package__, "page.html") or b"").decode()))
# What a text must not contain on the page: control characters other than blanks, and what reorders the text around it.
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLUMNS: Final = ("Flows", "OK", "Inferred", "Cut off", "Errors", "Events/s", "First byte", "Longest gap", "Duration")
_KINDS: Final = {"text": "Text", "reasoning": "Reasoning", "refusal": "Refusal", "call": "Tool call"}
_EXPORTS: Final = {"json": "the document", "sse": "the events", "curl": "the request, for curl"}


class _Html(str):
    """HTML that is escaped already."""


def _fill(template: str, **values: object) -> _Html:
    """The template of this name with these values, escaped unless they are HTML."""
    escaped = {key: value if isinstance(value, _Html) else escape(f"{value}") for key, value in values.items()}
    return _Html(_TEMPLATES[template].format(**escaped))


def _join(parts: Iterable[_Html], otherwise: str = "") -> _Html:
    return _Html("\n".join(parts)) or (_fill(otherwise) if otherwise else _Html())


def render(addon: Addon, choice: Choice, place: str) -> str:
    """The whole page. `place`: up to where its reader then knows all."""
    chosen = {"failed": " checked" * choice.failed, "odd": " checked" * choice.odd}
    typed = {name: getattr(choice, name) for name in ("upstream", "model", "text")}
    flows = portion(addon.stats, choice)
    return _fill("page", place=place, flows=flows, **chosen, **typed, **parts(addon, choice))


def parts(addon: Addon, choice: Choice) -> dict[str, _Html]:
    """The small parts of the page, by name."""
    shown = addon.stats.rows(MOST_STATS)
    rest = addon.stats.row_count - len(shown)
    stats = [*map(_stats, shown), *([_fill("more stats", count=count(rest))] if rest else [])]
    return {
        "state": _fill("on" if addon.enabled else "off"),
        "rules": _join([_rule(number, rule) for number, rule in enumerate(rules_of(addon), 1)], "no rules"),
        "stats": _join(stats, "no stats"),
        "flight": _flight([flow for flow in addon.in_flight() if choice.takes_in_flight(flow)]),
    }


def _rule(number: int, rule: Mapping[str, Any]) -> _Html:
    spelled = {
        "number": number,
        "checked": " checked" if rule["force_upstream_stream"] else "",
        "inject": _fill("inject", faults=json.dumps(rule["inject"])) if rule["inject"] else "",
        "learn": _fill("learn") if rule["learn"] else "",
        "filter": _fill("filter", filter=rule["filter"]) if rule["filter"] else "",
        "hosts": ", ".join(rule["hosts"]),
        "endpoints": ", ".join(rule["endpoints"] or ["all"]),
        "models": ", ".join(rule["models"] or ["all"]),
        "flows": count(rule["flows"]),
    }
    return _fill("rule", **{**rule, **spelled})


def _stats(row: Mapping[str, Any]) -> _Html:
    figures = [*cells(row)[:5], rate(row["events_per_second"])]
    figures += [_percentiles(row[name]) for name in ("first_event", "gap", "duration")]
    named = (_fill("figure", name=name, figure=figure) for name, figure in zip(_COLUMNS, figures, strict=True))
    return _fill("stats", upstream=row["upstream"], model=row["model"], figures=_join(named))


def _percentiles(found: Mapping[str, float | None]) -> str:
    """Three times in one cell; one where they are the same."""
    spelled = [*map(duration, found.values())]
    return spelled[0] if len(set(spelled)) == 1 else " · ".join(spelled)


def _flight(flows: Sequence[Mapping[str, Any]]) -> _Html:
    rest = len(flows) - MOST_IN_FLIGHT
    more = [_fill("more flying", count=count(rest))] if rest > 0 else []
    return _join([*map(_flying, flows[:MOST_IN_FLIGHT]), *more])


def _flying(flow: Mapping[str, Any]) -> _Html:
    silent = duration(flow["silent_for"])
    times = {"running for": flow["seconds"], "first byte": flow["first_event"]}
    known = [f"{name} {duration(seconds)}" for name, seconds in times.items() if seconds is not None]
    spelled = {
        "came": counted(flow["bytes"], "byte") if flow["events"] is None else counted(flow["events"], "event"),
        "silent": f"last byte {silent} ago" if flow["first_event"] is not None else f"silent for {silent}",
        "clock": _clock(flow["at"]),
        "model": flow["model"] or "no model",
        "figures": ", ".join([counted(flow["bytes"], "byte"), *known]),
    }
    return _fill("flying", **{**flow, **spelled})


# Flows that have ended


def portion(stats: Stats, choice: Choice, after: str = "") -> _Html:
    """The rows of the next flows, the newest first, and the button for more. `after`: the id of the last one before."""
    latest = stats.latest()
    start = next((place for place, flow in enumerate(latest, 1) if flow.id == after), 0) if after else 0
    found = list(islice(filter(choice.takes, islice(latest, start, None)), PORTION + 1))
    if not found:
        empty = _fill("none chosen", count=count(len(latest))) if latest else _fill("no flows")
        return _Html() if after else empty
    more = [_fill("more", after=found[PORTION - 1].id)] if len(found) > PORTION else []
    return _join([rows(stats, found[:PORTION]), *more])


def rows(stats: Stats, flows: Iterable[Outcome]) -> _Html:
    others = Counter(flow.retry_of for flow in stats.latest())
    return _join(_flow(flow, _tries(flow, others)) for flow in flows)


def _tries(flow: Outcome, others: Mapping[str, int]) -> str:
    """Which try a flow is, where its request was sent more than once. `others`: of each flow, how many others."""
    if flow.retry_of:
        return f" (try {flow.number})"
    return f" (try 1 of {others[flow.id] + 1})" if flow.id in others else ""


@lru_cache(2 * PORTION)
def _flow(flow: Outcome, tries: str) -> _Html:
    spelled = {
        "place": quote(flow.id, safe="", errors="replace"),
        "kind": _kind(flow),
        "status": flow.status or "no answer",
        "injected": _fill("injected") if flow.injected else "",
        "clock": _clock(flow.at),
        "model": flow.model or "no model",
        "cause": _cause(flow),
        "tries": tries,
        "figures": describe(flow),
        "odd": f"; {_oddities(flow)}" if flow.odd else "",
    }
    return _fill("flow", **{**flow.figures, **spelled})


def _kind(flow: Outcome) -> str:
    return "fault" if not flow.ok else "odd" if flow.is_odd else "good"


def _cause(flow: Outcome) -> str:
    """Why the answer is not simply whole, or else how it ended."""
    return printable(flow.cause, _LONGEST_LINE) or ending(flow)


def _oddities(flow: Outcome) -> str:
    return "1 oddity" if len(flow.odd) == 1 else f"{len(flow.odd)} oddities"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


# One flow


def opened(flow: Outcome, inside: Opened | None, why_not: str = "") -> str:
    """Everything about one flow. `why_not`: why its content is not shown."""
    facts = {
        "Status": flow.status or "no answer",
        "Model": flow.model or "no model",
        "Upstream": flow.upstream,
        "Endpoint": flow.endpoint,
        "Rule": flow.rule,
        "Came": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(flow.at)),
        "Finish reason": flow.finish_reason and flow.finish_reason + " (inferred)" * flow.inferred,
        "Error": flow.code,
        "Figures": describe(flow),
        "Rate": flow.event_rate and f"{rate(flow.event_rate)} events/s",
        **{f"Upstream's {name}": value for name, value in flow.head},
        "Flow": flow.id,
    }
    lines = _join(_fill("line", line=line) for line in flow.odd)
    return _fill(
        "opened",
        kind=_kind(flow),
        cause=_cause(flow),
        facts=_join(_fill("fact", name=name, value=_shown(f"{value}")) for name, value in facts.items() if value),
        plot=_Html(plot(flow)),
        odd=_fill("odd", count=_oddities(flow), lines=lines) if flow.odd else "",
        inside=_fill("gone", why=why_not) if inside is None else _inside(flow, inside),
    )


def _inside(flow: Outcome, inside: Opened) -> _Html:
    place = quote(flow.id, safe="", errors="replace")
    kinds = [*inside.can_save, "curl"]
    return _fill(
        "inside",
        said=_join(_said(*each) for each in inside.said),
        timeline=_timeline(inside) if inside.about else "",
        explained=_join(_fill("line", line=line) for line in inside.explained),
        exports=_join(_fill("export", place=place, kind=kind, name=_EXPORTS[kind]) for kind in kinds),
    )


def _said(said: Said, size: int) -> _Html:
    rest = size - len(said.text)
    name = said.name if said.choice is None else f"{said.name} (choice {said.choice + 1})".strip()
    more = _fill("rest", count=count(rest)) if rest > 0 else ""
    return _fill("said", kind=_KINDS.get(said.kind, said.kind), name=printable(name), text=_shown(said.text), rest=more)


def _timeline(inside: Opened) -> _Html:
    left_out = [_fill("left out", count=counted(inside.left_out, "line"))] if inside.left_out else []
    rest = inside.size - len(inside.raw)
    raw = _shown(inside.raw.decode(errors="replace")) + (f"\n… {count(rest)} bytes more" if rest > 0 else "")
    entries = _join([*map(_entry, inside.first), *left_out, *map(_entry, inside.last)])
    if not entries:
        return _fill("sent", about=inside.about, raw=raw)
    return _fill("timeline", about=inside.about, entries=entries, raw=raw)


def _entry(entry: Entry) -> _Html:
    return _fill(
        "entry",
        silent=_Html(' class="silent"') if entry.gap is not None and entry.gap >= LONG_GAP else "",
        number=_number(entry),
        at="" if entry.at is None else duration(entry.at),
        gap="" if entry.gap is None else f"+{duration(entry.gap)}",
        type=printable(entry.type),
        added=printable(entry.added, _LONGEST_LINE),
    )


def _number(entry: Entry) -> str:
    """Which event an entry is, or which ones."""
    if entry.number is None:
        return f"{entry.times:,} times" if entry.times > 1 else ""
    return f"{entry.number:,}" + (f" to {entry.number + entry.times - 1:,}" if entry.times > 1 else "")


def _shown(text: str) -> str:
    """A text of several lines as it may stand on the page; the page keeps its direction from the text around it."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))
