"""Which request a rule is for, and why not."""

from collections.abc import Sequence
from typing import Any

import pytest
from force_stream.endpoints import ENDPOINTS
from force_stream.rules.file import parse_rules
from force_stream.rules.rule import Rule, candidates, first_match
from harness.rules import facts, one
from mitmproxy import flowfilter
from mitmproxy.test import tflow, tutils


def test_a_rule_that_says_nothing_changes_nothing() -> None:
    rule = one("")
    assert rule.force_upstream_stream is False
    assert (rule.endpoints, rule.models, rule.filter, rule.timeout, rule.heartbeat) == (None,) * 5
    assert (rule.on_truncated, rule.idle_timeout, rule.retries, rule.max_body) == ("error", 540, 0, 64 * 1024**2)
    assert (rule.stream_options, rule.paths, rule.quirks, rule.inject) == ({"include_usage": True}, {}, (), {})


@pytest.mark.parametrize(
    ("rule", "request_facts", "phrase"),
    [
        (
            "hosts: [llm.example.com, '*.example.ai']",
            facts("api.x.com", None),
            "host api.x.com is not among llm.example.com, *.example.ai",
        ),
        (
            "hosts: [llm.example.com]",
            facts("10.0.0.5", 80, ("::1", 80), ("10.0.0.5", 80)),
            "host 10.0.0.5:80 or [::1]:80 is not among llm.example.com",
        ),
        (
            "hosts: [llm.example.com]",
            ((), "/", {}, tflow.tflow()),
            "a request without a host is not among llm.example.com",
        ),
        ("", facts(path="/v1/models?key=secret"), "path /v1/models is not a known endpoint"),
        ("endpoints: [completions, responses]", facts(), "endpoint chat is not among completions, responses"),
        ("models: [qwen3-*, gpt-4]", facts(model="gpt-4o"), "model gpt-4o is not among qwen3-*, gpt-4"),
        ("models: [qwen3-*]", facts(model="Qwen3-8B"), "model Qwen3-8B is not among qwen3-* (they are case-sensitive)"),
        ("models: ['*']", facts(model=None), "the request has no model, and the rule is only for *"),
        (
            "tools: true",
            facts(tools=[]),
            "the request offers no tools, and the rule is only for those that do",
        ),
        (
            "tools: false",
            facts(functions=[{}]),
            "the request offers tools, and the rule is only for those that do not",
        ),
        ("filter: '~hq x-team:.*blue'", facts(), "filter ~hq x-team:.*blue does not match"),
    ],
)
def test_the_first_thing_that_does_not_match_is_named(rule, request_facts, phrase) -> None:
    assert one(rule).mismatch(*request_facts) == phrase


@pytest.mark.parametrize(
    ("rule", "request_facts"),
    [
        ("", facts()),
        ("", facts(path="/api/paas/v4/chat/completions?api-version=1", model=None)),
        ("endpoints: [chat]", facts()),
        ("paths: {/custom/generate: chat}\nendpoints: [chat]", facts(path="/custom/generate?x=1")),
        ("models: [a, 'gpt-?']", facts()),
        ("models: ['org/*']", facts(model="org/team/model")),
        ("tools: null", facts(tools=[{}])),
        ("tools: true", facts(tools=[{"type": "function"}])),
        ("tools: true", facts(model=None, functions=[{"name": "f"}], tools=None)),
        ("tools: false", facts()),
        ("tools: false", facts(tools=[], functions=None)),
        ("filter: '~m POST & ~hq x-team:.*blue'", None),
    ],
)
def test_a_rule_matches_if_all_that_it_names_does(rule, request_facts) -> None:
    blue = tflow.tflow(req=tutils.treq(method=b"POST", headers=((b"x-team", b"light blue"),)))
    assert one(rule).mismatch(*(request_facts or facts(flow=blue))) is None


def test_a_rules_paths_are_known_in_addition_to_the_usual_ones() -> None:
    rule = one("paths: {/custom/generate: completions}")
    assert rule.endpoint("/custom/generate?x=1") is ENDPOINTS["completions"]
    assert rule.endpoint("/v1/chat/completions") is ENDPOINTS["chat"]
    assert rule.endpoint("/v1/models") is None


def decided(rules: Sequence[Rule], about: tuple[Any, ...]) -> Rule | None:
    hosts, path, members, flow = about
    match = first_match(candidates(rules, hosts, path), members, flow)
    assert match is None or match[1] is match[0].endpoint(path)
    return match and match[0]


def test_a_filter_that_raises_matches_nothing() -> None:
    broken = tflow.tflow()
    broken.request = None
    rule = one("filter: ~m POST")
    with pytest.raises(AttributeError):
        flowfilter.match(rule.filter, broken)
    assert rule.mismatch(*facts(flow=broken)) == "filter ~m POST could not be evaluated (AttributeError)"
    assert decided((rule,), facts(flow=broken)) is None


def test_the_first_rule_that_matches_decides_even_if_it_forces_nothing() -> None:
    read = parse_rules(
        "rules:\n"
        "- {name: other-host, hosts: [b.example], force_upstream_stream: true}\n"
        "- {name: other-model, hosts: [a.example], models: [x], force_upstream_stream: true}\n"
        "- {name: hands-off, hosts: [a.example], models: [gpt-*]}\n"
        "- {name: rest, hosts: ['*'], force_upstream_stream: true}\n",
        "rules.yaml",
    )
    assert decided(read, facts()) is read[2]
    assert decided(read, facts(model="y")) is read[3]
    assert decided(read, facts(path="/v1/models")) is None
    assert decided((), facts()) is None


def test_equal_rules_are_one_member_of_a_set() -> None:
    assert len({one("paths: {/x: chat}"), one("paths: {/x: chat}")}) == 1
