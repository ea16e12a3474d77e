"""A mitmproxy script: offer HTTP/2 to the upstream always; mitmproxy itself mirrors what the client offered."""

from mitmproxy.proxy.server_hooks import ServerConnectionHookData


def server_connect(data: ServerConnectionHookData) -> None:
    data.server.alpn_offers = (b"h2", b"http/1.1")
