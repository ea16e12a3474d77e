"""Play every fault that the tests know, and print what the client gets as a table in Markdown.

Exit code 1 where an outcome is not the one that the tests expect. The table of faults is tests/harness/faults.py.
"""

import importlib
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

TESTS: Final = Path(__file__).resolve().parent.parent / "tests"
INTRODUCTION: Final = """\
# What the client gets when the upstream fails

Every row is played over real sockets against mitmproxy {version}, to an HTTP/1.1 client and to an HTTP/2 client; both
get the same unless the row says otherwise. `make faults` writes this file, and `tests/e2e/test_faults.py` asserts each:
the status, body and headers, what the flow shows, that the connection to the upstream is closed where it must be, and
that the next request on the client's connection works.

* *Answer*: what a waiting client gets. The code is that of the addon's error, or of the upstream's own.
* *With heartbeat*: what a client gets that has already received the first space, so that the status is always 200. A
  failure then cuts the response short (HTTP/1.1: no last chunk; HTTP/2: RST_STREAM). A failure before the first space
  has its true status.
* *Sent plain*: rows of [the other direction](plain.md), where the client asks for a stream, and its upstream for none.
  *200* is the events then. After the first comment, a failure is the API's own error event, and the response ends
  properly. A stream that is passed on live from HTTP/2 to HTTP/1.1 ends with the connection, cut off or not.
* *Without the stream layer*: on a mitmproxy whose internals the addon does not know, which it says at startup. Limits
  and heartbeats then do nothing, so their rows are not played, nor those in which the upstream leaves its answer open.
  No request is sent a second time.
  After trailers, or after an interim response over HTTP/1, mitmproxy leaves its client waiting. "No answer" means that
  the connection or the stream ends.

"""


def main() -> int:
    sys.path.insert(0, str(TESTS))
    faults: Any = importlib.import_module("harness.faults")
    certs: Any = importlib.import_module("harness").Certs
    with tempfile.TemporaryDirectory() as folder:
        table, problems = faults.matrix(certs(Path(folder)), Path(folder), lambda line: print(line, file=sys.stderr))
    print(INTRODUCTION.format(version=version("mitmproxy")) + table, end="")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
