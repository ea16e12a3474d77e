"""No flow of a file harms what reads it, whatever its notes: the view, the figures, the page, the commands, a replay.
And where a note cannot be read, the answer that was saved stays as it is."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from force_stream.addon.commands import Commands
from force_stream.addon.hooks import ForceStream
from force_stream.page.app import Request, respond
from force_stream.proxy import explain, request, response
from force_stream.proxy.notes import NOTES, UnreadableFlow, check_notes
from force_stream.rules.file import parse_rules
from force_stream.view import contentview, flow_record
from harness import sse
from harness.foreign import DAMAGES, NAMES, foreign_values, other_kinds, saved_flow, saved_plain_flow
from harness.master import lines
from harness.paths import ADDON
from harness.samples import CHAT, DOCUMENT, EVENTS
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import exceptions, http
from mitmproxy.contentviews import Metadata
from mitmproxy.flow import Flow
from mitmproxy.log import ALERT
from mitmproxy.test import taddons

RULES = parse_rules("rules: [{name: all, hosts: [127.0.0.1], force_upstream_stream: true}]", "rules.yaml")

type Damage = Callable[[http.HTTPFlow], None]


@st.composite
def changed(draw: st.DrawFn) -> http.HTTPFlow:
    """A good flow of either direction with some of its notes taken away, and others of any value."""
    flow = draw(st.sampled_from((saved_flow, saved_plain_flow)))()
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=5)):
        flow.metadata.pop(f"force_stream.{name}", None)
    values = st.dictionaries(st.sampled_from([*NAMES, "of_tomorrow"]), foreign_values(), max_size=4)
    flow.metadata |= {f"force_stream.{name}": value for name, value in draw(values).items()}
    return flow


def in_master(test: Callable[[ForceStream, taddons.context], Any], **options: Any) -> None:
    async def inside() -> None:
        ours = ForceStream(ADDON.with_name("rules.yaml"))
        with taddons.context(ours, Commands(ours)) as context:
            context.configure(ours, **options)
            ours.rules_watcher.rules = RULES
            await test(ours, context)

    handlers = list(logging.getLogger().handlers)
    try:
        asyncio.run(inside())
    finally:
        # mitmproxy's own stay, and hold the loop that has ended.
        logging.getLogger().handlers = handlers


def outcome_of(context: taddons.context, name: str, flows: Sequence[Flow], *arguments: str) -> Any:
    try:
        return context.master.commands.call(f"force_stream.{name}", flows, *arguments)
    except exceptions.CommandError as error:
        return error


def is_readable(flow: http.HTTPFlow) -> bool:
    try:
        response.kept_answer(flow)
    except UnreadableFlow:
        return False
    return response.upstreams_body(flow) is not None


@given(changed())
def test_whatever_is_noted_nothing_that_reads_it_raises(flow: http.HTTPFlow) -> None:
    before = flow.get_state()
    assert flow.response is not None
    shown = Metadata(flow=flow, content_type="application/json", http_message=flow.response)
    assert all(line.isprintable() for line in contentview.view.prettify(b"{}", shown).split("\n"))
    contentview.view.render_priority(b"{}", shown)
    assert all(line.isprintable() for line in explain.explain(flow, RULES, enabled=True))
    explain.why_not_forced(flow, RULES, enabled=True)
    spec = request.spec_for(read_again(flow), RULES[0], RULES[0].endpoint(CHAT))
    flow_record.of_own_stream(flow, spec, 1000)
    assert repr(flow.get_state()) == repr(before)


def read_again(flow: http.HTTPFlow) -> Any:
    body = request.body_of(flow)
    assert body is not None
    return body


@given(changed())
def test_a_request_is_put_back_as_it_came_or_not_at_all(flow: http.HTTPFlow) -> None:
    before = repr(flow.get_state())
    came = {"model": "saved", "messages": [{"role": "user", "content": "Hi"}]}
    try:
        plain = request.restored(flow)
    except UnreadableFlow:
        pass
    else:
        untouched = plain.request.raw_content == flow.request.raw_content
        assert untouched or json.loads(plain.request.raw_content or b"")["model"] == came["model"]
    assert repr(flow.get_state()) == before


@given(changed())
def test_the_commands_change_a_flow_that_they_can_read_and_no_other(flow: http.HTTPFlow) -> None:
    async def test(ours: ForceStream, context: taddons.context) -> None:
        before, good, readable = repr(flow.get_state()), saved_flow(), is_readable(flow)
        lines_of = outcome_of(context, "explain", [flow, good])
        assert len(lines_of) == 2
        outcome_of(context, "aggregate", [flow, good])
        assert good.comment.startswith("all: chat saved, 200")
        assert good.modified()
        assert (repr(flow.get_state()) != before) == readable
        assert flow.modified() == readable

    in_master(test)


@given(changed())
def test_a_replay_of_any_flow_sends_a_request(flow: http.HTTPFlow) -> None:
    """As it came and forced anew; where it is not known how it came, as it is."""

    async def test(ours: ForceStream, context: taddons.context) -> None:
        sent, before = flow.request.raw_content, repr(flow.metadata)
        flow.is_replay, flow.live, flow.response = "request", True, None
        await ours.request(flow)
        assert flow.request.raw_content
        if request.was_made_to_stream(flow) and flow.request.raw_content == sent and repr(flow.metadata) == before:
            flow.response = http.Response.make(200, sse(*EVENTS), {"content-type": "text/event-stream"})
            await ours.response(flow)
            assert flow.response.raw_content == sse(*EVENTS), "and its answer stays as it comes"

    in_master(test)


@given(st.lists(changed(), max_size=3))
def test_a_file_that_is_read_changes_nothing_that_it_cannot_read(flows: list[http.HTTPFlow]) -> None:
    async def test(ours: ForceStream, context: taddons.context) -> None:
        for flow in flows:
            before, readable = repr(flow.get_state()), is_readable(flow)
            await ours.request(flow)
            ours.responseheaders(flow)
            await ours.response(flow)
            assert readable or repr(flow.get_state()) == before
        for path in ("/", "/flows", "/stats"):
            asked = Request("GET", path, {"host": "x"}, b"", "127.0.0.1")
            assert (await respond(ours, asked, ["x"])).status == 200

    in_master(test, force_stream_aggregate=True)


# Where nothing is kept of a plain answer, as in older versions, its events become a document.
DAMAGED = [(name, saved_flow) for name in DAMAGES] + [(name, saved_plain_flow) for name in DAMAGES if name != "no sse"]


@pytest.mark.parametrize(("name", "saved"), DAMAGED)
def test_an_answer_that_cannot_be_made_again_stays(name: str, saved: Callable[[], http.HTTPFlow]) -> None:
    async def test(ours: ForceStream, context: taddons.context) -> None:
        flow = saved()
        DAMAGES[name](flow)
        before = repr(flow.get_state())
        assert isinstance(outcome_of(context, "aggregate", [flow]), exceptions.CommandError)
        await ours.response(flow)
        assert repr(flow.get_state()) == before
        assert not flow.modified()

    in_master(test, force_stream_aggregate=True)


def test_a_command_goes_on_with_the_next_flow_and_says_how_many_it_could_not_read(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async def test(ours: ForceStream, context: taddons.context) -> None:
        caplog.set_level("INFO", "force_stream")
        damaged = [saved_flow() for _ in range(3)]
        for flow, name in zip(damaged, ("no choices", "sse is -7", "metadata is a list"), strict=True):
            DAMAGES[name](flow)
        live = saved_flow()
        live.live = True
        everything = [*other_kinds(), *damaged, live, saved_flow(), saved_flow()]
        before = [flow.get_state() for flow in everything]
        outcome_of(context, "aggregate", everything)
        assert lines(caplog, ALERT)[-1] == (
            "2 flows aggregated; 3 could not be read, the first because its force_stream.sse has a value that this "
            "version does not write"
        )
        assert [flow.get_state() for flow in everything[:-2]] == before[:-2]
        assert all(flow.modified() for flow in everything[-2:])
        caplog.clear()
        outcome_of(context, "sse", everything, str(tmp_path / "some.sse"))
        assert lines(caplog, ALERT)[-1].startswith(
            "4 flows written; 1 could not be read, the first because its force_str"
        )
        assert outcome_of(context, "explain", everything)

    in_master(test)


def test_a_flow_that_cannot_be_explained_is_one_line_and_the_next_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = explain.explain
    strange = saved_flow(name="strange")

    def fails_for_one(flow: http.HTTPFlow, *arguments: Any, **named: Any) -> list[str]:
        if flow is strange:
            raise ValueError("a body")
        return read(flow, *arguments, **named)

    async def test(ours: ForceStream, context: taddons.context) -> None:
        monkeypatch.setattr(explain, "explain", fails_for_one)
        first, second = outcome_of(context, "explain", [strange, saved_flow()])
        assert first == "one flow could not be read, because of a bug in the addon: ValueError"
        assert "rule all takes it" in second

    in_master(test)


def test_what_the_first_version_wrote_and_what_a_later_one_adds_can_be_read() -> None:
    async def test(ours: ForceStream, context: taddons.context) -> None:
        early, late = saved_flow(), saved_flow()
        del early.metadata["force_stream.fill"]
        early.metadata["force_stream.encoding_undo"] = "gzip"
        late.metadata |= {"force_stream.of_tomorrow": {"a": [1.5]}, "of_another_addon": [1]}
        kept = [dict(flow.metadata) for flow in (early, late)]
        for flow in (early, late):
            check_notes(flow)
            flow.response.raw_content = b"{}"  # type: ignore[union-attr]
        outcome_of(context, "aggregate", [early, late])
        for flow, before in zip((early, late), kept, strict=True):
            assert flow.response is not None
            assert flow.response.json() == DOCUMENT
            names = {f"force_stream.{each.name}" for each in NOTES}
            strange = {key: value for key, value in before.items() if key not in names}
            assert strange.items() <= flow.metadata.items()

    in_master(test)


def test_a_compare_of_a_flow_that_cannot_be_put_back_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: ForceStream, context: taddons.context) -> None:
        ours.can_send = True
        flow = saved_flow()
        DAMAGES["undo backwards"](flow)
        before = repr(flow.get_state())
        outcome_of(context, "compare", [flow, *other_kinds()[4:7]])
        await asyncio.sleep(0.01)
        assert lines(caplog, logging.WARNING)[:1] == [
            "force_stream.compare /v1/chat/completions: the original request is not known: its force_stream.undo has "
            "a value that this version does not write"
        ]
        assert repr(flow.get_state()) == before

    in_master(test)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("undo", [[0, 10**6, b""]]),
        ("undo", [[10**9, 10**9, b"x"]]),
        ("undo", None),
        ("forced_size", "12"),
        ("headers_undo", [["Authorization", "Bearer x"]]),
        ("headers_undo", None),
    ],
)
def test_positions_outside_the_body_and_headers_of_others_put_nothing_back(name: str, value: Any) -> None:
    flow = saved_flow()
    flow.metadata[f"force_stream.{name}"] = value
    before = repr(flow.get_state())
    with pytest.raises(UnreadableFlow):
        request.restore(flow)
    assert repr(flow.get_state()) == before
