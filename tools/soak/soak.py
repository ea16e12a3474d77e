"""Many forced streams at once for some minutes, most of them with a fault: `make soak`.

A real mitmdump with the addon, before it clients of HTTP/1.1 and HTTP/2, behind it the tests' scripted upstream, all on
127.0.0.1. Every request carries a marker. Exit code 1 where

* a request got no answer, an answer of another kind than its fault calls for, or another request's marker,
* the upstream saw a request more or less often than it should have, or goes on with one whose client is gone,
* mitmdump's memory grows after a warm-up, or there is more of it in use when all is over than before,
* tasks, threads, sockets or objects of requests are left then,
* its log has a fault of the addon or a traceback.

It reads Linux's /proc. mitmproxy loads addon.py again when that is edited, so leave it alone meanwhile.

    python tools/soak/soak.py [--streams 200] [--seconds 180] [--seed N]
"""

import argparse
import asyncio
import contextlib
import importlib
import itertools
import json
import os
import random
import re
import ssl
import statistics
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import brotli
import httpx
import zstandard

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
harness: Any = importlib.import_module("harness")

PATH: Final = "/v1/chat/completions"
# Seconds.
PATIENCE: Final = 60.0
# A timer of mitmproxy's for an HTTP/2 connection's pings may outlive the connection: 58 seconds at the most.
LEFT_OVER_PATIENCE: Final = 70.0
IDLE_TIMEOUT: Final = 8
HEARTBEAT: Final = 0.4
# How long an answer takes.
SHORTEST: Final = 1.0
LONGEST: Final = 7.0
# Requests of a stream after which its client's connection is renewed.
LIFE: Final = 8
# MiB and shares: what mitmdump's resident memory may have grown by, from the first third after the warm-up to the last.
MAY_GROW: Final = 6.0
MAY_GROW_BY: Final = 0.05
# Answers a stream, until when the allocators have what so many streams need at their peaks; and the fewest seconds
# behind that which tell anything.
WARM_UP: Final = 12
SHORTEST_JUDGED: Final = 30
# What may be in use when all is over that was not before: what is kept once, such as the figures of the latest flows,
# and what each answer may leave behind. A list or a text that is kept of each is more.
MAY_KEEP: Final = {"blocks": 10_000, "bytes": 2 << 20}
MAY_KEEP_OF_EACH: Final = {"blocks": 1, "bytes": 100}
MOST_SHOWN: Final = 20

RULES: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "partial": {"on_truncated": "partial"},
    "idle": {"idle_timeout": IDLE_TIMEOUT},
    "small": {"max_body": "16KiB"},
    "again": {"retries": 1},
    "patient": {"heartbeat": HEARTBEAT},
}


# Bytes: more than the large event, and less than what a bomb stands for.
MAX_BODY: Final = 8 << 20
LARGE_EVENT: Final = 5 << 20
BOMB: Final = 256 << 20


def rules_text() -> str:
    """JSON is YAML."""
    always = {"hosts": ["127.0.0.1", "localhost"], "force_upstream_stream": True, "max_body": MAX_BODY}
    rules = [{"name": name, "models": [f"{name}/*"]} | always | limits for name, limits in RULES.items()]
    return json.dumps({"rules": rules})


def bombs() -> dict[str, bytes]:
    """Some bytes or kilobytes for each coding that stand for hundreds of megabytes."""
    block, times = b"x" * (1 << 20), BOMB >> 20
    made = {}
    codings = {
        "gzip": (zlib.compressobj(wbits=31), "compress"),
        "br": (brotli.Compressor(quality=1), "process"),
        "zstd": (zstandard.ZstdCompressor().compressobj(), "compress"),
    }
    for name, (compressor, method) in codings.items():
        some = getattr(compressor, method)
        made[name] = b"".join(some(block) for _ in range(times)) + compressor.flush()
        made[name] += compressor.finish() if name == "br" else b""
    return made


BOMBS: Final = bombs()


# What the upstream does


@dataclass(frozen=True)
class Asked:
    """A request as the upstream sees it, the `number`th with its marker. `cut`: how to end an answer too early so that
    all of it before that arrives; `reset`: how to, wherever that does not matter (what was not read yet is lost)."""

    marker: str
    seconds: float
    cut: Any
    reset: Any
    number: int


