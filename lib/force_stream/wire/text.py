"""Text for a line of ours: what somebody else chose, made fit for it, and counts."""

from typing import Final

LONGEST_PRINTED: Final = 100


def printable(text: str, longest: int = LONGEST_PRINTED) -> str:
    """Printable, valid Unicode, and at most so many characters; "…" stands for the rest."""
    clean = "".join(character if character.isprintable() else "\ufffd" for character in text[:longest])
    return clean if len(text) <= longest else f"{clean}…"


def counted(count: int, what: str) -> str:
    """A count of things whose plural ends in "s": "1 event", "2,000 events"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
