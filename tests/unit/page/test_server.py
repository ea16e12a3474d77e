"""Where the page is served: which flows of the proxy are the page's, and what its port does, in this process."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from force_stream.page import server
from force_stream.page.app import Response
from force_stream.page.server import Serving
from harness import refused_port
from harness.page import NAME, OUTCOME, Shelf
from harness.tools import own_address
from mitmproxy import exceptions, http
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import taddons, tflow
from mitmproxy.test.tflow import tclient_conn, tserver_conn

Configure = Callable[..., None]


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[Serving, Configure]]:
    """The page with these options, without the prefix of their names; and a function that sets them anew."""
    ours = Serving(Shelf(OUTCOME))
    with taddons.context(ours) as context:

        def configure(**options: Any) -> None:
            context.configure(ours, **{f"force_stream_{name}": value for name, value in options.items()})

        configure(**options)
        ours.running()
        try:
            yield ours, configure
        finally:
            ours.done()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


# Within the proxy


def flow_for(
    host: str = NAME, *, port: int = 80, scheme: str = "http", mode: str = "regular", method: str = "GET"
) -> http.HTTPFlow:
    flow = tflow.tflow()
    flow.request = http.Request.make(method, f"{scheme}://{host}:{port}/rules", headers={"Host": host})
    flow.client_conn.proxy_mode = ProxyMode.parse(mode)
    flow.live = True
    return flow


async def status(ours: Serving, flow: http.HTTPFlow) -> int | None:
    """The status that the page gave this flow; None where it is not the page's."""
    with suppress(exceptions.AddonHalt):
        await ours.request(flow)
    return flow.response.status_code if flow.response else None


def test_the_page_goes_by_its_name_in_any_spelling_and_by_nothing_else() -> None:
    async def test() -> None:
        async with serving() as (ours, configure):
            assert [await status(ours, flow_for(host)) for host in (NAME, "FORCE.stream.")] == [200, 200]
            assert await status(ours, flow_for(NAME, port=443, scheme="https")) == 200
            assert await status(ours, flow_for("llm.example.com")) is None
            # A page of whoever has the name in the DNS could come from there, and would pass for this one.
            assert await status(ours, flow_for(NAME, port=8080)) is None
            assert await status(ours, flow_for(NAME, mode="reverse:http://llm.example.com")) is None
            assert await status(ours, flow_for(NAME, method="CONNECT")) is None
            configure(page="Proxy.Test")
            assert [await status(ours, flow_for(host)) for host in ("proxy.test", "PROXY.TEST.", NAME)] == [
                200,
                200,
                None,
            ]
            configure(page="")
            assert [await status(ours, flow_for(host)) for host in ("proxy.test", NAME)] == [None, None]

    run(test)


def test_the_port_is_not_reached_through_the_proxy_as_another_client() -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port) as (ours, configure):
            far, page = (flow_for("127.0.0.1", port=port) for _ in range(2))
            far.client_conn.peername = ("192.168.1.20", 1234)
            page.request.headers["host"] = f"127.0.0.1:{port}"
            page.request.headers["sec-fetch-site"] = "cross-site"
            near = flow_for("localhost", port=port)
            near.request.headers["host"] = f"localhost:{port}"
            assert [await status(ours, flow) for flow in (far, page, near)] == [403, 403, 200]
            configure(page_port=0)
            assert await status(ours, flow_for("127.0.0.1", port=port)) is None

    run(test)


def test_no_addon_behind_this_one_sees_a_flow_for_the_page() -> None:
    async def test() -> None:
        async with serving() as (ours, _):
            for hook in (ours.requestheaders, ours.response):
                with pytest.raises(exceptions.AddonHalt):
                    hook(flow_for())
                hook(flow_for("llm.example.com"))
            with pytest.raises(exceptions.AddonHalt):
                await ours.request(flow_for())
            await ours.request(flow_for("llm.example.com"))

    run(test)


def test_what_others_answered_or_replay_is_not_the_pages() -> None:
    async def test() -> None:
        async with serving() as (ours, _):
            answered, replayed = flow_for(), flow_for()
            answered.response = http.Response.make(204)
            replayed.live = False
            assert [await status(ours, flow) for flow in (answered, replayed)] == [204, None]

    run(test)


@pytest.mark.parametrize(
    ("mode", "address", "answered"),
    [
        ("regular", "127.0.0.1", True),
        ("regular", "127.8.9.10", True),
        ("transparent", "::1", True),
        ("regular", "::ffff:127.0.0.1", True),
        ("regular", "192.0.2.20", False),
        ("regular", "", False),
        ("regular", "localhost", False),
        # Of whom a firewall redirects.
        ("transparent", "192.0.2.20", False),
        ("transparent", "::ffff:192.0.2.20", False),
        ("transparent", "2001:db8::20", False),
        ("transparent", "fe80::1%eth0", False),
        ("transparent", "", False),
        ("transparent", "OWN", True),
        ("transparent", "::ffff:OWN", True),
        # May be that of a forwarder.
        ("regular", "OWN", False),
        ("socks5", "OWN", False),
        ("wireguard", "OWN", False),
        ("wireguard", "10.0.0.1", False),
        # Of programs that mitmproxy captures on this machine.
        ("local", "169.254.0.1", True),
        ("local:curl", "OWN", True),
        ("transparent", "169.254.0.1", False),
    ],
)
def test_who_is_on_this_machine(mode: str, address: str, answered: bool) -> None:
    async def test() -> None:
        async with serving() as (ours, _):
            flow = flow_for(mode=mode)
            flow.client_conn.peername = (address.replace("OWN", own_address() if "OWN" in address else ""), 1234)
            assert await status(ours, flow) == (200 if answered else 403)

    run(test)


