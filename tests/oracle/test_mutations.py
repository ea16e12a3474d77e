"""The golden streams, and mutations of them, read by the addon and judged by the independent reading.

The two share no code, so a stream that one of them misreads is seen by the other. A mutation is what happens to event
streams on their way: cut, framed badly, with words, foreign events or errors in between, or with something said again.
"""

import os
import random
import re
from collections.abc import Callable

import pytest
from force_stream.answer.events import Event, Kind
from force_stream.answer.reader import AnswerReader
from harness.golden import CASES, Case
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import independent

KINDS = {"chat": "chat", "completions": "completions", "responses": "responses", "messages": "anthropic"}
# Streams of APIs that are none of these four, which the independent reading does not know.
NOT_READ = {"bare_values_are_text": "Writer's chunks without choices"}
JUDGED = [
    case
    for case in CASES
    if case.endpoint in KINDS and case.folder in (*KINDS, "broken") and case.path.stem not in NOT_READ
]


def wrong(case: Case, stream: bytes, on_truncated: str = "error") -> list[str]:
    """What is wrong with the answer to a stream, in words."""
    reply = case.read([stream], on_truncated=on_truncated)
    document = independent.parse(reply.body)
    return independent.judge(KINDS[case.endpoint], stream, reply.status, document, on_truncated=on_truncated)


def test_only_other_apis_are_not_judged() -> None:
    assert NOT_READ.keys() <= {case.path.stem for case in CASES}
    assert len(JUDGED) > 400


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.folder}-{case.path.stem}") for case in JUDGED])
def test_a_golden_answer_is_what_its_events_say(case: Case) -> None:
    assert wrong(case, case.stream) == []


# The mutations: each makes another stream of the events of one.

END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
BETWEEN = (
    b": keep-alive\n\n",
    b"data: : PROCESSING\n\n",
    b"data: null\n\n",
    b"data: 1\n\n",
    b"data: []\n\n",
    b"data: \n\n",
    b"event: ping\ndata: {}\n\n",
    b'data: {"notice": "The model is busy."}\n\n',
    b'data: {"message": "Have a nice day."}\n\n',
    b'data: "All is well."\n\n',
    b"data: All is well.\n\n",
    b"data: upstream error: 503 backend busy\n\n",
    b'data: {"code": 0, "message": "success"}\n\n',
    b'data: {"status": "ok", "error": null}\n\n',
    b'data: {"error": {"message": "", "code": ""}}\n\n',
    b'data: {"error": {"message": "slow down", "code": 429}}\n\n',
    b'data: {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}\n\n',
    b'data: {"statusCode": 503, "message": "No capacity."}\n\n',
    b'error: {"code": 500, "message": "slot failed"}\n\n',
)


def events_in(stream: bytes) -> list[bytes]:
    """The events of a stream, each with its blank line."""
    ends = [found.end() for found in END.finditer(stream)]
    return [stream[begin:end] for begin, end in zip([0, *ends], [*ends, len(stream)], strict=True) if begin < end]


def cut_inside(events: list[bytes], at: int, where: float) -> list[bytes]:
    body = events[at].rstrip(b"\r\n")
    return [*events[:at], body[: int(len(body) * where)] + b"\n\n", *events[at + 1 :]]


def joined_with_next(events: list[bytes], at: int, where: float) -> list[bytes]:
    between = (b"", b"data: ", b" ", b"\0", b"data:")[int(where * 4.99)]
    after = b"".join(events[at + 1 : at + 2])
    if not re.match(rb"data: ?\{", after) or not re.match(rb"(event: .*\n)?data: ?\{", events[at]):
        return events
    rest = after.removeprefix(b"data:").lstrip(b" ")
    return [*events[:at], events[at].rstrip(b"\r\n") + between + rest, *events[at + 2 :]]


def badly_framed(events: list[bytes], at: int, where: float) -> list[bytes]:
    if not events[at].startswith(b"data: {"):
        return events
    ways: tuple[Callable[[bytes], bytes], ...] = (
        lambda event: event.removeprefix(b"data: "),
        lambda event: b"data: " + event,
        lambda event: b"\xef\xbb\xbf" + event,
        lambda event: b"\0\0" + event,
        lambda event: event.replace(b"data: ", b"data:", 1),
        lambda event: event.replace(b"data: ", b"ata: ", 1),
    )
    return [*events[:at], ways[int(where * 5.99)](events[at]), *events[at + 1 :]]


def with_another(events: list[bytes], at: int, where: float) -> list[bytes]:
    return [*events[:at], BETWEEN[int(where * (len(BETWEEN) - 0.01))], *events[at:]]


