"""`force-stream proxy URL`: a reverse proxy in front of one upstream."""

import argparse
import re
from urllib.parse import urlsplit

from ..endpoints import endpoint_for
from ..rules.hosts import compile_host
from ..rules.rule import HOSTS_OPTION
from .check import rules_in
from .exits import Failed
from .mitmproxy_tools import LOOPBACK, arguments, folder_of, free_port, is_free, settings_in, start, web_options

# The page's port is 18080 for a proxy on 8080, the same at every start, or else one of the next ones that is free.
_PAGE_OFFSETS = range(10_000, 10_020)


def run(options: argparse.Namespace) -> int:
    origin, host, path = upstream(options.url)
    port, rules = options.port, options.rules
    if rules:
        rules_in(rules)
    if not is_free(port):
        raise Failed(f"port {port} is already in use; choose another one with --port")
    folder_of(settings_in(options.more))
    page = free_port(port + offset for offset in _PAGE_OFFSETS)
    ours = web_options(options.ui) | {
        "connection_strategy": "lazy",  # otherwise a client gets no answer if the upstream cannot be reached
        "force_stream_rules": rules or "",
        HOSTS_OPTION: [] if rules else [host],
        "force_stream_page_port": page,
    }
    print(f"Base URL for your application: http://{LOOPBACK}:{port}{path}")
    print(f"What is happening: http://{LOOPBACK}:{page}/", flush=True)
    listen = ["--listen-host", LOOPBACK, "--listen-port", str(port), "--mode", f"reverse:{origin}"]
    return start(options.ui, *arguments(ours, [*listen, *options.more]))


def upstream(url: str) -> tuple[str, str, str]:
    """An upstream's origin as mitmproxy takes it, its host as a rule does, and the path of its API."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    named = parts.hostname or ""
    # https:/host and http//host are hosts to urlsplit, and so are lists of hosts and wildcards.
    plain = "://" in url or not re.match("https?[:/]", url)
    try:
        port = parts.port
        compile_host(named)
    except ValueError:
        plain = False
    if not plain or port == 0 or parts.scheme not in ("http", "https") or re.search(r"[*?\[\]]", named):
        raise Failed(f"not a URL: {url!r}; write it as in https://llm.example.com or http://127.0.0.1:8000", 2)
    if parts.username is not None or parts.query or parts.fragment:
        raise Failed("the URL of an upstream has a scheme, a host, and perhaps a port and a path; nothing else", 2)
    host = f"[{named}]" if ":" in named else named
    if port is not None:
        host = f"{host}:{port}"
    path = parts.path.rstrip("/")
    endpoint = endpoint_for(path, {})
    for end in endpoint.paths if endpoint is not None else ():
        path = path.removesuffix(end)
    # Nearly every API of this kind is under /v1.
    return f"{parts.scheme}://{host}", host, path or "/v1"
