"""A request body that is a form with files: what is read of it, and the edit of its bytes."""

import pytest
from force_stream.wire.form_body import LONGEST_FIELD, Form, read_form
from force_stream.wire.json_body import undo
from harness.forms import Field, content_type, field, fields_of, file, form
from hypothesis import given
from hypothesis import strategies as st

OPTIONS = {"include_usage": True}


def read(raw: bytes, boundary: str = "b") -> Form:
    found = read_form(raw, content_type(boundary))
    assert found is not None
    return found


# --- Tables


MODEL, AUDIO = field("model", "gpt-4o-transcribe"), file("file", b"RIFF\r\n--\r\n\x00\xff--b-\r\n")
FORCED = {
    "stream is added after the last field": (form(MODEL, AUDIO), form(MODEL, AUDIO, field("stream", "true"))),
    "false becomes true in place": (
        form(MODEL, field("stream", "false"), AUDIO),
        form(MODEL, field("stream", "true"), AUDIO),
    ),
    "an empty stream becomes true": (form(MODEL, field("stream", "")), form(MODEL, field("stream", "true"))),
    "true stays": (form(MODEL, field("stream", "true")), form(MODEL, field("stream", "true"))),
    "each of several streams": (
        form(field("stream", "0"), MODEL, field("stream", "False")),
        form(field("stream", "true"), MODEL, field("stream", "true")),
    ),
    "a file named stream is a file": (
        form(MODEL, file("stream", b"data")),
        form(MODEL, file("stream", b"data"), field("stream", "true")),
    ),
    "headers of a field stay": (
        form(field("stream", "false", b"\r\nContent-Type: text/plain; charset=utf-8")),
        form(field("stream", "true", b"\r\nContent-Type: text/plain; charset=utf-8")),
    ),
    "names that only look alike stay": (
        form(field("stream_options", "false"), field("xstream", "false")),
        form(field("stream_options", "false"), field("xstream", "false"), field("stream", "true")),
    ),
    "what looks like a field inside a file stays": (
        form(file("file", form(field("stream", "false"), boundary="c"))),
        form(file("file", form(field("stream", "false"), boundary="c")), field("stream", "true")),
    ),
    "no line end at the end": (form(MODEL, end=b""), form(MODEL, field("stream", "true"), end=b"")),
    "an epilogue stays": (form(MODEL, end=b"\r\nbye"), form(MODEL, field("stream", "true"), end=b"\r\nbye")),
}


@pytest.mark.parametrize("case", FORCED)
def test_a_form_is_made_to_stream(case: str) -> None:
    before, after = FORCED[case]
    edited = read(before).forced(OPTIONS)
    assert edited.body == after
    assert undo(edited.body, edited.undo) == before


EXTRA: dict[str, tuple[bytes, dict[str, object], bytes]] = {
    "fields are added": (
        form(MODEL, AUDIO),
        {"chunking_strategy": "auto", "logprobs": True, "temperature": 0.5},
        form(
            MODEL,
            AUDIO,
            field("chunking_strategy", "auto"),
            field("logprobs", "true"),
            field("temperature", "0.5"),
            field("stream", "true"),
        ),
    ),
    "a field is overridden where it is": (
        form(field("language", "en"), AUDIO, field("stream", "false")),
        {"language": "größe"},
        form(field("language", "größe"), AUDIO, field("stream", "true")),
    ),
    "a file is none of the fields": (
        form(file("language", b"x"), field("stream", "true")),
        {"language": ""},
        form(file("language", b"x"), field("stream", "true"), field("language", "")),
    ),
    "a quote in a name is spelled as browsers do": (
        form(MODEL, field("stream", "true")),
        {'a"b': 1},
        form(MODEL, field("stream", "true"), field("a%22b", "1")),
    ),
}


@pytest.mark.parametrize("case", EXTRA)
def test_a_form_gets_the_extra_fields(case: str) -> None:
    before, extra, after = EXTRA[case]
    edited = read(before).forced(OPTIONS, extra)
    assert edited.body == after
    assert undo(edited.body, edited.undo) == before
    assert read(after).forced(OPTIONS, extra).undo == []


