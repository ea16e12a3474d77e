"""Rules in words, and what changed in them."""

import pytest
from force_stream.rules.describe import changes, describe
from force_stream.rules.file import parse_rules, with_value
from force_stream.rules.rule import Rule
from harness.rules import FULL, one


def test_changes_are_listed_one_line_per_rule() -> None:
    a, b, c = Rule("a", ("a.example",)), Rule("b", ("b.example",)), Rule("c", ("c.example",))
    forced = with_value(a, "force_upstream_stream", "true")
    busy = with_value(with_value(b, "timeout", "30"), "max_body", "1000")
    assert changes((a, b, c), (a, b, c)) == []
    assert changes((a, b), (forced, b)) == ["rule a: force_upstream_stream false -> true"]
    assert changes((a, b), (a, busy)) == ["rule b: timeout null -> 30; max_body 64MiB -> 1000"]
    assert changes((a, b), (c, a)) == ["rule b removed", "rule c added"]
    assert changes((a, b, c), (c, a, b)) == ["order of the rules changed: c, a, b"]
    assert changes((b, a), (forced, b, c)) == [
        "rule a: force_upstream_stream false -> true",
        "rule c added",
        "order of the rules changed: a, b, c",
    ]


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        ("endpoints", "[chat, completions]", 'rule x: endpoints null -> ["chat", "completions"]'),
        ("models", "[größe-*]", 'rule x: models null -> ["größe-*"]'),
        ("stream_options", "null", 'rule x: stream_options {"include_usage": true} -> null'),
        ("on_truncated", "partial", 'rule x: on_truncated "error" -> "partial"'),
        ("learn", "[nur als Strom, SSE]", 'rule x: learn false -> ["nur als Strom", "SSE"]'),
        ("learn", "true", "rule x: learn false -> true"),
        ("inject", "{stall: 1.5}", 'rule x: inject {} -> {"stall": 1.5}'),
    ],
)
def test_a_changed_value_is_spelled_as_in_the_file(key, text, line) -> None:
    rule = one("")
    changed = with_value(rule, key, text)
    assert changes((rule,), (changed,)) == [line]
    assert with_value(rule, key, line.rpartition(" -> ")[2]) == changed


def test_a_rule_is_described_in_one_line() -> None:
    assert describe(one("")) == "x: force off; hosts a.example"
    assert describe(one("force_upstream_plain: true")) == "x: force plain; hosts a.example"
    full, _ = parse_rules(FULL, "rules.yaml")
    assert describe(full) == (
        "private-vllm: force on; hosts llm.example.com, *.example.ai, 10.0.0.5:8000, [::1]:8000; "
        'endpoints ["chat", "responses"]; paths {"/custom/generate": "chat"}; models ["qwen3-*", "2024-08-06"]; '
        'tools false; extra_body {"store": false, "user": "", "thinking": {"type": "enabled", "budget": 1.5, '
        '"stop": ["a", null]}}; '
        'filter "~hq x-team:.*blue"; '
        'stream_options {"include_usage": true, "chunk_size": 3, "mode": "fast", "spare": null}; '
        'on_truncated "partial"; timeout 30; idle_timeout 7.5; heartbeat 15; retries 2; max_body 10000000; '
        'cors ["null", "https://chat.example.com", "file://"]; learn true; '
        'fill {"choices.*.message.refusal": null, "x": [1]}; '
        'inject {"cut_after": 3, "drop_done": true, "error_after": 0, "stall": 1.5, "split_utf8": false, '
        '"content_type": "text/plain"}'
    )
