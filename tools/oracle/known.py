"""The differences that are a server's own: what its direct answers have that its streams do not say, or the other way
round. Each is a row, with all that the stream says there. Must not know how the answers were had.
"""

from dataclasses import dataclass
from typing import Final

from answers import NOTHING


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


CUT_CHARACTER: Final = (
    "the bytes of a character that the limit cut in two: the direct answer has U+FFFD, the stream nothing"
)
CUT_THOUGHT: Final = "text that might become the mark of a thought is held back, and never sent when the limit cuts it"

LLAMA_CPP: Final[tuple[Known, ...]] = (
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

LITELLM: Final[tuple[Known, ...]] = ()
