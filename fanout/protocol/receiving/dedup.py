"""What a receiver knows of each sender of frames: which numbers arrived, and the results. Pure, bounded."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple

from fanout.protocol.frame import AnswerStatus, Cut
from fanout.protocol.sequence import Arrival, Sequence

WINDOW = 4096
"""Numbers below the highest for which a sender's record knows whether they arrived."""
SENDERS_MAX = 1024
"""Senders of which a record is kept; a new one replaces the one idle for longest."""
RESULTS_MAX = 16_384
"""Messages of all senders together whose result is kept."""
REPLIES_MAX = 16 * 1024 * 1024
"""Bytes of replies kept so that lost parts can be sent again; the newest is kept, however large."""
JUMP_MAX = 2**32
"""Maximum gap that counts as missing: after a larger jump a stream begins anew."""
REASON_MAX = 300
"""Bytes of a failure's reason that are kept for repeated questions."""
_REPLY_OVERHEAD = 500

Key = tuple[int, int]
"""Identifies a message: sender and number."""


class Order:
    """The gaps before the numbered messages of one sender, at one point that they pass in some order.

    The first number begins it. A jump ahead of more than `JUMP_MAX` begins it anew, with no gap.
    """

    __slots__ = ("first", "next")

    def __init__(self) -> None:
        self.first: int = 0
        """The lowest number met; 0 before the first."""
        self.next: int = 0
        """One more than the highest number met; 0 before the first."""

    def begin(self, number: int) -> None:
        """Expect this number first."""
        self.first = self.next = number

    def met(self, number: int, count: int) -> list[tuple[int, int]]:
        """Record `count` consecutive numbers; return the index and the gap of those that do not follow the last.

        The gap is how many are missing directly before it, or -1 for a late one, which was counted as missing.
        """
        if number == self.next:
            self.next = number + count
            return []
        if number > self.next:
            gap = self._missing_before(number)
            self.next = number + count
            return [(0, gap)] if gap else []
        return [(index, gap) for index in range(count) if (gap := self._met_behind(number + index))]

    def _missing_before(self, number: int) -> int:
        gap = number - self.next
        if self.next and gap <= JUMP_MAX:
            return gap
        self.first = number
        return 0

    def _met_behind(self, number: int) -> int:
        if number == self.next:
            self.next = number + 1
            return 0
        missing = self.first - number
        if missing <= 0:
            return -1
        if missing > JUMP_MAX:
            return 0
        self.first = number
        return missing - 1

    def marked(self, number: int, origin: int) -> int:
        """Record that the numbers from `origin` to `number` were sent; return how many more are missing."""
        missing = 0
        if not self.next:
            self.begin(origin)
        if number >= self.next:
            missing = self._missing_before(number + 1)
            self.next = number + 1
        if 0 < self.first - origin <= JUMP_MAX:
            missing += self.first - origin
            self.first = origin
        return missing


@dataclass(slots=True)
class Counts:
    """Counts of one sender, or of all; they only grow."""

    received: int = 0
    """Messages accepted."""
    skipped: int = 0
    """Numbers of a stream missing when a higher one arrived."""
    reordered: int = 0
    """Skipped numbers that arrived later."""
    duplicates: int = 0
    """Numbers of a stream that arrived again."""

    def add(self, other: Counts) -> None:
        """Add the counts of another sender."""
        self.received += other.received
        self.skipped += other.skipped
        self.reordered += other.reordered
        self.duplicates += other.duplicates


class Peer:
    """The record of one sender."""

    __slots__ = ("arrivals", "counts", "hand_over", "is_new", "sender", "sequence")

    def __init__(self, sender: int, number: int, is_new: bool) -> None:
        self.sender: int = sender
        self.sequence: Sequence = Sequence(WINDOW, number)
        self.counts: Counts = Counts()
        self.arrivals: Order = Order()
        self.hand_over: Order = Order()
        self.is_new: bool = is_new
        """Whether it cannot have been forgotten before."""

    def state(self, number: int) -> Arrival:
        """Return what the number would be if it arrived now."""
        sequence = self.sequence
        if number >= sequence.expected:
            return Arrival.NEW
        if number < sequence.expected - WINDOW:
            return Arrival.STALE
        return Arrival.DUPLICATE if sequence.seen[number % WINDOW] else Arrival.LATE


class SenderCounts(NamedTuple):
    """Counts of one sender of frames."""

    sender: str
    """Its identity, a random number drawn when it started, as 16 hexadecimal digits."""
    sealed: bool
    received: int
    skipped: int
    reordered: int
    duplicates: int


class HandlingResult(NamedTuple):
    """The result of handling a message."""

    status: AnswerStatus
    detail: bytes = b""
    reply: Kept | None = None

    @classmethod
    def failed(cls, reason: str) -> HandlingResult:
        """Return the result of a failed handler."""
        return cls(AnswerStatus.FAILED, reason.encode("utf-8", "replace")[:REASON_MAX])

    @classmethod
    def replied(cls, payload: bytes) -> HandlingResult:
        """Return the result of a query that was replied to."""
        return cls(AnswerStatus.CONFIRMED, reply=Kept(payload))


