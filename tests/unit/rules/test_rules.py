"""The rules file: what is read, what is rejected and in which words, and which request a rule is for."""

import dataclasses
import importlib
import re
import sys

import pytest
from force_stream.endpoints import ENDPOINTS
from force_stream.rules.describe import changes, describe
from force_stream.rules.file import RulesError, check_rules, parse_rules, with_value
from force_stream.rules.keys import FAULTS, KEYS, REQUIRED, default
from force_stream.rules.rule import RequestFacts, Rule, first_match
from harness.paths import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy import flowfilter
from mitmproxy.test import tflow, tutils

SHIPPED = ROOT / "rules.yaml"

FULL = """
rules:
  - name: private-vllm
    hosts: ["llm.example.com", "*.example.ai", "10.0.0.5:8000", "[::1]:8000"]
    force_upstream_stream: true
    endpoints: [chat, responses]
    paths: {"/custom/generate": chat}
    models: ["qwen3-*", "2024-08-06"]
    filter: "~hq x-team:.*blue"
    stream_options: {include_usage: true, chunk_size: 3, mode: fast, spare: null}
    on_truncated: partial
    quirks: []
    timeout: 30
    idle_timeout: 7.5
    heartbeat: 15
    retries: 2
    max_body: 10MB
    learn: yes
    inject: {cut_after: 3, drop_done: true, error_after: 0, stall: 1.5, split_utf8: off, content_type: text/plain}
  - name: other
    hosts: ["*"]
"""


@pytest.fixture(params=["PyYAML", "ruamel.yaml"])
def reader(request, monkeypatch):
    """Each of the two libraries that may be there to read YAML."""
    if request.param == "ruamel.yaml":
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(ImportError):
            importlib.import_module("yaml")
    return request.param


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


# --- Reading --------------------------------------------------------------------------------------------------------


def test_every_key_is_read(reader) -> None:
    full, other = parse_rules(FULL, "rules.yaml")
    assert full == Rule(
        name="private-vllm",
        hosts=("llm.example.com", "*.example.ai", "10.0.0.5:8000", "[::1]:8000"),
        force_upstream_stream=True,
        endpoints=("chat", "responses"),
        paths={"/custom/generate": "chat"},
        models=("qwen3-*", "2024-08-06"),
        filter="~hq x-team:.*blue",
        stream_options={"include_usage": True, "chunk_size": 3, "mode": "fast", "spare": None},
        on_truncated="partial",
        quirks=(),
        timeout=30,
        idle_timeout=7.5,
        heartbeat=15,
        retries=2,
        max_body=10_000_000,
        learn=True,
        inject={
            "cut_after": 3,
            "drop_done": True,
            "error_after": 0,
            "stall": 1.5,
            "split_utf8": False,
            "content_type": "text/plain",
        },
    )
    assert other == Rule("other", ("*",))


def test_a_rule_that_says_nothing_changes_nothing() -> None:
    rule = one("")
    assert rule.force_upstream_stream is False
    assert (rule.endpoints, rule.models, rule.filter, rule.timeout, rule.heartbeat) == (None,) * 5
    assert (rule.on_truncated, rule.idle_timeout, rule.retries, rule.max_body) == ("error", 540, 0, 64 * 1024**2)
    assert (rule.stream_options, rule.paths, rule.quirks, rule.inject) == ({"include_usage": True}, {}, (), {})


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null", "rules:", "rules: []", "rules: null", "\ufeff"])
def test_a_file_without_rules_is_a_file(text, reader) -> None:
    assert parse_rules(text, "rules.yaml") == ()


def test_null_stands_for_the_default_where_that_is_nothing() -> None:
    text = "endpoints:\npaths:\nmodels: ~\nfilter: null\nquirks:\ntimeout:\nheartbeat:\ninject:"
    assert one(text) == one("")


