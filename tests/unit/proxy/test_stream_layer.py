"""The stream layer without sockets: what reaches the client, when, and what becomes of the upstream's connection."""

import asyncio
import gc
import gzip
import json
import tracemalloc
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock
from weakref import ref

import pytest
from force_stream import ENDPOINTS, aggregate
from force_stream.answer.reader import AnswerSpec
from force_stream.answer.unfold import Asked, silence
from force_stream.proxy import stream_layer
from force_stream.proxy.attempt import Attempt
from force_stream.proxy.chunked import LONGEST_HEAD
from force_stream.proxy.client_wait import ClientWait
from force_stream.proxy.notes import save_notes
from force_stream.rules.rule import Rule
from h2.config import H2Configuration
from h2.connection import H2Connection
from harness.player import END, HEAD, REQUEST, Player, piece
from harness.samples import CHAT, DOCUMENT, EVENTS, STREAM
from harness.steps import sse
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.test import tflow

FORCED: dict[str, Any] = {"name": "r", "hosts": ("llm.test",), "force_upstream_stream": True}
BEGIN = piece(sse(*EVENTS[:2], done=False))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Player]:
    """`play(key=value)`: a player whose client has asked something that a rule with these keys forces."""

    def play(**keys: Any) -> Player:
        player = Player(monkeypatch, Rule(**FORCED, **keys))
        player.ask()
        return player

    return play


def code_of(player: Player) -> tuple[int, str]:
    return player.answer.status_code, json.loads(player.answer.content)["error"]["code"]


def test_nothing_reaches_the_client_before_the_stream_is_whole(play: Callable[..., Player]) -> None:
    player = play()
    player.upstream_sends(HEAD, piece(STREAM))
    assert player.to_client == b""
    player.upstream_sends(END)
    assert (player.answer.status_code, player.answer.json()) == (200, DOCUMENT)
    assert player.hooks == ["requestheaders", "request", "responseheaders", "response"]
    assert player.closed == []


def test_an_upstream_that_lingers_behind_done_is_left_after_a_tenth_of_a_second(play: Callable[..., Player]) -> None:
    player = play()
    player.upstream_sends(HEAD, piece(STREAM))
    player.wait(0.09)
    assert player.to_client == b""
    player.wait(0.02)
    assert player.answer.json() == DOCUMENT
    assert player.closed == ["upstream"]


def test_a_cut_becomes_an_error_of_its_own_shape(play: Callable[..., Player]) -> None:
    player = play()
    player.upstream_sends(HEAD, BEGIN)
    player.upstream_closes()
    assert code_of(player) == (502, "stream_truncated")


def test_an_upstream_that_refuses_is_an_error_of_its_own_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule(**FORCED))
    player.refuses = "Connection refused"
    player.ask()
    assert code_of(player) == (502, "upstream_unreachable")


def test_a_connection_that_mitmproxy_forgets_is_one_that_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule(**FORCED))
    player.forgets = True
    player.ask()
    player.wait(stream_layer.LONGEST_SLEEP)
    assert code_of(player) == (502, "upstream_unreachable")


def test_mitmproxy_says_nothing_of_a_connection_that_was_reset_before_its_peer_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[events.Event] = []

    class Handler(ConnectionHandler):
        async def handle_hook(self, hook: commands.StartHook) -> None:
            pass

        async def server_event(self, event: events.Event) -> None:
            heard.append(event)

    upstream = Server(address=("127.0.0.1", 80))

    async def open_it() -> None:
        handler = Handler(Context(Client(peername=("", 1), sockname=("", 1)), Options()))
        await handler.open_connection(commands.OpenConnection(upstream))

    reset = Mock(get_extra_info=Mock(return_value=None))
    monkeypatch.setattr(asyncio, "open_connection", AsyncMock(return_value=(reset, reset)))
    with pytest.raises(AssertionError):
        asyncio.run(open_it())
    assert (upstream.state, upstream.peername, heard) == (ConnectionState.OPEN, None, [])


@pytest.mark.parametrize("sent", [(), (HEAD,), (HEAD, BEGIN)], ids=["nothing", "the head", "two events"])
def test_a_silent_upstream_is_given_up_after_the_idle_timeout(
    play: Callable[..., Player], sent: tuple[bytes, ...]
) -> None:
    player = play(idle_timeout=3)
    player.wait(2)
    player.upstream_sends(*sent)
    player.wait(2.9 if sent else 0.9)
    assert player.to_client == b""
    player.wait(0.2)
    assert code_of(player) == (504, "stream_timeout")
    assert player.closed == ["upstream"]


