"""A clock that stands still until a test moves it. It gives seconds to the code, and takes whole milliseconds from the
test."""


class Clock:
    def __init__(self) -> None:
        self._milliseconds = 1_000_000

    def __call__(self) -> float:
        return self._milliseconds / 1000

    def advance(self, milliseconds: int) -> None:
        self._milliseconds += milliseconds

    def until(self, moment: float | None) -> int:
        """Milliseconds until a moment of this clock."""
        assert moment is not None
        return round(moment * 1000) - self._milliseconds
