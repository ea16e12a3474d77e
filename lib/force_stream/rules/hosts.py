"""The host names of a rule and of a request: patterns, ports, and one spelling for each name.

Must not know rules or requests.
"""

import fnmatch
import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

_BRACKETED: Final = re.compile(r"\[(?P<name>[^\[\]]*:[^\[\]]*)\](:(?P<port>.*))?")
_IPV6_WILDCARD: Final = re.compile(r"[0-9a-f:.]*[*?][0-9a-f:.*?]*", re.IGNORECASE)
_HOST: Final = re.compile(r"[^\s/\\@,]+")


class HostPattern(NamedTuple):
    """A host of a rule, compiled. `port` None stands for any."""

    name: re.Pattern[str]
    port: int | None


def compile_host(pattern: str) -> HostPattern:
    """The compiled form of `api.example.com`, `*.example.ai`, `10.0.0.5:8000`, `*:8000`, `::1`, `[::1]:8000`.

    ValueError if it is none of these.
    """
    if bracketed := _BRACKETED.fullmatch(pattern):
        name, port = bracketed["name"], bracketed["port"]
    elif pattern.count(":") > 1:
        name, port = pattern, None
    else:
        name, colon, number = pattern.partition(":")
        port = number if colon else None
    if "/" in pattern or not (_is_ipv6(name) if ":" in name else _HOST.fullmatch(name)):
        raise ValueError(f"not a host: {pattern!r}")
    return HostPattern(re.compile(fnmatch.translate(canonical_host(name))), _port(pattern, port))


def _is_ipv6(name: str) -> bool:
    try:
        ipaddress.IPv6Address(name)
    except ValueError:
        return _IPV6_WILDCARD.fullmatch(name) is not None
    return True


def _port(pattern: str, port: str | None) -> int | None:
    if port is None or port == "*":
        return None
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"not a port: {pattern!r}")
    return int(port)


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


def spelled_hosts(hosts: Iterable[tuple[str, int | None]]) -> str:
    spelled = dict.fromkeys(_with_port(name, port) for name, port in hosts)
    return f"host {' or '.join(spelled)}" if spelled else "a request without a host"


def _with_port(name: str, port: int | None) -> str:
    if port is None:
        return name
    return f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"
