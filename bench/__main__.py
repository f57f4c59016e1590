"""`make bench`: run every measurement, print a table, keep it as build/bench.json."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from bench import outage, receiving, startup


def main() -> None:
    """Measure and print."""
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}; about a minute.", flush=True)
    rows = []
    for measurement in (startup, outage, receiving):
        for row in measurement.measure():
            rows.append(row)
            print(
                f"\n{row.what}\n  {row.measured}; {row.against}\n  ratio {row.ratio:.3f} (goal {row.goal})", flush=True
            )
    result = Path("build", "bench.json")
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    print(f"\nsaved as {result}")


if __name__ == "__main__":
    main()
