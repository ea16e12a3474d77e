"""Whatever befalls one event of a stream, the answer is the whole one or an error; never another success.

The exceptions:

- An event that is lost whole leaves nothing to see: no reader of the events alone can tell.
- An unreadable event behind every choice's finish reason may have held the usage, which may then be missing.
- A notice (words that are no chunk) may be kept beside the answer, as further members of the document.
- The events of another API among an endpoint's own are one or the other: skipped, or an error.
- A stream that breaks off right behind a finish reason that was none looks as if it were whole.
"""

import json
import re
from collections.abc import Callable
from itertools import cycle, pairwise
from typing import Any

import pytest
from force_stream import AnswerSpec
from harness.golden import CASES, Case, parse
from harness.paths import GOLDEN
from hypothesis import assume, given
from hypothesis import strategies as st

type Outcome = tuple[int, Any]

STREAMS = {
    "chat": (
        "length_with_tool_calls_stays_length",
        "parallel_tool_calls_are_joined_by_index",
        "reasoning_content_is_joined",
        "refusal_is_joined",
        "thinking_blocks_are_joined",
        "tool_calls_of_two_choices_are_kept_apart",
        "usage_after_finish_reason_is_kept",
    ),
    "completions": ("text_is_joined", "logprobs_lists_are_one"),
    "messages": ("text_is_joined", "tool_input_is_joined", "thinking_and_its_signature_are_kept"),
    "responses": (
        "arguments_are_rebuilt_from_deltas",
        "empty_output_is_rebuilt_from_finished_items",
        "reasoning_text_and_a_call_as_openai_sends_them",
        "text_is_rebuilt_from_deltas",
    ),
    "transcriptions": ("text_missing_at_the_end_is_the_deltas",),
}
GOLDENS = [pytest.param(endpoint, name, id=f"{endpoint}-{name}") for endpoint in STREAMS for name in STREAMS[endpoint]]
CHUNKED = [one for one in GOLDENS if one.values[0] in ("chat", "completions")]
SIZES = st.just([10**9]) | st.lists(st.integers(1, 60), min_size=1, max_size=8)


def pieces_of(body: bytes, sizes: list[int]) -> list[bytes]:
    pieces, size = [], cycle(sizes)
    while body:
        end = next(size)
        pieces.append(body[:end])
        body = body[end:]
    return pieces


def read(stream: str, endpoint: str, sizes: list[int], cut: str = "") -> Outcome:
    """Status and document of a stream that comes in pieces of these sizes, over and over."""
    answer = AnswerSpec("law", endpoint).read(200, "text/event-stream")
    for piece in pieces_of(stream.encode(), sizes):
        answer.feed(piece)
    reply = answer.finish(cut)
    assert reply
    return reply.status, json.loads(reply.body)


def blocks_of(endpoint: str, name: str) -> list[str]:
    """The events of a golden stream, as they stand there, without its comment."""
    stream = (GOLDEN / endpoint / f"{name}.sse").read_text(encoding="utf-8")
    return [block for block in stream.split("\n\n") if "data:" in block]


def joined(blocks: list[str]) -> str:
    return "".join(f"{block}\n\n" for block in blocks)


def whole_of(blocks: list[str], endpoint: str) -> Any:
    status, document = read(joined(blocks), endpoint, [10**9])
    assert status == 200
    return document


def event(data: Any) -> str:
    kind = f"event: {data['type']}\n" if "type" in data else ""
    return f"{kind}data: {json.dumps(data)}"


def is_whole(outcome: Outcome, whole: Any, but: tuple[str, ...] = ()) -> bool:
    """Whether the outcome says all that the whole answer says, with or without further members of its own."""
    status, document = outcome
    return status == 200 and all(document.get(key) == value for key, value in whole.items() if key not in but)


def is_an_error(outcome: Outcome) -> bool:
    status, document = outcome
    return 400 <= status <= 599 and bool(document["error"]["message"])


# ---- an event that cannot be read


