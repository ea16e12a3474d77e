"""Where a text has credentials: the text that is masked of each, marked with ⟦ ⟧."""

import re

import pytest
from force_stream.wire import credentials

MARKS = re.compile("[⟦⟧]")
KEY = "sk-live-0123456789abcdef"
LONG = "q7Zr2mXw9LkT4vBn8sYd"


def marked(text: str, found: list[credentials.Found]) -> str:
    """The text with marks around what was found; what overlaps is one."""
    data, hidden = text.encode(), bytearray(len(text.encode()))
    for start, end, _ in found:
        hidden[start:end] = b"\1" * (end - start)
    shown, inside = "", False
    for place in range(len(data) + 1):
        is_hidden = place < len(data) and bool(hidden[place])
        shown += ("⟦" if is_hidden else "⟧") if is_hidden != inside else ""
        inside = is_hidden
        shown += chr(data[place]) if place < len(data) else ""
    return shown


IN_HEADERS = [
    ("Authorization", "Bearer ⟦dummy⟧"),
    ("authorization", "Basic ⟦dXNlcjpwYXNz⟧"),
    ("authorization", "⟦raw-key⟧"),
    ("Proxy-Authorization", "Basic ⟦dXNlcjpwYXNz⟧"),
    ("x-api-key", "⟦a⟧"),
    ("api-key", "⟦a⟧"),
    ("x-goog-api-key", "⟦a⟧"),
    ("Cookie", "a=⟦1⟧; theme=⟦dark⟧"),
    ("set-cookie", "sid=⟦abc⟧; Path=/; HttpOnly"),
    ("X-Auth-Token", "⟦a⟧"),
    ("X-Client-Secret", "⟦a⟧"),
    ("x-my-key", "⟦a⟧"),
    ("x-session-id", "⟦a⟧"),
    ("x-hub-signature-256", "⟦sha256=0a⟧"),
    ("x-password", "⟦a⟧"),
    ("openai-organization", "⟦acme⟧"),
    ("x-forwarded-for", "⟦203.0.113.7⟧"),
    ("Location", "/callback?code=⟦abc⟧"),
    ("path", "/v1/chat?a=b&key=⟦it's(%26)⟧&c=d"),
    ("content-type", "application/json"),
    ("x-ratelimit-remaining-tokens", "12"),
    ("anthropic-ratelimit-tokens-limit", "12"),
    ("access-control-allow-headers", "authorization, x-api-key"),
    ("access-control-allow-credentials", "true"),
    ("www-authenticate", 'Bearer realm="api"'),
    ("x-error-code", "invalid_api_key"),
    ("retry-after", "20"),
]


@pytest.mark.parametrize(("name", "value"), IN_HEADERS, ids=lambda value: value[:30])
def test_the_credential_of_a_header_is_found(name: str, value: str) -> None:
    plain = MARKS.sub("", value)
    found = [*credentials.in_header(name.encode(), plain.encode()), *credentials.in_text(plain.encode())]
    assert marked(plain, found) == value


