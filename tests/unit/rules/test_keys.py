"""The keys of a rule: their rows, their defaults, and what they take."""

import dataclasses
import json

import pytest
from force_stream.rules.keys import FAULTS, KEYS, MODIFIERS, REQUIRED, default
from force_stream.rules.rule import Rule
from harness.rules import HEAD, one, refusal


def test_every_field_of_a_rule_has_its_row() -> None:
    assert [field.name for field in dataclasses.fields(Rule) if field.init] == list(KEYS)
    assert REQUIRED == ("name", "hosts")


@pytest.mark.parametrize("key", [key for key in KEYS if key not in REQUIRED])
def test_the_default_that_a_key_is_shown_with_is_the_rules(key) -> None:
    rule = Rule("x", ("a.example",))
    assert one(f"{key}: {default(key)}") == rule
    assert one(f"{key}: {KEYS[key].spell(getattr(rule, key))}") == rule


@pytest.mark.parametrize("key", [key for key in KEYS if KEYS[key].example and key != "name"])
def test_the_example_of_a_row_is_a_value_but_not_the_default(key) -> None:
    assert one(f"{key}: {KEYS[key].example}") != one("")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_example_of_a_fault_is_a_value(fault) -> None:
    beside = "status: 429, " if fault in MODIFIERS else ""
    assert one(f"inject: {{{beside}{fault}: {FAULTS[fault].example}}}").inject.keys() - {"status"} == {fault} - {
        "status"
    }


@pytest.mark.parametrize(
    ("inject", "said"),
    [
        ("retry_after: 20, cut_after: 3", "retry_after needs a status, such as 429"),
        ("times: 2", "times needs a fault to go with it, such as status: 429"),
        ("probability: 0.5, drop_done: false", "probability needs a fault to go with it, such as status: 429"),
        ("status: 429, cut_after: 3", "status and cut_after cannot be combined: with status"),
        ("status: 429, content_type: a/b", "status and content_type cannot be combined: with status"),
        ("empty: true, stall: 3", "empty and stall cannot be combined: with empty the upstream is not asked"),
        ("status: 500, empty: true", "status and empty cannot be combined: with status"),
        ("status: 200", "status: expected a whole number from 400 to 599, found the number 200"),
        ("garbage: often", "garbage: expected a whole number from 0 to 1000000000, found the text 'often'"),
        ("status: 429, times: 0", "times: expected a whole number from 1 to 1000000000, found the number 0"),
        ("status: 429, probability: 0", "probability: expected a number above 0, at most 1, found the number 0"),
        ("status: 429, probability: 20", "probability: expected a number above 0, at most 1, found the number 20"),
    ],
)
def test_faults_that_do_not_go_together_are_named(inject, said, reader) -> None:
    assert refusal(f"{HEAD}    inject: {{{inject}}}").startswith(f"rules.yaml:4: rule x: inject: {said}")


@pytest.mark.parametrize(
    "inject",
    [
        {"status": 429, "retry_after": 20, "delay": 8, "times": 2, "probability": 1},
        {"status": 503, "drop_done": False},
        {"empty": True, "delay": 0.5},
        {"delay": 1, "stall": 2, "garbage": True, "split_utf8": True, "content_type": "text/html", "cut_after": 5},
        {"garbage": 0, "error_after": 1},
        {"drop_done": False},
        {},
    ],
)
def test_faults_that_go_together_are_kept_as_they_are_written(inject) -> None:
    assert one(f"inject: {json.dumps(inject)}").inject == inject


def test_null_means_the_default_where_that_is_empty() -> None:
    keys = ("endpoints", "paths", "models", "tools", "extra_body", "quirks", "timeout", "heartbeat", "fill", "inject")
    assert one("".join(f"{key}:\n" for key in keys) + "filter: ~") == one("")


def test_stream_options_null_sends_none() -> None:
    assert one("stream_options: null").stream_options is None
    assert one("stream_options: {}").stream_options == {}


BAD_HOSTS = [
    "",
    " ",
    "https://api.example.com/v1",
    "api.example.com/v1",
    "api.example.com:",
    "api.example.com:http",
    "api.example.com:0",
    "api.example.com:65536",
    "api.example.com:٨",
    ":8000",
    "a.example, b.example",
    "key@api.example.com",
    "a:b:c",
    "[::1]:x",
    "[::1",
    "::1]:80",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_bad_host_is_rejected(host, reader) -> None:
    said = refusal(f'rules:\n  - name: x\n    hosts:\n    - ok.example\n    - "{host}"\n')
    assert said.startswith("rules.yaml:5: rule x: hosts: expected a")
    assert said.endswith(f"found the text {host!r}")


@pytest.mark.parametrize(
    "origin", ["app://obsidian.md", "http://localhost:5173", "http://[::1]:80", "capacitor://localhost"]
)
def test_an_origin_is_taken_as_browsers_send_it(origin, reader) -> None:
    assert one(f"cors: [{json.dumps(origin)}, null]").cors == (origin, "null")


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "",
        "chat.example.com",
        "https://chat.example.com/",
        "https://user@chat.example.com",
        "https://*.com",
        "Null",
    ],
)
def test_what_no_browser_sends_as_an_origin_is_rejected(origin, reader) -> None:
    assert refusal(f"{HEAD}    cors: [{json.dumps(origin)}]").startswith("rules.yaml:4: rule x: cors: expected a")


@pytest.mark.parametrize("value", ["", "null", "[]", "true: false", "https://chat.example.com"])
def test_cors_is_true_or_false_or_a_list(value, reader) -> None:
    refusal(f"{HEAD}    cors: {value}")
