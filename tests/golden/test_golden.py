"""Event streams and the documents they must become: a case is a pair of files, and adding one is adding a pair.

    golden/{chat,completions,messages,…}/NAME.sse + .json       the stream, and the whole document
    golden/quirks/QUIRK/ENDPOINT_NAME.sse + .json               the same, where the rule names this quirk
    golden/plain/ENDPOINT_NAME.sse + .json                      a body that is JSON; its comment line is not sent
    golden/broken/ENDPOINT_NAME.sse + .error.json               no answer: `status`, the error's `code`, under `partial`
                                                                the document where on_truncated says so, and any
                                                                other members that the body must hold

The file name is the behaviour. A stream's first line is a comment: provider, source, what is special.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from force_stream import aggregate
from force_stream.answer.quirks import QUIRKS
from force_stream.endpoints import ENDPOINTS
from harness.golden import CASES, LINE_END, Case, Number, parse, without_comment
from harness.paths import GOLDEN

WHOLE = [pytest.param(case, id=case.path.stem) for case in CASES if case.folder != "broken"]
BROKEN = [pytest.param(case, id=case.path.stem) for case in CASES if case.folder == "broken"]


def lines_ending_with(end: bytes) -> Callable[[bytes], list[bytes]]:
    return lambda stream: [LINE_END.sub(end, stream)]


FEEDS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda stream: [stream],
    "byte by byte": lambda stream: [stream[place : place + 1] for place in range(len(stream))],
    "lines end with LF": lines_ending_with(b"\n"),
    "lines end with CRLF": lines_ending_with(b"\r\n"),
    "lines end with CR": lines_ending_with(b"\r"),
    "CRLF, byte by byte": lambda stream: [bytes([byte]) for byte in LINE_END.sub(b"\r\n", stream)],
}
LABELS = ("", "text/event-stream; charset=utf-8", "application/json", "text/plain")


@pytest.mark.parametrize("folder", [*ENDPOINTS, "plain", "broken", "quirks"])
def test_no_folder_is_without_cases(folder: str) -> None:
    assert [case for case in CASES if case.folder == folder]


def test_every_file_is_half_of_a_pair() -> None:
    pairs = {path for case in CASES for path in (case.path, case.path.with_suffix(".json"))}
    pairs |= {case.path.with_suffix(".error.json") for case in CASES}
    found = {path for path in GOLDEN.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert found <= pairs


def test_every_quirk_has_a_case() -> None:
    of_answers = {name for name, quirk in QUIRKS.items() if quirk.patch or quirk.patch_message}
    assert {case.quirk for case in CASES if case.quirk} == of_answers


def test_each_stream_opens_with_its_source() -> None:
    for case in CASES:
        first = LINE_END.split(case.path.read_bytes(), maxsplit=1)[0].removeprefix(b"\xef\xbb\xbf").decode()
        assert re.match(r": [^:]+: .", first), case.path


@pytest.mark.parametrize("case", WHOLE)
def test_a_stream_becomes_its_document_however_it_comes_and_is_labelled(case: Case) -> None:
    stream, expected = case.stream, case.expected
    for name, feed in FEEDS.items():
        reply = case.read(feed(stream))
        assert (reply.status, parse(reply.body)) == (200, expected), name
    for label in LABELS:
        assert parse(case.read([stream], label).body) == expected, label
    bare = stream if case.folder == "plain" else without_comment(stream)
    assert parse(case.read([bare]).body) == expected, "without its comment line"
    assert (parse(aggregate(stream, case.endpoint).body) == expected) is not bool(case.quirk), "force_stream.aggregate"


def holds(part: Any, whole: Any) -> bool:
    """Whether all that `part` says is in `whole`."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and holds(value, whole[key]) for key, value in part.items())
    return bool(part == whole)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_stream_becomes_its_error_or_what_came_however_it_comes(case: Case) -> None:
    for name, feed in FEEDS.items():
        pieces, expected = feed(case.stream), case.expected
        if "partial" in expected:
            reply = case.read(pieces, on_truncated="partial", cut="the connection was closed")
            assert (reply.status, parse(reply.body)) == (200, expected.pop("partial")), name
        reply = case.read(pieces)
        body = parse(reply.body)
        assert isinstance(body["error"]["message"], str), name
        assert body["error"]["message"], name
        assert Number(str(reply.status)) == expected.pop("status"), name
        if "code" in expected:
            assert body["error"]["code"] == expected.pop("code"), name
        assert holds(expected, body), (name, body)
