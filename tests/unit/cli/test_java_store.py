"""The trust store for Java: Java itself reads it in tests/e2e/test_runtimes.py."""

import hashlib

from force_stream.cli.java_store import java_store


def test_a_store_has_each_certificate_under_a_name_of_its_own_and_the_digest_of_all() -> None:
    store = java_store([b"first", b"second"])
    assert store.startswith(bytes.fromhex("feedfeed 00000002 00000002"))
    for name, certificate in ((b"0", b"first"), (b"1", b"second")):
        before, _, after = store.partition(b"\x00\x05X.509" + len(certificate).to_bytes(4) + certificate)
        assert before[:-8].endswith(b"\x00\x00\x00\x02\x00\x01" + name)
        assert after
    password = b"\0c\0h\0a\0n\0g\0e\0i\0t"
    assert store[-20:] == hashlib.sha1(password + b"Mighty Aphrodite" + store[:-20]).digest()


def test_an_empty_store_is_well_formed() -> None:
    assert len(java_store([])) == 12 + 20
