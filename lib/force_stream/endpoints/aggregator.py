"""What every endpoint's aggregator is and gives. Knows no endpoint."""

from dataclasses import dataclass
from typing import Any, Protocol

from ..merge.fields import Repeatable


@dataclass(frozen=True, slots=True)
class Aggregated:
    """One document out of a whole stream: an object, but for llama.cpp's list of several.

    `finish_reasons` has one entry a choice (for Responses: the status); `inferred` says that at least one of them was
    not the upstream's own word.
    """

    document: Any
    finish_reasons: tuple[str, ...] = ()
    inferred: bool = False


class Aggregator(Protocol):
    """Merges the chunks of one stream. `add` and `finished` never raise."""

    def add(self, chunk: dict[str, Any], event: str = "") -> None:
        """One event's data, with the event's name ("" where it has none)."""

    def again(self, chunk: dict[str, Any]) -> list[Repeatable] | None:
        """What of a chunk just added would change anything if it came again, as in `merge`."""

    @property
    def ended(self) -> bool:
        """Whether the stream's terminal event came: nothing can follow."""

    @property
    def finished(self) -> bool:
        """Whether nothing but usage can be missing."""

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        """The document; `done`: `[DONE]` came; `partial`: the stream was cut and what came is wanted.

        Raises a `StreamError` where the stream is not complete.
        """
