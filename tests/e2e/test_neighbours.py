"""Beside other people's scripts, loaded before ours or after it, and mitmproxy's own addons: whatever one of them does
to a flow, its client gets one well-formed response, and the log says what happened and nothing else."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Certs, Close, End, Gate, Head, Proxy, Response, Upstream, WaitFor
from harness.faults import CHAT, CLIENTS, HEL, LO, WHOLE, ask, verdict
from harness.paths import ADDON, SCRIPTS
from harness.steps import Step

NEIGHBOURS = SCRIPTS / "neighbours.py"
ORDERS = {"before ours": [NEIGHBOURS, ADDON], "after ours": [ADDON, NEIGHBOURS]}
WORKERS = 8
# A rule for each kind of client, which takes the models of its name.
RULES = json.dumps(
    {
        "rules": [
            {"name": name, "hosts": ["127.0.0.1"], "models": [f"{name}/*"], "force_upstream_stream": True} | keys
            for name, keys in {"patient": {}, "impatient": {"heartbeat": 0.1}}.items()
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
    return [Row(act, client, rule) for act in acts for client in CLIENTS for rule in ("patient", "impatient")]


class Play:
    """Rows with one mitmdump, many at a time."""

    def __init__(self, proxy: Proxy, upstream: Upstream, certs: Certs) -> None:
        self.proxy, self.upstream, self.certs = proxy, upstream, certs
        self._since = proxy.mark()

    def __call__(self, row: Row, *steps: Step) -> Response:
        """What the client gets, where the upstream plays those steps; with heartbeats, not before the first one."""
        gate = Gate()
        self.upstream.answer(*([WaitFor(gate)] if row.rule == "impatient" else []), Head(), *steps, key=row.key)
        url = self.proxy.url if row.client == "HTTP/1" else self.proxy.tls_url
        with CLIENTS[row.client](url, self.certs) as client:
            return ask(client, CHAT, row.key, row.model, None, gate)

    def all(self, wanted: list[Row], *steps: Step) -> dict[Row, Response]:
        with ThreadPoolExecutor(WORKERS) as pool:
            return dict(zip(wanted, pool.map(lambda row: self(row, *steps), wanted), strict=True))

    def log_of(self, words: str) -> list[str]:
        """The lines since the test began that have these words, without their time."""
        said = [line for line in self.proxy.log_lines[self._since :] if words in line]
        return [re.sub(r"^\[[\d:.]+\](\[[\d.:]+\])? ", "", line) for line in said]


@pytest.fixture(params=ORDERS)
def play(
    request: pytest.FixtureRequest,
    proxy_factory: Callable[..., Proxy],
    upstream: Upstream,
    certs: Certs,
    shared_rules: Callable[[str], Path],
) -> Play:
    """A mitmdump with ours and `neighbours.py`, in either order."""
    options = {"force_stream_rules": shared_rules(RULES), "connection_strategy": "lazy"}
    mode = f"reverse:{upstream.url()}"
    return Play(proxy_factory(mode, scripts=ORDERS[request.param], options=options), upstream, certs)


def text_of(response: Response) -> str:
    return json.loads(response.body)["choices"][0]["message"]["content"]


STREAMING = rows("streams", "streams through a function")


def test_an_answer_that_a_script_streams_is_given_as_a_document_and_one_warning_says_what_to_change(play: Play) -> None:
    for row, response in play.all(STREAMING, *WHOLE, End()).items():
        assert (row, response.status, text_of(response), response.ended) == (row, 200, "Hello", "complete")
        (line,) = play.log_of(f"chat {row.model},")
        assert "200, finish stop" in line
    warnings = play.log_of("sets flow.response.stream")
    assert sorted(line.partition(":")[0] for line in warnings) == ["impatient", "patient"]
    assert all("a script (neighbours) sets" in line for line in warnings)


def test_an_answer_that_a_script_streams_and_that_is_cut_is_an_error_and_no_second_head(play: Play) -> None:
    for row, response in play.all(STREAMING, HEL, LO, Close()).items():
        if row.rule == "patient":
            assert (row, verdict(response)) == (row, "502 stream_truncated")
        else:
            assert (row, verdict(response), response.body) == (row, "200, cut short", b" ")
        (line,) = play.log_of(f"chat {row.model},")
        assert "stream_truncated" in line
