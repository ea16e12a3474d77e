"""`force-stream aggregate` and `python -m force_stream`: event streams in, their JSON documents out."""

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Final

from ..answer.events import EventReader
from ..answer.quirks import QUIRKS
from ..answer.reader import AnswerSpec
from ..answer.report import Reply, Report
from ..endpoints import ENDPOINTS, api_of
from ..errors import MalformedStream
from ..view import timeline, timeline_text
from ..wire import encodings, jsontext
from ..wire.text import printable, reason
from .exits import Failed

_LONGEST_NAME: Final = 1000
# What other files begin with that people have of an answer. A flow is a netstring that holds netstrings.
_FLOWS: Final = re.compile(rb"\d{1,12}:\d{1,12}:")
_HAR: Final = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"log"\s*:\s*\{')
_GZIP: Final = b"\x1f\x8b\x08"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MOST_DECODED: Final = 1024**3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", choices=list(ENDPOINTS), default="chat", help="which API it is (default: chat)")
    parser.add_argument(
        "--on-truncated",
        choices=("error", "partial"),
        default="error",
        help="what to make of a stream that stops before its end: an error, or a document of what arrived "
        "(default: error)",
    )
    parser.add_argument(
        "--quirks", type=_quirks, default=(), metavar="A,B", help=f"deviations to allow for: {', '.join(QUIRKS)}"
    )
    parser.add_argument("--pretty", action="store_true", help="indent the documents")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each stream's timeline on stderr")
    parser.add_argument("files", metavar="FILE", nargs="*", help="event streams; - and the default: stdin")


def _quirks(names: str) -> tuple[str, ...]:
    chosen = tuple(filter(None, (name.strip() for name in names.split(","))))
    for name in chosen:
        if name not in QUIRKS:
            raise argparse.ArgumentTypeError(f"unknown quirk {printable(name)!r}; known are {', '.join(QUIRKS)}")
    return chosen


def run(options: argparse.Namespace) -> int:
    """Print the document of each file, and on stderr what was odd about it. The exit code: 0 for documents, 1 if one of
    them is an error, 2 for a file that cannot be read."""
    return max([_aggregate(name, options) for name in options.files or ["-"]])


def _aggregate(name: str, options: argparse.Namespace) -> int:
    shown = printable(name, _LONGEST_NAME)
    try:
        body = _read(name)
    except (OSError, Failed) as error:
        print(f"{shown}: {reason(error)}", file=sys.stderr)
        return 2
    spec = AnswerSpec(
        rule="(command line)", endpoint=options.endpoint, on_truncated=options.on_truncated, quirks=options.quirks
    )
    answer = spec.read(content_type=None)
    answer.feed(body)
    reply = answer.finish() or Reply(200, body)
    failed = reply.status >= 400
    report = answer.report
    # The cause first, unless it is just what is odd.
    notes = [report.cause] if report.cause and not report.cause.startswith("odd: ") else []
    notes += _advice(body, report, options.endpoint)
    notes += [] if options.verbose else report.odd
    notes += [f"an error: the client would get status {reply.status}"] if failed else []
    for note in notes:
        print(f"{shown}: {note}" if len(options.files) > 1 else note, file=sys.stderr)
    if options.verbose:
        print(_timeline(body, report, options.endpoint), file=sys.stderr)
    document = jsontext.printable(reply.body.rstrip(b"\n"))
    sys.stdout.buffer.write((jsontext.indented(document) if options.pretty else document) + b"\n")
    sys.stdout.flush()
    return 1 if failed else 0


def _read(name: str) -> bytes:
    """A file's event stream. Raises Failed for a file that is something else, with what to do with it."""
    body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    if body.startswith(_GZIP):
        body = _gunzipped(body)
    if body.startswith(_ZSTD):
        raise Failed("it is compressed with zstd; decompress it first, or have curl do so with --compressed")
    if _FLOWS.match(body) or _HAR.match(body):
        kind = "HAR" if _HAR.match(body) else "mitmproxy flow"
        file = shlex.quote(name) if name != "-" else "FILE"
        raise Failed(
            f'this is a {kind} file; use mitmdump -n -r {file} -s "$(force-stream path)" --set '
            f"force_stream_aggregate=true, or force-stream report {file}"
        )
    return body


def _gunzipped(body: bytes) -> bytes:
    """As much as can be read of a file that may be cut off."""
    try:
        decoded = encodings.decode(body, "gzip", _MOST_DECODED)
    except encodings.TooLarge:
        raise Failed(f"it decompresses to more than {_MOST_DECODED >> 30} GiB") from None
    if not decoded:
        raise Failed("it is compressed with gzip, but broken or empty")
    return decoded


def _advice(body: bytes, report: Report, endpoint: str) -> list[str]:
    """What to try with events that were not those of the endpoint."""
    if report.code != MalformedStream.code:
        return []
    found = (api_of(event.value, event.name) for event in EventReader().feed(body) if isinstance(event.value, dict))
    api = next(filter(None, found), endpoint)
    if api == endpoint or api not in ENDPOINTS:
        return []  # one of no endpoint here is named in the error itself
    return [f"these are events of the {api.capitalize()} API: add --endpoint {api}"]


def _timeline(body: bytes, report: Report, endpoint: str) -> str:
    about = timeline_text.About(
        endpoint=endpoint,
        status=f"{report.status}",
        finish_reason=report.finish_reason + (" (inferred)" if report.inferred else ""),
        truncated=report.truncated,
        error=report.code,
        odd=report.odd,
    )
    return timeline_text.text(timeline.read(body, endpoint=endpoint), about)
