"""fanout's relay beside one in C that does one `sendto` a pod: what is lost, what a copy costs, and how late it is."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.lab import PORT, SENDER, Lab
from benchmarks.rows import BenchPart, Row, Spread, Table, si
from benchmarks.sending import Tell
from benchmarks.talk import Counter, Helper, compiled, python, receiving_core, sending_core, settled

PODS, SIZE, RATE = 16, 200, 20_000
OURS, LOOP = "fanout relay", "sendto a pod, C"
_PORTS = {OURS: PORT + 1, LOOP: PORT + 2}
_SOURCE = "10.77.255.2"
_CALM_RATE = 1_000
_BLOCK = 0.4
"""Seconds of one flow, before it is another's turn: what holds up the machine for a moment meets few of many."""
_PATIENCE = 25
"""Looks, ten milliseconds apart, until nothing more is expected of a relay that lost some."""
_CHEAPER = ">= 5"
_LATER = "<= 0.3"
_GAIN = "<= 1.25"


class Flow(NamedTuple):
    """What the source sends."""

    name: str
    rate: int
    """Datagrams a second; 0: as many as it can."""
    tick: int
    """So many at once."""
    gro: bool = True
    """Whether the pods' sockets take runs of segments as one (UDP_GRO)."""
    goal: str = ""

    def count(self, seconds: float) -> int:
        """Return how many datagrams it has after that many seconds."""
        return int((self.rate or 200_000) * seconds)


EVEN = Flow("20,000/s, evenly", RATE, 1, goal=_CHEAPER)
TICKS = Flow("20,000/s, 20 each ms", RATE, 20, goal=_CHEAPER)
_FLOWS = (
    EVEN,
    TICKS,
    Flow("as fast as it can", 0, 1),
    Flow("20,000/s, evenly; pods without GRO", RATE, 1, gro=False),
    Flow("20,000/s, 20 each ms; pods without GRO", RATE, 20, gro=False),
    Flow("1,000/s, evenly", _CALM_RATE, 1),
)


class FlowResult(NamedTuple):
    """One flow through one relay."""

    sent: int
    """Datagrams of the source."""
    copies: int
    """That arrived at all pods."""
    cpu: int
    """Nanoseconds, user and system, of the relay's process."""
    wall: int
    """Nanoseconds until the last copy arrived."""
    late: int
    """Nanoseconds: of 100 ticks of the source 99 began not later than this."""

    @property
    def lost(self) -> int:
        """Copies that did not arrive."""
        return self.sent * PODS - self.copies

    @property
    def cost(self) -> float:
        """Nanoseconds of CPU for a copy that arrived."""
        return self.cpu / max(1, self.copies)


class TrafficSource(Helper):
    """The program outside, on a host of its own."""

    def __init__(self, lab: Lab) -> None:
        host = lab.add("source", _SOURCE)
        to = "127.0.0.1" if lab.loopback else SENDER
        super().__init__([*host, compiled("source"), str(SIZE), to], core=receiving_core())

    def pace(self, relay: str, flow: Flow, count: int) -> dict[str, int]:
        """Send N datagrams to a relay."""
        timeout = 120 + count / (flow.rate or 10_000)
        result: dict[str, int] = self.ask(f"pace {count} {flow.rate} {flow.tick} {_PORTS[relay]}", timeout)
        if result["failed"]:
            raise AssertionError(f"{result['failed']} datagrams of the source were not taken")
        return result


