"""Long JSON texts, read and written in parts."""

import contextlib
import functools
import gc
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from force_stream.wire import jsontext, long_json
from force_stream.wire.jsontext import Number
from hypothesis import example, given
from hypothesis import strategies as st

WINDOWS = st.integers(16, 40)
BLANKS = st.sampled_from(["", "", "", " ", "\t\r\n", " " * 50])
# What ends a string, what may be cut in two, and what looks like structure.
SPELLINGS = st.lists(
    st.sampled_from(
        [
            *("a", "é", "你", "😀", "\ud83d", "\ude00", "[", "]", "{", "}", ",", ":", "\n", "a" * 40),
            *(r"\"", r"\\", r"\n", r"\/", r"\u0061", r"\u005c", r"\u0022", r"\ud83d", r"\ude00", r"\ud83d\ude00"),
        ]
    ),
    max_size=16,
).map("".join)
STRINGS = SPELLINGS.map('"{}"'.format)
NAMES = st.sampled_from(['"a"', '"a"', '"b"', '""', r'"\u0061"']) | STRINGS
SCALARS = STRINGS | st.sampled_from(
    [
        *("true", "false", "null", "NaN", "-Infinity", "Infinity", "0", "-0", "1.50", "-1E+2", "12.5e-3", "1e999"),
        *("1" * 60, "0." + "3" * 60, "-" + "7" * 60 + "e5", "9" * 5000),
    ]
)


def containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(BLANKS, values, BLANKS).map("".join)
    named = st.tuples(BLANKS, NAMES, BLANKS, st.just(":"), members).map("".join)
    inside = st.lists(members, max_size=6).map(",".join).map("[{}]".format)
    return inside | st.lists(named, max_size=6).map(",".join).map("{{{}}}".format) | BLANKS.map("[{}]".format)


TEXTS = st.recursive(SCALARS, containers, max_leaves=20)
AROUND = [("[", "]"), ('{"a":', "}"), ('[{"b":1},', ",2]"), ('{"c":[],"d":', ',"e":{}}')]
DEEP = st.builds(
    lambda ways, value: "".join(opening for opening, _ in ways) + value + "".join(end for _, end in ways[::-1]),
    st.lists(
        st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"b":1},', ",2]"), ('{"c":[],"d":', ',"e":{}}')]), max_size=40
    ),
    SCALARS,
)
BROKEN = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.integers(0, 2),
        st.sampled_from(["", '"', "\\", "\\u", "\\u12", "{", "}", "[", "]", ",", ":", " " * 50, "1", "-", "x", "\x0b"]),
    ),
    max_size=3,
)


def broken(text: str, changes: list[tuple[int, int, str]]) -> str:
    for at, length, new in changes:
        at %= len(text) + 1
        text = text[:at] + new + text[at + length :]
    return text


def outcome(read: Callable[[], tuple[Any, int]]) -> tuple[Any, int] | None:
    try:
        value, end = read()
    except json.JSONDecodeError:
        return None
    # Not the values alone: 1 == 1.0 == True, and of a member that comes twice the place counts.
    return repr(value), end


@given(st.builds(broken, TEXTS | DEEP, BROKEN), WINDOWS)
@example(r'["aaaaaaaaaaa\ud83d\ude00"]', 16)
@example(r'["aaaaaaaaaaaaaaaa\ud83d"]', 16)
@example(r'["aaaaaaaaaaa\\ud83d\ude00"]', 16)
@example(r'["aaaaaaaaaaaaaaaa\ud83d', 16)
@example(r'["aaaaaaaaaaaaaaaa\ud83d\ude', 16)
@example(r'["aaaaaaaaaaaaaaa\"]', 16)
@example("[" + "1," * 9 + "]", 16)
@example("[" + "1," * 9 + " " * 50 + "]", 16)
@example("[," + "1," * 9 + "1]", 16)
@example("[" + "1," * 9 + ",1]", 16)
@example('{"a":1,"b":2,"a":3,"b":[1,2,3,4,5,6,7,8,9],"a":4,}', 16)
@example('{"":1,"":2,"a":[1,2,3,4,5,6,7,8,9],"":4}', 16)
@example("[1,2,3,4,5,6,7,8,9}", 16)
@example('{"a":[1,2,3,4,5,6,7,8,9}}', 16)
@example('{"aaaaaaaaaaaaaaaaaaaa" 1}', 16)
@example("[{" + " " * 50 + "}]", 16)
@example("[" + " " * 50 + "]", 16)
def test_a_text_reads_the_same_in_windows_and_in_one_go(text: str, window: int) -> None:
    decode = jsontext.value_at
    assert outcome(lambda: long_json.read(text, 0, decode, window)) == outcome(lambda: decode(text, 0))


