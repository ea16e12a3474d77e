"""Event streams that public reports describe, and what each must give.

The folder has the streams and `expected.json`, a list of objects: `file`, `endpoint`, `status` (a number, "an error",
or "whole or an error", where a stream may be mended but never passed on with less), `want` (values by path; `#` is a
length), `words` that the body must hold, and where a report needs them `choices` (how many were asked for), `cut` (why
the connection ended), `match` (patterns by path), `differ` (paths whose values are all different), `absent` (paths) and
`unsure` (nothing decides what the stream must give; it must only give the same however it comes).

PYTHONPATH=lib:tests python -m oracle.reports FOLDER…       the failures, a line each
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from force_stream import AnswerSpec, Reply
from oracle.recordings import FORM, MINIMAL, PATHS

KINDS: Final = {"messages": "anthropic", "transcriptions": "audio"}
MISSING: Final = object()


def at(document: Any, path: str) -> Any:
    """The value at a path such as `choices.0.message.content`; MISSING where there is none."""
    for part in path.split("."):
        if part == "#":
            return len(document) if isinstance(document, list | dict) else MISSING
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return MISSING
    return document


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; unlike Python's, true is not 1."""
    return bool(json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


@dataclass(frozen=True)
class Reported:
    entry: Mapping[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return str(self.entry["file"]).removesuffix(".sse")

    @property
    def endpoint(self) -> str:
        return str(self.entry["endpoint"])

    @property
    def choices(self) -> int:
        return int(self.entry.get("choices", 1))

    @property
    def cut(self) -> str:
        return str(self.entry.get("cut", ""))

    @property
    def is_unsure(self) -> bool:
        return bool(self.entry.get("unsure"))

    @property
    def stream(self) -> bytes:
        return (self.folder / self.entry["file"]).read_bytes()

    @property
    def path(self) -> str:
        return PATHS[KINDS.get(self.endpoint, self.endpoint)]

    @property
    def request(self) -> tuple[str, bytes]:
        """The least request of the endpoint, content type and bytes, that asks for as many choices."""
        if self.endpoint == "transcriptions":
            return "multipart/form-data; boundary=b", FORM
        asked = MINIMAL[KINDS.get(self.endpoint, self.endpoint)]
        return "application/json", json.dumps(asked | ({"n": self.choices} if self.choices > 1 else {})).encode()

    def read(self, *pieces: bytes) -> Answer:
        answer = AnswerSpec("r", self.endpoint, choices=self.choices).read(200, "text/event-stream")
        for piece in pieces:
            answer.feed(piece)
        reply = answer.finish(self.cut) or Reply(200, b"".join(pieces))
        return Answer(reply.status, reply.body)

    def problems(self, answer: Answer) -> list[str]:
        """Where the answer is not what the report asks for, in words."""
        try:
            document = json.loads(answer.body)
        except ValueError:
            return [f"{answer.status}, and a body that is not JSON"]
        expected = self.entry["status"]
        found = []
        if expected == "an error" or (expected == "whole or an error" and answer.status != 200):
            if not 400 <= answer.status <= 599:
                found.append(f"status {answer.status} instead of {expected}")
        elif answer.status != (200 if expected == "whole or an error" else expected):
            found.append(f"status {answer.status} instead of {expected}")
        if answer.status != 200:
            if not (isinstance(message := at(document, "error.message"), str) and message):
                found.append("an error without a message")
        elif expected in (200, "whole or an error"):
            found += self._differences(document)
        text = answer.body.decode().lower()
        return found + [f"no {word!r} in the body" for word in self.entry["words"] if word.lower() not in text]

    def _differences(self, document: Any) -> list[str]:
        found = []
        for path, value in self.entry["want"].items():
            if (got := at(document, path)) is MISSING:
                found.append(f"no {path}")
            elif not same(got, value):
                found.append(f"{path} is {got!r} instead of {value!r}")
        for path, pattern in self.entry.get("match", {}).items():
            if not (isinstance(got := at(document, path), str) and re.search(pattern, got)):
                found.append(f"{path} does not match {pattern}")
        found += [f"{path} is there" for path in self.entry.get("absent", []) if at(document, path) is not MISSING]
        values = [at(document, path) for path in self.entry.get("differ", [])]
        if len({json.dumps(value) for value in values if value is not MISSING}) < len(values):
            found.append(f"{self.entry['differ']} are not all there and different")
        return found


def reports_in(folder: Path) -> list[Reported]:
    entries = json.loads((folder / "expected.json").read_bytes())
    return [Reported(entry, folder) for entry in entries]


def byte_by_byte(stream: bytes) -> list[bytes]:
    return [stream[place : place + 1] for place in range(len(stream))]


def failures_in(folder: Path) -> Iterator[str]:
    for one in reports_in(folder):
        whole = one.read(one.stream)
        problems = one.problems(whole)
        if whole != one.read(*byte_by_byte(one.stream)):
            problems.append("byte by byte it is another answer")
        label = f"{one.name} (unsure)" if one.is_unsure else one.name
        yield from (f"{label}: {problem}: {whole.body[:220].decode(errors='replace')}" for problem in problems)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(*failures_in(Path(name)), sep="\n")
