"""Rules for tests: texts of files, the rule of a text, and what a request asks of it."""

import re
from typing import Any

import pytest
from force_stream.rules.file import RulesError, parse_rules
from force_stream.rules.rule import Rule
from mitmproxy.test import tflow

from harness.paths import ROOT

SHIPPED = ROOT / "rules.yaml"


FULL = """
rules:
  - name: private-vllm
    hosts: ["llm.example.com", "*.example.ai", "10.0.0.5:8000", "[::1]:8000"]
    force_upstream_stream: true
    endpoints: [chat, responses]
    paths: {"/custom/generate": chat}
    models: ["qwen3-*", "2024-08-06"]
    tools: false
    extra_body: {store: off, user: "", thinking: {type: enabled, budget: 1.5, stop: [a, null]}}
    filter: "~hq x-team:.*blue"
    stream_options: {include_usage: true, chunk_size: 3, mode: fast, spare: null}
    on_truncated: partial
    quirks: []
    timeout: 30
    idle_timeout: 7.5
    heartbeat: 15
    retries: 2
    max_body: 10MB
    cors: [null, "https://chat.example.com", "file://"]
    learn: yes
    fill: {"choices.*.message.refusal": null, x: [1]}
    inject: {cut_after: 3, drop_done: true, error_after: 0, stall: 1.5, split_utf8: off, content_type: text/plain}
  - name: other
    hosts: ["*"]
"""


HEAD = "rules:\n  - name: x\n    hosts: [a.example]\n"


def one(text: str, name: str = "x") -> Rule:
    """The rule that has these lines beside its name and a host."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    hosts = "" if "hosts:" in text else "    hosts: [a.example]\n"
    (rule,) = parse_rules(f"rules:\n  - name: {name}\n{hosts}{lines}", "rules.yaml")
    return rule


def refusal(text: str) -> str:
    with pytest.raises(RulesError) as caught:
        parse_rules(text, "rules.yaml")
    return str(caught.value)


def facts(
    host="a.example", port=443, *more, path="/v1/chat/completions", model="gpt-x", flow=None, **members
) -> tuple[Any, ...]:
    """What a rule asks about a request: its hosts, path, members and flow."""
    asked = members if model is None else {"model": model} | members
    return ((host, port), *more), path, asked, flow or tflow.tflow()


def presets() -> list[str]:
    """The shipped file, once for each rule that is a comment in it, with that rule enabled."""
    text = SHIPPED.read_text(encoding="utf-8")
    blocks = re.findall(r"^#   - name: .*\n(?:^#     \S.*\n)+", text, re.MULTILINE)
    return [text.replace(block, re.sub("^# ", "", block, flags=re.MULTILINE)) for block in blocks]
