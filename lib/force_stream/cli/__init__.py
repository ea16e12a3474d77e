"""The command `force-stream`: its subcommands, their help and their exit codes.

Knows arguments; what a subcommand does is its own module's, which is imported when it is called, so that reading event
streams needs no mitmproxy.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from .. import __version__
from . import aggregate

type Command = Callable[[argparse.Namespace], int]

_UIS = ("dump", "web", "console")
_EPILOG = """\
exit codes:
  0    done
  1    it failed, and said why
  2    wrong arguments
  run ends with its command's exit code (128 + N where signal N ended it), or with
  125  if the proxy failed, 126 if the command cannot be run, 127 if it was not found
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    ours, theirs = _split(sys.argv[1:] if arguments is None else list(arguments))
    parser = _parser()
    options = parser.parse_args(ours)
    if theirs is not None and options.takes_more is None:
        parser.error(f"{options.command} takes nothing after --")
    if getattr(options, "misplaced", None):
        parser.error("put -- before the command, as in force-stream run -- python app.py")
    options.more = theirs or []
    try:
        run: Command = options.run
        return run(options)
    except KeyboardInterrupt:
        return 130


def _split(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """What comes before the first `--`, and what comes after it; None if there is no `--`."""
    if "--" not in arguments:
        return arguments, None
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="force-stream",
        description="Plain answers for applications, from OpenAI-compatible upstreams that stream.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, example: str, run: Command, takes_more: str | None = None) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run, takes_more=takes_more)
        if takes_more:
            made.usage = f"force-stream {name} [OPTIONS] {takes_more}"
        return made

    proxy = add(
        "proxy",
        "put a reverse proxy in front of one upstream and force everything that goes there",
        "force-stream proxy https://llm.example.com --ui web -- --set stickycookie=.",
        _proxy,
        "URL [-- MITMPROXY OPTIONS …]",
    )
    proxy.add_argument("url", metavar="URL", help="the upstream, such as https://llm.example.com")
    proxy.add_argument("--port", type=_port, default=8080, help="where to listen on 127.0.0.1 (default: 8080)")

    run = add(
        "run",
        "run a command whose requests to the named hosts are forced; all other traffic is tunneled untouched",
        "force-stream run --host llm.example.com -- python app.py",
        _run,
        "-- COMMAND …",
    )
    run.add_argument("--host", metavar="NAME", action="append", default=[], help="a host to force; may be repeated")
    run.add_argument(
        "--set",
        metavar="OPTION=VALUE",
        action="append",
        default=[],
        help="an option of mitmproxy, as with mitmdump; may be repeated",
    )
    run.add_argument("misplaced", nargs="*", help=argparse.SUPPRESS)
    for started in (proxy, run):
        started.add_argument("--rules", metavar="FILE", help="a rules file (default: none)")
        started.add_argument("--ui", choices=_UIS, default="dump", help="which of mitmproxy's tools (default: dump)")

    reading = add(
        "aggregate",
        "read event streams and print the JSON document that each one makes",
        "curl -sN … | force-stream aggregate --endpoint responses",
        aggregate.run,
    )
    aggregate.add_arguments(reading)

    check = add(
        "check",
        "list every mistake in a rules file; if there is none, say what each rule will do",
        "force-stream check my-rules.yaml",
        _check,
    )
    check.add_argument("file", metavar="FILE", nargs="?", default="rules.yaml", help="default: rules.yaml")

    add(
        "path",
        "print where the addon's script is, for mitmproxy's -s",
        'mitmdump -s "$(force-stream path)" --set force_stream_hosts=llm.example.com',
        _path,
    )

    install = add(
        "install",
        "load the addon in every mitmproxy, through its config.yaml",
        "force-stream install --remove",
        _install,
    )
    install.add_argument("--remove", action="store_true", help="take it out again")
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


def _proxy(options: argparse.Namespace) -> int:
    from .proxy import proxy

    return proxy(options.url, options.port, options.ui, options.rules, options.more)


def _run(options: argparse.Namespace) -> int:
    from .run import run

    return run(options.more, options.host, options.ui, options.rules, options.set)


def _check(options: argparse.Namespace) -> int:
    from .check import check

    return check(options.file)


def _path(_: argparse.Namespace) -> int:
    from .script import script

    print(script())
    return 0


def _install(options: argparse.Namespace) -> int:
    from .install import install, remove

    return (remove if options.remove else install)(options.confdir)
