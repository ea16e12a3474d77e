"""A flow that a person opens: what was said in it, its events one by one, why it was forced, and what can be saved.

Knows flows, their notes and what the rest of this room makes of a body. Must not know who shows it. All of it takes a
while for a large flow, so it is for a thread; and nothing of it shows a credential.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from mitmproxy import http

from ..proxy import bodies, explain, request, response
from ..proxy.notes import GIVEN, TIMES, UnreadableFlow
from ..rules.rule import Rule
from ..wire import jsontext
from ..wire.text import counted
from .flow_record import timeline_of
from .joined import Said, said_in
from .masking import STAND_IN, Masker
from .stats import LONG_GAP
from .timeline import Entry, Timeline

# What a person reads at once: characters of a text and of all texts, entries of the timeline, bytes of the raw stream.
LONGEST_SAID: Final = 100_000
MOST_SAID: Final = 200_000
FIRST_ENTRIES: Final = 150
LAST_ENTRIES: Final = 50
MOST_RAW: Final = 16 * 1024
# Bytes that are searched for credentials at a time: no other thread runs while a pattern is looked for.
_WINDOW: Final = 32 * 1024
# Where a body may be cut into these, the best place first: not within a credential, nor between its name and it.
_CUTS: Final = b"\n", b",", b" "
_KEY: Final = '"$API_KEY"'
# A text that an entry adds, and where: `content +"Hel"`.
_ADDED: Final = re.compile(rb'([^\s"]+) \+"((?:[^"\\]|\\.)*)"')
# Headers that curl makes itself, or that belong to the connection and the encoding of the body.
_CURLS_OWN: Final = frozenset(
    b"""
    host content-length transfer-encoding connection proxy-connection keep-alive content-encoding accept-encoding
    """.split()
)
_CURLS_GLOBS: Final = re.compile(r"[][{}]")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Opened(NamedTuple):
    """`said`: each with the length that its text has in whole. `about`: what the upstream sent in a few words, "" where
    nothing of it is kept; `first`, `last`: the entries of an event stream, with how many are `left_out` between them;
    `raw`: how its `size` bytes begin. `can_save`: what there is of the flow beside its request. `explained`: which rule
    took the flow, or for each rule why it did not."""

    said: Sequence[tuple[Said, int]]
    about: str
    can_save: Sequence[str]
    first: Sequence[Entry]
    last: Sequence[Entry]
    left_out: int
    raw: bytes
    size: int
    explained: Sequence[str]


def look(flow: http.HTTPFlow, rules: Sequence[Rule], *, enabled: bool, whole: bool) -> Opened:
    """Open a flow. `whole`: all of its texts and of its timeline, and not only as much as a person reads at once."""
    mask, sent = _Mask(flow), _sent(flow)
    if sent is None:
        spoken, about, entries = said_in(_document(flow)), "", []
    else:
        read = timeline_of(flow, sent, TIMES.of(flow))
        spoken, about, entries = read.said, _about(read, GIVEN.of(flow)), [*read.entries, *_end(read)]
    left_out = 0 if whole else max(0, len(entries) - FIRST_ENTRIES - LAST_ENTRIES)
    if left_out:
        del entries[FIRST_ENTRIES:-LAST_ENTRIES]
    shown = _masked(entries, mask)
    first = FIRST_ENTRIES if left_out else len(shown)
    return Opened(
        said=[(each._replace(text=mask.text(text)), len(each.text)) for each, text in _shown(spoken, whole=whole)],
        about=about,
        can_save=[*(["json"] if document_of(flow) else []), *(["sse"] if stream_of(flow) else [])],
        first=shown[:first],
        last=shown[first:],
        left_out=left_out,
        raw=mask.data((sent or b"")[:MOST_RAW]),
        size=len(sent or b""),
        explained=explain.explain(flow, rules, enabled=enabled),
    )


def _masked(entries: list[Entry], mask: "_Mask") -> list[Entry]:
    """The entries without credentials: in one of them, or in pieces, an entry each. A stand-in is as long as what it
    stands for, so that the pieces are where they were."""
    rows = [bytearray(entry.added.encode(errors="surrogatepass")) for entry in entries]
    places: dict[bytes, list[tuple[bytearray, int, int]]] = {}
    for row in rows:
        for said in _ADDED.finditer(row):
            place = said[1].removeprefix(b"choices[0].delta.")  # which is left out until there is a second choice
            places.setdefault(place, []).append((row, *said.span(2)))
    for pieces in places.values():
        text, at = mask.data(b"".join(row[start:end] for row, start, end in pieces)), 0
        for row, start, end in pieces:
            row[start:end] = text[at : at + end - start]
            at += end - start
    masked = (mask.data(bytes(row)).decode(errors="replace") for row in rows)
    return [entry._replace(added=added) for entry, added in zip(entries, masked, strict=True)]


def _end(read: Timeline) -> Iterator[Entry]:
    """The end, if it came after a long silence."""
    if read.ended is not None and read.last_byte is not None and read.ended - read.last_byte >= LONG_GAP:
        yield Entry("end", at=read.ended, gap=read.ended - read.last_byte)


def _about(read: Timeline, given: int | None) -> str:
    if read.document is not None:
        what = "a document" if read.is_json else "text"
        return f"{what}, given as {counted(given, 'event')}" if given else what
    about = [counted(read.events, "event")]
    about += [counted(read.comments, "comment line")] if read.comments else []
    about += ["then [DONE]"] if read.dones else []
    return ", ".join(about)


def _shown(spoken: Sequence[Said], *, whole: bool) -> Iterator[tuple[Said, str]]:
    """Each with the part of its text that is shown."""
    left = MOST_SAID
    for each in spoken:
        text = each.text if whole else each.text[: min(left, LONGEST_SAID)]
        left -= len(text)
        yield each, text


def _sent(flow: http.HTTPFlow) -> bytes | None:
    """What the upstream sent, where it is an event stream or became one."""
    try:
        return response.upstreams_body(flow)
    except UnreadableFlow:
        return None


def stream_of(flow: http.HTTPFlow) -> bytes | None:
    """The event stream as the upstream sent it, or as it was made of a plain answer; None where there is none."""
    return _sent(flow) if response.plain_body(flow) is None else response.clients_events(flow)


def document_of(flow: http.HTTPFlow) -> bytes | None:
    """The document that the client got, or whose events it got; None where there is none."""
    if flow.response is None or response.is_event_stream(flow.response):
        return response.plain_body(flow)
    return bodies.decoded(flow.response)


def saved_stream(flow: http.HTTPFlow) -> bytes | None:
    stream = stream_of(flow)
    return None if stream is None else _Mask(flow).data(stream)


def saved_document(flow: http.HTTPFlow) -> bytes | None:
    document = document_of(flow)
    return None if document is None else _Mask(flow).data(document)


def curl(flow: http.HTTPFlow) -> bytes:
    """The request as the client sent it, as a command, with `$API_KEY` in place of its credentials."""
    mask, asked = _Mask(flow), _as_asked(flow).request
    host = request.upstream_of(flow).removesuffix(f":{_DEFAULT_PORTS.get(asked.scheme)}")
    url = f"{asked.scheme}://{host}{asked.path}"
    # Without -g, brackets and braces in an address are curl's own, and one request becomes several, or none.
    as_it_is = "-g " if _CURLS_GLOBS.search(url) else ""
    lines = [f"curl {as_it_is}-X {_quoted(asked.method)} {_quoted(mask.text(url))}"]
    for name, value in asked.headers.fields:
        if name.lower() not in _CURLS_OWN:
            lines.append(f"-H {_quoted(mask.header(name, value))}")
    body = bodies.decoded(asked) or b""
    if b"\0" in body:
        lines.append("--data-binary @body  # the body has NULs, which a command line cannot contain")
    elif body:
        lines.append(f"--data-binary {_quoted(mask.data(body).decode(errors='replace'))}")
    return " \\\n  ".join(lines).encode(errors="replace") + b"\n"


def _as_asked(flow: http.HTTPFlow) -> http.HTTPFlow:
    try:
        return request.restored(flow)
    except UnreadableFlow:
        return flow


def _quoted(text: str) -> str:
    """A word for a shell, in which the stand-ins of credentials are a variable."""
    return _KEY.join(shlex.quote(part) if part else "" for part in STAND_IN.split(text)[::2]) or "''"


class _Mask:
    """Hides what is a credential of the flow's request, or looks like one."""

    def __init__(self, flow: http.HTTPFlow) -> None:
        self._masker = Masker()
        asked = flow.request
        self._masker.learn([asked.path, *map(list, asked.headers.fields)])

    def text(self, text: str) -> str:
        return self.data(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")

    def header(self, name: bytes, value: bytes) -> str:
        shown: bytes = self._masker.mask([name, value])[1]
        return f"{name.decode(errors='replace')}: {shown.decode(errors='replace')}"

    def data(self, data: bytes) -> bytes:
        return b"".join(self._masker.mask(window) for window in _windows(data))


def _windows(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = start + _WINDOW
        if end < len(data):
            places = (data.rfind(cut, start + _WINDOW // 2, end) for cut in _CUTS)
            end = next((place for place in places if place > 0), end)
        yield data[start:end]
        start = end


def _document(flow: http.HTTPFlow) -> object:
    try:
        return jsontext.loads((document_of(flow) or b"").decode(errors="replace"))
    except ValueError:
        return None
