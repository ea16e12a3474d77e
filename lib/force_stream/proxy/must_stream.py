"""The words in which upstreams say that they must stream. Knows these words; must not know mitmproxy or rules."""

import glob
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
# Bytes. A longer error is a web page, and what it says about streams is not about this request.
LONGEST_ERROR: Final = 64 * 1024


def says_it_must_stream(status: int, body: bytes) -> bool:
    """Whether an answer refuses a request because it did not ask for a stream."""
    if not 400 <= status < 600 or len(body) > LONGEST_ERROR:
        return False
    return _MUST_STREAM.search(body.decode(errors="replace")) is not None


def rule_to_paste(host: str, model: str) -> str:
    """The rule that makes what was learned last, as YAML in one line."""
    name = re.sub(r"[^\w.+-]+", " ", f"{host} {model}")[:80].strip(" .+-")
    # Otherwise a wildcard character in the model's name would match other models.
    models = f", models: [{_quoted(glob.escape(model))}]" if model else ""
    return f"- {{name: {_quoted(name)}, hosts: [{_quoted(host)}]{models}, force_upstream_stream: true}}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which is YAML too
