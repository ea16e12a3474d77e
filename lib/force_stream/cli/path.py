"""`force-stream path`: where the addon's script is. Knows the two places: in a wheel, and in a checkout."""

import argparse
from pathlib import Path


def run(_: argparse.Namespace) -> int:
    print(script())
    return 0


def script() -> Path:
    """The path of addon.py, for mitmproxy's `-s`."""
    package = Path(__file__).resolve().parent.parent
    # In a wheel it has a separate folder, because mitmproxy puts a script's folder on the path.
    packaged = package / "script" / "addon.py"
    return packaged if packaged.is_file() else package.parent.parent / "addon.py"
