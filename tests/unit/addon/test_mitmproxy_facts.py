"""Facts of mitmproxy: when one of these fails, the code that builds on it needs another look."""

import asyncio
import inspect
import io
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from force_stream.addon import certificates
from force_stream.proxy import response as responses
from harness import Certs, Http1Client, Proxy, document, refused_port
from harness.paths import SCRIPTS
from harness.record import TIMEOUT
from harness.upstream import Upstream
from mitmproxy import addons as default_addons
from mitmproxy import options
from mitmproxy.addons import dumper, next_layer, save, script
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers import tls
from mitmproxy.test import tflow
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.utils import emoji


@pytest.mark.parametrize("value", [b"\x00\xff", "ä", 1, 1.5, True, None, [1, [b"x"]], {"a": 1}])
def test_fact_metadata_of_plain_values_travels_in_flow_files(value: object) -> None:
    flow = tflow.tflow()
    flow.metadata["force_stream.x"] = value
    file = io.BytesIO()
    FlowWriter(file).add(flow)
    file.seek(0)
    (loaded,) = FlowReader(file).stream()
    assert loaded.metadata == {"force_stream.x": value}


def test_fact_metadata_of_other_values_makes_a_flow_unsaveable() -> None:
    flow = tflow.tflow()
    flow.metadata["force_stream.x"] = object()
    with pytest.raises((TypeError, ValueError)):
        FlowWriter(io.BytesIO()).add(flow)


def test_fact_scripts_run_before_what_shows_saves_and_layers() -> None:
    # So what is shown and saved is the rewritten answer, and a script cannot find the layers that `next_layer` makes.
    kinds = [type(each) for each in default_addons.default_addons()]
    assert kinds.index(script.ScriptLoader) < min(kinds.index(save.Save), kinds.index(next_layer.NextLayer))

    async def chain() -> list[type]:
        master = DumpMaster(options.Options(), with_termlog=False)
        return [type(each) for each in master.addons.chain]

    dump = asyncio.run(chain())
    assert dump.index(script.ScriptLoader) < dump.index(dumper.Dumper)


def test_fact_a_layer_makes_its_streams_in_one_place() -> None:
    # What `StreamLayerAddon` replaces, so that it makes its own streams.
    source = inspect.getsource(http_layers.HttpLayer.make_stream)
    assert [line.strip() for line in source.splitlines()[1:]] == [
        "ctx = self.context.fork()",
        "self.streams[stream_id] = HttpStream(ctx, stream_id)",
        "yield from self.event_to_child(self.streams[stream_id], events.Start())",
    ]


def test_fact_flows_are_told_apart_by_identity() -> None:
    # Else the weak dictionaries would mix up a flow and its copy.
    flow = tflow.tflow()
    twin = tflow.tflow()
    twin.set_state(flow.get_state())
    assert len({flow: 1, twin: 2}) == 2


def test_fact_a_script_is_known_by_the_name_of_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By which the addon knows that it is being loaded again, and not imported by a test.
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "told.py"
    path.write_text("NAME = __name__\n")
    loaded = script.load_script(str(path))
    assert loaded
    assert loaded.NAME.startswith("__mitmproxy_script__")


def test_fact_the_mark_is_one_that_the_flow_lists_can_show() -> None:
    assert responses.MARK in emoji.emoji


def outcome(proxy: Proxy, certs: Certs, dead: int, scheme: str) -> str:
    """What a client gets that asks through the proxy for an upstream that is not there."""
    mode, target = proxy.modes[0].partition(":")[0], f"{scheme}://127.0.0.1:{dead}"
    if mode == "socks5":
        with socket.create_connection(("127.0.0.1", proxy.ports[0]), timeout=TIMEOUT) as client:
            client.sendall(b"\5\1\0")
            assert client.recv(2) == b"\5\0"
            client.sendall(b"\5\1\0\1\x7f\0\0\1" + dead.to_bytes(2))
            return "connected" if client.recv(10)[1] == 0 else "refused"
    try:
        via = proxy.url if mode in ("regular", "upstream") else None
        url = target if via else f"{scheme}://127.0.0.1:{proxy.ports[0]}"
        with Http1Client(url, certs, via=via) as client:
            return f"{client.get('/x').status}"
    except ConnectionError as error:
        return "no tunnel" if "refused the tunnel" in f"{error}" else "closed"
    except ssl.SSLEOFError:
        return "closed"


@pytest.mark.parametrize(
    ("mode", "scheme", "eager", "lazy"),
    [
        ("regular", "http", "502", "502"),
        ("regular", "https", "no tunnel", "502"),
        ("upstream:http://127.0.0.1:{dead}", "https", "502", "502"),
        ("reverse:http://127.0.0.1:{dead}", "http", "None", "502"),
        ("reverse:https://127.0.0.1:{dead}", "https", "closed", "502"),
        ("transparent", "http", "None", "502"),
        ("transparent", "https", "closed", "502"),
        ("socks5", "http", "refused", "connected"),
    ],
)
def test_fact_eager_connections_cost_the_answer(
    proxy_factory: Callable[..., Proxy], certs: Certs, mode: str, scheme: str, eager: str, lazy: str
) -> None:
    dead = refused_port()
    for strategy, wanted in (("eager", eager), ("lazy", lazy)):
        options = {"connection_strategy": strategy, "original_address": f"127.0.0.1:{dead}"}
        proxy = proxy_factory(mode.format(dead=dead), scripts=[SCRIPTS / "original_address.py"], options=options)
        assert outcome(proxy, certs, dead, scheme) == wanted


def test_fact_what_became_of_a_clients_handshake_begins_in_these_words() -> None:
    source = inspect.getsource(tls.ClientTLSLayer.on_handshake_error)
    for words in (certificates._REFUSED, *certificates._LEFT):
        assert f'f"{words} ' in source


@pytest.mark.parametrize("mode", ["local", "wireguard", "tun"])
def test_fact_these_modes_connect_as_transparent_mode_does(mode: str) -> None:
    # So what eager connections cost there is measured in transparent mode.
    source = inspect.getsource(type(mode_servers.ServerInstance.make(mode, tflow)).make_top_layer)
    assert "return layers.modes.TransparentProxy(context)" in source


def test_fact_a_response_hook_decides_over_status_headers_and_body(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> None:
    replace = tmp_path / "replace.py"
    replace.write_text(
        "def response(flow):\n"
        "    flow.response.status_code = 418\n"
        "    flow.response.headers['content-type'] = 'text/x'\n"
        "    flow.response.raw_content = b'tea'\n"
        "    flow.response.headers['content-length'] = '3'\n"
    )
    upstream.answer(document("coffee"))
    proxy = proxy_factory(f"reverse:{upstream.url()}", scripts=[replace])
    with Http1Client(proxy.url) as client:
        response = client.get("/x")
    assert (response.status, response.header("content-type"), response.body) == (418, "text/x", b"tea")
