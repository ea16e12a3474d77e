"""mitmproxy's HTTP layer with our streams in it, played without sockets and without waiting: events in, commands out.

    player = Player(monkeypatch, Rule("r", hosts=(".",), idle_timeout=3))
    player.ask()
    player.upstream_sends(HEAD, piece)
    player.wait(3)
    assert player.answer.status_code == 504

The client speaks HTTP/1 unless a test says `client_http2`, and so does the upstream unless it says `http2`. Every hook
is answered at once; `response` gives the client what the attempt has become, as the addon does. A client that leaves
takes everything with it, unless the rule keeps answers (tests/e2e/test_kept_answers.py shows that mitmproxy does both).
A connection that the layer closes is heard of as closed, and hears nothing more, as with mitmproxy's sockets. What an
upstream sends comes through a reader of asyncio's, as in mitmproxy; `handled` counts the pieces that mitmproxy got to
handle. Knows the stream layer's public face alone; the clock is the player's own.
"""

import asyncio
import heapq
import time
from collections import deque
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.answer.unfold import Asked
from force_stream.proxy import bodies, response
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.guard import Guard
from force_stream.proxy.live_copy import LiveCopy
from force_stream.proxy.stream_layer import StreamLayerAddon
from force_stream.rules.rule import UNLIMITED, Rule
from mitmproxy import connection, ctx, http, options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _hooks

from harness.samples import CHAT

