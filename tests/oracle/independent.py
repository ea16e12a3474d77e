"""A second, independent reading of an upstream's event stream: what must be in the one JSON answer.

It knows the outcomes and merge rules that users rely on, and nothing of how the addon reaches them: it shares no code
with it and is written the other way round, whole lists at a time instead of event by event. `judge` takes the bytes
that an upstream sent and the answer that a client got, and says in words where the answer is wrong.

An expectation is a JSON tree whose leaves may be `OneOf` (several answers are defensible) or `Has` (a predicate);
`ABSENT` among the choices lets the key be missing. A key that no event had and that is no constant of the format is a
difference. What is defensible is decided field by field: a choice is offered only where no rule decides.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
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
FIELD = re.compile(r" ?(data|event|error|id|retry)(?:: ?(.*)|)\Z", re.DOTALL)
HEARTBEATS = ("ping", "keepalive")


@dataclass(frozen=True)
class Event:
    """A server-sent event: `name` from its event line, `value` the JSON of its data (ABSENT where that is none)."""

    name: str
    text: str
    value: Any


def events_of(stream: bytes) -> list[Event]:
    """Every event with data, in order, up to [DONE]; an event may lack its blank line, and data its space."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [FIELD.match(line) if line else None for line in re.split("\r\n|\r|\n", text) if not line.startswith(":")]
    blocks = [[m.groups() for m in block if m] for some, block in groupby(lines, key=bool) if some]
    found = [event for block in blocks for event in events_in(block)]
    ends = [place for place, event in enumerate(found) if event.text.strip() == DONE]
    return found[: ends[0] + 1] if ends else found


def events_in(block: Sequence[tuple[Any, ...]]) -> list[Event]:
    """A block is one event, its data lines joined; if they are no JSON together, each line is an event of its own."""
    data = [value or "" for field, value in block if field == "data"]
    faults = [Event("error", value or "", parsed(value or "")) for field, value in block if field == "error"]
    names = [value or "" for field, value in block if field == "event"]
    whole = "\n".join(data)
    if len(data) == 1 or (data and parsed(whole) is not ABSENT):
        return [Event(names[-1] if names else "", whole, parsed(whole)), *faults]
    each = [
        Event(next((v or "" for f, v in reversed(block[:place]) if f == "event"), ""), value or "", parsed(value or ""))
        for place, (field, value) in enumerate(block)
        if field == "data"
    ]
    return each + faults


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


def text_of(values: list[Any]) -> Any:
    """Fragments, joined; "" if only that was said, null if only that was."""
    return "".join(v for v in values if isinstance(v, str)) or placeholder(values)


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
    if isinstance(usage, dict):
        return any(map(says_something, usage.values()))
    if isinstance(usage, Number):
        return float(usage.text) != 0
    return usage not in NOTHING


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
        (int(index.text) if isinstance(index := choice.get("index"), Number) else place, choice)
        for chunk in chunks
        for place, choice in enumerate(choices_in(chunk))
    ]
    return {index: [choice for at, choice in placed if at == index] for index in sorted({at for at, _ in placed})}


def own_reasons(pieces: list[dict[str, Any]]) -> list[str]:
    return [reason for reason in column(pieces, "finish_reason") if reason not in (None, "", "null")]


def finish_reason(pieces: list[dict[str, Any]], message: Mapping[str, Any], partial: bool) -> Any:
    said = own_reasons(pieces)
    final = [reason for reason in said if reason in ("length", "content_filter")]
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
    bare = [[{"type": "text", "text": value}] if isinstance(value, str) and value else value for value in values]
    parts = [part for value in bare if isinstance(value, list) for part in value]
    return [whole for kind, run in groupby(parts, key=lambda part: part.get("type")) for whole in joined(kind, [*run])]


def joined(kind: Any, run: list[dict[str, Any]]) -> list[Any]:
    if kind not in ("text", "thinking"):
        return run
    return [fields(run, {"type": first_of, "text": text_of, "thinking": thinking_of}, pieces=False)]


