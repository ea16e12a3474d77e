"""Streams that public reports describe, read whole and byte by byte, and each once through the addon's hooks.

They need a folder of reports (see oracle/reports.py), which FORCE_STREAM_REPORTS names, and are skipped without.
"""

import os
from pathlib import Path

import pytest
from force_stream.addon.hooks import ForceStream
from harness.master import answer_with, flow_with, run_with
from mitmproxy.test import taddons
from oracle.reports import Answer, Reported, byte_by_byte, reports_in

REPORTS_VARIABLE = "FORCE_STREAM_REPORTS"
RULES = 'rules: [{name: r, hosts: ["127.0.0.1"], force_upstream_stream: true}]\n'


@pytest.fixture(scope="module")
def reports() -> list[Reported]:
    value = os.environ.get(REPORTS_VARIABLE)
    if not value:
        pytest.skip(f"{REPORTS_VARIABLE} does not name a folder of reported streams")
    found = reports_in(Path(value))
    assert found
    return found


def test_each_reported_stream_gives_what_its_report_asks_for(reports: list[Reported]) -> None:
    sure = [one for one in reports if not one.is_unsure]
    assert {one.name: found for one in sure if (found := one.problems(one.read(one.stream)))} == {}


def test_a_reported_stream_gives_the_same_byte_by_byte(reports: list[Reported]) -> None:
    assert [one.name for one in reports if one.read(one.stream) != one.read(*byte_by_byte(one.stream))] == []


def test_the_hooks_give_what_the_report_asks_for(reports: list[Reported], tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    # A response that has arrived whole is not cut.
    played = [one for one in reports if not one.cut]
    given: dict[str, Answer] = {}

    async def play_all(ours: ForceStream, _: taddons.context) -> None:
        for one in played:
            content_type, body = one.request
            flow = flow_with(body, path=one.path, content_type=content_type)
            await ours.request(flow)
            answer_with(flow, one.stream)
            ours.responseheaders(flow)
            await ours.response(flow)
            assert flow.response is not None
            given[one.name] = Answer(flow.response.status_code, flow.response.content or b"")

    run_with(rules, play_all)
    assert {one.name: found for one in played if not one.is_unsure and (found := one.problems(given[one.name]))} == {}
