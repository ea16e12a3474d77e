"""The members of chunks that mean nothing, or nothing after the first chunk: padding, counters, times.

Knows their names in all APIs; whoever merges chunks or shows them takes the names from here.
"""

from collections.abc import Mapping
from typing import Any, Final

from .fields import Effect, First, Padding, Rule, Slots

# Padding against eavesdroppers who measure lengths (OpenAI's, Mistral's), and OpenAI's count of the events.
PADDING: Final = frozenset(("obfuscation", "p", "sequence_number"))

padding: Rule = Padding
PADDING_RULES: Final[Mapping[str, Rule]] = dict.fromkeys(PADDING, padding)

_ANY: Final = Padding()


class Created(First):
    """A time: that of the first chunk counts, and later chunks may have their own."""

    __slots__ = ()

    def add(self, value: Any) -> Effect:
        if self._value:
            return _ANY
        return super().add(value)


created: Rule = Created


def padding_in(chunk: Mapping[str, Any]) -> Slots:
    """The slots of the padding in a chunk whose members are not merged."""
    return tuple((key, _ANY) for key in PADDING if key in chunk)
