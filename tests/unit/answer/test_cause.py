"""Why an answer is not simply whole, in one line."""

from typing import Any

import pytest
from force_stream.answer import cause
from force_stream.answer.reader import AnswerSpec
from harness.samples import EVENTS, STREAM
from harness.steps import sse

TWO = sse(*EVENTS[:2], done=False)
LIMITED = b'data: {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}\n\n'
SIGN_IN = b"<!doctype html><html><head><title>Acme SSO</title><style>a{}</style></head><body>Please log in &amp; go on"

# What came, with which status, label, headers and end; and the line.
CASES: dict[str, tuple[bytes, dict[str, Any], dict[str, Any], str]] = {
    "whole": (STREAM, {}, {}, ""),
    "cut by the transport": (
        TWO,
        {},
        {"cut": "connection reset", "silence": 5.13},
        "cut off after event 2 (connection reset), 5.1 s after the last byte",
    ),
    "cut at once": (TWO, {}, {"cut": "connection closed"}, "cut off after event 2 (connection closed)"),
    "cut inside an event": (
        TWO + b'data: {"choi',
        {},
        {"cut": "connection closed"},
        "cut off inside event 3 (connection closed)",
    ),
    "cut before the first event": (
        b"",
        {},
        {"cut": "connection closed"},
        "cut off before the first event (connection closed)",
    ),
    "an error with a wait that is no whole number": (
        LIMITED,
        {},
        {"retry_after": "1.5"},
        'rate limited by the upstream (429, rate_limit_exceeded, retry after 1.5 s): "slow down"',
    ),
    "ended by the upstream": (TWO, {}, {}, "cut off after event 2 (the upstream ended it)"),
    "an error inside, with a known code": (
        LIMITED,
        {},
        {"retry_after": "20"},
        'rate limited by the upstream (429, rate_limit_exceeded, retry after 20 s): "slow down"',
    ),
    "an error after events": (
        TWO + LIMITED,
        {},
        {},
        'rate limited by the upstream after event 2 (429, rate_limit_exceeded): "slow down"',
    ),
    "an error before the rest": (
        LIMITED + TWO,
        {},
        {},
        'rate limited by the upstream (429, rate_limit_exceeded): "slow down"',
    ),
    "an error without a status": (
        b'data: {"error": {"message": "boom"}}\n\n',
        {},
        {},
        'the upstream failed: "boom"',
    ),
    "an error status": (
        b'{"error": {"message": "slow down", "type": "tokens"}}',
        {"status": 429, "content_type": "application/json"},
        {"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"},
        'rate limited by the upstream (429, tokens, retry after Wed, 21 Oct 2026 07:28:00 GMT): "slow down"',
    ),
    "an error page": (
        b"<html><title>502 Bad Gateway</title></html>",
        {"status": 502, "content_type": "text/html"},
        {},
        'the upstream failed (502): "502 Bad Gateway"',
    ),
    "a redirect, without the user and the query in its address": (
        b"",
        {"status": 302},
        {"location": "https://me:pw@sso.example.com/login?state=s3cr3t#x"},
        "odd: redirected by the upstream (302) to https://sso.example.com/login",
    ),
    "a redirect to nowhere": (b"moved", {"status": 301}, {}, "odd: redirected by the upstream (301)"),
    "a page in a file, whose label nobody knows": (
        SIGN_IN,
        {"content_type": None},
        {},
        'a sign-in page in place of events: "Acme SSO Please log in & go on"',
    ),
    "a sign-in page": (
        SIGN_IN,
        {"content_type": "text/html; charset=utf-8"},
        {},
        'a sign-in page (text/html) in place of events: "Acme SSO Please log in & go on"',
    ),
    "another page": (
        b"<html><body>Under <b>maintenance</b>",
        {"content_type": "text/html"},
        {},
        'a web page (text/html) in place of events: "Under maintenance"',
    ),
    "XML": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        {"content_type": "application/xml"},
        {},
        'text (application/xml) in place of events: "AccessDenied"',
    ),
    "bytes": (b"<\x9f\x00\xfe>" * 9, {"content_type": None}, {}, "binary data in place of events"),
    "nothing": (b"", {}, {}, "the upstream's event stream was empty"),
    "a label that lies": (STREAM, {"content_type": "text/plain"}, {}, "odd: an event stream labelled text/plain"),
    "no label": (STREAM, {"content_type": ""}, {}, ""),
    "a file": (STREAM, {"content_type": None}, {}, ""),
}