@pytest.mark.parametrize(("endpoint", "name"), GOLDENS)
@given(at=st.integers(0, 10**6), cut=st.integers(1, 10**6), ended=st.booleans(), sizes=SIZES)
def test_an_event_that_is_cut_leaves_no_hole(
    endpoint: str, name: str, at: int, cut: int, ended: bool, sizes: list[int]
) -> None:
    blocks = blocks_of(endpoint, name)
    whole = whole_of(blocks, endpoint)
    places = [place for place, block in enumerate(blocks) if "data: {" in block]
    place = places[at % len(places)]
    finishes = [number for number, block in enumerate(blocks) if re.search(r'"finish_reason": ?"', block)]
    is_behind_the_end = bool(finishes) and place > finishes[-1]
    head, data = blocks[place].split("data: ", 1)
    kept = data[: 1 + cut % (len(data) - 1)]
    broken = "".join(
        block + "\n\n" if number != place else f"{head}data: {kept}" + ("\n\n" if ended else "")
        for number, block in enumerate(blocks)
    )
    outcome = read(broken, endpoint, sizes)
    assert is_an_error(outcome) or is_whole(outcome, whole, but=("usage",) if is_behind_the_end else ()), broken


# ---- an event that can be read all the same

WELL_FRAMED = re.compile(r": [^\n]*\n\n((?:(?:event: [^\n]*\n)?data: (?:\{[^\n]*\}|\[DONE\])\n\n)+)")
FRAMED = [
    (case, found[1])
    for case in CASES
    if case.folder not in ("broken", "plain")
    and (found := WELL_FRAMED.fullmatch(case.stream.decode(errors="replace")))
    and "[DONE]" not in found[1].removesuffix("data: [DONE]\n\n")
]


def two_by_two(between: str) -> Callable[[list[str]], str]:
    return lambda data: "".join(
        f"data: {between.join(data[place : place + 2])}\n\n" for place in range(0, len(data), 2)
    )


FRAMINGS: dict[str, Callable[[list[str]], str]] = {
    "data: said twice": lambda data: "".join(f"data: data: {one}\n\n" for one in data),
    "a byte order mark before each event": lambda data: "".join(f"\ufeffdata: {one}\n\n" for one in data),
    "NULs before each event": lambda data: "".join(f"\0\0data: {one}\n\n" for one in data),
    "no data: at all": lambda data: "".join(f"{one}\n\n" for one in data),
    "lines of JSON": lambda data: "".join(f"{one}\n" for one in data),
    "two objects in an event": two_by_two(""),
    "two events on a line": two_by_two("data: "),
    "all events on a line": lambda data: f"data: {'data: '.join(data)}\n\n",
}


@given(
    chosen=st.sampled_from(FRAMED),
    name=st.sampled_from(list(FRAMINGS)),
    end=st.sampled_from(["\n", "\r\n"]),
    sizes=SIZES,
)
def test_a_framing_that_can_be_mended_changes_nothing(
    chosen: tuple[Case, str], name: str, end: str, sizes: list[int]
) -> None:
    case, events = chosen
    data = re.findall(r"^data: (.*)$", events, re.M)
    # What only an event line says is lost with it.
    assume("event:" not in events or all('"type"' in one for one in data if one != "[DONE]"))
    stream = FRAMINGS[name](data).replace("\n", end).encode()
    reply = case.read(pieces_of(stream, sizes))
    assert (reply.status, parse(reply.body)) == (200, case.expected), (case.path.stem, name)


# ---- an event that is no chunk

CHUNK = {"id": "z", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "zzz"}}]}
FOREIGN: dict[str, dict[str, Any]] = {
    "chat": CHUNK,
    "messages": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "zzz"}},
    "responses": {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "zzz"},
    "transcriptions": {"type": "transcript.text.delta", "delta": "zzz"},
    "images": {"type": "image_generation.completed", "b64_json": "zzz"},
    "gemini": {"candidates": [{"content": {"parts": [{"text": "zzz"}], "role": "model"}, "index": 0}]},
    "ollama": {"model": "z", "message": {"role": "assistant", "content": "zzz"}, "done": False},
}
# The APIs whose events an endpoint reads as its own: a dialect of transcriptions has chunks like chat's.
OWN = {"completions": ("chat",), "transcriptions": ("chat", "transcriptions")}
QUIET = ["null", "0", "123", "[]", ": keep-alive"]
NOTICES = [
    '{"message": "Your request is queued"}',
    '{"status": "processing"}',
    '{"type": "ping"}',
    '{"code": 0, "message": "success"}',
    '{"error": null}',
    '{"error": {"message": "", "code": null}}',
]
TEXT_NOTICES = ["Your request is queued", "正在排队"]


