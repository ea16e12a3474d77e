"""A scripted upstream on real sockets: HTTP/1.1 and HTTP/2, plain and TLS, in a thread of the test process.

    with Upstream(certs) as upstream:
        upstream.answer(Head(), Data(b"data: {}\\n\\n"), CutChunk())
        ...  # a request to upstream.url("http")
        assert upstream.wait_request().body == b"..."

Listeners, on 127.0.0.1 unless told otherwise: "http" (plain; HTTP/2 with prior knowledge too), "https" (TLS, ALPN
http/1.1), "h2" (TLS, ALPN h2 and http/1.1), "untrusted" (TLS with a certificate that nobody signed). They share one
script and one record.
"""

import asyncio
import itertools
import ssl
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.certs import Certs
from harness.http1 import Http1Connection
from harness.http2 import PREFACE, Http2Connection
from harness.ports import held_port
from harness.record import TIMEOUT, Request, wait_until
from harness.steps import Answer, Close, Exchange, Linger, Pause, Raw, Reset, Signal, Step, WaitFor, document
from harness.wire import Wire

ACCEPT_STEPS = (Raw, Pause, WaitFor, Signal, Close, Reset, Linger)
KEY_HEADER = "x-answer"
"""A request that carries this header gets the answer registered under its value."""

Part = Answer | Step | Iterable[Step]
Handler = Callable[[Request], Answer | None]


