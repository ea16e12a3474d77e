"""The addon's script in mitmproxy's config.yaml, and out of it again."""

import sys
from pathlib import Path

import pytest
from force_stream.cli import main
from harness.paths import ROOT
from ruamel.yaml import YAML

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links and modes")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# My own settings, for later.\n# scripts:\n",
        '# Mine.\nscripts:\n  - "/opt/other.py"   # stays\n  # so does this\n\nshowhost: true  # and this\n',
        "scripts: &mine\n- /opt/other.py",
        "showhost: true\r\nscripts:\r\n- /opt/other.py\r\n",
    ],
    ids=["nothing", "comments alone", "comments between", "an anchor, no line end", "CRLF"],
)
def test_install_adds_the_script_once_and_remove_leaves_the_file_as_it_was(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(text.encode())
    arguments = ["install", "--confdir", str(tmp_path)]
    for _ in range(2):
        assert main(arguments) == 0
        found = YAML().load(config.read_bytes())["scripts"]
        assert list(found) == [*(["/opt/other.py"] if "/opt" in text else []), str(ROOT / "addon.py")]
    assert main([*arguments, "--remove"]) == 0
    assert config.read_bytes().decode().rstrip("\r\n") == text.rstrip("\r\n")


def test_remove_says_that_there_is_nothing_to_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--remove", "--confdir", str(tmp_path)]) == 0
    assert "it does not load the addon" in capsys.readouterr().out


@pytest.mark.parametrize("empty", ["scripts:\n", "scripts: []\n", "scripts: null  # none\n"])
def test_an_empty_list_of_scripts_takes_the_script(empty: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(empty, encoding="utf-8")
    assert main(["install", "--confdir", str(tmp_path)]) == 0
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert list(YAML().load(text)["scripts"]) == [str(ROOT / "addon.py")]
    assert ("# none" in text) == ("# none" in empty)


@POSIX
def test_a_configuration_that_is_a_link_stays_one_and_keeps_its_mode(tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles" / "mitmproxy.yaml"
    kept.parent.mkdir()
    kept.write_text("scripts:\n", encoding="utf-8")
    kept.chmod(0o600)
    (tmp_path / "config.yaml").symlink_to(kept)
    assert main(["install", "--confdir", str(tmp_path)]) == 0
    assert (tmp_path / "config.yaml").is_symlink()
    assert str(ROOT / "addon.py") in kept.read_text(encoding="utf-8")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_script_of_another_environment_is_replaced(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("scripts:\n- /old/site-packages/force_stream/script/addon.py\n", encoding="utf-8")
    assert main(["install", "--confdir", str(tmp_path)]) == 0
    assert "/old/" not in config.read_text()
    assert str(ROOT / "addon.py") in config.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "scripts: [",
        "- a\n",
        "scripts: addon.py\n",
        "scripts: [/opt/other.py]\n",
        "{showhost: true}\n",
        "showhost: true\n...\n",
        b"\xff",
    ],
)
def test_a_configuration_that_cannot_be_changed_safely_stays_as_it_is(
    text: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    content = text if isinstance(text, bytes) else text.encode()
    config.write_bytes(content)
    assert main(["install", "--confdir", str(tmp_path)]) == 1
    assert config.read_bytes() == content
    assert "nothing was changed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["scripts: [{}, /opt/other.py]\n", "{{showhost: true, scripts: [{}]}}\n"])
def test_what_would_be_removed_with_the_script_stays(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content := text.format(ROOT / "addon.py"), encoding="utf-8")
    assert main(["install", "--remove", "--confdir", str(tmp_path)]) == 1
    assert f"remove {ROOT / 'addon.py'} by hand" in capsys.readouterr().err
    assert config.read_text(encoding="utf-8") == content