@pytest.mark.parametrize(("endpoint", "name"), GOLDENS)
@given(data=st.data(), at=st.integers(0, 10**6), sizes=SIZES)
def test_an_event_without_words_changes_nothing(
    endpoint: str, name: str, data: st.DataObject, at: int, sizes: list[int]
) -> None:
    blocks = blocks_of(endpoint, name)
    whole = whole_of(blocks, endpoint)
    blocks.insert(at % len(blocks), f"data: {data.draw(st.sampled_from(QUIET))}")
    assert read(joined(blocks), endpoint, sizes) == (200, whole)


@pytest.mark.parametrize(("endpoint", "name"), GOLDENS)
@given(data=st.data(), at=st.integers(0, 10**6), sizes=SIZES)
def test_a_notice_costs_nothing_of_the_answer(
    endpoint: str, name: str, data: st.DataObject, at: int, sizes: list[int]
) -> None:
    blocks = blocks_of(endpoint, name)
    whole = whole_of(blocks, endpoint)
    notice = data.draw(st.sampled_from(NOTICES + TEXT_NOTICES))
    blocks.insert(at % len(blocks), f"data: {notice}")
    outcome = read(joined(blocks), endpoint, sizes)
    # Words are the text of one dialect of transcriptions, so that they may make it unclear what the text is.
    is_unclear = endpoint == "transcriptions" and notice in TEXT_NOTICES and is_an_error(outcome)
    assert is_unclear or is_whole(outcome, whole), outcome


@pytest.mark.parametrize(("endpoint", "name"), GOLDENS)
@given(data=st.data(), at=st.integers(0, 10**6), sizes=SIZES)
def test_an_event_of_another_api_never_gets_into_the_answer(
    endpoint: str, name: str, data: st.DataObject, at: int, sizes: list[int]
) -> None:
    blocks = blocks_of(endpoint, name)
    whole = whole_of(blocks, endpoint)
    apis = [api for api in FOREIGN if api != endpoint and api not in OWN.get(endpoint, ())]
    blocks.insert(at % len(blocks), event(FOREIGN[data.draw(st.sampled_from(apis))]))
    outcome = read(joined(blocks), endpoint, sizes)
    assert is_an_error(outcome) or is_whole(outcome, whole), outcome


# ---- a finish reason that is no end


@pytest.mark.parametrize(("endpoint", "name"), CHUNKED)
@given(early=st.sets(st.integers(0, 20)), has_done=st.booleans(), sizes=SIZES)
def test_an_early_finish_reason_ends_nothing(
    endpoint: str, name: str, early: set[int], has_done: bool, sizes: list[int]
) -> None:
    blocks = [block for block in blocks_of(endpoint, name) if block != "data: [DONE]"]
    whole = whole_of(blocks, endpoint)
    for place in early & set(range(len(blocks))):
        chunk = json.loads(blocks[place].removeprefix("data: "))
        indexes = [choice["index"] for choice in chunk["choices"]]
        later = "".join(blocks[place + 1 :])
        for choice, index in zip(chunk["choices"], indexes, strict=True):
            # Only where the choice says its own reason later.
            if re.search(rf'"index": {index},[^\n]*"finish_reason": "', later):
                choice["finish_reason"] = choice["finish_reason"] or "stop"
        blocks[place] = f"data: {json.dumps(chunk)}"
    assert read(joined(blocks + ["data: [DONE]"] * has_done), endpoint, sizes) == (200, whole)


def says_something(block: str) -> bool:
    """Whether a chunk has text, a part or a piece of a call, and no finish reason."""
    [choice] = json.loads(block.removeprefix("data: "))["choices"] or [{}]
    said = choice.get("delta", choice)
    is_telling = any(value not in (None, "", []) for key, value in said.items() if key in TELLING)
    return is_telling and choice["finish_reason"] is None


TELLING = {"content", "refusal", "reasoning_content", "thinking_blocks", "tool_calls", "text"}
# Streams of one choice, whose text comes in several chunks.
ONE_CHOICE = [
    one
    for one in CHUNKED
    if one.values[1] not in ("tool_calls_of_two_choices_are_kept_apart", "length_with_tool_calls_stays_length")
]