def chunk(text: str | None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    value = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return bytes(harness.sse(value, done=False))


def head(asked: Asked, **more: Any) -> Any:
    return harness.Head(headers={"x-marker": asked.marker}, **more)


def text(asked: Asked, pieces: int = 8) -> Iterator[Any]:
    """The marker, character by character in the time that the answer takes."""
    yield head(asked)
    size = -(-len(asked.marker) // pieces)
    for start in range(0, len(asked.marker), size):
        yield harness.Data(chunk(asked.marker[start : start + size]))
        yield harness.Pause(asked.seconds / pieces)


STOP: Final = harness.Data(chunk(None, "stop"))
DONE: Final = harness.Data(b"data: [DONE]\n\n")
GOOD_END: Final = (STOP, DONE, harness.End())


def good(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), GOOD_END)


def lingers(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), STOP, DONE, harness.Linger())


def finished(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), STOP, asked.cut)


def cut(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), asked.cut)


def reset(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), asked.reset)


def no_answer(asked: Asked) -> Any:
    return harness.Answer.of(harness.Pause(asked.seconds), asked.reset)


def silent(asked: Asked) -> Any:
    return harness.Answer.of(head(asked), harness.Data(chunk(asked.marker)), harness.Linger())


def refused_inside(asked: Asked) -> Any:
    error = {"error": {"message": f"slow down, {asked.marker}", "code": "rate_limit_exceeded"}}
    return harness.Answer.of(text(asked), harness.Data(harness.sse(error)), harness.End())


def refused(asked: Asked) -> Any:
    error = {"error": {"message": f"no, {asked.marker}", "code": "invalid_request_error"}}
    return harness.document(error, status=400, headers={"x-marker": asked.marker})


def large(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), harness.pieces(chunk("x" * 1000) * 32, 4096), GOOD_END)


def page(asked: Asked) -> Any:
    return harness.Answer.of(head(asked), harness.Data(b"<!DOCTYPE html>\n<html>\n"), harness.End())


def cut_once(asked: Asked) -> Any:
    return reset(asked) if asked.number == 1 else good(asked)


def late(asked: Asked) -> Any:
    return harness.Answer.of(harness.Pause(2.5 * HEARTBEAT), text(asked), GOOD_END)


def late_and_cut(asked: Asked) -> Any:
    return harness.Answer.of(harness.Pause(2.5 * HEARTBEAT), text(asked), asked.reset)


def goes_away(asked: Asked) -> Any:
    """In the middle of the answer, which goes on. It covers all streams that there are."""
    first, *rest = text(asked)
    return harness.Answer.of(
        first, rest[: len(rest) // 2], harness.GoAway(0, 2**31 - 1), rest[len(rest) // 2 :], GOOD_END
    )


def refuses_once(asked: Asked) -> Any:
    return harness.Answer.of(harness.RstStream(7)) if asked.number == 1 else good(asked)


def interim(asked: Asked) -> Any:
    return harness.Answer.of(harness.Interim(103), harness.Interim(102), text(asked), GOOD_END)


def large_event(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), harness.pieces(chunk("x" * LARGE_EVENT), 1 << 16), GOOD_END)


def single_bytes(asked: Asked) -> Any:
    return harness.Answer.of(head(asked), harness.pieces(chunk(asked.marker), 1), GOOD_END)


def endless_chunk_header(asked: Asked) -> Any:
    return harness.Answer.of(text(asked), [harness.Raw(b"1;" + b"x" * 50_000)] * 20, harness.Linger())


def bomb(asked: Asked) -> Any:
    """An answer that is one."""
    coding = list(BOMBS)[int(asked.marker.partition("-")[0]) % len(BOMBS)]
    headers = {"x-marker": asked.marker, "content-encoding": coding}
    return harness.Answer.of(harness.Head(headers=headers), harness.Data(BOMBS[coding]), harness.End())


def plain(asked: Asked) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": asked.marker}, "finish_reason": "stop"}
    return harness.document({"id": "c1", "choices": [choice]}, headers={"x-marker": asked.marker})


