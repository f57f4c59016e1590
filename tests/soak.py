"""`make soak`: run `make test` again and again on a machine that is kept busy, and say how often it was green.

Beside the tests, a process spins on each core and one writes to disk without end. All of them end with this program,
however it ends. The output and the results of each run stay in build/soak/.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from tests.support.tree import ROOT

_FOLDER = ROOT / "build" / "soak"
_SPIN = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""
_WRITE = """
import os, sys
parent, block = os.getppid(), os.urandom(1 << 20)
with open(sys.argv[1], "wb") as file:
    while os.getppid() == parent:
        file.seek(0)
        for _ in range(256):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
"""


class Run(NamedTuple):
    """What became of one run."""

    code: int
    tests: int
    failed: list[str]
    skipped: int
    seconds: float


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--runs", type=click.IntRange(min=1), default=10, show_default=True, help="How often to run the tests.")
@click.option("--idle", is_flag=True, help="Keep nothing busy beside the tests.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def main(runs: int, idle: bool, pytest_args: tuple[str, ...]) -> None:
    """Run `make test`, with these arguments for pytest, RUNS times on a busy machine; end with 1 if a run failed."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    out = Console()
    done: list[Run] = []
    with contextlib.nullcontext() if idle else _load():
        for number in range(1, runs + 1):
            done.append(_run(number, pytest_args))
            out.print(_line(number, done[-1]), markup=False, soft_wrap=True)
    out.print(_table(done))
    failures = Counter(name for run in done for name in run.failed)
    for name, count in failures.most_common():
        out.print(f"{count} of {runs}: {name}", markup=False, soft_wrap=True)
    green = sum(run.code == 0 for run in done)
    out.print(f"{green} of {runs} runs are green; what they printed is in {_FOLDER.relative_to(ROOT)}/")
    sys.exit(green < runs)


@contextlib.contextmanager
def _load() -> Iterator[None]:
    """Keep every core busy, and the disk."""
    file = _FOLDER / "load"
    commands = [[sys.executable, "-c", _SPIN]] * (os.cpu_count() or 1) + [[sys.executable, "-c", _WRITE, str(file)]]
    with contextlib.ExitStack() as stack:
        stack.callback(file.unlink, missing_ok=True)
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        yield


def _run(number: int, pytest_args: tuple[str, ...]) -> Run:
    results = _FOLDER / f"run-{number}.xml"
    results.unlink(missing_ok=True)
    arguments = shlex.join([*pytest_args, f"--junitxml={results}"])
    started = time.monotonic()
    with (_FOLDER / f"run-{number}.log").open("wb") as log:
        code = subprocess.run(
            ["make", "-C", str(ROOT), "test", f"PYTEST_ARGS={arguments}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    return _result(results, code, time.monotonic() - started)


def _result(results: Path, code: int, seconds: float) -> Run:
    if not results.exists():
        return Run(code, 0, ["the run itself: see its log"], 0, seconds)
    cases = list(ElementTree.parse(results).iter("testcase"))
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if _has(case, "failure", "error")]
    return Run(code, len(cases), failed, sum(_has(case, "skipped") for case in cases), seconds)


def _has(case: ElementTree.Element, *names: str) -> bool:
    return any(case.find(name) is not None for name in names)


def _line(number: int, run: Run) -> str:
    return f"run {number}: {'green' if run.code == 0 else 'FAILED'} after {run.seconds:.0f} s {' '.join(run.failed)}"


def _table(done: list[Run]) -> Table:
    table = Table("run", "result", "tests", "failed", "skipped", "seconds")
    for number, run in enumerate(done, 1):
        result = "green" if run.code == 0 else "FAILED"
        cells = (number, result, run.tests, len(run.failed), run.skipped, round(run.seconds))
        table.add_row(*map(str, cells))
    return table


if __name__ == "__main__":
    main()
