"""The page in a real proxy: what is switched there takes effect, what came is shown, and traffic goes on."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import Data, End, Gate, Head, Http1Client, Proxy, Reset, WaitFor, event_stream, refused_port, sse
from harness.page import JSON_TYPE, NAME
from harness.paths import ADDON, ROOT, SCRIPTS
from harness.record import TIMEOUT
from harness.samples import CHAT, RULES, SECRET, STREAM, choice, chunk, request
from harness.tools import needs_tool, own_address
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


def test_a_flow_opens_and_can_be_saved(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    upstream.answer(event_stream(STREAM))
    with Http1Client(proxy.url) as client:
        got = client.post(CHAT, request())
    proxy.wait_for_log("private-vllm: chat m, 200")
    (flow,) = at(port, "GET", "/flows").json()
    opened = at(port, "GET", f"/flows/{flow['id']}").json()
    assert opened["said"] == [{"kind": "text", "text": "Hello", "name": "", "choice": None}]
    assert [entry["number"] for entry in opened["timeline"]] == [1, 2, 3, 4, 5, None]
    assert 0 < opened["timeline"][0]["at"] <= opened["timeline"][-1]["at"]
    assert opened["explained"][-1] == f"POST 127.0.0.1{CHAT}: rule private-vllm takes it; its request was forced"
    assert dict(opened["head"])["content-type"] == "text/event-stream"
    saved = {kind: at(port, "GET", f"/flows/{flow['id']}.{kind}") for kind in ("sse", "json", "curl")}
    assert saved["sse"].body == STREAM
    assert saved["json"].body == got.body
    for kind, answer in saved.items():
        assert dict(answer.headers)["Content-Disposition"] == f'attachment; filename="{flow["id"]}.{kind}"'
    page = at(port, "GET", f"/flows/{flow['id']}.html").body.decode()
    assert ">Hello</pre>" in page


def test_the_saved_command_sends_the_same_request(serve: Callable, upstream: Upstream) -> None:
    needs_tool("curl")
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    upstream.answer_always(event_stream(STREAM))
    body = json.dumps(request(user='it\'s $HOME "é"\n'), ensure_ascii=False).encode()
    headers = [("Authorization", f"Bearer {SECRET}"), ("Content-Type", "application/json"), ("X-Team", "blue")]
    with Http1Client(proxy.url) as client:
        client.request("POST", f"{CHAT}?key={SECRET}", headers, body)
    (flow,) = at(port, "GET", "/flows").json()
    command = at(port, "GET", f"/flows/{flow['id']}.curl").body.decode()
    environment = {"PATH": os.environ["PATH"], "API_KEY": SECRET, "NO_PROXY": "*"}
    subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=True, timeout=TIMEOUT)
    again = upstream.wait_request(2)
    assert (again.method, again.path, again.body) == ("POST", f"{CHAT}?key={SECRET}", body)
    sent = {name.lower(): value for name, value in again.headers}
    assert (sent["authorization"], sent["x-team"]) == (f"Bearer {SECRET}", "blue")


def test_no_credential_is_shown_anywhere(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    echo = {"error": {"message": f"Incorrect API key provided: {SECRET}", "code": "invalid_api_key"}}
    upstream.answer(event_stream(sse(chunk(choice(content=f"a private matter {SECRET}", finish_reason="stop")))))
    upstream.answer(event_stream(sse(chunk(choice(content=SECRET)), echo)))
    with Http1Client(proxy.url) as client:
        for _ in range(2):
            headers = [("Authorization", f"Bearer {SECRET}"), ("Cookie", f"session={SECRET}")]
            client.post(f"{CHAT}?key={SECRET}", request(user=SECRET), headers)
    proxy.wait_for_log("Incorrect API key|code|error")
    flows = at(port, "GET", "/flows").json()
    assert len(flows) == 2
    pages = ["/", "/rules", "/stats", "/metrics", "/flows", "/flows.html"]
    kinds = ("", ".svg", ".html", ".sse", ".json", ".curl")
    pages += [f"/flows/{flow['id']}{kind}" for flow in flows for kind in kinds]
    for path in pages:
        answer = at(port, "GET", path)
        assert (path, answer.status) == (path, 200)
        assert (path, SECRET in answer.body.decode()) == (path, False)
        # What was said is for who opens a flow.
        assert ("private matter" in answer.body.decode()) <= path.startswith(f"/flows/{flows[1]['id']}")


def test_what_was_said_is_for_this_machine_alone(serve: Callable, upstream: Upstream) -> None:
    proxy = serve("regular", listen_host="0.0.0.0", force_stream_page_remote=True)
    upstream.answer(event_stream(STREAM))
    with Http1Client(upstream.url(), via=proxy.url) as client:
        client.post(CHAT, request())
    proxy.wait_for_log("private-vllm: chat m, 200")
    for address, shown in ((own_address(), False), ("127.0.0.1", True)):
        with Http1Client(f"http://{NAME}", via=f"http://{address}:{proxy.ports[0]}") as client:
            (flow,) = client.get("/flows").json()
            answer = client.get(f"/flows/{flow['id']}").json()
            assert (answer["events"], "said" in answer, "explained" in answer) == (5, shown, shown)
            assert (b"Hello" in client.get(f"/flows/{flow['id']}.html").body) is shown
            for kind in ("sse", "json", "curl"):
                assert client.get(f"/flows/{flow['id']}.{kind}").status == (200 if shown else 403)


class Events:
    """The page's own events, as they come at its port."""

    def __init__(self, port: int, path: str = "/events") -> None:
        with_place = re.search('data-place="([^"]*)"', at(port, "GET", "/").body.decode())
        assert with_place
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        head = f"GET {path}?after={with_place[1]} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n"
        self._socket.sendall(head.encode())
        self._came = b""

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, part: str, words: str) -> str:
        """The next time that a part of the page has these words."""
        while True:
            event, end, rest = self._came.partition(b"\n\n")
            if not end:
                data = self._socket.recv(65536)
                assert data, "the events have ended"
                self._came += data
                continue
            self._came = rest
            _, mark, data = event.partition(b"\ndata: ")
            html = json.loads(data).get(part, "") if mark else ""
            if words in html:
                return str(html)

    def ended(self) -> bool:
        """Wait until the connection is closed."""
        while self._socket.recv(65536):
            pass
        return True


