"""`make bench`: run every measurement, print tables, and keep them in build/."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import (
    confirmed,
    dlna,
    documents,
    endtoend,
    framing,
    latency,
    lossy,
    memory,
    outage,
    pacing,
    plot,
    receiving,
    relay,
    sealing,
    sending,
    ssdp,
    startup,
    table,
)
from benchmarks import lab as laboratory
from benchmarks.lab import Lab
from benchmarks.rows import BenchPart, Table
from benchmarks.talk import why_no_compiler

_FOLDER = Path("build")
_BUSY = 0.5
"""Load of others beyond which a run's noise is worth a word."""


def _plain(measurement: Any) -> Callable[..., BenchPart]:
    """A part that needs no laboratory."""

    def measure(lab: Lab, tell: sending.Tell, *, quick: bool) -> BenchPart:
        rows = measurement.measure()
        return BenchPart(rows, [], [row._asdict() for row in rows])

    return measure


_PARTS: dict[str, Callable[..., BenchPart]] = {
    "sending": sending.measure,
    "latency": latency.measure,
    "endtoend": endtoend.measure,
    "framing": framing.measure,
    "confirmed": confirmed.measure,
    "lossy": lossy.measure,
    "app": pacing.measure_app,
    "pacing": pacing.measure,
    "relay": relay.measure,
    "dlna": dlna.measure,
    "documents": _plain(documents),
    "ssdp": ssdp.measure,
    "memory": memory.measure,
    "startup": _plain(startup),
    "outage": _plain(outage),
    "receiving": _plain(receiving),
    "sealing": _plain(sealing),
}
_IN_C = {"sending", "latency", "pacing", "relay"}
"""Parts in which a program in C counts what arrives."""
_OF_MEDIA = {"dlna", "ssdp"}
"""Parts that need a media server."""


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice(list(_PARTS)), help="Run this part; may be repeated.")
@click.option("--quick", is_flag=True, help="Fewer cells and repeats: to see that it works.")
@click.option("--loopback", is_flag=True, help="Make no namespaces: pods are addresses of the loopback interface.")
def main(names: tuple[str, ...], *, quick: bool, loopback: bool) -> None:
    """Measure fanout beside what one could have instead, in one run on this machine."""
    # Where the programs of administrators are, which is not on everybody's PATH.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    out = table.console()
    reason = "as asked" if loopback else None if laboratory.is_inside() else laboratory.why_no_lab()
    if reason is None and not laboratory.is_inside():
        sys.exit(laboratory.run_inside(sys.argv[1:]))
    if reason is not None:
        out.print(f"No laboratory: {reason}. The pods are addresses of the loopback interface instead.")
    lab = Lab(loopback=reason is not None)
    chosen = [name for name in _PARTS if not names or name in names]
    if (lack := why_no_compiler()) is not None:
        out.print(f"Left out: {', '.join(sorted(_IN_C.intersection(chosen)))}: {lack}.")
        chosen = [name for name in chosen if name not in _IN_C]
    for needy, part in ((_OF_MEDIA, dlna), ({"lossy"}, lossy)):
        if (left_out := needy.intersection(chosen)) and (lack := part.why_not(lab)) is not None:
            out.print(f"Left out: {', '.join(sorted(left_out))}: {lack}.")
            chosen = [name for name in chosen if name not in left_out]
    _run(out, lab, chosen, quick=quick)


def _run(out: Console, lab: Lab, names: list[str], *, quick: bool) -> None:
    started = time.monotonic()
    _FOLDER.mkdir(exist_ok=True)
    machine: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "pods": lab.name,
        "quick": quick,
        "load_before": os.getloadavg()[0],
    }
    out.print(f"Linux {machine['kernel']}, Python {machine['python']}, {machine['cores']} cores; pods: {lab.name}")
    if machine["load_before"] > _BUSY:
        out.print(f"The machine is busy (load {machine['load_before']:.1f}): the figures will be noisy.")
    parts: dict[str, BenchPart] = {}
    failed: list[str] = []
    for name in names:
        with out.status(name) as status:

            def tell(text: str, update: Callable[[str], None] = status.update) -> None:
                update(text)
                if not out.is_terminal:
                    out.print(f"[{time.monotonic() - started:5.0f} s] {text}", markup=False)

            tell(name)
            try:
                parts[name] = _PARTS[name](lab, tell, quick=quick)
            except Exception:
                # What the other parts took minutes for is not to be lost.
                out.print_exception()
                failed.append(name)
                continue
        for one in parts[name].tables:
            table.show(out, one)
    machine["load_after"] = os.getloadavg()[0]
    machine["seconds"] = round(time.monotonic() - started)
    machine["noise"] = parts["sending"].data["noise"] if "sending" in parts else None
    goals = table.goals_table([row for part in parts.values() for row in part.goals])
    table.show(out, goals)
    _save(machine, parts, [goals, *(one for part in parts.values() for one in part.tables)])
    if "sending" in parts:
        _plot(parts["sending"].data)
    out.print(f"Saved as bench.json, bench.md and performance.svg in {_FOLDER}/, after {machine['seconds']} s")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _plot(data: Any) -> None:
    pods, size = sending.HEADLINE
    title = f"Copies a second to {pods} pods, {size} bytes each"
    plot.bars(_FOLDER / "performance.svg", title, sending.rates(data, pods, size))


def _save(machine: dict[str, Any], parts: dict[str, BenchPart], tables: list[Table]) -> None:
    goals = [{**row._asdict(), "met": row.met} for part in parts.values() for row in part.goals]
    shown = [one._asdict() for one in tables]
    data = {
        "machine": machine,
        "goals": goals,
        "tables": shown,
        "parts": {name: part.data for name, part in parts.items()},
    }
    (_FOLDER / "bench.json").write_text(json.dumps(data, indent=2) + "\n")
    (_FOLDER / "bench.md").write_text("\n".join(table.markdown(one) for one in tables))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
