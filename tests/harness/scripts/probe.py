"""A mitmproxy script with two commands: what happens between `probe.start` and `probe.stop`, measured in the process.

`probe.stop` returns two numbers: for how many seconds the event loop was held at the longest, and how many bytes the
process grew at its peak. A timer of 1 ms looks at the clock: as long as it comes late, something held the loop.
"""

import asyncio
import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mitmproxy import command

TICK: Final = 0.001
STATUS: Final = Path("/proc/self/status")
RESET_PEAK: Final = Path("/proc/self/clear_refs"), "5"


class Probe:
    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._longest = 0.0
        self._memory = 0

    @command.command("probe.start")
    def start(self) -> None:
        gc.collect()
        file, words = RESET_PEAK
        file.write_text(words)
        self._longest, self._memory = 0.0, memory("VmRSS")
        self._wait()

    @command.command("probe.stop")
    def stop(self) -> Sequence[str]:
        self._look()
        self.done()
        return [f"{self._longest}", f"{memory('VmHWM') - self._memory}"]

    def done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._at, self._used = time.perf_counter(), time.process_time()
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._look()
        self._wait()

    def _look(self) -> None:
        late = time.perf_counter() - self._at - TICK
        # Of the time in which it was late, only what this process worked: another one may have had the core.
        self._longest = max(self._longest, min(late, time.process_time() - self._used))


def memory(name: str) -> int:
    """Bytes, by the kernel's name for them (proc(5))."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


addons = [Probe()]
