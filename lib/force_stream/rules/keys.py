"""The keys of a rule."""

import re
from collections.abc import Mapping
from typing import Any, Final

from ..answer.quirks import QUIRKS
from ..endpoints import ENDPOINTS
from .hosts import compile_host
from .rule import compile_filter
from .values import (
    MistakeError,
    Node,
    Parser,
    expected,
    flag,
    list_of,
    one_of,
    or_null,
    pairs,
    plain,
    quoted,
    read,
    read_mapping,
    seconds,
    size,
    some,
    text,
    whole,
)

_PATH: Final = re.compile(r"/[^\s?#]*[^\s?#/]/?")
NAME: Final = re.compile(r"\w([\w .+-]*\w)?")


def _name(node: Node) -> str:
    name = text(node)
    if len(name) > 80 or not NAME.fullmatch(name):
        raise expected("a name of letters, digits, spaces and . _ + -, 80 at most", node)
    return name


def _host(node: Node) -> str:
    pattern = text(node)
    try:
        compile_host(pattern)
    except ValueError:
        what = "a host such as llm.example.com, *.example.ai, 10.0.0.5:8000 or [::1]:8000, without scheme and path"
        raise expected(what, node) from None
    return pattern


def _filter(node: Node) -> str:
    expression = text(node)
    try:
        compile_filter(expression)
    except ValueError:
        what = f"{quoted(expression)} is no filter expression (mitmproxy's Filter expressions page lists them)"
        raise MistakeError(what, node) from None
    return expression


def _paths(node: Node) -> dict[str, str]:
    endpoint = one_of("endpoint", ENDPOINTS)
    paths = {}
    for path, key_node, value in pairs(node):
        if not _PATH.fullmatch(path):
            raise MistakeError(
                f"expected a path such as /custom/generate, without a query, found {quoted(path)}", key_node
            )
        paths[path] = read(quoted(path), endpoint, value, key_node)
    return paths


def _stream_options(node: Node) -> dict[str, Any]:
    options = {}
    for key, key_node, value in pairs(node):
        if not key.isprintable():
            raise expected("the name of an option", key_node)
        options[key] = read(quoted(key), plain, value)
    return options


INJECT: Final[Mapping[str, Parser]] = {
    "cut_after": whole(0, 10**9),
    "drop_done": flag,
    "error_after": whole(0, 10**9),
    "stall": seconds,
    "split_utf8": flag,
    "content_type": text,
}

# Every key of a rule, in the order of `Rule` and of the documentation.
KEYS: Final[Mapping[str, Parser]] = {
    "name": _name,
    "hosts": some(_host),
    "force_upstream_stream": flag,
    "endpoints": or_null(some(one_of("endpoint", ENDPOINTS))),
    "paths": or_null(_paths, dict),
    "models": or_null(some(text)),
    "filter": or_null(_filter),
    "stream_options": or_null(_stream_options),
    "on_truncated": one_of("value", ("error", "partial")),
    "quirks": or_null(list_of(one_of("quirk", QUIRKS)), tuple),
    "timeout": or_null(seconds),
    "idle_timeout": or_null(seconds),
    "heartbeat": or_null(seconds),
    "retries": whole(0, 100),
    "max_body": size,
    "learn": flag,
    "inject": or_null(lambda node: read_mapping(node, INJECT), dict),
}
REQUIRED: Final = ("name", "hosts")
