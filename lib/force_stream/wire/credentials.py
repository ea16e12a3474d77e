"""Where a text has credentials in it: names and shapes that give one away, in headers, URLs, JSON, forms and prose.

Knows names, grammars and the keys of well-known services; must not know flows, or what stands in for a credential. The
text is bytes, as somebody sent them: JSON in a string of JSON, percent-encoded or cut off. Every search takes time in
proportion to its length.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple


class Found(NamedTuple):
    """Where a credential is. `everywhere`: it is unlike any other text, so the same text elsewhere is this one."""

    start: int
    end: int
    everywhere: bool


# Names of headers and of members, without what separates their words: those that end like this always have a secret.
_STRONG: Final = re.compile(
    rb"(?:api|access|secret|private|subscription|auth|account|master|signing|encryption)keys?$"
    rb"|(?:access|refresh|id|auth|bearer|security|session|csrf|xsrf|api|bot)token$"
    rb"|secrets?$|passw(?:or)?ds?$|passwd$|passphrase$|pwd$|authorization$|bearer$|credentials?$|^(?:set)?cookie2?$"
    rb"|^proxyauth$|amz(?:signature|credential)$|^xgoog(?:signature|credential)$"
)
# Words in a name that may mean one, and may mean a token of a text or a key in a table.
_WEAK: Final = frozenset(
    b"token secret key password session signature auth credential credentials cookie jwt sig sid csrf".split()
)
_WORD: Final = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
# Who sent a request, and for whose account, in headers. Not credentials, and nobody else's business either.
_PERSONAL: Final = frozenset(
    b"""
    openai-organization openai-project x-forwarded-for x-real-ip x-client-ip true-client-ip cf-connecting-ip forwarded
    x-envoy-external-address x-original-forwarded-for x-forwarded-user x-forwarded-email
    """.split()
)
# What gives a secret's name to others; and what is a secret in a URL, where a "code" in JSON is an error's.
_NO_SECRETS: Final = (b"access-control-", b"sec-websocket-")
_ONLY_IN_QUERIES: Final = b"code"


def _begun(word: bytes, rest: bytes) -> bytes:
    """A pattern for a word that does not begin within another, but perhaps after an escape. The word comes first, since
    that is what a search is fast with."""
    begins = rb"(?:(?<![\w.%%\\-]%b)|(?<=\\u[0-9a-fA-F]{4}%b)|(?<=%%[0-9a-fA-F]{2}%b)|(?<=\\[nrt]%b))"
    return word + begins % (word, word, word, word) + rest


_NAMED: Final = re.compile(
    rb"("
    + _begun(rb"[A-Za-z_$]", rb"[\w.$\[\]-]{0,63}+)")
    + rb"(\\{0,8}[\"'])?\s{0,16}+(:|=|%3[Dd])\s{0,16}+(\[\s{0,16}+)?"
)
_IN_QUERY: Final = re.compile(rb"(?:^|[?&;/]|%3[Ff]|%26|%2[Ff]|\\u0026|\\u003[fF])$")
# In a URL that is a parameter of another, `&` and what else has a meaning is encoded too.
_QUERY_VALUE: Final = re.compile(rb"[^&;#\s\"'<>\\]*+")
_INNER_QUERY_VALUE: Final = re.compile(rb"(?:(?!%26)[^&;#\s\"'<>\\])*+")
_PATH_VALUE: Final = re.compile(rb"(?:(?!%2[fF])[^/?&;#\s\"'<>\\])*+")
# In a header that is a URL, and nothing else.
_URLS: Final = (b"path", b"location", b"referer", b"content-location")
_PARAMETER: Final = re.compile(rb"[?&;]([^=&;#]{1,64}+)=([^&;#]++)")
_BARE_VALUE: Final = re.compile(rb"[^\s\"'\\,;&<>(){}\[\]]*+")
# Text that may contain names with values of their own, and of how many of those the values are looked at.
_RUN: Final = re.compile(rb"[^&;\s\"'<>\\]*+")
_MOST_IN_A_RUN: Final = 64
_NUMBER: Final = re.compile(rb"\d++")
_QUOTE: Final = re.compile(rb"(\\{0,8})([\"'])")
# What ends a string: as many backslashes and the quote, or fewer, where the string around it ends.
_STRINGS: Final = {
    (depth, quote): re.compile(
        rb"(?:[^%b\\\r\n]|\\.)*+" % quote if depth == 0 else rb"(?:(?!(?<!\\)\\{0,%d}%b)[^\r\n])*+" % (depth, quote),
        re.DOTALL,
    )
    for depth in range(9)
    for quote in (b'"', b"'")
}
_NEXT_IN_LIST: Final = re.compile(rb"\\{0,8}[\"']\s{0,16}+,\s{0,16}+(?=\\{0,8}[\"'])")
_SCHEME: Final = re.compile(rb"(?i)(?:bearer|basic|token|digest|negotiate|apikey|key|aws4-hmac-sha256)(?: +|%20|\+)")
_FORM_FIELD: Final = re.compile(
    rb"(?i)form-data;[^\r\n]{0,200}?name=\"?([^\"\r\n;]{1,64}+)\"?[^\r\n]{0,200}+\r?\n(?:[^\r\n]{1,200}\r?\n){0,8}?\r?\n"
    rb"([^\r\n]+)"
)
# The keys of well-known services: how they begin, and what follows. What follows may be cut short, or made up, as
# examples are; `sk-SK-` begins the names of voices, and words of lowercase letters those of code and models.
_KEY: Final = rb"(?=[a-zA-Z_-]*+[\d*])[\w*-]{16,4096}+"
_SECRET: Final = rb"(?!learn|[sS][kK]-)[\w*-]{8,4096}+"
_SHORT: Final = rb"(?=[a-z]*+[A-Z\d])[a-zA-Z\d]{8,4096}+"
_SHAPES: Final = re.compile(
    b"|".join(
        _begun(prefix, rest)
        for prefixes, rest in {
            b"sk- sk_ rk_ pk_ pk- csk- pplx- nvapi- xai- fw_ tgp_ dop_ sess- org- proj_ gsk_ hf_ r8_ whsec_": _KEY,
            b"ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat-": _KEY,
            b"xoxb- xoxp- xoxa- xoxs- ya29.": rb"[\w.-]{10,4096}+",
            b"sk-": _SECRET,
            b"gsk_ hf_ r8_ xai- pplx- nvapi-": _SHORT,
            b"AIza": rb"[\w-]{8,512}+",
            b"AKIA ASIA": rb"[0-9A-Z]{16}+",
            b"eyJ": rb"[\w-]{5,65536}+\.[\w-]{5,65536}+(?:\.[\w-]{0,65536}+){0,3}",  # a JSON web token
        }.items()
        for prefix in (word.replace(b".", rb"\.") for word in prefixes.split())
    )
)
_BEARER: Final = re.compile(rb"(?i)(?:bearer|basic)(?:\s|%20|\+){1,4}+([\w.~+/=-]{8,65536}+)")
_USER: Final = re.compile(rb"(?<=://)([^/\s:@\"'<>\\?#]{0,256}+)(?::([^/\s@\"'<>\\?#]{0,512}+))?@")
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----((?:[^-]|-(?!----)){1,16384}+)")
_COOKIE: Final = re.compile(rb"(?:^|;)\s*([^=;\s]{1,256}+)\s*=\s*\"?([^;\"]*+)")


@lru_cache(4096)
def _strength(name: bytes) -> int:
    """2: a name that always has a secret; 1: that may have one."""
    if name.lower().startswith(_NO_SECRETS):
        return 0
    if _STRONG.search(re.sub(rb"[^a-z0-9]", b"", name.lower())):
        return 2
    return 1 if not _WEAK.isdisjoint(word.lower() for word in _WORD.findall(name)) else 0


def is_telling(value: bytes) -> bool:
    """Whether a secret is unlike any word, so that the same text anywhere else is this secret: `dummy` is not."""
    mixed = value != value.lower() and value != value.upper()
    has_digit = any(byte in b"0123456789" for byte in value)
    return len(value) >= 12 or (len(value) >= 6 and has_digit and not value.isdigit()) or (len(value) >= 8 and mixed)


def is_random(value: bytes) -> bool:
    """Whether a text looks like a key, whatever it is called."""
    return (
        len(value) >= 16
        and re.search(rb"[0-9]", value) is not None
        and re.search(rb"[A-Za-z]", value) is not None
        and re.fullmatch(rb"[\w.~+/=:|%*\\-]+", value) is not None
    )


def in_header(name: bytes, value: bytes) -> Iterator[Found]:
    """The credentials of a header, by its name, which may be any; a request's path is one too."""
    name = name.lower()
    if name in (b"cookie", b"set-cookie"):
        for count, pair in enumerate(_COOKIE.finditer(value)):
            if count == 0 or name == b"cookie":
                everywhere = is_telling(pair[2]) if _strength(pair[1]) else is_random(pair[2])
                yield Found(*pair.span(2), everywhere)
    elif name in _URLS:
        for parameter in _PARAMETER.finditer(value):
            if _strength(parameter[1]) or parameter[1].lower() == _ONLY_IN_QUERIES:
                yield Found(*parameter.span(2), is_telling(parameter[2]))
    elif name in _PERSONAL:
        yield Found(0, len(value), is_telling(value))
    elif strength := _strength(name):
        scheme = _SCHEME.match(value)
        start = scheme.end() if scheme else 0
        secret = value[start:]
        yield Found(start, len(value), is_telling(secret) if strength == 2 else is_random(secret))


