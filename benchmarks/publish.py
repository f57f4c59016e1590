"""Put the last run's tables and picture into the docs: `python -m benchmarks.publish`, after a whole `make bench`.

A table stands between `<!-- table: TITLE -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.rows import Table

_PAGE = Path("docs", "performance.md")
_PICTURE = Path("docs", "performance.svg")
_BUILT = Path("build")
_PLACE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Return the page with each table in its place; raise KeyError for a place whose table was not measured."""
    return _PLACE.sub(lambda place: f"{place[1]}{tables[place[2]]}{place[3]}", page)


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return on what machine, when and at which load the run was made."""
    noise = machine["noise"]
    return (
        f"Linux {machine['kernel']}, CPython {machine['python']}, {machine['cores']} cores ({machine['processor']}), "
        f"{machine['when'][:10]}, {machine['seconds'] / 60:.0f} minutes; load {machine['load_before']:.1f} before and "
        f"{machine['load_after']:.1f} after. Repeats of one contender in one cell were within {noise['median']:.0%} of "
        f"its median in the middle case, within {noise['most']:.0%} in the worst.\n"
    )


def main() -> None:
    """Fill the page and copy the picture."""
    data = json.loads((_BUILT / "bench.json").read_text())
    if data["machine"]["quick"] or data["machine"]["noise"] is None:
        sys.exit("the last run was quick or in parts: publish a whole one")
    tables = {one["title"]: table.markdown(Table(**one), titled=False) for one in data["tables"]}
    _PAGE.write_text(filled(_PAGE.read_text(), {**tables, "machine": machine_line(data["machine"])}))
    shutil.copyfile(_BUILT / "performance.svg", _PICTURE)


if __name__ == "__main__":
    main()