@pytest.mark.parametrize("status", [100, 102, 103, 199])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("split", [0, 1, 20, None])
def test_interim_responses_are_read_past(
    play: Callable[..., Player], status: int, times: int, split: int | None
) -> None:
    interim = b"HTTP/1.1 %d So Far\r\nLink: </a>\r\n\r\n" % status * times
    player = play()
    sent = interim + HEAD + piece(STREAM) + END
    player.upstream_sends(*((sent,) if split is None else (sent[:split], sent[split:])))
    assert player.answer.json() == DOCUMENT
    assert player.hooks.count("responseheaders") == 1


def test_interim_responses_are_read_past_at_the_second_answer_of_a_connection_too(
    play: Callable[..., Player],
) -> None:
    player = play()
    for _ in range(2):
        player.upstream_sends(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + piece(STREAM) + END)
        player.ask()
    assert player.to_client.count(b"HTTP/1.1 200 OK") == 2
    assert player.opened == 1


def test_a_switch_of_protocols_is_not_an_answer(play: Callable[..., Player]) -> None:
    player = play()
    player.upstream_sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
    assert code_of(player) == (502, "upstream_unreachable")


def test_a_head_that_comes_drop_by_drop_is_no_silence(play: Callable[..., Player]) -> None:
    player = play(idle_timeout=3)
    for at in range(len(HEAD)):
        player.wait(1)
        player.upstream_sends(HEAD[at : at + 1])
    player.upstream_sends(piece(STREAM), END)
    assert player.answer.json() == DOCUMENT


def test_a_head_that_comes_drop_by_drop_has_the_time_that_the_rule_gives(play: Callable[..., Player]) -> None:
    player = play(idle_timeout=3, timeout=20)
    for at in range(20):
        assert player.to_client == b""
        player.upstream_sends(HEAD[at : at + 1])
        player.wait(1)
    assert code_of(player) == (504, "stream_timeout")


def test_a_head_without_an_end_is_not_kept(play: Callable[..., Player]) -> None:
    player = play()
    player.upstream_sends(b"HTTP/1.1 200 OK\r\n")
    sent = 0
    while not player.to_client and sent < 2 * LONGEST_HEAD:
        player.upstream_sends(b"X-Filler: " + b"x" * 8192 + b"\r\n")
        sent += 8192
    assert code_of(player) == (502, "upstream_unreachable")
    assert sent <= LONGEST_HEAD + 8192
    assert player.closed == ["upstream"]


@pytest.mark.parametrize("value", [b"a\0b", b"a\rb", b"\0a b\r"])
def test_what_no_client_may_read_in_a_header_becomes_a_blank(play: Callable[..., Player], value: bytes) -> None:
    player = play()
    player.upstream_sends(HEAD.replace(b"\r\n\r\n", b"\r\nX-Note: " + value + b"\r\n\r\n"), piece(STREAM), END)
    assert b"\r\nX-Note: a b\r\n" in player.to_client
    assert player.answer.json() == DOCUMENT


def end_of(event: bytes) -> list[bytes]:
    """Ways in which an event's blank line may be missing."""
    return [event.removesuffix(missing) for missing in (b"\n", b"\n\n")]


LATE = {
    b'data: {"error": {"message": "slow down", "code": 429}}\n\n': (429, 429),
    b'event: error\ndata: {"message": "slow down", "type": "rate_limit_error"}\n\n': (429, "rate_limit_error"),
}


@pytest.mark.parametrize(("event", "outcome"), LATE.items(), ids=["unnamed", "named"])
@pytest.mark.parametrize("blank", [0, 1], ids=["no blank line", "no line end"])
@pytest.mark.parametrize("pause", [False, True], ids=["one piece", "two pieces"])
@pytest.mark.parametrize("begin", [b"", BEGIN], ids=["first", "after others"])
def test_an_error_that_lacks_its_blank_line_is_answered_after_a_short_silence(
    play: Callable[..., Player], event: bytes, outcome: tuple[int, Any], blank: int, pause: bool, begin: bytes
) -> None:
    player = play()
    sent = end_of(event)[blank]
    player.upstream_sends(HEAD, begin, *map(piece, (sent[:20], sent[20:]) if pause else (sent,)))
    player.wait(0.9)
    assert player.to_client == b""
    player.wait(1.2)
    assert player.answer.status_code == outcome[0]
    assert outcome[1] in player.answer.json()["error"].values()
    assert player.closed == ["upstream"]


