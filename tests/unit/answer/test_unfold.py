import json
import re
from typing import Any

import pytest
from force_stream import ENDPOINTS, aggregate
from force_stream.answer.unfold import Asked, failure, silence, unfold
from force_stream.errors import EmptyStream, MalformedStream, UpstreamError

CHAT = Asked(ENDPOINTS["chat"])
HEAD = {"id": "c1", "object": "chat.completion", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunks(document: Any, endpoint: str = "chat", *, with_usage: bool = False) -> list[Any]:
    stream = unfold(json.dumps(document).encode(), Asked(ENDPOINTS[endpoint], with_usage)).stream
    *events, last, empty = stream.decode().split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def deltas(message: dict[str, Any], **choice: Any) -> list[Any]:
    document = HEAD | {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}
    return [chunk["choices"][0]["delta"] for chunk in chunks(document)]


def test_a_chat_answer_begins_with_the_role_and_ends_with_the_finish_reason() -> None:
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    document = HEAD | {"choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]}
    head = HEAD | {"object": "chat.completion.chunk"}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    assert chunks(document) == [
        head | {"choices": [choice | {"delta": {"role": "assistant", "content": "", "refusal": None}}]},
        head | {"choices": [choice | {"delta": {"content": "Hi"}}]},
        head | {"choices": [choice | {"delta": {}, "finish_reason": "stop"}]},
    ]


def test_usage_comes_last_and_only_if_asked_for() -> None:
    document = HEAD | {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": USAGE}
    assert not any("usage" in chunk for chunk in chunks(document))
    *before, last = chunks(document, with_usage=True)
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert all(chunk["usage"] is None for chunk in before)


def test_reasoning_comes_before_content_and_content_before_calls() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": "Hi", "tool_calls": [call], "reasoning_content": "Hm", "annotations": [1]}
    assert [next(iter(delta), "") for delta in deltas(message)] == [
        *("role", "reasoning_content", "content", "tool_calls", "tool_calls", "annotations", "")
    ]


def test_a_call_begins_with_its_name_and_id_and_its_arguments_follow_in_pieces() -> None:
    arguments = json.dumps({"city": "Oslo", "unit": "celsius", "days": 3})
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": arguments}} for name in "fg"]
    said = [delta["tool_calls"][0] for delta in deltas({"content": None, "tool_calls": calls})[1:-1]]
    for index, name in enumerate("fg"):
        first, *rest = [each for each in said if each["index"] == index]
        start = {"index": index, "id": name, "type": "function", "function": {"name": name, "arguments": ""}}
        assert first == start
        assert len(rest) > 1
        assert "".join(each["function"]["arguments"] for each in rest) == arguments


def test_the_input_of_a_custom_call_follows_in_pieces() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "f", "input": "select 1"}}
    begin, piece, _ = deltas({"content": None, "tool_calls": [call]})
    assert begin["tool_calls"] == [{"index": 0, **call, "custom": {"name": "f", "input": ""}}]
    assert piece == {"tool_calls": [{"index": 0, "custom": {"input": "select 1"}}]}


def test_each_token_has_its_own_logprobs() -> None:
    tokens = [{"token": text, "logprob": -0.5, "bytes": list(text.encode())} for text in ("Hel", "lo")]
    choice = {"index": 0, "message": {"content": "Hello"}, "logprobs": {"content": tokens}, "finish_reason": "stop"}
    said = [chunk["choices"][0] for chunk in chunks(HEAD | {"choices": [choice]})]
    assert [each["logprobs"] for each in said] == [
        {"content": []},
        {"content": tokens[:1]},
        {"content": tokens[1:]},
        None,
    ]


def test_a_number_in_place_of_logprobs_is_in_no_chunk() -> None:
    choice = {"index": 0, "message": {"content": "Hello"}, "logprobs": -0.5, "finish_reason": "stop"}
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks(HEAD | {"choices": [choice]})] == [None] * 3