@pytest.mark.parametrize("text", [f"[{'{},' * 50_000}[1]]", f'"{"a" * 500_000}"'], ids=["list", "text"])
def test_of_a_long_value_no_more_is_kept_than_matters(text: str) -> None:
    value, end = long_json.read(text, 0, json.JSONDecoder().raw_decode, most=100)
    assert end == len(text)
    assert 100 <= len(value) < 100_000


@given(st.builds(broken, TEXTS | DEEP, BROKEN), WINDOWS)
def test_what_is_skimmed_ends_where_it_would_have_ended(text: str, window: int) -> None:
    read = outcome(lambda: jsontext.value_at(text, 0))
    skim = long_json.skimming(jsontext.value_at)
    assert (outcome(lambda: long_json.read(text, 0, skim, window)) or (0, 0))[1] == (read or (0, 0))[1]


@given(TEXTS, st.text(max_size=5), WINDOWS)
def test_reading_starts_where_it_is_told_and_ends_with_the_value(text: str, before: str, window: int) -> None:
    expected = jsontext.value_at(text, 0)[1] + len(before)
    assert long_json.read(before + text + " x", len(before), jsontext.value_at, window)[1] == expected


@given(TEXTS | DEEP, st.integers(1, 40))
def test_a_value_is_written_the_same_in_parts_and_in_one_go(text: str, most: int) -> None:
    value = [jsontext.loads(text)]
    assert b"".join(long_json.write(value, jsontext.dumps, most)) == jsontext.dumps(value)


@pytest.mark.parametrize("most", [1, 10, 10_000])
def test_many_members_are_written_the_same_in_parts_and_in_one_go(most: int) -> None:
    value = {f"{number}": [number, {}, [[]]] for number in range(600)} | {"a": list(range(600)), "b": ["é" * 99] * 600}
    assert b"".join(long_json.write(value, jsontext.dumps, most)) == jsontext.dumps(value)


