"""mitmproxy's HTTP layer with our streams in it, played without sockets and without waiting: events in, commands out.

    player = Player(monkeypatch, Rule("r", hosts=(".",), idle_timeout=3))
    player.ask()
    player.upstream_sends(HEAD, piece)
    player.wait(3)
    assert player.answer.status_code == 504

The client speaks HTTP/1, and so does the upstream unless a test says `http2`. Every hook is answered at once;
`response` gives the client what the attempt has become, as the addon does. Knows the stream layer's public face alone;
the clock is the player's own.
"""

import heapq
import time
from collections import deque
from types import SimpleNamespace

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.stream_layer import StreamLayerAddon
from force_stream.rules.rule import Rule
from mitmproxy import connection, http, options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _hooks

from harness.samples import CHAT

REQUEST = f"POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\nContent-Length: 2\r\n".encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def piece(data: bytes) -> bytes:
    """A chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Player:
    """`to_client`, `to_upstream`: all bytes. `forgets`: nothing is heard of a connection after it was made. `opened`:
    how many connections to upstreams were tried; `closed`: which connections were closed, in order. `flow`: the latest
    one; `client_wait`: its client's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rule: Rule | None, *, http2: bool = False) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.rule = rule
        self._alpn = b"h2" if http2 else None
        self.flow: http.HTTPFlow | None = None
        self.client_wait: ClientWait | None = None
        self.hooks: list[str] = []
        self.log: list[str] = []
        self.closed: list[str] = []
        self.to_client = self.to_upstream = b""
        self.refuses = ""
        self.forgets = False
        self.opened = 0
        self._wakeups: list[tuple[float, int, commands.RequestWakeup]] = []
        self._layer = self._make_layer()
        self.play(events.Start())

    def _make_layer(self) -> http_layers.HttpLayer:
        settings = options.Options()
        Proxyserver().load(settings)
        self.client = connection.Client(
            peername=("127.0.0.1", 50000), sockname=("127.0.0.1", 8080), state=connection.ConnectionState.OPEN
        )
        self.client.timestamp_start = self.now
        around = context.Context(self.client, settings)
        around.server = connection.Server(address=("127.0.0.1", 80))
        layer = http_layers.HttpLayer(around, http_layers.HTTPMode.transparent)
        StreamLayerAddon(self._wait_of).next_layer(SimpleNamespace(context=around))
        return layer

    def _wait_of(self, flow: http.HTTPFlow) -> ClientWait | None:
        return self.client_wait if flow is self.flow else None

    # What happens

    def ask(self, *headers: str) -> None:
        """The client's request. The connection to the upstream is made at once, unless `refuses` says why not."""
        more = "".join(f"{header}\r\n" for header in headers).encode()
        self.play(events.DataReceived(self.client, REQUEST + more + b"\r\n{}"))

    def upstream_sends(self, *data: bytes) -> None:
        for each in data:
            self.play(events.DataReceived(self.server, each))

    def upstream_closes(self) -> None:
        self._close(self.server)

    def client_leaves(self) -> None:
        self._close(self.client)

    def wait(self, seconds: float) -> None:
        """The clock goes on, and wakes whoever asked for it."""
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
    def is_asleep(self) -> bool:
        """Whether nobody waits for the clock."""
        return not self._wakeups

    def play(self, event: events.Event) -> list[commands.Command]:
        """The commands that an event leads to, those behind the replies to blocking ones included; wakeups are not
        among them."""
        made: list[commands.Command] = []
        waiting = deque([event])
        while waiting:
            for command in self._layer.handle_event(waiting.popleft()):
                if isinstance(command, commands.RequestWakeup):
                    heapq.heappush(self._wakeups, (self.now + command.delay, id(command), command))
                    continue
                made.append(command)
                reply = self._do(command)
                if reply is not None:
                    waiting.append(reply)
        return made

    def _do(self, command: commands.Command) -> events.Event | None:
        if isinstance(command, commands.StartHook):
            self.hooks.append(command.name)
            self._hook(command)
            return events.HookCompleted(command) if command.blocking else None
        if isinstance(command, commands.OpenConnection):
            self.server = command.connection
            self.opened += 1
            self.server.alpn = self._alpn
            if not self.refuses:
                self.server.state = connection.ConnectionState.OPEN
            if self.forgets:
                return None
            return events.OpenConnectionCompleted(command, self.refuses or None)
        if isinstance(command, commands.SendData):
            if command.connection is self.client:
                self.to_client += command.data
            else:
                self.to_upstream += command.data
        elif isinstance(command, commands.CloseConnection):
            self.closed.append("client" if command.connection is self.client else "upstream")
            command.connection.state = connection.ConnectionState.CLOSED
        elif isinstance(command, commands.Log):
            self.log.append(command.message)
        return None

    def _hook(self, command: commands.StartHook) -> None:
        if isinstance(command, _hooks.HttpRequestHook):
            self.flow = command.flow
            if self.rule:
                attempt = Attempt(AnswerSpec("r", "chat"), self.rule, clock=lambda: self.now)
                self.client_wait = ClientWait(self.rule, attempt, lambda: self.now)
        elif isinstance(command, _hooks.HttpResponseHook) and self.client_wait and self.client_wait.attempt:
            reply = self.client_wait.attempt.finish()
            if reply is not None:
                assert self.flow is not None
                self.flow.response = http.Response.make(reply.status, reply.body, {"Content-Type": "application/json"})

    def _close(self, peer: connection.Connection) -> None:
        peer.state &= ~connection.ConnectionState.CAN_READ
        peer.timestamp_end = self.now
        self.play(events.ConnectionClosed(peer))
