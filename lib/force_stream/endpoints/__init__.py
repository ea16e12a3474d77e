"""The table of endpoints: how each is known by its path, what it cannot stream, and who merges its events.

The one module that imports the aggregators. Must not know rules or mitmproxy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .aggregator import Aggregator
from .chat import ChatAggregator
from .completions import CompletionsAggregator
from .images import ImagesAggregator
from .messages import MessagesAggregator
from .responses import ResponsesAggregator
from .transcriptions import TranscriptionsAggregator

type Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One API.

    `paths`: the ends of its paths; what `not_under` lists makes a path another API's. `never_streams`: ends of paths
    that belong to it but refuse `stream`.
    `cannot_stream`: why a request cannot be streamed, or None. `stream_options`: the options it takes, None for any.
    `forms`: whether its requests may be forms with files.
    `aggregator`: made anew for each answer, with the number of choices the request asks for.
    """

    name: str
    paths: tuple[str, ...]
    aggregator: Callable[[int], Aggregator]
    cannot_stream: Callable[[Request], str | None]
    never_streams: tuple[str, ...] = ()
    not_under: tuple[str, ...] = ()
    stream_options: frozenset[str] | None = None
    forms: bool = False

    def options_for(self, wanted: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Those of a rule's `stream_options` that this endpoint takes."""
        if wanted is None or self.stream_options is None:
            return wanted
        return {key: value for key, value in wanted.items() if key in self.stream_options}


def _chat_cannot_stream(request: Request) -> str | None:
    audio = request.get("audio")
    modalities = request.get("modalities")
    # "stream: true" takes no audio format but pcm16 (API reference, chat, `audio.format`).
    if isinstance(modalities, list) and "audio" in modalities and isinstance(audio, dict):
        audio_format = audio.get("format")
        if audio_format != "pcm16":
            return f"audio output in the format {audio_format} cannot be streamed, only pcm16"
    return None


def _completions_cannot_stream(request: Request) -> str | None:
    # "Results cannot be streamed" (API reference, completions, `best_of`).
    best_of = request.get("best_of")
    if isinstance(best_of, (int, float)) and best_of > 1:
        return f"best_of {best_of} cannot be streamed"
    return None


def _transcriptions_cannot_stream(request: Request) -> str | None:
    # The other formats are no JSON, or (verbose_json) have what no event says.
    wanted = str(request.get("response_format") or "json")
    if wanted not in ("json", "diarized_json"):
        return f"a transcription as {wanted} cannot be streamed, only as json or diarized_json"
    return None


def _no_cannot_stream(request: Request) -> str | None:
    return None


def _responses_cannot_stream(request: Request) -> str | None:
    # A background response is answered before it has begun; the application polls for it.
    return "a background response is not waited for" if request.get("background") is True else None


_ALL: Final = (
    Endpoint("chat", ("/chat/completions",), ChatAggregator, _chat_cannot_stream),
    Endpoint("completions", ("/completions",), CompletionsAggregator, _completions_cannot_stream),
    Endpoint(
        "responses",
        ("/responses",),
        ResponsesAggregator,
        _responses_cannot_stream,
        never_streams=("/responses/compact",),
        # The API refuses include_usage here; its terminal event has the usage anyway.
        stream_options=frozenset(("include_obfuscation",)),
    ),
    Endpoint(
        "messages",
        ("/messages",),
        MessagesAggregator,
        _no_cannot_stream,
        not_under=("/threads/",),  # the Assistants API's
        stream_options=frozenset(),
    ),
    Endpoint(
        "transcriptions",
        ("/audio/transcriptions",),
        TranscriptionsAggregator,
        _transcriptions_cannot_stream,
        stream_options=frozenset(),
        forms=True,
    ),
    Endpoint(
        "images",
        ("/images/generations", "/images/edits"),
        ImagesAggregator,
        _no_cannot_stream,
        stream_options=frozenset(),
        forms=True,
    ),
)
ENDPOINTS: Final[Mapping[str, Endpoint]] = {endpoint.name: endpoint for endpoint in _ALL}

# "/chat/completions" ends with "/completions" too: the longest end decides.
_BY_END: Final = sorted(
    ((end, endpoint) for endpoint in _ALL for end in (*endpoint.paths, *endpoint.never_streams)),
    key=lambda row: len(row[0]),
    reverse=True,
)


def endpoint_for(path: str, extra: Mapping[str, str]) -> Endpoint | None:
    """The endpoint of a request path (with or without a query); `extra`: a rule's own ends of paths, by name."""
    path = _bare(path)
    for end, name in sorted(extra.items(), key=lambda row: len(row[0]), reverse=True):
        if path.endswith(_bare(end)):
            return ENDPOINTS[name]
    found = next((endpoint for end, endpoint in _BY_END if path.endswith(end)), None)
    return None if found is None or any(under in path for under in found.not_under) else found


def never_streams(endpoint: Endpoint, path: str) -> bool:
    """Whether this path of the endpoint refuses `stream`."""
    return _bare(path).endswith(endpoint.never_streams) if endpoint.never_streams else False


def _bare(path: str) -> str:
    return path.partition("?")[0].rstrip("/")


def expected_choices(request: Request) -> int:
    """How many choices a direct answer to this request has."""
    prompt, n = request.get("prompt"), request.get("n")
    # A list of strings or of token lists is several prompts; a list of numbers is one, in tokens.
    several = isinstance(prompt, list) and len(prompt) > 0 and not isinstance(prompt[0], int)
    prompts = len(prompt) if several and isinstance(prompt, list) else 1
    if isinstance(n, str) and n.isascii() and n.isdigit() and len(n) < 10:
        n = int(n)  # a form has nothing but texts
    return prompts * (n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 1)