def test_an_error_that_says_nothing_is_in_no_chunk() -> None:
    choice = {"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}
    assert not any("error" in chunk for chunk in chunks({"choices": [choice], "error": {"message": "", "code": None}}))


def test_the_one_call_of_an_answer_begins_with_the_role() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    first, second, last = deltas({"content": None, "tool_calls": [call]})
    begun = {"index": 0, **call, "function": {"name": "f", "arguments": ""}}
    assert first == {"role": "assistant", "content": None, "tool_calls": [begun]}
    assert (second, last) == ({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, {})


def test_a_refusal_begins_empty() -> None:
    assert deltas({"content": None, "refusal": "No"}) == [
        {"role": "assistant", "content": None, "refusal": ""},
        {"refusal": "No"},
        {},
    ]


def test_every_choice_is_there() -> None:
    choices = [{"index": n, "message": {"content": "Hi"}, "finish_reason": "stop"} for n in (1, 0)]
    assert [chunk["choices"][0]["index"] for chunk in chunks(HEAD | {"choices": choices})] == [1, 1, 1, 0, 0, 0]


def test_a_member_that_nobody_knows_comes_once() -> None:
    choice = {"index": 0, "message": {"content": "Hi", "mood": "good"}, "finish_reason": "stop", "seed": 1}
    said = chunks(HEAD | {"choices": [choice], "citations": ["a"]})
    assert [chunk.get("citations") for chunk in said] == [None, None, None, ["a"]]
    assert [chunk["choices"][0].get("seed") for chunk in said] == [None, None, None, 1]
    assert said[2]["choices"][0]["delta"] == {"mood": "good"}


def test_a_legacy_answer_is_cut_at_its_tokens() -> None:
    logprobs = {"tokens": ["Hi", " you"], "token_logprobs": [-1.5, -2.5], "top_logprobs": None, "text_offset": [0, 2]}
    choice = {"text": "Hi you", "index": 0, "logprobs": logprobs, "finish_reason": "length"}
    said = [chunk["choices"][0] for chunk in chunks({"object": "text_completion", "choices": [choice]}, "completions")]
    assert [(each["text"], each["finish_reason"]) for each in said] == [("Hi", None), (" you", None), ("", "length")]
    assert said[1]["logprobs"] == {"tokens": [" you"], "token_logprobs": [-2.5], "text_offset": [2]}


def test_a_transcription_is_cut_at_its_tokens_and_ends_with_all_of_it() -> None:
    tokens = [{"token": text, "logprob": -0.5, "bytes": list(text.encode())} for text in ("Hel", "lo")]
    document = {"text": "Hello", "logprobs": tokens, "usage": {"type": "duration", "seconds": 4}}
    assert chunks(document, "transcriptions") == [
        {"type": "transcript.text.delta", "delta": "Hel", "logprobs": tokens[:1]},
        {"type": "transcript.text.delta", "delta": "lo", "logprobs": tokens[1:]},
        {"type": "transcript.text.done", **document},
    ]


def test_a_transcription_with_mistrals_members_has_mistrals_events() -> None:
    segment = {"type": "transcription_segment", "text": "Hi", "start": 0.0, "end": 1.2}
    document = {"model": "voxtral", "text": "Hi", "language": "en", "segments": [segment], "usage": USAGE}
    assert typed(document, "transcriptions") == [
        {"type": "transcription.language", "audio_language": "en"},
        {"type": "transcription.text.delta", "text": "Hi"},
        segment | {"type": "transcription.segment"},
        {"type": "transcription.done", **document},
    ]


def test_the_chunks_of_vllm_have_the_usage_last() -> None:
    first, last, usage = chunks({"text": "Hi", "usage": USAGE}, "transcriptions", with_usage=True)
    assert first["object"] == "transcription.chunk"
    assert [chunk["choices"][0]["delta"]["content"] for chunk in (first, last)] == ["Hi", ""]
    assert (last["choices"][0]["finish_reason"], usage["usage"]) == ("stop", USAGE)


def test_each_image_is_completed_with_all_that_is_said_of_it() -> None:
    document = {"created": 7, "data": [{"b64_json": "eA=="}, {"b64_json": "eQ=="}], "size": "1x1", "usage": USAGE}
    assert typed(document, "images") == [
        {"type": "image_generation.completed", "b64_json": text, "created_at": 7, "size": "1x1", "usage": USAGE}
        for text in ("eA==", "eQ==")
    ]


def test_images_with_members_of_their_own_are_a_group() -> None:
    images = [{"url": "u", "size": "2x2"}, {"error": {"code": "no"}}]
    assert typed({"created": 7, "model": "m", "data": images, "usage": USAGE}, "images") == [
        {"type": "image_generation.partial_succeeded", "model": "m", "created": 7, "image_index": 0, **images[0]},
        {"type": "image_generation.partial_failed", "model": "m", "created": 7, "image_index": 1, **images[1]},
        {"type": "image_generation.completed", "model": "m", "created": 7, "usage": USAGE},
    ]


def typed(document: Any, endpoint: str) -> list[Any]:
    """The events, each with its type as its name, and nothing after the last."""
    *events, empty = unfold(json.dumps(document).encode(), Asked(ENDPOINTS[endpoint])).stream.decode().split("\n\n")
    assert empty == ""
    found = []
    for event in events:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_message_has_its_blocks_in_order() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "text", "text": "Hi", "citations": [{"cited_text": "a"}]},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"days": 1.50}},
        {"type": "redacted_thinking", "data": "x"},
    ]
    usage = {"input_tokens": 3, "output_tokens": 2}
    document = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    document |= {"stop_reason": "tool_use", "stop_sequence": None, "usage": usage}
    events = typed(document, "messages")
    assert events[0] == {
        "type": "message_start",
        "message": document | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 0}},
    }
    delta = {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2:] == [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    started = [each["content_block"] for each in events if each["type"] == "content_block_start"]
    assert started == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": "", "citations": []},
        content[2] | {"input": {}},
        content[3],
    ]
    deltas = [(each["index"], each["delta"]["type"]) for each in events if each["type"] == "content_block_delta"]
    assert deltas == [
        (0, "thinking_delta"),
        (0, "signature_delta"),
        (1, "citations_delta"),
        (1, "text_delta"),
        (2, "input_json_delta"),
        (2, "input_json_delta"),
    ]


