"""What `force-stream proxy` makes of a URL, and what it says when it cannot start."""

import socket
from contextlib import closing
from pathlib import Path

import pytest
from force_stream.cli import main
from force_stream.cli.exits import Failed
from force_stream.cli.proxy import upstream as parse_upstream


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://llm.example.com", ("https://llm.example.com", "llm.example.com", "/v1")),
        ("llm.example.com", ("https://llm.example.com", "llm.example.com", "/v1")),
        ("http://127.0.0.1:8000/", ("http://127.0.0.1:8000", "127.0.0.1:8000", "/v1")),
        ("http://[::1]:8000/api/paas/v4/", ("http://[::1]:8000", "[::1]:8000", "/api/paas/v4")),
        ("HTTPS://LLM.Example.com/V1", ("https://llm.example.com", "llm.example.com", "/V1")),
        ("https://a.example/v2/chat/completions", ("https://a.example", "a.example", "/v2")),
    ],
)
def test_an_upstream_is_its_origin_its_host_and_its_path(url: str, found: tuple[str, str, str]) -> None:
    assert parse_upstream(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example",
        "https://",
        "https://a:b",
        "https://a:99999",
        "https://a?b=c",
        "https://me:pw@a",
        "https://a:0",
        "http//a",
        "http:/a",
        "https://a b.c",
        "https://*.x",
        "https://h,i",
    ],
)
def test_anything_but_the_url_of_an_upstream_is_rejected_with_an_example(url: str) -> None:
    with pytest.raises(Failed, match="URL") as caught:
        parse_upstream(url)
    assert caught.value.code == 2


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert main(["proxy", "https://llm.example.com", "--port", f"{port}"]) == 1
    said = f"force-stream proxy: port {port} is already in use; choose another one with --port\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "rules.yaml: the rules cannot be read: No such file or directory"),
        ("rule: []", "rules.yaml:1: unknown key"),
    ],
)
def test_a_rules_file_with_a_mistake_is_named_before_anything_starts(
    text: str | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rules.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["proxy", "https://llm.example.com", "--rules", f"{path}"]) == 1
    out, err = capsys.readouterr()
    assert (out, problem in err) == ("", True)
