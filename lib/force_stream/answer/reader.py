"""An upstream's answer, read while it comes in, and the reply that it becomes.

Joins the events, the quirks and the aggregators; knows what tells an event stream from JSON, and which failure becomes
which reply. Must not know mitmproxy, rules files, or how repeated events are read. Nothing here raises.
"""

from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ..endpoints import ENDPOINTS
from ..errors import EmptyStream, IncompleteStream, MalformedStream, StreamError, UpstreamError
from ..wire import jsontext
from ..wire.sse import EventStreamDecoder
from ..wire.text import printable
from .events import Event, EventReader, Kind
from .fill import fill
from .oddities import Oddities
from .patterns import Repeats
from .quirks import chosen, patch_document
from .report import Reply, Report

# Bytes. Scalar JSON bodies are short.
_LONGEST_SCALAR: Final = 1024
_BLANK: Final = b" \t\r\n"
# Bytes of an answer that were parsed. Finishing a larger one takes too long for an event loop.
_BLOCKS_LOOP: Final = 96 * 1024


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """A forced request: all that is needed to make an answer of its event stream. It consists of plain values, so that
    it can travel with a flow."""

    rule: str
    endpoint: str
    model: str = ""
    choices: int = 1
    on_truncated: str = "error"
    quirks: tuple[str, ...] = ()
    fill: str = ""

    def read(self, status: int = 200, content_type: str = "") -> "AnswerReader":
        """A reader for an answer with this status and content type."""
        return AnswerReader(self, status, content_type)


