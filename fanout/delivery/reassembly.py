"""Messages of which some fragments have come: nothing is allocated on what a fragment claims. Pure, bounded."""

from __future__ import annotations

from fanout.delivery.ledger import Key
from fanout.wire.frame import NUMBERED, QUERY, Fragment, bitmap

BYTES_MAX = 64 * 1024 * 1024
"""Bytes of fragments that are kept in all."""
SENDER_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of fragments that are kept of one sender."""
PATIENCE = 30.0
"""Seconds without a new fragment after which a message is given up."""
_FRAGMENT_OVERHEAD = 150
_MESSAGE_OVERHEAD = 1000


class Partial:
    """A message of which some fragments are there."""

    __slots__ = ("_first_missing", "_fragments", "_highest", "cost", "heard", "kind", "missing")

    def __init__(self, fragment: Fragment) -> None:
        self.kind = _kind(fragment)
        self.missing = fragment.parts
        self.cost = _MESSAGE_OVERHEAD
        self.heard = 0.0
        """When the last new fragment came."""
        self._fragments: dict[int, bytes] = {}
        self._first_missing = 0
        self._highest = 0

    def take(self, fragment: Fragment) -> int:
        """Keep a fragment; return what that costs, 0 where it is there already."""
        position = fragment.position
        if position in self._fragments:
            return 0
        self._fragments[position] = fragment.payload
        self.missing -= 1
        self._highest = max(self._highest, position)
        cost = len(fragment.payload) + _FRAGMENT_OVERHEAD
        self.cost += cost
        return cost

    def payload(self) -> bytes:
        """Return the whole message."""
        return b"".join(map(self._fragments.__getitem__, range(len(self._fragments))))

    def gaps(self, room: int) -> tuple[int, bytes]:
        """Return the first fragment that is missing, and a bitmap of those from there on, of at most `room` bytes."""
        first = self._first_missing
        while first in self._fragments:
            first += 1
        self._first_missing = first
        last = min(self._highest + 1, first + 8 * room)
        return first, bitmap([position in self._fragments for position in range(first, last)])


def _kind(fragment: Fragment) -> tuple[int, int, int]:
    """Return what all fragments of one message have in common."""
    return fragment.size, fragment.total, fragment.flags & (NUMBERED | QUERY)


class Reassembly:
    """The messages that are not whole. The one that got nothing new for longest makes room for others."""

    def __init__(self, limit: int = BYTES_MAX, sender_limit: int = SENDER_BYTES_MAX) -> None:
        self.given_up = 0
        """Messages of which not all fragments came in time, or that had to make room."""
        self.bytes = 0
        """What the fragments cost."""
        self._limit = limit
        self._sender_limit = sender_limit
        self._partial: dict[Key, Partial] = {}
        self._of_sender: dict[tuple[int, bool], dict[Key, Partial]] = {}
        self._costs: dict[tuple[int, bool], int] = {}

    def __len__(self) -> int:
        return len(self._partial)

    def __contains__(self, key: Key) -> bool:
        return key in self._partial

    def take(self, key: Key, fragment: Fragment, now: float) -> Partial | None:
        """Keep a fragment; return the message as it is now, or None where the fragment is none of it."""
        partial = self._partial.get(key)
        if partial is None:
            partial = Partial(fragment)
            self._add(key, partial, partial.cost)
        elif partial.kind != _kind(fragment):
            return None
        cost = partial.take(fragment)
        if cost:
            partial.heard = now
            # At the end of both dictionaries: it is the last that makes room.
            del self._partial[key], self._of_sender[key[:2]][key]
            self._add(key, partial, cost)
            if partial.missing:
                self._make_room(key[:2])
        return partial

    def _add(self, key: Key, partial: Partial, cost: int) -> None:
        sender = key[:2]
        self._partial[key] = partial
        self._of_sender.setdefault(sender, {})[key] = partial
        self._costs[sender] = self._costs.get(sender, 0) + cost
        self.bytes += cost

    def _make_room(self, sender: tuple[int, bool]) -> None:
        # The newest fits by itself: no message is that large.
        while self._costs[sender] > self._sender_limit and len(self._of_sender[sender]) > 1:
            self._give_up(next(iter(self._of_sender[sender])))
        while self.bytes > self._limit and len(self._partial) > 1:
            self._give_up(next(iter(self._partial)))

    def _give_up(self, key: Key) -> None:
        self.given_up += 1
        self.remove(key)

    def remove(self, key: Key) -> None:
        """Forget a message: it is whole."""
        sender = key[:2]
        partial = self._partial.pop(key)
        self.bytes -= partial.cost
        self._costs[sender] -= partial.cost
        del self._of_sender[sender][key]
        if not self._of_sender[sender]:
            del self._of_sender[sender], self._costs[sender]

    def expire(self, now: float) -> None:
        """Give up what got nothing new for long."""
        while self._partial:
            key, partial = next(iter(self._partial.items()))
            if now - partial.heard < PATIENCE:
                return
            self._give_up(key)
