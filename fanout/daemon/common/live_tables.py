"""The live table of a program on a terminal: the log scrolls above it, and its last state stays."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from fanout.daemon.common.logs import LogStream
from fanout.daemon.core.text_table import GAP, Alarm, TextTable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult
    from rich.live import Live as RichLive

_REFRESH = 0.25
"""Seconds between two refreshes."""
_LINES_MAX = 10_000
"""Lines of the log that wait for the next refresh; a thread that logs more waits, too."""
_LINES_MANY = 500
"""Lines at which the next refresh comes at once."""
_OTHER_LINES = 8
"""Of the screen: what is not rows."""


def is_wanted(log_format: str) -> bool:
    """Return whether standard output is a terminal, and no log format was chosen."""
    return log_format == "auto" and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")


class LiveTables:
    """Shows tables on standard output while it is entered, by a thread of its own.

    `look` returns the tables of this moment, given how many rows fit. The screen stays the terminal's
    own and the cursor visible: nothing has to be put right, however the process ends or is suspended.
    """

    def __init__(self, stream: LogStream, look: Callable[[int], Sequence[TextTable]]) -> None:
        self._stream = stream
        self._look = look
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="fanout-display", daemon=True)

    def __enter__(self) -> Self:
        self._stream.divert(self._take)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()
        self._thread.join()

    def _take(self, line: str) -> bool:
        """Take a line of the log; return False once the table is closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) < _LINES_MAX or not self._is_open)
            if not self._is_open:
                return False
            self._lines.append(line)
            if len(self._lines) == _LINES_MANY:
                self._changed.notify_all()
            return True

    def _close(self) -> None:
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def _next_lines(self) -> list[str]:
        with self._changed:
            lines, self._lines = self._lines, []
            self._changed.notify_all()
            return lines

    def _run(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        try:
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="replace")  # what this locale has no character for: "…", for one
            console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
            # A terminal that has gone away: the log says so, once.
            with contextlib.suppress(OSError), RichLive(console=console, auto_refresh=False) as live:
                console.show_cursor()
                while self._is_open:
                    self._paint(live)
                    with self._changed:
                        self._changed.wait_for(
                            lambda: len(self._lines) >= _LINES_MANY or not self._is_open, timeout=_REFRESH
                        )
                self._paint(live)
        finally:
            self._close()
            for line in self._next_lines():
                self._stream.write(line)

    def _paint(self, live: RichLive) -> None:
        lines = self._next_lines()
        room = max(2, live.console.height - _OTHER_LINES)
        live.update(_picture([each.within(live.console.width) for each in self._look(room)]))
        if lines:
            # rich paints the old table below what is printed; soft_wrap would apply to that table, too.
            live.console.print(_Verbatim("".join(f"{line}\n" for line in lines)), crop=False, end="")
        live.refresh()


class _Verbatim:
    """Text that goes to the terminal as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        yield Segment(self._text)


def _picture(tables: Sequence[TextTable]) -> Group:
    from rich import table
    from rich.console import Group
    from rich.text import Text

    parts: list[table.Table | Text] = [Text("")]
    for each in tables:
        drawn = table.Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        for name in each.texts:
            drawn.add_column(Text(name), no_wrap=True, overflow="ellipsis")
        for name in each.numbers:
            drawn.add_column(Text(name), justify="right", no_wrap=True, overflow="ellipsis")
        for row in each.rows:
            drawn.add_row(*(Text(cell, style="red" if isinstance(cell, Alarm) else "") for cell in row))
        parts.append(drawn)
        if each.more:
            parts.append(Text(each.more, style="yellow"))
    return Group(*parts)
