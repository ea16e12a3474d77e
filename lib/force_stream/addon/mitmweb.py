"""Lets mitmweb's command bar, and `POST /commands/NAME`, reach the addon's commands.

Knows mitmweb's web application; must not know what a command does. mitmweb only routes command names of letters and
dots, and answers 404 for one with an underscore.
"""

from typing import Any, Final

_DONE: Final = "force_stream_commands"


def route_commands(application: Any) -> None:
    """Add the route, once, where the application is mitmweb's; mitmweb's handler decides who may ask."""
    settings = getattr(application, "settings", None)
    if not isinstance(settings, dict) or _DONE in settings:
        return
    try:
        from mitmproxy.tools.web.app import ExecuteCommand

        application.add_handlers(".*", [(r"/commands/(?P<cmd>force_stream\.[a-z.]+)", ExecuteCommand)])
    except (ImportError, AttributeError):
        return  # mitmproxy does not guarantee these names; everything else works without them
    settings[_DONE] = True
