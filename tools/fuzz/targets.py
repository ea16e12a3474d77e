"""What the fuzzer tries: bytes made into a case, and the laws that hold for every case.

A target is a function of bytes that raises where a law is broken. Knows the laws alone; how bytes are found that break
one is fuzz.py's business. The tests run every target over its seeds.
"""

import asyncio
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import wire
from choices import Choices
from force_stream.answer import patterns
from force_stream.answer.events import Event
from force_stream.answer.quirks import QUIRKS
from force_stream.answer.reader import AnswerSpec
from force_stream.answer.report import Reply, Report
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy import explain, request, response, summary
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.notes import NOTES, UnreadableFlow
from force_stream.proxy.saved import aggregate_again
from force_stream.rules.describe import changes, describe
from force_stream.rules.file import RulesError, parse_rules, with_value
from force_stream.rules.keys import KEYS
from force_stream.rules.rule import Rule
from force_stream.view import contentview, timeline, timeline_text
from force_stream.view.timeline_text import About
from force_stream.wire import jsontext
from force_stream.wire.form_body import Form, read_form
from force_stream.wire.json_body import BLOCK, read_body, undo
from force_stream.wire.sse import EventStreamDecoder
from mitmproxy import http
from mitmproxy.contentviews import Metadata
from mitmproxy.flow import Flow
from mitmproxy.io import FlowReader, tnetstring
from mitmproxy.test import tflow

GOLDEN: Final = Path(__file__).resolve().parents[2] / "tests" / "golden"


# Event streams


class Never(patterns.Repeats):
    """Parses every chunk: no event becomes a template."""

    def _learn(self, event: Event, known: patterns.Templates | None) -> None:
        pass

    def _match_run(self, templates: patterns.Templates, data: bytes, start: int) -> tuple[int, bool]:
        raise AssertionError("a chunk was taken by its bytes")


@dataclass(frozen=True)
class Stream:
    """An upstream's answer, and how it is read."""

    body: bytes
    spec: AnswerSpec
    status: int = 200
    content_type: str = ""
    cut: str = ""
    sizes: tuple[int, ...] = (1 << 30,)

    def read(self, way: type[patterns.Repeats], sizes: Sequence[int]) -> tuple[Reply | None, Report]:
        answer = self.spec.read(self.status, self.content_type)
        answer._repeats = way(answer._reader)
        for piece in split(self.body, sizes):
            answer.feed(piece)
            assert isinstance(answer.ended, bool)
            assert isinstance(answer.finished, bool)
        return answer.finish(self.cut), answer.report


