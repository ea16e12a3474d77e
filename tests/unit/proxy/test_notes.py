"""What is noted on a flow, and found again."""

from force_stream.answer.reader import AnswerSpec
from force_stream.proxy.notes import (
    copy_request_notes,
    note,
    remove_notes,
    save_notes,
    spec_of,
    was_made_to_stream,
)
from harness.master import flow_with

SPEC = AnswerSpec("r", "chat", "m", choices=3, on_truncated="partial", quirks=("minimax",))


def test_a_spec_is_found_again_as_it_was_noted() -> None:
    flow = flow_with()
    save_notes(flow, {}, SPEC)
    assert spec_of(flow) == SPEC
    assert flow.metadata["force_stream.quirks"] == ["minimax"], "a list, which a flow file can hold"


def test_what_an_older_version_did_not_note_has_its_default() -> None:
    flow = flow_with()
    save_notes(flow, {"rule": "r", "endpoint": "chat"})
    assert spec_of(flow) == AnswerSpec("r", "chat")


def test_only_true_says_that_a_request_was_made_to_stream() -> None:
    flow = flow_with()
    assert not was_made_to_stream(flow)
    save_notes(flow, {"forced": True})
    assert was_made_to_stream(flow)


def test_another_flow_gets_what_was_noted_of_the_request_alone() -> None:
    flow, other = flow_with(), flow_with()
    save_notes(flow, {"forced": True, "sse": b"data", "status": 200}, SPEC)
    other.metadata["force_stream.sse"] = b"old"
    copy_request_notes(flow, other)
    assert spec_of(other) == SPEC
    assert [note(other, key) for key in ("forced", "sse", "status")] == [True, None, None]


def test_removing_notes_leaves_those_of_others() -> None:
    flow = flow_with()
    flow.metadata["another"] = 1
    save_notes(flow, {"rule": "r"})
    remove_notes(flow)
    assert flow.metadata == {"another": 1}
    assert note(flow, "rule", "none") == "none"
