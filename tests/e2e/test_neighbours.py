"""Beside other people's scripts, loaded before ours or after it, and mitmproxy's own addons: whatever one of them does
to a flow, its client gets one well-formed response, and the log says what happened and nothing else."""

import gzip
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import Answer, Certs, Close, End, Gate, Head, Proxy, Request, Response, Upstream, WaitFor, document
from harness.faults import CHAT, CLIENTS, HEL, LO, WHOLE, ask, verdict
from harness.paths import ADDON, SCRIPTS
from harness.record import wait_until
from harness.steps import Step

NEIGHBOURS = SCRIPTS / "neighbours.py"
ORDERS = {"before ours": [NEIGHBOURS, ADDON], "after ours": [ADDON, NEIGHBOURS]}
WORKERS = 8
PLAIN = {"answer": "plain"}
# A rule for each kind of client, which takes the models of its name.
RULES = json.dumps(
    {
        "rules": [
            {"name": name, "hosts": ["127.0.0.1"], "models": [f"{name}/*"], "force_upstream_stream": True} | keys
            for name, keys in {"silent": {}, "beating": {"heartbeat": 0.1}}.items()
        ]
    }
)


@dataclass(frozen=True)
class Row:
    """A client that asks beside a neighbour. `act`: what the neighbour does; `rule`: whether heartbeats come."""

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


def rows(*acts: str) -> list[Row]:
    return [Row(act, client, rule) for act in acts for client in CLIENTS for rule in ("silent", "beating")]


class Play:
    """Rows with one mitmdump, many at a time."""

    def __init__(self, order: str, proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
        self.order, self.proxy, self.upstream, self.certs = order, proxy, upstream, certs
        self._since = proxy.mark()

    def all(self, wanted: list[Row], *steps: Step) -> dict[Row, Response]:
        """What the clients get, where the upstream plays those steps; to one with heartbeats, not before the first."""
        gates = {row.key: Gate() for row in wanted if row.rule == "beating"}

        def answer(request: Request) -> Answer:
            if b'"stream":true' not in request.body.replace(b" ", b""):
                return document(PLAIN)
            gate = gates.get(request.header("x-answer") or "")
            return Answer.of(*([WaitFor(gate)] if gate else []), Head(), *steps)

        self.upstream.handle(answer)
        with ThreadPoolExecutor(WORKERS) as pool:
            return dict(zip(wanted, pool.map(lambda row: self._ask(row, gates.get(row.key)), wanted), strict=True))

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
            assert (row, told(response), response.body) == (row, "200, cut short", b" ")
        (line,) = play.log_of(f"chat {row.model},")
        assert "stream_truncated" in line


# What a client without heartbeats gets, and what the log says of its flow.
type Outcome = tuple[str, list[str]]

DOCUMENT: Outcome = ("200 Hello", ["200, finish stop"])
KILLED: Outcome = ("no answer", [])
NOT_FORCED: Outcome = ("200 plain", [])
NO_ANSWER = "no answer: Connection killed."
SUCCESS, ANSWERED = "200, finish stop", "another addon has answered, and its answer goes on as it is"

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
    "sets headers at responseheaders": (DOCUMENT, DOCUMENT),
    "sets headers at response": (DOCUMENT, DOCUMENT),
    "sets the status at responseheaders": (("403 Hello", [SUCCESS]), ("403 Hello", [SUCCESS])),
    "sets the status at response": (("403 Hello", [SUCCESS]), ("403 Hello", [SUCCESS])),
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
    "fails at request": (NOT_FORCED, DOCUMENT),
    "fails at responseheaders": (DOCUMENT, DOCUMENT),
    "fails at response": (DOCUMENT, DOCUMENT),
    "halts at responseheaders": (DOCUMENT, DOCUMENT),
    "halts at response": (("502 force_stream_error", []), DOCUMENT),
}


def problems(play: Play, outcomes: dict[str, tuple[Outcome, Outcome]]) -> list[str]:
    """All that is not as the table has it, a line each."""
    found = []
    for row, response in play.all(rows(*outcomes), *WHOLE, End()).items():
        words, said = outcomes[row.act][play.order == "after ours"]
        if response.body.startswith(b" ") and not words.startswith("200"):
            words = "200, cut short"  # the first heartbeat has committed to 200
        if told(response) != words:
            found.append(f"{row.key}: {told(response)}, not {words}")
        wait_until(play.proxy.changed, lambda row=row, said=said: len(play.log_of(row.model)) >= len(said), 5, row.key)
        lines = play.log_of(row.model)
        if len(lines) != len(said) or not all(some in line for some, line in zip(said, lines, strict=True)):
            found.append(f"{row.key}: the log says {lines}, not {said}")
    return found


def test_whatever_a_neighbour_does_the_client_gets_one_response_and_the_log_says_what_happened(play: Play) -> None:
    assert problems(play, OUTCOMES) == []
    wrong = [line for line in play.log if "Traceback" in line or "fault" in line or "not forced" in line]
    assert wrong == []


def test_beside_a_neighbour_that_fails_the_client_gets_one_response(play: Play) -> None:
    assert problems(play, FAULTY) == []
