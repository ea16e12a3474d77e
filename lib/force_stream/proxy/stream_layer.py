"""mitmproxy's HTTP stream layer, where an upstream's answer can be observed while it comes in.

The one module that touches mitmproxy's internals. mitmproxy's hooks see a body only when it is whole, and a body that
is cut off never: the client gets a page of mitmproxy's own. Here a subclass of its `HttpStream` gives each piece to the
flow's `Attempt`, goes on as if the response had ended when the transport cuts it off, gives up when a limit has passed,
and answers in the upstream's place when there is no response at all.

Must not know JSON or events. `check` says whether mitmproxy is what this module expects; the names are the same in
12.0.1 to 12.3.1, but mitmproxy does not guarantee them.
"""

import asyncio
import gc
import logging
import re
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from operator import attrgetter
from types import ModuleType
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary, ref

from mitmproxy import ctx, http
from mitmproxy import flow as mitmflow
from mitmproxy.addonmanager import traverse
from mitmproxy.addons import clientplayback
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.net.http import validate
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer, server
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _base, _events, _hooks, _http1, _http2
from mitmproxy.proxy.server import ConnectionHandler

from ..answer.report import EVENT_STREAM_TYPE
from ..errors import OversizedStream
from . import bodies, cors
from .attempt import Attempt
from .chunked import ChunkedClient, PollRequested, unknown_h11
from .client_wait import ClientWait, Deadline
from .goaway import DrainingClient, NotTaken, unknown_buffer, unknown_h2
from .guard import Guard
from .inject import Cut, Deliver, Injection, Injections, Respond, Step
from .response import (
    WITHOUT_BODY,
    begins_events,
    early_head,
    ended,
    make_sendable,
    may_be_document,
    set_reply,
    streams,
    unreachable,
)
from .response import fault as reply_of_fault
from .shortcut import offer, unknown_reader

logger = logging.getLogger("force_stream")

# Seconds. A wakeup cannot be cancelled, and keeps its stream in memory until it fires. None is longer than this, so no
# stream outlives its flow by more.
LONGEST_SLEEP: Final = 1.0
# Seconds. Clocks and timers are no finer, so two wakeups this close are one.
SHORTEST_SLEEP: Final = 0.005
# Bytes. Once a flow with larger bodies has ended, they do not wait for the next collection of garbage.
_LARGE: Final = 1024 * 1024
# What may not be in the value of a header.
_UNSENDABLE: Final = re.compile(rb"[\0\r\n]")
# How often a request is sent that upstreams do not take because they are going away.
MOST_SENDINGS: Final = 10
# The handlers of requests that the addon sends itself, by their clients' ids.
_REPLAYS: Final[WeakValueDictionary[str, ConnectionHandler]] = WeakValueDictionary()

type WaitOf = Callable[[http.HTTPFlow], ClientWait | None]
type Commands = Generator[commands.Command, Any, Any]

_NEEDED: Final[Mapping[ModuleType, str]] = {
    http_layers: """
        HttpStream._handle_event HttpStream.handle_event HttpStream.state_wait_for_response_headers
        HttpStream.state_consume_response_body HttpStream.start_response_stream
        HttpStream.state_stream_response_body
        HttpStream.state_done HttpStream.state_errored
        HttpStream.make_server_connection HttpStream.handle_protocol_error HttpStream.check_body_size
        HttpStream.check_invalid HttpStream.check_killed HttpStream.send_response HttpStream.flow_done
        HttpStream.child_layer
        HttpLayer.make_stream HttpLayer.event_to_child SendHttp DropStream GetHttpConnection
        """,
    _base: "ReceiveHttp",
    _http1: "Http1Client.read_body Http1Client.read_headers",
    _http2: """
        Http2Client._handle_event Http2Client.handle_h2_event Http2Client.close_connection Http2Client.is_closed
        """,
    _events: """
        HttpEvent RequestHeaders RequestData RequestEndOfMessage
        ResponseHeaders ResponseData ResponseTrailers ResponseEndOfMessage ResponseProtocolError
        RequestProtocolError ErrorCode.CANCEL ErrorCode.GENERIC_SERVER_ERROR
        """,
    _hooks: "HttpErrorHook HttpResponseHook",
    validate: "validate_headers",
    commands: "CloseConnection Log RequestWakeup",
    events: "CommandCompleted DataReceived Event Wakeup",
    layer: "NextLayer Paused",
    server: "ConnectionHandler.server_event ConnectionIO.handler ConnectionIO.reader",
    clientplayback: "ReplayHandler.replay",
}


def check() -> str:
    """What about mitmproxy is not as this module expects, in words; "" if everything is."""
    for module, names in _NEEDED.items():
        for name in names.split():
            try:
                attrgetter(name)(module)
            except AttributeError:
                return f"{module.__name__} has no {name}"
    return ""


_UNKNOWN_H11: Final = unknown_h11()
_UNKNOWN_H2: Final = unknown_h2()
_UNKNOWN_READER: Final = unknown_reader()


class _Faulted(events.Event):
    """An event that a stream handles when handling another one has raised. `again`: that one was such an event too."""

    def __init__(self, again: bool) -> None:
        self.again = again


