"""The event stream's wire grammar: bytes in, server-sent events out.

Knows the HTML standard, section 9.2.6 "Interpreting an event stream"; must not know JSON or `[DONE]`.
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

Where real upstreams deviate from the standard and a browser would lose what they sent, the events are still returned:
an event without a blank line at the end of the stream (llama.cpp and others end that way; whether its data is complete
is for the reader of the data to judge), a field name after white space, NULs or a byte order mark, llama.cpp's own
field `error` (ggml-org/llama.cpp#16109), which is read as an event named "error", and lines without a field (an error
that a gateway writes between the events, chunks as lines of JSON), which are read as events that are `bare`. Unknown
fields are ignored, as the standard says.
"""

import re
from codecs import BOM_UTF8
from typing import Final, NamedTuple

from .text import decoded

# Comments, and fields that are irrelevant to an answer.
_IGNORED: Final = (b"", b"id", b"retry")
_FIELDS: Final = frozenset((b"data", b"event", b"error", *_IGNORED))
# What may stand before a field name: white space, NULs, and the bytes of a byte order mark.
_AROUND: Final = b" \t\x00" + BOM_UTF8
_BEGINS_JSON: Final = re.compile(b"[" + _AROUND + rb"]*[{\[]")
# The field `data` with a part of its name, or its colon, lost.
_DAMAGED_DATA: Final = re.compile(rb"(?i:data|dat|dta|ata|ta|a)?:? ?(?=[{\[])")
# The field `data` after a comment whose line end is lost: ": keepalivedata: {".
_DATA_AFTER_COMMENT: Final = re.compile(rb"(?<=\S)data: ?(?=\{)")
# A field that the standard does not know. A line that begins like this one may still be words.
_UNKNOWN_FIELD: Final = re.compile(rb"(?![\w-]*(?i:err|exception|fatal))(?:[\w-]+:|[a-z_-]+$)")
# How many lines of text without a field are returned. A stream has few of them; a web page has nothing else.
_MOST_BARE_TEXTS: Final = 100
# The end of a line and a blank line. A CR at the end may be half of a CRLF. If the line ends before it have an LF, the
# next byte decides; if they are CRs alone, waiting would be wrong: the upstream may send nothing more for a while.
_BLANK_LINE: Final = re.compile(rb"\n\n|\n\r\n|\n\r(?=[^\n])|\r\n\n|\r\n\r\n|\r\n\r(?=[^\n])|\r\r")


def end_of_event(data: bytes, start: int = 0) -> int:
    """The end of the first blank line after `start`, which ends an event; -1 if there is none yet. `start` must be the
    beginning of a line."""
    # In growing windows: a body of megabytes may have none of what is looked for at every event.
    window = 1024
    while True:
        feeds = data.find(b"\n\n", start, start + window)
        if data.find(b"\r", start, feeds if feeds >= 0 else start + window) >= 0:
            end = _BLANK_LINE.search(data, start)
            return end.end() if end is not None else -1
        if feeds >= 0:
            return feeds + 2
        if start + window >= len(data):
            return -1
        window *= 4


def end_of_last_event(data: bytes) -> int:
    """The end of the last blank line that is whole; 0 if there is none."""
    found = ((data.rfind(blank), blank) for blank in (b"\n\n", b"\r\r", b"\n\r\n"))
    return max(at + len(blank) if at >= 0 else 0 for at, blank in found)


def has_blank_line(data: bytes) -> bool:
    """Whether an event may end in these bytes."""
    return _BLANK_LINE.search(data) is not None


class ServerSentEvent(NamedTuple):
    """One event; `data` is its lines joined by line feeds. `event` is "" if the stream does not name it. `bare`: its
    lines had no field name."""

    event: str
    data: str
    bare: bool = False


