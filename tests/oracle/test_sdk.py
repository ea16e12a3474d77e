"""openai-python as a judge: its types for every document of ours, and its own accumulators beside our aggregation.

A document that its types refuse, and a field that its accumulators have otherwise, must be explained: the upstream
itself said it so, or the accumulator is wrong in a way that stands in a table here and is checked on the values. No row
of these tables is idle: a golden case needs it.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
from force_stream import AnswerSpec, Reply
from harness.paths import GOLDEN
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types import Completion, ImagesResponse
from openai.types.audio import Transcription, TranscriptionDiarized
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from oracle import independent
from oracle.independent import ABSENT, by_value
from oracle.recordings import recordings_in
from pydantic import ValidationError

TYPED = ("chat", "completions", "responses", "images", "transcriptions")
# A place in a document: keys, and an integer for a place in a list.
type Place = tuple[Any, ...]


@dataclass(frozen=True)
class Sample:
    """An event stream that becomes a document."""

    name: str
    endpoint: str
    stream: bytes
    document: Any

    @cached_property
    def said(self) -> list[dict[str, Any]]:
        """What its events say, each as an object with the type that its event line may name."""
        events = [(event.name, event.value) for event in independent.events_of(self.stream)]
        read = [({"type": name} if name else {}) | by_value(value) for name, value in events if isinstance(value, dict)]
        return [value for value in read if value.get("type") not in independent.HEARTBEATS]

    @property
    def is_streamed(self) -> bool:
        return bool(self.said) and not self.stream.lstrip().startswith(b"{")


def sample(name: str, endpoint: str, stream: bytes) -> Sample | None:
    answer = AnswerSpec("sample", endpoint).read(200, "text/event-stream")
    answer.feed(stream)
    reply = answer.finish() or Reply(200, stream)
    return Sample(name, endpoint, stream, json.loads(reply.body)) if reply.status == 200 else None


@cache
def golden(endpoint: str) -> list[Sample]:
    made = [sample(path.stem, endpoint, path.read_bytes()) for path in sorted((GOLDEN / endpoint).glob("*.sse"))]
    return [one for one in made if one is not None]


@cache
def recorded(folder: Path, endpoint: str) -> list[Sample]:
    made = [sample(one.id, endpoint, one.stream) for one in recordings_in(folder) if one.endpoint == endpoint]
    return [one for one in made if one is not None]


def values_at(place: Place, value: Any) -> Iterator[Any]:
    """Every value at a place in which an integer stands for all of a list, and "delta" is another name of "message"."""
    if not place:
        yield value
    elif isinstance(place[0], int):
        for entry in value if isinstance(value, list) else []:
            yield from values_at(place[1:], entry)
    elif isinstance(value, dict):
        for key in (place[0], "delta") if place[0] == "message" else (place[0],):
            if key in value:
                yield from values_at(place[1:], value[key])


def said_at(said: list[dict[str, Any]], *place: Any) -> list[Any]:
    return [value for event in said for value in values_at(place, event)]


# The types


@dataclass(frozen=True)
class Fault:
    place: Place
    kind: str
    value: Any


def type_of(endpoint: str, document: Any) -> Any:
    """The SDK's type of a document. Mistral's /fim/completions answers as chat."""
    if endpoint in ("chat", "completions"):
        return ChatCompletion if document.get("object") == "chat.completion" else Completion
    if endpoint == "transcriptions":
        return TranscriptionDiarized if "task" in document else Transcription
    return {"responses": Response, "images": ImagesResponse}[endpoint]


def faults(endpoint: str, document: Any) -> list[Fault]:
    """Where the SDK's type refuses a document. Of a call's two types only the one that it names counts."""
    if isinstance(document, list):
        return []  # llama.cpp's own API answers several prompts with a list, for which the SDK has no type
    try:
        type_of(endpoint, document).model_validate_json(json.dumps(document), strict=True)
    except ValidationError as refused:
        found = refused.errors()
        branches = ("ChatCompletionMessageFunctionToolCall", "ChatCompletionMessageCustomToolCall")
        meant = [fault for fault in found if branches[1] not in fault["loc"]]
        return [Fault(tuple(s for s in f["loc"] if s not in branches), f["type"], f["input"]) for f in meant]
    return []


def is_the_upstreams(one: Sample, fault: Fault) -> bool:
    """Whether the upstream itself did not say what is missing, or did say what is refused."""
    if one.endpoint == "responses":
        return is_of_a_response(one, fault.place)
    said = said_at(one.said, *fault.place)
    if fault.kind == "missing":
        return not independent.telling(said)
    if isinstance(fault.value, (list, dict)):
        return any(isinstance(value, type(fault.value)) for value in said)
    return fault.value in said


def is_of_a_response(one: Sample, place: Place) -> bool:
    """Whether this member of the answer stands in the terminal event just so, or an output item in an event."""
    if place[:1] == ("output",) and len(place) > 1:
        item = one.document["output"][place[1]]
        return item in [*said_at(one.said, "item"), *said_at(one.said, "response", "output", 0)] or was_rebuilt(one)
    ends = [event["response"] for event in one.said if event.get("type") in independent.TERMINAL]
    return any(end.get(place[0], ABSENT) == one.document.get(place[0], ABSENT) for end in ends)


def was_rebuilt(one: Sample) -> bool:
    """Whether there are only deltas, which do not say what the SDK asks of an item."""
    return not said_at(one.said, "item") and not any(said_at(one.said, "response", "output", 0))


def unexplained(one: Sample) -> list[Fault]:
    return [fault for fault in faults(one.endpoint, one.document) if not is_the_upstreams(one, fault)]


@pytest.mark.parametrize("endpoint", TYPED)
def test_golden_documents_are_of_the_sdks_types(endpoint: str) -> None:
    samples = golden(endpoint)
    assert [one.name for one in samples if not faults(endpoint, one.document)]
    assert {one.name: found for one in samples if (found := unexplained(one))} == {}


@pytest.mark.parametrize("endpoint", TYPED)
def test_recorded_documents_are_of_the_sdks_types(streams_dir: Path, endpoint: str) -> None:
    samples = recorded(streams_dir, endpoint)
    assert samples
    assert {one.name: found for one in samples if (found := unexplained(one))} == {}


BLOCKS: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "thinking": {"thinking": str},
    "redacted_thinking": {"data": str},
    "tool_use": {"id": str, "name": str, "input": dict},
    "server_tool_use": {"id": str, "name": str, "input": dict},
    "mcp_tool_use": {"id": str, "name": str, "input": dict, "server_name": str},
}


def check_message(document: Any) -> None:
    """What every direct answer of the Messages API is (Anthropic's API reference, "Create a Message")."""
    assert document["type"] == "message"
    assert document["role"] == "assistant"
    assert isinstance(document["stop_reason"], str)
    assert isinstance(document["content"], list)
    for block in document["content"]:
        expected = BLOCKS.get(str(block["type"]), {})
        assert {key: type(block.get(key)) for key in expected} == expected, block
    counts = document.get("usage", {})
    assert all(type(counts[key]) is int for key in ("input_tokens", "output_tokens") if key in counts)


@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in golden("messages")])
def test_golden_messages_have_the_shape_of_direct_ones(one: Sample) -> None:
    check_message(one.document)


