"""How fast streams are aggregated, side by side in one run: `make bench`.

Each way gets the same bytes and is timed in turns, several times; the figure is the median of the ratio to the floor,
which is `orjson.loads` of every data line and nothing else: what any aggregator built on the fastest parser pays before
it has merged anything. Ratios hold on any machine; seconds do not.
"""

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lib"))

import force_stream  # noqa: E402

SIZES: Final = (50, 500, 5_000, 50_000)
ROUNDS: Final = 7
# Short streams are read many times in a row, so that the clock can tell: recordings so often, others until so many
# bytes are read.
AGAIN: Final = 10
LONG: Final = 300_000
# The endpoints of the recordings' kinds; others are left out.
ENDPOINT_OF: Final = {
    "chat": "chat",
    "completions": "completions",
    "responses": "responses",
    "anthropic": "messages",
}
# Slower ways than this are not given the longest streams: they would take minutes and show nothing new.
PATIENCE: Final = 2.0

WORDS: Final = (
    "The",
    " quick",
    " brown",
    " fox",
    " jumps",
    " over",
    " the",
    " lazy",
    " dog",
    ".\n",
    ' "why"',
    " não",
    "?",
)

type Chunk = dict[str, Any]
type Way = Callable[[bytes], object]


def envelope(delta: Chunk, finish: str | None = None, **more: Any) -> Chunk:
    """A chunk as OpenAI sends it."""
    return {
        "id": "chatcmpl-CHR5U1vZVQVnXTbEZqcKQVgVLWM2s",
        "object": "chat.completion.chunk",
        "created": 1758294820,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "system_fingerprint": "fp_f33640a400",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        "usage": None,
    } | more


def text(count: int) -> Iterator[Chunk]:
    for number in range(count):
        yield envelope({"content": WORDS[number % len(WORDS)]})


def padded(count: int) -> Iterator[Chunk]:
    for number in range(count):
        yield envelope({"content": WORDS[number % len(WORDS)]}, obfuscation="aB3dE5gH7jK9"[: number % 11])


def tool_calls(count: int) -> Iterator[Chunk]:
    function = {"name": "get_weather", "arguments": ""}
    yield envelope({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]})
    for number in range(count - 1):
        piece = f'{{"city{number}": "' if number % 2 == 0 else 'Lisboa"}'
        yield envelope({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})


def logprobs(count: int) -> Iterator[Chunk]:
    for number in range(count):
        word = WORDS[number % len(WORDS)]
        top = [{"token": other, "logprob": -number / 7 - 1, "bytes": list(other.encode())} for other in WORDS[:2]]
        said = {"token": word, "logprob": -0.25 - number / 1000, "bytes": list(word.encode()), "top_logprobs": top}
        chunk = envelope({"content": word})
        chunk["choices"][0]["logprobs"] = {"content": [said], "refusal": None}
        yield chunk


def in_turn(count: int) -> Iterator[Chunk]:
    for number, chunk in enumerate(text(count)):
        chunk["choices"][0]["index"] = number % 3
        yield chunk


