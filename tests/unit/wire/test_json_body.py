"""The byte-preserving edit of a JSON request body."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from force_stream.wire.json_body import BLOCK, Body, Edited, read_body, undo
from hypothesis import example, given
from hypothesis import strategies as st

USAGE = {"include_usage": True}
# The smallest blocks cut a run out of nearly every string, and put block borders at every place of an escape.
TINY_BLOCKS = st.integers(6, 24)


def read(raw: bytes, block: int = BLOCK) -> Body:
    body = read_body(raw, block)
    assert body is not None
    return body


# ---- tables

FORCED = {
    "stream is added in front": (
        b'{"model":"m"}',
        USAGE,
        b'{"stream":true,"stream_options":{"include_usage":true},"model":"m"}',
    ),
    "nothing but stream where no options are wanted": (b'{"model":"m"}', None, b'{"stream":true,"model":"m"}'),
    "an empty mapping adds no options": (b'{"a":1}', {}, b'{"stream":true,"a":1}'),
    "an empty mapping leaves the request's options": (
        b'{"stream_options":{"x":1.0}}',
        {},
        b'{"stream":true,"stream_options":{"x":1.0}}',
    ),
    "an empty object gets no comma": (b" { } ", None, b' {"stream":true } '),
    "false becomes true in place": (b'{"a":1, "stream" : false }', None, b'{"a":1, "stream" : true }'),
    "null becomes true in place": (b'{"stream":null,"a":1}', None, b'{"stream":true,"a":1}'),
    "true stays": (b'{"stream":true}', None, b'{"stream":true}'),
    "a stream of any type becomes true": (b'{"stream":{"a":[1]}}', None, b'{"stream":true}'),
    "each of several streams": (b'{"stream":true,"a":1,"stream":false}', None, b'{"stream":true,"a":1,"stream":true}'),
    "a name written with escapes": (b'{"str\\u0065am":false}', None, b'{"str\\u0065am":true}'),
    "only the top level's stream": (
        b'{"tools":[{"stream":false}],"x":{"stream":null},"y":"\\"stream\\":false"}',
        None,
        b'{"stream":true,"tools":[{"stream":false}],"x":{"stream":null},"y":"\\"stream\\":false"}',
    ),
    "options join the request's own": (
        b'{"stream":false,"stream_options":{ "obfuscation" : 1.0 }}',
        USAGE,
        b'{"stream":true,"stream_options":{"include_usage":true, "obfuscation" : 1.0 }}',
    ),
    "options are replaced in place": (
        b'{"stream":false,"stream_options":{"include_usage" : false, "z":1e2, "include_us\\u0061ge":0}}',
        USAGE,
        b'{"stream":true,"stream_options":{"include_usage" : true, "z":1e2, "include_us\\u0061ge":true}}',
    ),
    "options in an empty object get no comma": (
        b'{"stream":0,"stream_options":{ }}',
        USAGE,
        b'{"stream":true,"stream_options":{"include_usage":true }}',
    ),
    "options replace null": (
        b'{"stream_options":null,"a":1}',
        USAGE,
        b'{"stream":true,"stream_options":{"include_usage":true},"a":1}',
    ),
    "options replace anything but an object": (
        b'{"stream":false,"stream_options":["{"]}',
        USAGE,
        b'{"stream":true,"stream_options":{"include_usage":true}}',
    ),
    "each of several options": (
        b'{"stream":false,"stream_options":null,"stream_options":{"a":1}}',
        USAGE,
        b'{"stream":true,"stream_options":{"include_usage":true},"stream_options":{"include_usage":true,"a":1}}',
    ),
    "options beyond ASCII, under names beyond ASCII": (
        '{"stream":false,"stream_options":{"größe":"ü", "é":1}}'.encode(),
        {"größe": "ö"},
        '{"stream":true,"stream_options":{"größe":"\\u00f6", "é":1}}'.encode(),
    ),
    "None removes the first options": (
        b'{ "stream_options":{"a":1} , "stream":false}',
        None,
        b'{ "stream":true}',
    ),
    "None removes options in the middle": (
        b'{"stream":false,\n  "stream_options":{"a":1},\n  "b":2}',
        None,
        b'{"stream":true,\n  "b":2}',
    ),
    "None removes the last options": (b'{"stream":false , "stream_options":{} }', None, b'{"stream":true }'),
    "None removes the only member": (b'{"stream_options":{"a":1}}', None, b'{"stream":true}'),
    "None removes all options of several": (
        b'{"stream_options":1,"stream_options":2,"a":3,"stream_options":4,"stream_options":5}',
        None,
        b'{"stream":true,"a":3}',
    ),
    "a byte order mark stays": (b'\xef\xbb\xbf{"a":1}', None, b'\xef\xbb\xbf{"stream":true,"a":1}'),
    "spelling stays": (
        '\r\n{"a":1.50E+02,"a":-0,"\\u00e9":"\\/é😀","b":[ ],"c":1e999}\t'.encode(),
        None,
        '\r\n{"stream":true,"a":1.50E+02,"a":-0,"\\u00e9":"\\/é😀","b":[ ],"c":1e999}\t'.encode(),
    ),
    "an integer beyond Python's limit stays": (
        b'{"a":' + b"7" * 5000 + b"}",
        None,
        b'{"stream":true,"a":' + b"7" * 5000 + b"}",
    ),
    "a control character in a string is the upstream's to judge": (
        b'{"a":"x\ny"}',
        None,
        b'{"stream":true,"a":"x\ny"}',
    ),
}


@pytest.mark.parametrize(("raw", "options", "expected"), FORCED.values(), ids=FORCED.keys())
def test_forced_changes_only_stream_and_its_options(
    raw: bytes, options: dict[str, object] | None, expected: bytes
) -> None:
    edited = read(raw).forced(options)
    assert edited.body == expected
    assert undo(edited.body, edited.undo) == raw


WITHOUT = {
    "first": (b'{ "stream":true, "a":1}', ("stream",), b'{ "a":1}'),
    "middle": (b'{"a":1, "stream":true, "b":2}', ("stream",), b'{"a":1, "b":2}'),
    "last": (b'{"a":1, "stream":true }', ("stream",), b'{"a":1 }'),
    "only": (b'{ "stream":true }', ("stream",), b"{  }"),
    "all of several": (b'{"s":1,"t":2,"s":3}', ("s", "t"), b"{}"),
    "apart": (b'{"s":1,"a":0,"s":2,"b":0,"s":3}', ("s",), b'{"a":0,"b":0}'),
    "absent": (b'{"a":{"stream":true}}', ("stream",), b'{"a":{"stream":true}}'),
    "none asked for": (b'{"a":1}', (), b'{"a":1}'),
}


@pytest.mark.parametrize(("raw", "keys", "expected"), WITHOUT.values(), ids=WITHOUT.keys())
def test_without_takes_members_and_their_commas(raw: bytes, keys: tuple[str, ...], expected: bytes) -> None:
    edited = read(raw).without(*keys)
    assert edited.body == expected
    assert undo(edited.body, edited.undo) == raw


PLAIN = {
    "a stream with options": (b'{"stream":true, "a":0.10,"stream_options":{"x":1} }', {}, b'{"a":0.10 }'),
    "a stream said twice": (b'{"stream":1,"a":1,"str\\u0065am":true}', {}, b'{"a":1}'),
    "nothing else": (b'{ "stream":true }', {}, b"{  }"),
    "a member is added": (b'{"stream":true,"a":1}', {"store": False}, b'{"store":false,"a":1}'),
    "a member is added to nothing": (b'{"stream":true}', {"store": False}, b'{"store":false}'),
    "a member is overridden where it is": (b'{"b" : 1,"stream":true}', {"b": None}, b'{"b" : null}'),
    "no stream": (b'{"a":1}', {}, b'{"a":1}'),
}


@pytest.mark.parametrize(("raw", "extra", "expected"), PLAIN.values(), ids=list(PLAIN))
def test_plain_takes_the_stream_and_its_options(raw: bytes, extra: dict[str, object], expected: bytes) -> None:
    edited = read(raw).plain(extra, ["stream_options"])
    assert edited.body == expected
    assert undo(edited.body, edited.undo) == raw


ASKS_PLAIN = {
    "absent": (b"{}", True),
    "null": (b'{"stream":null}', True),
    "false": (b'{"stream":false}', True),
    "the last one wins, false": (b'{"stream":true,"stream":false}', True),
    "the last one wins, true": (b'{"stream":false,"str\\u0065am":true}', False),
    "true": (b'{"stream":true}', False),
    "zero": (b'{"stream":0}', True),
    "zero with a point": (b'{"stream":0.0}', True),
    "no text": (b'{"stream":""}', True),
    "blanks": (b'{"stream":" "}', True),
    "false as text": (b'{"stream":"false"}', True),
    "False as text": (b'{"stream":"False"}', True),
    "zero as text": (b'{"stream":"0"}', True),
    "null as text": (b'{"stream":"null"}', True),
    "escaped": (b'{"stream":"f\\u0061lse"}', True),
    "true as text": (b'{"stream":"true"}', False),
    "True as text": (b'{"stream":"True"}', False),
    "one": (b'{"stream":1}', False),
    "minus one": (b'{"stream":-1}', False),
    "other text": (b'{"stream":"yes"}', False),
    "a long text": (b'{"stream":"' + b"x" * 3 * BLOCK + b'"}', False),
    "an empty list": (b'{"stream":[]}', False),
    "an empty object": (b'{"stream":{}}', False),
    "the last one wins, as text": (b'{"stream":true,"stream":"false"}', True),
    "nested does not count": (b'{"a":{"stream":true}}', True),
}


@pytest.mark.parametrize(("raw", "expected"), ASKS_PLAIN.values(), ids=ASKS_PLAIN.keys())
def test_asks_plain(raw: bytes, expected: bool) -> None:
    assert read(raw).asks_plain is expected


@pytest.mark.parametrize("false", [b"false", b'"false"', b'"False"', b"0", b"0.0", b'""', b'"0"', b"null"])
def test_whatever_means_false_becomes_true_and_comes_back(false: bytes) -> None:
    raw = b'{"a":1, "stream" : %b ,"b":2}' % false
    edited = read(raw).forced(None)
    assert edited.body == b'{"a":1, "stream" : true ,"b":2}'
    assert undo(*edited) == raw


NO_OBJECT = {
    "nothing": b"",
    "blanks": b" \n",
    "many blanks": b" " * (3 * BLOCK),
    "array": b'[{"a":1}]',
    "string": b'"{}"',
    "number": b"1",
    "null": b"null",
    "open": b'{"a":1',
    "open string": b'{"a":"b',
    "open array of objects": b'{"a":[{},',
    "comma before the end": b'{"a":1,}',
    "comma before the end of an array": b'{"a":[{},]}',
    "no colon": b'{"a" 1}',
    "no comma": b'{"a":1 "b":2}',
    "name without quotes": b"{a:1}",
    "single quotes": b"{'a':1}",
    "two documents": b"{}{}",
    "trailing garbage": b'{"a":1}x',
    "trailing garbage after an empty object": b"{} x",
    "a blank that JSON does not know": b'{"a":1}\x0b',
    "nan": b'{"a":NaN}',
    "nested infinity": b'{"a":[-Infinity]}',
    "leading zero": b'{"a":01}',
    "utf-16": '{"a":1}'.encode("utf-16"),
    "latin-1": b'{"a":"\xe9"}',
    "encoded surrogate": b'{"a":"\xed\xa0\x80"}',
    "latin-1 beside a long run": b'{"a":"\xe9","b":"' + b"x" * (3 * BLOCK) + b'"}',
    "a long run of latin-1": b'{"a":"' + b"\xe9" * (3 * BLOCK) + b'"}',
    "character split by a long run": b'{"a":"' + b"x" * (BLOCK - 7) + b"\xc3" + b"x" * (3 * BLOCK) + b'"}',
    "two byte order marks": b"\xef\xbb\xbf\xef\xbb\xbf{}",
    "deep nesting": b'{"a":' + b"[" * 100_000,
    "deep nesting, closed": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a long run of letters outside a string": b'{"a":' + b"x" * (3 * BLOCK) + b"}",
    "a long array, then garbage": b'{"a":[' + b"1," * (3 * BLOCK) + b"x]}",
    "more members than any request has": b"{" + b",".join(b'"%d":1' % number for number in range(10_001)) + b"}",
}


@pytest.mark.parametrize("raw", NO_OBJECT.values(), ids=NO_OBJECT.keys())
def test_what_is_not_one_json_object_is_not_read(raw: bytes) -> None:
    assert read_body(raw) is None


# ---- long bodies

IMAGE = base64.b64encode(bytes(range(256)) * 1000).decode()
LONG = {
    "one image": {"image_url": {"url": "data:image/png;base64," + IMAGE}},
    "image beside text beyond ASCII": {"text": "你好\n" * 9, "image_url": IMAGE},
    "text beyond ASCII": {"text": "你好，世界" * BLOCK},
    "text full of escapes": {"text": '\\"\n' * BLOCK},
    "text without any": {"text": "word " * BLOCK},
    "array of numbers": {"embedding": [1.5] * BLOCK},
}


@pytest.mark.parametrize("ensure_ascii", [True, False], ids=["ascii", "utf-8"])
@pytest.mark.parametrize("part", LONG.values(), ids=LONG.keys())
def test_a_long_body_is_edited_after_its_long_values(part: object, ensure_ascii: bool) -> None:
    request = {"model": "m-é", "messages": [{"role": "user", "content": [part]}], "n": 2, "audio": {"format": "é"}}
    end = {"stream": False, "stream_options": {"a": "é"}, "modalities": ["text"]}
    raw = json.dumps(request | end, ensure_ascii=ensure_ascii).encode()
    body = read(raw)
    assert body.members == request | {"messages": [{}]} | end
    edited = body.forced(USAGE)
    assert json.loads(edited.body) == request | end | {"stream": True, "stream_options": {"a": "é"} | USAGE}
    assert edited.body.startswith(raw[: raw.index(b'"stream"')])
    assert undo(edited.body, edited.undo) == raw
    assert sum(len(old) for _, _, old in edited.undo) < 10


EXTRA_MEMBERS = {
    "a member is added": (b'{"a":1}', {"store": False}, b'{"stream":true,"store":false,"a":1}'),
    "a member is overridden where it is": (
        b'{"store" : true, "stream":true}',
        {"store": False},
        b'{"store" : false, "stream":true}',
    ),
    "each of several": (b'{"a":1,"stream":1,"\\u0061":2}', {"a": None}, b'{"a":null,"stream":true,"\\u0061":null}'),
    "an object replaces the whole one": (
        b'{"stream":true,"thinking":{"type":"enabled","budget":1}}',
        {"thinking": {"type": "disabled"}},
        b'{"stream":true,"thinking":{"type":"disabled"}}',
    ),
    "a member that is so already": (
        b'{"stream":true,"store":false}',
        {"store": False},
        b'{"stream":true,"store":false}',
    ),
}


@pytest.mark.parametrize(("raw", "extra", "expected"), EXTRA_MEMBERS.values(), ids=list(EXTRA_MEMBERS))
def test_a_body_gets_the_extra_members(raw: bytes, extra: dict[str, object], expected: bytes) -> None:
    edited = read(raw).forced({}, extra)
    assert edited.body == expected
    assert undo(edited.body, edited.undo) == raw


def test_a_long_value_is_an_empty_one_of_its_type() -> None:
    members = {"prompt": "a" * 3 * BLOCK, "metadata": {"a": "\n" * BLOCK}, "n": 1}
    assert read(json.dumps(members).encode()).members == {"prompt": "", "metadata": {}, "n": 1}


@pytest.mark.parametrize(
    ("array", "kept"),
    [
        ([{"a": "b" * BLOCK}, {}, {"c": 1}], [{}, {}, {}]),
        ([{"a": 1}, {"b": "\n" * BLOCK}], [{}, {}]),
        (["text", "b" * BLOCK], ["", ""]),
        ([7] * BLOCK, [0] * BLOCK),
        ([[1] * BLOCK, [2]], [[], []]),
        ([None] * BLOCK, [None] * BLOCK),
        (["é" * BLOCK, "é"], ["", ""]),
    ],
    ids=["objects", "objects with escapes", "texts", "tokens", "lists of tokens", "nulls", "texts beyond ASCII"],
)
def test_of_a_long_array_the_count_and_the_type_of_the_first_item_are_kept(array: list[object], kept: object) -> None:
    for members in ({"prompt": array}, {"prompt": array, "stream": False, "user": "a" * 3 * BLOCK}):
        assert read(json.dumps(members, ensure_ascii=False).encode()).members["prompt"] == kept


def test_an_array_that_is_longer_than_matters_is_kept_as_a_long_one() -> None:
    members = read(b'{"x":[' + b"0," * 150_000 + b'0],"n":1}').members
    assert members == {"x": [0] * 100_000, "n": 1}


def test_as_many_members_are_read_as_a_request_may_have() -> None:
    assert len(read(b"{" + b",".join(b'"%d":1' % number for number in range(10_000)) + b"}").members) == 10_000


def test_a_body_that_is_copied_in_parts_is_the_same() -> None:
    raw = json.dumps({"user": "a", "prompt": "ab\n" * 1_000_000, "stream": False, "n": 1}).encode()
    edited = read(raw).forced(None)
    assert edited.body == raw.replace(b"false", b"true")
    assert undo(*edited) == raw


def test_a_long_empty_array_is_empty() -> None:
    assert read(b'{"tools":[' + b" " * 2 * BLOCK + b"]}").members == {"tools": []}


def test_a_short_array_of_objects_in_a_long_body_is_whole() -> None:
    members = {"tools": [{"a": 1}, {"b": [2]}], "prompt": "a" * 3 * BLOCK}
    assert read(json.dumps(members).encode()).members == members | {"prompt": ""}


def test_a_body_does_not_show_in_its_representation() -> None:
    assert "secret" not in repr(read(b'{"user":"secret"}'))


def test_what_already_asks_as_wanted_stays_the_same_object() -> None:
    raw = b'{"stream":true,"stream_options":{"include_usage":true}}'
    edited = read(raw).forced(USAGE)
    assert edited.body is raw
    assert edited.undo == []


def test_splices_survive_json_lists() -> None:
    raw = b'{"a":1,"stream":false}'
    edited = read(raw).forced(USAGE)
    assert undo(edited.body, [tuple(splice) for splice in map(list, edited.undo)]) == raw


# ---- laws

# Latin-1 letters, a character of two UTF-16 units, what must be escaped, what may be, and what looks like structure.
LETTERS = ["a", "0", "b0", "{", "}", "[", "]", ":", ",", "?", "/", "é", "\x85", "\xa0", "你", "😀", "stream"]
ESCAPES = [
    r"\"",
    r"\\",
    r"\/",
    r"\n",
    r"\u0061",
    r"\u00e9",
    r"\u00E9",
    r"\ud83d\ude00",
    r"\u0022",
    r"\u005c",
    r"\u0000",
]
NAMES = ["stream", r"str\u0065am", "stream_options", r"stream\u005foptions", "include_usage", "model", "a"]
NAMES += ["".join(f"\\u{ord(char):04x}" for char in name) for name in ("stream", "stream_options", "a")]

BLANKS = st.sampled_from(["", "", "", " ", "\n  ", "\t\r\n"])
SPELLINGS = st.lists(st.sampled_from(LETTERS + ESCAPES), max_size=12).map("".join)
STRINGS = st.one_of(SPELLINGS, st.just("a" * 90), st.just("é" + "1234567 " * 9)).map('"{}"'.format)
NAME_STRINGS = st.one_of(st.sampled_from(NAMES), SPELLINGS).map('"{}"'.format)
KEYS = NAME_STRINGS.map(json.loads)
SCALARS = st.one_of(
    st.sampled_from(["true", "false", "null", "0", "-0", "1.0", "1E+2", "-1.5e-3", "12345678901234567890123", "1e999"]),
    STRINGS,
)


@st.composite
def spelled_value(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["scalar", "array", "object"])) if depth else "scalar"
    if kind == "scalar":
        return draw(SCALARS)
    if kind == "object":
        return "".join(draw(spelled_object(depth - 1)))
    items = [draw(BLANKS) + draw(spelled_value(depth - 1)) + draw(BLANKS) for _ in range(draw(st.integers(0, 3)))]
    return "[" + (",".join(items) or draw(BLANKS)) + "]"


@st.composite
def spelled_object(draw: st.DrawFn, depth: int = 2) -> list[str]:
    """An object's JSON text, in pieces: `{`, a comma, a name with blanks and colon, a value, each apart."""
    pieces = ["{"]
    for index in range(draw(st.integers(0, 5))):
        pieces += [","] if index else []
        pieces.append(draw(BLANKS) + draw(NAME_STRINGS) + draw(BLANKS) + ":" + draw(BLANKS))
        pieces += [draw(spelled_value(depth)), draw(BLANKS)]
    return [*pieces, draw(BLANKS) + "}"]