def test_a_response_has_every_typed_event_in_its_order_and_its_number() -> None:
    part = {"type": "output_text", "text": "Hi", "annotations": [{"type": "url_citation"}], "logprobs": []}
    output = [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {"id": "ws_1", "type": "web_search_call", "status": "completed"},
        {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]},
        {"id": "fc_1", "type": "function_call", "status": "completed", "name": "f", "call_id": "c", "arguments": "{}"},
    ]
    document = {"id": "resp_1", "object": "response", "status": "completed", "output": output, "usage": {"x": 1}}
    events = typed(document, "responses")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "web_search_call.in_progress", "web_search_call.searching"),
        *("web_search_call.completed", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.annotation.added"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert events[0]["response"] == document | {"status": "in_progress", "output": [], "usage": None}
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [
        output[0] | {"summary": []},
        output[1] | {"status": "in_progress"},
        output[2] | {"status": "in_progress", "content": []},
        output[3] | {"status": "in_progress", "arguments": ""},
    ]
    assert events[-1]["response"] == document


@pytest.mark.parametrize("status", ["incomplete", "failed"])
def test_a_response_that_is_not_complete_says_so_in_its_last_event(status: str) -> None:
    assert (
        typed({"object": "response", "status": status, "output": []}, "responses")[-1]["type"] == f"response.{status}"
    )


LONG = "x" * 100_000
WIDE = {
    "chat": {"id": LONG, "choices": [{"message": {"content": LONG}, "finish_reason": "stop", "logprobs": None}]},
    "completions": {"model": LONG, "choices": [{"text": LONG, "finish_reason": "stop"}]},
    "messages": {"id": LONG, "content": [{"type": "text", "text": LONG}], "stop_reason": "end_turn"},
    "responses": {
        "id": LONG,
        "output": [{"id": LONG, "type": "function_call", "arguments": LONG}],
        "status": "completed",
    },
    "transcriptions": {"text": LONG, "model": LONG},
    "images": {"data": [{"b64_json": LONG}] * 3, "prompt": LONG},
}


@pytest.mark.parametrize("endpoint", WIDE)
def test_the_events_of_a_large_answer_are_not_much_larger(endpoint: str) -> None:
    document = json.dumps(WIDE[endpoint]).encode()
    assert len(unfold(document, Asked(ENDPOINTS[endpoint])).stream) < 6 * len(document)


@pytest.mark.parametrize("number", ["0.10", "1E400", "-0", "12345678901234567890123"])
def test_numbers_keep_their_spelling(number: str) -> None:
    document = '{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],"x":@}'.replace("@", number)
    assert f'"x":{number}'.encode() in unfold(document.encode(), CHAT).stream


def test_a_lone_surrogate_stays() -> None:
    document = rb'{"choices":[{"index":0,"message":{"content":"a\ud83d"},"finish_reason":"stop"}]}'
    assert rb"a\ud83d" in unfold(document, CHAT).stream


@pytest.mark.parametrize("document", ["", "[]", "7", "null", "{}", '{"models":[]}', '{"choices":[1]}', "[" * 100_000])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_is_no_answer_of_the_api_has_no_events(document: str, endpoint: str) -> None:
    with pytest.raises(MalformedStream, match=f"plain answer is not one of the {endpoint} API"):
        unfold(document.encode(), Asked(ENDPOINTS[endpoint]))


@pytest.mark.parametrize("nothing", ["[]", "null"])
@pytest.mark.parametrize("endpoint", ["chat", "completions", "images"])
def test_an_answer_with_nothing_in_it_is_empty_and_its_address_is_not_to_blame(endpoint: str, nothing: str) -> None:
    name = "data" if endpoint == "images" else "choices"
    with pytest.raises(EmptyStream, match=f"its {name} is {re.escape(nothing)}") as raised:
        unfold(f'{{"object":"x","{name}":{nothing},"usage":{{}}}}'.encode(), Asked(ENDPOINTS[endpoint]))
    assert "address" not in raised.value.advice


def test_an_error_beside_an_empty_list_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="reported an error"):
        unfold(b'{"choices":[],"error":{"message":"Filtered","code":"content_filter"}}', CHAT)