def test_recorded_messages_have_the_shape_of_direct_ones(streams_dir: Path) -> None:
    samples = recorded(streams_dir, "messages")
    assert len(samples) > 100
    for one in samples:
        check_message(one.document)


# The accumulators


@dataclass(frozen=True)
class Difference:
    place: Place
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.place}: ours {independent.brief(self.ours)}, theirs {independent.brief(self.theirs)}"


def differences(ours: Any, theirs: Any, place: Place = ()) -> Iterator[Difference]:
    """Where two documents differ, a null being no different from an absent key: the SDK writes its defaults so."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            yield from differences(ours.get(key), theirs.get(key), (*place, key))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, (*place, index))
    elif ours != theirs:
        yield Difference(place, ours, theirs)


def chat_of_the_sdk(said: list[dict[str, Any]]) -> Any:
    """The accumulated completion, less what the SDK adds: `parsed`, `parsed_arguments`, and the index of a call."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in said:
        state.handle_chunk(construct_type(type_=ChatCompletionChunk, value=chunk))
    document = state.current_completion_snapshot.to_dict()
    for message in values_at(("choices", 0, "message"), document):
        message.pop("parsed", None)
        for call in message.get("tool_calls") or []:
            call.pop("index", None)
            (call.get("function") or {}).pop("parsed_arguments", None)
    return document


def response_of_the_sdk(said: list[dict[str, Any]]) -> Any:
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in said:
        state.handle_event(construct_type(type_=ResponseStreamEvent, value=event))
    response = state._completed_response
    return None if response is None else less_parsed(response.to_dict())


