"""`python -m force_stream`: an event stream in, its JSON document out. Knows files and arguments, nothing else."""

import argparse
import sys
from pathlib import Path

from .endpoints import ENDPOINTS
from .exchange import JSON_TYPE, Exchange


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 for a document, 1 for an error in its place, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m force_stream",
        description="Read an event stream and print the one JSON document that it makes; "
        "what was odd about it goes to stderr.",
    )
    parser.add_argument("--endpoint", choices=list(ENDPOINTS), default="chat", help="which API it is (default: chat)")
    parser.add_argument("file", metavar="FILE", nargs="?", help="the event stream; default: stdin")
    options = parser.parse_args(arguments)
    try:
        body = Path(options.file).read_bytes() if options.file else sys.stdin.buffer.read()
    except OSError as error:
        print(f"{options.file}: {error.strerror}", file=sys.stderr)
        return 2
    # A body has no label here that could be wrong.
    answer = Exchange(rule="(command line)", endpoint=options.endpoint).read(content_type=JSON_TYPE)
    answer.feed(body)
    reply = answer.finish()
    for note in answer.report.odd:
        print(note, file=sys.stderr)
    if answer.report.inferred:
        print("the finish reason is inferred: the upstream sent none", file=sys.stderr)
    sys.stdout.buffer.write((reply.body if reply else body).rstrip(b"\n") + b"\n")
    if reply and reply.status >= 400:
        print(f"an error: the client would get status {reply.status}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
