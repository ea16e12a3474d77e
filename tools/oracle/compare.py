"""Ask a real server everything twice, directly and through the proxy with the addon, and compare the answers.

The server is llama.cpp's own (server.py), and the questions are in questions.py. Between the proxy and the
server stands a relay that only writes down what passes: a request counts only if it truly went upstream as a stream.
Exit code 1 on a difference that is not in KNOWN, and on an entry of KNOWN that nothing needed.

    python tools/oracle/compare.py [--keep FOLDER] [WORD ...]      only the requests whose name has all the words
"""

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import httpx
from questions import REQUESTS, OracleRequest

HERE: Final = Path(__file__).resolve().parent
START_SECONDS: Final = 120
ANSWER_SECONDS: Final = 180
MARK: Final = "x-oracle"
TRIES: Final = 3

# Values that no two answers share; their types are compared all the same. The server keeps no prompt cache here, so the
# counters of cached tokens have to be equal like everything else.
IGNORED: Final = {
    "id": "every answer has its own",
    "created": "when it was made",
    "created_at": "when it was made",
    "completed_at": "when it was made",
    "timings/*": "how long it took",
    "choices/*/message/tool_calls/*/id": "every call has its own",
    "output/*/id": "every item has its own",
    "output/*/call_id": "every call has its own",
    "content/*/id": "every call has its own",
    "*/timings/*": "how long it took",
    "*id_slot": "which slot was free",
}


NOTHING: Final = "(nothing)"


@dataclass(frozen=True, slots=True)
class Known:
    """A difference that is the server's own: at `path` in the answers to `requests`, with the values that the direct
    and the proxied answer have there (in all four, * stands for anything), and `streamed`: all that the server's stream
    says about it."""

    requests: str
    path: str
    direct: str
    proxied: str
    reason: str
    streamed: str

    def fits(self, name: str, difference: "Difference") -> bool:
        return (
            fits(name, self.requests)
            and fits(difference.path, self.path)
            and fits(difference.direct, self.direct)
            and fits(difference.proxied, self.proxied)
        )