def test_only_this_machine_is_answered_unless_the_option_says_otherwise() -> None:
    async def test() -> None:
        async with serving() as (ours, configure):
            far = flow_for()
            far.client_conn.peername = ("192.168.1.20", 1234)
            assert await status(ours, far) == 403
            far.response = None
            configure(page_remote=True)
            assert await status(ours, far) == 200

    run(test)


def test_head_says_how_long_the_body_would_be() -> None:
    async def test() -> None:
        async with serving() as (ours, _):
            head, get = flow_for(method="HEAD"), flow_for()
            assert (await status(ours, head), await status(ours, get)) == (200, 200)
            assert head.response is not None
            assert get.response is not None
            assert head.response.raw_content == b""
            assert head.response.headers["content-length"] == f"{len(get.response.raw_content or b'')}"

    run(test)


# On a port


async def ask(port: int, data: bytes) -> bytes:
    """What the port answers to these bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
CHANGE = "PATCH /rules/private-vllm HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param("GET /rules HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n", 200, id="its own name"),
        pytest.param("GET /rules HTTP/1.1\r\nHost: LocalHost:{port}\r\n", 200, id="localhost"),
        pytest.param("GET /rules HTTP/1.1\r\nHost: rebound.example:{port}\r\n", 421, id="DNS rebinding"),
        pytest.param(f"GET /rules HTTP/1.1\r\nHost: {NAME}\r\n", 421, id="the name that is for the proxy"),
        pytest.param(f"GET /rules HTTP/1.1\r\nHost: {NAME}:{{port}}\r\n", 421, id="that name at this port"),
        pytest.param("GET /rules HTTP/1.1\r\nHost: 127.0.0.1\r\n", 421, id="no port"),
        pytest.param("GET /rules HTTP/1.0\r\n", 421, id="no name"),
        pytest.param("GET /health HTTP/1.0\r\n", 200, id="a health check"),
        pytest.param("GET /../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n", 404, id="a way out"),
        pytest.param(CHANGE + "Origin: http://evil.example\r\nContent-Length: 2\r\n", 403, id="another page's change"),
        pytest.param(CHANGE + "Content-Length: 10000000000\r\n", 413, id="a body that is announced as huge"),
        pytest.param(
            CHANGE + "Transfer-Encoding: chunked\r\n\r\n10001\r\n" + "x" * 65537, 413, id="a body that turns out huge"
        ),
    ],
)
def test_the_port_knows_whom_to_answer(head: str, status: int) -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.format(port=port).encode() + b"\r\n{}")
            writer.write_eof()
            assert (await reader.read()).split(b" ")[1] == b"%d" % status
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    run(test)


@pytest.mark.parametrize(("client", "status"), [("192.168.1.20", 403), ("127.0.0.1", 200)])
def test_the_port_tells_for_whom_the_proxy_has_connected_to_it(client: str, status: int) -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port) as (ours, _):
            for expected in (status, 200):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                made = ServerConnectionHookData(tserver_conn(), tclient_conn())
                made.client.peername = (client, 1234)
                made.server.peername, made.server.sockname = ("127.0.0.1", port), writer.get_extra_info("sockname")
                ours.server_connected(made)
                if expected != status:
                    ours.server_disconnected(made)
                writer.write(f"GET /rules HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                assert (await reader.read()).split(b" ")[1] == b"%d" % expected
                ours.server_disconnected(made)
                writer.close()

    run(test)


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000])
def test_what_is_not_http_is_closed_without_a_word(data: bytes) -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            with suppress(ConnectionError):
                assert await ask(port, data + b"\r\n\r\n") == b""
            assert b" 200 OK" in await ask(port, HEALTH)

    run(test)


def test_a_client_that_sends_too_much_gets_its_answer_all_the_same() -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            head = CHANGE.format(port=port) + "Content-Length: 10000000\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode())
            assert b" 413 " in await reader.readline()
            writer.write(b"x" * 10_000_000)
            await writer.drain()
            writer.write_eof()
            assert b"larger than 65,536 bytes" in await reader.read()
            writer.close()

    run(test)


def test_a_client_that_leaves_without_a_word_gets_none() -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    run(test)


def test_the_port_is_opened_moved_and_closed_with_its_option(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "force_stream")

    async def test() -> None:
        first, second = refused_port(), refused_port()
        async with serving(page_port=first) as (ours, configure):
            assert b" 200 OK" in await ask(first, HEALTH)
            assert not listens(second)
            configure(page_port=second)
            assert caplog.messages[-1] == f"The page of force-stream is at http://127.0.0.1:{second}/"
            assert b" 200 OK" in await ask(second, HEALTH)
            assert not listens(first)
            configure(page="other.test")
            assert b" 200 OK" in await ask(second, HEALTH), "it stays where it is"
            configure(page_port=0)
            assert not listens(second)
            configure(page_port=first)
            ours.done()
            assert not listens(first)

    run(test)


def test_the_port_gives_each_connection_one_answer_and_has_room_for_a_hundred() -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
            with suppress(ConnectionError):
                assert await ask(port, HEALTH) == b"", "one more is closed without a word"
            reader, writer = idle[0]
            writer.write(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.read()
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert head.endswith(b"\r\n\r\n")
            assert b"Connection: close" in head
            assert b" 200 OK" in await ask(port, HEALTH), "there is room again"
            for _, writer in idle:
                writer.close()

    run(test)


def test_a_client_that_says_nothing_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PATIENCE", 0.05)

    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            assert await ask(port, b"GET /health HTTP/1.1\r\n") == b""

    run(test)


def test_a_client_that_does_not_read_its_answer_does_not_keep_it_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    large = b"x" * 30_000_000

    async def test() -> None:
        port, asked = refused_port(), asyncio.Event()

        async def answer(*_: object) -> Response:
            asked.set()
            return Response(large)

        monkeypatch.setattr(server, "respond", answer)
        async with serving(page_port=port):
            assert len(await ask(port, HEALTH)) > len(large), "who reads it gets all of it"
            monkeypatch.setattr(server, "_PATIENCE", 0.1)
            asked.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEALTH)
            await asked.wait()
            await asyncio.wait([task for task in asyncio.all_tasks() if "_Port._serve" in repr(task)])
            with suppress(ConnectionResetError):
                assert len(await reader.read()) < len(large)
            writer.transport.abort()

    run(test)


def test_an_answer_that_goes_on_ends_with_a_fault_or_with_a_reader_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_LOOK", 0.01)
    pieces: list[bytes] = []
    unread = asyncio.Event()

    def news() -> bytes:
        if len(pieces) == 2 and pieces[0]:
            monkeypatch.setattr(server, "_PATIENCE", 0.1)
            unread.set()
        return pieces.pop(0) if pieces else 1 / 0  # type: ignore[return-value]

    async def answer(*_: object) -> Response:
        return Response(b"first", "text/event-stream", headers={"Content-Length": "5"}, news=news)

    monkeypatch.setattr(server, "respond", answer)

    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            pieces[:] = [b"", b"second"]
            came = await ask(port, b"GET /events HTTP/1.0\r\nHost: x\r\n\r\n")
            assert came.partition(b"\r\n\r\n")[2] == b"firstsecond"
            assert b"Content-Length" not in came
            assert "a bug in the page: ZeroDivisionError" in caplog.text
            pieces[:] = [b"x" * 30_000_000] * 2
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEALTH)
            await unread.wait()
            await asyncio.wait([task for task in asyncio.all_tasks() if "_Port._serve" in repr(task)])
            writer.transport.abort()
            assert len(pieces) == 1, "it was given up on before the next piece"

    run(test)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_requests_in_a_row_get_one_answer(version: str) -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            request = f"GET /health HTTP/{version}\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode()
            with suppress(ConnectionResetError):
                assert (await ask(port, request * 3)).count(b"HTTP/1.1 200 OK") == 1

    run(test)


def test_a_connection_that_stays_open_ends_with_its_port() -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port) as (_, configure):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\n")
            assert b" 200 OK" in await ask(port, HEALTH)
            configure(page_port=0)
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(test)


def test_the_port_is_open_to_this_machine_alone() -> None:
    async def test() -> None:
        port = refused_port()
        async with serving(page_port=port):
            table = Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()
            listeners = [line.split()[1] for line in table if " 0A " in line]
            at_port = [address for address in listeners if address.endswith(f":{port:04X}")]
            assert at_port == [f"0100007F:{port:04X}"]

    run(test)


@pytest.mark.parametrize(
    ("port", "reason"),
    [(None, "is already in use"), (70000, "does not exist"), (22, "cannot be opened (Permission denied)")],
    ids=["taken", "no port", "not ours"],
)
def test_a_port_that_cannot_be_had_is_one_line(
    port: int | None, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if port == 22:  # a test may well be root

        def refuse(*_: object) -> None:
            raise PermissionError(13, "no")

        monkeypatch.setattr(socket, "create_server", refuse)

    async def test(port: int) -> None:
        async with serving(page_port=port) as (ours, _):
            assert await status(ours, flow_for()) == 200
        line = f"port {port} {reason}, so the page is not served there; choose another port"
        assert caplog.messages == [line]

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run(lambda: test(port or taken.getsockname()[1]))
