"""docs/oracle.md: what was equal at each endpoint of each server, and what differs and why. Writes the rows of one
server, and leaves those of the others.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from answers import Difference
from known import Known
from questions import ENDPOINTS, OracleRequest
from servers import ROOT, Server

PAGE: Final = ROOT / "docs" / "oracle.md"
LONGEST: Final = 60
EVENTS: Final = "events/"

# Each request, the status of the direct answer, and how the forced one differs.
type Found = list[tuple[OracleRequest, int, list[tuple[Difference, Known]]]]


def write(server: Server, found: Found, page: Path = PAGE) -> None:
    text = page.read_text(encoding="utf-8")
    text = with_block(text, "equal", server.name, [equal_row(server, found)])
    text = with_block(text, "differs", server.name, differing_rows(server, found))
    page.write_text(text, encoding="utf-8")


def with_block(text: str, table: str, name: str, rows: Iterable[str]) -> str:
    """The page with these rows in that table, in place of those that begin with the server's name."""
    begin, end = f"<!-- BEGIN {table} -->\n", f"<!-- END {table} -->\n"
    before, _, rest = text.partition(begin)
    block, _, after = rest.partition(end)
    lines = block.splitlines()
    header, others = lines[:2], [line for line in lines[2:] if not line.startswith(f"| {name} |")]
    body = sorted([*others, *rows], key=lambda line: line.partition(" | ")[0].lower())
    return before + begin + "".join(f"{line}\n" for line in (*header, *body)) + end + after


def equal_row(server: Server, found: Found) -> str:
    cells = [server.name, f"{server.package} {server.version}"]
    for endpoint in ENDPOINTS:
        asked = [(status, of_answers(known)) for request, status, known in found if request.endpoint == endpoint]
        answers, errors = ([not known for status, known in asked if (status < 400) is good] for good in (True, False))
        parts = [f"{sum(answers)} of {len(answers)}"] if answers else []
        parts += [f"{sum(errors)} of {len(errors)} errors"] if errors else []
        cells.append(", ".join(parts) or "not asked")
    return row(cells)


def of_answers(known: list[tuple[Difference, Known]]) -> list[tuple[Difference, Known]]:
    """Without those of events, which the page describes in words."""
    return [one for one in known if not one[0].path.startswith(EVENTS)]


def differing_rows(server: Server, found: Found) -> list[str]:
    rows = []
    for known in (known for known in server.known if not known.path.startswith(EVENTS)):
        named = [f"{request.endpoint}: {request.name}" for request, _, one in found if known in [of for _, of in one]]
        first = next(difference for _, _, one in found for difference, of in one if of is known)
        asked = f"`{named[0]}`" if len(named) == 1 else f"`{known.requests}` ({len(named)} requests)"
        values = f"`{short(first.direct)}` / `{short(first.proxied)}`"
        rows.append(row([server.name, asked, f"`{known.path}`", values, known.reason]))
    return rows


def short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(re.sub(r'\|', '\\|', cell) for cell in cells)} |"
