"""The environment variables with which a program uses the proxy and trusts its certificate.

Knows which variables runtimes read, and where systems keep their certificates. Must not know how anything is started.
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import certifi

# Both spellings: curl, wget and Ruby read http_proxy only in lower case, others only in upper case.
PROXY: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
# Each names a file of certificates that a runtime trusts instead of its own.
_REPLACES_STORE: Final = (
    "SSL_CERT_FILE",  # OpenSSL: Python's ssl and httpx, Ruby, PHP; Go on Linux
    "REQUESTS_CA_BUNDLE",  # Python's requests
    "CURL_CA_BUNDLE",  # curl
    "GIT_SSL_CAINFO",  # git
    "PIP_CERT",  # pip
    "AWS_CA_BUNDLE",  # AWS's SDKs
    "CARGO_HTTP_CAINFO",  # cargo
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",  # gRPC
)
# Each names a file of certificates that a runtime trusts in addition to its own.
_ADDS_TO_STORE: Final = (
    "NODE_EXTRA_CA_CERTS",  # Node.js, Bun
    "DENO_CERT",  # Deno
)
_SYSTEM_STORES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


def proxied(
    environ: Mapping[str, str], proxy_url: str, authority: Path, hosts: Iterable[str], folder: Path
) -> dict[str, str]:
    """The variables, and those that make a program use and trust the proxy.

    `authority`: mitmproxy's CA certificate (PEM). `hosts`: those to force, as in a rule. `folder`: where bundles of
    certificates are written; it must exist as long as the program runs.
    """
    # The last is for Node.js from 22.21 and 24 on.
    changed = {**environ, **dict.fromkeys(PROXY, proxy_url), "NODE_USE_ENV_PROXY": "1"}
    for name in ("NO_PROXY", "no_proxy"):
        if name in environ:
            entries = re.split(r"[,\s]+", environ[name])
            changed[name] = ",".join(entry for entry in entries if not any(covers(entry, host) for host in hosts))
    certificate = authority.read_bytes()
    bundles: dict[bytes, Path] = {}
    stores = dict.fromkeys(_REPLACES_STORE, system_store()) | dict.fromkeys(_ADDS_TO_STORE, b"")
    for name, store in stores.items():
        if environ.get(name):
            with suppress(OSError):
                store = Path(environ[name]).read_bytes()
        if store not in bundles:
            bundles[store] = folder / f"certificates-{len(bundles)}.pem"
            bundles[store].write_bytes(store.rstrip() + b"\n" * bool(store) + certificate)
        changed[name] = str(bundles[store])
    return changed


def covers(entry: str, host: str) -> bool:
    """Whether any client would take an entry of NO_PROXY to mean a host of a rule; they read such entries in different
    ways."""
    if entry == "*":
        return True
    named, wanted = _without_port(entry.lower()), _without_port(host.lower())
    if not named:
        return False
    if "/" in named:
        with suppress(ValueError):
            return ipaddress.ip_address(wanted) in ipaddress.ip_network(named, strict=False)
        return False
    domain = named.lstrip("*.")
    # A wildcard in the rule covers hosts that the entry may name.
    return wanted == domain or wanted.endswith(f".{domain}") or fnmatchcase(domain, wanted)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def system_store() -> bytes:
    """The certificates that this system trusts, as PEM."""
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_STORES):
        if path and os.path.isfile(path):
            return Path(path).read_bytes()
    # Windows has a store of its own, which Python can list.
    listed = ssl.create_default_context().get_ca_certs(binary_form=True)
    if listed:
        return "".join(map(ssl.DER_cert_to_PEM_cert, listed)).encode()
    return Path(certifi.where()).read_bytes()
