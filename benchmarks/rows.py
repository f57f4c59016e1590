"""What a measurement gives: goals, tables for people, and data for machines."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

_COMPARISONS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "=": operator.eq}


class Row(NamedTuple):
    """What was measured, against what, the ratio of the two, and what that is to be; no goal: for comparison."""

    what: str
    measured: str
    against: str
    ratio: float
    goal: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio is as the goal has it."""
        if not self.goal:
            return None
        comparison, limit = self.goal.split()
        return bool(_COMPARISONS[comparison](self.ratio, float(limit)))


class Table(NamedTuple):
    """A table for people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class BenchPart(NamedTuple):
    """What one part of the run gives."""

    goals: list[Row]
    tables: list[Table]
    data: Any


class Spread(NamedTuple):
    """A figure that was measured several times."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up the repeats."""
        return cls(statistics.median(values), min(values), max(values))

    @property
    def noise(self) -> float:
        """How far from the median the repeats went, as a share of it."""
        return max(self.most - self.median, self.median - self.least) / self.median if self.median else 0.0


def si(number: float) -> str:
    """Return a number in few characters: 1.52 M, 208 k, 64."""
    for limit, unit in ((1e6, " M"), (1e3, " k")):
        if number >= limit * 0.9995:
            return f"{number / limit:.3g}{unit}" if number < limit * 999.5 else f"{number / limit:.0f}{unit}"
    return f"{number:.3g}"
