"""Why an answer is not simply whole, in one line: what happened, where, after what.

The line comes first wherever a person looks: log, comment, page, view, report, command line. Knows how failures and
transports are worded; must not know flows, or how an answer is read. Text that others chose is shortened in it, and
made printable.
"""

import re
from collections.abc import Sequence
from html import unescape
from typing import Any, Final

from ..errors import ERROR_TYPE, MALFORMED, IncompleteStream, MalformedStream, StreamError, StreamTimeout, UpstreamError
from ..errors.events import error_in
from ..errors.words import is_readable, words_in
from ..wire import jsontext
from ..wire.text import counted, printable
from .oddities import in_brief
from .report import Report

# Seconds. A shorter silence before the end explains nothing.
SILENCE: Final = 1.0
# Characters of a code, and of a retry-after header.
_LONGEST_CODE: Final = 60
_LONGEST_REASON: Final = 1000
# Characters of a page that are looked at.
_LONGEST_PAGE: Final = 2048
# Bytes. A larger body is not parsed: it is not an error message.
_LARGEST_ERROR: Final = 64 * 1024
# Why a stream is cut off if the transport did not break.
NO_END: Final = "the upstream ended it"
_STATUSES: Final = {
    400: "the upstream rejected the request",
    401: "the upstream rejected the credentials",
    403: "the upstream refused access",
    404: "the upstream does not know this path or model",
    408: "the upstream timed out",
    413: "the request is too large for the upstream",
    429: "rate limited by the upstream",
    503: "the upstream is unavailable",
    504: "the upstream timed out",
    529: "the upstream is overloaded",
}
# What mitmproxy says of a request that names this proxy as its upstream (addons/proxyserver.py).
NOWHERE: Final = "Request destination unknown"
_TO_ITSELF: Final = "the request was for this proxy itself, without --mode reverse"
# How transports report why they ended, and plain words for it. The first that matches counts.
_PLAINLY: Final[Sequence[tuple[re.Pattern[str], str]]] = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), plain)
    for pattern, plain in (
        (rf".*{NOWHERE}.*", _TO_ITSELF),
        (r".*\(received (\d+) bytes, expected (\d+)\).*", r"connection closed after \1 of \2 bytes"),
        (r".*peer closed connection.*|.*server closed connection.*", "connection closed"),
        (r".*stream reset by client \((.*)\).*", r"stream reset (\1)"),
        (r".*unexpected server response: .*", "connection closed within the head of the response"),
        (r"connection killed: (.*)", r"\1"),
        (r".*(?:errno 111\b|errno 61\b|winerror 1225\b|winerror 10061\b|connection refused).*", "connection refused"),
        (r".*(?:errno 104\b|errno 54\b|winerror 10054\b|connection reset).*", "connection reset"),
        (r".*(?:errno 110\b|errno 60\b|winerror 10060\b|winerror 121\b).*", "the connection attempt timed out"),
        (r".*(?:errno 113\b|errno 101\b|errno 65\b|errno 51\b|unreachable).*", "the network or host is unreachable"),
        (
            r".*(?:name or service not known|getaddrinfo failed|nodename nor servname|name resolution|no address assoc"
            r"|errno -[235]\b|errno 11001\b).*",
            "its name could not be resolved",
        ),
        (r".*certificate verify failed:? ?(.*)", r"its certificate could not be verified: \1"),
        (
            r".*(?:not speak TLS|wrong version number|record layer failure|packet length too long).*",
            "it does not speak TLS on that port",
        ),
        (r"http/[123](?:\.\d)? protocol error: (.*)", r"\1"),
    )
]
TO_REVERSE: Final = (
    "The application uses this proxy as its base URL, so start mitmproxy with --mode reverse: and the upstream's "
    "address, such as --mode reverse:https://llm.example.com."
)
_ADVICE: Final = (
    (
        "certificate could not be verified",
        "If the upstream has a private CA, set mitmproxy's option ssl_verify_upstream_trusted_ca to its certificate "
        "(or ssl_insecure=true to verify nothing).",
    ),
    (
        "does not speak TLS on that port",
        "The upstream expects plain HTTP on that port: use http:// in its address, or another port.",
    ),
    ("its name could not be resolved", "Check the upstream's name, and this machine's DNS."),
    (_TO_ITSELF, TO_REVERSE),
    ("connection refused", "Check that the upstream is running, and its port."),
)
_MARKUP: Final = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>?", re.IGNORECASE | re.DOTALL)
_HTML: Final = re.compile(r"<(?:!doctype html|html|head|title|body|h1|center|div|p)\b", re.IGNORECASE)
# What an address says beside where something is: a user, a query, a fragment.
_BESIDE_WHERE: Final = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)
_SIGN_IN: Final = re.compile(r"\b(?:sign|log)[ -]?(?:in|on)\b|\bpassword\b|\bsso\b", re.IGNORECASE)


def plainly(reason: str) -> str:
    """The reason that the transport gave for its end, in plain words."""
    for pattern, plain in _PLAINLY:
        if match := pattern.fullmatch(reason[:_LONGEST_REASON]):
            reason = match.expand(plain)
            break
    return reason.strip().rstrip(".:")


def advice_for(reason: str) -> str:
    """What to try when there was no response, for this reason; "" if nothing is known about it."""
    return next((advice for words, advice in _ADVICE if words in reason), "")


