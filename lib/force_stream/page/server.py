"""Where the page is served: within the proxy, under a host name of its own, and on a port of this machine.

Knows mitmproxy's hooks and options, and WSGI. Must not know what the page shows or who may see it.
"""

import asyncio
import io
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from flask import Flask
from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from .app import Board, create_app

logger = logging.getLogger("force_stream")

LOOPBACK: Final = "127.0.0.1"
# Seconds within which the server's thread notices that it shall end; the event loop waits for it.
_POLL: Final = 0.05
_OPTIONS: Final = {"force_stream_page", "force_stream_page_port", "force_stream_page_remote"}
_PORTS: Final = {"http": 80, "https": 443}


class Serving:
    """An addon object that answers requests for the page.

    The proxy answers them as it does those for mitm.it. Their flows stay out of the flow list, the terminal and flow
    files: an open page asks for news all the time.
    """

    def __init__(self, board: Callable[[], Board]) -> None:
        """`board` is called once mitmproxy runs, in its event loop."""
        self._make_board = board
        self._board: Board | None = None
        self._app: Flask | None = None
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
        self._board = self._make_board()
        self._serve()

    def configure(self, updated: set[str]) -> None:
        if self._board is not None and updated & _OPTIONS:
            self._serve()

    def done(self) -> None:
        self._app = self._board = None
        self._close_port()

    def _serve(self) -> None:
        """Serve as the options say now."""
        assert self._board is not None
        self._name = _canonical(ctx.options.force_stream_page)
        ports = {"", *(f":{port}" for port in _PORTS.values())}
        names = {f"{name}{port}" for name in (self._name, f"{self._name}.") for port in ports}
        self._app = create_app(self._board, names, remote=ctx.options.force_stream_page_remote) if self._name else None
        wanted = ctx.options.force_stream_page_port
        if self._port is not None and self._port.number == wanted:
            return
        self._close_port()
        if wanted:
            try:
                self._port = _OwnPort(self._board, wanted)
            except (OSError, OverflowError) as error:
                reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "there is no such port"
                logger.warning(
                    f"force_stream_page_port={wanted}: the page has no port of its own: {reason}. Set another one."
                )
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

    async def request(self, flow: http.HTTPFlow) -> None:
        if self._app is None or flow.response or not self._is_for_page(flow):
            return
        try:
            flow.response = await asyncio.to_thread(_answer, self._app, _environ(flow))
        except Exception as error:
            logger.error(f"force-stream: a fault of the page: {type(error).__name__}. Details at debug level.")
            logger.debug("force-stream: the fault's traceback", exc_info=error)
            flow.response = http.Response.make(500, b"A fault of the page itself; the log has its kind.\n")
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
            self._app is not None
            and flow.live
            and not flow.error
            and request.method != "CONNECT"
            and request.port == _PORTS.get(request.scheme)
            and flow.client_conn.proxy_mode.type_name != "reverse"
            and _canonical(request.pretty_host) == self._name
        )


def _canonical(host: str) -> str:
    return host.strip().lower().removesuffix(".")


# A flow to WSGI and back. mitmproxy's WSGIApp does the same, but escapes the path twice and serves one at a time.


def _environ(flow: http.HTTPFlow) -> dict[str, Any]:
    """A flow's request as PEP 3333 has it."""
    request = flow.request
    body = request.raw_content or b""
    path, _, query = request.path.partition("?")
    headers: dict[str, Any] = {}
    for name in {name.lower() for name in request.headers}:
        key = name.upper().replace("-", "_")
        headers[key if name in ("content-type", "content-length") else f"HTTP_{key}"] = request.headers[name]
    # A header of HTTP/2 says what Host says in HTTP/1.1.
    headers["HTTP_HOST"] = request.host_header or ""
    peer = flow.client_conn.peername
    return headers | {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": request.host,
        "SERVER_PORT": str(request.port),
        "SERVER_PROTOCOL": request.http_version,
        "REMOTE_ADDR": peer[0] if peer else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def _answer(app: Flask, environ: dict[str, Any]) -> http.Response:
    answer = Response.from_app(app, environ)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    return http.Response.make(answer.status_code, answer.get_data(), headers)


# A port


class _OwnPort:
    """The page on a port of 127.0.0.1, in threads of its own. OSError where the port cannot be had."""

    def __init__(self, board: Board, number: int) -> None:
        self.number = number
        names = (LOOPBACK, "localhost")
        hosts = {f"{name}:{number}" for name in names} | (set(names) if number == _PORTS["http"] else set())
        # Bound here, since the server would end the process over a port that is taken.
        with socket.create_server((LOOPBACK, number)) as bound:
            self._server: BaseWSGIServer = make_server(
                LOOPBACK,
                number,
                create_app(board, hosts),
                threaded=True,
                request_handler=_Handler,
                fd=bound.fileno(),
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL,), name="force_stream_page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """The port is free when this returns."""
        self._server.shutdown()
        self._thread.join(10 * _POLL)


class _Handler(WSGIRequestHandler):
    # A connection that stays open would outlive its server, and go on with rules that are no more.
    protocol_version = "HTTP/1.0"
    server_version = "force-stream"
    sys_version = ""
    # Seconds. A client that says nothing holds a thread.
    timeout = 30

    def version_string(self) -> str:
        return self.server_version

    def log(self, type: str, message: str, *args: Any) -> None:
        """Not a word: an open page asks for news all the time."""
