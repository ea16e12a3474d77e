"""However deep a body nests, wherever it does, `aggregate` answers."""

import json

import pytest
from force_stream import ENDPOINTS, AnswerSpec, aggregate

DEPTHS = (330, 990, 5000)
# The value that nests is at the @.
PLACES = (
    "@",
    '{"error":@}',
    '{"error":{"message":@}}',
    '{"message":@}',
    '{"usage":@}',
    '{"choices":@}',
    '{"choices":[{"index":0,"delta":@}]}',
    '{"choices":[{"index":0,"delta":{"content":@}}]}',
    '{"choices":[{"index":0,"delta":{"content":[@]}}]}',
    '{"choices":[{"index":0,"delta":{"foo":@}}]}',
    '{"choices":[{"index":0,"delta":{"reasoning_details":[{"type":"t","text":@,"signature":"s"}]}}]}',
    '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":@}}]}}]}',
    '{"choices":[{"index":0,"message":{"content":@}}]}',
    '{"type":"response.completed","response":@}',
    '{"type":"response.completed","response":{"output":@}}',
    '{"type":"response.output_item.done","output_index":0,"item":{"type":"message","content":@}}',
    '{"type":"response.failed","response":{"error":@}}',
    '{"type":"message_delta","delta":{"stop_reason":@},"usage":{"x":@}}',
    '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":@}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":@}}',
    '{"type":"transcript.text.done","text":@}',
    '{"type":"image_generation.completed","url":@}',
)
ENDS = (
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    'data: {"type":"message_stop"}\n\ndata: {"type":"response.completed","response":{}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("kind", ["list", "object"])
def test_every_depth_is_answered(endpoint: str, kind: str) -> None:
    opening, closing = {"list": ("[", "]"), "object": ('{"a":', "}")}[kind]
    for place in PLACES:
        for depth in DEPTHS:
            for filling in (opening * depth + "1" + closing * depth, opening * depth):
                event = place.replace("@", filling)
                for body in (f"data: {event}\n\ndata: {event}\n\n{ENDS}", event, f"{event}\n{event}\n"):
                    reply = aggregate(body.encode(), endpoint)
                    assert reply.status == 200 or json.loads(reply.body)["error"]["message"]


@pytest.mark.parametrize("size", [1 << 20, 1000, 7])
def test_what_follows_an_event_that_is_too_deep_is_not_read_however_it_comes(size: int) -> None:
    deep = PLACES[9].replace("@", '{"a":' * 990 + "1" + "}" * 990)
    body = f"data: {PLACES[7].replace('@', '1')}\n\ndata: {deep}\n\n{ENDS}".encode()
    answer = AnswerSpec("r", "chat").read()
    for start in range(0, len(body), size):
        answer.feed(body[start : start + size])
    reply = answer.finish()
    assert reply is not None
    assert b"nested too deeply" in reply.body
    assert answer.report.events == 2
