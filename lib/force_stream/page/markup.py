"""The page as HTML. Pure: figures in, a text out, in which every value is escaped."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pkgutil import get_data
from typing import Any, Final
from urllib.parse import quote

from ..view.stats import Outcome
from .plot import HEIGHT, WIDTH, ending

# How many flows the page itself shows.
SHOWN_FLOWS: Final = 50

_ON: Final = (
    '<p data-key="state" class="quiet">Plain requests that match a rule below are sent upstream as streams.</p>'
)
_OFF: Final = (
    '<p data-key="state"><span class="label odd">off</span> The option <code>force_stream</code> is false: every flow '
    "passes untouched.</p>"
)
_RULE: Final = """\
<tr data-key="{name}">
      <td><input type="checkbox" role="switch" id="rule-{number}" data-rule="{name}" aria-label="Force {name}" \
disabled{checked}></td>
      <td>{name}{inject}{learn}{filter}</td>
      <td><code>{hosts}</code></td><td>{endpoints}</td><td>{models}</td><td>{on_truncated}</td>
      <td class="number">{flows}</td>
    </tr>"""
_STATS: Final = """\
<tr data-key="{upstream} {model}"><td><code>{upstream}</code></td><td>{model}</td>{figures}</tr>"""
_FLOW: Final = """\
<li data-key="{id}">
    <p><span class="label {kind}">{status}</span>{injected} {clock} <strong>{model}</strong> {endpoint} at \
<code>{upstream}</code>, rule {rule}: {ending}</p>
    <p class="quiet">{events} events, {bytes} bytes, {seconds}; first event {first_event}, first content \
{first_content}, longest gap {longest_gap}</p>{odd}
    <img src="/flows/{place}.svg" width="{width}" height="{height}" loading="lazy" alt="When the events came: {ending}">
  </li>"""


class _Html(str):
    """HTML that is escaped already."""

    __slots__ = ()


def _fill(template: str, **values: object) -> _Html:
    """The template with these values, escaped unless they are HTML."""
    return _Html(
        template.format(
            **{key: value if isinstance(value, _Html) else escape(f"{value}") for key, value in values.items()}
        )
    )


def render(
    enabled: bool, rules: Sequence[Mapping[str, Any]], stats: Sequence[Mapping[str, Any]], flows: Sequence[Outcome]
) -> str:
    page = get_data(__package__, "page.html")
    assert page is not None
    return _fill(
        page.decode(),
        state=_Html(_ON if enabled else _OFF),
        rules=_join([_rule(number, rule) for number, rule in enumerate(rules, 1)])
        or _Html('<tr data-key=""><td colspan="7" class="quiet">There are no rules.</td></tr>'),
        stats=_join(map(_stats, stats))
        or _Html('<tr data-key=""><td colspan="10" class="quiet">Nothing yet.</td></tr>'),
        flows=_join(map(_flow, flows[:SHOWN_FLOWS]))
        or _Html(
            '<li data-key="" class="quiet">None yet. Each request that a rule forces is shown here with the times at '
            "which its events came.</li>"
        ),
    )


def _rule(number: int, rule: Mapping[str, Any]) -> _Html:
    fault = ' <span class="label fault">faults injected</span> <code>{inject}</code>'
    return _fill(
        _RULE,
        number=number,
        name=rule["name"],
        checked=" checked" if rule["force_upstream_stream"] else "",
        inject=_fill(fault, inject=json.dumps(rule["inject"])) if rule["inject"] else "",
        learn=_Html(' <span class="label odd">learns</span>' if rule["learn"] else ""),
        filter=_fill("<br><code>{filter}</code>", filter=rule["filter"]) if rule["filter"] else "",
        hosts=", ".join(rule["hosts"]),
        endpoints=", ".join(rule["endpoints"] or ["all"]),
        models=", ".join(rule["models"] or ["all"]),
        on_truncated=rule["on_truncated"],
        flows=_figure(rule["flows"]),
    )


_UNITS: Final = {
    **dict.fromkeys(("flows", "ok", "inferred", "truncated", "errors"), ""),
    "time_to_first_event": "s",
    "events_per_second": "",
    "longest_gap": "s",
}


def _stats(row: Mapping[str, Any]) -> _Html:
    cells = [_fill('<td class="number">{figure}</td>', figure=_figure(row[key], _UNITS[key])) for key in _UNITS]
    return _fill(_STATS, upstream=row["upstream"], model=row["model"], figures=_join(cells))


def _flow(flow: Outcome) -> _Html:
    odd = _Html("")
    if flow.odd:
        lines = _join(_fill("<p>{line}</p>", line=line) for line in flow.odd)
        odd = _fill("\n    <details><summary>{count} odd</summary>{lines}</details>", count=len(flow.odd), lines=lines)
    return _fill(
        _FLOW,
        id=flow.id,
        place=quote(flow.id, errors="replace"),
        kind="fault" if not flow.ok else "odd" if flow.inferred else "good",
        status=flow.status or "no answer",
        injected=_Html(' <span class="label fault">fault injected</span>' if flow.injected else ""),
        clock=time.strftime("%H:%M:%S", time.localtime(flow.at)),
        model=flow.model or "no model",
        endpoint=flow.endpoint,
        upstream=flow.upstream,
        rule=flow.rule,
        ending=ending(flow),
        events=_figure(flow.events),
        bytes=_figure(flow.bytes),
        **{key: _figure(getattr(flow, key), "s") for key in ("seconds", "first_event", "first_content", "longest_gap")},
        odd=odd,
        width=WIDTH,
        height=HEIGHT,
    )


def _join(parts: Iterable[_Html]) -> _Html:
    return _Html("\n".join(parts))


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    spelled = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
    return f"{spelled} {unit}".rstrip()