def fits(text: str, pattern: str) -> bool:
    """Shell wildcards but for brackets, which JSON is full of."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


CUT_CHARACTER: Final = (
    "the bytes of a character that the limit cut in two: the direct answer has U+FFFD, the stream nothing"
)
CUT_THOUGHT: Final = "text that might become the mark of a thought is held back, and never sent when the limit cuts it"

KNOWN: Final[tuple[Known, ...]] = (
    Known(
        "chat: assistant prefill",
        "choices/0/message/content",
        '"One, two, three, four,*"',
        '" four,*"',
        "the direct answer begins with the text that the request gave, the stream with what the model added",
        'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" four"}}],...}',
    ),
    Known(
        "chat: tool call with logprobs",
        "status*",
        "*",
        "*400*",
        "the server does not stream logprobs together with tools, and says so",
        '{"error":{"code":400,"message":"logprobs is not supported with tools + stream","type":"..."}}',
    ),
    Known(
        "chat: logprobs of Unicode",
        "choices/0/logprobs/content/length",
        "6",
        "5",
        "the direct answer has an entry for the token that ends the sequence, the stream has none",
        'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],...}',
    ),
    Known(
        "*: verbose",
        "__verbose/*",
        "*",
        "*",
        "the server's debugging output is about the last event of the stream",
        'data: {"choices":[{"finish_reason":"length",...}],...,"__verbose":{"content":"",...,"stream":true,...}}',
    ),
    Known(
        "completions: the server's own completions*",
        "*generation_settings/stream",
        "false",
        "true",
        "this format repeats the request's settings, and the request was for a stream",
        'data: {"index":0,"content":"","tokens":[],...,"stop":true,"generation_settings":{"stream":true,...},...}',
    ),
    Known(
        "chat: Unicode cut in a character",
        "choices/0/message/content",
        '"\ufffd"',
        '""',
        CUT_CHARACTER,
        'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],...}',
    ),
    Known(
        "completions: Unicode cut in a character",
        "choices/0/text",
        '"\ufffd"',
        '""',
        CUT_CHARACTER,
        'data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],...}',
    ),
    Known(
        "chat: thought cut short",
        "choices/0/message/content",
        '"<think>"',
        '""',
        CUT_THOUGHT,
        'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],...}',
    ),
    Known(
        "responses: thought cut short",
        "output/length",
        "1",
        "0",
        CUT_THOUGHT,
        'data: {"type":"response.completed","response":{...,"output":[],...}}',
    ),
    Known(
        "responses: *",
        "completed_at",
        "*",
        NOTHING,
        "when a response was completed is in no event",
        'data: {"type":"response.completed","response":{"id":"...","object":"response","created_at":1795380023,'
        '"status":"completed","model":"gemma","output":[...],"usage":{...}},"timings":{...}}',
    ),
    Known(
        "responses: thought apart",
        "output/0/status",
        '"completed"',
        NOTHING,
        "a reasoning item has no status in the last two events about it",
        'data: {"type":"response.output_item.done","item":{"id":"rs_...","summary":[],"type":"reasoning",'
        '"content":[{"text":"...","type":"reasoning_text"}],"encrypted_content":""}}',
    ),
    Known(
        "responses: n 2",
        ".",
        "[{*",
        "{*",
        "the direct answer is a list of two responses, the stream has the events of both after each other",
        'data: {"type":"response.completed",...} twice',
    ),
)


# The answers


class Number(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


def parsed(body: bytes) -> Any:
    """The JSON, numbers by their spelling; what is no JSON, as bytes."""
    try:
        return json.loads(body, parse_int=Number, parse_float=Number)
    except ValueError:
        return body


def kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case Number():
            return "integer" if re.fullmatch(r"-?\d+", value) else "decimal"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
    return "no JSON"


@dataclass(frozen=True, slots=True)
class Difference:
    path: str
    direct: str
    proxied: str


def plain(value: Any) -> Any:
    match value:
        case Number():
            return json.loads(value)
        case list():
            return [plain(one) for one in value]
        case dict():
            return {key: plain(one) for key, one in value.items()}
    return value


def shown(value: Any) -> str:
    text = repr(value) if isinstance(value, bytes) else json.dumps(plain(value), ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:200]} … {text[-90:]}"


def differences(direct: Any, proxied: Any, path: str = "") -> Iterator[Difference]:
    """Each place where the two differ in value, type or presence; the order of keys is free."""
    if kind(direct) != kind(proxied):
        yield Difference(path or ".", shown(direct), shown(proxied))
    elif isinstance(direct, dict):
        for key in direct.keys() | proxied.keys():
            below = f"{path}/{key}" if path else key
            if key not in proxied:
                yield Difference(below, shown(direct[key]), NOTHING)
            elif key not in direct:
                yield Difference(below, NOTHING, shown(proxied[key]))
            else:
                yield from differences(direct[key], proxied[key], below)
    elif isinstance(direct, list):
        if len(direct) != len(proxied):
            yield Difference(f"{path}/length" if path else "length", str(len(direct)), str(len(proxied)))
        for number, (one, other) in enumerate(zip(direct, proxied, strict=False)):
            yield from differences(one, other, f"{path}/{number}" if path else str(number))
    elif direct != proxied and not any(fits(path, pattern) for pattern in IGNORED):
        yield Difference(path or ".", shown(direct), shown(proxied))


def compared(direct: httpx.Response, proxied: httpx.Response) -> list[Difference]:
    if direct.status_code != proxied.status_code:
        # Two bodies of two kinds: nothing in one has its place in the other.
        return [
            Difference("status", str(direct.status_code), str(proxied.status_code)),
            Difference("status/body", shown(parsed(direct.content)), shown(parsed(proxied.content))),
        ]
    types = [reply.headers.get("content-type", "").partition(";")[0] for reply in (direct, proxied)]
    found = [Difference("content-type", *types)] if types[0] != types[1] else []
    return found + sorted(differences(parsed(direct.content), parsed(proxied.content)), key=lambda one: one.path)


# The relay


@dataclass(slots=True)
class Passage:
    """What passed through the relay on one connection: the request and the response, each with its head."""

    request: bytearray = field(default_factory=bytearray)
    response: bytearray = field(default_factory=bytearray)

    @property
    def request_body(self) -> bytes:
        return bytes(self.request.partition(b"\r\n\r\n")[2])


class Relay:
    """Hands on every byte between the proxy and the server and keeps a copy, by the request's mark."""

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self._upstream_port = upstream_port
        self._passages: list[Passage] = []
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def passages(self, mark: str) -> list[Passage]:
        line = f"\r\n{MARK}: {mark}\r\n".encode()
        return [passage for passage in self._passages if line in passage.request]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self, ready: threading.Event) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._join, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passage = Passage()
        self._passages.append(passage)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        await asyncio.gather(
            self._copy(reader, up_writer, passage.request), self._copy(up_reader, writer, passage.response)
        )

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                kept += data
                writer.write(data)
                await writer.drain()
        writer.close()