def test_stream_options_null_sends_none() -> None:
    assert one("stream_options: null").stream_options is None
    assert one("stream_options: {}").stream_options == {}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1048576", 1048576),
        ("64MiB", 64 * 1024**2),
        ("64 mib", 64 * 1024**2),
        ("1.5KiB", 1536),
        ("10MB", 10**7),
        ("2GB", 2 * 10**9),
        ("1GiB", 1024**3),
        ("5kB", 5000),
        ("7B", 7),
        ('"64MiB"', 64 * 1024**2),
    ],
)
def test_sizes_are_bytes_or_carry_a_unit(text, size, reader) -> None:
    assert one(f"max_body: {text}").max_body == size


def test_an_anchor_may_be_used_again(reader) -> None:
    text = "rules:\n- {name: a, hosts: &h [a.example, b.example]}\n- {name: b, hosts: *h}\n"
    a, b = parse_rules(text, "rules.yaml")
    assert a.hosts == b.hosts == ("a.example", "b.example")


def test_both_readers_give_the_same_rules(monkeypatch) -> None:
    texts = [FULL, SHIPPED.read_text(encoding="utf-8"), *presets()]
    with_pyyaml = [parse_rules(text, "rules.yaml") for text in texts]
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert [parse_rules(text, "rules.yaml") for text in texts] == with_pyyaml


# --- The rows of keys -----------------------------------------------------------------------------------------------


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


# --- Refusing -------------------------------------------------------------------------------------------------------

HEAD = "rules:\n  - name: x\n    hosts: [a.example]\n"