OBJECTS = st.tuples(st.sampled_from(["", "\ufeff"]), BLANKS, spelled_object(), BLANKS).map(
    lambda parts: [parts[0] + parts[1] + parts[2][0], *parts[2][1:], parts[3]]
)
OPTIONS = st.one_of(st.none(), st.dictionaries(KEYS, st.sampled_from([True, None, 1.5, "é", {"a": []}]), max_size=3))


EXTRA = st.dictionaries(
    KEYS.filter(lambda key: key not in ("stream", "stream_options")),
    st.sampled_from([False, None, 1.5, "é", {"a": []}]),
    max_size=2,
)


def joined(pieces: list[str]) -> bytes:
    return "".join(pieces).encode()


def value_of(raw: bytes) -> dict[str, object]:
    result = json.loads(raw.decode("utf-8-sig"))
    assert isinstance(result, dict)
    return result


def forced_value(
    request: dict[str, object], options: dict[str, object] | None, extra: dict[str, object]
) -> dict[str, object]:
    result = request | extra | {"stream": True}
    own = request.get("stream_options")
    if options is None:
        result.pop("stream_options", None)
    elif options:
        result["stream_options"] = own | options if isinstance(own, dict) else options
    return result


@given(OBJECTS, OPTIONS, EXTRA, TINY_BLOCKS)
def test_forced_means_what_it_says_and_can_be_undone(
    pieces: list[str], options: dict[str, object] | None, extra: dict[str, object], block: int
) -> None:
    raw = joined(pieces)
    edited = read(raw, block).forced(options, extra)
    assert value_of(edited.body) == forced_value(value_of(raw), options, extra)
    assert undo(edited.body, edited.undo) == raw


