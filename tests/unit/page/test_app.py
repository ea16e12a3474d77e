"""The page and its JSON API: what they say, what they change, and whom they refuse."""

import dataclasses
import json
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from force_stream.addon.hooks import ForceStream
from force_stream.page.app import LARGEST_CHANGE
from force_stream.rules.rule import Rule
from force_stream.view.stats import Stats
from harness import sse
from harness.master import answer_with, flow_with
from harness.page import JSON_TYPE, NAME, OUTCOME, Client, Shelf, client_of
from harness.samples import CHAT, RULES, SECRET, choice, chunk
from mitmproxy import http
from mitmproxy.test import taddons

DEEP: dict[str, Any] = reduce(lambda inner, _: {"a": inner}, range(900), {})
SWITCH = json.dumps({"force_upstream_stream": True})


# What it says


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


def answered() -> http.HTTPFlow:
    flow = flow_with()
    answer_with(flow, sse(chunk(choice(content=HOSTILE))))
    return flow


HOSTILE = "</pre><script>alert(1)</script>\u202e\x00"


def test_a_flow_that_is_still_in_memory_opens_and_can_be_saved() -> None:
    flow = answered()
    client = client_of(Shelf(dataclasses.replace(OUTCOME, flow=lambda: flow)))
    opened = client.get("/flows/f-1").json
    assert opened["said"] == [{"kind": "text", "text": HOSTILE, "name": "", "choice": None}]
    assert [entry["type"] for entry in opened["timeline"]] == ["chunk", "[DONE]"]
    assert opened["explained"] == [
        f"POST 127.0.0.1{CHAT}: rule private-vllm: host 127.0.0.1:22 is not among llm.example.com"
    ]
    page = client.get("/flows/f-1.html").text
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\x00</pre>" in page
    saved = client.get("/flows/f-1.sse")
    assert (saved.type, saved.data) == ("text/event-stream", flow.response.raw_content)
    assert saved.headers["Content-Disposition"] == 'attachment; filename="f-1.sse"'
    assert client.get("/flows/f-1.curl").text.startswith("curl -X POST http://127.0.0.1:22/v1/chat/completions")
    answer = client.get("/flows/f-1.json")
    assert (answer.status, answer.json) == (404, {"error": "The client got events, not a document."})


def test_a_file_has_a_name_that_no_id_can_spoil() -> None:
    flow, hostile = answered(), '.."\r\nX: y; é'
    client = client_of(Shelf(dataclasses.replace(OUTCOME, id=hostile, flow=lambda: flow)))
    answer = client.get(f"/flows/{quote(hostile, safe='')}.sse")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="Xy.sse"'


def test_of_a_flow_that_is_gone_the_page_says_so() -> None:
    client = client_of(Shelf(OUTCOME))
    opened = client.get("/flows/f-1").json
    assert opened["closed"] == "The flow itself is no longer in memory: only its figures are."
    assert "said" not in opened
    assert "no longer in memory" in client.get("/flows/f-1.html").text
    assert {client.get(f"/flows/f-1.{kind}").status for kind in ("sse", "json", "curl")} == {404}


def test_what_was_said_is_shown_on_this_machine_only() -> None:
    flow = answered()
    client = client_of(Shelf(dataclasses.replace(OUTCOME, flow=lambda: flow)), is_local=False, remote=True)
    assert "said" not in client.get("/flows/f-1").json
    assert "alert" not in client.get("/flows/f-1.html").text
    assert {client.get(f"/flows/f-1.{kind}").status for kind in ("sse", "json", "curl")} == {403}


def test_flows_are_chosen_by_what_the_address_says() -> None:
    failed = dataclasses.replace(OUTCOME, id="f-2", status=500)
    addon = Shelf(OUTCOME, failed, dataclasses.replace(OUTCOME, id="f-3", inferred=True))
    addon.flying = [{"id": "f-9", "upstream": "llm", "model": "m", "in_flight": True}]
    client = client_of(addon)
    for query, ids in (
        ("", ["f-9", "f-3", "f-2", "f-1"]),
        ("?limit=2", ["f-9", "f-3"]),
        ("?failed=1", ["f-2"]),
        ("?failed=1&odd=1", ["f-3", "f-2"]),
        ("?model=QWEN&limit=1", ["f-3"]),
        ("?text=500", ["f-2"]),
        ("?upstream=nowhere", []),
        ("?failed=1&failed=0", ["f-2"]),
    ):
        assert [flow["id"] for flow in client.get(f"/flows{query}").json] == ids
    assert client.get("/flows/f-9").json == addon.flying[0]
    assert client.get("/flows/f-9.svg").status == 404


