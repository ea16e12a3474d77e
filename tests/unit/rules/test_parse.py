"""Values of a rules file, and what is said about one of another kind."""

import pytest
from force_stream.rules.keys import KEYS
from harness.rules import HEAD, one, refusal


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1048576", 1048576),
        ("64MiB", 64 * 1024**2),
        ("64 mib", 64 * 1024**2),
        ("1.5KiB", 1536),
        ("10MB", 10**7),
        ("2GB", 2 * 10**9),
        ("1GiB", 1024**3),
        ("5kB", 5000),
        ("7B", 7),
        ('"64MiB"', 64 * 1024**2),
    ],
)
def test_sizes_are_bytes_or_carry_a_unit(text, size, reader) -> None:
    assert one(f"max_body: {text}").max_body == size


# What follows HEAD, hence begins in line 4, and what is said after "rules.yaml:LINE: rule x: ".
BAD_VALUES = {
    "unknown key": (
        "forse_upstream_stream: true",
        "unknown key 'forse_upstream_stream', did you mean 'force_upstream_stream'?",
    ),
    "unknown key like no other": (
        "zzz: 1",
        f"unknown key 'zzz'; known are {', '.join(KEYS)}",
    ),
    "merge key": ("<<: {a: 1}", "unknown key '<<'; known are name, hosts"),
    "key that is a list": ("? [a]\n    : 1", "expected a key, found a list"),
    "key given twice": ("hosts: [b.example]", "the key 'hosts' appears twice, first on line 3"),
    "bool as text": ('tools: "true"', "tools: expected true or false, found the text 'true'"),
    "bool as text where a list is right too": (
        'learn: "true"',
        "learn: expected true, false or a list of phrases, found the text 'true'; remove the quotes",
    ),
    "a phrase alone": (
        "learn: sse please",
        "learn: expected true, false or a list of phrases, found the text 'sse please'; write ['sse please']",
    ),
    "an origin alone": (
        "cors: app://obsidian.md",
        "cors: expected true, false or a list of origins, found the text 'app://obsidian.md'; write "
        "['app://obsidian.md']",
    ),
    "no origin": ('cors: "*"', "cors: expected true, false or a list of origins, found the text '*'"),
    "a number for a list": ("cors: 1", "cors: expected true, false or a list of origins, found the number 1"),
    "null for a list": ("cors: null", "cors: expected true, false or a list of origins, found null"),
    "a mapping for a list": ("cors: {a: b}", "cors: expected true, false or a list of origins, found a mapping"),
    "bool as number": ("force_upstream_stream: 1", "force_upstream_stream: expected true or false, found the number 1"),
    "bool as nothing": ("learn:", "learn: expected true, false or a list of phrases, found nothing"),
    "phrases that are none": ("learn: []", "learn: an empty list would match nothing"),
    "phrases with a number": ("learn: [a, 1]", "learn: expected text, found the number 1; put it in quotes"),
    "bool by tag": ("learn: !!bool perhaps", "learn: expected true or false, found perhaps"),
    "number as bool": ("retries: true", "retries: expected a whole number from 0 to 100, found true"),
    "number as text": ("retries: two", "retries: expected a whole number from 0 to 100, found the text 'two'"),
    "number as fraction": ("retries: 1.5", "retries: expected a whole number from 0 to 100, found the number 1.5"),
    "number as null": ("retries: null", "retries: expected a whole number from 0 to 100, found null"),
    "number below": ("retries: -1", "retries: expected a whole number from 0 to 100, found the number -1"),
    "number as list": ("retries: [1]", "retries: expected a whole number from 0 to 100, found a list"),
    "octal number": ("retries: 010", "retries: expected a whole number from 0 to 100, found the number 010"),
    "endless number": (
        f"retries: {'9' * 9999}",
        "retries: expected a whole number from 0 to 100, found the number 999",
    ),
    "seconds zero": ("timeout: 0", "timeout: expected seconds, such as 30 or 2.5, found the number 0"),
    "seconds negative": ("heartbeat: -5", "heartbeat: expected seconds, such as 30 or 2.5, found the number -5"),
    "seconds infinite": ("timeout: .inf", "timeout: expected seconds, such as 30 or 2.5, found the number .inf"),
    "seconds as text": ("timeout: 30s", "timeout: expected seconds, such as 30 or 2.5, found the text '30s'"),
    "seconds with exponent": ("timeout: 1e9", "timeout: expected seconds, such as 30 or 2.5, found the number 1e9"),
    "seconds in minutes": ("timeout: 1:30", "timeout: expected seconds, such as 30 or 2.5, found the number 1:30"),
    "seconds past a year": (
        "timeout: 99999999",
        "timeout: expected seconds, at most a year, found the number 99999999",
    ),
    "size without sense": (
        "max_body: 64 miles",
        "max_body: expected a size above 0 such as 64MiB, 10MB or a number of bytes, found the text '64 miles'",
    ),
    "size zero": ("max_body: 0MB", "max_body: expected a size above 0 such as 64MiB"),
    "size negative": ("max_body: -1", "max_body: expected a size above 0 such as 64MiB"),
    "size as mapping": (
        "max_body: {}",
        "max_body: expected a size above 0 such as 64MiB, 10MB or a number of bytes, f",
    ),
    "enum": ("on_truncated: partail", "on_truncated: unknown value 'partail', did you mean 'partial'?"),
    "enum like no other": ("on_truncated: x", "on_truncated: unknown value 'x'; known are error, partial"),
    "enum as bool": ("on_truncated: no", "on_truncated: expected text, found no; put it in quotes"),
    "endpoint": (
        "endpoints: [chat,\n      respones]",
        "endpoints: unknown endpoint 'respones', did you mean 'responses'?",
    ),
    "endpoints empty": ("endpoints: []", "endpoints: an empty list would match nothing"),
    "endpoints as text": ("endpoints: chat", "endpoints: expected a list, found the text 'chat'; write ['chat']"),
    "quirk": ("quirks: [no_such_quirk]", "quirks: unknown quirk 'no_such_quirk'"),
    "models empty": ("models: []", "models: an empty list would match nothing"),
    "model as number": ("models: [4.1]", "models: expected text, found the number 4.1; put it in quotes"),
    "model empty": ('models: [""]', "models: expected a line of text, found the text ''"),
    "model with a surrogate": (r'models: ["\ud800"]', r"models: expected a line of text, found the text '\ud800'"),
    "filter": (
        'filter: "~hq ("',
        "filter: expected one of mitmproxy's filter expressions, as its documentation lists them, found the text '~hq",
    ),
    "filter regex": ('filter: "~u ["', "filter: expected one of mitmproxy's filter expressions"),
    "filter empty": ('filter: ""', "filter: expected a line of text, found the text ''"),
    "filter nested without end": (f'filter: "{"(" * 5000}"', "filter: expected one of mitmproxy's filter expressions"),
    "filter unquoted with !": (
        "filter: !~u foo",
        "filter: expected text, found a value with the tag '!~u'; put a value that starts with ! in quotes",
    ),
    "paths as list": ("paths: [/x]", "paths: expected a mapping of keys to values, found a list"),
    "path without slash": (
        "paths: {x: chat}",
        "paths: expected a path such as /custom/generate, without a query, found the text 'x'",
    ),
    "path of a slash": (
        "paths: {/: chat}",
        "paths: expected a path such as /custom/generate, without a query, found the text '/'",
    ),
    "path with a control": (
        'paths: {"/x\\e[2J": chat}',
        r"paths: expected a path such as /custom/generate, without a query, found the text '/x\x1b[2J'",
    ),
    "path with query": (
        'paths: {"/x?a=b": chat}',
        "paths: expected a path such as /custom/generate, without a query, f",
    ),
    "path to no endpoint": (
        "paths:\n      /ok: chat\n      /x: caht",
        "paths: '/x': unknown endpoint 'caht', did you mean 'chat'?",
    ),
    "path twice": ("paths: {/x: chat, /x: chat}", "paths: the key '/x' appears twice, first on line 4"),
    "stream_options as list": (
        "stream_options: []",
        "stream_options: expected a mapping of keys to values, found a list",
    ),
    "stream_options nested": (
        "stream_options: {a: {}}",
        "stream_options: 'a': expected true, false, a number, text or null, found a mapping",
    ),
    "extra_body as list": (
        "extra_body: []",
        "extra_body: expected a mapping of keys to values, found a list",
    ),
    "extra_body with stream": (
        "extra_body: {store: false, stream: false}",
        "extra_body: expected the name of a member other than stream and stream_options, found the text 'stream'",
    ),
    "extra_body with stream_options": (
        "extra_body: {stream_options: null}",
        "extra_body: expected the name of a member other than stream and stream_options, found the text 'str",
    ),
    "extra_body that is no JSON": (
        "extra_body: {a: {b: .inf}}",
        "extra_body: 'a': expected a JSON value, found the number .inf",
    ),
    "extra_body with a tag": (
        "extra_body: {a: [!x y]}",
        "extra_body: 'a': expected a JSON value, found a value with the tag '!x'; put a value that starts with ! in",
    ),
    "extra_body with a text that cannot be shown": (
        r'extra_body: {a: "\x07"}',
        r"extra_body: 'a': expected printable text, found the text '\x07'",
    ),
    "extra_body with a name that cannot be shown": (
        r'extra_body: {a: {"\x07": 1}}',
        r"extra_body: 'a': expected the name of a member, found the text '\x07'",
    ),
    "extra_body with a key twice": (
        "extra_body: {a: {b: 1, b: 2}}",
        "extra_body: 'a': the key 'b' appears twice, first on line 4",
    ),
    "extra_body grown a thousandfold": (
        "extra_body: {a: &a [x, x, x, x, x, x, x, x], b: &b [*a, *a, *a, *a, *a, *a, *a, *a], c: &c [*b, *b, *b, *b], "
        "d: [*c, *c, *c, *c, *c]}",
        "extra_body: 'd': too many values, or nested too deeply",
    ),
    "fill with a path that ends with a list": (
        'fill: {"choices.*": null}',
        "fill: expected a path such as choices.*.message.refusal, found the text 'choices.*'",
    ),
    "fill with a path of no names": (
        "fill: {service_tier: null, a..b: null}",
        "fill: expected a path such as choices.*.message.refusal, found the text 'a..b'",
    ),
    "inject": ("inject: {cut_aftr: 1}", "inject: unknown key 'cut_aftr', did you mean 'cut_after'?"),
    "inject type": (
        "inject:\n      drop_done: 1",
        "inject: drop_done: expected true or false, found the number 1",
    ),
    "hosts with scheme": (
        'models: [a]\n    "hosts": ["https://api.example.com/v1"]',
        "the key 'hosts' appears twice",
    ),
}


# The line of the mistake where it is not the first after HEAD.
LINES = {
    "endpoint": 5,
    "path to no endpoint": 6,
    "inject type": 5,
    "hosts with scheme": 5,
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_value_is_reported_with_line_rule_and_key(case, reader) -> None:
    text, message = BAD_VALUES[case]
    said = refusal(f"{HEAD}    {text}\n  - name: y\n    hosts: [b.example]\n")
    line = LINES.get(case, 4)
    assert said.startswith(f"rules.yaml:{line}: rule x: {message}")
    assert said.isprintable()
    assert len(said) < 500
