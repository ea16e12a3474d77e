"""One certificate authority for a whole test session: the upstream's, and mitmproxy's own.

Because both sides are signed by the same authority, a client trusts one file whether it talks to the upstream or to
the proxy, and no mitmdump spends its start making keys.
"""

import datetime
import functools
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DEFAULT_NAMES = ("127.0.0.1", "localhost", "llm.test", "*.llm.test")


class Certs:
    """An authority (`ca`), a server certificate for `names` (`server`), and one that nobody signed (`untrusted`).

    All three are paths of PEM files in `folder`; `ca` holds the certificate alone, the others certificate and key.
    """

    def __init__(self, folder: Path, names: tuple[str, ...] = DEFAULT_NAMES) -> None:
        self.folder = folder
        self._ca_key = _new_key()
        self._ca_cert = _build(_subject("test authority"), self._ca_key, None, self._ca_key, ca=True)
        self.ca = self._write("ca.pem", self._ca_cert)
        self.server = self.issue("server", names)
        self.untrusted = self._self_signed("untrusted", names)

    def issue(self, file_name: str, names: tuple[str, ...]) -> Path:
        """Sign a server certificate for host names and addresses."""
        key = _new_key()
        cert = _build(_subject(names[0]), key, self._ca_cert, self._ca_key, names=names)
        return self._write(f"{file_name}.pem", cert, key)

    def confdir(self, folder: Path) -> Path:
        """Make `folder` a configuration directory in which mitmproxy finds this authority as its own."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mitmproxy-ca.pem").write_bytes(_pem_key(self._ca_key) + _pem_cert(self._ca_cert))
        return folder

    @functools.cached_property
    def client_context(self) -> ssl.SSLContext:
        """Trusts this authority and nothing else; offers no ALPN."""
        return self.new_client_context()

    def new_client_context(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def new_server_context(self, *alpn: str, pem: Path | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem or self.server)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def _self_signed(self, file_name: str, names: tuple[str, ...]) -> Path:
        key = _new_key()
        return self._write(f"{file_name}.pem", _build(_subject("nobody"), key, None, key, names=names), key)

    def _write(self, file_name: str, cert: x509.Certificate, key: rsa.RSAPrivateKey | None = None) -> Path:
        path = self.folder / file_name
        path.write_bytes(_pem_cert(cert) + (_pem_key(key) if key else b""))
        return path


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _build(
    subject: x509.Name,
    key: rsa.RSAPrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: rsa.RSAPrivateKey,
    *,
    ca: bool = False,
    names: tuple[str, ...] = (),
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        # Python 3.13 verifies strictly (RFC 5280): without these two identifiers and the key usage it refuses a chain.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(_key_usage(ca), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem_cert(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
