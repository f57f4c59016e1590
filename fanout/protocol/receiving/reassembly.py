"""Reassembly of fragmented messages; nothing is allocated on the strength of a fragment's claims. Pure, bounded."""

from __future__ import annotations

from itertools import islice

from fanout.protocol.frame import ASK, NUMBERED, QUERY, Fragment, bitmap, fragment_count
from fanout.protocol.receiving.dedup import Key

BYTES_MAX = 32 * 1024 * 1024
"""Bytes of fragments kept in total."""
SENDER_BYTES_MAX = 28 * 1024 * 1024
"""Bytes of fragments kept for one sender: the largest message fits, in the smallest fragments."""
PATIENCE = 30.0
"""Seconds without a new fragment after which a message is dropped."""
IDLE = 1.0
"""Seconds without a new fragment after which a message may be evicted for others."""
_FRAGMENT_OVERHEAD = 150
_MESSAGE_OVERHEAD = 1500


class Partial:
    """A message of which some fragments have arrived."""

    __slots__ = ("_first_missing", "_fragments", "_highest", "cost", "is_asked", "kind", "last_arrival", "missing")

    def __init__(self, fragment: Fragment) -> None:
        self.kind: tuple[int, int, int] = _kind(fragment)
        self.missing: int = fragment_count(fragment.total, fragment.size)
        self.cost: int = _MESSAGE_OVERHEAD
        self.last_arrival: float = 0.0
        """When the last new fragment arrived."""
        self.is_asked: bool = False
        """Whether its sender asks for a confirmation, and sends missing fragments again."""
        self._fragments: dict[int, bytes] = {}
        self._first_missing = 0
        self._highest = 0

    def has(self, fragment: Fragment) -> bool:
        """Whether the fragment has arrived."""
        return fragment.position in self._fragments

    def take(self, fragment: Fragment) -> None:
        """Keep a new fragment."""
        self._fragments[fragment.position] = fragment.payload
        self.missing -= 1
        self._highest = max(self._highest, fragment.position)
        self.cost += cost_of(fragment)

    def payload(self) -> bytes:
        """Return the whole message."""
        return b"".join(map(self._fragments.__getitem__, range(len(self._fragments))))

    def gaps(self, size: int) -> tuple[int, bytes]:
        """Return the first missing fragment, and a bitmap of those from there on, of at most `size` bytes."""
        first = self._first_missing
        while first in self._fragments:
            first += 1
        self._first_missing = first
        last = min(self._highest + 1, first + 8 * size)
        if len(self._fragments) > (last - first) // 4:
            return first, bitmap([position in self._fragments for position in range(first, last)])
        # Few of many: costs no more than what has arrived.
        present = bytearray(-(-(last - first) // 8))
        for position in self._fragments:
            if first <= position < last:
                present[(position - first) // 8] |= 0x80 >> (position - first) % 8
        return first, bytes(present)


def _kind(fragment: Fragment) -> tuple[int, int, int]:
    """Return what all fragments of one message have in common."""
    return fragment.size, fragment.total, fragment.flags & (NUMBERED | QUERY)


def cost_of(fragment: Fragment) -> int:
    """Return the bytes that keeping a fragment costs."""
    return len(fragment.payload) + _FRAGMENT_OVERHEAD


class _Pool:
    """Messages that share a bound: all, or those of one sender."""

    __slots__ = ("_asked", "_favourite", "_others", "bytes", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        # The one idle for longest is the first of each.
        self._asked: dict[Key, Partial] = {}
        self._others: dict[Key, Partial] = {}
        self._favourite: Key | None = None

    def add(self, key: Key, partial: Partial) -> None:
        self.bytes += partial.cost
        (self._asked if partial.is_asked else self._others)[key] = partial

    def remove(self, key: Key, partial: Partial) -> None:
        self.bytes -= partial.cost
        del (self._asked if partial.is_asked else self._others)[key]

    def victim(self, key: Key, partial: Partial, now: float) -> Key | None:
        """Return the message to evict for a fragment of this one; None where the fragment must be refused."""
        for some in (self._others, self._asked):
            found = _first_but(key, some)
            if found is not None and (some is self._others or now - some[found].last_arrival >= IDLE):
                return found
        # All are to be confirmed, and active. One of them has priority, or none would ever complete.
        favourite = self._asked.get(self._favourite) if self._favourite is not None else None
        if favourite is None or now - favourite.last_arrival >= IDLE:
            self._favourite = key if partial.is_asked else None
        return _first_but(key, self._asked) if self._favourite == key else None


def _first_but(key: Key, some: dict[Key, Partial]) -> Key | None:
    """Return the first message other than this one."""
    return next((other for other in islice(some, 2) if other != key), None)


class Reassembly:
    """The incomplete messages.

    Where memory is full, a fragment evicts a message that is not to be confirmed or was idle for a second; where there
    is none, the fragment is refused, unless its message has priority.
    """

    def __init__(self, limit: int = BYTES_MAX, sender_limit: int = SENDER_BYTES_MAX) -> None:
        self.given_up: int = 0
        """Messages whose fragments did not all come in time, or that were evicted."""
        self._all = _Pool(limit)
        self._of_sender: dict[int, _Pool] = {}
        self._sender_limit = sender_limit
        self.partial: dict[Key, Partial] = {}
        """The incomplete messages, the one idle for longest first. Read-only outside."""

    @property
    def bytes(self) -> int:
        """Bytes that the fragments cost."""
        return self._all.bytes

    def find(self, key: Key, fragment: Fragment) -> Partial | None:
        """Return a fragment's message, a new one if needed; None where the fragment does not fit the others."""
        partial = self.partial.get(key)
        if partial is None:
            return Partial(fragment)
        return partial if partial.kind == _kind(fragment) else None

    def take(self, key: Key, partial: Partial, fragment: Fragment, now: float) -> bool:
        """Keep a fragment of a message that was found; return False where memory is full."""
        if partial.has(fragment):
            if fragment.flags & ASK and not partial.is_asked:
                pools = self._all, self._of_sender[key[0]]
                for pool in pools:
                    pool.remove(key, partial)
                partial.is_asked = True
                for pool in pools:
                    pool.add(key, partial)
            return True
        is_there = key in self.partial
        # What completes it needs no memory.
        if partial.missing > 1 and not self._make_room(key, partial, fragment, is_there, now):
            return False
        if is_there:
            self._remove(key, partial)
        partial.take(fragment)
        partial.last_arrival = now
        partial.is_asked |= bool(fragment.flags & ASK)
        # At the end of all dictionaries: it is evicted last.
        self._add(key, partial)
        return True

    def _add(self, key: Key, partial: Partial) -> None:
        self.partial[key] = partial
        self._all.add(key, partial)
        sender = key[0]
        if sender not in self._of_sender:
            self._of_sender[sender] = _Pool(self._sender_limit)
        self._of_sender[sender].add(key, partial)

    def _remove(self, key: Key, partial: Partial) -> None:
        del self.partial[key]
        self._all.remove(key, partial)
        self._of_sender[key[0]].remove(key, partial)

    def _make_room(self, key: Key, partial: Partial, fragment: Fragment, is_there: bool, now: float) -> bool:
        more = cost_of(fragment) + (0 if is_there else partial.cost)
        for pool in (self._of_sender.get(key[0]), self._all):
            while pool is not None and pool.bytes + more > pool.limit:
                victim = pool.victim(key, partial, now)
                if victim is None:
                    return False
                self._give_up(victim)
        return True

    def _give_up(self, key: Key) -> None:
        self.given_up += 1
        self.remove(key)

    def remove(self, key: Key) -> None:
        """Forget a message, once it is complete."""
        sender = key[0]
        self._remove(key, self.partial[key])
        if not self._of_sender[sender].bytes:
            del self._of_sender[sender]

    def expire(self, now: float) -> None:
        """Drop the messages idle for too long."""
        while self.partial:
            key, partial = next(iter(self.partial.items()))
            if now - partial.last_arrival < PATIENCE:
                return
            self._give_up(key)
