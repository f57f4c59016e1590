"""Copies a second of each contender, by the number of pods and the size of the payload."""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.contenders import starting
from benchmarks.contenders.starting import RunningContender
from benchmarks.lab import Lab
from benchmarks.rows import BenchPart, Row, Spread, Table, si
from benchmarks.talk import Counter

PODS = (2, 16, 50, 200)
SIZES = (64, 200, 1200)
HEADLINE = (16, 200)
REPEATS = 5
HEADLINE_REPEATS = 11
_BURST_SECONDS = 0.12
_BATCH = 64
_TRIES = 3
_CALM = 0.95
_MOST_MESSAGES = 100_000
Tell = Callable[[str], None]


class CellResult(NamedTuple):
    """One contender in one cell."""

    contender: str
    pods: int
    size: int
    messages: int
    rate: Spread
    """Copies a second, by wall time."""
    cpu: Spread
    """Nanoseconds of the sending process for a copy that arrived."""
    delivered: float
    """The share of the copies that arrived."""


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Run all contenders in turn in each cell."""
    cells = [(pods, size) for pods in PODS for size in SIZES]
    if quick:
        cells = [HEADLINE]
    missing = starting.missing(lab)
    results: list[CellResult] = []
    for pods, size in cells:
        tell(f"sending: {pods} pods, {size} B")
        repeats = (HEADLINE_REPEATS if (pods, size) == HEADLINE else REPEATS) if not quick else 3
        results += _cell(lab, pods, size, repeats, [name for name in starting.ALL if name not in missing])
    data = {
        "missing": missing,
        "noise": {
            "median": statistics.median(result.rate.noise for result in results),
            "most": max(result.rate.noise for result in results),
        },
        "cells": [
            {**result._asdict(), "rate": result.rate._asdict(), "cpu": result.cpu._asdict()} for result in results
        ],
    }
    return BenchPart(_goals(results), [*_tables(results, missing)], data)


def _cell(lab: Lab, pods: int, size: int, repeats: int, names: list[str]) -> list[CellResult]:
    lab.grow(pods)
    bursts: dict[str, list[_Burst]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        counter = stack.enter_context(Counter(lab, pods))
        running = {name: stack.enter_context(starting.started(name, lab, pods, size)) for name in names}
        messages = {}
        for name, contender in running.items():
            _burst(contender, counter, pods, size, _BATCH)
            warm = _burst(contender, counter, pods, size, 4 * _BATCH)
            messages[name] = _enough(warm.wall / (4 * _BATCH))
        for repeat in range(repeats):
            for turn in range(len(names)):
                # Nobody always comes after the same one.
                name = names[(repeat + turn) % len(names)]
                if name == starting.WITHOUT_GRO:
                    counter.take_gro(False)
                bursts[name].append(_undisturbed(running[name], counter, pods, size, messages[name]))
                if name == starting.WITHOUT_GRO:
                    counter.take_gro(True)
    return [_sum_up(name, pods, size, messages[name], bursts[name]) for name in names]


class _Burst(NamedTuple):
    wall: int
    cpu: int
    copies: int
    delivered: float
    failed: int

    @property
    def share(self) -> float:
        """How much of its core the contender had."""
        return self.cpu / self.wall


def _undisturbed(contender: RunningContender, counter: Counter, pods: int, size: int, messages: int) -> _Burst:
    """Send; do it again where something else had the core meanwhile, a few times, and return the calmest."""
    best = _burst(contender, counter, pods, size, messages)
    for _ in range(_TRIES - 1):
        if best.share >= _CALM:
            break
        best = max(best, _burst(contender, counter, pods, size, messages), key=lambda burst: burst.share)
    return best


def _enough(each: float) -> int:
    """Return how many messages take long enough to be timed: whole batches, within bounds."""
    batches = round(_BURST_SECONDS * 1e9 / each / _BATCH)
    return min(max(batches, 1) * _BATCH, _MOST_MESSAGES)


def _burst(contender: RunningContender, counter: Counter, pods: int, size: int, messages: int) -> _Burst:
    before = counter.ask("read")
    sent = (messages + contender.extra) * pods
    times = contender.burst(messages)
    after = counter.read_pods(sum(pod["datagrams"] for pod in before) + sent)
    arrived = sum(new["datagrams"] - old["datagrams"] for new, old in zip(after, before, strict=True))
    carried = sum(new["bytes"] - old["bytes"] for new, old in zip(after, before, strict=True))
    if carried != arrived * size:
        raise AssertionError(f"{arrived} datagrams of {size} bytes arrived with {carried} bytes: the count is wrong")
    if arrived > sent:
        raise AssertionError(f"{arrived} copies arrived of {sent} that were sent: the count is wrong")
    return _Burst(times["wall"], times["cpu"], messages * pods, arrived / sent, times["failed"])


def _sum_up(name: str, pods: int, size: int, messages: int, bursts: list[_Burst]) -> CellResult:
    return CellResult(
        name,
        pods,
        size,
        messages,
        Spread.of([burst.copies / burst.wall * 1e9 for burst in bursts]),
        Spread.of([burst.cpu / max(1.0, burst.copies * burst.delivered) for burst in bursts]),
        sum(burst.delivered for burst in bursts) / len(bursts),
    )


def _goals(results: list[CellResult]) -> list[Row]:
    pods, size = HEADLINE
    cell = {result.contender: result for result in results if (result.pods, result.size) == HEADLINE}
    stream, what = cell[starting.LIST], f"stream, {pods} pods, {size} B"
    rows = []
    for other, goal in ((starting.LOOP, ">= 10"), (starting.LOOP_C, ">= 10"), (starting.MULTICAST, ">= 2")):
        if other in cell:
            rows.append(
                Row(f"{what}, copies/s", f"{si(stream.rate.median)}/s", f"{other}: {si(cell[other].rate.median)}/s",
                    stream.rate.median / cell[other].rate.median, goal)
            )  # fmt: skip
    plain, loop = cell[starting.WITHOUT_GRO], cell[starting.LOOP]
    rows.append(
        Row(f"{what}, receivers without GRO, copies/s", f"{si(plain.rate.median)}/s",
            f"{starting.LOOP}: {si(loop.rate.median)}/s", plain.rate.median / loop.rate.median)
    )  # fmt: skip
    if starting.GSTREAMER in cell:
        other_cpu = cell[starting.GSTREAMER].cpu.median
        rows.append(
            Row(f"{what}, CPU a copy, times less", f"{stream.cpu.median:,.0f} ns",
                f"{starting.GSTREAMER}: {other_cpu:,.0f} ns", other_cpu / stream.cpu.median, ">= 5")
        )  # fmt: skip
    return rows


def _tables(results: list[CellResult], missing: dict[str, str]) -> list[Table]:
    cells: dict[tuple[int, int], dict[str, CellResult]] = defaultdict(dict)
    for result in results:
        cells[result.pods, result.size][result.contender] = result
    tables = [_cell_table(*HEADLINE, cells[HEADLINE])]
    if len(cells) > 1:
        names = [name for name in starting.ALL if name not in missing]
        for size in SIZES:
            columns = [f"{size} B: copies/s (times the Python loop)", *(f"{pods} pods" for pods in PODS)]
            rows = [[name, *(_against_loop(cells[pods, size], name) for pods in PODS)] for name in names]
            tables.append(Table(f"By number of pods, {size} B", columns, rows))
        size = HEADLINE[1]
        columns = [f"{size} B: CPU a delivered copy, ns", *(f"{pods} pods" for pods in PODS)]
        rows = [[name, *(f"{cells[pods, size][name].cpu.median:,.0f}" for pods in PODS)] for name in names]
        tables.append(Table(f"CPU by number of pods, {size} B", columns, rows))
    return tables


def _against_loop(cell: dict[str, CellResult], name: str) -> str:
    rate = cell[name].rate.median
    return f"{si(rate)} ({rate / cell[starting.LOOP].rate.median:.2f})"


def _cell_table(pods: int, size: int, cell: dict[str, CellResult]) -> Table:
    base = cell[starting.LOOP].rate.median
    rows: list[list[str]] = []
    for name, result in cell.items():
        rows.append(
            [
                name,
                f"{result.rate.median:,.0f}",
                f"{result.rate.median / base:.2f}",
                f"{result.rate.least / base:.2f} to {result.rate.most / base:.2f}",
                f"{result.delivered:.2%}",
                f"{result.cpu.median:,.0f}",
            ]
        )
    columns = ["contender", "copies/s", "against the Python loop", "least to most", "delivered", "CPU a copy, ns"]
    return Table(f"{pods} pods, {size} B", columns, rows)


def rates(data: Any, pods: int, size: int) -> dict[str, float]:
    """Return the contenders' copies a second in one cell of `BenchPart.data`."""
    return {
        cell["contender"]: cell["rate"]["median"]
        for cell in data["cells"]
        if (cell["pods"], cell["size"]) == (pods, size)
    }