@given(OBJECTS, EXTRA, TINY_BLOCKS)
def test_plain_means_what_it_says_and_can_be_undone(pieces: list[str], extra: dict[str, object], block: int) -> None:
    raw = joined(pieces)
    edited = read(raw, block).plain(extra, ["stream_options"])
    kept = {key: value for key, value in value_of(raw).items() if key not in ("stream", "stream_options")}
    assert value_of(edited.body) == kept | value_of(json.dumps(extra).encode())
    assert undo(edited.body, edited.undo) == raw


@given(OBJECTS, st.sets(KEYS), TINY_BLOCKS)
def test_without_means_what_it_says_and_can_be_undone(pieces: list[str], keys: set[str], block: int) -> None:
    raw = joined(pieces)
    edited = read(raw, block).without(*keys)
    assert value_of(edited.body) == {key: value for key, value in value_of(raw).items() if key not in keys}
    assert undo(edited.body, edited.undo) == raw


@given(OBJECTS)
def test_only_the_values_of_stream_change_where_options_do_not(pieces: list[str]) -> None:
    raw = joined(pieces)
    expected = list(pieces)
    found = False
    for index, piece in enumerate(pieces[1:-1], start=1):
        is_name = piece.strip(" \t\n\r").startswith('"') and piece.rstrip(" \t\n\r").endswith(":")
        if is_name and json.loads("{" + piece + "0}") == {"stream": 0}:
            expected[index + 1] = "true"
            found = True
    if not found:
        expected[0] += '"stream":true' + ("," if len(pieces) > 3 else "")
    assert read(raw).forced({}).body == joined(expected)