# What follows HEAD, hence begins in line 4, and what is said after "rules.yaml:LINE: rule x: ".
BAD_VALUES = {
    "unknown key": (
        "forse_upstream_stream: true",
        "unknown key 'forse_upstream_stream', did you mean 'force_upstream_stream'?",
    ),
    "unknown key like no other": (
        "zzz: 1",
        f"unknown key 'zzz'; known are {', '.join(KEYS)}",
    ),
    "merge key": ("<<: {a: 1}", "unknown key '<<'; known are name, hosts"),
    "key that is a list": ("? [a]\n    : 1", "expected a key, found a list"),
    "key given twice": ("hosts: [b.example]", "the key 'hosts' appears twice, first in line 3"),
    "bool as text": ('learn: "true"', "learn: expected true or false, found the text 'true'"),
    "bool as number": ("force_upstream_stream: 1", "force_upstream_stream: expected true or false, found the number 1"),
    "bool as nothing": ("learn:", "learn: expected true or false, found nothing"),
    "bool by tag": ("learn: !!bool perhaps", "learn: expected true or false, found perhaps"),
    "number as bool": ("retries: true", "retries: expected a whole number from 0 to 100, found true"),
    "number as text": ("retries: two", "retries: expected a whole number from 0 to 100, found the text 'two'"),
    "number as fraction": ("retries: 1.5", "retries: expected a whole number from 0 to 100, found the number 1.5"),
    "number as null": ("retries: null", "retries: expected a whole number from 0 to 100, found null"),
    "number below": ("retries: -1", "retries: expected a whole number from 0 to 100, found the number -1"),
    "number as list": ("retries: [1]", "retries: expected a whole number from 0 to 100, found a list"),
    "octal number": ("retries: 010", "retries: expected a whole number from 0 to 100, found the number 010"),
    "endless number": (
        f"retries: {'9' * 9999}",
        "retries: expected a whole number from 0 to 100, found the number 999",
    ),
    "seconds zero": ("timeout: 0", "timeout: expected seconds, a number above 0, found the number 0"),
    "seconds negative": ("heartbeat: -5", "heartbeat: expected seconds, a number above 0, found the number -5"),
    "seconds infinite": ("timeout: .inf", "timeout: expected seconds, a number above 0, found the number .inf"),
    "seconds as text": ("timeout: 30s", "timeout: expected seconds, a number above 0, found the text '30s'"),
    "seconds with exponent": ("timeout: 1e9", "timeout: expected seconds, a number above 0, found the number 1e9"),
    "seconds in minutes": ("timeout: 1:30", "timeout: expected seconds, a number above 0, found the number 1:30"),
    "seconds past a year": (
        "timeout: 99999999",
        "timeout: expected seconds, at most a year, found the number 99999999",
    ),
    "size without sense": (
        "max_body: 64 miles",
        "max_body: expected a size above 0 such as 64MiB, 10MB or a number of bytes, found the text '64 miles'",
    ),
    "size zero": ("max_body: 0MB", "max_body: expected a size above 0 such as 64MiB"),
    "size negative": ("max_body: -1", "max_body: expected a size above 0 such as 64MiB"),
    "size as mapping": (
        "max_body: {}",
        "max_body: expected a size above 0 such as 64MiB, 10MB or a number of bytes, f",
    ),
    "enum": ("on_truncated: partail", "on_truncated: unknown value 'partail', did you mean 'partial'?"),
    "enum like no other": ("on_truncated: x", "on_truncated: unknown value 'x'; known are error, partial"),
    "enum as bool": ("on_truncated: no", "on_truncated: expected text, found no; put it in quotes"),
    "endpoint": (
        "endpoints: [chat,\n      respones]",
        "endpoints: unknown endpoint 'respones', did you mean 'responses'?",
    ),
    "endpoints empty": ("endpoints: []", "endpoints: an empty list would match nothing"),
    "endpoints as text": ("endpoints: chat", "endpoints: expected a list, found the text 'chat'; write ['chat']"),
    "quirk": ("quirks: [no_such_quirk]", "quirks: unknown quirk 'no_such_quirk'"),
    "models empty": ("models: []", "models: an empty list would match nothing"),
    "model as number": ("models: [4.1]", "models: expected text, found the number 4.1; put it in quotes"),
    "model empty": ('models: [""]', "models: expected a line of text, found the text ''"),
    "model with a surrogate": (r'models: ["\ud800"]', r"models: expected a line of text, found the text '\ud800'"),
    "filter": (
        'filter: "~hq ("',
        "filter: expected one of mitmproxy's filter expressions, as its documentation lists them, found the text '~hq",
    ),
    "filter regex": ('filter: "~u ["', "filter: expected one of mitmproxy's filter expressions"),
    "filter empty": ('filter: ""', "filter: expected a line of text, found the text ''"),
    "filter nested without end": (f'filter: "{"(" * 5000}"', "filter: expected one of mitmproxy's filter expressions"),
    "filter unquoted with !": (
        "filter: !~u foo",
        "filter: expected text, found a value with the tag '!~u'; put a value that starts with ! in quotes",
    ),
    "paths as list": ("paths: [/x]", "paths: expected a mapping of keys to values, found a list"),
    "path without slash": (
        "paths: {x: chat}",
        "paths: expected a path such as /custom/generate, without a query, found the text 'x'",
    ),
    "path of a slash": (
        "paths: {/: chat}",
        "paths: expected a path such as /custom/generate, without a query, found the text '/'",
    ),
    "path with query": (
        'paths: {"/x?a=b": chat}',
        "paths: expected a path such as /custom/generate, without a query, f",
    ),
    "path to no endpoint": (
        "paths:\n      /ok: chat\n      /x: caht",
        "paths: '/x': unknown endpoint 'caht', did you mean 'chat'?",
    ),
    "path twice": ("paths: {/x: chat, /x: chat}", "paths: the key '/x' appears twice, first in line 4"),
    "stream_options as list": (
        "stream_options: []",
        "stream_options: expected a mapping of keys to values, found a list",
    ),
    "stream_options nested": (
        "stream_options: {a: {}}",
        "stream_options: 'a': expected true, false, a number, text or null, found a mapping",
    ),
    "stream_options that hold themselves": (
        "stream_options: &o {a: *o}",
        "stream_options: 'a': expected true, false, a number, text or null, found a mapping",
    ),
    "inject": ("inject: {cut_aftr: 1}", "inject: unknown key 'cut_aftr', did you mean 'cut_after'?"),
    "inject type": (
        "inject:\n      drop_done: 1",
        "inject: drop_done: expected true or false, found the number 1",
    ),
    "hosts with scheme": (
        'models: [a]\n    "hosts": ["https://api.example.com/v1"]',
        "the key 'hosts' appears twice",
    ),
}
# The line of the mistake where it is not the first after HEAD.
LINES = {
    "endpoint": 5,
    "path to no endpoint": 6,
    "inject type": 5,
    "hosts with scheme": 5,
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_value_is_told_with_line_rule_and_key(case, reader) -> None:
    text, message = BAD_VALUES[case]
    said = refusal(f"{HEAD}    {text}\n  - name: y\n    hosts: [b.example]\n")
    line = LINES.get(case, 4)
    assert said.startswith(f"rules.yaml:{line}: rule x: {message}")
    assert said.isprintable()
    assert len(said) < 500


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


BAD_FILES = {
    "no YAML": ("rules: [", 1, "this is not YAML: expected the node content, but found '<stream end>'"),
    "unquoted star": (
        "rules:\n- name: x\n  hosts: [*.example.ai]",
        3,
        "(put a value that starts with * in quotes)",
    ),
    "tab": ("rules:\n\t- name: x", 2, "cannot start any token (indent with spaces, not with tabs)"),
    "wrong indent": ("rules:\n- name: x\n    hosts: [a]", 3, "this is not YAML: mapping values are not allowed here ("),
    "two documents": ("rules: []\n---\nrules: []", 2, "expected a single document in the stream but found another"),
    "control character": ("rules:\n\n- \x07", 3, "this is not YAML: special characters are not allowed"),
    "impossible escape": (r'rules: "\UFFFFFFFF"', None, "this is not YAML: chr() arg not in range(0x110000)"),
    "nested without end": ("[" * 5000, 1, "nested too deeply for a rules file"),
    "too long": ("#" * 300_000, 1, "the text is longer than 256 KiB; is this a rules file?"),
    "a text": ("hello", 1, "expected a mapping with the key 'rules', found the text 'hello'"),
    "a list": ("- name: x", 1, "expected a mapping with the key 'rules', found a list; put 'rules:' above it"),
    "no rules": ("\n{}", 2, "the key 'rules' is missing"),
    "unknown key": ("rules: []\nruels: []", 2, "unknown key 'ruels', did you mean 'rules'?"),
    "rules twice": ("rules: []\nrules: []", 2, "the key 'rules' appears twice, first in line 1"),
    "rules a mapping": ("rules:\n  name: x", 2, "rules: expected a list, found a mapping"),
    "rule a text": ("rules:\n- x", 2, "rule number 1: expected a mapping of keys to values, found the text 'x'"),
    "rule holds itself": ("rules: &r\n- *r", 1, "rule number 1: expected a mapping of keys to values, found a list"),
    "rule a set": (
        "rules:\n- !!set {name: x}",
        2,
        "rule x: expected a mapping of keys to values, found a value with the tag '!!set'",
    ),
    "no name": ("rules:\n- {name: a, hosts: [a]}\n- hosts: [b]", 3, "rule number 2: the key 'name' is missing"),
    "name a number": ("rules:\n- name: 5", 2, "rule number 1: name: expected text, found the number 5; put it in"),
    "name with slash": ("rules:\n- name: a/b", 2, "rule number 1: name: expected a name of letters, digits, spaces"),
    "name of several lines": ('rules:\n- name: "a\\nb"', 2, "rule number 1: name: expected a line of text"),
    "no hosts": ("rules:\n- learn: true\n  name: x", 2, "rule x: the key 'hosts' is missing"),
    "hosts empty": ("rules:\n- name: x\n  hosts: []", 3, "rule x: hosts: an empty list would match nothing"),
    "hosts a text": (
        "rules:\n- name: x\n  hosts: a.b",
        3,
        "rule x: hosts: expected a list, found the text 'a.b'; write [",
    ),
    "name in a later line": ("rules:\n- hosts: 5\n  name: x", 2, "rule x: hosts: expected a list, found the number 5"),
    "name taken": (
        "rules:\n- {name: a, hosts: [a]}\n- {name: b, hosts: [a]}\n- {name: a, hosts: [a]}",
        4,
        "rule a: the rule in line 2 already has this name",
    ),
    "alias grown a thousandfold": (
        "rules:\n- &a [x, x]\n- &b [*a, *a]\n- &c [*b, *b]\n- &d [*c, *c]",
        2,
        "rule number 1: expected a mapping of keys to values, found a list",
    ),
    "anchor twice": ("rules:\n- &a x\n- &a y", ..., "found duplicate anchor 'a'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_told_with_its_line(case, reader) -> None:
    text, line, message = BAD_FILES[case]
    said = refusal(text)
    assert message in said
    if line is not ...:
        assert re.match("rules.yaml(:[0-9]+)?: ", said)[0] == (
            "rules.yaml: " if line is None else f"rules.yaml:{line}: "
        )
    assert said.isprintable()
    assert len(said) < 500


def test_a_mistake_in_one_rule_rejects_the_whole_file() -> None:
    with pytest.raises(
        RulesError, match=re.escape("here/my.yaml:4: rule b: unknown key 'host', did you mean 'hosts'?")
    ):
        parse_rules("rules:\n- {name: a, hosts: [a]}\n- name: b\n  host: [b]\n", "here/my.yaml")


def test_without_any_yaml_library_the_message_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    assert refusal(FULL) == "rules.yaml: neither PyYAML nor ruamel.yaml is installed; `pip install pyyaml`"


keys = [*KEYS, *FAULTS, *ENDPOINTS, "rules"]
values = ["a.example", "null", "true", "1", "-1", ".inf", "1e5", "64MiB", "~q", "&a ", "*a", "!t ", "|", "'", '"']
marks = [":", ": ", ",", "- ", "[", "]", "{", "}", "\n", "\n  ", "\n    ", "#", "? ", "%"]
words = st.lists(st.sampled_from([*keys, *values, *marks]), max_size=40).map("".join)


@given(st.text() | words | words.map((HEAD + "    ").__add__))
@example("\ud800")
@example("\x85")
@example("%YAML 1.2\n---\nrules: yes")
@example("rules: !!timestamp x")
@example(HEAD + "    max_body: 1e400")
@example(HEAD + "    stream_options: {a: 1e400, b: .nan, c: 0x1F, ? : 1}")
@pytest.mark.parametrize("library", ["PyYAML", "ruamel.yaml"])
def test_no_text_raises_anything_but_a_rules_error_of_one_line(library, text) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if library == "ruamel.yaml":
            patch.setitem(sys.modules, "yaml", None)
        assert said_of(text).isprintable()


def said_of(text: str) -> str:
    """The message for this text, or what its rules say of themselves."""
    try:
        return " ".join(map(describe, parse_rules(text, "rules.yaml")))
    except RulesError as error:
        return str(error)


# --- Matching -------------------------------------------------------------------------------------------------------


def facts(host="a.example", port=443, *more, path="/v1/chat/completions", model="gpt-x", flow=None) -> RequestFacts:
    return RequestFacts(((host, port), *more), path, model, flow or tflow.tflow())


@pytest.mark.parametrize(
    ("pattern", "host", "port", "matches"),
    [
        ("api.example.com", "api.example.com", 443, True),
        ("api.example.com", "api.example.com", None, True),
        ("api.example.com", "API.Example.COM", 443, True),
        ("API.Example.com", "api.example.com", 443, True),
        ("api.example.com", "api.example.com.", 443, True),
        ("api.example.com.", "api.example.com", 443, True),
        ("api.example.com", "apixexample.com", 443, False),
        ("api.example.com", "api.example.com.evil.test", 443, False),
        ("api.example.com", "evil-api.example.com", 443, False),
        ("api.example.com", "", 443, False),
        ("*.example.ai", "llm.example.ai", 443, True),
        ("*.example.ai", "a.b.example.ai", 443, True),
        ("*.example.ai", "example.ai", 443, False),
        ("gpu?.example.ai", "gpu7.example.ai", 443, True),
        ("gpu[0-3].example.ai", "gpu2.example.ai", 443, True),
        ("gpu[0-3].example.ai", "gpu7.example.ai", 443, False),
        ("[ab].example.ai:80", "a.example.ai", 80, True),
        ("10.0.0.5:8000", "10.0.0.5", 8000, True),
        ("10.0.0.5:8000", "10.0.0.5", 8001, False),
        ("10.0.0.5:8000", "10.0.0.5", None, False),
        ("*:8000", "anything.example", 8000, True),
        ("*:8000", "::1", 8000, True),
        ("*:8000", "anything.example", 80, False),
        ("a.example:*", "a.example", 80, True),
        ("*", "anything.example", None, True),
        ("::1", "::1", 8000, True),
        ("::1", "[::1]", 8000, True),
        ("[::1]", "::1", None, True),
        ("[::1]:8000", "::1", 8000, True),
        ("[::1]:8000", "[::1]", 8000, True),
        ("[::1]:8000", "::1", 8001, False),
        ("[0:0:0:0:0:0:0:1]:8000", "::1", 8000, True),
        ("FE80::1", "fe80:0::1", 80, True),
        ("fe80::*", "fe80::abcd", 80, True),
        ("fe80::1%eth0", "fe80::1%eth0", 80, True),
        ("::1", "1", 80, False),
        ("bücher.example", "xn--bcher-kva.example", 443, True),
        ("*.bücher.example", "api.BÜCHER.example", 443, True),
        ("xn--bcher-kva.example", "bücher.example", 443, True),
    ],
)
def test_hosts_match_whatever_their_spelling(pattern, host, port, matches) -> None:
    rule = one(f"hosts: ['{pattern}']")
    assert (rule.mismatch(facts(host, port)) is None) is matches


def test_one_of_the_names_of_a_request_is_enough() -> None:
    rule = one("hosts: [llm.example.com]")
    assert rule.mismatch(facts("10.0.0.5", 8000, ("llm.example.com", None))) is None


def test_the_port_belongs_to_its_own_name() -> None:
    rule = one("hosts: ['a.example:1']")
    assert rule.mismatch(facts("a.example", 2, ("b.example", 1))) is not None


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
            RequestFacts((), "/", None, tflow.tflow()),
            "a request without a host is not among llm.example.com",
        ),
        ("", facts(path="/v1/models?key=secret"), "path /v1/models is not a known endpoint"),
        ("endpoints: [completions, responses]", facts(), "endpoint chat is not among completions, responses"),
        ("models: [qwen3-*, gpt-4]", facts(model="gpt-4o"), "model gpt-4o is not among qwen3-*, gpt-4"),
        ("models: [qwen3-*]", facts(model="Qwen3-8B"), "model Qwen3-8B is not among qwen3-* (they are case-sensitive)"),
        ("models: ['*']", facts(model=None), "the request has no model, and the rule is only for *"),
        ("filter: '~hq x-team:.*blue'", facts(), "filter ~hq x-team:.*blue does not match"),
    ],
)
def test_the_first_thing_that_does_not_match_is_told(rule, request_facts, phrase) -> None:
    assert one(rule).mismatch(request_facts) == phrase


