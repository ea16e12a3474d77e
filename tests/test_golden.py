"""Event streams and the documents they must become: a case is a pair of files, and adding one is adding a pair.

    golden/{chat,completions,messages,…}/NAME.sse + .json       the stream, and the whole document
    golden/quirks/QUIRK/ENDPOINT_NAME.sse + .json               the same, where the rule names this quirk
    golden/plain/ENDPOINT_NAME.sse + .json                      a body that is JSON; its comment line is not sent
    golden/broken/ENDPOINT_NAME.sse + .error.json               no answer: `status`, the error's `code`, under `partial`
                                                                the document where on_truncated says so, and any
                                                                other members that the body must hold

The file name is the behaviour. A stream's first line is a comment: provider, source, what is special.

    PYTHONPATH=lib python tests/test_golden.py NAME             the differences of the cases with NAME in their names
"""

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from force_stream import Exchange, Reply, aggregate
from force_stream.answer.quirks import QUIRKS
from force_stream.endpoints import ENDPOINTS

GOLDEN = Path(__file__).parent / "golden"
LINE_END = re.compile(b"\r\n|\r|\n")


@dataclass(frozen=True)
class Number:
    """A JSON number by its spelling: 1, 1.0 and 1e0 are three of them."""

    text: str


def parse(text: str | bytes) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=refuse)


@dataclass(frozen=True)
class Case:
    path: Path
    endpoint: str
    quirk: str = ""

    @property
    def expected(self) -> Any:
        return parse(
            self.path.with_suffix(".error.json" if self.folder == "broken" else ".json").read_text(encoding="utf-8")
        )

    @property
    def folder(self) -> str:
        return self.path.relative_to(GOLDEN).parts[0]

    @property
    def stream(self) -> bytes:
        raw = self.path.read_bytes()
        return without_comment(raw) if self.folder == "plain" else raw

    def read(self, pieces: list[bytes], content_type: str = "", on_truncated: str = "error", cut: str = "") -> Reply:
        quirks = (self.quirk,) if self.quirk else ()
        answer = Exchange("golden", self.endpoint, on_truncated=on_truncated, quirks=quirks).read(200, content_type)
        for piece in pieces:
            answer.feed(piece)
        return answer.finish(cut) or Reply(200, b"".join(pieces))


def cases() -> Iterator[Case]:
    for endpoint in ENDPOINTS:
        yield from (Case(path, endpoint) for path in sorted((GOLDEN / endpoint).glob("*.sse")))
    for folder in ("plain", "broken"):
        yield from (Case(path, path.stem.partition("_")[0]) for path in sorted((GOLDEN / folder).glob("*.sse")))
    for path in sorted((GOLDEN / "quirks").glob("*/*.sse")):
        yield Case(path, path.stem.partition("_")[0], path.parent.name)


CASES = list(cases())
WHOLE = [pytest.param(case, id=case.path.stem) for case in CASES if case.folder != "broken"]
BROKEN = [pytest.param(case, id=case.path.stem) for case in CASES if case.folder == "broken"]


def without_comment(stream: bytes) -> bytes:
    return LINE_END.split(stream, maxsplit=1)[1]


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
    assert [path for path in GOLDEN.rglob("*") if path.is_file() and path not in pairs] == []


def test_every_quirk_has_a_case() -> None:
    assert {case.quirk for case in CASES if case.quirk} == set(QUIRKS)


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


def pretty(value: Any) -> list[str]:
    def spelled(number: object) -> object:
        assert isinstance(number, Number)
        return f"#{number.text}"

    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=spelled).splitlines()


def main(name: str) -> int:
    chosen = [case for case in CASES if name in case.path.stem]
    for case in chosen:
        expected = case.expected
        if case.folder == "broken":
            expected.pop("partial", None)
        got = parse(case.read([case.stream]).body)
        diff = list(difflib.unified_diff(pretty(expected), pretty(got), "expected", "got", lineterm="", n=2))
        print(f"{case.folder}/{case.path.stem}: {'differs' if diff else 'equal'}", *diff, sep="\n")
    return 0 if chosen else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