def split(body: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The body in pieces of these sizes, again and again; of more, where that would be too many pieces."""
    at = turn = 0
    while at < len(body):
        size = max(sizes[turn % len(sizes)], len(body) // MOST_PIECES)
        yield body[at : at + size]
        at, turn = at + size, turn + 1


def check_stream(stream: Stream) -> None:
    """No body raises, every reply is JSON, and neither the pieces nor the short cut change anything."""
    whole = stream.read(patterns.Repeats, [1 << 30])
    assert_is_an_answer(stream, whole[0])
    assert stream.read(Never, [1 << 30]) == whole, "taking repeated chunks by their bytes changed the answer"
    assert stream.read(patterns.Repeats, stream.sizes) == whole, f"pieces of {stream.sizes} changed the answer"
    assert stream.read(Never, stream.sizes) == whole, f"pieces of {stream.sizes} changed the answer, read plainly"
    if len(stream.body) < 400:
        assert stream.read(patterns.Repeats, [1]) == whole, "single bytes changed the answer"
    assert decoded([stream.body]) == decoded(split(stream.body, stream.sizes)), "pieces changed the events"


def decoded(pieces: Iterator[bytes] | list[bytes]) -> Any:
    decoder = EventStreamDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.close(), decoder.lines, decoder.unknown_lines


def assert_is_an_answer(stream: Stream, reply: Reply | None) -> None:
    if reply is None:
        return
    if reply.body in stream.body:
        # The upstream's own JSON, which is not ours to mend.
        jsontext.loads(reply.body.decode("utf-8-sig", "replace"))
        return
    document = strict(reply.body)
    assert reply.status == stream.status or reply.status == 200 or 400 <= reply.status <= 599
    if reply.status >= 400:
        assert document["error"]["message"]


def strict(text: bytes) -> Any:
    """A JSON text by the letter, with every number as its text."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_int=str, parse_float=str, parse_constant=refuse)


STATUSES: Final = (200, 200, 200, 200, 201, 204, 301, 400, 429, 503)
CONTENT_TYPES: Final = ("text/event-stream", "", "application/json; charset=utf-8", "text/plain")
MOST_PIECES: Final = 5_000
PIECES: Final = (1, 2, 3, 5, 7, 13, 31, 64, 100, 257, 1000)


def reading(choices: Choices) -> Callable[[bytes], Stream]:
    """All of a stream but its body."""
    endpoint = choices.pick(list(ENDPOINTS))
    how = choices.below(256)
    quirks = tuple(name for place, name in enumerate(QUIRKS) if how & 64 and choices.below(256) >> place & 1)
    spec = AnswerSpec("fuzz", endpoint, "m", 1 + (how >> 4 & 1), ("error", "partial")[how & 1], quirks)
    status = choices.pick(STATUSES)
    content_type = choices.pick(CONTENT_TYPES)
    cut = "the connection was closed" if how & 2 else ""
    sizes = tuple(choices.pick(PIECES) for _ in range(1 + (how >> 2 & 3)))
    return lambda body: Stream(body, spec, status, content_type, cut, sizes)


def stream_of_bytes(data: bytes) -> Stream:
    choices = Choices(data)
    return reading(choices)(choices.rest())


# Streams by a grammar: chunks as upstreams send them, with something wrong here and there

DEEP: Final = "\x01deep:{}\x01"
ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, 2, -1, 7, 10**12, 10**400, 0.5, -0.0, 1e300),
    *("", " ", "stop", "length", "null", "error", "a", '"', "\\", "\n", "\r", "\u2028", "\ud83d", "\ude00", "é", "\0"),
    *("0", "1", "429", "9" * 5000, "-1", "{}", '{"a":', "}", "[", "<think>", "</think>", "data: [DONE]"),
    *([], {}, [None], [[]], [{}], {"": None}, [{"index": 0}], [{"index": 1, "text": "b"}], {"index": "0"}),
    *(DEEP.format(50), DEEP.format(400), DEEP.format(990), DEEP.format(5_000), DEEP.format(60_000)),
)
ODD_TEXTS: Final = tuple(odd for odd in ODD if isinstance(odd, str))
ODD_BYTES: Final = (b"", b'"', b"\\", b"\n", b"\r", b"}", b"\xff", b"\xef\xbb\xbf")
FRAMES: Final = (
    b"data: %s\n\n",
    b"data: %s\n\n",
    b"data: %s\n\n",
    b"data:%s\n\n",
    b"data: %s\r\n\r\n",
    b"data: %s\n",
    b"event: message\ndata: %s\n\n",
    b"event: error\ndata: %s\n\n",
    b": note\n\ndata: %s\n\n",
    b"id: 1\ndata: %s\n\n",
    b"%s\n",
    b"error: %s\n",
    b"data: %s\r\r",
    b" data: %s\n\n",
)
ENDS: Final = (b"data: [DONE]\n\n", b"data: [DONE]", b"", b"data: {", b"\n", b"event: done\ndata: [DONE]\n\n")


@cache
def chunks_of(endpoint: str) -> list[Any]:
    """What the golden streams of an endpoint say, each chunk once and in their order, but for those nested deeply."""
    files = [path for path in sorted(GOLDEN.rglob("*.sse")) if endpoint in (path.parent.name, path.stem.split("_")[0])]
    decoders = ((EventStreamDecoder(), path.read_bytes()) for path in files)
    events = [event for decoder, body in decoders for event in [*decoder.feed(body), *decoder.close()]]
    texts = dict.fromkeys(event.data for event in events if "[[[[[[" not in event.data)
    return [chunk for text in texts if isinstance(chunk := value_of(text), dict)]


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


