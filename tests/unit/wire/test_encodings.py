"""Content encodings decoded within a limit, of complete bodies and of those that are cut off."""

import gzip
import sys
import zlib
from collections.abc import Callable
from importlib import import_module

import brotli
import pytest
import zstandard
from force_stream.wire.encodings import ZSTD_LIBRARIES, MissingDecoder, TooLarge, decode

BODY = b"".join(b'data: {"n":%d}\n\n' % number for number in range(5_000))


def bare_deflate(body: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(body) + made.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "GZIP": (" GZIP ", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without its head": ("deflate", bare_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress),
}
EACH = pytest.mark.parametrize("name", CODINGS)


@EACH
def test_a_whole_body_is_decoded(name: str) -> None:
    coding, encode = CODINGS[name]
    assert decode(encode(BODY), coding, len(BODY)) == BODY


@EACH
def test_a_body_larger_than_the_limit_is_rejected_before_it_is_decoded(name: str) -> None:
    coding, encode = CODINGS[name]
    bomb = encode(bytes(50_000_000))
    with pytest.raises(TooLarge):
        decode(bomb, coding, 1_000_000)


@EACH
def test_what_came_of_a_body_that_was_cut_off_is_its_beginning(name: str) -> None:
    coding, encode = CODINGS[name]
    encoded = encode(BODY)
    part = decode(encoded[: len(encoded) // 2], coding, len(BODY))
    assert BODY.startswith(part)
    assert len(part) < len(BODY)


@EACH
def test_bytes_that_are_not_encoded_never_raise(name: str) -> None:
    assert isinstance(decode(b"\xff not encoded at all \x00" * 10, CODINGS[name][0], 1_000), bytes)


def only_zstd(monkeypatch: pytest.MonkeyPatch, present: str | None) -> None:
    """No zstd library can be imported but this one. The standard library's is its backport under another name."""
    found = {"compression.zstd": "backports.zstd"} if sys.version_info < (3, 14) else {}
    for name in ZSTD_LIBRARIES:
        library = import_module(found.get(name, name)) if name == present else None
        monkeypatch.setitem(sys.modules, name, library)


@pytest.mark.parametrize("name", [name for name in ZSTD_LIBRARIES if sys.version_info < (3, 14) or "back" not in name])
def test_any_of_the_zstd_libraries_reads_bodies_whole_cut_in_frames_and_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    only_zstd(monkeypatch, name)
    encoded = zstandard.ZstdCompressor().compress(BODY)
    assert decode(encoded, "zstd", len(BODY)) == BODY
    assert decode(encoded * 2, "zstd", 2 * len(BODY)) == BODY * 2
    assert BODY.startswith(decode(encoded[: len(encoded) // 2], "zstd", len(BODY)))
    assert BODY.startswith(decode(encoded + b"no frame", "zstd", len(BODY)))
    with pytest.raises(TooLarge):
        decode(zstandard.ZstdCompressor().compress(bytes(50_000_000)), "zstd", 1_000_000)


def test_without_a_zstd_library_the_error_names_one_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    only_zstd(monkeypatch, None)
    with pytest.raises(MissingDecoder, match=r"no zstd library is installed; `pip install backports\.zstd`"):
        decode(b"body", "zstd", 1_000)


@pytest.mark.parametrize("coding", ["identity", "", "lzma", "gzip, br"])
def test_an_unknown_coding_leaves_the_body_as_it_is(coding: str) -> None:
    assert decode(b"body", coding, 1) == b"body"
