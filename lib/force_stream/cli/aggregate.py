"""`force-stream aggregate` and `python -m force_stream`: event streams in, their JSON documents out."""

import argparse
import sys
from pathlib import Path
from typing import Final

from ..answer.reader import AnswerSpec
from ..answer.report import Reply
from ..endpoints import ENDPOINTS
from ..wire import jsontext
from ..wire.text import printable
from .exits import reason

_LONGEST_NAME: Final = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", choices=list(ENDPOINTS), default="chat", help="which API it is (default: chat)")
    parser.add_argument("files", metavar="FILE", nargs="*", help="event streams; default: stdin")


def run(options: argparse.Namespace) -> int:
    """Print the document of each file, and on stderr what was odd about it. The exit code: 0 for documents, 1 if one of
    them is an error, 2 for a file that cannot be read."""
    return max([_aggregate(name, options.endpoint, named=len(options.files) > 1) for name in options.files or ["-"]])


def _aggregate(name: str, endpoint: str, *, named: bool) -> int:
    shown = printable(name, _LONGEST_NAME)
    try:
        body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        print(f"{shown}: {reason(error)}", file=sys.stderr)
        return 2
    answer = AnswerSpec(rule="(command line)", endpoint=endpoint).read(content_type=None)
    answer.feed(body)
    reply = answer.finish() or Reply(200, body)
    notes = list(answer.report.odd)
    if reply.status >= 400:
        notes.append(f"an error: the client would get status {reply.status}")
    for note in notes:
        print(f"{shown}: {note}" if named else note, file=sys.stderr)
    sys.stdout.buffer.write(jsontext.printable(reply.body.rstrip(b"\n")) + b"\n")
    sys.stdout.flush()
    return 1 if reply.status >= 400 else 0