class ObservedStream(http_layers.HttpStream):
    """An HTTP stream that feeds its flow's attempt, and serves the client that waits. Without either it does exactly
    what mitmproxy's own does. `receiver`: the attempt, while it may be given the body's pieces as they are read;
    `ahead`: how many bytes it has got that h2 has not read yet. `pass_on`: has a flow's answer go to its client as it
    comes. `orphans`: the streams that go on without their clients."""

    wait_of: WaitOf
    pass_on: Callable[[http.HTTPFlow], None]
    orphans: WeakSet[http_layers.HttpStream]
    warn_of_streaming: Callable[[Attempt], None]
    injections: Injections
    receiver: Attempt | None = None
    ahead = 0

    _wait: ClientWait | None = None
    _attempt: Attempt | None = None
    _guard: Guard | None = None
    _connected = _answered = _hooked = False
    _sendings = 1
    _wake_at: float | None = None
    _stalled_until: float | None = None
    _steps: Iterator[Step] = iter(())

    def __init__(self, context: Context, stream_id: int) -> None:
        super().__init__(context, stream_id)
        self._held: list[events.Event] = []

    # Events

    def handle_event(self, event: events.Event) -> Commands:
        try:
            yield from self._handle_while_paused(event)
        except Exception as fault:
            if self._wait is None:
                raise
            yield from self._recover(fault)
        if self._wait is not None and not self.flow.live:
            self._let_go_if_ended()

    def _let_go_if_ended(self) -> None:
        """Let go of a flow that has ended. mitmproxy's streams refer to themselves, so they stay until a full
        collection of garbage, and timers keep them as well; the bodies need not wait for that. Frames that mitmproxy's
        checks of types (typecheck.py) leave as garbage have the flow too: for those, a young collection is enough."""
        assert self._wait is not None
        http_layer, is_broken = self._http_layer(), self.client_state == self.server_state == self.state_errored
        is_dropped = http_layer is not None and http_layer.streams.get(self.stream_id) is not self
        if self.child_layer is not None or not (is_dropped or is_broken):
            return
        attempt = self._attempt if self._guard is None else self._guard.attempt
        size = bodies.size_of(self.flow)
        if attempt is not None:
            size += attempt.size
            attempt.forget()
        if size > _LARGE:
            with suppress(RuntimeError):
                asyncio.get_running_loop().call_soon(gc.collect, 1)
        self._wait.guard = None  # they refer to each other
        self._wait = self._attempt = self._guard = self.receiver = None
        self._held, self._steps = [], iter(())
        self.orphans.discard(self)
        self._handle_event = _ignore  # type: ignore[method-assign]
        del self.flow

    def _recover(self, fault: Exception) -> Commands:
        """The one place for bugs in the addon below the hooks; mitmproxy would leave the client without an answer."""
        if self._waits_for(_hooks.HttpResponseHook):
            # The answer is being made; what failed are the heartbeats until then.
            yield _fault_line("no heartbeats any more", fault)
            return
        for again in (False, True):
            self._give_up_waiting()
            if self._hooked:
                break
            if self._attempt is None:
                raise fault
            self._attempt.record_bug(fault)
            try:
                yield from super().handle_event(_Faulted(again))
                return
            except Exception as another:
                fault = another
        yield _fault_line("the client's answer ends short", fault)
        if not self._hooked:
            # Whoever waits for this flow to have an outcome, such as the flow that it is another try of.
            yield from self._tell_error("a bug in the addon")
        yield from self._end_short()

    def _tell_error(self, message: str) -> Commands:
        self.flow.response = None
        self.flow.error = mitmflow.Error(message)
        ended = _hooks.HttpErrorHook(self.flow)
        ended.blocking = False
        yield ended

    def _give_up_waiting(self) -> None:
        if self._paused is not None:
            self._paused.generator.close()
            self._paused = None

    def _handle_while_paused(self, event: events.Event) -> Commands:
        """mitmproxy holds a stream's events back while the stream waits for a connection, or for its `response` hook,
        which may wait for other attempts; the clock goes on, and the client may leave."""
        wait = self._wait
        if wait is not None and isinstance(event, _events.RequestProtocolError):
            wait.leave()
            if wait.is_kept:
                self.orphans.add(self)
                yield commands.Log(f"{wait.rule.name}: the client gave up; its answer is read to its end")
                return
        elif wait is not None and isinstance(event, events.Wakeup):
            if self._waits_for(_hooks.HttpResponseHook):
                yield from self._poll_between_attempts(wait)
                return
            if self._attempt is not None and self._waits_for(http_layers.GetHttpConnection):
                if self._is_forgotten():
                    self._attempt.cut("server closed connection")
                deadline = wait.poll()
                if deadline is not Deadline.ANSWER:
                    self._wake_at = None
                    yield from self._wait_on(deadline)
                    return
                self._give_up_waiting()
        yield from super().handle_event(event)

    def _is_forgotten(self) -> bool:
        """Whether mitmproxy will never say that the awaited connection is there, or not: one that is reset before its
        peer's name is asked for has none, and an assertion about that fails (server.py, open_connection). Through an
        upstream proxy it is the connection to that proxy; the one inside has no peer, and is no TCP connection."""
        assert self._paused is not None
        http_layer = self._http_layer()
        if http_layer is None:
            return False
        awaited = [
            http_layer.connections[connection]
            for connection, requests in http_layer.waiting_for_establishment.items()
            if any(request is self._paused.command for request in requests)
        ]
        return any(
            connection.state is ConnectionState.OPEN and connection.timestamp_tcp_setup and connection.peername is None
            for connection, owner in http_layer.connections.items()
            if owner in awaited and isinstance(connection, Server)
        )

    def _http_layer(self) -> http_layers.HttpLayer | None:
        return next((one for one in self.context.layers[::-1] if isinstance(one, http_layers.HttpLayer)), None)

    def _waits_for(self, kind: type[commands.Command]) -> bool:
        return self._paused is not None and isinstance(self._paused.command, kind)

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, _Faulted):
            yield from self._answer_empty() if event.again else self._answer()
        elif isinstance(event, PollRequested):
            yield from self._follow_up()
        elif isinstance(event, events.Wakeup):
            yield from self._poll()
        elif isinstance(event, events.CommandCompleted) or (self._answered and isinstance(event, _FROM_UPSTREAM)):
            return  # a connection that came too late, and what an upstream sends when the client has its answer
        elif isinstance(event, _events.ResponseTrailers) and not (
            self.flow.request.is_http2 or self.flow.request.is_http3
        ):
            return  # mitmproxy cannot send them over HTTP/1, and would leave its client waiting
        else:
            yield from super()._handle_event(event)

    # The clock

    def _wake_in(self, seconds: float | None) -> Commands:
        seconds = LONGEST_SLEEP if seconds is None else max(min(seconds, LONGEST_SLEEP), SHORTEST_SLEEP)
        wake_at = self._now() + seconds
        if self._wake_at is None or wake_at < self._wake_at - SHORTEST_SLEEP:
            taken = self._take_timer(wake_at)
            self._wake_at = wake_at if taken is None else taken
            if taken is None:
                timer = commands.RequestWakeup(seconds)
                if (http_layer := self._http_layer()) is not None:
                    http_layer.latest_timer = timer, wake_at  # type: ignore[attr-defined]
                yield timer

    def _take_timer(self, until: float) -> float | None:
        """Take over the latest timer of this connection, if its stream has ended, and return when it fires: short
        answers that follow each other would leave one each behind. None if there is none, or only one that is later."""
        http_layer = self._http_layer()
        timer, moment = getattr(http_layer, "latest_timer", (None, 0.0))
        if http_layer is None or timer is None or not self._now() < moment <= until:
            return None
        owner = http_layer.command_sources.get(timer)
        if not isinstance(owner, http_layers.HttpStream) or hasattr(owner, "flow"):
            return None
        http_layer.command_sources[timer] = self
        return float(moment)

    def _now(self) -> float:
        assert self._wait is not None
        return self._wait.clock()

    def _has_passed(self, moment: float | None) -> bool:
        return moment is not None and self._now() >= moment - SHORTEST_SLEEP

    def _poll_between_attempts(self, wait: ClientWait) -> Commands:
        """Heartbeats for a client whose `response` hook waits for another attempt."""
        if self._has_passed(self._wake_at):
            self._wake_at = None
        if wait.heartbeat is None:
            return
        if wait.poll() is Deadline.HEARTBEAT:
            yield from self._heartbeat(wait)
        yield from self._wake_in(wait.next_deadline())

    def _poll(self) -> Commands:
        if self._has_passed(self._wake_at):
            self._wake_at = None
        if self._wait is None or self._is_over:
            return
        if self._guard is not None:
            yield from self._poll_guarded(self._wait, self._guard)
        if self._attempt is None:
            return
        if self._has_passed(self._stalled_until):
            yield from self._go_on(self._attempt)
            if self._is_over:
                return
        if self._connected and self._stalled_until is None and self.context.server.timestamp_end is not None:
            # mitmproxy sends no event for an end of a connection whose handler just waits for its turn (server.py,
            # drain_writers): of several that are reset at once, some would keep their streams waiting for ever.
            self._attempt.cut("server closed connection")
        yield from self._wait_on(self._wait.poll())

    def _wait_on(self, deadline: Deadline) -> Commands:
        """Do what is due, and ask to be woken when something else may be."""
        assert self._wait is not None
        assert self._attempt is not None
        if deadline is Deadline.ANSWER:
            yield from self._answer()
        elif deadline is Deadline.HEARTBEAT:
            yield from self._heartbeat(self._wait)
        if not self._is_over and not self._attempt.is_final:
            yield from self._wake_in(self._wait.next_deadline())

    def _poll_guarded(self, wait: ClientWait, guard: Guard) -> Commands:
        if not guard.is_on or self.server_state != self.state_stream_response_body:
            return
        if self.context.server.timestamp_end is not None:
            guard.attempt.cut("server closed connection")  # as in `_poll`
        deadline = wait.poll()
        if guard.is_broken:
            yield from self._leave_upstream()
            yield from self.send_response(already_streamed=True)
            return
        if deadline is Deadline.HEARTBEAT:
            yield from self._heartbeat(wait)
        if not guard.attempt.is_final:
            yield from self._wake_in(wait.next_deadline())

    @property
    def timers(self) -> list[commands.RequestWakeup]:
        """The wakeups that it has asked for."""
        http_layer = self._http_layer()
        sources = {} if http_layer is None else http_layer.command_sources
        return [asked for asked, by in sources.items() if by is self and isinstance(asked, commands.RequestWakeup)]

    @property
    def kept(self) -> asyncio.Future[Any]:
        """What comes of it, for a stream that goes on without its client."""
        assert self._wait is not None
        assert self._wait.kept is not None
        return self._wait.kept

    @property
    def _is_over(self) -> bool:
        ended = (self.state_done, self.state_errored)
        return self._answered or self.server_state in ended or self.client_state == self.state_errored

    # The upstream's side

    def make_server_connection(self) -> Commands:
        connecting: Commands = super().make_server_connection()
        self._wait = self.wait_of(self.flow)
        if self._wait is None:
            self._leave_to_mitmproxy()
            return (yield from connecting)
        self._attempt = self._wait.attempt
        if self._attempt is not None:
            if not self._attempt.observed:
                self._attempt.observed = True
                self._attempt.begin()
                self._choose_faults(self._attempt)
            yield from self._wait_on(Deadline.NOTHING)
            if self._made_up is not None:
                yield from self._inject(self._attempt, self._made_up.begin())
                return False
        self._connected = yield from connecting
        if self._connected:
            self._claim_client()
        return self._connected

    @property
    def _made_up(self) -> Injection | None:
        """What makes the response up, if the upstream is not asked."""
        injection = None if self._attempt is None else self._attempt.injection
        return injection if injection is not None and injection.replaces_upstream else None

    def _choose_faults(self, attempt: Attempt) -> None:
        attempt.injection = None if attempt.goes_through else self.injections.next(attempt.rule)
        if attempt.injection is not None:
            attempt.injected = attempt.injection.injected

    def _leave_to_mitmproxy(self) -> None:
        """Be one of mitmproxy's own streams from now on, so that a flow that nobody observes has no overhead."""
        self.__class__ = http_layers.HttpStream  # type: ignore[assignment]
        # These two were bound to our class before.
        self.client_state = getattr(self, self.client_state.__name__)
        self.server_state = getattr(self, self.server_state.__name__)

    def _claim_client(self) -> None:
        """Make a connection hand over the pieces of the body that it reads, and outlive a GOAWAY (HTTP/2)."""
        http_layer = self._http_layer()
        connection = http_layer.connections.get(self.context.server) if http_layer is not None else None
        # Its innermost layer, found as mitmproxy's own HttpLayer does for injected messages.
        client: Any = connection.context.layers[-1] if connection is not None else None
        if type(client) is _http1.Http1Client and not _UNKNOWN_H11:
            client.__class__ = ChunkedClient
            client.state = getattr(client, client.state.__name__)  # it was bound to mitmproxy's class
        elif type(client) is _http2.Http2Client and not _UNKNOWN_H2:
            client = DrainingClient.take(client)
        if isinstance(client, ChunkedClient):
            client.stream = ref(self)
        elif isinstance(client, DrainingClient):
            client.observers[self.stream_id] = self
        if isinstance(client, ChunkedClient | DrainingClient) and not _UNKNOWN_READER:
            offer(self._reader, self.context.server, client.context.layers, client.accept)

    def check_body_size(self, request: bool) -> Commands:
        # stream_large_bodies would hand raw events to the client, body_size_limit a page; the rule's max_body decides.
        if not request and self._attempt is not None and not self._attempt.is_own_stream:
            return False
        return (yield from super().check_body_size(request))

    def check_invalid(self, request: bool) -> Commands:
        # mitmproxy would replace a response whose headers allow request smuggling with its own error page.
        if request or self._attempt is None:
            return (yield from super().check_invalid(request))
        response = self.flow.response
        assert response is not None
        fields = response.headers.fields
        if any(_UNSENDABLE.search(value) for _, value in fields):
            # RFC 9110, section 5.5; a client of HTTP/2 would end its connection, with all other answers on it.
            response.headers.fields = tuple((name, _UNSENDABLE.sub(b" ", value).strip()) for name, value in fields)
        refused = ""
        try:
            if self.context.options.validate_inbound_headers:
                validate.validate_headers(response)
        except ValueError as error:
            refused = f"its head has {error}"
        # mitmproxy takes an interim response over HTTP/1.1 for the answer, and throws away the answer that follows it.
        # Only 101 gets here, unless h11 is unknown.
        if not refused and response.status_code < 200:
            refused = f"an interim one ({response.status_code}) is all that mitmproxy reads of it"
        if refused:
            # Go on as if there had been no response.
            self.flow.response = None
            self._attempt.cut(refused)
            yield from self._answer()
        return bool(refused)

    def state_wait_for_response_headers(self, event: events.Event) -> Commands:
        assert isinstance(event, _events.ResponseHeaders)
        received, status = event.response, event.response.status_code
        yield from super().state_wait_for_response_headers(event)
        response, attempt = self.flow.response, self._attempt
        if attempt is None or response is None or self.server_state != self.state_consume_response_body:
            return
        if response is not received and response.raw_content is not None:
            # Another addon answers in the upstream's place; mitmproxy would put the upstream's body into that.
            yield from self._leave_upstream()
            yield from self.send_response()
            return
        injection = attempt.injection
        content_type = bodies.header(response, b"content-type")
        if injection is not None and (wanted := injection.content_type(content_type)) != content_type:
            content_type = response.headers["content-type"] = wanted
        fields = response.headers.fields
        attempt.start_response(status, content_type, encoded=bodies.is_encoded(response), fields=fields)
        if injection is None:
            # A stream that its client asked for may have to be passed on after its first bytes.
            self.receiver = attempt if attempt.asked is None else None
        else:
            yield from self._inject(attempt, injection.begin())

    def start_response_stream(self) -> Commands:
        if self._attempt is not None and self._attempt.is_own_stream:
            self.pass_on(self.flow)  # unless it was already: another addon may have it streamed
        wait, now = self._wait, self.wait_of(self.flow)
        if wait is not None and wait.asked is not None and now is not None and (now.attempt is None or now.guard):
            # The client gets the event stream that it asked for live, whatever the upstream was asked for.
            self._wait, self._attempt = now, None
            assert self.flow.response is not None
            if now.guard is not None and getattr(self.flow.response.stream, "guard", None) is now.guard:
                self._guard = now.guard  # otherwise another addon gives the client what it gets
            for command in super().start_response_stream():
                if wait.needs_head or not _is_response_head(command):
                    yield command
            if self._guard is not None:
                now.headers_sent = True
                yield from self._wake_in(now.next_deadline())
            return
        if self._attempt is None:
            yield from super().start_response_stream()
            return
        # A script may stream all event streams, which would hand raw events to the client.
        self.warn_of_streaming(self._attempt)
        assert self.flow.response is not None
        self.flow.response.stream = False
        self.server_state = self.state_consume_response_body

    def _follow_up(self) -> Commands:
        assert self._attempt is not None
        is_due = self._attempt.is_final and not self._is_over
        yield from self._wait_on(Deadline.ANSWER if is_due else Deadline.NOTHING)

    def state_consume_response_body(self, event: events.Event) -> Commands:
        attempt = self._attempt
        if attempt is None or isinstance(event, _events.ResponseTrailers):
            yield from super().state_consume_response_body(event)
        elif self._stalled_until is not None:
            self._held.append(event)
        elif isinstance(event, _events.ResponseData):
            if attempt.injection is None:
                yield from self._deliver(attempt, event.data)
                if attempt.asked is not None and self.receiver is None and not self._is_over:
                    yield from self._pass_on_unless_document(attempt)
            else:
                yield from self._inject(attempt, attempt.injection.feed(event.data))
        else:
            if attempt.injection is not None:
                yield from self._inject(attempt, attempt.injection.close())
            if self._stalled_until is not None:
                self._held.append(event)
            elif not self._answered:
                if self._is_short(attempt):
                    attempt.cut("its body is shorter than its Content-Length says")
                attempt.end()
                yield from self._answer()

    def _pass_on_unless_document(self, attempt: Attempt) -> Commands:
        """Pass a stream on that its client asked for once its first bytes show that it is one, whatever its label says;
        and a document that is too large to be made into events. After a heartbeat, only what is read to its end can be
        known to be events, as the head says that they are."""
        assert self.flow.response is not None
        assert self._wait is not None
        limit = self._wait.rule.max_body
        if attempt.plain:
            yield from self._pass_on_if_events(attempt, self.flow.response, self._wait)
            return
        if self._wait.headers_sent:
            if attempt.size > limit:
                attempt.fail(OversizedStream(f"the upstream's answer is larger than {limit:,} bytes"))
                yield from self._follow_up()
            return
        is_kept = attempt.size <= limit and may_be_document(self.flow.response, attempt)
        if not is_kept and 200 <= attempt.status < 300:
            yield from self._pass_on_from_here(attempt, self.flow.response)

    def _pass_on_if_events(self, attempt: Attempt, response: http.Response, wait: ClientWait) -> Commands:
        """The same for the answer to a request that was made plain: anything but events is no answer for its client."""
        is_events = begins_events(response, attempt)
        if is_events is None:
            return
        is_wanted = not wait.client_gone and not (wait.headers_sent and attempt.encoded)
        if is_events and is_wanted and 200 <= attempt.status < 300:
            yield from self._pass_on_from_here(attempt, response, EVENT_STREAM_TYPE)
        else:
            self.receiver = attempt

    def _pass_on_from_here(self, attempt: Attempt, response: http.Response, content_type: str = "") -> Commands:
        self.pass_on(self.flow)
        if not response.stream:
            self.receiver = attempt  # nobody waits for this flow's own answer
            return
        if content_type:
            response.headers["content-type"] = content_type
        yield from self.start_response_stream()
        yield from self.state_stream_response_body(_events.ResponseData(self.stream_id, attempt.body()))

    def _is_short(self, attempt: Attempt) -> bool:
        """Whether less came than was announced (RFC 9113, section 8.1.1); h2 does not look before trailers."""
        assert self.flow.response is not None
        announced = bodies.header(self.flow.response, b"content-length")
        has_body = attempt.injection is None and self.flow.response.status_code not in WITHOUT_BODY
        return has_body and announced.isdecimal() and int(announced) > len(attempt.body())

    def _deliver(self, attempt: Attempt, data: bytes) -> Commands:
        if attempt.receive(data) and (attempt.is_final or attempt.injection is not None or not self._has_end):
            yield from self._follow_up()

    @property
    def _has_end(self) -> bool:
        """Whether the end of the body has come too, while a hook was waited for: then nothing else has to be."""
        waiting: Sequence[events.Event] = getattr(self, "_paused_event_queue", ())
        return bool(waiting) and isinstance(waiting[-1], _events.ResponseEndOfMessage)

    def _inject(self, attempt: Attempt, steps: Iterator[Step]) -> Commands:
        """Do what a rule's `inject` makes of the upstream's bytes, on the paths that real faults take."""
        for step in steps:
            if self._is_over:
                return
            if isinstance(step, Deliver):
                yield from self._deliver(attempt, step.data)
            elif isinstance(step, Cut):
                attempt.cut("cut off by the rule's inject")
                yield from self._answer()
            elif isinstance(step, Respond):
                yield from self._respond_instead(attempt, step)
            else:
                self._stalled_until = self._now() + step.seconds
                self._steps = steps
                yield commands.RequestWakeup(step.seconds)
                return

    def _respond_instead(self, attempt: Attempt, made: Respond) -> Commands:
        """Go on as if the upstream had sent this."""
        self.flow.response = response = http.Response.make(made.status, made.body, made.headers)
        response.timestamp_start = time.time()
        attempt.start_response(made.status, response.headers["content-type"], fields=response.headers.fields)
        attempt.receive(made.body)
        attempt.end()
        yield from self._answer()

    def _go_on(self, attempt: Attempt) -> Commands:
        """Handle what was held back while the answer stalled."""
        self._stalled_until = None
        steps, self._steps = self._steps, iter(())
        yield from self._inject(attempt, steps)
        while self._held and self._stalled_until is None and not self._is_over:
            yield from self._handle_event(self._held.pop(0))

    def handle_protocol_error(self, event: Any) -> Commands:
        request = self.flow.request
        if (
            isinstance(event, NotTaken)
            and not self._is_over
            and not (self.flow.response or request.stream or request.trailers)
            and self._sendings < MOST_SENDINGS
        ):
            self._sendings += 1
            yield from self._send_again(request)
        elif self._made_up is not None and not self._is_over:
            # The client has left. mitmproxy would tell the upstream, but none was asked.
            yield from self._tell_error(event.message)
            yield from self._end_short()
        elif self._is_over or not isinstance(event, _events.ResponseProtocolError):
            yield from super().handle_protocol_error(event)
        elif self._guard is not None and self._guard.is_on:
            self._connected = False
            self._guard.attempt.cut(self._why_closed() or event.message)
            yield from self.send_response(already_streamed=True)
        elif self._attempt is None:
            if self.flow.response or self.client_state != self.state_done or not cors.page_of(self.flow):
                yield from super().handle_protocol_error(event)
                return
            self.flow.response = unreachable(event.message)
            yield from self.send_response()
        elif self._stalled_until is not None:
            self._held.append(event)
        else:
            self._connected = False
            self._attempt.cut(self._why_closed() or event.message)
            yield from self._answer()

    def _why_closed(self) -> str:
        """That the upstream has reset its connection, which mitmproxy does not tell from a close; "" if it has not."""
        reader = self._reader
        # A stream over UDP has no such thing.
        error = reader.exception() if isinstance(reader, asyncio.StreamReader) else None
        return "connection reset" if isinstance(error, ConnectionResetError) else ""

    @property
    def _reader(self) -> Any:
        """What reads the upstream's connection; None if there is no such thing."""
        client, connection = self.context.client, self.context.server
        handler = _connections().get(client.id) or _REPLAYS.get(client.id)
        return handler.transports[connection].reader if handler and connection in handler.transports else None

    def _send_again(self, request: http.Request) -> Commands:
        if (yield from self.make_server_connection()):
            content = request.raw_content
            head = _events.RequestHeaders(self.stream_id, request, not content)
            yield http_layers.SendHttp(head, self.context.server)
            if content:
                yield http_layers.SendHttp(_events.RequestData(self.stream_id, content), self.context.server)
            yield http_layers.SendHttp(_events.RequestEndOfMessage(self.stream_id), self.context.server)

    # The client's side

    def heard(self) -> None:
        """Bytes of the answer's head have come."""
        if self._attempt is not None:
            self._attempt.heard()

    def _answer(self) -> Commands:
        """Give the answer now."""
        assert self._attempt is not None
        yield from self._leave_upstream()
        if self.flow.response is None:
            self.flow.response = _stand_in()
        # Over HTTP/1.1 a client would take the body of a status that has none for its next answer.
        has_body = self.flow.response.status_code not in WITHOUT_BODY
        self.flow.response.data.content = self._attempt.body() if has_body else b""
        yield from self.send_response()

    def _answer_empty(self) -> Commands:
        """The same without anything that has arrived, for when that failed."""
        yield from self._leave_upstream()
        self.flow.response = _stand_in()
        yield from self.send_response()

    def _leave_upstream(self) -> Commands:
        """Close the connection (HTTP/2: the stream) of an upstream that has not ended, so that it stops working, and
        billing."""
        self._answered = True
        self.receiver = None
        connected, self._connected = self._connected, False
        attempt = self._attempt if self._guard is None else self._guard.attempt
        if connected and attempt is not None and not attempt.complete:
            cancelled = _events.RequestProtocolError(self.stream_id, "answered", _events.ErrorCode.CANCEL)
            yield http_layers.SendHttp(cancelled, self.context.server)

    def _heartbeat(self, wait: ClientWait) -> Commands:
        """A sign of life for a client that is about to lose patience; the first one commits to 200."""
        if self.flow.request.http_version == "HTTP/1.0":
            return  # it knows no chunks
        if not wait.headers_sent:
            head = early_head(self.flow, wait.awaited, wait.content_type)
            if head is None:
                return
            wait.headers_sent = True
            yield http_layers.SendHttp(_events.ResponseHeaders(self.stream_id, head, False), self.context.client)
        yield http_layers.SendHttp(_events.ResponseData(self.stream_id, wait.sign_of_life), self.context.client)

    def send_response(self, already_streamed: bool = False) -> Commands:
        if self._wait is None and (joined := self.wait_of(self.flow)) is not None and joined.retrying:
            self._wait = joined  # it waits for an answer that another stream observes
            self.flow.response = self.flow.response or ended()  # unless another addon has taken that away
        wait = None if already_streamed else self._wait
        if wait is not None and wait.heartbeat is not None:
            yield from self._wake_in(wait.heartbeat)
        sending = super().send_response(already_streamed)
        reply = None
        try:
            # A heartbeat may have gone out before the `response` hook, or while it waited for another attempt.
            while not (_is_response_head(command := sending.send(reply)) and wait and not wait.needs_head):
                is_hook = isinstance(command, _hooks.HttpResponseHook)
                self._hooked = self._hooked or is_hook
                reply = yield command
                if is_hook:
                    yield from self._check_reply()
                    yield from self._say_last_words()
        except StopIteration:
            return
        yield from self._end_short() if wait.client_gone else self._send_after_heartbeat(wait)

    def _say_last_words(self) -> Commands:
        """What a client whose own stream is guarded gets before its end."""
        if self._guard is not None and (words := self._guard.last_words()):
            yield http_layers.SendHttp(_events.ResponseData(self.stream_id, words), self.context.client)

    def _check_reply(self) -> Commands:
        """Whatever other addons do, a client that waits for a document gets no raw events, and is not left waiting."""
        is_killed = self.flow.error is not None and not self.flow.live
        if self._wait is None or is_killed or (self._attempt is None and not self._wait.retrying):
            return
        response = self.flow.response
        if response is None:
            lost = "has taken the response away"
        elif not self._wait.reply_made:
            lost = "has kept this one from making the response"
        elif response.status_code < 200:
            lost = f"has made the response an interim one ({response.status_code})"
        else:
            make_sendable(response, with_trailers=self.flow.request.is_http2 or self.flow.request.is_http3)
            return
        self.flow.response = _stand_in()
        set_reply(self.flow, reply_of_fault())
        cors.share(self.flow, self.flow.response)
        yield commands.Log(f"force-stream: another addon {lost}; the client gets an error", logging.ERROR)

    def _send_after_heartbeat(self, wait: ClientWait) -> Commands:
        """For a client that already has a head, with status 200."""
        assert self.flow.response
        # The addon's `response` hook has decoded it, unless the heartbeat came after that.
        document = bodies.decoded(self.flow.response, bodies.MOST_ON_LOOP)
        is_failure = not 200 <= self.flow.response.status_code < 300
        if is_failure or (wait.asked is not None and not streams(self.flow.response)):
            document = wait.last_words(self.flow.response.status_code, document or b"")
        if document:
            yield http_layers.SendHttp(_events.ResponseData(self.stream_id, document), self.context.client)
            yield from self.flow_done()
            return
        yield from self._end_short()

    def _end_short(self) -> Commands:
        """The status has been sent, so the body is cut short: no client mistakes that for an answer; or no client is
        there any more."""
        cut = _events.ResponseProtocolError(self.stream_id, "failed", _events.ErrorCode.GENERIC_SERVER_ERROR)
        yield http_layers.SendHttp(cut, self.context.client)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield http_layers.DropStream(self.stream_id)


