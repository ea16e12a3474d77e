"""Where the page is served: within the proxy, under a host name of its own, and on a port of this machine.

Knows mitmproxy's hooks and options, and how h11 reads a request. Must not know what the page shows or who may see it.
"""

import asyncio
import errno
import logging
import os
import socket
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import h11
from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from .app import LARGEST_CHANGE, Addon, Request, Site, respond

logger = logging.getLogger("force_stream")

LOOPBACK: Final = "127.0.0.1"
_OPTIONS: Final = {"force_stream_page", "force_stream_page_port", "force_stream_page_remote"}
_PORTS: Final = {"http": 80, "https": 443}

# Limits of the port. Each connection has one request, and this many seconds for it and its answer.
_PATIENCE: Final = 30.0
_MOST_CONNECTIONS: Final = 100
_LARGEST_HEAD: Final = 64 * 1024
_READ: Final = 64 * 1024


class Serving:
    """An addon object that answers requests for the page.

    The proxy answers them as it does those for mitm.it. Their flows stay out of the flow list, the terminal and flow
    files: an open page asks for news all the time.
    """

    def __init__(self, addon: Addon) -> None:
        self._addon = addon
        self._running = False
        self._site: Site | None = None
        self._name = ""
        self._port: _OwnPort | None = None

    # Life

    def load(self, loader: Loader) -> None:
        loader.add_option(
            "force_stream_page",
            str,
            "force.stream",
            "The name under which the proxy serves a page of its own (http://force.stream/); empty: none.",
        )
        loader.add_option(
            "force_stream_page_port",
            int,
            0,
            "A port on 127.0.0.1 for that page too, for reverse mode, in which no client can name its host; 0: none.",
        )
        loader.add_option(
            "force_stream_page_remote",
            bool,
            False,
            "Answer clients on other machines too, under the page's name; whoever uses the proxy can switch rules.",
        )

    def running(self) -> None:
        self._running = True
        self._serve()

    def configure(self, updated: set[str]) -> None:
        if self._running and updated & _OPTIONS:
            self._serve()

    def done(self) -> None:
        self._running = False
        self._site = None
        self._close_port()

    def _serve(self) -> None:
        """Serve as the options say now."""
        self._name = _canonical(ctx.options.force_stream_page)
        ports = {"", *(f":{port}" for port in _PORTS.values())}
        names = frozenset(f"{name}{port}" for name in (self._name, f"{self._name}.") for port in ports)
        self._site = Site(self._addon, names, ctx.options.force_stream_page_remote) if self._name else None
        wanted = ctx.options.force_stream_page_port
        if self._port is not None and self._port.number == wanted:
            return
        self._close_port()
        if wanted:
            try:
                self._port = _OwnPort(self._addon, wanted)
            except (OSError, OverflowError) as error:
                logger.warning(f"port {wanted} {_why_not(error)}, so the page is not served there; choose another port")
            else:
                logger.info(f"The page of force-stream is at http://{LOOPBACK}:{wanted}/")

    def _close_port(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None

    # Hooks. AddonHalt keeps a flow from the addons behind this one: flow list, terminal, flow file.

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if self._is_for_page(flow):
            raise exceptions.AddonHalt

    def request(self, flow: http.HTTPFlow) -> None:
        if self._site is None or flow.response or not self._is_for_page(flow):
            return
        answer = respond(self._site, _request_of(flow))
        flow.response = http.Response.make(answer.status, answer.body)
        # It would say how long the body is here, which to HEAD is not how long it is.
        flow.response.headers = http.Headers([(k.encode(), v.encode()) for k, v in answer.headers.items()])
        raise exceptions.AddonHalt

    def response(self, flow: http.HTTPFlow) -> None:
        if self._is_for_page(flow):
            raise exceptions.AddonHalt

    def error(self, flow: http.HTTPFlow) -> None:
        if self._is_for_page(flow):
            raise exceptions.AddonHalt

    def _is_for_page(self, flow: http.HTTPFlow) -> bool:
        """Whether a client asked this proxy for the page's host.

        In reverse mode a client asks for the proxy itself. There the page's name in a Host header means that somebody
        has that name in the DNS, and a page of theirs, once loaded, would pass for this one.
        """
        request = flow.request
        return (
            self._site is not None
            and flow.live
            and not flow.error
            and request.method != "CONNECT"
            and request.port == _PORTS.get(request.scheme)
            and flow.client_conn.proxy_mode.type_name != "reverse"
            and _canonical(request.pretty_host) == self._name
        )


def _why_not(error: Exception) -> str:
    if not isinstance(error, OSError):
        return "does not exist"
    taken = error.errno == errno.EADDRINUSE
    return "is already in use" if taken else f"cannot be opened ({os.strerror(error.errno or 0)})"


def _canonical(host: str) -> str:
    return host.strip().lower().removesuffix(".")


def _request_of(flow: http.HTTPFlow) -> Request:
    request = flow.request
    path, _, query = request.path.partition("?")
    peer = flow.client_conn.peername
    return Request(
        method=request.method,
        # A header of HTTP/2 says what Host says in HTTP/1.1.
        host=request.host_header or "",
        path=path,
        query=query,
        headers={name.lower(): request.headers[name] for name in request.headers},
        body=request.raw_content or b"",
        peer=peer[0] if peer else "",
        scheme=request.scheme,
    )


# A port


class _OwnPort:
    """The page on a port of 127.0.0.1, in mitmproxy's event loop. OSError where the port cannot be had."""

    def __init__(self, addon: Addon, number: int) -> None:
        self.number = number
        names = (LOOPBACK, "localhost")
        hosts = {f"{name}:{number}" for name in names} | (set(names) if number == _PORTS["http"] else set())
        self._site = Site(addon, frozenset(hosts))
        self._connections: set[asyncio.StreamWriter] = set()
        self._socket = socket.create_server((LOOPBACK, number))
        self._server: asyncio.Server | None = None
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(writer)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # a client that left, was too slow, or does not speak HTTP
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)
        request = await _read_request(connection, reader, str(writer.get_extra_info("peername")[0]))
        if request is None:
            return
        answer = respond(self._site, request)
        headers = [*answer.headers.items(), ("Date", formatdate(usegmt=True)), ("Connection", "close")]
        head = h11.Response(
            status_code=answer.status, headers=headers, reason=HTTPStatus(answer.status).phrase.encode()
        )
        writer.write((connection.send(head) or b"") + answer.body)
        writer.write_eof()
        await writer.drain()
        if request.body is None:
            # A connection that is closed over unread bytes takes the answer with it (RFC 9112, section 9.6).
            while await reader.read(_READ):
                pass

    def close(self) -> None:
        """The port is free when this returns, and no connection goes on with rules that are no longer in force."""
        self._task.cancel()
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for writer in list(self._connections):
            writer.transport.abort()


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader, peer: str) -> Request | None:
    """The connection's request, without its body where that is too large; None where none comes."""
    head: h11.Request | None = None
    body: bytearray | None = bytearray()
    while body is not None:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Request):
            head = event
            length = dict(event.headers).get(b"content-length", b"0")
            body = None if int(length) > LARGEST_CHANGE else body
        elif isinstance(event, h11.Data):
            body += event.data
            body = None if len(body) > LARGEST_CHANGE else body
        else:
            break
    if head is None:
        return None
    path, _, query = head.target.decode("ascii").partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    content = None if body is None else bytes(body)
    return Request(head.method.decode("ascii"), headers.get("host", ""), path, query, headers, content, peer)
