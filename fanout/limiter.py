"""Lets a bounded number of log lines a second through and counts the others exactly. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class LineLimiter:
    """A token bucket of `per_second` lines that holds one second's worth; 0 lets every line through.

    `now` is in seconds on any clock that does not go back.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second)
        self._tokens = self._capacity
        self._refilled_at: float | None = None
        self._suppressed = 0

    def allow(self, now: float) -> bool:
        """Return whether a line may be written; a line that may not is counted."""
        if self._per_second <= 0:
            return True
        if self._refilled_at is not None:
            self._tokens = min(self._capacity, self._tokens + (now - self._refilled_at) * self._per_second)
        self._refilled_at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        self._suppressed += 1
        return False

    def take_suppressed(self) -> int:
        """Return how many lines were left out since the last call."""
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class LimitedLogger:
    """Writes at most `per_second` lines by `write` (a logger's `warning`, for one); each tells how many were left out.

    A line's message refers to its values by name, as `logging` has it.
    """

    def __init__(self, write: Callable[..., object], per_second: float) -> None:
        self._write = write
        self._limiter = LineLimiter(per_second)

    def __call__(self, now: float, message: str, values: Mapping[str, object], **options: Any) -> None:
        """Write a line, if one may be written at `now`; `options` are the logger's own."""
        if self._limiter.allow(now):
            suppressed = self._limiter.take_suppressed()
            self._write(
                f"{message} (%(suppressed)d such lines left out before)",
                {**values, "suppressed": suppressed},
                stacklevel=2,
                **options,
            )
