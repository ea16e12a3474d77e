"""What forcing costs at the proxy: `make bench-proxy` (ARGS=--quick for a look, ARGS=--write for the docs).

Four ways get the same streams from the same upstream, in turns, round after round, each in a process that lives for
the whole run: mitmdump alone, passing the stream on; mitmdump with the addon, forcing; mitmdump with the addon and no
rule that matches; the LiteLLM proxy, passing the stream on, since it cannot ask for a stream in an application's place.
Every figure is the ratio to mitmdump alone in the same round: the median over the rounds, and the quartiles. Ratios
hold on any machine; seconds do not.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from typing import Final

from load import (
    HOST,
    ROOT,
    Load,
    LoadError,
    Outcome,
    Process,
    Upstream,
    events,
    free_port,
    machine,
    mitmdump,
    run,
    split_cores,
)

DOCUMENT: Final = ROOT / "docs" / "performance.md"
TABLES: Final = ROOT / "docs" / "performance-tables.md"
PLOT: Final = ROOT / "docs" / "performance.svg"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
MEGABYTE: Final = 1_000_000
# Seconds. A way that would need longer for a cell is not given it.
PATIENCE: Final = 15.0
# Chunks. Paced streams begin within the time that this many take.
MOST_SPREAD: Final = 100
# Events a second over all clients where a model's pace is played: fewer than a core of mitmproxy carries.
PACED_RATE: Final = {1: 500, 32: 2500, 256: 5000}

FORCING: Final = """\
rules:
  - name: bench
    hosts: ["127.0.0.1"]
    force_upstream_stream: true
"""
OTHER: Final = """\
rules:
  - name: other
    hosts: ["llm.example.com"]
    force_upstream_stream: true
"""
LITELLM: Final = """\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://{host}:{port}/v1", api_key: sk-bench}}
litellm_settings: {{telemetry: false, num_retries: 0, request_timeout: 600}}
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is asked for: `Load` without the way."""

    chunks: int
    clients: int
    requests: int
    paced: bool = False
    width: int = 0
    body: int = 0
    http2: bool = False

    @property
    def pace(self) -> float:
        return self.clients / PACED_RATE[self.clients] if self.paced else 0.0

    @property
    def title(self) -> str:
        if self.body:
            return f"a request of {self.body // MEGABYTE} MB"
        if self.width:
            return f"a stream of {self.size / MEGABYTE:.0f} MB"
        over = ", HTTP/2" if self.http2 else ""
        return f"{self.chunks:,} chunks, {'paced' if self.paced else 'full speed'}, {self.clients} at once{over}"

    @property
    def turns(self) -> int:
        """How often the ways take turns in a round. What is short is done by a processor that is fast or slow just
        then, whose clock and neighbours change within a second."""
        return 5 if self.chunks <= 50 and self.clients == 1 and not self.paced else 1

    @property
    def size(self) -> int:
        """Bytes of one answer's event stream."""
        return sum(len(event) for event in events(self.chunks, self.width))


@dataclass(slots=True)
class Way:
    """One of the ways; `stream`: the client has to ask for the stream itself; `http2_port`: of the same, where its
    upstream speaks HTTP/2."""

    title: str
    stream: bool
    command: list[str]
    port: int
    ready: str = ""
    ticks: Path | None = None
    http2_port: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    def process(self, cores: set[int] | None) -> Process:
        return Process(self.command, cores=cores, environment=self.environment)


ALONE: Final = "mitmdump alone"
FORCED: Final = "forced"
UNMATCHED: Final = "no rule matches"
THE_OTHER: Final = "LiteLLM proxy"

