"""Two answers to one request, and each place where they differ in value, type or presence. Must not know any server."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx

# Values that no two answers share; their types are compared all the same. The server keeps no prompt cache here, so the
# counters of cached tokens have to be equal like everything else.
IGNORED: Final = {
    "id": "every answer has its own",
    "created": "when it was made",
    "created_at": "when it was made",
    "completed_at": "when it was made",
    "timings/*": "how long it took",
    "choices/*/message/tool_calls/*/id": "every call has its own",
    "output/*/id": "every item has its own",
    "output/*/call_id": "every call has its own",
    "content/*/id": "every call has its own",
    "content/*/signature": "vLLM makes one up for each thought",
    "*/timings/*": "how long it took",
    "*id_slot": "which slot was free",
}


NOTHING: Final = "(nothing)"


def fits(text: str, pattern: str) -> bool:
    """Shell wildcards but for brackets, which JSON is full of."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


class Number(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


def parsed(body: bytes) -> Any:
    """The JSON, numbers by their spelling; a body that is not JSON, as bytes."""
    try:
        return json.loads(body, parse_int=Number, parse_float=Number)
    except ValueError:
        return body


def kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case Number():
            return "integer" if re.fullmatch(r"-?\d+", value) else "decimal"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
    return "no JSON"


@dataclass(frozen=True, slots=True)
class Difference:
    path: str
    direct: str
    proxied: str


def plain(value: Any) -> Any:
    match value:
        case Number():
            return json.loads(value)
        case list():
            return [plain(one) for one in value]
        case dict():
            return {key: plain(one) for key, one in value.items()}
    return value


def shown(value: Any) -> str:
    text = repr(value) if isinstance(value, bytes) else json.dumps(plain(value), ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:200]} … {text[-90:]}"


def differences(direct: Any, proxied: Any, path: str = "") -> Iterator[Difference]:
    """Each place where the two differ in value, type or presence; the order of keys is free."""
    if kind(direct) != kind(proxied):
        yield Difference(path or ".", shown(direct), shown(proxied))
    elif isinstance(direct, dict):
        for key in direct.keys() | proxied.keys():
            below = f"{path}/{key}" if path else key
            if key not in proxied:
                yield Difference(below, shown(direct[key]), NOTHING)
            elif key not in direct:
                yield Difference(below, NOTHING, shown(proxied[key]))
            else:
                yield from differences(direct[key], proxied[key], below)
    elif isinstance(direct, list):
        if len(direct) != len(proxied):
            yield Difference(f"{path}/length" if path else "length", str(len(direct)), str(len(proxied)))
        for number, (one, other) in enumerate(zip(direct, proxied, strict=False)):
            yield from differences(one, other, f"{path}/{number}" if path else str(number))
    elif direct != proxied and not any(fits(path, pattern) for pattern in IGNORED):
        yield Difference(path or ".", shown(direct), shown(proxied))


def compared(direct: httpx.Response, proxied: httpx.Response) -> list[Difference]:
    if direct.status_code != proxied.status_code:
        # Two bodies of two kinds: nothing in one has its place in the other.
        return [
            Difference("status", str(direct.status_code), str(proxied.status_code)),
            Difference("status/body", shown(parsed(direct.content)), shown(parsed(proxied.content))),
        ]
    types = [reply.headers.get("content-type", "").partition(";")[0] for reply in (direct, proxied)]
    found = [Difference("content-type", *types)] if types[0] != types[1] else []
    return found + sorted(differences(parsed(direct.content), parsed(proxied.content)), key=lambda one: one.path)
