"""The page and its JSON API: what they say, what they change, and whom they refuse."""

import dataclasses
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from force_stream.page.app import LARGEST_CHANGE, Request, Site, respond
from force_stream.rules.rule import Rule
from force_stream.view.stats import Outcome, Stats
from harness import Data, Gate, Head, Http1Client, Proxy, Reset, WaitFor, event_stream, raw_request, refused_port, sse
from harness.paths import ROOT
from harness.record import TIMEOUT
from harness.samples import CHAT, RULES, SECRET, STREAM, choice, chunk, request
from harness.upstream import Upstream

ADDON = ROOT / "addon.py"
NAME = "force.stream"
JSON_TYPE = {"Content-Type": "application/json"}
SWITCH = json.dumps({"force_upstream_stream": True})
HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800"

RULE = Rule("private-vllm", ("llm.example.com",), models=("qwen3-*",))
OUTCOME = Outcome(
    id="f-1",
    at=1_700_000_000.0,
    upstream="llm.example.com:443",
    rule="private-vllm",
    endpoint="chat",
    model="qwen3-8b",
    status=200,
    events=5,
    bytes=855,
    finish_reason="stop",
    inferred=False,
    truncated=False,
    code="",
    seconds=1.5,
    first_event=0.25,
    first_content=0.5,
    arrivals=(0.25, 0.5, 1.5),
)


class Shelf:
    """An addon of fixed things that remembers what was asked of it."""

    def __init__(self, *outcomes: Outcome, rule: Rule = RULE) -> None:
        self.rules = (rule,)
        self.flow_counts = Counter({rule.name: 3})
        self.changes: list[dict[str, str]] = []
        self.healthy = self.enabled = True
        self.stats = Stats()
        for outcome in outcomes:
            self.stats.add(outcome)

    def change_rule(self, name: str, values: Mapping[str, str]) -> list[str]:
        (rule,) = self.rules
        if name != rule.name:
            raise KeyError(name)
        if unknown := values.keys() - {"force_upstream_stream"}:
            raise ValueError(f"rule {name}: unknown key {min(unknown)!r}")
        self.changes.append(dict(values))
        self.rules = (dataclasses.replace(rule, force_upstream_stream=values["force_upstream_stream"] == "true"),)
        return [f"rule {name}: changed"]


@dataclasses.dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def type(self) -> str:
        return self.headers["Content-Type"].partition(";")[0]

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclasses.dataclass(frozen=True)
class Client:
    site: Site
    address: str
    host: str

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: str | bytes | None = b""
    ) -> Answered:
        path, _, query = path.partition("?")
        named = {name.lower(): value for name, value in (headers or {}).items()}
        body = data.encode() if isinstance(data, str) else data
        answer = respond(self.site, Request(method, self.host, path, query, named, body, self.address))
        assert answer.headers["Content-Length"] == f"{len(answer.body)}" or method == "HEAD"
        return Answered(answer.status, answer.headers, answer.body)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answered:
        return self.ask("GET", path, headers)

    def patch(self, path: str, *, data: str | bytes | None, headers: Mapping[str, str] = JSON_TYPE) -> Answered:
        return self.ask("PATCH", path, headers, data)


def client_of(addon: Shelf, *, address: str = "127.0.0.1", host: str = NAME, remote: bool = False) -> Client:
    return Client(Site(addon, frozenset({NAME}), remote), address, host)