def not_asked_as_meant(request: OracleRequest, passages: list[Passage]) -> list[Difference]:
    """What is wrong with the request that reached the server, if anything is."""
    if len(passages) != 1:
        return [Difference("requests upstream", "1", str(len(passages)))]
    sent, body = passages[0], passages[0].request_body
    if sent.response.startswith(b"HTTP/1.1 404 "):
        # The server answers an unknown path before it has read the body.
        return []
    if not request.forced:
        return [] if body == request.body else [Difference("body upstream", shown(request.body), shown(body))]
    asked, meant = parsed(body), parsed(request.body)
    if not isinstance(asked, dict):
        return [Difference("body upstream", shown(meant), shown(body))]
    found = []
    if asked.get("stream") is not True:
        found.append(Difference("stream upstream", "true", shown(asked.get("stream"))))
    status, _, head = sent.response.partition(b"\r\n\r\n")[0].partition(b"\r\n")
    if b" 200 " in status and b"text/event-stream" not in head.lower():
        found.append(Difference("content-type upstream", "text/event-stream", shown(head.decode("latin-1"))))
    for body_part in (asked, meant):
        body_part.pop("stream", None)
        body_part.pop("stream_options", None)
    if asked != meant:
        found.append(Difference("body upstream", shown(meant), shown(asked)))
    return found


# The processes


@contextlib.contextmanager
def process(command: list[str], log: Path, pattern: str) -> Iterator[str]:
    """Run a command until the block ends. Gives the pattern's group in the first line of its output that has it."""
    found: list[str] = []
    seen = threading.Event()
    log.unlink(missing_ok=True)
    with (
        log.open("a", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        ) as running,
    ):
        assert running.stdout is not None
        reader = threading.Thread(target=_follow, args=(running.stdout, log, pattern, found, seen), daemon=True)
        reader.start()
        try:
            if not seen.wait(START_SECONDS) or not found:
                raise SystemExit(f"{' '.join(command)} did not start. Its last lines:\n{tail(log)}")
            yield found[0]
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
            reader.join()


def _follow(output: IO[str], log: Path, pattern: str, found: list[str], seen: threading.Event) -> None:
    with log.open("a", encoding="utf-8") as copy:
        for line in output:
            copy.write(line)
            copy.flush()
            match = re.search(pattern, line)
            if match and not found:
                found.append(match.group(1))
                seen.set()
    seen.set()


def tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-20:]) if log.exists() else ""


def wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{address}/health did not say that the server is ready within {START_SECONDS} s.")


# Like the server it ends with its standard input, so that nothing stays behind, however this program ends.
MITMDUMP: Final = """\
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from mitmproxy.tools.main import mitmdump
mitmdump()
"""

RULES: Final = """\
rules:
  - name: oracle
    hosts: ["127.0.0.1"]
    force_upstream_stream: true
    quirks: [content_never_null, usage_per_choice]
"""