@dataclass(frozen=True)
class Kind:
    """A way to answer. `outcome`: what the client gets; `share`: of how many requests; `tries`: how often the upstream
    is asked; `marked`: whether the upstream's head or body comes so far that its marker is in the answer; `http`: the
    version that the upstream has to speak; `coding`: the request is a bomb of this one."""

    play: Callable[[Asked], Any]
    outcome: str
    share: int = 1
    rule: str = "plain"
    tries: int = 1
    marked: bool = True
    gone: bool = False
    beats: bool = False
    http: int = 0
    coding: str = ""


KINDS: Final = {
    "good": Kind(good, "200 stop", share=10),
    "lingers": Kind(lingers, "200 stop", share=2),
    "cut after the finish reason": Kind(finished, "200 stop", share=2),
    "partial": Kind(cut, "200 length", share=2, rule="partial"),
    "cut": Kind(cut, "502 stream_truncated", share=2),
    "reset": Kind(reset, "502 stream_truncated", share=2),
    "no answer": Kind(no_answer, "502 upstream_unreachable", share=2, marked=False),
    "idle": Kind(silent, "504 stream_timeout", share=2, rule="idle"),
    "error event": Kind(refused_inside, "429 rate_limit_exceeded", share=2),
    "error status": Kind(refused, "400 invalid_request_error"),
    "too large": Kind(large, "502 stream_too_large", rule="small"),
    "a page": Kind(page, "502 stream_malformed"),
    "cut, then good": Kind(cut_once, "200 stop", share=2, rule="again", tries=2),
    "cut twice": Kind(cut, "502 stream_truncated", rule="again", tries=2),
    "heartbeats": Kind(late, "200 stop", share=2, rule="patient", beats=True),
    "heartbeats, then cut": Kind(late_and_cut, "ended short", rule="patient", marked=False),
    "goes away": Kind(goes_away, "200 stop", share=4, http=2),
    "refused once": Kind(refuses_once, "200 stop", share=3, tries=2, http=2),
    "interim responses": Kind(interim, "200 stop", share=2),
    "a large event": Kind(large_event, "200 stop"),
    "single bytes": Kind(single_bytes, "200 stop"),
    "an endless chunk header": Kind(endless_chunk_header, "502 stream_truncated", http=1),
    "a bomb": Kind(bomb, "502 stream_too_large", share=2),
    **{f"asked with a bomb ({coding})": Kind(plain, "200 stop", coding=coding) for coding in BOMBS},
    "client gone": Kind(silent, "gone", share=3, marked=False, gone=True),
}


# The clients


@dataclass(frozen=True)
class Lane:
    """A way to the upstream. `together`: how many streams share a connection of the client; `share`: of all streams.

    mitmproxy opens no more than five connections to an HTTP/1.1 upstream for one of an HTTP/2 client, so no more than
    five streams go over one there.
    """

    listener: str
    share: float
    http2: bool = False
    together: int = 1

    def __str__(self) -> str:
        return f"HTTP/{2 if self.http2 else 1} to {self.listener}"


LANES: Final = (
    Lane("http", 0.3),
    Lane("https", 0.15),
    Lane("h2", 0.15),
    Lane("h2", 0.25, http2=True, together=10),
    Lane("http", 0.15, http2=True, together=5),
)


@dataclass(frozen=True)
class Sample:
    """mitmdump's resident memory in MiB, some seconds and answers after the beginning."""

    at: float
    answers: int
    size: float


@dataclass
class Soak:
    """What has happened so far."""

    proxy: Any
    upstream: Any
    certs: Any
    random: random.Random
    until: float = 0.0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_lane: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    memory: list["Sample"] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def done(self) -> int:
        return sum(self.outcomes.values())

    def answer(self, request: Any) -> Any:
        """The upstream's side, in its event loop."""
        marker, kind = request.header("x-marker"), KINDS[request.header("x-kind")]
        self.seen[marker] += 1
        alone = request.header("x-alone") == "yes"
        # On a connection that others share only the stream is ended, else all of them would get another outcome.
        cut, reset = (harness.CutChunk(b"data: {"), harness.Reset()) if alone else (harness.RstStream(2),) * 2
        seconds = SHORTEST + int(marker.partition("-")[0]) * 7 % 31 / 30 * (LONGEST - SHORTEST)
        return kind.play(Asked(marker, seconds, cut, reset, self.seen[marker]))

    def url(self, lane: Lane) -> str:
        url: str = self.proxy.urls[LISTENERS.index(lane.listener)]
        return url.replace("http:", "https:", 1) if lane.http2 else url


