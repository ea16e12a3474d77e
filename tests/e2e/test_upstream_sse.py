"""The content view of flows that a real proxy saw: read from a file, and after a reload of the addon."""

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from force_stream.view import contentview
from harness import Data, End, Head, Http1Client, Proxy, event_stream, read_flows
from harness.paths import ADDON
from harness.samples import CHAT, DOCUMENT, RULES, STREAM, request
from harness.upstream import Upstream
from mitmproxy import http
from mitmproxy.contentviews import Metadata

NAME = "upstream sse"


def shown(flow: http.HTTPFlow) -> str:
    assert flow.response is not None
    metadata = Metadata(flow=flow, http_message=flow.response)
    return contentview.view.prettify(flow.response.content or b"", metadata)


def test_a_flow_read_from_a_file_has_its_events_and_their_times(
    upstream: Upstream, proxy_factory: Callable[..., Proxy], tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    proxy = proxy_factory(
        f"reverse:{upstream.url()}",
        scripts=[ADDON],
        options={"force_stream_rules": rules},
        flow_file=tmp_path / "flows.mitm",
    )
    with Http1Client(proxy.url) as client:
        upstream.answer(event_stream(STREAM, size=10))
        assert client.post(CHAT, request()).json() == DOCUMENT
        upstream.answer(event_stream(STREAM, size=10))
        assert client.post(CHAT, request(stream=True)).body == STREAM
    proxy.stop()
    forced, own = read_flows(proxy.flow_file)
    for flow in (forced, own):
        lines = shown(flow).splitlines()
        rows = [line.split(maxsplit=4) for line in lines[lines.index("Nothing odd.") + 3 :]]
        assert [row[0] for row in rows[:5]] == ["1", "2", "3", "4", "5"]
        arrivals = [float(row[1]) for row in rows[:5]]
        assert arrivals == sorted(arrivals)
        assert arrivals[0] > 0
        assert rows[1][3:] == ["chunk", 'content +"Hel"']
        assert any(line.startswith("first content") and line.endswith(" s") for line in lines)


def test_a_compressed_stream_has_its_events_and_their_times(
    upstream: Upstream, proxy_factory: Callable[..., Proxy], tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    proxy = proxy_factory(
        f"reverse:{upstream.url()}",
        scripts=[ADDON],
        options={"force_stream_rules": rules},
        flow_file=tmp_path / "flows.mitm",
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    events = [event + b"\n\n" for event in STREAM.split(b"\n\n")[:-1]]
    packed = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events]
    packed[-1] += packer.flush()
    with Http1Client(proxy.url) as client:
        for asks in (False, True):
            upstream.answer(Head(headers={"Content-Encoding": "gzip"}), *map(Data, packed), End())
            assert client.post(CHAT, request(stream=asks)).status == 200
    proxy.stop()
    for flow in read_flows(proxy.flow_file):
        lines = shown(flow).splitlines()
        rows = [line.split(maxsplit=4) for line in lines[lines.index("Nothing odd.") + 3 :]]
        arrivals = [float(row[1]) for row in rows[:5]]
        assert arrivals == sorted(arrivals)
        assert rows[1][3:] == ["chunk", 'content +"Hel"']


def test_a_reload_of_the_addon_replaces_the_view(
    upstream: Upstream, proxy_factory: Callable[..., Proxy], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ADDON.parent / "lib", copy / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    copied = Path(shutil.copy(ADDON, copy))
    (copy / "rules.yaml").write_text(RULES)
    upstream.answer_always(event_stream(STREAM))
    options = {"flow_detail": 4, "dumper_default_contentview": NAME}
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[copied], options=options)
    with Http1Client(proxy.url) as client:
        client.post(CHAT, request())
        proxy.wait_for_log(r"Nothing odd\.")
        text = copy / "lib" / "force_stream" / "view" / "timeline_text.py"
        text.write_text(text.read_text(encoding="utf-8").replace("Nothing odd.", "As edited."), encoding="utf-8")
        since = proxy.mark()
        later = copied.stat().st_mtime_ns + 2_000_000_000
        os.utime(copied, ns=(later, later))
        proxy.wait_for_log(r"\d rules? from ", since=since)
        client.post(CHAT, request())
        proxy.wait_for_log(r"As edited\.", since=since)
    assert "Replacing existing" not in proxy.log
    assert "Traceback" not in proxy.log
