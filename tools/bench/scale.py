"""How many streams a proxy carries, and what a second one adds: `make bench-scale` (ARGS=--quick, ARGS=--write).

Instances of mitmdump with the addon stand behind a real HAProxy with the configuration in deploy/. First one instance
has a core to itself and gets more and more streams at a model's pace. Then one and two instances get the same load in
turns: at a model's pace, and as fast as they can. HAProxy, the upstream and the clients need cores too, so that at full
speed two instances cannot always answer twice as much; how much they could is printed beside it.
"""

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Final

from load import HOST, ROOT, Load, LoadError, Process, Upstream, free_port, machine, mitmdump, run

DOCUMENT: Final = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
RULES: Final = """\
rules:
  - name: bench
    hosts: ["127.0.0.1"]
    force_upstream_stream: true
"""
SERVER: Final = re.compile(r" +server \w+ 127\.0\.0\.1:\d+ check port \d+\n")
# Chunks a second of one stream: a model of middling speed.
PACE: Final = 50
PACES: Final = (25, 50, 100, 200)
STEPS: Final = (16, 32, 64, 128, 256)
# The part of a core that an instance may take for long: the rest is for moments at which many answers end at once.
FULL: Final = 0.7
# Seconds from the upstream's last byte to the client's, for nine of ten, at which there is no use in more streams.
LATE: Final = 2.0
# Cores that other programs may take before the report says what it does to the figures.
DISTURBED: Final = 0.2
# How many times as many requests two instances are to answer as one.
AIM: Final = 1.9
# At full speed every instance has work all the time.
AT_ONCE: Final = {50: (32, 10), 500: (32, 4)}


class Instance(Process):
    """A mitmdump with the addon at `port`, its page at `page`."""

    def __init__(self, folder: Path, upstream: int, cores: set[int] | None) -> None:
        self.port, self.page = free_port(), free_port()
        rules = folder / "rules.yaml"
        rules.write_text(RULES)
        options = ("flow_detail=0", "connection_strategy=lazy", f"confdir={folder}", f"force_stream_rules={rules}")
        command = [mitmdump(), "-s", str(ROOT / "addon.py"), "--mode", f"reverse:http://{HOST}:{upstream}"]
        command += ["--listen-host", HOST, "--listen-port", str(self.port)]
        for option in (*options, f"force_stream_page_port={self.page}"):
            command += ["--set", option]
        super().__init__(command, cores=cores)


class Balancer(Process):
    """HAProxy with the configuration in deploy/ before these instances, at `port`."""

    def __init__(self, haproxy: str, folder: Path, instances: Sequence[Instance]) -> None:
        self.port = free_port()
        self.instances = instances
        text = (ROOT / "deploy" / "haproxy.cfg").read_text(encoding="utf-8")
        text = re.sub(r"^ +(user|group) haproxy\n", "", text, flags=re.MULTILINE)
        text = text.replace("127.0.0.1:8080", f"{HOST}:{self.port}")
        servers = "".join(
            f"    server instance{number} {HOST}:{instance.port} check port {instance.page}\n"
            for number, instance in enumerate(instances)
        )
        before, *_, behind = SERVER.split(text)
        file = folder / f"haproxy-{len(instances)}.cfg"
        file.write_text(before + servers + behind, encoding="utf-8")
        super().__init__([haproxy, "-db", "-f", str(file)])


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one load: requests a second; of a core, what each instance took, and all else together; seconds from
    the upstream's last byte to the client's."""

    rate: float
    instances: list[float]
    others: float
    latencies: list[float]

    @property
    def cores(self) -> float:
        return sum(self.instances)

    @property
    def middle(self) -> float:
        return statistics.median(self.latencies)

    @property
    def high(self) -> float:
        """Nine of ten are at most this late."""
        return statistics.quantiles(self.latencies, n=10, method="inclusive")[-1]


def measure(load: Load, balancer: Balancer, upstream: Upstream, cores: set[int] | None = None) -> Figures:
    """Put a load on the balancer's instances. `cores`: where the clients run."""
    before = [instance.cpu for instance in balancer.instances]
    others = balancer.cpu + upstream.cpu + _children()
    outcome = run(replace(load, port=balancer.port), upstream, cores)
    seconds = len(outcome.durations) / outcome.rate
    used = [instance.cpu - begun for instance, begun in zip(balancer.instances, before, strict=True)]
    rest = balancer.cpu + upstream.cpu + _children() - others
    return Figures(outcome.rate, [each / seconds for each in used], rest / seconds, outcome.latencies)