def thinking_of(values: list[Any]) -> Any:
    return content_of(values) if any(isinstance(value, list) and value for value in values) else text_of(values)


def reasoning_details_of(values: list[Any]) -> Any:
    """Entries with one index and one type are one entry; entries without an index stand for themselves."""
    entries = [entry for value in values if isinstance(value, list) for entry in value]
    marks = [
        (entry["index"], entry.get("type")) if entry.get("index") is not None else place
        for place, entry in enumerate(entries)
    ]
    rules = {"text": text_of, "summary": text_of, "type": first_of, "id": first_of, "format": first_of}
    return [
        fields([entry for entry, at in zip(entries, marks, strict=True) if at == mark], rules, pieces=False)
        for mark in distinct(marks)
    ] or placeholder(values)


def name_of(values: list[Any]) -> Any:
    """A name in fragments, or said again whole: what is already the whole name is not said twice."""
    whole = ""
    for value in telling(values):
        whole = whole if value == whole else whole + value
    return whole or placeholder(values)


def arguments_of(values: list[Any]) -> Any:
    spelled = [value for value in values if isinstance(value, dict)]
    if not spelled:
        return "".join(value for value in values if isinstance(value, str))  # a string in every direct answer
    return Has(
        lambda got: [] if isinstance(got, str) and parsed(got) == spelled[-1] else [f"not the arguments: {brief(got)}"],
        json.dumps(spelled[-1], default=lambda number: json.loads(number.text)),
    )


def function_of(values: list[Any]) -> Any:
    rows = [value for value in values if isinstance(value, dict)]
    rules = {"name": name_of, "arguments": arguments_of, "input": text_of}
    return fields(rows, rules, pieces=False) if rows else placeholder(values)


