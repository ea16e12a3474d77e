"""An HTTP/2 upstream that goes away in the middle of answers, without sockets."""

import json
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from force_stream.proxy import goaway, stream_layer
from force_stream.rules.rule import Rule
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from harness.player import Player
from harness.samples import CHAT, DOCUMENT, STREAM
from hpack import Encoder
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame

FORCED: dict[str, Any] = {"name": "r", "hosts": ("llm.test",), "force_upstream_stream": True}
HEAD = [(":status", "200"), ("content-type", "text/event-stream")]
GRACEFUL = 2**31 - 1


class Upstream:
    """The upstream's side of the player's latest connection. `asked`: its streams with a whole request."""

    def __init__(self, player: Player, seen: int | None = None) -> None:
        self._player = player
        self._seen = len(player.to_upstream) if seen is None else seen
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.asked: list[int] = []
        self.ended: list[int] = []

    def listen(self) -> None:
        data, self._seen = self._player.to_upstream[self._seen :], len(self._player.to_upstream)
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.StreamEnded):
                self.asked.append(event.stream_id)
        self.send()

    def send(self, *frames: Any) -> None:
        self._player.upstream_sends(self.h2.data_to_send() + b"".join(frame.serialize() for frame in frames))

    def goes(self, last: int, code: int = 0) -> None:
        self.send(GoAwayFrame(0, last_stream_id=last, error_code=code))

    def refuses(self, stream_id: int, code: int = ErrorCodes.REFUSED_STREAM) -> None:
        self.h2.reset_stream(stream_id, code)
        self.send()

    def begins(self, data: bytes, stream_id: int = 1) -> None:
        self.h2.send_headers(stream_id, HEAD)
        self.h2.send_data(stream_id, data)
        self.send()

    def ends(self, data: bytes, stream_id: int = 1) -> None:
        self.h2.send_data(stream_id, data, end_stream=True)
        self.send()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Player, Upstream]]:
    """`play(key=value)`: a player whose client has asked, and its HTTP/2 upstream, which has the whole request."""

    def play(**keys: Any) -> tuple[Player, Upstream]:
        player = Player(monkeypatch, Rule(**FORCED, **keys), http2=True)
        upstream = Upstream(player)
        player.ask()
        upstream.listen()
        assert upstream.asked == [1]
        return player, upstream

    return play


Play = Callable[..., tuple[Player, Upstream]]


def code_of(player: Player) -> tuple[int, str]:
    return player.answer.status_code, json.loads(player.answer.content or b"")["error"]["code"]


