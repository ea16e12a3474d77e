"""A trust store for Java, in its oldest format (JKS), which every version reads.

Knows the format's bytes. Must not know which certificates are in it, or who reads it.
"""

import hashlib
import struct
import time
from collections.abc import Iterable
from typing import Final

# What a password is for: a digest by which a reader that knows it recognizes changes. This one is Java's own default.
_PASSWORD: Final = "changeit"
_MAGIC: Final = 0xFEEDFEED
_VERSION: Final = 2
_TRUSTED_CERTIFICATE: Final = 2


def java_store(certificates: Iterable[bytes]) -> bytes:
    """The store with these certificates (DER) in it, as the class sun.security.provider.JavaKeyStore reads it."""
    now = int(time.time() * 1000)
    entries = [
        struct.pack(">i", _TRUSTED_CERTIFICATE)
        + _text(str(number))
        + struct.pack(">q", now)
        + _text("X.509")
        + struct.pack(">i", len(certificate))
        + certificate
        for number, certificate in enumerate(certificates)
    ]
    store = struct.pack(">Iii", _MAGIC, _VERSION, len(entries)) + b"".join(entries)
    return store + hashlib.sha1(_PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + store).digest()


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()
