"""The one reader of bodies: decoded within a limit, or not at all."""

import gzip

import pytest
from force_stream.proxy import bodies
from mitmproxy import http

BODY = b'data: {"n": 1}\n\n' * 1_000


def message(raw: bytes | None, *codings: str) -> http.Response:
    made = http.Response.make(200, b"")
    made.headers.set_all("Content-Encoding", codings)
    made.raw_content = raw
    return made


@pytest.mark.parametrize(
    ("raw", "codings", "body"),
    [
        (None, [], None),
        (None, ["gzip"], None),
        (b"", [], b""),
        (BODY, [], BODY),
        (gzip.compress(BODY), ["gzip"], BODY),
        (gzip.compress(gzip.compress(BODY)), ["gzip", "GZIP"], BODY),
        (BODY, ["gzip"], BODY),
        (gzip.compress(BODY + b"x"), ["gzip"], None),
    ],
    ids=["not held", "not held, encoded", "empty", "plain", "gzip", "two lines", "label only", "too large"],
)
def test_a_body_is_decoded_within_the_limit_or_not_at_all(
    raw: bytes | None, codings: list[str], body: bytes | None
) -> None:
    assert bodies.decoded(message(raw, *codings), len(BODY)) == body


def test_a_plain_body_has_no_limit_since_it_is_in_memory_already() -> None:
    assert bodies.decoded(message(BODY), 1) == BODY


@pytest.mark.parametrize("raw", [BODY, gzip.compress(BODY)], ids=["plain", "gzip"])
def test_the_beginning_needs_no_more_than_itself(raw: bytes) -> None:
    assert bodies.beginning(message(raw, *["gzip"] * (raw != BODY)), 100) == BODY[:100]
    assert bodies.beginning(message(None), 100) == b""


@pytest.mark.parametrize(
    ("raw", "coding", "blocks"),
    [
        (b"{}", "identity", False),
        (b"{}", "utf-8", False),
        (b"{}", "gzip", True),
        (bytes(300_000), "identity", True),
        (None, "identity", False),
    ],
)
def test_what_is_large_or_may_become_so_is_not_read_on_the_event_loop(
    raw: bytes | None, coding: str, blocks: bool
) -> None:
    assert bodies.blocks_loop(message(raw, coding)) is blocks