def test_a_done_that_lacks_its_blank_line_ends_the_answer_after_a_short_silence(play: Callable[..., Player]) -> None:
    player = play()
    player.upstream_sends(HEAD, piece(STREAM.removesuffix(b"\n\n")))
    player.wait(2.1)
    assert player.answer.json() == DOCUMENT


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 9999", "Connection: close"])
@pytest.mark.parametrize("document", [DOCUMENT, {"error": {"message": "slow down", "code": 429}}])
def test_a_document_without_an_end_is_answered_after_a_short_silence(
    play: Callable[..., Player], framing: str, document: dict[str, Any]
) -> None:
    player = play()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{framing}\r\n\r\n".encode()
    body = json.dumps(document).encode()
    frame = piece if "chunked" in framing else bytes
    player.upstream_sends(head, *map(frame, (body[:20], body[20:])))
    player.wait(0.9)
    assert player.to_client == b""
    player.wait(1.2)
    assert player.to_client.startswith(b"HTTP/1.1 200 OK\r\n")
    assert player.to_client.endswith(b"\r\n\r\n" + body)
    assert player.closed[0] == "upstream"


def test_half_a_document_is_waited_for(play: Callable[..., Player]) -> None:
    player = play(idle_timeout=60)
    head = HEAD.replace(b"text/event-stream", b"application/json")
    body = json.dumps(DOCUMENT).encode()
    player.upstream_sends(head, piece(body[:-1]))
    player.wait(50)
    assert player.to_client == b""
    player.upstream_sends(piece(body[-1:]), END)
    assert player.to_client.endswith(piece(body) + END)


def test_half_an_event_is_waited_for(play: Callable[..., Player]) -> None:
    player = play(idle_timeout=60)
    middle = STREAM.index(b"data:", 10) + 30
    player.upstream_sends(HEAD, piece(STREAM[:middle]))
    player.wait(50)
    assert player.to_client == b""
    player.upstream_sends(piece(STREAM[middle:]), END)
    assert player.answer.json() == DOCUMENT


def test_an_event_that_was_read_before_its_blank_line_came_is_not_read_twice(play: Callable[..., Player]) -> None:
    for end in range(1, len(STREAM)):
        player = play()
        player.upstream_sends(HEAD, piece(STREAM[:end]))
        player.wait(1.5)
        if player.to_client == b"":
            player.upstream_sends(piece(STREAM[end:]), END)
        assert player.answer.json() == DOCUMENT, STREAM[:end][-20:]


def test_an_upstream_that_goes_on_and_on_is_given_up_after_the_timeout(play: Callable[..., Player]) -> None:
    player = play(timeout=5, idle_timeout=2)
    player.upstream_sends(HEAD)
    for _ in range(4):
        player.wait(1)
        player.upstream_sends(BEGIN)
    assert player.to_client == b""
    player.wait(1)
    assert code_of(player) == (504, "stream_timeout")


def test_heartbeats_come_on_time_and_the_document_is_behind_them(play: Callable[..., Player]) -> None:
    player = play(heartbeat=2)
    player.wait(1.9)
    assert player.to_client == b""
    player.wait(0.2)
    head, _, body = player.to_client.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == piece(b" ")
    player.wait(4)
    assert player.to_client == head + b"\r\n\r\n" + piece(b" ") * 3
    player.upstream_sends(HEAD, piece(STREAM), END)
    assert player.to_client.endswith(END)
    document = player.to_client.removeprefix(head + b"\r\n\r\n" + piece(b" ") * 3).split(b"\r\n")[1]
    assert json.loads(document) == DOCUMENT


@pytest.fixture
def play_plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Player]:
    """The same, where the client asks for a stream and its upstream for none."""

    def play(**keys: Any) -> Player:
        player = Player(monkeypatch, Rule("r", ("llm.test",), **keys), asked=Asked(ENDPOINTS["chat"], with_usage=True))
        player.ask()
        return player

    return play


DOCUMENT_HEAD = HEAD.replace(b"text/event-stream", b"application/json")
BEAT = piece(silence(ENDPOINTS["chat"]))


