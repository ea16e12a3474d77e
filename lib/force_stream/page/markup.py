"""The page as HTML. Pure: figures in, text out, every value escaped. The templates are in page.html."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from pkgutil import get_data
from typing import Any, Final
from urllib.parse import quote

from ..view.stats import Outcome, cells, count
from .plot import HEIGHT, WIDTH, describe, ending

# How many flows the page itself shows.
SHOWN_FLOWS: Final = 50
_PARTS: Final = re.compile(r"^<!-- ([a-z ]+) -->\n(.*?)\n*(?=^<!--|\Z)", re.MULTILINE | re.DOTALL)
_TEMPLATES: Final = dict(_PARTS.findall((get_data(__package__, "page.html") or b"").decode()))


class _Html(str):
    """HTML that is escaped already."""


def _fill(template: str, **values: object) -> _Html:
    """The template of this name with these values, escaped unless they are HTML."""
    escaped = {key: value if isinstance(value, _Html) else escape(f"{value}") for key, value in values.items()}
    return _Html(_TEMPLATES[template].format(**escaped))


def _join(parts: Iterable[_Html], otherwise: str = "") -> _Html:
    return _Html("\n".join(parts)) or (_fill(otherwise) if otherwise else _Html())


def render(
    enabled: bool, rules: Sequence[Mapping[str, Any]], stats: Sequence[Mapping[str, Any]], flows: Sequence[Outcome]
) -> str:
    others = Counter(flow.retry_of for flow in flows)
    return _fill(
        "page",
        state=_fill("on" if enabled else "off"),
        rules=_join([_rule(number, rule) for number, rule in enumerate(rules, 1)], "no rules"),
        stats=_join(map(_stats, stats), "no stats"),
        flows=_join([_flow(flow, _tries(flow, others)) for flow in flows[:SHOWN_FLOWS]], "no flows"),
    )


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
    return _fill("stats", **{**row, "figures": _join(_fill("figure", figure=figure) for figure in cells(row))})


def _tries(flow: Outcome, others: Mapping[str, int]) -> str:
    """Which try a flow is, where its request was sent more than once. `others`: of each flow, how many others."""
    if flow.retry_of:
        return f" (try {flow.number})"
    return f" (try 1 of {others[flow.id] + 1})" if flow.id in others else ""


@lru_cache(SHOWN_FLOWS)
def _flow(flow: Outcome, tries: str) -> _Html:
    lines = _join(_fill("line", line=line) for line in flow.odd)
    oddities = "1 oddity" if len(flow.odd) == 1 else f"{len(flow.odd)} oddities"
    spelled = {
        "place": quote(flow.id, errors="replace"),
        "kind": "fault" if not flow.ok else "odd" if flow.inferred else "good",
        "status": flow.status or "no answer",
        "injected": _fill("injected") if flow.injected else "",
        "clock": time.strftime("%H:%M:%S", time.localtime(flow.at)),
        "model": flow.model or "no model",
        "ending": ending(flow),
        "tries": tries,
        "figures": describe(flow),
        "odd": _fill("odd", count=oddities, lines=lines) if flow.odd else "",
        "width": WIDTH,
        "height": HEIGHT,
    }
    return _fill("flow", **{**flow.figures, **spelled})
