"""The addon's own threads: few of them, and nothing else in the process waits for one."""

import asyncio
import gc
import gzip
import sys
import threading

import pytest
from force_stream.proxy import aside, bodies
from mitmproxy import http


def test_however_many_bodies_are_read_the_loops_own_threads_look_up_names() -> None:
    request = http.Request.make("POST", "http://llm.test/", gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
    all_busy, gate = threading.Event(), threading.Event()
    count, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal count, most
        with lock:
            count += 1
            most = max(most, count)
            if count == aside.MOST:
                all_busy.set()
        gate.wait(30)
        with lock:
            count -= 1

    async def play() -> None:
        reading = [asyncio.ensure_future(bodies.read(request, work)) for _ in range(100)]
        try:
            async with asyncio.timeout(10):
                await asyncio.to_thread(all_busy.wait, 10)
                assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
        finally:
            gate.set()
            await asyncio.gather(*reading)

    asyncio.run(play())
    assert most == aside.MOST


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="it has another collector, without this threshold")
def test_a_thread_does_not_look_for_old_garbage() -> None:
    before = gc.get_threshold()

    async def play() -> tuple[int, int, int]:
        return await aside.run(gc.get_threshold)

    assert asyncio.run(play())[2] > 1_000_000
    assert gc.get_threshold() == before


def test_a_thread_lets_the_event_loop_go_on_sooner_than_python_would() -> None:
    before = sys.getswitchinterval()

    async def play() -> float:
        return await aside.run(sys.getswitchinterval)

    assert asyncio.run(play()) < before / 4
    assert sys.getswitchinterval() == before


def test_without_a_loop_there_is_no_thread() -> None:
    with pytest.raises(RuntimeError):
        aside.run(lambda: None)
