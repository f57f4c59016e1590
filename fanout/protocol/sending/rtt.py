"""How long to wait for an answer before asking again. Pure."""

from __future__ import annotations

from collections.abc import Callable

FIRST = 0.1
"""Seconds to wait before the first measurement."""
LEAST, MOST = 0.02, 0.5
"""Bounds of the time to wait, in seconds: handlers and schedulers take milliseconds, and a copy costs little."""


class RttEstimator:
    """The smoothed round trip and the time to wait for an answer (RFC 6298, with bounds for a cluster).

    `jitter` returns random numbers from 0 to 1.
    """

    __slots__ = ("_jitter", "_smoothed", "_variance")

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._smoothed: float | None = None
        self._variance = 0.0

    def measured(self, seconds: float) -> None:
        """Record a measurement."""
        if self._smoothed is None:
            self._smoothed, self._variance = seconds, seconds / 2
        else:
            self._variance += (abs(self._smoothed - seconds) - self._variance) / 4
            self._smoothed += (seconds - self._smoothed) / 8

    def patience(self, unanswered: int) -> float:
        """Return the seconds to wait for an answer after N unanswered tries.

        Doubled with each try, up to the bound, and up to a quarter longer, so that pods are not asked in step.
        """
        base = FIRST if self._smoothed is None else max(LEAST, self._smoothed + 4 * self._variance)
        return float(min(MOST, base * 2 ** min(unanswered, 16)) * (1 + self._jitter() / 4))