LISTENERS: Final = ("http", "https", "h2")


async def work(soak: Soak, shared: "Shared", threads: ThreadPoolExecutor) -> None:
    """One stream after the other."""
    lane = shared.lane
    known = [name for name, kind in KINDS.items() if kind.http in (0, 2 if lane.listener == "h2" else 1)]
    shares = [KINDS[name].share for name in known]
    await asyncio.sleep(soak.random.uniform(0, LONGEST))
    while time.monotonic() < soak.until:
        name = soak.random.choices(known, shares)[0]
        kind = KINDS[name]
        marker = f"{next(soak.numbers):07}-{soak.random.randbytes(12).hex()}"
        # On an HTTP/1.1 upstream a connection has one request at a time, whoever the client is.
        alone = "yes" if lane.together == 1 or lane.listener != "h2" else "no"
        headers = {"x-marker": marker, "x-kind": name, "x-alone": alone, "authorization": f"Bearer {marker}"}
        headers["content-type"] = "application/json"
        body = json.dumps({"model": f"{kind.rule}/m", "messages": [{"role": "user", "content": marker}]}).encode()
        if kind.coding:
            headers["content-encoding"], body = kind.coding, BOMBS[kind.coding]
        soak.sent[marker] = name
        soak.running += 1
        soak.most_running = max(soak.most_running, soak.running)
        try:
            async with asyncio.timeout(PATIENCE), shared.use() as client:
                seconds = soak.random.uniform(0.2, LONGEST)
                if not kind.gone:
                    outcome = await ask(client, headers, body, kind)
                elif lane.http2:
                    loop = asyncio.get_running_loop()
                    outcome = await loop.run_in_executor(threads, leave, soak, lane, headers, body, seconds)
                else:
                    outcome = await give_up(client, headers, body, seconds)
        except TimeoutError:
            outcome = "no answer"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        soak.running -= 1
        soak.outcomes[name, outcome] += 1
        soak.by_lane[f"{lane}"] += 1
        if outcome != kind.outcome:
            soak.wrong.append(f"{name}, {lane}: {outcome} in the place of {kind.outcome} ({marker})")


async def ask(client: httpx.AsyncClient, headers: dict[str, str], body: bytes, kind: Kind) -> str:
    """The answer in a word or two, after a look at its marker."""
    try:
        response = await client.post(PATH, content=body, headers=headers)
    except httpx.RemoteProtocolError:
        return "ended short"
    marker = headers["x-marker"]
    try:
        document = response.json()
    except ValueError:
        return f"{response.status_code} {response.text[:80]!r}"
    if response.status_code == 200:
        choice = document["choices"][0]
        content, outcome = choice["message"]["content"].rstrip("x"), choice["finish_reason"]
    else:
        content, outcome = document["error"]["message"], document["error"]["code"]
    others = set(re.findall(r"\d{7}-[0-9a-f]{24}", response.text)) | set(response.headers.get_list("x-marker"))
    if others - {marker} or (kind.marked and marker not in others):
        return f"the marker {', '.join(others) or 'of nobody'}"
    if response.status_code == 200 and content != marker:
        return f"the text {content!r}"
    if kind.beats != response.content.startswith(b" "):
        return "heartbeats" if not kind.beats else "no heartbeat"
    return f"{response.status_code} {outcome}"


async def give_up(client: httpx.AsyncClient, headers: dict[str, str], body: bytes, seconds: float) -> str:
    """Ask, and close the connection before there is an answer."""
    try:
        async with asyncio.timeout(seconds):
            await client.post(PATH, content=body, headers=headers)
    except TimeoutError:
        return "gone"
    return "an answer"


def leave(soak: Soak, lane: Lane, headers: dict[str, str], body: bytes, seconds: float) -> str:
    """The same over HTTP/2, where only the stream is given up: httpx does not tell the server."""
    with harness.Http2Client(soak.url(lane), soak.certs, timeout=PATIENCE) as client:
        stream = client.start("POST", PATH, headers.items(), body)
        time.sleep(seconds)
        if client.open_response[stream].status is not None:
            return "an answer"
        client.rst_stream(stream)
        # What the server says to this comes behind whatever it does about the stream.
        answer = client.get("/nothing", [("x-kind", "good"), ("x-marker", "0000000-nobody"), ("x-alone", "yes")])
        return "gone" if answer.complete else f"{answer.ended}"


