"""The table of endpoints: how each is recognized by its path, and what a request asks for.

The one module that knows all APIs; the module of each ends in its row. Must not know rules or mitmproxy.
"""

from collections.abc import Mapping
from typing import Final

from .apis import api_of as api_of
from .chat import CHAT
from .completions import COMPLETIONS
from .endpoint import Endpoint, Request
from .images import IMAGES
from .messages import MESSAGES
from .responses import RESPONSES
from .transcriptions import TRANSCRIPTIONS

_ALL: Final = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, TRANSCRIPTIONS, IMAGES)
ENDPOINTS: Final[Mapping[str, Endpoint]] = {endpoint.name: endpoint for endpoint in _ALL}

# "/chat/completions" ends with "/completions" too: the longest end decides.
_BY_END: Final = sorted(
    ((end, endpoint) for endpoint in _ALL for end in (*endpoint.paths, *endpoint.never_streams)),
    key=lambda row: len(row[0]),
    reverse=True,
)


def endpoint_for(path: str, extra: Mapping[str, str]) -> Endpoint | None:
    """The endpoint of a request path (with or without a query). `extra`: a rule's own path ends, and endpoint names."""
    path = _bare(path)
    for end, name in sorted(extra.items(), key=lambda row: len(row[0]), reverse=True):
        if path.endswith(_bare(end)):
            return ENDPOINTS[name]
    found = next((endpoint for end, endpoint in _BY_END if path.endswith(end)), None)
    return None if found is None or any(under in path for under in found.not_under) else found


def never_streams(endpoint: Endpoint, path: str) -> bool:
    """Whether this path of the endpoint rejects `stream`."""
    return _bare(path).endswith(endpoint.never_streams)


def _bare(path: str) -> str:
    return path.partition("?")[0].rstrip("/")


def expected_choices(request: Request) -> int:
    """How many choices a direct answer to this request has."""
    prompt, n = request.get("prompt"), request.get("n")
    # A list of strings or of token lists is several prompts; a list of numbers is one, in tokens.
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    if isinstance(n, str) and n.isascii() and n.isdigit() and len(n) < 10:
        n = int(n)  # all values of a form are texts
    return prompts * (n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 1)


def offers_tools(request: Request) -> bool:
    """Whether a request offers the model tools, or functions, as they were called before."""
    return any(isinstance(request.get(key), list) and bool(request[key]) for key in ("tools", "functions"))
