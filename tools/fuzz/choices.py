"""The fuzzer's bytes as choices."""

from collections.abc import Sequence


class Choices:
    """The fuzzer's bytes, taken from the front as choices. Where there are none left, each is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def below(self, count: int) -> int:
        width = 1 if count <= 256 else 2
        taken = self._data[self._at : self._at + width]
        self._at += width
        return int.from_bytes(taken) % count

    def pick[T](self, among: Sequence[T]) -> T:
        return among[self.below(len(among))]

    def rest(self) -> bytes:
        rest, self._at = self._data[self._at :], len(self._data)
        return rest
