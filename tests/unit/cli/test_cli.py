"""The arguments of the command `force-stream`, and its help."""

import re

import force_stream
import pytest
from force_stream.cli import main


def test_the_version_is_that_of_the_package_and_names_what_it_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(
        rf"force-stream {re.escape(force_stream.__version__)} \(mitmproxy [\d.]+, Python [\d.]+\)\n",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize("name", ["proxy", "run", "aggregate", "check", "path", "install"])
def test_each_subcommand_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert re.search(rf"example:\n  .*force-stream {name}", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["prxy"], "invalid choice: 'prxy'"),
        (["path", "--", "x"], "path takes nothing after --"),
        (["run", "python", "app.py"], "put -- before the command, as in force-stream run -- python app.py"),
        (["proxy", "https://a.example", "--port", "0"], "not a port: '0'"),
        (["proxy", "https://a.example", "--ui", "gui"], "invalid choice: 'gui'"),
    ],
)
def test_wrong_arguments_are_reported_and_exit_with_two(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err
