"""The page of `force-stream report`: flows as HTML, each in a section of its own.

Knows flows, what the addon notes on them, and HTML; must not know files, or what is masked. Whatever others sent is
made printable and escaped.
"""

import base64
import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html import escape
from pkgutil import get_data
from typing import Final, NamedTuple

from mitmproxy import http
from mitmproxy.contentviews import Metadata

from ..answer import cause
from ..answer.forcing import at_path
from ..answer.oddities import MOST_ODD
from ..answer.report import Report
from ..page.plot import describe, ending, plot
from ..proxy import notes
from ..proxy.bodies import decoded
from ..proxy.notes import UnreadableFlow
from ..proxy.request import upstream_of
from ..proxy.response import kept_answer, streams
from ..proxy.retry_policy import wait_asked
from ..proxy.summary import direction_of
from ..view import timeline, timeline_text
from ..view.contentview import view
from ..view.flow_record import head_of
from ..view.joined import said_in
from ..view.masking import STAND_IN
from ..view.stats import Outcome, thinned
from ..view.timeline_text import About
from ..wire import jsontext
from ..wire.text import counted, printable

# Characters: of a line of ours, of a line in a body, of a body (its beginning and its end).
_LONGEST: Final = 300
_LONGEST_LINE: Final = 4_000
_SHOWN_FIRST: Final = 16_000
_SHOWN_LAST: Final = 4_000
# Lines of a timeline.
_LINES_FIRST: Final = 400
_LINES_LAST: Final = 100

