"""A mitmproxy script that sets options after config.yaml was read, since that file overrides `--set`.

It has a folder of its own, because mitmproxy puts a script's folder on the path.
"""

import json
import os

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader

VARIABLE = "FORCE_STREAM_OPTIONS"


def load(_: Loader) -> None:
    # Deferred: some options belong to scripts that are loaded later.
    ctx.options.update_defer(  # type: ignore[no-untyped-call]
        **json.loads(os.environ[VARIABLE])
    )
