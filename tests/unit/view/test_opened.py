"""A flow that a person opens: what is in it, what can be saved, and that no credential is."""

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from force_stream.rules.rule import Rule
from force_stream.view import opened
from force_stream.view.joined import Said
from force_stream.view.opened import FIRST_ENTRIES, LAST_ENTRIES, LONGEST_SAID, MOST_RAW, MOST_SAID, Opened
from harness import sse
from harness.foreign import saved_plain_flow
from harness.master import answer_with, flow_with
from harness.samples import CHAT, DOCUMENT, EVENTS, SECRET, STREAM, choice, chunk, request
from harness.tools import needs_tool
from mitmproxy import http

RULES = (Rule("r", ("127.0.0.1",), force_upstream_stream=True),)


def forced(stream: bytes = STREAM, document: Any = DOCUMENT, **notes: Any) -> http.HTTPFlow:
    flow = flow_with()
    answer_with(flow, json.dumps(document).encode(), "application/json")
    flow.metadata |= {f"force_stream.{name}": value for name, value in notes.items()}
    flow.metadata |= {"force_stream.sse": stream, "force_stream.endpoint": "chat", "force_stream.rule": "r"}
    return flow


def look(flow: http.HTTPFlow, *, whole: bool = False, rules: Sequence[Rule] = RULES) -> Opened:
    return opened.look(flow, rules, enabled=True, whole=whole)


def texts(found: Opened) -> list[Said]:
    return [said for said, _ in found.said]


def test_a_forced_flow_has_what_was_said_and_its_events_and_why_its_rule_took_it() -> None:
    found = look(forced(times=[0.25, 5, 1.5, len(STREAM)]))
    assert texts(found) == [Said("text", "Hello")]
    assert [(entry.type, entry.at) for entry in found.first][:2] == [("chunk", 1.5), ("chunk", 1.5)]
    assert (found.last, found.left_out, found.raw, found.size) == ([], 0, STREAM, len(STREAM))
    assert found.about == "5 events, then [DONE]"
    assert found.explained == [f"POST 127.0.0.1{CHAT}: rule r takes it; its request would be forced now"]


def test_of_a_plain_answer_that_became_events_the_document_and_the_events_can_be_saved() -> None:
    flow = saved_plain_flow()
    assert flow.response is not None
    found = look(flow)
    assert texts(found) == [Said("text", "Hello")]
    assert (found.about, found.first) == (f"a document, given as {flow.metadata['force_stream.given']} events", [])
    assert found.raw == json.dumps(DOCUMENT).encode()
    assert found.can_save == ["json", "sse"]
    assert json.loads(opened.saved_document(flow) or b"") == DOCUMENT
    assert opened.saved_stream(flow) == flow.response.raw_content


def test_of_a_plain_answer_that_was_none_the_clients_error_is_the_document() -> None:
    flow = saved_plain_flow()
    answer_with(flow, b'{"error": {}}', "application/json")
    flow.metadata |= {"force_stream.sse": b"<html>No</html>", "force_stream.given": 0}
    found = look(flow)
    assert (found.about, found.raw, found.can_save) == ("text", b"<html>No</html>", ["json"])
    assert opened.saved_document(flow) == b'{"error": {}}'


def test_a_stream_that_was_cut_off_has_what_was_said_until_then() -> None:
    error = {"error": {"message": "stopped", "code": "stream_truncated"}}
    assert texts(look(forced(sse(*EVENTS[:2], done=False), error))) == [Said("text", "Hel")]


def test_a_clients_own_stream_and_a_plain_answer_are_opened_too() -> None:
    own, plain, nothing = flow_with(), flow_with(), flow_with()
    answer_with(own)
    answer_with(plain, json.dumps(DOCUMENT).encode(), "application/json")
    assert texts(look(own)) == texts(look(plain)) == [Said("text", "Hello")]
    assert (look(plain).about, look(plain).raw) == ("", b"")
    assert texts(look(nothing)) == []
    assert (opened.saved_document(own), opened.saved_stream(plain)) == (None, None)
    assert opened.saved_document(nothing) is opened.saved_stream(nothing) is None


@pytest.mark.parametrize("notes", [{"endpoint": "nowhere"}, {"sse": 3}, {"times": "x"}, {"choices": -1}])
def test_notes_that_this_version_does_not_write_open_nothing_that_is_wrong(notes: dict[str, Any]) -> None:
    flow = forced()
    flow.metadata |= {f"force_stream.{name}": value for name, value in notes.items()}
    flow.request.path = "/elsewhere"
    look(flow)
    opened.curl(flow)


def test_of_a_long_answer_only_so_much_is_shown_unless_all_is_wanted() -> None:
    # No two in a row are alike, or they would be one entry.
    events = [chunk(choice(**{name: "x" * 1000})) for _ in range(300) for name in ("content", "reasoning_content")]
    tools = [chunk(choice(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "y" * 150_000}}]))]
    refusal = [chunk(choice(refusal="z"))]
    flow = forced(sse(*events, *tools, *refusal))
    found = look(flow)
    assert [(len(said.text), size) for said, size in found.said] == [
        (LONGEST_SAID, 300_000),
        (MOST_SAID - LONGEST_SAID, 300_000),
        (0, 1),
        (0, 150_000),
    ]
    assert (len(found.first), len(found.last)) == (FIRST_ENTRIES, LAST_ENTRIES)
    assert found.left_out == 603 - FIRST_ENTRIES - LAST_ENTRIES
    assert found.last[-1].type == "[DONE]"
    assert len(found.raw) == MOST_RAW
    whole = look(flow, whole=True)
    assert sorted(len(said.text) for said in texts(whole)) == [1, 150_000, 300_000, 300_000]
    assert (len(whole.first) + len(whole.last), whole.left_out) == (603, 0)


