"""Logs which client does not trust mitmproxy's certificate, and what helps: nothing that such a client sends can be
seen.

Knows mitmproxy's hooks for TLS; must not know what a rule does, or read a request.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from mitmproxy import connection, ctx, http, tcp, tls

from ..rules.hosts import with_port
from ..rules.rule import Rule
from ..wire.text import printable

logger = logging.getLogger("force_stream")

# How mitmproxy's messages begin about a handshake that the client refused, and about one that it abandoned.
_REFUSED: Final = "The client does not trust"
_LEFT: Final = ("The client disconnected during", "The client may not trust")
# How often a client has to leave until that is a hint: once, it may just have been interrupted.
_ENOUGH: Final = 2
# Stands for a client that has sent a request: it trusts the certificate, whatever else makes it leave, such as a health
# check.
_TRUSTS: Final = -math.inf
# Clients and hosts that are remembered; the oldest go first.
_MOST: Final = 1000


class _Wanted(NamedTuple):
    """A client's address, the host and port that it wanted, and in reverse mode the proxy's own, else ""."""

    client: str
    host: str
    proxy: str


class Certificates:
    """An addon object that logs one line for each client and host, if a rule names the host."""

    def __init__(self, rules: Callable[[], Sequence[Rule]]) -> None:
        """`rules`: those in force."""
        self._rules = rules
        # TLS connections that have had no request yet, by their ids.
        self._silent: dict[str, _Wanted] = {}
        # How often each client has left; it is reported at `_ENOUGH`, and never again.
        self._left: dict[_Wanted, float] = {}

    def tls_failed_client(self, data: tls.TlsData) -> None:
        error, wanted = data.conn.error or "", self._wanted(data)
        if error.startswith(_REFUSED):
            self._note(wanted, refused=True)
        elif error.startswith(_LEFT):
            self._note(wanted, refused=False)

    def tls_established_client(self, data: tls.TlsData) -> None:
        if wanted := self._wanted(data):
            self._silent[data.conn.id] = wanted

    def requestheaders(self, flow: http.HTTPFlow | tcp.TCPFlow) -> None:
        wanted = self._silent.pop(flow.client_conn.id, None)
        if wanted and self._left.get(wanted, 0) < _ENOUGH:
            self._keep(wanted, _TRUSTS)

    tcp_start = requestheaders

    def client_disconnected(self, client: connection.Client) -> None:
        # Some verify the certificate once the handshake is over, such as programs with GnuTLS.
        self._note(self._silent.pop(client.id, None), refused=False)

    def _wanted(self, data: tls.TlsData) -> _Wanted | None:
        """Who wanted what, if a rule names that host."""
        client, address = data.context.client, data.context.server.address
        if address is None or not ctx.options.force_stream:
            return None
        name, port = client.sni or address[0], address[1]
        if not any(rule.is_for_host([(name, port), (address[0], port)]) for rule in self._rules()):
            return None
        reverse = client.proxy_mode.type_name == "reverse"
        proxy = with_port(*client.sockname[:2]) if reverse else ""
        return _Wanted(client.peername[0], with_port(name, port).removesuffix(":443"), proxy)

    def _note(self, wanted: _Wanted | None, *, refused: bool) -> None:
        if wanted is None:
            return
        before = self._left.get(wanted, 0)
        after = max(before, _ENOUGH) if refused else before + 1
        self._keep(wanted, after)
        if before < _ENOUGH <= after:
            logger.warning(_advice(wanted, refused=refused))

    def _keep(self, wanted: _Wanted, left: float) -> None:
        self._left.pop(wanted, None)
        self._left[wanted] = left
        if len(self._left) > _MOST:
            del self._left[next(iter(self._left))]


def _advice(wanted: _Wanted, *, refused: bool) -> str:
    client, host, proxy = wanted.client, printable(wanted.host), wanted.proxy
    if refused:
        problem = f"{client} does not trust mitmproxy's certificate for {host}, so its requests cannot be forced."
    else:
        problem = f"{client} closes its connections to {host} at once: it may not trust mitmproxy's certificate."
    if proxy:
        return f"{problem} It needs no certificate if its base URL begins with http://{proxy} instead of https://"
    return (
        f"{problem} Make the program trust it; for one that has its own list of authorities (Rust, Tauri, Electron, "
        f"JetBrains), use reverse mode, which needs no certificate: --mode reverse:https://{host} --set "
        f"connection_strategy=lazy, and http:// with this proxy's address instead of https://{host} in its settings"
    )
