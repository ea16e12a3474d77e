"""The keys of a rule, a row each: how a value is read and written, and what it means.

Adding a key takes its row here, its typed field in `Rule`, which has the default, and its use. `make docs` writes the
tables of the documentation and the list in rules.yaml from these rows.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from ..answer.fill import is_path
from ..answer.quirks import QUIRKS
from ..endpoints import ENDPOINTS
from . import parse
from .hosts import compile_host
from .parse import Parser
from .rule import HOSTS_OPTION, Rule, compile_filter

NAME: Final = re.compile(r"\w([\w .+-]{0,78}\w)?")
_PATH: Final = re.compile(r"/[^\s?#]*[^\s?#/]/?")
# A rule that has its defaults, and the keys that have none.
DEFAULTS: Final = Rule("", ())
REQUIRED: Final = Rule.__match_args__


_NAME: Final = parse.checked(NAME.fullmatch, "a name of letters, digits, spaces and . _ + -, 80 at most")
_HOST: Final = parse.checked(
    compile_host, "a host such as llm.example.com, *.example.ai, 10.0.0.5:8000 or [::1]:8000, without scheme and path"
)
_ORIGIN: Final = parse.checked(
    re.compile(r"null|[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9.:\[\]_-]{0,80}").fullmatch,
    "an origin such as https://chat.example.com, app://obsidian.md or null, without a path",
)
_FILTER: Final = parse.checked(compile_filter, "one of mitmproxy's filter expressions, as its documentation lists them")
_ENDPOINT: Final = parse.one_of("endpoint", ENDPOINTS)
_PATHS: Final = parse.mapping_of(
    lambda path: path.isprintable() and _PATH.fullmatch(path),
    "a path such as /custom/generate, without a query",
    _ENDPOINT,
)
_OPTIONS: Final = parse.mapping_of(str.isprintable, "the name of an option", parse.or_null(parse.plain))
_EXTRA: Final = parse.mapping_of(
    lambda name: name.isprintable() and name not in ("stream", "stream_options"),
    "the name of a member other than stream and stream_options",
    parse.json_value,
)
_FILL: Final = parse.mapping_of(is_path, "a path such as choices.*.message.refusal", parse.json_value)
_COUNT: Final = parse.whole(0, 10**9)


def _name(node: parse.Node) -> str:
    name: str = _NAME(node)
    if name == HOSTS_OPTION:
        raise parse.MistakeError(f"the rule that mitmproxy's option {HOSTS_OPTION} makes has this name", node)
    return name


def _origin(node: parse.Node) -> str:
    # `null` is an origin too, that of a file and of a sandboxed page.
    origin: str = "null" if parse.kind_of(node) == "null" and node.value == "null" else _ORIGIN(node)
    return origin


class Key(NamedTuple):
    """A row. `parse` makes the value of a YAML node; `help` is Markdown, for the table in docs/rules.md and, as plain
    text, for rules.yaml.

    `example`: what the example in rules.yaml has in place of the default. `names`: the names that the value may use,
    each with what it means; rules.yaml lists them too. `spell`: the value in logs.
    """

    parse: Parser
    help: str
    example: str | None = None
    names: Mapping[str, str] = {}
    spell: Callable[[Any], str] = partial(json.dumps, ensure_ascii=False)


def _events_or_flag(node: parse.Node) -> bool | int:
    """True, false, or a number of events."""
    return parse.flag(node) if parse.kind_of(node) == "bool" else _COUNT(node)


def _probability(node: parse.Node) -> float:
    value = parse.number(node)
    if value is None or not 0 < value <= 1:
        raise parse.expected("a number above 0, at most 1", node)
    return value


# What `inject` takes.
FAULTS: Final[Mapping[str, Key]] = {
    "status": Key(
        parse.whole(400, 599),
        "The answer is an error with this status, in OpenAI's shape. The upstream is not asked, so it costs nothing.",
        "429",
    ),
    "retry_after": Key(_COUNT, "The `Retry-After` header of that error, in seconds.", "20"),
    "empty": Key(
        parse.flag,
        "The answer is an event stream without events, with status 200. As with a real one, the addon then asks for "
        "the plain answer.",
        "true",
    ),
    "delay": Key(parse.seconds, "The first event comes after this many seconds of silence.", "8"),
    "cut_after": Key(_COUNT, "The connection breaks after this many events, not counting comments and `[DONE]`.", "3"),
    "error_after": Key(_COUNT, "An error event comes after this many events, and nothing after it.", "3"),
    "drop_done": Key(parse.flag, "`[DONE]` is left out.", "true"),
    "stall": Key(parse.seconds, "The upstream falls silent for this many seconds after the first event.", "20"),
    "split_utf8": Key(parse.flag, "Events with multi-byte characters arrive one byte at a time.", "true"),
    "garbage": Key(
        _events_or_flag,
        "A line that is neither an event nor UTF-8 comes after this many events; `true`: after each.",
        "true",
    ),
    "content_type": Key(parse.text, "The answer has this content type.", "text/html"),
    "times": Key(
        parse.whole(1, 10**9),
        "Only this many answers fail, those to `retries` included. The count starts again when the rules file is "
        "saved or `inject` is set.",
        "2",
    ),
    "probability": Key(_probability, "Each answer fails with this probability, from 0 to 1.", "0.2"),
}
# Those that are not a fault by themselves.
MODIFIERS: Final = ("times", "probability", "retry_after")
# What may go with an answer that is entirely made up.
_BESIDE: Final = {"status": ("retry_after", "delay"), "empty": ("delay",)}


def _inject(node: parse.Node) -> dict[str, Any]:
    values = parse.read_mapping(node, {name: row.parse for name, row in FAULTS.items()})
    wanted = [key for key, value in values.items() if value is not False]
    faults = [key for key in wanted if key not in MODIFIERS]
    if "retry_after" in wanted and "status" not in wanted:
        raise parse.MistakeError("retry_after needs a status, such as 429", node)
    if wanted and not faults:
        raise parse.MistakeError(f"{wanted[0]} needs a fault to go with it, such as status: 429", node)
    for key in (key for key in _BESIDE if key in wanted):
        other = next((one for one in faults if one not in (key, *_BESIDE[key])), None)
        if other is not None:
            why = f"with {key} the upstream is not asked"
            raise parse.MistakeError(f"{key} and {other} cannot be combined: {why}", node)
    return values


# In the order of `Rule` and of the documentation.
KEYS: Final[Mapping[str, Key]] = {
    "name": Key(_name, "Appears in the log, in comments and in commands. Must be unique.", example="private-vllm"),
    "hosts": Key(
        parse.list_of(_HOST),
        "The upstream's host names. A rule matches the request's target, its Host header or its TLS server name. "
        "`*` and `?` are wildcards; `:8000` at the end restricts it to that port. Quote a value that begins with `*`.",
        example='["llm.example.com", "*.example.ai", "10.0.0.5:8000"]',
    ),
    "force_upstream_stream": Key(
        parse.flag,
        "Ask the upstream for a stream, and give the application the single JSON document. `false` leaves the "
        "requests that match unchanged, and the rules below never see them.",
        example="true",
    ),
    "endpoints": Key(
        parse.or_null(parse.list_of(_ENDPOINT)),
        "Only these [endpoints](#endpoints), as a list. `null`: all. They are recognized by the end of the path.",
        example="[chat, completions]",
        names={endpoint.name: ", ".join(endpoint.paths) for endpoint in ENDPOINTS.values()},
    ),
    "paths": Key(
        parse.or_null(_PATHS, dict),
        'Further path endings, each with the endpoint whose format it uses: `{"/custom/generate": chat}`.',
        example='{"/custom/generate": chat}',
    ),
    "models": Key(
        parse.or_null(parse.list_of(parse.text)),
        "Only requests whose `model` matches one of these; wildcards as in `hosts`, but case-sensitive. `null`: all.",
        example='["qwen3-*"]',
    ),
    "tools": Key(
        parse.or_null(parse.flag),
        "`true`: only requests that offer tools. `false`: only those that do not. `null`: all.",
        example="true",
    ),
    "extra_body": Key(
        parse.or_null(_EXTRA, dict),
        "Members for the body of a forced request, such as `{store: false}`; they override the request's own.",
        example="{reasoning_split: true}",
    ),
    "filter": Key(
        parse.or_null(_FILTER),
        "A mitmproxy [filter expression](https://docs.mitmproxy.org/stable/concepts/filters/) that must match as well.",
        example='"~hq x-team:.*blue"',
    ),
    "stream_options": Key(
        parse.or_null(_OPTIONS),
        "Added to the request's own `stream_options`; `include_usage` makes the upstream report its token counts. "
        "`null` sends none, for an upstream that rejects them.",
    ),
    "on_truncated": Key(
        parse.one_of("value", ("error", "partial")),
        "What to do with a stream that stops before its end: `error` answers 502; `partial` answers 200 with what "
        "arrived, and `finish_reason` `length`.",
    ),
    "quirks": Key(
        parse.or_null(parse.list_of(parse.one_of("quirk", QUIRKS), empty=True), tuple),
        "[Deviations](#quirks) of this upstream that cannot be recognized from the stream itself.",
        names={quirk.name: quirk.help for quirk in QUIRKS.values()},
    ),
    "timeout": Key(parse.or_null(parse.seconds), "Seconds for the upstream's whole answer. `null`: no limit."),
    "idle_timeout": Key(
        parse.or_null(parse.seconds),
        "Seconds without a byte from the upstream. mitmproxy itself ends a connection after 600 seconds, without "
        "an answer (its option `tcp_timeout`), so stay below that.",
    ),
    "heartbeat": Key(
        parse.or_null(parse.seconds),
        "Send the application a space, which JSON allows, every so many seconds until the answer is there. For an "
        "application that gives up on a silent connection. The first space commits to status 200; a later failure cuts "
        "the response short. See [limits](limits.md).",
    ),
    "force_upstream_plain": Key(
        parse.flag,
        "The other direction: where the application asks for a stream, ask the upstream for a plain answer, and give "
        "the application the events. Excludes `force_upstream_stream`. See [plain upstreams](plain.md).",
    ),
    "retries": Key(
        parse.whole(0, 100),
        "How often to try again if an answer fails before the application has received a byte of it. See "
        "[retries](failures.md#retries).",
    ),
    "max_body": Key(
        parse.size,
        "A larger event stream is rejected, and a compressed request that decodes to more is not forced. In bytes, or "
        "with kB, MB, GB, KiB, MiB, GiB.",
        spell=lambda count: f"{count >> 20}MiB" if count % 2**20 == 0 else str(count),
    ),
    "cors": Key(
        parse.flag_or_list_of(_origin, "origins"),
        "Which [web pages](#web-pages) may read what comes from these hosts: `true` for applications and browser "
        "extensions, or a list of origins.",
        example="true",
    ),
    "learn": Key(
        parse.flag_or_list_of(parse.text, "phrases"),
        "In a rule that does not force: start forcing when the upstream says that it must stream, or streams unasked. "
        "In any rule: where the application asks for a stream and the upstream says that it cannot stream, ask for a "
        "plain answer. A list does the same, and adds phrases by which this upstream says so. See "
        "[learn](failures.md#learn).",
    ),
    "fill": Key(
        parse.or_null(_FILL, dict),
        "Constants that this upstream's direct answers have and its streams lack, by path, with `*` for every item of "
        "a list. One is added where the path's parent exists and the member does not. `force_stream.compare` shows "
        "the line to add.",
        example='{"choices.*.message.refusal": null}',
    ),
    "keep_answers": Key(
        parse.or_null(parse.seconds),
        "When the application gives up on a forced answer, read the answer to its end anyway, and keep it for this "
        "many seconds: the same request, sent again, gets it, once. From then on, a `timeout` of `null` means an "
        "hour, and an `idle_timeout` of `null` 540 seconds. `null`: the connection to the upstream is closed instead. "
        "See [kept answers](failures.md#kept-answers).",
        example="300",
    ),
    "guard_streams": Key(
        parse.flag,
        "Watch over the streams that applications ask for themselves: `heartbeat`, `timeout` and `idle_timeout` apply "
        "to them too, and one that ends without its end gets the API's own error event. See [guarded "
        "streams](plain.md#guarded-streams).",
    ),
    "inject": Key(
        parse.or_null(_inject, dict),
        "Make this rule's answers fail on purpose. See [inject faults](failures.md#inject-faults).",
        names={name: fault.help for name, fault in FAULTS.items()},
    ),
}


def conflict(values: Mapping[str, Any]) -> str:
    """What is wrong with values that are right each by itself; "" if nothing is."""
    if values.get("force_upstream_stream") is True and values.get("force_upstream_plain") is True:
        return (
            "force_upstream_stream and force_upstream_plain exclude each other: one asks the upstream for streams, the "
            "other for plain answers; make two rules if it depends on the request"
        )
    return ""


def default(key: str) -> str | None:
    """A key's default as the file would have it, None for a key that every rule needs."""
    return None if key in REQUIRED else re.sub(r'"(\w+)"', r"\1", KEYS[key].spell(getattr(DEFAULTS, key)))