def _ignore(event: events.Event) -> Commands:
    """How a stream that has ended handles an event, such as one of its timers."""
    yield from ()


def _stand_in() -> http.Response:
    """A placeholder, until the `response` hook puts the reply in its place."""
    response = http.Response.make(502)
    response.timestamp_start = time.time()
    return response


def _fault_line(outcome: str, fault: Exception) -> commands.Log:
    return commands.Log(f"force-stream: a bug in the addon, {outcome}: {type(fault).__name__}", logging.ERROR)


def _is_response_head(command: commands.Command) -> bool:
    return isinstance(command, http_layers.SendHttp) and isinstance(command.event, _events.ResponseHeaders)


_FROM_UPSTREAM: Final = (
    _events.ResponseHeaders,
    _events.ResponseData,
    _events.ResponseTrailers,
    _events.ResponseEndOfMessage,
    _events.ResponseProtocolError,
)


class StreamLayerAddon:
    """An addon object that has every new HTTP layer make observed streams.

    It has to run after mitmproxy's own `next_layer`, which makes the layers; a script runs before it. So the script
    adds this one when all others are there.
    """

    def __init__(
        self,
        wait_of: WaitOf,
        respond: Callable[[http.HTTPFlow], Awaitable[None]],
        pass_on: Callable[[http.HTTPFlow], None],
    ) -> None:
        """`wait_of`: the client that waits for a flow's answer; None for a flow that is not the addon's, or that is no
        longer. `respond`: what the addon's `response` hook does, unless it has run. `pass_on`: has the flow's
        `response.stream` give its client what it asked for as it comes."""
        self._respond = respond
        self._warned: set[str] = set()
        for unknown, loss in (
            (_UNKNOWN_H11, "an interim response ends an answer"),
            (_UNKNOWN_H2, "an HTTP/2 GOAWAY cuts off an answer"),
            (unknown_buffer(), "events over HTTP/2 are read one by one"),
            (_UNKNOWN_READER, "mitmproxy is woken for each event"),
        ):
            if unknown:
                logger.warning(f"force-stream: {unknown}; so {loss}, as in mitmproxy alone")
        self._orphans: WeakSet[ObservedStream] = WeakSet()
        ours = {
            "wait_of": staticmethod(wait_of),
            "pass_on": staticmethod(pass_on),
            "warn_of_streaming": staticmethod(self._warn_of_streaming),
            "injections": Injections(),
            "orphans": self._orphans,
        }
        stream = type("ObservedStream", (ObservedStream,), ours)

        class ObservedLayer(http_layers.HttpLayer):
            def make_stream(self, stream_id: int) -> Commands:
                self.streams[stream_id] = stream(self.context.fork(), stream_id)
                yield from self.event_to_child(self.streams[stream_id], events.Start())

        self._layer = ObservedLayer

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        # A TLS layer may come with its HTTP layer inside: all of a connection's layers are listed in its context.
        for made in next_layer.context.layers:
            if type(made) is http_layers.HttpLayer:
                made.__class__ = self._layer

    async def response(self, flow: http.HTTPFlow) -> None:
        # A script that fails in a hook keeps mitmproxy from calling those of the scripts after it.
        await self._respond(flow)

    def _warn_of_streaming(self, attempt: Attempt) -> None:
        """Say once for each rule that a script's wish is not heeded, and what to change."""
        rule = attempt.spec.rule
        if rule not in self._warned:
            self._warned.add(rule)
            logger.warning(
                f"{rule}: {_with_hook('responseheaders')} sets flow.response.stream, which would hand the upstream's "
                "events to a client that asked for a document, so such answers are not streamed. Have it skip the "
                "flows that have force_stream.rule in flow.metadata."
            )

    async def client_disconnected(self, client: Client) -> None:
        # mitmproxy has stopped a gone client's timers, and closes the connections to its upstreams when this returns.
        orphans = [stream for stream in self._orphans if stream.context.client is client]
        if orphans:
            handler = next(each for each in _connections().values() if each.client is client)
            timers = [asyncio.create_task(_wake(handler, each, timer)) for each in orphans for timer in each.timers]
            await asyncio.wait([*timers, *(stream.kept for stream in orphans)])
            # A connection that is being closed would stay open if mitmproxy cancelled its handler once more.
            for peer, transport in list(handler.transports.items()):
                if peer.state is ConnectionState.CLOSED and transport.handler is not None:
                    await asyncio.wait([transport.handler])
            # Those asked for meanwhile: that of an HTTP/2 connection's pings would hold all of this for 58 seconds.
            for pending in handler.wakeup_timer:
                pending.cancel()

    def take_over(self) -> dict[http.HTTPFlow, ClientWait]:
        """Have connections that are already open make observed streams too: those from before a reload would otherwise
        keep using the old addon. Returns the flows whose clients are waiting there."""
        waiting: dict[http.HTTPFlow, ClientWait] = {}
        layers: list[Any] = [handler.layer for handler in _connections().values()]
        while layers:
            made = layers.pop()
            if isinstance(made, http_layers.HttpLayer):
                made.__class__ = self._layer
                layers += made.streams.values()
            wait_of: Callable[[Any], ClientWait | None] = getattr(made, "wait_of", lambda _: None)
            flow: Any = getattr(made, "flow", None)
            if getattr(made, "_attempt", None) is not None:
                waiting[flow] = made._wait
            elif flow is not None and (wait := wait_of(flow)) and wait.attempt is not None:
                waiting[flow] = wait  # its `request` hook has just been called, and it has not gone on yet
            layers += [inner for name in ("layer", "child_layer") if (inner := getattr(made, name, None)) is not None]
        return waiting

    async def send_attempt(self, flow: http.HTTPFlow, options: Options) -> None:
        """Send a flow's request to its upstream once more, as mitmproxy's client replay does; returns when the flow
        has its response, or an error."""
        handler = clientplayback.ReplayHandler(flow, _options_for(flow, options))
        handler.layer.__class__ = self._layer
        _REPLAYS[handler.client.id] = handler
        server = handler.layer.context.server
        if flow.server_conn.address == server.address:
            # As mitmproxy's HttpLayer has it, and not the Host header, which is the client's word.
            server.sni = flow.server_conn.sni or flow.client_conn.sni or flow.request.host
        try:
            await handler.replay()
        finally:
            # mitmproxy leaves them running: that of an HTTP/2 connection's pings would hold the flow for 58 seconds.
            for timer in handler.wakeup_timer:
                timer.cancel()


