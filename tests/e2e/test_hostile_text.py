"""Text that a client, an upstream or a flow file chose, at every place that it can fill: what a person sees of it is
printable and short, and no key is in it.

Every endpoint's requests, and its golden streams, have hostile text after each key, after each text and in place of
each other value, one at a time and all at once. So a new line of the log, note or view is tried without a test of its
own.
"""

import asyncio
import json
import logging
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from pkgutil import get_data
from typing import Any
from xml.etree import ElementTree

import pytest
from force_stream.addon import hooks as addon
from force_stream.cli import main
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy.notes import was_made_to_stream
from force_stream.proxy.request import body_of
from force_stream.proxy.stream_layer import StreamLayerAddon
from force_stream.rules.file import parse_rules
from force_stream.rules.keys import KEYS
from force_stream.view import contentview
from harness import Answer, Certs, CutChunk, Data, End, Head, Http1Client, Proxy, Upstream
from harness.golden import CASES
from harness.hostile import (
    ENCODABLE,
    FAILURES,
    HOSTILE,
    KINDS,
    LONG,
    at_every_place,
    at_one_place,
    dumped,
    raw,
    seen_on,
    streams_like,
    unfit,
    unprintable,
    with_fields,
)
from harness.master import answer_with, flow_with
from harness.page import client_of
from harness.paths import ADDON
from harness.proxy import MITMDUMP, START_TIMEOUT
from harness.samples import CHAT, SECRET, STREAM
from mitmproxy import http
from mitmproxy.contentviews import Metadata
from mitmproxy.exceptions import CommandError
from mitmproxy.flow import Error
from mitmproxy.io import FlowWriter, tnetstring
from mitmproxy.test import taddons

RULES = """\
rules:
  - {name: other, hosts: [other.test], force_upstream_stream: true}
  - {name: narrow, hosts: ["*"], models: ["nobody-has-it"], force_upstream_stream: true}
  - {name: filtered, hosts: ["*"], filter: "~hq nobody-sends-it", force_upstream_stream: true}
  - {name: learning, hosts: [learning*], learn: true}
  - {name: partial, hosts: ["partial.test*"], on_truncated: partial, force_upstream_stream: true}
  - {name: all, hosts: ["127.0.0.1*", "refusing*"], force_upstream_stream: true}
"""

TEMPLATES = (get_data("force_stream.page", "page.html") or b"").decode()
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MESSAGES = [{"role": "user", "content": SECRET}]
# A request for each endpoint with what a line of ours may name.
REQUESTS: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "messages": MESSAGES,
        "modalities": ["text", "audio"],
        "audio": {"format": "pcm16", "voice": "v"},
        "response_format": {"type": "json_schema"},
        "tools": [TOOL],
        "n": 1,
        "stream": False,
        "stream_options": {"include_usage": True},
    },
    "completions": {"model": "m", "prompt": SECRET, "best_of": 1, "n": 1, "stream": None},
    "responses": {"model": "m", "input": SECRET, "tools": [TOOL], "background": False},
    "messages": {"model": "m", "messages": MESSAGES, "max_tokens": 1, "tools": [{"name": "t"}]},
    "transcriptions": {"model": "m", "response_format": "json", "language": "en"},
    "images": {"model": "m", "prompt": SECRET, "n": 1, "response_format": "b64_json"},
}
REFUSALS = (
    "Streaming is not supported for this model",
    "stream_options is not supported",
    "This model only supports stream mode",
)