def test_a_flow_in_flight_is_seen_as_it_grows_and_then_as_it_ended(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    gate = Gate()
    first, rest = STREAM.split(b"\n\n", 1)
    upstream.answer(Head(), Data(first + b"\n\n"), WaitFor(gate), Data(rest), End())
    with Events(port) as events, Http1Client(proxy.url) as client:
        client.start("POST", CHAT, JSON_TYPE.items(), json.dumps(request()).encode())
        seen = events.wait("flight", "1 event, last byte")
        (flow,) = at(port, "GET", "/flows").json()
        assert (flow["in_flight"], flow["events"], flow["model"]) == (True, 1, "m")
        assert flow["silent_for"] >= 0
        assert at(port, "GET", f"/flows/{flow['id']}").json()["id"] == flow["id"]
        assert "force_stream_in_flight 1" in at(port, "GET", "/metrics").body.decode()
        assert flow["id"] in seen
        gate.open()
        assert client.receive().status == 200
        assert flow["id"] in events.wait("news", "finish stop")
        assert [each.get("in_flight", False) for each in at(port, "GET", "/flows").json()] == [False]


def test_under_its_name_the_page_gets_its_news_by_coming_back(serve: Callable, upstream: Upstream) -> None:
    proxy = serve("regular")
    answer = through(proxy, "GET", "/events?after=x")
    assert (answer.status, answer.body) == (200, b"retry: 2000\n\nevent: reload\ndata: another start\n\n")


def test_readers_of_news_are_bounded_and_do_not_keep_mitmproxy_from_its_end(
    serve: Callable, upstream: Upstream
) -> None:
    port = refused_port()
    proxy = serve("regular", force_stream_page_port=port)
    with ExitStack() as readers:
        opened = [readers.enter_context(Events(port)) for _ in range(20)]
        for events in opened:
            events.wait("rules", "private-vllm")
        with Events(port) as one_more:
            one_more.wait("rules", "private-vllm")
            assert one_more.ended(), "it has to come back"
        assert proxy.stop() == 0
        assert all(events.ended() for events in opened)
    assert "Traceback" not in proxy.log
    assert "never" not in proxy.log


def test_metrics_are_what_prometheus_reads(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    upstream.answer(event_stream(STREAM))
    upstream.answer(Head(), Data(STREAM[:300]), Reset())
    with Http1Client(proxy.url) as client:
        assert [client.post(CHAT, request()).status for _ in range(2)] == [200, 502]
    answer = at(port, "GET", "/metrics")
    assert dict(answer.headers)["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    address = upstream.url().removeprefix("http://")
    for outcome, count in (("ok", 1), ("truncated", 1), ("error", 0)):
        line = f'force_stream_requests_total{{upstream="{address}",model="m",outcome="{outcome}"}} {count}'
        assert line in answer.body.decode().splitlines()


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