@pytest.mark.parametrize(
    ("rule", "request_facts"),
    [
        ("", facts()),
        ("", facts(path="/api/paas/v4/chat/completions?api-version=1", model=None)),
        ("endpoints: [chat]", facts()),
        ("paths: {/custom/generate: chat}\nendpoints: [chat]", facts(path="/custom/generate?x=1")),
        ("models: [a, 'gpt-?']", facts()),
        ("models: ['org/*']", facts(model="org/team/model")),
        ("filter: '~m POST & ~hq x-team:.*blue'", None),
    ],
)
def test_a_rule_matches_if_all_that_it_names_does(rule, request_facts) -> None:
    blue = tflow.tflow(req=tutils.treq(method=b"POST", headers=((b"x-team", b"light blue"),)))
    assert one(rule).mismatch(request_facts or facts(flow=blue)) is None


def test_a_rules_paths_stand_beside_the_known_ones() -> None:
    rule = one("paths: {/custom/generate: completions}")
    assert rule.endpoint("/custom/generate?x=1") is ENDPOINTS["completions"]
    assert rule.endpoint("/v1/chat/completions") is ENDPOINTS["chat"]
    assert rule.endpoint("/v1/models") is None


def test_a_filter_that_raises_matches_nothing() -> None:
    broken = tflow.tflow()
    broken.request = None
    rule = one("filter: ~m POST")
    with pytest.raises(AttributeError):
        flowfilter.match(rule.filter, broken)
    assert rule.mismatch(facts(flow=broken)) == "filter ~m POST could not be evaluated (AttributeError)"
    assert first_match((rule,), facts(flow=broken)) is None