LONG = "w " * 100_000


def test_no_credential_is_shown_or_saved_wherever_it_stands() -> None:
    said = {"message": f"Incorrect API key provided: {SECRET}"}
    stream = sse(chunk(choice(content=f"{LONG}{SECRET} {LONG}")), chunk(choice(content=SECRET)), {"error": said})
    flow = forced(stream, {"error": said, "echo": f"{LONG}{SECRET}"})
    flow.request.path += f"?key={SECRET}&api-version=1"
    flow.request.headers["cookie"] = f"session={SECRET}"
    flow.request.raw_content = json.dumps(request(user=SECRET)).encode()
    shown = f"{look(flow)}{look(flow, whole=True)}{opened.curl(flow)!r}"
    shown += f"{opened.saved_stream(flow)!r}{opened.saved_document(flow)!r}"
    assert SECRET not in shown
    assert "Incorrect API key provided: " in shown


@pytest.mark.parametrize("size", [3, 7, 20])
def test_no_credential_is_shown_in_pieces_an_event_each(size: int) -> None:
    text = f"é: the key {SECRET}é is wrong"
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    flow = forced(sse(*(chunk(choice(content=part, index=index)) for part in parts for index in (0, 1))), {})
    flow.request.headers["authorization"] = f"Bearer {SECRET}"
    found = look(flow, whole=True)
    for place in (r"(?:choices\[0\]\.delta\.)?content", r"choices\[1\]\.delta\.content"):
        rows = (re.fullmatch(rf'{place} \+"([^"]*)"', entry.added) for entry in found.first)
        shown = "".join(row[1] for row in rows if row)
        assert re.fullmatch(r"é: the key \*{3}\d+\**é is wrong", shown), (place, shown)
        assert len(shown) == len(text)


def test_what_is_saved_is_as_it_came_where_there_is_no_credential() -> None:
    document = {"text": "é" * 50_000 + ' "quoted", and so on' * 5000}
    stream = sse(*EVENTS * 500)
    flow = forced(stream, document)
    assert opened.saved_stream(flow) == stream
    assert json.loads(opened.saved_document(flow) or b"") == document


BODIES = [
    pytest.param(json.dumps(request(user='it\'s $HOME `id` \\ "x" !')).encode(), id="what a shell would read"),
    pytest.param("é\n\tü".encode(), id="lines"),
    pytest.param(b"", id="no body"),
]


@pytest.mark.parametrize("body", BODIES)
def test_the_command_is_the_request_as_it_came_with_the_key_from_the_environment(body: bytes) -> None:
    flow = flow_with(body)
    flow.request.path += f"?key={SECRET}&api-version=1"
    flow.request.headers["x-odd"] = "it's"
    command = opened.curl(flow).decode()
    # A shell says what curl would get.
    listed = subprocess.run(
        [needs_tool("sh"), "-c", command.replace("curl ", "printf '%s\\n=\\n' ", 1)],
        env={"API_KEY": SECRET, "HOME": "/nowhere"},
        capture_output=True,
        check=True,
    ).stdout.decode()
    words = listed.split("\n=\n")
    assert words[:3] == ["-X", "POST", f"http://127.0.0.1:22{CHAT}?key={SECRET}&api-version=1"]
    assert f"authorization: Bearer {SECRET}" in words
    assert "x-odd: it's" in words
    assert not [word for word in words if word.startswith(("host:", "content-length:"))]
    if body:
        assert words[words.index("--data-binary") + 1] == body.decode()


@pytest.mark.parametrize(
    ("scheme", "host", "port", "named"),
    [
        ("http", "::1", 8000, "http://[::1]:8000/"),
        ("http", "::1", 80, "http://[::1]/"),
        ("https", "a.example", 443, "https://a.example/"),
        ("https", "a.example", 8443, "https://a.example:8443/"),
    ],
)
def test_the_command_has_the_address_as_curl_takes_it(scheme: str, host: str, port: int, named: str) -> None:
    flow = flow_with()
    flow.request.scheme, flow.request.host, flow.request.port = scheme, host, port
    assert f"POST '{named}" in opened.curl(flow).decode() or f"POST {named}" in opened.curl(flow).decode()


def test_a_body_that_no_command_can_have_is_left_out() -> None:
    assert b"--data-binary @body" in opened.curl(flow_with(b"\0\1"))


@pytest.mark.parametrize(
    ("query", "begins"), [("x[]=1", b"curl -g -X"), ("x={a,b}", b"curl -g -X"), ("x=1", b"curl -X")]
)
def test_the_command_sends_one_request_whatever_curl_sees_in_its_address(query: str, begins: bytes) -> None:
    flow = flow_with()
    flow.request.path += f"?{query}"
    command = opened.curl(flow)
    assert command.startswith(begins)
    assert query.encode() in command
