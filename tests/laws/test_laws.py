"""What holds for every event stream, whatever is in it."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from force_stream import AnswerSpec, Reply, aggregate
from force_stream.answer.quirks import QUIRKS
from force_stream.endpoints import ENDPOINTS
from harness.merging import interleave
from hypothesis import assume, given
from hypothesis import strategies as st

ANY_ENDPOINT = pytest.mark.parametrize("endpoint", list(ENDPOINTS))


def parse(reply: Reply) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(reply.body, parse_constant=refuse)


def read(pieces: list[bytes], endpoint: str, cut: str = "", status: int = 200, **spec: Any) -> tuple[int, Any] | None:
    """Status and document for a body that comes in these pieces; None where the body goes on as it came."""
    answer = AnswerSpec("law", endpoint, **spec).read(status)
    for piece in pieces:
        answer.feed(piece)
    reply = answer.finish(cut)
    return (reply.status, parse(reply)) if reply else None


def outcome(stream: bytes, endpoint: str) -> tuple[int, Any]:
    reply = aggregate(stream, endpoint)
    return reply.status, parse(reply)


# ---- streams: events with random JSON in every field that means something

INDEXES = st.sampled_from([0, 0, 0, 1, 2, None, "1", -1, True, 10**12])
TEXTS = st.text(st.characters(codec=None, exclude_characters="\r\n"), max_size=4) | st.sampled_from(
    [
        "",
        "stop",
        "length",
        "tool_calls",
        "null",
        "error",
        "tool",
        "assistant",
        "text",
        "function",
        "call_1",
        "{}",
        '{"a":',
        "=",
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**20) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def objects(required: dict[str, Any] | None = None, **fields: Any) -> st.SearchStrategy[Any]:
    """Objects with some of these fields, each of its own kind or of any other, and sometimes no object at all."""
    own = {key: value | JSON for key, value in fields.items()}
    return st.fixed_dictionaries(required or {}, optional=own)


FUNCTIONS = objects(name=TEXTS, arguments=TEXTS)
CALLS = objects(index=INDEXES, id=TEXTS, type=TEXTS, function=FUNCTIONS, custom=objects(name=TEXTS, input=TEXTS))
PARTS = objects(
    type=st.sampled_from(["text", "thinking"]),
    text=TEXTS,
    thinking=st.lists(objects(type=TEXTS, text=TEXTS), max_size=2),
)
DELTAS = objects(
    role=TEXTS,
    content=TEXTS | st.lists(PARTS, max_size=2),
    refusal=TEXTS,
    reasoning_content=TEXTS,
    reasoning=TEXTS,
    reasoning_details=st.lists(objects(index=INDEXES, type=TEXTS, text=TEXTS, id=TEXTS), max_size=2),
    tool_calls=st.lists(CALLS | JSON, max_size=3),
    function_call=FUNCTIONS,
    audio=objects(id=TEXTS, data=TEXTS, transcript=TEXTS),
    annotations=st.lists(JSON, max_size=2),
    novel=JSON,
)
LOGPROBS = objects(
    content=st.lists(JSON, max_size=2), refusal=st.lists(JSON, max_size=2), tokens=st.lists(TEXTS, max_size=2)
)
CHOICES = objects(
    index=INDEXES,
    delta=DELTAS,
    message=DELTAS,
    text=TEXTS,
    logprobs=LOGPROBS,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "", "null"]),
    usage=JSON,
)
CHUNKS = objects(
    id=TEXTS,
    object=TEXTS,
    created=JSON,
    model=TEXTS,
    choices=st.lists(CHOICES | JSON, max_size=3),
    usage=objects(total_tokens=st.integers()),
    x_groq=JSON,
    error=JSON,
    value=TEXTS,
    type=TEXTS,
    base_resp=JSON,
    novel=JSON,
)
KINDS = [
    "response.created",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.added",
    "response.reasoning_summary_part.done",
    *(
        f"response.{name}.{what}"
        for name in (
            "output_text",
            "refusal",
            "reasoning_text",
            "reasoning_summary_text",
            "function_call_arguments",
            "shell_call_command",
            "apply_patch_call_operation_diff",
        )
        for what in ("delta", "done")
    ),
    "response.output_text.annotation.added",
    "response.completed",
    "response.completed",
    "response.incomplete",
    "response.done",
    "response.failed",
    "error",
]
ITEMS = objects(
    id=TEXTS,
    type=st.sampled_from(["message", "function_call", "reasoning", "image_generation_call"]),
    content=JSON,
    result=JSON,
)
EVENTS = objects(
    {"type": st.sampled_from(KINDS)},
    output_index=INDEXES,
    content_index=INDEXES,
    summary_index=INDEXES,
    command_index=INDEXES,
    item_id=TEXTS,
    item=ITEMS,
    part=objects(type=TEXTS, text=TEXTS),
    delta=TEXTS,
    text=TEXTS,
    arguments=TEXTS,
    annotation=JSON,
    logprobs=st.lists(JSON, max_size=2),
    response=objects(
        id=TEXTS, status=st.sampled_from(["completed", "failed"]), output=st.lists(ITEMS | JSON, max_size=2), error=JSON
    ),
)
DATA = (
    st.one_of(CHUNKS, CHUNKS, EVENTS, EVENTS, JSON).map(json.dumps)
    | TEXTS
    | st.sampled_from(["[DONE]", "", '{"choices'])
)


def framed(data: list[str], end: str = "\n") -> bytes:
    return "".join(f"data: {one}{end}{end}" for one in data).encode("utf-8", "replace")


STREAMS = st.lists(DATA, max_size=6).map(framed)
# What most streams are, so that the laws speak of documents too and not of errors alone.
SANE_CHOICES = st.fixed_dictionaries(
    {
        "index": st.integers(0, 2),
        "delta": st.fixed_dictionaries({"content": TEXTS}, optional={"tool_calls": st.lists(CALLS, max_size=2)}),
    }
)
SANE = st.lists(
    st.fixed_dictionaries({"id": st.just("c"), "choices": st.lists(SANE_CHOICES, max_size=3)}), min_size=1, max_size=6
)
SANE_STREAMS = SANE.map(lambda chunks: framed([*map(json.dumps, chunks), "[DONE]"]))
ANY_STREAM = STREAMS | SANE_STREAMS


# ---- laws of the bytes


@ANY_ENDPOINT
@given(stream=ANY_STREAM, cuts=st.lists(st.floats(0, 1), max_size=6))
def test_any_split_of_the_bytes_gives_the_same_answer(endpoint: str, stream: bytes, cuts: list[float]) -> None:
    places = sorted(int(cut * len(stream)) for cut in cuts)
    pieces = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    assert read(pieces, endpoint) == read([stream], endpoint)


@ANY_ENDPOINT
@given(stream=ANY_STREAM)
def test_byte_by_byte_gives_the_same_answer(endpoint: str, stream: bytes) -> None:
    assert read([stream[place : place + 1] for place in range(len(stream))], endpoint) == read([stream], endpoint)


def without_counts(answer: tuple[int, Any] | None) -> Any:
    """An answer less the sentence that says how many events and bytes came."""
    return json.loads(re.sub(r"[\d,]+ (events?|bytes?)", "", json.dumps(answer)))


@ANY_ENDPOINT
@given(data=st.lists(DATA, max_size=6) | SANE.map(lambda chunks: [*map(json.dumps, chunks), "[DONE]"]))
def test_cr_lf_and_crlf_give_the_same_answer(endpoint: str, data: list[str]) -> None:
    answers = [without_counts(read([framed(data, end)], endpoint)) for end in ("\n", "\r", "\r\n")]
    assert answers[0] == answers[1] == answers[2]


NOISE = st.sampled_from(
    [
        b": comment\n",
        b":\n",
        b": x\n\n",
        b"\n",
        b"id: 1\n",
        b"retry: 3000\n\n",
        b"foo: bar\n",
        b"foo\n",
        b"data:\n\n",
        b"event: ping\n\n",
    ]
)


@ANY_ENDPOINT
@given(
    data=st.lists(DATA, max_size=6) | SANE.map(lambda chunks: [*map(json.dumps, chunks), "[DONE]"]),
    noise=st.lists(NOISE, min_size=8, max_size=8),
)
def test_comments_empty_events_and_unknown_fields_change_nothing(
    endpoint: str, data: list[str], noise: list[bytes]
) -> None:
    # With a field in front, so that the first character does not make a body JSON that was none.
    events = [b": begin\n", *(framed([one]) for one in data)]
    noisy = [part for event, between in zip(events, noise, strict=False) for part in (event, between)]
    assert without_counts(read([b"".join(noisy)], endpoint)) == without_counts(read([b"".join(events)], endpoint))


@ANY_ENDPOINT
@given(stream=ANY_STREAM, rest=ANY_STREAM)
def test_what_follows_done_changes_nothing(endpoint: str, stream: bytes, rest: bytes) -> None:
    ended = b": begin\n" + stream + b"data: [DONE]\n\n"
    assert without_counts(read([ended + rest], endpoint)) == without_counts(read([ended], endpoint))


# ---- laws of the answer


@ANY_ENDPOINT
@given(body=st.binary(max_size=60) | ANY_STREAM)
def test_no_body_raises_and_every_reply_is_json(endpoint: str, body: bytes) -> None:
    reply = AnswerSpec("law", endpoint).read()
    reply.feed(body)
    answer = reply.finish()
    if answer is None:
        return  # it is JSON, labelled as such, or nothing of ours
    assert answer.status == 200 or 400 <= answer.status <= 599
    document = parse(answer)
    if answer.status != 200:
        assert document["error"]["message"]


@ANY_ENDPOINT
@given(
    body=st.binary(max_size=60) | ANY_STREAM,
    status=st.sampled_from([200, 201, 204, 301, 400, 429, 500, 503]),
    on_truncated=st.sampled_from(["error", "partial"]),
    cut=st.sampled_from(["", "the connection was closed"]),
    choices=st.integers(1, 3),
)
def test_no_way_of_reading_raises(
    endpoint: str, body: bytes, status: int, on_truncated: str, cut: str, choices: int
) -> None:
    read([body], endpoint, cut, status, on_truncated=on_truncated, choices=choices)


@ANY_ENDPOINT
@given(stream=ANY_STREAM)
def test_no_quirk_raises(endpoint: str, stream: bytes) -> None:
    read([stream], endpoint, quirks=tuple(QUIRKS))


@ANY_ENDPOINT
@given(stream=ANY_STREAM, cut=st.floats(0, 1))
def test_what_came_of_a_cut_stream_is_json_too(endpoint: str, stream: bytes, cut: float) -> None:
    answer = read([stream[: int(cut * len(stream))]], endpoint, "the connection was closed", on_truncated="partial")
    assert answer is None or answer[0] == 200 or answer[1]["error"]


# ---- laws of the merge


@given(SANE, st.randoms(use_true_random=False))
def test_order_of_interleaved_choices_changes_nothing(chunks: list[Any], random: Any) -> None:
    single = [(choice["index"], choice) for chunk in chunks for choice in chunk["choices"]]
    shuffled = interleave(single, random, lambda one: one[0])

    def answer(choices: list[Any]) -> Any:
        return outcome(framed([*(json.dumps({"id": "c", "choices": [one]}) for _, one in choices), "[DONE]"]), "chat")

    assert answer(shuffled) == answer(single)


@given(SANE)
def test_choices_in_one_chunk_or_in_many_are_the_same(chunks: list[Any]) -> None:
    many = [{"id": "c", "choices": [choice]} for chunk in chunks for choice in chunk["choices"]]
    assume(many)
    together = {"id": "c", "choices": [choice for chunk in chunks for choice in chunk["choices"]]}
    alone = outcome(framed([*map(json.dumps, many), "[DONE]"]), "chat")
    assert outcome(framed([json.dumps(together), "[DONE]"]), "chat") == alone


def chat(index: int, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta}]}


# How a marker is sent, for each place of a chunk that holds text in fragments.
CHAT_PLACES: dict[str, Callable[[int, str], Any]] = {
    "content": lambda index, text: chat(index, content=text),
    "content in parts": lambda index, text: chat(index, content=[{"type": "text", "text": text}]),
    "thinking in parts": lambda index, text: chat(
        index, content=[{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
    ),
    "refusal": lambda index, text: chat(index, refusal=text),
    "reasoning": lambda index, text: chat(index, reasoning=text),
    "reasoning_content": lambda index, text: chat(index, reasoning_content=text),
    "reasoning_text": lambda index, text: chat(index, reasoning_text=text),
    "reasoning_details": lambda index, text: chat(index, reasoning_details=[{"index": 0, "type": "t", "text": text}]),
    "thinking_blocks": lambda index, text: chat(index, thinking_blocks=[{"type": "thinking", "thinking": text}]),
    "tool call arguments": lambda index, text: chat(
        index, tool_calls=[{"index": 0, "id": "call", "function": {"name": "f", "arguments": text}}]
    ),
    "second tool call": lambda index, text: chat(
        index, tool_calls=[{"index": 1, "id": "call_2", "function": {"name": "g", "arguments": text}}]
    ),
    "custom tool input": lambda index, text: chat(
        index, tool_calls=[{"index": 2, "id": "call_3", "custom": {"name": "h", "input": text}}]
    ),
    "function_call": lambda index, text: chat(index, function_call={"name": "f", "arguments": text}),
    "audio transcript": lambda index, text: chat(index, audio={"transcript": text}),
    "audio data": lambda index, text: chat(index, audio={"data": text}),
    "annotations": lambda index, text: chat(index, annotations=[{"url": text}]),
    "an unknown field": lambda index, text: chat(index, novel=text),
    "an unknown object": lambda index, text: chat(index, novel_object={"inner": [text]}),
    "logprobs": lambda index, text: {
        "choices": [{"index": index, "delta": {}, "logprobs": {"content": [{"token": text}]}}]
    },
    "a field of a chunk's own": lambda index, text: {f"novel {text}": True, "choices": []},
}


@given(st.lists(st.tuples(st.sampled_from(sorted(CHAT_PLACES)), st.integers(0, 2)), min_size=1, max_size=20))
def test_every_fragment_of_a_chat_is_in_the_answer_once(said: list[tuple[str, int]]) -> None:
    chunks = [CHAT_PLACES[place](index, f"<{number}>") for number, (place, index) in enumerate(said)]
    chunks.append({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"} for index in range(3)]})
    status, document = outcome(framed([*map(json.dumps, chunks), "[DONE]"]), "chat")
    assert status == 200
    found = re.findall(r"<\d+>", json.dumps(document))
    assert sorted(found) == sorted(f"<{number}>" for number in range(len(said)))


COMPLETION_PLACES: dict[str, Callable[[int, str], Any]] = {
    "text": lambda index, text: {"choices": [{"index": index, "text": text}]},
    "logprobs": lambda index, text: {"choices": [{"index": index, "text": "", "logprobs": {"tokens": [text]}}]},
    "a field of a chunk's own": lambda index, text: {f"novel {text}": True, "choices": []},
}


@given(st.lists(st.tuples(st.sampled_from(sorted(COMPLETION_PLACES)), st.integers(0, 2)), min_size=1, max_size=20))
def test_every_fragment_of_a_completion_is_in_the_answer_once(said: list[tuple[str, int]]) -> None:
    chunks = [COMPLETION_PLACES[place](index, f"<{number}>") for number, (place, index) in enumerate(said)]
    chunks.append({"choices": [{"index": index, "text": "", "finish_reason": "stop"} for index in range(3)]})
    status, document = outcome(framed([*map(json.dumps, chunks), "[DONE]"]), "completions")
    assert status == 200
    found = re.findall(r"<\d+>", json.dumps(document))
    assert sorted(found) == sorted(f"<{number}>" for number in range(len(said)))


def delta(kind: str, item: int, text: str, **indexes: int) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": item, "delta": text, **indexes}


# Each in an item of its own kind: the number is its output_index. A call has a name, which only its item events say.
RESPONSE_PLACES: dict[str, Callable[[str], Any]] = {
    "text": lambda text: delta("output_text", 0, text, content_index=0),
    "second part": lambda text: delta("output_text", 0, text, content_index=1),
    "refusal": lambda text: delta("refusal", 1, text, content_index=0),
    "summary": lambda text: delta("reasoning_summary_text", 2, text, summary_index=0),
    "second summary": lambda text: delta("reasoning_summary_text", 2, text, summary_index=1),
    "reasoning": lambda text: delta("reasoning_text", 2, text, content_index=0),
    "arguments": lambda text: delta("function_call_arguments", 3, text),
    "custom input": lambda text: delta("custom_tool_call_input", 4, text),
    "code": lambda text: delta("code_interpreter_call_code", 5, text),
    "diff": lambda text: delta("apply_patch_call_operation_diff", 6, text),
    "command": lambda text: delta("shell_call_command", 7, text, command_index=0),
    "annotation": lambda text: {
        "type": "response.output_text.annotation.added",
        "output_index": 0,
        "content_index": 0,
        "annotation": {"url": text},
    },
}


RESPONSE_CALLS = {3: "function_call", 4: "custom_tool_call", 6: "apply_patch_call", 7: "shell_call"}


@given(st.lists(st.sampled_from(sorted(RESPONSE_PLACES)), min_size=1, max_size=20))
def test_every_fragment_of_a_response_is_in_a_rebuilt_output_once(said: list[str]) -> None:
    events: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": index, "item": {"type": kind, "name": "f"}}
        for index, kind in RESPONSE_CALLS.items()
    ]
    events += [RESPONSE_PLACES[place](f"<{number}>") for number, place in enumerate(said)]
    events.append({"type": "response.completed", "response": {"status": "completed", "output": []}})
    status, document = outcome(framed([json.dumps(event) for event in events]), "responses")
    assert status == 200
    found = re.findall(r"<\d+>", json.dumps(document))
    assert sorted(found) == sorted(f"<{number}>" for number in range(len(said)))


@given(st.lists(st.text("<>/think ab", max_size=6), max_size=8))
def test_think_tags_lose_no_text(fragments: list[str]) -> None:
    text = "".join(fragments)
    chunks = [chat(0, content=fragment) for fragment in fragments]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    answer = read([framed([*map(json.dumps, chunks), "[DONE]"])], "chat", quirks=("think_tags",))
    assert answer is not None
    message = answer[1]["choices"][0]["message"]
    thinking, content = message.get("reasoning_content"), message["content"] or ""
    if thinking is None and not text.lstrip().startswith("<think>"):
        assert content == text
    else:
        closing = "</think>" if "</think>" in text else ""
        assert text.lstrip() == f"<think>{thinking or ''}{closing}{content}"


@given(st.lists(st.text(min_size=1, max_size=4), max_size=8))
def test_cumulative_content_makes_the_same_of_repeated_and_of_plain_fragments(fragments: list[str]) -> None:
    repeated = ["".join(fragments[: count + 1]) for count in range(len(fragments))]
    chunks = [chat(0, content=text) for text in ["", *repeated]]
    answer = read([framed([*map(json.dumps, chunks), "[DONE]"])], "chat", quirks=("cumulative_content",))
    assert answer is not None
    assert answer[1]["choices"][0]["message"]["content"] == "".join(fragments)


@pytest.mark.parametrize("depth", [100, 400, 600, 2_000, 100_000])
@pytest.mark.parametrize("place", ["choices", "delta", "x"])
def test_no_depth_of_nesting_raises(place: str, depth: int) -> None:
    nested = '{"a":' * depth + "1" + "}" * depth
    wrapped = nested if place == "x" else f'[{{"index":0,"delta":{{"y":{nested}}}}}]'
    stream = f'data: {{"id":"c","{"choices" if place != "x" else "x"}":{wrapped}}}\n\n' * 3 + "data: [DONE]\n\n"
    reply = aggregate(stream.encode())
    assert reply.status in (200, 502)
    assert reply.body.startswith(b"{")
