"""A second, independent reading of an upstream's event stream: what must be in the one JSON answer.

It knows the outcomes and merge rules that users rely on, and nothing of how the addon reaches them: it shares no code
with it and is written the other way round, whole lists at a time instead of event by event. `judge` takes the bytes
that an upstream sent and the answer that a client got, and says in words where the answer is wrong.

An expectation is a JSON tree whose leaves may be `OneOf` (several answers are defensible) or `Has` (a predicate);
`ABSENT` among the choices lets the key be missing. A key that no event had and that is no constant of the format is a
difference. What is defensible is decided field by field: a choice is offered only where no rule decides.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

# --- values ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A JSON number by its spelling: 1, 1.0 and 1e0 are three of them."""

    text: str


class _Absent:
    def __repr__(self) -> str:
        return "(no such key)"


ABSENT = _Absent()


@dataclass(frozen=True)
class OneOf:
    """Any of these values is right."""

    values: tuple[Any, ...]

    @staticmethod
    def of(*values: Any) -> Any:
        unlike = distinct(values)
        return unlike[0] if len(unlike) == 1 else OneOf(tuple(unlike))


@dataclass(frozen=True)
class Has:
    """Right if `differences` finds none; `like` stands for it where one example is wanted."""

    differences: Callable[[Any], list[str]]
    like: Any


def parse(text: str | bytes) -> Any:
    """JSON with every number kept as it is spelled; raises ValueError for anything else, `NaN` included."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=refuse)


def parsed(text: str) -> Any:
    """What `text` says, or ABSENT if it is not JSON."""
    try:
        return parse(text)
    except ValueError:
        return ABSENT


# Upstreams send raw control characters in strings, and NaN and Infinity, which become null.
LENIENT = json.JSONDecoder(strict=False, parse_int=Number, parse_float=Number, parse_constant=lambda _: None)


def distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    return [found.append(value) or value for value in values if value not in found]  # type: ignore[func-returns-value]


def has_plain_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_plain_numbers, value.values()))
    if isinstance(value, list):
        return any(map(has_plain_numbers, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def by_value(tree: Any) -> Any:
    """The tree with numbers compared by value: for an answer that `json.loads` has read, its spelling being lost."""
    match tree:
        case Number(text):
            return json.loads(text)
        case dict():
            return {key: by_value(value) for key, value in tree.items()}
        case list():
            return [by_value(value) for value in tree]
        case OneOf(values):
            return OneOf(tuple(value if value is ABSENT else by_value(value) for value in values))
    return tree


def brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:100]} … {text[-50:]} ({len(text)} characters)"


def compare(path: str, expected: Any, actual: Any) -> list[str]:
    """Where `actual` is not what `expected` allows."""
    if isinstance(expected, OneOf):
        attempts = [compare(path, value, actual) for value in expected.values if value is not ABSENT]
        return min(attempts, key=len, default=[]) if all(attempts) else []
    if isinstance(expected, Has):
        return [f"{path}: {difference}" for difference in expected.differences(actual)]
    if type(expected) is not type(actual):
        return [f"{path}: should be {brief(expected)}, is {brief(actual)}"]
    if isinstance(expected, dict):
        needed = [key for key, value in expected.items() if not may_be_absent(value)]
        return (
            [f"{path}.{key}: lost: {brief(expected[key])}" for key in needed if key not in actual]
            + [f"{path}.{key}: invented: {brief(actual[key])}" for key in actual if key not in expected]
            + [
                line
                for key in expected
                if key in actual
                for line in compare(f"{path}.{key}", expected[key], actual[key])
            ]
        )
    if isinstance(expected, list):
        wrong_length = [f"{path}: {len(expected)} entries should be {len(actual)}: {brief(actual)}"]
        pairs = zip(expected, actual, strict=False)
        return (wrong_length if len(expected) != len(actual) else []) + [
            line for place, (one, other) in enumerate(pairs) for line in compare(f"{path}[{place}]", one, other)
        ]
    if expected == actual:
        return []
    return [f"{path}: should be {brief(expected)}, is {brief(actual)}"]


def may_be_absent(expected: Any) -> bool:
    return isinstance(expected, OneOf) and ABSENT in expected.values


def example(expected: Any) -> Any:
    """One answer that satisfies the expectation: the first of each choice."""
    match expected:
        case OneOf(values):
            return example(next((value for value in values if value is not ABSENT), None))
        case Has(_, like):
            return example(like)
        case dict():
            return {k: example(v) for k, v in expected.items() if not (isinstance(v, OneOf) and v.values[0] is ABSENT)}
        case list():
            return [example(value) for value in expected]
    return expected


# --- the event stream -----------------------------------------------------------------------------------------------

DONE = "[DONE]"
FIELD = re.compile(r"[\ufeff\0 \t]*(data|event|error|id|retry)(?:: ?(.*)|)\Z", re.DOTALL)
HEARTBEATS = ("ping", "keepalive")
# What broken framing leaves before JSON: byte order marks, NULs, a lost or doubled field name.
BEFORE = re.compile(r"(?:[\ufeff\0\s,]|d?a?ta?:(?=\s*(?:[\[{d]|\Z)))*")
NEXT = re.compile(r"data:\s*(?=[\[{])")
# A comment whose line end is lost has the next event in it.
IN_COMMENT = re.compile(r"\A:.*?(?=data: ?\{.*\}\s*\Z)")
OTHER_FIELD = re.compile(r"(?![\w-]*err)(?:[\w-]+:|[a-z_-]+\Z)", re.IGNORECASE)


@dataclass(frozen=True)
class Event:
    """A server-sent event: `name` from its event line, `value` the JSON of its data (ABSENT where that is none).

    `bare`: it is a line without a field; `last`: nothing comes after it, not even a blank line."""

    name: str
    text: str
    value: Any
    bare: bool = False
    last: bool = False

    @property
    def is_piece(self) -> bool:
        """Whether it is a piece of some JSON, and the rest of it is lost."""
        text = self.text.strip()
        opened = text.startswith(("{", "[")) and text != DONE
        return self.value is ABSENT and (opened or any(text.count(c) > text.count(o) for o, c in ("{}", "[]")))

    @property
    def is_hole(self) -> bool:
        """Whether an answer is not whole without it. A chunk that has got as far as saying that it has no choices, as
        those with usage do, is none; nor is one that the end of the stream cut."""
        ends = DONE.startswith(self.text.strip())
        return self.is_piece and not (self.last or ends or re.search(r'"choices"\s*:\s*\[\s*\]', self.text))


def events_of(stream: bytes) -> list[Event]:
    """Every event with data, in order, up to [DONE]; an event may lack its blank line, and data its space."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    split = [IN_COMMENT.sub("", line, count=1) for line in re.split("\r\n|\r|\n", text)]
    lines = [field_of(line) for line in split if not line.startswith(":")]
    blocks = [[line for line in block if line] for some, block in groupby(lines, key=bool) if some]
    found = [event for block in blocks for event in events_in(block)]
    if found and not re.search(r"(?:\r\n|\r(?!\n)|\n){2}\Z", text):
        found[-1] = replace(found[-1], last=True)
    ends = [place for place, event in enumerate(found) if event.text.strip() == DONE]
    return found[: ends[0] + 1] if ends else found


def field_of(line: str) -> tuple[str, str] | None:
    """A line's field and value; "" for a line without a field, None for a blank one."""
    found = FIELD.match(line)
    if found and not (found[1] == "error" and not (found[2] or "").startswith("{")):
        return found[1], found[2] or ""
    return ("", line) if line.strip("\0\ufeff \t") else None


def events_in(block: Sequence[tuple[str, str]]) -> list[Event]:
    """A block is one event, its data lines joined; if they are no JSON together, each line is an event of its own. So
    are lines of JSON, or of words, without a field."""
    found: list[Event] = []
    name = ""
    for kind, run in groupby(
        block, key=lambda line: {"event": "data", "id": "data", "retry": "data"}.get(*line[:1] * 2)
    ):
        lines = [*run]
        if kind == "error":
            found += [Event("error", text, parsed(text)) for _, text in lines]
        elif kind == "":
            found += bare_events([text for _, text in lines], name)
        else:
            name = next((value for field, value in reversed(lines) if field == "event"), name)
            found += data_events(lines, name)
    return found


def data_events(lines: Sequence[tuple[str, str]], name: str) -> list[Event]:
    data = [value for field, value in lines if field == "data"]
    whole = "\n".join(data)
    if not data:
        return []
    if len(data) == 1 or lenient(whole) is not ABSENT:
        return [Event(name, text, value) for text, value in values_in(whole)]
    found: list[Event] = []
    name = ""
    for field, value in lines:
        name = value if field == "event" else name
        if field == "data" and value:
            found += [Event(name, text, each) for text, each in values_in(value)]
    return found


def bare_events(lines: Sequence[str], name: str) -> list[Event]:
    whole = "\n".join(lines)
    texts = [whole] if lenient(BEFORE.sub("", whole, count=1)) is not ABSENT else lines
    said = [text for text in texts if BEFORE.sub("", text, count=1)[:1] in ("{", "[") or not OTHER_FIELD.match(text)]
    return [Event(name, text, value, bare=True) for one in said for text, value in values_in(one)]


def lenient(text: str) -> Any:
    try:
        return LENIENT.decode(text)
    except ValueError:
        return ABSENT


def values_in(text: str) -> list[tuple[str, Any]]:
    """The JSON values of an event's data with the text of each, however they are framed; words as they are."""
    value = lenient(text)
    if value is not ABSENT:
        return each_of(text, value)
    rest = BEFORE.sub("", text, count=1)
    if not rest.startswith(("{", "[")):
        return [(text, ABSENT)] if text.strip() else []
    found: list[tuple[str, Any]] = []
    while rest:
        try:
            value, end = LENIENT.raw_decode(rest)
        except ValueError:
            after = NEXT.search(rest, 1)
            value, end = ABSENT, len(DONE) if rest.startswith(DONE) else after.start() if after else len(rest)
        found += each_of(rest[:end], value)
        rest = BEFORE.sub("", rest[end:], count=1)
    return found


def each_of(text: str, value: Any) -> list[tuple[str, Any]]:
    """Gateways to Gemini send a list of chunks as one event."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [(text, one) for one in value]
    return [(text, value)]


def objects(events: list[Event]) -> list[dict[str, Any]]:
    """The JSON objects among the data, heartbeats left out."""
    return [e.value for e in events if isinstance(e.value, dict) and e.value.get("type") not in HEARTBEATS]


# --- rules for one field --------------------------------------------------------------------------------------------

NOTHING: tuple[Any, ...] = (None, "", [], {})
PADDING = ("obfuscation", "padding")


def column(rows: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows if key in row]


def keys_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return distinct(key for row in rows for key in row)


def telling(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value not in NOTHING]


def placeholder(values: list[Any]) -> Any:
    """What stands for a field that was said, but only as nothing: any of the nothings that were said."""
    return OneOf.of(*values)


def spelled(value: Any) -> str:
    """A scalar where text belongs is its own spelling."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else value.text if isinstance(value, Number) else ""


