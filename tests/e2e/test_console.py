"""The content view as a person meets it: mitmproxy's console in a terminal, keys pressed, the screen read.

Needs tmux. FORCE_STREAM_SCREENSHOTS=docs writes docs/console.svg.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from force_stream.addon import commands
from harness import Certs, Data, End, Head, Http1Client, Pause, Proxy, Reset, sse
from harness.console import Console
from harness.paths import ADDON
from harness.samples import CHAT, EVENTS, RULES, STREAM, request, spoken
from harness.upstream import Upstream


@pytest.fixture
def console(tmp_path: Path, certs: Certs) -> Iterator[Callable[..., Console]]:
    """`console(*arguments)`: a started mitmproxy with the addon."""
    rules = tmp_path / "console-rules.yaml"
    rules.write_text(RULES)
    with ExitStack() as opened:
        yield lambda *arguments: opened.enter_context(
            Console(certs, tmp_path, {"force_stream_rules": rules}, *arguments)
        )


@pytest.fixture
def flow_file(tmp_path: Path, upstream: Upstream, proxy_factory: Callable[..., Proxy]) -> Path:
    """A file with one forced flow, whose stream has a comment and the name of a colour in escape sequences."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    path = tmp_path / "flows.mitm"
    proxy = proxy_factory(
        f"reverse:{upstream.url()}", scripts=[ADDON], options={"force_stream_rules": rules}, flow_file=path
    )
    body = sse(EVENTS[0], b": \x1b[31mred\x1b[0m\n\n", *EVENTS[1:])
    upstream.answer(Head(), Data(body[:300]), Data(body[300:]), End())
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).status == 200
    proxy.stop()
    return path


def test_a_person_opens_a_saved_flow_and_sees_its_events(console: Callable[..., Console], flow_file: Path) -> None:
    screen = console("-n", "-r", str(flow_file))
    screen.wait_for(r"POST .*/v1/chat/completions")
    screen.press("Enter")
    screen.wait_for(r"\[m:auto\]")
    screen.press("Tab")
    screen.wait_for(r'"content": "Hello"')
    assert re.search(r"JSON .*\[m:auto\]", screen.screen), "the document is seen first"
    screen.press(":")
    screen.type("console.flowview.mode.set 'upstream sse'")
    screen.press("Enter")
    screen.wait_for(r"Upstream SSE .*\[m:upstream sse\]")
    for pattern in (
        r"^rule +private-vllm *$",
        r"^endpoint +chat *$",
        r"^model +m \(events say m-1\) *$",
        r"^first event +\d+\.\d{3} s *$",
        r"^first content +\d+\.\d{3} s *$",
        r"^events +5, then \[DONE\] *$",
        r"^finish reason +stop *$",
        r"^comments +1 comment line \(usually a keep-alive\) *$",
        r"^Nothing odd\. *$",
        r"^ +1 +\d+\.\d{3} +chunk +role \"assistant\" *$",
        r"^ +\d+\.\d{3} +\+\d+\.\d{3} +comment +\\x1b\[31mred\\x1b\[0m *$",
        r"^ +2 +\d+\.\d{3} +\+\d+\.\d{3} +chunk +content \+\"Hel\" *$",
        r"^ +4 +\d+\.\d{3} +\+\d+\.\d{3} +chunk +finish_reason \"stop\" *$",
        r"^ +\d+\.\d{3} +\+\d+\.\d{3} +\[DONE\] *$",
    ):
        screen.wait_for(pattern)


def test_a_person_presses_m_and_sees_where_a_stream_stopped(
    console: Callable[..., Console], tmp_path: Path, upstream: Upstream, proxy_factory: Callable[..., Proxy]
) -> None:
    rules, path = tmp_path / "rules.yaml", tmp_path / "flows.mitm"
    rules.write_text(RULES.replace('["m"]', '["qwen3-*"]'))
    options = {"force_stream_rules": rules}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options, flow_file=path)
    upstream.answer(*spoken("qwen3-32b", Pause(1.4)), Reset())
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request("qwen3-32b")).status == 502
    proxy.stop()
    screen = console("-n", "-r", str(path))
    screen.wait_for(r"POST .*/v1/chat/completions .*502")
    screen.press("Enter")
    screen.wait_for(r"\[m:auto\]")
    screen.press("Tab")
    screen.wait_for(r'"code": "stream_truncated"')
    screen.press("m")
    (key,) = re.findall(r"(\w)\) upstream sse", screen.wait_for(r"\) upstream sse"))
    screen.type(key)
    screen.wait_for(r"Upstream SSE .*\[m:upstream sse\]")
    for pattern in (
        r"^status +200 from the upstream, 502 to the client *$",
        r"^longest gap +[1-9]\d*\.\d{3} s, from \d+\.\d{3} to \d+\.\d{3} s *$",
        r"^cause +cut off after event 15.*$",
        r"^text +\"Graz is the second largest city of Austria and lies on the river Mur \" *$",
        r"^client got +an error: stream_truncated *$",
        r"^ +- no finish reason for choice 0 *$",
        r"^! +10 +\d+\.\d{3} +\+[1-9]\d*\.\d{3} +chunk +\[after [1-9]\d*\.\d s of silence\] content \+",
    ):
        screen.wait_for(pattern)
    title = "mitmproxy's console with the events of an answer that was cut off"
    screen.picture("console.svg", title, 118, 49, of=r"^ +15 .*\+\"Mur \"")


