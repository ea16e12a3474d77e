"""The page that the proxy serves about itself, and its JSON API, which is the management interface.

    GET /            the page: rules with their switches, what upstreams did, the latest flows with a plot of each
    GET /rules       the rules in force, a list of objects
    PATCH /rules/NAME {"force_upstream_stream": true}    change keys of one rule until the rules file changes
    GET /stats       per upstream and model
    GET /flows       the latest flows, the newest first (?limit=N)
    GET /flows/ID    one of them, with the time at which each piece came
    GET /flows/ID.svg    the same as a picture
    GET /health      200 while rules are in force and requests are worked on, else 503

Knows HTTP, HTML and who may ask. Must not know mitmproxy or rules: what there is to show, a `Board` has.

Its adversaries are other pages in the same browser, and whatever an upstream sent. So the host's name is checked (a
foreign name that leads here is DNS rebinding), writes must come from this page or from no page at all, no other page
may read anything, no script runs but the page's own, and every value is escaped.
"""

import ipaddress
import logging
import time
from collections.abc import Collection, Mapping
from pkgutil import get_data
from typing import Any, Final, Protocol

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from ..view.stats import Outcome
from ..wire import jsontext
from .plot import HEIGHT, WIDTH, ending, plot

logger = logging.getLogger("force_stream")

# Bytes of a PATCH. A rule is a few hundred.
LARGEST_CHANGE: Final = 64 * 1024
# How many flows the page itself shows.
SHOWN_FLOWS: Final = 50
_PARTS: Final = {"page.css": "text/css", "page.js": "text/javascript"}
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


class Board(Protocol):
    """What there is to show and to change. Its methods are called from threads of the page's own."""

    def rules(self) -> list[dict[str, Any]]:
        """Every rule in force: its keys as plain JSON values, and `flows`, how many it has taken."""

    def change(self, name: str, changes: Mapping[str, object]) -> list[str]:
        """Change keys of one rule, all or none; returns the lines that were logged. KeyError for an unknown rule,
        ValueError with a plain sentence for a bad key or value."""

    def stats(self) -> list[dict[str, Any]]:
        """A row for each upstream and model, as `Stats.rows` gives them."""

    def flows(self) -> list[Outcome]:
        """The latest flows, the newest first."""

    def healthy(self) -> bool:
        """Whether rules are in force, and requests are worked on."""

    def enabled(self) -> bool:
        """Whether the master switch is on."""


def _part(name: str) -> bytes:
    # By the package's own loader: the package need not be a folder.
    part = get_data(__package__, name)
    assert part is not None
    return part


def create_app(board: Board, hosts: Collection[str], *, remote: bool = False) -> Flask:
    """The page as a WSGI application. `hosts`: the values of the Host header under which it answers, in lower case;
    `remote`: whether it answers clients on other machines too."""
    app = Flask(__name__, static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_CHANGE
    page = app.jinja_env.from_string(_part("page.html").decode())
    app.before_request(lambda: _check(frozenset(hosts), remote))
    app.after_request(_harden)
    app.register_error_handler(HTTPException, _explain)
    app.register_error_handler(Exception, _confess)

    @app.get("/")
    def show_page() -> Response:
        text = page.render(
            enabled=board.enabled(),
            rules=board.rules(),
            stats=board.stats(),
            flows=board.flows()[:SHOWN_FLOWS],
            ending=ending,
            clock=_clock,
            figure=_figure,
            width=WIDTH,
            height=HEIGHT,
        )
        # A model may send half a surrogate pair, and for that there is no UTF-8.
        return Response(text.encode(errors="replace"), mimetype="text/html")

    @app.get("/page.<kind>")
    def show_part(kind: str) -> Response:
        name = f"page.{kind}"
        if name not in _PARTS:
            abort(404)
        return Response(_part(name), mimetype=_PARTS[name])

    @app.get("/rules")
    def list_rules() -> Response:
        return _json(board.rules())

    @app.patch("/rules/<name>")
    def change_rule(name: str) -> Response:
        changes = _changes()
        try:
            lines = board.change(name, changes)
        except KeyError:
            abort(404, f"There is no rule {name!r}.")
        except ValueError as mistake:
            abort(400, f"{mistake}")
        return _json({"changed": lines, "rule": next((rule for rule in board.rules() if rule["name"] == name), None)})

    @app.get("/stats")
    def show_stats() -> Response:
        return _json(board.stats())

    @app.get("/flows")
    def list_flows() -> Response:
        limit = request.args.get("limit", "200")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 6):
            abort(400, "The limit is a whole number of flows.")
        # Without the arrivals, which are nearly all of it.
        return _json([_without_arrivals(outcome.as_dict()) for outcome in board.flows()[: int(limit)]])

    @app.get("/flows/<id>")
    def show_flow(id: str) -> Response:
        return _json(_outcome(board, id).as_dict())

    @app.get("/flows/<id>.svg")
    def show_plot(id: str) -> Response:
        return Response(plot(_outcome(board, id)), mimetype="image/svg+xml")

    @app.get("/health")
    def show_health() -> Response:
        healthy = board.healthy()
        return _json({"ok": healthy, "enabled": board.enabled()}, 200 if healthy else 503)

    return app