def context_of(soak: Soak, lane: Lane) -> ssl.SSLContext:
    context: Any = soak.certs.new_client_context(*(["h2"] if lane.http2 else []))
    # httpx would offer HTTP/1.1 first, and that is what mitmproxy takes where no upstream's choice is known yet.
    context.set_alpn_protocols = lambda _: None
    return cast(ssl.SSLContext, context)


class Shared:
    """A client of one connection for one or more workers, which is renewed now and then: what mitmproxy knows of an
    upstream's connection it forgets only when the client's is closed."""

    def __init__(self, soak: Soak, lane: Lane) -> None:
        self.lane = lane
        self._url = soak.url(lane)
        self._context = context_of(soak, lane)
        self._client: httpx.AsyncClient | None = None
        self._left = 0
        self._users: Counter[httpx.AsyncClient] = Counter()

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[httpx.AsyncClient]:
        if self._client is None:
            self._client, self._left = self._new(), LIFE * self.lane.together
        client = self._client
        self._left -= 1
        if self._left == 0:
            self._client = None
        self._users[client] += 1
        try:
            yield client
        finally:
            self._users[client] -= 1
            if not self._users[client] and client is not self._client:
                del self._users[client]
                await client.aclose()

    async def close(self) -> None:
        for client in self._users:
            await client.aclose()

    def _new(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            verify=self._context,
            http2=self.lane.http2,
            http1=not self.lane.http2,
            trust_env=False,
            timeout=PATIENCE,
            limits=httpx.Limits(max_connections=1),
        )


async def sample(soak: Soak) -> None:
    """mitmdump's memory, each second."""
    begun, done = time.monotonic(), soak.done
    while True:
        now = Sample(time.monotonic() - begun, soak.done - done, resident(soak.proxy.pid))
        soak.memory.append(now)
        if len(soak.memory) % 15 == 0:
            print(
                f"  {now.at:5.0f} s  {now.answers:7,} answers  {soak.running:4} streams"
                f"  {now.size:6.1f} MiB  {len(soak.wrong)} wrong",
                flush=True,
            )
        await asyncio.sleep(1)


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def load(soak: Soak, streams: int, seconds: float) -> None:
    sampling = asyncio.create_task(sample(soak))
    soak.until = time.monotonic() + seconds
    shared = [Shared(soak, lane) for lane in LANES for _ in range(max(1, round(streams * lane.share / lane.together)))]
    with ThreadPoolExecutor(streams) as threads:
        await asyncio.gather(*(work(soak, one, threads) for one in shared for _ in range(one.lane.together)))
    for one in shared:
        await one.close()
    sampling.cancel()


# The judgement


