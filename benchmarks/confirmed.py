"""The time of one confirmed message to 50 pods, beside a plain one and a bare round trip to the same pods."""

from __future__ import annotations

import contextlib

from benchmarks.contenders import starting
from benchmarks.lab import PORT, Lab
from benchmarks.rows import BenchPart, Row, Spread, Table
from benchmarks.sending import Tell
from benchmarks.talk import Helper, python

SIZE = 200
PODS = 50
_NAMES = (starting.SINGLE, starting.ROUND_TRIP, starting.CONFIRMED)
_BLOCK = 5
_BLOCKS = 40


def measure(lab: Lab, tell: Tell, *, quick: bool = False) -> BenchPart:
    """Alternate in small blocks. Each pod is a process with a `Receiver`; all share the machine with the sender."""
    lab.grow(PODS)
    times: dict[str, list[int]] = {name: [] for name in _NAMES}
    with contextlib.ExitStack() as stack:
        tell(f"confirmed: starting {PODS} receivers")
        for pod in range(PODS):
            stack.enter_context(Helper([*lab.in_pod(pod), *python("receivers", "serve", str(PORT))]))
        running = {name: stack.enter_context(starting.started(name, lab, PODS, SIZE)) for name in _NAMES}
        for contender in running.values():
            contender.each(_BLOCK)
        tell(f"confirmed: one message to {PODS} pods")
        for number in range(5 if quick else _BLOCKS):
            for name, contender in list(running.items())[:: 1 if number % 2 else -1]:
                times[name] += contender.each(_BLOCK)
    spreads = {name: Spread.of(values) for name, values in times.items()}
    plain, round_trip, confirmed = (spreads[name].median for name in _NAMES)
    against = f"a plain send ({plain / 1e3:.0f} µs) and a round trip to all ({round_trip / 1e3:.0f} µs)"
    what = f"confirmed message to {PODS} pods, median"
    goal = Row(what, f"{confirmed / 1e3:.0f} µs", against, confirmed / (plain + round_trip), "<= 3")
    rows = [[name, *(f"{value / 1e3:.0f}" for value in spread)] for name, spread in spreads.items()]
    table = Table(f"One message of {SIZE} B to {PODS} receivers, µs", ["way", "median", "least", "most"], rows)
    return BenchPart([goal], [table], [{"way": name, **spread._asdict()} for name, spread in spreads.items()])