@pytest.mark.parametrize(("endpoint", "name"), ONE_CHOICE)
@given(early=st.integers(0, 20), after=st.integers(0, 20), sizes=SIZES)
def test_a_stream_that_breaks_off_behind_an_early_finish_reason_is_not_whole(
    endpoint: str, name: str, early: int, after: int, sizes: list[int]
) -> None:
    blocks = [block for block in blocks_of(endpoint, name) if block != "data: [DONE]"]
    telling = [place for place, block in enumerate(blocks) if says_something(block)]
    place = early % telling[-1]
    later = [one for one in telling if one > place]
    chunk = json.loads(blocks[place].removeprefix("data: "))
    chunk["choices"][0]["finish_reason"] = "stop"
    kept = [*blocks[:place], f"data: {json.dumps(chunk)}", *blocks[place + 1 : later[after % len(later)] + 1]]
    assert is_an_error(read(joined(kept), endpoint, sizes, cut="the connection was reset")), kept


# ---- said again


def chat(*deltas: Any, reason: str = "stop") -> list[str]:
    def chunk(delta: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]}

    return [*(event(chunk(delta, None)) for delta in deltas), event(chunk({}, reason)), "data: [DONE]"]


def calls(pieces: list[str], *, names_again: bool) -> list[str]:
    names = {"id": "call_1", "type": "function"}
    deltas = []
    for number, piece in enumerate(pieces):
        is_named = number == 0 or (names_again and number == len(pieces) - 1)
        function = ({"name": "f"} if is_named else {}) | {"arguments": piece}
        deltas.append({"tool_calls": [{"index": 0, **(names if is_named else {}), "function": function}]})
    return chat(*deltas, reason="tool_calls")


def function_call(pieces: list[str], *, names_again: bool) -> list[str]:
    deltas: list[Any] = []
    for number, piece in enumerate(pieces):
        is_named = number == 0 or (names_again and number == len(pieces) - 1)
        deltas.append({"function_call": ({"name": "f"} if is_named else {}) | {"arguments": piece}})
    return chat(*deltas, reason="function_call")


