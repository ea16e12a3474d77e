"""What an API is to the table of endpoints, and what merges one of its answers. Must not know any API."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from ..merge.fields import Slots
from ..wire import jsontext
from ..wire.text import counted

type Request = Mapping[str, Any]
type Memo = dict[int, Any]
"""The same for all chunks of one form, whose members have the same names, down to their delta: what an aggregator knows
of all of them."""
type EventsOf = Callable[[Any, Asked], Iterator[dict[str, Any]] | None]
"""The data of the events in which a real server would have streamed a document, one by one, given what was asked for;
None for what is no document of this API."""

# What upstreams send in place of a finish reason if there is none: KoboldCpp, Google's enumeration.
NO_REASONS: Final = frozenset(("null", "none", "finish_reason_unspecified"))


@dataclass(frozen=True, slots=True)
class Aggregated:
    """One document out of a whole stream: an object, but for llama.cpp's list of several.

    `finish_reasons` has one entry for each choice (for Responses: the status); `inferred`: at least one of them did not
    come from the upstream. `odd`: what is strange about the answer as a whole, a line each.
    """

    document: Any
    finish_reasons: tuple[str, ...] = ()
    inferred: bool = False
    odd: tuple[str, ...] = ()


class Aggregator(Protocol):
    """Merges the chunks of one stream.

    `ended`: its terminal event has come, and nothing can follow; `says_all_again`: that event has the whole answer in
    it. `finished`: as far as is known, only usage can still be missing; it becomes false again when more content
    follows a finish reason. `early`: how many finish reasons more content has followed; where there are any, the last
    one may not be the end either, so a broken connection after it is a truncation. `ends_with_body`: nothing in the
    stream says where it ends, so its end is that of a body that is not cut off. `shows_cut`: the document is for a
    person, who wants to see what is cut off, whatever shape a client needs. `has_choices`: a chunk is known by having
    choices, whatever is in them.
    """

    ended: bool = False
    says_all_again: bool = False
    finished: bool = False
    early: int = 0
    objects: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    ends_with_body: bool = False
    shows_cut: bool = False
    has_choices: bool = False

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        """One event's data, with the event's name ("" where it has none). Returns the effect, as in `merge.fields`:
        what would change if the same chunk came once more. An unknown type changes nothing; nothing raises."""

    def goes_on(self, chunk: dict[str, Any], memo: Memo) -> bool:
        """Add a chunk that has at most one choice, and only goes on with what has begun, so that nothing about it can
        be odd. False if it may do more: then nothing was added. `memo` is that of its form, for what is known of all
        such chunks."""
        return False

    def add_text(self, text: str) -> bool:
        """The data of an event that is not an object. True if this API sends its answer that way."""
        return False

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        """Whether an object is one of this API's chunks, though its `object` does not say so. The words of any other
        are a notice, or an error."""
        kind = chunk.get("type") or event
        return isinstance(kind, str) and kind.startswith(self.families)

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        """The document; `done`: `[DONE]` came; `partial`: what came is wanted, whether or not it is whole. Raises
        `EmptyStream` or `IncompleteStream` where it is not complete, and `CorruptedStream` where it has a hole."""


def fewer_than(expected: int, count: int, what: str = "choice") -> tuple[str, ...]:
    """What is odd about this many choices."""
    if count >= expected:
        return ()
    return (f"{counted(count, what)}, but the request asks for {expected:,}",)


def not_json(arguments: Iterable[Any]) -> tuple[str, ...]:
    """What is odd about the arguments of calls."""
    is_odd = any(isinstance(text, str) and text and not jsontext.is_json(text) for text in arguments)
    return ("the arguments of a call are not JSON",) if is_odd else ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One API.

    `paths`: the ends of its paths; a path with one of `not_under` belongs to another API. `never_streams`: ends of its
    paths that reject `stream`.
    `cannot_stream`: why a request cannot be streamed, or None. `stream_options`: the options it takes, None for any.
    `only_streamed`: the options of a request that only a stream may have.
    `forms`: whether its requests may be forms with files.
    `aggregator`: makes one for an answer, given the number of choices that the request asks for.
    `events_of`: the other direction. `holds`: the member in which a document has what was answered. `named`: what the
    types begin with that are the names of their events too; no `[DONE]` follows such events.
    """

    name: str
    paths: tuple[str, ...]
    aggregator: Callable[[int], Aggregator]
    events_of: EventsOf
    cannot_stream: Callable[[Request], str | None] = lambda _: None
    never_streams: tuple[str, ...] = ()
    not_under: tuple[str, ...] = ()
    stream_options: frozenset[str] | None = None
    only_streamed: tuple[str, ...] = ("stream_options",)
    forms: bool = False
    holds: str = "choices"
    named: tuple[str, ...] = ()

    def options_for(self, wanted: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Those of a rule's `stream_options` that this endpoint takes."""
        if wanted is None or self.stream_options is None:
            return wanted
        return {key: value for key, value in wanted.items() if key in self.stream_options}


class Asked(NamedTuple):
    """What a client asked for whose request is sent plain: the events of an API, whether those have the usage as an
    option of the request's, and at which path."""

    endpoint: Endpoint
    with_usage: bool = False
    path: str = ""
