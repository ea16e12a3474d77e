"""Where the page is served: within the proxy, under a host name of its own, and on a port of this machine.

Knows mitmproxy's hooks and options, and how h11 reads a request. Must not know what the page shows or who may see it.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from itertools import chain
from typing import Final

import h11
from mitmproxy import connection, ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from .app import LARGEST_CHANGE, PORTS, Request, canonical, log_fault, respond
from .shown import Addon

logger = logging.getLogger("force_stream")

_OPTIONS: Final = {
    "force_stream_page": "The name under which the proxy serves its own page (http://force.stream/); empty: none.",
    "force_stream_page_port": "A port on 127.0.0.1 that also serves the page, in reverse mode the only way to reach "
    "it; 0: none.",
    "force_stream_page_remote": "Also serve the page to clients on other machines, under its name; they can then "
    "switch rules.",
}
LOOPBACK: Final = "127.0.0.1"
# Limits of the port: seconds for a connection's one request and its answer, connections, and bytes of a request's head.
_PATIENCE: Final = 30.0
_MOST_CONNECTIONS: Final = 100
_LARGEST_HEAD: Final = 64 * 1024
# Connections that stay open for updates of the page, and seconds between two checks for some.
_MOST_READERS: Final = 20
_LOOK: Final = 1.0


class Serving:
    """An addon object that answers requests for the page, as mitmproxy does those for mitm.it.

    Their flows stay out of the flow list, the terminal and flow files: an open page asks for updates all the time.
    """

    def __init__(self, addon: Addon) -> None:
        self._addon = addon
        self._running = False
        self._hosts: set[str] = set()
        self._port: _Port | None = None
        # The ports of this proxy's own connections on behalf of clients on other machines.
        self._foreign: set[int] = set()

    def load(self, loader: Loader) -> None:
        defaults: tuple[str | int, ...] = "force.stream", 0, False
        for (name, text), default in zip(_OPTIONS.items(), defaults, strict=True):
            loader.add_option(name, type(default), default, text)

    def running(self) -> None:
        self._running = True
        self.configure(set(_OPTIONS))

    def configure(self, updated: set[str]) -> None:
        if self._running and updated & _OPTIONS.keys():
            self._hosts = {canonical(ctx.options.force_stream_page)} - {""}
            self._move_port(ctx.options.force_stream_page_port)

    def done(self) -> None:
        self._move_port(0)

    def _move_port(self, number: int) -> None:
        if self._port is not None and self._port.number != number:
            self._port.close()
            self._port = None
        if self._port is not None or not number:
            return
        try:
            self._port = _Port(self._addon, number, self._foreign)
        except ValueError:
            reason = "does not exist"
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            reason = "is already in use" if in_use else f"cannot be opened ({os.strerror(error.errno or 0)})"
        else:
            logger.info(f"The page of force-stream is at http://{LOOPBACK}:{number}/")
            return
        logger.warning(f"port {number} {reason}, so the page is not served there; choose another port")

    def server_connected(self, data: ServerConnectionHookData) -> None:
        # This machine has more names than can be known (0.0.0.0, 127.1), so it is the connection that tells.
        peer, own = data.server.peername, data.server.sockname
        is_port = self._port is not None and peer and peer[1] == self._port.number
        if is_port and own and not _is_local(data.client):
            self._foreign.add(own[1])

    def server_disconnected(self, data: ServerConnectionHookData) -> None:
        if data.server.sockname:
            self._foreign.discard(data.server.sockname[1])

    # Hooks. AddonHalt keeps a flow from the addons behind this one: flow list, terminal, flow file.

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if self._is_for_page(flow):
            raise exceptions.AddonHalt

    response = error = requestheaders

    async def request(self, flow: http.HTTPFlow) -> None:
        if flow.response or not self._is_for_page(flow):
            return
        request = flow.request
        headers = {name.lower(): request.headers[name] for name in request.headers}
        # A pseudo-header of HTTP/2 says what Host says in HTTP/1.1.
        headers["host"] = request.host_header or ""
        is_local, body = _is_local(flow.client_conn), request.raw_content or b""
        asked = Request(request.method, request.path, headers, body, is_local, request.scheme)
        hosts = self._hosts if self._port is None else self._hosts | self._port.hosts
        # Only the beginning of an open answer is sent here, since mitmproxy holds an answer until its end.
        answer = await respond(self._addon, asked, hosts, remote=ctx.options.force_stream_page_remote)
        flow.response = http.Response.make(answer.status, answer.body)
        # It would give the length of the body here, which for HEAD is not the length of the real one.
        flow.response.headers = http.Headers([(k.encode(), v.encode()) for k, v in answer.headers.items()])
        raise exceptions.AddonHalt

    def _is_for_page(self, flow: http.HTTPFlow) -> bool:
        """Whether a client asked this proxy for the page's host, or for its port: there the request would come from
        this machine, and without its Origin where a rule's `cors` covers that.

        In reverse mode a client asks for the proxy itself. There the page's name in a Host header means that somebody
        has that name in the DNS, and a page of theirs, once loaded, would pass for this one.
        """
        request = flow.request
        if not flow.live or flow.error or request.method == "CONNECT":
            return False
        if self._port is not None and canonical(f"{request.host}:{request.port}") in self._port.hosts:
            return True
        return (
            request.port == PORTS.get(request.scheme)
            and flow.client_conn.proxy_mode.type_name != "reverse"
            and canonical(request.pretty_host) in self._hosts
        )


def _is_local(client: connection.Client) -> bool:
    """Whether a client of the proxy is on this machine."""
    mode, address = client.proxy_mode.type_name, str(client.peername[0]) if client.peername else ""
    # A listener for both families sees 127.0.0.1 as ::ffff:127.0.0.1.
    address = address.removeprefix("::ffff:")
    try:
        if ipaddress.ip_address(address).is_loopback:
            return True
    except ValueError:
        return False
    # Local mode captures programs of this machine and nothing else; on Linux all of them come from 169.254.0.1. What a
    # firewall redirects comes from the address that it would have gone out from. In the other modes an address of this
    # machine may be that of a forwarder, such as the one before a container, with clients on other machines.
    return mode == "local" or (mode == "transparent" and _is_own(address))


def _is_own(address: str) -> bool:
    """Whether an address is one of this machine's: those it reaches from the very same address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # of UDP, so nothing is sent
        return bool(probe.getsockname()[0] == address)
    return False


