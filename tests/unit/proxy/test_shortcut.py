"""Bytes that somebody takes as soon as they are read, and all others as mitmproxy would have had them."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from force_stream import ENDPOINTS
from force_stream.answer.unfold import Asked
from force_stream.proxy import shortcut, stream_layer
from force_stream.rules.rule import Rule
from harness.player import END, HEAD, Player, piece
from harness.samples import choice, chunk
from harness.steps import sse
from mitmproxy.certs import CertStore
from mitmproxy.connection import Server
from mitmproxy.proxy.layers.tls import ClientTLSLayer, ServerTLSLayer, TLSLayer
from OpenSSL import SSL

WORDS = [f"word{number} " for number in range(20)]
LAST = piece(sse(chunk(choice(finish_reason="stop")))) + END
SERVER = Server(address=("llm.test", 443))


def word(text: str) -> bytes:
    return piece(sse(chunk(choice(content=text)), done=False))


def new_reader() -> Any:
    reader = asyncio.StreamReader(loop=Mock())
    reader._waiter = Mock()
    return reader


def tls_layer(tls: Any, cls: type[TLSLayer] = ServerTLSLayer, outer: Any = SERVER) -> TLSLayer:
    layer = cls.__new__(cls)
    layer.conn, layer.tunnel_connection, layer.tls = SERVER, outer, tls
    return layer


# The answer


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> Player:
    player = Player(monkeypatch, Rule("r", hosts=(".",)))
    player.ask()
    return player


def content_of(player: Player) -> str:
    return player.answer.json()["choices"][0]["message"]["content"]


def test_most_of_an_answer_does_not_wake_mitmproxy(player: Player) -> None:
    player.upstream_sends(HEAD, *map(word, WORDS), LAST)
    assert content_of(player) == "".join(WORDS)
    assert player.handled < 6


def test_a_stream_in_place_of_a_plain_answer_that_nobody_gets_live_does_not_wake_mitmproxy_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Player, "_pass_on", lambda _, flow: None)  # it is another try of a client's flow
    player = Player(monkeypatch, Rule("r", hosts=(".",)), asked=Asked(ENDPOINTS["chat"]))
    player.ask()
    player.upstream_sends(HEAD, *map(word, WORDS), LAST)
    assert all(text in player.to_client.decode() for text in WORDS)
    assert player.handled < 6


def test_an_unknown_reader_is_left_alone(
    player: Player, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_layer, "_UNKNOWN_READER", "asyncio's StreamReader has no _waiter")
    player = Player(monkeypatch, Rule("r", hosts=(".",)))
    player.ask()
    player.upstream_sends(HEAD, *map(word, WORDS), LAST)
    assert content_of(player) == "".join(WORDS)
    assert player.handled == 2 + len(WORDS)
    assert "asyncio's StreamReader has no _waiter; so mitmproxy is woken for each event" in caplog.text


def test_the_limits_hold_for_what_does_not_wake_mitmproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule("r", hosts=(".",), idle_timeout=3, max_body=3000))
    player.ask()
    player.upstream_sends(HEAD, *map(word, WORDS[:8]))
    for _ in range(4):
        player.wait(2)
        player.upstream_sends(word("more "))
    assert player.handled < 6
    assert player.to_client == b""
    player.upstream_sends(*map(word, WORDS))
    assert b"stream_too_large" in player.to_client


def test_silence_after_what_did_not_wake_mitmproxy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(monkeypatch, Rule("r", hosts=(".",), idle_timeout=3))
    player.ask()
    player.upstream_sends(HEAD, *map(word, WORDS))
    player.wait(2.9)
    assert player.to_client == b""
    player.wait(0.2)
    assert b"stream_timeout" in player.to_client


def test_every_piece_has_its_time(player: Player) -> None:
    player.upstream_sends(HEAD)
    for text in WORDS:
        player.wait(0.1)
        player.upstream_sends(word(text))
    assert player.client_wait is not None
    assert player.client_wait.attempt is not None
    times = player.client_wait.attempt.times[::2]
    assert times == pytest.approx([0.1 * number for number in range(1, 1 + len(WORDS))])


def test_a_bug_becomes_the_answer(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    player.upstream_sends(HEAD, *map(word, WORDS[:5]))
    monkeypatch.setattr(player.client_wait.attempt._reader, "wait", Mock(side_effect=KeyError))
    player.upstream_sends(word("x"))
    assert b"could not be aggregated" in player.to_client


# The reader


def test_what_is_not_taken_goes_mitmproxys_way() -> None:
    reader, offered = new_reader(), []
    shortcut.offer(reader, SERVER, [], lambda data: offered.append(data) or data == b"taken")
    for data in (b"taken", b"left"):
        reader.feed_data(data)
    assert (offered, bytes(reader._buffer)) == ([b"taken", b"left"], b"left")


def test_nothing_is_offered_before_mitmproxy_has_handled_what_came_before() -> None:
    reader, accept = new_reader(), Mock(return_value=True)
    shortcut.offer(reader, SERVER, [], accept)
    reader._waiter = None
    reader.feed_data(b"data")
    assert bytes(reader._buffer) == b"data"
    reader._waiter = Mock()
    reader.feed_data(bytes(shortcut.MOST + 1))
    accept.assert_not_called()


def test_each_request_of_a_connection_says_anew_who_is_offered_its_bytes() -> None:
    reader, first, second = new_reader(), Mock(return_value=True), Mock(return_value=True)
    shortcut.offer(reader, SERVER, [], first)
    shortcut.offer(reader, SERVER, [], second)
    reader.feed_data(b"data")
    first.assert_not_called()
    second.assert_called_once_with(b"data")


@pytest.mark.parametrize(
    "layers",
    [
        [tls_layer(Mock(spec=SSL.Connection))],
        [tls_layer(None, ClientTLSLayer)],
        [tls_layer(None)],
        [tls_layer(SSL.Connection(SSL.Context(SSL.TLS_METHOD)))] * 2,
    ],
    ids=["unknown TLS", "another tunnel", "TLS that has not begun", "two tunnels"],
)
def test_nothing_is_offered_where_something_unknown_is_between(layers: list[Any]) -> None:
    reader = new_reader()
    shortcut.offer(reader, SERVER, layers, Mock())
    assert type(reader) is asyncio.StreamReader
    shortcut.offer(None, SERVER, [], Mock())


def test_this_reader_is_known() -> None:
    assert shortcut.unknown_reader() == ""


def test_an_unknown_reader_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TLSLayer.__annotations__, "tls")
    assert shortcut.unknown_reader() == "mitmproxy's TLSLayer has no tls"
    monkeypatch.delattr(asyncio.StreamReader, "_wakeup_waiter")
    assert shortcut.unknown_reader() == "asyncio's StreamReader has no _waiter"


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    CertStore.create_store(folder, "ca", 2048)
    return folder / "ca-ca.pem"


class Tls:
    """Both ends of a TLS connection, ours in mitmproxy's layer; `accepts`: the bytes that are taken."""

    def __init__(self, certificate: Path, accepts: bytes = b"") -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_file(str(certificate))
        context.use_privatekey_file(str(certificate))
        self.upstream = SSL.Connection(context)
        self.upstream.set_accept_state()
        tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
        tls.set_connect_state()
        for _ in range(3):
            for end, other in ((tls, self.upstream), (self.upstream, tls)):
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                _pass_on(end, other)
        self.layer = tls_layer(tls)
        self.layer.debug = None
        self.read: list[bytes] = []
        self.offered: list[bytes] = []
        self.log: list[str] = []
        self.reader = new_reader()
        shortcut.offer(self.reader, SERVER, [self.layer], lambda data: self.offered.append(data) or data == accepts)
        self.mitmproxy_reads()

    def sends(self, data: bytes) -> bytes:
        self.upstream.send(data)
        return self.upstream.bio_read(65535)

    def comes(self, encrypted: bytes) -> None:
        self.reader._waiter = Mock()
        self.reader.feed_data(encrypted)

    def mitmproxy_reads(self) -> None:
        """What `ConnectionHandler.handle_connection` and its TLS layer do with what has come."""
        self.layer.event_to_child = lambda event: self.read.append(getattr(event, "data", None)) or iter(())
        encrypted = bytes(self.reader._buffer)
        self.reader._buffer.clear()
        for command in self.layer.receive_data(encrypted):
            self.log.append(getattr(command, "message", ""))