def test_long_lists_are_whole() -> None:
    client = client_of(Shelf(*[dataclasses.replace(OUTCOME, id=f"f-{number}") for number in range(500)]))
    assert len(client.get("/flows").json) == 200
    assert len(client.get("/flows?limit=450").json) == 450


def test_an_address_with_very_many_parameters_is_refused() -> None:
    client = client_of(Shelf())
    for path in ("/", "/flows", "/flows.html", "/events"):
        answer = client.get(f"{path}?{'a=1&' * 5000}")
        assert (path, answer.status) == (path, 400)


def test_metrics_have_prometheus_type() -> None:
    answer = client_of(Shelf(OUTCOME)).get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "force_stream_requests_total" in answer.text


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


@pytest.mark.parametrize("path", ["/", "/rules", "/page.css", "/events", "/nothing"])
def test_head_is_get_without_the_body(path: str) -> None:
    client = client_of(Shelf(OUTCOME))
    head, whole = client.ask("HEAD", path), client.get(path)
    assert (head.status, head.headers, head.data) == (whole.status, whole.headers, b"")


@pytest.mark.parametrize("limit", ["", "-1", "many", "1e3", "100000", "\u0661"])
def test_a_limit_that_is_not_a_number_is_refused(limit: str) -> None:
    answer = client_of(Shelf()).get(f"/flows?limit={limit}")
    assert (answer.status, answer.json) == (400, {"error": "The limit must be a whole number."})


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Client]:
    """The page of an addon with the rules of the samples, one of which has a name with a space in it."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.replace("only-chat", "only chät +1"), encoding="utf-8")
    ours = ForceStream(rules)
    with taddons.context(ours) as context:
        context.configure(ours, force_stream_rules=str(rules))
        yield client_of(ours)


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
        ({"stream_options": DEEP}, "nested too deeply for a rule"),
    ],
)
def test_a_change_is_checked_as_the_file_is_all_or_nothing(real: Client, changes: dict[str, Any], words: str) -> None:
    before = real.get("/rules").json
    answer = real.patch("/rules/private-vllm", data=json.dumps(changes))
    assert answer.status == 400
    assert words in answer.json["error"]
    assert "\n" not in answer.json["error"]
    assert real.get("/rules").json == before


def test_numbers_lists_and_texts_are_changed_as_they_are_meant(real: Client) -> None:
    changes = {"timeout": 2.5, "models": ["true", "é*", "1"], "stream_options": None, "inject": {"cut_after": 3}}
    answer = real.patch("/rules/private-vllm", data=json.dumps(changes))
    assert answer.status == 200, answer.text
    assert {key: answer.json["rule"][key] for key in changes} == changes


def test_a_rule_whose_name_has_spaces_is_found(real: Client) -> None:
    answer = real.patch("/rules/only%20ch%C3%A4t%20+1", data='{"force_upstream_stream": false}')
    assert answer.json["changed"] == ["rule only chät +1: force_upstream_stream true -> false"]


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
    "path",
    [
        *("/", "/rules", "/stats", "/metrics", "/flows", "/flows.html", "/flows/f-1", "/flows/f-1.svg"),
        *("/flows/f-1.html", "/flows/f-1.sse", "/events", "/health", "/nothing", "/page.js"),
    ],
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
    ("is_local", "remote", "status"), [(True, False, 200), (False, False, 403), (False, True, 200)]
)
def test_only_this_machine_is_answered_unless_an_option_says_otherwise(
    is_local: bool, remote: bool, status: int
) -> None:
    addon = Shelf()
    client = client_of(addon, is_local=is_local, remote=remote)
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
    assert person.text == "There is no such page. There are /, /rules, /stats, /metrics, /flows, /events and /health.\n"
    program = client.get("/nothing")
    assert program.json == {"error": person.text.strip()}


def test_a_fault_of_the_page_tells_no_message(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Stats):
        def rows(self, most: int | None = None) -> list[dict[str, Any]]:
            raise RuntimeError(SECRET)

    addon = Shelf()
    addon.stats = Broken()
    answer = client_of(addon).get("/stats")
    assert answer.status == 500
    assert SECRET not in answer.text
    assert SECRET not in caplog.text
