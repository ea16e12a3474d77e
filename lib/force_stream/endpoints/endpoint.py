"""What an API is to the table of endpoints. Must not know any of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .aggregator import Aggregator

type Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One API.

    `paths`: the ends of its paths; a path with one of `not_under` belongs to another API. `never_streams`: ends of its
    paths that reject `stream`.
    `cannot_stream`: why a request cannot be streamed, or None. `stream_options`: the options it takes, None for any.
    `forms`: whether its requests may be forms with files.
    `aggregator`: makes one for an answer, given the number of choices that the request asks for.
    """

    name: str
    paths: tuple[str, ...]
    aggregator: Callable[[int], Aggregator]
    cannot_stream: Callable[[Request], str | None] = lambda _: None
    never_streams: tuple[str, ...] = ()
    not_under: tuple[str, ...] = ()
    stream_options: frozenset[str] | None = None
    forms: bool = False

    def options_for(self, wanted: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Those of a rule's `stream_options` that this endpoint takes."""
        if wanted is None or self.stream_options is None:
            return wanted
        return {key: value for key, value in wanted.items() if key in self.stream_options}
