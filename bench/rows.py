"""One line of the result."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """What was measured, against what, and the ratio of the two."""

    what: str
    measured: str
    against: str
    ratio: float
    goal: str