CONFIRMED = HandlingResult(AnswerStatus.CONFIRMED)
_GONE = HandlingResult(AnswerStatus.FAILED, b"its reply was dropped to keep newer ones")


class Kept:
    """A reply that can be sent again, whole or in parts."""

    __slots__ = ("attempt", "cut", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload: bytes = payload
        self.cut: Cut | None = None
        """The cut made when it was first sent."""
        self.attempt: int = 0


class DedupTable:
    """The records of at most `senders` senders, and the results of recent messages.

    Sealed and plain frames have one table each, so that strangers cannot fill that of sealed ones.
    """

    def __init__(self, is_sealed: bool = False, senders: int = SENDERS_MAX) -> None:
        self.is_sealed = is_sealed
        self.pending: dict[Key, Any] = {}
        """The messages accepted and not settled."""
        self._senders = senders
        self._peers: dict[int, Peer] = {}
        self._latest: Peer | None = None
        self._has_forgotten = False
        self._forgotten = Counts()
        """The counts of the senders whose record was replaced."""
        self.results: dict[Key, HandlingResult] = {}
        """Those of the messages settled last, at most `RESULTS_MAX`."""
        self._replies: dict[Key, Kept] = {}
        self._reply_bytes = 0
        self._released: dict[Key, None] = {}

    def peer(self, sender: int, number: int) -> Peer:
        """Return the record of a sender; a new one starts at `number`."""
        latest = self._latest
        if latest is not None and latest.sender == sender:
            return latest
        peer = self._peers.pop(sender, None)
        if peer is None:
            if len(self._peers) >= self._senders:
                self._forgotten.add(self._peers.pop(next(iter(self._peers))).counts)
                self._has_forgotten = True
            peer = Peer(sender, number, not self._has_forgotten)
        # At the end of the dictionary: it is replaced last.
        self._peers[sender] = self._latest = peer
        return peer

    def arrived(self, peer: Peer, number: int, numbered: bool) -> None:
        """Record a message that is new, or late."""
        peer.sequence.arrived(number)
        key = (peer.sender, number)
        if key in self._released:
            del self._released[key]
            return  # it was counted before; the queue was full then
        peer.counts.received += 1
        if numbered:
            self._met(peer, number, 1)

    def run_arrived(self, peer: Peer, number: int, count: int) -> None:
        """Record consecutive numbered messages, the first of which is not below the expected one."""
        if number > peer.sequence.expected:
            peer.sequence.skip(number - peer.sequence.expected)
        peer.sequence.run_arrived(count)
        peer.counts.received += count
        self._met(peer, number, count)

    def _met(self, peer: Peer, number: int, count: int) -> None:
        if not peer.hand_over.next:
            peer.hand_over.begin(number)
        first = peer.arrivals.first
        for _, gap in peer.arrivals.met(number, count):
            if gap > 0:
                peer.counts.skipped += gap
            else:
                peer.counts.reordered += 1
        if 0 < peer.arrivals.first < first:
            # Below all that arrived before: it was missing, but not counted.
            peer.counts.skipped += 1
            peer.counts.reordered += 1

    @property
    def totals(self) -> Counts:
        """The counts of all senders together."""
        totals = replace(self._forgotten)
        for peer in self._peers.values():
            totals.add(peer.counts)
        return totals

    def marked(self, peer: Peer, number: int, origin: int) -> None:
        """Record how far a stream has come; and where it began, unless its sender may have been forgotten."""
        sequence = peer.sequence
        if not peer.is_new:
            origin = max(origin, peer.arrivals.first or number + 1)
        if number >= sequence.expected:
            sequence.skip(number + 1 - sequence.expected)
        peer.counts.skipped += peer.arrivals.marked(number, origin)

    def settle(self, key: Key, result: HandlingResult) -> None:
        """Record the result of a message."""
        self.pending.pop(key, None)
        if len(self.results) >= RESULTS_MAX:
            oldest = next(iter(self.results))
            del self.results[oldest]
            self._forget_reply(oldest)
        self.results[key] = result
        if result.reply is not None:
            self._replies[key] = result.reply
            self._reply_bytes += len(result.reply.payload) + _REPLY_OVERHEAD
            while self._reply_bytes > REPLIES_MAX and len(self._replies) > 1:
                oldest = next(iter(self._replies))
                self._forget_reply(oldest)
                self.results[oldest] = _GONE

    def _forget_reply(self, key: Key) -> None:
        kept = self._replies.pop(key, None)
        if kept is not None:
            self._reply_bytes -= len(kept.payload) + _REPLY_OVERHEAD

    def release(self, key: Key) -> None:
        """Forget that a message arrived: the queue was full, and it may be sent again."""
        self.pending.pop(key, None)
        sender, number = key
        peer = self._peers.get(sender)
        if peer is not None and peer.state(number) is Arrival.DUPLICATE:
            peer.sequence.seen[number % WINDOW] = 0
            if len(self._released) >= WINDOW:
                del self._released[next(iter(self._released))]
            self._released[key] = None

    def senders(self) -> list[SenderCounts]:
        """Return the counts of each known sender, the most recent last."""
        return [
            SenderCounts(f"{sender:016x}", self.is_sealed, *astuple(peer.counts))
            for sender, peer in self._peers.items()
        ]
