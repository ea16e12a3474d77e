"""Write force_stream.py: the whole addon as one file, for a mitmproxy that nothing can be installed into.

    python tools/one_file.py dist/force_stream.py

It is addon.py with the package's sources in it, as text that people can read.
"""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LIB: Final = ROOT / "lib"
# What mitmproxy has no use for.
LEFT_OUT: Final = ("cli/", "__main__.py", "py.typed")
START, END = "# --- the package\n", "# --- the shell\n"

LOADER: Final = '''\
class EmbeddedPackage:
    """Finds and loads the modules of `force_stream` in the texts below, before any folder is searched: mitmproxy puts
    the folder of this file, which has the package's name, on the path."""

    def find_spec(self, name, path=None, target=None):
        stem = name.replace(".", "/")
        for source in (stem + "/__init__.py", stem + ".py"):
            if source in FILES:
                is_package = source.endswith("/__init__.py")
                spec = importlib.util.spec_from_loader(name, self, origin=self.path + source, is_package=is_package)
                spec.has_location = True
                return spec
        return None

    path = str(HERE) + "/force_stream.py/"

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.get_source(module.__name__), module.__file__, "exec"), module.__dict__)

    def get_source(self, name):  # for tracebacks
        return FILES[self.find_spec(name).origin[len(self.path) :]]

    def get_data(self, path):
        return FILES[path.replace("\\\\", "/")[len(self.path) :]].encode()


def _register_package() -> str:
    """Make the texts below the package `force_stream`. Returns what is wrong: "", since nothing can be."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "EmbeddedPackage"]
    sys.meta_path.insert(0, EmbeddedPackage())
    return ""
'''


def one_file() -> str:
    """The text of force_stream.py."""
    shell = (ROOT / "addon.py").read_text(encoding="utf-8")
    head, _, rest = shell.partition(START)
    _, _, tail = rest.partition(END)
    license_text = (ROOT / "LICENSE").read_text(encoding="utf-8").strip()
    notice = "".join(f"# {line}".rstrip() + "\n" for line in license_text.splitlines())
    files = "".join(f'    "{name}": """\\\n{_quoted(text)}""",\n' for name, text in sources())
    head = head.replace("addon.py", "force_stream.py").replace(
        "A shell around the package `force_stream`, which it finds beside itself.",
        "The whole addon in one file: a shell, and the package `force_stream` as text.",
    )
    return f"{head}{notice}\n\n{LOADER}\n\nFILES = {{\n{files}}}\n\n\n{END}{tail}"


def sources() -> list[tuple[str, str]]:
    """The package's files, by their paths."""
    folder = LIB / "force_stream"
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".html", ".css", ".js")]
    return [
        (path.relative_to(LIB).as_posix(), path.read_text(encoding="utf-8"))
        for path in found
        if not path.relative_to(folder).as_posix().startswith(LEFT_OUT)
    ]


def _quoted(text: str) -> str:
    """A text for between three double quotes."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def main(arguments: list[str]) -> int:
    target = Path(*arguments) if arguments else ROOT / "dist" / "force_stream.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(one_file(), encoding="utf-8")
    print(f"{target}: {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
