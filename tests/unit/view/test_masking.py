"""A flow that can be shown to others: a secret in every place and every spelling, and what must stay as it was."""

import base64
import copy
import gzip
import html
import io
import json
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import brotli
import pytest
from force_stream.view import masking
from force_stream.view.masking import STAND_IN, Masker
from force_stream.wire import credentials
from harness.certs import Certs
from harness.samples import STREAM
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.certs import Cert
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test import tflow

SECRET = 'Kx7+pQ/2"zR=m9&tW ü4'
KEY = "sk-live-0123456789abcdefghij"
AROUND = f"what stands before {KEY} and after it"


def flow_with(**parts: Any) -> http.HTTPFlow:
    """A flow whose credential is the key."""
    flow = tflow.tflow(resp=True)
    flow.request.headers["authorization"] = f"Bearer {KEY}"
    for path, value in parts.items():
        target = flow
        *parents, last = path.split("__")
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    return flow


def masked(*flows: http.HTTPFlow) -> list[dict[str, Any]]:
    masker = Masker()
    for flow in flows:
        masker.learn(flow.get_state())
    return [masker.mask(flow.get_state()) for flow in flows]


def written(state: dict[str, Any]) -> bytes:
    """The flow file of a flow's state."""
    file = io.BytesIO()
    FlowWriter(file).add(http.HTTPFlow.from_state(copy.deepcopy(state)))
    return file.getvalue()


def event(text: str, **more: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": text}, **more}]}).encode()


def in_header(flow: http.HTTPFlow, text: str) -> None:
    flow.response.headers["x-echo"] = text


def in_path(flow: http.HTTPFlow, text: str) -> None:
    flow.request.path = f"/{quote(text)}/v1/chat?x={quote_plus(text)}"


def in_request(flow: http.HTTPFlow, text: str) -> None:
    flow.request.raw_content = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


def in_response(flow: http.HTTPFlow, text: str) -> None:
    flow.response.raw_content = json.dumps({"content": text}).encode()


def compressed(coding: str, compress: Callable[[bytes], bytes]) -> Callable[[http.HTTPFlow, str], None]:
    def write(flow: http.HTTPFlow, text: str) -> None:
        for message in (flow.request, flow.response):
            message.raw_content = compress(text.encode())
            message.headers["content-encoding"] = coding
            message.headers["content-length"] = str(len(message.raw_content))

    return write


def in_trailers(flow: http.HTTPFlow, text: str) -> None:
    flow.response.trailers = http.Headers([(b"x-trailer", text.encode())])


def in_metadata(flow: http.HTTPFlow, text: str) -> None:
    flow.metadata = {
        "force_stream.sse": event(text),
        "force_stream.undo": [[0, 1, text.encode()]],
        "force_stream.headers_undo": [["accept", text.encode()]],
        "force_stream.head": [["x-echo", text.encode()]],
        "force_stream.odd": [text],
        "force_stream.cause": text,
        "force_stream.error": text,
        "force_stream.usage": json.dumps({"x": text}),
        "of another addon": {"deep": [(text, 1), {text: 2}]},
    }


def in_stream(flow: http.HTTPFlow, text: str) -> None:
    flow.metadata["force_stream.sse"] = b"".join(event(text[place : place + 3]) for place in range(0, len(text), 3))


def in_tool_call(flow: http.HTTPFlow, text: str) -> None:
    arguments = json.dumps({"query": text})
    pieces = [arguments[place : place + 3] for place in range(0, len(arguments), 3)]
    calls = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    others = [{"tool_calls": [{"index": 1, "function": {"arguments": "xyz"}}]} for _ in pieces]
    events = [{"choices": [{"index": 0, "delta": delta}]} for pair in zip(calls, others, strict=True) for delta in pair]
    flow.metadata["force_stream.sse"] = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events)


def in_words(flow: http.HTTPFlow, text: str) -> None:
    flow.comment = flow.marked = text
    flow.error = tflow.terr(text)
    flow.client_conn.error = text
    flow.server_conn.error = text


def in_backup(flow: http.HTTPFlow, text: str) -> None:
    in_response(flow, text)
    flow.backup()
    flow.response.raw_content = b"edited"


def in_websocket(flow: http.HTTPFlow, text: str) -> None:
    flow.websocket = tflow.twebsocketflow().websocket
    assert flow.websocket is not None
    flow.websocket.messages[0].content = text.encode()
    flow.websocket.close_reason = text


PLACES = [
    in_header,
    in_path,
    in_request,
    in_response,
    in_trailers,
    in_metadata,
    in_stream,
    in_tool_call,
    in_words,
    in_backup,
    in_websocket,
    compressed("gzip", gzip.compress),
    compressed("deflate", zlib.compress),
    compressed("br", brotli.compress),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__qualname__)
