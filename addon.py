"""force-stream: a mitmproxy addon that gives applications plain answers from upstreams that stream.

    mitmdump -s addon.py --listen-host 127.0.0.1 --set force_stream_hosts=llm.example.com

A shell around the package `force_stream`, which it finds beside itself. Every Python that runs some mitmproxy has to be
able to read it, to say in one sentence that it is too old: no syntax newer than Python 3.8.
"""

import importlib.util
import logging
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


# --- the package


def _register_package() -> str:
    """Make `force_stream` this file's package, without a place on the path that other modules could be found in.

    Returns what is wrong, in words; "" if nothing is.
    """
    # The first is a checkout; in a wheel, this file lies in a folder of the package.
    for folder in (HERE / "lib" / "force_stream", HERE.parent):
        if (folder / "__init__.py").is_file() and (folder / "addon").is_dir():
            spec = importlib.util.spec_from_file_location("force_stream", folder / "__init__.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules["force_stream"] = package = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(package)
            return ""
    return (
        f"{HERE / 'lib' / 'force_stream'} is missing: addon.py needs it next to itself. Keep the checkout together, or "
        "use the single file force_stream.py, which needs nothing else"
    )


# --- the shell


def _too_old() -> str:
    """What is too old, in words; "" if nothing is."""
    from mitmproxy.version import VERSION

    if sys.version_info >= (3, 12) and int(VERSION.split(".")[0]) >= 12:
        return ""
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"mitmproxy 12 and Python 3.12 or newer are needed; this is mitmproxy {VERSION} on Python {python}. Install a "
        "newer mitmproxy: https://docs.mitmproxy.org/stable/overview/installation/"
    )


def _load() -> "list[object]":
    # mitmproxy loads this file again when it changes, and this file alone: the package has to be forgotten so that
    # it is read again too.
    for name in [name for name in sys.modules if name.partition(".")[0] == "force_stream"]:
        del sys.modules[name]
    problem = _too_old() or _register_package()
    if problem:
        # At the start mitmproxy exits with this line.
        logging.getLogger("force_stream").error("force-stream: %s", problem)
        return []
    from force_stream.addon import create

    return create(HERE)


addons = _load()