def _children() -> float:
    """Processor seconds of processes that have ended, which are the clients."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def paced(clients: int, seconds: int) -> Load:
    """Streams at a model's pace. They begin, and so end, one after another; for a third of the time all are open."""
    chunks = PACE * seconds
    return Load(0, clients, 2, chunks, pace=1 / PACE, timeout=60.0 + 10 * seconds, spread=seconds)


def while_all_are_open(load: Load, found: Figures) -> list[float]:
    """Of a core, what each instance takes while all of a load's paced streams are open."""
    a_second = load.clients / (load.chunks * load.pace)
    return [each / found.rate * a_second for each in found.instances]


# The parts of the report


def carried(balancer: Balancer, upstream: Upstream, seconds: int, steps: Sequence[int]) -> Iterator[str]:
    """How many streams one instance carries on a core of its own."""
    yield f"One instance on one core, streams of {PACE} events a second for {seconds} s each:"
    yield ""
    yield "| streams at once | of the core | CPU for 1,000 events | from last byte to answer | for nine of ten |"
    yield "|---:|---:|---:|---:|---:|"
    costs: dict[int, float] = {}
    _, rest = split()
    for clients in steps:
        load = paced(clients, seconds)
        try:
            found = measure(load, balancer, upstream, rest)
        except LoadError as error:
            yield f"| {clients} | {error} | | | |"
            break
        share = sum(while_all_are_open(load, found))
        cost = share / clients / PACE
        # Where answers are late, events wait and are read many at a time, which costs less but helps nobody.
        if (share <= FULL and found.middle <= 1 / PACE) or not costs:
            costs[clients] = cost
        yield (
            f"| {clients} | {share:.0%} | {cost * 1e6:.0f} ms | {found.middle * 1e3:.1f} ms | "
            f"{found.high * 1e3:.1f} ms |"
        )
        if found.high > LATE:
            break
    clients, cost = max(costs.items())
    peak = balancer.instances[0].memory("VmHWM") / 2**20
    yield ""
    yield (
        f"So an event takes {cost * 1e3:.2f} ms of a core (at {clients} streams), and a core that is to be busy for "
        f"{FULL:.0%} of the time carries as below. Its memory was {peak:.0f} MiB at most."
    )
    yield ""
    yield "| events a second of one stream | " + " | ".join(f"{pace}" for pace in PACES) + " |"
    yield "|---|" + "---:|" * len(PACES)
    yield "| streams a core carries | " + " | ".join(f"{FULL / cost / pace:.0f}" for pace in PACES) + " |"


def shared_out(
    balancers: Mapping[int, Balancer], upstream: Upstream, clients: int, seconds: int, rounds: int
) -> Iterator[str]:
    """The same streams on one instance and on two."""
    load = paced(clients, seconds)
    found: dict[int, list[Figures]] = {count: [] for count in balancers}
    for _ in range(rounds):
        for count, balancer in balancers.items():
            found[count].append(measure(load, balancer, upstream))
    yield f"The same {clients} streams of {PACE} events a second, in turns on one instance and on two:"
    yield ""
    yield "| instances | of a core, the busier one | of a core, both | from last byte to answer | for nine of ten |"
    yield "|---:|---:|---:|---:|---:|"
    for count, all_figures in found.items():
        shares = [while_all_are_open(load, each) for each in all_figures]
        busiest, together = spread([max(each) for each in shares]), spread([sum(each) for each in shares])
        middle = statistics.median(each.middle for each in all_figures) * 1e3
        high = statistics.median(each.high for each in all_figures) * 1e3
        yield f"| {count} | {busiest} | {together} | {middle:.1f} ms | {high:.1f} ms |"