def calls_in(fragments: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The fragments of each call, calls by index (first come first where there is none or it is used again)."""
    calls: list[list[dict[str, Any]]] = []
    for piece in fragments:
        inner = piece.get("function") or piece.get("custom") or {}
        ident, name, index = piece.get("id") or None, inner.get("name") or None, piece.get("index")
        near = calls if index is None else [call for call in calls if call[0].get("index") == index]
        known = [call for call in near if ident is not None and ident in column(call, "id")]
        new = name and (ident is not None or (index is None and name not in [example(call_name(c)) for c in near[-1:]]))
        if known:
            known[-1].append(piece)
        elif near and not new:
            near[-1].append(piece)
        elif ident is not None or name:
            calls.append([piece])
    return sorted(calls, key=lambda call: place_of(call[0].get("index")))


def place_of(index: Any) -> int:
    return int(index.text) if isinstance(index, Number) else 0


def call_name(call: list[dict[str, Any]]) -> Any:
    return name_of(
        [name for piece in call for name in column([piece.get("function") or piece.get("custom") or {}], "name")]
    )


def tool_calls_of(values: list[Any]) -> Any:
    fragments = [piece for value in values if isinstance(value, list) for piece in value]
    if not fragments:
        return placeholder(values)
    rules = {"id": first_of, "type": first_of, "function": function_of, "custom": function_of}
    whole = [
        {"type": "function"} | {key: value for key, value in fields(call, rules, pieces=True).items() if key != "index"}
        for call in calls_in(fragments)
    ]
    named = [call | ({"type": "function"} if example(call["type"]) in NOTHING else {}) for call in whole]
    return named or OneOf(([], None, ABSENT))


def audio_of(values: list[Any]) -> Any:
    rows = [value for value in values if isinstance(value, dict)]
    rules = {"id": first_of, "data": text_of, "transcript": text_of}
    return fields(rows, rules, pieces=False) if rows else placeholder(values)


MESSAGE: Mapping[str, Callable[[list[Any]], Any]] = {
    "role": first_of,
    "content": content_of,
    "refusal": text_of,
    "reasoning": text_of,
    "reasoning_content": text_of,
    "reasoning_text": text_of,
    "reasoning_details": reasoning_details_of,
    "tool_calls": tool_calls_of,
    "function_call": function_of,
    "audio": audio_of,
}


def message_of(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The deltas' message; a whole `message` beside them speaks only where no delta said anything."""
    deltas = [delta for delta in column(pieces, "delta") if isinstance(delta, dict)]
    wholes = [message for message in column(pieces, "message") if isinstance(message, dict)]
    built = {"role": "assistant", "content": None} | fields(deltas, MESSAGE, pieces=True)
    latest = {key: fields([wholes[-1]], MESSAGE, pieces=True)[key] for key in (wholes[-1] if wholes else {})}
    silent = {key: value for key, value in latest.items() if not telling(column(deltas, key))}
    spoken = {key: value for key, value in silent.items() if telling([example(value)])}
    hushed = {
        key: OneOf.of(*spread(built[key]), *spread(value)) if key in built else OneOf.of(*spread(value), ABSENT)
        for key, value in silent.items()
        if key not in spoken
    }
    built |= spoken | hushed
    return built | ({"role": "assistant"} if example(built["role"]) in NOTHING else {})


def spread(value: Any) -> tuple[Any, ...]:
    return value.values if isinstance(value, OneOf) else (value,)


def chat_choice(index: int, pieces: list[dict[str, Any]], partial: bool) -> dict[str, Any]:
    message = message_of(pieces)
    rest = [{k: v for k, v in piece.items() if k not in ("delta", "message", "usage", "index")} for piece in pieces]
    known = {"logprobs": logprobs_of, "finish_reason": lambda _: None}
    extra = fields(rest, known, pieces=False)
    # Together and the Hugging Face router repeat delta.content as choices[].text, token by token.
    repeats = {"text": OneOf.of(ABSENT, text_of(column(rest, "text")))} if "text" in extra else {}
    finish = finish_reason(pieces, message, partial)
    return {"index": Number(str(index)), "message": message} | extra | repeats | {"finish_reason": finish}


def text_choice(index: int, pieces: list[dict[str, Any]], partial: bool) -> dict[str, Any]:
    rest = [{k: v for k, v in piece.items() if k not in ("delta", "usage", "index")} for piece in pieces]
    known = {"logprobs": logprobs_of, "finish_reason": lambda _: None, "text": text_of}
    extra = fields(rest, known, pieces=False)
    text = extra.pop("text", OneOf(("", None, ABSENT)))
    return {"index": Number(str(index)), "text": text} | extra | {"finish_reason": finish_reason(pieces, {}, partial)}


def chunked(
    constant: str, choice_of: Callable[[int, list[dict[str, Any]], bool], dict[str, Any]]
) -> Callable[[list[dict[str, Any]], bool], dict[str, Any]]:
    """A reader of chunks with choices: the whole document from all chunks."""

    def whole(chunks: list[dict[str, Any]], partial: bool) -> dict[str, Any]:
        rest = [{k: v for k, v in c.items() if k not in ("choices", "object", "usage", "p", "x_groq")} for c in chunks]
        groq = [{k: v for k, v in g.items() if k != "usage"} for g in column(chunks, "x_groq") if isinstance(g, dict)]
        top = fields(rest, {"id": first_of, "model": first_of, "created": first_of}, pieces=False)
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

TERMINAL = ("response.completed", "response.incomplete", "response.done")
FAILED = ("response.failed", "response.error", "error")


def typed(events: list[Event]) -> list[dict[str, Any]]:
    """Events of a typed stream; the event line names those whose data does not."""
    return [{"type": e.name} | e.value for e in events if isinstance(e.value, dict) and e.name not in HEARTBEATS]


def response_of(said: list[dict[str, Any]]) -> dict[str, Any]:
    """The first terminal event's response; an output that it lacks, from the item events before it."""
    place = next(at for at, event in enumerate(said) if event["type"] in TERMINAL)
    final = said[place].get("response") or {}
    early = [event["response"] for event in said[:place] if isinstance(event.get("response"), dict)]
    filled = {key: OneOf((ABSENT, *distinct(column(early, key)))) for key in keys_of(early) if key not in final}
    # GitHub Copilot's terminal event has copilot_usage beside its response; its direct answer has it at the top.
    beside = {k: v for k, v in said[place].items() if k not in ("type", "response", "sequence_number", *PADDING)}
    constant = {"object": OneOf(("response", ABSENT))}
    output = [drawn(item) for item in final["output"]] if final.get("output") else output_of(said[:place])
    return constant | filled | beside | final | {"output": output}


def drawn(item: Any) -> Any:
    """An image that is there is completed, whatever its call still says: Azure's direct answer to that has it so."""
    drawing = isinstance(item, dict) and item.get("type") == "image_generation_call" and item.get("result")
    return item | {"status": "completed"} if drawing else item


def output_of(said: list[dict[str, Any]]) -> Any:
    finished = [event for event in said if event["type"] == "response.output_item.done"]
    places = distinct(event.get("output_index") for event in finished)
    last = {at: [event for event in finished if event.get("output_index") == at][-1]["item"] for at in places}
    items = [drawn(last[at]) for at in sorted(places, key=place_of)]
    spoken = [e for e in said if isinstance(e.get("delta"), str) and e.get("output_index") not in places]
    streams = distinct(
        (e["type"], e.get("output_index"), e.get("content_index"), e.get("summary_index")) for e in spoken
    )
    texts = [
        "".join(
            e["delta"]
            for e in spoken
            if mark == (e["type"], *map(e.get, ("output_index", "content_index", "summary_index")))
        )
        for mark in streams
    ]
    # A refusal or text of which only the `done` event came: it may be in the answer, it need not.
    loose = [e for e in said if e["type"] in ("response.refusal.done", "response.output_text.done") and not places]
    if not texts and not loose:
        return items

    def differences(output: Any) -> list[str]:
        shown = json.dumps(output, default=repr)
        counts = {text: shown.count(json.dumps(text)[1:-1]) for text in texts}
        return (
            [f"lost the item {brief(item)}" for item in items if item not in (output or [])]
            + [f"{count} times instead of once: {brief(text)}" for text, count in counts.items() if count != 1]
            + ([] if isinstance(output, list) else ["no list"])
        )

    words = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return Has(differences, items + [{"type": "message", "role": "assistant", "content": words} for _ in texts[:1]])


# --- messages -------------------------------------------------------------------------------------------------------

GROWS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
}