def joined_text(values: Iterable[Any]) -> str:
    """Fragments, joined; the halves of a surrogate pair may be in two of them."""
    text = "".join(map(spelled, values))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def text_of(values: list[Any]) -> Any:
    """Fragments, joined; "" if only that was said, null if only that was."""
    return joined_text(values) or placeholder(values)


def last_of(values: list[Any]) -> Any:
    """A label: the last one said stands."""
    return telling(values)[-1] if telling(values) else placeholder(values)


def first_of(values: list[Any]) -> Any:
    said = [value for value in telling(values) if value != Number("0")]
    return said[0] if said else placeholder(values)


def rows_of(values: list[Any]) -> Any:
    """Lists, each a piece of one list."""
    lists = [value for value in values if isinstance(value, list)]
    return [entry for one in lists for entry in one] or placeholder(values)


def settled(values: list[Any], pieces: bool = False) -> Any:
    """A field whose meaning nobody knows: a value said once or always alike is that value. Said unlike: the first or
    the last of them, lists also joined, objects also merged; strings joined if the field comes in `pieces`."""
    said = telling(values)
    unlike = distinct(said)
    if not said:
        return placeholder(values)
    if all(isinstance(value, str) for value in said) and pieces:
        return "".join(said) if len(unlike) > 1 else OneOf.of(unlike[0], "".join(said))
    if len(unlike) == 1 and pieces and isinstance(unlike[0], list):
        return OneOf.of(unlike[0], [entry for value in said for entry in value])
    if len(unlike) == 1 and pieces and isinstance(unlike[0], dict):
        return {key: settled(column(said, key), pieces) for key in unlike[0]}
    if len(unlike) == 1:
        return unlike[0]
    if all(isinstance(value, list) for value in said):
        return OneOf.of([e for v in said for e in v], said[-1], distinct(e for v in said for e in v))
    if all(isinstance(value, dict) for value in said):
        return OneOf.of({key: settled(column(said, key), pieces) for key in keys_of(said)}, said[-1])
    return OneOf.of(said[-1], said[0])


def fields(
    rows: Sequence[Mapping[str, Any]], rules: Mapping[str, Callable[[list[Any]], Any]], pieces: bool
) -> dict[str, Any]:
    """One expectation a key that any row has, by the rule for that key."""
    return {
        key: rules[key](column(rows, key)) if key in rules else settled(column(rows, key), pieces)
        for key in keys_of(rows)
        if key not in PADDING
    }


def says_something(usage: Any) -> bool:
    """Whether a number in it is not zero; labels beside zeros say nothing."""
    if isinstance(usage, dict):
        return any(map(says_something, usage.values()))
    if isinstance(usage, list):
        return any(map(says_something, usage))
    if isinstance(usage, Number):
        return float(usage.text) != 0
    return isinstance(usage, str) and re.fullmatch(r"[0.]*[1-9][0-9.]*", usage) is not None