def outside(body: bytes, spans: list[tuple[int, int]]) -> bytes:
    kept, done = b"", 0
    for start, end in spans:
        assert done <= start <= end <= len(body)
        kept, done = kept + body[done:start], end
    return kept + body[done:]


def pairs(raw: bytes) -> list[tuple[str, object]]:
    """The top-level members in order with repetitions, numbers by their spelling."""
    result = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=list, parse_int=str, parse_float=str)
    assert isinstance(result, list)
    return result


@given(OBJECTS, OPTIONS, EXTRA, TINY_BLOCKS)
def test_bytes_outside_the_splices_and_all_other_members_stay(
    pieces: list[str], options: dict[str, object] | None, extra: dict[str, object], block: int
) -> None:
    raw = joined(pieces)
    edited: Edited = read(raw, block).forced(options, extra)
    there = [(start, end) for start, end, _ in edited.undo]
    here, shift = [], 0
    for start, end, old in edited.undo:
        here.append((start - shift, start - shift + len(old)))
        shift += end - start - len(old)
    assert outside(edited.body, there) == outside(raw, here)

    ours = {"stream", "stream_options", *extra}
    assert [p for p in pairs(edited.body) if p[0] not in ours] == [p for p in pairs(raw) if p[0] not in ours]


def plain_read(raw: bytes) -> object:
    """What json makes of the bytes; None for what read_body, too, is documented to refuse."""

    def refuse(name: str) -> object:
        raise ValueError(name)

    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=refuse, strict=False)
    except ValueError:
        return None


