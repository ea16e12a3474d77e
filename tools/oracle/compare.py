"""Ask real servers everything twice, directly and through the proxy with the addon, and compare the answers.

Where both are equal, the events that we make of the direct one are compared with the server's own stream.

The servers are in servers.py, the questions in questions.py, and what a server itself answers differently in known.py.
Exit code 1 on a difference that is not there, and on an entry there that nothing needed.

    python tools/oracle/compare.py [--server NAME]... [--keep FOLDER] [--write] [WORD ...]

With words, only the requests whose endpoint and name have all of them are sent.
"""

import argparse
import contextlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import both_ways
import httpx
import page
from answers import Difference, compared
from known import Known
from processes import process, tail
from questions import OracleRequest
from relay import MARK, Relay, not_asked_as_meant
from servers import MITMDUMP, ROOT, SERVERS, Server

ANSWER_SECONDS: Final = 180
TRIES: Final = 3
OK: Final = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    request: OracleRequest
    new: list[Difference]
    known: list[tuple[Difference, Known]]
    repeats: bool
    status: int


@dataclass(frozen=True, slots=True)
class Setting:
    """The addresses of a server and of the proxy, and the relay between them."""

    server: str
    proxy: str
    relay: Relay
    known: tuple[Known, ...]
    keep: Path | None
    both_ways: bool


@contextlib.contextmanager
def setting(server: Server, folder: Path, keep: Path | None) -> Iterator[Setting]:
    with server.started(folder) as address:
        relay = Relay(int(address.rpartition(":")[2]))
        rules = folder / "rules.yaml"
        rules.write_text(server.rules, encoding="utf-8")
        proxy = [
            *(sys.executable, "-c", MITMDUMP),
            *("--mode", f"reverse:http://127.0.0.1:{relay.port}@127.0.0.1:0"),
            *("-s", str(ROOT / "addon.py"), "--set", f"confdir={folder}"),
            *("--set", f"force_stream_rules={rules}", "--set", "keep_host_header=false"),
        ]
        try:
            with process(proxy, folder / "proxy.log", r" listening at (?:http://)?(127\.0\.0\.1:\d+)") as place:
                yield Setting(address, f"http://{place}", relay, server.known, keep, server.both_ways)
        finally:
            relay.close()


def ask(address: str, request: OracleRequest, mark: str) -> httpx.Response:
    # A connection each: llama.cpp closes one after an event stream without having said so.
    headers = {"content-type": "application/json", "connection": "close", MARK: mark}
    return httpx.post(address + request.path, content=request.body, headers=headers, timeout=ANSWER_SECONDS)


def outcome(request: OracleRequest, mark: str, at: Setting) -> Outcome:
    """Asks both ways; once more where they differ and the server itself has two answers to the request."""
    name = f"{request.endpoint}: {request.name}"
    for attempt in range(TRIES):
        tried = f"{mark}.{attempt}"
        direct, proxied = ask(at.server, request, tried), ask(at.proxy, request, tried)
        passages = at.relay.passages(tried)
        found = not_asked_as_meant(request, passages) + compared(direct, proxied)
        # Where the server streams something else than it answers, its events cannot be those of its answer.
        is_same = all(difference.path == "completed_at" for difference in found)
        if at.both_ways and request.forced and not request.refused and is_same and direct.status_code == OK:
            found += both_ways.of_events(request.endpoint, direct.content, bytes(passages[0].response))
        sorted_out = [
            (difference, next((known for known in at.known if known.fits(name, difference)), None))
            for difference in found
        ]
        new = [difference for difference, known in sorted_out if known is None]
        repeats = not new or not compared(direct, ask(at.server, request, tried))
        if repeats:
            break
    if at.keep is not None:
        file = re.sub(r"\W+", "-", name)
        for suffix, data in {
            "request.json": request.body,
            "direct.json": direct.content,
            "proxied.json": proxied.content,
            "upstream.http": b"".join(bytes(passage.response) for passage in at.relay.passages(tried)),
        }.items():
            (at.keep / f"{file}.{suffix}").write_bytes(data)
    return Outcome(
        request, new, [(one, known) for one, known in sorted_out if known is not None], repeats, direct.status_code
    )