async def _wake(handler: ConnectionHandler, stream: ObservedStream, timer: commands.RequestWakeup) -> None:
    """Wake a stream, unless mitmproxy does: a timer that has just run out cannot be stopped any more."""
    await asyncio.sleep(timer.delay)
    if timer in stream.timers:
        await handler.server_event(events.Wakeup(timer))


def _connections() -> Mapping[tuple[Any, ...] | str, ConnectionHandler]:
    """The handlers of all clients' connections, by the clients' ids."""
    master = getattr(ctx, "master", None)
    proxyserver = None if master is None else master.addons.get("proxyserver")
    handlers: Mapping[tuple[Any, ...] | str, ConnectionHandler] = getattr(proxyserver, "connections", {})
    return handlers


def _with_hook(name: str) -> str:
    """The scripts that have a hook, for a person: one of them did something there."""
    chain = traverse(ctx.master.addons.chain)  # type: ignore[no-untyped-call]
    having = [each for each in chain if callable(getattr(each, name, None))]
    # A script is a module of that package; its objects are those of its classes.
    modules = [getattr(each, "__module__", "") or getattr(each, "__name__", "") for each in having]
    scripts = [module.rpartition(".")[2] for module in modules if module.startswith("__mitmproxy_script__.")]
    return f"a script ({' or '.join(dict.fromkeys(scripts))})" if scripts else "another addon"


def _options_for(flow: http.HTTPFlow, options: Options) -> Options:
    """For a replay: mitmproxy looks at the first mode only, and would send flows of other modes through its upstream
    proxy."""
    mode = flow.client_conn.proxy_mode.full_spec
    if mode in options.mode[:1] or not any(each.startswith("upstream:") for each in options.mode):
        return options
    own: Options = copy(options)
    own.mode = [mode]
    return own