type Place = tuple[Any, Any]


@cache
def keys_of(endpoint: str) -> list[str]:
    return sorted({key for chunk in chunks_of(endpoint) for container, key in places(chunk) if isinstance(key, str)})


def places(value: Any) -> Iterator[Place]:
    """Every place inside a JSON value, as its container and its key there."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in inside:
        yield value, key
        yield from places(inner)


def mutate(chunk: Any, choices: Choices, endpoint: str) -> None:
    """One thing wrong in a chunk, in place."""
    known = list(places(chunk))
    if not known:
        return
    container, key = choices.pick(known)
    what = choices.below(8)
    if what <= 2:
        container[key] = deepcopy(choices.pick(ODD))
    elif what == 3:
        del container[key]
    elif what == 4 and isinstance(container, dict):
        container[choices.pick(keys_of(endpoint))] = deepcopy(choices.pick(ODD))
    elif what == 5:
        container[key] = choices.pick(([container[key]], {"index": 0, "text": container[key]}))
    elif what == 6:
        other, place = choices.pick(list(places(choices.pick(chunks_of(endpoint)))) or [([None], 0)])
        container[key] = deepcopy(other[place])
    elif isinstance(container, list):
        container.insert(key, deepcopy(container[key]))


def texts_in(chunk: Any) -> list[Place]:
    return [(container, key) for container, key in places(chunk) if isinstance(container[key], str)]


def dumped(chunk: Any, choices: Choices) -> bytes:
    layout = choices.below(4)
    text = json.dumps(chunk, ensure_ascii=layout == 1, separators=(", ", ": ") if layout == 2 else (",", ":"))
    for depth in (50, 400, 990, 5_000, 60_000):
        text = text.replace(json.dumps(DEEP.format(depth)), "[" * depth + "]" * depth)
    return text.encode("utf-8", "surrogatepass")


COMMENTS: Final = (b": still here\n\n", b": a\n: b\n\n", b': data: {"choices": []}\n\n', b":\xff\r\n\r\n")


def vary(chunk: Any, how: int, number: int) -> None:
    """What differs, beside a text, in chunks that are otherwise alike: whose turn it is, ids, running totals, and
    numbers in lists."""
    for container, key in list(places(chunk)):
        value = container[key]
        if key == "index" and how & 1:
            container[key] = number % 3
        elif key == "id" and how & 2 and isinstance(value, str):
            container[key] = f"id-{number}"
        elif key == "usage" and how & 4:
            container[key] = {
                "prompt_tokens": 7,
                "completion_tokens": number,
                "details": {"cached_tokens": number // 4},
            }
        elif how & 128 and type(value) in (int, float) and (key == "logprob" or isinstance(container, list)):
            container[key] = number * 7 if type(value) is int else -number / 7
        elif how & 8 and isinstance(key, str) and isinstance(value, str) and container.get("reasoning") == value:
            container["text"] = value


def stream_by_grammar(data: bytes) -> Stream:
    choices = Choices(data)
    stream = reading(choices)
    endpoint = stream(b"").spec.endpoint
    known = chunks_of(endpoint)
    events: list[bytes] = []
    while choices and len(events) < 40:
        chunk = deepcopy(choices.pick(known))
        for _ in range(choices.pick((0, 0, 1, 1, 2, 5))):
            mutate(chunk, choices, endpoint)
        frame = choices.pick(FRAMES)
        # Like chunks in a row, and one text that differs: what the short cut is for.
        changing = texts_in(chunk)
        container, key = choices.pick(changing) if changing else ({}, "")
        how = choices.below(256)
        for number in range(choices.pick((1, 1, 2, 4, 6, 12))):
            vary(chunk, how, number)
            events.append(frame.replace(b"%s", dumped(chunk, choices)))
            events.append(COMMENTS[how >> 5 & 3] if how & 16 and number % 2 else b"")
            container[key] = choices.pick(("a", f"w{number}", *ODD_TEXTS))
    body = b"".join(events) + choices.pick(ENDS)
    if choices.below(4) == 3:
        at = choices.below(max(1, len(body)))
        body = body[:at] + choices.pick(ODD_BYTES) + body[at + 1 :]
    return stream(body)


# Requests

OPTIONS: Final[tuple[Mapping[str, Any] | None, ...]] = (
    None,
    {},
    {"include_usage": True},
    {"include_usage": True, "obfuscation": None, "ß": "\u2028", 'q"': 0.5},
)
BLOCKS: Final = (6, 7, 8, 16, 33, BLOCK)
BODIES: Final = (
    b'{"model":"m","messages":[{"role":"user","content":"Hi \\u00e9\\n\\"x\\""}],"temperature":0.10,"n":1e0}',
    b' {\n  "stream" : false ,\n  "model" : "m",\n  "stream_options" : { "include_usage" : false, "a" : [1] } }\n',
    b'{"stream":null,"str\\u0065am":true,"stream_options":null,"a":{"stream":1},"b":[{"c":"}"},{"d":"]"}]}',
    b'\xef\xbb\xbf{"prompt":["a","b"],"stream":false,"stream":0,"big":123456789012345678901234567890,"x":-0}',
    '{"messages":[{"role":"user","content":"日本語 \U0001f600 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}],"ü":1}'.encode(),
    b"{}",
    b'{"stream_options":{"include_usage":false,"include_usage":1}}',
)


def check_request(data: bytes) -> None:
    """What the edit of a body may change, and that it can be undone to the byte."""
    choices = Choices(data)
    options, block = choices.pick(OPTIONS), choices.pick(BLOCKS)
    raw = choices.rest()
    members = members_of(raw)
    body = read_body(raw, block)
    if body is None:
        assert members is None, "an object of JSON was not read"
        return
    assert members is not None, "something that is not a JSON object was read"
    assert list(body.members) == list(dict(members)), "other members were read"
    for key, value in dict(members).items():
        if isinstance(body.members[key], bool) or body.members[key] is None:
            assert body.members[key] is value, f"{key} was read wrong"
        elif isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) < block // 2 and body.members[key]:
            assert body.members[key] == value, f"{key} was read wrong"

    edited = body.forced(options)
    assert undo(edited.body, edited.undo) == raw, "forcing cannot be undone"
    after = members_of(edited.body)
    assert after is not None, "forcing broke the JSON"
    touched = ("stream", "stream_options")
    assert without(after, touched) == without(members, touched), "forcing changed other members"
    assert all(value is True for key, value in after if key == "stream")
    assert "stream" in dict(after)
    own = dict(members).get("stream_options")
    assert_options(dict(after), own, options)
    again = read_body(edited.body, block)
    assert again is not None
    assert not again.asks_plain
    assert again.forced(options).undo == [], "forcing twice is not forcing once"

    shorter = body.without("stream")
    assert undo(shorter.body, shorter.undo) == raw, "leaving out cannot be undone"
    assert members_of(shorter.body) == without(members, ("stream",)), "leaving out changed other members"


def assert_options(after: Mapping[str, Any], own: Any, options: Mapping[str, Any] | None) -> None:
    if options is None:
        assert "stream_options" not in after, "stream_options stayed"
    elif options:
        kept = dict(own.members) if isinstance(own, Members) else {}
        wanted = dict(members_of(json.dumps(dict(options)).encode()) or ())
        assert dict(after["stream_options"].members) == kept | wanted, "stream_options are wrong"
    else:
        assert after.get("stream_options") == own, "stream_options changed"


@dataclass(frozen=True)
class Members:
    """An object, with all its members and in their order."""

    members: tuple[tuple[str, Any], ...]


def members_of(raw: bytes) -> list[tuple[str, Any]] | None:
    """The members of the JSON object that a body is, by Python's own parser; None if it is none."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(
            raw.decode("utf-8-sig"),
            parse_int=lambda text: ("number", text),
            parse_float=lambda text: ("number", text),
            parse_constant=refuse,
            object_pairs_hook=lambda pairs: Members(tuple(pairs)),
            strict=False,
        )
    except (ValueError, RecursionError):
        return None
    return list(value.members) if isinstance(value, Members) else None