class Seen(HTMLParser):
    """The tags, attributes and words of a page, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


# What it says


def test_the_page_shows_rules_figures_and_flows_without_javascript() -> None:
    page = Seen(client_of(Shelf(OUTCOME)).get("/").text)
    for words in ("private-vllm", "llm.example.com", "qwen3-*", "qwen3-8b", "finish stop", "first event 0.25 s", "855"):
        assert words in page.words
    assert ("src", "/flows/f-1.svg") in page.attributes
    # A switch that does nothing would be a lie; the script enables it.
    assert ("disabled", None) in page.attributes


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = Seen(client_of(Shelf(OUTCOME)).get("/").text)
    places = [value or "" for name, value in page.attributes if name in ("src", "href", "action", "srcset")]
    assert places
    assert all(re.match("/[^/]|data:,$", place) for place in places)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_a_rule_that_injects_faults_and_a_flow_that_got_one_are_marked() -> None:
    addon = Shelf(dataclasses.replace(OUTCOME, injected=True), rule=dataclasses.replace(RULE, inject={"cut_after": 3}))
    words = Seen(client_of(addon).get("/").text).words
    assert "faults injected" in words
    assert '{"cut_after": 3}' in words
    assert "fault injected" in words.replace("faults injected", "")


def test_the_page_says_so_when_the_addon_is_off() -> None:
    addon = Shelf()
    assert "every flow passes untouched" not in client_of(addon).get("/").text
    addon.enabled = False
    assert "every flow passes untouched" in client_of(addon).get("/").text


def test_the_api_gives_rules_figures_and_flows() -> None:
    client = client_of(Shelf(OUTCOME, dataclasses.replace(OUTCOME, id="f-2")))
    (rule,) = client.get("/rules").json
    assert rule.keys() == {key.name for key in dataclasses.fields(Rule) if key.init} | {"flows"}
    assert (rule["name"], rule["hosts"], rule["models"]) == ("private-vllm", ["llm.example.com"], ["qwen3-*"])
    assert (rule["force_upstream_stream"], rule["endpoints"], rule["inject"], rule["flows"]) == (False, None, {}, 3)
    (row,) = client.get("/stats").json
    assert (row["upstream"], row["model"], row["flows"]) == ("llm.example.com:443", "qwen3-8b", 2)
    assert [flow["id"] for flow in client.get("/flows").json] == ["f-2", "f-1"]
    assert [flow["id"] for flow in client.get("/flows?limit=1").json] == ["f-2"]
    assert "arrivals" not in client.get("/flows").json[0]
    assert client.get("/flows/f-1").json["arrivals"] == [0.25, 0.5, 1.5]
    assert client.get("/flows/f-1").json["longest_gap"] == 1.0


def test_the_plot_of_a_flow_is_a_picture_without_rights() -> None:
    answer = client_of(Shelf(OUTCOME)).get("/flows/f-1.svg")
    assert answer.type == "image/svg+xml"
    assert answer.data.startswith(b"<svg ")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none';")


def test_health_is_503_while_no_rules_are_in_force() -> None:
    addon = Shelf()
    answer = client_of(addon).get("/health")
    assert (answer.status, answer.json) == (200, {"ok": True, "enabled": True})
    addon.healthy = False
    answer = client_of(addon).get("/health")
    assert (answer.status, answer.json) == (503, {"ok": False, "enabled": True})


def test_a_health_check_may_name_no_host() -> None:
    client = client_of(Shelf(), host="")
    assert client.get("/health").status == 200
    assert client.get("/rules").status == 421


# What it changes


def test_a_patch_changes_a_rule_and_says_what_was_logged() -> None:
    addon = Shelf()
    answer = client_of(addon).patch("/rules/private-vllm", data=SWITCH, headers=JSON_TYPE)
    assert answer.status == 200
    assert answer.json["changed"] == ["rule private-vllm: changed"]
    assert answer.json["rule"]["force_upstream_stream"] is True
    assert addon.changes == [{"force_upstream_stream": "true"}]


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        pytest.param("nobody", SWITCH, 404, "There is no rule 'nobody'.", id="an unknown rule"),
        pytest.param("private-vllm", '{"x": 1}', 400, "rule private-vllm: unknown key 'x'", id="an unknown key"),
        pytest.param("private-vllm", "{", 400, "The body is not JSON.", id="no JSON"),
        pytest.param("private-vllm", b"\xff", 400, "The body is not JSON.", id="no UTF-8"),
        pytest.param("private-vllm", "[" * 50_000, 400, "The body is not JSON.", id="nested too deeply"),
        pytest.param("private-vllm", "[]", 400, "must be an object", id="no object"),
        pytest.param("private-vllm", "{}", 400, "must be an object", id="nothing"),
        pytest.param("private-vllm", " " * LARGEST_CHANGE + "{}", 413, "larger than 65,536 bytes", id="too large"),
        pytest.param("private-vllm", None, 413, "larger than 65,536 bytes", id="too large to be read"),
        pytest.param("private-vllm", '{"x": ' + "[" * 900 + "]" * 900 + "}", 400, "x", id="a deep value"),
    ],
)
def test_a_bad_patch_is_refused_in_a_sentence(name: str, body: str | bytes | None, status: int, words: str) -> None:
    addon = Shelf()
    answer = client_of(addon).patch(f"/rules/{name}", data=body, headers=JSON_TYPE)
    assert (answer.status, answer.type) == (status, "application/json")
    assert words in answer.json["error"]
    assert addon.changes == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/rules", "GET, HEAD, OPTIONS"),
        ("/flows/f-1.svg", "GET, HEAD, OPTIONS"),
        ("/rules/private-vllm", "OPTIONS, PATCH"),
    ],
)
def test_what_a_place_allows_is_said(path: str, allowed: str) -> None:
    client = client_of(Shelf(OUTCOME))
    answer = client.ask("DELETE", path, JSON_TYPE)
    assert (answer.status, answer.headers["Allow"], answer.json) == (405, allowed, {"error": "Method not allowed."})
    answer = client.ask("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"], answer.data) == (200, allowed, b"")


@pytest.mark.parametrize("path", ["/", "/rules", "/page.css", "/nothing"])
def test_head_is_get_without_the_body(path: str) -> None:
    client = client_of(Shelf(OUTCOME))
    head, whole = client.ask("HEAD", path), client.get(path)
    assert (head.status, head.headers, head.data) == (whole.status, whole.headers, b"")


@pytest.mark.parametrize("limit", ["", "-1", "many", "1e3", "100000", "\u0661"])
def test_a_limit_that_is_not_a_number_is_refused(limit: str) -> None:
    answer = client_of(Shelf()).get(f"/flows?limit={limit}")
    assert (answer.status, answer.json) == (400, {"error": "The limit is a whole number of flows."})


# Whom it refuses


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        pytest.param("PATCH", {}, 200, id="a program"),
        pytest.param("PATCH", {"Origin": f"http://{NAME}", "Sec-Fetch-Site": "same-origin"}, 200, id="the page itself"),
        pytest.param("PATCH", {"Origin": "http://evil.example"}, 403, id="a page elsewhere"),
        pytest.param("PATCH", {"Origin": f"http://{NAME}:8080"}, 403, id="the same host at another port"),
        pytest.param("PATCH", {"Origin": f"https://{NAME}"}, 403, id="the same host by another scheme"),
        pytest.param("PATCH", {"Origin": f"http://{NAME}.evil.example"}, 403, id="a name that begins like it"),
        pytest.param("PATCH", {"Origin": "null"}, 403, id="a sandboxed frame"),
        pytest.param("PATCH", {"Origin": ""}, 403, id="an empty origin"),
        pytest.param("PATCH", {"Sec-Fetch-Site": "cross-site"}, 403, id="a browser says it is another site"),
        pytest.param("PATCH", {"Sec-Fetch-Site": "same-site"}, 403, id="a neighbour on the same site"),
        pytest.param("PATCH", {"Content-Type": "text/plain"}, 415, id="a type that forms can send"),
        pytest.param("PATCH", {"Content-Type": "application/x-www-form-urlencoded"}, 415, id="a form"),
        pytest.param("PATCH", {"Content-Type": "text/plain; a=application/json"}, 415, id="a type that hides another"),
        pytest.param("PATCH", {"Content-Type": ""}, 415, id="no type"),
        pytest.param("POST", {}, 405, id="a POST"),
        pytest.param("PUT", {}, 405, id="a PUT"),
        pytest.param("DELETE", {}, 405, id="a DELETE"),
        pytest.param("POST", {"X-HTTP-Method-Override": "PATCH"}, 405, id="a POST that would be a PATCH"),
    ],
)
def test_only_the_page_itself_and_programs_may_write(method: str, headers: dict[str, str], status: int) -> None:
    addon = Shelf()
    answer = client_of(addon).ask(method, "/rules/private-vllm", JSON_TYPE | headers, SWITCH)
    assert answer.status == status
    assert bool(addon.changes) is (status == 200)


def test_a_form_of_another_page_changes_nothing() -> None:
    addon = Shelf()
    headers = {
        "Content-Type": "text/plain",
        "Origin": "http://evil.example",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
    }
    answer = client_of(addon).ask("POST", "/rules/private-vllm", headers, '{"force_upstream_stream": true, "x": "="}')
    assert answer.status == 403
    assert addon.changes == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200, id="typed"),
        pytest.param({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200, id="a link"),
        pytest.param({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403, id="a script or picture"),
        pytest.param({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403, id="a fetch"),
    ],
)
def test_other_pages_may_link_here_and_nothing_more(headers: dict[str, str], status: int) -> None:
    answer = client_of(Shelf()).get("/rules", headers=headers)
    assert answer.status == status


@pytest.mark.parametrize(
    "path", ["/", "/rules", "/stats", "/flows", "/flows/f-1.svg", "/health", "/nothing", "/page.js"]
)
def test_every_answer_forbids_what_a_browser_might_do_with_it(path: str) -> None:
    client = client_of(Shelf(OUTCOME))
    for answer in (client.get(path), client.ask("OPTIONS", path, {"Origin": "http://evil.example"})):
        headers = answer.headers
        assert not [name for name in headers if name.lower().startswith("access-control-")]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
        assert "unsafe" not in policy
        assert "*" not in policy


@pytest.mark.parametrize(
    ("address", "remote", "status"),
    [
        ("127.0.0.1", False, 200),
        ("127.8.9.10", False, 200),
        ("::1", False, 200),
        ("::ffff:127.0.0.1", False, 200),
        ("192.168.1.20", False, 403),
        ("10.0.0.1", False, 403),
        ("::ffff:10.0.0.1", False, 403),
        ("fe80::1%eth0", False, 403),
        ("", False, 403),
        ("localhost", False, 403),
        ("192.168.1.20", True, 200),
    ],
)
def test_only_this_machine_is_answered_unless_an_option_says_otherwise(address: str, remote: bool, status: int) -> None:
    addon = Shelf()
    client = client_of(addon, address=address, remote=remote)
    assert client.get("/").status == status
    assert client.get("/health").status == status
    assert client.patch("/rules/private-vllm", data=SWITCH, headers=JSON_TYPE).status == status
    # What a client says of where it comes from counts for nothing.
    assert client.get("/rules", headers={"X-Forwarded-For": "127.0.0.1"}).status == status


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1", f"{NAME}.evil.example", f"{NAME}:8080", ""])
def test_under_a_foreign_name_nothing_is_told_or_changed(host: str) -> None:
    addon = Shelf()
    client = client_of(addon, host=host)
    assert client.get("/rules").status == 421
    headers = JSON_TYPE | {"Origin": f"http://{host}"}
    assert client.patch("/rules/private-vllm", data=SWITCH, headers=headers).status == 421
    assert addon.changes == []


@pytest.mark.parametrize(
    "path",
    [
        "/../page.py",
        "/page.py",
        "/page.html",
        "/page.",
        "/page.js/../page.py",
        "/page.%2e%2e%2fpage.py",
        "/static/page.py",
        "/rules/../../etc/passwd",
        "/flows/..%2f..%2fetc%2fpasswd",
        "/flows/..svg",
        "/flows/%00.svg",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_no_path_leads_out(path: str) -> None:
    answer = client_of(Shelf()).get(path)
    assert answer.status in (404, 405)
    assert answer.json["error"]


def test_a_person_gets_a_sentence_and_a_program_gets_json() -> None:
    client = client_of(Shelf())
    person = client.get("/nothing", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (person.status, person.type) == (404, "text/plain")
    assert person.text == "There is no such page. There are /, /rules, /stats, /flows and /health.\n"
    program = client.get("/nothing")
    assert program.json == {"error": person.text.strip()}


def test_what_an_upstream_sends_is_text_wherever_it_stands() -> None:
    texts = {"upstream", "rule", "endpoint", "model", "finish_reason", "code"}
    outcome = dataclasses.replace(OUTCOME, status=502, odd=(HOSTILE,), **dict.fromkeys(texts, HOSTILE))
    well = dataclasses.replace(outcome, code="", status=200)
    for each in (outcome, well, dataclasses.replace(outcome, id=HOSTILE[:-1])):
        answer = client_of(Shelf(each)).get("/")
        page = Seen(answer.text)
        assert page.tags.count("script") == 1
        assert page.tags.count("img") == 1
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in page.words
        assert client_of(Shelf(each)).get("/flows/f-1.svg").data.count(b"<script") == 0
    answer = client_of(Shelf(outcome)).get("/flows")
    assert answer.type == "application/json"
    assert answer.json[0]["model"] == HOSTILE


def test_a_fault_of_the_page_tells_no_message(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Stats):
        def rows(self) -> list[dict[str, Any]]:
            raise RuntimeError(SECRET)

    addon = Shelf()
    addon.stats = Broken()
    answer = client_of(addon).get("/stats")
    assert answer.status == 500
    assert SECRET not in answer.text
    assert SECRET not in caplog.text


# In a real proxy


@pytest.fixture
def serve(proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path) -> Callable[..., Proxy]:
    """`serve(mode, **options)`: a proxy with the page; its rules are in rules.yaml of `tmp_path`."""
    (tmp_path / "rules.yaml").write_text(RULES)

    def serve(*modes: str, script: Path = ADDON, remote: bool = True, **options: Any) -> Proxy:
        options = {"force_stream_rules": tmp_path / "rules.yaml", "connection_strategy": "lazy"} | options
        return proxy_factory(*modes, scripts=[script], options=options, remote=remote)

    return serve


def through(proxy: Proxy, method: str, path: str, headers: Mapping[str, str] | None = None, body: str = "") -> Any:
    """A request for the page by its name, through the proxy."""
    with Http1Client(f"http://{NAME}", via=proxy.url) as client:
        return client.request(method, path, list((headers or {}).items()), body.encode())


def at(port: int, method: str, path: str, headers: Mapping[str, str] | None = None, body: str = "") -> Any:
    """A request for the page at its own port."""
    with Http1Client(f"http://127.0.0.1:{port}") as client:
        return client.request(method, path, list((headers or {}).items()), body.encode())


def test_a_rule_switched_through_the_api_forces_the_next_request(serve: Callable, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = serve("regular")
    target = upstream.url()

    def ask() -> None:
        with Http1Client(target, via=proxy.url) as client:
            client.post(CHAT, request("unforced"))

    ask()
    answer = through(proxy, "PATCH", "/rules/not-forced", JSON_TYPE, SWITCH)
    line = "rule not-forced: force_upstream_stream false -> true"
    assert (answer.status, answer.json()["changed"]) == (200, [line])
    proxy.wait_for_log(re.escape(line))
    ask()
    assert "stream" not in upstream.wait_request(1).json()
    assert upstream.wait_request(2).json()["stream"] is True
    rule = through(proxy, "GET", "/rules").json()[0]
    assert (rule["name"], rule["force_upstream_stream"], rule["flows"]) == ("not-forced", True, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forse_upstream_stream": True}, "did you mean 'force_upstream_stream'?"),
        ({"force_upstream_stream": "perhaps"}, "expected true or false"),
        ({"timeout": -1}, "expected seconds"),
        ({"name": "other"}, "the name cannot be changed"),
        ({"force_upstream_stream": True, "hosts": []}, "an empty list would match nothing"),
        ({"filter": "~hq ("}, "expected one of mitmproxy's filter expressions"),
        ({"filter": "~u a\n- x: &a [*a]"}, "expected a line of text"),
    ],
)
def test_a_change_is_checked_as_the_file_is_all_or_nothing(
    shared_proxy: Callable[..., Proxy], changes: dict[str, Any], words: str
) -> None:
    proxy = shared_proxy("regular", scripts=(ADDON,), options={"force_stream_hosts": "a.example"})
    before = through(proxy, "GET", "/rules").json()
    answer = through(proxy, "PATCH", "/rules/force_stream_hosts", JSON_TYPE, json.dumps(changes))
    assert answer.status == 400
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert through(proxy, "GET", "/rules").json() == before


def test_numbers_lists_and_texts_are_changed_as_they_are_meant(serve: Callable) -> None:
    proxy = serve("regular")
    changes = {"timeout": 2.5, "models": ["true", "é*", "1"], "stream_options": None, "inject": {"cut_after": 3}}
    answer = through(proxy, "PATCH", "/rules/private-vllm", JSON_TYPE, json.dumps(changes))
    assert answer.status == 200, answer.body
    rule = answer.json()["rule"]
    assert {key: rule[key] for key in changes} == changes


def test_a_rule_whose_name_has_spaces_is_found(serve: Callable, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.replace("only-chat", "only chät +1"), encoding="utf-8")
    proxy = serve("regular")
    path = "/rules/only%20ch%C3%A4t%20+1"
    assert through(proxy, "PATCH", path, JSON_TYPE, '{"force_upstream_stream": false}').status == 200
    proxy.wait_for_log("rule only chät .1: force_upstream_stream true -> false")


def test_the_page_counts_forced_flows_and_streams_of_the_clients_own(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    gate = Gate()
    first, rest = STREAM.split(b"\n\n", 1)
    upstream.answer(Head(), Data(first + b"\n\n"), WaitFor(gate), Data(rest[:400]), Reset())
    upstream.answer(event_stream(STREAM))
    upstream.answer(event_stream(sse({"error": {"message": "No.", "code": "rate_limit_exceeded"}})))
    with Http1Client(proxy.url) as client:
        client.start("POST", CHAT, JSON_TYPE.items(), json.dumps(request()).encode())
        gate.open()
        assert client.receive().status == 502
        assert client.post(CHAT, request(stream=True)).body == STREAM
        assert client.post(CHAT, request("bare")).status == 429
    # A client's own stream is read once the client has it.
    deadline = time.monotonic() + TIMEOUT
    while len(said := at(port, "GET", "/flows").json()) < 3:
        assert time.monotonic() < deadline, said
    failed, own, cut = sorted(said, key=lambda flow: flow["at"], reverse=True)
    assert (cut["truncated"], cut["code"], cut["status"]) == (True, "stream_truncated", 502)
    assert (own["ok"], own["events"], own["finish_reason"]) == (True, 5, "stop")
    assert (failed["ok"], failed["truncated"], failed["code"]) == (False, False, "upstream_error")
    for flow in (failed, own, cut):
        assert flow["upstream"] == upstream.url().removeprefix("http://")
        assert 0 <= flow["first_event"] <= flow["seconds"]
    assert cut["first_event"] <= cut["first_content"]
    assert 'class="cut"' in at(port, "GET", f"/flows/{cut['id']}.svg").body.decode()
    figures = {row["model"]: (row["flows"], row["ok"], row["truncated"]) for row in at(port, "GET", "/stats").json()}
    assert figures == {"m": (2, 1, 1), "bare": (1, 0, 0)}


def test_the_page_shows_no_credential_and_no_text_of_an_answer(serve: Callable, upstream: Upstream) -> None:
    port = refused_port()
    proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
    upstream.answer(event_stream(sse(chunk(choice(content="a private matter", finish_reason="stop")))))
    with Http1Client(proxy.url) as client:
        client.post(f"{CHAT}?key={SECRET}", request(), [("Authorization", f"Bearer {SECRET}")])
    proxy.wait_for_log("private-vllm: chat m, 200")
    (flow,) = at(port, "GET", "/flows").json()
    for path in ("/", "/rules", "/stats", "/flows", f"/flows/{flow['id']}", f"/flows/{flow['id']}.svg"):
        said = at(port, "GET", path).body.decode()
        assert SECRET not in said
        assert "private matter" not in said


def test_flows_for_the_page_stay_out_of_log_and_flow_file(
    proxy_factory: Callable[..., Proxy], upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = proxy_factory("regular", scripts=[ADDON], options={"flow_detail": 1}, flow_file=tmp_path / "flows")
    assert through(proxy, "GET", "/").status == 200
    with Http1Client(upstream.url(), via=proxy.url) as client:
        client.post(CHAT, request())
    proxy.wait_for_log("POST http://127.0.0.1")
    proxy.stop()
    assert NAME not in proxy.log
    assert [flow.request.path for flow in proxy.saved_flows()] == [CHAT]


def test_in_reverse_mode_the_name_is_not_the_pages(serve: Callable, upstream: Upstream) -> None:
    upstream.answer_always(event_stream(STREAM))
    proxy = serve(f"reverse:{upstream.url()}")
    raw_request(proxy.url, f"GET /rules HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    assert upstream.wait_request(1).path == "/rules"


def test_another_port_of_the_name_is_not_the_pages(serve: Callable) -> None:
    proxy = serve("regular")
    # A page of whoever has the name in the DNS could come from there, and would pass for this one.
    with Http1Client(f"http://{NAME}:{refused_port()}", via=proxy.url) as client:
        assert client.get("/rules").status == 502


def test_the_name_is_an_option_and_empty_means_none(serve: Callable) -> None:
    proxy = serve("regular", force_stream_page="Proxy.Test")
    for host, status in (("proxy.test", 200), ("PROXY.TEST.", 200), (NAME, 502)):
        with Http1Client(f"http://{host}", via=proxy.url) as client:
            assert client.get("/health").status == status, host
    proxy.set_options(force_stream_page="")
    with Http1Client("http://proxy.test", via=proxy.url) as client:
        assert client.get("/health").status == 502


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
        pytest.param(
            "PATCH /rules/not-forced HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Origin: http://evil.example\r\nContent-Length: 2\r\n",
            403,
            id="another page's change",
        ),
        pytest.param(
            "PATCH /rules/not-forced HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Content-Length: 10000000000\r\n",
            413,
            id="a body that is announced as huge",
        ),
    ],
)
def test_the_port_of_its_own_knows_whom_to_answer(
    shared_proxy: Callable[..., Proxy], own_port: int, head: str, status: int
) -> None:
    shared_proxy("regular", scripts=(ADDON,), options={"force_stream_page_port": own_port})
    data = head.format(port=own_port).encode() + b"\r\n{}"
    assert raw_request(f"http://127.0.0.1:{own_port}", data).status == status


@pytest.fixture(scope="module")
def own_port() -> int:
    return refused_port()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_port_is_opened_moved_and_closed_with_its_option(serve: Callable) -> None:
    first, second = refused_port(), refused_port()
    proxy = serve("regular", force_stream_page_port=first)
    assert at(first, "GET", "/health").status == 200
    assert not listens(second)
    proxy.set_options(force_stream_page_port=second)
    assert at(second, "GET", "/health").status == 200
    assert not listens(first)
    proxy.set_options(force_stream_page_port=0)
    assert not listens(second)


def test_the_port_gives_each_connection_one_answer_and_has_room_for_a_hundred(serve: Callable) -> None:
    port = refused_port()
    serve("regular", force_stream_page_port=port)
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
        with socket.create_connection(("127.0.0.1", port)) as one_more:
            one_more.settimeout(TIMEOUT)
            assert one_more.recv(1) == b"", "it is closed without a word"
        idle[0].settimeout(TIMEOUT)
        idle[0].sendall(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
        head = b""
        while piece := idle[0].recv(4096):
            head += piece
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert b"Connection: close" in head
    assert at(port, "GET", "/health").status == 200


def test_a_connection_that_stays_open_ends_with_its_port(serve: Callable) -> None:
    port = refused_port()
    proxy = serve("regular", force_stream_page_port=port)
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.settimeout(TIMEOUT)
        idle.sendall(b"GET /health HTTP/1.1\r\n")
        assert at(port, "GET", "/health").status == 200
        proxy.set_options(force_stream_page_port=0)
        assert idle.recv(1) == b""
    assert "Traceback" not in proxy.log


def test_the_port_is_open_to_this_machine_alone(serve: Callable) -> None:
    port = refused_port()
    serve("regular", force_stream_page_port=port)
    listeners = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines() if " 0A " in line
    ]
    assert [address for address in listeners if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize(
    ("port", "reason"), [(None, "is already in use"), (70000, "does not exist")], ids=["taken", "no port"]
)
def test_a_port_that_cannot_be_had_is_one_line_and_traffic_goes_on(
    serve: Callable, upstream: Upstream, port: int | None, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port or taken.getsockname()[1]
        proxy = serve(f"reverse:{upstream.url()}", force_stream_page_port=port)
        proxy.wait_for_log(f"port {port} {reason}, so the page is not served there; choose another port")
    upstream.answer_always(event_stream(STREAM))
    with Http1Client(proxy.url) as client:
        assert client.post(CHAT, request()).status == 200
    assert "Traceback" not in proxy.log


def test_a_reload_of_the_script_takes_the_port_with_it(serve: Callable, upstream: Upstream, tmp_path: Path) -> None:
    copy = tmp_path / "addon.py"
    (tmp_path / "lib").symlink_to(ROOT / "lib")
    copy.write_bytes(ADDON.read_bytes())
    port = refused_port()
    proxy = serve("regular", script=copy, force_stream_page_port=port)
    changed = through(proxy, "PATCH", "/rules/not-forced", JSON_TYPE, SWITCH)
    assert changed.json()["rule"]["force_upstream_stream"] is True
    since = proxy.mark()
    copy.write_bytes(copy.read_bytes() + b"\n# changed\n")
    proxy.wait_for_log("The page of force-stream is at", since=since)
    # The rules are the file's again, so it is the new page that answers, at both places.
    assert at(port, "GET", "/rules").json()[0]["force_upstream_stream"] is False
    assert through(proxy, "GET", "/rules").json()[0]["force_upstream_stream"] is False
    since = proxy.mark()
    copy.write_text("addons = []\n")
    proxy.wait_for_log("Loading script", since=since)
    proxy.command("options", {})  # it is answered in the event loop, once the script has been replaced there
    assert not listens(port)