class Recorder:
    """Does what `json` does, and notes how much it was given, and how much of it was read."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.read = 0

    def decode(self, text: str, start: int) -> tuple[Any, int]:
        self.sizes.append(len(text))
        try:
            value, end = jsontext.value_at(text, start)
        except json.JSONDecodeError:
            end = len(text)
            raise
        finally:
            self.read += end - start
        return value, end

    def encode(self, value: Any) -> bytes:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        self.sizes.append(len(text))
        return text


LONG = {
    "one text": "a" * 500_000,
    "a text full of escapes": '\\"\n' * 200_000,
    "a text beyond ASCII": "你好😀" * 100_000,
    "a text under a long name": {"n" * 300_000: "a" * 300_000},
    "empty objects": [{}] * 100_000,
    "empty lists": [[]] * 100_000,
    "small numbers": [1] * 200_000,
    "objects of many kinds": [{"token": "a", "bytes": [97, 98], "top": [{"b": None}], "c": {}}] * 8_000,
    "many names": {f"name {number}": number for number in range(40_000)},
    "lists of lists": [[list(range(50))] * 50] * 40,
    "deep": json.loads("[" + ",".join(["[" * 30 + "1" + "]" * 30] * 5_000) + "]"),
    "long texts in between": [{"a": "b" * 70_000, "c": [{}] * 20}] * 5,
}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
@pytest.mark.parametrize("indent", [None, 1], ids=["compact", "indented"])
def test_json_never_gets_more_than_a_short_part(value: Any, indent: int | None) -> None:
    reader, writer = Recorder(), Recorder()
    text = json.dumps({"a": [value]}, ensure_ascii=False, indent=indent)
    read, end = long_json.read(text, 0, reader.decode)
    assert (read, end) == ({"a": [value]}, len(text))
    assert max(reader.sizes, default=0) <= 64 * 1024 + 2
    written = b"".join(long_json.write(read, writer.encode))
    assert written == json.dumps(read, ensure_ascii=False, separators=(",", ":")).encode()
    assert max(writer.sizes) <= 4 * 64 * 1024


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_no_part_is_read_again_and_again(value: Any) -> None:
    text, reader = json.dumps([value]), Recorder()
    long_json.read(text, 0, reader.decode)
    assert reader.read < 2 * len(text)


def test_a_text_that_is_short_is_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_json, "read", None)
    monkeypatch.setattr(long_json, "write", None)
    assert jsontext.dumps(jsontext.loads('["' + "a" * 60_000 + '"]')) == b'["' + b"a" * 60_000 + b'"]'
    assert jsontext.dumps(jsontext.loads("[" * 7_000 + "]" * 7_000)) == b"[" * 7_000 + b"]" * 7_000


def test_a_text_that_is_long_is_read_and_written_as_a_short_one_is() -> None:
    long = "a" * 100_000
    text = f'[-0,1.50,"{long}",1E400,{"9" * 5000},NaN,"\\ud83d",{{"x":-0,"x":1e5}},{"8" * 100_000}]'
    value = jsontext.loads(f" {text} ")
    assert value[:2] == [Number("-0"), Number("1.50")]
    assert jsontext.dumps(value) == text.replace("NaN", "null").replace('"x":-0,', "").encode()
    assert jsontext.split(f"{text} x")[1:] == (text, " x")
    assert jsontext.value_at(f"x{text}", 1) == (value, len(text) + 1)


@pytest.mark.parametrize("end", ["", "]", '"', "}", "],", "]]", "] x"])
def test_a_long_text_that_is_broken_raises(end: str) -> None:
    text = '["' + "a" * 100_000 + '",' + "[1]," * 50_000 + end
    with pytest.raises(json.JSONDecodeError):
        jsontext.loads(text)


@pytest.mark.parametrize("text", ["[1]", "[1", "[" * 20_000])
def test_garbage_is_collected_as_before_once_a_text_is_read(text: str) -> None:
    before = gc.get_threshold()
    with contextlib.suppress(json.JSONDecodeError):
        long_json.read(text, 0, jsontext.value_at)
    assert gc.get_threshold() == before


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="it has another collector, without this threshold")
def test_not_all_garbage_is_looked_for_while_a_text_is_read() -> None:
    def decode(text: str, start: int) -> tuple[Any, int]:
        assert gc.get_threshold()[2] > 1_000_000
        return long_json.read(text, start, jsontext.value_at)  # as if another thread read at the same time

    assert long_json.read("[[1]]", 0, decode) == ([[1]], 5)


def test_the_first_that_ends_leaves_the_others_as_gentle_as_they_were() -> None:
    before = gc.get_threshold(), sys.getswitchinterval()
    one, other = long_json.gently(), long_json.gently()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert sys.getswitchinterval() < before[1]
    other.__exit__(None, None, None)
    assert (gc.get_threshold(), sys.getswitchinterval()) == before


@pytest.mark.parametrize("opening", ["[", '{"a":', '[1,{"b":'])
@pytest.mark.parametrize("count", [20_000, 200_000])
def test_nesting_without_end_raises(opening: str, count: int) -> None:
    with pytest.raises(json.JSONDecodeError):
        long_json.read(opening * count, 0, jsontext.value_at)


def test_deep_nesting_is_read_and_written() -> None:
    text = '[{"a":' * 4_000 + "1" + "}]" * 4_000
    value, end = long_json.read(text, 0, jsontext.value_at)
    assert end == len(text)
    assert b"".join(long_json.write(value, jsontext.dumps)) == text.encode()


# Freeing


class Freed:
    """Notes how much goes with it when it is freed."""

    def __init__(self, value: Any, steps: list[int]) -> None:
        self.value = value
        self._steps = steps

    def __del__(self) -> None:
        self._steps.append(1)


def in_one_step(make: Callable[[Any], Any]) -> int:
    """How many values are freed at most between two lines of Python, when a value of very many is."""
    freed: list[int] = []
    garbage = [make(freed)]
    most = before = 0

    def look(*_: Any) -> Any:
        nonlocal most, before
        most, before = max(most, len(freed) - before), len(freed)
        return look

    sys.settrace(look)
    try:
        long_json.drop(garbage)
    finally:
        sys.settrace(None)
    assert not garbage
    assert len(freed) == COUNT
    return most


COUNT = 3_000


@pytest.mark.parametrize(
    "make",
    [
        lambda freed: [Freed(None, freed) for _ in range(COUNT)],
        lambda freed: {str(number): Freed(None, freed) for number in range(COUNT)},
        lambda freed: [[[Freed(None, freed)] * 2] for _ in range(COUNT)],
        lambda freed: Freed({"a": tuple(Freed([], freed) for _ in range(COUNT - 1))}, freed),
        lambda freed: functools.reduce(lambda inner, _: Freed([inner], freed), range(COUNT), None),
    ],
    ids=["list", "object", "nested", "within an instance", "deep"],
)
def test_what_is_dropped_is_freed_in_short_steps(make: Callable[[Any], Any]) -> None:
    assert in_one_step(make) <= 64


def test_what_somebody_else_has_is_not_changed_by_dropping_it() -> None:
    inner = {"a": [1, [2]], "b": {}}
    outer = [inner, "text", inner["a"]]
    garbage: list[Any] = [[outer, {"x": inner, "y": [[inner["b"]]]}], inner]
    long_json.drop(garbage)
    assert garbage == []
    assert (inner, outer) == ({"a": [1, [2]], "b": {}}, [inner, "text", [1, [2]]])
