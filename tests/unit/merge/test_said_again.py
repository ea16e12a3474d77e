"""Arguments said more than once: a table of pieces, and the text that they mean."""

import json
from itertools import pairwise
from time import thread_time

import pytest
from force_stream.merge.said_again import is_object, said_once
from hypothesis import given
from hypothesis import strategies as st

WHOLE = '{"a": {"b": [1, "}{"]}}'
TABLE: dict[str, tuple[list[str], str]] = {
    "nothing": ([], ""),
    "empty pieces": (["", ""], ""),
    "fragments": (['{"a"', ":", "1}"], '{"a":1}'),
    "what joins to JSON is not judged": (['{"a":', '{"a":', "1}}"], '{"a":{"a":1}}'),
    "a list that begins with itself": (["[", "[", "1]]"], "[[1]]"),
    "the last brace never came": (['{"a":', "1"], '{"a":1'),
    "cumulative": (['{"q"', '{"q":"a', '{"q":"ab"}'], '{"q":"ab"}'),
    "cumulative, the last one twice": (["{", '{"q":1}', '{"q":1}'], '{"q":1}'),
    "cumulative, cut off": (['{"q"', '{"q":"a'], '{"q"{"q":"a'),
    "consolidated": (['{"a":', "1}", '{"a":1}'], '{"a":1}'),
    "consolidated twice": (['{"a":', "1}", '{"a":1}', '{"a":1}'], '{"a":1}'),
    "consolidated, then an empty piece": (['{"a":', "1}", '{"a":1}', ""], '{"a":1}'),
    "consolidated before the last fragment": (['{"a":', "[1,", '{"a":[1,', "2]}"], '{"a":[1,2]}'),
    "consolidated with other white space": (['{"a":1', ',"b":2}', '{"a": 1, "b": 2}'], '{"a":1,"b":2}'),
    "consolidated in another order": (['{"a":1,', '"b":2}', '{"b":2,"a":1}'], '{"a":1,"b":2}'),
    "said again in fragments": (['{"a":', "1}", '{"a"', ":1}"], '{"a":1}'),
    "said again in one piece with the rest": (['{"a":', '1}{"a":1}'], '{"a":1}'),
    "a placeholder before": (["{}", '{"a":', "1}"], '{"a":1}'),
    "a placeholder before what is cumulative": (["{}", '{"a":', '{"a":1}'], '{"a":1}'),
    "placeholders before what has one in it": (["{}", "{}", '{"a":', '{"a":{}}'], '{"a":{}}'),
    "a placeholder before what is cut off": (["{}", '{"a":', "1"], '{}{"a":1'),
    "white space stays": (['{"a"', ':"}{"} '], '{"a":"}{"} '),
    "a placeholder after": (['{"a":', "1}", "{}"], '{"a":1}'),
    "a placeholder alone": (["{}"], "{}"),
    "a placeholder twice": (["{}", "{}"], "{}"),
    "two different objects": (['{"a":1}', '{"a":2}'], '{"a":1}{"a":2}'),
    "true is not 1": (['{"a":1}', '{"a":true}'], '{"a":1}{"a":true}'),
    "an object and half of it": (['{"a":1}', '{"a"'], '{"a":1}{"a"'),
    "a seam in a string": ([WHOLE[:9], WHOLE[9:]], WHOLE),
    "words twice": (["ls", "ls"], "lsls"),
    "a list twice": (["[1]", "[1]"], "[1][1]"),
}


@pytest.mark.parametrize(("pieces", "text"), TABLE.values(), ids=list(TABLE))
def test_pieces_mean(pieces: list[str], text: str) -> None:
    assert said_once(pieces) == text


OBJECTS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), min_size=1, max_size=3)


@given(OBJECTS, st.lists(st.integers(1, 60), max_size=4), st.integers(1, 3))
def test_whatever_was_said_again_the_object_stays(value: dict[str, object], cuts: list[int], times: int) -> None:
    text = json.dumps(value)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    fragments = [text[start:end] for start, end in pairwise(places)]
    cumulative = [text[:end] for end in places[1:]]
    for pieces in (fragments, cumulative, [*fragments, *[text] * times], [*cumulative, *[text] * times]):
        assert said_once(pieces) == text


@given(st.lists(st.text('{}":,a1 ', max_size=4), max_size=8))
def test_what_is_json_stays_and_nothing_is_made_up(pieces: list[str]) -> None:
    text = "".join(pieces)
    once = said_once(pieces)
    assert once in text
    assert once == text or is_object(once)


@pytest.mark.parametrize("piece", ["{}", "{", '{"a":1}{', "a", '{"a'])
def test_many_pieces_take_time_in_proportion(piece: str) -> None:
    def took(number: int) -> float:
        times = []
        for _ in range(3):
            begun = thread_time()
            said_once([piece] * number)
            times.append(thread_time() - begun)
        return min(times)

    assert took(200_000) <= 12 * took(50_000) + 0.01