def test_the_first_rule_that_matches_decides_even_if_it_forces_nothing() -> None:
    read = parse_rules(
        "rules:\n"
        "- {name: other-host, hosts: [b.example], force_upstream_stream: true}\n"
        "- {name: other-model, hosts: [a.example], models: [x], force_upstream_stream: true}\n"
        "- {name: hands-off, hosts: [a.example], models: [gpt-*]}\n"
        "- {name: rest, hosts: ['*'], force_upstream_stream: true}\n",
        "rules.yaml",
    )
    assert first_match(read, facts()) is read[2]
    assert first_match(read, facts(model="y")) is read[3]
    assert first_match(read, facts(path="/v1/models")) is None
    assert first_match((), facts()) is None


# --- Changing and telling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("force_upstream_stream", "true", True),
        ("timeout", "30", 30),
        ("timeout", "null", None),
        ("timeout", "", None),
        ("hosts", "[b.example, '*.c.example:80']", ("b.example", "*.c.example:80")),
        ("stream_options", "{include_usage: false}", {"include_usage": False}),
        ("max_body", "1MiB", 1024**2),
        ("filter", "~hq x-team:.*blue", "~hq x-team:.*blue"),
    ],
)
def test_one_key_is_changed_with_the_words_of_the_file(key, text, value, reader) -> None:
    before = one("learn: true")
    after = with_value(before, key, text)
    assert getattr(after, key) == value
    assert (after.name, after.learn) == ("x", True)
    assert before == one("learn: true")


