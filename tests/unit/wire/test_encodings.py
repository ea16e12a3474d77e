"""Content encodings decoded within a limit, of complete bodies and of those that are cut off."""

import gzip
import os
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from importlib import import_module
from itertools import accumulate

import brotli
import pytest
import zstandard
from force_stream.wire.encodings import (
    ZSTD_LIBRARIES,
    MissingDecoder,
    TooLarge,
    beginning,
    decode,
    decode_noting,
    decoded_sizes,
    is_encoded,
)
from harness.paths import ROOT

BODY = b"".join(b'data: {"n":%d}\n\n' % number for number in range(5_000))


MEGABYTE = 1024 * 1024
ZEROS = bytes(50 * MEGABYTE)
OLD_BROTLI = not hasattr(brotli.Decompressor, "can_accept_more_data")


def bare_deflate(body: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(body) + made.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "GZIP": (" GZIP ", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without its head": ("deflate", bare_deflate),
    "br": ("br", lambda body: brotli.compress(body, quality=5)),
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
    bomb = encode(ZEROS)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decode(bomb, coding, MEGABYTE)
        assert len(beginning(bomb, coding, 1_000)) == 1_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # brotli before 1.2 gives a whole block of 16 MiB at a time, in a buffer that grows.
    at_a_time = 64 * MEGABYTE if name == "br" and OLD_BROTLI else MEGABYTE
    assert peak < 2 * MEGABYTE + at_a_time


# Prints by how many bytes the process grew while it refused the body on its standard input.
PROBE = """
import resource, sys
from force_stream.wire.encodings import TooLarge, decode
def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
coding, limit, body = sys.argv[1], int(sys.argv[2]), sys.stdin.buffer.read()
before = most()
try:
    decode(body, coding, limit)
except TooLarge:
    print(most() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no module resource")
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "gzip, br"])
def test_a_process_that_refuses_a_bomb_grows_by_little_more_than_the_limit(coding: str) -> None:
    bomb = ZEROS * 4
    for name in coding.split(", "):
        bomb = CODINGS[name][1](bomb)
    command = [sys.executable, "-c", PROBE, coding, str(8 * MEGABYTE)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib")}
    grown = subprocess.run(command, input=bomb, env=environment, capture_output=True, check=True).stdout
    assert int(grown) < (80 if OLD_BROTLI else 40) * MEGABYTE


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "deflate", "deflate without its head", "br", "zstd"])
@pytest.mark.parametrize("size", [0, 1, 100, 65_535, 65_536, 65_537, 196_608])
def test_a_body_of_exactly_the_limit_is_decoded(name: str, size: int) -> None:
    coding, encode = CODINGS[name]
    body = os.urandom(size // 2) + bytes(size - size // 2)
    assert decode(encode(body), coding, size) == body
    if size:
        with pytest.raises(TooLarge):
            decode(encode(body), coding, size - 1)


@pytest.mark.parametrize("name", CODINGS)
def test_the_beginning_of_a_body_is_as_long_as_asked_for(name: str) -> None:
    coding, encode = CODINGS[name]
    encoded = encode(BODY)
    assert beginning(encoded, coding, 4_096) == BODY[:4_096]
    assert beginning(encoded, coding, 10_000_000)[:4_096] == BODY[:4_096]
    assert beginning(b"plain", coding, 4) == b"plai"
    assert beginning(encoded[:50], "lzma", 10) == encoded[:10]
    assert beginning(b"", coding, 10) == b""


@pytest.mark.parametrize("separator", [b"", b"\x00" * 20], ids=["side by side", "with zeros at the end"])
@pytest.mark.parametrize("split", [1, 20_000, len(BODY) - 1])
def test_the_members_of_a_gzip_body_are_one_body(separator: bytes, split: int) -> None:
    members = gzip.compress(BODY[:split]) + gzip.compress(b"") + gzip.compress(BODY[split:]) + separator
    assert decode(members, "gzip", len(BODY)) == BODY


@EACH
@pytest.mark.parametrize("rest", [b"\n", b"\r\nmore", b"more" * 10_000])
def test_what_follows_the_end_of_an_encoded_body_is_ignored(name: str, rest: bytes) -> None:
    coding, encode = CODINGS[name]
    assert decode_noting(encode(BODY) + rest, coding, len(BODY)) == (BODY, False)


@pytest.mark.parametrize("size", [1_000, 20_000, 200_000])
def test_of_a_brotli_body_all_that_comes_before_a_wrong_byte_is_decoded(size: int) -> None:
    body = os.urandom(size)
    made = brotli.Compressor()
    head = made.process(body) + made.flush()
    assert decode_noting(head + b"\xff" * 100, "br", size) == (body, True)


CHAINS = ["gzip, br", "br,gzip", "identity, gzip", " GZIP , , Deflate", "none, zstd, br, gzip", "gzip, gzip"]


def encoded_as(label: str, body: bytes) -> bytes:
    for name in label.lower().split(","):
        if name.strip() in CODINGS:
            body = CODINGS[name.strip()][1](body)
    return body


@pytest.mark.parametrize("label", CHAINS)
def test_several_codings_are_undone_in_the_reverse_order(label: str) -> None:
    assert decode(encoded_as(label, BODY), label, len(BODY)) == BODY
    assert is_encoded(label)


def test_the_limit_also_holds_between_two_codings() -> None:
    # Empty members, which stand for nothing in the end.
    nothing = CODINGS["br"][1](gzip.compress(b"") * 200_000)
    with pytest.raises(TooLarge):
        decode(nothing, "gzip, br", MEGABYTE)
    assert decode(nothing, "gzip, br", 10 * MEGABYTE) == b""


def test_more_codings_than_anyone_uses_are_not_undone() -> None:
    label = ", ".join(["gzip"] * 5)
    assert not is_encoded(label)
    assert decode(encoded_as(label, b"x"), label, 1_000) == encoded_as(label, b"x")


@pytest.mark.parametrize("label", [*CODINGS, "gzip, br"])
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"model": "m"}',
        BODY,
        '\ufeff{"\u00f6": 1}\r\n\t'.encode(),
        "\u00f6".encode() * 40,
        b"",
        b"x" * 63 + "\u20ac".encode(),
    ],
    ids=["empty object", "object", "events", "mark and umlaut", "umlauts", "nothing", "cut character"],
)
def test_a_body_that_is_plainly_text_is_read_as_it_is_whatever_its_label_says(label: str, body: bytes) -> None:
    coding = CODINGS[label][0] if label in CODINGS else label
    assert decode(body, coding, 1) == body


@pytest.mark.parametrize("label", ["gzip", "br"])
def test_a_label_that_was_put_there_twice_counts_once(label: str) -> None:
    assert decode(encoded_as(label, BODY), f"{label}, {label}", len(BODY)) == BODY


@EACH
def test_what_came_of_a_body_that_was_cut_off_is_its_beginning(name: str) -> None:
    coding, encode = CODINGS[name]
    encoded = encode(BODY)
    part = decode(encoded[: len(encoded) // 2], coding, len(BODY))
    assert BODY.startswith(part)
    assert len(part) < len(BODY)


@pytest.mark.parametrize("label", ["gzip", "deflate", "br"])
def test_each_piece_that_was_flushed_is_known_to_hold_what_went_into_it(label: str) -> None:
    packer = brotli.Compressor() if label == "br" else zlib.compressobj(9, zlib.DEFLATED, 31 if label == "gzip" else 15)
    parts = [random.Random(at).randbytes(50).hex().encode() for at in range(10)]
    pieces: list[bytes] = []
    for part in parts:
        if label == "br":
            pieces.append(packer.process(part) + packer.flush())
        else:
            pieces.append(packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH))
    sizes, body = list(accumulate(map(len, pieces))), b"".join(pieces)
    assert sizes[0] > 64, "what shows whether a body is text at all"
    assert decoded_sizes(body, label, 1000, sizes) == list(range(100, 1001, 100))
    assert decoded_sizes(body, label, 250, sizes)[:2] == [100, 200], "more than the limit is not decoded"
    assert decoded_sizes(body[: sizes[4]], label, 1000, sizes[:5]) == [100, 200, 300, 400, 500]
    assert decoded_sizes(b"plain text" * 20, label, 1000, [100, 200]) == [100, 200]
    assert decoded_sizes(body, label, 1000, []) == []


def test_sizes_of_what_cannot_be_decoded_are_known_as_far_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded_sizes(b"\xff" * 100, "gzip", 1000, [50, 100]) == [0, 0]
    only_zstd(monkeypatch, None)
    assert decoded_sizes(zstandard.ZstdCompressor().compress(BODY), "zstd", 1000, [50, 60]) == [0, 0]


@EACH
def test_a_body_that_cannot_be_decoded_is_known_from_one_that_is_cut_off(name: str) -> None:
    coding, encode = CODINGS[name]
    whole = encode(BODY)
    assert decode_noting(whole, coding, len(BODY)) == (BODY, False)
    assert not decode_noting(whole[: len(whole) // 2], coding, len(BODY))[1]
    assert decode_noting(b"\x80\xff\xfe\x81" * 30, coding, 1_000) == (b"", True)
    assert decode_noting(b"This is plain text.", coding, 1_000) == (b"This is plain text.", False)


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
        decode(CODINGS["zstd"][1](BODY), "zstd", 1_000)


@pytest.mark.parametrize("coding", ["identity", "", "lzma", "gzip, lzma", "lzma, gzip", "utf-8", "bz2_codec"])
def test_an_unknown_coding_leaves_the_body_as_it_is(coding: str) -> None:
    body = gzip.compress(b"body")
    assert decode(body, coding, 1) == body
    assert not is_encoded(coding)
