"""Tables on the terminal, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.rows import Row, Table

_MET = {True: "yes", False: "no", None: ""}
_WIDTH = 150
"""Where the output is not a terminal."""


def console() -> Console:
    """Return where to print: wide where it is a file or a pipe."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH)


def show(out: Console, table: Table) -> None:
    """Print a table."""
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    out.print(shown)


def goals_table(rows: Sequence[Row]) -> Table:
    """Return the goals as a table."""
    columns = ["what", "measured", "against", "ratio", "goal", "met"]
    return Table("Goals", columns, [
        [row.what, row.measured, row.against, f"{row.ratio:.3g}", row.goal, _MET[row.met]] for row in rows
    ])  # fmt: skip


def markdown(table: Table, *, titled: bool = True) -> str:
    """Return a table as Markdown."""
    title = [f"### {table.title}", ""] if titled else []
    lines = [*title, _line(table.columns), _line(["---", *(["---:"] * (len(table.columns) - 1))])]
    return "\n".join([*lines, *(_line(row) for row in table.rows), *([""] if titled else [])]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