def message_document(said: list[dict[str, Any]]) -> dict[str, Any]:
    """Anthropic's message: the first start's message, its content blocks, and what the message deltas lay over it."""
    ends = [at for at, event in enumerate(said) if event["type"] == "message_stop"]
    mine = said[: ends[0]] if ends else said
    start: dict[str, Any] = next((event["message"] for event in mine if event["type"] == "message_start"), {})
    overlays = [event for event in mine if event["type"] == "message_delta"]
    deltas = [event.get("delta") or {} for event in overlays]
    usages = [usage for usage in [start.get("usage"), *column(deltas, "usage"), *column(overlays, "usage")] if usage]
    top = [{k: v for k, v in event.items() if k not in ("type", "delta", "usage")} for event in overlays]
    laid = {key: column([*deltas, *top], key)[-1] for key in keys_of([*deltas, *top]) if key != "usage"}
    usage = {"usage": {key: overlaid(column(usages, key)) for key in keys_of(usages)}} if usages else {}
    constants = {"type": "message", "role": "assistant"}
    return constants | start | laid | usage | {"content": [block_of(block) for block in blocks_in(mine)]}


def blocks_in(said: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The events of each content block in index order; an index used again after its stop is another block."""
    blocks: list[list[dict[str, Any]]] = []
    for event in said:
        if not event["type"].startswith("content_block_"):
            continue
        same = [block for block in blocks if block[0].get("index") == event.get("index")]
        stopped = bool(same) and same[-1][-1]["type"] == "content_block_stop"
        if same and not (stopped and event["type"] == "content_block_start"):
            same[-1].append(event)
        elif event["type"] != "content_block_stop":
            blocks.append([event])
    return sorted(blocks, key=lambda block: place_of(block[0].get("index")))


def overlaid(values: list[Any]) -> Any:
    """Cumulative counts: the last said, but a null or a zero does not undo a number."""
    real = [value for value in values if says_something(value)]
    return OneOf.of(real[-1], values[-1]) if real else OneOf.of(*reversed(values))


# Blocks whose input is an object, also where a call has no arguments and nothing said so (llama.cpp's direct answer).
CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
UNANNOUNCED = {"thinking_delta": "thinking", "signature_delta": "thinking", "input_json_delta": "tool_use"}


def block_of(said: list[dict[str, Any]]) -> dict[str, Any]:
    """One block as it was last started, with the deltas since; its type is its deltas' where it never was."""
    starts = [at for at, event in enumerate(said) if event["type"] == "content_block_start"]
    begin = starts[-1] if starts else 0
    deltas = [event["delta"] for event in said[begin:] if event["type"] == "content_block_delta"]
    kind = UNANNOUNCED.get(deltas[0].get("type"), "text") if deltas else "text"
    block: dict[str, Any] = said[begin]["content_block"] if starts else {"type": kind}
    block = ({"input": {}} if block.get("type") in CALLS else {}) | block
    grown = {
        field: "".join([*[text for _ in "x" if isinstance(text := block.get(field), str)], *pieces])
        for kind, field in GROWS.items()
        if (pieces := [d[field] for d in deltas if d.get("type") == kind and isinstance(d.get(field), str)])
    }
    spelled = grown.pop("partial_json", "")
    cited = [d["citation"] for d in deltas if d.get("type") == "citations_delta"]
    # A compaction's encrypted text comes beside its text.
    beside = {k: v for d in deltas if d.get("type") == "compaction_delta" for k, v in d.items() if k != "type"}
    citations = {"citations": [*(block.get("citations") or []), *cited]} if cited else {}
    # Cut by max_tokens, the pieces are no JSON: then nobody can say what the input is.
    told = parsed(spelled) if spelled else block.get("input")
    return (
        block
        | beside
        | grown
        | citations
        | ({"input": Has(lambda _: [], spelled) if told is ABSENT else told} if spelled else {})
    )


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


Outcome = Whole | UpstreamError | Broken

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


def named_status(error: Any) -> int | None:
    """A 4xx or 5xx number that the error itself has."""
    numbers = (
        [error.get(key) for key in ("status", "status_code", "code", "http_status")] if isinstance(error, dict) else []
    )
    spelled = [number.text if isinstance(number, Number) else number for number in numbers]
    return next((int(n) for n in spelled if isinstance(n, str) and re.fullmatch("[45][0-9][0-9]", n)), None)


def statuses_of(errors: list[Any]) -> frozenset[int]:
    """Statuses that are right for these errors of one stream."""
    numbers = {status for error in errors if (status := named_status(error))}
    words = [error.get(key) for error in errors if isinstance(error, dict) for key in ("code", "type")]
    certain = {CERTAIN[word] for word in words if isinstance(word, str) and word in CERTAIN}
    maybe = {SUGGESTED[word] for word in words if isinstance(word, str) and word in SUGGESTED}
    sure = numbers or certain
    # Several errors in one stream need not agree: the first may name no status and a later one may.
    every = all(named_status(e) or (isinstance(e, dict) and e.get("code") in CERTAIN) for e in errors)
    return frozenset(sure if sure and every else sure | maybe | {502})


def errors_in(said: list[Event]) -> list[Any]:
    """What the stream says of an error, each as one object (or text)."""
    found: list[Any] = []
    for event in said:
        value = event.value if event.value is not ABSENT else event.text
        body = value if isinstance(value, dict) else {}
        kind = body.get("type") or event.name
        base = body.get("base_resp")
        if kind in ("response.failed", "response.error"):
            found.append((body.get("response") or body).get("error") or {})
        elif body.get("error"):
            found.append(body["error"])
        elif kind == "error" or body.get("object") == "error":
            found.append({k: v for k, v in body.items() if k not in ("type", "sequence_number")} if body else value)
        elif isinstance(base, dict) and base.get("status_code") not in (None, Number("0")):
            found.append(base)
    return found


def outcome_of(kind: str, stream: bytes, on_truncated: str = "error") -> Outcome:
    """What the client must get for these bytes."""
    said = events_of(stream)
    if not said:
        body = parsed(stream.decode("utf-8", "replace"))
        return Whole(body) if isinstance(body, dict) else nothing(stream)
    done = said[-1].text.strip() == DONE
    ends = [at for at, event in enumerate(typed(said)) if event["type"] in TERMINAL]
    errors = [] if kind == "responses" and ends else errors_in(said)
    if errors:
        return UpstreamError(statuses_of(errors), tuple(errors))
    if not any(isinstance(event.value, dict) for event in said):
        return Broken(("stream_malformed", "stream_empty", "stream_truncated"))
    return READERS[kind](said, done, on_truncated)


def nothing(stream: bytes) -> Broken:
    comments = all(
        not line or line.startswith(b":") or FIELD.match(line.decode("utf-8", "replace"))
        for line in stream.splitlines()
    )
    return Broken(("stream_empty",) if comments else ("stream_malformed",))


def read_chunks(
    whole: Callable[[list[dict[str, Any]], bool], dict[str, Any]],
) -> Callable[[list[Event], bool, str], Outcome]:
    def read(said: list[Event], done: bool, on_truncated: str) -> Outcome:
        chunks = objects(said)
        choices = by_choice(chunks)
        ended = done or (bool(choices) and all(own_reasons(pieces) for pieces in choices.values()))
        if ended or on_truncated == "partial":
            return Whole(whole(chunks, not ended))
        return Broken(("stream_truncated",))

    return read


def read_responses(said: list[Event], done: bool, on_truncated: str) -> Outcome:
    events = typed(said)
    if any(event["type"] in TERMINAL for event in events):
        return Whole(response_of(events))
    return Broken(("stream_truncated",))


def is_unread(block: list[dict[str, Any]]) -> bool:
    """Whether the pieces of a tool's input are no JSON."""
    deltas = [event.get("delta") or {} for event in block]
    spelled = "".join(d["partial_json"] for d in deltas if isinstance(d.get("partial_json"), str))
    return bool(spelled) and parsed(spelled) is ABSENT


def read_messages(said: list[Event], done: bool, on_truncated: str) -> Outcome:
    events = typed(said)
    kinds = {event["type"] for event in events}
    reasons = [(event.get("delta") or {}).get("stop_reason") for event in events if event["type"] == "message_delta"]
    if "message_start" in kinds and ("message_stop" in kinds or telling(reasons)):
        if "max_tokens" not in reasons and any(map(is_unread, blocks_in(events))):
            return Broken(("stream_corrupted",))
        return Whole(message_document(events))
    return Broken(("stream_truncated", "stream_empty") if kinds <= set(HEARTBEATS) else ("stream_truncated",))


def read_completions(said: list[Event], done: bool, on_truncated: str) -> Outcome:
    """Legacy completions; Mistral's /fim/completions speaks of chat messages, streamed and not."""
    choices = [choice for chunk in objects(said) for choice in choices_in(chunk)]
    spoken = any(telling((choice.get("delta") or {}).values()) for choice in choices)
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
    expected = outcome_of(kind, stream, on_truncated)
    match expected:
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
    """The answer's error must hold all that one of the stream's errors says, and a message in any case."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return [f"$.error: should be an object, is {brief(document)}"]
    missing = [] if isinstance(error.get("message"), str) and error["message"] else ["$.error.message: lost"]
    attempts = [
        differences(
            {key: OneOf.of(value, *([ABSENT] if value is None else [])) for key, value in one.items()},
            {k: v for k, v in error.items() if k in one},
        )
        if isinstance(one, dict)
        else ([] if one in (error.get("message") or "") else [f"$.error.message: should say {brief(one)}"])
        for one in said
    ]
    return missing + (min(attempts, key=len) if all(attempts) else [])


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
