"""The addon's mitmproxy options, and the warnings about mistyped or conflicting ones."""

import logging
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.options import Options

from ..rules.rule import HOSTS_OPTION

logger = logging.getLogger("force_stream")

# The modes in which mitmproxy connects to a TCP upstream before it has the request, unless told to be lazy, and what it
# does if that fails. (Not in upstream mode: there it connects to the upstream proxy, later.)
_CONNECTS_FIRST: Final = re.compile(
    r"(regular|socks5|transparent|local|wireguard|tun|reverse(?!:(?:http3|quic|dtls|udp|dns):))\b", re.IGNORECASE
)
_CLOSES: Final = "closes the client's connection without an answer"
_IF_UNREACHABLE: Final = {
    "regular": "refuses the tunnel of an https client",
    "socks5": "refuses the client's connection",
}


def add_options(loader: Loader, default_rules: Path) -> None:
    """Declare them, and set those that were given. `default_rules`: the rules file where the option names no other."""
    loader.add_option(
        "force_stream", bool, True, "Force upstream streaming according to the rules; off: no flow is touched."
    )
    loader.add_option(
        "force_stream_rules",
        str,
        str(default_rules),
        "The file with the rules for forced upstream streaming; empty: none.",
    )
    loader.add_option(
        HOSTS_OPTION,
        Sequence[str],
        [],
        "Hosts whose requests are forced without a rules file, as in a rule's hosts; tried after the file's rules.",
    )
    loader.add_option(
        "force_stream_view_first",
        bool,
        False,
        "Show the content view Upstream SSE first, in place of JSON, for flows that are marked.",
    )
    loader.add_option(
        "force_stream_aggregate",
        bool,
        False,
        "When flows are read from a file, aggregate their event streams again with the current rules.",
    )
    try:
        loader.master.options.process_deferred()
    except exceptions.OptionsError as error:
        # mitmproxy itself would leave the addon out without a word. With an error in its log, it exits at the start.
        # Older versions do not say which option it is.
        said = f"{error}"
        logger.error(said if "force_stream" in said else f"an option force_stream… cannot be set: {said}")


def unknown_options(options: Options) -> list[str]:
    """A line for each option that somebody set whose name begins like ours but does not exist, with the nearest that
    does."""
    ours = [name for name, _ in options.items() if name.startswith("force_stream")]
    # mitmproxy keeps unknown options for scripts that are loaded later, and never reports them.
    unknown = [name for name in getattr(options, "deferred", {}) if name.replace("-", "_").startswith("force_stream")]
    return [
        f"there is no option {name!r}" + "".join(f"; did you mean {near}?" for near in get_close_matches(name, ours, 1))
        for name in unknown
    ]


def eager_warning(options: Options) -> str:
    """The warning about a connection_strategy that hides an upstream's failure from the client; "" for any other."""
    modes = {found[1].lower(): None for mode in options.mode if (found := _CONNECTS_FIRST.match(mode))}
    if options.connection_strategy != "eager" or not modes or not getattr(options, "server", True):
        return ""
    what = " and ".join(f"{_IF_UNREACHABLE.get(mode, _CLOSES)} in {mode} mode" for mode in modes)
    return (
        f"When an upstream cannot be reached, mitmproxy {what}, because of connection_strategy=eager: no JSON error, "
        "no retries, no heartbeat. --set connection_strategy=lazy gives a clear 502."
    )
