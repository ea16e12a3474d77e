"""Write what the documentation says of the code's rows: the tables of rule keys, quirks and faults to inject in docs/,
and the list of keys in rules.yaml. Each stands between a line with BEGIN and one with END.

    PYTHONPATH=lib python tools/docs.py
"""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from force_stream.answer.quirks import QUIRKS
from force_stream.rules.keys import FAULTS, KEYS, default

ROOT: Final = Path(__file__).resolve().parent.parent
WIDTH: Final = 120
# Where the help begins in rules.yaml, and where the defaults stand in its example.
COLUMN: Final = 25
DEFAULTS: Final = 42


def keys_table() -> Iterator[str]:
    rows = (
        (f"`{name}`", key.help, f"`{default(name)}`" if default(name) else "required") for name, key in KEYS.items()
    )
    return table(("key", "meaning", "default"), rows)


def quirks_table() -> Iterator[str]:
    rows = ((f"`{quirk.name}`", quirk.help) for quirk in QUIRKS.values())
    return table(("quirk", "the upstream's deviation"), rows)


def faults_table() -> Iterator[str]:
    rows = ((f"`{name}: {fault.example}`", fault.help) for name, fault in FAULTS.items())
    return table(("inject", "what happens"), rows)


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (header, None, *rows):
        yield f"| {' | '.join(cells)} |" if cells else "|---" * len(header) + "|"


def keys_comment() -> Iterator[str]:
    """Every key with its help, and a rule that has them all."""
    yield "#"
    for name, key in KEYS.items():
        yield from wrapped(f"# {name:<{COLUMN - 2}}", plain(key.help))
        for value, help in key.names.items():
            yield from wrapped("#".ljust(COLUMN), f"{value}: {plain(help)}", "#".ljust(COLUMN + 2))
    yield "#"
    for number, (name, key) in enumerate(KEYS.items()):
        line = f"#   {' ' if number else '-'} {name}: {key.example or default(name)}"
        yield f"{line:<{DEFAULTS}}# default: {default(name)}" if key.example and default(name) else line


def wrapped(first: str, text: str, further: str = "#".ljust(COLUMN)) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def plain(markdown: str) -> str:
    """The help as a comment has it, where nothing can be linked to."""
    named = re.sub(r"See \[[^]]*\]\(([\w.]+)[^)]*\)", r"See docs/\1", markdown)
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", named).replace("`", "")


# For each file the parts that are written, by the names that its BEGIN and END have.
PARTS: Final[Mapping[str, Mapping[str, Callable[[], Iterator[str]]]]] = {
    "docs/rules.md": {"keys": keys_table, "quirks": quirks_table},
    "docs/failures.md": {"faults": faults_table},
    "rules.yaml": {"keys": keys_comment},
}


def current(path: str) -> str:
    """A file's text with its parts as the rows have them now."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for name, lines in PARTS[path].items():
        parts = re.split(rf"(?m)(^.*\bBEGIN {name}\b.*\n|^.*\bEND {name}\b)", text)
        if len(parts) != 5:
            raise ValueError(f"{path} needs one line with BEGIN {name} and one with END {name}")
        parts[2] = "".join(f"{line}\n" for line in lines())
        text = "".join(parts)
    return text


def main() -> int:
    for path in PARTS:
        (ROOT / path).write_text(current(path), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
