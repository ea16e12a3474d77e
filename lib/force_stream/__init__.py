"""force-stream: plain answers from OpenAI-compatible upstreams that stream.

The map, from the wire to the proxy; imports point backwards in this list only (tests/test_boundaries.py):

    errors, jsontext, merge, aggregate          what modules of all kinds use
    sse, repeat                                 bytes to server-sent events, and what need not be parsed again
    tool_calls, chat, completions, responses,
    messages, transcriptions, images            events to the document of one endpoint
    endpoints, quirks                           the tables of both
    request, form                               a request's bytes
    exchange                                    a request in, a reply out: all of it without a proxy
    watch, inject, retry, decoding, learn       an answer while it comes in, and what else a rule may ask for
    rules, rules_file                           rules.yaml
    upstream, flows, telling                    mitmproxy: below its hooks, its flows, and what is said of them
    additions, timeline, timeline_text,
    contentview                                 the event stream for a person's eyes
    stats, outcome, plot, page, board, serve    the figures, and the page that shows them
    mitmweb, commands, addon.py                 mitmproxy: commands, options, hooks
"""

from .endpoints import ENDPOINTS
from .errors import StreamError
from .exchange import Exchange, Reply

__all__ = ["Exchange", "Reply", "StreamError", "aggregate"]
__version__ = "0.1.0"


def aggregate(body: bytes, endpoint: str = "chat") -> Reply:
    """The one JSON document of a whole event stream, and the status that goes with it.

    `endpoint` is a name out of the rules (chat, completions, responses, messages, …). A body that is JSON already comes
    back as it is. Raises `ValueError` for an unknown endpoint, and nothing for any body: a stream that failed or is cut
    off gives the error that a client would get.
    """
    if endpoint not in ENDPOINTS:
        raise ValueError(f"unknown endpoint {endpoint!r}; known: {', '.join(ENDPOINTS)}")
    answer = Exchange(rule="aggregate", endpoint=endpoint).read()
    answer.feed(body)
    return answer.finish() or Reply(200, body)
