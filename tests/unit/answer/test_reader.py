"""What a body is, and which reply it becomes: the cases beside the golden ones."""

import json
from typing import Any

import pytest
from force_stream import aggregate
from force_stream.answer import patterns
from force_stream.answer import reader as module
from force_stream.answer.quirks import QUIRKS
from force_stream.answer.reader import LARGE, AnswerSpec
from force_stream.wire import jsontext
from force_stream.wire.long_json import drop
from harness import sse
from harness.samples import choice
from harness.samples import chunk as chunk_of


def finish(*pieces: bytes, status: int = 200, content_type: str = "text/event-stream") -> Any:
    answer = AnswerSpec(rule="r", endpoint="chat").read(status, content_type)
    for piece in pieces:
        answer.feed(piece)
    return answer.finish()


def chunk(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


@pytest.mark.parametrize("body", [b"null", b'"ok"', b"true", b"12.50"])
def test_json_that_is_no_object_is_passed_on(body: bytes) -> None:
    assert finish(body, content_type="application/json") is None


@pytest.mark.parametrize("split", [1, 2, 3, 4])
def test_a_byte_order_mark_may_come_in_pieces(split: int) -> None:
    body = b'\xef\xbb\xbf{"a":1}'
    assert finish(body[:split], body[split:], content_type="application/json") is None


@pytest.mark.parametrize("body", [b"failed", b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}'])
@pytest.mark.parametrize("before", [b"     \n", b"\n\n\xef\xbb\xbf", b" \xef\xbb\xbf ", b"\xef\xbb\xbf\n\n\n\n"])
def test_what_is_before_a_body_may_come_in_pieces(before: bytes, body: bytes) -> None:
    whole = finish(before + body).body
    assert finish(before, body).body == whole
    assert finish(*(bytes([byte]) for byte in before + body)).body == whole


def test_an_error_page_with_a_line_like_a_field_is_passed_on() -> None:
    assert finish(b"Overloaded, come later.\nid: 77\n", status=503, content_type="text/plain") is None


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize(
    "body",
    [
        {"type": "https://example.com/probs/too-long", "title": "Too long", "status": 400},  # RFC 9457
        {"type": "response.failed", "message": "no"},
        {"choices": [{"delta": {}}], "error": {"message": "no"}},
    ],
)
def test_an_error_in_json_is_passed_on_whatever_it_looks_like(body: dict[str, Any], status: int) -> None:
    assert finish(json.dumps(body).encode(), status=status, content_type="application/problem+json") is None


def test_all_events_are_counted_of_an_answer_that_is_passed_on() -> None:
    answer = AnswerSpec(rule="r", endpoint="chat").read(302, "text/event-stream")
    for _ in range(9):
        answer.feed(chunk(delta={"content": "x"}))
    assert answer.finish() is None
    assert answer.report.events == 9


@pytest.mark.parametrize("content", [1, [], {}, True, None, "x"])
@pytest.mark.parametrize("quirk", sorted(QUIRKS))
def test_no_quirk_raises_over_a_value_of_another_type(quirk: str, content: object) -> None:
    answer = AnswerSpec(rule="r", endpoint="chat", quirks=(quirk,)).read(200, "text/event-stream")
    for delta in ({"content": "<think>a</think>b", "reasoning_content": content}, {"content": content}, content):
        answer.feed(chunk(delta=delta))
        answer.feed(chunk(delta=delta, finish_reason="stop"))
    assert answer.finish().status == 200


def test_a_status_beside_the_error_counts() -> None:
    stream = b'data: {"error":{"message":"slow down"},"status_code":429}\n\n'
    assert aggregate(stream).status == 429


def test_asking_whether_all_is_finished_costs_the_same_with_any_number_of_choices() -> None:
    answer = AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")
    for number in range(3_000):
        answer.feed(chunk(index=number, delta={"content": "x"}))
        assert not answer.finished


def test_what_blocks_the_loop_is_what_was_parsed() -> None:
    text, plain, varied = (AnswerSpec(rule="r", endpoint="chat").read() for _ in range(3))
    text.feed(chunk(delta={"content": "word"}) * 3_000)
    assert not text.blocks_loop
    plain.feed(b'{"choices":[' + b"1," * 60_000)
    assert plain.blocks_loop
    varied.feed(b"".join(chunk(delta={"content": "word"}, number=number) for number in range(3_000)))
    assert varied.blocks_loop


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([], None),
        ([chunk(delta={"content": "Hel"})], "Hel"),
        ([chunk(delta={"content": "Hel"}), b'data: {"error": {"message": "Busy"}}\n\n'], "Hel"),
        ([chunk(delta={"content": "Hel"}), chunk(delta={"content": "lo"})[:-2]], "Hello"),
        ([chunk(delta={"content": "Hel"}), chunk(delta={"content": "lo"})[:-9]], "Hel"),
        ([b"data: " + b'{"a":' * 10_000 + b"\n\n"], None),
    ],
    ids=["nothing", "one event", "an error after it", "one without its blank line", "half of one", "deep"],
)
def test_what_came_so_far_is_a_document_whatever_became_of_it(pieces: list[bytes], said: str | None) -> None:
    answer = AnswerSpec(rule="r", endpoint="chat").read()
    for piece in pieces:
        answer.feed(piece)
    document = answer.so_far()
    assert (document and document["choices"][0]["message"]["content"]) == said


