"""The page that the proxy serves about itself, and its JSON API, which is the management interface.

    GET /            the page: rules with their switches, what upstreams did, the latest flows with a plot of each
    GET /rules       the rules in force, a list of objects
    PATCH /rules/NAME {"force_upstream_stream": true}    change keys of one rule until the rules file changes
    GET /stats       per upstream and model
    GET /flows       the latest flows, the newest first (?limit=N)
    GET /flows/ID    one of them, with the time at which each piece came
    GET /flows/ID.svg    the same as a picture
    GET /health      200 while rules are in force, else 503; no answer while the event loop is blocked

Knows HTTP and who may ask: a request in, a response out. Must not know mitmproxy or sockets.

Its adversaries are other pages in the same browser, and whatever an upstream sent. So the host's name is checked (a
foreign name that leads here is DNS rebinding), writes must come from this page or from no page at all, no other page
may read anything, no script runs but the page's own, and every value is escaped.
"""

import ipaddress
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pkgutil import get_data
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote

from ..rules.rule import Rule
from ..view.stats import Outcome, Stats
from ..wire import jsontext
from .markup import render
from .plot import plot

logger = logging.getLogger("force_stream")

# Bytes of a PATCH. A rule is a few hundred.
LARGEST_CHANGE: Final = 64 * 1024
_READING: Final = frozenset(("GET", "HEAD", "OPTIONS"))
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


class Addon(Protocol):
    """What there is to show and to change."""

    flow_counts: Counter[str]
    stats: Stats

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those in force."""

    @property
    def healthy(self) -> bool:
        """Whether rules are in force."""

    @property
    def enabled(self) -> bool:
        """Whether the master switch is on."""

    def change_rule(self, name: str, values: Mapping[str, str]) -> list[str]:
        """Change keys of one rule, all or none; `values` are YAML. Returns the lines that were logged. KeyError for an
        unknown rule, ValueError with a plain sentence for a bad key or value."""


@dataclass(frozen=True, slots=True)
class Site:
    """The page in one place. `hosts`: the values of the Host header under which it answers, in lower case; `remote`:
    whether it answers clients on other machines too."""

    addon: Addon
    hosts: frozenset[str]
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """`path` and `query` as they were sent; names of `headers` in lower case; `body` is None where it was too large to
    be read; `peer` is the client's IP address."""

    method: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes | None
    peer: str
    scheme: str = "http"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class _Failure(Exception):
    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


def respond(site: Site, request: Request) -> Response:
    try:
        _check(site, request)
        answer = _route(site, request)
    except _Failure as failure:
        answer = _explain(request, failure)
    except Exception as error:
        # Its message may quote what an upstream sent.
        logger.error(f"force-stream: a fault of the page: {type(error).__name__}. Details at debug level.")
        logger.debug("force-stream: the fault's traceback", exc_info=error)
        answer = _json({"error": "A fault of the page itself; the log has its kind."}, 500)
    headers = {
        **answer.headers,
        **_HEADERS,
        "Content-Security-Policy": _PAGE_POLICY if answer.type == _HTML else _POLICY,
        "Content-Type": answer.type,
        "Content-Length": f"{len(answer.body)}",
    }
    return Response(answer.status, headers, b"" if request.method == "HEAD" else answer.body)


