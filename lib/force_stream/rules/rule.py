"""A rule, and which request it is for.

Knows hosts, models, tools and mitmproxy's filter language. Must not know the rules file and its keys, how a request is
changed, or what a response holds.
"""

import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final

from mitmproxy import flowfilter
from mitmproxy.flow import Flow

from ..endpoints import endpoint_for, offers_tools
from ..endpoints.endpoint import Endpoint, Request
from ..wire.text import printable
from .hosts import HostPattern, canonical_host, compile_host, spelled_hosts

# mitmproxy's option that names hosts to force, and the rule that is made of it.
HOSTS_OPTION: Final = "force_stream_hosts"


# Seconds; just under the 600 after which mitmproxy itself ends the connection without an answer (`tcp_timeout`).
IDLE_TIMEOUT: Final = 540


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the rules file, with the defaults. Seconds and bytes are plain numbers; None is the file's `null`.

    `parse_rules` and `with_value` check what they put into it. The class itself raises ValueError for a host or a
    filter that cannot be compiled, and checks nothing else.
    """

    name: str
    hosts: tuple[str, ...]
    _: KW_ONLY
    force_upstream_stream: bool = False
    endpoints: tuple[str, ...] | None = None
    paths: Mapping[str, str] = field(default_factory=dict, hash=False)
    models: tuple[str, ...] | None = None
    tools: bool | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    filter: str | None = None
    stream_options: Mapping[str, Any] | None = field(default_factory=lambda: {"include_usage": True}, hash=False)
    on_truncated: str = "error"
    quirks: tuple[str, ...] = ()
    timeout: float | None = None
    idle_timeout: float | None = IDLE_TIMEOUT
    heartbeat: float | None = None
    force_upstream_plain: bool = False
    retries: int = 0
    max_body: int = 64 * 1024**2
    cors: bool | tuple[str, ...] = False
    learn: bool | tuple[str, ...] = False
    fill: Mapping[str, Any] = field(default_factory=dict, hash=False)
    keep_answers: float | None = None
    guard_streams: bool = False
    inject: Mapping[str, Any] = field(default_factory=dict, hash=False)

    _hosts: tuple[HostPattern, ...] = field(init=False, repr=False, compare=False)
    _filter: flowfilter.TFilter | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hosts", tuple(map(compile_host, self.hosts)))
        object.__setattr__(self, "_filter", None if self.filter is None else compile_filter(self.filter))

    @property
    def forces(self) -> bool:
        """Whether it forces requests, in either direction."""
        return self.force_upstream_stream or self.force_upstream_plain

    @property
    def watches_streams(self) -> bool:
        """Whether something is done to an answer where the client itself asks for a stream."""
        return self.forces or bool(self.learn) or self.guard_streams

    def endpoint(self, path: str) -> Endpoint | None:
        """The endpoint of this path, by the path's end or by the rule's own `paths`."""
        return endpoint_for(path, self.paths)

    def mismatch(
        self, hosts: Collection[tuple[str, int | None]], path: str, request: Request, flow: Flow
    ) -> str | None:
        """None if the rule is for this request, otherwise the first reason why not, as a phrase. `path` may include a
        query; `request` has the members of the body; `flow` is only for the filter."""
        if not self.is_for_host(hosts):
            return f"{spelled_hosts(hosts)} is not among {', '.join(self.hosts)}"
        endpoint = self.endpoint(path)
        if endpoint is None:
            # The query stays out of the phrase: some APIs take the key there.
            return f"path {printable(path.partition('?')[0])} is not a known endpoint"
        return self.mismatch_within(endpoint, request, flow)

    def mismatch_within(self, endpoint: Endpoint, request: Request, flow: Flow) -> str | None:
        """The same for a request whose host and path are the rule's."""
        if self.endpoints is not None and endpoint.name not in self.endpoints:
            return f"endpoint {endpoint.name} is not among {', '.join(self.endpoints)}"
        if self.models is not None:
            model = request.get("model")
            if not isinstance(model, str):
                return f"the request has no model, and the rule is only for {', '.join(self.models)}"
            if not any(fnmatchcase(model, pattern) for pattern in self.models):
                folded = any(fnmatchcase(model.lower(), pattern.lower()) for pattern in self.models)
                hint = " (they are case-sensitive)" if folded else ""
                return f"model {printable(model)} is not among {', '.join(self.models)}{hint}"
        if self.tools is not None and offers_tools(request) is not self.tools:
            offers, others = ("offers no tools", "do") if self.tools else ("offers tools", "do not")
            return f"the request {offers}, and the rule is only for those that {others}"
        return self._filter_mismatch(flow)

    def is_for_host(self, hosts: Iterable[tuple[str, int | None]]) -> bool:
        """Whether one of a request's hosts (target, Host or :authority, SNI) is among the rule's."""
        for host, port in set(hosts):
            name = canonical_host(host)
            for pattern, wanted in self._hosts:
                if wanted in (None, port) and pattern.match(name):
                    return True
        return False

    def _filter_mismatch(self, flow: Flow) -> str | None:
        try:
            # Only the truth of the result counts: some filters return a match object or a list.
            if self._filter is None or self._filter(flow):
                return None
        except Exception as error:
            # Its message may quote the body, so only its type is shown.
            return f"filter {self.filter} could not be evaluated ({type(error).__name__})"
        return f"filter {self.filter} does not match"


# The rule for an answer without limits.
UNLIMITED: Final = Rule("(none)", (), idle_timeout=None, max_body=sys.maxsize)


type Match = tuple[Rule, Endpoint]


def candidates(rules: Iterable[Rule], hosts: Iterable[tuple[str, int | None]], path: str) -> list[Match]:
    """The rules that are for a request by its hosts and path, before its body is read, each with its endpoint there."""
    return [(rule, endpoint) for rule in rules if rule.is_for_host(hosts) and (endpoint := rule.endpoint(path))]


def first_match(found: Iterable[Match], request: Request, flow: Flow) -> Match | None:
    """The candidate that decides about a request, given the members of its body, whether or not it forces anything."""
    return next((match for match in found if match[0].mismatch_within(match[1], request, flow) is None), None)


@lru_cache(maxsize=256)
def compile_filter(expression: str) -> flowfilter.TFilter:
    """mitmproxy's own filter, ValueError if it has no such expression."""
    try:
        return flowfilter.parse(expression)
    except Exception as error:
        # In addition to the documented ValueError: RecursionError for a thousand parentheses.
        raise ValueError(f"not a filter expression: {expression!r}") from error