def calls_in_turn(count: int) -> Iterator[Chunk]:
    for index in range(3):
        call = {"id": f"call_{index}", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        yield envelope({"tool_calls": [{"index": index, **call}]})
    for number in range(count - 3):
        piece = f'{{"city{number}": "' if number % 2 == 0 else 'Lisboa"}'
        yield envelope({"tool_calls": [{"index": number % 3, "function": {"arguments": piece}}]})


def usage_in_each(count: int) -> Iterator[Chunk]:
    details = {"prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}}
    for number, chunk in enumerate(text(count), 1):
        tokens = {"prompt_tokens": 9, "completion_tokens": number, "total_tokens": 9 + number}
        yield chunk | {"usage": tokens | details}


def id_for_each(count: int) -> Iterator[Chunk]:
    for number, chunk in enumerate(text(count)):
        yield chunk | {"id": f"chatcmpl-{number * 0x9E3779B97F4A7C15 % 2**64:016x}"}


def reasoning_details(count: int) -> Iterator[Chunk]:
    """As OpenRouter sends them: the same text in two places."""
    for number in range(count):
        word = WORDS[number % len(WORDS)]
        details = [{"type": "reasoning.text", "text": word, "format": "unknown", "index": 0}]
        chunk = envelope({"role": "assistant", "content": "", "reasoning": word, "reasoning_details": details})
        chunk["choices"][0]["native_finish_reason"] = None
        yield chunk | {"provider": "Novita"}


def token_ids(count: int) -> Iterator[Chunk]:
    """As vLLM sends them with `return_token_ids`."""
    for number, chunk in enumerate(logprobs(count)):
        chunk["choices"][0]["token_ids"] = [number * 7919 % 150_000]
        yield chunk


def unlike(count: int) -> Iterator[Chunk]:
    """Chunks that no pattern fits: a member that comes in every second one has another value each time."""
    for number, chunk in enumerate(text(count)):
        chunk["choices"][0]["delta"]["annotations"] = [{"at": number}] * (1 + number % 2)
        yield chunk | {f"novel_{number % 2}": {"at": [number, {"of": count}]}}


KINDS: Final[dict[str, Callable[[int], Iterator[Chunk]]]] = {
    "text": text,
    "padding that varies": padded,
    "tool call": tool_calls,
    "logprobs": logprobs,
    "three choices in turn": in_turn,
    "three tool calls in turn": calls_in_turn,
    "usage in every chunk": usage_in_each,
    "an id for every chunk": id_for_each,
    "`reasoning` with `reasoning_details`": reasoning_details,
    "logprobs with token ids": token_ids,
    "comments between the events": text,
    "no two chunks alike": unlike,
}


def stream(kind: str, count: int) -> bytes:
    """A whole event stream of about `count` chunks."""
    usage = {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": count + 9}
    has_calls = "tool call" in kind
    choices = range(3 if kind == "three choices in turn" else 1)
    ends = [envelope({}, "tool_calls" if has_calls else "stop") for _ in choices]
    for index, end in enumerate(ends):
        end["choices"][0]["index"] = index
    chunks = [
        envelope({"role": "assistant", "content": None if has_calls else ""}),
        *KINDS[kind](count),
        *ends,
        envelope({}) | {"choices": [], "usage": usage},
    ]
    lines = [json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() for chunk in chunks]
    between = b": OPENROUTER PROCESSING\n\n" if kind == "comments between the events" else b""
    return between.join(b"data: %s\n\n" % line for line in [*lines, b"[DONE]"])


def data_lines(body: bytes) -> list[bytes]:
    return [line[6:] for line in body.split(b"\n") if line.startswith(b"data: {") and line.rstrip().endswith(b"}")]


def ours(body: bytes) -> object:
    return force_stream.aggregate(body)


def floor() -> Way:
    loads = importlib.import_module("orjson").loads

    def parse(body: bytes) -> object:
        for line in data_lines(body):
            loads(line)
        return None

    return parse


def naive(body: bytes) -> object:
    """What one writes first: json, and merging by type. Right for plain text alone."""
    merged: Chunk = {}
    for line in data_lines(body):
        _merge(merged, json.loads(line))
    return json.dumps(merged)


def _merge(into: Chunk, said: Chunk) -> None:
    for key, value in said.items():
        known = into.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            _merge(known, value)
        elif isinstance(known, list) and isinstance(value, list) and known and value and isinstance(value[0], dict):
            _merge(known[0], value[0])
        elif key in ("content", "arguments") and isinstance(known, str) and isinstance(value, str):
            into[key] = known + value
        elif value is not None or key not in into:
            into[key] = value


def openai_sdk() -> Way:
    streaming = importlib.import_module("openai.lib.streaming.chat")
    chunk_type = importlib.import_module("openai.types.chat").ChatCompletionChunk

    def accumulate(body: bytes) -> object:
        state = streaming.ChatCompletionStreamState()
        for line in data_lines(body):
            state.handle_chunk(chunk_type(**json.loads(line)))
        return state.get_final_completion().model_dump_json()

    return accumulate


def litellm() -> Way:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look-up on the network at import
    library = importlib.import_module("litellm")
    chunk_type = importlib.import_module("litellm.types.utils").ModelResponseStream

    def build(body: bytes) -> object:
        return library.stream_chunk_builder([chunk_type(**json.loads(line)) for line in data_lines(body)])

    return build


MAKERS: Final[dict[str, Callable[[], Way]]] = {
    "force-stream": lambda: ours,
    "json, naive merge": lambda: naive,
    "openai-python": openai_sdk,
    "litellm": litellm,
}


def seconds(way: Way, body: bytes, times: int = 1) -> float:
    begin = time.process_time()
    for _ in range(times):
        way(body)
    return time.process_time() - begin


def measure(ways: dict[str, Way], parse: Way, body: bytes) -> dict[str, list[float]]:
    """For each way its ratios to the floor, one for each round."""
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    skipped: set[str] = set()
    times = max(1, LONG // len(body))
    for _ in range(ROUNDS):
        base = seconds(parse, body, times)
        for name, way in ways.items():
            if name in skipped:
                continue
            try:
                spent = seconds(way, body, times)
            except Exception as error:
                ratios[name] = []
                skipped.add(f"{name}")
                print(f"  {name}: {type(error).__name__}", file=sys.stderr)
                continue
            ratios[name].append(spent / base)
            if spent > PATIENCE:
                skipped.add(name)
    return ratios


def figure(values: list[float]) -> str:
    """The median, and the spread between the quartiles."""
    if not values:
        return "fails"
    if len(values) < 3:
        return f"{values[0]:.1f}"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def geometric_means(rows: list[dict[str, list[float]]]) -> dict[str, str]:
    """Of each way's medians over the shapes; "–" where it has not read all of them."""
    means = {}
    for name in rows[0]:
        medians = [statistics.median(row[name]) for row in rows if row[name]]
        means[name] = f"{statistics.geometric_mean(medians):.2f}" if len(medians) == len(rows) else "–"
    return means


def recordings() -> dict[str, list[tuple[str, bytes]]]:
    """The recorded streams of each provider, with the endpoints that read them, if the environment names a folder."""
    folder = os.environ.get("FORCE_STREAM_RECORDINGS")
    if not folder:
        return {}
    found: dict[str, list[tuple[str, bytes]]] = {}
    for row in map(json.loads, (Path(folder) / "index.jsonl").read_text().splitlines()):
        endpoint = ENDPOINT_OF.get(row["kind"])
        body = (Path(folder) / row["file"]).read_bytes() if endpoint else b""
        if endpoint and data_lines(body):
            found.setdefault(row["provider"], []).append((endpoint, body))
    return found


def of_recordings(parse: Way, streams: list[tuple[str, bytes]]) -> list[float]:
    """The mean over these streams of the ratio to the floor, one for each round."""
    means = []
    for _ in range(ROUNDS):
        ratios = []
        for endpoint, body in streams:
            base = seconds(parse, body, AGAIN)
            ratios.append(seconds(partial(force_stream.aggregate, endpoint=endpoint), body, AGAIN) / base)
        means.append(statistics.fmean(ratios))
    return means


def main() -> int:
    parse = floor()
    ways: dict[str, Way] = {}
    for name, make in MAKERS.items():
        try:
            ways[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    print("CPU time as a multiple of orjson.loads of every data line and nothing else (median, quartiles)")
    rows: dict[int, list[dict[str, list[float]]]] = {count: [] for count in SIZES}
    for count in SIZES:
        print(f"\n| {count:,} chunks | " + " | ".join(ways) + " |")
        print("|---|" + "---:|" * len(ways))
        for kind in KINDS:
            rows[count].append(measure(ways, parse, stream(kind, count)))
            print(f"| {kind} | " + " | ".join(map(figure, rows[count][-1].values())) + " |", flush=True)
        print("| geometric mean | " + " | ".join(geometric_means(rows[count]).values()) + " |", flush=True)
    recorded = recordings()
    if recorded:
        print("\n| recorded streams of | how many | force-stream, mean |\n|---|---:|---:|")
    for provider, streams in sorted(recorded.items(), key=lambda each: -len(each[1])):
        print(f"| {provider} | {len(streams)} | {figure(of_recordings(parse, streams))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