def test_heartbeats_are_comments_where_the_client_asked_for_events(play_plain: Callable[..., Player]) -> None:
    player = play_plain(heartbeat=2)
    player.wait(1.9)
    assert player.to_client == b""
    player.wait(4.2)
    head, _, body = player.to_client.partition(b"\r\n\r\n")
    assert b"Content-Type: text/event-stream\r\n" in head + b"\r\n"
    assert body == BEAT * 3
    player.upstream_sends(DOCUMENT_HEAD, piece(json.dumps(DOCUMENT).encode()), END)
    assert player.to_client.endswith(b"data: [DONE]\n\n\r\n" + END)
    events = player.to_client.removeprefix(head + b"\r\n\r\n" + BEAT * 3).partition(b"\r\n")[2]
    assert json.loads(aggregate(events.removesuffix(b"\r\n" + END)).body) == DOCUMENT


@pytest.mark.parametrize("began", [False, True])
def test_a_limit_that_passes_behind_heartbeats_is_an_error_event(
    play_plain: Callable[..., Player], began: bool
) -> None:
    player = play_plain(heartbeat=2, timeout=5)
    if began:
        player.upstream_sends(DOCUMENT_HEAD, piece(b'{"id":'))
    player.wait(4.9)
    assert player.to_client.endswith(BEAT)
    player.wait(0.2)
    error = player.to_client.rpartition(b"data: ")[2].partition(b"\n")[0]
    assert json.loads(error)["error"]["code"] == "stream_timeout"
    assert player.to_client.endswith(END)
    assert b"[DONE]" not in player.to_client


def test_an_upstream_that_streams_behind_a_heartbeat_goes_on_live_without_another_head(
    play_plain: Callable[..., Player],
) -> None:
    player = play_plain(heartbeat=2, timeout=5)
    player.wait(2.1)
    player.upstream_sends(HEAD, BEGIN)
    assert player.to_client.endswith(BEAT + BEGIN)
    player.wait(60)
    assert player.to_client.endswith(BEAT + BEGIN), "no heartbeats and no limits any more"
    player.upstream_sends(END)
    assert player.to_client.endswith(BEAT + BEGIN + END)
    assert player.to_client.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("size", [1, 100])