@contextlib.contextmanager
def _relays(lab: Lab, pods: int, *, urgent: bool = False) -> Iterator[dict[str, Helper]]:
    """Start both relays, each for the first pods; idle, they cost nothing.

    What is `urgent` waits for no other program of the machine, where the system allows that (SCHED_FIFO).
    """
    addresses = lab.addresses(pods)
    commands = {
        OURS: python("contenders.relay", ",".join(addresses), f"udp://0.0.0.0:{_PORTS[OURS]}", str(PORT)),
        LOOP: [compiled("relay"), str(_PORTS[LOOP]), str(PORT), *addresses],
    }
    with contextlib.ExitStack() as stack:
        relays = {
            name: stack.enter_context(Helper([*lab.in_sender, *command], core=sending_core()))
            for name, command in commands.items()
        }
        if urgent:
            with contextlib.suppress(PermissionError):
                for relay in relays.values():
                    os.sched_setscheduler(relay.pid, os.SCHED_FIFO, os.sched_param(1))
        yield relays


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Send the same flows through both relays in turn."""
    lab.grow(PODS + 1)
    costs = _costs(lab, tell, 0.6 if quick else 2.0, 1 if quick else 3)
    times = _latencies(lab, tell, 4 if quick else 10)
    goals = [*_kept_rows(costs), *_cost_rows(costs), _latency_row(times)]
    tables = [_cost_table(costs), _latency_table(times)]
    data: dict[str, Any] = {
        "flows": [
            {"flow": flow.name, "relay": name, **run._asdict(), "lost": run.lost}
            for (flow, name), runs in costs.items()
            for run in runs
        ],
        "latency": times,
    }
    if not lab.loopback:
        troubles = _troubles(lab, tell, 2 if quick else 3, [OURS] if quick else [OURS, LOOP])
        goals += _trouble_rows(troubles)
        tables.append(_trouble_table(troubles))
        data["troubles"] = [{"flow": flow, "pod": pod, "relay": name, "runs": runs}
                            for (flow, pod, name), runs in troubles.items()]  # fmt: skip
    return BenchPart(goals, tables, data)


# What is lost, and what a copy costs.

Costs = dict[tuple[Flow, str], list[FlowResult]]


def _costs(lab: Lab, tell: Tell, seconds: float, repeats: int) -> Costs:
    found: Costs = defaultdict(list)
    with Counter(lab, PODS) as counter, TrafficSource(lab) as source, _relays(lab, PODS) as relays:
        for name in relays:
            _run(source, counter, relays[name], name, _FLOWS[-1], 100)
        for repeat in range(repeats):
            for flow in _FLOWS if repeat == 0 else (EVEN, TICKS):
                tell(f"relay: {flow.name}, {repeat + 1} of {repeats}")
                counter.take_gro(flow.gro)
                count = flow.count(seconds if flow.goal else seconds / 2)
                for name in list(relays)[:: 1 if repeat % 2 else -1]:
                    found[flow, name].append(_run(source, counter, relays[name], name, flow, count))
    return found


def _run(
    source: TrafficSource,
    counter: Counter,
    relay: Helper,
    name: str,
    flow: Flow,
    count: int,
    *,
    patience: int = _PATIENCE,
) -> FlowResult:
    before, cpu, started = counter.ask("read"), relay.cpu_time(), time.monotonic_ns()
    answer = source.pace(name, flow, count)
    total = sum(pod["datagrams"] for pod in before) + count * PODS
    after = counter.read_pods(total, patience=patience)
    cpu = relay.cpu_time() - cpu
    copies = [new["datagrams"] - old["datagrams"] for new, old in zip(after, before, strict=True)]
    if max(copies) > count or any(pod["dropped"] for pod in after):
        raise AssertionError(f"{count} sent, {copies} arrived, pods dropped {[pod['dropped'] for pod in after]}")
    wall = max(pod["last"] for pod in after) - started
    return FlowResult(count, sum(copies), cpu, wall, answer["late"])


def _kept_rows(costs: Costs) -> list[Row]:
    rows = []
    for flow in (EVEN, TICKS):
        ours, other = costs[flow, OURS], costs[flow, LOOP]
        lost = {name: sum(run.lost for run in costs[flow, name]) for name in (OURS, LOOP)}
        sent = sum(run.sent for run in ours) * PODS
        against = f"{LOOP}: {lost[LOOP] / (sum(run.sent for run in other) * PODS):.1%}"
        what = f"relay to {PODS} pods, {SIZE} B, {flow.name}: copies lost"
        rows.append(Row(what, f"{lost[OURS]:,} of {sent:,}", against, 1 - lost[OURS] / sent, "= 1"))
    return rows


def _cost(runs: list[FlowResult]) -> Spread:
    return Spread.of([run.cost for run in runs])


def _cost_rows(costs: Costs) -> list[Row]:
    rows = []
    for flow in _FLOWS:
        ours, other = (_cost(costs[flow, name]).median for name in (OURS, LOOP))
        what = f"relay, {flow.name}: CPU a copy, times less"
        rows.append(Row(what, f"{ours:,.0f} ns", f"{LOOP}: {other:,.0f} ns", other / ours, flow.goal))
    return rows


def _cost_table(costs: Costs) -> Table:
    rows = []
    for (flow, name), runs in costs.items():
        cost, less = _cost(runs), _cost(costs[flow, LOOP]).median / _cost(runs).median
        lost = sum(run.lost for run in runs) / sum(run.sent for run in runs) / PODS
        load = Spread.of([run.cpu / run.wall for run in runs]).median
        rows.append([
            f"{flow.name}: {name}", f"{cost.median:,.0f}", f"{cost.least:,.0f} to {cost.most:,.0f}",
            f"{less:.1f}", f"{load:.0%}",
            f"{si(sum(run.copies for run in runs) / sum(run.wall for run in runs) * 1e9)}/s", f"{lost:.2%}",
            f"{max(run.late for run in runs) / 1e3:.0f}",
        ])  # fmt: skip
    columns = ["source: relay", "CPU a copy, ns", "least to most", "times less", "of a core", "copies", "lost",
               "source late, p99, µs"]  # fmt: skip
    return Table(f"Relay to {PODS} pods, {SIZE} B", columns, rows)


# How late a copy is.

Times = dict[str, list[dict[str, int]]]
"""Of each relay the quantiles over all pods, for each block, with `sent`."""


class Stamps(Helper):
    """The receivers that know when a datagram was sent and when it came."""

    def __init__(self, lab: Lab, pods: int) -> None:
        where = [f"{lab.namespace(pod)}@{lab.address(pod)}" for pod in range(pods)]
        super().__init__([compiled("stamps"), str(PORT), *where], core=receiving_core())

    def time(
        self, source: TrafficSource, relay: str, flow: Flow, count: int, *, patience: int = _PATIENCE
    ) -> dict[str, int]:
        """Send N datagrams, and return the quantiles over all pods."""
        source.pace(relay, flow, count)
        settled(lambda: self.ask("count"), lambda come: come >= count * PODS, patience)
        total: dict[str, int] = self.ask("read")[-1]
        if total["misordered"]:
            raise AssertionError(f"{total['misordered']} copies came out of order")
        return {**total, "sent": count}


def _latencies(lab: Lab, tell: Tell, blocks: int) -> Times:
    calm = Flow("", _CALM_RATE, 1)
    found: Times = {OURS: [], LOOP: []}
    with Stamps(lab, PODS) as stamps, TrafficSource(lab) as source, _relays(lab, PODS, urgent=True) as relays:
        for name in relays:
            stamps.time(source, name, calm, 100)
        tell("relay: added latency")
        for block in range(blocks):
            for name in list(relays)[:: 1 if block % 2 else -1]:
                found[name].append(stamps.time(source, name, calm, calm.count(_BLOCK)))
    return found


def _median(runs: list[dict[str, int]], what: str) -> float:
    return Spread.of([run[what] / 1e3 for run in runs]).median


def _latency_row(times: Times) -> Row:
    p99 = {name: _median(runs, "p99") for name, runs in times.items()}
    what = f"relay, 1,000/s to {PODS} pods: p99 from source to pod, ms above"
    above = (p99[OURS] - p99[LOOP]) / 1e3
    return Row(what, f"{p99[OURS]:.0f} µs", f"{LOOP}: {p99[LOOP]:.0f} µs", above, _LATER)


def _quantiles(runs: list[dict[str, int]]) -> list[str]:
    values = (_median(runs, "p50"), _median(runs, "p99"), max(run["p99"] for run in runs) / 1e3)
    return [f"{value:,.0f}" for value in (*values, max(run["most"] for run in runs) / 1e3)]


_QUANTILES = ("p50", "p99", "p99 of the worst block", "most")


def _latency_table(times: Times) -> Table:
    title = f"From source through a relay to {PODS} pods at 1,000/s, µs"
    return Table(title, ["relay", *_QUANTILES], [[name, *_quantiles(runs)] for name, runs in times.items()])


# One pod more that is stopped, or gone.

WELL, STOPPED, GONE = "well", "stopped", "gone"
_TROUBLED = (Flow("1,000/s, evenly", _CALM_RATE, 1), TICKS)
Troubles = dict[tuple[str, str, str], list[dict[str, int]]]
"""By flow, state of the pod, and relay: the quantiles over all others, for each block, with `sent`."""


def _troubles(lab: Lab, tell: Tell, rounds: int, names: list[str]) -> Troubles:
    found: Troubles = defaultdict(list)
    listener = [*lab.in_pod(PODS), *python("contenders.pod", lab.address(PODS), str(PORT))]
    with (
        Stamps(lab, PODS) as stamps,
        TrafficSource(lab) as source,
        _relays(lab, PODS + 1, urgent=True),
        Helper(listener, core=receiving_core()) as pod,
    ):
        for name in names:
            stamps.time(source, name, _TROUBLED[0], 100)
        states = [(number, state) for number in range(rounds) for state in (WELL, STOPPED, GONE)[:: (-1) ** number]]
        for number, state in states:
            tell(f"relay: one pod more, which is {state}, {number + 1} of {rounds}")
            with _trouble(lab, pod, state):
                for name in names:
                    # Its buffer is filled, or its address is asked for in vain, before the time starts.
                    stamps.time(source, name, TICKS, 400)
                for flow, name in [(flow, name) for flow in _TROUBLED for name in names] * 2:
                    found[flow.name, state, name].append(stamps.time(source, name, flow, flow.count(_BLOCK)))
    return found


@contextlib.contextmanager
def _trouble(lab: Lab, pod: Helper, state: str) -> Iterator[None]:
    if state == STOPPED:
        os.kill(pod.pid, signal.SIGSTOP)
    if state == GONE:
        lab.cut(PODS, off=True)
    try:
        yield
    finally:
        if state == STOPPED:
            os.kill(pod.pid, signal.SIGCONT)
        if state == GONE:
            lab.cut(PODS, off=False)


def _lost(runs: list[dict[str, int]]) -> int:
    return sum(run["sent"] * PODS - run["datagrams"] for run in runs)


def _trouble_rows(troubles: Troubles) -> list[Row]:
    rows = []
    for state in (STOPPED, GONE):
        for flow in _TROUBLED:
            ours, other = troubles[flow.name, state, OURS], troubles.get((flow.name, state, LOOP), [])
            what = f"relay, {flow.name}, a pod {state}"
            against = f"{LOOP}: {_lost(other):,}" if other else ""
            kept = 1 - _lost(ours) / sum(run["sent"] for run in ours) / PODS
            rows.append(Row(f"{what}: copies that the {PODS} others lost", f"{_lost(ours):,}", against, kept, "= 1"))
            p99, without = _median(ours, "p99"), _median(troubles[flow.name, WELL, OURS], "p99")
            against = f"it is well: {without:,.0f} µs"
            rows.append(Row(f"{what}: p99 of the {PODS} others", f"{p99:,.0f} µs", against, p99 / without, _GAIN))
    return rows


def _trouble_table(troubles: Troubles) -> Table:
    rows = []
    for (flow, state, name), runs in sorted(troubles.items()):
        sent = sum(run["sent"] for run in runs) * PODS
        rows.append([f"{flow}, {state}: {name}", *_quantiles(runs), f"{_lost(runs) / sent:.2%}"])
    columns = ["source, pod: relay", *_QUANTILES, "lost"]
    return Table(f"From source through a relay to {PODS} pods beside one more, µs", columns, rows)
