"""What is noted on a flow, and found again; and what is found where another has written it."""

from dataclasses import fields
from typing import Any

import pytest
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy import notes
from force_stream.proxy.notes import (
    NOTES,
    UnreadableFlow,
    check_notes,
    copy_request_notes,
    remove_notes,
    save_notes,
    spec_of,
    was_made_to_stream,
)
from force_stream.rules.file import parse_rules
from force_stream.wire.text import printable
from harness.foreign import JUNK, NAMES, foreign_values
from harness.master import flow_with
from hypothesis import given
from mitmproxy.test import tflow

SPEC = AnswerSpec("r", "chat", "m", choices=3, on_truncated="partial", quirks=("think_tags",), fill='{"a":1}')


def test_a_spec_is_found_again_as_it_was_noted() -> None:
    flow = flow_with()
    save_notes(flow, {}, SPEC)
    assert spec_of(flow) == SPEC
    assert flow.metadata["force_stream.quirks"] == ["think_tags"], "a list, which a flow file can hold"


def test_what_the_first_versions_did_not_note_has_its_default() -> None:
    flow = flow_with()
    save_notes(flow, {}, SPEC)
    del flow.metadata["force_stream.fill"]
    assert spec_of(flow).fill == ""


@pytest.mark.parametrize("name", [field.name for field in fields(AnswerSpec) if field.name != "fill"])
def test_a_spec_of_which_something_is_missing_is_not_guessed(name: str) -> None:
    flow = flow_with()
    save_notes(flow, {}, SPEC)
    del flow.metadata[f"force_stream.{name}"]
    with pytest.raises(UnreadableFlow, match=f"its force_stream.{name} is missing"):
        spec_of(flow)


def test_only_true_says_that_a_request_was_made_to_stream() -> None:
    flow = flow_with()
    for value in (None, False, 1, "true", [True]):
        save_notes(flow, {"forced": value})
        assert not was_made_to_stream(flow)
    save_notes(flow, {"forced": True})
    assert was_made_to_stream(flow)


def test_another_flow_gets_what_was_noted_of_the_request_alone() -> None:
    flow, other = flow_with(), flow_with()
    save_notes(flow, {"forced": True, "sse": b"data", "status": 200}, SPEC)
    other.metadata["force_stream.sse"] = b"old"
    copy_request_notes(flow, other)
    assert spec_of(other) == SPEC
    assert (was_made_to_stream(other), notes.SSE.of(other), notes.STATUS.of(other)) == (True, None, None)


def test_removing_notes_leaves_those_of_others() -> None:
    flow = flow_with()
    theirs = {"another": 1, b"force_stream.bytes": 2, 3: 4}
    flow.metadata |= theirs
    save_notes(flow, {"rule": "r"})
    remove_notes(flow)
    assert flow.metadata == theirs
    assert notes.RULE.of(flow) is None


def test_the_keys_of_a_later_version_are_none_of_ours_and_stay() -> None:
    flow = flow_with()
    save_notes(flow, {"rule": "r", "temperament": {"calm": [1.5]}}, SPEC)
    check_notes(flow)
    assert flow.metadata["force_stream.temperament"] == {"calm": [1.5]}


