"""What a receiver knows of each sender of frames: which numbers came, what became of those that ask. Pure, bounded."""

from __future__ import annotations

from typing import Any, NamedTuple

from fanout.wire.frame import Cut, Status
from fanout.wire.sequence import Arrival, Sequence

WINDOW = 4096
"""Numbers, below the highest that came, of which each sender's record knows whether they came."""
SENDERS_MAX = 1024
"""Senders of which a record is kept; the one that was quiet for longest makes room for a new one."""
RESULTS_MAX = 65_536
"""Messages, of all senders together, of which it is remembered what became of them."""
PENDING_MAX = 262_144
"""Messages that were taken, and whose handler has not returned: more than a queue holds."""
REPLIES_MAX = 32 * 1024 * 1024
"""Bytes of replies that are kept, so that what is lost of them can be sent again."""
_REPLY_OVERHEAD = 500

Key = tuple[int, bool, int]
"""Names a message: the sender, whether it is sealed, and the number."""


class Order:
    """The numbered messages of one sender in the order in which somebody meets them: what is missing before each.

    The first that is met begins it. Those of the same sender that are not numbered have numbers all the same: they
    are `others`.
    """

    __slots__ = ("_others", "first", "next")

    def __init__(self) -> None:
        self.first = self.next = 0
        """The lowest number that was met, and one more than the highest; 0 where none was."""
        self._others: set[int] = set()

    def begin(self, number: int) -> None:
        """Take this number for the first that is expected."""
        self.first = self.next = number

    def met(self, number: int, count: int, numbered: bool) -> list[tuple[int, int]]:
        """Take note of `count` numbers in a row; return those that are not just the next: their index, and the gap.

        That is how many are missing directly before it, or -1 for a late one, which was counted as missing.
        """
        if number == self.next and numbered and not self._others:
            self.next = number + count
            return []
        gaps = []
        for index in range(count):
            gap = self._met(number + index) if numbered else self._met_other(number + index)
            if gap:
                gaps.append((index, gap))
        return gaps

    def _met(self, number: int) -> int:
        if not self.next:
            self.first, self.next = number, number + 1
            return 0
        if number >= self.next:
            gap = self._missing_before(number)
            self.next = number + 1
            return gap
        if number < self.first:
            gap = self.first - number - 1
            self.first = number
            return gap
        return -1

    def _met_other(self, number: int) -> int:
        if number >= self.next:
            if self.next and len(self._others) < WINDOW:
                self._others.add(number)
            return 0
        return -1 if number >= self.first else 0

    def _missing_before(self, number: int) -> int:
        between = sum(1 for other in self._others if other < number)
        if between:
            self._others = {other for other in self._others if other >= number}
        return number - self.next - between

    def marked(self, number: int, origin: int) -> int:
        """Take note that the numbers from `origin` to `number` were sent; return how many more are missing."""
        if not self.next:
            self.first, self.next = origin, number + 1
            return number - origin + 1
        missing = 0
        if number >= self.next:
            missing = self._missing_before(number + 1)
            self.next = number + 1
        if origin < self.first:
            missing += self.first - origin
            self.first = origin
        return missing


class Counts:
    """What came of one sender, or of all; they only grow."""

    __slots__ = ("duplicates", "received", "reordered", "skipped")

    def __init__(self) -> None:
        self.received = 0
        """Messages that were taken."""
        self.skipped = 0
        """Numbers of a stream that had not come when a higher one did."""
        self.reordered = 0
        """Those of them that came later."""
        self.duplicates = 0
        """Numbers of a stream that came again."""


class Peer:
    """The record of one sender."""

    __slots__ = ("arrivals", "counts", "hand_over", "is_new", "key", "sequence")

    def __init__(self, key: tuple[int, bool], number: int, is_new: bool) -> None:
        self.key = key
        self.sequence = Sequence(WINDOW, number)
        self.counts = Counts()
        self.arrivals = Order()
        self.hand_over = Order()
        self.is_new = is_new
        """Whether it was certainly never forgotten before."""

    def state(self, number: int) -> Arrival:
        """Say what the number would be, if it came now."""
        sequence = self.sequence
        if number >= sequence.expected:
            return Arrival.NEW
        if number < sequence.expected - WINDOW:
            return Arrival.STALE
        return Arrival.DUPLICATE if sequence.seen[number % WINDOW] else Arrival.LATE


class SenderCounts(NamedTuple):
    """What came of one sender of frames."""

    sender: str
    """Its identity, a random number that it drew when it began, as 16 hexadecimal digits."""
    sealed: bool
    received: int
    skipped: int
    reordered: int
    duplicates: int


class Result(NamedTuple):
    """What became of a message."""

    status: Status
    detail: bytes = b""
    reply: Kept | None = None


CONFIRMED = Result(Status.CONFIRMED)
_GONE = Result(Status.FAILED, b"its reply had to make room for others")