def without(members: list[tuple[str, Any]], keys: Sequence[str]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in members if key not in keys]


# Forms

CONTENT_TYPE: Final = "multipart/form-data; boundary="
FORMS: Final = (
    b'x\n--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x\r\nContent-Disposition: '
    b'form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\n\xff\xfb\r\n--\r\n--x--\r\n',
    b'"b b"\n--b b\r\ncontent-disposition: form-data; name="stream"\r\n\r\nfalse\r\n--b b--',
    b"y\n--y\r\nContent-Disposition: form-data; name=stream\r\n\r\n\r\n--y\r\nX: y\r\n\r\n1\r\n--y--\r\nmore",
    b'z\n--z\r\nContent-Disposition: form-data; name="stream"\r\n\r\n1\r\n--z--\r\n',
)


def check_form(data: bytes) -> None:
    """The same of a form: what goes before the first line feed is its boundary."""
    boundary, _, raw = data.partition(b"\n")
    content_type = CONTENT_TYPE + boundary.decode("latin-1")
    form = read_form(raw, content_type)
    if form is None:
        return
    assert isinstance(form.asks_plain, bool)
    edited = form.forced({"include_usage": True})
    assert undo(edited.body, edited.undo) == raw, "forcing cannot be undone"
    after = read_form(edited.body, content_type)
    assert after is not None, "forcing broke the form"
    assert after.members.get("stream") == "true" or is_file(form), "the form does not ask for a stream"
    assert {**after.members, "stream": ""} == {**form.members, "stream": ""}, "forcing changed other fields"
    assert after.forced(None).undo == [] or edited.body == after.forced(None).body, "forcing twice is not forcing once"