REQUEST = f"POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\nContent-Length: 2\r\n\r\n{{}}".encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def piece(data: bytes) -> bytes:
    """A chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Player:
    """`rule`: what forces each request; None for requests that nothing forces. `live`: clients ask for the event stream
    themselves; `asked`: they do, and each request is made plain, unless their streams are `guarded`; `bare`: mitmproxy
    alone; `held`: for so many seconds another addon holds each request back.

    `to_client`, `to_upstream`: all bytes; `sent`: those to each upstream. `forgets`: nothing is heard of a connection
    after it was made. `servers`: the connections to upstreams that were tried; `closed`: which connections were closed,
    in order. `flow`: the latest of `flows`; by its id, `waits` has each flow's client, and `ends` its last hooks."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        rule: Rule | None,
        *,
        http2: bool = False,
        client_http2: bool = False,
        live: bool = False,
        asked: Asked | None = None,
        guarded: bool = False,
        bare: bool = False,
        held: float = 0.0,
    ) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.rule, self.live, self.asked, self._held = rule, live, asked, held
        self._guarded = guarded
        self._alpn = b"h2" if http2 else None
        self.flows: list[http.HTTPFlow] = []
        self.waits: dict[str, ClientWait] = {}
        self.hooks: list[str] = []
        self.ends: dict[str, list[str]] = {}
        self.log: list[str] = []
        self.closed: list[str] = []
        self.to_client = self.to_upstream = b""
        self.servers: list[connection.Server] = []
        self.sent: list[bytes] = []
        self.refuses = ""
        self.forgets = False
        self._wakeups: list[tuple[float, int, commands.RequestWakeup]] = []
        self._closing: list[connection.Connection] = []
        self.handled = 0
        self._transports: dict[connection.Connection, SimpleNamespace] = {}
        self.layer = self._make_layer(b"h2" if client_http2 else None, bare=bare)
        handler = SimpleNamespace(client=self.client, transports=self._transports)
        proxyserver = SimpleNamespace(connections={self.client.id: handler})
        addons = SimpleNamespace(chain=[], get={"proxyserver": proxyserver}.get)
        monkeypatch.setattr(ctx, "master", SimpleNamespace(addons=addons), raising=False)
        self.play(events.Start())

    def _make_layer(self, alpn: bytes | None, *, bare: bool) -> http_layers.HttpLayer:
        settings = options.Options()
        Proxyserver().load(settings)
        self.client = connection.Client(
            peername=("127.0.0.1", 50000), sockname=("127.0.0.1", 8080), state=connection.ConnectionState.OPEN
        )
        self.client.timestamp_start = self.now
        self.client.alpn = alpn
        around = context.Context(self.client, settings)
        around.server = connection.Server(address=("127.0.0.1", 80))
        layer = http_layers.HttpLayer(around, http_layers.HTTPMode.transparent)
        if not bare:
            StreamLayerAddon(self.wait_of, _respond, self._pass_on).next_layer(SimpleNamespace(context=around))
        return layer

    def wait_of(self, flow: http.HTTPFlow) -> ClientWait | None:
        return self.waits.get(flow.id)

    # What happens

    def ask(self, request: bytes = REQUEST) -> None:
        """The client's request. The connection to the upstream is made at once, unless `refuses` says why not."""
        self._hear(self.client, request)

    def upstream_sends(self, *data: bytes, upstream: int = -1) -> None:
        server = self.servers[upstream]
        for each in data:
            reader = self._transports[server].reader
            reader._waiter = Mock()  # what mitmproxy waits with
            reader.feed_data(each)
            if reader._buffer:
                self.handled += 1
                self._hear(server, bytes(reader._buffer))
                reader._buffer.clear()

    def upstream_closes(self, upstream: int = -1) -> None:
        self._close(self.servers[upstream])

    def client_leaves(self) -> None:
        self._close(self.client)

    def wait(self, seconds: float) -> None:
        """Advance the clock, and wake whoever asked for it."""
        until = self.now + seconds
        while self._wakeups and self._wakeups[0][0] <= until:
            self.now, _, command = heapq.heappop(self._wakeups)
            self.play(events.Wakeup(command))
        self.now = until

    # What came of it

    @property
    def answer(self) -> http.Response:
        """The flow's response, which the client has got whole."""
        assert self.flow is not None
        assert self.flow.response is not None
        assert self.flow.response.content is not None
        assert self.to_client.endswith(self.flow.response.content)
        return self.flow.response

    @property
    def flow(self) -> http.HTTPFlow | None:
        return self.flows[-1] if self.flows else None

    @property
    def client_wait(self) -> ClientWait | None:
        """The latest flow's."""
        return self.wait_of(self.flow) if self.flow is not None else None

    @property
    def opened(self) -> int:
        """How many connections to upstreams were tried."""
        return len(self.servers)

    @property
    def is_asleep(self) -> bool:
        """Whether nobody waits for the clock."""
        return not self.wakeups

    @property
    def wakeups(self) -> int:
        """How many that were asked for have not come yet."""
        return len(self._wakeups)

    def play(self, event: events.Event) -> list[commands.Command]:
        """The commands that an event leads to, those behind the replies to blocking ones included; wakeups are not
        among them."""
        made: list[commands.Command] = []
        waiting = deque([event])
        while waiting:
            for command in self.layer.handle_event(waiting.popleft()):
                if isinstance(command, commands.RequestWakeup):
                    heapq.heappush(self._wakeups, (self.now + command.delay, id(command), command))
                    continue
                made.append(command)
                reply = self._do(command)
                if reply is not None:
                    waiting.append(reply)
            while not waiting and self._closing:
                waiting.extend(self._end(self._closing.pop(0)))
        return made

    def _hear(self, peer: connection.Connection, data: bytes) -> None:
        if peer.state & connection.ConnectionState.CAN_READ:
            self.play(events.DataReceived(peer, data))

    def _do(self, command: commands.Command) -> events.Event | None:
        if isinstance(command, commands.StartHook):
            self.hooks.append(command.name)
            self._hook(command)
            return events.HookCompleted(command) if command.blocking else None
        if isinstance(command, commands.OpenConnection):
            self.servers.append(command.connection)
            self._transports[command.connection] = SimpleNamespace(reader=asyncio.StreamReader(loop=Mock()))
            self.sent.append(b"")
            command.connection.alpn = self._alpn
            if not self.refuses:
                command.connection.timestamp_start = command.connection.timestamp_tcp_setup = self.now
                command.connection.state = connection.ConnectionState.OPEN
            if self.forgets:
                return None
            return events.OpenConnectionCompleted(command, self.refuses or None)
        if isinstance(command, commands.SendData):
            if command.connection is self.client:
                self.to_client += command.data
            else:
                self.to_upstream += command.data
                self.sent[self.servers.index(command.connection)] += command.data
        elif isinstance(command, commands.CloseConnection):
            if command.connection.state is not connection.ConnectionState.CLOSED:
                self.closed.append("client" if command.connection is self.client else "upstream")
                command.connection.state = connection.ConnectionState.CLOSED
                self._closing.append(command.connection)
        elif isinstance(command, commands.Log):
            self.log.append(command.message)
        return None

    def _hook(self, command: commands.StartHook) -> None:
        flow = getattr(command, "flow", None)
        if isinstance(command, _hooks.HttpRequestHook):
            self.flows.append(flow)
            self.ends[flow.id] = []
            if self.live:
                self.waits[flow.id] = ClientWait(UNLIMITED, clock=lambda: self.now)
            elif self.rule:
                spec = AnswerSpec("r", "chat", on_truncated=self.rule.on_truncated)
                plain = self.asked is not None and not self._guarded
                attempt = Attempt(spec, self.rule, plain=plain, asked=self.asked, clock=lambda: self.now)
                wait = self.waits[flow.id] = ClientWait(self.rule, attempt, lambda: self.now)
                wait.kept = Mock(**{"done.return_value": False}) if self.rule.keep_answers else None
            self.now += self._held
        elif isinstance(command, _hooks.HttpResponseHeadersHook) and (
            self.live or (self.asked is not None and response.is_event_stream(flow.response))
        ):
            self._pass_on(flow)
        elif isinstance(command, (_hooks.HttpResponseHook, _hooks.HttpErrorHook)) and flow.id in self.ends:
            self.ends[flow.id].append(command.name)
            wait = self.wait_of(flow)
            if command.name == "response" and wait is not None and wait.attempt is not None and not wait.guard:
                wait.reply_made = True
                self._reply(flow, wait.attempt)
            if isinstance(copy := flow.response and flow.response.stream, LiveCopy):
                copy.store(flow)

    def _pass_on(self, flow: http.HTTPFlow) -> None:
        wait = self.waits[flow.id]
        if not self._guarded:
            self.waits[flow.id] = ClientWait(UNLIMITED, clock=lambda: self.now)
            flow.response.stream = True
        elif wait.guard is None:
            wait.reply_made = True
            wait.guard = Guard(wait.attempt, self.asked, 10**6, wait.said)
            wait.attempt.start_response(200, "text/event-stream")
            flow.response.stream = LiveCopy(10**6, wait.attempt.spec, wait)

    def _reply(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        decoded = bodies.decoded(flow.response) if attempt.encoded else None
        reply = attempt.finish(decoded)
        if reply is not None:
            response.set_reply(flow, reply)
        else:
            response.pass_through(flow, attempt)

    def _close(self, peer: connection.Connection) -> None:
        peer.state &= ~connection.ConnectionState.CAN_READ
        for event in self._end(peer):
            self.play(event)

    def _end(self, peer: connection.Connection) -> list[events.Event]:
        """The events at a connection's end, once."""
        is_kept = self.rule is not None and self.rule.keep_answers is not None
        if peer is self.client and peer.state is connection.ConnectionState.CLOSED and not is_kept:
            # mitmproxy closes all others with it, and nobody is woken any more.
            self._wakeups.clear()
            for server in self.servers:
                if server.state is not connection.ConnectionState.CLOSED:
                    server.state = connection.ConnectionState.CLOSED
                    self._closing.append(server)
        if peer.timestamp_end is not None:
            return []
        peer.timestamp_end = self.now
        return [events.ConnectionClosed(peer)]


async def _respond(flow: http.HTTPFlow) -> None:
    """The addon's `response` hook, which `_hook` stands for."""
