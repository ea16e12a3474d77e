"""`force-stream path`: where the addon's script is."""

import pytest
from force_stream.cli import main
from harness.paths import ADDON


def test_the_path_is_that_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path"]) == 0
    assert capsys.readouterr() == (f"{ADDON}\n", "")