class Watched:
    """The addon with what it shows of flow after flow; `problems`: what is wrong with that. `plain`: the answer to a
    request that it sends as it came."""

    def __init__(self, ours: addon.ForceStream, context: taddons.context, log: list[logging.LogRecord]) -> None:
        self.problems: dict[str, str] = {}
        self.count = 0
        self.plain = STREAM
        self._ours = ours
        self._context = context
        self._log = log

    async def play(self, place: str, flow: http.HTTPFlow, answer: http.Response | str | None) -> None:
        """A flow from its request to its end, which is an answer, or the message of mitmproxy's error."""
        await self._ours.request(flow)
        flow.response = answer if isinstance(answer, http.Response) else None
        if flow.response is None:
            flow.error = Error(answer or "gone")
            self._ours.error(flow)
        else:
            self._ours.responseheaders(flow)
            await self._ours.response(flow)
        await asyncio.sleep(0)
        self.look_at(place, flow)

    async def send_attempt(self, flow: http.HTTPFlow, options: object) -> None:
        flow.live = True
        if was_made_to_stream(flow):
            answer_with(flow, STREAM)
        else:
            answer_with(flow, self.plain, "application/json")
        await self._ours.response(flow)

    async def compare(self, place: str, plain: bytes) -> None:
        """What `force_stream.compare` says, and the rule to paste."""
        self.plain = plain
        flow = flow_to("chat")
        self._context.master.commands.call("force_stream.compare", [flow])
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        self.look_at(place, flow)

    def aggregate(self, place: str, flow: http.HTTPFlow) -> None:
        """What `force_stream.aggregate` says of a flow that was read from a file, and makes of it."""
        try:
            self._context.master.commands.call("force_stream.aggregate", [flow])
        except CommandError as error:  # mitmproxy logs it
            if wrong := unfit(f"{error}"):
                self.problems[f"{place}, in the command's error"] = wrong
        self.look_at(place, flow, ours=False)

    def look_at(self, place: str, flow: http.HTTPFlow, *, ours: bool = True) -> None:
        """`ours`: all notes on the flow are the addon's own."""
        self.count += 1
        for where, text in self._seen(flow):
            if where.startswith("force_stream.") and not ours:
                continue
            wrong = unfit(text) or ("has a key" if SECRET in text else "") or ("fault of" in text and text)
            wrong = wrong or (where == "log" and not_to_paste(text, flow))
            if wrong:
                self.problems.setdefault(f"{place}, in the {where}", f"{wrong!a}: {text[:200]!a}")
        self._log.clear()
        try:
            if ours:
                tnetstring.dumps(flow.metadata)
        except ValueError as error:
            self.problems.setdefault(f"{place}, in the flow file", f"{type(error).__name__}")
        if self.count % 50 == 0:
            self.look_at_page()

    def _seen(self, flow: http.HTTPFlow) -> Iterator[tuple[str, str]]:
        yield from seen_on(flow)
        for record in self._log:
            yield "log", record.getMessage()
        call = self._context.master.commands.call
        yield "explanation", "\n".join(call("force_stream.explain", [flow]))
        if flow.response is not None:
            about = Metadata(content_type="text/event-stream", flow=flow, http_message=flow.response)
            yield "view", contentview.view.prettify(flow.response.raw_content or b"", about)

    def look_at_page(self) -> None:
        call = self._context.master.commands.call
        for command in ("rules", "stats"):
            if wrong := unfit("\n".join(call(f"force_stream.{command}"))):
                self.problems.setdefault(f"the command {command}", wrong)
        client = client_of(self._ours)
        for path in ("/", "/stats", "/flows", "/rules"):
            text = client.get(path).text
            if wrong := unfit("\n".join(texts_of(path, text))):
                self.problems.setdefault(f"the page {path}", wrong)
        for flow in client.get("/flows?limit=50").json:
            ElementTree.fromstring(client.get(f"/flows/{flow['id']}.svg").text)


def not_to_paste(line: str, flow: http.HTTPFlow) -> str:
    """What is wrong with the rule that a line tells a person to paste; "" if nothing is, or if there is none."""
    pasted = re.search(r"- \{name: .*\}$", line) or re.search(r"fill: \{.*\}$", line)
    if pasted is None:
        return ""
    is_rule = pasted[0].startswith("-")
    (rule,) = parse_rules(
        f"rules:\n- {pasted[0][2:] if is_rule else f'{{name: r, hosts: [x], {pasted[0]}}}'}", "pasted"
    )
    body = body_of(flow)
    asked = body.members if body else {}
    why = rule.mismatch(((flow.request.host, flow.request.port),), flow.request.path, asked, flow) if is_rule else None
    return f"is not the request's rule: {why}" if why else ""


