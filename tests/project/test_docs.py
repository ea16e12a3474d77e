"""README.md and docs/ against the code: tables, commands, examples and links."""

import asyncio
import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import force_stream
import pytest
from force_stream import errors
from force_stream.addon import commands as commands_of_flows
from force_stream.addon.hooks import ForceStream
from force_stream.endpoints import ENDPOINTS
from force_stream.page.server import Serving
from force_stream.proxy.refusals import rule_to_paste
from force_stream.rules.file import parse_rules
from force_stream.wire.json_body import read_body
from harness.paths import ROOT
from mitmproxy import flowfilter
from mitmproxy.test import taddons

from tools import docs

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES["README.md"]
LONGEST_README = 130
ENTRYPOINT = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").partition("ENTRYPOINT")[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE)


def table(*header: str) -> list[list[str]]:
    """The rows of the one table with this header in all pages, cell by cell."""
    lines = [line for text in PAGES.values() for line in (*text.splitlines(), "")]
    (start,) = [number for number, line in enumerate(lines) if cells(line) == list(header)]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
        assert len(rows[-1]) == len(header), line
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def code_spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def code(cell: str) -> str:
    (span,) = code_spans(cell)
    return span


def blocks(language: str) -> list[tuple[str, str]]:
    """The fenced blocks of a language, each with the page that has it."""
    found = [(page, block) for page, text in PAGES.items() for name, block in FENCE.findall(text) if name == language]
    assert found, language
    return found


def block_after(sentence: str) -> str:
    """The indented block that follows the paragraph with this sentence, which one page has."""
    (page,) = [text for text in PAGES.values() if sentence in text]
    match = re.search(r"\n\n((?:    .*\n|\n)+)", page.partition(sentence)[2])
    assert match
    return "\n".join(line[4:] for line in match[1].rstrip().split("\n"))


def commands() -> Iterator[str]:
    """Every line to paste into a shell, and every command in the text."""
    for text in PAGES.values():
        unfenced = FENCE.sub("", text)
        yield from (line.strip() for line in unfenced.splitlines() if line.startswith("    "))
        yield from code_spans(re.sub(r"^    .*$", "", unfenced, flags=re.MULTILINE).replace("\n", " "))


def without_a_proxy(line: str) -> bool:
    return " -n " in line


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST_README


# Tables


@pytest.mark.parametrize("path", docs.PARTS)
def test_tables_that_are_written_from_the_code_are_current(path: str) -> None:
    assert docs.current(path) == (ROOT / path).read_text(encoding="utf-8"), "run make docs"


def registered(read: Callable[[taddons.context], Any]) -> Any:
    """What `read` finds in a test master that has the addon."""

    async def inside() -> Any:
        ours = ForceStream(ROOT / "rules.yaml")
        with taddons.context(ours, commands_of_flows.Commands(ours), Serving(ours)) as context:
            return read(context)

    return asyncio.run(inside())


def test_table_of_options_is_the_addons() -> None:
    options = registered(lambda context: {name: option.default for name, option in context.options.items()})
    ours = {name: default for name, default in options.items() if name.startswith("force_stream")}
    rows = {code(name): default for name, _, default in table("option", "meaning", "default")}
    assert rows.keys() == ours.keys()
    assert rows.pop("force_stream_rules") == "`rules.yaml` next to `addon.py`"
    for name, default in rows.items():
        assert code(default) == (ours[name] if isinstance(ours[name], str) else json.dumps(ours[name])), name
    assert ours["force_stream_rules"] == str(ROOT / "rules.yaml")


def test_table_of_commands_is_the_addons() -> None:
    known = registered(lambda context: dict(context.master.commands.commands))
    ours = {
        " ".join([name, *(parameter.name.upper() for parameter in command.parameters)])
        for name, command in known.items()
        if name.startswith("force_stream.") and not name.endswith(".options")  # those are for completion
    }
    assert {code(name) for name, meaning in table("command", "meaning") if meaning} == ours


def test_table_of_keys_is_the_consoles() -> None:
    for (press, to), (key, command, _) in zip(table("press", "to"), commands_of_flows._KEYS, strict=True):
        assert code(press) == key
        assert code(to) in command.split()


def test_table_of_filters_has_filters() -> None:
    for entry, _ in table("filter", "flows"):
        assert flowfilter.parse(code(entry)), entry


def test_table_of_endpoints_is_the_codes() -> None:
    rows = table("endpoint", "path ends with", "left unchanged")
    assert [(code(name), tuple(code_spans(paths))) for name, paths, _ in rows] == [
        (endpoint.name, endpoint.paths) for endpoint in ENDPOINTS.values()
    ]
    for (_, _, exceptions), endpoint in zip(rows, ENDPOINTS.values(), strict=True):
        assert set(endpoint.never_streams) <= set(code_spans(exceptions))


