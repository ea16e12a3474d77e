"""The golden cases: where they are, what each must become, how one is read. Their folders: golden/test_golden.py.

PYTHONPATH=lib:tests python -m harness.golden NAME          the differences of the cases with NAME in their names
"""

import difflib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from force_stream import AnswerSpec, Reply
from force_stream.endpoints import ENDPOINTS

from harness.paths import GOLDEN

LINE_END = re.compile(b"\r\n|\r|\n")


@dataclass(frozen=True)
class Number:
    """A JSON number compared by its spelling: 1, 1.0 and 1e0 are different numbers."""

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
        answer = AnswerSpec("golden", self.endpoint, on_truncated=on_truncated, quirks=quirks).read(200, content_type)
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


def without_comment(stream: bytes) -> bytes:
    return LINE_END.split(stream, maxsplit=1)[1]


def pretty(value: Any) -> list[str]:
    def spelled(number: object) -> object:
        assert isinstance(number, Number)
        return f"#{number.text}"

    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=spelled).splitlines()


def main(name: str) -> int:
    chosen = [case for case in CASES if name in f"{case.folder}/{case.path.stem}"]
    for case in chosen:
        expected = case.expected
        if case.folder == "broken":
            expected.pop("partial", None)
        got = parse(case.read([case.stream]).body)
        diff = list(difflib.unified_diff(pretty(expected), pretty(got), "expected", "got", lineterm="", n=2))
        print(f"{case.folder}/{case.path.stem}: {'differs' if diff else 'equal'}", *diff, sep="\n")
    if not chosen:
        print(f"no golden pair has {name!r} in its name", file=sys.stderr)
    return 0 if chosen else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
