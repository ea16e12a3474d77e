"""An upstream's answer, read while it comes in, and the reply that it becomes.

Joins the wire grammar, the quirks and the aggregators; knows `[DONE]`, what tells an event stream from JSON, and which
failure becomes which reply. Must not know mitmproxy or rules files. Nothing here raises.
"""

from dataclasses import dataclass
from typing import Any, Final

from ..endpoints import ENDPOINTS
from ..errors import EmptyStream, IncompleteStream, MalformedStream, StreamError, UpstreamError
from ..wire import jsontext
from ..wire.sse import EventStreamDecoder, end_of_event
from ..wire.text import printable
from .events import Event, EventReader, Kind
from .oddities import Oddities
from .patterns import Repeats
from .quirks import QUIRKS
from .report import Reply, Report

# Bytes. A JSON text that is neither an object nor a list is a word, and no book either.
_LONGEST_SCALAR: Final = 1024
_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
# Bytes. The begin of an event that is longer than this goes to the decoder: it is not to be copied for every piece.
_LONGEST_REST: Final = 8 * 1024
# Bytes of an answer that was parsed. What is left to be done for a larger one is not to be done on an event loop.
_HEAVY: Final = 96 * 1024
# Bytes. Pieces that are alike wait until they are this many. Nothing ends with them, so nobody waits for them.
_MOST_WAITING: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """A forced request: all that is needed to make an answer of its event stream. Of plain values, so that it can
    travel with a flow."""

    rule: str
    endpoint: str
    model: str = ""
    choices: int = 1
    on_truncated: str = "error"
    quirks: tuple[str, ...] = ()

    def read(self, status: int = 200, content_type: str = "") -> "AnswerReader":
        """Begin to read an answer with this status and content type."""
        return AnswerReader(self, status, content_type)


