"""The outcome of an answer: the reply for the client, and the figures for logs and views.

Must not know how an answer is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..wire.long_json import is_long

JSON_TYPE: Final = "application/json"
EVENT_STREAM_TYPE: Final = "text/event-stream"
# Characters, about. A usage has a few hundred, and whoever shows it writes all of it.
_LONGEST_USAGE: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What the client gets: a status and a complete JSON document; `headers` are set beside its content type."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """What came, in figures and in words. `cause`: why the answer is not simply whole, "" where it is; `code` is the
    error's, "" for a success, and `own_code` the one that the upstream gave it; `finish_reason` has those of all
    choices, each once; `given`: how many events the client gets, which were made of a plain answer."""

    events: int = 0
    bytes: int = 0
    status: int = 0
    finish_reason: str = ""
    inferred: bool = False
    truncated: bool = False
    code: str = ""
    own_code: str = ""
    cause: str = ""
    usage: Any = None
    given: int = 0
    odd: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        """The error's code as people know it: the upstream's own where it gave one."""
        return self.own_code or self.code


def usage_in(document: Any) -> Any:
    """The usage in a document, unless that is so long that it is none."""
    usage = document.get("usage") if isinstance(document, dict) else None
    return None if is_long(usage, _LONGEST_USAGE) else usage
