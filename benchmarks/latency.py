"""The time of one message to all pods: fanout's `send` beside the loop in C and the bare loop in Python."""

from __future__ import annotations

import contextlib

from benchmarks.contenders import starting
from benchmarks.lab import Lab
from benchmarks.rows import BenchPart, Row, Spread, Table
from benchmarks.sending import Tell
from benchmarks.talk import LONG_PATIENCE, Counter

SIZE = 200
_CELLS = ((200, 10, starting.LOOP_C, "<= 0.9"), (2, 200, starting.LOOP, "<= 1.1"))
"""Pods, messages in a block, whom the goal is against, the goal."""
_QUICK_CELLS = ((8, 10, starting.LOOP_C, "<= 0.9"), (2, 10, starting.LOOP, "<= 1.1"))
_WAYS = (2, 4, 8, 16, 50)
"""Pods for which the two ways of one message are compared: where `sendmmsg` begins to win, fanout takes it."""
_NAMES = (starting.LOOP, starting.LOOP_C, starting.MANY_C, starting.SINGLE)
_PROCESSES = 3
"""Each contender is started so often: two processes of one program differ by some percent, for as long as they live."""
_DELIVERED = 0.999
_BLOCKS = 40


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Alternate in small blocks, so that the machine's noise meets all."""
    goals, rows, data = [], [], []
    blocks, processes = (2, 1) if quick else (_BLOCKS, _PROCESSES)
    for pods, block, against, goal in _QUICK_CELLS if quick else _CELLS:
        tell(f"latency: one message to {pods} pods")
        spreads = _cell(lab, pods, block, blocks, processes, _NAMES)
        ours, other = spreads[starting.SINGLE].median, spreads[against].median
        goals.append(
            Row(f"one message to {pods} pods, time of send", f"{ours / 1e3:.1f} µs", f"{against}: {other / 1e3:.1f} µs",
                ours / other, goal)
        )  # fmt: skip
        for name, spread in spreads.items():
            rows.append([f"{pods} pods, {name}", *(f"{value / 1e3:.1f}" for value in spread)])
            data.append({"pods": pods, "contender": name, **spread._asdict()})
    tables = [Table(f"One message of {SIZE} B, µs", ["to", "median", "least", "most"], rows)]
    ways = []
    for pods in _WAYS[:1] if quick else _WAYS:
        tell(f"latency: the two ways to {pods} pods")
        block = 10 if quick else 400 // pods
        spreads = _cell(lab, pods, block, blocks, processes, (starting.SINGLE_LOOP, starting.SINGLE_MANY))
        loop, many = spreads[starting.SINGLE_LOOP].median, spreads[starting.SINGLE_MANY].median
        ways.append([f"{pods} pods", f"{loop / 1e3:.1f}", f"{many / 1e3:.1f}", f"{many / loop:.2f}"])
        data += [{"pods": pods, "contender": name, **spread._asdict()} for name, spread in spreads.items()]
    tables.append(Table("Two ways of one message, µs", ["to", "sendto loop", "sendmmsg", "ratio"], ways))
    return BenchPart(goals, tables, data)


def _cell(lab: Lab, pods: int, block: int, blocks: int, processes: int, names: tuple[str, ...]) -> dict[str, Spread]:
    lab.grow(pods)
    times: dict[str, list[int]] = {name: [] for name in names}
    with Counter(lab, pods) as counter:
        for _ in range(processes):
            with contextlib.ExitStack() as stack:
                running = {name: stack.enter_context(starting.started(name, lab, pods, SIZE)) for name in names}
                for contender in running.values():
                    contender.each(block)
                for number in range(blocks):
                    for name, contender in list(running.items())[:: 1 if number % 2 else -1]:
                        times[name] += contender.each(block)
        sent = processes * len(names) * (blocks + 1) * block * pods
        arrived = sum(pod["datagrams"] for pod in counter.read_pods(sent, patience=LONG_PATIENCE))
        if not _DELIVERED * sent <= arrived <= sent:
            raise AssertionError(f"{arrived} of {sent} copies arrived: the others were not sent in any time")
    return {name: Spread.of(values) for name, values in times.items()}
