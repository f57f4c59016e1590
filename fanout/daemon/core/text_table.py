"""What a live table shows: counts, and rates from the difference of two snapshots of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from fanout.options import printable

_T = TypeVar("_T")
_Reason = TypeVar("_Reason", bound=str)
GAP = 2
"""Spaces between two columns."""
_WINDOW = 1.0
"""Seconds over which rates are taken."""


class Alarm(str):
    """A cell that somebody should look at."""

    __slots__ = ()


class TextTable(NamedTuple):
    """Columns and rows of cells; a column is text, to the left, or numbers, to the right."""

    texts: tuple[str, ...]
    """The names of the columns of text, which come first."""
    numbers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    more: str = ""
    """A line below the rows, such as how many were left out."""
    dispensable: tuple[str, ...] = ()
    """Columns that a narrow terminal does without, in this order."""

    def within(self, width: int) -> TextTable:
        """Return it with the columns that fit."""
        texts, numbers, rows = self.texts, self.numbers, self.rows
        for name in self.dispensable:
            columns = (*texts, *numbers)
            if _width(columns, rows) <= width:
                break
            gone = columns.index(name)
            texts, numbers = tuple(one for one in texts if one != name), tuple(one for one in numbers if one != name)
            rows = [row[:gone] + row[gone + 1 :] for row in rows]
        return self._replace(texts=texts, numbers=numbers, rows=rows)


class Window(Generic[_T]):
    """The snapshots of the last second."""

    def __init__(self) -> None:
        self._snapshots: deque[tuple[float, _T]] = deque()

    def add(self, now: float, snapshot: _T) -> tuple[_T, float]:
        """Return the snapshot to hold this one against, and the seconds between them: 0 the first time.

        It is the youngest that is a second old, or the oldest that there is.
        """
        self._snapshots.append((now, snapshot))
        while len(self._snapshots) > 1 and now - self._snapshots[1][0] >= _WINDOW:
            self._snapshots.popleft()
        then, before = self._snapshots[0]
        return before, now - then


def per_second(before: int, after: int, seconds: float) -> str:
    """Return the rate of a count; one that is smaller than before began again at 0."""
    if seconds <= 0:
        return "-"
    rate = _grown(before, after) / seconds
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


def bits_per_second(before: int, after: int, seconds: float) -> str:
    """Return the rate of a count of bytes."""
    return "-" if seconds <= 0 else _scaled(8 * _grown(before, after) / seconds, "bit/s")


def size(count: int) -> str:
    """Return a number of bytes."""
    return _scaled(count, "B")


def drops(counts: Mapping[_Reason, int]) -> str:
    """Return counts by reason, the largest first; an alarm, where there are any."""
    some = sorted(((-count, reason) for reason, count in counts.items() if count))
    return Alarm(", ".join(f"{-count:,} {reason}" for count, reason in some)) if some else "0"


def alarming(count: int) -> str:
    """Return a count that should be 0: an alarm where it is not."""
    return Alarm(f"{count:,}") if count else "0"


def shortened(text: str, most: int) -> str:
    """Return untrusted text, shortened, with `?` for what a terminal must not get."""
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def chosen(these: Sequence[_T], room: int, is_troubled: Callable[[_T], object]) -> list[_T]:
    """Return at most `room` of them, those with trouble first if not all fit."""
    return list(these if len(these) <= room else sorted(these, key=lambda one: not is_troubled(one))[: max(room, 0)])


def more(count: int, one: str, many: str) -> str:
    """Return how many `one` or `many` are not shown, in words; empty for 0."""
    return f"and {count:,} more {one if count == 1 else many}" if count else ""


def _width(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> int:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return sum(widths) + GAP * (len(widths) - 1)


def _grown(before: int, after: int) -> int:
    return after - before if after >= before else after


def _scaled(value: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.0f} {prefix}{unit}" if not prefix or value >= 99.95 else f"{value:.1f} {prefix}{unit}"
        value /= 1000
    return f"{value:,.1f} T{unit}"