def _explain(request: Request, failure: _Failure) -> _Answer:
    """An error as a plain sentence: for a program in JSON, for a person who came by browser as text."""
    accepted = request.headers.get("accept", "")
    if "text/html" in accepted and "application/json" not in accepted:
        said = f"{failure}\n".encode(errors="replace")
        return _Answer(said, "text/plain; charset=utf-8", failure.status, failure.headers)
    return _json({"error": f"{failure}"}, failure.status, failure.headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> _Answer:
    return _Answer(jsontext.dumps(value) + b"\n", status=status, headers=headers or {})


# Who may ask


def _check(site: Site, request: Request) -> None:
    if not site.remote and not _is_loopback(request.peer):
        raise _Failure(403, "This page answers only this machine, unless the option force_stream_page_remote is set.")
    # A health check often names no host, and its answer is no secret.
    host = request.host.lower()
    if host not in site.hosts and request.path != "/health":
        raise _Failure(421, "This page does not go by that name.")
    site_of_origin = request.headers.get("sec-fetch-site", "same-origin")
    if request.method in _READING:
        # A link to this page does no harm; anything else that another page does with it might.
        if site_of_origin not in ("same-origin", "none") and request.headers.get("sec-fetch-mode") != "navigate":
            raise _Failure(403, "Other pages may not read this one.")
        return
    origin = request.headers.get("origin")
    if site_of_origin != "same-origin" or (origin is not None and origin.lower() != f"{request.scheme}://{host}"):
        raise _Failure(403, "Other pages may not change anything here.")
    # The types that a form can send are sent to any site without asking it first (Fetch, section 2.2.2).
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Failure(415, "Send JSON, with Content-Type: application/json.")


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A listener for both families sees 127.0.0.1 as ::ffff:127.0.0.1.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


# What is asked and answered


def _route(site: Site, request: Request) -> _Answer:
    path = unquote(request.path)
    method = "GET" if request.method == "HEAD" else request.method
    # The first pattern that fits, so that a flow's picture is not taken for a flow.
    found = next(((route, match) for route in _ROUTES if (match := route[1].fullmatch(path))), None)
    if found is None:
        raise _Failure(404, "There is no such page. There are /, /rules, /stats, /flows and /health.")
    (allowed, _, answer), match = found
    methods = "GET, HEAD, OPTIONS" if allowed == "GET" else f"OPTIONS, {allowed}"
    if method == "OPTIONS":
        return _Answer(b"", "text/plain", headers={"Allow": methods})
    if method != allowed:
        raise _Failure(405, "Method not allowed.", Allow=methods)
    return answer(site, request, *match.groups())


def _show_page(site: Site, request: Request) -> _Answer:
    addon = site.addon
    text = render(addon.enabled, _rules(addon), addon.stats.rows(), addon.stats.latest())
    # A model may send half a surrogate pair, and for that there is no UTF-8.
    return _Answer(text.encode(errors="replace"), _HTML)


def _show_part(site: Site, request: Request, kind: str) -> _Answer:
    # By the package's own loader: the package need not be a folder.
    part = get_data(__package__, f"page.{kind}")
    assert part is not None
    return _Answer(part, {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}[kind])


def _list_rules(site: Site, request: Request) -> _Answer:
    return _json(_rules(site.addon))


def _change_rule(site: Site, request: Request, name: str) -> _Answer:
    changes = _changes(request)
    try:
        lines = site.addon.change_rule(name, {key: jsontext.dumps(value).decode() for key, value in changes.items()})
    except KeyError:
        raise _Failure(404, f"There is no rule {name!r}.") from None
    except RecursionError:
        raise _Failure(400, "nested too deeply for a rule") from None
    except ValueError as mistake:
        raise _Failure(400, f"{mistake}") from None
    return _json({"changed": lines, "rule": next((rule for rule in _rules(site.addon) if rule["name"] == name), None)})


def _show_stats(site: Site, request: Request) -> _Answer:
    return _json(site.addon.stats.rows())


def _list_flows(site: Site, request: Request) -> _Answer:
    limit = parse_qs(request.query, keep_blank_values=True).get("limit", ["200"])[0]
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6):
        raise _Failure(400, "The limit is a whole number of flows.")
    flows = [outcome.as_dict() for outcome in site.addon.stats.latest()[: int(limit)]]
    # Without the arrivals, which are nearly all of it.
    return _json([{key: value for key, value in flow.items() if key != "arrivals"} for flow in flows])


def _show_flow(site: Site, request: Request, id: str) -> _Answer:
    return _json(_outcome(site, id).as_dict())


def _show_plot(site: Site, request: Request, id: str) -> _Answer:
    return _Answer(plot(_outcome(site, id)).encode(), "image/svg+xml; charset=utf-8")


def _show_health(site: Site, request: Request) -> _Answer:
    healthy = site.addon.healthy
    return _json({"ok": healthy, "enabled": site.addon.enabled}, 200 if healthy else 503)


_ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., _Answer]], ...]] = (
    ("GET", re.compile("/"), _show_page),
    ("GET", re.compile("/page[.](css|js)"), _show_part),
    ("GET", re.compile("/rules"), _list_rules),
    ("PATCH", re.compile("/rules/([^/]+)"), _change_rule),
    ("GET", re.compile("/stats"), _show_stats),
    ("GET", re.compile("/flows"), _list_flows),
    ("GET", re.compile("/flows/([^/]+)[.]svg"), _show_plot),
    ("GET", re.compile("/flows/([^/]+)"), _show_flow),
    ("GET", re.compile("/health"), _show_health),
)


def _rules(addon: Addon) -> list[dict[str, Any]]:
    """Every rule in force: its keys as plain JSON values, and `flows`, how many it has taken."""
    return [
        {key.name: _plain(getattr(rule, key.name)) for key in fields(rule) if key.init}
        | {"flows": addon.flow_counts[rule.name]}
        for rule in addon.rules
    ]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _changes(request: Request) -> dict[str, Any]:
    """The body of a PATCH."""
    if request.body is None or len(request.body) > LARGEST_CHANGE:
        raise _Failure(413, f"The body is larger than {LARGEST_CHANGE:,} bytes.")
    try:
        changes = jsontext.loads(request.body.decode())
    except ValueError:
        raise _Failure(400, "The body is not JSON.") from None
    if not isinstance(changes, dict) or not changes:
        example = '{"force_upstream_stream": true}'
        raise _Failure(400, f"The body must be an object with the keys to change, such as {example}.")
    return changes


def _outcome(site: Site, id: str) -> Outcome:
    found = next((outcome for outcome in site.addon.stats.latest() if outcome.id == id), None)
    if found is None:
        raise _Failure(404, "There is no such flow, or it is too long ago.")
    return found