def test_an_encoded_answer_behind_a_heartbeat_is_sent_decoded_unless_it_is_too_large(
    play: Callable[..., Player], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(Attempt, "finish", lambda *_: None)  # the answer is to go to the client as it came
    document = b'"' + b"x" * (size << 20) + b'"'
    encoded = gzip.compress(document, 1)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    player = play(heartbeat=2)
    player.wait(2.1)
    tracemalloc.start()
    player.upstream_sends(head % len(encoded) + encoded)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if size == 1:
        assert player.to_client.endswith(piece(document) + END)
    else:
        assert (player.to_client[-6:], player.closed[-1]) == (piece(b" "), "client")
        assert peak < 84 << 20


UPSTREAMS = {
    "X-Request-Id": "req_1",
    "Access-Control-Allow-Origin": "app://x",
    "Vary": "Origin",
    "Set-Cookie": "a=b",
    "ETag": "x",
    "Content-Encoding": "identity",
}


def head_with(status: str = "200 OK", **more: str) -> bytes:
    fields = UPSTREAMS | {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"} | more
    return f"HTTP/1.1 {status}\r\n{''.join(f'{name}: {value}\r\n' for name, value in fields.items())}\r\n".encode()


def head_of(player: Player) -> dict[str, str]:
    """The headers that the client has got, and its status line."""
    status, *fields = player.to_client.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return {"": status} | dict(field.split(": ", 1) for field in fields)


JSON_HEAD = {"": "HTTP/1.1 200 OK", "Content-Type": "application/json", "Transfer-Encoding": "chunked"}


def test_the_head_before_a_heartbeat_is_the_upstreams_where_that_has_come(play: Callable[..., Player]) -> None:
    player = play(heartbeat=2)
    player.upstream_sends(head_with("201 Created"))
    player.wait(2.1)
    kept = {name: value for name, value in UPSTREAMS.items() if name not in ("ETag", "Content-Encoding")}
    assert head_of(player) == JSON_HEAD | kept
    player.upstream_sends(piece(STREAM), END)
    assert json.loads(player.to_client.split(b"\r\n")[-4]) == DOCUMENT


def test_the_head_before_a_heartbeat_is_the_addons_own_until_the_upstreams_comes(play: Callable[..., Player]) -> None:
    player = play(heartbeat=2)
    player.wait(2.1)
    assert head_of(player) == JSON_HEAD


def test_an_upstreams_error_has_its_status_however_late_its_body_is(play: Callable[..., Player]) -> None:
    player = play(heartbeat=2)
    player.upstream_sends(head_with("429 Too Many Requests"))
    player.wait(10)
    assert player.to_client == b""
    player.upstream_sends(piece(b'{"error": {"message": "slow down"}}'), END)
    assert player.to_client.startswith(b"HTTP/1.1 429 ")


def test_a_web_page_gets_no_heartbeat_before_the_upstreams_head(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule(**FORCED, heartbeat=2))
    player.ask(REQUEST.replace(b"Content", b"Origin: app://x\r\nContent"))
    player.wait(10)
    assert player.to_client == b""
    player.upstream_sends(head_with())
    player.wait(2)
    assert head_of(player)["Access-Control-Allow-Origin"] == "app://x"
    assert player.to_client.endswith(piece(b" "))


def test_a_failure_behind_a_heartbeat_ends_the_answer_short(play: Callable[..., Player]) -> None:
    player = play(heartbeat=2)
    player.wait(2.1)
    player.upstream_sends(HEAD, BEGIN)
    player.upstream_closes()
    assert not player.to_client.endswith(END)
    assert player.closed[-1] == "client"


def test_a_client_that_leaves_takes_its_request_to_the_upstream_with_it(play: Callable[..., Player]) -> None:
    player = play()
    player.upstream_sends(HEAD, BEGIN)
    player.client_leaves()
    assert "upstream" in player.closed
    assert player.to_client == b""
    assert player.hooks[-1] == "error"


# What comes when the client has gone, and what becomes of its answer.
AFTER_THE_CLIENT: dict[str, tuple[list[Callable[[Player], None]], int, str]] = {
    "the rest": ([lambda player: player.upstream_sends(HEAD, piece(STREAM), END)], 200, ""),
    "the rest, and no end": ([lambda player: player.upstream_sends(HEAD, piece(STREAM))], 200, "upstream"),
    "a part": ([lambda player: player.upstream_sends(HEAD, BEGIN), Player.upstream_closes], 502, "upstream"),
    "silence": ([lambda player: player.upstream_sends(HEAD, BEGIN)], 504, "upstream"),
    "nothing": ([], 504, "upstream"),
}


@pytest.mark.parametrize("after", AFTER_THE_CLIENT)
@pytest.mark.parametrize("was_committed", [False, True])
def test_an_answer_that_is_kept_is_read_to_its_end_without_the_client(
    play: Callable[..., Player], after: str, was_committed: bool
) -> None:
    steps, status, closed = AFTER_THE_CLIENT[after]
    player = play(keep_answers=300, idle_timeout=5, heartbeat=2)
    player.wait(2.1 if was_committed else 0)
    before = player.to_client
    assert bool(before) == was_committed
    player.client_leaves()
    for step in steps:
        step(player)
    player.wait(10)
    assert player.flow is not None
    assert player.flow.response is not None
    assert player.flow.response.status_code == status
    assert status != 200 or player.flow.response.json() == DOCUMENT
    assert player.to_client == before
    assert player.ends[player.flow.id] == ["response"]
    assert player.closed == ["client", closed] if closed else ["client"]
    assert player.is_asleep
    assert not player.flow.live


@pytest.mark.parametrize(("silence", "seconds"), [(1000, 540), (60, 3600)], ids=["silent", "keep-alives for ever"])
def test_an_answer_without_limits_that_is_kept_is_not_read_for_ever_without_the_client(
    play: Callable[..., Player], silence: int, seconds: int
) -> None:
    player = play(keep_answers=300, idle_timeout=None)
    player.upstream_sends(HEAD, BEGIN)
    player.wait(1000)
    assert not player.closed
    player.upstream_sends(piece(b": keep-alive\n\n"))
    player.client_leaves()
    for waited in range(0, seconds - 1, silence):
        player.wait(min(silence, seconds - 1 - waited))
        if silence < seconds:
            player.upstream_sends(piece(b": keep-alive\n\n"))
    assert player.closed == ["client"]
    player.wait(2)
    assert player.closed == ["client", "upstream"]
    assert player.flow is not None
    assert player.flow.response is not None
    assert player.flow.response.status_code == 504


def test_an_answer_that_nobody_keeps_any_more_is_stopped_when_the_client_leaves(play: Callable[..., Player]) -> None:
    player = play(keep_answers=300)
    player.upstream_sends(HEAD, BEGIN)
    assert player.flow is not None
    wait = player.wait_of(player.flow)
    assert wait is not None
    wait.kept = Mock(**{"done.return_value": True})  # the addon was loaded again
    player.client_leaves()
    assert player.hooks[-1] == "error"


@pytest.mark.parametrize("is_woken", [True, False], ids=["mitmproxy wakes it", "nobody wakes it"])
def test_a_timer_of_a_client_that_left_wakes_its_stream_once(monkeypatch: pytest.MonkeyPatch, is_woken: bool) -> None:
    async def test() -> None:
        layer = stream_layer.StreamLayerAddon(lambda _: None, AsyncMock(), Mock())
        pings = asyncio.create_task(asyncio.sleep(58))
        timer, client, kept = commands.RequestWakeup(0.001), Mock(), asyncio.get_running_loop().create_future()
        stream, handler = Mock(timers=[timer], kept=kept), Mock(client=client, transports={}, wakeup_timer={pings})
        stream.context.client = client
        handler.server_event = AsyncMock(side_effect=lambda _: kept.set_result(None))
        monkeypatch.setattr(stream_layer, "_connections", lambda: {client.id: handler})
        layer._orphans.add(stream)
        leaving = asyncio.create_task(layer.client_disconnected(client))
        await asyncio.sleep(0)
        if is_woken:
            stream.timers.remove(timer)
            kept.set_result(None)
        await leaving
        assert [each.args[0].command for each in handler.server_event.await_args_list] == [timer] * (not is_woken)
        await asyncio.sleep(0)
        assert pings.cancelled(), "it would hold all of this"

    asyncio.run(test())


def test_nothing_is_asked_of_the_clock_once_the_client_has_its_answer(play: Callable[..., Player]) -> None:
    player = play(timeout=60, heartbeat=5)
    player.upstream_sends(HEAD, piece(STREAM), END)
    before = player.to_client
    player.wait(120)
    assert player.to_client == before
    assert player.is_asleep


ENDS: dict[str, Callable[[Player], None]] = {
    "answered": lambda player: player.upstream_sends(piece(STREAM), END),
    "cut off": Player.upstream_closes,
    "lingering": lambda player: (player.upstream_sends(piece(STREAM)), player.wait(1))[1],
    "client gone": Player.client_leaves,
}


@pytest.mark.parametrize(
    ("end", "is_guarded"), [*((end, False) for end in ENDS), *((end, True) for end in ENDS if end != "lingering")]
)
def test_what_a_flow_has_is_freed_once_it_has_ended_though_its_stream_and_its_timer_stay(
    play: Callable[..., Player], play_guarded: Callable[..., Player], end: str, *, is_guarded: bool
) -> None:
    player = (play_guarded if is_guarded else play)(idle_timeout=60)
    player.upstream_sends(HEAD, BEGIN)
    gc.collect()  # from now on, only a full collection would free mitmproxy's stream
    ENDS[end](player)
    flow, wait = player.flows.pop(), player.waits.popitem()[1]
    assert wait.attempt is not None
    had = [ref(each) for each in (flow, wait, wait.attempt)]
    del flow, wait
    gc.collect(1)
    assert [each() for each in had] == [None, None, None]


def test_two_requests_of_one_connection_have_their_own_clocks(play: Callable[..., Player]) -> None:
    player = play(timeout=5)
    player.wait(4)
    player.upstream_sends(HEAD, piece(STREAM), END)
    player.ask()
    player.wait(4)
    player.upstream_sends(HEAD, piece(STREAM), END)
    assert player.to_client.count(b"HTTP/1.1 200 OK") == 2


def test_a_flow_that_no_rule_forces_is_mitmproxys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, None)
    player.ask()
    player.upstream_sends(HEAD, BEGIN)
    player.upstream_closes()
    assert b"502 Bad Gateway" in player.to_client
    assert b"text/html" in player.to_client
    assert player.is_asleep


def test_the_limits_begin_when_another_addon_lets_the_request_go(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule(**FORCED, timeout=30, idle_timeout=10), held=600)
    player.ask()
    player.wait(9)
    assert player.to_client == b""
    player.wait(2)
    assert code_of(player) == (504, "stream_timeout")


def test_a_client_whose_response_no_hook_made_gets_an_error_and_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Player, "_reply", lambda *_: None)
    monkeypatch.setattr(ClientWait, "reply_made", property(lambda _: False, lambda *_: None), raising=False)
    player = Player(monkeypatch, Rule(**FORCED))
    player.ask()
    assert player.flow is not None
    save_notes(player.flow, {"origin": "app://x"})
    player.upstream_sends(HEAD, piece(STREAM), END)
    assert code_of(player) == (502, "force_stream_error")
    assert player.answer.headers["access-control-allow-origin"] == "app://x"
    assert player.log[-1] == (
        "force-stream: another addon has kept this one from making the response; the client gets an error"
    )