def test_a_secret_is_masked_in_every_place(place: Callable[[http.HTTPFlow, str], None]) -> None:
    flow = flow_with()
    place(flow, AROUND)
    state = flow.get_state()
    before, (after,) = copy.deepcopy(state), masked(flow)
    assert flow.get_state() == before, "the flow itself is as it was"
    file = written(after)
    assert KEY.encode() not in file
    joined = "".join(json.loads(part)["choices"][0]["delta"].get("content", "") for part in data_of(after))
    assert KEY not in joined


def data_of(state: dict[str, Any]) -> list[bytes]:
    stream = state["metadata"].get("force_stream.sse", b"")
    return [line.removeprefix(b"data: ") for line in stream.splitlines() if line]


@pytest.mark.parametrize("place", [in_stream, in_tool_call])
def test_a_secret_in_pieces_is_masked_in_all_of_them(place: Callable[[http.HTTPFlow, str], None]) -> None:
    flow = flow_with()
    place(flow, AROUND)
    before, (after,) = data_of(flow.get_state()), masked(flow)
    deltas = [json.loads(part)["choices"][0]["delta"] for part in data_of(after)]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    text = "".join(delta.get("content", "") for delta in deltas)
    text += "".join(call["function"]["arguments"] for call in calls if call["index"] == 0)
    assert KEY not in text
    assert STAND_IN.search(text)
    assert "what stands before ***" in text
    assert "* and after it" in text
    assert [len(part) for part in data_of(after)] == [len(part) for part in before]


