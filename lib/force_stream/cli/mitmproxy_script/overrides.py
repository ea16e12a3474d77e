"""A mitmproxy script that sets options once config.yaml has been read: what stands there wins over `--set`.

It has a folder of its own, since mitmproxy puts that folder on the path.
"""

import json
import os

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader

VARIABLE = "FORCE_STREAM_OPTIONS"


def load(_: Loader) -> None:
    # Options of scripts that are loaded later are kept for them.
    ctx.options.update_defer(  # type: ignore[no-untyped-call]
        **json.loads(os.environ[VARIABLE])
    )
