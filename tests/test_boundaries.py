"""The architecture, written down: which module may import which, read from the sources."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lib" / "force_stream"

LEAVES = {"errors", "jsontext"}
MERGING = {"aggregate", "merge", *LEAVES}
PUBLIC = {path.stem for path in PACKAGE.glob("*.py")} - {"__main__"}

# Module -> the modules of the package that it may import.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "jsontext": set(),
    "sse": set(),
    "request": set(),
    "form": {"request"},
    "merge": LEAVES,
    "aggregate": {"merge"},
    "tool_calls": MERGING,
    "chat": {"tool_calls", *MERGING},
    "completions": {"chat", *MERGING},
    "responses": MERGING,
    "messages": MERGING,
    "transcriptions": MERGING,
    "images": MERGING,
    "endpoints": {"chat", "completions", "responses", "messages", "transcriptions", "images", "aggregate"},
    "quirks": LEAVES,
    "repeat": {"merge", *LEAVES},
    "exchange": {"endpoints", "quirks", "request", "form", "sse", "repeat", *LEAVES},
    "watch": {"exchange", "inject", *LEAVES},
    "rules": {"endpoints", "quirks"},
    "rules_file": {"rules", "endpoints", "quirks"},
    "retry": set(),
    "decoding": set(),
    "stats": set(),
    "plot": {"stats"},
    "page": {"plot", "stats", *LEAVES},
    "serve": {"page"},
    "board": {"rules", "stats", *LEAVES},
    "outcome": {"flows", "exchange", "sse", "additions", "stats", "watch", *LEAVES},
    "learn": set(),
    "compare": LEAVES,
    "inject": LEAVES,
    "additions": LEAVES,
    "timeline": {"additions", "sse", *LEAVES},
    "timeline_text": {"additions", "timeline"},
    "contentview": {"timeline", "timeline_text"},
    "flows": {"endpoints", "exchange", "request", "form", "learn", "watch", "retry", "rules", *LEAVES},
    "mitmweb": set(),
    "telling": {"flows", "watch", *LEAVES},
    "commands": {"explain", "flows", "telling", "mitmweb", "stats", "compare", "exchange", "rules", "watch", *LEAVES},
    "chunked": set(),
    "upstream": {"chunked", "watch", "inject", *LEAVES},
    "__init__": {"endpoints", "exchange", "errors"},
    "__main__": {"cli/aggregate"},
    "explain": {"endpoints", "exchange", "flows", "rules"},
    "addon/hooks": PUBLIC,
    "addon/__init__": PUBLIC | {"addon/hooks"},
    "addon.py": {"addon/__init__"},
    "cli/script": set(),
    "cli/aggregate": {"endpoints", "exchange"},
    "cli/check": {"rules", "rules_file"},
    "cli/environment": set(),
    "cli/install": {"cli/script"},
    "cli/mitmproxy_tools": {"cli/script"},
    "cli/proxy": {"rules", "cli/mitmproxy_tools"},
    "cli/run": {"rules", "rules_file", "cli/environment", "cli/mitmproxy_tools"},
    "cli/__init__": {
        "__init__",
        *(f"cli/{name}" for name in ("aggregate", "check", "install", "proxy", "run", "script")),
    },
    "cli/__main__": {"cli/__init__"},
}
MAY_KNOW_MITMPROXY = {
    "addon.py",
    "cli/mitmproxy_tools",
    "addon/__init__",
    "addon/hooks",
    "explain",
    "rules",
    "flows",
    "telling",
    "outcome",
    "commands",
    "serve",
    "upstream",
    "contentview",
    "mitmweb",
}
# mitmproxy's own dependencies, which its standalone binaries have too.
MAY_KNOW = {
    "page": {"flask", "werkzeug"},
    "serve": {"flask", "werkzeug"},
    "decoding": {"brotli"},
    "chunked": {"h11"},
    "cli/environment": {"certifi"},
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
    "decoding": {"compression.zstd", "backports.zstd", "zstandard"},
    "rules_file": {"yaml", "ruamel.yaml"},
}


def declared() -> set[str]:
    """What pyproject.toml says that the addon needs, as names of modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in project["dependencies"]}
    return {{"pyyaml": "yaml", "ruamel.yaml": "ruamel"}.get(name, name) for name in names}


def guarded(source: Path) -> set[str]:
    """What a module names that it looks for while it runs: names of packages in calls and tables."""
    constants = {
        node.value for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
    }
    return {name for names in GUARDED.values() for name in names if name in constants}


@SOURCES
def test_imports_point_one_way(source: Path) -> None:
    assert imports(source)[0] <= ALLOWED[label(source)]


@SOURCES
def test_only_the_outer_modules_know_mitmproxy(source: Path) -> None:
    assert "mitmproxy" not in imports(source)[1] or label(source) in MAY_KNOW_MITMPROXY


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


def test_table_names_no_module_that_is_gone() -> None:
    assert set(ALLOWED) <= set(map(label, sources()))


def test_no_cycle_is_allowed() -> None:
    remaining = {module: set(allowed) - {module} for module, allowed in ALLOWED.items()}
    while ready := [module for module, needs in remaining.items() if not needs & remaining.keys()]:
        for module in ready:
            del remaining[module]
    assert not remaining
