"""Which client is said not to trust the certificate, how often, and what the line names."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from force_stream.addon import certificates
from force_stream.addon.certificates import Certificates
from force_stream.rules.rule import Rule
from mitmproxy import tls
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons, tflow

REFUSED = "The client does not trust the proxy's certificate for x (tlsv1 alert unknown ca)"
LEFT = (
    "The client disconnected during the handshake. If this happens consistently for x, this may indicate that the "
    "client does not trust the proxy's certificate."
)
MAY = "The client may not trust the proxy's certificate for x (OpenSSL Error([]))"
NONE = "Client and mitmproxy cannot agree on a TLS version to use."
HOST = "llm.example.com"
RULE = Rule("r", (HOST, "192.0.2.1"))


@contextmanager
def watching(*, force_stream: bool = True) -> Iterator[Certificates]:
    ours = Certificates(lambda: [RULE])
    with taddons.context(ours) as context:
        context.options.add_option("force_stream", bool, force_stream, "")
        yield ours


def data_of(
    error: str | None = None,
    *,
    peer: str = "192.0.2.7",
    mode: str = "regular",
    sni: str | None = HOST,
    address: tuple[str, int] | None = ("192.0.2.9", 443),
) -> tls.TlsData:
    flow = tflow.tflow()
    client = flow.client_conn
    client.peername, client.sockname, client.sni, client.error = (peer, 1), ("127.0.0.1", 8080), sni, error
    client.proxy_mode = ProxyMode.parse(mode)
    context = Context(client, None)  # type: ignore[arg-type]
    context.server.address = address
    return tls.TlsData(client, context)


def request_of(data: tls.TlsData) -> tflow.http.HTTPFlow:
    flow = tflow.tflow()
    flow.client_conn = data.context.client
    return flow


@pytest.mark.parametrize(
    ("errors", "lines"),
    [
        ([REFUSED], 1),
        ([REFUSED] * 3, 1),
        ([LEFT], 0),
        ([LEFT] * 2, 1),
        ([MAY, LEFT, LEFT, REFUSED], 1),
        ([LEFT, REFUSED, REFUSED], 1),
        ([NONE] * 3, 0),
        ([""] * 3, 0),
    ],
)
def test_a_client_is_told_of_once_and_at_once_only_if_it_says_why(
    errors: list[str], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with watching() as ours:
        for error in errors:
            ours.tls_failed_client(data_of(error))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * lines


def test_a_client_that_leaves_without_a_request_is_told_of_at_the_second_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with watching() as ours:
        for _ in range(3):
            data = data_of()
            ours.tls_established_client(data)
            ours.client_disconnected(data.context.client)
    (line,) = caplog.messages
    assert line.startswith(f"192.0.2.7 closes its connections to {HOST} at once: it may not trust")


@pytest.mark.parametrize("hook", ["requestheaders", "tcp_start"])
def test_a_client_that_has_sent_something_trusts_the_certificate(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    with watching() as ours:
        for sends in (False, True, False, False, False, True, False, False):
            data = data_of()
            ours.tls_established_client(data)
            if sends:
                getattr(ours, hook)(request_of(data))
            ours.client_disconnected(data.context.client)
    assert not caplog.messages


def test_of_clients_with_one_address_that_which_refuses_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with watching() as ours:
        for _ in range(3):
            trusting = data_of()
            ours.tls_established_client(trusting)
            ours.requestheaders(request_of(trusting))
            ours.client_disconnected(trusting.context.client)
            ours.tls_failed_client(data_of(REFUSED))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("sni", "address", "said"),
    [
        (HOST, ("192.0.2.9", 443), HOST),
        (HOST, ("192.0.2.9", 8443), f"{HOST}:8443"),
        (None, (HOST, 443), HOST),
        (None, ("192.0.2.1", 443), "192.0.2.1"),
        ("other.example", ("192.0.2.1", 443), "other.example"),
        ("other.example", ("192.0.2.9", 443), None),
        (None, None, None),
    ],
)
def test_only_hosts_that_a_rule_names_are_told_of(
    sni: str | None, address: tuple[str, int] | None, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with watching() as ours:
        ours.tls_failed_client(data_of(REFUSED, sni=sni, address=address))
    assert [f"certificate for {said}, so" in line for line in caplog.messages] == [True] * (said is not None)


def test_the_line_names_the_cure(caplog: pytest.LogCaptureFixture) -> None:
    with watching() as ours:
        ours.tls_failed_client(data_of(REFUSED, address=("192.0.2.9", 8443)))
        ours.tls_failed_client(
            data_of(REFUSED, mode="reverse:https://192.0.2.1", sni="localhost", address=("192.0.2.1", 443))
        )
    regular, reverse = caplog.messages
    assert f"--mode reverse:https://{HOST}:8443 --set connection_strategy=lazy" in regular
    assert "begins with http://127.0.0.1:8080 instead of https://" in reverse


def test_nothing_is_said_while_the_addon_is_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    with watching(force_stream=False) as ours:
        ours.tls_failed_client(data_of(REFUSED))
    assert not caplog.messages


def test_each_client_and_host_has_its_line_and_the_oldest_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(certificates, "_MOST", 2)
    with watching() as ours:
        for peer in ("192.0.2.7", "192.0.2.8", "192.0.2.7", "192.0.2.9", "192.0.2.7", "192.0.2.8"):
            ours.tls_failed_client(data_of(REFUSED, peer=peer))
        for peer in ("192.0.2.8", "192.0.2.9", "192.0.2.7"):
            trusting = data_of(peer=peer)
            ours.tls_established_client(trusting)
            ours.requestheaders(request_of(trusting))
        assert len(ours._left) == 2
    assert [line.split()[0][-1] for line in caplog.messages] == ["7", "8", "9", "8"]
