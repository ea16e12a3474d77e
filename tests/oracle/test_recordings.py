"""Streams recorded from real upstreams, each through one real mitmdump, judged by an independent reading of the events.

They need a folder of recordings (see conftest.py) and are skipped without.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import Certs, Http1Client, Proxy, Response, Upstream, event_stream
from harness.paths import ADDON
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

type Ask = Callable[[Iterable[tuple[Recording, int | None]]], list[Response]]


@pytest.fixture(scope="module")
def recordings(streams_dir: Path) -> list[Recording]:
    return recordings_in(streams_dir)


@pytest.fixture(scope="module")
def ask(streams_dir: Path, certs: Certs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Sends recorded requests, each answered with its recording in writes of a size, and returns the answers."""
    rules = tmp_path_factory.mktemp("recorded") / "rules.yaml"
    rules.write_text(RULES)
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream(certs))
        options = {"force_stream_rules": rules, "connection_strategy": "lazy"}
        proxy = stack.enter_context(Proxy(f"reverse:{upstream.url()}", certs=certs, scripts=[ADDON], options=options))
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))

        def ask_one(wanted: tuple[int, tuple[Recording, int | None]]) -> Response:
            number, (recording, size) = wanted
            answer = event_stream(
                recording.stream, size=size, status=recording.status, content_type=recording.content_type
            )
            upstream.answer(answer, key=str(number))
            content_type, body = recording.body
            headers = [("Content-Type", content_type), ("x-answer", str(number))]
            with Http1Client(proxy.url) as client:
                return client.request("POST", recording.path, headers, body)

        yield lambda wanted: list(pool.map(ask_one, enumerate(wanted)))
        assert upstream.errors == []
        plain = [request.path for request in upstream.requests if not ASKS_FOR_STREAM.search(request.body)]
        assert plain == [], "every request was to be forced"


@pytest.fixture(scope="module")
def answers(recordings: list[Recording], ask: Ask) -> dict[str, Response]:
    return dict(zip((one.id for one in recordings), ask((one, None) for one in recordings), strict=True))


def differences(recording: Recording, response: Response) -> list[str]:
    """Where the client's answer is not what the upstream's events say, in words."""
    said = [f"the answer ended {response.ended}"] if not response.complete else []
    if response.header("content-type") != "application/json":
        said.append(f"labelled {response.header('content-type')}")
    try:
        document = independent.parse(response.body)
    except ValueError as error:
        return [*said, f"no JSON: {error}"]
    status = response.status or 0
    return said + independent.judge(recording.kind, recording.stream, status, document, recording.request)


def report(title: str, wrong: dict[str, list[str]], count: int) -> str:
    lines = [f"{name}\n    " + "\n    ".join(said[:5]) for name, said in wrong.items()]
    return "\n".join([f"{count - len(wrong)} of {count} {title}", *lines])


def test_every_recording_becomes_the_document_its_events_say(
    recordings: list[Recording], answers: dict[str, Response], capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [one for one in recordings if one.kind in independent.KINDS]
    found = {one.id: differences(one, answers[one.id]) for one in judged}
    wrong = {name: said for name, said in found.items() if said}
    with capsys.disabled():
        print(f"\n{report('recordings right', wrong, len(judged))}")
    assert len(judged) > 1000
    assert not wrong, report("recordings right", wrong, len(judged))


def test_answers_have_the_shape_of_the_direct_ones(
    recordings: list[Recording], answers: dict[str, Response], capsys: pytest.CaptureFixture[str]
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


def test_writes_of_any_size_give_the_same(recordings: list[Recording], answers: dict[str, Response], ask: Ask) -> None:
    # Ten-byte writes of half a megabyte would test nothing more, only longer.
    sizes = itertools.cycle(SIZES)
    sample = [(one, size) for one, size in zip(recordings[::7], sizes, strict=False) if len(one.stream) < 2000 * size]
    again = ask(sample)
    differ = [
        (one.id, size)
        for (one, size), response in zip(sample, again, strict=True)
        if comparable(response) != comparable(answers[one.id])
    ]
    assert len(sample) > 100
    assert differ == []


def comparable(response: Response) -> tuple[int | None, bytes]:
    return response.status, response.body


def test_recorded_transcriptions_are_read(recordings: list[Recording], answers: dict[str, Response]) -> None:
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


def test_a_recorded_image_is_read(recordings: list[Recording], answers: dict[str, Response]) -> None:
    images = [json.loads(answers[one.id].body) for one in recordings if one.kind == "images"]
    assert images == [IMAGE]
