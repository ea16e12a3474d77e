"""What mitmproxy's programs are started with."""

import json
import re
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from force_stream.cli import main
from force_stream.cli.mitmproxy_tools import (
    arguments,
    folder_of,
    free_port,
    free_ports,
    settings_in,
    web_options,
)
from harness.paths import ROOT
from mitmproxy.tools.web.web_columns import AVAILABLE_WEB_COLUMNS


def test_what_the_person_sets_on_the_command_line_is_not_overridden() -> None:
    line, variables = arguments({"a": 1, "b": ["x", "y"], "c": 2, "d": 3}, ["--set", "c=3", "--set=d=4", "-q"])
    assert line[4:] == ["--set", "c=3", "--set=d=4", "-q"]
    assert json.loads(variables["FORCE_STREAM_OPTIONS"]) == {"a": 1, "b": ["x", "y"]}


def test_settings_are_read_in_both_spellings() -> None:
    assert settings_in(["-q", "--set", "a=1", "--set=b=2", "--set"]) == ["a=1", "b=2"]


def test_mitmproxys_folder_is_the_one_that_the_person_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of([]) == tmp_path / ".mitmproxy"
    assert folder_of(["mode=socks5", f"confdir={tmp_path / 'x' / 'y'}"]) == tmp_path / "x" / "y"
    assert (tmp_path / "x" / "y").is_dir()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["proxy", "https://llm.example.com", "--port", "{port}", "--", "--set", "confdir={home}/x"], 1),
        (["run", "--host", "llm.example.com", "--set", "confdir={home}/x", "--", "python"], 125),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_in_one_line(
    words: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "file"
    home.touch()
    port = free_port(())
    assert main([word.format(home=home, port=port) for word in words]) == code
    said = f"{home}/x cannot be written: Not a directory; choose another folder with mitmproxy's option confdir"
    assert capsys.readouterr() == ("", f"force-stream {words[0]}: {said}\n")


def test_a_port_that_is_taken_is_passed_over() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        free = free_port((70_000, port))
        assert free not in (70_000, port)
        assert free_port((port, free)) == free
    assert len(set(free_ports(3))) == 3


def test_mitmweb_lists_comments_unless_a_person_chose_other_columns() -> None:
    docs = (ROOT / "docs" / "looking.md").read_text(encoding="utf-8")
    columns: Any = web_options("web")["web_columns"]
    assert columns == re.findall(r"--set web_columns=(\w+)", docs)
    assert set(columns) <= set(AVAILABLE_WEB_COLUMNS)
    assert web_options("dump") == web_options("console") == {}
    _, variables = arguments(web_options("web"), ["--set", "web_columns=path"])
    assert "web_columns" not in variables["FORCE_STREAM_OPTIONS"]
