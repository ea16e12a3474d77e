"""The rules file: what is read, and what is rejected and in which words."""

import os
import re
import socket
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from force_stream.endpoints import ENDPOINTS
from force_stream.rules.describe import describe
from force_stream.rules.file import LONGEST_FILE, RulesError, check_rules, parse_rules, read_file, with_value
from force_stream.rules.keys import FAULTS, KEYS
from force_stream.rules.rule import Rule
from harness.rules import FULL, HEAD, SHIPPED, facts, one, presets, refusal
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.test import tflow, tutils


def test_every_key_is_read(reader) -> None:
    full, other = parse_rules(FULL, "rules.yaml")
    assert full == Rule(
        name="private-vllm",
        hosts=("llm.example.com", "*.example.ai", "10.0.0.5:8000", "[::1]:8000"),
        force_upstream_stream=True,
        endpoints=("chat", "responses"),
        paths={"/custom/generate": "chat"},
        models=("qwen3-*", "2024-08-06"),
        tools=False,
        extra_body={"store": False, "user": "", "thinking": {"type": "enabled", "budget": 1.5, "stop": ["a", None]}},
        filter="~hq x-team:.*blue",
        stream_options={"include_usage": True, "chunk_size": 3, "mode": "fast", "spare": None},
        on_truncated="partial",
        quirks=(),
        timeout=30,
        idle_timeout=7.5,
        heartbeat=15,
        retries=2,
        max_body=10_000_000,
        cors=("null", "https://chat.example.com", "file://"),
        learn=True,
        fill={"choices.*.message.refusal": None, "x": [1]},
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


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null", "rules:", "rules: []", "rules: null", "\ufeff"])
def test_a_file_without_rules_is_a_file(text, reader) -> None:
    assert parse_rules(text, "rules.yaml") == ()


def test_an_anchor_may_be_used_again(reader) -> None:
    text = "rules:\n- {name: a, hosts: &h [a.example, b.example]}\n- {name: b, hosts: *h}\n"
    a, b = parse_rules(text, "rules.yaml")
    assert a.hosts == b.hosts == ("a.example", "b.example")


def test_both_readers_give_the_same_rules(monkeypatch) -> None:
    texts = [FULL, SHIPPED.read_text(encoding="utf-8"), *presets()]
    with_pyyaml = [parse_rules(text, "rules.yaml") for text in texts]
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert [parse_rules(text, "rules.yaml") for text in texts] == with_pyyaml


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
    "nested without end": ("[" * 1500, 1, "nested too deeply for a rules file"),
    "too long": ("#" * 300_000, 1, "it is longer than 256 KiB; is this a rules file?"),
    "a text": ("hello", 1, "expected a mapping with the key 'rules', found the text 'hello'"),
    "a list": ("- name: x", 1, "expected a mapping with the key 'rules', found a list; put 'rules:' above it"),
    "no rules": ("\n{}", 2, "the key 'rules' is missing"),
    "unknown key": ("rules: []\nruels: []", 2, "unknown key 'ruels', did you mean 'rules'?"),
    "rules twice": ("rules: []\nrules: []", 2, "the key 'rules' appears twice, first on line 1"),
    "rules a mapping": ("rules:\n  name: x", 2, "rules: expected a list, found a mapping"),
    "rule a text": ("rules:\n- x", 2, "rule number 1: expected a mapping of keys to values, found the text 'x'"),
    "rule holds itself": ("rules: &r\n- *r", 1, "too large for a rules file once its aliases are expanded"),
    "a mapping that holds itself": (
        "rules:\n- name: x\n  hosts: [a]\n  extra_body: &e\n    a: *e",
        4,
        "too large for a rules file once its aliases",
    ),
    "hosts again and again": (
        f"rules:\n- {{name: a, hosts: &h [{'a,' * 999}]}}\n"
        + "".join(f"- {{name: r{i}, hosts: *h}}\n" for i in range(999)),
        2,
        "too large for a rules file once its aliases",
    ),
    "one long host again and again": (
        f"rules:\n- name: a\n  hosts: [&h {'a' * 9999}{', *h' * 100}]",
        3,
        "too large for a rules file once its aliases",
    ),
    "billion laughs": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghij")),
        6,
        "too large for a rules file once its aliases",
    ),
    "a Python object": (
        "rules:\n- !!python/object/apply:os.system ['exit 1']",
        2,
        "rule number 1: expected a mapping of keys to values, found a value with the tag '!!python/object",
    ),
    "a key of 200,000 characters": (f"? {'k' * 200_000}\n: x", 1, "unknown key 'kkkkkkkkk"),
    "rule a set": (
        "rules:\n- !!set {name: x}",
        2,
        "rule x: expected a mapping of keys to values, found a value with the tag '!!set'",
    ),
    "no name": ("rules:\n- {name: a, hosts: [a]}\n- hosts: [b]", 3, "rule number 2: the key 'name' is missing"),
    "name a number": ("rules:\n- name: 5", 2, "rule number 1: name: expected text, found the number 5; put it in"),
    "name with slash": ("rules:\n- name: a/b", 2, "rule number 1: name: expected a name of letters, digits, spaces"),
    "name of the option's rule": (
        "rules:\n- name: force_stream_hosts",
        2,
        "rule force_stream_hosts: name: the rule that mitmproxy's option force_stream_hosts makes has this name",
    ),
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
        "rule a: the rule on line 2 already has this name",
    ),
    "both directions": (
        "rules:\n- {name: a, hosts: [a], force_upstream_plain: true, force_upstream_stream: true}",
        2,
        "rule a: force_upstream_stream and force_upstream_plain exclude each other",
    ),
    "alias grown a thousandfold": (
        "rules:\n- &a [x, x]\n- &b [*a, *a]\n- &c [*b, *b]\n- &d [*c, *c]",
        2,
        "rule number 1: expected a mapping of keys to values, found a list",
    ),
    "anchor twice": ("rules:\n- &a x\n- &a y", ..., "found duplicate anchor 'a'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_reported_with_its_line(case, reader) -> None:
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


def test_every_mistake_is_listed_and_the_other_rules_are_read() -> None:
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
        "rules.yaml:9: rule good: the rule on line 2 already has this name",
    ]