HOLDERS = {(module, name.split(".")[0]) for module, names in stream_layer._NEEDED.items() for name in names.split()}


@pytest.mark.parametrize(("module", "name"), sorted(HOLDERS, key=str))
def test_what_is_missing_below_the_hooks_is_named(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    assert stream_layer.check() == ""
    monkeypatch.delattr(module, name)
    assert stream_layer.check().startswith(f"{module.__name__} has no {name}")


def test_a_missing_method_is_named_with_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(http_layers.HttpStream, "check_invalid")
    assert stream_layer.check() == "mitmproxy.proxy.layers.http has no HttpStream.check_invalid"


def test_faults_are_injected_only_where_the_answer_is_observed(play: Callable[..., Player]) -> None:
    player = play(inject={"cut_after": 1})
    wait = player.client_wait
    assert wait is not None
    assert wait.attempt is not None
    assert wait.attempt.injected == {}, "not yet"
    player.upstream_sends(HEAD, piece(STREAM))
    assert wait.attempt.injected == {"cut_after": 1}
    assert Attempt(wait.attempt.spec, wait.attempt.rule).injection is None


def test_a_made_up_status_asks_no_upstream_and_comes_after_its_delay(play: Callable[..., Player]) -> None:
    player = play(inject={"status": 429, "retry_after": 20, "delay": 3})
    player.wait(2.9)
    assert player.to_client == b""
    player.wait(0.2)
    assert (player.answer.status_code, player.answer.headers["retry-after"]) == (429, "20")
    assert player.opened == 0
    assert player.is_asleep


@pytest.mark.parametrize("keeps", [None, 300], ids=["left", "kept"])
def test_a_client_that_leaves_before_a_made_up_status_gets_nothing(
    play: Callable[..., Player], keeps: float | None
) -> None:
    player = play(inject={"status": 429, "delay": 3}, keep_answers=keeps)
    player.client_leaves()
    player.wait(4)
    assert player.flow is not None
    assert player.ends[player.flow.id] == ["error" if keeps is None else "response"]
    assert (player.to_client, player.opened) == (b"", 0)
    assert player.is_asleep


def test_heartbeats_go_on_until_a_made_up_status_which_ends_the_answer_short(play: Callable[..., Player]) -> None:
    player = play(inject={"status": 429, "delay": 3}, heartbeat=1)
    player.wait(2.5)
    assert player.to_client.endswith(b"1\r\n \r\n1\r\n \r\n")
    player.wait(1)
    assert player.closed == ["client"]
    assert not player.to_client.endswith(END)


def test_a_delay_is_silence_and_counts_for_idle_timeout(play: Callable[..., Player]) -> None:
    player = play(inject={"delay": 4}, idle_timeout=3)
    player.upstream_sends(HEAD, piece(STREAM), END)
    player.wait(3.1)
    assert player.answer.status_code == 504


def test_what_comes_during_a_delay_comes_after_it(play: Callable[..., Player]) -> None:
    player = play(inject={"delay": 2}, idle_timeout=3)
    player.upstream_sends(HEAD, piece(STREAM), END)
    player.wait(1.9)
    assert player.to_client == b""
    player.wait(0.2)
    assert player.answer.status_code == 200


def test_so_many_clients_get_a_fault_and_the_next_one_the_answer(play: Callable[..., Player]) -> None:
    player = play(inject={"status": 503, "times": 1})
    assert player.answer.status_code == 503
    player.ask()
    player.upstream_sends(HEAD, piece(STREAM), END)
    assert player.answer.status_code == 200


def test_a_request_takes_over_the_timer_that_the_one_before_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule(**FORCED, idle_timeout=3))
    for _ in range(5):
        player.ask()
        player.wait(0.1)
        assert player.wakeups == 1
        player.upstream_sends(HEAD + piece(STREAM) + END)
        assert player.answer.json() == DOCUMENT
    player.ask()
    player.wait(2.9)
    assert player.flow is not None
    assert player.flow.response is None
    player.wait(0.2)
    assert player.answer.status_code == 504


