"""The page in a real proxy: what is switched there takes effect, what came is shown, and traffic goes on."""

import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import Data, Gate, Head, Http1Client, Proxy, Reset, WaitFor, event_stream, refused_port, sse
from harness.page import JSON_TYPE, NAME
from harness.paths import ADDON, ROOT, SCRIPTS
from harness.record import TIMEOUT
from harness.samples import CHAT, RULES, SECRET, STREAM, choice, chunk, request
from harness.tools import own_address
from harness.upstream import Upstream

ORIGINAL = SCRIPTS / "original_address.py"
SWITCH = json.dumps({"force_upstream_stream": True})


@pytest.fixture
def serve(proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path) -> Callable[..., Proxy]:
    """`serve(mode, **options)`: a proxy with the page; its rules are in rules.yaml of `tmp_path`."""
    (tmp_path / "rules.yaml").write_text(RULES)

    def serve(*modes: str, scripts: tuple[Path, ...] = (ADDON,), remote: bool = True, **options: Any) -> Proxy:
        options = {"force_stream_rules": tmp_path / "rules.yaml", "connection_strategy": "lazy"} | options
        return proxy_factory(*modes, scripts=scripts, options=options, remote=remote)

    return serve


def through(proxy: Proxy, method: str, path: str, headers: Mapping[str, str] | None = None, body: str = "") -> Any:
    """A request for the page by its name, through the proxy."""
    with Http1Client(f"http://{NAME}", via=proxy.url) as client:
        return client.request(method, path, list((headers or {}).items()), body.encode())


def at(port: int, method: str, path: str, headers: Mapping[str, str] | None = None, body: str = "") -> Any:
    """A request for the page at its own port."""
    with Http1Client(f"http://127.0.0.1:{port}") as client:
        return client.request(method, path, list((headers or {}).items()), body.encode())


