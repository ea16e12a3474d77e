"""`force-stream proxy URL`: a reverse proxy in front of one upstream."""

import re
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..endpoints import endpoint_for
from ..rules.hosts import compile_host
from ..rules.rule import HOSTS_OPTION
from .mitmproxy_tools import LOOPBACK, arguments, free_port, is_free, start, web_options

# The page's port is 18080 for a proxy on 8080, so that it is found at the same place again; else one of the next ones.
_PAGE_OFFSET = 10_000
_NEAR = 20


def proxy(url: str, port: int, ui: str, rules: str | None, more: Sequence[str]) -> int:
    """Start it, and return the exit code when it ends."""
    try:
        origin, host, path = upstream(url)
    except ValueError as error:
        print(f"force-stream proxy: {error}", file=sys.stderr)
        return 2
    if not is_free(port):
        print(f"force-stream proxy: port {port} is already in use; choose another one with --port", file=sys.stderr)
        return 1
    page = free_port(range(port + _PAGE_OFFSET, port + _PAGE_OFFSET + _NEAR))
    options = web_options(ui) | {
        "connection_strategy": "lazy",  # else a client gets no answer where the upstream cannot be reached
        "force_stream_rules": rules or "",
        HOSTS_OPTION: [] if rules else [host],
        "force_stream_page_port": page,
    }
    print(f"Base URL for your application: http://{LOOPBACK}:{port}{path}")
    print(f"What is happening: http://{LOOPBACK}:{page}/", flush=True)
    listen = ["--listen-host", LOOPBACK, "--listen-port", str(port), "--mode", f"reverse:{origin}"]
    return start(ui, *arguments(options, [*listen, *more]))


def upstream(url: str) -> tuple[str, str, str]:
    """An upstream's origin as mitmproxy takes it, its host as a rule does, and the path of its API.

    ValueError, in words for a person, for anything else than a plain http or https URL.
    """
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    named = parts.hostname or ""
    # https:/host and http//host are hosts to urlsplit, and so are lists of hosts and wildcards.
    plain = not re.match("https?[:/]", url) or "://" in url
    if parts.scheme not in ("http", "https") or port == 0 or not plain or not _is_host(named):
        raise ValueError(f"not a URL: {url!r}; write it as in https://llm.example.com or http://127.0.0.1:8000")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the URL of an upstream has a scheme, a host, and perhaps a port and a path; nothing else")
    host = f"[{named}]" if ":" in named else named
    if port is not None:
        host = f"{host}:{port}"
    path = parts.path.rstrip("/")
    endpoint = endpoint_for(path, {})
    for end in endpoint.paths if endpoint is not None else ():
        path = path.removesuffix(end)
    # Nearly every API of this kind is under /v1.
    return f"{parts.scheme}://{host}", host, path or "/v1"


def _is_host(name: str) -> bool:
    if not name or re.search(r"[*?\[\]]", name):
        return False
    try:
        compile_host(name)
    except ValueError:
        return False
    return True