@contextlib.contextmanager
def setting(folder: Path) -> Iterator[tuple[str, str, Relay]]:
    """The addresses of the server and of the proxy, and the relay between them."""
    server = [sys.executable, str(HERE / "server.py")]
    with process(server, folder / "server.log", r"^listening (http://\S+)") as address:
        wait_until_ready(address)
        relay = Relay(int(address.rpartition(":")[2]))
        (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
        proxy = [
            *(sys.executable, "-c", MITMDUMP),
            *("--mode", f"reverse:http://127.0.0.1:{relay.port}@127.0.0.1:0"),
            *("-s", str(HERE.parents[1] / "addon.py"), "--set", f"confdir={folder}"),
            *("--set", f"force_stream_rules={folder / 'rules.yaml'}", "--set", "keep_host_header=false"),
        ]
        try:
            with process(proxy, folder / "proxy.log", r" listening at (?:http://)?(127\.0\.0\.1:\d+)") as place:
                yield address, f"http://{place}", relay
        finally:
            relay.close()


# The run


@dataclass(frozen=True, slots=True)
class Outcome:
    request: OracleRequest
    new: list[Difference]
    known: list[tuple[Difference, Known]]
    repeats: bool


def known_for(request: OracleRequest, difference: Difference) -> Known | None:
    name = f"{request.endpoint}: {request.name}"
    return next((known for known in KNOWN if known.fits(name, difference)), None)


def ask(address: str, request: OracleRequest, mark: str) -> httpx.Response:
    # A connection each: the server closes one after an event stream without having said so.
    headers = {"content-type": "application/json", "connection": "close", MARK: mark}
    return httpx.post(address + request.path, content=request.body, headers=headers, timeout=ANSWER_SECONDS)


def outcome(request: OracleRequest, mark: str, server: str, proxy: str, relay: Relay, keep: Path | None) -> Outcome:
    """Asks both ways; once more where they differ and the server itself has two answers to the request."""
    for attempt in range(TRIES):
        tried = f"{mark}.{attempt}"
        direct, proxied = ask(server, request, tried), ask(proxy, request, tried)
        found = not_asked_as_meant(request, relay.passages(tried)) + compared(direct, proxied)
        sorted_out = [(difference, known_for(request, difference)) for difference in found]
        new = [difference for difference, known in sorted_out if known is None]
        repeats = not new or not compared(direct, ask(server, request, tried))
        if repeats:
            break
    if keep is not None:
        name = re.sub(r"\W+", "-", f"{request.endpoint}-{request.name}")
        streams = [bytes(passage.response) for passage in relay.passages(tried)]
        for suffix, data in {
            "request.json": request.body,
            "direct.json": direct.content,
            "proxied.json": proxied.content,
            "upstream.http": b"".join(streams),
        }.items():
            (keep / f"{name}.{suffix}").write_bytes(data)
    return Outcome(request, new, [(one, known) for one, known in sorted_out if known is not None], repeats)


def report(result: Outcome, seconds: float) -> None:
    verdict = "DIFFERENT" if result.new else "known" if result.known else "equal"
    print(f"{result.request.endpoint:12} {result.request.name:52} {verdict:10} {seconds:5.1f} s", flush=True)
    for difference in result.new:
        print(f"    {difference.path}\n        direct   {difference.direct}\n        proxied  {difference.proxied}")
    if not result.repeats:
        print(f"    The server itself gives two answers to this request, in {TRIES} tries.")
    for reason in sorted({known.reason for _, known in result.known}):
        print(f"    {reason}")


def chosen(words: list[str]) -> list[OracleRequest]:
    return [one for one in REQUESTS if all(word in f"{one.endpoint}: {one.name}" for word in words)]


def run(requests: list[OracleRequest], folder: Path, keep: Path | None) -> list[Outcome]:
    results = []
    with setting(folder) as (server, proxy, relay):
        for number, request in enumerate(requests):
            began = time.monotonic()
            try:
                results.append(outcome(request, str(number), server, proxy, relay, keep))
            except httpx.TransportError as error:
                logs = "\n".join(f"{log.name}:\n{tail(log)}" for log in sorted(folder.glob("*.log")))
                raise SystemExit(f"{request.endpoint}: {request.name}: no answer: {error!r}\n{logs}") from error
            report(results[-1], time.monotonic() - began)
    return results


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep requests, answers, streams and logs there")
    parser.add_argument("words", nargs="*", help="only the requests whose endpoint and name have all of these")
    options = parser.parse_args(arguments)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    requests = chosen(options.words)
    if not requests:
        print(f"No request has all of: {' '.join(options.words)}")
        return 1
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        began = time.monotonic()
        results = run(requests, folder, options.keep)
        proxy_log = (folder / "proxy.log").read_text(encoding="utf-8")
    return verdict(results, proxy_log, len(requests) == len(REQUESTS), time.monotonic() - began)


def verdict(results: list[Outcome], proxy_log: str, whole: bool, seconds: float) -> int:
    different = [result for result in results if result.new]
    used = {known for result in results for _, known in result.known}
    unneeded = [known for known in KNOWN if whole and known not in used]
    tracebacks = proxy_log.count("Traceback (most recent call last)")
    with_known = sum(1 for result in results if result.known and not result.new)
    forced = sum(1 for result in results if result.request.forced)
    print(f"\n{len(results)} requests, {forced} of them forced, in {seconds:.0f} s.")
    if with_known:
        print(f"{with_known} of them with a difference that is the server's own (KNOWN in tools/oracle/compare.py).")
    for known in unneeded:
        print(f"Nothing needed this entry of KNOWN any more: {known.requests}: {known.path}")
    if tracebacks:
        print(f"The proxy's log has {tracebacks} tracebacks; the last lines:\n" + proxy_log[-3000:])
    print(f"{len(results) - len(different)} passed, {len(different)} failed")
    return 1 if different or unneeded or tracebacks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
