"""The differences that are a server's own: what its direct answers have that its streams do not say, or the other way
round. Each is a row, with all that the stream says there. Must not know how the answers were had.
"""

from dataclasses import dataclass
from typing import Final

from answers import NOTHING, Difference, fits


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

    def fits(self, name: str, difference: Difference) -> bool:
        return (
            fits(name, self.requests)
            and fits(difference.path, self.path)
            and fits(difference.direct, self.direct)
            and fits(difference.proxied, self.proxied)
        )


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
        "responses: *tool*",
        "events/order",
        "*",
        "*response.function_call_arguments.done*",
        "the event that ends the arguments of a call is left out",
        'data: {"type":"response.output_item.done","item":{"type":"function_call","status":"completed",...}}',
    ),
    Known(
        "messages: thought apart",
        "events/order",
        "*",
        "*",
        "the block of a thought is signed after that of the text, and stopped with it",
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":""}}',
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

# What LiteLLM leaves out of a stream, or puts into one, that comes from the server behind it.
LITELLM: Final[tuple[Known, ...]] = (
    Known(
        "*",
        "timings",
        "*",
        NOTHING,
        "how long llama.cpp took is passed on in a plain answer only",
        'data: {"choices":[{"index":0,"delta":{}}],...,"usage":{...}}, and no "timings" in any chunk',
    ),
    Known(
        "chat: *",
        "usage/completion_tokens_details",
        NOTHING,
        "*",
        "LiteLLM counts the kinds of tokens itself when it streams",
        'data: {...,"usage":{...,"completion_tokens_details":{"reasoning_tokens":0,"text_tokens":12},...}}',
    ),
    Known(
        "completions: *",
        "usage/completion_tokens_details",
        "null",
        "*",
        "LiteLLM counts the kinds of tokens itself when it streams",
        'data: {...,"usage":{...,"completion_tokens_details":{"reasoning_tokens":0,"text_tokens":12},...}}',
    ),
    Known(
        "completions: *",
        "system_fingerprint",
        '"*"',
        NOTHING,
        "it is in no chunk",
        'data: {"id":"chatcmpl-...","object":"text_completion","created":...,"model":"gemma","choices":[...]}',
    ),
    Known(
        "responses: *",
        "completed_at",
        "*",
        NOTHING,
        "when a response was completed is in no event",
        'data: {"type":"response.completed","response":{"id":"...",...,"status":"completed","usage":{...}},...}',
    ),
    Known(
        "responses: *",
        "output/*/*",
        "null",
        NOTHING,
        "the members of an item that LiteLLM knows and llama.cpp does not say are null in a plain answer only",
        'data: {"type":"response.completed","response":{...,"output":[{"id":"msg_...","content":[...],...}],...}}',
    ),
    Known(
        "messages: *",
        "usage/cache_*_input_tokens",
        NOTHING,
        "0",
        "the first event of LiteLLM's stream has counts of cached tokens",
        'data: {"type":"message_start","message":{...,"usage":{"input_tokens":0,...,"cache_read_input_tokens":0}}}',
    ),
    *(
        Known(
            "messages: tool call cut short",
            path,
            direct,
            proxied,
            "LiteLLM says tool_use for the limit, and {} for half an input; the forced answer is an error",
            'data: {"type":"content_block_delta",...,"partial_json":"{"}} and {...,"delta":{"stop_reason":"tool_use"}}',
        )
        for path, direct, proxied in (("status", "200", "502"), ("status/body", "*", "*stream_corrupted*"))
    ),
    Known(
        "chat: n 2*",
        "choices/1/finish_reason",
        '"length"',
        '"stop"',
        "LiteLLM sends the finish reason of one choice of several; that of the other is inferred, and marked so",
        'data: {...,"choices":[{"finish_reason":"length","index":0,"delta":{}}]}, and none with index 1',
    ),
    Known("chat: Unicode cut in a character", "choices/0/message/content", '"\ufffd"', '""', CUT_CHARACTER, "nothing"),
    Known("chat: thought cut short", "choices/0/message/content", '"<think>"', '""', CUT_THOUGHT, "nothing"),
    Known(
        "completions: logprobs",
        "choices/0/logprobs",
        "{*",
        "null",
        "LiteLLM leaves the probabilities out of a stream of completions",
        'data: {"id":"...","object":"text_completion",...,"choices":[{"index":0,"text":" four"}]}',
    ),
    Known(
        "completions: context too long",
        "error/message",
        "*Error code: 400 - request*",
        "*OpenAIException - request*",
        "LiteLLM words the same error in two ways",
        '{"error":{"message":"litellm.ContextWindowExceededError: ...","type":null,"param":null,"code":"400"}}',
    ),
)

CUT_CALL: Final = "a call that the limit cut is text in the direct answer, and as much of a call as came in the stream"
BLANK_BEFORE_CALL: Final = "the blank lines between a thought and a call are text in the stream only"
FIRST_DELTA: Final = 'the first event has the text "", and none follows'


def before_a_call(endpoint: str, path: str) -> tuple[Known, ...]:
    """The blank text is an item of its own before the calls, so that each call is compared with what precedes it."""
    said = 'event: content_block_delta or response.output_text.delta with the text "\\n\\n"'
    return tuple(
        Known(f"{endpoint}: {names}", path, "*", "*", BLANK_BEFORE_CALL, said)
        for names in ("*call*", "one function twice")
    )


VLLM: Final[tuple[Known, ...]] = (
    Known(
        "chat: *, thought first",
        "choices/0/message/content",
        "null",
        '"\\n\\n"',
        BLANK_BEFORE_CALL,
        'data: {...,"choices":[{"index":0,"delta":{"content":"\\n\\n"},...}]}',
    ),
    Known(
        "chat: *tokens",
        "choices/0/message/content",
        '"*<tool_call>*"',
        "*",
        CUT_CALL,
        'data: {...,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"get_weather"}}]}}]}',
    ),
    Known(
        "chat: *tokens",
        "choices/0/message/tool_calls*",
        "*",
        "[*",
        CUT_CALL,
        'data: {...,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"get_weather"}}]}}]}',
    ),
    Known(
        "chat: *thought*",
        "choices/0/message/content",
        "null",
        '""',
        FIRST_DELTA,
        'data: {...,"choices":[{"index":0,"delta":{"role":"assistant","content":""},...}]}',
    ),
    Known(
        "chat: one call, tool_choice *",
        "choices/0/message/content",
        '""',
        "null",
        'beside a forced call the text is "", beside one of the model\'s own it is null; the quirk says null',
        'data: {...,"choices":[{"index":0,"delta":{"role":"assistant","content":""},...}]}',
    ),
    Known(
        "chat: text, stop string in a thought",
        "usage/completion_tokens_details/reasoning_tokens",
        "5",
        "4",
        "vLLM counts the thought's tokens in two ways",
        'data: {...,"usage":{...,"completion_tokens_details":{"reasoning_tokens":4}}}',
    ),
    Known(
        "chat: text, usage asked for",
        "status*",
        "*",
        "*",
        "vLLM refuses stream_options in a plain request; the forced one is answered",
        "the answer",
    ),
    Known(
        "completions: echo",
        "choices/0/prompt_token_ids",
        "null",
        "[*",
        "the stream has the tokens of the prompt that it repeats",
        'data: {...,"choices":[{"index":0,"text":"One, two,",...,"prompt_token_ids":[...]}]}',
    ),
    Known(
        "messages: *",
        "stop_sequence",
        NOTHING,
        "null",
        "the stream has the member, the direct answer does not",
        'data: {"type":"message_start","message":{...,"stop_sequence":null,...}}',
    ),
    *(
        Known(
            f"{endpoint}: two calls, 12 tokens",
            path,
            '"*<tool_call>*"',
            '"\\n\\n"',
            CUT_CALL,
            'the text "\\n\\n" and nothing of a call, whose name is not whole yet',
        )
        for endpoint, path in (("messages", "content/1/text"), ("responses", "output/1/content/0/text"))
    ),
    *before_a_call("messages", "content/*"),
    Known(
        "responses: *",
        "output/*/status",
        "null",
        '"completed"',
        "the items of the direct answer have no status",
        'data: {"type":"response.output_item.done",...,"item":{...,"status":"completed",...}}',
    ),
    *before_a_call("responses", "output/*"),
)
TRIMMED: Final = "blank text around a thought and an answer is cut off in the direct answer only"

TRANSFORMERS: Final[tuple[Known, ...]] = (
    Known(
        "responses: *",
        "output/*/content/0/text",
        "*",
        '"\\n*"',
        TRIMMED,
        'data: {"item":{"id":"rs_...",...,"content":[{"text":"\\nNo.\\n"}]},...,"type":"response.output_item.done"}',
    ),
    *(
        Known(
            "*tokens",
            path,
            direct,
            "*",
            "the server fails where it parses a call that the limit cut; its stream leaves the call out",
            'data: {"choices":[{"delta":{},"index":0,"finish_reason":"length"}],...} after the thought, and no call',
        )
        for path, direct in (("status", "500"), ("status/body", "b'Internal Server Error'"))
    ),
    Known(
        "chat: *",
        "system_fingerprint",
        NOTHING,
        '""',
        "every chunk has the member, the direct answer does not",
        'data: {"id":"...","choices":[...],...,"system_fingerprint":""}',
    ),
    Known(
        "chat: *",
        "choices/0/message/content",
        '"*"',
        '"\\n\\n*"',
        TRIMMED,
        'data: {...,"choices":[{"delta":{"content":"\\n\\n"},"index":0}]}',
    ),
    Known(
        "chat: *",
        "choices/0/message/reasoning_content",
        "*",
        '"\\n*"',
        TRIMMED,
        'data: {...,"choices":[{"delta":{"reasoning_content":"\\n"},"index":0}]}',
    ),
)
