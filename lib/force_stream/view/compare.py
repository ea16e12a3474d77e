"""Two JSON documents side by side. Knows which members differ in any two answers; must not know mitmproxy."""

from collections.abc import Iterator
from typing import Any, Final

from ..wire import jsontext

# Ids, times and cache counters are new in every answer.
SET_ASIDE: Final = frozenset(
    ("id", "created", "created_at", "completed_at", "system_fingerprint", "timings", "cached_tokens", "request_id")
)
_LONGEST: Final = 120


def differences(left: Any, right: Any, path: str = "$") -> Iterator[str]:
    """What differs, field by field: a line each, with both values in short."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [key for key in {**left, **right} if key not in SET_ASIDE]:
            place = f"{path}.{key}"
            if key not in right:
                yield f"{place}: {_short(left[key])} vs nothing"
            elif key not in left:
                yield f"{place}: nothing vs {_short(right[key])}"
            else:
                yield from differences(left[key], right[key], place)
    elif isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            yield f"{path}: {len(left)} entries vs {len(right)}"
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            yield from differences(one, other, f"{path}[{index}]")
    elif type(left) is not type(right) or left != right:
        yield f"{path}: {_short(left)} vs {_short(right)}"


def _short(value: Any) -> str:
    text = jsontext.dumps(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