@pytest.mark.parametrize("last", [(1,), (GRACEFUL,), (GRACEFUL, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("before", [0, 1, 30, len(STREAM)], ids="after {} bytes".format)
def test_a_stream_that_a_goaway_covers_goes_on_to_its_end(play: Play, last: tuple[int, ...], before: int) -> None:
    player, upstream = play()
    if before:
        upstream.begins(STREAM[:before])
    for each in last:
        upstream.goes(each)
    assert player.closed == []
    if not before:
        upstream.begins(b"")
    upstream.ends(STREAM[before:])
    assert (player.answer.status_code, player.answer.json()) == (200, DOCUMENT)
    assert player.closed == ["upstream"]
    assert player.opened == 1


def test_the_next_request_goes_over_another_connection(play: Play) -> None:
    player, upstream = play()
    upstream.begins(STREAM)
    upstream.goes(GRACEFUL)
    upstream.ends(b"")
    second = Upstream(player)
    player.ask()
    second.listen()
    second.begins(STREAM)
    second.ends(b"")
    assert player.opened == 2
    assert player.to_client.count(b"HTTP/1.1 200 OK") == 2


def test_a_goaway_between_two_answers_closes_the_connection_at_once(play: Play) -> None:
    player, upstream = play()
    upstream.begins(STREAM)
    upstream.ends(b"")
    assert player.closed == []
    upstream.goes(1)
    assert player.closed == ["upstream"]


def test_a_request_that_the_goaway_does_not_cover_is_sent_once_more(play: Play) -> None:
    player, upstream = play()
    second = Upstream(player)
    upstream.goes(0)
    assert (player.opened, player.closed) == (2, ["upstream"])
    second.listen()
    assert second.asked == [1]
    second.begins(STREAM)
    second.ends(b"")
    assert player.answer.json() == DOCUMENT
    assert player.hooks.count("request") == 1


def test_an_upstream_that_only_ever_goes_away_is_given_up(play: Play) -> None:
    player, upstream = play()
    for _ in range(stream_layer.MOST_SENDINGS):
        following = Upstream(player)
        upstream.goes(0)
        upstream = following
    assert code_of(player) == (502, "upstream_unreachable")
    assert player.opened == stream_layer.MOST_SENDINGS


def test_a_stream_that_is_answered_although_the_goaway_does_not_cover_it_is_cut_off(play: Play) -> None:
    player, upstream = play()
    upstream.begins(STREAM[:30])
    upstream.goes(0)
    assert code_of(player) == (502, "stream_truncated")
    assert player.opened == 1


def test_a_request_that_the_upstream_refuses_is_sent_once_more_over_the_same_connection(play: Play) -> None:
    player, upstream = play()
    upstream.refuses(1)
    upstream.listen()
    assert (upstream.asked, player.opened, player.closed) == ([1, 3], 1, [])
    upstream.begins(STREAM, 3)
    upstream.ends(b"", 3)
    assert player.answer.json() == DOCUMENT
    assert player.hooks.count("request") == 1


def test_an_upstream_that_only_ever_refuses_is_given_up(play: Play) -> None:
    player, upstream = play()
    for sending in range(stream_layer.MOST_SENDINGS):
        assert player.to_client == b""
        upstream.refuses(1 + 2 * sending)
        upstream.listen()
    assert code_of(player) == (502, "upstream_unreachable")
    assert len(upstream.asked) == stream_layer.MOST_SENDINGS


@pytest.mark.parametrize("code", [code for code in ErrorCodes if code != ErrorCodes.REFUSED_STREAM])
def test_a_request_that_is_reset_for_another_reason_is_sent_once(play: Play, code: ErrorCodes) -> None:
    player, upstream = play()
    upstream.refuses(1, code)
    upstream.listen()
    assert code_of(player) == (502, "upstream_unreachable")
    assert upstream.asked == [1]


def test_a_stream_that_is_refused_although_it_was_answered_is_cut_off(play: Play) -> None:
    player, upstream = play()
    upstream.begins(STREAM[:30])
    upstream.refuses(1)
    upstream.listen()
    assert code_of(player) == (502, "stream_truncated")
    assert upstream.asked == [1]


@pytest.mark.parametrize("code", [0, 11], ids=["NO_ERROR", "ENHANCE_YOUR_CALM"])
def test_a_close_after_a_goaway_cuts_the_stream_off(play: Play, code: int) -> None:
    player, upstream = play()
    upstream.begins(STREAM[:30])
    upstream.goes(1, code)
    assert player.to_client == b""
    player.upstream_closes()
    assert code_of(player) == (502, "stream_truncated")


def test_silence_after_a_goaway_is_given_up_after_the_idle_timeout(play: Play) -> None:
    player, upstream = play(idle_timeout=3)
    upstream.begins(STREAM[:30])
    upstream.goes(1)
    player.wait(3.1)
    assert code_of(player) == (504, "stream_timeout")
    assert player.closed == ["upstream"]


def test_empty_data_frames_are_no_bytes(play: Play) -> None:
    player, upstream = play(idle_timeout=3)
    upstream.begins(STREAM[:30])
    for _ in range(3):
        player.wait(1)
        upstream.send(DataFrame(1, data=b""))
    player.wait(0.1)
    assert code_of(player) == (504, "stream_timeout")


def test_this_h2_is_known() -> None:
    assert goaway.unknown_h2() == ""


def test_an_unknown_h2_is_named_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, play: Play
) -> None:
    with monkeypatch.context() as other:
        other.delattr(H2Connection, "_receive_goaway_frame")
        other.setattr(H2Connection, "__init__", lambda *_: None)
        unknown = goaway.unknown_h2()
    assert "_frame_dispatch_table" in unknown
    monkeypatch.setattr(stream_layer, "_UNKNOWN_H2", unknown)
    player, upstream = play()
    assert f"force-stream: {unknown}; so an HTTP/2 GOAWAY cuts off an answer, as in mitmproxy alone" in caplog.messages
    upstream.begins(STREAM[:30])
    upstream.goes(1)
    assert code_of(player) == (502, "stream_truncated")


def test_a_client_that_leaves_after_a_goaway_ends_its_flow_once(play: Play) -> None:
    player, upstream = play()
    upstream.begins(STREAM[:30])
    upstream.goes(1)
    player.client_leaves()
    assert player.hooks[-2:] == ["responseheaders", "error"]
    assert sorted(player.closed) == ["client", "upstream"]


def test_what_was_read_with_the_end_of_another_answer_is_not_lost_after_a_goaway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    player = Player(monkeypatch, Rule(**FORCED, max_body=len(STREAM)), http2=True, client_http2=True)
    client = H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    for stream_id in (1, 3):
        head = {":method": "POST", ":scheme": "http", ":path": CHAT, ":authority": "llm.test"}
        client.send_headers(stream_id, head.items())
        client.send_data(stream_id, b"{}", end_stream=True)
    player.ask(client.data_to_send())
    upstream = Upstream(player, seen=0)
    upstream.listen()
    assert upstream.asked == [1, 3]
    upstream.goes(3)
    for stream_id in (1, 3):
        upstream.begins(b"", stream_id)
    upstream.h2.send_data(1, STREAM + b"\n" * 99)
    upstream.h2.send_data(3, STREAM, end_stream=True)
    upstream.send()
    got: dict[int, bytes] = {1: b"", 3: b""}
    for event in client.receive_data(player.to_client):
        if isinstance(event, h2.events.DataReceived):
            got[event.stream_id] += event.data
    assert json.loads(got[1])["error"]["code"] == "stream_too_large"
    assert json.loads(got[3]) == DOCUMENT


@pytest.mark.parametrize("live", [False, True], ids=["forced", "a stream of its own"])
def test_trailers_are_not_for_a_client_of_http1(monkeypatch: pytest.MonkeyPatch, live: bool) -> None:
    player = Player(monkeypatch, Rule(**FORCED), http2=True, live=live)
    upstream = Upstream(player)
    player.ask()
    upstream.listen()
    body = json.dumps(DOCUMENT).encode()
    upstream.h2.send_headers(1, [(":status", "200"), ("content-type", "application/json")])
    upstream.h2.send_data(1, body)
    upstream.h2.send_headers(1, [("x-sum", "1")], end_stream=True)
    upstream.send()
    assert player.to_client.endswith(b"\r\n\r\n" + body)
    assert player.hooks[-1] == "response"


@pytest.mark.parametrize("sent", [0, 20])
def test_a_body_that_trailers_end_before_its_content_length_is_cut_off(play: Play, sent: int) -> None:
    player, upstream = play()
    body = json.dumps(DOCUMENT).encode()
    fields = {":status": "200", "content-type": "application/json", "content-length": f"{len(body)}"}
    upstream.h2.send_headers(1, fields.items())
    if sent:
        upstream.h2.send_data(1, body[:sent])
    upstream.send(HeadersFrame(1, data=Encoder().encode([("x-sum", "1")]), flags=["END_HEADERS", "END_STREAM"]))
    assert code_of(player) == (502, "stream_truncated")


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_that_has_no_body_brings_none_into_a_clients_connection(play: Play, status: int) -> None:
    player, upstream = play()
    upstream.h2.send_headers(1, [(":status", f"{status}")])
    upstream.send(DataFrame(1, data=b"HTTP/1.1 200 OK\r\n\r\n", flags=["END_STREAM"]))
    assert player.to_client.count(b"HTTP/1.1") == 1
    assert player.to_client.endswith(b"\r\n\r\n")