def test_table_of_presets_is_that_of_the_rules_file() -> None:
    presets = re.findall(r"^#   - name: (\S+)$", (ROOT / "rules.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    example, *presets = presets
    assert example == "private-vllm"
    assert [code(preset) for preset, _, _ in table("preset", "upstream", "why")] == presets


def test_every_failure_of_the_addons_own_is_in_the_docs() -> None:
    kinds = [kind for kind in errors.StreamError.__subclasses__() if kind is not errors.UpstreamError]
    assert kinds
    page = PAGES["docs/failures.md"]
    for kind in kinds:
        assert f"{kind.status_hint} `{kind.code}`" in page
    unretryable = [kind.code for kind in kinds if not kind.retryable]
    sentence = re.search(r"([^.]*) carry\n?\s*`x-should-retry: false`", page)
    assert sentence
    assert code_spans(sentence[1]) == unretryable


# Commands


def test_every_make_command_exists() -> None:
    named = [words[1] for words in map(str.split, commands()) if words[:1] == ["make"] and len(words) > 1]
    assert {"demo", "test", "run"} <= set(named)
    assert set(named) <= set(TARGETS)
    variables = {name for line in commands() if line.startswith("make ") for name in re.findall(r"\b([A-Z]+)=", line)}
    assert all(f"$({name})" in MAKEFILE for name in variables), variables


def test_every_mitmproxy_command_listens_on_this_machine_alone() -> None:
    lines = [line for line in commands() if re.match(r"\S*mitm(dump|proxy|web) ", line)]
    assert len(lines) >= 5
    for line in lines:
        assert "--listen-host 127.0.0.1" in line or without_a_proxy(line), line


def test_every_container_is_published_on_this_machine_alone() -> None:
    lines = [line for line in commands() if line.startswith("docker run ")]
    assert lines
    for line in lines:
        assert "-p 127.0.0.1:" in line, line


def test_every_proxy_answers_when_the_upstream_is_down() -> None:
    lazy = re.compile(r"--set connection_strategy=lazy\b|--set\", \"connection_strategy=lazy\"")
    lines = [line for line in commands() if re.search(r"\bmitm(dump|proxy|web) .*-s |--mode ", line)]
    assert len(lines) >= 10
    for line in lines:
        if without_a_proxy(line):
            continue
        # mitmproxy exits if an option is set twice, and our image's entrypoint may set it.
        given = line + (ENTRYPOINT if " force-stream --mode" in line else "")
        assert len(lazy.findall(given)) == 1, line


# Examples


def test_rules_in_the_docs_are_rules() -> None:
    for page, text in blocks("yaml"):
        (rule,) = parse_rules(text, page)
        assert rule.watches_streams


def test_example_of_a_learned_rule_is_the_codes() -> None:
    assert block_after("paste before this one:") == rule_to_paste("llm.example.com", "qwq-32b")


def test_example_requests_are_before_and_after_the_edit() -> None:
    plain = block_after("The application sends what it always sent:").split("\n")[-1].encode()
    forced = block_after("The upstream receives this.").split("\n")[-1].encode()
    body = read_body(plain)
    assert body is not None
    assert body.forced({"include_usage": True}).body == forced


def test_example_stream_becomes_the_example_answer() -> None:
    stream = block_after("The upstream streams:") + "\n\n"
    assert stream.endswith("data: [DONE]\n\n")
    reply = force_stream.aggregate(stream.encode())
    assert (reply.status, reply.body.decode()) == (200, block_after("The application gets `200 OK`"))


def test_example_error_is_the_addons() -> None:
    answer = force_stream.AnswerSpec(rule="private-vllm", endpoint="chat").read()
    answer.feed(b'data: {"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}\n\n')
    reply = answer.finish("connection reset")
    assert reply is not None
    example = block_after("The addon's own errors have OpenAI's format.")
    came = re.compile(r"[\d,]+ events?, [\d,]+ bytes?")
    assert came.sub("", reply.body.decode()) == came.sub("", example)


def test_example_log_line_has_the_form_of_a_log_line() -> None:
    line = (
        r"private-vllm: chat qwen3-8b, 200, finish stop, \d+ events, [\d,]+ bytes, \d+ in \+ \d+ out tokens, [\d.]+ s"
    )
    shown = [page for page, text in PAGES.items() if re.search(rf"^ +{line}$", text, re.MULTILINE)]
    assert shown == ["README.md", "docs/looking.md"]


def test_python_in_the_docs_runs() -> None:
    for page, text in blocks("python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, page, "exec"), {})
        assert printed.getvalue().startswith("200 b'{")
        assert '"content":"Hi"' in printed.getvalue()


# Links


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_within_the_project_resolve(name: str) -> None:
    for target in links((ROOT / name).read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        page = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert page.is_relative_to(ROOT), target
        assert page.is_file() or (page.is_dir() and not anchor), target
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), target


def test_readme_links_to_every_page() -> None:
    assert set(PAGES) - {"README.md"} <= set(links(README))


def links(text: str) -> list[str]:
    """The targets of the links within the project."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)) if "://" not in target]