def test_a_rule_switched_through_the_api_forces_the_next_request(serve: Callable, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = serve("regular")
    target = upstream.url()

    def ask() -> None:
        with Http1Client(target, via=proxy.url) as client:
            client.post(CHAT, request("unforced"))

    ask()
    answer = through(proxy, "PATCH", "/rules/not-forced", JSON_TYPE, SWITCH)
    line = "rule not-forced: force_upstream_stream false -> true"
    assert (answer.status, answer.json()["changed"]) == (200, [line])
    proxy.wait_for_log(re.escape(line))
    ask()
    assert "stream" not in upstream.wait_request(1).json()
    assert upstream.wait_request(2).json()["stream"] is True
    rule = through(proxy, "GET", "/rules").json()[0]
    assert (rule["name"], rule["force_upstream_stream"], rule["flows"]) == ("not-forced", True, 2)


def test_the_page_counts_forced_flows_and_streams_of_the_clients_own(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    gate = Gate()
    first, rest = STREAM.split(b"\n\n", 1)
    upstream.answer(Head(), Data(first + b"\n\n"), WaitFor(gate), Data(rest[:400]), Reset())
    upstream.answer(event_stream(STREAM))
    upstream.answer(event_stream(sse({"error": {"message": "No.", "code": "rate_limit_exceeded"}})))
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, JSON_TYPE.items(), json.dumps(request()).encode())
        gate.open()
        assert client.receive().status == 502
        assert client.post(CHAT, request(stream=True)).body == STREAM
        assert client.post(CHAT, request("bare")).status == 429
    # A client's own stream is read once the client has it.
    deadline = time.monotonic() + TIMEOUT
    while len(said := at(port, "GET", "/flows").json()) < 3:
        assert time.monotonic() < deadline, said
    failed, own, cut = sorted(said, key=lambda flow: flow["at"], reverse=True)
    assert (cut["truncated"], cut["code"], cut["status"]) == (True, "stream_truncated", 502)
    assert (own["ok"], own["events"], own["finish_reason"]) == (True, 5, "stop")
    assert (failed["ok"], failed["truncated"], failed["code"]) == (False, False, "rate_limit_exceeded")
    for flow in (failed, own, cut):
        assert flow["upstream"] == upstream.url().removeprefix("http://")
        assert 0 <= flow["first_event"] <= flow["seconds"]
    assert cut["first_event"] <= cut["first_content"]
    assert 'class="cut"' in at(port, "GET", f"/flows/{cut['id']}.svg").body.decode()
    figures = {row["model"]: (row["flows"], row["ok"], row["truncated"]) for row in at(port, "GET", "/stats").json()}
    assert figures == {"m": (2, 1, 1), "bare": (1, 0, 0)}


def test_the_page_shows_no_credential_and_no_text_of_an_answer(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    upstream.answer(event_stream(sse(chunk(choice(content="a private matter", finish_reason="stop")))))
    with Http1Client(proxy.url) as client:
        client.post(f"{CHAT}?key={SECRET}", request(), [("Authorization", f"Bearer {SECRET}")])
    proxy.wait_for_log("private-vllm: chat m, 200")
    (flow,) = at(port, "GET", "/flows").json()
    for path in ("/", "/rules", "/stats", "/flows", f"/flows/{flow['id']}", f"/flows/{flow['id']}.svg"):
        said = at(port, "GET", path).body.decode()
        assert SECRET not in said
        assert "private matter" not in said


def test_flows_for_the_page_stay_out_of_log_and_flow_file(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = proxy_factory("regular", scripts=[ADDON], options={"flow_detail": 1}, flow_file=tmp_path / "flows")
    assert through(proxy, "GET", "/").status == 200
    with Http1Client(upstream.url(), via=proxy.url) as client:
        client.post(CHAT, request())
    proxy.wait_for_log("POST http://127.0.0.1")
    proxy.stop()
    assert NAME not in proxy.log
    assert [flow.request.path for flow in proxy.saved_flows()] == [CHAT]


# How a client that asks for the page's name begins, in modes where it gets the page.
ABSOLUTE = f"GET http://{NAME}/rules HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
SOCKS = b"\5\1\0\5\1\0\3" + bytes([len(NAME)]) + NAME.encode() + (80).to_bytes(2)
ORIGIN = f"GET /rules HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("mode", "sent"),
    [
        ("regular", ABSOLUTE),
        ("upstream:http://192.0.2.1:3128", ABSOLUTE),
        ("socks5", SOCKS + ORIGIN),
        ("transparent", ORIGIN),
    ],
)
def test_the_page_goes_by_its_name_in_these_modes(serve: Callable, mode: str, sent: bytes) -> None:
    # Where the name leads does not matter in transparent mode, as long as that is redirected.
    proxy = serve(mode, scripts=(ADDON, ORIGINAL), original_address="192.0.2.1:80")
    with socket.create_connection(("127.0.0.1", proxy.ports[0]), timeout=TIMEOUT) as client:
        client.sendall(sent)
        answer = b""
        while b"private-vllm" not in answer and (data := client.recv(65536)):
            answer += data
    assert b"HTTP/1.1 200 OK" in answer


def test_in_transparent_mode_an_address_of_its_own_is_this_machine(serve: Callable) -> None:
    options = {"original_address": "192.0.2.1:80", "listen_host": "0.0.0.0"}
    proxy = serve("transparent", scripts=(ADDON, ORIGINAL), **options)
    with Http1Client(f"http://{own_address()}:{proxy.ports[0]}") as client:
        assert client.get("/rules", [("Host", NAME)]).status == 200


def test_a_client_on_another_machine_does_not_reach_the_port_under_another_name_for_this_one(serve: Callable) -> None:
    port = refused_port()
    proxy = serve("regular", listen_host="0.0.0.0", force_stream_page_port=port)
    for client, expected in ((own_address(), 403), ("127.0.0.1", 200)):
        for name in ("127.0.0.1", "0.0.0.0", "127.1"):
            with Http1Client(f"http://{name}:{port}", via=f"http://{client}:{proxy.ports[0]}") as asking:
                answer = asking.request("GET", "/rules", [("Host", f"127.0.0.1:{port}")])
            assert (client, name, answer.status) == (client, name, expected)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_traffic_goes_on_where_the_port_cannot_be_had(serve: Callable, upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
        proxy.wait_for_log(f"port {port} is already in use, so the page is not served there; choose another port")
    upstream.answer_always(event_stream(STREAM))
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).status == 200
    assert "Traceback" not in proxy.log


def test_a_reload_of_the_script_takes_the_port_with_it(serve: Callable, upstream: Upstream, tmp_path: Path) -> None:
    copy = tmp_path / "addon.py"
    (tmp_path / "lib").symlink_to(ROOT / "lib")
    copy.write_bytes(ADDON.read_bytes())
    port = refused_port()
    proxy = serve("regular", scripts=(copy,), force_stream_page_port=port)
    changed = through(proxy, "PATCH", "/rules/not-forced", JSON_TYPE, SWITCH)
    assert changed.json()["rule"]["force_upstream_stream"] is True
    since = proxy.mark()
    copy.write_bytes(copy.read_bytes() + b"\n# changed\n")
    proxy.wait_for_log("The page of force-stream is at", since=since)
    # The rules are the file's again, so it is the new page that answers, at both places.
    assert at(port, "GET", "/rules").json()[0]["force_upstream_stream"] is False
    assert through(proxy, "GET", "/rules").json()[0]["force_upstream_stream"] is False
    since = proxy.mark()
    copy.write_text("addons = []\n")
    proxy.wait_for_log("Loading script", since=since)
    proxy.command("options", {})  # it is answered in the event loop, once the script has been replaced there
    assert not listens(port)
