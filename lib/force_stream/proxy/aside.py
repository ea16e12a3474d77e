"""Threads of the addon's own, for work that takes long: reading and writing large bodies.

The event loop's own look up host names and read files: if they were all busy with bodies, nobody could reach another
upstream. These are few, because Python runs one at a time: each further one is another that the event loop has to wait
for, and another body in memory.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ..wire.long_json import gently

MOST: Final = 2
_THREADS: Final = ThreadPoolExecutor(MOST, "force_stream")


def run[T](work: Callable[[], T]) -> asyncio.Future[T]:
    """Have a thread do some work, as soon as one is free. Raises RuntimeError if no event loop is running."""
    return asyncio.get_running_loop().run_in_executor(_THREADS, gently()(work))
