"""The keys of a rule: their rows, their defaults, and what they take."""

import dataclasses
import json

import pytest
from force_stream.rules.keys import FAULTS, KEYS, REQUIRED, default
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
    assert one(f"inject: {{{fault}: {FAULTS[fault].example}}}").inject.keys() == {fault}


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
