"""Text that somebody else chose, in a line of ours."""

import pytest
from force_stream.wire import text as module
from force_stream.wire.text import LONGEST_PRINTED, counted, decoded, printable
from harness.hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a\n[00:00] forged", r"a\n[00:00] forged", id="line feed"),
        pytest.param("a\r\t\x0b\x85\u2028\u2029b", r"a\r\t\x0b\x85\u2028\u2029b", id="other ends of lines"),
        pytest.param("\x1b[31m\x07\x08\x7f\x00", r"\x1b[31m\x07\x08\x7f\x00", id="terminal escape"),
        pytest.param("\x9b2J\x90", r"\x9b2J\x90", id="C1 control"),
        pytest.param("\u202etxt.exe\u2066\u200f\u061c", r"\u202etxt.exe\u2066\u200f\u061c", id="direction"),
        pytest.param("a\u200b\u2060\ufeff\xad\xa0b", r"a\u200b\u2060\ufeff\xad\xa0b", id="cannot be seen"),
        pytest.param("\ud800", r"\ud800", id="surrogate"),
        pytest.param("\ue000\u0378\U000e0041", r"\ue000\u0378\U000e0041", id="private use, not assigned, a tag"),
        pytest.param("👨\u200d👩", r"👨\u200d👩", id="joined emoji"),
    ],
)
def test_what_a_terminal_may_obey_or_cannot_be_seen_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["", "Qwen/Qwen3-8B", "通义千问", "модель", "نموذج", "étude", "e\u0301", "👍🏽", "🇦🇹"])
def test_what_can_be_read_stays_as_it_is_and_costs_no_copy(text: str) -> None:
    assert printable(text) is text


@given(st.text() | st.text(alphabet=HOSTILE), st.integers(1, 200))
def test_what_is_shown_is_printable_and_short_and_can_be_shown_again(text: str, longest: int) -> None:
    shown = printable(text, longest)
    assert shown.isprintable()
    assert len(shown) <= longest + 1
    assert printable(shown, longest) == shown
    assert shown.encode().decode() == shown


def test_long_text_is_cut_before_it_is_looked_at() -> None:
    class Watched(str):
        def __getitem__(self, key: object) -> str:
            assert key == slice(None, LONGEST_PRINTED)
            return str.__getitem__(self, slice(None, LONGEST_PRINTED))

        def isprintable(self) -> bool:
            raise AssertionError("looks at all of it")

    assert printable(Watched("x" * 1_000_000)) == "x" * LONGEST_PRINTED + "…"


@pytest.mark.parametrize(("count", "said"), [(0, "0 events"), (1, "1 event"), (2, "2 events"), (2000, "2,000 events")])
def test_a_count_has_its_plural(count: int, said: str) -> None:
    assert counted(count, "event") == said


BYTES = st.sampled_from([b"a", "é".encode(), "你".encode(), "😀".encode(), b"\xff", b"\xf0\x9f", b"\xe4"])


@pytest.mark.parametrize("errors", ["replace", "strict"])
@given(data=st.lists(BYTES).map(b"".join), together=st.integers(1, 9))
def test_bytes_are_the_same_text_in_parts_and_in_one_go(errors: str, data: bytes, together: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TOGETHER", together)
        try:
            whole = data.decode(errors=errors)
        except UnicodeDecodeError:
            with pytest.raises(UnicodeDecodeError):
                list(decoded(data, errors))
        else:
            parts = list(decoded(data, errors))
            assert "".join(parts) == whole
            assert data.isascii() or max(map(len, parts)) <= together + 3