def test_a_changed_host_matches_at_once() -> None:
    rule = with_value(with_value(one(""), "hosts", "[b.example]"), "models", "[m]")
    assert rule.mismatch(facts("b.example", model="m")) is None
    assert rule.mismatch(facts("a.example", model="m")) is not None
    assert rule.mismatch(facts("b.example", model="n")) is not None


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("name", "y", "rule x: the name cannot be changed, because logs and commands use it"),
        ("timout", "1", "rule x: unknown key 'timout', did you mean 'timeout'?"),
        ("timeout", "soon", "rule x: timeout: expected seconds, a number above 0, found the text 'soon'"),
        ("learn", "", "rule x: learn: expected true or false, found nothing"),
        ("hosts", "[*.a]", "(put a value that starts with * in quotes)"),
        ("hosts", "a", "rule x: hosts: expected a list, found the text 'a'; write ['a']"),
        ("filter", "'~q ('", "rule x: filter: expected one of mitmproxy's filter expressions"),
    ],
)
def test_a_bad_change_is_rejected_in_the_words_of_the_file(key, text, message, reader) -> None:
    with pytest.raises(RulesError) as caught:
        with_value(one(""), key, text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("rule x: ")


def test_changes_are_told_a_line_a_rule() -> None:
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
        ("inject", "{stall: 1.5}", 'rule x: inject {} -> {"stall": 1.5}'),
    ],
)
def test_a_told_value_is_spelled_as_the_file_would(key, text, line) -> None:
    rule = one("")
    changed = with_value(rule, key, text)
    assert changes((rule,), (changed,)) == [line]
    assert with_value(rule, key, line.rpartition(" -> ")[2]) == changed


