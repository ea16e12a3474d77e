"""The timeline: events that are skipped because they are like those before them change nothing of what is shown."""

import os
import random
from pathlib import Path

import pytest
from force_stream.view import timeline
from force_stream.view.timeline import Timeline
from harness import sse
from harness.golden import CASES
from harness.samples import choice, chunk
from hypothesis import given
from hypothesis import strategies as st


def times_of(body: bytes, seed: int) -> list[float]:
    """Pieces of any size, some after a long silence."""
    choose = random.Random(seed)
    times: list[float] = []
    size, seconds = 0, 0.1
    while size < len(body):
        size = min(len(body), size + choose.choice((200, 1000, 5000)))
        seconds += choose.choice((0.0, 0.001, 0.03, 0.03, 0.03, 0.03, 0.03, 1.5))
        times += [seconds, size]
    return times


def same_without_skipping(body: bytes, times: list[float]) -> Timeline:
    read = timeline.read(body, times)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "_MOST_IN_VAIN", 0)
        parsed = timeline.read(body, times)
    assert read.looked_at <= parsed.looked_at
    read.looked_at = parsed.looked_at
    assert read == parsed
    return read


def test_of_golden_streams() -> None:
    for case in CASES:
        same_without_skipping(case.stream, times_of(case.stream, len(case.stream)))


def test_of_recorded_streams(streams_dir: Path) -> None:
    files = sorted((streams_dir / "events").glob("*.sse"))
    assert files
    if os.environ.get("HYPOTHESIS_PROFILE") != "thorough":
        files = files[::3]
    for file in files:
        body = file.read_bytes()
        same_without_skipping(body, times_of(body, len(body)))


TEXTS = st.sampled_from(["a", "lo", ' "quoted" \\ ', "ü", "\n", "\u202e", "", "\ufffd"])
CHUNKS = st.one_of(
    st.builds(lambda text: chunk(choice(content=text)), TEXTS),
    st.builds(lambda text: chunk(choice(content=text), obfuscation="x" * len(text)), TEXTS),
    st.builds(lambda text: chunk(choice(reasoning_content=text)), TEXTS),
    st.builds(lambda text: chunk(choice(1, content=text)), TEXTS),
    st.builds(lambda text: {"type": "response.output_text.delta", "delta": text}, TEXTS),
    st.just(chunk(choice(finish_reason="stop"))),
    st.just({"type": "ping"}),
)
RUNS = st.lists(st.tuples(CHUNKS, st.integers(1, 15)), max_size=12)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(RUNS, ENDS, st.integers(0, 1000), st.booleans())
def test_of_any_stream(runs: list[tuple[dict[str, object], int]], end: bytes, seed: int, keep_alive: bool) -> None:
    body = sse(*(one for one, count in runs for _ in range(count)))
    if keep_alive:
        body = body.replace(b"lo", b"lo", 1).replace(b"\n\n", b"\n\n: alive\n\n", 3)
    body = body.replace(b"\n", end)
    same_without_skipping(body, times_of(body, seed))
