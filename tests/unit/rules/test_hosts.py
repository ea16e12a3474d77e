"""The host names of a rule and of a request, and their spellings."""

import pytest
from force_stream.rules.hosts import is_address
from harness.rules import facts, one


@pytest.mark.parametrize(
    ("pattern", "host", "port", "matches"),
    [
        ("api.example.com", "api.example.com", 443, True),
        ("api.example.com", "api.example.com", None, True),
        ("api.example.com", "API.Example.COM", 443, True),
        ("API.Example.com", "api.example.com", 443, True),
        ("api.example.com", "api.example.com.", 443, True),
        ("api.example.com.", "api.example.com", 443, True),
        ("api.example.com", "apixexample.com", 443, False),
        ("api.example.com", "api.example.com.evil.test", 443, False),
        ("api.example.com", "evil-api.example.com", 443, False),
        ("api.example.com", "", 443, False),
        ("*.example.ai", "llm.example.ai", 443, True),
        ("*.example.ai", "a.b.example.ai", 443, True),
        ("*.example.ai", "example.ai", 443, False),
        ("gpu?.example.ai", "gpu7.example.ai", 443, True),
        ("gpu[0-3].example.ai", "gpu2.example.ai", 443, True),
        ("gpu[0-3].example.ai", "gpu7.example.ai", 443, False),
        ("[ab].example.ai:80", "a.example.ai", 80, True),
        ("10.0.0.5:8000", "10.0.0.5", 8000, True),
        ("10.0.0.5:8000", "10.0.0.5", 8001, False),
        ("10.0.0.5:8000", "10.0.0.5", None, False),
        ("*:8000", "anything.example", 8000, True),
        ("*:8000", "::1", 8000, True),
        ("*:8000", "anything.example", 80, False),
        ("a.example:*", "a.example", 80, True),
        ("*", "anything.example", None, True),
        ("::1", "::1", 8000, True),
        ("::1", "[::1]", 8000, True),
        ("[::1]", "::1", None, True),
        ("[::1]:8000", "::1", 8000, True),
        ("[::1]:8000", "[::1]", 8000, True),
        ("[::1]:8000", "::1", 8001, False),
        ("[0:0:0:0:0:0:0:1]:8000", "::1", 8000, True),
        ("FE80::1", "fe80:0::1", 80, True),
        ("fe80::*", "fe80::abcd", 80, True),
        ("fe80::1%eth0", "fe80::1%eth0", 80, True),
        ("::1", "1", 80, False),
        ("bücher.example", "xn--bcher-kva.example", 443, True),
        ("*.bücher.example", "api.BÜCHER.example", 443, True),
        ("xn--bcher-kva.example", "bücher.example", 443, True),
    ],
)
def test_hosts_match_whatever_their_spelling(pattern, host, port, matches) -> None:
    rule = one(f"hosts: ['{pattern}']")
    assert (rule.mismatch(*facts(host, port)) is None) is matches


def test_one_of_the_names_of_a_request_is_enough() -> None:
    rule = one("hosts: [llm.example.com]")
    assert rule.mismatch(*facts("10.0.0.5", 8000, ("llm.example.com", None))) is None


def test_the_port_belongs_to_its_own_name() -> None:
    rule = one("hosts: ['a.example:1']")
    assert rule.mismatch(*facts("a.example", 2, ("b.example", 1))) is not None


@pytest.mark.parametrize(
    ("host", "address"),
    [("192.0.2.1", True), ("::1", True), ("[::1]", True), ("llm.test", False), ("1.llm.test", False), ("", False)],
)
def test_an_address_is_told_from_a_name(host: str, address: bool) -> None:
    assert is_address(host) is address
