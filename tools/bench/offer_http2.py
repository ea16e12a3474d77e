"""A mitmproxy script for benchmarks: an upstream behind TLS is offered HTTP/2, even if the client speaks HTTP/1.1."""

from mitmproxy.proxy.server_hooks import ServerConnectionHookData


def server_connect(data: ServerConnectionHookData) -> None:
    data.server.alpn_offers = [b"h2"]