# Who may ask


def _check(hosts: frozenset[str], remote: bool) -> None:
    if not remote and not _is_loopback(request.remote_addr):
        abort(403, "This page answers only this machine, unless the option force_stream_page_remote is set.")
    # A health check often names no host, and its answer is no secret.
    host = request.headers.get("Host", "").lower()
    if host not in hosts and request.path != "/health":
        abort(421, "This page does not go by that name.")
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if request.method in _READING:
        # A link to this page is no harm; anything else that another page does with it is.
        if site not in ("same-origin", "none") and request.headers.get("Sec-Fetch-Mode") != "navigate":
            abort(403, "Other pages may not read this one.")
        return
    origin = request.headers.get("Origin")
    if site != "same-origin" or (origin is not None and origin.lower() != f"{request.scheme}://{host}"):
        abort(403, "Other pages may not change anything here.")
    # The types that a form can send are sent to any site without asking it first (Fetch, section 2.2.2).
    if request.mimetype != "application/json":
        abort(415, "Send JSON, with Content-Type: application/json.")


def _is_loopback(address: str | None) -> bool:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    # A listener for both families sees 127.0.0.1 as ::ffff:127.0.0.1.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _harden(response: Response) -> Response:
    response.headers.update(_HEADERS)
    response.headers["Content-Security-Policy"] = _PAGE_POLICY if response.mimetype == "text/html" else _POLICY
    return response


# What is asked and answered


def _changes() -> dict[str, Any]:
    """The body of a PATCH."""
    try:
        changes = jsontext.loads(request.get_data().decode())
    except ValueError:
        abort(400, "The body is not JSON.")
    if not isinstance(changes, dict) or not changes:
        abort(400, 'The body must be an object with the keys to change, such as {"force_upstream_stream": true}.')
    return changes


def _outcome(board: Board, id: str) -> Outcome:
    found = next((outcome for outcome in board.flows() if outcome.id == id), None)
    if found is None:
        abort(404, "There is no such flow, or it is too long ago.")
    return found


def _without_arrivals(flow: dict[str, Any]) -> dict[str, Any]:
    del flow["arrivals"]
    return flow


def _json(value: Any, status: int = 200) -> Response:
    return Response(jsontext.dumps(value) + b"\n", status, mimetype="application/json")


def _explain(error: HTTPException) -> Response:
    """An error as a plain sentence: for a program in JSON, for a person who came by browser as text."""
    words = error.description or error.name
    said = _SENTENCES.get(error.code or 500, words) if words == type(error).description else words
    response = _json({"error": said}, error.code or 500)
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        response = Response(f"{said}\n", error.code, mimetype="text/plain")
    if error.code == 405 and (allowed := getattr(error, "valid_methods", None)):
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


_SENTENCES: Final = {
    404: "There is no such page. There are /, /rules, /stats, /flows and /health.",
    405: "That cannot be done with this page.",
    413: f"The body is larger than {LARGEST_CHANGE:,} bytes.",
}


def _confess(error: Exception) -> Response:
    # Its message may quote what an upstream sent.
    logger.error(f"force-stream: a fault of the page: {type(error).__name__}. Details at debug level.")
    logger.debug("force-stream: the fault's traceback", exc_info=error)
    return _json({"error": "A fault of the page itself; the log has its kind."}, 500)


# Words for the page


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    spelled = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
    return f"{spelled} {unit}".rstrip()
