"""JSON texts whose numbers are copied digit for digit."""

import json
import math
from typing import Any

import pytest
from force_stream.wire import jsontext
from force_stream.wire.jsontext import Number, Written
from hypothesis import given
from hypothesis import strategies as st

# RFC 8259, section 6: [ minus ] int [ frac ] [ exp ]
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,4})?", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
ANY_TEXT = st.text(st.characters(codec=None), max_size=12)

SPELLINGS = [
    *("0", "-0", "0.0", "-0.0", "1", "1.0", "1.50", "1e5", "1E5", "1e+5", "1E-05", "0.1", "0.10", "1e400", "-1e-400"),
    *(
        "12345678901234567890",
        "3.141592653589793238462643383",
        "9007199254740993",
        "1e22",
        "1e-7",
        "123456789012345680000.0",
    ),
    "9" * 5000,
    "-" + "9" * 5000,
    "0." + "3" * 5000,
]


@pytest.mark.parametrize("text", SPELLINGS, ids=lambda text: text[:24])
@pytest.mark.parametrize("frame", ["@", "[@]", '{"a":@}', '{"a":[1,@,-0]}'])
def test_spelling_of_a_number_stays(text: str, frame: str) -> None:
    document = frame.replace("@", text)
    assert jsontext.dumps(jsontext.loads(document)) == document.encode()


@given(NUMBERS)
def test_spelling_of_any_number_stays(text: str) -> None:
    assert jsontext.dumps(jsontext.loads(text)) == text.encode()
    assert jsontext.dumps(jsontext.loads(f'[{text},"x",{text}]')) == f'[{text},"x",{text}]'.encode()


@given(NUMBERS)
def test_a_number_is_false_if_it_is_zero(text: str) -> None:
    value = jsontext.loads(text)
    mantissa = text.lower().partition("e")[0]
    assert bool(value) == any(digit in "123456789" for digit in mantissa) or isinstance(value, float)


@pytest.mark.parametrize(
    ("text", "truth"), [("-0", False), ("0e5", False), ("0.00", False), ("1E-5", True), ("0.10", True)]
)
def test_a_number_kept_as_text_has_the_truth_of_its_value(text: str, truth: bool) -> None:
    assert bool(Number(text)) is truth


@given(VALUES)
def test_what_is_written_reads_as_the_same(value: Any) -> None:
    text = json.dumps(value)
    written = jsontext.dumps(jsontext.loads(text))
    assert json.loads(written) == value
    assert written == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@given(VALUES, st.text(" \t\r\n", max_size=3))
def test_white_space_around_a_document_says_nothing(value: Any, space: str) -> None:
    text = space + json.dumps(value) + space
    assert jsontext.dumps(jsontext.loads(text)) == jsontext.dumps(jsontext.loads(text.strip()))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", '{"a":[NaN,1]}'])
def test_what_is_no_number_in_json_becomes_null(text: str) -> None:
    assert b"NaN" not in jsontext.dumps(jsontext.loads(text))
    assert json.loads(jsontext.dumps(jsontext.loads(text))) in (None, {"a": [None, 1]})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan]])
def test_nan_is_never_written(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        jsontext.dumps(value)


@pytest.mark.parametrize("word", ["NaN", "-0", "1.0", "Infinity", "number:", '"-0"'])
def test_words_in_a_string_are_only_words(word: str) -> None:
    text = json.dumps({"a": word, word: [word, 1]}, separators=(",", ":"))
    assert jsontext.dumps(jsontext.loads(text)) == text.encode()


@given(ANY_TEXT)
def test_any_string_reads_as_the_same_lone_surrogates_too(text: str) -> None:
    written = jsontext.dumps({"a": text})
    written.decode()
    # Two halves next to each other are one character once they are read.
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert json.loads(written)["a"] in (text, whole)
    assert jsontext.loads(written.decode())["a"] in (text, whole)


def test_halves_of_a_pair_are_one_character_once_they_are_joined() -> None:
    first, second = jsontext.loads('"\\ud83e"'), jsontext.loads('"\\udd8a"')
    assert json.loads(jsontext.dumps(first + second)) == "🦊"


def test_half_a_pair_is_written_as_an_escape() -> None:
    assert jsontext.dumps("a\ud83eb é") == '"a\\ud83eb é"'.encode()


def test_control_characters_in_a_string_are_read_and_written_as_escapes() -> None:
    assert jsontext.dumps(jsontext.loads('"a\x00\tb"')) == b'"a\\u0000\\tb"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "[1,",
        '{"a"}',
        "01",
        "+1",
        ".5",
        "1.",
        "1e",
        "'a'",
        "tru",
        "[DONE]",
        "1 2",
        "{}{}",
        "\ufeff{}",
        "\x0b1",
    ],
)
def test_what_is_no_json_raises(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        jsontext.loads(text)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_without_end_raises_the_same(opening: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        jsontext.loads(opening * 200_000)


@given(ANY_TEXT | st.text('[]{}"\\,:01-.eEu ntrfalsN', max_size=20))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        value = jsontext.loads(text)
    except json.JSONDecodeError:
        return
    json.loads(jsontext.dumps(value))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{} x", ({}, "{}", " x")),
        (" [1] \n", ([1], " [1]", " \n")),
        ("1 2", (1, "1", " 2")),
        ('{"a":-0}data: [DONE]', ({"a": Number("-0")}, '{"a":-0}', "data: [DONE]")),
    ],
)
def test_split_parts_a_document_from_what_follows(text: str, parts: tuple[Any, str, str]) -> None:
    assert jsontext.split(text) == parts