def mutated(raw: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, new in cuts:
        raw = raw[: at % (len(raw) + 1)] + new + raw[at % (len(raw) + 1) + length :]
    return raw


MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 500),
        st.integers(0, 3),
        st.sampled_from(
            [b"", b'"', b"\\", b"\\u", b"{", b"}", b",", b":", b"[", b"]", b"\n", b"\xc3", b"?", b"NaN", b"x" * 30]
        ),
    ),
    max_size=3,
)


@given(
    st.one_of(st.binary(), st.builds(mutated, OBJECTS.map(joined), MUTATIONS)), st.one_of(TINY_BLOCKS, st.just(BLOCK))
)
@example(b'{"a":"\\' + b"x" * 50 + b'"}', 6)
@example(b'{"a":"\\u00' + b"e9" * 50 + b'"}', 6)
@example(b'{"a":"\\u00' + b"xx" * 50 + b'"}', 6)
@example(b'{"a":"' + b"x" * 50 + b"\n" + b'"}', 6)
@example(b'{"a":[' + b"1," * 50 + b'"?"]}', 6)
@example(b'{"' + b"k" * 50 + b'":0}', 6)
def test_any_bytes_are_read_as_json_reads_them(raw: bytes, block: int) -> None:
    body = read_body(raw, block)
    expected = plain_read(raw)
    assert (body is not None) == isinstance(expected, dict)
    if body is not None and isinstance(expected, dict):
        stream = expected.get("stream")
        spelled = json.dumps(stream).strip('"').lower().strip()
        assert body.asks_plain == (spelled in ("", "null", "none", "false", "0", "0.0", "-0.0"))
        for edited in (body.forced(None), body.plain()):
            assert undo(edited.body, edited.undo) == raw


