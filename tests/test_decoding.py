"""Content encodings undone within a limit, whole or cut off."""

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from force_stream.decoding import TooLarge, decode

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
def test_a_body_larger_than_the_limit_is_refused_before_it_is_whole(name: str) -> None:
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


@pytest.mark.parametrize("coding", ["identity", "", "lzma", "gzip, br"])
def test_an_unknown_coding_leaves_the_body_as_it_is(coding: str) -> None:
    assert decode(b"body", coding, 1) == b"body"