class Upstream:
    def __init__(
        self, certs: Certs, *, hosts: Sequence[str] = ("127.0.0.1",), ports: Mapping[str, int] | None = None
    ) -> None:
        """`hosts`: the addresses to listen at; several need `ports`, a fixed one for each listener."""
        self.changed = threading.Condition()
        self.requests: list[Request] = []
        """Every request since the last `reset`, in the order in which they were complete."""
        self.errors: list[str] = []
        """Faults of scripts and of this upstream itself, never of the peer; a test should end with none."""
        self.connections = 0
        """Connections accepted since the last `reset`, those ended by `at_accept` included."""
        self.ports: dict[str, int] = dict(ports or {})
        self._hosts = hosts
        self._contexts: dict[str, ssl.SSLContext | None] = {
            "http": None,
            "https": certs.new_server_context("http/1.1"),
            "h2": certs.new_server_context("h2", "http/1.1"),
            "untrusted": certs.new_server_context("h2", "http/1.1", pem=certs.untrusted),
        }
        self._clear_script()
        self._numbers = itertools.count(1)
        self._live: dict[asyncio.Task[None], _Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)

    # Life

    def __enter__(self) -> "Upstream":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> "Upstream":
        self._thread.start()
        self.run(self._listen())
        return self

    def stop(self) -> None:
        try:
            self.run(self._shut_down())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(TIMEOUT)
            self._loop.close()

    def reset(self) -> None:
        """Forget script and record, and abort the answers in progress; idle connections stay open."""
        self.run(self._abort(busy_only=True))
        with self.changed:
            self._clear_script()
            # New lists: what a test took from the old ones stays as it was.
            self.requests, self.errors, self.connections = [], [], 0

    def close_connections(self) -> None:
        """Reset every open connection."""
        self.run(self._abort(busy_only=False))

    def url(self, listener: str = "http", host: str = "127.0.0.1") -> str:
        scheme = "http" if self._contexts[listener] is None else "https"
        return f"{scheme}://{host}:{self.ports[listener]}"

    # Script

    def answer(
        self,
        *parts: Part,
        path: str | None = None,
        key: str | None = None,
        when: Callable[[Request], bool] | None = None,
    ) -> Answer:
        """Say what to answer; the parts are put together by `Answer.of`.

        First the handler is asked; then come `key` (the value of the x-answer header) and `path` (without its query),
        for every request that fits; then the queue, which is an answer with none of these, for one request; then
        `when`, again for every request that fits.
        """
        answer = Answer.of(*parts)
        with self.changed:
            if key is not None:
                self._keyed[key] = answer
            if path is not None:
                self._paths[path] = answer
            if when is not None:
                self._conditions.append((when, answer))
            if key is path is when is None:
                self._queue.append(answer)
        return answer

    def answer_always(self, *parts: Part) -> Answer:
        """The answer to every request for which there is no other."""
        return self.answer(*parts, when=lambda _: True)

    def handle(self, handler: Handler | None) -> None:
        """Ask `handler` first for every request; None from it leaves the request to the rest of the script.

        It runs in the upstream's event loop and must not block.
        """
        self._handler = handler

    def at_accept(self, *steps: Step, times: int = 1) -> None:
        """Play these steps on the next `times` connections as soon as they are accepted, before TLS and HTTP."""
        answer = Answer.of(*steps)
        if wrong := [step for step in answer.steps if not isinstance(step, ACCEPT_STEPS)]:
            raise ValueError(f"there is no request yet for {wrong[0]}")
        with self.changed:
            self._accept.extend([answer] * times)

    # Record

    def wait_request(self, number: int = 1, timeout: float = TIMEOUT) -> Request:
        """The `number`th request since the last reset, from 1."""
        self.wait(lambda: len(self.requests) >= number, f"request {number}", timeout)
        return self.requests[number - 1]

    def wait_connections(self, number: int = 1, timeout: float = TIMEOUT) -> None:
        self.wait(lambda: self.connections >= number, f"connection {number}", timeout)

    def wait_idle(self, timeout: float = TIMEOUT) -> None:
        """Wait until no connection is open."""
        self.wait(lambda: not self._live, "all connections to be closed", timeout)

    def wait(self, predicate: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
        wait_until(self.changed, predicate, timeout, what)

    @property
    def open_connections(self) -> int:
        return len(self._live)

    # Used by the connections, in the event loop

    def answer_for(self, request: Request) -> Answer:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
            path = request.path.partition("?")[0]
            handled = self._handler(request) if self._handler else None
            if answer := handled or self._keyed.get(request.header(KEY_HEADER) or "") or self._paths.get(path):
                return answer
            if self._queue:
                return self._queue.popleft()
            if answer := next((answer for when, answer in self._conditions if when(request)), None):
                return answer
        message = f"no answer was scripted for {request.method} {request.path}"
        return document({"error": {"message": message, "code": "not_scripted"}}, status=500)

    async def play(self, exchange: Exchange) -> None:
        """Play the exchange's answer and note the outcome; only a cancellation is raised."""
        outcome = "sent"
        try:
            for step in exchange.answer.steps:
                await step.play(exchange)
        except OSError as e:
            outcome = f"peer gone: {e}"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as e:
            outcome = f"script error: {e}"
            self._note_error(f"{exchange.request.method} {exchange.request.path}: {traceback.format_exc()}")
            await exchange.wire.reset()
        finally:
            exchange.request.note_answered(outcome)

    # Inside

    def _clear_script(self) -> None:
        self._handler: Handler | None = None
        self._keyed: dict[str, Answer] = {}
        self._paths: dict[str, Answer] = {}
        self._conditions: list[tuple[Callable[[Request], bool], Answer]] = []
        self._queue: deque[Answer] = deque()
        self._accept: deque[Answer] = deque()

    def run(self, coroutine) -> Any:
        """Run a coroutine in this upstream's event loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT)

    def _note_error(self, error: str) -> None:
        with self.changed:
            self.errors.append(error)
            self.changed.notify_all()

    async def _listen(self) -> None:
        self._servers = []
        for name, context in self._contexts.items():
            accepted = _accepted(self, name, context)
            server = await asyncio.start_server(
                accepted, self._hosts, self.ports.get(name, 0), limit=1 << 20, backlog=1024
            )
            self._servers.append(server)
            self.ports[name] = server.sockets[0].getsockname()[1]

    async def _shut_down(self) -> None:
        # No server is closed before what it has accepted is over: a connection that is not among the live ones yet, for
        # which asyncio has a task, would be dropped, and the garbage collector complain of it in some other test.
        for server in self._servers:
            for listener in server.sockets:
                self._loop.remove_reader(listener.fileno())
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._abort(busy_only=False)
            await asyncio.wait(others, timeout=0.01)
        for server in self._servers:
            server.close()
            await server.wait_closed()

    async def _abort(self, *, busy_only: bool) -> None:
        tasks = [task for task, connection in self._live.items() if connection.busy or not busy_only]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(self, wire: Wire, listener: str, context: ssl.SSLContext | None) -> None:
        task = asyncio.current_task()
        assert task
        connection = self._live[task] = _Connection()
        with self.changed:
            self.connections += 1
            accept = self._accept.popleft() if self._accept else None
            self.changed.notify_all()
        try:
            if accept:
                await connection.play_accept(wire, accept)
            else:
                await connection.play_http(self, wire, listener, context, next(self._numbers))
            connection.over = True
            await wire.finish()
        except OSError:
            pass  # The peer went away, or did not care for our certificate.
        except asyncio.CancelledError:
            pass  # By `reset` or `stop`.
        except Exception:
            self._note_error(traceback.format_exc())
        finally:
            # A second cancellation may come while the first one's reset is under way.
            try:
                await wire.reset()
            finally:
                with self.changed:
                    del self._live[task]
                    self.changed.notify_all()


class _Connection:
    """The state of one accepted connection."""

    def __init__(self) -> None:
        self._http: Http1Connection | Http2Connection | None = None
        self._accepting = False
        self.over = False
        """Nothing but the peer's close is waited for."""

    @property
    def busy(self) -> bool:
        return self.over or self._accepting or (self._http is not None and self._http.busy)

    async def play_accept(self, wire: Wire, answer: Answer) -> None:
        self._accepting = True
        for step in answer.steps:
            await step.play(_AcceptExchange(wire))

    async def play_http(
        self, server: Upstream, wire: Wire, listener: str, context: ssl.SSLContext | None, number: int
    ) -> None:
        alpn = await wire.start_tls(context) if context else None
        received = await wire.read()
        speaks_h2 = alpn == "h2" or received.startswith(PREFACE[:14])
        kind = Http2Connection if speaks_h2 else Http1Connection
        if received:
            self._http = kind(wire, server, listener, number, received)
            await self._http.serve()


class _AcceptExchange:
    """The few steps that make sense before there is a request."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def raw(self, data: bytes) -> None:
        await self._wire.write(data)

    async def close(self, notify: bool) -> None:
        await self._wire.close(notify)

    async def reset(self) -> None:
        await self._wire.reset()

    async def linger(self) -> None:
        while await self._wire.read():
            pass


def _accepted(upstream: Upstream, listener: str, context: ssl.SSLContext | None):
    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.serve(Wire(reader, writer), listener, context)

    return accepted


def refused_port() -> int:
    """A port on 127.0.0.1 at which nothing listens unless a test makes something listen."""
    port, holder = held_port()
    holder.detach()  # as long as this process lives
    return port