def is_file(form: Form) -> bool:
    """Whether the form's `stream` is a file, which nobody reads as an option."""
    return b"filename" in form.raw


# Rules

RULES: Final = (
    b"rules:\n  - name: a\n    hosts: [llm.example.com, '*.example.ai', '10.0.0.5:8000']\n"
    b"    force_upstream_stream: true\n    endpoints: [chat, completions]\n    paths: {/custom/generate: chat}\n"
    b"    models: ['qwen3-*']\n    filter: '~hq x-team:.*blue'\n    stream_options: {include_usage: true}\n"
    b"    on_truncated: partial\n    quirks: [think_tags]\n    timeout: 1.5\n    idle_timeout: null\n    heartbeat: 5\n"
    b"    retries: 2\n    max_body: 64MiB\n    learn: yes\n    inject: {cut_after: 3}\n",
    b"rules: []\n",
    b"rules:\n- &a {name: x, hosts: [a]}\n- *a\n",
    b'{"rules": [{"name": "j", "hosts": ["[::1]:80"], "filter": "~u x & (~m POST | !~q)"}]}',
)


def check_rules(data: bytes) -> None:
    """A text is rules, or one line says what is wrong."""
    text = data.decode("utf-8", "replace")
    try:
        rules = parse_rules(text, "rules.yaml")
    except RulesError as error:
        message = f"{error}"
    else:
        check_these(rules)
        assert parse_rules(text, "rules.yaml") == rules
        return
    assert_is_a_line(message)
    assert message.startswith("rules.yaml:")


def check_these(rules: tuple[Rule, ...]) -> None:
    for line in [*map(describe, rules), *changes((), rules), *changes(rules, ())]:
        assert_is_a_line(line)
    assert not changes(rules, rules)


def check_setting(data: bytes) -> None:
    """A value for a key is taken, or one line says what is wrong."""
    choices = Choices(data)
    key = choices.pick([*KEYS, "name", "", "hots"])
    rule = parse_rules("rules: [{name: a, hosts: [b]}]", "rules.yaml")[0]
    try:
        changed = with_value(rule, key, choices.rest().decode("utf-8", "replace"))
    except RulesError as error:
        assert_is_a_line(f"{error}")
        return
    for line in changes((rule,), (changed,)):
        assert_is_a_line(line)


