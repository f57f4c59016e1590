"""Whole-process time of `fanout send`, against importing click and dnspython."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Row

RUNS = 21
BASELINE = [sys.executable, "-c", "import click, dns.resolver"]


def measure() -> list[Row]:
    """Send to two endpoints by name and by literal, in turn with the baseline; medians."""
    folder = tempfile.mkdtemp(prefix="fanout-bench-")
    variables = {**os.environ, "FANOUT_LOCAL_DIR": folder}
    fanout = [str(Path(sys.executable).with_name("fanout"))]
    send = [*fanout, "send", "-m", "x", "-s"]
    subprocess.run(
        [*fanout, "local", "up", "--replicas", "2", "--detach"], env=variables, check=True, stdout=subprocess.DEVNULL
    )
    try:
        contenders = {
            "baseline": BASELINE,
            "by name": [*send, "headless-udp"],
            "by literal": [*send, "127.0.0.11,127.0.0.12"],
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(RUNS):
            for name, command in contenders.items():
                started = time.perf_counter()
                done = subprocess.run(command, env=variables, capture_output=True, check=False)
                times[name].append(time.perf_counter() - started)
                if done.returncode:
                    sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode()}")
    finally:
        subprocess.run([*fanout, "local", "down"], env=variables, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians.pop("baseline")
    return [
        Row(f"fanout send to two endpoints {name}, whole process", f"{value * 1000:.0f} ms",
            f"import click, dns.resolver: {base * 1000:.0f} ms", value / base, "<= 1.3")
        for name, value in medians.items()
    ]  # fmt: skip
