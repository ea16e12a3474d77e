"""The architecture, written down: which module may import which, read from the sources."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from harness.paths import ROOT

PACKAGE = ROOT / "lib" / "force_stream"

# The rooms, from the wire to the command line. A room imports from itself and from those above it.
ROOMS = ("wire", "errors", "merge", "endpoints", "answer", "rules", "proxy", "view", "page", "addon", "cli")
# What stands beside the rooms, and the rooms that it may open.
OUTSIDE = {"__init__": {"errors", "endpoints", "answer"}, "__main__": {"cli"}, "addon.py": {"addon"}}

MAY_KNOW_MITMPROXY = {
    "rules/rule",
    *(
        f"proxy/{name}"
        for name in (
            "bodies",
            "chunked",
            "cors",
            "explain",
            "goaway",
            "kept_answers",
            "live_copy",
            "notes",
            "request",
            "response",
            "saved",
            "shortcut",
            "stream_layer",
            "summary",
        )
    ),
    *(f"view/{name}" for name in ("contentview", "flow_record", "opened")),
    "page/server",
    *(
        f"addon/{name}"
        for name in (
            "__init__",
            "certificates",
            "commands",
            "hooks",
            "in_flight",
            "listeners",
            "mitmweb",
            "options",
            "retries",
            "rules_watcher",
        )
    ),
    "addon.py",
    *(f"cli/{name}" for name in ("mitmproxy_tools", "report", "report_page")),
    "cli/mitmproxy_script/overrides",
}
# mitmproxy's own dependencies, which its standalone binaries have too. tornado is not one: mitmweb alone brings it.
# The command runs elsewhere.
MAY_KNOW = {
    "wire/encodings": {"brotli"},
    "proxy/chunked": {"h11"},
    "proxy/goaway": {"h2", "hyperframe"},
    "proxy/shortcut": {"OpenSSL"},
    "page/server": {"h11"},
    "cli/environment": {"certifi", "cryptography"},
    "cli/install": {"ruamel"},
}


def sources() -> list[Path]:
    return [ROOT / "addon.py", *sorted(PACKAGE.rglob("*.py"))]


def label(source: Path) -> str:
    """The name of a module in the tables."""
    return f"{source.relative_to(PACKAGE).with_suffix('')}" if source.is_relative_to(PACKAGE) else source.name


def imports(source: Path) -> tuple[set[str], set[str]]:
    """The modules of the package that a file imports, wherever it does, and all else that it imports (top names)."""
    own: set[str] = set()
    foreign: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                folder = source.parent.relative_to(PACKAGE).parts
                inner = [*folder[: len(folder) - node.level + 1], *module]
            elif module[0] == "force_stream":
                inner = module[1:]
            else:
                foreign.add(module[0])
                continue
            own |= {_module([*inner, alias.name]) or _module(inner) for alias in node.names}
        elif isinstance(node, ast.Import):
            foreign |= {alias.name.split(".")[0] for alias in node.names}
    return own, foreign


def _module(parts: list[str]) -> str:
    """The module that these names lead to; "" where they lead to none."""
    path = PACKAGE.joinpath(*parts)
    found = next((each for each in (path.with_suffix(".py"), path / "__init__.py") if parts and each.is_file()), None)
    return label(found) if found else "" if parts else "__init__"


SOURCES = pytest.mark.parametrize("source", sources(), ids=label)

# Looked for while the addon runs, in one place each, where the answer to a missing one stands too.
GUARDED = {
    "wire/encodings": {"compression.zstd", "backports.zstd", "zstandard"},
    "rules/file": {"yaml", "ruamel.yaml"},
}


def declared() -> set[str]:
    """What pyproject.toml says that the addon needs, as names of modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in project["dependencies"]}
    modules = {"pyopenssl": "OpenSSL", "pyyaml": "yaml", "ruamel.yaml": "ruamel"}
    return {modules.get(name, name) for name in names}


def guarded(source: Path) -> set[str]:
    """What a module names that it looks for while it runs: names of packages in calls and tables."""
    constants = {
        node.value for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
    }
    return {name for names in GUARDED.values() for name in names if name in constants}


def room(module: str) -> str:
    return module.partition("/")[0]


@SOURCES
def test_a_room_imports_from_itself_and_from_those_above_it(source: Path) -> None:
    module = label(source)
    opened = {room(each) for each in imports(source)[0]}
    if module in OUTSIDE:
        assert opened <= OUTSIDE[module]
    else:
        # Only the command asks for the version.
        allowed = {"__init__"} if module in ("cli/__init__", "cli/report") else set()
        assert opened <= {*ROOMS[: ROOMS.index(room(module)) + 1], *allowed}


@SOURCES
def test_only_the_outer_modules_know_mitmproxy(source: Path) -> None:
    assert "mitmproxy" not in imports(source)[1] or label(source) in MAY_KNOW_MITMPROXY


@SOURCES
def test_nobody_reads_a_body_by_way_of_mitmproxys_decoders(source: Path) -> None:
    if label(source) not in MAY_KNOW_MITMPROXY:
        return
    # They have no limit. `raw_content` is a body as it came, and `data.content` is where mitmproxy keeps it.
    text = source.read_text(encoding="utf-8")
    assert set(re.findall(r"\w*\.(?:content|get_content|get_text)\b|\.json\(", text)) <= {"data.content"}


@SOURCES
def test_notes_on_flows_are_read_and_written_in_one_place(source: Path) -> None:
    # Anything may be in there: a flow file may come from anybody.
    tree = ast.parse(source.read_text(encoding="utf-8"))
    reaches = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "metadata"]
    spells = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == "force_stream."]
    assert bool(reaches) == bool(spells) == (label(source) == "proxy/notes")


@SOURCES
def test_what_is_imported_is_declared(source: Path) -> None:
    ours = {"force_stream", "addon"}
    assert imports(source)[1] <= set(sys.stdlib_module_names) | ours | declared()


@SOURCES
def test_what_may_be_missing_is_looked_for_in_one_place(source: Path) -> None:
    finds = "import_module" in source.read_text(encoding="utf-8")
    assert finds == (label(source) in GUARDED)
    assert guarded(source) == GUARDED.get(label(source), set())


@SOURCES
def test_nothing_else_is_needed_but_python(source: Path) -> None:
    # mitmproxy's standalone binaries take no further packages. A YAML library is looked for at run time, in `rules`.
    its_own = MAY_KNOW.get(label(source), set())
    assert imports(source)[1] <= set(sys.stdlib_module_names) | {"mitmproxy", "force_stream"} | its_own


def test_every_room_and_every_module_of_the_tables_is_there() -> None:
    modules = set(map(label, sources()))
    assert {room(module) for module in modules} == {*ROOMS, *OUTSIDE}
    assert MAY_KNOW_MITMPROXY | MAY_KNOW.keys() | GUARDED.keys() <= modules


def test_no_module_imports_itself_by_way_of_others() -> None:
    remaining = {label(source): imports(source)[0] - {label(source)} for source in sources()}
    while ready := [module for module, needs in remaining.items() if not needs & remaining.keys()]:
        for module in ready:
            del remaining[module]
    assert not remaining