@pytest.mark.parametrize(
    "text",
    [
        # URLs
        "/v1/chat?key=⟦a⟧&b=c",
        "/v1/chat?b=c&api_key=⟦a⟧",
        "/v1/chat?key=⟦a%26b%3Dc⟧&d=e",
        "/v1/chat?access_token=⟦a⟧#b",
        "/blob?sv=1&sig=⟦a%2Bb⟧&se=2",
        "/o?X-Amz-Credential=⟦a⟧&X-Amz-Signature=⟦b⟧&X-Amz-Date=c",
        "/callback?state=x&code=⟦a⟧",
        "/v1/key=⟦abc⟧/chat",
        "https://⟦user⟧:⟦pass⟧@llm.example.com/v1",
        "reverse:https://⟦token⟧@llm.example.com",
        "/login?next=https%3A%2F%2Fx%3Fb%3D1%26api_key%3D⟦abc⟧%26c%3Dd",
        '{"url": "https://x/y?a=b\\u0026api_key=⟦abc⟧\\u0026c=d"}',
        "/v1/models?limit=20&page=2",
        # forms
        "client_secret=⟦a⟧&grant_type=password",
        'form-data; name="api_key"\r\n\r\n⟦abc⟧\r\n',
        'form-data; name="model"\r\n\r\nabc\r\n',
        # JSON
        '{"api_key": "⟦a⟧"}',
        '{"apiKey":"⟦a⟧","model":"m"}',
        '{"password": "⟦a \\" b⟧", "b": 1}',
        '{"password": ⟦1234⟧, "n": 1234}',
        '{"api_keys": ["⟦a⟧", "⟦b⟧"], "models": ["c"]}',
        '{"headers": {"Authorization": "Bearer ⟦a⟧"}}',
        '{"arguments": "{\\"api_key\\": \\"⟦a⟧\\", \\"b\\": \\"c\\"}"}',
        '{"a": "{\\"b\\": \\"{\\\\\\"password\\\\\\": \\\\\\"⟦a⟧\\\\\\"}\\"}"}',
        "{'api_key': '⟦a⟧', 'b': 'c'}",
        f'{{"token": "⟦{LONG}⟧"}}',
        '{"api_key": "⟦cut off⟧',
        # what only has such a name
        '{"token": "Hello", "logprob": -0.1, "bytes": [72]}',
        '{"key": "region", "value": "eu"}',
        '{"max_tokens": 100, "usage": {"prompt_tokens": 12}}',
        '{"password": {"type": "string"}, "tokenizer": "o200k_base"}',
        '{"error": {"code": "invalid_api_key", "message": "no key"}}',
        '{"keywords": "a", "monkey": "b"}',
        # prose
        f"x-api-key: ⟦{LONG}⟧",
        f"export OPENAI_API_KEY=⟦{LONG}⟧",
        f'api_key = "⟦{LONG}⟧"',
        'curl -H "Authorization: Bearer ⟦a1b2c3d4e5⟧"',
        "the key: it is required",
        "token: str = None",
        'OpenAI(api_key=os.environ["OPENAI_API_KEY"])',
        "a bearer authentication header",
        # shapes
        f"Incorrect API key provided: ⟦{KEY}⟧. See",
        "Incorrect API key provided: ⟦sk-proj-********wxyz⟧.",
        f"a\\n⟦{KEY}⟧",
        f"a%20⟦{KEY}⟧",
        "⟦AIzaSyA0123456789012345678901234567890⟧",
        "⟦gsk_0123456789abcdefghij⟧",
        "⟦xai-0123456789abcdefghij⟧",
        "⟦ghp_0123456789abcdefghij⟧",
        "⟦AKIA0123456789ABCDEF⟧",
        "⟦eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl⟧",
        "-----BEGIN PRIVATE KEY-----⟦\nMIIE\n⟧-----END PRIVATE KEY-----",
        # the beginnings of such keys, cut short or made up
        "Incorrect API key provided: ⟦sk-secret-abc⟧.",
        "invalid key '⟦sk-ant-REDACTED⟧'",
        "⟦sk-or-v1-0123⟧ is disabled",
        "⟦sk-12345678⟧",
        "⟦gsk_aB3dE6gH⟧",
        "⟦hf_aB3dE6gH⟧",
        "⟦r8_aB3dE6gH⟧",
        "⟦xai-aB3dE6gH⟧",
        "⟦pplx-aB3dE6gH⟧",
        "⟦AIzaSyA01234⟧",
        "task-management-system-overview-2",
        "sk-learn is a library",
        "sk-learn-contrib, sk-1234, the voice sk-SK-Standard-A",
        "pplx-70b-online, xai-sdk-python, xai-grok-2, hf_hub_download, hf_transfer, gsk_renderer_new",
        "a risk-assessment-in-2024-and-later",
    ],
)
def test_the_credentials_of_a_text_are_found_and_nothing_else(text: str) -> None:
    plain = MARKS.sub("", text)
    assert marked(plain, list(credentials.in_text(plain.encode()))) == text


@pytest.mark.parametrize(
    ("text", "everywhere"),
    [
        ("?key=dummy", False),
        ("?key=hunter2", True),
        ("?key=not-needed", False),
        (f"?key={LONG}", True),
        ('{"api_key": "string"}', False),
        ('{"password": 12345678}', False),
        (KEY, True),
    ],
)
def test_a_secret_that_is_a_word_is_not_looked_for_elsewhere(text: str, everywhere: bool) -> None:
    assert {found.everywhere for found in credentials.in_text(text.encode())} == {everywhere}


def test_after_a_run_of_names_that_has_no_end_the_next_one_is_found() -> None:
    text = b"key=" * 1000 + b" api_key=aB3dE5fG7hJ9"
    last = list(credentials.in_text(text))[-1]
    assert text[last.start : last.end] == b"aB3dE5fG7hJ9"


def test_what_is_hidden_of_a_text_is_all_that_was_found_once() -> None:
    text = f"key {KEY}, https://user:{LONG}@x/?key={KEY}&a=b and 'api_key': '{KEY} {KEY}' é."
    assert credentials.hidden(text) == "key ***, https://***:***@x/?key=***&a=b and 'api_key': '***' é."
    assert credentials.hidden("nothing here \ud800") == "nothing here \ud800"
    assert credentials.hidden(f"\udfff -----BEGIN PRIVATE KEY-----{'é' * 20_000}").startswith(
        "? -----BEGIN PRIVATE KEY-----***"
    )