FULL: Final = (
    Cell(10, 1, 100),
    *(Cell(50, clients, requests) for clients, requests in ((1, 100), (32, 10), (256, 2))),
    *(Cell(500, clients, requests) for clients, requests in ((1, 60), (32, 4), (256, 1))),
    *(Cell(5_000, clients, requests) for clients, requests in ((1, 12), (32, 1), (256, 1))),
    *(Cell(chunks, 1, requests, http2=True) for chunks, requests in ((10, 100), (50, 100), (500, 60), (5_000, 12))),
    *(Cell(chunks, 32, requests, http2=True) for chunks, requests in ((50, 10), (500, 4), (5_000, 1))),
)
PACED: Final = (
    Cell(10, 1, 40, paced=True),
    *(Cell(50, clients, requests, paced=True) for clients, requests in ((1, 20), (32, 2), (256, 1))),
    *(Cell(500, clients, requests, paced=True) for clients, requests in ((1, 4), (32, 1), (256, 1))),
    *(Cell(5_000, clients, requests, paced=True) for clients, requests in ((1, 1), (256, 1))),
    Cell(10, 1, 40, paced=True, http2=True),
    *(Cell(50, clients, requests, paced=True, http2=True) for clients, requests in ((1, 20), (32, 2))),
    *(Cell(500, clients, requests, paced=True, http2=True) for clients, requests in ((1, 4), (32, 1))),
    Cell(5_000, 1, 1, paced=True, http2=True),
)
HELD: Final = (
    Cell(500, 1, 20),
    Cell(5_000, 1, 5),
    Cell(500, 32, 1, paced=True),
    Cell(4_000, 1, 3, width=1_000),
    Cell(50, 1, 3, body=20 * MEGABYTE),
)
PEAK: Final = (Cell(4_000, 1, 1, width=1_000), Cell(5_000, 32, 1))
QUICK_FULL: Final = (
    *(Cell(10, 1, 40), Cell(50, 1, 40), Cell(50, 32, 2), Cell(500, 1, 10), Cell(5_000, 1, 3)),
    *(Cell(50, 1, 40, http2=True), Cell(5_000, 1, 3, http2=True)),
)
QUICK_PACED: Final = (
    *(Cell(50, 1, 4, paced=True), Cell(500, 32, 1, paced=True)),
    *(Cell(50, 1, 4, paced=True, http2=True), Cell(500, 32, 1, paced=True, http2=True)),
)

type Figures = dict[Cell, dict[str, dict[str, list[float]]]]
"""By cell, way and what was measured: one figure a round."""


def ways(folder: Path, upstream: Upstream, litellm: str | None) -> list[Way]:
    (folder / "forcing.yaml").write_text(FORCING)
    (folder / "other.yaml").write_text(OTHER)
    (folder / "litellm.yaml").write_text(LITELLM.format(host=HOST, port=upstream.port))
    made = []
    for title, rules in ((ALONE, None), (FORCED, "forcing.yaml"), (UNMATCHED, "other.yaml")):
        port, http2_port = free_port(), free_port()
        command = [mitmdump(), "--listen-host", HOST, "--mode", f"reverse:http://{HOST}:{upstream.port}@{port}"]
        command += ["--mode", f"reverse:https://{HOST}:{upstream.http2_port}@{http2_port}"]
        for option in ("flow_detail=0", "connection_strategy=lazy", "ssl_insecure=true", f"confdir={folder}"):
            command += ["--set", option]
        if rules is not None:
            command += ["-s", str(ROOT / "addon.py"), "--set", f"force_stream_rules={folder / rules}"]
        for script in ("loop_ticker.py", "offer_http2.py"):
            command += ["-s", str(ROOT / "tools" / "bench" / script)]
        ticks = folder / f"held-{port}"
        environment = {"LOOP_TICKER_FILE": str(ticks)}
        made.append(Way(title, rules != "forcing.yaml", command, port, "", ticks, http2_port, environment))
    if litellm:
        port = free_port()
        command = [litellm, "--config", str(folder / "litellm.yaml"), "--host", HOST, "--port", str(port)]
        # Neither a look-up of prices on the network nor reports to anybody.
        environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_PROXY": HOST}
        environment |= {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}  # for who is on this machine
        made.append(Way(THE_OTHER, True, command, port, "/health/liveliness", environment=environment))
    return made