def usage_of(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The last usage that says something, from wherever it stood; a key said only as nothing may stay or go."""
    places = [
        [
            *column([chunk], "usage"),
            *[c["usage"] for c in choices_in(chunk) if "usage" in c],
            *[
                chunk["x_groq"]["usage"]
                for _ in "x"
                if isinstance(chunk.get("x_groq"), dict) and "usage" in chunk["x_groq"]
            ],
        ]
        for chunk in chunks
    ]
    real = [kept for said in places if (kept := [usage for usage in said if says_something(usage)])]
    if real:
        return {"usage": OneOf.of(*real[-1])}
    empty = [usage for said in places for usage in said]
    return {"usage": OneOf((ABSENT, *distinct(empty)))} if empty else {}


# --- chat and legacy completions ------------------------------------------------------------------------------------


def choices_in(chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [choice for choice in chunk.get("choices") or [] if isinstance(choice, dict)]


def by_choice(chunks: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Every choice's pieces in the order they came, choices in index order; without an index, the place in the list."""
    placed = [
        (index if (index := number_of(choice.get("index"))) is not None else place, choice)
        for chunk in chunks
        for place, choice in enumerate(choices_in(chunk))
    ]
    return {index: [choice for at, choice in placed if at == index] for index in sorted({at for at, _ in placed})}


def number_of(index: Any) -> int | None:
    """An index; gateways send some as strings."""
    spelling = index.text if isinstance(index, Number) else index
    return int(spelling) if isinstance(spelling, str) and spelling.isdecimal() else None


NO_REASONS = ("", "null", "none", "finish_reason_unspecified")


def own_reasons(pieces: list[dict[str, Any]]) -> list[str]:
    said = [piece.get("finish_reason") or piece.get("finishReason") for piece in pieces]
    return [reason for reason in said if reason is not None and str(reason).lower() not in NO_REASONS]


def finish_reason(pieces: list[dict[str, Any]], message: Mapping[str, Any], partial: bool) -> Any:
    said = own_reasons(pieces)
    final = [reason for reason in said if reason in ("length", "content_filter", "error")]
    more = [reason for reason in said if reason != "stop"]
    if said:
        return OneOf.of(*(final or more or ["stop"]))
    if partial:
        return "length"
    return next((reason for reason in ("tool_calls", "function_call") if example(message.get(reason))), "stop")


def logprobs_of(values: list[Any]) -> Any:
    rows = [value for value in values if isinstance(value, dict)]
    return {key: rows_of(column(rows, key)) for key in keys_of(rows)} if rows else placeholder(values)


def content_of(values: list[Any]) -> Any:
    """Text, joined; if a list of parts ever came, parts: neighbours of one type joined, a bare text a part as well."""
    if not any(isinstance(value, list) for value in values):
        return text_of(values) if values else None
    bare = [
        value if isinstance(value, list) else [{"type": "text", "text": t} for t in [spelled(value)] if t]
        for value in values
    ]
    return parts_of([part for value in bare for part in value])


TEXTS = ("text", "thinking", "summary")
IN_PIECES = ("text", "thinking", "output_text", "reasoning", "summary_text")
PART: dict[str, Callable[[list[Any]], Any]] = {
    **dict.fromkeys(("type", "index", "signature", "id", "format"), first_of),
    "text": text_of,
    "thinking": content_of,
    "summary": content_of,
}


def text_in(pieces: Sequence[Any]) -> str:
    """What pieces of a part say, nested lists of parts included."""
    if all(isinstance(piece, dict) for piece in pieces):
        said = [piece[key] for piece in pieces for key in TEXTS if piece.get(key)]
        return "".join(text_in(value) if isinstance(value, list) else spelled(value) for value in said)
    return joined_text(pieces)


def mark_of(pieces: Sequence[dict[str, Any]]) -> Any:
    """What closes a part: a signature, or encrypted data; it is nobody else's."""
    return next((piece[key] for piece in pieces for key in ("signature", "data") if piece.get(key)), None)


def without_text(piece: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in piece.items() if key not in TEXTS}


def parts_of(entries: list[Any]) -> list[Any]:
    """Neighbours of one type that comes in pieces are one part, until a signature closes it. A signed entry with all of
    the text of its part is that part, said again."""
    runs: list[list[Any]] = []
    for entry in entries:
        if not isinstance(entry, dict):
            runs.append([entry])
            continue
        last: list[Any] = runs[-1] if runs and isinstance(runs[-1][0], dict) else []
        mark = mark_of([entry])
        known = [run for run in runs if isinstance(run[0], dict) and mark and mark_of(run) == mark]
        alike = bool(last) and last[0].get("type") == entry.get("type") and entry.get("type") in IN_PIECES
        again = bool(mark) and bool(text_in([entry])) and text_in(last) == text_in([entry]) if alike else False
        if known and (not text_in([entry]) or text_in(known[-1]) == text_in([entry])):
            continue
        if again and not mark_of(last):
            last.append(without_text(entry))
        elif alike and (not mark_of(last) or mark_of(last) == mark or not telling(without_label(entry))):
            last.append(entry)
        else:
            runs.append([entry])
    return [
        fields(run, PART, pieces=False) if isinstance(run[0], dict) and run[0].get("type") in IN_PIECES else run[0]
        for run in runs
    ]


def without_label(entry: dict[str, Any]) -> list[Any]:
    return [value for key, value in entry.items() if key not in ("type", "index", "id", "format")]


def reasoning_details_of(values: list[Any]) -> Any:
    """Entries with one index and one type are one entry, until a signature or another type closes it; entries without
    an index stand for themselves, or for the fragments of the signed one that follows them."""
    entries = [entry for value in values if isinstance(value, list) for entry in value]
    runs: list[list[dict[str, Any]]] = []
    for entry in entries:
        index, kind, mark, text = entry.get("index"), entry.get("type"), mark_of([entry]), text_in([entry])
        closed = next(
            (n for n in range(len(runs), 0, -1) if runs[n - 1][0].get("type") not in (kind, None) and kind), 0
        )
        near = [run for run in runs[closed:] if index is not None and run[0].get("index") == index]
        loose = [run for run in runs[closed:] if run[0].get("index") is None and not mark_of(run)]
        if any(mark and mark_of(run) == mark and text in ("", text_in(run)) for run in runs):
            continue
        if near and not mark_of(near[-1]) and mark and text and text == text_in(near[-1]):
            near[-1].append(without_text(entry))
        elif near and (not mark_of(near[-1]) or mark_of(near[-1]) == mark or not telling(without_label(entry))):
            near[-1].append(entry)
        elif index is None and mark and loose and text in ("", "".join(map(text_in, loose)), text_in(loose[-1])):
            kept = loose[-1:] if text and text == text_in(loose[-1]) else loose
            runs = [run for run in runs if all(run is not one for one in kept)]
            runs.append([*(piece for run in kept for piece in run), without_text(entry)])
        elif index is None and not telling(without_label(entry)) and runs:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    places = [place_of(run[0].get("index"), float("inf")) for run in runs]
    used_again = len({p for p in places if p != float("inf")}) < len([p for p in places if p != float("inf")])
    ordered = (
        runs if used_again else [run for _, run in sorted(zip(places, runs, strict=True), key=lambda pair: pair[0])]
    )
    rules = {
        "text": text_of,
        "summary": text_of,
        "type": first_of,
        "id": first_of,
        "format": first_of,
        "index": first_of,
    }

    return [fields(run, rules, pieces=False) for run in ordered] or placeholder(values)


def name_of(values: list[Any]) -> Any:
    """A name in fragments, or said again whole: what is already the whole name is not said twice."""
    whole = ""
    for value in telling(values):
        whole = whole if value == whole else whole + value
    return whole or placeholder(values)


def said_once(pieces: Iterable[Any]) -> str:
    """JSON in pieces. Only if they are none together: the last of snapshots, or what is said again, once."""
    said = [spelled(piece) for piece in pieces if spelled(piece)]
    text = "".join(said)
    if parsed(text) is not ABSENT or not text:
        return text
    if said[0].strip() == "{}" and isinstance(parsed(said_once(said[1:])), dict):
        return said_once(said[1:])  # a placeholder came first
    snapshot = ""
    for piece in said:
        snapshot = piece if snapshot and piece.startswith(snapshot) else snapshot + piece
    if parsed(snapshot) is not ABSENT:
        return snapshot
    values = values_in(snapshot)
    told = [(spelling, value) for spelling, value in values if value != {}]
    same = bool(told) and all(isinstance(value, dict) and value == told[0][1] for _, value in told)
    return told[0][0].strip() if same else text


def is_whole(arguments: Any) -> bool:
    return isinstance(parsed(arguments), dict) if isinstance(arguments, str) else isinstance(arguments, dict)


def arguments_of(values: list[Any]) -> Any:
    whole = [value for value in values if isinstance(value, dict)]
    text = said_once(value for value in values if not isinstance(value, dict))
    if text or not whole:
        return text  # a string in every direct answer
    return Has(
        lambda got: [] if isinstance(got, str) and parsed(got) == whole[-1] else [f"not the arguments: {brief(got)}"],
        json.dumps(whole[-1], default=lambda number: json.loads(number.text)),
    )


def function_of(values: list[Any]) -> Any:
    rows = [value for value in values if isinstance(value, dict)]
    rules = {"name": name_of, "arguments": arguments_of, "input": text_of}
    return fields(rows, rules, pieces=False) if rows else placeholder(values)


def inner_of(piece: Mapping[str, Any]) -> dict[str, Any]:
    inner = piece.get("function") or piece.get("custom")
    return inner if isinstance(inner, dict) else {}


def kind_of(call: Sequence[Mapping[str, Any]]) -> Any:
    said = next((piece["type"] for piece in call if piece.get("type")), None)
    inferred = "custom" if any(piece.get("custom") for piece in call) else "function" if call_name(call) else None
    return said or inferred


def begins(piece: dict[str, Any], call: list[dict[str, Any]], in_list: bool) -> bool:
    """Whether a piece that is addressed to a call is the first of another. `in_list`: that one is named in the same
    list."""
    ident, name, kind = piece.get("id") or None, inner_of(piece).get("name") or None, piece.get("type") or None
    known = next((one["id"] for one in call if one.get("id")), None)
    given, arguments = call_name(call) or None, inner_of(piece).get("arguments")
    so_far = [inner_of(one)["arguments"] for one in call if inner_of(one).get("arguments")]
    other_id = ident is not None and known is not None and ident != known
    if not name:
        return kind not in (None, "function") and kind_of(call) is not None and (kind != kind_of(call) or other_id)
    if not given:
        return kind_of(call) not in (None, kind_of([piece]))
    if other_id:
        return True
    if in_list and (piece.get("index") is None or (name != given and (kind or ident))):
        return name != given or not (ident and ident == known)
    if name != given:
        return bool(so_far) or (number_of(piece.get("index")) is None and ident is None and kind is not None)
    if not (so_far and all(map(is_whole, so_far)) and is_whole(arguments)):
        return False
    if so_far == ["{}"] and ident is not None and ident == known:
        return False  # a placeholder, then the arguments
    return arguments not in so_far or (piece.get("index") is None and ident is None and known is None)


def calls_in(lists: Iterable[list[Any]]) -> list[list[dict[str, Any]]]:
    """The fragments of each call, calls by index (first come first where there is none or it is used again)."""
    calls: list[list[dict[str, Any]]] = []
    latest: list[dict[str, Any]] = []
    for entries in lists:
        named: list[list[dict[str, Any]]] = []
        for piece in entries:
            if not isinstance(piece, dict):
                continue
            index, ident = number_of(piece.get("index")), piece.get("id") or None
            near = [call for call in calls if index is not None and number_of(call[0].get("index")) == index]
            known = [call for call in calls if index is None and ident is not None and ident in column(call, "id")]
            call = (near or known or ([latest] if index is None and latest else [[]]))[-1]
            other = piece.get("type") not in (None, "", "function")
            says = inner_of(piece).get("name") or inner_of(piece).get("arguments") or ident or other
            if call and not begins(piece, call, any(one is call for one in named)):
                call.append(piece)
                latest = call
            elif says or index is not None:
                latest = [piece if index is not None else {"index": (latest or [{}])[0].get("index")} | piece]
                calls.append(latest)
            if inner_of(piece).get("name"):
                named.append(latest)
    whole: list[list[dict[str, Any]]] = []
    for call in calls:
        if any(piece.get("id") for piece in call) or call_name(call) or kind_of(call) not in (None, "function"):
            whole.append(call)
        elif whole:
            # It never was a call: its arguments go on with the one before it.
            whole[-1] += [{"function": {"arguments": inner_of(piece).get("arguments")}} for piece in call]
    return sorted(whole, key=lambda call: place_of(call[0].get("index")))


def place_of(index: Any, none: float = 0) -> float:
    number = number_of(index)
    return none if number is None else number


def call_name(call: Sequence[Mapping[str, Any]]) -> str:
    name = name_of([name for piece in call for name in column([inner_of(piece)], "name")])
    return name if isinstance(name, str) else ""


def made_id(got: Any) -> list[str]:
    return [] if isinstance(got, str) and re.fullmatch("call_[0-9a-f]{8,}", got) else [f"no id: {brief(got)}"]


def tool_calls_of(values: list[Any]) -> Any:
    lists = [value if isinstance(value, list) else [value] for value in values if isinstance(value, (list, dict))]
    if not any(lists):
        return placeholder(values)
    rules = {"id": first_of, "type": first_of, "function": function_of, "custom": function_of}
    found = calls_in(lists)
    whole = [
        {"type": None} | {key: value for key, value in fields(call, rules, pieces=True).items() if key != "index"}
        for call in found
    ]
    kinds = ["custom" if "custom" in call else "function" for call in whole]
    typed = [
        call | ({"type": kind} if example(call["type"]) in NOTHING else {})
        for call, kind in zip(whole, kinds, strict=True)
    ]
    return [with_id(call, typed[:place]) for place, call in enumerate(typed)] or OneOf(([], None, ABSENT))


def with_id(call: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A call that can be answered needs an id of its own, where the upstream gave it none."""
    if example(call["type"]) not in ("function", "custom"):
        return call
    ident = example(call.get("id"))
    if ident not in NOTHING and ident not in [example(other.get("id")) for other in before]:
        return call
    return call | {"id": Has(made_id, "call_00000000")}


def audio_of(values: list[Any]) -> Any:
    rows = [value for value in values if isinstance(value, dict)]
    rules = {"id": first_of, "data": base64_of, "transcript": text_of}
    return fields(rows, rules, pieces=False) if rows else placeholder(values)


def base64_of(values: list[Any]) -> Any:
    """Base64 in pieces: as text, unless one before the last has padding of its own."""
    said = [value for value in values if isinstance(value, str) and value]
    if not any(value.endswith("=") for value in said[:-1]):
        return text_of(values)
    return base64.b64encode(b"".join(map(base64.b64decode, said))).decode()


def within_of(values: list[Any]) -> Any:
    rows = [value for value in values if isinstance(value, dict)]
    rules = {key: MESSAGE[key] for key in ("thinking_blocks", "reasoning_details", "reasoning_content", "reasoning")}
    return fields(rows, rules, pieces=True) if rows else placeholder(values)


MESSAGE: Mapping[str, Callable[[list[Any]], Any]] = {
    "role": first_of,
    "content": content_of,
    "refusal": text_of,
    "reasoning": text_of,
    "reasoning_content": text_of,
    "reasoning_text": text_of,
    "reasoning_details": reasoning_details_of,
    "thinking_blocks": content_of,
    "provider_specific_fields": within_of,
    "tool_calls": tool_calls_of,
    "function_call": function_of,
    "audio": audio_of,
    **dict.fromkeys(("status", "phase", "channel"), last_of),
}


def message_of(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The deltas' message; a whole `message` beside them speaks only where no delta said anything. Results of a tool of
    the upstream's own are not the answer's."""
    deltas = [{"content": delta} if isinstance(delta, str) else delta for delta in column(pieces, "delta")]
    deltas = [delta for delta in deltas if isinstance(delta, dict) and delta.get("role") != "tool"]
    wholes = [message for message in column(pieces, "message") if isinstance(message, dict)]
    built = {"role": "assistant", "content": None} | fields(deltas, MESSAGE, pieces=True)
    whole = {key: snapshot_of(column(wholes, key)) for key in keys_of(wholes)}
    latest = {key: MESSAGE.get(key, settled)([value]) for key, value in whole.items()}
    if isinstance(whole.get("tool_calls"), list) and whole["tool_calls"]:
        calls = zip(whole["tool_calls"], latest["tool_calls"], strict=False)
        latest["tool_calls"] = [
            call | ({"index": OneOf.of(one["index"], ABSENT)} if isinstance(one, dict) and "index" in one else {})
            for one, call in calls
        ]
    silent = {key: value for key, value in latest.items() if not telling(column(deltas, key))}
    spoken = {key: value for key, value in silent.items() if telling([example(value)])}
    hushed = {
        key: OneOf.of(*spread(built[key]), *spread(value)) if key in built else OneOf.of(*spread(value), ABSENT)
        for key, value in silent.items()
        if key not in spoken
    }
    built |= spoken | hushed
    stub = built.get("function_call")
    if isinstance(stub, dict) and not telling(map(example, stub.values())):
        del built["function_call"]
    return built | ({"role": "assistant"} if example(built["role"]) in NOTHING else {})


def snapshot_of(values: list[Any]) -> Any:
    """A member of messages in several chunks: cumulative if each begins with all before it, else joined."""
    texts = [value for value in values if isinstance(value, str)]
    if texts and not any(isinstance(value, (dict, list)) for value in values):
        values = texts = [spelled(value) for value in values if value is not None]
    if len(texts) < 2 or len(telling(values)) != len(telling(texts)):
        return (telling(values) or values)[-1]
    if all(after.startswith(before) for before, after in pairwise(texts)):
        return texts[-1]
    return texts[0] if len(set(texts)) == 1 else "".join(texts)


def spread(value: Any) -> tuple[Any, ...]:
    return value.values if isinstance(value, OneOf) else (value,)


def chat_choice(index: int, pieces: list[dict[str, Any]], partial: bool) -> dict[str, Any]:
    message = message_of(pieces)
    rest = [{k: v for k, v in piece.items() if k not in ("delta", "message", "usage", "index")} for piece in pieces]
    known = {"logprobs": logprobs_of, "finish_reason": lambda _: None}
    extra = {key: value for key, value in fields(rest, known, pieces=False).items() if key != "finishReason"}
    # Together and the Hugging Face router repeat delta.content as choices[].text, token by token.
    repeats = {"text": OneOf.of(ABSENT, text_of(column(rest, "text")))} if "text" in extra else {}
    finish = finish_reason(pieces, message, partial)
    return {"index": Number(str(index)), "message": message} | extra | repeats | {"finish_reason": finish}


def text_choice(index: int, pieces: list[dict[str, Any]], partial: bool) -> dict[str, Any]:
    rest = [{k: v for k, v in piece.items() if k not in ("delta", "usage", "index")} for piece in pieces]
    texts = dict.fromkeys(("text", "reasoning", "reasoning_content"), text_of)
    extra = fields(rest, {"logprobs": logprobs_of, "finish_reason": lambda _: None, **texts}, pieces=False)
    text = extra.pop("text", None)
    if example(text) in NOTHING:
        text = OneOf(("", None, ABSENT))
    return {"index": Number(str(index)), "text": text} | extra | {"finish_reason": finish_reason(pieces, {}, partial)}


def chunked(
    constant: str, choice_of: Callable[[int, list[dict[str, Any]], bool], dict[str, Any]]
) -> Callable[[list[dict[str, Any]], bool], dict[str, Any]]:
    """A reader of chunks with choices: the whole document from all chunks."""

    def whole(chunks: list[dict[str, Any]], partial: bool) -> dict[str, Any]:
        aside = ("choices", "object", "usage", "p", "x_groq", "prompt_progress")
        rest = [{k: v for k, v in c.items() if k not in aside} for c in chunks]
        groq = [{k: v for k, v in g.items() if k != "usage"} for g in column(chunks, "x_groq") if isinstance(g, dict)]
        # The envelope of a notice is not the answer's, if there is another.
        own = [chunk for chunk, c in zip(rest, chunks, strict=True) if c.get("choices") or not words_of(c)]
        named = ("id", "model", "created", "provider", "system_fingerprint", "service_tier")
        others = [chunk for chunk in rest if all(chunk is not one for one in own)]
        rest = [c if c in own else {k: v for k, v in c.items() if k not in named} for c in rest]
        top = fields(rest, {"id": first_of, "model": first_of, "created": first_of}, pieces=False)
        top |= {key: OneOf.of(ABSENT, *column(others, key)) for key in named if key not in top and column(others, key)}
        # An echo of the request and a null error say nothing of the answer: either way is right.
        moot = {key: OneOf.of(top[key], ABSENT) for key in ("stream_options", "error") if key in top}
        choices = [choice_of(index, pieces, partial) for index, pieces in by_choice(chunks).items()]
        return (
            {"object": constant, "choices": choices}
            | top
            | moot
            | ({"x_groq": fields(groq, {}, pieces=False)} if telling(groq) else {})
            | usage_of(chunks)
        )

    return whole


# --- responses ------------------------------------------------------------------------------------------------------

TERMINAL = ("response.completed", "response.incomplete", "response.cancelled", "response.done")
FAILED = ("response.failed", "response.error", "error")


def typed(events: list[Event]) -> list[dict[str, Any]]:
    """Events of a typed stream; the event line names those whose data does not."""
    said = [{"type": e.name} | e.value for e in events if isinstance(e.value, dict) and e.name not in HEARTBEATS]
    # A gateway may send the plain answer as an event.
    return [
        {"type": "response.completed", "response": {k: v for k, v in event.items() if k != "type"}}
        if is_response(event)
        else event
        for event in said
    ]


def is_response(event: dict[str, Any]) -> bool:
    return event.get("object") == "response" and event["type"] == "" and event.get("status") != "failed"


def response_of(said: list[dict[str, Any]]) -> dict[str, Any]:
    """The first terminal event's response; an output that it lacks, from the item events before it."""
    place = next(at for at, event in enumerate(said) if event["type"] in TERMINAL)
    final = said[place].get("response") or {}
    early = [event["response"] for event in said[:place] if isinstance(event.get("response"), dict)]
    filled = {key: OneOf((ABSENT, *distinct(column(early, key)))) for key in keys_of(early) if key not in final}
    # GitHub Copilot's terminal event has copilot_usage beside its response; its direct answer has it at the top.
    beside = {k: v for k, v in said[place].items() if k not in ("type", "response", "sequence_number", *PADDING)}
    constant = {"object": OneOf(("response", ABSENT))}
    output = final.get("output")
    if not output or isinstance(output, list):
        output = output_of(said[:place], output or [])
    whole = constant | filled | beside | final | {"output": output}
    if not final.get("status") and telling(column(early, "status")):
        whole["status"] = said[place]["type"].removeprefix("response.").replace("done", "completed")
    return whole


def drawn(item: Any) -> Any:
    """An image that is there is completed, whatever its call still says: Azure's direct answer to that has it so."""
    drawing = isinstance(item, dict) and item.get("type") == "image_generation_call" and item.get("result")
    return item | {"status": "completed"} if drawing else item


@dataclass
class Slot:
    """An item of a response as it was streamed: announced, then finished, and the pieces of its texts by member."""

    index: Any
    item: dict[str, Any]
    finished: bool
    pieces: dict[tuple[str, Any], list[Any]]

    def text(self, member: str, place: Any = None) -> str:
        said = self.pieces.get((member, place), [])
        return said_once(said) if member == "arguments" else joined_text(said)


# What the deltas of an item add to, by their type's middle: `response.output_text.delta`.
STREAMED = {
    "output_text": "content",
    "text": "content",
    "refusal": "content",
    "reasoning_text": "content",
    "reasoning_summary_text": "summary",
    "function_call_arguments": "arguments",
    "mcp_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "code_interpreter_call_code": "code",
}


def slots_of(said: list[dict[str, Any]]) -> list[Slot]:
    slots: list[Slot] = []
    for event in said:
        kind = event["type"].removeprefix("response.")
        near = [slot for slot in slots if slot.index == event.get("output_index")]
        name = event.get("item_id") or (event.get("item") or {}).get("id")
        named = [slot for slot in slots if name and slot.item.get("id") == name and not slot.finished]
        # Two items at one index, or one at two, are told apart by their ids.
        near = near if not named or (near and near[-1].item.get("id") == name) else named
        if kind in ("output_item.added", "output_item.done") and isinstance(event.get("item"), dict):
            item, done = event["item"], kind.endswith("done")
            if "output_index" not in event:
                near = [slot for slot in slots if item.get("id") and slot.item.get("id") == item["id"]]
            ids = [one.get("id") for one in (item, near[-1].item if near else {})]
            # One that has finished is not announced again, and another type, or another id announced, is another item.
            before = near[-1].item if near else {}
            unlike = {key for key in ("type", "id") if before.get(key) and item.get(key) not in (None, before[key])}
            if near and (
                not unlike & ({"type"} if done else {"type", "id"})
                if not near[-1].finished
                else (done and before.get("type") == item.get("type") and ids[0] == ids[1])
            ):
                near[-1].item, near[-1].finished = item, done
            else:
                slots.append(Slot(event.get("output_index"), item, done, {}))
        elif kind.endswith(".delta") and kind.removesuffix(".delta") in STREAMED:
            member = STREAMED[kind.removesuffix(".delta")]
            place = event.get("content_index", event.get("summary_index")) if member in ("content", "summary") else None
            # What follows a finished item under another id is the text of one that nobody announced.
            late = bool(near) and near[-1].finished and event.get("item_id") not in (None, near[-1].item.get("id"))
            slot = near[-1] if near and not late else Slot(event.get("output_index"), {}, False, {})
            slots += [] if near and not late else [slot]
            slot.pieces.setdefault((member, place), []).append(event.get("delta"))
        elif kind.endswith(".done") and kind.removesuffix(".done") in STREAMED and near:
            # What it says is the whole of it, unless that is nothing.
            member = STREAMED[kind.removesuffix(".done")]
            place = event.get("content_index", event.get("summary_index")) if member in ("content", "summary") else None
            whole = [text for key in ("text", "refusal", member) if (text := spelled(event.get(key)))]
            if whole and (member != "arguments" or parsed(whole[0]) is not ABSENT):
                near[-1].pieces[member, place] = whole[:1]
    return slots


def output_of(said: list[dict[str, Any]], final: list[Any]) -> Any:
    """The terminal output's items, filled in where they are empty, and what it lacks of those that were streamed."""
    slots = slots_of(said)
    own = {place: slot_for(item, place, final, slots) for place, item in enumerate(final)}
    used = [id(slot) for slot in own.values() if slot]
    ids = [item["id"] for item in final if isinstance(item, dict) and item.get("id")]
    missing = [slot for slot in slots if slot.item and id(slot) not in used and slot.item.get("id") not in ids]
    # Of one that was announced alone there is nothing to put in.
    missing = [slot for slot in missing if slot.finished or slot.pieces or not final]
    loose = [slot for slot in slots if not slot.item and id(slot) not in used]
    again = [slot for at, slot in enumerate(missing) if any(slot.item == one.item for one in missing[:at])]
    missing = [slot for slot in missing if not any(slot is one for one in again if one.item.get("id"))]
    made = [filled(drawn(item), own[place]) for place, item in enumerate(final)]
    for slot in sorted(missing, key=lambda slot: place_of(slot.index)):
        made.insert(int(place_of(slot.index)) if made != [] and final else len(made), filled(drawn(slot.item), slot))
    there = json.dumps([final, *[slot.item for slot in slots]], default=repr)
    texts = [text for slot in loose for member, place in slot.pieces if (text := slot.text(member, place))]
    texts = [text for text in texts if json.dumps(text)[1:-1] not in there]
    # A refusal or text of which only the `done` event came: it may be in the answer, it need not.
    rest = [e for e in said if e["type"] in ("response.refusal.done", "response.output_text.done") and not slots]
    if not texts and not rest:
        return made

    def differences(output: Any) -> list[str]:
        shown = json.dumps(output, default=repr)
        counts = {text: shown.count(json.dumps(text)[1:-1]) for text in texts}
        return (
            [f"lost the item {brief(item)}" for item in made if all(compare("", item, one) for one in output or [])]
            + [f"{count} times instead of once: {brief(text)}" for text, count in counts.items() if count != 1]
            + ([] if isinstance(output, list) else ["no list"])
        )

    words = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return Has(differences, made + [{"type": "message", "role": "assistant", "content": words} for _ in texts[:1]])


def slot_for(item: Any, place: int, final: list[Any], slots: list[Slot]) -> Slot | None:
    """What was streamed of an item of the terminal output: by its id; else, as ids may change, the one of its type and
    turn among those of which no id is there."""
    if not isinstance(item, dict):
        return None
    ids = [one.get("id") for one in final if isinstance(one, dict) and one.get("id")]
    same = [slot for slot in slots if item.get("id") and slot.item.get("id") == item["id"]]
    if same:
        return same[-1]
    kinds = [
        one.get("type")
        for one in final[:place]
        if isinstance(one, dict) and not any(one.get("id") and slot.item.get("id") == one["id"] for slot in slots)
    ]
    free = [slot for slot in slots if slot.item.get("id") not in ids and slot.item.get("type") == item.get("type")]
    turn = kinds.count(item.get("type"))
    bare = [slot for slot in slots if not slot.item and slot.index in (None, Number(str(place)))]
    return free[turn] if turn < len(free) else bare[0] if bare else None


def filled(item: Any, slot: Slot | None) -> Any:
    """An item, with what was streamed in place of what is empty in it."""
    if slot is None or not isinstance(item, dict):
        return item
    whole = dict(item)
    for member in ("arguments", "input", "code"):
        text, own = slot.text(member), item.get(member)
        broken = member == "arguments" and isinstance(own, str) and parsed(own) is ABSENT and parsed(text) is not ABSENT
        if text and (own in NOTHING or broken):
            whole[member] = text
    for member in ("content", "summary"):
        texts = [slot.text(of, place) for of, place in slot.pieces if of == member]
        parts = item.get(member)
        if any(texts) and all(text in telling(item.values()) for text in texts):
            continue
        if not any(texts) and (slot.finished or member not in item):
            continue
        if parts in NOTHING:
            whole[member] = Has(holding(texts), [{"type": "output_text", "text": text} for text in texts])
        elif isinstance(parts, list):
            whole[member] = [
                part
                | {
                    key: slot.text(member, Number(str(at))) or part[key]
                    for key in ("text", "refusal")
                    if part.get(key, ABSENT) in ("", None)
                }
                if isinstance(part, dict)
                else part
                for at, part in enumerate(parts)
            ]
    if not slot.finished and slot.item is item:
        whole["status"] = OneOf.of(item.get("status", ABSENT), "completed", "incomplete")
    return whole


def holding(texts: Sequence[str]) -> Callable[[Any], list[str]]:
    """Whether parts hold these texts, in order, and no others."""

    def differences(parts: Any) -> list[str]:
        said = [part.get("text", part.get("refusal")) if isinstance(part, dict) else part for part in parts or []]
        return [] if telling(said) == telling(texts) else [f"should say {brief([*texts])}, says {brief(said)}"]

    return differences


# --- messages -------------------------------------------------------------------------------------------------------

GROWS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
    "citations_delta": "citation",
}


def message_document(said: list[dict[str, Any]]) -> dict[str, Any]:
    """Anthropic's message: the first start's message, its content blocks, and what the message deltas lay over it."""
    ends = [at for at, event in enumerate(said) if event["type"] == "message_stop"]
    mine = said[: ends[0]] if ends else said
    start: dict[str, Any] = next((e["message"] for e in mine if e["type"] == "message_start" and e.get("message")), {})
    whole = next((event for event in reversed(mine) if event["type"] == "message"), {})
    overlays = [event for event in mine if event["type"] == "message_delta"]
    deltas = [event.get("delta") or {} for event in overlays]
    starts = [e["message"].get("usage") for e in mine if e["type"] == "message_start" and e.get("message")]
    said_in = [*starts, *column(deltas, "usage"), *column(overlays, "usage"), *column([whole], "usage")]
    usages = [usage for usage in said_in if usage]
    aside = ("type", "delta", "usage", *PADDING)
    top = [{k: v for k, v in event.items() if k not in aside} for event in overlays]
    laid = {key: column([*deltas, *top], key)[-1] for key in keys_of([*deltas, *top]) if key not in aside}
    usage = {"usage": {key: overlaid(column(usages, key)) for key in keys_of(usages)}} if usages else {}
    constants = {"type": "message", "role": "assistant"}
    content = without_snapshots([block_of(block) for block in blocks_in(mine)]) or whole.get("content") or []
    reason = {"stop_reason": stop_reason([*deltas, *top, start, whole], content)}
    kept = {key: value for key, value in laid.items() if value is not None or key not in whole | start}
    started = {key: value for key, value in start.items() if value is not None or key not in whole}
    return constants | whole | started | kept | usage | reason | {"content": content}


def stop_reason(places: list[dict[str, Any]], content: list[dict[str, Any]]) -> Any:
    said = [reason for reason in column(places, "stop_reason") if reason and str(reason).lower() not in NO_REASONS]
    more = [reason for reason in said if reason not in ("end_turn", "pause_turn")]
    if said:
        return OneOf.of(*(more[-1:] or said))
    return "tool_use" if any(block.get("type") == "tool_use" for block in content) else "end_turn"


def without_snapshots(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A thinking that is followed by itself, signed, is one block."""
    kept: list[dict[str, Any]] = []
    for block in blocks:
        before = kept[-1] if kept else {}
        alike = [before.get(key) == block.get(key) for key in ("type", "thinking")]
        if block.get("type") == "thinking" and all(alike) and block.get("signature") and not before.get("signature"):
            kept[-1] = before | block
        else:
            kept.append(block)
    return kept


def type_of(event: dict[str, Any]) -> Any:
    """The type of the block that an event begins."""
    started, delta = event.get("content_block"), event.get("delta")
    if isinstance(started, dict):
        return started.get("type")
    return UNANNOUNCED.get(delta.get("type"), "text") if isinstance(delta, dict) else None


def blocks_in(said: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The events of each content block in index order; an index used again after its stop, or for another type or id,
    is another block. Without an index, each start is one."""
    blocks: list[list[dict[str, Any]]] = []
    for event in said:
        if not event["type"].startswith("content_block_"):
            continue
        index = event.get("index")
        same = [block for block in blocks if block[0].get("index") == index]
        is_start = event["type"] == "content_block_start"
        if event["type"] == "content_block_delta" and same and not is_of(event, same[-1]):
            same = blocks[-1:] if is_of(event, blocks[-1]) else []  # the index of another block
        ids = [(one.get("content_block") or {}).get("id") for one in ([same[-1][0], event] if same else [])]
        again = bool(same) and (
            index is None
            or same[-1][-1]["type"] == "content_block_stop"
            or type_of(same[-1][0]) != type_of(event)
            or (all(ids) and len(set(ids)) > 1)
        )
        if same and not (is_start and again):
            same[-1].append(event)
        elif event["type"] != "content_block_stop" or isinstance(event.get("content_block"), dict):
            blocks.append([event])
    return sorted(blocks, key=lambda block: place_of(block[0].get("index")))


def is_of(event: dict[str, Any], block: list[dict[str, Any]]) -> bool:
    """Whether a delta may be a part of a block, as far as their kinds tell."""
    kinds = {"text_delta": ("text",), "thinking_delta": ("thinking",), "input_json_delta": CALLS}
    kind, delta = type_of(block[0]), event.get("delta")
    if not isinstance(delta, dict) or kind not in ("text", "thinking", *CALLS):
        return True
    return kind in kinds.get(delta.get("type"), (kind,))


def overlaid(values: list[Any]) -> Any:
    """Cumulative counts: the last said, but a null or a zero does not undo a number."""
    real = [value for value in values if says_something(value)]
    return OneOf.of(real[-1], values[-1]) if real else OneOf.of(*reversed(values))


# Blocks whose input is an object, also where a call has no arguments and nothing said so (llama.cpp's direct answer).
CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
UNANNOUNCED = {"thinking_delta": "thinking", "signature_delta": "thinking", "input_json_delta": "tool_use"}


def block_of(said: list[dict[str, Any]]) -> dict[str, Any]:
    """One block as it was first started, with its deltas, and what only its stop says; its type is its deltas' where it
    never was started."""
    first = said[0].get("content_block")
    deltas = [event["delta"] for event in said if event["type"] == "content_block_delta"]
    deltas = [delta for delta in deltas if isinstance(delta, dict)]
    kind = UNANNOUNCED.get(deltas[0].get("type"), "text") if deltas else "text"
    block: dict[str, Any] = first if isinstance(first, dict) else {"type": kind}
    block = ({"input": {}} if block.get("type") in CALLS else {}) | block
    # A member of another kind of delta may stand beside it, and new kinds may come.
    grown = {key: [d[key] for d in deltas if key in d] for key in keys_of(deltas) if key not in ("type", *PADDING)}
    if "thinking" in grown:
        thought: list[Any] = []
        for delta in deltas:
            is_snapshot = bool(delta.get("signature")) and delta.get("thinking") == joined_text(thought)
            thought += [] if is_snapshot or "thinking" not in delta else [delta["thinking"]]
        grown["thinking"] = thought
    whole = [value for value in grown.get("partial_json", []) if isinstance(value, dict)]
    pieces = said_once(value for value in grown.pop("partial_json", []) if not isinstance(value, dict)).strip()
    cited = grown.pop("citation", [])
    texts = {
        key: begun(block.get(key), joined_text(values))
        if key in GROWS.values() and any(map(spelled, values))
        else settled(values, pieces=True)
        for key, values in grown.items()
        if telling(values)
    }
    texts |= {
        key: OneOf.of(block.get(key, ABSENT), *values)
        for key, values in grown.items()
        if values and not telling(values)
    }
    texts |= {"signature": telling(grown["signature"])[-1]} if telling(grown.get("signature", [])) else {}
    citations = {"citations": [*(block.get("citations") or []), *cited]} if cited else {}
    told = whole[-1] if whole else input_of(pieces)
    after = [event["content_block"] for event in said[1:] if isinstance(event.get("content_block"), dict)]
    built = block | texts | citations | ({"input": told} if pieces or whole else {})
    more = {k: v for end in reversed(after) for k, v in end.items() if v not in NOTHING}
    built |= {key: value for key, value in more.items() if built.get(key) in NOTHING}
    is_text = isinstance(built.get("input", ABSENT), str | None) and str(built.get("type")).endswith("tool_use")
    return built | ({"input": input_of(built["input"] or "")} if is_text else {})


def begun(start: Any, text: str) -> str:
    """A block may start with its first text, which its deltas go on with, or say again."""
    return text if not isinstance(start, str) or text.startswith(start) else start + text


def input_of(pieces: str) -> Any:
    """A tool's input. Cut by max_tokens, the pieces are no JSON: then it is empty."""
    told = parsed(pieces or "{}")
    return told if isinstance(told, dict) else {}


# --- outcomes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """The upstream answered: 200 and this document."""

    document: Any


@dataclass(frozen=True)
class UpstreamError:
    """The upstream said an error: one of these statuses, and all that one of these errors says."""

    statuses: frozenset[int]
    said: tuple[Any, ...]


@dataclass(frozen=True)
class Broken:
    """The stream is no answer: 502 with one of these codes."""

    codes: tuple[str, ...]


@dataclass(frozen=True)
class Either:
    """Nothing in the SPEC decides between these."""

    outcomes: tuple["Outcome", ...]


Outcome = Whole | UpstreamError | Broken | Either

# Codes whose status is certain, and words (codes or types) that suggest one: there 502 is right as well.
CERTAIN = {"rate_limit_exceeded": 429, "invalid_api_key": 401, "invalid_prompt": 400}
SUGGESTED = {
    "insufficient_quota": 429,
    "context_length_exceeded": 400,
    "model_not_found": 404,
    "server_error": 500,
    "internal_server_error": 500,
    "internal_error": 500,
    "api_error": 500,
    "service_unavailable": 503,
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "tool_use_failed": 400,
}


STATUS_KEYS = ("status", "statuscode", "code", "httpstatus", "httpcode", "httpstatuscode", "errorcode", "errcode")
# Names and words that stand for a status, which provider by provider is for other tests to say.
NAMES = re.compile(
    r"limit|quota|balance|credit|auth|key|permi|forbid|denied|not_?found|exist|invalid|bad|valid|context|length|long|"
    r"load|capacity|unavail|busy|time|server|internal|too|exhaust|throttl|inspect|sensitive|policy|reset|[45]\d\d|"
    r"missing|required|many|unprocess|request|generation|gateway|disconnect|\d{4,}",
    re.IGNORECASE,
)


def plain(key: str) -> str:
    return re.sub("[^a-z]", "", key.lower())


def layers_of(error: Any) -> list[dict[str, Any]]:
    """An error's object, and those in it."""
    if not isinstance(error, dict):
        return [layer for one in error for layer in layers_of(one)] if isinstance(error, list) else []
    return [error, *(layer for value in error.values() for layer in layers_of(value))]


def named_status(error: Any) -> int | None:
    """A 4xx or 5xx number that the error itself has."""
    for layer in layers_of(error):
        numbers = [value for key, value in layer.items() if plain(key) in STATUS_KEYS]
        found = [number.text if isinstance(number, Number) else number for number in numbers]
        for number in found:
            if isinstance(number, str) and re.fullmatch("[45][0-9][0-9]", number):
                return int(number)
    return None


def statuses_of(errors: list[Any]) -> frozenset[int]:
    """Statuses that are right for these errors of one stream."""
    numbers = {status for error in errors if (status := named_status(error))}
    words = [error.get(key) for error in errors if isinstance(error, dict) for key in ("code", "type")]
    certain = {CERTAIN[word] for word in words if isinstance(word, str) and word in CERTAIN}
    sure = numbers or certain
    # Several errors in one stream need not agree: the first may name no status and a later one may.
    every = all(named_status(e) or (isinstance(e, dict) and e.get("code") in CERTAIN) for e in errors)
    named = [w for error in errors for layer in layers_of(error) for w in layer.values()] + errors
    maybe = range(400, 600) if any(isinstance(w, (str, Number)) and NAMES.search(spelled(w)) for w in named) else []
    return frozenset(sure if sure and every else {*sure, *maybe, 502})


FINE = ("ok", "success", "successful", "succeeded", "null", "none", "false", "true", "nil", "undefined", "completed")
WORDS = (
    "message",
    "msg",
    "detail",
    "title",
    "reason",
    "description",
    "errormessage",
    "errormsg",
    "errmsg",
    "error",
    "statusmsg",
)
ENVELOPE = (
    "id",
    "object",
    "model",
    "created",
    "provider",
    "type",
    "service_tier",
    "system_fingerprint",
    "role",
    "user",
)


def is_fine(code: Any) -> bool:
    """Whether a code or the value of `error` means success, or nothing: 0, "0000", 200, "success", {"message": ""}."""
    if isinstance(code, dict):
        return all(is_fine(value) for key, value in code.items() if not plain(key).endswith("id"))
    if isinstance(code, list):
        return all(map(is_fine, code))
    if isinstance(code, bool) or code is None:
        return code is not True
    text = spelled(code).strip().lower()
    return not text.strip("0") or text in FINE or bool(re.fullmatch("[123][0-9][0-9]", text))


def words_of(value: Any) -> str:
    """What a value says to a person."""
    if isinstance(value, str):
        return "" if is_fine(value) or is_keepalive(value) else value.strip()
    if isinstance(value, list):
        return "; ".join(filter(None, map(words_of, value)))
    if not isinstance(value, dict):
        return ""
    named = [words_of(value[key]) for key in value if plain(key) in WORDS]
    return next(filter(None, named), "")


KEEPALIVE = re.compile(
    r"[\W_]*((\w+ )?(keep[ _-]?alive|heart[ _-]?beat|ping|pong|processing|waiting|connected|alive|open))?[\W\dTZ_]*",
    re.IGNORECASE,
)


def is_keepalive(text: str) -> bool:
    return text.lstrip().startswith(":") or KEEPALIVE.fullmatch(text) is not None


def says_error(text: str) -> bool | None:
    """Whether a text says that something failed; None where that is a matter of opinion."""
    if re.match(r"(?i)\W*(?:\w+\W+){0,3}(?:\w*error|\w*exception|failed)\s*[:(]", text):
        return True
    return None if NAMES.search(text) or re.search(r"(?i)err|fail|cannot|unable|wrong|[^\x00-\x7f]", text) else False


def error_of(event: Event) -> Any:
    """What an event says of an error, as an object or text; ABSENT if it says none, None if that is unsure."""
    body = event.value
    kind = str(body.get("type") or event.name) if isinstance(body, dict) else event.name
    if not isinstance(body, dict):
        text = body if isinstance(body, str) else event.text if body is ABSENT else ""
        if event.name == "error" and text:
            return text
        said = says_error(text) if text and not event.is_piece and not is_keepalive(text) and text != DONE else False
        return text if said else None if said is None else ABSENT
    if kind.endswith(("partial_failed", "mcp_call.failed", "mcp_list_tools.failed")):
        return ABSENT
    response = body.get("response")
    failed = isinstance(response, dict) and response.get("status") == "failed"
    if not is_fine(body.get("error")):
        return body["error"]
    if kind in ("response.failed", "response.error") or (kind.startswith("response.") and failed):
        return (response or body).get("error") or {}
    flat = {k: v for k, v in body.items() if k not in ("sequence_number", "choices", "object", *PADDING)}
    flat = {k: v for k, v in flat.items() if (k, v) != ("type", "error")}
    names = (kind, event.name, body.get("object"))
    if any(isinstance(name, str) and re.search("([eE]rror|[eE]xception)$", name) for name in names):
        # Without words of its own, it is what it would be under another name.
        nameless = replace(event, name="", value=body | {"type": "", "object": ""})
        inside = ABSENT if words_of(flat) else error_of(nameless)
        return flat if inside is ABSENT or inside is None else inside
    if body.get("type"):
        return None if named_status({k: v for k, v in body.items() if k != "response"}) and words_of(body) else ABSENT
    for choice in choices_in(body):
        for place in (choice, choice.get("delta"), choice.get("message")):
            if isinstance(place, dict) and not is_fine(place.get("error")):
                return place["error"]
    base = body.get("base_resp")
    if isinstance(base, dict) and not is_fine(base.get("status_code")):
        return {"code": base["status_code"], "message": base.get("status_msg")}
    for key in ("x_groq", "data", "result"):
        if isinstance(body.get(key), dict) and not is_fine(body[key].get("error")):
            return body[key]["error"]
    for key, value in body.items():
        if (
            re.match("err(or)?s?($|_|M|C|T|m|c)|fault$|Error", key)
            and not is_fine(value)
            and not isinstance(value, bool)
        ):
            return value if key in ("errors", "fault", "Error") else flat
    if any(
        telling((c.get("delta") or c.get("message") or {}).values()) or c.get("finish_reason") for c in choices_in(body)
    ):
        return ABSENT
    for key, value in body.items():
        if key.endswith("Exception") and len(body) <= 3:
            return {"type": key} | value if isinstance(value, dict) else value  # AWS's
    if says_something(body.get("usage")) and not named_status({k: v for k, v in body.items() if k != "usage"}):
        return ABSENT
    says = any(words_of(body.get(key)) for key in body if plain(key) in WORDS)
    if named_status({key: value for key, value in body.items() if not isinstance(value, (dict, list))}):
        return flat
    if str(body.get("status")).lower() in ("error", "failed", "failure") or body.get("success") is False:
        return flat
    if says and ("code" in body and not is_fine(body["code"])):
        return flat
    inner = isinstance(body.get("detail"), (dict, list)) and bool(body["detail"])
    return (
        None
        if inner or (says and any(NAMES.search(spelled(body.get(k))) for k in ("name", "reason", "status")))
        else ABSENT
    )


def errors_in(said: list[Event]) -> list[Any]:
    """What the stream says of an error, each as one object (or text)."""
    return [error for event in said if (error := error_of(event)) is not ABSENT and error is not None]


def notices_in(kind: str, said: list[Event]) -> tuple[list[Any], bool]:
    """Words where a chunk should be; and whether they plainly are words."""
    sure: list[Any] = []
    unsure = False
    for event in said:
        body, texts = event.value, []
        if body is ABSENT and not event.is_piece and event.text != DONE and not is_keepalive(event.text):
            texts = [event.text.strip()]
        elif isinstance(body, str) and words_of(body):
            texts = [words_of(body)]
        elif isinstance(body, dict) and not is_known(kind, body, event.name):
            texts = [body] if words_of(body) else []
            unsure = unsure or any(isinstance(v, str) and v for k, v in body.items() if k not in ENVELOPE)
        elif isinstance(body, list) and words_of(body):
            unsure = True
        sure += texts
    return sure, unsure


def is_known(kind: str, body: dict[str, Any], name: str) -> bool:
    """Whether an object is a chunk, or an event with a type."""
    chunk = (
        any(body.get(key) for key in ("choices", "usage"))
        or "chunk" in str(body.get("object"))
        or "completion" in str(body.get("object"))
    )
    return chunk or bool(body.get("type") or name) or body.keys() <= {*ENVELOPE, "choices", "usage", "p"}


def is_legacy(said: list[Event]) -> bool:
    """Whether the chunks are those of legacy completions."""
    choices = [choice for chunk in objects(said) for choice in choices_in(chunk)]
    return bool(choices) and all("text" in c and "delta" not in c and "message" not in c for c in choices)


def foreign_to(kind: str, said: list[Event]) -> bool:
    """Whether most events are another API's."""
    names = [str(e.value.get("type") or e.name) for e in said if isinstance(e.value, dict)]
    chunks = [bool(choices_in(e.value)) for e in said if isinstance(e.value, dict)]
    api = {
        "responses": [name.startswith("response.") for name in names],
        "anthropic": [name.startswith(("message_", "content_block_")) for name in names],
        "chat": chunks,
    }
    own = "chat" if kind == "completions" else kind
    return any(2 * sum(found) >= len(names) > 0 and not any(api[own]) for name, found in api.items() if name != own)


def outcome_of(kind: str, stream: bytes, on_truncated: str = "error") -> Outcome:
    """What the client must get for these bytes."""
    said = events_of(stream)
    whole = parsed(stream.decode("utf-8-sig", "replace"))
    if isinstance(whole, dict) and not said_in_chunks(whole):
        error = error_of(Event("", "", whole))
        if error is ABSENT or error is None:
            return Whole(whole)
        # Labelled as JSON, it goes through as it came.
        return Either((Whole(whole), UpstreamError(statuses_of([error]), (error,))))
    if not said:
        return nothing(stream)
    if len(said) > 4 and all(event.bare and event.value is ABSENT for event in said):
        return Broken(("stream_malformed",))
    errors = errors_in(said)
    if errors:
        return UpstreamError(statuses_of(errors), tuple(errors))
    outcome = ended_outcome(kind, said, on_truncated)
    maybe = [event.text for event in said if error_of(event) is None]
    failed = UpstreamError(frozenset({*range(400, 600)}), ("",))
    return Either((outcome, failed)) if maybe else outcome


def said_in_chunks(body: dict[str, Any]) -> bool:
    """Whether a JSON body is one event, and no direct answer."""
    deltas = any("delta" in choice for choice in choices_in(body))
    return deltas or str(body.get("object")).endswith(".chunk") or "." in str(body.get("type"))


def ended_outcome(kind: str, said: list[Event], on_truncated: str) -> Outcome:
    """What a stream without an error in it gives."""
    done = said[-1].text.strip() == DONE
    words, unsure = notices_in(kind, said)
    hole = any(event.is_hole for event in said)
    if not any(isinstance(event.value, dict) for event in said):
        if words:
            failed = UpstreamError(frozenset({*range(400, 600)}), (words[0],))
            page = str(words[0]).lstrip().startswith("<")
            return Broken(("stream_malformed",)) if page else failed
        return Broken(("stream_corrupted", "stream_malformed", "stream_empty", "stream_truncated"))
    outcome = READERS[kind](said, done, on_truncated)
    if kind == "chat" and is_legacy(said):
        return Broken(("stream_malformed",))
    if isinstance(outcome, Broken) and foreign_to(kind, said):
        return Broken(("stream_malformed",))
    if words and said[-1].last and said[-1].value is ABSENT and isinstance(outcome, Broken) and len(words) < 2:
        return Either((outcome, UpstreamError(frozenset({502}), tuple(words))))  # half a word, or a word
    if words and (isinstance(outcome, Broken) or has_no_reason(kind, said)):
        failed = UpstreamError(statuses_of(words), tuple(words))
        return Either((outcome, failed)) if outcome == Broken(("stream_corrupted",)) else failed
    if kind == "responses":
        ends = [event for event in typed(said) if event["type"] in TERMINAL]
        # A terminal event with an output has all of what was lost, unless an item of it is empty, or is missing.
        outputs = [(event.get("response") or {}).get("output") for event in ends[:1]]
        items = [item for output in outputs if isinstance(output, list) for item in output if isinstance(item, dict)]
        is_empty = any("" in (item.get("arguments"), *(item.get("content") or [""])) for item in items)
        streamed = {brief(e.get("output_index")) for e in typed(said) if e["type"].startswith("response.output_item.")}
        if hole and items and (is_empty or len(items) < len(streamed)):
            outcome = Either((outcome, Broken(("stream_corrupted",))))
        hole = hole and not items
    if said[-1].last and said[-1].is_piece and isinstance(outcome, Whole) and on_truncated != "partial":
        # Cut in more content, after a finish reason; usage may be lost.
        cut: Outcome = Broken(("stream_truncated", "stream_corrupted"))
        more = re.search(r'"(?:content|text|arguments|reasoning|reasoning_content)":\s*"[^"\s]', said[-1].text)
        if words:
            cut = Either((cut, UpstreamError(statuses_of(words), tuple(words))))
        outcome = cut if more and kind in ("chat", "completions") else Either((outcome, cut))
    half_usage = any(e.is_piece and not (e.last or DONE.startswith(e.text.strip())) for e in said) and not hole
    if half_usage and kind in ("chat", "completions") and isinstance(outcome, Whole):
        return Either((outcome, Broken(("stream_corrupted",))))
    if hole and on_truncated != "partial":
        outcome = Broken(("stream_corrupted", *(outcome.codes if isinstance(outcome, Broken) else ())))
    if unsure and (isinstance(outcome, Broken) or has_no_reason(kind, said)):
        return Either((outcome, UpstreamError(frozenset({*range(400, 600)}), ("",))))
    return outcome


def has_no_reason(kind: str, said: list[Event]) -> bool:
    """Whether the stream has no finish reason of its own, so that one has to be inferred."""
    if kind == "responses":
        return not any(event["type"] in TERMINAL for event in typed(said))
    if kind == "anthropic":
        places = [place for event in typed(said) for place in (event, event.get("delta"), event.get("message"))]
        return not any(place.get("stop_reason") for place in places if isinstance(place, dict))
    return not all(own_reasons(pieces) for pieces in by_choice(objects(said)).values())


def nothing(stream: bytes) -> Broken:
    lines = [line for line in stream.removeprefix(b"\xef\xbb\xbf").splitlines() if line]
    known = [line.startswith(b":") or bool(FIELD.match(line.decode("utf-8", "replace"))) for line in lines]
    # A stream may have stopped within its first event.
    is_unfinished = lines and not lines[-1].startswith(b":") and not re.search(rb"(?:\r\n|\r|\n){2}\Z", stream)
    truncated = ("stream_truncated",) if is_unfinished else ()
    if all(known):
        return Broken(("stream_empty", *truncated))
    # The last line may be half of one.
    may_be_empty = ("stream_empty",) if all(known[:-1]) and known[:-1] else ()
    return Broken(("stream_malformed", *may_be_empty, *truncated))


def are_mixed(chunks: list[dict[str, Any]]) -> bool:
    """Whether one index stands for several choices: a chunk has two with it, and it has several finish reasons. With
    usage, a finish reason is often said again."""
    ends = [(chunk, choice) for chunk in chunks for choice in choices_in(chunk)]
    reasons = [choice.get("index") for chunk, choice in ends if own_reasons([choice]) and not chunk.get("usage")]
    twins = [[choice.get("index") for choice in choices_in(chunk)] for chunk in chunks]
    return any(
        index is not None and indexes.count(index) > 1 and reasons.count(index) > 1
        for indexes in twins
        for index in indexes
    )


def read_chunks(
    whole: Callable[[list[dict[str, Any]], bool], dict[str, Any]],
) -> Callable[[list[Event], bool, str], Outcome]:
    def read(said: list[Event], done: bool, on_truncated: str) -> Outcome:
        chunks = objects(said)
        choices = by_choice(chunks)
        if not choices:
            return Broken(("stream_empty",) if done else ("stream_truncated",))
        if are_mixed(chunks):
            return Broken(("stream_corrupted",))
        ended = done or (bool(choices) and all(own_reasons(pieces) for pieces in choices.values()))
        if ended or on_truncated == "partial":
            return Whole(whole(chunks, not ended))
        return Broken(("stream_truncated",))

    return read


def read_responses(said: list[Event], done: bool, on_truncated: str) -> Outcome:
    events = typed(said)
    if not any(event["type"] in TERMINAL for event in events):
        return Broken(("stream_truncated",))
    nameless = nameless_calls(events) if on_truncated != "partial" else []
    if not nameless:
        return Whole(response_of(events))
    broken, final = Broken(("stream_corrupted",)), json.dumps([e.get("response") for e in events], default=repr)
    there = all(json.dumps(text)[1:-1] in final for text in nameless)
    return Either((broken, Whole(response_of(events)))) if there else broken


def nameless_calls(events: list[dict[str, Any]]) -> list[str]:
    """What was streamed of calls of which nothing says the name: no item event, before the terminal one."""
    place = next(at for at, event in enumerate(events) if event["type"] in TERMINAL)
    loose = [slot for slot in slots_of(events[:place]) if not slot.item]
    calls = [(slot, *key) for slot in loose for key in slot.pieces if key[0] in ("arguments", "input")]
    return [slot.text(member, place) for slot, member, place in calls]


def is_unread(block: list[dict[str, Any]]) -> bool:
    """Whether the pieces of a tool's input are no JSON object."""
    deltas = [event.get("delta") or {} for event in block]
    pieces = [delta["partial_json"] for delta in deltas if delta.get("partial_json") not in (None, "")]
    if any(isinstance(piece, dict) for piece in pieces):
        return False
    started = [(event.get("content_block") or {}).get("input") for event in block]
    texts = [said_once(pieces), *(text for text in started if isinstance(text, str))]
    return any(text.strip() and not isinstance(parsed(text.strip()), dict | None) for text in texts)


def read_messages(said: list[Event], done: bool, on_truncated: str) -> Outcome:
    events = typed(said)
    kinds = {event["type"] for event in events}
    places = [place for e in events for place in (e, e.get("delta"), e.get("message")) if isinstance(place, dict)]
    reasons = telling(column(places, "stop_reason"))
    begun = kinds & {"message_start", "message", "content_block_start", "content_block_delta"}
    if begun and (kinds & {"message_stop", "message"} or reasons or done):
        limits = {"max_tokens", "model_context_window_exceeded"}
        if not limits & {*map(str, reasons)} and any(map(is_unread, blocks_in(events))):
            return Broken(("stream_corrupted",))
        return Whole(message_document(events))
    return Broken(("stream_truncated", "stream_empty") if kinds <= set(HEARTBEATS) else ("stream_truncated",))


def read_completions(said: list[Event], done: bool, on_truncated: str) -> Outcome:
    """Legacy completions; Mistral's /fim/completions speaks of chat messages, streamed and not."""
    choices = [choice for chunk in objects(said) for choice in choices_in(chunk)]
    spoken = any(telling((choice.get("delta") or choice.get("message") or {}).values()) for choice in choices)
    legacy = any("text" in choice for choice in choices) or not spoken
    reader = chunked("text_completion", text_choice) if legacy else chunked("chat.completion", chat_choice)
    return read_chunks(reader)(said, done, on_truncated)


READERS: Mapping[str, Callable[[list[Event], bool, str], Outcome]] = {
    "chat": read_chunks(chunked("chat.completion", chat_choice)),
    "completions": read_completions,
    "responses": read_responses,
    "anthropic": read_messages,
}
KINDS = tuple(READERS)


def judge(
    kind: str,
    stream: bytes,
    status: int,
    document: object,
    request: Mapping[str, Any] | None = None,
    on_truncated: str = "error",
) -> list[str]:
    """Every difference, in words, between what the client got and what the upstream's bytes say; none: it is right.

    Give the document as `parse` reads it and numbers are compared by spelling; as `json.loads` does, by value.
    """
    return judge_by(outcome_of(kind, stream, on_truncated), status, document, request)


def judge_by(expected: Outcome, status: int, document: object, request: Mapping[str, Any] | None = None) -> list[str]:
    match expected:
        case Either(outcomes):
            attempts = [judge_by(one, status, document, request) for one in outcomes]
            return min(attempts, key=len) if all(attempts) else []
        case Whole(tree):
            if status != 200:
                return [f"status: a complete answer should be 200, is {status}: {brief(document)}"]
            return differences(tree, document) + padding_in(document) + count_of(request, tree, document)
        case UpstreamError(statuses, said):
            wrong = (
                []
                if status in statuses
                else [f"status: the upstream's error should be {sorted(statuses)}, is {status}"]
            )
            return wrong + error_differences(said, document)
        case Broken(codes):
            error = document.get("error") if isinstance(document, dict) else None
            got = error.get("code") if isinstance(error, dict) else None
            return ([] if status == 502 else [f"status: should be 502 ({codes[0]}), is {status}"]) + (
                [] if got in codes else [f"$.error.code: should be {' or '.join(codes)}, is {brief(got)}"]
            )


def differences(tree: Any, document: object) -> list[str]:
    return compare("$", by_value(tree), document) if has_plain_numbers(document) else compare("$", tree, document)


def padding_in(document: Any, path: str = "$") -> list[str]:
    if isinstance(document, dict):
        mine = [f"{path}.{key}: padding in the answer" for key in document if key == "obfuscation"]
        return mine + [line for key, value in document.items() for line in padding_in(value, f"{path}.{key}")]
    if isinstance(document, list):
        return [line for place, value in enumerate(document) for line in padding_in(value, f"{path}[{place}]")]
    return []


def count_of(request: Mapping[str, Any] | None, tree: Any, document: Any) -> list[str]:
    """More choices than the request asked for can only come from splitting one."""
    wanted = (request or {}).get("n")
    if (
        not isinstance(wanted, int)
        or not isinstance(document, dict)
        or not isinstance((request or {}).get("messages"), list)
    ):
        return []
    got = len(document.get("choices") or [])
    return (
        [f"$.choices: {got} of them, {wanted} were asked for"]
        if got > max(wanted, len(tree.get("choices") or []))
        else []
    )


def error_differences(said: tuple[Any, ...], document: object) -> list[str]:
    """The answer's error must hold all that one of the stream's errors says, and what every client needs of one."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return [f"$.error: should be an object, is {brief(document)}"]
    missing = [] if isinstance(error.get("message"), str) and error["message"] else ["$.error.message: lost"]
    missing += [f"$.error.{key}: lost" for key in ("type", "param", "code") if key not in error]
    shown = json.dumps(by_value(document), ensure_ascii=False)
    attempts = [
        differences(
            {key: OneOf.of(value, *([ABSENT] if value is None else [])) for key, value in told(one).items()},
            {k: v for k, v in error.items() if k in told(one)},
        )
        if isinstance(one, dict)
        else (
            []
            if all(json.dumps(text, ensure_ascii=False)[1:-1] in shown for text in leaves(one))
            else [f"$.error: should say {brief(one)}"]
        )
        for one in said
    ]
    return missing + (min(attempts, key=len) if all(attempts) else [])


def told(error: dict[str, Any]) -> dict[str, Any]:
    """An error's members but for what stands in for one: a message that is no text, or none, a code that is none."""
    empty = [key for key in ("message", "type", "param", "code") if error.get(key) in NOTHING]
    other = [] if isinstance(error.get("message"), str) else ["message"]
    return {key: value for key, value in error.items() if key not in (*empty, *other)}


def leaves(value: Any) -> list[str]:
    """The texts and numbers in a value that is no object."""
    if isinstance(value, list):
        return [text for one in value for text in leaves(one)]
    if isinstance(value, dict):
        return [text for one in value.values() for text in leaves(one)]
    return [spelled(value).strip()]


# --- shapes: the same keys and types as a direct answer ------------------------------------------------------------


def shape(document: Any, path: str = "") -> dict[str, set[str]]:
    """Every path of the document with the JSON types found there; list entries share the path `x[]`."""
    kind = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}.get(
        type(document), "number"
    )
    below = (
        [shape(value, f"{path}.{key}" if path else key) for key, value in document.items()]
        if isinstance(document, dict)
        else [shape(value, f"{path}[]") for value in document]
        if isinstance(document, list)
        else []
    )
    paths = distinct(at for one in below for at in one)
    return {path: {kind}} | {at: set().union(*[one.get(at, set()) for one in below]) for at in paths}


# What a direct answer has and a stream of that upstream never says, whatever an aggregator does with it. `usage` is
# here for recorded requests without stream_options.include_usage.
NOT_STREAMED: Mapping[str, frozenset[str]] = {
    "ai21": frozenset({"choices[].message.tool_calls"}),
    "azure": frozenset(
        {
            "choices[].content_filter_results.hate",
            "choices[].content_filter_results.protected_material_code",
            "choices[].content_filter_results.protected_material_text",
            "choices[].content_filter_results.self_harm",
            "choices[].content_filter_results.sexual",
            "choices[].content_filter_results.violence",
            "choices[].message.annotations",
            "usage",
            "usage.latency_checkpoint",
        }
    ),
    "azure-ai": frozenset(
        {
            "choices[].content_filter_results.hate",
            "choices[].content_filter_results.protected_material_text",
            "choices[].content_filter_results.self_harm",
            "choices[].content_filter_results.sexual",
            "choices[].content_filter_results.violence",
            "choices[].message.annotations",
            "usage.latency_checkpoint",
        }
    ),
    "bedrock": frozenset(
        {
            "choices[].message.annotations",
            "choices[].message.audio",
            "usage.prompt_tokens_details.audio_tokens",
            "usage.prompt_tokens_details.cached_tokens",
        }
    ),
    "github-copilot": frozenset({"output_text"}),
    "groq": frozenset({"usage_breakdown"}),
    "huggingface": frozenset({"prompt", "service_tier", "usage.estimated_cost"}),
    "mistral": frozenset({"choices[].message.tool_calls"}),
    "ollama": frozenset({"choices[].message.annotations", "choices[].message.audio", "usage"}),
    "openai": frozenset({"billing", "choices[].message.annotations", "choices[].message.refusal", "usage"}),
    "openrouter": frozenset(
        {"choices[].logprobs", "choices[].message.reasoning", "choices[].message.refusal", "system_fingerprint"}
    ),
    "snowflake": frozenset(
        {"choices[].message.annotations", "choices[].message.audio", "choices[].message.function_call"}
    ),
    "together": frozenset({"prompt"}),
    "xai": frozenset({"choices[].message.refusal"}),
    "zai": frozenset({"request_id"}),
}

# Recordings whose direct answer is another server's (a hand-made stream, a proxy of its own): no shape to go by.
OTHER_SERVER = frozenset(
    {
        "chat-openai-completion-stream-multiple-choices-proxy-66596e",
        "responses-openai-does-not-misbehave-with-double-iteration-14f187",
    }
)

# Direct answers of some upstreams number their tool calls and repeat an empty delta: an answer of ours does neither.
LEFT_OUT = frozenset({"choices[].message.tool_calls[].index", "choices[].delta"})

# The stream and the direct answer are two samples of one request: what only one of them has because the model, or the
# gateway's route, happened to answer otherwise.
BY_CHANCE = frozenset(
    {
        "choices[].error",
        "choices[].message.reasoning_details[]",
        "choices[].message.reasoning_details[].summary",
        "choices[].message.provider_metadata.gateway.routing.attempts[].providerResponseId",
        "choices[].message.provider_metadata.gateway.routing.modelAttempts[].providerAttempts[].providerResponseId",
        "output[].summary[]",
    }
)


def only_direct(ours: Any, direct: Any) -> dict[str, set[str]]:
    """Paths, with their types, that the direct answer has and ours lacks though it has what they stand in."""
    mine, theirs = shape(ours), shape(direct)
    return {path: kinds for path, kinds in theirs.items() if path not in mine and parent(path) in mine}


def parent(path: str) -> str:
    return path[:-2] if path.endswith("[]") else path.rpartition(".")[0]


def missing_keys(provider: str, ours: Any, direct: Any, stream: bytes = b"") -> list[str]:
    """What the direct answer has, ours lacks, and nothing explains; what the stream did say is never explained away."""
    never = NOT_STREAMED.get(provider, frozenset()) - streamed_paths(stream)
    explained = never | LEFT_OUT | BY_CHANCE
    return [
        f"{path}: {'/'.join(sorted(kinds))} in the direct answer, not in ours"
        for path, kinds in only_direct(ours, direct).items()
        if path not in explained and not (path == "choices[].message.tool_calls" and kinds == {"array"})
    ]


def other_types(ours: Any, direct: Any) -> list[str]:
    """Paths that both answers have with no JSON type in common (null goes with every type)."""
    mine, theirs = shape(ours), shape(direct)
    said = {path: (mine[path] - {"null"}, theirs[path] - {"null"}) for path in mine if path in theirs}
    return [
        f"{path}: {one} here, {other} there" for path, (one, other) in said.items() if one and other and not one & other
    ]


def streamed_paths(stream: bytes) -> set[str]:
    """Paths that some event has a value at, named as the answer would name them."""
    found = [shape(value) for value in objects(events_of(stream))]
    named = [
        (re.sub(r"^response\.|(?<=choices\[\]\.)delta\b", rename, path), kinds)
        for one in found
        for path, kinds in one.items()
    ]
    return {path for path, kinds in named if kinds != {"null"}}


def rename(found: re.Match[str]) -> str:
    return "" if found[0] == "response." else "message"


def endpoint_of(entry: Mapping[str, Any]) -> str:
    """The endpoint of a recording, by its path where that is known: some are filed under their consumer's kind."""
    path = (entry.get("url_path") or "").partition("?")[0]
    legacy = path.endswith("/completions") and not path.endswith("/chat/completions")
    return "completions" if legacy else str(entry["kind"])
