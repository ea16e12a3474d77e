"""The page without a proxy: an addon that has only what the page shows, and a client that asks the page itself."""

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from force_stream.page.app import Request, respond
from force_stream.page.shown import Addon
from force_stream.rules.rule import Rule
from force_stream.view.stats import Outcome, Stats

NAME = "force.stream"
JSON_TYPE = {"Content-Type": "application/json"}

RULE = Rule("private-vllm", ("llm.example.com",), models=("qwen3-*",))
OUTCOME = Outcome(
    id="f-1",
    at=1_700_000_000.0,
    upstream="llm.example.com:443",
    rule="private-vllm",
    endpoint="chat",
    model="qwen3-8b",
    status=200,
    events=5,
    bytes=855,
    finish_reason="stop",
    inferred=False,
    truncated=False,
    code="",
    seconds=1.5,
    first_event=0.25,
    first_content=0.5,
    arrivals=(0.25, 0.5, 1.5),
)


class Shelf:
    """An addon of fixed things that remembers what was asked of it."""

    def __init__(self, *outcomes: Outcome, rule: Rule | None = RULE) -> None:
        self.rules = () if rule is None else (rule,)
        self.flow_counts = Counter({"private-vllm": 3})
        self.changes: list[dict[str, str]] = []
        self.healthy = self.enabled = True
        self.stats = Stats()
        self.flying: list[dict[str, Any]] = []
        for outcome in outcomes:
            self.stats.add(outcome)

    def in_flight(self) -> list[dict[str, Any]]:
        return self.flying

    def change_rule(self, name: str, values: Mapping[str, str]) -> list[str]:
        rule = self.rules[0]
        if name != rule.name:
            raise KeyError(name)
        if unknown := values.keys() - {"force_upstream_stream"}:
            raise ValueError(f"rule {name}: unknown key {min(unknown)!r}")
        self.changes.append(dict(values))
        self.rules = (dataclasses.replace(rule, force_upstream_stream=values["force_upstream_stream"] == "true"),)
        return [f"rule {name}: changed"]


@dataclasses.dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def type(self) -> str:
        return self.headers["Content-Type"].partition(";")[0]

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclasses.dataclass(frozen=True)
class Client:
    addon: Addon
    is_local: bool
    host: str
    remote: bool

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: str | bytes | None = b""
    ) -> Answered:
        named = {"host": self.host} | {name.lower(): value for name, value in (headers or {}).items()}
        body = data.encode() if isinstance(data, str) else data
        asked = Request(method, path, named, body, self.is_local)
        answering = respond(self.addon, asked, {NAME}, remote=self.remote)
        with ThreadPoolExecutor(1) as thread:  # where a loop may run already
            answer = thread.submit(asyncio.run, answering).result()
        assert answer.headers["Content-Length"] == f"{len(answer.body)}" or method == "HEAD"
        return Answered(answer.status, answer.headers, answer.body)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answered:
        return self.ask("GET", path, headers)

    def patch(self, path: str, *, data: str | bytes | None, headers: Mapping[str, str] = JSON_TYPE) -> Answered:
        return self.ask("PATCH", path, headers, data)


def client_of(addon: Addon, *, is_local: bool = True, host: str = NAME, remote: bool = False) -> Client:
    return Client(addon, is_local, host, remote)
