"""`force-stream report` on the flow file of a real mitmdump: nothing of a credential is left, a person sees the cause,
and the masked flows replay as what they were. FORCE_STREAM_SCREENSHOTS=docs writes docs/report.png."""

import base64
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from force_stream.proxy.request import restored
from harness import (
    Answer,
    Certs,
    CutChunk,
    Data,
    Head,
    Http1Client,
    Proxy,
    Upstream,
    document,
    event_stream,
    read_flows,
    sse,
)
from harness.browser import browse
from harness.paths import ADDON, ROOT
from harness.proxy import MITMDUMP, START_TIMEOUT
from harness.samples import CHAT, EVENTS, STREAM, request

KEY = "sk-Live+0123/456789=abcdefXYZ"
SPELLED = {
    KEY,
    quote(KEY, safe=""),
    json.dumps(KEY).replace("/", "\\/")[1:-1],
    KEY.replace("+", "\\u002b").replace("=", "\\u003d"),
    base64.b64encode(KEY.encode()).decode().rstrip("=")[:-1],
}
RULES = "rules: [{name: all, hosts: ['127.0.0.1'], force_upstream_stream: true}]"


def said(text: str) -> dict[str, Any]:
    return {"id": "a", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}


# An answer that spells the key out in pieces; one that is cut off; an error that repeats it; a compressed stream.
ECHO = sse(*[said(KEY[place : place + 4]) for place in range(0, len(KEY), 4)], *EVENTS[3:])
ERROR = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key", "type": "x"}}
ANSWERS = {
    "ok": event_stream(STREAM, size=10),
    "echo": event_stream(ECHO, size=40),
    "cut": Answer.of(Head(headers=[("set-cookie", f"session={KEY}")]), Data(sse(*EVENTS[:3], done=False)), CutChunk()),
    "error": document(ERROR, status=401),
    "gzip": event_stream(gzip.compress(ECHO), headers=[("content-encoding", "gzip")]),
}


@pytest.fixture
def flow_file(upstream: Upstream, proxy_factory: Callable[..., Proxy], tmp_path: Path) -> Path:
    """The flows of a client that has its key in every place."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    saved = tmp_path / "flows"
    options = {"force_stream_rules": rules, "connection_strategy": "lazy"}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options, flow_file=saved)
    asked = request()
    asked["messages"] = [{"role": "user", "content": f"My key is {KEY}."}]
    basic = base64.b64encode(f"me:{KEY}".encode()).decode()
    headers = [("authorization", f"Bearer {KEY}"), ("cookie", f"sid={KEY}"), ("proxy-authorization", f"Basic {basic}")]
    with Http1Client(proxy.url) as client:
        for name, answer in ANSWERS.items():
            upstream.answer(answer, key=name)
            client.post(f"{CHAT}?api_key={quote(KEY, safe='')}", asked, [("x-answer", name), *headers])
    assert proxy.stop() == 0
    assert all(KEY.encode() in repr(flow.get_state()).encode() for flow in read_flows(saved))
    return saved


def report(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-m", "force_stream.cli", "report", *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT / "lib")}
    return subprocess.run(line, capture_output=True, timeout=START_TIMEOUT, env=environment, check=False)


def aggregated(flows: Path, folder: Path, certs: Certs) -> list[str]:
    """What a mitmdump logs that aggregates the flows again, without the times."""
    options = {"confdir": certs.confdir(folder / "confdir"), "flow_detail": 0, "force_stream_aggregate": "true"}
    settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    rules = ["--set", f"force_stream_rules={folder / 'rules.yaml'}"]
    line = [str(MITMDUMP), *settings, *rules, "-n", "-r", str(flows), "-s", str(ADDON)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=START_TIMEOUT, check=True)
    logged = [re.sub(r"^\[[\d:.]+\] |, [\d.]+ s\b", "", each) for each in done.stdout.splitlines()]
    return [line for line in logged if "all: " in line or "its saved answer is left unchanged" in line]


def test_a_report_has_nothing_of_a_credential_and_its_flows_replay_as_what_they_were(
    flow_file: Path, tmp_path: Path, certs: Certs
) -> None:
    page, masked = tmp_path / "report.html", tmp_path / "masked"
    done = report(flow_file, "-o", page, "--flows", masked)
    assert (done.returncode, done.stderr) == (0, b"")
    for output in (page, masked):
        found = output.read_bytes()
        assert not [each for each in SPELLED if each.encode() in found]
        assert b"0123/456789" not in found

    before, after = read_flows(flow_file), read_flows(masked)
    assert [flow.id for flow in after] == [flow.id for flow in before]
    for flow, old in zip(after, before, strict=True):
        assert flow.response.status_code == old.response.status_code
        assert flow.request.headers["authorization"].startswith("Bearer ***1")
        assert len(flow.metadata["force_stream.sse"]) == len(old.metadata["force_stream.sse"])
        assert flow.metadata["force_stream.times"] == old.metadata["force_stream.times"]
        asked, came = restored(flow).request.raw_content, restored(old).request.raw_content
        assert json.loads(asked) == json.loads(came.replace(KEY.encode(), f"***1{(len(KEY) - 4) * '*'}".encode()))
    # What was spelled out in pieces is not there when they are joined.
    joined = json.loads(after[1].response.raw_content)["choices"][0]["message"]["content"]
    assert re.match(r"\*{3}1\*+", joined)

    lines = aggregated(masked, tmp_path, certs)
    assert len(lines) == len(ANSWERS)
    hidden = re.compile(r"\*{3}1\**")
    assert [hidden.sub("KEY", line) for line in lines] == [
        line.replace(KEY, "KEY") for line in aggregated(flow_file, tmp_path, certs)
    ]


def test_a_person_sees_the_cause_first(flow_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert report(flow_file, "-o", page).returncode == 0
    with browse(tmp_path / "profile") as browser:
        browser("goto", page.as_uri())
        summaries = browser("evaluate", "[...document.querySelectorAll('.flow > summary')].map(each => each.innerText)")
        assert len(summaries) == len(ANSWERS)
        assert sorted(summary[:3] for summary in summaries[:2]) == ["401", "502"]
        cut = next(number for number, summary in enumerate(summaries) if summary.startswith("502"))
        assert "cut off after event 3" in summaries[cut]
        browser("evaluate", f"document.querySelectorAll('.flow > summary')[{cut}].click()")
        shown = browser("evaluate", f"document.querySelectorAll('.flow')[{cut}].innerText")
        assert "Hel" in shown
        assert browser("evaluate", f"document.querySelectorAll('.flow')[{cut}].querySelectorAll('svg').length") == 1
        browser.picture("report.png")
        for width in (390, 1120):
            browser("resize", width, 900)
            browser("evaluate", "document.querySelectorAll('details').forEach(each => { each.open = true })")
            assert browser("evaluate", "document.documentElement.scrollWidth") <= width
        assert browser("complaints") == []
        assert browser("requests") == [page.as_uri()]
