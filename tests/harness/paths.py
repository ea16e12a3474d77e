"""Where the parts of a checkout are."""

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent.parent
ROOT: Final = TESTS.parent
ADDON: Final = ROOT / "addon.py"
GOLDEN: Final = TESTS / "golden"
# Addons that a test loads beside ours.
SCRIPTS: Final = TESTS / "harness" / "scripts"