def test_an_event_that_is_cut_by_one_without_content_leaves_a_hole() -> None:
    cut = b'data: {"choices":[{"index":0,"delta":{"content":"lo{"choices":[],"usage":{"total_tokens":9}}\n\n'
    reply = finish(chunk(delta={"content": "Hel"}), cut, chunk(delta={}, finish_reason="stop"))
    assert reply.status == 502
    assert b"stream_corrupted" in reply.body


def test_lines_of_another_api_are_named_as_such() -> None:
    line = json.dumps({"model": "m", "message": {"role": "assistant", "content": "Hi"}, "done": True}).encode()
    reply = finish(line + b"\n" + line + b"\n", content_type="application/x-ndjson")
    assert reply.status == 502
    assert b"those of the Ollama API, and not of chat" in reply.body


@pytest.mark.parametrize("word", ["Error", " error", " failed", " overloaded.", " unauthorized"])
def test_a_word_of_a_transcription_that_comes_as_text_is_no_error(word: str) -> None:
    stream = f"data: The\n\ndata: {word}\n\ndata:  call\n\n".encode()
    reply = aggregate(stream, endpoint="transcriptions")
    assert (reply.status, json.loads(reply.body)) == (200, {"text": f"The{word} call"})
    assert aggregate(stream).status >= 400


def test_an_error_among_the_texts_of_a_transcription_is_one() -> None:
    stream = b"data: The\n\ndata: Error: CUDA out of memory\n\n"
    assert aggregate(stream, endpoint="transcriptions").status == 502
    assert aggregate(b"data: The\n\nevent: error\ndata: failed\n\n", endpoint="transcriptions").status == 502


FIRST_EVENTS = {
    "chat": ("chat", chunk(delta={"content": 'He "says" {[\\'}), "text/event-stream"),
    "CRLF": ("chat", chunk(delta={"content": "Hel"}).replace(b"\n", b"\r\n"), "text/event-stream"),
    "named": (
        "responses",
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","output":[]}}\n\n',
        "text/event-stream",
    ),
    "a line of JSON": ("chat", chunk(delta={"content": "Hel"})[6:-1], "application/x-ndjson"),
    "an error's document": ("chat", b'{"error":{"message":"a \\"{[ b","code":[1]}}', "application/json"),
}


@pytest.mark.parametrize(("endpoint", "event", "label"), FIRST_EVENTS.values(), ids=FIRST_EVENTS)
@pytest.mark.parametrize("cut", ["", "reset"], ids=["a clean end", "a cut"])
def test_a_stream_that_stops_within_its_first_event_is_truncated(
    endpoint: str, event: bytes, label: str, cut: str
) -> None:
    for end in range(1, len(event)):
        answer = AnswerSpec(rule="r", endpoint=endpoint).read(200, label)
        answer.feed(event[:end])
        reply = answer.finish(cut)
        assert reply is not None, event[:end]
        assert json.loads(reply.body)["error"]["code"] == "stream_truncated", event[:end]
        assert "x-should-retry" not in reply.headers
        assert answer.report.truncated


@pytest.mark.parametrize("body", [b"", b"\n\n", b": ping\n\n", b"data: [DONE]", b"event: ping\n\n"])
def test_a_stream_without_the_beginning_of_an_event_is_empty(body: bytes) -> None:
    assert b'"stream_empty"' in finish(body).body


TERMINAL = b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","output":[]}}\n\n'


@pytest.mark.parametrize(
    ("endpoint", "stream"),
    [
        ("responses", TERMINAL),
        ("responses", TERMINAL.replace(b"\n", b"\r\n")),
        ("chat", chunk(delta={"content": "a"}) * 3 + chunk(delta={}, finish_reason="stop") + b"data: [DONE]\n\n"),
        ("chat", b'data: {"error":\ndata: {"message": "no", "code": 429}}\n\n'),
    ],
)
def test_an_event_that_is_whole_may_be_read_before_its_blank_line(endpoint: str, stream: bytes) -> None:
    whole = AnswerSpec(rule="r", endpoint=endpoint).read()
    whole.feed(stream)
    expected = whole.finish()
    early = []
    for end in range(len(stream) + 1):
        answer = AnswerSpec(rule="r", endpoint=endpoint).read()
        answer.feed(stream[:end])
        answer.read_late()
        early.append(answer.ended)
        answer.feed(stream[end:])
        assert answer.finish() == expected, stream[:end]
    missing = len(stream) - len(stream.rstrip(b"\r\n"))
    assert early == [False] * (len(early) - missing - 1) + [True] * (missing + 1)


