"""What every endpoint's aggregator is and gives. Knows no endpoint."""

from dataclasses import dataclass
from typing import Any, Protocol

from ..merge.fields import Slots


@dataclass(frozen=True, slots=True)
class Aggregated:
    """One document out of a whole stream: an object, but for llama.cpp's list of several.

    `finish_reasons` has one entry for each choice (for Responses: the status); `inferred`: at least one of them did not
    come from the upstream.
    """

    document: Any
    finish_reasons: tuple[str, ...] = ()
    inferred: bool = False


class Aggregator(Protocol):
    """Merges the chunks of one stream. `add` and `finished` never raise."""

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        """One event's data, with the event's name ("" where it has none). Returns the effect, as in `merge.fields`:
        what would change if the same chunk came once more."""

    @property
    def ended(self) -> bool:
        """Whether the stream's terminal event has come: nothing can follow it."""

    @property
    def finished(self) -> bool:
        """Whether only usage can still be missing."""

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        """The document; `done`: `[DONE]` came; `partial`: the stream was cut and what came is wanted.

        Raises a `StreamError` where the stream is not complete.
        """