class Bench:
    """The processes, and one measurement of one way."""

    def __init__(self, upstream: Upstream, way_list: Sequence[Way]) -> None:
        self.upstream = upstream
        self.ways = way_list
        self.proxy_cores, self.load_cores = split_cores()
        self.processes: dict[str, Process] = {}

    def start(self, stack: ExitStack) -> None:
        for way in self.ways:
            self.processes[way.title] = stack.enter_context(way.process(self.proxy_cores))
        for way in self.ways:
            self.processes[way.title].wait_for(way.port, way.ready)
            self.load(way, Cell(50, 1, 200))  # what is done once only, and what Python learns of hot code

    def load(self, way: Way, cell: Cell) -> Outcome:
        load = Load(
            way.http2_port if cell.http2 else way.port,
            cell.clients,
            cell.requests,
            cell.chunks,
            cell.pace,
            cell.width,
            cell.body,
            stream=way.stream,
            # Models do not end at the same moment; answers that did would wait for each other at the proxy.
            spread=cell.pace * min(cell.chunks, MOST_SPREAD) if cell.clients > 1 else 0.0,
        )
        return run(load, self.upstream, self.load_cores)

    def measure(self, way: Way, cell: Cell) -> dict[str, float]:
        process = self.processes[way.title]
        before = process.cpu
        outcome = self.load(way, cell)
        return {
            "cpu": (process.cpu - before) / len(outcome.durations),
            "latency": statistics.median(outcome.latencies),
            "rate": outcome.rate,
        }

    def held(self, way: Way, cell: Cell) -> float:
        assert way.ticks is not None
        way.ticks.unlink(missing_ok=True)
        process = self.processes[way.title]
        os.kill(process.pid, signal.SIGUSR1)
        time.sleep(0.05)
        self.load(way, cell)
        os.kill(process.pid, signal.SIGUSR2)
        while not way.ticks.exists():
            time.sleep(0.01)
        return float(way.ticks.read_text())

    def peak(self, way: Way, cell: Cell) -> float:
        """The memory that a load adds at its peak, as a multiple of all its streams; in a process of its own."""
        with way.process(self.proxy_cores) as process:
            process.wait_for(way.port, way.ready)
            self.processes[way.title] = process
            self.load(way, Cell(50, min(cell.clients, 8), 2))
            before = process.memory("VmRSS")
            process.forget_peak()
            self.load(way, cell)
            return (process.memory("VmHWM") - before) / (cell.size * cell.clients)


