"""What the tests of merging share: values that a chunk may have, orders in which they may come, and
the plain way to read them."""

from collections.abc import Callable
from typing import Any

from force_stream.answer.events import Event, EventReader
from force_stream.answer.patterns import Repeats, Templates
from force_stream.merge.fields import Rule
from force_stream.wire.jsontext import Number
from hypothesis import strategies as st

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.just(Number("1.0")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["index", "id", "text", "list", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


class Never(Repeats):
    """Parses every chunk: no event becomes a template."""

    def _learn(self, event: Event, known: Templates | None) -> None:
        pass

    def _match_run(self, templates: Templates, data: bytes, start: int) -> tuple[int, bool]:
        raise AssertionError("a chunk was taken by its bytes")


class ByForm(Never):
    """Merges every chunk by its form, if that is known."""

    def __init__(self, reader: EventReader) -> None:
        super().__init__(reader)
        self._until_attempt = 1 << 60


def merged(rule: Rule, said: list[Any]) -> Any:
    accumulator = rule()
    for value in said:
        accumulator.add(value)
    return accumulator.result()


def interleave(pieces: list[Any], random: Any, key: Callable[[Any], Any]) -> list[Any]:
    """The pieces in another order; those with one key keep theirs."""
    queues: dict[Any, list[Any]] = {}
    for piece in pieces:
        queues.setdefault(key(piece), []).append(piece)
    keys = [key(piece) for piece in pieces]
    random.shuffle(keys)
    return [queues[chosen].pop(0) for chosen in keys]