def test_a_rule_is_described_in_one_line() -> None:
    assert describe(one("")) == "x: force off; hosts a.example"
    full, _ = parse_rules(FULL, "rules.yaml")
    assert describe(full) == (
        "private-vllm: force on; hosts llm.example.com, *.example.ai, 10.0.0.5:8000, [::1]:8000; "
        'endpoints ["chat", "responses"]; paths {"/custom/generate": "chat"}; models ["qwen3-*", "2024-08-06"]; '
        'filter "~hq x-team:.*blue"; '
        'stream_options {"include_usage": true, "chunk_size": 3, "mode": "fast", "spare": null}; '
        'on_truncated "partial"; timeout 30; idle_timeout 7.5; heartbeat 15; retries 2; max_body 10000000; learn true; '
        'inject {"cut_after": 3, "drop_done": true, "error_after": 0, "stall": 1.5, "split_utf8": false, '
        '"content_type": "text/plain"}'
    )


def test_equal_rules_are_one_member_of_a_set() -> None:
    assert len({one("paths: {/x: chat}"), one("paths: {/x: chat}")}) == 1


# --- The shipped file -----------------------------------------------------------------------------------------------


def presets() -> list[str]:
    """The shipped file, once for each rule that stands in it as a comment, with that rule switched on."""
    text = SHIPPED.read_text(encoding="utf-8")
    blocks = re.findall(r"^#   - name: .*\n(?:^#     \S.*\n)+", text, re.MULTILINE)
    return [text.replace(block, re.sub("^# ", "", block, flags=re.MULTILINE)) for block in blocks]