@pytest.mark.parametrize(("body", "head", "end", "line"), CASES.values(), ids=list(CASES))
def test_the_cause_is_one_line(body: bytes, head: dict[str, Any], end: dict[str, Any], line: str) -> None:
    answer = AnswerSpec("r", "chat").read(**{"content_type": "text/event-stream"} | head)
    answer.feed(body)
    answer.finish(**end)
    assert answer.report.cause == line


def test_a_partial_answer_has_the_cause_of_what_is_missing() -> None:
    answer = AnswerSpec("r", "chat", on_truncated="partial").read(content_type="text/event-stream")
    answer.feed(TWO)
    reply = answer.finish("connection reset", silence=5.0)
    assert reply is not None
    assert reply.status == 200
    assert answer.report.cause == "cut off after event 2 (connection reset), 5.0 s after the last byte"


UNVERIFIED = "its certificate could not be verified: self-signed certificate"
TO_ITSELF = "the request was for this proxy itself, without --mode reverse"
NO_TLS = "it does not speak TLS on that port"
PLAIN = {
    "HTTP/1 protocol error: peer closed connection without sending complete message body (incomplete chunked read)": (
        "connection closed"
    ),
    "HTTP/1 protocol error: peer closed connection without sending complete message body "
    "(received 5 bytes, expected 9)": "connection closed after 5 of 9 bytes",
    "server closed connection": "connection closed",
    "stream reset by client (CANCEL)": "stream reset (CANCEL)",
    "[Errno 111] Connect call failed ('127.0.0.1', 1)": "connection refused",
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call failed": (
        "connection refused"
    ),
    "[Errno 61] Connect call failed ('127.0.0.1', 1)": "connection refused",
    "[WinError 1225] The remote computer refused the network connection": "connection refused",
    "stream refused by the upstream (HTTP/2 REFUSED_STREAM)": "stream refused by the upstream (HTTP/2 REFUSED_STREAM)",
    "unexpected server response: b'HTTP/1.1 2'": "connection closed within the head of the response",
    "[Errno 104] Connection reset by peer": "connection reset",
    "[Errno -2] Name or service not known": "its name could not be resolved",
    "[Errno 8] nodename nor servname provided, or not known": "its name could not be resolved",
    "[Errno 11001] getaddrinfo failed": "its name could not be resolved",
    "[Errno 113] No route to host": "the network or host is unreachable",
    "Certificate verify failed: self-signed certificate": UNVERIFIED,
    "TLS handshake failed. OpenSSL Error([('SSL routines', '', 'wrong version number')])": NO_TLS,
    "The remote server does not speak TLS.": NO_TLS,
    "HTTP/2 protocol error: received request from server": "received request from server",
    "Connection killed: Request destination unknown. Unable to figure out where this request should be forwarded to.": (
        TO_ITSELF
    ),
    "something else": "something else",
}


@pytest.mark.parametrize(("said", "plain"), PLAIN.items())
def test_the_end_of_a_transport_is_said_in_plain_words(said: str, plain: str) -> None:
    assert cause.plainly(said) == plain
    assert cause.plainly(plain) == plain


def test_where_something_can_be_done_the_advice_says_what() -> None:
    advised = {plain: cause.advice_for(plain) for plain in PLAIN.values()}
    assert "ssl_verify_upstream_trusted_ca" in advised[UNVERIFIED]
    assert "http://" in advised[NO_TLS]
    assert "--mode reverse:https://" in advised[TO_ITSELF]
    assert "DNS" in advised["its name could not be resolved"]
    assert advised["something else"] == ""