def assert_is_a_line(text: str) -> None:
    assert text.isprintable(), f"not a line that can be printed: {text!r}"


# The timeline


def check_timeline(data: bytes) -> None:
    """A timeline of anything, with times of any kind, is lines that can be printed."""
    choices = Choices(data)
    way = choices.below(4)
    stream = stream_of_bytes(data) if way & 1 else stream_by_grammar(data)
    times: Any = [value for at, size in enumerate(data) for value in (at / 7, size * at)]
    if way & 2:
        times = choices.pick([*ODD, times[:-1], [1.0, len(stream.body)], [0.0, 0, 0.5, 1 << 70]])
    read = timeline.read(
        stream.body, times, ended=choices.pick([None, 0.0, 1e9]), endpoint=choices.pick(["", *ENDPOINTS])
    )
    text = timeline_text.text(read, About(truncated=True))
    assert all(line.isprintable() for line in text.split("\n"))


# Flow files

NAMES: Final = (*(f"force_stream.{each.name}" for each in NOTES), "force_stream.of_tomorrow", "of_another_addon")
SPECIAL: Final = (
    None,
    True,
    False,
    10**40,
    -(10**9),
    float("nan"),
    float("inf"),
    1.5,
    "",
    b"",
    "chat",
    "error",
    "\x1b[2J",
)
TOUCHING: Final = (
    parse_rules("rules: [{name: all, hosts: [llm.test], force_upstream_stream: true}]", "rules.yaml"),
    (),
)


@cache
def saved_flow() -> bytes:
    """The file of a flow that was forced and answered."""
    flow = tflow.tflow(resp=True)
    flow.request.url = "http://llm.test/v1/chat/completions"
    flow.request.raw_content = b'{"model": "m", "messages": []}'
    rule = TOUCHING[0][0]
    body = request.body_of(flow)
    assert body is not None
    assert flow.response is not None
    spec = request.force(flow, body, rule, ENDPOINTS["chat"])
    assert spec is not None
    chunk = (
        b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    flow.response = http.Response.make(200, chunk, {"content-type": "text/event-stream"})
    attempt = Attempt(spec, rule)
    response.observe_whole(flow, attempt)
    reply = attempt.finish()
    assert reply is not None
    response.store_answer(flow, attempt, None)
    response.set_reply(flow, reply)
    summary.summarize(flow, attempt)
    return tnetstring.dumps(flow.get_state())


def flow_in(file: bytes) -> Flow | None:
    """What mitmproxy makes of a file, if it makes anything of it."""
    try:
        return next(iter(FlowReader(io.BytesIO(file)).stream()), None)
    except Exception:
        return None


def foreign_flow(choices: Choices) -> Flow | None:
    """The saved flow with other notes, or with other bytes in its file."""
    if choices.below(4) == 3:
        file = bytearray(saved_flow())
        while choices:
            file[choices.below(1 << 16) % len(file)] = choices.below(256)
        return flow_in(bytes(file))
    flow = flow_in(saved_flow())
    assert flow is not None
    while choices:
        name = choices.pick(NAMES)
        match choices.below(8):
            case 0:
                flow.metadata.pop(name, None)
            case 1:
                flow.metadata[name] = flow.metadata.get(choices.pick(NAMES))
            case 2:
                flow.metadata[name] = choices.rest()
            case _:
                flow.metadata[name] = foreign_value(choices)
    return flow


def foreign_value(choices: Choices, depth: int = 4) -> Any:
    kind = choices.below(6 if depth else 3)
    if kind == 0:
        return choices.pick(SPECIAL)
    if kind == 1:
        return choices.below(1 << 16) - 16
    if kind == 2:
        return "".join(map(chr, (choices.below(256) for _ in range(choices.below(6)))))
    if kind == 3:
        return {f"{choices.below(3)}": foreign_value(choices, depth - 1) for _ in range(choices.below(3))}
    values = [foreign_value(choices, depth - 1) for _ in range(choices.below(5))]
    return [*values, b"x"] if kind == 4 else values


def check_flows(data: bytes) -> None:
    """Nothing that reads a flow of a file raises or changes it; and its answer is made again, or stays as it is."""
    choices = Choices(data)
    rules = choices.pick(TOUCHING)
    flow = foreign_flow(choices)
    if not isinstance(flow, http.HTTPFlow):
        return
    before = repr(flow.get_state())
    read_flow(flow, rules)
    assert repr(flow.get_state()) == before, "reading a flow changed it"
    try:
        stream = response.upstreams_body(flow)
        if stream is not None:
            asyncio.run(aggregate_again(flow, stream, rules))
    except UnreadableFlow:
        assert repr(flow.get_state()) == before, "a flow that cannot be read was changed"
    else:
        if stream is not None and flow.response is not None:
            assert response.upstreams_body(flow) == stream, "the event stream was not kept"


def read_flow(flow: http.HTTPFlow, rules: tuple[Rule, ...]) -> None:
    if flow.response is not None:
        shown = Metadata(flow=flow, content_type="application/json", http_message=flow.response)
        contentview.view.render_priority(b"{}", shown)
        for line in contentview.view.prettify(b"{}", shown).split("\n"):
            assert_is_a_line(line)
    for line in explain.explain(flow, rules, enabled=True):
        assert_is_a_line(line)
    with suppress(UnreadableFlow):
        request.restored(flow)


STREAMS: Final = {"stream": stream_of_bytes, "grammar": stream_by_grammar, "wire": wire.case_of}
TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "stream": lambda data: check_stream(stream_of_bytes(data)),
    "grammar": lambda data: check_stream(stream_by_grammar(data)),
    "request": check_request,
    "form": check_form,
    "rules": check_rules,
    "setting": check_setting,
    "timeline": check_timeline,
    "wire": wire.check,
    "flows": check_flows,
}


