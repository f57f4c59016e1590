"""What frames and seals cost a stream: messages a second into Python code, beside a plain one of the same size."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.contenders import starting
from benchmarks.endtoend import StreamResult, full_speed, stream
from benchmarks.lab import Lab
from benchmarks.rows import BenchPart, Row, Spread, Table, si
from benchmarks.sending import Tell
from benchmarks.talk import make_key

REPEATS = 5
_PLAIN = ("plain", "batches", starting.LIST)
_NUMBERED = ("numbered", "batches", starting.NUMBERED)
_SEALED = ("sealed", "batches-sealed", starting.SEALED)
_CELLS = {200: (_PLAIN, _NUMBERED, _SEALED), 1200: (_PLAIN, _NUMBERED, _SEALED)}
_GOALS = {(200, "numbered"): ">= 0.7", (1200, "sealed"): ">= 0.4"}


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Feed a receiver in each way in turn."""
    lab.grow(1)
    make_key()
    goals, rows, data = [], [], []
    for size, ways in _CELLS.items():
        streams: dict[str, list[StreamResult]] = defaultdict(list)
        for repeat in range(2 if quick else REPEATS):
            tell(f"frames and seals: {size} B, {repeat + 1} of {REPEATS}")
            for name, receiver, feeder in ways:
                streams[name].append(stream(lab, receiver, feeder, full_speed, size))
        rates = {
            name: Spread.of([one.kept / one.wall * 1e9 for one in found if one.kept]) for name, found in streams.items()
        }
        plain = rates["plain"].median
        for name, rate in rates.items():
            ratio = rate.median / plain
            kept = sum(one.kept for one in streams[name]) / sum(one.sent for one in streams[name])
            spread = f"{rate.least / plain:.2f} to {rate.most / plain:.2f}"
            rows.append([f"{name}, {size} B", f"{rate.median:,.0f}", f"{ratio:.2f}", spread, f"{kept:.1%}"])
            data.append({"size": size, "way": name, "rate": rate._asdict(), "kept": kept})
            if goal := _GOALS.get((size, name)):
                what = f"{name} stream of {size} B, messages/s end to end"
                goals.append(Row(what, f"{si(rate.median)}/s", f"plain: {si(plain)}/s", ratio, goal))
    columns = ["stream", "messages/s", "ratio", "least to most", "kept"]
    return BenchPart(goals, [Table("Frames and seals, into Python code", columns, rows)], data)
