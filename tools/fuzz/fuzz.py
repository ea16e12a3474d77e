"""Look for bytes that break a law of the library, guided by the code that they reach: `make fuzz`.

One atheris process after the other, each for its target of targets.py and its share of the time. What breaks a law
goes to .fuzz/findings, once for each place in the code, and the search goes on. The bytes that reached something new
stay in .fuzz/TARGET, and the next run begins with them. Exit code 1 if there is a finding.

    python tools/fuzz/fuzz.py [--seconds 600] [TARGET ...]
    python tools/fuzz/fuzz.py --try FILE           run a finding again, with its traceback
"""

import argparse
import hashlib
import importlib
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
LIB: Final = ROOT / "lib"
FOLDER: Final = ROOT / ".fuzz"
FINDINGS: Final = FOLDER / "findings"
# Shares of the time.
SHARES: Final = {
    "stream": 4,
    "grammar": 6,
    "request": 3,
    "form": 1,
    "rules": 2,
    "setting": 1,
    "timeline": 3,
    "flows": 2,
    "wire": 5,
}
# Seconds and megabytes for one input. Nothing that fits into LONGEST bytes may need more.
PATIENCE: Final = 20
MEMORY: Final = 2048
LONGEST: Final = 8192

STATUS: Final = re.compile(r"#(?P<runs>\d+)\s.*cov: (?P<edges>\d+) ft: (?P<features>\d+) corp: (?P<corpus>\d+)")
DONE: Final = re.compile(r"Done (?P<runs>\d+) runs")

# mitmproxy's own states are those of the wire too.
INSTRUMENTED: Final = ("force_stream", "mitmproxy.proxy.layers.http", "h11._readers", "h2.stream", "h2.connection")

type Target = Callable[[bytes], None]


def main() -> int:
    options = _options()
    sys.path[:0] = [str(LIB), str(ROOT / "tests")]
    if options.search:
        return search(options.search, options.seconds)
    if options.retry:
        try_again(options.retry)
        return 0
    targets = options.targets or list(SHARES)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    before = set(FINDINGS.iterdir())
    whole = sum(SHARES[target] for target in targets)
    figures = [run(target, max(5, options.seconds * SHARES[target] // whole)) for target in targets]
    print(f"\n{'target':<10}{'runs':>12}{'seconds':>9}{'edges':>8}{'features':>10}{'inputs':>8}")
    for each in figures:
        print(
            f"{each.target:<10}{each.runs:>12,}{each.seconds:>9.0f}{each.edges:>8,}{each.features:>10,}{each.inputs:>8,}"
        )
    print(f"{'all':<10}{sum(each.runs for each in figures):>12,}{sum(each.seconds for each in figures):>9.0f}")
    found = sorted(set(FINDINGS.iterdir()) - before)
    for path in found:
        print(f"finding: {path.relative_to(ROOT)}")
    broken = [each.target for each in figures if each.code]
    if broken:
        print(f"ended before its time: {', '.join(broken)}")
    return 1 if found or broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(SHARES))
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together (600)")
    parser.add_argument("--try", dest="retry", type=Path, metavar="FILE", help="run a finding again")
    parser.add_argument("--search", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for target in options.targets:
        if target not in SHARES:
            parser.error(f"there is no target {target!r}; there are {', '.join(SHARES)}")
    return options


@dataclass
class Figures:
    """What one run came to. `edges`: branches of lib that were reached; `features`: those, by how often."""

    target: str
    seconds: float = 0
    runs: int = 0
    edges: int = 0
    features: int = 0
    inputs: int = 0
    code: int = 0
    log: list[str] = field(default_factory=list, repr=False)


def run(target: str, seconds: int) -> Figures:
    """Search in a process of its own, since atheris ends the one it runs in."""
    figures = Figures(target)
    begun = time.monotonic()
    command = [sys.executable, __file__, "--search", target, "--seconds", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    assert process.stderr
    for line in process.stderr:
        figures.log.append(line)
        status = STATUS.search(line)
        if status:
            figures.runs, figures.edges = int(status["runs"]), int(status["edges"])
            figures.features, figures.inputs = int(status["features"]), int(status["corpus"])
        elif done := DONE.search(line):
            figures.runs = int(done["runs"])
    figures.code = process.wait()
    figures.seconds = time.monotonic() - begun
    print(f"{target}: {figures.runs:,} runs, {figures.edges:,} edges, {figures.seconds:.0f} s", flush=True)
    if figures.code:
        print("".join(figures.log[-30:]))
    return figures


def search(target: str, seconds: int) -> int:
    """In the process of one target: does not return."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        targets: Any = importlib.import_module("targets")
    corpus, seeds = FOLDER / target, FOLDER / "seeds" / target
    for folder in (corpus, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in targets.seeds(target):
        (seeds / name_of(seed)).write_bytes(seed)
    limits = {"max_total_time": seconds, "max_len": LONGEST, "rss_limit_mb": MEMORY}
    limits |= {"timeout": PATIENCE, "report_slow_units": PATIENCE}
    options = [f"-{name}={value}" for name, value in limits.items()]
    arguments = [*options, f"-artifact_prefix={FINDINGS / target}-", str(corpus), str(seeds)]
    atheris.Setup([__file__, *arguments], catching(target, targets.TARGETS[target]))
    atheris.Fuzz()
    return 0


def catching(name: str, target: Target) -> Target:
    """The target, but what it raises becomes a finding: the shortest input for each place that raises."""
    shortest: dict[str, int] = {}

    def run_once(data: bytes) -> None:
        try:
            target(data)
        except Exception as error:
            where = place_of(error)
            if len(data) < shortest.get(where, LONGEST + 1):
                shortest[where] = len(data)
                path = FINDINGS / f"{name}-{name_of(where.encode())}"
                path.write_bytes(data)
                path.with_suffix(".txt").write_text(f"{where}\n\n{traceback.format_exc(limit=-12)}", encoding="utf-8")

    return run_once


def place_of(error: Exception) -> str:
    """Where in the code an exception came from, the same for all that come from there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(str(LIB))] or frames
    deepest = ours[-1]
    said = f": {error}" if isinstance(error, AssertionError) and len(f"{error}") < 60 else ""
    return f"{type(error).__name__} at {Path(deepest.filename).name}, {deepest.name}, line {frames[-1].lineno}{said}"


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def try_again(path: Path) -> None:
    targets: Any = importlib.import_module("targets")
    name, data = path.name.partition("-")[0], path.read_bytes()
    if name in targets.STREAMS:
        print(targets.STREAMS[name](data))
    targets.TARGETS[name](data)


if __name__ == "__main__":
    sys.exit(main())
