"""The addon as mitmproxy sees it: objects with options, commands and hooks."""

import asyncio
from pathlib import Path

from mitmproxy import ctx

from ..page.board import LiveBoard
from ..page.server import Serving
from .commands import Commands
from .hooks import ForceStream


def create(folder: Path) -> list[object]:
    """The addon objects, in their order. `folder`: where the script lies, and with it the default rules."""
    ours = ForceStream(folder / "rules.yaml")
    page = Serving(lambda: LiveBoard(ours, asyncio.get_running_loop(), lambda: bool(ctx.options.force_stream)))
    return [ours, Commands(ours), page]
