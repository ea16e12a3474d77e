"""Fixtures that several test files share; what they are made of is in `harness`."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import pytest
from force_stream.addon.hooks import ForceStream
from harness import Certs, Proxy, Upstream
from harness.browser import Browser
from harness.browser import browse as browse_with
from harness.master import Scenario, run_with
from harness.samples import RULES
from hypothesis import HealthCheck, settings
from mitmproxy.test import taddons

RECORDINGS_VARIABLE = "FORCE_STREAM_RECORDINGS"

# Signals, terminals, shells, HAProxy and systemd: what these are about is not there on Windows.
collect_ignore = [
    "e2e/test_console.py",
    *(f"project/test_{name}.py" for name in ("demo", "deploy", "image", "makefile")),
]
if sys.platform != "win32":
    collect_ignore.clear()

# No law depends on the speed of the machine. HYPOTHESIS_PROFILE=thorough looks further, and so does `make fuzz`.
settings.register_profile("quick", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=15)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True)
def leaks_are_its_own() -> Iterator[None]:
    """What a test has left open fails that test, and not one in whose time the garbage collector happens to run.

    What is alive then is set aside for good, which makes the next collection a matter of 0.1 ms.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="session")
def session_upstream(certs: Certs) -> Iterator[Upstream]:
    """The upstream without its reset: for the modes of a shared proxy, not for scripting."""
    with Upstream(certs) as upstream:
        yield upstream


@pytest.fixture
def upstream(session_upstream: Upstream) -> Iterator[Upstream]:
    """The scripted upstream, with an empty script and record."""
    session_upstream.reset()
    yield session_upstream
    errors = session_upstream.errors
    session_upstream.reset()
    assert not errors, "\n".join(errors)


@pytest.fixture
def proxy_factory(certs: Certs) -> Iterator[Callable[..., Proxy]]:
    """`proxy_factory(*modes, **arguments of Proxy)`: a started mitmdump that ends with the test."""
    with ExitStack() as proxies:
        yield lambda *modes, **arguments: proxies.enter_context(Proxy(*modes, certs=certs, **arguments))


@pytest.fixture(scope="session")
def shared_proxy(certs: Certs) -> Iterator[Callable[..., Proxy]]:
    """The same, but tests that ask for the same arguments get the same process, and it lives for the whole session.

    Only for tests that leave the process as they found it; one that has ended in between is started anew.
    """
    with ExitStack() as proxies:
        running: dict[str, Proxy] = {}

        def get(*modes: str, **arguments: object) -> Proxy:
            key = repr((modes, sorted(arguments.items())))
            if key not in running or not running[key].is_running:
                running[key] = proxies.enter_context(Proxy(*modes, certs=certs, **arguments))
            return running[key]

        yield get


@pytest.fixture(scope="session")
def shared_rules(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`shared_rules(text)`: a rules file for shared proxies, which lives as long; the same text gives the same file."""
    files: dict[str, Path] = {}

    def get(text: str) -> Path:
        if text not in files:
            files[text] = tmp_path_factory.mktemp("rules") / "rules.yaml"
            files[text].write_text(text)
        return files[text]

    return get


@pytest.fixture
def rules_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The rules of the module, else those of harness.samples, in a file of the test's own."""
    path = tmp_path / "rules.yaml"
    path.write_text(getattr(request.module, "RULES", RULES))
    return path


@pytest.fixture
def run(rules_file: Path, caplog: pytest.LogCaptureFixture) -> Callable[[Scenario], None]:
    """`run(test)`: call a coroutine function with the addon, those rules read, and its context (harness.master)."""
    caplog.set_level(logging.DEBUG, "force_stream")

    async def with_a_clear_log(test: Scenario, ours: ForceStream, context: taddons.context) -> None:
        caplog.clear()
        await test(ours, context)

    return lambda test: run_with(rules_file, partial(with_a_clear_log, test))


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., AbstractContextManager[Browser]]:
    """`with browse(proxy, arguments)`: a browser, that goes through a proxy if one is given."""
    return partial(browse_with, tmp_path / "profile")


@pytest.fixture(scope="session")
def streams_dir() -> Path:
    """The folder of recorded streams (index.jsonl, events/, answers/); skips where there is none."""
    value = os.environ.get(RECORDINGS_VARIABLE)
    if not value:
        pytest.skip(f"{RECORDINGS_VARIABLE} does not name a folder of recorded streams")
    folder = Path(value)
    assert (folder / "index.jsonl").is_file(), f"{RECORDINGS_VARIABLE}={value} has no index.jsonl"
    return folder