class EventStreamDecoder:
    """A pull parser like those of the standard library: feed it bytes, and it returns the events that they complete.

    `lines` counts the lines that were a field or a comment, `unknown_lines` those that were neither nor JSON: a body
    that is not an event stream has only the latter. `between_events`: the next byte begins an event, and nothing of the
    previous one is left.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.unknown_lines = 0
        self.between_events = False
        self._tail: list[bytes] = []
        self._after_carriage_return = False
        self._at_start = True
        self._event = ""
        self._data: bytes | bytearray | None = None
        self._bare: list[bytes] = []

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that `data` completes, in order. Never raises."""
        if self._after_carriage_return and data:
            # CRLF may be split between two reads; the line was read when its CR arrived.
            self._after_carriage_return = False
            data = data.removeprefix(b"\n")
        lines: list[bytes] = []
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end:
            self._after_carriage_return = data.endswith(b"\r")
            self._tail.append(data[:end])
            # Unlike str.splitlines, bytes.splitlines has the same line ends as the standard: LF, CR and CRLF.
            lines = b"".join(self._tail).splitlines()
            self._tail = []
        if end < len(data):
            self._tail.append(data[end:])
        return self._read(lines)

    @property
    def begun(self) -> int:
        """The bytes of the event that has no blank line yet. A comment is not a part of one."""
        tail = () if self._tail and self._tail[0].startswith(b":") else self._tail
        return sum(map(len, (*tail, self._data or b"", *self._bare, self._event)))

    def close(self) -> list[ServerSentEvent]:
        """The event that has no blank line at the end of the stream, if there is one."""
        lines = [b"".join(self._tail), b""]
        self._tail = []
        return self._read(lines)

    def _read(self, lines: list[bytes]) -> list[ServerSentEvent]:
        if self._at_start and lines:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM_UTF8)
        events: list[ServerSentEvent] = []
        for line in lines:
            if not line:
                self._dispatch(events)
                continue
            name, _, value = line.partition(b":")
            if name not in _FIELDS:
                name = name.lstrip(_AROUND)
                if name not in _FIELDS:
                    self._read_bare(line, events)
                    continue
            if self._bare and name in (b"data", b"event"):
                self._dispatch_bare(events)
            value = value.removeprefix(b" ")
            if name == b"data":
                self._add(value)
            elif name == b"event":
                if self._event and self._data is not None:
                    self._dispatch(events)  # the blank line between two events is lost
                named, _, rest = value.partition(b"data:")  # its line end may be lost
                self._event = named.decode(errors="replace")
                if rest:
                    self._add(rest.removeprefix(b" "))
            elif name == b"error":
                if not value.startswith(b"{"):
                    self._read_bare(line, events)
                    continue
                self._dispatch(events)
                events.append(ServerSentEvent("error", "".join(decoded(value))))
            elif not name and value.endswith(b"}") and (lost := _DATA_AFTER_COMMENT.search(value)) is not None:
                self._add(value[lost.end() :])
            self.lines += 1
        self.between_events = not (
            self._tail
            or self._data is not None
            or self._bare
            or self._event
            or self._at_start
            or self._after_carriage_return
        )
        return events

    def _add(self, value: bytes) -> None:
        """Add a line of data. Not to a list: a million short lines would take many times their size."""
        if self._data is None:
            self._data = value
        else:
            self._data = self._data if isinstance(self._data, bytearray) else bytearray(self._data)
            self._data += b"\n" + value

    def _read_bare(self, line: bytes, events: list[ServerSentEvent]) -> None:
        """A line without a field: JSON, the first line of it, or text."""
        if (damaged := _DAMAGED_DATA.match(line.lstrip(_AROUND))) is not None:
            line = line.lstrip(_AROUND)[damaged.end() :]
        if _UNKNOWN_FIELD.match(line):
            self.unknown_lines += 1
        elif self._bare and _is_json(self._bare[0]):
            self._bare.append(line)
        elif _is_json(line):
            if self._data is not None or self._bare:
                self._dispatch(events)
            self._bare.append(line)
            if line.rstrip(_AROUND).endswith((b"}", b"]")):
                self._dispatch(events)
        else:
            self.unknown_lines += 1
            if self.unknown_lines <= _MOST_BARE_TEXTS:
                self._bare.append(line)

    def _dispatch_bare(self, events: list[ServerSentEvent], name: str = "") -> None:
        data = "".join(decoded(b"\n".join(self._bare)))
        self._bare = []
        events.append(ServerSentEvent(name, data, bare=True))

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        # "If the data buffer is an empty string […] return": there is no event without data. An empty data line is not
        # data, though it is in a browser: gateways send it as a heartbeat (netease-lcap/wave-agent#1326).
        if self._data is not None:
            data = "".join(decoded(self._data))
            if data:
                events.append(ServerSentEvent(self._event, data))
            self._data = None
            self._event = ""
        if self._bare:
            self._dispatch_bare(events, self._event)
        self._event = ""


def _is_json(line: bytes) -> bool:
    """Whether a line without a field begins as JSON does, or is `[DONE]`."""
    return _BEGINS_JSON.match(line) is not None  # `lstrip` would copy a long line for each that follows it