def at_full_speed(balancers: Mapping[int, Balancer], upstream: Upstream, rounds: int) -> Iterator[str]:
    """How many times as many requests two instances answer as one, and how many they could on this machine's cores."""
    yield "As fast as they can, in turns on one instance and on two:"
    yield ""
    yield (
        "| events an answer | requests/s, one | requests/s, two | ratio | CPU a request, one | CPU a request, two "
        "| CPU of all else | ratio that the cores allow |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|"
    most = 0.0
    for chunks, (clients, requests) in AT_ONCE.items():
        rounds_of: list[dict[int, Figures]] = []
        for _ in range(rounds):
            load = Load(0, clients, requests, chunks)
            rounds_of.append({count: measure(load, balancer, upstream) for count, balancer in balancers.items()})
        rates = {count: statistics.median(each[count].rate for each in rounds_of) for count in balancers}
        costs = {
            count: statistics.median(each[count].cores / each[count].rate for each in rounds_of) for count in balancers
        }
        others = statistics.median(each[2].others / each[2].rate for each in rounds_of)
        # Two instances are done when all cores are busy, with their own work and everybody else's.
        allowed = min(2.0, _cores() * costs[1] / (costs[2] + others))
        most = max(most, allowed)
        ratio = spread([each[2].rate / each[1].rate for each in rounds_of])
        spent = " | ".join(f"{seconds * 1e3:.1f} ms" for seconds in (costs[1], costs[2], others))
        yield f"| {chunks} | {rates[1]:.0f} | {rates[2]:.0f} | {ratio} | {spent} | {allowed:.2f} |"
    if most < AIM:
        yield ""
        yield (
            f"{_cores()} cores do not show whether a second instance adds {AIM - 1:.0%} of the first: HAProxy, the "
            "upstream and the clients need a part of them. Measure on four or more."
        )


def spread(values: Sequence[float]) -> str:
    """The median, and the quartiles."""
    if len(values) < 3:
        return f"{statistics.median(values):.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


class Neighbours:
    """What programs that are not ours take of the machine's cores, which spoils the figures."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._busy = self._all()

    def cores(self, ours: Sequence[Process]) -> float:
        """Since the start of this; `ours` began after it, and our clients have ended."""
        own = sum(process.cpu for process in ours) + _children() + time.process_time()
        return max(0.0, (self._all() - self._busy - own) / (time.monotonic() - self._begun))

    @staticmethod
    def _all() -> float:
        # proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def split() -> tuple[set[int] | None, set[int] | None]:
    """A core for the first instance, and the rest for HAProxy, the upstream and the clients."""
    first, *rest = sorted(os.sched_getaffinity(0))
    return ({first}, set(rest)) if rest else (None, None)


def surroundings(haproxy: str) -> str:
    said = subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version ([\w.]+)", said)
    return (
        f"Measured on {machine()}, mitmproxy {version('mitmproxy')}, HAProxy {found[1] if found else 'unknown'}. "
        "Figures with a range are medians with their quartiles."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="How many streams a proxy carries, and what a second one adds.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: less to be trusted")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/scaling.md")
    options = parser.parse_args()
    seconds, steps, rounds = (2, STEPS[1:3], 1) if options.quick else (5, STEPS, 5)
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        print("There is no haproxy here. Try: apt-get install haproxy", file=sys.stderr)
        return 1

    lines: list[str] = []

    def report(part: Iterator[str]) -> None:
        for line in chain(part, [""]):
            print(line, flush=True)
            lines.append(line)

    neighbours = Neighbours()
    report(iter([surroundings(haproxy)]))
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        folder = Path(name)
        own, rest = split()
        upstream = stack.enter_context(Upstream(rest))
        instances = [stack.enter_context(Instance(folder, upstream.port, cores)) for cores in (own, rest)]
        for instance in instances:
            instance.wait_for(instance.page, "/health")
        balancers = {
            count: stack.enter_context(Balancer(haproxy, folder, instances[:count])) for count in (1, len(instances))
        }
        for balancer in balancers.values():
            balancer.wait_for(balancer.port)
            run(Load(balancer.port, 8, 2, 50), upstream)
        _place([upstream, *balancers.values()], rest)
        report(carried(balancers[1], upstream, seconds, steps))
        # From here on there may be more processes with work than cores, and the system shares them out.
        _place([upstream, *instances, *balancers.values()], os.sched_getaffinity(0))
        report(shared_out(balancers, upstream, 64, seconds, (rounds + 1) // 2))
        report(at_full_speed(balancers, upstream, rounds))
        taken = neighbours.cores([upstream, *instances, *balancers.values()])
        quiet = "" if taken <= DISTURBED else ": measure again on a quiet machine"
        report(iter([f"Meanwhile other programs took {taken:.1f} of the {_cores()} cores{quiet}."]))
    if options.write:
        head, _, behind = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        text = "\n".join(["", *lines])
        DOCUMENT.write_text(head + BEGIN + text + "\n" + END + behind.partition(END)[2], encoding="utf-8")
    return 0


def _place(processes: Sequence[Process], cores: set[int] | None) -> None:
    for process in processes:
        if cores:
            os.sched_setaffinity(process.pid, cores)


if __name__ == "__main__":
    sys.exit(main())
