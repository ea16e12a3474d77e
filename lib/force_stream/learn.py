"""The words in which upstreams say that they must stream. Knows these words; must not know mitmproxy or rules."""

import json
import re
from typing import Final

# What upstreams answer to a plain request that they only serve as a stream, as their users report it.
_WORDS: Final = (
    r"only supports? stream(ing)? mode",  # DashScope
    r"enable_thinking must be set to false for non-streaming calls",  # DashScope, Qwen3
    r"stream must be set to true",  # the ChatGPT backend
    r"must have stream=true",  # Fireworks
    r"only supports? with stream=true",
    r"non-stream(ing)? chat requests? (is|are) currently not supported",
    r"streaming is required",  # Anthropic's SDKs and gateways, for long answers
    r"streaming is strongly recommended",
)
_MUST_STREAM: Final = re.compile("|".join(_WORDS), re.IGNORECASE)
# Bytes. An error of more is a page, and what it says about streams is not meant for this request.
LONGEST_ERROR: Final = 64 * 1024


def says_it_must_stream(status: int, body: bytes) -> bool:
    """Whether an answer refuses a request because it did not ask for a stream."""
    if not 400 <= status < 600 or len(body) > LONGEST_ERROR:
        return False
    return _MUST_STREAM.search(body.decode(errors="replace")) is not None


def rule_to_paste(name: str, host: str, model: str) -> str:
    """The rule that makes what was learned last, as YAML in one line."""
    # A JSON string is a YAML string too.
    models = f", models: [{json.dumps(model)}]" if model else ""
    return f"- {{name: {json.dumps(name)}, hosts: [{json.dumps(host)}]{models}, force_upstream_stream: true}}"