TRUE = field("stream", "true")
PLAIN: dict[str, tuple[bytes, dict[str, object], bytes]] = {
    "stream is taken out at the beginning": (form(TRUE, MODEL, AUDIO), {}, form(MODEL, AUDIO)),
    "in the middle": (form(MODEL, TRUE, AUDIO), {}, form(MODEL, AUDIO)),
    "at the end": (form(MODEL, AUDIO, TRUE), {}, form(MODEL, AUDIO)),
    "with its options": (form(field("partial", "2"), TRUE, MODEL), {}, form(MODEL)),
    "each of several": (form(TRUE, MODEL, TRUE, TRUE), {}, form(MODEL)),
    "a file named stream stays": (form(file("stream", b"data"), TRUE), {}, form(file("stream", b"data"))),
    "there is none": (form(MODEL, AUDIO), {}, form(MODEL, AUDIO)),
    "with extra fields": (form(TRUE, MODEL), {"model": "m", "n": 1}, form(field("model", "m"), field("n", "1"))),
    "an extra field of an option's name": (
        form(field("partial", "2"), MODEL),
        {"partial": 0},
        form(MODEL, field("partial", "0")),
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_a_form_loses_its_stream_whole(case: str) -> None:
    before, extra, after = PLAIN[case]
    edited = read(before).plain(extra, ["partial"])
    assert edited.body == after
    assert undo(edited.body, edited.undo) == before


ASKS_PLAIN = {"": True, "false": True, "False": True, " FALSE ": True, "0": True, "null": True, "None": True} | {
    "true": False,
    "True": False,
    "1": False,
    "yes": False,
}


@pytest.mark.parametrize("value", ASKS_PLAIN)
def test_a_forms_stream_says_yes_or_no_in_words(value: str) -> None:
    assert read(form(MODEL, field("stream", value))).asks_plain is ASKS_PLAIN[value]


def test_a_form_without_stream_asks_for_a_plain_answer() -> None:
    assert read(form(MODEL, AUDIO)).asks_plain
    assert read(form(MODEL, file("stream", b"true"))).asks_plain


def test_members_are_the_short_fields_and_of_equal_names_the_last() -> None:
    long = field("prompt", "x" * (LONGEST_FIELD + 1))
    found = read(form(MODEL, AUDIO, long, field("n", "1"), field("n", "2"), field("Grüße", "wörld\r\n!")))
    assert found.members == {"model": "gpt-4o-transcribe", "n": "2", "Grüße": "wörld\r\n!"}


SPELLED_OTHERWISE = {
    "names in upper case": b'--b\r\nCONTENT-DISPOSITION: form-data; NAME="model"\r\n\r\nm\r\n--b--\r\n',
    "the name after another parameter": b'--b\r\nContent-Disposition: form-data; x=1; name="model"\r\n\r\nm\r\n--b--',
    "the disposition after another header": (
        b'--b\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--'
    ),
    "no blank before the name": b'--b\r\nContent-Disposition:form-data;name="model"\r\n\r\nm\r\n--b--',
    "blanks after the boundary": b'--b  \r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--',
    "a part without a name": form(MODEL)[:-7] + b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
}


@pytest.mark.parametrize("case", SPELLED_OTHERWISE)
def test_a_form_may_be_spelled_otherwise(case: str) -> None:
    raw = SPELLED_OTHERWISE[case]
    found = read(raw)
    assert found.members.keys() == {"model"}
    edited = found.forced(None)
    assert ("stream", None, b"true") in fields_of(edited.body, content_type())
    assert undo(edited.body, edited.undo) == raw


NO_FORMS = {
    "JSON": (b'{"model":"m"}', "application/json"),
    "a form in a URL's spelling": (b"model=m", "application/x-www-form-urlencoded"),
    "another multipart": (form(MODEL), "multipart/mixed; boundary=b"),
    "no boundary": (form(MODEL), "multipart/form-data"),
    "an empty boundary": (form(MODEL), 'multipart/form-data; boundary=""'),
    "another boundary": (form(MODEL), content_type("c")),
    "a boundary beyond ASCII": (form(MODEL, boundary="b"), content_type("bü")),
    "nothing": (b"", content_type()),
    "no part": (b"--b--\r\n", content_type()),
    "no end": (form(MODEL)[:-6], content_type()),
    "a part without a blank line": (b'--b\r\nContent-Disposition: form-data; name="a"\r\n--b--', content_type()),
    "line feeds alone": (form(MODEL).replace(b"\r\n", b"\n"), content_type()),
    "parts without names": (b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--", content_type()),
}


@pytest.mark.parametrize("case", NO_FORMS)
def test_anything_but_a_form_is_none(case: str) -> None:
    raw, kind = NO_FORMS[case]
    assert read_form(raw, kind) is None


# --- Laws

BOUNDARIES = st.text("abcXYZ0123456789'()+_./:=?-", min_size=1, max_size=30).filter(lambda text: text[-1] != "-")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n\\'), min_size=1, max_size=8)
# Bytes that a reader could take for structure.
BINARY = st.lists(st.sampled_from([b"\r\n", b"--", b"-", b"\r", b"\n", b"\x00", b"\xff", b'"', b"name=", b"a"])).map(
    b"".join
)
FIELDS = st.one_of(
    st.builds(field, NAMES, st.binary(max_size=20) | BINARY),
    st.builds(field, st.just("stream"), st.sampled_from(["true", "false", "", "1"])),
    st.builds(file, NAMES, BINARY),
)


def has_boundary(fields: list[Field], boundary: str) -> bool:
    return any(b"--" + boundary.encode() in b"\r\n" + value for _, _, value in fields)


@given(st.lists(FIELDS, min_size=1, max_size=6), BOUNDARIES, st.booleans())
def test_a_forced_form_is_the_same_form_and_streams(fields: list[Field], boundary: str, add_stream: bool) -> None:
    fields = [each for each in fields if not has_boundary([each], boundary)] or [field("model", "m")]
    if has_boundary(fields, boundary):
        fields = [field("model", "")]
    raw = form(*fields, boundary=boundary)
    kind = content_type(boundary, quoted=True)
    found = read_form(raw, kind)
    assert found is not None
    edited = found.forced(OPTIONS if add_stream else None)
    assert undo(edited.body, edited.undo) == raw
    said = [(name, b"true") if is_stream((name, extra, value)) else (name, value) for name, extra, value in fields]
    wanted = said if any(map(is_stream, fields)) else [*said, ("stream", b"true")]
    assert parts_of(edited.body, boundary) == wanted
    assert not read_form(edited.body, kind).asks_plain  # type: ignore[union-attr]


def is_stream(one: Field) -> bool:
    return one[0] == "stream" and b"filename" not in one[1]


def parts_of(raw: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """Names and values: RFC 7578 read with nothing but `split`; Python's reader would take other line ends for ends."""
    inner = (b"\r\n" + raw).split(b"\r\n--" + boundary.encode())
    assert inner[0] == b""
    assert inner[-1].startswith(b"--")
    heads = [part.split(b"\r\n\r\n", 1) for part in inner[1:-1]]
    return [(head.split(b'name="', 1)[1].split(b'"', 1)[0].decode(), value) for head, value in heads]


@given(
    st.lists(
        st.builds(field, st.sampled_from(["model", "prompt", "stream"]), st.text("ab -=é", max_size=9)), min_size=1
    )
)
def test_pythons_own_reader_reads_a_forced_form(fields: list[Field]) -> None:
    raw = form(*fields, boundary="5f2e")
    edited = read(raw, "5f2e").forced(None)
    before = fields_of(raw, content_type("5f2e"))
    after = fields_of(edited.body, content_type("5f2e"))
    kept = [part for part in before if part[0] != "stream"]
    assert [part for part in after if part[0] != "stream"] == kept
    assert {value for name, _, value in after if name == "stream"} == {b"true"}


@given(
    st.binary(max_size=200)
    | BINARY
    | st.lists(
        st.sampled_from([b"--b", b"\r\n", b"--", b'Content-Disposition: form-data; name="stream"', b"false", b"\xff"])
    ).map(b"".join),
    st.text(max_size=40) | st.just(content_type()),
)
def test_no_bytes_raise_and_every_edit_can_be_undone(raw: bytes, kind: str) -> None:
    for given_type in (kind, content_type(), "multipart/form-data;" + kind):
        found = read_form(raw, given_type)
        if found is not None:
            edited = found.forced(None)
            assert undo(edited.body, edited.undo) == raw
            assert found.without("stream").body == raw
