"""The command `force-stream`: its subcommands, their arguments and their help.

Each subcommand is the function `run` of the module with its name, which is imported when it is called, so that reading
event streams needs no mitmproxy.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name

from .. import __version__
from .aggregate import add_arguments
from .exits import Command, exit_code
from .mitmproxy_tools import PROGRAMS

_EPILOG = """\
exit codes:
  0    done
  1    it failed, and said why
  2    wrong arguments
  run ends with its command's exit code (128 + N if signal N ended it), or with
  125  if the proxy failed, 126 if the command cannot be run, 127 if it was not found
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    end = words.index("--") if "--" in words else len(words)
    parser = _parser()
    options = parser.parse_args(words[:end])
    if end < len(words) and not options.takes_more:
        parser.error(f"{options.command} takes nothing after --")
    if getattr(options, "misplaced", None):
        parser.error("put -- before the command, as in force-stream run -- python app.py")
    options.more = words[end + 1 :]
    name = f"force-stream {options.command}"
    try:
        run: Command = resolve_name(f"{__name__}.{options.command}:run")
    except ModuleNotFoundError as error:
        advice = "; pip install mitmproxy" if error.name == "mitmproxy" else ""
        parser.exit(1, f"{name}: {error.name} is not installed{advice}\n")
    return exit_code(run, options, name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="force-stream",
        description="Plain answers for applications, from OpenAI-compatible upstreams that stream.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, example: str, takes_more: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            usage=f"force-stream {name} [OPTIONS] {takes_more}" if takes_more else None,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(takes_more=takes_more)
        return made

    proxy = add(
        "proxy",
        "put a reverse proxy in front of one upstream and force everything that goes there",
        "force-stream proxy https://llm.example.com --ui web -- --set stickycookie=.",
        "URL [-- MITMPROXY OPTIONS …]",
    )
    proxy.add_argument("url", metavar="URL", help="the upstream, such as https://llm.example.com")
    proxy.add_argument("--port", type=_port, default=8080, help="where to listen on 127.0.0.1 (default: 8080)")

    run = add(
        "run",
        "run a command whose requests to the named hosts are forced; all other traffic is tunneled untouched",
        "force-stream run --host llm.example.com -- python app.py",
        "-- COMMAND …",
    )
    run.add_argument("--host", metavar="NAME", action="append", default=[], help="a host to force; may be repeated")
    run.add_argument(
        "--set", metavar="OPTION=VALUE", action="append", default=[], help="a mitmproxy option; may be repeated"
    )
    run.add_argument(
        "--chromium",
        action="store_true",
        help="COMMAND is Chromium, Chrome or an Electron application: add the arguments that it needs",
    )
    run.add_argument("misplaced", nargs="*", help=argparse.SUPPRESS)
    for started in (proxy, run):
        started.add_argument("--rules", metavar="FILE", help="a rules file (default: none)")
        started.add_argument(
            "--ui", choices=PROGRAMS, default="dump", help="which of mitmproxy's tools (default: dump)"
        )

    add_arguments(add("aggregate", "turn event streams into JSON documents", "curl -sN … | force-stream aggregate"))
    check = add("check", "list all mistakes in a rules file, or say what its rules do", "force-stream check rules.yaml")
    check.add_argument("file", metavar="FILE", nargs="?", default="rules.yaml", help="default: rules.yaml")
    report = add(
        "report",
        "turn a flow file into a page to send to others: credentials masked, failures first",
        "force-stream report flows -o report.html",
    )
    report.add_argument("source", metavar="FLOWS", help="a flow file, as mitmproxy's -w writes it; -: stdin")
    report.add_argument(
        "-o", metavar="FILE.html", dest="page", help="the page, replaced if it exists; -: stdout (default: FLOWS.html)"
    )
    report.add_argument("--flows", metavar="FILE", help="also write the flows, masked the same way; -: stdout")
    add("path", "print the path of the addon's script, for mitmproxy's -s", 'mitmdump -s "$(force-stream path)"')
    install = add(
        "install", "make every mitmproxy load the addon, through its config.yaml", "force-stream install --remove"
    )
    install.add_argument("--remove", action="store_true", help="undo that")
    install.add_argument("--confdir", metavar="FOLDER", default="~/.mitmproxy", help="default: ~/.mitmproxy")
    return parser


def _versions() -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    try:
        mitmproxy = version("mitmproxy")
    except PackageNotFoundError:
        mitmproxy = "not installed"
    return f"force-stream {__version__} (mitmproxy {mitmproxy}, Python {python})"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"not a port: {text!r}")
    return int(text)
