"""An upstream's answer, read while it comes in, and the reply that it becomes.

Brings together the events, the quirks and the aggregators; knows how an event stream differs from JSON, and which
failure becomes which reply. Must not know mitmproxy, rules files, or how repeated events are read. Nothing here raises.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ..endpoints import ENDPOINTS, api_of
from ..endpoints.endpoint import Aggregated, Aggregator
from ..errors import (
    CorruptedStream,
    EmptyStream,
    IncompleteStream,
    MalformedStream,
    StreamError,
    UpstreamError,
    error_body,
)
from ..errors.events import error_from_words, error_in
from ..errors.words import is_keepalive, is_readable, words_in
from ..merge.fields import spelled
from ..wire import jsontext
from ..wire.long_json import LONG, drop
from ..wire.sse import EventStreamDecoder
from ..wire.text import counted, decoded, printable
from . import cause
from .events import Event, EventReader, Kind
from .fill import fill
from .oddities import Oddities
from .patterns import Repeats
from .quirks import chosen, patch_document
from .report import EVENT_STREAM_TYPE, JSON_TYPE, Reply, Report, usage_in

# Bytes. Scalar JSON bodies are short.
_LONGEST_SCALAR: Final = 1024
_BLANK: Final = b" \t\r\n"
# What `_is_event` looks for.
_OF_AN_EVENT: Final = re.compile(rb'"delta"|\.chunk"|"type"\s*:\s*"[^"]{0,64}\.')
# Bytes of an answer that were parsed. Finishing a larger one takes too long for an event loop.
_BLOCKS_LOOP: Final = 96 * 1024
# Bytes. Of a larger document only the beginning and the end are looked at.
LARGE: Final = 256 * 1024
# Bytes. What is left of a larger event is kept, and read in a thread once the event has ended: it may consist of lines
# that are read one by one.
_LARGE_EVENT: Final = 16 * 1024
# Lines. A body that is text alone, and not more than this, is a message.
_MOST_WORDS: Final = 3
# Members of which every API's plain answer has one.
_OF_A_DOCUMENT: Final = frozenset(("choices", "output", "content", "data", "text", "id", "object", "created"))
# Lists of which a plain answer has one that is not empty. A notice before an event stream has none.
_ANSWERS: Final = ("choices", "output", "content", "data")
# Members that a notice has of its own, and not of the answer.
_OF_A_CHUNK: Final = frozenset(("id", "object", "created", "model"))
# An unreadable chunk that has got this far holds no content.
_NO_CHOICES: Final = re.compile(r'"choices"\s*:\s*\[\s*\]')
# Two events run together may be one without content and one with it.
_CHOICES: Final = re.compile(r'"choices"\s*:\s*(?!\[\s*\])')
# A chunk that is cut off, and plainly holds more of the answer.
_MORE_CONTENT: Final = re.compile(
    r'"delta"\s*:\s*\{[^}]*"(?:content|reasoning\w*|refusal|arguments|tool_calls)"\s*:\s*(?:"\s*(?![\s"\\])[^"]|\[\s*\{)'
)
# A string of JSON, or the beginning of one at the end.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
# One word, with what may follow it.
_WORD: Final = re.compile(r"\s*[^\W\d_]+[.,;!?…。，]?\s*")
# How often an answer's bytes may be parsed, on average, to see whether all of it is there but its end.
_MOST_LOOKS: Final = 8


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """A forced request: everything that is needed to turn its event stream into an answer. It consists of plain values,
    so that it can travel with a flow."""

    rule: str
    endpoint: str
    model: str = ""
    choices: int = 1
    on_truncated: str = "error"
    quirks: tuple[str, ...] = ()
    fill: str = ""

    def __post_init__(self) -> None:
        # What a client or a flow file chose, and what lines of the log begin with.
        object.__setattr__(self, "rule", printable(self.rule))
        object.__setattr__(self, "model", printable(self.model))

    def read(self, status: int = 200, content_type: str | None = "", *, plain: bool = False) -> "AnswerReader":
        """A reader for an answer with this status and content type; None for a file, which has none that could be
        wrong. `plain`: the upstream was not asked for an event stream."""
        return AnswerReader(self, status, content_type, plain=plain)


class AnswerReader:
    """An upstream's answer as it comes in: feed it the decoded body, then `finish`.

    `report`: what has come so far; `ended`: nothing more needs to come; `finished`: only usage may, until more content
    follows all the same, which `early` counts; `answered`: the stream became the document, and none of it is missing;
    `gives_events`: its client asked for events, of which it may have some; `in_large_event`: the event that has begun
    is so large that the rest of it should be read off the event loop.
    """

    def __init__(self, spec: AnswerSpec, status: int, content_type: str | None, *, plain: bool = False) -> None:
        self.done = self.ended = self.finished = self.answered = self.in_large_event = self._is_closed = False
        self.gives_events = False
        self.early = 0
        self._report = Report()
        self._spec = spec
        self._status = status
        self._asked_plain = plain
        self._is_file = content_type is None
        self._content_type = JSON_TYPE if content_type is None else content_type.partition(";")[0].strip().lower()
        self._aggregator = ENDPOINTS[spec.endpoint].aggregator(spec.choices)
        self._quirks = chosen(spec.quirks) if spec.quirks else []
        self._reader = EventReader([quirk.patch() for quirk in self._quirks if quirk.patch is not None])
        self._decoder = self._reader.decoder
        self._repeats = Repeats(self._reader)
        # The bytes before it is known what they are the beginning of, and whether a byte order mark begins in them.
        self._head, self._has_mark = bytearray(), False
        self._is_json: bool | None = None
        self._json: list[bytes] = []
        self._may_be_lines, self._has_line = True, False
        self._has_chunks = False
        self._error: dict[str, Any] | None = None
        self._error_at = 0
        self._words: Any = None
        self._other_api = ""
        self._others = 0
        self._latest = 0  # the number of the latest event
        self._unreadable = 0
        self._is_cut_off = False  # the body stops within its first event
        self._halves = 0  # events of which the end is missing
        self._is_cut = False  # in the middle of a chunk with content
        self._scalar = b""
        # Large values that were read, and are no longer needed here.
        self._left: list[Any] = []
        self._too_deep = False
        self._open = self._looked_at = 0
        self._cut = self._retry_after = ""
        self._silence = 0.0

    @property
    def report(self) -> Report:
        if not self._is_closed:
            self.read_waiting()
            self._update_report()
        return self._report

    def read_waiting(self) -> None:
        """Read the bytes that wait for more like them."""
        self._merge(self._repeats.flush())

    def read_late(self) -> None:
        """Read these, and the last event if only its blank line is missing; or see whether a document is whole."""
        self.read_waiting()
        if self._looked_at + self.begun > _MOST_LOOKS * (self._report.bytes + LARGE):
            return  # it comes in pieces so slowly that each is followed by a check
        self._looked_at += self.begun
        if self._is_json:
            self.ended = self.ended or self._is_whole(b"".join(self._json))
        else:
            self._merge(self._repeats.flush_late())

    @property
    def begun(self) -> int:
        """The bytes of the event that has no blank line yet, or of a JSON document."""
        return self._report.bytes if self._is_json else self._repeats.begun

    def _update_report(self) -> None:
        self._report.events = self._reader.count
        self._report.odd = self._reader.odd.lines()

    @property
    def blocks_loop(self) -> bool:
        """Whether `finish` may take more than a few milliseconds. What was read without parsing adds only its texts."""
        parsed = self._report.bytes if self._is_json else self._repeats.parsed + self._report.bytes // 8
        return parsed > _BLOCKS_LOOP

    @property
    def _is_plain(self) -> bool:
        """Whether no event stream was asked for, and none came."""
        return self._asked_plain and not self._has_chunks

    @property
    def may_be_document(self) -> bool:
        """Whether what has come may be a JSON document, and is no event stream so far."""
        return self._is_json is not False

    def wait(self, data: bytes) -> bool:
        """Whether the next bytes may wait for more like them: together they are read much faster. If so, they do."""
        if not self._has_chunks or not self._repeats.wait(data):
            return False
        self._report.bytes += len(data)
        return True

    def feed(self, data: bytes) -> bool:
        """The next bytes of the body, in pieces of any size. False if they wait."""
        if self.wait(data):
            return False
        self._report.bytes += len(data)
        if self._is_json is None:
            data = self._sniff(data)
        if self._is_json:
            self._json.append(data)
            self._has_line = self._has_line or b"\n" in data
            if not (self._may_be_lines and self._has_line and data.strip() and self._is_lines()):
                return True
            data = self._give_back_json()
        if len(self._scalar) < _LONGEST_SCALAR:
            self._scalar += data[: _LONGEST_SCALAR - len(self._scalar)]
        before = self._reader.count
        self._merge(self._repeats.feed(data))
        if self._left:
            drop(self._left)
        is_whole = self._reader.count != before or self._decoder.between_events
        self._open = 0 if is_whole else self._open + len(data)
        self.in_large_event = self._open > _LARGE_EVENT
        return True

    def _sniff(self, data: bytes) -> bytes:
        """Find out what the body is. Returns what is to be read of it: nothing while it has only blanks."""
        self._head += data
        if not (self._has_mark or data.strip(_BLANK)):
            return b""
        data = bytes(self._head)
        start = data.removeprefix(BOM_UTF8).lstrip(_BLANK)
        self._has_mark = bool(start)
        if BOM_UTF8.startswith(start):
            return b""
        self._head.clear()
        # The first character tells; the label may be wrong (BYK/loreai#1195). In an event stream, a line that starts
        # with a bracket has no meaning.
        self._is_json = start[:1] in b"{["
        return data

    def _is_lines(self) -> bool:
        """Whether what began like a JSON document is chunks as lines of JSON, or an event stream that began with such a
        line. Known once there is more than one line."""
        line, line_end, rest = b"".join(self._json).lstrip(BOM_UTF8 + _BLANK).partition(b"\n")
        self._has_line = bool(line_end)
        if not rest.strip():
            return False
        self._may_be_lines = False
        try:
            value = jsontext.loads(line.decode(errors="replace"))
            return isinstance(value, dict) and (_is_event(value) or error_in(value) is not None)
        except (ValueError, RecursionError):
            return False

    def _give_back_json(self) -> bytes:
        """Read as an event stream from now on. Returns what has come."""
        data, self._json, self._is_json = b"".join(self._json), [], False
        return data

    def _merge(self, events: Iterable[Event]) -> None:
        if self._too_deep:
            return  # so that it does not matter which events came in one piece with the one that was
        try:
            for event in events:
                self._merge_event(event)
        except RecursionError:
            self._too_deep = True
        self.ended = self.done or self._aggregator.ended or self._error is not None or self._too_deep
        self.finished, self.early = self._has_chunks and self._aggregator.finished, self._aggregator.early

    def finish(self, cut: str = "", *, silence: float = 0.0, retry_after: str = "", location: str = "") -> Reply | None:
        """The reply to the client; None where it gets the answer as it came.

        `cut`: how the transport ended the body too early, in words, if it did; `silence`: seconds from the last byte to
        that; `retry_after`, `location`: the upstream's headers.
        """
        self._cut, self._silence, self._retry_after = cut, silence, retry_after
        reply = self._finish(cut)
        self._report.status = self._status if reply is None else reply.status
        if reply is None and self._status >= 400:
            body = b"".join(self._json) or self._scalar
            self._report.cause = cause.of_response(self._status, self._content_type, body, retry_after)
        if reply is None or (self._is_plain and not self._is_json):
            self._reader.odd = Oddities()  # it was no event stream, which is not odd
            if 300 <= self._status < 400:
                self._reader.odd.add(cause.redirected(self._status, location))
        elif not self._is_json:
            self._reader.conclude(inferred=self._report.inferred)
            if self._has_chunks and not self._is_file and self._content_type not in ("", EVENT_STREAM_TYPE):
                self._reader.odd.add(f"an event stream labelled {printable(self._content_type)}")
        self._is_closed = True
        self._update_report()
        self._report.cause = self._report.cause or cause.of_odd(self._report.odd)
        return reply

    def _finish(self, cut: str) -> Reply | None:
        if self._status < 200 or 300 <= self._status < 400 or self._status in (204, 205):
            self.read_waiting()  # to count it
            return None
        try:
            begun = 0 if self._reader.count else self._repeats.begun  # of the first event
            if self._is_json:
                body = b"".join(self._json)
                if self._is_plain_json and _is_large_document(body):
                    return None
                document = _document_in(body)
                self._left.append(document)
                if document is not None and (not self._is_events(*document) or self._is_said_again(*document)):
                    return self._plain(body, *document)
                self._merge(self._repeats.feed(self._give_back_json()))
                self._merge(self._repeats.close())
                if not self._has_chunks and self._error is None and self._words is None:
                    return self._unreadable_body(body, cut)
            self._merge(self._repeats.close())
            if self._too_deep:
                raise _too_deep()
            self._is_cut_off = self._is_cut_off or (begun > 0 and not self._reader.count and not self.done)
            if self._error is not None:
                raise UpstreamError(self._error)
            return self._failed() if self._status >= 400 else self._aggregated(cut)
        except StreamError as error:
            return self.failure(error)
        except RecursionError:
            return self.failure(_too_deep())

    def forget(self) -> None:
        """Free what was read, in short steps; the report stays."""
        left, self._left = [*self._left, self._aggregator, self._repeats], []
        self._reader.forget()
        self._aggregator = ENDPOINTS[self._spec.endpoint].aggregator(self._spec.choices)
        self._repeats = Repeats(self._reader)
        self._json, self._error, self._words = [], None, None
        drop(left)

    def so_far(self) -> Any:
        """The document of what has come, for a person: whole or not, and whatever reply that makes; None if there is
        none. It ends the answer."""
        self._merge(self._repeats.close())
        self._aggregator.shows_cut = True
        try:
            return self._aggregator.result(done=self.done, partial=True).document
        except (StreamError, RecursionError):
            return None

    def failure(self, error: StreamError) -> Reply:
        """The reply for a failure, wherever it was noticed."""
        report = self.report
        if self.gives_events and isinstance(error, IncompleteStream):
            error.advice = "Try again."
        events = "" if self._is_plain else f"{counted(report.events - self._halves, 'event')}, "
        came = f"{events}{counted(report.bytes, 'byte')}"
        context = f"Rule {self._spec.rule}; {came} received."
        status = self._status if self._status >= 400 and isinstance(error, UpstreamError) else error.status_hint
        report.status = status
        # OpenAI's clients try a 5xx again by themselves, unless this header tells them not to.
        headers = {} if error.retryable else {"x-should-retry": "false"}
        try:
            body = jsontext.dumps(error.body(context))
        except RecursionError:
            return self.failure(_too_deep())
        report.code = error.code
        report.own_code = cause.own_code(error.said) if isinstance(error, UpstreamError) else ""
        report.cause = cause.of_error(
            error,
            report,
            status=self._status,
            cut=self._cut,
            silence=self._silence,
            inside=self._is_cut_off,
            after=max(0, (self._error_at or self._reader.count) - 1),
            retry_after=self._retry_after,
            head=b"".join(self._json[:1])[:_LONGEST_SCALAR].decode(errors="replace")
            or self._scalar.decode(errors="replace"),
            label="" if self._is_file else self._content_type,
            plain=self._is_plain,
        )
        return Reply(status, body, headers)

    # A body that is JSON

    def _is_events(self, value: Any, _: str, rest: str) -> bool:
        """Whether a body is not one document but events: chunks as lines of JSON, in a list, or one as the whole
        body."""
        if not rest.strip() and self._status >= 400:
            return False
        chunks = value if isinstance(value, list) else [value]
        if all(isinstance(chunk, dict) for chunk in chunks) and any(map(_is_event, chunks)):
            return True  # those that are not chunks may be an error
        if not rest.strip():
            return False
        # A JSON answer with a stray "data: [DONE]" after it (decolua/9router#3492).
        leftover = EventStreamDecoder()
        events = [*leftover.feed(rest.encode(errors="surrogatepass")), *leftover.close()]
        return any(event.data.strip() != "[DONE]" for event in events)

    @property
    def _is_plain_json(self) -> bool:
        return self._content_type.endswith(("/json", "+json"))

    def _is_whole(self, body: bytes) -> bool:
        """Whether a body without an end is an answer or an error as one document, and not the first of several."""
        found = _document_in(body) if body[-64:].rstrip(_BLANK).endswith(b"}") else None
        self._left.append(found)
        if found is None or found[2].strip() or not isinstance(value := found[0], dict) or _is_event(value):
            return False
        is_transcript = self._spec.endpoint == "transcriptions" and "text" in value
        has_answer = is_transcript or any(isinstance(value.get(name), list) and value[name] for name in _ANSWERS)
        return has_answer or self._status >= 400 or error_in(value) is not None

    def _is_said_again(self, value: Any, _: str, rest: str) -> bool:
        """Whether no object follows an answer but the same one. Raises `CorruptedStream` where others follow it,
        whatever stands between them: those are not the parts of one, and it is not known which of them was asked
        for."""
        documents, found, at = [], value, 0
        while isinstance(found, dict) and not _is_event(found) and _has_ended(found) and not error_in(found):
            documents.append(found)
            if (at := rest.find("{", at)) < 0:
                break
            try:
                found, at = jsontext.value_at(rest, at)
            except ValueError:
                return False
        else:
            return False
        self._left.append(documents)
        if len({jsontext.dumps(each.get("id")) for each in documents}) > 1:
            error = CorruptedStream(f"the upstream's answer is {len(documents)} JSON documents, and not one")
            error.advice = "Try again."
            raise error
        return len(documents) > 1 and all(each == value for each in documents)

    def _plain(self, body: bytes, value: Any, document: str, rest: str) -> Reply | None:
        """The upstream ignored `stream`, or failed before it started to stream."""
        if self._is_plain_json and not rest.strip():
            return None
        said = value[0] if isinstance(value, list) and len(value) == 1 else value  # Gemini's error is in a list
        if self._status < 300 and isinstance(said, dict):
            error = error_in(said)
            if error is None and not _OF_A_DOCUMENT & said.keys() and words_in(said):
                error = error_from_words(said)
            if error is not None:
                raise UpstreamError(error)
        if rest.strip():
            what = "itself" if "{" in rest else "the end of an event stream"
            self._reader.odd.add(f"a JSON answer followed by {what}")
            return Reply(self._status, document.strip().encode())
        label = f"labelled {printable(self._content_type)}" if self._content_type else "without a content type"
        self._reader.odd.add(f"a JSON answer {label}")
        return Reply(self._status, body)

    def _unreadable_body(self, body: bytes, cut: str) -> Reply | None:
        if self._status >= 400:
            return None
        if cut or _stops_within(body):
            raise self._cut_document(cut)
        if self._other_api:
            raise self._another_api()
        raise self._not_json()

    def _cut_document(self, cut: str) -> IncompleteStream:
        self._report.truncated = True
        error = IncompleteStream(_with_reason("the upstream's answer stopped before its end", cut))
        error.advice = "Try again."
        return error

    def _not_json(self) -> MalformedStream:
        other = "not" if self._asked_plain else "neither an event stream nor"
        return MalformedStream(f"the upstream's answer is {other} JSON")

    # A body that is an event stream

    def _merge_event(self, event: Event) -> None:
        if self.done:
            return  # gateways in a row send [DONE] twice, or more after it
        if event.number:
            self._latest = event.number
        if len(event.data) > LONG:
            self._left.append(event.value)
        if event.error is None and event.kind is Kind.CHUNK:
            self._merge_chunk(event)
        elif event.error is not None:
            if self._is_spoken(event):
                self._has_chunks = True
            else:
                self._error_at = self._error_at or event.number
                self._error = self._error or event.error
        elif event.kind is Kind.DONE:
            self.done = True
        elif event.kind is Kind.UNREADABLE:
            if not _NO_CHOICES.search(event.data) or _CHOICES.search(event.data):
                self._unreadable = self._unreadable or event.number
        elif event.kind is Kind.CUT:
            self._halves += 1
            self._aggregator.ends_with_body = False  # the body did not end as it should
            self._is_cut_off = True
            if _MORE_CONTENT.search(event.data):
                self._is_cut = True
                self._aggregator.early += 1  # what a finish reason before it said was not the end
        elif event.kind in (Kind.TEXT, Kind.VALUE):
            self._merge_text(event)

    def _is_spoken(self, event: Event) -> bool:
        """Whether an event that looks like an error is a word of an answer that is sent word by word: "failed"."""
        is_word = event.kind is Kind.TEXT and event.name != "error" and _WORD.fullmatch(event.data) is not None
        return is_word and self._aggregator.add_text(event.data)

    def _merge_text(self, event: Event) -> None:
        """An event that is not an object. A number too may be a word of an answer that is sent as plain text."""
        is_text = event.kind is Kind.TEXT
        if (is_text or spelled(event.value) is not None) and self._aggregator.add_text(event.data):
            self._has_chunks = True
        elif is_text:
            if not is_keepalive(event.data):
                self._words = self._words or event.data
        elif words_in(event.value):
            self._words = self._words or event.value

    def _merge_chunk(self, event: Event) -> None:
        chunk, aggregator = event.value, self._aggregator
        if chunk.get("object") in aggregator.objects or aggregator.knows(chunk, event.name):
            self._has_chunks = True
            if self._repeats.pauses and _is_known_by_form(chunk, aggregator):
                self._reader.know(event, aggregator)
        elif (api := api_of(chunk, event.name)) is not None and api != self._spec.endpoint:
            self._other_api = self._other_api or api
            self._others += 1
            self._reader.odd.add(f"an event of the {api} API", event.number)
            return
        elif "." not in str(chunk.get("type")) and words_in(chunk):
            # Whether they are an error shows at the end. Of a text, the event reader notes that it is not an object.
            self._words = self._words or chunk
            self._reader.odd.add("text where a chunk should be", event.number)
            chunk = {key: value for key, value in chunk.items() if key not in _OF_A_CHUNK}
        else:
            self._has_chunks = True
        self._repeats.effect = aggregator.add(chunk, event.name)

    def _failed(self) -> Reply | None:
        """An error status whose body is not JSON and has no error event: text, or a page to pass on."""
        if self._decoder.unknown_lines >= self._decoder.lines:
            return None  # a page, whatever one of its lines looks like
        if self._words is not None:
            raise UpstreamError(error_from_words(self._words))
        text = f"The upstream answered {self._status} with an event stream that contains no error."
        raise UpstreamError(error_body(text))

    def _aggregated(self, cut: str) -> Reply | None:
        if not self._has_chunks:
            return self._without_chunks(cut)
        wants_partial = self._spec.on_truncated == "partial"
        try:
            aggregated = self._whole(cut)
        except CorruptedStream as error:
            if not wants_partial:
                raise
            self._report.cause = f"{error}"
            aggregated = self._aggregator.result(done=self.done, partial=True)
        except (IncompleteStream, EmptyStream) as error:
            if self._others and 2 * self._others >= max(self._latest, self._reader.latest):
                raise self._another_api() from None
            if self._words is not None and not (cut and wants_partial):
                raise UpstreamError(error_from_words(self._words)) from None
            if isinstance(error, EmptyStream):
                raise
            self._report.truncated = True
            if not wants_partial:
                raise IncompleteStream(_with_reason(f"{error}", cut)) from None
            self._report.cause = cause.cut_off(
                self._reader.count, cut or cause.NO_END, self._silence, inside=self._is_cut_off
            )
            aggregated = self._aggregator.result(partial=True)
        if aggregated.inferred and self._words is not None and not self._report.truncated:
            raise UpstreamError(error_from_words(self._words))
        for line in aggregated.odd:
            self._reader.odd.add(line)
        # An upstream may send anything.
        self._report.finish_reason = printable(", ".join(dict.fromkeys(aggregated.finish_reasons)))
        self._report.inferred = aggregated.inferred
        self._report.usage = usage_in(aggregated.document)
        self._left.append(aggregated)
        if self._quirks:
            patch_document(aggregated.document, self._quirks)
        if self._spec.fill:
            fill(aggregated.document, self._spec.fill)
        self.answered = not self._report.truncated
        # No document says more than its stream; to look how long one is takes as long as to write it.
        write = jsontext.dumps if self._report.bytes > LONG else jsontext.dumps_short
        return Reply(200, write(aggregated.document))

    def _whole(self, cut: str) -> Aggregated:
        """The document of a stream that came to its end, and all of it. Raises a `StreamError` for any other."""
        ended_with_body = self._aggregator.ends_with_body and not cut
        aggregated = self._aggregator.result(done=self.done or ended_with_body)
        is_broken = cut and not (self._aggregator.finished and not self._aggregator.early)
        if not self.done and (is_broken or self._is_cut):
            raise IncompleteStream("the upstream's event stream stopped before its end")
        if self._unreadable and not self._aggregator.says_all_again:
            raise CorruptedStream(
                f"event {self._unreadable:,} of the upstream's stream cannot be read, and may hold a part of the answer"
            )
        return aggregated

    def _another_api(self) -> MalformedStream:
        return MalformedStream(
            f"the upstream's events are those of the {self._other_api} API, and not of {self._spec.endpoint}"
        )

    def _is_scalar(self) -> bool:
        """Whether the body is JSON, and labelled so, but neither an object nor a list."""
        if not self._content_type.endswith("/json") or len(self._scalar) >= _LONGEST_SCALAR:
            return False
        try:
            jsontext.loads(self._scalar.decode())
        except ValueError:
            return False
        return True

    def _without_chunks(self, cut: str) -> Reply | None:
        is_page = self._decoder.unknown_lines > self._decoder.lines + _MOST_WORDS or not _is_readable(self._words)
        if self._words is not None and not is_page and not self._is_scalar():
            # Some upstreams report an error as bare text (EricLBuehler/mistral.rs#1874): the client gets it.
            raise UpstreamError(error_from_words(self._words))
        if self._other_api:
            raise self._another_api()
        if cut or (self._is_cut_off and not is_page and not self._is_scalar()):
            if self._asked_plain:
                raise self._cut_document(cut)
            self._report.truncated = True
            raise IncompleteStream(_with_reason("the upstream's event stream stopped before its first event", cut))
        if self._is_scalar():
            return None
        if is_page:
            raise self._not_json()
        if self._unreadable:
            raise CorruptedStream("no event of the upstream's stream can be read")
        raise EmptyStream("the upstream's event stream was empty")


def _is_known_by_form(chunk: dict[str, Any], aggregator: Aggregator) -> bool:
    """Whether an aggregator that knows a chunk would know any other of its form, whatever its values are."""
    if "choices" in chunk:
        return aggregator.has_choices and aggregator.knows(chunk)  # and not only by its `object`
    kind = chunk.get("type")
    return isinstance(kind, str) and kind.startswith(aggregator.families)


def _too_deep() -> MalformedStream:
    return MalformedStream("the upstream's answer is nested too deeply to be read")


def _with_reason(message: str, cut: str) -> str:
    return f"{message}: {cut}" if cut else message


def _document_in(body: bytes) -> tuple[Any, str, str] | None:
    """The JSON document that a body begins with: its value, its text, and what follows it; None if there is none."""
    try:
        return jsontext.split("".join(decoded(body.removeprefix(BOM_UTF8))))
    except ValueError:
        return None


def _stops_within(body: bytes) -> bool:
    """Whether a JSON text has more opening brackets than closing ones."""
    # String by string: to remove all of them at once would let no other thread run until it is done.
    opened = end = 0
    for string in _STRING.finditer(body):
        opened += _opened(body[end : string.start()])
        end = string.end()
    return opened + _opened(body[end:]) > 0


def _opened(marks: bytes) -> int:
    """How many more brackets are opened than closed outside strings."""
    return marks.count(b"{") + marks.count(b"[") - marks.count(b"}") - marks.count(b"]")


def _is_readable(words: Any) -> bool:
    """Whether words are for a person: not markup, and not bytes of which hardly any are text."""
    return not isinstance(words, str) or (not words.lstrip().startswith("<") and is_readable(words))


def _is_large_document(body: bytes) -> bool:
    """Whether a large body is one document, as far as its beginning and its end tell: to parse all of it would take
    longer, and more memory, than anything else."""
    head = body[:LARGE]
    ends = body[-64:].rstrip(_BLANK).endswith(b"}") and b"\ndata:" not in body[-LARGE:]
    if len(body) == len(head) or not ends or _OF_AN_EVENT.search(head):
        return False
    return _document_in(head) is None  # otherwise it is a small one, and more after it


def _has_ended(value: dict[str, Any]) -> bool:
    """Whether a JSON document says that it is a whole answer, and not a part of one: chunks of legacy completions look
    like their answers."""
    choices = value.get("choices")
    if isinstance(choices, list):
        return bool(choices) and all(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)
    return any(value.get(name) for name in ("stop_reason", "status", "data"))


def _is_event(value: dict[str, Any]) -> bool:
    """Whether a JSON document is one event of a stream, not a plain answer."""
    choices, kind = value.get("choices"), value.get("type")
    if isinstance(choices, list) and any(isinstance(choice, dict) and "delta" in choice for choice in choices):
        return True
    return str(value.get("object")).endswith(".chunk") or (isinstance(kind, str) and api_of({"type": kind}) is not None)
