"""The addon as mitmproxy sees it: objects with options, commands and hooks."""

from pathlib import Path

from ..page.server import Serving
from .certificates import Certificates
from .commands import Commands
from .hooks import ForceStream


def create(folder: Path) -> list[object]:
    """The addon objects. The page comes before what forces: rules do not apply to its requests. `folder`: where the
    script lies, and with it the default rules."""
    ours = ForceStream(folder / "rules.yaml")
    return [Certificates(lambda: ours.rules), Serving(ours), ours, Commands(ours)]