class AnswerReader:
    """An upstream's answer as it comes in: feed it the decoded body, then `finish`.

    `report` says what has come so far; `ended` that nothing more needs to come, `finished` that only usage may.
    """

    def __init__(self, spec: AnswerSpec, status: int, content_type: str) -> None:
        self.done = False
        self._report = Report()
        self._spec = spec
        self._status = status
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._aggregator = ENDPOINTS[spec.endpoint].aggregator(spec.choices)
        self._patches = [QUIRKS[name].patch() for name in spec.quirks if name in QUIRKS]
        self._reader = EventReader(self._patches)
        self._decoder = self._reader.decoder
        self._repeats = Repeats()
        self._head = b""
        self._rest = b""
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._parsed = 0
        self._is_json: bool | None = None
        self._json: list[bytes] = []
        self._chunks = 0
        self._error: dict[str, Any] | None = None
        self._texts: list[str] = []
        self._scalar = b""
        self._too_deep = False

    @property
    def report(self) -> Report:
        self._catch_up()
        self._report.events = self._reader.count
        self._report.odd = self._reader.odd.lines()
        return self._report

    @property
    def ended(self) -> bool:
        return self.done or self._aggregator.ended or self._error is not None

    @property
    def finished(self) -> bool:
        return self._chunks > 0 and self._aggregator.finished

    @property
    def heavy(self) -> bool:
        """Whether `finish` may take more than some milliseconds. What was not parsed, because it is like what came
        before, adds its texts alone."""
        parsed = self._report.bytes if self._is_json else self._parsed + self._report.bytes // 8
        return parsed > _HEAVY

    def feed(self, data: bytes) -> bool:
        """The next bytes of the body, in pieces of any size. True if they were read at once, False if they wait for
        more: what only says more of the same is read much cheaper in one go."""
        self._report.bytes += len(data)
        if self._repeats.is_like(data) and (self._waiting or self._is_at_event):
            self._waiting.append(data)
            self._waiting_size += len(data)
            if self._waiting_size < _MOST_WAITING:
                return False
            data = b""
        if self._waiting:
            data = self._waited() + data
        if self._is_json is None:
            self._head += data
            begun = self._head.removeprefix(_BOM).lstrip(_BLANK)
            if not begun or _BOM.startswith(begun):
                self._head = self._head[: len(_BOM)]
                return True
            # What a body is, its first character tells; labels are not to be believed (BYK/loreai#1195). No line of
            # an event stream that begins with a bracket says anything.
            self._is_json = begun[:1] in b"{["
            data, self._head = self._head, b""
        if self._is_json:
            self._json.append(data)
            return True
        if len(self._scalar) < _LONGEST_SCALAR:
            self._scalar += data[:_LONGEST_SCALAR]
        self._read(data)
        return True

    @property
    def _is_at_event(self) -> bool:
        return not self._rest and self._decoder.between_events

    def _waited(self) -> bytes:
        data = b"".join(self._waiting)
        self._waiting = []
        self._waiting_size = 0
        return data

    def _catch_up(self) -> None:
        if self._waiting:
            self._read(self._waited())

    def _read(self, data: bytes) -> None:
        data, self._rest = self._rest + data, b""
        at = 0
        while at < len(data):
            if self._repeats.known and self._decoder.between_events:
                begin = at
                at, count = self._repeats.take(data, begin)
                if self._repeats.replaced:
                    self._reader.look_for_replaced(data[begin:at])
                self._reader.count += count
                self._chunks += count
                if at == len(data):
                    return
            end = end_of_event(data, at)
            if end < 0:
                end = len(data)
                if self._may_wait(data, at):
                    self._rest = data[at:]
                    return
            self._read_event(data[at:end])
            at = end

    def _may_wait(self, data: bytes, at: int) -> bool:
        """Whether these last bytes are the begin of an event that may fit the pattern once the rest of it is there. In
        the middle of a line nothing can have ended."""
        within_line = data[-1] not in b"\r\n" and len(data) - at <= _LONGEST_REST
        return within_line and self._repeats.known and self._decoder.between_events

    def _read_event(self, piece: bytes) -> None:
        """A piece that holds one whole event at the most; the next ones may be like it."""
        self._parsed += len(piece)
        begins = self._decoder.between_events
        events = self._reader.feed(piece)
        for event in events:
            chunk = self._take(event)
            if begins and len(events) == 1 and chunk is not None and not self._patches and self._repeats.wanted:
                self._repeats.learn(piece, event.data.encode(errors="surrogatepass"), self._aggregator.again(chunk))

    def finish(self, cut: str = "") -> Reply | None:
        """The reply to the client; None where the answer is to go to it as it came.

        `cut` says in words how the transport ended the body too early, if it did.
        """
        reply = self._finish(cut)
        if reply is None:
            self._report.status = self._status
            self._reader.odd = Oddities()  # it was no event stream, which is not odd
        elif not self._is_json:
            self._reader.conclude(inferred=self._report.inferred)
        return reply

    def _finish(self, cut: str) -> Reply | None:
        self._catch_up()
        if self._status < 200 or 300 <= self._status < 400 or self._status in (204, 205):
            return None
        try:
            if self._is_json:
                return self._plain(b"".join(self._json), cut)
            self._read_event(self._rest)
            self._rest = b""
            for event in self._reader.close():
                self._take(event)
            return self._failed() if self._status >= 400 else self._aggregated(cut)
        except StreamError as error:
            return self.failure(error)
        except RecursionError:
            return self.failure(MalformedStream("the upstream's answer nests too deeply to be read"))

    def failure(self, error: StreamError) -> Reply:
        """The reply for a failure, wherever it was noticed."""
        self._catch_up()
        self._report.code = error.code
        context = f"Rule {self._spec.rule}; {self._reader.count:,} events, {self._report.bytes:,} bytes came."
        status = self._status if self._status >= 400 and isinstance(error, UpstreamError) else error.status_hint
        self._report.status = status
        # OpenAI's clients try a 5xx again by themselves, unless this header says that it is no use.
        headers = {} if error.retryable else {"x-should-retry": "false"}
        return Reply(status, jsontext.dumps(error.body(context)), headers)

    # A body that is JSON

    def _plain(self, body: bytes, cut: str) -> Reply | None:
        """The upstream ignored `stream`, or failed before it began to stream."""
        text = body.decode("utf-8-sig", errors="replace")
        try:
            _, document, rest = jsontext.split(text)
        except ValueError:
            return self._unreadable(cut)
        if rest.strip():
            # A JSON answer with a stray "data: [DONE]" behind it (decolua/9router#3492).
            leftover = EventStreamDecoder()
            events = [*leftover.feed(rest.encode()), *leftover.close()]
            if leftover.unknown_lines or any(event.data.strip() != "[DONE]" for event in events):
                return self._unreadable(cut)
            self._reader.odd.add("a JSON answer with an event stream's end behind it")
            self._report.status = self._status
            return Reply(self._status, document.strip().encode())
        if self._content_type.endswith(("/json", "+json")):
            return None
        self._reader.odd.add(f"a JSON answer labelled {printable(self._content_type) or 'as nothing'}")
        self._report.status = self._status
        return Reply(self._status, body)

    def _unreadable(self, cut: str) -> Reply | None:
        if self._status >= 400:
            return None
        if cut:
            self._report.truncated = True
            raise IncompleteStream(f"the upstream's answer stopped before its end: {cut}")
        raise MalformedStream("the upstream's answer is neither an event stream nor JSON")

    # A body that is an event stream

    def _take(self, event: Event) -> dict[str, Any] | None:
        """Merge one event; returns its chunk, if it was one."""
        self._repeats.forget()
        if self.done:
            return None  # gateways in a row say [DONE] twice, or more behind it
        if event.error is not None:
            self._error = self._error or event.error
        elif event.kind is Kind.DONE:
            self.done = True
        elif event.kind is Kind.TEXT:
            self._texts.append(event.data)
        elif event.kind is Kind.CHUNK:
            self._chunks += 1
            chunk: dict[str, Any] = event.value
            try:
                self._aggregator.add(chunk, event.name)
            except RecursionError:
                self._too_deep = True
            return chunk
        return None

    def _failed(self) -> Reply | None:
        """An error status whose body is no JSON: the error inside an event stream, or a page to pass on."""
        if self._error is not None:
            raise UpstreamError(self._error)
        if self._decoder.unknown_lines >= self._decoder.lines:
            return None  # a page, whatever one of its lines looks like
        said = " ".join(self._texts) or f"The upstream answered {self._status} with an event stream and no error in it."
        raise UpstreamError({"error": {"message": said, "type": "upstream_error", "param": None, "code": None}})

    def _aggregated(self, cut: str) -> Reply | None:
        if self._error is not None:
            raise UpstreamError(self._error)
        if self._too_deep:
            raise MalformedStream("an event of the upstream's stream nests too deeply to be read")
        if not self._chunks:
            return self._without_chunks(cut)
        try:
            aggregate = self._aggregator.result(done=self.done)
        except IncompleteStream as error:
            self._report.truncated = True
            if self._spec.on_truncated != "partial":
                raise IncompleteStream(f"{error}: {cut}") if cut else error from None
            aggregate = self._aggregator.result(partial=True)
        self._report.finish_reasons = tuple(map(printable, aggregate.finish_reasons))
        self._report.inferred = aggregate.inferred
        self._report.usage = aggregate.document.get("usage") if isinstance(aggregate.document, dict) else None
        self._report.status = 200
        return Reply(200, jsontext.dumps(aggregate.document))

    def _is_scalar(self) -> bool:
        """Whether the body is JSON, and says so, but is neither an object nor a list."""
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
            # Some upstreams report an error as bare text (EricLBuehler/mistral.rs#1874): the client is to read it.
            raise MalformedStream(f"the upstream's event stream has no JSON in it, but says: {' '.join(self._texts)}")
        if self._is_scalar():
            return None
        if self._decoder.unknown_lines > self._decoder.lines:
            raise MalformedStream("the upstream's answer is neither an event stream nor JSON")
        raise EmptyStream("the upstream's event stream had no event in it")
