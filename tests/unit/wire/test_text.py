"""Text that somebody else chose, in a line of ours."""

from force_stream.wire.text import LONGEST_PRINTED, printable


def test_names_that_others_chose_are_fit_for_a_log() -> None:
    assert printable("a\n[00:00] fake \x1b[31m\ud800") == "a\ufffd[00:00] fake \ufffd[31m\ufffd"
    assert len(printable("x" * 10_000)) == LONGEST_PRINTED + 1
