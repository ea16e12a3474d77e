"""What comes of an answer, for the client and for those who look on."""

import json

from force_stream.answer.reader import AnswerSpec
from harness.samples import choice, chunk
from harness.steps import sse


def test_finish_reasons_are_listed_once_each_and_printable() -> None:
    reasons = ("stop", "length\n", "stop")
    answer = AnswerSpec("r", "chat").read()
    answer.feed(sse(chunk(*(choice(place, reason) for place, reason in enumerate(reasons)))))
    assert answer.finish() is not None
    assert answer.report.finish_reason == r"stop, length\n"


def test_the_report_of_a_failure_has_its_code_and_what_came() -> None:
    answer = AnswerSpec("r", "chat").read()
    answer.feed(sse(chunk(choice(content="Hel")), done=False))
    reply = answer.finish("reset")
    assert reply is not None
    report = answer.report
    assert (report.code, report.status, report.events, report.truncated) == ("stream_truncated", 502, 1, True)
    assert report.finish_reason == ""
    assert json.loads(reply.body)["error"]["code"] == report.code
