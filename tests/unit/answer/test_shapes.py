"""What is written of lists without their values is what would be written of their values."""

import json
from typing import Any

import pytest
from force_stream.answer import shapes
from force_stream.wire import jsontext
from hypothesis import given
from hypothesis import strategies as st


def entry(token: str, *top: str) -> dict[str, Any]:
    said = {"token": token, "logprob": -1.25, "bytes": list(token.encode())}
    return said | {"top_logprobs": [{"token": one, "logprob": -0.5, "bytes": None} for one in top]}


def inside(*items: Any) -> bytes:
    return json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode()[1:-1]


PLAIN = inside(entry("a", "b", "c"))
LISTS = {
    "log probabilities": [PLAIN, inside(entry("é", "\n", '"')), inside(entry("x", "y"), entry("", "z", "z", "z"))],
    "numbers": [b"1", b"0,-5,2.50", b"1E400,-0,1e-7", b"9" * 5_000],
    "texts": [b'"a"', b'"b\\\\","c"', b"null"],
    "lists in lists": [b'[["a",1]]', b'[["b",2],["c",null]]', b"[]"],
    "true and false": [b"true,false", b"null"],
}
ODD = {
    "a name twice": PLAIN.replace(b'"token"', b'"logprob"', 1),
    "a name more": PLAIN.replace(b"{", b'{"more":1,', 1),
    "names in another order": inside({"logprob": 1, "token": "a", "bytes": [], "top_logprobs": []}),
    "blanks": PLAIN.replace(b",", b", "),
    "an escape that is not needed": PLAIN.replace(b'"a"', b'"\\u0061\\/"'),
    "a control character": PLAIN.replace(b'"a"', b'"\x1b\\u001B"'),
    "half of a surrogate pair": PLAIN.replace(b'"a"', b'"\\ud83d"'),
    "no number": PLAIN.replace(b"-1.25", b"NaN"),
    "two items in place of one": b'1,{"token":[[[]]]}',
    "another list": b'"x"',
}
BROKEN = [b"", b"1],[2", b"{", b'"a', b"01", b"1.", b'"\\x"', b'"\xff"', b'"\xe2\x82', b"[1}"]


def plainly(insides: list[bytes]) -> bytes:
    values = [item for one in insides for item in jsontext.loads(f"[{one.decode()}]")]
    return jsontext.dumps(values)[1:-1]


def shape_of(one: bytes) -> shapes.Shape:
    shape = shapes.shape_of([one] * 1_000)
    assert shape is not None
    return shape


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_one_shape_are_copied(name: str) -> None:
    insides = LISTS[name] * 2
    assert shape_of(insides[0]).fullmatch(b"".join(one + b"\n" for one in insides))
    assert shapes.written(insides, shape_of(insides[0])) == plainly(insides)


@pytest.mark.parametrize("name", ODD)
def test_a_list_of_another_shape_is_written_anew(name: str) -> None:
    insides = [PLAIN, ODD[name], PLAIN, PLAIN, ODD[name]]
    assert not shape_of(PLAIN).fullmatch(ODD[name] + b"\n")
    assert shapes.written(insides, shape_of(PLAIN)) == plainly(insides)


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_not_a_list_or_is_empty_is_not_written(broken: bytes) -> None:
    assert shapes.written([PLAIN, broken, PLAIN], shape_of(PLAIN)) == b""
    assert shapes.written([b"1", broken, b"2"], shape_of(b"1")) == b""


@pytest.mark.parametrize("name", ODD)
def test_a_shape_is_of_lists_that_are_written_as_they_are_alone(name: str) -> None:
    shape = shapes.shape_of([ODD[name]] * 1_000)
    assert shape is None or shapes.written([ODD[name]], shape) == plainly([ODD[name]])


def test_a_shape_is_made_once_many_lists_have_come_and_is_then_known() -> None:
    one = inside({"of this test": 1})
    assert shapes.shape_of([one] * 1) is None
    assert shapes.shape_of([one] * 8) is not None
    assert shapes.shape_of([inside({"of this test": 2.5})] * 1) is not None


def test_not_all_shapes_are_kept() -> None:
    for number in range(100):
        assert shapes.shape_of([inside({f"{number}": 1})] * 8) is not None
    assert len(shapes._kept) <= 64


def test_a_shape_with_very_many_names_is_not_made() -> None:
    assert shapes.shape_of([inside({f"{number}": 1 for number in range(1_000)})] * 1_000) is None


def test_a_list_whose_names_are_values_has_no_shape() -> None:
    insides = [inside({token: -0.5}) for token in ("The", " end", "of", " it", ".", "A", "b", "c")]
    assert shapes.shape_of(insides) is None
    assert shapes.shape_of([insides[0]] * 8) is not None


def test_an_empty_list_has_no_shape_and_so_none_that_nothing_and_commas_fit() -> None:
    assert shapes.shape_of([b""] * 1_000) is None
    assert shapes.shape_of([b" "] * 1_000) is None


@pytest.mark.parametrize("opening", ["[", '{"a":[', '["b",'])
def test_lists_deep_in_one_another_do_not_make_a_shape_that_doubles_at_each_level(opening: str) -> None:
    closing = {"[": "]", '{"a":[': "]}", '["b",': "]"}[opening]
    assert shapes.shape_of([(opening * 60 + "1" + closing * 60).encode()] * 1_000) is None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", '"', "é"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(st.lists(JSON, min_size=1, max_size=3), min_size=1, max_size=4), st.booleans())
def test_any_lists_are_written_as_their_values(lists: list[list[Any]], escaped: bool) -> None:
    insides = [json.dumps(one, ensure_ascii=escaped, separators=(",", ":")).encode()[1:-1] for one in lists]
    shape = shapes.shape_of([insides[0]] * 1_000)
    if shape is not None:
        assert shapes.written(insides, shape) == plainly(insides)