def texts_of(path: str, text: str) -> list[str]:
    """What a person reads of a part of the page; fails where there is an element that is not the page's."""
    if path != "/":
        return [json.dumps(json.loads(text), ensure_ascii=False, indent=0)]
    parser = HTMLParser()
    found: list[str] = []
    parser.handle_data = found.append  # type: ignore[method-assign]

    def handle(tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert f"<{tag}" in TEMPLATES
        found.extend(value or "" for _, value in attributes)

    parser.handle_starttag = handle  # type: ignore[method-assign]
    parser.feed(text)
    return found


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []
        self.emit = self.records.append  # type: ignore[method-assign]


@pytest.fixture
def watch(run: Callable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable], None]]:
    """`watch(test)`: call a coroutine function with a `Watched`, and fail with what is wrong."""
    # A log of its own: pytest's report cannot hold half of a surrogate pair.
    log, logger = Log(), logging.getLogger("force_stream")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(log)

    def watch(test: Callable) -> None:
        async def watched(ours: addon.ForceStream, context: taddons.context) -> None:
            ours.can_send = True
            watched = Watched(ours, context, log.records)
            monkeypatch.setattr(StreamLayerAddon, "send_attempt", staticmethod(watched.send_attempt))
            log.records.clear()
            await test(watched)
            watched.look_at_page()
            assert watched.count
            assert not watched.problems, report(watched)

        run(watched)

    yield watch
    logger.removeHandler(log)


def report(watched: Watched) -> str:
    shown = [f"{place}: {what}" for place, what in watched.problems.items()]
    return "\n".join([f"{len(shown)} places of {watched.count} flows:", *shown[:30]])


def path_of(endpoint: str) -> str:
    return f"/v1{ENDPOINTS[endpoint].paths[0]}?key={SECRET}"


def flow_to(endpoint: str, body: Any = None, host: str = "127.0.0.1") -> http.HTTPFlow:
    return flow_with(dumped(REQUESTS[endpoint] if body is None else body), path=path_of(endpoint), host=host)


def answer(
    body: bytes, status: int = 200, content_type: bytes = b"text/event-stream", **headers: bytes
) -> http.Response:
    fields = [(b"content-type", content_type), *((name.replace("_", "-").encode(), headers[name]) for name in headers)]
    made = http.Response.make(status, body)
    made.headers.fields = tuple(fields)
    return made


# What a client sends


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_a_client_asks_for_is_shown_printable_and_short(watch: Callable, endpoint: str) -> None:
    async def test(watched: Watched) -> None:
        bodies = [*at_one_place(REQUESTS[endpoint], LONG), ("all", at_every_place(REQUESTS[endpoint], LONG))]
        for place, body in bodies:
            for host in ("127.0.0.1", "partial.test"):
                await watched.play(f"{place} with 200", flow_to(endpoint, body, host), answer(STREAM))
                await watched.play(f"{place} with 500", flow_to(endpoint, body, host), answer(b"", 500))
                await watched.play(f"{place} without an answer", flow_to(endpoint, body, host), "reset")
            for said in REFUSALS:
                refusal = answer(dumped({"error": {"message": said, "param": LONG}}), 400, b"application/json")
                for name in ("refusing", "learning", "unknown"):
                    host = f"{name}-{watched.count}.test"  # nothing was learned of it
                    await watched.play(f"{place} with {said!r}", flow_to(endpoint, body, host), refusal.copy())

    watch(test)


def with_request(**changes: Any) -> http.HTTPFlow:
    flow = flow_to("chat")
    for name, value in changes.items():
        setattr(flow.request.data, name, value)
    return flow


@pytest.mark.parametrize("text", [*KINDS.values(), LONG], ids=[*KINDS, "all"])
def test_the_head_of_a_request_is_shown_printable_and_short(watch: Callable, text: str) -> None:
    names = ("accept", "cache-control", "accept-encoding", "content-type", "content-encoding", "host", "x-other")

    async def test(watched: Watched) -> None:
        for status in (200, 400, 502):
            for host in ("127.0.0.1", "learning.test", "unknown.test"):
                heads = {
                    "path": with_request(path=b"/" + raw(text) + CHAT.encode(), host=host),
                    "end of the path": with_request(path=CHAT.encode() + raw(text), host=host),
                    "method": with_request(method=raw(text), host=host),
                    "host": with_request(host=host + text),
                    "authority": with_request(authority=raw(text), host=host),
                    "scheme": with_request(scheme=raw(text), host=host),
                    **{name: with_request(host=host) for name in names},
                    "sni": with_request(host=host),
                }
                heads["sni"].client_conn.sni = text.encode(errors="replace").decode()
                for name in names:
                    heads[name].request.headers.fields += ((name.encode(), raw(text)), (raw(text), raw(text)))
                for place, flow in heads.items():
                    await watched.play(f"{place} with {status}", flow, answer(STREAM if status == 200 else b"", status))

    watch(test)


