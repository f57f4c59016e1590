"""How far a message wanders through the code, and how the code is cut: `python -m benchmarks.calls`.

Of each scenario (`benchmarks.scenarios`) it counts the calls of fanout's own functions, the files that these are in,
and how often a call is in another file than the call before. A generator or a coroutine is called when it begins, and
not when it goes on; a comprehension is a call where this Python makes it one (up to 3.11). What fanout is given, such
as a handler, and what it calls of others does not count; the transport in memory (`fanout.testing`) does.

Each scenario is gone through until its caches are filled, and then three times, in which the same must be counted.
"""

from __future__ import annotations

import gc
import inspect
import json
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import click

import fanout
from benchmarks import structure
from benchmarks.scenarios import SCENARIOS, Scenario

WARM_UPS, RUNS = 3, 3
TRIES = 100
"""More runs, where something came in between."""
_PACKAGE = f"{Path(fanout.__file__).parent}/"
_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class CallCounts(NamedTuple):
    """What one way through the code takes."""

    scenario: str
    calls: int
    files: int
    switches: int
    """How often two consecutive calls are in different files."""


class CallLog:
    """Keeps what was called, in its order, while it `is_on`; `note` is for `sys.setprofile`."""

    def __init__(self) -> None:
        self.is_on = False
        self.calls: list[tuple[str, str]] = []
        """The file, below the package, and the function."""

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record a call of fanout's own code."""
        if not self.is_on or event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE) and (not code.co_flags & _RESUMED or _begins(frame)):
            self.calls.append((code.co_filename.removeprefix(_PACKAGE), code.co_qualname))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the calls of this thread; nothing may come between, such as what the collector of garbage calls."""
        gc.collect()
        gc.disable()
        try:
            sys.setprofile(self.note)
            self.is_on = True
            yield
        finally:
            self.is_on = False
            sys.setprofile(None)
            gc.enable()


def _begins(frame: FrameType) -> bool:
    """Whether a generator's or a coroutine's frame begins: RESUME says so by 0 in its lowest two bits."""
    return not frame.f_code.co_code[frame.f_lasti + 1] & 3


def trace(scenario: Scenario, runs: int = RUNS) -> list[list[tuple[str, str]]]:
    """Return the calls of each run, after some to warm up."""
    log = CallLog()
    found: list[list[tuple[str, str]]] = []
    with scenario(log.note) as once:
        for _ in range(WARM_UPS):
            once()
        for _ in range(runs + TRIES):
            if len(found) == runs:
                return found
            log.calls = []
            with log.noted():
                is_good = once()
            if is_good:
                found.append(log.calls)
    raise AssertionError("something came in between, again and again")


def counts(name: str, calls: Sequence[tuple[str, str]]) -> CallCounts:
    """Sum up the calls of one run."""
    files = [file for file, _ in calls]
    return CallCounts(name, len(files), len(set(files)), sum(one != other for one, other in pairwise(files)))


def measure() -> list[CallCounts]:
    """Go through all scenarios; raise AssertionError where two runs of one differ."""
    found = []
    for name, scenario in SCENARIOS.items():
        runs = [counts(name, calls) for calls in trace(scenario)]
        if len(set(runs)) != 1:
            raise AssertionError(f"{name}: not the same each time: {', '.join(str(tuple(run[1:])) for run in runs)}")
        found.append(runs[0])
    return found


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as aligned text: words to the left, numbers to the right."""
    cells = [list(columns), *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = (
        [str.rjust if isinstance(cell, int) else str.ljust for cell in rows[0]] if rows else [str.ljust] * len(widths)
    )
    lines = ["  ".join(map(lambda side, *cell: side(*cell), sides, row, widths)).rstrip() for row in cells]
    return "\n".join(lines)


def show(found: Sequence[CallCounts], figures: structure.Structure) -> str:
    """Return all tables."""
    return "\n\n".join([
        f"Calls on the way of a message, Python {platform.python_version()}",
        table(["scenario", "calls", "files", "switches"], found),
        f"{figures.lines:,} lines in {' and '.join(structure.FOLDERS)}; class names that stand in several modules: "
        f"{len(figures.repeated)}" + "".join(f"\n  {name}: {', '.join(at)}" for name, at in figures.repeated[:5]),
        table(["private members of another file's class", "names", "accesses"], figures.private),
        table(["class", "attributes"], figures.attributes),
        table(["class", "methods"], figures.methods),
    ])  # fmt: skip


@click.command()
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", help="text, or json for machines.")
@click.option("--trace", "traced", type=click.Choice(list(SCENARIOS)), help="Show the calls of this one instead.")
def main(output: str, traced: str | None) -> None:
    """Count calls on the way of a message, and say how large the parts of the code are."""
    logging.getLogger("fanout").setLevel(logging.CRITICAL)
    if traced is not None:
        (calls,) = trace(SCENARIOS[traced], 1)
        print(table(["file", "function"], calls) if output == "text" else json.dumps(calls))
        return
    try:
        found = measure()
    except AssertionError as error:
        sys.exit(str(error))
    figures = structure.measure()
    if output == "text":
        print(show(found, figures))
    else:
        print(json.dumps({"calls": [each._asdict() for each in found], "structure": figures.as_dict()}, indent=2))


if __name__ == "__main__":
    main()