def test_the_timer_of_a_request_that_still_waits_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule(**FORCED), client_http2=True)
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    head = {":method": "POST", ":scheme": "http", ":path": CHAT, ":authority": "llm.test"}
    before = player.wakeups
    for stream_id in (1, 3):
        client.send_headers(stream_id, head.items())
        client.send_data(stream_id, b"{}", end_stream=True)
        player.ask(client.data_to_send())
    layer = player.layer
    assert player.wakeups - before >= 2
    assert len({owner for timer, owner in layer.command_sources.items() if type(timer) is commands.RequestWakeup}) == 2


def test_an_answer_that_comes_with_its_end_asks_for_no_wakeup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    player = Player(monkeypatch, Rule(**FORCED))
    player.ask()
    before = player.wakeups
    player.upstream_sends(HEAD + piece(STREAM) + END)
    assert player.answer.json() == DOCUMENT
    assert player.wakeups == before


# A client's own stream that is guarded


@pytest.fixture
def play_guarded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Player]:
    def play(**keys: Any) -> Player:
        rule = Rule("r", ("llm.test",), guard_streams=True, **keys)
        player = Player(monkeypatch, rule, asked=Asked(ENDPOINTS["chat"]), guarded=True)
        player.ask()
        return player

    return play


def test_a_guarded_stream_has_heartbeats_while_its_upstream_is_silent(play_guarded: Callable[..., Player]) -> None:
    player = play_guarded(heartbeat=2)
    event, half = STREAM.partition(b"\n\n")[0] + b"\n\n", b'data: {"x'
    player.upstream_sends(HEAD, piece(event))
    player.wait(1.5)
    player.upstream_sends(piece(half))
    assert player.to_client.endswith(piece(event)), "half an event is no sign of life"
    player.wait(0.6)
    assert player.to_client.endswith(piece(event) + BEAT)
    player.wait(2)
    assert player.to_client.endswith(piece(event) + BEAT * 2)
    player.upstream_sends(piece(b'":1}\n\n'))
    player.wait(1.9)
    assert player.to_client.endswith(BEAT + piece(half + b'":1}\n\n'))
    player.upstream_sends(piece(b"data: [DONE]\n\n"))
    player.wait(30)
    assert player.to_client.endswith(piece(b"data: [DONE]\n\n")), "none after its end"
    player.upstream_sends(END)
    assert player.to_client.endswith(piece(b"data: [DONE]\n\n") + END)
    assert player.is_asleep