def test_an_error_in_place_of_an_answer_is_an_error() -> None:
    with pytest.raises(UpstreamError) as raised:
        unfold(b'{"error":{"message":"No","code":"rate_limit_exceeded"}}', CHAT)
    assert raised.value.status_hint == 429


def test_why_the_answer_ended_is_known_and_its_usage() -> None:
    choices = [{"message": {"content": "Hi"}, "finish_reason": reason} for reason in ("stop", "length", "stop")]
    made = unfold(json.dumps({"choices": choices, "usage": USAGE}).encode(), CHAT)
    assert (made.finish_reason, made.usage) == ("stop, length", USAGE)


ERROR = {"message": "Too many", "type": "requests", "param": None, "code": "rate_limit_exceeded"}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("body", [json.dumps({"error": ERROR}), '{"error":"Too many"}'])
def test_a_failure_is_an_error_event_that_reads_as_one(endpoint: str, body: str) -> None:
    event = failure(body.encode(), ENDPOINTS[endpoint])
    reply = aggregate(silence(ENDPOINTS[endpoint]) * 2 + event, endpoint)
    assert reply.status >= 400
    assert json.loads(reply.body)["error"]["message"] == "Too many"


# What else an upstream may answer once the client has its status 200, and the message that it gets.
OTHERWISE: dict[str, tuple[int, bytes, str]] = {
    "no content": (204, b"", "the upstream answered 204 without a body"),
    "not modified": (304, b"", "the upstream answered 304 without a body"),
    "an error without a body": (500, b"", "the upstream answered 500 without a body"),
    "a page": (502, b"<html><p>Bad gateway</p></html>", "the upstream answered 502: Bad gateway"),
    "text": (503, b"no healthy upstream", "the upstream answered 503: no healthy upstream"),
    "bytes": (200, b"\x80\xff\x00" * 9, "the upstream answered 200 with a body that cannot be read"),
    "an error in another shape": (404, b'{"detail":"Not Found"}', "Not Found"),
    "a list": (200, b"[]", "the upstream answered 200: []"),
    "another document": (200, b'{"hello":"world"}', 'the upstream answered 200: {"hello":"world"}'),
    "an empty error": (500, b'{"error":{}}', 'the upstream answered 500: {"error":{}}'),
    "a number": (500, b'{"error":7}', "the upstream's error: 7"),
}


@pytest.mark.parametrize("endpoint", ["chat", "messages", "responses"])
@pytest.mark.parametrize("case", OTHERWISE)
def test_whatever_else_an_upstream_answers_is_an_error_event_that_says_so(case: str, endpoint: str) -> None:
    status, body, message = OTHERWISE[case]
    reply = aggregate(failure(body, ENDPOINTS[endpoint], status=status), endpoint)
    assert reply.status >= 400
    assert json.loads(reply.body)["error"]["message"] == message


@pytest.mark.parametrize("endpoint", ["chat", "messages", "responses"])
def test_what_an_error_has_beside_it_is_in_its_event_too(endpoint: str) -> None:
    body = json.dumps({"error": ERROR, "request_id": "req_1"}).encode()
    assert b'"request_id":"req_1"' in failure(body, ENDPOINTS[endpoint])


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_silence_says_nothing(endpoint: str) -> None:
    said = silence(ENDPOINTS[endpoint])
    assert said.endswith(b"\n\n")
    assert said.startswith(b"event: ping\n" if endpoint == "messages" else b":")


@pytest.mark.parametrize("indexes", [(0, 0), (None, 0, 1), (1, 1, 1)])
@pytest.mark.parametrize(
    ("endpoint", "said"), [("chat", {"message": {"content": "a"}}), ("completions", {"text": "a"})]
)
def test_choices_that_share_an_index_are_told_apart_by_their_places(
    endpoint: str, said: dict[str, object], indexes: tuple[int | None, ...]
) -> None:
    document = {"choices": [{"index": index, **said, "finish_reason": "stop"} for index in indexes]}
    events = unfold(json.dumps(document).encode(), Asked(ENDPOINTS[endpoint])).stream.decode().split("\n\n")
    seen = [choice["index"] for event in events if "{" in event for choice in json.loads(event[6:])["choices"]]
    assert sorted(set(seen)) == list(range(len(indexes)))
