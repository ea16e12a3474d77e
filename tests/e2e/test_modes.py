"""The modes in which a client knows its proxy, or one proxy another. Transparent ones: test_transparent.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Certs, Proxy, Upstream
from harness.paths import ADDON, SCRIPTS
from harness.scenarios import SCENARIOS, http1_post, rules_for

WAYS = (
    "socks5",
    "another proxy behind ours",
    "another proxy behind ours, which has other modes too",
    "another proxy before ours",
)
# Of the other proxies: they tunnel what they can, and do not wait for the end of an answer.
PASSING = {"ignore_hosts": ".", "stream_large_bodies": "0"}


@pytest.fixture(params=["eager", "lazy"])
def ways(
    shared_proxy: Callable[..., Proxy], shared_rules: Callable[[str], Path], request: pytest.FixtureRequest
) -> dict[str, str]:
    """Where a client connects, by what stands there."""
    strategy = {"connection_strategy": request.param}
    options = strategy | {"force_stream_rules": shared_rules(rules_for("127.0.0.1", "localhost"))}
    scripts = [ADDON, SCRIPTS / "quick_retries.py"]
    other = shared_proxy("regular", options=strategy | PASSING)
    ours = shared_proxy("socks5", "regular", f"upstream:{other.url}", scripts=scripts, options=options)
    only = shared_proxy(f"upstream:{other.url}", scripts=scripts, options=options)
    before = shared_proxy(f"upstream:{ours.urls[1]}", options=strategy | PASSING)
    places = (ours.url.replace("http:", "socks5:"), only.url, ours.urls[2], before.url)
    return dict(zip(WAYS, places, strict=True))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(("listener", "host"), [("http", "127.0.0.1"), ("https", "localhost"), ("h2", "127.0.0.1")])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_what_a_client_expects(
    ways: dict[str, str], upstream: Upstream, certs: Certs, way: str, listener: str, host: str, scenario: Callable
) -> None:
    scenario(upstream, http1_post(upstream.url(listener, host), certs, via=ways[way]))
    assert {asked.listener for asked in upstream.requests} == {listener}
