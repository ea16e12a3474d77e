"""`force-stream aggregate`: the document of each file, and what was odd about it."""

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from force_stream.__main__ import main as module_main
from force_stream.cli import aggregate, main
from harness.paths import ROOT
from harness.samples import DOCUMENT, STREAM
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

CUT = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
RESPONSES = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n'


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "stream.sse"


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


def test_a_dash_is_stdin_among_files(
    written: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write_bytes(STREAM)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(CUT)))
    assert main(["aggregate", "--on-truncated", "partial", f"{written}", "-"]) == 0
    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert first == DOCUMENT
    assert second["choices"][0] == {"message": {"content": "Hi"}, "finish_reason": "length"} | second["choices"][0]


def test_a_pretty_document_has_a_line_for_each_value(written: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written.write_bytes(STREAM)
    assert main(["aggregate", "--pretty", f"{written}"]) == 0
    out = capfd.readouterr().out
    assert json.loads(out) == DOCUMENT
    assert out.startswith('{\n  "id": "chatcmpl-1",\n')


@pytest.mark.parametrize("command", [module_main, lambda words: main(["aggregate", *words])], ids=["module", "command"])
def test_verbose_prints_the_timeline_with_what_was_odd_once(
    command, written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written.write_bytes(CUT)
    assert command(["-v", f"{written}"]) == 1
    said = capfd.readouterr().err
    cause, error, *_, event = said.splitlines()[:-1]
    assert cause == "cut off after event 1 (the upstream ended it)"
    assert error == "an error: the client would get status 502"
    assert event.endswith('"Hi"')
    assert said.count("no [DONE]") == 1


def test_quirks_are_allowed_for(capfd: pytest.CaptureFixture[str]) -> None:
    stream = next((ROOT / "tests/golden/quirks/tool_calls_keep_index").glob("chat_*.sse"))
    documents = []
    for words in ([], ["--quirks", "tool_calls_keep_index"]):
        assert main(["aggregate", *words, f"{stream}"]) == 0
        documents.append(json.loads(capfd.readouterr().out))
    assert documents[0] != documents[1] == json.loads(stream.with_suffix(".json").read_bytes())


def test_an_unknown_quirk_is_an_argument_that_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["aggregate", "--quirks", "tool_calls_keep_index,none"])
    assert ended.value.code == 2
    assert "unknown quirk 'none'; known are " in capfd.readouterr().err


def flows() -> bytes:
    file = io.BytesIO()
    FlowWriter(file).add(tflow.tflow(resp=True))
    return file.getvalue()


HAR = b'\xef\xbb\xbf{\n  "log": {"version": "1.2", "entries": []}}'
OTHER_FILES = {
    "flows": (flows(), "this is a mitmproxy flow file; use mitmdump -n -r {name} -s "),
    "flows, compressed": (gzip.compress(flows()), "this is a mitmproxy flow file; use mitmdump -n -r {name} -s "),
    "HAR": (HAR, "this is a HAR file; use mitmdump -n -r {name} -s "),
    "zstd": (b"\x28\xb5\x2f\xfd...", "it is compressed with zstd; decompress it first"),
    "broken gzip": (gzip.compress(STREAM)[:12] + b"\xff" * 30, "it is compressed with gzip, but broken or empty"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_of_another_kind_is_refused_with_what_to_do(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body, said = OTHER_FILES[kind]
    path = tmp_path / "my flows"
    path.write_bytes(body)
    assert main(["aggregate", f"{path}"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"{path}: " + said.format(name=f"'{path}'"))


def test_a_stream_is_never_taken_for_a_file_of_another_kind(written: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written.write_bytes(b'{"log": "12:3:", "id": 1.50}')
    assert main(["aggregate", f"{written}"]) == 0
    assert capfd.readouterr().out == '{"log": "12:3:", "id": 1.50}\n'


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(STREAM),
        gzip.compress(STREAM[:200]) + gzip.compress(STREAM[200:]),
        gzip.compress(STREAM + b":" * 99 + b"\n", compresslevel=0)[:-60],
    ],
    ids=["whole", "in two members", "cut off"],
)
def test_a_compressed_stream_is_decompressed(packed: bytes, written: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written.write_bytes(packed)
    assert main(["aggregate", f"{written}"]) == 0
    assert json.loads(capfd.readouterr().out) == DOCUMENT


def test_one_that_grows_without_bound_is_refused(
    written: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregate, "_MOST_DECODED", 1 << 20)
    written.write_bytes(gzip.compress(b" " * (1 << 21)))
    assert main(["aggregate", f"{written}"]) == 2
    assert "it decompresses to more than " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("endpoint", "stream", "said"),
    [
        ("chat", RESPONSES, "these are events of the Responses API: add --endpoint responses"),
        ("responses", STREAM, "these are events of the Chat API: add --endpoint chat"),
        ("chat", b'data: {"candidates":[]}\n\n', ""),
        ("chat", b"<html>Please log in</html>", ""),
    ],
)
def test_events_of_another_api_are_named_with_the_argument_for_them(
    endpoint: str, stream: bytes, said: str, written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written.write_bytes(stream)
    assert main(["aggregate", "--endpoint", endpoint, f"{written}"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("these are")] == ([said] if said else [])
