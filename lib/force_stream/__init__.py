"""force-stream: plain answers from OpenAI-compatible upstreams that stream.

The map, from the wire to the proxy; imports point backwards in this list only:

    errors, jsontext, aggregate   what every module may use
    sse                           bytes to server-sent events
    merge, tool_calls             deltas to values
    chat, completions, responses  events to the document of one endpoint
    endpoints, quirks, request    the tables, and the request's bytes
    exchange                      a request in, a reply out: all of it without a proxy
    rules                         rules.yaml
    addon.py                      mitmproxy
"""

from .endpoints import ENDPOINTS
from .errors import StreamError
from .exchange import Exchange, Reply

__all__ = ["Exchange", "Reply", "StreamError", "aggregate"]
__version__ = "0.1.0"


def aggregate(body: bytes, endpoint: str = "chat") -> Reply:
    """The one JSON document of a whole event stream, and the status that goes with it.

    `endpoint` is a name out of the rules (chat, completions, responses). A body that is JSON already comes back as it
    is. Raises `ValueError` for an unknown endpoint, and nothing for any body: a stream that failed or is cut off gives
    the error that a client would get.
    """
    if endpoint not in ENDPOINTS:
        raise ValueError(f"unknown endpoint {endpoint!r}; known: {', '.join(ENDPOINTS)}")
    answer = Exchange(rule="aggregate", endpoint=endpoint).read()
    answer.feed(body)
    return answer.finish() or Reply(200, body)
