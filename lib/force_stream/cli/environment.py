"""The environment in which a program uses the proxy and trusts its certificate.

Knows which variables runtimes read, and where systems keep their certificates. Must not know how the proxy or the
program is started.
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import certifi

# Both spellings: curl, wget and Ruby read http_proxy in lower case alone, others in upper case alone.
_PROXY: Final = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_NO_PROXY: Final = ("NO_PROXY", "no_proxy")
# Each names a file of certificates that a runtime trusts in place of its own.
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
# Each names a file of certificates that a runtime trusts beside its own.
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
    """The variables, with those by which a program finds the proxy and trusts it.

    `authority`: the certificate of mitmproxy's authority (PEM). `hosts`: those to be forced, as in a rule. `folder`:
    where bundles of certificates are written; they have to stay as long as the program runs.
    """
    changed = dict(environ)
    changed |= dict.fromkeys(_PROXY, proxy_url)
    # Node.js from 22.21 and 24 on.
    changed["NODE_USE_ENV_PROXY"] = "1"
    for name in _NO_PROXY:
        if name in environ:
            changed[name] = ",".join(
                entry for entry in re.split(r"[,\s]+", environ[name]) if not any(covers(entry, host) for host in hosts)
            )
    certificate = authority.read_bytes()
    bundles: dict[bytes, Path] = {}
    for name in (*_REPLACES_STORE, *_ADDS_TO_STORE):
        base = _named_store(environ.get(name))
        if base is None:
            base = system_store() if name in _REPLACES_STORE else b""
        if base not in bundles:
            bundles[base] = folder / f"certificates-{len(bundles)}.pem"
            bundles[base].write_bytes(base.rstrip() + b"\n" * bool(base) + certificate)
        changed[name] = str(bundles[base])
    return changed


def covers(entry: str, host: str) -> bool:
    """Whether an entry of NO_PROXY keeps requests to a host of a rule from the proxy. Clients read such entries in ways
    of their own; each of them counts."""
    if entry == "*":
        return True
    named, wanted = _without_port(entry.lower()), _without_port(host.lower())
    if not named:
        return False
    try:
        if "/" in named:
            return ipaddress.ip_address(wanted) in ipaddress.ip_network(named, strict=False)
    except ValueError:
        return False
    domain = named.lstrip("*.")
    # A wildcard in the rule stands for hosts that the entry may name.
    return wanted == domain or wanted.endswith(f".{domain}") or fnmatchcase(domain, wanted)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _named_store(name: str | None) -> bytes | None:
    """The certificates of a file that the person named already."""
    try:
        return Path(name).read_bytes() if name else None
    except OSError:
        return None


def system_store() -> bytes:
    """The certificates that this system trusts, as PEM."""
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_STORES):
        if path and os.path.isfile(path):
            return Path(path).read_bytes()
    # Windows keeps them in a store of its own, which Python can list.
    listed = ssl.create_default_context().get_ca_certs(binary_form=True)
    if listed:
        return "".join(map(ssl.DER_cert_to_PEM_cert, listed)).encode()
    return Path(certifi.where()).read_bytes()
