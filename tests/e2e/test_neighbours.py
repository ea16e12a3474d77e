"""Beside other people's scripts, loaded before ours or after it, and mitmproxy's own addons: whatever one of them does
to a flow, its client gets one well-formed response, and the log says what happened and nothing else."""

import base64
import gzip
import json
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness import (
    Answer,
    Certs,
    Close,
    End,
    Gate,
    Head,
    Http1Client,
    Proxy,
    Request,
    Response,
    Upstream,
    WaitFor,
    document,
    sse,
)
from harness.faults import CHAT, CLIENTS, HEL, LO, WHOLE, ask, verdict
from harness.paths import ADDON, SCRIPTS
from harness.record import wait_until
from harness.samples import EVENTS as SAMPLE_EVENTS
from harness.steps import Step

NEIGHBOURS = SCRIPTS / "neighbours.py"
ORDERS = {"before ours": [NEIGHBOURS, ADDON], "after ours": [ADDON, NEIGHBOURS]}
WORKERS = 8
PLAIN = {"answer": "plain"}
REFUSAL = {"error": {"message": "stream must be set to true", "code": "refused"}}
# Each takes the models of its name.
RULES = json.dumps(
    {
        "rules": [
            {"name": name, "hosts": ["127.0.0.1"], "models": [f"{name}/*"]} | keys
            for name, keys in {
                "silent": {"force_upstream_stream": True, "cors": True},
                "beating": {"force_upstream_stream": True, "heartbeat": 0.1},
                "trying": {"force_upstream_stream": True, "retries": 1},
                "learning": {"learn": True},
            }.items()
        ]
    }
)


@dataclass(frozen=True)
class Row:
    """A client that asks beside a neighbour. `act`: what the neighbour does; `rule`: whether it gets heartbeats, its
    request is tried twice (and cut at first), or it is only watched (and refused, since it asks for no stream)."""

    act: str
    client: str
    rule: str

    @property
    def key(self) -> str:
        return f"{self.act}/{self.client}/{self.rule}"

    @property
    def model(self) -> str:
        """By which the log names it."""
        return f"{self.rule}/{self.act}/{self.client}".replace(" ", "-")


def rows(*acts: str, rules: tuple[str, ...] = ("silent", "beating")) -> list[Row]:
    return [Row(act, client, rule) for act in acts for client in CLIENTS for rule in rules]


