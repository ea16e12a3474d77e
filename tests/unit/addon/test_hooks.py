"""The hooks, called by hand in a test master: whom they leave alone, what they keep on a flow, and their faults."""

import asyncio
import gc
import gzip
import io
import json
import logging
import re
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
from force_stream import aggregate
from force_stream.addon import hooks as addon
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy import request as requests
from force_stream.proxy import stream_layer
from force_stream.proxy.attempt import Attempt
from force_stream.rules.file import parse_rules
from force_stream.rules.rule import Rule
from harness import sse
from harness.master import answer_with, counted, flow_with, lines, logged, run_with, upstream_answers
from harness.paths import ADDON
from harness.samples import DOCUMENT, EVENTS, SECRET, STREAM, choice, chunk, request
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.exceptions import CommandError
from mitmproxy.flow import Error
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test import taddons, tflow


def _with_response(flow: http.HTTPFlow) -> None:
    answer_with(flow, b"{}", "application/json")


def _with_error(flow: http.HTTPFlow) -> None:
    flow.error = tflow.terr()


def _not_live(flow: http.HTTPFlow) -> None:
    flow.live = False


@pytest.mark.parametrize("prepare", [_with_response, _with_error, _not_live])
def test_a_flow_that_is_not_ours_to_decide_about_is_left(run: Callable, prepare: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        prepare(flow)
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before

    run(test)


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of the garbage collector: the tests have set aside what is theirs, as the addon does."""
    made = Mock(spec=gc)
    monkeypatch.setattr(addon, "gc", made)
    return made


def test_garbage_is_not_looked_for_in_what_was_there_when_the_proxy_started(run: Callable, collector: Mock) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        ours.running()
        ours.done()
        assert collector.mock_calls == [call.unfreeze(), call.collect(), call.freeze()]

    run(test)


def test_the_master_switch_leaves_a_flow(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.configure(ours, force_stream=False)
        flow = flow_with()
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before

    run(test)


PLAIN = parse_rules("rules: [{name: plain, hosts: ['*'], force_upstream_plain: true}]", "rules.yaml")


@pytest.mark.parametrize("again", [PLAIN, ()], ids=["by the same rule", "by none"])
def test_a_request_that_was_made_plain_is_replayed_as_it_came_and_by_the_rules_then(
    run: Callable, again: tuple[Rule, ...]
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(stream=True))
        came = flow.request.raw_content
        for number, rules in enumerate((PLAIN, again)):
            ours.rules_watcher.rules = rules
            if number:
                flow.response, flow.is_replay, flow.live = None, "request", True
            await ours.request(flow)
            if rules is not PLAIN:
                assert flow.request.raw_content == came
                return
            assert json.loads(flow.request.raw_content or b"") == request()
            upstream_answers(ours, flow, json.dumps(DOCUMENT).encode(), "application/json")
            ours.responseheaders(flow)
            await ours.response(flow)
            assert flow.response
            assert json.loads(aggregate(flow.response.content or b"").body)["choices"] == DOCUMENT["choices"]
            assert flow.comment.startswith("plain: chat m, 200, sent plain, given as events, finish stop")

    run(test)


def test_the_answer_of_another_addon_to_a_request_that_was_made_plain_is_left(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        ours.rules_watcher.rules = PLAIN
        flow = flow_with(request(stream=True))
        await ours.request(flow)
        answer_with(flow, b'{"mine": 1}', "application/json")
        await ours.response(flow)
        assert flow.response
        assert flow.response.content == b'{"mine": 1}'
        assert "answered by another addon" in flow.comment

    run(test)


UNTOUCHED = {
    "another model": {"body": request("other")},
    "a rule that does not force": {"body": request("unforced")},
    "no JSON": {"body": b"model=m"},
    "a GET": {"method": "GET"},
    "another path": {"path": "/v1/models"},
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_a_flow_that_no_rule_forces_is_equal_in_state_to_the_end(run: Callable, case: str) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(**UNTOUCHED[case])
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before
        answer_with(flow)
        answered = flow.get_state()
        ours.responseheaders(flow)
        await ours.response(flow)
        assert flow.get_state() == answered
        assert flow.response
        assert not flow.response.stream

    run(test)


def test_a_request_whose_body_mitmproxy_streams_is_left(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        flow.request.raw_content = None
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before

    run(test)


def test_a_request_that_has_been_sent_is_left_and_what_to_change_is_said_once(
    run: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        for _ in range(2):
            flow = flow_with()
            flow.request.stream = True
            before = flow.request.get_state()
            await ours.request(flow)
            assert flow.request.get_state() == before
            assert flow.metadata["force_stream.left_alone"] == "mitmproxy streamed its body"
        (line,) = lines(caplog, logging.WARNING)
        assert line.startswith("blue-team: requests whose bodies mitmproxy streams cannot be forced. ")
        other = flow_with(path="/v1/models")
        other.request.stream = True
        await ours.request(other)
        assert other.metadata == {}

    run(test)


def test_an_error_that_a_script_sets_does_not_hand_the_events_to_the_client(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        upstream_answers(ours, flow)
        flow.error = tflow.terr()
        await ours.response(flow)
        assert flow.response.json() == DOCUMENT

    run(test)


def test_a_refused_request_says_why_on_the_flow_and_in_the_log(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with({"model": "m", "prompt": "", "best_of": 3}, path="/v1/completions")
        before = flow.request.get_state()
        await ours.request(flow)
        assert flow.request.get_state() == before
        reason = "best_of 3 cannot be streamed"
        assert flow.metadata == {
            "force_stream.rule": "private-vllm",
            "force_stream.endpoint": "completions",
            "force_stream.left_alone": reason,
        }
        assert lines(caplog, logging.INFO) == [f"private-vllm completions: left as it came: {reason}"]

    run(test)


def test_a_stream_that_a_refused_request_gets_all_the_same_becomes_its_answer(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(modalities=["audio"], audio={"format": "wav"}))
        await ours.request(flow)
        assert "stream" not in json.loads(flow.request.content)
        answer_with(flow)
        await ours.response(flow)
        assert flow.response.json() == DOCUMENT

    run(test)


def test_a_forced_flow_can_be_saved_and_loaded(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        await ours.response(flow)
        file = io.BytesIO()
        FlowWriter(file).add(flow)
        file.seek(0)
        (loaded,) = FlowReader(file).stream()
        assert isinstance(loaded, http.HTTPFlow)
        assert loaded.metadata == flow.metadata
        assert loaded.metadata["force_stream.sse"] == STREAM
        assert (loaded.comment, loaded.response and loaded.response.json()) == (flow.comment, DOCUMENT)
        assert SECRET not in f"{flow.metadata}{flow.comment}"

    run(test)


def test_what_is_kept_on_a_flow_gives_its_request_back_as_it_came(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        came = flow.request.raw_content
        await ours.request(flow)
        assert flow.request.raw_content != came
        assert flow.request.raw_content
        assert requests.as_it_came(flow, flow.request.raw_content) == came

    run(test)


def test_a_second_run_of_the_response_hook_changes_nothing(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        await ours.response(flow)
        before = flow.get_state()
        await ours.response(flow)
        assert flow.get_state() == before

    run(test)


def test_a_flow_that_was_forced_before_a_reload_is_aggregated_after_it(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(n=2))
        await ours.request(flow)
        answer_with(flow, sse(*EVENTS))
        reloaded = addon.ForceStream(ADDON.with_name("rules.yaml"))
        await reloaded.response(flow)
        assert flow.response
        assert flow.response.json()["choices"][0] == DOCUMENT["choices"][0]

    run(test)


def test_a_long_stream_is_aggregated_all_the_same(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        many = 30_000
        stream = sse(EVENTS[0], *[EVENTS[1]] * many, *EVENTS[3:])
        answer = AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")
        answer.feed(stream)
        assert answer.blocks_loop
        answer_with(flow, stream)
        await ours.response(flow)
        assert flow.response
        assert flow.response.json()["choices"][0]["message"]["content"] == "Hel" * many

    run(test)


@pytest.mark.parametrize("asked", [{}, {"stream": True}], ids=["forced", "the client's own stream"])
def test_what_is_remembered_of_a_flow_is_little_whatever_its_names_are(run: Callable, asked: dict[str, Any]) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        ours.change_rule("private-vllm", {"models": '["*"]'})
        flow = flow_with(request("m" * 1_000, **asked))
        await ours.request(flow)
        answer_with(flow, sse(*(chunk(choice(number, f"a reason {number}")) for number in range(5_000))))
        ours.responseheaders(flow)
        assert flow.response
        if callable(flow.response.stream):
            content, flow.response.raw_content = flow.response.raw_content, None
            flow.response.stream(content)
        await ours.response(flow)
        await counted(ours)
        (outcome,) = ours.stats.latest()
        assert outcome.finish_reason.startswith("a reason 0, a reason 1, ")
        assert len(repr(outcome)) < 1_000
        assert len(repr(ours.stats.rows())) < 1_000
        assert len(flow.comment) < 1_000

    run(test)


def test_an_answer_that_mitmproxy_streamed_is_told_of(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        assert flow.response
        flow.response.raw_content = None
        await ours.response(flow)
        (line,) = lines(caplog, logging.WARNING)
        assert "stream_large_bodies" in line
        assert "flow.response.stream" in line

    run(test)


def test_a_flow_without_an_answer_is_marked_and_told_of(run: Callable, caplog: pytest.LogCaptureFixture) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        flow.error = tflow.terr()
        ours.error(flow)
        assert (flow.marked, flow.comment) == (":warning:", "no answer: error; private-vllm: chat m")
        assert flow.metadata["force_stream.error"] == "no_answer"
        (line,) = lines(caplog, logging.WARNING)
        assert re.fullmatch(r"no answer: error; private-vllm: chat m, \d+\.\d s", line)
        other = flow_with(request("other"))
        other.error = tflow.terr()
        before = other.get_state()
        ours.error(other)
        assert other.get_state() == before

    run(test)


def test_the_copy_of_a_live_stream_ends_at_the_rules_max_body(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        ours.change_rule("private-vllm", {"max_body": "10"})
        flow = flow_with(request(stream=True))
        before = flow.request.get_state()
        await ours.request(flow)
        assert flow.request.get_state() == before
        answer_with(flow)
        assert flow.response
        flow.response.raw_content = None
        ours.responseheaders(flow)
        assert callable(flow.response.stream)
        assert [flow.response.stream(piece) for piece in (b"12345678", b"9abcdef", b"")] == [
            b"12345678",
            b"9abcdef",
            b"",
        ]
        await ours.response(flow)
        assert flow.response.raw_content == b"12345678"
        assert flow.metadata["force_stream.cut_at"] == 8

    run(test)


def test_a_live_stream_that_breaks_off_leaves_what_came(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(stream=True))
        await ours.request(flow)
        answer_with(flow)
        assert flow.response
        flow.response.raw_content = None
        ours.responseheaders(flow)
        assert callable(flow.response.stream)
        flow.response.stream(STREAM[:40])
        flow.error = tflow.terr()
        ours.error(flow)
        assert flow.response.raw_content == STREAM[:40]

    run(test)


def _fails(*args: object, **kwargs: object) -> None:
    raise RuntimeError(f"it says {SECRET}")


def test_a_fault_in_the_response_hook_is_an_error_of_openais_shape_and_one_line(
    run: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        monkeypatch.setattr(Attempt, "finish", _fails)
        await ours.response(flow)
        assert flow.response
        assert (flow.response.status_code, flow.response.headers["content-type"]) == (502, "application/json")
        error = flow.response.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("upstream_error", None, "force_stream_error")
        (line,) = lines(caplog, logging.ERROR)
        assert line.startswith("force-stream: a bug in the addon, the client gets an error: RuntimeError.")
        assert SECRET not in line
        assert SECRET not in flow.response.text

    run(test)


def test_a_fault_in_the_request_hook_leaves_the_request(
    run: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        monkeypatch.setattr(requests, "force", _fails)
        flow = flow_with()
        before = flow.get_state()
        await ours.request(flow)
        assert flow.get_state() == before
        (line,) = lines(caplog, logging.ERROR)
        assert line.startswith("force-stream: a bug in the addon, the request went out as it came: RuntimeError.")
        assert SECRET not in line

    run(test)


def observers(context: taddons.context) -> list[object]:
    return [each for each in context.master.addons.chain if type(each).__name__ == "StreamLayerAddon"]


def test_a_mitmproxy_unknown_below_its_hooks_is_warned_of_and_answers_are_still_aggregated(
    rules_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_layer, "check", lambda: "http has no HttpStream")

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        (line,) = lines(caplog, logging.WARNING)
        assert "this version of mitmproxy differs below its hooks (http has no HttpStream)" in line
        assert observers(context) == []
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow)
        await ours.response(flow)
        assert flow.response
        assert flow.response.json() == DOCUMENT

    run_with(rules_file, test)


def test_the_part_below_the_hooks_comes_and_goes_with_the_addon(
    run: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        # From the beginning: `running` comes when clients may have sent requests already.
        assert observers(context) == [ours._stream_layer]
        ours.running()
        assert observers(context) == [ours._stream_layer]
        ours.done()
        assert observers(context) == []
        assert lines(caplog, logging.WARNING) == []

    run(test)


# Bodies that stand for far more than they weigh


@pytest.mark.parametrize(("heartbeat", "coding"), [(True, None), (False, "gzip")])
def test_an_encoded_answer_is_decoded_off_the_loop_for_a_client_that_has_its_head(
    run: Callable, monkeypatch: pytest.MonkeyPatch, heartbeat: bool, coding: str | None
) -> None:
    decoded, threads = addon.bodies.decoded, []

    def noted(message: http.Message) -> bytes | None:
        threads.append(threading.current_thread())
        return decoded(message)

    async def test(ours: addon.ForceStream, _: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        monkeypatch.setattr(addon.bodies, "decoded", noted)
        ours._wait_of(flow).headers_sent = heartbeat  # type: ignore[union-attr]
        document = gzip.compress(json.dumps(DOCUMENT).encode())
        answer_with(flow, document, "application/json")
        assert flow.response is not None
        flow.response.headers["content-encoding"] = "gzip"
        await ours.response(flow)
        assert flow.response.headers.get("content-encoding") == coding
        assert flow.response.headers["content-length"] == str(len(flow.response.raw_content or b""))
        assert flow.response.json() == DOCUMENT
        assert len(threads) == heartbeat
        assert threading.main_thread() not in threads

    run(test)


@pytest.mark.parametrize("size", [10, 500_000])
def test_a_large_request_is_edited_off_the_loop(run: Callable, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    forced, threads = requests.force, []

    def noted(*arguments: Any) -> AnswerSpec | None:
        threads.append(threading.current_thread())
        return forced(*arguments)

    async def test(ours: addon.ForceStream, _: taddons.context) -> None:
        monkeypatch.setattr(requests, "force", noted)
        flow = flow_with(request(user="a" * size))
        await ours.request(flow)
        assert json.loads(flow.request.raw_content or b"")["stream"] is True
        assert [thread is threading.main_thread() for thread in threads] == [size == 10]

    run(test)


BOMB = gzip.compress(b'{"model": "m", "messages": []' + bytes(20 * 1024**2))
LARGE_BOMB = zlib.compress(bytes(200 * 1024**2), 1)
MEGABYTE = 1024**2


def _bomb(**keys: Any) -> http.HTTPFlow:
    flow = flow_with(BOMB, **keys)
    flow.request.headers["content-encoding"] = "gzip"
    return flow


async def _peak(work: Coroutine[Any, Any, None]) -> int:
    tracemalloc.start()
    try:
        await work
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rules", ["force_upstream_stream: true", "learn: true"])
def test_a_request_that_decodes_to_more_than_max_body_goes_out_as_it_came_and_says_why(
    run: Callable, rules_file: Path, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    caplog.set_level(logging.INFO, "force_stream")
    rules_file.write_text(f"rules:\n- {{name: r, hosts: ['*'], max_body: 1MiB, {rules}}}\n")

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = _bomb()
        before = flow.request.get_state()
        assert await _peak(ours.request(flow)) < 4 * MEGABYTE
        answer_with(flow, b"{}", "application/json", 400)
        assert await _peak(ours.response(flow)) < 4 * MEGABYTE
        assert flow.request.get_state() == before
        why = "its body (gzip) is not a JSON object or a form of at most 1,048,576 bytes"
        assert f"r chat: left as it came: {why}" in caplog.messages
        assert "in the log" in context.master.commands.call("force_stream.explain", [flow])[-1]
        explained = await logged(caplog, "rule r takes it")
        assert rules.startswith("learn") or explained.endswith(f"left as it came: {why}")

    run(test)


@pytest.mark.parametrize("keys", ["filter: '~bs x | ~bq y'", "models: [x]", "endpoints: [responses]"])
def test_a_request_that_no_rule_might_change_is_left_without_a_word_and_never_decoded_without_a_limit(
    run: Callable, rules_file: Path, caplog: pytest.LogCaptureFixture, keys: str
) -> None:
    caplog.set_level(logging.INFO, "force_stream")
    rules_file.write_text(f"rules:\n- {{name: r, hosts: ['*'], max_body: 1MiB, {keys}}}\n")

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = _bomb()
        assert await _peak(ours.request(flow)) < 4 * MEGABYTE
        assert flow.metadata == {}
        flow.request.raw_content = LARGE_BOMB
        answer_with(flow, b"", "application/json", 400)
        flow.response.headers["content-encoding"] = "gzip"
        flow.response.raw_content = LARGE_BOMB
        assert await _peak(ours.response(flow)) < 100 * MEGABYTE
        assert lines(caplog, logging.WARNING)

    run(test)


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
@pytest.mark.parametrize("rule", ["force_upstream_stream: true", "learn: true"])
def test_an_answer_that_decodes_to_more_than_max_body_is_never_decoded_whole(
    run: Callable, rules_file: Path, rule: str, content_type: str
) -> None:
    rules_file.write_text(f"rules:\n- {{name: r, hosts: ['*'], max_body: 1MiB, {rule}}}\n")
    bomb = gzip.compress(STREAM + bytes(20 * MEGABYTE))

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow, b"", content_type)
        flow.response.headers["content-encoding"] = "gzip"
        flow.response.raw_content = bomb
        assert await _peak(ours.response(flow)) < 4 * MEGABYTE
        assert flow.response.json()["error"]["code"] == "stream_too_large"

    run(test)


OWN_ENDS = [
    (STREAM, "", False, ""),
    (STREAM[:300], "server closed connection", True, "cut off inside event 2 (connection closed)"),
    (STREAM[:300], "Client disconnected.", False, "cut off inside event 2 (the client gave up)"),
]


@pytest.mark.parametrize(("body", "error", "marked", "cause"), OWN_ENDS)
def test_a_clients_own_stream_is_told_of_where_it_did_not_end(
    run: Callable, body: bytes, error: str, marked: bool, cause: str
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(stream=True))
        await ours.request(flow)
        answer_with(flow)
        flow.response.raw_content = None
        ours.responseheaders(flow)
        flow.response.stream(body)
        if error:
            flow.error = Error(error)
            if error.startswith("Client"):
                flow.client_conn.state = ConnectionState.CLOSED
            ours.error(flow)
        else:
            await ours.response(flow)
        await counted(ours)
        about = "private-vllm: chat m, the client's own stream"
        assert flow.comment == (f"{cause}; {about}" if cause else "")
        assert bool(flow.marked) is marked

    run(test)


@pytest.mark.parametrize("again", [True, False])
def test_of_a_file_a_flow_that_had_no_answer_says_why_again(
    run: Callable, again: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.configure(ours, force_stream_aggregate=again)
        flow = flow_with()
        flow.live, flow.error = False, Error("Client disconnected.")
        flow.metadata["force_stream.cause"] = "the client gave up after 2.0 s\x1b[2J"
        before = flow.get_state()
        ours.error(flow)
        line = "/v1/chat/completions: the client gave up after 2.0 s\\x1b[2J"
        assert lines(caplog, logging.WARNING) == ([line] if again else [])
        assert flow.get_state() == before

    run(test)


def test_a_clients_own_stream_that_decodes_to_more_than_max_body_is_read_up_to_it(
    run: Callable, rules_file: Path
) -> None:
    rules_file.write_text("rules:\n- {name: r, hosts: ['*'], max_body: 1MiB, force_upstream_stream: true}\n")
    bomb = gzip.compress(STREAM + bytes(20 * MEGABYTE))

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(stream=True))
        await ours.request(flow)
        answer_with(flow)
        flow.response.headers["content-encoding"] = "gzip"
        flow.response.raw_content = None
        ours.responseheaders(flow)
        assert flow.response.stream(bomb) == bomb

        async def respond() -> None:
            await ours.response(flow)
            await counted(ours)

        assert await _peak(respond()) < 8 * MEGABYTE
        (row,) = ours.stats.rows()
        assert row["flows"] == 1

    run(test)


async def _answered(ours: addon.ForceStream) -> None:
    flow = flow_with()
    await ours.request(flow)
    upstream_answers(ours, flow)
    await ours.response(flow)


def test_whoever_looks_at_the_figures_sees_every_answer(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        for number in range(1, 4):
            await _answered(ours)
            assert ours.stats.count == number

    run(test)


def test_no_more_than_some_answers_wait_to_be_counted(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        for _ in range(addon._MOST_UNCOUNTED + 1):
            await _answered(ours)
        assert len(ours._uncounted) > addon._MOST_UNCOUNTED
        await asyncio.sleep(0)
        assert not ours._uncounted

    run(test)


# What upstreams have said about streaming

LEARNS = "rules:\n- {name: hears, hosts: ['127.0.0.1'], learn: true}\n"
NOT_STREAMED = b'{"error": {"message": "Cannot use tools with stream"}}'


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", ""])
def test_a_stream_that_nobody_asked_for_is_aggregated_and_remembered(
    run: Callable, rules_file: Path, caplog: pytest.LogCaptureFixture, content_type: str
) -> None:
    rules_file.write_text(LEARNS)

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        came = flow.request.raw_content
        await ours.request(flow)
        assert flow.request.raw_content == came
        upstream_answers(ours, flow, STREAM, content_type)
        await ours.response(flow)
        assert flow.response.json() == DOCUMENT
        assert flow.metadata["force_stream.sse"] == STREAM
        assert ours.learned == ["learned: 127.0.0.1 m (chat) must stream"]
        *marked, line = lines(caplog, logging.WARNING)
        assert [each.partition(";")[0] for each in marked] == [
            f"odd: an event stream labelled {content_type}" for _ in range(content_type == "application/json")
        ]
        assert "hears: 127.0.0.1 answers m only as a stream" in line
        again = flow_with()
        await ours.request(again)
        assert json.loads(again.request.content)["stream"] is True

    run(test)


@pytest.mark.parametrize("body", [sse(*EVENTS[:2], done=False), b""])
def test_a_broken_stream_that_nobody_asked_for_is_an_error_and_teaches_nothing(
    run: Callable, rules_file: Path, body: bytes
) -> None:
    rules_file.write_text(LEARNS)

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with()
        await ours.request(flow)
        answer_with(flow, body)
        await ours.response(flow)
        assert flow.response.status_code == 502
        assert ours.learned == []

    run(test)


def test_a_request_that_cannot_stream_goes_out_as_it_came_and_says_why(
    run: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "force_stream")

    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        sent = []

        async def send(flow: http.HTTPFlow, attempt: Attempt) -> None:
            sent.append(flow)
            answer_with(flow, b'{"choices": []}', "application/json")
            attempt.start_response(200, "application/json")
            attempt.receive(b'{"choices": []}')
            attempt.end()

        ours._retries._send = send
        ours.can_send = True
        flow = flow_with(request(tools=[{}]))
        await ours.request(flow)
        upstream_answers(ours, flow, NOT_STREAMED, "application/json", 500)
        await ours.response(flow)
        assert flow.response.json() == {"choices": []}
        assert [each.request.content for each in sent] == [flow_with(request(tools=[{}])).request.content]
        assert flow.metadata["force_stream.answered_by"] == sent[0].id
        flow.live = False
        with pytest.raises(CommandError, match="its answer is not that of its own try"):
            context.master.commands.call("force_stream.aggregate", [flow])
        assert flow.response.json() == {"choices": []}

        again, other = flow_with(request(tools=[{}])), flow_with()
        for each in (again, other):
            await ours.request(each)
        assert json.loads(again.request.content) == request(tools=[{}])
        assert json.loads(other.request.content)["stream"] is True
        why = "the upstream said that it cannot stream a request with tools"
        assert again.metadata["force_stream.left_alone"] == why
        assert f"private-vllm chat: left as it came: {why}" in caplog.messages
        upstream_answers(ours, again, b"{}", "application/json")
        await ours.response(again)
        await asyncio.sleep(0)
        assert [(each.status, each.bytes) for each in ours.stats.latest()] == [(200, 2), (500, len(NOT_STREAMED))]
        call = context.master.commands.call_strings
        listed = call("force_stream.rules", [])
        assert listed[-1] == "learned: 127.0.0.1 m (chat) cannot stream a request with tools; sent plain"
        (explained,) = context.master.commands.call("force_stream.explain", [again])[-1:]
        assert explained.endswith(f"its request would be forced now; it was left as it came: {why}")
        call("force_stream.set", ["private-vllm", "idle_timeout", "30"])
        assert ours.learned == []

    run(test)


def test_what_cannot_stream_anyway_is_left_alone_whatever_the_upstream_said(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        ours.change_rule("private-vllm", {"heartbeat": "1"})
        beats = {}
        for asked in (request(), request(modalities=["audio"], audio={"format": "wav"})):
            flow = flow_with(asked)
            endpoint = ENDPOINTS["chat"]
            ours._retries.learned.add_plain(requests.asked_of(flow, "m", endpoint), requests.credentials_of(flow), ())
            await ours.request(flow)
            assert json.loads(flow.request.content) == asked
            wait = ours._wait_of(flow)
            assert wait
            assert wait.attempt
            beats[flow.metadata["force_stream.left_alone"]] = wait.next_deadline() is not None
        assert list(beats.values()) == [True, False], beats

    run(test)


@pytest.mark.parametrize("false", ["false", "False", 0, "", "0"])
def test_whatever_a_client_sends_for_false_is_forced(run: Callable, false: Any) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = flow_with(request(stream=false))
        await ours.request(flow)
        assert json.loads(flow.request.content)["stream"] is True

    run(test)


async def _joined(ours: addon.ForceStream, address: str = "127.0.0.1") -> http.HTTPFlow | None:
    """A flow with the same request as one whose client has just gone, if it waits for the answer to that."""
    ours.change_rule("private-vllm", {"keep_answers": "300"})
    first, second = flow_with(), flow_with()
    second.client_conn.peername = (address, 1)
    await ours.request(first)
    wait = ours._wait_of(first)
    assert wait is not None
    wait.leave()
    await ours.request(second)
    assert isinstance(ours._roles[first], addon.Waiting)
    return second if second.response is not None else None


def test_what_another_addon_answers_to_a_request_that_waits_for_a_kept_answer_stays(run: Callable) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        flow = await _joined(ours)
        assert flow is not None
        flow.response = http.Response.make(403, b"no")
        await asyncio.wait_for(ours.response(flow), 10)
        assert (flow.response.status_code, flow.response.content) == (403, b"no")

    run(test)


@pytest.mark.parametrize(
    ("upstream_auth", "address", "joins"),
    [(None, "10.0.0.2", True), ("user:word", "10.0.0.2", False), ("user:word", "127.0.0.1", True)],
)
def test_where_the_proxy_sets_the_key_a_kept_answer_is_for_one_address(
    run: Callable, upstream_auth: str | None, address: str, joins: bool
) -> None:
    async def test(ours: addon.ForceStream, context: taddons.context) -> None:
        context.options.add_option("upstream_auth", str | None, upstream_auth, "")
        assert (await _joined(ours, address) is not None) == joins

    run(test)
