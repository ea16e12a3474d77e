"""A mitmproxy script for benchmarks: how long the event loop was held.

SIGUSR1 begins a measurement, SIGUSR2 ends it and writes the longest time, in seconds, to the file that the
environment's LOOP_TICKER_FILE names. In between a timer of 1 ms looks at the clock: as long as it comes late, something
held the loop.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

TICK = 0.001


class LoopTicker:
    def __init__(self) -> None:
        self._longest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def running(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._begin)
        loop.add_signal_handler(signal.SIGUSR2, self._end)

    def done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._longest = 0.0
        self._wait()

    def _wait(self) -> None:
        self._at, self._used = time.perf_counter(), time.process_time()
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        late = time.perf_counter() - self._at - TICK
        # Of the time in which it was late, only what this process worked: another one may have had the core.
        self._longest = max(self._longest, min(late, time.process_time() - self._used))
        self._wait()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        file = Path(os.environ["LOOP_TICKER_FILE"])
        file.with_suffix(".new").write_text(f"{self._longest}")
        file.with_suffix(".new").replace(file)


addons = [LoopTicker()]