async def inside(port: int) -> dict[str, dict[str, int]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told = await reader.read()
    writer.close()
    report: dict[str, dict[str, int]] = json.loads(told)
    return report


def left_over(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"{count - before[group].get(name, 0)} more {name} among the {group}"
        for group in ("tasks", "threads", "files", "objects")
        for name, count in after[group].items()
        if count > before[group].get(name, 0)
    ]


async def settle(port: int, before: dict[str, dict[str, int]]) -> list[str]:
    """What is left of the requests, after some time for what still has to close."""
    deadline = time.monotonic() + LEFT_OVER_PATIENCE
    while (left := left_over(before, await inside(port))) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    return left


def judge_memory(memory: list[Sample], streams: int) -> tuple[str, list[str]]:
    """The resident memory under load."""
    settled = [sample for sample in memory if sample.answers >= WARM_UP * streams]
    if len(settled) < SHORTEST_JUDGED:
        return "resident memory: too short a run to say", []
    third = len(settled) // 3
    slope, _ = statistics.linear_regression([one.at for one in settled], [one.size for one in settled])
    first, last = (statistics.mean(one.size for one in part) for part in (settled[:third], settled[-third:]))
    line = (
        f"resident memory after {settled[0].answers:,} answers: {first:.1f} MiB in the first third, {last:.1f} MiB in "
        f"the last ({last - first:+.1f}), slope {slope * 60:+.2f} MiB a minute, most "
        f"{max(one.size for one in memory):.1f} MiB"
    )
    grown = last - first > max(MAY_GROW, first * MAY_GROW_BY)
    return line, [line] if grown else []


def judge_kept(before: dict[str, int], after: dict[str, int], answers: int) -> tuple[str, list[str]]:
    """The memory in use at rest, which no peak and no fragmentation is in."""
    more = {name: after[name] - before[name] for name in before}
    line = f"memory in use at rest, more than before {answers:,} answers: " + ", ".join(
        f"{count:+,} {name} of {before[name]:,}" for name, count in more.items()
    )
    kept = any(count > MAY_KEEP[name] + answers * MAY_KEEP_OF_EACH[name] for name, count in more.items())
    return line, [line] if kept else []


def judge_upstream(soak: Soak) -> list[str]:
    wrong = []
    for marker, name in soak.sent.items():
        kind, seen = KINDS[name], soak.seen[marker]
        if seen != kind.tries and not (kind.gone and seen == 0):
            wrong.append(f"{name}: the upstream saw it {seen} times, not {kind.tries} ({marker})")
    with soak.upstream.changed:
        going_on = [request for request in soak.upstream.requests if request.answered is None]
    wrong += [f"the upstream goes on with {request.header('x-kind')}" for request in going_on]
    return [*wrong, *soak.upstream.errors]


def judge_log(log: str) -> list[str]:
    odd = re.compile(r"Traceback|fault of the addon|has crashed|Task exception|never retrieved|Unhandled")
    return [f"log: {line}" for line in log.split("\n") if odd.search(line)]


async def soak_through(soak: Soak, options: argparse.Namespace) -> list[str]:
    port = int(soak.proxy.wait_for_log(r"soak: inside at (\d+)")[1])
    # Modules and pools that come with the first requests are not a leak.
    await load(soak, 10, 1)
    await asyncio.sleep(2)
    soak.memory.clear()
    before = await inside(port)
    print(f"{options.streams} streams at once for {options.seconds} s, seed {options.seed}", flush=True)
    begun, done = time.monotonic(), soak.done
    await load(soak, options.streams, options.seconds)
    seconds = time.monotonic() - begun
    left = await settle(port, before)
    after = await inside(port)
    try:
        await asyncio.to_thread(soak.upstream.wait_idle)
    except TimeoutError:
        left.append(f"{soak.upstream.open_connections} connections at the upstream")

    print(f"\n{soak.done - done:,} requests in {seconds:.0f} s, {soak.most_running} at once")
    for (name, outcome), count in sorted(soak.outcomes.items()):
        print(f"  {name:<30}{outcome:<32}{count:>7,}")
    for lane, count in soak.by_lane.items():
        print(f"  {lane:<62}{count:>7,}")
    print("left when all was over: " + "; ".join(left or ["nothing"]))
    print("in mitmdump then: " + json.dumps(after, sort_keys=True))
    resident, grown = judge_memory(soak.memory, options.streams)
    in_use, kept = judge_kept(before["memory"], after["memory"], soak.done - done)
    print(f"{resident}\n{in_use}")
    return [*soak.wrong, *judge_upstream(soak), *grown, *kept, *(f"left over: {one}" for one in left)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        print("There is no /proc here, from which the memory of mitmdump is read: run this on Linux.")
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rules.yaml").write_text(rules_text(), encoding="utf-8")
        certs = harness.Certs(folder)
        with harness.Upstream(certs) as upstream:
            proxy = harness.Proxy(
                *(f"reverse:{upstream.url(listener, 'localhost')}" for listener in LISTENERS),
                certs=certs,
                scripts=[ROOT / "addon.py", harness.H2_UPSTREAM, ROOT / "tools" / "soak" / "inside.py"],
                options={"force_stream_rules": folder / "rules.yaml", "connection_strategy": "lazy"},
            )
            with proxy:
                soak = Soak(proxy, upstream, certs, random.Random(options.seed))
                upstream.handle(soak.answer)
                wrong = asyncio.run(soak_through(soak, options))
            wrong += judge_log(proxy.log)
            if proxy.exit_code:
                wrong.append(f"mitmdump ended with exit code {proxy.exit_code}")
    for line in wrong[:MOST_SHOWN]:
        print(f"WRONG: {line}")
    print(f"{len(wrong):,} wrong" if wrong else "All as it should be.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
