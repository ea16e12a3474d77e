import pytest
from force_stream.endpoints.pieces import base64_pieces, by_tokens, may_be_said_again, pieces
from hypothesis import given
from hypothesis import strategies as st

WHOLE = {
    "a letter with marks": "e\u0301\u0323",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a flag": "\U0001f1e9\U0001f1ea",
    "a skin tone": "\U0001f44d\U0001f3fd",
    "a heart in color": "\u2764\ufe0f",
    "two halves of a surrogate pair": "\ud83d\ude00",
    "the end of a line": "\r\n",
    "a conjunct of Devanagari": "\u0915\u094d\u0937",
    "a syllable of Hangul in its parts": "\u1112\u1161\u11ab",
}


@given(st.text(st.characters(), max_size=400))
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(pieces(text))


@pytest.mark.parametrize("character", WHOLE.values(), ids=WHOLE)
def test_no_character_is_cut(character: str) -> None:
    for before in range(60):
        text = "x" * before + character + "x" * 60
        assert any(character in piece for piece in pieces(text)), before


def test_pieces_end_after_a_blank() -> None:
    assert list(pieces("The quick brown fox jumps over the lazy dog, again")) == [
        "The quick brown fox ",
        "jumps over the lazy ",
        "dog, again",
    ]


def test_an_empty_text_has_no_pieces() -> None:
    assert list(pieces("")) == []


@pytest.mark.parametrize("text", ["word " * 400_000, "x" * 2_000_000])
def test_a_long_text_has_few_pieces(text: str) -> None:
    assert len(list(pieces(text))) < 1100


def test_each_piece_of_base64_can_be_decoded() -> None:
    text = "QUJD" * 20_000
    cut = list(base64_pieces(text))
    assert len(cut) > 1
    assert all(len(piece) % 4 == 0 for piece in cut)
    assert "".join(cut) == text


@pytest.mark.parametrize(("value", "may"), [("gpt-4o", True), (7, True), ("x" * 300, False), ([1] * 300, False)])
def test_what_is_long_is_not_said_again(value: object, may: bool) -> None:
    assert may_be_said_again(value) is may


def test_a_text_is_cut_where_its_tokens_are() -> None:
    tokens = [{"token": "Hi", "bytes": [72, 105]}, {"token": " you", "bytes": None}]
    assert by_tokens("Hi you", tokens) == [("Hi", tokens[:1]), (" you", tokens[1:])]
    assert by_tokens("Hi", ["H", "i"]) == [("H", ["H"]), ("i", ["i"])]


def test_tokens_that_share_a_character_stay_together() -> None:
    tokens = [{"token": "\\xc3", "bytes": [195]}, {"token": "\\xa9", "bytes": [169]}, {"token": "!", "bytes": [33]}]
    assert by_tokens("é!", tokens) == [("é", tokens[:2]), ("!", tokens[2:])]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello", ["Hell"]),
        ("Hello", ["Hello", "!"]),
        ("Hello", ["Help", "o"]),
        ("Hello", [None]),
        ("Hello", [{"token": 7}]),
        ("Hello", [{"bytes": [300]}]),
        ("Hello", [{"bytes": 10**12}]),
        ("é", [{"bytes": [195]}]),
        ("Hello", [{"bytes": [255]}] * 5),
    ],
)
def test_tokens_that_are_not_those_of_the_text_cut_nothing(text: str, tokens: list[object]) -> None:
    assert by_tokens(text, tokens) is None
