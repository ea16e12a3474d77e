"""The page that the proxy serves about itself, and its JSON API, which is the management interface (docs/page.md).

Knows HTTP and who may ask: a request in, a response out. Must not know mitmproxy or sockets.

Its adversaries are other pages in the same browser, and whatever an upstream sent. So the host's name is checked (a
foreign name that leads here is DNS rebinding), writes must come from this page or from no page at all, no other page
may read anything, no script runs but the page's own, and every value is escaped.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from pkgutil import get_data
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from ..proxy import aside
from ..view import opened
from ..view.opened import Opened
from ..view.stats import Outcome
from ..wire import jsontext
from . import feed, markup, metrics
from .choice import Choice
from .feed import Feed
from .plot import plot
from .shown import Addon, rules_of

logger = logging.getLogger("force_stream")

# Bytes of a PATCH. A rule is a few hundred.
LARGEST_CHANGE: Final = 64 * 1024
PORTS: Final = {"http": 80, "https": 443}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE_POLICY: Final = f"{_POLICY}; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
_HTML: Final = "text/html; charset=utf-8"
# How many flows a list has, unless it is asked for more.
_FLOWS: Final = 200
# What can be saved of a flow, by the end of its name: its type, and what makes it.
_SAVED: Final[Mapping[str, tuple[str, Callable[[Any], bytes | None]]]] = {
    "json": ("application/json", opened.saved_document),
    "sse": ("text/event-stream", opened.saved_stream),
    "curl": ("text/plain; charset=utf-8", opened.curl),
}


class Request(NamedTuple):
    """`target` as it was sent; names of `headers` in lower case; `body` is None where it was too large to be read;
    `is_local` says whether the client is on this machine."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    is_local: bool
    scheme: str = "http"

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The parameters; of several with one name, the first."""
        try:
            pairs = parse_qsl(self.target.partition("?")[2], keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise _Failure(400, "The address has too many parameters.") from None
        return dict(reversed(pairs))


class Response(NamedTuple):
    """`news`: for an answer that stays open, returns its next bytes each time it is called; whoever cannot send them
    ends it."""

    body: bytes
    type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = {}
    news: Callable[[], bytes] | None = None


class _Failure(Exception):
    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


async def respond(addon: Addon, request: Request, hosts: Collection[str], *, remote: bool = False) -> Response:
    """`hosts`: those under which the page is served here, as `canonical` has them; `remote`: clients on other machines
    are answered too."""
    try:
        _check(request, hosts, remote)
        answer = await _route(addon, request)
    except _Failure as failure:
        answer = _json({"error": f"{failure}"}, failure.status, failure.headers)
        accepted = request.headers.get("accept", "")
        if "text/html" in accepted and "application/json" not in accepted:  # a person with a browser
            answer = answer._replace(body=f"{failure}\n".encode(errors="replace"), type="text/plain; charset=utf-8")
    except Exception as error:
        log_fault(error)
        answer = _json({"error": "Internal error; the log says which kind."}, 500)
    headers = {
        **answer.headers,
        **_HEADERS,
        "Content-Security-Policy": _PAGE_POLICY if answer.type == _HTML else _POLICY,
        "Content-Type": answer.type,
        "Content-Length": f"{len(answer.body)}",
    }
    if request.method == "HEAD":
        return answer._replace(headers=headers, body=b"", news=None)
    return answer._replace(headers=headers)


def log_fault(error: Exception) -> None:
    # Its message may quote what an upstream sent.
    logger.error(f"force-stream: a bug in the page: {type(error).__name__}. Details at debug level.")
    logger.debug("force-stream: the bug's traceback", exc_info=error)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(jsontext.dumps(value) + b"\n", status=status, headers=headers)


def _check(request: Request, hosts: Collection[str], remote: bool) -> None:
    if not remote and not request.is_local:
        raise _Failure(403, "This page answers only this machine, unless the option force_stream_page_remote is set.")
    # A health check often names no host, and its answer is not a secret.
    host = request.headers.get("host", "")
    if canonical(host, request.scheme) not in hosts and request.path != "/health":
        raise _Failure(421, "This page is not served under that name.")
    sent_from = request.headers.get("sec-fetch-site", "same-origin")
    if request.method in ("GET", "HEAD", "OPTIONS"):
        # A link to this page does no harm; anything else that another page does with it might.
        if sent_from not in ("same-origin", "none") and request.headers.get("sec-fetch-mode") != "navigate":
            raise _Failure(403, "Other pages may not read this one.")
        return
    origin = request.headers.get("origin")
    if sent_from != "same-origin" or (origin is not None and origin.lower() != f"{request.scheme}://{host}".lower()):
        raise _Failure(403, "Other pages may not change anything here.")
    # The types that a form can send are sent to any site without asking it first (Fetch, section 2.2.2).
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Failure(415, "Send JSON, with Content-Type: application/json.")


def canonical(host: str, scheme: str = "http") -> str:
    """A host in lower case, without a dot at its end and without the scheme's own port."""
    return host.strip().lower().removesuffix(f":{PORTS.get(scheme)}").removesuffix(".")