@pytest.mark.parametrize("long", ["", "a" * 70_000, "[]," * 30_000 + "\\u0061", '\\"' * 40_000])
@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (' {"a":["@",{"b":[[1]]}]} ', True),
        ('["@",[]]', True),
        ('["@"', False),
        ('{"a":"@"} x', False),
        ('["@",]', False),
        ('{"a":{"b":1},"c":"@",}', False),
        ('[[1,2],{"a":1},,"@"]', False),
    ],
)
def test_is_json_says_whether_a_text_can_be_read(text: str, valid: bool, long: str) -> None:
    text = text.replace("@", long)
    assert jsontext.is_json(text) is valid
    if valid:
        jsontext.loads(text)


@given(VALUES | st.text().map(lambda text: {text: [text, {text: None}]}))
def test_a_document_for_a_terminal_is_printable_and_says_the_same(value: Any) -> None:
    document = jsontext.dumps(value)
    shown = jsontext.printable(document)
    assert jsontext.loads(shown.decode()) == jsontext.loads(document.decode())
    assert shown.decode().isprintable()


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        (b'{"a":"\x7f\xc2\x9b\xe2\x80\xae"}', rb'{"a":"\u007f\u009b\u202e"}'),
        ('{"a":"通义 👍"}'.encode(), '{"a":"通义 👍"}'.encode()),
        (b'{\r\n\t"a": 1\n}', b'{ \n\t"a": 1\n}'),
        (b'"\xff"', '"\ufffd"'.encode()),
    ],
)
def test_only_what_a_terminal_may_obey_or_cannot_be_seen_is_escaped(document: bytes, shown: bytes) -> None:
    assert jsontext.printable(document) == shown


@pytest.mark.parametrize(
    ("document", "lines"),
    [
        ('{"a":[1.50,{"b":"x, {y}: \\"z\\\\"}],"c": {}, "d":[ ]}', ['{', '  "a": [', "    1.50,", "    {",
         '      "b": "x, {y}: \\"z\\\\"', "    }", "  ],", '  "c": {},', '  "d": []', "}"]),
        ("[]", ["[]"]),
        (' "a" ', ['"a"']),
        ('[1e400, "\u00e9\U0001f642"]', ["[", "  1e400,", '  "\u00e9\U0001f642"', "]"]),
    ],
)  # fmt: skip
def test_an_indented_document_has_a_line_for_each_value(document: str, lines: list[str]) -> None:
    assert jsontext.indented(document.encode()).decode() == "\n".join(lines)


@given(VALUES)
def test_an_indented_document_says_the_same(value: Any) -> None:
    document = jsontext.dumps(value)
    assert jsontext.dumps(jsontext.loads(jsontext.indented(document).decode())) == document


def test_a_deep_document_is_not_indented_without_bound() -> None:
    document = b"[" * 2000 + b"1" + b"]" * 2000
    assert len(jsontext.indented(document)) < 500_000


def test_items_that_are_written_already_are_copied() -> None:
    value = {"a": [Number("1.0"), Written(b'{"x":0.10},"\xc3\xa9"'), "b", Written(b"2")], "c": [Written(b"[]")]}
    expected = '{"a":[1.0,{"x":0.10},"é","b",2],"c":[[]]}'.encode()
    assert jsontext.dumps(value) == expected
    long = jsontext.dumps(value | {"d": ["x" * 100_000]})
    assert long == expected[:-1] + b',"d":["' + b"x" * 100_000 + b'"]}'
