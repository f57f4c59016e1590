"""The receiver's side of frames: what to hand over, and what to answer. Pure, bounded."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

from fanout.protocol import frame
from fanout.protocol.drop_reasons import ReceiveDrop
from fanout.protocol.frame import (
    ANSWER_OVERHEAD,
    ASK,
    HEADER,
    MAGIC,
    NUMBER_LIMIT,
    NUMBERED,
    QUERY,
    SEALED,
    SENDER_AT,
    VERSION,
    AnswerStatus,
    Fragment,
    FrameKind,
    InvalidFrame,
    Mark,
    Pull,
    Sealed,
)
from fanout.protocol.receiving.dedup import CONFIRMED, DedupTable, HandlingResult, Kept, Peer, SenderCounts
from fanout.protocol.receiving.reassembly import Reassembly
from fanout.protocol.receiving.replies import Answering
from fanout.protocol.receiving.run import (
    Parcel,
    Taken,
    Ticket,
    Track,
    all_begin_alike,
    in_a_row,
    is_in_a_row,
    outer_numbers,
)
from fanout.protocol.seal import Keyring, Opener, Sealer
from fanout.protocol.sequence import Arrival

__all__ = ["Parcel", "Reception", "Taken", "Ticket", "Track"]

_HEADER_SIZE = HEADER.size
_SENDER_AND_NUMBER = struct.Struct(f"!{SENDER_AT}xQQ")
_NUMBERED_START = MAGIC + bytes((VERSION, FrameKind.NUMBERED))
_KIND_AT = 7
REASON_MAX = 300
"""Bytes of a failure's reason that are kept for those who ask again."""
_NO_KEY = "it is sealed, and this receiver has no key"
_NO_PLAIN = "it is not sealed, and this receiver has keys"


