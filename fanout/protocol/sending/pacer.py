"""When the next messages of a paced stream may leave: a token bucket. Pure: time is an argument."""

from __future__ import annotations

from fanout import options
from fanout.errors import InvalidInput

BURST = 256
"""Tiny datagrams that may leave at once: what a default receive buffer holds."""
_BUFFER_SHARE = 600
"""Bytes of payload that take as much of a receive buffer as the bookkeeping of one more datagram."""
_CATCH_UP = 0.1
_TICK = 0.001
_LEAST_WAIT = 1e-6


class Pacer:
    """Admits `rate` messages a second or `bandwidth` bits of payload a second, the slower where both are given.

    Never more leaves at once than a default receive buffer holds: `burst` tiny datagrams, a third as many of 1,200
    bytes. A late sender (a busy machine, a slow producer) catches up on at most a tenth of a second, at no more than
    twice the speed; with a `burst` of 1 it does not catch up, and messages keep their distance. `now` is in seconds
    on a monotonic clock; `size` is that of the next message, in bytes. Raises `InvalidInput`.
    """

    def __init__(self, now: float, *, rate: float | None, bandwidth: float | None, burst: int = BURST) -> None:
        for name, value in (("rate", rate), ("bandwidth", bandwidth), ("burst", burst)):
            if value is not None:
                options.positive_number(name, value)
        self._rate = rate
        self._bandwidth = bandwidth
        self._burst = float(burst)
        self._catch_up = _CATCH_UP if burst > 1 else 0.0
        self._due = now
        self._tokens = self._burst
        self._refilled_at = now
        self._allowance = 0
        self._allowance_size = 0
        self._allowance_until = now

    def admit(self, now: float, size: int) -> bool:
        """Return whether a message of `size` bytes may leave now; count it if so."""
        if self._allowance == 0 or now >= self._allowance_until or size > self._allowance_size:
            self._allowance = self._allowed(now, size)
            self._allowance_size = size
            self._allowance_until = now + _TICK
            if self._allowance == 0:
                return False
        self._allowance -= 1
        self._due += self._interval(size)
        self._tokens -= self._weight(size)
        return True

    def _allowed(self, now: float, size: int) -> int:
        if self._bandwidth is not None and self._bandwidth < 8 * size:
            raise InvalidInput(
                f"bandwidth must be at least one datagram of {size:,} bytes ({8 * size:,} bits) a second; "
                f"got {self._bandwidth:g} bits/s: raise it, or send smaller messages"
            )
        interval = self._interval(size)
        weight = self._weight(size)
        self._due = max(self._due, now - self._catch_up)
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * 2.0 * weight / interval)
        self._refilled_at = now
        # Rounding errors must not make the stream wait once more.
        due = int((now - self._due) / interval + 1.000001) if now >= self._due - 1e-9 else 0
        # A message heavier than the whole bucket leaves when the bucket is full.
        return min(due, max(int(self._tokens / weight + 1e-6), int(self._tokens >= self._burst - 1e-6)))

    def slack(self, size: int) -> float:
        """Return how many seconds a sender may be late without losing pace: what is due then leaves at once."""
        return self._burst / self._weight(size) * self._interval(size)

    def wait(self, now: float, size: int) -> float:
        """Return the seconds until the next messages may leave: a millisecond's worth, so that sleeping pays."""
        interval = self._interval(size)
        weight = self._weight(size)
        together = max(1, int(min(_TICK / interval, self._burst / weight / 4)))
        for_due = self._due + (together - 1) * interval - now
        for_tokens = self._refilled_at + (min(together * weight, self._burst) - self._tokens) / weight * interval / 2
        return max(_LEAST_WAIT, for_due, for_tokens - now)

    def _interval(self, size: int) -> float:
        by_rate = 1.0 / self._rate if self._rate else 0.0
        return max(by_rate, 8.0 * max(size, 1) / self._bandwidth if self._bandwidth else 0.0)

    @staticmethod
    def _weight(size: int) -> float:
        return 1.0 + size / _BUFFER_SHARE