QUOTED = {
    "backslashes": lambda count: b"\\" * count,
    "backslashes and a quote": lambda count: b"\\" * count + b'"',
    "escaped quotes": lambda count: b'\\"' * count,
}


@pytest.mark.parametrize("make", QUOTED.values(), ids=QUOTED.keys())
def test_quotes_and_backslashes_at_every_place_of_a_block(make: Callable[[int], bytes]) -> None:
    read_bodies = 0
    for before in range(40):
        for count in range(4):
            raw = b'{"a":"' + b"x" * before + make(count) + b"n" * 40 + b'","stream":false,"b":"' + b"y" * 40 + b'"}'
            expected = plain_read(raw)
            body = read_body(raw, 8)
            assert (body is not None) == (expected is not None)
            if body is not None:
                read_bodies += 1
                assert body.forced({}).body == raw.replace(b"false", b"true")
    assert read_bodies >= 40


def emptied(value: Any) -> Any:
    return [type(value[0])()] * len(value) if isinstance(value, list) and value else type(value)()


@given(OBJECTS, TINY_BLOCKS)
def test_the_skeleton_and_plain_json_agree_on_the_members(pieces: list[str], block: int) -> None:
    raw = joined(pieces)
    expected = value_of(raw)
    small, whole = read(raw, block), read(raw)
    assert whole.members == expected
    assert small.asks_plain == whole.asks_plain
    for key, value in small.members.items():
        assert value in (expected[key], emptied(expected[key]))
    assert small.members.keys() == expected.keys()
    for options in (None, {}, USAGE):
        assert small.forced(options) == whole.forced(options)
