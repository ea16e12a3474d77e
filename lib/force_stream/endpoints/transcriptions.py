"""Audio transcriptions: from `transcript.text.*` events to the transcription a plain request gets.

Knows those events; must not know bytes, HTTP or server-sent events.
https://platform.openai.com/docs/api-reference/audio/transcript-text-done-event
"""

from typing import Any, Final

from ..errors import IncompleteStream
from ..merge.fields import CHANGED, SAME, Slots
from .endpoint import Aggregated, Aggregator, Endpoint, Request


class TranscriptionsAggregator(Aggregator):
    """Merges the events of one transcription: the last has the whole text, diarized ones send segments before."""

    def __init__(self, expected_choices: int = 1) -> None:
        self._deltas: list[str] = []
        self._logprobs: list[Any] = []
        self._segments: list[dict[str, Any]] = []
        self._done: dict[str, Any] = {}

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        kind = chunk.get("type") or event
        if self.ended:
            return SAME
        if kind == "transcript.text.delta":
            delta, logprobs = chunk.get("delta"), chunk.get("logprobs")
            if isinstance(delta, str):
                self._deltas.append(delta)
            if isinstance(logprobs, list):
                self._logprobs += logprobs
        elif kind == "transcript.text.segment":
            self._segments.append({key: value for key, value in chunk.items() if key != "obfuscation"})
        elif kind == "transcript.text.done":
            self._done = {key: value for key, value in chunk.items() if key not in ("type", "obfuscation")}
            self.ended = self.finished = True
        return CHANGED  # these events are few

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        if not (self.ended or partial):
            raise IncompleteStream("the upstream's event stream stopped before its last event")
        document = dict(self._done)
        document.setdefault("text", "".join(self._deltas) or "".join(str(part.get("text")) for part in self._segments))
        if self._logprobs:
            document.setdefault("logprobs", self._logprobs)
        if self._segments:
            document = {"task": "transcribe", **document, "segments": self._segments}  # a diarized answer's constant
        return Aggregated(document)


def _cannot_stream(request: Request) -> str | None:
    # The other formats are not JSON, or (verbose_json) have members that no event has.
    wanted = str(request.get("response_format") or "json")
    if wanted not in ("json", "diarized_json"):
        return f"a transcription as {wanted} cannot be streamed, only as json or diarized_json"
    return None


TRANSCRIPTIONS: Final = Endpoint(
    "transcriptions",
    ("/audio/transcriptions",),
    TranscriptionsAggregator,
    _cannot_stream,
    stream_options=frozenset(),
    forms=True,
)
