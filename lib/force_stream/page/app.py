"""The page that the proxy serves about itself, and its JSON API, which is the management interface (docs/page.md).

Knows HTTP and who may ask: a request in, a response out. Must not know mitmproxy or sockets.

Its adversaries are other pages in the same browser, and whatever an upstream sent. So the host's name is checked (a
foreign name that leads here is DNS rebinding), writes must come from this page or from no page at all, no other page
may read anything, no script runs but the page's own, and every value is escaped.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pkgutil import get_data
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote

from ..rules.keys import KEYS
from ..rules.rule import Rule
from ..view.stats import Stats
from ..wire import jsontext
from .markup import render
from .plot import plot

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


class Addon(Protocol):
    """What there is to show and to change. `change_rule` sets keys of a rule, all or none, to values in YAML, and
    returns what it logged; KeyError for an unknown rule, ValueError with a sentence for a bad key or value."""

    flow_counts: Counter[str]
    stats: Stats

    @property
    def rules(self) -> tuple[Rule, ...]: ...

    @property
    def healthy(self) -> bool: ...

    @property
    def enabled(self) -> bool: ...

    def change_rule(self, name: str, values: Mapping[str, str]) -> list[str]: ...


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


class Response(NamedTuple):
    body: bytes
    type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = {}


class _Failure(Exception):
    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


def respond(addon: Addon, request: Request, hosts: Collection[str], *, remote: bool = False) -> Response:
    """`hosts`: those under which the page is served here, as `canonical` has them; `remote`: clients on other machines
    are answered too."""
    try:
        _check(request, hosts, remote)
        answer = _route(addon, request)
    except _Failure as failure:
        answer = _json({"error": f"{failure}"}, failure.status, failure.headers)
        accepted = request.headers.get("accept", "")
        if "text/html" in accepted and "application/json" not in accepted:  # a person with a browser
            answer = answer._replace(body=f"{failure}\n".encode(errors="replace"), type="text/plain; charset=utf-8")
    except Exception as error:
        # Its message may quote what an upstream sent.
        logger.error(f"force-stream: a fault of the page: {type(error).__name__}. Details at debug level.")
        logger.debug("force-stream: the fault's traceback", exc_info=error)
        answer = _json({"error": "Internal error; the log says which kind."}, 500)
    headers = {
        **answer.headers,
        **_HEADERS,
        "Content-Security-Policy": _PAGE_POLICY if answer.type == _HTML else _POLICY,
        "Content-Type": answer.type,
        "Content-Length": f"{len(answer.body)}",
    }
    return answer._replace(headers=headers, body=b"" if request.method == "HEAD" else answer.body)


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
    text = render(addon.enabled, _rules(addon), addon.stats.rows(), addon.stats.latest())
    # A model may send half a surrogate pair, and for that there is no UTF-8.
    return Response(text.encode(errors="replace"), _HTML)


def _show_part(addon: Addon, request: Request, kind: str) -> Response:
    types = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    # By the package's own loader: the package need not be a folder.
    return Response(get_data(__package__, f"page.{kind}") or b"", types[kind])


def _rules(addon: Addon) -> list[dict[str, Any]]:
    """Every rule in force: its keys as plain JSON values, and `flows`, how many it has taken."""
    return [
        {key: dict(value) if isinstance(value := getattr(rule, key), Mapping) else value for key in KEYS}
        | {"flows": addon.flow_counts[rule.name]}
        for rule in addon.rules
    ]


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
    return _json({"changed": lines, "rule": next((rule for rule in _rules(addon) if rule["name"] == name), None)})


def _list_flows(addon: Addon, request: Request) -> Response:
    query = request.target.partition("?")[2]
    limit = parse_qs(query, keep_blank_values=True).get("limit", ["200"])[0]
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6):
        raise _Failure(400, "The limit must be a whole number.")
    return _json([outcome.figures for outcome in addon.stats.latest()[: int(limit)]])


def _show_flow(addon: Addon, request: Request, id: str, as_picture: str | None) -> Response:
    outcome = next((outcome for outcome in addon.stats.latest() if outcome.id == id), None)
    if outcome is None:
        raise _Failure(404, "There is no such flow, or it is no longer kept.")
    if as_picture:
        return Response(plot(outcome).encode(), "image/svg+xml; charset=utf-8")
    return _json({**outcome.figures, "arrivals": outcome.arrivals})


def _show_health(addon: Addon, request: Request) -> Response:
    return _json({"ok": addon.healthy, "enabled": addon.enabled}, 200 if addon.healthy else 503)


_ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Response]], ...]] = (
    ("GET", re.compile("/"), _show_page),
    ("GET", re.compile("/page[.](css|js)"), _show_part),
    ("GET", re.compile("/rules"), lambda addon, _: _json(_rules(addon))),
    ("PATCH", re.compile("/rules/([^/]+)"), _change_rule),
    ("GET", re.compile("/stats"), lambda addon, _: _json(addon.stats.rows())),
    ("GET", re.compile("/flows"), _list_flows),
    ("GET", re.compile("/flows/([^/]+?)([.]svg)?"), _show_flow),
    ("GET", re.compile("/health"), _show_health),
)


def _route(addon: Addon, request: Request) -> Response:
    for method, pattern, answer in _ROUTES:
        match = pattern.fullmatch(unquote(request.path))
        if match is None:
            continue
        allowed = "GET, HEAD, OPTIONS" if method == "GET" else f"OPTIONS, {method}"
        if request.method == "OPTIONS":
            return Response(b"", "text/plain", headers={"Allow": allowed})
        if request.method not in allowed.split(", "):
            raise _Failure(405, "Method not allowed.", Allow=allowed)
        return answer(addon, request, *match.groups())
    raise _Failure(404, "There is no such page. There are /, /rules, /stats, /flows and /health.")