def test_an_event_that_comes_in_slow_pieces_is_looked_at_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    is_whole = patterns.is_whole

    def noted(data: str) -> bool:
        nonlocal looked_at
        looked_at += len(data)
        return is_whole(data)

    monkeypatch.setattr(patterns, "is_whole", noted)
    answer = AnswerSpec(rule="r", endpoint="responses").read()
    body = TERMINAL.replace(b'"r"', b'"%b"' % (b"r}" * LARGE)).rstrip()
    for at in range(0, len(body), 1024):
        answer.feed(body[at : at + 1024])
        answer.read_late()
    assert LARGE < looked_at < 10 * (len(body) + LARGE)


def test_a_transcript_is_whole_before_its_body_ends() -> None:
    answer = AnswerSpec(rule="r", endpoint="transcriptions").read(200, "application/json")
    answer.feed(b'{"text": "Hello"}')
    answer.read_late()
    assert answer.ended


ANSWERED = b'{"object": "chat.completion", "choices": [{"message": {"content": "a}"}}]}'
REFUSED = b'{"error": {"message": "slow down", "code": 429}}'
CHUNKED = b'{"object": "chat.completion.chunk", "choices": [{"delta": {"content": "a"}}]}'


@pytest.mark.parametrize(
    ("body", "status", "is_whole"),
    [
        (ANSWERED, 200, True),
        (ANSWERED + b"\r\n", 200, True),
        (REFUSED, 200, True),
        (REFUSED, 429, True),
        (b'{"detail": "Not found"}', 404, True),
        (b'{"detail": "please wait"}', 200, False),
        (b'{"id": "c", "object": "", "created": 0, "choices": []}', 200, False),
        (b'{"text": "please wait"}', 200, False),
        (CHUNKED, 200, False),
        (CHUNKED + b"\n", 200, False),
        (b"[%b]" % ANSWERED, 200, False),
        (ANSWERED + b"\n\ndata: [DO", 200, False),
        (b"[" * 100_000 + b"}", 200, False),
    ],
)
def test_a_document_is_whole_before_its_body_ends(body: bytes, status: int, is_whole: bool) -> None:
    answer = AnswerSpec(rule="r", endpoint="chat").read(status, "application/json")
    for each in (body[:10], body[10:]):
        assert not answer.ended
        answer.feed(each)
        answer.read_late()
    assert answer.ended is is_whole


