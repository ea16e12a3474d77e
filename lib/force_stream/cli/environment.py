"""The environment variables and arguments with which a program uses the proxy and trusts its certificate.

Knows which of them a runtime reads, which files these name, and where systems keep their certificates. Must not know
how anything is started.
"""

import base64
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .java_store import java_store

# Both spellings: curl, wget and Ruby read http_proxy only in lower case, others only in upper case. (Ruby's Net::HTTP
# reads it for https too.)
PROXY: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
_NO_PROXY: Final = ("NO_PROXY", "no_proxy")
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")
# Each names a file of certificates that a runtime trusts instead of its own.
_REPLACES_STORE: Final = (
    "SSL_CERT_FILE",  # OpenSSL: Python's ssl and httpx, Ruby; Go on Linux
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
_NODE_PROXY: Final = Path(__file__).resolve().parent / "node_proxy.cjs"
_CERTIFICATE: Final = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
_SYSTEM_STORES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


def proxied(
    environ: Mapping[str, str], proxy_url: str, authority: Path, hosts: Sequence[str], folder: Path
) -> dict[str, str]:
    """The variables, and those that make a program use and trust the proxy.

    `authority`: mitmproxy's CA (PEM); its key may be in it too. `hosts`: those to force, as in a rule. `folder`: where
    bundles of certificates and other files are written; it must exist as long as the program runs.
    """
    # The last is for Node.js from 22.21 and 24 on, and for node:https in Bun.
    changed = {**environ, **dict.fromkeys(PROXY, proxy_url), "NODE_USE_ENV_PROXY": "1"}
    direct = [entry for entry in _direct_entries(environ) if not any(covers(entry, host) for host in hosts)]
    if not is_here(hosts):
        direct += _THIS_MACHINE
    changed |= dict.fromkeys(_NO_PROXY, ",".join(direct))
    certificate = _certificate(authority)
    bundles: dict[bytes, Path] = {}
    system = system_store()
    stores = dict.fromkeys(_REPLACES_STORE, system) | dict.fromkeys(_ADDS_TO_STORE, b"")
    for name, store in stores.items():
        if environ.get(name):
            with suppress(OSError):
                store = Path(environ[name]).read_bytes()
        if store not in bundles:
            bundles[store] = folder / f"certificates-{len(bundles)}.pem"
            bundles[store].write_bytes(store.rstrip() + b"\n" * bool(store) + certificate)
        changed[name] = str(bundles[store])
    bundle = changed["CURL_CA_BUNDLE"]
    changed["NODE_OPTIONS"] = _appended(environ.get("NODE_OPTIONS"), f'--require "{_NODE_PROXY.as_posix()}"')
    changed["PHP_INI_SCAN_DIR"] = environ.get("PHP_INI_SCAN_DIR", "") + os.pathsep + _php_folder(folder, bundle)
    changed["WGETRC"] = _wget_file(folder, bundle, environ)
    java = _java_options(folder, bundle, proxy_url, [] if is_here(hosts) else direct)
    changed["JAVA_TOOL_OPTIONS"] = _appended(environ.get("JAVA_TOOL_OPTIONS"), java)
    return changed


def chromium_arguments(proxy_url: str, authority: Path, hosts: Sequence[str]) -> list[str]:
    """What Chromium and Electron need: on most systems they read no variables, and they trust no file."""
    key = x509.load_pem_x509_certificate(_certificate(authority)).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    trust = f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"
    # They use no proxy for this machine unless told to.
    return [f"--proxy-server={proxy_url}", trust, *["--proxy-bypass-list=<-loopback>"] * is_here(hosts)]


def is_here(hosts: Iterable[str]) -> bool:
    """Whether one of the hosts, as in a rule, is this machine."""
    return any(covers(name, host) for name in _THIS_MACHINE for host in hosts)


def _direct_entries(environ: Mapping[str, str]) -> list[str]:
    """What the person has in NO_PROXY, in either spelling."""
    entries = (entry for name in _NO_PROXY for entry in re.split(r"[,\s]+", environ.get(name, "")) if entry)
    return list(dict.fromkeys(entries))


def _certificate(authority: Path) -> bytes:
    return "".join(_CERTIFICATE.findall(authority.read_text())).encode()


def _appended(value: str | None, more: str) -> str:
    return f"{value} {more}" if value else more


def _php_folder(folder: Path, bundle: str) -> str:
    """A folder of settings: PHP's curl and streams read no variable about certificates."""
    (folder / "php").mkdir(exist_ok=True)
    text = f'curl.cainfo = "{bundle}"\nopenssl.cafile = "{bundle}"\n'
    (folder / "php" / "force-stream.ini").write_text(text, encoding="utf-8")
    return str(folder / "php")


def _wget_file(folder: Path, bundle: str, environ: Mapping[str, str]) -> str:
    """The person's settings of wget, and ours: with GnuTLS, as in Debian, it reads no variable about certificates."""
    own = b""
    with suppress(OSError, RuntimeError):
        own = Path(environ.get("WGETRC") or "~/.wgetrc").expanduser().read_bytes()
    (folder / "wgetrc").write_bytes(own.rstrip() + f"\nca_certificate = {bundle}\n".encode())
    return str(folder / "wgetrc")


def _java_options(folder: Path, bundle: str, proxy_url: str, direct: Iterable[str]) -> str:
    """System properties: Java reads no variable about proxies, and has a trust store in a format of its own."""
    certificates = _CERTIFICATE.findall(Path(bundle).read_text("latin-1"))
    store = folder / "certificates.jks"
    store.write_bytes(java_store(map(ssl.PEM_cert_to_DER_cert, certificates)))
    proxy = urlsplit(proxy_url)
    domains = [entry.lstrip("*.") for entry in direct]
    properties = {
        "http.proxyHost": proxy.hostname,
        "http.proxyPort": proxy.port,
        "https.proxyHost": proxy.hostname,
        "https.proxyPort": proxy.port,
        # Also for https. Java adds this machine to it, unless it is empty.
        "http.nonProxyHosts": "|".join(f"{domain}|*.{domain}" for domain in domains),
        "javax.net.ssl.trustStore": store,
    }
    return " ".join(f'"-D{name}={value}"' for name, value in properties.items())


def covers(entry: str, host: str) -> bool:
    """Whether any client would read an entry of NO_PROXY as covering a host of a rule; they read such entries in
    different ways."""
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