def _show_page(addon: Addon, request: Request) -> Response:
    return _html(markup.render(addon, Choice.of(request.query), feed.place_of(addon)))


def _show_more(addon: Addon, request: Request) -> Response:
    query = request.query
    return _html(markup.portion(addon.stats, Choice.of(query), query.get("after", "")))


def _html(text: str) -> Response:
    # A model may send a lone surrogate, which UTF-8 cannot encode.
    return Response(text.encode(errors="replace"), _HTML)


def _show_news(addon: Addon, request: Request) -> Response:
    query = request.query
    reader = Feed(addon, Choice.of(query), request.headers.get("last-event-id") or query.get("after", ""))
    return Response(reader.first(), feed.TYPE, news=reader.news)


def _show_part(addon: Addon, request: Request, kind: str) -> Response:
    types = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    # By the package's own loader: the package need not be a folder.
    return Response(get_data(__package__, f"page.{kind}") or b"", types[kind])


def _change_rule(addon: Addon, request: Request, name: str) -> Response:
    if request.body is None or len(request.body) > LARGEST_CHANGE:
        raise _Failure(413, f"The body is larger than {LARGEST_CHANGE:,} bytes.")
    try:
        changes = jsontext.loads(request.body.decode())
    except ValueError:
        raise _Failure(400, "The body is not JSON.") from None
    if not isinstance(changes, dict) or not changes:
        example = '{"force_upstream_stream": true}'
        raise _Failure(400, f"The body must be an object with the keys to change, such as {example}.")
    try:
        lines = addon.change_rule(name, {key: jsontext.dumps(value).decode() for key, value in changes.items()})
    except KeyError:
        raise _Failure(404, f"There is no rule {name!r}.") from None
    except RecursionError:
        raise _Failure(400, "nested too deeply for a rule") from None
    except ValueError as mistake:
        raise _Failure(400, f"{mistake}") from None
    return _json({"changed": lines, "rule": next((rule for rule in rules_of(addon) if rule["name"] == name), None)})


async def _show_stats(addon: Addon, request: Request) -> Response:
    stats = addon.stats
    return await aside.run(lambda: _json(stats.rows()))


async def _show_metrics(addon: Addon, request: Request) -> Response:
    rows, under_way = addon.stats.first_rows(), len(addon.in_flight())
    text = await aside.run(partial(metrics.render, rows, under_way))
    return Response(text.encode(errors="replace"), metrics.TYPE)


async def _list_flows(addon: Addon, request: Request) -> Response:
    query = request.query
    limit, choice = query.get("limit", f"{_FLOWS}"), Choice.of(query)
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6):
        raise _Failure(400, "The limit must be a whole number.")
    flows = [flow for flow in addon.in_flight() if choice.takes_in_flight(flow)]
    ended = [outcome for outcome in addon.stats.latest() if choice.takes(outcome)]
    rows = [*flows, *(outcome.figures for outcome in ended)][: int(limit)]
    return _json(rows) if len(rows) <= _FLOWS else await aside.run(partial(_json, rows))


