"""`force-stream report`: which files it reads and writes, and what it says."""

import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from force_stream.cli import main, report
from harness.samples import STREAM
from mitmproxy import http
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test import tflow

KEY = "sk-live-0123456789abcdefghij"


def flow(status: int = 200, **request: str) -> http.HTTPFlow:
    made = tflow.tflow()
    made.request = http.Request.make(
        "POST", "https://llm.example.com/v1/chat/completions", b'{"model":"m"}', {"authorization": f"Bearer {KEY}"}
    )
    made.response = http.Response.make(status, STREAM, {"content-type": "text/event-stream"})
    return made


def written(*flows: object) -> bytes:
    file = io.BytesIO()
    for each in flows:
        FlowWriter(file).add(each)
    return file.getvalue()


@pytest.fixture(autouse=True)
def in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_page_has_the_name_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("flows").write_bytes(written(flow(), flow(502), tflow.ttcpflow()))
    assert main(["report", "flows"]) == 0
    assert capsys.readouterr() == ("flows.html: 2 flows, 1 failed, 1 not HTTP and left out\n", "")
    page = Path("flows.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert page.index("502") < page.index("<h2>Whole") < page.index(">200<")
    assert KEY not in page


def test_a_page_that_exists_is_replaced_only_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("flows").write_bytes(written(flow()))
    Path("flows.html").write_text("mine")
    assert main(["report", "flows"]) == 1
    assert capsys.readouterr().err == "force-stream report: flows.html exists; -o flows.html replaces it\n"
    assert Path("flows.html").read_text() == "mine"
    assert main(["report", "flows", "-o", "flows.html"]) == 0
    assert Path("flows.html").read_text() != "mine"


def test_the_masked_flows_are_written_to_a_flow_file() -> None:
    Path("flows").write_bytes(written(flow(), tflow.ttcpflow(), flow(404)))
    assert main(["report", "flows", "-o", "page.html", "--flows", "masked"]) == 0
    with open("masked", "rb") as file:
        read = list(FlowReader(file).stream())
    assert [each.response.status_code for each in read if isinstance(each, http.HTTPFlow) and each.response] == [
        200,
        404,
    ]
    assert KEY.encode() not in Path("masked").read_bytes()
    assert isinstance(read[0], http.HTTPFlow)
    assert read[0].response is not None
    assert read[0].response.raw_content == STREAM


def test_stdin_and_stdout(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written(flow()))))
    assert main(["report", "-"]) == 0
    out, said = capfdbinary.readouterr()
    assert out.startswith(b"<!doctype html>")
    assert said == b""
    assert os.listdir() == []


@pytest.mark.skipif(os.name == "nt", reason="no named pipes in folders")
def test_a_pipe_is_read_once() -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=[written(flow())])
    writer.start()
    assert main(["report", "pipe", "-o", "page.html"]) == 0
    writer.join()
    assert "finish stop" in Path("page.html").read_text()


def test_a_har_file_is_read_too() -> None:
    headers = [{"name": "Authorization", "value": f"Bearer {KEY}"}]
    asked = {"method": "POST", "url": f"https://llm.example.com/v1/models?key={KEY}", "httpVersion": "HTTP/1.1"}
    content = {"mimeType": "application/json", "text": json.dumps({"echo": KEY}), "size": 1}
    answer = {"status": 200, "statusText": "OK", "httpVersion": "HTTP/1.1", "headers": [], "content": content}
    entry = {
        "startedDateTime": "2026-01-01T00:00:00.000Z",
        "time": 1000,
        "request": {**asked, "headers": headers, "cookies": [], "headersSize": 0, "bodySize": 0},
        "response": {**answer, "cookies": [], "redirectURL": "", "headersSize": 0, "bodySize": 0},
        "timings": {"send": 1, "receive": 1, "wait": 1, "connect": 1, "ssl": 1},
    }
    Path("a.har").write_text(json.dumps({"log": {"entries": [entry]}}))
    assert main(["report", "a.har"]) == 0
    page = Path("a.har.html").read_text()
    assert "llm.example.com" in page
    assert KEY not in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "flows: there are no flows in it"),
        (b"garbage", "flows: not a flow file of this mitmproxy; mitmdump -w FLOWS writes one"),
        (STREAM, "flows: an event stream, not a flow file; force-stream aggregate reads it"),
        (b'{"error": 1}', "flows: not a flow file of this mitmproxy; mitmdump -w FLOWS writes one"),
        (written(flow())[:1000], "flows: not a flow file of this mitmproxy; mitmdump -w FLOWS writes one"),
        (None, "flows: No such file or directory"),
    ],
)
def test_what_is_not_a_flow_file_gets_one_line_and_no_page(
    content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("flows").write_bytes(content)
    assert main(["report", "flows"]) == 1
    assert capsys.readouterr() == ("", f"force-stream report: {said}\n")
    assert not Path("flows.html").exists()


def test_a_file_of_another_version_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("flows").write_bytes(written(flow()).replace(b"7:version;2:21#", b"7:version;2:99#"))
    if main(["report", "flows"]) == 0:
        pytest.skip("this mitmproxy writes another version")
    assert "version" in capsys.readouterr().err


def test_a_file_that_was_cut_off_gives_what_comes_before(capsys: pytest.CaptureFixture[str]) -> None:
    Path("flows").write_bytes(written(flow(), flow())[:-100])
    assert main(["report", "flows"]) == 1
    out, said = capsys.readouterr()
    assert out == "flows.html: 1 flow, the file is damaged or cut off after these\n"
    assert said == "force-stream report: flows: damaged or cut off after 1 flow; the report has what comes before\n"
    assert "the file is damaged" in Path("flows.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [["-o", "flows"], ["--flows", "./flows"], ["-o", "a", "--flows", "a"], ["-o", "-", "--flows", "-"]],
)
def test_what_is_read_and_what_is_written_are_different_files(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(flow())
    Path("flows").write_bytes(before)
    assert main(["report", "flows", *arguments]) == 1
    assert "must be different files" in capsys.readouterr().err
    assert Path("flows").read_bytes() == before


def test_masked_flows_on_stdout_are_a_flow_file(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    Path("flows").write_bytes(written(flow()))
    assert main(["report", "flows", "--flows", "-"]) == 0
    out, _ = capfdbinary.readouterr()
    assert len(list(FlowReader(io.BytesIO(out)).stream())) == 1


def test_a_page_that_cannot_be_written_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("flows").write_bytes(written(flow()))
    assert main(["report", "flows", "-o", "nowhere/page.html"]) == 1
    assert capsys.readouterr().err == "force-stream report: nowhere/page.html: No such file or directory\n"


def test_a_flow_that_cannot_be_masked_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    edited = flow()
    edited.comment = "edited by somebody"
    edited.metadata = {"client_conn": 1, "server_conn": 2}
    Path("flows").write_bytes(written(edited, flow()))
    assert main(["report", "flows", "--flows", "masked"]) == 0
    assert capsys.readouterr().out == "flows.html: 1 flow, 1 unreadable and left out\n"
    assert b"edited by somebody" not in Path("masked").read_bytes()


def test_of_very_many_flows_those_that_failed_come_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "SHOWN", 2)
    Path("flows").write_bytes(written(*[flow()] * 3, *[flow(500)] * 3))
    assert main(["report", "flows"]) == 0
    assert capsys.readouterr().out == "flows.html: 6 flows, 3 failed, 2 too many to be shown\n"
    assert Path("flows.html").read_text().count('<details class="flow"') == 4