class AnswerReader:
    """An upstream's answer as it comes in: feed it the decoded body, then `finish`.

    `report`: what has come so far; `ended`: nothing more needs to come; `finished`: only usage may.
    """

    def __init__(self, spec: AnswerSpec, status: int, content_type: str) -> None:
        self.done = self.ended = self.finished = self._is_closed = False
        self._report = Report()
        self._spec = spec
        self._status = status
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._aggregator = ENDPOINTS[spec.endpoint].aggregator(spec.choices)
        self._quirks = chosen(spec.quirks)
        self._reader = EventReader([quirk.patch() for quirk in self._quirks if quirk.patch is not None])
        self._decoder = self._reader.decoder
        self._repeats = Repeats(self._reader)
        self._head = b""
        self._is_json: bool | None = None
        self._json: list[bytes] = []
        self._has_chunks = False
        self._error: dict[str, Any] | None = None
        self._texts: list[str] = []
        self._scalar = b""
        self._too_deep = False

    @property
    def report(self) -> Report:
        if not self._is_closed:
            self.read_waiting()
            self._update_report()
        return self._report

    def read_waiting(self) -> None:
        """Read the bytes that wait for more like them."""
        self._merge(self._repeats.flush())

    def _update_report(self) -> None:
        self._report.events = self._reader.count
        self._report.odd = self._reader.odd.lines()

    @property
    def blocks_loop(self) -> bool:
        """Whether `finish` may take more than a few milliseconds. What was read without parsing adds only its texts."""
        parsed = self._report.bytes if self._is_json else self._repeats.parsed + self._report.bytes // 8
        return parsed > _BLOCKS_LOOP

    def feed(self, data: bytes) -> bool:
        """The next bytes of the body, in pieces of any size. True if they were read at once, False if they wait for
        more like them: together they are read much faster."""
        self._report.bytes += len(data)
        if self._is_json is None:
            data = self._sniff(data)
        if self._is_json:
            self._json.append(data)
            return True
        if not self._has_chunks and len(self._scalar) < _LONGEST_SCALAR:
            self._scalar += data[:_LONGEST_SCALAR]
        events = self._repeats.feed(data) if data else ()
        if events is None:
            return False
        self._merge(events)
        return True

    def _sniff(self, data: bytes) -> bytes:
        """Find out what the body is. Returns what is to be read of it: nothing while it has only blanks."""
        data, self._head = self._head + data, b""
        start = data.removeprefix(BOM_UTF8).lstrip(_BLANK)
        if not start or BOM_UTF8.startswith(start):
            self._head = data[: len(BOM_UTF8)]
            return b""
        # The first character tells; the label may be wrong (BYK/loreai#1195). In an event stream, a line that starts
        # with a bracket has no meaning.
        self._is_json = start[:1] in b"{["
        return data

    def _merge(self, events: Iterable[Event]) -> None:
        for event in events:
            self._merge_event(event)
            self.ended = self.done or self._aggregator.ended or self._error is not None
            self.finished = self._has_chunks and self._aggregator.finished

    def finish(self, cut: str = "") -> Reply | None:
        """The reply to the client; None where it gets the answer as it came.

        `cut`: how the transport ended the body too early, in words, if it did.
        """
        self.read_waiting()
        reply = self._finish(cut)
        self._report.status = self._status if reply is None else reply.status
        if reply is None:
            self._reader.odd = Oddities()  # it was no event stream, which is not odd
        elif not self._is_json:
            self._reader.conclude(inferred=self._report.inferred)
        self._is_closed = True
        self._update_report()
        return reply

    def _finish(self, cut: str) -> Reply | None:
        if self._status < 200 or 300 <= self._status < 400 or self._status in (204, 205):
            return None
        try:
            if self._is_json:
                return self._plain(b"".join(self._json), cut)
            self._merge(self._repeats.close())
            if self._error is not None:
                raise UpstreamError(self._error)
            return self._failed() if self._status >= 400 else self._aggregated(cut)
        except StreamError as error:
            return self.failure(error)
        except RecursionError:
            return self.failure(MalformedStream("the upstream's answer nests too deeply to be read"))

    def failure(self, error: StreamError) -> Reply:
        """The reply for a failure, wherever it was noticed."""
        report = self.report
        report.code = error.code
        context = f"Rule {self._spec.rule}; {report.events:,} events, {report.bytes:,} bytes came."
        status = self._status if self._status >= 400 and isinstance(error, UpstreamError) else error.status_hint
        report.status = status
        # OpenAI's clients try a 5xx again by themselves, unless this header tells them not to.
        headers = {} if error.retryable else {"x-should-retry": "false"}
        return Reply(status, jsontext.dumps(error.body(context)), headers)

    # A body that is JSON

    def _plain(self, body: bytes, cut: str) -> Reply | None:
        """The upstream ignored `stream`, or failed before it started to stream."""
        text = body.decode("utf-8-sig", errors="replace")
        try:
            _, document, rest = jsontext.split(text)
        except ValueError:
            return self._unreadable(cut)
        if rest.strip():
            # A JSON answer with a stray "data: [DONE]" after it (decolua/9router#3492).
            leftover = EventStreamDecoder()
            events = [*leftover.feed(rest.encode()), *leftover.close()]
            if leftover.unknown_lines or any(event.data.strip() != "[DONE]" for event in events):
                return self._unreadable(cut)
            self._reader.odd.add("a JSON answer with the end of an event stream after it")
            return Reply(self._status, document.strip().encode())
        if self._content_type.endswith(("/json", "+json")):
            return None
        self._reader.odd.add(f"a JSON answer labelled {printable(self._content_type) or 'as nothing'}")
        return Reply(self._status, body)

    def _unreadable(self, cut: str) -> Reply | None:
        if self._status >= 400:
            return None
        if cut:
            self._report.truncated = True
            raise IncompleteStream(f"the upstream's answer stopped before its end: {cut}")
        raise MalformedStream("the upstream's answer is neither an event stream nor JSON")

    # A body that is an event stream

    def _merge_event(self, event: Event) -> None:
        if self.done:
            return  # gateways in a row send [DONE] twice, or more after it
        if event.error is not None:
            self._error = self._error or event.error
        elif event.kind is Kind.CHUNK:
            self._has_chunks = True
            try:
                self._repeats.effect = self._aggregator.add(event.value, event.name)
            except RecursionError:
                self._too_deep = True
        elif event.kind is Kind.DONE:
            self.done = True
        elif event.kind is Kind.TEXT:
            self._texts.append(event.data)

    def _failed(self) -> Reply | None:
        """An error status whose body is not JSON and has no error event: text, or a page to pass on."""
        if self._decoder.unknown_lines >= self._decoder.lines:
            return None  # a page, whatever one of its lines looks like
        text = " ".join(self._texts) or f"The upstream answered {self._status} with an event stream and no error in it."
        raise UpstreamError({"error": {"message": text, "type": "upstream_error", "param": None, "code": None}})

    def _aggregated(self, cut: str) -> Reply | None:
        if self._too_deep:
            raise MalformedStream("an event of the upstream's stream nests too deeply to be read")
        if not self._has_chunks:
            return self._without_chunks(cut)
        try:
            aggregated = self._aggregator.result(done=self.done)
        except IncompleteStream as error:
            self._report.truncated = True
            if self._spec.on_truncated != "partial":
                raise IncompleteStream(f"{error}: {cut}") if cut else error from None
            aggregated = self._aggregator.result(partial=True)
        # An upstream may send anything.
        self._report.finish_reason = printable(", ".join(dict.fromkeys(aggregated.finish_reasons)))
        self._report.inferred = aggregated.inferred
        self._report.usage = aggregated.document.get("usage") if isinstance(aggregated.document, dict) else None
        patch_document(aggregated.document, self._quirks)
        fill(aggregated.document, self._spec.fill)
        return Reply(200, jsontext.dumps(aggregated.document))

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
        if cut:
            self._report.truncated = True
            raise IncompleteStream(f"the upstream's event stream stopped before its first event: {cut}")
        if self._texts:
            # Some upstreams report an error as bare text (EricLBuehler/mistral.rs#1874): the client gets it.
            raise MalformedStream(f"the upstream's event stream has no JSON, only text: {' '.join(self._texts)}")
        if self._is_scalar():
            return None
        if self._decoder.unknown_lines > self._decoder.lines:
            raise MalformedStream("the upstream's answer is neither an event stream nor JSON")
        raise EmptyStream("the upstream's event stream was empty")
