"""A rule, and which request it is for.

Knows hosts, models and mitmproxy's filter language. Must not know the rules file, how a request is changed, or what a
response holds.
"""

import fnmatch
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final, NamedTuple

from mitmproxy import flowfilter
from mitmproxy.flow import Flow

from ..endpoints import Endpoint, endpoint_for

MEBIBYTE: Final = 1024**2
# mitmproxy's option that names hosts to force, and the rule that is made of it.
HOSTS_OPTION: Final = "force_stream_hosts"


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a rule asks about a request.

    `hosts` are the names that the request goes by (target, Host or :authority, SNI), each with its port or None;
    `path` may carry a query; `model` is the body's, None if it names none; `flow` is for the rule's filter alone.
    """

    hosts: tuple[tuple[str, int | None], ...]
    path: str
    model: str | None
    flow: Flow


class HostPattern(NamedTuple):
    """A host of a rule, compiled. `port` None stands for any."""

    name: re.Pattern[str]
    port: int | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the rules file, checked. Seconds and bytes are plain numbers; None is the file's `null`.

    Rules are equal if the file says the same of both. Made by `parse_rules` and `with_value`; the class itself checks
    nothing, and raises ValueError for a host or a filter that cannot be compiled.
    """

    name: str
    hosts: tuple[str, ...]
    force_upstream_stream: bool = False
    endpoints: tuple[str, ...] | None = None
    paths: Mapping[str, str] = field(default_factory=dict, hash=False)
    models: tuple[str, ...] | None = None
    filter: str | None = None
    stream_options: Mapping[str, Any] | None = field(default_factory=lambda: {"include_usage": True}, hash=False)
    on_truncated: str = "error"
    quirks: tuple[str, ...] = ()
    timeout: float | None = None
    idle_timeout: float | None = 540
    heartbeat: float | None = None
    retries: int = 0
    max_body: int = 64 * MEBIBYTE
    learn: bool = False
    inject: Mapping[str, Any] = field(default_factory=dict, hash=False)

    _hosts: tuple[HostPattern, ...] = field(init=False, repr=False, compare=False)
    _models: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)
    _filter: flowfilter.TFilter | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        compiled = {
            "_hosts": tuple(map(compile_host, self.hosts)),
            "_models": tuple(re.compile(fnmatch.translate(model)) for model in self.models or ()),
            "_filter": None if self.filter is None else compile_filter(self.filter),
        }
        for name, value in compiled.items():
            object.__setattr__(self, name, value)

    def endpoint(self, path: str) -> Endpoint | None:
        """The endpoint that this path is, by its end or by the rule's own `paths`."""
        return endpoint_for(path, self.paths)

    def mismatch(self, facts: RequestFacts) -> str | None:
        """None if the rule is for this request, else the first thing that stands against it, as a phrase."""
        if not self.is_for_host(facts.hosts):
            return f"{_spelled_hosts(facts.hosts)} is not among {', '.join(self.hosts)}"
        endpoint = self.endpoint(facts.path)
        if endpoint is None:
            # The query stays out of the phrase: some APIs take the key there.
            return f"path {facts.path.partition('?')[0]} is no known endpoint"
        if self.endpoints is not None and endpoint.name not in self.endpoints:
            return f"endpoint {endpoint.name} is not among {', '.join(self.endpoints)}"
        if self.models is not None:
            if facts.model is None:
                return f"the request names no model, and only {', '.join(self.models)} will do"
            if not any(pattern.match(facts.model) for pattern in self._models):
                known = ", ".join(self.models)
                folded = any(fnmatch.fnmatchcase(facts.model.lower(), model.lower()) for model in self.models)
                return f"model {facts.model} is not among {known}" + " (they are case-sensitive)" * folded
        return self._filter_mismatch(facts.flow)

    def is_for_host(self, hosts: Iterable[tuple[str, int | None]]) -> bool:
        """Whether one of the names that a request goes by is among the rule's."""
        for host, port in set(hosts):
            name = canonical_host(host)
            for pattern in self._hosts:
                if pattern.port in (None, port) and pattern.name.match(name):
                    return True
        return False

    def _filter_mismatch(self, flow: Flow) -> str | None:
        if self._filter is None:
            return None
        try:
            # Filters are made to answer by their truth: some give a match object or a list.
            matched = bool(self._filter(flow))
        except Exception as error:
            # Its message may quote the body, so only its kind is told.
            return f"filter {self.filter} could not be evaluated ({type(error).__name__})"
        return None if matched else f"filter {self.filter} does not match"


def first_match(rules: Iterable[Rule], facts: RequestFacts) -> Rule | None:
    """The rule that decides about this request, whether or not it forces anything."""
    # Most rules fail at the host, and finding that out costs a fifth of putting it into words.
    return next((rule for rule in rules if rule.is_for_host(facts.hosts) and rule.mismatch(facts) is None), None)