# What an upstream sends


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_an_upstream_streams_is_shown_printable_and_short(watch: Callable, endpoint: str) -> None:
    known: dict[str, set[str]] = defaultdict(set)
    body = {"model": "m"}

    async def test(watched: Watched) -> None:
        for case in CASES:
            if case.endpoint != endpoint or len(case.stream) > 20_000:
                continue
            host = "partial.test" if case.folder == "broken" else "127.0.0.1"
            for place, stream in streams_like(case.stream, known[host], LONG):
                await watched.play(f"{case.path.stem}: {place}", flow_to(endpoint, body, host), answer(stream))
            await watched.play(case.path.stem, flow_to(endpoint, body, host), answer(with_fields(case.stream)))

    watch(test)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_how_an_upstream_fails_is_shown_printable_and_short(watch: Callable, endpoint: str) -> None:
    begun = next(case.stream for case in CASES if case.folder == endpoint)[:200]
    labels = (b"text/event-stream", raw(), b"text/event-stream; charset=" + raw())

    async def test(watched: Watched) -> None:
        for number, said in enumerate(FAILURES):
            for body in (said, begun + b"\n\n" + said):
                for status in (200, 400, 503):
                    for label in labels:
                        for host in ("127.0.0.1", "partial.test"):
                            head = {"retry_after": raw(), "server": raw(), "x_request_id": raw()}
                            place = f"failure {number} with {status} as {label[:20]!r}"
                            flow = flow_to(endpoint, {"model": "m"}, host)
                            await watched.play(place, flow, answer(body, status, label, **head))
        for coding in (raw(), b"gzip", b"br, " + raw(), b"x" * 100_000, b"zstd"):
            coded = answer(b"\x28\xb5\x2f\xfd" + raw(), 200, b"text/event-stream", content_encoding=coding)
            await watched.play("coding", flow_to(endpoint), coded)
        for message in (ENCODABLE, "x" * 5_000):
            await watched.play("message", flow_to(endpoint), message)
            for own in ({"stream": True}, {"stream": True, "model": message}):
                await watched.play("own stream", flow_to(endpoint, own), message)
                await watched.play("own stream", flow_to(endpoint, own), answer(FAILURES[0]))

    watch(test)


def test_two_answers_are_compared_printable_and_short(watch: Callable) -> None:
    document = {"model": "m", "choices": [{"message": {"content": "Hi", "refusal": None}, "finish_reason": "stop"}]}

    async def test(watched: Watched) -> None:
        for place, plain in [*at_one_place(document, LONG), ("all", at_every_place(document, LONG))]:
            await watched.compare(place, dumped(plain))

    watch(test)


# Flow files


def hostile_copy(flow: http.HTTPFlow) -> http.HTTPFlow:
    """The flow as somebody may have edited it: the text is in all of the addon's notes that are text."""
    made = flow.copy()
    for key, value in flow.metadata.items():
        known = key.removeprefix("force_stream.")
        if isinstance(value, str) and known not in ("endpoint", "fill", "on_truncated"):
            made.metadata[key] = value + ENCODABLE
        elif known == "odd":
            made.metadata[key] = [ENCODABLE, "x" * 5_000] * 100
    made.comment = ""
    return made


def test_what_a_flow_file_says_is_shown_printable_and_short(watch: Callable) -> None:
    async def test(watched: Watched) -> None:
        for body in (STREAM, STREAM[:400], FAILURES[1]):
            for own in ({}, {"stream": True}, {"model": HOSTILE}):
                flow = flow_to("chat", REQUESTS["chat"] | own)
                await watched.play("before", flow, answer(body))
                edited = hostile_copy(flow)
                watched.look_at("edited", edited, ours=False)
                watched.aggregate("aggregated", edited)
        unknown = with_request(path=b"/" + raw())
        unknown.response = answer(STREAM)
        watched.aggregate("at no endpoint", unknown)

    watch(test)


# Real programs


# What a header of HTTP/1 can hold; the harness sends Latin-1.
IN_A_HEADER = re.sub(r"[\s\x00]", "", ENCODABLE).encode().decode("latin-1")


