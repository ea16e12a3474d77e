"""Constants that a rule puts into finished documents."""

import copy
from typing import Any

import pytest
from force_stream.answer.fill import fill, is_path, spelled
from force_stream.answer.reader import AnswerSpec
from force_stream.wire import jsontext
from force_stream.wire.jsontext import Number, Written

CHOICES = {"choices": [{"message": {"content": "a"}}, {"message": {"refusal": "no"}}, {"message": None}, 1]}
FILLED: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "a member of the document": ({"id": "x"}, {"service_tier": None}, {"id": "x", "service_tier": None}),
    "a member that is there": ({"id": "x"}, {"id": None}, {"id": "x"}),
    "a member that is null": ({"id": None}, {"id": "x"}, {"id": None}),
    "every item of a list": (
        CHOICES,
        {"choices.*.message.refusal": None},
        {
            "choices": [
                {"message": {"content": "a", "refusal": None}},
                {"message": {"refusal": "no"}},
                {"message": None},
                1,
            ]
        },
    ),
    "a parent that is not there": ({"a": 1}, {"b.c": 1, "a.c": 1, "*.d": 1, "a.*.d": 1}, {"a": 1}),
    "lists in lists": ({"a": [[{}], [{}, {}]]}, {"a.*.*.b": []}, {"a": [[{"b": []}], [{"b": []}, {"b": []}]]}),
    "a list of documents": ([{}, {"a": 1}], {"*.a": 2}, [{"a": 2}, {"a": 1}]),
    "what an earlier path made": ({}, {"a": {}, "a.b": "c"}, {"a": {"b": "c"}}),
    "any JSON value": ({}, {"a": {"b": [1, 1.5, True, "x"]}}, {"a": {"b": [1, 1.5, True, "x"]}}),
    "items that are written already": (
        {"a": [{"n": 1}, Written(b'{"n":1},{"b":2,"n":0.10}')]},
        {"a.*.b": 5},
        {"a": [{"n": 1, "b": 5}, {"n": 1, "b": 5}, {"b": 2, "n": Number("0.10")}]},
    ),
    "nothing": (CHOICES, {}, CHOICES),
}


@pytest.mark.parametrize("case", FILLED)
def test_constants_are_put_where_they_are_missing(case: str) -> None:
    document, constants, expected = FILLED[case]
    document = copy.deepcopy(document)
    fill(document, spelled(constants))
    assert jsontext.loads(jsontext.dumps(document).decode()) == expected


@pytest.mark.parametrize("path", ["a", "choices.*.message.refusal", "*.a", "a.*.*.b", "größe", "a.b-c", "x0", "4o.a"])
def test_a_path_is_names_and_stars(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize("path", ["", "a.", ".a", "a..b", "*", "a.*", "a*", "a b", "0", "choices.0.x", "a.1", "a\n"])
def test_anything_else_is_none(path: str) -> None:
    assert not is_path(path)


EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
SPEC = AnswerSpec("r", "chat", on_truncated="partial", fill=spelled({"choices.*.message.refusal": None, "error.x": 1}))


def read(body: bytes) -> tuple[int, Any]:
    answer = SPEC.read(200, "text/event-stream")
    answer.feed(body)
    reply = answer.finish()
    assert reply is not None
    return reply.status, jsontext.loads(reply.body.decode())


def test_an_answer_gets_the_constants() -> None:
    status, document = read(EVENT + b"data: [DONE]\n\n")
    assert status == 200
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "a", "refusal": None}


def test_an_error_gets_none() -> None:
    status, document = read(EVENT + b'data: {"error":{"message":"no"}}\n\n')
    assert status == 502
    assert "x" not in document["error"]
