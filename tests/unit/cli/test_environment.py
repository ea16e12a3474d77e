"""The environment in which a program uses the proxy and trusts its certificate."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from force_stream.cli.environment import chromium_arguments, covers, proxied
from harness import Certs

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nb3Vycw==\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\na2V5\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """`changed(**environ)`: the variables that a command gets, for the host llm.example.com."""
    authority = tmp_path / "authority.pem"
    authority.write_bytes(KEY + CERTIFICATE)

    def change(**environ: str) -> dict[str, str]:
        return proxied(environ, "http://127.0.0.1:4", authority, ["llm.example.com"], tmp_path)

    return change


def test_both_spellings_of_the_proxys_variables_are_set(changed: Callable[..., dict[str, str]]) -> None:
    env = changed(HTTP_PROXY="http://other:1", PATH="/bin")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        assert env[name] == "http://127.0.0.1:4"
    assert (env["PATH"], env["NODE_USE_ENV_PROXY"]) == ("/bin", "1")


def test_a_variable_that_replaces_a_trust_store_names_the_systems_and_ours(
    changed: Callable[..., dict[str, str]],
) -> None:
    env = changed()
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"):
        bundle = Path(env[name]).read_bytes()
        assert bundle.endswith(b"\n" + CERTIFICATE)
        assert bundle.count(b"BEGIN CERTIFICATE") > 20
    assert Path(env["NODE_EXTRA_CA_CERTS"]).read_bytes() == CERTIFICATE


def test_certificates_that_the_person_named_stay_trusted(
    changed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    own = tmp_path / "own.pem"
    own.write_bytes(b"own")
    env = changed(SSL_CERT_FILE=str(own), NODE_EXTRA_CA_CERTS=str(own), PIP_CERT=str(tmp_path / "none"))
    assert Path(env["SSL_CERT_FILE"]).read_bytes() == b"own\n" + CERTIFICATE
    assert env["NODE_EXTRA_CA_CERTS"] == env["SSL_CERT_FILE"]
    assert env["PIP_CERT"] == env["REQUESTS_CA_BUNDLE"] != env["SSL_CERT_FILE"]


def test_no_file_that_a_program_gets_has_the_authoritys_key(
    changed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    changed()
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "authority.pem"]
    assert len(written) == 5
    assert not any(b"a2V5" in path.read_bytes() or b"PRIVATE" in path.read_bytes() for path in written)


def test_options_that_the_person_has_set_stay_before_ours(
    changed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "own").write_text("tries = 3\n\n")
    env = changed(
        NODE_OPTIONS="--trace", JAVA_TOOL_OPTIONS="-Da=b", PHP_INI_SCAN_DIR="/a", WGETRC=str(tmp_path / "own")
    )
    assert re.fullmatch(r'--trace --require ".*/node_proxy\.cjs"', env["NODE_OPTIONS"])
    assert env["JAVA_TOOL_OPTIONS"].startswith('-Da=b "-Dhttp.proxyHost=127.0.0.1" "-Dhttp.proxyPort=4" "-Dhttps.proxy')
    assert env["PHP_INI_SCAN_DIR"] == f"/a{os.pathsep}{tmp_path / 'php'}"
    assert Path(env["WGETRC"]).read_text() == f"tries = 3\nca_certificate = {env['CURL_CA_BUNDLE']}\n"


def test_php_reads_its_own_settings_first(changed: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    env = changed()
    # An empty name stands for the folder that PHP was built with.
    assert env["PHP_INI_SCAN_DIR"] == f"{os.pathsep}{tmp_path / 'php'}"
    settings = (tmp_path / "php" / "force-stream.ini").read_text()
    assert settings == "".join(f'{name} = "{env["CURL_CA_BUNDLE"]}"\n' for name in ("curl.cainfo", "openssl.cafile"))


def test_java_goes_past_the_proxy_for_the_same_hosts(changed: Callable[..., dict[str, str]]) -> None:
    options = changed(no_proxy="llm.example.com,.corp.example,*.other.example")["JAVA_TOOL_OPTIONS"]
    direct = "".join(f"{name}|*.{name}|" for name in ("corp.example", "other.example", "localhost"))
    assert f'"-Dhttp.nonProxyHosts={direct}127.0.0.1|' in options


def test_what_keeps_the_forced_host_from_the_proxy_is_removed_and_all_else_stays(
    changed: Callable[..., dict[str, str]],
) -> None:
    env = changed(NO_PROXY="b.example,.example.com, 10.0.0.0/8 llm.example.com", no_proxy="*,c.example")
    assert env["NO_PROXY"] == env["no_proxy"] == "b.example,10.0.0.0/8,c.example,localhost,127.0.0.1,::1"


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("llm.example.com", False),
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:80", True),
        ("local*", True),
        ("*", True),
    ],
)
def test_no_program_uses_the_proxy_for_this_machine_unless_it_is_forced(
    host: str, here: bool, tmp_path: Path, certs: Certs
) -> None:
    env = proxied({}, "http://127.0.0.1:4", certs.ca, ["a.example", host], tmp_path)
    direct = "localhost|*.localhost|127.0.0.1|*.127.0.0.1|::1|*.::1"
    assert env["NO_PROXY"] == ("" if here else "localhost,127.0.0.1,::1")
    assert f'"-Dhttp.nonProxyHosts={"" if here else direct}"' in env["JAVA_TOOL_OPTIONS"]
    arguments = chromium_arguments("http://127.0.0.1:4", certs.ca, ["a.example", host])
    assert ("--proxy-bypass-list=<-loopback>" in arguments) is here


@pytest.mark.parametrize(
    ("entry", "host", "covered"),
    [
        ("*", "a.example", True),
        ("a.example", "a.example", True),
        ("A.Example", "a.example:8000", True),
        ("a.example:443", "a.example", True),
        (".example", "a.example", True),
        ("*.example", "a.example", True),
        ("example", "a.example", True),
        ("ample", "a.example", False),
        ("b.example", "a.example", False),
        ("b.example", "*.example", True),
        ("example.org", "*.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3:80", False),
        ("10.0.0.0/8", "a.example", False),
        ("::1", "[::1]:8000", True),
        ("", "a.example", False),
        ("nonsense/99", "10.1.2.3", False),
    ],
)
def test_an_entry_of_no_proxy_covers_a_host_as_any_client_reads_it(entry: str, host: str, covered: bool) -> None:
    assert covers(entry, host) is covered
