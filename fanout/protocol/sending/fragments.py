"""Which fragments of a large message a pod has, and which of its reply have arrived. Pure."""

from __future__ import annotations

from itertools import islice
from operator import gt

from fanout.protocol.frame import PULLS_MAX, REPLIES_UNASKED, ReplyFragment, bits, fragment_count

WINDOW_FIRST, WINDOW_MOST = 16, 128
"""Fragments sent before waiting for an answer: at first, and at most."""


class SendWindow:
    """Which of a message's `parts` fragments a pod has reported, and how many are sent in one burst.

    A burst doubles while nothing is lost, and is halved by loss.
    """

    __slots__ = ("_have", "_known", "_next", "_parts", "_size")

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._have = bytearray(parts)
        self._known = 0  # all fragments before it are there
        self._next = 0  # the first that was never sent
        self._size = WINDOW_FIRST

    def burst(self, *, is_retry: bool) -> tuple[int, ...]:
        """Return the missing fragments to send now, as many as the window allows, or one to ask again."""
        if is_retry:
            self._size = max(1, self._size // 2)
        limit = 1 if is_retry else self._size
        found: list[int] = []
        position = self._known
        while len(found) < limit and (position := self._have.find(0, position)) >= 0:
            found.append(position)
            position += 1
        positions = tuple(found) or (self._parts - 1,)
        self._next = max(self._next, positions[-1] + 1)
        return positions

    @property
    def arrived(self) -> int:
        """Fragments that the pod has."""
        return self._have.count(1)

    def all_arrived(self) -> None:
        """Record that the pod has the whole message."""
        self._have[:] = b"\1" * self._parts

    def record(self, first_missing: int, bitmap: bytes) -> bool:
        """Record what a pod reports to have (see `Answer`); return whether that is more than before."""
        before = self.arrived
        first = min(first_missing, self._parts - 1)
        rest = self._parts - first
        present = bits(bitmap[: -(-rest // 8)])[:rest]
        end = first + len(present)
        if any(map(gt, self._have[first:end], present)):
            # It dropped what it had, also beyond the bitmap, which is not loss on the way.
            self._have[end:] = bytes(self._parts - end)
            self._next = first
            before = 0
        self._have[:first] = b"\1" * first
        self._have[first:end] = bytes(present)
        self._known = first
        is_lossy = self._have.find(0, self._known, self._next) >= 0
        self._size = max(1, self._size // 2) if is_lossy else min(WINDOW_MOST, self._size * 2)
        return self.arrived > before


class ReplyAssembly:
    """A reply of which some fragments have arrived."""

    __slots__ = ("_first_missing", "_fragments", "_outstanding", "_parts", "_size", "_total", "size")

    def __init__(self, first: ReplyFragment) -> None:
        self.size: int = 0
        """Bytes that have arrived."""
        self._size, self._total = first.size, first.total
        self._parts = fragment_count(first.total, first.size)
        self._fragments: dict[int, bytes] = {}
        self._first_missing = 0
        self._outstanding = set(range(min(REPLIES_UNASKED, self._parts)))

    def take(self, fragment: ReplyFragment) -> bool:
        """Keep a fragment; return False where it is a duplicate or of another reply."""
        if (fragment.size, fragment.total) != (self._size, self._total) or fragment.position in self._fragments:
            return False
        self._fragments[fragment.position] = fragment.payload
        self._outstanding.discard(fragment.position)
        self.size += len(fragment.payload)
        return True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self._fragments) == self._parts

    @property
    def wants_more(self) -> bool:
        """Whether all that was asked for has arrived."""
        return not self._outstanding

    def ask(self) -> tuple[int, ...]:
        """Return the first missing positions, at most `PULLS_MAX`, and expect them."""
        missing = (position for position in range(self._first_missing, self._parts) if position not in self._fragments)
        wanted = tuple(islice(missing, PULLS_MAX))
        self._first_missing = min(wanted, default=self._parts)
        self._outstanding = set(wanted)
        return wanted

    def join(self) -> bytes:
        """Return the whole reply, and drop its fragments."""
        payload = b"".join(self._fragments[position] for position in range(self._parts))
        self._fragments.clear()
        return payload