class _Port:
    """The page on a port of 127.0.0.1, in mitmproxy's event loop. OSError or ValueError if it cannot be had."""

    def __init__(self, addon: Addon, number: int, foreign: Collection[int]) -> None:
        """`foreign`: the ports from which clients on other machines come, by way of the proxy."""
        if not 0 < number < 65536:
            raise ValueError(number)  # create_server would leave its socket open
        self.number = number
        self._addon = addon
        self._foreign = foreign
        self.hosts = {canonical(f"{name}:{number}") for name in (LOOPBACK, "localhost")}
        self._connections: set[asyncio.StreamWriter] = set()
        self._readers = 0
        self._socket = socket.create_server((LOOPBACK, number))
        self._task = asyncio.get_running_loop().create_task(asyncio.start_server(self._serve, sock=self._socket))

    def close(self) -> None:
        """The port is free when this returns, and no connection goes on with rules that are no longer in force."""
        if self._task.done() and not self._task.cancelled():
            self._task.result().close()
        self._task.cancel()
        self._socket.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._connections) < _MOST_CONNECTIONS:
                self._connections.add(writer)
                # A client may leave, be too slow, or not speak HTTP.
                with suppress(OSError, TimeoutError, h11.ProtocolError):
                    async with asyncio.timeout(_PATIENCE):
                        goes_on = await self._answer(reader, writer)
                    if goes_on is not None:
                        await self._go_on(goes_on, reader, writer)
        finally:
            self._connections.discard(writer)
            writer.transport.abort()  # `close` would wait for ever for a client that does not read its answer

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Iterator[bytes] | None:
        """Answer the connection's request; returns the pieces of an answer that stays open."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)
        request = await _read_request(connection, reader)
        if request is None:
            return None
        if writer.get_extra_info("peername")[1] in self._foreign:
            request = request._replace(is_local=False)
        answer = await respond(self._addon, request, self.hosts)
        goes_on = answer.news if self._readers < _MOST_READERS else None
        fields = {**answer.headers, "Date": formatdate(usegmt=True), "Connection": "close"}
        headers = [field for field in fields.items() if goes_on is None or field[0] != "Content-Length"]
        reason = HTTPStatus(answer.status).phrase.encode()
        head = connection.send(h11.Response(status_code=answer.status, headers=headers, reason=reason))
        writer.write(head or b"")
        if goes_on is not None:
            news = chain([answer.body], iter(goes_on, None))
            return (connection.send(h11.Data(data=piece)) or b"" for piece in news)
        writer.write(answer.body)
        writer.write_eof()
        await writer.drain()
        if request.body is None:
            # A connection that is closed over unread bytes takes the answer with it (RFC 9112, section 9.6).
            while await reader.read(_LARGEST_HEAD):
                pass
        writer.close()
        await writer.wait_closed()  # all of the answer is sent then
        return None

    async def _go_on(self, pieces: Iterator[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send one piece after another until the client leaves, or stops reading."""
        self._readers += 1
        try:
            for piece in pieces:
                writer.write(piece)
                async with asyncio.timeout(_PATIENCE):
                    await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await reader.read(1)  # a client that leaves ends it; it has nothing else to send
                        return
        except OSError:
            raise
        except Exception as fault:
            log_fault(fault)
        finally:
            self._readers -= 1


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """The connection's request, without its body where that is too large; None where none comes."""
    head: h11.Request | None = None
    headers: dict[str, str] = {}
    size, body = 0, b""
    while size <= LARGEST_CHANGE:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_LARGEST_HEAD))
        elif isinstance(event, h11.Request):
            head = event
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
            size = int(headers.get("content-length", 0))
        elif isinstance(event, h11.Data):
            body += event.data
            size = max(size, len(body))
        else:
            break
    if head is None:
        return None
    content = None if size > LARGEST_CHANGE else body
    return Request(head.method.decode("ascii"), head.target.decode("ascii"), headers, content, is_local=True)