@pytest.mark.parametrize("option", ["force_stream_view_first=true", "console_default_contentview=upstream sse"])
def test_an_option_shows_the_cause_as_soon_as_a_person_opens_the_response(
    option: str,
    console: Callable[..., Console],
    tmp_path: Path,
    upstream: Upstream,
    proxy_factory: Callable[..., Proxy],
) -> None:
    rules, path = tmp_path / "rules.yaml", tmp_path / "flows.mitm"
    rules.write_text(RULES)
    options = {"force_stream_rules": rules}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options, flow_file=path)
    upstream.answer(Head(), Data(sse(*EVENTS[:3], done=False)), Reset())
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).status == 502
    proxy.stop()
    screen = console("-n", "-r", str(path), "--set", option)
    screen.wait_for(r"POST .*/v1/chat/completions .*502")
    screen.press("Enter")
    screen.wait_for(r'"model": "m"')
    screen.press("Tab")
    screen.wait_for(r"^cause +cut off after event 3.*$")
    screen.wait_for(r'^text +"Hello" *$')


def test_a_stream_in_a_file_that_no_addon_wrote_is_seen_at_once(
    console: Callable[..., Console], tmp_path: Path, upstream: Upstream, proxy_factory: Callable[..., Proxy]
) -> None:
    path = tmp_path / "plain.mitm"
    proxy = proxy_factory(f"reverse:{upstream.url()}", flow_file=path)
    upstream.answer(Head(), Data(STREAM), End())
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request(stream=True)).body == STREAM
    proxy.stop()
    screen = console("-n", "-r", str(path))
    screen.wait_for(r"POST .*/v1/chat/completions")
    screen.press("Enter")
    screen.wait_for(r"\[m:auto\]")
    screen.press("Tab")
    screen.wait_for(r"Upstream SSE .*\[m:auto\]")
    screen.wait_for(r"^times +not recorded *$")
    screen.wait_for(r'^ +3 +chunk +content \+"lo" *$')


def test_what_came_of_a_key_or_a_command_is_seen_at_the_foot(
    console: Callable[..., Console], flow_file: Path, tmp_path: Path
) -> None:
    screen = console("-n", "-r", str(flow_file))
    screen.wait_for(r"POST .*/v1/chat/completions")
    screen.press("t")
    screen.wait_for(r"^Alert: .*private-vllm: chat m, 200, finish stop, 5 events, [\d,]+ bytes, ")
    screen.press("s")
    screen.wait_for(r"^: force_stream\.sse @focus ")
    screen.type(f"{tmp_path}/again.sse")
    screen.press("Enter")
    screen.wait_for(rf"^Alert: .*\d bytes written to {tmp_path}/again\.sse")
    for typed, said in (
        ("force_stream.set elsewhere timeout 3", "rule elsewhere: timeout null -> 3"),
        ("force_stream.reload", "the rules file was read again: 6 rules in force"),
    ):
        screen.press(":")
        screen.type(typed)
        screen.press("Enter")
        screen.wait_for(rf"^Alert: .*{re.escape(said)}")
    screen.press("y")
    screen.wait_for(r"rule private-vllm takes it; its request was forced")


def test_the_question_mark_lists_the_keys(console: Callable[..., Console]) -> None:
    screen = console("-n")
    screen.wait_for(r"^Flows")
    screen.press("?")
    for key, _, text in commands._KEYS:
        screen.wait_for(rf"^{key} +{text} *$")


# What is typed, the Tab key, and what stands there then: each Tab after it gives the next.
COMPLETED = {
    "a command": ("force_stream.exp", ["force_stream.explain"]),
    "a rule": ("force_stream.set ", ["force_stream.set blue-team", "force_stream.set elsewhere"]),
    "the beginning of a rule": ("force_stream.set priv", ["force_stream.set private-vllm"]),
    "a key": ("force_stream.set private-vllm idle", ["force_stream.set private-vllm idle_timeout"]),
    "flows": ("force_stream.compare @f", ["force_stream.compare @focus"]),
    "a path": ("force_stream.sse @all FOLDER/str", ["force_stream.sse @all FOLDER/stream.sse"]),
}


def test_the_tab_key_completes_what_is_typed(console: Callable[..., Console], tmp_path: Path) -> None:
    (tmp_path / "stream.sse").touch()
    screen = console("-n")
    screen.wait_for(r"^Flows")
    for typed, expected in COMPLETED.values():
        screen.press(":")
        screen.type(typed.replace("FOLDER", f"{tmp_path}"))
        for text in expected:
            screen.press("Tab")
            screen.wait_for(rf"^: {re.escape(text.replace('FOLDER', f'{tmp_path}'))}( |$)")
        screen.press("Escape")
        screen.wait_for(r"^Proxy:")


def test_a_word_that_is_none_of_them_is_named_with_those_there_are(console: Callable[..., Console]) -> None:
    screen = console("-n")
    screen.wait_for(r"^Flows")
    for typed, said in (
        ("nobody timeout 3", r"there is no rule 'nobody'; the rules are: not-forced, blue-team, "),
        ("elsewhere tiemout 3", r"unknown key 'tiemout', did you mean 'timeout'\?"),
    ):
        screen.press(":")
        screen.type(f"force_stream.set {typed}")
        screen.press("Enter")
        screen.wait_for(said)