def _pass_on(end: SSL.Connection, other: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        other.bio_write(end.bio_read(65535))


def test_decrypted_bytes_are_offered_and_those_that_are_taken_are_gone(certificate: Path) -> None:
    tls = Tls(certificate, b"taken")
    for data in (b"taken", b"left", b"taken"):
        tls.comes(tls.sends(data))
        tls.mitmproxy_reads()
    assert tls.offered[-3:] == [b"taken", b"left", b"taken"]
    assert tls.read == [b"left"]


def test_what_comes_before_mitmproxy_has_read_what_was_left_is_behind_it(certificate: Path) -> None:
    tls = Tls(certificate, b"taken")
    tls.comes(tls.sends(b"left"))
    tls.reader._waiter = None
    tls.reader.feed_data(tls.sends(b"taken"))
    tls.mitmproxy_reads()
    assert b"".join(tls.read) == b"lefttaken"


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_record_that_comes_in_two_parts_is_read_once(certificate: Path, cut: int) -> None:
    tls = Tls(certificate, b"taken")
    record = tls.sends(b"taken")
    tls.comes(record[:cut])
    tls.mitmproxy_reads()
    tls.comes(record[cut:])
    tls.mitmproxy_reads()
    assert tls.read == []
    record = tls.sends(b"left")
    tls.comes(record[:cut])
    tls.reader._waiter = None
    tls.reader.feed_data(record[cut:])
    tls.mitmproxy_reads()
    assert tls.read == [b"left"]


def test_the_end_of_a_connection_is_for_mitmproxy(certificate: Path) -> None:
    tls = Tls(certificate, b"taken")
    tls.upstream.send(b"taken")
    tls.upstream.shutdown()
    tls.comes(tls.upstream.bio_read(65535))
    tls.layer.conn = Server(address=("llm.test", 443))
    tls.mitmproxy_reads()
    assert tls.read == [b"taken", None]


def test_a_fault_of_a_connection_is_mitmproxys_to_tell(certificate: Path) -> None:
    tls = Tls(certificate, b"taken")
    record = bytearray(tls.sends(b"taken"))
    record[-1] ^= 1
    tls.comes(bytes(record))
    tls.mitmproxy_reads()
    assert tls.read == []
    assert "bad record mac" in "".join(tls.log)
