"""Streams recorded from real upstreams, each through the addon, judged by an independent reading of the events.

All of them go through the addon's hooks; some through one real mitmdump too, in writes of odd sizes, which must give
the same. They need a folder of recordings (see conftest.py) and are skipped without.
"""

import itertools
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from force_stream.addon.hooks import ForceStream
from harness import Http1Client, Proxy, Upstream, event_stream
from harness.master import answer_with, flow_with, run_with
from harness.paths import ADDON
from mitmproxy.test import taddons
from oracle import independent
from oracle.recordings import Recording, recordings_in

RULES = 'rules: [{name: recorded, hosts: ["127.0.0.1"], force_upstream_stream: true}]\n'
THREADS = 6
# Bytes a write: what the network may do to a stream.
SIZES = (1000, 97, 1448, 11)
ASKS_FOR_STREAM = re.compile(rb'^{"stream":true|name="stream"\r\n\r\ntrue')
TRANSCRIPTS = {
    "audio-openai-streams-segments-labelled-with-speakers-47ce3c": {
        "text": "Ruby is a programming language designed for developer happiness.",
        "usage": {
            "type": "tokens",
            "total_tokens": 182,
            "input_tokens": 37,
            "input_token_details": {"text_tokens": 0, "audio_tokens": 37},
            "output_tokens": 145,
        },
        "speakers": "A",
        "ends": [3.25],
    },
    "audio-openai-diarizedtranscriptionworks-usingfilepath-eada2c": {
        "text": "Thanks for calling OpenAI Support. Hi, I'm trying to enable diarization. "
        "Happy to walk you through the steps.",
        "usage": {
            "type": "tokens",
            "total_tokens": 289,
            "input_tokens": 64,
            "input_token_details": {"text_tokens": 0, "audio_tokens": 64},
            "output_tokens": 225,
        },
        "speakers": "ABA",
        "ends": [1.3, 3.7, 5.8],
    },
    "audio-openai-ngdiarizedtranscriptionworks-usingstream-e30370": {
        "text": "Thanks for calling OpenAI Support. Hi, I'm trying to enable diarization. "
        "Happy to walk you through the steps.",
        "usage": {
            "type": "tokens",
            "total_tokens": 288,
            "input_tokens": 64,
            "input_token_details": {"text_tokens": 0, "audio_tokens": 64},
            "output_tokens": 224,
        },
        "speakers": "ABA",
        "ends": [1.2500000000000002, 3.6499999999999995, 5.799999999999999],
    },
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="  # 1 by 1
IMAGE = {
    "created": 1719946520,
    "data": [{"b64_json": PIXEL}],
    "size": "1024x1024",
    "quality": "low",
    "background": "opaque",
    "output_format": "png",
    "usage": {
        "total_tokens": 100,
        "input_tokens": 50,
        "output_tokens": 50,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    },
}


@dataclass(frozen=True)
class Given:
    """What the client gets of an answer."""

    status: int | None
    content_type: str | None
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def recordings(streams_dir: Path) -> list[Recording]:
    return recordings_in(streams_dir)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture(scope="module")
def answers(recordings: list[Recording], rules: Path) -> dict[str, Given]:
    """What the hooks make of each recording."""
    given: dict[str, Given] = {}

    async def read_all(ours: ForceStream, _: taddons.context) -> None:
        for one in recordings:
            content_type, body = one.body
            flow = flow_with(body, path=one.path, content_type=content_type)
            await ours.request(flow)
            assert ASKS_FOR_STREAM.search(flow.request.content or b""), f"{one.id} was to be forced"
            answer_with(flow, one.stream, one.content_type, one.status)
            ours.responseheaders(flow)
            await ours.response(flow)
            assert flow.response is not None
            label = flow.response.headers.get("content-type")
            given[one.id] = Given(flow.response.status_code, label, flow.response.content or b"")

    run_with(rules, read_all)
    return given


def differences(recording: Recording, answer: Given) -> list[str]:
    """Where the client's answer is not what the upstream's events say, in words."""
    said = [] if answer.content_type == "application/json" else [f"labelled {answer.content_type}"]
    try:
        document = independent.parse(answer.body)
    except ValueError as error:
        return [*said, f"no JSON: {error}"]
    status = answer.status or 0
    return said + independent.judge(recording.kind, recording.stream, status, document, recording.request)


def report(title: str, wrong: dict[str, list[str]], count: int) -> str:
    lines = [f"{name}\n    " + "\n    ".join(said[:5]) for name, said in wrong.items()]
    return "\n".join([f"{count - len(wrong)} of {count} {title}", *lines])


def test_every_recording_becomes_the_document_its_events_say(
    recordings: list[Recording], answers: dict[str, Given], capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [one for one in recordings if one.kind in independent.KINDS]
    found = {one.id: differences(one, answers[one.id]) for one in judged}
    wrong = {name: said for name, said in found.items() if said}
    with capsys.disabled():
        print(f"\n{report('recordings right', wrong, len(judged))}")
    assert len(judged) > 1000
    assert not wrong, report("recordings right", wrong, len(judged))


def test_answers_have_the_shape_of_the_direct_ones(
    recordings: list[Recording], answers: dict[str, Given], capsys: pytest.CaptureFixture[str]
) -> None:
    paired = [
        one
        for one in recordings
        if one.kind in independent.KINDS and answers[one.id].status == 200 and one.direct is not None
    ]
    wrong = {one.id: said for one in paired if (said := unlike(one, answers[one.id].json()))}
    with capsys.disabled():
        print(f"\n{report('answers in the shape of the direct ones', wrong, len(paired))}")
    assert len(paired) > 500
    assert not wrong, report("answers in the shape of the direct ones", wrong, len(paired))


def unlike(recording: Recording, ours: Any) -> list[str]:
    direct = recording.direct
    missing = independent.missing_keys(recording.entry["provider"], ours, direct, recording.stream)
    return missing + independent.other_types(ours, direct)


def test_a_real_mitmdump_gives_the_same_of_writes_of_any_size(
    recordings: list[Recording],
    answers: dict[str, Given],
    rules: Path,
    upstream: Upstream,
    proxy_factory: Callable[..., Proxy],
) -> None:
    # Ten-byte writes of half a megabyte would test nothing more, only longer.
    sized = zip(recordings[::7], itertools.cycle(SIZES), strict=False)
    sample = [(one, size) for one, size in sized if len(one.stream) < 2000 * size]
    options = {"force_stream_rules": rules, "connection_strategy": "lazy"}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options)

    def ask(wanted: tuple[Recording, int]) -> Given:
        one, size = wanted
        answer = event_stream(one.stream, size=size, status=one.status, content_type=one.content_type)
        upstream.answer(answer, key=one.id)
        content_type, body = one.body
        with Http1Client(proxy.url) as client:
            response = client.request("POST", one.path, [("Content-Type", content_type), ("x-answer", one.id)], body)
        assert response.complete, one.id
        return Given(response.status, response.header("content-type"), response.body)

    with ThreadPoolExecutor(THREADS) as pool:
        got = list(pool.map(ask, sample))
    differ = [(one.id, size) for (one, size), given in zip(sample, got, strict=True) if given != answers[one.id]]
    assert len(sample) > 100
    assert differ == []
    plain = [request.path for request in upstream.requests if not ASKS_FOR_STREAM.search(request.body)]
    assert plain == [], "every request was to be forced"


def test_recorded_transcriptions_are_read(recordings: list[Recording], answers: dict[str, Given]) -> None:
    transcripts = {one.id: answers[one.id].json() for one in recordings if one.kind == "audio"}
    assert transcripts.keys() == TRANSCRIPTS.keys()
    for name, document in transcripts.items():
        expected = TRANSCRIPTS[name]
        assert document["text"] == expected["text"]
        assert document["usage"] == expected["usage"]
        assert "".join(segment["speaker"] for segment in document["segments"]) == expected["speakers"]
        assert [segment["end"] for segment in document["segments"]] == expected["ends"]
        assert " ".join(segment["text"].strip() for segment in document["segments"]) == expected["text"]
        assert document["task"] == "transcribe"
        assert document.keys() == {"task", "text", "usage", "segments"}


def test_a_recorded_image_is_read(recordings: list[Recording], answers: dict[str, Given]) -> None:
    images = [json.loads(answers[one.id].body) for one in recordings if one.kind == "images"]
    assert images == [IMAGE]
