"""`force-stream report`: a flow file as a page, or as a flow file, that can be sent to others.

Knows files and the order of flows; must not know HTML, or what a secret is. The file is read twice: first for what has
to be masked anywhere in it, then flow by flow.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from mitmproxy import http
from mitmproxy.io import FlowReader, FlowWriter

from .. import __version__
from ..view.masking import Masker
from ..wire.text import counted, printable, reason
from .exits import Failed
from .report_page import end, head, heading, section

# The kinds of flows, in the order of the page, and how many of each it shows.
_TITLES: Final = {"fault": "Failed", "odd": "Odd", "good": "Whole"}
SHOWN: Final = 1000
_LONGEST_NAME: Final = 200
_EVENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?::|data:|event:|id:)")
_ABOUT: Final = (
    "Credentials and addresses are masked: ***1 stands for the same one wherever it appears. "
    "Prompts and answers are unchanged. Made by force-stream {version} on {day}."
)


def run(options: argparse.Namespace) -> int:
    """Write the page, and the flow file where one is asked for."""
    name = "stdin" if options.source == "-" else printable(Path(options.source).name, _LONGEST_NAME)
    with (
        _opened(options.source) as file,
        tempfile.TemporaryFile() as fault,
        tempfile.TemporaryFile() as odd,
        tempfile.TemporaryFile() as good,
        tempfile.TemporaryFile() as flows,
    ):
        source, page = _Source(file, name), _page(options)
        _check_different(options.source, page, options.flows)
        masker, types = Masker(), Counter[str]()
        for state in source:
            types[state["type"]] += 1
            with suppress(Exception):  # somebody edited it; it cannot be masked either, and is left out below
                masker.learn(state)
        if not types:
            raise Failed(source.problem or f"{name}: there are no flows in it")

        write_flow: Callable[[Any], None] = FlowWriter(flows).add  # type: ignore[no-untyped-call]
        kinds, parts = Counter[str](), {"fault": fault, "odd": odd, "good": good}
        for state in source:
            if state["type"] != "http":
                continue
            try:
                flow: Any = http.HTTPFlow.from_state(masker.mask(state))
                shown = section(flow, opened=types["http"] == 1)
            except Exception:  # no reason to have no report of the others
                kinds["unreadable"] += 1
                continue
            if options.flows:
                write_flow(flow)
            kinds[shown.kind] += 1
            if kinds[shown.kind] <= SHOWN:
                parts[shown.kind].write(shown.html.encode())

        summary = _summary(kinds, types.total() - types["http"], source.problem)
        about = _ABOUT.format(version=__version__, day=time.strftime("%d %B %Y", time.gmtime()))
        written: list[BinaryIO] = [BytesIO(head(name, summary, about).encode())]
        for kind, title in _TITLES.items():
            if kinds[kind]:
                written += [BytesIO(heading(title).encode()), parts[kind]]
        _write(page, [*written, BytesIO(end().encode())])
        if options.flows:
            _write(options.flows, [flows])
    if "-" not in (page, options.flows):
        print(f"{printable(page, _LONGEST_NAME)}: {summary}")
    if source.problem:
        print(f"force-stream report: {source.problem}", file=sys.stderr)
    return 1 if source.problem else 0


def _page(options: argparse.Namespace) -> str:
    """Where the page goes: a file that was not asked for by name replaces none."""
    if options.page is not None or options.source == "-":
        return options.page or "-"
    page = f"{options.source}.html"
    if Path(page).exists():
        raise Failed(f"{page} exists; -o {page} replaces it")
    return page


def _check_different(source: str, *outputs: str | None) -> None:
    # Stdin and stdout are both "-", and different.
    named = [os.path.realpath(each) for each in ("" if source == "-" else source, *outputs) if each]
    if len(set(named)) < len(named):
        raise Failed("FLOWS, the page and the masked flows must be different files")


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    """A file to read twice, as what is not a file cannot be: stdin, a pipe."""
    try:
        file = sys.stdin.buffer if source == "-" else BufferedReader(FileIO(source))
    except OSError as error:
        raise Failed(f"{printable(source, _LONGEST_NAME)}: {reason(error)}") from error
    with file:
        if source != "-" and file.seekable():
            yield file
            return
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(file, kept)
            yield kept


class _Source:
    """The states of the flows in a file, each time from its beginning. `problem`: why they end before the file does."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.problem = ""
        self._file = file

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        count = 0
        try:
            for flow in FlowReader(self._file).stream():
                yield flow.get_state()
                count += 1
        except Exception as error:  # a damaged file may lead to any
            self.problem = self._advice(count, error)

    def _advice(self, count: int, error: Exception) -> str:
        if count:
            return f"{self.name}: damaged or cut off after {counted(count, 'flow')}; the report has what comes before"
        self._file.seek(0)
        if _EVENTS.match(self._file.read(1000)):
            return f"{self.name}: an event stream, not a flow file; force-stream aggregate reads it"
        newer = f" ({error})" if "version" in str(error) else ""
        return f"{self.name}: not a flow file of this mitmproxy{newer}; mitmdump -w FLOWS writes one"


def _summary(kinds: Counter[str], others: int, problem: str) -> str:
    said = [counted(kinds.total() - kinds["unreadable"], "flow")]
    said += [f"{kinds[kind]:,} {word}" for kind, word in (("fault", "failed"), ("odd", "odd")) if kinds[kind]]
    hidden = sum(max(0, kinds[kind] - SHOWN) for kind in _TITLES)
    said += [f"{hidden:,} too many to be shown"] if hidden else []
    said += [f"{kinds['unreadable']:,} unreadable and left out"] if kinds["unreadable"] else []
    said += [f"{others:,} not HTTP and left out"] if others else []
    said += ["the file is damaged or cut off after these"] if problem else []
    return ", ".join(said)


def _write(name: str, parts: Iterable[BinaryIO]) -> None:
    """Write a file, from what was put together before: one that fails on the way replaces none."""
    try:
        with nullcontext(sys.stdout.buffer) if name == "-" else open(name, "wb") as file:
            for part in parts:
                part.seek(0)
                shutil.copyfileobj(part, file)
            file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failed(f"{printable(name, _LONGEST_NAME)}: {reason(error)}") from error
