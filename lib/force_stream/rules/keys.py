"""The keys of a rule, a row each: how a value is read and written, its default, and what it means.

Adding a key takes its row here, its typed field in `Rule`, and its use. `make docs` writes the tables of the
documentation and the list in rules.yaml from these rows; the tests compare the defaults with those of `Rule`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..answer.quirks import QUIRKS
from ..endpoints import ENDPOINTS
from .hosts import compile_host
from .rule import HOSTS_OPTION, compile_filter
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

MEBIBYTE: Final = 1024**2
_PATH: Final = re.compile(r"/[^\s?#]*[^\s?#/]/?")
NAME: Final = re.compile(r"\w([\w .+-]*\w)?")


def _name(node: Node) -> str:
    name = text(node)
    if len(name) > 80 or not NAME.fullmatch(name):
        raise expected("a name of letters, digits, spaces and . _ + -, 80 at most", node)
    if name == HOSTS_OPTION:
        raise MistakeError(f"the rule that mitmproxy's option {HOSTS_OPTION} makes has this name", node)
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
        what = f"{quoted(expression)} is not a filter expression (mitmproxy's Filter expressions page lists them)"
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


def as_yaml(value: object) -> str:
    """A value as the file may spell it, in one line."""
    return json.dumps(value, ensure_ascii=False)


def _as_size(value: object) -> str:
    return f"{value // MEBIBYTE}MiB" if isinstance(value, int) and value % MEBIBYTE == 0 else as_yaml(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row of what `inject` takes. `example`: a value as the file would write it; `help`: what happens with it."""

    name: str
    parse: Parser
    example: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A row. `parse` makes the value of a YAML node; `default` is as the file would write it, None for a key that every
    rule needs; `help` is Markdown, for the table in docs/rules.md and, as plain text, for rules.yaml.

    `names`: the names that the value may use, each with what it means; rules.yaml lists them too. `example`: what the
    example in rules.yaml has in place of the default. `spell`: the value in logs.
    """

    name: str
    parse: Parser
    default: str | None
    help: str
    names: Mapping[str, str] = field(default_factory=dict)
    example: str | None = None
    spell: Callable[[object], str] = as_yaml


_FAULTS: Final = (
    Fault(
        name="cut_after",
        parse=whole(0, 10**9),
        example="3",
        help="The connection breaks after this many events, as the log counts them: comments and `[DONE]` are none.",
    ),
    Fault(
        name="error_after",
        parse=whole(0, 10**9),
        example="3",
        help="An error event comes after this many events, and nothing more.",
    ),
    Fault(name="drop_done", parse=flag, example="true", help="`[DONE]` does not come."),
    Fault(
        name="stall",
        parse=seconds,
        example="20",
        help="This many seconds of silence after the first event.",
    ),
    Fault(
        name="split_utf8",
        parse=flag,
        example="true",
        help="Events with characters of more than one byte come one byte at a time.",
    ),
    Fault(name="content_type", parse=text, example="text/html", help="The answer has this content type."),
)
FAULTS: Final[Mapping[str, Fault]] = {fault.name: fault for fault in _FAULTS}

# In the order of `Rule` and of the documentation.
_KEYS: Final = (
    Key(
        name="name",
        parse=_name,
        default=None,
        example="private-vllm",
        help="Appears in the log, in comments and in commands. Must be unique.",
    ),
    Key(
        name="hosts",
        parse=some(_host),
        default=None,
        example='["llm.example.com", "*.example.ai", "10.0.0.5:8000"]',
        help="The upstream's host names. A rule matches the request's target, its Host header or its TLS server name. "
        "`*` and `?` are wildcards; `:8000` at the end restricts it to that port. Put a value that begins with `*` in "
        "quotes.",
    ),
    Key(
        name="force_upstream_stream",
        parse=flag,
        default="false",
        example="true",
        help="Ask the upstream for a stream, and give the application the single JSON document. `false` leaves the "
        "requests that match unchanged, and the rules below never see them.",
    ),
    Key(
        name="endpoints",
        parse=or_null(some(one_of("endpoint", ENDPOINTS))),
        default="null",
        example="[chat, completions]",
        help="Only these [endpoints](#endpoints), as a list. `null`: all. They are recognized by the end of the path.",
        names={endpoint.name: ", ".join(endpoint.paths) for endpoint in ENDPOINTS.values()},
    ),
    Key(
        name="paths",
        parse=or_null(_paths, dict),
        default="{}",
        example='{"/custom/generate": chat}',
        help='Further path endings, each with the endpoint whose format it speaks: `{"/custom/generate": chat}`.',
    ),
    Key(
        name="models",
        parse=or_null(some(text)),
        default="null",
        example='["qwen3-*"]',
        help="Only requests whose `model` matches one of these; wildcards as in `hosts`, but case-sensitive. `null`: "
        "all.",
    ),
    Key(
        name="filter",
        parse=or_null(_filter),
        default="null",
        example='"~hq x-team:.*blue"',
        help="A mitmproxy [filter expression](https://docs.mitmproxy.org/stable/concepts/filters/) that must match as "
        "well.",
    ),
    Key(
        name="stream_options",
        parse=or_null(_stream_options),
        default="{include_usage: true}",
        help="Added to the request's own `stream_options`; `include_usage` makes the upstream report its token counts. "
        "`null` sends none, for an upstream that rejects them.",
    ),
    Key(
        name="on_truncated",
        parse=one_of("value", ("error", "partial")),
        default="error",
        help="What to do with a stream that stops before its end: `error` answers 502; `partial` answers 200 with what "
        "arrived and `finish_reason` `length`.",
    ),
    Key(
        name="quirks",
        parse=or_null(list_of(one_of("quirk", QUIRKS)), tuple),
        default="[]",
        help="[Deviations](#quirks) of this upstream that cannot be told from a well-formed stream.",
        names={quirk.name: quirk.help for quirk in QUIRKS.values()},
    ),
    Key(
        name="timeout",
        parse=or_null(seconds),
        default="null",
        help="Seconds for the upstream's whole answer. `null`: no limit.",
    ),
    Key(
        name="idle_timeout",
        parse=or_null(seconds),
        default="540",
        help="Seconds without a byte from the upstream. mitmproxy itself ends a connection after 600 seconds, without "
        "an answer (its option `tcp_timeout`), so stay below that.",
    ),
    Key(
        name="heartbeat",
        parse=or_null(seconds),
        default="null",
        help="Send the application a space, which JSON allows, every so many seconds until the answer is there. For an "
        "application that gives up on a silent connection. The first space commits to status 200; a later failure cuts "
        "the response short. See [limits](limits.md).",
    ),
    Key(
        name="retries",
        parse=whole(0, 100),
        default="0",
        help="How often to try again when an answer failed before the application received a byte of it. See "
        "[retries](failures.md#retries).",
    ),
    Key(
        name="max_body",
        parse=size,
        default="64MiB",
        help="A larger event stream is rejected. Bytes, or with kB, MB, GB, KiB, MiB, GiB.",
        spell=_as_size,
    ),
    Key(
        name="learn",
        parse=flag,
        default="false",
        help="In a rule that does not force: start forcing when the upstream says that it must stream. See "
        "[learn](failures.md#learn).",
    ),
    Key(
        name="inject",
        parse=or_null(lambda node: read_mapping(node, {name: fault.parse for name, fault in FAULTS.items()}), dict),
        default="{}",
        help="Make this rule's answers fail on purpose. See [inject faults](failures.md#inject-faults).",
        names={fault.name: fault.help for fault in _FAULTS},
    ),
)
KEYS: Final[Mapping[str, Key]] = {key.name: key for key in _KEYS}
REQUIRED: Final = tuple(key.name for key in _KEYS if key.default is None)