def test_a_file_without_a_mistake_has_no_line() -> None:
    rules, mistakes = check_rules(FULL, "rules.yaml")
    assert (rules, mistakes) == (parse_rules(FULL, "rules.yaml"), [])


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
    assert rule.mismatch(*facts("b.example", model="m")) is None
    assert rule.mismatch(*facts("a.example", model="m")) is not None
    assert rule.mismatch(*facts("b.example", model="n")) is not None


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("name", "y", "rule x: the name cannot be changed, because logs and commands use it"),
        ("timout", "1", "rule x: unknown key 'timout', did you mean 'timeout'?"),
        ("timeout", "soon", "rule x: timeout: expected seconds, such as 30 or 2.5, found the text 'soon'"),
        ("learn", "", "rule x: learn: expected true, false or a list of phrases, found nothing"),
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


def test_a_rule_that_forces_streams_cannot_be_changed_to_force_plain_answers_too() -> None:
    with pytest.raises(RulesError, match=r"^rule x: force_upstream_stream and force_upstream_plain exclude each other"):
        with_value(one("force_upstream_stream: true"), "force_upstream_plain", "true")


# What else may have the file's name


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        # The address of a socket is short.
        before = Path.cwd()
        os.chdir(path.parent)
        listener.bind(path.name)
        os.chdir(before)


def a_pipe(path: Path) -> Path:
    os.mkfifo(path.with_name("pipe"))
    return path.with_name("pipe")


def a_large_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 30)


NO_FILES = {
    "a pipe": (os.mkfifo, "it is a pipe, not a file"),
    "a folder": (Path.mkdir, "it is a folder, not a file"),
    "a socket": (a_socket, "it is a socket, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
    "a link to a pipe": (
        lambda path: (os.mkfifo(path.with_name("p")), path.symlink_to("p")),
        "it is a pipe, not a file",
    ),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "No such file or directory"),
    "gigabytes": (a_large_file, "it is longer than 256 KiB; is this a rules file?"),
    "no file": (lambda path: None, "No such file or directory"),
    "no text": (lambda path: path.write_bytes(b"\xff"), "it is not UTF-8"),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_not_a_file_is_one_line_and_nobody_waits_for_it(case: str, tmp_path: Path) -> None:
    make, reason = NO_FILES[case]
    path = tmp_path / "rules.yaml"
    make(path)
    with pytest.raises(RulesError) as caught:
        read_file(path)
    assert f"{caught.value}" == f"{path}: the rules cannot be read: {reason}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(116, "Stale file handle"), "Stale file handle"),
        (OSError("odd"), "odd"),
    ],
)
def test_a_file_system_that_refuses_is_one_line(
    error: OSError, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise error

    path = tmp_path / "rules.yaml"
    path.write_text(FULL)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RulesError, match=f"the rules cannot be read: {reason}$"):
        read_file(path)


