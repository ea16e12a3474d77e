"""The flows that are under way."""

from types import SimpleNamespace
from typing import Any, cast

from force_stream.addon.in_flight import Observer, SilenceWatch, figures
from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.live_copy import LiveCopy
from force_stream.rules.rule import UNLIMITED
from harness.master import flow_with
from harness.samples import EVENTS
from harness.steps import sse

SPEC = AnswerSpec("r", "chat", "m")
TWO = sse(*EVENTS[:2], done=False)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def attempt(clock: Clock, **keys: Any) -> Attempt:
    return Attempt(SPEC, UNLIMITED, clock=clock, **keys)


def test_a_flow_under_way_has_its_figures() -> None:
    clock, flow = Clock(), flow_with()
    one = attempt(clock)
    clock.now += 0.5
    one.start_response(200, "text/event-stream")
    one.receive(TWO)
    clock.now += 12
    (found,) = figures(iter([(flow, one)]))
    assert (found["id"], found["upstream"], found["rule"], found["model"]) == (flow.id, "127.0.0.1:22", "r", "m")
    assert (found["events"], found["bytes"], found["first_event"], found["silent_for"]) == (2, len(TWO), 0.5, 12.0)
    assert found["in_flight"] is True


def test_of_a_clients_own_stream_the_bytes_are_known() -> None:
    copy = LiveCopy(1000, SPEC)
    copy(TWO)
    (found,) = figures(iter([(flow_with(), copy)]))
    assert (found["events"], found["bytes"]) == (None, len(TWO))
    assert found["first_event"] is not None


def test_the_newest_flow_comes_first() -> None:
    clock, old, new = Clock(), flow_with(), flow_with()
    old.request.timestamp_end, new.request.timestamp_end = 1.0, 2.0
    found = figures(iter([(old, attempt(clock)), (new, attempt(clock))]))
    assert [each["id"] for each in found] == [new.id, old.id]


def test_a_silence_of_thirty_seconds_has_one_line_and_the_next_one_too() -> None:
    clock, flow, watch = Clock(), flow_with(), SilenceWatch()
    one = attempt(clock)

    def after(seconds: float) -> list[str]:
        clock.now += seconds
        return watch.lines(iter([(flow, one)]))

    assert after(29) == []
    assert after(5) == ["silent for 34 s, no byte of an answer yet; r: chat m, still in flight"]
    assert after(50) == []
    one.start_response(200, "text/event-stream")
    one.receive(TWO)
    assert after(1) == []
    assert after(31) == ["silent for 32 s, after 2 events; r: chat m, still in flight"]
    assert after(5) == []


def test_what_does_not_stream_may_be_silent_and_what_is_over_has_no_line() -> None:
    clock, watch = Clock(), SilenceWatch()
    plain, over = attempt(clock, plain=True), attempt(clock)
    over.cut("connection reset")
    clock.now += 60
    assert watch.lines(iter([(flow_with(), plain), (flow_with(), over)])) == []


def test_the_bytes_of_a_live_stream_stand_for_its_events() -> None:
    copy = SimpleNamespace(silence=40.0, spec=SPEC, size=5, first_byte=1.0)
    (line,) = SilenceWatch().lines(iter([(flow_with(), cast(Observer, copy))]))
    assert line == "silent for 40 s, after 5 bytes; r: chat m, still in flight"