# What is known, for each note: values that this version writes, and others.
READ: dict[str, tuple[list[Any], list[Any]]] = {
    "rule": (["r", "(none)", ""], ["two\nlines", "\x1b[2J", b"r"]),
    "endpoint": ([*ENDPOINTS], ["sonnets", "", "Chat"]),
    "model": (["m", ""], ["\u202eevil", "x" * 102]),
    "forced": ([True, False], [1, 0, "true"]),
    "made_plain": ([True, False], [1, 0, "true"]),
    "given": ([0, 7], [-1, True, "7"]),
    "with_usage": ([True, False], [1, "true"]),
    "choices": ([1, 128], [0, -1, 10**30, True, 1.0, "1"]),
    "on_truncated": (["error", "partial"], ["ignore", ""]),
    "quirks": ([[], ["think_tags"]], [["of_tomorrow"], ["think_tags", 1], "think_tags"]),
    "fill": (["", '{"a":1}'], ["{", "[1]", "1", "[" * 100_000]),
    "undo": (
        [[], [[0, 0, b"a"], [0, 2, b""], [2, 2, b"b"]]],
        [[[2, 1, b""]], [[3, 4, b""], [2, 3, b""]], [[-1, 2, b""]]],
    ),
    "forced_size": ([0, 5], [-5, 5.0]),
    "headers_undo": (
        [[], [["Accept", "*/*"]], [["Accept", b"\xff"]]],
        [[["Accept"]], [["Accept", 1]], ["ab"], [[["a"], "b"]]],
    ),
    "retry_of": (["id"], [["id"]]),
    "try": ([2], [-2, True, 2.5]),
    "retried_as": ([[], ["a", "b"]], [["a", None], "ab"]),
    "answered_by": (["id", ""], [["id"]]),
    "origin": (["app://obsidian.md", "null"], ["app://x\r\nset-cookie: a=b", 1]),
    "left_alone": (["why"], [["why"]]),
    "sse": ([b"", b"data: 1\n\n"], ["data: 1\n\n", [b"data: 1\n\n"]]),
    "sse_status": ([200, 0], [-200, 1000, 200.0, "200", True]),
    "sse_type": (["", "text/event-stream"], [b"text/event-stream"]),
    "head": ([[], [["retry-after", b"20"]]], [[["retry-after"]], "retry-after"]),
    "times": (
        [[], [0.5, 10.0, 0.75, 20], [1, 1]],
        [[1.0], [2.0, 1, 1.0, 2], [1.0, 2, 2.0, 1], [float("nan"), 1], [1.0, float("inf")], [-1.0, 1], [True, 1]],
    ),
    "ended": ([0, 1.5], [-1.0, True, "1.5", float("nan"), float("inf")]),
    "cut_by": (["", "connection reset"], [b"reset"]),
    "limit": (["no byte for 9 s"], [9]),
    "cut_at": ([0, 9], [-1]),
    "injected": (["{}"], [{}]),
    "cause": (["", "cut off after event 10"], [["cut off"]]),
    "status": ([200], [2000]),
    "events": ([0], [-1, 10**16]),
    "bytes": ([0], [0.0]),
    "finish_reason": ([""], [None, ["stop"]][1:]),
    "inferred": ([True], [1]),
    "truncated": ([False], ["no"]),
    "error": (["", "stream_truncated"], [{"code": 1}]),
    "usage": (["{}"], [{}]),
    "odd": ([[], ["event 1: odd"]], ["odd", [["odd"]]]),
}


def test_every_note_has_its_rows() -> None:
    assert [each.name for each in NOTES] == list(READ) == NAMES


@pytest.mark.parametrize("what", NOTES, ids=NAMES)
def test_a_value_is_known_only_if_this_version_writes_it(what: notes.Note[Any]) -> None:
    flow = flow_with()
    good, bad = READ[what.name]
    for value in good:
        save_notes(flow, {what.name: value})
        read = what.of(flow)
        assert (list(map(list, read)) if what.name in ("undo", "headers_undo", "head") else read) == (
            tuple(value) if what.name == "quirks" else value
        )
        check_notes(flow)
    for value in [*bad, *(junk for junk in JUNK if type(junk) not in map(type, good))]:
        save_notes(flow, {what.name: value})
        assert what.of(flow) is None, value
        with pytest.raises(
            UnreadableFlow, match=f"^its force_stream.{what.name} has a value that this version does not"
        ):
            check_notes(flow)


def test_of_what_is_missing_nothing_is_known() -> None:
    flow = flow_with()
    for metadata in (
        {},
        {f"force_stream.{name}": None for name in NAMES},
        {f"force_stream.{name}".encode(): 1 for name in NAMES},
    ):
        flow.metadata = metadata
        assert [each.of(flow) for each in NOTES] == [None] * len(NOTES)
        check_notes(flow)
    assert [each.of(None) for each in NOTES] == [each.of(tflow.ttcpflow()) for each in NOTES] == [None] * len(NOTES)


@pytest.mark.parametrize("metadata", [None, [], ["force_stream.rule"], "force_stream.rule", 7, b"x"])
def test_metadata_that_is_no_dictionary_has_no_notes_until_one_is_saved(metadata: Any) -> None:
    flow = flow_with()
    flow.metadata = metadata
    assert [each.of(flow) for each in NOTES] == [None] * len(NOTES)
    with pytest.raises(UnreadableFlow, match="its metadata is not a dictionary"):
        check_notes(flow)
    save_notes(flow, {"rule": "r"})
    assert flow.metadata == {"force_stream.rule": "r"}


@given(foreign_values())
def test_nothing_that_a_file_can_hold_raises(value: Any) -> None:
    flow = flow_with()
    for what in NOTES:
        flow.metadata = {f"force_stream.{what.name}": value}
        what.of(flow)


def test_the_longest_names_of_rules_and_models_are_known() -> None:
    (rule,) = parse_rules(f"rules: [{{name: {'r' * 80}, hosts: [a]}}]", "rules.yaml")
    flow = flow_with()
    save_notes(flow, {"rule": rule.name, "model": printable("ö" * 1000)})
    assert notes.RULE.of(flow) == rule.name
    assert notes.MODEL.of(flow) == "ö" * 100 + "…"
