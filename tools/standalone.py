"""Build a mitmdump as mitmproxy's releases have it: one program with a Python of its own, that nothing can be installed
into. It is for trying the one file; needs PyInstaller.

    python tools/standalone.py dist/standalone
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# As in mitmproxy's release/specs/standalone.spec: mitmdump brings neither of the other two tools, and writes its log at
# once.
OPTIONS: Final = (
    *("--exclude-module", "mitmproxy.tools.web"),
    *("--exclude-module", "mitmproxy.tools.console"),
    *("--python-option", "u"),
)
# What its releases do not bring, and an environment for development has.
MISSING: Final = ("yaml", "pytest", "hypothesis", "force_stream")


def main(arguments: list[str]) -> int:
    target = Path(*arguments) if arguments else ROOT / "dist" / "standalone"
    with tempfile.TemporaryDirectory(prefix="force-stream-standalone-") as folder:
        program = Path(folder, "mitmdump.py")
        program.write_text("from mitmproxy.tools.main import mitmdump\n\nmitmdump()\n", encoding="utf-8")
        command = [sys.executable, "-m", "PyInstaller", "--onefile", "--console", "--noconfirm", "--log-level", "WARN"]
        command += ["--workpath", f"{folder}/work", "--specpath", folder, "--distpath", str(target.resolve()), *OPTIONS]
        for name in MISSING:
            command += ["--exclude-module", name]
        return subprocess.run([*command, str(program)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
