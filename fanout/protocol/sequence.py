"""Which numbers of a stream came, and which did not: exact, in bounded memory. Pure."""

from __future__ import annotations

from enum import IntEnum


class Arrival(IntEnum):
    """What a number was when it came."""

    NEW = 1
    """Above all that came before."""
    LATE = 2
    """Below the highest, and it had not come before (RFC 4737, 3.3: reordered)."""
    DUPLICATE = 3
    """It had come before."""
    STALE = 4
    """So far below the highest that nobody knows any more."""


class Sequence:
    """Remembers, for the last `window` numbers below `expected`, which came: a byte for each."""

    __slots__ = ("expected", "seen")

    def __init__(self, window: int, expected: int = 0) -> None:
        self.expected = expected
        """One more than the highest number that came."""
        self.seen = bytearray(window)

    def arrived(self, number: int) -> Arrival:
        """Take note of a number."""
        window = len(self.seen)
        ahead = number - self.expected
        if ahead >= 0:
            if ahead:
                self.skip(ahead)
            self.expected = number + 1
            self.seen[number % window] = 1
            return Arrival.NEW
        if ahead < -window:
            return Arrival.STALE
        if self.seen[number % window]:
            return Arrival.DUPLICATE
        self.seen[number % window] = 1
        return Arrival.LATE

    def run_arrived(self, count: int) -> None:
        """Take note of `count` numbers from `expected` on."""
        window = len(self.seen)
        if count >= window:
            self.seen = bytearray(b"\1" * window)
        else:
            self._fill(count, 1)
        self.expected += count

    def skip(self, count: int) -> None:
        """Mark `count` numbers from `expected` on as not seen; `expected` stays."""
        window = len(self.seen)
        if count >= window:
            self.seen = bytearray(window)
        else:
            self._fill(count, 0)

    def _fill(self, count: int, value: int) -> None:
        window = len(self.seen)
        start = self.expected % window
        tail = min(count, window - start)
        self.seen[start : start + tail] = bytes((value,)) * tail
        self.seen[: count - tail] = bytes((value,)) * (count - tail)