def in_text(data: bytes | bytearray) -> Iterator[Found]:
    """The credentials of any text: a URL, a body, an event stream, a message. They may overlap."""
    for shape in _SHAPES.finditer(data):
        yield Found(*shape.span(), True)
    for bearer in _BEARER.finditer(data):
        if is_random(bearer[1]) or (re.search(rb"\d", bearer[1]) and is_telling(bearer[1])):
            yield Found(*bearer.span(1), True)
    for user in _USER.finditer(data):
        for group in (1, 2):
            if user[group]:
                yield Found(*user.span(group), is_telling(user[group]))
    for key in _PEM.finditer(data):
        yield Found(*key.span(1), True)
    for field in _FORM_FIELD.finditer(data):
        if _strength(field[1]):
            yield Found(*field.span(2), is_telling(field[2]) if _strength(field[1]) == 2 else is_random(field[2]))
    end = within = 0
    for named in _NAMED.finditer(data):
        name = named[1]
        if name.lower() == _ONLY_IN_QUERIES or _strength(name):
            if named.end() >= end:
                end, within = _RUN.match(data, named.end()).end(), 0  # type: ignore[union-attr]  # as below
            within += 1
            if within <= _MOST_IN_A_RUN:
                yield from _value(data, named, _strength(name))


def hidden(text: str) -> str:
    """A text with stars in place of its credentials."""
    data = text.encode(errors="replace")
    found, shown, at = sorted(in_text(data)), b"", 0
    for start, end, _ in found:
        shown += data[at:start] + b"***" if start >= at else b""
        at = max(at, end)
    return (shown + data[at:]).decode(errors="replace") if found else text