class Play:
    """Rows with one mitmdump, many at a time."""

    def __init__(self, order: str, proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
        self.order, self.proxy, self.upstream, self.certs = order, proxy, upstream, certs
        self._since = proxy.mark()

    def all(self, wanted: list[Row], *steps: Step) -> dict[Row, Response]:
        """What the clients get, where the upstream plays those steps; to one with heartbeats, not before the first."""
        gates = {row.key: Gate() for row in wanted if row.rule == "beating"}
        tried: set[str] = set()

        def answer(request: Request) -> Answer:
            key = request.header("x-answer") or ""
            if b'"stream":true' not in request.body.replace(b" ", b""):
                return document(REFUSAL, status=400) if key.endswith("learning") else document(PLAIN)
            if key.endswith("trying") and key not in tried:
                tried.add(key)
                return Answer.of(Head(), HEL, Close())
            return Answer.of(*([WaitFor(gates[key])] if key in gates else []), Head(), *steps)

        self.upstream.handle(answer)
        with ThreadPoolExecutor(WORKERS) as pool:
            asked = pool.map(lambda row: self._ask(row, gates.get(row.key)), wanted)
            responses = dict(zip(wanted, asked, strict=True))
        self._wait_for_the_log()
        return responses

    def _wait_for_the_log(self) -> None:
        """Its lines come through a pipe: those so far have come when that of another client has."""
        address = urlsplit(self.proxy.url)
        with socket.create_connection((address.hostname, address.port)) as client:
            port = client.getsockname()[1]
        self.proxy.wait_for_log(rf"127\.0\.0\.1:{port}\] client disconnect", since=self._since)

    def _ask(self, row: Row, gate: Gate | None) -> Response:
        url = self.proxy.url if row.client == "HTTP/1" else self.proxy.tls_url
        with CLIENTS[row.client](url, self.certs) as client:
            return ask(client, CHAT, row.key, row.model, None, gate)

    @property
    def log(self) -> list[str]:
        """The lines since the test began, without their time."""
        return [re.sub(r"^\[[\d:.]+\](\[[\d.:]+\])? ", "", line) for line in self.proxy.log_lines[self._since :]]

    def log_of(self, words: str) -> list[str]:
        return [line for line in self.log if words in line]


@pytest.fixture(params=ORDERS)
def play(
    request: pytest.FixtureRequest,
    shared_proxy: Callable[..., Proxy],
    session_upstream: Upstream,
    upstream: Upstream,
    certs: Certs,
    shared_rules: Callable[[str], Path],
) -> Play:
    """A mitmdump with ours and `neighbours.py`, in either order."""
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    mode = f"reverse:{session_upstream.url()}"
    proxy = shared_proxy(mode, scripts=ORDERS[request.param], options=options)
    return Play(request.param, proxy, upstream, certs)


def told(response: Response) -> str:
    """What a client got, in a few words."""
    if not response.complete:
        return verdict(response)
    body = response.body.strip()
    if response.header("content-encoding") == "gzip":
        body = gzip.decompress(body)
    if not body.startswith(b"{"):
        return f"{response.status} {body[:6].decode()}"
    found: Any = json.loads(body)
    words = found["choices"][0]["message"]["content"] if "choices" in found else next(iter(found.values()))
    return f"{response.status} {words['code'] if 'error' in found else words}"


STREAMING = rows("streams", "streams through a function")


def test_an_answer_that_a_script_streams_is_given_as_a_document_and_one_warning_says_what_to_change(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, certs: Certs, shared_rules: Callable[[str], Path]
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    for order, scripts in ORDERS.items():
        proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=scripts, options=options)
        play = Play(order, proxy, upstream, certs)
        for row, response in play.all(STREAMING, *WHOLE, End()).items():
            assert (row, told(response)) == (row, "200 Hello")
            (line,) = play.log_of(f"chat {row.model},")
            assert "200, finish stop" in line
        warnings = play.log_of("sets flow.response.stream")
        assert sorted(line.partition(":")[0] for line in warnings) == ["beating", "silent"]
        assert all("a script (neighbours) sets" in line for line in warnings)


def test_an_answer_that_a_script_streams_and_that_is_cut_is_an_error_and_no_second_head(play: Play) -> None:
    for row, response in play.all(STREAMING, HEL, LO, Close()).items():
        if row.rule == "silent":
            assert (row, told(response)) == (row, "502 stream_truncated")
        else:
            assert (row, told(response), response.body.strip()) == (row, "200, cut short", b"")
        (line,) = play.log_of(f"chat {row.model},")
        assert "stream_truncated" in line


# What a client without heartbeats gets, and what the log says of its flow.
type Outcome = tuple[str, list[str]]

DOCUMENT: Outcome = ("200 Hello", ["200, finish stop"])
KILLED: Outcome = ("no answer", [])
NOT_FORCED: Outcome = ("200 plain", [])
NO_ANSWER = "no answer: Connection killed"
SUCCESS, ANSWERED = "200, finish stop", "answered by another addon"

# By act: beside a script that is loaded before ours, and after it. The acts are in neighbours.py.
OUTCOMES: dict[str, tuple[Outcome, Outcome]] = {
    "answers at requestheaders": (("200 by a script", []), ("200 by a script", [])),
    "answers at request": (("200 by a script", []), ("200 by a script", [ANSWERED])),
    "answers at request with an error": (("403 script", []), ("403 script", [ANSWERED])),
    "answers at request with text": (("200 cached", []), ("200 cached", [ANSWERED])),
    "answers at request with events": (("200 data: ", []), ("200 scripted", [SUCCESS])),
    "answers at responseheaders": (("200 by a script", [ANSWERED]), ("200 by a script", [ANSWERED])),
    "answers at responseheaders with an error": (("403 script", [ANSWERED]), ("403 script", [ANSWERED])),
    "answers at response": (("200 by a script", [ANSWERED]), ("200 by a script", [SUCCESS])),
    "answers at response with an error": (("403 script", [ANSWERED]), ("403 script", [SUCCESS])),
    "answers at response with text": (("200 cached", [ANSWERED]), ("200 cached", [SUCCESS])),
    "answers at response with events": (("200 scripted", [SUCCESS]), ("200 data: ", [SUCCESS])),
    "kills at requestheaders": (KILLED, KILLED),
    "kills at request": (KILLED, ("no answer", [NO_ANSWER])),
    "kills at responseheaders": (("no answer", [NO_ANSWER]), ("no answer", [NO_ANSWER])),
    "kills at response": (KILLED, ("no answer", [SUCCESS])),
    "sets an error at requestheaders": (NOT_FORCED, NOT_FORCED),
    "sets an error at request": (NOT_FORCED, DOCUMENT),
    "sets an error at responseheaders": (DOCUMENT, DOCUMENT),
    "sets an error at response": (DOCUMENT, DOCUMENT),
    "intercepts at requestheaders": (DOCUMENT, DOCUMENT),
    "intercepts at request": (DOCUMENT, DOCUMENT),
    "intercepts at responseheaders": (DOCUMENT, DOCUMENT),
    "intercepts at response": (DOCUMENT, DOCUMENT),
    "takes its time at request": (DOCUMENT, DOCUMENT),
    "takes its time at responseheaders": (DOCUMENT, DOCUMENT),
    "takes its time at response": (DOCUMENT, DOCUMENT),
    "edits the words": (("200 Wello", [SUCCESS]), ("200 Wello", [SUCCESS])),
    "clears the metadata at request": (DOCUMENT, DOCUMENT),
    "clears the metadata at responseheaders": (DOCUMENT, DOCUMENT),
    "clears the metadata at response": (DOCUMENT, DOCUMENT),
    "replaces the metadata at request": (DOCUMENT, DOCUMENT),
    "sets headers at responseheaders": (DOCUMENT, DOCUMENT),
    "sets headers at response": (DOCUMENT, DOCUMENT),
    "sets the status at responseheaders": (("403 Hello", [SUCCESS]), ("403 Hello", [SUCCESS])),
    "sets the status at response": (("403 Hello", [SUCCESS]), ("403 Hello", [SUCCESS])),
    "copies the response": (DOCUMENT, DOCUMENT),
    "compresses": (DOCUMENT, DOCUMENT),
    "asks for plain": (DOCUMENT, ("200 plain", ["200, 0 events"])),
    "adds a member": (DOCUMENT, DOCUMENT),
    "moves": (DOCUMENT, DOCUMENT),
    "asks with PUT": (NOT_FORCED, DOCUMENT),
    "streams the request": (NOT_FORCED, NOT_FORCED),
    "replays at request": (("200 Hello", [SUCCESS] * 2), ("200 Hello", [SUCCESS] * 2)),
    "replays at response": (("200 Hello", [SUCCESS] * 2), ("200 Hello", [SUCCESS] * 2)),
}
# Those that fail: mitmproxy itself reports them.
FAULTY: dict[str, tuple[Outcome, Outcome]] = {
    "takes the response away at responseheaders": (
        ("502 force_stream_error", ["502, force_stream_error"]),
        ("502 force_stream_error", ["502, force_stream_error"]),
    ),
    "takes the response away at response": (("502 force_stream_error", []), ("502 force_stream_error", [SUCCESS])),
    "sets a status without a body": (("204 ", [SUCCESS]), ("204 ", [SUCCESS])),
    "sets an interim status": (("502 force_stream_error", [SUCCESS]), ("502 force_stream_error", [SUCCESS])),
    "sets a wrong length": (DOCUMENT, DOCUMENT),
    "takes the body away": (("502 stream_empty", ["stream_empty", "sent plain"]), ("200 ", [SUCCESS])),
    "adds trailers": (DOCUMENT, DOCUMENT),
    "fails at request": (NOT_FORCED, DOCUMENT),
    "fails at responseheaders": (DOCUMENT, DOCUMENT),
    "fails at response": (DOCUMENT, DOCUMENT),
    "halts at responseheaders": (DOCUMENT, DOCUMENT),
    "halts at response": (("502 force_stream_error", []), DOCUMENT),
}


TRUNCATED = "502, stream_truncated"
TRIED: Outcome = ("200 Hello", [TRUNCATED, SUCCESS])
ON_TRYING: dict[str, tuple[Outcome, Outcome]] = {
    "streams": (TRIED, TRIED),
    "answers at request with half a stream": (("200 data: ", []), ("502 stream_truncated", [TRUNCATED])),
    "answers at responseheaders": (("200 by a script", [ANSWERED]), ("200 by a script", [ANSWERED])),
    "answers at response": (("200 by a script", [ANSWERED]), ("200 by a script", [TRUNCATED, SUCCESS])),
    "edits the words": (("200 Wello", [TRUNCATED, SUCCESS]), ("200 Wello", [TRUNCATED, SUCCESS])),
    "takes its time at response": (TRIED, TRIED),
    "clears the metadata at request": (TRIED, TRIED),
    "replaces the metadata at request": (TRIED, TRIED),
    "clears the metadata at response": (TRIED, TRIED),
}
ON_LEARNING: dict[str, tuple[Outcome, Outcome]] = {
    "streams": (DOCUMENT, DOCUMENT),
    "answers at request": (("200 by a script", []), ("200 by a script", [])),
    "answers at responseheaders": (("200 by a script", []), ("200 by a script", [])),
    "answers at responseheaders with an error": (("403 script", []), ("403 script", [])),
    "answers at response": (("200 by a script", []), ("200 by a script", [SUCCESS])),
    "answers at response with events": (("200 scripted", [SUCCESS]), ("200 data: ", [SUCCESS])),
    "edits the words": (("200 Wello", [SUCCESS]), ("200 Wello", [SUCCESS])),
}


def problems(play: Play, outcomes: dict[str, tuple[Outcome, Outcome]], *rules: str) -> list[str]:
    """All that is not as the table has it, a line each."""
    found = []
    for row, response in play.all(rows(*outcomes, rules=rules), *WHOLE, End()).items():
        words, said = outcomes[row.act][play.order == "after ours"]
        if response.body.startswith(b" ") and not re.match("200 .", words):
            words = "200, cut short"  # the first heartbeat has committed to 200
        if told(response) != words:
            found.append(f"{row.key}: {told(response)}, not {words}")
        about = f"chat {row.model},"
        wait_until(play.proxy.changed, lambda about=about, said=said: len(play.log_of(about)) >= len(said), 5, row.key)
        lines = play.log_of(about)
        if len(lines) != len(said) or not all(some in line for some, line in zip(said, lines, strict=True)):
            found.append(f"{row.key}: the log says {lines}, not {said}")
    return found


def never_happened(play: Play) -> list[str]:
    return [
        line
        for line in play.log
        if "Traceback" in line or "a bug in" in line or "fault" in line or "not forced" in line
    ]


def test_whatever_a_neighbour_does_the_client_gets_one_response_and_the_log_says_what_happened(play: Play) -> None:
    assert problems(play, OUTCOMES, "silent", "beating") == []
    assert never_happened(play) == []


def test_what_a_neighbour_does_decides_whether_a_request_is_tried_again(play: Play) -> None:
    assert problems(play, ON_TRYING, "trying") == []
    assert never_happened(play) == []


def test_what_a_neighbour_says_is_not_learned(play: Play) -> None:
    assert problems(play, ON_LEARNING, "learning") == []
    assert never_happened(play) == []
    refused = {"streams", "edits the words"}
    if play.order == "after ours":
        refused |= {"answers at response", "answers at response with events"}
    learned = {line.partition(" answers ")[2].partition(" only as")[0] for line in play.log_of("only as a stream")}
    assert learned == {row.model for row in rows(*refused, rules=("learning",))}


def test_beside_a_neighbour_that_fails_the_client_gets_one_response(play: Play) -> None:
    assert problems(play, FAULTY, "silent", "beating") == []


@pytest.mark.parametrize("act", [act for act in OUTCOMES if "the metadata" in act])
def test_a_covered_page_reads_errors_whatever_a_neighbour_does_to_the_metadata(play: Play, act: str) -> None:
    origin = "app://obsidian.md"
    cut, none = Answer.of(Head(), HEL, Close()), Answer.of(Close())
    play.upstream.handle(lambda request: cut if request.path == CHAT else none)
    with Http1Client(play.proxy.url) as client:
        for path in (CHAT, "/v1/models"):
            headers = [("Origin", origin), ("x-answer", f"{act}/page")]
            response = client.post(path, {"model": "silent/page", "messages": []}, headers)
            assert (response.status, response.header("access-control-allow-origin")) == (502, origin)


# mitmproxy's own addons

LOCAL_STREAM = sse(*SAMPLE_EVENTS)
OWN_ADDONS: dict[str, tuple[str, str]] = {
    "modify_body of the response": ("200 Wello", SUCCESS),
    "modify_body of the request": ("200 Hello", SUCCESS),
    "modify_headers": ("200 Hello", SUCCESS),
    "map_local": ("200 a file", ANSWERED),
    "map_local with events": ("200 Hello", SUCCESS),
    "map_local without a file": ("404 ", ANSWERED),
    "map_remote": ("200 Hello", SUCCESS),
    "block_list": ("403 ", ""),
    "none": ("200 Hello", SUCCESS),
}


def own_options(folder: Path) -> dict[str, Any]:
    """Each for the requests with its name in their x-answer header; those without a filter for all."""
    folder.mkdir(exist_ok=True)
    (folder / "answer.json").write_text('{"answer": "a file"}')
    (folder / "answer.events").write_bytes(LOCAL_STREAM)

    def of(name: str) -> str:
        return f'~hq "x-answer: {name}/"'

    return {
        "modify_body": [
            f"|~s & {of('modify_body of the response')}|Hel|Wel",
            f"|~q & {of('modify_body of the request')}|Hi|Ho",
        ],
        "modify_headers": [
            f"|~s & {of('modify_headers')}|content-type|text/plain",
            f"|~s & {of('modify_headers')}|x-own|here",
        ],
        "map_local": [
            f"|{of('map_local')}|completions|{folder}/answer.json",
            f"|{of('map_local with events')}|completions|{folder}/answer.events",
            f"|{of('map_local without a file')}|/v1/|{folder}",
        ],
        "map_remote": [f"|{of('map_remote')}|/v1/|/elsewhere/v1/"],
        "block_list": [f"|{of('block_list')}|403"],
        "anticache": True,
        "anticomp": True,
        "stickyauth": ".*",
        "stickycookie": ".*",
        "upstream_auth": "user:word",
        "body_size_limit": "1k",
    }


def test_mitmproxys_own_addons_do_their_work_and_the_client_gets_one_response(
    proxy_factory: Callable[..., Proxy],
    upstream: Upstream,
    certs: Certs,
    shared_rules: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"} | own_options(tmp_path / "own")
    play = Play("", proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options), upstream, certs)
    for row, response in play.all(rows(*OWN_ADDONS), *WHOLE, End()).items():
        words, said = OWN_ADDONS[row.act]
        assert (row, told(response)) == (row, words)
        lines = play.log_of(row.model)
        assert len(lines) == bool(said), row
        assert said in "".join(lines)
        if row.act == "modify_headers":
            assert response.header("content-type") == "application/json"
            assert row.rule == "beating" or response.header("x-own") == "here"
    sent = {request.header("x-answer"): request for request in upstream.requests}
    assert all(request.header("authorization") for request in sent.values())
    assert b"Ho" in sent["modify_body of the request/HTTP/1/silent"].body
    assert sent["map_remote/HTTP/1/silent"].path == "/elsewhere/v1/chat/completions"
    assert not any(
        "Traceback" in line or "a bug in" in line or "fault" in line or "not forced" in line for line in play.log
    )


def test_a_request_that_mitmproxy_streams_goes_out_as_it_came_and_one_warning_says_what_to_change(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, certs: Certs, shared_rules: Callable[[str], Path]
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    streamed = {"stream_large_bodies": "10", "store_streamed_bodies": True}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options | streamed, remote=True)
    play = Play("", proxy, upstream, certs)
    asked = [Row(f"none {number}", "HTTP/1", "silent") for number in range(3)]
    assert {told(response) for response in play.all(asked, *WHOLE, End()).values()} == {"200 plain"}
    for row in asked:
        (flow,) = proxy.flows(row.key)
        assert json.loads(flow["request"]["body"])["model"] == row.model
        assert "stream" not in json.loads(flow["request"]["body"])
        assert flow["metadata"]["force_stream.left_alone"] == "mitmproxy streamed its body"
    (warning,) = play.log_of("cannot be forced")
    assert warning.startswith(
        "silent: requests whose bodies mitmproxy streams cannot be forced. Unset or raise the option "
    )


def test_server_replay_answers_forced_requests_and_what_it_has_not_is_not_the_upstreams_answer(
    proxy_factory: Callable[..., Proxy],
    upstream: Upstream,
    certs: Certs,
    shared_rules: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    mode, recorded, other = (
        f"reverse:{upstream.url()}",
        Row("none", "HTTP/1", "silent"),
        Row("other", "HTTP/1", "silent"),
    )
    recorder = proxy_factory(mode, scripts=[ADDON], options=options, flow_file=tmp_path / "flows")
    assert told(Play("", recorder, upstream, certs).all([recorded], *WHOLE, End())[recorded]) == "200 Hello"
    recorder.stop()
    replay = {"server_replay": tmp_path / "flows", "server_replay_extra": "404", "server_replay_reuse": True}
    play = Play("", proxy_factory(mode, scripts=[ADDON], options=options | replay), upstream, certs)
    responses = play.all([recorded, other], Close())
    assert [told(responses[row]) for row in (recorded, other)] == ["200 Hello", "404 "]
    assert len(upstream.requests) == 1
    assert [ANSWERED in line for row in (recorded, other) for line in play.log_of(row.model)] == [True, True]


def test_a_client_that_proxyauth_refuses_is_refused_and_one_that_it_knows_is_forced(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, shared_rules: Callable[[str], Path]
) -> None:
    options = {"force_stream_rules": shared_rules(RULES), "proxyauth": "user:word"}
    proxy = proxy_factory("regular", scripts=[ADDON], options=options)
    upstream.answer_always(Head(), *WHOLE, End())
    word = base64.b64encode(b"user:word").decode()
    for headers, words in (([], "407 <html>"), ([("Proxy-Authorization", f"Basic {word}")], "200 Hello")):
        with Http1Client(upstream.url(), via=proxy.url) as client:
            assert told(client.post(CHAT, {"model": "silent/m", "messages": []}, headers)) == words
    assert "not forced" not in proxy.log
