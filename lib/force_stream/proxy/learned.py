"""What upstreams have said about streaming, for the requests that follow. It is forgotten when the rules change.

Must not know how it was said, flows, or any credential: those are here as salted hashes.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import Final, NamedTuple

from ..wire.text import printable

# Entries of each kind; the oldest goes first. A client may make up models.
MOST: Final = 1000
# Of what one upstream cannot stream.
_MOST_SCOPES: Final = 20
_MOST_NAMED: Final = 5
_SALT: Final = token_bytes(16)


class Asked(NamedTuple):
    """Which upstream a request asks for which model and endpoint. `name`: the host as people know it; one address may
    have several."""

    host: str
    port: int
    name: str
    model: str | None
    endpoint: str

    def __str__(self) -> str:
        model = f" {printable(self.model)}" if self.model else ""
        return f"{printable(self.name)}{model} ({self.endpoint})"


def hash_of(credentials: Collection[str]) -> bytes:
    """The credentials of a request, so that they can be compared, and no more, while this process runs."""
    return blake2b("\0".join(credentials).encode(errors="replace"), digest_size=16, key=_SALT).digest()


class Learned:
    """`for_rules` has to be called before anything else is asked or added. `is_empty`: nothing was added so far."""

    def __init__(self) -> None:
        self._rules: Sequence[object] = ()
        self._forget()

    def _forget(self) -> None:
        self.is_empty = True
        self._streams: dict[Asked, bool] = {}
        self._without_options: dict[Asked, bool] = {}
        self._plain: dict[tuple[Asked, bytes], tuple[tuple[str, ...], ...]] = {}

    def for_rules(self, rules: Sequence[object]) -> "Learned":
        """What was learned under these rules; nothing if they are others than before."""
        if rules is not self._rules:
            if rules != self._rules:
                self._forget()
            self._rules = rules
        return self

    # The upstream must stream

    def add_streams(self, asked: Asked) -> None:
        self._add(self._streams, asked, True)

    def must_stream(self, asked: Asked) -> bool:
        return asked in self._streams

    # The upstream cannot stream

    def add_plain(self, asked: Asked, credentials: bytes, members: tuple[str, ...]) -> None:
        """Requests that have all of these members cannot stream; without members, none can."""
        known = self._plain.get((asked, credentials), ())
        others = tuple(named for named in known if named != members)
        self._add(self._plain, (asked, credentials), (*others, members)[-_MOST_SCOPES:])

    def why_plain(self, asked: Asked, credentials: bytes, members: Mapping[str, object]) -> str:
        """Why a request with these members is to be sent plain, in words; "" if it is not."""
        for named in self._plain.get((asked, credentials), ()):
            if all(members.get(name) for name in named):
                return f"the upstream said that it cannot stream {what(named)}"
        return ""

    def drop_plain(self, asked: Asked, credentials: bytes) -> None:
        self._plain.pop((asked, credentials), None)

    # The upstream rejects stream_options

    def add_without_options(self, asked: Asked) -> None:
        self._add(self._without_options, asked, True)

    def rejects_options(self, asked: Asked) -> bool:
        return asked in self._without_options

    def _add[K: Hashable, V](self, entries: dict[K, V], key: K, value: V) -> None:
        self.is_empty = False
        entries.pop(key, None)
        entries[key] = value
        if len(entries) > MOST:
            del entries[next(iter(entries))]

    def lines(self) -> list[str]:
        """All of it, one line each."""
        plain = [(asked, named) for (asked, _), known in self._plain.items() for named in known]
        lines = [
            *(f"learned: {asked} must stream" for asked in self._streams),
            *(f"learned: {asked} cannot stream {what(named)}; sent plain" for asked, named in plain),
            *(f"learned: {asked} rejects stream_options; sent without" for asked in self._without_options),
        ]
        # The same for other credentials, or for another address of the host, would look like a repetition.
        return list(dict.fromkeys(lines))


def what(members: Sequence[str]) -> str:
    """The requests that have these members, in words."""
    if not members:
        return "any request"
    named = " and ".join(map(printable, members[:_MOST_NAMED]))
    return f"a request with {named}" + (f" and {len(members) - _MOST_NAMED} more" if members[_MOST_NAMED:] else "")