def changes(old: Sequence[Rule], new: Sequence[Rule]) -> list[str]:
    """What a person should know after the rules were read again: one line a rule, values as the file spells them."""
    before = {rule.name: rule for rule in old}
    after = {rule.name: rule for rule in new}
    lines = [f"rule {name} removed" for name in before if name not in after]
    for name, rule in after.items():
        if name not in before:
            lines.append(f"rule {name} added")
        elif rule != before[name]:
            lines.append(f"rule {name}: {_difference(before[name], rule)}")
    # The first match decides, so the order means something, but only among rules that stand in both.
    kept = [name for name in after if name in before]
    if kept != [name for name in before if name in after]:
        lines.append(f"order of the rules changed: {', '.join(after)}")
    return lines


def describe(rule: Rule) -> str:
    """The rule in one line: its name, whether it forces, its hosts, and every key that is not at its default."""
    told = ("name", "hosts", "force_upstream_stream")
    rest = [f"{key} {_spelled(key, value)}" for key, value in _changed(Rule("", ()), rule) if key not in told]
    force = "on" if rule.force_upstream_stream else "off"
    return "; ".join([f"{rule.name}: force {force}", f"hosts {', '.join(rule.hosts)}", *rest])


def _difference(old: Rule, new: Rule) -> str:
    return "; ".join(
        f"{key} {_spelled(key, getattr(old, key))} -> {_spelled(key, value)}" for key, value in _changed(old, new)
    )


def _changed(old: Rule, new: Rule) -> Iterator[tuple[str, Any]]:
    for key in (each.name for each in fields(Rule) if each.init):
        if getattr(old, key) != getattr(new, key):
            yield key, getattr(new, key)


# --- Spelling -------------------------------------------------------------------------------------------------------


def _spelled(key: str, value: object) -> str:
    return SPELLINGS.get(key, _as_yaml)(value)


def _as_yaml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_size(value: object) -> str:
    return f"{value // MEBIBYTE}MiB" if isinstance(value, int) and value % MEBIBYTE == 0 else _as_yaml(value)


SPELLINGS: Final[Mapping[str, Callable[[object], str]]] = {"max_body": _as_size}


def _spelled_hosts(hosts: Iterable[tuple[str, int | None]]) -> str:
    spelled = dict.fromkeys(_with_port(name, port) for name, port in hosts)
    return f"host {' or '.join(spelled)}" if spelled else "a request without a host"


def _with_port(name: str, port: int | None) -> str:
    if port is None:
        return name
    return f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"


# --- Hosts and filters ----------------------------------------------------------------------------------------------

_BRACKETED: Final = re.compile(r"\[(?P<name>[^\[\]]*:[^\[\]]*)\](:(?P<port>.*))?")
_IPV6_WILDCARD: Final = re.compile(r"[0-9a-f:.]*[*?][0-9a-f:.*?]*", re.IGNORECASE)
_HOST: Final = re.compile(r"[^\s/\\@,]+")


def compile_host(pattern: str) -> HostPattern:
    """The compiled form of `api.example.com`, `*.example.ai`, `10.0.0.5:8000`, `*:8000`, `::1`, `[::1]:8000`.

    ValueError if it is none of these.
    """
    if bracketed := _BRACKETED.fullmatch(pattern):
        name, port = bracketed["name"], bracketed["port"]
    elif pattern.count(":") > 1:
        name, port = pattern, None
    else:
        name, colon, number = pattern.partition(":")
        port = number if colon else None
    if "/" in pattern or not (_is_ipv6(name) if ":" in name else _HOST.fullmatch(name)):
        raise ValueError(f"not a host: {pattern!r}")
    return HostPattern(re.compile(fnmatch.translate(canonical_host(name))), _port(pattern, port))


def _is_ipv6(name: str) -> bool:
    try:
        ipaddress.IPv6Address(name)
    except ValueError:
        return _IPV6_WILDCARD.fullmatch(name) is not None
    return True


def _port(pattern: str, port: str | None) -> int | None:
    if port is None or port == "*":
        return None
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"not a port: {pattern!r}")
    return int(port)


@lru_cache(maxsize=1024)
def canonical_host(host: str) -> str:
    """One spelling for a host that has several: no brackets, no trailing dot, lower case, IDNA, the shortest IPv6."""
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    host = host.removesuffix(".").lower()
    try:
        if ":" in host:
            return ipaddress.ip_address(host).compressed
        return host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        return host


@lru_cache(maxsize=256)
def compile_filter(expression: str) -> flowfilter.TFilter:
    """mitmproxy's own filter, ValueError if it has no such expression."""
    try:
        return flowfilter.parse(expression)
    except Exception as error:
        # Beside the documented ValueError: RecursionError for a thousand parentheses.
        raise ValueError(f"not a filter expression: {expression!r}") from error
