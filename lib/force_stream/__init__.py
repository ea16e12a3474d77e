"""force-stream: plain answers from OpenAI-compatible upstreams that stream.

The rooms, from the wire to the command line. A room imports from itself and from those above it, as
tests/project/test_boundaries.py checks:

    wire/       bytes and grammars, no meaning: server-sent events, JSON text, JSON and form bodies, content encodings
    errors      what can be wrong with an answer
    merge/      many deltas, one value: the rules of fields, tool calls
    endpoints/  one module an API, and their table
    answer/     an answer's bytes to a reply: reading, quirks, what need not be parsed again, why it failed
    rules/      which request: the rule, the rules file
    proxy/      one flow in mitmproxy: below its hooks, an answer while it comes in, what is kept and said of a flow
    view/       what a person sees: the timeline, what was said, the content view, figures; no credentials
    page/       the page that the proxy serves
    addon/      mitmproxy's hooks, options and commands
    cli/        the command `force-stream`
"""

from .answer.reader import AnswerReader, AnswerSpec
from .answer.report import Reply
from .endpoints import ENDPOINTS
from .errors import StreamError

__all__ = ["AnswerReader", "AnswerSpec", "Reply", "StreamError", "aggregate"]
__version__ = "0.1.0"


def aggregate(body: bytes, endpoint: str = "chat") -> Reply:
    """The one JSON document of a whole event stream, and the status that goes with it.

    `endpoint` is a name out of the rules (chat, completions, responses, messages, …). A body that is JSON already comes
    back as it is. Raises `ValueError` for an unknown endpoint, and nothing for any body: a stream that failed or is cut
    off gives the error that a client would get.
    """
    if endpoint not in ENDPOINTS:
        raise ValueError(f"unknown endpoint {endpoint!r}; known: {', '.join(ENDPOINTS)}")
    answer = AnswerSpec(rule="aggregate", endpoint=endpoint).read()
    answer.feed(body)
    return answer.finish() or Reply(200, body)
