"""Web pages of other origins, such as those that applications consist of: which of them may read an upstream's answers.

Knows a rule's `cors`, and mitmproxy's requests and responses; must not know bodies, or how an answer is made. The words
are those of the Fetch standard's section 3.3, "CORS protocol".
"""

import json
import re
from collections.abc import Sequence
from typing import Final
from weakref import WeakKeyDictionary

from mitmproxy import http

from ..rules.rule import Rule
from .notes import ORIGIN, save_notes
from .request import hosts_of

# Origins that no web site can have: the meaning of `true`.
_APPS: Final = re.compile(
    r"(app|tauri|chrome-extension|moz-extension|safari-web-extension)://[!-.0-~]{1,80}|https?://tauri\.localhost"
)
# Seconds for which a browser need not ask again.
_MAX_AGE: Final = 600
# The pages whose requests are under way. A flow's note says the same, and outlives a reload; but a script may clear it.
_pages: Final[WeakKeyDictionary[http.HTTPFlow, str]] = WeakKeyDictionary()


def admit(flow: http.HTTPFlow, rules: Sequence[Rule]) -> None:
    """Answer the preflight of a page that a rule for this host covers. In its other requests, note its origin in place
    of sending it: an upstream may refuse it. One with cookies stays as it is: its user never meant them for the page,
    and without its origin the upstream could not refuse it."""
    headers = flow.request.headers
    origin = headers.get("origin")
    if origin is None or "cookie" in headers:
        return
    if not any(_covers(rule, origin) and rule.is_for_host(hosts_of(flow)) for rule in rules):
        return
    _pages[flow] = origin
    save_notes(flow, {"origin": origin})
    if is_preflight(flow.request):
        flow.response = _preflight(headers)
        flow.comment = "a preflight, answered for the upstream (cors)"
        share(flow, flow.response)
        return
    del headers["origin"]
    # It also reveals another origin, and some servers check it first (Go's http.CrossOriginProtection).
    headers.pop("sec-fetch-site", None)


def page_of(flow: http.HTTPFlow) -> str | None:
    """The origin of the page that sent a flow's request, if a rule covers it."""
    return _pages.get(flow) or ORIGIN.of(flow)


def is_preflight(request: http.Request) -> bool:
    """Whether a browser asks for permission to send a page's request."""
    names = ("origin", "access-control-request-method")
    return request.method == "OPTIONS" and all(name in request.headers for name in names)


def why_refused(flow: http.HTTPFlow, rules: Sequence[Rule]) -> str:
    """How to let in the page whose preflight the upstream of a rule has refused, in words; "" for any other."""
    origin, response, hosts = flow.request.headers["origin"], flow.response, hosts_of(flow)
    if response is None or not any(rule.is_for_host(hosts) for rule in rules):
        return ""
    with_what = ""
    if 200 <= response.status_code < 300 and response.headers.get("access-control-allow-origin") in ("*", origin):
        granted = _names(response.headers, "access-control-allow-headers")
        missing = _names(flow.request.headers, "access-control-request-headers") - granted
        if not missing or "*" in granted:
            return ""
        with_what = f" with headers such as {min(missing)}"
    value = "true" if _APPS.fullmatch(origin) else json.dumps([origin])
    return (
        f"the upstream does not accept requests from the page {origin}{with_what}; "
        f"cors: {value} in a rule for this host lets it in"
    )


def share(flow: http.HTTPFlow, response: http.Response) -> None:
    """Let the page that sent a flow's request, if a rule covers it, read a response: all of its headers, but nothing
    that its user's cookies would give it."""
    origin = page_of(flow)
    if origin is None:
        return
    headers = response.headers
    headers["access-control-allow-origin"] = origin
    headers["access-control-expose-headers"] = "*"
    headers.pop("access-control-allow-credentials", None)
    vary = headers.get("vary", "")
    if not {"*", "origin"} & {name.strip().lower() for name in vary.split(",")}:
        headers["vary"] = f"{vary}, Origin" if vary else "Origin"


def _names(headers: http.Headers, field: str) -> set[str]:
    """What a header lists, in lower case."""
    return {name for each in headers.get(field, "").lower().split(",") if (name := each.strip())}


def _covers(rule: Rule, origin: str) -> bool:
    if isinstance(rule.cors, tuple):
        return origin.lower() in map(str.lower, rule.cors)
    return rule.cors and _APPS.fullmatch(origin) is not None


def _preflight(asked: http.Headers) -> http.Response:
    allowed = {
        "access-control-allow-methods": asked["access-control-request-method"],
        "access-control-allow-headers": asked.get("access-control-request-headers"),
        # Chromium asks for it before requests to this machine or a private network.
        "access-control-allow-private-network": asked.get("access-control-request-private-network"),
        "access-control-max-age": f"{_MAX_AGE}",
    }
    response = http.Response.make(204)
    response.headers = http.Headers()
    for name, value in allowed.items():
        if value:
            response.headers[name] = value
    return response
