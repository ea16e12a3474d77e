"""JSON in fragments: when it was said more often than once."""

from typing import Any

import pytest
from force_stream.merge.fields import CHANGED, Concat
from force_stream.merge.json_text import JsonText
from harness.merging import merged


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        pytest.param(['{"a":', "1}"], '{"a":1}', id="fragments are joined"),
        pytest.param(['{"a":', "1}", '{"a":1}'], '{"a":1}', id="said again whole"),
        pytest.param(['{"a":', "1}", '{"a":', "1}"], '{"a":1}', id="said again in fragments"),
        pytest.param(['{"a":1}', '{"a":1}', '{"a":1}'], '{"a":1}', id="said three times"),
        pytest.param(['{"a":', "1}", '{"a": 1}'], '{"a":1}', id="said again with other white space"),
        pytest.param(['{"a":', '{"a":1', '{"a":1}'], '{"a":1}', id="cumulative"),
        pytest.param(['{"a":', '{"a":1}', '{"a":1}'], '{"a":1}', id="cumulative, and said again"),
        pytest.param(['{"a":', '{"a":1'], '{"a":1', id="cumulative, and cut"),
        pytest.param(["{}", '{"a":', "1}"], '{"a":1}', id="an empty object in advance"),
        pytest.param(["{}", "{}"], "{}", id="an empty object twice"),
        pytest.param(["[[", "[[1", "]]"], "[[[[1]]", id="fragments that only begin alike"),
        pytest.param(['{"a":1}', '{"a":2}'], '{"a":1}{"a":2}', id="two unlike objects"),
        pytest.param(['{"a":1}', '{"a":true}'], '{"a":1}{"a":true}', id="two objects that Python calls equal"),
        pytest.param(["1", "1"], "11", id="a number"),
        pytest.param(['{"a":"x', "x", '"}'], '{"a":"xx"}', id="letters that repeat"),
        pytest.param(['{"a":', "1"], '{"a":1', id="cut"),
        pytest.param(["", None, "{}"], "{}", id="nothing before it"),
        pytest.param([""], "", id="nothing at all"),
        pytest.param([{"a": 1}], {"a": 1}, id="the object itself"),
    ],
)
def test_a_text_that_is_said_again_is_said_once(pieces: list[Any], text: Any) -> None:
    assert merged(JsonText, pieces) == text


def test_fragments_are_parsed_while_they_may_be_cumulative() -> None:
    text = JsonText()
    assert text.add('{"a":') is CHANGED
    assert text.add('{"a":1') is CHANGED
    assert isinstance(text.add("}"), Concat)
    assert isinstance(text.add('{"a":1}'), Concat)