def test_a_client_that_gave_up_is_said_with_what_it_had_waited_for() -> None:
    assert cause.gave_up(30.04, 12, 3.21, began=True) == "the client gave up after 30.0 s, 3.2 s after event 12"
    assert cause.gave_up(30.0, 0, 30.0, began=True) == "the client gave up after 30.0 s, before the first event"
    assert (
        cause.gave_up(30.0, 0, 30.0, began=False) == "the client gave up after 30.0 s, before the upstream's response"
    )


def test_a_hostile_page_takes_no_long_time_and_cannot_break_a_line() -> None:
    line = cause.of_response(502, "text/html", b"<script" * 9000 + b"\x1b[2J\n\xe2\x80\xae")
    assert line.isprintable()
    assert len(line) < 300


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (399, "the upstream failed (399)"),
        (400, "the upstream rejected the request (400)"),
        (403, "the upstream refused access (403)"),
        (418, "the upstream rejected the request (418)"),
        (499, "the upstream rejected the request (499)"),
        (500, "the upstream failed (500)"),
        (529, "the upstream is overloaded (529)"),
    ],
)
def test_a_status_says_who_is_at_fault(status: int, line: str) -> None:
    assert cause.of_status(status) == line


@pytest.mark.parametrize(("code", "own"), [(399, "399"), (400, ""), (599, ""), (600, "600"), (True, "")])
def test_a_number_is_a_code_unless_it_is_a_status(code: int, own: str) -> None:
    assert cause.own_code({"error": {"code": code}}) == own


def test_a_cut_is_after_an_event_unless_it_is_known_to_be_inside() -> None:
    assert cause.cut_off(3) == "cut off after event 3"
    assert cause.cut_off(3, inside=True) == "cut off inside event 3"


# Of an upstream that was asked for no stream

OF_PLAIN_ANSWERS: dict[str, tuple[bytes, dict[str, Any], dict[str, Any], str]] = {
    "cut": (
        b'{"choices": [',
        {},
        {"cut": "connection reset", "silence": 5.13},
        "cut off after 13 bytes (connection reset), 5.1 s after the last byte",
    ),
    "cut, as a stream would begin": (
        b"da",
        {},
        {"cut": "connection reset"},
        "cut off after 2 bytes (connection reset)",
    ),
    "cut before the first byte": (
        b"",
        {},
        {"cut": "connection closed"},
        "cut off before the first byte (connection closed)",
    ),
    "ended within": (b'{"choices": [', {}, {}, "cut off after 13 bytes (the upstream ended it)"),
    "a page": (SIGN_IN, {}, {}, 'a sign-in page in place of an answer: "Acme SSO Please log in & go on"'),
    "an error in words": (b"no capacity", {}, {}, 'the upstream failed: "no capacity"'),
    "a stream all the same": (TWO, {}, {"cut": "connection reset"}, "cut off after event 2 (connection reset)"),
}


@pytest.mark.parametrize("case", OF_PLAIN_ANSWERS)
def test_of_a_plain_answer_the_line_speaks_of_bytes(case: str) -> None:
    body, head, end, line = OF_PLAIN_ANSWERS[case]
    answer = AnswerSpec("r", "chat").read(plain=True, **head)
    answer.feed(body)
    answer.finish(**end)
    assert answer.report.cause == line
    if case != "a stream all the same":
        assert answer.report.odd == []


@pytest.mark.parametrize(
    ("events", "began", "plain_bytes", "where"),
    [
        (0, False, None, ", before the upstream's response"),
        (0, True, None, ", before the first event"),
        (12, True, None, ", 3.2 s after event 12"),
        (0, False, 0, ", before the upstream's response"),
        (0, True, 0, ", before the first byte of the answer"),
        (1, True, 50, ", 3.2 s after 50 bytes of the answer"),
    ],
)
def test_a_client_that_gave_up_says_after_what(events: int, began: bool, plain_bytes: int | None, where: str) -> None:
    said = cause.gave_up(30.0, events, 3.21, began=began, plain_bytes=plain_bytes)
    assert said == f"the client gave up after 30.0 s{where}"
