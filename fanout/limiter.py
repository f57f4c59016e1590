"""Allows a bounded number of log lines a second and counts the others exactly. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class LineLimiter:
    """A token bucket of `per_second` lines that holds one second's worth; 0 allows every line.

    `now` is in seconds on any monotonic clock.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second)
        self._tokens = self._capacity
        self._refilled_at: float | None = None
        self._suppressed = 0

    def allow(self, now: float) -> bool:
        """Return whether a line may be written; count it where it may not."""
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
        """Return how many lines were suppressed since the last call."""
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class LimitedLogger:
    """Writes at most `per_second` lines with `write`, such as `log.warning`; each says how many were left out before.

    A line's message refers to its values by name, as in `logging`.
    """

    def __init__(self, write: Callable[..., object], per_second: float) -> None:
        self._write = write
        self._limiter = LineLimiter(per_second)

    def __call__(self, now: float, message: str, values: Mapping[str, object], **options: Any) -> None:
        """Write a line, if the limit allows one at `now`; `options` are passed to `write`."""
        if self._limiter.allow(now):
            suppressed = self._limiter.take_suppressed()
            self._write(
                f"{message} (%(suppressed)d such lines left out before)",
                {**values, "suppressed": suppressed},
                stacklevel=2,
                **options,
            )