def test_a_real_mitmdump_prints_nothing_that_a_terminal_obeys(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, certs: Certs, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.replace("[learning*], learn", "[127.0.0.1], models: ['learned*'], learn"))
    options, flows = {"force_stream_rules": rules}, tmp_path / "flows"
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[ADDON], options=options, flow_file=flows)
    named = with_fields(STREAM.replace(b'"stop"', dumped("stop" + HOSTILE)))
    plain = dumped({"error": {"message": "This model only supports stream mode", "param": HOSTILE}})
    answers = [
        Answer.of(Head(headers={"Retry-After": IN_A_HEADER}), Data(named), End()),
        Answer.of(Head(500, reason=IN_A_HEADER, content_type=IN_A_HEADER), Data(raw()), End()),
        Answer.of(Head(content_type=f"text/event-stream; {IN_A_HEADER}"), Data(STREAM[:200]), CutChunk()),
        Answer.of(Head(headers={"Content-Encoding": IN_A_HEADER}), Data(FAILURES[1]), End()),
        Answer.of(Head(400, content_type="application/json"), Data(plain), End()),
    ]
    bodies = [
        *(dumped(REQUESTS["chat"] | {"model": f"m{text}"}) for text in KINDS.values()),
        *(dumped(REQUESTS["chat"] | {"model": f"learned{text}"}) for text in KINDS.values()),
        dumped(at_every_place(REQUESTS["chat"])),
        dumped(REQUESTS["chat"] | {"audio": {"format": HOSTILE}}),
        dumped(REQUESTS["chat"] | {"model": LONG}),
    ]
    heads = [("Authorization", f"Bearer {SECRET}"), ("Accept", IN_A_HEADER), ("Content-Type", IN_A_HEADER)]
    for each in answers:
        upstream.answer_always(each)
        for body in bodies:
            for path in (CHAT, f"/{IN_A_HEADER}{CHAT}?key={SECRET}"):
                with Http1Client(proxy.url) as client:
                    client.request("POST", path, heads, body)
    proxy.stop()
    assert "finish stop" in proxy.log
    assert not unfit(proxy.log)
    assert SECRET not in proxy.log
    saved_flows = proxy.saved_flows()
    assert len(saved_flows) >= len(answers) * len(bodies) * 2

    edited = tmp_path / "edited"
    with edited.open("wb") as file:
        for flow in saved_flows:
            for each in (flow, hostile_copy(flow)):
                FlowWriter(file).add(each)
    settings = {"confdir": certs.confdir(tmp_path / "confdir"), "flow_detail": 0, "force_stream_rules": rules}
    line = [f"{MITMDUMP}", "-nr", f"{edited}", "-s", f"{ADDON}", "--set", "force_stream_aggregate=true"]
    line += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(line, capture_output=True, timeout=START_TIMEOUT, check=True)
    text = (done.stdout + done.stderr).decode()
    assert text.count("finish stop") > 10
    assert not unfit(text)


def test_the_command_line_prints_nothing_that_a_terminal_obeys(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = re.sub("[\0/]", "", ENCODABLE)[:60]
    streams = [case.stream for case in CASES if case.folder in ("chat", "plain")][::20]
    streams += [stream for _, stream in streams_like(STREAM, set())]
    for body in [*FAILURES, *map(with_fields, streams), *streams, raw() * 10, dumped(HOSTILE), f'["{name}"]'.encode()]:
        Path(name).write_bytes(body)
        for endpoint in ("chat", "responses"):
            main(["aggregate", "--endpoint", endpoint, name, name])
    main(["aggregate", f"{name}-missing"])
    main(["check", f"{name}-missing"])
    for text in (*KINDS.values(), HOSTILE):
        quoted = dumped(text.replace("\ud800", "")).decode()
        for keys in (
            f"name: {quoted}, hosts: [x]",
            f"name: a, hosts: [{quoted}]",
            f"name: a, hosts: [x], {quoted}: true",
            *(f"name: a, hosts: [x], {key}: {quoted}" for key in KEYS),
            *(f"name: a, hosts: [x], {key}: {{{quoted}: {quoted}}}" for key in KEYS),
            *(f"name: a, hosts: [x], {key}: [{quoted}]" for key in KEYS),
            f'name: a, hosts: [x], paths: {{"/a{quoted[1:-1]}": chat}}',
            f"name: a, hosts: [x], models: !{text.encode(errors='replace').decode()} x",
        ):
            Path(name).write_text(f"rules:\n- {{{keys}}}\n", errors="replace")
            main(["check", name])
        Path(name).write_text(text, errors="replace")
        main(["check", name])
    out, said = (text.decode() for text in capfdbinary.readouterr())
    assert out
    assert not unprintable(out.replace("\t", ""))
    assert not unfit(said)