def message(block: Any, deltas: list[Any], reason: str) -> list[str]:
    start = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {}}
    said = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    events = [
        {"type": "message_start", "message": start | {"stop_reason": None, "stop_sequence": None}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *said,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return [event(one) for one in events]


def tool_input(pieces: list[str], *, names_again: bool) -> list[str]:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    return message(block, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces], "tool_use")


def response(item: Any, kind: str, pieces: list[Any], **place: int) -> list[str]:
    head = {"id": "r", "object": "response", "created_at": 7, "model": "m", "output": []}
    at = {"output_index": 0, "item_id": item["id"], **place}
    events = [
        {"type": "response.created", "response": head | {"status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        *({"type": f"response.{kind}.delta", **at, "delta": piece} for piece in pieces),
        {"type": "response.completed", "response": head | {"status": "completed"}},
    ]
    return [event(one) for one in events]


def response_call(pieces: list[str], *, names_again: bool) -> list[str]:
    item = {"id": "f", "type": "function_call", "call_id": "c", "name": "f", "arguments": "", "status": "completed"}
    return response(item, "function_call_arguments", pieces)


CALLS = {
    "chat": [calls, function_call],
    "messages": [tool_input],
    "responses": [response_call],
}
CALL_FORMS = [pytest.param(endpoint, form, id=form.__name__) for endpoint in CALLS for form in CALLS[endpoint]]
ARGUMENTS = st.dictionaries(
    st.sampled_from(["a", "q", "}{"]), st.text('ab{}"1 ', max_size=4) | st.integers(), max_size=2
)


@st.composite
def split(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, none of them empty."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4)))
    bounds = [0, *(cut for cut in cuts if cut < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


@pytest.mark.parametrize(("endpoint", "form"), CALL_FORMS)
@given(data=st.data(), arguments=ARGUMENTS, names_again=st.booleans(), times=st.integers(1, 2), sizes=SIZES)
def test_whole_arguments_said_again_are_said_once(
    endpoint: str, form: Any, data: st.DataObject, arguments: Any, names_again: bool, times: int, sizes: list[int]
) -> None:
    text = json.dumps(arguments)
    pieces = data.draw(split(text))
    whole = whole_of(form(pieces, names_again=False), endpoint)
    again = form(pieces + [text] * times, names_again=names_again)
    assert read(joined(again), endpoint, sizes) == (200, whole)


@pytest.mark.parametrize(("endpoint", "form"), CALL_FORMS)
@given(data=st.data(), arguments=ARGUMENTS, names_again=st.booleans(), sizes=SIZES)
def test_cumulative_arguments_are_the_last(
    endpoint: str, form: Any, data: st.DataObject, arguments: Any, names_again: bool, sizes: list[int]
) -> None:
    pieces = data.draw(split(json.dumps(arguments)))
    whole = whole_of(form(pieces, names_again=False), endpoint)
    cumulative = ["".join(pieces[: number + 1]) for number in range(len(pieces))]
    assert read(joined(form(cumulative, names_again=names_again)), endpoint, sizes) == (200, whole)


def thinking(text: str, signature: str) -> Any:
    return {"thinking_blocks": [{"type": "thinking", "thinking": text, "signature": signature}]}


def nested_thinking(text: str, signature: str) -> Any:
    return {"provider_specific_fields": thinking(text, signature)}


def details(text: str, signature: str) -> Any:
    signed = {"signature": signature} if signature else {}
    said = {"text": text} if text else {}
    return {"reasoning_details": [{"type": "reasoning.text", "index": 0, "format": "f", **said, **signed}]}


@pytest.mark.parametrize("part", [thinking, nested_thinking, details])
@given(data=st.data(), texts=st.lists(st.text("ab. ", min_size=1, max_size=6), min_size=1, max_size=3), sizes=SIZES)
def test_a_signed_part_said_again_whole_is_said_once(
    part: Any, data: st.DataObject, texts: list[str], sizes: list[int]
) -> None:
    deltas, expected = [], []
    for number, text in enumerate(texts):
        signature = f"c2ln{number}"
        deltas += [part(piece, "") for piece in data.draw(split(text))]
        deltas.append(part(text if data.draw(st.booleans()) else "", signature))
        expected.append((text, signature))
    status, document = read(joined(chat(*deltas, {"content": "x"})), "chat", sizes)
    said = document["choices"][0]["message"]
    parts = said.get("provider_specific_fields", said)
    parts = parts.get("thinking_blocks") or parts["reasoning_details"]
    assert status == 200
    assert [(one.get("thinking", one.get("text")), one["signature"]) for one in parts] == expected


# ---- scalars where text belongs


def text_of_chat(field: str) -> Any:
    def form(pieces: list[Any]) -> list[str]:
        return chat(*({field: piece} for piece in pieces))

    return form


def arguments_of_chat(pieces: list[Any]) -> list[str]:
    return calls(pieces, names_again=False)


def legacy_text(pieces: list[Any]) -> list[str]:
    head = {"id": "c", "object": "text_completion", "created": 7, "model": "m"}
    said = [head | {"choices": [{"index": 0, "text": piece, "finish_reason": None}]} for piece in pieces]
    last = head | {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    return [*(event(one) for one in [*said, last]), "data: [DONE]"]


def text_of_a_message(pieces: list[Any]) -> list[str]:
    said = [{"type": "text_delta", "text": piece} for piece in pieces]
    return message({"type": "text", "text": ""}, said, "end_turn")


def text_of_a_response(pieces: list[Any]) -> list[str]:
    item = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": []}
    return response(item, "output_text", pieces, content_index=0)


def transcript(pieces: list[Any]) -> list[str]:
    said = [{"type": "transcript.text.delta", "delta": piece} for piece in pieces]
    return [event(one) for one in [*said, {"type": "transcript.text.done"}]]


TEXT_FORMS = [
    *(
        pytest.param("chat", text_of_chat(field), id=field)
        for field in ("content", "reasoning_content", "reasoning", "refusal")
    ),
    pytest.param("chat", arguments_of_chat, id="arguments"),
    pytest.param("completions", legacy_text, id="legacy text"),
    pytest.param("messages", text_of_a_message, id="messages"),
    pytest.param("responses", text_of_a_response, id="responses"),
    pytest.param("transcriptions", transcript, id="transcriptions"),
]
SCALARS = ["6", "0", "-3", "0.50", "1e5", "true", "false", "12345678901234567890"]
PIECES = st.lists(st.tuples(st.sampled_from([*SCALARS, "a ", " costs $", "."]), st.booleans()), min_size=1, max_size=6)


@pytest.mark.parametrize(("endpoint", "form"), TEXT_FORMS)
@given(pieces=PIECES, sizes=SIZES)
def test_a_scalar_is_the_text_that_it_spells(
    endpoint: str, form: Any, pieces: list[tuple[str, bool]], sizes: list[int]
) -> None:
    whole = whole_of(form([text for text, _ in pieces]), endpoint)
    marked = joined(form([f"@{text}@" if is_bare and text in SCALARS else text for text, is_bare in pieces]))
    bare = re.sub(r'"@([^@"]*)@"', r"\1", marked)
    assert read(bare, endpoint, sizes) == (200, whole), bare
