"""The law that binds both directions: a plain answer becomes events, and aggregating these gives the same JSON again.

Numbers are compared by their spelling, strings by their value; white space and the order of keys do not count.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from force_stream import ENDPOINTS, aggregate
from force_stream.answer.unfold import Asked, event_of, unfold
from harness.golden import CASES, Number, parse
from hypothesis import given
from hypothesis import strategies as st

# The kinds of the recordings that are not called as our endpoints are.
KINDS = {"anthropic": "messages", "audio": "transcriptions"}


def choices_of(document: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(document["choices"] if isinstance(document, dict) and "choices" in document else ())


def name_the_object(document: Any) -> None:
    if list(choices_of(document)):
        legacy = "message" not in document["choices"][0]
        document["object"] = "text_completion" if legacy else "chat.completion"


def count_choices(document: Any) -> None:
    for position, choice in choices_of(document):
        choice.setdefault("index", Number(str(position)))


def say_stop(document: Any) -> None:
    for _, choice in choices_of(document):
        choice["finish_reason"] = choice.get("finish_reason") or "stop"


def have_content(document: Any) -> None:
    for _, choice in choices_of(document):
        if "message" in choice:
            choice["message"].setdefault("content", None)


def type_calls(document: Any) -> None:
    for call in calls_of(document):
        call.setdefault("type", "function")


def forget_indexes(document: Any) -> None:
    for call in calls_of(document):
        call.pop("index", None)


def forget_deltas(document: Any) -> None:
    for _, choice in choices_of(document):
        choice.pop("delta", None)


def forget_stubs(document: Any) -> None:
    for _, choice in choices_of(document):
        message = choice.get("message", {})
        if message.get("function_call") == {"name": "", "arguments": ""}:
            del message["function_call"]
        if isinstance(audio := message.get("audio"), dict) and audio.get("data") == "":
            del audio["data"]


def forget_numbers(document: Any) -> None:
    for _, choice in choices_of(document):
        if isinstance(choice.get("logprobs"), Number):
            choice["logprobs"] = None


def forget_errors(document: Any) -> None:
    if list(choices_of(document)) and not (document.get("error") or {"message": 1})["message"]:
        del document["error"]


def calls_of(document: Any) -> Iterator[dict[str, Any]]:
    for _, choice in choices_of(document):
        yield from choice.get("message", {}).get("tool_calls") or ()


# What the streams of an API never carry, or say in one way only, by endpoint.
NEVER_CARRIED: dict[str, dict[str, Callable[[Any], None]]] = {
    "chat": {
        "an object of another name, or none": name_the_object,
        "that a choice has no index": count_choices,
        "that there is no finish reason: [DONE] says so": say_stop,
        "a message without content": have_content,
        "a call without a type": type_calls,
        "the index of a call, which is its place": forget_indexes,
        "an empty delta beside a message": forget_deltas,
        "a function call without a name, and audio without sound": forget_stubs,
        "one probability for all of the answer": forget_numbers,
        "an error that says nothing": forget_errors,
    },
    "completions": {
        "an object of another name, or none": name_the_object,
        "that a choice has no index": count_choices,
        "that there is no finish reason: [DONE] says so": say_stop,
    },
    "messages": {},
    "responses": {},
    "transcriptions": {},
    "images": {},
}
# Recorded answers that hold an error, and must become one again.
FAILED = {"chat-openrouter-object-basic-json-69605907b1"}


def answers() -> Iterator[Any]:
    for case in CASES:
        if case.folder != "broken" and case.endpoint in ENDPOINTS:
            yield pytest.param(case.endpoint, case.path.with_suffix(".json"), id=f"{case.folder}/{case.path.stem}")


def recorded() -> Iterator[Any]:
    folder = Path(os.environ.get("FORCE_STREAM_RECORDINGS", "/nowhere")) / "answers"
    for path in sorted(folder.glob("*.json")):
        kind = path.name.partition("-")[0]
        if KINDS.get(kind, kind) in ENDPOINTS:
            yield pytest.param(KINDS.get(kind, kind), path, id=path.stem)


def carried(document: Any, endpoint: str) -> Any:
    for change in NEVER_CARRIED[endpoint].values():
        change(document)
    return document


@pytest.mark.parametrize(("endpoint", "path"), [*answers(), *recorded()])
def test_a_plain_answer_becomes_events_that_become_the_same_answer(endpoint: str, path: Path) -> None:
    assert_same(endpoint, path, Asked(ENDPOINTS[endpoint], with_usage=endpoint != "transcriptions"))


@pytest.mark.parametrize(("endpoint", "path"), [each for each in answers() if each.values[0] == "transcriptions"])
def test_the_chunks_of_vllm_become_the_same_transcription(endpoint: str, path: Path) -> None:
    assert_same(endpoint, path, Asked(ENDPOINTS[endpoint], with_usage=True))


def assert_same(endpoint: str, path: Path, asked: Asked) -> None:
    document = path.read_bytes()
    stream = unfold(document, asked).stream
    reply = aggregate(stream, endpoint)
    if path.stem in FAILED:
        assert reply.status >= 400
        return
    assert (reply.status, parse(reply.body)) == (200, carried(parse(document), endpoint))


@pytest.mark.parametrize(
    ("endpoint", "path"), [each for each in (*answers(), *recorded()) if each.values[0] == "responses"]
)
def test_the_items_of_a_response_are_in_its_events_too(endpoint: str, path: Path) -> None:
    """The last event has the whole answer; it is the same without the output there."""
    document, events_of = json.loads(path.read_bytes()), ENDPOINTS[endpoint].events_of
    *events, last = events_of(document, Asked(ENDPOINTS[endpoint])) or ()
    last = last | {"response": last["response"] | {"output": []}}
    reply = aggregate(b"".join(event_of(event, ENDPOINTS[endpoint]) for event in (*events, last)), endpoint)
    # What is no list has no items.
    assert json.loads(reply.body)["output"] == (document["output"] if isinstance(document["output"], list) else [])


TEXTS = st.text(st.characters(exclude_categories=()), max_size=200) | st.text(
    "ab \n\r\u0301\U0001f468\u200d", max_size=90
)
CALL = st.builds(
    lambda name, arguments: {
        "id": f"call_{name}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    st.sampled_from("fgh"),
    st.dictionaries(TEXTS, TEXTS, max_size=3).map(json.dumps),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXTS | st.none()},
    optional={
        "refusal": TEXTS | st.none(),
        "reasoning_content": TEXTS,
        "tool_calls": st.lists(CALL, min_size=1, max_size=3, unique_by=lambda call: call["id"]),
        "mood": TEXTS,
    },
)


@given(st.lists(MESSAGE, min_size=1, max_size=3))
def test_any_texts_come_back_as_they_were(messages: list[dict[str, Any]]) -> None:
    choices = [{"index": at, "message": message, "finish_reason": "stop"} for at, message in enumerate(messages)]
    document = {"id": "c", "object": "chat.completion", "created": 7, "model": "m", "choices": choices}
    stream = unfold(json.dumps(document).encode(), Asked(ENDPOINTS["chat"])).stream
    assert json.loads(aggregate(stream).body) == json.loads(json.dumps(document))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_is_never_carried_is_known_of_each_endpoint(endpoint: str) -> None:
    assert endpoint in NEVER_CARRIED


@pytest.mark.skipif("FORCE_STREAM_RECORDINGS" not in os.environ, reason="needs FORCE_STREAM_RECORDINGS")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_each_exception_is_needed(endpoint: str) -> None:
    """Some answer differs without it."""
    found = [each.values for each in (*answers(), *recorded())]
    for what, change in NEVER_CARRIED[endpoint].items():
        documents = [
            (parse(Path(path).read_bytes()), parse(Path(path).read_bytes())) for name, path in found if name == endpoint
        ]
        for document, _ in documents:
            change(document)
        assert any(document != before for document, before in documents), what
