"""`force-stream check`: every mistake in a rules file, or what its rules do."""

from pathlib import Path

import pytest
from force_stream.cli import main


@pytest.fixture(autouse=True)
def in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_mistake_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules.yaml").write_text("rules:\n- {name: a, hosts: [x], timeout: -1}\n- {nmae: b, hosts: [x]}\n")
    assert main(["check"]) == 1
    out, said = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[2][:1] for line in said.splitlines()] == ["2", "3", "3"]


def test_each_rule_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(
        "rules:\n- {name: a, hosts: [x], force_upstream_stream: true, retries: 2}\n- {name: b, hosts: [y]}\n"
    )
    assert main(["check", "mine.yaml"]) == 0
    assert capsys.readouterr() == ("a: force on; hosts x; retries 2\nb: force off; hosts y\n", "")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            "force_upstream_stream: true, keep_answers: 300",
            "when an application gives up, its answer is read to its end (an hour at most) and kept for 300 s, for the "
            "very same request",
        ),
        (
            "learn: true, keep_answers: 0.5, timeout: 90",
            "when an application gives up, its answer is read to its end (within 90 s) and kept for 0.5 s, for the "
            "very same request",
        ),
        ("cors: true, keep_answers: 300", "keep_answers does nothing here: the rule does not force anything"),
        (
            "guard_streams: true, heartbeat: 15",
            "a stream that an application asks for itself gets an error event where it has no end, and heartbeats "
            "after 15 s of silence",
        ),
        (
            "cors: true",
            "web pages may read what comes from these hosts, at every path: applications and browser extensions",
        ),
        (
            "cors: [app://obsidian.md, null]",
            "web pages may read what comes from these hosts, at every path: app://obsidian.md, null",
        ),
    ],
)
def test_keys_are_put_in_words_whose_values_do_not_say_what_they_do(
    keys: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules.yaml").write_text(f"rules:\n- {{name: a, hosts: [x], {keys}}}\n")
    assert main(["check"]) == 0
    said, warned = capsys.readouterr()
    assert f"  {words}" in said.splitlines()
    assert warned == ""


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (b"rules: []\n", 0, "rules.yaml: no rule forces anything"),
        (None, 1, "force-stream check: rules.yaml: the rules cannot be read: No such file or directory"),
        (b"\xff", 1, "force-stream check: rules.yaml: the rules cannot be read: it is not UTF-8"),
    ],
)
def test_a_file_without_rules_gets_one_line(
    text: bytes | None, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "rules.yaml").write_bytes(text)
    assert main(["check"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1