def test_a_path_that_no_file_can_have_is_one_line() -> None:
    with pytest.raises(RulesError, match=r"the rules cannot be read: .*embedded null"):
        read_file(Path("a\0b"))


def test_a_file_that_becomes_a_pipe_before_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = tmp_path / "rules.yaml", tmp_path / "file"
    os.mkfifo(path)
    file.touch()
    status = file.stat()
    monkeypatch.setattr(Path, "stat", lambda _: status)
    with pytest.raises(RulesError, match="it is a pipe, not a file"):
        read_file(path)


def test_a_file_that_grows_while_it_is_read_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    # To its status a file of /proc is empty, and this one has as many bytes as there are addresses.
    with pytest.raises(RulesError, match="it is longer than 256 KiB"):
        read_file(Path("/proc/self/pagemap"))


@pytest.mark.parametrize("text", [FULL, "\ufeff" + FULL, "# " + "ü" * (LONGEST_FILE - 2)])
def test_a_file_of_any_length_that_is_parsed_is_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    parse_rules(read_file(tmp_path / "rules.yaml"), "rules.yaml")


def test_the_shipped_rules_change_nothing(reader) -> None:
    assert parse_rules(SHIPPED.read_text(encoding="utf-8"), "rules.yaml") == ()


@pytest.mark.parametrize("text", presets(), ids=lambda text: re.findall("^  - name: (.*)", text, re.MULTILINE)[0])
def test_each_preset_works_when_it_is_switched_on(text) -> None:
    (preset,) = parse_rules(text, "rules.yaml")
    assert preset.forces


def all_presets() -> tuple[Rule, ...]:
    text = SHIPPED.read_text(encoding="utf-8")
    return parse_rules(re.sub(r"^# (?=  - name:|    \S)", "", text, flags=re.MULTILINE), "rules.yaml")


def test_all_presets_together_work() -> None:
    count = len(re.findall(r"^# +- name:", SHIPPED.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(presets()) == len(all_presets()) == count >= 5


@pytest.mark.parametrize(
    ("host", "model", "name"),
    [
        ("dashscope.aliyuncs.com", "qwen3-omni-flash", "qwen-omni"),
        ("dashscope-intl.aliyuncs.com", "qwen-omni-turbo", "qwen-omni"),
        ("dashscope-us.aliyuncs.com", "qwen2.5-omni-7b", "qwen-omni"),
        ("cn-hongkong.dashscope.aliyuncs.com", "qwen3.5-omni-plus", "qwen-omni"),
        ("dashscope.aliyuncs.com", "qwen3-32b", "dashscope"),
        ("ws.ap-southeast-1.maas.aliyuncs.com", "qwq-plus", "dashscope"),
        ("dashscope.aliyuncs.com", "qwen-plus", None),
        ("x.services.ai.azure.com", "Mistral-large-2411", "azure-mistral"),
        ("x.services.ai.azure.com", "gpt-4o", None),
        ("localhost", "qwen3", None),
    ],
)
def test_each_model_has_its_preset(host: str, model: str, name: str | None) -> None:
    rules = [rule for rule in all_presets() if rule.name != "private-vllm"]
    found = next((rule.name for rule in rules if rule.mismatch(*facts(host, model=model)) is None), None)
    assert found == name


def test_the_codex_preset_is_for_the_codex_backend_alone() -> None:
    text = next(text for text in presets() if "\n  - name: chatgpt-codex" in text)
    (codex,) = parse_rules(text, "rules.yaml")
    flow = tflow.tflow(req=tutils.treq(host="chatgpt.com", path=b"/backend-api/codex/responses"))
    assert codex.mismatch(*facts("chatgpt.com", path="/backend-api/codex/responses", flow=flow)) is None
    other = tflow.tflow(req=tutils.treq(host="chatgpt.com", path=b"/v1/responses"))
    assert codex.mismatch(*facts("chatgpt.com", path="/v1/responses", flow=other)) is not None
