"""The host names of a rule and of a request: patterns, ports, and one spelling for each name.

Must not know rules or requests.
"""

import fnmatch
import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from ..wire.text import printable

_PATTERN: Final = re.compile(
    r"(\[(?P<bracketed>[^\[\]]*:[^\[\]]*)\]|(?P<name>[^:]+))(:(?P<port>[0-9]+|\*))?|(?P<ipv6>.*:.*:.*)"
)
_IPV6_WILDCARD: Final = re.compile(r"[0-9a-f:.]*[*?][0-9a-f:.*?]*", re.IGNORECASE)
_HOST: Final = re.compile(r"[^\s/\\@,]+")

type HostPattern = tuple[re.Pattern[str], int | None]
"""A host of a rule, compiled: its name, and its port or None for any."""


def compile_host(pattern: str) -> HostPattern:
    """A host such as `*.example.ai`, `10.0.0.5:8000`, `*:8000`, `::1` or `[::1]:8000`, compiled. Else ValueError."""
    parts = _PATTERN.fullmatch(pattern)
    name = parts and (parts["bracketed"] or parts["name"] or parts["ipv6"])
    if not parts or not name or not (_is_ipv6(name) if ":" in name else _HOST.fullmatch(name)):
        raise ValueError(f"not a host: {pattern!r}")
    port = parts["port"] or "*"
    if port != "*" and (len(port) > 5 or not 0 < int(port) < 65536):
        raise ValueError(f"not a port: {pattern!r}")
    return re.compile(fnmatch.translate(canonical_host(name))), None if port == "*" else int(port)


def _is_ipv6(name: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(name))
    except ValueError:
        return _IPV6_WILDCARD.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def canonical_host(host: str) -> str:
    """One spelling for a host that has several: no brackets, no trailing dot, lower case, IDNA, the shortest IPv6."""
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    host = host.removesuffix(".").lower()
    try:
        if ":" in host:
            return ipaddress.ip_address(host).compressed
        return host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        return host


@lru_cache(maxsize=1024)
def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    try:
        return bool(ipaddress.ip_address(canonical_host(host)))
    except ValueError:
        return False


def spelled_hosts(hosts: Iterable[tuple[str, int | None]]) -> str:
    spelled = dict.fromkeys(with_port(name, port) for name, port in hosts)
    return f"host {' or '.join(spelled)}" if spelled else "a request without a host"


def with_port(name: str, port: int | None) -> str:
    enclosed = f"[{name}]" if ":" in name and not name.startswith("[") else name
    return printable(name) if port is None else f"{printable(enclosed)}:{port}"