def cut_off(
    events: int, why: str = "", silence: float = 0.0, *, inside: bool = False, plain_bytes: int | None = None
) -> str:
    """The line of a stream that stopped too early. `silence`: seconds between its last byte and its end; `inside`: the
    last of its events came only in part; `plain_bytes`: what came of an answer that was to be no stream."""
    if plain_bytes is not None:
        place = f"after {counted(plain_bytes, 'byte')}" if plain_bytes else "before the first byte"
    else:
        place = f"{'inside' if inside else 'after'} event {events:,}" if events else "before the first event"
    return f"cut off {place}{f' ({why})' if why else ''}{_after(silence)}"


def gave_up(seconds: float, events: int, silence: float, *, began: bool, plain_bytes: int | None = None) -> str:
    """The line of a client that did not wait for its answer. `began`: the upstream's response had begun;
    `plain_bytes`: what had come of an answer that was to be no stream."""
    if plain_bytes:
        where = f", {silence:.1f} s after {counted(plain_bytes, 'byte')} of the answer"
    elif events and plain_bytes is None:
        where = f", {silence:.1f} s after event {events:,}"
    else:
        first = "event" if plain_bytes is None else "byte of the answer"
        where = f", before the first {first}" if began else ", before the upstream's response"
    return f"the client gave up after {seconds:.1f} s{where}"


def of_error(
    error: StreamError,
    report: Report,
    *,
    status: int,
    cut: str = "",
    silence: float = 0.0,
    inside: bool = False,
    after: int = 0,
    retry_after: str = "",
    head: str = "",
    label: str = "",
    plain: bool = False,
) -> str:
    """The line of a failure. `status`: the upstream's own, 0 where its head says nothing; `after`: how many events came
    before the one that reports the error; `head`: how a body begins that could not be read, `label` its content type;
    `plain`: no event stream was asked for, and none came.
    """
    plain_bytes = report.bytes if plain else None
    if isinstance(error, UpstreamError):
        named = status if status >= 400 else error.named_status or 0
        return of_status(named, error.said, retry_after, after=0 if status >= 400 else after)
    if isinstance(error, IncompleteStream):
        return cut_off(report.events, cut or NO_END, silence, inside=inside, plain_bytes=plain_bytes)
    if isinstance(error, StreamTimeout):
        if plain_bytes is not None:
            return f"{error}" + (f", after {counted(plain_bytes, 'byte')}" if plain_bytes else "")
        return f"{error}" + (f", after event {report.events:,}" if report.events else ", before the first event")
    if type(error) is MalformedStream and head and (plain or not report.events):
        if plain and head.lstrip()[:1] in ("{", "["):
            return f"{error}{_quoted(words_of_page(head))}"
        return f"{_kind(head, label)} in place of {'an answer' if plain else 'events'}{_quoted(words_of_page(head))}"
    return f"{error}"


def of_status(status: int, said: Any = None, retry_after: str = "", *, after: int = 0) -> str:
    """The line of an answer that is an error. `status`: 0 where none was named; `said`: its JSON; `after`: how many
    events came before it."""
    what = _STATUSES.get(status) or ("the upstream failed" if not 400 <= status < 500 else _STATUSES[400])
    place = f" after event {after:,}" if after > 0 else ""
    code = own_code(said)
    named = [
        f"{status}" if status else "",
        code if code != MALFORMED else "",
        retry_after and f"retry after {_wait(retry_after)}",
    ]
    details = ", ".join(dict.fromkeys(filter(None, named)))
    return f"{what}{place}{f' ({details})' if details else ''}{_quoted(words_in(said))}"


def of_response(status: int, label: str, body: bytes, retry_after: str = "") -> str:
    """The line of an error that the client gets as it came."""
    text = "" if len(body) > _LARGEST_ERROR else body.decode("utf-8-sig", errors="replace")
    try:
        value = jsontext.loads(text)
    except (ValueError, RecursionError):
        return of_status(status, None, retry_after) + _quoted(words_of_page(text))
    return of_status(status, error_in(value) or value if isinstance(value, dict) else value, retry_after)


def redirected(status: int, location: str) -> str:
    """What is odd about an answer that sends the client elsewhere. Only where to: the rest of an address is between
    the client and whoever is there."""
    where = printable(_BESIDE_WHERE.sub("", location.strip()))
    return f"redirected by the upstream ({status}){where and f' to {where}'}"


def of_odd(odd: Sequence[str]) -> str:
    """The line of an answer that is whole, but marked."""
    return f"odd: {in_brief(odd)}" if odd else ""


def own_code(said: Any) -> str:
    """The code that an upstream gave its error, or else its type; "" if neither says anything."""
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return ""
    code, kind = error.get("code"), error.get("type")
    named = [each for each in (code, kind) if isinstance(each, str) and each not in ("", ERROR_TYPE, "error")]
    # A number is informative unless it is just a status.
    if not named and type(code) is int and not 400 <= code < 600:
        named = [f"{code}"]
    return printable(named[0], _LONGEST_CODE) if named else ""


def _after(silence: float) -> str:
    return f", {silence:.1f} s after the last byte" if silence >= SILENCE else ""


def _wait(retry_after: str) -> str:
    shown = printable(retry_after.strip(), _LONGEST_CODE)
    return f"{shown} s" if shown.replace(".", "", 1).isdecimal() else shown


def _kind(head: str, label: str) -> str:
    if not is_readable(head):
        kind = "binary data"
    elif head.lstrip().startswith("<") and _HTML.search(head):
        kind = "a sign-in page" if _SIGN_IN.search(head) else "a web page"
    else:
        kind = "text"
    return f"{kind} ({printable(label)})" if label else kind


def words_of_page(page: str) -> str:
    """What the beginning of a web page says to a person."""
    return " ".join(unescape(_MARKUP.sub(" ", page[:_LONGEST_PAGE])).split())


def _quoted(words: str) -> str:
    return f': "{printable(words)}"' if words and is_readable(words) else ""