class Kept:
    """A reply that can be sent again, whole or in parts."""

    __slots__ = ("attempt", "cut", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.cut: Cut | None = None
        """As it was cut for the first who asked."""
        self.attempt = 0


class Ledger:
    """The records of at most `senders` senders, and what became of the messages that were taken lately."""

    def __init__(self, senders: int = SENDERS_MAX) -> None:
        self.totals = Counts()
        self.pending: dict[Key, Any] = {}
        self._senders = senders
        self._peers: dict[tuple[int, bool], Peer] = {}
        self._latest: Peer | None = None
        self._has_forgotten = False
        self._results: dict[Key, Result] = {}
        self._replies: dict[Key, Kept] = {}
        self._reply_bytes = 0
        self._released: dict[Key, None] = {}

    def peer(self, sender: int, is_sealed: bool, number: int) -> Peer:
        """Return the record of a sender, of which `number` is here."""
        key = (sender, is_sealed)
        latest = self._latest
        if latest is not None and latest.key == key:
            return latest
        peer = self._peers.pop(key, None)
        if peer is None:
            if len(self._peers) >= self._senders:
                del self._peers[next(iter(self._peers))]
                self._has_forgotten = True
            peer = Peer(key, number, not self._has_forgotten)
        # At the end of the dictionary: it is the last that makes room.
        self._peers[key] = self._latest = peer
        return peer

    def arrived(self, peer: Peer, number: int, numbered: bool) -> None:
        """Take note of a message that is new, or late."""
        peer.sequence.arrived(number)
        key = (*peer.key, number)
        if key in self._released:
            del self._released[key]
            return  # it came and was counted before; the queue had no room for it
        peer.counts.received += 1
        self.totals.received += 1
        self._met(peer, number, 1, numbered)

    def run_arrived(self, peer: Peer, number: int, count: int) -> None:
        """Take note of numbered messages in a row, the first of which is no lower than what is expected."""
        if number > peer.sequence.expected:
            peer.sequence.skip(number - peer.sequence.expected)
            peer.sequence.expected = number
        peer.sequence.run_arrived(count)
        peer.counts.received += count
        self.totals.received += count
        self._met(peer, number, count, True)

    def _met(self, peer: Peer, number: int, count: int, numbered: bool) -> None:
        if numbered and not peer.hand_over.next:
            peer.hand_over.begin(number)
        first = peer.arrivals.first
        for _, gap in peer.arrivals.met(number, count, numbered):
            if gap > 0:
                self._skipped(peer, gap)
            else:
                self._reordered(peer)
        if 0 < peer.arrivals.first < first:
            # Below all that came before: it was missing, and nobody knew.
            self._skipped(peer, 1)
            self._reordered(peer)

    def _skipped(self, peer: Peer, count: int) -> None:
        peer.counts.skipped += count
        self.totals.skipped += count

    def _reordered(self, peer: Peer) -> None:
        peer.counts.reordered += 1
        self.totals.reordered += 1

    def duplicated(self, peer: Peer) -> None:
        """Take note of a numbered message that came before."""
        peer.counts.duplicates += 1
        self.totals.duplicates += 1

    def marked(self, peer: Peer, number: int, origin: int) -> None:
        """Take note of how far a stream has come; of where it began only where nothing can have been forgotten."""
        sequence = peer.sequence
        if not peer.is_new:
            origin = max(origin, peer.arrivals.first or number + 1)
        if number >= sequence.expected:
            sequence.skip(number + 1 - sequence.expected)
            sequence.expected = number + 1
        self._skipped(peer, peer.arrivals.marked(number, origin))

    def expect(self, key: Key, ticket: object) -> None:
        """Remember a message that was handed over until it is settled."""
        if len(self.pending) >= PENDING_MAX:
            del self.pending[next(iter(self.pending))]
        self.pending[key] = ticket

    def settle(self, key: Key, result: Result) -> None:
        """Remember what became of a message."""
        self.pending.pop(key, None)
        if len(self._results) >= RESULTS_MAX:
            oldest = next(iter(self._results))
            del self._results[oldest]
            self._forget_reply(oldest)
        self._results[key] = result
        if result.reply is not None:
            self._replies[key] = result.reply
            self._reply_bytes += len(result.reply.payload) + _REPLY_OVERHEAD
            while self._reply_bytes > REPLIES_MAX:
                oldest = next(iter(self._replies))
                self._forget_reply(oldest)
                self._results[oldest] = _GONE

    def _forget_reply(self, key: Key) -> None:
        kept = self._replies.pop(key, None)
        if kept is not None:
            self._reply_bytes -= len(kept.payload) + _REPLY_OVERHEAD

    def result(self, key: Key) -> Result | None:
        """Return what became of a message; None where it is not settled, or nobody remembers."""
        return self._results.get(key)

    def release(self, key: Key) -> None:
        """Forget that a message came: the queue had no room for it, and it may come again."""
        self.pending.pop(key, None)
        peer = self._peers.get(key[:2])
        number = key[2]
        if peer is not None and peer.state(number) is Arrival.DUPLICATE:
            peer.sequence.seen[number % WINDOW] = 0
            if len(self._released) >= WINDOW:
                del self._released[next(iter(self._released))]
            self._released[key] = None

    def senders(self) -> list[SenderCounts]:
        """Return what came of each sender that is known, the one that was heard last at the end."""
        return [
            SenderCounts(
                f"{sender:016x}",
                is_sealed,
                peer.counts.received,
                peer.counts.skipped,
                peer.counts.reordered,
                peer.counts.duplicates,
            )
            for (sender, is_sealed), peer in self._peers.items()
        ]