def report(result: Outcome, seconds: float) -> None:
    verdict = "DIFFERENT" if result.new else "known" if result.known else "equal"
    said = f"{result.request.endpoint:12} {result.request.name:52} {result.status} {verdict:10} {seconds:5.1f} s"
    print(said, flush=True)
    for difference in result.new:
        print(f"    {difference.path}\n        direct   {difference.direct}\n        proxied  {difference.proxied}")
    if not result.repeats:
        print(f"    The server itself gives two answers to this request, in {TRIES} tries.")
    for reason in sorted({known.reason for _, known in result.known}):
        print(f"    {reason}")


def run(server: Server, requests: list[OracleRequest], folder: Path, keep: Path | None) -> list[Outcome]:
    results = []
    with setting(server, folder, keep) as at:
        for number, request in enumerate(requests):
            began = time.monotonic()
            try:
                results.append(outcome(request, str(number), at))
            except httpx.TransportError as error:
                logs = "\n".join(f"{log.name}:\n{tail(log)}" for log in sorted(folder.glob("*.log")))
                raise SystemExit(f"{request.endpoint}: {request.name}: no answer: {error!r}\n{logs}") from error
            report(results[-1], time.monotonic() - began)
    return results


def verdict(server: Server, results: list[Outcome], proxy_log: str, seconds: float) -> bool:
    different = [result for result in results if result.new]
    used = {known for result in results for _, known in result.known}
    whole = len(results) == len(server.requests)
    unneeded = [known for known in server.known if whole and known not in used]
    tracebacks = proxy_log.count("Traceback (most recent call last)")
    with_known = sum(1 for result in results if result.known and not result.new)
    forced = sum(1 for result in results if result.request.forced)
    print(f"\n{server.name}: {len(results)} requests, {forced} of them forced, in {seconds:.0f} s.")
    if with_known:
        print(f"{with_known} of them with a difference that is the server's own (tools/oracle/known.py).")
    for known in unneeded:
        print(f"Nothing needed this entry any more: {known.requests}: {known.path}: {known.reason}")
    if tracebacks:
        print(f"The proxy's log has {tracebacks} tracebacks; the last lines:\n" + proxy_log[-3000:])
    print(f"{len(results) - len(different)} passed, {len(different)} failed", flush=True)
    return not (different or unneeded or tracebacks)


def compare(server: Server, words: list[str], keep: Path | None) -> tuple[bool, list[Outcome]]:
    requests = [one for one in server.requests if all(word in f"{one.endpoint}: {one.name}" for word in words)]
    if not requests:
        return True, []
    version = server.version
    if not version:
        raise SystemExit(f"{server.name}: {server.package} is not installed for {server.python}.")
    print(f"\n{server.name} ({server.package} {version})", flush=True)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        if keep is not None:
            keep = keep / server.name
            keep.mkdir(parents=True, exist_ok=True)
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        results = run(server, requests, folder, keep)
        proxy_log = (folder / "proxy.log").read_text(encoding="utf-8")
    return verdict(server, results, proxy_log, time.monotonic() - began), results


def main(arguments: list[str]) -> int:
    names = [server.name for server in SERVERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", action="append", choices=names, help="only this one, or these; else all")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep requests, answers, streams and logs there")
    parser.add_argument("--write", action="store_true", help="put what was found into docs/oracle.md")
    parser.add_argument("words", nargs="*", help="only the requests whose endpoint and name have all of these")
    options = parser.parse_args(arguments)
    good = True
    asked = 0
    for server in SERVERS:
        if server.name in (options.server or names):
            fine, results = compare(server, options.words, options.keep)
            good, asked = good and fine, asked + len(results)
            if options.write and fine and len(results) == len(server.requests):
                page.write(server, [(result.request, result.status, result.known) for result in results])
    if not asked:
        print(f"No request has all of: {' '.join(options.words)}")
    return 0 if good and asked else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
