"""Which of all remembered flows are wanted. Must not know how they are shown."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from ..view.stats import Outcome

_NO: tuple[str | None, ...] = (None, "", "0", "false", "no")


class Choice(NamedTuple):
    """`failed`, `odd`: only such ones, or either where both are chosen. `upstream`, `model`, `text`: a part of what a
    flow has there, in lower case; of `text`, anywhere in what is said of the flow."""

    failed: bool = False
    odd: bool = False
    upstream: str = ""
    model: str = ""
    text: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        failed, odd = (query.get(name) not in _NO for name in ("failed", "odd"))
        return cls(failed, odd, *(query.get(name, "").strip().lower() for name in ("upstream", "model", "text")))

    def takes(self, outcome: Outcome) -> bool:
        if (self.failed or self.odd) and not ((self.failed and not outcome.ok) or (self.odd and outcome.is_odd)):
            return False
        return self._names(outcome.upstream, outcome.model) and self.text in outcome.words

    def takes_in_flight(self, flow: Mapping[str, Any]) -> bool:
        """The same for a flow in flight, which has neither failed yet nor is odd."""
        if self.failed or self.odd or not self._names(f"{flow['upstream']}", f"{flow['model']}"):
            return False
        return not self.text or any(self.text in f"{value}".lower() for value in flow.values())

    def _names(self, upstream: str, model: str) -> bool:
        return self.upstream in upstream.lower() and self.model in model.lower()
