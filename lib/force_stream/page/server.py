"""Where the page is served: within the proxy, under a host name of its own, and on a port of this machine.

Knows mitmproxy's hooks and options, and tornado's connections. Must not know what the page shows or who may see it.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from http import HTTPStatus
from typing import Any, Final, cast

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
    format_timestamp,
)
from tornado.iostream import IOStream
from tornado.tcpserver import TCPServer

from .app import LARGEST_CHANGE, Addon, Request, Site, respond

logger = logging.getLogger("force_stream")

LOOPBACK: Final = "127.0.0.1"
_OPTIONS: Final = {"force_stream_page", "force_stream_page_port", "force_stream_page_remote"}
_PORTS: Final = {"http": 80, "https": 443}

# Limits of the port. Each connection has one request, and this many seconds for it and its answer.
_PATIENCE: Final = 30.0
_MOST_CONNECTIONS: Final = 100
_LIMITS: Final = HTTP1ConnectionParameters(no_keep_alive=True, max_header_size=64 * 1024, max_body_size=LARGEST_CHANGE)


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


class _OwnPort(TCPServer, HTTPServerConnectionDelegate):
    """The page on a port of 127.0.0.1, in mitmproxy's event loop. OSError where the port cannot be had."""

    def __init__(self, addon: Addon, number: int) -> None:
        super().__init__()
        self.number = number
        names = (LOOPBACK, "localhost")
        hosts = {f"{name}:{number}" for name in names} | (set(names) if number == _PORTS["http"] else set())
        self._site = Site(addon, frozenset(hosts))
        self._connections: dict[object, tuple[IOStream, asyncio.TimerHandle]] = {}
        bound = socket.create_server((LOOPBACK, number))
        bound.setblocking(False)
        self.add_socket(bound)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
            stream.close()
            return
        connection = HTTP1ServerConnection(stream, _LIMITS, address[0])
        timer = asyncio.get_running_loop().call_later(_PATIENCE, stream.close)
        self._connections[connection] = stream, timer
        connection.start_serving(self)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return _Exchange(self._site, cast(HTTP1Connection, request_conn))

    def on_close(self, server_conn: object) -> None:
        _, timer = self._connections.pop(server_conn)
        timer.cancel()

    def close(self) -> None:
        """The port is free when this returns, and no connection goes on with rules that are no longer in force."""
        self.stop()
        for stream, _ in list(self._connections.values()):
            stream.close()


class _Exchange(HTTPMessageDelegate):
    """One request on the port and its answer."""

    def __init__(self, site: Site, connection: HTTP1Connection) -> None:
        self._site = site
        self._connection = connection
        self._body = bytearray()

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        self._start = cast(RequestStartLine, start_line)
        self._headers = headers
        length = headers.get("Content-Length", "")
        if length.isdigit() and (len(length) > 9 or int(length) > LARGEST_CHANGE):
            self._answer(None)

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def finish(self) -> None:
        self._answer(bytes(self._body))

    def _answer(self, body: bytes | None) -> None:
        path, _, query = self._start.path.partition("?")
        headers = {name.lower(): value for name, value in self._headers.items()}
        peer = str(self._connection.context)
        request = Request(self._start.method, headers.get("host", ""), path, query, headers, body, peer)
        answer = respond(self._site, request)
        line = ResponseStartLine("HTTP/1.1", answer.status, HTTPStatus(answer.status).phrase)
        date = {"Date": format_timestamp(time.time())}
        self._connection.write_headers(line, HTTPHeaders(date | dict(answer.headers)), answer.body)
        self._connection.finish()