@pytest.mark.parametrize(("keys", "begun"), [({"idle_timeout": 3}, 3.0), ({"timeout": 5}, 5.0)])
def test_a_guarded_stream_has_the_limits_of_its_rule(
    play_guarded: Callable[..., Player], keys: dict[str, float], begun: float
) -> None:
    player = play_guarded(**keys)
    event = STREAM.partition(b"\n\n")[0] + b"\n\n"
    player.upstream_sends(HEAD, piece(event + b"data: {"))
    player.wait(begun - 0.1)
    assert player.to_client.endswith(piece(event))
    player.wait(0.2)
    error = player.to_client.rpartition(b"data: ")[2].partition(b"\n")[0]
    assert json.loads(error)["error"]["code"] == "stream_timeout"
    assert player.to_client.endswith(END)
    assert player.closed == ["upstream"]


def test_a_guarded_stream_whose_client_leaves_is_left(play_guarded: Callable[..., Player]) -> None:
    player = play_guarded(heartbeat=2, idle_timeout=3)
    player.upstream_sends(HEAD, piece(b"data: {}\n\n"))
    player.client_leaves()
    came = player.to_client
    player.wait(10)
    assert player.to_client == came
    assert player.ends[player.flow.id] == ["error"]


@pytest.mark.parametrize("has_attempt", [True, False])
def test_a_flow_whose_request_hook_has_just_been_called_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, *, has_attempt: bool
) -> None:
    rule = Rule(**FORCED)
    attempt = Attempt(AnswerSpec(rule.name, "chat"), rule) if has_attempt else None
    flow, wait = tflow.tflow(), ClientWait(rule, attempt)
    known = {id(flow): wait}
    # mitmproxy calls the hook, and goes on with the flow when the loop comes to it again.
    stream = SimpleNamespace(flow=flow, _attempt=None, _wait=None, wait_of=lambda flow: known.get(id(flow)))
    unforced = SimpleNamespace(flow=tflow.tflow(), _attempt=None, _wait=None, wait_of=stream.wait_of)
    layers = SimpleNamespace(layer=stream, child_layer=SimpleNamespace(layer=unforced))
    monkeypatch.setattr(stream_layer, "_connections", lambda: {"c": SimpleNamespace(layer=layers)})
    addon = stream_layer.StreamLayerAddon(lambda _: None, AsyncMock(), Mock())
    assert addon.take_over() == ({flow: wait} if has_attempt else {})
