"""Flows that can be shown to others: credentials and addresses masked, wherever they stand.

Knows flows as the plain values of which flow files are made (`Flow.get_state`), and how a secret may be written; what a
secret is, is known to `credentials`. Must not know mitmproxy.

Two passes: `learn` finds the secrets of every flow, then `mask` replaces them, in every flow. A stand-in (`***1`, and
stars up to the length of what it stands for) is as long as the secret, so that all lengths, places and times that a
flow has of its bodies stay true, and its answer can be made again; equal secrets have equal numbers. Time grows with
the length of what is searched, whatever it is.
"""

import base64
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from ..wire import credentials, encodings
from ..wire.credentials import Found

# The mask of a secret; the number tells secrets apart.
STAND_IN: Final = re.compile(r"\*{3}(\d+)\**")
_STAND_IN: Final = re.compile(rb"(?:\w+ )?\*{3}\d+\**|\*+")
_LONGEST_DECODED: Final = 256 * 1024 * 1024
_UNREADABLE: Final = b"(%d bytes that could not be decoded, and so not be searched for credentials, were left out)"
# Characters: those that are looked for first, and those of a secret that was cut short and is one still.
_PREFIX: Final = 6
_SHORTEST_PART: Final = 12
# Of what is longer, only the beginning is compared. So much of a text is not the beginning of another.
_LONGEST_SECRET: Final = 4096
# Bytes of a text that is not searched twice if it has none. For shorter ones, that would save nothing.
_LONG: Final = 1024
_NO_ADDRESS: Final = ("", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::")
_MASKED_ADDRESS: Final = "0.0.0.0"

# How a character is written: percent-encoded, as JSON escapes it, as HTML does, or as it is; each more than once.
_CHARACTER: Final = re.compile(
    rb"%(?:25){0,3}([0-9a-fA-F]{2})|\\{1,8}u([0-9a-fA-F]{4})|\\{1,8}([\"'/\\])"
    rb"|&(?:amp;)?(?:#0{0,4}([0-9]{1,7})|#[xX]0{0,4}([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos));"
    rb"|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|.",
    re.DOTALL,
)
_BACKSLASHES: Final = rb"(?:\\|%(?:25){0,3}5[cC]|\\{1,8}u005[cC]|&#92;|&#[xX]5[cC];){0,16}"
_PERCENT: Final = re.compile(rb"%(?:25){0,3}([89abAB][0-9a-fA-F])")
_LOW_HALF: Final = re.compile(rb"\\{1,8}u([dD][c-fC-F][0-9a-fA-F]{2})")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_GOES_ON: Final = re.compile(rb"[\w-]")
_NAMES_IN_HTML: Final = {b"amp": "&", b"lt": "<", b"gt": ">", b"quot": '"', b"apos": "'"}
_NAMED_IN_HTML: Final = {char: name for name, char in _NAMES_IN_HTML.items()}

# Texts that come in pieces: members of the JSON of events, one a line. Those named here say the same in each.
_LINE: Final = re.compile(rb"[^\r\n]+")
_EVENT: Final = re.compile(rb"(?:\A|[\r\n])(?:data:)?[ \t]*\{")
_MEMBER: Final = re.compile(rb'"(\w{1,40}+)"\s{0,8}+:\s{0,8}+(?:"((?:[^"\\]|\\.)*+)"|(\d{1,9}+))', re.DOTALL)
_LABELS: Final = frozenset(b"id object model type role event_id item_id response_id system_fingerprint".split())


class Masker:
    """Learns secrets, and masks them. Numbers them in the order of their discovery."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._everywhere: dict[str, int] = {}
        self._search: _Search | None = None
        # The texts without any, each with its header's name, by their digests.
        self._without: set[tuple[bytes | None, bytes]] = set()

    def learn(self, state: Any) -> None:
        """Learn the secrets of a flow, or of any other plain value."""
        for address in _addresses(state):
            self._number(address.encode(errors="surrogateescape"), everywhere=True)
        _rebuilt(state, self._learn)

    def mask(self, state: Any) -> Any:
        """A copy of a flow, or of any other plain value, without these secrets and any others that can be told."""
        return _rebuilt(state, self._mask)

    def text(self, text: str) -> str:
        return _as_text(self._mask(_as_bytes(text)))

    # Both passes

    def _learn(self, data: bytes, header: bytes | None = None) -> bytes:
        for text, _ in _joined(data):
            self._learn_from(text, None)
        self._learn_from(data, header)
        return data

    def _learn_from(self, text: bytes, header: bytes | None) -> None:
        secrets = list(_found(text, header))
        for found in secrets:
            secret = text[found.start : found.end]
            if not _STAND_IN.fullmatch(secret):
                self._number(secret, everywhere=found.everywhere)
        if len(text) >= _LONG and not secrets:
            self._without.add((header, sha256(text).digest()))

    def _mask(self, data: bytes, header: bytes | None = None) -> bytes:
        masked = bytearray(data)
        for text, pieces in _joined(data):
            hidden = self._masked(text, None)
            for place, start, end in pieces if hidden != text else ():
                masked[place : place + end - start] = hidden[start:end]
        return bytes(self._masked(masked, header))

    def _masked(self, text: bytes | bytearray, header: bytes | None) -> bytearray:
        hidden = bytearray(text)
        for start, end, number in self._known(text):
            hidden[start:end] = _stand_in(number, text[start:end])
        if len(hidden) >= _LONG and (header, sha256(hidden).digest()) in self._without:
            return hidden
        for found in list(_found(hidden, header)):
            secret = bytes(hidden[found.start : found.end])
            if not _STAND_IN.fullmatch(secret):
                hidden[found.start : found.end] = _stand_in(self._number(secret), secret)
        return hidden

    def _number(self, secret: bytes, *, everywhere: bool = False) -> int:
        plain = _plain(secret)
        number = self._numbers.setdefault(plain, len(self._numbers) + 1)
        text = _as_text(plain[:_LONGEST_SECRET])
        if everywhere and len(text) >= _PREFIX and text not in self._everywhere:
            self._search = None
            spelled = (form for each in {plain, secret} for form in _in_base64(each[:_LONGEST_SECRET]))
            for form in (text, *spelled):
                self._everywhere.setdefault(form, number)
            user, colon, password = _basic(plain)
            if colon:
                self._number(user, everywhere=credentials.is_telling(user))
                self._number(password, everywhere=credentials.is_telling(password))
        return number

    def _known(self, text: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
        """Where a text has secrets that were learned, in any spelling."""
        if self._search is None:
            self._search = _Search(self._everywhere)
        return self._search.of(text)


def _found(text: bytes | bytearray, header: bytes | None) -> Iterator[Found]:
    if header is not None:
        yield from credentials.in_header(header, bytes(text))
    yield from credentials.in_text(text)


def _stand_in(number: int, secret: bytes | bytearray) -> bytes:
    # A number of JSON has to stay one.
    return b"9" * len(secret) if secret.isdigit() else (b"***%d" % number).ljust(len(secret), b"*")[: len(secret)]


# How a secret may be written


def _as_bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _as_text(data: bytes | bytearray) -> str:
    try:
        return data.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _plain(secret: bytes) -> bytes:
    """A secret as it is, from how it is written in JSON, in a URL or in HTML; without its backslashes, since nobody can
    tell those from the ones of an escape."""
    return _as_bytes("".join(char for char, _ in _characters(secret, 0) if char != "\\"))


def _characters(text: bytes | bytearray, at: int) -> Iterator[tuple[str, int]]:
    """The characters of a text from there on, in whatever way each is written, and where each ends."""
    while found := _CHARACTER.match(text, at):
        at = found.end()
        byte, unit, escaped, decimal, hexadecimal, named = found.groups()
        if byte:
            value = bytes.fromhex(byte.decode())
            while value[0] >= 0xC2 and len(value) < 4 and (more := _PERCENT.match(text, at)) and not _is_text(value):
                value, at = value + bytes.fromhex(more[1].decode()), more.end()
            yield _as_text(value), at
        elif unit:
            code = int(unit, 16)
            if 0xD800 <= code < 0xDC00 and (low := _LOW_HALF.match(text, at)):
                code, at = 0x10000 + (code - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00, low.end()
            yield chr(code), at
        elif decimal or hexadecimal:
            code = int(decimal) if decimal else int(hexadecimal, 16)
            yield chr(min(code, 0x10FFFF)), at
        elif named:
            yield _NAMES_IN_HTML[named], at
        else:
            yield _as_text(escaped or found[0]), at


def _basic(secret: bytes) -> tuple[bytes, bytes, bytes]:
    """User, colon and password, if a secret is what the scheme Basic sends: they have no control characters (RFC 7617,
    section 2)."""
    try:
        decoded = base64.b64decode(secret, validate=True)
    except ValueError:
        decoded = b""
    return (b"" if _CONTROL.search(decoded) else decoded).partition(b":")


def _in_base64(secret: bytes) -> Iterator[str]:
    """What base64 makes of a secret amid other bytes, without the characters that those have a part in."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + secret)
        bits = 8 * (before + len(secret))
        inside = whole[-(-8 * before // 6) : bits // 6]
        if len(inside) >= _PREFIX + 2:
            yield inside.decode()
            if inside != (other := inside.translate(bytes.maketrans(b"+/", b"-_"))):
                yield other.decode()


@cache
def _character(char: str) -> bytes:
    """A pattern for a character in every spelling."""
    raw = _as_bytes(char)
    if char.isascii() and char.isalnum():
        return raw
    percent = b"".join(b"%%(?:25){0,3}(?i:%02x)" % byte for byte in raw)
    halves = char.encode("utf-16-be", errors="surrogatepass")
    units = [halves[place : place + 2].hex().encode() for place in range(0, len(halves), 2)]
    escaped = b"".join(rb"\\{1,8}u(?i:%b)" % unit for unit in units)
    forms = [percent, escaped, b"&#0{0,4}%d;" % ord(char), b"(?i:&#x0{0,4}%x;)" % ord(char)]
    if char in _NAMED_IN_HTML:
        forms.append(b"&(?:amp;)?%b;" % _NAMED_IN_HTML[char])
    if char in "\"'/":
        forms.append(rb"\\{0,8}+%b" % re.escape(raw))
    elif 127 < ord(char) < 256:
        forms += [re.escape(bytes([ord(char)])), b"%%(?:25){0,3}(?i:%02x)" % ord(char)]
    return b"(?:%b)" % b"|".join([*forms, re.escape(raw)])


class _Search:
    """A search for all secrets at once: for how they begin, then for as much as is there of one that begins so."""

    def __init__(self, secrets: dict[str, int]) -> None:
        self._secrets = sorted(secrets)
        self._numbers = secrets
        beginnings = list(dict.fromkeys(secret[:_PREFIX] for secret in self._secrets))
        self._beginnings = re.compile(_any_of(beginnings)) if beginnings else None

    def of(self, text: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
        """Where there is one, and its number."""
        at = 0
        while self._beginnings and (begun := self._beginnings.search(text, at)):
            at = begun.start() + 1
            if found := self._longest(text, begun.start()):
                at = found[0]
                yield begun.start(), *found

    def _longest(self, text: bytes | bytearray, start: int) -> tuple[int, int] | None:
        """Where the longest secret at that place ends, and its number; of a long one, only the beginning may be
        there."""
        low, high, seen, found = 0, len(self._secrets), "", None
        for char, end in _characters(text, start):
            if char == "\\":
                continue
            seen += char
            low = bisect_left(self._secrets, seen, low, high)
            high = bisect_left(self._secrets, f"{seen}\U0010ffff", low, high)
            if low == high:
                break
            # What is cut short is a secret still. What goes on otherwise is another one.
            is_cut = len(seen) >= _SHORTEST_PART and not _GOES_ON.match(text, end)
            if is_cut or self._secrets[low] == seen:
                found = end, self._numbers[self._secrets[low]]
        return found


def _any_of(beginnings: list[str]) -> bytes:
    """A pattern for any of these texts, which have one length."""
    if beginnings == [""]:
        return b""
    branches: dict[str, list[str]] = {}
    for beginning in beginnings:
        branches.setdefault(beginning[0], []).append(beginning[1:])
    rests = {char: (_BACKSLASHES if rest != [""] else b"") + _any_of(rest) for char, rest in branches.items()}
    return b"(?:%b)" % b"|".join(_character(char) + rest for char, rest in rests.items())


# Texts in pieces


def _joined(data: bytes) -> Iterator[tuple[bytes, list[tuple[int, int, int]]]]:
    """What the events of a stream spell out, as strings of JSON: a text for each member of one name, and of one place
    in its lists. Each with its pieces: where one stands, and where it starts and ends in the text."""
    if len(list(islice(_EVENT.finditer(data), 2))) < 2:
        return
    places: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for line in _LINE.finditer(data):
        members = list(_MEMBER.finditer(data, *line.span()))
        indices = tuple(member[3] for member in members if member[1].endswith(b"index"))
        seen: dict[bytes, int] = {}
        for member in members:
            name = member[1]
            if member[2] and name not in _LABELS:
                seen[name] = seen.get(name, 0) + 1
                places.setdefault((name, indices, seen[name]), []).append(member.span(2))
    for spans in places.values():
        if len(spans) > 1:
            pieces, size = [], 0
            for start, end in spans:
                pieces.append((start, size, size + end - start))
                size += end - start
            yield b"".join(data[start:end] for start, end in spans), pieces


# Flows as plain values


def _prepared(value: Any) -> Any:
    """A flow's state without what need not be shown, and with bodies that can be read."""
    if isinstance(value, dict):
        if "client_conn" in value and "server_conn" in value:
            value = {
                **value,
                "backup": None,
                "client_conn": _connection(value["client_conn"]) | {"mitmcert": None},
                "server_conn": _connection(value["server_conn"]) | {"via": None},
            }
        elif "headers" in value and isinstance(value.get("content"), bytes):
            value = _decoded(value)
    return value


def _connection(state: dict[str, Any]) -> dict[str, Any]:
    hidden = {key: (_MASKED_ADDRESS, 0) for key in ("peername", "sockname") if state.get(key)}
    return {**state, **hidden, "certificate_list": []}


def _decoded(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose body has no content encoding any more; an unreadable one is left out."""
    content, headers = message["content"], list(message["headers"])
    named = [value for name, value in headers if name.lower() == b"content-encoding"]
    label = b",".join(named).decode("latin-1")
    coded = [each for each in label.lower().split(",") if each.strip() not in ("", "identity", "none", "utf-8")]
    if not content or not coded:
        return message
    try:
        body = encodings.decode(content, label, _LONGEST_DECODED)
        if body == content and not _is_text(content):
            body = _UNREADABLE % len(content)
    except (encodings.TooLarge, encodings.MissingDecoder):
        body = _UNREADABLE % len(content)
    kept = [(name, value) for name, value in headers if name.lower() != b"content-encoding"]
    size = b"%d" % len(body)
    kept = [(name, size if name.lower() == b"content-length" else value) for name, value in kept]
    return {**message, "content": body, "headers": tuple(kept)}


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _addresses(state: Any) -> Iterator[str]:
    """The addresses of the client and of the proxy, unless they are this machine's for itself, or the upstream's."""
    if not isinstance(state, dict):
        return
    request, client, server = (state.get(key) or {} for key in ("request", "client_conn", "server_conn"))
    upstream = request.get("host"), *(server.get("address") or ())[:1]
    for found in (client.get("peername"), client.get("sockname"), server.get("sockname")):
        address = found[0] if found else ""
        if isinstance(address, str) and address not in (*_NO_ADDRESS, *upstream):
            yield address


type _Change = Callable[[bytes, bytes | None], bytes]


def _rebuilt(value: Any, change: _Change) -> Any:
    """A plain value with all its texts changed. Of a pair of texts, the first may be a header's name."""
    value = _prepared(value)
    if isinstance(value, bytes):
        return change(_uncompressed(value), None)
    if isinstance(value, str):
        return _as_text(change(_as_bytes(value), None)) if value else value
    if isinstance(value, dict):
        return {_rebuilt(key, change): _member(key, inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        of_header = len(value) == 2 and all(isinstance(each, (str, bytes)) for each in value)
        rest = [_member(value[0], value[1], change)] if of_header else [_rebuilt(each, change) for each in value[1:]]
        return type(value)([_rebuilt(each, change) for each in value[:1]] + rest)
    return value


def _member(name: Any, value: Any, change: _Change) -> Any:
    """A value under its name, which may be a header's."""
    header = name if isinstance(name, bytes) else _as_bytes(name) if isinstance(name, str) else None
    if header is None or not isinstance(value, (str, bytes)):
        if header == b"proxyauth" and isinstance(value, (list, tuple)):  # the addon of that name: user and password
            return type(value)(_member(name, each, change) for each in value)
        return _rebuilt(value, change)
    changed = change(_as_bytes(value) if isinstance(value, str) else _uncompressed(value), header)
    return _as_text(changed) if isinstance(value, str) else changed


def _uncompressed(data: bytes) -> bytes:
    """A note of bytes that are compressed, though nothing says so."""
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return encodings.decode(data, "gzip", _LONGEST_DECODED)
    except encodings.TooLarge:
        return _UNREADABLE % len(data)