async def _show_flow(addon: Addon, request: Request, id: str, _: str | None, kind: str | None) -> Response:
    outcome = addon.stats.find(id)
    if outcome is None:
        under_way = next((flow for flow in addon.in_flight() if flow["id"] == id), None)
        if under_way is not None and kind is None:
            return _json(under_way)
        raise _Failure(404, "There is no such flow, or it is no longer kept.")
    if kind == "svg":
        return Response(plot(outcome).encode(), "image/svg+xml; charset=utf-8")
    why_not = _why_closed(outcome, request)
    if kind is not None and kind in _SAVED:
        if why_not:
            raise _Failure(403 if not request.is_local else 404, why_not)
        return await aside.run(partial(_saved, outcome, kind))
    return await aside.run(
        partial(_opened, addon.rules, outcome, why_not, as_html=kind == "html", enabled=addon.enabled)
    )


def _why_closed(outcome: Outcome, request: Request) -> str:
    """Why the content of a flow is not shown; "" if it is."""
    if not request.is_local:
        return "What was said is shown on the proxy's own machine only."
    return "" if outcome.flow() is not None else "The flow itself is no longer in memory: only its figures are."


def _opened(rules: Any, outcome: Outcome, why_not: str, *, as_html: bool, enabled: bool) -> Response:
    flow = None if why_not else outcome.flow()
    inside = None if flow is None else opened.look(flow, rules, enabled=enabled, whole=not as_html)
    if as_html:
        return _html(markup.opened(outcome, inside, why_not))
    shown = {**outcome.figures, "arrivals": list(outcome.arrivals)}
    return _json(shown | ({"closed": why_not} if inside is None else _plain(inside)))


def _plain(inside: Opened) -> dict[str, Any]:
    return {
        "said": [each._asdict() for each, _ in inside.said],
        "timeline": [each._asdict() for each in (*inside.first, *inside.last)],
        "explained": inside.explained,
    }


def _saved(outcome: Outcome, kind: str) -> Response:
    """Something of a flow as a file."""
    content_type, content = _SAVED[kind]
    body = content(outcome.flow())
    if body is None:
        raise _Failure(404, "The client got events, not a document." if kind == "json" else "There are no events.")
    name = re.sub(r"[^\w-]", "", outcome.id, flags=re.ASCII)[:64] or "flow"
    return Response(body, content_type, headers={"Content-Disposition": f'attachment; filename="{name}.{kind}"'})


def _show_health(addon: Addon, request: Request) -> Response:
    return _json({"ok": addon.healthy, "enabled": addon.enabled}, 200 if addon.healthy else 503)


_ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Response | Awaitable[Response]]], ...]] = (
    ("GET", re.compile("/"), _show_page),
    ("GET", re.compile("/page[.](css|js)"), _show_part),
    ("GET", re.compile("/rules"), lambda addon, _: _json(rules_of(addon))),
    ("PATCH", re.compile("/rules/([^/]+)"), _change_rule),
    ("GET", re.compile("/stats"), _show_stats),
    ("GET", re.compile("/metrics"), _show_metrics),
    ("GET", re.compile("/flows"), _list_flows),
    ("GET", re.compile("/flows[.]html"), _show_more),
    ("GET", re.compile("/flows/([^/]+?)([.](svg|html|json|sse|curl))?"), _show_flow),
    ("GET", re.compile("/events"), _show_news),
    ("GET", re.compile("/health"), _show_health),
)


async def _route(addon: Addon, request: Request) -> Response:
    for method, pattern, answer in _ROUTES:
        match = pattern.fullmatch(unquote(request.path))
        if match is None:
            continue
        allowed = "GET, HEAD, OPTIONS" if method == "GET" else f"OPTIONS, {method}"
        if request.method == "OPTIONS":
            return Response(b"", "text/plain", headers={"Allow": allowed})
        if request.method not in allowed.split(", "):
            raise _Failure(405, "Method not allowed.", Allow=allowed)
        made = answer(addon, request, *match.groups())
        return made if isinstance(made, Response) else await made
    raise _Failure(404, "There is no such page. There are /, /rules, /stats, /metrics, /flows, /events and /health.")
