"""The figures of an answer."""

from force_stream.answer.report import Report


def test_finish_reasons_are_listed_once_each_and_printable() -> None:
    assert Report(finish_reasons=("stop", "length\n", "stop")).finish_reason == "stop, length\ufffd"
    assert Report().finish_reason == ""
