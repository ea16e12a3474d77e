"""A flaky upstream never reaches the application: the fault matrix, and what its rows have no place for."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Certs,
    Close,
    End,
    Gate,
    Head,
    Http1Client,
    Linger,
    Pause,
    Reset,
    Signal,
    WaitFor,
    faults,
    openai_client,
    raw_request,
)
from harness.faults import CHAT, CLIENTS, FAULTS, HEL, PADDING, WHOLE, Bench, Row, Seen, ask, body_of, verdict
from harness.paths import ROOT, SCRIPTS

DOCS = ROOT / "docs" / "faults.md"

both_clients = pytest.mark.parametrize("client", CLIENTS)
both_upstreams = pytest.mark.parametrize("over", ["HTTP/1", "HTTP/2"])


@pytest.fixture(scope="module")
def make_bench(certs: Certs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Bench]]:
    """`make_bench(**arguments of Bench)`: the same arguments give the same bench, for the whole module."""
    benches: dict[str, Bench] = {}

    with ExitStack() as stack:

        def make(**settings: Any) -> Bench:
            key = repr(sorted(settings.items()))
            if key not in benches:
                benches[key] = stack.enter_context(Bench(certs, tmp_path_factory.mktemp("bench"), **settings))
            return benches[key]

        yield make
        errors = [error for bench in benches.values() for error in bench.upstream.errors]
        assert not errors, "\n".join(errors)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def named(*names: str) -> list[faults.Fault]:
    found = [fault for fault in FAULTS if fault.name in names]
    assert {fault.name for fault in found} == set(names)
    return found


def headers_of(key: str) -> list[tuple[str, str]]:
    return [("Content-Type", "application/json"), ("x-answer", key)]


# The matrix


@both_clients
@pytest.mark.parametrize("heartbeat", [False, True], ids=["buffered", "heartbeat"])
def test_every_fault_has_its_outcome(client: str, heartbeat: bool, bench: Bench) -> None:
    rows = faults.drawn_rows(fault for fault in FAULTS if not fault.slow)
    seen = bench.run(row for row in rows if (row.client, row.heartbeat) == (client, heartbeat))
    problems = bench.problems(seen)
    assert not problems, "\n".join(problems)


def test_without_the_stream_layer_a_cut_gives_a_page_and_the_rest_is_the_same(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(first=[SCRIPTS / "without_stream_layer.py"])
    # One fault of each outcome at each kind of upstream; of several that are reset at once, mitmproxy leaves some
    # waiting.
    outcomes = {
        (fault.fallback, fault.outcome.words, fault.over): fault
        for fault in reversed(faults.without_stream_layer())
        if fault.over != ("resetting",)
    }
    seen = bench.run(faults.drawn_rows(outcomes.values(), heartbeats=(False,)))
    different = [
        f"{one.row.key}: {verdict(one.response)}, not {one.row.fault.fallback}"
        for one in seen
        if verdict(one.response) != one.row.fault.fallback
    ]
    assert not different, "\n".join(different)
    assert (
        "this version of mitmproxy differs below its hooks (mitmproxy.proxy.layers.http._hooks has no HttpResponseHook)"
        in bench.proxy.log
    )


SAMPLE = (
    "nothing wrong",
    "connection closed before any byte",
    "connection closed between two events",
    "TCP reset inside an event",
    "TCP reset after the finish reason",
    "RST_STREAM CANCEL between two events",
    "silence between two events",
    "a connection that lingers after [DONE]",
    "on_truncated: partial; chat, cut",
)


@pytest.mark.parametrize("strategy", ["lazy", "eager"])
@pytest.mark.parametrize("mode", ["regular", "upstream"])
def test_other_modes_have_the_same_outcomes(mode: str, strategy: str, certs: Certs, tmp_path: Path) -> None:
    with Bench(certs, tmp_path, mode=mode, options={"connection_strategy": strategy}) as bench:
        rows = faults.drawn_rows(named(*SAMPLE), draw=f"{mode} {strategy}")
        # Through an upstream proxy no script can make mitmproxy offer HTTP/2 where the client did not.
        problems = bench.problems(bench.run(row for row in rows if mode == "regular" or row.over == row.client))
        assert not problems, "\n".join(problems)
        assert not bench.upstream.errors


@both_clients
def test_a_handshake_behind_an_upstream_proxy_is_waited_for(client: str, certs: Certs, tmp_path: Path) -> None:
    with Bench(certs, tmp_path, mode="upstream") as bench:
        rows = faults.rows(client, True, named("TLS: a handshake that never ends"))
        problems = bench.problems(bench.run(rows))
        assert not problems, "\n".join(problems)


@both_clients
def test_limits_of_mitmproxy_for_bodies_change_no_outcome(client: str, make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(options={"stream_large_bodies": "500", "body_size_limit": "1k"})
    long = [Head(), PADDING, *WHOLE]
    announced = [Head(framing="length"), PADDING, *WHOLE]
    wanted = [
        *named("nothing wrong", "more than max_body", "429 with JSON"),
        faults.fault("a long answer", [*long, End()], faults.answered()),
        faults.fault("a long answer, with a Content-Length", [*announced, End()], faults.answered()),
        faults.fault("a long answer, cut", [Head(), PADDING, HEL, Close()], faults.TRUNCATED),
    ]
    problems = bench.problems(bench.run(faults.rows(client, False, wanted)))
    assert not problems, "\n".join(problems)


def test_the_docs_name_every_fault() -> None:
    table = DOCS.read_text(encoding="utf-8")
    missing = [fault.name for fault in FAULTS if f"| {fault.name}" not in table]
    assert not missing, f"make faults writes {DOCS.name} anew; it lacks {missing}"


ON_STREAMS = {
    "HTTP/1": ("connection closed between two events", "cut inside a chunk", "an invalid chunk size"),
    "HTTP/2": ("RST_STREAM REFUSED_STREAM before the headers", "RST_STREAM CANCEL between two events"),
}
ON_ANY = ("silence between two events", "a connection that lingers after [DONE]", "429 with JSON", "an empty body")


@both_upstreams
@pytest.mark.parametrize("heartbeat", [False, True], ids=["buffered", "heartbeat"])
def test_streams_of_one_connection_do_not_disturb_each_other(over: str, heartbeat: bool, bench: Bench) -> None:
    wanted = [*named(*ON_STREAMS[over], *ON_ANY, "nothing wrong")]
    rows = [Row(replace(fault, name=f"{fault.name}, many"), over, "HTTP/2", heartbeat) for fault in wanted]
    with bench.connect("HTTP/2", over) as client:
        gates = [bench.prepare(row) for row in rows]
        streams = [client.start("POST", row.fault.path, headers_of(row.key), body_of(row.model)) for row in rows]
        while heartbeat and not all(client.open_response[stream].chunks for stream in streams):
            client.receive_some(next(one for one in streams if not client.open_response[one].chunks))
        for gate in gates:
            gate.open()
        responses = [client.receive(stream) for stream in streams]
        following = ask(client, CHAT, "next", "plain/next")
    problems = bench.problems(Seen(*both, following) for both in zip(rows, responses, strict=True))
    assert not problems, "\n".join(problems)


def test_connections_that_are_reset_at_once_leave_no_stream_waiting(bench: Bench) -> None:
    # What came before a reset can be lost then, which no test can rely on; the end must not be.
    with bench.connect("HTTP/2", "HTTP/1") as client:
        streams = []
        for number in range(10):
            bench.upstream.answer(Head(), HEL, Reset(), key=f"reset-{number}")
            streams.append(client.start("POST", CHAT, headers_of(f"reset-{number}"), body_of(f"plain/reset-{number}")))
        verdicts = {verdict(client.receive(stream)) for stream in streams}
    assert verdicts <= {"502 stream_truncated", "502 upstream_unreachable"}


# A client that goes away


@both_clients
@both_upstreams
@pytest.mark.parametrize("headed", [False, True], ids=["before the headers", "in the body"])
def test_a_client_that_goes_away_ends_the_upstream_request(client: str, over: str, headed: bool, bench: Bench) -> None:
    key = f"gone-{client}-{over}-{headed}".lower().replace("/", "")
    begun = Gate()
    bench.upstream.answer(*([Head(), HEL] if headed else []), Signal(begun), Linger(), key=key)
    with bench.connect(client, over) as connection:
        connection.start("POST", CHAT, headers_of(key), body_of(f"plain/{key}"))
        begun.wait()
        bench.proxy.settle()
    bench.proxy.wait_for_log(rf"the client gave up after .*; plain: chat plain/{key}, ")
    request = next(request for request in bench.upstream.requests if request.header("x-answer") == key)
    assert request.wait_closed() in ("closed", "reset", "rst_stream 2", "rst_stream 8")
    assert request.abandoned
    (flow,) = bench.proxy.flows(key)
    where = r"\d+\.\d s after event 1" if headed else r"before the upstream's response"
    assert re.match(rf"the client gave up after \d+\.\d s, {where}; plain: chat plain/{key}$", flow["comment"])
    assert (flow["marked"], flow["metadata"]["force_stream.error"]) == (":warning:", "client_gone")


@both_upstreams
def test_a_stream_that_the_client_cancels_is_cancelled_upstream(over: str, bench: Bench) -> None:
    key = f"cancelled-{over}".lower().replace("/", "")
    begun = Gate()
    bench.upstream.answer(Head(), HEL, Signal(begun), Linger(), key=key)
    with bench.connect("HTTP/2", over) as client:
        stream = client.start("POST", CHAT, headers_of(key), body_of(f"plain/{key}"))
        begun.wait()
        bench.proxy.settle()
        client.rst_stream(stream)
        assert verdict(ask(client, CHAT, "next", "plain/next")) == "200"
        request = next(request for request in bench.upstream.requests if request.header("x-answer") == key)
        assert request.wait_closed() in ("closed", "reset", "rst_stream 2", "rst_stream 8")


# Heartbeats


@both_clients
def test_heartbeats_go_on_until_the_document(client: str, bench: Bench) -> None:
    gate = Gate()
    bench.upstream.answer(WaitFor(gate), Head(), *WHOLE, End(), key=f"beats-{client}")
    with bench.connect(client, "HTTP/1") as connection:
        stream = connection.start("POST", CHAT, headers_of(f"beats-{client}"), body_of("plain-heartbeat/beats"))
        if isinstance(connection, Http1Client):
            incoming = connection.begin("POST")
            pieces = [incoming.read_piece() for _ in range(3)]
            gate.open()
            while incoming.read_piece() is not None:
                pass
            response = incoming.response
        else:
            while len((response := connection.receive_some(stream)).chunks) < 3:
                pass
            pieces = response.chunks[:3]
            gate.open()
            response = connection.receive(stream)
    assert pieces == [b" "] * 3
    assert response.complete
    assert response.json()["choices"][0]["message"]["content"] == "Hello"


def test_the_openai_client_reads_an_answer_behind_heartbeats(bench: Bench, certs: Certs) -> None:
    bench.upstream.answer(Pause(3 * faults.HEARTBEAT), Head(), *WHOLE, End(), key="openai")
    with openai_client(f"{bench.urls['HTTP/1']}/v1", certs) as client:
        completion = client.chat.completions.create(
            model="plain-heartbeat/openai",
            messages=[{"role": "user", "content": "Hi"}],
            extra_headers={"x-answer": "openai"},
        )
    assert completion.choices[0].message.content == "Hello"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 3


def test_a_client_of_http_1_0_gets_no_heartbeat(bench: Bench) -> None:
    bench.upstream.answer(Pause(5 * faults.HEARTBEAT), Head(), *WHOLE, End(), key="old")
    body = body_of("plain-heartbeat/old")
    head = f"POST {CHAT} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nx-answer: old\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    response = raw_request(bench.urls["HTTP/1"], request, method="POST")
    assert (response.status, response.framing) == (200, len(response.body))
    assert response.body.startswith(b"{")


# The addon's own faults


def broken_rows(*names: str) -> list[tuple[str, list[Any]]]:
    whole = [Head(), *WHOLE, End()]
    return [(name, [Head(), HEL, Reset()] if name == "cut" else whole) for name in names]


IN_THE_ATTEMPT = ("feed", "finish", "start_response", "receive", "next_deadline", "end", "cut")
IN_THE_HOOK = ("store_answer",)
IN_THE_STREAM_LAYER = ("state_wait_for_response_headers", "state_consume_response_body", "_answer")


@pytest.fixture
def broken(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(scripts=[SCRIPTS / "break_addon.py"])


@pytest.mark.parametrize(("part", "steps"), broken_rows(*IN_THE_ATTEMPT, *IN_THE_HOOK, *IN_THE_STREAM_LAYER))
def test_a_fault_of_the_addon_becomes_an_error_of_its_own_shape(part: str, steps: list[Any], broken: Bench) -> None:
    check_broken(broken, "HTTP/1" if part in IN_THE_ATTEMPT else "HTTP/2", part, steps)


@both_clients
def test_a_fault_in_what_is_said_about_a_flow_does_not_touch_its_answer(client: str, broken: Bench) -> None:
    since = broken.proxy.mark()
    broken.upstream.answer(Head(), *WHOLE, End(), key="break-summarize")
    with broken.connect(client, "HTTP/1") as connection:
        response = ask(connection, CHAT, "break-summarize", "idle/break-summarize")
    assert verdict(response) == "200"
    broken.proxy.wait_for_log("a bug in the addon, the flow has no comment", since=since)


@both_clients
def test_a_fault_in_a_look_at_the_clock_becomes_an_error(client: str, broken: Bench) -> None:
    check_broken(broken, client, "poll", [Linger()])


def check_broken(broken: Bench, client: str, part: str, steps: list[Any]) -> None:
    since = broken.proxy.mark()
    broken.upstream.answer(*steps, key=f"break-{part}")
    with broken.connect(client, "HTTP/1") as connection:
        response = ask(connection, CHAT, f"break-{part}", f"idle/break-{part}")
        following = ask(connection, CHAT, "next", "plain/next")
    assert verdict(response) == "502 force_stream_error"
    assert response.json()["error"]["type"] == "upstream_error"
    assert verdict(following) == "200"
    broken.proxy.wait_for_log("plain: chat plain/next, 200", since=since)
    lines = broken.proxy.log_lines[since:]
    assert sum("a bug in the addon" in line for line in lines) == 1
    assert not [
        line
        for line in lines
        if "Traceback" in line or "crashed" in line or ("ZeroDivision" in line and "a bug in" not in line)
    ]


@both_clients
def test_a_fault_where_the_answer_is_given_leaves_no_client_waiting(client: str, broken: Bench) -> None:
    since = broken.proxy.mark()
    broken.upstream.answer(Head(), *WHOLE, End(), key="break-send_response")
    with broken.connect(client, "HTTP/1") as connection:
        response = ask(connection, CHAT, "break-send_response", "plain/break-send_response")
        assert response.status == 502
    with broken.connect(client, "HTTP/1") as connection:
        assert verdict(ask(connection, CHAT, "next", "plain/next")) == "200"
    broken.proxy.wait_for_log("a bug in the addon, the client's answer ends short: ZeroDivisionError", since=since)


def test_a_fault_while_a_flow_that_failed_is_described_is_one_line(broken: Bench) -> None:
    since = broken.proxy.mark()
    begun = Gate()
    broken.upstream.answer(Head(), HEL, Signal(begun), Linger(), key="break-describe_error")
    with broken.connect("HTTP/1", "HTTP/1") as connection:
        connection.start("POST", CHAT, headers_of("break-describe_error"), body_of("plain/break-describe_error"))
        begun.wait()
    broken.proxy.wait_for_log("a bug in the addon, the flow has no comment: ZeroDivisionError", since=since)


# Secrets


SECRETS = ("sk-live-0123456789", "azure-key-4711", "session-cookie-0815", "query-key-2342")
PATH = f"{CHAT}?key={SECRETS[3]}"
CREDENTIALS = [
    ("Authorization", f"Bearer {SECRETS[0]}"),
    ("api-key", SECRETS[1]),
    ("Cookie", f"session={SECRETS[2]}"),
]


def test_no_credential_leaves_a_trace(certs: Certs, tmp_path: Path) -> None:
    """Not in the log down to debug level, in errors, comments, metadata, nor in what the addon adds to a flow file."""
    flow_file = tmp_path / "flows"
    settings = {"scripts": [SCRIPTS / "break_addon.py"], "options": {"termlog_verbosity": "debug"}}
    wanted = [fault for fault in FAULTS if fault.name in SAMPLE or fault.outcome.code in faults.FINAL]
    wanted += named("connection refused", "429 with JSON", "an error event that names no status", "204")
    with Bench(certs, tmp_path, flow_file=flow_file, **settings) as bench:

        def ask_for(row: Row) -> bytes:
            bench.prepare(row)
            with bench.connect("HTTP/1", row.over) as client:
                path = row.fault.path + PATH[len(CHAT) :]
                return client.post(
                    path, body_of(row.model, **row.fault.asks), [*CREDENTIALS, *headers_of(row.key)]
                ).body

        with ThreadPoolExecutor(faults.WORKERS) as pool:
            errors = list(pool.map(ask_for, faults.rows("HTTP/1", False, wanted)))
        for part in ("feed", "store_answer"):
            bench.upstream.answer(Head(), *WHOLE, End(), key=f"break-{part}")
            headers = [*CREDENTIALS, *headers_of(f"break-{part}")]
            with bench.connect("HTTP/1", "HTTP/1") as client:
                errors.append(client.post(PATH, body_of(f"plain/break-{part}"), headers).body)
        with bench.connect("HTTP/1", "HTTP/1") as client:
            signed = [*CREDENTIALS, ("Content-MD5", "x"), ("x-answer", "next")]
            errors.append(client.post(PATH, body_of("plain/next"), signed).body)
    log = bench.proxy.log
    assert "Traceback" in log
    assert "left as it came" in log
    saved = bench.proxy.saved_flows()
    assert len(saved) == len(errors)
    added = "".join(json.dumps([flow.metadata, flow.comment, flow.marked], default=repr) for flow in saved)
    assert "force_stream.rule" in added
    assert all(SECRETS[0] in str(flow.request.headers) for flow in saved)
    places = {"the log": log, "an answer": b"".join(errors).decode(), "the flows": added}
    assert [(secret, place) for place, text in places.items() for secret in SECRETS if secret in text] == []