def hexed(text: str) -> str:
    return "".join(rf"\u{ord(char):04X}" if not char.isalnum() else char for char in text)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda text: quote(text, safe=""),
    "percent, small": lambda text: quote(text, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, escaped": hexed,
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "HTML": html.escape,
    "HTML, numbers": lambda text: "".join(f"&#{ord(char)};" if not char.isalnum() else char for char in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, after one": lambda text: base64.b64encode(b"a" + text.encode() + b"bc").decode(),
    "base64 of Basic": lambda text: base64.b64encode(b"user:" + text.encode()).decode(),
    "base64 of URLs": lambda text: base64.urlsafe_b64encode(b"ab" + text.encode()).decode(),
    "another way of percent": lambda text: text.replace("+", "%2B").replace('"', "\\u0022"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("secret", [SECRET, KEY, "Zq4~Zq4~Zq4~Zq4~Zq4"])
def test_a_secret_is_masked_in_every_spelling(secret: str, spelling: str) -> None:
    flow = flow_with(request__headers=http.Headers([(b"x-api-key", secret.encode())]))
    spelled = SPELLINGS[spelling](secret)
    flow.response.raw_content = f"<{spelled}>".encode()
    flow.comment = f"[{spelled}]"
    (after,) = masked(flow)
    shown = after["response"]["content"].decode(), after["comment"]
    # What base64 makes of the bytes at the edges is of others too.
    loose = 4 + 8 * ("base64" in spelling)
    for text in shown:
        assert not any(spelled[place : place + loose + 1] in text for place in range(len(spelled) - loose))
        assert len(text.encode()) == len(f"<{spelled}>".encode())
        assert "***" in text


# Without what begins an escape: nobody can tell such an escape from a secret that has it.
SECRETS = st.text("abcXYZ019-_.~+/=!@#$^&*()\"'<> äöü€", min_size=14, max_size=40).map(lambda text: f"q7{text}Z")


@given(SECRETS, st.sampled_from(sorted(SPELLINGS)), st.integers(1, 9))
def test_any_secret_is_masked_in_every_spelling_and_in_pieces(secret: str, spelling: str, size: int) -> None:
    pieces = [secret[place : place + size] for place in range(0, len(secret), size)]
    comment = SPELLINGS[spelling](secret)
    flow = flow_with(
        request__raw_content=json.dumps({"api_key": secret}).encode(),
        metadata={"force_stream.sse": b"".join(map(event, pieces))},
        comment=f"[{comment}]",
    )
    (after,) = masked(flow)
    joined = "".join(json.loads(part)["choices"][0]["delta"]["content"] for part in data_of(after))
    assert STAND_IN.fullmatch(joined)
    assert comment not in after["comment"]
    assert "***" in after["comment"]
    assert "base64" in spelling or STAND_IN.fullmatch(after["comment"].strip('[]\\"'))


def test_a_secret_that_was_learned_in_one_spelling_is_masked_in_the_others() -> None:
    flow = flow_with(
        request__path=f"/v1?api_key={quote('Kx7+pQ/2zR=m9', safe='')}",
        comment="Kx7+pQ/2zR=m9",
        response__raw_content=rb'{"a": "Kx7\u002bpQ\/2zR\u003dm9"}',
    )
    (after,) = masked(flow)
    numbers = {STAND_IN.search(text)[1] for text in (str(after["request"]["path"]), after["comment"])}  # type: ignore[index]
    assert len(numbers) == 1
    assert b"Kx7" not in after["response"]["content"]


def test_the_password_of_basic_is_masked_elsewhere() -> None:
    flow = flow_with(comment="no such user: hunter2horse")
    flow.request.headers["authorization"] = "Basic " + base64.b64encode(b"me:hunter2horse").decode()
    (after,) = masked(flow)
    assert STAND_IN.fullmatch(after["comment"].removeprefix("no such user: "))


def test_a_key_that_is_bytes_in_base64_is_no_user_with_a_password() -> None:
    flow = flow_with(comment="hunter-0123456789")
    flow.request.headers["authorization"] = f"Bearer {base64.b64encode(b'\x12\x94:hunter-0123456789').decode()}"
    assert masked(flow)[0]["comment"] == "hunter-0123456789"


def test_a_secret_that_was_cut_short_is_masked() -> None:
    (after,) = masked(flow_with(comment=f"Incorrect key: {KEY[:20]}…"))
    assert STAND_IN.fullmatch(after["comment"].removeprefix("Incorrect key: ").removesuffix("…"))


def test_secrets_that_begin_alike_are_told_apart() -> None:
    keys = [f"sk-ant-api03-{name}{number:04}" for name in ("Qw3rTy", "Zx9cVb") for number in range(20)]
    flows = [flow_with(comment=" ".join(keys)) for _ in keys]
    for flow, key in zip(flows, keys, strict=True):
        flow.request.headers["x-api-key"] = key
    shown = masked(*flows)[0]["comment"].split(" ")
    assert all(map(STAND_IN.fullmatch, shown))
    assert len({*shown}) == len(keys)


def test_another_secret_that_begins_like_a_known_one_is_not_half_masked() -> None:
    masker = Masker()
    masker.learn([b"x-api-key", b"sk-ant-api03-Qw3rTy0001"])
    assert STAND_IN.fullmatch(masker.text("sk-ant-api03-Zx9cVb0002"))
    masker.learn([b"x-api-key", b"team-api03-Qw3rTy0001"])
    assert masker.text("team-api03-or") == "team-api03-or"


def test_a_secret_of_a_later_flow_is_masked_in_an_earlier_one() -> None:
    first, second = flow_with(comment="Zq4~Zq4~Zq4~Zq4~Zq4"), flow_with()
    second.request.headers["x-api-key"] = "Zq4~Zq4~Zq4~Zq4~Zq4"
    assert STAND_IN.fullmatch(masked(first, second)[0]["comment"])


def test_equal_secrets_have_equal_stand_ins_and_others_have_others() -> None:
    flows = [flow_with(), flow_with(), flow_with()]
    flows[2].request.headers["authorization"] = "Bearer another-0123456789"
    values = [dict(state["request"]["headers"])[b"authorization"] for state in masked(*flows)]
    assert values[0] == values[1] != values[2][: len(values[0])]
    assert all(STAND_IN.fullmatch(value.decode().removeprefix("Bearer ")) for value in values)


def test_what_is_masked_stays_as_it_is_when_it_is_masked_again() -> None:
    flow = flow_with(comment=AROUND, request__path="/v1?key=abc&token=a1b2c3d4e5")
    in_tool_call(flow, AROUND)
    (once,) = masked(flow)
    again = Masker()
    again.learn(once)
    assert again.mask(once) == once


def test_a_word_that_is_a_credential_stays_legible_elsewhere() -> None:
    flow = flow_with(comment="ollama: chat ollama/llama3")
    flow.request.headers["authorization"] = "Bearer ollama"
    (after,) = masked(flow)
    assert after["comment"] == "ollama: chat ollama/llama3"
    assert dict(after["request"]["headers"])[b"authorization"] == b"Bearer ***1**"


def test_a_flow_without_a_secret_stays_as_it_is() -> None:
    flow = tflow.tflow(resp=True)
    flow.metadata = {"force_stream.sse": STREAM, "force_stream.times": [0.5, len(STREAM)], "x": [1, None, True, 2.5]}
    before, (after,) = flow.get_state(), masked(flow)
    for state in (before, after):
        for side in ("client_conn", "server_conn"):
            state[side] |= {"peername": None, "sockname": None}
    assert after == before


def test_a_long_text_without_a_secret_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    none, own, elsewhere = (text + b" word" * 1000 for text in (b"none", b'{"password":"x"}', b"Zq4~Zq4~Zq4~Zq4~Zq4"))
    flow = {b"x-api-key": b"Zq4~Zq4~Zq4~Zq4~Zq4", b"texts": [none, own, elsewhere]}
    searched: list[bytes] = []
    in_text = credentials.in_text
    monkeypatch.setattr(credentials, "in_text", lambda text: [searched.append(bytes(text)), in_text(text)][1])
    masker = Masker()
    masker.learn(flow)
    texts = masker.mask(flow)[b"texts"]
    assert [text.partition(b" word")[0] for text in texts] == [b"none", b'{"password":"*"}', b"***1" + b"*" * 15]
    assert [searched.count(text) for text in (none, own)] == [1, 2]


# What has to stay true


def test_lengths_and_places_stay_true() -> None:
    stream = event(AROUND) + event("end", finish_reason="stop")
    body = json.dumps({"user": KEY, "stream": True}).encode()
    flow = flow_with(request__raw_content=body, response__raw_content=f'{{"a": "{KEY}"}}'.encode())
    flow.response.headers["content-length"] = str(len(flow.response.raw_content))
    flow.metadata = {
        "force_stream.sse": stream,
        "force_stream.times": [0.5, 10, 1.5, len(stream)],
        "force_stream.forced_size": len(body),
        "force_stream.undo": [[len(body) - 16, len(body) - 1, b""]],
    }
    before, (after,) = flow.get_state(), masked(flow)
    assert len(after["metadata"]["force_stream.sse"]) == len(stream)
    assert len(after["request"]["content"]) == len(body)
    for key in ("times", "forced_size", "undo"):
        assert after["metadata"][f"force_stream.{key}"] == before["metadata"][f"force_stream.{key}"]
    assert dict(after["response"]["headers"])[b"content-length"] == b"%d" % len(after["response"]["content"])
    assert json.loads(after["request"]["content"])["stream"] is True


def test_a_number_stays_a_number() -> None:
    (after,) = masked(flow_with(response__raw_content=b'{"password": 12345678, "id": 12345678}'))
    assert json.loads(after["response"]["content"]) == {"password": 99999999, "id": 12345678}


def test_a_compressed_body_is_stored_plain() -> None:
    flow = flow_with()
    compressed("gzip", gzip.compress)(flow, AROUND)
    (after,) = masked(flow)
    for message in (after["request"], after["response"]):
        names = dict(message["headers"])
        assert b"content-encoding" not in names
        assert names[b"content-length"] == b"%d" % len(message["content"])
        assert message["content"].startswith(b"what stands before ***1")


@pytest.mark.parametrize("coding", ["compress", "gzip, secret"])
def test_a_body_that_cannot_be_decoded_is_left_out(coding: str) -> None:
    flow = flow_with()
    compressed(coding, lambda _: b"\xff\xfe\x00secret")(flow, "")
    (after,) = masked(flow)
    assert b"(9 bytes" in after["response"]["content"]
    assert b"secret" not in after["response"]["content"]


def test_a_note_that_is_compressed_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_with(metadata={"force_stream.sse": gzip.compress(AROUND.encode())})
    assert masked(flow)[0]["metadata"]["force_stream.sse"].startswith(b"what stands before ***1")
    monkeypatch.setattr(masking, "_LONGEST_DECODED", 10)
    assert b"left out" in masked(flow)[0]["metadata"]["force_stream.sse"]


def test_a_text_that_is_labelled_as_compressed_is_masked_too() -> None:
    flow = flow_with()
    compressed("compress", bytes)(flow, AROUND)
    assert masked(flow)[0]["response"]["content"].startswith(b"what stands before ***1")


def test_addresses_and_certificates_are_left_out(certs: Certs) -> None:
    flow = flow_with(client_conn__peername=("203.0.113.7", 5000), comment="from 203.0.113.7")
    flow.client_conn.sockname = ("203.0.113.8", 8080)
    flow.client_conn.certificate_list = flow.server_conn.certificate_list = [Cert.from_pem(certs.server.read_bytes())]
    (after,) = masked(flow)
    file = written(after)
    assert b"203.0.113" not in file
    assert b"CERTIFICATE" not in file
    assert after["server_conn"]["address"] == flow.server_conn.address


def test_an_upstream_at_this_address_keeps_it() -> None:
    flow = flow_with(client_conn__peername=("10.0.0.5", 5000), request__host="10.0.0.5")
    assert masked(flow)[0]["request"]["host"] == "10.0.0.5"


def test_the_user_of_the_proxy_is_masked() -> None:
    (after,) = masked(flow_with(metadata={"proxyauth": ["alice", "hunter2horse"]}, comment="hunter2horse"))
    assert STAND_IN.fullmatch(after["comment"])
    assert all("*" in each for each in after["metadata"]["proxyauth"])


def test_a_masked_flow_can_be_written_and_read() -> None:
    flow = flow_with()
    in_metadata(flow, AROUND)
    (read,) = FlowReader(io.BytesIO(written(masked(flow)[0]))).stream()
    assert isinstance(read, http.HTTPFlow)
    assert read.request.headers["authorization"].startswith("Bearer ***1")