class Reception:
    """Takes what arrives at a receiver; one thread at a time.

    `take` returns the messages to hand over and what to answer at once. A message in a frame that may be asked for
    has a ticket, to be settled when its handler has returned (`confirmed`, `failed`, `replied`: each returns what to
    send), or to be given back (`release`) where the queue had no room for it. Each message is handed over once,
    however often it comes. Nobody gets an answer who did not ask, nor one that is larger than the question, but for
    replies to sealed questions, and to all where `reply_to_anyone`.

    `now` is in seconds on a clock that does not go back, `epoch` in seconds since the epoch.
    """

    def __init__(
        self,
        identity: int,
        *,
        keyring: Keyring | None = None,
        cluster: str = "",
        counter: int = 0,
        accept_plaintext: bool = False,
        reply_to_anyone: bool = False,
    ) -> None:
        self._answering = Answering(identity, reply_to_anyone)
        self.drops: Counter[ReceiveDrop] = Counter()
        self.confirmations = self.failures = 0
        self.takes_plaintext = keyring is None or accept_plaintext
        """Whether what is not sealed is taken at all."""
        self._opener = self._sealer = None
        if keyring is not None:
            self._opener = Opener(keyring, cluster)
            self._sealer = Sealer(keyring, cluster, identity, counter)
        self._cluster = cluster
        # Of those who do not seal, and of those who do: no stranger makes the receiver forget what was sealed.
        self._ledgers = (DedupTable(False), DedupTable(True))
        self._reassemblies = (Reassembly(), Reassembly())

    def rename(self, identity: int, counter: int) -> None:
        """Answer under another identity from now on."""
        self._answering.identity = identity
        if self._opener is not None:
            self._sealer = Sealer(self._opener.keyring, self._cluster, identity, counter)

    @property
    def counts(self) -> Counter[ReceiveDrop]:
        """What was not handed over, by reason."""
        return self.drops + Counter({ReceiveDrop.INCOMPLETE: sum(each.given_up for each in self._reassemblies)})

    @property
    def replies(self) -> int:
        """Replies that were sent, once or more often."""
        return self._answering.replies

    @property
    def skipped(self) -> int:
        """Messages of numbered streams that had not come when a later one did."""
        return sum(ledger.totals.skipped for ledger in self._ledgers)

    @property
    def reordered(self) -> int:
        """Those of them that came all the same, late."""
        return sum(ledger.totals.reordered for ledger in self._ledgers)

    @property
    def duplicates(self) -> int:
        """Messages of numbered streams that came again."""
        return sum(ledger.totals.duplicates for ledger in self._ledgers)

    @property
    def has_pending(self) -> bool:
        """Whether messages that were taken are not settled."""
        return any(ledger.pending for ledger in self._ledgers)

    def senders(self) -> list[SenderCounts]:
        """Return what came of each sender of frames."""
        return [known for ledger in self._ledgers for known in ledger.senders()]

    def use(self, keyring: Keyring) -> None:
        """Use these keys from now on."""
        if self._opener is not None and self._sealer is not None and self._opener.keyring is not keyring:
            self._opener.keyring = keyring
            self._sealer.keyring = keyring

    def give_up(self, now: float) -> None:
        """Forget the messages that will not become whole."""
        for each in self._reassemblies:
            each.expire(now)

    # What arrives.

    def take(self, data: bytes, segment: int, count: int, route: Any, now: float, epoch: float) -> Taken:
        """Take `count` datagrams of one source, each `segment` bytes (the last may have fewer)."""
        taken = Taken()
        if self.takes_plaintext and self._take_stream(data, segment, count, False, taken):
            return taken
        if self._take_sealed_run(data, segment, count, route, now, epoch, taken):
            return taken
        plain: list[bytes] = []
        for index in range(count):
            datagram = data[index * segment : (index + 1) * segment]
            if not datagram.startswith(MAGIC):
                plain.append(datagram)
                continue
            if plain:
                self._take_plain(plain, taken)
            if len(datagram) > _KIND_AT and datagram[_KIND_AT] & SEALED:
                self._take_sealed(datagram, route, now, epoch, taken)
            elif self.takes_plaintext:
                self._take_frame(datagram, False, route, now, epoch, taken)
            else:
                self._drop(ReceiveDrop.UNSEALED, _NO_PLAIN, taken)
        if plain:
            self._take_plain(plain, taken)
        return taken

    def _take_plain(self, datagrams: list[bytes], taken: Taken) -> None:
        """Take plain datagrams in a row."""
        if self.takes_plaintext:
            # Only the last datagram of a run may be shorter than the others: that holds for a part of it, too.
            taken.parcels.append(Parcel(b"".join(datagrams), len(datagrams[0]), len(datagrams)))
        else:
            self._drop(ReceiveDrop.UNSEALED, _NO_PLAIN, taken, len(datagrams))
        datagrams.clear()

    def _take_sealed(self, datagram: bytes, route: Any, now: float, epoch: float, taken: Taken) -> None:
        """Take one sealed frame."""
        try:
            found = frame.decode(datagram)
            if self._opener is None or not isinstance(found, Sealed):
                raise InvalidFrame(ReceiveDrop.NO_KEY, _NO_KEY)
            inner = self._opener.open(found, epoch)
        except InvalidFrame as refused:
            self._drop(refused.reason, str(refused), taken)
        else:
            self._take_frame(inner, True, route, now, epoch, taken)

    def _take_sealed_run(
        self, data: bytes, segment: int, count: int, route: Any, now: float, epoch: float, taken: Taken
    ) -> bool:
        """Take sealed frames of one sender; False where they are not all such, or not in order."""
        opened = None if self._opener is None else self._opener.open_run(data, segment, count)
        if opened is None:
            return False
        if opened.is_stream:
            first, size = opened.numbers[0], len(opened.bodies[0])
            in_a_row = opened.numbers == tuple(range(first, first + count))
            if in_a_row and (track := self._go_on(opened.sender, first, count, True)):
                taken.parcels.append(Parcel(b"", size, count, 0, track, None, opened.bodies))
                return True
            joined = b"".join(opened.bodies)
            if self._take_numbers(opened.sender, opened.numbers, joined, size, 0, True, taken):
                return True
        for each in opened.frames():
            self._take_frame(each, True, route, now, epoch, taken)
        return True

    def _take_stream(self, data: bytes, segment: int, count: int, is_sealed: bool, taken: Taken) -> bool:
        """Take numbered messages of one sender; False where they are not all such."""
        if not data.startswith(_NUMBERED_START) or min(segment, len(data) - (count - 1) * segment) < _HEADER_SIZE:
            return False
        sender, first = _SENDER_AND_NUMBER.unpack_from(data)
        in_a_row = count == 1 or is_in_a_row(data, segment, count)
        if in_a_row and (track := self._go_on(sender, first, count, is_sealed)):
            taken.parcels.append(Parcel(data, segment, count, _HEADER_SIZE, track))
            return True
        if not all_begin_alike(data, segment, count):
            return False
        numbers = outer_numbers(segment, count).unpack_from(data)
        return self._take_numbers(sender, numbers, data, segment, _HEADER_SIZE, is_sealed, taken)

    def _go_on(self, sender: int, first: int, count: int, is_sealed: bool) -> Track | None:
        """Take note of numbers in a row above all that came; None, and nothing is noted, where they are none such."""
        if not 1 <= first < NUMBER_LIMIT - count:
            return None
        ledger = self._ledgers[is_sealed]
        peer = ledger.peer(sender, first)
        if first < peer.sequence.expected:
            return None
        ledger.run_arrived(peer, first, count)
        return Track(peer.hand_over, first)

    def _take_numbers(
        self,
        sender: int,
        numbers: tuple[int, ...],
        data: bytes,
        segment: int,
        header: int,
        is_sealed: bool,
        taken: Taken,
    ) -> bool:
        """Take messages that have these numbers, `header` bytes into each; False where one can be none."""
        count, first = len(numbers), numbers[0]
        if numbers == tuple(range(first, first + count)) and 1 <= first < NUMBER_LIMIT - count:
            cuts = [(0, count)]
        elif all(1 <= number < NUMBER_LIMIT for number in numbers):
            cuts = in_a_row(numbers)
        else:
            return False
        ledger = self._ledgers[is_sealed]
        for start, stop in cuts:
            number = numbers[start]
            peer = ledger.peer(sender, number)
            if number >= peer.sequence.expected:
                ledger.run_arrived(peer, number, stop - start)
                part = data if stop - start == count else data[start * segment : stop * segment]
                track = Track(peer.hand_over, number)
                taken.parcels.append(Parcel(part, min(segment, len(part)), stop - start, header, track))
                continue
            for index in range(start, stop):
                if self._is_fresh(ledger, peer, numbers[index], True, taken):
                    ledger.arrived(peer, numbers[index], True)
                    part = data[index * segment : (index + 1) * segment]
                    track = Track(peer.hand_over, numbers[index])
                    taken.parcels.append(Parcel(part, len(part), 1, header, track))
        return True

    def _is_fresh(self, ledger: DedupTable, peer: Peer, number: int, numbered: bool, taken: Taken) -> bool:
        """Whether a message did not come before; it is counted where it did, or may have."""
        state = peer.state(number)
        if state is Arrival.STALE:
            self._drop(ReceiveDrop.TOO_OLD, f"number {number} is far behind", taken)
        elif state is Arrival.DUPLICATE:
            self.drops[ReceiveDrop.DUPLICATE] += 1
            if numbered:
                ledger.duplicated(peer)
        else:
            return True
        return False

    def _take_frame(self, datagram: bytes, is_sealed: bool, route: Any, now: float, epoch: float, taken: Taken) -> None:
        """Take one frame that was not sealed, or that was opened."""
        if self._take_stream(datagram, len(datagram), 1, is_sealed, taken):
            return
        try:
            decoded = frame.decode(datagram)
        except InvalidFrame as refused:
            self._drop(refused.reason, str(refused), taken)
            return
        answers: list[bytes] = []
        if isinstance(decoded, Fragment):
            answers = self._take_fragment(decoded, len(datagram), is_sealed, route, now, taken)
        elif isinstance(decoded, Mark):
            ledger = self._ledgers[is_sealed]
            ledger.marked(ledger.peer(decoded.sender, decoded.number), *decoded[1:])
        elif isinstance(decoded, Pull) and (is_sealed or self._answering.reply_to_anyone):
            answers = self._pulled(decoded, is_sealed, taken)
        else:
            self._drop(ReceiveDrop.UNEXPECTED, f"nobody asked for this {type(decoded).__name__.lower()}", taken)
        taken.answers += self._sealed(answers, is_sealed, epoch)

    def _take_fragment(
        self, fragment: Fragment, room: int, is_sealed: bool, route: Any, now: float, taken: Taken
    ) -> list[bytes]:
        """Take a part of a message, or all of it; return what to answer."""
        ledger, reassembly = self._ledgers[is_sealed], self._reassemblies[is_sealed]
        key = (fragment.sender, fragment.number)
        asks = bool(fragment.flags & ASK)
        ticket: Ticket | None = ledger.pending.get(key)
        if ticket is not None:
            self.drops[ReceiveDrop.DUPLICATE] += 1
            ticket.asked |= asks
            return [self._answering.answer(fragment, room, AnswerStatus.PENDING)] if asks else []
        result = ledger.result(key)
        if result is not None:
            self.drops[ReceiveDrop.DUPLICATE] += 1
            return self._answering.tell(result, fragment, is_sealed, room) if asks else []
        peer = ledger.peer(fragment.sender, fragment.number)
        numbered = bool(fragment.flags & NUMBERED)
        # What has begun to come was certainly not handed over before, however late the rest is.
        if key not in reassembly and not self._is_fresh(ledger, peer, fragment.number, numbered, taken):
            why = b"it came so late, or so often, that nobody knows any more whether it was handed over"
            return [self._answering.answer(fragment, room, AnswerStatus.REFUSED, why)] if asks else []
        if ledger.is_full:
            # No answer: it is asked again, later and later.
            self._drop(ReceiveDrop.NO_ROOM, "too many messages wait for their handlers", taken)
            return []
        payload = fragment.payload
        asked = asks
        if fragment.parts > 1:
            partial = reassembly.find(key, fragment)
            if partial is None:
                self._drop(ReceiveDrop.MALFORMED, "its sizes are not those of the message's other fragments", taken)
                return []
            if not reassembly.take(key, partial, fragment, now):
                self._drop(ReceiveDrop.NO_ROOM, "other large messages are coming, and there is no room for it", taken)
            if partial.missing:
                if not asks:
                    return []
                first, present = partial.gaps(room - ANSWER_OVERHEAD)
                return [self._answering.answer(fragment, room, AnswerStatus.PARTIAL, present, first)]
            payload = partial.payload()
            asked = partial.is_asked
            reassembly.remove(key)
        ledger.arrived(peer, fragment.number, numbered)
        ticket = Ticket(fragment.sender, is_sealed, fragment.number, route)
        ticket.wants_reply = bool(fragment.flags & QUERY)
        ticket.asked = asked
        if asks:
            ticket.attempt, ticket.room = fragment.attempt, room
        ledger.expect(key, ticket)
        track = Track(peer.hand_over, fragment.number) if numbered else None
        taken.parcels.append(Parcel(payload, len(payload), 1, 0, track, ticket))
        return []

    def _drop(self, reason: ReceiveDrop, sentence: str, taken: Taken, count: int = 1) -> None:
        self.drops[reason] += count
        taken.refusals[reason] = sentence

    # What becomes of it.

    def confirmed(self, ticket: Ticket, epoch: float) -> list[bytes]:
        """Take note that the handler has returned; return what to send."""
        if ticket.is_open:
            self.confirmations += ticket.asked
            return self._settle(ticket, CONFIRMED, epoch)
        return []

    def failed(self, ticket: Ticket, reason: str, epoch: float) -> list[bytes]:
        """Take note that the handler failed; return what to send."""
        if not ticket.is_open:
            return []
        self.failures += ticket.asked
        return self._settle(
            ticket, HandlingResult(AnswerStatus.FAILED, reason.encode("utf-8", "replace")[:REASON_MAX]), epoch
        )

    def replied(self, ticket: Ticket, payload: bytes, epoch: float) -> list[bytes]:
        """Take note of the reply to a query; return what to send."""
        if not ticket.is_open:
            return []
        why_not = self._answering.why_no_reply(len(payload), ticket.is_sealed, ticket.room) if ticket.room else ""
        if why_not:
            ticket.problem = why_not
            return self.failed(ticket, why_not, epoch)
        return self._settle(ticket, HandlingResult(AnswerStatus.CONFIRMED, reply=Kept(payload)), epoch)

    def release(self, ticket: Ticket) -> None:
        """Take a message back that nobody will get: where it comes again, it is taken again."""
        if ticket.is_open:
            ticket.is_open = False
            self._ledgers[ticket.is_sealed].release(ticket.key)

    def _settle(self, ticket: Ticket, result: HandlingResult, epoch: float) -> list[bytes]:
        ticket.is_open = False
        self._ledgers[ticket.is_sealed].settle(ticket.key, result)
        if not ticket.room:
            return []
        return self._sealed(
            self._answering.tell(result, ticket, ticket.is_sealed, ticket.room), ticket.is_sealed, epoch
        )

    def _pulled(self, pull: Pull, is_sealed: bool, taken: Taken) -> list[bytes]:
        """Return the fragments of a reply that are asked for."""
        result = self._ledgers[is_sealed].result((pull.sender, pull.number))
        if result is None or result.reply is None:
            self._drop(ReceiveDrop.UNEXPECTED, "it asks for a reply that is not kept", taken)
            return []
        return self._answering.parts(result.reply, pull)

    def _sealed(self, answers: list[bytes], is_sealed: bool, epoch: float) -> list[bytes]:
        if is_sealed and self._sealer is not None and answers:
            return self._sealer.seal_many(answers, epoch)
        return answers
