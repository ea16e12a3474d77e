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
