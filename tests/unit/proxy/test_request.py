"""A flow's request: the names it goes by, what forcing makes of it, and the way back."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from force_stream.answer.forcing import Refusal
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from force_stream.proxy.notes import spec_of, was_made_plain, was_made_to_stream
from force_stream.proxy.request import (
    another_attempt,
    as_it_came,
    asked_of,
    body_of,
    credentials_of,
    force,
    hosts_of,
    make_plain,
    model_of,
    name_of,
    plain_attempt,
    read_request,
    restored,
)
from force_stream.rules.rule import Rule
from harness.hostile import saved
from harness.master import answer_with, flow_with
from harness.samples import CHAT, SECRET, request
from mitmproxy import http
from mitmproxy.proxy.mode_specs import ProxyMode

RULE = Rule("r", ("127.0.0.1",), on_truncated="partial", quirks=("think_tags",))


def named(flow: http.HTTPFlow) -> dict[str, str]:
    """The headers; their names in lower case, as HTTP does not tell them apart."""
    return {name.lower(): value for name, value in flow.request.headers.items()}


def forced(flow: http.HTTPFlow, rule: Rule = RULE) -> AnswerSpec | None:
    body = body_of(flow)
    assert body is not None
    return force(flow, body, rule, ENDPOINTS["chat"])


@pytest.mark.parametrize(
    ("host_header", "sni", "hosts"),
    [
        (None, None, [("127.0.0.1", 22)]),
        ("llm.test", None, [("127.0.0.1", 22), ("llm.test", 22)]),
        ("llm.test:81", "tls.test", [("127.0.0.1", 22), ("llm.test", 81), ("tls.test", 22)]),
        ("[::1]:81", None, [("127.0.0.1", 22), ("[::1]", 81)]),
        ("::1", None, [("127.0.0.1", 22), ("::1", 22)]),
        ("llm.test:x", None, [("127.0.0.1", 22), ("llm.test:x", 22)]),
        ("llm.test:" + "9" * 100, None, [("127.0.0.1", 22), ("llm.test:" + "9" * 100, 22)]),
        ("llm.test:" + "9" * 5000, None, [("127.0.0.1", 22)]),
        ("x" * 256, "x" * 256, [("127.0.0.1", 22)]),
    ],
)
def test_a_request_goes_by_its_target_its_host_header_and_its_server_name(
    host_header: str | None, sni: str | None, hosts: list[Any]
) -> None:
    flow = flow_with()
    flow.request.port = 22
    flow.client_conn.sni = sni
    if host_header is None:
        del flow.request.headers["host"]
    else:
        flow.request.headers["host"] = host_header
    assert list(hosts_of(flow)) == hosts


@pytest.mark.parametrize(
    ("host", "sni", "host_header", "mode", "name"),
    [
        ("192.0.2.1", "tls.test", "llm.test", "transparent", "tls.test"),
        ("192.0.2.1", None, "llm.test", "transparent", "llm.test"),
        ("192.0.2.1", None, "LLM.test.:8000", "socks5", "llm.test"),
        ("2001:db8::1", None, "llm.test:8000", "local", "llm.test"),
        ("192.0.2.1", "tls.test", "192.0.2.1:443", "wireguard", "tls.test"),
        ("192.0.2.1", "tls.test", "192.0.2.1:443", "regular", "tls.test"),
        ("192.0.2.1", None, "192.0.2.1:8000", "transparent", "192.0.2.1"),
        ("192.0.2.1", None, "[2001:db8::1]:8000", "transparent", "192.0.2.1"),
        ("192.0.2.1", None, None, "transparent", "192.0.2.1"),
        # The proxy's own name, by which its client knows it.
        ("192.0.2.1", "localhost", "localhost:8080", "reverse:https://192.0.2.1", "192.0.2.1"),
        # A name stays what it is, whatever the client says.
        ("api.test", "tls.test", "llm.test", "socks5", "api.test"),
        # What is no name: it would be in a rule to paste.
        ("192.0.2.1", None, "*", "transparent", "192.0.2.1"),
        ("192.0.2.1", None, "*.test", "transparent", "192.0.2.1"),
        ("192.0.2.1", None, "llm.test, force_upstream_plain", "transparent", "192.0.2.1"),
        ("192.0.2.1", None, "bücher.test", "transparent", "192.0.2.1"),
        ("192.0.2.1", None, "x" * 300, "transparent", "192.0.2.1"),
        ("192.0.2.1", None, "", "transparent", "192.0.2.1"),
    ],
)
def test_an_upstream_whose_address_alone_is_known_goes_by_its_name(
    host: str, sni: str | None, host_header: str | None, mode: str, name: str
) -> None:
    flow = flow_with(host=host)
    flow.client_conn.sni, flow.client_conn.proxy_mode = sni, ProxyMode.parse(mode)
    flow.request.headers.pop("host", None)
    if host_header is not None:
        flow.request.headers["host"] = host_header
    assert name_of(flow) == name


def test_what_is_learned_of_an_address_does_not_hold_for_another_by_the_same_name() -> None:
    # The Host header is the client's word.
    flows = [flow_with(host="192.0.2.1"), flow_with(host="192.0.2.2"), flow_with(host="192.0.2.1")]
    for flow, named in zip(flows, ("llm.test", "llm.test", "api.test"), strict=True):
        flow.request.headers["host"] = named
    assert len({asked_of(flow, "m", ENDPOINTS["chat"]) for flow in flows}) == 3


def test_of_a_models_name_without_bound_a_hash_is_remembered() -> None:
    asked = [asked_of(flow_with(), name, ENDPOINTS["chat"]) for name in ("m", "x" * 10**6, "x" * 10**6 + "y")]
    assert len(set(asked)) == 3
    assert all(len(one.model or "") < 100 for one in asked)


@pytest.mark.parametrize(
    ("body", "model"),
    [(b'{"model": "m"}', "m"), (b'{"model": 1}', None), (b"{}", None), (b"[1]", None), (b"not JSON", None)],
)
def test_the_model_is_the_bodys_where_that_names_one(body: bytes, model: str | None) -> None:
    assert model_of(body_of(flow_with(body))) == model


def test_a_body_that_cannot_be_decoded_is_not_read() -> None:
    flow = flow_with()
    flow.request.headers["content-encoding"] = "gzip"
    flow.request.raw_content = b"\x1f\x8b not gzip"
    assert body_of(flow) is None


def test_a_plain_body_with_a_codings_label_is_read_as_it_is_and_sent_without_the_label() -> None:
    flow = flow_with()
    flow.request.headers["content-encoding"] = "gzip"
    forced(flow)
    assert "content-encoding" not in flow.request.headers
    assert json.loads(flow.request.raw_content or b"")["stream"] is True


def test_a_body_that_decodes_to_more_than_the_limit_is_not_read() -> None:
    body = b'{"model": "m"' + b" " * 1_000_000 + b"}"
    flow = flow_with(gzip.compress(body))
    flow.request.headers["content-encoding"] = "gzip"
    assert model_of(body_of(flow, len(body))) == "m"
    assert body_of(flow, len(body) - 1) is None
    read, late = asyncio.run(_read(flow, len(body))), asyncio.run(_read(flow, len(body) - 1))
    assert (read and read[1], late) == ("m", None)


async def _read(flow: http.HTTPFlow, limit: int) -> Any:
    return await read_request(flow, limit)


def test_a_forced_request_streams_and_says_how_its_answer_is_read() -> None:
    flow = flow_with(request(n=2))
    spec = forced(flow)
    assert spec == AnswerSpec("r", "chat", "m", choices=2, on_truncated="partial", quirks=("think_tags",))
    assert spec_of(flow) == spec
    assert json.loads(flow.request.content or b"") == request(n=2) | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = flow.request.headers
    assert [headers[name] for name in ("accept", "cache-control", "accept-encoding")] == [
        "text/event-stream",
        "no-cache",
        "identity",
    ]
    assert headers["content-length"] == str(len(flow.request.raw_content or b""))


@pytest.mark.parametrize(
    ("version", "name"), [("HTTP/1.0", "Accept"), ("HTTP/1.1", "Accept"), ("HTTP/2.0", "accept"), ("HTTP/3", "accept")]
)
def test_a_headers_name_is_spelled_as_the_version_of_http_asks(version: str, name: str) -> None:
    flow = flow_with(request())
    flow.request.http_version = version
    forced(flow)
    assert [key for key, _ in flow.request.headers.items(multi=True) if key.lower() == "accept"] == [name]


def test_what_a_rule_adds_is_sent_and_noted_and_goes_again() -> None:
    flow = flow_with(request(store=True))
    before = flow.request.content
    rule = Rule("r", ("h",), extra_body={"store": False, "x": [1]}, fill={"choices.*.message.refusal": None})
    spec = forced(flow, rule)
    assert json.loads(flow.request.content or b"").items() >= {"store": False, "x": [1], "stream": True}.items()
    assert spec is not None
    assert spec.fill == '{"choices.*.message.refusal":null}'
    assert spec_of(flow) == spec
    assert restored(flow).request.content == before


def test_what_vouches_for_its_bytes_is_not_changed() -> None:
    for name, value in {"content-digest": "sha-256=:x=:", "authorization": "AWS4-HMAC-SHA256 x"}.items():
        flow = flow_with()
        flow.request.headers[name] = value
        before = flow.request.get_state()
        with pytest.raises(Refusal, match=rf"signed \({name}\)"):
            forced(flow)
        assert flow.request.get_state() == before


def test_a_compressed_body_is_sent_plain() -> None:
    flow = flow_with()
    flow.request.headers["content-encoding"] = "gzip"
    flow.request.content = flow.request.raw_content
    forced(flow)
    assert "content-encoding" not in flow.request.headers
    assert json.loads(flow.request.raw_content or b"")["stream"] is True


@pytest.mark.parametrize("accept", [None, b"application/json", b"application/json; q=\xff\xc3"])
def test_restoring_gives_the_request_as_it_came_in_a_new_flow(accept: bytes | None) -> None:
    flow = flow_with()
    if accept:
        flow.request.headers["accept"] = accept
    came = named(flow), flow.request.raw_content
    forced(flow)
    assert saved(flow)
    answer_with(flow)
    flow.comment = flow.marked = "x"
    plain = restored(flow)
    assert (named(plain), plain.request.raw_content) == came
    assert (plain.response, plain.error, plain.comment, plain.marked, plain.metadata) == (None, None, "", "", {})
    assert plain.is_replay == "request"
    assert plain.id != flow.id
    assert was_made_to_stream(flow)


@pytest.mark.parametrize("accept", [None, b"text/event-stream", b"*/*; q=\xff\xc3"])
def test_restoring_a_request_that_was_made_plain_gives_it_as_it_came(accept: bytes | None) -> None:
    flow = flow_with(request(stream=True, stream_options={"include_usage": True}))
    flow.request.headers["cache-control"] = "no-store"
    if accept:
        flow.request.headers["accept"] = accept
    came = named(flow), flow.request.raw_content
    body = body_of(flow)
    assert body is not None
    spec, asked = make_plain(flow, body, RULE, ENDPOINTS["chat"])
    assert (spec.endpoint, asked.with_usage) == ("chat", True)
    assert json.loads(flow.request.raw_content or b"") == request()
    assert (flow.request.headers["accept"], flow.request.headers["cache-control"]) == ("application/json", "no-store")
    assert was_made_plain(flow)
    assert not was_made_to_stream(flow)
    assert saved(flow)
    plain = restored(flow)
    assert (named(plain), plain.request.raw_content) == came


def test_what_vouches_for_its_bytes_is_not_made_plain() -> None:
    flow = flow_with(request(stream=True))
    flow.request.headers["content-digest"] = "sha-256=:x:"
    before, body = flow.get_state(), body_of(flow)
    assert body is not None
    with pytest.raises(Refusal, match="signed"):
        make_plain(flow, body, RULE, ENDPOINTS["chat"])
    assert flow.get_state() == before


def test_a_body_that_a_person_edited_since_stays_as_it_is() -> None:
    flow = flow_with()
    forced(flow)
    edited = (flow.request.raw_content or b"") + b" "
    assert as_it_came(flow, edited) == edited


def test_another_attempt_is_forced_alike_and_linked_to_the_first() -> None:
    flow = flow_with()
    spec = forced(flow)
    flow.metadata["force_stream.sse"] = b"data: 1"
    second, third = another_attempt(flow), another_attempt(flow)
    assert (second.request.raw_content, spec_of(third)) == (flow.request.raw_content, spec)
    assert [
        again.metadata.get(f"force_stream.{key}") for again in (second, third) for key in ("retry_of", "try", "sse")
    ] == [
        *(flow.id, 2, None),
        *(flow.id, 3, None),
    ]
    assert flow.metadata["force_stream.retried_as"] == [second.id, third.id]


def test_another_attempt_is_like_the_one_that_it_repeats_and_linked_to_the_first() -> None:
    flow = flow_with()
    came = flow.request.raw_content
    spec = forced(flow)
    assert spec is not None
    plain = plain_attempt(flow, spec)
    again = another_attempt(flow, plain)
    assert [(each.request.raw_content, was_made_to_stream(each)) for each in (plain, again)] == [(came, False)] * 2
    assert [(each.metadata["force_stream.retry_of"], each.metadata["force_stream.try"]) for each in (plain, again)] == [
        (flow.id, 2),
        (flow.id, 3),
    ]
    assert flow.metadata["force_stream.retried_as"] == [plain.id, again.id]
    assert plain.metadata["force_stream.endpoint"] == "chat"


@pytest.mark.parametrize(
    "change",
    [
        lambda flow: flow.request.headers.update(authorization="Bearer other"),
        lambda flow: flow.request.headers.update({"api-key": "other"}),
        lambda flow: flow.request.headers.update({"openai-organization": "other"}),
        lambda flow: setattr(flow.request, "path", f"{CHAT}?key=other"),
    ],
)
def test_credentials_are_told_apart_by_a_hash(change: Callable[[http.HTTPFlow], None]) -> None:
    flow, other = flow_with(), flow_with(request(temperature=1))
    assert credentials_of(flow) == credentials_of(other)
    assert SECRET.encode() not in credentials_of(flow)
    change(other)
    assert credentials_of(flow) != credentials_of(other)
