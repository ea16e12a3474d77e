"""Text that somebody else chose, made fit for a line of ours."""

from typing import Final

LONGEST_PRINTED: Final = 100


def printable(text: str, longest: int = LONGEST_PRINTED) -> str:
    """Printable, valid Unicode, and at most so many characters; "…" stands for the rest."""
    clean = "".join(character if character.isprintable() else "\ufffd" for character in text[:longest])
    return clean if len(text) <= longest else f"{clean}…"
