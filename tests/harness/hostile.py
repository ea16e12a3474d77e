"""Text that an adversary puts wherever text can be: what it is, documents and streams that are full of it, and whether
it is still there in what a person sees."""

import copy
import io
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from mitmproxy import http
from mitmproxy.io import FlowWriter

from harness.golden import LINE_END

# What a terminal obeys, what cannot be seen, and what changes the order of what can.
KINDS: Final = {
    "markup": "<b>\"'&{}%s\\",
    "escapes": "\x1b[2J\x1b]0;\x07\x08\x7f\x00",
    "lines": "\n[00:00] \r\n\t\x0b\x0c\x1c\x85\u2028\u2029",
    "C1 controls": "\x9b2J\x90q\x9c",
    "directions": "\u202e\u2066\u200f\u061c\u2069",
    "without width": "\u200b\u200d\u2060\ufeff\xad\xa0",
    "half of a pair": "\ud800",
    "not assigned": "\ue000\u0378\U0010ffff\U000e0041",
}
HOSTILE: Final = "".join(KINDS.values())
# The characters that can be encoded in UTF-8.
ENCODABLE: Final = HOSTILE.replace("\ud800", "")
LONG: Final = HOSTILE + "x" * 5_000
# Characters of one line that a person sees.
LONGEST_LINE: Final = 4_000


def at_every_place(document: Any, text: str = HOSTILE) -> Any:
    """The document with the text in all its keys and values."""
    if isinstance(document, dict):
        return {key + text: at_every_place(value, text) for key, value in document.items()}
    if isinstance(document, list):
        return [at_every_place(value, text) for value in document]
    return f"{document}{text}"


def at_one_place(document: Any, text: str = HOSTILE) -> Iterator[tuple[str, Any]]:
    """The document with the text at one place, for each of them: after a key, after a text, in place of any other
    value; each with the place's name."""
    for path in _places(document):
        whole = copy.deepcopy(document)
        *steps, last = path
        parent = whole
        for step in steps:
            parent = parent[step]
        name = ".".join("*" if isinstance(step, int) else step for step in path)
        value = parent[last]
        parent[last] = f"{value}{text}" if isinstance(value, str) else text
        yield name, copy.deepcopy(whole)
        if isinstance(last, str):
            del parent[last]
            parent[last + text] = value
            yield f"{name} (key)", whole


def _places(value: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield (*before, step)
        yield from _places(inner, (*before, step))


def streams_like(stream: bytes, known: set[str], text: str = HOSTILE) -> Iterator[tuple[str, bytes]]:
    """The stream with the text at one place of one event, for each kind of place that is not known yet."""
    lines = LINE_END.split(stream)
    for number, line in enumerate(lines):
        if not line.startswith(b"data:"):
            continue
        try:
            value = json.loads(line[5:])
        except ValueError:
            continue
        kind = value.get("type") or value.get("object") if isinstance(value, dict) else ""
        for name, document in at_one_place(value, text):
            place = f"{kind} {name}"
            if place not in known:
                known.add(place)
                yield place, b"\n".join([*lines[:number], b"data: " + dumped(document), *lines[number + 1 :]])


def dumped(document: Any) -> bytes:
    return json.dumps(document).encode()


def raw(text: str = HOSTILE) -> bytes:
    return text.encode("utf-8", "surrogatepass") + b"\xff\xc3"


def with_fields(stream: bytes) -> bytes:
    """The stream with the text as a comment, and as the name and the id of its events."""
    line = re.sub(rb"[\r\n\x00]", b"", raw())
    return b": %b\nevent: %b\nid: %b\n%b\ndata: %b\n\n" % (line, line, line, stream, line)


def event(document: Any) -> bytes:
    return b"data: " + dumped(document) + b"\n\n"


_NAMED: Final = dict.fromkeys(("message", "type", "code", "param", HOSTILE), HOSTILE)
# How an upstream says that it failed, or says nothing that can be read.
FAILURES: Final = (
    event({"error": at_every_place({"message": "m", "type": "t", "code": "c", "param": "p"})}),
    event({"error": _NAMED}),
    event({"error": HOSTILE}),
    event({"type": "error", "error": _NAMED}),
    event(_NAMED),
    event(HOSTILE),
    b"data: error: " + raw() + b"\n\n",
    b"data: " + raw() + b"\n\n",
    b'data: {"choices":' + raw(),
    dumped({"error": _NAMED}),
    raw(),
    b"",
)


def unprintable(text: str) -> str:
    """The characters of some lines that cannot be printed."""
    return "".join(sorted({character for character in text if not character.isprintable()} - {"\n"}))


def unfit(text: str) -> str:
    """What is wrong with a text of several lines that a person sees; "" if nothing is."""
    if text.isprintable() and len(text) <= LONGEST_LINE:
        return ""
    found = unprintable(text)
    longest = max(map(len, text.split("\n")))
    return "".join(
        [
            f"has {found!a} " if found else "",
            f"has a line of {longest:,} characters " if longest > LONGEST_LINE else "",
            "has a forged line" if "\n[00:00]" in text else "",
        ]
    )


# What is kept word for word, to be read again and not to be shown.
_VERBATIM: Final = {f"force_stream.{key}" for key in ("sse", "times", "undo", "headers_undo", "usage", "fill")}


def seen_on(flow: http.HTTPFlow) -> Iterator[tuple[str, str]]:
    """The texts of ours on a flow, each with where it is."""
    yield "comment", flow.comment
    yield "mark", flow.marked
    for key, value in flow.metadata.items():
        if key not in _VERBATIM:
            yield from ((key, text) for text in _texts(value))
    if flow.response is not None:
        for name, value in flow.response.headers.items():
            if HOSTILE[:9] not in value:  # the upstream's own
                yield name, value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def saved(flow: http.HTTPFlow) -> bytes:
    """The flow as a flow file stores it, without lone surrogates."""
    file = io.BytesIO()
    FlowWriter(file).add(flow)
    return file.getvalue()
