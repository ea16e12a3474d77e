"""Where the parts of a checkout are."""

import os
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent.parent
ROOT: Final = TESTS.parent
ADDON: Final = ROOT / "addon.py"
GOLDEN: Final = TESTS / "golden"
# Addons that a test loads beside ours.
SCRIPTS: Final = TESTS / "harness" / "scripts"


def picture_file(name: str) -> Path | None:
    """Where a picture is saved: in the folder that FORCE_STREAM_SCREENSHOTS names; None if that is not set."""
    folder = os.environ.get("FORCE_STREAM_SCREENSHOTS")
    return ROOT / folder / name if folder else None
