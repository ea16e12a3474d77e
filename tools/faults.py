"""Play every fault that the tests know, and print what the client gets as a table in Markdown.

Exit code 1 where an outcome is not the one that the tests expect. The table of faults is tests/faults.py.
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

Every row is played over real sockets against mitmproxy {version}, to a client of HTTP/1.1 and to one of HTTP/2; both
get the same unless the row says otherwise. `make faults` writes this file anew, and `tests/test_faults.py` asserts each
row: status, body, headers, what the flow shows, that the upstream's connection is closed where it has to be, and that
the next request on the client's connection works.

* *Answer*: to a client that waits. A code is that of the error the addon makes, or of the upstream's own.
* *With heartbeat*: to a client that has seen the first space, so that the status is 200 whatever comes. A failure then
  ends the connection short (HTTP/1.1: no last chunk; HTTP/2: RST_STREAM). What fails before the first space has its
  true status.
* *Without the stream layer*: on a mitmproxy that the addon does not know below its hooks. It says so at the start;
  limits and heartbeats do nothing then, so their rows are not tried, nor those of an upstream that leaves its answer
  open. After trailers or an interim response over HTTP/1 mitmproxy leaves its client waiting. "No answer" is a
  connection or a stream that ends.

"""


def main() -> int:
    sys.path.insert(0, str(TESTS))
    faults: Any = importlib.import_module("faults")
    certs: Any = importlib.import_module("harness").Certs
    with tempfile.TemporaryDirectory() as folder:
        table, problems = faults.matrix(certs(Path(folder)), Path(folder), lambda line: print(line, file=sys.stderr))
    print(INTRODUCTION.format(version=version("mitmproxy")) + table, end="")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