_STYLE: Final = (get_data(__package__, "report.css") or b"").decode()
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
_HEAD: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<p class="quiet">{about}</p>
<main>
"""
_END: Final = "</main>\n</body>\n</html>\n"


class Section(NamedTuple):
    """One flow on the page. `kind`: "fault", "odd" or "good"."""

    kind: str
    html: str


def head(title: str, summary: str, about: str) -> str:
    words = {"title": title, "summary": summary, "about": about}
    return _HEAD.format(policy=_POLICY, style=_STYLE, **{name: _text(text) for name, text in words.items()})


def heading(text: str) -> str:
    return f"<h2>{_text(text)}</h2>\n"


def end() -> str:
    return _END


def section(flow: http.HTTPFlow, *, opened: bool = False) -> Section:
    """A flow: its cause first, then figures, what was said, the timeline, and what was sent."""
    seen, request = _Seen(flow), flow.request
    clock = time.strftime("%H:%M:%S", time.gmtime(request.timestamp_start))
    place = f"{request.method} {seen.outcome.upstream}{request.path.partition('?')[0]}"
    summary = (
        f'<span class="label {seen.kind}">{seen.status or "no answer"}</span> '
        f"<strong>{_text(seen.cause or ending(seen.outcome))}</strong> "
        f'<span class="quiet">{_text(f"{clock} UTC · {seen.outcome.model or 'no model'} · {place}")}</span>'
    )
    is_open = " open" if opened else ""
    inside = f"<summary>{summary}</summary>\n<div>\n{'\n'.join(_parts(flow, seen))}\n</div>"
    return Section(seen.kind, f'<details class="flow"{is_open}>{inside}</details>\n')


class _Seen:
    """What is known of a flow: from its notes, and, where they do not say, from its body read again."""

    def __init__(self, flow: http.HTTPFlow) -> None:
        response = flow.response
        self.status = response.status_code if response is not None and not notes.got_no_answer(flow) else 0
        self.given = notes.GIVEN.of(flow)
        self.stream = notes.SSE.of(flow)
        if self.stream is None and response is not None and streams(response):
            self.stream = decoded(response)
        self.document, self.report = _read_again(flow, self.stream)
        is_noted = notes.STATUS.of(flow) is not None or notes.CAUSE.of(flow) is not None
        self.truncated = bool(notes.TRUNCATED.of(flow)) if is_noted else self.report.truncated
        odd = notes.ODD.of(flow)
        self.odd = self.report.odd if odd is None else odd
        noted = notes.CAUSE.of(flow)
        self.cause = printable(_cause(flow, self.report) if noted is None else noted, _LONGEST)
        self.outcome = _outcome(flow, self)
        failed = self.status >= 400 or not self.status or self.truncated or flow.error is not None
        self.kind = "fault" if failed else "odd" if self.cause or self.odd or flow.marked else "good"


def _read_again(flow: http.HTTPFlow, stream: bytes | None) -> tuple[bytes, Report]:
    """The document that an answer is or becomes, as far as it goes, and its report; nothing where none is known."""
    response = flow.response
    try:
        spec, status, content_type = kept_answer(flow)
    except UnreadableFlow:
        known = at_path(flow.request.path)
        if known is None:
            return b"", Report()
        spec, status, content_type = known, notes.SSE_STATUS.of(flow) or 200, notes.SSE_TYPE.of(flow) or ""
    if stream is None:
        return (decoded(response) or b"" if response is not None else b""), Report()
    plain = notes.GIVEN.of(flow) is not None and notes.was_made_plain(flow)
    answer = replace(spec, on_truncated="partial").read(status, content_type, plain=plain)
    answer.feed(stream)
    times, ended = notes.TIMES.of(flow) or [], notes.ENDED.of(flow)
    reply = answer.finish(notes.CUT_BY.of(flow) or "", silence=ended - times[-2] if times and ended else 0.0)
    return stream if reply is None else reply.body, answer.report


def _cause(flow: http.HTTPFlow, report: Report) -> str:
    """Why the answer is not simply whole, where no note says it; "" for a plain success."""
    response = flow.response
    if response is not None and response.status_code >= 400:
        label, retry_after = response.headers.get("content-type", ""), wait_asked(response.headers.get)
        return cause.of_response(response.status_code, label, decoded(response) or b"", retry_after)
    if flow.error is not None:
        return f"no answer: {cause.plainly(flow.error.msg)}"
    return report.cause if response is not None else "no answer"


def _outcome(flow: http.HTTPFlow, seen: _Seen) -> Outcome:
    request, response, report = flow.request, flow.response, seen.report
    start = request.timestamp_end or request.timestamp_start
    body, times, plain = seen.stream or b"", notes.TIMES.of(flow) or [], seen.given is not None
    ended, events = notes.ENDED.of(flow), seen.given if plain else notes.EVENTS.of(flow)
    received = response.timestamp_end - start if response is not None and response.timestamp_end else 0.0
    return Outcome(
        id=flow.id,
        at=start,
        upstream=upstream_of(flow),
        rule=notes.RULE.of(flow) or "",
        endpoint=notes.ENDPOINT.of(flow) or "",
        model=notes.MODEL.of(flow) or _model(flow),
        status=seen.status,
        events=report.events if events is None else events,
        bytes=len(body or (response.raw_content if response is not None else None) or b""),
        finish_reason=notes.FINISH_REASON.of(flow) or report.finish_reason,
        inferred=notes.INFERRED.of(flow) or (events is None and report.inferred),
        truncated=seen.truncated,
        code=notes.ERROR.of(flow) or "",
        seconds=max(received, *times[-2:-1], ended or 0.0),
        first_event=times[0] if times and not plain else None,
        first_content=None if plain else timeline.first_content(body, times),
        arrivals=thinned(times[::2]),
        odd=tuple(seen.odd),
        injected=bool(notes.INJECTED.of(flow)),
        cause=seen.cause,
        ended=ended,
        direction=direction_of(flow),
        head=head_of(flow),
    )


def _model(flow: http.HTTPFlow) -> str:
    body = decoded(flow.request) or b""
    try:
        members = jsontext.loads(body.decode()) if body[:1] == b"{" else None
    except ValueError:
        members = None
    model = members.get("model") if isinstance(members, dict) else None
    return printable(model) if isinstance(model, str) else ""


# The parts of a section


def _parts(flow: http.HTTPFlow, seen: _Seen) -> Iterator[str]:
    outcome, request, response = seen.outcome, flow.request, flow.response
    yield _list(_facts(flow, seen))
    if seen.stream is not None:
        yield plot(outcome)
    if seen.odd:
        lines = "".join(f"<li>{_text(line)}</li>" for line in seen.odd[:MOST_ODD])
        yield f"<h3>Odd</h3>\n<ul>{lines}</ul>"
    for name, text in _said(seen.document):
        yield f"<h3>{_text(name)}</h3>\n{_pre(text)}"
    if seen.stream is not None:
        yield _folded("Timeline", "<pre>" + _escaped(_timeline(flow, seen.stream)) + "</pre>")
    yield _folded("The request", _message(f"{request.method} {request.url} {request.http_version}", request))
    if seen.stream is not None and (notes.SSE.of(flow) is not None or not seen.status):
        yield _folded(f"What the upstream sent ({counted(len(seen.stream), 'byte')})", _body(seen.stream, ""))
    if response is not None and seen.status:
        first = f"{response.http_version} {response.status_code} {response.reason}"
        yield _folded("What the client got", _message(first, response))


def _facts(flow: http.HTTPFlow, seen: _Seen) -> Iterator[tuple[str, str]]:
    outcome = seen.outcome
    upstream, number, retries = notes.SSE_STATUS.of(flow), notes.TRY.of(flow), notes.RETRIED_AS.of(flow)
    yield "cause", seen.cause
    yield "what to try", cause.advice_for(seen.cause)
    yield "request", f"{flow.request.method} {flow.request.url}"
    yield "upstream", f"status {upstream}" if upstream and upstream != seen.status else ""
    yield "rule", outcome.rule
    yield "endpoint", outcome.endpoint
    yield "model", outcome.model
    yield "what came", describe(outcome)
    yield "usage", notes.USAGE.of(flow) or ""
    yield "try", f"{number}" if number else f"1 of {len(retries) + 1}" if retries else ""
    yield "not forced", notes.LEFT_ALONE.of(flow) or ""
    yield "fault injected", notes.INJECTED.of(flow) or ""
    yield "comment", flow.comment
    yield "upstream's head", ", ".join(f"{name}: {value}" for name, value in outcome.head)


def _said(document: bytes) -> Iterator[tuple[str, str]]:
    """What the model said, joined: what it is, and its text."""
    try:
        said = said_in(jsontext.loads(document.decode()))
    except ValueError:
        return
    for each in said:
        choice = "" if each.choice is None else f" (choice {each.choice + 1})"
        yield f"{each.kind.capitalize()} {each.name}".rstrip() + choice, each.text


def _timeline(flow: http.HTTPFlow, stream: bytes) -> str:
    response = flow.response
    if response is None:
        text = timeline_text.text(timeline.read(stream, notes.TIMES.of(flow)), About())
    else:
        about = Metadata(flow=flow, http_message=response, content_type=response.headers.get("content-type"))
        text = view.prettify(stream, about)
    lines = text.rstrip().split("\n")
    left_out = len(lines) - _LINES_FIRST - _LINES_LAST
    if left_out > 0:
        lines[_LINES_FIRST:-_LINES_LAST] = [f"  … {left_out:,} lines left out …"]
    return "\n".join(lines)


def _message(first: str, message: http.Message) -> str:
    fields = [
        f"{name.decode(errors='replace')}: {value.decode(errors='replace')}" for name, value in message.headers.fields
    ]
    lines = [first, *fields]
    heading = f'<pre class="wrapped">{_escaped("\n".join(printable(line, _LONGEST_LINE) for line in lines))}</pre>'
    raw = message.raw_content
    if raw is None:
        return f'{heading}\n<p class="quiet">The body is not in the flow file.</p>'
    body = decoded(message)
    content_type = message.headers.get("content-type", "")
    return heading + "\n" + _body(raw if body is None else body, content_type) if raw else heading


def _body(body: bytes, content_type: str) -> str:
    if b"\0" in body[:1024] or content_type.startswith(("image/", "audio/", "video/")):
        return f'<p class="quiet">{_text(f"{counted(len(body), 'byte')}, not text: {content_type}")}</p>'
    return _pre_of(body)


def _pre_of(body: bytes) -> str:
    if len(body) <= _SHOWN_FIRST + _SHOWN_LAST:
        return _pre(body.decode(errors="replace"))
    left_out = len(body) - _SHOWN_FIRST - _SHOWN_LAST
    parts = body[:_SHOWN_FIRST].decode(errors="replace"), body[-_SHOWN_LAST:].decode(errors="replace")
    return _pre(f"{parts[0]}\n\n… {counted(left_out, 'byte')} left out …\n\n{parts[1]}")


def _pre(text: str) -> str:
    """A text of others, its lines as they are."""
    if len(text) > _SHOWN_FIRST + 2 * _SHOWN_LAST:
        left_out = len(text) - _SHOWN_FIRST - _SHOWN_LAST
        text = f"{text[:_SHOWN_FIRST]}\n\n… {left_out:,} characters left out …\n\n{text[-_SHOWN_LAST:]}"
    lines = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return f'<pre class="wrapped">{_escaped("\n".join(printable(line, 2 * _SHOWN_FIRST) for line in lines))}</pre>'


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{_text(title)}</summary>\n{inside}\n</details>"


def _list(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>\n" for name, value in facts if value)
    return f"<dl>\n{rows}</dl>"


def _text(text: str) -> str:
    return _escaped(printable(text, _LONGEST_LINE))


def _escaped(text: str) -> str:
    """Text escaped for HTML. A mask is as long as the secret that it replaces; here it is shortened."""
    return escape(STAND_IN.sub(r"***\1", text))