def _value(data: bytes | bytearray, named: re.Match[bytes], strength: int) -> Iterator[Found]:
    """The value of a name that says so, if it is one."""
    at = named.end()
    before = _IN_QUERY.search(bytes(data[max(0, named.start() - 6) : named.start()]))
    if before and named[3] != b":" and named[0] == named[1] + named[3] and not _QUOTE.match(data, at):
        values = _QUERY_VALUE if named[3] == b"=" else _INNER_QUERY_VALUE
        values = _PATH_VALUE if before[0].lower() in (b"/", b"%2f") else values
        start, end = values.match(data, at).span()  # type: ignore[union-attr]  # it matches nothing too
        yield Found(start, end, is_telling(bytes(data[start:end])))
        return
    if not strength:
        return
    while quote := _QUOTE.match(data, at):
        start, end = _STRINGS[len(quote[1]), quote[2]].match(data, quote.end()).span()  # type: ignore[union-attr]
        scheme = _SCHEME.match(data, start, end)
        start = scheme.end() if scheme else start
        value = bytes(data[start:end])
        if strength == 2 or is_random(value):
            yield Found(start, end, is_telling(value))
        following = _NEXT_IN_LIST.match(data, end)
        if following is None or not named[4]:
            return
        at = following.end()
    if named[2] and strength == 2 and (number := _NUMBER.match(data, at)):
        yield Found(*number.span(), False)
    elif not named[2]:
        scheme = _SCHEME.match(data, at)
        start, end = _BARE_VALUE.match(data, scheme.end() if scheme else at).span()  # type: ignore[union-attr]
        value = bytes(data[start:end])
        if is_random(value) or (strength == 2 and len(value) >= 8 and re.search(rb"\d", value)):
            yield Found(start, end, is_telling(value))
