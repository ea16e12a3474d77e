"""`force-stream aggregate`: the document of each file, and what was odd about it."""

import json
from pathlib import Path

import pytest
from force_stream.cli import main
from harness.samples import DOCUMENT, STREAM


def test_the_document_of_each_file_is_printed(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    whole, cut = tmp_path / "whole.sse", tmp_path / "cut.sse"
    whole.write_bytes(STREAM)
    cut.write_bytes(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n')
    assert main(["aggregate", f"{whole}", f"{cut}"]) == 1
    out, said = (text.decode() for text in capfdbinary.readouterr())
    first, second = map(json.loads, out.splitlines())
    assert (first, second["error"]["code"]) == (DOCUMENT, "stream_truncated")
    assert said.splitlines()[-1] == f"{cut}: an error: the client would get status 502"
    assert all(line.startswith(f"{cut}: ") for line in said.splitlines())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "whole.sse").write_bytes(STREAM)
    assert main(["aggregate", f"{tmp_path / 'none.sse'}", f"{tmp_path / 'whole.sse'}"]) == 2
    out, said = capfd.readouterr()
    assert json.loads(out) == DOCUMENT
    assert said == f"{tmp_path / 'none.sse'}: No such file or directory\n"