def said_again(events: list[bytes], at: int, where: float) -> list[bytes]:
    return [*events[: at + 1], *events[at:]]


def finished_early(events: list[bytes], at: int, where: float) -> list[bytes]:
    """A finish reason in an event that had none."""
    reason = (b'"stop"', b'"length"', b'"tool_calls"', b'"none"', b'""')[int(where * 4.99)]
    return [
        *events[:at],
        events[at].replace(b'"finish_reason": null', b'"finish_reason": ' + reason),
        *events[at + 1 :],
    ]


def scalar_for_text(events: list[bytes], at: int, where: float) -> list[bytes]:
    scalar = (b"6", b"true", b"0.0050", b"1E2", b"null")[int(where * 4.99)]
    return [
        *events[:at],
        re.sub(rb'"(content|delta|text)": "[^"\\]*"', rb'"\1": ' + scalar, events[at]),
        *events[at + 1 :],
    ]


def stopped(events: list[bytes], at: int, where: float) -> list[bytes]:
    """The end of the stream comes early, between two events or inside one."""
    return [*events[:at], events[at][: int(len(events[at]) * where)]]


def lost(events: list[bytes], at: int, where: float) -> list[bytes]:
    """A whole event is lost: what nobody can tell from the rest, so both must make the same of the rest."""
    return [*events[:at], *events[at + 1 :]]


MUTATIONS = (
    cut_inside,
    joined_with_next,
    badly_framed,
    with_another,
    said_again,
    finished_early,
    scalar_for_text,
    stopped,
    lost,
)


# A judge to whom everything is right finds nothing.
MOST_UNDECIDED = 0.05
IS_THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


type Mutation = Callable[[list[bytes], int, float], list[bytes]]


def mutated(mutate: Mutation, case: Case, at: int, where: float) -> bytes:
    events = events_in(case.stream)
    return b"".join(mutate(events, at % len(events), where))


# The same streams each time, as a new one may be read otherwise by the judge: a run that looks for these is thorough.
# (What Hypothesis draws depends on the modules that are loaded, even where it is derandomized.)
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_of_a_mutated_stream_the_answer_is_what_its_events_say(mutate: Mutation) -> None:
    chosen = random.Random(mutate.__name__)
    for _ in range(60):
        case, at, where = chosen.choice(JUDGED), chosen.randrange(100), chosen.random()
        assert wrong(case, mutated(mutate, case, at, where)) == [], (case.path.name, at, where)


if IS_THOROUGH:

    @pytest.mark.parametrize("mutate", MUTATIONS)
    @settings(max_examples=500)
    @given(st.sampled_from(JUDGED), st.integers(0, 99), st.floats(0, 1))
    def test_of_any_mutated_stream_the_answer_is_what_its_events_say(
        mutate: Mutation, case: Case, at: int, where: float
    ) -> None:
        assert wrong(case, mutated(mutate, case, at, where)) == []


# A golden stream of each API, and the event of it without which the answer is not whole.
HOLES = {
    "chat-reasoning_content_is_joined": 2,
    "completions-text_is_joined": 2,
    "responses-text_is_rebuilt_from_deltas": 3,
    "messages-text_is_joined": 4,
}


@pytest.mark.parametrize("name", HOLES)
def test_a_reader_that_passes_over_a_hole_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = (case for case in JUDGED if f"{case.folder}-{case.path.stem}" == name)
    stream = b"".join(cut_inside(events_in(case.stream), HOLES[name], 0.6))
    assert case.read([stream]).status == 502
    assert wrong(case, stream) == []
    merge = AnswerReader._merge_event

    def pass_over(self: AnswerReader, event: Event) -> None:
        if event.kind is not Kind.UNREADABLE:
            merge(self, event)

    monkeypatch.setattr(AnswerReader, "_merge_event", pass_over)
    assert case.read([stream]).status == 200, "the fault is one"
    assert wrong(case, stream)


def test_few_mutations_leave_the_judge_without_a_verdict() -> None:
    streams = [
        (case, b"".join(mutate(events, at % len(events), 0.6)))
        for at, case in enumerate(JUDGED)
        for events in [events_in(case.stream)]
        for mutate in MUTATIONS
    ]
    outcomes = [independent.outcome_of(KINDS[case.endpoint], stream) for case, stream in streams]
    undecided = sum(isinstance(outcome, independent.Either) for outcome in outcomes)
    assert undecided < len(outcomes) * MOST_UNDECIDED