def test_a_large_document_is_not_parsed_where_its_label_says_json(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    split = jsontext.split
    monkeypatch.setattr(jsontext, "split", lambda text: lengths.append(len(text)) or split(text))
    body = json.dumps({"object": "chat.completion", "choices": [{"message": {"content": "word "}}] * 20_000}).encode()
    reader = AnswerSpec("r", "chat").read(200, "application/json")
    reader.feed(body)
    assert reader.finish() is None
    assert max(lengths) <= LARGE < len(body)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"choices": [{"delta": {"content": "x" * LARGE}, "finish_reason": "stop"}]}),
        json.dumps({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}) * 5000,
        json.dumps({"choices": [{"message": {"content": "x" * LARGE}}]}) + "\n\ndata: [DONE]\n\n",
    ],
    ids=["one chunk", "chunks in a row", "a document, and the end of a stream"],
)
def test_what_only_looks_like_a_large_document_is_read(body: str) -> None:
    reader = AnswerSpec("r", "chat").read(200, "application/json")
    reader.feed(body.encode())
    assert reader.finish() is not None


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", sse(chunk_of(choice(content="a", finish_reason="stop"), object=["x"] * 20_000, x=[[1]] * 10))),
        ("chat", sse(chunk_of(choice(content="a", finish_reason="stop"), x=[{"y": [1]}] * 10_000))),
        ("chat", json.dumps({"x": ["y"] * 30_000}).encode()),
        ("responses", sse({"type": "response.completed", "response": {"id": "r", "output": [], "x": ["y"] * 30_000}})),
    ],
    ids=["what is not merged", "what is merged", "JSON", "the API's own"],
)
def test_nothing_large_is_left_to_be_freed_in_one_step(
    endpoint: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(module, "drop", lambda garbage: (dropped.append(len(garbage)), drop(garbage)))
    reader = AnswerSpec("r", endpoint).read(200, "text/plain")
    reader.feed(body)
    reply = reader.finish()
    report = reader.report
    events = report.events
    reader.forget()
    assert sum(dropped) >= 3  # what was read, and what read it
    assert reader._left == []
    assert reader.report is report
    assert report.events == events
    assert reply is not None


def test_a_usage_that_is_too_long_to_be_one_is_in_the_answer_and_not_in_the_report() -> None:
    for count, is_noted in ((3, True), (3_000, False)):
        usage = {f"tokens{number}": 1 for number in range(count)}
        reader = AnswerSpec("r", "chat").read()
        reader.feed(sse(chunk_of(choice(content="a", finish_reason="stop"), usage=usage)))
        reply = reader.finish()
        assert reply is not None
        assert json.loads(reply.body)["usage"] == usage
        assert reader.report.usage == (usage if is_noted else None)


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", ""])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_error_before_the_end_of_an_event_stream_is_an_error(label: str, indent: int | None) -> None:
    body = json.dumps({"error": {"message": "No", "code": "rate_limit_exceeded"}}, indent=indent).encode()
    made = AnswerSpec("r", "chat").read(200, label)
    made.feed(body + b"\n\ndata: [DONE]\n\n")
    reply = made.finish()
    assert reply is not None
    assert (reply.status, made.report.error) == (429, "rate_limit_exceeded")


# An answer of each API, by its id and its text.
def _answers(name: str) -> dict[str, dict[str, Any]]:
    return {
        "chat": {"id": name, "choices": [{"index": 0, "message": {"content": name}, "finish_reason": "stop"}]},
        "completions": {"id": name, "choices": [{"index": 0, "text": name, "finish_reason": "stop"}]},
        "messages": {"id": name, "type": "message", "content": [{"type": "text", "text": name}], "stop_reason": "x"},
        "responses": {"id": name, "object": "response", "status": "completed", "output": [{"type": "x", "id": name}]},
        "images": {"id": name, "created": 7, "data": [{"b64_json": name}]},
    }


@pytest.mark.parametrize("label", ["text/event-stream", "text/plain", ""])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_error_in_a_list_as_the_whole_body_is_an_error(label: str, indent: int | None) -> None:
    body = json.dumps([{"error": {"code": 429, "message": "busy", "status": "RESOURCE_EXHAUSTED"}}], indent=indent)
    reply = finish(body.encode(), content_type=label)
    assert reply is not None
    assert (reply.status, json.loads(reply.body)["error"]["message"]) == (429, "busy")


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", ""])
@pytest.mark.parametrize("said", [{"error": {"code": 429, "message": "busy"}}, {"code": 429, "message": "busy"}])
def test_an_error_among_chunks_in_a_list_is_an_error(label: str, said: dict[str, Any]) -> None:
    chunks = [{"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]}, said]
    reply = finish(json.dumps(chunks).encode(), content_type=label)
    assert reply is not None
    assert (reply.status, json.loads(reply.body)["error"]["message"]) == (429, "busy")


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("between", ["", "\n", "\r\n\r\n", ",", " ,\n", ";", "\x00", "\nNo\n", " and ", "\n\ndata: "])
@pytest.mark.parametrize("endpoint", _answers(""))
def test_an_answer_that_is_said_twice_is_said_once_and_two_are_none(
    endpoint: str, between: str, indent: int | None, plain: bool
) -> None:
    one, other = (json.dumps(_answers(name)[endpoint], indent=indent) for name in ("one", "other"))
    for second, status in ((one, 200), (other, 502)):
        made = AnswerSpec("r", endpoint).read(200, "application/json", plain=plain)
        made.feed(f"{one}{between}{second}\n".encode())
        reply = made.finish()
        assert reply is not None
        assert reply.status == status
        if status == 200:
            assert reply.body == one.encode()
            assert made.report.odd == ["a JSON answer followed by itself"]
        else:
            assert made.report.code == "stream_corrupted"
            assert b"2 JSON documents" in reply.body


@pytest.mark.parametrize("words", [("ha", "ha"), ("Once", " upon")])
def test_chunks_that_look_like_answers_are_the_parts_of_one_whatever_their_ids(words: tuple[str, str]) -> None:
    lines = [
        json.dumps({"id": f"c{number}", "choices": [{"index": 0, "text": text, "finish_reason": reason}]})
        for number, (text, reason) in enumerate(((words[0], None), (words[1], None), ("", "stop")))
    ]
    made = AnswerSpec("r", "completions").read(200, "application/json")
    made.feed("\n".join(lines).encode())
    reply = made.finish()
    assert reply is not None
    assert json.loads(reply.body)["choices"][0]["text"] == "".join(words)


def test_the_last_event_of_json_that_is_read_as_events_counts_once() -> None:
    first, last = (
        json.dumps(chunk_of(choice(content=text, finish_reason=reason)))
        for text, reason in (("Once", None), (" upon", "stop"))
    )
    made = AnswerSpec("r", "chat").read(200, "application/json")
    made.feed(f"[]{first}\n\n{last}".encode())
    made.finish()
    assert made.report.events == 3
