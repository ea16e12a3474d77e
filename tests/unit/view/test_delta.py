"""What one chunk adds to those before it, in a line of text."""

from typing import Any

import pytest
from force_stream.view.delta import LONGEST_LINE, LONGEST_NAME, MOST_VALUES, DeltaDescriber, brief, has_text
from force_stream.wire import jsontext
from harness.samples import EVENTS, choice, chunk, function_call


def added(*chunks: dict[str, Any]) -> list[str]:
    describer = DeltaDescriber()
    return [describer.describe(each).line for each in chunks]


def test_a_text_is_added_to_and_all_else_is_set_once() -> None:
    assert added(*EVENTS) == [
        'role "assistant"',
        'content +"Hel"',
        'content +"lo"',
        'finish_reason "stop"',
        "usage {prompt_tokens 3, completion_tokens 2, total_tokens 5}",
    ]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param(
            [chunk(choice(content="ha")), chunk(choice(content="ha"))],
            'content +"ha"',
            id="a text said again is more text",
        ),
        pytest.param(
            [chunk(choice(role="assistant")), chunk(choice(role="assistant"))], "", id="a role said again is nothing"
        ),
        pytest.param([chunk(), chunk(created=1700000009)], "", id="a time that differs in every chunk is no news"),
        pytest.param([chunk(id="a", system_fingerprint="f")], "", id="what every chunk repeats"),
        pytest.param(
            [{"type": "t", "response": {"id": "r", "model": "m", "status": "s"}}],
            'type "t", response.status "s"',
            id="what every response repeats",
        ),
        pytest.param(
            [chunk(choice(content="a"), usage={"total_tokens": 3})], 'content +"a"', id="a usage beside every text"
        ),
        pytest.param([chunk(usage={"total_tokens": 3})], "usage {total_tokens 3}", id="a usage by itself"),
        pytest.param(
            [chunk({"delta": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}})] * 2,
            'content +"a"',
            id="log probabilities again",
        ),
        pytest.param([{"delta": "a", "logprobs": [{"token": "a"}]}], 'delta +"a", logprobs [{…}]', id="a list of them"),
        pytest.param([chunk(), chunk(obfuscation="abc", p="x", usage=None)], "", id="padding and null"),
        pytest.param(
            [chunk(choice(1, content="b")), chunk(choice(content="b"))],
            'choices[0].delta.content +"b"',
            id="a choice goes by its index where there are several",
        ),
        pytest.param(
            [chunk(), chunk(choice(tool_calls=[function_call(2, arguments="{}")]))],
            'tool_calls[2].function.arguments +"{}"',
            id="a tool call goes by its index",
        ),
        pytest.param(
            [chunk(choice(tool_calls=[function_call(0, id="call_1", name="f", arguments="{")]))],
            'tool_calls[0].function.name "f", tool_calls[0].function.arguments +"{", tool_calls[0].id "call_1"',
            id="the name of a tool comes first",
        ),
        pytest.param([chunk(), {"x": {"y": [1, 2.50, True, None]}}], "x.y [1, 2.5, true, null]", id="plain values"),
        pytest.param([chunk(), {"x": [[1], {"a": 1}]}], "x [[…], {…}]", id="lists of lists in short"),
        pytest.param(
            [chunk(), chunk(choice(content="a" * 1000))],
            f'content +"{"a" * 80}"… (1,000 characters)',
            id="a long text in short",
        ),
        pytest.param(
            [chunk(), chunk(choice(content='"\\"'))],
            'content +"\\"\\\\\\""',
            id="quotes and backslashes are escaped",
        ),
    ],
)
def test_an_event_shows_what_it_added(chunks: list[dict[str, Any]], expected: str) -> None:
    assert added(*chunks)[-1] == expected


def test_numbers_are_shown_digit_for_digit() -> None:
    numbers = jsontext.loads('{"a":1.50,"b":1E400,"c":%s}' % ("7" * 100))
    assert added(numbers) == [f"a 1.50, b 1E400, c {'7' * 80}…"]


def test_a_type_that_the_reader_knows_already_is_left_out() -> None:
    assert DeltaDescriber().describe({"type": "ping", "n": 1}, "ping").line == "n 1"


def test_the_names_of_tools_are_never_cut_off() -> None:
    names = [f"{number}" * LONGEST_NAME for number in range(5)]
    calls = [function_call(number, name=name, arguments="{" * 200) for number, name in enumerate(names)]
    (line,) = added(chunk(choice(tool_calls=calls)))
    assert [name for name in names if f'"{name}"' in line] == names
    assert line.endswith("…")
    offered = {"type": "response.created", "response": {"status": "s", "tools": [{"name": "a"}]}}
    assert added(offered)[0].endswith('response.tools[0].name "a"'), "nobody calls it"


def test_texts_are_there_as_they_are_too() -> None:
    describer = DeltaDescriber()
    assert describer.describe(chunk(choice(role="assistant", content="a" * 100))) == (
        f'content +"{"a" * 80}"… (100 characters), role "assistant"',
        (("a" * 100, "content", "content"),),
        False,
    )
    assert describer.describe(chunk(choice(role="assistant", content="b"))).only_texts
    assert describer.describe(chunk()) == ("", (), True)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (chunk(choice(content="a")), True),
        (chunk(choice(reasoning_content="a")), True),
        (chunk(choice(tool_calls=[function_call(0, arguments="{")])), True),
        ({"type": "response.output_text.delta", "delta": "a"}, True),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}, True),
        ({"choices": [{"text": "a"}]}, True),
        ({"b64_json": "QQ=="}, True),
        (chunk(choice(content="", role="assistant")), False),
        (chunk(choice(finish_reason="stop")), False),
        (chunk(obfuscation="abc"), False),
        ({"text": "a"}, False),
    ],
)
def test_a_chunk_has_text_if_it_adds_to_what_the_model_said(one: dict[str, Any], expected: bool) -> None:
    assert has_text(one) is bool(DeltaDescriber().describe(one).texts) is expected


def test_a_chunk_is_looked_into_as_far_as_a_person_would_read() -> None:
    wide = {"m": {f"k{number}": {"x": 1} for number in range(MOST_VALUES + 100)}}
    assert len(added(wide)[0]) <= LONGEST_LINE + 1
    assert has_text(wide | {"delta": "a"}) is False, "it comes after too much else"
    deep: Any = "a"
    for _ in range(50):
        deep = {"delta": deep}
    assert added(deep)[0].endswith(" {delta {…}}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "{}"),
        ([], "[]"),
        (None, "null"),
        ({f"k{number}": number for number in range(7)}, "{k0 0, k1 1, k2 2, k3 3, k4 4, k5 5, …}"),
        (list(range(7)), "[0, 1, 2, 3, 4, 5, …]"),
        ({"a": {"b": 1}, "c": []}, "{a {…}, c []}"),
    ],
)
def test_a_value_is_shown_in_short(value: Any, expected: str) -> None:
    assert brief(value) == expected