def test_the_shipped_rules_change_nothing(reader) -> None:
    assert parse_rules(SHIPPED.read_text(encoding="utf-8"), "rules.yaml") == ()


@pytest.mark.parametrize("text", presets(), ids=lambda text: re.findall("^  - name: (.*)", text, re.MULTILINE)[0])
def test_each_preset_works_when_it_is_switched_on(text) -> None:
    (preset,) = parse_rules(text, "rules.yaml")
    assert preset.force_upstream_stream is True


def test_all_presets_together_work() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    count = len(re.findall(r"^# +- name:", text, re.MULTILINE))
    assert len(presets()) == count >= 5
    everything = re.sub(r"^# (?=  - name:|    \S)", "", text, flags=re.MULTILINE)
    assert len(parse_rules(everything, "rules.yaml")) == count


def test_the_codex_preset_takes_the_codex_backend_alone() -> None:
    text = next(text for text in presets() if "\n  - name: chatgpt-codex" in text)
    (codex,) = parse_rules(text, "rules.yaml")
    flow = tflow.tflow(req=tutils.treq(host="chatgpt.com", path=b"/backend-api/codex/responses"))
    assert codex.mismatch(facts("chatgpt.com", path="/backend-api/codex/responses", flow=flow)) is None
    other = tflow.tflow(req=tutils.treq(host="chatgpt.com", path=b"/v1/responses"))
    assert codex.mismatch(facts("chatgpt.com", path="/v1/responses", flow=other)) is not None


# --- All mistakes at once -------------------------------------------------------------------------------------------


def test_every_mistake_is_told_rule_by_rule_beside_the_rules_that_are_right() -> None:
    rules, mistakes = check_rules(
        """\
rules:
  - name: good
    hosts: [a.example]
  - name: bad
    hosts: [https://b.example/]
    timeuot: 3
    retries: many
  - hosts: [c.example]
  - name: good
    hosts: [d.example]
""",
        "rules.yaml",
    )
    assert [rule.name for rule in rules] == ["good"]
    assert [line.partition(", ")[0].partition("; ")[0] for line in mistakes] == [
        "rules.yaml:5: rule bad: hosts: expected a host such as llm.example.com",
        "rules.yaml:6: rule bad: unknown key 'timeuot'",
        "rules.yaml:7: rule bad: retries: expected a whole number from 0 to 100",
        "rules.yaml:8: rule number 3: the key 'name' is missing",
        "rules.yaml:9: rule good: the rule in line 2 already has this name",
    ]


def test_a_file_without_a_mistake_has_no_line() -> None:
    rules, mistakes = check_rules(FULL, "rules.yaml")
    assert (rules, mistakes) == (parse_rules(FULL, "rules.yaml"), [])