def less_parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: less_parsed(v) for k, v in value.items() if k not in ("parsed", "parsed_arguments")}
    return [less_parsed(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Class:
    """A class of streams that the accumulator gets wrong: why, at which places, and how one is told on its values."""

    reason: str
    where: str
    holds: Callable[[Sample, Difference], bool]


def own(one: Sample, place: Place) -> list[Any]:
    """What is said at a place, by the choice itself if the place is a choice's."""
    if place[:1] != ("choices",) or len(place) < 3:
        return said_at(one.said, *place)
    mine = [choice for choice in said_at(one.said, "choices", 0) if choice.get("index", 0) == place[1]]
    return said_at(mine, *place[2:])


def is_said_again(one: Sample, it: Difference) -> bool:
    said = independent.telling(own(one, it.place))
    texts = [value for value in said if isinstance(value, str)]
    if isinstance(it.theirs, str):
        return len(texts) > 1 and (it.theirs == "".join(texts) or it.ours in texts)
    return isinstance(it.theirs, (int, float)) and len(said) > 1 and it.ours == said[-1]


def is_said_later(one: Sample, it: Difference) -> bool:
    later = said_at(one.said[1:], *it.place)
    return bool(independent.telling(later)) and it.theirs in [None, *said_at(one.said[:1], *it.place)]


def is_empty_at_first(one: Sample, it: Difference) -> bool:
    return not it.theirs and it.ours == next(filter(None, said_at(one.said, *it.place)), None)


def is_the_last_chunks(one: Sample, it: Difference) -> bool:
    return it.theirs == next(values_at(it.place, one.said[-1]), None)


def is_inferred(one: Sample, it: Difference) -> bool:
    said = [value for value in independent.telling(own(one, it.place)) if value != "null"]
    return not said and it.theirs in (None, "", "null")


def is_the_last_reason(one: Sample, it: Difference) -> bool:
    said = independent.telling(own(one, it.place))
    return it.ours in said and it.theirs in said and len(set(said)) > 1


def is_no_answer(one: Sample, it: Difference) -> bool:
    """Padding, the text that Together repeats, and an empty function_call."""
    nothing = isinstance(it.theirs, dict) and not any(it.theirs.values())
    return it.ours is None and (nothing or it.theirs in (said := own(one, it.place)) or it.theirs == "".join(said))


# What an entry has once: a call's name, a reasoning detail's signature.
MARKS = ("name", "signature")


def has_unlike_entries(one: Sample, it: Difference) -> bool:
    """Whether two entries of the list share an index, and not their ids or types, names or signatures."""
    end = next(place for place, step in enumerate(it.place) if step in ("tool_calls", "reasoning_details")) + 1
    entries = own(one, (*it.place[:end], 0))
    names = {(entry.get("index"), entry.get("id") or None, entry.get("type") or None) for entry in entries}
    named = [index for index, ident, kind in names if ident or kind]
    marks = {(entry.get("index"), (entry.get("function") or entry).get(key)) for entry in entries for key in MARKS}
    marked = [index for index, mark in marks if mark]
    return len(named) > len(set(named)) or len(marked) > len(set(marked))


def has_odd_values(one: Sample, it: Difference) -> bool:
    """Whether a value is of another type than the SDK expects there."""
    return any(value is not None and not isinstance(value, str) for value in own(one, it.place))


def has_halves(one: Sample, it: Difference) -> bool:
    return isinstance(it.theirs, str) and it.ours == it.theirs.encode("utf-16", "surrogatepass").decode("utf-16")


def has_a_tools_words(one: Sample, it: Difference) -> bool:
    return "tool" in said_at(one.said, "choices", 0, "delta", "role")


CHAT_CLASSES = (
    Class(
        "what is said again in a delta is joined, or added, to what was said",
        r"choices\.\d+\.message\.(?!content$|refusal$|reasoning$|reasoning_content$).+",
        is_said_again,
    ),
    Class(
        "beside the deltas only the first chunk is read",
        r"(?!id$|model$|created$|choices|usage).+|choices\.\d+\.(?!message|finish_reason).+",
        is_said_later,
    ),
    Class("an empty value of the first chunk stays", "id|model|created", is_empty_at_first),
    Class("usage and fingerprint are the last chunk's", r"(usage|system_fingerprint)(\..+)?", is_the_last_chunks),
    Class(
        "nothing is inferred",
        r"choices\.\d+\.(finish_reason|message\.role|message\.tool_calls\.\d+\..+)",
        is_inferred,
    ),
    Class("the last finish reason stands, whatever it says", r"choices\.\d+\.finish_reason", is_the_last_reason),
    Class(
        "what is no part of the answer stays",
        r"choices\.\d+\.(message\.)?(obfuscation|text|function_call)",
        is_no_answer,
    ),
    Class(
        "entries of one index are one, whatever their ids and types",
        r"choices\.\d+\.message\.(tool_calls|reasoning_details).*",
        has_unlike_entries,
    ),
    Class("only text is expected", r"choices\.\d+\.message\..*(content|arguments|refusal)", has_odd_values),
    Class("the halves of a surrogate pair stay halves", r"choices\.\d+\.message\.content", has_halves),
    Class("a tool's words are joined with the answer's", r"choices\.\d+\.message\..*", has_a_tools_words),
)


def no_choices(said: list[dict[str, Any]]) -> bool:
    return any(not isinstance(chunk.get("choices"), list) for chunk in said)


def no_delta(said: list[dict[str, Any]]) -> bool:
    return any(not isinstance(choice.get("delta"), dict) for choice in said_at(said, "choices", 0))


def no_index(said: list[dict[str, Any]]) -> bool:
    calls = said_at(said, "choices", 0, "delta", "tool_calls", 0)
    return any(entry.get("index") is None for entry in [*said_at(said, "choices", 0), *calls])


def late_index(said: list[dict[str, Any]]) -> bool:
    """Whether the choices, or some choice's calls, do not come as 0, 1, 2, …"""
    choices = said_at(said, "choices", 0)
    lists = [[choice["index"] for choice in choices]]
    for index in set(lists[0]):
        mine = [choice for choice in choices if choice["index"] == index]
        lists.append([call["index"] for call in said_at(mine, "delta", "tool_calls", 0)])
    return any(list(dict.fromkeys(each)) != list(range(len(set(each)))) for each in lists)


def list_without_index(said: list[dict[str, Any]]) -> bool:
    return any(holds_bare_list(delta) for delta in said_at(said, "choices", 0, "delta"))


def holds_bare_list(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(entry, dict) and "index" not in entry for entry in value)
    return isinstance(value, dict) and any(holds_bare_list(each) for each in value.values())


def empty_type(said: list[dict[str, Any]]) -> bool:
    return any(not call.get("type", "-") for call in said_at(said, "choices", 0, "delta", "tool_calls", 0))


# What makes the accumulator of chat raise, and what it then raises.
CHAT_CRASHES: dict[str, tuple[tuple[type[Exception], ...], Callable[[list[dict[str, Any]]], bool]]] = {
    "a chunk without choices": ((TypeError, KeyError), no_choices),
    "a choice without a delta": ((AttributeError,), no_delta),
    "a choice or a call without an index": ((TypeError,), no_index),
    "an index before those below it": ((IndexError,), late_index),
    "a list whose entries have no index": ((RuntimeError,), list_without_index),
    "a call's type that is null or empty": ((AssertionError,), empty_type),
}


@dataclass
class Comparison:
    """What came of comparing an accumulator's documents with ours."""

    equal: int
    explained: Counter[str]
    unexplained: list[str]

    def __str__(self) -> str:
        rows = [f"{count:5} times: {reason}" for reason, count in self.explained.most_common()]
        return "\n".join([f"{self.equal} equal in every field; of the others", *rows])


def compare_chat(samples: list[Sample]) -> Comparison:
    found = Comparison(0, Counter(), [])
    for one in samples:
        said = one.said
        try:
            theirs = chat_of_the_sdk(said)
        except Exception as error:
            reasons = [why for why, (kinds, holds) in CHAT_CRASHES.items() if isinstance(error, kinds) and holds(said)]
            note(found, reasons, f"{one.name}: {error!r}")
            continue
        unlike = list(differences(one.document, theirs))
        found.equal += not unlike
        for it in unlike:
            place = ".".join(map(str, it.place))
            reasons = [row.reason for row in CHAT_CLASSES if re.fullmatch(row.where, place) and row.holds(one, it)]
            note(found, reasons, f"{one.name}: {it}")
    return found


def note(found: Comparison, reasons: list[str], what: str) -> None:
    if reasons:
        found.explained[reasons[0]] += 1
    else:
        found.unexplained.append(what)


# What the accumulator of responses says of streams that are not as OpenAI's are, and raises.
RESPONSE_CRASHES = {
    "Expected to have received `response.created`": "a stream that begins elsewhere",
    "Lifecycle response identity changed": "an id that changes, or comes late",
    "Completed output item identity changed": "an item whose id changes",
    "Cannot complete response with unfinished output items": "items that have no end of their own",
    "Received a content event for output index": "deltas of an item that nobody announced",
    "Duplicate response output index": "two items at one index",
    "Response snapshot has conflicting output identities": "an item that is not the same at the end",
    "list index out of range": "deltas of a part that nobody announced",
    "'int' object is not iterable": "an output that is a number",
    "has no attribute 'type'": "an output that is an object",
    "can only concatenate str": "a delta that is a number",
}


def only_incomplete(said: list[dict[str, Any]]) -> bool:
    return "response.completed" not in said_at(said, "type")


def is_empty_output(one: Sample, it: Difference) -> bool:
    return not it.theirs and [] in said_at(one.said, "response", "output")


def is_an_image(one: Sample, it: Difference) -> bool:
    item = one.document["output"][it.place[1]]
    return item["type"] == "image_generation_call" and it.theirs != it.ours == "completed"


def is_not_in_the_end(one: Sample, it: Difference) -> bool:
    said = [*said_at(one.said, "response", *it.place), *said_at(one.said, *it.place)]
    return it.theirs is None and (it.ours in said or it.ours == "response")


def is_of_another_end(one: Sample, it: Difference) -> bool:
    ends = [event for event in one.said if event.get("type") in independent.TERMINAL]
    return len(ends) > 1 and it.theirs in said_at(ends[1:], "response", *it.place)


def is_a_poor_end(one: Sample, it: Difference) -> bool:
    is_poor = not it.theirs or independent.parsed(str(it.theirs)) is ABSENT
    return is_poor and it.theirs in said_at(one.said, "response", *it.place)


RESPONSE_CLASSES = (
    Class("an empty output stays empty", "output", is_empty_output),
    Class("an image that is there is still said to be made", r"output\.\d+\.status", is_an_image),
    Class("what only other events say is not in the answer", r"[a-z_]+", is_not_in_the_end),
    Class("the last end counts", ".*", is_of_another_end),
    Class("what is empty at the end, or not JSON, stands", r"output\.\d+\.arguments", is_a_poor_end),
)
ONLY_INCOMPLETE = "only response.completed is an end"


def compare_responses(samples: list[Sample]) -> Comparison:
    found = Comparison(0, Counter(), [])
    for one in samples:
        said = one.said
        try:
            theirs = response_of_the_sdk(said)
        except Exception as error:
            reasons = [why for words, why in RESPONSE_CRASHES.items() if words in str(error)]
            note(found, reasons, f"{one.name}: {error!r}")
            continue
        if theirs is None:
            note(found, [ONLY_INCOMPLETE] if only_incomplete(said) else [], f"{one.name}: no response")
            continue
        unlike = list(differences(one.document, theirs))
        found.equal += not unlike
        for it in unlike:
            place = ".".join(map(str, it.place))
            reasons = [row.reason for row in RESPONSE_CLASSES if re.fullmatch(row.where, place) and row.holds(one, it)]
            note(found, reasons, f"{one.name}: {it}")
    return found


ACCUMULATORS: dict[str, tuple[Callable[[list[Sample]], Comparison], set[str]]] = {
    "chat": (compare_chat, {*CHAT_CRASHES, *(row.reason for row in CHAT_CLASSES)}),
    "responses": (
        compare_responses,
        {*RESPONSE_CRASHES.values(), *(row.reason for row in RESPONSE_CLASSES), ONLY_INCOMPLETE},
    ),
}


# Its attributes are typed, and are not where an upstream is odd: pydantic warns when it writes such a document.
quiet = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


@quiet
@pytest.mark.parametrize("endpoint", ACCUMULATORS)
def test_golden_documents_are_the_accumulators_where_it_is_right(endpoint: str) -> None:
    compare, reasons = ACCUMULATORS[endpoint]
    found = compare([one for one in golden(endpoint) if one.is_streamed])
    assert found.unexplained == []
    assert found.equal >= 10
    assert set(found.explained) == reasons, "every reason has a case, and no case lacks its reason"


@quiet
@pytest.mark.parametrize("endpoint", ACCUMULATORS)
def test_recorded_documents_are_the_accumulators_where_it_is_right(
    streams_dir: Path, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare, _ = ACCUMULATORS[endpoint]
    samples = [one for one in recorded(streams_dir, endpoint) if one.is_streamed]
    if os.environ.get("HYPOTHESIS_PROFILE") != "thorough":
        # Nine of ten streams; what the SDK does with one more event of a long one is nothing new, and takes its time.
        samples = [one for one in samples if len(one.said) <= 100][:: 2 if endpoint == "chat" else 1]
    found = compare(samples)
    with capsys.disabled():
        print(f"\n{endpoint}, openai-python's accumulator and ours: {found}")
    assert found.unexplained == []
    assert found.equal > 100