def seeds(target: str) -> list[bytes]:
    """What the fuzzer begins with."""
    return _SEEDS[target]()


def _streams() -> list[bytes]:
    found = []
    for path in sorted(GOLDEN.rglob("*.sse")):
        names = [place for place, name in enumerate(ENDPOINTS) if name in (path.parent.name, path.stem.split("_")[0])]
        # By `reading`: endpoint, flags, status, content type, the size of a piece.
        found += [bytes((place, 0, 0, 0, 8)) + path.read_bytes() for place in names]
    return found


def _grammars() -> list[bytes]:
    """Each golden chunk of each endpoint by its number, as it is."""
    streams = []
    for place, name in enumerate(ENDPOINTS):
        wide = len(chunks_of(name)) > 256
        for number in range(0, len(chunks_of(name)), 3):
            chunk = number.to_bytes(2) if wide else bytes((number,))
            streams.append(bytes((place, 0, 0, 0, 8)) + chunk + bytes((0, 0, 0, 3, 0, 0, 0)))
    return streams


_SEEDS: Final[Mapping[str, Callable[[], list[bytes]]]] = {
    "stream": _streams,
    "grammar": _grammars,
    "request": lambda: [bytes((how, how)) + body for how in range(6) for body in BODIES],
    "form": lambda: list(FORMS),
    "rules": lambda: list(RULES),
    "setting": lambda: [bytes((place,)) + value for place in range(len(KEYS)) for value in (b"1", b"[a]", b"{b: c}")],
    "timeline": lambda: [bytes((how,)) + seed[1:] for seed in _streams() for how in (0, 1)],
    "wire": wire.seeds,
    "flows": lambda: [
        *(
            bytes((rules, 0, name, *how))
            for rules in (0, 1)
            for name in range(len(NAMES))
            for how in ((0,), (1, 3), (4, 0, 3))
        ),
        *(bytes((0, 3, at >> 8, at & 255, 48)) for at in range(0, len(saved_flow()), 7)),
    ],
}
