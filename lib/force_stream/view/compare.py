"""A plain answer and a forced one side by side: what that means, and what differs.

Knows which members differ in any two answers; must not know mitmproxy.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from ..answer.cause import words_of_page
from ..answer.fill import is_path
from ..errors.words import words_in
from ..proxy.retry_policy import TEMPORARY
from ..wire import jsontext
from ..wire.text import counted, printable

# Ids, times and cache counters are new in every answer.
SET_ASIDE: Final = frozenset(
    ("id", "created", "created_at", "completed_at", "system_fingerprint", "timings", "cached_tokens", "request_id")
)
_LONGEST: Final = 120
_LONGEST_LINE: Final = 1000
_LONGEST_WORDS: Final = 100
_LONGEST_CAUSE: Final = 200
# A gateway that waits for a whole answer gives up with 504: that is what streaming is for.
_MAY_PASS: Final = TEMPORARY - {504}


class Side(NamedTuple):
    """One of the two answers. `status`: None if there was none. `document`: what it says, if that is JSON. `words`: why
    it failed, in the upstream's words, and `cause`, in ours. `refuses`: it says that the request has to be sent the
    other way."""

    status: int | None
    ok: bool = False
    document: Any = None
    words: str = ""
    cause: str = ""
    refuses: bool = False

    @classmethod
    def of(cls, status: int, text: str, cause: str = "", *, refuses: bool = False) -> "Side":
        """`text`: the answer's body."""
        try:
            document = jsontext.loads(text)
        except ValueError:
            words = words_of_page(text)
            return cls(status, words=words, cause=cause or f"not JSON: {_quoted(words)}", refuses=refuses)
        if 200 <= status < 300:
            return cls(status, ok=True, document=document, cause=cause)
        return cls(status, document=document, words=words_in(document), cause=cause, refuses=refuses)

    def told(self) -> str:
        """Its status, and why it is not a plain success."""
        status = "no answer" if self.status is None else f"{self.status}"
        if self.cause:
            return f"{status} ({printable(self.cause, _LONGEST_CAUSE)})"
        return f"{status} {_quoted(self.words)}" if self.words else status


def _quoted(words: str) -> str:
    inside = printable(words, _LONGEST_WORDS).replace('"', "'")
    return f'"{inside}"'


def verdict(plain: Side, stream: Side, differing: int, streamed: str = "forced") -> str:
    """What the two answers mean, in a line. `differing`: in how many places they differ; `streamed`: what the one is
    called that came as a stream."""
    if plain.ok and stream.ok and not differing:
        return f"plain and {streamed} give the same answer, apart from ids and times"
    if not (plain.ok or stream.ok) and (plain.status, plain.words) == (stream.status, stream.words):
        return f"plain and {streamed} fail the same way: {plain.told()}"
    different = f"{counted(differing, 'difference')}; the log has them"
    meaning = different if plain.ok and stream.ok else _meaning(plain, stream)
    return f"plain: {plain.told()}; {streamed}: {stream.told()}: {meaning}"


def _meaning(plain: Side, stream: Side) -> str:
    if not plain.ok and not stream.ok:
        return "both fail"
    failed = stream if plain.ok else plain
    if failed.status in _MAY_PASS and not failed.refuses:
        return "that may be temporary, so compare again later"
    if failed is plain:
        return "this upstream only streams" if plain.refuses else "only streaming works here"
    return "this upstream cannot stream this request" if stream.refuses else "streaming is what fails here"


def differences(left: Any, right: Any) -> Iterator[str]:
    """What differs, field by field: a line each, with both values in short."""
    return (printable(line, _LONGEST_LINE) for line in _differences(left, right, "$"))


def _differences(left: Any, right: Any, path: str) -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [key for key in {**left, **right} if key not in SET_ASIDE]:
            place = f"{path}.{printable(key)}"
            if key not in right:
                yield f"{place}: {_short(left[key])} vs nothing"
            elif key not in left:
                yield f"{place}: nothing vs {_short(right[key])}"
            else:
                yield from _differences(left[key], right[key], place)
    elif isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            yield f"{path}: {len(left)} entries vs {len(right)}"
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif type(left) is not type(right) or left != right:
        yield f"{path}: {_short(left)} vs {_short(right)}"


# An empty value. Any other may differ between answers, which a single one cannot show.
_LONGEST_PATH: Final = 200
_MOST_CONSTANTS: Final = 50
_CONSTANTS: Final = (b"null", b"false", b'""', b"[]", b"{}")


def constants(direct: Any, forced: Any) -> dict[str, Any]:
    """What a rule's `fill` needs for members that the direct answer has, with a value that says nothing, and the forced
    one lacks."""
    return dict(islice(_constants([(direct, forced)], ""), _MOST_CONSTANTS))


def _constants(pairs: list[tuple[Any, Any]], path: str) -> Iterator[tuple[str, Any]]:
    """The same for values that all have one path: each of the direct answer with its partner of the forced one."""
    objects = [(one, other) for one, other in pairs if isinstance(one, dict) and isinstance(other, dict)]
    for key in dict.fromkeys(key for one, _ in objects for key in one):
        place = f"{path}{key}"
        if "." in key or not is_path(key) or len(place) > _LONGEST_PATH:
            continue
        lacking = {_spelled(one, key) for one, other in objects if key not in other}
        if len(lacking) == 1 and (spelled := lacking.pop()) in _CONSTANTS:
            yield place, jsontext.loads(spelled.decode())
        yield from _constants(
            [(one[key], other[key]) for one, other in objects if key in one and key in other], f"{place}."
        )
    items = [
        pair
        for one, other in pairs
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other)
        for pair in zip(one, other, strict=True)
    ]
    if items:
        yield from _constants(items, f"{path}*.")


def _spelled(parent: dict[str, Any], key: str) -> bytes:
    return jsontext.dumps(parent[key]) if key in parent else b"nothing"


def _short(value: Any) -> str:
    text = jsontext.dumps(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
