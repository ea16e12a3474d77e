"""Text that somebody else chose, in a line of ours."""

import pytest
from force_stream.wire.text import LONGEST_PRINTED, counted, printable


def test_names_that_others_chose_are_fit_for_a_log() -> None:
    assert printable("a\n[00:00] fake \x1b[31m\ud800") == "a\ufffd[00:00] fake \ufffd[31m\ufffd"
    assert len(printable("x" * 10_000)) == LONGEST_PRINTED + 1


@pytest.mark.parametrize(("count", "said"), [(0, "0 events"), (1, "1 event"), (2, "2 events"), (2000, "2,000 events")])
def test_a_count_has_its_plural(count: int, said: str) -> None:
    assert counted(count, "event") == said