def within_patience(cell: Cell, a_request: float | None) -> Cell | None:
    """The cell with as few requests as a slow way needs to end in time, given its processor seconds a request so far;
    None where one each are too many."""
    if a_request is None:
        return replace(cell, requests=max(1, cell.requests // 20))
    if cell.paced:
        # One that does not keep up with the pace would show how long its queue is, and nothing else.
        return cell if a_request / cell.chunks < 0.5 / PACED_RATE[cell.clients] else None
    requests = int(PATIENCE / a_request / cell.clients)
    if requests == 0 and a_request * cell.clients > 2 * PATIENCE:
        return None
    return replace(cell, requests=max(1, min(cell.requests, requests)))


def under_load(bench: Bench, cells: Iterable[Cell], rounds: int) -> Figures:
    figures: Figures = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    expected: dict[int, float] = {}
    for cell in cells:
        for turn in range(rounds * cell.turns):
            for way in bench.ways[:: -1 if turn % 2 else 1]:
                asked = cell
                if cell.http2 and not way.http2_port:
                    continue
                if way.title == THE_OTHER:
                    shorter = within_patience(cell, expected.get(cell.chunks))
                    if shorter is None:
                        continue
                    asked = shorter
                try:
                    measured = bench.measure(way, asked)
                except LoadError as error:
                    print(f"  {way.title}, {cell.title}: {error}", file=sys.stderr)
                    continue
                for what, value in measured.items():
                    figures[cell][way.title][what].append(value)
                if way.title == THE_OTHER:
                    expected[cell.chunks] = measured["cpu"]
        seconds = {way: [f"{value * 1000:.3g}" for value in by["cpu"]] for way, by in figures[cell].items()}
        print(f"  {cell.title}: {seconds}", file=sys.stderr, flush=True)
    return figures


def ratios(figures: Figures, cell: Cell, way: str, what: str) -> list[float]:
    """To mitmdump alone, round by round."""
    own, alone = figures[cell][way][what], figures[cell][ALONE][what]
    return [value / floor for value, floor in zip(own, alone, strict=False) if floor]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the quartiles."""
    if not values:
        return "–"
    if len(values) < 2:
        return format(values[0], form)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def summary(figures: Figures) -> list[str]:
    """What one client at a time pays: the medians, one row for each length of a stream."""
    columns = [(http2, paced) for http2 in (False, True) for paced in (False, True)]
    names = [f"HTTP/{'2' if http2 else '1.1'}, {'paced' if paced else 'full speed'}" for http2, paced in columns]
    lines = []
    for heading, form, values_of in (
        ("Processor time of a forced request, as a multiple of mitmdump alone", ".2f", _cpu),
        ("Milliseconds that the answer comes later than through mitmdump alone", "+.2f", _later),
    ):
        lines += [f"**{heading}**", "", "| stream | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for chunks in sorted({cell.chunks for cell in figures if cell.clients == 1}):
            row = []
            for http2, paced in columns:
                cell = next((cell for cell in figures if _is(cell, chunks, paced=paced, http2=http2)), None)
                values = [] if cell is None else values_of(figures, cell)
                row.append(format(statistics.median(values), form) if values else "–")
            lines.append(f"| {chunks:,} chunks | " + " | ".join(row) + " |")
        lines.append("")
    return lines


def _is(cell: Cell, chunks: int, *, paced: bool, http2: bool) -> bool:
    return (cell.chunks, cell.clients, cell.paced, cell.http2) == (chunks, 1, paced, http2)


def _cpu(figures: Figures, cell: Cell) -> list[float]:
    return ratios(figures, cell, FORCED, "cpu")


def _later(figures: Figures, cell: Cell) -> list[float]:
    pairs = zip(figures[cell][FORCED]["latency"], figures[cell][ALONE]["latency"], strict=False)
    return [(own - alone) * 1000 for own, alone in pairs]


def load_table(figures: Figures, titles: Sequence[str]) -> list[str]:
    others = [title for title in titles if title != ALONE]
    lines = []
    for what, heading in (
        ("cpu", "Processor time a request, as a multiple of mitmdump alone"),
        ("latency", "From the upstream's last byte to the client's last byte, as a multiple of mitmdump alone"),
        ("rate", "Requests a second, as a multiple of mitmdump alone (paced: the pace decides)"),
    ):
        added = what == "latency"
        columns = [*others, *(["added when forced, ms"] if added else [])]
        lines += [f"**{heading}**", "", "| stream | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for cell in figures:
            row = [spread(ratios(figures, cell, title, what)) for title in others]
            if added:
                row.append(spread(_later(figures, cell), "+.2f"))
            lines.append(f"| {cell.title} | " + " | ".join(row) + " |")
        lines.append("")
    return lines


def plain_table(heading: str, rows: Mapping[str, Mapping[str, Sequence[float]]], form: str) -> list[str]:
    titles = list(next(iter(rows.values())))
    lines = [f"**{heading}**", "", "| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for row, by in rows.items():
        lines.append(f"| {row} | " + " | ".join(spread(values, form) for values in by.values()) + " |")
    return [*lines, ""]


# The plot

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 250, 30, 26, 58
COLOURS: Final = {FORCED: "#1f77b4", UNMATCHED: "#7f7f7f", THE_OTHER: "#d62728"}
MARKS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def plot(figures: Figures, titles: Sequence[str]) -> str:
    """An SVG: for each load of one client a line, for each way its ratio of processor time, with the quartiles."""
    cells = [cell for cell in figures if cell.clients == 1]
    data = {cell: {t: ratios(figures, cell, t, "cpu") for t in titles if t != ALONE} for cell in cells}
    values = [value for by in data.values() for ratio in by.values() for value in ratio]
    low = max(mark for mark in MARKS if mark <= min([*values, 0.5]))
    high = min([mark for mark in MARKS if mark >= max([*values, 2])] or [MARKS[-1]])

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * log(min(max(value, low), high) / low) / log(high / low)

    height = TOP + ROW * len(data) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-weight="bold">Processor time a request, as a multiple of mitmdump alone</text>',
    ]
    at = LEFT
    for title, colour in COLOURS.items():
        if title in titles:
            out.append(f'<circle cx="{at + 5}" cy="36" r="4" fill="{colour}"/>')
            out.append(f'<text x="{at + 14}" y="40">{title}</text>')
            at += 150
    bottom = TOP + ROW * len(data)
    for mark in MARKS:
        if low <= mark <= high:
            stroke = "#333" if mark == 1 else "#ddd"
            out.append(f'<line x1="{x(mark):.1f}" y1="{TOP - 8}" x2="{x(mark):.1f}" y2="{bottom}" stroke="{stroke}"/>')
            out.append(f'<text x="{x(mark):.1f}" y="{bottom + 16}" text-anchor="middle">{mark:g}</text>')
    for number, (cell, by) in enumerate(data.items()):
        y = TOP + ROW * number
        out.append(f'<text x="{LEFT - 12}" y="{y + 14}" text-anchor="end">{cell.title}</text>')
        for offset, (title, ratio) in enumerate(by.items()):
            if not ratio:
                continue
            line, colour = y + 4 + 9 * offset, COLOURS[title]
            first, middle, last = statistics.quantiles(ratio, n=4, method="inclusive") if len(ratio) > 1 else ratio * 3
            out.append(
                f'<line x1="{x(first):.1f}" y1="{line}" x2="{x(last):.1f}" y2="{line}" stroke="{colour}" '
                'stroke-width="2"/>'
                f'<circle cx="{x(middle):.1f}" cy="{line}" r="4" fill="{colour}"/>'
            )
    return "\n".join([*out, "</svg>", ""])


def put(document: Path, text: str) -> None:
    """Replace the figures in a document."""
    head, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    document.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="What forcing costs at the proxy.")
    parser.add_argument("--quick", action="store_true", help="few loads and rounds: faster, and less to be trusted")
    parser.add_argument("--rounds", type=int, help="how many rounds (5, and 2 where paced; with --quick 3 and 1)")
    parser.add_argument("--litellm", default=shutil.which("litellm"), help="program of the LiteLLM proxy; '' for none")
    parser.add_argument("--long", action="store_true", help="256 paced streams of 5,000 chunks too: 4 minutes a way")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance*.md and .svg")
    options = parser.parse_args()
    full, paced = (QUICK_FULL, QUICK_PACED) if options.quick else (FULL, PACED)
    rounds = options.rounds or (3 if options.quick else 5)
    paced_rounds = min(rounds, 1 if options.quick else 2)
    long = [cell for cell in paced if cell.clients == 256 and cell.chunks == 5_000]
    paced = tuple(cell for cell in paced if cell not in long)

    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        cores = split_cores()[1]
        upstream = stack.enter_context(Upstream(cores))
        all_ways = ways(Path(name), upstream, options.litellm or None)
        bench = Bench(upstream, all_ways)
        with ExitStack() as processes:
            bench.start(processes)
            figures = under_load(bench, full, rounds)
            figures |= under_load(bench, paced, paced_rounds)
            if options.long:
                bench.ways = [way for way in all_ways if way.title != THE_OTHER]
                figures |= under_load(bench, long, 1)
            watched = [way for way in all_ways if way.ticks]
            held: dict[str, dict[str, list[float]]] = {}
            for cell in HELD:
                by = held.setdefault(cell.title, {way.title: [] for way in watched})
                for _ in range(rounds):
                    for way in watched:
                        by[way.title].append(bench.held(way, cell) * 1000)
        peaks: dict[str, dict[str, list[float]]] = {}
        for cell in PEAK:
            by = peaks.setdefault(f"{cell.title}", {way.title: [] for way in watched})
            for _ in range(min(rounds, 3)):
                for way in watched:
                    by[way.title].append(bench.peak(way, cell))

    titles = [way.title for way in all_ways]
    where_paced = "" if paced_rounds == rounds else f", {paced_rounds} where paced"
    about = f"On {machine()}: medians of {rounds} rounds{where_paced}."
    short = "\n".join([about, "", *summary(figures)])
    lines = [about.replace("medians", "medians (quartiles)"), ""]
    lines += load_table(figures, titles)
    lines += plain_table("The longest time that the event loop was held, ms", held, ".1f")
    lines += plain_table("Memory added at the peak, as a multiple of the event streams", peaks, ".2f")
    text = "\n".join(lines)
    print(short + text)
    if options.write:
        put(DOCUMENT, short)
        put(TABLES, text)
        PLOT.write_text(plot(figures, titles), encoding="utf-8")
        raw = {cell.title: by for cell, by in figures.items()}
        print(json.dumps({"load": raw, "held": held, "peaks": peaks}), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
