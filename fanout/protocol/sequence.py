"""Which numbers of a stream arrived, exactly and in bounded memory. Pure."""

from __future__ import annotations

from enum import IntEnum


class Arrival(IntEnum):
    """What a number was when it arrived."""

    NEW = 1
    """Higher than all before."""
    LATE = 2
    """Lower than the highest, and not seen before (RFC 4737, 3.3: reordered)."""
    DUPLICATE = 3
    """Seen before."""
    STALE = 4
    """Too far below the highest to know."""


class Sequence:
    """Remembers which of the last `window` numbers below `expected` arrived: a byte for each."""

    __slots__ = ("expected", "seen")

    def __init__(self, window: int, expected: int = 0) -> None:
        self.expected: int = expected
        """One more than the highest number that arrived."""
        self.seen: bytearray = bytearray(window)

    def arrived(self, number: int) -> Arrival:
        """Record a number."""
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
        """Record `count` numbers from `expected` on."""
        self._advance(count, b"\1")

    def skip(self, count: int) -> None:
        """Pass over `count` numbers from `expected` on: they have not arrived."""
        self._advance(count, b"\0")

    def _advance(self, count: int, state: bytes) -> None:
        window = len(self.seen)
        start = self.expected % window
        changed = min(count, window)
        tail = min(changed, window - start)
        self.seen[start : start + tail] = state * tail
        self.seen[: changed - tail] = state * (changed - tail)
        self.expected += count
